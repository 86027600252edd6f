"""Swin V2: Swin with cosines for scores, norms behind what they norm, and biases that a small network makes of offsets,
so that windows may have another size than in training. https://arxiv.org/abs/2111.09883"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.relative import TableBias, grid_offsets
from precast.export.blocks.tables import Table
from precast.export.blocks.windows import WindowAttention, Windows
from precast.export.families import swin
from precast.export.spec import hf
from precast.export.weights import Compute, Ignore, Rename, Rule, Within
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY", "HIDDEN", "Cosine", "Layer", "Spec", "attention_names"]

_NORM = 1e-5
_LONGEST = math.log(100)  # of the logarithms of scales
HIDDEN = -200.0  # upstream adds its mask of -100 twice


@dataclass(frozen=True, kw_only=True)
class Spec(swin.Spec):
    use_absolute_embeddings: bool = hf(default=False, only=(False,))  # upstream has one position too many for them
    pretrained_window_sizes: tuple[int, ...] = hf(default=(0, 0, 0, 0), read=tuple)

    def __post_init__(self) -> None:
        super().__post_init__()
        stages, trained = len(self.depths), self.pretrained_window_sizes
        if len(trained) < stages or not all(type(size) is int and size >= 0 and size != 1 for size in trained):
            raise ConfigError(
                f"'pretrained_window_sizes' {trained} must be 0, or 2 and more, for each of {stages} stages"
            )

    def window(self, stage: int) -> tuple[int, bool]:
        """The size of a stage's windows, and whether every other layer shifts them; of whole patches alone."""
        side = (self.image_size // self.patch_size) // 2**stage
        if side < 1:
            raise ConfigError(f"stage {stage + 1} has no patch left of 'image_size' {self.image_size}")
        return min(side, self.window_size), side > self.window_size


class Cosine(nn.Module):
    """Queries and keys [..., N * D] of length 1 in each head, those of queries times the head's scale."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(heads))

    def forward(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        heads = self.scale.shape[0]
        query, key = (x.view(*x.shape[:-1], heads, x.shape[-1] // heads) for x in (query, key))
        query, key = (x / x.norm(dim=-1, keepdim=True).clamp(min=1e-12) for x in (query, key))
        query = query * self.scale[:, None]
        return query.view(*query.shape[:-2], -1), key.view(*key.shape[:-2], -1)


class Layer(nn.Module):
    """x = x + norm(attention(x)); x = x + norm(mlp(x))."""

    def __init__(self, attention: nn.Module, attention_norm: nn.Module, mlp: nn.Module, mlp_norm: nn.Module) -> None:
        super().__init__()
        self.self_attn, self.attention_norm, self.mlp, self.mlp_norm = attention, attention_norm, mlp, mlp_norm

    def forward(self, x: Tensor, update: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        x = x if update is None else x + update
        x = x + self.attention_norm(self.self_attn(x, mask))
        return x, self.mlp_norm(self.mlp(x))


def _layer(spec: Spec, place: swin.Place) -> nn.Module:
    width = place.width
    size, shifts = spec.window(place.stage)
    index = Table((size**2, size**2), lambda: grid_offsets(size, size), torch.int64)
    shift = spec.window_size // 2 if shifts and place.odd else 0
    side = place.side
    attention = WindowAttention(
        width,
        heads=place.heads,
        windows=None if side is None else Windows(side, side, size=size, shift=shift, hidden=HIDDEN),
        relative=TableBias(index, (2 * size - 1) ** 2, place.heads),
        bias=spec.qkv_bias,
        key_bias=False,
        cosine=Cosine(place.heads),
    )
    return Layer(
        attention,
        LayerNorm(width, spec.layer_norm_eps),
        MLP(width, int(spec.mlp_ratio * width), spec.hidden_act),
        LayerNorm(width, spec.layer_norm_eps),
    )


def _window(spec: Spec, stage: int) -> tuple[int, int]:
    size, shifts = spec.window(stage)
    return size, spec.window_size // 2 if shifts else 0


def _merge(side: int | None, width: int) -> nn.Module:
    return swin.Merge(side, width, None, LayerNorm(2 * width, _NORM))


def _offsets(size: int, trained: int) -> Tensor:
    """What the network is given of each offset, [(2 * W - 1)^2, 2]: logarithms of shares of a window as it was in
    training, in float32, as models were trained with them."""
    places = torch.arange(1 - size, size).to(torch.float32)
    whole = trained - 1 if trained else size - 1
    shares = places / whole * 8 if whole else places * 8
    logs = torch.sign(shares) * torch.log2(shares.abs() + 1.0) / math.log2(8)
    return torch.cartesian_prod(logs, logs).to(torch.float64)


def attention_names(size: int, trained: int, heads: int) -> tuple[Rule, ...]:
    """Of a layer whose windows have a size and had another one in training, or 0: what its attention computes of its
    weights alone is computed here."""
    network = tuple(
        f"self_attn.self.continuous_position_bias_mlp.{name}" for name in ("0.weight", "0.bias", "2.weight")
    )

    def biases(first: Tensor, bias: Tensor, second: Tensor) -> Tensor:
        return 16 * torch.sigmoid(torch.relu(_offsets(size, trained) @ first.t() + bias) @ second.t())

    def scales(logarithms: Tensor) -> Tensor:
        return logarithms.clamp(max=_LONGEST).exp().flatten()

    parts = {"query": "q", "key": "k", "value": "v"}
    return (
        *(Rename(f"self_attn.self.{part}.*", f"self_attn.{key}_proj.*") for part, key in parts.items()),
        Compute(("self_attn.self.logit_scale",), "self_attn.cosine.scale", (heads,), scales),
        Compute(network, "self_attn.relative.table.weight", ((2 * size - 1) ** 2, heads), biases),
    )


def _stage_names(spec: Spec, stage: int) -> Within:
    names = attention_names(spec.window(stage)[0], spec.pretrained_window_sizes[stage], spec.num_heads[stage])
    return Within(f"model.stack.stages.{stage}.layers.{{}}.", names)


def _weights(spec: Spec) -> tuple[Rule, ...]:
    return (
        Ignore("*.relative_coords_table"),
        *swin.names("swinv2"),
        Rename("encoder.layers.{}.downsample.norm.*", "model.stack.stages.{}.merge.after.*"),
        *(_stage_names(spec, stage) for stage in range(len(spec.depths))),
    )


FAMILY = replace(
    swin.FAMILY,
    spec=Spec,
    heads=swin.swin_heads(_layer, _merge),
    weights=_weights,
    body=swin.map_body(_layer, _merge, _window, HIDDEN),
    tiny={**swin.FAMILY.tiny, "use_absolute_embeddings": False, "pretrained_window_sizes": [0, 3]},
    variations=({**swin.FAMILY.variations[0], "depths": [1, 1], "pretrained_window_sizes": [6, 0]},),
)
