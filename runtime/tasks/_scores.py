"""Scores of labels, as every classification makes them of its logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from precast.runtime.errors import InputError, closest
from precast.runtime.tasks.base import id2label, sigmoid, softmax

__all__ = ["UNSET", "best_first", "labelled", "read_scoring", "scores_of"]

UNSET: Any = object()
"""``top_k`` where it is not given: None asks for all labels."""
_USUAL = 5  # labels
_FUNCTIONS = {"none": lambda logits: logits, "sigmoid": sigmoid, "softmax": softmax}


def read_scoring(top_k: Any, function: Any) -> dict[str, Any]:
    """``top_k``, how many labels, or None for all, and ``function_to_apply``, what makes scores of logits: those of the
    two that are given, as ``top_k`` and ``function``."""
    checked: dict[str, Any] = {}
    if top_k is not UNSET:
        if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 0):
            raise InputError(f"top_k must be an integer of at least 0, or None for all labels; received {top_k!r}.")
        checked["top_k"] = top_k
    if function is not None:
        name = str(getattr(function, "value", function)).lower()
        if name not in _FUNCTIONS:
            raise InputError(
                f"function_to_apply must be none, sigmoid or softmax; received {function!r}. "
                f"{closest(name, _FUNCTIONS)}".rstrip()
            )
        checked["function"] = name
    return checked


def scores_of(logits: np.ndarray, function: str | None, config: Mapping[str, Any]) -> np.ndarray:
    """Scores of logits ``[L]``. Without a function: the logits of a regression, a sigmoid where labels exclude none or
    there is one, a softmax otherwise."""
    if function is None:
        problem = config.get("problem_type")
        several = problem == "multi_label_classification" or len(logits) == 1
        function = "none" if problem == "regression" else "sigmoid" if several else "softmax"
    scores: np.ndarray = _FUNCTIONS[function](logits)
    return scores


def labelled(
    logits: np.ndarray, parameters: Mapping[str, Any], config: Mapping[str, Any], *, exclusive: bool = False
) -> list[dict[str, Any]]:
    """The best labels of one picture, video or recording, of logits ``[L]`` and what `read_scoring` made of a call.

    ``exclusive``: where neither call nor config says how scores are made, labels exclude each other, one alone, too.
    """
    function = parameters.get("function")
    if function is None and exclusive and config.get("problem_type") is None:
        function = "softmax"
    scores = scores_of(logits, function, config)
    return best_first(scores, id2label(config, len(scores)), parameters.get("top_k", _USUAL))


def best_first(scores: np.ndarray, labels: Sequence[Any], top_k: int | None) -> list[dict[str, Any]]:
    """The ``top_k`` labels of the largest scores, or all of them; equal ones in the order of the labels."""
    order = np.argsort(-scores, kind="stable")[:top_k]
    return [{"label": labels[index], "score": float(scores[index])} for index in order]
