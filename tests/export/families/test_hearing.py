"""T0 to T3: classes of what the encoder of an encoder-decoder hears, against upstream, float64 and the gates of
PARITY.md; and where tokens were heard. Speech to text itself is in test_language_models.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from support.lowering import held, lower, states
from support.oracle import apart, float64, sources, upstream, widened

from precast.export import parity
from precast.export.families import TextSpec, find_family, model_types
from precast.export.generative import ALIGNMENT
from precast.export.heads import AUDIO_CLASSIFICATION, SPEECH_SEQ2SEQ
from precast.export.reference import build, head_for
from precast.runtime.errors import ConfigError

EVERY = [
    (name, index)
    for name in model_types()
    if issubclass(find_family(name).spec, TextSpec) and AUDIO_CLASSIFICATION in find_family(name).heads
    for index in range(1 + len(find_family(name).variations))
]

_SIDES: dict[str, Any] = {
    "activation_dropout": 0.0, "attention_dropout": 0.0, "dropout": 0.0, "encoder_layerdrop": 0.0, "init_std": 0.02,
    "decoder_layerdrop": 0.0, "is_encoder_decoder": True, "use_cache": True, "scale_embedding": False,
    "bos_token_id": 50257, "eos_token_id": 50257, "decoder_start_token_id": 50258,
}  # fmt: skip
# config.json files as they were released, with every key they hold.
RELEASED: dict[str, dict[str, Any]] = {
    "openai/whisper-tiny": {
        **_SIDES, "_name_or_path": "openai/whisper-tiny", "activation_function": "gelu", "d_model": 384,
        "architectures": ["WhisperForConditionalGeneration"], "begin_suppress_tokens": [220, 50257],
        "decoder_attention_heads": 6, "decoder_ffn_dim": 1536, "decoder_layers": 4, "encoder_attention_heads": 6,
        "encoder_ffn_dim": 1536, "encoder_layers": 4, "forced_decoder_ids": [[1, 50259], [2, 50359], [3, 50363]],
        "max_length": 448, "max_source_positions": 1500, "max_target_positions": 448, "model_type": "whisper",
        "num_hidden_layers": 4, "num_mel_bins": 80, "pad_token_id": 50257, "suppress_tokens": [1, 2, 7],
        "torch_dtype": "float32", "transformers_version": "4.27.0.dev0", "vocab_size": 51865,
    },
    "openai/whisper-large-v3": {
        **_SIDES, "activation_function": "gelu", "apply_spec_augment": False, "bos_token_id": 50257, "d_model": 1280,
        "architectures": ["WhisperForConditionalGeneration"], "begin_suppress_tokens": [220, 50257],
        "classifier_proj_size": 256, "decoder_attention_heads": 20, "decoder_ffn_dim": 5120, "decoder_layers": 32,
        "encoder_attention_heads": 20, "encoder_ffn_dim": 5120, "encoder_layers": 32, "mask_feature_length": 10,
        "mask_feature_min_masks": 0, "mask_feature_prob": 0.0, "mask_time_length": 10, "mask_time_min_masks": 2,
        "mask_time_prob": 0.05, "max_source_positions": 1500, "max_target_positions": 448, "median_filter_width": 7,
        "model_type": "whisper", "num_hidden_layers": 32, "num_mel_bins": 128, "pad_token_id": 50256,
        "torch_dtype": "float16", "transformers_version": "4.36.0.dev0", "use_weighted_layer_sum": False,
        "vocab_size": 51866,
    },
    "facebook/s2t-small-librispeech-asr": {
        **_SIDES, "activation_function": "relu", "architectures": ["Speech2TextForConditionalGeneration"],
        "classifier_dropout": 0.0, "conv_channels": 1024, "conv_kernel_sizes": [5, 5], "d_model": 256,
        "decoder_attention_heads": 4, "decoder_ffn_dim": 2048, "decoder_layers": 6, "early_stopping": True,
        "encoder_attention_heads": 4, "encoder_ffn_dim": 2048, "encoder_layers": 12, "gradient_checkpointing": False,
        "input_channels": 1, "input_feat_per_channel": 80, "max_length": 200, "max_source_positions": 6000,
        "max_target_positions": 1024, "model_type": "speech_to_text", "num_beams": 5, "num_conv_layers": 2,
        "num_hidden_layers": 12, "pad_token_id": 1, "scale_embedding": True, "tie_word_embeddings": False,
        "transformers_version": "4.4.0.dev0", "vocab_size": 10000,
    },
    "UsefulSensors/moonshine-tiny": {
        "architectures": ["MoonshineForConditionalGeneration"], "attention_bias": False, "attention_dropout": 0.0,
        "bos_token_id": 1, "decoder_hidden_act": "silu", "decoder_num_attention_heads": 8, "use_cache": True,
        "decoder_num_hidden_layers": 6, "decoder_num_key_value_heads": 8, "decoder_start_token_id": 1,
        "encoder_hidden_act": "gelu", "encoder_num_attention_heads": 8, "encoder_num_hidden_layers": 6,
        "encoder_num_key_value_heads": 8, "eos_token_id": 2, "hidden_size": 288, "initializer_range": 0.02,
        "intermediate_size": 1152, "is_encoder_decoder": True, "max_position_embeddings": 194,
        "model_type": "moonshine", "pad_head_dim_to_multiple_of": 8, "partial_rotary_factor": 0.9,
        "rope_scaling": None, "rope_theta": 10000.0, "torch_dtype": "float32",
        "transformers_version": "4.48.0.dev0", "vocab_size": 32768,
    },
    "microsoft/speecht5_asr": {
        "activation_dropout": 0.1, "apply_spec_augment": True, "architectures": ["SpeechT5ForSpeechToText"],
        "attention_dropout": 0.1, "bos_token_id": 0, "conv_bias": False, "conv_dim": [512] * 7,
        "conv_kernel": [10, 3, 3, 3, 3, 2, 2], "conv_stride": [5, 2, 2, 2, 2, 2, 2], "decoder_attention_heads": 12,
        "decoder_ffn_dim": 3072, "decoder_layerdrop": 0.1, "decoder_layers": 6, "decoder_start_token_id": 2,
        "encoder_attention_heads": 12, "encoder_ffn_dim": 3072, "encoder_layerdrop": 0.1, "encoder_layers": 12,
        "encoder_max_relative_position": 160, "eos_token_id": 2, "feat_extract_activation": "gelu",
        "feat_extract_norm": "group", "feat_proj_dropout": 0.0, "guided_attention_loss_num_heads": 2,
        "guided_attention_loss_scale": 10.0, "guided_attention_loss_sigma": 0.4, "hidden_act": "gelu",
        "hidden_dropout": 0.1, "hidden_size": 768, "initializer_range": 0.02, "is_encoder_decoder": True,
        "layer_norm_eps": 1e-05, "mask_feature_length": 10, "mask_feature_min_masks": 0, "mask_feature_prob": 0.0,
        "mask_time_length": 10, "mask_time_min_masks": 2, "mask_time_prob": 0.05, "max_length": 450,
        "max_speech_positions": 4000, "max_text_positions": 450, "model_type": "speecht5",
        "num_conv_pos_embedding_groups": 16, "num_conv_pos_embeddings": 128, "num_feat_extract_layers": 7,
        "num_hidden_layers": 12, "num_mel_bins": 80, "pad_token_id": 1, "positional_dropout": 0.1,
        "reduction_factor": 2, "scale_embedding": False, "speaker_embedding_dim": 512,
        "speech_decoder_postnet_dropout": 0.5, "speech_decoder_postnet_kernel": 5, "speech_decoder_postnet_layers": 5,
        "speech_decoder_postnet_units": 256, "speech_decoder_prenet_dropout": 0.5, "speech_decoder_prenet_layers": 2,
        "speech_decoder_prenet_units": 256, "torch_dtype": "float32", "transformers_version": "4.27.0.dev0",
        "use_cache": True, "use_guided_attention_loss": True, "vocab_size": 81,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", RELEASED)
def test_released_configs_are_read(name: str) -> None:
    config = RELEASED[name]
    family = find_family(config["model_type"])
    spec = family.read(config)
    assert family.ignored(config, spec) == ()
    assert head_for(family, config, None) is SPEECH_SEQ2SEQ
    upstreams = json.loads(transformers.AutoConfig.for_model(config["model_type"]).to_json_string(use_diff=False))
    assert family.ignored(upstreams, family.read(upstreams)) == ()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "whisper", "d_model": 30, "encoder_attention_heads": 4}, "'d_model' 30 must be a multiple"),
        ({"model_type": "speech_to_text", "num_conv_layers": 3}, "must have 'num_conv_layers' 3 sizes"),
        ({"model_type": "speech_to_text", "pad_token_id": 0}, "'pad_token_id' is 0, and only 1 is honoured"),
        ({"model_type": "speecht5", "pad_token_id": 0}, "'pad_token_id' is 0, and only 1 is honoured"),
        ({"model_type": "speecht5", "conv_dim": [8, 8]}, r"'conv_dim' \(8, 8\), .* must be as many"),
        ({"model_type": "speecht5", "encoder_attention_heads": 5}, "received 5 heads and 768 channels"),
        ({"model_type": "speecht5", "hidden_size": 12, "decoder_attention_heads": 5}, "5 heads and 12 channels"),
        ({"model_type": "moonshine", "decoder_num_attention_heads": 4}, r"must be one, .* got \[4, 8\]"),
        ({"model_type": "moonshine", "encoder_num_key_value_heads": 2}, r"got \[2, 8\]"),
        ({"model_type": "moonshine", "rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "is 'dynamic'"),
    ],
    ids=str,
)
def test_configs_that_make_no_model_are_refused(config: dict[str, Any], message: str) -> None:
    family = find_family(config["model_type"])
    with pytest.raises(ConfigError, match=message):
        family.read(config)


@pytest.mark.parametrize(("model_type", "index"), EVERY)
def test_reference_equals_upstream(model_type: str, index: int) -> None:
    """T0 and T1: the strict loader takes the checkpoint, and every hidden state equals upstream's, in float64."""
    family = find_family(model_type)
    overrides = family.variations[index - 1] if index else {}
    config, narrow = upstream(model_type, AUDIO_CLASSIFICATION, overrides, seed=index)
    model = widened(narrow)
    ours = build(config, sources(model), dtype=torch.float64)
    kept, hooks = states(ours.model, ours.model.encoder.layers)  # type: ignore[union-attr, arg-type]
    for case in parity.cases(ours.signature, shapes=((1, 1, "none"), (3, 7, "right")), seed=1):
        kept.clear()
        inputs = {name: torch.from_numpy(array).double() for name, array in case.inputs.items()}
        with torch.no_grad():
            logits = ours.model(**inputs)["logits"]
        with float64():
            expected = model(**inputs, output_hidden_states=True)
        pairs = [(f"layer {i}", a, b) for i, (a, b) in enumerate(zip(kept, expected.hidden_states[1:], strict=True))]
        if family.final_norm:
            pairs.pop()  # upstream gives the last state after the final norm, which the logits cover
        for name, a, b in (*pairs, ("logits", logits, expected.logits)):
            excess = apart(a, b)
            assert excess <= 1, f"{name} of {case.name}: {excess:.2f} times the gate"
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize(("model_type", "index"), EVERY)
def test_graphs_equal_reference(model_type: str, index: int, tmp_path: Path) -> None:
    """T2 and T3: each dialect unoptimised and each recipe, within P0 and P1."""
    overrides = find_family(model_type).variations[index - 1] if index else {}
    config, model = upstream(model_type, AUDIO_CLASSIFICATION, overrides, seed=index)
    ours = build(config, sources(model))
    recorded = parity.record(ours.parts, parity.cases_for(ours.parts))
    where = f"{model_type} {AUDIO_CLASSIFICATION.task} {index}"
    for lowered in lower(ours.parts, tmp_path, where, raw=not index):
        held(ours.parts, recorded, lowered)


@pytest.mark.parametrize(("model_type", "index"), [("whisper", index) for index in range(2)])
def test_every_head_looks_where_upstream_s_does(model_type: str, index: int) -> None:
    """What the alignment's queries make of the encoder's keys, of every layer and head, in float64; T2 and T3 are those
    of the whole model's graphs."""
    overrides = find_family(model_type).variations[index - 1] if index else {}
    config, narrow = upstream(model_type, SPEECH_SEQ2SEQ, overrides, seed=index)
    model = widened(narrow)
    model.config._attn_implementation = "eager"
    parts = {part.name: part for part in build(config, sources(model), dtype=torch.float64).parts}
    features = torch.from_numpy(
        parity.cases(parts["encoder"].signature, shapes=((2, 1, "none"),))[0].inputs["input_features"]
    )
    tokens = torch.from_numpy(
        parity.cases(parts[ALIGNMENT].signature, shapes=((2, 11, "none"),))[0].inputs["input_ids"]
    )
    with torch.no_grad():
        heard = parts["encoder"].module(input_features=features.double())
        read = {name: value for name, value in heard.items() if name.startswith("cross_")}
        asked = parts[ALIGNMENT].module(input_ids=tokens, states=read)["cross_query"]
    with float64():
        expected = model(input_features=features.double(), decoder_input_ids=tokens, output_attentions=True)
    layers, heads = config["decoder_layers"], config["decoder_attention_heads"]
    queries = asked.unflatten(-1, (layers, heads, -1))
    for layer, wanted in enumerate(expected.cross_attentions):
        keys = heard[f"cross_key.{layer}"].unflatten(-1, (heads, -1))
        got = torch.einsum("bsnd,btnd->bnst", queries[:, :, layer], keys).softmax(-1)
        assert apart(got, wanted) <= 1, f"layer {layer}"
