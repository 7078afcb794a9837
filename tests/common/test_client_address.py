import pytest
from django.test import RequestFactory
from pytest_django import Settings

from common.client_address import client_address, counted_address


@pytest.mark.parametrize(
    ("proxies", "peer", "forwarded", "expected"),
    [
        ([], "192.0.2.1", "198.51.100.7", "192.0.2.1"),
        (["10.0.0.0/8"], "192.0.2.1", "198.51.100.7", "192.0.2.1"),
        (["10.0.0.0/8"], "10.1.2.3", "198.51.100.7", "198.51.100.7"),
        (["10.0.0.0/8"], "10.1.2.3", "203.0.113.9, 198.51.100.7", "198.51.100.7"),
        (["10.0.0.0/8"], "10.1.2.3", "203.0.113.9, 198.51.100.7, 10.9.9.9", "198.51.100.7"),
        (["10.0.0.0/8"], "10.1.2.3", "nonsense", "10.1.2.3"),
        (["10.0.0.0/8"], "10.1.2.3", "", "10.1.2.3"),
        (["127.0.0.1"], "127.0.0.1", "2001:db8::1", "2001:db8::1"),
        ([], "::ffff:192.0.2.1", "", "192.0.2.1"),
        ([], "", "", "unknown"),
    ],
)
def test_only_trusted_proxies_are_believed(
    settings: Settings, proxies: list[str], peer: str, forwarded: str, expected: str
) -> None:
    settings.TRUSTED_PROXIES = proxies
    request = RequestFactory().get("/", REMOTE_ADDR=peer, headers={"X-Forwarded-For": forwarded})
    assert client_address(request) == expected


def test_an_ipv6_client_is_counted_by_its_network() -> None:
    requests = [RequestFactory().get("/", REMOTE_ADDR=f"2001:db8:1:2::{host}") for host in ("1", "ffff")]
    assert {counted_address(request) for request in requests} == {"2001:db8:1:2::/64"}
