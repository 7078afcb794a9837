"""Finds a Python the project runs on."""

import shutil
import subprocess

from bootstrap.failure import SetupError

OLDEST = (3, 11)
NEWEST = (3, 13)


def is_supported(version):
    """Whether a version, as (major, minor, ...), is one the project is tested with."""
    return OLDEST <= tuple(version[:2]) <= NEWEST


def choose(current_version, current_path, version_of=None):
    """The path of a supported Python: the current one if it will do, else the newest on PATH. Raises SetupError."""
    if is_supported(current_version):
        return current_path
    version_of = version_of or ask_version
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        path = shutil.which("python3.%d" % minor)  # noqa: UP031
        if path and version_of(path) == (3, minor):
            return path
    raise SetupError(
        "LLaMA GPU needs Python 3.11, 3.12 or 3.13, and this is Python {}.{}; install one of them (for example "
        "'apt install python3.12 python3.12-venv' or 'brew install python@3.12') and run it again.".format(
            *current_version[:2]
        )
    )


def ask_version(path):
    """(major, minor) of the interpreter at `path`, or None if it does not start (as a version manager's shim may)."""
    program = "import sys; print(sys.version_info[0], sys.version_info[1])"
    try:
        answer = subprocess.check_output([path, "-c", program], stderr=subprocess.DEVNULL, timeout=20)
        major, minor = answer.split()
        return int(major), int(minor)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
