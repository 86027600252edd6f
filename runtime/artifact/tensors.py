"""Inputs, outputs and dimensions as a manifest holds them, read through types."""

from __future__ import annotations

import re

from precast.runtime.fields import Fields, is_count, is_number, is_text
from precast.runtime.ports import DTYPES, KINDS, Dim, Out, Port, Shape

__all__ = ["read_dim", "read_out", "read_port"]

# What stands for the inputs that formats before 1.3 call optional.
_DEFAULTS = {"attention_mask": 1, "token_type_ids": 0}
# Floats that every type but these two holds.
_LARGEST = {"float16": 65504.0, "float64": 1.7e308}


def read_port(fields: Fields) -> Port:
    """An input of a component."""
    found = Port(
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
    if found.default is not None and not _holds(found.dtype, found.default):
        fields.fail("default", f"a number that {found.dtype} can hold", found.default)
    return found


def _holds(dtype: str, number: float) -> bool:
    """Whether a number is one of a type, or is rounded to one."""
    if dtype == "bool":
        return number in (0, 1)
    kind, bits = re.fullmatch(r"([a-z]+)(\d*)", dtype).groups()  # type: ignore[union-attr]
    if kind in ("int", "uint"):
        least, most = (0, 2 ** int(bits)) if kind == "uint" else (-(2 ** (int(bits) - 1)), 2 ** (int(bits) - 1))
        return number == int(number) and least <= number < most
    return kind != "string" and abs(number) <= _LARGEST.get(dtype, 3.3e38)


def read_out(fields: Fields) -> Out:
    """An output of a component."""
    found = Out(
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


def read_dim(_name: str, fields: Fields) -> Dim:
    """What a component says of a named dimension."""
    found = Dim(
        least=fields.count("least", 1),
        most=fields.optional_count("most", None, least=1),
        multiple=fields.count("multiple", 1),
    )
    fields.close()
    if found.multiple < 1 or found.at(0) is None:
        fields.fail("most", f"at least {max(1, found.least)}, in steps of 1 or more", list(found))
    return found


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
