"""Opening an artifact: the manifest, the files, and what may be asked of them. Nothing is used before it is checked."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from precast.runtime import arguments
from precast.runtime.artifact.component import Component, Variant
from precast.runtime.artifact.manifest import MANIFEST_NAME, FileRecord, Manifest, parse
from precast.runtime.artifact.real_files import AGAIN, Mark, check_files, compare, drain, mark, open_real
from precast.runtime.errors import ArtifactError, InputError, IntegrityError, UnsupportedTaskError, closest, listing
from precast.runtime.fields import shown
from precast.runtime.processors import TOKENIZER_FILES
from precast.runtime.strict_json import parse_value

__all__ = ["STAGING", "Artifact"]

# What ArtifactWriter calls the folder it works in: .<name>.precast-staging-<pid>-<random>
STAGING = re.compile(r"\.(.+)\.precast-staging-[0-9]+-[0-9a-f]{8}")
_MANIFEST_LIMIT = 64 << 20
_EXACTNESS = ("fp32", "tf32", "fp16", "bf16", "int8", "fp8", "int4")
_LOOKS, _FREE_LOOKS = 20, 4  # how often an artifact that is being replaced is opened; so often without making it wait

_WAITS = 100  # for an exchange in two steps; after a second it is one that was killed

T = TypeVar("T")


class Artifact:
    """A checked artifact. Immutable, and safe to use from many threads.

    ``check="digest"`` compares every file with its SHA-256 before anything is used; ``check="size"`` is the opt-out
    for those who have just done so: it compares sizes only (the manifest is always checked whole).
    """

    path: Path
    manifest: Manifest

    def __init__(self, path: Path, manifest: Manifest, *, check: str, marks: Mapping[str, Mark]) -> None:
        self.path = path
        self.manifest = manifest
        self._check = check
        self._marks = marks
        self._held: dict[str, int] = {}
        weakref.finalize(self, _close, self._held)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, check: str = "digest") -> Artifact:
        """Open and check the artifact in the folder ``path``.

        Raises ``ArtifactError`` when it is none, ``FormatVersionError`` when it is too new, and ``IntegrityError`` when
        a file is missing, is a link, or is not the one that was exported.
        """
        return cls.use(path, lambda artifact: artifact, check=check)

    @classmethod
    def use(cls, path: str | os.PathLike[str], action: Callable[[Artifact], T], *, check: str = "digest") -> T:
        """``action(artifact)``, where what it opens by name is what was checked: libraries take paths, not bytes.

        Where an --overwrite, an --add or anybody changes the folder meanwhile, the result is dropped (an error too),
        and the new artifact is checked and given to ``action``. In the end its publishers are made to wait.

        Raises what ``open`` and ``action`` raise.
        """
        folder = arguments.path("path", path)
        _wait_for_exchange(folder)
        _refuse_what_is_no_artifact(folder)
        # Resolved once: a link on the way to the folder may change later, what was checked may not.
        folder = Path(os.path.realpath(folder))
        for look in range(_LOOKS):
            _wait_for_exchange(folder)
            with _watched(folder, still=look >= _FREE_LOOKS) as generation:
                try:
                    artifact = cls.open_folder(folder, check=check)
                    result = action(artifact)
                except Exception:
                    if _generation(folder) == generation and not _set_aside(folder):
                        raise
                else:
                    if _generation(folder) == generation and artifact.untouched():
                        return result
        raise ArtifactError(
            f"{folder} changed each of the {_LOOKS} times it was opened. Try again when nobody writes to it."
        )

    @classmethod
    def open_folder(cls, folder: Path, *, check: str) -> Artifact:
        """``open`` without the looking-around: for a real folder that holds a manifest, wherever it is."""
        if not isinstance(check, str) or check not in ("digest", "size"):
            raise InputError(f"check must be 'digest' or 'size', got {check!r}.")
        manifest = parse(_read_manifest(folder), str(folder / MANIFEST_NAME))
        marks = check_files(folder, manifest.files, digests=check == "digest")
        return cls(folder, manifest, check=check, marks=marks)

    def untouched(self) -> bool:
        """Whether every file is the one that was checked, as far as the file system tells."""
        try:
            return all(mark(os.lstat(self.file(name))) == checked for name, checked in self._marks.items())
        except OSError:
            return False

    def hold(self, names: Iterable[str]) -> None:
        """Keep listed files open: ``read_bytes`` gives their content whatever is published in this folder later."""
        for name in names:
            self._record(name)
            if name not in self._held:
                with open_real(self.path, name) as (handle, _):
                    self._held[name] = os.dup(handle)

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
            if arguments.text("variant", variant) not in known:
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

    @property
    def processing_files(self) -> tuple[str, ...]:
        """What a loaded model reads besides its graphs: configs, the tokenizer, what is made of embeddings."""
        graphs = {variant.graph for part in self.components.values() for variant in part.variants.values()}
        return tuple(
            name for name in self.manifest.files if name not in graphs and not name.startswith(("weights/", "parity/"))
        )

    def reading(self, kind: str) -> Mapping[str, Any]:
        """How inputs of a kind, "text" or "image", are read: the ``port`` that is filled and the ``files`` or ``steps``
        by which, or why that is ``missing``. Empty where the artifact says nothing of them."""
        processing = self.manifest.processing
        said: Mapping[str, Any] = processing.get(kind, {})
        if not said and kind == "text":
            # Formats before 1.3 say whether there is a tokenizer; its files have the names they always have.
            files = [name for name in TOKENIZER_FILES if self.has(name)]
            if "tokenizer.json" in files:
                return {"port": "input_ids", "files": files}
            older = processing.get("tokenizer", {})
            return {"port": "input_ids", "missing": older.get("reason") or "its checkpoint had none"} if older else {}
        return said

    @property
    def reads(self) -> dict[str, dict[str, Any]]:
        """`reading` of every kind that the artifact says something of."""
        found = {kind: dict(self.reading(kind)) for kind in ("text", "image")}
        return {kind: said for kind, said in found.items() if said}

    def has(self, name: str) -> bool:
        return name in self.manifest.files

    def file(self, name: str) -> Path:
        """Where the listed file ``name`` lies. Only files of the manifest have a place."""
        self._record(name)
        return self.path.joinpath(*name.split("/"))

    def read_bytes(self, name: str, *, digest: bool = False) -> bytes:
        """The content of a listed file, checked again as it is read; ``digest``: by that in any case."""
        record = self._record(name)
        held = self._held.get(name)
        if held is not None:
            data = drain(held, record.size)
        else:
            with open_real(self.path, name) as (handle, _):
                data = drain(handle, record.size)
        digests = digest or self._check == "digest"
        problem = compare(name, record, len(data), hashlib.sha256(data).hexdigest(), digests=digests)
        if problem is not None:
            raise IntegrityError(f"{self.path} was changed after it was opened: {problem}. {AGAIN}")
        return data

    def read_json(self, name: str) -> Any:
        """The decoded content of a listed JSON file, read strictly."""
        try:
            return parse_value(self.read_bytes(name))
        except ValueError as error:
            raise ArtifactError(f"{name} in {self.path} is not valid JSON: {error!s:.200}. {AGAIN}") from None

    def read_object(self, name: str) -> dict[str, Any]:
        """As ``read_json``, of a file that must hold an object."""
        value = self.read_json(name)
        if not isinstance(value, dict):
            raise ArtifactError(f"{name} in {self.path} must hold an object, got {shown(value)}. {AGAIN}")
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


def _generation(folder: Path) -> tuple[Mark, ...]:
    """Which of several artifacts, published here one after the other, this is."""
    marks: list[Mark] = []
    for path in (folder, folder / MANIFEST_NAME):
        with suppress(OSError):
            marks.append(mark(os.lstat(path)))
    return tuple(marks)


def _set_aside(folder: Path) -> bool:
    """Whether this is the moment between the two renames of a file system that cannot exchange two folders."""
    if os.path.lexists(folder):
        return False
    from precast.runtime.artifact.staging import is_set_aside

    with suppress(ValueError):  # no path at all, which is said elsewhere
        return is_set_aside(Path(os.path.realpath(folder)))
    return False


def _wait_for_exchange(folder: Path) -> None:
    for _ in range(_WAITS):
        if not _set_aside(folder):
            return
        time.sleep(0.01)


@contextmanager
def _watched(folder: Path, *, still: bool) -> Iterator[tuple[Mark, ...]]:
    """The generation of ``folder``, whose number no other folder can get meanwhile, since it is held open.

    ``still``: under the lock that its publishers wait for, which they would notice; so that is not how one begins.
    """
    with ExitStack() as stack:
        if still:
            from precast.runtime.artifact.staging import target_lock

            with suppress(OSError):
                stack.enter_context(target_lock(folder, shared=True))
        with suppress(OSError):
            stack.callback(os.close, os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY))
        yield _generation(folder)


def _close(handles: dict[str, int]) -> None:
    for handle in handles.values():
        os.close(handle)
    handles.clear()


def _read_manifest(folder: Path) -> bytes:
    try:
        with open_real(folder, MANIFEST_NAME) as (handle, status):
            if status.st_size <= _MANIFEST_LIMIT:
                return drain(handle, status.st_size)
    except IntegrityError as error:
        raise IntegrityError(f"{folder} is not a whole artifact: {error}. {AGAIN}") from error
    raise ArtifactError(f"{folder / MANIFEST_NAME} is no manifest: {status.st_size} bytes, at most {_MANIFEST_LIMIT}.")
