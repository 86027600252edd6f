"""Matches of two pictures, which lie side by side: a line for each, the surest on top."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from precast.runtime.drawing._strokes import Colour, Pen

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["draw"]

# From the least sure to the surest: told apart by how bright they are, too.
_BY_SCORE: tuple[Colour, ...] = ((200, 110, 255), (70, 130, 255), (0, 185, 135), (170, 220, 60), (255, 235, 60))
_GROUND: Colour = (45, 45, 45)


def draw(pictures: Sequence[Image], result: Sequence[Mapping[str, Any]]) -> Image:
    """``[{"keypoint_image_0": {"x", "y"}, "keypoint_image_1": {"x", "y"}, "score"}]`` drawn over both pictures."""
    from PIL import Image

    first, second = pictures
    between = max(4, min(*first.size, *second.size) // 40)
    left = first.width + between
    drawn = Image.new("RGB", (left + second.width, max(first.height, second.height)), _GROUND)
    drawn.paste(first.convert("RGB"), (0, 0))
    drawn.paste(second.convert("RGB"), (left, 0))
    pen = Pen.of(drawn)
    found = sorted(result, key=lambda match: float(match["score"]))
    ends = [
        ((one["keypoint_image_0"]["x"], one["keypoint_image_0"]["y"]), (left + other["x"], other["y"]))
        for one in found
        for other in [one["keypoint_image_1"]]
    ]
    inks = [_BY_SCORE[min(len(_BY_SCORE) - 1, max(0, int(float(one["score"]) * len(_BY_SCORE))))] for one in found]
    for pair, ink in zip(ends, inks, strict=True):
        pen.thread(*pair, ink)
    for pair, ink in zip(ends, inks, strict=True):  # no line runs through a keypoint
        for end in pair:
            pen.dot(end, ink)
    return drawn
