"""One step's tokens, packed in a row, and where their keys and values go."""

from dataclasses import dataclass

import torch

from engine.runtime.blocks import BLOCK_SIZE
from engine.runtime.scheduler import Chunk


@dataclass(frozen=True, slots=True)
class Span:
    """A sequence's part of the batch: rows [row, row + count) hold its tokens [start, start + count)."""

    row: int
    count: int
    start: int
    blocks: list[int]


@dataclass(frozen=True, slots=True)
class StepBatch:
    """tokens, positions, slots: [rows], int64; a slot is block * BLOCK_SIZE + place. samples: the rows to sample from.

    pooled: the rows whose hidden states are wanted. `padded_rows` >= rows: how many rows the matrix products run on;
    the rest holds zeros and is ignored.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    samples: torch.Tensor
    pooled: torch.Tensor
    spans: list[Span]
    rows: int
    padded_rows: int

    def to(self, device: torch.device) -> "StepBatch":
        """The same batch for the layers of another device."""
        return StepBatch(
            tokens=self.tokens.to(device),
            positions=self.positions.to(device),
            slots=self.slots.to(device),
            samples=self.samples.to(device),
            pooled=self.pooled.to(device),
            spans=self.spans,
            rows=self.rows,
            padded_rows=self.padded_rows,
        )


@dataclass(frozen=True, slots=True)
class StepResult:
    """logits: of the rows to sample from, [samples, vocabulary]; hidden: the last hidden states of the rows to pool,
    [pooled, hidden]."""

    logits: torch.Tensor
    hidden: torch.Tensor


def padded(rows: int) -> int:
    """The next batch size up, of few different ones: each new size costs the CPU library some milliseconds once."""
    if rows <= 32:
        return rows
    step = 8 if rows <= 128 else 64
    return -(-rows // step) * step


def pack(chunks: list[Chunk], device: torch.device) -> StepBatch:
    """Lay the chunks one after the other."""
    tokens: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    samples: list[int] = []
    pooled: list[int] = []
    spans: list[Span] = []
    for chunk in chunks:
        sequence, start, end = chunk.sequence, chunk.start, chunk.start + chunk.count
        blocks = sequence.blocks[: -(-end // BLOCK_SIZE)]
        spans.append(Span(len(tokens), chunk.count, start, blocks))
        tokens += sequence.tokens[start:end]
        positions += range(start, end)
        slots += [blocks[at // BLOCK_SIZE] * BLOCK_SIZE + at % BLOCK_SIZE for at in range(start, end)]
        if chunk.samples:
            samples.append(len(tokens) - 1)
        if sequence.embeds:
            pooled += range(len(tokens) - chunk.count, len(tokens))
    rows = len(tokens)
    total = padded(rows)
    tokens += [0] * (total - rows)
    return StepBatch(
        tokens=torch.tensor(tokens, device=device),
        positions=torch.tensor(positions, device=device),
        slots=torch.tensor(slots, device=device),
        samples=torch.tensor(samples, dtype=torch.long, device=device),
        pooled=torch.tensor(pooled, dtype=torch.long, device=device),
        spans=spans,
        rows=rows,
        padded_rows=total,
    )
