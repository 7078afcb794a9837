"""Models that are registered but not loaded: loaded on demand, or refused with the true reason."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.inference.conftest import EchoServer
from tests.running_server import ROOT

REGISTER = """
from models_mgmt.services import ensure_model
ensure_model(id="echo-two", name="Another echo", source_kind="echo")
ensure_model(id="no-files", name="Not prepared", source_kind="folder")
ensure_model(id="broken", name="Broken", source_kind="folder", path={broken!r})
ensure_model(id="base", name="Base", source_kind="folder", type="base", path={broken!r})
"""


@pytest.fixture(scope="module")
def server(paced_server: EchoServer, tmp_path_factory: pytest.TempPathFactory) -> EchoServer:
    """With more models in its registry; one of them is a folder of nonsense."""
    broken: Path = tmp_path_factory.mktemp("broken")
    (broken / "config.json").write_text("{not json")
    (broken / "model.safetensors").write_bytes(b"\0" * 64)
    environment = dict(os.environ, LLAMA_GPU_DATA_DIR=str(paced_server.running_server.data_dir))
    script = REGISTER.format(broken=str(broken))
    subprocess.run([sys.executable, "manage.py", "shell", "-c", script], cwd=ROOT, env=environment, check=True)
    return paced_server


async def test_a_model_is_loaded_once_for_all_who_wait(server: EchoServer) -> None:
    async with server.client() as client:
        body = {"text": "a b", "max_tokens": 2, "model": "echo-two"}
        answers = await asyncio.gather(*(client.post("/infer", json=body) for _ in range(5)))

    assert [answer.status_code for answer in answers] == [200] * 5
    assert {answer.json()["result"]["model_used"] for answer in answers} == {"echo-two"}
    assert server.log().count("model echo-two loaded") == 1


@pytest.mark.parametrize("model", ["no-files", "broken"])
@pytest.mark.parametrize("path", ["infer", "stream_infer", "batch_infer"])
def test_a_model_that_cannot_be_loaded_is_named_so_and_harms_no_other(
    server: EchoServer, model: str, path: str
) -> None:
    body = {"inputs": [{"text": "a"}]} if path == "batch_infer" else {"text": "a"}
    answer = server.post(path, {**body, "model": model})

    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "MODEL_LOAD_FAILED"
    assert str(server.running_server.data_dir) not in answer.text
    assert server.post("infer", {"text": "a", "max_tokens": 1}).status_code == 200


@pytest.mark.parametrize("extra", [{"system": "be brief"}, {"messages": [{"role": "user", "content": "hi"}]}])
def test_a_base_model_refuses_what_needs_a_chat_template(server: EchoServer, extra: dict[str, object]) -> None:
    body = {"model": "base", **({} if "messages" in extra else {"text": "a"}), **extra}
    answer = server.post("infer", body)

    assert answer.status_code == 400
    assert answer.json()["error"]["details"]["field"] == next(iter(extra))
