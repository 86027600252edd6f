"""Python functions as chat tools: the schemas are upstream's, and what has none is named."""

# ruff: noqa: UP007, UP045, RUF036 - both spellings of a union are under test
from __future__ import annotations

import json
from collections.abc import Callable
from enum import Enum
from typing import Annotated, Any, Literal, Optional, Union

import pytest
import torch
from PIL import Image
from transformers.utils import get_json_schema

from precast.runtime.errors import InputError
from precast.runtime.processors.tool_schema import function_schema


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Mixed(Enum):
    ONE = 1
    TWO = "two"
    NONE = None


class Kettle:
    def boil(self, degrees: float = 100.0) -> bool:
        """Boil water.

        Args:
            degrees: How hot.
        """
        return True

    @classmethod
    def make(cls, litres: int) -> Kettle:
        """Make a kettle.

        Args:
            litres: How large
                it is: in litres.
        """
        return cls()


def nothing() -> None:
    """Do nothing."""


def plain(a: int, b: str, c: float = 1.0, d: bool = False, e: Any = None, f: None = None):
    """Take plain values.  With two  spaces.

    And more lines of description.

    Args:
        a: The first
        b: The second, which
            goes on: here,

            and here
        c: third:with colons: a, b
        d:
            on the next line
        e: anything
        f: nothing

    Returns:
        What comes
        back.

    Raises:
        ValueError: never.
    """


def containers(
    a: list, b: list[int], c: dict, d: dict[str, list[float]], e: tuple, f: tuple[int, str], g: list[dict[str, Any]]
) -> dict[str, Union[int, list[str]]]:
    """Take containers.

    Args:
        a: a
        b: b
        c: c
        d: d
        e: e
        f: f
        g: g
    """
    return {}


def unions(
    a: int | str,
    b: Optional[int],
    c: int | None | list[int],
    d: list | tuple,
    e: Union[float, int, None],
    f: list[int | None],
) -> Optional[str]:
    """Take unions.

    Args:
        a: a
        b: b
        c: c
        d: d
        e: e
        f: f

    Returns:
        Perhaps a text.
    """


def values(
    a: Literal["x", "y"],
    b: Literal[1, "z", None, True],
    c: Colour,
    d: Mixed,
    e: str,
    f: int = 3,
    g: Literal["p"] | None = None,
) -> Colour:
    """Take one of some values.

    Args:
        a: a
        b: b
        c: c
        d: d
        e: e (choices: ["tea ", "coffee", 3])
        f: f (Choices: [1, 2])
        g: g
    """
    return Colour.RED


def media(a: Image.Image, b: torch.Tensor, c: Annotated[int, "noted"]) -> Kettle:
    """Look and listen. Returns: nothing that JSON knows.

    Args:
        a: an image
        b: a sound
        c: a number
    """
    return Kettle()


def shapes(a: int, b: int, c: int):
    """A docstring as people write them.
    Args:
      a: two spaces
      b: b is
       one deeper
          or more: still b
      c: last
    Raises:
      ValueError: if a is 1
    """


def starred(*args: int, **kwargs: str):
    """Take any number.

    Args:
        args: numbers
        kwargs: texts
    """


@pytest.mark.parametrize(
    "function",
    [nothing, plain, containers, unions, values, media, shapes, starred, Kettle().boil, Kettle.boil, Kettle.make],
    ids=lambda function: function.__qualname__,
)
def test_schemas_are_upstreams(function: Callable[..., Any]) -> None:
    # As texts: templates show keys in the order in which they were written.
    assert json.dumps(function_schema(function)) == json.dumps(get_json_schema(function))


def _undescribed(a: int, b: int):
    """Add.

    Args:
        a: one
    """


def _untyped(a, b: int):
    """Add.

    Args:
        a: one
        b: two
    """


def _custom(a: Kettle):
    """Boil.

    Args:
        a: what
    """


def _one_tuple(a: tuple[int, ...]):
    """Sum.

    Args:
        a: what
    """


def _unknown(a: Nowhere):  # type: ignore[name-defined]  # noqa: F821
    """Sum.

    Args:
        a: what
    """


def _choosing(a: str):
    """Choose.

    Args:
        a: what (choices: tea or coffee)
    """


def _undocumented(a: int): ...


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (_undocumented, "has a docstring.*_undocumented has none"),
        (_undescribed, "b of _undescribed is not.*Or write the JSON schema"),
        (_untyped, "every argument of a tool has a type; a of _untyped has none"),
        (_custom, "a of _custom has the type <class .*Kettle'>, which has no JSON form"),
        (_one_tuple, r"a of _one_tuple is a tuple of one or of any number of items; write list"),
        (_unknown, "the types of _unknown cannot be read: name 'Nowhere' is not defined"),
        (_choosing, "choices are a JSON list.*received 'tea or coffee'"),
    ],
)
def test_functions_without_a_schema_are_refused(function: Callable[..., Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        function_schema(function)
    with pytest.raises(Exception):  # noqa: B017, PT011 - upstream's are of several kinds
        get_json_schema(function)
