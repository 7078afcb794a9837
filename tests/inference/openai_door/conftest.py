"""The stock clients, on running servers."""

import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.running_server import RunningServer

NODE_CLIENT = Path(__file__).parent / "node_client"


@pytest.fixture
def client(echo_server: RunningServer) -> Iterator[openai.OpenAI]:
    """The synchronous client, which doesn't try again by itself."""
    with openai.OpenAI(base_url=f"{echo_server.url}/v1", api_key=echo_server.api_key, max_retries=0) as made:
        yield made


@pytest.fixture
async def async_client(echo_server: RunningServer) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{echo_server.url}/v1", api_key=echo_server.api_key, max_retries=0) as made:
        yield made


@pytest.fixture
def demo_client(server: RunningServer) -> Iterator[openai.OpenAI]:
    """The client of a server with the demo model."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.api_key, max_retries=0) as made:
        yield made


@pytest.fixture(scope="session")
def node_client() -> Path:
    """The folder of the scripts for Node, with npm's `openai` beside them."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not on this machine")
    if not (NODE_CLIENT / "node_modules" / "openai").exists():
        command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
        subprocess.run(command, cwd=NODE_CLIENT, check=True, timeout=180)
    return NODE_CLIENT


def in_node(folder: Path, script: str, server: RunningServer) -> Any:
    """What a script prints, as JSON."""
    answer = subprocess.run(
        ["node", script, f"{server.url}/v1", server.api_key],
        cwd=folder,
        capture_output=True,
        timeout=60,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)
