"""Features of a recording of any length that are made as they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np

from precast.runtime.errors import InputError
from precast.runtime.processors.audio_steps import LogMel

__all__ = ["PassingFeatures"]

Array: TypeAlias = "np.ndarray[Any, Any]"


class PassingFeatures:
    """[bins, frames] of a recording that is read twice: how loud it is, and how long, says the first time; the second
    time it is read as its columns are asked for. What is in front of those asked for last is read anew.

    Args:
        levels: reads the recording from its beginning on, as `LogMel.levels`.
    """

    ndim = 2

    def __init__(self, levels: Callable[[], Iterator[Array]]) -> None:
        self._levels = levels
        self._loudest, frames, bins = -np.inf, 0, 0
        for block in levels():
            self._loudest = max(self._loudest, float(block.max()))
            bins, frames = block.shape[0], frames + block.shape[1]
        self.shape = (bins, frames)
        self._begin()

    def _begin(self) -> None:
        self._coming = self._levels()
        self._held = np.zeros((self.shape[0], 0), np.float32)
        self._at = 0  # the first column that is held

    def __getitem__(self, where: tuple[slice, slice], /) -> Array:
        _, columns = where
        start, stop, _ = columns.indices(self.shape[1])
        stop = max(start, stop)
        if start < self._at:
            self._begin()
        while self._at + self._held.shape[1] < stop:
            block = next(self._coming, None)
            if block is None:
                raise InputError("A recording became shorter while it was heard. Keep it as it is until it has been.")
            ready = LogMel.clear(block, self._loudest)
            skipped = max(0, min(start - self._at, self._held.shape[1]))
            self._held = np.concatenate((self._held[:, skipped:], ready), axis=1)
            self._at += skipped
        return self._held[:, start - self._at : stop - self._at]
