"""Details of vision transformers that no config of the usual tests shows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from support.oracle import TensorSource, apart, float64, randomise, save_checkpoint, sources, upstream, widened

import precast
from precast.export.exporter import export_model
from precast.export.families import find_family
from precast.export.heads import BASE, IMAGE_CLASSIFICATION, MASKED_IMAGE, PRETRAINING, VIDEO_CLASSIFICATION
from precast.export.reference import build
from precast.runtime.artifact import Artifact
from precast.runtime.errors import ConfigError, InputError, UnsupportedTaskError, WeightsError


def made(name: str, model_type: str, **values: Any) -> tuple[dict[str, Any], Any]:
    """(config.json, model) of one of upstream's classes, every weight random."""
    config = transformers.AutoConfig.for_model(model_type, **values)
    config._attn_implementation = "eager"
    model = getattr(transformers, name)._from_config(config, attn_implementation="eager").eval()
    randomise(model)
    return {**config.to_dict(), "architectures": [name]}, model


TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
BASE_SQUARE = {"image_size": 30, "patch_size": 6}
SQUARE = {**BASE_SQUARE, "encoder_stride": 6}
SWIN_SIZES = {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4], "window_size": 4, "image_size": 32}


@pytest.mark.parametrize(
    ("name", "model_type"), [("ViT", "vit"), ("DeiT", "deit"), ("Swin", "swin"), ("Swinv2", "swinv2")]
)
def test_a_masked_picture_is_drawn_whole_or_seen(name: str, model_type: str) -> None:
    """By the head that its checkpoint names; and without it, of a picture that hides nothing."""
    sizes = SWIN_SIZES if model_type.startswith("swin") else {**TINY, **SQUARE}
    config, model = made(f"{name}ForMaskedImageModeling", model_type, **sizes)
    model = widened(model)
    drawing = build(config, sources(model), dtype=torch.float64)
    assert drawing.head is MASKED_IMAGE and drawing.ignored == ()
    ours = build(config, sources(model), "feature-extraction", dtype=torch.float64)
    assert set(ours.ignored) == {f"{model_type}.embeddings.mask_token", "decoder.0.weight", "decoder.0.bias"}
    pixels = torch.randn(2, 3, config["image_size"], config["image_size"], dtype=torch.float64)
    with float64():
        expected = getattr(model, model_type)(pixels)
        drawn = model(pixels).reconstruction
    assert apart(ours.model(pixels)["last_hidden_state"], expected[0]) <= 1
    nothing = torch.zeros(2, drawing.model.patches, dtype=torch.int64)
    assert apart(drawing.model(pixels, nothing)["reconstruction"], drawn) <= 1


def test_a_masked_picture_is_seen_whole_where_nothing_is_masked() -> None:
    """Upstream draws an order even then: given the picture's own, it computes the same."""
    config, model = made("ViTMAEForPreTraining", "vit_mae", **TINY, image_size=30, patch_size=6, mask_ratio=0.0)
    assert build(config, sources(model)).head is PRETRAINING
    ours = build(config, sources(model), "feature-extraction", dtype=torch.float64)
    assert ours.ignored and all(name.startswith("decoder.") for name in ours.ignored)
    pixels = torch.randn(2, 3, 30, 30, dtype=torch.float64)
    with float64():
        expected = widened(model).vit(pixels, noise=torch.arange(25.0).expand(2, -1))
    found = ours.model(pixels)
    assert list(found) == ["last_hidden_state"] and apart(found["last_hidden_state"], expected[0]) <= 1
    with pytest.raises(ConfigError, match=r"'mask_ratio' is 1\.5: it is a share of the patches, 0 to 1"):
        build({**config, "mask_ratio": 1.5}, sources(model), "feature-extraction")


@pytest.mark.parametrize(("model_type", "name"), [("deit", "DeiT"), ("levit", "Levit")])
def test_the_weights_say_whether_there_was_a_teacher(model_type: str, name: str) -> None:
    overrides = {"architectures": [f"{name}ForImageClassificationWithTeacher"]}
    config, model = upstream(model_type, IMAGE_CLASSIFICATION, overrides)
    assert build(config, sources(model)).signature.outputs == ("logits", "cls_logits", "distillation_logits")
    # By the task alone, as where config.json was lost.
    silent = {key: value for key, value in config.items() if key != "architectures"}
    assert len(build(silent, sources(model), "image-classification").signature.outputs) == 3
    config, model = upstream(model_type, IMAGE_CLASSIFICATION)
    assert build(config, sources(model)).signature.outputs == ("logits",)


def test_levit_says_what_stands_between_its_stages() -> None:
    """Or it is what upstream makes of the sizes."""
    for values in ({}, {"hidden_sizes": [384, 512, 768], "key_dim": [32, 32, 32]}):
        config = transformers.LevitConfig(**values)
        family = find_family("levit")
        stated: Any = family.read(config.to_dict())
        silent: Any = family.read(values)
        assert stated.down_ops == silent.downs and silent.down_ops is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"patch_size": 8}, "'image_size' 48 and 'patch_size' 8 say 6 patches a side, .* leave 3"),
        ({"depths": [1, 1]}, r"have \[3, 3, 2, 3, 3, 3\] numbers: each stage has one of either"),
        ({"key_dim": [4, 0, 8]}, "'key_dim' and 'num_attention_heads' are 1 or more"),
        ({"down_ops": [["Subsample", 4, 3, 4, 2, 2]]}, "'down_ops' are 1: one for each of 3 stages but the last"),
        ({"down_ops": [[""], [""]]}, "'down_ops' have nothing for stage 1: 'hidden_sizes' change behind it"),
        ({"down_ops": [["Subsample", 4, 3, 4, 2]]}, r"each is \['Subsample', key size, heads,"),
    ],
)
def test_stages_that_do_not_follow_each_other_are_refused(values: dict[str, Any], message: str) -> None:
    config, model = upstream("levit", IMAGE_CLASSIFICATION)
    with pytest.raises(ConfigError, match=message):
        build({**config, **values}, sources(model))


@pytest.mark.parametrize("model_type", ["dinov2", "dinov2_with_registers"])
def test_pictures_of_any_size_are_read(model_type: str, tmp_path: Path) -> None:
    """From checkpoint to a call: positions of the trained size, of fewer and of more patches, each way alone."""
    config, model = upstream(model_type, IMAGE_CLASSIFICATION, {"num_hidden_layers": 1})
    artifact = export_model(save_checkpoint(tmp_path / "checkpoint", config, model), tmp_path / "artifact")
    loaded = precast.load(artifact)
    rng = np.random.default_rng(0)
    for height, width in ((60, 60), (60, 71), (12, 12), (23, 100), (131, 24), (200, 180)):
        pixels = rng.standard_normal((2, 3, height, width), dtype=np.float32)
        with torch.no_grad():
            expected = model(torch.from_numpy(pixels)).logits.numpy()
        np.testing.assert_allclose(loaded(pixel_values=pixels)["logits"], expected, rtol=0, atol=2e-5)
    for small in ((11, 60), (60, 11)):
        with pytest.raises(InputError, match=r"(height|width) is 12 at least; received 11"):
            loaded(pixel_values=np.zeros((1, 3, *small), np.float32))
    [part] = Artifact.open(artifact).components.values()
    costs = [variant.work for variant in part.variants.values()]
    assert costs and all(cost["flops"] and cost["uncounted"] == [] for cost in costs)
    assert {entry["status"] for entry in precast.verify(artifact)["variants"].values()} == {"verified"}


def test_there_may_be_no_registers() -> None:
    config, model = upstream("dinov2_with_registers", IMAGE_CLASSIFICATION, {"num_register_tokens": 0})
    model = widened(model)
    pixels = torch.randn(1, 3, 60, 71, dtype=torch.float64)
    with float64():
        expected = model(pixels).logits
    assert apart(build(config, sources(model), dtype=torch.float64).model(pixels)["logits"], expected) <= 1


def test_a_scale_and_its_projection_need_each_other() -> None:
    config, model = upstream("dinov2", IMAGE_CLASSIFICATION)
    for gone, said in (
        ("encoder.layer.1.layer_scale1.lambda1", "'layer_scale1.lambda1' is missing, and 'self_attn.o_proj' needs it"),
        ("encoder.layer.1.mlp.fc2.weight", "'mlp.down_proj' is missing, and 'layer_scale2.lambda1' needs it"),
    ):
        tensors = {name: value for name, value in sources(model).items() if gone not in name}
        with pytest.raises(WeightsError, match=said + r" \(names behind 'model\.stack\.layers\.1\.'\)"):
            build(config, tensors)


OLDER = (
    (r"^(?:(\w+)\.)?layers\.", r"\1.encoder.layer."),
    (r"attention\.([qkv])_proj", lambda match: f"attention.attention.{LONG[match[1]]}"),
    (r"attention\.o_proj", "attention.output.dense"),
    (r"mlp\.down_proj", "mlp.weights_out"),
)
LONG = {"q": "query", "k": "key", "v": "value"}
BEIT = (
    (r"mlp\.fc1", "intermediate.dense"),
    (r"mlp\.fc2", "output.dense"),
    (r"(\d)\.relative_position_bias", r"\1.attention.attention.relative_position_bias"),
    ("shared_position_bias", "encoder.relative_position_bias"),
)
SWIN = (
    (r"attention\.([qkv])_proj", lambda match: f"attention.self.{LONG[match[1]]}"),
    (r"attention\.o_proj", "attention.output.dense"),
    (r"attention\.relative_position_bias\.", "attention.self."),
    *BEIT[:2],
)


@pytest.mark.parametrize(
    ("model_type", "overrides", "names"),
    [
        ("dinov2", {"use_swiglu_ffn": True}, OLDER),
        ("swin", {}, SWIN),
        (
            "videomae",
            {},
            ((r"attention\.query\.bias", "attention.q_bias"), (r"attention\.value\.bias", "attention.v_bias")),
        ),
        ("beit", {"use_shared_relative_position_bias": True}, (*OLDER, *BEIT)),
    ],
)
def test_names_of_transformers_4(model_type: str, overrides: dict[str, Any], names: Sequence[tuple[str, Any]]) -> None:
    """Of layers and projections; one tensor of gate and input; tables beside what they are computed of."""
    head = VIDEO_CLASSIFICATION if model_type == "videomae" else IMAGE_CLASSIFICATION
    config, model = upstream(model_type, head, overrides)
    tensors = sources(model)
    older: dict[str, TensorSource] = {}
    for name, value in tensors.items():
        if "mlp.gate_proj" in name:
            both = value.tensor, tensors[name.replace("gate_proj", "up_proj")].tensor
            name, value = name.replace("gate_proj", "weights_in"), TensorSource(torch.cat(both))
        for pattern, older_name in names:
            name = re.sub(pattern, older_name, name)
        if "mlp.up_proj" not in name:
            older[name] = value
        if name.endswith("relative_position_bias_table"):
            older[name.replace("bias_table", "index")] = TensorSource(torch.zeros(3))
    assert older.keys() != tensors.keys()
    new, old = (build(config, given).model.state_dict() for given in (tensors, older))
    assert new.keys() == old.keys() and all(torch.equal(value, old[name]) for name, value in new.items())


@pytest.mark.parametrize("mean", [True, False])
def test_a_beit_of_masked_pictures_has_a_norm_of_its_own(mean: bool) -> None:
    """It has the name that the model's has where its checkpoint has no prefix; and there is no pooler's."""
    config, model = made("BeitForMaskedImageModeling", "beit", **TINY, **BASE_SQUARE, use_mean_pooling=mean)
    model = widened(model)
    ours = build(config, sources(model), "feature-extraction", dtype=torch.float64)
    assert set(ours.ignored) == {f"{name}.{kind}" for name in ("lm_head", "layernorm") for kind in ("weight", "bias")}
    pixels = torch.randn(2, 3, 30, 30, dtype=torch.float64)
    with float64():
        expected = model.beit(pixels)[0]
    found = ours.model(pixels)
    assert list(found) == ["last_hidden_state", "pooler_output"][: 1 if mean else 2]
    assert apart(found["last_hidden_state"], expected) <= 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"window_size": 5},
            "'window_size' 5 must be 4 at most: so many patches a side stage 2 has of 'image_size'",
        ),
        ({"image_size": 33}, "'image_size' 33 must be a multiple of 'patch_size' 4 where 'use_absolute_embeddings'"),
        ({"num_heads": [2]}, r"'num_heads' \(2,\) must be as many as 'depths' \(2, 1\)"),
        ({"depths": [0, 2]}, "'depths' is .*: it is a list of numbers from 1 on, one for each stage"),
        ({"num_heads": [3, 3]}, "their number must divide the size; received 3 heads and 16 channels"),
    ],
)
def test_windows_that_fit_no_grid_are_refused(values: dict[str, Any], message: str) -> None:
    config, model = upstream("swin", IMAGE_CLASSIFICATION)
    with pytest.raises(ConfigError, match=message):
        build({**config, **values}, sources(model))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"pretrained_window_sizes": [0]},
            r"'pretrained_window_sizes' \(0,\) must be 0, or 2 and more, for each of 2",
        ),
        ({"pretrained_window_sizes": [0, 1]}, r"'pretrained_window_sizes' \(0, 1\) must be 0, or 2 and more"),
        ({"use_absolute_embeddings": True}, "'use_absolute_embeddings' is True, and only False is honoured here"),
        ({"image_size": 6}, "stage 2 has no patch left of 'image_size' 6"),
    ],
)
def test_what_offsets_cannot_be_made_of_is_refused(values: dict[str, Any], message: str) -> None:
    config, model = upstream("swinv2", IMAGE_CLASSIFICATION)
    with pytest.raises(ConfigError, match=message):
        build({**config, **values}, sources(model))


def test_biases_need_the_whole_network_that_makes_them() -> None:
    config, model = upstream("swinv2", IMAGE_CLASSIFICATION)
    gone = "blocks.0.attention.self.continuous_position_bias_mlp.2"
    tensors = {name: value for name, value in sources(model).items() if gone not in name}
    with pytest.raises(WeightsError, match=r"'self_attn\.relative\.table\.weight' needs all of .*, found only"):
        build(config, tensors)


def test_cvt_takes_the_mean_where_its_last_stage_has_no_token() -> None:
    """Upstream's classifier looks for the token in the wrong place, unless hidden states stand there."""
    overrides = {"cls_token": [True, False], "embed_dim": [12, 12]}
    for head, name in ((BASE, "last_hidden_state"), (IMAGE_CLASSIFICATION, "logits")):
        config, narrow = upstream("cvt", head, overrides)
        model = widened(narrow)
        ours = build(config, sources(model), dtype=torch.float64)
        assert ours.signature.outputs == (name,)
        pixels = torch.randn(2, 3, 41, 37, dtype=torch.float64)
        with float64():
            expected = model(pixels, output_hidden_states=True)
        assert apart(ours.model(pixels)[name], expected[name]) <= 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"depth": [1]}, r"have \[2, 2, 2, 2, 2, 1, 2, .*\] values: each stage has one of either"),
        ({"qkv_projection_method": ["dw_bn", "avg"]}, "'qkv_projection_method' is 'avg', and only 'dw_bn' is honoured"),
        ({"stride_q": [1, 2]}, "'stride_q' 2 and 'padding_q' 1 with 'kernel_qkv' 3 leave queries of another number"),
        ({"cls_token": [True, True]}, "'cls_token' of stage 1 has the last 'embed_dim', 12 channels, and stands in"),
        ({"num_heads": [3, 3]}, "their number must divide the size; received 3 heads and 8 channels"),
    ],
)
def test_stages_whose_sizes_do_not_fit_are_refused(values: dict[str, Any], message: str) -> None:
    config, model = upstream("cvt", IMAGE_CLASSIFICATION)
    with pytest.raises(ConfigError, match=message):
        build({**config, **values}, sources(model))


@pytest.mark.parametrize(
    "values",
    [
        {"upsampler": "nearest+conv", "upscale": 4},
        {"upsampler": "", "upscale": 1, "num_channels_out": 1},
        {"upsampler": "pixelshuffle", "upscale": 8},
        {"upsampler": "pixelshuffledirect", "upscale": 5, "image_size": [16, 8], "patch_size": [1, 1]},
        {"upsampler": "pixelshuffle_aux", "upscale": 4},
    ],
    ids=str,
)
def test_every_upsampler_is_upstreams(values: dict[str, Any], tmp_path: Path) -> None:
    """Of the model in float64, and of what is exported, for pictures of several sizes."""
    sizes = {"embed_dim": 12, "depths": [1], "num_heads": [2], "window_size": 4, "image_size": 16}
    config, narrow = made("Swin2SRForImageSuperResolution", "swin2sr", **{**sizes, **values})
    ours = build(config, sources(widened(narrow)), dtype=torch.float64)
    save_checkpoint(tmp_path / "checkpoint", config, narrow)
    export_model(tmp_path / "checkpoint", tmp_path / "artifact")
    served = precast.load(tmp_path / "artifact")
    model = widened(narrow)
    for rows, columns in ((4, 4), (4, 12), (20, 8)):
        pixels = torch.rand(2, 3, rows, columns, dtype=torch.float64)
        with float64():
            expected = model(pixels).reconstruction
            assert apart(ours.model(pixels)["reconstruction"], expected) <= 1
        found = served(pixel_values=pixels.float().numpy())["reconstruction"]
        np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-4 * float(expected.abs().max()))
    with pytest.raises(InputError, match="height is 4 at least, a multiple of 4; received 6"):
        served(pixel_values=np.zeros((1, 3, 6, 8), np.float32))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"upscale": 5}, "'upscale' 5 must be 3 or a power of 2 with 'upsampler' 'pixelshuffle'"),
        ({"upsampler": "nearest+conv"}, "'upscale' 2 must be 4 with 'upsampler' 'nearest.conv'"),
        ({"upsampler": "pixelshuffle_aux", "num_channels": 1}, "'num_channels' 1 must be 3"),
        ({"upsampler": "cubic"}, "'upsampler' is 'cubic', and only 'pixelshuffle' or"),
        ({"window_size": 80}, "'window_size' 80 must be 1 to 'image_size' 64"),
        ({"patch_size": 2}, "'patch_size' is 2, and only 1 or"),
        ({"depths": [1], "num_heads": [1, 2]}, r"'num_heads' \(1, 2\) must be as many as 'depths' \(1,\)"),
    ],
    ids=str,
)
def test_what_enlarges_no_picture_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_family("swin2sr").read({"model_type": "swin2sr", **values})


@pytest.mark.parametrize(
    ("model_type", "values", "message"),
    [
        ("sam", {"vision_config": {"output_channels": 128}}, r"must be one number; received \[128, 256\]"),
        ("sam", {"vision_config": {"image_size": 512}}, "have 32 patches a side, those of prompt_encoder_config 64"),
        ("sam", {"mask_decoder_config": {"iou_head_depth": 1}}, "'iou_head_depth' 2 or more"),
        ("sam", {"prompt_encoder_config": {"num_point_embeddings": 3}}, "num_point_embeddings' is 3, and only 4"),
        ("videomae", {"num_frames": 2, "tubelet_size": 3}, "'tubelet_size' 3 must be 1 to 'num_frames' 2"),
        ("timesformer", {"attention_type": "time_only"}, "'attention_type' is 'time_only', and only 'divided"),
        ("mgp-str", {"hidden_size": 20}, "'hidden_size' 20 must be a multiple of 8"),
        ("mgp-str", {"image_size": [32, 3]}, "must fit into 'image_size'"),
        ("mgp-str", {"distilled": True}, "'distilled' is True, and only False"),
    ],
    ids=str,
)
def test_sizes_that_make_no_model_are_refused(model_type: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_family(model_type).read({"model_type": model_type, **values})


def test_what_only_training_makes_is_no_head() -> None:
    name, values = "ImageGPTForCausalImageModeling", {"n_embd": 32, "n_layer": 1, "n_head": 4, "vocab_size": 33}
    config, model = made(name, "imagegpt", **values)
    with pytest.raises(UnsupportedTaskError, match=rf"{name} is .*task='feature-extraction'"):
        build(config, sources(model))
    assert build(config, sources(model), "feature-extraction").signature.outputs == ("last_hidden_state",)


@pytest.mark.parametrize("index", range(2))
def test_hidden_patches_of_a_video_are_drawn_as_upstream_draws_them(index: int) -> None:
    """Of the odd sizes whole patches and tubes, with which upstream compares what it draws."""
    changed = {**find_family("videomae").variations[0], "image_size": 15, "num_frames": 6} if index else {}
    config, narrow = upstream("videomae", PRETRAINING, changed, seed=index)
    model: Any = widened(narrow)
    for module in (model, model.videomae.embeddings):  # float32 numbers, whatever the model's are
        module.position_embeddings = module.position_embeddings.float().double()
    ours = build(config, sources(model), dtype=torch.float64)
    assert ours.head is PRETRAINING and ours.ignored == ()
    encoder = build(config, sources(model), "feature-extraction", dtype=torch.float64)
    assert encoder.ignored and all(name.startswith(("decoder.", "encoder_to", "mask_")) for name in encoder.ignored)
    rng, patches = np.random.default_rng(index), ours.signature.ports[1].below
    shape = [2 if isinstance(size, str) else size for size in ours.signature.ports[0].shape]
    pixels = torch.from_numpy(rng.standard_normal(shape))
    for count in (1, 5, patches - 1):
        mask = torch.from_numpy(rng.permuted(np.arange(patches)[None].repeat(2, 0) < count, axis=1))
        seen, hidden = (torch.nonzero(which)[:, 1].view(2, -1) for which in (~mask, mask))
        with float64():
            expected = model(pixels, bool_masked_pos=mask).logits
        assert apart(ours.model(pixels, seen, hidden)["logits"], expected) <= 1
