"""A Hub that lies: headers, listings, redirects and bodies made to write, delete or wait where they must not."""

from __future__ import annotations

import errno
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from support.hub_server import FILES, NAME, WEIGHTS, Fault, HubServer, Repo, git_sha1

from precast.runtime import hub, hub_client, hub_files, hub_transport
from precast.runtime.errors import DiskSpaceError, HubError, InputError, OfflineError


def outside(folder: Path) -> set[str]:
    """What lies in ``folder`` beside the cache."""
    return {path.name for path in folder.iterdir()} - {"cache"}


@pytest.mark.parametrize("header", ["ETag", "X-Linked-Etag", "X-Repo-Commit"])
@pytest.mark.parametrize("place", ["../../../", "../../../../", "absolute"])
def test_no_header_becomes_a_path(server: HubServer, tmp_path: Path, header: str, place: str) -> None:
    (tmp_path / "victim").write_text("mine")
    prefix = f"{tmp_path}/" if place == "absolute" else place
    for name in ("victim", "planted"):
        # HEAD and GET of every file, from every origin.
        server.faults = [Fault("/(resolve|storage)/", headers={header: f'"{prefix}{name}"'}, times=99)]
        found = hub.resolve(NAME)
        assert (found.folder / "model.safetensors").read_bytes() == WEIGHTS
        assert found.folder.name == server.repos[NAME].commit("main")
        assert outside(tmp_path) == {"victim"}
    assert (tmp_path / "victim").read_text() == "mine"


def test_no_header_of_an_error_becomes_a_path(server: HubServer, tmp_path: Path) -> None:
    headers = {"X-Repo-Commit": "../../../planted", "X-Error-Code": "EntryNotFound"}
    server.faults = [Fault("/resolve/", status=404, headers=headers, times=99)]
    with pytest.raises(HubError, match="is listed and not there"):
        hub.resolve(NAME)
    assert outside(tmp_path) == set()


@pytest.mark.parametrize("through", ["blobs", "outside", "up"])
def test_nothing_outside_the_blobs_is_unlinked(server: HubServer, tmp_path: Path, through: str) -> None:
    """A cache that somebody else has written, links out of it included."""
    digest = git_sha1(b"another content")
    victim = tmp_path / digest
    victim.write_text("mine")
    folder = hub.resolve(NAME).folder
    place = folder / "config.json"
    blobs = folder.parent.parent / "blobs"
    place.unlink()
    if through == "blobs":
        (blobs / digest).symlink_to(victim)
        place.symlink_to(blobs / digest)
    elif through == "outside":
        place.symlink_to(victim)
    else:
        place.symlink_to(f"../../blobs/../../../{digest}")
    with pytest.raises(
        HubError, match=r"config\.json of 'org/tiny' does not have the digest .* removed from the cache"
    ):
        hub.resolve(NAME, offline=True)
    assert victim.read_text() == "mine"
    assert not os.path.lexists(place)
    assert (hub.resolve(NAME).folder / "config.json").read_bytes() == FILES["config.json"]


def test_a_poisoned_reference_is_not_followed(server: HubServer, tmp_path: Path) -> None:
    folder = hub.resolve(NAME).folder
    (tmp_path / "config.json").write_text("{}")
    (folder.parent.parent / "refs" / "main").write_text("../../..")
    with pytest.raises(OfflineError, match="is not in the cache"):
        hub.resolve(NAME, offline=True)


@pytest.mark.parametrize(
    "name",
    [
        "../evil.json",
        "/etc/evil.json",
        "a/../../evil.json",
        "a//evil.json",
        "./evil.json",
        "a\\..\\evil.json",
        "C:evil.json",
        "evil\0.json",
        "evil\n.json",
        "x" * 300,
        "",
        None,
        5,
        ["config.json"],
    ],
)
def test_names_that_no_file_may_have(server: HubServer, tmp_path: Path, name: Any) -> None:
    server.repos[NAME].siblings = [{"rfilename": name, "size": 2, "blobId": git_sha1(b"{}")}]
    with pytest.raises(HubError, match="which leads out of its folder"):
        hub.resolve(NAME)
    with pytest.raises(HubError, match="which leads out of its folder"):
        hub.pull(NAME, tmp_path / "out")
    assert outside(tmp_path) == set()


def test_a_listing_with_half_a_letter_is_no_listing(server: HubServer, tmp_path: Path) -> None:
    """Half of a surrogate pair cannot be written as a name: the document is refused before its names are read."""
    server.repos[NAME].siblings = [{"rfilename": "evil\ud800.json", "size": 2, "blobId": git_sha1(b"{}")}]
    with pytest.raises(HubError, match="names no commit"):
        hub.resolve(NAME)
    assert outside(tmp_path) == set()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": -1}, "lists vocab.txt with -1 bytes"),
        ({"size": 2**62}, "bytes, which no file has"),
        ({"size": 1e12}, "bytes, which no file has"),
        ({"size": True}, "bytes, which no file has"),
        ({"size": None}, "bytes, which no file has"),
        ({"blobId": "../../../../victim"}, "with the digest '../../../../victim', which is none"),
        ({"blobId": "A" * 40}, "which is none"),
        ({"blobId": "a" * 40 + "\n"}, "which is none"),
        ({"blobId": None}, "which is none"),
        ({"lfs": {"sha256": 5, "size": 2}}, "which is none"),
        ({"lfs": {"sha256": "../" + "a" * 61, "size": 2}}, "which is none"),
        ({"lfs": {"sha256": "a" * 64}}, "None bytes, which no file has"),
        ({"rfilename": "CONFIG.json"}, "lists 'CONFIG.json' and 'config.json', which not every disk can hold"),
        ({"rfilename": "config.json/config.json"}, "lists 'config.json' and 'config.json/config.json'"),
    ],
)
def test_listings_that_no_repository_has(
    server: HubServer, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    entry = {"rfilename": "vocab.txt", "size": 2, "blobId": git_sha1(b"{}")} | change
    server.repos[NAME].siblings = [entry]
    with pytest.raises(HubError, match=message.replace(".", r"\.")):
        hub.resolve(NAME, patterns=("*.json", "*.txt", "CONFIG*"))
    assert not any("/resolve/" in line for line in server.log)
    assert outside(tmp_path) == set()


@pytest.mark.parametrize("listed", [None, {}, [None], ["config.json"], [[]]])
def test_listings_of_another_kind(server: HubServer, monkeypatch: pytest.MonkeyPatch, listed: Any) -> None:
    body = json.dumps({"sha": "a" * 40, "siblings": listed}).encode()
    server.faults = [Fault("GET /api/", body=body)]
    with pytest.raises(HubError, match=r"names no commit for|leads out of its folder"):
        hub.resolve(NAME)


@pytest.mark.parametrize("commit", ["../../../planted", "a" * 39, "A" * 40, "a" * 40 + "\n", None, 5])
def test_a_commit_is_one_before_it_names_a_folder(server: HubServer, tmp_path: Path, commit: Any) -> None:
    siblings = [{"rfilename": "config.json", "size": 2, "blobId": git_sha1(b"{}")}]
    server.faults = [Fault("GET /api/", body=json.dumps({"sha": commit, "siblings": siblings}).encode())]
    with pytest.raises(HubError, match="names no commit for"):
        hub.resolve(NAME)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("revision", ["../../x", "/x", "x//y", ".x", "x.lock", "a b", "a\\b", "a\nb", "", "x" * 300])
def test_revisions_that_git_has_not(server: HubServer, tmp_path: Path, revision: str) -> None:
    for call in (hub.resolve, lambda name, revision: hub.pull(name, tmp_path / "out", revision=revision)):
        with pytest.raises(InputError, match="A revision is a branch, a tag or a commit"):
            call(NAME, revision=revision)
    assert server.log == []


def test_a_revision_with_a_slash_is_remembered(server: HubServer) -> None:
    server.repos[NAME].branches["refs/pr/1"] = {**FILES, "config.json": b'{"model_type": "roberta"}'}
    found = hub.resolve(NAME, revision="refs/pr/1")
    assert hub.resolve(NAME, revision="refs/pr/1", offline=True).folder == found.folder
    assert found.folder.name == server.repos[NAME].commit("refs/pr/1")


def test_a_listing_that_changes_between_requests(server: HubServer) -> None:
    """Files are those of the commit that was listed, whatever the branch does meanwhile."""
    repo = server.repos[NAME]
    first = repo.commit("main")
    moved = {**FILES, "config.json": b'{"model_type": "gpt2"}'}

    class Moving(dict[str, Any]):
        def get(self, name: str, default: Any = None) -> Any:
            found = super().get(name, default)
            if found is not None and any("/resolve/" in line for line in server.log):
                found.branches["main"] = moved
            return found

    server.repos = Moving(server.repos)
    found = hub.resolve(NAME)
    assert found.revision == found.folder.name == first
    assert (found.folder / "config.json").read_bytes() == FILES["config.json"]
    # The same name with other bytes at the same commit is what no listing may turn into.
    repo.branches["main"] = dict(FILES)
    server.log.clear()
    server.faults = [Fault(f"/resolve/{first}/tokenizer", body=b"[]", times=9)]
    for blob in (found.folder.parent.parent / "blobs").iterdir():
        blob.unlink()
    with pytest.raises(HubError, match=r"tokenizer\.json of 'org/tiny' does not have the digest"):
        hub.resolve(NAME)


# -- redirects and the token ----------------------------------------------------------------------------------------


def test_the_token_stays_with_its_origin(server: HubServer) -> None:
    server.repos[NAME].token = "hf_good"
    assert (hub.resolve(NAME, token="hf_good").folder / "model.safetensors").read_bytes() == WEIGHTS
    home = server.url.rpartition(":")[2]
    assert any("/storage/" in line for line in server.log)
    assert server.authorized and all(line.startswith(home) for line in server.authorized)


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's own upload of LFS files
def test_the_token_of_a_push_stays_with_its_origin(server: HubServer, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "precast.json").write_text("{}")
    (tmp_path / "made" / "a.onnx").write_bytes(b"graph")
    hub.push(tmp_path / "made", "org/made", token="hf_good", check=lambda _: None)
    home = server.url.rpartition(":")[2]
    assert any(line.startswith("PUT /upload/") for line in server.log)
    assert server.authorized and all(line.startswith(home) for line in server.authorized)


def test_the_token_follows_a_move_within_its_origin(server: HubServer) -> None:
    server.repos["org/new"] = Repo({"main": dict(FILES)}, token="hf_good")
    moved = {"Location": "/api/models/org/new?blobs=true"}
    server.faults = [Fault(f"GET /api/models/{NAME}", status=307, headers=moved)]
    listed = hub_files.list_files(NAME, None, "hf_good")
    assert listed.commit == server.repos["org/new"].commit("main")
    # To the other origin, the same move goes without it.
    server.faults = [
        Fault(f"GET /api/models/{NAME}", status=307, headers={"Location": server.storage + moved["Location"]})
    ]
    with pytest.raises(HubError, match="There is no 'org/tiny'"):
        hub_files.list_files(NAME, None, "hf_good")


@pytest.mark.parametrize(
    "location",
    ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x", "gopher://x", "http://[::1", "http://127.0.0.1:99999/", ""],
)
def test_redirects_to_another_kind_of_place(server: HubServer, location: str) -> None:
    server.faults = [Fault("GET /.*/config.json", status=302, headers={"Location": location})]
    with pytest.raises(HubError, match=r"redirects config\.json of 'org/tiny' to .* which is not followed"):
        hub.resolve(NAME)


def test_redirects_never_leave_tls(tmp_path: Path) -> None:
    for target in ("http://hub.example/x", "HTTP://hub.example/x"):
        with pytest.raises(HubError, match="which is not followed"):
            hub_transport._redirected("https://hub.example/a", target, "x")
    assert hub_transport._redirected("https://hub.example/a/b", "../c d", "x") == "https://hub.example/c%20d"
    assert hub_transport._redirected("https://hub.example/a", "//cdn.example/c", "x") == "https://cdn.example/c"


def test_redirects_without_end(server: HubServer) -> None:
    server.faults = [
        Fault("GET /.*/config.json", status=302, headers={"Location": f"/{NAME}/resolve/a/config.json"}, times=99)
    ]
    with pytest.raises(HubError, match=r"redirects config\.json of 'org/tiny' more than 8 times"):
        hub.resolve(NAME)
    assert len([line for line in server.log if "config.json" in line]) == 9


def test_a_token_that_is_none_is_not_shown(server: HubServer) -> None:
    with pytest.raises(InputError, match="characters that no token has") as caught:
        hub.resolve(NAME, token="hf_secret\nX-Evil: 1")
    assert "secret" not in str(caught.value)


def test_an_endpoint_of_another_kind(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_client, "endpoint", lambda: "file:///etc")
    with pytest.raises(HubError, match="A Hub is asked by https"):
        hub.resolve(NAME)


# -- waits and bytes without end ------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_transport, "ALLOWANCE", 0.5)
    monkeypatch.setattr(hub_transport, "SILENCE", 0.2)
    monkeypatch.setattr(hub_client.time, "sleep", lambda _: None)


PLACES = ["/api/models", "/resolve/.*/config.json", "/storage/"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ["slow_head", "slow"])
def test_a_byte_now_and_then_is_not_enough(server: HubServer, impatient: None, place: str, kind: str) -> None:
    server.repos[NAME].branches["main"]["config.json"] = b'{"model_type": "bert"}' + b" " * 500
    server.faults = [Fault(f"GET .*{place}", times=99, **{kind: True})]
    with pytest.raises(HubError, match=r"comes too slowly: [0-9]+ bytes in .* 16384 bytes a second are the least"):
        hub.resolve(NAME)


@pytest.mark.parametrize("place", PLACES)
def test_silence_is_not_waited_out(server: HubServer, impatient: None, place: str) -> None:
    server.faults = [Fault(f"GET .*{place}", silent=True, times=99)]
    with pytest.raises(OfflineError, match=r"cannot be reached \(timed out\)"):
        hub.resolve(NAME)


def test_a_server_that_does_not_even_answer_the_call(
    impatient: None, server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        monkeypatch.setattr(hub_client, "endpoint", lambda: f"http://127.0.0.1:{deaf.getsockname()[1]}")
        with pytest.raises(OfflineError, match=r"cannot be reached \(timed out\)"):
            hub.resolve(NAME)


@pytest.mark.parametrize("place", PLACES)
def test_a_body_without_end_is_cut(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str
) -> None:
    monkeypatch.setattr(hub_files, "LISTING_LIMIT", 100_000)
    server.faults = [Fault(f"GET .*{place}", endless=True, times=99)]
    with pytest.raises(HubError, match=r"has more bytes than the [0-9]+ that it may have; it was cut there"):
        hub.resolve(NAME)
    left = [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.stat().st_size > len(WEIGHTS)]
    assert left == []
    assert not list((tmp_path / "cache").rglob("*.incomplete"))


@pytest.mark.parametrize("status", [302, 404, 503])
def test_bodies_of_other_answers_are_not_read(server: HubServer, impatient: None, status: int) -> None:
    server.faults = [
        Fault("GET .*/config.json", status=status, headers={"Location": "file:///"}, endless=True, times=99)
    ]
    with pytest.raises(HubError, match=r"not followed|refuses to read|The Hub fails"):
        hub.resolve(NAME)


def test_a_line_that_breaks_after_every_byte_is_given_up(server: HubServer, impatient: None) -> None:
    server.faults = [Fault("GET /storage/", cut=1, times=10**6)]
    with pytest.raises(OfflineError, match="cannot be reached"):
        hub.resolve(NAME)
    assert len([line for line in server.log if "/storage/" in line]) == 4


def test_a_push_does_not_wait_for_ever(server: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hub, "PUSH_ALLOWANCE", 0.3)
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "precast.json").write_text("{}")
    server.faults = [Fault("POST /api/repos/create", silent=True)]
    with pytest.raises(HubError, match=r"to create 'org/made' did not end within 0 s"):
        hub.push(tmp_path / "made", "org/made", token="hf_any", check=lambda _: None)


@pytest.mark.parametrize("verb", ["resolve", "pull"])
def test_a_disk_that_fills_up_is_said_to_be_full_of_what(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, verb: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    server.repos[NAME].branches["main"]["precast.json"] = b"{}"
    status = os.statvfs_result((4096, 4096, 10**7, 10**6, 10**6, 1000, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: status)
    monkeypatch.setattr(hub_files._Received, "add", refuse)
    with pytest.raises(DiskSpaceError, match=r"has no inodes left for further files, though 4\.1 GB are free"):
        hub.resolve(NAME) if verb == "resolve" else hub.pull(NAME, tmp_path / "out")
    assert outside(tmp_path) == set()
    assert not list(tmp_path.rglob("*.incomplete"))


def test_a_line_that_breaks_behind_the_last_byte(server: HubServer, impatient: None) -> None:
    """Without a length, only the end of the connection says that there is no more; a silent one does not."""
    server.faults = [Fault("GET /storage/", unfinished=True, times=9)]
    assert (hub.resolve(NAME).folder / "model.safetensors").read_bytes() == WEIGHTS
    assert len([line for line in server.log if "/storage/" in line]) == 1


def test_what_no_disk_holds_is_not_begun(server: HubServer) -> None:
    server.repos[NAME].siblings = [{"rfilename": "vocab.txt", "size": 1 << 49, "blobId": git_sha1(b"x")}]
    with pytest.raises(DiskSpaceError, match=r"cannot hold the files of 'org/tiny': it needs at least 562950\.0 GB"):
        hub.resolve(NAME)
    assert not any("/resolve/" in line for line in server.log)
