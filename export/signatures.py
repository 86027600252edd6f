"""What goes in and out of each component of a model, as its module says it, and inputs to trace it with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from precast.export.blocks.cache import State
from precast.graphs.recipes import Role
from precast.runtime.ports import FREE, Dim, Out, Port, merged
from precast.runtime.states import conditions

__all__ = ["Component", "Signature", "dims_of", "signature"]

# Sizes to trace with: all distinct, none of them 0 or 1, which torch would take for constants.
_SIZES = {"batch": 2, "choices": 3, "sequence": 5, "kept": 4, "source": 7, "capacity": 11}
_SIZES |= {"height": 70, "width": 102}  # so large that strides leave something of them
_SIZES |= {"samples": 2017, "frames": 37}
_NEXT = 13


class Component(nn.Module):
    """A module that becomes one graph: it is called with its ports by name, and returns its outputs by name.

    Ports whose name no argument can have (``past_key.0``) are given together, as ``states``, by name.
    """

    def ports(self) -> tuple[Port, ...]:
        """What it takes, in order."""
        raise NotImplementedError

    def outs(self) -> tuple[Out, ...]:
        """What it gives, in order."""
        raise NotImplementedError

    def dims(self) -> Mapping[str, Dim]:
        """How large its named dimensions may be: what the modules inside it say."""
        return dims_of(self)

    def ends(self) -> Mapping[str, int]:
        """Ids that a row of a port ends with, by port: where an output is read at that id, inputs that are made up
        hold it."""
        return {}

    def largest(self) -> int | None:
        """The size up to which parity tries it, where a larger one would take the float64 judge too long: of pictures
        of which every pixel is a place of attention, or becomes many. None: as everything is."""
        return None

    def processing(self) -> Mapping[str, Any]:
        """What the runtime does around it, as the manifest holds that under ``processing``."""
        return {}

    def states(self) -> Mapping[str, State]:
        """What it remembers between calls, by the port that takes it; each has a successor among the outputs."""
        return {}


def dims_of(*modules: nn.Module | None) -> dict[str, Dim]:
    """How large named dimensions may be for all modules in these, which say so as ``bounds()``."""
    inside = [each for module in modules if module is not None for each in module.modules()]
    return merged(each.bounds() for each in inside if hasattr(each, "bounds"))  # type: ignore[operator]


@dataclass(frozen=True)
class Signature:
    """The ports, outputs and dimensions of one component, what it remembers and which ids end a row, by port, and the
    largest size it is tried with."""

    ports: tuple[Port, ...]
    outs: tuple[Out, ...]
    dims: Mapping[str, Dim] = field(default_factory=dict)
    states: Mapping[str, State] = field(default_factory=dict)
    ends: Mapping[str, int] = field(default_factory=dict)
    largest: int | None = None

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(out.name for out in self.outs)

    @property
    def hidden(self) -> tuple[str, ...]:
        """Outputs that components of the model read again, and nobody else."""
        return tuple(out.name for out in self.outs if out.kind in ("state", "features"))

    @property
    def given(self) -> tuple[Port, ...]:
        """Ports whose values a call brings itself; and codes, which float32 may choose another way: parity makes them
        up."""
        return tuple(
            port for port in self.ports if port.kind != "state" and (port.source is None or port.kind == "codes")
        )

    @property
    def once(self) -> tuple[Port, ...]:
        """Of what remembers tokens, ports that a session fills once, by itself."""
        return conditions(self.ports) if self.states else ()

    @property
    def role(self) -> Role:
        """What recipes it is for."""
        return "step" if self.states else "call"

    def port(self, name: str) -> Port | None:
        """The port of that name, or None."""
        return next((port for port in self.ports if port.name == name), None)

    @property
    def vocab_size(self) -> int:
        """Ids are below it."""
        return next(port.below for port in self.ports if port.kind == "ids" and port.below is not None)

    @property
    def longest(self) -> int | None:
        """Tokens of a text at most, where that is bounded."""
        return self.dim("sequence").most

    def dim(self, name: str) -> Dim:
        """How large a dimension may be."""
        return self.dims.get(name, FREE)

    @property
    def bounds(self) -> dict[str, Dim]:
        """How large named dimensions may be, for `trace`."""
        if self.states:  # what is new and what is remembered are bounded together
            return {}
        return dict(self.dims)

    @property
    def dynamic(self) -> dict[str, dict[int, str]]:
        """Per input, which axes vary, for `trace`."""
        return {
            port.name: {axis: dim for axis, dim in enumerate(port.shape) if isinstance(dim, str)} for port in self.ports
        }

    def example(self) -> dict[str, torch.Tensor | dict[str, torch.Tensor]]:
        """Inputs to trace with: distinct tensors (equal ones would be merged) of distinct sizes."""
        sizes: dict[str, int] = {}
        for port in self.ports:
            for dim in port.shape:
                if isinstance(dim, str) and dim not in sizes:
                    sizes[dim] = self.dim(dim).at(_SIZES.get(dim, _NEXT + len(sizes))) or 1
        made: dict[str, torch.Tensor | dict[str, torch.Tensor]] = {}
        together: dict[str, torch.Tensor] = {}
        for port in self.ports:
            dtype = getattr(torch, port.dtype)
            shape = [sizes[dim] if isinstance(dim, str) else dim for dim in port.shape]
            value = torch.zeros(shape, dtype=dtype) if dtype.is_floating_point else torch.ones(shape, dtype=dtype)
            if port.name.isidentifier():
                made[port.name] = value
            else:
                together[port.name] = value
        return {**made, "states": together} if together else made


def signature(component: nn.Module) -> Signature:
    """What a component says of itself."""
    assert isinstance(component, Component), f"{type(component).__name__} says no ports"
    own = component
    return Signature(own.ports(), own.outs(), own.dims(), own.states(), own.ends(), own.largest())
