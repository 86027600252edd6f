"""T0 to T3: labels of texts by models that write, against upstream, float64 and the gates of PARITY.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.lowering import held, lower
from support.oracle import apart, float64, sources, upstream, widened

from precast.export import parity
from precast.export.families import find_family, model_types
from precast.export.heads import BASE, SEQUENCE_CLASSIFICATION
from precast.export.reference import build

EVERY = [
    name
    for name in model_types()
    if SEQUENCE_CLASSIFICATION in find_family(name).heads and BASE not in find_family(name).heads
]
CONFIGS = [(name, index) for name in EVERY for index in range(1 + len(find_family(name).variations))]
# Of one length each: upstream reads what is behind a text's end in one row and not in another.
SHAPES = ((1, 1, "none"), (2, 2, "none"), (3, 9, "none"), (2, 64, "none"))


@pytest.mark.parametrize(("model_type", "index"), CONFIGS)
def test_reference_equals_upstream(model_type: str, index: int) -> None:
    """Texts that end in one token of that kind, padded behind it or not."""
    family = find_family(model_type)
    changed = family.variations[index - 1] if index else {}
    overrides = {"pad_token_id": 0, **family.tiny, **changed, "num_labels": 3}
    config, narrow = upstream(model_type, SEQUENCE_CLASSIFICATION, overrides, seed=index)
    model: Any = widened(narrow)
    ours = build(config, sources(model), dtype=torch.float64)
    padding = int(config["pad_token_id"])
    end = next(iter(ours.signature.ends.values()), padding + 1)
    for case in parity.cases(ours.signature, shapes=SHAPES, seed=1):
        ids, mask = case.inputs["input_ids"], case.inputs["attention_mask"]
        ids[(ids == end) | (ids == padding)] += 3
        ids[:, -1] = end
        if ids.shape[1] > 2:  # the first text is shorter
            ids[0, -3:], mask[0, -2:] = (end, padding, padding), 0
        given = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        with torch.no_grad():
            got = ours.model(**given)["logits"]
            garbage = torch.from_numpy(np.where(mask == 0, 5, ids))
            same = ours.model(garbage, given["attention_mask"])["logits"]
        with float64():
            expected = model(**given).logits
        assert apart(got, expected) <= 1, case.name
        assert torch.equal(got, same), case.name
        if not ours.signature.ends:  # padding in front is among the positions, as upstream has it
            turned = {name: value.flip(1) for name, value in given.items()}
            with float64():
                expected = model(**turned).logits
                assert apart(ours.model(**turned)["logits"], expected) <= 1, f"{case.name}, padded in front"


@pytest.mark.parametrize("model_type", EVERY)
def test_graphs_equal_reference(model_type: str, tmp_path: Path) -> None:
    """Each dialect unoptimised and each recipe, within P0 and P1."""
    config, model = upstream(model_type, SEQUENCE_CLASSIFICATION)
    ours = build(config, sources(model))
    recorded = parity.record(ours.parts, parity.cases_for(ours.parts))
    for lowered in lower(ours.parts, tmp_path, f"{model_type} {SEQUENCE_CLASSIFICATION.task}"):
        held(ours.parts, recorded, lowered)
