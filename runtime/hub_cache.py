"""huggingface_hub's cache of one repository, as every program that shares it lays it out.

``models--org--name/``: ``blobs/<digest>`` the bytes, ``snapshots/<commit>/<name>`` links to them, ``refs/<revision>``
commits. https://huggingface.co/docs/huggingface_hub/guides/manage-cache
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from precast.runtime.hub_files import Entry

__all__ = ["RepoCache"]

_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class RepoCache:
    """The cache of ``repo_id`` in ``root``. Commits, names and digests have been checked by who gives them."""

    def __init__(self, root: Path, repo_id: str) -> None:
        self.folder = root / "--".join(("models", *repo_id.split("/")))
        self._blobs = self.folder / "blobs"
        self._snapshots = self.folder / "snapshots"

    def blob(self, entry: Entry) -> Path:
        self._blobs.mkdir(parents=True, exist_ok=True)
        return self._blobs / entry.digest

    def workplace(self, entry: Entry) -> Path:
        """A new name beside the blob for the bytes that come, as huggingface_hub gives it."""
        return self.blob(entry).with_name(f"{entry.digest}.{secrets.token_hex(4)}.incomplete")

    def snapshot(self, commit: str) -> Path:
        return self._snapshots / commit

    def link(self, commit: str, entry: Entry) -> Path:
        """The snapshot's entry for a blob that is there: a link, or a copy where the file system has none."""
        blob, place = self.blob(entry), self.snapshot(commit).joinpath(*entry.name.split("/"))
        place.parent.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):
            if os.path.samefile(place, blob):
                return place
        new = place.with_name(f".{secrets.token_hex(8)}.new")
        try:
            try:
                os.symlink(os.path.relpath(blob, place.parent), new)
            except OSError:
                shutil.copyfile(blob, new)
            os.replace(new, place)
        finally:
            new.unlink(missing_ok=True)
        return place

    def remember(self, revision: str, commit: str) -> None:
        """What a branch or a tag stood for when it was last asked; offline needs that."""
        if revision == commit:
            return
        place = self.folder.joinpath("refs", *revision.split("/"))
        place.parent.mkdir(parents=True, exist_ok=True)
        new = place.with_name(f".{secrets.token_hex(8)}.new")
        try:
            new.write_text(commit)
            os.replace(new, place)
        finally:
            new.unlink(missing_ok=True)

    def find(self, revision: str, anchors: tuple[str, ...]) -> Path | None:
        """The snapshot of ``revision`` that holds one of ``anchors``."""
        commit = revision
        if not _COMMIT.fullmatch(revision):
            try:
                commit = self.folder.joinpath("refs", *revision.split("/")).read_text().strip()
            except (OSError, ValueError):
                return None
        if not _COMMIT.fullmatch(commit):
            return None
        folder = self.snapshot(commit)
        return folder if any((folder / anchor).is_file() for anchor in anchors) else None

    def promised(self, path: Path) -> str | None:
        """The digest that a snapshot's entry was linked under, or ``None`` where it is a plain file."""
        with suppress(OSError):
            name = os.path.basename(os.readlink(path))
            return name if _DIGEST.fullmatch(name) else None
        return None

    def remove(self, path: Path) -> None:
        """Remove a snapshot's entry, and its blob where that lies among this cache's blobs; nothing else is touched."""
        with suppress(OSError):
            target = path.parent / os.readlink(path)
            # Its folder is resolved and its own last step is not: what a blob links to is not of this repository.
            if target.parent.resolve() == self._blobs.resolve() and _DIGEST.fullmatch(target.name):
                target.unlink()
        with suppress(OSError):
            if path.parent.resolve().is_relative_to(self._snapshots.resolve()):
                path.unlink()
