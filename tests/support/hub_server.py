"""A Hub on the loopback: as much of its protocol as huggingface_hub's real client uses, and faults on demand.

https://huggingface.co/docs/hub/api: model info, resolve with HEAD and Range, LFS files behind a redirect to another
origin, repository creation, preupload, LFS batch and commit.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import socket
import struct
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

__all__ = ["FILES", "NAME", "WEIGHTS", "Fault", "HubServer", "Repo", "git_sha1", "set_constants"]

# The repository that is there from the start.
WEIGHTS = bytes(range(256)) * 40
FILES = {
    "config.json": b'{"model_type": "bert"}',
    "tokenizer.json": b"{}",
    "model.safetensors": WEIGHTS,
    "README.md": b"# a model",
    "onnx/model.onnx": b"not wanted",
    "tf_model.h5": b"not wanted",
}
NAME = "org/tiny"


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@dataclass
class Repo:
    """Branches and their files; every change of a branch is a commit of its own."""

    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}})
    history: dict[str, dict[str, bytes]] = field(default_factory=dict)
    token: str | None = None  # needed to see it
    gated: bool = False
    siblings: list[dict[str, Any]] = field(default_factory=list)  # listed beside the files

    def commit(self, branch: str) -> str:
        files = self.branches[branch]
        text = json.dumps({name: git_sha1(data) for name, data in sorted(files.items())})
        sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        self.history[sha] = dict(files)
        return sha

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if revision in self.branches:
            sha = self.commit(revision)
            return sha, self.history[sha]
        return (revision, self.history[revision]) if revision in self.history else None


@dataclass
class Fault:
    """What happens instead, the next ``times`` times a request line ``METHOD path`` matches ``pattern``."""

    pattern: str
    status: int = 0  # of an answer without a body; 0: the true answer
    headers: dict[str, str] = field(default_factory=dict)  # in place of the answer's own
    body: bytes | None = None  # sent in place of the file, with the true file's headers
    reset: bool = False  # the connection is reset before an answer
    cut: int | None = None  # the connection ends after so many bytes of the body
    silent: bool = False  # no byte is sent, and the connection stays
    slow_head: bool = False  # a head without end, one byte at a time
    slow: bool = False  # the true answer, its body one byte at a time
    unfinished: bool = False  # the true answer without its length, and the connection stays
    endless: bool = False  # the true answer, its body followed by bytes without end
    times: int = 1

    @property
    def before_answer(self) -> bool:
        """Whether there is no true answer under it."""
        return bool(self.status or self.reset or self.silent or self.slow_head)


class HubServer:
    """``with HubServer() as server: server.repos["org/name"] = Repo(...)``; ``server.url`` is its endpoint."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.faults: list[Fault] = []
        self.log: list[str] = []
        self.uploads: dict[str, bytes] = {}
        self.lfs_suffixes = (".safetensors", ".bin", ".onnx")
        self.authorized: list[str] = []  # request lines that came with a token, each with its server's port
        self.stopped = threading.Event()
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"hub": self})
        # Two origins, as huggingface.co and its storage are two.
        self._servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
        self.url, self.storage = (f"http://127.0.0.1:{server.server_address[1]}" for server in self._servers)
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> HubServer:
        for server in self._servers:
            server.daemon_threads = True
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()
        for thread in self._threads:
            thread.join(timeout=5)

    def fault(self, line: str) -> Fault | None:
        with self._lock:
            self.log.append(line)
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.pattern, line):
                    fault.times -= 1
                    return fault
        return None

    def is_lfs(self, name: str) -> bool:
        return name.endswith(self.lfs_suffixes)

    def blob(self, sha256: str) -> bytes | None:
        for repo in self.repos.values():
            for files in (*repo.branches.values(), *repo.history.values()):
                for data in files.values():
                    if hashlib.sha256(data).hexdigest() == sha256:
                        return data
        return self.uploads.get(sha256)


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"
    timeout = 10

    def log_message(self, format: str, *args: Any) -> None:
        return None

    # -- answers

    def _send(self, status: int, body: bytes = b"", **headers: str) -> None:
        fault = self.active or Fault("")
        self.send_response(status)
        headers.setdefault("Content_Length", str(len(body)))
        named = {name.replace("_", "-").lower(): value for name, value in headers.items()}
        named |= {name.lower(): value for name, value in fault.headers.items()}
        if fault.endless or fault.unfinished:
            del named["content-length"]
        for name, value in named.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault.slow:
            self._drip(body)
        else:
            self.wfile.write(body if fault.cut is None else body[: fault.cut])
        if fault.unfinished:
            self.hub.stopped.wait()
        while fault.endless and not self.hub.stopped.is_set():
            self.wfile.write(bytes(1 << 16))
        if fault.slow or fault.endless or fault.unfinished or fault.cut is not None:
            self.close_connection = True

    def _drip(self, data: bytes) -> None:
        """A byte at a time, each soon enough for a client that waits for the next one only."""
        for byte in data:
            if self.hub.stopped.wait(0.02):
                return
            self.wfile.write(bytes([byte]))
            self.wfile.flush()

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(status, self._in_place_of(json.dumps(value).encode()), Content_Type="application/json")

    def _in_place_of(self, body: bytes) -> bytes:
        replaced = None if self.active is None or self.command == "HEAD" else self.active.body
        return body if replaced is None else replaced

    def _error(self, status: int, code: str, message: str) -> None:
        self._send(status, json.dumps({"error": message}).encode(), X_Error_Code=code, X_Error_Message=message)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while (size := int(self.rfile.readline().split(b";")[0], 16)) > 0 and len(parts) < 10_000:
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _faulty(self) -> bool:
        """Whether a fault stands in place of the answer; others stay ``active`` while the true answer is given."""
        self.payload = self._body()
        if self.headers.get("Authorization"):
            self.hub.authorized.append(f"{self.server.server_address[1]} {self.command} {self.path}")
        fault = self.active = self.hub.fault(f"{self.command} {self.path}")
        if fault is None or not fault.before_answer:
            return False
        if fault.reset:
            # A reset rather than an orderly end: linger 0.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        elif fault.silent:
            self.hub.stopped.wait()
        elif fault.slow_head:
            self._drip(b"HTTP/1.1 200 OK\r\n" + b"X-Filler: x\r\n" * 10_000)
        else:
            self._send(fault.status, b"{}")
            return True
        self.close_connection = True
        return True

    def handle_one_request(self) -> None:
        self.active: Fault | None = None
        # A client that had enough of a fault leaves in the middle of it.
        with contextlib.suppress(ConnectionError):
            super().handle_one_request()
            return
        self.close_connection = True

    def _repo(self, name: str) -> Repo | None:
        """The repository, or an answer that says why not."""
        repo = self.hub.repos.get(name)
        given = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if repo is not None and repo.gated and given != repo.token:
            self._error(403, "GatedRepo", f"Access to {name} is restricted")
        elif repo is None or (repo.token is not None and given != repo.token):
            self._error(404 if given else 401, "RepoNotFound", "Repository not found")
        else:
            return repo
        return None

    # -- requests

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self._faulty():
            return
        path = unquote(urlsplit(self.path).path)
        if found := re.fullmatch(r"/storage/([0-9a-f]{64})", path):
            data = self.hub.blob(found[1])
            return self._send(404) if data is None else self._file(data, ETag='"storage-tag"')
        if found := re.fullmatch(r"/api/models/([^/]+(?:/[^/]+)?)(?:/revision/(.+))?", path):
            return self._info(found[1], found[2] or "main")
        if found := re.fullmatch(r"/([^/]+(?:/[^/]+)?)/resolve/([^/]+)/(.+)", path):
            return self._resolve(found[1], found[2], found[3])
        return self._send(404)

    def _info(self, name: str, revision: str) -> None:
        if (repo := self._repo(name)) is None:
            return
        if (found := repo.at(revision)) is None:
            return self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        sha, files = found
        siblings = []
        for file, data in files.items():
            entry: dict[str, Any] = {"rfilename": file, "size": len(data), "blobId": git_sha1(data)}
            if self.hub.is_lfs(file):
                pointer = b"version https://git-lfs.github.com/spec/v1\n"
                sha256 = hashlib.sha256(data).hexdigest()
                entry["blobId"] = git_sha1(pointer + sha256.encode())
                entry["lfs"] = {"sha256": sha256, "size": len(data), "pointerSize": 134}
            siblings.append(entry)
        siblings += repo.siblings
        self._json({"_id": "1", "id": name, "modelId": name, "sha": sha, "siblings": siblings, "private": False})

    def _resolve(self, name: str, revision: str, file: str) -> None:
        if (repo := self._repo(name)) is None:
            return
        if (found := repo.at(revision)) is None:
            return self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        sha, files = found
        if (data := files.get(file)) is None:
            return self._error(404, "EntryNotFound", "Entry not found")
        if self.hub.is_lfs(file):
            sha256 = hashlib.sha256(data).hexdigest()
            return self._send(
                302,
                Location=f"{self.hub.storage}/storage/{sha256}",
                X_Repo_Commit=sha,
                X_Linked_Size=str(len(data)),
                X_Linked_Etag=f'"{sha256}"',
            )
        return self._file(data, ETag=f'"{git_sha1(data)}"', X_Repo_Commit=sha)

    def _file(self, data: bytes, **headers: str) -> None:
        data = self._in_place_of(data)
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not span:
            return self._send(200, data, Accept_Ranges="bytes", **headers)
        first, last = int(span[1]), int(span[2] or len(data) - 1)
        content = f"bytes {first}-{last}/{len(data)}"
        return self._send(206, data[first : last + 1], Content_Range=content, **headers)

    def do_PUT(self) -> None:
        if self._faulty():
            return
        sha256 = self.path.rpartition("/")[2]
        if hashlib.sha256(self.payload).hexdigest() != sha256:
            return self._send(400)
        self.hub.uploads[sha256] = self.payload
        return self._send(200)

    def do_POST(self) -> None:
        if self._faulty():
            return
        path = unquote(urlsplit(self.path).path)
        if path == "/api/repos/create":
            return self._create()
        if found := re.fullmatch(r"/api/models/(.+)/branch/(.+)", path):
            return self._branch(found[1], found[2])
        if found := re.fullmatch(r"/api/models/(.+)/preupload/(.+)", path):
            files = json.loads(self.payload)["files"]
            modes = {True: "lfs", False: "regular"}
            answer = [{"path": f["path"], "uploadMode": modes[self.hub.is_lfs(f["path"])]} for f in files]
            return self._json({"files": [{**entry, "shouldIgnore": False} for entry in answer]})
        if found := re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", path):
            objects = json.loads(self.payload)["objects"]
            href = f"{self.hub.storage}/upload/"
            actions = [{**entry, "actions": {"upload": {"href": href + entry["oid"]}}} for entry in objects]
            return self._json({"transfer": "basic", "objects": actions})
        if found := re.fullmatch(r"/api/models/(.+)/commit/(.+)", path):
            return self._commit(found[1], found[2])
        return self._send(404)

    def _create(self) -> None:
        request = json.loads(self.payload)
        name = "/".join(part for part in (request.get("organization"), request["name"]) if part)
        if name in self.hub.repos:
            return self._json({"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"}, 409)
        self.hub.repos[name] = Repo()
        return self._json({"url": f"{self.hub.url}/{name}", "name": name})

    def _branch(self, name: str, branch: str) -> None:
        repo = self._repo(name)
        if repo is None:
            return None
        if branch in repo.branches:
            return self._json({"error": "Reference already exists"}, 409)
        repo.branches[branch] = dict(repo.branches["main"])
        return self._json({})

    def _commit(self, name: str, branch: str) -> None:
        repo = self._repo(name)
        if repo is None:
            return None
        files = dict(repo.branches[branch])
        for line in self.payload.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.uploads[value["oid"]]
            elif entry["key"] == "deletedFile":
                files.pop(value["path"], None)
        repo.branches[branch] = files
        sha = repo.commit(branch)
        return self._json({"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{name}/commit/{sha}"})


def set_constants(monkeypatch: pytest.MonkeyPatch, **values: object) -> None:
    """Older releases copy some constants into the modules that use them."""
    names = [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]
    for module in map(sys.modules.__getitem__, names):
        for name, value in values.items():
            if name in vars(module):
                monkeypatch.setattr(module, name, value)
