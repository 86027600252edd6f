"""The Hub: checkpoints come from it, artifacts go to it and come back. huggingface_hub is imported on first use.

It is asked where the Hub and its cache are, and uploads. What comes down is fetched here (hub_files.py): it would
compare sizes only, wait without end, and name files as a server's headers say.
"""

from __future__ import annotations

import fnmatch
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from precast.runtime import hub_client
from precast.runtime.artifact.file_names import check_file_names
from precast.runtime.artifact.publisher import Publisher
from precast.runtime.artifact.staging import sync
from precast.runtime.disk import check_space, full_disk, is_full
from precast.runtime.errors import ArtifactError, HubError, OfflineError, PrecastError, listing
from precast.runtime.hub_cache import RepoCache
from precast.runtime.hub_files import Entry, Listing, download, file_digests, list_files
from precast.runtime.hub_names import check_id, check_revision, wanted_files
from precast.runtime.hub_transport import SLOWEST
from precast.runtime.strict_json import parse_value

__all__ = ["PUSH_ALLOWANCE", "Resolved", "pull", "push", "resolve"]

_MANIFEST = "precast.json"
_OWNED = ("weights/*", "parity/*", "*.onnx")  # what a push replaces, even where the new artifact has less
_WORKERS = 4
PUSH_ALLOWANCE: Final = 600.0  # seconds for one step of a push, besides the time its bytes take

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Resolved:
    """A repository's files, here and verified.

    ``hashes`` holds the SHA-256 of each file by its name in the repository, ``revision`` the commit, ``available``
    what the repository lists (empty where the Hub was not asked).
    """

    folder: Path
    id: str
    revision: str | None
    hashes: dict[str, str] = field(default_factory=dict)
    available: tuple[str, ...] = ()


def resolve(
    source: str,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
    patterns: Sequence[str] | None = None,
) -> Resolved:
    """The repository ``source`` at ``revision`` (default: its main branch), in huggingface_hub's cache.

    Only what an export needs is fetched (``wanted_files``), or what ``patterns`` match. ``offline=True`` or
    HF_HUB_OFFLINE takes the cached copy; so does an unreachable Hub, with a warning.

    Raises ``HubError`` where the Hub refuses or sends other bytes than it promised, ``OfflineError`` where it cannot
    be asked and there is no whole copy.
    """
    select = wanted_files if patterns is None else _matching(patterns)
    check_id(source)
    check_revision(revision)
    cache = RepoCache(hub_client.cache_folder() if cache_dir is None else Path(cache_dir).expanduser(), source)
    if offline or hub_client.offline_mode():
        return _cached(cache, source, revision, select, "offline mode is on")
    try:
        found = list_files(source, revision, token)
    except OfflineError as error:
        try:
            copy = _cached(cache, source, revision, select, "it cannot be reached")
        except OfflineError:
            raise error from None
        _log.warning("The Hub cannot be reached; the cached copy of %s at %s is used.", source, copy.revision)
        return copy
    names = select(found.names)
    if not names:
        raise HubError(
            f"{source!r} on {hub_client.endpoint()} holds nothing an export reads (config.json, safetensors ...). "
            f"It holds: {listing(sorted(found.names), 12)}."
        )
    entries = found.chosen(names)
    try:
        hashes = _fill(cache, found, entries, token)
        cache.remember(revision or "main", found.commit)
    except OSError as error:
        if isinstance(error, PrecastError):
            raise
        if is_full(error):
            raise full_disk(error, f"the files of {source!r}", cache.folder) from error
        raise HubError(
            f"The cache {cache.folder} cannot be written: {error.strerror or error}. Point HF_HOME to another folder."
        ) from error
    return Resolved(cache.snapshot(found.commit), source, found.commit, hashes, tuple(sorted(found.names)))


def _fill(cache: RepoCache, found: Listing, entries: Sequence[Entry], token: str | None) -> dict[str, str]:
    """Every entry's bytes in the cache, verified, and its link in the snapshot; their SHA-256 by name."""

    def here(entry: Entry) -> str | None:
        blob = cache.blob(entry)
        if not blob.is_file():
            return None
        sha256, git = file_digests(blob)
        if entry.matches(sha256, git):
            return sha256
        blob.unlink()  # damaged since: fetched again
        return None

    def fetch(entry: Entry) -> str:
        work = cache.workplace(entry)
        sha256 = download(found.repo_id, found.commit, entry, work, token)
        os.replace(work, cache.blob(entry))
        return sha256

    with ThreadPoolExecutor(max_workers=min(_WORKERS, os.cpu_count() or 1)) as pool:
        known = dict(zip(entries, pool.map(here, entries), strict=True))
    absent = list({entry.digest: entry for entry, sha256 in known.items() if sha256 is None}.values())
    check_space(f"the files of {found.repo_id!r}", cache.folder, sum(entry.size for entry in absent))
    with ThreadPoolExecutor(max_workers=_WORKERS) as pool:
        new = {entry.digest: sha256 for entry, sha256 in zip(absent, pool.map(fetch, absent), strict=True)}
    for entry in entries:
        cache.link(found.commit, entry)
    return {entry.name: sha256 or new[entry.digest] for entry, sha256 in known.items()}


def _matching(patterns: Sequence[str]) -> Callable[[Iterable[str]], list[str]]:
    def select(names: Iterable[str]) -> list[str]:
        return sorted(name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns))

    return select


def _cached(
    cache: RepoCache,
    repo_id: str,
    revision: str | None,
    select: Callable[[Iterable[str]], list[str]],
    reason: str,
) -> Resolved:
    """The copy in the cache, verified. ``OfflineError`` where there is none or it is not whole."""
    folder = cache.find(revision or "main", ("config.json", "modules.json", _MANIFEST))
    at = f" at revision {revision!r}" if revision else ""
    advice = "Run it once with the Hub in reach (HF_HUB_OFFLINE unset), or give a local folder."
    if folder is None:
        raise OfflineError(f"{repo_id!r}{at} is not in the cache, and the Hub is not asked: {reason}. {advice}")
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    missing = _missing_weights(folder, set(names))
    if missing and select is wanted_files:
        raise OfflineError(
            f"The cached copy of {repo_id!r}{at} lacks {listing(missing, 5)}; the Hub is not asked: {reason}. {advice}"
        )
    paths = {name: folder / name for name in select(names)}
    return Resolved(folder, repo_id, folder.name, _verified(cache, repo_id, paths))


def _missing_weights(folder: Path, names: set[str]) -> list[str]:
    """What a cached snapshot's index promises and it lacks; ``["weights"]`` where it has none at all."""
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if index in names and not names & {"model.safetensors", "pytorch_model.bin"}:
            try:
                shards = parse_value((folder / index).read_bytes())["weight_map"].values()
                return sorted({str(shard) for shard in shards} - names)
            except (ValueError, KeyError, AttributeError, TypeError):
                return []  # whoever reads the index reports it
    weights = any(name.endswith((".safetensors", ".bin", ".index.json")) for name in names)
    return [] if weights or _MANIFEST in names else ["weights"]


def _verified(cache: RepoCache, repo_id: str, paths: Mapping[str, Path]) -> dict[str, str]:
    """SHA-256 of each file, after comparing it with the digest that the cache names its blob by."""

    def check(name: str) -> tuple[str, str | None]:
        sha256, git = file_digests(paths[name])
        promised = cache.promised(paths[name])
        return sha256, None if promised in (None, sha256, git) else promised

    with ThreadPoolExecutor(max_workers=min(_WORKERS, os.cpu_count() or 1)) as pool:
        results = dict(zip(paths, pool.map(check, paths), strict=True))
    wrong = {name: digest for name, (_, digest) in results.items() if digest is not None}
    for name in wrong:
        cache.remove(paths[name])
    if wrong:
        name, digest = next(iter(wrong.items()))
        raise HubError(
            f"{name} of {repo_id!r} does not have the digest the Hub names it by: expected {digest}, got "
            f"{results[name][0]} (SHA-256). {_removed(wrong)} Try again; if it stays so, do not trust the source."
        )
    return {name: sha256 for name, (sha256, _) in results.items()}


def _removed(wrong: Mapping[str, str | None]) -> str:
    return "It was removed from the cache." if len(wrong) == 1 else f"Removed from the cache: {listing(wrong, 8)}."


def push(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    private: bool | None = None,
    message: str = "Upload a Precast artifact",
    check: Callable[[Path], object] | None = None,
) -> str:
    """Uploads the artifact in ``folder`` as ONE commit, creating the repository where needed; returns its address.

    The artifact is verified first (``check``; by default opened with every digest compared).

    Files of an older artifact that the new one lacks are deleted in the same commit; a README stays. Raises
    ``ArtifactError`` where the folder is none, ``HubError`` where the Hub refuses.
    """
    root = Path(folder)
    if not (root / _MANIFEST).is_file():
        raise ArtifactError(
            f"An artifact is a folder with {_MANIFEST}; {root.name!r} is not. Make one with `precast export`."
        )
    check_id(repo_id)
    check_revision(revision)
    local: dict[str, Path] = {}
    for path in sorted(root.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ArtifactError(
                f"{path.relative_to(root)} is a link or no regular file; artifacts hold real files only."
            )
        if path.is_file():
            local[path.relative_to(root).as_posix()] = path
    (check or _check_artifact)(root)
    hub = hub_client.hub()
    api = hub.HfApi(token=token)

    def ask(action: Callable[[], Any], doing: str, size: int = 0) -> Any:
        seconds = PUSH_ALLOWANCE + size / SLOWEST
        return hub_client.within(
            seconds, lambda: hub_client.call(action, repo_id, revision, doing), f"to {doing} {repo_id!r}"
        )

    ask(lambda: api.create_repo(repo_id, private=private, exist_ok=True), "create")
    if revision is not None and revision != "main":
        ask(lambda: api.create_branch(repo_id, branch=revision, exist_ok=True), "write to")
    remote = list_files(repo_id, revision, token).names
    stale = [name for name in remote if name not in local and any(fnmatch.fnmatchcase(name, own) for own in _OWNED)]

    def commit() -> Any:
        adds = [hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(path)) for name, path in local.items()]
        deletes = [hub.CommitOperationDelete(path_in_repo=name) for name in stale]
        return api.create_commit(repo_id, [*deletes, *adds], commit_message=message, revision=revision)

    size = sum(path.stat().st_size for path in local.values())
    return str(ask(commit, "write to", size).commit_url)


def pull(
    repo_id: str,
    out: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | None = None,
    overwrite: bool = False,
    check: Callable[[Path], object] | None = None,
) -> Path:
    """Fetches the artifact ``repo_id`` into the folder ``out``: whole, of real files, or not at all.

    It is downloaded beside ``out``, verified (``check``; by default opened with every digest compared) and renamed.
    Raises ``OutputExistsError``, ``HubError``, and what ``check`` raises.
    """
    check_id(repo_id)
    check_revision(revision)
    with Publisher(out, mode="overwrite" if overwrite else "create", doing="pulling") as publisher:
        found = list_files(repo_id, revision, token)
        if _MANIFEST not in found.names:
            raise ArtifactError(
                f"{repo_id!r} holds no {_MANIFEST}, so it is no artifact. For a checkpoint: `precast export {repo_id} "
                "OUT`."
            )
        with publisher.io("write the artifact"):
            _download_artifact(found, token, publisher)
        (check or _check_artifact)(publisher.staging.artifact)
        publisher.publish()
    return Path(out)


def _download_artifact(found: Listing, token: str | None, publisher: Publisher) -> None:
    """The manifest and what it lists, into the workplace; everything is on the disk when this returns."""
    folder = publisher.staging.artifact

    def fetch(entry: Entry) -> None:
        place = folder.joinpath(*entry.name.split("/"))
        place.parent.mkdir(parents=True, exist_ok=True)
        download(found.repo_id, found.commit, entry, place, token)
        sync(place)

    for entry in found.chosen([_MANIFEST]):
        fetch(entry)
    try:
        names = parse_value((folder / _MANIFEST).read_bytes())["files"]
        check_file_names(names, f"{_MANIFEST} of {found.repo_id!r}: files")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ArtifactError(f"{_MANIFEST} of {found.repo_id!r} cannot be read. Push the artifact again.") from None
    if absent := [name for name in names if name not in found.names]:
        raise ArtifactError(
            f"{found.repo_id!r} lacks files of its manifest: {listing(absent, 5)}. Push the artifact again."
        )
    entries = found.chosen(name for name in names if name != _MANIFEST)
    publisher.ensure_space(sum(entry.size for entry in entries))
    with ThreadPoolExecutor(max_workers=_WORKERS) as pool:
        list(pool.map(fetch, entries))
    for place, _, _ in os.walk(folder, topdown=False):
        sync(Path(place))


def _check_artifact(folder: Path) -> None:
    from precast.runtime.artifact import Artifact

    Artifact.open_folder(folder, check="digest")
