"""The engines there are: one file of this folder each, found by its name. No central list.

Such a file holds ``backend(provider)``, which makes the engine's `Backend`; everything that is the engine's own
(options, devices, how its memory is laid out) stays in it.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from importlib.util import find_spec

from precast.runtime import backends
from precast.runtime.backends.base import Backend
from precast.runtime.errors import ProviderError, closest, listing

__all__ = ["backend_for", "engines"]

_SHARED = frozenset(("agreement", "base", "engines"))


@cache
def engines() -> tuple[str, ...]:
    """Names of all engines."""
    from pkgutil import iter_modules  # which a process that only runs an artifact need not load

    return tuple(sorted(module.name for module in iter_modules(backends.__path__) if module.name not in _SHARED))


@cache
def _known(engine: str) -> bool:
    """Whether a name is a file of this folder's that is an engine: a manifest can name no other."""
    fits = re.fullmatch(r"[a-z][a-z0-9_]*", engine) is not None and engine not in _SHARED
    return fits and find_spec(f"{backends.__name__}.{engine}") is not None


def backend_for(engine: str, provider: str) -> Backend:
    """The backend that serves an engine's execution provider, as a manifest names both.

    Raises:
        ProviderError: there is no such engine; names those there are.
    """
    if not _known(engine):
        near = closest(engine, engines())
        raise ProviderError(f"engine {engine!r} is not known to this precast. {near} Engines: {listing(engines())}.")
    made: Backend = import_module(f"{backends.__name__}.{engine}").backend(provider)
    return made
