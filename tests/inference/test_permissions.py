"""Who may ask a model anything."""

import pytest
from django.test import AsyncClient

from tests.accounts.conftest import bearer, make_key

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.parametrize("path", ["infer", "batch_infer", "stream_infer"])
async def test_a_key_that_may_only_read_is_refused(path: str, clean_redis: str) -> None:
    headers = bearer(await make_key(permission="read"))
    answer = await AsyncClient().post(f"/api/v1/{path}", {}, content_type="application/json", headers=headers)
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "PERMISSION_DENIED"


@pytest.mark.parametrize("path", ["infer", "batch_infer", "stream_infer"])
async def test_a_key_that_may_write_gets_to_the_body(path: str, clean_redis: str) -> None:
    headers = bearer(await make_key(permission="write"))
    answer = await AsyncClient().post(f"/api/v1/{path}", {}, content_type="application/json", headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "INVALID_INPUT"
