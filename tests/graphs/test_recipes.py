"""Which recipe makes which component of a model: by its role, in every variant of a precision."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from precast.graphs.passes.allow_rounding import AllowRounding
from precast.graphs.passes.quantize_weights import QuantizeWeights
from precast.graphs.recipes import RECIPES, Evidence, Role, assigned, recipes_for
from precast.runtime.errors import InputError

ENCODER: dict[str, Role] = {"encoder": "call"}
BOTH: dict[str, Role] = {"encoder": "call", "decoder": "step"}
BLOCKS = recipes_for("cpu", "int8")


def names(found: list[dict[str, object]]) -> list[dict[str, tuple[str, str | None]]]:
    return [{part: (one.variant, one.cache) for part, one in made.items()} for made in found]  # type: ignore[attr-defined]


def test_a_recipe_for_any_role_makes_every_component() -> None:
    own = recipes_for("cpu", "fp32")
    for roles in (ENCODER, BOTH):
        for recipe, made in zip(own, assigned(own, roles, "a toy"), strict=True):
            assert set(made) == set(roles) and all(one == recipe for one in made.values())


def test_each_component_gets_what_is_for_its_role() -> None:
    """Two recipes of one variant: the one for calls makes the encoder, the one for steps the decoder."""
    found = assigned(BLOCKS, BOTH, "a toy")
    assert [(made["encoder"].role, made["decoder"].role) for made in found] == [("call", "step"), ("call", "step")]
    [general, *_] = BLOCKS
    own = [replace(general, role="step"), replace(general, role="call", session={"for": "calls"})]
    [made] = assigned(own, BOTH, "a toy")
    assert made == {"encoder": own[1], "decoder": own[0]}
    [alone] = assigned(own, ENCODER, "a toy")
    assert alone == {"encoder": own[1]}


def test_what_has_no_cache_is_made_without_one_under_the_same_name() -> None:
    found = assigned(recipes_for("cpu", "int8", "int8"), BOTH, "a toy")
    narrow = "cpu-int8-native-int8-cache"
    assert names(found) == [  # type: ignore[arg-type]
        {"encoder": ("cpu-int8", None), "decoder": ("cpu-int8", None)},
        {"encoder": (narrow, None), "decoder": (narrow, "int8")},
    ]
    own = [recipe for recipe in RECIPES if recipe.variant == "cpu-int8-native"]
    [native] = [recipe for recipe in own if recipe.role == "call"]
    assert replace(found[1]["encoder"], suffix="-native") == native


def test_components_that_remember_nothing_alone_may_round_rows_to_bytes() -> None:
    found = {}
    for recipe in BLOCKS:
        for step in recipe.passes():
            if isinstance(step, AllowRounding):
                found[recipe.role] = step.row_bits
    assert found == {"call": 8, "step": 12}


def test_a_role_that_nobody_serves_is_refused_by_name() -> None:
    """A plain encoder where there are steps alone; a part of a model beside one that is served; a cache of nobody."""
    step = [replace(BLOCKS[0], role="step", precision="int3", suffix="-toy")]
    remember = "is made of components that remember something between calls only"
    with pytest.raises(
        InputError, match=rf"precision 'int3' {remember}, and a toy has none\. Export it with precision"
    ):
        assigned(step, ENCODER, "a toy")
    with pytest.raises(
        InputError, match=rf"'int3' for target 'cpu' {remember} so far, and component 'encoder' of a toy"
    ):
        assigned(step, BOTH, "a toy")
    with pytest.raises(InputError, match=rf"cache 'int8' {remember}, and a toy has none\. Export it without"):
        assigned(recipes_for("cpu", "int8", "int8"), ENCODER, "a toy")
    call = [replace(step[0], role="call")]
    with pytest.raises(InputError, match="components that remember nothing between calls only, and a toy has none"):
        assigned(call, {"decoder": "step"}, "a toy")


def test_recipes_say_what_evidence_their_passes_take() -> None:
    """Sensitive weights reach the pass that rounds, of exactly the recipes that ask for them."""
    assert not [key for key, count in Counter((item.variant, item.role) for item in RECIPES).items() if count > 1]
    for recipe in RECIPES:
        steps = recipe.passes(Evidence(sensitive=("a.weight",)))
        rounding = [step for step in steps if isinstance(step, QuantizeWeights)]
        assert bool(rounding) == (recipe.evidence == "weights"), recipe.variant
        assert all(step.sensitive == ("a.weight",) for step in rounding)
        assert all(step.sensitive == () for step in recipe.passes() if isinstance(step, QuantizeWeights))
