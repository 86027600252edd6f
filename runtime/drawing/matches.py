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
_FINER, _SMALL = 3, 1 << 22


def draw(pictures: Sequence[Image], result: Sequence[Mapping[str, Any]]) -> Image:
    """``[{"keypoint_image_0": {"x", "y"}, "keypoint_image_1": {"x", "y"}, "score"}]`` drawn over both pictures."""
    from PIL import Image

    first, second = pictures
    between = max(4, min(*first.size, *second.size) // 40)
    left = first.width + between
    drawn = Image.new("RGB", (left + second.width, max(first.height, second.height)), _GROUND)
    drawn.paste(first.convert("RGB"), (0, 0))
    drawn.paste(second.convert("RGB"), (left, 0))
    # Slanted lines need finer pixels than those of a small picture, which are as they were where nothing is drawn.
    finer = _FINER if drawn.width * drawn.height <= _SMALL else 1
    stroke = finer * Pen.of(drawn).stroke
    drawn = drawn.resize((finer * drawn.width, finer * drawn.height), Image.Resampling.NEAREST) if finer > 1 else drawn
    pen = Pen.of(drawn)._replace(stroke=stroke)
    found = sorted(result, key=lambda match: float(match["score"]))
    ends = [
        ((one["keypoint_image_0"]["x"], one["keypoint_image_0"]["y"]), (left + other["x"], other["y"]))
        for one in found
        for other in [one["keypoint_image_1"]]
    ]
    inks = [_BY_SCORE[min(len(_BY_SCORE) - 1, max(0, int(float(one["score"]) * len(_BY_SCORE))))] for one in found]
    middles = [tuple((finer * x + finer // 2, finer * y + finer // 2) for x, y in pair) for pair in ends]
    for (start, end), ink in zip(middles, inks, strict=True):
        pen.thread(start, end, ink)
    for pair, ink in zip(middles, inks, strict=True):  # no line runs through a keypoint
        for place in pair:
            pen.dot(place, ink)
    return drawn.reduce(finer) if finer > 1 else drawn
