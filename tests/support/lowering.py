"""Every dialect and recipe that a family's graphs are held in, and the folder they are written to."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from precast.graphs.passes.canonical import Canonical
from precast.graphs.passes.clean import Clean
from precast.graphs.passes.fold_constants import FoldConstants
from precast.graphs.passes.lower import Lower
from precast.graphs.recipes import RECIPES


class Folder:
    """A sink that writes into a plain folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "weights").mkdir(parents=True)

    def write_bytes(self, name: str, data: bytes) -> None:
        (self.path / name).write_bytes(data)

    def add_weight(self, chunks: Iterable[bytes | memoryview]) -> tuple[str, int]:
        data = b"".join(bytes(chunk) for chunk in chunks)
        name = f"weights/{len(list((self.path / 'weights').iterdir()))}.bin"
        (self.path / name).write_bytes(data)
        return name, len(data)


def states(model: torch.nn.Module, layers: Iterable[torch.nn.Module]) -> tuple[list[torch.Tensor], list[Any]]:
    kept: list[torch.Tensor] = []
    hooks = [
        # A pre-norm layer returns the two parts of its hidden state.
        layer.register_forward_hook(lambda _m, _i, out: kept.append(sum(out) if isinstance(out, tuple) else out))
        for layer in layers
    ]
    return kept, hooks


def lowerings() -> dict[str, tuple[Any, Any, str | None]]:
    """name -> (dialect, passes, isa): each dialect unoptimised, and each fp32 recipe that differs from the others."""
    found: dict[str, tuple[Any, Any, str | None]] = {}
    seen: set[tuple[str, ...]] = set()
    for item in RECIPES.values():
        if item.precision != "fp32":
            continue
        if item.isa is not None and os.environ.get("PRECAST_KERNELS") == "off":
            continue  # a build that is meant to be without kernels
        if item.precision != "fp32":
            continue  # held to its divergence over text, with real weights
        raw = (item.dialect, lambda dialect=item.dialect: (FoldConstants(), Clean(), Lower(dialect), Canonical()))
        for name, (dialect, passes) in ((f"raw-{item.dialect.name}", raw), (item.variant, (item.dialect, item.passes))):
            steps = tuple(step.name for step in passes())
            if steps not in seen:
                seen.add(steps)
                found[name] = (dialect, passes, item.isa)
    return found
