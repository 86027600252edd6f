"""Boxes of words on their page, in parts of it: what is one, and which of them a token has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from precast.runtime import arguments
from precast.runtime.errors import InputError

__all__ = ["FORM", "PAGE", "checked_boxes", "is_box", "token_boxes"]

PAGE = 1000
"""Parts that a page is wide, and as many that it is high."""
FORM = f"x0, y0, x1, y1, whole numbers with 0 <= x0 <= x1 <= {PAGE} and 0 <= y0 <= y1 <= {PAGE}"
_SCALED = f"Boxes are in parts of their page: int({PAGE} * x / width) and int({PAGE} * y / height) of one in pixels."


def token_boxes(row: Any, boxes: Sequence[Any], sep_token_id: int | None) -> list[list[int]]:
    """Boxes of an encoded question and its page's words, where the tokenizer knows of none: a question's token is in
    the corner, and what ends a part is at the other end of the page."""
    made = []
    for token, which, word in zip(row.ids, row.sequence_ids, row.word_ids, strict=True):
        if which == 1:
            made.append(list(boxes[word]))
        else:
            made.append([PAGE if token == sep_token_id else 0] * 4)
    return made


def checked_boxes(words: Sequence[Any], boxes: Any) -> list[list[int]]:
    """A box for each word of one page.

    Raises:
        InputError: there are not as many, or one lies outside the page.
    """
    boxes = arguments.listed(boxes)
    if not isinstance(boxes, (list, tuple)) or len(boxes) != len(words):
        count = len(boxes) if isinstance(boxes, (list, tuple)) else type(boxes).__name__
        raise InputError(f"Each word has one box; received {len(words)} words and {count} boxes.")
    made = []
    for word, box in zip(words, boxes, strict=True):
        box = arguments.listed(box)
        if not isinstance(box, (list, tuple)) or not is_box(tuple(box)):
            raise InputError(f"The box of the word {word!r:.60} is {box!r:.80}, and a box is {FORM}. {_SCALED}")
        made.append([int(side) for side in box])
    return made


def is_box(box: tuple[Any, ...]) -> bool:
    """Whether it lies on its page, and is not turned."""
    whole = len(box) == 4 and all(isinstance(side, (int, np.integer)) and type(side) is not bool for side in box)
    return whole and 0 <= box[0] <= box[2] <= PAGE and 0 <= box[1] <= box[3] <= PAGE
