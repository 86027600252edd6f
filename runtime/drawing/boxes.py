"""Objects as boxes with their labels and scores, the surest on top."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from precast.runtime.drawing._strokes import Pen, Rectangle, colours

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["draw"]


def draw(picture: Image, result: Sequence[Mapping[str, Any]]) -> Image:
    """``[{"score", "label", "box": {"xmin", "ymin", "xmax", "ymax"}}]`` drawn into a copy of the picture."""
    drawn = picture.convert("RGB")
    drawn = drawn.copy() if drawn is picture else drawn
    pen = Pen.of(drawn)
    found = sorted(result, key=lambda item: float(item["score"]))
    named = colours(sorted({str(item["label"]) for item in found}))
    boxes = [tuple(int(item["box"][edge]) for edge in ("xmin", "ymin", "xmax", "ymax")) for item in found]
    for item, box in zip(found, boxes, strict=True):
        pen.frame(box, named[str(item["label"])])  # type: ignore[arg-type]
    # No frame runs through a label; the surest ones take their places first.
    taken: list[Rectangle] = []
    for item, box in reversed(list(zip(found, boxes, strict=True))):
        text = f"{item['label']} {float(item['score']):.2f}"
        pen.label((min(box[0], box[2]), min(box[1], box[3])), text, named[str(item["label"])], taken)
    return drawn
