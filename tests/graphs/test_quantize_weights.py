"""Weights in blocks: rounding, layouts, the pass, and both spellings in ONNX Runtime against NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from support.toy_decoder import toy_decoder

from precast.graphs import block_rounding
from precast.graphs import emit as emit_module
from precast.graphs.block_rounding import quantized
from precast.graphs.block_weight import BLOCKS, META, BlockWeight, Parts
from precast.graphs.dialects import blocks
from precast.graphs.dialects.base import Dialect
from precast.graphs.dialects.native import NATIVE
from precast.graphs.dialects.onnxruntime import ONNXRUNTIME, UNPACKED
from precast.graphs.emit import Folder, Written, emit
from precast.graphs.passes import quantize_weights
from precast.graphs.passes.base import Report, run
from precast.graphs.passes.canonical import Canonical
from precast.graphs.passes.clean import Clean
from precast.graphs.passes.lower import Lower
from precast.graphs.passes.quantize_weights import QuantizeWeights
from precast.graphs.polynomials import Polynomial
from precast.graphs.shapes import infer
from precast.graphs.tensors import Derived
from precast.graphs.work import products, work
from precast.runtime import kernels
from precast.runtime.initializers import made_of
from precast.runtime.layouts import Rule

Array = np.ndarray[Any, Any]
WIDTH, HIDDEN, TOKENS = 64, 80, 50


def weights(seed: int = 0, rows: int = 48, depth: int = 200) -> Array:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((rows, depth)) * rng.lognormal(-4, 1, (rows, 1))).astype(np.float32)


def error(weight: Array, parts: Parts, bits: int) -> float:
    values = blocks.dequantized(*parts, bits, weight.shape[1])
    return float(np.linalg.norm(values - weight) / np.linalg.norm(weight))


# --- rounding -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_the_error_of_rounding(bits: int, symmetric: bool, block: int) -> None:
    weight = weights()
    parts = quantized(weight, bits, block, symmetric)
    blocks_of_row = -(-200 // block)
    assert parts[0].shape == (48, blocks_of_row, block * bits // 8)
    assert parts[1].shape == (48, blocks_of_row)
    assert (parts[2] is None) == symmetric
    # Root of the mean square of a uniform error within a step, for normally distributed weights.
    bound = {(4, False): 0.08, (4, True): 0.088, (8, False): 0.0055, (8, True): 0.0055}[bits, symmetric]
    assert error(weight, parts, bits) < bound * (block / 32) ** 0.21


@pytest.mark.parametrize("symmetric", [True, False])
def test_four_bits_are_searched_for(symmetric: bool) -> None:
    weight = weights(rows=200, depth=256)
    x = weight.reshape(200, -1, 32)
    if symmetric:
        scale, zero = np.abs(x).max(-1) / 7, np.full(x.shape[:2], 8.0)
    else:
        scale = (x.max(-1) - x.min(-1)) / 15
        zero = np.rint(-x.min(-1) / scale)
    plain = (np.clip(np.rint(x / scale[..., None] + zero[..., None]), 0, 15) - zero[..., None]) * scale[..., None]
    plain_error = np.linalg.norm(plain - x) / np.linalg.norm(x)
    assert error(weight, quantized(weight, 4, 32, symmetric), 4) < (0.93 if symmetric else 0.97) * plain_error


def test_eight_bits_reach_every_weight() -> None:
    """No weight is further from its code than half a step, where the range is covered."""
    weight = weights()
    for symmetric in (True, False):
        parts = quantized(weight, 8, 32, symmetric)
        away = np.abs(blocks.dequantized(*parts, 8, 200) - weight)
        assert (away <= np.repeat(parts[1], 32, 1)[:, :200] * 0.5001).all()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_peculiar_blocks(bits: int, symmetric: bool) -> None:
    weight = np.zeros((6, 64), np.float32)
    weight[1, 3] = 1e-30  # too small for a scale
    weight[2] = 5.0  # all alike, above zero
    weight[3] = -5.0
    weight[4, ::2] = 1e-7
    weight[5, 7] = 30000.0  # an outlier
    parts = quantized(weight, bits, 32, symmetric)
    values = blocks.dequantized(*parts, bits, 64)
    assert np.isfinite(values).all()
    assert (values[0] == 0).all()
    step = {4: 0.08, 8: 0.005}[bits]
    np.testing.assert_allclose(values[1:], weight[1:], rtol=step, atol=1e-20)
    assert (blocks.rounded_scales(parts[1]) == parts[1]).all()


@pytest.mark.parametrize(
    ("value", "message"), [(np.nan, "NaN"), (np.inf, "infinities"), (1e8, "numbers up to 1e\\+08")]
)
@pytest.mark.parametrize("bits", [4, 8])
def test_weights_that_cannot_be_quantised(bits: int, value: float, message: str) -> None:
    weight = weights()
    weight[5, 5] = value
    with pytest.raises(ValueError, match=message):
        quantized(weight, bits, 32, False)


def test_chunks_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = quantized(weights(), 4, 32, False)
    monkeypatch.setattr(block_rounding, "_CHUNK", 1000)
    for part, other in zip(quantized(weights(), 4, 32, False), whole, strict=True):
        np.testing.assert_array_equal(part, other)


# --- layouts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 7, 8])
@pytest.mark.parametrize("bits", [4, 8])
def test_packed_bits_come_back(bits: int, count: int) -> None:
    values = np.random.default_rng(0).integers(0, 2**bits, (3, count)).astype(np.uint8)
    packed = blocks.pack_bits(values, bits)
    assert packed.shape == (3, blocks.packed_size(count, bits))
    np.testing.assert_array_equal(blocks.unpack_bits(packed, bits, count), values)


def test_scales_keep_eleven_bits() -> None:
    halves = np.random.default_rng(0).lognormal(-3, 3, 1000).astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(blocks.rounded_scales(halves), halves)
    scales = np.random.default_rng(1).lognormal(-3, 3, 1000).astype(np.float32)
    np.testing.assert_allclose(blocks.rounded_scales(scales), scales, rtol=2**-11)
    up = blocks.rounded_scales(scales, up=True)
    assert (up >= scales).all()
    np.testing.assert_allclose(up, scales, rtol=2**-10)


@pytest.mark.parametrize("scale", [-0.5, 65536.0, np.nan])
def test_scales_the_kernels_cannot_keep(scale: float) -> None:
    weight, scales, _ = quantized(weights(), 4, 32, True)
    scales[3, 2] = scale
    with pytest.raises(ValueError, match="at least 0 and below 65520"):
        blocks.panels(weight, scales, None, 4)


# --- the pass -----------------------------------------------------------------------------------------------------


def table(seed: int, rows: int, depth: int) -> Array:
    return (np.random.default_rng(seed).standard_normal((rows, depth)) * 0.3).astype(np.float32)


ARRAYS = {
    "embed.weight": table(1, TOKENS, WIDTH),
    "places.weight": table(2, 16, WIDTH),
    "up.weight": table(3, HIDDEN, WIDTH),
    "down.weight": table(4, WIDTH, HIDDEN),  # 80 channels: no whole blocks
    "head.weight": table(5, TOKENS, WIDTH),
}
BIAS = table(6, 1, HIDDEN)[0]


def traced(tied: bool = True) -> ir.Model:
    return toy_decoder(ARRAYS, BIAS, tied)


def lowered(quantize: QuantizeWeights, dialect: Dialect, tied: bool = True) -> tuple[ir.Model, Report]:
    model = traced(tied)
    reports = run(model, (quantize, Lower(dialect), Clean(), Canonical()))
    return model, reports[0]


def answer(model: ir.Model, threads: int = 1) -> Array:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.register_custom_ops_library(str(kernels.library_path()))
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    ids = np.arange(12).reshape(2, 6) * 4
    (logits,) = session.run(None, {"input_ids": ids, "position_ids": ids % 7})
    return np.asarray(logits)


def expected(held: dict[str, Array], tied: bool = True) -> Array:
    """In float64, with the weights given."""
    ids = np.arange(12).reshape(2, 6) * 4
    states = held["embed.weight"][ids].astype(np.float64) + held["places.weight"][ids % 7]
    states = states @ held["up.weight"].T.astype(np.float64) + BIAS
    states = states @ held["down.weight"].T
    return np.asarray(states @ held["embed.weight" if tied else "head.weight"].T)


DIALECTS = [
    pytest.param(ONNXRUNTIME, id="onnxruntime"),
    pytest.param(UNPACKED, id="unpacked"),
    pytest.param(NATIVE, id="native"),
]


@pytest.fixture(autouse=True)
def _built() -> None:
    assert kernels.available(), kernels.why_not()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("bits", "block", "symmetric"), [(4, 32, None), (4, 64, True), (8, 32, None), (8, 32, False)])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_quantised_graph_computes_with_its_weights(
    dialect: Dialect, bits: int, block: int, symmetric: bool | None, tied: bool
) -> None:
    model, report = lowered(QuantizeWeights(bits, block, symmetric), dialect, tied)
    assert report.changed == 4
    assert report.declined == {"Gather: not of tokens": 1}
    held = dict(ARRAYS)
    for name in ARRAYS.keys() - {"places.weight"}:
        parts = quantized(ARRAYS[name], bits, block, bits == 8 if symmetric is None else symmetric)
        held[name] = blocks.dequantized(*parts, bits, ARRAYS[name].shape[1])
    exact = expected(held, tied)
    # What is left is the rounding of rows to 8 bits, three products in a row, where rows are rounded.
    left = 1e-6 if dialect is UNPACKED else 0.02
    assert np.linalg.norm(answer(model) - exact) < left * np.linalg.norm(exact)
    whole = expected(ARRAYS, tied)
    assert np.linalg.norm(answer(model) - whole) < {4: 0.2, 8: 0.02}[bits] * np.linalg.norm(whole)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    ("bits", "block", "zeros"), [(4, 32, "floats"), (8, 32, "floats"), (8, 16, "none"), (8, 16, "floats")]
)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_blocks_of_a_checkpoint_are_computed_with(
    dialect: Dialect, bits: int, block: int, zeros: blocks.Zeros, tied: bool
) -> None:
    """Zero points that are no integers, and blocks of 16, as files of ggml have them."""
    model, held = traced(tied), dict(ARRAYS)
    rng = np.random.default_rng(0)
    for name, value in model.graph.initializers.items():
        if name not in ARRAYS or name == "places.weight" or ARRAYS[name].shape[1] % block:
            continue
        rows, depth = ARRAYS[name].shape
        shape = (rows, depth // block)
        codes = rng.integers(0, 2**bits, (*shape, block)).astype(np.uint8)
        scales = blocks.rounded_scales(rng.lognormal(-4 if bits == 4 else -6, 0.5, shape).astype(np.float32))
        middle = 2 ** (bits - 1)
        offsets = None if zeros == "none" else (middle + rng.uniform(-1.2, 1.2, shape) * middle).astype(np.float32)
        parts = (blocks.pack_bits(codes, bits), scales, offsets)
        value.meta[META] = lambda parts=parts: BlockWeight(bits, block, zeros, lambda: parts)
        held[name] = blocks.dequantized(*parts, bits, depth)
    report = run(model, (QuantizeWeights(8), Lower(dialect), Clean(), Canonical()))[0]
    assert report.changed == 4 and report.declined == {"Gather: not of tokens": 1}
    exact = expected(held, tied)
    assert np.linalg.norm(answer(model) - exact) < 0.01 * np.linalg.norm(exact)
    # The graph's shapes are known, and what it costs.
    assert [value.name for value, fact in infer(model).items() if fact.shape is None or fact.dtype is None] == []
    assert work(model)


@pytest.mark.parametrize("zeros", ["none", "integers", "floats"])
@pytest.mark.parametrize(("bits", "block"), [(4, 32), (8, 32), (8, 16), (4, 64)])
@pytest.mark.parametrize("dialect", DIALECTS[:2])
def test_what_a_session_is_given_is_what_the_graph_means(dialect: Dialect, bits: int, block: int, zeros: str) -> None:
    """Every array that the runtime makes of panels, beside the one that the graph has of it."""
    model = traced()
    rng = np.random.default_rng(0)
    for name, value in model.graph.initializers.items():
        if name not in ARRAYS or name == "places.weight" or (zeros == "floats" and ARRAYS[name].shape[1] % block):
            continue
        rows, depth = ARRAYS[name].shape
        count = -(-depth // block)
        codes = rng.integers(0, 2**bits, (rows, count, block)).astype(np.uint8)
        scales = rng.lognormal(-4, 0.5, (rows, count)).astype(np.float32)
        offsets: Array | None = None
        if zeros == "floats":
            offsets = (2 ** (bits - 1) + rng.uniform(-9, 9, (rows, count))).astype(np.float32)
        elif zeros == "integers":
            offsets = blocks.pack_bits(rng.integers(0, 2**bits, (rows, count)).astype(np.uint8), bits)
        parts = (blocks.pack_bits(codes, bits), scales, offsets)
        value.meta[META] = lambda parts=parts: BlockWeight(bits, block, zeros, lambda: parts)  # type: ignore[arg-type]
    run(model, (QuantizeWeights(bits), Lower(dialect), Clean(), Canonical()))
    found = {}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if isinstance(tensor, Derived):
            rule = Rule(**tensor.rule)
            held = np.ascontiguousarray(tensor.source.numpy()).reshape(-1).view(np.uint8)
            assert rule.nbytes == held.nbytes
            made = made_of(rule, held)
            assert made.flags.c_contiguous and made.dtype == tensor.numpy().dtype
            np.testing.assert_allclose(made, tensor.numpy(), rtol=1e-6, atol=1e-9, err_msg=name)
            found[rule.what] = found.get(rule.what, 0) + 1
    if dialect is UNPACKED:
        assert found["matrix"] == 3 and found["rows"] == 1
    else:
        assert found["codes"] == 3 and found["scales"] == 3 and found["rows"] == 1
        assert ("zeros" in found) == (zeros != "none")
        assert ("left" in found, "columns" in found) == ((zeros == "floats"),) * 2


def test_a_tied_weight_is_stored_once() -> None:
    """Graphs of every dialect are made of the very panels that the kernels read."""
    model, _ = lowered(QuantizeWeights(4), NATIVE)
    assert sorted(model.graph.initializers) == [
        "down.weight.int4.panels", "embed.weight.int4.panels", "places.weight", "up.bias", "up.weight.int4.panels",
    ]  # fmt: skip
    kept = {name: value.const_value.numpy() for name, value in model.graph.initializers.items() if "panels" in name}
    for dialect in (ONNXRUNTIME, UNPACKED):
        general, _ = lowered(QuantizeWeights(4), dialect)
        sources = {}
        for name, value in general.graph.initializers.items():
            if isinstance(value.const_value, Derived):
                sources[value.const_value.source.name] = value.const_value.source
            else:
                assert value.const_value.nbytes < 100 or name in ARRAYS or name == "up.bias", name
        assert sources.keys() == kept.keys()
        for name, panels in kept.items():
            np.testing.assert_array_equal(sources[name].numpy(), panels)


def test_nothing_is_computed_before_it_is_written_and_then_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    whole = quantize_weights.quantized

    def counted(weight: Array, *rest: Any) -> Any:
        calls.append(weight.shape)
        return whole(weight, *rest)

    monkeypatch.setattr(quantize_weights, "quantized", counted)
    for dialect in (NATIVE, ONNXRUNTIME):
        model = traced(tied=False)
        run(model, (QuantizeWeights(4), Lower(dialect), Canonical()))
        assert calls == []
        for value in model.graph.initializers.values():
            assert value.const_value is not None
            value.const_value.numpy()
        assert sorted(calls) == sorted(ARRAYS[name].shape for name in ARRAYS.keys() - {"places.weight"})
        calls.clear()


def test_graphs_of_one_trace_are_rounded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    whole = quantize_weights.quantized
    monkeypatch.setattr(
        quantize_weights, "quantized", lambda weight, *rest: (calls.append(weight.shape), whole(weight, *rest))[1]
    )
    monkeypatch.setattr(emit_module, "INLINE_LIMIT", 0)
    one, written, sink = traced(), Written(), Folder(tmp_path)
    files = []
    for dialect in (ONNXRUNTIME, UNPACKED, NATIVE):
        model = one.clone()
        run(model, (QuantizeWeights(4), Lower(dialect), Clean(), Canonical()))
        calls.clear()  # clean-up has looked at what is small
        panels = {rule["weight"] for rule in emit(model, sink, "graph.onnx", written, derive=True).derived.values()}
        files.append((len(calls), panels))
    assert 0 < files[0][0] <= 3 and len(files[0][1]) == 3
    assert files[1:] == [(0, files[0][1]), (0, set())]


def test_weights_kept_and_weights_in_eight_bits() -> None:
    quantize = QuantizeWeights(4, keep=("down.*",), sensitive=("embed.*", "head.*"))
    model, report = lowered(quantize, NATIVE)
    few = "4 bits are too few, it has 8"
    assert report.declined == {
        "Gather: not of tokens": 1, "Linear: kept": 1, f"Gather: {few}": 1, f"Linear: {few}": 1,
    }  # fmt: skip
    bits = sorted(node.attributes["bits"].as_int() for node in model.graph if "bits" in node.attributes)
    assert bits == [4, 8, 8]
    exact = expected(ARRAYS)
    assert np.linalg.norm(answer(model) - exact) < 0.1 * np.linalg.norm(exact)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("symmetric", [None, False])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_where_eight_bits_are_too_few_four_more_follow(dialect: Dialect, symmetric: bool | None, tied: bool) -> None:
    """Products and lookups alike, bias and all; the weights are then a hundred times nearer to what they were."""
    model, report = lowered(QuantizeWeights(8, 32, symmetric, sensitive=("*",)), dialect, tied)
    few = "8 bits are too few, it has 12"
    assert report.changed == 4
    assert report.declined == {"Gather: not of tokens": 1, f"Gather: {few}": 1, f"Linear: {few}": 3}
    held = dict(ARRAYS)
    for name in ARRAYS.keys() - {"places.weight"}:
        first = blocks.dequantized(*quantized(ARRAYS[name], 8, 32, symmetric is None), 8, ARRAYS[name].shape[1])
        rest = blocks.dequantized(*quantized(ARRAYS[name] - first, 4, 32, True), 4, ARRAYS[name].shape[1])
        held[name] = first + rest
        assert np.linalg.norm(held[name] - ARRAYS[name]) < 0.1 * np.linalg.norm(first - ARRAYS[name])
    exact, whole = expected(held, tied), expected(ARRAYS, tied)
    assert np.linalg.norm(exact - whole) < 1e-3 * np.linalg.norm(whole)
    # Rows have 12 bits in the native products, and 15 in the others.
    assert np.linalg.norm(answer(model) - exact) < 1e-3 * np.linalg.norm(exact)
    assert [value.name for value, fact in infer(model).items() if fact.shape is None or fact.dtype is None] == []
    assert work(model)["uncounted"] == []


def test_what_is_left_is_rounded_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = block_rounding.quantized_rest(weights(), 8, 32, True, 4)
    monkeypatch.setattr(block_rounding, "_CHUNK", 100)
    for part, other in zip(block_rounding.quantized_rest(weights(), 8, 32, True, 4), whole, strict=True):
        np.testing.assert_array_equal(part, other)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_a_quantised_graph_costs(dialect: Dialect) -> None:
    model, _ = lowered(QuantizeWeights(4), dialect)
    facts = infer(model)
    assert [value.name for value, fact in facts.items() if fact.shape is None or fact.dtype is None] == []
    tokens = Polynomial.of("batch") * Polynomial.of("sequence")
    assert products(model) == tokens * (2 * (2 * WIDTH * HIDDEN + TOKENS * WIDTH))
    cost = work(model)
    assert cost["uncounted"] == []
    small = tokens * (2 * WIDTH + WIDTH + HIDDEN)  # the embedding's, the sum with the places, the bias
    assert cost["flops"] == (products(model) + small).to_json()


def test_an_embedding_without_whole_blocks_stays() -> None:
    model, report = lowered(QuantizeWeights(8, 128), NATIVE)
    assert report.declined == {"Gather: 64 channels are no multiple of the block": 1, "Gather: not of tokens": 1}
    exact = expected(ARRAYS)
    assert np.linalg.norm(answer(model) - exact) < 0.02 * np.linalg.norm(exact)


def test_a_weight_that_cannot_be_quantised_is_named() -> None:
    model = traced()
    initializer_of = model.graph.initializers["up.weight"]
    initializer_of.const_value = ir.tensor(np.full((HIDDEN, WIDTH), np.nan, np.float32), name="up.weight")
    run(model, (QuantizeWeights(4), Lower(NATIVE)))
    broken = model.graph.initializers["up.weight.int4.panels"].const_value
    assert broken is not None
    with pytest.raises(ValueError, match=r"weight 'up\.weight' cannot be quantised"):
        broken.numpy()
    model = traced()
    model.graph.initializers["up.weight"].const_value = initializer_of.const_value
    [found] = [found for found in QuantizeWeights(4).roundings(model) if found.weight.name == "up.weight"]
    with pytest.raises(ValueError, match=r"weight 'up\.weight' cannot be quantised"):
        found.parts()


@pytest.mark.parametrize(
    ("arguments", "message"), [((3,), "bits must be 4 or 8, not 3"), ((4, 48), "block must be one of 32, 64, 128, 256")]
)
def test_bad_arguments(arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QuantizeWeights(*arguments)


def test_the_pass_comes_before_lowering() -> None:
    with pytest.raises(ValueError, match="before Lower"):
        run(traced(), (Lower(ONNXRUNTIME), QuantizeWeights(4)))
