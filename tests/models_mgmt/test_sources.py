"""Sources, from a name to a folder that an engine can load: local ones, conversions, and what is refused."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from gguf import GGMLQuantizationType

from models_mgmt import demo, sources
from models_mgmt.conversion import converted_folder, is_converted
from models_mgmt.engine_config import engine_config
from models_mgmt.inspection import inspect
from models_mgmt.looking import Described, describe
from models_mgmt.made_files import conversion_of, remove
from models_mgmt.memory import OWN
from models_mgmt.models import Deployment, Model
from models_mgmt.services import register_model
from models_mgmt.source_error import SourceError
from models_mgmt.sources import prepare
from tests.models_mgmt.made_models import (
    GGUF_PARAMETERS,
    PARAMETERS,
    model_files,
    pickled_files,
    write_files,
    write_gguf,
)
from tests.running_server import MODELS_DIR

pytestmark = pytest.mark.django_db


class Stopped(Exception):
    """What a caller ends the work with."""


@pytest.fixture
def root(tmp_path: Path, settings: Any) -> Path:
    """A model root beside a models folder, in a place that also holds what nobody may read."""
    settings.MODELS_DIR = tmp_path / "prepared"
    settings.MODEL_ROOTS = [tmp_path / "root"]
    write_files(tmp_path / "secret", model_files())
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def registered(described: Described, **fields: Any) -> Model:
    return Model.objects.create(
        id="made", name="Made", source_kind=described.kind, source=described.source, commit=described.commit, **fields
    )


def no_progress(stage: str, share: float) -> None:
    pass


def refusal_of(source: str, **options: Any) -> SourceError:
    with pytest.raises(SourceError) as refusal:
        describe(source, **options)
    return refusal.value


@pytest.mark.parametrize("is_absolute", [True, False])
def test_a_folder_is_used_where_it_lies(root: Path, is_absolute: bool) -> None:
    folder = write_files(root / "llama" / "made", model_files())
    described = describe(str(folder) if is_absolute else "llama/made")
    assert (described.kind, described.source, described.name) == ("folder", str(folder), "made")
    assert described.shape is not None
    assert described.shape.parameters == PARAMETERS
    model = registered(described)
    assert prepare(model, no_progress) == folder
    row = Model.objects.get()
    assert (row.path, row.parameters, row.size, row.type) == (str(folder), PARAMETERS, "18K", "chat")


@pytest.mark.parametrize(
    "source",
    [
        "../secret",
        "/etc",
        "/etc/passwd",
        "made/../../secret",
        ".",
        "",
        "..",
        "~",
        "~nobody-here/x",
        "a\0b",
        "link",
        "round/x",
        "x" * 300,
        "x" * 600,
    ],
)
def test_nothing_outside_of_the_roots_is_opened(root: Path, source: str) -> None:
    write_files(root / "made", model_files())
    (root / "link").symlink_to(root.parent / "secret")
    (root / "round").symlink_to(root / "round")
    refusal = refusal_of(source)
    assert (refusal.code, refusal.field) == ("INVALID_INPUT", "source")
    assert str(root.parent) not in refusal.message


def test_a_link_in_a_folder_is_not_followed_outside(root: Path) -> None:
    folder = write_files(root / "made", model_files())
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(root.parent / "secret" / "model.safetensors")
    assert "model.safetensors is a link to a place outside" in refusal_of("made").message


def test_a_folder_that_became_a_link_is_not_loaded(root: Path) -> None:
    folder = write_files(root / "made", model_files())
    model = registered(describe("made"))
    folder.rename(root / "moved")
    folder.symlink_to(root.parent / "secret")
    with pytest.raises(SourceError, match="must lie within the model roots") as refusal:
        prepare(model, no_progress)
    assert refusal.value.code == "MODEL_LOAD_FAILED"


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda folder: (folder / "model.safetensors").write_bytes(b"short"), "it is cut short|its header is damaged"),
        (lambda folder: (folder / "config.json").unlink(), "There is no config.json"),
        (lambda folder: folder.rename(folder.with_name("elsewhere")), "made is no longer where it was registered"),
    ],
)
def test_what_broke_after_its_registration_fails_to_load(root: Path, damage: Any, complaint: str) -> None:
    folder = write_files(root / "made", model_files())
    model = registered(describe("made"))
    damage(folder)
    with pytest.raises(SourceError, match=complaint) as failure:
        prepare(model, no_progress)
    assert failure.value.code == "MODEL_LOAD_FAILED"


@pytest.mark.parametrize(
    ("source", "options", "field", "words"),
    [
        ("unknown", {}, "source", "There is no such folder"),
        ("org/name/x/y", {}, "source", "There is no such folder"),
        ("made", {"kind": "gguf"}, "source_kind", "is a folder, no gguf"),
        ("made", {"kind": "hub"}, "source", "named as org/name"),
        ("made", {"revision": "main"}, "revision", "Only a repository"),
        ("notes.txt", {}, "source", "notes.txt is no GGUF file"),
    ],
)
def test_what_is_no_source_is_told_with_its_field(
    root: Path, source: str, options: dict[str, str], field: str, words: str
) -> None:
    write_files(root / "made", model_files())
    (root / "notes.txt").write_text("")
    refusal = refusal_of(source, **options)
    assert (refusal.code, refusal.field) == ("INVALID_INPUT", field)
    assert words in refusal.message


def test_pickles_need_a_flag(root: Path) -> None:
    write_files(root / "made", pickled_files())
    refusal = refusal_of("made")
    assert refusal.field == "allow_pickle"
    assert "stored as pickles" in refusal.message
    assert describe("made", allow_pickle=True).shape is not None


def test_a_model_that_lost_its_flag_is_not_loaded(root: Path) -> None:
    write_files(root / "made", pickled_files())
    model = registered(describe("made", allow_pickle=True), allow_pickle=False)
    with pytest.raises(SourceError, match="stored as pickles"):
        prepare(model, no_progress)


def test_code_of_its_own_needs_a_flag_unless_transformers_has_its_own(root: Path) -> None:
    code = {"AutoModelForCausalLM": "modeling.Mine"}
    write_files(root / "foreign", model_files(model_type="mine", auto_map=code))
    write_files(root / "native", model_files(auto_map=code))
    refusal = refusal_of("foreign")
    assert refusal.field == "trust_remote_code"
    assert "Python code that comes with its files" in refusal.message
    assert describe("foreign", trust_remote_code=True).shape is not None
    assert describe("native").shape is not None


def test_safetensors_are_taken_where_pickles_lie_beside_them(root: Path) -> None:
    write_files(root / "made", {**model_files(), "pytorch_model.bin": b"anything"})
    described = describe("made")
    assert described.shape is not None
    assert not described.shape.has_pickle


def test_a_gguf_file_is_converted_once_and_kept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gguf = write_gguf(root / "made.gguf")
    model = registered(describe("made.gguf"))
    heard: list[tuple[str, float]] = []

    folder = prepare(model, lambda stage, share: heard.append((stage, share)))

    assert folder == converted_folder(gguf, root.parent / "prepared")
    assert inspect(folder).parameters == GGUF_PARAMETERS
    assert Model.objects.get().path == str(folder)
    assert [stage for stage, _ in heard] == ["convert"] * len(heard)
    assert [share for _, share in heard] == sorted(share for _, share in heard)
    assert heard[-1] == ("convert", 1.0)
    monkeypatch.setattr(sys, "executable", "/no/second/conversion")
    assert prepare(model, no_progress) == folder


def test_what_a_gguf_file_was_held_in_is_known_after_its_conversion(root: Path) -> None:
    write_gguf(root / "made.gguf", layers_as=GGMLQuantizationType.Q8_0, feed_forward=64)
    model = register_model(describe("made.gguf"))
    folder = prepare(model, no_progress)
    model.refresh_from_db()
    assert (model.path, model.shape["gguf_type"]) == (str(folder), "Q8_0")
    row = Deployment(model=model, device="cpu", devices=["cpu"], quantization=OWN)
    assert engine_config(model, row).quantization == "int8"


def test_what_was_converted_can_be_removed_unless_another_model_uses_it(root: Path) -> None:
    write_gguf(root / "made.gguf")
    model = registered(describe("made.gguf"))
    assert conversion_of(model) == ""
    folder = prepare(model, no_progress)
    place = conversion_of(model)
    assert settings.MODELS_DIR / place == folder

    other = register_model(describe("made.gguf"), id="other")
    prepare(other, no_progress)
    assert conversion_of(model) == conversion_of(other) == ""
    other.delete()

    assert remove(conversion_of(model)) > 1000
    assert not folder.exists()
    assert remove(place) == 0
    assert (root / "made.gguf").exists()


@pytest.mark.parametrize("place", ["", ".", "..", "../models/made", "/tmp", "made"])
def test_nothing_but_conversions_is_ever_removed(root: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "MODELS_DIR", root)
    write_files(root / "made", model_files())
    assert remove(place) == 0
    assert (root / "made" / "config.json").exists()


def test_a_conversion_is_redone_when_the_file_changed(root: Path) -> None:
    gguf = write_gguf(root / "made.gguf")
    folder = write_files(converted_folder(gguf, root), {"model.safetensors": b"0123456789"})
    (folder / "converted.json").write_text('{"source": "1-1", "conversion": 2, "files": {"model.safetensors": 10}}')
    assert is_converted(folder, "1-1")
    assert not is_converted(folder, "1-2")


def test_a_file_that_cannot_be_converted_is_told_and_leaves_nothing(root: Path) -> None:
    write_gguf(root / "made.gguf", tokenizer="unheard-of")
    model = registered(describe("made.gguf"))
    with pytest.raises(SourceError, match=r"made\.gguf can't be read as a language model") as failure:
        prepare(model, no_progress)
    assert failure.value.code == "MODEL_LOAD_FAILED"
    left = [path.name for path in (root.parent / "prepared" / "converted").iterdir() if path.suffix != ".lock"]
    assert left == []


def test_a_conversion_ends_with_the_load_that_wanted_it(root: Path) -> None:
    write_gguf(root / "made.gguf")
    model = registered(describe("made.gguf"))

    def give_up(stage: str, share: float) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        prepare(model, give_up)
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(root / "made.gguf") not in running


def test_too_little_disk_for_a_conversion_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gguf(root / "made.gguf")
    model = registered(describe("made.gguf"))
    Model.objects.update(shape={"parameters": 2**60})
    model.refresh_from_db()
    with pytest.raises(SourceError, match=r"Converting made\.gguf needs .* of disk"):
        prepare(model, no_progress)


def test_the_demo_model_is_prepared_where_the_server_keeps_it(settings: Any) -> None:
    settings.MODELS_DIR = MODELS_DIR.resolve()
    described = describe("demo")
    assert (described.kind, described.name) == ("demo", demo.MODEL_ID)
    assert prepare(registered(described), no_progress) == MODELS_DIR.resolve() / demo.MODEL_ID


def test_the_echo_model_needs_no_files() -> None:
    assert prepare(registered(describe("echo")), no_progress) == Path()


def test_progress_is_told_ten_times_a_second_at_most() -> None:
    heard: list[tuple[str, float]] = []
    report = sources._throttled(lambda stage, share: heard.append((stage, share)))
    for step in range(10_001):
        report("download", step / 10_000)
    assert heard[0] == ("download", 0.0)
    assert heard[-1] == ("download", 1.0)
    assert len(heard) < 10
