"""From the credential in a request's headers to a Caller."""

import hashlib
import hmac
import logging
from datetime import datetime, timedelta

from asgiref.sync import sync_to_async
from django.db import OperationalError
from django.db.models import Q
from django.http import HttpRequest
from django.utils import timezone

from accounts.api_key_format import digest_of, lookup_of
from accounts.caller import Caller
from accounts.freshness import current_mark, forget_mark
from accounts.models import ApiKey
from accounts.tokens import read_access_token
from common.short_memory import ShortMemory

logger = logging.getLogger(__name__)
LAST_USE_RESOLUTION = timedelta(minutes=1)
# For how long a caller is believed without a look at the database while nothing is announced (accounts.freshness).
REMEMBERED_SECONDS = 10.0
MAX_CREDENTIAL_LENGTH = 4096

# What was found, and the mark under which it was.
_callers: ShortMemory[bytes, tuple[Caller, bytes]] = ShortMemory(seconds=REMEMBERED_SECONDS, size=10_000)


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
    """Whose credential this is; None for one that opens nothing.

    The database is asked only about what this process hasn't looked up since the last change to any user or key.
    """
    if not 0 < len(credential) <= MAX_CREDENTIAL_LENGTH:
        return None
    remembered_as = hashlib.sha256(credential.encode("utf-8", "surrogateescape")).digest()
    mark = await current_mark()
    remembered = _callers.recall(remembered_as)
    if remembered is not None and remembered[1] == mark:
        return remembered[0]
    found = await sync_to_async(_look_up)(credential)
    if found is None:
        return None
    caller, expires_at = found
    if mark is not None:
        seconds = (expires_at - timezone.now()).total_seconds() if expires_at else None
        _callers.keep(remembered_as, (caller, mark), seconds=seconds)
    return caller


def forget_callers() -> None:
    """Drop what this process remembers."""
    _callers.clear()
    forget_mark()


def _look_up(credential: str) -> tuple[Caller, datetime | None] | None:
    return _look_up_key(credential) or (read_access_token(credential) if credential.count(".") == 2 else None)


def _look_up_key(credential: str) -> tuple[Caller, datetime | None] | None:
    digest = digest_of(credential)
    lookup = lookup_of(digest)
    now = timezone.now()
    for key in ApiKey.objects.select_related("owner").filter(Q(lookup=lookup) | Q(old_lookup=lookup)):
        if not any(hmac.compare_digest(known, digest) for known in (key.digest, key.old_digest)):
            continue
        ends_at = key.end_of(digest)
        if key.revoked_at is not None or not key.owner.is_active or (ends_at is not None and ends_at <= now):
            continue
        _note_use(key, now)
        return _caller_of(key, ends_at, is_former=key.digest != digest), ends_at
    return None


def _caller_of(key: ApiKey, ends_at: datetime | None, *, is_former: bool) -> Caller:
    return Caller(
        identity=f"key:{key.pk}",
        permissions=key.permissions,
        user_id=key.owner.pk,
        username=key.owner.username,
        tier=key.tier_name,
        key_id=key.pk,
        key_prefix=key.prefix,
        key_expires_at=ends_at,
        is_former_secret=is_former,
        budget=key.budget,
    )


def _note_use(key: ApiKey, now: datetime) -> None:
    """Write the time of use, at most once in LAST_USE_RESOLUTION over all processes."""
    if key.last_used_at is None or key.last_used_at < now - LAST_USE_RESOLUTION:
        is_stale = Q(last_used_at=None) | Q(last_used_at__lt=now - LAST_USE_RESOLUTION)
        try:
            ApiKey.objects.filter(is_stale, pk=key.pk).update(last_used_at=now)
        except OperationalError:  # a database that is busy for long: no reason to refuse the request
            logger.warning("The last use of key %s could not be written", key.prefix, exc_info=True)
