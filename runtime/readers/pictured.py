"""Prompts that have pictures among their tokens."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from precast.runtime.errors import InputError
from precast.runtime.processors.image import open_picture
from precast.runtime.processors.joint import JointProcessor, Places, pictures_of
from precast.runtime.readers.base import Row
from precast.runtime.readers.chat import Chat
from precast.runtime.readers.image import ImageReader
from precast.runtime.readers.text import PromptReader

__all__ = ["PicturedReader"]


class PicturedReader(PromptReader):
    """Texts with their pictures, ``{"images": ..., "text": ...}``, and chats whose messages hold pictures.

    Raises:
        InputError: there is no image processor, or no tokenizer.
    """

    parts = ("image_processor", "tokenizer")  # type: ignore[assignment] # of a tuple of any length
    perceived = ImageReader
    together = 1
    window = ImageReader.window

    def __init__(self, model: Any, *, image_processor: Any = None, **options: Any) -> None:
        super().__init__(model, **options)
        self.image_processor = self.processor(model, "image_processor", image_processor)
        said = model.artifact.reading("join")
        places = Places.from_data(said) if "token" in said else None
        self.joint = JointProcessor(self.image_processor, self.tokenizer, places)

    def read(self, item: Any, template: Mapping[str, Any]) -> Row:
        """One prompt as model inputs; ``template``: arguments of a chat's template.

        Raises:
            InputError: it is neither a text with pictures nor a chat.
        """
        if isinstance(item, Chat):
            pictures = [self._open(each) for each in pictures_of(item.messages)]
            text = self.joint.apply_chat_template(item.messages, **template)
            bos = self.tokenizer.bos_token
            options: dict[str, Any] = {"add_special_tokens": not (bos is not None and text.startswith(bos))}
        elif isinstance(item, Mapping) and isinstance(item.get("text"), str):
            given = item.get("images", item.get("image"))
            several = given if isinstance(given, (list, tuple)) else [] if given is None else [given]
            pictures, text, options = [self._open(each) for each in several], item["text"], {}
        else:
            raise InputError(
                f"{self.task} takes a text with its pictures, {{'images': [...], 'text': '...'}}, or a chat; received "
                f"{type(item).__name__}: {item!r:.80}."
            )
        made = self.joint(pictures or None, [text], **options)
        row = self.row({"input_ids": made.pop("input_ids")[0]})
        beside = {name: value for name, value in made.items() if name not in self.tokenizer.model_input_names}
        return row | beside

    def _open(self, picture: Any) -> Any:
        return open_picture(picture, upright=True)

    def beside(self, rows: Sequence[Row]) -> dict[str, np.ndarray]:
        """What belongs to the pictures of rows, in order."""
        names = [name for name in self.image_processor.model_input_names if any(name in row for row in rows)]
        return {name: np.concatenate([row[name] for row in rows if name in row]) for name in names}

    def collate(self, rows: Sequence[Row]) -> dict[str, np.ndarray]:
        return super().collate(rows) | self.beside(rows)

    def group(self, row: Row) -> Hashable:
        """Pictures of one batch have one size."""
        port = self.image_processor.port
        return None if port not in row else row[port].shape[1:]
