import asyncio
import threading

import pytest
from asgiref.sync import sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.http import HttpRequest, JsonResponse
from django.urls import path
from pytest_django import Settings

from accounts.models import User
from llama_gpu_site.asgi_handler import THREADS, SiteHandler

pytestmark = pytest.mark.django_db(transaction=True)


async def tell_threads(request: HttpRequest) -> JsonResponse:
    await sync_to_async(User.objects.exists)()
    names = {await sync_to_async(lambda: threading.current_thread().name)() for _ in range(3)}
    return JsonResponse({"threads": sorted(names)})


urlpatterns = [path("api/threads", tell_threads)]


async def get(handler: SiteHandler) -> bytes:
    scope = {"type": "http", "method": "GET", "path": "/api/threads", "headers": [(b"host", b"localhost")]}
    communicator = ApplicationCommunicator(handler, scope)
    await communicator.send_input({"type": "http.request"})
    start = await communicator.receive_output(10)
    body = await communicator.receive_output(10)
    await communicator.wait(10)
    assert start["status"] == 200
    return bytes(body["body"])


@pytest.fixture
def handler(settings: Settings) -> SiteHandler:
    settings.ROOT_URLCONF = __name__
    return SiteHandler()


async def test_a_request_keeps_its_thread_and_threads_are_reused(handler: SiteHandler) -> None:
    before = threading.active_count()
    answers = await asyncio.gather(*(get(handler) for _ in range(40)))
    assert all(answer.count(b"request-") == 1 for answer in answers)
    assert threading.active_count() - before <= THREADS
