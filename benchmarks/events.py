"""500 watchers with an event a second each, on the embedded set-up, while the demo model generates for others."""

import asyncio
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.contenders import MODELS_DIR
from benchmarks.http_streams import Target, _load
from benchmarks.report import Report, Row, median
from tests.running_server import running_server

WATCHERS = 500
STREAMS = 8
SETTLE_SECONDS = 2.0
_UPGRADE = (
    b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_MARK = b'"model":"'


class _Watcher(asyncio.Protocol):
    """A Socket.IO connection. It looks at no more of an event than when it was sent, since it shares the cores."""

    def __init__(self, key: str, delays: list[float]) -> None:
        self.is_subscribed = asyncio.get_running_loop().create_future()
        self._key = key
        self._delays = delays

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        transport.write(_UPGRADE)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        now = time.time()
        at = data.find(_MARK)
        if at >= 0:
            sent = data[at + len(_MARK) :].partition(b'"')[0]
            self._delays.append(now - float(sent))
        elif b'"granted"' in data:
            self.is_subscribed.set_result(None)
        elif b"40{" in data:
            self._say('42["subscribe",{"channels":["model_events"]}]')
        elif b'"pingInterval"' in data:
            self._say("40" + json.dumps({"token": self._key}))
        elif data.endswith(b"\x012"):  # a ping
            self._say("3")

    def _say(self, text: str) -> None:
        payload = text.encode()
        self._transport.write(bytes((0x81, 0x80 | len(payload))) + bytes(4) + payload)  # type: ignore[attr-defined]

    def connection_lost(self, _error: Exception | None) -> None:
        if not self.is_subscribed.done():
            self.is_subscribed.set_exception(ConnectionError("the server hung up"))


async def _publish_every_second() -> None:
    from common.events import ModelLoading, apublish

    while True:
        await apublish(ModelLoading(model=f"{time.time():.6f}", progress=0.5, stage="read"))
        await asyncio.sleep(1.0)


async def _measure(target: Target, rounds: int) -> tuple[list[float], list[float], list[float]]:
    """Tokens per second without events and with them, in turn, and the delays of all deliveries in seconds."""
    from common.redis import close_async_redis

    delays: list[float] = []
    loop = asyncio.get_running_loop()
    for _ in range(WATCHERS):
        _, watcher = await loop.create_connection(lambda: _Watcher(target.key, delays), "127.0.0.1", target.port)
        await asyncio.wait_for(watcher.is_subscribed, 30)
    await _load(target, STREAMS, 0)
    without: list[float] = []
    beside: list[float] = []
    for turn in range(1, rounds + 1):
        without.append((await _load(target, STREAMS, 1000 * turn))[0])
        publishing = asyncio.create_task(_publish_every_second())
        beside.append((await _load(target, STREAMS, 1000 * turn + 500))[0])
        publishing.cancel()
        await asyncio.sleep(0.2)
    await close_async_redis()
    return without, beside, delays


def watchers(report: Report, rounds: int) -> None:
    """Rounds with and without events alternate, so that a noisy moment hits both."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server(Path(folder), LLAMA_GPU_MODELS_DIR=str(MODELS_DIR)) as server,
    ):
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "llama_gpu_site.settings")
        from django.conf import settings

        settings.REDIS_URL = server.redis_url
        time.sleep(SETTLE_SECONDS)
        target = Target("LLaMA GPU", int(server.url.rsplit(":", 1)[1]), "/api/v1/stream_infer", "", server.api_key)
        without, beside, delays = asyncio.run(_measure(target, rounds))
    quantiles = statistics.quantiles(delays, n=100)
    slowed = 1 - median(beside) / median(without)
    row: Row = {
        "benchmark": "events",
        "watchers": WATCHERS,
        "streams": STREAMS,
        "rounds": rounds,
        "deliveries": len(delays),
        "delivery_p50_ms": round(quantiles[49] * 1000, 1),
        "delivery_p99_ms": round(quantiles[98] * 1000, 1),
        "tokens_per_second_without": round(median(without), 1),
        "tokens_per_second_with": round(median(beside), 1),
        "slowed_percent": round(100 * slowed, 1),
    }
    columns = ["watchers", "deliveries", "p50, ms", "p99, ms", "tokens/s without", "tokens/s with events", "slowed, %"]
    names = ("watchers", "deliveries", "delivery_p50_ms", "delivery_p99_ms")
    figures = ("tokens_per_second_without", "tokens_per_second_with", "slowed_percent")
    title = f"Events to {WATCHERS} watchers beside {STREAMS} streams (median of {rounds} rounds each)"
    report.add(title, columns, [[row[name] for name in (*names, *figures)]], [row])
