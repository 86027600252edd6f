"""Keypoint matching: which places of two pictures are the same."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from precast.runtime import arguments
from precast.runtime.errors import InputError
from precast.runtime.readers.pairs import PairReader, PairRow
from precast.runtime.tasks.base import Request, Row, Task

__all__ = ["PIPELINE", "KeypointMatching"]


class KeypointMatching(Task[PairReader]):
    """A pair of pictures -> ``[{"keypoint_image_0": {"x", "y"}, "keypoint_image_1": {"x", "y"}, "score"}]`` of each
    match whose score is above ``threshold`` (0), the surest first, in pixels of each picture."""

    name = "keypoint-matching"
    reads = PairReader

    def __call__(self, inputs: Any = None, **parameters: Any) -> Any:
        if inputs is None:
            raise InputError(f"{self.name} needs a pair of pictures, or a list of pairs.")
        return super().__call__(inputs, **parameters)

    def check(self, *, threshold: float | None = None, timeout: float | None = None) -> dict[str, Any]:
        # timeout: of downloads, in upstream's call; here pictures are files.
        return {} if threshold is None else {"threshold": arguments.number("threshold", threshold)}

    def prepare(self, items: Sequence[Any], parameters: Mapping[str, Any]) -> list[Request]:
        return [Request([self.reader.sized_row(item)]) for item in items]

    def together(self, row: Row, parameters: Mapping[str, Any]) -> Hashable:
        """Each alone: to the most keypoints of a batch all are filled up, and some matchers count what is filled up."""
        return id(row)

    def keep(self, outputs: Mapping[str, np.ndarray], index: int, span: slice, row: Row) -> dict[str, np.ndarray]:
        return {name: outputs[name][index] for name in ("keypoints", "matches", "matching_scores", "mask")}

    def finish(self, request: Request, kept: list[Any], parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        [row], [made] = request.rows, kept
        assert isinstance(row, PairRow), "rows are made by `prepare`"
        # Numbers of pixels are whole, rounded down from float32, as upstream has them.
        places = [
            (made["keypoints"][picture] * np.array(size[::-1], np.float32)).astype(np.int32).tolist()
            for picture, size in enumerate(row.sizes)
        ]
        matches, scores = made["matches"][0], made["matching_scores"][0]
        sure = (made["mask"][0] > 0) & (scores > parameters.get("threshold", 0.0)) & (matches >= 0)
        found = np.flatnonzero(sure)
        found = found[np.argsort(-scores[found], kind="stable")]
        return [
            {
                "keypoint_image_0": dict(zip("xy", places[0][index], strict=True)),
                "keypoint_image_1": dict(zip("xy", places[1][matches[index]], strict=True)),
                "score": float(scores[index]),
            }
            for index in found.tolist()
        ]


PIPELINE = KeypointMatching
