import time

import pytest

from common.byte_sizes import format_bytes
from common.short_memory import ShortMemory


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0B"), (1023, "1023B"), (1024, "1KB"), (283_115_520, "270MB"), (6_979_321_856, "6.5GB"), (2**41, "2.0TB")],
)
def test_sizes_read_as_people_write_them(size: int, text: str) -> None:
    assert format_bytes(size) == text


def test_the_memory_forgets_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    memory: ShortMemory[str, int] = ShortMemory(seconds=1.0, size=10)
    memory.keep("long", 1)
    memory.keep("short", 2, seconds=0.5)
    memory.keep("longer than allowed", 3, seconds=60)
    now = time.monotonic()
    assert (memory.recall("long"), memory.recall("short"), memory.recall("never")) == (1, 2, None)
    monkeypatch.setattr("common.short_memory.time.monotonic", lambda: now + 0.6)
    assert (memory.recall("long"), memory.recall("short")) == (1, None)
    monkeypatch.setattr("common.short_memory.time.monotonic", lambda: now + 1.1)
    assert memory.recall("longer than allowed") is None


def test_the_memory_stays_small() -> None:
    memory: ShortMemory[int, int] = ShortMemory(seconds=60, size=10)
    for number in range(1000):
        memory.keep(number, number)
    assert sum(memory.recall(number) is not None for number in range(1000)) <= 10
    assert memory.recall(999) == 999
