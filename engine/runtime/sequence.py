"""One request as the engine's loop sees it: its tokens, its place in the KV cache and its clock."""

import random
import time
from typing import Any, Protocol

from engine.messages import Finished, FinishReason, Generate, TokenLogprob
from engine.runtime.detokenizer import Detokenizer
from engine.runtime.logprobs import LogprobLog


class Constraint(Protocol):
    """What a completion is held to."""

    def allowed(self) -> bytes:
        """A bit for each token, lowest bit first: whether it may come next. Raises RequestRefused."""

    def take(self, token: int) -> bool:
        """Go on by a token; whether the text is whole now. Raises RequestRefused."""


class Sequence:
    """The tokens of a prompt and its completion, of which the first `computed` have their keys and values in the cache.

    Prefill, decode and the resumption after a preemption are the same to it: tokens[computed:] are still to be run, and
    when all have been, the next token is sampled.
    """

    def __init__(
        self,
        request: Generate,
        prompt: list[int],
        detokenizer: Detokenizer,
        constraint: Constraint | None = None,
    ) -> None:
        self.request = request
        self.request_id = request.request_id
        self.params = request.params
        self.priority = request.priority
        self.tokens = list(prompt)
        self.prompt_length = len(prompt)
        self.detokenizer = detokenizer
        self.constraint = constraint
        self.logprobs = None if request.params.logprobs is None else LogprobLog()
        self.random = random.Random(request.params.seed)  # noqa: S311  sampling, not secrets

        self.blocks: list[int] = []
        self.computed = 0
        self.committed_blocks = 0
        self.prefix_entry: int | str = request.cache_salt
        self.cached_tokens = 0
        self.hidden_sum: Any = None  # of the tokens that are computed, of a sequence that embeds

        self.arrived = time.perf_counter()
        self.started: float | None = None
        self.first_token: float | None = None
        self.last_token: float | None = None

    @property
    def completion(self) -> list[int]:
        return self.tokens[self.prompt_length :]

    @property
    def completion_length(self) -> int:
        return len(self.tokens) - self.prompt_length

    @property
    def remaining(self) -> int:
        """How many tokens are still to be run before the next one can be sampled."""
        return len(self.tokens) - self.computed

    @property
    def embeds(self) -> bool:
        """Whether it ends with its prompt: the hidden states are wanted, and no token."""
        return self.request.embed

    @property
    def decoding(self) -> bool:
        return self.first_token is not None and self.remaining == 1

    def append(self, token: int, now: float) -> None:
        self.tokens.append(token)
        if self.first_token is None:
            self.first_token = now
        self.last_token = now

    def finish(self, reason: FinishReason, delta: str, now: float, embedding: bytes = b"") -> Finished:
        """The one message that ends the request well."""
        started = self.started if self.started is not None else now
        first = self.first_token if self.first_token is not None else now
        last = self.last_token if self.last_token is not None else first
        return Finished(
            request_id=self.request_id,
            text=self.detokenizer.text,
            delta=delta,
            finish_reason=reason,
            prompt_tokens=self.prompt_length,
            completion_tokens=self.completion_length,
            cached_tokens=self.cached_tokens,
            queue_time=started - self.arrived,
            prefill_time=first - started,
            decode_time=last - first,
            logprobs=self._last_logprobs(delta),
            embedding=embedding,
        )

    def _last_logprobs(self, delta: str) -> tuple[TokenLogprob, ...]:
        if self.logprobs is None:
            return ()
        if not self.detokenizer.stopped:
            return self.logprobs.release_all()
        return self.logprobs.release(delta if self.request.stream else self.detokenizer.text)
