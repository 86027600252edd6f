"""The words of a page and where they stand, read by Tesseract where that is installed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from precast.runtime.errors import ConfigError, DependencyError, InputError
from precast.runtime.processors.page_boxes import PAGE

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["PageOcr"]

_INSTEAD = 'Install both (pip install "precast[ocr]", and the program tesseract), or give words and boxes yourself'


@dataclass(frozen=True)
class PageOcr:
    """Reads pages in a ``language`` (None: English), with options of Tesseract's own (``config``)."""

    language: str | None = None
    config: str = ""

    @classmethod
    def from_data(cls, said: Mapping[str, Any]) -> PageOcr:
        """From ``processing["image"]["ocr"]`` of a manifest."""
        language, config = said.get("language"), said.get("config", "")
        if not (language is None or isinstance(language, str)) or not isinstance(config, str):
            raise ConfigError(f"processing.image.ocr has a language and a config, which are texts; it is {dict(said)}")
        return cls(language, config)

    def __call__(self, picture: Image) -> tuple[list[str], list[list[int]]]:
        """The words of a page and their boxes x0, y0, x1, y1, in parts of it: it is 1000 wide and high.

        Raises:
            DependencyError: pytesseract, or Tesseract itself, is not installed.
        """
        try:
            import pytesseract
        except ImportError as error:
            raise DependencyError(
                f"Words of a page are read by Tesseract through pytesseract, which is not installed. {_INSTEAD} "
                "(word_boxes=[(word, box), ...] of document-question-answering; apply_ocr false of a processor)."
            ) from error
        try:
            found = pytesseract.image_to_data(picture, lang=self.language, output_type="dict", config=self.config)
        except pytesseract.TesseractNotFoundError as error:
            raise DependencyError(f"pytesseract is installed, and the program tesseract is not. {_INSTEAD}.") from error
        except pytesseract.TesseractError as error:
            raise InputError(f"Tesseract cannot read the page: {error!s:.300}") from error
        places = zip(*(found[name] for name in ("text", "left", "top", "width", "height")), strict=True)
        read = [(word, (x, y, x + width, y + height)) for word, x, y, width, height in places if word.strip()]
        sides = picture.size * 2
        # Cut as upstream cuts them.
        boxes = [[int(PAGE * (at / side)) for at, side in zip(box, sides, strict=True)] for _, box in read]
        return [word for word, _ in read], boxes
