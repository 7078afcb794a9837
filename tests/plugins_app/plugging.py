"""Plugins loaded and chained without database or server."""

from collections.abc import Mapping
from typing import Any

from plugins_app.breaker import Breaker
from plugins_app.chain import Chain, Failure, Link, Run
from plugins_app.discovery import BUILT_IN, BUILT_IN_PACKAGE, Installed
from plugins_app.hookspecs import PluginInfo, Prompt, Request
from plugins_app.loaded import LoadedPlugin, load

REQUEST = Request(
    request_id="req_1", item=0, kind="infer", model="llama2-7b", user_id=1, key_id=1, stream=True, max_tokens=100,
    temperature=1.0, top_p=1.0, top_k=0, min_p=0.0, repetition_penalty=1.0, seed=None, stop=(),
)  # fmt: skip


def loaded(kind: Any, settings: Mapping[str, Any] | None = None, *, package: str = "") -> LoadedPlugin:
    """`package`: what it is said to come from; else what it comes from."""
    package = package or (BUILT_IN_PACKAGE if kind in BUILT_IN else "test")
    return load(Installed(kind.info, package, kind), settings or {})


def about(plugin_id: str = "sample", **fields: Any) -> PluginInfo:
    return PluginInfo(**{"id": plugin_id, "name": plugin_id, "version": "1", "category": "preprocessing", **fields})


def link(
    plugin: LoadedPlugin,
    *,
    fail_closed: bool = False,
    slow_seconds: float = 10.0,
    timeout_seconds: float = 10.0,
    breaker: Breaker | None = None,
    failures: list[Failure] | None = None,
) -> Link:
    breaker = breaker or Breaker(max_failures=3, retry_seconds=60)
    report = (failures if failures is not None else []).append
    return Link(plugin, breaker, fail_closed, slow_seconds, timeout_seconds, report)


def prompted(kind: Any, settings: Mapping[str, Any], prompt: Prompt, request: Request = REQUEST) -> Prompt:
    """What a plugin makes of a prompt."""
    run = Run(Chain([link(loaded(kind, settings))]), request, prompt)
    run.begin()
    return run.prompt


def answered(kind: Any, settings: Mapping[str, Any], pieces: list[str], request: Request = REQUEST) -> list[str]:
    """What goes out of an answer that is written in these pieces, piece by piece, and at the end."""
    output = Run(Chain([link(loaded(kind, settings))]), request, Prompt(text="x")).output()
    if output is None:
        return [*pieces, ""]
    return [*(output.feed(piece) for piece in pieces), output.finish("")]
