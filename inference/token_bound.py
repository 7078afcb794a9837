"""How many tokens a prompt can become, before any tokenizer has seen it."""

from inference.bodies import Prompt

# What a chat template adds: around each turn, and once (a system prompt or a date of its own).
TEMPLATE_TOKENS = 64
TURN_TOKENS = 16


def most_tokens(prompt: Prompt, context_length: int | None) -> int:
    """A bound of the prompt's and its completion's tokens. `context_length` is None where it isn't known yet.

    A token of a byte-level or byte-fallback vocabulary, which LLaMA-family models have, stands for one byte or more.
    """
    texts = [turn.content for turn in prompt.messages or ()]
    texts += [text for text in (prompt.text, prompt.system) if text is not None]
    size = sum(len(text.encode()) for text in texts)
    bound = size + TURN_TOKENS * len(texts) + TEMPLATE_TOKENS + prompt.params.max_tokens
    return bound if context_length is None else min(bound, context_length)
