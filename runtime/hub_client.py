"""Calls to huggingface_hub: bounded retries, no output unless somebody watches, and errors that say what to do.

The library itself honours HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and HF_HOME; nothing here reads them.
"""

from __future__ import annotations

import contextlib
import email.utils
import errno
import hashlib
import importlib
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from precast.runtime.errors import DependencyError, DiskSpaceError, HubError, InputError, OfflineError

__all__ = ["blob_name", "call", "endpoint", "file_digests", "hub", "offline_mode", "quiet", "remove_cached"]

T = TypeVar("T")

_ATTEMPTS = 4
_LONGEST_WAIT = 120.0  # seconds in all that one request may wait for a busy server
_BUSY = (408, 429, 500, 502, 503, 504)
_TRANSPORT = frozenset({"httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3"})
_quiet_lock = threading.Lock()
_quiet_calls = 0  # several threads download at once: the last one to finish switches the bars on again
_HEX = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def hub() -> Any:
    """The huggingface_hub package, imported when the Hub is asked for."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise DependencyError(
            "The Hub needs huggingface_hub. Install it: pip install 'huggingface_hub>=0.30'."
        ) from error
    return huggingface_hub


def endpoint() -> str:
    """The Hub's address, as huggingface_hub has it."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def offline_mode() -> bool:
    """Whether huggingface_hub has been told to stay off the network."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Progress bars are for terminals: elsewhere they are off while this lasts."""
    global _quiet_calls
    from huggingface_hub import constants

    utils: Any = importlib.import_module("huggingface_hub.utils")
    if constants.HF_HUB_DISABLE_PROGRESS_BARS is not None or sys.stderr is None or sys.stderr.isatty():
        yield  # the environment has chosen, or somebody watches
        return
    with _quiet_lock:
        if _quiet_calls == 0 and utils.are_progress_bars_disabled():
            shown = False  # by the caller's own choice, which stays
        else:
            shown = True
            _quiet_calls += 1
            utils.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            with _quiet_lock:
                _quiet_calls -= 1
                if _quiet_calls == 0:
                    utils.enable_progress_bars()


def call(action: Callable[[], T], repo_id: str, revision: str | None = None, doing: str = "read") -> T:
    """``action()``, again where the server is busy or the line breaks; its errors as ``HubError`` and its kin.

    A wait the server asks for (``Retry-After``) is honoured as long as all waits stay within two minutes.
    """
    waited = 0.0
    for attempt in range(_ATTEMPTS):
        try:
            with quiet():
                return action()
        except Exception as error:
            pause = _pause(error, attempt)
            if pause is None or attempt + 1 == _ATTEMPTS or waited + pause > _LONGEST_WAIT:
                raise _translated(error, repo_id, revision, doing) from error
            time.sleep(pause)
            waited += pause
    raise AssertionError("unreachable")  # the last attempt returns or raises


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in found and len(found) < 20:
        found.append(current)
        current = current.__cause__ or current.__context__
    return found


def _status(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _is_transport(error: BaseException) -> bool:
    if isinstance(error, (ConnectionError, TimeoutError, socket.gaierror)):
        return True
    packages = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return bool(packages & _TRANSPORT) and _status(error) is None


def _asked_pause(error: BaseException) -> float | None:
    """Seconds the server asks to wait, by ``Retry-After`` or the ``RateLimit`` header."""
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    value = str(headers.get("Retry-After") or "").strip()
    if value.isdigit():
        return float(value)
    if value:
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    match = re.search(r";\s*t\s*=\s*(\d+)", str(headers.get("RateLimit") or ""))
    return float(match.group(1)) if match else None


def _pause(error: BaseException, attempt: int) -> float | None:
    """Seconds before the next attempt, or ``None`` where another one is of no use."""
    from huggingface_hub import errors

    if isinstance(error, (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError)):
        return None  # the latter: huggingface_hub has tried again itself
    if (status := _status(error)) is not None:
        if status not in _BUSY:
            return None
        asked = _asked_pause(error)
        return asked if asked is not None else 0.5 * 2**attempt
    if any(isinstance(link, socket.gaierror) for link in _chain(error)):
        return None
    return 0.25 * 2**attempt if _is_transport(error) else None


def _translated(error: Exception, repo_id: str, revision: str | None, doing: str) -> Exception:
    from huggingface_hub import errors

    place = f"{repo_id!r} on {endpoint()}"
    login = "set HF_TOKEN or run `hf auth login`"
    for link in _chain(error):
        if isinstance(link, errors.OfflineModeIsEnabled):
            return OfflineError(
                f"{repo_id!r} is needed from the Hub, and offline mode forbids it. Unset HF_HUB_OFFLINE, or give a "
                "local folder."
            )
        if isinstance(link, errors.HFValidationError):
            return InputError(f"A Hub id is 'name' or 'org/name'; {repo_id!r} is not: {_first_line(link)}")
        if isinstance(link, errors.GatedRepoError):
            return HubError(
                f"{place} is gated: its owner grants access on its page. Ask there, then {login} with that account."
            )
        if isinstance(link, errors.RevisionNotFoundError):
            return HubError(
                f"{place} has no revision {revision!r}. Give a branch, a tag or a commit of it, or leave revision out."
            )
        if isinstance(link, errors.RepositoryNotFoundError):
            return HubError(
                f"There is no {place}, or it is private and the token does not open it. Check the spelling, or "
                f"{login}. A local folder is written as a path, such as ./name."
            )
        if isinstance(link, errors.EntryNotFoundError) and not isinstance(link, errors.LocalEntryNotFoundError):
            return HubError(f"A file of {place} is listed and not there: {_first_line(link)} Try again later.")
        if isinstance(link, OSError) and link.errno in (errno.ENOSPC, errno.EDQUOT):
            return DiskSpaceError(
                f"The disk is full: files of {repo_id!r} do not fit. Free space, or point HF_HOME to another disk."
            )
        if (status := _status(link)) is not None:
            return _by_status(status, link, place, doing, login)
    if "Consistency check failed" in str(error):
        return HubError(f"A file of {place} came with another size than announced: {_first_line(error)} Try again.")
    if any(_is_transport(link) for link in _chain(error)):
        return OfflineError(
            f"{endpoint()} cannot be reached ({_first_line(_chain(error)[-1])}). Check the network and HF_ENDPOINT, or "
            "give a local folder."
        )
    return HubError(f"The Hub's answer about {place} is not understood: {_first_line(_chain(error)[-1])}")


def _by_status(status: int, error: BaseException, place: str, doing: str, login: str) -> HubError:
    if status == 401:
        return HubError(f"The token is not accepted for {place} (status 401). To renew it, {login}.")
    if status == 403:
        return HubError(f"The token may not {doing} {place} (status 403). Use one that may: {login}.")
    if status == 429:
        asked = _asked_pause(error)
        when = f"in {asked:.0f} s" if asked is not None else "later"
        return HubError(f"The Hub limits the rate of requests (status 429). Try again {when}, or {login} for more.")
    if status >= 500:
        return HubError(f"The Hub fails at {place} (status {status}). Nothing is wrong here: try again later.")
    return HubError(f"The Hub refuses to {doing} {place} (status {status}): {_first_line(error)}")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{lines[0]:.200}" if lines else type(error).__name__


def file_digests(path: Path) -> tuple[str, str]:
    """SHA-256 of the bytes, and SHA-1 as git counts it (with the header ``blob <size>``), both in hexadecimal."""
    sha256, sha1 = hashlib.sha256(), hashlib.sha1(usedforsecurity=False)
    with path.open("rb", buffering=0) as file:
        sha1.update(b"blob %d\0" % os.fstat(file.fileno()).st_size)
        while chunk := file.read(1 << 20):
            sha256.update(chunk)
            sha1.update(chunk)
    return sha256.hexdigest(), sha1.hexdigest()


def blob_name(path: Path) -> str | None:
    """The digest a cached file's blob is named after, or ``None`` where the cache keeps plain files."""
    with contextlib.suppress(OSError):
        name = os.path.basename(os.readlink(path))
        return name if _HEX.fullmatch(name) else None
    return None


def remove_cached(path: Path) -> None:
    """Removes a file from the cache: the snapshot's entry, its blob, and a shared blob behind that."""
    chain = [path]
    while chain[-1].is_symlink() and len(chain) < 4:
        chain.append(Path(os.path.normpath(chain[-1].parent / os.readlink(chain[-1]))))
    for link in chain:
        with contextlib.suppress(OSError):
            link.unlink()
