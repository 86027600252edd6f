"""Configs of composed models after released ones, with the keys that files of their time hold, are read; what nothing
reads is said."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from precast.export.families import find_family
from precast.export.reference import head_for

# What every config class of the time wrote, of each part of a model too.
PART: dict[str, Any] = {
    "_name_or_path": "", "add_cross_attention": False, "architectures": None, "bad_words_ids": None,
    "begin_suppress_tokens": None, "bos_token_id": None, "chunk_size_feed_forward": 0,
    "cross_attention_hidden_size": None, "decoder_start_token_id": None, "diversity_penalty": 0.0,
    "do_sample": False, "early_stopping": False, "encoder_no_repeat_ngram_size": 0, "eos_token_id": None,
    "exponential_decay_length_penalty": None, "finetuning_task": None, "forced_bos_token_id": None,
    "forced_eos_token_id": None, "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "is_decoder": False,
    "is_encoder_decoder": False, "label2id": {"LABEL_0": 0, "LABEL_1": 1}, "length_penalty": 1.0, "max_length": 20,
    "min_length": 0, "no_repeat_ngram_size": 0, "num_beam_groups": 1, "num_beams": 1, "num_return_sequences": 1,
    "output_attentions": False, "output_hidden_states": False, "output_scores": False, "pad_token_id": None,
    "prefix": None, "problem_type": None, "pruned_heads": {}, "remove_invalid_values": False,
    "repetition_penalty": 1.0, "return_dict": True, "return_dict_in_generate": False, "sep_token_id": None,
    "suppress_tokens": None, "task_specific_params": None, "temperature": 1.0, "tf_legacy_loss": False,
    "tie_encoder_decoder": False, "tie_word_embeddings": True, "tokenizer_class": None, "top_k": 50, "top_p": 1.0,
    "torch_dtype": None, "torchscript": False, "transformers_version": "4.22.0.dev0", "typical_p": 1.0,
    "use_bfloat16": False,
}  # fmt: skip
WRITES: dict[str, Any] = {**PART, "is_decoder": True, "add_cross_attention": True}
VIT: dict[str, Any] = {
    **PART,
    "attention_probs_dropout_prob": 0.0, "hidden_act": "gelu", "hidden_dropout_prob": 0.0, "hidden_size": 768,
    "image_size": 384, "initializer_range": 0.02, "intermediate_size": 3072, "layer_norm_eps": 1e-12,
    "model_type": "vit", "num_attention_heads": 12, "num_channels": 3, "num_hidden_layers": 12, "patch_size": 16,
    "qkv_bias": False, "encoder_stride": 16,
}  # fmt: skip
DONUT_SWIN: dict[str, Any] = {
    **PART,
    "attention_probs_dropout_prob": 0.0, "depths": [2, 2, 14, 2], "drop_path_rate": 0.1, "embed_dim": 128,
    "hidden_act": "gelu", "hidden_dropout_prob": 0.0, "hidden_size": 1024, "image_size": [2560, 1920],
    "initializer_range": 0.02, "layer_norm_eps": 1e-05, "mlp_ratio": 4.0, "model_type": "donut-swin",
    "num_channels": 3, "num_heads": [4, 8, 16, 32], "num_layers": 4, "patch_size": 4, "path_norm": True,
    "qkv_bias": True, "use_absolute_embeddings": False, "window_size": 10,
}  # fmt: skip
WAV2VEC2: dict[str, Any] = {
    **PART,
    "architectures": ["Wav2Vec2ForPreTraining"], "activation_dropout": 0.0, "add_adapter": True,
    "adapter_kernel_size": 3, "adapter_stride": 2, "apply_spec_augment": True, "attention_dropout": 0.1,
    "classifier_proj_size": 256, "codevector_dim": 768, "contrastive_logits_temperature": 0.1, "conv_bias": True,
    "conv_dim": [512, 512, 512, 512, 512, 512, 512], "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2], "ctc_loss_reduction": "sum", "ctc_zero_infinity": False,
    "diversity_loss_weight": 0.1, "do_stable_layer_norm": True, "feat_extract_activation": "gelu",
    "feat_extract_dropout": 0.0, "feat_extract_norm": "layer", "feat_proj_dropout": 0.1,
    "feat_quantizer_dropout": 0.0, "final_dropout": 0.0, "gradient_checkpointing": False, "hidden_act": "gelu",
    "hidden_dropout": 0.1, "hidden_size": 1024, "initializer_range": 0.02, "intermediate_size": 4096,
    "layer_norm_eps": 1e-05, "layerdrop": 0.1, "mask_channel_length": 10, "mask_channel_min_space": 1,
    "mask_channel_other": 0.0, "mask_channel_prob": 0.0, "mask_channel_selection": "static",
    "mask_feature_length": 10, "mask_feature_min_masks": 0, "mask_feature_prob": 0.0, "mask_time_length": 10,
    "mask_time_min_masks": 2, "mask_time_prob": 0.075, "model_type": "wav2vec2", "num_adapter_layers": 3,
    "num_attention_heads": 16, "num_codevector_groups": 2, "num_codevectors_per_group": 320,
    "num_conv_pos_embedding_groups": 16, "num_conv_pos_embeddings": 128, "num_feat_extract_layers": 7,
    "num_hidden_layers": 24, "num_negatives": 100, "output_hidden_size": 1024, "proj_codevector_dim": 768,
    "tdnn_dilation": [1, 2, 3, 1, 1], "tdnn_dim": [512, 512, 512, 512, 1500], "tdnn_kernel": [5, 3, 3, 1, 1],
    "use_weighted_layer_sum": False, "vocab_size": 32, "xvector_output_dim": 512,
}  # fmt: skip
BERT: dict[str, Any] = {
    **PART,
    "architectures": ["BertForMaskedLM"], "pad_token_id": 0, "attention_probs_dropout_prob": 0.1,
    "gradient_checkpointing": False, "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 768,
    "initializer_range": 0.02, "intermediate_size": 3072, "layer_norm_eps": 1e-12, "max_position_embeddings": 512,
    "model_type": "bert", "num_attention_heads": 12, "num_hidden_layers": 12, "position_embedding_type": "absolute",
    "type_vocab_size": 2, "use_cache": True, "vocab_size": 30522, "xla_device": None,
}  # fmt: skip
MBART: dict[str, Any] = {
    **WRITES,
    "bos_token_id": 0, "eos_token_id": 2, "forced_eos_token_id": 2, "pad_token_id": 1, "activation_dropout": 0.0,
    "activation_function": "gelu", "add_final_layer_norm": True, "attention_dropout": 0.0, "classifier_dropout": 0.0,
    "d_model": 1024, "decoder_attention_heads": 16, "decoder_ffn_dim": 4096, "decoder_layerdrop": 0.0,
    "decoder_layers": 4, "dropout": 0.1, "encoder_attention_heads": 16, "encoder_ffn_dim": 4096,
    "encoder_layerdrop": 0.0, "encoder_layers": 12, "init_std": 0.02, "max_position_embeddings": 128,
    "model_type": "mbart", "num_hidden_layers": 12, "scale_embedding": True, "use_cache": True, "vocab_size": 57580,
}  # fmt: skip
TROCR: dict[str, Any] = {
    **WRITES,
    "bos_token_id": 0, "cross_attention_hidden_size": 768, "decoder_start_token_id": 2, "eos_token_id": 2,
    "pad_token_id": 1, "activation_dropout": 0.0, "activation_function": "gelu", "attention_dropout": 0.0,
    "classifier_dropout": 0.0, "d_model": 1024, "decoder_attention_heads": 16, "decoder_ffn_dim": 4096,
    "decoder_layerdrop": 0.0, "decoder_layers": 12, "dropout": 0.1, "init_std": 0.02, "layernorm_embedding": True,
    "max_position_embeddings": 512, "model_type": "trocr", "scale_embedding": False, "use_cache": False,
    "use_learned_position_embeddings": True, "vocab_size": 50265,
}  # fmt: skip
GPT2: dict[str, Any] = {
    **WRITES,
    "architectures": ["GPT2LMHeadModel"], "bos_token_id": 50256, "decoder_start_token_id": 50256,
    "eos_token_id": 50256, "pad_token_id": 50256,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    "activation_function": "gelu_new", "attn_pdrop": 0.1, "embd_pdrop": 0.1, "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_inner": None,
    "n_layer": 12, "n_positions": 1024, "reorder_and_upcast_attn": False, "resid_pdrop": 0.1,
    "scale_attn_by_inverse_layer_idx": False, "scale_attn_weights": True, "summary_activation": None,
    "summary_first_dropout": 0.1, "summary_proj_to_labels": True, "summary_type": "cls_index",
    "summary_use_proj": True, "use_cache": True, "vocab_size": 50257,
}  # fmt: skip
PIX2STRUCT: dict[str, Any] = {
    "text_config": {
    **PART,
    "decoder_start_token_id": 0, "eos_token_id": 1, "is_decoder": True, "is_encoder_decoder": True,
    "pad_token_id": 0, "tie_word_embeddings": False, "model_type": "pix2struct_text_model", "d_ff": 2048, "d_kv": 64,
    "dense_act_fn": "gelu_new", "dropout_rate": 0.1, "encoder_hidden_size": 768, "feed_forward_proj": "gated-gelu",
    "hidden_size": 768, "initializer_factor": 1.0, "initializer_range": 0.02, "layer_norm_epsilon": 1e-06,
    "num_heads": 12, "num_layers": 12, "relative_attention_max_distance": 128, "relative_attention_num_buckets": 32,
    "use_cache": False, "vocab_size": 50244,
    },
    "vision_config": {
    **PART,
    "model_type": "pix2struct_vision_model", "attention_dropout": 0.0, "d_ff": 2048, "d_kv": 64,
    "dense_act_fn": "gelu_new", "dropout_rate": 0.0, "hidden_dropout_prob": 0.0, "hidden_size": 768,
    "image_size": 384, "initializer_factor": 1.0, "initializer_range": 1e-10, "intermediate_size": 3072,
    "layer_norm_bias": False, "layer_norm_eps": 1e-06, "num_attention_heads": 12, "num_channels": 3,
    "num_hidden_layers": 12, "patch_embed_hidden_size": 768, "patch_size": 16, "projection_dim": 768,
    "relative_attention_max_distance": 128, "relative_attention_num_buckets": 32, "seq_len": 4096,
    },
    "architectures": ["Pix2StructForConditionalGeneration"], "model_type": "pix2struct", "is_encoder_decoder": True,
    "initializer_factor": 1.0, "initializer_range": 0.02, "is_vqa": False, "pad_token_id": 0,
    "tie_word_embeddings": False, "eos_token_id": 1, "decoder_start_token_id": 0, "transformers_version": None,
}  # fmt: skip


def pair(kind: str, encoder: dict[str, Any], decoder: dict[str, Any], **others: Any) -> dict[str, Any]:
    name = "".join(part.capitalize() for part in kind.split("-"))
    return {
        "architectures": [f"{name}Model"],
        "is_encoder_decoder": True,
        "model_type": kind,
        "tie_word_embeddings": False,
        "encoder": encoder,
        "decoder": decoder,
        **others,
    }


STARTS = {"decoder_start_token_id": 2, "eos_token_id": 2, "pad_token_id": 1, "vocab_size": 50265}
RELEASED: dict[str, tuple[dict[str, Any], str, int]] = {
    "naver-clova-ix/donut-base-finetuned-rvlcdip": (
        pair("vision-encoder-decoder", DONUT_SWIN, MBART), "image-text-to-text", 259,
    ),
    "microsoft/trocr-base-printed": (
        pair("vision-encoder-decoder", VIT, TROCR, processor_class="TrOCRProcessor", num_beams=4, **STARTS),
        "image-text-to-text", 384,
    ),
    "nlpconnect/vit-gpt2-image-captioning": (
        pair("vision-encoder-decoder", {**VIT, "image_size": 224, "qkv_bias": True}, GPT2), "image-text-to-text", 277,
    ),
    "patrickvonplaten/bert2bert_cnn_daily_mail": (
        pair("encoder-decoder", BERT, {**BERT, "is_decoder": True, "add_cross_attention": True}, max_length=142),
        "text2text-generation", 270,
    ),
    "facebook/wav2vec2-xls-r-1b-21-to-en, smaller": (
        pair("speech-encoder-decoder", WAV2VEC2, {**MBART, "decoder_layers": 12, "vocab_size": 250054}),
        "speech-seq2seq", 1048,
    ),
    "google/pix2struct-base": (PIX2STRUCT, "image-text-to-text", 282),
}  # fmt: skip


@pytest.mark.parametrize("name", RELEASED)
def test_released_configs_are_read(name: str) -> None:
    """And make a model of the size that it has, in millions of parameters."""
    config, task, millions = RELEASED[name]
    family = find_family(config["model_type"])
    spec, head = family.read(config), head_for(family, config, None)
    assert head.task == task
    ignored = {key.rpartition(".")[2] for key in family.ignored(config, spec)}
    assert not ignored & {"scale_embedding", "d_model", "hidden_size", "window_size", "depths", "layernorm_embedding"}
    with torch.device("meta"):
        model = family.heads[head](spec, frozenset())
    assert sum(value.numel() for value in model.parameters()) // 10**6 == millions
