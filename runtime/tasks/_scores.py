"""Scores of labels, as every classification makes them of its logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from precast.runtime.errors import InputError, closest
from precast.runtime.tasks.base import sigmoid, softmax

__all__ = ["read_function", "read_top_k", "scores_of"]

_FUNCTIONS = {"none": lambda logits: logits, "sigmoid": sigmoid, "softmax": softmax}


def read_top_k(value: Any, *, instead: str = "") -> int | None:
    """``top_k``: how many labels, or None for all."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise InputError(f"top_k must be an integer of at least 0{instead}; received {value!r}.")
    top_k: int | None = value
    return top_k


def read_function(value: Any) -> str:
    """``function_to_apply``: what makes scores of logits."""
    function = str(getattr(value, "value", value)).lower()
    if function not in _FUNCTIONS:
        raise InputError(
            f"function_to_apply must be none, sigmoid or softmax; received {value!r}. "
            f"{closest(function, _FUNCTIONS)}".rstrip()
        )
    return function


def scores_of(logits: np.ndarray, function: str | None, config: Mapping[str, Any]) -> np.ndarray:
    """Scores of logits ``[L]``. Without a function: the logits of a regression, a sigmoid where labels exclude none or
    there is one, a softmax otherwise."""
    if function is None:
        problem = config.get("problem_type")
        several = problem == "multi_label_classification" or len(logits) == 1
        function = "none" if problem == "regression" else "sigmoid" if several else "softmax"
    scores: np.ndarray = _FUNCTIONS[function](logits)
    return scores
