"""Constrained decoding: what a schema lets through, and what it costs nobody else."""

import json
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from engine.messages import Generate
from engine.params import SamplingParams
from engine.runtime.detokenizer import Detokenizer
from engine.runtime.grammar import GrammarCompiler
from engine.runtime.runner import RequestRefused
from engine.runtime.sampler import sample
from engine.runtime.schema_check import SchemaChecker
from engine.runtime.sequence import Sequence

END = 0
VOCABULARY = 300  # more rows than the tokenizer has tokens, as embeddings often have
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """A token for each byte, and one that ends."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={"<end>": END, **{c: n + 1 for n, c in enumerate(alphabet)}}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)  # type: ignore[assignment]
    made.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    made.add_special_tokens(["<end>"])
    return made


@pytest.fixture(scope="module")
def compiler(tokenizer: Tokenizer) -> GrammarCompiler:
    return GrammarCompiler(tokenizer.to_str(), VOCABULARY, {END})


def generate(compiler: GrammarCompiler, tokenizer: Tokenizer, schema: Any, seed: int, tokens: int = 200) -> str:
    """A text drawn from uniform scores, held to the schema."""
    constraint = compiler.compile(json.dumps(schema))
    params = SamplingParams(max_tokens=tokens, seed=seed)
    sequence = Sequence(Generate("r", params), [5], Detokenizer(str), constraint)
    for _ in range(tokens):
        (token,) = sample(torch.zeros(1, VOCABULARY), [sequence])
        assert isinstance(token, int)
        sequence.append(token, 0.0)
        if constraint.take(token) or token == END:
            break
    return tokenizer.decode(sequence.completion)


@pytest.mark.parametrize("seed", range(20))
def test_random_scores_make_what_the_schema_says(compiler: GrammarCompiler, tokenizer: Tokenizer, seed: int) -> None:
    made = json.loads(generate(compiler, tokenizer, PERSON, seed))

    assert made.keys() == {"name", "age"}
    assert len(made["name"]) <= 8
    assert made["age"] in range(10)


def test_rows_without_a_schema_are_left_alone(compiler: GrammarCompiler) -> None:
    logits = torch.zeros(2, VOCABULARY)
    logits[:, 299] = 5.0  # no token of the tokenizer: never allowed
    params = SamplingParams(temperature=0)
    held = Sequence(Generate("a", params), [5], Detokenizer(str), compiler.compile('{"type": "object"}'))
    free = Sequence(Generate("b", params), [5], Detokenizer(str))

    first, second = sample(logits, [held, free])

    assert first != 299
    assert second == 299


def test_one_schema_serves_many_at_once(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    assert len({generate(compiler, tokenizer, PERSON, seed) for seed in (1, 2, 3)}) == 3


@pytest.mark.parametrize("seed", range(3))
def test_what_may_end_at_many_places_ends_whole(compiler: GrammarCompiler, tokenizer: Tokenizer, seed: int) -> None:
    assert int(generate(compiler, tokenizer, {"type": "integer", "minimum": 0}, seed)) >= 0


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "strin"}, "Invalid type"),
        ({"type": "object", "properties": {"a": {"not": {"type": "string"}}}}, "not"),
        ({"$ref": "http://localhost/schema.json"}, "not present"),
        ({"$ref": "#"}, "NoExtension"),  # nothing can be said in it
        ({"type": "string", "pattern": "("}, "regex"),
        ([], "object"),
        ('{"items":' * 1000 + "{}" + "}" * 1000, "recursion"),
    ],
)
def test_a_schema_that_cannot_be_enforced_is_refused(compiler: GrammarCompiler, schema: Any, reason: str) -> None:
    error = refusal(compiler, schema)

    assert error.code == "INVALID_INPUT"
    assert reason in error.message
    assert error.details["field"] == "response_format.json_schema.schema"


def test_a_schema_that_takes_long_to_compile_is_given_up() -> None:
    everything_at_once = {"allOf": [{"type": "string", "pattern": f"^(.*a.{{{n}}}b.*)$"} for n in range(10, 60)]}
    checker = SchemaChecker(seconds=1.0)
    try:
        assert checker.why_not(json.dumps(everything_at_once)) == "it takes more than 1 s to compile"
        assert checker.why_not('{"type": "object"}') == ""
    finally:
        checker.close()


def test_what_gets_too_complex_on_the_way_ends_its_own_request(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    constraint = compiler.compile(json.dumps({"type": "string", "pattern": "^(a{1000}){1000}$"}))

    with pytest.raises(RequestRefused) as caught:
        constraint.take(tokenizer.encode('"').ids[0])
    assert "too complex" in caught.value.message
    with pytest.raises(RequestRefused):  # and not a text that ends here
        constraint.allowed()


def test_a_constraint_that_gives_up_leaves_the_others_alone(compiler: GrammarCompiler) -> None:
    class Broken:
        def allowed(self) -> bytes:
            raise RequestRefused("INVALID_INPUT", "too complex")

        def take(self, token: int) -> bool:
            return False

    params = SamplingParams(temperature=0)
    first, second = sample(
        torch.zeros(2, VOCABULARY),
        [
            Sequence(Generate("a", params), [5], Detokenizer(str), Broken()),
            Sequence(Generate("b", params), [5], Detokenizer(str)),
        ],
    )

    assert isinstance(first, RequestRefused)
    assert isinstance(second, int)


def test_a_token_that_may_not_come_ends_the_request(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    constraint = compiler.compile(json.dumps(PERSON))

    with pytest.raises(RequestRefused):
        constraint.take(tokenizer.encode("x").ids[0])


def test_an_end_that_may_not_come_yet_is_no_end(compiler: GrammarCompiler) -> None:
    constraint = compiler.compile(json.dumps(PERSON))

    with pytest.raises(RequestRefused):
        constraint.take(END)


def refusal(compiler: GrammarCompiler, schema: Any) -> RequestRefused:
    with pytest.raises(RequestRefused) as caught:
        compiler.compile(schema if isinstance(schema, str) else json.dumps(schema))
    return caught.value
