"""BART: a post-norm encoder-decoder with learned positions. https://arxiv.org/abs/1910.13461

Its relatives (mBART, Marian, Pegasus, M2M-100, BlenderBot) share its attention, MLPs and checkpoint names; where their
norms stand and where positions come from is spelled in the file of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.attention import CachedSelfAttention, CrossAttention, SelfAttention
from precast.export.blocks.embeddings import LearnedPositions, PlacedPositions, TextEmbeddings
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm
from precast.export.families import Family, TextSpec
from precast.export.generative import Seq2SeqLM
from precast.export.skeletons.decoder import Decoder, DecoderLayer, PostNormDecoderLayer, TokenEmbeddings
from precast.export.skeletons.encoder import Encoder, PostNormLayer, PreNormEncoder, PreNormLayer
from precast.export.spec import hf
from precast.export.weights import Flatten, Ignore, IgnoreZeros, Narrow, Prefixed, Rename, Rule, Tie
from precast.runtime.errors import ConfigError

__all__ = [
    "FAMILY",
    "INERT",
    "LOGITS_BIAS",
    "OFFSET",
    "PREFIX",
    "TINY",
    "VARIATION",
    "BartSpec",
    "lm_head",
    "names",
    "norm",
    "offset_positions",
    "post_norm_decoder_layer",
    "post_norm_encoder_layer",
    "pre_norm_decoder_layer",
    "pre_norm_encoder_layer",
    "pre_norm_lm",
]

OFFSET = 2  # rows of the table of positions that upstream never reads
LOGITS_BIAS = "lm_head.bias"
PREFIX = Prefixed("model", beside=("lm_head.*", "final_logits_bias"))


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


EPSILON = 1e-5  # of every norm, in no config


def norm(spec: BartSpec) -> LayerNorm:
    """As all of them are."""
    return LayerNorm(spec.hidden_size, EPSILON)


def _encoder_parts(spec: BartSpec) -> dict[str, Any]:
    return {
        "attention": SelfAttention(spec.hidden_size, heads=spec.encoder_attention_heads),
        "mlp": MLP(spec.hidden_size, spec.encoder_ffn_dim, spec.activation_function),
    }


def _decoder_parts(spec: BartSpec) -> dict[str, Any]:
    return {
        "attention": CachedSelfAttention(spec.hidden_size, heads=spec.decoder_attention_heads, bias=True),
        "cross": CrossAttention(spec.hidden_size, heads=spec.decoder_attention_heads),
        "mlp": MLP(spec.hidden_size, spec.decoder_ffn_dim, spec.activation_function),
    }


def post_norm_encoder_layer(spec: BartSpec) -> PostNormLayer:
    """A layer of the encoders of BART, Marian and BlenderBot-small."""
    return PostNormLayer(**_encoder_parts(spec), attention_norm=norm(spec), mlp_norm=norm(spec))


def post_norm_decoder_layer(spec: BartSpec) -> PostNormDecoderLayer:
    """A layer of their decoders."""
    parts = _decoder_parts(spec)
    return PostNormDecoderLayer(**parts, attention_norm=norm(spec), cross_norm=norm(spec), mlp_norm=norm(spec))


def pre_norm_encoder_layer(spec: BartSpec) -> PreNormLayer:
    """A layer of the encoders of mBART, Pegasus, M2M-100 and BlenderBot."""
    return PreNormLayer(**_encoder_parts(spec), attention_norm=norm(spec), mlp_norm=norm(spec))


def pre_norm_decoder_layer(spec: BartSpec) -> DecoderLayer:
    """A layer of their decoders."""
    parts = _decoder_parts(spec)
    return DecoderLayer(**parts, attention_norm=norm(spec), cross_norm=norm(spec), mlp_norm=norm(spec))


def lm_head(spec: BartSpec, absent: frozenset[str], vocab: int | None = None) -> nn.Linear:
    """With a bias where the checkpoint has one that is not all zeros."""
    return nn.Linear(spec.hidden_size, vocab or spec.vocab_size, bias=LOGITS_BIAS not in absent)


def pre_norm_lm(
    spec: BartSpec,
    absent: frozenset[str],
    *,
    tables: tuple[nn.Module | None, nn.Module | None] = (None, None),
    normed: bool = False,
) -> Seq2SeqLM:
    """mBART, Pegasus and BlenderBot: pre-norm layers on both sides, a norm behind the last.

    Args:
        tables: of the encoder's and the decoder's positions, in place of learned ones.
        normed: embeddings end in a norm of their own.
    """
    rows, size = spec.max_position_embeddings, spec.hidden_size
    return Seq2SeqLM(
        PreNormEncoder(
            embeddings=TextEmbeddings(
                spec.vocab_size,
                size,
                scale=spec.scale,
                positions=LearnedPositions(rows, size, tables[0]),
                token_types=0,
                norm=norm(spec) if normed else None,
            ),
            layers=[pre_norm_encoder_layer(spec) for _ in range(spec.encoder_layers)],
            norm=norm(spec),
        ),
        Decoder(
            embeddings=TokenEmbeddings(
                spec.vocab_size,
                size,
                scale=spec.scale,
                positions=PlacedPositions(rows, size, tables[1]),
                norm=norm(spec) if normed else None,
            ),
            layers=[pre_norm_decoder_layer(spec) for _ in range(spec.decoder_layers)],
            norm=norm(spec),
        ),
        lm_head(spec, absent),
    )


def _seq2seq_lm(spec: BartSpec, absent: frozenset[str]) -> nn.Module:
    rows, size = spec.max_position_embeddings, spec.hidden_size
    return Seq2SeqLM(
        Encoder(
            embeddings=TextEmbeddings(
                spec.vocab_size,
                size,
                scale=spec.scale,
                positions=LearnedPositions(rows, size),
                token_types=0,
                norm=norm(spec),
            ),
            layers=[post_norm_encoder_layer(spec) for _ in range(spec.encoder_layers)],
        ),
        Decoder(
            embeddings=TokenEmbeddings(
                spec.vocab_size, size, scale=spec.scale, positions=PlacedPositions(rows, size), norm=norm(spec)
            ),
            layers=[post_norm_decoder_layer(spec) for _ in range(spec.decoder_layers)],
            norm=None,
        ),
        lm_head(spec, absent),
    )


def names(spec: BartSpec, *, shared: bool = True, vocab: int | None = None) -> tuple[Rule, ...]:
    """Checkpoint names of BART and its relatives.

    Args:
        shared: encoder and decoder have one table of words.
        vocab: rows of the head, where they are not ``vocab_size``.
    """
    rules: list[Rule] = [
        PREFIX,
        Ignore("model.encoder.version"),
        Ignore("model.decoder.version"),
        IgnoreZeros("final_logits_bias", (1, vocab or spec.vocab_size)),
        Flatten("final_logits_bias"),
        Rename("final_logits_bias", LOGITS_BIAS),
        Rename("model.shared.*", "shared.*"),
    ]
    for old, new in (("encoder", "encoder"), ("decoder", "model")):
        rules += [
            Rename(f"model.{old}.embed_tokens.*", f"{new}.embeddings.words.*"),
            Rename(f"model.{old}.embed_positions.*", f"{new}.embeddings.positions.table.*"),
            Rename(f"model.{old}.layernorm_embedding.*", f"{new}.embeddings.norm.*"),
            Rename(f"model.{old}.layer_norm.*", f"{new}.norm.*"),
            Rename(f"model.{old}.layers.{{}}.self_attn.out_proj.*", f"{new}.layers.{{}}.self_attn.o_proj.*"),
            Rename(f"model.{old}.layers.{{}}.self_attn_layer_norm.*", f"{new}.layers.{{}}.attention_norm.*"),
            Rename(f"model.{old}.layers.{{}}.encoder_attn.out_proj.*", f"{new}.layers.{{}}.cross_attn.o_proj.*"),
            Rename(f"model.{old}.layers.{{}}.encoder_attn.*", f"{new}.layers.{{}}.cross_attn.*"),
            Rename(f"model.{old}.layers.{{}}.encoder_attn_layer_norm.*", f"{new}.layers.{{}}.cross_norm.*"),
            Rename(f"model.{old}.layers.{{}}.fc1.*", f"{new}.layers.{{}}.mlp.up_proj.*"),
            Rename(f"model.{old}.layers.{{}}.fc2.*", f"{new}.layers.{{}}.mlp.down_proj.*"),
            Rename(f"model.{old}.layers.{{}}.final_layer_norm.*", f"{new}.layers.{{}}.mlp_norm.*"),
            Rename(f"model.{old}.layers.{{}}.self_attn.*", f"{new}.layers.{{}}.self_attn.*"),
        ]
    if shared:
        rules += [
            Tie("encoder.embeddings.words.weight", "shared.weight"),
            Tie("model.embeddings.words.weight", "shared.weight"),
        ]
    if spec.tie_word_embeddings:
        # Where no name of the shared table is stored, the decoder's or the head's own stands for it.
        rules.append(Tie("lm_head.weight", "shared.weight" if shared else "model.embeddings.words.weight"))
        if shared:
            rules += [
                Tie("encoder.embeddings.words.weight", "shared.weight"),
                Tie("model.embeddings.words.weight", "shared.weight"),
            ]
    rules.append(Ignore("shared.weight"))
    return tuple(rules)


def offset_positions() -> tuple[Rule, ...]:
    """The rows of a table of positions that are read."""
    return tuple(Narrow(f"{part}.embeddings.positions.table.weight", OFFSET) for part in ("encoder", "model"))


# Training; keys of a time when one class computed all of BART's relatives, since model_type says now what they said;
# and one that generation reads.
INERT = frozenset(
    """
    activation_dropout encoder_layerdrop decoder_layerdrop init_std num_hidden_layers normalize_before
    max_target_positions max_source_positions num_attention_heads force_bos_token_to_be_generated
    """.split()
)

TINY = {
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_ffn_dim": 48,
    "encoder_attention_heads": 4,
    "decoder_layers": 2,
    "decoder_ffn_dim": 48,
    "decoder_attention_heads": 4,
    "max_position_embeddings": 160,
    "vocab_size": 99,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}

# Odd sizes, different ones on both sides, every switch turned.
VARIATION = {
    "d_model": 18,
    "encoder_layers": 1,
    "encoder_ffn_dim": 37,
    "encoder_attention_heads": 3,
    "decoder_layers": 3,
    "decoder_ffn_dim": 29,
    "decoder_attention_heads": 2,
    "activation_function": "relu",
    "scale_embedding": True,
    "vocab_size": 131,
}

FAMILY = Family(
    spec=BartSpec,
    heads={heads.SEQ2SEQ_LM: _seq2seq_lm},
    weights=lambda spec: (*names(spec), *offset_positions()),
    optional=(LOGITS_BIAS,),
    limits=lambda spec: spec.max_position_embeddings,
    inert=INERT,
    generation={
        "is_encoder_decoder": True,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
        "forced_eos_token_id": 2,
    },
    tiny=TINY,
    variations=(VARIATION, {"activation_function": "swish", "tie_word_embeddings": False}),
)
