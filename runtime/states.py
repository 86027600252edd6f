"""What a component remembers between calls: its buffers, and calls that read and replace them in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from precast.runtime.artifact import StateSpec
from precast.runtime.backends.base import Array, Runner
from precast.runtime.errors import InputError
from precast.runtime.ports import Out, Port

__all__ = ["STEP", "Memory", "conditions", "int8_slot", "takes_slots"]

# Slots a ring has beyond its window: so many tokens can be taken back without losing one that is still to be seen.
RING_SLACK = 64
CAPACITY = "capacity"
# What a component that remembers tokens is told in every call.
STEP = frozenset(("input_ids", "past_lengths", "lengths", "logit_positions", "position_ids", "feature_rows"))


def conditions(ports: Sequence[Port]) -> tuple[Port, ...]:
    """Of what a component that remembers tokens takes, what a session is given once: it is the same in all calls, and
    comes from no other component."""
    return tuple(port for port in ports if port.kind != "state" and port.source is None and port.name not in STEP)


def takes_slots(spec: Port | Out) -> bool:
    """Whether a state grows with the tokens it remembers: [batch, heads, capacity, width]."""
    return any(isinstance(dim, str) and dim.startswith(CAPACITY) for dim in spec.shape)


def int8_slot(channels: int) -> int:
    """Bytes of a slot of a cache of int8: a float32 for every 32 channels."""
    return channels + -(-channels // 32) * 4


class Memory:
    """The states of a few rows, of one component.

    Args:
        specs: the component's inputs; shapes and types of the buffers come from them.
        rows: rows there is room for; a call takes the first of them.
        capacity: tokens a row has room for.
        layout: of the variant (`Variant.state`). ``ring``: the graph takes buffers of fewer slots than tokens where
            a window allows it; ``chunks_by_row``: it takes several new tokens behind old ones for one row at a time;
            ``int8``: slots are int8, the channels and behind them a float32 scale of every 32 of them.
    """

    def __init__(
        self,
        runner: Runner,
        specs: Sequence[Port],
        states: Sequence[StateSpec],
        *,
        rows: int,
        capacity: int,
        layout: Mapping[str, Any],
    ) -> None:
        self._runner = runner
        ring = layout.get("ring") is True
        self._by_row = layout.get("chunks_by_row") is True
        self._successor = {state.input: state.output for state in states}
        # What is of no row, as features of all of them, goes into every call whole.
        self._whole = frozenset(spec.name for spec in specs if spec.shape[:1] != ("batch",))
        self._ring = ring
        self._window = windows = {state.input: state.window for state in states}
        self.buffers: dict[str, Array] = {}
        self._growing: dict[str, int | None] = {}
        for spec in specs:
            if spec.name not in self._successor:
                continue
            window = windows[spec.name]
            slots = capacity if window is None or not ring else min(capacity, window + RING_SLACK)
            shape = [rows if dim == "batch" else slots if isinstance(dim, str) else dim for dim in spec.shape]
            has_slots = takes_slots(spec)
            dtype = np.dtype(spec.dtype)
            if has_slots and layout.get("int8") is True:
                dtype, shape[-1] = np.dtype(np.int8), int8_slot(shape[-1])
            # Zeros, not leftovers: a NaN in a slot that no token has used would still spoil a masked score. The system
            # hands out such memory page by page as it is first written.
            self.buffers[spec.name] = _zeros(shape, dtype)
            self._growing[spec.name] = slots if has_slots else None
        whole = [slots for name, slots in self._growing.items() if not (ring and windows[name])]
        # Slots of a buffer that has room for all tokens; None where there is none.
        self.slots = min((slots for slots in whole if slots is not None), default=None)

    def grow(self, capacity: int) -> None:
        """Room for ``capacity`` tokens a row in buffers that hold all of them."""
        for name, buffer in self.buffers.items():
            if self._growing[name] is None or (self._ring and self._window[name]):
                continue
            larger = _zeros((*buffer.shape[:2], capacity, *buffer.shape[3:]), buffer.dtype)
            larger[:, :, : buffer.shape[2]] = buffer
            self.buffers[name], self._growing[name] = larger, capacity
        self.slots = capacity

    def widen(self, rows: int) -> None:
        """Room for ``rows`` rows."""
        for name, buffer in self.buffers.items():
            larger = _zeros((rows, *buffer.shape[1:]), buffer.dtype)
            larger[: len(buffer)] = buffer
            self.buffers[name] = larger

    def prepare(self, rows: int, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> Callable[[], None]:
        """A call that takes the first ``rows`` rows of every state and leaves their successors in their place."""
        if self._by_row and rows > 1 and inputs["input_ids"].shape[1] > 1 and inputs["past_lengths"].any():
            calls = [self._prepared(slice(row, row + 1), inputs, outputs) for row in range(rows)]

            def each() -> None:
                for call in calls:
                    call()

            return each
        return self._prepared(slice(rows), inputs, outputs)

    def _prepared(self, rows: slice, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> Callable[[], None]:
        states = {name: buffer[rows] for name, buffer in self.buffers.items()}
        replaced = {self._successor[name]: array for name, array in states.items()}
        given, wanted = (
            {name: array if name in self._whole else array[rows] for name, array in part.items()}
            for part in (inputs, outputs)
        )
        return self._runner.prepare({**given, **states}, {**wanted, **replaced})

    def select(self, rows: Sequence[int], lengths: Sequence[int]) -> None:
        """New row ``i`` is old row ``rows[i]``, of which ``lengths[i]`` tokens count; only these are copied."""
        moved = [(new, old, count) for new, (old, count) in enumerate(zip(rows, lengths, strict=True)) if new != old]
        if not moved:
            return
        for name, buffer in self.buffers.items():
            slots = self._growing[name]
            # All sources are read before any row is written: rows may change places.
            parts = [
                buffer[old].copy() if slots is None else buffer[old, :, : min(count, slots)].copy()
                for _, old, count in moved
            ]
            for (new, _, count), part in zip(moved, parts, strict=True):
                if slots is None:
                    buffer[new] = part
                else:
                    buffer[new, :, : min(count, slots)] = part


def _zeros(shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
    try:
        return np.zeros(shape, dtype)
    except (MemoryError, ValueError) as error:
        raise InputError(
            f"a cache of {' x '.join(map(str, shape))} {dtype} does not fit this machine's memory ({error}). Ask for "
            "fewer rows or tokens."
        ) from error
