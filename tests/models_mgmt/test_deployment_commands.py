"""`manage.py models load|unload|bench` beside a running server, as its operator types them."""

import os
import subprocess
import sys

from tests.running_server import ROOT, RunningServer


def models(server: RunningServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LLAMA_GPU_DATA_DIR": str(server.data_dir), "LLAMA_GPU_LOG_LEVEL": "WARNING"}
    environment.pop("REDIS_URL", None)
    command = [sys.executable, "manage.py", "models", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, timeout=120)


def test_a_model_is_unloaded_loaded_with_progress_and_measured(echo_server: RunningServer) -> None:
    unloaded = models(echo_server, "unload", "default")
    assert "echo is unloaded from" in unloaded.stdout, unloaded.stderr
    assert "are free again" in unloaded.stdout
    assert models(echo_server, "unload", "echo").stdout == "echo was not loaded.\n"

    loaded = models(echo_server, "load", "echo")
    assert "echo is loaded on" in loaded.stdout, loaded.stderr
    assert models(echo_server, "load", "echo").stdout == "echo is already loaded.\n"

    measured = models(echo_server, "bench", "echo", "--requests", "4", "--parallel", "2", "--max-tokens", "8")
    assert "output tokens/s" in measured.stdout, measured.stderr
    assert "measure 100%" in measured.stderr


def test_what_cannot_be_is_refused_with_a_sentence(echo_server: RunningServer) -> None:
    for arguments, sentence in (
        (("load", "nobody"), "not available"),
        (("load", "echo", "--max-memory", "lots"), "--max-memory must be"),
        (("load", "echo", "--device", "cuda9"), "No running worker has the device cuda9"),
    ):
        refused = models(echo_server, *arguments)
        assert refused.returncode == 1
        assert sentence in refused.stderr
        assert "Traceback" not in refused.stderr
