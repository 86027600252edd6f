"""ggml's element types: decoded as ggml decodes them, and carried over to the operator's blocks without loss."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
import pytest

from precast.export.checkpoints.gguf.ggml_types import READABLE, UNREADABLE, dequantize
from precast.export.checkpoints.gguf.repack import REPACKABLE, Packed, repack
from precast.runtime.errors import InputError

# -- types -----------------------------------------------------------------------------------------------------------


def test_the_types_are_those_of_the_field() -> None:
    assert {number: (kind.values, kind.nbytes) for number, kind in READABLE.items()} == {
        int(kind): gguf.GGML_QUANT_SIZES[kind] for kind in gguf.GGMLQuantizationType if int(kind) in READABLE
    }
    assert {int(kind): kind.name for kind in gguf.GGMLQuantizationType} == {
        number: name
        for number, name in {**{n: kind.name for n, kind in READABLE.items()}, **UNREADABLE}.items()
        if number in set(map(int, gguf.GGMLQuantizationType))
    }


@pytest.mark.parametrize("kind", READABLE.values(), ids=lambda kind: kind.name)
def test_every_type_is_decoded_as_ggml_does(kind: Any) -> None:
    data = np.random.default_rng(0).integers(0, 256, (7, 3 * kind.nbytes * (256 // kind.values)), np.uint8)
    found = dequantize(data, kind)
    assert found.shape == (7, 768) and found.dtype == np.float32
    with np.errstate(all="ignore"):
        expected = gguf.dequantize(data, gguf.GGMLQuantizationType(kind.number))
    np.testing.assert_array_equal(found, expected)


# -- repacking -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REPACKABLE)
def test_blocks_become_the_operators_integers_without_loss(name: str) -> None:
    rng = np.random.default_rng(1)
    kind = next(kind for kind in READABLE.values() if kind.name == name)
    data = rng.integers(0, 256, (6, 768 // kind.values, kind.nbytes), np.uint8)
    at = {"Q6_K": (208,)}.get(name, (0, 2) if name in ("Q4_1", "Q5_1", "Q4_K", "Q5_K") else (0,))
    for place in at:
        scales = rng.normal(0, 0.01, data.shape[:2]).astype("<f2")
        scales[0] = 0  # blocks of one value
        data[..., place : place + 2] = scales[..., None].view(np.uint8)
    found = repack(Packed(name, data.reshape(6, -1)))
    assert found.values.shape == (6, 768 // found.block, found.block * found.bits // 8)
    assert found.values.dtype == np.uint8 and found.scales.dtype == np.float32
    assert found.scales.shape == (6, 768 // found.block)
    expected = gguf.dequantize(data.reshape(6, -1), gguf.GGMLQuantizationType[name])
    if found.zeros is None:
        np.testing.assert_array_equal(found.dequantize(), expected)
    else:
        assert found.zeros.dtype == np.float32 and found.zeros.shape == found.scales.shape
        # One rounding of zero and one of the difference, against one of the sum.
        bound = 4 * np.finfo(np.float32).eps * (np.abs(found.zeros) + 32) * np.abs(found.scales)
        assert (np.abs(found.dequantize() - expected) <= np.repeat(bound, found.block, axis=1)).all()


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0", "Q4_1"])
def test_the_operator_computes_what_the_blocks_say(name: str) -> None:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    weight = np.random.default_rng(2).normal(size=(8, 64)).astype(np.float32)
    packed = gguf.quantize(weight, gguf.GGMLQuantizationType[name])
    found = repack(Packed(name, packed))
    constants = {"B": found.values, "scales": found.scales}
    if found.zeros is not None:
        constants["zeros"] = found.zeros
    node = helper.make_node(
        "MatMulNBits",
        ["A", *constants],
        ["Y"],
        domain="com.microsoft",
        K=64,
        N=8,
        bits=found.bits,
        block_size=found.block,
    )
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("A", TensorProto.FLOAT, [64, 64])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [64, 8])],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (computed,) = session.run(None, {"A": np.eye(64, dtype=np.float32)})
    np.testing.assert_allclose(computed.T, gguf.dequantize(packed, gguf.GGMLQuantizationType[name]), atol=1e-6)


def test_types_that_cannot_be_repacked_are_named() -> None:
    with pytest.raises(InputError, match=r"ggml type IQ4_NL are not evenly spaced integers.*These can: Q8_0, Q4_0"):
        repack(Packed("IQ4_NL", np.zeros((1, 18), np.uint8)))
