"""Right models by the hundred: one trace of a family, head and config serves any number of draws of its weights.

Only the config comes from upstream; weights are drawn into the reference itself, bound to the traced graph, lowered by
every float32 recipe and run with every instruction set that the machine has.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from precast.export import parity
from precast.export.blocks.tables import fill_tables
from precast.export.components import parts_of
from precast.export.families import find_family, model_types
from precast.export.heads import HEADS, MULTIPLE_CHOICE, NEXT_SENTENCE, QUESTION_ANSWERING
from precast.export.reference import Part
from precast.export.signatures import signature
from precast.export.trace import trace
from precast.export.weights import Tie
from precast.graphs.emit import Folder, emit
from precast.graphs.passes.base import run
from precast.graphs.recipes import RECIPES, Recipe
from precast.runtime import kernels
from precast.runtime.backends.engines import backend_for
from precast.runtime.gates import LEAST, Measured
from precast.runtime.parity import Case, Loaded, Recorded, compare

__all__ = ["STRAINS", "Kind", "Traced", "graphs_of", "kinds", "recipes", "redraw", "run_graphs"]

# How weights are drawn: as in the tests, and with norms, matrices or tables so wide that float32 is strained.
STRAINS = ("plain", "wide norms", "wide matrices", "wide tables")
# Long chains of a decoder are for the tests: errors of a step are those of the steps before it.
_CHAINS: tuple[tuple[int, tuple[int, ...], str], ...] = (
    (1, (8, 1, 1, 1), "full"),
    (3, (7, 1, 2, 1), "ragged"),
    (1, (64, 63, 1), "full"),
    (2, (127, 2), "ragged"),
)
_LONGEST = 512
# Shapes that the tests' tiny configs do not have: many layers as in ModernBERT-base, norms over wide states.
_SHAPES: dict[str, dict[str, dict[str, Any]]] = {
    "modernbert": {"22 layers": {"num_hidden_layers": 22, "hidden_size": 96, "intermediate_size": 144}},
    "gemma": {"wide": {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}},
    "t5": {"gated": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "d_kv": 32}},
    "bert": {"wide": {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}},
    "deberta-v2": {"heads of 64": {"hidden_size": 128, "num_attention_heads": 2}},
}


@dataclass(frozen=True)
class Kind:
    """A family, a head and a size: what one trace serves."""

    model_type: str
    task: str
    size: str
    overrides: Mapping[str, Any] = field(compare=False)

    def __str__(self) -> str:
        return f"{self.model_type} {self.task} {self.size}"


def kinds() -> list[Kind]:
    """All of them: families x heads at their tests' size, and each family's other sizes with its first head."""
    found = []
    for model_type in model_types():
        family = find_family(model_type)
        for place, head in enumerate(family.heads):
            found.append(Kind(model_type, head.task, "tiny", {}))
            if place:
                continue
            for index, overrides in enumerate(family.variations, 1):
                found.append(Kind(model_type, head.task, f"variation {index}", overrides))
            for size, overrides in _SHAPES.get(model_type, {}).items():
                found.append(Kind(model_type, head.task, size, overrides))
    return found


def recipes() -> list[tuple[Recipe, tuple[str | None, ...]]]:
    """The float32 recipes that this machine runs, with the instruction sets there are for them."""
    found: list[tuple[Recipe, tuple[str | None, ...]]] = []
    for recipe in RECIPES:
        if recipe.precision != "fp32" or recipe.provider != "CPUExecutionProvider":
            continue
        if recipe.isa is None:
            found.append((recipe, (None,)))
        elif backend_for(recipe.engine, recipe.provider).supports(recipe.isa):
            found.append((recipe, kernels.isas()))
    return found


@dataclass(frozen=True)
class Traced:
    """The parts of a reference and their graphs; weights are drawn into the first and bound to the second."""

    kind: Kind
    model: nn.Module
    parts: tuple[Part, ...]

    @staticmethod
    def of(kind: Kind) -> Traced:
        """The reference of a kind, its parameters without values."""
        import transformers

        family = find_family(kind.model_type)
        [head] = [head for head in HEADS if head.task == kind.task]
        values = {**family.tiny, **kind.overrides}
        if head in (QUESTION_ANSWERING, MULTIPLE_CHOICE, NEXT_SENTENCE):
            values.pop("num_labels", None)  # the number of outputs is fixed by the task
        config = json.loads(transformers.AutoConfig.for_model(kind.model_type, **values).to_json_string(use_diff=False))
        spec = family.read(config)
        with torch.device("meta"):
            model = family.heads[head](spec, frozenset())
        model = model.to_empty(device="cpu").eval()
        named = dict(model.named_parameters(remove_duplicate=False))
        for rule in family.weights(spec):
            if isinstance(rule, Tie) and rule.target in named and rule.source in named:
                path, _, name = rule.target.rpartition(".")
                setattr(model.get_submodule(path), name, named[rule.source])
        fill_tables(model)
        parts = tuple(Part(name, module.eval(), signature(module)) for name, module in parts_of(model).items())
        return Traced(kind, model, parts)

    @cached_property
    def protos(self) -> dict[str, Any]:
        """The graph of each part, traced when first asked for."""
        found = {}
        for part in self.parts:
            own = part.signature
            graph = trace(part.module, own.example(), own.dynamic, own.outputs, part.name, own.bounds)
            found[part.name] = ir.to_proto(graph)
        return found

    def graphs(self) -> dict[str, ir.Model]:
        """The graphs anew, with the weights that the reference has now."""
        made = {}
        for part in self.parts:
            graph = ir.from_proto(self.protos[part.name])
            for name, value in part.module.named_parameters(remove_duplicate=False):
                if name in graph.graph.initializers:
                    graph.graph.initializers[name].const_value = ir.tensor(value.detach().numpy().copy(), name=name)
            made[part.name] = graph
        return made

    def cases(self) -> list[Case]:
        if not self.parts[-1].signature.states:
            return parity.cases_for(self.parts)
        return parity.generation_cases(self.parts, chains=_CHAINS, longest=_LONGEST, least=LEAST)


def redraw(model: nn.Module, seed: int, strain: str = "plain") -> None:
    """Every parameter anew: norms around one, biases away from zero, no two rows of a table alike."""
    generator = torch.Generator().manual_seed(seed)
    norm, matrix, table = (3.0 if strain == f"wide {of}" else 1.0 for of in ("norms", "matrices", "tables"))
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            last = name.rpartition(".")[2]
            if last == "A":  # rates of decay
                value.copy_(-torch.exp(noise))
            elif value.ndim == 0:  # the logarithm of what similarities are multiplied with
                value.copy_(2.7 + 0.3 * noise)
            elif value.ndim == 1:
                scales = "norm" in name and last == "weight"
                value.copy_(norm * (1 + 0.2 * noise) if scales else 0.3 * noise)
            elif id(value) in tables or "table" in name or "positions" in name:
                value.copy_(table * 0.7 * noise)
            else:
                read = value[0].numel() if value.ndim == 4 else value.shape[-1]  # by one output; a patch is a square
                value.copy_(matrix * noise * 1.2 / read**0.5)
        for module in model.modules():
            # T5 scales no scores: its queries are small instead.
            if getattr(module, "scale", None) == 1.0 and isinstance(getattr(module, "q_proj", None), nn.Linear):
                module.q_proj.weight.mul_((module.q_proj.out_features / module.heads) ** -0.5)  # type: ignore[union-attr, operator]
            if isinstance(getattr(module, "x_proj", None), nn.Linear):
                # Mamba multiplies what this makes with itself and its input: rounding errors would grow with them.
                module.x_proj.weight.mul_(0.5)  # type: ignore[union-attr, operator]
    fill_tables(model)


@contextmanager
def graphs_of(graphs: Mapping[str, ir.Model], recipe: Recipe) -> Iterator[dict[str, Path]]:
    """The files of one recipe's graphs, by the name of their part."""
    with tempfile.TemporaryDirectory(prefix="precast-gate-") as scratch:
        found = {}
        for name, graph in graphs.items():
            lowered = graph.clone()
            run(lowered, recipe.passes())
            folder = Path(scratch) / name
            emit(lowered, Folder(folder), "graph.onnx")
            found[name] = folder / "graph.onnx"
        yield found


def run_graphs(
    files: Mapping[str, Path], parts: Sequence[Part], recipe: Recipe, isa: str | None, recorded: Sequence[Recorded]
) -> list[Measured]:
    """Figures of every recorded output, with the kernels of one instruction set."""
    with _instructions(isa):
        loaded = {}
        for part in parts:
            runner = backend_for(recipe.engine, recipe.provider).load(
                files[part.name], session=recipe.session, threads=1, isa=recipe.isa
            )
            own = part.signature
            loaded[part.name] = Loaded(runner, own.ports, own.outs, parity.successors(own), recipe.dialect.state)
    with np.errstate(all="ignore"):
        return list(compare(loaded, recorded))


@contextmanager
def _instructions(isa: str | None) -> Iterator[None]:
    """Sessions made meanwhile use the kernels for one instruction set."""
    before = os.environ.get("PRECAST_KERNELS_ISA")
    if isa is not None:
        os.environ["PRECAST_KERNELS_ISA"] = isa
    try:
        yield
    finally:
        if isa is not None:
            os.environ.pop("PRECAST_KERNELS_ISA")
        if before is not None:
            os.environ["PRECAST_KERNELS_ISA"] = before
