"""SEW-D: SEW with scores of their own for content and relative position. https://arxiv.org/abs/2109.06870"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.mlp import MLP
from precast.export.families import sew
from precast.export.head_sets.sound import speech_heads
from precast.export.skeletons.disentangled import (
    DisentangledSpec,
    PositionTables,
    attention,
    norms,
    positions,
    score_terms,
)
from precast.export.skeletons.encoder import PostNormLayer
from precast.export.skeletons.post_norm import layer_names
from precast.export.skeletons.speech_encoder import INERT, ODD, TINY, PostNormFrames, SpeechEncoder, norm
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Within
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY"]


@dataclass(frozen=True, kw_only=True)
class Spec(DisentangledSpec, sew.Spec):
    """Defaults are SEW-D-tiny's."""

    hidden_size: int = hf(default=768)
    num_hidden_layers: int = hf(default=12)
    num_attention_heads: int = hf(default=12)
    hidden_act: Activation = hf(default=activation("gelu_python"), read=activation)
    layer_norm_eps: float = hf(default=1e-7)
    feature_layer_norm_eps: float = hf(default=1e-5)
    relative_attention: bool = hf(default=True)
    position_buckets: int = hf(default=256)
    pos_att_type: tuple[str, ...] | None = hf(default=("p2c", "c2p"), read=score_terms)
    share_att_key: bool = hf(default=True)
    norm_relative: bool = hf("norm_rel_ebd", default=True, read=norms)
    conv_kernel_size: int = hf(default=0, only=(0,))

    def __post_init__(self) -> None:
        super().__post_init__()
        if problems := self.problems():
            raise ConfigError(f"config.json of model_type 'sew-d' cannot be honoured: {'; '.join(problems)}")


def _layer(spec: Spec) -> PostNormLayer:
    return PostNormLayer(
        attention=attention(spec),
        attention_norm=norm(spec),
        mlp=MLP(spec.hidden_size, spec.intermediate_size, spec.hidden_act),
        mlp_norm=norm(spec),
    )


def _body(spec: Spec) -> SpeechEncoder:
    layers = (_layer(spec) for _ in range(spec.num_hidden_layers))
    stack = PostNormFrames(layers, None, bias=positions(spec) if spec.relative else None)
    return sew.squeezed(spec, stack, spec.feature_layer_norm_eps)


_LAYERS = "model.encoder.stack.layers"


def _weights(spec: Any) -> tuple[Rule, ...]:
    projections = {f"{part[0]}_proj": f"attention.self.{part}_proj" for part in ("query", "key", "value")}
    tables = (Rename(f"attention.self.pos_{kind}_proj.*", f"self_attn.{kind}_table.*") for kind in ("key", "query"))
    relative = PositionTables(spec, _LAYERS) if spec.relative else Ignore("relative.*")
    return (
        Rename("sew_d.*", "*"),
        Within("encoder.encoder.layer.{}.", (*layer_names(**projections), *tables), to=f"{_LAYERS}.{{}}."),
        Rename("encoder.encoder.rel_embeddings.*", "relative.*"),
        Rename("encoder.encoder.LayerNorm.*", "relative_norm.*" if spec.relative else "relative.norm.*"),
        *sew.squeezed_names(spec, "sew_d"),
        relative,
    )


FAMILY = replace(
    sew.FAMILY,
    model_type="sew-d",
    spec=Spec,
    heads=speech_heads(_body, features=False, every=False),
    weights=_weights,
    inert=INERT | {"position_biased_input"},
    tiny={**TINY, "position_buckets": 16, "max_position_embeddings": 40},
    variations=(
        {**ODD, "squeeze_factor": 3, "share_att_key": False, "position_buckets": -1, "max_position_embeddings": 14}
        | {"norm_rel_ebd": "none", "feature_layer_norm_eps": 1e-3, "conv_bias": True},
        {"pos_att_type": ["c2p"], "share_att_key": False, "squeeze_factor": 1, "hidden_size": 20},
        {"relative_attention": False, "norm_rel_ebd": "none"},
    ),
)
