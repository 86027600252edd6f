"""The one way a folder becomes an artifact: a workplace beside the target, and one rename under the target's lock.

An export and a download publish by it alike; what it refuses to replace, nobody replaces.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from precast.runtime.artifact.manifest import MANIFEST_NAME
from precast.runtime.artifact.reader import STAGING
from precast.runtime.artifact.staging import Staging, clean_up, target_lock
from precast.runtime.disk import check_space, full_disk, is_full
from precast.runtime.errors import ArtifactError, ExportError, InputError, OutputExistsError, PrecastError, listing
from precast.runtime.strict_json import parse_value

__all__ = ["Publisher"]


class Publisher:
    """Publishes to the folder ``out``; used as a context manager.

    ``mode``: ``create`` (nothing is there), ``overwrite`` (an artifact or an empty folder is exchanged in one step) or
    ``add`` (an artifact is there, and `publish` names the seal that it must still have). ``doing`` is for messages.

    Whatever is wrong with ``out`` is said at construction, before any work, and again at ``publish``. Leaving the
    block without it removes everything that was written; a killed process's leavings are removed by the next to
    publish to the same ``out``, a living one's are left alone.

    Raises ``OutputExistsError``, ``DiskSpaceError``, ``ExportError`` (the disk refused), ``ArtifactError`` (``add`` to
    nothing).
    """

    def __init__(self, out: str | os.PathLike[str], *, mode: str = "create", doing: str = "exporting") -> None:
        if mode not in ("create", "overwrite", "add"):
            raise InputError(f"mode must be 'create', 'overwrite' or 'add', got {mode!r}.")
        self.mode = mode
        self.target = _target(out, follow=mode != "create")
        self.written = 0
        self._expected = 0
        self.published = False
        self._doing = doing
        self._staging: Staging | None = None
        self._made_parents: list[Path] = []
        with self.io("look at the folder"):
            clean_up(self.target)
            _refuse_taken(self.target, mode)
            while mode != "create" and os.path.lexists(self.target / MANIFEST_NAME):
                with target_lock(self.target) as still_there:
                    if still_there:
                        _refuse_foreign(self.target)
                        break

    def __enter__(self) -> Publisher:
        try:
            with self.io("make a folder"):
                self._make_parents()
                self._staging = Staging(self.target)
        except BaseException:
            self.discard()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    @property
    def staging(self) -> Staging:
        """The workplace: ``artifact`` inside is what will be published, ``incoming`` is for unfinished files."""
        if self._staging is None:
            raise ExportError("An ArtifactWriter is used inside its `with` block.")
        return self._staging

    def expect(self, size: int) -> None:
        """Note that ``size`` more bytes will be written: what is told of a disk that turns out to be full."""
        self._expected = max(self._expected, self.written + size)

    def ensure_space(self, size: int) -> None:
        """Raise ``DiskSpaceError`` unless ``size`` more bytes fit on the target's disk."""
        self.expect(size)
        check_space(f"the artifact {self.target}", self.target.parent, size)

    def publish(self, seal: str | None = None) -> None:
        """Rename the workplace's ``artifact``, complete, synced and checked by the caller, to the target."""
        with self.io("publish"):
            self._rename(self.staging, seal)
        self.published = True

    def _rename(self, staging: Staging, seal: str | None) -> None:
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
                    if seal is not None and _seal_at(self.target) != seal:
                        raise ExportError(f"Another export replaced {self.target} meanwhile. Run this one again.")
                    staging.publish_instead()
                    return

    def _make_parents(self) -> None:
        missing = [parent for parent in self.target.parents if not parent.exists()]
        for parent in reversed(missing):
            with suppress(FileExistsError):
                os.mkdir(parent)
                self._made_parents.append(parent)

    def discard(self) -> None:
        """Remove the workplace, and the parents that were made for nothing."""
        if self._staging is not None:
            self._staging.remove()
            self._staging = None
        if not self.published:
            for parent in reversed(self._made_parents):
                with suppress(OSError):  # somebody else uses it by now
                    os.rmdir(parent)
            self._made_parents.clear()

    @contextmanager
    def io(self, what: str) -> Iterator[None]:
        """The disk's refusals as errors that say what to do."""
        try:
            yield
        except OSError as error:
            if isinstance(error, PrecastError):
                raise
            if is_full(error):
                # What was written is removed again, so it counts as free.
                needed, ours = max(self._expected, self.written + 1), self.written
                raise full_disk(
                    error, f"the artifact {self.target}", self.target.parent, needed=needed, ours=ours
                ) from error
            raise ExportError(
                f"Cannot {what} ({self._doing} to {self.target}): {error.strerror or error}. "
                f"Choose a folder that can be written to; {self.target.parent} is where the work is done."
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
                f"{target} already holds an artifact. --add puts a further variant of an export into it, --overwrite "
                "replaces it."
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
        document: Any = parse_value((target / MANIFEST_NAME).read_bytes())
        names = {MANIFEST_NAME, *document["files"]}
        known = isinstance(document["format"]["version"], str) and isinstance(document["seal"], str)
    except (OSError, ValueError, KeyError, TypeError):
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
        return parse_value((target / MANIFEST_NAME).read_bytes())["seal"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
