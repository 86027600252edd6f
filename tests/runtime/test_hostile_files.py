"""Artifacts and records from strangers: whatever a field holds, a call gives a result or a PrecastError.

A part is drawn; every field with every value is tried by ``PRECAST_EXHAUSTIVE=1 pytest tests -k hostile``.
"""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import artifact_samples as samples
from support import bench_records, tiny_artifacts
from support.hostile_json import EXHAUSTIVE, TEXTS, attempt, fields, mutations, outcomes

import precast
from precast.runtime.arrays import read_npy, read_npz
from precast.runtime.artifact import Artifact
from precast.runtime.artifact.manifest import canonical
from precast.runtime.bench import record
from precast.runtime.bench.compare import compare
from precast.runtime.bench.report import markdown
from precast.runtime.errors import ArtifactError, BenchmarkError, IntegrityError, PrecastError
from precast.runtime.inspection import diff, summary

TASKS = ("text-classification", "feature-extraction") + (
    ("token-classification", "question-answering", "fill-mask") if EXHAUSTIVE else ()
)
_ASKED: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "zero-shot-classification": (("The quick fox",), {"candidate_labels": ["animals", "news"]}),
    "question-answering": ((), {"question": "What is cast?", "context": "Concrete is cast in a factory."}),
    "fill-mask": (("The quick [MASK]",), {}),
}


@pytest.fixture(params=TASKS)
def artifact(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_artifacts.artifact(request.param), tmp_path / "artifact")


def use(folder: Path) -> None:
    """What users do with an artifact."""
    opened = Artifact.open(folder)
    json.dumps(summary(opened), allow_nan=False)
    diff(opened, opened)
    model = precast.load(folder, threads=1)
    repr(model)
    for task in model.tasks:
        arguments, options = _ASKED.get(task, (("The quick brown fox",), {}))
        precast.pipeline(task, model=model)(*arguments, **options)
    if model.embedding is not None:
        model.encode(["The quick fox", "jumps"])
    precast.verify(folder, threads=1)


def put(folder: Path, name: str, data: bytes) -> None:
    """Replace a file as a forger does, who makes the manifest fit it."""
    (folder / name).write_bytes(data)
    samples.reseal(folder, lambda document: document["files"].update({name: samples.record(data)}))


def encoded(document: Any) -> bytes:
    return json.dumps(document).encode()


# Every field of the artifact's own documents


def test_hostile_manifests(artifact: Path) -> None:
    path = artifact / "precast.json"
    whole = json.loads(path.read_bytes())

    def tried() -> Iterator[str | None]:
        for what, document in mutations(whole, most=60):
            try:
                path.write_bytes(canonical(document))
                samples.reseal(artifact, lambda document: None)
            except (ArtifactError, AttributeError):  # what no canonical manifest can say, a forger cannot seal
                path.write_bytes(encoded(document))
            yield attempt(what, lambda: use(artifact))

    outcomes(tried())


# What format 1.3 says of ports, dimensions and engines, beside the sources that wire components.
_PORTS = frozenset(("kind", "default", "below", "source", "optional", "axis", "shape", "dtype", "name", "engine"))
COMPOSITES: dict[str, tuple[Callable[[], Path], dict[str, Any]]] = {
    "encoder-decoder": (tiny_artifacts.encoder_decoder, {"input_ids": [[5, 6, 2]], "decoder_input_ids": [[2, 7]]}),
    "two towers": (
        lambda: tiny_artifacts.pictures("clip"),
        {"input_ids": [[5, 6, 98]], "pixel_values": np.zeros((2, 3, 30, 30), np.float32)},
    ),
}


def _of_ports(path: tuple[Any, ...]) -> bool:
    return "dims" in path or path[-1] in _PORTS or "features" in path


@pytest.mark.parametrize("name", COMPOSITES)
def test_hostile_ports(tmp_path: Path, name: str) -> None:
    """Components whose manifest lies about what goes in, what fills it and how large it may be."""
    made, inputs = COMPOSITES[name]
    folder = shutil.copytree(made(), tmp_path / "artifact")
    path = folder / "precast.json"
    whole = json.loads(path.read_bytes())
    for component in whole["components"].values():  # what is said only where it is not the usual
        component["outputs"][0]["axis"] = -1
        next(iter(component["variants"].values()))["engine"] = "onnxruntime"
    fields_tried = {str(place[-1]) for place in fields(whole) if _of_ports(place)}
    assert {"kind", "default", "below", "source", "dims", "least", "most", "multiple", "axis", "engine"} <= fields_tried

    def used() -> None:
        opened = Artifact.open(folder)
        json.dumps(summary(opened), allow_nan=False)
        model = precast.load(folder, threads=1)
        model(**inputs)

    used()

    def tried() -> Iterator[str | None]:
        for what, document in mutations(whole, most=80, of=_of_ports):
            try:
                path.write_bytes(canonical(document))
                samples.reseal(folder, lambda document: None)
            except (ArtifactError, AttributeError):  # what no canonical manifest can say, a forger cannot seal
                path.write_bytes(encoded(document))
            yield attempt(what, used)

    outcomes(tried())


@pytest.mark.parametrize(
    ("dtype", "default", "right"),
    [
        *(("int64", 1, True), ("int64", 0.5, False), ("int64", -1e308, False), ("int64", 2**63, False)),
        *(("uint8", 255, True), ("uint8", -1, False), ("int4", -8, True), ("int4", 8, False)),
        *(("bool", 1, True), ("bool", 2, False), ("string", 0, False), ("bfloat16", 1e38, True)),
        *(("float32", -0.5, True), ("float32", 1e308, False), ("float16", 1e5, False), ("float64", 1e308, True)),
    ],
)
def test_a_default_is_a_number_of_its_port(tmp_path: Path, dtype: str, default: float, right: bool) -> None:
    folder = samples.make(tmp_path / "made")

    def change(document: dict[str, Any]) -> None:
        document["components"]["encoder"]["inputs"][0].update(dtype=dtype, default=default, optional=True)

    samples.reseal(folder, change)
    if right:
        Artifact.open(folder)
        return
    with pytest.raises(ArtifactError, match=rf"inputs\[0\]\.default must be a number that {dtype} can hold, got"):
        Artifact.open(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.json"])
def test_hostile_data(artifact: Path, name: str) -> None:
    whole = json.loads((artifact / name).read_bytes())
    manifest = (artifact / "precast.json").read_bytes()

    def tried() -> Iterator[str | None]:
        for what, document in mutations(whole, most=20):
            (artifact / "precast.json").write_bytes(manifest)
            put(artifact, name, encoded(document))
            yield attempt(what, lambda: use(artifact))

    outcomes(tried())


@pytest.mark.parametrize("name", ["precast.json", "config.json", "tokenizer_config.json", "tokenizer.json"])
def test_hostile_texts(tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(tiny_artifacts.artifact("text-classification"), tmp_path / "artifact")

    def tried() -> Iterator[str | None]:
        for text in TEXTS:
            put(folder, name, text) if name != "precast.json" else (folder / name).write_bytes(text)
            yield attempt(repr(text[:30]), lambda: use(folder))
            if name == "precast.json":
                with pytest.raises(PrecastError):
                    Artifact.open(folder)

    outcomes(tried())


RULE = {"weight": "w", "layout": "blocks", "what": "codes", "rows": 9, "depth": 9, "bits": 4, "block": 32}
RULE |= {"zeros": "none"}
FREE: list[tuple[tuple[str, ...], Any, str]] = [
    (("session",), {"entries": 5}, r"session\.entries must be an object, got 5"),
    (
        ("session",),
        {"entries": {"session.disable_prepacking": 1}},
        "a string of at most 256 characters, got 1",
    ),
    (("session",), {"graph_optimization_level": []}, r"session\.graph_optimization_level must be a non-empty string"),
    *(
        (("session",), {"initializers": {"w": {**RULE, **change}}}, rf"session\.initializers\.w\.{message}")
        for change, message in (
            ({"weight": "../../etc/passwd"}, "weight must be one of the variant's weights, got '../../etc/passwd'"),
            ({"weight": 5}, "weight must be one of the variant's weights, got 5"),
            ({"layout": "rows"}, "layout must be one of blocks, halves"),
            ({"layout": "halves"}, "what must be one of matrix, table"),
            ({"what": []}, "what must be"),
            ({"rows": 0}, "rows must be an integer from 1"),
            ({"depth": 2**62}, "depth must be an integer from 1"),
            ({"rows": None}, "rows must be an integer"),
            ({"bits": 5}, "bits must be 4 or 8, got 5"),
            ({"bits": True}, "bits must be 4 or 8"),
            ({"block": 31}, "block must be one of"),
            ({"zeros": "some"}, "zeros must be one of floats, integers, none"),
        )
    ),
    (("session",), {"initializers": {"w": 5}}, r"session\.initializers\.w must be an object, got 5"),
    (("session",), {"initializers": []}, r"session\.initializers must be an object"),
    (("parity",), {"measured": [5]}, r"parity\.measured\[0\] must be an object, got 5"),
    (("parity",), {"measured": [{"case": "a"}]}, r"parity\.measured\[0\]\.output is missing"),
    (
        ("parity",),
        {"measured": [{"case": "a", "output": "logits", "reference_error": "0"}]},
        r"parity\.measured\[0\]\.reference_error must be a number or null, got '0'",
    ),
    *(
        (("parity",), {"conditioning": value}, rf"parity\.conditioning{message}")
        for value, message in (
            (None, " must be an object, got None"),
            ([["a", {}]], " must be an object"),
            ({"logits": 5}, r"\.logits must be an object, got 5"),
            ({"logits": {"bound": 1e-5}}, r"\.logits\.eager_error is missing"),
            ({"logits": {"eager_error": 1e-6, "bound": "1"}}, r"\.logits\.bound must be a number"),
        )
    ),
    (("parity",), {"worst": {"logits": {"max_abs": "x"}}}, r"parity\.worst\.logits\.max_abs must be a number"),
    (("parity",), {"divergence": {"text": 1}}, r"parity\.divergence\.text must be true or false, got 1"),
    (
        ("work",),
        {"flops": [{"coefficient": None, "dimensions": {}}]},
        r"flops\[0\]\.coefficient must be a number",
    ),
    (("work",), {"bytes": [{"coefficient": 1, "dimensions": {"batch": -1}}]}, r"dimensions\.batch must be an integer"),
    (("state",), {"ring": "yes"}, r"state\.ring must be true or false"),
    (
        ("operators",),
        {"MatMul": 2**62},
        r"operators\.MatMul must be an integer from 0 to 2147483647, got 46116860",
    ),
]


@pytest.mark.parametrize(("path", "value", "message"), FREE)
def test_free_fields_have_types_where_they_are_read(
    tmp_path: Path, path: tuple[str, ...], value: Any, message: str
) -> None:
    folder = samples.make(tmp_path / "made")
    [key] = path
    samples.reseal(folder, lambda d: d["components"]["encoder"]["variants"]["cpu-fp32"].update({key: value}))
    with pytest.raises(ArtifactError, match=message):
        Artifact.open(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"processing": {"embedding": {"pooling": "mean"}}},
            r"embedding\.pooling must be a list of strings",
        ),
        (
            {"processing": {"embedding": {"pooling": ["mean"], "dense": [{"weight": "../../x.npy"}]}}},
            r"dense\[0\]\.weight must be a file listed in 'files', got '\.\./\.\./x\.npy'",
        ),
        ({"processing": {"embedding": {"pooling": ["mean"], "max_seq_length": 0}}}, r"an integer from 1 to 2147483647"),
        ({"processing": {"tokenizer": [1]}}, r"processing\.tokenizer must be an object"),
        ({"parity": {"encoder": {"file": "/etc/passwd"}}}, r"parity\.encoder\.file must be a file listed in 'files'"),
        ({"parity": {"encoder": []}}, r"parity\.encoder must be an object"),
        ({"cost": {"seconds": "1"}}, r"cost\.seconds must be a number, 0 or more, got '1'"),
    ],
)
def test_free_fields_of_the_manifest(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = samples.make(tmp_path / "made")
    samples.reseal(folder, lambda document: document.update(changes))
    with pytest.raises(ArtifactError, match=message):
        Artifact.open(folder)


# Graphs beside their manifest


def test_a_manifest_that_lies_about_its_graph(tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_artifacts.artifact("text-classification"), tmp_path / "artifact")
    manifest = (folder / "precast.json").read_bytes()
    for key, value, message in (
        ("shape", ["batch", 4], r"gives 'logits' as float32 \[batch, 3\], its manifest says float32 \[batch, 4\]"),
        ("dtype", "float64", r"its manifest says float64"),
        ("name", "scores", r"gives logits, its manifest says scores"),
        ("shape", ["batch", 2**62], r"shape must be a list of sizes"),
    ):
        (folder / "precast.json").write_bytes(manifest)
        samples.reseal(folder, lambda d, k=key, v=value: d["components"]["encoder"]["outputs"][0].update({k: v}))
        with pytest.raises(ArtifactError, match=message):
            precast.load(folder)


# The parity record


def npy(array: Any, **header: Any) -> bytes:
    """As NumPy writes it, with another header."""
    values = np.ascontiguousarray(array).reshape(np.shape(array))
    stated = repr({"descr": values.dtype.str, "fortran_order": False, "shape": values.shape, **header})
    text = f"{stated[:-1]}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + values.tobytes()


def npz(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return packed.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "an .npy file as NumPy writes it"),
        (npy([1.0])[:40], "an .npy file as NumPy writes it"),
        (npy([1.0], shape=(10**12,)), "as many numbers as its header says"),
        (npy([1.0], shape=(2**40, 2**40)), "as many numbers as its header says"),
        (npy([1.0], shape=(0, 10**17)), "as many numbers as its header says"),
        (npy([1.0], descr="|O"), "plain little-endian numbers"),
        (npy([1.0], descr=">f8"), "plain little-endian numbers"),
        (npy(np.uint8([0, 1, 2]), descr="|b1"), "0 and 1 for false and true"),
        (npy([1.0], shape=(1,) * 40), "as many numbers as its header says"),
        (npy([1.0]) + b"\0", "as many numbers as its header says"),
        (npy([1.0], shape=(-1,)), "an .npy file as NumPy writes it"),
        (npy([1.0], descr=[("a", "<f8")]), "an .npy file as NumPy writes it"),
    ],
)
def test_headers_are_held_to_the_bytes_behind_them(data: bytes, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        read_npy(data, "x.npy")


@pytest.mark.parametrize(
    "array", [np.float32(3), np.arange(6).reshape(2, 3), np.zeros((2, 0, 3)), np.arange(3.0).T, np.eye(2, dtype=bool)]
)
def test_arrays_survive_the_trip(array: Any) -> None:
    found = read_npz(npz({"a.npy": npy(array)}), "x.npz")["a"]
    np.testing.assert_array_equal(found, array)
    assert found.flags.writeable


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"no zip", "an .npz file as NumPy writes it"),
        (npz({"a.npy": npy(np.zeros(1 << 20))}, zipfile.ZIP_DEFLATED), "stored as it is, not compressed"),
        (npz({"a.txt": b"x"}), "of different names, got 'a.txt'"),
        (npz({"a.npy": npy([1])})[:-30], "an .npz file as NumPy writes it"),
    ],
)
def test_archives_that_are_none(data: bytes, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        read_npz(data, "x.npz")


def test_members_that_share_their_bytes() -> None:
    """Entries of the directory that all point to one member promise more than the file has."""
    data = npz({"a.npy": npy(np.zeros(100))})
    start = data.index(b"PK\x01\x02")
    end = data.index(b"PK\x05\x06")
    entry = data[start:end]
    total = (1000).to_bytes(2, "little")
    tail = data[end : end + 8] + total + total + (len(entry) * 1000).to_bytes(4, "little") + data[end + 16 :]
    with pytest.raises(ArtifactError, match=r"promises 928000 bytes of arrays|an \.npz file as NumPy"):
        read_npz(data[:start] + entry * 1000 + tail, "x.npz")


@given(st.data())
@settings(max_examples=2000 if EXHAUSTIVE else 60, deadline=None)
def test_hostile_archives(draw: st.DataObject) -> None:
    data = bytearray(npz({"0|a|input|x.npy": npy([[1, 2]]), "0|a|output|y.npy": npy(np.float32([1, 2]))}))
    for _ in range(draw.draw(st.integers(1, 4))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    assert attempt("bytes", lambda: read_npz(bytes(data), "x.npz")) is None


def _without_outputs(members: dict[str, bytes]) -> None:
    for name in list(members):
        if "|output|" in name or "|distance|" in name:
            del members[name]


def _without_cases(members: dict[str, bytes]) -> None:
    members.clear()


def _renamed(old: str, new: str) -> Callable[[dict[str, bytes]], None]:
    def change(members: dict[str, bytes]) -> None:
        for name in list(members):
            members[name.replace(old, new)] = members.pop(name)

    return change


def _with(part: str, content: bytes | None) -> Callable[[dict[str, bytes]], None]:
    """Another content, or none, for the first member whose name holds ``part``."""

    def change(members: dict[str, bytes]) -> None:
        name = next(name for name in members if part in name)
        del members[name]
        if content is not None:
            members[name] = content

    return change


RECORDS: list[tuple[Callable[[dict[str, bytes]], None], str]] = [
    (_without_cases, "must hold a case of every component, got 'none of encoder'"),
    (_without_outputs, "outputs must be those of the manifest"),
    (_renamed("|logits", "|scores"), r"outputs must be those of the manifest \(logits\), got 'scores'"),
    (_with("|distance|", None), "with a distance of its shape"),
    (_with("|input|attention_mask", None), "inputs must be those of the manifest"),
    (_with("|input|input_ids", npy([[2**40]])), "input_ids must be 0 to|must be int64"),
    (_with("|input|input_ids", npy([[-1]])), "input_ids must be 0 to|must be int64"),
    (_with("|input|input_ids", npy([[0.5]])), "'input_ids' must be int64"),
    (_with("|output|logits", npy(np.zeros((1, 3)))), "must be float32"),
    (_with("|output|logits", npy(np.zeros((1, 4), np.float32))), "distance of its shape|must be float32"),
    (_with("|output|logits", npy(np.float32([1.0]), shape=(10**12,))), "as many numbers as its header says"),
    (_renamed("0|", "zero|"), "must be named number|case"),
    (_renamed("|input|", "|pickle|"), "must be named number|case"),
]


@pytest.mark.parametrize(("change", "message"), RECORDS)
def test_verify_refuses_a_record_that_proves_nothing(
    tmp_path: Path, change: Callable[[dict[str, bytes]], None], message: str
) -> None:
    folder = shutil.copytree(tiny_artifacts.artifact("text-classification"), tmp_path / "artifact")
    name = "parity/encoder.npz"
    with zipfile.ZipFile(folder / name) as archive:
        members = {entry: archive.read(entry) for entry in archive.namelist()}
    change(members)
    put(folder, name, npz(members))
    with pytest.raises(ArtifactError, match=message):
        precast.verify(folder)


def test_verify_needs_a_gate(tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_artifacts.artifact("text-classification"), tmp_path / "artifact")

    def change(document: dict[str, Any]) -> None:
        for variant in document["components"]["encoder"]["variants"].values():
            variant["precision"] = "fp99"

    samples.reseal(folder, change)
    with pytest.raises(ArtifactError, match=r"must be of a precision with a gate \(.*fp32.*\), got 'fp99'"):
        precast.verify(folder)


# Records of benchmarks


def test_hostile_benchmarks(tmp_path: Path) -> None:
    whole = json.loads(record.text(bench_records.full(workloads=("minilm",))))
    del whole["rows"][12:]
    good, path = tmp_path / "good.json", tmp_path / "record.json"
    good.write_text(json.dumps(whole))
    known = record.read(good)

    def judged() -> None:
        read = record.read(path)
        json.dumps(compare(read, known, any_machine=True), allow_nan=False)
        json.dumps(compare(known, read, any_machine=True), allow_nan=False)
        markdown(read)

    def tried() -> Iterator[str | None]:
        for what, document in mutations(whole, most=80):
            path.write_bytes(encoded(document))
            yield attempt(what, judged)
        for text in TEXTS:
            path.write_bytes(text)
            with pytest.raises(BenchmarkError):
                record.read(path)

    outcomes(tried())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"floors": [0]}, r"rows\[0\]\.floors must be a list of seconds, 1e-9 to 1e9 each, got \[0\]\. Measure again"),
        ({"batch": [1]}, r"rows\[0\]\.batch must be a string, a number or null"),
        ({"scenario": 5}, r"rows\[0\]\.scenario must be a non-empty string, got 5"),
        ({"memory": {"peak_bytes": "x"}}, r"rows\[0\]\.memory\.peak_bytes must be a number or null"),
    ],
)
def test_measurements_have_types(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    document = bench_records.minimal()
    document["rows"][0].update(changes)
    path = tmp_path / "record.json"
    path.write_text(json.dumps(document))
    with pytest.raises(BenchmarkError, match=message):
        record.read(path)


def test_a_record_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"cannot be read: No such file"):
        record.read(tmp_path / "none.json")


def test_a_manifest_that_repeats_a_key(tmp_path: Path) -> None:
    folder = samples.make(tmp_path / "made")
    path = folder / "precast.json"
    path.write_bytes(path.read_bytes().replace(b'"seconds": 1.5', b'"seconds": 1.5, "seconds": 2'))
    with pytest.raises(IntegrityError, match=r"the key 'seconds' appears twice"):
        Artifact.open(folder)
