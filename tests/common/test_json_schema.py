from typing import Any

import pytest

from common.json_schema import as_openapi_3_0


@pytest.mark.parametrize(
    ("today", "openapi"),
    [
        ({"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
         {"type": "string", "default": None, "nullable": True}),
        ({"anyOf": [{"$ref": "#/a"}, {"type": "null"}]}, {"anyOf": [{"$ref": "#/a"}], "nullable": True}),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}, {"type": "null"}]},
         {"anyOf": [{"type": "integer"}, {"type": "string"}], "nullable": True}),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, {"anyOf": [{"type": "integer"}, {"type": "string"}]}),
        ({"type": ["string", "null"]}, {"type": "string", "nullable": True}),
        ({"type": "number", "exclusiveMinimum": 0}, {"type": "number", "minimum": 0, "exclusiveMinimum": True}),
        ({"const": "x"}, {"enum": ["x"]}),
        ({"properties": {"type": {"type": "string"}, "const": {"type": "integer"}}},
         {"properties": {"type": {"type": "string"}, "const": {"type": "integer"}}}),
    ],
)  # fmt: skip
def test_it_speaks_the_older_dialect(today: dict[str, Any], openapi: dict[str, Any]) -> None:
    assert as_openapi_3_0({"schemas": [today]}) == {"schemas": [openapi]}


def test_what_cannot_be_said_is_refused() -> None:
    with pytest.raises(ValueError, match="anyOf"):
        as_openapi_3_0({"type": ["string", "integer"]})
