import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from pytest_django import Settings

from common import event_reader, events
from common.event_reader import last_id, next_events, read_back, read_events, watch_events
from common.events import (
    AnyEvent,
    Event,
    InferenceCompleted,
    InferenceFailed,
    ModelLoaded,
    ModelLoading,
    ModelUnloaded,
    PluginError,
    apublish,
    publish,
)
from common.redis import key, new_redis_line, sync_redis
from monitoring import tasks

LOADING = ModelLoading(model="tiny", host="a", device="cpu", progress=0.5, stage="read")
LOADED = ModelLoaded(
    model="tiny", backend="cpu", quantization="bf16", memory_usage="1KB", memory_usage_bytes=1024, load_time=0.5
)


def test_the_names_and_fields_are_those_of_the_api() -> None:
    inference = {"request_id", "model", "kind", "item", "user_id"}
    job = {"job_id", "kind", "model", "state", "total", "completed", "failed", "cancelled", "user_id"}
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
        "system_metrics": (
            "system_metrics",
            {
                "host",
                "cpu_usage",
                "memory_usage",
                "disk_usage",
                "network_rx",
                "network_tx",
                "active_requests",
                "request_rate",
            },
        ),
        "gpu_metrics": (
            "gpu_metrics",
            {
                "host",
                "gpu_id",
                "name",
                "utilization",
                "memory_used",
                "memory_total",
                "temperature",
                "power_usage",
                "power_limit",
            },
        ),
        "inference_stats": (
            "inference_stats",
            {
                "total_requests",
                "successful_requests",
                "error_rate",
                "avg_response_time",
                "requests_per_minute",
                "tokens_per_second",
                "time_to_first_token",
                "active_requests",
                "queued_requests",
            },
        ),
        "log_event": ("log_events", {"level", "component", "message", "host", "request_id", "metadata"}),
        "inference_started": ("inference_events", inference | {"backend", "prompt_tokens"}),
        "inference_completed": (
            "inference_events",
            inference
            | {
                "backend",
                "prompt_tokens",
                "tokens_generated",
                "inference_time",
                "queue_time",
                "time_to_first_token",
                "finish_reason",
                "generated_text",
                "is_text_cut",
            },
        ),
        "inference_failed": ("inference_events", inference | {"code", "error"}),
        "inference_cancelled": ("inference_events", inference | {"reason", "tokens_generated"}),
        **{
            f"job_{what}": ("job_events", job)
            for what in ("created", "progress", "completed", "failed", "cancelled", "expired")
        },
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
    assert second.event.fields()["memory_usage_bytes"] == 1024
    assert "event" not in second.event.fields()
    assert first.at <= second.at


async def test_a_reader_that_was_away_catches_up(clean_redis: str) -> None:
    publish(LOADING)
    seen = await last_id()
    publish(LOADED)
    publish(PluginError(plugin_id="filter", error="It can't be loaded."))
    assert [recorded.event.name for recorded in await read_events(seen)] == ["model_loaded", "plugin_error"]
    assert [recorded.event.name for recorded in await read_events(seen, count=1)] == ["model_loaded"]


async def test_an_empty_stream_begins_at_the_beginning(clean_redis: str) -> None:
    assert await last_id() == event_reader.BEGINNING
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
    monkeypatch.setitem(events.STREAM_LENGTHS, "model_events", 10)
    for _ in range(500):
        publish(LOADING)
    assert sync_redis().xlen(key("events", "model_events")) < 250  # Redis trims whole nodes of 100 entries


async def test_old_events_are_forgotten(clean_redis: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "STREAM_SECONDS", 1)
    publish(LOADING)
    await asyncio.sleep(0.6)
    publish(LOADED)
    await asyncio.sleep(0.6)
    publish(PluginError(plugin_id="filter", error="No."), LOADED)
    assert [recorded.event.name for recorded in await read_events()] == ["model_loaded", "plugin_error", "model_loaded"]
    assert 0 < sync_redis().ttl(key("events", "model_events")) <= 1


def test_completions_are_swept_though_no_request_comes(clean_redis: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told = InferenceFailed(request_id="r", item=0, model="m", kind="infer", user_id=1, code="C", error="No.")
    publish(told, LOADED)
    tasks.forget_completions()
    assert sync_redis().xlen(events.stream_of("inference_events")) == 1
    monkeypatch.setattr(events, "INFERENCE_STREAM_SECONDS", -1)
    tasks.forget_completions()
    assert sync_redis().xlen(events.stream_of("inference_events")) == 0
    assert sync_redis().xlen(events.stream_of("model_events")) == 1


async def test_events_of_a_channel_dont_push_out_those_of_another(clean_redis: str) -> None:
    publish(PluginError(plugin_id="filter", error="It can't be loaded."))
    for _ in range(8):
        publish(*[LOADING] * 1000)
    read = await read_events(channels=["plugin_events"])
    assert [recorded.event.name for recorded in read] == ["plugin_error"]


async def test_one_sequence_of_ids_runs_through_all_channels(clean_redis: str) -> None:
    for _ in range(20):
        publish(LOADING, PluginError(plugin_id="filter", error="No."))
        await apublish(LOADED)
    read = await read_events()
    assert [recorded.event.name for recorded in read] == ["model_loading", "plugin_error", "model_loaded"] * 20
    assert len({recorded.id for recorded in read}) == 60
    assert await last_id() == read[-1].id


async def test_a_full_batch_of_one_channel_holds_the_others_back(clean_redis: str) -> None:
    """Else a reader that goes on from the last id would never see what it had no room for."""
    for _ in range(5):
        publish(LOADING, LOADING, LOADING)
        publish(PluginError(plugin_id="filter", error="No."))
    line, after, names = new_redis_line(), event_reader.BEGINNING, []
    while len(names) < 20:
        batch, after = await next_events(line, after, count=2)
        names += [recorded.event.name for recorded in batch]
    await line.close()
    assert names == ["model_loading", "model_loading", "model_loading", "plugin_error"] * 5


async def test_the_past_is_read_backwards(clean_redis: str) -> None:
    publish(LOADING, LOADED, LOADING)
    newest_first = (await read_events())[::-1]
    read, oldest = await read_back(newest_first[0].id, channel="model_events", count=2)
    assert (read, oldest) == (newest_first[:2], newest_first[1].id)
    assert await read_back(oldest, channel="plugin_events", count=2) == ([], "")


def test_only_its_owner_sees_what_a_request_brought() -> None:
    completed = InferenceCompleted(
        request_id="req_1",
        model="tiny",
        kind="infer",
        user_id=7,
        backend="cpu",
        prompt_tokens=3,
        tokens_generated=2,
        inference_time=0.5,
        queue_time=0.1,
        time_to_first_token=0.2,
        finish_reason="stop",
        generated_text="a secret",
    )
    own, others = completed.fields(is_own=True), completed.fields()
    assert own["result"]["generated_text"] == "a secret"
    assert others["result"] is None
    assert "secret" not in str(others)
    assert own | {"result": None} == others
    assert "user_id" not in own
    refused = InferenceFailed(
        request_id="r", model="m", kind="infer", code="CONTENT_BLOCKED", error="It says: a secret"
    )
    lost = InferenceFailed(request_id="r", model="m", kind="infer", code="INFERENCE_FAILED", error="The worker failed.")
    assert "secret" not in str(refused.fields())
    assert "secret" in refused.fields(is_own=True)["error"]
    assert lost.fields() == lost.fields(is_own=True)


async def test_an_event_of_another_version_is_passed_over(clean_redis: str) -> None:
    stream = key("events", "model_events")
    sync_redis().xadd(stream, {b"e": b'{"event": "model_grew_legs", "model": "tiny"}'}, id="1-1")
    sync_redis().xadd(stream, {b"other": b"1"}, id="1-2")
    publish(LOADED)
    assert [recorded.event for recorded in await read_events()] == [LOADED]


async def test_without_redis_the_work_goes_on(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    publish(LOADED)
    await apublish(LOADED)
    assert caplog.text.count("model_loaded was not published") == 2
