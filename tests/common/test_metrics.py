"""Figures of many threads and processes, added up in Redis."""

import asyncio
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from pytest_django import Settings

from common import metrics
from common.metrics import Counter, Field, Flusher, Histogram
from tests.conftest import free_port
from tests.running_server import ROOT

SEEN = Counter("seen_total", "What was seen.", ("where",))
TOOK = Histogram("took_seconds", "How long it took.", ("where",), (0.1, 1.0))


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    metrics.forget()
    yield
    metrics.forget()


async def test_a_counter_adds_up_what_threads_count(clean_redis: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        for _ in range(400):
            pool.submit(SEEN.add, "here")
    SEEN.add("there", by=2.5)
    metrics.flush()

    assert await metrics.read() == {Field("seen_total", ("here",)): 400, Field("seen_total", ("there",)): 2.5}


async def test_it_goes_on_where_other_processes_are(clean_redis: str, settings: Settings) -> None:
    program = (
        "import django; django.setup(); from common import metrics\n"
        "metrics.Counter('seen_total', '', ('where',)).add('here', by=3); metrics.flush()"
    )
    environment = {"DJANGO_SETTINGS_MODULE": "llama_gpu_site.settings", "REDIS_URL": clean_redis, "PATH": ""}
    environment["LLAMA_GPU_DATA_DIR"] = str(settings.DATA_DIR)
    for _ in range(2):
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, env=environment, cwd=ROOT)
        assert await process.wait() == 0
    SEEN.add("here")
    metrics.flush()

    assert await metrics.read() == {Field("seen_total", ("here",)): 7}


async def test_a_bucket_takes_its_upper_bound_and_the_last_one_is_open(clean_redis: str) -> None:
    for value in (0.05, 0.1, 0.5, 1.0, 7.0):
        TOOK.observe("x", value=value)
    metrics.flush()

    counted = await metrics.read()
    assert {field.part: value for field, value in counted.items()} == {
        "0": 2,
        "1": 2,
        "2": 1,
        "sum": pytest.approx(8.65),
    }


async def test_what_was_counted_elsewhere_is_merged(clean_redis: str) -> None:
    TOOK.observe("x", value=0.5)
    TOOK.merge("x", counts=(1, 0, 2), total=9.0)
    metrics.flush()

    counted = await metrics.read()
    assert {field.part: value for field, value in counted.items()} == {"0": 1, "1": 1, "2": 2, "sum": 9.5}
    with pytest.raises(ValueError, match="3 buckets"):
        TOOK.merge("x", counts=(1, 2), total=1.0)


async def test_what_is_no_number_spoils_no_sum(clean_redis: str) -> None:
    SEEN.add("x", by=1)
    SEEN.add("x", by=float("nan"))
    SEEN.add("x", by=float("inf"))
    metrics.flush()
    assert await metrics.read() == {Field("seen_total", ("x",)): 1}


async def test_nothing_is_lost_while_redis_is_away(clean_redis: str, settings: Settings) -> None:
    SEEN.add("x")
    settings.REDIS_URL = f"redis://127.0.0.1:{free_port()}/0"
    with pytest.raises(redis.ConnectionError):
        metrics.flush()
    SEEN.add("x")
    settings.REDIS_URL = clean_redis
    metrics.flush()

    assert await metrics.read() == {Field("seen_total", ("x",)): 2}


async def test_the_flusher_writes_what_is_left_when_it_is_stopped(clean_redis: str) -> None:
    flusher = Flusher()
    flusher.start()
    SEEN.add("x", by=4)
    flusher.stop()
    assert await metrics.read() == {Field("seen_total", ("x",)): 4}
