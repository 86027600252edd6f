"""A repository's listing, and the bytes it promises. What a server names becomes a path here only after it was checked.

Of an answer with a file, nothing but the bytes is used: its name, size, digest and commit are the listing's.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from precast.runtime import hub_client
from precast.runtime.errors import HubError, OfflineError
from precast.runtime.hub_transport import ask
from precast.runtime.strict_json import parse_value

__all__ = ["LISTING_LIMIT", "Entry", "Listing", "download", "file_digests", "list_files"]

LISTING_LIMIT: Final = 64 << 20  # bytes; a hundred thousand files take a third of it

_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # NUL, what a terminal obeys, half a letter
_LARGEST = 1 << 50
_PROGRESS = 1 << 20


@dataclass(frozen=True)
class Entry:
    """A file as the Hub lists it: bytes, and the SHA-256 of a large file or the git SHA-1 of a small one."""

    name: str
    size: int
    digest: str

    def matches(self, sha256: str, git: str) -> bool:
        return self.digest == (sha256 if len(self.digest) == 64 else git)


@dataclass(frozen=True)
class Listing:
    """A repository's files at one commit. Names are checked, sizes and digests are when an entry is chosen."""

    repo_id: str
    commit: str
    _entries: Mapping[str, tuple[Any, Any]]

    @property
    def names(self) -> Iterable[str]:
        return self._entries.keys()

    def chosen(self, names: Iterable[str]) -> list[Entry]:
        """The entries of ``names``, each with a size and a digest, no two of which would meet on a disk."""
        entries = [self._entry(name) for name in names]
        seen: dict[str, str] = {}
        for entry in entries:
            plain = unicodedata.normalize("NFC", entry.name).casefold()
            other = seen.setdefault(plain, entry.name)
            parents = [plain.rsplit("/", up)[0] for up in range(1, plain.count("/") + 1)]
            other = next((seen[parent] for parent in parents if parent in seen), other)
            if other != entry.name:
                raise HubError(
                    f"{self.repo_id!r} lists {other!r} and {entry.name!r}, which not every disk can hold side by side. "
                    "They are not fetched."
                )
        return entries

    def _entry(self, name: str) -> Entry:
        size, digest = self._entries[name]
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise HubError(f"{self.repo_id!r} lists {name} with the digest {digest!r:.100}, which is none.")
        if type(size) is not int or not 0 <= size <= _LARGEST:
            raise HubError(f"{self.repo_id!r} lists {name} with {size!r:.100} bytes, which no file has.")
        return Entry(name, size, digest)


def list_files(repo_id: str, revision: str | None, token: str | None) -> Listing:
    """What the repository holds at ``revision``. ``HubError`` for a name that leads out of its folder."""
    if hub_client.offline_mode():
        raise hub_client.offline_error(repo_id)
    address = f"{hub_client.endpoint()}/api/models/{repo_id}"
    if revision is not None:
        address += f"/revision/{quote(revision, safe='')}"

    def read() -> bytes:
        headers, authorization = hub_client.headers(token)
        what = f"the listing of {repo_id!r}"
        with ask(f"{address}?blobs=true", headers, what=what, limit=LISTING_LIMIT, token=authorization) as answer:
            return b"".join(answer.chunks)

    raw = hub_client.call(read, repo_id, revision)
    try:
        document = parse_value(raw)
        commit, siblings = document.get("sha"), document.get("siblings")
    except (ValueError, AttributeError):
        commit, siblings = None, None
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit) or not isinstance(siblings, list):
        raise HubError(f"{hub_client.endpoint()} names no commit for {repo_id!r}. Check HF_ENDPOINT: is it a Hub?")
    entries: dict[str, tuple[Any, Any]] = {}
    for sibling in siblings:
        fields = sibling if isinstance(sibling, dict) else {}
        name, lfs = fields.get("rfilename"), fields.get("lfs")
        if not isinstance(name, str) or not _stays_inside(name):
            raise HubError(f"{repo_id!r} lists a file {name!r:.120}, which leads out of its folder. It is not fetched.")
        entries[name] = (
            (lfs.get("size"), lfs.get("sha256"))
            if isinstance(lfs, dict)
            else (fields.get("size"), fields.get("blobId"))
        )
    return Listing(repo_id, commit, entries)


def _stays_inside(name: str) -> bool:
    parts = name.split("/")
    return not _UNSEEN.search(name) and not any(
        part in ("", ".", "..") or set(part) & set("\\:") or len(part.encode()) > 255 for part in parts
    )


def download(repo_id: str, commit: str, entry: Entry, path: Path, token: str | None) -> str:
    """Fetch a file to ``path``, which does not exist yet; returns its SHA-256.

    It goes on where the line broke. Raises ``HubError`` where the bytes are not those of the listing; no file is left
    then.
    """
    what = f"{entry.name} of {repo_id!r}"
    address = f"{hub_client.endpoint()}/{repo_id}/resolve/{commit}/{quote(entry.name)}"
    received = _Received(path, entry)

    def fetch() -> None:
        if received.size == entry.size:
            return  # the line broke behind the last byte, or there is none
        headers, authorization = hub_client.headers(token)
        with (
            hub_client.progress(entry.name, entry.size) as advance,
            ask(address, headers, what=what, limit=entry.size, start=received.size, token=authorization) as answer,
        ):
            if answer.start != received.size:
                received.begin()
            advance(received.size)
            for chunk in answer.chunks:
                received.add(chunk)
                advance(len(chunk))
        if received.size < entry.size and answer.announced:
            raise HubError(
                f"{what} came with another size than listed: {received.size} bytes for {entry.size}. Try again."
            )
        if received.size < entry.size:
            raise http.client.IncompleteRead(b"", entry.size - received.size)

    try:
        while True:
            before = received.size
            try:
                hub_client.call(fetch, repo_id, commit)
                break
            except OfflineError:
                # A long download over a bad line may break more often than a request may be tried again.
                if received.size - before < _PROGRESS:
                    raise
        received.close()
        sha256, git = received.digests()
        if not entry.matches(sha256, git):
            raise HubError(
                f"{what} does not have the digest the Hub names it by: expected {entry.digest}, got {sha256} "
                "(SHA-256). Nothing was kept. Try again; if it stays so, do not trust the source."
            )
    except BaseException:
        received.close()
        path.unlink(missing_ok=True)
        raise
    return sha256


class _Received:
    """The beginning of a file, on disk and hashed as it comes."""

    def __init__(self, path: Path, entry: Entry) -> None:
        self._file = open(path, "xb", buffering=0)  # noqa: SIM115 - closed by `close`
        self._entry = entry
        self.begin()

    def begin(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self.size = 0
        self._sha256 = hashlib.sha256()
        self._git = hashlib.sha1(b"blob %d\0" % self._entry.size, usedforsecurity=False)

    def add(self, chunk: bytes) -> None:
        view = memoryview(chunk)
        while view:
            view = view[self._file.write(view) :]
        self.size += len(chunk)
        self._sha256.update(chunk)
        self._git.update(chunk)

    def digests(self) -> tuple[str, str]:
        return self._sha256.hexdigest(), self._git.hexdigest()

    def close(self) -> None:
        self._file.close()


def file_digests(path: Path) -> tuple[str, str]:
    """SHA-256 of the bytes, and SHA-1 as git counts it (with the header ``blob <size>``), both in hexadecimal."""
    sha256, sha1 = hashlib.sha256(), hashlib.sha1(usedforsecurity=False)
    with path.open("rb", buffering=0) as file:
        sha1.update(b"blob %d\0" % os.fstat(file.fileno()).st_size)
        while chunk := file.read(1 << 20):
            sha256.update(chunk)
            sha1.update(chunk)
    return sha256.hexdigest(), sha1.hexdigest()
