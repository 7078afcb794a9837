"""The header of a safetensors file: which tensors it holds, without their numbers.

The format: https://github.com/huggingface/safetensors#format.
"""

from typing import BinaryIO

import msgspec

_MAX_HEADER = 100_000_000  # as the format itself says


class SafetensorsError(Exception):
    """The file is no safetensors file that can be read; the text says why."""


class StoredTensor(msgspec.Struct, frozen=True):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def read_safetensors_header(file: BinaryIO, size: int) -> dict[str, StoredTensor]:
    """The tensors of a file of that many bytes, by name. Raises SafetensorsError, also when the file is cut short."""
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(_MAX_HEADER, size - 8):
        raise SafetensorsError("its header is damaged, or the file is cut short")
    try:
        entries = msgspec.json.decode(file.read(length), type=dict[str, msgspec.Raw])
        entries.pop("__metadata__", None)
        tensors = {name: msgspec.json.decode(raw, type=StoredTensor) for name, raw in entries.items()}
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SafetensorsError("its header is damaged") from error
    needed = 8 + length + max((tensor.data_offsets[1] for tensor in tensors.values()), default=0)
    if needed != size:
        raise SafetensorsError(f"it has {size:,} bytes and its header says {needed:,}; it is cut short or damaged")
    return tensors
