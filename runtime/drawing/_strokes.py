"""What drawings share: colours that tell labels apart, and text that is legible on any photograph."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

__all__ = ["Colour", "Pen", "colours"]

Colour = tuple[int, int, int]
Rectangle = tuple[int, int, int, int]

# Far apart for most eyes, those that see few colours too (https://doi.org/10.1038/nmeth.1618); the dark ones made
# lighter, so that they show on a photograph of the night.
_PALETTE: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 185, 135),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
    (70, 130, 255),
    (170, 255, 195),
    (200, 110, 255),
    (255, 215, 180),
)


def colours(labels: Iterable[Any]) -> dict[Any, Colour]:
    """A colour for each label, the same wherever these labels come in this order; more labels share them."""
    return {label: _PALETTE[index % len(_PALETTE)] for index, label in enumerate(dict.fromkeys(labels))}


class Pen(NamedTuple):
    """Draws on one picture, in strokes and letters that suit its size."""

    on: ImageDraw
    size: tuple[int, int]
    stroke: int
    font: Any

    @classmethod
    def of(cls, picture: Image) -> Pen:
        from PIL import ImageDraw, ImageFont

        short = min(picture.size)
        font = ImageFont.load_default(size=max(11, round(short / 36)))
        return cls(ImageDraw.Draw(picture), picture.size, max(2, round(short / 240)), font)

    def frame(self, box: tuple[int, int, int, int], colour: Colour) -> None:
        """The outline of a box with a dark line around it, so that it shows on any ground."""
        left, top, right, bottom = box
        # Boxes may reach out of the picture, and a corner may lie on the wrong side of the other.
        left, right = sorted((left, right))
        top, bottom = sorted((top, bottom))
        self.on.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=_DARK, width=self.stroke + 2)
        self.on.rectangle((left, top, right, bottom), outline=colour, width=self.stroke)

    def thread(self, start: tuple[int, int], end: tuple[int, int], colour: Colour) -> None:
        """A thin line between two places, dark at both sides."""
        width, rim = max(1, 2 * self.stroke // 3), max(2, 2 * self.stroke // 3)
        self.on.line((start, end), fill=_DARK, width=width + rim)
        self.on.line((start, end), fill=colour, width=width)

    def dot(self, place: tuple[int, int], colour: Colour) -> None:
        """A place, with a dark ring around it."""
        x, y = place
        for radius, fill in ((self.stroke + max(2, self.stroke // 2), _DARK), (self.stroke, colour)):
            self.on.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)

    def label(self, corner: tuple[int, int], text: str, colour: Colour, taken: list[Rectangle]) -> None:
        """Text on a ground of its own colour: above a corner, or below it where there is no room or another label is
        (``taken``, to which it is added), never outside."""
        width, height, room = self.extent(text)
        x = max(0, min(corner[0], self.size[0] - width))
        lowest = max(0, self.size[1] - height)
        above = min(max(0, corner[1] - height), lowest)
        # Where every place is taken labels lie on each other.
        below = (min(above + step * height, lowest) for step in range(self.size[1] // height + 1))
        y = next((y for y in below if not any(_meet((x, y, x + width, y + height), other) for other in taken)), above)
        taken.append((x, y, x + width, y + height))
        self.on.rectangle((x, y, x + width - 1, y + height - 1), fill=colour, outline=_DARK)
        self.on.text((x + room, y + room), text, fill=ink(colour), font=self.font, anchor="la")

    def extent(self, text: str) -> tuple[int, int, int]:
        """Width and height of a label, and the room around its letters."""
        room = max(3, self.stroke)
        ascent, descent = self.font.getmetrics()
        return round(self.on.textlength(text, font=self.font)) + 2 * room, ascent + descent + 2 * room, room


_DARK: Colour = (20, 20, 20)
_LIGHT: Colour = (255, 255, 255)


def _meet(one: Rectangle, other: Rectangle) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def ink(ground: Colour) -> Colour:
    """Dark or light, whichever is easier to read on a colour. https://www.w3.org/TR/WCAG21/#dfn-relative-luminance"""
    red, green, blue = ((c / 255) ** 2.2 for c in ground)
    return _DARK if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 else _LIGHT
