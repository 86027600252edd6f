"""``precast run --save``: results drawn into their pictures, a file for each."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from precast.runtime.cli.console import note
from precast.runtime.drawing import drawing
from precast.runtime.errors import InputError, listing

__all__ = ["Drawn", "check_writable", "pictures_in", "unwritable"]

_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_READ = (*_ENDINGS, ".gif", ".ppm", ".pgm")


def pictures_in(inputs: Sequence[str]) -> list[str]:
    """The inputs, with the pictures of a folder in its place, by name.

    Raises:
        InputError: a folder holds none.
    """
    found: list[str] = []
    for item in inputs:
        if item == "-" or not os.path.isdir(item):
            found.append(item)
            continue
        inside = sorted(path for path in Path(item).iterdir() if path.suffix.lower() in _READ and path.is_file())
        if not inside:
            raise InputError(f"The folder {item} holds no pictures ({', '.join(_READ)}).")
        found += map(str, inside)
    return found


class Drawn:
    """Where the results of pictures go, in their order; all that can be is checked before the first is computed.

    Args:
        inputs: files of pictures. place: a file for the one result, or a folder, which is made, for any number.
        together: how many of them are one input.

    Raises:
        InputError: results of this task are not drawn; the place cannot be written, or is one of the inputs.
    """

    def __init__(self, task: str, inputs: Sequence[str], place: Path, together: int = 1) -> None:
        self._draw = drawing(task)
        if "-" in inputs:
            raise InputError("--save draws into the pictures of files; give these as inputs, not on stdin.")
        self._inputs, self._done = [inputs[at : at + together] for at in range(0, len(inputs), together)], 0
        folder = place.is_dir() or len(self._inputs) > 1 or not place.suffix
        self._targets = _in_folder(place, self._inputs) if folder else [_file(place)]
        for target in self._targets:
            if any(os.path.exists(item) and target.exists() and os.path.samefile(item, target) for item in inputs):
                raise InputError(f"--save would write over {target}, which is an input. Name another place.")

    def add(self, result: Any) -> None:
        """Draw the next result.

        Raises:
            InputError: it cannot be written.
        """
        from precast.runtime.processors.image import open_picture

        sources, target = self._inputs[self._done], self._targets[self._done]
        self._done += 1
        pictures = [open_picture(source, upright=True) for source in sources]
        picture = self._draw(pictures if len(pictures) > 1 else pictures[0], result)
        try:
            picture.save(target)
        except (OSError, ValueError) as error:
            raise unwritable(target, error) from error
        if sys.stderr.isatty():
            note(f"{self._done} of {len(self._targets)}: {target}")


def _file(place: Path) -> Path:
    if place.suffix.lower() not in _ENDINGS:
        raise InputError(f"--save writes {listing(_ENDINGS)}; received {place}. Or name a folder.")
    check_writable(place.parent, place)
    return place


def _in_folder(place: Path, inputs: Sequence[Sequence[str]]) -> list[Path]:
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(place, error) from error
    check_writable(place, place)
    stems = ["-".join(Path(item).stem for item in items) for items in inputs]
    # Pictures of one name from several folders, or of several kinds, do not write over each other.
    names = [stem if stems.count(stem) == 1 else f"{index + 1}-{stem}" for index, stem in enumerate(stems)]
    return [place / f"{name}.png" for name in names]


def check_writable(folder: Path, place: Path) -> None:
    """Raises InputError where ``--save`` cannot write ``place``, which is or is in that folder."""
    if not folder.is_dir():
        raise InputError(f"--save cannot write {place}: there is no folder {folder}. Make it, or name another place.")
    if not os.access(folder, os.W_OK) or (place.is_file() and not os.access(place, os.W_OK)):
        raise InputError(f"--save cannot write {place}: it may not be written to. Name another place.")


def unwritable(place: Path, error: Exception) -> InputError:
    reason = getattr(error, "strerror", None) or str(error)
    return InputError(f"--save cannot write {place}: {reason}. Name another place.")
