"""A component of an artifact: its ports, its variants, and what it remembers between calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from precast.runtime.artifact.file_names import check_label
from precast.runtime.artifact.free_fields import check_variant
from precast.runtime.artifact.tensors import read_dim, read_out, read_port
from precast.runtime.fields import Fields, is_text
from precast.runtime.ports import FREE, Dim, Out, Port

__all__ = ["Component", "StateSpec", "Variant"]

_EMPTY: Mapping[str, Any] = MappingProxyType({})
_ENGINE = "onnxruntime"  # of whatever names none


class StateSpec(NamedTuple):
    """What a component remembers between calls: the input that takes it, the output that gives its successor.

    A dimension ``capacity`` of the input's shape is the number of tokens there is room for. ``window``: how many of the
    last tokens are ever read again, or None; a variant whose ``state`` says ``ring`` needs no more slots than that, the
    slot of position p being p modulo their number. One whose ``state`` says ``int8`` holds what has slots in int8: in
    each slot the channels, and behind them a float32 for every 32 of them, which these are multiplied by.
    """

    input: str
    output: str
    window: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {"input": self.input, "output": self.output, "window": self.window}

    @classmethod
    def read(cls, fields: Fields) -> StateSpec:
        spec = cls(
            input=fields.text("input"),
            output=fields.text("output"),
            window=fields.optional_count("window"),
        )
        fields.close()
        return spec


class Variant(NamedTuple):
    """One precision for one target: a graph, the weights it reads, and how its session is made.

    ``session`` holds the options of the backend, ``operators`` counts the graph's nodes by type, ``fusions`` what the
    passes fused, ``recipe`` the passes in order, ``parity`` the measured errors. ``producer`` is set where the variant
    was made by other versions than the rest of the artifact. ``work`` is what one call costs in operations and bytes,
    which ``precast.runtime.bench.work`` evaluates; empty in artifacts of format 1.0. ``engine`` is a file of
    ``precast.runtime.backends``, ``provider`` one of that engine's own. ``state`` says how its states may
    be laid out (see `StateSpec`). Everything here is part of the artifact's identity: timings belong into
    ``Manifest.cost``.
    """

    name: str
    graph: str
    target: str
    precision: str
    dialect: str
    provider: str
    opset: Mapping[str, int] = _EMPTY
    session: Mapping[str, Any] = _EMPTY
    isa: str | None = None
    weights: tuple[str, ...] = ()
    operators: Mapping[str, int] = _EMPTY
    fusions: Mapping[str, Any] = _EMPTY
    fingerprint: str = ""
    recipe: tuple[Any, ...] = ()
    parity: Mapping[str, Any] = _EMPTY
    producer: Mapping[str, str] = _EMPTY
    work: Mapping[str, Any] = _EMPTY
    state: Mapping[str, Any] = _EMPTY
    engine: str = _ENGINE

    def to_json(self) -> dict[str, Any]:
        document: dict[str, Any] = {
            "graph": self.graph,
            "target": self.target,
            "precision": self.precision,
            "dialect": self.dialect,
            "provider": self.provider,
            "opset": dict(self.opset),
            "session": dict(self.session),
            "isa": self.isa,
            "weights": list(self.weights),
            "operators": dict(self.operators),
            "fusions": dict(self.fusions),
            "fingerprint": self.fingerprint,
            "recipe": list(self.recipe),
            "parity": dict(self.parity),
        }
        document.update({name: dict(value) for name in ("producer", "work", "state") if (value := getattr(self, name))})
        if self.engine != _ENGINE:
            document["engine"] = self.engine
        return document

    @classmethod
    def read(cls, name: str, fields: Fields) -> Variant:
        check_label(name, fields.where)
        variant = cls(
            name=name,
            graph=fields.text("graph"),
            target=fields.text("target"),
            precision=fields.text("precision"),
            dialect=fields.text("dialect"),
            provider=fields.text("provider"),
            engine=fields.text("engine", _ENGINE),
            opset=fields.counts("opset"),
            session=fields.data("session"),
            isa=fields.optional_text("isa"),
            weights=fields.texts("weights"),
            operators=fields.counts("operators"),
            fusions=fields.counts("fusions"),
            fingerprint=fields.take("fingerprint", "a string", is_text),
            recipe=tuple(fields.items("recipe")),
            parity=fields.data("parity"),
            producer=fields.mapping("producer", "a string", is_text, {}),
            work=fields.data("work", {}),
            state=fields.data("state", {}),
        )
        fields.close()
        check_variant(fields, variant.weights, variant.session, variant.parity, variant.work, variant.state)
        return variant


class Component(NamedTuple):
    """One graph's worth of model (``encoder``): what goes in and out in every variant, and how large it may be.

    ``dims``: of named dimensions; one that is not there is free.
    """

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Out, ...]
    variants: Mapping[str, Variant]
    dims: Mapping[str, Dim] = _EMPTY
    states: tuple[StateSpec, ...] = ()

    def dim(self, name: int | str) -> Dim:
        """How large a dimension may be."""
        return Dim(name, name) if isinstance(name, int) else self.dims.get(name, FREE)

    def input(self, name: str) -> Port | None:
        """The port of that name, or None."""
        return next((port for port in self.inputs if port.name == name), None)

    def output(self, name: str) -> Out | None:
        """The output of that name, or None."""
        return next((out for out in self.outputs if out.name == name), None)

    @property
    def given(self) -> tuple[Port, ...]:
        """Ports whose values a call brings itself."""
        return tuple(port for port in self.inputs if port.kind != "state" and port.source is None)

    @property
    def vocab_size(self) -> int | None:
        """Ids are below it, where it takes any."""
        return next((port.below for port in self.inputs if port.kind == "ids"), None)

    @property
    def longest(self) -> int | None:
        """Tokens of a text at most, where that is bounded."""
        return self.dim("sequence").most

    def to_json(self) -> dict[str, Any]:
        document: dict[str, Any] = {
            "inputs": [port.to_json() for port in self.inputs],
            "outputs": [out.to_json() for out in self.outputs],
            "limits": _limits(self),
            "dims": {name: dim.to_json() for name, dim in self.dims.items()},
            "variants": {name: variant.to_json() for name, variant in self.variants.items()},
        }
        if self.states:
            document["states"] = [spec.to_json() for spec in self.states]
        return document

    @classmethod
    def read(cls, name: str, fields: Fields, *, described: bool = True) -> Component:
        """``described``: since format 1.3, ports say themselves what they are."""
        check_label(name, fields.where)
        limits = fields.data("limits")
        counted = fields.inner("limits", limits)
        for key in _LIMITS:
            counted.optional_count(key, None)
        component = cls(
            name=name,
            inputs=_all_named(fields, "inputs", read_port),
            outputs=_all_named(fields, "outputs", read_out),
            variants=fields.each("variants", Variant.read),
            dims=fields.each("dims", read_dim) if described else {},
            states=tuple(fields.all("states", StateSpec.read, [])),
        )
        fields.close()
        if not component.variants:
            fields.fail("variants", "one variant or more", {})
        return component if described else _upgraded(component, limits)


# Of formats before 1.3: the limits, and the inputs whose values are below them.
_LIMITS = {"vocab_size": "input_ids", "type_vocab_size": "token_type_ids", "max_positions": "position_ids"}
_OLD_KINDS = {
    "input_ids": "ids",
    "attention_mask": "mask",
    "encoder_attention_mask": "mask",
    "token_type_ids": "types",
    "position_ids": "positions",
    "logit_positions": "positions",
    "past_lengths": "number",
    "lengths": "number",
}
_OLD_OUTPUTS = {
    "last_hidden_state": "states",
    "pooler_output": "embedding",
    **dict.fromkeys(("logits", "start_logits", "end_logits"), "logits"),
}
_OLD_SOURCES = {"encoder_attention_mask": "encoder.attention_mask"}


def _limits(component: Component) -> dict[str, int]:
    """What readers of formats before 1.3 take ports and dimensions from."""
    found = {"vocab_size": component.vocab_size, "max_positions": component.longest}
    found["type_vocab_size"] = next((port.below for port in component.inputs if port.kind == "types"), None)
    return {name: value for name, value in found.items() if value is not None}


def _upgraded(component: Component, limits: Mapping[str, Any]) -> Component:
    """A component of a format before 1.3, whose inputs and outputs are known by their names."""
    below = {name: limits.get(limit) for limit, name in _LIMITS.items()}
    remembered = {state.input for state in component.states} | {state.output for state in component.states}

    def kind(name: str, known: Mapping[str, str]) -> str:
        return "state" if name in remembered else "features" if name.startswith("cross_") else known.get(name, "")

    ports = tuple(
        port._replace(
            kind=kind(port.name, _OLD_KINDS),
            below=below.get(port.name),
            source="encoder" if port.name.startswith("cross_") else _OLD_SOURCES.get(port.name),
        )
        for port in component.inputs
    )
    outs = tuple(out._replace(kind=kind(out.name, _OLD_OUTPUTS)) for out in component.outputs)
    longest = limits.get("max_positions")
    dims = {} if longest is None else {"sequence": Dim(most=longest)}
    return component._replace(inputs=ports, outputs=outs, dims=dims)


T = TypeVar("T", Port, Out)


def _all_named(fields: Fields, key: str, read: Callable[[Fields], T]) -> tuple[T, ...]:
    records = tuple(fields.all(key, read))
    names = [record.name for record in records]
    if len(set(names)) != len(names):
        fields.fail(key, "tensors of different names", names)
    return records
