"""Ports: what goes into a component, what comes out, and how large its named dimensions may be.

Modules of the reference fill these records, manifests hold them, and whoever needs inputs asks them: traces, parity
cases, the checks of a call, benchmarks. `precast.runtime.kinds` makes up values of each kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from precast.runtime.outs import Out, Shape

__all__ = ["DTYPES", "FINITE", "FREE", "KINDS", "OPTIONAL", "Dim", "Out", "Port", "Shape", "beyond_text", "merged"]


# What the numbers of a port or an output mean: what one of its elements is called.
KINDS: Mapping[str, str] = {
    "ids": "token",
    "types": "token type",
    "mask": "token",
    "positions": "position",
    "rows": "row",
    "labels": "label",
    "codes": "code",
    "number": "number",
    "pixels": "pixel",
    "pixel_mask": "pixel",
    "waveform": "sample",
    "sample_mask": "sample",
    "features": "feature",
    "patches": "patch",
    "boxes": "box",
    "points": "point",
    "state": "state",
    "states": "state",
    "embedding": "embedding",
    "logits": "logit",
    "scores": "score",
}
# Kinds of which NaN and infinity are refused.
FINITE = frozenset(("pixels", "waveform", "features", "patches", "boxes", "points"))
# Kinds of prompts, which a call may leave out: one that is not there then has the size 1 where nothing says another.
OPTIONAL = frozenset(("points", "boxes"))
# Kinds that readers of formats before 1.3 knew under the names of their inputs.
_TEXT = frozenset(("", "ids", "types", "mask", "positions", "number", "state", "states", "embedding", "logits"))
DTYPES = frozenset(
    """bool int4 int8 int16 int32 int64 uint4 uint8 uint16 uint32 uint64 float16 bfloat16 float32 float64
    string""".split()
)


class Port(NamedTuple):
    """One input of a component.

    Args:
        shape: a dimension is a size, or a name for a size known at run time: ``("batch", 384)``.
        kind: one of `KINDS`, or nothing where it is not known.
        default: stands for it where it is left out; None: it must be given.
        below: ids, types and positions are 0 to ``below - 1``, and so are the sides of boxes, left and top first, and
            rows and columns of patches, which are in front of their pixels.
        source: what fills it unless the caller does: the component whose output has its name, or
            ``component.name``, where an output or an input of that component is called otherwise.
    """

    name: str
    dtype: str
    shape: Shape
    kind: str = ""
    default: float | None = None
    below: int | None = None
    source: str | None = None

    @property
    def noun(self) -> str:
        """What one of its elements is called."""
        return KINDS.get(self.kind, "number")

    @property
    def origin(self) -> tuple[str, str] | None:
        """The component that fills it, and the name of what fills it there."""
        if self.source is None:
            return None
        component, _, name = self.source.partition(".")
        return component, name or self.name

    def to_json(self) -> dict[str, Any]:
        document: dict[str, Any] = {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}
        document["optional"] = self.default is not None  # all that formats before 1.3 say
        document |= {
            key: value
            for key in ("kind", "default", "below", "source")
            if (value := getattr(self, key)) is not None and value != ""
        }
        return document


class Dim(NamedTuple):
    """How large a named dimension may be: ``least`` to ``most`` (None: as memory allows), in steps of ``multiple``."""

    least: int = 1
    most: int | None = None
    multiple: int = 1

    def to_json(self) -> dict[str, Any]:
        return self._asdict()

    def holds(self, size: int) -> bool:
        """Whether it may have that size."""
        return self.least <= size and (self.most is None or size <= self.most) and size % self.multiple == 0

    def at(self, size: int) -> int | None:
        """The size it may have that is nearest to ``size``: the next one up, else the largest; None: there is none."""
        up = -(-max(size, self.least, 1) // self.multiple) * self.multiple
        if self.most is None or up <= self.most:
            return up
        down = self.most // self.multiple * self.multiple
        return down if down >= max(1, self.least) else None

    def both(self, other: Dim) -> Dim:
        """What both allow, where one's steps are steps of the other."""
        bounds = [most for most in (self.most, other.most) if most is not None]
        steps = max(self.multiple, other.multiple)
        return Dim(max(self.least, other.least), min(bounds, default=None), steps)


FREE = Dim()


def merged(found: Iterable[Mapping[str, Dim]]) -> dict[str, Dim]:
    """What several say of dimensions, together."""
    dims: dict[str, Dim] = {}
    for each in found:
        for name, dim in each.items():
            dims[name] = dims[name].both(dim) if name in dims else dim
    return dims


def beyond_text(records: Iterable[Port | Out]) -> bool:
    """Whether one of them is of a kind that readers of formats before 1.3 cannot know, or an output of a type that they
    cannot replay."""
    # What a decoder reads of its encoder they know by its name.
    return any(
        (record.kind not in _TEXT and not record.name.startswith("cross_"))
        or (isinstance(record, Out) and record.dtype == "bool")
        for record in records
    )
