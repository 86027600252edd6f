"""OPT: learned positions, norms before or after each part, embeddings that may be narrower than the layers; Galactica
is one of its checkpoints. https://arxiv.org/abs/2205.01068"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.cache import Step
from precast.export.blocks.embeddings import PlacedPositions, words_port
from precast.export.families import Family
from precast.export.head_sets.decoders import ODD, TINY, DecoderSpec, causal_heads, layer, layer_norm, mlp, names, tied
from precast.export.skeletons.decoder import DecoderLayer, PostNormDecoderLayer
from precast.export.spec import hf
from precast.export.weights import Narrow, Rename, Rule
from precast.runtime.ports import Port

__all__ = ["FAMILY", "NAMES", "POSITIONS", "OPTSpec"]


@dataclass(frozen=True, kw_only=True)
class OPTSpec(DecoderSpec):
    """Upstream's defaults are OPT 125M's."""

    vocab_size: int = hf(default=50272)
    hidden_size: int = hf(default=768)
    num_hidden_layers: int = hf(default=12)
    num_attention_heads: int = hf(default=12)
    intermediate_size: int = hf("ffn_dim", default=3072)
    max_position_embeddings: int = hf(default=2048)
    do_layer_norm_before: bool = hf(default=True)
    remove_final_layer_norm: bool = hf("_remove_final_layer_norm", default=False)
    word_embed_proj_dim: int | None = hf(default=None)
    hidden_act: Activation = hf("activation_function", default=activation("relu"), read=activation)
    enable_bias: bool = hf(default=True)
    layer_norm_elementwise_affine: bool = hf(default=True, only=(True,))
    layer_norm_eps: ClassVar[float] = 1e-5

    @property
    def words(self) -> int:
        """Channels of the embeddings of words, at both ends."""
        return self.word_embed_proj_dim or self.hidden_size

    @property
    def ends_in_norm(self) -> bool:
        """A norm follows the last layer."""
        return self.do_layer_norm_before and not self.remove_final_layer_norm


class _ProjectedEmbeddings(nn.Module):
    """project(words(ids)) + positions, ids [B, S] -> [B, S, H]; what is perceived stands in place of its words."""

    def __init__(self, spec: OPTSpec) -> None:
        super().__init__()
        width, hidden = spec.words, spec.hidden_size
        self.words = nn.Embedding(spec.vocab_size, width)
        self.project = None if width == hidden else nn.Linear(width, hidden, bias=False)
        self.positions = PlacedPositions(spec.max_position_embeddings, hidden)

    def ports(self) -> tuple[Port, ...]:
        return (words_port(self.words),)

    def forward(self, input_ids: Tensor, step: Step) -> Tensor:
        x = step.placed(self.words(input_ids))
        if self.project is not None:
            x = self.project(x)
        return x + self.positions(input_ids, step)


def _layers(spec: OPTSpec) -> list[nn.Module]:
    kind = DecoderLayer if spec.do_layer_norm_before else PostNormDecoderLayer
    bias = spec.enable_bias
    made = partial(layer, spec, norm=layer_norm, mlp=partial(mlp, bias=bias), kind=kind, bias=bias)
    return [made() for _ in range(spec.num_hidden_layers)]


def _transform(spec: OPTSpec) -> nn.Module | None:
    return None if spec.words == spec.hidden_size else nn.Linear(spec.hidden_size, spec.words, bias=False)


# The names fairseq gave the parts of a decoder; ahead of the first position's, its table has two rows.
NAMES = names(
    "layers.{}",
    output="self_attn.out_proj",
    attention="self_attn",
    attention_norm="self_attn_layer_norm",
    up="fc1",
    down="fc2",
    mlp_norm="final_layer_norm",
    embeddings="embed_tokens",
)
POSITIONS = (Narrow("embed_positions.weight", 2), *names(positions="embed_positions"))


def _weights(spec: OPTSpec) -> tuple[Rule, ...]:
    return (
        Rename("model.decoder.*", "*"),
        # The name of the base model, which early checkpoints were saved from.
        Rename("decoder.*", "*"),
        *NAMES,
        *POSITIONS,
        *names(norm="final_layer_norm"),
        Rename("project_in.*", "model.embeddings.project.*"),
        Rename("project_out.*", "transform.*"),
        *tied(spec),
    )


FAMILY = Family(
    spec=OPTSpec,
    heads=causal_heads(
        _layers,
        embeddings=_ProjectedEmbeddings,
        norm=lambda spec: layer_norm(spec) if spec.ends_in_norm else None,
        lm_head=lambda spec: nn.Linear(spec.words, spec.vocab_size, bias=False),
        transform=_transform,
    ),
    weights=_weights,
    final_norm=True,
    inert=frozenset({"activation_dropout", "init_std", "layerdrop"}),
    tiny={**TINY, "ffn_dim": 48},
    variations=(
        # OPT 350M: norms behind the parts, narrow embeddings.
        {**ODD, "ffn_dim": 37, "do_layer_norm_before": False, "word_embed_proj_dim": 13, "tie_word_embeddings": True},
        # No biases, a head apart, as wide embeddings as layers.
        {"num_hidden_layers": 1, "activation_function": "gelu", "enable_bias": False}
        | {"tie_word_embeddings": False, "word_embed_proj_dim": 32},
        # No last norm, wider embeddings.
        {"_remove_final_layer_norm": True, "word_embed_proj_dim": 40},
    ),
)
