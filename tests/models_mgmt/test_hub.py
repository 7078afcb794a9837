"""Models from a hub: looked at without a download, downloaded with progress, continued, checked, and used offline."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from models_mgmt.inspection import inspect
from models_mgmt.looking import describe
from models_mgmt.models import Model
from models_mgmt.source_error import SourceError
from models_mgmt.sources import prepare
from tests.models_mgmt.fake_hub import FakeHub, running_hub
from tests.models_mgmt.made_models import PARAMETERS, model_files, pickled_files, sharded_files, write_gguf

pytestmark = pytest.mark.django_db
REPO = "made-up/tiny-llama"
MIB = 1024 * 1024


class Stopped(Exception):
    """What a caller ends the work with."""


@pytest.fixture
def hub(settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    settings.MODELS_DIR = tmp_path / "models"
    settings.MODEL_ROOTS = []
    settings.HUB_CACHE = tmp_path / "cache"
    settings.HUB_TOKEN = ""
    settings.HUB_OFFLINE = False
    monkeypatch.setattr("models_mgmt.hub_transfer._PAUSE_SECONDS", 0.0)
    with running_hub() as hub:
        settings.HUB_ENDPOINT = hub.url
        yield hub


def registered(source: str = REPO, *, revision: str = "", **flags: bool) -> Model:
    """The row of a model after a look at its source."""
    found = describe(source, revision=revision, **flags)
    return Model.objects.create(
        id=found.name, name=found.name, source_kind=found.kind, source=source, revision=revision,
        commit=found.commit, **flags,
    )  # fmt: skip


def no_progress(stage: str, share: float) -> None:
    pass


def refusal(source: str = REPO, **options: Any) -> SourceError:
    with pytest.raises(SourceError) as error:
        describe(source, **options)
    return error.value


@pytest.mark.parametrize("files", [model_files(), sharded_files()], ids=["one file", "shards"])
def test_a_look_reads_headers_only(hub: FakeHub, files: dict[str, bytes]) -> None:
    commit = hub.push(REPO, files)
    found = describe(REPO)
    assert (found.kind, found.name, found.commit) == ("hub", "tiny-llama", commit)
    assert found.shape is not None
    assert (found.shape.parameters, found.shape.has_chat_template) == (PARAMETERS, True)
    assert all(wanted for method, path, wanted in hub.requests if path.endswith(".safetensors"))


def test_a_download_brings_what_an_engine_needs_and_says_how_far_it_is(hub: FakeHub, tmp_path: Path) -> None:
    extra = {"README.md": b"read me", "modeling.py": b"import os", "pytorch_model.bin": b"x" * 5000, "LICENSE": b"mine"}
    commit = hub.push(REPO, {**sharded_files(), **extra})
    model = registered()
    heard: list[tuple[str, float]] = []

    folder = prepare(model, lambda stage, share: heard.append((stage, share)))

    assert folder == tmp_path / "cache" / "models--made-up--tiny-llama" / "snapshots" / commit
    assert sorted(path.name for path in folder.iterdir()) == sorted(sharded_files())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == sharded_files()
    assert heard[0][0] == "download"
    assert heard[-1] == ("download", 1.0)
    row = Model.objects.get()
    assert (row.path, row.parameters, row.type) == (str(folder), PARAMETERS, "chat")


def test_huggingface_hub_itself_finds_the_files_in_the_cache(hub: FakeHub, tmp_path: Path) -> None:
    from huggingface_hub import snapshot_download

    hub.push(REPO, model_files())
    folder = prepare(registered(), no_progress)
    assert Path(snapshot_download(REPO, cache_dir=tmp_path / "cache", local_files_only=True)) == folder


def test_what_huggingface_hub_downloaded_is_used(hub: FakeHub, tmp_path: Path) -> None:
    from huggingface_hub import hf_hub_download

    files = model_files()
    hub.push(REPO, files)
    for name in files:
        hf_hub_download(REPO, name, cache_dir=tmp_path / "cache", endpoint=hub.url)
    hub.is_down = True
    assert inspect(prepare(registered(), no_progress)).parameters == PARAMETERS


def test_a_second_load_asks_the_hub_nothing(hub: FakeHub) -> None:
    hub.push(REPO, model_files())
    model = registered()
    folder = prepare(model, no_progress)
    hub.requests.clear()
    assert prepare(model, no_progress) == folder
    assert hub.requests == []


@pytest.mark.parametrize("how", ["the hub is down", "the setting says so"])
def test_what_is_in_the_cache_works_offline(hub: FakeHub, settings: Any, how: str) -> None:
    hub.push(REPO, model_files())
    prepare(registered(), no_progress)
    Model.objects.all().delete()
    if how == "the hub is down":
        hub.is_down = True
    else:
        settings.HUB_OFFLINE = True
        hub.requests.clear()
    model = registered()
    assert inspect(prepare(model, no_progress)).parameters == PARAMETERS
    assert how == "the hub is down" or hub.requests == []


@pytest.mark.parametrize("port", ["down", "1"])
def test_what_is_not_in_the_cache_is_told_when_the_hub_is_away(hub: FakeHub, settings: Any, port: str) -> None:
    hub.is_down = True
    if port == "1":
        settings.HUB_ENDPOINT = "http://127.0.0.1:1"
    error = refusal()
    assert error.code == "BACKEND_UNAVAILABLE"
    assert error.message.startswith("The hub can't be reached (")
    assert "does not hold made-up/tiny-llama" in error.message


def test_a_hub_that_goes_away_before_the_download_is_told(hub: FakeHub) -> None:
    hub.push(REPO, model_files())
    model = registered()
    hub.is_down = True
    with pytest.raises(SourceError, match="The hub can't be reached") as failure:
        prepare(model, no_progress)
    assert failure.value.code == "BACKEND_UNAVAILABLE"


def test_revisions_are_pinned_when_they_are_registered(hub: FakeHub) -> None:
    old = hub.push(REPO, model_files(), branch="main")
    hub.push(REPO, model_files(max_position_embeddings=512), branch="long")
    model = registered()
    long = describe(REPO, revision="long")
    hub.push(REPO, model_files(max_position_embeddings=1024), branch="main")

    assert model.commit == old
    assert inspect(prepare(model, no_progress)).context_length == 256
    assert long.shape is not None
    assert long.shape.context_length == 512
    assert describe(REPO, revision=old).commit == old


@pytest.mark.parametrize("revision", ["../../x", "a..b", "/main", "main/", "a b", "x" * 101, "a\n"])
def test_a_name_that_could_leave_the_cache_is_no_revision(hub: FakeHub, revision: str) -> None:
    hub.push(REPO, model_files())
    assert refusal(revision=revision).field == "revision"


def test_unknown_repositories_and_revisions_are_told_apart(hub: FakeHub) -> None:
    hub.push(REPO, model_files())
    unknown = refusal("made-up/nothing")
    assert (unknown.code, unknown.field) == ("INVALID_INPUT", "source")
    assert "has no repository made-up/nothing that this server may read" in unknown.message
    assert refusal(revision="nowhere").message == "The repository made-up/tiny-llama has no revision 'nowhere'."


def test_a_private_repository_needs_the_token_and_nothing_tells_it(
    hub: FakeHub, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    hub.push(REPO, model_files())
    hub.token = "hf_very_secret"
    assert "LLAMA_GPU_HUB_TOKEN" in refusal().message
    settings.HUB_TOKEN = "hf_wrong_secret"
    assert "secret" not in refusal().message
    settings.HUB_TOKEN = hub.token
    prepare(registered(), no_progress)
    assert "secret" not in caplog.text


def test_a_gated_repository_says_what_to_do(hub: FakeHub) -> None:
    hub.push(REPO, model_files())
    hub.gated.add(REPO)
    error = refusal()
    assert (error.code, error.field) == ("INVALID_INPUT", "source")
    assert "gated; accept its terms" in error.message


def test_a_connection_that_breaks_now_and_then_does_not_matter(hub: FakeHub) -> None:
    files = {**model_files(), "tokenizer.json": os.urandom(3 * MIB)}
    hub.push(REPO, files)
    hub.cuts["tokenizer.json"] = [MIB, MIB // 2, MIB]
    folder = prepare(registered(), no_progress)
    assert (folder / "tokenizer.json").read_bytes() == files["tokenizer.json"]
    starts = [wanted for method, path, wanted in hub.requests if method == "GET" and path.endswith("tokenizer.json")]
    assert starts == ["", f"bytes={MIB}-", f"bytes={MIB + MIB // 2}-", f"bytes={2 * MIB + MIB // 2}-"]


def test_a_download_that_was_stopped_goes_on_where_it_was(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models_mgmt.sources._REPORT_SECONDS", 0.0)
    files = {**model_files(), "tokenizer.json": os.urandom(30 * MIB)}
    hub.push(REPO, files)
    model = registered()

    def stop(stage: str, share: float) -> None:
        if share > 0.3:
            raise Stopped

    with pytest.raises(Stopped):
        prepare(model, stop)
    (partial,) = tmp_path.rglob("*.partial")
    kept = partial.stat().st_size
    assert kept >= 9 * MIB
    hub.requests.clear()
    assert (prepare(model, no_progress) / "tokenizer.json").read_bytes() == files["tokenizer.json"]
    assert ("GET", kept) in [
        (method, int(wanted[6:-1])) for method, path, wanted in hub.requests if path.endswith("tokenizer.json")
    ]


def test_a_killed_download_goes_on_where_it_was(hub: FakeHub, tmp_path: Path) -> None:
    """A process of its own downloads, is killed in the middle, and another one fetches only the rest."""
    payload = os.urandom(24 * MIB)
    commit = hub.push(REPO, {**model_files(), "tokenizer.json": payload})
    script = f"""
import os, time, django
os.environ["DJANGO_SETTINGS_MODULE"] = "llama_gpu_site.settings"
django.setup()
from pathlib import Path
from models_mgmt.hub import Hub
hub = Hub(endpoint={hub.url!r}, cache=Path({str(tmp_path / "cache")!r}))
snapshot = hub.look_up({REPO!r}, "")
def slow(got, total):
    time.sleep(0.1 if got > 10_000_000 else 0)
hub.download(snapshot, ["tokenizer.json"], slow)
"""
    environment = {**os.environ, "LLAMA_GPU_DATA_DIR": str(tmp_path / "data")}
    process = subprocess.Popen([sys.executable, "-c", script], env=environment)
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size > 10_000_000 for path in tmp_path.rglob("*.partial")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (partial,) = tmp_path.rglob("*.partial")
    kept = partial.stat().st_size
    assert 10_000_000 < kept < len(payload)

    folder = prepare(registered(), no_progress)

    assert folder.name == commit
    assert (folder / "tokenizer.json").read_bytes() == payload
    assert f"bytes={kept}-" in [wanted for _, path, wanted in hub.requests if path.endswith("tokenizer.json")]
    assert list(tmp_path.rglob("*.partial")) == []


def test_a_hub_that_keeps_breaking_off_is_told(hub: FakeHub, tmp_path: Path) -> None:
    hub.push(REPO, model_files())
    model = registered()
    hub.cuts["tokenizer.json"] = [0] * 20
    with pytest.raises(SourceError, match="The hub can't be reached"):
        prepare(model, no_progress)
    assert not list(tmp_path.rglob("snapshots/*/tokenizer.json"))
    hub.cuts.clear()
    assert inspect(prepare(model, no_progress)).parameters == PARAMETERS


def test_a_server_without_ranges_is_read_from_the_beginning(hub: FakeHub) -> None:
    files = model_files()
    hub.push(REPO, files)
    hub.ignores_ranges = True
    assert (prepare(registered(), no_progress) / "model.safetensors").read_bytes() == files["model.safetensors"]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_damaged_file_is_noticed_and_not_kept(hub: FakeHub, tmp_path: Path, name: str) -> None:
    hub.push(REPO, model_files())
    model = registered()
    hub.damaged.add(name)
    with pytest.raises(SourceError, match=r"damaged|no valid JSON"):
        prepare(model, no_progress)
    assert not list(tmp_path.rglob(f"snapshots/*/{name}"))
    hub.damaged.clear()
    assert inspect(prepare(model, no_progress)).parameters == PARAMETERS


def test_too_little_disk_is_told_before_the_download(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.push(REPO, model_files())
    model = registered()
    monkeypatch.setattr("models_mgmt.hub.shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(SourceError, match=r"needs \d+KB of disk.*LLAMA_GPU_HUB_CACHE"):
        prepare(model, no_progress)


def test_a_download_that_goes_on_needs_disk_only_for_the_rest(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models_mgmt.sources._REPORT_SECONDS", 0.0)
    hub.push(REPO, {**model_files(), "tokenizer.json": os.urandom(6 * MIB)})
    model = registered()

    def stop(stage: str, share: float) -> None:
        if share > 0.5:
            raise Stopped

    with pytest.raises(Stopped):
        prepare(model, stop)
    (partial,) = tmp_path.rglob("*.partial")
    assert partial.stat().st_size >= 3 * MIB
    monkeypatch.setattr("models_mgmt.hub.shutil.disk_usage", lambda path: type("Usage", (), {"free": 4 * MIB})())

    assert (prepare(model, no_progress) / "tokenizer.json").stat().st_size == 6 * MIB


def test_a_file_that_an_earlier_revision_left_needs_no_disk(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {**model_files(), "tokenizer.json": os.urandom(6 * MIB)}
    hub.push(REPO, files)
    prepare(registered(), no_progress)
    Model.objects.all().delete()
    hub.push(REPO, {**files, "generation_config.json": b"{}"})
    monkeypatch.setattr("models_mgmt.hub.shutil.disk_usage", lambda path: type("Usage", (), {"free": MIB})())

    assert (prepare(registered(), no_progress) / "generation_config.json").exists()


def test_pickles_and_code_come_only_with_their_flags(hub: FakeHub) -> None:
    files = pickled_files(model_type="mine", auto_map={"AutoModelForCausalLM": "modeling.Mine"})
    hub.push(REPO, {**files, "modeling.py": b"class Mine: ..."})
    assert refusal().field == "allow_pickle"
    assert refusal(allow_pickle=True).field == "trust_remote_code"
    folder = prepare(registered(allow_pickle=True, trust_remote_code=True), no_progress)
    assert {"pytorch_model.bin", "modeling.py"} <= {path.name for path in folder.iterdir()}


def test_a_gguf_file_of_a_repository_is_looked_at_by_its_header(hub: FakeHub, tmp_path: Path) -> None:
    gguf = write_gguf(tmp_path / "tiny.Q4_1.gguf").read_bytes()
    hub.push("made-up/tiny-gguf", {"tiny.Q4_1.gguf": gguf, "README.md": b""})
    found = describe("made-up/tiny-gguf/tiny.Q4_1.gguf")
    assert (found.kind, found.name) == ("hub", "tiny.Q4_1")
    assert found.shape is not None
    assert found.shape.gguf_type == "F16"
    assert "no file other.gguf" in refusal("made-up/tiny-gguf/other.gguf").message
    assert "There is no config.json" in refusal("made-up/tiny-gguf").message


def test_a_repository_whose_files_would_leave_the_cache_loses_them(hub: FakeHub, tmp_path: Path) -> None:
    hub.push(REPO, {**model_files(), "../../evil.json": b"{}", "sub/evil.json": b"{}", ".evil.json": b"{}"})
    folder = prepare(registered(), no_progress)
    assert sorted(path.name for path in folder.iterdir()) == sorted(model_files())
    assert not list(tmp_path.rglob("*evil*"))
