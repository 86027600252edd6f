"""Encoder-decoders of text as BART and its relatives arrange them, which differ in where their norms stand and where
positions come from: sizes, parts, names of weights, configs of tests. https://arxiv.org/abs/1706.03762"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from torch import nn

from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.attention import CachedSelfAttention, CrossAttention, SelfAttention
from precast.export.blocks.embeddings import LearnedPositions, PlacedPositions, TextEmbeddings
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.sines import sine_table
from precast.export.families import Crossed, TextSpec
from precast.export.generative import CausalLM
from precast.export.head_sets.seq2seq import WORDS, Part, seq2seq, shared_words
from precast.export.heads import Head
from precast.export.skeletons.decoder import Decoder, DecoderLayer, PostNormDecoderLayer, TokenEmbeddings
from precast.export.skeletons.encoder import Encoder, PostNormLayer, PreNormEncoder, PreNormLayer
from precast.export.spec import hf
from precast.export.weights import Flatten, Ignore, IgnoreZeros, Narrow, Prefixed, Rename, Rule, Tie, Within
from precast.runtime.errors import ConfigError

__all__ = [
    "LOGITS_BIAS",
    "OFFSET",
    "SIDE_NAMES",
    "TABLES",
    "TINY",
    "VARIATION",
    "EncoderDecoderSpec",
    "crossed",
    "decoder",
    "encoder",
    "encoder_layers",
    "heads_of",
    "lm_head",
    "names",
    "norm",
]

EPSILON = 1e-5  # of every norm, in no config
OFFSET = Narrow("*.embeddings.positions.table.weight", 2)  # rows of the tables of positions that upstream never reads
LOGITS_BIAS = "lm_head.bias"
# Tables of positions: computed where the checkpoint holds none, and the family says that it need not.
TABLES = ("encoder.embeddings.positions.table", "decoder.embeddings.positions.table")


@dataclass(frozen=True, kw_only=True)
class EncoderDecoderSpec(TextSpec):
    """What config.json states; defaults are bart-large's."""

    is_encoder_decoder: bool = hf(default=True, only=(True,))
    vocab_size: int = hf(default=50265)
    hidden_size: int = hf(("d_model", "hidden_size"), default=1024)
    encoder_layers: int = hf(default=12)
    encoder_ffn_dim: int = hf(default=4096)
    encoder_attention_heads: int = hf(default=16)
    decoder_layers: int = hf(default=12)
    decoder_ffn_dim: int = hf(default=4096)
    decoder_attention_heads: int = hf(default=16)
    activation_function: Activation = hf(default=activation("gelu"), read=activation)
    max_position_embeddings: int = hf(default=1024)
    scale_embedding: bool = hf(default=False)

    def __post_init__(self) -> None:
        for key in ("encoder_attention_heads", "decoder_attention_heads"):
            if self.hidden_size % getattr(self, key):
                raise ConfigError(
                    f"'d_model' {self.hidden_size} must be a multiple of {key!r} {getattr(self, key)}: "
                    "each head takes an equal part of it"
                )

    @property
    def scale(self) -> float | None:
        """Factor of the embeddings."""
        return self.hidden_size**0.5 if self.scale_embedding else None

    @property
    def shared(self) -> bool:
        """Encoder and decoder have one table of words."""
        return True

    @property
    def target_vocab_size(self) -> int:
        """Tokens the decoder knows."""
        return self.vocab_size


def norm(spec: EncoderDecoderSpec) -> LayerNorm:
    """As all of them are."""
    return LayerNorm(spec.hidden_size, EPSILON)


def _table(spec: EncoderDecoderSpec, computed: bool) -> nn.Module | None:
    return sine_table(spec.max_position_embeddings, spec.hidden_size) if computed else None


def encoder_layers(
    spec: EncoderDecoderSpec, layer: type[PreNormLayer] | type[PostNormLayer], *, key_bias: bool = True
) -> list[nn.Module]:
    """The layers of what reads or hears."""
    return [
        layer(
            attention=SelfAttention(spec.hidden_size, heads=spec.encoder_attention_heads, key_bias=key_bias),
            attention_norm=norm(spec),
            mlp=MLP(spec.hidden_size, spec.encoder_ffn_dim, spec.activation_function),
            mlp_norm=norm(spec),
        )
        for _ in range(spec.encoder_layers)
    ]


def encoder(
    spec: EncoderDecoderSpec,
    absent: frozenset[str] = frozenset(),
    *,
    pre_norm: bool = False,
    normed: bool = True,
    positions: nn.Module | None = None,
    skeleton: Callable[..., nn.Module] | None = None,
) -> nn.Module:
    """What reads a text: ids, mask [B, T] -> states [B, T, H].

    Args:
        pre_norm: norms stand in front of attention and MLPs, and one more behind the last layer.
        normed: embeddings end in a norm.
        positions: in place of BART's.
        skeleton: in place of the arrangement that goes with the norms.
    """
    size, final = spec.hidden_size, norm(spec) if normed else None
    if positions is None:
        positions = LearnedPositions(spec.max_position_embeddings, size, _table(spec, TABLES[0] in absent))
    arranged: Callable[..., nn.Module] = skeleton or (PreNormEncoder if pre_norm else Encoder)
    layers = encoder_layers(spec, PreNormLayer if pre_norm else PostNormLayer)
    words = TextEmbeddings(spec.vocab_size, size, scale=spec.scale, positions=positions, token_types=0, norm=final)
    return arranged(embeddings=words, layers=layers, norm=norm(spec) if pre_norm else None)


def decoder(
    spec: EncoderDecoderSpec,
    absent: frozenset[str] = frozenset(),
    *,
    pre_norm: bool = False,
    normed: bool = True,
    positions: nn.Module | None = None,
    embeddings: type[TokenEmbeddings] = TokenEmbeddings,
    key_bias: bool = True,
    source: int | None = None,
) -> Decoder:
    """What attends to it: ids [B, S] at a `Step` -> states [B, S, H]; arguments as of `encoder`, and whether keys have
    a bias, and of how many channels the states are that it attends to, where they are not its own."""
    size, final = spec.hidden_size, norm(spec) if normed else None
    if positions is None:
        positions = PlacedPositions(spec.max_position_embeddings, size, _table(spec, TABLES[1] in absent))
    layer = DecoderLayer if pre_norm else PostNormDecoderLayer
    layers = [
        layer(
            attention=CachedSelfAttention(size, heads=spec.decoder_attention_heads, bias=True, key_bias=key_bias),
            attention_norm=norm(spec),
            cross=CrossAttention(size, heads=spec.decoder_attention_heads, key_bias=key_bias, source=source),
            cross_norm=norm(spec),
            mlp=MLP(size, spec.decoder_ffn_dim, spec.activation_function),
            mlp_norm=norm(spec),
        )
        for _ in range(spec.decoder_layers)
    ]
    words = embeddings(spec.target_vocab_size, size, scale=spec.scale, positions=positions, norm=final)
    return Decoder(embeddings=words, layers=layers, norm=norm(spec) if pre_norm else None)


def lm_head(spec: EncoderDecoderSpec, absent: frozenset[str]) -> nn.Linear:
    """With a bias where the checkpoint has one that is not all zeros."""
    return nn.Linear(spec.hidden_size, spec.target_vocab_size, bias=LOGITS_BIAS not in absent)


def heads_of(*, pre_norm: bool, normed: bool) -> Mapping[Head, Part]:
    """What a family can be exported for whose norms stand so (`encoder`)."""
    return seq2seq(
        encoder=partial(encoder, pre_norm=pre_norm, normed=normed),
        decoder=partial(decoder, pre_norm=pre_norm, normed=normed),
        lm_head=lm_head,
    )


def crossed(written: Callable[..., Decoder], positions: tuple[Rule, ...] = (), head: str = "lm_head") -> Crossed:
    """How such a decoder stands behind another model's encoder.

    Args:
        written: makes it, as `decoder` does, of a spec and a ``source``.
        positions: rules for its table of positions. head: the logits' matrix, as checkpoints call it.
    """

    def model(spec: EncoderDecoderSpec, source: int) -> CausalLM:
        logits = nn.Linear(spec.hidden_size, spec.target_vocab_size, bias=False)
        return CausalLM(written(spec, source=source), logits)

    def names(spec: EncoderDecoderSpec) -> tuple[Rule, ...]:
        tied = (Tie("lm_head.weight", "model.embeddings.words.weight"),) if spec.tie_word_embeddings else ()
        own = (Rename(f"{head}.*", "lm_head.*"), Within("model.decoder.", SIDE_NAMES, to="model."))
        return (*own, *positions, *tied)

    return Crossed(model, {"is_encoder_decoder": True}, names)


_LAYER = {
    "self_attn_layer_norm": "attention_norm", "self_attn.out_proj": "self_attn.o_proj",
    "encoder_attn_layer_norm": "cross_norm", "encoder_attn.out_proj": "cross_attn.o_proj", "encoder_attn": "cross_attn",
    "final_layer_norm": "mlp_norm", "fc1": "mlp.up_proj", "fc2": "mlp.down_proj",
}  # fmt: skip

# Of an encoder or a decoder, behind its own prefix.
SIDE_NAMES: tuple[Rule, ...] = (
    Ignore("version"),
    Rename("embed_tokens.*", "embeddings.words.*"),
    Rename("embed_positions.*", "embeddings.positions.table.*"),
    Rename("layernorm_embedding.*", "embeddings.norm.*"),
    Rename("layer_norm.*", "norm.*"),
    Within("layers.{}.", tuple(Rename(f"{old}.*", f"{new}.*") for old, new in _LAYER.items())),
)


def names(spec: EncoderDecoderSpec, beside: tuple[str, ...] = ()) -> tuple[Rule, ...]:
    """From a checkpoint to the model; ``beside``: patterns of weights of further heads."""
    tied, target = spec.tie_word_embeddings, spec.target_vocab_size
    apart = (*((Tie("lm_head.weight", WORDS),) if tied else ()), Ignore("shared.weight"))
    return (
        Prefixed("model", beside=("lm_head.*", "final_logits_bias", *beside)),
        IgnoreZeros("final_logits_bias", (1, target)),
        Flatten("final_logits_bias"),
        Rename("final_logits_bias", LOGITS_BIAS),
        Rename("model.shared.*", "shared.*"),
        Within("model.encoder.", SIDE_NAMES, to="encoder."),
        Within("model.decoder.", SIDE_NAMES, to="decoder."),
        *(shared_words(tied) if spec.shared else apart),
    )


TINY = {
    "d_model": 32, "encoder_layers": 2, "encoder_ffn_dim": 48, "encoder_attention_heads": 4, "decoder_layers": 2,
    "decoder_ffn_dim": 48, "decoder_attention_heads": 4, "max_position_embeddings": 160, "vocab_size": 99,
    "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": None,
}  # fmt: skip

# Odd sizes, different ones on both sides, every switch turned.
VARIATION = {
    "d_model": 18, "encoder_layers": 1, "encoder_ffn_dim": 37, "encoder_attention_heads": 3, "decoder_layers": 3,
    "decoder_ffn_dim": 29, "decoder_attention_heads": 2, "activation_function": "relu", "scale_embedding": True,
    "vocab_size": 131,
}  # fmt: skip
