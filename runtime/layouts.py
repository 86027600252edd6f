"""Layouts of stored weights, and what is made of them for operators that do not read them: plain data, which manifests
hold. `precast.runtime.initializers` makes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from precast.runtime.fields import Fields

__all__ = ["COLUMNS", "LAYOUTS", "Rule"]

COLUMNS = 16  # of a weight that lie together, in a panel
# Layout (runtime/kernels/block_calls.h and half_calls.h have them in words) -> what may be made of it.
LAYOUTS: Mapping[str, tuple[str, ...]] = {
    "blocks": ("codes", "rows", "scales", "zeros", "left", "columns", "matrix"),
    "halves": ("matrix", "table"),
}
_BLOCKS = (16, 32, 64, 128, 256)
_ZEROS = {"none": 0, "integers": 0, "floats": 16}


class Rule(NamedTuple):
    """An array, and the weight [rows, depth] it is made of.

    Args:
        layout, what: see `LAYOUTS` and `precast.runtime.initializers`.
        dtype: of halves: bfloat16 or float16.
        bits, block, zeros: of blocks; zero points are "none", "integers" or "floats".
    """

    layout: str
    what: str
    rows: int
    depth: int
    dtype: str = ""
    bits: int = 8
    block: int = 32
    zeros: str = "none"

    @classmethod
    def read(cls, fields: Fields) -> Rule:
        """From a manifest. Raises ArtifactError, naming the field."""
        layout = fields.choice("layout", LAYOUTS)
        what = fields.choice("what", LAYOUTS[layout])
        sizes = (_size(fields, "rows"), _size(fields, "depth"))
        if layout == "halves":
            return cls(layout, what, *sizes, dtype=fields.choice("dtype", ("bfloat16", "float16")))
        bits = fields.take("bits", "4 or 8", lambda value: type(value) is int and value in (4, 8))
        block = fields.take("block", f"one of {_BLOCKS}", lambda value: type(value) is int and value in _BLOCKS)
        return cls(layout, what, *sizes, bits=bits, block=block, zeros=fields.choice("zeros", _ZEROS))

    @property
    def blocks(self) -> int:
        return -(-self.depth // self.block)

    @property
    def panels(self) -> int:
        return -(-self.rows // COLUMNS)

    @property
    def parts(self) -> tuple[int, int, int]:
        """Bytes of a block's values, scales and zero points in a panel."""
        offset = self.bits if self.zeros == "integers" else _ZEROS[self.zeros]
        return self.block * COLUMNS * self.bits // 8, 2 * COLUMNS, offset * COLUMNS // 8

    @property
    def nbytes(self) -> int:
        """Of the weight as it is stored."""
        if self.layout == "halves":
            return self.panels * self.depth * COLUMNS * 2
        return self.panels * self.blocks * sum(self.parts)

    def to_json(self) -> dict[str, Any]:
        shared = {"layout": self.layout, "what": self.what, "rows": self.rows, "depth": self.depth}
        if self.layout == "halves":
            return {**shared, "dtype": self.dtype}
        return {**shared, "bits": self.bits, "block": self.block, "zeros": self.zeros}


def _size(fields: Fields, key: str) -> int:
    found = fields.optional_count(key, least=1)
    return found if found is not None else fields.fail(key, "an integer of at least 1", None)
