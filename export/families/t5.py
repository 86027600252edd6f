"""T5: a pre-norm encoder-decoder with RMS norms, no biases, and relative positions in place of absolute ones.
https://arxiv.org/abs/1910.10683; v1.1, FLAN (https://arxiv.org/abs/2210.11416), UL2 (https://arxiv.org/abs/2205.05131),
ByT5 (https://arxiv.org/abs/2105.13626) and MADLAD-400 (https://arxiv.org/abs/2309.04662) differ in their configs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.attention import CachedSelfAttention, CrossAttention, SelfAttention
from precast.export.blocks.embeddings import TextEmbeddings
from precast.export.blocks.mlp import MLP, GatedMLP
from precast.export.blocks.norms import RMSNorm
from precast.export.blocks.relative import one_sided_bias, two_sided_bias
from precast.export.families import Family, TextSpec
from precast.export.head_sets.seq2seq import generation_keys, seq2seq, shared_words
from precast.export.skeletons.decoder import Decoder, DecoderLayer, TokenEmbeddings
from precast.export.skeletons.encoder import PreNormEncoder, PreNormLayer
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY", "NAMES", "T5Spec", "decoder", "encoder", "stack_names"]


@dataclass(frozen=True, kw_only=True)
class T5Spec(TextSpec):
    """Defaults are T5-small's."""

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


def _norm(spec: T5Spec) -> RMSNorm:
    return RMSNorm(spec.hidden_size, spec.layer_norm_epsilon)


def _attention(spec: T5Spec, kind: Callable[..., nn.Module]) -> nn.Module:
    """Scores are not scaled."""
    return kind(spec.hidden_size, heads=spec.num_attention_heads, head_dim=spec.head_dim, bias=False, scale=1.0)


def _mlp(spec: T5Spec) -> nn.Module:
    block = GatedMLP if spec.gated else MLP
    return block(spec.hidden_size, spec.intermediate_size, spec.act, bias=False)


def encoder(
    spec: T5Spec, absent: frozenset[str] = frozenset(), *, layer: Callable[..., nn.Module] | None = None
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
    spec: T5Spec, absent: frozenset[str] = frozenset(), *, layer: Callable[..., nn.Module] | None = None
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


_QKVO = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj"}
# Of each part of a layer: its name and its norm's here, and those of its matrices.
_PARTS = {
    "SelfAttention": ("self_attn", "attention_norm", _QKVO),
    "EncDecAttention": ("cross_attn", "cross_norm", _QKVO),
    "DenseReluDense": ("mlp", "mlp_norm", {"wi": "up_proj", "wi_0": "gate_proj", "wi_1": "up_proj", "wo": "down_proj"}),
}


def stack_names(old: str, new: str, *parts: str) -> tuple[Rule, ...]:
    """Of an encoder or a decoder whose layers have these ``parts``, from the module ``old`` of the checkpoint to the
    module ``new`` here."""
    rules: list[Rule] = [
        Rename(f"{old}.embed_tokens.weight", f"{new}.embeddings.words.weight"),
        Rename(f"{old}.final_layer_norm.weight", f"{new}.norm.weight"),
        Rename(f"{old}.block.{{}}.layer.0.SelfAttention.relative_attention_bias.*", f"{new}.layers.{{}}.bias.table.*"),
    ]
    for index, part in enumerate(parts):
        block, (name, norm, matrices) = f"{old}.block.{{}}.layer.{index}", _PARTS[part]
        rules.append(Rename(f"{block}.layer_norm.weight", f"{new}.layers.{{}}.{norm}.weight"))
        for theirs, ours in matrices.items():
            rules.append(Rename(f"{block}.{part}.{theirs}.weight", f"{new}.layers.{{}}.{name}.{ours}.weight"))
    return tuple(rules)


NAMES: tuple[Rule, ...] = (
    Rename("transformer.*", "*"),
    Ignore("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"),
    *stack_names("encoder", "encoder", "SelfAttention", "DenseReluDense"),
    *stack_names("decoder", "model", "SelfAttention", "EncDecAttention", "DenseReluDense"),
    # A head of its own is stored, and then differs.
    *shared_words(head=True),
)


def _weights(spec: T5Spec) -> tuple[Rule, ...]:
    # Stored with the first layer, and shared by all.
    return (*NAMES, *(Rename(f"{part}.layers.0.bias.*", f"{part}.bias.*") for part in ("encoder", "model")))


FAMILY = Family(
    spec=T5Spec,
    heads=seq2seq(encoder=encoder, decoder=decoder, positions=False, scale=lambda spec: spec.logit_scale),
    weights=_weights,
    final_norm=True,
    # Training, and lengths that relative positions do not need.
    inert=frozenset({"dropout_rate", "initializer_factor", "n_positions"}),
    generation=generation_keys(pad=0, eos=1),
    tiny={
        "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "vocab_size": 99,
        "decoder_start_token_id": 0,
    },
    variations=(
        # v1.1: gates, logits that are not scaled, heads that do not add up to the width, fewer layers here than there
        # (upstream's cache has no room for more).
        {
            "d_model": 26, "d_kv": 6, "num_heads": 3, "d_ff": 37, "num_layers": 3, "num_decoder_layers": 2,
            "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "relative_attention_num_buckets": 12,
            "relative_attention_max_distance": 20, "layer_norm_epsilon": 1e-3, "vocab_size": 131,
        },
        {"feed_forward_proj": "gated-silu", "num_heads": 2, "d_kv": 16, "num_decoder_layers": 1},
    ),
)  # fmt: skip
