"""Image feature extraction: what a model without a head makes of a picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from precast.runtime import arguments
from precast.runtime.errors import InputError
from precast.runtime.tasks._pictures import PictureTask
from precast.runtime.tasks.base import Request, Row

__all__ = ["PIPELINE", "ImageFeatureExtraction"]

_POOLED = "pooler_output"


class ImageFeatureExtraction(PictureTask):
    """A picture -> nested list of its states, ``[1][S][H]``, or with ``pool=True`` of the model's pooler, ``[1][H]``;
    with ``return_tensors=True``, an array instead.

    Models of convolutions give maps, ``[1][C][H][W]``.
    """

    name = "image-feature-extraction"

    def check(self, *, pool: bool | None = None, return_tensors: bool | str | None = None) -> dict[str, Any]:
        checked: dict[str, Any] = {}
        if pool is not None:
            checked["pool"] = arguments.flag("pool", pool)
            if checked["pool"] and _POOLED not in self.model.output_names:
                raise InputError(
                    f"pool=True gives {_POOLED}, which this model does not have: its checkpoint has no pooler."
                )
        if return_tensors not in (None, False, True, "np"):
            raise InputError(f"return_tensors gives NumPy arrays here: pass True or 'np'; received {return_tensors!r}.")
        if return_tensors is not None:
            checked["arrays"] = bool(return_tensors)
        return checked

    def keep(self, outputs: Mapping[str, np.ndarray], index: int, span: slice, row: Row) -> dict[str, np.ndarray]:
        # Upstream takes a model's first output, whatever it is.
        wanted = dict.fromkeys((next(iter(outputs)), _POOLED))
        return {name: np.array(outputs[name][index]) for name in wanted if name in outputs}

    def finish(self, request: Request, kept: list[Any], parameters: Mapping[str, Any]) -> Any:
        name = _POOLED if parameters.get("pool") else next(iter(kept[0]))
        features = kept[0][name][None]
        return features if parameters.get("arrays") else features.tolist()


PIPELINE = ImageFeatureExtraction
