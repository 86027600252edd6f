"""Making an artifact: staged beside its target, synced, read back, published by one rename or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from precast.runtime.artifact.file_names import check_file_name
from precast.runtime.artifact.manifest import (
    MANIFEST_NAME,
    FileRecord,
    Manifest,
    Source,
    replace_all,
    sealed,
)
from precast.runtime.artifact.merge import admit, merge
from precast.runtime.artifact.reader import STAGING, Artifact
from precast.runtime.artifact.staging import Staging, clean_up, sync, target_lock
from precast.runtime.errors import (
    ArtifactError,
    DiskSpaceError,
    ExportError,
    InputError,
    OutputExistsError,
    PrecastError,
    listing,
)

__all__ = ["ArtifactWriter"]

Bytes = bytes | bytearray | memoryview
_CHUNK = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)


class ArtifactWriter:
    """Write an artifact to the folder ``out``; used as a context manager.

    ``mode="create"``: ``out`` must not exist, not even as an empty folder; missing parents are made.
    ``mode="overwrite"``: an artifact (or an empty folder) at ``out`` is exchanged for the new one in one step.
    ``mode="add"``: the artifact at ``out``, checked, gets further variants; ``base`` is what it was.

    Whatever is wrong with ``out`` is said at construction, before any work, and again at ``publish``. Leaving the
    block without ``publish`` removes everything that was written; a killed process's leavings are removed by the
    next writer to the same ``out``. Not for use by several threads at once.

    Raises ``OutputExistsError``, ``DiskSpaceError``, ``ExportError`` (the disk refused), ``ArtifactError`` (``add`` to
    what is no sound artifact; a manifest that contradicts itself).
    """

    base: Artifact | None

    def __init__(self, out: str | os.PathLike[str], *, mode: str = "create") -> None:
        if mode not in ("create", "overwrite", "add"):
            raise InputError(f"mode must be 'create', 'overwrite' or 'add', got {mode!r}.")
        self.mode = mode
        self.target = _target(out, follow=mode != "create")
        self.base = None
        self._records: dict[str, FileRecord] = {}
        self._staging: Staging | None = None
        self._made_parents: list[Path] = []
        self._counter = 0
        self._written = 0
        self._expected = 0
        self._published = False
        with self._io("look at the folder"):
            clean_up(self.target)
            _refuse_taken(self.target, mode)
            if mode == "add":
                self.base = Artifact.open(self.target)
            while mode != "create" and os.path.lexists(self.target / MANIFEST_NAME):
                with target_lock(self.target) as still_there:
                    if still_there:
                        _refuse_foreign(self.target)
                        break

    def __enter__(self) -> ArtifactWriter:
        try:
            with self._io("make a folder"):
                self._make_parents()
                self._staging = Staging(self.target)
            if self.base is not None:
                self._carry_over(self.base)
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._discard()

    def admit(self, source: Source, model_type: str, variants: Iterable[tuple[str, str]]) -> None:
        """Refuse before the work what ``publish`` would refuse: (component, variant) pairs that cannot be added."""
        if self.base is not None:
            admit(self.base.manifest, source, model_type, variants)

    def ensure_space(self, size: int) -> None:
        """Raise ``DiskSpaceError`` unless ``size`` more bytes fit on the target's disk."""
        self._expected = max(self._expected, self._written + size)
        folder = next(parent for parent in self.target.parents if parent.is_dir())
        free = shutil.disk_usage(folder).free
        if size > free:
            raise _full(self.target, size, free)

    def write_bytes(self, name: str, data: Bytes) -> None:
        """Write a small file whole."""
        self._expected = max(self._expected, self._written + len(data))
        self._settle(self._receive((data,)), name)

    def add_file(self, name: str, src: str | os.PathLike[str]) -> None:
        """Copy the file ``src`` (a link is followed, never kept)."""
        try:
            with open(src, "rb") as stream:
                self._expected = max(self._expected, self._written + os.fstat(stream.fileno()).st_size)
                self._settle(self._receive(iter(lambda: stream.read(_CHUNK), b"")), name)
        except OSError as error:
            if isinstance(error, PrecastError):
                raise
            raise ExportError(f"Cannot read {os.fspath(src)}: {error.strerror or error}.") from error

    def add_weight(self, chunks: Iterable[Bytes]) -> tuple[str, int]:
        """Stream a weight file in; C-contiguous buffers of any shape. Returns its path in the artifact and its size.

        The name is its content's SHA-256, so equal content is stored once.
        """
        incoming = self._receive(chunks)
        name = f"weights/{incoming[1].sha256}.bin"
        self._settle(incoming, name)
        return name, incoming[1].size

    def path_of(self, name: str) -> Path:
        """Where a file already written lies until it is published, for opening the very file that will ship."""
        if name not in self._records:
            raise ArtifactError(f"{name!r} has not been written. Written so far: {listing(sorted(self._records), 10)}.")
        return self._open_staging().artifact.joinpath(*name.split("/"))

    def publish(self, manifest: Manifest) -> Path:
        """Complete ``manifest`` (files, digest, seal), write it last, check the whole, rename to the target.

        In mode ``add``, ``manifest`` describes the new variants only. Returns the target.
        """
        staging = self._open_staging()
        if self._published:
            raise ExportError(f"{self.target} is already published; a writer publishes once.")
        if self.base is not None:
            manifest = merge(self.base.manifest, manifest)
        complete, raw = sealed(replace_all(manifest, dict(sorted(self._records.items()))))
        self._refuse_strays(staging.artifact, complete)
        with self._io(f"write {MANIFEST_NAME}"):
            for folder, _, names in os.walk(staging.artifact):
                for name in names:
                    sync(Path(folder, name))
            with open(staging.artifact / MANIFEST_NAME, "xb") as stream:
                stream.write(raw)
            for folder, _, _ in os.walk(staging.artifact, topdown=False):
                sync(Path(folder))
            sync(staging.artifact / MANIFEST_NAME)
        # What no reader would accept is not published: files that a tool changed after they were written, for one.
        Artifact.open_folder(staging.artifact, check="digest")
        with self._io("publish"):
            self._rename(staging)
        self._published = True
        return self.target

    def _rename(self, staging: Staging) -> None:
        # A loop, because between a look at the target and the rename another export may have come or gone.
        while True:
            if not os.path.lexists(self.target):
                if self.mode == "add":
                    raise ExportError(f"{self.target} was removed during the export, so nothing was added to it.")
                if staging.publish_new():
                    return
            _refuse_taken(self.target, self.mode)
            if not os.path.lexists(self.target / MANIFEST_NAME):
                if staging.publish_over_empty():
                    return
                continue
            with target_lock(self.target) as still_there:
                if still_there:
                    _refuse_foreign(self.target)
                    if self.base is not None and _seal_at(self.target) != self.base.manifest.seal:
                        raise ExportError(f"Another export replaced {self.target} meanwhile. Run this one again.")
                    staging.publish_instead()
                    return

    def _make_parents(self) -> None:
        missing = [parent for parent in self.target.parents if not parent.exists()]
        for parent in reversed(missing):
            with suppress(FileExistsError):
                os.mkdir(parent)
                self._made_parents.append(parent)

    def _discard(self) -> None:
        if self._staging is not None:
            self._staging.remove()
            self._staging = None
        if not self._published:
            for parent in reversed(self._made_parents):
                with suppress(OSError):  # somebody else uses it by now
                    os.rmdir(parent)
            self._made_parents.clear()

    def _open_staging(self) -> Staging:
        if self._staging is None:
            raise ExportError("An ArtifactWriter is used inside its `with` block.")
        return self._staging

    def _receive(self, chunks: Iterable[Bytes]) -> tuple[Path, FileRecord]:
        """Stream to a file without a name yet."""
        self._counter += 1
        path = self._open_staging().incoming / str(self._counter)
        digest, size = hashlib.sha256(), 0
        with self._io("write"):
            stream = open(path, "xb", buffering=0)  # noqa: SIM115 - the chunks' own errors must pass unchanged
        try:
            for chunk in chunks:
                view = memoryview(chunk)
                if view.nbytes == 0:
                    continue
                view = view.cast("B")
                digest.update(view)
                with self._io("write"):
                    _write_all(stream.fileno(), view)
                size += view.nbytes
                self._written += view.nbytes
        finally:
            with self._io("write"):
                stream.close()
        return path, FileRecord(size, digest.hexdigest())

    def _settle(self, incoming: tuple[Path, FileRecord], name: str) -> None:
        path, record = incoming
        check_file_name(name, f"files[{name!r}]")
        known = self._records.get(name)
        with self._io(f"write {name}"):
            if known is None:
                place = self._open_staging().artifact.joinpath(*name.split("/"))
                place.parent.mkdir(parents=True, exist_ok=True)
                os.rename(path, place)
            else:
                os.unlink(path)
        if known is not None and known != record:
            carried = self.base is not None and self.base.has(name)
            whose = "the artifact holds one by that name with other content" if carried else "it was written before"
            raise ExportError(f"{name} cannot be written: {whose}, and every variant must see the same file.")
        self._records[name] = record

    def _carry_over(self, base: Artifact) -> None:
        self.ensure_space(sum(record.size for record in base.manifest.files.values()))
        for name, record in base.manifest.files.items():
            place = self._open_staging().artifact.joinpath(*name.split("/"))
            with self._io(f"copy {name}"):
                place.parent.mkdir(parents=True, exist_ok=True)
                _copy(base.file(name), place)
            self._written += record.size
            self._records[name] = record

    def _refuse_strays(self, folder: Path, manifest: Manifest) -> None:
        found = {Path(at, name).relative_to(folder).as_posix() for at, _, names in os.walk(folder) for name in names}
        strays = sorted(found - set(self._records))
        if strays:
            raise ExportError(
                f"Files appeared in the artifact that were not written through the writer: {listing(strays, 5)}."
            )
        used = {
            path
            for component in manifest.components.values()
            for variant in component.variants.values()
            for path in variant.weights
        }
        unused = sorted(name for name in self._records if name.startswith("weights/") and name not in used)
        if unused:
            raise ExportError(f"No variant lists these weights: {listing(unused, 5)}.")

    @contextmanager
    def _io(self, what: str) -> Iterator[None]:
        """The disk's refusals as errors that say what to do."""
        try:
            yield
        except OSError as error:
            if isinstance(error, PrecastError):
                raise
            if error.errno in _FULL:
                # What was written is removed again, so it counts as free.
                free = self._written
                with suppress(OSError):
                    free += shutil.disk_usage(self.target.parent).free
                raise _full(self.target, max(self._expected, self._written + 1), free) from error
            raise ExportError(
                f"Cannot {what} (exporting to {self.target}): {error.strerror or error}. "
                f"Choose a folder that can be written to; {self.target.parent} is where the export works."
            ) from error


def _target(out: str | os.PathLike[str], *, follow: bool) -> Path:
    text = os.fspath(out)
    if "\0" in text:
        raise InputError(f"{text!r} cannot be a folder to export to: it holds a NUL character.")
    path = Path(os.path.abspath(text))
    path = Path(os.path.realpath(path)) if follow else Path(os.path.realpath(path.parent), path.name)
    if not path.name:
        raise InputError(f"{str(out)!r} cannot be a folder to export to: name one that does not exist yet.")
    if STAGING.fullmatch(path.name):
        raise InputError(f"{path.name!r} is the kind of name an unfinished export has. Choose another.")
    return path


def _refuse_taken(target: Path, mode: str) -> None:
    """Raise unless ``mode`` may publish to ``target`` as it is now."""
    try:
        kind = os.lstat(target).st_mode
    except FileNotFoundError:
        if mode == "add":
            raise ArtifactError(f"There is no artifact at {target} to add to. Leave --add out to make one.") from None
        return
    if not stat.S_ISDIR(kind):
        what = "a link" if stat.S_ISLNK(kind) else "a file"
        raise OutputExistsError(f"{target} exists and is {what}. Choose another folder, or remove it.")
    artifact = os.path.lexists(target / MANIFEST_NAME)
    if mode == "create":
        if artifact:
            raise OutputExistsError(
                f"{target} already holds an artifact. --add puts a further variant into it, --overwrite replaces it."
            )
        empty = not os.listdir(target)
        hint = f"It is empty: rmdir {target}, or use --overwrite." if empty else "Choose a folder that does not exist."
        raise OutputExistsError(f"{target} exists. {hint}")
    if mode == "overwrite" and not artifact and os.listdir(target):
        raise OutputExistsError(_not_ours(target))


def _not_ours(target: Path) -> str:
    return (
        f"{target} is not an artifact, so --overwrite will not delete it. Remove it yourself, or choose another folder."
    )


def _refuse_foreign(target: Path) -> None:
    """Exchanging a folder deletes the old one, so it may hold nothing but an artifact. Call it under the target's lock:
    a look at a manifest and then at the files beside it is two looks.
    """
    try:
        document: Any = json.loads((target / MANIFEST_NAME).read_bytes())
        names = {MANIFEST_NAME, *document["files"]}
        known = isinstance(document["format"]["version"], str) and isinstance(document["seal"], str)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        names, known = set(), False
    if not known:
        raise OutputExistsError(_not_ours(target))
    foreign = sorted(
        path
        for folder, folders, files in os.walk(target)
        for name in (*files, *(entry for entry in folders if os.path.islink(os.path.join(folder, entry))))
        if (path := Path(folder, name).relative_to(target).as_posix()) not in names
    )
    if foreign:
        raise OutputExistsError(
            f"{target} holds files that are not part of the artifact and would be deleted: {listing(foreign, 5)}. "
            "Move them away first."
        )


def _seal_at(target: Path) -> Any:
    try:
        return json.loads((target / MANIFEST_NAME).read_bytes())["seal"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_all(handle: int, view: memoryview) -> None:
    while view:
        view = view[os.write(handle, view) :]


def _copy(source: Path, place: Path) -> None:
    """Copy the content; file systems that can share blocks between files do so."""
    with open(source, "rb") as reader, open(place, "xb") as writer:
        if hasattr(os, "copy_file_range"):
            with suppress(OSError):
                while os.copy_file_range(reader.fileno(), writer.fileno(), 1 << 30):
                    pass
        # Whatever the kernel would not copy; both offsets stand where it stopped.
        shutil.copyfileobj(reader, writer, _CHUNK)


def _full(target: Path, needed: int, free: int) -> DiskSpaceError:
    return DiskSpaceError(
        f"The disk cannot hold the artifact {target}: it needs at least {_size(needed)}, {_size(free)} are free. "
        "Free some space, or choose a folder on another disk."
    )


def _size(count: int) -> str:
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"
