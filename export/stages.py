"""What goes from one stage of a model to the next (`precast.runtime.stages`), and the voices a checkpoint brings."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from precast.export.checkpoints.checkpoint import Checkpoint
from precast.runtime.arrays import read_npy
from precast.runtime.artifact import ArtifactWriter
from precast.runtime.backends.base import Array
from precast.runtime.errors import ArtifactError, CheckpointError, InputError
from precast.runtime.fields import Fields
from precast.runtime.hub_names import VOICES
from precast.runtime.stages import VOICE, Rules, Sizes

__all__ = ["stages"]

_LISTED, _KEPT = f"{VOICES}_path.json", f"{VOICES}.npz"


def stages(said: Mapping[str, Any], checkpoint: Checkpoint, writer: ArtifactWriter) -> dict[str, Any]:
    """``said`` of the stages, held to generation_config.json, and the voices there are, which are written.

    Raises:
        ConfigError: generation_config.json says nothing of the stages, or what they cannot do.
        CheckpointError: a file of a voice is damaged, or a voice is none of this model's.
    """
    sizes = Sizes.read(Fields(said["sizes"], "processing.stages.sizes"))
    rules = Rules.read(checkpoint.read_json("generation_config.json"), sizes)
    voices = _voices(checkpoint, rules)
    if not voices:
        return {"stages": dict(said)}
    writer.write_bytes(_KEPT, _packed(voices))
    return {"stages": {**said, "voices": _KEPT}}


def _voices(checkpoint: Checkpoint, rules: Rules) -> dict[str, Array]:
    """The arrays of every voice that is whole, by ``name|part``; others are left out, as upstream leaves them."""
    listed = checkpoint.read_json(_LISTED) or {}
    if not isinstance(listed, dict):
        raise CheckpointError(f"{checkpoint.id}: {_LISTED} must be an object of voices. Download it again.")
    found: dict[str, Array] = {}
    for name, files in sorted(listed.items()):
        if not isinstance(files, dict):  # where it once came from
            continue
        paths = [files.get(part) for part in VOICE]
        if not all(isinstance(path, str) and checkpoint.has(path) for path in paths):
            continue
        try:
            parts = [read_npy(checkpoint.read_bytes(path), path) for path in map(str, paths)]
            rules.voice(*parts)
        except (ArtifactError, InputError) as error:
            raise CheckpointError(f"{checkpoint.id}: voice {name!r:.80}: {error}") from None
        found |= {f"{name}|{part}": array.astype(np.int32) for part, array in zip(VOICE, parts, strict=True)}
    return found


def _packed(arrays: Mapping[str, Array]) -> bytes:
    """An .npz of fixed bytes."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            data = io.BytesIO()
            np.lib.format.write_array(data, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), data.getvalue())
    return packed.getvalue()
