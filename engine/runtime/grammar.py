"""Holds a completion to a JSON Schema: which tokens may come next, after each token (llguidance)."""

import threading
from collections import OrderedDict
from collections.abc import Iterable

from llguidance import LLMatcher, LLTokenizer

from engine.runtime.runner import RequestRefused
from engine.runtime.schema_check import SchemaChecker, first_line, grammar_of, limits

_REMEMBERED = 64


class Constraint:
    """One completion's place in its grammar."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def allowed(self) -> bytes:
        """A bit for each token, lowest bit first: whether it may come next. Raises RequestRefused."""
        found = self._matcher.compute_bitmask()
        if self._matcher.is_error():
            raise self._too_complex()
        return found

    def take(self, token: int) -> bool:
        """Go on by a token; whether the text is whole now and nothing can follow. Raises RequestRefused."""
        if not self._matcher.consume_token(token):
            raise self._too_complex()
        return self._matcher.is_stopped()

    def _too_complex(self) -> RequestRefused:
        """For what llguidance gives up on: it answers with a mask that ends the text, wherever it is."""
        return _refused(f"it is too complex to go on with this text: {first_line(self._matcher.get_error())}")


class GrammarCompiler:
    """Makes constraints for one tokenizer; safe to call from several threads."""

    def __init__(self, tokenizer_json: str, vocabulary: int, end_tokens: Iterable[int]) -> None:
        """Raises ValueError for a tokenizer that llguidance can't read, or one without tokens that end a text."""
        self._tokenizer = LLTokenizer(tokenizer_json, n_vocab=vocabulary, eos_token=sorted(end_tokens))
        self._checker = SchemaChecker()
        self._made: OrderedDict[str, LLMatcher] = OrderedDict()
        self._lock = threading.Lock()

    def compile(self, schema: str) -> Constraint:
        """Raises RequestRefused for a schema that is none, or has what can't be enforced, or takes too much."""
        with self._lock:
            made = self._made.get(schema)
            if made is None:
                made = self._made[schema] = self._matcher(schema)
                if len(self._made) > _REMEMBERED:
                    self._made.popitem(last=False)
            self._made.move_to_end(schema)
            return Constraint(made.deep_copy())

    def _matcher(self, schema: str) -> LLMatcher:
        if reason := self._checker.why_not(schema):
            raise _refused(reason)
        matcher = LLMatcher(self._tokenizer, grammar_of(schema), log_level=0, limits=limits())
        if not matcher.is_error():
            matcher.compute_bitmask()  # shows what only the tokens show, and is computed for all who come later
        if matcher.is_error():
            raise _refused(first_line(matcher.get_error()))
        return matcher


def _refused(reason: str) -> RequestRefused:
    return RequestRefused(
        "INVALID_INPUT", f"the schema can't be enforced: {reason}", field="response_format.json_schema.schema"
    )
