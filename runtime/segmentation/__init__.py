"""How outputs of models become segments of a picture: one file a kind of model, found by its name."""

from __future__ import annotations

from collections.abc import Collection
from importlib import import_module
from pkgutil import iter_modules

from precast.runtime.segmentation.base import Segment, Segmenter, Thresholds

__all__ = ["Segment", "Segmenter", "Thresholds", "segmenter"]


def segmenter(outputs: Collection[str]) -> Segmenter | None:
    """The kind that reads the most of a model's outputs; None: there is none."""
    names = sorted(module.name for module in iter_modules(__path__) if module.name != "base")
    kinds: list[Segmenter] = [import_module(f"{__name__}.{name}").SEGMENTER for name in names]
    fitting = [kind for kind in kinds if set(kind.outputs) <= set(outputs)]
    return max(fitting, key=lambda kind: len(kind.outputs), default=None)
