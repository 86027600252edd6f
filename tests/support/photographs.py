"""Photographs as files, of the kinds that a task of pictures may be given."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from sklearn.datasets import load_sample_image

__all__ = ["files"]


def files(folder: Path) -> list[str]:
    """One whole, a turned one of odd sides, one that is smaller than what is read of it, a grey one."""
    china, flower = (Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg"))
    made = [china, flower.resize((301, 197)), china.crop((100, 50, 161, 133)), flower.convert("L").resize((128, 150))]
    found = []
    for number, picture in enumerate(made):
        exif = picture.getexif()
        if number == 1:
            exif[0x0112] = 6
        found.append(str(folder / f"{number}.png"))
        picture.save(found[-1], exif=exif)
    return found
