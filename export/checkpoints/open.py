"""A checkpoint by its place: a folder of transformers' or CTranslate2's, a ``.gguf`` file, or a Hub id."""

from __future__ import annotations

import os
from pathlib import Path

from precast.export.checkpoints.checkpoint import Checkpoint
from precast.export.checkpoints.ctranslate2 import CTranslate2Checkpoint, is_converted
from precast.export.checkpoints.gguf.checkpoint import GGUFCheckpoint
from precast.export.checkpoints.gguf.reader import is_gguf
from precast.runtime import hub
from precast.runtime.errors import CheckpointError, closest
from precast.runtime.hub_names import looks_like_hub_id

__all__ = ["open_checkpoint"]


def open_checkpoint(
    source: str | os.PathLike[str],
    revision: str | None = None,
    token: str | None = None,
    offline: bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Checkpoint:
    """The checkpoint in a folder or a ``.gguf`` file, or on the Hub (downloaded and verified).

    Raises ``CheckpointError`` and its kin for what the folder holds, ``HubError`` for what the Hub answers.
    """
    text = os.fspath(source)
    path = Path(text).expanduser()
    if path.exists() and revision is not None:
        kind = "folder" if path.is_dir() else "file"
        raise CheckpointError(
            f"A revision belongs to a Hub id, and {text!r} is a {kind}. Leave revision out, or give the id."
        )
    if path.is_dir():
        name = Path(os.path.realpath(path)).name or "checkpoint"
        return CTranslate2Checkpoint(path, name) if is_converted(path) else Checkpoint(path, name)
    if path.exists() and is_gguf(path):
        return GGUFCheckpoint(path)
    if path.exists():
        raise CheckpointError(
            f"A checkpoint is a folder with config.json and weights, or a .gguf file; {text!r} is a file. "
            "Give its folder."
        )
    if isinstance(source, str) and looks_like_hub_id(source):
        found = hub.resolve(source, revision=revision, token=token, offline=offline, cache_dir=cache_dir)
        return Checkpoint(found.folder, found.id, found.revision, found.hashes, found.available)
    near = _neighbours(path)
    raise CheckpointError(f"There is no folder {text!r}, and it is no Hub id such as 'org/name'. {near}".rstrip())


def _neighbours(path: Path) -> str:
    try:
        return closest(path.name, [entry.name for entry in path.parent.iterdir() if entry.is_dir()])
    except OSError:
        return ""
