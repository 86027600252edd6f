"""DETR: a transformer over a backbone's last map, whose decoder asks for one object a query.
https://arxiv.org/abs/2005.12872"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from precast.export import heads
from precast.export.backbones import BackboneSpec
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.places import LearnedPlaces, SinePlaces
from precast.export.families import Family
from precast.export.head_sets.boxes import DeepHead, ObjectDetection
from precast.export.head_sets.object_masks import Attended, MaskHead, ObjectSegmentation, mask_names
from precast.export.heads import Head
from precast.export.skeletons.detector import (
    Decoder,
    DecoderLayer,
    Detector,
    DetectorFeatures,
    EncoderLayer,
    PlacedAttention,
)
from precast.export.spec import hf
from precast.export.weights import Rename, Rule

__all__ = ["BACKBONE", "FAMILY", "INERT", "Spec", "body", "detector_heads", "layer_names", "names"]

# What losses and training read.
INERT = frozenset("auxiliary_loss class_cost bbox_cost giou_cost mask_loss_coefficient dice_loss_coefficient".split())
INERT |= frozenset("bbox_loss_coefficient giou_loss_coefficient eos_coefficient init_xavier_std".split())
INERT |= frozenset("activation_dropout init_std max_position_embeddings".split())
# Which released checkpoints have, and nothing reads.
INERT |= frozenset({"scale_embedding"})
INERT |= frozenset({"decoder_layerdrop", "encoder_layerdrop"})
_EPSILON = 1e-5


@dataclass(frozen=True, kw_only=True)
class Spec(BackboneSpec):
    """Defaults are DETR-ResNet-50's."""

    is_encoder_decoder: bool = hf(default=True)
    num_queries: int = hf(default=100)
    d_model: int = hf(("d_model", "hidden_size"), default=256)
    encoder_layers: int = hf(("encoder_layers", "num_hidden_layers"), default=6)
    encoder_ffn_dim: int = hf(default=2048)
    encoder_attention_heads: int = hf(("encoder_attention_heads", "num_attention_heads"), default=8)
    decoder_layers: int = hf(default=6)
    decoder_ffn_dim: int = hf(default=2048)
    decoder_attention_heads: int = hf(default=8)
    activation_function: Activation = hf(default=activation("relu"), read=activation)
    position_embedding_type: str = hf(default="sine", only=("sine", "learned"))


def body(
    spec: Spec,
    encoder: type[EncoderLayer] = EncoderLayer,
    decoder: type[DecoderLayer] = DecoderLayer,
    *,
    normed: bool = False,
    places: Callable[[int], nn.Module] = SinePlaces,
) -> Detector:
    """Layers of two classes; ``normed``: a norm follows the encoder's; ``places``: positions where they are sines."""
    size, sines = spec.d_model, spec.position_embedding_type == "sine"

    def norms(count: int) -> list[LayerNorm]:
        return [LayerNorm(size, _EPSILON) for _ in range(count)]

    return Detector(
        spec.inner.build(),
        spec.inner.channels[-1],
        size,
        places=places(size) if sines else LearnedPlaces(size, stride=spec.inner.strides[-1]),
        encoder=[
            encoder(
                attention=PlacedAttention(size, spec.encoder_attention_heads),
                mlp=MLP(size, spec.encoder_ffn_dim, spec.activation_function),
                norms=norms(2),
            )
            for _ in range(spec.encoder_layers)
        ],
        norm=LayerNorm(size, _EPSILON) if normed else None,
        decoder=Decoder(
            [
                decoder(
                    attention=PlacedAttention(size, spec.decoder_attention_heads),
                    cross=PlacedAttention(size, spec.decoder_attention_heads),
                    mlp=MLP(size, spec.decoder_ffn_dim, spec.activation_function),
                    norms=norms(3),
                )
                for _ in range(spec.decoder_layers)
            ],
            LayerNorm(size, _EPSILON),
            queries=spec.num_queries,
            hidden=size,
        ),
    )


def detector_heads(
    made: Callable[[Any], Detector],
) -> Mapping[Head, Callable[[Any, frozenset[str]], nn.Module]]:
    """The transformer's states, and classes and boxes of its objects; one class more stands for none."""

    def base(spec: Any, absent: frozenset[str]) -> nn.Module:
        return DetectorFeatures(made(spec))

    def detection(spec: Any, absent: frozenset[str]) -> nn.Module:
        size = spec.d_model
        classifier, boxes = nn.Linear(size, spec.labels + 1), DeepHead((size, size, size, 4))
        return ObjectDetection(made(spec), classifier, boxes)

    return {heads.BASE: base, heads.OBJECT_DETECTION: detection}


def _segmentation(spec: Spec, absent: frozenset[str]) -> nn.Module:
    size, count, channels = spec.d_model, spec.encoder_attention_heads, spec.inner.channels[:3]
    return ObjectSegmentation(
        body(spec),
        nn.Linear(size, spec.labels + 1),
        DeepHead((size, size, size, 4)),
        Attended(size, count),
        MaskHead(channels[::-1], size, count, spec.activation_function),
        spec.inner.strides[-1] + 1,  # two places a side of the last map: of one there is nothing to norm
    )


def layer_names(layer: str) -> tuple[Rule, ...]:
    """What stands in a layer, as transformers 5 and 4 write it."""
    return tuple(
        Rename(f"{layer}{old}.*", f"{layer}{new}.*")
        for old, new in (
            ("self_attn.out_proj", "self_attn.o_proj"),
            ("encoder_attn.out_proj", "encoder_attn.o_proj"),
            ("encoder_attn.output_proj", "encoder_attn.o_proj"),
            ("self_attn.output_proj", "self_attn.o_proj"),
            ("fc1", "mlp.up_proj"),
            ("fc2", "mlp.down_proj"),
            ("mlp.fc1", "mlp.up_proj"),
            ("mlp.fc2", "mlp.down_proj"),
        )
    )


def names(spec: Any) -> tuple[Rule, ...]:
    """As transformers 5 and 4 write them."""
    return (
        Rename("model.*", "*"),
        Rename("backbone.conv_encoder.*", "backbone.*"),
        spec.inner.names("backbone.model.", "model.backbone."),
        Rename("query_position_embeddings.weight", "model.decoder.queries"),
        *(
            Rename(f"{old}.{part}_embeddings.*", f"model.places.{part}s.*")
            for old in ("position_embedding", "backbone.position_embedding")
            for part in ("row", "column")
        ),
        Rename("input_projection.*", "model.projection.*"),
        *layer_names("encoder.layers.{}."),
        *layer_names("decoder.layers.{}."),
        Rename("encoder.layers.*", "model.encoder.*"),
        Rename("encoder.layernorm.*", "model.norm.*"),
        Rename("decoder.*", "model.decoder.*"),
        Rename("class_labels_classifier.*", "classifier.*"),
        Rename("bbox_predictor.*", "boxes.*"),
    )


# A residual network of two stages.
BACKBONE = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1]}
BACKBONE |= {"layer_type": "basic", "out_features": ["stage2"]}
_SMALLER = {**BACKBONE, "hidden_sizes": [12], "depths": [1], "out_features": ["stem", "stage1"], "num_channels": 1}

FAMILY = Family(
    spec=Spec,
    heads={heads.UNIVERSAL_SEGMENTATION: _segmentation, **detector_heads(body)},
    weights=lambda spec: (
        Rename("detr.*", "*"),
        *names(spec),
        *mask_names(spec.d_model, spec.encoder_attention_heads),
    ),
    inert=INERT,
    tiny={"d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 40}
    | {"encoder_attention_heads": 4, "decoder_attention_heads": 2, "num_queries": 5, "backbone_config": BACKBONE},
    variations=(
        {"d_model": 12, "encoder_layers": 1, "decoder_layers": 1, "activation_function": "gelu", "num_queries": 3}
        | {"encoder_attention_heads": 3, "decoder_attention_heads": 3, "position_embedding_type": "learned"}
        | {"num_labels": 5, "backbone_config": _SMALLER},
    ),
)
