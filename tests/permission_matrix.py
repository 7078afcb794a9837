"""Who may do what, endpoint by endpoint: the table that `tests/site/test_permission_matrix.py` holds the site to.

A new endpoint needs one line here, or that test fails:

    "POST /api/v1/things": Row("write"),
    "GET /api/v1/things/{thing_id}": Row("read", objects=SHARED),
    "DELETE /api/v1/things/{thing_id}": Row("write", objects=a_thing_of),

The level is the least that enters: `read`, `write` or `admin`; OPEN is for everybody. An address that names an object
says whose it is: SHARED for what belongs to nobody (models, plugins), else a function that makes an object of the given
user and returns the values of the address's placeholders. Callers without `admin` must not learn that such an object
exists. The calls carry the body `{}`, so that those who enter seldom change anything: most get a 400 or a 404.
"""

from collections.abc import Callable
from dataclasses import dataclass

from django.utils import timezone

from accounts.caller import Permission
from accounts.keys import create_api_key
from accounts.models import User
from inference.models import RequestRecord
from monitoring import pages
from tests.jobs.made import a_file, an_ended_job

ObjectMaker = Callable[[User], dict[str, str]]


@dataclass(frozen=True)
class Row:
    """`permission`: None for everybody. `objects`: None where the address names no object."""

    permission: Permission | None
    objects: ObjectMaker | str | None = None


SHARED = "shared"
OPEN = Row(None)


def a_key_of(user: User) -> dict[str, str]:
    return {"key_id": str(create_api_key(owner=user, name="an object")[0].pk)}


def a_request_of(user: User) -> dict[str, str]:
    record = RequestRecord.objects.create(
        request_id=f"req_of_{user.pk}", user=user, model="m", kind="infer", state="completed", created_at=timezone.now()
    )
    return {"request_id": record.request_id}


def a_job_of(user: User) -> dict[str, str]:
    return {"job_id": an_ended_job(user).pk}


def a_file_of(user: User) -> dict[str, str]:
    return {"file_id": a_file(user).pk}


def a_batch_of(user: User) -> dict[str, str]:
    return {"batch_id": an_ended_job(user, kind="chat_completions", is_openai_batch=True).pk}


MATRIX: dict[str, Row] = {
    # accounts
    "POST /api/v1/auth/login": OPEN,
    "POST /api/v1/auth/refresh": OPEN,
    "POST /api/v1/auth/logout": Row("read"),
    "GET /api/v1/auth/me": Row("read"),
    "GET /api/v1/usage": Row("read"),
    "POST /api/v1/auth/password": Row("read"),
    "GET /api/v1/users": Row("admin"),
    "POST /api/v1/users": Row("admin"),
    "GET /api/v1/users/{username}": Row("admin", objects=SHARED),
    "PATCH /api/v1/users/{username}": Row("admin", objects=SHARED),
    "DELETE /api/v1/users/{username}": Row("admin", objects=SHARED),
    "PUT /api/v1/users/{username}/password": Row("admin", objects=SHARED),
    "GET /api/v1/keys": Row("read"),
    "POST /api/v1/keys": Row("read"),
    "GET /api/v1/keys/{key_id}": Row("read", objects=a_key_of),
    "PATCH /api/v1/keys/{key_id}": Row("read", objects=a_key_of),
    "DELETE /api/v1/keys/{key_id}": Row("read", objects=a_key_of),
    "GET /api/v1/keys/{key_id}/limits": Row("read", objects=a_key_of),
    "POST /api/v1/keys/{key_id}/rotate": Row("read", objects=a_key_of),
    "GET /api/v1/audit": Row("admin"),
    # inference
    "POST /api/v1/infer": Row("write"),
    "POST /api/v1/batch_infer": Row("write"),
    "POST /api/v1/stream_infer": Row("write"),
    "GET /v1/models": Row("read"),
    "GET /v1/models/{model_id}": Row("read", objects=SHARED),
    "POST /v1/chat/completions": Row("write"),
    "POST /v1/completions": Row("write"),
    "POST /v1/embeddings": Row("write"),
    # jobs
    "GET /api/v1/jobs": Row("read"),
    "POST /api/v1/jobs": Row("write"),
    "GET /api/v1/jobs/{job_id}": Row("read", objects=a_job_of),
    "DELETE /api/v1/jobs/{job_id}": Row("write", objects=a_job_of),
    "GET /api/v1/jobs/{job_id}/results": Row("read", objects=a_job_of),
    "GET /api/v1/jobs/{job_id}/events": Row("read", objects=a_job_of),
    "GET /api/v1/webhooks/secret": Row("read"),
    "GET /v1/files": Row("read"),
    "POST /v1/files": Row("write"),
    "GET /v1/files/{file_id}": Row("read", objects=a_file_of),
    "DELETE /v1/files/{file_id}": Row("write", objects=a_file_of),
    "GET /v1/files/{file_id}/content": Row("read", objects=a_file_of),
    "GET /v1/batches": Row("read"),
    "POST /v1/batches": Row("write"),
    "GET /v1/batches/{batch_id}": Row("read", objects=a_batch_of),
    "POST /v1/batches/{batch_id}/cancel": Row("write", objects=a_batch_of),
    # models
    "GET /api/v1/models": Row("read"),
    "POST /api/v1/models": Row("admin"),
    "GET /api/v1/models/{model_id}": Row("read", objects=SHARED),
    "PATCH /api/v1/models/{model_id}": Row("admin", objects=SHARED),
    "DELETE /api/v1/models/{model_id}": Row("admin", objects=SHARED),
    "POST /api/v1/models/{model_id}/fit": Row("read", objects=SHARED),
    "POST /api/v1/models/{model_id}/load": Row("admin", objects=SHARED),
    "DELETE /api/v1/models/{model_id}/unload": Row("admin", objects=SHARED),
    "GET /api/v1/system/workers": Row("read"),
    # monitoring
    "GET /api/v1/system/status": Row("read"),
    "GET /api/v1/system/gpu": Row("read"),
    "GET /api/v1/system/metrics": Row("read"),
    "GET /api/v1/system/logs": Row("admin"),
    # plugins
    "GET /api/v1/plugins": Row("read"),
    "GET /api/v1/plugins/{plugin_id}": Row("read", objects=SHARED),
    "POST /api/v1/plugins/{plugin_id}/load": Row("admin", objects=SHARED),
    "DELETE /api/v1/plugins/{plugin_id}/unload": Row("admin", objects=SHARED),
    "PUT /api/v1/plugins/{plugin_id}/config": Row("admin", objects=SHARED),
    # documentation
    "GET /api/v1/docs": OPEN,
    "GET /api/v1/schema": OPEN,
    # monitoring
    "GET /api/v1/requests": Row("read"),
    "GET /api/v1/requests/{request_id}": Row("read", objects=a_request_of),
    "GET /metrics": Row("read"),
    # health
    "GET /health": OPEN,
    "GET /health/live": OPEN,
    "GET /health/ready": OPEN,
}

# Pages for browsers, outside the API and the admin site (which is tested address by address).
PAGES = {"/", "/admin/login/", "/sign-in", "/sign-out"} | {f"/{page.address}" for page in pages.PAGES}
