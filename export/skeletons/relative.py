"""Encoder-decoders of text as T5 and its relatives arrange them, with RMS norms, no biases, and relative positions in
place of absolute ones: sizes, parts, names of weights. https://arxiv.org/abs/1910.10683"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from torch import nn

from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.attention import CachedSelfAttention, CrossAttention, SelfAttention
from precast.export.blocks.embeddings import TextEmbeddings
from precast.export.blocks.mlp import MLP, GatedMLP
from precast.export.blocks.norms import RMSNorm
from precast.export.blocks.relative import one_sided_bias, two_sided_bias
from precast.export.families import TextSpec
from precast.export.head_sets.seq2seq import Part, seq2seq, shared_words
from precast.export.heads import Head
from precast.export.skeletons.decoder import Decoder, DecoderLayer, TokenEmbeddings
from precast.export.skeletons.encoder import PreNormEncoder, PreNormLayer
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Within
from precast.runtime.errors import ConfigError

__all__ = ["NAMES", "RelativeSpec", "decoder", "encoder", "heads_of", "stack_names"]


@dataclass(frozen=True, kw_only=True)
class RelativeSpec(TextSpec):
    """What config.json states; defaults are T5-small's."""

    is_encoder_decoder: bool = hf(default=True, only=(True,))
    vocab_size: int = hf(default=32128)
    hidden_size: int = hf(("d_model", "hidden_size"), default=512)
    head_dim: int = hf(("d_kv", "head_dim"), default=64)
    intermediate_size: int = hf("d_ff", default=2048)
    num_hidden_layers: int = hf(("num_layers", "num_hidden_layers"), default=6)
    num_decoder_layers: int | None = hf(default=None)
    num_attention_heads: int = hf(("num_heads", "num_attention_heads"), default=8)
    buckets: int = hf("relative_attention_num_buckets", default=32)
    furthest: int = hf("relative_attention_max_distance", default=128)
    layer_norm_epsilon: float = hf(default=1e-6)
    feed_forward_proj: str = hf(default="relu")
    # What upstream derives from it and writes as well; read back, these count.
    dense_act_fn: str | None = hf(default=None)
    is_gated_act: bool | None = hf(default=None)
    # T5 1.0 has one matrix for embeddings and logits, which come out sqrt(d_model) times too large.
    scale_decoder_outputs: bool | None = hf(default=None)

    def __post_init__(self) -> None:
        words = self.feed_forward_proj.split("-")
        if len(words) > 2 or (len(words) == 2 and words[0] != "gated"):
            raise ConfigError(
                f"'feed_forward_proj' is an activation, or 'gated-' and an activation; received "
                f"{self.feed_forward_proj!r}. Known: relu, gated-gelu, gated-silu ..."
            )
        if self.buckets < 4 or self.buckets % 4 or self.furthest <= self.buckets // 2:
            raise ConfigError(
                f"'relative_attention_num_buckets' is a multiple of 4, half of it below "
                f"'relative_attention_max_distance'; received {self.buckets} and {self.furthest}"
            )
        try:
            activation(self._act_name)
        except ValueError as error:
            raise ConfigError(f"'feed_forward_proj' is {self.feed_forward_proj!r}: {error}") from error

    @property
    def _act_name(self) -> str:
        # The name says gelu, and the models were trained with its tanh approximation.
        named = "gelu_new" if self.feed_forward_proj == "gated-gelu" else self.feed_forward_proj.split("-")[-1]
        return self.dense_act_fn or named

    @property
    def bias(self) -> tuple[int, int, int]:
        """Of relative positions: buckets, the furthest distance, heads."""
        return self.buckets, self.furthest, self.num_attention_heads

    @property
    def act(self) -> Activation:
        """Of the feed-forward blocks."""
        return activation(self._act_name)

    @property
    def gated(self) -> bool:
        """Whether the feed-forward blocks have gates."""
        return self.feed_forward_proj.startswith("gated-") if self.is_gated_act is None else self.is_gated_act

    @property
    def decoder_layers(self) -> int:
        """Layers of the decoder; as many as the encoder's where nothing else is said."""
        return self.num_hidden_layers if self.num_decoder_layers is None else self.num_decoder_layers

    @property
    def logit_scale(self) -> float | None:
        """Factor of the states that logits are computed from."""
        tied = self.tie_word_embeddings if self.scale_decoder_outputs is None else self.scale_decoder_outputs
        return self.hidden_size**-0.5 if tied else None


def _norm(spec: RelativeSpec) -> RMSNorm:
    return RMSNorm(spec.hidden_size, spec.layer_norm_epsilon)


def _attention(spec: RelativeSpec, kind: Callable[..., nn.Module]) -> nn.Module:
    """Scores are not scaled."""
    return kind(spec.hidden_size, heads=spec.num_attention_heads, head_dim=spec.head_dim, bias=False, scale=1.0)


def _mlp(spec: RelativeSpec) -> nn.Module:
    block = GatedMLP if spec.gated else MLP
    return block(spec.hidden_size, spec.intermediate_size, spec.act, bias=False)


def encoder(
    spec: RelativeSpec, absent: frozenset[str] = frozenset(), *, layer: Callable[..., nn.Module] | None = None
) -> PreNormEncoder:
    """What reads a text: ids, mask [B, T] -> states [B, T, H].

    Args:
        layer: is made of these parts and a ``bias`` of its own; None: all layers share one.
    """
    layers = [
        (layer or PreNormLayer)(
            attention=_attention(spec, SelfAttention),
            attention_norm=_norm(spec),
            mlp=_mlp(spec),
            mlp_norm=_norm(spec),
            **({"bias": two_sided_bias(*spec.bias)} if layer else {}),
        )
        for _ in range(spec.num_hidden_layers)
    ]
    words = TextEmbeddings(spec.vocab_size, spec.hidden_size, positions=None, token_types=0, norm=None)
    bias = None if layer else two_sided_bias(*spec.bias)
    return PreNormEncoder(embeddings=words, layers=layers, norm=_norm(spec), bias=bias)


def decoder(
    spec: RelativeSpec, absent: frozenset[str] = frozenset(), *, layer: Callable[..., nn.Module] | None = None
) -> Decoder:
    """What attends to it: ids [B, S] at a `Step` -> states [B, S, H]; ``layer`` as of `encoder`."""
    layers = [
        (layer or DecoderLayer)(
            attention=_attention(spec, CachedSelfAttention),
            attention_norm=_norm(spec),
            cross=_attention(spec, CrossAttention),
            cross_norm=_norm(spec),
            mlp=_mlp(spec),
            mlp_norm=_norm(spec),
            **({"bias": one_sided_bias(*spec.bias)} if layer else {}),
        )
        for _ in range(spec.decoder_layers)
    ]
    words = TokenEmbeddings(spec.vocab_size, spec.hidden_size)
    bias = None if layer else one_sided_bias(*spec.bias)
    return Decoder(embeddings=words, layers=layers, norm=_norm(spec), bias=bias)


def heads_of(
    encoder_layer: Callable[..., nn.Module] | None = None, decoder_layer: Callable[..., nn.Module] | None = None
) -> Mapping[Head, Part]:
    """What a family can be exported for whose layers are these (`encoder`)."""
    return seq2seq(
        encoder=partial(encoder, layer=encoder_layer),
        decoder=partial(decoder, layer=decoder_layer),
        positions=False,
        scale=lambda spec: spec.logit_scale,
    )


_QKVO = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj"}
# Of each part of a layer: its name and its norm's here, and those of its matrices.
_PARTS = {
    "SelfAttention": ("self_attn", "attention_norm", _QKVO),
    "EncDecAttention": ("cross_attn", "cross_norm", _QKVO),
    "DenseReluDense": ("mlp", "mlp_norm", {"wi": "up_proj", "wi_0": "gate_proj", "wi_1": "up_proj", "wo": "down_proj"}),
}


def stack_names(*parts: str) -> tuple[Rule, ...]:
    """Of an encoder or a decoder whose layers have these ``parts``, behind its own prefix."""
    rules: list[Rule] = [
        Rename("embed_tokens.*", "embeddings.words.*"),
        Rename("final_layer_norm.*", "norm.*"),
        Rename("block.{}.layer.0.SelfAttention.relative_attention_bias.*", "layers.{}.bias.table.*"),
    ]
    for index, part in enumerate(parts):
        block, (name, norm, matrices) = f"block.{{}}.layer.{index}", _PARTS[part]
        rules.append(Rename(f"{block}.layer_norm.*", f"layers.{{}}.{norm}.*"))
        rules += [Rename(f"{block}.{part}.{old}.*", f"layers.{{}}.{name}.{new}.*") for old, new in matrices.items()]
    return tuple(rules)


# From a checkpoint to the model; relative positions are each layer's.
NAMES: tuple[Rule, ...] = (
    Rename("transformer.*", "*"),
    Ignore("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"),
    Within("encoder.", stack_names("SelfAttention", "DenseReluDense")),
    Within("decoder.", stack_names("SelfAttention", "EncDecAttention", "DenseReluDense")),
    # A head of its own is stored, and then differs.
    *shared_words(head=True),
)
