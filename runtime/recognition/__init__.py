"""How outputs of models become what was said: one file a kind of model, found by its name."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from precast.runtime.errors import UnsupportedTaskError, listing
from precast.runtime.readers.audio import AudioReader
from precast.runtime.recognition.base import Recogniser

__all__ = ["Recogniser", "recogniser"]


def recogniser(model: Any, reader: AudioReader) -> Recogniser:
    """The kind for a loaded model.

    Raises:
        UnsupportedTaskError: there is none.
        InputError: the artifact lacks what it needs to make text.
    """
    names = sorted(module.name for module in iter_modules(__path__))
    kinds = [import_module(f"{__name__}.{name}") for name in names]
    for kind in kinds:
        made: type[Recogniser] | None = getattr(kind, "RECOGNISER", None)
        if made is not None and made.fits(model):
            return made(model, reader)
    raise UnsupportedTaskError(f"Nothing here makes text of what a model for {listing(model.tasks)} gives.")
