"""The caller's own functions, called as Transformers calls them: with ids [R, L], padded on the left, and scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from precast.runtime.arguments import listed
from precast.runtime.backends.base import Array
from precast.runtime.errors import InputError
from precast.runtime.generation.history import History

__all__ = ["CriterionCallback", "LogitsCallback", "as_callables", "rectangle"]


def rectangle(history: History, pad: int) -> Array:
    """[R, L] int64, the rows of a history with padding on the left; the caller's to change."""
    width = int(history.lengths.max(initial=0))
    whole = np.full((history.rows, width), pad, dtype=np.int64)
    for index in range(history.rows):
        row = history.row(index)
        whole[index, width - len(row) :] = row
    return whole


class LogitsCallback:
    """A processor out of ``function(input_ids [R, L], scores [R, V]) -> scores``, of NumPy arrays."""

    def __init__(self, function: Callable[[Array, Array], Any], pad: int) -> None:
        self._function, self._pad = function, pad

    def __call__(self, logits: Array, history: History) -> None:
        """
        Raises:
            InputError: what the function gives back is not shaped like the scores it was given.
        """
        changed = np.asarray(self._function(rectangle(history, self._pad), logits))
        if changed.shape != logits.shape:
            raise InputError(
                f"A logits processor returns scores shaped like those it is given, {list(logits.shape)}; "
                f"{self._function!r} returned shape {list(changed.shape)}."
            )
        logits[:] = changed


class CriterionCallback:
    """A stopping criterion out of ``function(input_ids [R, L], scores) -> bool, or [R] of them``.

    ``scores`` is the tuple of what ``output_scores`` keeps, or None."""

    def __init__(
        self, function: Callable[[Array, Any], Any], pad: int, scores: Callable[[], tuple[Array, ...] | None]
    ) -> None:
        self._function, self._pad, self._scores = function, pad, scores

    def __call__(self, history: History) -> Array:
        """
        Raises:
            InputError: what the function gives back is neither one truth value nor one a row.
        """
        verdict = np.asarray(self._function(rectangle(history, self._pad), self._scores()))
        if verdict.shape not in ((), (1,), (history.rows,)):
            raise InputError(
                f"A stopping criterion returns one truth value, or one a row ({history.rows}); {self._function!r} "
                f"returned shape {list(verdict.shape)}."
            )
        return np.broadcast_to(verdict.astype(bool), (history.rows,))


def as_callables(value: Any, name: str) -> list[Callable[..., Any]]:
    """One callable, or several.

    Raises:
        InputError: something in it cannot be called.
    """
    if value is None:
        return []
    # Upstream's lists of processors are callable themselves, and are lists.
    value = listed(value)
    functions = list(value) if isinstance(value, Iterable) else [value]
    for function in functions:
        if not callable(function):
            raise InputError(f"{name} is a callable or a list of callables; received {type(function).__name__}.")
    return functions
