"""Weight files as named, lazily mapped tensors: safetensors (single and sharded) and legacy ``.bin`` files.

The safetensors layout is that of https://github.com/huggingface/safetensors: eight bytes of header length, a JSON
header, the tensors without gaps. Nothing is read before a tensor is asked for, and a tensor aliases the mapping.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from precast.export.checkpoints import legacy
from precast.export.checkpoints.mapped_file import MappedFile
from precast.runtime.errors import CheckpointError, UnsafeFileError, listing
from precast.runtime.strict_json import parse_object

__all__ = ["TensorSource", "check_shard_name", "open_weights", "weight_file_names"]

_MAX_HEADER = 100_000_000  # the bound of the safetensors library
_MAX_DIMS = 64

_SAFETENSORS_DTYPES: Final[Mapping[str, torch.dtype]] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


@dataclass(frozen=True)
class TensorSource:
    """One tensor of a checkpoint, not yet read.

    ``load`` returns a contiguous tensor that aliases the file's mapping wherever the file allows it: treat it as
    read-only, and copy before changing it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    file: MappedFile
    offset: int
    stride: tuple[int, ...] | None = None

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, without gaps."""
        return self.numel * self.dtype.itemsize

    @property
    def file_name(self) -> str:
        """The file it lies in."""
        return self.file.name

    def load(self) -> torch.Tensor:
        """The tensor, ``shape`` and ``dtype`` as declared. Read-only by contract."""
        if self.numel == 0:
            return torch.empty(self.shape, dtype=self.dtype)
        span = self.numel
        if self.stride is not None:
            span = 1 + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))
        stored = torch.uint8 if self.dtype is torch.bool else self.dtype
        if self.offset % stored.itemsize:
            # An unaligned view would be slow at best: take a copy of this tensor's bytes.
            data = bytearray(self.file.map[self.offset : self.offset + span * stored.itemsize])
            flat = torch.frombuffer(data, dtype=stored, count=span)
        else:
            flat = torch.frombuffer(self.file.map, dtype=stored, count=span, offset=self.offset)
        if self.dtype is torch.bool:
            flat = flat != 0  # any other byte than 0 and 1 in a bool tensor is undefined behaviour
        if self.stride is None:
            return flat.reshape(self.shape)
        return flat.as_strided(self.shape, self.stride).contiguous()


def _damaged(file: str, cause: str) -> CheckpointError:
    return CheckpointError(f"{file} is not a whole safetensors file: {cause}. Download it again.")


def _header(file: MappedFile) -> tuple[dict[str, Any], int]:
    """The header's entries and the offset of the first tensor byte."""
    if file.size < 8:
        raise _damaged(file.name, f"it has {file.size} bytes and needs at least 8")
    length = int.from_bytes(file.map[:8], "little")
    if length > _MAX_HEADER:
        raise _damaged(file.name, f"it announces a header of {length} bytes, more than the {_MAX_HEADER} allowed")
    if 8 + length > file.size:
        raise _damaged(
            file.name, f"it announces a header of {length} bytes and has {file.size - 8} left: it is truncated"
        )
    try:
        header = parse_object(file.map[8 : 8 + length])
    except ValueError as error:
        raise _damaged(file.name, f"its header is not valid JSON ({error!s:.160})") from None
    header.pop("__metadata__", None)
    return header, 8 + length


def _whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _entry(file: MappedFile, name: str, entry: Any, base: int) -> tuple[TensorSource, int, int]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _damaged(file.name, f"the entry of {name!r:.80} must hold dtype, shape and data_offsets")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list) or len(shape) > _MAX_DIMS or not all(map(_whole, shape)):
        raise _damaged(file.name, f"the shape of {name!r:.80} is not a list of at most {_MAX_DIMS} sizes")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_whole, offsets)):
        raise _damaged(file.name, f"the data_offsets of {name!r:.80} are not two offsets")
    dtype = _SAFETENSORS_DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise CheckpointError(
            f"{file.name}: tensor {name!r:.80} has the element type {entry['dtype']!r:.40}, which is not read here. "
            f"Readable: {listing(_SAFETENSORS_DTYPES)}. Convert the checkpoint to one of these."
        )
    begin, end = offsets
    source = TensorSource(name, tuple(shape), dtype, file, base + begin)
    if end - begin != source.nbytes:
        raise _damaged(file.name, f"{name!r:.80} needs {source.nbytes} bytes for its shape and has {end - begin}")
    return source, begin, end


def _read_safetensors(path: Path) -> dict[str, TensorSource]:
    file = MappedFile(path)
    header, base = _header(file)
    entries = [_entry(file, name, entry, base) for name, entry in header.items()]
    position = 0
    for source, begin, end in sorted(entries, key=lambda item: item[1:]):
        if begin != position:
            how = "overlaps the tensor before it" if begin < position else "leaves a gap before it"
            raise _damaged(file.name, f"{source.name!r:.80} {how} (byte {begin}, expected {position})")
        position = end
    if base + position != file.size:
        how = "is truncated" if base + position > file.size else "has bytes no tensor owns"
        raise _damaged(
            file.name, f"its header describes {base + position} bytes and the file has {file.size}: it {how}"
        )
    return {source.name: source for source, _, _ in entries}


def _read_bin(path: Path) -> dict[str, TensorSource]:
    file = MappedFile(path)
    found: dict[str, TensorSource] = {}
    for row in legacy.read_layout(path):
        dtype = getattr(torch, row.dtype)
        if row.offset + row.nbytes > file.size:
            raise CheckpointError(f"{path.name}: weight {row.name!r} lies outside the file. Download it again.")
        found[row.name] = TensorSource(row.name, row.shape, dtype, file, row.offset, row.stride)
    return found


_READERS: Final[Mapping[str, Callable[[Path], dict[str, TensorSource]]]] = {
    ".safetensors": _read_safetensors,
    ".bin": _read_bin,
}
# In upstream's order of preference.
_CANDIDATES: Final = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def weight_file_names(names: set[str]) -> str | None:
    """Of a folder's file names, the one its weights start from: a weight file, or the index of several."""
    return next((name for name in _CANDIDATES if name in names), None)


def check_shard_name(index: str, key: str, name: Any, suffix: str) -> str:
    """A shard's name as the index gives it, or ``UnsafeFileError`` where it is not a bare name of the right kind."""
    plain = (
        isinstance(name, str)
        and name == os.path.basename(name)
        and not set(name) & set("/\\:\0")
        and name.isprintable()
    )
    if not plain or name in ("", ".", "..") or not name.endswith(suffix):
        raise UnsafeFileError(
            f"{index} places {key!r:.80} in {name!r:.120}. A shard is the bare name of a *{suffix} file beside the "
            "index, without folders. Download the checkpoint from a source you trust."
        )
    return str(name)


def _shards(name: str, data: bytes) -> dict[str, list[str]]:
    """Shard -> the tensors the index places in it, in the index's order."""
    try:
        weight_map = parse_object(data).get("weight_map")
    except ValueError as error:
        raise CheckpointError(f"{name} is not valid JSON: {error!s:.160}. Download it again.") from None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{name} must hold a weight_map from tensors to files. Download it again.")
    suffix = ".safetensors" if name.endswith(".safetensors.index.json") else ".bin"
    shards: dict[str, list[str]] = {}
    for key, shard in weight_map.items():
        shards.setdefault(check_shard_name(name, key, shard, suffix), []).append(key)
    return shards


def open_weights(name: str, locate: Callable[[str], Path], read: Callable[[str], bytes]) -> dict[str, TensorSource]:
    """Every tensor behind ``name``, one of the names ``weight_file_names`` gives.

    ``locate`` turns a bare file name into a checked path and raises where there is none; ``read`` gives its bytes.
    Raises ``CheckpointError`` and ``UnsafeFileError``.
    """
    if not name.endswith(".index.json"):
        return _READERS[Path(name).suffix](locate(name))
    tensors: dict[str, TensorSource] = {}
    for shard, expected in _shards(name, read(name)).items():
        found = _READERS[Path(shard).suffix](locate(shard))
        if missing := [key for key in expected if key not in found]:
            raise CheckpointError(
                f"{shard} lacks tensors that {name} places in it: {listing(missing, 5)}. Index and shards are of "
                "different checkpoints, or a shard is damaged: download them again."
            )
        if twice := [key for key in found if key in tensors]:
            raise CheckpointError(
                f"Tensors are in two shards, {tensors[twice[0]].file_name} and {shard}: {listing(twice, 5)}. "
                "Each belongs in one: download the checkpoint again."
            )
        tensors.update(found)
    return tensors
