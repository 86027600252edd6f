"""SAM, Segment Anything: a tower makes a map of a picture once, a small decoder masks of it for every prompt of points,
boxes or masks. https://arxiv.org/abs/2304.02643

Two components: ``vision`` makes ``image_embeddings``, ``masks`` answers prompts. What a call leaves out is `ABSENT`
everywhere: no other number of a prompt is as small."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.attention import SelfAttention, head_size
from precast.export.blocks.convolution import Convolution, MapNorm
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.patches import Patches, rows_of
from precast.export.blocks.windows import Windows
from precast.export.components import Composite
from precast.export.families import Family
from precast.export.image_heads import ImageModel
from precast.export.operators import attention
from precast.export.signatures import Component
from precast.export.skeletons.encoder import PreNormLayer
from precast.export.skeletons.stack import Stack
from precast.export.spec import Spec as Base
from precast.export.spec import hf
from precast.export.weights import Compute, Ignore, Rename, Rule, Split, Tie, Within
from precast.runtime.catalogue import CATALOGUE
from precast.runtime.errors import ConfigError
from precast.runtime.ports import Out, Port

__all__ = ["ABSENT", "FAMILY", "Spec"]

ABSENT = -1e30
# The outputs of the mask for prompts that leave no choice.
_ALONE = {"iou_scores": "single_score", "pred_masks": "single_mask"}
_EPSILON = 1e-6  # of norms of maps, whatever configs say of others
_INERT = frozenset({"image_embedding_size", "scale", "initializer_factor"})
# Which released checkpoints have in their parts' configs, and nothing reads.
_INERT |= frozenset({"intermediate_size", "projection_dim"})


def _indexes(value: Any) -> tuple[int, ...]:
    if not all(type(one) is int for one in value):
        raise ValueError("it is a list of numbers of layers")
    return tuple(value)


@dataclass(frozen=True, kw_only=True)
class VisionSpec(Base):
    """Defaults are ViT-B's, as upstream's."""

    hidden_size: int = hf(default=768)
    output_channels: int = hf(default=256)
    num_hidden_layers: int = hf(default=12)
    num_attention_heads: int = hf(default=12)
    num_channels: int = hf(default=3)
    image_size: int = hf(default=1024)
    patch_size: int = hf(default=16)
    hidden_act: Activation = hf(default=activation("gelu"), read=activation)
    layer_norm_eps: float = hf(default=1e-6)
    qkv_bias: bool = hf(default=True)
    mlp_ratio: float = hf(default=4.0)
    mlp_dim: int | None = hf(default=None)
    use_abs_pos: bool = hf(default=True)
    use_rel_pos: bool = hf(default=True)
    window_size: int = hf(default=14)
    global_attn_indexes: tuple[int, ...] = hf(default=(2, 5, 8, 11), read=_indexes)
    num_pos_feats: int = hf(default=128)

    @property
    def side(self) -> int:
        """Patches along an edge."""
        return self.image_size // self.patch_size

    def area(self, layer: int) -> int:
        """Patches along an edge of what a layer sees at once."""
        return self.side if layer in self.global_attn_indexes or not self.window_size else self.window_size


@dataclass(frozen=True, kw_only=True)
class PromptSpec(Base):
    hidden_size: int = hf(default=256)
    image_size: int = hf(default=1024)
    patch_size: int = hf(default=16)
    mask_input_channels: int = hf(default=16)
    num_point_embeddings: int = hf(default=4, only=(4,))
    hidden_act: Activation = hf(default=activation("gelu"), read=activation)
    layer_norm_eps: float = hf(default=1e-6)

    @property
    def side(self) -> int:
        return self.image_size // self.patch_size


@dataclass(frozen=True, kw_only=True)
class DecoderSpec(Base):
    hidden_size: int = hf(default=256)
    hidden_act: Activation = hf(default=activation("relu"), read=activation)
    mlp_dim: int = hf(default=2048)
    num_hidden_layers: int = hf(default=2)
    num_attention_heads: int = hf(default=8)
    attention_downsample_rate: int = hf(default=2)
    num_multimask_outputs: int = hf(default=3)
    iou_head_depth: int = hf(default=3)
    iou_head_hidden_dim: int = hf(default=256)
    layer_norm_eps: float = hf(default=1e-6)


@dataclass(frozen=True, kw_only=True)
class Spec(Base):
    vision: VisionSpec = hf("vision_config", default={}, spec=VisionSpec, inert=_INERT)
    prompts: PromptSpec = hf("prompt_encoder_config", default={}, spec=PromptSpec, inert=_INERT)
    decoder: DecoderSpec = hf("mask_decoder_config", default={}, spec=DecoderSpec, inert=_INERT)

    def __post_init__(self) -> None:
        vision, prompts, decoder = self.vision, self.prompts, self.decoder
        widths = {vision.output_channels, prompts.hidden_size, decoder.hidden_size, 2 * vision.num_pos_feats}
        if len(widths) > 1:
            raise ConfigError(
                "'output_channels' and twice 'num_pos_feats' of vision_config and 'hidden_size' of the two others must "
                f"be one number; received {sorted(widths)}"
            )
        if vision.side != prompts.side:
            raise ConfigError(
                f"pictures of vision_config have {vision.side} patches a side, those of prompt_encoder_config "
                f"{prompts.side}: they must be the same"
            )
        if min(decoder.num_multimask_outputs, decoder.num_hidden_layers) < 1 or decoder.iou_head_depth < 2:
            raise ConfigError(
                "'num_multimask_outputs' and 'num_hidden_layers' must be 1 or more, 'iou_head_depth' 2 or more"
            )


class _VisionAttention(SelfAttention):
    """Self-attention over a grid or its windows, [B, S * S, H] -> [B, S * S, H], where a score knows how far apart two
    places are: along rows and along columns, each as a product of the query. https://arxiv.org/abs/2112.01526"""

    def __init__(self, spec: VisionSpec, windows: Windows | None) -> None:
        heads, side = spec.num_attention_heads, spec.side if windows is None else windows.size
        super().__init__(spec.hidden_size, heads=heads, bias=spec.qkv_bias, out_bias=True)
        self.windows, self.side, self.size = windows, side, head_size(spec.hidden_size, heads)
        shape = (side, self.size, side)
        self.down = nn.Parameter(torch.empty(shape)) if spec.use_rel_pos else None
        self.across = nn.Parameter(torch.empty(shape)) if spec.use_rel_pos else None

    def forward(self, x: Tensor, mask: Tensor | None, bias: Tensor | None = None) -> Tensor:
        windows, (batch, _, width) = self.windows, x.shape
        rows = x
        if windows is not None:
            rows = windows.split(x).view(batch * windows.count, windows.area, width)
        query, key, value = self.q_proj(rows), self.k_proj(rows), self.v_proj(rows)
        context = attention(query, key, value, bias=self._apart(query), heads=self.heads, scale=self.scale)
        if windows is not None:
            context = windows.join(context.view(batch, windows.count * windows.area, width))
        return self.o_proj(context)

    def _apart(self, query: Tensor) -> Tensor | None:
        """[B, S * S, N * D] -> [B, N, S * S, S * S]."""
        if self.down is None or self.across is None:
            return None
        side, heads = self.side, self.heads
        query = query.view(query.shape[0], side, side, heads, self.size)
        down = query.permute(0, 3, 1, 2, 4) @ self.down  # [B, N, S, S, S], the last one the key's row
        across = (query.permute(0, 3, 2, 1, 4) @ self.across).transpose(2, 3)
        both = (down[..., :, None] + across[..., None, :]).clone(memory_format=torch.contiguous_format)
        return both.view(query.shape[0], heads, side * side, side * side)


class _Vision(Component):
    """Pixels [B, C, I, I] -> {"image_embeddings": [B, H, S, S]}."""

    def __init__(self, spec: VisionSpec) -> None:
        super().__init__()
        size, width, epsilon, side = spec.hidden_size, spec.output_channels, spec.layer_norm_eps, spec.side
        self.width, self.side, self.heads = width, side, spec.num_attention_heads
        inner = int(size * spec.mlp_ratio) if spec.mlp_dim is None else spec.mlp_dim
        windows = Windows(side, side, size=spec.window_size) if spec.window_size else None
        layers = [
            PreNormLayer(
                attention=_VisionAttention(spec, None if number in spec.global_attn_indexes else windows),
                attention_norm=LayerNorm(size, epsilon),
                mlp=MLP(size, inner, spec.hidden_act),
                mlp_norm=LayerNorm(size, epsilon),
            )
            for number in range(spec.num_hidden_layers)
        ]
        patches = Patches(
            size,
            image=spec.image_size,
            patch=spec.patch_size,
            channels=spec.num_channels,
            tokens=(),
            placed=spec.use_abs_pos,
        )
        self.model = ImageModel(patches, Stack(layers, None))
        self.conv1, self.layer_norm1 = Convolution(size, width, bias=False), MapNorm(width, _EPSILON)
        self.conv2, self.layer_norm2 = Convolution(width, width, 3, bias=False), MapNorm(width, _EPSILON)

    def ports(self) -> tuple[Port, ...]:
        return self.model.ports()

    def outs(self) -> tuple[Out, ...]:
        return (Out("image_embeddings", ("batch", self.width, self.side, self.side), "features"),)

    def largest(self) -> int:
        """So many pictures that scores of all pairs of patches, in float64, take 2 GB at most."""
        return max(1, (2 << 30) // (8 * self.heads * self.side**4))

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        rows = self.model(pixel_values)
        grid = rows.transpose(1, 2).view(rows.shape[0], rows.shape[2], self.side, self.side)
        return {"image_embeddings": self.layer_norm2(self.conv2(self.layer_norm1(self.conv1(grid))))}


class _Prompts(nn.Module):
    """What points, boxes and masks are for the decoder."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        own, size = spec.prompts, spec.prompts.hidden_size
        self.image, self.side, self.act, few = own.image_size, own.side, own.hidden_act, own.mask_input_channels // 4
        self.waves = nn.Parameter(torch.empty(2, spec.vision.num_pos_feats))
        self.no_mask_embed, self.not_a_point_embed = (nn.Parameter(torch.empty(1, size)) for _ in range(2))
        self.point_embed = nn.ParameterList(torch.empty(1, size) for _ in range(4))
        self.conv1 = nn.Conv2d(1, few, kernel_size=2, stride=2)
        self.conv2 = nn.Conv2d(few, own.mask_input_channels, kernel_size=2, stride=2)
        self.conv3 = Convolution(own.mask_input_channels, size)
        self.layer_norm1 = MapNorm(few, own.layer_norm_eps)
        self.layer_norm2 = MapNorm(4 * few, own.layer_norm_eps)

    def positions(self, places: Tensor) -> Tensor:
        """Places [..., 2] in 0 to 1 -> [..., H]."""
        angles = 2 * math.pi * ((2 * places - 1) @ self.waves)
        return torch.cat((angles.sin(), angles.cos()), dim=-1)

    def grid(self) -> Tensor:
        """Positions of the picture's patches, [S * S, H]."""
        place = (torch.arange(self.side, device=self.waves.device).to(self.waves.dtype) + 0.5) / self.side
        across, down = place.expand(self.side, self.side), place[:, None].expand(self.side, self.side)
        return self.positions(torch.stack((across, down), dim=-1).view(self.side * self.side, 2))

    def sparse(self, points: Tensor, labels: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """[B, P, N, 2], [B, P, N], [B, P, 4] -> tokens [B * P, N + 3, H], and which of them there are [B * P, N + 3]:
        points, one that is none where there is no box, and the corners of the box."""
        rows, count = points.shape[0] * points.shape[1], points.shape[2]
        points, labels, corners = points.view(rows, count, 2), labels.view(rows, count, 1), boxes.view(rows, 2, 2)
        pointed, boxed = points[..., :1] > ABSENT / 2, corners[:, :1, :1] > ABSENT / 2
        made = self.positions((torch.where(pointed, points, 0.0) + 0.5) / self.image)
        outside, inside = self.point_embed[0], self.point_embed[1]
        made = torch.where(labels == -1, self.not_a_point_embed, made)
        made = torch.where(labels == -10, 0.0, made)
        made = made + torch.where(labels == 0, outside, 0.0) + torch.where(labels == 1, inside, 0.0)
        none = self.not_a_point_embed[None].expand(rows, 1, -1)
        ends = self.positions((torch.where(boxed, corners, 0.0) + 0.5) / self.image)
        ends = ends + torch.cat((self.point_embed[2], self.point_embed[3]))
        alone = torch.logical_and(pointed[:, :1], ~boxed)
        there = torch.cat((pointed, alone, boxed, boxed), dim=1)[..., 0]
        return torch.cat((made, none, ends), dim=1), there

    def dense(self, masks: Tensor) -> Tensor:
        """Masks [B, 1, 4 * S, 4 * S] -> a map [B, H, S, S]."""
        given = masks[:, :, :1, :1] > ABSENT / 2
        x = self.act(self.layer_norm1(self.conv1(torch.where(given, masks, 0.0))))
        x = self.conv3(self.act(self.layer_norm2(self.conv2(x))))
        return torch.where(given, x, self.no_mask_embed[..., None, None])


class _Attention(nn.Module):
    """Attention of queries [B, S, H] over keys and values [B, T, H], in fewer channels."""

    def __init__(self, spec: DecoderSpec, rate: int) -> None:
        super().__init__()
        width = spec.hidden_size // rate
        self.heads = spec.num_attention_heads
        self.scale = head_size(width, self.heads) ** -0.5
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(spec.hidden_size, width) for _ in range(3))
        self.out_proj = nn.Linear(width, spec.hidden_size)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.over(self.q_proj(query), self.k_proj(key), self.v_proj(value), mask)

    def over(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """The same of what is projected."""
        return self.out_proj(attention(query, key, value, mask=mask, heads=self.heads, scale=self.scale))


class _TwoWayLayer(nn.Module):
    """Tokens look at each other and at the picture, and the picture at the tokens."""

    def __init__(self, spec: DecoderSpec, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = _Attention(spec, 1)
        # Half of the channels, whatever the config says of the last attention.
        self.cross_attn_token_to_image, self.cross_attn_image_to_token = (_Attention(spec, 2) for _ in range(2))
        self.mlp = MLP(spec.hidden_size, spec.mlp_dim, spec.hidden_act)
        self.layer_norm1, self.layer_norm2, self.layer_norm3, self.layer_norm4 = (
            LayerNorm(spec.hidden_size, spec.layer_norm_eps) for _ in range(4)
        )

    def forward(
        self, tokens: Tensor, rows: Tensor, placed: Tensor, grid: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Tokens [B * P, T, H], rows [B * P, S, H], what tokens were and where rows are, added to queries and keys.

        The first layer's rows are [B, S, H]: those of a picture, which no prompt has changed."""
        if self.first:
            tokens = self.layer_norm1(self.self_attn(tokens, tokens, tokens, mask))
        else:
            query = tokens + placed
            tokens, _ = self.layer_norm1.add(self.self_attn(query, query, tokens, mask), tokens)
        key, attn = rows + grid, self.cross_attn_token_to_image
        query, key_of_rows, value = attn.q_proj(tokens + placed), attn.k_proj(key), attn.v_proj(rows)
        if self.first:  # all prompts of a picture are queries of one row
            seen = attn.over(query.view(rows.shape[0], -1, query.shape[2]), key_of_rows, value).view(tokens.shape)
        else:
            seen = attn.over(query, key_of_rows, value)
        tokens, _ = self.layer_norm2.add(seen, tokens)
        tokens, _ = self.layer_norm3.add(self.mlp(tokens), tokens)
        attn = self.cross_attn_image_to_token
        query = attn.q_proj(key)
        if self.first:
            query, rows = _each(query, tokens), _each(rows, tokens)
        seen = attn.over(query, attn.k_proj(tokens + placed), attn.v_proj(tokens), mask)
        rows, _ = self.layer_norm4.add(seen, rows)
        return tokens, rows


def _each(rows: Tensor, tokens: Tensor) -> Tensor:
    """Rows [B, S, H] once for every prompt, of which there are tokens [B * P, T, H]: [B * P, S, H]."""
    batch, length, width = rows.shape
    prompts = tokens.shape[0] // batch
    every = rows[:, None].expand(-1, prompts, -1, -1).clone(memory_format=torch.contiguous_format)
    return every.view(tokens.shape[0], length, width)


class _FeedForward(nn.Module):
    """Projections with a ReLU between them; names are upstream's."""

    def __init__(self, size: int, inner: int, out: int, depth: int) -> None:
        super().__init__()
        self.proj_in, self.proj_out = nn.Linear(size, inner), nn.Linear(inner, out)
        self.layers = nn.ModuleList(nn.Linear(inner, inner) for _ in range(depth - 2))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.proj_in(x))
        for layer in self.layers:
            x = torch.relu(layer(x))
        return self.proj_out(x)


class _Masks(Component):
    """A map and prompts -> {"iou_scores": [B, P, M], "pred_masks": [B, P, M, 4 * S, 4 * S]}: M masks a prompt, each of
    another extent, and how well the model thinks it did them; and one more of each, the one for prompts that leave no
    choice, which the runtime gives instead where it is asked for (`precast.runtime.prompted`)."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        own = spec.decoder
        size, self.count, self.side = own.hidden_size, own.num_multimask_outputs, spec.prompts.side
        self.prompts = _Prompts(spec)
        self.iou_token = nn.Parameter(torch.empty(1, size))
        self.mask_tokens = nn.Parameter(torch.empty(self.count + 1, size))
        self.layers = nn.ModuleList(_TwoWayLayer(own, not number) for number in range(own.num_hidden_layers))
        self.final_attn = _Attention(own, own.attention_downsample_rate)
        self.final_norm = LayerNorm(size, 1e-5)
        # Transposed convolutions whose windows do not overlap: each pixel becomes four, which are channels at first.
        self.upscale_conv1, self.upscale_conv2 = Convolution(size, size), Convolution(size // 4, size // 2)
        self.upscale_layer_norm = MapNorm(size // 4, _EPSILON)
        self.kernels = nn.ModuleList(_FeedForward(size, size, size // 8, 3) for _ in range(self.count + 1))
        self.iou_prediction_head = _FeedForward(size, own.iou_head_hidden_dim, self.count + 1, own.iou_head_depth)

    def ports(self) -> tuple[Port, ...]:
        prompts, masks = ("batch", "prompts"), (1, 4 * self.side, 4 * self.side)
        features = ("batch", self.mask_tokens.shape[1], self.side, self.side)
        return (
            Port("image_embeddings", "float32", features, "features", source="vision"),
            Port("input_points", "float32", (*prompts, "points", 2), "points", default=ABSENT),
            Port("input_labels", "int64", (*prompts, "points"), "labels", default=1),
            Port("input_boxes", "float32", (*prompts, 4), "boxes", default=ABSENT),
            Port("input_masks", "float32", ("batch", *masks), "pixels", default=ABSENT),
        )

    def outs(self) -> tuple[Out, ...]:
        made = CATALOGUE["mask-generation"].outs
        alone = (Out(_ALONE[out.name], (*out.shape[:2], 1, *out.shape[3:]), "features") for out in made)
        return (*made, *alone)

    def processing(self) -> dict[str, Any]:
        return {"prompts": {"alone": _ALONE}}

    def largest(self) -> int:
        return 9

    def forward(
        self,
        image_embeddings: Tensor,
        input_points: Tensor,
        input_labels: Tensor,
        input_boxes: Tensor,
        input_masks: Tensor,
    ) -> dict[str, Tensor]:
        batch, prompts = input_points.shape[:2]
        size, side = image_embeddings.shape[1], self.side
        found, there = self.prompts.sparse(input_points, input_labels, input_boxes)
        own = torch.cat((self.iou_token, self.mask_tokens))[None].expand(batch * prompts, -1, -1)
        mask = torch.cat((torch.ones_like(own[..., 0], dtype=torch.bool), there), dim=1).to(torch.int64)
        placed, grid = torch.cat((own, found), dim=1), self.prompts.grid()
        rows = rows_of(image_embeddings + self.prompts.dense(input_masks))
        tokens = placed
        for layer in self.layers:
            tokens, rows = layer(tokens, rows, placed, grid, mask)
        tokens, _ = self.final_norm.add(self.final_attn(tokens + placed, rows + grid, rows), tokens)
        grown = rows.transpose(1, 2).view(batch * prompts, size, side, side)
        grown = F.gelu(self.upscale_layer_norm(F.pixel_shuffle(self.upscale_conv1(grown), 2)))
        grown = F.gelu(F.pixel_shuffle(self.upscale_conv2(grown), 2))
        kernels = torch.stack([made(tokens[:, 1 + number]) for number, made in enumerate(self.kernels)], dim=1)
        masks = kernels @ grown.view(batch * prompts, size // 8, 16 * side * side)
        scores = self.iou_prediction_head(tokens[:, 0])
        scores = scores.view(batch, prompts, self.count + 1)
        masks = masks.view(batch, prompts, self.count + 1, 4 * side, 4 * side)
        made = {"iou_scores": scores[:, :, 1:], "pred_masks": masks[:, :, 1:]}
        return made | {_ALONE["iou_scores"]: scores[:, :, :1], _ALONE["pred_masks"]: masks[:, :, :1]}


def _grown(name: str, channels: int, out: int) -> tuple[Rule, ...]:
    """A transposed convolution [C, D, 2, 2] as one of 4 * D channels, as `pixel_shuffle` sets them out."""

    def kernels(weight: Tensor) -> Tensor:
        return weight.permute(1, 2, 3, 0).reshape(4 * out, channels, 1, 1)

    return (
        Compute((f"{name}.weight",), f"{name}.weight", (4 * out, channels, 1, 1), kernels),
        Compute((f"{name}.bias",), f"{name}.bias", (4 * out,), lambda bias: bias.repeat_interleave(4)),
    )


def _layer_names(spec: VisionSpec, number: int) -> Within:
    side, size = spec.area(number), spec.hidden_size // spec.num_attention_heads

    def table(positions: Tensor) -> Tensor:
        """[2 * S - 1, D] -> [S, D, S]: of a query's place what each key's place adds."""
        place = torch.arange(side)
        return positions[place[:, None] - place[None, :] + side - 1].transpose(1, 2)

    return Within(
        f"vision_encoder.layers.{number}.",
        (
            *(Split(f"attn.qkv.{kind}", tuple(f"self_attn.{p}_proj.{kind}" for p in "qkv")) for kind in _PARTS),
            Rename("attn.proj.*", "self_attn.o_proj.*"),
            Compute(("attn.rel_pos_h",), "self_attn.down", (side, size, side), table),
            Compute(("attn.rel_pos_w",), "self_attn.across", (side, size, side), table),
            Rename("layer_norm1.*", "attention_norm.*"),
            Rename("layer_norm2.*", "mlp_norm.*"),
            Rename("mlp.lin1.*", "mlp.up_proj.*"),
            Rename("mlp.lin2.*", "mlp.down_proj.*"),
        ),
        to=f"vision.model.stack.layers.{number}.",
    )


_PARTS = ("weight", "bias")


def _weights(spec: Spec) -> tuple[Rule, ...]:
    vision, size = spec.vision, spec.decoder.hidden_size
    places = (1, vision.side**2, vision.hidden_size)
    positions = "shared_image_embedding.positional_embedding", "prompt_encoder.shared_embedding.positional_embedding"
    flat: Callable[[Tensor], Tensor] = lambda table: table.reshape(places)  # noqa: E731
    return (
        Tie(positions[0], positions[1]),
        Ignore(positions[0]),
        Rename(positions[1], "masks.prompts.waves"),
        *(_layer_names(vision, number) for number in range(vision.num_hidden_layers)),
        Rename("vision_encoder.patch_embed.projection.*", "vision.model.embeddings.projection.*"),
        Compute(("vision_encoder.pos_embed",), "vision.model.embeddings.positions", places, flat),
        Rename("vision_encoder.neck.*", "vision.*"),
        Rename("prompt_encoder.mask_embed.*", "masks.prompts.*"),
        Rename("prompt_encoder.point_embed.{}.weight", "masks.prompts.point_embed.{}"),
        *(
            Rename(f"prompt_encoder.{name}.weight", f"masks.prompts.{name}")
            for name in ("no_mask_embed", "not_a_point_embed")
        ),
        *(Rename(f"mask_decoder.{name}.weight", f"masks.{name}") for name in ("iou_token", "mask_tokens")),
        Rename("mask_decoder.output_hypernetworks_mlps.{}.*", "masks.kernels.{}.*"),
        Rename("mask_decoder.transformer.final_attn_token_to_image.*", "masks.final_attn.*"),
        Rename("mask_decoder.transformer.layer_norm_final_attn.*", "masks.final_norm.*"),
        Rename("mask_decoder.transformer.layers.{}.mlp.lin1.*", "masks.layers.{}.mlp.up_proj.*"),
        Rename("mask_decoder.transformer.layers.{}.mlp.lin2.*", "masks.layers.{}.mlp.down_proj.*"),
        Rename("mask_decoder.transformer.*", "masks.*"),
        Rename("mask_decoder.*", "masks.*"),
        *_grown("masks.upscale_conv1", size, size // 4),
        *_grown("masks.upscale_conv2", size // 4, size // 8),
    )


def _compose(spec: Spec, absent: frozenset[str]) -> nn.Module:
    return Composite({"vision": _Vision(spec.vision), "masks": _Masks(spec)})


FAMILY = Family(
    spec=Spec,
    heads={heads.MASK_GENERATION: _compose},
    weights=_weights,
    inert=frozenset({"tie_word_embeddings"}),
    tiny={
        # A grid of 4 in windows of 3, the last of which are filled up, and as a whole.
        "vision_config": {"hidden_size": 24, "output_channels": 16, "num_hidden_layers": 2, "num_attention_heads": 3}
        | {"image_size": 24, "patch_size": 6, "window_size": 3, "global_attn_indexes": [1], "num_pos_feats": 8},
        "prompt_encoder_config": {"hidden_size": 16, "image_size": 24, "patch_size": 6, "mask_input_channels": 8},
        "mask_decoder_config": {"hidden_size": 16, "mlp_dim": 24, "num_attention_heads": 2, "iou_head_hidden_dim": 12},
    },
    variations=(
        {
            "vision_config": {"hidden_size": 20, "output_channels": 24, "num_hidden_layers": 1, "mlp_ratio": 1.5}
            | {"num_attention_heads": 2, "num_channels": 1, "image_size": 16, "patch_size": 8, "use_abs_pos": False}
            | {"use_rel_pos": False, "qkv_bias": False, "window_size": 0, "num_pos_feats": 12, "hidden_act": "relu"}
            | {"layer_norm_eps": 1e-4, "global_attn_indexes": []},
            "prompt_encoder_config": {"hidden_size": 24, "image_size": 32, "patch_size": 16, "hidden_act": "relu"}
            | {"layer_norm_eps": 1e-4},
            "mask_decoder_config": {"hidden_size": 24, "mlp_dim": 24, "num_attention_heads": 3, "iou_head_depth": 4}
            | {"iou_head_hidden_dim": 12, "num_hidden_layers": 1, "attention_downsample_rate": 1}
            | {"num_multimask_outputs": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-4},
        },
    ),
)
