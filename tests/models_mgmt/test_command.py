"""`manage.py models list` and `add`."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from accounts.models import AuditEntry
from llama_gpu_site.models_command.progress_bar import ProgressBar
from models_mgmt.models import Model
from models_mgmt.presence import DeploymentReport, announce
from tests.models_mgmt.made_models import model_files, write_files, write_gguf
from tests.models_mgmt.test_api import READY, report

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def root(clean_redis: str, tmp_path: Path, settings: Any) -> Path:
    settings.EMBEDDED_REDIS = False
    settings.MODELS_DIR = tmp_path / "prepared"
    settings.MODEL_ROOTS = [tmp_path / "root"]
    write_files(tmp_path / "root" / "tiny", model_files())
    return tmp_path / "root"


def models(*arguments: str) -> str:
    out = io.StringIO()
    call_command("models", *arguments, stdout=out)
    return out.getvalue()


def test_a_model_is_added_with_everything_that_can_be_said() -> None:
    said = models("add", "tiny", "--id", "mine", "--alias", "a", "--alias", "b", "--default", "--pinned")
    assert said.startswith("mine is registered: LlamaForCausalLM, 18K, chat, about ")
    model = Model.objects.get()
    assert (model.id, model.is_default, model.pinned) == ("mine", True, True)
    assert [alias.name for alias in model.aliases.all()] == ["a", "b"]
    assert AuditEntry.objects.get().credential == "manage.py models add"


def test_it_is_listed_with_its_state_and_memory() -> None:
    assert models("list") == "There are none.\n"
    models("add", "tiny", "--alias", "small", "--default")
    header, row = models("list").splitlines()
    assert header.split() == ["ID", "ALIASES", "SOURCE", "SIZE", "TYPE", "STATE", "MEMORY"]
    assert row.startswith("tiny (default)  small    tiny    18K   chat  available  ~")

    announce(report(DeploymentReport(model_id="tiny", state="loaded", ready=READY)))

    assert models("list", "--loaded").splitlines()[1].endswith("loaded on host/cpu  270MB")
    (body,) = json.loads(models("list", "--json", "sma"))
    assert (body["id"], body["loaded"], body["memory_usage"]) == ("tiny", True, "270MB")
    assert models("list", "other") == "There are none.\n"
    assert models("list", "--disabled") == "There are none.\n"


def test_it_lists_also_where_no_server_runs(settings: Any) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    models("add", "tiny")
    assert "available" in models("list")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("add", "nothing"), "There is no such folder"),
        (("add", "../../secret"), "must lie within the model roots"),
        (("add", "tiny", "--id", "default"), "always means the default model"),
        (("add", "tiny", "--kind", "gguf"), "This source is a folder, no gguf"),
    ],
)
def test_what_is_wrong_is_one_sentence(arguments: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(CommandError, match=complaint):
        models(*arguments)


def test_it_can_be_prepared_at_once(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_gguf(root / "tiny.gguf")
    said = models("add", "tiny.gguf", "--id", "converted", "--prepare")
    assert said.splitlines()[-1] == "converted is ready to be loaded."
    assert Path(Model.objects.get().path, "model.safetensors").exists()
    assert "convert 100%" in capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_fills_on_a_terminal() -> None:
    terminal = Terminal()
    bar = ProgressBar(terminal)
    for share in (0.0, 0.5, 1.0):
        bar("download", share)
    bar("convert", 0.1)
    bar.close()
    text = terminal.getvalue()
    assert f"download   [{'#' * 15}{'.' * 15}]  50%" in text
    assert text.count("\n") == 2


def test_elsewhere_it_writes_a_line_for_every_tenth() -> None:
    lines = io.StringIO()
    bar = ProgressBar(lines)
    for step in range(1001):
        bar("download", step / 1000)
    bar.close()
    assert len(lines.getvalue().splitlines()) <= 11
    assert lines.getvalue().splitlines()[-1] == "download 100%"
