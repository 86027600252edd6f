"""SuperGlue: keypoints of two pictures look at their own and at each other's, and what is alike is shared out so that
each has one match or none, as goods are carried at the least cost. https://arxiv.org/abs/1911.11763"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.convolution import COUNTERS
from precast.export.components import Composite
from precast.export.families import Family, superpoint
from precast.export.head_sets.keypoints import NEVER, Detector, Matcher, PairAttention, swapped
from precast.export.spec import Spec as Base
from precast.export.spec import hf
from precast.export.weights import Compute, Flatten, Rename, Rule, Split, Within
from precast.runtime.errors import ConfigError
from precast.runtime.ports import Port

__all__ = ["FAMILY", "Spec"]

_SELF, _CROSS = "self", "cross"
_EPSILON = 1e-5


def _kinds(value: Any) -> tuple[str, ...]:
    if not all(one in (_SELF, _CROSS) for one in value):
        raise ValueError(f"each is {_SELF!r} or {_CROSS!r}")
    return tuple(value)


@dataclass(frozen=True, kw_only=True)
class Spec(Base):
    """Defaults are upstream's."""

    detector: superpoint.Spec = hf("keypoint_detector_config", default={}, spec=superpoint.Spec, inert=superpoint.INERT)
    hidden_size: int = hf(default=256)
    keypoint_encoder_sizes: tuple[int, ...] = hf(default=(32, 64, 128, 256), read=tuple)
    gnn_layers_types: tuple[str, ...] = hf(default=(_SELF, _CROSS) * 9, read=_kinds)
    num_attention_heads: int = hf(default=4)
    sinkhorn_iterations: int = hf(default=100)
    matching_threshold: float = hf(default=0.0)

    def __post_init__(self) -> None:
        width = self.detector.descriptor_decoder_dim
        if width != self.hidden_size:
            raise ConfigError(
                "'hidden_size' and 'descriptor_decoder_dim' of keypoint_detector_config must be one number; received "
                f"{self.hidden_size} and {width}"
            )
        if not 0 <= self.sinkhorn_iterations <= 1000:
            raise ConfigError(f"'sinkhorn_iterations' is 0 to 1000; received {self.sinkhorn_iterations}")


class _MLP(nn.Module):
    """Linear layers with ReLU between them, [..., C] -> [..., D]; the norms of upstream's are in their weights."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in itertools.pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        for number, layer in enumerate(self.layers):
            x = layer(F.relu(x) if number else x)
        return x


class _Layer(nn.Module):
    """States [2 * B, K, H] of pairs -> the same, each having looked at its own picture, or at the other."""

    def __init__(self, spec: Spec, kind: str) -> None:
        super().__init__()
        size, self.kind = spec.hidden_size, kind
        self.attention, self.mlp = PairAttention(size, spec.num_attention_heads), _MLP(2 * size, 2 * size, size)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        source, visible = (x, seen) if self.kind == _SELF else (swapped(x), swapped(seen))
        return x + self.mlp(torch.cat((x, self.attention(x, source, visible)), dim=-1))


class _Matcher(Matcher):
    """Which reads the keypoints' scores [B, 2, K], too."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        size = self.width = spec.hidden_size
        self.spec = spec
        self.places = _MLP(3, *spec.keypoint_encoder_sizes, size)
        self.layers = nn.ModuleList(_Layer(spec, kind) for kind in spec.gnn_layers_types)
        self.projection = nn.Linear(size, size)
        self.unmatched = nn.Parameter(torch.empty(()))

    def ports(self) -> tuple[Port, ...]:
        return (*super().ports(), Port("scores", "float32", ("batch", 2, "keypoints"), "features"))

    def processing(self) -> dict[str, Any]:
        return {"matching": {"above": float(self.spec.matching_threshold), "hides": True}}

    def forward(
        self, descriptor_map: Tensor, image_size: Tensor, keypoints: Tensor, mask: Tensor, scores: Tensor
    ) -> dict[str, Tensor]:
        batch, _, count, _ = keypoints.shape
        x, around = self.read(descriptor_map, image_size, keypoints, 0.7)
        seen = mask.view(2 * batch, count)
        x = x + self.places(torch.cat((around, scores.view(2 * batch, count, 1)), dim=-1))
        for layer in self.layers:
            x = layer(x, seen)
        pairs = self.projection(x).view(batch, 2, count, x.shape[2])
        alike = pairs[:, 0] @ pairs[:, 1].transpose(1, 2) * self.spec.hidden_size**-0.5
        both = (mask[:, 0, :, None] * mask[:, 1, None]) != 0
        shared = self._shared(alike.masked_fill(~both, -1e30))
        return {"assignment": shared.clamp_min(NEVER).masked_fill(~both, NEVER)}

    def _shared(self, alike: Tensor) -> Tensor:
        """What is alike [B, K, K] -> how much of each goes to each of the others, in logarithms, so that what leaves a
        row is 1, and what comes into a column; what is like nothing goes to one row and column more. Sinkhorn's
        iterations: https://arxiv.org/abs/1306.0895"""
        row = torch.ones_like(alike[:1, 0])
        count, none = row.sum(), self.unmatched * torch.ones_like(alike[:, :, :1])
        costs = torch.cat(
            (torch.cat((alike, none), dim=2), torch.cat((none, none[:, :1]), dim=1).transpose(1, 2)), dim=1
        )
        small = -torch.log(count + count)
        wanted = torch.cat((row * small, (torch.log(count) + small).view(1, 1)), dim=1)  # [1, K + 1]
        rows, columns = torch.zeros_like(costs[:, :, 0]), torch.zeros_like(costs[:, 0])
        for _ in range(self.spec.sinkhorn_iterations):
            rows = wanted - torch.logsumexp(costs + columns[:, None], dim=2)
            columns = wanted - torch.logsumexp(costs + rows[:, :, None], dim=1)
        return (costs + rows[:, :, None] + columns[:, None] - small)[:, :-1, :-1]


def _matching(spec: Spec, absent: frozenset[str]) -> nn.Module:
    own = spec.detector
    detector = Detector(superpoint.body(own), own.descriptor_decoder_dim, own.said, pairs=True)
    return Composite({"detector": detector, "matcher": _Matcher(spec)})


def _normed(name: str, new: str, size: int, out: int) -> tuple[Rule, ...]:
    """A linear layer and the batch norm behind it as one linear layer."""

    def weights(weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        by = scale / torch.sqrt(variance + _EPSILON)
        return torch.cat((weight * by[:, None], ((bias - mean) * by + shift)[:, None]), dim=1)

    parts = ("linear.weight", "linear.bias", *(f"batch_norm.{one}" for one in _NORM))
    return (
        Compute(tuple(f"{name}.{part}" for part in parts), f"{new}.both", (out, size + 1), weights),
        Split(f"{new}.both", (f"{new}.weight", f"{new}.bias"), axis=1, shares=(size, 1)),
        Flatten(f"{new}.bias"),
    )


_NORM = ("weight", "bias", "running_mean", "running_var")


def _weights(spec: Spec) -> tuple[Rule, ...]:
    sizes, wide = (3, *spec.keypoint_encoder_sizes), 2 * spec.hidden_size
    last = len(sizes) - 1
    return (
        COUNTERS,
        Within("keypoint_detector.", superpoint.names(), to="detector.body."),
        *(
            rule
            for number, pair in enumerate(itertools.pairwise(sizes))
            for rule in _normed(f"keypoint_encoder.encoder.{number}", f"matcher.places.layers.{number}", *pair)
        ),
        Rename(f"keypoint_encoder.encoder.{last}.*", f"matcher.places.layers.{last}.*"),
        *_normed("gnn.layers.{}.mlp.0", "matcher.layers.{}.mlp.layers.0", wide, wide),
        Rename("gnn.layers.{}.mlp.1.*", "matcher.layers.{}.mlp.layers.1.*"),
        *(
            Rename(f"gnn.layers.{{}}.attention.self.{name}.*", f"matcher.layers.{{}}.attention.{name[0]}_proj.*")
            for name in ("query", "key", "value")
        ),
        Rename("gnn.layers.{}.attention.output.dense.*", "matcher.layers.{}.attention.o_proj.*"),
        Rename("final_projection.final_proj.*", "matcher.projection.*"),
        Rename("bin_score", "matcher.unmatched"),
    )


FAMILY = Family(
    spec=Spec,
    heads={heads.KEYPOINT_MATCHING: _matching},
    weights=_weights,
    inert=frozenset({"tie_word_embeddings"}),
    tiny={"keypoint_detector_config": {"model_type": "superpoint", **superpoint.FAMILY.tiny}, "hidden_size": 16}
    | {"keypoint_encoder_sizes": [5, 8], "gnn_layers_types": [_SELF, _CROSS], "num_attention_heads": 2}
    | {"sinkhorn_iterations": 2},
    variations=(
        {"keypoint_encoder_sizes": [], "gnn_layers_types": [_CROSS, _CROSS], "num_attention_heads": 4}
        | {"sinkhorn_iterations": 1, "matching_threshold": 0.002},
    ),
)
