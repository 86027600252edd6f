"""ALBERT: BERT's layers, few of them and each used many times, over factorised embeddings.
https://arxiv.org/abs/1909.11942"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from precast.export.blocks.activations import Activation, activation
from precast.export.families import bert
from precast.export.head_sets.encoders import encoder_heads
from precast.export.skeletons.encoder import Encoder
from precast.export.skeletons.post_norm import ODD, TINY, embeddings, layer, lm_names, names, tied, transform
from precast.export.spec import hf
from precast.export.weight_table import Lazy
from precast.export.weights import Ignore, Rename, Rule

__all__ = ["FAMILY", "Spec"]


@dataclass(frozen=True, kw_only=True)
class Spec(bert.Spec):
    """BERT's keys with the defaults of ALBERT-xxlarge, and how layers are shared."""

    vocab_size: int = hf(default=30000)
    embedding_size: int = hf(default=128)
    hidden_size: int = hf(default=4096)
    num_hidden_groups: int = hf(default=1)
    inner_group_num: int = hf(default=1)
    num_attention_heads: int = hf(default=64)
    intermediate_size: int = hf(default=16384)
    hidden_act: Activation = hf(default=activation("gelu_new"), read=activation)

    @property
    def schedule(self) -> tuple[tuple[int, int], ...]:
        """(group, layer of the group) for each layer that is run, in order; groups take equal shares of the depth."""
        per_group = self.num_hidden_layers / self.num_hidden_groups
        return tuple(
            (int(step / per_group), inner)
            for step in range(self.num_hidden_layers)
            for inner in range(self.inner_group_num)
        )


@dataclass(frozen=True)
class _Share(Rule):
    """Give each stored layer to every layer of the schedule that uses it: one tensor, hence one parameter."""

    schedule: tuple[tuple[int, int], ...]

    def apply(self, table: dict[str, Lazy]) -> dict[str, Lazy]:
        root = "encoder.albert_layer_groups."
        shared = {key: lazy for key, lazy in table.items() if not key.startswith(root)}
        for index, (group, inner) in enumerate(self.schedule):
            stored = f"{root}{group}.albert_layers.{inner}."
            for key, lazy in table.items():
                if key.startswith(stored):
                    shared[f"layers.{index}.{key.removeprefix(stored)}"] = lazy
        return shared


def _model(spec: Spec) -> Encoder:
    projection = nn.Linear(spec.embedding_size, spec.hidden_size)  # also where these are equal
    layers = [layer(spec) for _ in spec.schedule]
    return Encoder(embeddings=embeddings(spec), projection=projection, layers=layers)


def _weights(spec: Spec) -> tuple[Rule, ...]:
    own = {"up_proj": "ffn", "down_proj": "ffn_output", "mlp_norm": "full_layer_layer_norm"}
    for new, old in {"q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "dense"}.items():
        own[new] = f"attention.{old}"
    return (
        Rename("albert.*", "*"),
        _Share(spec.schedule),
        *names("albert", at="layers.{}.", attention_norm="attention.LayerNorm", **own),
        Ignore("sop_classifier.*"),  # sentence order: a head of pretraining only
        Rename("encoder.embedding_hidden_mapping_in.*", "model.projection.*"),
        Rename("pooler.*", "pooler.dense.*"),
        *lm_names("predictions.dense", "predictions.LayerNorm", "predictions.decoder", "predictions.bias"),
        *tied(spec),
    )


FAMILY = replace(
    bert.FAMILY,
    spec=Spec,
    heads=encoder_heads(_model, transform=transform),
    weights=_weights,
    tiny={**TINY, "embedding_size": 20, "num_hidden_layers": 3},
    variations=(
        # Two groups of two layers over an odd depth, another activation.
        {**ODD, "embedding_size": 13, "num_hidden_layers": 3, "num_hidden_groups": 2, "inner_group_num": 2}
        | {"type_vocab_size": 3, "hidden_act": "relu"},
        # Embeddings as wide as the layers are projected all the same.
        {"embedding_size": 32, "hidden_act": "gelu", "type_vocab_size": 1, "num_labels": 1},
    ),
)
