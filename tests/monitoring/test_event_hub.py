import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
from asgiref.sync import sync_to_async
from pytest_django import Settings

from accounts.audit import SERVER
from accounts.caller import Caller, granted_by
from accounts.credentials import identify
from accounts.keys import revoke_api_key
from accounts.models import ApiKey, Role, User
from accounts.services import update_user
from common.errors import ApiError, BackendUnavailable, InvalidInput
from common.events import (
    CATALOGUE,
    CHANNELS,
    InferenceCompleted,
    InferenceStarted,
    LogEvent,
    ModelLoading,
    PluginLoaded,
    apublish,
    publish,
)
from monitoring import event_hub
from monitoring.event_hub import EventHub, Watcher, close_hub, hub
from monitoring.event_views import View
from monitoring.subscriptions import MAX_REPLAY, Subscribe, Unsubscribe, decide, read_subscribe, read_unsubscribe
from tests.accounts.conftest import make_key, make_user

ADMIN = Caller(identity="key:1", permissions=granted_by("admin"), user_id=1)
ANN = Caller(identity="user:ann", permissions=granted_by("write"), user_id=2)
BEN = Caller(identity="user:ben", permissions=granted_by("read"), user_id=3)
NOBODY = Caller(identity="address:::1", permissions=granted_by("read"))
DONE = InferenceCompleted(
    request_id="req_1",
    model="tiny",
    kind="infer",
    user_id=2,
    backend="cpu",
    prompt_tokens=3,
    tokens_generated=2,
    inference_time=0.5,
    queue_time=0.1,
    time_to_first_token=0.2,
    finish_reason="stop",
    generated_text="a secret",
)


class Ear(Watcher):
    """A connection that keeps what it hears."""

    def __init__(self, caller: Caller, credential: str = "") -> None:
        super().__init__(caller)
        self.heard: list[dict[str, Any]] = []
        self.end: ApiError | None = None
        self._credential = credential

    def send(self, view: View) -> None:
        self.heard.append(view.payload)

    def cut_off(self, error: ApiError) -> None:
        self.end = error

    async def identify(self) -> Caller | None:
        return await identify(self._credential) if self._credential else self.caller

    async def until(self, condition: Callable[[], Any], seconds: float = 5.0) -> None:
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110  # what is waited for is told to nobody
                await asyncio.sleep(0.01)

    def models(self) -> list[str]:
        return [payload["model"] for payload in self.heard]


@pytest.fixture
async def events(clean_redis: str) -> AsyncIterator[EventHub]:
    yield hub()
    await close_hub()


async def ear(events: EventHub, caller: Caller, *channels: str, **wanted: Any) -> Ear:
    watcher = Ear(caller, wanted.pop("credential", ""))
    await events.join(watcher)
    await events.subscribe(watcher, Subscribe(channels=list(channels), **wanted))
    return watcher


def loading(number: int) -> ModelLoading:
    return ModelLoading(model=str(number), progress=0.5, stage="read")


# ---------------------------------------------------------------- what is granted


def test_readers_watch_all_but_the_log() -> None:
    granted, refused = decide(ANN, [*CHANNELS, "gossip", "log_events"])
    assert granted == [channel for channel in CHANNELS if channel != "log_events"]
    assert [(item["channel"], item["code"]) for item in refused] == [
        ("log_events", "PERMISSION_DENIED"),
        ("gossip", "INVALID_INPUT"),
    ]
    assert decide(ADMIN, CHANNELS) == (list(CHANNELS), [])


@pytest.mark.parametrize(
    ("sent", "named"),
    [
        (None, "object"),
        ({}, "channels"),
        ({"channels": "model_events"}, "array"),
        ({"channels": [7]}, "str"),
        ({"channels": [], "since": 3}, "since"),
        ({"channels": [], "replay": -1}, "0 to"),
        ({"channels": [], "replay": MAX_REPLAY + 1}, "0 to"),
        ({"channels": [], "after": "yesterday"}, "id of an event"),
    ],
)
def test_a_wrong_subscription_is_refused_by_name(sent: Any, named: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_subscribe(sent)
    assert named in refused.value.message


def test_to_unsubscribe_from_everything_takes_no_words() -> None:
    assert read_unsubscribe(None) == read_unsubscribe({}) == Unsubscribe(None)


# ---------------------------------------------------------------- who sees what


async def test_an_event_comes_in_both_shapes(events: EventHub) -> None:
    watcher = await ear(events, ANN, "model_events")
    publish(loading(1))
    await watcher.until(lambda: watcher.heard)
    (payload,) = watcher.heard
    assert payload["event"] == "model_loading"
    assert payload["timestamp"].endswith("Z")
    assert payload["data"] == {"model": "1", "host": "", "device": "", "progress": 0.5, "stage": "read"}
    assert payload.items() >= payload["data"].items()


def test_no_field_of_an_event_hides_one_of_its_envelope() -> None:
    names = {name for kind in CATALOGUE.values() for name in kind.__struct_fields__}
    assert not names & {"event", "timestamp", "id", "data"}


async def test_requests_are_told_of_to_their_owners_and_to_administrators_without_the_text(events: EventHub) -> None:
    ann, ben, nobody, admin = [await ear(events, who, "inference_events") for who in (ANN, BEN, NOBODY, ADMIN)]
    started = InferenceStarted(request_id="req_2", model="tiny", kind="infer", backend="cpu", prompt_tokens=1)
    publish(DONE, started)  # the second one is of a caller without a name
    await admin.until(lambda: len(admin.heard) == 2)
    assert [payload["request_id"] for payload in ann.heard] == ["req_1"]
    assert ann.heard[0]["result"]["generated_text"] == ann.heard[0]["data"]["result"]["generated_text"] == "a secret"
    assert "secret" not in str(admin.heard)
    assert admin.heard[0]["tokens_generated"] == 2
    assert (ben.heard, nobody.heard) == ([], [])
    assert "user_id" not in str([*ann.heard, *admin.heard])


async def test_the_past_has_the_same_rights(events: EventHub) -> None:
    publish(DONE, LogEvent(level="info", component="web", message="hello"))
    ann = await ear(events, ANN, "inference_events", "log_events", replay=10)
    ben = await ear(events, BEN, "inference_events", "log_events", replay=10)
    admin = await ear(events, ADMIN, "inference_events", "log_events", replay=10)
    assert [payload["event"] for payload in ann.heard] == ["inference_completed"]
    assert ben.heard == []
    assert [payload["event"] for payload in admin.heard] == ["inference_completed", "log_event"]
    assert "secret" not in str(admin.heard)


# ---------------------------------------------------------------- subscribing


async def test_only_what_is_subscribed_comes_until_it_is_left(events: EventHub) -> None:
    watcher = await ear(events, ANN, "model_events")
    witness = await ear(events, ANN, "model_events", "plugin_events")
    publish(loading(1), PluginLoaded(plugin_id="filter"))
    await witness.until(lambda: len(witness.heard) == 2)
    answer = await events.unsubscribe(watcher, Unsubscribe(["model_events", "plugin_events"]))
    assert answer == {"success": True, "channels": [], "left": ["model_events"]}
    publish(loading(2))
    await witness.until(lambda: len(witness.heard) == 3)
    assert watcher.models() == ["1"]


async def test_the_last_events_are_played_again(events: EventHub) -> None:
    publish(*map(loading, range(700)))
    publish(PluginLoaded(plugin_id="filter"))
    watcher = Ear(ANN)
    await events.join(watcher)
    answer = await events.subscribe(watcher, Subscribe(["model_events", "plugin_events"], replay=450))
    assert answer["replayed"] == 450
    assert [payload.get("model") for payload in watcher.heard] == [*map(str, range(251, 700)), None]
    assert answer["last_id"] == watcher.heard[-1]["id"]


async def test_who_comes_back_misses_nothing_and_hears_nothing_twice(events: EventHub) -> None:
    """While events pour in, a client leaves and comes back with the id of the last one that it has heard."""
    stop = threading.Event()
    published = 0

    def pour() -> None:
        nonlocal published
        while not stop.is_set():
            publish(loading(published), PluginLoaded(plugin_id="filter"), loading(published + 1))
            published += 2
            time.sleep(0.001)

    witness = await ear(events, ANN, "model_events")
    heard: list[str] = []
    thread = threading.Thread(target=pour)
    thread.start()
    last = (await events.subscribe(witness, Subscribe(["model_events"])))["last_id"]
    for _ in range(15):
        watcher = await ear(events, ANN, "model_events", after=last)
        await asyncio.sleep(0.05)
        await events.leave(watcher)
        heard += watcher.models()
        last = watcher.heard[-1]["id"] if watcher.heard else last
        await asyncio.sleep(0.02)
    stop.set()
    await asyncio.to_thread(thread.join)
    watcher = await ear(events, ANN, "model_events", after=last)
    await witness.until(lambda: len(witness.heard) == published)
    heard += watcher.models()
    assert heard == [str(number) for number in range(published)]


async def test_one_reader_serves_all_and_stops_with_the_last(events: EventHub) -> None:
    watchers = [await ear(events, ANN, "model_events") for _ in range(120)]
    (reader,) = [task for task in asyncio.all_tasks() if task.get_name() == "read events"]
    await apublish(loading(1))
    for watcher in watchers:
        await watcher.until(lambda watcher=watcher: watcher.models() == ["1"])  # type: ignore[misc]
        await events.leave(watcher)
    assert reader.cancelled()
    late = await ear(events, ANN, "model_events")
    await apublish(loading(2))
    await late.until(lambda: late.models() == ["2"])


async def test_a_watcher_that_fails_costs_the_others_nothing(events: EventHub) -> None:
    broken, sound = await ear(events, ANN, "model_events"), await ear(events, ANN, "model_events")
    broken.send = lambda view: 1 / 0  # type: ignore[method-assign,assignment,return-value]
    publish(loading(1), loading(2))
    await sound.until(lambda: sound.models() == ["1", "2"])


async def test_too_many_watchers_are_refused(events: EventHub, settings: Settings) -> None:
    settings.MAX_WATCHERS = 1
    await ear(events, ANN)
    with pytest.raises(BackendUnavailable):
        await ear(events, BEN)


async def test_without_redis_nobody_is_let_in(settings: Settings) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    with pytest.raises(BackendUnavailable):
        await EventHub().join(Ear(ANN))


# ---------------------------------------------------------------- rights that change


@pytest.mark.django_db(transaction=True)
async def test_a_revoked_key_ends_its_connections_within_a_second(events: EventHub) -> None:
    credential = await make_key(await make_user())
    caller = await identify(credential)
    assert caller is not None
    watcher = await ear(events, caller, "model_events", credential=credential)
    other = await ear(events, ANN, "model_events")
    await asyncio.sleep(2 * event_hub.GUARD_SECONDS)
    assert watcher.end is None
    key = await ApiKey.objects.aget()
    await sync_to_async(revoke_api_key)(key=key, actor=SERVER)
    await watcher.until(lambda: watcher.end, seconds=1.5)
    assert watcher.end is not None
    assert watcher.end.code == "AUTHENTICATION_FAILED"
    assert other.end is None


@pytest.mark.django_db(transaction=True)
async def test_a_demoted_administrator_no_longer_sees_the_log_and_others_requests(events: EventHub) -> None:
    owner = await make_user()
    credential = await make_key(owner)
    caller = await identify(credential)
    assert caller is not None
    watcher = await ear(events, caller, "log_events", "inference_events", credential=credential)
    witness = await ear(events, ADMIN, "log_events", "inference_events")
    await make_user(username="another")
    user = await User.objects.aget(username="ada")
    await sync_to_async(update_user)(user=user, changes={"role": Role.VIEWER}, actor=SERVER)
    await watcher.until(lambda: watcher.heard, seconds=1.5)
    assert watcher.heard[0]["event"] == "unsubscribed"
    assert (watcher.heard[0]["left"], watcher.heard[0]["channels"]) == (["log_events"], ["inference_events"])
    anothers = msgspec.structs.replace(DONE, user_id=user.pk + 1)
    publish(anothers, LogEvent(level="info", component="web", message="hello"))
    await witness.until(lambda: len(witness.heard) == 2)
    assert len(watcher.heard) == 1
