"""Guarantees of worker/detectors/chunks.py: nothing is lost, reordered or cut, and no piece is too long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import PromptError
from worker.detectors.chunks import split_prompts

names = st.lists(st.text(alphabet="abc ", min_size=1, max_size=12), max_size=40)


@given(names, st.integers(min_value=12, max_value=60))
def test_every_prompt_is_in_one_piece_in_order(prompts: list[str], limit_tokens: int) -> None:
    pieces = split_prompts(prompts, len, limit_tokens)

    assert [position for piece in pieces for position in piece] == list(range(len(prompts)))


@given(names, st.integers(min_value=12, max_value=60))
def test_no_piece_is_over_the_limit_and_none_could_take_the_next_prompt(prompts: list[str], limit_tokens: int) -> None:
    pieces = split_prompts(prompts, len, limit_tokens)

    lengths = [sum(len(prompts[position]) for position in piece) for piece in pieces]
    assert all(length <= limit_tokens for length in lengths)
    firsts = [len(prompts[piece[0]]) for piece in pieces[1:]]
    assert all(length + first > limit_tokens for length, first in zip(lengths[:-1], firsts, strict=True))


def test_prompts_that_just_fit_stay_together() -> None:
    assert split_prompts(["aaaa", "bbbb", "cc"], len, limit_tokens=10) == [[0, 1, 2]]
    assert split_prompts(["aaaa", "bbbb", "cc"], len, limit_tokens=9) == [[0, 1], [2]]


def test_no_prompts_give_no_pieces() -> None:
    assert split_prompts([], len, limit_tokens=10) == []


def test_a_prompt_that_is_too_long_is_named() -> None:
    with pytest.raises(PromptError, match=r"'polar bear' takes 10 tokens; the model reads at most 8"):
        split_prompts(["cat", "polar bear"], len, limit_tokens=8)


def test_a_very_long_prompt_is_named_in_short() -> None:
    with pytest.raises(PromptError) as raised:
        split_prompts(["x" * 5000], len, limit_tokens=8)

    assert len(raised.value.message) < 200
