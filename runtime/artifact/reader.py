"""Opening an artifact: the manifest, the files, and what may be asked of them. Nothing is used before it is checked."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from precast.runtime.artifact.manifest import MANIFEST_NAME, Component, FileRecord, Manifest, Variant, parse
from precast.runtime.errors import ArtifactError, InputError, IntegrityError, UnsupportedTaskError, closest, listing
from precast.runtime.fields import shown
from precast.runtime.strict_json import parse_value

__all__ = ["STAGING", "Artifact", "open_real"]

# What ArtifactWriter calls the folder it works in: .<name>.precast-staging-<pid>-<random>
STAGING = re.compile(r"\.(.+)\.precast-staging-[0-9]+-[0-9a-f]{8}")
_CHUNK = 1 << 20
_MANIFEST_LIMIT = 64 << 20
_PARALLEL_FROM = 8 << 20
_EXACTNESS = ("fp32", "tf32", "fp16", "bf16", "int8", "fp8", "int4")
_AGAIN = "Export or download it again."


class Artifact:
    """A checked artifact. Immutable, and safe to use from many threads.

    ``check="digest"`` compares every file with its SHA-256 before anything is used; ``check="size"`` is the opt-out
    for those who have just done so: it compares sizes only (the manifest is always checked whole).
    """

    path: Path
    manifest: Manifest

    def __init__(self, path: Path, manifest: Manifest, *, check: str) -> None:
        self.path = path
        self.manifest = manifest
        self._check = check

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, check: str = "digest") -> Artifact:
        """Open and check the artifact in the folder ``path``.

        Raises ``ArtifactError`` when it is none, ``FormatVersionError`` when it is too new, and ``IntegrityError`` when
        a file is missing, is a link, or is not the one that was exported.
        """
        folder = Path(path)
        _refuse_what_is_no_artifact(folder)
        # Resolved once: a link on the way to the folder may change later, what was checked may not.
        folder = Path(os.path.realpath(folder))
        while True:
            before = _generation(folder)
            try:
                return cls.open_folder(folder, check=check)
            except IntegrityError:
                # An --overwrite or --add may have exchanged the folder under our hands: then look again.
                if _generation(folder) == before:
                    raise

    @classmethod
    def open_folder(cls, folder: Path, *, check: str) -> Artifact:
        """``open`` without the looking-around: for a real folder that holds a manifest, wherever it is."""
        if check not in ("digest", "size"):
            raise InputError(f"check must be 'digest' or 'size', got {check!r}.")
        manifest = parse(_read_manifest(folder), str(folder / MANIFEST_NAME))
        _check_files(folder, manifest.files, digests=check == "digest")
        return cls(folder, manifest, check=check)

    def __repr__(self) -> str:
        return f"Artifact({str(self.path)!r}, {self.manifest.model_type}, tasks: {listing(self.tasks)})"

    @property
    def digest(self) -> str:
        """The identity: equal for two exports of one source, whatever they cost."""
        return self.manifest.digest

    @property
    def tasks(self) -> tuple[str, ...]:
        """The default task first, the others in alphabetical order."""
        default = self.manifest.default_task
        return (default, *sorted(task for task in self.manifest.tasks if task != default))

    @property
    def default_task(self) -> str:
        return self.manifest.default_task

    @property
    def components(self) -> Mapping[str, Component]:
        return self.manifest.components

    def component(self, name: str) -> Component:
        try:
            return self.components[name]
        except KeyError:
            raise ArtifactError(_lacks(self, "component", name, self.components)) from None

    def component_for(self, task: str | None = None) -> Component:
        """The component that serves ``task`` (``None``: the default task)."""
        task = self.default_task if task is None else task
        if task not in self.manifest.tasks:
            raise UnsupportedTaskError(_lacks(self, "task", task, self.tasks))
        return self.components[self.manifest.tasks[task]["component"]]

    def variants(self, component: str) -> tuple[Variant, ...]:
        """Every variant of ``component``, by name."""
        return tuple(variant for _, variant in sorted(self.component(component).variants.items()))

    def choose_variant(
        self, component: str, target: str = "cpu", precision: str | None = None, variant: str | None = None
    ) -> Variant:
        """One variant of ``component``: by its name, or by target and precision.

        Without a precision the most exact one is taken: fp32 before fp16, bf16, int8, int4.
        """
        known = self.component(component).variants
        if variant is not None:
            if variant not in known:
                raise ArtifactError(_lacks(self, f"variant of {component!r} named", variant, known))
            return known[variant]
        fitting = [
            entry
            for entry in self.variants(component)
            if entry.target == target and (precision is None or entry.precision == precision)
        ]
        if not fitting:
            asked = f"target {target!r}" + (f" and precision {precision!r}" if precision is not None else "")
            held = listing(f"{v.name} (target {v.target}, {v.precision})" for v in self.variants(component))
            raise ArtifactError(
                f"{self.path} holds no variant of {component!r} for {asked}. It holds: {held}. "
                "Add one: precast export SOURCE OUT --target T --precision P --add."
            )
        best = min(_rank(entry) for entry in fitting)
        fitting = [entry for entry in fitting if _rank(entry) == best]
        # A variant without an ISA runs anywhere; one with an ISA is for who knows what it runs on.
        general = [entry for entry in fitting if entry.isa is None] or fitting
        if len(general) > 1:
            raise ArtifactError(
                f"{self.path} holds several variants of {component!r} that fit: "
                f"{listing(entry.name for entry in general)}. Name one: variant={general[0].name!r}."
            )
        return general[0]

    def has(self, name: str) -> bool:
        return name in self.manifest.files

    def file(self, name: str) -> Path:
        """Where the listed file ``name`` lies. Only files of the manifest have a place."""
        self._record(name)
        return self.path.joinpath(*name.split("/"))

    def read_bytes(self, name: str) -> bytes:
        """The content of a listed file, checked again as it is read."""
        record = self._record(name)
        with open_real(self.path, name) as (handle, _):
            data = _drain(handle, record.size)
        problem = _compare(name, record, len(data), hashlib.sha256(data).hexdigest(), digests=self._check == "digest")
        if problem is not None:
            raise IntegrityError(f"{self.path} was changed after it was opened: {problem}. {_AGAIN}")
        return data

    def read_json(self, name: str) -> Any:
        """The decoded content of a listed JSON file, read strictly."""
        try:
            return parse_value(self.read_bytes(name))
        except ValueError as error:
            raise ArtifactError(f"{name} in {self.path} is not valid JSON: {error!s:.200}. {_AGAIN}") from None

    def read_object(self, name: str) -> dict[str, Any]:
        """As ``read_json``, of a file that must hold an object."""
        value = self.read_json(name)
        if not isinstance(value, dict):
            raise ArtifactError(f"{name} in {self.path} must hold an object, got {shown(value)}. {_AGAIN}")
        return value

    def _record(self, name: str) -> FileRecord:
        try:
            return self.manifest.files[name]
        except KeyError:
            raise ArtifactError(_lacks(self, "file", name, self.manifest.files)) from None


def _rank(variant: Variant) -> int:
    return _EXACTNESS.index(variant.precision) if variant.precision in _EXACTNESS else len(_EXACTNESS)


def _lacks(artifact: Artifact, what: str, name: str, held: Mapping[str, Any] | tuple[str, ...]) -> str:
    near = closest(name, held)
    return f"{artifact.path} has no {what} {name!r}. {near}{' ' if near else ''}It has: {listing(sorted(held), 20)}."


def _refuse_what_is_no_artifact(folder: Path) -> None:
    try:
        kind = os.stat(folder)
    except FileNotFoundError:
        raise ArtifactError(
            f"There is no folder {folder}. "
            "An artifact is made by `precast export SOURCE OUT` or fetched by `precast pull`."
        ) from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{str(folder)!r} cannot be opened: {error}.") from error
    if not stat.S_ISDIR(kind.st_mode):
        raise ArtifactError(f"An artifact is a folder, {folder} is a file. Give the folder that holds {MANIFEST_NAME}.")
    own = Path(os.path.realpath(folder))
    if STAGING.fullmatch(own.name) or STAGING.fullmatch(own.parent.name):
        raise ArtifactError(f"{folder} is the workplace of an unfinished export, not an artifact. Export again.")
    if os.path.lexists(folder / MANIFEST_NAME):
        return
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise ArtifactError(f"{folder} cannot be read: {error.strerror}.") from error
    if "config.json" in names or any(name.endswith((".safetensors", ".index.json")) for name in names):
        raise ArtifactError(
            f"{folder} is a checkpoint, not an artifact: it has no {MANIFEST_NAME}. "
            f"Make one: precast export {folder} OUT (needs pip install 'precast[export]')."
        )
    inner = [name for name in names if os.path.lexists(folder / name / MANIFEST_NAME)]
    hint = f" Did you mean {listing((str(folder / name) for name in inner), 3)}?" if inner else ""
    raise ArtifactError(f"{folder} is not an artifact: it has no {MANIFEST_NAME}.{hint}")


def _generation(folder: Path) -> tuple[int, ...]:
    """Which of several artifacts, published here one after the other, this is."""
    marks: list[int] = []
    for path in (folder, folder / MANIFEST_NAME):
        with suppress(OSError):
            status = os.lstat(path)
            # The number alone is not enough: a file system gives that of a deleted file to the next one.
            marks += (status.st_ino, status.st_ctime_ns)
    return tuple(marks)


@contextmanager
def open_real(folder: Path, name: str) -> Iterator[tuple[int, os.stat_result]]:
    """A descriptor of the file ``name`` and its status; no link below ``folder`` is followed.

    Raises ``IntegrityError`` for what is missing, a link, or no regular file.
    """
    *parents, last = name.split("/")
    handles: list[int] = []
    # Without O_NONBLOCK, opening a named pipe would wait for a writer for ever.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        try:
            handles.append(os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY))
            for parent in parents:
                handles.append(os.open(parent, flags | os.O_DIRECTORY, dir_fd=handles[-1]))
            handles.append(os.open(last, flags, dir_fd=handles[-1]))
        except OSError as error:
            step = "/".join([*parents, last][: len(handles)]) if handles else str(folder)
            raise IntegrityError(_why_unopened(folder, step, name, error)) from error
        status = os.fstat(handles[-1])
        if not stat.S_ISREG(status.st_mode):
            raise IntegrityError(f"{name} is not a regular file")
        if status.st_nlink > 1:
            raise IntegrityError(
                f"{name} has {status.st_nlink} hard links; an artifact holds files of its own only (copy it with cp -r)"
            )
        yield handles[-1], status
    finally:
        for handle in reversed(handles):
            os.close(handle)


def _why_unopened(folder: Path, step: str, name: str, error: OSError) -> str:
    with suppress(OSError):
        if stat.S_ISLNK(os.lstat(folder / step).st_mode):
            through = "is" if step == name else f"lies behind {step}, which is"
            return f"{name} {through} a symbolic link; an artifact holds real files only (copy it with cp -rL)"
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return f"{name} is missing"
    return f"{name} cannot be read ({error.strerror})"


def _read_manifest(folder: Path) -> bytes:
    try:
        with open_real(folder, MANIFEST_NAME) as (handle, status):
            if status.st_size <= _MANIFEST_LIMIT:
                return _drain(handle, status.st_size)
    except IntegrityError as error:
        raise IntegrityError(f"{folder} is not a whole artifact: {error}. {_AGAIN}") from error
    raise ArtifactError(f"{folder / MANIFEST_NAME} is no manifest: {status.st_size} bytes, at most {_MANIFEST_LIMIT}.")


def _drain(handle: int, expected: int) -> bytes:
    """All bytes of a small file; one byte more than expected is enough to know that it grew."""
    parts: list[bytes] = []
    left = expected + 1
    while left > 0 and (part := os.read(handle, left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _check_files(folder: Path, files: Mapping[str, FileRecord], *, digests: bool) -> None:
    """Every file of the manifest is there, real, of its size and (``digests``) of its content."""
    problems: dict[str, str] = {}

    def check(name: str) -> None:
        record = files[name]
        try:
            with open_real(folder, name) as (handle, status):
                size, sha256 = status.st_size, ""
                if digests and size == record.size:
                    size, sha256 = _hash(handle)
            problem = _compare(name, record, size, sha256, digests=digests)
        except IntegrityError as error:
            problem = str(error)
        except OSError as error:
            problem = f"{name} cannot be read ({error.strerror})"
        if problem is not None:
            problems[name] = problem

    # The largest first, so that the last thread to finish does not start on the largest.
    _in_parallel(check, sorted(files, key=lambda name: -files[name].size), sum(r.size for r in files.values()), digests)
    if problems:
        told = [problems[name] for name in sorted(problems)]
        rest = f"; and {len(told) - 3} more" if len(told) > 3 else ""
        raise IntegrityError(f"{folder} is not the artifact that was exported: {'; '.join(told[:3])}{rest}. {_AGAIN}")


def _hash(handle: int) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    buffer = bytearray(_CHUNK)
    view = memoryview(buffer)
    while count := os.readv(handle, [buffer]):
        digest.update(view[:count])
        size += count
    return size, digest.hexdigest()


def _compare(name: str, record: FileRecord, size: int, sha256: str, *, digests: bool) -> str | None:
    if size != record.size:
        return f"{name} has {size} bytes instead of {record.size}"
    if digests and sha256 != record.sha256:
        return f"{name} differs from its recorded SHA-256"
    return None


def _in_parallel(work: Callable[[str], None], names: list[str], total: int, digests: bool) -> None:
    """Hashing lets other threads run, so a second core halves the time. Small artifacts are not worth a thread."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = min(len(names), cores, 8)
    if not digests or total < _PARALLEL_FROM or threads < 2:
        for name in names:
            work(name)
        return
    from threading import Thread

    queue = iter(names)  # a list iterator is advanced by one thread at a time

    def drain() -> None:
        for name in queue:
            work(name)

    pool = [Thread(target=drain, name="precast-digest", daemon=True) for _ in range(threads - 1)]
    for thread in pool:
        thread.start()
    drain()
    for thread in pool:
        thread.join()
