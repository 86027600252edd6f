"""Words with boxes against upstream's LayoutLMv3Tokenizer, and what no page has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from support.tokenizer_samples import byte_level, write_json

from precast import AutoTokenizer
from precast.export.tokenizers.files import runtime_files
from precast.runtime.errors import CheckpointError, InputError
from precast.runtime.processors.text import PageTokenizer, Tokenizer

WORDS = [["Invoice", "number:", "12-345", "tokenization"], ["Total", "50%"]]
BOXES = [
    [[10, 20, 110, 40], [120, 20, 200, 40], [210, 20, 300, 40], [0, 0, 1000, 1000]],
    [[1, 2, 3, 4], [5, 6, 7, 8]],
]
LABELS = [[1, 2, 3, 4], [5, 6]]
QUESTIONS = ["What is it?", "How many numbers, all in all?"]
STATED = {"cls_token_box": [1, 1, 2, 2], "sep_token_box": [1000, 1000, 1000, 1000], "pad_token_box": [3, 3, 3, 3]}
STATED |= {"only_label_first_subword": False, "pad_token_label": -7, "add_prefix_space": False}


@pytest.fixture(scope="module", params=[{}, STATED], ids=["nothing", "stated"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, PageTokenizer]:
    folder = byte_level(tmp_path_factory.mktemp("words"), ("<s>", "<pad>", "</s>", "<unk>", "<mask>"))
    write_json(folder / "config.json", {"model_type": "layoutlmv3"})
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "LayoutLMv3Tokenizer", **request.param})
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert type(theirs).__name__ == "LayoutLMv3Tokenizer"
    ours: Any = AutoTokenizer.from_pretrained(folder)
    assert ours.model_input_names == theirs.model_input_names
    again = Tokenizer.from_files(ours.files())  # as an artifact has it
    assert isinstance(ours, PageTokenizer) and isinstance(again, PageTokenizer)
    return theirs, again


CALLS: list[dict[str, Any]] = [
    {"text": WORDS[0], "boxes": BOXES[0]},
    {"text": WORDS, "boxes": BOXES, "padding": True, "return_tensors": "np"},
    {"text": WORDS, "boxes": BOXES, "word_labels": LABELS, "padding": "max_length", "max_length": 40},
    {"text": WORDS[0], "boxes": BOXES[0], "word_labels": LABELS[0], "return_offsets_mapping": True},
    {"text": QUESTIONS[0], "text_pair": WORDS[0], "boxes": BOXES[0], "return_token_type_ids": True},
    {"text": QUESTIONS, "text_pair": WORDS, "boxes": BOXES, "padding": True, "return_tensors": "np"},
    {"text": QUESTIONS, "text_pair": WORDS, "boxes": BOXES, "truncation": "only_second", "max_length": 30}
    | {"stride": 2, "return_overflowing_tokens": True, "return_special_tokens_mask": True},
    {"text": WORDS, "boxes": BOXES, "truncation": True, "max_length": 8, "return_overflowing_tokens": True}
    | {"padding": True, "padding_side": "left", "return_tensors": "np"},
]


@pytest.mark.parametrize("call", CALLS, ids=range(len(CALLS)))
def test_as_upstream(both: tuple[Any, PageTokenizer], call: dict[str, Any]) -> None:
    theirs, ours = both
    expected, found = theirs(**call), ours(**call)
    assert set(found) == set(expected)
    for name, value in expected.items():
        if "return_tensors" in call:
            np.testing.assert_array_equal(found[name], value, err_msg=name)
        else:
            assert found[name] == value, name
    assert found.word_ids(0) == expected.word_ids(0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"text": "Total: 50"}, r"Words of a page are a list of texts .*; received str: 'Total: 50'\. Cut a text"),
        ({"text": ["Total:", "50"]}, "stand in boxes, and none are given"),
        ({"text": ["Total:", "50"], "boxes": [[0, 0, 1, 1]]}, "Each word has one box; received 2 words and 1 boxes"),
        ({"text": [["Total:"], ["50"]], "boxes": [[[0, 0, 1, 1]]]}, "received 2 pages and 1 lists"),
        ({"text": ["Total:"], "boxes": [[0, 0, 1001, 1]]}, r"box of the word 'Total:' is \[0, 0, 1001, 1\].*in pixels"),
        (
            {"text": ["Total:"], "boxes": [[5, 0, 4, 1]]},
            r"is \[5, 0, 4, 1\], and a box is x0, y0, x1, y1, whole numbers with 0",
        ),
        ({"text": ["Total:"], "boxes": [[0.5, 0, 4, 1]]}, r"is \[0.5, 0, 4, 1\], and a box is"),
        ({"text": ["Total:"], "boxes": [[0, 0, 4, 1]], "word_labels": [1, 2]}, "one label for each word"),
    ],
)
def test_what_no_page_has(both: tuple[Any, PageTokenizer], given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        both[1](**given)


@pytest.mark.parametrize(
    "stated", [{"cls_token_box": [1, 2]}, {"pad_token_label": "x"}, {"sep_token_box": [9, 0, 1, 1]}]
)
def test_boxes_of_special_tokens_are_boxes(stated: dict[str, Any], tmp_path: Path) -> None:
    folder = byte_level(tmp_path, ("<s>", "<pad>", "</s>", "<unk>", "<mask>"))
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "LayoutLMv3Tokenizer", **stated})
    with pytest.raises(CheckpointError, match="a special token's box is x0, y0, x1, y1"):
        runtime_files(folder, "layoutlmv3", {})
