"""Names that move while requests come in, and forced deletion, on a running server."""

import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.inference.conftest import wait_until
from tests.models_mgmt.made_models import model_files, write_files
from tests.running_server import RunningServer, running_server

REMEMBERED_SECONDS = 1.1  # by a web process, and a little for the clock


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Two echo models, each token of which takes 10 ms, behind one alias."""
    folder = tmp_path_factory.mktemp("aliases")
    write_files(folder / "root" / "tiny", model_files())
    with running_server(
        folder,
        LLAMA_GPU_DEFAULT_MODEL="echo",
        LLAMA_GPU_WEB_PROCESSES="2",
        LLAMA_GPU_ECHO_DELAY="0.01",
        LLAMA_GPU_RATE_LIMITS="infer=100000/0,models=100000/0",
        LLAMA_GPU_MODEL_ROOTS=str(folder / "root"),
    ) as running:
        for name in ("old", "new"):
            answer = post(running, "models", {"source": "echo", "source_kind": "echo", "id": name})
            assert answer.status_code == 201, answer.text
            assert infer(running, name).status_code == 200  # loads it
        yield running


def post(server: RunningServer, path: str, body: dict[str, object]) -> httpx.Response:
    return httpx.post(f"{server.url}/api/v1/{path}", json=body, headers=server.headers, timeout=60)


def patch(server: RunningServer, model: str, body: dict[str, object]) -> httpx.Response:
    return httpx.patch(f"{server.url}/api/v1/models/{model}", json=body, headers=server.headers, timeout=60)


def infer(server: RunningServer, model: str) -> httpx.Response:
    return post(server, "infer", {"text": "one two three four five six", "model": model, "max_tokens": 6})


def test_moving_an_alias_drops_no_request(server: RunningServer) -> None:
    assert patch(server, "old", {"aliases": ["live"]}).status_code == 200
    answers: list[tuple[float, float, int, str]] = []
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            began = time.monotonic()
            response = infer(server, "live")
            used = response.json()["result"]["model_used"] if response.status_code == 200 else response.text
            answers.append((began, time.monotonic(), response.status_code, used))

    def settled(since: float, until: float) -> list[str]:
        """The models of the requests that began a second after a move, and ended before the next one."""
        return [used for began, ended, _, used in answers if since + REMEMBERED_SECONDS < began and ended < until]

    callers = [threading.Thread(target=ask) for _ in range(4)]
    for caller in callers:
        caller.start()
    wait_until(lambda: len(answers) > 10)
    for name in ("new", "old", "new"):
        assert patch(server, name, {"aliases": ["live"]}).json()["model"]["aliases"] == ["live"]
        moved = time.monotonic()
        wait_until(lambda moved=moved: len(settled(moved, time.monotonic())) > 5, 30)
        assert set(settled(moved, time.monotonic())) == {name}
    is_over.set()
    for caller in callers:
        caller.join()

    assert {status for _, _, status, _ in answers} == {200}, [answer for answer in answers if answer[2] != 200][:3]


def test_a_loaded_model_is_deleted_only_by_force_which_unloads_it(server: RunningServer) -> None:
    assert post(server, "models", {"source": "echo", "source_kind": "echo", "id": "gone"}).status_code == 201
    assert infer(server, "gone").status_code == 200
    engines = len(server.engine_pids())
    refused = httpx.delete(f"{server.url}/api/v1/models/gone", headers=server.headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "CONFLICT")
    deleted = httpx.delete(f"{server.url}/api/v1/models/gone?force=true", headers=server.headers, timeout=60)
    assert deleted.status_code == 200, deleted.text
    assert len(server.engine_pids()) == engines - 1
    missing = infer(server, "gone")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "MODEL_NOT_FOUND")


def test_a_model_that_is_deleted_as_soon_as_its_alias_has_moved_drops_no_request(server: RunningServer) -> None:
    for name in ("before", "after"):
        assert post(server, "models", {"source": "echo", "source_kind": "echo", "id": name}).status_code == 201
        assert infer(server, name).status_code == 200
    assert patch(server, "before", {"aliases": ["steady"]}).status_code == 200
    answers: list[tuple[int, str]] = []
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            response = infer(server, "steady")
            used = response.json()["result"]["model_used"] if response.status_code == 200 else response.text
            answers.append((response.status_code, used))

    callers = [threading.Thread(target=ask) for _ in range(4)]
    for caller in callers:
        caller.start()
    time.sleep(1.0)
    assert patch(server, "after", {"aliases": ["steady"]}).status_code == 200
    url = f"{server.url}/api/v1/models/before"
    deadline = time.monotonic() + 20
    deleted = 0
    while deleted != 200:  # a request by the old name may have it loaded once more; then it is to be unloaded again
        assert httpx.delete(f"{url}/unload", headers=server.headers, timeout=60).status_code == 200
        deleted = httpx.delete(url, headers=server.headers, timeout=60).status_code
        assert deleted in {200, 409}
        assert time.monotonic() < deadline
    time.sleep(1.5)
    is_over.set()
    for caller in callers:
        caller.join()

    assert {status for status, _ in answers} == {200}, [answer for answer in answers if answer[0] != 200][:3]
    assert {used for _, used in answers} == {"before", "after"}
    assert answers[-1][1] == "after"
