"""How much memory may be taken, as people write it: `80%` of a device, or `12GB`."""

import re
from dataclasses import dataclass

from common.errors import InvalidInput

_UNITS = {"": 1, "B": 1, "KB": 1024, "MB": 1024**2, "GB": 1024**3, "TB": 1024**4}
_SYNTAX = re.compile(r"\s*(\d{1,15}(?:\.\d{1,6})?)\s*(%|[KMGT]?I?B)?\s*", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """A share of a device's memory (0 to 1), or a number of bytes; the other one is 0."""

    share: float = 0.0
    size: int = 0

    def of(self, total_bytes: int) -> int:
        """The limit in bytes, on a device of that size."""
        return self.size or int(self.share * total_bytes)


def parse_memory_limit(text: str, *, field: str = "max_memory") -> MemoryLimit:
    """Read `80%`, `12GB`, `512 MiB`; units are of 1024, and a number alone is bytes. Raises InvalidInput."""
    match = _SYNTAX.fullmatch(text)
    if match is not None:
        number, unit = float(match[1]), (match[2] or "").upper().replace("I", "")
        if unit == "%" and 0 < number <= 100:
            return MemoryLimit(share=number / 100)
        if unit != "%" and (size := int(number * _UNITS[unit])) > 0:
            return MemoryLimit(size=size)
    raise InvalidInput(f'{field} must be a share such as "80%" or a size such as "12GB".', field=field)
