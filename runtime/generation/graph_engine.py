"""An engine over an artifact's graphs: buffers that are appended in place, calls prepared once and run many times."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from precast.runtime.artifact import Component
from precast.runtime.backends.base import Array
from precast.runtime.errors import ArtifactError, InputError, listing
from precast.runtime.flow import Flow
from precast.runtime.generation.among import COUNTS, FEATURES, ROWS, Among, Placed, token_of
from precast.runtime.generation.grids import grids_of
from precast.runtime.generation.sources import Encoded, Source
from precast.runtime.generation.tiles import SIZES, tiles_of
from precast.runtime.ports import merged
from precast.runtime.states import RING_SLACK, STEP, Memory, conditions, takes_slots

__all__ = ["GraphEngine", "GraphSession", "left_aligned"]

# Tokens of a prompt that are processed at once: what a call holds between layers grows with them.
CHUNK = 2048
_ALWAYS = 1 << 40
_TAKEN = STEP - {"position_ids", ROWS}


class GraphEngine:
    """See `precast.runtime.generation.engine.Engine`.

    Args:
        flow: the loaded decoder, and in front of it what it reads.
        join: what the manifest says of tokens that hold places (``processing.join``), where there are any.
        prompt: what it says of texts that answers begin with (``processing.prompt``), where these may be given as
            ``input_ids``.
    """

    def __init__(
        self, flow: Flow, join: Mapping[str, Any] | None = None, prompt: Mapping[str, Any] | None = None
    ) -> None:
        self.flow = flow
        self.component, variant, self.decoder = flow.parts[flow.last]
        self.layout: Mapping[str, Any] = variant.state
        self.vocab_size = _width(self.component)
        self.max_length: int | None = self.component.longest
        component = self.component
        before = [flow.parts[name].component for name in flow.before]
        joined = any(port.name == ROWS for port in component.inputs)
        self.source = _source(before) if before and not joined else None
        self.among = _among(before, join or {}, self.vocab_size) if joined else None
        self.prompt_start = token_of(prompt, self.vocab_size, "prompt") if prompt else None
        self.conditions = tuple(port.name for port in conditions(component.inputs))
        self.with_positions = any(spec.name == "position_ids" for spec in component.inputs)
        # Of a position: its time, height and width, where that is more than a number.
        self.axes = next((spec.shape[2:] for spec in component.inputs if spec.name == "position_ids"), ())
        windows = [state.window for state in component.states]
        remembered = {state.input for state in component.states}
        slots = [takes_slots(spec) for spec in component.inputs if spec.name in remembered]
        if not all(slots):
            self.rollback = 0
        elif self.layout.get("ring") is True and any(window is not None for window in windows):
            self.rollback = RING_SLACK
        else:
            self.rollback = _ALWAYS

    def open(self, rows: int, capacity: int, context: Mapping[str, Array] | None = None) -> GraphSession:
        """See `Engine.open`."""
        if rows < 1 or capacity < 1:
            raise InputError(f"a session has one row and one token of room at least; received {rows} and {capacity}.")
        if self.among is not None:
            return GraphSession(self, rows, capacity, {}, None, self._placed(rows, context))
        if not self.flow.before and not self.conditions:
            return GraphSession(self, rows, capacity, {}, None)
        if context is None or any(name not in context for name in self.conditions):
            needs = listing(self.conditions) if self.conditions else "an encoder's input"
            raise InputError(f"what this model says depends on {needs}: context is needed.")
        own = {name: context[name] for name in self.conditions}
        if not self.flow.before:
            return GraphSession(self, rows, capacity, own, None)
        given = self._aligned({name: array for name, array in context.items() if name not in own})
        read, made = self.flow.read(given)
        states = made.get("last_hidden_state", given.get("last_hidden_state"))
        return GraphSession(self, rows, capacity, {**read, **own}, states)

    def _placed(self, rows: int, context: Mapping[str, Array] | None) -> Placed:
        """What stands among the tokens of each row."""
        assert self.among is not None
        if context is None:
            width = next(port.shape[-1] for port in self.component.inputs if port.name == FEATURES)
            assert isinstance(width, int)
            return Placed.none(self.among.token, width, rows)
        if self.among.grids is not None:
            pixels, grid = (context[port.name] for port in self.among.ports)
            pictures = self.among.grids.pictures(pixels, grid)
            made = [self.flow.read({self.among.ports[0].name: each})[0][FEATURES] for each in pictures]
            return self.among.placed(np.concatenate(made), context)
        read, _ = self.flow.read({name: array for name, array in context.items() if name not in (COUNTS, SIZES)})
        return self.among.placed(read[FEATURES], context)

    def encoded(self, context: Mapping[str, Array]) -> Encoded:
        """See `Engine.encoded`."""
        given = self._aligned(context)
        _, made = self.flow.read(given)
        rest = {name: array for name, array in given.items() if self.source is None or name != self.source.main}
        return Encoded(self, {**rest, **made})

    def _aligned(self, context: Mapping[str, Array]) -> dict[str, Array]:
        """An encoder's inputs, of a text with its real tokens at the beginning."""
        given = dict(context)
        if "input_ids" in given:
            given["input_ids"], given["attention_mask"] = left_aligned(context["input_ids"], context["attention_mask"])
            width, longest = given["input_ids"].shape[1], None if self.source is None else self.source.longest
            if longest is not None and width > longest:
                raise InputError(
                    f"this model reads texts of {longest} tokens; received {width}. Cut the text "
                    "(tokenizer(..., truncation=True)), or split it."
                )
        return given


def _source(components: Sequence[Component]) -> Source:
    """What a caller gives to these. The text that one reads may be of another vocabulary than the decoder's."""
    for component in components:
        if any(port.kind == "ids" and port.below is None for port in component.inputs):
            raise ArtifactError(
                f"component {component.name!r} reads tokens, and nothing says how many there are. Export it again."
            )
    ports = [port for component in components for port in component.inputs if port.source is None]
    return Source(ports, merged(component.dims for component in components))


def _among(components: Sequence[Component], join: Mapping[str, Any], vocab_size: int) -> Among:
    """What a caller may give to these."""
    ports = [port for component in components for port in component.inputs if port.source is None]
    dims = merged(component.dims for component in components)
    return Among(ports, dims, token_of(join, vocab_size), tiles_of(join), grids_of(join))


def _width(component: Component) -> int:
    """Logits of a position. A component that remembers tokens is called in one way; one that is made otherwise is
    nobody's decoder."""
    taken = {port.name for port in component.inputs}
    logits = component.output("logits")
    width = logits.shape[-1] if logits is not None and logits.shape else None
    if not taken >= _TAKEN or not isinstance(width, int) or component.vocab_size is None:
        shape = None if logits is None else list(logits.shape)
        raise ArtifactError(
            f"component {component.name!r} remembers tokens, and must take {listing(sorted(_TAKEN))} and give logits "
            f"over its vocabulary, got inputs {listing(sorted(taken))}, logits {shape} and vocab_size "
            f"{component.vocab_size}. Export it again."
        )
    return width


def left_aligned(input_ids: Array, attention_mask: Array) -> tuple[Array, Array]:
    """Ids and mask [N, T'] with every row's real tokens at its beginning and no column without one: an encoder's
    positions count real tokens, on whichever side padding stands. Padding is 0, which can be looked up."""
    real = np.asarray(attention_mask) != 0
    counts = real.sum(axis=-1)
    mask = np.arange(counts.max())[None] < counts[:, None]
    ids = np.zeros(mask.shape, np.int64)
    ids[mask] = np.asarray(input_ids)[real]
    return ids, mask.astype(np.int64)


@dataclass(frozen=True)
class _Prepared:
    """A call on arrays of one shape, and these arrays."""

    run: Callable[[], None]
    ids: Array
    positions: Array | None
    past: Array
    lengths: Array
    wanted: Array
    logits: Array
    feature_rows: Array | None


class GraphSession:
    """See `precast.runtime.generation.engine.Session`."""

    def __init__(
        self,
        engine: GraphEngine,
        rows: int,
        capacity: int,
        context: Mapping[str, Array],
        states: Array | None,
        placed: Placed | None = None,
    ) -> None:
        self._engine = engine
        self.rows = rows
        self.capacity = capacity
        self.lengths: Array = np.zeros(rows, dtype=np.int64)
        self._highest: Array = np.zeros(rows, dtype=np.int64)
        self.encoder_states = states
        self._context = dict(context)
        self._placed = placed
        self._sources = list(range(rows))  # which text each row belongs to
        self._memory: Memory | None = None
        self._room = rows
        self._calls: dict[tuple[int, int, int, bool], _Prepared] = {}

    @property
    def rollback(self) -> int:
        """See `Session.rollback`. What was written into a ring stays overwritten when tokens are taken back."""
        return max(0, self._engine.rollback - int((self._highest - self.lengths).max()))

    def feed(self, tokens: Sequence[Sequence[int]], keep: int = 1, positions: Array | None = None) -> Array:
        """See `Session.feed`. ``positions`` [R, S] replace the count of tokens in models that use positions."""
        counts = [len(row) for row in tokens]
        if len(counts) != self.rows or min(counts) < 1:
            raise InputError(f"each of the {self.rows} rows is fed one token at least; received {counts}.")
        longest = max(counts)
        over = int((self.lengths + counts).max())
        if over > self.capacity:
            raise InputError(
                f"this session has room for {self.capacity} tokens a row; {over} would be needed. "
                "Ask for fewer new tokens, or open it with a larger capacity."
            )
        if longest <= CHUNK or min(counts) != longest:
            return self._feed(tokens, counts, keep, positions)
        # A long prompt goes through in pieces: only those that hold a wanted token compute logits of more than one.
        edges = list(range(0, longest - keep, CHUNK)) or [0]
        for begin, end in zip(edges, [*edges[1:], None], strict=True):
            part = [row[begin:end] for row in tokens]
            where = None if positions is None else positions[:, begin:end]
            last = end is None
            logits = self._feed(part, [len(row) for row in part], keep if last else 1, where)
        return logits

    def _feed(self, tokens: Sequence[Sequence[int]], counts: list[int], keep: int, positions: Array | None) -> Array:
        width = max(counts)
        call = self._prepared(width, keep)
        if width == 1:
            call.ids[:, 0] = [row[0] for row in tokens]
        else:
            for row, (given, count) in enumerate(zip(tokens, counts, strict=True)):
                call.ids[row, :count] = given
        if self._placed is not None and call.feature_rows is not None:
            self._placed.fill(tokens, self.lengths.tolist(), call.feature_rows)
        call.past[:] = self.lengths
        call.lengths[:] = counts
        if call.positions is not None:
            if positions is None and self._engine.axes:
                assert self._placed is not None
                call.positions[:] = self._placed.positions(self.lengths.tolist(), width)
                if self._engine.max_length is not None:
                    np.minimum(call.positions, self._engine.max_length - 1, out=call.positions)
            elif positions is None:
                np.add(self.lengths[:, None], np.arange(width), out=call.positions)
                if self._engine.max_length is not None:
                    # Padding may lie beyond the last position there is; real tokens were checked.
                    np.minimum(call.positions, self._engine.max_length - 1, out=call.positions)
            else:
                call.positions[:] = positions[..., None] if self._engine.axes else positions
        np.add(call.lengths[:, None], np.arange(-keep, 0), out=call.wanted)
        np.maximum(call.wanted, 0, out=call.wanted)
        call.run()
        self.lengths += call.lengths
        np.maximum(self._highest, self.lengths, out=self._highest)
        return call.logits

    def _prepared(self, width: int, keep: int) -> _Prepared:
        # What new tokens behind old ones ask of a graph may differ from what a prompt does (`Memory.prepare`).
        key = (self.rows, width, keep, bool(self.lengths.any()))
        memory = self._memory or self._remember(width)
        # Padding of shorter rows takes slots too, behind the longest row: more than a session was opened with.
        if memory.slots is not None and int(self.lengths.max()) + width > memory.slots:
            memory.grow(self.capacity + width)
            self._calls.clear()
        found = self._calls.get(key)
        if found is not None:
            return found
        rows = self.rows
        integers = {
            "input_ids": np.zeros((rows, width), np.int64),
            "past_lengths": self.lengths.copy(),
            "lengths": np.zeros(rows, np.int64),
            "logit_positions": np.zeros((rows, keep), np.int64),
        }
        if self._engine.with_positions:
            integers["position_ids"] = np.zeros((rows, width, *self._engine.axes), np.int64)
        beside = dict(self._context)
        if self._placed is not None:
            integers[ROWS] = np.full((rows, width), -1, np.int64)
            beside[FEATURES] = self._placed.features
        logits = np.zeros((rows, keep, self._engine.vocab_size), np.float32)
        run = memory.prepare(rows, {**integers, **beside}, {"logits": logits})
        call = _Prepared(
            run,
            integers["input_ids"],
            integers.get("position_ids"),
            integers["past_lengths"],
            integers["lengths"],
            integers["logit_positions"],
            logits,
            integers.get(ROWS),
        )
        # Prompts differ in length and are seen once; steps and checks of a few drafted tokens come again and again.
        if width <= 16:
            self._calls[key] = call
        return call

    def _remember(self, width: int) -> Memory:
        component = self._engine.component
        self._memory = self._engine.decoder.memory(
            component.inputs,
            component.states,
            rows=self._room,
            capacity=max(self.capacity, width),
            layout=self._engine.layout,
        )
        return self._memory

    def select(self, rows: Sequence[int]) -> None:
        """See `Session.select`."""
        chosen = list(rows)
        if not chosen or min(chosen) < 0 or max(chosen) >= self.rows:
            raise InputError(f"rows are 0 to {self.rows - 1}, one at least; received {chosen}.")
        if chosen == list(range(self.rows)):
            return
        if self._memory is not None:
            if len(chosen) > self._room:
                self._memory.widen(len(chosen))
                self._calls.clear()
            self._memory.select(chosen, [int(self.lengths[row]) for row in chosen])
        self._room = max(self._room, len(chosen))
        if self._placed is not None:
            self._placed.select(chosen)
        sources = [self._sources[row] for row in chosen]
        if self._context and sources != self._sources:
            # Beams of one text share what its encoder made: it moves only where texts do.
            self._context = {name: np.ascontiguousarray(array[chosen]) for name, array in self._context.items()}
            self._calls.clear()
        self._sources = sources
        self.lengths = self.lengths[chosen].copy()
        self._highest = self._highest[chosen].copy()
        self.rows = len(chosen)

    def truncate(self, lengths: Sequence[int]) -> None:
        """See `Session.truncate`."""
        wanted = np.asarray(lengths, dtype=np.int64)
        if wanted.shape != self.lengths.shape or (wanted < 0).any() or (wanted > self.lengths).any():
            raise InputError(f"rows hold {self.lengths.tolist()} tokens and can be cut to fewer; received {lengths}.")
        back = int((self.lengths - wanted).max(initial=0))
        if back > self.rollback:
            raise InputError(f"this model can take back {self.rollback} tokens; {back} were asked for.")
        if self._placed is not None:
            self._placed.truncate(wanted.tolist())
        self.lengths[:] = wanted
