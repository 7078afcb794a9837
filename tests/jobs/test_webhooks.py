"""Who is told of a job's end, how that is signed, and where it never goes."""

import asyncio
import base64
import hashlib
import hmac
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from django.test import override_settings
from django.utils import timezone

from accounts.models import User
from common.errors import InvalidInput
from jobs.deliveries import PAUSES, deliver_due
from jobs.models import Job, WebhookDelivery
from jobs.services import cancel
from jobs.webhook_addresses import BlockedAddress, check_url, resolve
from jobs.webhook_request import post
from jobs.webhook_signing import headers, secret_of
from tests.jobs.made import a_job

LOOPBACK = ["127.0.0.0/8"]


class Receiver:
    """A server on loopback that keeps what it gets and answers what it is told to."""

    def __init__(self) -> None:
        self.status = 200
        self.got: list[tuple[dict[str, str], bytes]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append((dict(self.headers.items()), body))
                self.send_response(receiver.status)
                self.send_header("Location", "http://127.0.0.1/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook?of=jobs"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.stop()


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",  # noqa: S104
        "255.255.255.255", "[::1]", "[::]", "[fe80::1]", "[fd00::1]", "[ff02::1]", "[::ffff:127.0.0.1]",
        "[::ffff:10.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[2001:0:0:0:0:0:80ff:fffe]",
    ],
)  # fmt: skip
def test_an_address_that_is_not_public_is_refused(host: str) -> None:
    with pytest.raises(InvalidInput, match="private"):
        check_url(f"https://{host}/hook")


@pytest.mark.parametrize("host", ["8.8.8.8", "[2606:4700:4700::1111]", "[64:ff9b::808:808]", "example.com"])
def test_a_public_address_or_a_name_is_taken(host: str) -> None:
    assert check_url(f"https://{host}:8443/hook?a=b")


@pytest.mark.parametrize(
    "url",
    ["ftp://8.8.8.8/", "//8.8.8.8/", "https://", "https://user:pass@8.8.8.8/", "https://8.8.8.8:99999/",
     "https://8.8.8.8/a b", "https://8.8.8.8/\r\nHost: x", "https://bücher.example/", "https://8.8.8.8/" + "a" * 2000],
)  # fmt: skip
def test_what_is_no_address_of_the_web_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput):
        check_url(url)


@override_settings(WEBHOOK_NETWORKS=["10.0.0.0/8"])
def test_a_network_that_the_operator_names_is_allowed_and_no_other() -> None:
    assert check_url("http://10.1.2.3/hook")
    with pytest.raises(InvalidInput):
        check_url("http://192.168.1.1/hook")


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["8.8.8.8", "::1"]])
def test_a_name_with_any_private_address_is_refused(addresses: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", answering([addresses]))
    with pytest.raises(BlockedAddress):
        resolve("https://rebinding.example/hook")


async def test_the_connection_goes_to_the_address_that_was_checked(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name server that answers a private address the second time is not asked a second time."""
    asked = answering([["127.0.0.2"], ["127.0.0.1"]])
    monkeypatch.setattr(socket, "getaddrinfo", asked)
    connected: list[str] = []

    async def connect(host: str, *args: Any, **options: Any) -> Any:
        connected.append(host)
        raise ConnectionRefusedError

    monkeypatch.setattr(asyncio, "open_connection", connect)
    with override_settings(WEBHOOK_NETWORKS=["127.0.0.2/32"]), pytest.raises(ConnectionRefusedError):
        await post("http://rebinding.example/hook", b"{}", {})
    assert connected == ["127.0.0.2"]


async def test_redirects_are_not_followed(receiver: Receiver) -> None:
    receiver.status = 302
    with override_settings(WEBHOOK_NETWORKS=LOOPBACK):
        assert await post(receiver.url, b"{}", {}) == 302
    assert len(receiver.got) == 1


def test_the_signature_is_that_of_standard_webhooks() -> None:
    """The example of its specification's reference implementations."""
    made = headers(
        secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        delivery_id="msg_p5jXN8AQM9LWM0D4loKWxJek",
        timestamp=1614265330,
        body=b'{"test": 2432232314}',
    )
    assert made["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert (made["webhook-id"], made["webhook-timestamp"]) == ("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330")


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("clean_redis")
async def test_a_jobs_end_is_told_signed_and_once(receiver: Receiver) -> None:
    with override_settings(WEBHOOK_NETWORKS=LOOPBACK):
        job = await made_job(receiver.url)
        assert await deliver_due() == 1
        assert await deliver_due() == 0

    ((got, body),) = receiver.got
    told = json.loads(body)
    assert (told["type"], told["data"]["job"]["id"]) == ("job.cancelled", job.pk)
    secret = base64.b64decode(secret_of(job.owner_id).removeprefix("whsec_"))
    signed = f"{got['webhook-id']}.{got['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()
    assert got["webhook-signature"] == f"v1,{expected}"
    delivery = await WebhookDelivery.objects.aget(job=job)
    assert (delivery.state, delivery.pk, delivery.attempts) == ("delivered", got["webhook-id"], 1)


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("clean_redis")
async def test_it_is_tried_again_with_growing_pauses_under_one_id_and_given_up_at_last(receiver: Receiver) -> None:
    receiver.status = 500
    with override_settings(WEBHOOK_NETWORKS=LOOPBACK):
        job = await made_job(receiver.url)
        for attempt, pause in enumerate([*PAUSES, None], start=1):
            before = timezone.now()
            assert await deliver_due() == 1
            delivery = await WebhookDelivery.objects.aget(job=job)
            assert (delivery.attempts, delivery.last_status) == (attempt, 500)
            if pause is not None:
                assert pause <= (delivery.next_at - before).total_seconds() <= pause + 30
                assert await deliver_due() == 0
                await WebhookDelivery.objects.aupdate(next_at=timezone.now())
    assert delivery.state == "given_up"
    assert len({got["webhook-id"] for got, _ in receiver.got}) == 1
    assert len(receiver.got) == len(PAUSES) + 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("clean_redis")
async def test_one_to_a_private_address_is_never_sent(receiver: Receiver) -> None:
    with override_settings(WEBHOOK_NETWORKS=LOOPBACK):
        job = await made_job(receiver.url)
    assert await deliver_due() == 1
    assert receiver.got == []
    assert "private" in (await WebhookDelivery.objects.aget(job=job)).last_error


async def made_job(url: str) -> Job:
    """A job with a webhook, that was cancelled."""
    owner = await User.objects.acreate(username="ada", role="operator")
    job = await asyncio.to_thread(lambda: a_job(owner, webhook_url=url))
    return await asyncio.to_thread(cancel, job)


def answering(answers: list[list[str]]) -> Any:
    """A getaddrinfo that gives one answer after the other."""
    left = list(answers)

    def getaddrinfo(host: str, port: int, *args: Any, **options: Any) -> list[Any]:
        found = left.pop(0)
        return [(socket.AF_INET6 if ":" in one else socket.AF_INET, 1, 6, "", (one, port)) for one in found]

    return getaddrinfo
