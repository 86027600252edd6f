"""Where a chat template runs: Jinja's immutable sandbox, with bounds on steps, sizes and time.

A template comes with a checkpoint and is as little trusted as its weights. The sandbox keeps it from Python's insides;
the bounds keep it from holding the process: every loop, call, operator, filter and output that can make much out of
little is weighed before it is done. The environment is otherwise transformers 5.23's (utils/chat_template_utils.py).
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import wraps
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.runtime import Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

__all__ = ["Limits", "OutOfBounds", "Refusal", "Sandbox", "bounded", "generation_marks"]

MAX_STEPS = 2_000_000  # turns of loops, and calls
MAX_TEXT = 16 * 2**20  # characters or items of one value
MAX_TOTAL = 512 * 2**20  # the same of all values made
MAX_SECONDS = 5.0
_MAX_BITS = 4096
_MAX_WIDTH = 10_000


class Refusal(jinja2.TemplateError):
    """What a template says with ``raise_exception``."""


class OutOfBounds(SecurityError):
    """The template wants more steps, memory or time than any conversation needs."""


class Limits:
    """What one rendering has used."""

    def __init__(self) -> None:
        self.steps = 0
        self.total = 0
        self.deadline = time.monotonic() + MAX_SECONDS

    def step(self, count: int = 1) -> None:
        self.steps += count
        if self.steps > MAX_STEPS:
            raise OutOfBounds(f"it takes more than {MAX_STEPS:,} steps")
        if time.monotonic() > self.deadline:
            raise OutOfBounds(f"it takes longer than {MAX_SECONDS:g} s")

    def grow(self, size: int, *, whole: bool = True) -> None:
        """A value of ``size`` is about to be made; with ``whole`` as one piece."""
        self.total += size
        if (whole and size > MAX_TEXT) or self.total > MAX_TOTAL:
            raise OutOfBounds(f"it makes a text or a list of more than {MAX_TEXT:,} characters or items")


_limits: ContextVar[Limits | None] = ContextVar("precast_template_limits", default=None)
_marks: ContextVar[tuple[str, str] | None] = ContextVar("precast_template_marks", default=None)


@contextmanager
def bounded() -> Iterator[Limits]:
    """Bounds for what is compiled or rendered inside."""
    token = _limits.set(Limits())
    try:
        yield _current()
    finally:
        _limits.reset(token)


@contextmanager
def generation_marks(first: str, last: str) -> Iterator[None]:
    """Surround what ``{% generation %}`` blocks write with two texts."""
    token = _marks.set((first, last))
    try:
        yield
    finally:
        _marks.reset(token)


def _current() -> Limits:
    limits = _limits.get()
    return Limits() if limits is None else limits


def _size(value: Any) -> int:
    """Characters and items in a value, counted as often as they would be written; stops past the largest allowed."""
    total, waiting = 0, [value]
    while waiting and total <= MAX_TEXT:
        item = waiting.pop()
        if isinstance(item, str):
            total += len(item)
        elif isinstance(item, Mapping):
            total += 4 * len(item)
            waiting.extend(item)
            waiting.extend(item.values())
        elif isinstance(item, (list, tuple)):
            total += 2 * len(item)
            waiting.extend(item)
        elif isinstance(item, range):
            total += 8 * len(item)
        else:
            total += 8
    return total


def _listed(value: Any) -> Any:
    """What can be gone through once only, as a list, so that it can be weighed."""
    return list(value) if isinstance(value, Iterator) else value


def _number(value: Any) -> int:
    return abs(int(value)) if isinstance(value, (int, float)) and value == value and abs(value) < 1e18 else 0


def _width(*values: Any) -> int:
    """The largest number among arguments that are widths, counts or digits."""
    return max((_number(value) for value in values), default=0)


def _replaced(text: Any, old: Any = "", new: Any = "", *rest: Any, **named: Any) -> int:
    text, old, new = str(text), str(old), str(new)
    return len(text) + (text.count(old) if old else len(text) + 1) * len(new)


def _formatted(text: Any, *values: Any, **named: Any) -> int:
    """A width inside a format, or among its arguments, writes more than it takes in."""
    wide = max((int(digits[:18]) for digits in re.findall(r"\d+", str(text))), default=0)
    given = [*values, *named.values()]
    flat = [item for value in given for item in (value if isinstance(value, (list, tuple)) else (value,))]
    if "*" in str(text) or "{" in str(text):
        wide = max(wide, _width(*flat))
    fields = str(text).count("%") + str(text).count("{")
    return (
        len(str(text))
        + (sum(map(_size, flat)) if len(flat) >= fields else fields * _size(flat))
        + (fields * wide if wide > _MAX_WIDTH else 0)
    )


def _joined(items: Any, separator: Any = "", *rest: Any, **named: Any) -> int:
    items = items if hasattr(items, "__len__") else ()
    return _size(items) + len(items) * len(str(named.get("d", separator)))


def _translated(text: str, table: Any = (), *rest: Any) -> int:
    values = table.values() if isinstance(table, Mapping) else ()
    return len(text) * max((len(value) for value in values if isinstance(value, str)), default=1)


def _wider(text: Any, *arguments: Any, **named: Any) -> int:
    return _size(text) + _width(*arguments, *named.values())


def _wider_lines(text: Any, *arguments: Any, **named: Any) -> int:
    given = (*arguments, *named.values())
    most = max([_width(*given), *(len(value) for value in given if isinstance(value, str))])
    return _size(text) + (str(text).count("\n") + str(text).count("\t") + 1) * most


def _wrapped(text: Any, *arguments: Any, **named: Any) -> int:
    longest = max((len(value) for value in (*arguments, *named.values()) if isinstance(value, str)), default=1)
    return len(str(text)) * (longest + 1)


def _dumped(value: Any, *arguments: Any, **named: Any) -> int:
    given = (*arguments, *named.values())
    texts = [str(part) for item in given for part in (item if isinstance(item, (list, tuple)) else (item,))]
    return _size(value) * (1 + _width(*given) + max(map(len, texts), default=0) // 8)


def _summed(items: Any, attribute: Any = None, start: Any = 0) -> int:
    return 0 if isinstance(start, (int, float)) else MAX_TEXT + 1


def _digits(value: Any, precision: Any = 0, *rest: Any, **named: Any) -> int:
    return 0 if _width(precision) <= 300 else MAX_TEXT + 1


# How large the results of filters and of methods can get: from the arguments, the value first.
_FILTERS: dict[str, Callable[..., int]] = {
    "batch": _wider,
    "center": _wider,
    "format": _formatted,
    "indent": _wider_lines,
    "join": _joined,
    "pprint": _dumped,
    "replace": _replaced,
    "round": _digits,
    "slice": _wider,
    "string": lambda value: _size(value),
    "sum": _summed,
    "tojson": _dumped,
    "wordwrap": _wrapped,
}
_METHODS: dict[str, Callable[..., int]] = {
    "center": _wider,
    "expandtabs": _wider_lines,
    "format": _formatted,
    "format_map": _formatted,
    "join": lambda separator, items=(): _joined(items, separator),
    "ljust": _wider,
    "replace": _replaced,
    "rjust": _wider,
    "translate": _translated,
    "zfill": _wider,
}


class _Generation(Extension):
    """``{% generation %} ... {% endgeneration %}``: what the assistant wrote."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own declaration

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    def _marked(self, caller: Callable[[], str]) -> str:
        written = caller()
        marks = _marks.get()
        return written if marks is None else f"{marks[0]}{written}{marks[1]}"


class _Weighing(NodeTransformer):
    """Puts a scale in front of loops and concatenations, which the sandbox has no hook for."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        literal = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        node.iter = _call("counted", node, node.iter, nodes.Const(literal))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _call("concatenated", node, *node.nodes)


def _call(name: str, place: nodes.Node, *arguments: Any) -> nodes.Call:
    call = nodes.Call(nodes.EnvironmentAttribute(name), list(arguments), [], None, None)
    call.set_lineno(place.lineno)
    return call


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment chat templates are compiled in."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, literal: int = 0) -> None:
        """:param literal: length of the one template this is for: what a call of a macro may write by itself."""
        self.literal = literal
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols], finalize=_weighed_output
        )
        self.filters["tojson"] = _tojson
        for name, size in _FILTERS.items():
            self.filters[name] = _guarded(self.filters[name], size)
        del self.globals["lipsum"]
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now
        self.globals["dict"] = _Dict()
        self.globals["namespace"] = _Namespace

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        _Weighing().visit(tree)
        tree.set_environment(self)
        return tree

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        # Jinja waits until the value is used, and prints it as nothing.
        raise SecurityError(f"it reads {attribute!r} of a {type(obj).__name__}")

    def call(self, context: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:
        limits = _current()
        limits.step()
        if isinstance(obj, Macro):
            limits.grow(self.literal, whole=False)
        else:
            size = _METHODS.get(getattr(obj, "__name__", ""))
            owner = getattr(obj, "__self__", None)
            if owner is None and hasattr(obj, "__wrapped__"):  # the sandbox's own str.format
                owner = getattr(obj.__wrapped__, "__self__", None)
            if size is not None and isinstance(owner, str):
                args = tuple(map(_listed, args))
                limits.grow(size(owner, *args, **kwargs))
        return super().call(context, obj, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        limits = _current()
        sequence = (str, list, tuple)
        if operator == "%" and isinstance(left, str):
            limits.grow(_formatted(left, *(right if isinstance(right, tuple) else (right,))))
        elif operator == "+" and isinstance(left, sequence) and isinstance(right, sequence):
            limits.grow(len(left) + len(right))
        elif operator == "*" and (isinstance(left, sequence) or isinstance(right, sequence)):
            value, times = (left, right) if isinstance(left, sequence) else (right, left)
            limits.grow(len(value) * _number(times))
        elif operator in ("*", "**") and isinstance(left, int) and isinstance(right, int):
            many = right if operator == "**" else 1
            bits = left.bit_length() * abs(many) + (right.bit_length() if operator == "*" else 0)
            if bits > _MAX_BITS:
                raise OutOfBounds(f"it computes a number of more than {_MAX_BITS} bits")
        return super().call_binop(context, operator, left, right)

    # What `_Weighing` calls.

    def counted(self, items: Any, literal: int) -> Any:
        """What a loop goes through, each turn a step that writes up to ``literal`` characters of the template."""
        limits = _current()
        if hasattr(items, "__len__"):
            limits.step(len(items))
            limits.grow(literal * len(items), whole=False)
            return items
        return self._counted(items, literal, limits)

    def _counted(self, items: Iterable[Any], literal: int, limits: Limits) -> Iterator[Any]:
        for item in items:
            limits.step()
            limits.grow(literal, whole=False)
            yield item

    def concatenated(self, *parts: Any) -> str:
        """``a ~ b``."""
        _current().grow(sum(map(_size, parts)))
        return "".join(map(str, parts))


def _weighed_output(value: Any) -> Any:
    _current().grow(_size(value))
    return value


def _guarded(function: Callable[..., Any], size: Callable[..., int]) -> Callable[..., Any]:
    """A filter that is weighed first. Some filters get the environment, or the evaluation's settings, before the
    value; `wraps` keeps the mark that says so."""
    passed = 1 if hasattr(function, "jinja_pass_arg") else 0

    @wraps(function)
    def guarded(*arguments: Any, **named: Any) -> Any:
        arguments = tuple(map(_listed, arguments))
        _current().grow(size(*arguments[passed:], **named))
        return function(*arguments, **named)

    return guarded


def _tojson(
    x: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own escapes HTML.
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: Any) -> None:
    raise Refusal(str(message))


def _strftime_now(format: str) -> str:
    if len(format) > 1000 or re.search(r"\d{4}", format):
        raise OutOfBounds("it asks for a date of more than 1,000 characters")
    return datetime.now().strftime(format)


class _Dict:
    """``dict(...)`` and ``dict.fromkeys(...)`` without the class, through which much else could be reached."""

    def __call__(self, *arguments: Any, **named: Any) -> dict[Any, Any]:
        return dict(*arguments, **named)

    def fromkeys(self, *arguments: Any) -> dict[Any, Any]:
        return dict.fromkeys(*arguments)


class _Namespace(Namespace):
    """Jinja's, without names that Python gives a meaning to."""

    def __init__(*arguments: Any, **named: Any) -> None:
        # ``self`` may be a key.
        self, values = arguments[0], dict(*arguments[1:], **named)
        for name in values:
            _refuse_private(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_private(name)
        super().__setitem__(name, value)


def _refuse_private(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"it keeps {name!r} in a namespace")
