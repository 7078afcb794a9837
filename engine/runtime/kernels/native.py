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
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import torch

from engine.runtime.blocks import BLOCK_SIZE
from engine.runtime.kernels.batch import StepBatch
from engine.runtime.kernels.interface import AttentionShape

logger = logging.getLogger(__name__)

_SOURCES = [Path(__file__).with_name("native.c"), Path(__file__).with_name("native_template.h")]
# What of -ffast-math lets sums be vectorised. The flag itself would make the linker switch the whole process to
# treating denormal numbers as zero, and the kernels need infinities and NaN.
_MATH_FLAGS = ["-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math", "-freciprocal-math"]
_FLAGS = ["-O3", "-march=native", "-ffp-contract=fast", *_MATH_FLAGS, "-fopenmp", "-shared", "-fPIC"]
_SUFFIX = {torch.float32: "f32", torch.bfloat16: "bf16"}
_P, _I, _F = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_SIGNATURES = {
    "add_rms_norm": [_P] * 4 + [_I] * 2 + [_F],
    "silu_mul": [_P] * 2 + [_I] * 2,
    "rotate_and_store": [_P] * 3 + [_F] + [_P] * 7 + [_I] * 4 + [_F],
    "attend": [_P] * 4 + [_I, _P, _I, _P] + [_I] * 3,
}
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
    try:
        target = (cache_dir or _default_cache_dir()) / f"kernels-{key.hexdigest()[:20]}.so"
        if not target.exists():
            _compile(compiler, target)
        return ctypes.CDLL(str(target))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:  # RuntimeError: there is no home folder
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


def _function(library: ctypes.CDLL, name: str, dtype: torch.dtype) -> Callable[..., int]:
    function = getattr(library, f"{name}_{_SUFFIX[dtype]}")
    function.argtypes = _SIGNATURES[name]
    return cast("Callable[..., int]", function)


def _address(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _zeros(size: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Zeros in huge pages, where the system has them for numpy. All are written now: memory that runs out does so
    while the model is loaded, not in the midst of a request."""
    memory = np.empty(math.prod(size) * dtype.itemsize, dtype=np.uint8)
    memory.fill(0)
    return torch.from_numpy(memory).view(dtype).view(size)


class NativeKernels:
    """`Kernels` on the CPU. The KV cache is two tensors: keys [layers, blocks, kv_heads, dim, BLOCK_SIZE], values
    [layers, blocks, kv_heads, BLOCK_SIZE, dim]."""

    def __init__(
        self, shape: AttentionShape, blocks: int, cosine: torch.Tensor, sine: torch.Tensor, library: ctypes.CDLL
    ) -> None:
        """cosine, sine: float32 [positions, dim / 2]. Raises NativeUnavailable."""
        if shape.dtype not in _SUFFIX or shape.dim % 16 or shape.device.type != "cpu":
            raise NativeUnavailable(f"no native kernels for {shape.dtype}, head size {shape.dim}, {shape.device}")
        self._add_rms_norm = _function(library, "add_rms_norm", shape.dtype)
        self._silu_mul = _function(library, "silu_mul", shape.dtype)
        self._rotate_and_store = _function(library, "rotate_and_store", shape.dtype)
        self._attend = _function(library, "attend", shape.dtype)
        self._shape = shape
        self._cosine = cosine.float().contiguous()
        self._sine = sine.float().contiguous()
        size = (shape.layers, blocks, shape.kv_heads)
        self._keys = _zeros((*size, shape.dim, BLOCK_SIZE), shape.dtype)
        self._values = _zeros((*size, BLOCK_SIZE, shape.dim), shape.dtype)
        self._layer_bytes = self._keys[0].nbytes
        self._tile_rows = max(1, _MAX_ROWS // (shape.heads // shape.kv_heads))

    @property
    def cache_bytes(self) -> int:
        return self._keys.nbytes + self._values.nbytes

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
            residual.data_ptr(),
            _address(delta),
            weight.data_ptr(),
            out.data_ptr(),
            rows,
            width,
            epsilon,
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
        offset = layer * self._layer_bytes
        keys, values = self._keys.data_ptr() + offset, self._values.data_ptr() + offset
        heads, kv_heads, dim = shape.heads, shape.kv_heads, shape.dim
        self._rotate_and_store(
            qkv.data_ptr(),
            _address(q_norm),
            _address(k_norm),
            epsilon,
            self._cosine.data_ptr(),
            self._sine.data_ptr(),
            batch.positions.data_ptr(),
            batch.slots.data_ptr(),
            keys,
            values,
            self._queries.data_ptr(),
            batch.rows,
            heads,
            kv_heads,
            dim,
            shape.scale,
        )
        out = torch.empty(batch.padded_rows, shape.heads * shape.dim, dtype=shape.dtype)
        if batch.padded_rows > batch.rows:
            out[batch.rows :] = 0
        failed = self._attend(
            self._queries.data_ptr(),
            keys,
            values,
            self._tiles.data_ptr(),
            len(self._tiles),
            self._tables.data_ptr(),
            self._tables.shape[1],
            out.data_ptr(),
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
        self._silu_mul(gate_up.data_ptr(), out.data_ptr(), rows, width)
        return out
