"""Log probabilities: what the sampler tells, and with which text it is sent."""

import math

import torch

from engine.messages import Generate, TokenLogprob
from engine.params import SamplingParams
from engine.runtime.detokenizer import Detokenizer
from engine.runtime.logprobs import LogprobLog
from engine.runtime.runner import Sampled
from engine.runtime.sampler import sample
from engine.runtime.sequence import Sequence

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0])


def sequence(**params: object) -> Sequence:
    return Sequence(Generate("r", SamplingParams(**params).validate()), [0], Detokenizer(str))  # type: ignore[arg-type]


def test_they_are_the_models_own_whatever_the_sampling_does() -> None:
    total = math.log(sum(math.exp(value) for value in LOGITS.tolist()))
    plain, shaped, silent = sample(
        LOGITS.repeat(3, 1),
        [
            sequence(temperature=0, logprobs=2),
            sequence(temperature=2.0, top_k=1, repetition_penalty=9.0, logprobs=0, seed=1),
            sequence(temperature=0),
        ],
    )

    assert isinstance(plain, Sampled)
    assert plain.token == 0
    assert math.isclose(plain.logprob, 2 - total, abs_tol=1e-5)
    assert [token for token, _ in plain.top] == [0, 1]
    assert math.isclose(plain.top[1][1], 1 - total, abs_tol=1e-5)
    assert isinstance(shaped, Sampled)
    assert (shaped.token, shaped.top) == (1, ())
    assert math.isclose(shaped.logprob, 1 - total, abs_tol=1e-5)
    assert silent == 0


def test_they_can_be_told_in_json() -> None:
    (outcome,) = sample(torch.tensor([[0.0, -1e30]]), [sequence(temperature=0, logprobs=2)])

    assert isinstance(outcome, Sampled)
    assert outcome.top[1] == (1, -9999.0)


def test_an_entry_is_sent_with_the_text_that_its_token_begins_in() -> None:
    log = LogprobLog()
    first, second, third = (TokenLogprob(token, -1.0) for token in (b"\xe6\x97", b"\xa5x", b"y"))
    log.add(first)
    log.add(second)

    assert log.release("日") == (first, second)
    log.add(third)
    assert log.release("x") == ()
    assert log.release("y") == (third,)
    assert log.release_all() == ()
