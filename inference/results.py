"""From an engine's end of a request to the result that its caller gets."""

from typing import Any

from engine.messages import Finished
from inference.calls import Call

_DIGITS = 4


def figures(call: Call, end: Finished) -> dict[str, Any]:
    """The counts and times of a request. Times are in seconds: the queue's from submission, the inference's from the
    first prefill step, the first token's from the request's arrival."""
    return {
        "tokens_generated": end.completion_tokens,
        "inference_time": round(end.prefill_time + end.decode_time, _DIGITS),
        "finish_reason": end.finish_reason,
        "prompt_tokens": end.prompt_tokens,
        "cached_tokens": end.cached_tokens,
        "queue_time": round(call.accept_time + end.queue_time, _DIGITS),
        "time_to_first_token": round(call.door_time + call.accept_time + end.time_to_first_token, _DIGITS),
    }


def result(call: Call, end: Finished) -> dict[str, Any]:
    """The `result` of a single inference."""
    return {
        "generated_text": end.text,
        **figures(call, end),
        "model_used": call.model_id,
        "backend": call.backend,
    }
