"""The plugins in the order in which they run, and their run in one request."""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from plugins_app.breaker import Breaker
from plugins_app.hands import HANDS, Overdue
from plugins_app.hookspecs import Blocked, Outcome, Prompt, Refused, Request, TextFilter
from plugins_app.loaded import LoadedPlugin

logger = logging.getLogger("plugin_manager")  # the component that the API's logs name

OUTPUT_HOOKS = frozenset({"token_stream", "final_text"})


class PluginFailed(Exception):
    """A plugin that fails closed could not do its work."""

    def __init__(self, plugin_id: str) -> None:
        super().__init__(f"the plugin {plugin_id} failed")
        self.plugin_id = plugin_id


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that went wrong in a plugin, or right again. `circuit`: what became of its breaker, if anything."""

    plugin_id: str
    error: str
    circuit: str = ""


@dataclass(frozen=True, slots=True)
class Link:
    """A plugin's place in the chain."""

    plugin: LoadedPlugin
    breaker: Breaker
    fail_closed: bool
    slow_seconds: float
    timeout_seconds: float
    report: Callable[[Failure], None]

    @property
    def plugin_id(self) -> str:
        return self.plugin.info.id


class Chain:
    """Every plugin in use, the lowest priority first; never changed. `users` counts the requests that run with it.

    `unavailable`: plugins that can't be loaded and must not be left out.
    """

    def __init__(self, links: Iterable[Link], unavailable: Iterable[str] = ()) -> None:
        self.links = tuple(links)
        self.unavailable = tuple(unavailable)
        self.users = 0


class Use:
    """What one plugin does in one request. `seconds`: over all its `calls`."""

    __slots__ = ("_warned", "calls", "failures", "link", "seconds")

    def __init__(self, link: Link) -> None:
        self.link = link
        self.seconds = 0.0
        self.calls = 0
        self.failures = 0
        self._warned = False

    def do(self, work: Callable[[], Any]) -> Any:
        """Call the plugin: a foreign one in another thread, and not longer than it may take. Raises Overdue."""
        if self.link.plugin.is_trusted:
            return work()
        return HANDS.call(work, seconds=self.link.timeout_seconds, late=self.link.breaker.returned)

    def took(self, seconds: float) -> None:
        self.seconds += seconds
        self.calls += 1
        if self.seconds > self.link.slow_seconds and not self._warned:
            self._warned = True
            logger.warning(
                "Plugin %s took longer than expected",
                self.link.plugin_id,
                extra={"metadata": {"execution_time": round(self.seconds, 4), "threshold": self.link.slow_seconds}},
            )

    def failed(self, where: str, error: BaseException) -> None:
        """Count a failure; raises PluginFailed if the request must not go on."""
        self.failures += 1
        described = f"{_described(error)}, in {where}"
        logger.error("plugin %s failed: %s", self.link.plugin_id, described)
        opened = self.failures == 1 and self.link.breaker.failed()
        if isinstance(error, Overdue):
            opened = self.link.breaker.hung() or opened
        self.link.report(Failure(self.link.plugin_id, described, "open" if opened else ""))
        if self.link.fail_closed:
            raise PluginFailed(self.link.plugin_id) from error

    def ended(self) -> None:
        if self.calls and not self.failures and self.link.breaker.succeeded():
            self.link.report(Failure(self.link.plugin_id, "", "closed"))


class Run:
    """One request's way through a chain. Everything that leads out of it raises Refused, Blocked or PluginFailed, with
    the plugin's id among the details."""

    def __init__(self, chain: Chain, request: Request, prompt: Prompt) -> None:
        self.request = request
        self.prompt = prompt
        self.uses: list[Use] = []
        if chain.unavailable:
            raise PluginFailed(chain.unavailable[0])
        for link in chain.links:
            if link.breaker.admits():
                self.uses.append(Use(link))
            elif link.fail_closed:
                raise PluginFailed(link.plugin_id)

    @property
    def reads_prompts(self) -> bool:
        """Whether a plugin sees, and may refuse or change, what the model is to complete."""
        return bool(self._having("request_in") or self._having("prompt"))

    def begin(self) -> None:
        """Run the hooks before the model; `request` and `prompt` are then what they made of it."""
        for use in self._having("request_in"):
            changed = self._call(use, "request_in", Request, request=self.request, prompt=self.prompt)
            if changed is not None:
                self.request = _taken_over(self.request, changed)
        for use in self._having("prompt"):
            changed = self._call(use, "prompt", Prompt, request=self.request, prompt=self.prompt)
            if changed is not None:
                self.prompt = changed

    def output(self) -> "Output | None":
        """What the answer must go through; None if no plugin wants it."""
        stages: list[Stage] = []
        for use in self.uses:
            hooks = use.link.plugin.hooks
            if hooks & OUTPUT_HOOKS:
                stages += self._stages(use, hooks)
        return Output(stages) if stages else None

    def finished(self, outcome: Outcome) -> None:
        """Tell those that observe. Never raises."""
        for use in self._having("request_finished"):
            try:
                self._call(use, "request_finished", list, request=self.request, outcome=outcome)
            except (PluginFailed, Refused, Blocked) as error:
                logger.warning("the end of a request is past refusing: %s", type(error).__name__)
        for use in self.uses:
            use.ended()

    def timings(self) -> dict[str, dict[str, float]]:
        """Seconds, calls and failures of each plugin that was called."""
        return {
            use.link.plugin_id: {"seconds": round(use.seconds, 6), "calls": use.calls, "failures": use.failures}
            for use in self.uses
            if use.calls
        }

    def _having(self, hook: str) -> list[Use]:
        return [use for use in self.uses if hook in use.link.plugin.hooks]

    def _stages(self, use: Use, hooks: frozenset[str]) -> "list[Stage]":
        if "token_stream" in hooks:
            found = self._call(use, "token_stream", None, request=self.request)
            filters = list(found) if isinstance(found, list | tuple) else [found] if found is not None else []
            if filters:
                return [Stage(use, one) for one in filters]
        if "final_text" not in hooks:
            return []

        def whole(text: str, is_last: bool) -> tuple[str, str]:
            if not is_last:
                return "", text
            changed = use.link.plugin.call.final_text(request=self.request, text=text)
            return (text if changed is None else changed), ""

        return [Stage(use, whole)]

    def _call(self, use: Use, hook: str, kind: type | None, **arguments: Any) -> Any:
        began = time.perf_counter()
        try:
            result = use.do(partial(getattr(use.link.plugin.call, hook), **arguments))
            if kind is not None and result is not None and not isinstance(result, kind):
                raise TypeError(f"it returned a {type(result).__name__}")
        except (Refused, Blocked) as error:
            error.details.setdefault("plugin", use.link.plugin_id)
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001  # whatever a foreign plugin does
            use.failed(hook, error)
            return None
        finally:
            use.took(time.perf_counter() - began)
        return result


class Stage:
    """A filter in one answer, with the text that it holds back. One that has failed lets everything through."""

    __slots__ = ("_filter", "_held", "_is_trusted", "_use")

    def __init__(self, use: Use, text_filter: TextFilter) -> None:
        self._use = use
        self._is_trusted = use.link.plugin.is_trusted  # asked for each piece
        self._filter: TextFilter | None = text_filter
        self._held = ""

    @property
    def is_quick(self) -> bool:
        return self._is_trusted and self._use.link.plugin.info.quick_filters

    def take(self, text: str, is_last: bool) -> str:
        """What goes out now. Raises Blocked or PluginFailed."""
        if self._filter is None:
            return text
        began = time.perf_counter()
        given = self._held + text
        try:
            if self._is_trusted:
                out, held = self._filter(given, is_last)
            else:
                out, held = self._use.do(partial(self._filter, given, is_last))
            if not isinstance(out, str) or not isinstance(held, str):
                raise TypeError("a filter returns two texts")
        except (Refused, Blocked) as error:
            error.details.setdefault("plugin", self._use.link.plugin_id)
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001  # whatever a foreign plugin does
            self._filter, self._held = None, ""
            self._use.failed("its filter", error)
            return given
        finally:
            self._use.took(time.perf_counter() - began)
        if is_last and held:
            out, held = out + held, ""  # nothing follows that could change it
        self._held = held
        return out


class Output:
    """An answer on its way out, piece by piece. `text` is what has gone out. `is_quick`: every filter of it says so."""

    def __init__(self, stages: list[Stage]) -> None:
        self.is_quick = all(stage.is_quick for stage in stages)
        self._stages = stages
        self._out: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self._out)

    def feed(self, piece: str) -> str:
        """What goes out now. Raises Blocked, Refused or PluginFailed."""
        for stage in self._stages:
            if not piece:
                return ""
            piece = stage.take(piece, False)
        if piece:
            self._out.append(piece)
        return piece

    def finish(self, piece: str) -> str:
        """What goes out last; the same as `feed` with nothing to follow."""
        for stage in self._stages:
            piece = stage.take(piece, True)
        self._out.append(piece)
        return piece


def _taken_over(before: Request, changed: Request) -> Request:
    """The changed parameters under the old identity. What was reserved for max_tokens is not exceeded."""
    return replace(
        changed,
        request_id=before.request_id,
        item=before.item,
        kind=before.kind,
        model=before.model,
        user_id=before.user_id,
        key_id=before.key_id,
        stream=before.stream,
        max_tokens=min(before.max_tokens, changed.max_tokens),
    )


def _described(error: BaseException) -> str:
    """Type and place, without the message: that may hold the text of a prompt."""
    if isinstance(error, Overdue):
        return str(error)
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return type(error).__name__
    code = traceback.tb_frame.f_code
    return f"{type(error).__name__} at {code.co_filename.rsplit('/', 1)[-1]}:{traceback.tb_lineno}"
