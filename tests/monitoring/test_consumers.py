import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.testing import WebsocketCommunicator
from django.conf import settings as site
from django.test import AsyncClient
from pytest_django import Settings

from accounts.audit import SERVER
from accounts.models import Role, User
from accounts.services import update_user
from accounts.tokens import issue
from common.events import InferenceCompleted, ModelLoading, publish
from llama_gpu_site.asgi import application
from monitoring import consumers
from monitoring.event_hub import close_hub
from tests.accounts.conftest import make_key, make_user

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("clean_redis")]
LOADING = ModelLoading(model="tiny", progress=0.5, stage="read")


class Socket:
    """A program's end of /ws/events."""

    def __init__(self, **headers: str) -> None:
        lines = {"Host": "localhost", **headers}
        pairs = [(name.replace("_", "-").lower().encode(), value.encode()) for name, value in lines.items()]
        self._communicator = WebsocketCommunicator(application, "/ws/events", headers=pairs)

    async def open(self) -> None:
        assert (await self._communicator.connect(timeout=5))[0]

    async def ask(self, **message: Any) -> dict[str, Any]:
        await self._communicator.send_to(text_data=json.dumps(message))
        return await self.hear()

    async def say(self, text: str | bytes) -> dict[str, Any]:
        named = {"bytes_data": text} if isinstance(text, bytes) else {"text_data": text}
        await self._communicator.send_to(**named)
        return await self.hear()

    async def hear(self) -> dict[str, Any]:
        heard: dict[str, Any] = await self._communicator.receive_json_from(timeout=5)
        return heard

    async def closed(self) -> int:
        """The code it is closed with."""
        message = await self._communicator.receive_output(timeout=5)
        assert message["type"] == "websocket.close"
        return int(message["code"])

    async def is_silent(self) -> bool:
        return bool(await self._communicator.receive_nothing(timeout=0.3))

    async def close(self) -> None:
        await self._communicator.disconnect()


@asynccontextmanager
async def opened(**headers: str) -> AsyncIterator[Socket]:
    socket = Socket(**headers)
    await socket.open()
    try:
        yield socket
    finally:
        await socket.close()
        await close_hub()


async def signed_in(user: User) -> str:
    """The Cookie header of a browser that this user has signed in with."""
    client = AsyncClient()
    await sync_to_async(client.force_login)(user)
    return f"{site.SESSION_COOKIE_NAME}={client.cookies[site.SESSION_COOKIE_NAME].value}"


async def test_a_key_in_a_header_opens_it_and_events_come() -> None:
    key = await make_key()
    async with opened(Authorization=f"Bearer {key}") as socket:
        assert await socket.hear() == {"event": "connected", "success": True, "permissions": ["admin", "read", "write"]}
        answer = await socket.ask(action="subscribe", channels=["model_events", "gossip"], id=7)
        assert (answer["event"], answer["id"], answer["granted"]) == ("subscribed", 7, ["model_events"])
        assert answer["refused"][0]["channel"] == "gossip"
        publish(LOADING)
        event = await socket.hear()
        assert (event["event"], event["model"], event["data"]["model"]) == ("model_loading", "tiny", "tiny")
        left = await socket.ask(action="unsubscribe")
        assert (left["left"], left["channels"]) == (["model_events"], [])
        publish(LOADING)
        assert await socket.is_silent()
        again = await socket.ask(action="subscribe", channels=["model_events"], after=event["id"])
        assert again["event"] == "model_loading"


async def test_a_token_opens_it_too() -> None:
    user = await make_user(Role.VIEWER)
    token, _ = await sync_to_async(issue)(user)
    async with opened(Authorization=f"Bearer {token}") as socket:
        assert (await socket.hear())["permissions"] == ["read"]
        answer = await socket.ask(action="subscribe", channels=["log_events"])
        assert (answer["granted"], answer["refused"][0]["code"]) == ([], "PERMISSION_DENIED")


async def test_a_browsers_session_opens_it_for_our_own_pages_alone() -> None:
    user = await make_user()
    cookie = await signed_in(user)
    async with opened(Cookie=cookie, Origin="http://localhost") as socket:
        assert (await socket.hear())["event"] == "connected"
        await make_user(username="another")
        await sync_to_async(update_user)(user=user, changes={"is_active": False}, actor=SERVER)
        assert (await socket.hear())["error"]["code"] == "AUTHENTICATION_FAILED"
        assert await socket.closed() == 4401
    other = await signed_in(await make_user(username="eve"))
    async with opened(Cookie=other, Origin="https://evil.example") as socket:
        assert (await socket.ask(action="subscribe", channels=["model_events"]))["error"][
            "code"
        ] == "AUTHENTICATION_FAILED"
        assert await socket.closed() == 4401


async def test_a_key_in_the_first_message_opens_it() -> None:
    key = await make_key(permission="read")
    async with opened() as socket:
        assert (await socket.ask(action="authenticate", token=key))["event"] == "connected"


@pytest.mark.parametrize("headers", [{"Authorization": "Bearer nonsense"}, {"X_API_Key": "nonsense"}])
async def test_a_bad_credential_closes_it(headers: dict[str, str]) -> None:
    async with opened(**headers) as socket:
        assert (await socket.hear())["error"]["code"] == "AUTHENTICATION_FAILED"
        assert await socket.closed() == 4401


async def test_a_bad_first_message_closes_it() -> None:
    async with opened() as socket:
        assert (await socket.ask(action="authenticate", token="nonsense"))["error"]["code"] == "AUTHENTICATION_FAILED"
        assert await socket.closed() == 4401


async def test_who_says_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumers, "AUTHENTICATE_SECONDS", 0.1)
    async with opened() as socket:
        assert (await socket.hear())["error"]["code"] == "AUTHENTICATION_FAILED"
        assert await socket.closed() == 4401


async def test_a_host_that_is_not_ours_is_refused() -> None:
    async with opened(Host="evil.example", Authorization=f"Bearer {await make_key()}") as socket:
        assert (await socket.hear())["error"]["details"] == {"field": "Host"}
        assert await socket.closed() == 4400


async def test_guessing_is_throttled(settings: Settings) -> None:
    settings.RATE_LIMITS = {**settings.RATE_LIMITS, "system": (1, 1, 3600)}
    codes = []
    for _ in range(2):
        async with opened(Authorization="Bearer nonsense") as socket:
            await socket.hear()
            codes.append(await socket.closed())
    assert codes == [4401, 4429]


async def test_after_too_many_bad_keys_a_new_one_is_not_looked_up(settings: Settings) -> None:
    settings.BAD_CREDENTIALS_PER_MINUTE = 2
    heard = []
    for key in ("wrong", "worse", await make_key()):
        async with opened(Authorization=f"Bearer {key}") as socket:
            heard.append((await socket.hear())["error"]["code"])
    assert heard == ["AUTHENTICATION_FAILED", "AUTHENTICATION_FAILED", "RATE_LIMIT_EXCEEDED"]


async def test_anonymous_access_sees_no_requests(settings: Settings) -> None:
    settings.ANONYMOUS_PERMISSION = "read"
    async with opened() as socket:
        assert (await socket.hear())["permissions"] == ["read"]
        await socket.ask(action="subscribe", channels=["inference_events", "model_events"])
        publish(
            InferenceCompleted(
                request_id="req_1",
                model="tiny",
                kind="infer",
                backend="cpu",
                prompt_tokens=1,
                tokens_generated=1,
                inference_time=0.1,
                queue_time=0.1,
                time_to_first_token=0.1,
                finish_reason="stop",
            ),
            LOADING,
        )
        assert (await socket.hear())["event"] == "model_loading"


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("nonsense", None),
        ("[]", None),
        (b"\x00", None),
        ('{"action": "dance"}', "action"),
        ('{"action": "subscribe"}', None),
        ('{"action": "subscribe", "channels": [], "replay": 9999}', "replay"),
    ],
)
async def test_a_wrong_message_is_answered_and_the_connection_stays(text: str | bytes, field: str | None) -> None:
    async with opened(Authorization=f"Bearer {await make_key()}") as socket:
        await socket.hear()
        answer = await socket.say(text)
        assert (answer["event"], answer["error"]["code"]) == ("error", "INVALID_INPUT")
        assert answer["error"]["details"].get("field") == field
        assert (await socket.ask(action="unsubscribe"))["success"]


async def test_other_addresses_have_no_websocket() -> None:
    communicator = WebsocketCommunicator(application, "/ws/other")
    assert (await communicator.connect())[0] is False
