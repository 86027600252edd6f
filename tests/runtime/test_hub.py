"""The Hub, against a server on the loopback: checkpoints from it, artifacts to it (by huggingface_hub) and back."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants
from support import artifact_samples as samples
from support.hub_server import FILES, NAME, WEIGHTS, Fault, HubServer, Repo

from precast.runtime import hub, hub_client
from precast.runtime.artifact import Artifact, ArtifactWriter, staging
from precast.runtime.errors import ArtifactError, HubError, InputError, OfflineError, OutputExistsError
from precast.runtime.hub_names import looks_like_hub_id, wanted_files


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What our own retries would have slept."""
    found: list[float] = []
    monkeypatch.setattr(hub_client.time, "sleep", found.append)
    return found


def downloads(server: HubServer) -> list[str]:
    return [line for line in server.log if line.startswith("GET") and ("/resolve/" in line or "/storage/" in line)]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("bert-base-uncased", True),
        ("org/name", True),
        ("org/na.me-1_2", True),
        ("./name", False),
        ("../name", False),
        ("/abs/name", False),
        ("~/name", False),
        ("a/b/c", False),
        ("org/", False),
        ("", False),
        ("org\\name", False),
        ("C:/name", False),
        ("org/na..me", False),
        ("name.git", False),
        ("nämé", False),
        ("x" * 97, False),
    ],
)
def test_what_a_hub_id_looks_like(source: str, expected: bool) -> None:
    assert looks_like_hub_id(source) is expected


def test_only_what_an_export_reads_is_wanted() -> None:
    names = [
        *FILES,
        "pytorch_model.bin",
        "model.fp16.safetensors",
        "training_args.bin",
        "modules.json",
        "1_Pooling/config.json",
        "2_Dense/pytorch_model.bin",
        "2_Dense/config.json",
        "openvino/openvino_model.bin",
        "sentence_bert_config.json",
        "spm.model",
        "source.spm",
        "model.gguf",
        "flax_model.msgpack",
        "speaker_embeddings_path.json",
        "speaker_embeddings/v2/en_speaker_0_fine_prompt.npy",
        "speaker_embeddings/v2/en_speaker_0.npz",
    ]
    assert wanted_files(names) == [
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_Dense/pytorch_model.bin",
        "config.json",
        "model.safetensors",
        "modules.json",
        "sentence_bert_config.json",
        "source.spm",
        "speaker_embeddings/v2/en_speaker_0_fine_prompt.npy",
        "speaker_embeddings_path.json",
        "spm.model",
        "tokenizer.json",
    ]
    sharded = ["pytorch_model.bin.index.json", "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
    assert wanted_files(sharded) == sorted(sharded)
    assert wanted_files([*sharded, "model.safetensors"]) == ["model.safetensors"]


def test_downloads_verifies_and_then_asks_for_nothing_twice(server: HubServer) -> None:
    found = hub.resolve(NAME)
    assert found.id == NAME
    assert found.revision == server.repos[NAME].commit("main") == found.folder.name
    assert set(found.hashes) == {"config.json", "tokenizer.json", "model.safetensors"}
    assert found.hashes["model.safetensors"] == hashlib.sha256(WEIGHTS).hexdigest()
    assert set(found.available) == set(FILES)
    assert (found.folder / "model.safetensors").read_bytes() == WEIGHTS
    assert not any(word in line for line in server.log for word in ("onnx", "h5", "README"))
    server.log.clear()
    assert hub.resolve(NAME) == found
    assert downloads(server) == []


def test_a_pinned_revision_stays_when_the_branch_moves(server: HubServer) -> None:
    repo = server.repos[NAME]
    old = repo.commit("main")
    repo.branches["main"] = {**FILES, "config.json": b'{"model_type": "roberta"}'}
    assert (hub.resolve(NAME, revision=old).folder / "config.json").read_bytes() == FILES["config.json"]
    latest = hub.resolve(NAME)
    assert latest.revision == repo.commit("main") != old
    assert (latest.folder / "config.json").read_bytes() == b'{"model_type": "roberta"}'


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_wrong_bytes_of_the_right_size_are_refused_and_fetched_again(server: HubServer, file: str) -> None:
    true = FILES[file]
    place = f"storage/{hashlib.sha256(true).hexdigest()}" if file == "model.safetensors" else f"resolve/.*/{file}"
    wrong = true[:-1] + bytes([true[-1] ^ 1])
    server.faults.append(Fault(f"GET /.*{place}", body=wrong))
    with pytest.raises(HubError, match=rf"{file} of 'org/tiny' does not have the digest .* Nothing was kept"):
        hub.resolve(NAME)
    found = hub.resolve(NAME)
    assert (found.folder / file).read_bytes() == true


def test_a_damaged_cache_is_noticed_even_offline(server: HubServer) -> None:
    found = hub.resolve(NAME)
    blob = Path(os.path.realpath(found.folder / "model.safetensors"))
    blob.chmod(0o644)
    blob.write_bytes(WEIGHTS[:-1] + b"!")
    with pytest.raises(HubError, match=r"model\.safetensors of 'org/tiny' does not have the digest"):
        hub.resolve(NAME, offline=True)
    with pytest.raises(OfflineError, match=r"The cached copy of 'org/tiny' lacks weights"):
        hub.resolve(NAME, offline=True)
    assert (hub.resolve(NAME).folder / "model.safetensors").read_bytes() == WEIGHTS


def test_wrong_size_is_an_error(server: HubServer) -> None:
    server.faults.append(Fault("GET /storage/", body=WEIGHTS[:-7], times=9))
    with pytest.raises(HubError, match=r"came with another size than listed: 10233 bytes for 10240"):
        hub.resolve(NAME)
    server.faults.clear()
    assert (hub.resolve(NAME).folder / "model.safetensors").read_bytes() == WEIGHTS


def test_a_broken_download_is_resumed(server: HubServer, waits: list[float]) -> None:
    server.faults.append(Fault("GET /storage/", cut=5000))
    assert (hub.resolve(NAME).folder / "model.safetensors").read_bytes() == WEIGHTS
    assert len([line for line in server.log if line.startswith("GET /storage/")]) == 2


def test_no_such_repository(server: HubServer) -> None:
    with pytest.raises(HubError, match=r"There is no 'org/tini' on http.*Check the spelling, or set HF_TOKEN"):
        hub.resolve("org/tini")
    with pytest.raises(HubError, match=r"There is no 'org/tini'"):
        hub.resolve("org/tini", token="hf_wrong")


def test_no_such_revision(server: HubServer) -> None:
    with pytest.raises(HubError, match=r"'org/tiny' on .* has no revision 'v9'\. Give a branch, a tag or a commit"):
        hub.resolve(NAME, revision="v9")


def test_private_and_gated(server: HubServer) -> None:
    server.repos["org/private"] = Repo({"main": dict(FILES)}, token="hf_good")
    with pytest.raises(HubError, match="it is private and the token does not open it"):
        hub.resolve("org/private")
    assert hub.resolve("org/private", token="hf_good").id == "org/private"
    server.repos["org/gated"] = Repo({"main": dict(FILES)}, token="hf_good", gated=True)
    with pytest.raises(HubError, match=r"'org/gated' on .* is gated: its owner grants access on its page"):
        hub.resolve("org/gated")


def test_refused_by_status(server: HubServer) -> None:
    server.faults.append(
        Fault("GET /api/models", status=401, headers={"X-Error-Message": "Invalid credentials in Authorization header"})
    )
    with pytest.raises(HubError, match=r"The token is not accepted for 'org/tiny' .*status 401"):
        hub.resolve(NAME, token="hf_bad")
    server.faults.append(Fault("GET /api/models", status=403))
    with pytest.raises(HubError, match=r"The token may not read 'org/tiny' .*status 403"):
        hub.resolve(NAME)


def test_a_busy_hub_is_asked_again_when_it_says(server: HubServer, waits: list[float]) -> None:
    server.faults += [
        Fault("GET /api/models", status=429, headers={"Retry-After": "7"}),
        Fault("GET /api/models", status=429, headers={"RateLimit": '"api";r=0;t=11'}),
        Fault("GET /api/models", status=503),
    ]
    assert hub.resolve(NAME).id == NAME
    assert waits == [7.0, 11.0, 2.0]


def test_a_busy_hub_is_not_waited_for_without_end(server: HubServer, waits: list[float]) -> None:
    server.faults.append(Fault("GET /api/models", status=429, headers={"Retry-After": "3600"}))
    with pytest.raises(HubError, match=r"limits the rate of requests \(status 429\)\. Try again in 3600 s"):
        hub.resolve(NAME)
    assert waits == []
    server.faults.append(Fault("GET /api/models", status=503, times=99))
    with pytest.raises(HubError, match=r"The Hub fails at 'org/tiny' .*\(status 503\)"):
        hub.resolve(NAME)
    assert len(waits) == 3


def test_a_reset_connection_is_tried_again(server: HubServer, waits: list[float]) -> None:
    server.faults.append(Fault("GET /api/models", reset=True, times=2))
    assert hub.resolve(NAME).id == NAME
    assert len(waits) == 2
    server.faults.append(Fault("GET /api/models", reset=True, times=99))
    with pytest.raises(OfflineError, match=r"cannot be reached .*Check the network and HF_ENDPOINT"):
        hub.resolve("org/other")


def test_offline_takes_the_cached_copy_only(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OfflineError, match=r"'org/tiny' is not in the cache.*offline mode is on.*HF_HUB_OFFLINE unset"):
        hub.resolve(NAME, offline=True)
    online = hub.resolve(NAME)
    server.log.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    found = hub.resolve(NAME)
    assert (found.folder, found.revision, found.hashes) == (online.folder, online.revision, online.hashes)
    assert hub.resolve(NAME, revision=online.revision).folder == online.folder
    with pytest.raises(OfflineError, match=r"at revision 'v9' is not in the cache"):
        hub.resolve(NAME, revision="v9")
    with pytest.raises(OfflineError, match="'org/other' is not in the cache"):
        hub.resolve("org/other", offline=False)  # the environment forbids, and has the last word
    with pytest.raises(OfflineError, match=r"offline mode forbids it\. Unset HF_HUB_OFFLINE"):
        hub.pull("org/other", "never")
    assert server.log == []


def test_an_unreachable_hub_falls_back_to_the_cached_copy(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, waits: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    online = hub.resolve(NAME)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        with caplog.at_level(logging.WARNING):
            assert hub.resolve(NAME).folder == online.folder
        assert "the cached copy of org/tiny" in caplog.text
        with pytest.raises(OfflineError, match="cannot be reached"):
            hub.resolve("org/other")


def test_no_such_host(server: HubServer, monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> None:
    def nowhere(*_: object, **__: object) -> object:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.invalid")
    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    with pytest.raises(OfflineError, match=r"http://hub\.invalid cannot be reached .*Name or service not known"):
        hub.resolve(NAME)
    assert waits == []


def test_an_incomplete_cached_copy_is_not_used_offline(server: HubServer) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    files = {"config.json": b"{}", "model.safetensors.index.json": json.dumps(index).encode()}
    files |= dict.fromkeys(index["weight_map"].values(), b"12345678")
    server.repos["org/sharded"] = Repo({"main": files})
    folder = hub.resolve("org/sharded").folder
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(OfflineError, match=r"of 'org/sharded' lacks model-00002-of-00002\.safetensors"):
        hub.resolve("org/sharded", offline=True)


def test_names_that_lead_out_are_refused(server: HubServer) -> None:
    server.repos["org/evil"] = Repo({"main": {"config.json": b"{}", "../../evil.json": b"{}"}})
    with pytest.raises(HubError, match=r"lists a file '\.\./\.\./evil\.json', which leads out"):
        hub.resolve("org/evil")


def test_a_repository_without_anything_to_read(server: HubServer) -> None:
    server.repos["org/data"] = Repo({"main": {"data.csv": b"1"}})
    with pytest.raises(HubError, match=r"'org/data' on .* holds nothing an export reads.*It holds: data\.csv"):
        hub.resolve("org/data")


def test_nothing_is_printed(server: HubServer, capfd: pytest.CaptureFixture[str]) -> None:
    hub.resolve(NAME)
    assert capfd.readouterr() == ("", "")


def test_the_environment_is_honoured(server: HubServer, tmp_path: Path) -> None:
    script = (
        "import sys; from precast.runtime import hub\n"
        "assert 'huggingface_hub' not in sys.modules\n"
        "print(hub.resolve('org/private').folder)"
    )
    server.repos["org/private"] = Repo({"main": dict(FILES)}, token="hf_good")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    environment |= {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_good"}
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_CACHE": str(tmp_path / "home" / "hub")}
    run = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith(str(tmp_path / "home"))


# -- artifacts ------------------------------------------------------------------------------------------------------


def artifact(folder: Path, weights: bytes = b"weights" * 99) -> dict[str, bytes]:
    """A folder laid out as an artifact is; what it means is the artifact's own tests' affair."""
    files = {
        "encoder.cpu-fp32.onnx": b"graph",
        f"weights/{hashlib.sha256(weights).hexdigest()}.bin": weights,
        "config.json": b"{}",
        "parity/inputs.npz": b"numbers",
    }
    listed = {name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    document = {"files": listed, "format": {"version": "1.0"}, "seal": "5" * 64}
    files["precast.json"] = json.dumps(document).encode()
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return files


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def accept(folder: Path) -> None:
    assert (folder / "precast.json").is_file()


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's own upload of LFS files
def test_push_and_pull_give_the_same_folder(server: HubServer, tmp_path: Path) -> None:
    files = artifact(tmp_path / "made")
    address = hub.push(tmp_path / "made", "org/made", token="hf_any", check=accept)
    assert address.startswith(f"{server.url}/org/made/commit/")
    server.repos["org/made"].branches["main"]["README.md"] = b"# card"
    assert hub.pull("org/made", tmp_path / "pulled", check=accept) == tmp_path / "pulled"
    assert contents(tmp_path / "pulled") == files
    assert not any(path.is_symlink() for path in (tmp_path / "pulled").rglob("*"))
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []

    # A second push is one more commit that leaves nothing of the first artifact behind, and the card alone.
    newer = artifact(tmp_path / "newer", b"other" * 50)
    server.log.clear()
    hub.push(tmp_path / "newer", "org/made", token="hf_any", check=accept)
    assert len([line for line in server.log if "/commit/" in line]) == 1
    assert server.repos["org/made"].branches["main"] == {**newer, "README.md": b"# card"}
    with pytest.raises(OutputExistsError, match="already holds an artifact"):
        hub.pull("org/made", tmp_path / "pulled", check=accept)
    hub.pull("org/made", tmp_path / "pulled", overwrite=True, check=accept)
    assert contents(tmp_path / "pulled") == newer
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's own upload of LFS files
def test_push_to_a_branch(server: HubServer, tmp_path: Path) -> None:
    files = artifact(tmp_path / "made")
    hub.push(tmp_path / "made", "org/made", revision="v1", token="hf_any", check=accept)
    assert server.repos["org/made"].branches == {"main": {}, "v1": files}


@pytest.mark.parametrize("what", ["bytes", "check", "missing", "unsealed"])
def test_a_pull_that_fails_leaves_nothing(server: HubServer, tmp_path: Path, what: str) -> None:
    files = artifact(tmp_path / "made")
    server.repos["org/made"] = Repo({"main": files})
    refuse = None
    if what == "bytes":
        server.faults.append(Fault(r"GET /.*/config\.json", body=b"[]"))
        expected, message = HubError, r"config\.json of 'org/made' does not have the digest"
    elif what == "missing":
        del files["parity/inputs.npz"]
        expected, message = ArtifactError, r"lacks files of its manifest: parity/inputs\.npz"
    elif what == "unsealed":
        refuse, expected, message = hub._check_artifact, ArtifactError, r"precast\.json"
    else:

        def refuse(_: Path) -> None:
            raise ArtifactError("not an artifact after all")

        expected, message = ArtifactError, "not an artifact after all"
    before = sorted(tmp_path.iterdir())
    with pytest.raises(expected, match=message):
        hub.pull("org/made", tmp_path / "out", check=refuse or accept)
    assert [path for path in tmp_path.iterdir() if path not in before and path.name != "cache"] == []


def test_pull_and_push_refuse_what_is_no_artifact(server: HubServer, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"'org/tiny' holds no precast\.json.*precast export org/tiny OUT"):
        hub.pull(NAME, tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match=r"An artifact is a folder with precast\.json; 'empty' is not"):
        hub.push(tmp_path / "empty", "org/made")
    artifact(tmp_path / "made")
    with pytest.raises(InputError, match="A Hub id is"):
        hub.push(tmp_path / "made", "not/a/name")
    with pytest.raises(ArtifactError, match=r"precast\.json"):
        hub.push(tmp_path / "made", "org/made")  # looks like one, and is not
    (tmp_path / "made" / "link").symlink_to(tmp_path / "empty")
    with pytest.raises(ArtifactError, match="link is a link or no regular file"):
        hub.push(tmp_path / "made", "org/made")


def test_push_without_the_right_to(server: HubServer, tmp_path: Path) -> None:
    artifact(tmp_path / "made")
    server.repos["org/made"] = Repo()
    server.faults.append(Fault("POST /api/models/org/made/preupload", status=403))
    with pytest.raises(HubError, match=r"The token may not write to 'org/made' .*status 403"):
        hub.push(tmp_path / "made", "org/made", token="hf_read", check=accept)


def test_overwrite_replaces_artifacts_only(server: HubServer, tmp_path: Path) -> None:
    server.repos["org/made"] = Repo({"main": artifact(tmp_path / "made")})
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "work.txt").write_text("x")
    with pytest.raises(OutputExistsError, match=r"precious is not an artifact, so --overwrite will not delete it"):
        hub.pull("org/made", tmp_path / "precious", overwrite=True, check=accept)
    assert (tmp_path / "precious" / "work.txt").read_text() == "x"


def test_overwrite_keeps_the_files_beside_an_artifact(server: HubServer, tmp_path: Path) -> None:
    files = artifact(tmp_path / "made")
    server.repos["org/made"] = Repo({"main": files})
    out = tmp_path / "out"
    hub.pull("org/made", out, check=accept)
    (out / "notes").mkdir()
    (out / "notes" / "mine.txt").write_text("x")
    with pytest.raises(OutputExistsError, match=r"not part of the artifact and would be deleted: notes/mine\.txt"):
        hub.pull("org/made", out, overwrite=True, check=accept)
    (out / "notes" / "mine.txt").rename(tmp_path / "mine.txt")

    # One that appears while the artifact is fetched is kept as well.
    def appears(_: Path) -> None:
        (out / "late.txt").write_text("x")

    with pytest.raises(OutputExistsError, match=r"would be deleted: late\.txt"):
        hub.pull("org/made", out, overwrite=True, check=appears)
    assert (out / "late.txt").read_text() == "x"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_writer_leaves_a_living_pull_alone(server: HubServer, tmp_path: Path) -> None:
    files = artifact(tmp_path / "made")
    server.repos["org/made"] = Repo({"main": files})

    def meanwhile(work: Path) -> None:
        ArtifactWriter(tmp_path / "out")  # what every export begins with
        with ArtifactWriter(tmp_path / "out"), pytest.raises(OutputExistsError):
            hub.pull("org/made", tmp_path / "made", check=accept)
        assert contents(work) == files

    hub.pull("org/made", tmp_path / "out", check=meanwhile)
    assert contents(tmp_path / "out") == files


def test_a_pull_that_lost_the_race_replaces_nothing(server: HubServer, tmp_path: Path) -> None:
    files = artifact(tmp_path / "made")
    server.repos["org/made"] = Repo({"main": files})

    def meanwhile(_: Path) -> None:
        samples.make(tmp_path / "out")

    with pytest.raises(OutputExistsError, match="already holds an artifact"):
        hub.pull("org/made", tmp_path / "out", check=meanwhile)
    assert Artifact.open(tmp_path / "out").manifest.source == samples.SOURCE
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("exchange", [True, False])
def test_overwrite_with_and_without_an_exchange(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:

        def refuse(*_: object) -> None:
            raise OSError(errno.EINVAL, "no such flag")

        monkeypatch.setattr(staging, "_renameat2", refuse)
    files = artifact(tmp_path / "made")
    server.repos["org/made"] = Repo({"main": files})
    artifact(tmp_path / "out", b"older")
    left = tmp_path / ".out.precast-staging-999999-0123abcd"  # nobody holds its lock
    left.mkdir()
    alive = staging.Staging(tmp_path / "out")
    hub.pull("org/made", tmp_path / "out", overwrite=True, check=accept)
    assert contents(tmp_path / "out") == files
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == [alive.root]
    alive.remove()
