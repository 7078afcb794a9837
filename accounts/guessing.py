"""Guessing at credentials, slowed by address.

Bad credentials are counted by the address that they come from, and whether it may try another one is looked at before
the database is. Those behind the same address who were in lately are not kept out by that: a caller whom this process
remembers costs nothing here, a key that has worked within a day passes, and so does a token with our signature, which
nobody guesses.
"""

from django.conf import settings

from accounts.api_key_format import digest_of, lookup_of
from accounts.caller import Caller
from accounts.credentials import is_credible, look_up, recall
from accounts.limits import Usage, count, look
from accounts.tokens import has_our_signature
from common import metric_catalogue
from common.errors import RateLimitExceeded
from common.redis import key, redis_line
from common.short_memory import ShortMemory

WINDOW_SECONDS = 60
WORKED_SECONDS = 24 * 3600
# So long this process needs not tell the others again that a key works.
_TOLD_SECONDS = 3600.0

_told: ShortMemory[str, bool] = ShortMemory(seconds=_TOLD_SECONDS, size=10_000)


class TooManyGuesses(RateLimitExceeded):
    """The address has sent too many bad credentials."""

    def __init__(self, usage: Usage) -> None:
        details = {"limit": usage.limit, "reset": usage.reset}
        message = "Too many bad credentials came from your address; try again later."
        super().__init__(message, details=details, retry_after=usage.retry_after)
        self._usage = usage

    @property
    def headers(self) -> dict[str, str]:
        return {**super().headers, **self._usage.headers}


async def identify_from(address: str, credential: str) -> Caller | None:
    """Whose credential this is; None for one that opens nothing. Raises TooManyGuesses, and redis' RedisError."""
    if not is_credible(credential):
        return None
    if (caller := await recall(credential)) is not None:
        return caller
    is_guess = not has_our_signature(credential)
    name, limits = f"guesses:{address}", {"limit": settings.BAD_CREDENTIALS_PER_MINUTE, "window": WINDOW_SECONDS}
    if is_guess:
        standing = await look(name, **limits)
        if not standing.is_admitted and not await _has_worked(credential):
            raise _refused(standing)
    known = await look_up(credential)
    if known is not None and known.caller is not None:
        await _tell_that_it_works(credential)
        return known.caller
    if known is None and is_guess:
        standing = await count(name, **limits)
        if not standing.is_admitted:  # others came in between
            raise _refused(standing)
    return None


def forget_what_was_told() -> None:
    """Tell again what this process has told."""
    _told.clear()


def _refused(standing: Usage) -> TooManyGuesses:
    metric_catalogue.RATE_LIMITED.add("credentials", "anonymous")
    return TooManyGuesses(standing)


async def _has_worked(credential: str) -> bool:
    return bool(await redis_line().execute("EXISTS", _mark(credential)))


async def _tell_that_it_works(credential: str) -> None:
    mark = _mark(credential)
    if _told.recall(mark) is None:
        await redis_line().execute("SET", mark, "1", "EX", WORKED_SECONDS)
        _told.keep(mark, True)


def _mark(credential: str) -> str:
    return key("worked", lookup_of(digest_of(credential)))
