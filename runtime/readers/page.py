"""Pages: their words with boxes, by OCR where they are not given, and their picture where a model sees it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from precast.runtime import arguments, batching
from precast.runtime.errors import InputError
from precast.runtime.processors.page_boxes import checked_boxes, token_boxes
from precast.runtime.processors.page_ocr import PageOcr
from precast.runtime.readers.base import Reader, Row
from precast.runtime.readers.image import PATCH, ImageReader
from precast.runtime.readers.text import TextReader

__all__ = ["Page", "PageReader"]


@dataclass(frozen=True)
class Page:
    """Words, their boxes, and what a model sees of the page, nothing where it does not look."""

    words: list[str]
    boxes: list[list[int]]
    seen: Row


class PageReader(Reader):
    """Pages as pictures, or as words with boxes, ``[(word, (x0, y0, x1, y1)), ...]`` in parts of 1000 of the page.

    Raises:
        InputError: there is no tokenizer, or the model sees pages and there is no image processor.
    """

    parts = (*ImageReader.parts, *TextReader.parts)
    window = ImageReader.window

    def __init__(
        self,
        model: Any,
        *,
        task: str,
        too_long: str = "Lower max_seq_len.",
        image_processor: Any = None,
        tokenizer: Any = None,
    ) -> None:
        super().__init__(model, task=task, too_long=too_long)
        ports = model.component.inputs
        self.boxes = next((port.name for port in ports if port.kind == "boxes"), None)
        self._pixels = next((port.name for port in ports if port.kind == "pixels"), None)
        self._names = model.input_names
        self.text = TextReader(model, task=task, too_long=too_long, tokenizer=tokenizer)
        self.tokenizer = self.text.tokenizer
        sees = self._pixels is not None or image_processor is not None
        self.image = ImageReader(model, task=task, image_processor=image_processor) if sees else None
        self.image_processor = None if self.image is None else self.image.image_processor

    def page(self, picture: Any, word_boxes: Any, ocr: PageOcr | None = None) -> Page:
        """One page.

        Args:
            picture: of it; it is opened only where it is looked at.
            word_boxes: its words with their boxes; None: they are read.
            ocr: reads them; None: as the artifact's image processor does, or Tesseract as it is.

        Raises:
            InputError: there is neither picture nor words; a word has no box, or one outside the page.
            DependencyError: they are to be read, and Tesseract is not installed.
        """
        if picture is None and (self._pixels is not None or word_boxes is None):
            needs = "sees the page: give its picture" if word_boxes is not None else "reads a page: give its picture, "
            instead = "" if word_boxes is not None else "of which words are read by OCR, or its words with boxes"
            raise InputError(f"{self.task} {needs}{instead} (image=..., word_boxes=[(word, box), ...]).")
        opened = None
        if self._pixels is not None or word_boxes is None:
            from precast.runtime.processors.image import open_picture

            opened = open_picture(picture, upright=True)
        seen: Row = {}
        if self._pixels is not None and self.image_processor is not None:
            seen = {self._pixels: self.image_processor.pixels(opened)}
        if word_boxes is not None:
            words, boxes = _apart(word_boxes)
        else:
            reads = ocr or getattr(self.image_processor, "ocr", None) or PageOcr()
            assert opened is not None
            words, boxes = reads(opened)
        return Page(words, boxes, seen)

    def encode(self, question: str, page: Page, **options: Any) -> Any:
        """A question and the words of its page as one sample, in windows where it is long; ``bbox`` is each token's."""
        if "bbox" in self.tokenizer.model_input_names:
            encoding = self.tokenizer([question], [page.words], boxes=[page.boxes], **options)
        else:
            encoding = self.tokenizer(question.split(), page.words, is_split_into_words=True, **options)
            ends = self.tokenizer.sep_token_id
            encoding["bbox"] = [token_boxes(row, page.boxes, ends) for row in encoding.encodings]
        return encoding

    def row(self, encoding: Any, index: int, page: Page) -> Row:
        """A window as model inputs."""
        checked = self.text.row(encoding, index)
        named = {name: np.asarray(encoding[name][index], np.int64) for name in self._names if name in encoding}
        return {**checked, **named, **page.seen}

    def collate(self, rows: Sequence[Row]) -> dict[str, np.ndarray]:
        return batching.pad(rows, fill=self.text.fill)

    def cost(self, row: Row) -> int:
        height, width = row[self._pixels].shape[1:] if self._pixels is not None else (0, 0)
        return len(row["input_ids"]) + int(height * width) // PATCH

    def group(self, row: Row) -> Hashable:
        return None if self._pixels is None else row[self._pixels].shape

    def span(self, row: Row) -> slice:
        return slice(len(row["input_ids"]))


def _apart(word_boxes: Any) -> tuple[list[str], list[list[int]]]:
    """Words and boxes of ``[(word, box), ...]``."""
    given = arguments.listed(word_boxes)
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, (list, tuple)):
        raise InputError(
            "word_boxes is a list of words with their boxes, [(word, (x0, y0, x1, y1)), ...]; received "
            f"{type(given).__name__}: {given!r:.80}."
        )
    for number, pair in enumerate(given):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not isinstance(pair[0], str):
            raise InputError(
                f"word_boxes is a list of words with their boxes, [(word, (x0, y0, x1, y1)), ...]; entry {number} is "
                f"{pair!r:.80}."
            )
    words = [word for word, _ in given]
    return words, checked_boxes(words, [box for _, box in given])
