"""Pages in one call, against upstream's LayoutLMv3Processor: ids, boxes and masks exactly, pixels to 1e-6."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import transformers
from support import tiny_pages
from support.tokenizer_samples import write_json

import precast
from precast.export.heads import TOKEN_CLASSIFICATION
from precast.runtime.errors import InputError
from precast.runtime.processors.page import PageProcessor

WORDS = [word for word, _ in tiny_pages.word_boxes()]
BOXES = [box for _, box in tiny_pages.word_boxes()]
CALLS: list[dict[str, Any]] = [
    {"images": 1, "text": WORDS, "boxes": BOXES},
    {"images": 1, "text": "What is it?", "text_pair": WORDS, "boxes": BOXES, "return_token_type_ids": True},
    {"images": 2, "text": [WORDS, WORDS[:3]], "boxes": [BOXES, BOXES[:3]], "padding": True}
    | {"word_labels": [list(range(len(WORDS))), [0, 1, 2]]},
    {"images": 2, "text": ["What?", "Who is it?"], "text_pair": [WORDS, WORDS[2:]], "boxes": [BOXES, BOXES[2:]]}
    | {"padding": "max_length", "max_length": 30, "truncation": "only_second", "stride": 3}
    | {"return_overflowing_tokens": True},
]


@pytest.fixture(scope="module")
def both() -> tuple[Any, PageProcessor]:
    folder = tiny_pages.checkpoint("layoutlmv3")
    theirs = transformers.LayoutLMv3Processor(
        transformers.AutoImageProcessor.from_pretrained(folder, backend="pil"),
        transformers.AutoTokenizer.from_pretrained(folder),
    )
    ours = precast.AutoProcessor.from_pretrained(tiny_pages.artifact("layoutlmv3"))
    assert isinstance(ours, PageProcessor)
    assert set(ours.model_input_names) == set(theirs.model_input_names)
    return theirs, ours


@pytest.mark.parametrize("call", CALLS, ids=range(len(CALLS)))
def test_as_upstream(both: tuple[Any, PageProcessor], call: dict[str, Any]) -> None:
    theirs, ours = both
    pages = [tiny_pages.page()[0]] * call["images"]
    given = {**call, "images": pages if len(pages) > 1 else pages[0]}
    expected: Any = theirs(**given, return_tensors="np")
    found = ours(**given)
    assert set(found) == set(expected)
    for name, value in found.items():
        if name == "pixel_values":
            np.testing.assert_allclose(value, np.asarray(expected[name]), rtol=0, atol=1e-6)
        else:
            np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_words_are_labelled() -> None:
    """Token classification, by processor and model: a label for each token, and so for each word."""
    given = "layoutlmv3", TOKEN_CLASSIFICATION
    folder, path = tiny_pages.checkpoint(*given), tiny_pages.artifact(*given)
    kinds: Any = precast
    model = kinds.AutoModelForTokenClassification.from_pretrained(path)
    processor: Any = kinds.AutoProcessor.from_pretrained(path)
    picture, words, boxes = tiny_pages.page()[0], WORDS[:8], BOXES[:8]
    inputs = processor(picture, words, boxes=boxes)
    found = model(**inputs)
    kind = transformers.AutoModelForTokenClassification
    theirs = kind.from_pretrained(folder, attn_implementation="eager").eval()
    reader = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    both = transformers.LayoutLMv3Processor(reader, tokenizer)
    expected = theirs(**both(picture, words, boxes=boxes, return_tensors="pt")).logits.detach().numpy()
    assert found.logits.shape == (*inputs["input_ids"].shape, 2)
    np.testing.assert_allclose(found.logits, expected, rtol=0, atol=2e-4)
    with pytest.raises(InputError, match="input 'pixel_values' is needed"):
        model(**{name: value for name, value in inputs.items() if name != "pixel_values"})
    with pytest.raises(InputError, match=r"bbox of token 0 of row 0 is \[0, 0, 1001, 0\], and a box is x0, y0, x1, y1"):
        model(**{**inputs, "bbox": inputs["bbox"] + np.array([0, 0, 1001, 0])})


def test_words_that_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(shutil.copytree(tiny_pages.checkpoint("layoutlmv3"), tmp_path / "reads"))
    settings = {"image_processor_type": "LayoutLMv3ImageProcessor", "size": {"height": 20, "width": 20}}
    write_json(folder / "preprocessor_config.json", settings)
    ours: Any = precast.AutoProcessor.from_pretrained(folder)
    read = {"text": ["Total:", "50"], "left": [10, 60], "top": [5, 5], "width": [40, 20], "height": [9, 9]}
    monkeypatch.setitem(sys.modules, "pytesseract", SimpleNamespace(image_to_data=lambda *_, **__: read))
    page = tiny_pages.page()[0]
    words, boxes = ["Total:", "50"], [[25, 20, 125, 58], [150, 20, 200, 58]]
    tokenizer: Any = precast.AutoTokenizer.from_pretrained(folder)
    for given, same in (({}, {"text": words}), ({"text": "What?"}, {"text": ["What?"], "text_pair": [words]})):
        found = ours(page, **given)
        expected = tokenizer(**same, boxes=[boxes] if given else boxes, return_tensors="np")
        assert list(found) == [*expected, "pixel_values"]
        assert all(np.array_equal(found[name], expected[name]) for name in expected)
    for what in ("boxes", "word_labels"):
        with pytest.raises(InputError, match=rf"reads the words of a page \(apply_ocr\), so that no {what} are given"):
            ours(page, **{what: boxes})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"Words of a page are not read here \(apply_ocr false\)"),
        ({"text": WORDS}, "Words of a page stand in boxes, and none are given"),
        ({"text": [WORDS, WORDS], "boxes": [BOXES, BOXES]}, "received 1 pictures, words of 2"),
        ({"text": WORDS, "boxes": BOXES[1:]}, f"received {len(WORDS)} words and {len(WORDS) - 1} boxes"),
        ({"text": WORDS, "boxes": BOXES, "return_tensors": "pt"}, "return_tensors can be 'np' here"),
    ],
)
def test_what_is_refused(both: tuple[Any, PageProcessor], given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        both[1](tiny_pages.page()[0], **given)
