"""Products with weights in blocks on every instruction set: integers exact against NumPy, errors against float64."""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from precast.graphs.block_rounding import quantized
from precast.graphs.dialects import blocks
from precast.graphs.dialects.native import DOMAIN
from precast.runtime import kernels

Array = np.ndarray[Any, Any]
pytestmark = pytest.mark.skipif(
    os.environ.get("PRECAST_KERNELS") == "off", reason="PRECAST_KERNELS=off: this build is meant to be without kernels"
)
ISAS = kernels.isas() or ("missing",)
MIDDLE = {4: 8, 8: 128}


@pytest.fixture(autouse=True)
def _built() -> None:
    assert kernels.available(), kernels.why_not()


def session(op: str, inputs: dict[str, Array], isa: str = "", threads: int = 1, **attributes: int) -> Any:
    """A session of one node; the first input is the call's, the others are weights."""
    first, *rest = inputs
    kind = helper.np_dtype_to_tensor_dtype(inputs[first].dtype)
    graph = helper.make_graph(
        [helper.make_node(op, list(inputs), ["out"], domain=DOMAIN, **attributes)],
        "one",
        [helper.make_tensor_value_info(first, kind, None)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(inputs[name], name) for name in rest],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.register_custom_ops_library(str(kernels.library_path()))
    before = os.environ.get("PRECAST_KERNELS_ISA")
    os.environ["PRECAST_KERNELS_ISA"] = isa
    try:
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    finally:
        os.environ.pop("PRECAST_KERNELS_ISA")
        if before is not None:
            os.environ["PRECAST_KERNELS_ISA"] = before


class Weight:
    """A weight in blocks, given by its codes [N, K], scales [N, blocks] and zero points, integers or floats."""

    def __init__(
        self, codes: Array, scales: Array, zeros: Array | None, bits: int, block: int, row_bits: int = 8
    ) -> None:
        self.bits, self.block = bits, block
        self.rows, self.depth = codes.shape
        self.scales = scales.astype(np.float32)
        padded = np.zeros((self.rows, scales.shape[1] * block), np.uint8)
        padded[:, : self.depth] = codes
        stored = blocks.pack_bits(padded.reshape(self.rows, -1, block), bits)
        packed, kind = zeros, "none" if zeros is None else "floats"
        if zeros is not None and zeros.dtype != np.float32:
            packed, kind = blocks.pack_bits(zeros.astype(np.uint8), bits), "integers"
        self.panels = blocks.panels(stored, self.scales, packed, bits)
        self.values = blocks.dequantized(stored, self.scales, packed, bits, self.depth)
        self.attributes = {"bits": bits, "block": block, "in": self.depth, "out": self.rows}
        self.attributes["zeros"] = blocks.KINDS.index(kind)
        self.attributes |= {"bfloat16": 1, "row_bits": row_bits}

    @classmethod
    def of(cls, array: Array, bits: int, block: int, symmetric: bool) -> Weight:
        stored, scales, packed = quantized(array, bits, block, symmetric)
        codes = blocks.unpack_bits(stored, bits, block).reshape(len(array), -1)[:, : array.shape[1]]
        zeros = None if packed is None else blocks.unpack_bits(packed, bits, scales.shape[1])
        return cls(codes, scales, zeros, bits, block)

    def __call__(self, x: Array, bias: Array | None = None, isa: str = "", threads: int = 1) -> Array:
        inputs = {"x": x, "weight": self.panels} | ({} if bias is None else {"bias": bias})
        (out,) = session("BlockLinear", inputs, isa, threads, **self.attributes).run(None, {"x": x})
        return np.asarray(out)

    def finest(self, rows: int, isa: str) -> np.float32:
        """What the largest of a block of x becomes."""
        return np.float32(127 if self.bits == 4 or self.in_bytes(rows, isa) else 65504 // self.block)

    def in_bytes(self, rows: int, isa: str) -> bool:
        """Whether so many rows keep eight bits beside weights of eight."""
        allowed = self.attributes["row_bits"] == 8 and self.block != 16
        return allowed and isa in ("avx512vnni", "avxvnni") and rows >= 8

    def rounded_rows(self, x: Array, isa: str) -> Array:
        """x as the operator rounds it, in float64."""
        padded = np.zeros((len(x), self.scales.shape[1] * self.block), np.float32)
        padded[:, : self.depth] = x
        parts = padded.reshape(len(x), -1, self.block)
        most = np.abs(parts).max(-1, keepdims=True)
        held = most >= np.float32(2e-35)
        most = np.where(held, most, np.float32(1))
        finest = self.finest(len(x), isa)
        codes = np.rint(parts * (finest / most)) * held
        return (codes * (most / finest).astype(np.float64)).reshape(len(x), -1)[:, : self.depth]

    def operands(self, x: Array, isa: str) -> tuple[Array, Array]:
        """What is multiplied of rows and weight, in float64."""
        if not in_tiles(x, isa):
            return self.rounded_rows(x, isa), self.values.astype(np.float64)
        scales = np.repeat(self.scales * np.float32(1 + 2**-7 / 3), self.block, axis=1)[:, : self.depth]
        units = np.repeat(self.scales, self.block, axis=1)[:, : self.depth]
        codes = np.divide(self.values, units, out=np.zeros_like(units), where=units != 0)
        return bfloat16(x, cut=False), bfloat16(codes * scales, cut=True)

    def emulated(self, x: Array, isa: str) -> Array:
        rows, values = self.operands(x, isa)
        return np.asarray(rows @ values.T)


def in_tiles(x: Array, isa: str) -> bool:
    """Whether these rows are multiplied in bfloat16."""
    return isa == "amx" and len(x) >= 8


def bfloat16(x: Array, *, cut: bool) -> Array:
    """Numbers of eight bits, the nearest or what is left when the others are cut off, in float64."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
    bits += 0 if cut else 0x7FFF + (bits >> 16 & 1)
    return np.asarray((bits & 0xFFFF0000).astype(np.uint32).view(np.float32).astype(np.float64))


def half_floats(zeros: Array, bits: int) -> Array:
    """Zero points that the kernels keep: those of eight bits are counted from the middle."""
    middle = 128 if bits == 8 else 0
    return np.asarray((zeros - middle).astype(np.float16).astype(np.float32) + middle)


@st.composite
def weights(draw: Any) -> tuple[Weight, Array, Array | None]:
    """A weight of random codes, rows of several scales, a bias or none."""
    bits = draw(st.sampled_from([4, 8]))
    block = draw(st.sampled_from([32, 64, 96, 128, 256] + [16] * (bits == 8)))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    columns, depth = draw(st.integers(1, 70)), draw(st.integers(1, 300))
    shape = (columns, -(-depth // block))
    scales = blocks.rounded_scales(rng.lognormal(-4, 1, shape).astype(np.float32))
    kind = draw(st.sampled_from(blocks.KINDS))
    zeros = None if kind == "none" else rng.integers(0, 2**bits, shape)
    if kind == "floats":
        zeros = half_floats(rng.uniform(-40, 40, shape), bits)
    codes = rng.integers(0, 2**bits, (columns, depth))
    weight = Weight(codes, scales, zeros, bits, block, draw(st.sampled_from([8, 12])))
    x = rng.standard_normal((draw(st.integers(1, 9) | st.integers(10, 70)), depth)) * rng.lognormal(0, 2, depth)
    return (
        weight,
        x.astype(np.float32),
        rng.standard_normal(columns).astype(np.float32) if draw(st.booleans()) else None,
    )


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(weights())
def test_block_linear(isa: str, case: tuple[Weight, Array, Array | None]) -> None:
    weight, x, bias = case
    out = weight(x, bias, isa)
    expected = weight.emulated(x, isa) + (0 if bias is None else bias)
    # Of the sums over blocks only: within a block they are exact.
    rows, values = weight.operands(x, isa)
    size = np.abs(rows) @ np.abs(values).T + 1
    assert out.dtype == np.float32
    assert (np.abs(out - expected) <= 1e-6 * size).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zeros", blocks.KINDS)
@pytest.mark.parametrize(("rows", "row_bits"), [(1, 8), (2, 8), (3, 8), (4, 8), (5, 8), (11, 8), (130, 8), (130, 12)])
@pytest.mark.parametrize("block", [16, 32, 64])
def test_integers_are_exact(isa: str, bits: int, zeros: str, rows: int, row_bits: int, block: int) -> None:
    """With scales that are powers of two every step can be held in float32: not one bit may differ."""
    if block == 16:
        bits = 8  # the only ones in blocks that small
    rng = np.random.default_rng(rows)
    columns, depth = 37, 3 * block + 8
    shape = (columns, 4)
    scales = 2.0 ** rng.integers(-2, 1, shape)
    offsets = None if zeros == "none" else rng.integers(0, 2**bits, shape)
    if zeros == "floats":
        offsets = rng.integers(*((0, 256) if isa == "amx" else (-8, 2**bits + 8)), shape).astype(np.float32)
    weight = Weight(rng.integers(0, 2**bits, (columns, depth)), scales, offsets, bits, block, row_bits)
    most = int(weight.finest(rows, isa))
    reach = most * block // 64  # of short blocks the largest alone is at its most, or sums had more than 24 bits
    x = rng.integers(-reach, reach + 1, (rows, depth)).astype(np.float32)
    x[:, ::block] = most  # the largest of every block: its scale is one
    if in_tiles(x, isa):
        x = np.clip(x, -256, 256)
    plain = x.astype(np.float64) @ weight.values.astype(np.float64).T
    np.testing.assert_array_equal(weight(x, isa=isa), plain)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("block", [32, 256])
@pytest.mark.parametrize(("bits", "code"), [(4, 0), (4, 15), (8, 0), (8, 1), (8, 255)])
@pytest.mark.parametrize("sign", [1, -1])
def test_nothing_saturates(isa: str, bits: int, code: int, block: int, sign: int) -> None:
    """Every product at its extreme: instructions that saturate would be seen here."""
    for zero in (None, 0, 2**bits - 1):
        zeros = None if zero is None else np.full((9, 2), zero)
        weight = Weight(np.full((9, 2 * block), code), np.ones((9, 2)), zeros, bits, block)
        for rows in (5, 12):
            if rows == 12 and isa == "amx":
                continue  # weights of 8 bits have no more than that in bfloat16
            most = float(weight.finest(rows, isa)) * sign
            for x in (np.full((rows, 2 * block), most), np.tile([most, -most], (rows, block))):
                exact = 2 * block * x[0].mean() * (code - (MIDDLE[bits] if zero is None else zero))
                np.testing.assert_array_equal(weight(x.astype(np.float32), isa=isa), np.full((rows, 9), exact))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bits", [4, 8])
def test_peculiar_rows(isa: str, bits: int) -> None:
    rng = np.random.default_rng(0)
    weight = Weight.of(rng.standard_normal((20, 96)).astype(np.float32), bits, 32, False)
    x = rng.standard_normal((7, 96)).astype(np.float32)
    x[0] = 0
    x[1, 40] = 1e30  # an outlier leaves the blocks beside it alone
    x[2] *= 1e-38
    x[3, 64:] = 0
    x[4, 5] = np.nan
    x[5, 5] = -np.inf
    out = weight(x, isa=isa)
    assert (out[[0, 2]] == 0).all()
    assert np.isnan(out[4:6]).all()
    assert np.isfinite(out[[1, 3, 6]]).all()
    finite = [1, 3, 6]
    np.testing.assert_allclose(out[finite], weight.emulated(x[finite], isa), rtol=2e-5, atol=1e-5)
    many = np.tile(x, (5, 1))
    expected = weight.emulated(np.tile(x[finite], (5, 1)), isa)
    out = weight(many, isa=isa)
    assert (out[::7] == 0).all()
    assert np.abs(out[2::7]).max() < 1e-36
    for index, row in enumerate(finite):
        np.testing.assert_allclose(out[row::7], expected[index::3], rtol=2e-5, atol=1e-5)
    assert np.isnan(out[4::7]).all()
    assert not np.isfinite(out[5::7]).any()
    largest = np.full((1, 96), np.finfo(np.float32).max, np.float32)
    tiny = Weight(np.full((8, 96), 9), np.full((8, 3), 2.0**-30), None, 4, 32)
    np.testing.assert_allclose(tiny(largest, isa=isa), np.full((1, 8), 96 * 2.0**-30 * float(largest[0, 0])), rtol=1e-6)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block", [16, 32])
def test_rows_next_to_nothing(isa: str, bits: int, block: int) -> None:
    """What is too small for a scale is zero, and nothing in between overflows."""
    rng = np.random.default_rng(0)
    array = rng.standard_normal((20, 2 * block)).astype(np.float32)
    weight = Weight.of(array, 8 if block == 16 else bits, block, False)
    x = (rng.standard_normal((60, 2 * block)) * np.logspace(-38, -33, 60)[:, None]).astype(np.float32)
    most = np.abs(x).max(-1, keepdims=True)
    error = np.abs(weight(x, isa=isa) - x.astype(np.float64) @ weight.values.T.astype(np.float64))
    lost = np.maximum(
        most / weight.finest(60, isa), 2e-35
    )  # of every channel: half a step, or all that is below the smallest
    assert (error <= lost * np.abs(weight.values).sum(-1)).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("scale", [0.0, 1e-30, 2.0**-48, 2.0**-24, 65504.0])
@pytest.mark.parametrize("bits", [4, 8])
def test_scales_of_any_size(isa: str, bits: int, scale: float) -> None:
    codes = np.random.default_rng(0).integers(0, 2**bits, (11, 64))
    weight = Weight(codes, np.full((11, 2), scale), None, bits, 32)
    x = np.full((3, 64), 1.0, np.float32)
    held = scale if scale >= 2.0**-48 else 0.0
    exact = np.tile((codes.astype(np.float64) - MIDDLE[bits]).sum(-1) * held, (3, 1))
    np.testing.assert_allclose(weight(x, isa=isa), exact, rtol=1e-5, atol=1e-5 * held)


@pytest.mark.parametrize("isa", ISAS)
def test_eight_bits_are_close_to_float(isa: str) -> None:
    rng = np.random.default_rng(0)
    array = (rng.standard_normal((200, 768)) / 28).astype(np.float32)
    x = rng.standard_normal((16, 768)).astype(np.float32)
    exact = x.astype(np.float64) @ array.T
    for bits, bound in ((8, 0.008), (4, 0.08)):
        out = Weight.of(array, bits, 32, bits == 8)(x, isa=isa)
        assert np.linalg.norm(out - exact) < bound * np.linalg.norm(exact)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("rows", [1, 6, 300])
def test_the_same_bytes_however_many_threads_and_rows(isa: str, bits: int, rows: int) -> None:
    rng = np.random.default_rng(0)
    weight = Weight.of(rng.standard_normal((333, 400)).astype(np.float32), bits, 32, False)
    x = rng.standard_normal((rows, 400)).astype(np.float32)
    expected = weight(x, isa=isa)
    for threads in (2, 3):
        assert weight(x, isa=isa, threads=threads).tobytes() == expected.tobytes()
    # A row's result does not depend on the rows beside it, only on whether they are many.
    alone = 9 if in_tiles(x, isa) or weight.in_bytes(rows, isa) else 1
    assert weight(x[-alone:], isa=isa).tobytes() == expected[-alone:].tobytes()
    inputs = {"x": x, "weight": weight.panels}
    shared = session("BlockLinear", inputs, isa, 2, **weight.attributes)
    with ThreadPoolExecutor(6) as pool:
        runs = [pool.submit(shared.run, None, {"x": x}) for _ in range(18)]
        assert {run.result()[0].tobytes() for run in runs} == {expected.tobytes()}


def test_many_rows_keep_their_bits_where_nothing_else_is_allowed() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 300)).astype(np.float32)
    weight = Weight.of(rng.standard_normal((50, 300)).astype(np.float32), 8, 32, True)
    weight.attributes |= {"bfloat16": 0, "row_bits": 12}
    for isa in ISAS:
        np.testing.assert_allclose(weight(x, isa=isa), weight.emulated(x, "portable"), rtol=1e-5, atol=1e-5)


def test_instruction_sets_agree() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, 300)).astype(np.float32)
    for bits in (4, 8):
        weight = Weight.of(rng.standard_normal((50, 300)).astype(np.float32), bits, 64, False)
        outputs = [weight(x, isa=isa) for isa in ISAS]
        for output in outputs[1:]:
            np.testing.assert_allclose(output, outputs[0], rtol=1e-5, atol=1e-5)


# --- two products with GELU between them ---------------------------------------------------------------------------


def gelu(x: Array, tanh: int) -> Array:
    inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    return np.asarray(x / 2 * (1 + (np.tanh(inner) if tanh else np.vectorize(math.erf)(x / np.sqrt(2)))))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("rows", "depth", "hidden", "columns"), [(1, 64, 64, 48), (5, 45, 70, 9), (37, 600, 40, 33)])
@pytest.mark.parametrize(("bits", "block", "symmetric"), [(8, 32, True), (8, 16, False), (4, 64, False)])
@pytest.mark.parametrize("tanh", [0, 1])
def test_feed_forward(
    isa: str, rows: int, depth: int, hidden: int, columns: int, bits: int, block: int, symmetric: bool, tanh: int
) -> None:
    rng = np.random.default_rng(rows + bits)
    up = Weight.of((rng.standard_normal((hidden, depth)) / depth**0.5).astype(np.float32), bits, block, symmetric)
    down = Weight.of((rng.standard_normal((columns, hidden)) / hidden**0.5).astype(np.float32), bits, block, symmetric)
    x = (2 * rng.standard_normal((rows, depth))).astype(np.float32)
    biased = rows != 5
    first = rng.standard_normal(hidden).astype(np.float32) * biased
    second = rng.standard_normal(columns).astype(np.float32) * biased
    between = gelu(up.emulated(x, isa) + first, tanh).astype(np.float32)
    expected = down.emulated(between, isa) + second
    attributes = {**up.attributes, "hidden": hidden, "out": columns, "tanh": tanh}
    inputs = {"x": x, "up": up.panels, "down": down.panels}
    inputs |= {"up_bias": first, "down_bias": second} if biased else {}
    runs = {}
    for threads in (1, 3):
        (out,) = session("BlockFeedForward", inputs, isa, threads, **attributes).run(None, {"x": x})
        runs[threads] = out.tobytes()
    assert runs[1] == runs[3]
    # What lies between is rounded anew: one that lies on an edge goes the other way, now and then.
    np.testing.assert_allclose(out, expected, rtol=0, atol=3e-3 * np.abs(expected).max())
    assert np.abs(out - expected).mean() < 2e-4 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": 0}, "hidden must be from 1 to 2147483647, not 0"),
        ({"hidden": 81}, r"weight must be \[6, "),
        ({"bits": 5}, "bits must be 4 or 8, not 5"),
        ({"out": 17}, r"weight must be \[2, "),
    ],
)
def test_feed_forward_of_wrong_shapes(change: dict[str, int], message: str) -> None:
    up, down = (Weight.of(np.ones((n, k), np.float32), 8, 32, True) for n, k in ((64, 32), (9, 64)))
    inputs = {"x": zeros(2, 32), "up": up.panels, "down": down.panels}
    attributes = {**up.attributes, "hidden": 64, "out": 9, **change}
    with pytest.raises(Exception, match=message):
        session("BlockFeedForward", inputs, **attributes).run(None, {"x": inputs["x"]})


# --- embedding ----------------------------------------------------------------------------------------------------


@cache
def table(bits: int, zeros: str) -> Weight:
    if zeros != "floats":
        array = np.random.default_rng(0).standard_normal((45, 72)).astype(np.float32)
        return Weight.of(array, bits, 32, zeros == "none")
    rng = np.random.default_rng(0)
    shape = (45, 5 if bits == 8 else 3)
    scales = blocks.rounded_scales(rng.lognormal(-4, 1, shape).astype(np.float32))
    offsets = half_floats(rng.uniform(-40, 40, shape), bits)
    return Weight(rng.integers(0, 2**bits, (45, 72)), scales, offsets, bits, 16 if bits == 8 else 32)


def look_up(ids: Array, weight: Weight, isa: str = "", threads: int = 1) -> Array:
    runner = session("BlockEmbedding", {"ids": ids, "weight": weight.panels}, isa, threads, **weight.attributes)
    (out,) = runner.run(None, {"ids": ids})
    return np.asarray(out)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("zeros", blocks.KINDS)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", [(), (3,), (2, 200), (0, 5)])
def test_block_embedding(isa: str, bits: int, zeros: str, shape: tuple[int, ...]) -> None:
    weight = table(bits, zeros)
    ids = np.asarray(np.random.default_rng(1).integers(0, 45, shape))
    out = look_up(ids, weight, isa, threads=2)
    assert out.shape == (*shape, 72)
    np.testing.assert_array_equal(out, weight.values[ids])


@pytest.mark.parametrize("wrong", [-1, 45, 2**40])
def test_ids_outside_are_errors(wrong: int) -> None:
    with pytest.raises(Exception, match=r"outside of \[0, 45\)"):
        look_up(np.array([3, wrong]), table(4, "integers"))


# --- refusals -----------------------------------------------------------------------------------------------------

GOOD = {"bits": 4, "block": 32, "in": 64, "out": 9, "zeros": 0}
PANELS = np.zeros((1, 576), np.uint8)


def zeros(*shape: int) -> Array:
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    ("inputs", "attributes", "message"),
    [
        ({"x": zeros(2, 64), "w": PANELS}, {"bits": 5}, "bits must be 4 or 8, not 5"),
        ({"x": zeros(2, 64), "w": PANELS}, {"block": 16}, "a multiple of 32 up to 256, or 16 with 8 bits, not 16"),
        ({"x": zeros(2, 64), "w": PANELS}, {"bits": 8, "block": 8}, "or 16 with 8 bits, not 8"),
        ({"x": zeros(2, 64), "w": PANELS}, {"zeros": 3}, "zeros must be 0 .none., 1 .integers. or 2 .floats., not 3"),
        ({"x": zeros(2, 64), "w": PANELS}, {"zeros": 2}, r"weight must be \[1, 640\] bytes"),
        ({"x": zeros(2, 64), "w": PANELS}, {"block": 512}, "not 512"),
        ({"x": zeros(2, 64), "w": PANELS}, {"in": 0}, "in must be from 1 to 2147483647, not 0"),
        ({"x": zeros(2, 64), "w": PANELS}, {"in": 2**62}, "in must be from 1"),
        ({"x": zeros(2, 64), "w": PANELS}, {"in": 2**31 - 1}, "weight must be"),
        ({"x": zeros(2, 64), "w": PANELS}, {"out": 17}, r"weight must be \[2, 576\] bytes"),
        ({"x": zeros(2, 64), "w": PANELS}, {"zeros": 1}, r"weight must be \[1, 592\] bytes"),
        ({"x": zeros(2, 64), "w": PANELS}, {"bits": 8}, r"weight must be \[1, 1088\] bytes"),
        ({"x": zeros(2, 64), "w": PANELS[0]}, {}, r"weight must be \[1, 576\] bytes"),
        ({"x": zeros(2, 63), "w": PANELS}, {}, "x must have 64 channels"),
        ({"x": zeros(), "w": PANELS}, {}, "x must have 64 channels"),
        ({"x": zeros(2, 64), "w": PANELS, "b": zeros(8)}, {}, "bias must be a vector of 9"),
    ],
)
def test_bad_shapes_are_errors(inputs: dict[str, Array], attributes: dict[str, int], message: str) -> None:
    with pytest.raises(Exception, match=message):
        session("BlockLinear", inputs, **{**GOOD, **attributes}).run(None, {"x": inputs["x"]})


@pytest.mark.parametrize("missing", ["in", "out"])
def test_the_size_of_a_weight_must_be_given(missing: str) -> None:
    given = {name: value for name, value in GOOD.items() if name != missing}
    with pytest.raises(Exception, match=f"BlockLinear: {missing} must be given"):
        session("BlockLinear", {"x": zeros(2, 64), "w": PANELS}, **given)


def test_an_empty_batch_is_empty() -> None:
    runner = session("BlockLinear", {"x": zeros(1, 64), "w": PANELS}, **GOOD)
    assert runner.run(None, {"x": zeros(0, 64)})[0].shape == (0, 9)
    assert runner.run(None, {"x": zeros(2, 0, 64)})[0].shape == (2, 0, 9)
    assert runner.run(None, {"x": zeros(2, 3, 64)})[0].shape == (2, 3, 9)
