"""Sizes in bytes as people read them."""

_UNITS = ("B", "KB", "MB", "GB", "TB")


def format_bytes(size: int) -> str:
    """`6.5GB`, `270MB`: units of 1024, one decimal from a gigabyte on."""
    value = float(size)
    unit = 0
    while value >= 1023.5 and unit < len(_UNITS) - 1:
        value /= 1024
        unit += 1
    text = f"{value:.1f}" if unit >= 3 else f"{value:.0f}"
    return text + _UNITS[unit]
