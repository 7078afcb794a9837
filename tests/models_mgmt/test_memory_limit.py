import pytest

from common.errors import InvalidInput
from models_mgmt.memory_limit import parse_memory_limit

GIB = 1024**3


@pytest.mark.parametrize(
    ("text", "of_ten_gib"),
    [
        ("80%", 8 * GIB),
        ("100 %", 10 * GIB),
        ("12GB", 12 * GIB),
        ("1.5gb", 3 * GIB // 2),
        ("512 MiB", GIB // 2),
        ("4096", 4096),
    ],
)
def test_a_limit_is_a_share_or_a_size(text: str, of_ten_gib: int) -> None:
    assert parse_memory_limit(text).of(10 * GIB) == of_ten_gib


@pytest.mark.parametrize("text", ["", "0", "0%", "101%", "-1GB", "lots", "12XB", "1e3", "%", "GB", "12 34", "٣GB"])
def test_anything_else_is_refused_with_the_field(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_memory_limit(text)
    assert caught.value.details["field"] == "max_memory"
