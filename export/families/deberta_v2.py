"""DeBERTa v2 and v3: attention scores with separate terms for content and relative position ("disentangled").
https://arxiv.org/abs/2006.03654, https://arxiv.org/abs/2111.09543"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.disentangled import DisentangledAttention, SharedPositions
from precast.export.blocks.embeddings import LearnedPositions, TextEmbeddings
from precast.export.blocks.mlp import MLP
from precast.export.blocks.relative import RelativeIndex, signed_log_bins
from precast.export.families import Family
from precast.export.head_sets.encoders import encoder_heads
from precast.export.skeletons.encoder import Encoder, PostNormLayer
from precast.export.skeletons.post_norm import ODD, PREDICTION_NAMES, TINY, EncoderSpec, names, norm, tied
from precast.export.spec import hf
from precast.export.weight_table import Lazy, at_least_float32
from precast.export.weights import Ignore, Rename, Rule, Tie
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY"]


def _terms(value: Any) -> list[str] | None:
    """Terms of the score: "c2p" (content to position), "p2c"; a list or "c2p|p2c"."""
    names = value.lower().split("|") if isinstance(value, str) else value
    names = None if names is None else [name.strip() for name in names]
    if set(names or ()) - {"c2p", "p2c"}:
        raise ValueError("only 'c2p' and 'p2c' are honoured here")
    return names


def _norms(value: Any) -> bool:
    names = {name.strip() for name in value.lower().split("|")}
    if names - {"none", "layer_norm"}:
        raise ValueError("only 'none' and 'layer_norm' are honoured here")
    return "layer_norm" in names


@dataclass(frozen=True, kw_only=True)
class Spec(EncoderSpec):
    """Defaults are upstream's config class's, which are no published model's."""

    vocab_size: int = hf(default=128100)
    hidden_size: int = hf(default=1536)
    embedding_size: int | None = hf(default=None)
    num_hidden_layers: int = hf(default=24)
    num_attention_heads: int = hf(default=24)
    attention_head_size: int | None = hf(default=None)
    intermediate_size: int = hf(default=6144)
    type_vocab_size: int = hf(default=0)
    layer_norm_eps: float = hf(default=1e-7)
    position_biased_input: bool = hf(default=True)
    relative_attention: bool = hf(default=False)
    max_relative_positions: int = hf(default=-1)
    position_buckets: int = hf(default=-1)
    pos_att_type: list[str] | None = hf(default=None, read=_terms)
    share_att_key: bool = hf(default=False)
    norm_relative: bool = hf("norm_rel_ebd", default=False, read=_norms)
    conv_kernel_size: int = hf(default=0)
    conv_groups: int = hf(default=1)
    conv_act: Activation = hf(default=activation("tanh"), read=activation)
    pooler_hidden_size: int | None = hf(default=None)
    pooler_hidden_act: Activation = hf(default=activation("gelu"), read=activation)
    legacy: bool = hf(default=True)

    def __post_init__(self) -> None:
        problems = []
        if self.hidden_size != self.head_size * self.num_attention_heads:
            problems.append(
                f"'hidden_size' {self.hidden_size} must be 'num_attention_heads' {self.num_attention_heads} times "
                f"the head size {self.head_size}"
            )
        if self.pooler_hidden_size not in (None, self.hidden_size):
            problems.append(f"'pooler_hidden_size' {self.pooler_hidden_size} must be 'hidden_size' {self.hidden_size}")
        if self.conv_kernel_size > 0 and self.conv_kernel_size % 2 == 0:
            problems.append(f"'conv_kernel_size' {self.conv_kernel_size} must be odd, to keep the length of the text")
        exact = self.position_buckets // 2
        if self.position_buckets > 0 and (self.position_buckets % 2 or not 0 < exact < self.furthest - 1):
            problems.append(
                f"'position_buckets' {self.position_buckets} must be even, and half of it below the largest distance "
                f"{self.furthest - 1}"
            )
        if problems:
            raise ConfigError(f"config.json of model_type 'deberta-v2' cannot be honoured: {'; '.join(problems)}")

    @property
    def head_size(self) -> int:
        return self.attention_head_size or self.hidden_size // self.num_attention_heads

    @property
    def projected(self) -> bool:
        """Whether the embeddings have another size than the layers."""
        return self.words_size != self.hidden_size

    @property
    def furthest(self) -> int:
        """Relative positions are below this."""
        return self.max_relative_positions if self.max_relative_positions >= 1 else self.max_position_embeddings

    @property
    def span(self) -> int:
        """Relative positions are told apart from -span to span."""
        return self.position_buckets if self.position_buckets > 0 else self.furthest

    @property
    def terms(self) -> list[str]:
        return self.pos_att_type or []

    @property
    def scale(self) -> float:
        """Of each of the terms, content to content included; upstream counts them even where none are computed."""
        return float((self.head_size * (1 + len(set(self.terms)))) ** -0.5)

    @property
    def relative(self) -> bool:
        """Whether scores have terms of position."""
        return self.relative_attention and bool(self.terms)


def _positions(spec: Spec) -> SharedPositions:
    if spec.position_buckets > 0:
        bins = RelativeIndex(2 * spec.furthest, lambda distance: signed_log_bins(distance, spec.span, spec.furthest))
    else:
        bins = RelativeIndex(spec.span, lambda distance: distance)
    return SharedPositions(bins, spec.span, spec.num_attention_heads)


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
        "attention": DisentangledAttention(
            spec.hidden_size,
            heads=spec.num_attention_heads,
            scale=spec.scale,
            span=spec.span,
            key=spec.relative and "c2p" in spec.terms,
            query=spec.relative and "p2c" in spec.terms,
        ),
        "attention_norm": norm(spec),
        "mlp": MLP(spec.hidden_size, spec.intermediate_size, spec.hidden_act),
        "mlp_norm": norm(spec),
    }
    return _ConvolvedLayer(spec, **parts) if index == 0 and spec.conv_kernel_size > 0 else PostNormLayer(**parts)


def _model(spec: Spec) -> Encoder:
    positions = LearnedPositions(spec.max_position_embeddings, spec.words_size) if spec.position_biased_input else None
    return Encoder(
        embeddings=TextEmbeddings(
            spec.vocab_size,
            spec.words_size,
            positions=positions,
            token_types=spec.type_vocab_size,
            norm=None if spec.projected else norm(spec),
        ),
        projection=_ProjectedNorm(spec) if spec.projected else None,
        layers=[_layer(spec, index) for index in range(spec.num_hidden_layers)],
        bias=_positions(spec) if spec.relative else None,
    )


def _transform(spec: Spec) -> heads.LMTransform:
    size = spec.words_size if spec.legacy else spec.hidden_size
    return heads.LMTransform(spec.hidden_size, size, spec.hidden_act, norm(spec, size))


def _text(spec: Spec, labels: int) -> tuple[nn.Module, nn.Module]:
    return heads.TanhPooler(spec.hidden_size, act=spec.pooler_hidden_act), nn.Linear(spec.hidden_size, labels)


@dataclass(frozen=True)
class _PositionTables(Rule):
    """Project the table of relative positions with each layer's weights, for each term, and scale it.

    The rows stand for relative positions -span to span. Both ends are clamped to the 2 * span rows of the checkpoint
    as upstream clamps them, where a key looks at a query with the sign turned.
    """

    spec: Spec

    def apply(self, table: dict[str, Lazy]) -> dict[str, Lazy]:
        spec, result = self.spec, dict(table)
        shared = ("relative.weight", "relative_norm.weight", "relative_norm.bias")[: 3 if spec.norm_relative else 1]
        for layer in range(spec.num_hidden_layers):
            attention = f"model.layers.{layer}.self_attn"
            for term, kind, sign in (("c2p", "key", 1), ("p2c", "query", -1)):
                own = f"{attention}.{kind[0]}_proj" if spec.share_att_key else f"{attention}.{kind}_table"
                needed = (f"{own}.weight", f"{own}.bias", *shared)
                if term in spec.terms and all(name in table for name in needed):
                    parts = [table[name] for name in needed]
                    result[f"{attention}.{kind}_positions"] = self._project(parts, sign)
                    if not spec.share_att_key:
                        del result[needed[0]], result[needed[1]]
        # What was not found is listed by the strict match, under the names of the tables that need it.
        if any(key.endswith("_positions") for key in result):
            for name in shared:
                result.pop(name, None)
        return result

    def _project(self, parts: list[Lazy], sign: int) -> Lazy:
        spec = self.spec
        count = 2 * spec.span

        def load() -> Tensor:
            stored = [part.load() for part in parts]
            weight, bias, rows, *affine = (value.double() for value in stored)
            if affine:
                rows = F.layer_norm(rows, rows.shape[-1:], affine[0], affine[1], spec.layer_norm_eps)
            index = (sign * torch.arange(-spec.span, spec.span + 1) + spec.span).clamp(0, count - 1)
            made = (F.linear(rows, weight, bias) * spec.scale)[index]
            return made.to(at_least_float32(stored[0]).dtype)

        shape = (count + 1, spec.hidden_size)
        keys = tuple(key for part in parts for key in part.keys)
        # A table of another length is a mismatch of the config with the weights: let the strict match say so.
        return Lazy(keys, shape if parts[2].shape == (count, spec.hidden_size) else parts[2].shape, load)


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
        rules.append(_PositionTables(spec))
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
