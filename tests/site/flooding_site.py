"""A web server on an ASGI application that sends without end, run as a process of its own by test_web_server.

python -m tests.site.flooding_site FD SLOW_READER_SECONDS BODY_LIMIT
"""

import asyncio
import json
import socket
import sys
from typing import Any

from common.direct_body import direct_body
from llama_gpu_site.web_server import WebServer

CHUNK = b"x" * 65536
flooding = 0


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        await flood(lambda: send({"type": "websocket.send", "bytes": CHUNK}))
    elif scope["path"] == "/mixed":
        await mix(scope, send)
    elif scope["path"] == "/direct-flood":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await flood(lambda: push(scope, send))
    elif scope["path"] == "/flood":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await flood(lambda: send({"type": "http.response.body", "body": CHUNK, "more_body": True}))
    else:
        received, more = 0, True
        while more:
            message = await receive()
            received, more = received + len(message.get("body", b"")), message.get("more_body", False)
        body = json.dumps({"flooding": flooding, "received": received}).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})


async def push(scope: dict[str, Any], send: Any) -> None:
    """Write past `send` as long as that is allowed."""
    body = direct_body(scope)
    assert body is not None
    if body.is_open:
        body.write(CHUNK)
        await asyncio.sleep(0)
    else:
        await send({"type": "http.response.body", "body": CHUNK, "more_body": True})


async def mix(scope: dict[str, Any], send: Any) -> None:
    """Parts of many sizes, every third through `send`, the others past it; then whether it was open when."""
    body = direct_body(scope)
    assert body is not None
    states = [body.is_open]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    states.append(body.is_open)
    for number in range(600):
        part = b"%d," % number * (1 + number % 50)
        if number % 3 and body.is_open:
            body.write(part)
        else:
            await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": json.dumps(states).encode()})
    states.append(body.is_open)
    assert states == [False, True, False], states


async def flood(send: Any) -> None:
    """Like Django, ends when the client is gone; unlike it, only notices by not being let on."""
    global flooding  # noqa: PLW0603
    flooding += 1
    try:
        while True:
            await send()
    finally:
        flooding -= 1


class Application:
    """Cancels what a client has left behind, as Django's handler does."""

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http" and "flood" not in scope["path"]:
            await application(scope, receive, send)
            return
        task = asyncio.ensure_future(application(scope, receive, send))
        while (await receive())["type"] not in ("http.disconnect", "websocket.disconnect"):
            pass
        task.cancel()


if __name__ == "__main__":
    descriptor, seconds, limit = sys.argv[1:]
    WebServer(
        Application(),
        listening_socket=socket.socket(fileno=int(descriptor)),
        slow_reader_seconds=float(seconds),
        body_limit=lambda path: int(limit),
        signal_handlers=True,
    ).run()
