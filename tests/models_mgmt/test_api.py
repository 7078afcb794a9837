from collections.abc import Awaitable, Callable
from functools import partial

import msgspec
import pytest
from asgiref.sync import sync_to_async
from django.http import HttpResponse
from django.test import AsyncClient

from common.byte_sizes import format_bytes
from engine.messages import Ready
from models_mgmt.inspection import ModelShape
from models_mgmt.memory import estimate, resolved_precision
from models_mgmt.models import Model, ModelAlias
from models_mgmt.presence import DeploymentReport, WorkerReport, announce
from models_mgmt.services import ensure_model
from tests.accounts.conftest import bearer, make_key

pytestmark = pytest.mark.django_db(transaction=True)
Read = Callable[[str], Awaitable[HttpResponse]]
MODELS = "/api/v1/models"
READY = Ready(
    backend="cpu",
    architecture="LlamaForCausalLM",
    parameters=134_515_008,
    vocab_size=49_152,
    context_length=8192,
    quantization="int4",
    has_chat_template=True,
    memory_bytes=283_115_520,
    kv_cache_bytes=1024,
    max_sequences=32,
    load_time=1.5,
)
SHAPE = ModelShape(
    architecture="LlamaForCausalLM", model_type="llama", parameters=6_738_415_616, vocab_size=32_000, hidden_size=4096,
    intermediate_size=11_008, layers=32, heads=32, kv_heads=32, head_dim=128, tied_embeddings=False,
    context_length=4096, dtype="float16", weight_bytes=13_476_839_424,
)  # fmt: skip
LARGE = estimate(SHAPE, quantization="auto", device_kind="cpu", context_length=None, max_sequences=32)


def report(*deployments: DeploymentReport) -> WorkerReport:
    return WorkerReport(
        worker_id="worker-1",
        host="host",
        device="cpu",
        backend="cpu",
        queue="device.host.cpu",
        pid=1,
        started_at=0.0,
        deployments=deployments,
    )


@pytest.fixture
async def read(clean_redis: str) -> Read:
    """GET with a key, on a site with two models, of which a worker has loaded the first."""
    make = sync_to_async(ensure_model)
    await make(
        id="small-chat", name="Small Chat", size="135M", type="chat", source_kind="folder", is_default=True,
        path="/secret/place", capabilities=["text-generation", "chat"],
    )  # fmt: skip
    await make(id="large", name="Large", size="7B", type="base", source_kind="hub")
    await Model.objects.filter(pk="large").aupdate(shape=msgspec.to_builtins(SHAPE))
    await ModelAlias.objects.acreate(name="assistant", model_id="small-chat")
    loaded = DeploymentReport(model_id="small-chat", state="loaded", ready=READY, running=2, tokens_per_second=45.2)
    await sync_to_async(announce)(report(loaded))
    return partial(AsyncClient().get, headers=bearer(await make_key(permission="read")))


async def test_the_list_answers_as_documented(read: Read) -> None:
    body = (await read(MODELS)).json()
    assert body == {
        "success": True,
        "models": [
            {
                "id": "large",
                "name": "Large",
                "size": "7B",
                "type": "base",
                "loaded": False,
                "state": "available",
                "default": False,
                "aliases": [],
                "pinned": False,
                "enabled": True,
                "estimated_memory": format_bytes(LARGE.total),
                "estimated_memory_bytes": LARGE.total,
                "capabilities": ["text-generation"],
            },
            {
                "id": "small-chat",
                "name": "Small Chat",
                "size": "135M",
                "type": "chat",
                "loaded": True,
                "state": "loaded",
                "default": True,
                "aliases": ["assistant"],
                "pinned": False,
                "enabled": True,
                "memory_usage": "270MB",
                "memory_usage_bytes": 283_115_520,
                "backend": "cpu",
                "capabilities": ["text-generation", "chat"],
            },
        ],
        "total_models": 2,
        "loaded_models": 1,
    }


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("?loaded=true", ["small-chat"]),
        ("?loaded=false", ["large"]),
        ("?search=SMALL", ["small-chat"]),
        ("?search=", ["large", "small-chat"]),
        ("?search=assist", ["small-chat"]),
        ("?type=base", ["large"]),
        ("?source_kind=folder", ["small-chat"]),
        ("?type=chat&source_kind=hub", []),
        ("?loaded=true&search=large", []),
    ],
)
async def test_the_list_can_be_narrowed(read: Read, query: str, ids: list[str]) -> None:
    body = (await read(MODELS + query)).json()
    assert [model["id"] for model in body["models"]] == ids
    assert body["total_models"] == len(ids)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("?loaded=perhaps", "loaded"),
        ("?search=%00", "search"),
        ("?search=" + "x" * 101, "search"),
        ("?page=1", "page"),
        ("?type=large", "type"),
    ],
)
async def test_a_bad_query_names_its_field(read: Read, query: str, field: str) -> None:
    response = await read(MODELS + query)
    assert response.status_code == 400
    assert response.json()["error"]["details"]["field"] == field


@pytest.mark.parametrize("name", ["small-chat", "default", "assistant", "small-chat/"])
async def test_one_model_answers_as_documented(read: Read, name: str) -> None:
    response = await read(f"{MODELS}/{name}")
    model = response.json()["model"]
    assert model["id"] == "small-chat"
    assert model["architecture"] == "LlamaForCausalLM"
    assert (model["parameters"], model["vocab_size"], model["context_length"]) == (134_515_008, 49_152, 8192)
    assert (model["backend"], model["quantization"], model["memory_usage"]) == ("cpu", "int4", "270MB")
    assert model["performance"]["tokens_per_second"] == 45.2
    assert model["deployments"][0]["running"] == 2
    assert b"secret" not in response.content


async def test_a_model_that_is_not_loaded_tells_what_it_would_need(read: Read) -> None:
    model = (await read(f"{MODELS}/large")).json()["model"]
    assert (model["loaded"], model["estimated_memory_bytes"]) == (False, LARGE.total)
    assert model["estimate"] == {
        "backend": "cpu",
        "quantization": resolved_precision("auto", "cpu"),
        "weights_bytes": LARGE.weights,
        "kv_cache_bytes": LARGE.kv_cache,
        "overhead_bytes": LARGE.overhead,
        "total_bytes": LARGE.total,
        "least_bytes": LARGE.least,
    }
    nothing = {"tokens_per_second": None, "avg_latency": None}
    assert model["performance"] == {
        **nothing,
        "total_requests": 0,
        "last_hour": {**nothing, "requests": 0},
        "total": {**nothing, "requests": 0},
    }
    assert "memory_usage" not in model


async def test_a_failed_load_is_told(read: Read) -> None:
    await sync_to_async(announce)(report(DeploymentReport(model_id="large", state="failed", error="broken file")))
    model = (await read(f"{MODELS}/large")).json()["model"]
    assert (model["state"], model["loaded"]) == ("failed", False)
    assert model["deployments"][0]["error"] == "broken file"


@pytest.mark.parametrize("name", ["unknown", "%00", "..", "a%2Fb", "%ED%A0%80", "x" * 500])
async def test_an_unknown_model_is_404(read: Read, name: str) -> None:
    response = await read(f"{MODELS}/{name}")
    assert response.status_code == 404
    assert response.json()["error"]["code"] in {"MODEL_NOT_FOUND", "NOT_FOUND"}


@pytest.mark.parametrize("path", [MODELS, f"{MODELS}/small-chat"])
async def test_it_needs_credentials(read: Read, path: str) -> None:
    response = await AsyncClient().get(path)
    assert response.status_code == 401
    assert response["X-RateLimit-Limit"] == "100"
    assert (await read(path))["X-RateLimit-Limit"] == "1000"
