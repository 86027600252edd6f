"""JSON that somebody else wrote: every field of a document with every wrong value, and texts that are no sane JSON."""

from __future__ import annotations

import copy
import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from precast.runtime.errors import PrecastError

__all__ = ["EXHAUSTIVE", "TEXTS", "VALUES", "attempt", "fields", "mutations", "outcomes", "texts"]

# All fields with all values instead of a drawn part of them: hours where models are exported, minutes where not.
EXHAUSTIVE = os.environ.get("PRECAST_EXHAUSTIVE") == "1"
_SECONDS = 30
_DELETED = object()

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 0.5, 2**31, 2**62, -(2**62), 2**63, 1e308, -1e308),
    *("", "x", "1", "x" * 5000, "../../../etc/passwd", "\x00", "\ud800"),
    *([], [[]], [None], ["x"], [-1], [2**62], {}, {"a": {"b": [1]}}, {"0": 0}, [{}]),
)
TEXTS: tuple[bytes, ...] = (
    *(b"", b"{", b"[]", b"null", b"5", b'"x"', b"[1, 2", b"\xff\xfe{\x00}\x00", b"\xef\xbb\xbf{}", b"{} {}"),
    *(b"[" * 100_000, b'{"a":' * 100_000, b"[" * 900 + b"]" * 900, b'{"a":' * 70 + b"1" + b"}" * 70),
    *(b'{"a": NaN}', b'{"a": Infinity}', b'{"a": -Infinity}', b'{"a": 1e999}', b'{"a": ' + b"9" * 10_000 + b"}"),
    *(b'{"a": 1, "a": 2}', b'{"a": [{"b": 1, "b": 2}]}', b'{"a": "\\ud800"}', b'{"a": "\x01"}'),
)


def texts() -> tuple[bytes, ...]:
    """Texts for a file whose parser others have tried with all of them."""
    return TEXTS if EXHAUSTIVE else TEXTS[::4]


def fields(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value inside ``value``; of a list to the first two."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from fields(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value[:2]):
            yield from fields(item, (*path, index))


def mutations(
    document: Any, *, most: int, of: Callable[[tuple[Any, ...]], bool] = lambda path: True
) -> Iterator[tuple[str, Any]]:
    """(what was done, the document with one field replaced or left out): ``most`` of them, drawn alike each time, or
    all where the sweep is exhaustive; of the fields whose path ``of`` takes."""
    cases = [(path, value) for path in fields(document) if of(path) for value in (*VALUES, _DELETED)]
    if not EXHAUSTIVE:
        random.Random(len(cases)).shuffle(cases)
        del cases[most:]
    for path, value in cases:
        changed = copy.deepcopy(document)
        holder = changed
        for key in path[:-1]:
            holder = holder[key]
        if value is _DELETED:
            del holder[path[-1]]
        else:
            holder[path[-1]] = value
        what = "left out" if value is _DELETED else json.dumps(value)[:60]
        yield f"{'.'.join(map(str, path))} = {what}", changed


@contextmanager
def _bounded() -> Iterator[None]:
    def ring(number: int, frame: Any) -> None:
        raise TimeoutError(f"not done within {_SECONDS} s")

    # Of the processor's time, which a busy machine does not stretch.
    before = signal.signal(signal.SIGVTALRM, ring)
    signal.setitimer(signal.ITIMER_VIRTUAL, _SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def attempt(what: str, action: Callable[[], Any]) -> str | None:
    """None where ``action`` gives a result or a `PrecastError`; what went wrong otherwise, in one line."""
    try:
        with _bounded():
            action()
    except PrecastError as error:
        # A message is for a reader.
        return None if 10 <= len(str(error)) <= 20_000 else f"{what}: a message of {len(str(error))} characters"
    except Exception as error:
        return f"{what}: {type(error).__name__}: {error!s:.200}"
    return None


def outcomes(found: Iterator[str | None]) -> None:
    """All of what was tried was answered rightly; says how many were not, and which."""
    lines = list(found)
    wrong = [line for line in lines if line is not None]
    print(f"{len(lines)} tried, {len(wrong)} answered wrongly")
    assert not wrong, f"{len(wrong)} of {len(lines)}, such as\n" + "\n".join(wrong[:20])
