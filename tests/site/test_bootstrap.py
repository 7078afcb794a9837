"""The set-up finds a Python that will do, and does nothing when there is nothing to do."""

import subprocess
import sys
from pathlib import Path

import pytest

from bootstrap import interpreter
from bootstrap.causes import cause_of
from bootstrap.environment import Environment
from bootstrap.failure import SetupError
from bootstrap.requirements import Requirements

ROOT = Path(__file__).parents[2]
PYPROJECT = """
[project]
dependencies = ["torch>=2", "one"]
[dependency-groups]
dev = ["two"]
[tool.something]
line = 1
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / "constraints.txt").write_text("one==1\ntorch==2.13.0\ntwo==2\n")
    (tmp_path / "bootstrap").mkdir()
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    return tmp_path


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What pip would have been called with."""
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(Environment, "_pip", lambda self, *arguments: calls.append(arguments))
    return calls


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 12, 4), (3, 13, 1)])
def test_a_supported_python_is_kept(version: tuple[int, int, int]) -> None:
    assert interpreter.choose(version, "/usr/bin/python3") == "/usr/bin/python3"


@pytest.mark.parametrize("version", [(3, 8, 1), (3, 10, 0), (3, 14, 0)])
def test_another_python_is_looked_for(version: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter.shutil, "which", lambda name: f"/opt/{name}" if name != "python3.13" else None)
    found = interpreter.choose(version, "/usr/bin/python3", version_of=lambda path: (3, int(path[-2:])))
    assert found == "/opt/python3.12"


def test_an_unfit_python_alone_is_refused_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter.shutil, "which", lambda name: None)
    with pytest.raises(SetupError, match=r"needs Python 3\.11, 3\.12 or 3\.13, and this is Python 3\.9; install"):
        interpreter.choose((3, 9, 2), "/usr/bin/python3")


def test_a_python_that_does_not_start_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter.shutil, "which", lambda name: "/no/such/python")
    with pytest.raises(SetupError):
        interpreter.choose((3, 9, 2), "/usr/bin/python3")


def test_torch_goes_in_first_and_alone(checkout: Path, installed: list[tuple[str, ...]]) -> None:
    assert Environment(checkout).ensure(Requirements(checkout), ["run"])
    assert installed[0] == ("-c", str(checkout / "constraints.txt"), "torch==2.13.0")
    assert installed[1] == ("-c", str(checkout / "constraints.txt"), "torch>=2", "one")


def test_a_second_run_installs_nothing(checkout: Path, installed: list[tuple[str, ...]]) -> None:
    Environment(checkout).ensure(Requirements(checkout), ["run"])
    assert not Environment(checkout).ensure(Requirements(checkout), ["run"])
    assert len(installed) == 2


def test_a_group_that_was_not_wanted_before_is_added(checkout: Path, installed: list[tuple[str, ...]]) -> None:
    Environment(checkout).ensure(Requirements(checkout), ["run"])
    assert Environment(checkout).ensure(Requirements(checkout), ["run", "dev"])
    assert installed[-1][-1] == "two"
    assert not Environment(checkout).ensure(Requirements(checkout), ["run"])


@pytest.mark.parametrize(
    ("file", "old", "new"), [("constraints.txt", "one==1", "one==2"), ("pyproject.toml", '"one"', '"three"')]
)
def test_changed_requirements_are_installed(
    checkout: Path, installed: list[tuple[str, ...]], file: str, old: str, new: str
) -> None:
    Environment(checkout).ensure(Requirements(checkout), ["run"])
    path = checkout / file
    path.write_text(path.read_text().replace(old, new))
    assert Environment(checkout).ensure(Requirements(checkout), ["run"])


def test_a_changed_tool_section_installs_nothing(checkout: Path, installed: list[tuple[str, ...]]) -> None:
    Environment(checkout).ensure(Requirements(checkout), ["run"])
    path = checkout / "pyproject.toml"
    path.write_text(path.read_text().replace("line = 1", "line = 2"))
    assert not Environment(checkout).ensure(Requirements(checkout), ["run"])


def test_an_unknown_group_is_refused(checkout: Path) -> None:
    with pytest.raises(SetupError, match="no dependency group 'docs'"):
        Requirements(checkout).of(["run", "docs"])


def test_the_entry_point_refuses_in_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bootstrap", "nonsense"], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "no dependency group 'nonsense'" in done.stderr


@pytest.mark.parametrize("name", ["__init__", "__main__", "failure", "interpreter"])
def test_what_runs_first_is_readable_to_old_pythons(name: str) -> None:
    import ast

    ast.parse((ROOT / "bootstrap" / f"{name}.py").read_text(), feature_version=(3, 7))


def test_constraints_pin_every_requirement() -> None:
    requirements = Requirements(ROOT)
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in requirements.constraints.splitlines()}
    wanted = requirements.of(["run", "dev", "bench"])
    names = {requirement.split(">")[0].split("[")[0].strip().lower().replace("_", "-") for requirement in wanted}
    assert names - pinned == set()


@pytest.mark.parametrize(
    ("complaint", "sentence"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "the disk is full"),
        ("NewConnectionError('<…>: Failed to establish a new connection')\nERROR: No matching distribution", "network"),
        ("ERROR: No matching distribution found for torch==9", "a package was not found"),
        ("ERROR: something else", "ERROR: something else"),
    ],
)
def test_pips_complaints_become_a_sentence(complaint: str, sentence: str) -> None:
    assert sentence in cause_of(complaint)
