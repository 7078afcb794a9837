"""The KV cache's bookkeeping."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.messages import Generate
from engine.params import SamplingParams
from engine.runtime.blocks import BLOCK_SIZE, BlockPool, OutOfBlocks
from engine.runtime.detokenizer import Detokenizer
from engine.runtime.sequence import Sequence


def _sequence(tokens: list[int], salt: str = "") -> Sequence:
    return Sequence(Generate("r", SamplingParams(), text="", cache_salt=salt), tokens, Detokenizer(str))


def _computed(pool: BlockPool, tokens: list[int], salt: str = "") -> Sequence:
    sequence = _sequence(tokens, salt)
    pool.adopt_prefix(sequence)
    pool.extend(sequence, len(tokens))
    sequence.computed = len(tokens)
    pool.commit(sequence)
    return sequence


def test_a_second_prompt_shares_the_blocks_of_its_beginning() -> None:
    pool = BlockPool(16)
    first = _computed(pool, list(range(40)))
    second = _sequence([*range(32), 99, 98])
    pool.adopt_prefix(second)
    assert second.blocks == first.blocks[:2]
    assert second.computed == 32


def test_only_requests_with_the_same_salt_share_blocks() -> None:
    pool = BlockPool(16)
    tokens = list(range(40))
    first = _computed(pool, tokens, "user:1")
    other, same = _sequence(tokens, "user:2"), _sequence(tokens, "user:1")
    pool.adopt_prefix(other)
    pool.adopt_prefix(same)
    assert (other.blocks, other.computed) == ([], 0)
    assert same.blocks == first.blocks[:2]
    pool.release(same)
    pool.adopt_prefix(same)
    assert same.blocks == first.blocks[:2]


def test_a_different_beginning_shares_nothing_even_with_the_same_later_tokens() -> None:
    pool = BlockPool(16)
    _computed(pool, list(range(48)))
    other = _sequence([500, *range(1, 48)])
    pool.adopt_prefix(other)
    assert other.blocks == []


def test_at_least_one_token_is_left_to_compute() -> None:
    pool = BlockPool(16)
    _computed(pool, list(range(32)))
    same = _sequence(list(range(32)))
    pool.adopt_prefix(same)
    assert same.computed == 16


def test_released_blocks_are_found_again_until_they_are_needed() -> None:
    pool = BlockPool(4)
    pool.release(_computed(pool, list(range(40))))
    assert pool.free == 4
    again = _sequence(list(range(40)))
    pool.adopt_prefix(again)
    assert again.computed == 32
    pool.release(again)
    pool.release(_computed(pool, list(range(1000, 1064))))
    forgotten = _sequence(list(range(40)))
    pool.adopt_prefix(forgotten)
    assert forgotten.computed == 0


def test_the_end_of_a_beginning_is_given_away_before_its_start() -> None:
    pool = BlockPool(3)
    pool.release(_computed(pool, list(range(48))))
    pool.release(_computed(pool, [7] * 10))
    kept = _sequence(list(range(48)))
    pool.adopt_prefix(kept)
    assert kept.computed == 32


def test_it_refuses_without_taking_any_block() -> None:
    pool = BlockPool(2)
    sequence = _sequence(list(range(48)))
    with pytest.raises(OutOfBlocks):
        pool.extend(sequence, 48)
    assert pool.free == 2
    assert sequence.blocks == []


def test_without_prefix_caching_nothing_is_shared() -> None:
    pool = BlockPool(8, prefix_caching=False)
    _computed(pool, list(range(40)))
    second = _sequence(list(range(40)))
    pool.adopt_prefix(second)
    assert second.blocks == []


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 60), st.booleans()), min_size=1, max_size=40))
def test_no_block_is_ever_lost_or_held_by_two_different_texts(steps: list[tuple[int, int, bool]]) -> None:
    pool = BlockPool(12)
    running: list[Sequence] = []
    for start, length, release in steps:
        if release and running:
            pool.release(running.pop(0))
            continue
        tokens = [start] * (length // 2) + list(range(length - length // 2))
        sequence = _sequence(tokens)
        pool.adopt_prefix(sequence)
        try:
            pool.extend(sequence, len(tokens))
        except OutOfBlocks:
            pool.release(sequence)
            continue
        sequence.computed = len(tokens)
        pool.commit(sequence)
        running.append(sequence)
        held: dict[int, tuple[int, ...]] = {}
        for sequence in running:
            for index, block in enumerate(sequence.blocks):
                text = tuple(sequence.tokens[: (index + 1) * BLOCK_SIZE])
                assert held.setdefault(block, text) == text
    for sequence in running:
        pool.release(sequence)
    assert pool.free == 12
