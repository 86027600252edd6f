"""CvT: attention whose queries, keys and values are convolutions of the map, over ever fewer and wider places.
https://arxiv.org/abs/2103.15808"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.attention import head_size
from precast.export.blocks.convolution import COUNTERS, ConvNorm
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm, normed_sum
from precast.export.blocks.patches import rows_of
from precast.export.families import Family, LabelSpec, vit
from precast.export.operators import attention
from precast.export.signatures import Component
from precast.export.skeletons.backbone import Backbone
from precast.export.spec import hf
from precast.export.weights import Rename, Rule, Within
from precast.runtime.catalogue import CATALOGUE
from precast.runtime.errors import ConfigError
from precast.runtime.ports import Out, Port

__all__ = ["FAMILY", "Spec"]

_EPSILON = 1e-5  # of every norm, whatever config.json says
_METHOD = "dw_bn"
_OF_STAGES = """patch_sizes patch_stride patch_padding embed_dim num_heads depth mlp_ratio qkv_bias cls_token
    qkv_projection_method kernel_qkv padding_kv stride_kv padding_q stride_q""".split()


@dataclass(frozen=True, kw_only=True)
class Spec(LabelSpec):
    """Defaults are CvT-13's, but for its depths."""

    num_channels: int = hf(default=3)
    patch_sizes: tuple[int, ...] = hf(default=(7, 3, 3), read=tuple)
    patch_stride: tuple[int, ...] = hf(default=(4, 2, 2), read=tuple)
    patch_padding: tuple[int, ...] = hf(default=(2, 1, 1), read=tuple)
    embed_dim: tuple[int, ...] = hf(default=(64, 192, 384), read=tuple)
    num_heads: tuple[int, ...] = hf(default=(1, 3, 6), read=tuple)
    depth: tuple[int, ...] = hf(default=(1, 2, 10), read=tuple)
    mlp_ratio: tuple[float, ...] = hf(default=(4.0, 4.0, 4.0), read=tuple)
    qkv_bias: tuple[bool, ...] = hf(default=(True, True, True), read=tuple)
    cls_token: tuple[bool, ...] = hf(default=(False, False, True), read=tuple)
    qkv_projection_method: tuple[str, ...] = hf(default=(_METHOD, _METHOD, _METHOD), read=tuple)
    kernel_qkv: tuple[int, ...] = hf(default=(3, 3, 3), read=tuple)
    padding_kv: tuple[int, ...] = hf(default=(1, 1, 1), read=tuple)
    stride_kv: tuple[int, ...] = hf(default=(2, 2, 2), read=tuple)
    padding_q: tuple[int, ...] = hf(default=(1, 1, 1), read=tuple)
    stride_q: tuple[int, ...] = hf(default=(1, 1, 1), read=tuple)

    def __post_init__(self) -> None:
        counts = [len(getattr(self, name)) for name in _OF_STAGES]
        if min(counts) != max(counts) or not counts[0]:
            raise ConfigError(f"{', '.join(map(repr, _OF_STAGES))} have {counts} values: each stage has one of either")
        for number, method in enumerate(self.qkv_projection_method):
            if method != _METHOD:
                raise ConfigError(f"'qkv_projection_method' is {method!r}, and only {_METHOD!r} is honoured here")
            kernel, padding, stride = (getattr(self, name)[number] for name in ("kernel_qkv", "padding_q", "stride_q"))
            if stride != 1 or kernel != 2 * padding + 1:
                raise ConfigError(
                    f"'stride_q' {stride} and 'padding_q' {padding} with 'kernel_qkv' {kernel} leave queries of "
                    "another number than there are places: what attention makes is added to these"
                )
            if self.cls_token[number] and self.embed_dim[number] != self.embed_dim[-1]:
                raise ConfigError(
                    f"'cls_token' of stage {number + 1} has the last 'embed_dim', {self.embed_dim[-1]} channels, and "
                    f"stands in a stage of {self.embed_dim[number]}"
                )


class _Attention(nn.Module):
    """Rows of a map [B, (1 +) H * W, C] -> rows, each of all keys; a token in front of them is in no convolution."""

    def __init__(self, spec: Spec, stage: int) -> None:
        super().__init__()
        size, self.heads = spec.embed_dim[stage], spec.num_heads[stage]
        head_size(size, self.heads)
        self.tokens, self.scale = int(spec.cls_token[stage]), size**-0.5  # of all channels, not of a head's
        kernel, bias = spec.kernel_qkv[stage], spec.qkv_bias[stage]

        def made(stride: int, padding: int) -> ConvNorm:
            return ConvNorm(size, size, kernel, stride=stride, padding=padding, groups=size)

        self.q_conv = made(spec.stride_q[stage], spec.padding_q[stage])
        self.k_conv, self.v_conv = (made(spec.stride_kv[stage], spec.padding_kv[stage]) for _ in range(2))
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(size, size, bias=bias) for _ in range(3))
        self.o_proj = nn.Linear(size, size)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        batch, _, size = x.shape
        grid = x[:, self.tokens :].transpose(1, 2).view(batch, size, height, width)
        query, key, value = (
            project(self._beside(x, rows_of(convolution(grid))))
            for convolution, project in (
                (self.q_conv, self.q_proj),
                (self.k_conv, self.k_proj),
                (self.v_conv, self.v_proj),
            )
        )
        return self.o_proj(attention(query, key, value, heads=self.heads, scale=self.scale))

    def _beside(self, x: Tensor, rows: Tensor) -> Tensor:
        return torch.cat((x[:, : self.tokens], rows), dim=1) if self.tokens else rows


class _Layer(nn.Module):
    """x = x + attention(norm(x)); x = x + mlp(norm(x)); a state in two parts, as `PreNormLayer` has it."""

    def __init__(self, spec: Spec, stage: int) -> None:
        super().__init__()
        size = spec.embed_dim[stage]
        self.self_attn = _Attention(spec, stage)
        self.mlp = MLP(size, int(size * spec.mlp_ratio[stage]), F.gelu)
        self.attention_norm, self.mlp_norm = (LayerNorm(size, _EPSILON) for _ in range(2))

    def forward(self, x: Tensor, update: Tensor | None, height: int, width: int) -> tuple[Tensor, Tensor]:
        normed, x = normed_sum(self.attention_norm, x, update)
        normed, x = self.mlp_norm.add(self.self_attn(normed, height, width), x)
        return x, self.mlp(normed)


class _Map(nn.Module):
    """Rows [B, (1 +) H * W, C] -> the map of those that are places, [B, C, H, W]."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens

    def forward(self, rows: Tensor, height: int, width: int) -> Tensor:
        return rows[:, self.tokens :].transpose(1, 2).view(rows.shape[0], rows.shape[2], height, width)


class _Stage(nn.Module):
    """A map [B, C, H, W] -> a smaller one, and the rows it is made of, which a token may stand in front of."""

    def __init__(self, spec: Spec, stage: int) -> None:
        super().__init__()
        channels, size = (spec.num_channels, *spec.embed_dim)[stage], spec.embed_dim[stage]
        patch, padding = spec.patch_sizes[stage], spec.patch_padding[stage]
        self.projection = nn.Conv2d(channels, size, patch, stride=spec.patch_stride[stage], padding=padding)
        self.norm = LayerNorm(size, _EPSILON)
        self.token = nn.Parameter(torch.empty(1, 1, size)) if spec.cls_token[stage] else None
        self.layers = nn.ModuleList(_Layer(spec, stage) for _ in range(spec.depth[stage]))
        self.map = _Map(int(spec.cls_token[stage]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        grid = self.projection(x)
        height, width = grid.shape[2:]
        rows, update = self.norm(rows_of(grid)), None
        if self.token is not None:
            rows = torch.cat((self.token.expand(x.shape[0], -1, -1), rows), dim=1)
        for layer in self.layers:
            rows, update = layer(rows, update, height, width)
        rows = rows if update is None else rows + update
        return self.map(rows, height, width), rows


class _Body(Backbone):
    """Pixels [B, channels, H, W] -> the last stage's map and rows."""

    def __init__(self, spec: Spec) -> None:
        stages = [_Stage(spec, stage) for stage in range(len(spec.depth))]
        super().__init__(nn.Identity(), stages, channels=spec.num_channels, least=_least(spec), stem_is_state=False)

    def counted(self) -> list[nn.Module]:
        return [stage.get_submodule("map") for stage in self.stages]

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        x, rows = pixel_values, pixel_values
        for stage in self.stages:
            x, rows = stage(x)
        return x, rows


def _least(spec: Spec) -> int:
    """The smallest side of a picture that leaves a place for each patch and each key, and two a side of the last map:
    of one, torch would trace another product than of several."""
    side = 2
    for stage in reversed(range(len(spec.depth))):
        side = max(side, spec.kernel_qkv[stage] - 2 * spec.padding_kv[stage])
        step, beyond = spec.patch_stride[stage], 2 * spec.patch_padding[stage]
        side = max(1, (side - 1) * step + spec.patch_sizes[stage] - beyond)
    return side


class _Head(Component):
    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.model, self.with_token = _Body(spec), spec.cls_token[-1]

    def ports(self) -> tuple[Port, ...]:
        return self.model.ports()


class _Features(_Head):
    """{"last_hidden_state": [B, C, H, W], "cls_token_value": [B, 1, C]}; the latter where the last stage has
    one."""

    task = "feature-extraction"

    def outs(self) -> tuple[Out, ...]:
        states, embedding = CATALOGUE[self.task].outs
        maps = states._replace(shape=("batch", "size", "rows", "columns"), axis=-3)
        token = embedding._replace(name="cls_token_value", shape=("batch", 1, "size"))
        return (maps, token) if self.with_token else (maps,)

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        maps, rows = self.model(pixel_values)
        return {"last_hidden_state": maps} | ({"cls_token_value": rows[:, :1]} if self.with_token else {})


class _Classification(_Head):
    """{"logits": [B, L]} of the normalised token, or of what normalised places are on average."""

    task = "image-classification"

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.norm = LayerNorm(spec.embed_dim[-1], _EPSILON)
        self.classifier = nn.Linear(spec.embed_dim[-1], spec.labels)

    def outs(self) -> tuple[Out, ...]:
        return CATALOGUE[self.task].outs

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        _, rows = self.model(pixel_values)
        return {"logits": self.classifier(self.norm(rows[:, 0]) if self.with_token else self.norm(rows).mean(1))}


def _weights(spec: Spec) -> tuple[Rule, ...]:
    parts = (("query", "q"), ("key", "k"), ("value", "v"))
    layer: tuple[Rule, ...] = (
        *(
            Rename(
                f"attention.attention.convolution_projection_{part}.convolution_projection.*", f"self_attn.{key}_conv.*"
            )
            for part, key in parts
        ),
        *(Rename(f"self_attn.{key}_conv.normalization.*", f"self_attn.{key}_conv.norm.*") for _, key in parts),
        *(Rename(f"attention.attention.projection_{part}.*", f"self_attn.{key}_proj.*") for part, key in parts),
        vit.layer_names("", ""),
    )
    return (
        COUNTERS,
        Rename("cvt.*", "*"),
        Rename("encoder.stages.{}.cls_token", "model.stages.{}.token"),
        Rename("encoder.stages.{}.embedding.convolution_embeddings.projection.*", "model.stages.{}.projection.*"),
        Rename("encoder.stages.{}.embedding.convolution_embeddings.normalization.*", "model.stages.{}.norm.*"),
        Within("encoder.stages.{}.layers.{}.", layer, to="model.stages.{}.layers.{}."),
        Rename("layernorm.*", "norm.*"),
    )


def _base(spec: Spec, absent: frozenset[str]) -> nn.Module:
    return _Features(spec)


def _classifier(spec: Spec, absent: frozenset[str]) -> nn.Module:
    return _Classification(spec)


FAMILY = Family(
    spec=Spec,
    heads={heads.BASE: _base, heads.IMAGE_CLASSIFICATION: _classifier},
    weights=_weights,
    inert=frozenset({"attention_drop_rate", "drop_path_rate", "drop_rate", "layer_norm_eps"}),
    # Upstream builds a stage only where it has more layers than there are stages before it.
    tiny={"patch_sizes": [7, 3], "patch_stride": [4, 2], "patch_padding": [2, 1], "embed_dim": [8, 12], "depth": [1, 2]}
    | {"num_heads": [1, 3], "mlp_ratio": [2.0, 1.5], "qkv_bias": [True, True], "cls_token": [False, True]}
    | {"qkv_projection_method": [_METHOD, _METHOD], "kernel_qkv": [3, 3], "padding_kv": [1, 1], "stride_kv": [2, 2]}
    | {"padding_q": [1, 1], "stride_q": [1, 1]}
    | {name: [0.0, 0.0] for name in ("attention_drop_rate", "drop_path_rate", "drop_rate")},
    variations=(
        # Tokens in both stages; keys of fewer places by no stride, and by one of three.
        {"embed_dim": [9, 9], "num_heads": [3, 1], "cls_token": [True, True], "qkv_bias": [False, True]}
        | {"kernel_qkv": [5, 3], "padding_q": [2, 1], "padding_kv": [0, 1], "stride_kv": [1, 3], "num_labels": 5}
        | {"patch_sizes": [4, 2], "patch_stride": [3, 2], "patch_padding": [0, 0], "num_channels": 1},
    ),
)
