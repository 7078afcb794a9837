import pytest
from asgiref.sync import sync_to_async
from django.test import AsyncClient
from pytest_django import Settings

from models_mgmt.models import Model
from models_mgmt.presence import DeploymentReport, announce, announce_scheduler
from models_mgmt.services import ensure_model
from tests.conftest import free_port
from tests.models_mgmt.test_api import report

pytestmark = pytest.mark.django_db(transaction=True)
HEALTH = ("/health", "/health/", "/health/ready")


@pytest.mark.parametrize("path", HEALTH)
async def test_all_is_well_when_a_worker_lives(clean_redis: str, path: str) -> None:
    await sync_to_async(announce)(report(DeploymentReport("tiny", "loaded")))
    await sync_to_async(announce_scheduler)()
    response = await AsyncClient().get(path)
    body = response.json()
    assert response.status_code == 200
    assert (body["success"], body["status"], body["version"]) == (True, "healthy", "1.0.0")
    assert {name: check["status"] for name, check in body["checks"].items()} == dict.fromkeys(
        ("database", "redis", "workers", "engines", "scheduler"), "ok"
    )
    assert body["checks"]["workers"]["alive"] == 1


@pytest.mark.parametrize("path", HEALTH)
async def test_without_a_worker_it_is_503(clean_redis: str, path: str) -> None:
    response = await AsyncClient().get(path)
    body = response.json()
    assert response.status_code == 503
    assert (body["success"], body["status"]) == (False, "unhealthy")
    assert (body["checks"]["database"]["status"], body["checks"]["workers"]["status"]) == ("ok", "failed")


async def test_without_the_scheduler_it_is_degraded(clean_redis: str) -> None:
    await sync_to_async(announce)(report())
    response = await AsyncClient().get("/health")
    body = response.json()
    assert (response.status_code, body["success"], body["status"]) == (200, True, "degraded")
    assert body["checks"]["scheduler"]["status"] == "failed"


LOADED = DeploymentReport("tiny", "loaded")
FAILED = DeploymentReport("large", "failed", error="broken")
DIED = DeploymentReport("large", "loading", stage="wait", error="The engine process ended unexpectedly.")
LOADING = DeploymentReport("large", "loading", stage="read")
TRIED = DeploymentReport("large", "failed", error="broken", is_missed=False)


@pytest.mark.parametrize(
    ("deployments", "status", "check"),
    [
        ((LOADING,), 200, "ok"),
        ((LOADED, LOADING), 200, "ok"),
        ((LOADED, FAILED), 200, "degraded"),
        ((LOADED, DIED), 200, "degraded"),
        ((FAILED,), 503, "failed"),
        ((DIED,), 503, "failed"),
        ((TRIED,), 200, "ok"),
        ((LOADED, TRIED), 200, "ok"),
    ],
)
async def test_an_engine_that_died_or_failed_is_seen(
    clean_redis: str, deployments: tuple[DeploymentReport, ...], status: int, check: str
) -> None:
    await sync_to_async(announce)(report(*deployments))
    response = await AsyncClient().get("/health")
    assert (response.status_code, response.json()["checks"]["engines"]["status"]) == (status, check)


@pytest.mark.parametrize("why", ["is_default", "pinned"])
async def test_a_model_that_is_to_be_there_is_missed_for_as_long_as_it_is_not(clean_redis: str, why: str) -> None:
    await sync_to_async(ensure_model)(id="large", name="Large", source_kind="folder")
    await Model.objects.aupdate(**{why: True})
    await sync_to_async(announce)(report(TRIED))
    response = await AsyncClient().get("/health")
    assert (response.status_code, response.json()["checks"]["engines"]["failed_models"]) == (503, 1)
    await sync_to_async(announce)(report(LOADED, TRIED))
    assert (await AsyncClient().get("/health")).json()["checks"]["engines"]["status"] == "degraded"


async def test_without_redis_it_is_503(clean_redis: str, settings: Settings) -> None:
    settings.REDIS_URL = f"redis://127.0.0.1:{free_port()}/0"
    response = await AsyncClient().get("/health")
    assert response.status_code == 503
    assert response.json()["checks"]["redis"]["status"] == "failed"


async def test_it_is_live_whatever_is_away(clean_redis: str, settings: Settings) -> None:
    settings.REDIS_URL = f"redis://127.0.0.1:{free_port()}/0"
    response = await AsyncClient().get("/health/live")
    assert response.status_code == 200
    assert response["X-API-Version"] == "1.0"
    assert response["X-Request-ID"]


async def test_a_load_balancer_may_call_it_by_any_host_name(clean_redis: str) -> None:
    response = await AsyncClient().get("/health/live", headers={"Host": "10.1.2.3:5000"})
    assert response.status_code == 200


async def test_the_admin_site_opens() -> None:
    response = await AsyncClient().get("/admin/login/")
    assert response.status_code == 200
    assert b"csrfmiddlewaretoken" in response.content
