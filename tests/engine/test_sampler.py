"""Sampling: every row by its own parameters, distributions as they should be."""

import math
from collections import Counter

import pytest
import torch

from engine.messages import Generate
from engine.params import InvalidParameter, SamplingParams
from engine.runtime.detokenizer import Detokenizer
from engine.runtime.runner import RequestRefused
from engine.runtime.sampler import sample
from engine.runtime.sequence import Sequence

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, -5.0])


def _sequence(tokens: list[int] | None = None, **params: object) -> Sequence:
    given = SamplingParams(**params).validate()  # type: ignore[arg-type]
    return Sequence(Generate("r", given, text=""), tokens or [0], Detokenizer(str))


def _frequencies(count: int = 4000, **params: object) -> dict[int, float]:
    sequences = [_sequence(seed=seed, **params) for seed in range(count)]
    found = Counter(sample(LOGITS.repeat(count, 1), sequences))
    return {int(token): number / count for token, number in found.items()}  # type: ignore[call-overload]


def _softmax(values: list[float]) -> list[float]:
    total = sum(map(math.exp, values))
    return [math.exp(value) / total for value in values]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature_shapes_the_distribution(temperature: float) -> None:
    expected = _softmax([value / temperature for value in LOGITS.tolist()])
    found = _frequencies(temperature=temperature)
    assert all(abs(found.get(token, 0) - share) < 0.03 for token, share in enumerate(expected))


def test_top_k_keeps_the_likeliest() -> None:
    assert set(_frequencies(top_k=2)) == {0, 1}


def test_top_p_keeps_the_smallest_set_with_that_mass() -> None:
    first, second, *_ = _softmax(LOGITS.tolist())
    assert set(_frequencies(top_p=first - 0.01)) == {0}
    assert set(_frequencies(top_p=first + second - 0.01)) == {0, 1}


def test_min_p_drops_what_is_much_less_likely_than_the_best() -> None:
    assert set(_frequencies(min_p=0.2)) == {0, 1}


def test_top_p_is_of_the_mass_that_top_k_leaves() -> None:
    first, second, third, *_ = _softmax(LOGITS.tolist())
    share = first / (first + second + third)
    assert set(_frequencies(top_k=3, top_p=share - 0.005)) == {0}
    assert set(_frequencies(top_k=3, top_p=share + 0.005)) == {0, 1}


def test_filters_combine() -> None:
    assert set(_frequencies(top_k=3, top_p=0.99, min_p=0.3)) == {0, 1}


def _after(prompt: list[int], completion: list[int], **params: object) -> Sequence:
    sequence = _sequence(prompt, temperature=0, **params)
    for token in completion:
        sequence.append(token, 0.0)
    return sequence


def test_presence_and_frequency_penalties_count_the_completion_alone() -> None:
    sequences = [
        _after([0, 0], [3], presence_penalty=2, frequency_penalty=2),  # 0 stands in the prompt: still 2.0
        _after([3], [0], presence_penalty=0.9),  # 1.1 against the 1.0 of the next
        _after([3], [0, 0], presence_penalty=0.9),
        _after([3], [0], presence_penalty=1.1),
        _after([3], [0], frequency_penalty=0.6),  # 1.4
        _after([3], [0, 0], frequency_penalty=0.6),  # 0.8
        _after([3], [2, 2, 2], frequency_penalty=-1),  # 3.0
    ]
    assert sample(LOGITS.repeat(len(sequences), 1), sequences) == [0, 0, 0, 1, 0, 1, 2]


def test_a_wide_nucleus_over_a_large_flat_vocabulary_reaches_every_token() -> None:
    count, vocabulary = 600, 3000
    sequences = [_sequence(seed=seed, top_p=0.999) for seed in range(count)]
    found = sample(torch.zeros(count, vocabulary), sequences)
    assert len(set(map(int, found))) > 400  # type: ignore[call-overload]


def test_a_seed_repeats_itself_whatever_else_is_in_the_batch() -> None:
    alone = [_sequence(seed=5, temperature=1.5) for _ in range(1)]
    first = [sample(LOGITS[None], alone)[0] for _ in range(20)]
    mine = _sequence(seed=5, temperature=1.5)
    others = [_sequence(temperature=0), _sequence(seed=1, top_p=0.5), _sequence(seed=2, min_p=0.1)]
    second = [sample(LOGITS.repeat(4, 1), [others[0], mine, *others[1:]])[1] for _ in range(20)]
    assert first == second
    assert len(set(first)) > 1


def test_greedy_and_sampled_rows_mix() -> None:
    rows = torch.stack([LOGITS, LOGITS.flip(0)])
    assert sample(rows, [_sequence(temperature=0), _sequence(temperature=0)]) == [0, 4]
    mixed = sample(rows, [_sequence(temperature=0), _sequence(top_k=1)])
    assert mixed == [0, 4]


def test_repetition_penalty_lowers_what_was_seen_whatever_its_sign() -> None:
    sequence = _sequence(tokens=[0, 0], temperature=0, repetition_penalty=3.0)
    assert sample(LOGITS[None], [sequence]) == [1]
    negative = torch.tensor([[-1.0, -2.0]])
    assert sample(negative, [_sequence(tokens=[0], temperature=0, repetition_penalty=3.0)]) == [1]
    assert LOGITS.tolist() == [2.0, 1.0, 0.0, -1.0, -5.0]


def test_scores_that_are_not_finite_fail_that_row_alone() -> None:
    rows = torch.stack([LOGITS, torch.full((5,), float("nan"))])
    good, bad = sample(rows, [_sequence(temperature=0), _sequence(temperature=1.0)])
    assert good == 0
    assert isinstance(bad, RequestRefused)
    assert bad.code == "INFERENCE_FAILED"


def test_a_bias_is_added_to_its_tokens_alone() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, 0.0]])
    banned, wanted, untouched = (
        Sequence(Generate("r", SamplingParams(temperature=0, logit_bias=bias).validate()), [0], Detokenizer(str))
        for bias in (((0, -100.0),), ((3, 5.0), (1, 1.5)), ())
    )

    assert sample(logits.repeat(3, 1), [banned, wanted, untouched]) == [1, 3, 0]


@pytest.mark.parametrize(
    "bias", [((0, 100.5),), ((-1, 1.0),), ((0, float("nan")),), tuple((n, 1.0) for n in range(1025))]
)
def test_a_bias_out_of_range_is_refused(bias: tuple[tuple[int, float], ...]) -> None:
    with pytest.raises(InvalidParameter) as caught:
        SamplingParams(logit_bias=bias).validate()
    assert caught.value.field == "logit_bias"
