"""Foreign packages, whatever they do while they are imported."""

import builtins
import importlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugins_app import discovery
from plugins_app.builtin.pii_redactor import PiiRedactor
from plugins_app.discovery import BUILT_IN, Discovery, Installed

PLUGIN = """
from plugins_app.hookspecs import PluginInfo

class Plugin:
    info = PluginInfo(id={id!r}, name="Name", version="1", category="monitoring", {more})
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The module of an installed package, whose entry point `foreign` names the class Plugin in it."""
    module, info = tmp_path / "foreign_plugin.py", tmp_path / "foreign_plugin-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: foreign-plugin\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[llama_gpu.plugins]\nforeign = foreign_plugin:Plugin\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield module
    sys.modules.pop("foreign_plugin", None)


def found() -> Installed:
    return Discovery().all()["foreign"]


def test_a_package_is_found_by_its_entry_point(package: Path) -> None:
    package.write_text(PLUGIN.format(id="foreign", more='default_on_error="closed"'))
    installed = found()
    assert (installed.package, installed.error, installed.info.version) == ("foreign-plugin 1.2", "", "1")


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import sys; sys.exit('no licence')", "SystemExit: no licence"),
        ("1 / 0", "ZeroDivisionError"),
        ("def", "SyntaxError"),
        ("import nothing_of_this_name", "ModuleNotFoundError"),
        ("Plugin = 3", "PluginInfo"),
        (PLUGIN.format(id="other", more=""), "is not the name of its entry point"),
        (PLUGIN.format(id="foreign", more='api_version="9"'), "version 9 of the plugin API"),
        (PLUGIN.format(id="foreign", more='default_on_error="ajar"'), "'ajar' is not open or closed"),
        (PLUGIN.format(id="foreign", more='settings_schema={"type": 3}'), "settings_schema"),
    ],
)
def test_what_cannot_be_imported_is_contained_and_told(package: Path, source: str, error: str) -> None:
    package.write_text(source)
    installed = found()
    assert error in installed.error
    assert installed.make is None


def test_an_import_that_hangs_is_given_up_and_gets_no_second_thread(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "IMPORT_SECONDS", 0.2)
    package.write_text("import builtins; builtins.foreign_tries.append(1); builtins.foreign_released.wait(30)")
    tries: list[int] = []
    released = threading.Event()
    monkeypatch.setattr(builtins, "foreign_tries", tries, raising=False)
    monkeypatch.setattr(builtins, "foreign_released", released, raising=False)
    plugins = Discovery()
    for _ in range(2):
        assert plugins.all()["foreign"].error == "Overdue: it did not return within 0.2 s"
        assert "pii_redactor" in plugins.all()
        plugins.forget()
    assert tries == [1]
    released.set()


def test_whoever_presses_control_c_is_heard(package: Path) -> None:
    package.write_text("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        found()


def test_a_package_cannot_take_the_place_of_what_is_built_in(package: Path, caplog: pytest.LogCaptureFixture) -> None:
    package.write_text(PLUGIN.format(id="pii_redactor", more=""))
    points = package.parent / "foreign_plugin-1.2.dist-info" / "entry_points.txt"
    points.write_text("[llama_gpu.plugins]\npii_redactor = foreign_plugin:Plugin\n")
    importlib.invalidate_caches()
    assert Discovery().all()["pii_redactor"].make is PiiRedactor
    assert "built in" in caplog.text


def test_what_must_not_be_left_out_fails_closed() -> None:
    closed = {plugin.info.id for plugin in BUILT_IN if plugin.info.default_on_error == "closed"}
    assert closed == {"prompt_guard", "response_filter", "pii_redactor"}
