"""What an artifact holds around its graphs, as data: config.json, how it generates, its tokenizer, its pooling."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from precast.export.checkpoints.checkpoint import Checkpoint
from precast.export.embedding import declared_task, read_arrays, read_cross_encoder, read_modules
from precast.export.heads import BASE, SEQUENCE_CLASSIFICATION
from precast.export.reference import Reference
from precast.runtime.artifact import ArtifactWriter
from precast.runtime.errors import UnsupportedModelError
from precast.runtime.generation.config import GenerationConfig, ignored_keys

__all__ = ["write_processing"]


def write_processing(
    checkpoint: Checkpoint, reference: Reference, writer: ArtifactWriter
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Write config, tokenizer and pooling data; returns what the manifest says of them, and the tokenizer's files.

    Raises:
        ConfigError: of generation_config.json or modules.json, where they ask for what cannot be done.
        CheckpointError: a tokenizer's file is damaged.
    """
    config = {**reference.family.generation, **checkpoint.config}
    _write_json(writer, "config.json", config)
    processing: dict[str, Any] = {}
    if reference.parts[-1].signature.states:
        processing |= _generation(checkpoint, config, writer)
    tokenizer, files = _tokenizer(checkpoint, reference, writer)
    processing["tokenizer"] = tokenizer
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


def _generation(checkpoint: Checkpoint, config: Mapping[str, Any], writer: ArtifactWriter) -> dict[str, Any]:
    """Write generation_config.json, read as `generate` will read it: an artifact cannot be mended afterwards."""
    stated = checkpoint.read_json("generation_config.json")
    GenerationConfig.check_checkpoint(stated, config)
    if stated is None:
        return {}
    _write_json(writer, "generation_config.json", stated)
    ignored = ignored_keys(stated)
    return {"ignored_generation_config": list(ignored)} if ignored else {}


def _tokenizer(
    checkpoint: Checkpoint, reference: Reference, writer: ArtifactWriter
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Write the tokenizer; whether there is one, why not, and its files."""
    try:
        files = checkpoint.tokenizer_files(reference.model_type)
    except UnsupportedModelError as error:
        # The model is of use to who tokenises elsewhere (MeCab, fastBPE); what asks for the tokenizer says why not.
        return {"included": False, "reason": str(error)}, {}
    for name, data in sorted(files.items()):
        writer.write_bytes(name, data)
        checkpoint.note_used(name)
    return ({"included": True} if files else {"included": False, "reason": "its checkpoint came without one"}), files


def _write_json(writer: ArtifactWriter, name: str, value: Any) -> None:
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)
    writer.write_bytes(name, f"{text}\n".encode())
