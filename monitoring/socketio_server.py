"""`/socket.io/`: the events over Socket.IO 5 (Engine.IO 4), polling and websocket, for its stock clients."""

import asyncio
import logging
import secrets
from typing import Any
from urllib.parse import parse_qs

import socketio
from django.conf import settings
from engineio import AsyncServer as EngineServer
from engineio.async_drivers.asgi import WebSocket
from engineio.async_socket import AsyncSocket
from engineio.packet import MESSAGE, Packet
from socketio.exceptions import ConnectionRefusedError as Refused

from accounts.caller import Caller
from common.direct_frames import DirectFrames, direct_frames
from common.errors import ApiError, AuthenticationFailed, BackendUnavailable, PermissionDenied
from monitoring.event_hub import BACKLOG, Watcher, hub, slow
from monitoring.event_views import View
from monitoring.socket_callers import Entrant, may_connect
from monitoring.subscriptions import read_subscribe, read_unsubscribe

logger = logging.getLogger(__name__)

# For a new connection to say who it is.
CONNECT_SECONDS = 15.0
# Connections that have not said so yet, beside settings.MAX_WATCHERS that have.
_SPARE_SOCKETS = 200
# What stock clients accept in the answer to one poll; python-socketio hangs up on more.
_PACKETS_PER_POLL = 16


class _DirectWebSocket(WebSocket):  # type: ignore[misc]  # engineio has no types
    """Knows how to write prepared frames, and whether it is sending."""

    direct: DirectFrames | None = None
    is_sending = False

    async def __call__(self, environ: dict[str, Any]) -> Any:
        self.direct = direct_frames(environ["asgi.scope"])
        self.handler.__self__.websocket = self
        return await super().__call__(environ)

    async def send(self, message: Any) -> None:
        self.is_sending = True
        await super().send(message)
        self.is_sending = False


class _Socket(AsyncSocket):  # type: ignore[misc]  # engineio has no types
    """One Engine.IO connection, to which events are handed without waiting."""

    websocket: _DirectWebSocket | None = None

    def offer(self, view: View) -> bool:
        """Send a message now, or keep it; False when too much waits already."""
        if self.closed or self.closing:
            return True
        websocket = self.websocket
        if websocket is not None and self.upgraded and not websocket.is_sending and self.queue.empty():
            direct = websocket.direct
            if direct is not None and direct.is_open:
                direct.write(view.packet_frame)
                return True
        if self.queue.qsize() >= BACKLOG:
            return False
        self.queue.put_nowait(Packet(MESSAGE, view.packet))
        return True

    async def poll(self) -> list[Packet]:
        packets: list[Packet] = await super().poll()
        if self.upgraded or len(packets) <= _PACKETS_PER_POLL:
            return packets
        later = packets[_PACKETS_PER_POLL:]
        while not self.queue.empty():
            later.append(self.queue.get_nowait())
            self.queue.task_done()
        for packet in later:
            self.queue.put_nowait(packet)
        return packets[:_PACKETS_PER_POLL]


class _EngineServer(EngineServer):  # type: ignore[misc]  # engineio has no types
    """Gives sessions ids that name this process, so that the others know whose they are."""

    process_id = ""

    def generate_id(self) -> str:
        return f"{self.process_id}.{super().generate_id()}"


class EventServer(socketio.AsyncServer):  # type: ignore[misc]  # socketio has no types
    """One per process. `process_id` is the beginning of all its sessions' ids."""

    def __init__(self) -> None:
        super().__init__(
            async_mode="asgi",
            cors_allowed_origins=lambda origin, environ: may_connect(origin, environ.get("HTTP_HOST", "")),
            max_http_buffer_size=settings.MAX_SOCKET_MESSAGE_BYTES,
            http_compression=False,
        )
        self.process_id = self.eio.process_id = secrets.token_hex(6)
        self.eio._async = {**self.eio._async, "websocket": _DirectWebSocket}
        self.watchers: dict[str, _SocketIoWatcher] = {}
        self.on("connect", self._enter)
        self.on("disconnect", self._leave)
        self.on("subscribe", self._subscribe)
        self.on("unsubscribe", self._unsubscribe)

    def _engineio_server_class(self) -> type[EngineServer]:
        return _EngineServer

    async def _handle_eio_connect(self, eio_sid: str, environ: dict[str, Any]) -> Any:
        # The Engine.IO server makes its sockets itself, and has no way to be told of which class.
        self.eio.sockets[eio_sid].__class__ = _Socket
        if len(self.eio.sockets) > settings.MAX_WATCHERS + _SPARE_SOCKETS:
            return "Too many connections watch already; try again later."
        asyncio.get_running_loop().call_later(CONNECT_SECONDS, self._drop_idle, eio_sid)
        return await super()._handle_eio_connect(eio_sid, environ)

    def _drop_idle(self, eio_sid: str) -> None:
        """Close a connection that has not said by now who it is."""
        socket: _Socket | None = self.eio.sockets.get(eio_sid)
        if socket is not None and self.manager.sid_from_eio_sid(eio_sid, "/") is None:
            self.start_background_task(socket.close, wait=False, abort=False)

    async def _enter(self, sid: str, environ: dict[str, Any], auth: Any = None) -> None:
        entrant = Entrant(environ["asgi.scope"], takes_session=False)
        token = auth.get("token") if isinstance(auth, dict) else None
        if token is not None:
            entrant.token = str(token)
        try:
            watcher = _SocketIoWatcher(self, sid, entrant, await entrant.admit())
            await hub().join(watcher)
        except ApiError as error:
            raise Refused(error.message, {"code": error.code, "message": error.message, **error.details}) from None
        self.watchers[sid] = watcher

    async def _leave(self, sid: str, reason: Any = None) -> None:
        watcher = self.watchers.pop(sid, None)
        if watcher is not None:
            await hub().leave(watcher)

    async def _subscribe(self, sid: str, data: Any = None) -> dict[str, Any]:
        return await self._answered(sid, "subscribed", data)

    async def _unsubscribe(self, sid: str, data: Any = None) -> dict[str, Any]:
        return await self._answered(sid, "unsubscribed", data)

    async def _answered(self, sid: str, name: str, data: Any) -> dict[str, Any]:
        """Do what was asked for, and say so: as the acknowledgement, and as an event for who asks for none."""
        watcher = self.watchers.get(sid)
        try:
            if watcher is None:
                raise BackendUnavailable("This connection has ended.")
            if name == "subscribed":
                answer = await hub().subscribe(watcher, read_subscribe(data))
            else:
                answer = await hub().unsubscribe(watcher, read_unsubscribe(data))
        except ApiError as error:
            answer = {"success": False, "error": {"code": error.code, "message": error.message, **error.details}}
        if watcher is not None:
            watcher.send(View(name, {"event": name, **answer}))
        return answer


class _SocketIoWatcher(Watcher):
    def __init__(self, server: EventServer, sid: str, entrant: Entrant, caller: Caller) -> None:
        super().__init__(caller)
        self._server = server
        self._sid = sid
        self._entrant = entrant
        self._socket: _Socket = server.eio.sockets[server.manager.eio_sid_from_sid(sid, "/")]
        self._ending: asyncio.Task[None] | None = None

    def send(self, view: View) -> None:
        if self._ending is None and not self._socket.offer(view):
            self.cut_off(slow())
            websocket = self._socket.websocket
            if websocket is not None and websocket.direct is not None:
                websocket.direct.abort()

    def cut_off(self, error: ApiError) -> None:
        if self._ending is None:
            body = {"code": error.code, "message": error.message}
            self._socket.offer(View("error", {"event": "error", "success": False, "error": body}))
            self._ending = asyncio.create_task(self._end(error), name="end a Socket.IO connection")

    async def _end(self, error: ApiError) -> None:
        """Clients come back by themselves, unless it is the namespace that they are told to leave."""
        if isinstance(error, AuthenticationFailed | PermissionDenied):
            await self._server.disconnect(self._sid)
        else:
            await self._socket.close(wait=False)

    async def identify(self) -> Caller | None:
        return await self._entrant.identify()


_servers: list[EventServer] = []


def event_server() -> EventServer:
    """This process's server, made at the first call."""
    if not _servers:
        _servers.append(EventServer())
    return _servers[0]


def process_of_request(uri: bytes) -> str:
    """The process whose session a request is for, by its address; "" for one that is for any."""
    path, _, query = uri.partition(b"?")
    if path.rstrip(b"/") != b"/socket.io":
        return ""
    (session_id,) = parse_qs(query.decode("latin-1")).get("sid", [""])[:1]
    process_id = session_id.partition(".")[0]
    return process_id if "." in session_id and process_id.isalnum() else ""
