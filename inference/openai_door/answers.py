"""What the doors of /v1/ answer: completions whole, and in chunks."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from common.errors import InferenceFailed
from common.openai_errors import openai_failure
from engine.messages import Delta, Finished, TokenLogprob
from inference.calls import Event, error_of
from inference.openai_door.tool_calls import Piece, ToolCall, ToolCallReader
from inference.openai_door.tools import Tooling
from inference.sse import encoded
from models_mgmt.models import Model

Style = Literal["chat", "text"]

_OBJECTS = {"chat": "chat.completion", "text": "text_completion"}
_CHUNKS = {"chat": "chat.completion.chunk", "text": "text_completion"}
_IDS = {"chat": "chatcmpl-", "text": "cmpl-"}
_TOOL_CALLS = "tool_calls"
_DONE = b"data: [DONE]\n\n"


def model_body(model: Model) -> dict[str, Any]:
    """A model as OpenAI's clients know them."""
    return {"id": model.id, "object": "model", "created": int(model.created_at.timestamp()), "owned_by": "llama-gpu"}


def answer(
    style: Style,
    *,
    request_id: str,
    model: Model,
    ends: Sequence[Finished],
    n: int,
    tooling: Tooling | None = None,
) -> dict[str, Any]:
    """A whole answer; of the `ends`, each `n` are of one prompt. Raises InferenceFailed for what was cancelled."""
    return {
        **_head(style, _OBJECTS[style], request_id, model),
        "choices": [_choice(style, index, end, tooling) for index, end in enumerate(ends)],
        "usage": _usage(ends, n),
    }


def _choice(style: Style, index: int, end: Finished, tooling: Tooling | None) -> dict[str, Any]:
    reason = _finish_reason(end)
    if style == "chat":
        message: dict[str, Any] = {"role": "assistant", "content": end.text, "refusal": None}
        if tooling is not None:
            reader = ToolCallReader(tooling.names, single=tooling.single)
            pieces = reader.feed(end.text) + reader.finish()
            if reader.has_called:
                message["content"] = "".join(piece for piece in pieces if isinstance(piece, str)) or None
                message["tool_calls"] = [_call_body(piece) for piece in pieces if isinstance(piece, ToolCall)]
                reason = _TOOL_CALLS
        return {"index": index, "message": message, "logprobs": _chat_logprobs(end.logprobs), "finish_reason": reason}
    return {"index": index, "text": end.text, "logprobs": _text_logprobs(end.logprobs, 0), "finish_reason": reason}


class ChunkLines:
    """The same as a stream: `Lines` of chunks, with the end that OpenAI's clients wait for."""

    def __init__(
        self,
        style: Style,
        *,
        request_id: str,
        model: Model,
        choices: int,
        n: int,
        usage: bool,
        tooling: Tooling | None = None,
    ) -> None:
        self._style = style
        self._head = _head(style, _CHUNKS[style], request_id, model)
        self._choices = choices
        self._n = n
        self._usage = usage
        self._ends: dict[int, Finished] = {}
        self._offsets = [0] * choices
        self._readers = (
            [ToolCallReader(tooling.names, single=tooling.single) for _ in range(choices)] if tooling else []
        )
        self._calls = [0] * choices

    def opening(self) -> bytes:
        if self._style == "text":
            return b""
        first = {"role": "assistant", "content": "", "refusal": None}
        return b"".join(self._chunk(index, first, None) for index in range(self._choices))

    def line(self, index: int, event: Event) -> bytes:
        if isinstance(event, Delta):
            return self._text(index, event.text, event.logprobs)
        if isinstance(event, Finished):
            try:
                reason = _finish_reason(event)
            except InferenceFailed as error:
                return b"data: %b\n\n" % encoded(openai_failure(error))
            self._ends[index] = event
            rest = self._text(index, event.delta, event.logprobs) if event.delta or event.logprobs else b""
            if self._readers:
                rest += self._pieces(index, self._readers[index].finish())
                reason = _TOOL_CALLS if self._readers[index].has_called else reason
            return rest + self._chunk(index, {} if self._style == "chat" else {"text": ""}, reason)
        return b"data: %b\n\n" % encoded(openai_failure(error_of(event)))

    def closing(self) -> bytes:
        if len(self._ends) < self._choices:
            return b""  # one was cancelled: the stream has told so, and is not whole
        if not self._usage:
            return _DONE
        ends = [self._ends[index] for index in range(self._choices)]
        return self._line({"choices": [], "usage": _usage(ends, self._n)}) + _DONE

    def _text(self, index: int, text: str, entries: Sequence[TokenLogprob]) -> bytes:
        if self._readers:
            return self._pieces(index, self._readers[index].feed(text))
        if self._style == "chat":
            return self._chunk(index, {"content": text}, None, _chat_logprobs(entries))
        logprobs = _text_logprobs(entries, self._offsets[index])
        self._offsets[index] += len(text)
        return self._chunk(index, {"text": text}, None, logprobs)

    def _pieces(self, index: int, pieces: Sequence[Piece]) -> bytes:
        """What can be told now. A call is two chunks: its name, its arguments."""
        lines = []
        for piece in pieces:
            if isinstance(piece, str):
                lines.append(self._chunk(index, {"content": piece}, None))
                continue
            at = self._calls[index]
            self._calls[index] += 1
            body = _call_body(piece)
            opening = {"index": at, **body, "function": {**body["function"], "arguments": ""}}
            lines.append(self._chunk(index, {"tool_calls": [opening]}, None))
            rest = {"index": at, "function": {"arguments": piece.arguments}}
            lines.append(self._chunk(index, {"tool_calls": [rest]}, None))
        return b"".join(lines)

    def _chunk(
        self, index: int, made: Mapping[str, Any], reason: str | None, logprobs: dict[str, Any] | None = None
    ) -> bytes:
        body = {"delta": made} if self._style == "chat" else made
        choice = {"index": index, **body, "logprobs": logprobs, "finish_reason": reason}
        return self._line({"choices": [choice], "usage": None} if self._usage else {"choices": [choice]})

    def _line(self, fields: Mapping[str, Any]) -> bytes:
        return b"data: %b\n\n" % encoded({**self._head, **fields})


def _call_body(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _head(style: Style, kind: str, request_id: str, model: Model) -> dict[str, Any]:
    return {
        "id": _IDS[style] + request_id.removeprefix("req_"),
        "object": kind,
        "created": int(time.time()),
        "model": model.id,
        "system_fingerprint": None,
    }


def _chat_logprobs(entries: Sequence[TokenLogprob]) -> dict[str, Any] | None:
    """None where there are none: nobody has asked for them, or a plugin filters the answer."""
    if not entries:
        return None
    content = [
        {**_token(entry.token, entry.logprob), "top_logprobs": [_token(token, logprob) for token, logprob in entry.top]}
        for entry in entries
    ]
    return {"content": content, "refusal": None}


def _token(token: bytes, logprob: float) -> dict[str, Any]:
    return {"token": token.decode(errors="replace"), "logprob": logprob, "bytes": list(token)}


def _text_logprobs(entries: Sequence[TokenLogprob], offset: int) -> dict[str, Any] | None:
    """The older shape, of text completions. `offset`: where the first of these tokens begins, in characters."""
    if not entries:
        return None
    tokens = [entry.token.decode(errors="replace") for entry in entries]
    return {
        "tokens": tokens,
        "token_logprobs": [entry.logprob for entry in entries],
        "top_logprobs": [
            {token.decode(errors="replace"): logprob for token, logprob in entry.top} for entry in entries
        ],
        "text_offset": [offset + sum(map(len, tokens[:index])) for index in range(len(tokens))],
    }


def _finish_reason(end: Finished) -> str:
    if end.finish_reason == "cancelled":
        raise InferenceFailed("The request was cancelled before its end.")
    return end.finish_reason


def _usage(ends: Sequence[Finished], n: int) -> dict[str, Any]:
    """A prompt counts once, however many choices were made of it."""
    prompt = sum(end.prompt_tokens for end in ends[::n])
    completion = sum(end.completion_tokens for end in ends)
    cached = sum(end.cached_tokens for end in ends[::n])
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
