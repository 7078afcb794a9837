"""Steps that no request asked for, over the first blocks of an empty KV cache."""

from engine.messages import Generate
from engine.params import SamplingParams
from engine.runtime.blocks import BLOCK_SIZE
from engine.runtime.detokenizer import Detokenizer
from engine.runtime.scheduler import Chunk
from engine.runtime.sequence import Sequence

_REQUEST = Generate("warm-up", SamplingParams(temperature=0.0), text="")


def reading(tokens: list[int], start: int = 0, count: int = 0) -> list[Chunk]:
    """One sequence that reads `count` of its tokens from `start` on; 0 for all."""
    return [_chunk(tokens, list(range(-(-len(tokens) // BLOCK_SIZE))), start, count or len(tokens))]


def decodes(sequences: int) -> list[Chunk]:
    """So many sequences that each run one token."""
    return [_chunk([0], [block], 0, 1) for block in range(sequences)]


def _chunk(tokens: list[int], blocks: list[int], start: int, count: int) -> Chunk:
    sequence = Sequence(_REQUEST, tokens, Detokenizer(str))
    sequence.blocks = blocks
    return Chunk(sequence, start, count, samples=True)
