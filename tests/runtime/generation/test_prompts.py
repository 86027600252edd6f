"""What may be called a prompt, and what is refused, with the message."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.torch_engine import served, tiny_llama

from precast.runtime.errors import InputError
from precast.runtime.generation.api import generate
from precast.runtime.generation.prompts import read_decoder_prompts, read_prompts

Rows = list[list[int]]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=7), min_size=1, max_size=5),
    st.sampled_from(["left", "right"]),
)
def test_padding_is_dropped_wherever_it_is(rows: Rows, side: str) -> None:
    width = max(len(row) for row in rows)
    blanks = [[0] * (width - len(row)) for row in rows]
    ones = [[1] * len(row) for row in rows]
    if side == "left":
        ids = [blank + row for blank, row in zip(blanks, rows, strict=True)]
        mask = [blank + one for blank, one in zip(blanks, ones, strict=True)]
    else:
        ids = [row + blank for blank, row in zip(blanks, rows, strict=True)]
        mask = [one + blank for blank, one in zip(blanks, ones, strict=True)]
    for given_mask in (mask, None):
        read = read_prompts(np.array(ids), given_mask, vocab_size=10, pad=0, eos=(2,))
        assert read.rows == rows and read.given.tolist() == ids and read.mask.tolist() == mask
    lists = read_prompts(rows, vocab_size=10, pad=0, pad_left=side == "left")
    assert lists.rows == rows and lists.given.tolist() == ids and lists.mask.tolist() == mask


def test_a_mask_may_hide_tokens_anywhere() -> None:
    read = read_prompts([[5, 6, 7, 8]], [[1, 0, 1, 0]], vocab_size=10)
    assert read.rows == [[5, 7]] and read.width == 4
    ragged = read_prompts([[5, 6, 7], [8, 9]], [[1, 0, 1], [0, 1]], vocab_size=10, pad=0)
    assert ragged.rows == [[5, 7], [9]] and ragged.given.tolist() == [[5, 6, 7], [0, 8, 9]]
    booleans = read_prompts(np.array([[5, 6]]), np.array([[False, True]]), vocab_size=10)
    assert booleans.rows == [[6]]


def test_padding_is_not_guessed_where_it_could_be_text() -> None:
    assert read_prompts(np.array([[2, 5]]), vocab_size=10, pad=2, eos=(2,)).rows == [[2, 5]]
    assert read_prompts(np.array([[2, 5]]), vocab_size=10, pad=2, eos=(3,)).rows == [[5]]
    assert read_prompts(np.array([[2, 5]]), vocab_size=10, pad=2, infer_mask=False).rows == [[2, 5]]
    assert read_prompts([[2, 5]], vocab_size=10, pad=2, eos=(3,)).rows == [[2, 5]], "nobody pads a single list"
    assert read_prompts([[2, 5], [4]], vocab_size=10, pad=2, eos=(3,)).rows == [[2, 5], [4]]
    assert read_prompts([[2, 5], [4, 5]], vocab_size=10, pad=2, eos=(3,)).rows == [[5], [4, 5]]


def test_what_padding_holds_does_not_matter() -> None:
    read = read_prompts(np.array([[-100, 5]]), [[0, 1]], vocab_size=10)
    assert read.rows == [[5]] and read.given.tolist() == [[-100, 5]]


def test_other_libraries_arrays_are_prompts() -> None:
    assert read_prompts(torch.tensor([[5, 6]]), torch.tensor([[1, 1]]), vocab_size=10).rows == [[5, 6]]
    assert read_prompts([np.array([5, 6]), torch.tensor([7])], vocab_size=10).rows == [[5, 6], [7]]
    assert read_prompts(np.array([[5]], dtype=np.uint8), vocab_size=10).rows == [[5]]


def test_nothing_begins_with_the_beginning_token() -> None:
    for nothing in (None, [[]], np.empty((1, 0), dtype=np.int64)):
        read = read_prompts(nothing, vocab_size=10, bos=1)
        assert read.rows == [[1]] and read.given.tolist() == [[1]]
    assert read_prompts([[], [5, 6]], vocab_size=10, bos=1).rows == [[1], [5, 6]]
    ours = served(tiny_llama())
    assert np.array_equal(generate(ours, max_new_tokens=4), generate(ours, [[1]], max_new_tokens=4))


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        (None, None, "generate() needs input_ids: the model has no bos_token_id to begin with"),
        ([[]], None, "Prompt 0 of input_ids is empty and the model has no bos_token_id"),
        ([[5], []], None, "Prompt 1 of input_ids is empty"),
        (np.empty((2, 0), int), None, "input_ids holds empty prompts and the model has no bos_token_id"),
        ([], None, "input_ids holds no prompt (shape [0, 0])"),
        (np.empty((0, 3), int), None, "input_ids holds no prompt (shape [0, 3])"),
        ([5, 6], None, "one list of ids a prompt; received a list of ids. For one prompt, write [ids]"),
        (np.array([5, 6]), None, "two-dimensional array of integer ids, one row a prompt, or a list of lists"),
        (np.zeros((1, 2, 3), int), None, "received int64 of shape [1, 2, 3]"),
        (np.array([[1.5]]), None, "received float64 of shape [1, 1]"),
        ([[1.5]], None, "prompt 0 is float64 of shape [1]"),
        ([[[5]]], None, "prompt 0 is int64 of shape [1, 1]"),
        ([["a"]], None, "one list of integer ids a prompt; prompt 0 is <U1"),
        ("text", None, "two-dimensional array of integer ids"),
        ([[5, 10]], None, "ids outside the model's vocabulary of 10: 10 at row 0, column 1"),
        ([[5], [-1]], None, "ids outside the model's vocabulary of 10: -1 at row 1, column 0"),
        (np.array([[5, 6], [7, 8]]), [[1, 1], [0, 0]], "row 1 of input_ids is padding only"),
        (np.array([[5, 6], [0, 0]]), None, "row 1 of input_ids is padding only"),
        (np.array([[5, 6]]), [[1, 1, 1]], "attention_mask is shaped like input_ids, [1, 2]; received shape [1, 3]"),
        (np.array([[5, 6]]), [1, 1], "received shape [2]"),
        (np.array([[5, 6]]), [[1], [1, 1]], "attention_mask is shaped like input_ids, [1, 2]"),
        (np.array([[5, 6]]), [[1, 2]], "attention_mask holds 1 for a token and 0 for padding"),
        ([[5, 6], [7]], [[1, 1], [1, 1]], "rows of [2, 2] values for rows of [2, 1] ids"),
    ],
)
def test_prompts_that_cannot_be(ids: Any, mask: Any, message: str) -> None:
    with pytest.raises(InputError) as raised:
        read_prompts(ids, mask, vocab_size=10, pad=0)
    assert message in str(raised.value)


def test_what_a_decoder_begins_with() -> None:
    def rows(*arguments: Any) -> Rows:
        return read_decoder_prompts(2, *arguments, vocab_size=10).rows

    assert rows(None, None, 3, None) == rows(None, None, None, 3) == [[3], [3]]
    assert rows(None, None, [3, 4], None) == [[3], [4]]
    assert rows([[3, 5], [3, 6]], None, 3, None) == [[3, 5], [3, 6]]
    assert rows([[5], [6]], None, 3, None) == [[3, 5], [3, 6]]
    assert rows([[3], [6]], None, 3, None) == [[3], [6]], "as upstream: one row that begins with it speaks for all"
    assert rows(np.array([[5, 0], [6, 7]]), [[1, 0], [1, 1]], 3, None) == [[3, 5], [3, 6, 7]]


def test_vocabularies_are_the_engines() -> None:
    ours = served(tiny_llama())
    with pytest.raises(
        InputError, match=r"vocabulary of 40: 40 at row 0, column 0. Was the text tokenized for another"
    ):
        generate(ours, [[40]])
    assert isinstance(ours, SimpleNamespace)
