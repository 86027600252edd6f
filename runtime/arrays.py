"""NumPy's own files, read without trust: ``.npy`` and stored ``.npz`` as precast writes them, and no other form.

A header is compared with the bytes that are there before anything is allocated; nothing is unpickled or inflated.
Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
from typing import Literal

import numpy as np

from precast.runtime.backends.base import Array
from precast.runtime.errors import ArtifactError
from precast.runtime.fields import MOST, shown

__all__ = ["read_npy", "read_npz"]

_AGAIN = "Export or download it again."
_MAGIC = b"\x93NUMPY\x01\x00"
_HEADER = re.compile(
    r"\{'descr': '([^']{2,4})', 'fortran_order': (False|True), 'shape': \(([0-9]{1,18}(?:, [0-9]{1,18})*|),?\), \} *\n"
)
_RANK = 16
_NUMBERS = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64".split()
_DTYPES = {np.dtype(name).str: np.dtype(name) for name in _NUMBERS}
# What zipfile raises for bytes that are no archive, or a mangled one.
_MANGLED = (zipfile.BadZipFile, ValueError, OSError, EOFError, RuntimeError, OverflowError, struct.error)


def read_npy(data: bytes, where: str) -> Array:
    """The array of an ``.npy`` file, a copy of its own; ``where`` names it in messages.

    Raises:
        ArtifactError: it is no plain array of numbers, or its header promises another size than it has.
    """
    length = int.from_bytes(data[8:10], "little")
    header = _HEADER.fullmatch(data[10 : 10 + length].decode("latin-1")) if data.startswith(_MAGIC) else None
    if header is None:
        raise ArtifactError(f"{where} must be an .npy file as NumPy writes it, got {shown(data[:60])}. {_AGAIN}")
    dtype = _DTYPES.get(header[1])
    if dtype is None:
        raise ArtifactError(f"{where} must hold plain little-endian numbers, got the dtype {header[1]!r}. {_AGAIN}")
    shape = tuple(int(size) for size in header[3].split(", ") if size)
    held = len(data) - 10 - length
    spread = math.prod(size or 1 for size in shape)  # what an axis of nothing would hide
    if len(shape) > _RANK or spread > MOST or math.prod(shape) * dtype.itemsize != held:
        raise ArtifactError(f"{where} must hold as many numbers as its header says, got {dtype} {list(shape)[:_RANK]} "
                            f"in {held} bytes. {_AGAIN}")  # fmt: skip
    order: Literal["C", "F"] = "F" if header[2] == "True" else "C"
    if dtype == np.bool_ and data[10 + length :].strip(b"\x00\x01"):
        raise ArtifactError(f"{where} must hold 0 and 1 for false and true, got other bytes. {_AGAIN}")
    values: Array = np.frombuffer(data, dtype, offset=10 + length).reshape(shape, order=order)
    return np.array(values, order="C")


def read_npz(data: bytes, where: str) -> dict[str, Array]:
    """The arrays of an ``.npz`` file by name, all of which fit into the bytes of the file: nothing is compressed.

    Raises:
        ArtifactError: it is no such archive, a name occurs twice, or a member is none of `read_npy`'s arrays.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            for member in members:
                if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
                    raise ArtifactError(
                        f"{where}: {shown(member.filename)} must be stored as it is, not compressed. {_AGAIN}"
                    )
            total = sum(member.file_size for member in members)
            if total > len(data):
                raise ArtifactError(f"{where} promises {total} bytes of arrays in a file of {len(data)}. {_AGAIN}")
            read = [(member.filename, archive.read(member)) for member in members]
    except _MANGLED as error:
        raise ArtifactError(f"{where} must be an .npz file as NumPy writes it: {error!s:.200}. {_AGAIN}") from error
    arrays: dict[str, Array] = {}
    for name, content in read:
        key = name.removesuffix(".npy")
        if key == name or key in arrays:
            raise ArtifactError(f"{where} must hold .npy files of different names, got {shown(name)}. {_AGAIN}")
        arrays[key] = read_npy(content, f"{where}: {shown(key)}")
    return arrays
