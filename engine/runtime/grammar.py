"""Holds a completion to a JSON Schema: which tokens may come next, after each token (llguidance).

Whitespace is fixed, as `json.dumps` writes it: a model that may put any amount of it sometimes puts nothing else.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING

from llguidance import LLMatcher, LLTokenizer

from engine.runtime.runner import RequestRefused

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

_REMEMBERED = 64
_FORM: "JsonCompileOptions" = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class Constraint:
    """One completion's place in its grammar."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def allowed(self) -> bytes:
        """A bit for each token, lowest bit first: whether it may come next."""
        return self._matcher.compute_bitmask()

    def take(self, token: int) -> bool:
        """Go on by a token; whether the text is whole now and nothing can follow. Raises RequestRefused."""
        if not self._matcher.consume_token(token):
            raise RequestRefused("INFERENCE_FAILED", "the completion has left its schema")
        return self._matcher.is_stopped()


class GrammarCompiler:
    """Makes constraints for one tokenizer; safe to call from several threads."""

    def __init__(self, tokenizer_json: str, vocabulary: int, end_tokens: Iterable[int]) -> None:
        self._tokenizer = LLTokenizer(tokenizer_json, n_vocab=vocabulary, eos_token=sorted(end_tokens))
        self._made: OrderedDict[str, LLMatcher] = OrderedDict()
        self._lock = threading.Lock()

    def compile(self, schema: str) -> Constraint:
        """Raises RequestRefused for a schema that is none, or has what can't be enforced."""
        with self._lock:
            made = self._made.get(schema)
            if made is None:
                made = self._made[schema] = self._matcher(schema)
                if len(self._made) > _REMEMBERED:
                    self._made.popitem(last=False)
            self._made.move_to_end(schema)
            return Constraint(made.deep_copy())

    def _matcher(self, schema: str) -> LLMatcher:
        grammar = LLMatcher.grammar_from_json_schema(schema, overrides=_FORM)
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            reason = matcher.get_error().strip().partition("\n")[0][:300]
            raise RequestRefused(
                "INVALID_INPUT", f"the schema can't be enforced: {reason}", field="response_format.json_schema.schema"
            )
        return matcher
