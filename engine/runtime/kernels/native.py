"""The CPU kernels of native.c: compiled once per machine with the system's C compiler, called through ctypes."""

import ctypes
import hashlib
import logging
import math
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch

from engine.runtime.blocks import BLOCK_SIZE
from engine.runtime.kernels.batch import StepBatch
from engine.runtime.kernels.interface import AttentionShape

logger = logging.getLogger(__name__)

_SOURCES = [Path(__file__).with_name("native.c"), Path(__file__).with_name("native_template.h")]
_FLAGS = ["-O3", "-march=native", "-ffast-math", "-fno-finite-math-only", "-fopenmp", "-shared", "-fPIC"]
_SUFFIX = {torch.float32: "f32", torch.bfloat16: "bf16"}
_MAX_ROWS = 12  # of native.c


class NativeUnavailable(Exception):
    """The kernels can't be built or don't fit this model; the portable ones serve instead."""


def load_library(cache_dir: Path | None = None) -> ctypes.CDLL:
    """Return the compiled kernels, building them at the first call on a machine. Raises NativeUnavailable."""
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise NativeUnavailable("no C compiler was found")
    key = hashlib.sha256(b"".join(source.read_bytes() for source in _SOURCES))
    key.update(" ".join([*_FLAGS, platform.machine(), _cpu_flags()]).encode())
    folder = cache_dir or _default_cache_dir()
    target = folder / f"kernels-{key.hexdigest()[:20]}.so"
    try:
        if not target.exists():
            _compile(compiler, target)
        return ctypes.CDLL(str(target))
    except (OSError, subprocess.SubprocessError) as error:
        raise NativeUnavailable(f"the C compiler could not build the kernels: {error}") from error


def _default_cache_dir() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llama-gpu"


def _cpu_flags() -> str:
    """What distinguishes CPUs, since -march=native builds for this one and hosts may share a home folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _compile(compiler: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        built = Path(folder) / target.name
        command = [compiler, *_FLAGS, "-o", str(built), str(_SOURCES[0]), "-lm"]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        built.replace(target)
    logger.info("built the CPU kernels with %s", compiler)


def _pointer(tensor: torch.Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def _untouched_zeros(size: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Zeros that take memory only once they are written to; torch.zeros writes them all."""
    count = math.prod(size) * dtype.itemsize
    return torch.from_numpy(np.zeros(count, dtype=np.uint8)).view(dtype).view(size)


class NativeKernels:
    """`Kernels` on the CPU. The KV cache is two tensors: keys [layers, blocks, kv_heads, dim, BLOCK_SIZE], values
    [layers, blocks, kv_heads, BLOCK_SIZE, dim]."""

    def __init__(
        self, shape: AttentionShape, blocks: int, cosine: torch.Tensor, sine: torch.Tensor, library: ctypes.CDLL
    ) -> None:
        """cosine, sine: float32 [positions, dim / 2]. Raises NativeUnavailable."""
        if shape.dtype not in _SUFFIX or shape.dim % 16 or shape.device.type != "cpu":
            raise NativeUnavailable(f"no native kernels for {shape.dtype}, head size {shape.dim}, {shape.device}")
        suffix = _SUFFIX[shape.dtype]
        self._add_rms_norm = getattr(library, f"add_rms_norm_{suffix}")
        self._silu_mul = getattr(library, f"silu_mul_{suffix}")
        self._rotate_and_store = getattr(library, f"rotate_and_store_{suffix}")
        self._attend = getattr(library, f"attend_{suffix}")
        self._shape = shape
        self._cosine = cosine.float().contiguous()
        self._sine = sine.float().contiguous()
        size = (shape.layers, blocks, shape.kv_heads)
        self._keys = _untouched_zeros((*size, shape.dim, BLOCK_SIZE), shape.dtype)
        self._values = _untouched_zeros((*size, BLOCK_SIZE, shape.dim), shape.dtype)
        self._tile_rows = max(1, _MAX_ROWS // (shape.heads // shape.kv_heads))

    def begin(self, batch: StepBatch) -> None:
        shape = self._shape
        self._batch = batch
        width = max(len(span.blocks) for span in batch.spans)
        self._tables = torch.tensor(
            [span.blocks + [0] * (width - len(span.blocks)) for span in batch.spans], dtype=torch.int32
        )
        tiles = [
            (span.row + at, min(self._tile_rows, span.count - at), span.start + at, index)
            for index, span in enumerate(batch.spans)
            for at in range(0, span.count, self._tile_rows)
        ]
        self._tiles = torch.tensor(sorted(tiles, key=lambda tile: -tile[2]))
        self._queries = torch.empty(batch.rows, shape.heads * shape.dim)

    def add_rms_norm(
        self, residual: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, epsilon: float
    ) -> torch.Tensor:
        rows, width = residual.shape
        out = torch.empty(rows, width, dtype=self._shape.dtype)
        self._add_rms_norm(
            _pointer(residual),
            _pointer(delta),
            _pointer(weight),
            _pointer(out),
            ctypes.c_int64(rows),
            ctypes.c_int64(width),
            ctypes.c_float(epsilon),
        )
        return out

    def attention(
        self,
        layer: int,
        qkv: torch.Tensor,
        q_norm: torch.Tensor | None,
        k_norm: torch.Tensor | None,
        epsilon: float,
    ) -> torch.Tensor:
        shape, batch = self._shape, self._batch
        keys, values = self._keys[layer], self._values[layer]
        heads, kv_heads, dim = map(ctypes.c_int64, (shape.heads, shape.kv_heads, shape.dim))
        self._rotate_and_store(
            _pointer(qkv),
            _pointer(q_norm),
            _pointer(k_norm),
            ctypes.c_float(epsilon),
            _pointer(self._cosine),
            _pointer(self._sine),
            _pointer(batch.positions),
            _pointer(batch.slots),
            _pointer(keys),
            _pointer(values),
            _pointer(self._queries),
            ctypes.c_int64(batch.rows),
            heads,
            kv_heads,
            dim,
            ctypes.c_float(shape.scale),
        )
        out = torch.empty(batch.padded_rows, shape.heads * shape.dim, dtype=shape.dtype)
        out[batch.rows :] = 0
        failed = self._attend(
            _pointer(self._queries),
            _pointer(keys),
            _pointer(values),
            _pointer(self._tiles),
            ctypes.c_int64(len(self._tiles)),
            _pointer(self._tables),
            ctypes.c_int64(self._tables.shape[1]),
            _pointer(out),
            heads,
            kv_heads,
            dim,
        )
        if failed:
            raise MemoryError("no memory for the attention scores")
        return out

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        rows, width = gate_up.shape[0], gate_up.shape[1] // 2
        out = torch.empty(rows, width, dtype=gate_up.dtype)
        self._silu_mul(_pointer(gate_up), _pointer(out), ctypes.c_int64(rows), ctypes.c_int64(width))
        return out
