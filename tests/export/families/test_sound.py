"""T0 to T3 of families whose inputs are recordings: against upstream, float64 and the gates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.lowering import held, lower, wide
from support.oracle import apart, float64, hears, sources, upstream, widened
from torch import Tensor, nn

from precast.export import parity
from precast.export.families import TextSpec, find_family, model_types
from precast.export.heads import AUDIO_CLASSIFICATION, AUDIO_XVECTOR, BASE, CTC, Head
from precast.export.reference import Part, Reference, build
from precast.runtime.kinds import absent

# Of upstream, which gives torch a mask of one type beside a bias of another.
pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")

# Shapes for T1: as long as the shortest recording, and one sample less than a frame; padded; odd and even.
SHAPES = ((1, 1, "none"), (2, 2, "none"), (3, 7, "right"), (2, 64, "right"), (1, 33, "right"))


def variation(model_type: str, index: int) -> Mapping[str, Any]:
    return find_family(model_type).variations[index - 1] if index else {}


def takes(head: Head, changed: Mapping[str, Any]) -> bool:
    """Whether upstream has such a head: behind layers that leave fewer frames, few of them are."""
    return not changed.get("add_adapter") or head in (BASE, CTC)


def weighs(model_type: str, index: int) -> bool:
    """Whether heads read a sum of all states."""
    return bool(variation(model_type, index).get("use_weighted_layer_sum"))


CONFIGS = [
    (name, head, index)
    for name in model_types()
    if hears(name) and not issubclass(find_family(name).spec, TextSpec)  # test_language_models.py, test_hearing.py
    for head in find_family(name).heads
    for index in range(1 + len(find_family(name).variations))
    if takes(head, variation(name, index))
]
BODIES = [(name, index) for name, head, index in CONFIGS if head is BASE]


def ident(value: Any) -> str:
    return value.task if isinstance(value, Head) else str(value)


def reference(model_type: str, head: Head, index: int, seed: int = 0) -> Reference:
    config, model = upstream(model_type, head, variation(model_type, index), seed=seed)
    return build(config, sources(model))


@pytest.mark.parametrize(("model_type", "head", "index"), CONFIGS, ids=ident)
def test_reference_equals_upstream(model_type: str, head: Head, index: int) -> None:
    """T0 and T1: the strict loader takes the checkpoint; of the base model every state, of all what comes out."""
    config, narrow = upstream(model_type, head, variation(model_type, index), seed=index)
    model: Any = widened(narrow)
    ours: Any = build(config, sources(model), dtype=torch.float64)
    for case in parity.cases(ours.signature, shapes=SHAPES, seed=1):
        inputs = {name: torch.from_numpy(array) for name, array in case.inputs.items()}
        inputs = {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
        with torch.no_grad():
            got = ours.model(**inputs)
            states = ours.model.model.states(*inputs.values())[0] if head is BASE else []
        with float64():
            expected = model(**inputs, output_hidden_states=True)
        pairs = [(name, got[name], expected[name]) for name in got]
        if head is BASE:
            hidden = expected.hidden_states
            pairs += [(f"state {at}", *pair) for at, pair in enumerate(zip(states, hidden, strict=True))]
        for name, a, b in pairs:
            excess = apart(a, b)
            assert excess <= 1, f"{name} of {case.name}: {excess:.2f} times the gate"


@pytest.mark.parametrize(("model_type", "index"), BODIES)
def test_no_mask_is_a_mask_of_ones(model_type: str, index: int) -> None:
    """As upstream computes without one."""
    config, narrow = upstream(model_type, BASE, variation(model_type, index), seed=index)
    model: Any = widened(narrow)
    ours: Any = build(config, sources(model), dtype=torch.float64)
    _, mask = ours.signature.ports
    samples = ours.signature.dim("samples").least + 1111
    values = torch.from_numpy(np.random.default_rng(0).standard_normal((2, samples)))
    ones = torch.from_numpy(absent(mask, {"batch": 2, "samples": samples}))
    with torch.no_grad():
        got = ours.model(values, ones)
    with float64():
        expected = model(values)
    for name in got:
        assert apart(got[name], expected[name]) <= 1, name


class AllHeads(nn.Module):
    """The body of the first of several heads, and what every head makes of its last states; the first one's outputs
    keep their names."""

    def __init__(self, first: Reference, *others: Reference) -> None:
        super().__init__()
        self.first = first.model
        self.prefixes = [f"{ours.head.task}." for ours in others]
        self.tasks = nn.ModuleList()
        for ours in others:
            ours.model.model = nn.Identity()
            self.tasks.append(ours.model)

    def forward(self, input_values: Tensor, attention_mask: Tensor) -> Any:
        first: Any = self.first
        last, real, heard = first.model(input_values, attention_mask)
        made = dict(first.named(last, heard))
        for prefix, task in zip(self.prefixes, self.tasks, strict=True):
            made |= {prefix + name: value for name, value in task.outputs(last, real).items()}  # type: ignore[operator]
        return made


@pytest.mark.parametrize(("model_type", "index"), BODIES)
def test_graphs_equal_reference(model_type: str, index: int, tmp_path: Path) -> None:
    """T2 and T3 of all heads on one body that take the shortest recordings: each dialect unoptimised and each recipe,
    within P0 and P1. Of variations of the body the states alone."""
    heads = [head for name, head, at in CONFIGS if (name, at) == (model_type, index) and head is not AUDIO_XVECTOR]
    every = [reference(model_type, head, index, seed) for seed, head in enumerate(heads[: 1 if index else None])]
    model = AllHeads(*every).eval()
    outs = tuple(
        out._replace(name=prefix + out.name)
        for ours, prefix in zip(every, ("", *model.prefixes), strict=True)
        for out in ours.signature.outs
    )
    part = Part("encoder", model, replace(every[0].signature, outs=outs))
    recorded = parity.record([part], parity.cases_for([part]))
    for lowered in lower([part], tmp_path, f"{model_type} all heads {index}", raw=not index):
        held([part], recorded, lowered)


# Each head, and what reads the sum of all states, which is made in one way for all heads.
ALONE = [item for item in CONFIGS if not item[2] or (item[1] is AUDIO_CLASSIFICATION and weighs(item[0], item[2]))]


@pytest.mark.parametrize(
    ("model_type", "head", "index"),
    [
        # What tells speakers apart is one class for all families.
        pytest.param(*item, marks=() if item == ("wav2vec2", AUDIO_XVECTOR, 0) else wide(item[0]))
        for item in ALONE
    ],
    ids=ident,
)
def test_graphs_of_each_head(model_type: str, head: Head, index: int, tmp_path: Path) -> None:
    """T2 and T3 of each head for itself, as it is exported."""
    ours = reference(model_type, head, index, seed=index)
    recorded = parity.record(ours.parts, parity.cases_for(ours.parts))
    for lowered in lower(ours.parts, tmp_path, f"{model_type} {head.task} {index}", raw=False):
        held(ours.parts, recorded, lowered)


@pytest.mark.parametrize(("model_type", "head", "index"), [item for item in CONFIGS if not item[2]], ids=ident)
def test_padding_does_not_matter(model_type: str, head: Head, index: int) -> None:
    """Garbage in padding leaves every real frame as it is, to the bit; where each frame has a norm of its own."""
    config, model = upstream(model_type, head, {"feat_extract_norm": "layer"})
    ours = build(config, sources(model))
    made = parity.cases(ours.signature, shapes=((3, 9, "right"),))[0].inputs
    sound, mask = made["input_values"], made["attention_mask"]
    other = {**made, "input_values": np.where(mask == 1, sound, np.float32(3) - sound)}
    first, second = parity.evaluate(ours.model, made), parity.evaluate(ours.model, other)
    frames: Any = ours.model.model
    for name in first:
        a, b = first[name], second[name]
        if a.ndim == 3:
            real = frames.frames.real(torch.from_numpy(mask), a.shape[1]).numpy() == 1
            a, b = a[real], b[real]
        np.testing.assert_array_equal(a, b, err_msg=name)
