"""SegFormer: stages of attention whose keys are a smaller map, and a decoder that sums all stages at the size of the
first. https://arxiv.org/abs/2105.15203"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.attention import head_size
from precast.export.blocks.convolution import COUNTERS
from precast.export.blocks.norms import LayerNorm, normed_sum
from precast.export.blocks.patches import rows_of
from precast.export.families import Family, LabelSpec
from precast.export.head_sets.dense import SemanticSegmentation
from precast.export.head_sets.maps import MeanPool, map_heads
from precast.export.operators import attention, resized
from precast.export.skeletons.backbone import Backbone
from precast.export.spec import hf
from precast.export.weights import Compute, Flatten, Rename, Rule, Split, Within
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY", "INERT", "MixSpec", "Spec", "body", "names"]

_EPSILON = 1e-5  # of every norm, whatever config.json says
INERT = frozenset({"drop_path_rate", "layer_norm_eps", "image_size", "downsampling_rates"})
_OF_STAGES = ("depths", "sr_ratios", "hidden_sizes", "patch_sizes", "strides", "num_attention_heads", "mlp_ratios")


@dataclass(frozen=True, kw_only=True)
class MixSpec(LabelSpec):
    """What every Mix Transformer has; defaults are those of the smallest."""

    num_channels: int = hf(default=3)
    num_encoder_blocks: int = hf(("num_encoder_blocks", "num_hidden_layers"), default=4)
    depths: tuple[int, ...] = hf(default=(2, 2, 2, 2), read=tuple)
    sr_ratios: tuple[int, ...] = hf(default=(8, 4, 2, 1), read=tuple)
    hidden_sizes: tuple[int, ...] = hf(default=(32, 64, 160, 256), read=tuple)
    patch_sizes: tuple[int, ...] = hf(default=(7, 3, 3, 3), read=tuple)
    strides: tuple[int, ...] = hf(default=(4, 2, 2, 2), read=tuple)
    num_attention_heads: tuple[int, ...] = hf(default=(1, 2, 5, 8), read=tuple)
    mlp_ratios: tuple[int, ...] = hf(default=(4, 4, 4, 4), read=tuple)
    hidden_act: Activation = hf(default=activation("gelu"), read=activation)

    def __post_init__(self) -> None:
        counts = [len(getattr(self, name)) for name in _OF_STAGES]
        if {*counts} != {self.num_encoder_blocks} or not counts[0]:
            raise ConfigError(
                f"'num_encoder_blocks' is {self.num_encoder_blocks}, and {', '.join(map(repr, _OF_STAGES))} have "
                f"{counts} values: each stage has one of either"
            )


@dataclass(frozen=True, kw_only=True)
class Spec(MixSpec):
    decoder_hidden_size: int = hf(default=256)
    reshape_last_stage: bool = hf(default=True, only=(True,))


def _map_of(rows: Tensor, height: int, width: int) -> Tensor:
    """Rows [B, H * W, C] -> the map that they are, [B, C, H, W]."""
    return rows.transpose(1, 2).view(rows.shape[0], rows.shape[2], height, width)


class _Attention(nn.Module):
    """Rows of a map [B, H * W, C] -> rows, each of the keys of a map that is ``ratio`` times smaller.
    https://arxiv.org/abs/2102.12122"""

    def __init__(self, size: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, head_size(size, heads) ** -0.5
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(size, size) for _ in range(4))
        self.reduction = nn.Conv2d(size, size, ratio, stride=ratio) if ratio > 1 else None
        self.norm = LayerNorm(size, _EPSILON) if ratio > 1 else None

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        seen = x
        if self.reduction is not None and self.norm is not None:
            seen = self.norm(rows_of(self.reduction(_map_of(x, height, width))))
        query, key, value = self.q_proj(x), self.k_proj(seen), self.v_proj(seen)
        return self.o_proj(attention(query, key, value, heads=self.heads, scale=self.scale))


class _MixMLP(nn.Module):
    """down(act(depthwise(up(x)))) of the rows of a map, whose neighbours tell each other where they are."""

    def __init__(self, size: int, wide: int, act: Activation) -> None:
        super().__init__()
        self.act = act
        self.up_proj, self.down_proj = nn.Linear(size, wide), nn.Linear(wide, size)
        self.depthwise = nn.Conv2d(wide, wide, 3, padding=1, groups=wide)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        return self.down_proj(self.act(rows_of(self.depthwise(_map_of(self.up_proj(x), height, width)))))


class _Layer(nn.Module):
    """x = x + attention(norm(x)); x = x + mlp(norm(x)); a state in two parts, as `PreNormLayer` has it."""

    def __init__(self, spec: MixSpec, stage: int) -> None:
        super().__init__()
        size = spec.hidden_sizes[stage]
        self.self_attn = _Attention(size, spec.num_attention_heads[stage], spec.sr_ratios[stage])
        self.mlp = _MixMLP(size, size * spec.mlp_ratios[stage], spec.hidden_act)
        self.attention_norm, self.mlp_norm = (LayerNorm(size, _EPSILON) for _ in range(2))

    def forward(self, x: Tensor, update: Tensor | None, height: int, width: int) -> tuple[Tensor, Tensor]:
        normed, x = normed_sum(self.attention_norm, x, update)
        normed, x = self.mlp_norm.add(self.self_attn(normed, height, width), x)
        return x, self.mlp(normed, height, width)


class _Stage(nn.Module):
    """A map [B, C, H, W] -> a smaller one [B, D, H', W'] of patches that overlap."""

    def __init__(self, spec: MixSpec, stage: int, channels: int) -> None:
        super().__init__()
        size, patch = spec.hidden_sizes[stage], spec.patch_sizes[stage]
        self.projection = nn.Conv2d(channels, size, patch, stride=spec.strides[stage], padding=patch // 2)
        self.before, self.norm = (LayerNorm(size, _EPSILON) for _ in range(2))
        self.layers = nn.ModuleList(_Layer(spec, stage) for _ in range(spec.depths[stage]))

    def forward(self, x: Tensor) -> Tensor:
        grid = self.projection(x)
        height, width = grid.shape[2:]
        rows, update = self.before(rows_of(grid)), None
        for layer in self.layers:
            rows, update = layer(rows, update, height, width)
        return _map_of(normed_sum(self.norm, rows, update)[0], height, width)


def body(spec: MixSpec) -> Backbone:
    """The stages; a picture leaves every one of them a key, and the last one two places a side: of one, torch would
    trace another product than of several."""
    sizes = pairwise((spec.num_channels, *spec.hidden_sizes))
    stages = [_Stage(spec, number, channels) for number, (channels, _) in enumerate(sizes)]
    least = 2
    for ratio, patch, stride in reversed([*zip(spec.sr_ratios, spec.patch_sizes, spec.strides, strict=True)]):
        least = max(1, (max(least, ratio) - 1) * stride + patch % 2)
    return Backbone(nn.Identity(), stages, channels=spec.num_channels, least=least, stem_is_state=False)


class _Decoder(nn.Module):
    """Maps of all stages -> logits [B, L, H', W'] at the first one's size.

    Each stage is projected, and enlarged to be projected again beside the others. Here the two projections are one, and
    it is what they make that is enlarged: a sum over channels and a mean over neighbours may change places.
    """

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        size = spec.decoder_hidden_size
        self.projections = nn.ModuleList(
            nn.Conv2d(channels, size, 1, bias=not number) for number, channels in enumerate(spec.hidden_sizes)
        )
        self.classifier = nn.Conv2d(size, spec.labels, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        first, *others = (project(each) for project, each in zip(self.projections, maps, strict=True))
        for each in others:
            first = first + resized(each, first)
        return self.classifier(F.relu(first))


def _decoder_names(spec: Spec) -> tuple[Rule, ...]:
    """``norm(fuse(concat(project(x))))``, the last stage first, as a kernel for each stage and the first one's bias."""
    count, size = len(spec.hidden_sizes), spec.decoder_hidden_size
    parts = ("fuse.weight", *(f"norm.{part}" for part in ("weight", "bias", "running_mean", "running_var")))
    projections = [f"project.{number}.proj.{kind}" for kind in ("weight", "bias") for number in range(count)]

    def fused(fuse: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor, *given: Tensor) -> Tensor:
        by = scale / torch.sqrt(variance + _EPSILON)
        each = (fuse[:, :, 0, 0] * by[:, None]).split(size, dim=1)[::-1]
        weights = [part @ weight for part, weight in zip(each, given[:count], strict=True)]
        bias = sum(part @ own for part, own in zip(each, given[count:], strict=True)) + shift - mean * by
        return torch.cat((*weights, bias[:, None]), dim=1)[:, :, None, None]

    return (
        Rename("linear_c.*", "project.*"),  # as transformers 4 names it
        Rename("linear_projections.*", "project.*"),
        Rename("linear_fuse.*", "fuse.*"),
        Rename("batch_norm.*", "norm.*"),
        Compute((*parts, *projections), "fused", (size, sum(spec.hidden_sizes) + 1, 1, 1), fused),
        Split(
            "fused",
            (*(f"projections.{number}.weight" for number in range(count)), "projections.0.bias"),
            axis=1,
            shares=(*spec.hidden_sizes, 1),
        ),
        Flatten("projections.0.bias"),
    )


def _layer_names(old: str, new: str) -> Within:
    """Names of a layer, as transformers 5 and 4 write them."""
    own = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "sr": "reduction", "layer_norm": "norm"}
    return Within(
        old,
        (
            *(Rename(f"attention.self.{theirs}.*", f"self_attn.{ours}.*") for theirs, ours in own.items()),
            Rename("attention.output.dense.*", "self_attn.o_proj.*"),
            Rename("attention.sequence_reduction.sequence_reduction.*", "self_attn.reduction.*"),
            Rename("attention.sequence_reduction.layer_norm.*", "self_attn.norm.*"),
            Rename("attention.*", "self_attn.*"),
            *(Rename(f"mlp.{name}1.*", "mlp.up_proj.*") for name in ("fc", "dense")),
            *(Rename(f"mlp.{name}2.*", "mlp.down_proj.*") for name in ("fc", "dense")),
            Rename("mlp.dwconv.dwconv.*", "mlp.depthwise.*"),
            *(Rename(f"{name}.*", "attention_norm.*") for name in ("layernorm_before", "layer_norm_1")),
            *(Rename(f"{name}.*", "mlp_norm.*") for name in ("layernorm_after", "layer_norm_2")),
        ),
        to=new,
    )


def names(base: str) -> tuple[Rule, ...]:
    """Names of the stages, behind the base model's prefix or not, as transformers 5 and 4 write them."""
    return (
        COUNTERS,
        Rename(f"{base}.*", "*"),
        Rename("encoder.patch_embeddings.{}.*", "stages.{}.patch_embeddings.*"),
        Rename("encoder.block.{}.*", "stages.{}.blocks.*"),
        Rename("encoder.layer_norm.{}.*", "stages.{}.layer_norm.*"),
        Rename("stages.*", "model.stages.*"),
        Rename("model.stages.{}.patch_embeddings.proj.*", "model.stages.{}.projection.*"),
        Rename("model.stages.{}.patch_embeddings.layer_norm.*", "model.stages.{}.before.*"),
        Rename("model.stages.{}.layer_norm.*", "model.stages.{}.norm.*"),
        _layer_names("model.stages.{}.blocks.{}.", "model.stages.{}.layers.{}."),
    )


def _segmentation(spec: Spec, absent: frozenset[str]) -> nn.Module:
    return SemanticSegmentation(body(spec), _Decoder(spec))


FAMILY = Family(
    spec=Spec,
    heads={
        **map_heads(body, lambda spec: spec.hidden_sizes[-1], lambda spec: MeanPool(keep=False), bare=True),
        heads.SEMANTIC_SEGMENTATION: _segmentation,
    },
    weights=lambda spec: (*names("segformer"), Within("decode_head.", _decoder_names(spec), to="decoder.")),
    inert=INERT | {"semantic_loss_ignore_index"},
    tiny={"num_encoder_blocks": 2, "depths": [1, 2], "sr_ratios": [4, 2], "hidden_sizes": [8, 12], "strides": [4, 2]}
    | {"patch_sizes": [7, 3], "num_attention_heads": [1, 3], "mlp_ratios": [2, 3], "decoder_hidden_size": 16}
    | {"num_labels": 7},
    variations=(
        # Patches of an even size, keys of every place, three stages of odd widths.
        {"num_encoder_blocks": 3, "depths": [1, 1, 1], "sr_ratios": [3, 1, 1], "hidden_sizes": [6, 9, 10]}
        | {"strides": [3, 2, 2], "patch_sizes": [4, 3, 2], "num_attention_heads": [2, 3, 1], "mlp_ratios": [1, 2, 1]}
        | {"num_channels": 1, "hidden_act": "relu", "decoder_hidden_size": 11, "num_labels": 1},
    ),
)
