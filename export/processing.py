"""What an artifact holds around its graphs, as data: config.json, how it generates, what reads its inputs, its pooling.

``processing`` names a reader for each kind of input: ``text``, ``image`` and ``audio``, each with the port it fills, or
with the reason why it is missing.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Container, Mapping
from typing import Any

import numpy as np

from precast.export.audio_kinds import KINDS
from precast.export.audio_reading import audio_reading
from precast.export.checkpoints.checkpoint import Checkpoint
from precast.export.embedding import declared_task, read_arrays, read_cross_encoder, read_modules
from precast.export.heads import BASE, CTC, SEQUENCE_CLASSIFICATION
from precast.export.image_kinds import reads_colours
from precast.export.image_reading import image_reading
from precast.export.processor_files import FILES, Read
from precast.export.reference import Reference
from precast.export.signatures import Component
from precast.export.spelling import FILES as SPELLING_FILES
from precast.export.spelling import spelling
from precast.export.stages import stages
from precast.runtime.artifact import ArtifactWriter
from precast.runtime.errors import UnsupportedModelError
from precast.runtime.generation.config import GenerationConfig, ignored_keys

__all__ = ["write_processing"]

# Features of recordings: those of spectrograms that are made, of noise or of voices are called otherwise.
_HEARD = frozenset(kind.port for kind in KINDS.values())


def write_processing(
    checkpoint: Checkpoint, reference: Reference, writer: ArtifactWriter
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Write config, readers and pooling data; returns what the manifest says of them, and the tokenizer's files.

    Raises:
        ConfigError: of generation_config.json or modules.json, where they ask for what cannot be done; of
            preprocessor_config.json, where a setting is of the wrong type.
        CheckpointError: a tokenizer's file is damaged.
    """
    config = {**reference.family.generation, **checkpoint.config}
    _write_json(writer, "config.json", config)
    processing: dict[str, Any] = {}
    if reference.parts[-1].signature.states:
        generates = reference.family.generates(reference.spec)
        processing |= _generation(checkpoint, config, writer, generates)
    files: dict[str, bytes] = {}
    text, image = _port(reference, "ids"), _port(reference, "pixels") or _port(reference, "patches")
    pixels_by_number = text is not None and image is None and reads_colours(reference.model_type)
    if pixels_by_number:
        text, image = None, text
    if text is not None:
        processing["text"], files = _text(checkpoint, reference, writer, text)
        # As readers of formats before this one know it.
        why = processing["text"].get("missing")
        processing["tokenizer"] = {"included": True} if why is None else {"included": False, "reason": why}
    if image is not None:
        processing["image"] = _reading(checkpoint, reference, image, image_reading)
    sound = _port(reference, "waveform") or _port(reference, "features", _HEARD)
    if sound is not None:
        processing["audio"] = _reading(checkpoint, reference, sound, audio_reading)
    if reference.head is CTC:
        processing["spelling"] = _spelling(checkpoint)
    for part in reference.parts:
        if isinstance(part.module, Component):
            processing |= part.module.processing()
    if "ranked" in processing:
        processing |= _generation(checkpoint, config, writer)
    if "stages" in processing:
        processing |= stages(processing["stages"], checkpoint, writer)
        _write_json(writer, "generation_config.json", checkpoint.read_json("generation_config.json"))
    # Exported for another task than modules.json's, the model has none of its embeddings.
    described = reference.head.task == (declared_task(checkpoint) or BASE.task)
    embedding = read_modules(checkpoint) if described else None
    if embedding is not None:
        processing["embedding"] = embedding
        for name, array in read_arrays(checkpoint, embedding).items():
            packed = io.BytesIO()
            np.lib.format.write_array(packed, np.ascontiguousarray(array), allow_pickle=False)
            writer.write_bytes(name, packed.getvalue())
    cross_encoder = read_cross_encoder(checkpoint) if reference.head is SEQUENCE_CLASSIFICATION else None
    if cross_encoder is not None:
        processing["cross_encoder"] = cross_encoder
    return processing, files


def _generation(
    checkpoint: Checkpoint,
    config: Mapping[str, Any],
    writer: ArtifactWriter,
    generates: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write generation_config.json, read as `generate` will read it: an artifact cannot be mended afterwards; with what
    ``generates`` says in place of what stands there."""
    stated = checkpoint.read_json("generation_config.json")
    stated = {**(stated or {}), **generates} if generates else stated
    GenerationConfig.check_checkpoint(stated, config)
    if stated is None:
        return {}
    _write_json(writer, "generation_config.json", stated)
    ignored = ignored_keys(stated)
    return {"ignored_generation_config": list(ignored)} if ignored else {}


def _port(reference: Reference, kind: str, names: Container[str] | None = None) -> str | None:
    """The first input of a kind that a caller gives; ``names``: what it may be called, None: anything."""
    ports = (port for part in reference.parts for port in part.signature.given)
    return next((port.name for port in ports if port.kind == kind and (names is None or port.name in names)), None)


def _text(
    checkpoint: Checkpoint, reference: Reference, writer: ArtifactWriter, port: str
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Write the tokenizer; what is said of it, and its files."""
    try:
        files = checkpoint.tokenizer_files(reference.model_type)
    except UnsupportedModelError as error:
        # The model is of use to who tokenises elsewhere (MeCab, fastBPE); what asks for the tokenizer says why not.
        return {"port": port, "missing": str(error)}, {}
    for name, data in sorted(files.items()):
        writer.write_bytes(name, data)
        checkpoint.note_used(name)
    if not files:
        return {"port": port, "missing": "its checkpoint came without one"}, {}
    return {"port": port, "files": sorted(files)}, files


def _reading(
    checkpoint: Checkpoint, reference: Reference, port: str, read: Callable[[Read, str], dict[str, Any]]
) -> dict[str, Any]:
    """A processor as data, or why there is none: the model takes what one would make all the same."""
    try:
        said = read(checkpoint.read_json, reference.model_type)
    except UnsupportedModelError as error:
        return {"port": port, "missing": str(error)}
    for name in FILES:
        if checkpoint.has(name):
            checkpoint.note_used(name)
    return {**said, "port": port}


def _spelling(checkpoint: Checkpoint) -> dict[str, Any]:
    """The vocabulary as data, or why there is none: frames have logits all the same."""
    try:
        said = spelling(checkpoint.read_json)
    except UnsupportedModelError as error:
        return {"missing": str(error)}
    for name in SPELLING_FILES:
        if checkpoint.has(name):
            checkpoint.note_used(name)
    return said


def _write_json(writer: ArtifactWriter, name: str, value: Any) -> None:
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)
    writer.write_bytes(name, f"{text}\n".encode())
