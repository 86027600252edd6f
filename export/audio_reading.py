"""The feature extractor of a checkpoint, as an artifact lists it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from precast.export.audio_kinds import KINDS, AudioKind, rate_of
from precast.export.processor_files import Read, folder_reader, stated
from precast.export.settings import switch
from precast.runtime.errors import ConfigError, UnsupportedModelError, listing
from precast.runtime.fields import Document, Fields

__all__ = ["audio_reading", "read_folder"]


def read_folder(folder: Path, model_type: str) -> dict[str, Any]:
    """As `audio_reading`, of a checkpoint's folder."""
    return audio_reading(folder_reader(folder), model_type)


def audio_reading(read: Read, model_type: str) -> dict[str, Any]:
    """What an artifact says of a checkpoint's feature extractor: the ``port`` it fills, its sampling ``rate``,
    its ``steps``, and whether a batch is ``masked``.

    Raises:
        UnsupportedModelError: there is none, its class is not known, or it asks for what no step does.
        ConfigError: a setting is of the wrong type.
    """
    file, said = stated(read, "feature_extractor")
    document = Document(file, ConfigError, "Correct it in the checkpoint, and export that again.")
    fields = Fields(said, document=document)
    kind = _kind(fields, model_type, file)
    rate = rate_of(fields, kind.rate)
    masked = kind.masked is not None and switch(fields, "return_attention_mask", kind.masked)
    return {
        "port": kind.port,
        "rate": rate,
        "masked": masked,
        "steps": [step.to_json() for step in kind.steps(fields, rate)],
    }


def _kind(fields: Fields, model_type: str, file: str) -> AudioKind:
    named = fields.optional_text("feature_extractor_type", None)
    if named is None:
        for kind in KINDS.values():
            if model_type in kind.models:
                return kind
        raise UnsupportedModelError(
            f"{file} names no feature_extractor_type, and {model_type} has none of its own here"
        )
    found = KINDS.get(named)
    if found is None:
        raise UnsupportedModelError(f"{file} names {named}, which is not known; known are {listing(KINDS)}")
    return found
