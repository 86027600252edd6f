"""Artifacts that ``from_pretrained`` made of checkpoints: where they are, and the key that finds them without torch.

The folder is ``PRECAST_CACHE``, or ``precast`` in ``XDG_CACHE_HOME`` (``~/.cache``). An entry's name ends in a digest
of everything that decides what is in it: the SHA-256 of every file of the checkpoint that an export may read, the
task, the precision, the target, the native kernels that can be used here, and the versions of precast and of the
artifact format. So an entry never goes stale;
a changed checkpoint has another key.

Hashing gigabytes takes seconds, so the SHA-256 of large files is remembered by path, inode, size, and the times of the
last change of content and status, to the nanosecond. As in git's index, a time too recent to tell two changes apart is
not trusted: such a file is hashed again next time.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from precast.runtime import kernels
from precast.runtime.artifact.manifest import FORMAT_VERSION
from precast.runtime.errors import ArtifactError, CheckpointError
from precast.runtime.hub_names import CHAT_TEMPLATE_FOLDER, wanted_files
from precast.runtime.strict_json import parse_value

__all__ = ["cache_folder", "checkpoint_digests", "entry_name", "locked"]

_REMEMBERED_FROM = 1 << 20
_REMEMBERED = 2000  # files
_RACY = 2_000_000_000  # nanoseconds; the coarsest clock of a file system in use
# Besides what a download of the checkpoint fetches: whatever a local folder may spell differently.
_DATA = (".json", ".txt", ".model", ".spm", ".jinja", ".codes", ".tiktoken")


def cache_folder(override: str | os.PathLike[str] | None = None) -> Path:
    """The cache's folder, which need not exist yet."""
    if override is not None:
        return Path(override).expanduser()
    if chosen := os.environ.get("PRECAST_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification has relative paths ignored.
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "precast"


def entry_name(name: str, digests: Mapping[str, str], *, task: str, precision: str, target: str) -> str:
    """The folder of a checkpoint's artifact: readable first, then the key."""
    document = {
        "files": dict(digests),
        "task": task,
        "precision": precision,
        "target": target,
        "kernels": kernels.ISA if kernels.available() else None,
        "precast": version("precast"),
        "format": list(FORMAT_VERSION),
    }
    key = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:32]
    slug = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip(".-")[:80] or "checkpoint"
    return f"{slug}-{task}-{target}-{precision}-{key}"


def checkpoint_digests(folder: Path, cache: Path, names: Sequence[str] | None = None) -> dict[str, str]:
    """SHA-256 of every file in a local checkpoint that an export may read, by its name relative to ``folder``.

    ``names``: the files, where they are known."""
    if names is None:
        names = _names(folder)
    memory = _Memory(cache / "digests.json")

    def digest(name: str) -> str:
        path = Path(os.path.realpath(folder / name))
        try:
            return memory.digest(path)
        except OSError as error:
            raise CheckpointError(f"{folder}: {name} cannot be read: {error.strerror}.") from error

    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        found = dict(zip(names, pool.map(digest, names), strict=True))
    memory.save()
    return found


def _names(folder: Path) -> list[str]:
    """Files at the root, in the folders of modules (sentence-transformers) and of chat templates, without links to
    nowhere."""
    roots = {"", CHAT_TEMPLATE_FOLDER, *_module_folders(folder)}
    found = set()
    for root in roots:
        with suppress(OSError), os.scandir(folder / root) as entries:
            names = [entry.name for entry in entries if entry.is_file()]
            kept = set(wanted_files(names)) | {name for name in names if name.endswith(_DATA)}
            if "model.safetensors" not in names:
                kept |= {name for name in names if name.endswith((".safetensors", ".bin"))}
            found |= {f"{root}/{name}" if root else name for name in kept}
    return sorted(found)


def _module_folders(folder: Path) -> set[str]:
    try:
        modules = parse_value((folder / "modules.json").read_bytes())
        paths = [module["path"] for module in modules]
    except (OSError, ValueError, KeyError, TypeError):
        return set()  # the exporter says what is wrong with it
    inside = {os.path.normpath(path) for path in paths if isinstance(path, str) and path and not os.path.isabs(path)}
    return {path for path in inside if path != "." and not path.startswith("..")}


class _Memory:
    """SHA-256 of large files by what identifies their content to the file system."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._new: dict[str, list[Any]] = {}
        self._known = self._read()

    def digest(self, path: Path) -> str:
        status = path.stat()
        identity = [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        known = self._known.get(os.fspath(path))
        if known is not None and known[:-1] == identity:
            return str(known[-1])
        sha256 = hashlib.sha256()
        with path.open("rb", buffering=0) as file:
            while chunk := file.read(1 << 20):
                sha256.update(chunk)
        settled = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > _RACY
        if status.st_size >= _REMEMBERED_FROM and settled:
            self._new[os.fspath(path)] = [*identity, sha256.hexdigest()]
        return sha256.hexdigest()

    def save(self) -> None:
        """Written anew and renamed, so that a reader sees one whole state; where it cannot be, nothing is lost."""
        if not self._new:
            return
        entries = {**self._read(), **self._new}
        recent = dict(list(entries.items())[-_REMEMBERED:])
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=".digests-", dir=self._path.parent)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(recent, file)
            os.replace(name, self._path)

    def _read(self) -> dict[str, list[Any]]:
        try:
            document = parse_value(self._path.read_bytes())
            return {
                str(path): entry
                for path, entry in document.items()
                if isinstance(entry, list) and len(entry) == 6 and re.fullmatch("[0-9a-f]{64}", str(entry[-1]))
            }
        except (OSError, ValueError, AttributeError):
            return {}


@contextmanager
def locked(entry: Path) -> Iterator[None]:
    """One maker of an entry at a time, among threads and processes; the others wait and find it made.

    Publishing is atomic without this: it only saves the work of making the same thing twice.
    """
    try:
        import fcntl
    except ImportError:  # not on this system
        yield
        return
    path = entry.parent / ".locks"
    try:
        path.mkdir(parents=True, exist_ok=True)
        file = open(path / entry.name, "wb")  # noqa: SIM115 - closed below; what is done meanwhile has its own errors
    except OSError as error:
        raise ArtifactError(
            f"The cache {entry.parent} cannot be written: {error.strerror}. Point PRECAST_CACHE to a folder that can."
        ) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the system lets go of it when the file is closed or the process dies
        yield
