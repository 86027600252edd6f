"""Pictures behind http addresses: the same as of their bytes, within a size and a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from precast.runtime import fetching, hub_transport
from precast.runtime.errors import InputError
from precast.runtime.processors.image import open_picture


def _png() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


PNG = _png()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/picture.png")
            self.end_headers()
            return
        if self.path == "/elsewhere":
            self.send_response(302)
            self.send_header("Location", "ftp://example.org/picture.png")
            self.end_headers()
            return
        if self.path == "/nothing":
            self.send_error(404)
            return
        self.send_response(200)
        if self.path == "/slow":
            self.end_headers()
            for byte in PNG:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(0.02)
            return
        if self.path == "/silent":
            self.end_headers()
            time.sleep(2)
            return
        self.send_header("Content-Length", str(len(PNG) + (9 if self.path == "/short" else 0)))
        self.end_headers()
        self.wfile.write(b"no picture".ljust(len(PNG)) if self.path == "/text" else PNG)

    def log_message(self, *args: object) -> None:
        pass

    def handle(self) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # who asked has gone
            super().handle()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    made = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    made.daemon_threads = True
    made.block_on_close = False
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{made.server_address[1]}"
    made.shutdown()
    made.server_close()


@pytest.mark.parametrize("path", ["/picture.png", "/moved"])
def test_a_picture_behind_an_address_is_its_bytes(server: str, path: str) -> None:
    found = open_picture(server + path, upright=True)
    np.testing.assert_array_equal(np.asarray(found), np.asarray(open_picture(PNG)))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "/nothing",
            "The picture 'http.*/nothing' cannot be fetched: its server answers with status 404. Check the ad",
        ),
        (
            "/elsewhere",
            "redirects The picture .* to 'ftp://example.org/picture.png', which is not followed. Check the ad",
        ),
        ("/short", r"/short' cannot be fetched: IncompleteRead.*fetch it yourself and give the file"),
        ("/text", r"is no picture of a kind that Pillow reads"),
        ("/a b", r"cannot be fetched: URL can't contain control characters"),
    ],
)
def test_what_cannot_be_fetched_says_why(server: str, path: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_picture(server + path)


def test_an_address_has_a_size_and_a_time(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(fetching, "LARGEST", 100)
        with pytest.raises(InputError, match=r"The picture .*has more bytes than the 100 that it may have"):
            open_picture(f"{server}/picture.png")
    with monkeypatch.context() as patched:
        patched.setattr(hub_transport, "ALLOWANCE", 0.2)
        with pytest.raises(InputError, match=r"/slow' comes too slowly: .*16384 bytes a second are the least"):
            open_picture(f"{server}/slow")
    monkeypatch.setattr(hub_transport, "SILENCE", 0.3)
    with pytest.raises(InputError, match=r"/silent' cannot be fetched: nothing came for 0.3 s"):
        open_picture(f"{server}/silent")


def test_nobody_listens() -> None:
    with pytest.raises(InputError, match=r"cannot be fetched: .*refused"):
        open_picture("http://127.0.0.1:9/picture.png")
