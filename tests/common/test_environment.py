"""The readers of networks, origins, limits and tiers; tests/site/test_environment.py has the others."""

import pytest
from django.core.exceptions import ImproperlyConfigured

from llama_gpu_site.environment import read_byte_size, read_limits, read_networks, read_origins, read_tiers

NAME = "LLAMA_GPU_OF_A_TEST"
DEFAULTS = {"infer": (1000, 100, 3600), "models": (10, 1, 3600)}


def test_unset_means_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(NAME, raising=False)
    assert read_limits(NAME, DEFAULTS) == DEFAULTS
    assert read_networks(NAME) == []


def test_good_values_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, "models=50/5/60, infer=2000/200")
    assert read_limits(NAME, DEFAULTS) == {"infer": (2000, 200, 3600), "models": (50, 5, 60)}
    monkeypatch.setenv(NAME, "10.0.0.0/8,::1")
    assert read_networks(NAME) == ["10.0.0.0/8", "::1"]


def test_a_size_is_read_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(NAME, raising=False)
    assert read_byte_size(NAME) == 0
    monkeypatch.setenv(NAME, "1.5GB")
    assert read_byte_size(NAME) == 1536 * 1024**2


@pytest.mark.parametrize("value", ["80%", "much", "0", "-1GB"])
def test_a_bad_size_stops_the_start(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(NAME, value)
    with pytest.raises(ImproperlyConfigured, match="such as '2GB'"):
        read_byte_size(NAME)


@pytest.mark.parametrize("value", ["infer=1", "other=1/1", "infer=-1/1", "infer=1/x", "infer", "infer=5/1/0"])
def test_a_bad_limit_stops_the_start(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(NAME, value)
    with pytest.raises(ImproperlyConfigured, match=NAME):
        read_limits(NAME, DEFAULTS)


@pytest.mark.parametrize("value", ["10.0.0.0/99", "localhost", "10.0.0"])
def test_a_bad_network_stops_the_start(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(NAME, value)
    with pytest.raises(ImproperlyConfigured, match=NAME):
        read_networks(NAME)


def test_tiers_are_changed_and_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, "premium=20/10, partner=2.5/1/first")
    tiers = read_tiers(NAME, {"standard": (1, 1, False), "premium": (10, 5, True)})
    assert tiers == {"standard": (1, 1, False), "premium": (20, 10, False), "partner": (2.5, 1, True)}


@pytest.mark.parametrize("value", ["premium", "premium=5", "standard=2/2", "Big=1/1", "premium=1/1/last", "a=x/1"])
def test_a_bad_tier_stops_the_start(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(NAME, value)
    with pytest.raises(ImproperlyConfigured, match=NAME):
        read_tiers(NAME, {"standard": (1, 1, False)})


def test_origins_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, "https://App.example.com, http://localhost:3000,*")
    assert read_origins(NAME) == ["https://app.example.com", "http://localhost:3000", "*"]


@pytest.mark.parametrize("value", ["app.example.com", "https://a.example/", "https://*.example.com", "null"])
def test_a_bad_origin_stops_the_start(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(NAME, value)
    with pytest.raises(ImproperlyConfigured, match=NAME):
        read_origins(NAME)
