"""What tasks of one recording share: how they are called, and a row for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from precast.runtime.errors import InputError
from precast.runtime.readers.audio import AudioReader
from precast.runtime.tasks.base import Request, Task

__all__ = ["SoundTask"]


class SoundTask(Task[AudioReader]):
    """Called with a recording or several."""

    reads = AudioReader

    def __call__(self, inputs: Any = None, **parameters: Any) -> Any:
        if inputs is None:
            raise InputError(f"{self.name} needs a recording, or a list of them.")
        return super().__call__(inputs, **parameters)

    def prepare(self, items: Sequence[Any], parameters: Mapping[str, Any]) -> list[Request]:
        return [Request([self.reader.row(item)]) for item in items]
