"""Pictures beside texts: one input is a picture, and what is asked of it are texts."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from precast.runtime.readers.base import Reader, Row
from precast.runtime.readers.image import ImageReader
from precast.runtime.readers.text import TextReader

__all__ = ["JointReader"]


class JointReader(Reader):
    """Reads inputs as ``image`` does, and texts that belong to them with ``text``.

    Raises:
        InputError: there is no image processor, or no tokenizer.
    """

    parts = (*ImageReader.parts, *TextReader.parts)
    window = ImageReader.window

    def __init__(
        self,
        model: Any,
        *,
        task: str,
        too_long: str = "Shorten the text.",
        image_processor: Any = None,
        tokenizer: Any = None,
    ) -> None:
        super().__init__(model, task=task, too_long=too_long)
        self.image = ImageReader(model, task=task, image_processor=image_processor)
        self.text = TextReader(model, task=task, too_long=too_long, tokenizer=tokenizer)
        self.image_processor, self.tokenizer = self.image.image_processor, self.text.tokenizer

    def plain(self, inputs: Any) -> Any:
        return self.image.plain(inputs)

    def single(self, inputs: Any) -> bool:
        return self.image.single(inputs)

    def row(self, item: Any) -> Row:
        """One picture as model inputs."""
        return self.image.row(item)

    def collate(self, rows: Sequence[Row]) -> dict[str, np.ndarray]:
        return self.image.collate(rows)

    def cost(self, row: Row) -> int:
        return self.image.cost(row)

    def group(self, row: Row) -> Hashable:
        return self.image.group(row)
