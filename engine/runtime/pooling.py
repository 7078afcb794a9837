"""A prompt's embedding: the mean of the last hidden states of its tokens, at length 1."""

import numpy as np
import torch

from engine.runtime.runner import Embedded, Outcome, RequestRefused
from engine.runtime.scheduler import Chunk


def pool(hidden: torch.Tensor, chunks: list[Chunk]) -> dict[str, Outcome]:
    """Add a step's hidden states, [rows of embedding sequences, hidden], to their sequences' sums.

    Returns the embeddings, by request, of those whose prompts are whole now.
    """
    found: dict[str, Outcome] = {}
    first = 0
    for chunk in chunks:
        sequence = chunk.sequence
        if not sequence.embeds:
            continue
        total = hidden[first : first + chunk.count].float().sum(0).cpu().double()
        first += chunk.count
        if chunk.start and sequence.hidden_sum is not None:
            total = torch.from_numpy(sequence.hidden_sum) + total
        sequence.hidden_sum = total.numpy()
        if chunk.start + chunk.count == len(sequence.tokens):
            found[sequence.request_id] = _embedding(total / len(sequence.tokens))
    return found


def _embedding(mean: torch.Tensor) -> Outcome:
    length = torch.linalg.vector_norm(mean)
    if not torch.isfinite(length) or length == 0:
        return RequestRefused("INFERENCE_FAILED", "the model gave no finite hidden states for this prompt")
    return Embedded((mean / length).numpy().astype(np.dtype("<f4")).tobytes())
