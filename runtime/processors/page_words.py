"""Words of pages with their boxes: each token has its word's, special tokens have their own.

Calls and results are those of transformers' ``LayoutLMv3Tokenizer``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from precast.runtime import arguments
from precast.runtime.errors import CheckpointError, InputError
from precast.runtime.processors.encoding import BatchEncoding
from precast.runtime.processors.page_boxes import FORM, checked_boxes, is_box

__all__ = ["SpecialBoxes", "encode_words"]

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class SpecialBoxes:
    """Boxes of tokens that are no word's, the label of those, and whether a word's first token alone has its label."""

    cls: Box = (0, 0, 0, 0)
    sep: Box = (0, 0, 0, 0)
    pad: Box = (0, 0, 0, 0)
    label: int = -100
    first: bool = True

    @classmethod
    def from_json(cls, said: Any) -> SpecialBoxes:
        """Of a tokenizer_config.json.

        :raises CheckpointError: it says something else."""
        if not isinstance(said, Mapping):
            raise CheckpointError(f"boxes of special tokens are a table; tokenizer_config.json has {said!r:.80}")
        made: dict[str, Any] = {
            name: tuple(said[name]) if isinstance(said[name], list) else said[name] for name in said
        }
        boxes = [made.get(name, (0, 0, 0, 0)) for name in ("cls", "sep", "pad")]
        label, first = made.get("label", -100), made.get("first", True)
        if (
            made.keys() - cls.__dataclass_fields__.keys()
            or not all(isinstance(box, tuple) and is_box(box) for box in boxes)
            or type(label) is not int
            or type(first) is not bool
        ):
            raise CheckpointError(f"a special token's box is {FORM}; tokenizer_config.json has {dict(said)!r:.200}")
        return cls(**made)

    def to_json(self) -> dict[str, Any]:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def encode_words(
    plain: Callable[..., BatchEncoding],
    special: SpecialBoxes,
    ids: Mapping[int | None, Box],
    text: Any,
    text_pair: Any,
    boxes: Any,
    word_labels: Any,
    *,
    return_overflowing_tokens: bool,
    return_offsets_mapping: bool,
    return_tensors: str | None,
    **options: Any,
) -> BatchEncoding:
    """The words of pages as `PageTokenizer` takes them.

    Args:
        plain: encodes lists of words. ids: boxes of special tokens by their number.
    """
    text, text_pair = arguments.listed(text), arguments.listed(text_pair)
    paired = text_pair is not None
    batched = isinstance(text, (list, tuple)) and (paired or (len(text) > 0 and isinstance(text[0], (list, tuple))))
    words = text_pair if paired else text
    if not isinstance(words, (list, tuple)):
        raise InputError(
            "Words of a page are a list of texts (or a list of such lists, one for each page); received "
            f"{type(words).__name__}: {words!r:.80}. Cut a text into words, and give the box of each: boxes=[...]."
        )
    pages = _pages(words, boxes, batched)
    labels = None if word_labels is None else (list(word_labels) if batched else [word_labels])
    if labels is not None and [len(each) for each in labels] != [len(each) for each in pages]:
        raise InputError("There is one label for each word; received another number of word_labels than of words.")
    if paired:
        split = [each.split() if isinstance(each, str) else each for each in (text if batched else [text])]
        text = split if batched else split[0]
    encoding = plain(
        text,
        text_pair,
        is_split_into_words=True,
        return_overflowing_tokens=return_overflowing_tokens,
        return_offsets_mapping=True,
        return_tensors=return_tensors,
        **options,
    )
    rows = encoding.encodings
    assert rows is not None, "texts were encoded"
    owners = encoding["overflow_to_sample_mapping"] if return_overflowing_tokens else range(len(rows))
    data = {name: value for name, value in encoding.items() if return_offsets_mapping or name != "offset_mapping"}
    made: dict[str, list[Any]] = {}
    made["bbox"] = [
        _boxes(row, pages[owner], special, ids, paired=paired) for row, owner in zip(rows, owners, strict=True)
    ]
    if labels is not None:
        made["labels"] = [_labels(row, labels[owner], special) for row, owner in zip(rows, owners, strict=True)]
    for name, value in made.items():
        if return_tensors is not None:
            data[name] = np.array(value, np.int64)
        else:
            data[name] = value if batched or return_overflowing_tokens else value[0]
    return BatchEncoding(data, rows)


def _boxes(
    row: Any, boxes: Sequence[Any], special: SpecialBoxes, ids: Mapping[int | None, Box], *, paired: bool
) -> list[list[int]]:
    made: list[Any] = []
    for token, which, word in zip(row.ids, row.sequence_ids, row.word_ids, strict=True):
        if word is None:
            made.append(ids.get(token, special.sep))
        else:
            made.append(special.pad if paired and which == 0 else boxes[word])
    return [list(box) for box in made]


def _labels(row: Any, labels: Sequence[int], special: SpecialBoxes) -> list[int]:
    before, made = None, []
    for word in row.word_ids:
        said = word is not None and not (special.first and word == before)
        made.append(labels[word] if said else special.label)
        before = word
    return made


def _pages(words: Any, boxes: Any, batched: bool) -> list[list[list[int]]]:
    """Boxes for each page's words."""
    if boxes is None:
        raise InputError(f"Words of a page stand in boxes, and none are given: boxes=[...], for each word {FORM}.")
    if not batched:
        return [checked_boxes(words, boxes)]
    boxes = arguments.listed(boxes)
    if not isinstance(boxes, (list, tuple)) or len(boxes) != len(words):
        raise InputError(f"Each page has a list of boxes; received {len(words)} pages and {len(boxes)} lists.")
    return [checked_boxes(page, each) for page, each in zip(words, boxes, strict=True)]
