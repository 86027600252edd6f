"""BART: a post-norm encoder-decoder with learned positions. https://arxiv.org/abs/1910.13461

Its relatives (mBART, Marian, Pegasus, M2M-100, BlenderBot) share its layers and checkpoint names; they differ in where
their norms stand, whether embeddings end in one, and where positions come from."""

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
from precast.export.families import Family, TextSpec
from precast.export.head_sets.seq2seq import WORDS, Part, generation_keys, seq2seq, shared_words
from precast.export.heads import Head
from precast.export.skeletons.decoder import Decoder, DecoderLayer, PostNormDecoderLayer, TokenEmbeddings
from precast.export.skeletons.encoder import Encoder, PostNormLayer, PreNormEncoder, PreNormLayer
from precast.export.spec import hf
from precast.export.weights import Flatten, Ignore, IgnoreZeros, Narrow, Prefixed, Rename, Rule, Tie
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY", "LOGITS_BIAS", "TABLES", "TINY", "VARIATION", "BartSpec", "decoder", "encoder", "lm_head"]
__all__ += ["names", "norm", "relative", "side_names"]

EPSILON = 1e-5  # of every norm, in no config
OFFSET = Narrow("*.embeddings.positions.table.weight", 2)  # rows of the tables of positions that upstream never reads
LOGITS_BIAS = "lm_head.bias"
# Tables of positions: computed where the checkpoint holds none, and the family says that it need not.
TABLES = ("encoder.embeddings.positions.table", "model.embeddings.positions.table")


@dataclass(frozen=True, kw_only=True)
class BartSpec(TextSpec):
    """Keys that BART's relatives share; defaults are bart-large's."""

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


def norm(spec: BartSpec) -> LayerNorm:
    """As all of them are."""
    return LayerNorm(spec.hidden_size, EPSILON)


def _table(spec: BartSpec, computed: bool) -> nn.Module | None:
    return sine_table(spec.max_position_embeddings, spec.hidden_size) if computed else None


def encoder(
    spec: BartSpec,
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
    layer = PreNormLayer if pre_norm else PostNormLayer
    layers = [
        layer(
            attention=SelfAttention(size, heads=spec.encoder_attention_heads),
            attention_norm=norm(spec),
            mlp=MLP(size, spec.encoder_ffn_dim, spec.activation_function),
            mlp_norm=norm(spec),
        )
        for _ in range(spec.encoder_layers)
    ]
    words = TextEmbeddings(spec.vocab_size, size, scale=spec.scale, positions=positions, token_types=0, norm=final)
    return arranged(embeddings=words, layers=layers, norm=norm(spec) if pre_norm else None)


def decoder(
    spec: BartSpec,
    absent: frozenset[str] = frozenset(),
    *,
    pre_norm: bool = False,
    normed: bool = True,
    positions: nn.Module | None = None,
    embeddings: type[TokenEmbeddings] = TokenEmbeddings,
) -> Decoder:
    """What attends to it: ids [B, S] at a `Step` -> states [B, S, H]; arguments as of `encoder`."""
    size, final = spec.hidden_size, norm(spec) if normed else None
    if positions is None:
        positions = PlacedPositions(spec.max_position_embeddings, size, _table(spec, TABLES[1] in absent))
    layer = DecoderLayer if pre_norm else PostNormDecoderLayer
    layers = [
        layer(
            attention=CachedSelfAttention(size, heads=spec.decoder_attention_heads, bias=True),
            attention_norm=norm(spec),
            cross=CrossAttention(size, heads=spec.decoder_attention_heads),
            cross_norm=norm(spec),
            mlp=MLP(size, spec.decoder_ffn_dim, spec.activation_function),
            mlp_norm=norm(spec),
        )
        for _ in range(spec.decoder_layers)
    ]
    words = embeddings(spec.target_vocab_size, size, scale=spec.scale, positions=positions, norm=final)
    return Decoder(embeddings=words, layers=layers, norm=norm(spec) if pre_norm else None)


def lm_head(spec: BartSpec, absent: frozenset[str]) -> nn.Linear:
    """With a bias where the checkpoint has one that is not all zeros."""
    return nn.Linear(spec.hidden_size, spec.target_vocab_size, bias=LOGITS_BIAS not in absent)


def relative(*, pre_norm: bool, normed: bool) -> Mapping[Head, Part]:
    """The heads of a relative whose norms stand elsewhere."""
    return seq2seq(
        encoder=partial(encoder, pre_norm=pre_norm, normed=normed),
        decoder=partial(decoder, pre_norm=pre_norm, normed=normed),
        lm_head=lm_head,
    )


_SIDE = {
    "embed_tokens": "embeddings.words",
    "embed_positions": "embeddings.positions.table",
    "layernorm_embedding": "embeddings.norm",
    "layer_norm": "norm",
    "layers.{}.self_attn.out_proj": "layers.{}.self_attn.o_proj",
    "layers.{}.self_attn_layer_norm": "layers.{}.attention_norm",
    "layers.{}.encoder_attn.out_proj": "layers.{}.cross_attn.o_proj",
    "layers.{}.encoder_attn": "layers.{}.cross_attn",
    "layers.{}.encoder_attn_layer_norm": "layers.{}.cross_norm",
    "layers.{}.fc1": "layers.{}.mlp.up_proj",
    "layers.{}.fc2": "layers.{}.mlp.down_proj",
    "layers.{}.final_layer_norm": "layers.{}.mlp_norm",
    "layers.{}.self_attn": "layers.{}.self_attn",
}


def side_names(old: str, new: str) -> tuple[Rule, ...]:
    """Of an encoder or a decoder, from the module ``old`` of the checkpoint to the module ``new`` here."""
    return (Ignore(f"{old}.version"), *(Rename(f"{old}.{a}.*", f"{new}.{b}.*") for a, b in _SIDE.items()))


def names(spec: BartSpec) -> tuple[Rule, ...]:
    """Checkpoint names of BART and its relatives."""
    tied, target = spec.tie_word_embeddings, spec.target_vocab_size
    apart = (*((Tie("lm_head.weight", WORDS),) if tied else ()), Ignore("shared.weight"))
    return (
        Prefixed("model", beside=("lm_head.*", "final_logits_bias")),
        IgnoreZeros("final_logits_bias", (1, target)),
        Flatten("final_logits_bias"),
        Rename("final_logits_bias", LOGITS_BIAS),
        Rename("model.shared.*", "shared.*"),
        *side_names("model.encoder", "encoder"),
        *side_names("model.decoder", "model"),
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

FAMILY = Family(
    spec=BartSpec,
    heads=seq2seq(encoder=encoder, decoder=decoder, lm_head=lm_head),
    weights=lambda spec: (*names(spec), OFFSET),
    optional=(LOGITS_BIAS,),
    limits=lambda spec: spec.max_position_embeddings,
    # Training; keys of a time when one class computed all of BART's relatives, since model_type says now what they
    # said; and one that generation reads.
    inert=frozenset(
        """
        activation_dropout encoder_layerdrop decoder_layerdrop init_std num_hidden_layers normalize_before
        max_target_positions max_source_positions num_attention_heads force_bos_token_to_be_generated
        """.split()
    ),
    generation=generation_keys(pad=1, bos=0, eos=2, decoder_start=2, forced_eos=2),
    tiny=TINY,
    variations=(VARIATION, {"activation_function": "swish", "tie_word_embeddings": False}),
)
