"""OpenVINO: image classifiers; int8 by NNCF."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from shared.calibration import images
from shared.openvino_call import OpenVINOAdapter

__all__ = ["PACKAGES", "Adapter"]

PACKAGES = ("openvino", "nncf", "torch", "transformers")


class Adapter(OpenVINOAdapter):
    INPUT = "pixel_values"

    def _samples(self, config: dict[str, Any]) -> Iterable[dict[str, np.ndarray]]:
        return images(self._workload)

    def _shape(self, sample: np.ndarray) -> list[int]:
        return [-1, *sample.shape[1:]]
