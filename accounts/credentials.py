"""From the credential in a request's headers to a Caller."""

import hashlib
import hmac
import logging
from dataclasses import dataclass
from datetime import datetime, timedelta

from asgiref.sync import sync_to_async
from django.db import OperationalError
from django.db.models import Q
from django.http import HttpRequest
from django.utils import timezone

from accounts.api_key_format import digest_of, lookup_of
from accounts.caller import Caller
from accounts.freshness import current_mark, forget_mark
from accounts.models import ApiKey, User
from accounts.selectors import usable_keys
from accounts.tokens import caller_of, read_access_token
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


@dataclass(frozen=True, slots=True)
class Known:
    """A credential that is one of ours. `caller`: None when it is over, or its owner may not come in.

    `ends_at`: until when it opens something; None for no end.
    """

    caller: Caller | None
    ends_at: datetime | None = None


async def identify(credential: str) -> Caller | None:
    """Whose credential this is; None for one that opens nothing.

    For those who are in already; at the doors guesses are slowed (`accounts.guessing`).
    """
    if not is_credible(credential):
        return None
    if (caller := await recall(credential)) is not None:
        return caller
    known = await look_up(credential)
    return known.caller if known is not None else None


def is_credible(credential: str) -> bool:
    """Whether it could be a credential at all."""
    return 0 < len(credential) <= MAX_CREDENTIAL_LENGTH


async def recall(credential: str) -> Caller | None:
    """Whose credential this is, if this process has looked it up since the last change to any user or key."""
    remembered = _callers.recall(_remembered_as(credential))
    return remembered[0] if remembered is not None and remembered[1] == await current_mark() else None


async def look_up(credential: str) -> Known | None:
    """Ask the database about a credential, and remember its caller; None for one that was never ours."""
    mark = await current_mark()
    known = await sync_to_async(_look_up)(credential)
    if known is not None and known.caller is not None and mark is not None:
        seconds = (known.ends_at - timezone.now()).total_seconds() if known.ends_at else None
        _callers.keep(_remembered_as(credential), (known.caller, mark), seconds=seconds)
    return known


def caller_behind(*, user_id: int, key_id: int | None) -> Caller | None:
    """Whoever a key or, without one, a user is now, for work that goes on after its request; None for one that opens
    nothing any more."""
    if key_id is None:
        user = User.objects.filter(pk=user_id, is_active=True).first()
        return caller_of(user) if user else None
    usable = usable_keys(timezone.now()) & Q(owner__is_active=True)
    key = ApiKey.objects.select_related("owner").filter(usable, pk=key_id).first()
    return _caller_of(key, key.digest) if key else None


def forget_callers() -> None:
    """Drop what this process remembers."""
    _callers.clear()
    forget_mark()


def _remembered_as(credential: str) -> bytes:
    return hashlib.sha256(credential.encode("utf-8", "surrogateescape")).digest()


def _look_up(credential: str) -> Known | None:
    if (known := _look_up_key(credential)) is not None or credential.count(".") != 2:
        return known
    found = read_access_token(credential)
    return Known(*found) if found is not None else None


def _look_up_key(credential: str) -> Known | None:
    digest = digest_of(credential)
    lookup = lookup_of(digest)
    known: Known | None = None
    for key in ApiKey.objects.select_related("owner").filter(Q(lookup=lookup) | Q(old_lookup=lookup)):
        if not any(hmac.compare_digest(known_digest, digest) for known_digest in (key.digest, key.old_digest)):
            continue
        if key.opens(digest):
            _note_use(key, timezone.now())
            return Known(_caller_of(key, digest), key.end_of(digest))
        known = Known(None)
    return known


def _caller_of(key: ApiKey, digest: str) -> Caller:
    return Caller(
        identity=f"key:{key.pk}",
        permissions=key.permissions,
        user_id=key.owner.pk,
        username=key.owner.username,
        tier=key.tier_name,
        key_id=key.pk,
        key_prefix=key.prefix,
        key_expires_at=key.end_of(digest),
        key_digest=digest,
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
