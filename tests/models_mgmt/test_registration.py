"""Models registered, changed and deleted over the API."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.http import HttpResponse
from django.test import AsyncClient

from accounts.models import AuditEntry
from common.redis import sync_redis
from models_mgmt import deployments
from models_mgmt.deployments import ticket_key
from models_mgmt.models import Deployment, Model
from models_mgmt.presence import DeploymentReport, announce
from models_mgmt.selectors import resolve_model
from tests.accounts.conftest import bearer, make_key, make_user
from tests.models_mgmt.fake_hub import FakeHub, running_hub
from tests.models_mgmt.made_models import PARAMETERS, model_files, pickled_files, write_files, write_gguf
from tests.models_mgmt.test_api import READY, report

pytestmark = pytest.mark.django_db(transaction=True)
MODELS = "/api/v1/models"


class Site:
    """The API, as an administrator calls it, over a model root with a few models."""

    def __init__(self, root: Path, key: str) -> None:
        self.root = root
        self._client = AsyncClient()
        self._headers = bearer(key)

    async def post(self, **body: Any) -> HttpResponse:
        return await self._client.post(MODELS, body, content_type="application/json", headers=self._headers)

    async def patch(self, model: str, **body: Any) -> HttpResponse:
        return await self._client.patch(
            f"{MODELS}/{model}", body, content_type="application/json", headers=self._headers
        )

    async def delete(self, model: str) -> HttpResponse:
        return await self._client.delete(f"{MODELS}/{model}", headers=self._headers)

    async def get(self, path: str = "") -> HttpResponse:
        return await self._client.get(MODELS + path, headers=self._headers)


@pytest.fixture
async def site(clean_redis: str, tmp_path: Path, settings: Any) -> Site:
    settings.MODELS_DIR = tmp_path / "prepared"
    settings.MODEL_ROOTS = [tmp_path / "root"]
    root = tmp_path / "root"
    write_files(root / "Tiny Chat", model_files())
    write_files(root / "base", model_files(chat=False))
    write_files(root / "pickled", pickled_files())
    write_gguf(root / "tiny.Q8_0.gguf")
    return Site(root, await make_key(permission="admin"))


@pytest.fixture
def hub(settings: Any, tmp_path: Path) -> Iterator[FakeHub]:
    with running_hub() as hub:
        settings.HUB_ENDPOINT = hub.url
        settings.HUB_CACHE = tmp_path / "cache"
        settings.HUB_TOKEN = ""
        settings.HUB_OFFLINE = False
        yield hub


def error_of(response: HttpResponse) -> tuple[int, str, str]:
    error = response.json()["error"]
    return response.status_code, error["code"], error["details"].get("field", "")


async def test_a_folder_is_registered_with_what_its_files_say(site: Site) -> None:
    response = await site.post(source="Tiny Chat")
    assert response.status_code == 201
    model = response.json()["model"]
    assert (model["id"], model["name"], model["size"], model["type"]) == ("tiny-chat", "Tiny Chat", "18K", "chat")
    assert (model["parameters"], model["vocab_size"], model["context_length"]) == (PARAMETERS, 64, 256)
    assert (model["architecture"], model["stored_as"], model["source_kind"]) == (
        "LlamaForCausalLM",
        "float16",
        "folder",
    )
    assert (model["loaded"], model["capabilities"]) == (False, ["text-generation", "chat"])
    assert model["source"] == "Tiny Chat"
    assert str(site.root.parent) not in response.content.decode()
    assert (await site.get("/tiny-chat")).json()["model"] == model


async def test_everything_can_be_said_at_once(site: Site) -> None:
    response = await site.post(
        source=str(site.root / "tiny.Q8_0.gguf"), source_kind="gguf", id="mine", name="My model", type="instruct",
        default=True, aliases=["fast", "small"], pinned=True,
    )  # fmt: skip
    model = response.json()["model"]
    assert (model["id"], model["name"], model["type"], model["default"]) == ("mine", "My model", "instruct", True)
    assert (model["aliases"], model["pinned"], model["stored_as"]) == (["fast", "small"], True, "F16")
    for name in ("mine", "fast", "small", "default"):
        assert (await sync_to_async(resolve_model)(name)).id == "mine"


async def test_a_repository_is_registered_at_its_commit(site: Site, hub: FakeHub) -> None:
    commit = hub.push("org/tiny-llama", model_files())
    model = (await site.post(source="org/tiny-llama", revision="main")).json()["model"]
    assert (model["id"], model["source"], model["source_kind"]) == ("tiny-llama", "org/tiny-llama", "hub")
    assert (model["revision"], model["commit"], model["parameters"]) == ("main", commit, PARAMETERS)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "source"),
        ({"source": "nothing-there"}, "source"),
        ({"source": "../root"}, "source"),
        ({"source": "/etc/passwd"}, "source"),
        ({"source": "Tiny Chat", "source_kind": "gguf"}, "source_kind"),
        ({"source": "Tiny Chat", "source_kind": "ftp"}, "source_kind"),
        ({"source": "Tiny Chat", "revision": "main"}, "revision"),
        ({"source": "Tiny Chat", "id": "../x"}, "id"),
        ({"source": "Tiny Chat", "id": "a/b"}, "id"),
        ({"source": "Tiny Chat", "id": "default"}, "id"),
        ({"source": "Tiny Chat", "id": "a\nb"}, "id"),
        ({"source": "Tiny Chat", "aliases": ["default"]}, "aliases"),
        ({"source": "Tiny Chat", "aliases": ["a b"]}, "aliases"),
        ({"source": "Tiny Chat", "aliases": "fast"}, "aliases"),
        ({"source": "Tiny Chat", "aliases": [f"a{n}" for n in range(21)]}, "aliases"),
        ({"source": "Tiny Chat", "parameters": 7}, "parameters"),
        ({"source": "Tiny Chat", "pinned": None}, "pinned"),
        ({"source": "Tiny Chat", "enabled": False, "default": True}, "default"),
        ({"source": "base", "type": "chat"}, "type"),
        ({"source": "pickled"}, "allow_pickle"),
    ],
)
async def test_what_cannot_be_registered_names_its_field_and_leaves_nothing(
    site: Site, body: dict[str, Any], field: str
) -> None:
    response = await site.post(**body)
    assert error_of(response) == (400, "INVALID_INPUT", field)
    assert response.json()["error"]["message"].endswith(".")
    assert not await Model.objects.aexists()


async def test_a_hub_that_is_away_is_503(site: Site, hub: FakeHub) -> None:
    hub.is_down = True
    assert error_of(await site.post(source="org/name")) == (503, "BACKEND_UNAVAILABLE", "source")


async def test_a_name_means_one_model(site: Site) -> None:
    await site.post(source="base", aliases=["small"])
    assert error_of(await site.post(source="Tiny Chat", id="base")) == (409, "CONFLICT", "id")
    assert error_of(await site.post(source="Tiny Chat", id="small")) == (409, "CONFLICT", "id")
    assert error_of(await site.post(source="Tiny Chat", aliases=["base"])) == (400, "INVALID_INPUT", "aliases")
    assert await Model.objects.acount() == 1


async def test_what_operators_decide_can_be_changed(site: Site) -> None:
    await site.post(source="Tiny Chat")
    response = await site.patch("tiny-chat", name="Renamed", pinned=True, aliases=["a", "b"], type="instruct")
    model = response.json()["model"]
    assert (model["name"], model["pinned"], model["aliases"]) == ("Renamed", True, ["a", "b"])
    assert (model["type"], model["capabilities"]) == ("instruct", ["text-generation", "instruct"])
    model = (await site.patch("tiny-chat", aliases=["b"])).json()["model"]
    assert (model["aliases"], model["name"]) == (["b"], "Renamed")
    assert (await site.patch("tiny-chat")).json()["model"] == model


async def test_an_alias_moves_in_one_step(site: Site) -> None:
    await site.post(source="base", aliases=["live"])
    await site.post(source="Tiny Chat")
    await site.patch("tiny-chat", aliases=["live"])
    assert (await sync_to_async(resolve_model)("live")).id == "tiny-chat"
    assert (await site.get("/base")).json()["model"]["aliases"] == []


async def test_the_default_moves_and_is_never_lost_by_a_change(site: Site) -> None:
    await site.post(source="base", default=True)
    await site.post(source="Tiny Chat")
    assert error_of(await site.patch("base", default=False)) == (400, "INVALID_INPUT", "default")
    assert error_of(await site.patch("base", enabled=False)) == (400, "INVALID_INPUT", "enabled")
    assert (await site.patch("tiny-chat", default=True)).json()["model"]["default"] is True
    assert (await site.get("/default")).json()["model"]["id"] == "tiny-chat"
    assert (await site.patch("base", enabled=False)).status_code == 200


async def test_a_new_revision_is_looked_at(site: Site, hub: FakeHub) -> None:
    old = hub.push("org/tiny", model_files())
    await site.post(source="org/tiny")
    new = hub.push("org/tiny", model_files(max_position_embeddings=512))
    assert (await site.get("/tiny")).json()["model"]["commit"] == old
    model = (await site.patch("tiny", revision="")).json()["model"]
    assert (model["commit"], model["context_length"]) == (new, 512)
    assert error_of(await site.patch("tiny", revision="nowhere")) == (400, "INVALID_INPUT", "revision")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"id": "other"}, "id"),
        ({"source": "base"}, "source"),
        ({"loaded": True}, "loaded"),
        ({"revision": "main"}, "revision"),
        ({"name": ""}, "name"),
        ({"pinned": "perhaps"}, "pinned"),
        ({"aliases": ["tiny-chat"]}, "aliases"),
    ],
)
async def test_a_bad_change_names_its_field_and_changes_nothing(site: Site, body: dict[str, Any], field: str) -> None:
    await site.post(source="Tiny Chat")
    before = (await site.get("/tiny-chat")).json()
    assert error_of(await site.patch("tiny-chat", **body)) == (400, "INVALID_INPUT", field)
    assert (await site.get("/tiny-chat")).json() == before


@pytest.mark.parametrize("method", ["patch", "delete"])
@pytest.mark.parametrize("name", ["unknown", "fast", "default", "..", "a%00b"])
async def test_only_a_models_own_id_can_be_changed(site: Site, method: str, name: str) -> None:
    await site.post(source="Tiny Chat", aliases=["fast"], default=True)
    response = await getattr(site, method)(name)
    assert response.status_code == 404
    assert response.json()["error"]["code"] in {"MODEL_NOT_FOUND", "NOT_FOUND"}
    assert await Model.objects.acount() == 1


async def test_a_deleted_model_is_gone_and_its_files_stay(site: Site) -> None:
    await site.post(source="Tiny Chat", aliases=["fast"])
    assert (await site.delete("tiny-chat")).json() == {
        "success": True,
        "message": "Model deleted successfully",
        "model_id": "tiny-chat",
        "freed_disk": "0B",
        "freed_disk_bytes": 0,
    }
    assert (await site.get("/tiny-chat")).status_code == 404
    assert (await site.get("/fast")).status_code == 404
    assert (site.root / "Tiny Chat" / "model.safetensors").exists()
    assert (await site.post(source="base", id="fast")).status_code == 201


async def test_the_default_model_is_deleted_only_by_force(site: Site) -> None:
    await site.post(source="Tiny Chat", default=True)
    assert error_of(await site.delete("tiny-chat"))[:2] == (409, "CONFLICT")
    assert error_of(await site.delete("tiny-chat?force=perhaps")) == (400, "INVALID_INPUT", "force")
    assert (await site.delete("tiny-chat?force=true")).status_code == 200


async def test_a_loaded_model_is_not_deleted(site: Site) -> None:
    await site.post(source="Tiny Chat")
    loaded = DeploymentReport(model_id="tiny-chat", state="loaded", ready=READY)
    await sync_to_async(announce)(report(loaded))
    response = await site.delete("tiny-chat")
    assert error_of(response)[:2] == (409, "CONFLICT")
    assert response.json()["error"]["details"] == {"loaded_on": ["host/cpu"]}
    assert "unload it first" in response.json()["error"]["message"]
    assert await Model.objects.aexists()


async def test_a_model_deleted_by_force_is_unloaded_in_the_name_of_who_asked(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def worker(task: str, arguments: Sequence[Any], **_: Any) -> None:
        sync_redis().set(ticket_key(arguments[1]), 7)

    monkeypatch.setattr(deployments.current_app, "send_task", worker)
    await site.post(source="Tiny Chat")
    await Deployment.objects.acreate(model_id="tiny-chat", host="host", device="cpu", state="loaded")
    await sync_to_async(announce)(report(DeploymentReport(model_id="tiny-chat", state="loaded", ready=READY)))

    assert (await site.delete("tiny-chat?force=true")).status_code == 200

    who = {entry.action: entry.actor async for entry in AuditEntry.objects.all()}
    assert who["model.unload"] == who["model.delete"] == who["model.register"] != "server"


async def test_disabled_models_are_the_administrators_business(site: Site) -> None:
    await site.post(source="Tiny Chat", enabled=False)
    assert (await site.get()).json()["models"] == []
    assert [model["id"] for model in (await site.get("?enabled=false")).json()["models"]] == ["tiny-chat"]
    assert (await site.get("/tiny-chat")).json()["model"]["enabled"] is False
    reader = Site(site.root, await make_key(await make_user(username="bob"), permission="read"))
    assert error_of(await reader.get("?enabled=false"))[:2] == (403, "PERMISSION_DENIED")
    assert error_of(await reader.get("/tiny-chat"))[:2] == (404, "MODEL_NOT_FOUND")


async def test_changes_are_audited_without_paths(site: Site) -> None:
    await site.post(source="Tiny Chat", pinned=True)
    await site.patch("tiny-chat", name="Renamed", trust_remote_code=True)
    await site.delete("tiny-chat")
    entries = [entry async for entry in AuditEntry.objects.filter(target_type="model").order_by("pk")]
    assert [(entry.action, entry.actor) for entry in entries] == [
        ("model.register", "ada"), ("model.update", "ada"), ("model.delete", "ada"),
    ]  # fmt: skip
    assert entries[1].changes == {
        "name": {"before": "Tiny Chat", "after": "Renamed"},
        "trust_remote_code": {"before": False, "after": True},
    }
    assert str(site.root) not in str([entry.changes for entry in entries])


async def test_a_look_at_the_hub_does_not_hold_up_others(site: Site, hub: FakeHub) -> None:
    """While one request waits for a slow hub, another is answered."""
    hub.push("org/slow", model_files())
    hub.pause_seconds = 0.5
    waiting = asyncio.create_task(site.post(source="org/slow"))
    await asyncio.sleep(0.1)
    assert (await site.get()).status_code == 200
    assert not waiting.done()
    assert (await waiting).status_code == 201
