"""Supervised processes are started again, ever later, and never outlive their supervisor."""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from llama_gpu_site.supervisor.child import Backoff, Child, ChildSpec
from llama_gpu_site.supervisor.console import Console
from llama_gpu_site.supervisor.leash import Leash

PROGRAM = str(Path(__file__).parent / "fake_program.py")
ROOT = Path(__file__).parents[2]


class Nursery:
    """Makes children of the fake program and keeps what they wrote."""

    def __init__(self, folder: Path) -> None:
        self.output = io.StringIO()
        self.notes = folder / "notes"
        self.leash = Leash()
        self.children: list[Child] = []
        self.changes: list[str] = []

    def start(self, kind: str, backoff: Backoff | None = None) -> Child:
        child = Child(
            ChildSpec("fake", (sys.executable, PROGRAM, kind, str(self.notes)), dict(os.environ)),
            console=Console(self.output),
            leash=self.leash,
            on_change=lambda child: self.changes.append(child.spec.name),
            backoff=backoff or Backoff(first=0.05),
        )
        self.children.append(child)
        child.start()
        return child

    @property
    def pids(self) -> list[int]:
        return pids_in(self.notes)

    def close(self) -> None:
        for child in self.children:
            child.kill()
            assert child.wait(10)
        self.leash.close()


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    nursery = Nursery(tmp_path)
    yield nursery
    nursery.close()


def pids_in(notes: Path) -> list[int]:
    return [int(line) for line in notes.read_text().split()] if notes.exists() else []


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_it_starts_a_process_that_ended_again(nursery: Nursery) -> None:
    nursery.start("short")
    until(lambda: len(nursery.pids) >= 3)
    assert "fake ended (exit status 3); starting it again in 0.05 s" in nursery.output.getvalue()
    assert "starting it again in 0.1 s" in nursery.output.getvalue()


def test_it_starts_a_killed_process_again(nursery: Nursery) -> None:
    nursery.start("long")
    until(lambda: len(nursery.pids) == 1)
    os.kill(nursery.pids[0], signal.SIGKILL)
    until(lambda: len(nursery.pids) == 2)
    assert "killed by SIGKILL" in nursery.output.getvalue()


def test_it_shows_what_the_process_says_under_its_name(nursery: Nursery) -> None:
    nursery.start("long")
    until(lambda: "fake       | long says hello\n" in nursery.output.getvalue())


def test_it_tells_of_starts_and_ends(nursery: Nursery) -> None:
    nursery.start("short", Backoff(first=60))
    until(lambda: len(nursery.changes) == 2)


def test_it_does_not_start_a_stopped_process_again(nursery: Nursery) -> None:
    child = nursery.start("long")
    until(lambda: len(nursery.pids) == 1)
    child.stop()
    assert child.wait(10)
    assert child.pid is None
    assert len(nursery.pids) == 1


def test_it_stops_while_it_waits_to_start_again(nursery: Nursery) -> None:
    child = nursery.start("short", Backoff(first=60))
    until(lambda: "starting it again in 30 s" in nursery.output.getvalue())
    child.stop()
    assert child.wait(5)


def test_a_stubborn_process_can_be_killed(nursery: Nursery) -> None:
    child = nursery.start("stubborn")
    until(lambda: "hello" in nursery.output.getvalue())
    child.stop()
    assert not child.wait(0.3)
    child.kill()
    assert child.wait(10)


def test_the_processes_of_a_stopped_process_end_with_it(nursery: Nursery) -> None:
    child = nursery.start("parent")
    until(lambda: len(nursery.pids) == 2)
    child.stop()
    assert child.wait(10)
    until(lambda: all(is_gone(pid) for pid in nursery.pids))


def test_a_program_that_is_not_there_is_told_and_tried_again(nursery: Nursery) -> None:
    child = Child(
        ChildSpec("ghost", ("/no/such/program",)),
        console=Console(nursery.output),
        leash=nursery.leash,
        on_change=lambda child: nursery.changes.append(child.spec.name),
        backoff=Backoff(first=0.01),
    )
    nursery.children.append(child)
    child.start()
    until(lambda: nursery.changes.count("ghost") >= 2)
    assert "it could not be started: No such file or directory" in nursery.output.getvalue()


def test_backoff_doubles_up_to_its_longest() -> None:
    backoff = Backoff(first=1, longest=5, stable=60)
    assert [backoff.after(0) for _ in range(5)] == [1, 2, 4, 5, 5]


def test_backoff_forgets_after_a_stable_minute() -> None:
    backoff = Backoff(first=1, longest=30, stable=60)
    for _ in range(4):
        backoff.after(0)
    assert backoff.after(61) == 1


SUPERVISOR_THAT_IS_KILLED = """
import subprocess, sys, time
from llama_gpu_site.supervisor.leash import Leash
leash = Leash()
for kind in ("long", "stubborn", "parent"):
    leash.hold(subprocess.Popen([sys.executable, *sys.argv[1:2], kind, sys.argv[2]], start_new_session=True).pid)
time.sleep(120)
"""


def test_every_process_ends_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    command = [sys.executable, "-c", SUPERVISOR_THAT_IS_KILLED, PROGRAM, str(notes)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as supervisor:
        until(lambda: len(pids_in(notes)) == 4)
        supervisor.kill()
    until(lambda: all(is_gone(pid) for pid in pids_in(notes)), seconds=10)
