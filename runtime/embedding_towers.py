"""Which inputs of ``encode`` are pictures, where a model embeds these beside texts in one space.

What counts as one is as in sentence-transformers 6.2, base/modality.py.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from precast.runtime.errors import InputError
from precast.runtime.fetching import is_address

__all__ = ["is_single", "read_item"]

_ENDINGS = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tiff", ".webp")
_KINDS = ("text", "image")


def is_single(value: Any) -> bool:
    """Whether what ``encode`` was given is one input: a text, a picture, or one of them by name."""
    if isinstance(value, np.ndarray):
        return value.ndim in (2, 3) and value.dtype != object
    return isinstance(value, (str, PurePath, Mapping)) or _is_drawn(value)


def read_item(value: Any) -> tuple[str, Any]:
    """``text`` or ``image``, and the text or what a picture is opened of.

    Raises:
        InputError: it is neither.
    """
    if isinstance(value, Mapping) and len(value) == 1 and set(value) <= set(_KINDS):
        [(kind, inner)] = value.items()
        if (kind == "text") == isinstance(inner, str):
            return kind, inner
        if kind == "image" and isinstance(inner, str):
            return kind, inner
    elif isinstance(value, str):
        return ("image" if _names_picture(value) else "text"), value
    elif isinstance(value, (PurePath, np.ndarray)) or _is_drawn(value):
        return "image", value
    raise InputError(
        "encode takes texts and pictures here: a text, a picture's file, a Pillow image or a uint8 array [H, W, 3], or "
        f'{{"text": ...}} or {{"image": ...}}; received {type(value).__name__}: {value!r:.80}.'
    )


def _is_drawn(value: Any) -> bool:
    return hasattr(value, "convert") and hasattr(value, "size")


def _names_picture(text: str) -> bool:
    """Whether a text is the address of a picture, or the name of a file that is there."""
    if is_address(text):
        try:
            return urlsplit(text).path.lower().endswith(_ENDINGS)
        except ValueError:
            return False
    return text.lower().endswith(_ENDINGS) and os.path.isfile(text)
