"""T0 to T3: every family and head, tiny and odd-sized, against upstream, float64 and the gates of PARITY.md."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.lowering import held, lower, states, wide
from support.oracle import apart, float64, sources, upstream, widened
from torch import Tensor, nn

from precast.export import parity
from precast.export.families import TextSpec, find_family, model_types
from precast.export.heads import (
    AUDIO_CLASSIFICATION,
    BASE,
    CAUSAL_LM,
    MULTIPLE_CHOICE,
    SEQ2SEQ_LM,
    SPEECH_SEQ2SEQ,
    EncoderWithHead,
    Head,
)
from precast.export.reference import Part, Reference, build

EVERY = [
    (name, head)
    for name in model_types()
    for head in find_family(name).heads
    if issubclass(find_family(name).spec, TextSpec)
    and BASE in find_family(name).heads  # test_text_classes.py has classes by models that write
    and head not in (CAUSAL_LM, SEQ2SEQ_LM, SPEECH_SEQ2SEQ, AUDIO_CLASSIFICATION)
    # test_language_models.py, test_vision.py
]
CONFIGS = [(name, head, index) for name, head in EVERY for index in range(1 + len(find_family(name).variations))]
# Shapes for T1: lengths and paddings of PARITY.md within the tiny models' positions. Heads share the body, and see of a
# text what padding leaves of it, whatever its length.
SHAPES = (
    (1, 1, "none"),
    (2, 2, "none"),
    (3, 7, "right"),
    (1, 8, "left"),
    (2, 63, "right"),
    (1, 128, "left"),
    (1, 0, "none"),
)
SHAPES_OF_OTHER_HEADS = ((1, 1, "none"), (3, 7, "right"), (3, 8, "left"))


def ident(value: Any) -> str:
    return value.task if isinstance(value, Head) else str(value)


def reference(model_type: str, head: Head, seed: int = 0) -> Reference:
    config, model = upstream(model_type, head, seed=seed)
    return build(config, sources(model))


@pytest.mark.parametrize(("model_type", "head", "index"), CONFIGS, ids=ident)
def test_reference_equals_upstream(model_type: str, head: Head, index: int) -> None:
    """T0 and T1: the strict loader takes the checkpoint, and every hidden state equals upstream's, in float64."""
    family = find_family(model_type)
    config, narrow = upstream(model_type, head, family.variations[index - 1] if index else {}, seed=index)
    model = widened(narrow)
    ours = build(config, sources(model), dtype=torch.float64)
    kept, hooks = states(ours.model, ours.model.model.layers)  # type: ignore[union-attr, arg-type]
    shapes = SHAPES if head is next(iter(family.heads)) else SHAPES_OF_OTHER_HEADS
    for case in parity.cases(ours.signature, shapes=shapes, seed=1):
        kept.clear()
        inputs = {name: torch.from_numpy(array) for name, array in case.inputs.items()}
        inputs = {name: each.double() if each.is_floating_point() else each for name, each in inputs.items()}
        with torch.no_grad():
            got = ours.model(**inputs)
        with float64():
            expected = model(**inputs, output_hidden_states=True)
        pairs = [(f"layer {i}", a, b) for i, (a, b) in enumerate(zip(kept, expected.hidden_states[1:], strict=True))]
        if family.final_norm:
            pairs.pop()  # upstream gives the last state after the final norm, which the outputs cover
        pairs += [(name, got[name], expected[name]) for name in got]
        # A row that sees no key is zero here; upstream leaves it undefined, so padded rows are compared where defined.
        real = inputs["attention_mask"].bool()
        flat, first = real.flatten(0, -2), real[..., 0]
        for name, a, b in pairs:
            if not family.padded_rows_defined:
                # Of states and outputs a token the real positions; of pooled outputs those with a real first token.
                where = flat if a.shape[:2] == flat.shape else first
                a, b = a[where], b[where]
                if not len(a):
                    continue
            excess = apart(a, b)
            assert excess <= 1, f"{name} of {case.name}: {excess:.2f} times the gate"
    for hook in hooks:
        hook.remove()


class AllHeads(EncoderWithHead):
    """The body of the first of several heads, and what every head makes of its states; the first one's outputs keep
    their names."""

    def __init__(self, first: Reference, *others: Reference) -> None:
        assert isinstance(first.model.model, nn.Module)
        super().__init__(first.model.model)
        self.prefixes = ("", *(f"{ours.head.task}." for ours in others))
        self.tasks = nn.ModuleList()
        for ours in (first, *others):
            assert isinstance(ours.model, EncoderWithHead)
            ours.model.model = nn.Identity()
            self.tasks.append(ours.model)

    def outputs(self, states: Tensor, mask: Tensor) -> dict[str, Tensor]:
        return {
            prefix + name: value
            for prefix, task in zip(self.prefixes, self.tasks, strict=True)
            for name, value in task.outputs(states, mask).items()  # type: ignore[operator]
        }


@pytest.mark.parametrize("model_type", dict(EVERY))
def test_graphs_equal_reference(model_type: str, tmp_path: Path) -> None:
    """T2 and T3 of all heads on one body: each dialect unoptimised and each recipe, within P0 and P1."""
    family = find_family(model_type)
    assert next(iter(family.heads)) is BASE
    own = [head for name, head in EVERY if name == model_type]
    every = [reference(model_type, head, seed) for seed, head in enumerate(own)]
    model = AllHeads(*every).eval()
    outs = tuple(
        out._replace(name=prefix + out.name)
        for ours, prefix in zip(every, model.prefixes, strict=True)
        for out in ours.signature.outs
    )
    part = Part("encoder", model, replace(every[0].signature, outs=outs))
    recorded = parity.record([part], parity.cases_for([part]))
    for lowered in lower([part], tmp_path, f"{model_type} all heads"):
        held([part], recorded, lowered)


@pytest.mark.parametrize(
    ("model_type", "head"),
    [
        # Choices are taken apart and put together by one class for all families.
        pytest.param(name, head, marks=() if (name, head) == ("bert", MULTIPLE_CHOICE) else wide(name))
        for name, head in EVERY
    ],
    ids=ident,
)
def test_graphs_of_each_head(model_type: str, head: Head, tmp_path: Path) -> None:
    """T2 and T3 of each head for itself, as it is exported."""
    ours = reference(model_type, head)
    recorded = parity.record(ours.parts, parity.cases_for(ours.parts))
    for lowered in lower(ours.parts, tmp_path, f"{model_type} {head.task}"):
        held(ours.parts, recorded, lowered)


@pytest.mark.parametrize(("model_type", "head"), EVERY, ids=ident)
def test_padding_does_not_matter(model_type: str, head: Head) -> None:
    """Garbage in padded positions leaves every real position as it is, to the bit."""
    ours = reference(model_type, head)
    made = parity.cases(ours.signature, shapes=((3, 9, "right"),))[0].inputs
    mask = made["attention_mask"]
    padding = getattr(ours.spec, "pad_token_id", 0) or 0
    other = dict(made)
    rng = np.random.default_rng(5)
    garbage = rng.integers(padding + 1, ours.signature.vocab_size, size=mask.shape)
    other["input_ids"] = np.where(mask == 1, made["input_ids"], garbage)
    first, second = parity.evaluate(ours.model, made), parity.evaluate(ours.model, other)
    out_of = {out.name: out for out in ours.signature.outs}
    for name in first:
        a, b = first[name], second[name]
        if a.ndim >= mask.ndim and out_of[name].shape[mask.ndim - 1] in ("sequence", "places"):
            # What stands behind the words is no padding.
            behind = a.shape[mask.ndim - 1] - mask.shape[-1]
            real = np.pad(mask, [(0, 0)] * (mask.ndim - 1) + [(0, behind)], constant_values=1) == 1
            a, b = a[real], b[real]
        np.testing.assert_array_equal(a, b, err_msg=name)
