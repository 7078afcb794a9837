"""`/ws/events`: the events over a plain websocket, for pages and for programs without a Socket.IO client."""

import asyncio
from typing import Any

import msgspec
from channels.generic.websocket import AsyncWebsocketConsumer

from accounts.caller import Caller
from common.direct_frames import direct_frames
from common.errors import ApiError, AuthenticationFailed, InvalidInput
from common.request_id import new_request_id, request_id
from monitoring.event_hub import BACKLOG, Watcher, hub, slow
from monitoring.event_views import View
from monitoring.socket_callers import Entrant
from monitoring.subscriptions import read_subscribe, read_unsubscribe

AUTHENTICATE_SECONDS = 10.0
# Close codes, of the range that RFC 6455 leaves to applications: 4000 and the error's HTTP status.
_CLOSE_CODES = 4000


class EventsConsumer(AsyncWebsocketConsumer):  # type: ignore[misc]  # channels has no types
    """Messages are JSON objects: `action` says what is wanted, `id` comes back with the answer."""

    # A layer would cost each connection one of its own to Redis; the hub reads for all of them.
    channel_layer_alias = "none"

    watcher: "_SocketWatcher | None" = None
    _deadline: asyncio.TimerHandle | None = None
    _refusing: asyncio.Future[None] | None = None

    async def connect(self) -> None:
        request_id.set(new_request_id())
        await self.accept()
        self.entrant = Entrant(self.scope, takes_session=True)
        if self.entrant.has_credential or await self.entrant.identify() is not None:
            await self._enter()
        else:
            error = AuthenticationFailed(
                "Send a key or token in the Authorization header, or in a first message "
                '{"action": "authenticate", "token": "…"}.'
            )
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(AUTHENTICATE_SECONDS, self._refuse_later, error)

    async def disconnect(self, code: int) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        if self.watcher is not None:
            self.watcher.stop()
            await hub().leave(self.watcher)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        message: dict[str, Any] = {}
        try:
            message = _object(text_data)
            await self._do(message.pop("action", None), message.pop("id", None), message)
        except ApiError as error:
            if self.watcher is None:
                await self._refuse(error)
            else:
                self.watcher.send(_failure(error))

    async def _do(self, action: Any, number: Any, message: dict[str, Any]) -> None:
        if self.watcher is None:
            if action != "authenticate":
                raise AuthenticationFailed
            self.entrant.token = str(message.get("token", ""))
            await self._enter()
            return
        if action == "subscribe":
            answer = await hub().subscribe(self.watcher, read_subscribe(message))
        elif action == "unsubscribe":
            answer = await hub().unsubscribe(self.watcher, read_unsubscribe(message))
        else:
            raise InvalidInput("There are the actions subscribe and unsubscribe.", field="action")
        named = {} if number is None else {"id": number}
        self.watcher.send(View(f"{action}d", {"event": f"{action}d", **named, **answer}))

    async def _enter(self) -> None:
        try:
            caller = await self.entrant.admit()
            watcher = _SocketWatcher(self, caller)
            await hub().join(watcher)
        except ApiError as error:
            await self._refuse(error)
            return
        if self._deadline is not None:
            self._deadline.cancel()
        self.watcher = watcher
        watcher.send(
            View("connected", {"event": "connected", "success": True, "permissions": sorted(caller.permissions)})
        )

    def _refuse_later(self, error: ApiError) -> None:
        self._refusing = asyncio.ensure_future(self._refuse(error))

    async def _refuse(self, error: ApiError) -> None:
        await self.send(text_data=_failure(error).text)
        await self.close(code=_CLOSE_CODES + error.status)


class _SocketWatcher(Watcher):
    """Writes straight to the socket while it takes everything, else through a bounded queue."""

    def __init__(self, consumer: EventsConsumer, caller: Caller) -> None:
        super().__init__(caller)
        self._consumer = consumer
        self._direct = direct_frames(consumer.scope)
        self._queue: asyncio.Queue[View] = asyncio.Queue(BACKLOG)
        self._is_writing = False
        self._writer = asyncio.create_task(self._write(), name="events to a websocket")
        self._ending: asyncio.Task[None] | None = None

    def send(self, view: View) -> None:
        if self._ending is not None:
            return
        direct = self._direct
        if direct is not None and direct.is_open and not self._is_writing and self._queue.empty():
            direct.write(view.frame)
            return
        try:
            self._queue.put_nowait(view)
        except asyncio.QueueFull:
            self.cut_off(slow())
            if direct is not None:
                direct.abort()

    def cut_off(self, error: ApiError) -> None:
        if self._ending is None:
            self.stop()
            self._ending = asyncio.create_task(self._consumer._refuse(error), name="end a websocket")

    async def identify(self) -> Caller | None:
        return await self._consumer.entrant.identify()

    def stop(self) -> None:
        self._writer.cancel()

    async def _write(self) -> None:
        while True:
            view = await self._queue.get()
            self._is_writing = True
            await self._consumer.send(text_data=view.text)
            self._is_writing = False


def _object(text: str | None) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(text or "")
    except msgspec.DecodeError:
        found = None
    if not isinstance(found, dict):
        raise InvalidInput("A message is a JSON object.")
    return found


def _failure(error: ApiError) -> View:
    body = {"code": error.code, "message": error.message, "details": error.details}
    return View("error", {"event": "error", "success": False, "error": body})
