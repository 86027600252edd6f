"""The native CPU kernels, each against float64, on every instruction set of this processor.

A build without them fails here, unless PRECAST_KERNELS=off says that it was meant.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import rounding
from support.kernel_sessions import ISAS, Array, close, compute, normal
from support.rounding import Rounded

from precast.graphs.recipes import RECIPES
from precast.runtime import kernels
from precast.runtime.backends.onnxruntime import OnnxRuntime
from precast.runtime.errors import ProviderError

pytestmark = pytest.mark.skipif(
    os.environ.get("PRECAST_KERNELS") == "off", reason="PRECAST_KERNELS=off: this build is meant to be without kernels"
)
FAST = settings(max_examples=25, deadline=None, derandomize=True)


@pytest.fixture(autouse=True)
def _built() -> None:
    assert kernels.available(), kernels.why_not()


# --- rows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isa", ISAS)
@FAST
@given(
    st.integers(1, 3), st.integers(0, 40), st.integers(1, 400), st.booleans(), st.booleans(),
    st.sampled_from(["same", "rows", "leading"]), st.sampled_from([0.0, 30.0]), st.integers(0, 99),
)  # fmt: skip
def test_add_layer_norm(
    isa: str, batch: int, length: int, width: int, beta: bool, bias: bool, residual: str, mean: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    shape = {"same": (batch, length, width), "rows": (1, length, width), "leading": (length, width)}[residual]
    x, other = normal(rng, batch, length, width) + np.float32(mean), normal(rng, *shape)
    weight, shift = normal(rng, width), normal(rng, width) if beta else None
    added = normal(rng, width) if bias else None

    total = (Rounded(x) if added is None else Rounded(x) + added) + other
    inputs = {"x": x, "residual": other, "weight": weight, "beta": shift, "bias": added}
    out, summed = compute("AddLayerNorm", inputs, isa, outputs=2, epsilon=1e-5)
    close(summed, total)
    close(out, rounding.layer_norm(total, weight, shift, 1e-5))
    np.testing.assert_array_equal(compute("AddLayerNorm", inputs, isa, epsilon=1e-5)[0], out)
    # The two are interchangeable: the smaller may stand first.
    swapped = {**inputs, "x": other, "residual": x}
    if added is None:
        np.testing.assert_array_equal(compute("AddLayerNorm", swapped, isa, epsilon=1e-5)[0], out)


@pytest.mark.parametrize("isa", ISAS)
@FAST
@given(
    st.integers(0, 40), st.integers(1, 400), st.booleans(), st.sampled_from([1e-5, 1e-12]),
    st.sampled_from([1.0, 0.003]), st.integers(0, 99),
)  # fmt: skip
def test_layer_norm(isa: str, rows: int, width: int, beta: bool, epsilon: float, scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, weight, shift = normal(rng, rows, width, scale=scale), normal(rng, width), normal(rng, width) if beta else None
    (out,) = compute("LayerNorm", {"x": x, "weight": weight, "beta": shift}, isa, epsilon=epsilon)
    close(out, rounding.layer_norm(Rounded(x), weight, shift, epsilon))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("tanh", [0, 1])
@FAST
@given(st.integers(0, 9), st.integers(1, 300), st.booleans(), st.sampled_from([0.01, 1.0, 8.0]), st.integers(0, 99))
def test_gelu(isa: str, tanh: int, rows: int, width: int, bias: bool, scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, added = normal(rng, rows, width, scale=scale), normal(rng, width) if bias else None
    (out,) = compute("BiasGelu", {"x": x, "bias": added}, isa, tanh=tanh)
    close(out, rounding.gelu(Rounded(x) if added is None else Rounded(x) + added, bool(tanh)))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("tanh", [0, 1])
def test_gelu_over_the_whole_range(isa: str, tanh: int) -> None:
    x = np.concatenate([np.linspace(-16, 16, 40001), np.float32([-1e30, -1e4, -1e-20, 0, 1e-20, 1e4, 3e38])])
    x = x.astype(np.float32)[None]
    (out,) = compute("BiasGelu", {"x": x}, isa, tanh=tanh)
    tensor = torch.from_numpy(x)
    if tanh:
        exact = torch.nn.functional.gelu(tensor.double(), approximate="tanh").numpy()
    else:
        exact = (0.5 * tensor.double() * torch.erfc(-tensor.double() / np.sqrt(2))).numpy()
    error = np.abs(out - exact)
    assert np.isfinite(out).all()
    assert (error <= 1.5e-7 * np.maximum(np.abs(exact), np.where(x < 0, 0.5, 0))).all(), error.max()
    # Small negative results are more than rounding noise.
    small = (x < -0.5) & (x > -4)
    assert (error[small] <= 2e-5 * np.abs(exact[small])).all()


@pytest.mark.parametrize("isa", ISAS)
def test_infinite_and_nan_elements_stay_what_they_are(isa: str) -> None:
    x = np.zeros((1, 20), np.float32)
    x[0, [0, 17]], x[0, [1, 18]], x[0, [2, 19]] = np.inf, -np.inf, np.nan
    for tanh in (0, 1):
        (out,) = compute("BiasGelu", {"x": x}, isa, tanh=tanh)
        assert (out[0, [0, 17]] == np.inf).all()
        assert (out[0, [1, 18]] == 0).all()
        assert np.isnan(out[0, [2, 19]]).all()
    rows = np.ones((2, 20), np.float32)
    rows[1, 19] = np.nan
    (normed,) = compute("LayerNorm", {"x": rows, "weight": rows[0]}, isa)
    assert np.isfinite(normed[0]).all()
    assert np.isnan(normed[1]).all()


# --- attention ----------------------------------------------------------------------------------------------------


@st.composite
def attentions(draw: Any) -> dict[str, Any]:
    queries = draw(st.one_of(st.integers(1, 70), st.integers(71, 300)))
    size = draw(st.one_of(st.integers(1, 20), st.sampled_from([24, 32, 33, 64, 80, 128])))
    kv_heads = draw(st.integers(1, 3))
    packed = draw(st.booleans())
    return {
        "batch": draw(st.integers(1, 3)),
        "queries": queries,
        "keys": queries if packed else draw(st.sampled_from([1, queries, queries + 5])),
        "size": size,
        "kv_heads": kv_heads,
        "heads": kv_heads * draw(st.integers(1, 2)),
        "packed": packed,
        "bias": draw(st.booleans()),
        "mask": draw(st.sampled_from([None, "right", "left", "holes", "empty"])),
        "added": draw(st.sampled_from([None, (0, 0), (1, 0), (0, 1), (1, 1)])),
        "left": draw(st.sampled_from([-1, -1, 0, 3, 40])),
        "right": draw(st.sampled_from([-1, -1, 0, 3, 40])),
        "seed": draw(st.integers(0, 99)),
    }


def make(case: Mapping[str, Any]) -> tuple[dict[str, Array | None], dict[str, Any], tuple[Array | None, ...]]:
    """(inputs, attributes, what `multi_head_attention` takes)."""
    rng = np.random.default_rng(case["seed"])
    batch, queries, keys, size = case["batch"], case["queries"], case["keys"], case["size"]
    heads, kv_heads = case["heads"], case["kv_heads"]
    q, k, v = (
        normal(rng, batch, n, h * size, scale=1.5) for n, h in ((queries, heads), (keys, kv_heads), (keys, kv_heads))
    )
    bias = normal(rng, (heads + 2 * kv_heads) * size) if case["bias"] else None
    mask: Array | None = None
    if case["mask"]:
        mask = np.ones((batch, keys), np.int64)
        hidden = {"right": slice(keys // 2 + 1, None), "left": slice(None, keys // 2)}.get(case["mask"], slice(0, 0))
        mask[0, hidden] = 0
        mask = (rng.random(mask.shape) < 0.5).astype(np.int64) if case["mask"] == "holes" else mask
        mask[-1] = 0 if case["mask"] == "empty" else mask[-1]
    added: Array | None = None
    if case["added"]:
        rows, columns = (size if full else 1 for full, size in zip(case["added"], (batch, heads), strict=True))
        added = normal(rng, rows, columns, queries, keys)
    first = {"q": np.concatenate([q, k, v], -1), "k": None, "v": None} if case["packed"] else {"q": q, "k": k, "v": v}
    attributes = {"heads": heads, "kv_heads": kv_heads, "scale": size**-0.5}
    attributes |= {"window_left": case["left"], "window_right": case["right"]}
    return {**first, "bias": bias, "mask": mask, "added": added}, attributes, (q, k, v, bias, mask, added)


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(attentions())
def test_attention(isa: str, case: dict[str, Any]) -> None:
    inputs, attributes, arrays = make(case)
    (out,) = compute("Attention", inputs, isa, **attributes)
    options = {name: attributes[name] for name in ("heads", "kv_heads", "scale")}
    exact = rounding.multi_head_attention(*arrays, left=case["left"], right=case["right"], **options)
    close(out, exact)
    # A row that sees nothing is zero to the bit.
    assert (out[exact.value == 0] == 0).all()


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(attentions())
def test_attention_that_may_round_to_bfloat16(isa: str, case: dict[str, Any]) -> None:
    """Softened scores and values lose at most 1/256 each; scores of 16 bits, and powers of two, another thousandth."""
    inputs, attributes, arrays = make(case)
    (out,) = compute("Attention", inputs, isa, bfloat16=1, **attributes)
    options = {name: attributes[name] for name in ("heads", "kv_heads", "scale")}
    options |= {"left": case["left"], "right": case["right"]}
    exact = rounding.multi_head_attention(*arrays, **options).value
    q, k, v, bias, mask, added = arrays
    width = case["kv_heads"] * case["size"]
    bare = None if bias is None else np.concatenate([bias[:-width], np.zeros(width, np.float32)])
    mixed = rounding.multi_head_attention(q, k, np.abs(v), bare, mask, added, **options).value
    assert (np.abs(out - exact) <= (2**-7 + 1e-3) * mixed + 1e-5).all()
    assert (out[exact == 0] == 0).all()


CASE = {
    "batch": 2, "queries": 200, "keys": 200, "size": 32, "heads": 3, "kv_heads": 3, "packed": True, "bias": True,
    "mask": "holes", "added": None, "left": -1, "right": -1, "seed": 1,
}  # fmt: skip


@pytest.mark.parametrize("rounded", [0, 1])
@pytest.mark.parametrize("isa", ISAS)
def test_masked_keys_do_not_matter_at_all(isa: str, rounded: int) -> None:
    inputs, attributes, _ = make(CASE)
    attributes["bfloat16"] = rounded
    qkv, mask = inputs["q"], inputs["mask"]
    assert qkv is not None
    assert mask is not None
    (first,) = compute("Attention", inputs, isa, **attributes)
    hidden = 96
    other = qkv.copy()
    other[mask == 0, hidden:] = np.nan
    (second,) = compute("Attention", {**inputs, "q": other}, isa, **attributes)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("rounded", [0, 1])
@pytest.mark.parametrize("isa", ISAS)
def test_scores_of_any_size_and_nan_keys(isa: str, rounded: int) -> None:
    inputs, attributes, _ = make({**CASE, "mask": None, "bias": False})
    attributes["bfloat16"] = rounded
    qkv = inputs["q"]
    assert qkv is not None
    (out,) = compute("Attention", {**inputs, "q": qkv * np.float32(1e4)}, isa, **attributes)
    assert np.isfinite(out).all()
    broken = qkv.copy()
    broken[0, 7, 96] = np.nan  # a key of the first head
    (out,) = compute("Attention", {**inputs, "q": broken}, isa, **attributes)
    assert np.isnan(out[0, :, :32]).all()
    assert np.isfinite(out[1]).all()
    assert np.isfinite(out[0, :, 32:]).all()
    every = np.full_like(qkv, np.nan)
    assert np.isnan(compute("Attention", {**inputs, "q": every}, isa, **attributes)[0]).all()


# --- threads ------------------------------------------------------------------------------------------------------


def _cases() -> Iterator[tuple[str, dict[str, Array | None], dict[str, Any]]]:
    rng = np.random.default_rng(3)
    inputs, attributes, _ = make({**CASE, "queries": 300, "keys": 300})
    yield "Attention", inputs, attributes
    yield "Attention", inputs, {**attributes, "bfloat16": 1}
    x, w = normal(rng, 3, 77, 200), normal(rng, 200)
    yield "AddLayerNorm", {"x": x, "residual": x[:1], "weight": w}, {}
    yield "BiasGelu", {"x": x, "bias": w}, {}


@pytest.mark.parametrize("isa", ISAS)
def test_the_same_bytes_however_many_threads(isa: str) -> None:
    for op, inputs, attributes in _cases():
        expected = compute(op, inputs, isa, threads=1, **attributes)[0].tobytes()
        for threads in (2, 3):
            assert compute(op, inputs, isa, threads=threads, **attributes)[0].tobytes() == expected, (op, threads)
        with ThreadPoolExecutor(8) as pool:
            runs = [pool.submit(compute, op, inputs, isa, threads=2, **attributes) for _ in range(24)]
            assert {run.result()[0].tobytes() for run in runs} == {expected}, op


def test_instruction_sets_agree() -> None:
    for op, inputs, attributes in _cases():
        if attributes.get("bfloat16"):
            continue
        outputs = [compute(op, inputs, isa, **attributes)[0] for isa in ISAS]
        for output in outputs[1:]:
            np.testing.assert_allclose(output, outputs[0], rtol=1e-5, atol=2e-6)


# --- refusals -----------------------------------------------------------------------------------------------------


def zeros(*shape: int) -> Array:
    return np.zeros(shape, np.float32)


PACKED = {"q": zeros(1, 2, 6), "k": None, "v": None}


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "message"),
    [
        ("AddLayerNorm", {"x": zeros(2, 3, 4), "r": zeros(2, 3, 5), "w": zeros(4)}, {}, "broadcast"),
        ("AddLayerNorm", {"x": zeros(2, 3, 4), "r": zeros(2, 1, 4), "w": zeros(4)}, {}, "broadcast"),
        ("AddLayerNorm", {"x": zeros(2, 3, 4), "r": zeros(3, 3, 4), "w": zeros(4)}, {}, "broadcast"),
        ("AddLayerNorm", {"x": zeros(2, 4), "r": zeros(2, 4), "w": zeros(3)}, {}, "weight must be a vector of 4"),
        ("AddLayerNorm", {"x": zeros(2, 4), "r": zeros(2, 4), "w": zeros(4), "b": zeros(1)}, {}, "beta must be"),
        ("LayerNorm", {"x": zeros(), "w": zeros(1)}, {}, "no dimension"),
        ("BiasGelu", {"x": zeros(*(1,) * 9)}, {}, "input 0 has 9 dimensions, more than 8"),
        ("BiasGelu", {"x": zeros(0, 2**31, 2**27)}, {}, r"input 0 has dimensions whose product is above 2\^48"),
        ("BiasGelu", {"x": zeros(2, 4), "b": zeros(5)}, {}, "bias must be a vector of 4"),
        ("Attention", {"q": zeros(2, 4)}, {}, "2 dimensions instead of 3"),
        ("Attention", {"q": zeros(1, 2, 8)}, {"heads": 2}, "8 channels do not divide among 6"),
        ("Attention", {"q": zeros(1, 2, 8)}, {"heads": 0}, "heads must be from 1 to 2147483647, not 0"),
        ("Attention", {"q": zeros(1, 2, 8)}, {"heads": 2**31}, "heads must be from 1"),
        ("Attention", {"q": zeros(1, 2, 8)}, {"heads": 2.5}, "heads must be an integer"),
        ("Attention", {"q": zeros(1, 2, 8)}, {"heads": (2,)}, "heads must be an integer"),
        ("Attention", {"q": zeros(1, 2, 8)}, {"heads": "2"}, "heads must be an integer"),
        ("Attention", {"q": zeros(1, 2, 8)}, {"scale": 1}, "scale must be a float"),
        ("Attention", {"q": zeros(1, 2, 8)}, {"scale": float("nan")}, "scale must be a finite number, not nan"),
        ("Attention", {"q": zeros(1, 2, 8)}, {"softcap": -1.0}, "finite number of at least 0, not -1"),
        ("Attention", {"q": zeros(1, 2, 8)}, {"window_left": -2}, "window_left must be from -1"),
        ("LayerNorm", {"x": zeros(2, 4), "w": zeros(4)}, {"epsilon": -1e-5}, "epsilon must be a finite number of at"),
        ("Attention", {"q": zeros(1, 2, 8)}, {"heads": 3, "kv_heads": 2}, "multiple of kv_heads"),
        ("Attention", {"q": zeros(1, 2, 8), "k": zeros(1, 2, 8)}, {"heads": 2}, "both"),
        ("Attention", {"q": zeros(1, 2, 8), "k": zeros(2, 2, 8), "v": zeros(1, 2, 8)}, {"heads": 2}, "differ"),
        ("Attention", {"q": zeros(1, 2, 8), "k": zeros(1, 2, 4), "v": zeros(1, 2, 8)}, {"heads": 2}, "8 channels"),
        ("Attention", {**PACKED, "b": zeros(5)}, {"heads": 2}, "vector of 6"),
        ("Attention", {**PACKED, "b": None, "mask": np.ones((1, 3), np.int64)}, {"heads": 2}, "mask must be"),
        ("Attention", {**PACKED, "b": None, "mask": None, "a": zeros(1, 3, 2, 2)}, {"heads": 2}, "attention_bias must"),
    ],
)  # fmt: skip
def test_bad_shapes_are_errors(
    op: str, inputs: dict[str, Array | None], attributes: dict[str, Any], message: str
) -> None:
    with pytest.raises(Exception, match=message):
        compute(op, inputs, **attributes)


def test_an_empty_batch_is_empty() -> None:
    assert compute("Attention", {"q": zeros(0, 5, 6)}, heads=2)[0].shape == (0, 5, 2)
    assert compute("Attention", {"q": zeros(2, 0, 6)}, heads=2)[0].shape == (2, 0, 2)
    assert compute("AddLayerNorm", {"x": zeros(0, 4), "r": zeros(0, 4), "w": zeros(4)})[0].shape == (0, 4)
    assert compute("BiasGelu", {"x": zeros(3, 0)})[0].shape == (3, 0)


def test_an_unknown_instruction_set_is_an_error() -> None:
    with pytest.raises(Exception, match="PRECAST_KERNELS_ISA"):
        compute("BiasGelu", {"x": zeros(1, 1)}, "vax")


def test_recipe_and_library_name_the_same_operators() -> None:
    made = {recipe.variant: recipe for recipe in RECIPES}
    general, native = made["cpu-fp32"], made["cpu-fp32-native"]
    assert general.isa is None is general.needs(["precast.cpu::HalfLinear"])
    # A graph without what is newest runs on older kernels too.
    assert native.needs(["MatMul", "precast.cpu::Attention"]) == native.isa == kernels.KNOWN[0]
    assert native.needs(["precast.cpu::HalfLinear", "MatMul"]) == kernels.KNOWN[1]
    assert native.needs(["precast.cpu::BlockFeedForward", "MatMul"]) == kernels.ISA == kernels.KNOWN[-1]


def test_a_graph_for_other_kernels_is_refused(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = tmp_path / "graph.onnx"
    with pytest.raises(ProviderError, match="precast-kernels-99"):
        OnnxRuntime("CPUExecutionProvider").load(graph, session={}, threads=1, isa="precast-kernels-99")
    monkeypatch.setenv("PRECAST_NO_KERNELS", "1")
    assert not kernels.available()
    with pytest.raises(ProviderError, match="PRECAST_NO_KERNELS"):
        OnnxRuntime("CPUExecutionProvider").load(graph, session={}, threads=1, isa=kernels.ISA)
