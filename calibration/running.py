"""Cases through loaded components, of which no reference says how large their outputs are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from precast.runtime.backends.base import Array
from precast.runtime.parity import Case, Loaded, Recorded, run_cases

__all__ = ["through"]


def through(
    parts: Mapping[str, Loaded], cases: Sequence[Case], watched: Mapping[str, Sequence[int | str]] | None = None
) -> Iterator[tuple[Case, Mapping[str, Array]]]:
    """Every case in order, with its outputs.

    Args:
        watched: further float32 outputs of components with states, and their shapes in named dimensions.
    """
    placed = [Recorded(case, room, room) for case in cases for room in (_room(parts[case.component], case, watched),)]
    for item, outputs in run_cases(parts, placed):
        yield item.case, outputs


def _room(part: Loaded, case: Case, watched: Mapping[str, Sequence[int | str]] | None) -> dict[str, Array]:
    """Arrays of the shapes that a call with states fills; pages that nobody writes take no memory."""
    if not part.states:
        return {}
    ports = {port.name: port for port in part.inputs}
    sizes = {
        dim: size
        for name, array in case.inputs.items()
        for dim, size in zip(ports[name].shape, array.shape, strict=True)
        if isinstance(dim, str)
    }
    remembered = {state.output for state in part.states}
    shapes = {out.name: (out.shape, out.dtype) for out in part.outputs if out.name not in remembered}
    shapes |= {name: (tuple(shape), "float32") for name, shape in (watched or {}).items()}
    return {
        name: np.zeros([dim if isinstance(dim, int) else sizes[dim] for dim in shape], dtype)
        for name, (shape, dtype) in shapes.items()
    }
