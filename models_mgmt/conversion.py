"""GGUF files are turned into folders of safetensors once, by a process of its own that knows torch, and kept."""

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bootstrap.causes import cause_of
from common.byte_sizes import format_bytes
from models_mgmt.file_lock import exclusive

CONVERSION = 2  # goes up when the converter's output changes
_RECORD = "converted.json"
_SHARES = {
    "reading the tokenizer": 0.02,
    "reading and dequantising the weights": 0.1,
    "writing safetensors": 0.75,
    "verifying": 0.9,
}

Say = Callable[[str], None]


class ConversionError(Exception):
    """The file can't be converted; the text says why and what to do."""


def converted_folder(gguf: Path, models_dir: Path) -> Path:
    """Where the conversion of a file lies: one place for one file, whoever registers it."""
    place = hashlib.sha256(str(gguf).encode()).hexdigest()[:12]
    return models_dir / "converted" / f"{gguf.stem[:60]}-{place}"


def identity_of(gguf: Path) -> str:
    """Changes when the file does. Raises OSError."""
    status = gguf.stat()
    return f"{status.st_size}-{status.st_mtime_ns}"


def is_converted(folder: Path, identity: str) -> bool:
    """Whether the folder is whole: made by this converter from that file, each file there with its size."""
    try:
        record = json.loads((folder / _RECORD).read_text())
        return (
            record["source"] == identity
            and record["conversion"] == CONVERSION
            and all((folder / name).stat().st_size == size for name, size in record["files"].items())
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def is_conversion(folder: Path) -> bool:
    """Whether a folder was made here, whether or not it is whole."""
    return (folder / _RECORD).is_file()


def ensure_converted(
    gguf: Path, folder: Path, *, identity: str, needed_bytes: int, on_line: Say, on_wait: Callable[[], None]
) -> None:
    """Convert a file into a folder, unless that is done; callers of several processes do it once.

    `on_line` gets the converter's lines; an exception of its ends the conversion. Raises ConversionError and OSError.
    """
    if is_converted(folder, identity):
        return
    with exclusive(folder.with_name(f".{folder.name}.lock"), on_wait):
        if is_converted(folder, identity):
            return
        for left in folder.parent.glob(f".{folder.name}-*"):  # of a conversion that was killed
            shutil.rmtree(left, ignore_errors=True)
        free = shutil.disk_usage(folder.parent).free
        if free < needed_bytes:
            raise ConversionError(
                f"Converting {gguf.name} needs {format_bytes(needed_bytes)} of disk, and the models folder has "
                f"{format_bytes(free)} free."
            )
        run_step([sys.executable, "-m", "engine.runtime.convert", str(gguf), str(folder)], on_line)
        files = {file.name: file.stat().st_size for file in folder.iterdir()}
        record = {"source": identity, "conversion": CONVERSION, "files": files}
        (folder / _RECORD).write_text(json.dumps(record, indent=2))


def share_of(line: str) -> float | None:
    """How far a conversion is, from 0 to 1, when the converter says this; None for other lines."""
    return _SHARES.get(line.strip())


def run_step(command: list[str], on_line: Say) -> None:
    """Run a command, pass its lines on. Raises ConversionError with its own complaint if it fails."""
    with tempfile.TemporaryFile("w+") as complaints:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaints, text=True) as process:
            try:
                for line in process.stdout or ():
                    on_line(line.strip())
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            complaints.seek(0)
            raise ConversionError(cause_of(complaints.read()))
