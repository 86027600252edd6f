"""Weights that 16 bits hold exactly: which they are, the pass, and both spellings beside the float32 graph."""

from __future__ import annotations

from collections import Counter
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from support.toy_decoder import toy_decoder

from precast.graphs.dialects.base import Dialect
from precast.graphs.dialects.halves import panels
from precast.graphs.dialects.native import NATIVE
from precast.graphs.dialects.onnxruntime import ONNXRUNTIME
from precast.graphs.passes.base import Report, run
from precast.graphs.passes.canonical import Canonical
from precast.graphs.passes.clean import Clean
from precast.graphs.passes.lower import Lower
from precast.graphs.passes.narrow_weights import NarrowWeights, narrowest
from precast.graphs.polynomials import Polynomial
from precast.graphs.shapes import infer
from precast.graphs.tensors import Derived
from precast.graphs.work import products, work
from precast.runtime import kernels
from precast.runtime.initializers import made_of
from precast.runtime.layouts import Rule

Array = np.ndarray[Any, Any]
WIDTH, HIDDEN, TOKENS = 24, 41, 37
BFLOAT16, FLOAT16 = ir.DataType.BFLOAT16, ir.DataType.FLOAT16


def found(array: Array) -> ir.DataType | None:
    return narrowest(ir.tensor(np.asarray(array, np.float32)))


@given(arrays.arrays(np.uint16, st.integers(1, 40)), st.sampled_from([ml_dtypes.bfloat16, np.float16]))
def test_what_was_narrow_is_found_and_comes_back(codes: Array, kind: Any) -> None:
    narrow = codes.view(kind)
    wide = narrow.astype(np.float32)
    dtype = found(wide)
    if not np.isfinite(wide).all():
        assert dtype is None
        return
    assert dtype is not None
    assert wide.astype(dtype.numpy()).astype(np.float32).tobytes() == wide.tobytes()


@given(arrays.arrays(np.float32, st.integers(1, 40), elements=st.floats(width=32)))
def test_nothing_that_would_be_rounded_is_narrow(wide: Array) -> None:
    dtype = found(wide)
    for kind in (BFLOAT16, FLOAT16):
        with np.errstate(over="ignore", invalid="ignore"):
            holds = wide.astype(kind.numpy()).astype(np.float32).tobytes() == wide.tobytes()
        if dtype is None:
            assert not holds or not np.isfinite(wide).all()
        elif dtype == kind:
            assert holds


def test_the_last_value_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked at in parts, the first of them small."""
    from precast.graphs.passes import narrow_weights

    monkeypatch.setattr(narrow_weights, "_FIRST", 16)
    monkeypatch.setattr(narrow_weights, "_CHUNK", 100)
    for size in (1, 15, 16, 17, 116, 500):
        array = np.ones((1, size), np.float32)
        assert found(array) == BFLOAT16
        array[0, -1] = 1 + 2**-10
        assert found(array) == FLOAT16
        array[0, -1] = 1 + 2**-20
        assert found(array) is None
        array[0, -1] = 2**-30 if size % 2 else 1e5  # below what float16 has, or above it
        array[0, 0] = 1 + 2**-10 if size > 1 else array[0, 0]
        assert found(array) == (None if size > 1 else BFLOAT16 if size % 2 else None)


def table(seed: int, rows: int, depth: int, kind: Any) -> Array:
    drawn = np.random.default_rng(seed).standard_normal((rows, depth)) * 0.3
    return np.asarray(drawn.astype(kind).astype(np.float32))


def weights(kind: Any) -> dict[str, Array]:
    return {
        "embed.weight": table(1, TOKENS, WIDTH, kind),
        "places.weight": table(2, 16, WIDTH, kind),
        "up.weight": table(3, HIDDEN, WIDTH, kind),
        "down.weight": table(4, WIDTH, HIDDEN, kind),
        "head.weight": table(5, TOKENS, WIDTH, kind),
    }


def traced(held: dict[str, Array], tied: bool = True) -> ir.Model:
    return toy_decoder(held, np.linspace(-1, 1, HIDDEN, dtype=np.float32), tied)


def lowered(model: ir.Model, dialect: Dialect, narrow: bool = True) -> list[Report]:
    steps = (Lower(dialect), Clean(), Canonical())
    return run(model, (Clean(), NarrowWeights(), *steps) if narrow else (Clean(), *steps))


def session(model: ir.Model) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    if kernels.available():
        options.register_custom_ops_library(str(kernels.library_path()))
    return ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])


def answer(model: ir.Model) -> Array:
    ids = np.arange(12).reshape(2, 6) * 3
    (logits,) = session(model).run(None, {"input_ids": ids, "position_ids": ids % 7})
    return np.asarray(logits)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", [ml_dtypes.bfloat16, np.float16])
def test_the_graph_that_runs_anywhere_gives_the_same_bytes(kind: Any, tied: bool) -> None:
    held = weights(kind)
    plain, narrow = traced(held, tied), traced(held, tied)
    lowered(plain, ONNXRUNTIME, narrow=False)
    report = lowered(narrow, ONNXRUNTIME)[1]
    assert report.changed == 5 and report.declined == {}
    assert answer(narrow).tobytes() == answer(plain).tobytes()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", [ml_dtypes.bfloat16, np.float16])
def test_the_kernels_graph_reads_the_same_panels(kind: Any, tied: bool) -> None:
    assert kernels.available(), kernels.why_not()
    held = weights(kind)
    general, native = traced(held, tied), traced(held, tied)
    lowered(general, ONNXRUNTIME)
    lowered(native, NATIVE)
    counts = Counter(node.op_type for node in native.graph if node.domain == "precast.cpu")
    assert counts == {"HalfLinear": 3, **({"HalfEmbedding": 1} if tied else {})}
    np.testing.assert_allclose(answer(native), answer(general), rtol=1e-5, atol=1e-6)
    held = {value.const_value.tobytes() for name, value in native.graph.initializers.items() if "panels" in name}
    made = [value.const_value for value in general.graph.initializers.values()]
    made = [tensor for tensor in made if isinstance(tensor, Derived)]
    # What is stored for one is all that the other is made of.
    assert {tensor.source.tobytes() for tensor in made} == held
    for tensor in made:
        rule, panels_ = Rule(**tensor.rule), tensor.source.numpy().reshape(-1).view(np.uint8)
        ours = made_of(rule, panels_)
        assert ours.flags.c_contiguous and ours.tobytes() == tensor.numpy().tobytes()
        assert rule.nbytes == panels_.nbytes
    assert [value.name for value, fact in infer(native).items() if fact.shape is None or fact.dtype is None] == []
    assert work(native)["uncounted"] == work(general)["uncounted"] == []
    tokens = Polynomial.of("batch") * Polynomial.of("sequence")
    assert products(native) == products(general) == tokens * (2 * (2 * WIDTH * HIDDEN + TOKENS * WIDTH))


def test_weights_of_float32_stay() -> None:
    held = {**weights(ml_dtypes.bfloat16), "up.weight": table(3, HIDDEN, WIDTH, np.float32)}
    held["down.weight"][0, 0] = np.nan  # seen where it is, not hidden
    model = traced(held)
    report = lowered(model, NATIVE)[1]
    assert report.changed == 3 and report.declined == {"it has values of more than 16 bits": 2}
    assert {"up.weight.T", "down.weight.T"} <= set(model.graph.initializers)


def test_what_another_operator_reads_stays() -> None:
    model = traced(weights(ml_dtypes.bfloat16))
    extra = ir.Node("", "ReduceSum", [model.graph.initializers["up.weight"]], name="other")
    extra.outputs[0].name, extra.outputs[0].dtype, extra.outputs[0].shape = "sum", ir.DataType.FLOAT, ir.Shape([1, 1])
    model.graph.append(extra)
    model.graph.outputs.append(extra.outputs[0])
    report = run(model, (NarrowWeights(),))[0]
    assert report.declined == {"read by other operators too": 1} and report.changed == 4


def test_panels() -> None:
    weight = np.arange(20 * 3).reshape(20, 3).astype(np.uint16)
    made = panels(weight)
    assert made.shape == (2, 3, 16)
    for row in range(20):
        np.testing.assert_array_equal(made[row // 16, :, row % 16], weight[row])
    assert not made[1, :, 4:].any()


def test_the_pass_comes_before_lowering() -> None:
    with pytest.raises(ValueError, match="before Lower"):
        run(traced(weights(np.float16)), (Lower(ONNXRUNTIME), NarrowWeights()))
