"""The body of /v1/embeddings, and its answer."""

import struct
import time
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from django.conf import settings
from msgspec import Meta

from common.errors import InferenceFailed
from engine.messages import Finished
from engine.params import SamplingParams
from inference import services
from inference.bodies import Prompt, convert
from inference.openai_door.bodies import Body, Inputs, inputs_of, supported
from inference.services import Origin
from models_mgmt.models import Model

MAX_INPUTS = 2048
FIELD_NAMES = {"text": "input", "raw": "input", "max_tokens": "input"}
_AT_ONCE = 64


class EmbeddingBody(Body, kw_only=True, forbid_unknown_fields=True):
    """The body of `/v1/embeddings`. Texts go to the model as they are, without a chat template."""

    input: Annotated[Inputs, Meta(description="A text, or several; or the model's own tokens.")]
    encoding_format: Annotated[
        Literal["float", "base64"], Meta(description="base64: 32-bit floats, little-endian.")
    ] = "float"


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """A checked body."""

    model: str
    prompts: tuple[Prompt, ...]
    encoding: str


def parse_embedding(data: Any) -> EmbeddingRequest:
    """Raises InvalidInput."""
    body = convert(supported(data, EmbeddingBody, {"dimensions": ()}), EmbeddingBody, "")
    params = SamplingParams(max_tokens=1)
    prompts = tuple(
        Prompt(
            params=params,
            text=given if isinstance(given, str) else None,
            tokens=None if isinstance(given, str) else tuple(given),
            messages=None,
            system=None,
            raw=True,
            embed=True,
        )
        for given in inputs_of(body.input, "input", most=MAX_INPUTS)
    )
    return EmbeddingRequest(body.model, prompts, body.encoding_format)


async def embed(*, asked: EmbeddingRequest, origin: Origin) -> dict[str, Any]:
    """The answer to a request, some of its inputs at a time. Raises ApiError."""
    deadline = time.monotonic() + settings.REQUEST_TIMEOUT
    at_once = min(_AT_ONCE, max(1, settings.MAX_QUEUE // 4))  # so that others find a place in the model's queue
    ends: list[Finished] = []
    while True:
        prompts = asked.prompts[len(ends) : len(ends) + at_once]
        seconds = max(0.1, deadline - time.monotonic())
        model, made = await services.complete(model_name=asked.model, prompts=prompts, seconds=seconds, origin=origin)
        ends += made
        if len(ends) == len(asked.prompts):
            return _answer(model, ends, asked.encoding)


def _answer(model: Model, ends: Sequence[Finished], encoding: str) -> dict[str, Any]:
    tokens = sum(end.prompt_tokens for end in ends)
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": _encoded(end, encoding)}
            for index, end in enumerate(ends)
        ],
        "model": model.id,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _encoded(end: Finished, encoding: str) -> str | list[float]:
    if end.finish_reason == "cancelled":
        raise InferenceFailed("The request was cancelled before its end.")
    if encoding == "base64":
        return b64encode(end.embedding).decode()
    return list(struct.unpack(f"<{len(end.embedding) // 4}f", end.embedding))
