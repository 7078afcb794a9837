"""Whether a model would fit, asked over the API. The workers are announced by the test."""

from typing import Any

import pytest
from django.test import AsyncClient
from pytest_django import Settings

from models_mgmt.models import Deployment, Model
from tests.accounts.conftest import bearer, make_key, make_user
from tests.models_mgmt.test_deployments import GB, announced

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
async def ask(async_client: AsyncClient, clean_redis: str, settings: Settings) -> Any:
    """Asks for the model `m`, which needs 4 GiB whatever is asked."""
    settings.WORKER_LOST_SECONDS = 60.0
    await Model.objects.acreate(id="m", name="M", source_kind="echo")
    key = await make_key(await make_user())

    async def fit(model: str = "m", **body: Any) -> dict[str, Any]:
        response = await async_client.post(
            f"/api/v1/models/{model}/fit", body, content_type="application/json", headers=bearer(key)
        )
        answer: dict[str, Any] = {"status": response.status_code, **response.json()}
        return answer

    return fit


@pytest.fixture
def four_gib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models_mgmt.deployments.Needs.wanted", lambda *_: 4 * GB)
    monkeypatch.setattr("models_mgmt.deployments.Needs.least", lambda *_: 4 * GB)


@pytest.mark.usefixtures("four_gib")
async def test_it_says_where_the_model_would_go_and_loads_nothing(ask: Any) -> None:
    announced("a/cuda0", free=5 * GB)
    announced("b/cuda0", free=9 * GB)
    answer = await ask()
    assert answer == {
        "status": 200,
        "success": True,
        "fits": True,
        "code": None,
        "reason": None,
        "details": {},
        "placements": [
            {
                "host": "a",
                "device": "cuda0",
                "devices": ["cuda0"],
                "needed": "4.0GB",
                "needed_bytes": 4 * GB,
                "evicts": [],
            }
        ],
        **{name: answer[name] for name in ("request_id", "timestamp") if name in answer},
    }
    assert not await Deployment.objects.aexists()
    (there,) = (await ask(device="b/cuda0"))["placements"]
    assert there["host"] == "b"
    assert len((await ask(replicas=2))["placements"]) == 2


@pytest.mark.usefixtures("four_gib")
async def test_it_says_why_not_with_figures(ask: Any) -> None:
    announced("a/cuda0", free=2 * GB, loaded={"other": 60.0})
    answer = await ask()
    assert (answer["status"], answer["fits"], answer["code"]) == (200, False, "INSUFFICIENT_MEMORY")
    assert answer["reason"].startswith("The model needs 4.0GB, and 2.0GB are free.")
    assert answer["details"]["could_be_unloaded"] == [{"model": "other", "memory": "1.0GB", "memory_bytes": GB}]
    assert (await ask(backend="mps"))["code"] == "BACKEND_UNAVAILABLE"


async def test_without_a_worker_nothing_fits(ask: Any) -> None:
    assert (await ask())["code"] == "BACKEND_UNAVAILABLE"


@pytest.mark.parametrize("body", [{"quantization": "int3"}, {"max_memory": "lots"}, {"async": True}, {"replicas": 0}])
async def test_bad_parameters_are_named(ask: Any, body: dict[str, Any]) -> None:
    answer = await ask(**body)
    assert (answer["status"], answer["error"]["details"]["field"]) == (400, next(iter(body)))


async def test_an_unknown_model_is_not_found(ask: Any) -> None:
    assert (await ask("nobody"))["status"] == 404
