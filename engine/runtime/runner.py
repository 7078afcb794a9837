"""What the loop needs of a model: text to tokens, tokens to text, and one step of many sequences at once."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Protocol

from engine.messages import Generate
from engine.runtime.scheduler import Chunk
from engine.runtime.sequence import Constraint


class RequestRefused(Exception):
    """This request can't be served; the others are none the worse. `code` is an error code of the API."""

    def __init__(self, code: str, message: str, **details: object) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details


class ModelLoadError(Exception):
    """The model can't be loaded. `code`: MODEL_LOAD_FAILED, INSUFFICIENT_MEMORY or BACKEND_UNAVAILABLE.

    `needed_bytes` and `free_bytes` are known when memory is what is missing.
    """

    def __init__(self, code: str, message: str, *, needed_bytes: int = 0, free_bytes: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes

    @classmethod
    def out_of_memory(cls, needed: int, free: int) -> "ModelLoadError":
        return cls(
            "INSUFFICIENT_MEMORY",
            f"the model needs {needed / 1e9:.2f} GB and {free / 1e9:.2f} GB are free for it",
            needed_bytes=needed,
            free_bytes=free,
        )


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a loaded model. Sizes in bytes; `memory_bytes` is all that the process takes on `devices`."""

    backend: str
    architecture: str
    parameters: int
    vocab_size: int
    context_length: int
    quantization: str
    memory_bytes: int
    weight_bytes: int
    kv_cache_bytes: int
    kv_blocks: int
    devices: tuple[str, ...]
    device_bytes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sampled:
    """A token with its log probability and those of the likeliest in its place."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Embedded:
    """A prompt's embedding: 32-bit floats, little-endian."""

    vector: bytes


Outcome = int | Sampled | Embedded | RequestRefused


class PromptTokenizer(Protocol):
    """Prompts to tokens and back."""

    eos_tokens: frozenset[int]
    has_chat_template: bool

    def encode(self, request: Generate) -> list[int]:
        """The prompt's tokens. Raises RequestRefused."""

    def decode(self, tokens: Seq[int]) -> str:
        """The text of tokens, special ones left out; incomplete characters as U+FFFD."""

    def token_bytes(self, token: int) -> bytes:
        """What a token stands for in the text: maybe a part of a character only."""

    def constraint(self, schema: str) -> Constraint:
        """What holds a completion to a JSON Schema. Takes a while. Raises RequestRefused."""


class Runner(Protocol):
    """A loaded model."""

    facts: ModelFacts
    tokenizer: PromptTokenizer

    def step(self, chunks: list[Chunk]) -> list[Outcome | None]:
        """Run all chunks in one pass; for each, its sampled token or its embedding, None if it isn't that far, or why
        it failed."""
