"""Legacy pytorch_model.bin files: everything torch.save writes for weights is read, and nothing else is."""

from __future__ import annotations

import collections
import io
import json
import os
import pickle
import re
import resource
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from precast.export.checkpoints import legacy, legacy_reader
from precast.export.checkpoints.open import open_checkpoint
from precast.runtime.errors import CheckpointError, UnsafeFileError

Folder = Callable[[bytes], Path]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    def build(data: bytes) -> Path:
        (tmp_path / "config.json").write_bytes(b"{}")
        (tmp_path / "pytorch_model.bin").write_bytes(data)
        return tmp_path

    return build


def saved(state: Any, new: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=new)
    return buffer.getvalue()


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    base = torch.randn(4, 6)
    return collections.OrderedDict(
        plain=base,
        tied=base,
        part=base[1:3, 2:5],
        transposed=base.t(),
        half=torch.randn(3).half(),
        brain=torch.tensor(2.5).bfloat16(),
        double=torch.randn(2, dtype=torch.float64),
        long=torch.arange(5),
        short=torch.tensor([-1], dtype=torch.int16),
        byte=torch.tensor([255], dtype=torch.uint8),
        flag=torch.tensor([True, False]),
        empty=torch.empty(0, 3),
        parameter=torch.nn.Parameter(torch.ones(2, 2)),
        expanded=torch.ones(1, 1).expand(1, 1),
    )


def zipped(program: bytes, storages: dict[str, bytes] | None = None, compress: bool = False) -> bytes:
    """An archive laid out as torch's, around a pickle of our own."""
    buffer = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/version", "3\n")
        for key, data in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", data)
    return buffer.getvalue()


def tensor_program(
    offset: int = 0, shape: tuple[int, ...] = (2,), stride: tuple[int, ...] = (1,), numel: int = 2, name: Any = "w"
) -> bytes:
    """The pickle of ``{name: tensor}``, with any numbers in it."""

    class Pid:
        pass

    class Fake:
        def __reduce__(self) -> Any:
            return (torch._utils._rebuild_tensor_v2, (Pid(), offset, shape, stride, False, collections.OrderedDict()))

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", numel) if isinstance(value, Pid) else None

    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump({name: Fake()})
    return buffer.getvalue()


def refused(path: Path, error: type[Exception] = CheckpointError) -> str:
    with pytest.raises(error) as caught:
        _ = open_checkpoint(path).tensors
    message = str(caught.value)
    assert message.startswith("pytorch_model.bin ")
    assert "onvert it to safetensors" in message
    return message


@pytest.mark.parametrize("new", [True, False])
def test_what_torch_saves_is_read(folder: Folder, new: bool) -> None:
    expected = state()
    tensors = open_checkpoint(folder(saved(expected, new))).tensors
    assert list(tensors) == list(expected)
    for name, tensor in expected.items():
        loaded = tensors[name].load()
        assert (tensors[name].shape, loaded.dtype) == (tuple(tensor.shape), tensor.dtype)
        assert loaded.is_contiguous()
        assert torch.equal(loaded, tensor.detach()), name


def test_modules_and_newer_types_are_read(folder: Folder) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    tensors = open_checkpoint(folder(saved(model.state_dict()))).tensors
    assert all(torch.equal(tensors[name].load(), value) for name, value in model.state_dict().items())
    newer = {"u": torch.tensor([60000], dtype=torch.uint16), "f": torch.ones(3).to(torch.float8_e4m3fn)}
    tensors = open_checkpoint(folder(saved(newer))).tensors
    assert tensors["u"].load().item() == 60000
    assert torch.equal(tensors["f"].load().float(), torch.ones(3))


def test_shards(folder: Folder, tmp_path: Path) -> None:
    path = folder(b"")
    (path / "pytorch_model.bin").unlink()
    names = [f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)]
    for value, name in enumerate(names):
        (path / name).write_bytes(saved({f"w{value}": torch.full((2,), float(value))}))
    index = {"weight_map": {"w0": names[0], "w1": names[1]}}
    (path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    tensors = open_checkpoint(path).tensors
    assert [tensors[f"w{i}"].load().tolist() for i in (0, 1)] == [[0.0, 0.0], [1.0, 1.0]]
    index["weight_map"]["w1"] = "model.safetensors"
    (path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(UnsafeFileError, match=r"the bare name of a \*\.bin file"):
        _ = open_checkpoint(path).tensors


class _Call:
    """Pickles as a call of ``function``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ("touch {marker}",), r"(posix|nt)\.system"),
        (eval, ("open({marker!r}, 'w')",), r"(builtins|__builtin__)\.eval"),
        (subprocess.Popen, (["touch", "{marker}"],), r"(subprocess|commands)\.Popen"),
        (getattr, ("a", "b"), r"(builtins|__builtin__)\.getattr"),
        (torch.load, ("x",), r"torch\.serialization\.load"),
    ],
)
@pytest.mark.parametrize("new", [True, False])
def test_a_foreign_global_is_named_and_never_called(
    folder: Folder, tmp_path: Path, function: Any, arguments: tuple[Any, ...], name: str, new: bool
) -> None:
    marker = str(tmp_path / "marker")
    filled = [
        a.format(marker=marker) if isinstance(a, str) else [x.format(marker=marker) for x in a] for a in arguments
    ]
    data = saved({"w": torch.ones(2), "x": _Call(function, *filled)}, new)
    message = refused(folder(data), UnsafeFileError)
    assert re.search(rf"is refused: it asks for {name}, which no weights file needs", message)
    assert not os.path.exists(marker)


def test_a_module_named_in_a_pickle_is_never_imported(folder: Folder, tmp_path: Path, monkeypatch: Any) -> None:
    marker = tmp_path / "imported"
    (tmp_path / "evil_module.py").write_text(f"open({str(marker)!r}, 'w')\nclass A: pass\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    message = refused(folder(zipped(b"cevil_module\nA\n.")), UnsafeFileError)
    assert "evil_module.A" in message
    assert not marker.exists()


def test_the_child_can_import_no_package() -> None:
    # The pickle reader needs none, so what it never sees cannot be turned against it.
    code = "import importlib.util as u; print([n for n in ('torch', 'numpy', 'precast') if u.find_spec(n)])"
    run = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("program", "storages", "reason"),
    [
        (tensor_program(shape=(3,)), {"0": bytes(8)}, "reaches past the end of its storage (2 elements)"),
        (tensor_program(offset=1), {"0": bytes(8)}, "reaches past the end of its storage"),
        (tensor_program(offset=-1), {"0": bytes(8)}, "an offset must be a non-negative integer"),
        (tensor_program(stride=(-1,)), {"0": bytes(8)}, "a stride must be a non-negative integer"),
        (tensor_program(stride=(2,)), {"0": bytes(8)}, "reaches past the end of its storage"),
        (tensor_program(shape=(2, 2)), {"0": bytes(8)}, "a tensor has 2 dimensions and 1 strides"),
        (tensor_program(shape=(10**9,), stride=(0,)), {"0": bytes(8)}, "reaches past the end of its storage"),
        (tensor_program(numel=3), {"0": bytes(8)}, "should hold 12 bytes and holds 8"),
        (tensor_program(numel=1 << 60), {"0": bytes(8)}, "bytes and holds 8"),
        (tensor_program(), {}, "storage '0' is missing from the archive"),
        (tensor_program(name=7), {"0": bytes(8)}, "the name of a weight must be a short printable text"),
        (tensor_program(name="a\nb"), {"0": bytes(8)}, "the name of a weight must be a short printable text"),
        (pickle.dumps([1, 2]), {}, "it holds a list where a table of weights belongs"),
        (pickle.dumps({"optimizer": {"lr": 1}}), {}, "weight 'optimizer' is a table, not a tensor"),
        (pickle.dumps({"epoch": 3}), {}, "weight 'epoch' is a int, not a tensor"),
        (b"", {}, "its pickle cannot be read"),
        (b"garbage", {}, "its pickle cannot be read"),
        (b"ctorch\nFloatStorage\n)R.", {}, "the pickle calls torch.FloatStorage, which is a plain value"),
        (b"ctorch._utils\n_rebuild_tensor\n}(X\x01\x00\x00\x00aK\x01ub.", {}, "the pickle tries to change"),
        (b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40), {}, "its pickle"),  # BINUNICODE8 of a terabyte
        (b"\x80\x04Nr\xff\xff\xff\xff.", {}, "its pickle"),  # a memo of four thousand million entries
    ],
)
def test_pickles_that_do_not_describe_weights(
    folder: Folder, program: bytes, storages: dict[str, bytes], reason: str
) -> None:
    message = refused(folder(zipped(program, storages)))
    assert reason in message or ("its pickle" in reason and "ended the process" in message)


def test_archives_that_torch_does_not_write(folder: Folder) -> None:
    good = tensor_program()
    assert "is compressed or encrypted" in refused(folder(zipped(good, {"0": bytes(8)}, compress=True)))
    data = bytearray(zipped(good, {"0": bytes(8)}))
    place = data.index(bytes(8), data.index(b"archive/data/0"))
    data[place] ^= 1
    assert "entry 'archive/data/0' differs from its checksum: the file is damaged" in refused(folder(bytes(data)))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("other", "x")
    assert "without exactly one data.pkl" in refused(folder(buffer.getvalue()))
    big = io.BytesIO(zipped(good, {"0": bytes(8)}))
    with zipfile.ZipFile(big, "a") as archive:
        archive.writestr("archive/byteorder", "big")
    assert "its numbers are big-endian" in refused(folder(big.getvalue()))
    script = io.BytesIO(zipped(good, {"0": bytes(8)}))
    with zipfile.ZipFile(script, "a") as archive:
        archive.writestr("archive/code/__torch__.py", "x")
    assert "it is a TorchScript program" in refused(folder(script.getvalue()), UnsafeFileError)


def test_files_of_other_kinds(folder: Folder) -> None:
    assert "neither a ZIP archive nor a stream of torch.save" in refused(folder(pickle.dumps({"a": 1})))
    assert "its pickle cannot be read" in refused(folder(b"\x00" * 100))
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is empty\. Download it again"):
        _ = open_checkpoint(folder(b"")).tensors


@pytest.mark.parametrize("new", [True, False])
def test_truncated_files(folder: Folder, new: bool) -> None:
    data = saved({"w": torch.randn(50)}, new)
    assert "truncated" in refused(folder(data[:-20]))


def test_a_pickle_that_takes_forever_is_ended(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(legacy, "_LEAST_SECONDS", 1)
    # Nested tuples as a key: hashing them takes 2**60 steps.
    program = b"\x80\x02}(" + b")" + b"2\x86" * 60 + b"NuN."
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin (was not read within 1 s|ended the process)"):
        _ = open_checkpoint(folder(zipped(program))).tensors


def test_the_answer_of_the_child_is_checked_again(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder(saved({"w": torch.ones(4)}))
    good = ["w", "float32", [4], [1], 0, 16]
    for place, bad in ((1, "object"), (2, [5]), (3, [2]), (3, []), (4, -1), (4, 1.5), (5, 15), (0, None), (2, [-4])):
        row = [*good[:place], bad, *good[place + 1 :]]
        answer = subprocess.CompletedProcess([], 0, json.dumps({"tensors": [row]}).encode(), b"")
        monkeypatch.setattr(legacy.subprocess, "run", lambda *_, answer=answer, **__: answer)
        with pytest.raises(CheckpointError, match="ended the process that reads it"):
            _ = open_checkpoint(path).tensors
    outside = [*good[:4], 1 << 40, 16]
    answer = subprocess.CompletedProcess([], 0, json.dumps({"tensors": [outside]}).encode(), b"")
    monkeypatch.setattr(legacy.subprocess, "run", lambda *_, **__: answer)
    with pytest.raises(CheckpointError, match="weight 'w' lies outside the file"):
        _ = open_checkpoint(path).tensors


def read_here(path: Path) -> list[list[Any]]:
    """The reader in this process, for speed; a pickle may ask for gigabytes, so not without a limit here either."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), hard))
    try:
        return legacy_reader.layout(str(path))
    except legacy_reader.Refused as refusal:
        return [] if str(refusal) and refusal.kind in ("unsafe", "malformed") else [[refusal]]
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), new=st.booleans())
def test_fuzzed_files_are_read_or_refused(data: st.DataObject, new: bool, tmp_path: Path) -> None:
    good = _FUZZ[new]
    changed = bytearray(good)
    for place in data.draw(st.lists(st.integers(0, len(good) - 1), max_size=4)):
        changed[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        changed = changed[: data.draw(st.integers(0, len(good)))]
    (tmp_path / "w.bin").write_bytes(changed)
    for row in read_here(tmp_path / "w.bin"):
        tensor = legacy._row(row)
        assert tensor.offset + tensor.nbytes <= len(changed)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_fuzzed_pickles_are_read_or_refused(data: st.DataObject, tmp_path: Path) -> None:
    """As above, past the checksums: the pickle is changed before it is packed."""
    program = bytearray(_PROGRAM)
    for place in data.draw(st.lists(st.integers(0, len(program) - 1), min_size=1, max_size=3)):
        program[place] = data.draw(st.integers(0, 255))
    (tmp_path / "w.bin").write_bytes(zipped(bytes(program), {"0": bytes(64)}))
    for row in read_here(tmp_path / "w.bin"):
        legacy._row(row)


_FUZZ = {new: saved({"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2).half()}, new) for new in (True, False)}
_PROGRAM = tensor_program()
