"""What the caller calls a prompt, turned into rows without padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from precast.runtime.backends.base import Array
from precast.runtime.errors import InputError

__all__ = ["Prompts", "begun_with", "read_decoder_prompts", "read_prompts"]


@dataclass(frozen=True)
class Prompts:
    """N prompts."""

    given: Array
    """[N, S] int64 as they were given, padding included; lists of different lengths are padded on the left."""
    rows: list[list[int]]
    """N rows of ids without padding, one id at least each."""
    mask: Array
    """[N, S] int64."""

    @property
    def width(self) -> int:
        return int(self.given.shape[1])


def read_prompts(
    input_ids: Any,
    attention_mask: Any = None,
    *,
    vocab_size: int,
    bos: int | None = None,
    pad: int | None = None,
    eos: Sequence[int] = (),
    infer_mask: bool = True,
    pad_left: bool = True,
    name: str = "input_ids",
) -> Prompts:
    """Prompts of ``[N, S]`` ids with padding anywhere, of lists of ids, or of nothing but the beginning token.

    Without a mask, tokens equal to ``pad`` are taken for padding where ``pad`` is no end token, as upstream does; but
    not in a single list of ids or in lists of different lengths, which nobody has padded.

    Raises:
        InputError: wrong shapes or types, a prompt without a token, an id outside the vocabulary.
    """
    if input_ids is None:
        if bos is None:
            raise InputError(f"generate() needs {name}: the model has no bos_token_id to begin with. Pass {name}.")
        input_ids = [[bos]]
    if isinstance(input_ids, (list, tuple)):
        ids, ragged_mask = _rectangle(input_ids, bos, pad, pad_left, name)
        # Several lists of one length are as good as an array: they may have been padded. No other lists have been.
        if attention_mask is None and (len(ids) == 1 or not ragged_mask.all()):
            attention_mask = ragged_mask
        elif attention_mask is not None and not ragged_mask.all():
            attention_mask = _ragged_mask(attention_mask, ragged_mask, name)
    else:
        ids = np.asarray(input_ids)
    if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
        raise InputError(
            f"{name} is a two-dimensional array of integer ids, one row a prompt, or a list of lists of ids; "
            f"received {ids.dtype} of shape {list(ids.shape)}."
        )
    if not ids.shape[0]:
        raise InputError(f"{name} holds no prompt (shape {list(ids.shape)}). Pass one row at least.")
    if not ids.shape[1]:
        if bos is None:
            raise InputError(
                f"{name} holds empty prompts and the model has no bos_token_id to begin with. Pass one token at least."
            )
        ids, attention_mask = np.full((len(ids), 1), bos, dtype=np.int64), None
    ids = ids.astype(np.int64)
    if attention_mask is None:
        padding = (ids == pad) if infer_mask and pad is not None and pad not in eos else np.zeros_like(ids, dtype=bool)
        mask = (~padding).astype(np.int64)
    else:
        mask = _mask(attention_mask, ids, name)
    empty = np.flatnonzero(~mask.any(axis=1))
    if len(empty):
        raise InputError(
            f"Every prompt needs one token at least; row {int(empty[0])} of {name} is padding only (its attention mask "
            "is all zero). Remove the row, or begin it with the bos token."
        )
    kept = mask != 0
    outside = kept & ((ids < 0) | (ids >= vocab_size))
    if outside.any():
        row, column = (int(axis[0]) for axis in np.nonzero(outside))
        raise InputError(
            f"{name} holds ids outside the model's vocabulary of {vocab_size}: {int(ids[row, column])} at row {row}, "
            f"column {column}. Was the text tokenized for another model?"
        )
    return Prompts(ids, [row[keep].tolist() for row, keep in zip(ids, kept, strict=True)], kept.astype(np.int64))


def begun_with(first: int, prompts: Prompts) -> list[list[int]]:
    """What answers begin with that continue texts, as a tokenizer of encoders writes these: ``first`` stands in place
    of what it puts in front of each, and what it puts behind is no part of it."""
    return [[first, *row[1:-1]] for row in prompts.rows]


def read_decoder_prompts(
    count: int, decoder_input_ids: Any, decoder_attention_mask: Any, start: Any, bos: int | None, *, vocab_size: int
) -> Prompts:
    """What an encoder-decoder's outputs begin with: the start token, unless every row given begins with it already.

    Raises:
        InputError: no start token is known, or the rows do not match the ``count`` sources.
    """
    start = bos if start is None else start
    if start is None:
        raise InputError(
            "An encoder-decoder needs a token to begin with, and neither decoder_start_token_id nor bos_token_id is "
            "known. Pass decoder_start_token_id."
        )
    starts = np.asarray(start, dtype=np.int64).reshape(-1)
    if len(starts) not in (1, count):
        raise InputError(f"decoder_start_token_id is one id, or one a prompt ({count}); received {len(starts)}.")
    column = np.broadcast_to(starts, (count,))[:, None]
    if decoder_input_ids is None:
        return read_prompts(np.array(column), vocab_size=vocab_size, infer_mask=False, name="decoder_start_token_id")
    read = read_prompts(
        decoder_input_ids, decoder_attention_mask, vocab_size=vocab_size, bos=int(starts[0]), infer_mask=False,
        name="decoder_input_ids",
    )  # fmt: skip
    if len(read.rows) != count:
        raise InputError(f"decoder_input_ids has {len(read.rows)} rows for {count} prompts. Pass one row a prompt.")
    if any(row[0] == first for row, first in zip(read.rows, column[:, 0].tolist(), strict=True)):
        return read
    return Prompts(
        np.concatenate([column, read.given], axis=1),
        [[first, *row] for row, first in zip(read.rows, column[:, 0].tolist(), strict=True)],
        np.concatenate([np.ones_like(column), read.mask], axis=1),
    )


def _rectangle(
    prompts: Sequence[Any], bos: int | None, pad: int | None, pad_left: bool, name: str
) -> tuple[Array, Array]:
    rows: list[list[int]] = []
    for index, prompt in enumerate(prompts):
        if isinstance(prompt, (int, np.integer)):
            raise InputError(
                f"{name} is one list of ids a prompt; received a list of ids. For one prompt, write [ids]."
            )
        values = np.asarray(prompt)
        if values.ndim != 1 or (values.size and not np.issubdtype(values.dtype, np.integer)):
            raise InputError(
                f"{name} is one list of integer ids a prompt; prompt {index} is {values.dtype} of shape "
                f"{list(values.shape)}."
            )
        if not values.size and bos is None:
            raise InputError(
                f"Prompt {index} of {name} is empty and the model has no bos_token_id to begin with. Pass one token "
                "at least."
            )
        rows.append(values.tolist() or [bos])
    width = max((len(row) for row in rows), default=0)
    ids = np.full((len(rows), width), 0 if pad is None else pad, dtype=np.int64)
    mask = np.zeros_like(ids)
    for index, row in enumerate(rows):
        place = slice(width - len(row), width) if pad_left else slice(0, len(row))
        ids[index, place] = row
        mask[index, place] = 1
    return ids, mask


def _ragged_mask(attention_mask: Any, places: Array, name: str) -> Array:
    """A list of masks as ragged as the ids, laid out as they were."""
    masks = [np.asarray(row).reshape(-1) for row in attention_mask]
    lengths = places.sum(axis=1).tolist()
    if [len(row) for row in masks] != lengths:
        raise InputError(
            f"attention_mask has one value for every id of {name}; received rows of {[len(row) for row in masks]} "
            f"values for rows of {lengths} ids."
        )
    laid = np.zeros_like(places)
    for target, place, row in zip(laid, places, masks, strict=True):
        target[place != 0] = row
    return laid


def _mask(attention_mask: Any, ids: Array, name: str) -> Array:
    try:
        mask = np.asarray(attention_mask)
    except ValueError as error:
        raise InputError(f"attention_mask is shaped like {name}, {list(ids.shape)}; {error}.") from error
    if mask.shape != ids.shape:
        raise InputError(f"attention_mask is shaped like {name}, {list(ids.shape)}; received shape {list(mask.shape)}.")
    if not np.isin(mask, (0, 1)).all():
        raise InputError("attention_mask holds 1 for a token and 0 for padding; received other values.")
    return mask.astype(np.int64)
