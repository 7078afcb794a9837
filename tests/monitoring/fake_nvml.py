"""Builds the stand-in for NVML, and the environment of a process that finds it in the driver's place."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("fake_nvml.c")


def build_fake_nvml(folder: Path) -> Path:
    """A folder that holds it under the driver's name; skips the test where it can't be made."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("the stand-in for NVML is a shared library of Linux and needs a C compiler")
    library = folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, SOURCE], check=True)
    return folder


def fake_environment(folder: Path, **settings: object) -> dict[str, str]:
    """`settings` such as `gpus=2, lost=1`: see fake_nvml.c."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("FAKE_NVML")},
        "LD_LIBRARY_PATH": str(folder),
        **{f"FAKE_NVML_{name.upper()}": str(value) for name, value in settings.items()},
    }
