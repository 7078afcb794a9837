"""From the JSON Schema of today, which msgspec writes, to the older dialect of OpenAPI 3.0."""

from typing import Any

_NULL = {"type": "null"}


def as_openapi_3_0(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """A postprocessing hook of drf-spectacular: nulls, constants and bounds as OpenAPI 3.0 spells them."""
    converted: dict[str, Any] = _convert(result)
    return converted


def _convert(node: Any) -> Any:
    if isinstance(node, list):
        return [_convert(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {name: _convert(item) for name, item in node.items()}
    choices = node.get("anyOf")
    if isinstance(choices, list) and _NULL in choices:
        node = _nullable(node, [choice for choice in choices if choice != _NULL])
    kinds = node.get("type")
    if isinstance(kinds, list):
        node["type"], *more = [kind for kind in kinds if kind != "null"]
        if more:
            raise ValueError(f"OpenAPI 3.0 knows no {kinds}; use anyOf.")
        node["nullable"] = "null" in kinds
    for exclusive, inclusive in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(node.get(exclusive), int | float) and not isinstance(node[exclusive], bool):
            node[inclusive], node[exclusive] = node[exclusive], True
    if node.get("required") == []:
        del node["required"]
    if "const" in node and not isinstance(node["const"], dict):
        node["enum"] = [node.pop("const")]
    return node


def _nullable(node: dict[str, Any], choices: list[dict[str, Any]]) -> dict[str, Any]:
    others = {name: item for name, item in node.items() if name != "anyOf"}
    if len(choices) == 1 and "$ref" not in choices[0]:
        return {**choices[0], **others, "nullable": True}
    return {**others, "anyOf": choices, "nullable": True}
