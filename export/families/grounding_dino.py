"""Grounding DINO: a detector over several maps that reads what it looks for: words and places look at each other in the
encoder, and objects at both. https://arxiv.org/abs/2303.05499"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.convolution import Convolution, GroupNorm
from precast.export.blocks.deformable import DeformableAttention, Levels, levels_of
from precast.export.blocks.embeddings import PositionTable, TextEmbeddings, mask_port
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.patches import rows_of
from precast.export.blocks.places import LearnedPlaces, PointSines, SinePlaces, mask_at
from precast.export.families import Family, bert, detr
from precast.export.head_sets.boxes import DeepHead
from precast.export.operators import attention
from precast.export.signatures import Component
from precast.export.skeletons.deformable import (
    EDGE,
    SIDE,
    WHOLE,
    MapsDetector,
    MapsEncoderLayer,
)
from precast.export.skeletons.detector import EncoderLayer, PlacedAttention
from precast.export.skeletons.post_norm import EMBEDDING_NAMES, TINY, layer, layer_names
from precast.export.spec import hf
from precast.export.weights import Ignore, Prefixed, Rename, Rule, Tie, Within
from precast.runtime.catalogue import CATALOGUE
from precast.runtime.errors import ConfigError
from precast.runtime.ports import Dim, Out, Port

__all__ = ["FAMILY", "Phrases", "Spec"]

_GROUPS = 32  # of the norms behind projections
_ENDS = (101, 102, 1012, 1029)  # of phrases: BERT's [CLS], [SEP], "." and "?"
_SURE = math.log((1 - 1e-5) / 1e-5)  # logits of boxes that move are no larger
_HIDDEN = -1e4  # added to scores of what is not seen: its share is 0 in every type


@dataclass(frozen=True, kw_only=True)
class TextSpec(bert.Spec):
    model_type: str = hf(default="bert", only=("bert",))


@dataclass(frozen=True, kw_only=True)
class Spec(detr.Spec):
    text: TextSpec = hf("text_config", default={}, spec=TextSpec, inert=frozenset({"use_cache"}))
    num_queries: int = hf(default=900)
    num_feature_levels: int = hf(default=4)
    encoder_n_points: int = hf(default=4)
    decoder_n_points: int = hf(default=4)
    max_text_len: int = hf(default=256)
    layer_norm_eps: float = hf(default=1e-5)
    positional_embedding_temperature: int = hf(default=20)
    two_stage: bool = hf(default=True, only=(True,))
    embedding_init_target: bool = hf(default=True, only=(True,))
    query_dim: int = hf(default=4, only=(4,))
    decoder_bbox_embed_share: bool = hf(default=True)

    def __post_init__(self) -> None:
        found = len(self.inner.taken)
        if self.num_feature_levels < found:
            raise ConfigError(f"'num_feature_levels' is {self.num_feature_levels}, and the backbone gives {found} maps")
        if self.encoder_attention_heads % 2 or self.decoder_layers < 1:
            raise ConfigError(
                f"'encoder_attention_heads' is {self.encoder_attention_heads} and 'decoder_layers' "
                f"{self.decoder_layers}: words have half as many heads, and objects one layer at least"
            )

    @property
    def usual(self) -> Mapping[str, Any]:
        return {"model_type": "swin", "out_indices": [2, 3, 4]}


class Phrases(nn.Module):
    """ids [B, S] -> which tokens see each other [B, S, S], those of one phrase, and where in it each is [B, S].

    A phrase ends with a full stop or the like; what is behind the last end sees itself alone.
    """

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        place = torch.arange(ids.shape[1], device=ids.device)
        ends = ids == _ENDS[0]
        for end in _ENDS[1:]:
            ends = torch.logical_or(ends, ids == end)
        ends, count = ends[:, None], place[-1:] + 1
        before = torch.logical_and(ends, place[:, None] > place)
        behind = torch.logical_and(ends, place[:, None] <= place)
        last = torch.where(before, place, -1).amax(dim=-1)
        following = torch.where(behind, place, count).amin(dim=-1)
        whole = torch.logical_and(following > 0, following < count - 1)
        together = torch.logical_and(following[:, :, None] == following[:, None], whole[:, None])
        together = torch.logical_or(together, place[:, None] == place)
        return together, torch.where(whole, place - last - 1, 0)


class Text(nn.Module):
    """ids, token types [B, S] -> states of words [B, S, D], which of them see each other, and where in a phrase each
    is: BERT's layers, phrase by phrase."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        own, self.longest = spec.text, spec.max_text_len
        self.phrases = Phrases()
        self.embeddings = TextEmbeddings(
            own.vocab_size, own.hidden_size, positions=None, token_types=own.type_vocab_size, norm=None
        )
        self.positions = PositionTable(own.max_position_embeddings, own.hidden_size)
        self.norm = LayerNorm(own.hidden_size, own.layer_norm_eps)
        self.layers = nn.ModuleList(layer(own) for _ in range(own.num_hidden_layers))
        self.projection = nn.Linear(own.hidden_size, spec.d_model)

    def bounds(self) -> dict[str, Dim]:
        return {"sequence": Dim(most=self.longest)}

    def forward(self, ids: Tensor, types: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        together, places = self.phrases(ids)
        x, _ = self.norm.add(self.embeddings(ids, types), self.positions.table(places))
        bias = (together[:, None].to(x.dtype) - 1) * -_HIDDEN
        for each in self.layers:
            x = each(x, None, bias)
        return self.projection(x), bias, places


class Fusion(nn.Module):
    """Places look at words and words at places, by the same scores; either is added to what was normed, weighed channel
    by channel. https://arxiv.org/abs/2112.03857, section 3.2"""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        size, width, epsilon = spec.d_model, spec.encoder_ffn_dim // 2, spec.layer_norm_eps
        self.heads = spec.encoder_attention_heads // 2
        self.scale = (width // self.heads) ** -0.5
        self.layer_norm_vision, self.layer_norm_text = LayerNorm(size, epsilon), LayerNorm(size, epsilon)
        self.vision_proj, self.text_proj = nn.Linear(size, width), nn.Linear(size, width)
        self.values_vision_proj, self.values_text_proj = nn.Linear(size, width), nn.Linear(size, width)
        self.out_vision_proj, self.out_text_proj = nn.Linear(width, size), nn.Linear(width, size)
        self.vision_param, self.text_param = nn.Parameter(torch.empty(size)), nn.Parameter(torch.empty(size))

    def forward(self, rows: Tensor, shown: Tensor | None, words: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        rows, words = self.layer_norm_vision(rows), self.layer_norm_text(words)
        seen, read = self.vision_proj(rows), self.text_proj(words)
        look = partial(attention, heads=self.heads, scale=self.scale)
        found = look(seen, read, self.values_text_proj(words), mask=mask)
        shows = look(read, seen, self.values_vision_proj(rows), mask=shown)
        rows = rows + self.vision_param * self.out_vision_proj(found)
        return rows, words + self.text_param * self.out_text_proj(shows)


class PhraseLayer(EncoderLayer):
    """Attention of words to those of their phrase."""

    def forward(self, x: Tensor, places: Tensor, bias: Tensor | None) -> Tensor:
        placed = x + places
        x, _ = self.self_attn_layer_norm.add(self.self_attn(placed, placed, x, None, bias), x)
        return self.final_layer_norm.add(self.mlp(x), x)[0]


class GroundedLayer(nn.Module):
    """Places and words look at each other, then words at those of their phrase, and places at a few others."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        size, count, width = spec.d_model, spec.encoder_attention_heads, spec.encoder_ffn_dim
        norm, act = partial(LayerNorm, size, spec.layer_norm_eps), spec.activation_function
        self.fusion = Fusion(spec)
        self.words = PhraseLayer(
            attention=PlacedAttention(size, count // 2), mlp=MLP(size, width // 2, act), norms=(norm(), norm())
        )
        points = DeformableAttention(size, count, levels=spec.num_feature_levels, points=spec.encoder_n_points)
        self.rows = MapsEncoderLayer(attention=points, mlp=MLP(size, width, act), norms=(norm(), norm()))


class ObjectLayer(nn.Module):
    """Attention among the objects, to words, and over several maps; each followed by the norm of its sum."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        size, count, epsilon = spec.d_model, spec.decoder_attention_heads, spec.layer_norm_eps
        self.self_attn, self.encoder_attn_text = PlacedAttention(size, count), PlacedAttention(size, count)
        self.encoder_attn = DeformableAttention(
            size, count, levels=spec.num_feature_levels, points=spec.decoder_n_points
        )
        self.mlp = MLP(size, spec.decoder_ffn_dim, spec.activation_function)
        self.self_attn_layer_norm, self.encoder_attn_text_layer_norm = (LayerNorm(size, epsilon) for _ in range(2))
        self.encoder_attn_layer_norm, self.final_layer_norm = (LayerNorm(size, epsilon) for _ in range(2))

    def forward(
        self, x: Tensor, queries: Tensor, words: tuple[Tensor, Tensor], rows: Tensor, maps: Levels, boxes: Tensor
    ) -> Tensor:
        """Objects x [B, Q, H], their positions, words and their mask, and where is looked, see `Levels.around`."""
        placed = x + queries
        x, _ = self.self_attn_layer_norm.add(self.self_attn(placed, placed, x), x)
        text, mask = words
        x, _ = self.encoder_attn_text_layer_norm.add(self.encoder_attn_text(x + queries, text, text, mask), x)
        around = maps.around(boxes, 0.5 / self.encoder_attn.points)
        x, _ = self.encoder_attn_layer_norm.add(self.encoder_attn(x + queries, rows, maps, *around), x)
        return self.final_layer_norm.add(self.mlp(x), x)[0]


class Objects(nn.Module):
    """Layers of objects; boxes of the places that are likeliest to show what words say are where they look first."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        size, self.count = spec.d_model, spec.num_queries
        self.projection, self.norm = nn.Linear(size, size), LayerNorm(size, spec.layer_norm_eps)
        self.proposed = DeepHead((size, size, size, 4))
        self.queries = nn.Parameter(torch.empty(self.count, size))
        self.sines, self.placed = PointSines(size // 2), DeepHead((2 * size, size, size))
        self.layers = nn.ModuleList(ObjectLayer(spec) for _ in range(spec.decoder_layers))
        self.layer_norm = LayerNorm(size, spec.layer_norm_eps)
        self.boxes = nn.ModuleList(DeepHead((size, size, size, 4)) for _ in range(spec.decoder_layers))

    def forward(self, rows: Tensor, maps: Levels, text: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Rows [B, S, H] of ``maps``, words [B, T, H] -> objects [B, Q, H], and logits of their boxes [B, Q, 4]."""
        boxes = self._proposals(rows, maps, text, mask)
        x = self.queries.expand(rows.shape[0], -1, -1)
        last = len(self.layers) - 1
        for number, (each, moves) in enumerate(zip(self.layers, self.boxes, strict=True)):
            looked = torch.sigmoid(boxes)
            shares = looked * torch.cat((maps.shares[:, :1], maps.shares[:, :1]), dim=-1)
            across, down, *sides = shares.unbind(-1)
            queries = self.placed(self.sines(torch.stack((down, across, *sides), dim=-1)))
            x = each(x, queries, (text, mask), rows, maps, looked)
            if number == last:
                x = self.layer_norm(x)
            boxes = boxes.clamp(-_SURE, _SURE) + moves(x)
        return x, boxes

    def _proposals(self, rows: Tensor, maps: Levels, text: Tensor, mask: Tensor) -> Tensor:
        anchors = maps.anchors(SIDE)
        inside = torch.logical_and(anchors.amin(-1) > EDGE, anchors.amax(-1) < 1 - EDGE)
        assert maps.shown is not None
        inside = torch.logical_and(inside, maps.shown > 0)
        logits = torch.where(inside[..., None], torch.log(anchors / (-anchors + 1)), WHOLE)
        states = self.norm(self.projection(rows * inside[..., None].to(rows.dtype)))
        said = torch.where(mask[:, None] > 0, torch.bmm(states, text.transpose(1, 2)), -float("inf"))
        best = said.amax(dim=-1).topk(self.count, dim=1).indices[..., None]
        chosen = states.gather(1, best.expand(-1, -1, states.shape[-1]))
        return self.proposed(chosen) + logits.gather(1, best.expand(-1, -1, 4))


class Grounded(MapsDetector):
    """Pixels, their mask, ids, mask and token types of words -> objects [B, Q, H], logits of their boxes [B, Q, 4], and
    words [B, S, H]."""

    def __init__(self, spec: Spec) -> None:
        size, channels, inner = spec.d_model, spec.inner.channels, spec.inner
        more = (channels[-1], *(size for _ in range(spec.num_feature_levels)))[
            : spec.num_feature_levels - len(channels)
        ]
        places: nn.Module = SinePlaces(size, temperature=spec.positional_embedding_temperature, angles=torch.float32)
        if spec.position_embedding_type != "sine":
            places = LearnedPlaces(size, stride=inner.strides[0])
        convolutions = (
            *(nn.Conv2d(each, size, 1) for each in channels),
            *(Convolution(each, size, 3, stride=2) for each in more),
        )
        objects = Objects(spec)
        super().__init__(
            inner.build(),
            inner.strides,
            [nn.Sequential(each, GroupNorm(size, _GROUPS, 1e-5)) for each in convolutions],
            size,
            places=places,
            encoder=[GroundedLayer(spec) for _ in range(spec.encoder_layers)],
            start=objects,
            decoder=nn.Identity(),  # type: ignore[arg-type] # objects begin and go on in one module
        )
        self.text, self.phrase_sines = Text(spec), PointSines(size)

    def grounded(
        self, pixels: Tensor, pixel_mask: Tensor, ids: Tensor, mask: Tensor, types: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        words, bias, phrase = self.text(ids, types)
        phrase_places = self.phrase_sines(phrase[..., None].to(words.dtype))
        grids = self._maps(pixels)
        masks = [mask_at(pixel_mask, grid.shape[2], grid.shape[3]) for grid in grids]
        maps, rows = levels_of(grids, masks), torch.cat([rows_of(grid) for grid in grids], dim=1)
        made = [self.places(each) for each in masks]
        flat = [each.view(each.shape[0], -1, each.shape[3]) + self.levels[number] for number, each in enumerate(made)]
        places, around = torch.cat(flat, dim=1), maps.around(maps.centres, 1)
        for each in self.encoder:
            rows, words = each.fusion(rows, maps.shown, words, mask)  # type: ignore[operator]
            words = each.words(words, phrase_places, bias)  # type: ignore[operator]
            rows = each.rows(rows, places, maps, *around)  # type: ignore[operator]
        objects, boxes = self.start(rows, maps, words, mask)
        return objects, boxes, words


class _Detection(Component):
    """{"logits": [B, Q, longest text] of every token, -inf where there is none, "pred_boxes": [B, Q, 4]}."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.model, self.longest = Grounded(spec), spec.max_text_len

    def ports(self) -> tuple[Port, ...]:
        words, *types = self.model.text.embeddings.ports()
        return *self.model.ports(), words, mask_port(words), *types

    def outs(self) -> tuple[Out, ...]:
        logits, boxes = CATALOGUE["zero-shot-object-detection"].outs
        logits = logits._replace(shape=("batch", "queries", self.longest))
        return logits, boxes._replace(shape=("batch", "queries", 4))

    def forward(
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
    ) -> dict[str, Tensor]:
        text = (input_ids, attention_mask, token_type_ids)
        objects, boxes, words = self.model.grounded(pixel_values, pixel_mask, *text)
        beyond = self.longest - input_ids.shape[1]
        there, words = F.pad(attention_mask, (0, beyond)), F.pad(words, (0, 0, 0, beyond))
        logits = torch.where(there[:, None] > 0, objects @ words.transpose(1, 2), -float("inf"))
        return {"logits": logits, "pred_boxes": torch.sigmoid(boxes)}


def _weights(spec: Spec) -> tuple[Rule, ...]:
    parts = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out_proj": "o_proj"}
    last, shared = spec.decoder_layers - 1, spec.decoder_bbox_embed_share
    head = [f"layers.{number}.{kind}" for number in range(3) for kind in ("weight", "bias")]
    every = [(number, name) for number in range(last + 1) for name in head]

    def attended(name: str) -> tuple[Rule, ...]:
        return tuple(Rename(f"{name}.{old}.*", f"{name}.{new}.*") for old, new in parts.items())

    encoder = (
        *attended("text_enhancer_layer.self_attn"),
        Rename("text_enhancer_layer.fc1.*", "words.mlp.up_proj.*"),
        Rename("text_enhancer_layer.fc2.*", "words.mlp.down_proj.*"),
        Rename("text_enhancer_layer.layer_norm_before.*", "words.self_attn_layer_norm.*"),
        Rename("text_enhancer_layer.layer_norm_after.*", "words.final_layer_norm.*"),
        Rename("text_enhancer_layer.*", "words.*"),
        Rename("fusion_layer.attn.*", "fusion.*"),
        Rename("fusion_layer.*", "fusion.*"),
        *detr.layer_names("deformable_layer."),
        Rename("deformable_layer.*", "rows.*"),
    )
    return (
        Prefixed("model", beside=("bbox_embed.*",)),
        *(Tie(f"bbox_embed.{number}.{name}", f"model.decoder.bbox_embed.{number}.{name}") for number, name in every),
        *(Tie(f"bbox_embed.{number}.{name}", f"bbox_embed.0.{name}") for number, name in every if number and shared),
        Ignore("model.decoder.bbox_embed.*"),
        Rename("model.*", "*"),
        Within("text_backbone.embeddings.", EMBEDDING_NAMES, to="model.text.embeddings."),
        Within("text_backbone.encoder.layer.{}.", layer_names(), to="model.text.layers.{}."),
        Rename("model.text.embeddings.positions.*", "model.text.positions.*"),
        Rename("model.text.embeddings.norm.*", "model.text.norm.*"),
        Rename("text_projection.*", "model.text.projection.*"),
        Rename("backbone.conv_encoder.*", "backbone.*"),
        spec.inner.names("backbone.model.", "model.backbone."),
        *(
            Rename(f"backbone.position_embedding.{part}_embeddings.*", f"model.places.{part}s.*")
            for part in ("row", "column")
        ),
        Rename("input_proj_vision.*", "model.projections.*"),
        Rename("level_embed", "model.levels"),
        Within("encoder.layers.{}.", encoder, to="model.encoder.{}."),
        Rename("enc_output.*", "model.start.projection.*"),
        Rename("enc_output_norm.*", "model.start.norm.*"),
        Rename("encoder_output_bbox_embed.*", "model.start.proposed.*"),
        Rename("query_position_embeddings.weight", "model.start.queries"),
        Within(
            "decoder.layers.{}.",
            (*attended("self_attn"), *attended("encoder_attn_text"), *detr.layer_names("")),
            to="model.start.layers.{}.",
        ),
        Rename("decoder.layer_norm.*", "model.start.layer_norm.*"),
        Rename("decoder.reference_points_head.*", "model.start.placed.*"),
        Rename("bbox_embed.*", "model.start.boxes.*"),
    )


_SWIN = {"model_type": "swin", "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 3, "patch_size": 4}
_SWIN |= {"out_indices": [1, 2], "image_size": 32, "mlp_ratio": 2.0}
_SIZES = {"d_model": 32, "encoder_ffn_dim": 48, "decoder_ffn_dim": 40, "encoder_attention_heads": 4}
_SIZES |= {"decoder_attention_heads": 4, "encoder_n_points": 2, "decoder_n_points": 2, "num_queries": 5}

FAMILY = Family(
    model_type="grounding-dino",
    spec=Spec,
    heads={heads.ZERO_SHOT_OBJECTS: lambda spec, absent: _Detection(spec)},
    weights=_weights,
    inert=detr.INERT
    | {"focal_alpha", "disable_custom_kernels", "text_enhancer_dropout", "fusion_droppath", "fusion_dropout"}
    | {"tie_word_embeddings", "two_stage_bbox_embed_share"},
    tiny={**_SIZES, "encoder_layers": 1, "decoder_layers": 2, "num_feature_levels": 3, "max_text_len": 64}
    | {
        "text_config": {**TINY, "model_type": "bert", "num_hidden_layers": 1, "vocab_size": 1100},
        "backbone_config": _SWIN,
    },
    variations=(
        {"encoder_layers": 1, "decoder_layers": 1, "num_feature_levels": 2, "activation_function": "gelu"}
        | {"position_embedding_type": "learned", "decoder_bbox_embed_share": False, "max_text_len": 40}
        | {"backbone_config": {**_SWIN, "num_channels": 1}},
    ),
)
