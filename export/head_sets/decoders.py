"""Causal decoders: the heads, layers, specs, weight names and tiny configs that their families share.

A family names what differs. Parts are functions of its spec, so that they are made once the config is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from precast.export import heads
from precast.export.blocks.attention import CachedSelfAttention, head_size
from precast.export.blocks.embeddings import PlacedPositions
from precast.export.blocks.experts import Experts
from precast.export.blocks.mlp import MLP, GatedMLP
from precast.export.blocks.norms import LayerNorm, Norm, RMSNorm
from precast.export.blocks.rope import Rope, rope
from precast.export.families import TextSpec
from precast.export.generative import CausalLM
from precast.export.head_sets.read_by_decoders import read_once
from precast.export.skeletons.decoder import Decoder, DecoderLayer, TokenEmbeddings
from precast.export.spec import hf
from precast.export.weights import Alternate, Merge, Rename, Rule, Stack, Tie

__all__ = [
    "EXPERTS",
    "GPT_KEYS",
    "ODD",
    "QKV",
    "SUMMARY_KEYS",
    "TINY",
    "DecoderSpec",
    "RotarySpec",
    "attention",
    "biased_lm_head",
    "causal_heads",
    "experts",
    "gated_mlp",
    "layer",
    "layer_norm",
    "mlp",
    "names",
    "placed",
    "rms_norm",
    "scaled_words",
    "tied",
    "words",
]


@dataclass(frozen=True, kw_only=True)
class DecoderSpec(TextSpec):
    """Sizes by the names that the parts below read; the keys and defaults are each family's own."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int

    def __post_init__(self) -> None:
        _ = self.size  # raises ConfigError where heads cannot share the channels

    @property
    def size(self) -> int:
        """Channels of a head."""
        return head_size(self.hidden_size, self.num_attention_heads)

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.num_attention_heads


@dataclass(frozen=True, kw_only=True)
class RotarySpec(DecoderSpec):
    """With rotary positions, as both versions of transformers say them."""

    max_position_embeddings: int
    rope_theta: float | None = hf(default=None)
    rope_scaling: dict[str, Any] | None = hf(default=None)
    rope_parameters: dict[str, Any] | None = hf(default=None)
    partial_rotary_factor: float | None = hf(default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.rope.check()

    @property
    def rope(self) -> Rope:
        """How rotary angles are made."""
        return self._rope()

    def _rope(self, **others: Any) -> Rope:
        """``others`` say what a family reads from keys of its own."""
        given: dict[str, Any] = {
            "parameters": self.rope_parameters,
            "scaling": self.rope_scaling,
            "theta": self.rope_theta,
            "longest": self.max_position_embeddings,
            "part": self.partial_rotary_factor,
        }
        return rope(self.size, **{**given, **others})

    def ignored(self) -> tuple[str, ...]:
        """As `Spec`."""
        return self.rope.ignored


# Parts of a spec's sizes. Only the fields that a part reads need to be there.


def rms_norm(spec: Any) -> RMSNorm:
    """Over the hidden states."""
    return RMSNorm(spec.hidden_size, spec.rms_norm_eps)


def layer_norm(spec: Any) -> LayerNorm:
    """Over the hidden states."""
    return LayerNorm(spec.hidden_size, spec.layer_norm_eps)


def gated_mlp(spec: Any) -> GatedMLP:
    """Llama's."""
    return GatedMLP(spec.hidden_size, spec.intermediate_size, spec.hidden_act, bias=spec.mlp_bias)


def mlp(spec: Any, bias: bool = True) -> MLP:
    """GPT's; four times as wide as the hidden states where the config says nothing."""
    return MLP(spec.hidden_size, spec.intermediate_size or 4 * spec.hidden_size, spec.hidden_act, bias=bias)


def experts(spec: Any) -> Experts:
    """Mixtral's."""
    count, top_k = spec.num_local_experts, spec.num_experts_per_tok
    return Experts(spec.hidden_size, spec.intermediate_size, experts=count, top_k=top_k)


def attention(spec: Any, **options: Any) -> CachedSelfAttention:
    """Of the spec's heads; ``options`` are those of `CachedSelfAttention`."""
    heads = spec.num_attention_heads
    return CachedSelfAttention(spec.hidden_size, heads=heads, kv_heads=spec.kv_heads, head_dim=spec.size, **options)


def layer(
    spec: Any,
    *,
    norm: Callable[[Any], Norm] = rms_norm,
    mlp: Callable[[Any], nn.Module] = gated_mlp,
    kind: Callable[..., nn.Module] = DecoderLayer,
    **options: Any,
) -> nn.Module:
    """Attention and MLP with a norm each, arranged by ``kind``; ``options`` are those of the attention."""
    return kind(
        attention=attention(spec, **options),
        attention_norm=norm(spec),
        mlp=mlp(spec),
        mlp_norm=norm(spec),
    )


def words(spec: Any, **others: Any) -> TokenEmbeddings:
    """Embeddings as wide as the hidden states; ``others`` are the further parts of `TokenEmbeddings`."""
    return TokenEmbeddings(spec.vocab_size, spec.hidden_size, **others)


def scaled_words(spec: Any) -> TokenEmbeddings:
    """Gemma's: as large as the states that layers add to."""
    return words(spec, scale=spec.hidden_size**0.5)


def placed(spec: Any) -> TokenEmbeddings:
    """Words and learned positions."""
    return words(spec, positions=PlacedPositions(spec.max_position_embeddings, spec.hidden_size))


def _lm_head(spec: Any) -> nn.Linear:
    return nn.Linear(spec.hidden_size, spec.vocab_size, bias=False)


def biased_lm_head(spec: Any) -> nn.Linear:
    """GPT-J's."""
    return nn.Linear(spec.hidden_size, spec.vocab_size)


def causal_heads(
    layers: Callable[[Any], Iterable[nn.Module]],
    *,
    embeddings: Callable[[Any], nn.Module] = words,
    norm: Callable[[Any], Norm | None] = rms_norm,
    bias: Callable[[Any], nn.Module | None] = lambda spec: None,
    lm_head: Callable[[Any], nn.Linear] = _lm_head,
    classes: bool = False,
    **options: Callable[[Any], Any],
) -> Mapping[heads.Head, Callable[[Any, frozenset[str]], nn.Module]]:
    """The heads of a decoder of these ``layers``.

    Args:
        norm: after the last layer. bias: what all layers share of the positions.
        classes: upstream has a classifier of texts, too.
        options: of `CausalLM`, as functions of the spec too.
    """

    def body(spec: Any) -> Decoder:
        return Decoder(embeddings=embeddings(spec), layers=layers(spec), norm=norm(spec), bias=bias(spec))

    def causal_lm(spec: Any, absent: frozenset[str]) -> CausalLM:
        return CausalLM(body(spec), lm_head(spec), **{name: made(spec) for name, made in options.items()})

    return {heads.CAUSAL_LM: causal_lm, **(read_once(body) if classes else {})}


_LAYER = "model.layers.{}."
_PLACES = {
    "embeddings": "model.embeddings.words",
    "positions": "model.embeddings.positions.table",
    "norm": "model.norm",
    "head": "lm_head",
    "output": f"{_LAYER}self_attn.o_proj",
    "attention": f"{_LAYER}self_attn",
    "attention_norm": f"{_LAYER}attention_norm",
    "attention_post_norm": f"{_LAYER}attention_post_norm",
    "mlp_norm": f"{_LAYER}mlp_norm",
    "mlp_post_norm": f"{_LAYER}mlp_post_norm",
    "gate": f"{_LAYER}mlp.gate_proj",
    "up": f"{_LAYER}mlp.up_proj",
    "down": f"{_LAYER}mlp.down_proj",
}
QKV = tuple(f"{_LAYER}self_attn.{part}_proj.*" for part in "qkv")
"""What splits a packed projection of queries, keys and values."""


_EXPERT = (("w1", "gate_stack"), ("w3", "up_stack"), ("w2", "down"))


def names(layers: str = "", **old: str) -> tuple[Rule, ...]:
    """What a checkpoint calls the parts of a decoder, in order: ``names("h.{}", embeddings="wte", up="mlp.c_fc")``.

    Args:
        layers: the name of a layer, in front of those of its parts.
    """
    return tuple(
        Rename(f"{layers}.{name}.*" if _PLACES[part].startswith(_LAYER) else f"{name}.*", f"{_PLACES[part]}.*")
        for part, name in old.items()
    )


# Gated MLPs of experts: transformers 4 and the files released then keep them apart, 5 packs them.
EXPERTS: tuple[Rule, ...] = (
    *(Stack(f"{_LAYER}mlp.experts.{{}}.{old}.weight", f"{_LAYER}mlp.{new}") for old, new in _EXPERT),
    Merge((f"{_LAYER}mlp.gate_stack", f"{_LAYER}mlp.up_stack"), f"{_LAYER}mlp.gate_up", axis=1),
    Rename(f"{_LAYER}mlp.experts.gate_up_proj", f"{_LAYER}mlp.gate_up"),
    Rename(f"{_LAYER}mlp.experts.down_proj", f"{_LAYER}mlp.down"),
    Alternate(f"{_LAYER}mlp.gate_up", axis=1),
    Rename(f"{_LAYER}mlp.gate.weight", f"{_LAYER}mlp.router.weight"),
)


def tied(spec: Any) -> tuple[Rule, ...]:
    """The head's weight is the embeddings' where the config says so."""
    return (Tie("lm_head.weight", "model.embeddings.words.weight"),) if spec.tie_word_embeddings else ()


# Inert keys: of a head that upstream's first classes had, for a summary of the text; and of GPT's dropout besides.
SUMMARY_KEYS = frozenset(
    "summary_activation summary_first_dropout summary_proj_to_labels summary_type summary_use_proj".split()
)
GPT_KEYS = SUMMARY_KEYS | {"n_ctx", "attn_pdrop", "embd_pdrop", "resid_pdrop"}

# config.json of a tiny decoder, and what makes it one of odd sizes: 3 heads of 7 channels, a head of its own.
TINY: Mapping[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 160,
    "vocab_size": 99,
}
ODD: Mapping[str, Any] = {
    "hidden_size": 21,
    "num_attention_heads": 3,
    "vocab_size": 131,
    "tie_word_embeddings": False,
}
