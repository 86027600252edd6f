"""Integers of GPTQ, AWQ and GGUF: read exactly, kept by rules and layouts that can hold them, or refused."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from support.quantized_samples import AWQ, GPTQ, Held, awq, gptq, integers, linear, values

from precast.export.checkpoints.gguf.repack import Packed, block_weight
from precast.export.checkpoints.quantized import dequantized, read_scheme
from precast.export.weight_table import Lazy
from precast.export.weights import Fold, Merge, Narrow, Rename, Split, Tie, Transpose
from precast.graphs.block_weight import BlockWeight, canonical, scales_fit
from precast.graphs.dialects import blocks
from precast.runtime.errors import ConfigError, WeightsError

# -- tensors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize(
    ("group", "depth", "block"),
    [(32, 96, 32), (64, 96, 64), (128, 256, 128), (512, 768, 256), (-1, 64, 64), (-1, 1280, 256), (-1, 40, 32),
     (128, 64, 64)],
)  # fmt: skip
@pytest.mark.parametrize("v1", [True, False])
def test_gptq_is_read_exactly(bits: int, sym: bool, group: int, depth: int, block: int, v1: bool) -> None:
    made = integers(24, depth, bits=bits, group=group, sym=sym)
    form = {"checkpoint_format": "gptq" if v1 else "gptq_v2"}
    found = linear(gptq(made, bits, v1), quant_method="gptq", bits=bits, group_size=group, sym=sym, **form)
    assert found.shape == (24, depth)
    np.testing.assert_array_equal(found.load().numpy(), made.weight)
    stored = found.blocks()
    assert (stored.bits, stored.block, stored.zeros, stored.unfit) == (bits, block, "none" if sym else "integers", "")
    np.testing.assert_array_equal(values(stored, depth), made.weight)


@pytest.mark.parametrize("group", [32, 64, 128, -1])
def test_awq_is_read_exactly(group: int) -> None:
    made = integers(24, 256, group=group)
    found = linear(awq(made), quant_method="awq", bits=4, group_size=group, version="GEMM", zero_point=True)
    np.testing.assert_array_equal(found.load().numpy(), made.weight)
    np.testing.assert_array_equal(values(found.blocks(), 256), made.weight)
    assert found.blocks().block == (256 if group == -1 else group)


def test_reordered_inputs_are_read_exactly_as_floats() -> None:
    made = integers(16, 128, order=True)
    found = linear(gptq(made), quant_method="gptq", bits=4, group_size=32, desc_act=True)
    np.testing.assert_array_equal(found.load().numpy(), made.weight)
    assert found.blocks().unfit == "its groups are not of neighbouring inputs (desc_act)"
    # One group has no order; a missing g_idx, or one of zeros, is the plain one.
    one = integers(16, 64, group=-1, order=True)
    np.testing.assert_array_equal(
        values(linear(gptq(one), quant_method="gptq", bits=4, group_size=-1, desc_act=True).blocks(), 64), one.weight
    )
    plain = integers(16, 128)
    for g_idx in ({}, {"g_idx": torch.zeros(128, dtype=torch.int32)}):
        parts = {name: value for name, value in gptq(plain).items() if name != "g_idx"} | g_idx
        found = linear(parts, quant_method="gptq", bits=4, group_size=32)
        np.testing.assert_array_equal(found.load().numpy(), plain.weight)
        np.testing.assert_array_equal(values(found.blocks(), 128), plain.weight)


def test_what_the_layout_cannot_hold_says_why() -> None:
    made = integers(16, 96, group=48)
    found = linear(gptq(made), quant_method="gptq", bits=4, group_size=48)
    np.testing.assert_array_equal(found.load().numpy(), made.weight)
    assert found.blocks().unfit == "its groups have 48 inputs, no multiple of 32"
    made = integers(16, 96)
    parts = {**gptq(made), "scales": torch.full((3, 16), 0.1)}
    found = linear(parts, quant_method="gptq", bits=4, group_size=32)
    assert found.blocks().unfit == ""
    parts["scales"][1, 2] = 1e6
    assert found.blocks().unfit == "its scales are not finite, or out of range"


def test_scales_that_fit() -> None:
    every_half = np.arange(0x7C00, dtype=np.uint16).view(np.float16)
    assert scales_fit(every_half) and scales_fit(-every_half)
    assert scales_fit(blocks.rounded_scales(np.float32([0.1, 65519.0])))
    for bad in (1e-16, 65536.0, float("inf"), float("nan")):
        assert not scales_fit(np.float32([0.5, bad]))


def test_negative_scales_need_zero_points() -> None:
    rng = np.random.default_rng(0)
    codes, zeros = rng.integers(0, 16, (3, 2, 32)).astype(np.uint8), rng.integers(0, 16, (3, 2)).astype(np.uint8)
    scales = np.float32([[0.5, -0.25], [-0.0, 1.0], [-2.0, -4.0]])
    expected = ((codes - zeros[..., None].astype(np.float32)) * scales[..., None]).reshape(3, 64)
    stored = BlockWeight(4, 32, "integers", lambda: canonical(codes, scales, zeros, 4))
    np.testing.assert_array_equal(values(stored, 64), expected)
    with pytest.raises(ValueError, match="blocks of negative scale need zero points"):
        canonical(codes, scales, None, 4)


# -- rules -----------------------------------------------------------------------------------------------------------


def test_rules_keep_blocks_where_they_can() -> None:
    made = integers(24, 64)
    weight = made.weight
    source = linear(gptq(made), quant_method="gptq", bits=4, group_size=32)

    def lazy(upright: bool = False) -> Lazy:
        return Lazy(("a",), source.shape, source.load, source.blocks, upright)

    def kept(name: str, *rules: Any, start: Lazy | None = None) -> BlockWeight | None:
        table = {"a": start or lazy(), "c": lazy()}
        for rule in rules:
            table = rule.apply(table)
        found = table[name]
        stored = found.blocks() if found.blocks is not None else None
        if stored is not None and not stored.unfit:
            expected = found.load().numpy()
            expected = expected.T if stored.transposed else expected
            np.testing.assert_array_equal(values(stored, 64), expected)
            assert expected.shape[1] == 64
        return stored

    for name, *rules in (
        ("b", Rename("a", "b")),
        ("b", Tie("b", "a")),
        ("y", Split("a", ("x", "y"), shares=(1, 2))),
        ("y", Split("a", ("x", "y", "z"), groups=2)),
        ("y", Split("a", ("x", "y"), groups=2, shares=(2, 1))),
        ("a", Narrow("a", 5)),
        ("a", Transpose("a"), Transpose("a")),
        ("y", Transpose("a"), Split("a", ("x", "y"), axis=1), Transpose("y")),
    ):
        stored = kept(name, *rules)  # type: ignore[arg-type]
        assert stored is not None and not stored.unfit and not stored.transposed
    turned = kept("a", Transpose("a"))
    assert turned is not None and turned.transposed
    upright = kept("a", Transpose("a"), start=lazy(upright=True))
    assert upright is not None and not upright.transposed
    cut = kept("x", Split("a", ("x", "y"), axis=1))
    assert cut is not None and cut.unfit == "its blocks are cut"
    assert kept("a", Fold("a", 2.0)) is None
    assert kept("b", Merge(("a", "c"), "b")) is None
    assert weight.shape == (24, 64)


# -- GGUF ------------------------------------------------------------------------------------------------------------


def ggml(kind: str) -> np.ndarray:
    """Blocks [6, bytes] of random codes and scales, some of them negative, as ggml may write them; one has no scale."""
    rng = np.random.default_rng(0)
    size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][1]
    data = rng.integers(0, 256, (6, 4, size), np.uint8)
    if kind == "Q8_0":
        data[..., 2:][data[..., 2:] == 128] = 7  # ggml's own codes end at -127
    for at in {"Q6_K": (208,), "Q4_1": (0, 2), "Q5_1": (0, 2), "Q4_K": (0, 2), "Q5_K": (0, 2)}.get(kind, (0,)):
        scales = rng.normal(0, 0.01, (6, 4)).astype("<f2")
        if at == 0:
            scales[2, 1] = 0
        data[..., at : at + 2] = scales[..., None].view(np.uint8)
    return data.reshape(6, -1)


@pytest.mark.parametrize(
    ("kind", "bits", "block", "zeros"),
    [
        ("Q8_0", 8, 32, "integers"),
        ("Q4_0", 4, 32, "integers"),
        ("Q5_0", 8, 32, "none"),
        ("Q6_K", 8, 16, "none"),
        ("Q4_1", 4, 32, "floats"),
        ("Q5_1", 8, 32, "floats"),
        ("Q4_K", 4, 32, "floats"),
        ("Q5_K", 8, 32, "floats"),
    ],
)
def test_ggml_blocks_are_the_layouts(kind: str, bits: int, block: int, zeros: str) -> None:
    data = ggml(kind)
    stored = block_weight(kind, True, lambda: Packed(kind, data))
    assert (stored.unfit, stored.bits, stored.block, stored.zeros) == ("", bits, block, zeros)
    assert stored.transposed
    exact = gguf.dequantize(data, gguf.GGMLQuantizationType[kind])
    if zeros != "floats":
        np.testing.assert_array_equal(values(stored, exact.shape[1]), exact)
    else:  # (q - m / d) d is rounded once more than q d + m
        np.testing.assert_allclose(values(stored, exact.shape[1]), exact, rtol=1e-6, atol=2e-7 * np.abs(exact).max())
    # What the CPU kernels keep of it: eleven bits of scales and of zero points.
    panels = blocks.panels(*stored.load(), stored.bits)
    assert panels.shape == (1, blocks.panel_bytes(exact.shape[1], block, bits, stored.zeros))


def test_scales_of_one_sign_need_no_zero_points() -> None:
    weight = np.random.default_rng(0).normal(size=(6, 96)).astype(np.float32)
    data = gguf.quantize(weight, gguf.GGMLQuantizationType.Q8_0)
    assert block_weight("Q8_0", False, lambda: Packed("Q8_0", data)).zeros == "none"


def test_ggml_blocks_that_are_not_the_layouts() -> None:
    def unfit(kind: str, data: np.ndarray) -> str:
        return block_weight(kind, False, lambda: Packed(kind, data)).unfit

    assert unfit("IQ4_NL", np.zeros((2, 18), np.uint8)) == "IQ4_NL: its integers are not evenly spaced"
    data = np.zeros((2, 20), np.uint8)
    data[0, :4] = np.array([1e-4, 60000], "<f2").view(np.uint8)
    assert unfit("Q4_1", data) == "Q4_1: its minima are too large beside its scales"
    data[0, :2] = np.array([np.inf], "<f2").view(np.uint8)
    assert unfit("Q4_1", data) == "Q4_1: its scales are not finite, or out of range"


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "has the quant_method 'bitsandbytes', and only 'gptq' "
         r"\(4 or 8 bits\) and 'awq' .* Export the checkpoint that this one was quantised from"),
        ({"quant_method": "fp8"}, "quant_method 'fp8'"),
        ({"bits": 4}, "quant_method None"),
        ({"quant_method": ["gptq"]}, r"quant_method \['gptq'\]"),
        ([], r"must be an object; it is \[\]"),
        ({"quant_method": "gptq"}, "'bits' is missing"),
        ({**GPTQ, "bits": 3}, "'bits' is 3, and only 4, 8 is honoured"),
        ({**GPTQ, "bits": True}, "'bits' is True, and only 4, 8"),
        ({**GPTQ, "group_size": 0}, "'group_size' is 0; it must be a positive number of inputs, or -1"),
        ({**GPTQ, "group_size": "32"}, "'group_size' is '32'"),
        ({**GPTQ, "checkpoint_format": "marlin"}, "'checkpoint_format' is 'marlin', and only 'gptq', 'gptq_v2'"),
        ({**GPTQ, "dynamic": {"-:lm_head": {}}}, "'dynamic' is .* and only None, {} is honoured"),
        ({**GPTQ, "group_sise": 32}, "'group_sise' = 32 is not understood and might change the weights.*group_size"),
        ({**AWQ, "version": "gemv", "bits": 8}, "'bits' is 8, and only 4 is .*; 'version' is 'gemv', and only 'gemm'"),
        ({**AWQ, "zero_point": False}, "'zero_point' is False, and only True"),
        ({**AWQ, "checkpoint_format": "gptq"}, "'checkpoint_format' = 'gptq' is not understood"),
    ],
)  # fmt: skip
def test_configs_that_are_refused(config: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_scheme(config)


def test_defaults_are_upstreams() -> None:
    scheme = read_scheme({"quant_method": "gptq", "bits": 4})
    assert (scheme.group, scheme.lessened) == (128, True)
    assert not read_scheme({**GPTQ, "format": "gptq", "checkpoint_format": "gptq_v2"}).lessened
    assert (read_scheme({"quant_method": "awq"}).bits, read_scheme({**AWQ, "group_size": -1}).group) == (4, None)
    # All that transformers writes of its own classes is understood.
    read_scheme(transformers.GPTQConfig(bits=4, dataset=["a"]).to_dict())
    read_scheme(transformers.AwqConfig().to_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("a.scales"), r"of gptq in 4 bits and groups of 32 do not fit .* a\.qweight without scales\. "
         "Is quantization_config the one these weights were saved with"),
        (lambda t: t.update({"a.weight": torch.zeros(8, 64)}), r"a\.qweight beside a\.weight"),
        (lambda t: t.update({"a.scales": torch.zeros(4, 16)}), r"a\.scales has the shape \[4, 16\], where \[2, 16\]"),
        (lambda t: t.update({"a.qzeros": torch.zeros(3, 2, dtype=torch.int32)}), r"a\.qzeros has the shape \[3, 2\]"),
        (lambda t: t.update({"a.g_idx": t["a.g_idx"][:8]}), r"a\.g_idx has the shape \[8\], where \[64\] is expected"),
        (lambda t: t.update({"a.qweight": t["a.qweight"].float()}), r"a\.qweight is float32"),
        (lambda t: t.update({"a.scales": t["a.scales"].to(torch.int32)}), r"a\.scales is int32"),
        (lambda t: t.update({"a.qweight": t["a.qweight"][0]}), r"a\.qweight has the shape \[16\]"),
        (lambda t: t.update({"a.qweight": t["a.qweight"][:4]}), r"a\.qzeros has the shape \[2, 2\], where \[1, 2\]"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit(change: Any, message: str) -> None:
    tensors = {f"a.{name}": value for name, value in gptq(integers(16, 64)).items()}
    change(tensors)
    with pytest.raises(WeightsError, match=message):
        dequantized({"quantization_config": GPTQ}, {name: Held(value) for name, value in tensors.items()})


def test_groups_that_do_not_exist() -> None:
    parts = gptq(integers(16, 64))
    parts["g_idx"][3] = 2
    found = linear(parts, quant_method="gptq", bits=4, group_size=32)
    with pytest.raises(WeightsError, match=r"a\.g_idx must name groups from 0 to 1; it goes from 0 to 2\. The check"):
        found.load()


def test_a_checkpoint_that_says_it_is_quantised_and_is_not() -> None:
    tensors = {"a.weight": Held(torch.zeros(4, 4))}
    with pytest.raises(WeightsError, match=r"quantised by awq, and no tensor is named '\*\.qweight'\. Are these"):
        dequantized({"quantization_config": AWQ}, tensors)
    assert dequantized({"quantization_config": None}, tensors)[1] is tensors
    with pytest.raises(
        ConfigError, match=r"quantised \(a\.qweight and 0 more\), and config\.json has no 'quantization_co"
    ):
        dequantized({}, {"a.qweight": Held(torch.zeros(4, 4))})
