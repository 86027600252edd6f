"""Legacy ``pytorch_model.bin`` files, which are pickles: read by a child process that can import nothing.

The child (legacy_reader.py) only says where each tensor lies. Its answer is not trusted either: types and bounds are
checked again here before anything is mapped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from precast.export.checkpoints import legacy_reader
from precast.runtime.errors import CheckpointError, UnsafeFileError

__all__ = ["LegacyTensor", "read_layout"]

_LEAST_SECONDS = 60
_BYTES_PER_SECOND = 20_000_000  # checksums are verified; a slow disk is allowed for
_DTYPES = frozenset(legacy_reader.ITEM_SIZES) - {"untyped"}
_ADVICE = "Convert it to safetensors where it comes from, or use a revision that has model.safetensors."


@dataclass(frozen=True)
class LegacyTensor:
    """Where a tensor lies: element 0 at byte ``offset``, all of it within the ``nbytes`` that follow."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...] | None
    offset: int
    nbytes: int


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 62 for item in value)


def _row(row: Any) -> LegacyTensor:
    """One tensor of the child's answer; ``ValueError`` where it is not what the child may say."""
    if not isinstance(row, list) or len(row) != 6:
        raise ValueError("a row has six fields")
    name, dtype, shape, stride, offset, nbytes = row
    if not isinstance(name, str) or dtype not in _DTYPES or not _counts(shape) or not _counts(stride):
        raise ValueError("a field has the wrong type")
    if len(shape) != len(stride) or not _counts([offset, nbytes]):
        raise ValueError("shape, stride and offset do not match")
    numel, span, step = 1, 0, 1
    contiguous = True
    for size, gap in zip(reversed(shape), reversed(stride), strict=True):
        contiguous &= size == 1 or gap == step
        span += (size - 1) * gap
        step *= size
        numel *= size
    item = legacy_reader.ITEM_SIZES[dtype]
    if numel and (max(span + 1, numel) * item > nbytes):
        raise ValueError("a tensor is larger than its storage")
    return LegacyTensor(name, dtype, tuple(shape), None if contiguous else tuple(stride), offset, nbytes)


def read_layout(path: Path) -> list[LegacyTensor]:
    """The tensors of the file at ``path``.

    Raises ``UnsafeFileError`` where the pickle asks for more than tensors, ``CheckpointError`` where it is damaged.
    """
    seconds = _LEAST_SECONDS + path.stat().st_size // _BYTES_PER_SECOND
    # -I -S: no environment, no site-packages, no current folder: an import could find the standard library alone.
    command = [sys.executable, "-I", "-S", os.path.abspath(legacy_reader.__file__), str(path), str(seconds)]
    # Only what finding Python's own libraries may need; tokens and paths of the user stay here.
    environment = {key: os.environ[key] for key in ("LD_LIBRARY_PATH", "SYSTEMROOT") if key in os.environ}
    try:
        child = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        raise CheckpointError(
            f"{path.name} was not read within {seconds} s, so its pickle is not sane. {_ADVICE}"
        ) from None
    except OSError as error:
        raise CheckpointError(
            f"{path.name} needs a child process to be read safely, and none starts: {error}."
        ) from None
    try:
        answer = json.loads(child.stdout)
        rows = answer.get("tensors")
        if isinstance(rows, list):
            return [_row(row) for row in rows]
        kind, message = answer["kind"], str(answer["message"])
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise CheckpointError(
            f"{path.name} ended the process that reads it (status {child.returncode}): it is damaged "
            f"or hostile. {_ADVICE}"
        ) from None
    if kind == "unsafe":
        raise UnsafeFileError(f"{path.name} is refused: {message}. {_ADVICE}")
    raise CheckpointError(
        f"{path.name} cannot be read: {message}. Download it again, or {_ADVICE[0].lower()}{_ADVICE[1:]}"
    )
