"""A trace is not traced again where its decomposition would change nothing; and where it would, it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.oracle import sources, upstream

from precast.export import trace as tracing
from precast.export.families import find_family
from precast.export.reference import build
from precast.export.trace import trace
from precast.graphs.fingerprint import fingerprint


@pytest.fixture
def again(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A line for every decomposition that torch makes."""
    made: list[str] = []
    kept: Any = torch.export.ExportedProgram.run_decompositions

    def counted(program: Any, *arguments: Any, **named: Any) -> Any:
        made.append(type(program).__name__)
        return kept(program, *arguments, **named)

    monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", counted)
    return made


@pytest.mark.parametrize("model_type", ["bert", "deberta-v2", "gemma3_text", "mamba", "t5"])
def test_families_are_traced_once_and_as_if_twice(
    model_type: str, again: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, model = upstream(model_type, next(iter(find_family(model_type).heads)))
    part = build(config, sources(model)).parts[0]
    signature = part.signature

    def traced() -> str:
        given = (signature.example(), signature.dynamic, signature.outputs, part.name, signature.bounds)
        return fingerprint(trace(part.module, *given))

    once = traced()
    assert not again
    monkeypatch.setattr(tracing, "_spare_second_trace", lambda program: None)
    assert traced() == once and len(again) == 1


class _Model(torch.nn.Module):
    def __init__(self, compute: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.compute = compute

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": self.compute(x)}


@pytest.mark.parametrize(
    ("compute", "decomposed"),
    [
        (lambda x: x + x, False),
        (lambda x: (x > 0).to(torch.int64) + x.to(torch.float32), False),
        (lambda x: x.flatten(1), True),  # a composite
        (lambda x: (x + x).mul_(2), True),  # in place
        (lambda x: torch.nn.functional.softshrink(x), True),  # without a translation
        (lambda x: x, True),  # an output that is an input
    ],
)
def test_what_a_decomposition_changes_is_decomposed(compute: Any, decomposed: bool, again: list[str]) -> None:
    graph = trace(_Model(compute), {"x": torch.ones(2, 3)}, {"x": {0: "batch"}}, ("y",), "model")
    assert bool(again) == decomposed
    assert graph.graph.outputs[0].name == "y"
