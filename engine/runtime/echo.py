"""The echo runner: gives the prompt back, token by token, at a set pace. For tests and for measuring the gateway."""

import os
import re
import time
from collections.abc import Sequence as Seq

from engine.messages import EngineConfig, Generate
from engine.runtime.blocks import BLOCK_SIZE
from engine.runtime.runner import ModelFacts, Outcome, PromptTokenizer, RequestRefused, Sampled
from engine.runtime.scheduler import Chunk
from engine.runtime.sequence import Constraint

_PIECE = re.compile(rb"\s*[^\s]{1,6}|\s+")
_MAX_PIECE_BYTES = 6
_FAIL = "[[fail]]"
_DIE = "[[die]]"
_VOCABULARY = 256 ** (_MAX_PIECE_BYTES + 1)
_CONTEXT_LENGTH = 8192


class EchoTokenizer:
    """Up to six bytes of UTF-8 make one token, so that tokens may end within a character, as real ones do.

    A conversation is its texts; tools are not told of, but a prompt that looks like a call is echoed as one.
    """

    eos_tokens: frozenset[int] = frozenset()
    has_chat_template = False

    def encode(self, request: Generate) -> list[int]:
        if request.tokens is not None:
            raise RequestRefused("INVALID_INPUT", "the echo runner takes no tokens", field="text")
        if request.embed:
            raise RequestRefused("INVALID_INPUT", "the echo runner makes no embeddings", field="model")
        texts = [turn.content for turn in request.messages or ()] or [request.text or ""]
        if request.system and not request.raw:
            texts.insert(0, request.system)
        data = " ".join(texts).encode()
        if not data:
            raise RequestRefused("INVALID_INPUT", "the prompt is empty", field="text")
        pieces = [
            piece[at : at + _MAX_PIECE_BYTES]
            for piece in _PIECE.findall(data)
            for at in range(0, len(piece), _MAX_PIECE_BYTES)
        ]
        return [int.from_bytes(b"\x01" + piece, "big") for piece in pieces]

    def decode(self, tokens: Seq[int]) -> str:
        return b"".join(map(self.token_bytes, tokens)).decode(errors="replace")

    def token_bytes(self, token: int) -> bytes:
        return token.to_bytes(8, "big").lstrip(b"\0")[1:]

    def constraint(self, schema: str) -> Constraint:
        raise RequestRefused("INVALID_INPUT", "the echo runner can't be held to a schema", field="response_format")


class EchoRunner:
    """Deterministic: token n of a completion is token n of the prompt, from the start again after its end.

    A prompt with `[[fail]]` fails at its first token; one with `[[die]]` ends the engine process there.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._delay = config.echo_delay
        self.tokenizer: PromptTokenizer = EchoTokenizer()
        context = min(config.context_length or _CONTEXT_LENGTH, _CONTEXT_LENGTH)
        self.facts = ModelFacts(
            backend="cpu",
            architecture="Echo",
            parameters=0,
            vocab_size=_VOCABULARY,
            context_length=context,
            quantization="none",
            memory_bytes=0,
            weight_bytes=0,
            kv_cache_bytes=0,
            kv_blocks=config.max_sequences * context // BLOCK_SIZE,
            devices=("cpu",),
        )

    def step(self, chunks: list[Chunk]) -> list[Outcome | None]:
        if self._delay:
            time.sleep(self._delay)
        return [self._next(chunk) if chunk.samples else None for chunk in chunks]

    def _next(self, chunk: Chunk) -> Outcome:
        sequence = chunk.sequence
        if sequence.completion_length == 0:
            prompt = self.tokenizer.decode(sequence.tokens[: sequence.prompt_length])
            if _DIE in prompt:
                os._exit(13)
            if _FAIL in prompt:
                return RequestRefused("INFERENCE_FAILED", "the prompt asked the echo runner to fail")
        token = sequence.tokens[sequence.completion_length % sequence.prompt_length]
        wanted = sequence.params.logprobs
        return token if wanted is None else Sampled(token, 0.0, ((token, 0.0),)[:wanted])  # it is certain of it
