"""The header of a GGUF file: its metadata and the list of its tensors, without the weights.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Every count and length is held against a bound,
since the file may come from anybody.
"""

import math
import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

_MAX_ENTRIES = 100_000
_MAX_ITEMS = 10_000_000
_MAX_TEXT = 16 * 1024**2
_MAX_DIMENSIONS = 8
_KEPT_ITEMS = 64

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


class GgufError(Exception):
    """The file is no GGUF file that can be read; the text says why."""


@dataclass(frozen=True, slots=True)
class GgufTensor:
    name: str
    shape: tuple[int, ...]
    kind: str
    end: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """`metadata`: the values by key; of a long array only its length, as an int under `key + "#"`.

    `size`: the bytes that a whole file has at least.
    """

    metadata: dict[str, Any]
    tensors: tuple[GgufTensor, ...]
    size: int


def read_gguf_header(file: BinaryIO) -> GgufHeader:
    """Raises GgufError."""
    try:
        return _Reader(file).header()
    except (struct.error, ValueError, KeyError, TypeError, ArithmeticError) as error:
        raise GgufError("its header is damaged") from error


class _Reader:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._order = "<"

    def header(self) -> GgufHeader:
        if self._take(4) != b"GGUF":
            raise GgufError("it does not begin as a GGUF file does")
        version = self._order_of_bytes()
        if version not in (2, 3):
            raise GgufError(f"its format is version {version}; 2 and 3 can be read")
        tensors, entries = self._number("Q"), self._number("Q")
        if tensors > _MAX_ENTRIES or entries > _MAX_ENTRIES:
            raise GgufError("its header is damaged")
        metadata: dict[str, Any] = {}
        for _ in range(entries):
            key = self._text()
            self._value(key, metadata)
        found = [self._tensor() for _ in range(tensors)]
        alignment = int(metadata.get("general.alignment", 32))
        start = math.ceil(self._file.tell() / alignment) * alignment
        return GgufHeader(metadata, tuple(found), start + max((tensor.end for tensor in found), default=0))

    def _order_of_bytes(self) -> int:
        raw = self._take(4)
        little, big = int.from_bytes(raw, "little"), int.from_bytes(raw, "big")
        self._order = "<" if little <= big else ">"
        return min(little, big)

    def _value(self, key: str, metadata: dict[str, Any]) -> None:
        kind = self._number("I")
        if kind != _ARRAY:
            metadata[key] = self._text() if kind == _STRING else self._number(_SCALARS[kind])
            return
        item, count = self._number("I"), self._number("Q")
        if count > _MAX_ITEMS:
            raise GgufError("its header is damaged")
        metadata[f"{key}#"] = count
        if item == _STRING:
            for _ in range(count):
                self._skip_text()
        elif count <= _KEPT_ITEMS:
            metadata[key] = [self._number(_SCALARS[item]) for _ in range(count)]
        else:
            self._file.seek(count * struct.calcsize(f"={_SCALARS[item]}"), 1)

    def _tensor(self) -> GgufTensor:
        name = self._text()
        dimensions = self._number("I")
        if dimensions > _MAX_DIMENSIONS:
            raise GgufError("its header is damaged")
        shape = tuple(self._number("Q") for _ in range(dimensions))
        kind = GGMLQuantizationType(self._number("I"))
        offset = self._number("Q")
        per_block, block_bytes = GGML_QUANT_SIZES[kind]
        return GgufTensor(name, shape, kind.name, offset + math.prod(shape) // per_block * block_bytes)

    def _number(self, kind: str) -> Any:
        return struct.unpack(self._order + kind, self._take(struct.calcsize(f"={kind}")))[0]

    def _text(self) -> str:
        return self._take(self._length()).decode()

    def _skip_text(self) -> None:
        self._take(self._length())

    def _length(self) -> int:
        length = int(self._number("Q"))
        if length > _MAX_TEXT:
            raise GgufError("its header is damaged")
        return length

    def _take(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) < count:
            raise GgufError("it ends within its header")
        return data
