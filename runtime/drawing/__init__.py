"""Results drawn into their pictures: a file of this folder for each kind of result, found by the task.

Each has ``draw(picture, result)``, which returns a new picture of the same size or a larger one; of pictures that are
read in pairs it is given a list of two."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from precast.runtime.errors import InputError, listing

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["DRAWN", "drawing"]

# Task -> the file that draws its results.
DRAWN: Mapping[str, str] = {
    "object-detection": "boxes",
    "zero-shot-object-detection": "boxes",
    "image-segmentation": "masks",
    "mask-generation": "masks",
    "image-to-image": "pictures",
    "depth-estimation": "depth",
    "keypoint-matching": "matches",
}


def drawing(task: str) -> Callable[[Any, Any], Image]:
    """What draws the results of a task.

    Raises:
        InputError: nothing does.
    """
    if task not in DRAWN:
        raise InputError(f"Results of {task} are not drawn into pictures. Drawn are those of {listing(DRAWN)}.")
    found: Callable[[Any, Any], Image] = import_module(f"{__name__}.{DRAWN[task]}").draw
    return found
