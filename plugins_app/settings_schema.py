"""A plugin's settings against its JSON Schema: defaults filled in, errors by field."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

_MAX_MESSAGE = 200


def with_defaults(schema: Mapping[str, Any], value: Any) -> Any:
    """A copy of the value in which what is missing has the schema's default, also within objects and lists."""
    if isinstance(value, Mapping):
        properties: Mapping[str, Any] = schema.get("properties", {})
        filled = {name: with_defaults(properties.get(name, {}), item) for name, item in value.items()}
        for name, property_schema in properties.items():
            if name not in filled and "default" in property_schema:
                filled[name] = with_defaults(property_schema, deepcopy(property_schema["default"]))
        return filled
    if isinstance(value, list):
        items = schema.get("items", {})
        return [with_defaults(items if isinstance(items, Mapping) else {}, item) for item in value]
    return value


def problems(schema: Mapping[str, Any], value: Any) -> list[tuple[str, str]]:
    """What is wrong, as (field, sentence), in the order of the fields; the value itself has the field ""."""
    from jsonschema import Draft202012Validator  # slow to import, and seldom needed
    from referencing import Registry

    validator = Draft202012Validator(schema, registry=Registry())  # one that fetches nothing
    return [
        (_field(error), error.message[:_MAX_MESSAGE].rstrip(".") + ".")
        for error in sorted(validator.iter_errors(value), key=lambda error: [str(part) for part in error.absolute_path])
    ]


def schema_problem(schema: Mapping[str, Any]) -> str:
    """What is wrong with a schema itself; "" for nothing."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        return str(error.message)[:_MAX_MESSAGE]
    return "" if schema.get("type") == "object" else "it must describe an object"


def _field(error: Any) -> str:
    path = joined("", error.absolute_path)
    if error.validator == "required":
        missing = next((name for name in error.validator_value if name not in error.instance), "")
        return joined(path, [missing])
    if error.validator == "additionalProperties" and isinstance(error.instance, Mapping):
        known = error.schema.get("properties", {})
        return joined(path, [name for name in error.instance if name not in known][:1])
    return path


def joined(path: str, parts: Sequence[Any]) -> str:
    """A path such as `rules[0].pattern`."""
    for part in parts:
        path = f"{path}[{part}]" if isinstance(part, int) else f"{path}.{part}" if path else str(part)
    return path
