"""Words of pages by Tesseract: what it found is read as upstream reads it; it need not be installed."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers.models.layoutlmv3 import image_processing_pil_layoutlmv3 as theirs

from precast.export.image_reading import image_reading
from precast.export.processor_files import FILES
from precast.runtime.errors import ConfigError, DependencyError, InputError
from precast.runtime.processors.image import ImageProcessor

FOUND = {
    "text": ["", "Total:", " ", "50", "\u20ac"],
    "left": [0, 13, 3, 131, 200],
    "top": [0, 7, 3, 7, 9],
    "width": [317, 101, 2, 33, 117],
    "height": [211, 20, 2, 20, 202],
}


class _NotFoundError(EnvironmentError):
    pass


class _FailedError(RuntimeError):
    pass


def fake(outcome: Any, asked: list[Any]) -> ModuleType:
    def image_to_data(picture: Any, lang: str | None, output_type: str, config: str) -> Any:
        asked.append((picture.size, lang, output_type, config))
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    made: Any = SimpleNamespace(image_to_data=image_to_data, TesseractNotFoundError=_NotFoundError)
    made.TesseractError = _FailedError
    return made  # type: ignore[no-any-return]


def processor(**stated: Any) -> ImageProcessor:
    settings = {"image_processor_type": "LayoutLMv3ImageProcessor", "size": 20, **stated}
    return ImageProcessor.from_data({**image_reading({FILES[1]: settings}.get, "layoutlmv3"), "port": "pixel_values"})


def test_words_and_boxes_are_upstreams(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    module = fake(FOUND, asked)
    monkeypatch.setitem(sys.modules, "pytesseract", module)
    monkeypatch.setattr(theirs, "pytesseract", module)
    monkeypatch.setattr(theirs, "requires_backends", lambda *_: None)
    page = Image.new("RGB", (317, 211), "white")
    stated: dict[str, Any] = {"ocr_lang": "deu", "tesseract_config": "--psm 6"}
    expected = theirs.LayoutLMv3ImageProcessorPil(size={"height": 20, "width": 20}, **stated)(
        [page, page], return_tensors="np"
    )
    found: Any = processor(**stated)([page, page])
    assert list(found) == ["pixel_values", "words", "boxes"]
    np.testing.assert_array_equal(found.pixel_values, expected["pixel_values"])
    assert found.words == expected["words"] == [["Total:", "50", "\u20ac"]] * 2
    assert found.boxes == expected["boxes"]
    assert asked == [((317, 211), "deu", "dict", "--psm 6")] * 4
    assert list(processor(apply_ocr=False)(page)) == ["pixel_values"]


@pytest.mark.parametrize(
    ("outcome", "error", "message"),
    [
        (None, DependencyError, r"pytesseract, which is not installed.*precast\[ocr\].*word_boxes=\[\(word, box\)"),
        (_NotFoundError("no"), DependencyError, "pytesseract is installed, and the program tesseract is not"),
        (_FailedError("lang xyz"), InputError, "Tesseract cannot read the page: lang xyz"),
    ],
)
def test_what_cannot_be_read_is_said(
    outcome: Any, error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pytesseract", None if outcome is None else fake(outcome, []))
    with pytest.raises(error, match=message):
        processor()(Image.new("RGB", (30, 20)))


def test_settings_are_texts() -> None:
    with pytest.raises(ConfigError, match="ocr_lang"):
        processor(ocr_lang=3)
    with pytest.raises(ConfigError, match=r"processing\.image\.ocr has a language and a config, which are texts"):
        ImageProcessor.from_data({"steps": [], "port": "pixel_values", "ocr": {"language": 3}})
