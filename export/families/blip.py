"""BLIP, captions: a decoder of BERT's layers writes what a ViT sees. https://arxiv.org/abs/2201.12086"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from precast.export import heads
from precast.export.families import Family
from precast.export.generative import PerceivingPart, Seq2SeqLM
from precast.export.head_sets.seq2seq import generation_keys
from precast.export.skeletons import post_norm, querying
from precast.export.skeletons.post_norm_decoder import causal_lm, causal_names
from precast.export.spec import Spec as Base
from precast.export.spec import hf
from precast.export.weights import Rename, Rule, Within

__all__ = ["FAMILY", "Spec"]


@dataclass(frozen=True, kw_only=True)
class TextSpec(post_norm.EncoderSpec):
    """What ``text_config`` says; its tokens are those that a caption begins, ends and is padded with."""

    vocab_size: int = hf(default=30524)
    num_attention_heads: int = hf(default=8)
    is_decoder: bool = hf(default=True, only=(True,))
    bos_token_id: int = hf(default=30522)
    sep_token_id: int = hf(default=102)
    pad_token_id: int = hf(default=0)


@dataclass(frozen=True, kw_only=True)
class VisionSpec(querying.VisionSpec):
    hidden_size: int = hf(default=768)
    num_hidden_layers: int = hf(default=12)
    num_attention_heads: int = hf(default=12)
    intermediate_size: int = hf(default=3072)
    layer_norm_eps: float = hf(default=1e-5)
    image_size: int = hf(default=384)
    patch_size: int = hf(default=16)
    qkv_bias: bool = hf(default=True, only=(True,))


_HEADS = frozenset({"encoder_hidden_size", "projection_dim", "label_smoothing"})  # and what the states' channels are


@dataclass(frozen=True, kw_only=True)
class Spec(Base):
    text_config: TextSpec = hf(default={}, spec=TextSpec, inert=_HEADS)
    vision_config: VisionSpec = hf(default={}, spec=VisionSpec, inert=querying.INERT)
    tie_word_embeddings: bool = hf(default=True)


class _Captions(Seq2SeqLM):
    """It goes on with a text that stands beside its picture, once this starts as ``start`` says."""

    start: int

    def processing(self) -> Mapping[str, Any]:
        return {"prompt": {"token": self.start}}


def _compose(spec: Spec, absent: frozenset[str]) -> nn.Module:
    writer = causal_lm(spec.text_config, spec.vision_config.hidden_size)
    seen = querying.vision(spec.vision_config)
    made = _Captions(seen, writer.body, writer.lm_head, transform=writer.transform, part=PerceivingPart)
    made.start = spec.text_config.bos_token_id
    return made


def _weights(spec: Spec) -> tuple[Rule, ...]:
    writer = (
        *post_norm.names("bert"),
        *post_norm.PREDICTION_NAMES,
        *(post_norm.tied(spec.text_config) if spec.tie_word_embeddings else ()),
        *causal_names(spec.text_config),
    )
    return (
        *querying.vision_names("encoder."),
        Within("text_decoder.", writer, to="written."),
        Rename("written.model.*", "decoder.*"),
        *(Rename(f"written.{name}.*", f"{name}.*") for name in ("lm_head", "transform")),
    )


def _generates(spec: Spec) -> Mapping[str, Any]:
    """Upstream's captions end with what separates sentences, whatever generation_config.json says."""
    text = spec.text_config
    return {
        "bos_token_id": text.bos_token_id,
        "decoder_start_token_id": text.bos_token_id,
        "eos_token_id": text.sep_token_id,
        "pad_token_id": text.pad_token_id,
    }


_TEXT = {"bos_token_id": 5, "sep_token_id": 2}

FAMILY = Family(
    spec=Spec,
    heads={heads.IMAGE_TEXT: _compose},
    weights=_weights,
    inert=_HEADS | {"image_text_hidden_size", "initializer_factor", "logit_scale_init_value"},
    generation=generation_keys(),
    generates=_generates,
    tiny={"text_config": {**post_norm.TINY, **_TEXT}, "vision_config": querying.VISION_TINY},
    variations=(
        {
            "text_config": {**post_norm.TINY, **_TEXT, "num_hidden_layers": 1, "hidden_size": 24, "hidden_act": "relu"}
            | {"layer_norm_eps": 1e-5, "tie_word_embeddings": False, "vocab_size": 131},
            "vision_config": {key: value for key, value in querying.VISION_ODD.items() if key != "qkv_bias"},
            "tie_word_embeddings": False,
        },
    ),
)
