"""Fill-mask: the most likely tokens at each mask of a text."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from precast.runtime import arguments
from precast.runtime.errors import InputError
from precast.runtime.readers.text import TextReader, tokenizer_options
from precast.runtime.tasks.base import Request, Row, Task, softmax

__all__ = ["PIPELINE", "FillMask"]

_log = logging.getLogger(__name__)


class FillMask(Task[TextReader]):
    """Text with one mask -> ``[{"score", "token", "token_str", "sequence"}]``; with several, one such list a mask.

    Scores are over the whole vocabulary, also where ``targets`` limit the answers. A list of one text gives the
    result itself, as upstream does.
    """

    name = "fill-mask"
    reads = TextReader
    too_long = "Pass tokenizer_kwargs={'truncation': True} to cut it."
    # Logits are as wide as the vocabulary: 512 tokens of 30,000 words are 60 MB.
    cpu_budget = 512

    def __init__(self, model: Any, **defaults: Any) -> None:
        super().__init__(model, **defaults)
        if self.tokenizer.mask_token_id is None:
            raise InputError("fill-mask: The tokenizer does not define a `mask_token`.")

    def __call__(self, inputs: Any, **parameters: Any) -> Any:
        results = super().__call__(inputs, **parameters)
        return results[0] if isinstance(inputs, list) and len(inputs) == 1 else results

    def check(
        self,
        *,
        top_k: int | None = None,
        targets: str | Sequence[str] | None = None,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        checked: dict[str, Any] = {}
        if top_k is not None:
            if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 0:
                raise InputError(f"top_k must be an integer of at least 0; received {top_k!r}.")
            checked["top_k"] = top_k
        if targets is not None:
            checked["targets"] = self._target_ids(
                [targets] if isinstance(targets, str) else arguments.entries("targets", targets, "words")
            )
        if tokenizer_kwargs is not None:
            checked["options"] = tokenizer_options(self.name, tokenizer_kwargs)
        return checked

    def prepare(self, items: Sequence[Any], parameters: Mapping[str, Any]) -> list[Request]:
        for item in items:
            if not isinstance(item, str):
                raise InputError(f"fill-mask takes a text or a list of texts; received {type(item).__name__}.")
        rows = self.reader.rows(self.tokenizer(list(items), **parameters.get("options", {})))
        for item, row in zip(items, rows, strict=True):
            if not (row["input_ids"] == self.tokenizer.mask_token_id).any():
                raise InputError(
                    f"fill-mask: No mask_token ({self.tokenizer.mask_token}) found on the input; "
                    f"received {item[:80]!r}."
                )
        return [Request([row]) for row in rows]

    def keep(self, outputs: Mapping[str, np.ndarray], index: int, span: slice, row: Row) -> np.ndarray:
        masks = row["input_ids"] == self.tokenizer.mask_token_id
        return softmax(outputs["logits"][index, span][masks].astype(np.float32))

    def finish(self, request: Request, kept: list[Any], parameters: Mapping[str, Any]) -> Any:
        ids, scores = request.rows[0]["input_ids"], kept[0]
        targets, top_k = parameters.get("targets"), parameters.get("top_k", 5)
        if targets is not None:
            scores, top_k = scores[:, targets], min(top_k, len(targets))
        if top_k > scores.shape[1]:
            raise InputError(f"top_k must be at most the vocabulary's {scores.shape[1]} tokens; received {top_k}.")
        places = np.flatnonzero(ids == self.tokenizer.mask_token_id)
        results = []
        for place, row in zip(places, scores, strict=True):
            best = _top(row, top_k)
            tokens = best if targets is None else targets[best]
            results.append(
                [
                    {
                        "score": float(row[index]),
                        "token": int(token),
                        "token_str": self.tokenizer.decode([int(token)]),
                        "sequence": self._filled(ids, place, token, whole=len(places) == 1),
                    }
                    for index, token in zip(best, tokens, strict=True)
                ]
            )
        return results[0] if len(results) == 1 else results

    def _filled(self, ids: np.ndarray, place: np.integer[Any], token: np.integer[Any], *, whole: bool) -> str:
        # Other masks stay visible: they are special tokens, so with several of them none are skipped.
        filled = ids.copy()
        filled[place] = token
        kept = filled[filled != self.tokenizer.pad_token_id] if self.tokenizer.pad_token_id is not None else filled
        text: str = self.tokenizer.decode(kept.tolist(), skip_special_tokens=whole)
        return text

    def _target_ids(self, targets: list[str]) -> np.ndarray:
        vocabulary = self.tokenizer.get_vocab()
        ids = []
        for target in targets:
            if not isinstance(target, str):
                raise InputError(f"targets must be texts; received {target!r}.")
            token = vocabulary.get(target)
            if token is None:
                pieces = self.tokenizer(target, add_special_tokens=False)["input_ids"]
                if not pieces:
                    _log.warning("The target %r makes no token of the vocabulary: ignoring it.", target)
                    continue
                token = pieces[0]
                _log.warning(
                    "The target %r is not in the vocabulary: taking %r for it.",
                    target,
                    self.tokenizer.convert_ids_to_tokens(token),
                )
            ids.append(token)
        if not ids:
            raise InputError("At least one target must be provided when passed.")
        return np.array(sorted(set(ids)), dtype=np.int64)


def _top(scores: np.ndarray, count: int) -> np.ndarray:
    """Indices of the ``count`` largest, largest first, equal ones by index."""
    if count == 0:
        return np.empty(0, dtype=np.int64)
    threshold = np.partition(scores, len(scores) - count)[len(scores) - count]
    candidates = np.flatnonzero(scores >= threshold)
    order: np.ndarray = candidates[np.argsort(-scores[candidates], kind="stable")][:count]
    return order


PIPELINE = FillMask
