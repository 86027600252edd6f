"""LiLT: RoBERTa's layers beside narrow ones that read where words stand; the scores of both are one sum, by which each
attends to its own values. https://arxiv.org/abs/2202.13669"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from precast.export.blocks.attention import head_size
from precast.export.blocks.boxes import JoinedBoxes
from precast.export.blocks.embeddings import CountedPositions, mask_port
from precast.export.blocks.mlp import MLP
from precast.export.families import Family, roberta
from precast.export.families.layoutlm import BOX_NAMES, HEADS
from precast.export.heads import MASKED_LM
from precast.export.operators import attention
from precast.export.skeletons.post_norm import ODD, TINY, embeddings, names, norm
from precast.export.spec import hf
from precast.export.weights import Fold, Ignore, Rename, Within
from precast.runtime.errors import ConfigError
from precast.runtime.ports import Port

__all__ = ["FAMILY", "Spec"]


@dataclass(frozen=True, kw_only=True)
class Spec(roberta.Spec):
    """RoBERTa's keys, and how much narrower the layers of places are."""

    vocab_size: int = hf(default=30522)
    pad_token_id: int | None = hf(default=0, read=roberta.padding)
    max_2d_position_embeddings: int = hf(default=1024)
    channel_shrink_ratio: int = hf(default=4)

    def __post_init__(self) -> None:
        by, head = self.channel_shrink_ratio, head_size(self.hidden_size, self.num_attention_heads)
        if by < 1 or head % by:
            raise ConfigError(f"'channel_shrink_ratio' must divide the {head} channels of a head; received {by}.")
        if self.hidden_size % 6:
            raise ConfigError(f"a box is six parts of 'hidden_size', which 6 must divide; received {self.hidden_size}.")


class Asking(nn.Module):
    """What a stream of [B, S, H] puts into the scores, and is weighed by them."""

    def __init__(self, size: int, parts: str = "qkv") -> None:
        super().__init__()
        self.self_attn = nn.ModuleDict({f"{part}_proj": nn.Linear(size, size) for part in parts})


class Stream(Asking):
    """One of two that share their scores: x = norm(x + o(context)); x = norm(x + mlp(x))."""

    def __init__(self, spec: Spec, size: int) -> None:
        super().__init__(size, "qkvo")
        self.attention_norm, self.mlp_norm = norm(spec, size), norm(spec, size)
        self.mlp = MLP(size, spec.intermediate_size * size // spec.hidden_size, spec.hidden_act)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x, _ = self.attention_norm.add(self.self_attn["o_proj"](context), x)
        x, _ = self.mlp_norm.add(self.mlp(x), x)
        return x


class Places(nn.Module):
    """norm(linear(boxes) + positions), bbox [B, S, 4], ids [B, S] -> [B, S, H / R]."""

    def __init__(self, spec: Spec, size: int) -> None:
        super().__init__()
        self.boxes = JoinedBoxes(spec.max_2d_position_embeddings, spec.hidden_size // 6)
        self.linear = nn.Linear(spec.hidden_size, size)
        self.positions = _positions(spec, size)
        self.norm = norm(spec, size)

    def forward(self, bbox: Tensor, input_ids: Tensor) -> Tensor:
        return self.norm.add(self.linear(self.boxes(bbox)), self.positions(input_ids))[0]


class Beside(nn.Module):
    """ids [B, S], mask [B, S], bbox [B, S, 4] -> hidden states of the words [B, S, H]."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        size, count, by = spec.hidden_size, spec.num_hidden_layers, spec.channel_shrink_ratio
        self.heads, self.shares = spec.num_attention_heads, (size // spec.num_attention_heads, by)
        self.embeddings = embeddings(spec, _positions(spec, size))
        self.places = Places(spec, size // by)
        self.layers = nn.ModuleList(Stream(spec, size) for _ in range(count))
        self.narrow = nn.ModuleList(Stream(spec, size // by) for _ in range(count - 1))
        self.narrow.append(Asking(size // by))  # nothing reads what that layer would make of places

    def ports(self) -> tuple[Port, ...]:
        """Ids, mask, token types and boxes."""
        words, *types = self.embeddings.ports()
        return words, mask_port(words), *types, self.places.boxes.port()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None, bbox: Tensor) -> Tensor:
        words, places = self.embeddings(input_ids, token_type_ids), self.places(bbox, input_ids)
        for wide, narrow in zip(self.layers, self.narrow, strict=True):
            seen = self._seen(attention_mask, (wide, words), (narrow, places))
            words = wide(words, seen[0])
            if isinstance(narrow, Stream):
                places = narrow(places, seen[1])
        return words

    def _seen(self, mask: Tensor, *streams: tuple[nn.Module, Tensor]) -> tuple[Tensor, ...]:
        """The context of either stream: their scores add up where channels of both are those of one head, and so their
        values are weighed alike."""
        size, by = self.shares
        parts = [
            torch.cat([layer.self_attn[part](x).unflatten(-1, (self.heads, -1)) for layer, x in streams], dim=-1)  # type: ignore[index, operator]
            for part in ("q_proj", "k_proj", "v_proj")
        ]
        query, key, value = (part.flatten(2) for part in parts)
        context = attention(query, key, value, mask=mask, heads=self.heads, scale=size**-0.5)
        apart = context.unflatten(-1, (self.heads, -1)).split((size, size // by), dim=-1)
        return tuple(each.flatten(2) for each in apart)


def _positions(spec: Spec, size: int) -> CountedPositions:
    assert spec.pad_token_id is not None
    return CountedPositions(spec.max_position_embeddings, size, spec.pad_token_id)


_NARROW = {
    **{f"attention.self.layout_{old}": f"self_attn.{old[0]}_proj" for old in ("query", "key", "value")},
    "attention.layout_output.dense": "self_attn.o_proj", "attention.layout_output.LayerNorm": "attention_norm",
    "layout_intermediate.dense": "mlp.up_proj", "layout_output.dense": "mlp.down_proj",
    "layout_output.LayerNorm": "mlp_norm",
}  # fmt: skip
_UNREAD = ("self_attn.o_proj", "attention_norm", "mlp", "mlp_norm")
_PLACES = (
    *BOX_NAMES,
    Rename("box_position_embeddings.*", "positions.table.*"),
    Rename("box_linear_embeddings.*", "linear.*"),
    Rename("LayerNorm.*", "norm.*"),
)

FAMILY = Family(
    spec=Spec,
    heads=roberta.heads(Beside, only=tuple(head for head in HEADS if head is not MASKED_LM)),
    weights=lambda spec: (
        *names("lilt"),
        *(Rename(f"model.layers.{{}}.{old}.*", f"model.narrow.{{}}.{new}.*") for old, new in _NARROW.items()),
        *(Ignore(f"model.narrow.{spec.num_hidden_layers - 1}.{part}.*") for part in _UNREAD),
        # Scores of the narrow stream have a scale of their own.
        Fold("model.narrow.{}.self_attn.q_proj.*", scale=spec.channel_shrink_ratio**0.5),
        Within("layout_embeddings.", _PLACES, to="model.places."),
    ),
    optional=("pooler",),
    tiny={**TINY, "hidden_size": 48, "max_position_embeddings": 161},
    variations=(
        {**ODD, "hidden_size": 30, "channel_shrink_ratio": 5, "max_2d_position_embeddings": 77, "type_vocab_size": 1}
        | {"pad_token_id": 4, "max_position_embeddings": 133},
    ),
)
