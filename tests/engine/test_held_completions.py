"""Completions that are held to a schema, through the whole loop, beside others."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.messages import EngineConfig, Generate
from engine.params import SamplingParams
from engine.runtime.detokenizer import Detokenizer
from engine.runtime.sequence import Sequence
from tests.engine.conftest import Harness

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"word": {"type": "string", "maxLength": 5}, "flag": {"type": "boolean"}},
        "required": ["word", "flag"],
        "additionalProperties": False,
    }
)


@pytest.fixture(scope="module")
def engine(model_folder: Callable[[str], Path]) -> Harness:
    return Harness(EngineConfig(model_path=str(model_folder("llama-gqa")), quantization="fp32"))


def held(engine: Harness, name: str, **params: object) -> str:
    """Queue a completion that is held to the schema."""
    given = SamplingParams(**{"temperature": 0.0, "max_tokens": 100, **params})  # type: ignore[arg-type]
    request = Generate(name, given.validate(), text="a prompt", raw=True, response_schema=SCHEMA)
    tokenizer = engine.runner.tokenizer
    prompt, constraint = tokenizer.encode(request), tokenizer.constraint(SCHEMA)
    engine.inbox.put(Sequence(request, prompt, Detokenizer(tokenizer.decode, given.stop), constraint))
    return name


def test_a_batch_of_both_kinds_keeps_each_to_its_own(engine: Harness) -> None:
    alone = engine.submit("another prompt", max_tokens=40)
    engine.run()
    first = held(engine, "greedy")
    free = engine.submit("another prompt", max_tokens=40)
    second = held(engine, "drawn", temperature=1.5, seed=3)
    engine.run()

    for name in (first, second):
        end = engine.finished(name)
        assert end.finish_reason == "stop"
        assert json.loads(end.text).keys() == {"word", "flag"}
    assert engine.finished(free).text == engine.finished(alone).text


def test_its_limit_cuts_an_answer_off_and_says_so(engine: Harness) -> None:
    end_of = held(engine, "short", max_tokens=6)
    engine.run()

    end = engine.finished(end_of)
    assert (end.finish_reason, end.completion_tokens) == ("length", 6)
    assert end.text.startswith('{"wor')


def test_a_stop_string_ends_it_wherever_it_is(engine: Harness) -> None:
    end_of = held(engine, "stopped", stop=('":',))
    engine.run()

    end = engine.finished(end_of)
    assert (end.finish_reason, end.text) == ("stop", '{"word')
