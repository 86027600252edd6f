"""T0 to T3 of families whose inputs are pictures, or pictures and texts: against upstream, float64 and the gates; and
from checkpoint to a call of the artifact."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import tiny_artifacts
from support.lowering import held, lower, states
from support.oracle import apart, float64, hears, sources, upstream, widened

import precast
from precast.export import parity
from precast.export.families import TextSpec, find_family, model_types
from precast.export.heads import (
    AUDIO_TOKENIZATION,
    BASE,
    IMAGE_TEXT,
    KEYPOINT_DETECTION,
    KEYPOINT_MATCHING,
    MASKED_IMAGE,
    PRETRAINING,
    PROMPTED_SEGMENTATION,
    SEQ2SEQ_LM,
    SPEECH_CANDIDATES,
    SPEECH_SEQ2SEQ,
    TEXT_TO_SPECTROGRAM,
    TEXT_TO_WAVEFORM,
    UNIVERSAL_SEGMENTATION,
    VOCODER,
    VOICE_CONVERSION,
    ZERO_SHOT_OBJECTS,
    Head,
)
from precast.export.reference import Part, build
from precast.export.skeletons.backbone import Backbone
from precast.runtime.artifact import Artifact
from precast.runtime.bench.artifact import bench
from precast.runtime.bench.session import Plan
from precast.runtime.errors import InputError, UnsupportedTaskError

EVERY = [
    (name, head)
    for name in model_types()
    if not issubclass(find_family(name).spec, TextSpec) and not hears(name)
    for head in find_family(name).heads
    if head not in (IMAGE_TEXT, SEQ2SEQ_LM, SPEECH_SEQ2SEQ)  # test_language_models.py
]
CONFIGS = [(name, head, index) for name, head in EVERY for index in range(1 + len(find_family(name).variations))]

# What comes out is chosen or laid out between their components, by the runtime, or is what upstream calls for one after
# the other: test_keypoints.py, test_speech.py, test_stages.py, test_candidates.py and test_codecs.py have them.
BETWEEN = (
    AUDIO_TOKENIZATION,
    KEYPOINT_DETECTION,
    KEYPOINT_MATCHING,
    SPEECH_CANDIDATES,
    TEXT_TO_SPECTROGRAM,
    TEXT_TO_WAVEFORM,
    VOCODER,
    VOICE_CONVERSION,
)
# Of VideoMAE, the runtime numbers what is hidden: test_details_patches.py.
ALONE = [item for item in CONFIGS if item[1] not in BETWEEN and item[:2] != ("videomae", PRETRAINING)]

READ = ("char", "bpe", "wp")  # as what MGP-STR reads a text
# Of pictures whose size a call may choose, for strides to leave something of: an odd one and an even one.
LARGER = ((1, 75, "none"), (2, 64, "right"))


# And of those that upstream takes squares of alone: even heights, of which the width is the same.
SQUARE = ((1, 8, "none"), (3, 30, "right"), (2, 64, "none"))


def any_size(parts: Sequence[Part]) -> bool:
    return any(
        isinstance(port.shape[-1], str) for part in parts for port in part.signature.ports if port.kind == "pixels"
    )


def ident(value: Any) -> str:
    return value.task if isinstance(value, Head) else str(value)


def variation(model_type: str, head: Head, index: int) -> dict[str, Any]:
    changed = dict(find_family(model_type).variations[index - 1]) if index else {}
    if head in (MASKED_IMAGE, PRETRAINING):  # upstream compares what is drawn with the picture: it has whole patches
        config = {**find_family(model_type).tiny, **changed}
        patch = config["patch_size"]
        stride = patch * 2 ** (len(config["depths"]) - 1) if "depths" in config else patch
        changed["image_size"] = config["image_size"] // stride * stride
        if head is MASKED_IMAGE:  # and all of them are drawn
            changed["encoder_stride"] = stride
    if head is UNIVERSAL_SEGMENTATION and model_type == "detr":  # masks are drawn with three maps, channels in eights
        config = {**find_family(model_type).tiny, **changed}
        taken = ["stem", "stage1", "stage2"]
        maps = {**config["backbone_config"], "hidden_sizes": [8, 12], "depths": [1, 1], "out_features": taken}
        changed |= {"backbone_config": maps, "d_model": 32 * (1 + index), "encoder_attention_heads": 8}
        changed |= {"decoder_attention_heads": 4}
    return changed


def made_apart(
    model: Any, inputs: dict[str, torch.Tensor], towers: Sequence[tuple[Sequence[str], Sequence[str]]]
) -> dict[str, torch.Tensor]:
    """What upstream makes of one of several inputs, by the outputs and the inputs of each tower."""
    return {
        name: getattr(model, f"get_{name}")(**{key: inputs[key] for key in names if key in inputs}).pooler_output
        for outputs, names in towers
        for name in outputs
        if name.endswith("_features") and hasattr(model, f"get_{name}")
    }


def given(cases: list[parity.Case], rng: np.random.Generator, end: int | None) -> dict[str, torch.Tensor]:
    """What a call brings itself, of the first case of each component, with an end in every text."""
    inputs: dict[str, torch.Tensor] = {}
    seen: set[str] = set()
    for case in cases:
        if case.component not in seen:
            seen.add(case.component)
            inputs |= {name: torch.from_numpy(array.copy()) for name, array in case.inputs.items()}
    if end is not None and "input_ids" in inputs:
        ids = inputs["input_ids"]
        ids[torch.arange(len(ids)), torch.from_numpy(rng.integers(0, ids.shape[1], len(ids)))] = end
    return inputs


def asked(inputs: dict[str, torch.Tensor], head: Head, parts: Sequence[Part]) -> dict[str, torch.Tensor]:
    """Upstream looks in each picture for texts of its own, where here all are looked for in every one."""
    if head is not ZERO_SHOT_OBJECTS or len(parts) == 1:
        return inputs
    pictures = len(inputs["pixel_values"])
    return {name: value if name == "pixel_values" else value.repeat(pictures, 1) for name, value in inputs.items()}


@pytest.mark.parametrize(("model_type", "head", "index"), ALONE, ids=ident)
def test_reference_equals_upstream(model_type: str, head: Head, index: int) -> None:
    config, narrow = upstream(model_type, head, variation(model_type, head, index), seed=index)
    model: Any = widened(narrow)
    ours = build(config, sources(model), dtype=torch.float64)
    end = config.get("text_config", {}).get("eos_token_id")
    rng = np.random.default_rng(index)
    shapes = ((1, 1, "none"), (3, 7, "right"), (2, 9, "none"), *(LARGER if any_size(ours.parts) else ()))
    for shape in SQUARE if head is PROMPTED_SEGMENTATION else shapes:
        cases = [
            case
            for part in ours.parts
            if part.signature.given
            # Texts beside large pictures are as long as they may be.
            for case in parity.cases(
                part.signature, shapes=(shape, (shape[0], 9, shape[2])), seed=1, component=part.name
            )[:1]
        ]
        inputs = {
            name: value.double() if value.is_floating_point() else value
            for name, value in given(cases, rng, end).items()
        }
        with float64():
            expected = model(**asked(inputs, head, ours.parts))
        if head is ZERO_SHOT_OBJECTS and "text_embeds" in expected:
            expected["text_embeds"] = expected["text_embeds"][0]
        with float64():
            towers = [(part.signature.outputs, [port.name for port in part.signature.given]) for part in ours.parts]
            expected = {**expected, **made_apart(model, inputs, towers)}
        if isinstance(expected.get("logits"), tuple):  # outputs here are arrays, each with a name
            expected = {f"{name}_logits": value for name, value in zip(READ, expected["logits"], strict=True)}
        made: dict[str, torch.Tensor] = dict(inputs)
        for part in ours.parts:
            with torch.no_grad():
                made |= part.module(**{port.name: made[port.name] for port in part.signature.ports})
        for name in (name for part in ours.parts for name in part.signature.outputs):
            if name not in expected and any(name in part.signature.hidden for part in ours.parts):
                continue  # what components make for each other, and upstream keeps to itself
            if not made[name].is_floating_point():
                assert torch.equal(made[name], expected[name]), name
                continue
            wanted = expected[name]
            if model_type == "vilt" and head is BASE and name == "last_hidden_state":
                made[name], wanted = in_any_order(made[name]), in_any_order(wanted)
            excess = apart(made[name], wanted)
            assert excess <= 1, f"{name} of {shape}: {excess:.2f} times the gate"


def in_any_order(states: torch.Tensor) -> torch.Tensor:
    """States [B, S, H] by their first number: upstream has those of padding behind all others."""
    order = states[..., 0].argsort(dim=1)
    return states.gather(1, order[..., None].expand_as(states))


def backbone(model_type: str) -> bool:
    """Whether its base model is stages of maps: made of the tiny config without weights."""
    family = find_family(model_type)
    if BASE not in family.heads:
        return False
    with torch.device("meta"):
        made: Any = family.heads[BASE](family.read(family.tiny), frozenset())
    return isinstance(getattr(made, "model", None), Backbone)


@pytest.mark.parametrize(
    ("model_type", "index"), [(name, index) for name, head, index in CONFIGS if head is BASE and backbone(name)]
)
def test_every_stage_equals_upstream(model_type: str, index: int) -> None:
    config, narrow = upstream(model_type, BASE, variation(model_type, BASE, index), seed=index)
    model: Any = widened(narrow)
    ours: Any = build(config, sources(model), dtype=torch.float64)
    [part] = ours.parts
    [case] = parity.cases(part.signature, shapes=((2, 75, "none"),))[:1]
    pixels = torch.from_numpy(case.inputs["pixel_values"]).double()
    body = ours.model.model
    kept, hooks = states(ours.model, body.counted())
    with torch.no_grad():
        ours.model(pixel_values=pixels)
    for hook in hooks:
        hook.remove()
    with float64():
        expected = model(pixel_values=pixels, output_hidden_states=True).hidden_states
    assert len(kept) == len(expected)
    for number, (made, wanted) in enumerate(zip(kept, expected, strict=True)):
        rows = made.ndim == 4 and wanted.ndim == 3  # upstream may have places as rows
        found = made.flatten(2).transpose(1, 2) if rows else made
        assert apart(found, wanted) <= 1, f"state {number}: {apart(found, wanted):.2f} times the gate"


@pytest.mark.parametrize(("model_type", "head", "index"), CONFIGS, ids=ident)
def test_graphs_equal_reference(model_type: str, head: Head, index: int, tmp_path: Path) -> None:
    """Each dialect unoptimised and each recipe, every component alone and on what those before it made."""
    config, model = upstream(model_type, head, variation(model_type, head, index), seed=index)
    ours = build(config, sources(model))
    recorded = parity.record(ours.parts, parity.cases_for(ours.parts))
    assert {item.case.component for item in recorded} == {part.name for part in ours.parts}
    for lowered in lower(ours.parts, tmp_path, f"{model_type} {head.task} {index}", raw=not index):
        held(ours.parts, recorded, lowered)


@pytest.fixture(scope="module", params=["vit", "clip", "resnet"])
def served(request: pytest.FixtureRequest) -> tuple[str, Path, Any]:
    """An artifact made of a checkpoint on disk, and upstream's model of it."""
    name = request.param
    return name, tiny_artifacts.pictures(name), tiny_artifacts.pictures_checkpoint(name)[1]


def test_an_artifact_computes_what_upstream_does(served: tuple[str, Path, Any]) -> None:
    name, path, model = served
    rng = np.random.default_rng(3)
    pixels = rng.standard_normal((2, 3, 30, 30), dtype=np.float32)
    inputs: dict[str, Any] = {"pixel_values": pixels}
    if name == "clip":
        inputs["input_ids"] = rng.integers(4, 99, (3, 9))
        inputs["input_ids"][:, -1] = model.config.text_config.eos_token_id
    with torch.no_grad():
        tensors = {key: torch.from_numpy(value) for key, value in inputs.items()}
        expected = dict(model(**tensors))
        towers = [(("text_features",), ("input_ids",)), (("image_features",), ("pixel_values",))]
        if name == "clip":
            expected |= made_apart(model, tensors, towers)
    for variant in Artifact.open(path).component_for(None).variants:
        found = precast.load(path, variant=variant)(**inputs)
        for output, value in found.items():
            np.testing.assert_allclose(value, expected[output].numpy(), rtol=0, atol=2e-5, err_msg=output)
    costs = [entry.work for part in Artifact.open(path).components.values() for entry in part.variants.values()]
    assert costs and all(cost["flops"] and cost["uncounted"] == [] for cost in costs)
    report: Any = precast.verify(path)
    assert {entry["status"] for entry in report["variants"].values()} == {"verified"}


def test_the_bench_times_it(served: tuple[str, Path, Any]) -> None:
    """All components of a call together, and what they cost in all."""
    _, path, _ = served
    plan = Plan(launches=1, seconds=0.02, warm=0.1)
    document = bench(str(path), grid=[(2, 8)], variants=["cpu-fp32"], threads=[1], plan=plan, calibration=False)
    [row] = [row for row in document["rows"] if row["scenario"] == "single"]
    assert row["median_ms"] > 0 and row["work"]["flops"] > 0 and 0 < row["max_abs"] < 1e-4


def test_components_run_where_their_inputs_are_given(served: tuple[str, Path, Any]) -> None:
    name, path, upstreams = served
    model = precast.load(path)
    pixels = np.ones((2, 3, 30, 30), np.float32)
    if name == "vit":
        with pytest.raises(UnsupportedTaskError, match="get_text_features needs a model with a tower for it"):
            model.get_text_features(input_ids=np.ones((1, 3), np.int64))
        with pytest.raises(InputError, match=r"'pixel_values' is \[batch, 3, 30, 30\]; received shape \(1, 3, 8, 8\)"):
            model(pixel_values=np.ones((1, 3, 8, 8), np.float32))
        with pytest.raises(InputError, match="holds NaN or infinity; every pixel is a finite number"):
            model(pixel_values=np.full((1, 3, 30, 30), np.nan, np.float32))
        return
    if name == "resnet":  # any size, but not another number of channels
        wide = np.random.default_rng(0).standard_normal((1, 3, 41, 75), dtype=np.float32)
        with torch.no_grad():
            expected = upstreams(torch.from_numpy(wide)).logits
        np.testing.assert_allclose(model(pixel_values=wide)["logits"], expected, rtol=0, atol=2e-5)
        with pytest.raises(InputError, match=r"is \[batch, 3, height, width\]; received shape \(2, 1, 9, 9\)"):
            model(pixel_values=np.ones((2, 1, 9, 9), np.float32))
        return
    end = upstreams.config.text_config.eos_token_id
    ids = np.array([[11, 12, end], [13, end, 0]])
    both = model(input_ids=ids, pixel_values=pixels)
    towers = [f"{kind}_{what}" for kind in ("image", "text") for what in ("embeds", "features")]
    assert sorted(both) == sorted(["logits_per_image", "logits_per_text", *towers])
    pictures = model(pixel_values=pixels)
    assert list(pictures) == ["image_embeds", "image_features"]
    np.testing.assert_array_equal(pictures["image_embeds"], both["image_embeds"])
    np.testing.assert_array_equal(model.get_image_features(pixels).pooler_output, both["image_features"])
    np.testing.assert_array_equal(model.get_text_features(input_ids=ids).pooler_output, both["text_features"])
    with pytest.raises(InputError, match="get_image_features needs pixel_values; received input_ids"):
        model.get_image_features(input_ids=ids)
    # What a component made may be given instead of what it made it of.
    again = model(input_ids=ids, image_embeds=pictures["image_embeds"])
    np.testing.assert_array_equal(again["logits_per_image"], both["logits_per_image"])
    with pytest.raises(InputError, match=r"a text may have 60 tokens; received 61"):
        model(input_ids=np.ones((1, 61), np.int64))
    with pytest.raises(InputError, match="vision needs pixel_values; text needs input_ids"):
        model(attention_mask=np.ones((1, 3), np.int64))
