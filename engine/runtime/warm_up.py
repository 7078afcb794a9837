"""Steps that no request asked for, over the first blocks of an empty KV cache."""

from engine.messages import Generate
from engine.params import SamplingParams
from engine.runtime.blocks import BLOCK_SIZE
from engine.runtime.detokenizer import Detokenizer
from engine.runtime.scheduler import Chunk
from engine.runtime.sequence import Sequence

_REQUEST = Generate("warm-up", SamplingParams(temperature=0.0), text="")


def prompt(tokens: int) -> list[Chunk]:
    """One sequence that reads a prompt of so many tokens."""
    return [_chunk(tokens, list(range(-(-tokens // BLOCK_SIZE))))]


def decodes(sequences: int) -> list[Chunk]:
    """So many sequences that each run one token."""
    return [_chunk(1, [block]) for block in range(sequences)]


def _chunk(tokens: int, blocks: list[int]) -> Chunk:
    sequence = Sequence(_REQUEST, [0] * tokens, Detokenizer(str))
    sequence.blocks = blocks
    return Chunk(sequence, 0, tokens, samples=True)
