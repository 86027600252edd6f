"""``precast run --save`` of tasks that make sound: a WAV file for each result."""

from __future__ import annotations

import sys
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from precast.runtime.cli.console import note
from precast.runtime.cli.drawn import check_writable, unwritable
from precast.runtime.errors import InputError

__all__ = ["SOUNDS", "Sounds", "write_wav"]

# Tasks whose results are sound.
SOUNDS = ("text-to-audio", "voice-conversion")


class Sounds:
    """Where sounds that are made go, in their order; all that can be is checked before the first is made.

    Args:
        inputs: texts or recordings; of those from stdin nobody knows how many there are. place: a file for the one
            result, or a folder, which is made, for any number.

    Raises:
        InputError: the place cannot be written.
    """

    def __init__(self, inputs: Sequence[str], place: Path) -> None:
        self._done = 0
        self._file = None if place.is_dir() or len(inputs) > 1 or "-" in inputs or not place.suffix else place
        if self._file is None:
            try:
                place.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise unwritable(place, error) from error
        elif place.suffix.lower() != ".wav":
            raise InputError(f"--save writes .wav here; received {place}. Or name a folder.")
        self._folder = place if self._file is None else place.parent
        check_writable(self._folder, place)

    def add(self, result: Any) -> None:
        """Write the next result.

        Raises:
            InputError: it cannot be written, or nobody knows how fast.
        """
        if result["sampling_rate"] is None:
            raise InputError(
                "--save needs to know how many samples are a second, and the model's config does not say. Give it: "
                "--param sampling_rate=22050, or what it was trained with."
            )
        self._done += 1
        target = self._folder / f"{self._done}.wav" if self._file is None else self._file
        try:
            write_wav(target, result["audio"], result["sampling_rate"])
        except OSError as error:
            raise unwritable(target, error) from error
        if sys.stderr.isatty():
            note(f"{self._done}: {target}")


def write_wav(path: Path, audio: np.ndarray, rate: int) -> None:
    """Sound [samples] or [channels, samples] of numbers between -1 and 1, as 16-bit PCM."""
    levels = np.rint(np.clip(np.atleast_2d(audio), -1, 1) * 32767).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(len(levels))
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(levels.T.tobytes())
