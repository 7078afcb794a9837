"""What a plugin may do, and all that it needs to import. See docs/plugins.md.

This module knows neither Django nor the rest of the server, so that a plugin can be written and tested without them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pluggy

API_VERSION = "1"
PROJECT = "llama_gpu"
ENTRY_POINTS = "llama_gpu.plugins"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

Category = Literal["preprocessing", "postprocessing", "monitoring"]
OnError = Literal["open", "closed"]
Role = Literal["system", "user", "assistant"]

# Takes the text that has not gone out yet, and whether nothing follows it; returns what goes out now, and what is held
# back because the text to come may change it. What is held back comes again, with the next piece behind it.
TextFilter = Callable[[str, bool], tuple[str, str]]


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """What a plugin says of itself, as the class attribute `info`.

    `id`: letters, digits, `_`, `.` and `-`; the name of its entry point. `settings_schema`: a JSON Schema of type
    object; its `default`s are filled in. `api_version`: the version of this module that it was written for.
    `default_on_error`: `closed` for one that must not be left out, as long as nobody configures something else.
    `quick_filters`: its filters only compute, in microseconds for a token, and never wait for anything. Those of
    built-in plugins that say so are called for the pieces of a stream where these arrive, beside those of all other
    requests, instead of in a thread of the request's own; one that takes long all the same loses that for the rest of
    its answer. Other plugins' filters never are, since one that did not return would hold up all requests.
    """

    id: str
    name: str
    version: str
    category: Category
    author: str = ""
    description: str = ""
    settings_schema: Mapping[str, Any] = field(
        default_factory=lambda: {"type": "object", "additionalProperties": False}
    )
    api_version: str = API_VERSION
    default_priority: int = 100
    default_on_error: OnError = "open"
    quick_filters: bool = False


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation. `tool_calls`: those that the model has made in it, as a JSON list, in the form of its
    chat template. `tool_call_id`: whose result a turn of the role `tool` is."""

    role: str
    content: str
    tool_calls: str = ""
    tool_call_id: str = ""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model is to complete: `text` or `messages`. `raw`: without the model's chat template.

    `tools`: what the model may call, as a JSON list for its chat template.
    """

    text: str | None = None
    messages: tuple[Turn, ...] | None = None
    system: str | None = None
    raw: bool = False
    tools: str = ""

    def map(self, change: Callable[[str], str]) -> "Prompt":
        """This prompt with every text in it changed; JSON that is none any more is refused later."""

        def turn(before: Turn) -> Turn:
            calls = before.tool_calls and change(before.tool_calls)
            return replace(before, content=change(before.content), tool_calls=calls)

        return Prompt(
            text=None if self.text is None else change(self.text),
            messages=None if self.messages is None else tuple(map(turn, self.messages)),
            system=None if self.system is None else change(self.system),
            raw=self.raw,
            tools=self.tools and change(self.tools),
        )

    def parts(self) -> list[tuple[str, str]]:
        """Every text in it, with the name of the field that it came in."""
        found = [] if self.text is None else [("text", self.text)]
        for index, turn in enumerate(self.messages or ()):
            found.append((f"messages[{index}].content", turn.content))
            if turn.tool_calls:
                found.append((f"messages[{index}].tool_calls", turn.tool_calls))
        if self.tools:
            found.append(("tools", self.tools))
        return found if self.system is None else [*found, ("system", self.system)]


@dataclass(frozen=True, slots=True)
class Request:
    """One completion that was asked for. `item`: its place in its batch. The rest is as the API documents it.

    A plugin may return a copy with other parameters (`dataclasses.replace`); `max_tokens` can only be lowered.
    """

    request_id: str
    item: int
    kind: str
    model: str
    user_id: int | None
    key_id: int | None
    stream: bool
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    seed: int | None
    stop: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request ended. `text` is what the caller got; times are in seconds."""

    state: Literal["completed", "failed", "cancelled"]
    finish_reason: str = ""
    error_code: str = ""
    text: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    queue_time: float = 0.0
    prefill_time: float = 0.0
    decode_time: float = 0.0


class Refused(Exception):
    """Raised in `request_in` or `prompt`: the caller gets a 400 with these words. `field` names what is wrong."""

    def __init__(self, message: str, *, field: str | None = None, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = {**details, "field": field} if field else details


class Blocked(Exception):
    """Raised in `token_stream`'s filter or `final_text`: the answer ends here with the error CONTENT_BLOCKED."""

    def __init__(self, message: str = "The answer was blocked by a filter of this server.", **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class InvalidSettings(Exception):
    """Raised in `setup`: a setting is wrong in a way that the schema can't tell. `field` as in `rules[0].pattern`."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.message = message


class Hooks:
    """A plugin implements any of these as methods marked with @hookimpl; it may leave out arguments it doesn't need.

    All are called in the worker. One instance serves many requests at once, from several threads. Only `setup` and
    `teardown` may change the instance; what belongs to one request lives in its text filter.
    """

    @hookspec
    def setup(self, settings: Mapping[str, Any]) -> None:
        """Called once before all others, with valid settings. Raise to refuse to be loaded."""

    @hookspec
    def teardown(self) -> None:
        """Called once, after the last request that began with this plugin has ended."""

    @hookspec(firstresult=True)
    def request_in(self, request: Request, prompt: Prompt) -> Request | None:
        """Look at a request before the model; return one with other parameters, or None; raise Refused."""

    @hookspec(firstresult=True)
    def prompt(self, request: Request, prompt: Prompt) -> Prompt | None:
        """Return another prompt, or None; raise Refused. Called after every plugin's `request_in`."""

    @hookspec(firstresult=True)
    def token_stream(self, request: Request) -> TextFilter | Sequence[TextFilter] | None:
        """Return a filter for this answer, or several, of which each gets what the one before lets out. They are called
        with the text piece by piece, or once with all of it when nobody streams it; never by two threads at once."""

    @hookspec(firstresult=True)
    def final_text(self, request: Request, text: str) -> str | None:
        """Return another text for the whole answer, or None; raise Blocked. A stream is held back until its end for
        this. Not called for an answer that `token_stream` returned a filter for."""

    @hookspec
    def request_finished(self, request: Request, outcome: Outcome) -> None:
        """Observe the end of a request, after the caller has been told. Not called for one that never began."""
