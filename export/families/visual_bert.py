"""VisualBERT: BERT over words, and behind them over what was seen: features of regions, each a token.
https://arxiv.org/abs/1908.03557"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.embeddings import mask_port
from precast.export.families import Family, LabelSpec
from precast.export.families.lxmert import regions_ports
from precast.export.signatures import Component
from precast.export.skeletons.post_norm import EMBEDDING_NAMES, ODD, TINY, EncoderSpec, embeddings, layer, layer_names
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Within
from precast.runtime.catalogue import CATALOGUE
from precast.runtime.ports import Dim, Out, Port

__all__ = ["FAMILY", "Spec"]

_SIZES = """vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act
max_position_embeddings type_vocab_size layer_norm_eps""".split()


@dataclass(frozen=True, kw_only=True)
class Spec(LabelSpec):
    vocab_size: int = hf(default=30522)
    hidden_size: int = hf(default=768)
    num_hidden_layers: int = hf(default=12)
    num_attention_heads: int = hf(default=12)
    intermediate_size: int = hf(default=3072)
    hidden_act: Activation = hf(default=activation("gelu"), read=activation)
    max_position_embeddings: int = hf(default=512)
    type_vocab_size: int = hf(default=2)
    layer_norm_eps: float = hf(default=1e-12)
    visual_embedding_dim: int = hf(default=512)
    bypass_transformer: bool = hf(default=False, only=(False,))  # with which upstream's own forward fails

    @property
    def encoder(self) -> EncoderSpec:
        """The sizes of words and layers, which are BERT's."""
        return EncoderSpec(**{name: getattr(self, name) for name in _SIZES})


class Body(nn.Module):
    """ids, mask, token types [B, S], features [B, R, F], their types and mask [B, R] -> states of words and regions, in
    this order, [B, S + R, H]. Regions have one position, the first."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        own = spec.encoder
        self.embeddings = embeddings(own)
        self.norm, self.embeddings.norm = self.embeddings.norm, None  # which is behind what words and regions both are
        self.seen = nn.Linear(spec.visual_embedding_dim, spec.hidden_size)
        self.seen_types = nn.Embedding(spec.type_vocab_size, spec.hidden_size)
        self.seen_positions = nn.Embedding(spec.max_position_embeddings, spec.hidden_size)
        self.layers = nn.ModuleList(layer(own) for _ in range(spec.num_hidden_layers))

    def ports(self) -> tuple[Port, ...]:
        """A text, and what was seen."""
        words, *types = self.embeddings.ports()
        shape, kinds = ("batch", "regions"), self.seen_types.num_embeddings
        features, shown = regions_ports(Port("visual_embeds", "float32", (*shape, self.seen.in_features), "features"))
        seen_types = Port("visual_token_type_ids", "int64", shape, "types", default=1, below=kinds)
        return words, mask_port(words), *types, features, shown, seen_types

    def forward(
        self, ids: Tensor, mask: Tensor, types: Tensor | None, features: Tensor, shown: Tensor, seen_types: Tensor
    ) -> Tensor:
        assert self.norm is not None
        words = self.embeddings(ids, types)
        seen = self.seen(features) + self.seen_positions.weight[0] + self.seen_types(seen_types)
        x, both = self.norm(torch.cat((words, seen), dim=1)), torch.cat((mask, shown), dim=1)
        for each in self.layers:
            x = each(x, both)
        return x


class LastWord(nn.Module):
    """States [B, S + R, H] -> those of the token in front of a text's last, [B, H]."""

    def bounds(self) -> dict[str, Dim]:
        return {"sequence": Dim(least=2)}

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        last = (mask.sum(dim=1) - 2).clamp(min=0)[:, None, None].expand(-1, 1, states.shape[-1])
        return states.gather(1, last)[:, 0]


class _Model(Component):
    """{"last_hidden_state": [B, S + R, H], "pooler_output": [B, H]}; with a classifier {"logits": [B, L]} of what the
    pooler reads."""

    def __init__(self, spec: Spec, pooler: nn.Module, classifier: nn.Module | None = None, task: str = "") -> None:
        super().__init__()
        self.model, self.pooler, self.classifier, self.task = Body(spec), pooler, classifier, task

    def ports(self) -> tuple[Port, ...]:
        return self.model.ports()

    def outs(self) -> tuple[Out, ...]:
        if self.classifier is not None:
            return CATALOGUE[self.task].outs
        states, pooled = CATALOGUE["feature-extraction"].outs
        return states._replace(shape=("batch", "states", "size")), pooled

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        visual_embeds: Tensor,
        visual_attention_mask: Tensor,
        visual_token_type_ids: Tensor,
        token_type_ids: Tensor | None = None,
    ) -> dict[str, Tensor]:
        regions = (visual_embeds, visual_attention_mask, visual_token_type_ids)
        states = self.model(input_ids, attention_mask, token_type_ids, *regions)
        pooled = self.pooler(states, attention_mask)
        if self.classifier is not None:
            return {"logits": self.classifier(pooled)}
        return {"last_hidden_state": states, "pooler_output": pooled}


def _pooled(spec: Spec, head: heads.Head) -> nn.Module:
    return _Model(spec, heads.TanhPooler(spec.hidden_size), nn.Linear(spec.hidden_size, spec.labels), head.task)


def _weights(spec: Spec) -> tuple[Rule, ...]:
    return (
        Rename("visual_bert.*", "*"),
        Ignore("cls.predictions.*"),
        Ignore("cls.seq_relationship.*"),
        Rename("embeddings.visual_projection.*", "model.seen.*"),
        Rename("embeddings.visual_token_type_embeddings.*", "model.seen_types.*"),
        Rename("embeddings.visual_position_embeddings.*", "model.seen_positions.*"),
        Within("embeddings.", EMBEDDING_NAMES, to="model.embeddings."),
        Rename("model.embeddings.norm.*", "model.norm.*"),
        Within("encoder.layer.{}.", layer_names(), to="model.layers.{}."),
        Rename("cls.*", "classifier.*"),
    )


FAMILY = Family(
    spec=Spec,
    heads={
        heads.BASE: lambda spec, absent: _Model(spec, heads.TanhPooler(spec.hidden_size)),
        heads.VISUAL_REASONING: lambda spec, absent: _pooled(spec, heads.VISUAL_REASONING),
        heads.VISUAL_QUESTIONS: lambda spec, absent: _Model(
            spec, LastWord(), nn.Linear(spec.hidden_size, spec.labels), heads.VISUAL_QUESTIONS.task
        ),
    },
    weights=_weights,
    inert=frozenset({"special_visual_initialize", "tie_word_embeddings"}),
    tiny={**TINY, "visual_embedding_dim": 13},
    variations=({**ODD, "visual_embedding_dim": 8, "type_vocab_size": 3},),
)
