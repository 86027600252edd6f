"""The image processor of a checkpoint, as an artifact lists it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from precast.export.image_kinds import KINDS, ImageKind, steps_of
from precast.runtime.errors import CheckpointError, ConfigError, UnsupportedModelError, listing
from precast.runtime.fields import Document, Fields
from precast.runtime.processors.image_steps import Step
from precast.runtime.strict_json import parse_value

__all__ = ["FILES", "image_reading", "image_steps", "read_folder"]

# As upstream looks for them: a section of the first, or the second whole.
FILES = ("processor_config.json", "preprocessor_config.json")


def read_folder(folder: Path, model_type: str) -> dict[str, Any]:
    """As `image_reading`, of a checkpoint's folder."""

    def read(name: str) -> Any:
        try:
            return parse_value((folder / name).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{folder / name} cannot be read: {error!s:.200}. Download it again.") from error

    return image_reading(read, model_type)


def image_reading(read: Callable[[str], Any], model_type: str) -> dict[str, Any]:
    """What an artifact says of a checkpoint's image processor: its ``steps``, and how objects are made of a detector's
    outputs (``detection``), or segments of others' (``segmentation``), where its class says so.

    Raises:
        what `image_steps` raises.
    """
    kind, steps = _read(read, model_type)
    said: dict[str, Any] = {"steps": [step.to_json() for step in steps]}
    read_so = {"detection": kind.detection, "segmentation": kind.segmentation}
    return said | {name: dict(how) for name, how in read_so.items() if how is not None}


def image_steps(read: Callable[[str], Any], model_type: str) -> tuple[Step, ...]:
    """The steps of a checkpoint's image processor.

    Args:
        read: the parsed JSON of one of `FILES`; None where there is no such file.

    Raises:
        UnsupportedModelError: there is none, its class is not known, or it asks for what no step does.
        ConfigError: a setting is of the wrong type.
    """
    return _read(read, model_type)[1]


def _read(read: Callable[[str], Any], model_type: str) -> tuple[ImageKind, tuple[Step, ...]]:
    name, stated = _stated(read)
    document = Document(name, ConfigError, "Correct it in the checkpoint, and export that again.")
    fields = Fields(stated, document=document)
    kind = _kind(fields, model_type, name)
    return kind, steps_of(fields, kind, name)


def _stated(read: Callable[[str], Any]) -> tuple[str, Any]:
    whole = read(FILES[0])
    if isinstance(whole, dict) and whole.get("image_processor") is not None:
        return FILES[0], whole["image_processor"]
    stated = read(FILES[1])
    if stated is None:
        raise UnsupportedModelError(f"its checkpoint came without {FILES[1]}")
    return FILES[1], stated


def _kind(fields: Fields, model_type: str, file: str) -> ImageKind:
    stated = fields.optional_text("image_processor_type", None)
    older = fields.optional_text("feature_extractor_type", None)
    if stated is None and older is not None:
        stated = older.replace("FeatureExtractor", "ImageProcessor")
    if stated is None:
        for kind in KINDS.values():
            if model_type in kind.models:
                return kind
        raise UnsupportedModelError(f"{file} names no image_processor_type, and {model_type} has none of its own here")
    found = KINDS.get(stated.removesuffix("Fast").removesuffix("Pil"))
    if found is None:
        raise UnsupportedModelError(f"{file} names {stated}, which is not known; known are {listing(KINDS)}")
    return found
