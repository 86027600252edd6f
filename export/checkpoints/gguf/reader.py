"""The header of a GGUF file, read strictly: metadata, and where each tensor lies (ggml's docs/gguf.md).

ggml's own Python reader trusts the file: a wrong count makes it loop, a wrong length makes it read elsewhere. Here
every count and length is held against the bytes there are before anything of its size is made."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from precast.export.checkpoints.gguf.ggml_types import READABLE, UNREADABLE, BlockType
from precast.export.checkpoints.gguf.metadata import Metadata
from precast.export.checkpoints.mapped_file import MappedFile
from precast.runtime.errors import CheckpointError, listing

__all__ = ["GGUF", "TensorInfo", "is_gguf", "part_names", "read_gguf"]

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MAX_DIMS = 4  # GGML_MAX_DIMS
_MAX_NAME = 63  # GGML_MAX_NAME, with its terminator
_MAX_ITEMS = 1 << 24  # of an array; the largest vocabularies have 2^18
_MAX_KEY = 65_535
_MAX_PARTS = 10_000
_STRING, _ARRAY, _BOOL, _FLOAT32 = 8, 9, 7, 6
# Numeric value types, as struct reads them.
_NUMBERS: Final = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<B", 10: "<Q", 11: "<q", 12: "<d"}
_PART: Final = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)


@dataclass(frozen=True)
class TensorInfo:
    """A tensor as the file has it. ``shape`` is in the order of numpy: rows first, the packed axis last."""

    name: str
    shape: tuple[int, ...]
    kind: BlockType
    file: MappedFile
    offset: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) // self.kind.values * self.kind.nbytes

    def rows(self) -> np.ndarray:
        """[R, bytes of a row] uint8 of the file's mapping, R the product of all axes but the last. Read-only."""
        flat = np.frombuffer(self.file.map, np.uint8, self.nbytes, self.offset)
        flat.flags.writeable = False
        return flat.reshape(math.prod(self.shape[:-1]), -1)


@dataclass(frozen=True)
class GGUF:
    """A model: one file, or the parts it was split into."""

    metadata: Metadata
    tensors: dict[str, TensorInfo]
    files: tuple[MappedFile, ...]


def is_gguf(path: Path) -> bool:
    """Whether a path names a GGUF file, by its suffix."""
    return path.suffix.lower() == ".gguf"


def part_names(name: str) -> list[str]:
    """The file names of all parts of a split model, given the first part's; of a whole model, its own name.

    Raises ``CheckpointError`` for the name of a later part."""
    match = _PART.fullmatch(name)
    if match is None:
        return [name]
    stem, number, count = match[1], int(match[2]), int(match[3])
    if not 1 <= number <= count <= _MAX_PARTS:
        raise CheckpointError(f"{name} is no part of a split model: it is number {number} of {count} by its name.")
    if number != 1:
        raise CheckpointError(f"A split model is opened by its first part; give {stem}-00001-of-{match[3]}.gguf.")
    return [f"{stem}-{part:05d}-of-{match[3]}.gguf" for part in range(1, count + 1)]


def read_gguf(path: Path) -> GGUF:
    """The model in a ``.gguf`` file. A split model is opened by its first part; the others lie beside it.

    Raises ``CheckpointError`` where a file is damaged, of another version, or has a tensor type not read here."""
    names = part_names(path.name)
    first = _read(_map(path.with_name(names[0])))
    count = first.metadata.whole("split.count", 0)
    if count < 2:
        return first
    if count != len(names):
        raise CheckpointError(
            f"{path.name} is one of {count} parts of a model (split.count), so it must be named "
            f"NAME-00001-of-{count:05d}.gguf, with the others beside it. Give it the name it was published under."
        )
    tensors, files = dict(first.tensors), list(first.files)
    for number, name in enumerate(names):
        part = first if number == 0 else _read(_map(path.with_name(name)))
        found = part.metadata.whole("split.no", None), part.metadata.whole("split.count", None)
        if found != (number, count):
            raise CheckpointError(
                f"{name} must be part {number} of {count} by its own metadata (split.no, split.count); it says "
                f"{found[0]} of {found[1]}. The parts are of different models: download them again."
            )
        if number:
            if twice := [key for key in part.tensors if key in tensors]:
                raise CheckpointError(f"Tensors are in {name} and in a part before it: {listing(twice, 5)}.")
            tensors.update(part.tensors)
            files.extend(part.files)
    announced = first.metadata.whole("split.tensors.count", len(tensors))
    if announced != len(tensors):
        raise CheckpointError(
            f"{path.name} announces {announced} tensors in all parts (split.tensors.count), and they hold "
            f"{len(tensors)}. Download them again."
        )
    return GGUF(first.metadata, tensors, tuple(files))


def _map(path: Path) -> MappedFile:
    if not path.exists():
        raise CheckpointError(f"{path.name}, a part of the model, is missing beside the first part. Download it too.")
    return MappedFile(path)


def _damaged(file: MappedFile, cause: str) -> CheckpointError:
    return CheckpointError(f"{file.name} is not a whole GGUF file: {cause}. Download it again.")


class _Cursor:
    """Reads forward, and never beyond the end."""

    def __init__(self, file: MappedFile) -> None:
        self.file = file
        self.position = 0

    def skip(self, size: int, what: str) -> int:
        """The position before ``size`` bytes, which are there."""
        start = self.position
        if size > self.file.size - start:
            raise _damaged(
                self.file,
                f"{what} takes {size} bytes at {start}, and the file ends at {self.file.size}: it is cut short",
            )
        self.position = start + size
        return start

    def number(self, form: str, what: str) -> Any:
        return struct.unpack_from(form, self.file.map, self.skip(struct.calcsize(form), what))[0]

    def string(self, what: str, limit: int | None = None) -> str:
        length = self.number("<Q", f"the length of {what}")
        if limit is not None and length > limit:
            raise _damaged(self.file, f"{what} has {length} bytes, more than the {limit} allowed")
        start = self.skip(length, what)
        try:
            return self.file.map[start : start + length].decode("utf-8")
        except UnicodeDecodeError:
            raise _damaged(self.file, f"{what} at {start} is not UTF-8") from None

    def count(self, smallest: int, what: str, limit: int = _MAX_ITEMS) -> int:
        """A number of things that take at least ``smallest`` bytes each, and are there."""
        count = int(self.number("<Q", f"the number of {what}"))
        left = self.file.size - self.position
        if count > limit or count * smallest > left:
            raise _damaged(self.file, f"it announces {count} {what}, and has {left} bytes left for them")
        return count


def _read(file: MappedFile) -> GGUF:
    cursor = _Cursor(file)
    magic = file.map[:4]
    if magic != _MAGIC:
        raise CheckpointError(
            f"{file.name} must start with {_MAGIC!r} as every GGUF file does; it starts with {magic!r}. Files of the "
            "formats before it (GGML, GGJT) have to be converted with llama.cpp; another file is none of these."
        )
    cursor.skip(4, "the magic")
    version = cursor.number("<I", "the version")
    if version not in _VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        cause = f"version {version}" if swapped not in _VERSIONS else f"version {swapped} of a big-endian machine"
        raise CheckpointError(
            f"{file.name} is GGUF {cause}; read here are the little-endian versions {listing(map(str, _VERSIONS))}. "
            "Convert the model with a current llama.cpp."
        )
    tensor_count = cursor.count(33, "tensors")
    values = _metadata(cursor, cursor.count(13, "metadata values"))
    metadata = Metadata(file.name, values)
    alignment = metadata.whole("general.alignment", 32)
    if alignment <= 0 or alignment & (alignment - 1) or alignment > 1 << 20:
        raise _damaged(file, f"general.alignment must be a power of two; it is {alignment}")
    entries = [_tensor(cursor) for _ in range(tensor_count)]
    base = -(-cursor.position // alignment) * alignment
    tensors = dict(_placed(file, entries, base, alignment))
    return GGUF(metadata, tensors, (file,))


def _metadata(cursor: _Cursor, count: int) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for _ in range(count):
        key = cursor.string("a key", _MAX_KEY)
        if key in values:
            raise _damaged(cursor.file, f"the key {key!r:.80} appears twice")
        values[key] = _value(cursor, cursor.number("<I", f"the type of {key!r:.80}"), f"{key!r:.80}")
    return values


def _value(cursor: _Cursor, kind: int, what: str) -> Any:
    if kind == _STRING:
        return cursor.string(what)
    if kind == _ARRAY:
        return _array(cursor, what)
    if kind not in _NUMBERS:
        raise _damaged(cursor.file, f"{what} has the value type {kind}, which does not exist")
    value = cursor.number(_NUMBERS[kind], what)
    if kind == _BOOL:
        if value > 1:
            raise _damaged(cursor.file, f"{what} is a flag, 0 or 1; it holds {value}")
        return bool(value)
    # The shortest decimal of that float32: what the converter read in config.json.
    return float(str(np.float32(value))) if kind == _FLOAT32 else value


def _array(cursor: _Cursor, what: str) -> list[str] | np.ndarray:
    kind = cursor.number("<I", f"the element type of {what}")
    if kind == _STRING:
        count = cursor.count(8, f"texts in {what}")
        return [cursor.string(f"a text of {what}") for _ in range(count)]
    if kind not in _NUMBERS:
        nested = "arrays of arrays are not allowed" if kind == _ARRAY else f"the element type {kind} does not exist"
        raise _damaged(cursor.file, f"{what} is an array, and {nested}")
    dtype = np.dtype(_NUMBERS[kind])
    count = cursor.count(dtype.itemsize, f"numbers in {what}")
    start = cursor.skip(count * dtype.itemsize, what)
    return np.frombuffer(cursor.file.map, dtype, count, start).copy()


def _tensor(cursor: _Cursor) -> tuple[str, tuple[int, ...], BlockType, int]:
    """Name, shape, type and offset from the start of the data."""
    file = cursor.file
    name = cursor.string("a tensor's name", _MAX_NAME)
    what = f"tensor {name!r:.80}"
    dims = cursor.number("<I", f"the number of dimensions of {what}")
    if not 1 <= dims <= _MAX_DIMS:
        raise _damaged(file, f"{what} has {dims} dimensions; there are 1 to {_MAX_DIMS}")
    shape = tuple(cursor.number("<Q", f"a dimension of {what}") for _ in range(dims))[::-1]
    if not all(shape) or math.prod(shape) >= 1 << 62:
        raise _damaged(file, f"{what} has the shape {list(shape)}, which no tensor has")
    number = cursor.number("<I", f"the type of {what}")
    kind = READABLE.get(number)
    if kind is None:
        known = f"{number} ({UNREADABLE[number]})" if number in UNREADABLE else str(number)
        raise CheckpointError(
            f"{file.name}: {what} has the ggml type {known}, which is not read here. Readable: "
            f"{listing(kind.name for kind in READABLE.values())}. Quantise the model to one of these."
        )
    if shape[-1] % kind.values:
        raise _damaged(file, f"{what} has rows of {shape[-1]} values, and {kind.name} packs {kind.values} at a time")
    return name, shape, kind, cursor.number("<Q", f"the offset of {what}")


def _placed(
    file: MappedFile, entries: list[tuple[str, tuple[int, ...], BlockType, int]], base: int, alignment: int
) -> Iterable[tuple[str, TensorInfo]]:
    """The tensors with their place in the file, which no two share."""
    found: dict[str, TensorInfo] = {}
    for name, shape, kind, offset in entries:
        tensor = TensorInfo(name, shape, kind, file, base + offset)
        if name in found:
            raise _damaged(file, f"there are two tensors named {name!r:.80}")
        if offset % alignment:
            raise _damaged(file, f"tensor {name!r:.80} lies at {offset}, no multiple of the alignment {alignment}")
        if tensor.offset + tensor.nbytes > file.size:
            raise _damaged(
                file,
                f"tensor {name!r:.80} ends at {tensor.offset + tensor.nbytes}, and the file at {file.size}: "
                "it is cut short",
            )
        found[name] = tensor
    end, before = base, ""
    for tensor in sorted(found.values(), key=lambda tensor: tensor.offset):
        if tensor.offset < end:
            raise _damaged(file, f"the tensors {before!r:.80} and {tensor.name!r:.80} overlap")
        end, before = tensor.offset + tensor.nbytes, tensor.name
    return found.items()
