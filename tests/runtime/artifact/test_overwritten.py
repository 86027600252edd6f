"""An artifact replaced while it is loaded: what is loaded is what was checked, and nothing fails for it."""

from __future__ import annotations

import fcntl
import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import TESTS, overwritten_artifact

import precast
from precast.runtime import auto
from precast.runtime.artifact import Artifact, ArtifactWriter, reader, staging
from precast.runtime.errors import ArtifactError, IntegrityError, OutputExistsError
from precast.runtime.processors.text import Tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    overwritten_artifact.make(tmp_path / "a", 0)
    return tmp_path / "a"


@pytest.fixture(params=["exchange", "two renames"])
def overwritten(request: pytest.FixtureRequest, folder: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "support.overwritten_artifact", str(folder), request.param]
    with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=TESTS) as process:
        yield
        assert process.poll() is None
        process.communicate()
    assert process.returncode == 0


def word(tokenizer: Tokenizer | None) -> int:
    assert tokenizer is not None
    (found,) = tokenizer("word").input_ids
    return int(found)


def test_sixty_loads_while_it_is_overwritten(folder: Path, overwritten: None, tmp_path: Path) -> None:
    digests = {overwritten_artifact.make(tmp_path / f"{seed}", seed): seed for seed in (0, 1)}
    seen: dict[int, int] = {}
    begun = time.monotonic()
    # And on until the other process, which has to start first, has got its turns.
    while sum(seen.values()) < 60 or (len(seen) < 2 and time.monotonic() < begun + 120):
        model = precast.load(folder, threads=1)
        seed = digests[model.artifact.digest]
        assert model(input_ids=[[0, overwritten_artifact.ROWS - 1]]).last_hidden_state.tolist() == [[[seed] * 32] * 2]
        assert model.config == {"seed": seed}
        assert word(model.tokenizer) == seed + 1
        seen[seed] = seen.get(seed, 0) + 1
    assert set(seen) == {0, 1}


@pytest.mark.parametrize("verb", ["verify", "tokenizer"])
def test_whatever_opens_by_name_looks_again(folder: Path, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    """The artifact is replaced once, in the worst moment: after the check, before the use."""
    seeds = []
    real = Artifact.open_folder.__func__  # type: ignore[attr-defined]

    def overtaken(cls: type[Artifact], place: Path, *, check: str) -> Artifact:
        found: Artifact = real(cls, place, check=check)
        if place == folder:
            seeds.append(len(seeds))
            if len(seeds) == 1:
                overwritten_artifact.make(folder, 1, "overwrite")
        return found

    monkeypatch.setattr(Artifact, "open_folder", classmethod(overtaken))
    if verb == "verify":
        with pytest.raises(ArtifactError, match="the parity record must be"):  # neither has one
            precast.verify(folder)
    else:
        assert word(auto.AutoTokenizer.from_pretrained(folder)) == 2
    assert len(seeds) == 2


def test_a_loaded_model_reads_what_it_was_loaded_with(folder: Path, tmp_path: Path) -> None:
    model = precast.load(folder)
    overwritten_artifact.make(folder, 1, "overwrite")
    assert model.config == {"seed": 0}
    assert word(model.tokenizer) == 1
    newer = precast.load(folder)
    assert (newer.config, word(newer.tokenizer)) == ({"seed": 1}, 2)


@pytest.mark.parametrize(("name", "read"), [("config.json", "config"), ("tokenizer.json", "tokenizer")])
def test_a_file_changed_in_its_place_after_the_load_is_refused(folder: Path, name: str, read: str) -> None:
    model = precast.load(folder)
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data.replace(b"0", b"7"))
    with pytest.raises(IntegrityError, match=rf"was changed after it was opened: {name} differs from its recorded"):
        getattr(model, read)


def test_a_file_changed_in_its_place_during_the_load_is_refused(folder: Path) -> None:
    graph = folder / "encoder.cpu-fp32.onnx"

    def use(artifact: Artifact) -> None:
        data = bytearray(graph.read_bytes())
        data[0] ^= 1
        graph.write_bytes(data)

    with pytest.raises(IntegrityError, match=r"encoder\.cpu-fp32\.onnx differs from its recorded SHA-256"):
        Artifact.use(folder, use)


def test_looks_are_bounded(folder: Path) -> None:
    looks = []

    def use(artifact: Artifact) -> None:
        looks.append(artifact)
        os.utime(folder / "config.json")  # somebody who knows of no lock

    with pytest.raises(ArtifactError, match="changed each of the 20 times it was opened"):
        Artifact.use(folder, use)
    assert len(looks) == 20


def test_an_error_of_the_use_itself_is_no_reason_to_look_again(folder: Path) -> None:
    looks = []

    def use(artifact: Artifact) -> None:
        looks.append(artifact)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        Artifact.use(folder, use)
    assert len(looks) == 1


def test_publishers_wait_for_who_looked_too_often(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_FREE_LOOKS", 1)
    looks: list[Artifact] = []
    writers: list[threading.Thread] = []

    def use(artifact: Artifact) -> str:
        looks.append(artifact)
        if len(looks) == 1:
            overwritten_artifact.make(folder, 1, "overwrite")
        else:
            writers.append(threading.Thread(target=overwritten_artifact.make, args=(folder, 0, "overwrite")))
            writers[0].start()
            with open(folder / "precast.json", "rb") as manifest, pytest.raises(BlockingIOError):
                fcntl.flock(manifest, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return artifact.digest

    digest = Artifact.use(folder, use)
    writers[0].join()
    assert digest == looks[1].digest != Artifact.open(folder).digest
    assert len(looks) == 2


def test_held_files_are_closed_with_their_artifact(folder: Path) -> None:
    handles = len(os.listdir("/proc/self/fd"))
    model = precast.load(folder)
    assert len(os.listdir("/proc/self/fd")) == handles + len(model.artifact.processing_files)
    del model
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == handles


def test_an_exchange_that_was_killed_is_not_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_WAITS", 3)
    left = staging.Staging(folder)
    folder.rename(left.root / "aside")
    with pytest.raises(ArtifactError, match="There is no folder"):
        precast.load(folder)
    os.close(left.lock)  # as when its process died
    with pytest.raises(OutputExistsError, match="already holds an artifact"):
        ArtifactWriter(folder)
    assert precast.load(folder).config == {"seed": 0}
