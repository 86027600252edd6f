"""Damaged, foreign and malicious GGUF files: typed errors that name the rule; no crash, no hang, no large buffer."""

from __future__ import annotations

import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.gguf_samples import random_model, write_model

from precast.export.checkpoints.gguf.reader import read_gguf
from precast.export.checkpoints.open import open_checkpoint
from precast.runtime.errors import CheckpointError, PrecastError

HEAD = b"GGUF" + struct.pack("<I", 3)


def string(text: bytes | str) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def value(key: str, kind: int, data: bytes) -> bytes:
    return string(key) + struct.pack("<I", kind) + data


def tensor(name: str = "a", dims: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    shape = struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
    return string(name) + shape + struct.pack("<IQ", kind, offset)


def file(
    *entries: bytes, values: tuple[bytes, ...] = (), counts: tuple[int, int] | None = None, data: int = 0
) -> bytes:
    header = HEAD + struct.pack("<QQ", *(counts or (len(entries), len(values)))) + b"".join((*values, *entries))
    return header + bytes(-len(header) % 32 + data)


def _long(key: str, kind: int, count: int) -> bytes:
    return file(values=(value(key, 9, struct.pack("<IQ", kind, count)),), data=64)


WRONG: list[tuple[bytes, str]] = [
    (b"", "m.gguf is empty"),
    (b"GG", r"must start with b'GGUF'.*it starts with b'GG'"),
    (b"lmgg" + bytes(60), r"it starts with b'lmgg'. Files of the formats before it \(GGML, GGJT\)"),
    (b"GGUF", r"the version takes 4 bytes at 4, and the file ends at 4: it is cut short"),
    (b"GGUF" + struct.pack("<I", 1) + bytes(60), r"GGUF version 1; read here are the little-endian versions 2, 3"),
    (b"GGUF" + struct.pack(">I", 3) + bytes(60), "GGUF version 3 of a big-endian machine"),
    (b"GGUF" + struct.pack("<I", 4) + bytes(60), "GGUF version 4"),
    (file(counts=(1 << 60, 0)), r"announces 1152921504606846976 tensors, and has \d+ bytes left"),
    (file(counts=(0, 1 << 63)), r"announces 9223372036854775808 metadata values"),
    (file(counts=(3, 0), data=64), r"announces 3 tensors, and has 80 bytes left"),
    (file(values=(value("k", 99, b""),), data=64), r"'k' has the value type 99, which does not exist"),
    (file(values=(value("k", 8, struct.pack("<Q", 1 << 40)),), data=64), r"'k' takes 1099511627776 bytes"),
    (file(values=(value("k", 8, string(b"\xff\xfe")),), data=64), r"'k' at \d+ is not UTF-8"),
    (file(values=(string(b"\xff") + bytes(16),), data=64), r"a key at \d+ is not UTF-8"),
    (file(values=(struct.pack("<Q", 70_000) + bytes(70_100),)), r"a key has 70000 bytes, more than the 65535"),
    (file(values=(value("k", 7, b"\x02"),), data=64), r"'k' is a flag, 0 or 1; it holds 2"),
    (_long("k", 4, 1 << 50), r"announces 1125899906842624 numbers in 'k'"),
    (_long("k", 8, 1 << 50), r"announces 1125899906842624 texts in 'k'"),
    (_long("k", 9, 1), "arrays of arrays are not allowed"),
    (_long("k", 77, 1), "the element type 77 does not exist"),
    (file(values=(value("k", 0, b"\1"), value("k", 0, b"\1")), data=64), "the key 'k' appears twice"),
    (file(values=(value("general.alignment", 4, bytes(4)),), data=64), "alignment must be a power of two; it is 0"),
    (file(tensor("x" * 64), data=128), "a tensor's name has 64 bytes, more than the 63 allowed"),
    (file(tensor(dims=()), data=128), "has 0 dimensions; there are 1 to 4"),
    (file(tensor(dims=(1,) * 5), data=128), "has 5 dimensions"),
    (file(tensor(dims=(0,)), data=128), r"has the shape \[0\], which no tensor has"),
    (file(tensor(dims=(1 << 40, 1 << 40)), data=128), "which no tensor has"),
    (file(tensor(kind=77), data=128), r"tensor 'a' has the ggml type 77, which is not read here. Readable: F32, F16"),
    (file(tensor(kind=9), data=128), r"has the ggml type 9 \(Q8_1\)"),
    (file(tensor(kind=8, dims=(33,)), data=128), r"has rows of 33 values, and Q8_0 packs 32 at a time"),
    (file(tensor(offset=4), data=256), "lies at 4, no multiple of the alignment 32"),
    (file(tensor(), data=127), r"tensor 'a' ends at \d+, and the file at \d+: it is cut short"),
    (file(tensor(offset=1 << 62), data=128), r"tensor 'a' ends at \d{19}, and the file at"),
    (file(tensor("a"), tensor("a", offset=128), data=256), "there are two tensors named 'a'"),
    (file(tensor("a"), tensor("b", offset=96), data=256), "the tensors 'a' and 'b' overlap"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "message"), WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_gguf(path)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(path)


def test_version_2_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    content = bytearray(file(tensor(), values=(value("k", 6, struct.pack("<f", 1e-6)),), data=128))
    content[4] = 2
    path.write_bytes(content)
    model = read_gguf(path)
    assert model.metadata.values == {"k": 1e-6}
    assert model.tensors["a"].shape == (32,)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX FIFOs")
def test_a_fifo_does_not_hang(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match=r"m\.gguf is not a regular file"):
        open_checkpoint(path)


def test_counts_make_no_buffers(tmp_path: Path) -> None:
    """A file of 2 MB that announces as much as it can cost."""
    path = tmp_path / "m.gguf"
    path.write_bytes(file(values=(value("k", 9, struct.pack("<IQ", 8, 250_000)),), data=2_000_000, counts=(0, 1)))
    tracemalloc.start()
    try:
        read_gguf(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8_000_000


# -- anything at all -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    def short(writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model("llama")
        writer.add_token_list(["<unk>", "<s>", "</s>", "a", "b", "ab", "▁"])
        writer.add_token_scores([0.0, 0.0, 0.0, -2.0, -3.0, -1.0, -4.0])
        writer.add_token_types([2, 3, 3, 1, 1, 1, 1])
        writer.add_chat_template("{{ messages }}")

    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    state = {
        name: tensor[:8] if "embed" in name else tensor for name, tensor in random_model("llama").state_dict().items()
    }
    return write_model(path, "llama", state, kind="Q4_0", extra=short).read_bytes()


def everything(path: Path) -> None:
    """All that an export asks of a checkpoint."""
    checkpoint = open_checkpoint(path)
    for source in checkpoint.tensors.values():
        assert tuple(source.load().shape) == source.shape
        assert source.packed is None or source.packed.data.ndim == 2  # type: ignore[attr-defined]
    checkpoint.tokenizer_files("llama")
    checkpoint.read_json("generation_config.json")
    checkpoint.digests()


def survives(path: Path, content: bytes, act: Callable[[Path], Any]) -> bool:
    """Whether the file is read; anything but our own errors is a failure."""
    path.write_bytes(content)
    try:
        act(path)
    except PrecastError:
        return False
    return True


def test_the_whole_file_is_read(whole: bytes, tmp_path: Path) -> None:
    assert survives(tmp_path / "m.gguf", whole, everything)


def test_no_truncation_is_read(whole: bytes, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for length in {*range(0, 200, 7), *rng.integers(0, len(whole), 100).tolist(), len(whole) - 33}:
        assert not survives(tmp_path / "m.gguf", whole[:length], everything), length


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_changed_bytes_are_read_or_refused(data: st.DataObject, whole: bytes, tmp_path: Path) -> None:
    # The header is where a byte matters; some hit the weights as well.
    limit = st.sampled_from([64, 1500, 3500, len(whole) - 1])
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, data.draw(limit)))
        content[place] = data.draw(
            st.sampled_from([0, 1, 2, 8, 9, 127, 128, 255, content[place] ^ 1, content[place] ^ 64])
        )
    survives(tmp_path / "m.gguf", bytes(content), everything)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300), version=st.sampled_from([2, 3]))
def test_any_bytes_are_read_or_refused(content: bytes, version: int, tmp_path: Path) -> None:
    survives(tmp_path / "m.gguf", b"GGUF" + struct.pack("<I", version) + content, everything)
