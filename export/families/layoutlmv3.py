"""LayoutLMv3: one encoder over the words of a page, where they stand, and patches of its picture; scores know how far
apart two of them are, in order and on the page. https://arxiv.org/abs/2204.08387"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.attention import head_size
from precast.export.blocks.boxes import PAGE, JoinedBoxes
from precast.export.blocks.embeddings import CountedPositions, mask_port
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.patches import Patches
from precast.export.blocks.relative import two_sided_buckets
from precast.export.blocks.tables import Table
from precast.export.families import Family, roberta
from precast.export.families.layoutlm import BOX_NAMES
from precast.export.head_sets.encoders import encoder_heads, first_token
from precast.export.skeletons.post_norm import ODD, TINY, embeddings, layer, names, norm, transform
from precast.export.spec import hf
from precast.export.weights import Fold, Ignore, Rename, Within
from precast.runtime.errors import ConfigError
from precast.runtime.ports import Out, Port

__all__ = ["FAMILY", "Spec"]


@dataclass(frozen=True, kw_only=True)
class Spec(roberta.Spec):
    """Keys of RoBERTa, of boxes, of patches and of distances."""

    vocab_size: int = hf(default=50265)
    layer_norm_eps: float = hf(default=1e-5)
    max_2d_position_embeddings: int = hf(default=1024)
    coordinate_size: int = hf(default=128)
    shape_size: int = hf(default=128)
    has_relative_attention_bias: bool = hf(default=True)
    rel_pos_bins: int = hf(default=32)
    max_rel_pos: int = hf(default=128)
    has_spatial_attention_bias: bool = hf(default=True)
    rel_2d_pos_bins: int = hf(default=64)
    max_rel_2d_pos: int = hf(default=256)
    text_embed: bool = hf(default=True, only=(True,))
    visual_embed: bool = hf(default=True)
    input_size: int = hf(default=224)
    num_channels: int = hf(default=3)
    patch_size: int = hf(default=16)

    def __post_init__(self) -> None:
        made = 4 * self.coordinate_size + 2 * self.shape_size
        if made != self.hidden_size:
            raise ConfigError(
                f"4 times 'coordinate_size' and twice 'shape_size' are 'hidden_size'; received {made} and "
                f"{self.hidden_size}."
            )


class Apart(nn.Module):
    """A learned score bias for each bucket of a distance and each head, places [B or 1, L] -> [B or 1, N, L, L]."""

    def __init__(self, bins: int, furthest: int, heads: int) -> None:
        super().__init__()
        self.furthest = furthest
        self.table = nn.Linear(bins, heads, bias=False)
        distances = partial(torch.arange, -furthest, furthest + 1)
        self.buckets = Table((2 * furthest + 1,), lambda: two_sided_buckets(distances(), bins, furthest), torch.int64)

    def forward(self, places: Tensor) -> Tensor:
        rows = (places[:, :, None] - places[:, None]).clamp(-self.furthest, self.furthest) + self.furthest
        by_distance = self.table.weight.index_select(1, self.buckets())  # [N, D], a constant of the graph
        return by_distance[:, rows].transpose(0, 1)


class PagePatches(Patches):
    """Patches of the picture of a page, and where each of them is; the token in front is the page."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec.hidden_size, image=spec.input_size, patch=spec.patch_size, channels=spec.num_channels)
        self.side = spec.input_size // spec.patch_size
        self.boxes = Table((self.side**2 + 1, 4), self._boxes, torch.int64)

    def _boxes(self) -> Tensor:
        edges = torch.arange(self.side + 1) * PAGE // self.side
        top, left = torch.cartesian_prod(edges[:-1], edges[:-1]).unbind(1)
        bottom, right = torch.cartesian_prod(edges[1:], edges[1:]).unbind(1)
        page = torch.tensor([[1, 1, PAGE - 1, PAGE - 1]])
        return torch.cat((page, torch.stack((left, top, right, bottom), dim=1)))


class Page(nn.Module):
    """ids [B, S], mask [B, S], bbox [B, S, 4], pixels [B, C, I, I] -> states of words and patches [B, S + P, H]."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        assert spec.pad_token_id is not None
        positions = CountedPositions(spec.max_position_embeddings, spec.hidden_size, spec.pad_token_id)
        boxes = JoinedBoxes(spec.max_2d_position_embeddings, spec.coordinate_size, spec.shape_size)
        self.embeddings = embeddings(spec, positions, boxes=boxes)
        self.patches = PagePatches(spec) if spec.visual_embed else None
        self.patch_norm = LayerNorm(spec.hidden_size, 1e-6) if spec.visual_embed else None
        self.norm = norm(spec) if spec.visual_embed else None
        self.order, self.across, self.down = _biases(spec)
        self.layers = nn.ModuleList(layer(spec) for _ in range(spec.num_hidden_layers))

    def ports(self) -> tuple[Port, ...]:
        """Ids, mask, token types, boxes and, where it is read, a picture."""
        words, *others = self.embeddings.ports()
        return words, mask_port(words), *others, *(() if self.patches is None else self.patches.ports())

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        *,
        bbox: Tensor,
        pixel_values: Tensor | None = None,
    ) -> Tensor:
        x = self.embeddings(input_ids, token_type_ids, bbox)
        order = torch.arange(x.shape[1], device=x.device)
        if self.patches is not None and self.patch_norm is not None and self.norm is not None:
            seen = self.patch_norm(self.patches(pixel_values))
            x = self.norm(torch.cat((x, seen), dim=1))
            order = torch.cat((order, torch.arange(seen.shape[1], device=x.device)))
            bbox = torch.cat((bbox, self.patches.boxes().expand(x.shape[0], -1, -1)), dim=1)
            attention_mask = torch.cat((attention_mask, attention_mask.new_ones(seen.shape[:2])), dim=1)
        bias = None if self.order is None else self.order(order[None])
        if self.across is not None and self.down is not None:
            bias = bias + self.across(bbox[..., 0]) + self.down(bbox[..., 3])
        for each in self.layers:
            x = each(x, attention_mask, bias)
        return x


def _biases(spec: Spec) -> tuple[Apart | None, Apart | None, Apart | None]:
    """Of the order, across and down the page; those of the page are read beside that of the order alone."""
    if not spec.has_relative_attention_bias:
        return None, None, None
    order = Apart(spec.rel_pos_bins, spec.max_rel_pos, spec.num_attention_heads)
    if not spec.has_spatial_attention_bias:
        return order, None, None
    across, down = (Apart(spec.rel_2d_pos_bins, spec.max_rel_2d_pos, spec.num_attention_heads) for _ in range(2))
    return order, across, down


def _of_all(outs: tuple[Out, ...]) -> tuple[Out, ...]:
    """Outputs for each place there is: a word or a patch."""
    return tuple(out._replace(shape=tuple("places" if dim == "sequence" else dim for dim in out.shape)) for out in outs)


class Features(heads.FeatureExtraction):
    """{"last_hidden_state": [B, S + P, H]}."""

    def outs(self) -> tuple[Out, ...]:
        """Of words and patches."""
        return _of_all(super().outs())


class Answers(heads.QuestionAnswering):
    """{"start_logits": [B, S + P], "end_logits": [B, S + P]}."""

    def outs(self) -> tuple[Out, ...]:
        """Of words and patches."""
        return _of_all(super().outs())


class Words(heads.TokenClassification):
    """{"logits": [B, S, L]}: of words alone."""

    def outputs(self, states: Tensor, mask: Tensor) -> dict[str, Tensor]:
        return super().outputs(states[:, : mask.shape[1]], mask)


def _classifier(spec: Spec, labels: int, *, many: bool = True) -> nn.Module:
    size = spec.hidden_size
    return heads.ClassifierHead(size, labels, torch.tanh) if many else nn.Linear(size, labels)


_MANY = 10  # labels from which a classifier of words has a layer of its own
_SHARED = encoder_heads(Page, transform=transform, text=first_token(torch.tanh))
_VISUAL = {"patch_embed.proj": "patches.projection", "norm": "patch_norm", "LayerNorm": "norm"}

FAMILY = Family(
    spec=Spec,
    heads={
        heads.BASE: lambda spec, absent: Features(Page(spec)),
        heads.SEQUENCE_CLASSIFICATION: _SHARED[heads.SEQUENCE_CLASSIFICATION],
        heads.TOKEN_CLASSIFICATION: lambda spec, absent: Words(
            Page(spec), _classifier(spec, spec.labels, many=spec.labels >= _MANY)
        ),
        heads.QUESTION_ANSWERING: lambda spec, absent: Answers(Page(spec), _classifier(spec, 2)),
    },
    weights=lambda spec: (
        *names("layoutlmv3"),
        *(() if spec.has_relative_attention_bias else (Ignore("encoder.rel_pos_*"),)),
        Within("model.embeddings.", BOX_NAMES),
        *(Rename(f"{old}.*", f"model.{new}.*") for old, new in _VISUAL.items()),
        Rename("cls_token", "model.patches.cls_token"),
        Rename("pos_embed", "model.patches.positions"),
        *(
            Rename(f"encoder.rel_pos_{old}bias.weight", f"model.{new}.table.weight")
            for old, new in (("", "order"), ("x_", "across"), ("y_", "down"))
        ),
        *(
            Fold(f"model.{name}.table.weight", scale=head_size(spec.hidden_size, spec.num_attention_heads) ** -0.5)
            for name in ("order", "across", "down")
        ),
    ),
    tiny={**TINY, "coordinate_size": 6, "shape_size": 4, "input_size": 20, "patch_size": 8, "rel_2d_pos_bins": 16}
    | {"max_position_embeddings": 162},
    variations=(
        # More labels than a plain classifier has, a picture of one channel, other buckets.
        {**ODD, "hidden_size": 30, "coordinate_size": 5, "shape_size": 5, "num_labels": 11, "num_channels": 1}
        | {"max_rel_pos": 9, "rel_pos_bins": 8, "max_rel_2d_pos": 40, "max_2d_position_embeddings": 77}
        | {"pad_token_id": 4, "max_position_embeddings": 133, "has_spatial_attention_bias": False},
        {"visual_embed": False, "has_relative_attention_bias": False, "num_hidden_layers": 1, "hidden_act": "relu"},
    ),
)
