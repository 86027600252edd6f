"""Every weight-name rule on a table of its own: which tensor goes where, and with which values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.oracle import TensorSource

from precast.export.weights import (
    Flatten,
    Fold,
    FoldNorm,
    Ignore,
    IgnoreZeros,
    Merge,
    Narrow,
    Rename,
    Rule,
    Split,
    Tie,
    Transpose,
    Unless,
    WeightNorm,
    Within,
    rename,
)
from precast.runtime.errors import WeightsError

A, B, C = (torch.arange(start, start + 12.0).reshape(4, 3) for start in (0, 100, 200))


def mapped(rules: tuple[Rule, ...], **tensors: torch.Tensor) -> dict[str, torch.Tensor]:
    sources = {name.replace("__", "."): TensorSource(tensor) for name, tensor in tensors.items()}
    table = rename(sources, rules)
    loaded = {name: lazy.load() for name, lazy in table.items()}
    assert all(tuple(loaded[name].shape) == lazy.shape for name, lazy in table.items())
    return loaded


def test_rename_carries_wildcards_across() -> None:
    found = mapped((Rename("layer.{}.dense.*", "layers.{}.up_proj.*"),), layer__7__dense__weight=A, other=B)
    assert set(found) == {"layers.7.up_proj.weight", "other"}
    with pytest.raises(WeightsError, match=r"both named 'x'"):
        mapped((Rename("y", "x"),), x=A, y=B)


def test_ignore_drops() -> None:
    assert set(mapped((Ignore("*.position_ids"),), a__position_ids=A, b=B)) == {"b"}


def test_zeros_are_dropped_and_nothing_else() -> None:
    rule = IgnoreZeros("*.bias", tuple(A.shape))
    found = mapped((rule,), a__bias=torch.zeros_like(A), b__bias=A, c__weight=torch.zeros(3))
    assert set(found) == {"b.bias", "c.weight"}
    with pytest.raises(WeightsError, match=r"'a\.bias' must have the shape .*; the checkpoint's has \(0,\)"):
        mapped((rule,), a__bias=torch.zeros(0))


def test_flatten_and_narrow_change_shapes_of_what_matches() -> None:
    found = mapped((Flatten("*.bias"), Narrow("*.table", 3)), a__bias=A, b__table=A, c__other=A, d__table=A[:2])
    assert torch.equal(found["a.bias"], A.flatten())
    assert torch.equal(found["b.table"], A[3:])
    assert torch.equal(found["c.other"], A)
    assert found["d.table"].shape == (0, 3)


@pytest.mark.parametrize("axis", [0, 1])
def test_merge_and_split_undo_each_other(axis: int) -> None:
    names = ("h.{}.q", "h.{}.k", "h.{}.v")
    packed = mapped((Merge(names, "h.{}.qkv", axis),), h__0__q=A, h__0__k=B, h__0__v=C)
    assert torch.equal(packed["h.0.qkv"], torch.cat((A, B, C), axis))
    parts = mapped((Split("h.{}.qkv", names, axis),), h__0__qkv=packed["h.0.qkv"])
    assert all(torch.equal(parts[f"h.0.{name}"], tensor) for name, tensor in zip("qkv", (A, B, C), strict=True))


def test_split_takes_parts_of_unequal_size_from_each_group() -> None:
    rows = torch.arange(16.0).reshape(8, 2)
    found = mapped((Split("w", ("a", "b"), shares=(3, 1), groups=2),), w=rows)
    assert found["a"][:, 0].tolist() == [0, 2, 4, 8, 10, 12]
    assert found["b"][:, 0].tolist() == [6, 14]
    vector = mapped((Split("v", ("a", "b"), shares=(1, 2)),), v=torch.arange(6.0))
    assert vector["b"].tolist() == [2, 3, 4, 5]


def test_merge_and_split_refuse_what_does_not_fit() -> None:
    with pytest.raises(WeightsError, match=r"needs all of"):
        mapped((Merge(("q", "k"), "qk"),), q=A)
    with pytest.raises(WeightsError, match=r"does not split into 3 parts"):
        mapped((Split("q", ("a", "b", "c")),), q=A)
    with pytest.raises(WeightsError, match=r"does not split into 2 parts of sizes \(2, 1\), 4 times"):
        mapped((Split("q", ("a", "b"), shares=(2, 1), groups=4),), q=A)


def test_transpose_and_fold_change_values_of_what_matches() -> None:
    found = mapped((Transpose("c_*"), Fold("*norm", add=1.0, scale=0.5)), c_fc=A, fc=A, norm=B)
    assert torch.equal(found["c_fc"], A.t())
    assert torch.equal(found["fc"], A)
    assert torch.equal(found["norm"], B * 0.5 + 1.0)


@pytest.mark.parametrize("stored", [{"target": A}, {"source": A}, {"target": A, "source": A.clone()}])
def test_tied_weights_are_one_under_either_name(stored: dict[str, torch.Tensor]) -> None:
    table = rename({name: TensorSource(tensor) for name, tensor in stored.items()}, (Tie("target", "source"),))
    assert table["target"] is table["source"]


def test_a_rule_may_be_for_checkpoints_without_a_tensor() -> None:
    rule = Unless("words", Merge(("k", "v"), "both"))
    assert set(mapped((rule,), k=A, v=B)) == {"both"}
    assert set(mapped((rule,), k=A, v=B, words=C)) == {"k", "v", "words"}


def test_two_different_tensors_are_not_tied() -> None:
    found = mapped((Tie("target", "source"),), target=A, source=B)
    assert torch.equal(found["target"], A)
    assert torch.equal(found["source"], B)


NAMES = st.lists(st.sampled_from(["words.weight", "q.weight", "q.bias", "norm.gamma", "norm.beta"]), unique=True)
RULES = st.lists(
    st.sampled_from(
        [
            *(Rename("q.*", "q_proj.*"), Rename("*.gamma", "*.weight"), Rename("words.*", "table.*")),
            *(Ignore("*.beta"), Transpose("*.weight"), Tie("head.weight", "words.weight")),
        ]
    ),
    unique=True,
).map(tuple)


@given(inside=NAMES, beside=NAMES, rules=RULES, to=st.sampled_from([None, "text.", ""]))
def test_rules_within_a_prefix_are_the_rules_without_it(
    inside: list[str], beside: list[str], rules: tuple[Rule, ...], to: str | None
) -> None:
    """What they make of a table, they make of it behind a prefix and within another; the rest stays as it is."""
    own = {name: TensorSource(torch.full((2, 3), float(number))) for number, name in enumerate(inside)}
    others = {f"other.{name}": TensorSource(A) for name in beside}
    alone = rename(own, rules)
    prefixed = {f"text_model.{name}": value for name, value in own.items()}
    found = rename({**others, **prefixed}, (Within("text_model.", rules, to=to),))
    begin = "text_model." if to is None else to
    assert found.keys() == {*others, *(f"{begin}{name}" for name in alone)}
    for name, lazy in alone.items():
        there = found[f"{begin}{name}"]
        assert there.keys == tuple(f"text_model.{key}" for key in lazy.keys)
        assert torch.equal(there.load(), lazy.load())
    deeper = {f"a.b.{name}": value for name, value in own.items()}
    nested = rename(deeper, (Within("a.", (Within("b.", rules, to="d."),), to="c."),))
    assert nested.keys() == {f"c.d.{name}" for name in alone}


def test_rules_of_a_layer_apply_to_each_of_them() -> None:
    layer = (Merge(("q", "k"), "qk"), Rename("dense.*", "up_proj.*"))
    rule = Within("encoder.layer.{}.", layer, to="layers.{}.")
    found = mapped((rule,), encoder__layer__0__q=A, encoder__layer__0__k=B, encoder__layer__11__dense__bias=C, q=C)
    assert set(found) == {"layers.0.qk", "layers.11.up_proj.bias", "q"}
    assert torch.equal(found["layers.0.qk"], torch.cat((A, B)))


def test_within_is_strict() -> None:
    with pytest.raises(WeightsError, match=r"both named 'b\.x' here: 'b\.x' and 'a\.x'"):
        mapped((Within("a.", (), to="b."),), b__x=A, a__x=B)
    with pytest.raises(WeightsError, match=r"needs all of .*, found only \['q'\] \(names behind 'h\.3\.'\)"):
        mapped((Within("h.{}.", (Merge(("q", "k"), "qk"),)),), h__3__q=A)


@pytest.mark.parametrize("front", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_a_norm_goes_into_its_projection(front: bool, biased: bool) -> None:
    """Behind a projection and in front of one, which has a bias of its own or not."""
    torch.manual_seed(0)
    projection, norm = torch.nn.Linear(3, 4, bias=biased).double(), torch.nn.BatchNorm1d(3 if front else 4).double()
    for value in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        value.data.uniform_(0.5, 2.0)
    norm.eval()
    state = {f"a__norm__{name}": value for name, value in norm.state_dict().items() if name != "num_batches_tracked"}
    state |= {f"a__linear__{name}": value for name, value in projection.state_dict().items()}
    found = mapped((FoldNorm("*.norm", into="*.linear", front=front),), **state, other=A)
    assert set(found) == {"a.linear.weight", "a.linear.bias", "other"}
    x = torch.randn(5, 3, dtype=torch.float64)
    expected = projection(norm(x)) if front else norm(projection(x))
    torch.testing.assert_close(x @ found["a.linear.weight"].t() + found["a.linear.bias"], expected)
    short = {name: value for name, value in state.items() if not name.endswith("running_var")}
    with pytest.raises(WeightsError, match=r"'a\.norm\.running_var' is missing, and 'a\.norm\.weight' needs it"):
        mapped((FoldNorm("*.norm", into="*.linear", front=front),), **short)
    with pytest.raises(WeightsError, match=r"does not fit 'a\.linear\.weight' of \(4, 3\)"):
        mapped((FoldNorm("*.norm", into="*.linear", front=not front),), **state)


_OLD, _NEW = ("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1")


@pytest.mark.parametrize("names", [_OLD, _NEW])
@pytest.mark.parametrize("axis", [0, 2])
def test_a_weight_norm_is_folded_under_either_spelling(names: tuple[str, str], axis: int) -> None:
    torch.manual_seed(0)
    module = torch.nn.Conv1d(6, 4, 5)
    torch.nn.utils.parametrizations.weight_norm(module, dim=axis)
    kept: Any = module.parametrizations
    with torch.no_grad():
        kept.weight.original0.mul_(1.7)
    length, direction = (part.detach() for part in (kept.weight.original0, kept.weight.original1))
    stored = {f"a.3.{names[0]}": length, f"a.3.{names[1]}": direction}
    found = mapped((WeightNorm("a.{}", axis), Rename("a.{}.*", "b.{}.*")), **stored)
    assert list(found) == ["b.3.weight"]
    torch.testing.assert_close(found["b.3.weight"], module.weight.detach().double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("held", [_OLD[:1], _NEW[1:], (_OLD[0], _NEW[1]), (*_OLD, *_NEW)])
def test_a_weight_norm_is_whole_and_spelled_once(held: tuple[str, ...]) -> None:
    with pytest.raises(WeightsError, match=r"'a\.weight' is kept as a length and a direction, .*found \["):
        mapped((WeightNorm("a"),), **{f"a.{name}": torch.ones(4, 3, 2) for name in held})


def test_the_lengths_of_a_weight_norm_are_along_its_axis() -> None:
    stored = {"a.weight_g": torch.ones(4, 1, 1), "a.weight_v": torch.ones(4, 3, 2)}
    with pytest.raises(WeightsError, match=r"'a\.weight_g' must have the shape \(1, 1, 2\); .* \(4, 1, 1\)"):
        mapped((WeightNorm("a", axis=2),), **stored)
    plain = {"a.weight": torch.ones(4, 3, 2)}
    assert mapped((WeightNorm("a"),), **plain).keys() == plain.keys()
