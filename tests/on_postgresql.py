"""Runs a command with a fresh PostgreSQL: `python -m tests.on_postgresql [OPTIONS OF PYTEST]`.

The server is Debian's, or any on PATH; it lives in a folder that goes with it, listens on a socket there alone, and is
run by the user postgres where we are root, as PostgreSQL wants it. Unless tests are named, all that touch the database
run in it. `--install` gets PostgreSQL with apt-get first, where there is none and we may.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_INSTALLED = Path("/usr/lib/postgresql")
_TESTS = ["-q", "-m", "django_db", "-p", "no:cacheprovider", "tests"]
# Threads that end with the test run leave their connections to the garbage; psycopg tells of that, sqlite3 doesn't.
_QUIETLY = ["-W", "ignore:<psycopg.Connection:ResourceWarning"]
# Nothing of it needs to outlive a crash.
_OPTIONS = "-c listen_addresses= -c fsync=off -c synchronous_commit=off -c full_page_writes=off"


def find() -> Path | None:
    """The folder of the newest server's programs; None if there is none."""
    versions = sorted(_INSTALLED.glob("*/bin"), key=lambda folder: float(folder.parent.name), reverse=True)
    on_path = shutil.which("initdb")
    found = [*versions, *([Path(on_path).parent] if on_path else [])]
    return next((folder for folder in found if (folder / "pg_ctl").exists()), None)


def install() -> None:
    """Debian's, without the cluster that it would start."""
    if os.getuid() == 0 and shutil.which("apt-get"):
        apt_get = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]
        subprocess.run([*apt_get, "update"], check=False)
        subprocess.run([*apt_get, "install", "-y", "--no-install-recommends", "postgresql"], check=False)


@contextmanager
def running(programs: Path) -> Iterator[str]:
    """A server with an empty database; gives its URL."""
    with tempfile.TemporaryDirectory(prefix="pg") as name:
        folder = Path(name)
        as_owner: list[str] = []
        if os.getuid() == 0:
            as_owner = ["runuser", "-u", "postgres", "--"]
            shutil.chown(folder, "postgres")
        data = folder / "data"
        control = [*as_owner, str(programs / "pg_ctl"), "-D", str(data), "-w"]
        _run([*as_owner, str(programs / "initdb"), "-D", str(data), "-U", "llama", "--auth=trust", "--encoding=UTF8"])
        _run([*control, "-o", f"{_OPTIONS} -k {folder}", "-l", str(folder / "log"), "start"])
        try:
            yield f"postgresql://llama@%2F{str(folder).lstrip('/').replace('/', '%2F')}/postgres"
        finally:
            _run([*control, "-m", "immediate", "stop"])


def _run(command: list[str]) -> None:
    """Raises SystemExit with what a program said that failed."""
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    if ended.returncode:
        raise SystemExit(f"{command[-1]} failed: {ended.stdout[-2000:]}{ended.stderr[-2000:]}")


def main(arguments: list[str]) -> int:
    if "--install" in arguments:
        arguments = [argument for argument in arguments if argument != "--install"]
        if find() is None:
            install()
    programs = find()
    if programs is None:
        sys.stdout.write("SKIPPED the tests on PostgreSQL: no initdb in /usr/lib/postgresql or on PATH\n")
        return 0
    with running(programs) as url:
        tests = [] if any(Path(argument.partition("::")[0]).exists() for argument in arguments) else _TESTS
        command = [sys.executable, "-m", "pytest", *_QUIETLY, *arguments, *tests]
        return subprocess.run(command, env={**os.environ, "DATABASE_URL": url}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
