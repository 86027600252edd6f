"""Per part of a model: names, dimensions and limits of what goes in and what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from precast.export.blocks.cache import State, states_of
from precast.export.families import Family
from precast.export.generative import ENCODER, CausalLM, EncoderPart
from precast.export.heads import Head
from precast.export.spec import Spec

__all__ = ["Signature", "signature"]

# Sizes to trace with: all distinct, none of them 0 or 1, which torch would take for constants.
_SIZES = {"batch": 2, "choices": 3, "sequence": 5, "kept": 4, "source": 7, "capacity": 11}


@dataclass(frozen=True)
class Signature:
    """Inputs are int64 with the named dimensions; in encoders every input but ``input_ids`` may be left out.

    Args:
        limits: ``vocab_size``, ``type_vocab_size`` (ids are below them) and ``max_positions`` (the longest sequence).
        states: what a decoder remembers, float32, by input name; each has a successor among the outputs.
        cross: what it reads of its encoder, [batch, source, width] float32, by the name of the encoder's output.
    """

    inputs: dict[str, tuple[str, ...]]
    outputs: tuple[str, ...]
    limits: dict[str, int]
    states: Mapping[str, State] = field(default_factory=dict)
    cross: Mapping[str, tuple[int | str, ...]] = field(default_factory=dict)

    @property
    def floats(self) -> dict[str, tuple[int | str, ...]]:
        """Shapes of the float32 inputs, in order."""
        return {**{name: state.shape for name, state in self.states.items()}, **self.cross}

    @property
    def longest(self) -> dict[str, int]:
        """Largest values of named dimensions, for `trace`."""
        if self.states or "max_positions" not in self.limits:
            return {}
        return {"sequence": self.limits["max_positions"]}

    @property
    def dynamic(self) -> dict[str, dict[int, str]]:
        """Per input, which axes vary, for `trace`."""
        shapes = {**self.inputs, **self.floats}
        return {
            name: {axis: dim for axis, dim in enumerate(dims) if isinstance(dim, str)} for name, dims in shapes.items()
        }

    def example(self) -> dict[str, torch.Tensor | dict[str, torch.Tensor]]:
        """Inputs to trace with: distinct tensors (equal ones would be merged) of distinct sizes."""
        sizes = {**_SIZES, "sequence": min(5, self.limits.get("max_positions", 5))}
        for shape in self.floats.values():
            for dim in shape:
                if isinstance(dim, str):
                    sizes.setdefault(dim, 13 + len(sizes))
        made: dict[str, torch.Tensor | dict[str, torch.Tensor]] = {
            name: torch.ones([sizes[dim] for dim in dims], dtype=torch.int64) for name, dims in self.inputs.items()
        }
        if self.floats:
            made["states"] = {
                name: torch.zeros([sizes[dim] if isinstance(dim, str) else dim for dim in shape])
                for name, shape in self.floats.items()
            }
        return made


def signature(
    family: Family, spec: Spec, head: Head, module: nn.Module, absent: frozenset[str] = frozenset()
) -> Signature:
    """The signature of ``module``, part of a model with ``head``; ``absent``: optional parts the checkpoint lacks."""
    # A decoder may have a vocabulary of its own.
    vocab = module.lm_head.out_features if isinstance(module, CausalLM) else spec.vocab_size  # type: ignore[attr-defined]
    limits = {"vocab_size": int(vocab)}
    longest = family.limits(spec)
    if longest is not None:
        limits["max_positions"] = longest
    if isinstance(module, CausalLM):
        return _decoder(module, limits)
    dims = ("batch", "choices", "sequence") if head.choices else ("batch", "sequence")
    if isinstance(module, EncoderPart):
        names = ["input_ids", "attention_mask"]
        cross = [f"cross_{kind}.{index}" for index in range(len(module.cross)) for kind in ("key", "value")]
        return Signature(dict.fromkeys(names, dims), ("last_hidden_state", *cross), limits)
    names = [name for name in family.inputs(spec) if name != "token_type_ids" or family.token_types(spec) > 1]
    if "token_type_ids" in names:
        limits["type_vocab_size"] = family.token_types(spec)
    outputs = tuple(name for name in head.outputs if name.removesuffix("_output") not in absent)
    return Signature(dict.fromkeys(names, dims), outputs, limits)


def _decoder(module: CausalLM, limits: dict[str, int]) -> Signature:
    row = ("batch", "sequence")
    inputs = {"input_ids": row, "past_lengths": ("batch",), "lengths": ("batch",), "logit_positions": ("batch", "kept")}
    if module.positions:
        inputs["position_ids"] = row
    parts = module.parts()
    cross: dict[str, tuple[int | str, ...]] = {}
    encoder = parts.get(ENCODER)
    if isinstance(encoder, EncoderPart):
        inputs["encoder_attention_mask"] = ("batch", "source")
        for index, attention in enumerate(encoder.attentions()):
            width = attention.heads * attention.size
            cross |= {f"cross_{kind}.{index}": ("batch", "source", width) for kind in ("key", "value")}
    states = states_of(module.model)
    outputs = ("logits", *(name.replace("past_", "present_", 1) for name in states))
    return Signature(inputs, outputs, limits, states=states, cross=cross)
