"""The Hub: checkpoints come from it, artifacts go to it and come back. huggingface_hub is imported on first use.

huggingface_hub compares sizes only, so every file is checked here against the digest the Hub names it by: the
SHA-256 of a large file, the git SHA-1 of a small one.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import functools
import glob
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from precast.runtime import hub_client
from precast.runtime.errors import (
    ArtifactError,
    DiskSpaceError,
    HubError,
    InputError,
    OfflineError,
    OutputExistsError,
    PrecastError,
    listing,
)

__all__ = ["CHAT_TEMPLATE_FOLDER", "Resolved", "looks_like_hub_id", "pull", "push", "resolve", "wanted_files"]

_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_MANIFEST = "precast.json"
_OWNED = ("weights/*", "parity/*", "*.onnx")  # what a push replaces, even where the new artifact has less
_WORKERS = 4

# What an export reads besides weights; the same names count in a module's folder (0_Transformer, 1_Pooling ...).
_DATA: Final = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "bpe.codes",
    "dict.txt",
    "entity_vocab.json",
    "normalizer.json",
    "*.model",
    "*.spm",
    "*.tiktoken",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "chat_template.json",
    "*.jinja",
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_*_config.json",
)
CHAT_TEMPLATE_FOLDER: Final = "additional_chat_templates"
_MODULE = re.compile(r"\d+_\w+", re.ASCII)
_WEIGHTS: Final = (
    ("model.safetensors",),
    ("model.safetensors.index.json", "model-*-of-*.safetensors"),
    ("pytorch_model.bin",),
    ("pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"),
)

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


def looks_like_hub_id(source: str) -> bool:
    """Whether ``source`` is spelled like ``name`` or ``org/name``, and not like a path."""
    plain = bool(_ID.fullmatch(source)) and len(source) <= 96
    return plain and ".." not in source and "--" not in source and not source.endswith((".", "-", ".git", "/"))


def wanted_files(names: Iterable[str]) -> list[str]:
    """Of a repository's files, those an export reads: data, and one form of the weights a folder, safetensors first."""
    folders: dict[str, set[str]] = {}
    for name in names:
        folder, _, file = name.rpartition("/")
        if not folder or folder == CHAT_TEMPLATE_FOLDER or _MODULE.fullmatch(folder):
            folders.setdefault(folder, set()).add(file)
    chosen: list[str] = []
    for folder, files in folders.items():
        kept = {file for file in files if any(fnmatch.fnmatchcase(file, pattern) for pattern in _DATA)}
        for head, *shards in _WEIGHTS:
            if head in files:
                kept |= {head, *(file for pattern in shards for file in fnmatch.filter(files, pattern))}
                break
        chosen += [f"{folder}/{file}" if folder else file for file in kept]
    return sorted(chosen)


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
    hub = hub_client.hub()
    select = wanted_files if patterns is None else _matching(patterns)
    cache = None if cache_dir is None else os.fspath(cache_dir)
    if offline or hub_client.offline_mode():
        return _cached(hub, source, revision, cache, select, "offline mode is on")
    try:
        files, commit = _listing(hub, source, revision, token)
    except OfflineError as error:
        try:
            found = _cached(hub, source, revision, cache, select, "it cannot be reached")
        except OfflineError:
            raise error from None
        _log.warning("The Hub cannot be reached; the cached copy of %s at %s is used.", source, found.revision)
        return found
    names = select(files)

    def fetch(name: str, at: str) -> Path:
        def download() -> str:
            return str(hub.hf_hub_download(source, name, revision=at, cache_dir=cache, token=token))

        return Path(hub_client.call(download, source, revision))

    if not names:
        raise HubError(
            f"{source!r} on {hub_client.endpoint()} holds nothing an export reads (config.json, safetensors ...). "
            f"It holds: {listing(sorted(files), 12)}."
        )
    # The first is fetched by the revision's own name, so that the cache learns what it stands for; offline needs that.
    first = fetch(names[0], revision or "main")
    with ThreadPoolExecutor(max_workers=_WORKERS) as pool:
        paths = dict(zip(names, pool.map(lambda name: fetch(name, commit), names), strict=True))
    folder = _strip(paths[names[0]], names[0])
    if first != paths[names[0]]:
        _log.info("%s moved from %s while it was read.", source, commit)
    return Resolved(folder, source, commit, _verified(source, paths, files), tuple(sorted(files)))


def _matching(patterns: Sequence[str]) -> Callable[[Iterable[str]], list[str]]:
    def select(names: Iterable[str]) -> list[str]:
        return sorted(name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns))

    return select


def _strip(path: Path, name: str) -> Path:
    return path.parents[name.count("/")]


def _listing(hub: Any, repo_id: str, revision: str | None, token: str | None) -> tuple[dict[str, str | None], str]:
    """Name -> digest (SHA-256 of a large file, git SHA-1 of a small one) of a repository's files, and the commit."""
    api = hub.HfApi(token=token)
    info = hub_client.call(
        lambda: api.model_info(repo_id, revision=revision, files_metadata=True, timeout=30.0), repo_id, revision
    )
    files: dict[str, str | None] = {}
    for sibling in info.siblings or ():
        name, lfs = sibling.rfilename, sibling.lfs
        parts = name.split("/") if isinstance(name, str) else [""]
        if any(part in ("", ".", "..") or set(part) & set("\\:\0") for part in parts):
            raise HubError(f"{repo_id!r} lists a file {name!r:.120}, which leads out of its folder. It is not fetched.")
        sha256 = lfs.get("sha256") if isinstance(lfs, Mapping) else getattr(lfs, "sha256", None)
        files[name] = sha256 if lfs is not None else sibling.blob_id
    commit = info.sha
    if not isinstance(commit, str) or not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise HubError(f"{hub_client.endpoint()} names no commit for {repo_id!r}. Check HF_ENDPOINT: is it a Hub?")
    return files, commit


def _cached(
    hub: Any,
    repo_id: str,
    revision: str | None,
    cache: str | None,
    select: Callable[[Iterable[str]], list[str]],
    reason: str,
) -> Resolved:
    """The copy in the cache, verified. ``OfflineError`` where there is none or it is not whole."""
    folder: Path | None = None
    for anchor in ("config.json", "modules.json", _MANIFEST):
        lookup = functools.partial(hub.try_to_load_from_cache, repo_id, anchor, cache_dir=cache, revision=revision)
        path = hub_client.call(lookup, repo_id)
        if isinstance(path, str):
            folder = Path(path).parent
            break
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
    return Resolved(folder, repo_id, folder.name, _verified(repo_id, paths, {}))


def _missing_weights(folder: Path, names: set[str]) -> list[str]:
    """What a cached snapshot's index promises and it lacks; ``["weights"]`` where it has none at all."""
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if index in names and not names & {"model.safetensors", "pytorch_model.bin"}:
            try:
                shards = json.loads((folder / index).read_bytes())["weight_map"].values()
                return sorted({str(shard) for shard in shards} - names)
            except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
                return []  # whoever reads the index reports it
    weights = any(name.endswith((".safetensors", ".bin", ".index.json")) for name in names)
    return [] if weights or _MANIFEST in names else ["weights"]


def _verified(repo_id: str, paths: Mapping[str, Path], promised: Mapping[str, str | None]) -> dict[str, str]:
    """SHA-256 of each file, after comparing it with the Hub's digest and with the name of its blob."""

    def check(name: str) -> tuple[str, str | None]:
        path = paths[name]
        sha256, git = hub_client.file_digests(path)
        for digest in {promised.get(name), hub_client.blob_name(path)} - {None}:
            if digest != (sha256 if len(str(digest)) == 64 else git):
                return sha256, digest
        return sha256, None

    with ThreadPoolExecutor(max_workers=min(_WORKERS, os.cpu_count() or 1)) as pool:
        results = dict(zip(paths, pool.map(check, paths), strict=True))
    wrong = {name: digest for name, (_, digest) in results.items() if digest is not None}
    for name in wrong:
        hub_client.remove_cached(paths[name])
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
    if not looks_like_hub_id(repo_id):
        raise InputError(f"A Hub id is 'name' or 'org/name'; {repo_id!r} is not.")
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
    hub_client.call(lambda: api.create_repo(repo_id, private=private, exist_ok=True), repo_id, doing="create")
    if revision is not None and revision != "main":
        hub_client.call(lambda: api.create_branch(repo_id, branch=revision, exist_ok=True), repo_id, doing="write to")
    remote, _ = _listing(hub, repo_id, revision, token)
    stale = [name for name in remote if name not in local and any(fnmatch.fnmatchcase(name, own) for own in _OWNED)]

    def commit() -> Any:
        adds = [hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(path)) for name, path in local.items()]
        deletes = [hub.CommitOperationDelete(path_in_repo=name) for name in stale]
        return api.create_commit(repo_id, [*deletes, *adds], commit_message=message, revision=revision)

    return str(hub_client.call(commit, repo_id, revision, doing="write to").commit_url)


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
    target = Path(os.path.abspath(out))
    if os.path.lexists(target) and not overwrite:
        raise OutputExistsError(f"{str(out)!r} exists already. Choose another place, or pass overwrite (--overwrite).")
    if os.path.lexists(target) and (target.is_symlink() or not (target / _MANIFEST).is_file()):
        raise OutputExistsError(f"overwrite replaces an artifact, and {str(out)!r} is none. Choose another place.")
    if not looks_like_hub_id(repo_id):
        raise InputError(f"A Hub id is 'name' or 'org/name'; {repo_id!r} is not.")
    hub = hub_client.hub()
    files, commit = _listing(hub, repo_id, revision, token)
    if _MANIFEST not in files:
        raise ArtifactError(
            f"{repo_id!r} holds no {_MANIFEST}, so it is no artifact. For a checkpoint: `precast export {repo_id} OUT`."
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _clear_workplaces(target)
        # Named as an export's workplace is, so that no reader takes it for an artifact.
        work = target.with_name(f".{target.name}.precast-staging-{os.getpid()}-{secrets.token_hex(4)}")
        work.mkdir()
    except OSError as error:
        raise _disk(error, target) from error
    try:
        _download_artifact(hub, repo_id, commit, token, files, work)
        (check or _check_artifact)(work)
        _publish(work, target)
    except PrecastError:
        raise
    except OSError as error:
        raise _disk(error, target) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Path(out)


def _download_artifact(
    hub: Any, repo_id: str, commit: str, token: str | None, files: Mapping[str, str | None], work: Path
) -> None:
    def fetch(name: str) -> Path:
        def download() -> str:
            return str(hub.hf_hub_download(repo_id, name, revision=commit, local_dir=str(work), token=token))

        path = Path(hub_client.call(download, repo_id, commit))
        sha256, git = hub_client.file_digests(path)
        promised = files[name]
        if promised is not None and promised != (sha256 if len(promised) == 64 else git):
            raise HubError(
                f"{name} of {repo_id!r} does not have the digest the Hub names it by: expected {promised}, got "
                f"{sha256} (SHA-256). Nothing was kept. Try again; if it stays so, the source is not to be trusted."
            )
        with path.open("rb") as file:
            os.fsync(file.fileno())
        return path

    fetch(_MANIFEST)
    try:
        names = json.loads((work / _MANIFEST).read_bytes())["files"]
        listed = [name for name in names if isinstance(name, str)]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ArtifactError(f"{_MANIFEST} of {repo_id!r} cannot be read. Push the artifact again.") from None
    if absent := [name for name in listed if name not in files]:
        raise ArtifactError(f"{repo_id!r} lacks files of its manifest: {listing(absent, 5)}. Push the artifact again.")
    with ThreadPoolExecutor(max_workers=_WORKERS) as pool:
        list(pool.map(fetch, listed))
    # huggingface_hub's notes about a download folder are no part of an artifact.
    shutil.rmtree(work / ".cache", ignore_errors=True)
    for path in work.rglob("*"):
        if path.is_symlink():
            raise ArtifactError(f"{path.relative_to(work)} came as a link; an artifact holds real files only.")


def _check_artifact(folder: Path) -> None:
    from precast.runtime.artifact import Artifact

    Artifact.open_folder(folder, check="digest")


def _clear_workplaces(target: Path) -> None:
    """Removes what pulls and exports of processes that are no more have left beside ``target``."""
    for path in target.parent.glob(f".{glob.escape(target.name)}.precast-staging-*"):
        found = re.fullmatch(r".*-staging-([0-9]+)-[0-9a-f]{8}", path.name)
        if found and not path.is_symlink() and not _alive(int(found[1])):
            shutil.rmtree(path, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True  # somebody else's, or not to be told
    return True


def _publish(work: Path, target: Path) -> None:
    """Puts ``work`` in ``target``'s place. Afterwards ``work`` is gone, or holds what was there."""
    if not os.path.lexists(target):
        os.rename(work, target)
    elif not _exchange(work, target):
        # No exchange on this system: for a moment the place is empty, but never half filled.
        old = work.with_name(f".{target.name}.replaced-{secrets.token_hex(4)}")
        os.rename(target, old)
        try:
            os.rename(work, target)
        except BaseException:
            os.rename(old, target)
            raise
        shutil.rmtree(old, ignore_errors=True)
    _sync(target.parent)


def _exchange(work: Path, target: Path) -> bool:
    """Swaps two folders in one step (renameat2 of Linux); ``False`` where that is not to be had."""
    try:
        import ctypes

        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (ImportError, OSError, AttributeError, TypeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(call(here, os.fsencode(work), here, os.fsencode(target), exchange) == 0)


def _sync(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not every file system can sync a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _disk(error: OSError, target: Path) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskSpaceError(f"The disk is full: the artifact does not fit beside {str(target)!r}. Free space.")
    return ArtifactError(f"The artifact cannot be written to {str(target)!r}: {error.strerror or error}.")
