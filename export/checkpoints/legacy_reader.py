"""Lists the tensors of a ``pytorch_model.bin`` without running anything it says. Runs alone, in a child process.

The formats are those of ``torch.save`` (torch/serialization.py): a ZIP archive with ``data.pkl`` and one stored entry
per storage, or the older stream of five pickles followed by raw storages. Only the place of each tensor in the file
is printed, as one JSON document; the parent maps the bytes itself (precast.export.checkpoints.legacy). This file
imports the standard library only, so that it can run under ``python -I -S``, where no installed package can be
imported at all.
"""

from __future__ import annotations

import io
import itertools
import json
import pickle
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

__all__ = ["Refused", "layout", "main"]

MAX_PICKLE = 64 << 20
MAX_ENTRIES = 200_000
MAX_DIMS = 64
MAX_NAME = 4096

# Bytes per element of the storage classes torch has pickled by name, and the dtype each stands for.
STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "UntypedStorage": "untyped",
}
ITEM_SIZES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "uint16": 2,
    "uint32": 4,
    "uint64": 8,
    "bool": 1,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "untyped": 1,
}
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001


class Refused(Exception):
    """The file is not read. ``kind`` is ``"unsafe"`` or ``"malformed"``."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def malformed(message: str) -> Refused:
    return Refused("malformed", message)


class Inert:
    """What a global of the pickle becomes: it has a name, may be called as written here, and cannot be changed."""

    __slots__ = ("build", "name")

    def __init__(self, name: str, build: Callable[..., Any] | None = None) -> None:
        self.name = name
        self.build = build

    def __call__(self, *args: Any) -> Any:
        if self.build is None:
            raise malformed(f"the pickle calls {self.name}, which is a plain value")
        return self.build(*args)

    def __setstate__(self, state: Any) -> None:
        raise malformed(f"the pickle tries to change {self.name}")


class Dictionary(dict[Any, Any]):
    """Stands for collections.OrderedDict; attributes (``_metadata``) are dropped."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        return None


class Storage:
    """A run of elements in the file: ``offset`` and ``nbytes`` locate it."""

    __slots__ = ("dtype", "key", "nbytes", "offset")

    def __init__(self, dtype: str, key: str, nbytes: int, offset: int | None = None) -> None:
        self.dtype = dtype
        self.key = key
        self.nbytes = nbytes
        self.offset = offset

    def __setstate__(self, state: Any) -> None:
        raise malformed("the pickle tries to change a storage")


class Tensor:
    """A strided view of a storage, checked to lie inside it."""

    __slots__ = ("dtype", "shape", "start", "storage", "stride")

    def __init__(self, storage: Storage, start: int, shape: tuple[int, ...], stride: tuple[int, ...], dtype: str):
        self.storage = storage
        self.start = start
        self.shape = shape
        self.stride = stride
        self.dtype = dtype

    def __setstate__(self, state: Any) -> None:
        # A parameter with Python attributes carries them as state; they hold nothing of the tensor.
        return None


def _count(value: Any, what: str) -> int:
    if type(value) is not int or value < 0 or value >= 1 << 62:
        raise malformed(f"{what} must be a non-negative integer, found {value!r:.40}")
    return value


def _counts(value: Any, what: str) -> tuple[int, ...]:
    if not isinstance(value, (tuple, list)) or len(value) > MAX_DIMS:
        raise malformed(f"{what} must be a tuple of at most {MAX_DIMS} integers")
    return tuple(_count(item, what) for item in value)


def _tensor(storage: Any, start: Any, shape: Any, stride: Any, dtype: str | None = None) -> Tensor:
    if not isinstance(storage, Storage):
        raise malformed("a tensor is built from something that is not a storage")
    dtype = dtype or storage.dtype
    if dtype not in ITEM_SIZES or dtype == "untyped":
        raise malformed(f"a tensor's element type {dtype} is not one this reader knows")
    start, shape, stride = _count(start, "an offset"), _counts(shape, "a shape"), _counts(stride, "a stride")
    if len(shape) != len(stride):
        raise malformed(f"a tensor has {len(shape)} dimensions and {len(stride)} strides")
    elements = storage.nbytes // ITEM_SIZES[dtype]
    numel = 1
    for size in shape:
        numel *= size
    if numel:
        last = start + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
        if last >= elements or numel > elements:
            raise malformed(
                f"a tensor of shape {list(shape)} reaches past the end of its storage ({elements} elements)"
            )
    elif start > elements:
        raise malformed("an empty tensor starts past the end of its storage")
    return Tensor(storage, start, shape, stride, dtype)


def _rebuild_v2(
    storage: Any,
    start: Any,
    shape: Any,
    stride: Any,
    requires_grad: Any = False,
    hooks: Any = None,
    metadata: Any = None,
) -> Tensor:
    return _tensor(storage, start, shape, stride)


def _rebuild_v3(
    storage: Any,
    start: Any,
    shape: Any,
    stride: Any,
    requires_grad: Any,
    hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> Tensor:
    if not isinstance(dtype, Inert) or not dtype.name.startswith("torch."):
        raise malformed("a tensor's element type is not a torch dtype")
    return _tensor(storage, start, shape, stride, dtype.name.removeprefix("torch."))


def _parameter(data: Any, requires_grad: Any = True, hooks: Any = None, state: Any = None) -> Tensor:
    if not isinstance(data, Tensor):
        raise malformed("a parameter is built from something that is not a tensor")
    return data


def _dictionary(items: Any = ()) -> Dictionary:
    return Dictionary(items)


def _size(items: Any = ()) -> tuple[Any, ...]:
    return tuple(items)


GLOBALS: dict[tuple[str, str], Inert] = {
    ("collections", "OrderedDict"): Inert("collections.OrderedDict", _dictionary),
    ("torch", "Size"): Inert("torch.Size", _size),
    ("torch._utils", "_rebuild_tensor"): Inert("torch._utils._rebuild_tensor", _tensor),
    ("torch._utils", "_rebuild_tensor_v2"): Inert("torch._utils._rebuild_tensor_v2", _rebuild_v2),
    ("torch._utils", "_rebuild_tensor_v3"): Inert("torch._utils._rebuild_tensor_v3", _rebuild_v3),
    ("torch._utils", "_rebuild_parameter"): Inert("torch._utils._rebuild_parameter", _parameter),
    ("torch._utils", "_rebuild_parameter_with_state"): Inert("torch._utils._rebuild_parameter_with_state", _parameter),
    ("torch.storage", "UntypedStorage"): Inert("torch.UntypedStorage"),
    **{("torch", name): Inert(f"torch.{name}") for name in (*STORAGES, *ITEM_SIZES) if name != "untyped"},
}


class Reader(pickle.Unpickler):
    """Finds the globals above and no others; a storage is a promise to be kept by ``locate``."""

    def __init__(self, file: BinaryIO, locate: Callable[[Storage, Any], Storage] | None) -> None:
        # latin1 reads the byte strings of pickles written by Python 2.
        super().__init__(file, encoding="latin1")
        self._locate = locate

    def find_class(self, module: str, name: str) -> Any:
        found = GLOBALS.get((module, name))
        if found is None:
            raise Refused("unsafe", f"it asks for {module}.{name}, which no weights file needs")
        return found

    def persistent_load(self, pid: Any) -> Any:
        if self._locate is None:
            raise malformed("a storage appears where none belongs")
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise malformed("a persistent id is not a storage")
        kind, key, numel = pid[1], pid[2], _count(pid[4], "the size of a storage")
        dtype = STORAGES.get(kind.name.removeprefix("torch.")) if isinstance(kind, Inert) else None
        if dtype is None:
            raise malformed("a storage's type is not one of torch's")
        if not isinstance(key, str) or len(key) > MAX_NAME:
            raise malformed("a storage's key is not a short text")
        return self._locate(Storage(dtype, key, numel * ITEM_SIZES[dtype]), pid[5] if len(pid) == 6 else None)


def _unpickle(file: BinaryIO, locate: Callable[[Storage, Any], Storage] | None = None) -> Any:
    try:
        return Reader(file, locate).load()
    except Refused:
        raise
    except (MemoryError, RecursionError):
        raise malformed("its pickle asks for more memory than any weights file needs") from None
    except Exception as error:  # a broken pickle raises nearly every type there is
        raise malformed(f"its pickle cannot be read ({type(error).__name__}: {error!s:.120})") from None


def _crc(file: BinaryIO, offset: int, size: int) -> int:
    file.seek(offset)
    value = 0
    while size:
        chunk = file.read(min(size, 1 << 20))
        if not chunk:
            raise malformed("it ends inside a storage: the file is truncated")
        value = zlib.crc32(chunk, value)
        size -= len(chunk)
    return value


def _entries(file: BinaryIO, length: int) -> dict[str, tuple[int, int]]:
    """Name -> (offset, size) of every entry, each stored as it is, inside the file, and disjoint from the others."""
    try:
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
    except Exception as error:  # zipfile lets struct.error, UnicodeError and others through
        raise malformed(
            f"its ZIP directory cannot be read ({error!s:.120}): the file is truncated or damaged"
        ) from None
    if len(infos) > MAX_ENTRIES:
        raise malformed(f"it has {len(infos)} entries; at most {MAX_ENTRIES} are read")
    found: dict[str, tuple[int, int]] = {}
    spans: list[tuple[int, int]] = []
    for info in infos:
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 0x1:
            raise malformed(f"entry {info.filename!r:.80} is compressed or encrypted; torch.save stores plain bytes")
        if info.filename in found:
            raise malformed(f"entry {info.filename!r:.80} appears twice")
        if not 0 <= info.header_offset <= length - 30:
            raise malformed(f"entry {info.filename!r:.80} lies outside the file")
        file.seek(info.header_offset)
        header = file.read(30)
        if header[:4] != b"PK\x03\x04":
            raise malformed(f"entry {info.filename!r:.80} has no local header")
        names, extras = struct.unpack("<HH", header[26:30])
        start = info.header_offset + 30 + names + extras
        if start + info.file_size > length:
            raise malformed(f"entry {info.filename!r:.80} reaches past the end: the file is truncated")
        if _crc(file, start, info.file_size) != info.CRC:
            raise malformed(f"entry {info.filename!r:.80} differs from its checksum: the file is damaged")
        found[info.filename] = (start, info.file_size)
        spans.append((info.header_offset, start + info.file_size))
    spans.sort()
    if any(later[0] < earlier[1] for earlier, later in itertools.pairwise(spans)):
        raise malformed("entries overlap")
    return found


def _read_zip(file: BinaryIO, length: int) -> Any:
    entries = _entries(file, length)
    roots = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(roots) != 1:
        raise malformed("it is a ZIP archive without exactly one data.pkl: not a file of torch.save")
    root = roots[0].removesuffix("data.pkl")
    if f"{root}constants.pkl" in entries or any(name.startswith(f"{root}code/") for name in entries):
        raise Refused("unsafe", "it is a TorchScript program, not a weights file")
    if order := entries.get(f"{root}byteorder"):
        file.seek(order[0])
        if file.read(min(order[1], 16)) != b"little":
            raise malformed("its numbers are big-endian; save it again on a little-endian machine")
    offset, size = entries[roots[0]]
    if size > MAX_PICKLE:
        raise malformed(f"its data.pkl takes {size} bytes; at most {MAX_PICKLE} are read")
    file.seek(offset)
    data = file.read(size)

    def locate(storage: Storage, view: Any) -> Storage:
        place = entries.get(f"{root}data/{storage.key}")
        if place is None:
            raise malformed(f"storage {storage.key!r:.40} is missing from the archive")
        if storage.nbytes > place[1]:
            raise malformed(f"storage {storage.key!r:.40} should hold {storage.nbytes} bytes and holds {place[1]}")
        storage.offset = place[0]
        return storage

    return _unpickle(io.BytesIO(data), locate)


def _read_stream(file: BinaryIO, length: int) -> Any:
    file.seek(0)
    if _unpickle(file) != LEGACY_MAGIC:
        raise malformed("it is neither a ZIP archive nor a stream of torch.save")
    if (protocol := _unpickle(file)) != LEGACY_PROTOCOL:
        raise malformed(f"its protocol is {protocol!r:.40}; only {LEGACY_PROTOCOL} is read")
    system = _unpickle(file)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise malformed("its numbers are big-endian; save it again on a little-endian machine")
    storages: dict[str, Storage] = {}
    views: list[tuple[Storage, str, int]] = []

    def locate(storage: Storage, view: Any) -> Storage:
        known = storages.setdefault(storage.key, storage)
        if (known.dtype, known.nbytes) != (storage.dtype, storage.nbytes):
            raise malformed(f"storage {storage.key!r:.40} is described in two ways")
        if view is None:
            return known
        if not isinstance(view, tuple) or len(view) != 3:
            raise malformed("a view of a storage is not described by three values")
        item = ITEM_SIZES[storage.dtype]
        start, size = _count(view[1], "a view's offset") * item, _count(view[2], "a view's size") * item
        if start + size > storage.nbytes:
            raise malformed("a view reaches past the end of its storage")
        part = Storage(storage.dtype, storage.key, size)
        views.append((part, storage.key, start))
        return part

    state = _unpickle(file, locate)
    keys = _unpickle(file)
    if not isinstance(keys, list) or len(keys) > MAX_ENTRIES or len({str(key) for key in keys}) != len(keys):
        raise malformed("its list of storages is malformed")
    for key in keys:
        storage = storages.get(key) if isinstance(key, str) else None
        if storage is None:
            raise malformed(f"storage {key!r:.40} is listed and no tensor uses it")
        prefix = file.read(8)
        item = ITEM_SIZES[storage.dtype]
        if len(prefix) != 8 or struct.unpack("<q", prefix)[0] * item != storage.nbytes:
            raise malformed(
                f"storage {key!r:.40} has another size than its tensors say: the file is truncated or damaged"
            )
        storage.offset = file.tell()
        if storage.offset + storage.nbytes > length:
            raise malformed("it ends inside a storage: the file is truncated")
        file.seek(storage.nbytes, io.SEEK_CUR)
    for part, key, start in views:
        offset = storages[key].offset
        part.offset = None if offset is None else offset + start
    return state


def layout(path: str) -> list[list[Any]]:
    """``[name, dtype, shape, stride, byte offset of element 0, bytes the storage leaves from there]`` per tensor.

    Raises ``Refused``.
    """
    with open(path, "rb") as file:
        length = file.seek(0, io.SEEK_END)
        file.seek(0)
        head = file.read(4)
        state = _read_zip(file, length) if head == b"PK\x03\x04" else _read_stream(file, length)
    if not isinstance(state, dict):
        raise malformed(f"it holds a {type(state).__name__} where a table of weights belongs")
    if len(state) > MAX_ENTRIES:
        raise malformed(f"it holds {len(state)} weights; at most {MAX_ENTRIES} are read")
    rows: list[list[Any]] = []
    for name, tensor in dict.items(state):
        if not isinstance(name, str) or len(name) > MAX_NAME or not name.isprintable():
            raise malformed(f"the name of a weight must be a short printable text, found {name!r:.40}")
        if not isinstance(tensor, Tensor):
            kind = "table" if isinstance(tensor, dict) else type(tensor).__name__
            raise malformed(f"weight {name!r} is a {kind}, not a tensor: is this a training checkpoint?")
        storage, item = tensor.storage, ITEM_SIZES[tensor.dtype]
        if storage.offset is None:
            raise malformed(f"the bytes of weight {name!r} are missing")
        begin = storage.offset + tensor.start * item
        left = storage.nbytes - tensor.start * item
        rows.append([name, tensor.dtype, list(tensor.shape), list(tensor.stride), begin, left])
    return rows


def _limit(seconds: int) -> None:
    """A pickle of a few bytes can ask for gigabytes or hours; the kernel says no."""
    try:
        import resource
    except ImportError:  # not POSIX: the parent's time limit remains
        return
    wanted = ((resource.RLIMIT_AS, 2 << 30), (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_CORE, 0))
    for what, value in (*wanted, (resource.RLIMIT_FSIZE, 0)):
        hard = resource.getrlimit(what)[1]
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(what, (bound, bound))


def main(arguments: list[str]) -> int:
    """``legacy_reader.py FILE SECONDS``: prints ``{"tensors": [...]}`` or ``{"kind": ..., "message": ...}``."""
    path, seconds = arguments
    _limit(int(seconds))
    try:
        answer: dict[str, Any] = {"tensors": layout(path)}
    except Refused as refusal:
        answer = {"kind": refusal.kind, "message": str(refusal)}
    except (MemoryError, RecursionError):
        answer = {"kind": "malformed", "message": "it asks for more memory than any weights file needs"}
    except OSError as error:
        answer = {"kind": "malformed", "message": f"it cannot be read ({error.strerror})"}
    sys.stdout.write(json.dumps(answer))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
