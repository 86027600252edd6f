"""What every kind of recognition says of itself, and recordings that are heard in parts."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from precast.runtime.errors import InputError
from precast.runtime.fields import is_number
from precast.runtime.readers.audio import AudioReader
from precast.runtime.tasks.base import Request, Row

__all__ = ["Part", "Recogniser", "SoundRow", "Windows", "read_windows"]


class Part(NamedTuple):
    """Samples of a recording that are heard at once, the first and the last of which only lend context."""

    samples: int
    left: int
    right: int


class SoundRow(dict[str, Any]):
    """A row that knows which `Part` of its recording it is, None: all of it; and how many of its frames are no silence
    behind a short one, 0: all."""

    part: Part | None = None
    real: int = 0


class Recogniser:
    """From recordings to results, for one loaded model; the parameters are those that `check` has let through."""

    heard: Callable[[float, float, str], None] | None = None
    """Told how many seconds of a recording have been heard, of how many, and the text so far."""

    def __init__(self, model: Any, reader: AudioReader) -> None:
        self.model = model
        self.reader = reader

    @classmethod
    def fits(cls, model: Any) -> bool:
        """Whether it reads what this model gives."""
        raise NotImplementedError

    def check(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of a call, validated; raises InputError."""
        raise NotImplementedError

    def prepare(self, item: Any, parameters: Mapping[str, Any]) -> Request:
        """One recording as rows."""
        raise NotImplementedError

    def together(self, row: Row) -> Hashable:
        """Rows share a batch only where this is equal, and the reader agrees."""
        return None

    def collate(self, rows: Sequence[Row]) -> Mapping[str, Any]:
        """Rows as one batch of what is computed."""
        return self.reader.collate(rows)

    def compute(
        self, batch: Mapping[str, Any], rows: Sequence[Row], parameters: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        outputs: Mapping[str, Any] = self.model(**batch)
        return outputs

    def keep(self, outputs: Mapping[str, Any], index: int, row: Row) -> Any:
        """What of a row of a batch is needed for the result."""
        raise NotImplementedError

    def finish(self, request: Request, kept: list[Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
        """``{"text": ...}``, with ``chunks`` where timestamps are asked for."""
        raise NotImplementedError


class Windows(NamedTuple):
    """Seconds that are heard at once, and how many of them at either end lend context."""

    length: float
    left: float
    right: float

    def parts(self, blocks: Iterable[np.ndarray], rate: int, step: int) -> Iterator[tuple[Part, np.ndarray]]:
        """The parts of a recording that comes in blocks, and their samples, in memory that does not grow with it;
        lengths are multiples of ``step`` samples."""
        length, left, right = (round(seconds * rate / step) * step for seconds in self)
        if length <= left + right:
            raise InputError(
                f"chunk_length_s is longer than both strides together, by {step / rate:g} s at least; received "
                f"{self.length:g} with strides of {self.left:g} and {self.right:g}."
            )
        return _parts(blocks, length, left, right)


def _parts(blocks: Iterable[np.ndarray], length: int, left: int, right: int) -> Iterator[tuple[Part, np.ndarray]]:
    front = 0  # samples of the next part that others have heard
    held: list[np.ndarray] = []
    count = 0
    for block in blocks:
        held.append(block)
        count += len(block)
        if count <= length:
            continue
        sound = np.concatenate(held) if len(held) > 1 else block
        start = 0
        while count - start > length:  # more comes: this is not the last one
            yield Part(length, front, right), sound[start : start + length]
            start, front = start + length - left - right, left
        held, count = [sound[start:]], count - start
    if count > front:  # otherwise the rest has been heard
        yield Part(count, front, 0), np.concatenate(held) if len(held) > 1 else held[0]


_MOST_SECONDS = 3600.0


def read_windows(chunk_length_s: Any, stride_length_s: Any) -> Windows | None:
    """What a call says of windows; None: recordings are heard whole.

    Raises:
        InputError: one is no number of seconds.
    """

    def seconds(name: str, value: Any) -> float:
        if not is_number(value) or not 0 <= value <= _MOST_SECONDS:
            raise InputError(f"{name} is a number of seconds from 0 to {_MOST_SECONDS:g}; received {value!r:.80}.")
        return float(value)

    length = 0.0 if chunk_length_s is None else seconds("chunk_length_s", chunk_length_s)
    if stride_length_s is None:
        strides = [length / 6] * 2
    elif isinstance(stride_length_s, (list, tuple)) and len(stride_length_s) == 2:
        strides = [seconds("stride_length_s", one) for one in stride_length_s]
    else:
        strides = [seconds("stride_length_s", stride_length_s)] * 2
    return Windows(length, *strides) if length else None
