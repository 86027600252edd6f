"""Requests to a Hub by the standard library: each has a deadline and a bound on its bytes, and a token stays at home.

huggingface_hub's own requests have neither: a body without end fills the memory, a byte now and then holds for ever.
https://www.rfc-editor.org/rfc/rfc9110
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import importlib.util
import io
import os
import re
import socket
import ssl
import string
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.message import Message
from typing import Any, Final
from urllib.parse import quote, urljoin, urlsplit

from precast.runtime.errors import HubError

__all__ = ["ALLOWANCE", "REDIRECTS", "SILENCE", "SLOWEST", "Answer", "StatusError", "ask"]

SILENCE: Final = 20.0  # seconds until the next byte, or until there is a connection
ALLOWANCE: Final = 60.0  # seconds that any request may take in all; every byte of its body buys it more
SLOWEST: Final = 16_384  # bytes of a body that buy one second
REDIRECTS: Final = 8  # the longest chain

_ADVICE = "Check HF_ENDPOINT."
_CHUNK = 1 << 16
_REDIRECTS = (301, 302, 303, 307, 308)


class StatusError(Exception):
    """An answer that is none: its status and headers."""

    def __init__(self, status: int, headers: Message) -> None:
        super().__init__(headers.get("X-Error-Message") or f"status {status}")
        self.status = status
        self.headers = headers


@dataclass(frozen=True)
class Answer:
    """The body of an answer from its byte ``start`` on (0 where the server would not go on in the middle)."""

    start: int
    chunks: Iterator[bytes]
    announced: bool  # its length was, so a short one is whole and wrong, and no broken line


@contextlib.contextmanager
def ask(
    url: str,
    headers: Mapping[str, str],
    *,
    what: str,
    limit: int,
    start: int = 0,
    token: str | None = None,
    advice: str = _ADVICE,
) -> Iterator[Answer]:
    """GET ``url``, from byte ``start`` on; ``limit``: bytes that the whole may have. ``what`` names it in errors, and
    ``advice`` says what may be wrong with an address.

    ``token`` (the value of Authorization) goes to the origin of ``url`` only, whatever redirects to another.

    Raises ``StatusError``, ``OSError`` and ``http.client.HTTPException`` (the line broke: another attempt may help),
    and ``HubError`` where the answer breaks a limit.
    """
    clock = _Clock(what)
    home = url
    for _ in range(REDIRECTS + 1):
        sent = dict(headers) | {"Accept-Encoding": "identity"}
        if start:
            sent["Range"] = f"bytes={start}-"
        if token is not None and _origin(url) == _origin(home):
            sent["Authorization"] = token
        with contextlib.closing(_opened(url, sent, clock, advice)) as response:
            if response.status in _REDIRECTS:
                url = _redirected(url, response.headers.get("Location"), what, advice)
                continue
            if response.status not in (200, 206):
                raise StatusError(response.status, response.headers)
            first = _first_byte(response) if response.status == 206 else 0
            if first not in (0, start):
                raise http.client.HTTPException(f"byte {start} was asked for, byte {first} came first")
            yield Answer(first, _chunks(response, first, limit, clock), response.length is not None)
            return
    raise HubError(f"{_host(home)} redirects {what} more than {REDIRECTS} times. {advice}")


class _Clock:
    """The time a request has, redirects included: an allowance, and more for every byte of the body that has come."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._began = time.monotonic()
        self.seen = 0  # bytes of the connection
        self.received = 0  # bytes of the body

    def left(self) -> float:
        """Seconds that the next step may take; ``HubError`` where there are none."""
        left = ALLOWANCE + self.received / SLOWEST - (time.monotonic() - self._began)
        if left <= 0:
            raise HubError(
                f"{self.what} comes too slowly: {self.seen} bytes in {time.monotonic() - self._began:.0f} s. After "
                f"{ALLOWANCE:.0f} s, {SLOWEST} bytes a second are the least. Check the network, or try again later."
            )
        return min(left, SILENCE)


class _Timed(io.RawIOBase):
    """A socket's bytes, each waited for no longer than the clock allows."""

    def __init__(self, raw: Any, connection: socket.socket, clock: _Clock) -> None:
        self._raw = raw
        self._connection = connection
        self._clock = clock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._connection.settimeout(self._clock.left())
        try:
            count: int | None = self._raw.readinto(buffer)
        except TimeoutError:
            self._clock.left()  # which of the two limits was met
            raise
        self._clock.seen += count or 0
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, connection: socket.socket, *args: Any, clock: _Clock, **options: Any) -> None:
        super().__init__(connection, *args, **options)
        self.fp: Any = io.BufferedReader(_Timed(self.fp.detach(), connection, clock))


class _Plain(http.client.HTTPConnection):
    def __init__(self, *args: Any, clock: _Clock, **options: Any) -> None:
        super().__init__(*args, **options)
        self._clock = clock
        self.response_class: Any = functools.partial(_Response, clock=clock)

    def connect(self) -> None:
        self.timeout = self._clock.left()
        super().connect()


class _Secure(_Plain, http.client.HTTPSConnection):
    pass


class _Handler(urllib.request.AbstractHTTPHandler):
    http_request = https_request = urllib.request.AbstractHTTPHandler.do_request_

    def __init__(self, clock: _Clock) -> None:
        super().__init__()
        self._clock = clock

    def http_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(functools.partial(_Plain, clock=self._clock), request)

    def https_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(functools.partial(_Secure, clock=self._clock), request, context=_trusted())


def _opened(url: str, headers: Mapping[str, str], clock: _Clock, advice: str) -> http.client.HTTPResponse:
    """The answer to one request, whatever its status; proxies are those of the environment."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise HubError(f"A Hub is asked by https (or http), and {url!r:.200} is neither. {advice}")
    opener = urllib.request.OpenerDirector()
    opener.addheaders = []
    # Neither redirects nor errors are left to urllib: it reads their bodies whole.
    for handler in (urllib.request.ProxyHandler(), _Handler(clock)):
        opener.add_handler(handler)
    response: http.client.HTTPResponse = opener.open(urllib.request.Request(url, headers=dict(headers)))
    return response


def _chunks(response: http.client.HTTPResponse, first: int, bound: int, clock: _Clock) -> Iterator[bytes]:
    left = bound - first
    buffer = memoryview(bytearray(_CHUNK))  # not `read1`, which forgets the promised length before Python 3.13
    while count := response.readinto(buffer[: left or 1]):  # at the end, whether there is one more
        clock.received += count
        left -= count
        if left < 0:
            raise HubError(f"{clock.what} has more bytes than the {bound} that it may have; it was cut there.")
        yield bytes(buffer[:count])
    if response.length:  # bytes that were promised and did not come
        raise http.client.IncompleteRead(b"", response.length)


def _first_byte(response: http.client.HTTPResponse) -> int:
    span = re.match(r"bytes (\d{1,18})-", response.headers.get("Content-Range") or "", re.ASCII)
    if span is None:
        raise http.client.HTTPException("a part came that does not say which")
    return int(span[1])


def _redirected(url: str, location: str | None, what: str, advice: str = _ADVICE) -> str:
    """Where a redirect leads: by http or https, and never from https to http."""
    try:
        target = urljoin(url, quote(location or "", encoding="iso-8859-1", safe=string.punctuation))
        schemes, _ = (urlsplit(url).scheme, urlsplit(target).scheme), _origin(target)
    except ValueError:
        target, schemes = str(location), ("", "")
    if not location or schemes not in (("http", "http"), ("http", "https"), ("https", "https")):
        raise HubError(f"{_host(url)} redirects {what} to {target!r:.200}, which is not followed. {advice}")
    return target


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


@functools.lru_cache(maxsize=1)
def _trusted() -> ssl.SSLContext:
    """The system's authorities and certifi's, where it is installed: some systems come without any."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        if bundle := os.environ.get(name):
            context.load_verify_locations(**{"capath" if os.path.isdir(bundle) else "cafile": bundle})
    if importlib.util.find_spec("certifi") is not None and "SSL_CERT_FILE" not in os.environ:
        import certifi

        context.load_verify_locations(cafile=certifi.where())
    return context
