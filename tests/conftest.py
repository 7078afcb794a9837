"""What tests of several apps stand on: a real valkey-server, and a clean process memory."""

import subprocess
import time
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import pytest
import redis
from django.db import connections
from pytest_django import DjangoDbBlocker, Settings

from accounts.credentials import forget_callers
from accounts.guessing import forget_what_was_told
from common.redis import close_async_redis, sync_redis
from llama_gpu_site.supervisor.instance import free_port
from llama_gpu_site.supervisor.valkey import find_binary
from models_mgmt.demo import ensure_demo_model
from models_mgmt.selectors import forget_models
from tests.running_server import MODELS_DIR, RunningServer, running_server

_servers = pytest.StashKey[list[RunningServer]]()


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A valkey-server of this test run, with nothing in it."""
    folder: Path = tmp_path_factory.mktemp("valkey")
    port = free_port()
    command = [find_binary(), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    url = f"redis://127.0.0.1:{port}/0"
    try:
        with redis.Redis.from_url(url) as client:
            _wait_until_it_answers(client)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=10)


@pytest.fixture(scope="session")
def django_db_modify_db_settings(
    django_db_modify_db_settings_parallel_suffix: None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """SQLite in a file, as in production: the one in memory knows no waiting for a lock."""
    for connection in connections.all():
        if connection.vendor == "sqlite":
            connection.settings_dict["TEST"]["NAME"] = str(tmp_path_factory.mktemp("database") / "test.sqlite3")


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """The test database; at its end, what other threads still hold open is cut off, so that it can be dropped."""
    yield
    with django_db_blocker.unblock():
        for connection in connections.all():
            if connection.vendor == "postgresql":
                with connection.cursor() as cursor:
                    cursor.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    )


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[RunningServer]:
    """The whole server with the demo model, started once for the test run; others may be put into `models_root`."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "models").mkdir()
    with running_server(folder, LLAMA_GPU_MODEL_ROOTS=str(folder / "models")) as running:
        pytestconfig.stash.setdefault(_servers, []).append(running)
        yield running


@pytest.fixture(scope="session")
def echo_server(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[RunningServer]:
    """The whole server with the echo runner instead of a model: instant and deterministic."""
    with running_server(tmp_path_factory.mktemp("echo_server"), LLAMA_GPU_DEFAULT_MODEL="echo") as running:
        pytestconfig.stash.setdefault(_servers, []).append(running)
        yield running


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows what the servers wrote while it ran."""
    report = yield
    for server in item.config.stash.get(_servers, []):
        text = server.new_log(report.when == "setup")
        if report.failed and text:
            report.sections.append((f"server {server.url}", text))
    return report


@pytest.fixture
async def clean_redis(redis_url: str, settings: Settings) -> AsyncIterator[str]:
    """The test run's Redis as the site's own, emptied; closes what the test's event loop opens."""
    settings.REDIS_URL = redis_url
    sync_redis().flushdb()
    yield redis_url
    await close_async_redis()


@pytest.fixture(autouse=True)
def fresh_memory() -> None:
    """No test sees what another one made this process remember."""
    forget_callers()
    forget_what_was_told()
    forget_models()


def _wait_until_it_answers(client: redis.Redis) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            client.ping()
        except redis.ConnectionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The folder of the demo model, prepared once and kept between test runs."""
    return ensure_demo_model(models_dir=MODELS_DIR, say=print)
