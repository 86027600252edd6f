"""Making an artifact: staged beside its target, synced, read back, published by one rename or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

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
from precast.runtime.artifact.publisher import Publisher
from precast.runtime.artifact.reader import Artifact
from precast.runtime.artifact.staging import sync
from precast.runtime.errors import ArtifactError, ExportError, PrecastError, listing

__all__ = ["ArtifactWriter"]

Bytes = bytes | bytearray | memoryview
_CHUNK = 1 << 20


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
        self._publisher = Publisher(out, mode=mode)
        self.target = self._publisher.target
        self.base = Artifact.open(self.target) if mode == "add" else None
        self._records: dict[str, FileRecord] = {}
        self._counter = 0

    def __enter__(self) -> ArtifactWriter:
        self._publisher.__enter__()
        try:
            if self.base is not None:
                self._carry_over(self.base)
        except BaseException:
            self._publisher.discard()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._publisher.discard()

    def admit(self, source: Source, model_type: str, variants: Iterable[tuple[str, str]]) -> None:
        """Refuse before the work what ``publish`` would refuse: (component, variant) pairs that cannot be added."""
        if self.base is not None:
            admit(self.base.manifest, source, model_type, variants)

    def ensure_space(self, size: int) -> None:
        """Raise ``DiskSpaceError`` unless ``size`` more bytes fit on the target's disk."""
        self._publisher.ensure_space(size)

    def write_bytes(self, name: str, data: Bytes) -> None:
        """Write a small file whole."""
        self._publisher.expect(len(data))
        self._settle(self._receive((data,)), name)

    def add_file(self, name: str, src: str | os.PathLike[str]) -> None:
        """Copy the file ``src`` (a link is followed, never kept)."""
        try:
            with open(src, "rb") as stream:
                self._publisher.expect(os.fstat(stream.fileno()).st_size)
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

    @property
    def written(self) -> frozenset[str]:
        """Names of the files there are by now, those of ``base`` among them."""
        return frozenset(self._records)

    def discard(self, names: Iterable[str]) -> None:
        """Remove files again that were written and are not wanted after all."""
        for name in names:
            path = self.path_of(name)
            if self.base is not None and self.base.has(name):
                raise ArtifactError(f"{name!r} belongs to the artifact that is added to, and stays.")
            del self._records[name]
            with self._publisher.io(f"remove {name}"):
                os.unlink(path)

    def path_of(self, name: str) -> Path:
        """Where a file already written lies until it is published, for opening the very file that will ship."""
        if name not in self._records:
            raise ArtifactError(f"{name!r} has not been written. Written so far: {listing(sorted(self._records), 10)}.")
        return self._publisher.staging.artifact.joinpath(*name.split("/"))

    @property
    def lock(self) -> int:
        """The descriptor by which others know that this writer's process lives: a process that is given a copy of the
        writer must hold it too."""
        return self._publisher.staging.lock

    def adopt(self, copy: ArtifactWriter) -> None:
        """Take over what a copy of this writer has written in another process, which writes no more."""
        self._records, self._counter = copy._records, copy._counter
        self._publisher.written = copy._publisher.written

    def publish(self, manifest: Manifest) -> Path:
        """Complete ``manifest`` (files, digest, seal), write it last, check the whole, rename to the target.

        In mode ``add``, ``manifest`` describes the new variants only. Returns the target.
        """
        staging = self._publisher.staging
        if self._publisher.published:
            raise ExportError(f"{self.target} is already published; a writer publishes once.")
        if self.base is not None:
            manifest = merge(self.base.manifest, manifest)
        complete, raw = sealed(replace_all(manifest, dict(sorted(self._records.items()))))
        self._refuse_strays(staging.artifact, complete)
        with self._publisher.io(f"write {MANIFEST_NAME}"):
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
        self._publisher.publish(None if self.base is None else self.base.manifest.seal)
        return self.target

    def _receive(self, chunks: Iterable[Bytes]) -> tuple[Path, FileRecord]:
        """Stream to a file without a name yet."""
        self._counter += 1
        path = self._publisher.staging.incoming / str(self._counter)
        digest, size = hashlib.sha256(), 0
        with self._publisher.io("write"):
            stream = open(path, "xb", buffering=0)  # noqa: SIM115 - the chunks' own errors must pass unchanged
        try:
            for chunk in chunks:
                view = memoryview(chunk)
                if view.nbytes == 0:
                    continue
                view = view.cast("B")
                digest.update(view)
                with self._publisher.io("write"):
                    _write_all(stream.fileno(), view)
                size += view.nbytes
                self._publisher.written += view.nbytes
        finally:
            with self._publisher.io("write"):
                stream.close()
        return path, FileRecord(size, digest.hexdigest())

    def _settle(self, incoming: tuple[Path, FileRecord], name: str) -> None:
        path, record = incoming
        check_file_name(name, f"files[{name!r}]")
        known = self._records.get(name)
        with self._publisher.io(f"write {name}"):
            if known is None:
                place = self._publisher.staging.artifact.joinpath(*name.split("/"))
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
            place = self._publisher.staging.artifact.joinpath(*name.split("/"))
            with self._publisher.io(f"copy {name}"):
                place.parent.mkdir(parents=True, exist_ok=True)
                _copy(base.file(name), place)
            self._publisher.written += record.size
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
