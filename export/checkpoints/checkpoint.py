"""A source checkpoint: a folder or a Hub id, its config, its files and their digests, its tensors.

Whatever is read here was written by somebody else: every file is checked to be a regular one inside the checkpoint,
JSON is read strictly, and nothing in a file can name code or another file to run.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import torch

from precast.export import static_embedding
from precast.export.checkpoints.foreign import explain, router
from precast.export.checkpoints.mapped_file import MappedFile
from precast.export.checkpoints.weight_files import TensorSource, open_weights, weight_file_names
from precast.export.tokenizers.files import runtime_files
from precast.runtime.errors import CheckpointError, ConfigError, UnsafeFileError, listing
from precast.runtime.hub_names import wanted_files
from precast.runtime.strict_json import MAX_JSON, parse_object, parse_value

__all__ = ["INPUT_MODULES", "Checkpoint", "FileInfo", "StoredTensor", "TensorSource"]

# sentence-transformers' modules that read inputs; MLMTransformer is the old name of one for masked LMs, CLIPModel that
# of one for texts and pictures.
INPUT_MODULES = ("Transformer", "MLMTransformer", "CLIPModel", static_embedding.MODULE)


class StoredTensor(Protocol):
    """A tensor of a checkpoint, not yet read. What ``load`` returns may alias the file: treat it as read-only."""

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def nbytes(self) -> int: ...

    @property
    def file_name(self) -> str: ...

    def load(self) -> torch.Tensor: ...


@dataclass(frozen=True)
class FileInfo:
    """A source file as it was used: bytes and SHA-256 in hexadecimal."""

    size: int
    sha256: str


class Checkpoint:
    """Opened with `precast.export.checkpoints.open`. Safe to use from several threads."""

    folder: Path
    id: str
    revision: str | None
    config: dict[str, Any]
    modules: list[dict[str, Any]] | None
    prefix: str

    def __init__(
        self,
        folder: Path,
        name: str,
        revision: str | None = None,
        known: Mapping[str, str] | None = None,
        available: tuple[str, ...] = (),
    ) -> None:
        self._prepare(folder, name, revision, known, available)
        self.modules = self._read_modules()
        if (refusal := router(self.id, self.modules)) is not None:
            raise CheckpointError(refusal)
        self.prefix = self._input_folder()
        self.config = self._read_config()
        self._weights_name(self.prefix)

    def _prepare(
        self,
        folder: Path,
        name: str,
        revision: str | None = None,
        known: Mapping[str, str] | None = None,
        available: tuple[str, ...] = (),
    ) -> None:
        self.folder = Path(os.path.realpath(folder))
        self.id = name
        self.revision = revision
        self._known = dict(known or {})
        self._available = available
        self._roots = _roots(self.folder)
        self._used: dict[str, FileInfo | None] = {}
        self._maps: list[MappedFile] = []
        self._lock = threading.RLock()

    # -- files -------------------------------------------------------------------------------------------------

    def has(self, name: str) -> bool:
        """Whether the file exists, beside the transformer's config.json or at the checkpoint's root."""
        return self._find(name) is not None

    def path(self, name: str) -> Path:
        """The checked path of a file; it counts as used. Raises ``CheckpointError`` where there is none."""
        relative = self._find(name)
        if relative is None:
            raise CheckpointError(f"{self.id} has no {name}. It holds: {self._found()}.")
        return self._use(relative)

    @property
    def transformer_folder(self) -> Path:
        """The folder of config.json and the tokenizer's files; none of those an export reads is a link leading out.

        For code that reads files of its own choice there; ``note_used`` then records their digests.
        """
        join = f"{self.prefix}/" if self.prefix else ""
        for name in wanted_files(self._names(self.prefix)):
            self._status(join + name)
        return self.folder / self.prefix

    def note_used(self, name: str) -> None:
        """The file counts among the sources of what is exported; no effect where the checkpoint has no such file."""
        if self.has(name):
            self.path(name)

    def read_bytes(self, name: str) -> bytes:
        """The file's bytes (at most 256 MiB: weights are read through ``tensors``)."""
        path = self.path(name)
        try:
            with path.open("rb") as file:
                data = file.read(MAX_JSON + 1)
        except OSError as error:
            raise CheckpointError(f"{self.id}: {name} cannot be read: {error.strerror}.") from None
        if len(data) > MAX_JSON:
            raise CheckpointError(f"{self.id}: {name} is larger than {MAX_JSON} bytes, which no such file is.")
        relative = self._find(name)
        if relative is not None:
            with self._lock:
                self._used[relative] = FileInfo(len(data), hashlib.sha256(data).hexdigest())
        return data

    def read_json(self, name: str, optional: bool = True) -> Any:
        """The parsed file, strictly; ``None`` where it is missing and ``optional``. Raises ``CheckpointError``."""
        if optional and not self.has(name):
            return None
        try:
            return parse_value(self.read_bytes(name))
        except ValueError as error:
            raise CheckpointError(f"{self.id}: {name} is not valid JSON: {error!s:.200}. Download it again.") from None

    def digests(self) -> dict[str, FileInfo]:
        """Size and SHA-256 of every file used so far, by name relative to ``folder``. Each file is read once."""
        with self._lock:
            missing = [name for name, info in self._used.items() if info is None]
            with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
                for name, info in zip(missing, pool.map(self._digest, missing), strict=True):
                    self._used[name] = info
            return {name: info for name, info in sorted(self._used.items()) if info is not None}

    @property
    def files(self) -> dict[str, FileInfo]:
        """As ``digests()``."""
        return self.digests()

    def tokenizer_files(self, model_type: str, *, strict: bool = True) -> dict[str, bytes]:
        """The tokenizer as an artifact holds it, by file name; empty where there is none; as ``runtime_files``."""
        return runtime_files(self.transformer_folder, model_type, self.config, strict=strict)

    # -- weights -----------------------------------------------------------------------------------------------

    @cached_property
    def tensors(self) -> Mapping[str, StoredTensor]:
        """The transformer's weights by name, not yet read. Raises ``CheckpointError`` where a file is damaged."""
        return self.weights(self.prefix)

    def weights(self, folder: str = "") -> Mapping[str, StoredTensor]:
        """The weights of a sub-folder relative to the root, such as ``2_Dense`` of a sentence-transformers model."""
        folder = _safe_folder(folder, "a weights folder")
        name = self._weights_name(folder)
        join = f"{folder}/" if folder else ""

        def locate(shard: str) -> Path:
            if self._status(join + shard) is None:
                raise CheckpointError(
                    f"{self.id}: {name} names {shard}, which is missing. Download the checkpoint again, whole."
                )
            return self._use(join + shard)

        def read(index: str) -> bytes:
            data = locate(index).read_bytes()
            self._used[join + index] = FileInfo(len(data), hashlib.sha256(data).hexdigest())
            return data

        with self._lock:
            tensors = open_weights(name, locate, read)
            self._maps.extend({id(source.file): source.file for source in tensors.values()}.values())
        return MappingProxyType(tensors)

    def release(self) -> None:
        """Gives memory held by mapped weights back to the system. Tensors stay valid: they are read again on use."""
        with self._lock:
            for file in self._maps:
                file.release()

    # -- inside ------------------------------------------------------------------------------------------------

    def _status(self, relative: str) -> os.stat_result | None:
        """The file's status, or ``None`` where there is none. A link out of the checkpoint is refused."""
        path = self.folder / relative
        real = Path(os.path.realpath(path))
        try:
            status = real.stat()
        except (OSError, ValueError):
            return None
        if not any(real.is_relative_to(root) for root in self._roots):
            raise UnsafeFileError(
                f"{self.id}: {relative} is a link to a place outside the checkpoint. Copy the file into the folder."
            )
        return status if stat.S_ISREG(status.st_mode) else None

    def _find(self, name: str) -> str | None:
        parts = name.split("/")
        if not name or "\\" in name or "\0" in name or any(part in ("", ".", "..") or ":" in part for part in parts):
            raise UnsafeFileError(
                f"{name!r:.120} is not a name inside a checkpoint: no '..', drives or absolute paths."
            )
        candidates = [f"{self.prefix}/{name}", name] if getattr(self, "prefix", "") else [name]
        return next((candidate for candidate in candidates if self._status(candidate) is not None), None)

    def _use(self, relative: str) -> Path:
        with self._lock:
            self._used.setdefault(relative, None)
        return Path(os.path.realpath(self.folder / relative))

    def _digest(self, relative: str) -> FileInfo:
        path = Path(os.path.realpath(self.folder / relative))
        if sha256 := self._known.get(relative):
            return FileInfo(path.stat().st_size, sha256)
        digest, size = hashlib.sha256(), 0
        with path.open("rb", buffering=0) as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
                size += len(chunk)
        return FileInfo(size, digest.hexdigest())

    def _names(self, folder: str) -> set[str]:
        try:
            with os.scandir(self.folder / folder) as entries:
                return {entry.name for entry in entries}
        except OSError:
            return set()

    def _found(self, folder: str = "") -> str:
        names = self._names(folder) | (set(self._available) if not folder else set())
        return listing(sorted(names), 12) if names else "nothing"

    def _read_modules(self) -> list[dict[str, Any]] | None:
        value = self.read_json("modules.json")
        if value is None:
            return None
        advice = f"{self.id}: modules.json must be a list of modules with idx, path and type"
        if not isinstance(value, list) or not value:
            raise ConfigError(f"{advice}; it holds a {type(value).__name__} of no use. Download it again.")
        for module in value:
            texts = (
                isinstance(module, dict) and isinstance(module.get("type"), str) and isinstance(module.get("path"), str)
            )
            if not texts or type(module.get("idx")) is not int:
                raise ConfigError(f"{advice}; found {module!r:.120}. Download it again.")
            module["path"] = _safe_folder(module["path"], "a module's path in modules.json")
        return sorted(value, key=lambda module: int(module["idx"]))

    def _input_folder(self) -> str:
        for module in self.modules or ():
            if module["type"].rpartition(".")[2] in INPUT_MODULES:
                return str(module["path"])
        return ""

    def _explained(self, folder: str) -> str | None:
        """What the folder is, where that is no checkpoint."""
        stated = self.read_json(f"{folder}/adapter_config.json" if folder else "adapter_config.json")
        return explain(self.id, self._names(folder) | (set(self._available) if not folder else set()), stated)

    def _read_config(self) -> dict[str, Any]:
        if static_embedding.holds(self.modules):
            return static_embedding.config(self.tensors)
        relative = f"{self.prefix}/config.json" if self.prefix else "config.json"
        if self._status(relative) is None:
            if "precast.json" in self._names("") | set(self._available):
                how = "Load it with precast.load" if not self._available else "Fetch it with `precast pull`"
                raise CheckpointError(f"{self.id} is an artifact already, not a checkpoint. {how}.")
            if (reason := self._explained(self.prefix)) is not None:
                raise CheckpointError(reason)
            raise CheckpointError(f"{self.id} has no {relative}, so it is not a checkpoint. It holds: {self._found()}.")
        try:
            return parse_object(self.read_bytes("config.json"))
        except ValueError as error:
            raise ConfigError(f"{self.id}: {relative} is not valid: {error!s:.200}. Download it again.") from None

    def _weights_name(self, folder: str) -> str:
        names = self._names(folder)
        adapted = any(name.startswith("adapter_model.") for name in names)
        if (name := weight_file_names(names)) is not None and not adapted:
            return name
        # Upstream puts an adapter that lies beside weights onto them.
        if (reason := self._explained(folder)) is not None:
            raise CheckpointError(reason)
        place = f"{self.id}/{folder}" if folder else self.id
        raise CheckpointError(
            f"{place} has no weights that are read here: model.safetensors or pytorch_model.bin, whole or with an "
            f"index of shards. It holds: {self._found(folder)}."
        )


def _roots(folder: Path) -> tuple[Path, ...]:
    """Where the links of a checkpoint may lead: into itself and, in a Hub cache, into that cache's blobs."""
    if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
        storage = folder.parent.parent
        return (folder, storage / "blobs", storage.parent / "blobs")
    return (folder,)


def _safe_folder(path: str, what: str) -> str:
    """A relative folder without ``.`` parts (``""`` is the root), or ``UnsafeFileError``."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") or "\\" in path or "\0" in path or any(part == ".." or ":" in part for part in parts):
        raise UnsafeFileError(f"{what[:1].upper()}{what[1:]} leads out of the checkpoint: {path!r:.120}.")
    return "/".join(parts)
