"""A ``.gguf`` file as a checkpoint: the same questions, answered from its metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from precast.export.checkpoints.checkpoint import Checkpoint
from precast.export.checkpoints.gguf.config import generation_config, model_config
from precast.export.checkpoints.gguf.reader import read_gguf
from precast.export.checkpoints.gguf.tokenizer import tokenizer_files
from precast.export.checkpoints.gguf.vocabulary import read_vocabulary
from precast.export.checkpoints.gguf.weights import GGUFTensor, model_tensors
from precast.runtime.errors import CheckpointError

__all__ = ["GGUFCheckpoint"]


class GGUFCheckpoint(Checkpoint):
    """Opened with `precast.export.checkpoints.open`. It has config.json, generation_config.json and the tokenizer's two
    files as content (``read_bytes``, ``read_json``), not as paths; the files it is made of are the model's own."""

    def __init__(self, path: Path) -> None:
        self._model = read_gguf(path)
        names = tuple(file.name for file in self._model.files)
        self._prepare(path.parent, path.stem)
        self._used = dict.fromkeys(names)
        self._maps = list(self._model.files)
        self._vocabulary = read_vocabulary(self._model.metadata)
        self.modules = None
        self.prefix = ""
        self.config = model_config(self._model, self._vocabulary)

    def has(self, name: str) -> bool:
        return name in self._content or (name in _TOKENIZER and bool(self.tokenizer_files("")))

    def path(self, name: str) -> Path:
        raise CheckpointError(
            f"{self.id} is a GGUF file: what it says in place of {name} has no path. Read it by its content."
        )

    @property
    def transformer_folder(self) -> Path:
        raise CheckpointError(f"{self.id} is a GGUF file, and the folder it lies in is none of its. Read its content.")

    def note_used(self, name: str) -> None:
        """No effect: all of it comes from the file itself."""

    def read_bytes(self, name: str) -> bytes:
        content = self._content.get(name)
        if content is None and name in _TOKENIZER:
            content = self.tokenizer_files("").get(name)
        if content is None:
            raise CheckpointError(f"{self.id} is a GGUF file, and has nothing that stands for {name}.")
        return content

    def tokenizer_files(self, model_type: str, *, strict: bool = True) -> dict[str, bytes]:
        return dict(self._tokenizer)

    def weights(self, folder: str = "") -> Mapping[str, GGUFTensor]:
        if folder:
            raise CheckpointError(f"{self.id} is a GGUF file, and has no folder {folder!r:.80}.")
        return MappingProxyType(model_tensors(self._model))

    @cached_property
    def _content(self) -> dict[str, bytes]:
        files = {"config.json": self.config, "generation_config.json": generation_config(self._vocabulary)}
        return {name: json.dumps(content, indent=1).encode() for name, content in files.items()}

    @cached_property
    def _tokenizer(self) -> dict[str, bytes]:
        return tokenizer_files(self._model.metadata, self._vocabulary)


_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
