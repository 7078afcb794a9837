"""The tools of a chat request: what its body may say of them, and what they make of the prompt."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from common.errors import InvalidInput

MAX_TOOLS = 128

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


class FunctionDefinition(msgspec.Struct, forbid_unknown_fields=True):
    """A function that the model may call. `parameters`: the JSON Schema of an object; none: it takes nothing.

    Where a call must be made, its arguments keep to that schema, whether or not `strict` is set.
    """

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(msgspec.Struct, forbid_unknown_fields=True):
    name: Name


class NamedTool(msgspec.Struct, forbid_unknown_fields=True):
    """The function that must be called."""

    type: Literal["function"]
    function: NamedFunction


ToolChoice = Literal["none", "auto", "required"] | NamedTool


class CalledFunction(msgspec.Struct, forbid_unknown_fields=True):
    """`arguments`: a JSON object, as text."""

    name: Name
    arguments: str


class CallInTurn(msgspec.Struct, forbid_unknown_fields=True):
    """A call that the model has made in an earlier turn."""

    id: str
    type: Literal["function"]
    function: CalledFunction


@dataclass(frozen=True, slots=True)
class Tooling:
    """`tools`: for the chat template, as JSON. `schema`: what the answer is held to, if it must be a call.

    `names`: the functions that an answer may call, `single`: one of them at most.
    """

    tools: str
    names: frozenset[str]
    schema: str
    single: bool


def tooling(
    tools: list[Tool] | UnsetType, choice: ToolChoice | UnsetType, parallel: bool | UnsetType
) -> Tooling | None:
    """None for a request whose answer is no call. Raises InvalidInput."""
    offered = [] if tools is UNSET else tools
    if not offered:
        if choice not in (UNSET, "none", "auto"):
            raise InvalidInput("tool_choice goes with tools alone.", field="tool_choice")
        return None
    functions = {tool.function.name: tool.function for tool in offered}
    if len(functions) < len(offered):
        raise InvalidInput("Two tools have the same name.", field="tools")
    wanted = functions
    if isinstance(choice, NamedTool):
        if choice.function.name not in functions:
            raise InvalidInput("tools has no function of that name.", field="tool_choice")
        wanted = {choice.function.name: functions[choice.function.name]}
    elif choice == "none":
        return None
    return Tooling(
        tools=msgspec.json.encode([_described(tool) for tool in offered]).decode(),
        names=frozenset(wanted),
        schema=_schema(list(wanted.values())) if choice == "required" or isinstance(choice, NamedTool) else "",
        single=parallel is False or isinstance(choice, NamedTool),
    )


def turn_calls(calls: list[CallInTurn], field: str) -> str:
    """Earlier calls as chat templates take them: the arguments are no text, but what the text says."""
    made = []
    for index, call in enumerate(calls):
        try:
            arguments = msgspec.json.decode(call.function.arguments, type=dict[str, Any])
        except msgspec.DecodeError:
            at = f"{field}[{index}].function.arguments"
            raise InvalidInput("The arguments are no JSON object.", field=at) from None
        function = {"name": call.function.name, "arguments": arguments}
        made.append({"id": call.id, "type": "function", "function": function})
    return msgspec.json.encode(made).decode()


def _described(tool: Tool) -> dict[str, Any]:
    function = tool.function
    described = {"description": function.description or "", "parameters": _parameters(function)}
    return {"type": "function", "function": {"name": function.name, **described}}


def _parameters(function: FunctionDefinition) -> dict[str, Any]:
    return {"type": "object", "properties": {}, **(function.parameters or {})}


def _schema(functions: list[FunctionDefinition]) -> str:
    """One call of one of the functions. Models know the key `arguments` or the key `parameters`: each takes its own."""
    kept = {f"f{at}": _moved(_parameters(function), f"#/$defs/f{at}") for at, function in enumerate(functions)}
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": function.name}, key: {"$ref": f"#/$defs/f{at}"}},
            "required": ["name", key],
            "additionalProperties": False,
        }
        for at, function in enumerate(functions)
        for key in ("arguments", "parameters")
    ]
    return msgspec.json.encode({"anyOf": calls, "$defs": kept}).decode()


def _moved(schema: Any, root: str) -> Any:
    """A schema whose references to its own root go to where that is now."""
    if isinstance(schema, list):
        return [_moved(item, root) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: root + value[1:]
        if name == "$ref" and isinstance(value, str) and value.startswith("#")
        else _moved(value, root)
        for name, value in schema.items()
    }
