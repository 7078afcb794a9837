"""The readers of networks and limits; tests/site/test_environment.py has the others."""

import pytest
from django.core.exceptions import ImproperlyConfigured

from llama_gpu_site.environment import read_limits, read_networks

NAME = "LLAMA_GPU_OF_A_TEST"
DEFAULTS = {"infer": (1000, 100), "models": (10, 1)}


def test_unset_means_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(NAME, raising=False)
    assert read_limits(NAME, DEFAULTS) == DEFAULTS
    assert read_networks(NAME) == []


def test_good_values_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, "models=50/5, infer=2000/200")
    assert read_limits(NAME, DEFAULTS) == {"infer": (2000, 200), "models": (50, 5)}
    monkeypatch.setenv(NAME, "10.0.0.0/8,::1")
    assert read_networks(NAME) == ["10.0.0.0/8", "::1"]


@pytest.mark.parametrize("value", ["infer=1", "other=1/1", "infer=-1/1", "infer=1/x", "infer"])
def test_a_bad_limit_stops_the_start(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(NAME, value)
    with pytest.raises(ImproperlyConfigured, match=NAME):
        read_limits(NAME, DEFAULTS)


@pytest.mark.parametrize("value", ["10.0.0.0/99", "localhost", "10.0.0"])
def test_a_bad_network_stops_the_start(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(NAME, value)
    with pytest.raises(ImproperlyConfigured, match=NAME):
        read_networks(NAME)
