"""From the credential in a request's headers to a Caller."""

import hashlib
import hmac
from datetime import datetime, timedelta

from asgiref.sync import sync_to_async
from django.db.models import Q
from django.http import HttpRequest
from django.utils import timezone

from accounts.api_key_format import digest_of, lookup_of
from accounts.caller import Caller
from accounts.models import ApiKey
from accounts.tokens import read_access_token
from common.short_memory import ShortMemory

LAST_USE_RESOLUTION = timedelta(minutes=1)
# A revoked key or a disabled user must stop working within a second.
REMEMBERED_SECONDS = 1.0
MAX_CREDENTIAL_LENGTH = 4096

_callers: ShortMemory[bytes, Caller] = ShortMemory(seconds=REMEMBERED_SECONDS, size=10_000)


def credential_of(request: HttpRequest) -> str | None:
    """The API key or token that the request carries; "" for an Authorization header of another scheme."""
    if key := request.META.get("HTTP_X_API_KEY"):
        return str(key).strip()
    header = request.META.get("HTTP_AUTHORIZATION")
    if header is None:
        return None
    scheme, _, credential = str(header).partition(" ")
    return credential.strip() if scheme.lower() == "bearer" else ""


async def identify(credential: str) -> Caller | None:
    """Whose credential this is; None for one that opens nothing. The answer may be REMEMBERED_SECONDS old."""
    if not 0 < len(credential) <= MAX_CREDENTIAL_LENGTH:
        return None
    remembered_as = hashlib.sha256(credential.encode("utf-8", "surrogateescape")).digest()
    caller = _callers.recall(remembered_as)
    if caller is None:
        found = await sync_to_async(_look_up)(credential)
        if found is None:
            return None
        caller, expires_at = found
        seconds = (expires_at - timezone.now()).total_seconds() if expires_at else None
        _callers.keep(remembered_as, caller, seconds=seconds)
    return caller


def forget_callers() -> None:
    """Drop what this process remembers, so that a change acts at once in it."""
    _callers.clear()


def _look_up(credential: str) -> tuple[Caller, datetime | None] | None:
    return _look_up_key(credential) or (read_access_token(credential) if credential.count(".") == 2 else None)


def _look_up_key(credential: str) -> tuple[Caller, datetime | None] | None:
    digest = digest_of(credential)
    key = ApiKey.objects.select_related("owner").filter(lookup=lookup_of(digest)).first()
    now = timezone.now()
    if key is None or not hmac.compare_digest(key.digest, digest) or not key.is_usable(now):
        return None
    _note_use(key, now)
    caller = Caller(
        identity=f"key:{key.pk}",
        permissions=key.permissions,
        user_id=key.owner.pk,
        username=key.owner.username,
        tier=key.tier_name,
        key_id=key.pk,
        budget=key.budget,
    )
    return caller, key.expires_at


def _note_use(key: ApiKey, now: datetime) -> None:
    """Write the time of use, at most once in LAST_USE_RESOLUTION over all processes."""
    if key.last_used_at is None or key.last_used_at < now - LAST_USE_RESOLUTION:
        is_stale = Q(last_used_at=None) | Q(last_used_at__lt=now - LAST_USE_RESOLUTION)
        ApiKey.objects.filter(is_stale, pk=key.pk).update(last_used_at=now)
