"""Initializers that a session is given: what ONNX Runtime's own operators read of weights in the kernels' layouts.

An artifact holds every weight once, as ``precast.cpu`` reads it. For a graph without these operators the same numbers
are laid out anew when a session is made, in a moment and without a copy more than the session needs. A rule says how:
``layout`` is "blocks" (runtime/kernels/block_calls.h) or "halves" (half_calls.h), ``what`` names the array:

- codes: uint8 [N, blocks, bytes], two of 4 bits share a byte, the first in its low half; rows: the same, [N, bytes];
- scales: float32 [N, blocks];
- zeros: uint8 [N, bytes], integers packed as codes are; of zero points that are floats, these rounded;
- left: float32 [N, blocks], what rounding leaves of those, times the scales; columns: the same, [blocks, N];
- matrix: float32 [K, N], the weight transposed; table: float32 [N, K].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from precast.runtime.backends.base import Array
from precast.runtime.errors import BackendError
from precast.runtime.fields import Fields
from precast.runtime.layouts import COLUMNS, Rule

__all__ = ["made", "made_of"]

_SHIFT, _OFFSET = 13, (127 - 48) << 10  # of scales in 16 bits: see block_calls.h


def made_of(rule: Rule, weight: Array) -> Array:
    """The array that a rule makes of a weight, uint8 [bytes]."""
    if rule.layout == "halves":
        return _halves(rule, weight)
    return _FROM_BLOCKS[rule.what](_Blocks(rule, weight))


def made(folder: Path, rules: Mapping[str, Mapping[str, Any]], graph: str) -> Iterator[tuple[str, Array]]:
    """Each initializer's name and array; ``rules`` are a manifest's, and a ``weight`` each: a file of ``folder``, where
    the graph lies.

    Raises:
        BackendError: a file is missing, or has another size.
    """
    last: tuple[str, Rule] | None = None
    source: _Blocks | None = None
    for name, said in rules.items():
        path, rule = str(said["weight"]), Rule.read(Fields(said))
        try:
            weight = np.memmap(folder / path, np.uint8, "r")
        except (OSError, ValueError) as error:
            raise BackendError(f"{graph} reads {path}, which cannot be opened: {error}.") from None
        if weight.nbytes != rule.nbytes:
            raise BackendError(
                f"{graph} reads {path} as a weight of {rule.rows} x {rule.depth}, which takes {rule.nbytes} bytes, and "
                f"the file has {weight.nbytes}: the artifact was not made by precast."
            )
        if rule.layout == "halves":
            yield name, _halves(rule, weight)
            continue
        # Codes, scales and zero points of one weight follow one another: they are taken apart once.
        # Weights of another shape may have the same bytes, zeros say, and so the same file.
        if source is None or (path, rule._replace(what="")) != last:
            last, source = (path, rule._replace(what="")), _Blocks(rule, weight)
        yield name, _FROM_BLOCKS[rule.what](source)


def _halves(rule: Rule, weight: Array) -> Array:
    panels = weight.view(np.uint16).reshape(rule.panels, rule.depth, COLUMNS)
    if rule.dtype == "float16":
        wide = panels.view(np.float16).astype(np.float32)
    else:
        wide = (panels.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if rule.what == "matrix":
        return np.ascontiguousarray(wide.transpose(1, 0, 2).reshape(rule.depth, -1)[:, : rule.rows])
    return np.ascontiguousarray(wide.transpose(0, 2, 1).reshape(-1, rule.depth)[: rule.rows])


class _Blocks:
    """A weight in blocks, taken apart."""

    def __init__(self, rule: Rule, weight: Array) -> None:
        self.rule = rule
        self._parts = weight.reshape(rule.panels, rule.blocks, -1)

    @cached_property
    def codes(self) -> Array:
        """uint8 [N, blocks, block], one a byte."""
        rule, (size, _, _) = self.rule, self.rule.parts
        values = self._parts[..., :size].reshape(rule.panels, rule.blocks, -1, COLUMNS, 4)
        if rule.bits == 4:
            values = np.stack((values & 15, values >> 4), 3).reshape(rule.panels, rule.blocks, -1, COLUMNS, 4)
        found = values.transpose(0, 3, 1, 2, 4).reshape(-1, rule.blocks, rule.block)[: rule.rows]
        return found if rule.bits == 4 else found ^ np.uint8(128)

    @cached_property
    def scales(self) -> Array:
        size, width, _ = self.rule.parts
        words = self._words(self._parts[..., size : size + width]).astype(np.uint32)
        return self._by_row(((words + np.uint32(_OFFSET)) << _SHIFT).view(np.float32))

    @cached_property
    def zeros(self) -> Array:
        """Zero points as they are: uint8, or float32, [N, blocks]."""
        rule = self.rule
        held = self._parts[..., sum(rule.parts[:2]) :]
        if rule.zeros == "floats":
            offsets = self._words(held).view(np.float16).astype(np.float32)
            return self._by_row(offsets if rule.bits == 4 else offsets + np.float32(128))
        if rule.bits == 8:
            return self._by_row(held ^ np.uint8(128))
        return self._by_row(np.stack((held & 15, held >> 4), -1).reshape(rule.panels, rule.blocks, COLUMNS))

    @cached_property
    def whole_zeros(self) -> Array:
        """Rounded to integers, uint8."""
        found = self.zeros
        if found.dtype == np.float32:
            found = np.clip(np.rint(found), 0, 2**self.rule.bits - 1)
        return found.astype(np.uint8)

    def left(self) -> Array:
        return np.asarray((self.whole_zeros.astype(np.float32) - self.zeros) * self.scales)

    def packed(self, codes: Array) -> Array:
        if self.rule.bits == 8:
            return np.ascontiguousarray(codes)
        if codes.shape[-1] % 2:
            codes = np.concatenate((codes, np.zeros((*codes.shape[:-1], 1), np.uint8)), -1)
        return np.asarray(codes[..., 0::2] | codes[..., 1::2] << np.uint8(4))

    def matrix(self) -> Array:
        """float32 [K, N]; a few rows at a time, whose floats are not all there beside the codes."""
        rule = self.rule
        made = np.empty((rule.depth, rule.rows), np.float32)
        middle = np.float32(2 ** (rule.bits - 1))
        for start in range(0, rule.rows, 256):
            rows = slice(start, start + 256)
            offsets = middle if rule.zeros == "none" else self.zeros[rows, :, None].astype(np.float32)
            values = (self.codes[rows].astype(np.float32) - offsets) * self.scales[rows, :, None]
            made[:, rows] = values.reshape(len(values), -1)[:, : rule.depth].T
        return made

    def _words(self, held: Array) -> Array:
        return np.ascontiguousarray(held).view("<u2").reshape(self.rule.panels, self.rule.blocks, COLUMNS)

    def _by_row(self, held: Array) -> Array:
        """[panels, blocks, 16] -> [N, blocks]"""
        return np.ascontiguousarray(held.transpose(0, 2, 1).reshape(-1, self.rule.blocks)[: self.rule.rows])


_FROM_BLOCKS: Mapping[str, Callable[[_Blocks], Array]] = {
    "codes": lambda held: held.packed(held.codes),
    "rows": lambda held: held.packed(held.codes).reshape(held.rule.rows, -1),
    "scales": lambda held: held.scales,
    "zeros": lambda held: held.packed(held.whole_zeros),
    "left": lambda held: held.left(),
    "columns": lambda held: np.ascontiguousarray(held.left().T),
    "matrix": lambda held: held.matrix(),
}
