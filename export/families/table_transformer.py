"""Table Transformer: DETR with norms in front of what they are for, and one behind the encoder.
https://arxiv.org/abs/2110.00061"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from precast.export.blocks.places import SinePlaces
from precast.export.families import detr
from precast.export.skeletons.detector import Detector, PreNormDecoderLayer, PreNormEncoderLayer

__all__ = ["FAMILY"]


def _body(spec: detr.Spec) -> Detector:
    """Angles of positions are float32 numbers by definition."""
    places = partial(SinePlaces, angles=torch.float32)
    return detr.body(spec, PreNormEncoderLayer, PreNormDecoderLayer, normed=True, places=places)


FAMILY = replace(detr.FAMILY, model_type="table-transformer", heads=detr.detector_heads(_body), variations=())
