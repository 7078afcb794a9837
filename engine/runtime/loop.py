"""The engine's loop: receive, admit, run, sample, emit."""

import logging
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass

from engine.messages import Accepted, Delta, Failed, FinishReason, RequestEvent, Step, TokenLogprob
from engine.runtime.runner import Embedded, RequestRefused, Runner, Sampled
from engine.runtime.scheduler import Chunk, Scheduler
from engine.runtime.sequence import Sequence
from engine.runtime.step_figures import FiguresGatherer

logger = logging.getLogger(__name__)

# So many failed steps in a row end the process, whose worker starts it again: a CUDA fault stays until then.
MAX_FAILED_STEPS = 3
# While something runs, the worker hears of it this often, whether there are events or not: silence means a hang.
BEAT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class AbortRequest:
    request_id: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End the loop; what still runs is cancelled."""


Inbound = Sequence | Failed | AbortRequest | Stop
Inbox = queue.SimpleQueue[Inbound]


class EngineLoop:
    """Runs until it is told to stop. Every sequence it takes ends in exactly one Finished or Failed."""

    def __init__(self, runner: Runner, scheduler: Scheduler, inbox: Inbox, send: Callable[[Step], None]) -> None:
        self._runner = runner
        self.scheduler = scheduler
        self._inbox = inbox
        self._send = send
        self._events: list[RequestEvent] = []
        self._stopping = False
        self._failed_steps = 0
        self._sent_at = 0.0
        self._figures = FiguresGatherer()

    def run(self) -> None:
        while not self._stopping:
            self.step()

    def step(self) -> None:
        """Receive, admit, run, sample, emit; waits for a message if there is nothing to run."""
        self._receive()
        chunks = self.scheduler.schedule(time.perf_counter())
        if chunks:
            self._run(chunks)
        self._emit()

    def _receive(self) -> None:
        """Take all that has come in; wait for something if there is nothing else to do."""
        wait = self.scheduler.idle and not self._events
        while True:
            try:
                message = self._inbox.get(block=wait)
            except queue.Empty:
                return
            wait = False
            match message:
                case Sequence():
                    self._accept(message)
                case AbortRequest():
                    sequence = self.scheduler.find(message.request_id)
                    if sequence is not None:
                        self._finish(sequence, "cancelled", "", time.perf_counter())
                case Failed():
                    self._events.append(message)
                case Stop():
                    self._cancel_all()
                    self._stopping = True
                    return

    def _accept(self, sequence: Sequence) -> None:
        self.scheduler.add(sequence)
        self._events.append(Accepted(sequence.request_id, sequence.prompt_length))

    def _run(self, chunks: list[Chunk]) -> None:
        try:
            outcomes = self._runner.step(chunks)
        except Exception:  # one step's failure must not end the engine, but a device that has failed for good must
            logger.exception("a step of %d sequences failed", len(chunks))
            self._failed_steps += 1
            if self._failed_steps >= MAX_FAILED_STEPS:
                raise
            for chunk in chunks:
                self._fail(chunk.sequence, RequestRefused("INFERENCE_FAILED", "the model failed to run this request"))
            return
        self._failed_steps = 0
        self.scheduler.complete(chunks)
        now = time.perf_counter()
        self._figures.batch(len(chunks))
        for chunk, outcome in zip(chunks, outcomes, strict=True):
            if isinstance(outcome, RequestRefused):
                self._fail(chunk.sequence, outcome)
            elif isinstance(outcome, Embedded):
                self._finish_embedding(chunk.sequence, outcome, now)
            elif outcome is not None:
                try:
                    self._take_token(chunk.sequence, outcome, now)
                except RequestRefused as reason:
                    self._fail(chunk.sequence, reason)
                except Exception:  # a token that breaks the tokenizer fails its own request
                    logger.exception("request %s: a token can't be decoded", chunk.sequence.request_id)
                    self._fail(chunk.sequence, RequestRefused("INFERENCE_FAILED", "a token could not be decoded"))

    def _take_token(self, sequence: Sequence, outcome: int | Sampled, now: float) -> None:
        params = sequence.params
        token = outcome.token if isinstance(outcome, Sampled) else outcome
        if sequence.last_token is not None:
            self._figures.gap(now - sequence.last_token)
        sequence.append(token, now)
        ended = token in self._runner.tokenizer.eos_tokens and not params.ignore_eos
        text = "" if ended else sequence.detokenizer.add(token)
        if isinstance(outcome, Sampled) and not ended and sequence.logprobs is not None:
            sequence.logprobs.add(self._described(outcome))
        if sequence.constraint is not None:
            ended = sequence.constraint.take(token) or ended
        if sequence.detokenizer.stopped or ended:
            self._finish(sequence, "stop", text, now)
        elif sequence.completion_length >= params.max_tokens:
            self._finish(sequence, "length", text, now)
        elif text and sequence.request.stream:
            logprobs = () if sequence.logprobs is None else sequence.logprobs.release(text)
            self._events.append(Delta(sequence.request_id, text, sequence.completion_length, logprobs))

    def _described(self, sampled: Sampled) -> TokenLogprob:
        name = self._runner.tokenizer.token_bytes
        top = tuple((name(token), logprob) for token, logprob in sampled.top)
        return TokenLogprob(name(sampled.token), sampled.logprob, top)

    def _finish(self, sequence: Sequence, reason: FinishReason, text: str, now: float) -> None:
        rest = sequence.detokenizer.flush()
        if sequence.detokenizer.stopped and reason == "length":
            reason = "stop"
        self.scheduler.finish(sequence)
        self._events.append(sequence.finish(reason, text + rest, now))

    def _finish_embedding(self, sequence: Sequence, outcome: Embedded, now: float) -> None:
        sequence.first_token = sequence.last_token = now
        self.scheduler.finish(sequence)
        self._events.append(sequence.finish("stop", "", now, outcome.vector))

    def _fail(self, sequence: Sequence, reason: RequestRefused) -> None:
        self.scheduler.finish(sequence)
        self._events.append(Failed(sequence.request_id, reason.code, reason.message, reason.details))

    def _cancel_all(self) -> None:
        for sequence in [*self.scheduler.running, *self.scheduler.waiting]:
            self._finish(sequence, "cancelled", "", time.perf_counter())
        self._emit()

    def _emit(self) -> None:
        now = time.perf_counter()
        if not self._events and (self.scheduler.idle or now - self._sent_at < BEAT_SECONDS):
            return
        self._sent_at = now
        events, self._events = tuple(self._events), []
        scheduler = self.scheduler
        figures = self._figures.take(now, idle=scheduler.idle)
        self._send(Step(events, len(scheduler.running), len(scheduler.waiting), scheduler.pool.used_share, figures))
