"""Segments as tints with outlines, and a legend of their labels below the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from precast.runtime.drawing._strokes import Colour, Pen, colours

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["draw"]

_TINT = 0.55


def draw(picture: Image, result: Sequence[Mapping[str, Any]] | Mapping[str, Any]) -> Image:
    """``[{"score", "label", "mask": a picture of one channel, or an array}]``, later ones over earlier ones, and a
    legend; or ``{"masks", "scores"}``, whose masks have no labels and are tints alone."""
    if isinstance(result, Mapping):
        return _tinted(picture, result["masks"])
    drawn = _tinted(picture, [item["mask"] for item in result])
    named = colours(range(len(result)))
    return _legend(drawn, [(_text(item), named[number]) for number, item in enumerate(result)])


def _tinted(picture: Image, masks: Sequence[Any]) -> Image:
    from PIL import Image as images

    pixels = np.array(picture.convert("RGB"), np.float32)
    named = colours(range(len(masks)))  # segments of one label are told apart
    for number, mask in enumerate(masks):
        within = np.asarray(mask) > 0
        pixels[within] += _TINT * (np.array(named[number], np.float32) - pixels[within])
        pixels[_edge(within)] = named[number]
    return images.fromarray(pixels.round().astype(np.uint8))


def _text(item: Mapping[str, Any]) -> str:
    score = item.get("score")
    return str(item["label"]) if score is None else f"{item['label']} {float(score):.2f}"


def _edge(mask: np.ndarray) -> np.ndarray:
    """The mask's own pixels that touch one outside it, or the picture's border."""
    wide = np.pad(mask, 1)
    inside = wide[1:-1, 1:-1] & wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
    edge: np.ndarray = mask & ~inside
    return edge


def _legend(picture: Image, entries: Sequence[tuple[str, Colour]]) -> Image:
    """The picture with labels in rows below it."""
    from PIL import Image as images

    if not entries:
        return picture
    pen, places, x, y = Pen.of(picture), [], 0, 0
    height = pen.extent("")[1]
    for text, _ in entries:
        width = pen.extent(text)[0]
        if x and x + width > picture.width:
            x, y = 0, y + height
        places.append((x, y))
        x += width
    whole = images.new("RGB", (picture.width, picture.height + y + height), (255, 255, 255))
    whole.paste(picture)
    pen = Pen.of(picture)._replace(on=Pen.of(whole).on, size=whole.size)
    for (text, colour), (left, top) in zip(entries, places, strict=True):
        # A label lies above its corner.
        pen.label((left, picture.height + top + height), text, colour, [])
    return whole
