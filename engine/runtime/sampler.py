"""The next token of each sequence, every one by its own parameters, in one batch.

Sampling inverts the cumulative distribution at one uniform number per token, drawn from the sequence's own generator:
a seeded completion is the same whatever else is in the batch.
"""

from collections import Counter

import numpy as np
import torch

from engine.runtime.runner import Outcome, RequestRefused, Sampled
from engine.runtime.sequence import Sequence

# Nucleus and top-k filters look at so many likeliest tokens; rows that need more, at the next number, then at all.
_CANDIDATES = (64, 1024)
# The largest uniform number: its product with a float32 total is below the total, whatever the rounding.
_BELOW_ONE = 1 - 2**-22
# No log probability is told lower than this, which JSON can hold.
_LEAST_LOGPROB = -9999.0


def sample(logits: torch.Tensor, sequences: list[Sequence]) -> list[Outcome]:
    """logits: [sequences, vocabulary]; returns a token for each, or why it has none."""
    own = logits
    logits, refused = _constrain(_penalise(logits, sequences), sequences)
    highest, likeliest = logits.max(-1)
    greedy = likeliest.tolist()
    broken = (~torch.isfinite(highest)).tolist()
    outcomes: list[Outcome] = list(greedy)
    drawn = [row for row, sequence in enumerate(sequences) if not sequence.params.is_greedy and not broken[row]]
    if drawn:
        for row, token in zip(drawn, _draw(logits[drawn], [sequences[row] for row in drawn]), strict=True):
            outcomes[row] = token
    for row, bad in enumerate(broken):
        if bad:
            outcomes[row] = RequestRefused("INFERENCE_FAILED", "the model gave no finite scores for this prompt")
    for row, reason in refused.items():
        outcomes[row] = reason
    _tell_logprobs(own, sequences, outcomes)
    return outcomes


def _constrain(logits: torch.Tensor, sequences: list[Sequence]) -> tuple[torch.Tensor, dict[int, RequestRefused]]:
    """Leave to a sequence that is held to a schema only the tokens that may come next; also, which rows can't be."""
    held = {row: sequence.constraint for row, sequence in enumerate(sequences) if sequence.constraint is not None}
    refused: dict[int, RequestRefused] = {}
    if not held:
        return logits, refused
    may_not_come = np.ones((len(held), logits.shape[1]), np.uint8)
    for place, (row, constraint) in enumerate(held.items()):
        try:
            bits = np.unpackbits(np.frombuffer(constraint.allowed(), np.uint8), bitorder="little")
        except RequestRefused as reason:
            refused[row] = reason
        else:
            count = min(len(bits), logits.shape[1])
            may_not_come[place, :count] -= bits[:count]
    logits = logits.float().clone()
    for row, banned in zip(held, torch.from_numpy(may_not_come).bool().to(logits.device), strict=True):
        logits[row].masked_fill_(banned, -torch.inf)
    return logits, refused


def _tell_logprobs(logits: torch.Tensor, sequences: list[Sequence], outcomes: list[Outcome]) -> None:
    """Put the log probabilities beside the tokens of the sequences that want them."""
    rows = [row for row, s in enumerate(sequences) if s.params.logprobs is not None and isinstance(outcomes[row], int)]
    if not rows:
        return
    scores = torch.log_softmax(logits[rows].float(), -1).clamp(min=_LEAST_LOGPROB)
    tokens = [token for row in rows if isinstance(token := outcomes[row], int)]
    chosen = scores.gather(1, torch.tensor(tokens, device=scores.device)[:, None])[:, 0].tolist()
    values, indices = torch.topk(scores, min(max(sequences[row].params.logprobs or 0 for row in rows), scores.shape[1]))
    likeliest = zip(indices.tolist(), values.tolist(), strict=True)
    for row, token, logprob, (names, numbers) in zip(rows, tokens, chosen, likeliest, strict=True):
        top = list(zip(names, numbers, strict=True))[: sequences[row].params.logprobs]
        outcomes[row] = Sampled(token, logprob, tuple(top))


def _penalise(logits: torch.Tensor, sequences: list[Sequence]) -> torch.Tensor:
    """Change scores as a sequence's parameters say: of tokens that it has already, and of those that they name."""
    penalised = [row for row, sequence in enumerate(sequences) if _is_penalised(sequence)]
    if not penalised:
        return logits
    logits = logits.float().clone()
    for row in penalised:
        sequence = sequences[row]
        params = sequence.params
        if params.repetition_penalty != 1:
            seen = torch.tensor(sorted(set(sequence.tokens)), device=logits.device)
            scores, penalty = logits[row, seen], params.repetition_penalty
            logits[row, seen] = torch.where(scores > 0, scores / penalty, scores * penalty)
        if params.presence_penalty or params.frequency_penalty:
            counts = Counter(sequence.completion)
            made = torch.tensor(list(counts), dtype=torch.long, device=logits.device)
            times = torch.tensor(list(counts.values()), dtype=logits.dtype, device=logits.device)
            logits[row, made] -= params.presence_penalty + params.frequency_penalty * times
        if params.logit_bias:
            tokens, biases = zip(*params.logit_bias, strict=True)
            logits[row, torch.tensor(tokens, device=logits.device)] += torch.tensor(biases, device=logits.device)
    return logits


def _is_penalised(sequence: Sequence) -> bool:
    params = sequence.params
    penalties = params.repetition_penalty != 1 or params.presence_penalty != 0 or params.frequency_penalty != 0
    return penalties or bool(params.logit_bias)


def _draw(logits: torch.Tensor, sequences: list[Sequence]) -> list[int]:
    device = logits.device
    temperature = torch.tensor([sequence.params.temperature for sequence in sequences], device=device)
    uniform = torch.tensor([min(s.random.random(), _BELOW_ONE) for s in sequences], device=device)
    probabilities = torch.softmax(logits.float() / temperature[:, None], -1)
    filtered = [row for row, sequence in enumerate(sequences) if _is_filtered(sequence)]
    if not filtered:
        return _invert(probabilities, uniform).tolist()
    tokens = torch.empty(len(sequences), dtype=torch.long, device=device)
    plain = sorted(set(range(len(sequences))) - set(filtered))
    if plain:
        tokens[plain] = _invert(probabilities[plain], uniform[plain])
    tokens[filtered] = _draw_filtered(probabilities[filtered], uniform[filtered], [sequences[row] for row in filtered])
    return tokens.tolist()


def _is_filtered(sequence: Sequence) -> bool:
    params = sequence.params
    return params.top_p < 1 or params.top_k > 0 or params.min_p > 0


def _draw_filtered(
    probabilities: torch.Tensor, uniform: torch.Tensor, sequences: list[Sequence], tier: int = 0
) -> torch.Tensor:
    """Keep the top_k likeliest, of them the smallest set with mass top_p (Holtzman et al. 2020), of them those with at
    least min_p of the likeliest's probability (Nguyen et al. 2024); the likeliest always stays."""
    device, vocabulary = probabilities.device, probabilities.shape[1]
    count = min(_CANDIDATES[tier], vocabulary) if tier < len(_CANDIDATES) else vocabulary
    top_k = torch.tensor([min(s.params.top_k or vocabulary, vocabulary) for s in sequences], device=device)
    top_p = torch.tensor([s.params.top_p for s in sequences], device=device)
    min_p = torch.tensor([s.params.min_p for s in sequences], device=device)
    if count < vocabulary:
        values, tokens = torch.topk(probabilities, count)
        mass = values.sum(-1)
        enough = (top_k <= count) | ((mass >= top_p) & (top_k == vocabulary)) | (values[:, -1] < min_p * values[:, 0])
    else:
        values, tokens = torch.sort(probabilities, descending=True)
        enough = torch.ones_like(top_k, dtype=torch.bool)
    rank = torch.arange(values.shape[1], device=device)
    values = values.masked_fill(rank >= top_k[:, None], 0)
    before = values.cumsum(-1) - values
    nucleus = top_p * torch.where(top_k < vocabulary, values.sum(-1), 1.0)  # of what top_k has left
    kept = (before < nucleus[:, None]) & (values >= min_p[:, None] * values[:, :1])
    kept[:, 0] = True
    drawn = tokens.gather(1, _invert(values.masked_fill(~kept, 0), uniform)[:, None])[:, 0]
    short = (~enough).nonzero()[:, 0]
    if len(short):
        rest = [sequences[row] for row in short.tolist()]
        drawn[short] = _draw_filtered(probabilities[short], uniform[short], rest, tier + 1)
    return drawn


def _invert(weights: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """The first index at which the cumulative weight exceeds `uniform` of the total; weights: [rows, n]."""
    cumulative = weights.cumsum(-1)
    return torch.searchsorted(cumulative, (uniform * cumulative[:, -1])[:, None], right=True)[:, 0]
