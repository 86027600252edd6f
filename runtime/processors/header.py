"""What is asked of a picture, written above it in lines of 80 characters, as Pix2Struct was trained to read it.
https://arxiv.org/abs/2210.03347, section 2.3"""

from __future__ import annotations

import os
from textwrap import TextWrapper
from typing import TYPE_CHECKING

from precast.runtime.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["WRITTEN", "written_above"]

WRITTEN = "precast.header"  # among what a picture knows of itself
_LINE, _SIZE, _EDGE = 80, 36, 5  # characters, and pixels of a letter and around a text


def written_above(picture: Image, text: str, font: str | os.PathLike[str]) -> Image:
    """The picture below a text, both as wide as the wider of them.

    Args:
        font: a TrueType file's name; models were trained with Arial's.

    Raises:
        InputError: the text is empty, or the file is no font.
    """
    from PIL import Image, ImageDraw, ImageFont

    if not text.strip():
        raise InputError("What is written above a picture is a text, and this one is empty.")
    try:
        letters = ImageFont.truetype(os.fspath(font), encoding="UTF-8", size=_SIZE)
    except OSError as error:
        raise InputError(f"{os.fspath(font)!r} is no TrueType font that can be read: {error}.") from error
    lines = "\n".join(TextWrapper(width=_LINE).wrap(text))
    *_, across, down = ImageDraw.Draw(Image.new("RGB", (1, 1))).textbbox((0, 0), lines, font=letters)
    header = Image.new("RGB", (int(across) + 2 * _EDGE, int(down) + 2 * _EDGE), "white")
    ImageDraw.Draw(header).text((_EDGE, _EDGE), lines, fill="black", font=letters)
    width = max(header.width, picture.width)
    above, below = int(header.height * (width / header.width)), int(picture.height * (width / picture.width))
    made = Image.new("RGB", (width, below + above), "white")
    made.paste(header.resize((width, above)), (0, 0))
    made.paste(picture.convert("RGB").resize((width, below)), (0, above))
    made.info[WRITTEN] = text
    return made
