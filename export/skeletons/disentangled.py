"""Encoders whose attention has scores of their own for content and relative position: what config.json says of these,
and the tables that are computed of their weights. https://arxiv.org/abs/2006.03654"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from precast.export.blocks.disentangled import DisentangledAttention, SharedPositions
from precast.export.blocks.relative import RelativeIndex, signed_log_bins
from precast.export.spec import Spec, hf
from precast.export.weight_table import Lazy, at_least_float32
from precast.export.weights import Rule

__all__ = ["DisentangledSpec", "PositionTables", "attention", "norms", "positions", "score_terms"]


def score_terms(value: Any) -> tuple[str, ...] | None:
    """Terms of the score: "c2p" (content to position), "p2c"; a list or "c2p|p2c"."""
    names = value.lower().split("|") if isinstance(value, str) else value
    names = None if names is None else tuple(name.strip() for name in names)
    if set(names or ()) - {"c2p", "p2c"}:
        raise ValueError("only 'c2p' and 'p2c' are honoured here")
    return names


def norms(value: Any) -> bool:
    """Whether the table of positions has a norm."""
    names = {name.strip() for name in value.lower().split("|")}
    if names - {"none", "layer_norm"}:
        raise ValueError("only 'none' and 'layer_norm' are honoured here")
    return "layer_norm" in names


@dataclass(frozen=True, kw_only=True)
class DisentangledSpec(Spec):
    """Sizes without which there are no relative positions, and what they are like."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    layer_norm_eps: float
    max_position_embeddings: int = hf(default=512)
    attention_head_size: int | None = hf(default=None)
    relative_attention: bool = hf(default=False)
    max_relative_positions: int = hf(default=-1)
    position_buckets: int = hf(default=-1)
    pos_att_type: tuple[str, ...] | None = hf(default=None, read=score_terms)
    share_att_key: bool = hf(default=False)
    norm_relative: bool = hf("norm_rel_ebd", default=False, read=norms)

    @property
    def head_size(self) -> int:
        return self.attention_head_size or self.hidden_size // self.num_attention_heads

    @property
    def furthest(self) -> int:
        """Relative positions are below this."""
        return self.max_relative_positions if self.max_relative_positions >= 1 else self.max_position_embeddings

    @property
    def span(self) -> int:
        """Relative positions are told apart from -span to span."""
        return self.position_buckets if self.position_buckets > 0 else self.furthest

    @property
    def terms(self) -> tuple[str, ...]:
        return self.pos_att_type or ()

    @property
    def scale(self) -> float:
        """Of each of the terms, content to content included; upstream counts them even where none are computed."""
        return float((self.head_size * (1 + len(set(self.terms)))) ** -0.5)

    @property
    def relative(self) -> bool:
        """Whether scores have terms of position."""
        return self.relative_attention and bool(self.terms)

    def problems(self) -> list[str]:
        """What of it cannot be honoured."""
        problems: list[str] = []
        if self.hidden_size != self.head_size * self.num_attention_heads:
            problems.append(
                f"'hidden_size' {self.hidden_size} must be 'num_attention_heads' {self.num_attention_heads} times "
                f"the head size {self.head_size}"
            )
        exact = self.position_buckets // 2
        if self.position_buckets > 0 and (self.position_buckets % 2 or not 0 < exact < self.furthest - 1):
            problems.append(
                f"'position_buckets' {self.position_buckets} must be even, and half of it below the largest distance "
                f"{self.furthest - 1}"
            )
        return problems


def positions(spec: DisentangledSpec) -> SharedPositions:
    """What all layers share of the positions."""
    if spec.position_buckets > 0:
        bins = RelativeIndex(2 * spec.furthest, lambda distance: signed_log_bins(distance, spec.span, spec.furthest))
    else:
        bins = RelativeIndex(spec.span, lambda distance: distance)
    return SharedPositions(bins, spec.span, spec.num_attention_heads)


def attention(spec: DisentangledSpec) -> DisentangledAttention:
    """Of one layer."""
    return DisentangledAttention(
        spec.hidden_size,
        heads=spec.num_attention_heads,
        scale=spec.scale,
        span=spec.span,
        key=spec.relative and "c2p" in spec.terms,
        query=spec.relative and "p2c" in spec.terms,
    )


@dataclass(frozen=True)
class PositionTables(Rule):
    """Project the table of relative positions with each layer's weights, for each term, and scale it.

    The rows stand for relative positions -span to span. Both ends are clamped to the 2 * span rows of the checkpoint
    as upstream clamps them, where a key looks at a query with the sign turned.

    Args:
        layers: what their names begin with.
    """

    spec: DisentangledSpec
    layers: str = "model.layers"

    def apply(self, table: dict[str, Lazy]) -> dict[str, Lazy]:
        spec, result = self.spec, dict(table)
        shared = ("relative.weight", "relative_norm.weight", "relative_norm.bias")[: 3 if spec.norm_relative else 1]
        for layer in range(spec.num_hidden_layers):
            attention = f"{self.layers}.{layer}.self_attn"
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
