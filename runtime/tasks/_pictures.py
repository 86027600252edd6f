"""What tasks of one picture share: how they are called, and a row for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from precast.runtime.errors import InputError
from precast.runtime.readers.image import ImageReader
from precast.runtime.tasks.base import Request, Task

__all__ = ["PictureTask"]


class PictureTask(Task[ImageReader]):
    """Called with a picture or several, which upstream also takes as ``images``."""

    reads = ImageReader

    def __call__(self, inputs: Any = None, *, images: Any = None, **parameters: Any) -> Any:
        inputs = images if inputs is None else inputs
        if inputs is None:
            raise InputError(f"{self.name} needs a picture, or a list of them.")
        return super().__call__(inputs, **parameters)

    def prepare(self, items: Sequence[Any], parameters: Mapping[str, Any]) -> list[Request]:
        return [Request([self.reader.row(item)]) for item in items]
