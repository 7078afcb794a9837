"""The virtual environment: made once, changed only when the requirements change."""

import fcntl
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bootstrap.causes import cause_of
from bootstrap.failure import SetupError
from bootstrap.requirements import Requirements

# The server with torch's CPU build takes 1.6 GB; pip unpacks beside it.
NEEDED_BYTES = 2 * 1024**3


class Environment:
    """The `.venv` of a checkout."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / ".venv"
        self.python = self.path / "bin" / "python"
        self._stamp = self.path / "installed.json"

    def ensure(self, requirements: Requirements, groups: list[str]) -> bool:
        """Bring the environment up to date; False if it was. Raises SetupError."""
        if self.is_current(requirements, groups):
            return False
        with self._lock():
            if self.is_current(requirements, groups):  # another set-up made it meanwhile
                return False
            if not self._runs_this_python():
                self._create()
            self._install(requirements, groups)
        return True

    def is_current(self, requirements: Requirements, groups: list[str]) -> bool:
        if not self.python.exists():
            return False
        installed = self._installed()
        return all(installed.get(group) == requirements.fingerprint(group) for group in groups)

    def _installed(self) -> dict[str, str]:
        try:
            content = json.loads(self._stamp.read_text())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def _runs_this_python(self) -> bool:
        program = "import sys, pip; print(*sys.version_info[:2])"
        try:
            answer = subprocess.run([str(self.python), "-c", program], capture_output=True, text=True, check=True)
        except (OSError, subprocess.SubprocessError):
            return False
        return answer.stdout.split() == [str(part) for part in sys.version_info[:2]]

    def _create(self) -> None:
        if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
            version = f"{sys.version_info.major}.{sys.version_info.minor}"
            raise SetupError(
                f"Python {version} here has no venv module; install it (on Debian and Ubuntu: "
                f"apt install python{version}-venv) and run it again."
            )
        self._check_disk()
        say(f"making the environment .venv with Python {sys.version.split()[0]}")
        shutil.rmtree(self.path, ignore_errors=True)
        made = subprocess.run(
            [sys.executable, "-m", "venv", str(self.path)], capture_output=True, text=True, check=False
        )
        if made.returncode:
            raise SetupError(f"the environment .venv could not be made: {cause_of(made.stderr + made.stdout)}")

    def _check_disk(self) -> None:
        free = shutil.disk_usage(self.root).free
        if free < NEEDED_BYTES:
            raise SetupError(
                f"the disk has {free / 1024**3:.1f} GB free and the packages need {NEEDED_BYTES / 1024**3:.0f} GB; "
                "free some space and run it again."
            )

    def _install(self, requirements: Requirements, groups: list[str]) -> None:
        wanted = list(dict.fromkeys(["run", *groups]))
        say(f"installing packages ({', '.join(wanted)}); the first time takes a few minutes")
        pins = ("-c", str(requirements.constraints_path))
        self._pip(*pins, requirements.torch_pin())
        self._pip(*pins, *requirements.of(wanted))
        kept = {name: value for name, value in self._installed().items() if name in requirements.groups}
        fresh = self._stamp.with_suffix(".new")
        fresh.write_text(json.dumps(kept | {group: requirements.fingerprint(group) for group in wanted}))
        fresh.replace(self._stamp)

    def _pip(self, *arguments: str) -> None:
        """pip's progress goes to the terminal; its complaints too, and into the sentence if it fails."""
        command = [str(self.python), "-m", "pip", "install", "--disable-pip-version-check", *arguments]
        complaints: list[str] = []
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=_pip_environment()) as process:
            try:
                for line in process.stderr or ():
                    sys.stderr.write(line)
                    complaints.append(line)
            except BaseException:
                process.terminate()
                raise
        if process.returncode:
            raise SetupError(f"installing the packages failed: {cause_of(''.join(complaints))}")

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Only one set-up at a time changes the environment of a checkout."""
        descriptor = os.open(self.root / "bootstrap", os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                say("waiting for another set-up of this folder to end")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def say(text: str) -> None:
    print(f"[setup] {text}", flush=True)


def _pip_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
