"""Write a graph: weights as content-addressed files, the graph itself small and without them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import onnx_ir as ir

from precast.graphs.tensors import Derived, sizes

__all__ = ["INLINE_LIMIT", "Emitted", "Folder", "Sink", "Written", "emit"]

# Smaller constants stay in the graph: a file each would cost more to open than it holds.
INLINE_LIMIT = 16 * 1024
_CHUNK = 1 << 24


class Sink(Protocol):
    """Where files go (``precast.runtime.artifact.ArtifactWriter``)."""

    def write_bytes(self, name: str, data: bytes) -> object: ...

    def add_weight(self, chunks: Iterable[bytes | memoryview]) -> tuple[str, int]: ...


class Folder:
    """A sink that writes into a plain folder, for graphs that are run and belong to no artifact."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._weights = 0
        path.mkdir(parents=True, exist_ok=True)

    def write_bytes(self, name: str, data: bytes) -> None:
        (self.path / name).write_bytes(data)

    def add_weight(self, chunks: Iterable[bytes | memoryview]) -> tuple[str, int]:
        name, size = f"{self._weights}.bin", 0
        self._weights += 1
        with (self.path / name).open("wb") as file:
            for chunk in chunks:
                size += file.write(chunk)
        return name, size


class Written:
    """Weights that a sink holds already, by the tensor they were written from: graphs made of one trace share tensors,
    and what they share is made, hashed and written once.

    Args:
        release: called after each weight; gives back what reading it has made resident.
    """

    def __init__(self, release: Callable[[], None] = lambda: None) -> None:
        self.release = release
        self._paths: WeakKeyDictionary[ir.TensorProtocol, str] = WeakKeyDictionary()

    def path(self, tensor: ir.TensorProtocol, sink: Sink) -> str:
        """The file of ``sink`` that holds ``tensor``; written if it is not yet there."""
        path = self._paths.get(tensor)
        if path is None:
            path, _ = sink.add_weight(_chunks(np.ascontiguousarray(tensor.numpy())))
            self._paths[tensor] = path
            self.release()
        return path


@dataclass(frozen=True)
class Emitted:
    """What was written: the graph's name, the weight files it reads, and how initializers are made of some of them."""

    graph: str
    weights: tuple[str, ...]
    derived: dict[str, dict[str, Any]]


def _chunks(array: np.ndarray[Any, Any]) -> Iterable[memoryview]:
    flat = array.reshape(-1).view(np.uint8).data
    for start in range(0, len(flat), _CHUNK):
        yield flat[start : start + _CHUNK]


def emit(model: ir.Model, sink: Sink, name: str, written: Written | None = None, *, derive: bool = False) -> Emitted:
    """Write ``model`` to ``sink`` as ``name``, one weight in memory at a time.

    Afterwards the model's initializers refer to the written files: the arrays they held are released.

    Args:
        written: what earlier graphs have put into the same sink.
        derive: of an array that is made of another weight only this is written; who loads the graph makes it.
    """
    written = written or Written()
    files: list[str] = []
    derived: dict[str, dict[str, Any]] = {}
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None:
            raise ValueError(f"initializer {value.name!r} has no value")
        if derive and isinstance(tensor, Derived) and tensor.source.nbytes >= INLINE_LIMIT:
            path = written.path(tensor.source, sink)
            derived[str(value.name)] = {**tensor.rule, "weight": path}
        elif tensor.nbytes < INLINE_LIMIT:
            value.const_value = ir.tensor(tensor.numpy(), dtype=tensor.dtype, name=value.name)
            continue
        else:
            path = written.path(tensor, sink)
        if path not in files:
            files.append(path)
        value.const_value = ir.ExternalTensor(
            path, 0, tensor.nbytes, tensor.dtype, shape=ir.Shape(sizes(tensor.shape)), name=value.name or ""
        )
    sink.write_bytes(name, ir.to_proto(model).SerializeToString(deterministic=True))
    return Emitted(name, tuple(sorted(files)), dict(sorted(derived.items())))
