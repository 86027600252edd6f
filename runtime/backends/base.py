"""The Protocol every backend fulfils."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from precast.runtime.ports import Port

if TYPE_CHECKING:
    from precast.runtime.artifact import StateSpec
    from precast.runtime.states import Memory

__all__ = ["Array", "Backend", "Runner"]

Array = np.ndarray[Any, Any]


class Runner(Protocol):
    """One loaded graph; safe to call from many threads at once."""

    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    input_specs: Mapping[str, Port]
    output_specs: Mapping[str, Port]

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        """Compute all outputs, in the order of ``output_names``."""
        ...

    def memory(
        self,
        specs: Sequence[Port],
        states: Sequence[StateSpec],
        *,
        rows: int,
        capacity: int,
        layout: Mapping[str, Any],
    ) -> Memory:
        """Memory of its own for what the graph remembers of ``rows`` rows of ``capacity`` tokens (see `Memory`)."""
        ...

    def prepare(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> Callable[[], None]:
        """A call on fixed memory: it reads the arrays as they are when it is made, and fills those of ``outputs``.

        An output may be given an input's array: its successor then takes its place, and nothing is copied. The arrays
        are C-contiguous and of the shapes the graph computes; outputs that are not named are not computed for anybody.

        Raises:
            BackendError: from the call, where the graph cannot be run.
        """
        ...


class Backend(Protocol):
    """Loads graphs for one execution provider."""

    def supports(self, isa: str | None) -> bool:
        """Whether this process has what a variant says it needs beyond the provider."""
        ...

    def load(self, graph: Path, *, session: Mapping[str, Any], threads: int | None, isa: str | None = None) -> Runner:
        """Open ``graph`` with the session options its artifact prescribes; ``isa`` is what its variant needs beyond.

        Raises:
            ProviderError: the provider's library is missing, or it did not take the whole graph.
            BackendError: the graph cannot be loaded.
        """
        ...


def names(values: Sequence[Any]) -> tuple[str, ...]:
    """Names of a session's inputs or outputs."""
    return tuple(value.name for value in values)
