"""How many tokens a prompt can become, before any tokenizer has seen it, and what is reserved by that."""

import contextlib
from collections.abc import Sequence

import msgspec
import redis
from django.conf import settings

from accounts import budgets
from accounts.caller import TokenBudget
from engine.messages import Generate

# What a chat template adds: around each turn, and once (a system prompt or a date of its own).
TEMPLATE_TOKENS = 128
TURN_TOKENS = 16
# Templates explain tools, and may write them with indentation.
TOOLS_TOKENS = 512
TOOLS_GROWTH = 4
# An open completion with room for fewer tokens is no answer.
LEAST_ANSWER = 16


def most_tokens(request: Generate, context_length: int | None, share: int) -> int:
    """A bound of the tokens of a request's prompt and completion, to reserve for it of a key's budget.

    `context_length` is None where it isn't known yet. A completion whose caller set it no bound gets one, so that it
    does not hold all that the context has room for, nor more than its share of the whole budget.
    """
    bound = prompt_tokens(request)
    if request.fills_context:
        bound += max(1, min(settings.BUDGETED_MAX_TOKENS, share - bound))
    else:
        bound += request.params.max_tokens
    return bound if context_length is None else min(bound, context_length)


def held_to_bounds(requests: Sequence[Generate], context_length: int | None, budget: TokenBudget) -> list[Generate]:
    """The requests, with the most tokens that each can take."""
    share = budget.tokens // len(requests)
    return [
        msgspec.structs.replace(request, most_tokens=most_tokens(request, context_length, share))
        for request in requests
    ]


def least_tokens(requests: Sequence[Generate]) -> int:
    """What each can do with when the budget has too few left for all; 0 when their callers said what they want."""
    if not all(request.fills_context for request in requests):
        return 0
    return max(prompt_tokens(request) for request in requests) + LEAST_ANSWER


def prompt_tokens(request: Generate) -> int:
    """A bound of the prompt's tokens.

    A token of a byte-level or byte-fallback vocabulary, which LLaMA-family models have, stands for one byte or more.
    """
    texts = [turn.content + turn.tool_calls + turn.tool_call_id for turn in request.messages or ()]
    texts += [text for text in (request.text, request.system) if text is not None]
    size = sum(len(text.encode()) for text in texts) + TURN_TOKENS * len(texts) + TEMPLATE_TOKENS
    if request.tools:
        size += TOOLS_TOKENS + TOOLS_GROWTH * len(request.tools.encode())
    return size + len(request.tokens or ())


def with_reservation_of(changed: Generate, before: Generate) -> Generate:
    """A request that plugins have changed, with more reserved if that made it longer and the budget has as much left.

    Else it keeps what it has, and the engine sees whether its real tokens fit that.
    """
    growth = prompt_tokens(changed) + changed.params.max_tokens - prompt_tokens(before) - before.params.max_tokens
    if before.most_tokens is None or growth <= 0:
        return changed
    wanted = before.most_tokens + growth
    with contextlib.suppress(redis.RedisError):
        if budgets.raise_now(changed.request_id, wanted):
            return msgspec.structs.replace(changed, most_tokens=wanted)
    return changed
