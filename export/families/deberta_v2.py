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
from precast.export.blocks.embeddings import LearnedPositions, TextEmbeddings
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.relative import RelativeIndex, signed_log_bins
from precast.export.families import Family, TextSpec
from precast.export.operators import attention
from precast.export.skeletons.encoder import Encoder, PostNormLayer
from precast.export.spec import hf
from precast.export.weights import Ignore, Lazy, Rename, Rule, Tie, at_least_float32
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY"]

# What the layers share of the positions: the rows [R] of their tables in use, and for each pair of positions which of
# those rows, [B, N, S, S].
Relative = tuple[Tensor, Tensor]


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
class Spec(TextSpec):
    """Defaults are upstream's config class's, which are no published model's."""

    vocab_size: int = hf(default=128100)
    hidden_size: int = hf(default=1536)
    embedding_size: int | None = hf(default=None)
    num_hidden_layers: int = hf(default=24)
    num_attention_heads: int = hf(default=24)
    attention_head_size: int | None = hf(default=None)
    intermediate_size: int = hf(default=6144)
    hidden_act: Activation = hf(default=activation("gelu"), read=activation)
    max_position_embeddings: int = hf(default=512)
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
    def words_size(self) -> int:
        return self.embedding_size or self.hidden_size

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


class _SharedPositions(nn.Module):
    """`Relative` for ids [B, S]; computed once, for all layers and both terms."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.span, self.heads = spec.span, spec.num_attention_heads
        if spec.position_buckets > 0:
            self.index = RelativeIndex(
                2 * spec.furthest, lambda distance: signed_log_bins(distance, spec.span, spec.furthest)
            )
        else:
            self.index = RelativeIndex(spec.span, lambda distance: distance)

    def forward(self, input_ids: Tensor) -> Relative:
        batch, length = input_ids.shape
        # No bucket is further out than the distance itself: a short text needs few rows.
        reach = torch.sym_min(length, self.span)
        rows = torch.arange(2 * reach + 1, device=input_ids.device) + (self.span - reach)
        index = self.index(length) + reach
        return rows, index.expand(batch, self.heads, length, length)


class _DisentangledAttention(nn.Module):
    """Self-attention whose scores are q.k + q.K[i - j] + k.Q[i - j] for positions i, j; [B, S, H] -> [B, S, H].

    ``key_positions`` (K) and ``query_positions`` (Q), [2 * span + 1, N * D], are projections of the table of relative
    positions; they depend on nothing else and are computed when weights are loaded (`_PositionTables`).
    """

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        size = spec.hidden_size
        self.heads, self.scale = spec.num_attention_heads, spec.scale
        self.q_proj = nn.Linear(size, size)
        self.k_proj = nn.Linear(size, size)
        self.v_proj = nn.Linear(size, size)
        self.o_proj = nn.Linear(size, size)
        shape = (2 * spec.span + 1, size)
        key, query = (spec.relative and term in spec.terms for term in ("c2p", "p2c"))
        self.key_positions = nn.Parameter(torch.empty(shape)) if key else None
        self.query_positions = nn.Parameter(torch.empty(shape)) if query else None

    def _term(self, states: Tensor, table: Tensor, relative: Relative) -> Tensor:
        """Products of states [B, S, H] with the row of ``table`` for every pair, [B, N, S, S]."""
        rows, index = relative
        batch, length, _ = states.shape
        split = states.view(batch, length, self.heads, -1).transpose(1, 2)
        used = F.embedding(rows, table).unflatten(1, (self.heads, -1)).permute(1, 2, 0)
        return torch.matmul(split, used).gather(-1, index)

    def forward(self, x: Tensor, mask: Tensor, relative: Relative | None) -> Tensor:
        query, key, value = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        bias = None
        if relative is not None and self.key_positions is not None:
            bias = self._term(query, self.key_positions, relative)
        if relative is not None and self.query_positions is not None:
            term = self._term(key, self.query_positions, relative).transpose(2, 3)
            bias = term if bias is None else bias + term
        return self.o_proj(attention(query, key, value, mask=mask, bias=bias, heads=self.heads, scale=self.scale))


class _ConvolvedLayer(PostNormLayer):
    """A layer to whose output a convolution of its input is added: x -> norm(layer(x) + act(conv(x)))."""

    def __init__(self, spec: Spec, **parts: Any) -> None:
        super().__init__(**parts)
        size, width = spec.hidden_size, spec.conv_kernel_size
        self.act = spec.conv_act
        self.conv = nn.Conv1d(size, size, width, padding=width // 2, groups=spec.conv_groups)
        self.conv_norm = LayerNorm(size, spec.layer_norm_eps)

    def forward(self, x: Tensor, mask: Tensor, bias: Any = None) -> Tensor:
        real = x * mask[..., None].to(x.dtype)  # what the convolution reaches of the padding is zero
        local = self.act(self.conv(real.transpose(1, 2)).transpose(1, 2))
        return self.conv_norm.add(local, super().forward(x, mask, bias))[0]


class _ProjectedNorm(nn.Module):
    """norm(proj(x)), [B, S, E] -> [B, S, H]."""

    def __init__(self, size: int, out: int, eps: float) -> None:
        super().__init__()
        self.proj = nn.Linear(size, out, bias=False)
        self.norm = LayerNorm(out, eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x))


def _layer(spec: Spec, index: int) -> PostNormLayer:
    parts: dict[str, Any] = {
        "attention": _DisentangledAttention(spec),
        "attention_norm": LayerNorm(spec.hidden_size, spec.layer_norm_eps),
        "mlp": MLP(spec.hidden_size, spec.intermediate_size, spec.hidden_act),
        "mlp_norm": LayerNorm(spec.hidden_size, spec.layer_norm_eps),
    }
    return _ConvolvedLayer(spec, **parts) if index == 0 and spec.conv_kernel_size > 0 else PostNormLayer(**parts)


def _model(spec: Spec) -> Encoder:
    projected = spec.words_size != spec.hidden_size
    positions = LearnedPositions(spec.max_position_embeddings, spec.words_size) if spec.position_biased_input else None
    return Encoder(
        embeddings=TextEmbeddings(
            spec.vocab_size,
            spec.words_size,
            positions=positions,
            token_types=spec.type_vocab_size,
            norm=None if projected else LayerNorm(spec.hidden_size, spec.layer_norm_eps),
        ),
        projection=_ProjectedNorm(spec.words_size, spec.hidden_size, spec.layer_norm_eps) if projected else None,
        layers=[_layer(spec, index) for index in range(spec.num_hidden_layers)],
        bias=_SharedPositions(spec) if spec.relative else None,
    )


def _base(spec: Spec, absent: frozenset[str]) -> nn.Module:
    return heads.FeatureExtraction(_model(spec))


def _masked_lm(spec: Spec, absent: frozenset[str]) -> nn.Module:
    size = spec.words_size if spec.legacy else spec.hidden_size
    transform = heads.LMTransform(spec.hidden_size, size, spec.hidden_act, LayerNorm(size, spec.layer_norm_eps))
    return heads.MaskedLM(_model(spec), transform, nn.Linear(size, spec.vocab_size))


def _pooler(spec: Spec) -> heads.TanhPooler:
    return heads.TanhPooler(spec.hidden_size, act=spec.pooler_hidden_act)


def _sequence(spec: Spec, absent: frozenset[str]) -> nn.Module:
    return heads.SequenceClassification(_model(spec), _pooler(spec), nn.Linear(spec.hidden_size, spec.labels))


def _token(spec: Spec, absent: frozenset[str]) -> nn.Module:
    return heads.TokenClassification(_model(spec), nn.Linear(spec.hidden_size, spec.labels))


def _question(spec: Spec, absent: frozenset[str]) -> nn.Module:
    return heads.QuestionAnswering(_model(spec), nn.Linear(spec.hidden_size, 2))


def _choice(spec: Spec, absent: frozenset[str]) -> nn.Module:
    return heads.MultipleChoice(_model(spec), _pooler(spec), nn.Linear(spec.hidden_size, 1))


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
                names = (f"{own}.weight", f"{own}.bias", *shared)
                if term in spec.terms and all(name in table for name in names):
                    parts = [table[name] for name in names]
                    result[f"{attention}.{kind}_positions"] = self._project(parts, sign)
                    if not spec.share_att_key:
                        del result[names[0]], result[names[1]]
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
            weight, bias, rows, *norm = (value.double() for value in stored)
            if norm:
                rows = F.layer_norm(rows, rows.shape[-1:], norm[0], norm[1], spec.layer_norm_eps)
            index = (sign * torch.arange(-spec.span, spec.span + 1) + spec.span).clamp(0, count - 1)
            made = (F.linear(rows, weight, bias) * spec.scale)[index]
            return made.to(at_least_float32(stored[0]).dtype)

        shape = (count + 1, spec.hidden_size)
        keys = tuple(key for part in parts for key in part.keys)
        # A table of another length is a mismatch of the config with the weights: let the strict match say so.
        return Lazy(keys, shape if parts[2].shape == (count, spec.hidden_size) else parts[2].shape, load)


def _weights(spec: Spec) -> tuple[Rule, ...]:
    layer, ours = "encoder.layer.{}", "model.layers.{}"
    norm = "projection" if spec.words_size != spec.hidden_size else "embeddings"
    rules: list[Rule] = [
        Rename("deberta.*", "*"),
        Ignore("embeddings.position_ids"),
        Ignore("mask_predictions.*"),  # the discriminator of v3's pre-training
        Rename("embeddings.word_embeddings.*", "model.embeddings.words.*"),
        Rename("embeddings.token_type_embeddings.*", "model.embeddings.token_types.*"),
        Rename("embeddings.embed_proj.*", "model.projection.proj.*"),
        Rename("embeddings.LayerNorm.*", f"model.{norm}.norm.*"),
        Rename(f"{layer}.attention.self.query_proj.*", f"{ours}.self_attn.q_proj.*"),
        Rename(f"{layer}.attention.self.key_proj.*", f"{ours}.self_attn.k_proj.*"),
        Rename(f"{layer}.attention.self.value_proj.*", f"{ours}.self_attn.v_proj.*"),
        Rename(f"{layer}.attention.self.pos_key_proj.*", f"{ours}.self_attn.key_table.*"),
        Rename(f"{layer}.attention.self.pos_query_proj.*", f"{ours}.self_attn.query_table.*"),
        Rename(f"{layer}.attention.output.dense.*", f"{ours}.self_attn.o_proj.*"),
        Rename(f"{layer}.attention.output.LayerNorm.*", f"{ours}.attention_norm.*"),
        Rename(f"{layer}.intermediate.dense.*", f"{ours}.mlp.up_proj.*"),
        Rename(f"{layer}.output.dense.*", f"{ours}.mlp.down_proj.*"),
        Rename(f"{layer}.output.LayerNorm.*", f"{ours}.mlp_norm.*"),
        Rename("encoder.conv.conv.*", "model.layers.0.conv.*"),
        Rename("encoder.conv.LayerNorm.*", "model.layers.0.conv_norm.*"),
        Rename("encoder.rel_embeddings.*", "relative.*"),
        Rename("encoder.LayerNorm.*", "relative_norm.*"),
    ]
    if spec.position_biased_input:
        rules.append(Rename("embeddings.position_embeddings.*", "model.embeddings.positions.table.*"))
    else:
        rules.append(Ignore("embeddings.position_embeddings.*"))
    if spec.relative:
        rules.append(_PositionTables(spec))
    else:  # upstream keeps them, unused
        rules += [Ignore("relative.*"), Ignore("relative_norm.*")]
    if spec.legacy:
        rules += [
            Ignore("lm_predictions.*"),
            Rename("cls.predictions.transform.dense.*", "transform.dense.*"),
            Rename("cls.predictions.transform.LayerNorm.*", "transform.norm.*"),
            Rename("cls.predictions.decoder.*", "decoder.*"),
            Tie("decoder.bias", "cls.predictions.bias"),
            Ignore("cls.predictions.bias"),
        ]
    else:
        rules += [
            Ignore("cls.predictions.*"),
            Rename("lm_predictions.lm_head.dense.*", "transform.dense.*"),
            Rename("lm_predictions.lm_head.LayerNorm.*", "transform.norm.*"),
            Rename("lm_predictions.lm_head.bias", "decoder.bias"),
        ]
    if spec.tie_word_embeddings or not spec.legacy:  # the newer head has no other decoder
        rules.append(Tie("decoder.weight", "model.embeddings.words.weight"))
    return tuple(rules)


FAMILY = Family(
    model_type="deberta-v2",
    spec=Spec,
    heads={
        heads.BASE: _base,
        heads.MASKED_LM: _masked_lm,
        heads.SEQUENCE_CLASSIFICATION: _sequence,
        heads.TOKEN_CLASSIFICATION: _token,
        heads.QUESTION_ANSWERING: _question,
        heads.MULTIPLE_CHOICE: _choice,
    },
    weights=_weights,
    inputs=lambda spec: ("input_ids", "attention_mask", "token_type_ids"),
    limits=lambda spec: spec.max_position_embeddings if spec.position_biased_input else None,
    token_types=lambda spec: spec.type_vocab_size,
    padded_rows_defined=False,
    inert=frozenset({"pooler_dropout", "cls_dropout"}),
    # The switches of v3; its smaller buckets put short texts past their edge.
    tiny={
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 160,
        "vocab_size": 99,
        "relative_attention": True,
        "position_buckets": 16,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": "p2c|c2p",
        "position_biased_input": False,
    },
    variations=(
        # Odd sizes, v2-xlarge's convolution, projections of their own, absolute positions, no buckets, a smaller table.
        {
            "hidden_size": 21,
            "num_attention_heads": 3,
            "intermediate_size": 37,
            "embedding_size": 13,
            "share_att_key": False,
            "position_buckets": -1,
            "max_relative_positions": 24,
            "norm_rel_ebd": "none",
            "position_biased_input": True,
            "type_vocab_size": 3,
            "conv_kernel_size": 3,
            "conv_act": "gelu",
            "hidden_act": "gelu_new",
            "pooler_hidden_act": "tanh",
            "num_labels": 5,
            "vocab_size": 131,
            "tie_word_embeddings": False,
            "layer_norm_eps": 1e-5,
        },
        # One term alone, its own projection, the newer head, a grouped convolution of five, one token type.
        {
            "pos_att_type": ["c2p"],
            "share_att_key": False,
            "legacy": False,
            "conv_kernel_size": 5,
            "conv_groups": 4,
            "position_biased_input": True,
            "type_vocab_size": 1,
            "num_labels": 1,
            "max_relative_positions": 40,
        },
        {"pos_att_type": ["p2c"], "hidden_act": "relu", "position_biased_input": True},
        # No relative attention at all; its terms still count in the scale.
        {"relative_attention": False, "position_biased_input": True},
    ),
)
