"""Depth estimation: how far away everything in a picture is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from precast.runtime.resampling import bicubic
from precast.runtime.tasks._pictures import SizedPictureTask, grey
from precast.runtime.tasks.base import Request, Row

__all__ = ["PIPELINE", "DepthEstimation"]


class DepthEstimation(SizedPictureTask):
    """A picture -> ``{"predicted_depth", "depth"}``: an array [height, width] of the picture's size, in the model's
    unit, and the same as a Pillow image from black, the least, to white."""

    name = "depth-estimation"

    def keep(self, outputs: Mapping[str, np.ndarray], index: int, span: slice, row: Row) -> np.ndarray:
        return np.array(outputs["predicted_depth"][index], np.float32)

    def finish(self, request: Request, kept: list[Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
        depth = bicubic(kept[0], *self.size_of(request.rows[0]))
        least, most = depth.min(), depth.max()
        shares = (depth - least) / (most - least) if most > least else np.zeros_like(depth)
        return {"predicted_depth": depth, "depth": grey((shares * 255).astype(np.uint8))}


PIPELINE = DepthEstimation
