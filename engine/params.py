"""Sampling parameters of one request, validated at the edge."""

import math
from collections.abc import Callable

import msgspec

MAX_STOP_STRINGS = 16
MAX_STOP_LENGTH = 256
MAX_LOGPROBS = 20
MAX_BIASES = 1024
MAX_SEED = 2**63 - 1


class InvalidParameter(ValueError):
    """A parameter is out of its range; `field` names it as the API spells it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.message = message


class SamplingParams(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the tokens of one completion are chosen and when it ends.

    temperature: 0 is greedy, else 0.01 to 2.0.
    top_p: nucleus mass in (0, 1]. top_k: 0 is off. min_p: share of the likeliest token's probability, in [0, 1].
    repetition_penalty: in [0.1, 10]; 1 is off; divides positive and multiplies negative logits of tokens seen in prompt
    or completion (Keskar et al. 2019, CTRL).
    presence_penalty, frequency_penalty: in [-2, 2]; 0 is off; taken from the logits of tokens of the completion so far,
    once for each such token, and once for each time that it was generated (OpenAI's definition).
    logit_bias: (token, -100 to 100) pairs; added to the logits of those tokens.
    logprobs: how many of the likeliest tokens to tell with each token, 0 to 20; None tells nothing.
    seed: makes a sampled completion repeatable. stop: strings that end the completion and are not part of it.
    """

    max_tokens: int = 100
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False

    def validate(self) -> "SamplingParams":
        """Return self, or raise InvalidParameter for the first value out of range."""
        _check("max_tokens", self.max_tokens, lambda v: v >= 1, "must be at least 1")
        _check(
            "temperature",
            self.temperature,
            lambda v: v == 0 or 0.01 <= v <= 2.0,
            "must be 0 (greedy) or between 0.01 and 2.0",
        )
        _check("top_p", self.top_p, lambda v: 0 < v <= 1, "must be above 0 and at most 1")
        _check("top_k", self.top_k, lambda v: 0 <= v <= 1_000_000, "must be between 0 (off) and 1000000")
        _check("min_p", self.min_p, lambda v: 0 <= v <= 1, "must be between 0 and 1")
        _check(
            "repetition_penalty",
            self.repetition_penalty,
            lambda v: 0.1 <= v <= 10,
            "must be between 0.1 and 10",
        )
        for name in ("presence_penalty", "frequency_penalty"):
            _check(name, getattr(self, name), lambda v: -2 <= v <= 2, "must be between -2 and 2")
        if len(self.logit_bias) > MAX_BIASES:
            raise InvalidParameter("logit_bias", f"may name at most {MAX_BIASES} tokens")
        for token, bias in self.logit_bias:
            _check("logit_bias", token, lambda v: v >= 0, "must name tokens by their numbers")
            _check("logit_bias", bias, lambda v: -100 <= v <= 100, "must be between -100 and 100")
        if self.logprobs is not None:
            _check("logprobs", self.logprobs, lambda v: 0 <= v <= MAX_LOGPROBS, f"must be between 0 and {MAX_LOGPROBS}")
        if self.seed is not None:
            _check("seed", self.seed, lambda v: 0 <= v <= MAX_SEED, f"must be between 0 and {MAX_SEED}")
        self._validate_stop()
        return self

    def _validate_stop(self) -> None:
        if len(self.stop) > MAX_STOP_STRINGS:
            raise InvalidParameter("stop", f"at most {MAX_STOP_STRINGS} stop strings are allowed")
        for text in self.stop:
            if not 1 <= len(text) <= MAX_STOP_LENGTH:
                raise InvalidParameter("stop", f"each stop string must have 1 to {MAX_STOP_LENGTH} characters")

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0


def _check(field: str, value: float, holds: Callable[[float], bool], message: str) -> None:
    if not math.isfinite(value) or not holds(value):
        raise InvalidParameter(field, message)
