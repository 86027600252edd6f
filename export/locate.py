"""Where the error of a refused graph starts: the first module whose output breaks the gate by itself.

The graph is traced and lowered again with the outputs of modules as further outputs, and compared with what hooks see
of the reference in float32 and float64. Only a refusal pays for this.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from precast.export.parity import ReferenceRunner
from precast.export.reference import Part
from precast.export.trace import SCOPE, trace
from precast.graphs.emit import Folder, emit
from precast.graphs.passes.base import run
from precast.graphs.recipes import Recipe
from precast.runtime.backends.base import Array
from precast.runtime.backends.engines import backend_for
from precast.runtime.backends.onnxruntime import engine
from precast.runtime.errors import ParityError
from precast.runtime.gates import Measured, Population, measure, populations
from precast.runtime.outs import Out
from precast.runtime.parity import Case

__all__ = ["Boundary", "boundaries", "explained", "locate"]


@dataclass(frozen=True)
class Boundary:
    """One output of a module of the reference, as a graph computes it."""

    module: str
    kind: str
    population: Population

    @property
    def broken(self) -> bool:
        return not max(self.population.shares.values()) <= 1

    def __str__(self) -> str:
        error, eager = (self.population.rms(figure) for figure in ("rms", "reference_rms"))
        return f"{self.module} ({self.kind}), whose output is {error:.1e} from float64 and eager's {eager:.1e}"


def explained(
    error: ParityError,
    again: Callable[[], Sequence[Part]],
    recipes: Mapping[str, Recipe],
    cases: Sequence[Case],
    measured: Sequence[Measured],
) -> ParityError:
    """The refusal with where the error starts and what to do.

    ``again`` makes the parts of the reference anew, ``recipes`` are theirs by name."""
    try:
        found = locate(again(), recipes, cases, measured)
    except Exception as failure:  # whatever it is: the refusal stands, and is what the user must read
        found = f"Where the error starts could not be found: {type(failure).__name__}: {failure}."
    advice = (
        f"The checkpoint is not at fault, but Precast or the installed ONNX Runtime {engine().__version__}: report "
        "this message with the output of `precast env`."
    )
    if any(recipe.isa is not None for recipe in recipes.values()):
        advice += " Until it is mended, PRECAST_NO_KERNELS=1 exports the variant that runs without our CPU kernels."
    return ParityError(f"{error}. {found} {advice}")


def locate(
    parts: Sequence[Part], recipes: Mapping[str, Recipe], cases: Sequence[Case], measured: Sequence[Measured]
) -> str:
    """One sentence: the first module whose output breaks the gate, in the case that broke it most.

    Args:
        parts: the reference, with its weights. cases: all that were tried, in order. measured: what was refused.
    """
    worst = max(populations(measured), key=lambda item: np.nan_to_num(max(item.shares.values()), nan=np.inf))
    figure = max(worst.measured, key=lambda item: np.nan_to_num(item.excess, nan=np.inf))
    found = list(boundaries(parts, recipes[figure.component], cases, figure.case))
    first = next((index for index, boundary in enumerate(found) if boundary.broken), None)
    if first is None:
        return (
            f"In case {figure.case} no module's output breaks the gate by itself: a fusion that reaches over modules "
            "is at fault, or what comes behind the last of them."
        )
    before = f", and {found[first - 1].module} in front of it holds" if first else ""
    return f"In case {figure.case} the error starts at {found[first]}{before}."


def boundaries(parts: Sequence[Part], recipe: Recipe, cases: Sequence[Case], name: str) -> Iterator[Boundary]:
    """Every module's output in the case called ``name``, in the order the reference computes them."""
    case = next(case for case in cases if case.name == name)
    [part] = [part for part in parts if part.name == case.component]
    needed, chain = set(case.after), list[Case]()
    for other in reversed(cases):
        if other.name in needed:
            chain.insert(0, other)
            needed |= set(other.after)
    eager, exact = ReferenceRunner(parts), ReferenceRunner(parts, exact=True)
    for before in chain:
        eager.run(before), exact.run(before)
    inputs = {key: value.numpy() for key, value in _leaves(eager.inputs(case))}
    with _outputs(part.module) as reference:
        eager.run(case)
    with _outputs(part.module) as truth:
        exact.run(case)
    # What one call can be held to: a state that is read is eager's in all three.
    ours = _opened(part, recipe, inputs)
    modules = dict(part.module.named_modules())
    for path, tensors in reference.items():
        for place, tensor in enumerate(tensors):
            found = [array for array in ours.get(path, ()) if array.shape == tuple(tensor.shape)]
            if not found:
                continue
            expected, true = tensor.numpy(), truth[path][place].numpy()
            near = min(found, key=lambda array: _distance(array, expected))
            kind = type(modules[path]).__name__
            found_there = measure(Out(path, ()), name, near, expected, true, part.name)
            yield Boundary(path, kind, Population((found_there,)))


def _distance(ours: Array, reference: Array) -> float:
    return float(np.nan_to_num(np.abs(ours - reference), nan=np.inf).max(initial=0.0))


def _leaves(inputs: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in inputs.items():
        yield from value.items() if isinstance(value, dict) else ((name, value),)


@contextmanager
def _outputs(model: nn.Module) -> Iterator[dict[str, list[torch.Tensor]]]:
    """The float outputs of every module that is called once, by its path; in the order the calls end."""
    kept: dict[str, list[torch.Tensor]] = {}
    again: set[str] = set()

    def keep(path: str, output: Any) -> None:
        if path in kept:
            again.add(path)
        tensors = output if isinstance(output, (tuple, list)) else (output,)
        floats = [value for value in tensors if isinstance(value, torch.Tensor) and value.is_floating_point()]
        kept[path] = [value.detach().clone() for value in floats]

    hooks = [
        module.register_forward_hook(lambda _module, _given, output, path=path: keep(path, output))
        for path, module in model.named_modules()
        if path
    ]
    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()
        for path in again:
            del kept[path]


def _opened(part: Part, recipe: Recipe, inputs: Mapping[str, Array]) -> dict[str, list[Array]]:
    """What leaves each module of the lowered graph, run on one input; by the module's path."""
    signature = part.signature
    example, dynamic = signature.example(), signature.dynamic
    model = trace(part.module, example, dynamic, signature.outputs, part.name, signature.bounds, scopes=True)
    marked: dict[str, list[str]] = {}
    for path, values in _leaving(model.graph).items():
        for value in values:
            if not value.is_graph_output():
                value.name = f"{path}:{value.name}"
                model.graph.outputs.append(value)
            marked.setdefault(path, []).append(str(value.name))
    run(model, recipe.passes())
    with tempfile.TemporaryDirectory(prefix="precast-locate-") as folder:
        emit(model, Folder(Path(folder)), "graph.onnx")
        runner = backend_for(recipe.engine, recipe.provider).load(
            Path(folder) / "graph.onnx", session=recipe.session, isa=recipe.isa, threads=None
        )
        feed = {name: inputs[name] for name in runner.input_names}
        found = dict(zip(runner.output_names, runner.run(feed), strict=True))
    return {path: [found[name] for name in names if name in found] for path, names in marked.items()}


def _leaving(graph: ir.Graph) -> dict[str, list[ir.Value]]:
    """The float values that are computed inside a module and read outside of it, by its path."""
    found: dict[str, list[ir.Value]] = {}
    for node in graph:
        inner = node.metadata_props.get(SCOPE, "")
        for value in node.outputs:
            if value.dtype is not ir.DataType.FLOAT:
                continue
            readers = [use.node.metadata_props.get(SCOPE, "") for use in value.uses()]
            steps = inner.split(".") if inner else []
            for path in (".".join(steps[:end]) for end in range(len(steps), 0, -1)):
                outside = [reader for reader in readers if not f"{reader}.".startswith(f"{path}.")]
                if outside or value.is_graph_output():
                    found.setdefault(path, []).append(value)
    return found
