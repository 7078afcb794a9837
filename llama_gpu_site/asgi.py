"""The ASGI application: the site over HTTP, and the events over Socket.IO and websockets."""

import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import django
from channels.routing import ProtocolTypeRouter

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "llama_gpu_site.settings")
django.setup(set_prefix=False)

from llama_gpu_site.asgi_handler import SiteHandler  # noqa: E402  # Django must be set up before it
from monitoring.consumers import EventsConsumer  # noqa: E402
from monitoring.socketio_server import event_server  # noqa: E402

Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]

_site = SiteHandler()
_events = EventsConsumer.as_asgi()


async def _http(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    if is_socketio(scope["path"]):
        _site.take_thread()
        await event_server().handle_request(scope, receive, send)
    else:
        await _site(scope, receive, send)


async def _websocket(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    _site.take_thread()
    if is_socketio(scope["path"]):
        await event_server().handle_request(scope, receive, send)
    elif scope["path"].rstrip("/") == "/ws/events":
        await _events(scope, receive, send)
    else:
        await receive()
        await send({"type": "websocket.close"})


def is_socketio(path: str) -> bool:
    """Whether a path is Socket.IO's."""
    return path == "/socket.io" or path.startswith("/socket.io/")


application = ProtocolTypeRouter({"http": _http, "websocket": _websocket})
