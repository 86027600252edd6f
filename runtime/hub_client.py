"""Calls to a Hub: bounded retries, no output unless somebody watches, and errors that say what to do.

huggingface_hub honours HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and HF_HOME; nothing here reads them.
"""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import importlib
import queue
import re
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import URLError

from precast.runtime.disk import is_full
from precast.runtime.errors import DependencyError, HubError, InputError, OfflineError, PrecastError
from precast.runtime.hub_transport import StatusError

__all__ = [
    "cache_folder",
    "call",
    "endpoint",
    "headers",
    "hub",
    "offline_error",
    "offline_mode",
    "progress",
    "quiet",
    "within",
]

T = TypeVar("T")

_ATTEMPTS = 4
_LONGEST_WAIT = 120.0  # seconds in all that one request may wait for a busy server
_BUSY = (408, 429, 500, 502, 503, 504)
_TRANSPORT = frozenset({"httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3"})
_quiet_lock = threading.Lock()
_quiet_calls = 0  # several threads download at once: the last one to finish switches the bars on again


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


def offline_error(repo_id: str) -> OfflineError:
    return OfflineError(
        f"{repo_id!r} is needed from the Hub, and offline mode forbids it. Unset HF_HUB_OFFLINE, or give a local "
        "folder."
    )


def cache_folder() -> Path:
    """Where huggingface_hub keeps what it fetched."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser()


def headers(token: str | None) -> tuple[dict[str, str], str | None]:
    """What every request says of us, and apart from it the value of Authorization (of ``token``, or the stored one)."""
    given: dict[str, str] = dict(
        hub().utils.build_hf_headers(token=token, library_name="precast", library_version=version("precast"))
    )
    authorization = given.pop("authorization", None)
    if authorization is not None and not (authorization.isascii() and authorization.isprintable()):
        raise InputError("The token holds characters that no token has (a line break?). Copy it again.")
    return given, authorization


@contextlib.contextmanager
def progress(name: str, size: int) -> Iterator[Callable[[int], object]]:
    """A bar for ``size`` bytes, where somebody watches."""
    with hub().utils.tqdm(total=size, desc=name[-40:], unit="B", unit_scale=True, leave=False) as bar:
        yield bar.update


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
        except PrecastError:
            raise
        except Exception as error:
            if is_full(error):
                raise  # the disk's word, no Hub's: who knows the folder says what to do
            pause = _pause(error, attempt)
            if pause is None or attempt + 1 == _ATTEMPTS or waited + pause > _LONGEST_WAIT:
                raise _translated(error, repo_id, revision, doing) from error
            time.sleep(pause)
            waited += pause
    raise AssertionError("unreachable")  # the last attempt returns or raises


def within(seconds: float, action: Callable[[], T], what: str) -> T:
    """``action()``, given up after ``seconds``: for requests of huggingface_hub's own, which wait for ever."""
    outcome: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            outcome.put((action(), None))
        except BaseException as error:
            outcome.put((None, error))

    threading.Thread(target=run, name="precast-hub", daemon=True).start()
    try:
        value, error = outcome.get(timeout=seconds)
    except queue.Empty:
        raise HubError(f"{what} did not end within {seconds:.0f} s. Check the network, or try again later.") from None
    if error is not None:
        raise error
    return value  # type: ignore[return-value]


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in found and len(found) < 20:
        found.append(current)
        current = current.__cause__ or current.__context__
    return found


def _status(error: BaseException) -> int | None:
    if isinstance(error, StatusError):
        return error.status
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _headers(error: BaseException) -> Any:
    return error.headers if isinstance(error, StatusError) else getattr(getattr(error, "response", None), "headers", {})


def _is_transport(error: BaseException) -> bool:
    # An URLError is an OSError without a number: what went wrong is its cause.
    if isinstance(error, (ConnectionError, TimeoutError, socket.gaierror, http.client.HTTPException, URLError)):
        return True
    packages = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return bool(packages & _TRANSPORT) and _status(error) is None


def _asked_pause(error: BaseException) -> float | None:
    """Seconds the server asks to wait, by ``Retry-After`` or the ``RateLimit`` header."""
    headers = _headers(error) or {}
    value = str(headers.get("Retry-After") or "").strip()
    if value.isdecimal() and len(value) < 10:
        return float(value)
    if value:
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    match = re.search(r";\s*t\s*=\s*(\d{1,9})", str(headers.get("RateLimit") or ""))
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
    if any(isinstance(link, (socket.gaierror, ssl.SSLCertVerificationError)) for link in _chain(error)):
        return None
    return 0.25 * 2**attempt if _is_transport(error) else None


def _translated(error: Exception, repo_id: str, revision: str | None, doing: str) -> Exception:
    from huggingface_hub import errors

    place = f"{repo_id!r} on {endpoint()}"
    for link in _chain(error):
        if isinstance(link, errors.OfflineModeIsEnabled):
            return offline_error(repo_id)
        if isinstance(link, errors.HFValidationError):
            return InputError(f"A Hub id is 'name' or 'org/name'; {repo_id!r} is not: {_first_line(link)}")
        if (status := _status(link)) is not None:
            return _by_status(status, link, place, revision, doing)
    if any(_is_transport(link) for link in _chain(error)):
        return OfflineError(
            f"{endpoint()} cannot be reached ({_first_line(_chain(error)[-1])}). Check the network and HF_ENDPOINT, or "
            "give a local folder."
        )
    return HubError(f"The Hub's answer about {place} is not understood: {_first_line(_chain(error)[-1])}")


def _by_status(status: int, error: BaseException, place: str, revision: str | None, doing: str) -> HubError:
    login = "set HF_TOKEN or run `hf auth login`"
    code, message = (str(_headers(error).get(name) or "") for name in ("X-Error-Code", "X-Error-Message"))
    if code == "GatedRepo":
        return HubError(
            f"{place} is gated: its owner grants access on its page. Ask there, then {login} with that account."
        )
    if code == "RevisionNotFound":
        return HubError(
            f"{place} has no revision {revision!r}. Give a branch, a tag or a commit of it, or leave revision out."
        )
    if code == "EntryNotFound":
        return HubError(f"A file of {place} is listed and not there: {_first_line(error)}. Try again later.")
    # To who may not see a repository it says 401, as to a token that it does not know.
    if code == "RepoNotFound" or (status == 401 and doing == "read" and not message.startswith("Invalid credentials")):
        return HubError(
            f"There is no {place}, or it is private and the token does not open it. Check the spelling, or {login}. "
            "A local folder is written as a path, such as ./name."
        )
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
