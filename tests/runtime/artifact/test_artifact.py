"""The artifact as its reader sees it: whole, real, sealed, and of a format it knows; or refused with the reason."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import artifact_samples as samples

from precast.runtime.artifact import (
    Artifact,
    Component,
    FileRecord,
    Manifest,
    Source,
    StateSpec,
    Variant,
)
from precast.runtime.artifact.manifest import canonical, parse, sealed
from precast.runtime.errors import (
    ArtifactError,
    FormatVersionError,
    InputError,
    IntegrityError,
    UnsupportedTaskError,
)
from precast.runtime.ports import KINDS, Dim, Out, Port


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return samples.make(tmp_path_factory.mktemp("template") / "tiny")


@pytest.fixture
def folder(tmp_path: Path, template: Path) -> Path:
    # A copy: making one waits for the disk six times.
    return Path(shutil.copytree(template, tmp_path / "tiny"))


def refused(folder: Path, message: str, kind: type[Exception] = ArtifactError) -> None:
    with pytest.raises(kind, match=message):
        Artifact.open(folder)


# What a sound artifact answers


def test_round_trip(tmp_path: Path, folder: Path) -> None:
    artifact = Artifact.open(folder)
    assert artifact.tasks == ("feature-extraction",)
    assert artifact.default_task == "feature-extraction"
    assert artifact.component_for().name == "encoder"
    encoder = artifact.component("encoder")
    assert encoder.inputs[1] == Port("token_type_ids", "int64", ("batch", "sequence"), "types", default=0, below=2)
    assert encoder.vocab_size == 100 and encoder.longest == 64
    (variant,) = artifact.variants("encoder")
    assert variant.recipe == ("fuse-attention", "fuse-norm")
    assert artifact.read_json("config.json") == {"vocab_size": 100}
    assert artifact.file(variant.graph) == folder / "encoder.cpu-fp32.onnx"
    assert artifact.read_bytes(variant.weights[1]) == samples.blob(("fp32", 0), 300)
    assert artifact.has("config.json")
    assert not artifact.has("precast.json")
    assert artifact.manifest.source == samples.SOURCE
    assert repr(artifact) == f"Artifact({str(folder)!r}, bert, tasks: feature-extraction)"
    assert sorted(os.listdir(tmp_path)) == ["tiny"]


def test_opened_through_a_link_to_the_folder_and_as_text(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    assert Artifact.open(str(tmp_path / "link"), check="size").path == folder


def test_the_manifest_is_canonical_and_covers_every_other_file(folder: Path) -> None:
    raw = (folder / "precast.json").read_bytes()
    document = json.loads(raw)
    assert canonical(document) == raw
    held = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert set(document["files"]) == held - {"precast.json"}


def test_two_exports_give_one_digest_and_equal_bytes_but_for_cost(tmp_path: Path) -> None:
    first = samples.make(tmp_path / "a")
    second = samples.make(tmp_path / "b", edit=lambda made: made._replace(cost={"seconds": 99}))
    assert Artifact.open(first).digest == Artifact.open(second).digest
    one, two = (json.loads((path / "precast.json").read_bytes()) for path in (first, second))
    assert one != two
    assert {k: v for k, v in one.items() if k not in ("cost", "seal")} == {
        k: v for k, v in two.items() if k not in ("cost", "seal")
    }
    for name in one["files"]:
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_reading_needs_nothing_heavy() -> None:
    code = (
        "import sys; import precast.runtime.artifact as a; a.Artifact; "
        "heavy = ('numpy', 'onnxruntime', 'dataclasses', 'ctypes', 'shutil', 'precast.runtime.artifact.writer'); "
        "print(*(name for name in heavy if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_large_files_are_hashed_in_parallel(tmp_path: Path) -> None:
    folder = samples.make(tmp_path / "large", size=5 << 20)
    artifact = Artifact.open(folder)
    path = artifact.file(artifact.choose_variant("encoder").weights[1])
    with open(path, "r+b") as stream:
        stream.seek(4 << 20)
        stream.write(b"\0" * 8)
    refused(folder, "weights/[0-9a-f]{64}.bin differs from its recorded SHA-256", IntegrityError)


# Choosing


def test_choose_variant(tmp_path: Path, folder: Path) -> None:
    samples.make(folder, mode="add", precision="int8")
    artifact = Artifact.open(folder)
    assert artifact.choose_variant("encoder").name == "cpu-fp32"
    assert artifact.choose_variant("encoder", precision="int8").name == "cpu-int8"
    assert artifact.choose_variant("encoder", target="cuda", variant="cpu-int8").name == "cpu-int8"
    with pytest.raises(ArtifactError, match=r"no variant of 'encoder' for target 'cuda'\. It holds: cpu-fp32 \(target"):
        artifact.choose_variant("encoder", target="cuda")
    with pytest.raises(ArtifactError, match="for target 'cpu' and precision 'int4'"):
        artifact.choose_variant("encoder", precision="int4")
    with pytest.raises(ArtifactError, match=r"no variant of 'encoder' named 'cpu-fp23'\. Closest: cpu-fp32"):
        artifact.choose_variant("encoder", variant="cpu-fp23")
    with pytest.raises(ArtifactError, match=r"no component 'encodr'\. Closest: encoder\. It has: encoder\."):
        artifact.choose_variant("encodr")
    with pytest.raises(UnsupportedTaskError, match="no task 'fill-mask'"):
        artifact.component_for("fill-mask")
    with pytest.raises(ArtifactError, match=r"no file 'config\.jsn'\. Closest: config\.json"):
        artifact.file("config.jsn")
    with pytest.raises(InputError, match="check must be 'digest' or 'size', got 'no'"):
        Artifact.open(folder, check="no")


def test_of_equal_precision_the_one_without_an_isa_or_none(folder: Path) -> None:
    def isa(names: dict[str, str | None]) -> Any:
        def change(document: dict[str, Any]) -> None:
            variants = document["components"]["encoder"]["variants"]
            plain = next(iter(variants.values()))
            document["components"]["encoder"]["variants"] = {n: {**plain, "isa": i} for n, i in names.items()}

        return change

    samples.reseal(folder, isa({"cpu-fp32": None, "cpu-fp32-avx512": "avx512"}))
    assert Artifact.open(folder).choose_variant("encoder").name == "cpu-fp32"
    samples.reseal(folder, isa({"a": "avx2", "b": "avx512"}))
    with pytest.raises(ArtifactError, match=r"several variants of 'encoder' that fit: a, b\. Name one: variant='a'"):
        Artifact.open(folder).choose_variant("encoder")


# Damage


def flip(path: Path, bit: int) -> None:
    with open(path, "r+b", buffering=0) as stream:
        stream.seek(bit // 8)
        (byte,) = stream.read(1)
        stream.seek(bit // 8)
        stream.write(bytes([byte ^ 1 << bit % 8]))


def test_a_flipped_bit_anywhere_is_refused(tmp_path: Path, folder: Path) -> None:
    draw = random.Random(7)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert "precast.json" in names
    bits = {name: (folder / name).stat().st_size * 8 for name in names}
    refusals = 0
    for turn in range(1000):
        # Every file in turn, and the manifest every other time.
        name = "precast.json" if turn % 2 else names[(turn // 2) % len(names)]
        bit = draw.randrange(bits[name])
        flip(folder / name, bit)
        try:
            Artifact.open(folder)
        except ArtifactError:
            refusals += 1
        flip(folder / name, bit)
    assert refusals == 1000
    Artifact.open(folder)


def test_every_bit_of_a_manifest_counts(folder: Path) -> None:
    """Exhaustive over the bytes: each one damaged once, whatever the flip makes of the JSON."""
    raw = (folder / "precast.json").read_bytes()
    for index in range(len(raw)):
        with pytest.raises(ArtifactError):
            parse(raw[:index] + bytes([raw[index] ^ (1 << index % 8)]) + raw[index + 1 :])
    for other in (raw + b"\n", raw[:-1], b"\xef\xbb\xbf" + raw, b" " + raw, raw.replace(b"\n", b"\r\n")):
        with pytest.raises(IntegrityError):
            parse(other)


def test_size_check_is_an_opt_out_of_digests_only(folder: Path) -> None:
    path = folder / "config.json"
    path.write_bytes(path.read_bytes().replace(b"100", b"101"))
    refused(folder, r"config\.json differs from its recorded SHA-256\. Export or download it again", IntegrityError)
    assert Artifact.open(folder, check="size").read_json("config.json") == {"vocab_size": 101}
    path.write_bytes(b"{}")
    with pytest.raises(IntegrityError, match=r"config\.json has 2 bytes instead of 20"):
        Artifact.open(folder, check="size")


def test_a_file_changed_after_opening_is_refused_when_read(folder: Path) -> None:
    artifact = Artifact.open(folder)
    path = folder / "config.json"
    path.write_bytes(path.read_bytes().replace(b"100", b"101"))
    with pytest.raises(IntegrityError, match=r"changed after it was opened: config\.json differs"):
        artifact.read_json("config.json")
    path.unlink()
    with pytest.raises(IntegrityError, match="missing"):
        artifact.read_json("config.json")


@pytest.mark.parametrize("name", ["config.json", "encoder.cpu-fp32.onnx", "parity/encoder.npz"])
def test_appended_truncated_emptied_missing(folder: Path, name: str) -> None:
    path = folder / name
    data = path.read_bytes()
    for other in (data + b"\0", data[:-1], b""):
        path.write_bytes(other)
        refused(folder, f"{name} has {len(other)} bytes instead of {len(data)}", IntegrityError)
    path.unlink()
    refused(folder, f"{name} is missing", IntegrityError)
    path.mkdir()
    refused(folder, f"{name} is not a regular file", IntegrityError)
    path.rmdir()
    os.mkfifo(path)
    refused(folder, f"{name} is not a regular file", IntegrityError)


def test_many_problems_are_counted(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file() and path.name != "precast.json":
            path.write_bytes(b"")
    refused(folder, r"config\.json has 0 .*; encoder\..*; parity/.*; and 2 more\.", IntegrityError)


def test_links_are_refused(folder: Path, tmp_path: Path) -> None:
    graph = folder / "encoder.cpu-fp32.onnx"
    aside = tmp_path / "aside.onnx"
    graph.rename(aside)
    graph.symlink_to(aside)
    refused(folder, r"encoder\.cpu-fp32\.onnx is a symbolic link; an artifact holds real files only", IntegrityError)
    graph.unlink()
    os.link(aside, graph)
    refused(folder, r"encoder\.cpu-fp32\.onnx has 2 hard links", IntegrityError)
    graph.unlink()
    aside.rename(graph)
    (folder / "weights").rename(tmp_path / "elsewhere")
    (folder / "weights").symlink_to(tmp_path / "elsewhere")
    refused(folder, "lies behind weights, which is a symbolic link", IntegrityError)
    (folder / "weights").unlink()
    (tmp_path / "elsewhere").rename(folder / "weights")
    manifest = folder / "precast.json"
    manifest.rename(tmp_path / "m.json")
    manifest.symlink_to(tmp_path / "m.json")
    refused(folder, r"not a whole artifact: precast\.json is a symbolic link", IntegrityError)


def test_unlisted_files_are_never_reached(folder: Path) -> None:
    (folder / "README.md").write_text("notes")
    with pytest.raises(ArtifactError, match=r"no file 'README\.md'"):
        Artifact.open(folder).read_bytes("README.md")
    with pytest.raises(ArtifactError, match="no file"):
        Artifact.open(folder).file("../tiny/config.json")


# Folders that are something else


def test_what_is_no_artifact(tmp_path: Path, folder: Path) -> None:
    refused(tmp_path / "nowhere", "There is no folder .*nowhere.*precast export SOURCE OUT.*precast pull")
    refused(folder / "precast.json", "is a file. Give the folder that holds precast.json")
    refused(tmp_path, rf"has no precast\.json\. Did you mean {folder}\?")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(empty, r"empty is not an artifact: it has no precast\.json\.$")
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text("{}")
    refused(checkpoint, rf"is a checkpoint, not an artifact.*precast export {checkpoint} OUT")
    staging = tmp_path / ".tiny.precast-staging-12-0a1b2c3d"
    shutil.copytree(folder, staging / "artifact")
    refused(staging, "workplace of an unfinished export")
    refused(staging / "artifact", "workplace of an unfinished export")
    (folder / "precast.json").write_bytes(b"")
    refused(folder, r"precast\.json is not valid JSON", IntegrityError)
    (folder / "precast.json").write_bytes(b"[1]")
    refused(folder, r"precast\.json must be an object, got \[1\]")
    (folder / "precast.json").write_bytes(b"[" * 100_000)
    refused(folder, "is not valid JSON", IntegrityError)
    with pytest.raises(ArtifactError, match="cannot be opened"):
        Artifact.open("a\0b")


# Format versions


def versioned(version: Any, features: Any = (), **extra: Any) -> Any:
    def change(document: dict[str, Any]) -> None:
        document["format"] = {"version": version, "features": list(features), **extra}

    return change


def test_newer_major_is_named(folder: Path) -> None:
    samples.reseal(folder, versioned("2.0"))
    refused(folder, r"has format 2\.0; this precast reads formats up to 1\.3\. Upgrade it: pip", FormatVersionError)
    (folder / "precast.json").write_text('{"format": {"version": "7.1", "features": ["x"]}, "whatever": 1}')
    refused(folder, r"has format 7\.1", FormatVersionError)


def test_newer_minor_is_read_and_its_fields_ignored(folder: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        versioned("1.9", note="x")(document)
        document["novelty"] = {"a": 1}
        document["components"]["encoder"]["novelty"] = 1
        document["components"]["encoder"]["variants"]["cpu-fp32"]["novelty"] = [None]
        document["files"]["config.json"]["blake3"] = "00"

    samples.reseal(folder, change)
    artifact = Artifact.open(folder)
    assert artifact.manifest.version == (1, 9)
    assert artifact.choose_variant("encoder").name == "cpu-fp32"


def test_older_minor_is_read(folder: Path) -> None:
    def older(document: dict[str, Any]) -> None:
        document["format"]["version"] = "1.0"
        component = document["components"]["encoder"]
        del component["dims"]
        for tensor in (*component["inputs"], *component["outputs"]):
            for key in tensor.keys() - {"name", "dtype", "shape", "optional"}:
                del tensor[key]

    described = Artifact.open(folder).component("encoder")
    samples.reseal(folder, older)
    artifact = Artifact.open(folder)
    assert artifact.component("encoder")._replace(variants={}) == described._replace(variants={})
    assert artifact.manifest.version == (1, 0)
    assert dict(artifact.component("encoder").variants["cpu-fp32"].work) == {}


def test_unknown_required_feature(folder: Path) -> None:
    samples.reseal(folder, versioned("1.4", ["chunked-weights"]))
    refused(folder, r"\(format 1\.4\) needs chunked-weights, which this precast \(format 1\.3\)", FormatVersionError)


def remembering(made: Manifest) -> Manifest:
    """The sample with something it remembers between calls."""
    encoder = made.components["encoder"]
    cache = ("batch", 2, "capacity", 4)
    changed = encoder._replace(
        inputs=(*encoder.inputs, Port("past_key.0", "float32", cache, "state")),
        outputs=(*encoder.outputs, Out("present_key.0", cache, "state")),
        states=(StateSpec("past_key.0", "present_key.0", window=8),),
    )
    return made._replace(components={"encoder": changed})


def test_states_are_a_required_feature(tmp_path: Path, folder: Path) -> None:
    artifact = Artifact.open(samples.make(tmp_path / "remembering", edit=remembering))
    assert artifact.manifest.features == ("states",)
    assert artifact.component("encoder").states == (StateSpec("past_key.0", "present_key.0", 8),)
    assert Artifact.open(folder).manifest.features == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": "past_value.0"}, "states must be an input and an output of the component"),
        ({"window": -1}, r"states\[0\].window must be an integer from 0 to 2147483647, or null"),
        ({"slots": 3}, r"states\[0\].slots is not a field of this format version"),
    ],
)
def test_malformed_states(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    made = samples.make(tmp_path / "remembering", edit=remembering)
    samples.reseal(made, lambda document: document["components"]["encoder"]["states"][0].update(change))
    refused(made, message)


@pytest.mark.parametrize("version", ["1", "1.0.0", "01.0", "1.x", "", 1.0, None, "1.1 "])
def test_malformed_version(folder: Path, version: Any) -> None:
    samples.reseal(folder, versioned(version))
    refused(folder, r"format\.version must be 'major\.minor', got")


def test_version_zero(folder: Path) -> None:
    samples.reseal(folder, versioned("0.9"))
    refused(folder, "never released", FormatVersionError)


# Manifests that are consistent and wrong

VARIANT = ("components", "encoder", "variants", "cpu-fp32")


def at(document: dict[str, Any], *path: str) -> dict[str, Any]:
    for step in path:
        document = document[step]
    return document


def setting(path: tuple[str, ...], value: Any) -> Any:
    def change(document: dict[str, Any]) -> None:
        at(document, *path[:-1])[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("model_type",), 3, "model_type must be a non-empty string, got 3"),
        (("tasks",), [], "tasks must be an object, got"),
        (("tasks", "feature-extraction"), "encoder", "tasks.feature-extraction must be an object"),
        (
            ("tasks", "feature-extraction", "component"),
            "decoder",
            r"must be one of the components \(encoder\), got 'decod",
        ),
        (("tasks", "feature-extraction", "component"), ["x"], "must be one of the components"),
        (
            ("default_task",),
            "fill-mask",
            r"default_task must be one of the tasks \(feature-extraction\), got 'fill-mask'",
        ),
        (("components",), {}, "components must be one component or more"),
        (("components", "encoder"), None, "components.encoder must be an object, got None"),
        (("components", "../up"), {}, r"components\.\.\./up must be named by letters"),
        (("components", "encoder", "variants"), {}, "variants must be one variant or more"),
        (("components", "encoder", "limits"), {"vocab_size": -1}, "limits.vocab_size must be an integer from 0"),
        (("components", "encoder", "limits"), {"max_positions": True}, "limits.max_positions must be an integer"),
        (("components", "encoder", "inputs"), {}, "inputs must be a list"),
        (("components", "encoder", "inputs"), [3], r"inputs\[0\] must be an object, got 3"),
        (
            ("components", "encoder", "inputs"),
            [{"name": "x", "dtype": "object", "shape": []}],
            r"\[0\]\.dtype must be one of .*float32, .* got 'object'",
        ),
        (
            ("components", "encoder", "inputs"),
            [{"name": "x", "dtype": "int8", "shape": [-1]}],
            r"\[0\].shape must be a li",
        ),
        (("components", "encoder", "inputs"), [{"name": "x", "dtype": "int8", "shape": []}] * 2, "of different names"),
        (
            (*VARIANT, "graph"),
            None,
            r"components\.encoder\.variants\.cpu-fp32\.graph must be a non-empty string, got None",
        ),
        ((*VARIANT, "graph"), "../other.onnx", "graph must be a file listed in 'files', got"),
        ((*VARIANT, "graph"), "/etc/passwd", "graph must be a file listed in 'files'"),
        ((*VARIANT, "weights"), ["../w.bin"], "weights must be paths of the form weights/<sha256>.bin"),
        (
            (*VARIANT, "weights"),
            ["weights/" + "a" * 64 + ".bin"],
            "must be files listed in 'files' under their own SHA",
        ),
        ((*VARIANT, "weights"), "w", "weights must be a list of strings"),
        ((*VARIANT, "operators"), {"MatMul": "12"}, "operators.MatMul must be an integer"),
        ((*VARIANT, "opset"), {"": 1.5}, "opset. must be an integer|opset must be an integer"),
        ((*VARIANT, "session"), None, "session must be an object, got None"),
        ((*VARIANT, "recipe"), "x", "recipe must be a list"),
        ((*VARIANT, "isa"), 5, "isa must be a non-empty string or null"),
        (
            ("files", "config.json", "size"),
            -5,
            r"files\.config\.json\.size must be an integer from 0 to [0-9]+, got -5",
        ),
        (("files", "config.json", "size"), 20.0, r"files\.config\.json\.size must be an integer"),
        (("files", "config.json", "sha256"), "A" * 64, "sha256 must be 64 lower-case hex digits"),
        (("source", "files"), [], r"source\.files must be an object"),
        (("calibration",), 1, "calibration must be an object or null"),
        (("producer",), {"precast": 1}, r"producer\.precast must be a string"),
        (("celebration",), {}, "celebration is not a field of this format version. Closest: calibration"),
        ((*VARIANT, "wieghts"), [], r"cpu-fp32\.wieghts is not a field .* Closest: weights"),
    ],
)
def test_malformed_fields_are_named(folder: Path, path: tuple[str, ...], value: Any, message: str) -> None:
    samples.reseal(folder, setting(path, value))
    refused(folder, message)


def test_every_field_may_be_absent_and_is_then_named(folder: Path) -> None:
    document = json.loads((folder / "precast.json").read_bytes())
    for path in [(), ("format",), ("source",), ("components", "encoder"), VARIANT, ("files", "config.json")]:
        for key in at(document, *path):
            if path == () and key in ("digest", "seal"):
                continue
            changed = json.loads(json.dumps(document))
            del at(changed, *path)[key]
            with pytest.raises(ArtifactError, match=rf"precast\.json: .*{key} is missing; it must be"):
                Manifest.from_json(changed)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_manifest_with_any_value_anywhere_is_read_or_refused(data: st.DataObject) -> None:
    document = json.loads(json.dumps(good().to_json()))
    node: Any = document
    while True:
        key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        if not isinstance(node[key], (dict, list)) or not node[key] or data.draw(st.booleans()):
            break
        node = node[key]
    node[key] = data.draw(
        st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5), st.just([]), st.just({}))
    )
    with contextlib.suppress(ArtifactError):  # and nothing else: no KeyError, no TypeError
        Manifest.from_json(document)


BAD_NAMES = [
    "../up.json",
    "/etc/passwd",
    "a/../b.json",
    "a//b.json",
    "a/./b.json",
    "a\\b.json",
    "C:/x.json",
    "c:x.json",
    "\\\\host\\share",
    "",
    ".",
    "..",
    ".hidden",
    "x/.git/config",
    "end.",
    "end ",
    "nul\0.json",
    "new\nline.json",
    "ünïcode.json",
    "a" * 300,
    "x/" * 300 + "y",
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_paths_that_leave_or_deceive(folder: Path, name: str) -> None:
    samples.reseal(folder, lambda document: document["files"].update({name: samples.record(b"x")}))
    refused(folder, r"files\[.*must be a relative path inside the artifact")


@pytest.mark.parametrize("name", ["run.py", "lib/kernel.so", "model.ENGINE", "weights.pkl", "a.b.sh"])
def test_nothing_executable(folder: Path, name: str) -> None:
    samples.reseal(folder, lambda document: document["files"].update({name: samples.record(b"x")}))
    refused(folder, "an artifact holds nothing executable")


def test_names_that_clash(folder: Path) -> None:
    samples.reseal(folder, lambda document: document["files"].update({"Config.json": samples.record(b"x")}))
    refused(folder, "must be unlike 'Config.json' in more than case")
    samples.reseal(
        folder, lambda d: [d["files"].pop("Config.json"), d["files"].update({"precast.json": samples.record(b"")})]
    )
    refused(folder, r"files must be without precast\.json itself")


def test_values_that_json_has_not(folder: Path) -> None:
    path = folder / "precast.json"
    raw = path.read_bytes()
    for number in (b"NaN", b"Infinity", b"1e999", b"9" * 5000, b'"\\ud800"'):
        path.write_bytes(raw.replace(b'"seconds": 1.5', b'"seconds": ' + number))
        refused(folder, "precast.json", IntegrityError)


# Round trips

names = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
# Names that the runtime reads have types, which these have not.
free = st.dictionaries(st.text(max_size=6).map("x{}".format), json_values, max_size=3)
texts = st.text(min_size=1, max_size=8)
digests = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
tensors = {
    "name": texts,
    "dtype": st.sampled_from(["int64", "float32", "bool", "bfloat16"]),
    "shape": st.lists(st.integers(0, 2**31 - 1) | texts, max_size=4).map(tuple),
    "kind": st.sampled_from(["", *sorted(KINDS)]),
}
bounds = st.none() | st.integers(1, 2**31 - 1)
made = st.builds(Port, **tensors, default=st.none() | st.integers(-1, 1), below=bounds, source=st.none())
ports = st.lists(
    # A default is a number of the port's type, and bool has two.
    made.filter(lambda port: port.dtype != "bool" or port.default != -1),
    max_size=3,
    unique_by=lambda port: port.name,
).map(tuple)
outs = st.lists(st.builds(Out, **tensors, axis=st.just(-1)), max_size=3, unique_by=lambda out: out.name).map(tuple)
dims = st.dictionaries(texts, st.builds(Dim, least=st.just(1), most=bounds, multiple=st.just(1)), max_size=2)


amounts = st.floats(0, 1e9) | st.integers(0, 99)
tried = st.fixed_dictionaries(
    {"method": texts, "met": st.booleans(), "loss": amounts},
    optional={"score": amounts, "wider": st.lists(texts, max_size=2)},
)
figures = ("alone", "error_rounded", "error", "largest", "outlier")
parts = st.fixed_dictionaries({}, optional={"wider": st.booleans(), **dict.fromkeys(figures, amounts)})
calibrations = st.fixed_dictionaries(
    {
        "data": st.fixed_dictionaries({"name": texts, "samples": st.integers(0, 999), "sha256": st.none() | digests}),
        "metric": texts,
        "loss": amounts,
        "budget": st.none() | st.floats(0, 1),
        "method": texts,
        "attempts": st.lists(tried, max_size=2),
        "parts": st.dictionaries(texts, parts, max_size=2),
    }
)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    weights = {
        f"weights/{digest}.bin": FileRecord(draw(st.integers(0, 2**50)), digest)
        for digest in draw(st.sets(digests, max_size=3))
    }
    files = {**weights, "graph.onnx": FileRecord(3, draw(digests))}
    components = {}
    for name in draw(st.sets(names, min_size=1, max_size=2)):
        variants = {
            key: Variant(
                name=key,
                graph="graph.onnx",
                target=draw(texts),
                precision=draw(texts),
                dialect=draw(texts),
                provider=draw(texts),
                opset=draw(st.dictionaries(st.text(max_size=4), st.integers(0, 99), max_size=2)),
                session=draw(free),
                isa=draw(st.none() | texts),
                weights=tuple(sorted(weights)),
                operators=draw(st.dictionaries(texts, st.integers(0, 999), max_size=2)),
                fusions=draw(st.dictionaries(texts, st.integers(0, 99), max_size=2)),
                fingerprint=draw(st.text(max_size=5)),
                recipe=tuple(draw(st.lists(json_values, max_size=2))),
                parity=draw(free),
                producer=draw(st.dictionaries(texts, texts, max_size=1)),
            )
            for key in draw(st.sets(names, min_size=1, max_size=2))
        }
        components[name] = Component(name, draw(ports), draw(outs), variants, draw(dims))
    tasks = {
        task: {**draw(free), "component": min(components)} for task in draw(st.sets(texts, min_size=1, max_size=2))
    }
    return Manifest(
        source=Source(draw(texts), draw(st.none() | texts), {draw(st.text()): FileRecord(0, draw(digests))}),
        model_type=draw(texts),
        tasks=tasks,
        default_task=min(tasks),
        components=components,
        producer=draw(st.dictionaries(st.text(), st.text(), max_size=2)),
        processing=draw(free),
        parity=draw(st.dictionaries(texts, free, max_size=2)),
        calibration=draw(st.none() | st.dictionaries(names, calibrations, max_size=2)),
        cost=draw(free),
        files=files,
    )


@given(manifests())
@settings(max_examples=60, deadline=None)
def test_manifests_survive_the_trip(made: Manifest) -> None:
    complete, raw = sealed(made)
    assert complete._replace(digest="", seal="") == made
    assert parse(raw) == complete
    assert sealed(complete) == (complete, raw)


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, b"bytes", {"a": object()}])
def test_what_json_cannot_hold_is_refused_when_written(value: Any) -> None:
    with pytest.raises(ArtifactError, match="must hold finite JSON values"):
        sealed(good()._replace(processing={"x": value}))


def good() -> Manifest:
    digest = "ab" * 32
    variant = Variant(
        "cpu", "g.onnx", "cpu", "fp32", "onnxruntime", "CPUExecutionProvider", weights=(f"weights/{digest}.bin",)
    )
    files = {"g.onnx": FileRecord(1, "0" * 64), f"weights/{digest}.bin": FileRecord(2, digest)}
    return samples.manifest(variant, files=files, digest="0" * 64, seal="1" * 64)
