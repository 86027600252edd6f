"""OPT: learned positions, norms before or after each part, embeddings that may be narrower than the layers; Galactica
is one of its checkpoints. https://arxiv.org/abs/2205.01068"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.attention import CachedSelfAttention, head_size
from precast.export.blocks.cache import Step
from precast.export.blocks.embeddings import PlacedPositions
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm
from precast.export.families import Family, TextSpec
from precast.export.generative import CausalLM
from precast.export.skeletons.decoder import Decoder, DecoderLayer, PostNormDecoderLayer
from precast.export.spec import hf
from precast.export.weights import Narrow, Rename, Rule, Tie

__all__ = ["FAMILY", "OPTSpec", "layer_names"]

_EPSILON = 1e-5
_OFFSET = 2  # rows of the table of positions before the first one's


@dataclass(frozen=True, kw_only=True)
class OPTSpec(TextSpec):
    """Upstream's defaults are OPT 125M's."""

    vocab_size: int = hf(default=50272)
    hidden_size: int = hf(default=768)
    num_hidden_layers: int = hf(default=12)
    num_attention_heads: int = hf(default=12)
    ffn_dim: int = hf(default=3072)
    max_position_embeddings: int = hf(default=2048)
    do_layer_norm_before: bool = hf(default=True)
    remove_final_layer_norm: bool = hf("_remove_final_layer_norm", default=False)
    word_embed_proj_dim: int | None = hf(default=None)
    activation_function: Activation = hf(default=activation("relu"), read=activation)
    enable_bias: bool = hf(default=True)
    layer_norm_elementwise_affine: bool = hf(default=True, only=(True,))

    def __post_init__(self) -> None:
        head_size(self.hidden_size, self.num_attention_heads)

    @property
    def words(self) -> int:
        """Channels of the embeddings of words, at both ends."""
        return self.word_embed_proj_dim or self.hidden_size

    @property
    def ends_in_norm(self) -> bool:
        """A norm follows the last layer."""
        return self.do_layer_norm_before and not self.remove_final_layer_norm


class _ProjectedEmbeddings(nn.Module):
    """project(words(ids)) + positions, ids [B, S] -> [B, S, H]."""

    def __init__(self, spec: OPTSpec) -> None:
        super().__init__()
        width, hidden = spec.words, spec.hidden_size
        self.words = nn.Embedding(spec.vocab_size, width)
        self.project = None if width == hidden else nn.Linear(width, hidden, bias=False)
        self.positions = PlacedPositions(spec.max_position_embeddings, hidden)

    def forward(self, input_ids: Tensor, step: Step) -> Tensor:
        x: Tensor = self.words(input_ids)
        if self.project is not None:
            x = self.project(x)
        return x + self.positions(input_ids, step)


def _layer(spec: OPTSpec) -> nn.Module:
    hidden, bias = spec.hidden_size, spec.enable_bias
    kind = DecoderLayer if spec.do_layer_norm_before else PostNormDecoderLayer
    return kind(
        attention=CachedSelfAttention(hidden, heads=spec.num_attention_heads, bias=bias),
        attention_norm=LayerNorm(hidden, _EPSILON),
        mlp=MLP(hidden, spec.ffn_dim, spec.activation_function, bias=bias),
        mlp_norm=LayerNorm(hidden, _EPSILON),
    )


def _causal_lm(spec: OPTSpec, absent: frozenset[str]) -> nn.Module:
    width, hidden = spec.words, spec.hidden_size
    return CausalLM(
        Decoder(
            embeddings=_ProjectedEmbeddings(spec),
            layers=[_layer(spec) for _ in range(spec.num_hidden_layers)],
            norm=LayerNorm(hidden, _EPSILON) if spec.ends_in_norm else None,
        ),
        nn.Linear(width, spec.vocab_size, bias=False),
        transform=None if width == hidden else nn.Linear(hidden, width, bias=False),
    )


def layer_names(old: str = "layers.{}", new: str = "model.layers.{}") -> tuple[Rule, ...]:
    """The names fairseq gave the parts of a layer."""
    return (
        Rename(f"{old}.self_attn.out_proj.*", f"{new}.self_attn.o_proj.*"),
        Rename(f"{old}.self_attn_layer_norm.*", f"{new}.attention_norm.*"),
        Rename(f"{old}.fc1.*", f"{new}.mlp.up_proj.*"),
        Rename(f"{old}.fc2.*", f"{new}.mlp.down_proj.*"),
        Rename(f"{old}.final_layer_norm.*", f"{new}.mlp_norm.*"),
        *(Rename(f"{old}.self_attn.{part}_proj.*", f"{new}.self_attn.{part}_proj.*") for part in "qkv"),
    )


def _weights(spec: OPTSpec) -> tuple[Rule, ...]:
    return (
        Rename("model.decoder.*", "*"),
        # The name of the base model, which early checkpoints were saved from.
        Rename("decoder.*", "*"),
        *layer_names(),
        Narrow("embed_positions.weight", _OFFSET),
        Rename("embed_tokens.*", "model.embeddings.words.*"),
        Rename("embed_positions.*", "model.embeddings.positions.table.*"),
        Rename("project_in.*", "model.embeddings.project.*"),
        Rename("project_out.*", "transform.*"),
        Rename("final_layer_norm.*", "model.norm.*"),
        *((Tie("lm_head.weight", "model.embeddings.words.weight"),) if spec.tie_word_embeddings else ()),
    )


FAMILY = Family(
    spec=OPTSpec,
    heads={heads.CAUSAL_LM: _causal_lm},
    weights=_weights,
    limits=lambda spec: spec.max_position_embeddings,
    final_norm=True,
    inert=frozenset({"activation_dropout", "init_std", "layerdrop"}),
    tiny={
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "ffn_dim": 48,
        "max_position_embeddings": 160,
        "vocab_size": 99,
    },
    variations=(
        # OPT 350M: norms behind the parts, narrow embeddings. Odd sizes: 3 heads of 7 channels.
        {
            "hidden_size": 21,
            "num_attention_heads": 3,
            "ffn_dim": 37,
            "do_layer_norm_before": False,
            "word_embed_proj_dim": 13,
            "vocab_size": 131,
        },
        # No biases, a head apart, as wide embeddings as layers.
        {
            "num_hidden_layers": 1,
            "activation_function": "gelu",
            "enable_bias": False,
            "tie_word_embeddings": False,
            "word_embed_proj_dim": 32,
        },
        # No last norm, wider embeddings.
        {"_remove_final_layer_norm": True, "word_embed_proj_dim": 40},
    ),
)
