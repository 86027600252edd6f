"""Ports: what goes into a component, what comes out, and how large its named dimensions may be.

Modules of the reference fill these records, manifests hold them, and whoever needs inputs asks them: traces, parity
cases, the checks of a call, benchmarks. `precast.runtime.kinds` knows what holds of a kind whatever the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from precast.runtime.fields import Fields, is_count, is_number, is_text

__all__ = ["DTYPES", "FREE", "KINDS", "Dim", "Out", "Port", "Shape", "beyond_text", "merged"]

Shape = tuple["int | str", ...]

# What the numbers of a port or an output mean.
KINDS = frozenset(
    """ids types mask positions pixels pixel_mask waveform features boxes points labels number state
    states embedding logits scores""".split()
)
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
        below: ids, types and positions are 0 to ``below - 1``.
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

    @classmethod
    def read(cls, fields: Fields) -> Port:
        found = cls(
            name=fields.text("name"),
            dtype=_dtype(fields),
            shape=_shape(fields),
            kind=_kind(fields),
            default=fields.take("default", "a number or null", lambda v: v is None or is_number(v), None),
            below=fields.optional_count("below", None, least=1),
            source=fields.optional_text("source", None),
        )
        optional = fields.flag("optional", False)
        fields.close()
        if optional and found.default is None:
            # Formats before 1.3 give no default, and have two inputs with one.
            found = found._replace(default=_DEFAULTS.get(found.name, 0))
        return found


class Out(NamedTuple):
    """One output: its name and its dimensions, named as those of the inputs where they are the same.

    ``axis``: where its classes are, of which the largest is the answer.
    """

    name: str
    shape: Shape
    kind: str = ""
    axis: int = -1
    dtype: str = "float32"

    def to_json(self) -> dict[str, Any]:
        document: dict[str, Any] = {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}
        document["optional"] = False
        if self.kind:
            document["kind"] = self.kind
        if self.axis != -1:
            document["axis"] = self.axis
        return document

    @classmethod
    def read(cls, fields: Fields) -> Out:
        found = cls(
            name=fields.text("name"),
            shape=_shape(fields),
            kind=_kind(fields),
            axis=fields.take("axis", "an axis of the shape, from -1 down", lambda v: type(v) is int and v < 0, -1),
            dtype=_dtype(fields),
        )
        fields.flag("optional", False)
        fields.close()
        if -found.axis > max(1, len(found.shape)):
            fields.fail("axis", f"an axis of {list(found.shape)}, from -1 down", found.axis)
        return found


class Dim(NamedTuple):
    """How large a named dimension may be: ``least`` to ``most`` (None: as memory allows), in steps of ``multiple``."""

    least: int = 1
    most: int | None = None
    multiple: int = 1

    def to_json(self) -> dict[str, Any]:
        return self._asdict()

    @classmethod
    def read(cls, _name: str, fields: Fields) -> Dim:
        found = cls(
            least=fields.count("least", 1),
            most=fields.optional_count("most", None, least=1),
            multiple=fields.count("multiple", 1),
        )
        fields.close()
        if found.multiple < 1 or found.at(0) is None:
            fields.fail("most", f"at least {max(1, found.least)}, in steps of 1 or more", list(found))
        return found

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

# What stands for the inputs that formats before 1.3 call optional.
_DEFAULTS = {"attention_mask": 1, "token_type_ids": 0}


def merged(found: Iterable[Mapping[str, Dim]]) -> dict[str, Dim]:
    """What several say of dimensions, together."""
    dims: dict[str, Dim] = {}
    for each in found:
        for name, dim in each.items():
            dims[name] = dims[name].both(dim) if name in dims else dim
    return dims


def beyond_text(records: Iterable[Port | Out]) -> bool:
    """Whether one of them is of a kind that readers of formats before 1.3 cannot know."""
    # What a decoder reads of its encoder they know by its name.
    return any(record.kind not in _TEXT and not record.name.startswith("cross_") for record in records)


def _dtype(fields: Fields) -> str:
    return fields.choice("dtype", DTYPES)


def _kind(fields: Fields) -> str:
    # Of a newer minor version a kind may be one that is not known here: then nothing is known of it.
    rule = "a string" if fields.lenient else f"one of {', '.join(sorted(KINDS))}"
    kind: str = fields.take("kind", rule, lambda v: is_text(v) and (fields.lenient or v in KINDS), "")
    return kind


def _shape(fields: Fields) -> Shape:
    return tuple(
        fields.take(
            "shape",
            "a list of sizes and dimension names",
            lambda v: isinstance(v, list) and all(is_count(one) or (is_text(one) and one != "") for one in v),
        )
    )
