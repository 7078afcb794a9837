"""A worker's plugins: they follow the database, and live as long as somebody runs with them."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
from django.utils import timezone

from accounts.models import AuditEntry
from common.errors import PluginLoadFailed
from plugins_app import discovery, followers, loaded
from plugins_app.chain import PluginFailed, Run
from plugins_app.discovery import Installed
from plugins_app.hookspecs import Prompt, hookimpl
from plugins_app.manager import PluginManager
from plugins_app.models import Plugin
from plugins_app.services import configure_plugin, load_plugin, unload_plugin
from tests.plugins_app.plugging import REQUEST, about

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("clean_redis")]


class Counted:
    """Tells when it is set up and torn down."""

    info = about("counted", settings_schema={"type": "object", "properties": {"mark": {"default": ""}}})
    alive: ClassVar[list[str]] = []
    fails: ClassVar[bool] = False

    @hookimpl
    def setup(self, settings: Any) -> None:
        if self.fails:
            raise OSError("a file is missing")
        self._mark: str = settings["mark"]
        self.alive.append(self._mark)

    @hookimpl
    def teardown(self) -> None:
        self.alive.remove(self._mark)

    @hookimpl
    def prompt(self, prompt: Prompt) -> Prompt:
        return prompt.map(lambda text: text + self._mark)


@pytest.fixture
def manager(clean_redis: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[PluginManager]:
    """A worker's manager, with one more plugin installed."""
    known = {**discovery.installed(), "counted": Installed(Counted.info, "test", Counted)}
    monkeypatch.setattr(discovery._discovery, "all", lambda: known)
    Counted.alive.clear()
    Counted.fails = False
    manager = PluginManager("this one")
    manager.start()
    yield manager
    manager.stop()


def within_a_second(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 1.0
    while not condition():
        assert time.monotonic() < deadline, "not within a second"
        time.sleep(0.01)


def prompted(manager: PluginManager) -> str:
    chain = manager.take()
    if chain is None:
        return "x"
    run = Run(chain, REQUEST, Prompt(text="x"))
    run.begin()
    manager.give_back(chain)
    return str(run.prompt.text)


def test_it_follows_load_configuration_and_unload(manager: PluginManager) -> None:
    assert manager.take() is None
    load_plugin(plugin_id="counted", config={"settings": {"mark": "1"}})
    within_a_second(lambda: prompted(manager) == "x1")
    configure_plugin(plugin_id="counted", config={"settings": {"mark": "2"}})
    within_a_second(lambda: prompted(manager) == "x2")
    configure_plugin(plugin_id="counted", config={"enabled": False})
    within_a_second(lambda: prompted(manager) == "x")
    unload_plugin(plugin_id="counted")
    within_a_second(lambda: Counted.alive == [])


def test_every_worker_follows(manager: PluginManager) -> None:
    other = PluginManager("another one")
    other.start()
    try:
        load_plugin(plugin_id="counted", config={"settings": {"mark": "1"}})
        within_a_second(lambda: (prompted(manager), prompted(other)) == ("x1", "x1"))
        configure_plugin(plugin_id="counted", config={"settings": {"mark": "2"}})
        within_a_second(lambda: (prompted(manager), prompted(other)) == ("x2", "x2"))
        unload_plugin(plugin_id="counted")
        within_a_second(lambda: (prompted(manager), prompted(other)) == ("x", "x"))
    finally:
        other.stop()


def test_a_plugin_lives_until_the_last_request_that_began_with_it_has_ended(manager: PluginManager) -> None:
    load_plugin(plugin_id="counted", config={"settings": {"mark": "1"}})
    within_a_second(lambda: prompted(manager) == "x1")
    first, second = manager.take(), manager.take()
    assert first is not None
    assert second is not None
    configure_plugin(plugin_id="counted", config={"settings": {"mark": "2"}})
    within_a_second(lambda: prompted(manager) == "x2")
    assert Counted.alive == ["1", "2"]
    run = Run(first, REQUEST, Prompt(text="x"))
    run.begin()
    assert run.prompt.text == "x1"
    manager.give_back(first)
    assert Counted.alive == ["1", "2"]
    manager.give_back(second)
    assert Counted.alive == ["2"]


def test_a_change_of_order_alone_sets_nothing_up_again(manager: PluginManager) -> None:
    load_plugin(plugin_id="counted", config={"settings": {"mark": "1"}})
    within_a_second(lambda: prompted(manager) == "x1")
    chain = manager.take()
    assert chain is not None
    plugin = chain.links[0].plugin
    manager.give_back(chain)
    load_plugin(plugin_id="json_repair")
    configure_plugin(plugin_id="counted", config={"priority": 500})

    def moved() -> bool:
        now = manager.take()
        assert now is not None
        manager.give_back(now)
        return [link.plugin_id for link in now.links] == ["json_repair", "counted"] and now.links[1].plugin is plugin

    within_a_second(moved)


@pytest.mark.parametrize("on_error", ["open", "closed"])
def test_one_that_this_worker_cannot_load_is_left_out_or_fails_requests(manager: PluginManager, on_error: str) -> None:
    load_plugin(plugin_id="counted", config={"on_error": on_error, "settings": {"mark": "1"}})
    within_a_second(lambda: prompted(manager) == "x1")
    Counted.fails = True
    Plugin.objects.filter(pk="counted").update(settings={"mark": "2"})
    load_plugin(plugin_id="json_repair")
    if on_error == "open":
        within_a_second(lambda: prompted(manager) == "x")
    else:
        within_a_second(lambda: fails(manager))
    within_a_second(lambda: "OSError" in Plugin.objects.get(pk="counted").last_error)


@pytest.fixture
def only_workers_fail(manager: PluginManager, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugin can be set up everywhere but in a worker."""

    def load(plugin: Installed, settings: Any) -> loaded.LoadedPlugin:
        if plugin.info.id == "counted":
            raise loaded.LoadError("OSError: the worker has no such file")
        return loaded.load(plugin, settings)

    monkeypatch.setattr("plugins_app.manager.load", load)


@pytest.mark.usefixtures("only_workers_fail")
def test_a_plugin_that_fails_in_a_worker_alone_is_not_loaded(manager: PluginManager) -> None:
    with pytest.raises(PluginLoadFailed) as refused:
        load_plugin(plugin_id="counted")
    error = "OSError: the worker has no such file"
    assert refused.value.details == {"plugin": "counted", "error": error, "worker": "this one"}
    row = Plugin.objects.get(pk="counted")
    assert (row.loaded, "no such file" in row.last_error) == (False, True)
    assert [entry.action for entry in AuditEntry.objects.order_by("id")] == ["plugin.loaded", "plugin.unloaded"]
    within_a_second(lambda: manager.take() is None)


def test_a_configuration_that_a_worker_refuses_is_put_back(
    manager: PluginManager, request: pytest.FixtureRequest
) -> None:
    load_plugin(plugin_id="counted", config={"settings": {"mark": "1"}})
    request.getfixturevalue("only_workers_fail")
    with pytest.raises(PluginLoadFailed):
        configure_plugin(plugin_id="counted", config={"settings": {"mark": "2"}, "priority": 7})
    row = Plugin.objects.get(pk="counted")
    assert (row.loaded, row.settings, row.priority) == (True, {"mark": "1"}, 100)


@pytest.fixture
def meanwhile(manager: PluginManager, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Changes the row of the plugin when it is next set up to try it."""
    changes: dict[str, Any] = {}

    def load(plugin: Installed, settings: Any) -> loaded.LoadedPlugin:
        if changes:
            Plugin.objects.filter(pk=plugin.info.id).update(**changes)
            changes.clear()
        return loaded.load(plugin, settings)

    monkeypatch.setattr("plugins_app.services.load", load)
    return changes.update


def test_what_others_change_while_a_plugin_is_set_up_is_kept(meanwhile: Callable[..., None]) -> None:
    load_plugin(plugin_id="counted", config={"settings": {"mark": "1"}})
    meanwhile(settings={"mark": "2"}, circuit="open", circuit_opened_at=timezone.now(), last_error="it crashed")
    known = configure_plugin(plugin_id="counted", config={"priority": 7})
    row = Plugin.objects.get(pk="counted")
    assert (row.priority, row.settings, row.circuit, row.last_error) == (7, {"mark": "2"}, "open", "it crashed")
    assert known.row.config == row.config

    meanwhile(priority=9, max_failures=3)
    configure_plugin(plugin_id="counted", config={"settings": {"mark": "3"}, "max_failures": 4})
    row = Plugin.objects.get(pk="counted")
    assert (row.priority, row.settings, row.max_failures) == (9, {"mark": "3"}, 4)
    assert (row.circuit, row.last_error) == ("closed", "")  # other settings begin anew


def test_what_others_change_while_workers_refuse_is_kept(
    manager: PluginManager, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_plugin(plugin_id="counted", config={"settings": {"mark": "1"}})
    request.getfixturevalue("only_workers_fail")
    wait = followers.wait_for_workers

    def waited(plugin_id: str, version: int) -> followers.Trouble | None:
        Plugin.objects.filter(pk="counted").update(priority=9)
        return wait(plugin_id, version)

    monkeypatch.setattr("plugins_app.services.wait_for_workers", waited)
    with pytest.raises(PluginLoadFailed):
        configure_plugin(plugin_id="counted", config={"settings": {"mark": "2"}, "slow_seconds": 3})
    row = Plugin.objects.get(pk="counted")
    assert (row.settings, row.slow_seconds, row.priority) == ({"mark": "1"}, 0.5, 9)


def test_a_set_up_that_hangs_is_given_up_and_gets_no_second_thread(
    manager: PluginManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    released, calls = threading.Event(), []
    set_up = Counted.setup

    @hookimpl
    def setup(self: Counted, settings: Any) -> None:
        calls.append(settings)
        released.wait()
        set_up(self, settings)

    monkeypatch.setattr(Counted, "setup", setup)
    monkeypatch.setattr(loaded, "SET_UP_SECONDS", 0.1)
    for error in ("it did not return within 0.1 s", "it hangs since it was to be set up before"):
        with pytest.raises(PluginLoadFailed) as refused:
            load_plugin(plugin_id="counted")
        assert refused.value.details["error"] == error
        assert Plugin.objects.get(pk="counted").last_error == error
    assert len(calls) == 1
    load_plugin(plugin_id="json_repair")  # others are not held up
    released.set()
    within_a_second(lambda: not loaded._hanging)
    monkeypatch.setattr(Counted, "setup", set_up)
    load_plugin(plugin_id="counted", config={"settings": {"mark": "1"}})
    within_a_second(lambda: prompted(manager) == "x1")


def test_whoever_loads_a_plugin_finds_the_workers_running_it(manager: PluginManager) -> None:
    load_plugin(plugin_id="counted", config={"settings": {"mark": "1"}})
    assert prompted(manager) == "x1"
    configure_plugin(plugin_id="counted", config={"settings": {"mark": "2"}})
    assert prompted(manager) == "x2"


def test_a_worker_that_does_not_follow_is_not_waited_for_long(
    manager: PluginManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followers, "WAIT_SECONDS", 0.5)
    now = time.time()
    followers.tell("silent", version=0, at=now, broken={})
    followers.tell("gone", version=0, at=now - 3600, broken={"counted": "long ago"})
    began = time.monotonic()
    assert load_plugin(plugin_id="counted").row.loaded
    assert 0.5 <= time.monotonic() - began < 2.0
    followers.leave("silent")
    configure_plugin(plugin_id="counted", config={"settings": {"mark": "3"}})
    assert prompted(manager) == "x3"


def fails(manager: PluginManager) -> bool:
    chain = manager.take()
    assert chain is not None
    try:
        Run(chain, REQUEST, Prompt(text="x"))
    except PluginFailed:
        return True
    finally:
        manager.give_back(chain)
    return False
