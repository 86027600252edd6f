"""LightGlue: a transformer over the keypoints of two pictures, which look at their own and at each other's in turns,
until a pair is sure of its matches. https://arxiv.org/abs/2306.13643

Upstream takes pairs that are sure, and keypoints without a match, out of the batch. Here all layers are computed, what
is out is hidden from the others, and the answer of a pair is that of the layer it was sure at: the same numbers, of one
graph, whose shapes no choice changes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.attention import head_size
from precast.export.blocks.norms import LayerNorm
from precast.export.components import Composite
from precast.export.families import Family, superpoint
from precast.export.head_sets.keypoints import NEVER, Detector, Matcher, PairAttention, log_softmax, swapped
from precast.export.spec import Spec as Base
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Within
from precast.runtime.errors import ConfigError
from precast.runtime.ports import Out

__all__ = ["FAMILY", "Spec"]


@dataclass(frozen=True, kw_only=True)
class Spec(Base):
    """Defaults are upstream's."""

    detector: superpoint.Spec = hf("keypoint_detector_config", default={}, spec=superpoint.Spec, inert=superpoint.INERT)
    descriptor_dim: int = hf(default=256)
    num_hidden_layers: int = hf(default=9)
    num_attention_heads: int = hf(default=4)
    num_key_value_heads: int | None = hf(default=None)
    head_dim: int | None = hf(default=None)
    depth_confidence: float = hf(default=0.95)
    width_confidence: float = hf(default=0.99)
    filter_threshold: float = hf(default=0.1)
    hidden_act: Activation = hf(default=activation("gelu"), read=activation)
    attention_bias: bool = hf(default=True)

    def __post_init__(self) -> None:
        if (self.depth_confidence > 0) != (self.width_confidence > 0):
            raise ConfigError(
                "'depth_confidence' and 'width_confidence' are both above 0, or neither is: upstream computes nothing "
                f"with one alone; received {self.depth_confidence} and {self.width_confidence}"
            )
        size = head_size(self.descriptor_dim, self.num_attention_heads)
        if self.head_dim not in (None, size):
            raise ConfigError(f"'head_dim' {self.head_dim} must be 'descriptor_dim' / 'num_attention_heads', {size}")
        if size % 2:
            raise ConfigError(
                "channels of a head are turned in pairs: 'num_attention_heads' must divide 'descriptor_dim' into even "
                f"parts; received {self.num_attention_heads} and {self.descriptor_dim}"
            )
        if self.num_hidden_layers < 1 or self.num_attention_heads % self.kv_heads:
            raise ConfigError(
                "'num_hidden_layers' must be 1 or more, and 'num_key_value_heads' divide 'num_attention_heads'; "
                f"received {self.num_hidden_layers}, {self.kv_heads} and {self.num_attention_heads}"
            )

    @property
    def kv_heads(self) -> int:
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def adaptive(self) -> bool:
        """Whether pairs stop early, and keypoints without a match are left out."""
        return self.depth_confidence > 0


class _MLP(nn.Module):
    """down(act(norm(up([x, y])))), [N, K, H] each -> [N, K, H]."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        size, self.act = spec.descriptor_dim, spec.hidden_act
        self.up_proj, self.down_proj = nn.Linear(2 * size, 2 * size), nn.Linear(2 * size, size)
        self.norm = LayerNorm(2 * size, 1e-5)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.down_proj(self.act(self.norm(self.up_proj(torch.cat((x, y), dim=-1)))))


class _Layer(nn.Module):
    """States [2 * B, K, H] of pairs -> the same, each having looked at its own picture and at the other."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.self_attention, self.cross_attention = (
            PairAttention(
                spec.descriptor_dim, spec.num_attention_heads, kv_heads=spec.kv_heads, bias=spec.attention_bias
            )
            for _ in range(2)
        )
        self.self_mlp, self.cross_mlp = _MLP(spec), _MLP(spec)

    def forward(self, x: Tensor, seen: Tensor, turn: tuple[Tensor, ...]) -> Tensor:
        x = x + self.self_mlp(x, self.self_attention(x, x, seen, turn))
        return x + self.cross_mlp(x, self.cross_attention(x, swapped(x), swapped(seen)))


class _Matcher(Matcher):
    """And of pairs that stop early {"prune": [B, 2, K]}, how many layers each keypoint was looked at in, from 1 on."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        size, layers = spec.descriptor_dim, spec.num_hidden_layers
        self.spec, self.width = spec, spec.detector.descriptor_decoder_dim
        self.input_projection = nn.Linear(self.width, size) if self.width != size else None
        self.projector = nn.Linear(2, size // spec.num_attention_heads // 2, bias=False)
        self.layers = nn.ModuleList(_Layer(spec) for _ in range(layers))
        used = range(layers) if spec.adaptive else (layers - 1,)
        self.projections = nn.ModuleDict({str(number): nn.Linear(size, size) for number in used})
        self.matchable = nn.ModuleDict({str(number): nn.Linear(size, 1) for number in used})
        self.confidence = nn.ModuleDict({str(number): nn.Linear(size, 1) for number in used if number < layers - 1})

    def outs(self) -> tuple[Out, ...]:
        prune = Out("prune", ("batch", 2, "keypoints"), "number")
        return (*super().outs(), *((prune,) if self.spec.adaptive else ()))

    def processing(self) -> dict[str, Any]:
        layers = {} if self.spec.adaptive else {"layers": self.spec.num_hidden_layers}
        return {"matching": {"above": float(self.spec.filter_threshold), **layers}}

    def forward(self, descriptor_map: Tensor, image_size: Tensor, keypoints: Tensor, mask: Tensor) -> dict[str, Tensor]:
        batch, _, count, _ = keypoints.shape
        x, around = self.read(descriptor_map, image_size, keypoints, 0.5)
        x = x if self.input_projection is None else self.input_projection(x)
        angles = self.projector(around).view(2 * batch * count, -1)
        turn = torch.arange(2 * batch * count).view(2 * batch, count), torch.cos(angles), torch.sin(angles)
        seen, prune, running = mask.view(2 * batch, count), torch.ones_like(mask), None
        answer: tuple[Tensor, ...] = ()
        for number, layer in enumerate(self.layers):
            x, name = layer(x, seen, turn), str(number)
            if name not in self.projections:
                continue
            now = tuple(
                each.view(batch, 2, count, -1) for each in (self.projections[name](x), self.matchable[name](x), seen)
            )
            if running is None:
                answer, running = now, image_size[:, 0] > 0
            else:
                chosen = running[:, None, None, None]
                answer = tuple(torch.where(chosen, new, old) for new, old in zip(now, answer, strict=True))
            if name in self.confidence:
                sure, limit = torch.sigmoid(self.confidence[name](x))[..., 0], self._limit(number)
                unsure = torch.logical_and(sure < limit, seen != 0).view(batch, 2 * count).sum(dim=1)
                share = unsure.to(torch.float32) / mask.sum(dim=(1, 2)).clamp_min(1)
                running = torch.logical_and(running, share.neg() + 1.0 <= self.spec.depth_confidence)
                likely = torch.sigmoid(now[1]).view(2 * batch, count) > 1 - self.spec.width_confidence
                keep = torch.logical_or(likely, sure <= limit)
                seen = seen * keep.to(torch.int64)
                prune = prune + seen.view(batch, 2, count) * running[:, None, None].to(torch.int64)
        made = {"assignment": self._assignment(*answer)}
        return {**made, "prune": prune.to(torch.float32)} if self.spec.adaptive else made

    def _limit(self, layer: int) -> float:
        """Above it a keypoint is sure of its match, or of having none."""
        return min(1.0, 0.8 + 0.1 * math.exp(-4.0 * layer / self.spec.num_hidden_layers))

    def _assignment(self, projected: Tensor, logits: Tensor, seen: Tensor) -> Tensor:
        """How likely each keypoint of the first picture is that of the second, [B, K, K] logarithms."""
        alike = projected[:, 0] @ projected[:, 1].transpose(1, 2) * self.spec.descriptor_dim**-0.5
        both = (seen[:, 0] * seen[:, 1].transpose(1, 2)) != 0
        alike = alike.masked_fill(~both, -1e30)
        there = logits.clamp_max(0) - torch.log(torch.exp(-logits.abs()) + 1.0)  # the logarithm of its sigmoid
        there = there[:, 0] + there[:, 1].transpose(1, 2)
        sure = log_softmax(alike, dim=2) + log_softmax(alike, dim=1) + there
        return sure.clamp_min(NEVER).masked_fill(~both, NEVER)


def _matching(spec: Spec, absent: frozenset[str]) -> nn.Module:
    own = spec.detector
    detector = Detector(superpoint.body(own), own.descriptor_decoder_dim, own.said, pairs=True)
    return Composite({"detector": detector, "matcher": _Matcher(spec)})


def _weights(spec: Spec) -> tuple[Rule, ...]:
    return (
        Within("keypoint_detector.", superpoint.names(), to="detector.body."),
        Rename("positional_encoder.projector.*", "matcher.projector.*"),
        Rename("input_projection.*", "matcher.input_projection.*"),
        Rename("transformer_layers.{}.*_mlp.fc1.*", "matcher.layers.{}.*_mlp.up_proj.*"),
        Rename("transformer_layers.{}.*_mlp.fc2.*", "matcher.layers.{}.*_mlp.down_proj.*"),
        Rename("transformer_layers.{}.*_mlp.layer_norm.*", "matcher.layers.{}.*_mlp.norm.*"),
        Rename("transformer_layers.*", "matcher.layers.*"),
        Rename("match_assignment_layers.{}.final_projection.*", "matcher.projections.{}.*"),
        Rename("match_assignment_layers.{}.matchability.*", "matcher.matchable.{}.*"),
        Rename("token_confidence.{}.token.*", "matcher.confidence.{}.*"),
        *_unused(spec),
    )


def _unused(spec: Spec) -> tuple[Rule, ...]:
    """What only pairs that stop early read."""
    if spec.adaptive:
        return ()
    before = [f"matcher.{part}.{number}.*" for part in _EARLY for number in range(spec.num_hidden_layers - 1)]
    return tuple(Ignore(name) for name in before)


_EARLY = ("projections", "matchable", "confidence")

FAMILY = Family(
    spec=Spec,
    heads={heads.KEYPOINT_MATCHING: _matching},
    weights=_weights,
    inert=frozenset({"hidden_size", "intermediate_size", "tie_word_embeddings"}),  # always those of descriptor_dim
    tiny={"keypoint_detector_config": {"model_type": "superpoint", **superpoint.FAMILY.tiny}, "descriptor_dim": 16}
    | {"num_hidden_layers": 2, "num_attention_heads": 2, "depth_confidence": 0.4, "width_confidence": 0.5},
    variations=(
        {"descriptor_dim": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
        | {"depth_confidence": -1.0, "width_confidence": -1.0, "filter_threshold": 0.01, "hidden_act": "relu"}
        | {"attention_bias": False},
    ),
)
