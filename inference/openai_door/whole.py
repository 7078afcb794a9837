"""A completion of OpenAI's from its body to the body of its answer, whether somebody waits for it or a job wants it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from common.errors import InvalidInput
from inference import services
from inference.messages import Kind
from inference.openai_door.answers import Style, answer
from inference.openai_door.bodies import CompletionRequest, parse_chat, parse_completion
from inference.services import Origin

STYLES: Mapping[Kind, Style] = {"chat_completions": "chat", "completions": "text"}
PARSERS: Mapping[Kind, Callable[[Any], CompletionRequest]] = {
    "chat_completions": parse_chat,
    "completions": parse_completion,
}


async def complete_body(data: Any, origin: Origin) -> dict[str, Any]:
    """Raises ApiError, InvalidInput for a body that asks for a stream."""
    asked = PARSERS[origin.kind](data)
    if asked.stream:
        raise InvalidInput("This can't be streamed.", field="stream")
    return await complete(asked, origin)


async def complete(asked: CompletionRequest, origin: Origin) -> dict[str, Any]:
    """Raises ApiError."""
    with naming(asked.field_names):
        model, ends = await services.complete(
            model_name=asked.model, prompts=asked.choices(), seconds=asked.seconds, origin=origin
        )
    return answer(
        STYLES[origin.kind], request_id=origin.request_id, model=model, ends=ends, n=asked.n, tooling=asked.tooling
    )


@contextmanager
def naming(names: Mapping[str, str]) -> Iterator[None]:
    """Let an error name the field as the caller has called it."""
    try:
        yield
    except InvalidInput as error:
        field = error.details.get("field")
        if isinstance(field, str):
            error.details["field"] = names.get(field, field)
        raise
