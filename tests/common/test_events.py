import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from pytest_django import Settings

from common import events
from common.events import (
    AnyEvent,
    Event,
    ModelLoaded,
    ModelLoading,
    ModelUnloaded,
    PluginError,
    apublish,
    last_id,
    publish,
    read_events,
    watch_events,
)
from common.redis import key, sync_redis

LOADING = ModelLoading(model="tiny", host="a", device="cpu", progress=0.5, stage="read")
LOADED = ModelLoaded(
    model="tiny", backend="cpu", quantization="bf16", memory_usage="1KB", memory_usage_bytes=1024, load_time=0.5
)


def test_the_names_and_fields_are_those_of_the_api() -> None:
    assert {
        name: (kind.channel, {field.name for field in msgspec.structs.fields(kind)})
        for name, kind in events.CATALOGUE.items()
    } == {
        "model_loading": ("model_events", {"model", "host", "device", "progress", "stage"}),
        "model_loaded": (
            "model_events",
            {
                "model",
                "host",
                "device",
                "backend",
                "quantization",
                "memory_usage",
                "memory_usage_bytes",
                "load_time",
            },
        ),
        "model_unloaded": (
            "model_events",
            {"model", "host", "device", "reason", "freed_memory", "freed_memory_bytes"},
        ),
        "model_load_failed": ("model_events", {"model", "host", "device", "code", "error"}),
        "model_lost": ("model_events", {"model", "host", "device", "error"}),
        "plugin_loaded": ("plugin_events", {"plugin_id", "load_time"}),
        "plugin_unloaded": ("plugin_events", {"plugin_id"}),
        "plugin_error": ("plugin_events", {"plugin_id", "error"}),
    }


def test_every_event_of_the_module_can_be_published() -> None:
    leaves = {kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, Event)}
    leaves -= {base for kind in leaves for base in kind.__mro__[1:]}
    assert leaves == set(get_args(AnyEvent)) == set(events.CATALOGUE.values())


async def test_what_was_published_is_read_in_order(clean_redis: str) -> None:
    publish(LOADING)
    await apublish(LOADED)
    first, second = await read_events()
    assert (first.event, second.event) == (LOADING, LOADED)
    assert second.event.name == "model_loaded"
    assert second.fields()["memory_usage_bytes"] == 1024
    assert "event" not in second.fields()
    assert first.at <= second.at


async def test_a_reader_that_was_away_catches_up(clean_redis: str) -> None:
    publish(LOADING)
    seen = await last_id()
    publish(LOADED)
    publish(PluginError(plugin_id="filter", error="It can't be loaded."))
    assert [recorded.event.name for recorded in await read_events(seen)] == ["model_loaded", "plugin_error"]
    assert [recorded.event.name for recorded in await read_events(seen, count=1)] == ["model_loaded"]


async def test_an_empty_stream_begins_at_the_beginning(clean_redis: str) -> None:
    assert await last_id() == events.BEGINNING
    assert await read_events() == []


async def test_a_watcher_hears_of_what_happens_next_also_in_other_processes(clean_redis: str, tmp_path: Path) -> None:
    publish(LOADING)
    watcher = watch_events(await last_id())
    heard = asyncio.ensure_future(anext(watcher))
    program = (
        "import django; django.setup(); from common.events import *; "
        "publish(ModelUnloaded(model='tiny', reason='idle', freed_memory='0B', freed_memory_bytes=0))"
    )
    environment = {**os.environ, "REDIS_URL": clean_redis, "LLAMA_GPU_DATA_DIR": str(tmp_path)}
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", program], env=environment, check=True, timeout=60)
    recorded = await asyncio.wait_for(heard, 10)
    assert recorded.event == ModelUnloaded(model="tiny", reason="idle", freed_memory="0B", freed_memory_bytes=0)
    await watcher.aclose()


async def test_the_stream_stays_bounded(clean_redis: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "STREAM_LENGTH", 10)
    for _ in range(500):
        publish(LOADING)
    assert sync_redis().xlen(key("events")) < 250  # Redis trims whole nodes of 100 entries


async def test_an_event_of_another_version_is_passed_over(clean_redis: str) -> None:
    sync_redis().xadd(key("events"), {b"e": b'{"event": "model_grew_legs", "model": "tiny"}'})
    sync_redis().xadd(key("events"), {b"other": b"1"})
    publish(LOADED)
    assert [recorded.event for recorded in await read_events()] == [LOADED]


async def test_without_redis_the_work_goes_on(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    publish(LOADED)
    await apublish(LOADED)
    assert caplog.text.count("model_loaded was not published") == 2
