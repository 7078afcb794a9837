"""Sessions of browsers, kept in the database under a hash of what the cookie holds.

Who reads the database, or a backup of it, can't take a session over.
"""

import hashlib
from typing import Any

from django.contrib.sessions.backends.db import SessionStore as DatabaseStore
from django.contrib.sessions.base_session import AbstractBaseSession
from django.db.models import QuerySet
from django.utils import timezone


class SessionStore(DatabaseStore):
    def exists(self, session_key: str) -> bool:
        return super().exists(_kept_as(session_key))

    async def aexists(self, session_key: str) -> bool:
        return await super().aexists(_kept_as(session_key))

    def create_model_instance(self, data: dict[str, Any]) -> AbstractBaseSession:
        row = super().create_model_instance(data)
        row.session_key = _kept_as(row.session_key)
        return row

    async def acreate_model_instance(self, data: dict[str, Any]) -> AbstractBaseSession:
        row = await super().acreate_model_instance(data)
        row.session_key = _kept_as(row.session_key)
        return row

    def delete(self, session_key: str | None = None) -> None:
        if wanted := session_key or self.session_key:
            super().delete(_kept_as(wanted))

    async def adelete(self, session_key: str | None = None) -> None:
        if wanted := session_key or self.session_key:
            await super().adelete(_kept_as(wanted))

    def _get_session_from_db(self) -> AbstractBaseSession | None:
        row = self._rows().first()
        if row is None:
            self._session_key = None
        return row

    async def _aget_session_from_db(self) -> AbstractBaseSession | None:
        row = await self._rows().afirst()
        if row is None:
            self._session_key = None
        return row

    def _rows(self) -> "QuerySet[AbstractBaseSession]":
        kept_as = _kept_as(self.session_key or "")
        rows: QuerySet[AbstractBaseSession] = self.model.objects.filter(
            session_key=kept_as, expire_date__gt=timezone.now()
        )
        return rows


def _kept_as(session_key: str) -> str:
    """40 characters, as many as the column takes."""
    return hashlib.sha256(session_key.encode()).hexdigest()[:40]
