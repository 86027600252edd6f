"""The image processor of a checkpoint, as an artifact lists it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from precast.export.image_kinds import KINDS, ImageKind, steps_of
from precast.export.processor_files import Read, folder_reader, stated
from precast.export.settings import switch
from precast.runtime.errors import ConfigError, UnsupportedModelError, listing
from precast.runtime.fields import Document, Fields
from precast.runtime.processors.image_steps import Step

__all__ = ["image_reading", "image_steps", "read_folder"]


def read_folder(folder: Path, model_type: str) -> dict[str, Any]:
    """As `image_reading`, of a checkpoint's folder."""
    return image_reading(folder_reader(folder), model_type)


def image_reading(read: Read, model_type: str) -> dict[str, Any]:
    """What an artifact says of a checkpoint's image processor: its ``steps``, and how objects are made of a detector's
    outputs (``detection``), or segments of others' (``segmentation``), where its class says so; and how it reads the
    words of pages (``ocr``), where it does.

    Raises:
        what `image_steps` raises.
    """
    kind, steps, fields = _read(read, model_type)
    said: dict[str, Any] = {"steps": [step.to_json() for step in steps]}
    if kind.reads and switch(fields, "apply_ocr", True):
        said["ocr"] = {
            "language": fields.optional_text("ocr_lang", None),
            "config": fields.optional_text("tesseract_config", None) or "",
        }
    read_so = {"detection": kind.detection, "segmentation": kind.segmentation}
    return said | {name: dict(how) for name, how in read_so.items() if how is not None}


def image_steps(read: Read, model_type: str) -> tuple[Step, ...]:
    """The steps of a checkpoint's image processor.

    Raises:
        UnsupportedModelError: there is none, its class is not known, or it asks for what no step does.
        ConfigError: a setting is of the wrong type.
    """
    return _read(read, model_type)[1]


def _read(read: Read, model_type: str) -> tuple[ImageKind, tuple[Step, ...], Fields]:
    name, said = stated(read, "image_processor")
    document = Document(name, ConfigError, "Correct it in the checkpoint, and export that again.")
    fields = Fields(said, document=document)
    kind = _kind(fields, model_type, name)
    return kind, steps_of(fields, kind, name), fields


def _kind(fields: Fields, model_type: str, file: str) -> ImageKind:
    named = fields.optional_text("image_processor_type", None)
    older = fields.optional_text("feature_extractor_type", None)
    if named is None and older is not None:
        named = older.replace("FeatureExtractor", "ImageProcessor")
    if named is None:
        for kind in KINDS.values():
            if model_type in kind.models:
                return kind
        raise UnsupportedModelError(f"{file} names no image_processor_type, and {model_type} has none of its own here")
    found = KINDS.get(named.removesuffix("Fast").removesuffix("Pil"))
    if found is None:
        raise UnsupportedModelError(f"{file} names {named}, which is not known; known are {listing(KINDS)}")
    return found
