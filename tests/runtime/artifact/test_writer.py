"""Publishing: whole or not at all, never over something else, with nothing left behind."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import DATA
from support import artifact_samples as samples

from precast.runtime.artifact import Artifact, Manifest, Source
from precast.runtime.artifact import staging as staging_module
from precast.runtime.artifact import writer as writer_module
from precast.runtime.artifact.publisher import Publisher
from precast.runtime.artifact.writer import ArtifactWriter
from precast.runtime.errors import (
    ArtifactError,
    DiskSpaceError,
    ExportError,
    FormatVersionError,
    InputError,
    IntegrityError,
    OutputExistsError,
)
from precast.runtime.ports import Port


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return samples.make(tmp_path_factory.mktemp("template") / "tiny")


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is synced, and when, has its own test; the disk's pace is not ours to test."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def folder(tmp_path: Path, template: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "tiny"))


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder, hidden or not."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


# Writing


def test_weights_are_streamed_and_stored_once(tmp_path: Path) -> None:
    table = np.arange(12, dtype=np.float32).reshape(3, 4)
    with ArtifactWriter(tmp_path / "a") as writer:
        parts = [table[:1], bytearray(table[1:].tobytes()), memoryview(b""), np.zeros((0, 4)), np.zeros((), np.float32)]
        name, size = writer.add_weight(parts)
        assert size == 52
        assert writer.add_weight([table.tobytes() + bytes(4)]) == (name, 52)
        assert writer.path_of(name).read_bytes() == table.tobytes() + bytes(4)
        with pytest.raises(ArtifactError, match=r"'other\.onnx' has not been written\. Written so far: weights/"):
            writer.path_of("other.onnx")
    assert os.listdir(tmp_path) == []


def test_files_are_copied_never_linked(tmp_path: Path) -> None:
    source = tmp_path / "blob"
    source.write_bytes(b"x" * 3_000_000)
    (tmp_path / "link").symlink_to(source)
    with ArtifactWriter(tmp_path / "a") as writer:
        variant = samples.fill(writer)
        writer.add_file("data/tokenizer.json", tmp_path / "link")
        with pytest.raises(ExportError, match=r"Cannot read .*nowhere: No such file"):
            writer.add_file("x.json", tmp_path / "nowhere")
        writer.publish(samples.manifest(variant))
    artifact = Artifact.open(tmp_path / "a")
    assert artifact.read_bytes("data/tokenizer.json") == source.read_bytes()
    assert not artifact.file("data/tokenizer.json").is_symlink()


def test_a_file_is_written_once_or_equal(tmp_path: Path) -> None:
    with ArtifactWriter(tmp_path / "a") as writer:
        writer.write_bytes("config.json", b"{}")
        writer.write_bytes("config.json", b"{}")
        with pytest.raises(ExportError, match=r"config\.json cannot be written: it was written before"):
            writer.write_bytes("config.json", b"{ }")
        for name in ("../x.json", "/x.json", "a\\b.json", ".x", "x.py", ""):
            with pytest.raises(ArtifactError, match=r"relative path inside|nothing executable"):
                writer.write_bytes(name, b"")


def test_modes_and_umask_are_the_users(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        folder = samples.make(tmp_path / "a")
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o750
    assert (folder / "weights").stat().st_mode & 0o777 == 0o750
    assert {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()} == {0o640}


def test_an_error_in_the_block_leaves_nothing(tmp_path: Path) -> None:
    def chunks() -> Any:
        yield b"some"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), ArtifactWriter(tmp_path / "new" / "parents" / "a") as writer:  # noqa: PT012
        samples.fill(writer)
        writer.add_weight(chunks())
    assert os.listdir(tmp_path) == []
    with ArtifactWriter(tmp_path / "a") as writer:
        samples.fill(writer)
    assert os.listdir(tmp_path) == []


def test_errors_of_the_chunks_pass_unchanged(tmp_path: Path) -> None:
    def chunks() -> Any:
        yield b"some"
        raise FileNotFoundError(errno.ENOENT, "the checkpoint went away")

    with pytest.raises(FileNotFoundError, match="went away"), ArtifactWriter(tmp_path / "a") as writer:
        writer.add_weight(chunks())


def test_misuse(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="mode must be 'create', 'overwrite' or 'add', got 'replace'"):
        ArtifactWriter(tmp_path / "a", mode="replace")
    with pytest.raises(ExportError, match="inside its `with` block"):
        ArtifactWriter(tmp_path / "a").write_bytes("x", b"")
    with ArtifactWriter(tmp_path / "a") as writer:
        variant = samples.fill(writer)
        writer.publish(samples.manifest(variant))
        with pytest.raises(ExportError, match="already published"):
            writer.publish(samples.manifest(variant))
    for out in ("/", "a\0b"):
        with pytest.raises(InputError, match="cannot be a folder to export to"):
            ArtifactWriter(out)
    with pytest.raises(InputError, match="the kind of name an unfinished export has"):
        ArtifactWriter(tmp_path / ".a.precast-staging-1-01234567")


def test_what_no_reader_would_accept_is_not_published(tmp_path: Path) -> None:
    def attempt(message: str, kind: type[Exception], meddle: Any) -> None:
        with pytest.raises(kind, match=message), ArtifactWriter(tmp_path / "a") as writer:  # noqa: PT012
            variant = samples.fill(writer)
            made = meddle(writer, variant)
            writer.publish(made or samples.manifest(variant))
        assert os.listdir(tmp_path) == []

    def graph(writer: ArtifactWriter) -> Path:
        return writer.path_of("encoder.cpu-fp32.onnx")

    attempt("graph must be a file listed", ArtifactError, lambda w, v: samples.manifest(v._replace(graph="x.onnx")))
    attempt(
        "weights: weights/|No variant lists these weights",
        ExportError,
        lambda w, v: samples.manifest(v._replace(weights=())),
    )
    attempt("onnx has 0 bytes", IntegrityError, lambda w, v: graph(w).write_bytes(b"") and None)
    attempt("differs from its recorded", IntegrityError, lambda w, v: [graph(w).write_bytes(bytes(250)), None][1])
    attempt(
        "appeared in the artifact .*: optimised.onnx",
        ExportError,
        lambda w, v: [graph(w).with_name("optimised.onnx").touch(), None][1],
    )
    attempt("config.json is missing", IntegrityError, lambda w, v: w.path_of("config.json").unlink())
    attempt("finite JSON", ArtifactError, lambda w, v: samples.manifest(v, cost={"t": np.float32(1)}))


def test_long_names(tmp_path: Path) -> None:
    name = "n" * 250
    assert Artifact.open(samples.make(tmp_path / name)).path.name == name
    samples.make(tmp_path / name, mode="overwrite", seed=1)
    assert os.listdir(tmp_path) == [name]


# What is already there


def test_create_replaces_nothing(tmp_path: Path, folder: Path) -> None:
    before = tree(tmp_path)
    with pytest.raises(OutputExistsError, match=r"already holds an artifact. --add puts .* --overwrite replaces it"):
        ArtifactWriter(folder)
    assert tree(tmp_path) == before
    (tmp_path / "empty").mkdir()
    with pytest.raises(OutputExistsError, match=r"empty exists. It is empty: rmdir .* or use --overwrite"):
        ArtifactWriter(tmp_path / "empty")
    (tmp_path / "file").write_text("x")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name, what in (("file", "a file"), ("dangling", "a link")):
        with pytest.raises(OutputExistsError, match=f"{name} exists and is {what}"):
            ArtifactWriter(tmp_path / name)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("x")
    for mode, message in (("create", "Choose a folder that does not exist"), ("overwrite", "is not an artifact")):
        with pytest.raises(OutputExistsError, match=message):
            ArtifactWriter(tmp_path / "home", mode=mode)


@pytest.mark.parametrize("plain", [False, True], ids=["renameat2", "fallback"])
def test_a_target_that_appeared_meanwhile_is_not_replaced(
    tmp_path: Path, plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if plain:
        without_flags(monkeypatch)
    with pytest.raises(OutputExistsError, match="exists"), ArtifactWriter(tmp_path / "a") as writer:  # noqa: PT012
        variant = samples.fill(writer)
        (tmp_path / "a").mkdir()
        writer.publish(samples.manifest(variant))
    assert tree(tmp_path) == {"a": None}


def without_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system on which renameat2 knows no flags."""

    def refuse(*_: Any) -> None:
        raise OSError(errno.EINVAL, "no such flag")

    monkeypatch.setattr(staging_module, "_renameat2", refuse)


@pytest.mark.parametrize("plain", [False, True], ids=["renameat2", "fallback"])
def test_overwrite(tmp_path: Path, folder: Path, plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if plain:
        without_flags(monkeypatch)
    old = Artifact.open(folder).digest
    samples.make(folder, mode="overwrite", seed=1)
    assert Artifact.open(folder).digest != old
    samples.make(folder, mode="overwrite")
    assert Artifact.open(folder).digest == old
    (tmp_path / "empty").mkdir()
    samples.make(tmp_path / "empty", mode="overwrite")
    samples.make(tmp_path / "absent", mode="overwrite")
    assert Artifact.open(tmp_path / "absent").digest == Artifact.open(tmp_path / "empty").digest == old
    (tmp_path / "link").symlink_to(folder)
    samples.make(tmp_path / "link", mode="overwrite", seed=2)
    assert Artifact.open(folder).digest != old
    assert (tmp_path / "link").is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["absent", "empty", "link", "tiny"]


def test_a_failed_fallback_puts_the_old_one_back(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tree(tmp_path)
    without_flags(monkeypatch)
    rename = os.rename

    def failing(source: Any, target: Any) -> None:
        if Path(source).name == "artifact":
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(staging_module.os, "rename", failing)
    with pytest.raises(ExportError, match=r"Cannot publish \(exporting to .*tiny\): Input/output error"):
        samples.make(folder, mode="overwrite", seed=1)
    assert tree(tmp_path) == before


def test_overwrite_deletes_nothing_but_an_artifact(tmp_path: Path, folder: Path) -> None:
    (folder / "README.md").write_text("my notes")
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("ref")
    with pytest.raises(
        OutputExistsError, match=r"not part of the artifact and would be deleted: \.git/HEAD, README\.md"
    ):
        ArtifactWriter(folder, mode="overwrite")
    with pytest.raises(OutputExistsError, match=r"would be deleted: \.git/HEAD, README\.md\. Move them away first"):
        ArtifactWriter(folder, mode="add")
    home = tmp_path / "home"
    home.mkdir()
    for content in (b"", b"{", b"[]", b'{"files": {}}', b'{"files": 3, "format": {"version": "1.0"}, "seal": ""}'):
        (home / "precast.json").write_bytes(content)
        with pytest.raises(OutputExistsError, match="is not an artifact, so --overwrite will not delete it"):
            ArtifactWriter(home, mode="overwrite")


def test_overwrite_mends_a_damaged_artifact(folder: Path) -> None:
    digest = Artifact.open(folder).digest
    (folder / "config.json").unlink()
    samples.make(folder, mode="overwrite")
    assert Artifact.open(folder).digest == digest


def test_files_that_appear_during_an_overwrite_stop_it(tmp_path: Path, folder: Path) -> None:
    with (  # noqa: PT012
        pytest.raises(OutputExistsError, match="would be deleted: notes"),
        ArtifactWriter(folder, mode="overwrite") as writer,
    ):
        variant = samples.fill(writer, seed=1)
        (folder / "notes").write_text("x")
        writer.publish(samples.manifest(variant))
    assert os.listdir(tmp_path) == ["tiny"]


# Adding


@pytest.mark.parametrize("plain", [False, True], ids=["renameat2", "fallback"])
def test_add(tmp_path: Path, folder: Path, plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if plain:
        without_flags(monkeypatch)
    before = Artifact.open(folder)
    newer = {"precast": "0.2.0"}
    samples.make(folder, mode="add", precision="int8", edit=lambda m: m._replace(producer=newer, cost={"int8": 2}))
    after = Artifact.open(folder)
    assert os.listdir(tmp_path) == ["tiny"]
    variants = after.component("encoder").variants
    assert set(variants) == {"cpu-fp32", "cpu-int8"}
    assert variants["cpu-fp32"].producer == samples.PRODUCER
    assert variants["cpu-int8"].producer == {}
    assert after.manifest.producer == newer
    assert after.manifest.cost == {"seconds": 1.5, "int8": 2}
    assert set(before.manifest.files.items()) < set(after.manifest.files.items())
    shared = set(variants["cpu-fp32"].weights) & set(variants["cpu-int8"].weights)
    assert len(shared) == 1
    assert len([name for name in after.manifest.files if name.startswith("weights/")]) == 3


def test_adding_in_any_order_gives_one_artifact(tmp_path: Path, folder: Path) -> None:
    samples.make(folder, mode="add", precision="int8")
    other = samples.make(tmp_path / "other", precision="int8")
    samples.make(other, mode="add")
    assert Artifact.open(folder).digest == Artifact.open(other).digest


def test_add_a_task_and_a_component(folder: Path) -> None:
    def other(made: Any) -> Any:
        component = made.components["encoder"]._replace(name="decoder")
        return made._replace(
            components={"decoder": component}, tasks={"fill-mask": {"component": "decoder"}}, default_task="fill-mask"
        )

    samples.make(folder, mode="add", precision="int8", edit=other)
    artifact = Artifact.open(folder)
    assert artifact.tasks == ("feature-extraction", "fill-mask")
    assert artifact.component_for("fill-mask").name == "decoder"


def test_what_was_missing_gives_way_to_what_is_known(tmp_path: Path) -> None:
    steps = {"port": "pixel_values", "steps": [{"op": "scale", "by": 0.5}]}
    said = {
        "image": {"port": "pixel_values", "missing": "its class was not known"},
        "text": {"port": "input_ids", "missing": "it was not asked for"},
        "tokenizer": {"included": False, "reason": "it was not asked for"},
    }
    folder = samples.make(tmp_path / "made", edit=lambda m: m._replace(processing=said))
    assert Artifact.open(folder).reading("text") == said["text"]
    now = {"image": steps, "text": said["text"], "tokenizer": said["tokenizer"]}
    samples.make(folder, mode="add", precision="int8", edit=lambda m: m._replace(processing=now))
    artifact = Artifact.open(folder)
    assert artifact.reading("image") == steps
    assert artifact.reading("text") == said["text"]
    samples.make(folder, mode="add", precision="int4", edit=lambda m: m._replace(processing=said))
    assert Artifact.open(folder).reading("image") == steps
    both = {"image": {**steps, "missing": "and why"}}
    with pytest.raises(ArtifactError, match=r"image\.missing must be left out where there are steps, got 'and why'"):
        samples.make(tmp_path / "both", edit=lambda m: m._replace(processing=both))


def test_older_formats_say_how_texts_are_read() -> None:
    older = Artifact.open(DATA / "artifacts" / "1.0" / "embedder")
    assert older.reading("text")["port"] == "input_ids" and "tokenizer.json" in older.reading("text")["files"]
    assert older.reading("image") == {}


def renamed(made: Manifest) -> Manifest:
    encoder = made.components["encoder"]
    return made._replace(components={"encoder": encoder._replace(variants={"x": encoder.variants["cpu-fp32"]})})


@pytest.mark.parametrize(
    ("edit", "kind", "message"),
    [
        (lambda m: m, OutputExistsError, "already holds encoder/cpu-fp32. Replace it whole with --overwrite"),
        (lambda m: m._replace(model_type="gpt2"), ArtifactError, "holds a bert model, not gpt2"),
        (
            lambda m: m._replace(source=Source("b/c", None, {"config.json": samples.SOURCE.files["config.json"]})),
            ArtifactError,
            r"same checkpoint as the artifact \(acme/tiny\); b/c differs in model\.safetensors",
        ),
        (
            lambda m: renamed(m)._replace(processing={"pooling": {"mode": "cls"}}),
            ArtifactError,
            "processing.pooling.mode is 'mean' in the artifact and 'cls' in the new variant",
        ),
        (
            lambda m: m._replace(
                components={"encoder": renamed(m).components["encoder"]._replace(inputs=(Port("a", "int64", ()),))}
            ),
            ArtifactError,
            "must have the same inputs; the artifact's are input_ids, token_type_ids, the new variant's a",
        ),
    ],
)
def test_what_cannot_be_added(folder: Path, tmp_path: Path, edit: Any, kind: type[Exception], message: str) -> None:
    before = tree(tmp_path)
    with pytest.raises(kind, match=message):
        samples.make(folder, mode="add", edit=edit)
    assert tree(tmp_path) == before


def test_what_cannot_be_added_is_said_before_the_work(folder: Path) -> None:
    with ArtifactWriter(folder, mode="add") as writer:
        writer.admit(samples.SOURCE, "bert", [("encoder", "cpu-int8")])
        with pytest.raises(OutputExistsError, match="already holds encoder/cpu-fp32"):
            writer.admit(samples.SOURCE, "bert", [("encoder", "cpu-fp32")])
        with pytest.raises(
            ExportError, match=r"parity/encoder.npz cannot be written: the artifact holds one by that name"
        ):
            samples.fill(writer, precision="int8", parity=1)


def test_add_needs_a_sound_artifact_it_knows(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no artifact at .*absent to add to. Leave --add out"):
        ArtifactWriter(tmp_path / "absent", mode="add")
    samples.reseal(folder, lambda document: document.update(format={"version": "1.5", "features": []}))
    with pytest.raises(FormatVersionError, match=r"format 1\.5, newer than this precast writes"):
        samples.make(folder, mode="add", precision="int8")
    (folder / "config.json").write_bytes(b"")
    with pytest.raises(IntegrityError, match=r"config\.json has 0 bytes"):
        ArtifactWriter(folder, mode="add")
    assert sorted(os.listdir(tmp_path)) == ["tiny"]


def test_an_add_never_undoes_another(folder: Path) -> None:
    with (  # noqa: PT012
        pytest.raises(ExportError, match=r"Another export replaced .* meanwhile. Run this one again"),
        ArtifactWriter(folder, mode="add") as writer,
    ):
        variant = samples.fill(writer, precision="int8")
        samples.make(folder, mode="add", precision="int4")
        writer.publish(samples.manifest(variant))
    assert set(Artifact.open(folder).component("encoder").variants) == {"cpu-fp32", "cpu-int4"}
    with (  # noqa: PT012
        pytest.raises(ExportError, match="was removed during the export"),
        ArtifactWriter(folder, mode="add") as writer,
    ):
        variant = samples.fill(writer, precision="int8")
        shutil.rmtree(folder)
        writer.publish(samples.manifest(variant))


# Several at once


@pytest.mark.parametrize("mode", ["create", "overwrite", "add"])
def test_many_writers_to_one_target(tmp_path: Path, folder: Path, mode: str) -> None:
    target = tmp_path / "new" if mode == "create" else folder
    barrier = threading.Barrier(6)
    results: list[str] = []

    def work(index: int) -> None:
        try:
            with ArtifactWriter(target, mode=mode) as writer:
                variant = samples.fill(writer, precision=f"int{index}" if mode == "add" else "fp32", seed=index)
                barrier.wait()
                writer.publish(samples.manifest(variant))
            results.append("published")
        except (OutputExistsError, ExportError) as error:
            results.append(str(error))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 6
    assert results.count("published") == (6 if mode == "overwrite" else 1)
    assert all("exists" in r or "already holds" in r or "Run this one again" in r or r == "published" for r in results)
    Artifact.open(target)
    assert sorted(os.listdir(tmp_path)) == sorted({"tiny", target.name})


def test_a_reader_beside_a_writer_sees_one_whole_artifact(folder: Path) -> None:
    old = Artifact.open(folder).digest
    done = threading.Event()

    def rewrite() -> None:
        for seed in range(25):
            samples.make(folder, mode="overwrite", seed=seed)
        done.set()

    thread = threading.Thread(target=rewrite)
    thread.start()
    seen = set()
    while not done.is_set():
        seen.add(Artifact.open(folder).digest)
    thread.join()
    assert seen - {old}


def test_a_living_export_is_left_alone_and_a_dead_one_removed(tmp_path: Path) -> None:
    dead = tmp_path / ".a.precast-staging-999999-00000000"
    (dead / "artifact" / "weights").mkdir(parents=True)
    (dead / "lock").touch()
    bare = tmp_path / ".a.precast-staging-999999-00000001"
    bare.mkdir()
    foreign = [tmp_path / ".a.precast-staging-x", tmp_path / ".b.precast-staging-1-00000000", tmp_path / ".a.precast"]
    for path in foreign:
        path.mkdir()
    (tmp_path / ".a.precast-staging-2-00000002").symlink_to(tmp_path)
    with ArtifactWriter(tmp_path / "a") as first:
        variant = samples.fill(first)
        assert not dead.exists()
        assert not bare.exists()
        with ArtifactWriter(tmp_path / "a") as second:
            samples.fill(second)
        assert first.path_of("config.json").is_file()
        first.publish(samples.manifest(variant))
    assert sorted(os.listdir(tmp_path)) == sorted(
        ["a", ".a.precast-staging-2-00000002", *(path.name for path in foreign)]
    )


def test_an_old_artifact_set_aside_by_a_killed_fallback_comes_back(tmp_path: Path, folder: Path) -> None:
    digest = Artifact.open(folder).digest
    dead = tmp_path / ".tiny.precast-staging-999999-00000000"
    dead.mkdir()
    folder.rename(dead / "aside")
    with pytest.raises(OutputExistsError, match="already holds an artifact"):
        ArtifactWriter(folder)
    assert Artifact.open(folder).digest == digest
    assert os.listdir(tmp_path) == ["tiny"]


def test_without_locks_living_exports_are_still_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with ArtifactWriter(tmp_path / "a") as first:
        variant = samples.fill(first)
        with ArtifactWriter(tmp_path / "a"):
            pass
        first.publish(samples.manifest(variant))
    samples.make(tmp_path / "a", mode="overwrite", seed=1)
    assert os.listdir(tmp_path) == ["a"]


# A disk that refuses


@pytest.mark.parametrize("mode", ["create", "overwrite", "add"])
@pytest.mark.parametrize("after", [0, 100, 700])
def test_a_full_disk(tmp_path: Path, folder: Path, mode: str, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "new" if mode == "create" else folder
    before = tree(tmp_path)
    room = after
    write = os.write

    def limited(handle: int, data: Any) -> int:
        nonlocal room
        if room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = write(handle, bytes(data)[:room])
        room -= count
        return count

    monkeypatch.setattr(writer_module.os, "write", limited)
    with pytest.raises(
        DiskSpaceError, match=r"cannot hold the artifact .*: it needs at least .*, .* are free\. Free some"
    ):
        samples.make(target, mode=mode, precision="int8" if mode == "add" else "fp32", seed=5)
    assert tree(tmp_path) == before


def test_a_really_full_disk(tmp_path: Path) -> None:
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(OSError, match="No space left") as caught:
        full.write(b"x")
    with pytest.raises(DiskSpaceError), Publisher(tmp_path / "a") as publisher, publisher.io("write"):
        raise caught.value
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "inodes", "message"),
    [
        (errno.ENOSPC, 0, r"has no inodes left for further files, though 4\.1 GB are free\. Remove some files"),
        (errno.ENOSPC, 9, r"it needs at least 2 bytes, 4\.1 GB are free\. Free some space"),
        (errno.EDQUOT, 9, r"The disk quota of this user cannot hold the artifact"),
    ],
)
def test_a_disk_that_is_full_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, inodes: int, message: str
) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(number, os.strerror(number))

    status = os.statvfs_result((4096, 4096, 10**7, 10**6, 10**6, 1000, inodes, inodes, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: status)
    monkeypatch.setattr(writer_module.os, "write", refuse)
    with pytest.raises(DiskSpaceError, match=message), ArtifactWriter(tmp_path / "a") as writer:
        writer.write_bytes("a.json", b"{}")
    assert os.listdir(tmp_path) == []


def test_ensure_space(tmp_path: Path) -> None:
    with ArtifactWriter(tmp_path / "a" / "b") as writer:
        writer.ensure_space(1000)
        with pytest.raises(DiskSpaceError, match=r"it needs at least 1000000000\.0 GB, [0-9.]+ GB are free"):
            writer.ensure_space(10**18)
    with pytest.raises(DiskSpaceError):
        ArtifactWriter(tmp_path / "no" / "such" / "parent").ensure_space(10**18)


def test_parents(tmp_path: Path) -> None:
    assert Artifact.open(samples.make(tmp_path / "x" / "y" / "z")).path == tmp_path / "x" / "y" / "z"
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match=r"exporting to .*file/a\): Not a directory\. Choose a folder that can be"):
        samples.make(tmp_path / "file" / "a")
    with pytest.raises(ExportError, match="Choose a folder that can be written to"):
        samples.make(Path("/proc/precast/a"))


def test_a_parent_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(staging_module.os, "mkdir", refuse)
    with pytest.raises(ExportError, match=r"Cannot make a folder .*: Permission denied. Choose a folder that can be"):
        samples.make(tmp_path / "a")


def test_the_manifest_is_the_last_file_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    sync = writer_module.sync

    def noting(path: Path) -> None:
        assert path.name == "artifact" or path.is_dir() or path.stat().st_size > 0
        synced.append(path.name)
        sync(path)

    monkeypatch.setattr(writer_module, "sync", noting)
    folder = samples.make(tmp_path / "a")
    files = {path.name for path in folder.rglob("*") if path.is_file()}
    assert files <= set(synced)
    assert synced.index("precast.json") > max(synced.index(name) for name in files - {"precast.json"})
    assert json.loads((folder / "precast.json").read_bytes())["files"].keys() | {"precast.json"} == {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    }
