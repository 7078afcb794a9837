"""A running server of two web processes, with the sample package really installed for it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.inference.conftest import EchoServer
from tests.running_server import running_server

SAMPLE = Path(__file__).parent / "sample_package"


@pytest.fixture(scope="session")
def plugins_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that pip has installed the sample package into."""
    source = tmp_path_factory.mktemp("source") / "sample"
    folder = tmp_path_factory.mktemp("site-packages")
    for path in SAMPLE.rglob("*"):  # a copy, since the build writes beside its source
        if path.is_file() and "__pycache__" not in path.parts:
            copy = source / path.relative_to(SAMPLE)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(folder), str(source)], check=True, capture_output=True, timeout=120)
    return folder


@pytest.fixture(scope="session")
def plugged_server(tmp_path_factory: pytest.TempPathFactory, plugins_dir: Path) -> Iterator[EchoServer]:
    """Echoes 200 tokens a second and request."""
    with running_server(
        tmp_path_factory.mktemp("plugged"),
        LLAMA_GPU_DEFAULT_MODEL="echo",
        LLAMA_GPU_ECHO_DELAY="0.005",
        LLAMA_GPU_WEB_PROCESSES="2",
        LLAMA_GPU_LOG_FORMAT="json",
        LLAMA_GPU_RATE_LIMITS="plugins=100000/100000,infer=100000/100000,stream_infer=100000/100000,batch_infer=9999/9999",
        PYTHONPATH=os.pathsep.join([str(plugins_dir), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
    ) as running:
        yield EchoServer(running)
