"""Pictures or recordings beside texts: one input is one of these, and what is asked of it are texts."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from precast.runtime import arguments
from precast.runtime.readers.audio import AudioReader
from precast.runtime.readers.base import Reader, Row
from precast.runtime.readers.image import ImageReader
from precast.runtime.readers.text import TextReader

__all__ = ["AskedReader", "HeardReader", "JointReader"]


class JointReader(Reader):
    """Reads inputs as pictures, and texts that belong to them with ``text``.

    Raises:
        InputError: there is no image processor, or no tokenizer.
    """

    perceived: ClassVar[type[ImageReader] | type[AudioReader]] = ImageReader
    parts = (*ImageReader.parts, *TextReader.parts)
    window, together = ImageReader.window, ImageReader.together

    def __init__(
        self,
        model: Any,
        *,
        task: str,
        too_long: str = "Shorten the text.",
        tokenizer: Any = None,
        **processor: Any,
    ) -> None:
        super().__init__(model, task=task, too_long=too_long)
        self.inputs: Any = self.perceived(model, task=task, **processor)
        self.text = TextReader(model, task=task, too_long=too_long, tokenizer=tokenizer)
        self.image_processor: Any = getattr(self.inputs, "image_processor", None)
        self.tokenizer = self.text.tokenizer

    def plain(self, inputs: Any) -> Any:
        return self.inputs.plain(inputs)

    def single(self, inputs: Any) -> bool:
        one: bool = self.inputs.single(inputs)
        return one

    def row(self, item: Any) -> Row:
        """One picture, or one recording, as model inputs."""
        row: Row = self.inputs.row(item)
        return row

    def collate(self, rows: Sequence[Row]) -> dict[str, np.ndarray]:
        batch: dict[str, np.ndarray] = self.inputs.collate(rows)
        return batch

    def cost(self, row: Row) -> int:
        cost: int = self.inputs.cost(row)
        return cost

    def group(self, row: Row) -> Hashable:
        group: Hashable = self.inputs.group(row)
        return group


class HeardReader(JointReader):
    """Reads inputs as recordings."""

    perceived = AudioReader
    parts = (*AudioReader.parts, *TextReader.parts)
    window = AudioReader.window


class AskedReader(JointReader):
    """Reads inputs as questions about pictures, ``{"image": ..., "question": ...}``: both are one row."""

    def plain(self, inputs: Any) -> Any:
        return arguments.listed(inputs)

    def single(self, inputs: Any) -> bool:
        return isinstance(inputs, Mapping) or not isinstance(inputs, Iterable)

    def asked(self, picture: Row, encoding: Mapping[str, Any], index: int) -> Row:
        """A picture's own row, and question ``index`` of an encoding."""
        return {**self.text.row(encoding, index), **picture}

    def collate(self, rows: Sequence[Row]) -> dict[str, np.ndarray]:
        words = self.text.collate([{name: row[name] for name in self.text.inputs if name in row} for row in rows])
        seen = [{name: value for name, value in row.items() if name not in words} for row in rows]
        return {**words, **self.inputs.collate(seen)}

    def cost(self, row: Row) -> int:
        seen: int = self.inputs.cost(row)
        return seen + self.text.cost(row)
