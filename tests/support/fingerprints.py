"""T5 of PARITY.md: did this change alter any graph? The fingerprint of each graph that a family's tests make, recorded.

A test calls `check`. Where a graph is meant to change, record it anew and say in the commit which ones and why:

    PRECAST_RECORD=fingerprints python -m pytest tests/export/families
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping

import onnx_ir as ir

from precast.graphs.fingerprint import fingerprint
from support import DATA

__all__ = ["check"]

_RECORD = DATA / "fingerprints.json"
_DIGITS = 16  # of 64: enough to tell graphs apart, and half the file


def check(where: str, graphs: Mapping[str, ir.Model]) -> None:
    """Graphs by name ("traced", a recipe's variant) are those recorded for ``where`` ("bert/fill-mask/0/model")."""
    made = {name: fingerprint(graph)[:_DIGITS] for name, graph in graphs.items()}
    if os.environ.get("PRECAST_RECORD") == "fingerprints":
        _write(where, made)
        return
    recorded = json.loads(_RECORD.read_text()).get(where, {})
    changed = sorted(name for name in made if made[name] != recorded.get(name))
    assert not changed, (
        f"{where}: the graphs of {changed} are not those recorded. If that is meant, record them anew "
        f"(tests/support/fingerprints.py says how) and say in the commit why they changed."
    )


def _write(where: str, made: Mapping[str, str]) -> None:
    """Workers of one run write one after the other."""
    with _RECORD.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        text = file.read()
        recorded = json.loads(text) if text else {}
        recorded[where] = {**recorded.get(where, {}), **made}
        file.truncate(0)
        file.write(f"{json.dumps(recorded, indent=0, sort_keys=True)}\n")
