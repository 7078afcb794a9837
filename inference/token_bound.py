"""How many tokens a prompt can become, before any tokenizer has seen it, and what is reserved by that."""

import contextlib

import msgspec
import redis
from django.conf import settings

from accounts import budgets
from accounts.caller import TokenBudget
from engine.messages import Generate
from inference.bodies import Prompt

# What a chat template adds: around each turn, and once (a system prompt or a date of its own).
TEMPLATE_TOKENS = 128
TURN_TOKENS = 16


def most_tokens(prompt: Prompt, context_length: int | None, budget: TokenBudget, *, requests: int) -> int:
    """A bound of the prompt's and its completion's tokens, to reserve of a budget for one of so many requests.

    `context_length` is None where it isn't known yet. A completion whose caller set it no bound gets one, so that it
    does not hold all that the context has room for, which may be more than the budget.
    """
    bound = prompt_tokens(prompt)
    if prompt.fills_context:
        bound += max(1, min(settings.BUDGETED_MAX_TOKENS, budget.tokens // requests - bound))
    else:
        bound += prompt.params.max_tokens
    return bound if context_length is None else min(bound, context_length)


def prompt_tokens(prompt: Prompt | Generate) -> int:
    """A bound of the prompt's tokens.

    A token of a byte-level or byte-fallback vocabulary, which LLaMA-family models have, stands for one byte or more.
    """
    texts = [turn.content for turn in prompt.messages or ()]
    texts += [text for text in (prompt.text, prompt.system) if text is not None]
    return sum(len(text.encode()) for text in texts) + TURN_TOKENS * len(texts) + TEMPLATE_TOKENS


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
