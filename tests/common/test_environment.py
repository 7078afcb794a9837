import pytest
from django.core.exceptions import ImproperlyConfigured

from llama_gpu_site.environment import read_bool, read_float, read_int, read_limits, read_networks, read_str

NAME = "LLAMA_GPU_OF_A_TEST"
DEFAULTS = {"infer": (1000, 100), "models": (10, 1)}


def test_unset_and_blank_mean_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (None, "", "  "):
        if value is not None:
            monkeypatch.setenv(NAME, value)
        assert read_int(NAME, 7, minimum=1) == 7
        assert read_bool(NAME, default=True) is True
        assert read_str(NAME, "x", choices=("x", "y")) == "x"
        assert read_limits(NAME, DEFAULTS) == DEFAULTS


def test_good_values_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, "models=50/5, infer=2000/200")
    assert read_limits(NAME, DEFAULTS) == {"infer": (2000, 200), "models": (50, 5)}
    monkeypatch.setenv(NAME, "10.0.0.0/8,::1")
    assert read_networks(NAME) == ["10.0.0.0/8", "::1"]


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("zero", lambda: read_int(NAME, 1, minimum=1)),
        ("0", lambda: read_int(NAME, 1, minimum=1)),
        ("1.5", lambda: read_int(NAME, 1, minimum=1)),
        ("nan", lambda: read_float(NAME, 1, minimum=0)),
        ("maybe", lambda: read_bool(NAME, default=True)),
        ("z", lambda: read_str(NAME, "x", choices=("x", "y"))),
        ("infer=1", lambda: read_limits(NAME, DEFAULTS)),
        ("other=1/1", lambda: read_limits(NAME, DEFAULTS)),
        ("10.0.0.0/99", lambda: read_networks(NAME)),
    ],
)
def test_a_bad_value_stops_the_start_and_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, value: str, read: object
) -> None:
    monkeypatch.setenv(NAME, value)
    with pytest.raises(ImproperlyConfigured, match=NAME):
        read()  # type: ignore[operator]
