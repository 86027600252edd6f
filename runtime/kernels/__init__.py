"""The native CPU kernels: where their library lies, and whether this process can use it.

The library holds ONNX Runtime custom operators of the domain ``precast.cpu`` (see ``operators.h``). A variant that was
cast with them says so in its ``isa``; every artifact holds one that runs without.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path

__all__ = ["ISA", "KNOWN", "available", "isas", "library_path", "why_not"]

# What a variant that needs these operators says in its manifest; the number rises with operators that are new. All that
# earlier ones brought are there still: 2 attention over caches, RMS norms, weights in blocks; 3 weights in 16 bits; 4
# two products with GELU between them.
KNOWN = ("precast-kernels-2", "precast-kernels-3", "precast-kernels-4")
ISA = KNOWN[-1]
_NAME = "libprecast_kernels.so"
_OFF = "PRECAST_NO_KERNELS"


def library_path() -> Path | None:
    """The installed library, or None where it was not built."""
    # An editable install has two entries here: the source tree, and site-packages, where the built library lies.
    for directory in __path__:
        candidate = Path(directory) / _NAME
        if candidate.is_file():
            return candidate
    return None


def why_not() -> str:
    """Why the kernels cannot be used, with the way to have them; empty where they can."""
    if os.environ.get(_OFF, "") not in ("", "0"):
        return f"the native kernels are switched off: {_OFF} is set in the environment. Unset it to use them."
    path = library_path()
    if path is None:
        return (
            f"the native kernels were not built when precast was installed ({_NAME} is missing). Install precast again "
            "with a C++17 compiler at hand; PRECAST_KERNELS=require makes a failing build an error that shows itself."
        )
    return _loading_error(path)


def available() -> bool:
    """Whether sessions of this process can use the kernels."""
    return not why_not()


def isas() -> tuple[str, ...]:
    """The instruction sets the library has kernels for on this processor, the one it uses first."""
    path = library_path()
    if path is None or _loading_error(path):
        return ()
    function = ctypes.CDLL(str(path)).precast_kernels_isa
    function.argtypes, function.restype = [ctypes.c_int], ctypes.c_char_p
    found: list[str] = []
    while (name := function(len(found))) is not None:
        found.append(name.decode())
    return tuple(found)


@cache
def _loading_error(path: Path) -> str:
    try:
        ctypes.CDLL(str(path))
    except OSError as error:
        return f"{path} cannot be loaded: {error}. It was built for another system: install precast again."
    return ""
