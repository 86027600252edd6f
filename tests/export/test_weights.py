"""Every weight-name rule on a table of its own: which tensor goes where, and with which values."""

from __future__ import annotations

import pytest
import torch
from support.oracle import TensorSource

from precast.export.weights import (
    Flatten,
    Fold,
    Ignore,
    IgnoreZeros,
    Merge,
    Narrow,
    Rename,
    Rule,
    Split,
    Tie,
    Transpose,
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


def test_two_different_tensors_are_not_tied() -> None:
    found = mapped((Tie("target", "source"),), target=A, source=B)
    assert torch.equal(found["target"], A)
    assert torch.equal(found["source"], B)
