"""What the first start sets up and every later one finds done: tables, administrator, key, models."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import DEFAULT_DB_ALIAS, DatabaseError, OperationalError, connections
from django.db.migrations.executor import MigrationExecutor

from accounts import tokens
from accounts.freshness import before_anybody_listens
from accounts.services import ensure_administrator, ensure_api_key, first_administrator
from llama_gpu_site.supervisor.failure import StartError
from models_mgmt import demo
from models_mgmt.looking import describe
from models_mgmt.models import Model
from models_mgmt.services import ensure_described
from models_mgmt.source_error import SourceError

ECHO_MODEL_ID = "echo"
_BUILT_IN = (Model.SourceKind.DEMO, Model.SourceKind.ECHO)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Credentials:
    """What was made at this start, to be shown once; None for what was there already or came from the environment."""

    password: str | None
    api_key: str | None


def provision_database(say: Say) -> Credentials:
    """Bring the tables up to date and see to the administrator and the first key. Raises StartError."""
    try:
        if pending_migrations():
            say("preparing the database")
            call_command("migrate", interactive=False, verbosity=0)
        with before_anybody_listens() if settings.EMBEDDED_REDIS else nullcontext():
            password = ensure_administrator(password=settings.ADMIN_PASSWORD or None)
            return Credentials(password, ensure_api_key(key=settings.API_KEY or None))
    except ImproperlyConfigured as error:
        raise StartError(str(error)) from error
    except (OperationalError, DatabaseError) as error:
        reason = " ".join(str(error).split())
        raise StartError(f"The database can't be used ({reason}); check DATABASE_URL.") from error


def pending_migrations() -> bool:
    executor = MigrationExecutor(connections[DEFAULT_DB_ALIAS])
    return bool(executor.migration_plan(executor.loader.graph.leaf_nodes()))


def provision_model(say: Say) -> str:
    """See to it that there is a default model, ready to be loaded; returns its id. Raises StartError."""
    wanted = settings.DEFAULT_MODEL
    chosen = Model.objects.filter(is_default=True).first()
    if chosen is not None and not settings.DEFAULT_MODEL_IS_SET and chosen.source_kind not in _BUILT_IN:
        return chosen.id  # an administrator's choice outlives a restart
    if wanted == "demo":
        return _provision_demo_model(say)
    if wanted == "echo":
        return ensure_described(describe("echo"), id=ECHO_MODEL_ID, name="Echo", is_default=True).id
    return _make_default(wanted)


def access_token() -> str:
    """An administrator's token, for the first request."""
    return tokens.issue(first_administrator())[0]


def _provision_demo_model(say: Say) -> str:
    try:
        demo.ensure_demo_model(models_dir=settings.MODELS_DIR, say=say)
        described = describe("demo")
    except (demo.DemoModelError, SourceError) as error:
        raise StartError(str(error)) from error
    return ensure_described(described, id=demo.MODEL_ID, name="SmolLM2 135M Instruct", is_default=True).id


def _make_default(model_id: str) -> str:
    if not Model.objects.filter(pk=model_id).exists():
        known = ", ".join(["demo", "echo", *Model.objects.values_list("id", flat=True)])
        raise StartError(
            f"LLAMA_GPU_DEFAULT_MODEL is {model_id!r}, which is no known model; set it to one of: {known}."
        )
    Model.objects.filter(is_default=True).exclude(pk=model_id).update(is_default=False)
    Model.objects.filter(pk=model_id).update(is_default=True)
    return model_id
