"""DeBERTa v2 and v3: attention scores with separate terms for content and relative position ("disentangled").
https://arxiv.org/abs/2006.03654, https://arxiv.org/abs/2111.09543"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.embeddings import LearnedPositions, TextEmbeddings
from precast.export.blocks.mlp import MLP
from precast.export.families import Family
from precast.export.head_sets.encoders import encoder_heads
from precast.export.skeletons.disentangled import DisentangledSpec, PositionTables, attention, positions
from precast.export.skeletons.encoder import Encoder, PostNormLayer
from precast.export.skeletons.post_norm import ODD, PREDICTION_NAMES, TINY, EncoderSpec, names, norm, tied
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Tie
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY"]


@dataclass(frozen=True, kw_only=True)
class Spec(DisentangledSpec, EncoderSpec):
    """Defaults are upstream's config class's, which are no published model's."""

    vocab_size: int = hf(default=128100)
    hidden_size: int = hf(default=1536)
    embedding_size: int | None = hf(default=None)
    num_hidden_layers: int = hf(default=24)
    num_attention_heads: int = hf(default=24)
    intermediate_size: int = hf(default=6144)
    type_vocab_size: int = hf(default=0)
    layer_norm_eps: float = hf(default=1e-7)
    position_biased_input: bool = hf(default=True)
    conv_kernel_size: int = hf(default=0)
    conv_groups: int = hf(default=1)
    conv_act: Activation = hf(default=activation("tanh"), read=activation)
    pooler_hidden_size: int | None = hf(default=None)
    pooler_hidden_act: Activation = hf(default=activation("gelu"), read=activation)
    legacy: bool = hf(default=True)

    def __post_init__(self) -> None:
        problems = self.problems()
        if self.pooler_hidden_size not in (None, self.hidden_size):
            problems.append(f"'pooler_hidden_size' {self.pooler_hidden_size} must be 'hidden_size' {self.hidden_size}")
        if self.conv_kernel_size > 0 and self.conv_kernel_size % 2 == 0:
            problems.append(f"'conv_kernel_size' {self.conv_kernel_size} must be odd, to keep the length of the text")
        if problems:
            raise ConfigError(f"config.json of model_type 'deberta-v2' cannot be honoured: {'; '.join(problems)}")

    @property
    def projected(self) -> bool:
        """Whether the embeddings have another size than the layers."""
        return self.words_size != self.hidden_size


class _ConvolvedLayer(PostNormLayer):
    """A layer to whose output a convolution of its input is added: x -> norm(layer(x) + act(conv(x)))."""

    def __init__(self, spec: Spec, **parts: Any) -> None:
        super().__init__(**parts)
        size, width = spec.hidden_size, spec.conv_kernel_size
        self.act = spec.conv_act
        self.conv = nn.Conv1d(size, size, width, padding=width // 2, groups=spec.conv_groups)
        self.conv_norm = norm(spec)

    def forward(self, x: Tensor, mask: Tensor, bias: Any = None) -> Tensor:
        real = x * mask[..., None].to(x.dtype)  # what the convolution reaches of the padding is zero
        local = self.act(self.conv(real.transpose(1, 2)).transpose(1, 2))
        return self.conv_norm.add(local, super().forward(x, mask, bias))[0]


class _ProjectedNorm(nn.Module):
    """norm(proj(x)), [B, S, E] -> [B, S, H]."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.proj = nn.Linear(spec.words_size, spec.hidden_size, bias=False)
        self.norm = norm(spec)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x))


def _layer(spec: Spec, index: int) -> PostNormLayer:
    parts: dict[str, Any] = {
        "attention": attention(spec),
        "attention_norm": norm(spec),
        "mlp": MLP(spec.hidden_size, spec.intermediate_size, spec.hidden_act),
        "mlp_norm": norm(spec),
    }
    return _ConvolvedLayer(spec, **parts) if index == 0 and spec.conv_kernel_size > 0 else PostNormLayer(**parts)


def _model(spec: Spec) -> Encoder:
    places = LearnedPositions(spec.max_position_embeddings, spec.words_size) if spec.position_biased_input else None
    return Encoder(
        embeddings=TextEmbeddings(
            spec.vocab_size,
            spec.words_size,
            positions=places,
            token_types=spec.type_vocab_size,
            norm=None if spec.projected else norm(spec),
        ),
        projection=_ProjectedNorm(spec) if spec.projected else None,
        layers=[_layer(spec, index) for index in range(spec.num_hidden_layers)],
        bias=positions(spec) if spec.relative else None,
    )


def _transform(spec: Spec) -> heads.LMTransform:
    size = spec.words_size if spec.legacy else spec.hidden_size
    return heads.LMTransform(spec.hidden_size, size, spec.hidden_act, norm(spec, size))


def _text(spec: Spec, labels: int) -> tuple[nn.Module, nn.Module]:
    return heads.TanhPooler(spec.hidden_size, act=spec.pooler_hidden_act), nn.Linear(spec.hidden_size, labels)


def _weights(spec: Spec) -> tuple[Rule, ...]:
    ours = "model.layers.{}"
    rules: list[Rule] = [
        *names("deberta", **{f"{part[0]}_proj": f"attention.self.{part}_proj" for part in ("query", "key", "value")}),
        Ignore("mask_predictions.*"),  # the discriminator of v3's pre-training
        Rename("model.embeddings.embed_proj.*", "model.projection.proj.*"),
        Rename(f"{ours}.attention.self.pos_key_proj.*", f"{ours}.self_attn.key_table.*"),
        Rename(f"{ours}.attention.self.pos_query_proj.*", f"{ours}.self_attn.query_table.*"),
        Rename("encoder.conv.conv.*", "model.layers.0.conv.*"),
        Rename("encoder.conv.LayerNorm.*", "model.layers.0.conv_norm.*"),
        Rename("encoder.rel_embeddings.*", "relative.*"),
        Rename("encoder.LayerNorm.*", "relative_norm.*"),
    ]
    if spec.projected:
        rules.append(Rename("model.embeddings.norm.*", "model.projection.norm.*"))
    if not spec.position_biased_input:
        rules.append(Ignore("model.embeddings.positions.*"))
    if spec.relative:
        rules.append(PositionTables(spec))
    else:  # upstream keeps them, unused
        rules += [Ignore("relative.*"), Ignore("relative_norm.*")]
    if spec.legacy:
        return (*rules, Ignore("lm_predictions.*"), *PREDICTION_NAMES, *tied(spec))
    return (
        *rules,
        Ignore("cls.predictions.*"),
        Rename("lm_predictions.lm_head.bias", "decoder.bias"),
        Rename("lm_predictions.lm_head.dense.*", "transform.dense.*"),
        Rename("lm_predictions.lm_head.LayerNorm.*", "transform.norm.*"),
        Tie("decoder.weight", "model.embeddings.words.weight"),  # there is no other decoder
    )


# The switches of v3; its smaller buckets put short texts past their edge.
_TINY: dict[str, Any] = {
    **TINY, "relative_attention": True, "position_buckets": 16, "norm_rel_ebd": "layer_norm",
    "share_att_key": True, "pos_att_type": "p2c|c2p", "position_biased_input": False,
}  # fmt: skip
_VARIATIONS: tuple[dict[str, Any], ...] = (
    # v2-xlarge's convolution, projections of their own, absolute positions, no buckets, a smaller table.
    {**ODD, "num_hidden_layers": 2, "embedding_size": 13, "share_att_key": False, "position_buckets": -1,
     "max_relative_positions": 24, "norm_rel_ebd": "none", "position_biased_input": True, "type_vocab_size": 3,
     "conv_kernel_size": 3, "conv_act": "gelu", "pooler_hidden_act": "tanh"},
    # One term alone, its own projection, the newer head, a grouped convolution of five, one token type.
    {"pos_att_type": ["c2p"], "share_att_key": False, "legacy": False, "position_biased_input": True,
     "conv_kernel_size": 5, "conv_groups": 4, "type_vocab_size": 1, "num_labels": 1, "max_relative_positions": 40},
    {"pos_att_type": ["p2c"], "hidden_act": "relu", "position_biased_input": True},
    # No relative attention at all; its terms still count in the scale.
    {"relative_attention": False, "position_biased_input": True},
)  # fmt: skip

FAMILY = Family(
    model_type="deberta-v2",
    spec=Spec,
    heads=encoder_heads(_model, transform=_transform, pooler=None, text=_text, choice=_text),
    weights=_weights,
    padded_rows_defined=False,
    inert=frozenset({"pooler_dropout", "cls_dropout"}),
    tiny=_TINY,
    variations=_VARIATIONS,
)
