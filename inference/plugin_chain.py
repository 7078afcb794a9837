"""The plugins' place in the worker: before a request is handed to its engine, and before an answer is sent.

Answers that a plugin filters go through their job's own thread, so that a slow plugin delays that request alone. Where
all filters are quick (`PluginInfo.quick_filters`), the pieces of a stream are filtered on the engine's reader thread
instead, since waking another one costs more than they do; the end of an answer, which may be all of it, never is. Those
that none filters pass by: without plugins there is one look at an empty dict per engine step.
"""

import logging
import queue
import time
from collections.abc import Sequence
from dataclasses import astuple

import msgspec

from common.errors import ContentBlocked
from engine.messages import Accepted, ChatTurn, Delta, Failed, Finished, Generate, RequestEvent
from engine.params import InvalidParameter, SamplingParams
from inference.messages import Job
from inference.plugged_in import PluggedIn
from inference.replies import ReplySender
from inference.running import Running, RunningJob
from inference.token_bound import with_reservation_of
from plugins_app.chain import Chain, Output, PluginFailed, Run
from plugins_app.hookspecs import Blocked, Outcome, Prompt, Refused, Request, Turn
from plugins_app.manager import PluginManager

logger = logging.getLogger(__name__)

_QUICK_SECONDS = 0.01  # a filter that took longer for a piece was not quick; threads wait half as long for each other

_PARAMETERS = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed", "stop")


class PluginSeam:
    """`chain` takes the plugins from `manager`; `replies` gets what comes out."""

    def __init__(self, manager: PluginManager, replies: ReplySender) -> None:
        self._manager = manager
        self._replies = replies
        self._filtered: dict[str, Running] = {}

    def prepare(self, job: Job, entries: Sequence[Running]) -> list[tuple[Running, Generate]]:
        """The requests as the plugins want them; what they refuse has had its end told."""
        ready: list[tuple[Running, Generate]] = []
        refused: list[RequestEvent] = []
        for entry, request in zip(entries, job.requests, strict=True):
            chain = self._manager.take()
            if chain is None:
                ready.append((entry, request))
                continue
            try:
                ready.append((entry, self._begun(chain, job, entry, request)))
            except (Refused, Blocked) as error:
                refused.append(Failed(entry.request_id, "INVALID_INPUT", error.message, error.details))
            except PluginFailed as error:
                refused.append(_failed(entry, error))
        if refused:
            self._replies.put(tuple(refused))
        return ready

    def passed(self, events: tuple[RequestEvent, ...]) -> tuple[RequestEvent, ...]:
        """The events to send on, filtered if that is quick; the others go to their jobs' threads.

        Called by the engines' readers, each for requests of its own.
        """
        if not self._filtered:
            return events
        others: list[RequestEvent] = []
        here: set[str] = set()
        for event in events:
            if (
                event.request_id in here
            ):  # what comes before it is sent before this can be, by another thread or as an end
                self._replies.put(tuple(others))
                others, here = [], set()
            entry = self._filtered.get(event.request_id)
            if entry is None or isinstance(event, Accepted):
                others.append(event)
            elif isinstance(event, Delta) and (plugged := entry.plugged) is not None and not plugged.has_own_thread:
                if (changed := self._filtered_here(entry, plugged, event)) is not None:
                    others.append(changed)
                    here.add(event.request_id)
            else:
                entry.parent.inbox.put((entry, event))
        return tuple(others)

    def wait(self, parent: RunningJob, seconds: float) -> bool:
        """Filter a job's answers until all its ends have been sent, or the time is over; whether they have been."""
        if not any(entry.plugged is not None and entry.plugged.output for entry in parent.entries):
            return parent.done.wait(max(0.0, seconds))
        deadline = time.monotonic() + seconds
        while not parent.done.is_set():
            try:
                item = parent.inbox.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return False
            if item is not None and (changed := self._filtered_safely(*item)) is not None:
                self._replies.put((changed,))
        return True

    def finish(self, entries: Sequence[Running]) -> None:
        """Tell the plugins that requests have ended, and let go of the chain."""
        for entry in entries:
            plugged, entry.plugged = entry.plugged, None
            if plugged is None:
                continue
            self._filtered.pop(entry.request_id, None)
            if entry.end is not None:
                plugged.run.finished(_outcome(entry, plugged, entry.end))
            self._manager.give_back(plugged.chain)

    # ------------------------------------------------------------ one request

    def _begun(self, chain: Chain, job: Job, entry: Running, request: Generate) -> Generate:
        try:
            run = Run(chain, _request(job, entry, request), _prompt(request))
        except BaseException:
            self._manager.give_back(chain)
            raise
        plugged = entry.plugged = PluggedIn(chain, run, is_stream=request.stream)
        if entry.cancelled:
            return request
        if request.tokens is not None and run.reads_prompts:
            raise Refused("Plugins of this server read prompts: send text instead of tokens.", field="text")
        run.begin()
        changed = with_reservation_of(_generate(request, run), request)
        plugged.output = run.output()
        if plugged.output is not None:
            plugged.has_own_thread = not plugged.output.is_quick
            self._filtered[entry.request_id] = entry
        return changed

    def _filtered_here(self, entry: Running, plugged: PluggedIn, event: Delta) -> RequestEvent | None:
        began = time.perf_counter()
        changed = self._filtered_safely(entry, event)
        plugged.has_own_thread = time.perf_counter() - began > _QUICK_SECONDS
        return changed

    def _filtered_safely(self, entry: Running, event: RequestEvent) -> RequestEvent | None:
        try:
            return self._filter(entry, event)
        except Exception:
            logger.exception("filtering an answer failed")
            self._stop(entry, Failed(entry.request_id, "INFERENCE_FAILED", "The worker failed."))
            return None

    def _filter(self, entry: Running, event: RequestEvent) -> RequestEvent | None:
        """What is to be sent now, if anything; an answer that must not go on is ended."""
        plugged = entry.plugged
        if plugged is None or plugged.output is None or entry.request_id not in self._filtered:
            return None  # it has ended
        if isinstance(event, Delta):
            entry.completion_tokens = event.tokens
        elif isinstance(event, Finished):
            entry.completion_tokens = event.completion_tokens
        try:
            changed = _through(plugged, plugged.output, event)
        except (Refused, Blocked) as error:
            self._stop(entry, Failed(entry.request_id, ContentBlocked.code, error.message, error.details))
            return None
        except PluginFailed as error:
            self._stop(entry, _failed(entry, error))
            return None
        if not isinstance(event, Delta):
            self._filtered.pop(entry.request_id, None)
        return changed

    def _stop(self, entry: Running, end: Failed) -> None:
        """End a request whose answer must not go on; what the engine says of it from now on is dropped."""
        self._filtered.pop(entry.request_id, None)
        self._replies.put((end,))
        if entry.engine is not None:
            entry.engine.abort(entry.request_id)


def _through(plugged: PluggedIn, output: Output, event: RequestEvent) -> RequestEvent | None:
    """An event with its text filtered; None if nothing of it goes out now."""
    if isinstance(event, Delta):
        plugged.taken += len(event.text)
        text = output.feed(event.text)
        return msgspec.structs.replace(event, text=text, logprobs=()) if text else None
    if isinstance(event, Finished):
        last = output.finish(event.text[plugged.taken :])
        return msgspec.structs.replace(event, text=output.text, delta=last, logprobs=())  # they'd tell what was taken
    return event


def _failed(entry: Running, error: PluginFailed) -> Failed:
    details = {"plugin": error.plugin_id}
    return Failed(entry.request_id, "INFERENCE_FAILED", "A plugin that this server relies on failed.", details)


def _request(job: Job, entry: Running, request: Generate) -> Request:
    parameters = {name: getattr(request.params, name) for name in _PARAMETERS}
    return Request(
        request_id=job.request_id,
        item=entry.index,
        kind=job.kind,
        model=job.model_id,
        user_id=job.user_id,
        key_id=job.key_id,
        stream=request.stream,
        **parameters,
    )


def _prompt(request: Generate) -> Prompt:
    turns = None if request.messages is None else tuple(Turn(*msgspec.structs.astuple(t)) for t in request.messages)
    return Prompt(text=request.text, messages=turns, system=request.system, raw=request.raw, tools=request.tools)


def _generate(request: Generate, run: Run) -> Generate:
    """The request to the engine as the plugins left it. Raises Refused for parameters that no request may have."""
    prompt, changed = run.prompt, run.request
    turns = None if prompt.messages is None else tuple(ChatTurn(*astuple(turn)) for turn in prompt.messages)
    parameters = {name: getattr(changed, name) for name in _PARAMETERS}
    params: SamplingParams = msgspec.structs.replace(request.params, **parameters)
    try:
        params.validate()
    except InvalidParameter as error:
        raise Refused(f"A plugin set {error.field} to a value that {error.message}.", field=error.field) from None
    return msgspec.structs.replace(
        request,
        params=params,
        text=prompt.text,
        messages=turns,
        system=prompt.system,
        raw=prompt.raw,
        tools=prompt.tools,
    )


def _outcome(entry: Running, plugged: PluggedIn, end: RequestEvent) -> Outcome:
    if isinstance(end, Finished):
        return Outcome(
            state="cancelled" if end.finish_reason == "cancelled" else "completed",
            finish_reason=end.finish_reason,
            text=end.text,
            prompt_tokens=end.prompt_tokens,
            completion_tokens=end.completion_tokens,
            queue_time=end.queue_time,
            prefill_time=end.prefill_time,
            decode_time=end.decode_time,
        )
    code = end.code if isinstance(end, Failed) else ""
    sent = plugged.output.text if plugged.output is not None and plugged.is_stream else ""
    return Outcome(
        state="failed",
        error_code=code,
        text=sent,
        prompt_tokens=entry.prompt_tokens,
        completion_tokens=entry.completion_tokens,
    )
