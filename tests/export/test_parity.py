"""The float64 judge widens whatever a model reads, and every output is tried on numbers enough to be judged."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.oracle import sources, upstream
from torch import nn

from precast.export import parity, preparation
from precast.export.families import find_family
from precast.export.heads import (
    CAUSAL_LM,
    IMAGE_CLASSIFICATION,
    IMAGE_TEXT,
    NEXT_SENTENCE,
    QUESTION_ANSWERING,
    SEQ2SEQ_LM,
    SEQUENCE_CLASSIFICATION,
    ZERO_SHOT_IMAGE,
    Head,
)
from precast.export.operators import resized
from precast.export.reference import Part, build
from precast.export.signatures import Component, signature
from precast.export.trace import trace
from precast.graphs.emit import Folder, emit
from precast.graphs.passes.base import run
from precast.graphs.recipes import RECIPES
from precast.runtime.artifact import Component as ArtifactComponent
from precast.runtime.backends.engines import backend_for
from precast.runtime.errors import ArtifactError, ParityError
from precast.runtime.gates import LEAST, gate
from precast.runtime.parity import Loaded, compare, write_record
from precast.runtime.parity_record import read_record
from precast.runtime.ports import Out, Port, beyond_text

_IDS = torch.tensor([[1, 2], [3, 0]])
_STATES = torch.linspace(-2, 2, 72).view(2, 4, 9)
STOCK = {
    "Linear": (nn.Linear(9, 3), _STATES),
    "Embedding": (nn.Embedding(9, 3, padding_idx=0), _IDS),
    "EmbeddingBag": (nn.EmbeddingBag(9, 3), _IDS),
    "LayerNorm": (nn.LayerNorm(9), _STATES),
    "RMSNorm": (nn.RMSNorm(9), _STATES),
    "GroupNorm": (nn.GroupNorm(2, 4), _STATES),
    "BatchNorm": (nn.BatchNorm1d(4), _STATES),
    "InstanceNorm": (nn.InstanceNorm1d(4, affine=True, track_running_stats=True), _STATES),
    "PReLU": (nn.PReLU(4), _STATES),
    "Conv1d": (nn.Conv1d(4, 6, 3, padding=1), _STATES),
    "Conv2d": (nn.Conv2d(2, 6, 3, padding="same", padding_mode="reflect"), _STATES[:, None].expand(2, 2, 4, 9)),
    "Conv3d": (nn.Conv3d(1, 2, 2), _STATES[None, None].expand(1, 1, 2, 4, 9)),
    "ConvTranspose": (nn.ConvTranspose1d(4, 6, 3), _STATES),
    "LSTM": (nn.LSTM(9, 5, 2, batch_first=True, bidirectional=True), _STATES),
    "GRU": (nn.GRU(9, 5), _STATES),
    "MultiheadAttention": (nn.MultiheadAttention(9, 3, batch_first=True), (_STATES, _STATES, _STATES)),
    "TransformerEncoderLayer": (nn.TransformerEncoderLayer(9, 3, 16, batch_first=True), _STATES),
}


@pytest.mark.parametrize("name", STOCK)
def test_stock_modules_are_judged_in_float64(name: str) -> None:
    """Weights, biases and running statistics of every module of torch that a model may hold, without a wider copy."""
    module, inputs = STOCK[name]
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    module = module.eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in [*module.parameters(), *module.buffers()]:
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator) + 0.1)
        wide = [value.double() if value.is_floating_point() else value for value in given]
        expected = copy.deepcopy(module).double()(*wide)
        with parity.in_float64():
            got = module(*given)
    first = [out[0] if isinstance(out, tuple) else out for out in (got, expected)]
    assert first[0].dtype is torch.float64
    np.testing.assert_allclose(*(value.numpy() for value in first), rtol=1e-13, atol=1e-13)
    assert {value.dtype for value in module.parameters()} == {torch.float32}


def parts(model_type: str, head: Head, **overrides: int) -> tuple[Part, ...]:
    config, model = upstream(model_type, head, overrides)
    return build(config, sources(model)).parts


@pytest.mark.parametrize("index", range(len(find_family("deberta-v2").variations)))
def test_a_convolution_is_judged(index: int) -> None:
    """deberta-v2's `conv_kernel_size`: torch compares the types of a convolution's input and bias before it begins."""
    config, model = upstream("deberta-v2", SEQUENCE_CLASSIFICATION, find_family("deberta-v2").variations[index])
    ours = build(config, sources(model))
    cases = parity.cases(ours.signature, shapes=((3, 7, "right"),))
    [made] = parity.record(ours.parts, cases)
    assert made.exact["logits"].dtype == np.float64
    np.testing.assert_allclose(made.reference["logits"], made.exact["logits"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("model_type", "head", "overrides"),
    [
        ("bert", SEQUENCE_CLASSIFICATION, {"num_labels": 1}),
        ("bert", NEXT_SENTENCE, {}),
        ("distilbert", QUESTION_ANSWERING, {}),
        ("gpt2", CAUSAL_LM, {"vocab_size": 12, "n_positions": 16}),
        ("gpt2", CAUSAL_LM, {"vocab_size": 12}),
        ("vit", IMAGE_CLASSIFICATION, {"num_labels": 3}),
        ("clip", ZERO_SHOT_IMAGE, {}),
    ],
    ids=str,
)
def test_small_outputs_are_tried_on_more_inputs(model_type: str, head: Head, overrides: dict[str, int]) -> None:
    """At least 4,096 numbers of every output, under names that differ."""
    made = parts(model_type, head, **overrides)
    cases = parity.cases_for(made)
    names = [case.name for case in cases]
    assert len(set(names)) == len(names)
    counts: dict[str, int] = {}
    runner = parity.ReferenceRunner(made)
    for case in cases:
        for name, array in runner.run(case).items():
            counts[name] = counts.get(name, 0) + array.size
    # Of similarities each picture has as many as there are texts.
    most = {name: 16 if name.startswith("logits_per") else 4 for name in counts}
    assert all(LEAST <= count < most[name] * LEAST for name, count in counts.items()), counts


@pytest.mark.parametrize(
    ("model_type", "head"), [("llama", CAUSAL_LM), ("bart", SEQ2SEQ_LM), ("clip", ZERO_SHOT_IMAGE)], ids=str
)
def test_no_case_is_remembered_longer_than_it_is_asked_for(model_type: str, head: Head) -> None:
    """Outputs are those of a runner that forgets nothing; what is held is what the cases to come take up."""
    made = parts(model_type, head)
    cases = parity.cases_for(made)
    all_of_them, forgetful = parity.ReferenceRunner(made), parity.ReferenceRunner(made)
    held = []
    for index, (case, outputs) in enumerate(forgetful.through(cases)):
        expected = all_of_them.run(case)
        assert outputs.keys() == expected.keys()
        for name, array in outputs.items():
            np.testing.assert_array_equal(array, expected[name])
        wanted = {name for later in cases[index + 1 :] for name in later.after} & {
            one.name for one in cases[: index + 1]
        }
        assert set(forgetful._remembered) == wanted
        held.append(len(wanted))
    assert held[-1] == 0
    if model_type != "clip":  # whose pictures and texts all come first
        assert max(held) <= len(made)


def test_texts_end_where_they_are_read() -> None:
    """CLIP reads its first end-of-text token: without one, all but the first token of a text would go untried."""
    text = parts("clip", ZERO_SHOT_IMAGE)[0].signature
    [case] = parity.cases(text, shapes=((3, 7, "right"),))
    lengths = case.inputs["attention_mask"].sum(axis=1)
    assert lengths[1] < 7
    for row in (1, 2):
        assert case.inputs["input_ids"][row, lengths[row] - 1] == 98
    assert 98 not in case.inputs["input_ids"][0], "a text without one is right, too"


def test_pictures_beside_small_outputs_are_few_where_a_model_is_large() -> None:
    """A picture costs as many tokens as it has patches."""
    [part] = parts("vit", IMAGE_CLASSIFICATION, image_size=224, patch_size=16, num_labels=2)
    sizes = [len(case.inputs["pixel_values"]) for case in parity.cases_for((part,))]
    assert max(sizes) * 14**2 <= 1024


class _Segments(Component):
    """A pixel's classes, on the axis behind the batch, and whether the first one is the likeliest."""

    def __init__(self) -> None:
        super().__init__()
        self.classes = nn.Conv2d(3, 5, 3, padding=1)

    def ports(self) -> tuple[Port, ...]:
        return (Port("pixel_values", "float32", ("batch", 3, 6, 8), "pixels"),)

    def outs(self) -> tuple[Out, ...]:
        shape = ("batch", "classes", "height", "width")
        return (Out("logits", shape, "logits", axis=-3), Out("first", ("batch", "height", "width"), "mask"))

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.classes(pixel_values)
        return {"logits": logits, "first": logits.argmax(1) == 0}


def test_classes_of_pixels_and_true_or_false_go_through_gate_record_and_replay(tmp_path: Path) -> None:
    """From a module to the record an artifact carries, and back: types, axes and both judges."""
    torch.manual_seed(0)
    module = _Segments().eval()
    part = Part("encoder", module, signature(module))
    at = part.signature
    recorded = parity.record((part,), parity.cases(at, shapes=((3, 1, "none"), (32, 1, "none"))))
    assert all(made["first"].dtype == np.bool_ for item in recorded for made in (item.reference, item.exact))
    graph = trace(module, at.example(), at.dynamic, at.outputs, part.name, at.bounds)
    outs = preparation.outs(at, graph)
    assert [(out.dtype, out.axis) for out in outs] == [("float32", -3), ("bool", -1)]
    [recipe] = [recipe for recipe in RECIPES if recipe.variant == "cpu-fp32"]
    run(graph, recipe.passes())
    emit(graph, Folder(tmp_path), "graph.onnx")
    runner = backend_for(recipe.engine, recipe.provider).load(tmp_path / "graph.onnx", session={}, threads=1, isa=None)
    loaded = {part.name: Loaded(runner, at.ports, outs)}
    measured = list(compare(loaded, recorded))
    gate("fp32", measured, "v")
    component = ArtifactComponent(part.name, at.ports, outs, {})
    assert beyond_text(outs[1:]) and not beyond_text((outs[0],))
    read = read_record(write_record(recorded), [component])
    assert [item.to_json() for item in compare(loaded, read)] == [item.to_json() for item in measured]
    for before, after in zip(recorded, read, strict=True):
        assert after.exact["first"].dtype == np.bool_
        np.testing.assert_array_equal(after.exact["first"], before.exact["first"])
    # What is damaged is refused where it is read, and what is flipped where it is replayed.
    wrong = [replace(item, exact={**item.exact, "first": item.exact["first"].astype(np.float64) + 1}) for item in read]
    with pytest.raises(ArtifactError, match="output 'first' must be true or false in float64 too"):
        read_record(write_record(wrong), [component])
    wrong = [replace(item, reference={**item.reference, "first": ~item.reference["first"]}) for item in read]
    wrong = [replace(item, exact={**item.exact, "first": item.reference["first"]}) for item in wrong]
    with pytest.raises(ParityError, match=r"first .*the same at 0\.00% of "):
        gate("fp32", list(compare(loaded, wrong)), "v")


def test_other_orders_of_a_sum_are_the_same_sum() -> None:
    """Eager again with its sums begun elsewhere: as far from float64 as before, by other errors."""
    made = parts("bert", SEQUENCE_CLASSIFICATION)
    recorded = parity.record(made, parity.cases(made[0].signature, shapes=((3, 8, "right"), (2, 16, "none"))))
    seen = [
        parity.measure(made[0].signature.outs[0], item.case.name, array, array, item.exact[name])
        for item in recorded
        for name, array in item.reference.items()
    ]
    first = {(item.output, item.case): item.reference_error for item in seen}
    orders = [
        {key: figures["reference_error"] for key, figures in order.items()}
        for order in parity.reordered(made, recorded)
    ]
    assert len(orders) == 7
    for order in orders:
        assert order.keys() == first.keys() and order != first
        assert all(first[key] / 20 < error < 20 * first[key] for key, error in order.items()), (order, first)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Linear(64, 8), (3, 64)),
        (nn.Conv1d(64, 8, 3, 2, 1), (2, 64, 9)),
        (nn.Conv2d(64, 8, 3), (2, 64, 9, 9)),
        (nn.ConvTranspose1d(64, 8, 3), (2, 64, 9)),
        (nn.ConvTranspose2d(64, 8, 3, 2), (2, 64, 9, 9)),
    ],
)
def test_another_order_is_the_same_sum(module: nn.Module, shape: tuple[int, ...]) -> None:
    given = torch.randn(shape)
    with torch.no_grad():
        usual, exact = module(given), module.double()(given.double())
        module.float()
        with parity._OtherOrder(3 / 8):
            other = module(given)
    assert not torch.equal(usual, other)
    torch.testing.assert_close(other.double(), exact, rtol=1e-5, atol=1e-5)


def test_a_group_keeps_its_order() -> None:
    module, given = nn.Conv2d(64, 64, 3, groups=32), torch.randn(2, 64, 9, 9)
    transposed = nn.ConvTranspose1d(64, 64, 3, groups=2)
    with torch.no_grad(), parity._OtherOrder(3 / 8):
        other = module(given), transposed(given[:, :, 0])
    assert torch.equal(module(given), other[0]) and torch.equal(transposed(given[:, :, 0]), other[1])


def test_a_map_is_resized_as_an_engine_rounds_it() -> None:
    """39 places become 12: float32 holds 39 / 12, and not 12 / 39."""
    given, like = torch.randn(1, 4, 39, 39), torch.zeros(1, 1, 12, 12)
    exact = resized(given.double(), like)
    with parity._OtherOrder(3 / 8):
        other, aligned = resized(given, like), resized(given, like, aligned=True)
    usual = resized(given, like)
    errors = [float((array - exact).abs().max()) for array in (usual, other)]
    assert 10 * errors[0] < errors[1] < 1e-4
    assert torch.equal(aligned, resized(given, like, aligned=True))


def test_pictures_larger_than_any_call_stand_in_part() -> None:
    """Of a picture with more places than a call has tokens some features are seen all the same, by every prompt of more
    than a token."""
    config, model = upstream("llava", IMAGE_TEXT)
    parts = build(config, sources(model)).parts
    decoder: Any = parts[-1].module
    whole = [case.inputs["feature_rows"] for case in parity.generation_cases(parts) if "lengths" in case.inputs]
    assert max((rows >= 0).sum(axis=1).max() for rows in whole) == decoder.joined.places
    decoder.joined = decoder.joined._replace(places=576)
    prompts = [
        case.inputs
        for case in parity.generation_cases(parts)
        if "lengths" in case.inputs and not case.inputs["past_lengths"].any() and case.inputs["lengths"].min() > 1
    ]
    assert prompts
    for inputs in prompts:
        seen = inputs["feature_rows"]
        assert ((seen >= 0).sum(axis=1) == 3 * inputs["lengths"].min() // 4).all()
        assert all(row[row >= 0].tolist() == sorted(set(row[row >= 0].tolist())) for row in seen)
