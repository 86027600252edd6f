"""The JSON schema of a Python function that a model may call, from its signature and its docstring.

Results equal ``transformers.utils.get_json_schema`` (transformers 5.23, utils/chat_template_utils.py), errors are ours;
docstrings are Google's: https://google.github.io/styleguide/pyguide.html#383-functions-and-methods
"""

from __future__ import annotations

import inspect
import json
import re
import types
from collections.abc import Callable
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from precast.runtime.errors import InputError

__all__ = ["function_schema"]

_BY_HAND = "Or write the JSON schema of the function yourself, and pass that."
_SCALARS: dict[type, str] = {
    int: "integer",
    float: "number",
    str: "string",
    bool: "boolean",
    type(None): "null",
}
_PLAIN: dict[Any, str] = {**_SCALARS, list: "array", tuple: "array", dict: "object"}
# Told by their names, since neither library is needed here.
_MEDIA = {"PIL.Image.Image": "image", "torch.Tensor": "audio"}


def function_schema(function: Callable[..., Any]) -> dict[str, Any]:
    """``{"type": "function", "function": {"name", "description", "parameters", ...}}``.

    Raises:
        InputError: the function has no docstring; an argument lacks a type or a description; a type has no JSON form.
    """
    name = getattr(function, "__name__", "operation")
    documentation = (inspect.getdoc(function) or "").strip()
    if not documentation:
        raise InputError(f"a function that is a tool has a docstring, which tells the model of it; {name} has none.")
    described = _arguments(documentation)
    types_of = _hints(function, name)
    properties: dict[str, Any] = {}
    required = []
    for argument, parameter in _parameters(function, name).items():
        if parameter.annotation is parameter.empty:
            raise InputError(f"every argument of a tool has a type; {argument} of {name} has none. {_BY_HAND}")
        if argument not in described:
            raise InputError(
                f'every argument of a tool is described under Args: in its docstring, as in "{argument}: What it '
                f'is."; {argument} of {name} is not. {_BY_HAND}'
            )
        if parameter.default is parameter.empty:
            required.append(argument)
        properties[argument] = _described(_schema(types_of[argument], f"{argument} of {name}"), described[argument])
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        parameters["required"] = required
    made: dict[str, Any] = {"name": name, "description": _description(documentation), "parameters": parameters}
    if "return" in types_of:
        try:
            made["return"] = _schema(types_of["return"], f"the result of {name}")
        except InputError:
            return {"type": "function", "function": made}  # no model makes a result, so none needs its type
        if (told := _section(documentation, "Returns", "Raises")) is not None:
            made["return"]["description"] = told.strip()
    return {"type": "function", "function": made}


def _parameters(function: Callable[..., Any], name: str) -> dict[str, inspect.Parameter]:
    """The arguments a model gives: not a method's own object."""
    try:
        found = dict(inspect.signature(function).parameters)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} does not tell its arguments: {error}. {_BY_HAND}") from error
    first = next(iter(found), None)
    if first in ("self", "cls") and found[first].annotation is inspect.Parameter.empty:
        del found[first]
    return found


def _hints(function: Callable[..., Any], name: str) -> dict[str, Any]:
    try:
        return get_type_hints(function)
    except (NameError, TypeError, AttributeError) as error:
        raise InputError(f"the types of {name} cannot be read: {error}. {_BY_HAND}") from error


def _schema(hint: Any, what: str) -> dict[str, Any]:
    """The JSON schema of a type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return {}
    if origin is None:
        if isinstance(hint, type) and issubclass(hint, Enum):
            return _values([member.value for member in hint], what)
        if isinstance(hint, type) and (plain := _plain(hint)) is not None:
            return {"type": plain}
    elif origin is Union or origin is types.UnionType:
        return _union(arguments, what)
    elif origin is Literal:
        return _values(list(arguments), what)
    elif origin is list:
        return {"type": "array", **({"items": _schema(arguments[0], what)} if arguments else {})}
    elif origin is dict:
        more = {"additionalProperties": _schema(arguments[1], what)} if len(arguments) == 2 else {}
        return {"type": "object", **more}
    elif origin is tuple:
        if not arguments:
            return {"type": "array"}
        if len(arguments) == 1 or ... in arguments:
            raise InputError(f"{what} is a tuple of one or of any number of items; write list[...] for it.")
        return {"type": "array", "prefixItems": [_schema(item, what) for item in arguments]}
    raise InputError(
        f"{what} has the type {hint!r}, which has no JSON form; int, float, str, bool, None, enums, Literal, and "
        f"lists, tuples, dicts and unions of these have one. {_BY_HAND}"
    )


def _plain(hint: type) -> str | None:
    return _PLAIN.get(hint) or _MEDIA.get(f"{hint.__module__}.{hint.__qualname__}")


def _union(arguments: tuple[Any, ...], what: str) -> dict[str, Any]:
    kinds = [_schema(kind, what) for kind in arguments if kind is not type(None)]
    if len(kinds) == 1:
        (made,) = kinds
    elif all(kind.keys() == {"type"} and isinstance(kind["type"], str) for kind in kinds):
        names = sorted({kind["type"] for kind in kinds})
        made = {"type": names[0] if len(names) == 1 else names}
    else:
        made = {"anyOf": kinds}
    return made | ({"nullable": True} if type(None) in arguments else {})


def _values(values: list[Any], what: str) -> dict[str, Any]:
    """The schema of one of some values, with the types they have, each once."""
    if not values or any(type(value) not in _SCALARS for value in values):
        raise InputError(
            f"{what} is one of the values {values!r:.200}, and these must be numbers, texts, True, False or None, one "
            f"at least. {_BY_HAND}"
        )
    names = list(dict.fromkeys(_SCALARS[type(value)] for value in values))
    return {"type": names[0] if len(names) == 1 else names, "enum": values}


def _described(schema: dict[str, Any], text: str) -> dict[str, Any]:
    """The schema with its description, which may end with the values there are: ``(choices: ["tea", "coffee"])``."""
    choices = re.search(r"\(choices:\s*(.*?)\)\s*$", text, re.IGNORECASE)
    if choices is not None:
        try:
            values = json.loads(choices[1])
        except ValueError as error:
            raise InputError(f"choices are a JSON list, as in (choices: [1, 2]); received {choices[1]!r}.") from error
        if not isinstance(values, list):
            raise InputError(f"choices are a JSON list, as in (choices: [1, 2]); received {choices[1]!r}.")
        schema["enum"] = [value.strip() if isinstance(value, str) else value for value in values]
        text = text[: choices.start()].strip()
    schema["description"] = text
    return schema


def _description(documentation: str) -> str:
    """What comes before any section."""
    return re.split(r"Args:|Returns:|Raises:", documentation, maxsplit=1)[0].strip()


def _section(documentation: str, name: str, *ends: str) -> str | None:
    """What stands under a heading of its own line, up to the next."""
    _, found, rest = _partition(documentation, rf"\n\s*{name}:\n")
    if not found:
        return None
    return _partition(rest, "|".join(rf"\s*{end}:" for end in ends))[0].rstrip()


def _partition(text: str, pattern: str) -> tuple[str, str, str]:
    found = re.search(pattern, text)
    return (text, "", "") if found is None else (text[: found.start()], found[0], text[found.end() :])


def _arguments(documentation: str) -> dict[str, str]:
    """What the docstring says of each argument, on one line. What is indented deeper than its name belongs to it."""
    told: dict[str, list[str]] = {}
    indent, current = "", None
    for line in (_section(documentation, "Args", "Returns", "Raises") or "").split("\n"):
        if not line.strip():
            continue
        begins = re.match(r"([ \t]*)(\w+):", line)
        deeper = re.match(rf"{indent}[ \t]", line) is not None
        # A name with nothing behind it is described by the next line, whatever that looks like.
        if begins is not None and (current is None or (not deeper and any(told[current]))):
            indent, current = begins[1], begins[2]
            told[current] = [line[begins.end() :].strip()]
        elif current is not None:
            told[current].append(line.strip())
    return {name: " ".join(filter(None, lines)) for name, lines in told.items()}
