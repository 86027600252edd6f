"""SpeechT5: one encoder-decoder behind parts that read or hear, and in front of parts that write or speak.
https://arxiv.org/abs/2110.07205

It writes what it hears as every encoder-decoder does. What speaks says frame after frame of a spectrogram in a given
voice (`precast.export.skeletons.spectrogram`), whether a text is read aloud or a recording said in another voice."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from precast.export import heads
from precast.export.blocks.attention import CachedSelfAttention, CrossAttention
from precast.export.blocks.convolution import COUNTERS
from precast.export.blocks.mlp import MLP
from precast.export.components import Composite
from precast.export.families import Family
from precast.export.generative import ENCODER
from precast.export.head_sets.seq2seq import WORDS, generation_keys, seq2seq
from precast.export.skeletons.decoder import Decoder, PostNormDecoderLayer, TokenEmbeddings
from precast.export.skeletons.spectrogram import FrameStep, Mending, SpectrogramSpec
from precast.export.skeletons.speech_encoder import norm
from precast.export.skeletons.text_or_sound import Encoder, FrameEncoder, Sounds, TextOrSoundSpec, Words, WrittenSines
from precast.export.spec import hf
from precast.export.weights import Ignore, Merge, Prefixed, Rename, Rule, Tie, Unless, WeightNorm, Within

__all__ = ["FAMILY", "Spec"]

_DECODER = "decoder"


@dataclass(frozen=True, kw_only=True)
class Spec(TextOrSoundSpec, SpectrogramSpec):
    """Defaults are the released checkpoints', as upstream's."""

    is_encoder_decoder: bool = hf(default=True)
    scale_embedding: bool = hf(default=False)
    # Not by upstream's name: of a decoder of frames nothing is tied, whatever that says.
    tied: bool = hf("tie_word_embeddings", default=True)

    def __post_init__(self) -> None:
        TextOrSoundSpec.__post_init__(self)
        SpectrogramSpec.__post_init__(self)


def _writer(spec: Spec, absent: frozenset[str]) -> Decoder:
    size, number = spec.hidden_size, spec.decoder_attention_heads
    layers = [
        PostNormDecoderLayer(
            attention=CachedSelfAttention(size, heads=number, bias=True),
            attention_norm=norm(spec),
            cross=CrossAttention(size, heads=number),
            cross_norm=norm(spec),
            mlp=MLP(size, spec.decoder_ffn_dim, spec.hidden_act),
            mlp_norm=norm(spec),
        )
        for _ in range(spec.decoder_layers)
    ]
    scale = size**0.5 if spec.scale_embedding else None
    words = TokenEmbeddings(spec.vocab_size, size, scale=scale, positions=WrittenSines(size))
    return Decoder(embeddings=words, layers=layers, norm=None)


def _speaker(spec: Spec, prenet: Words | Sounds) -> nn.Module:
    """What says frames of what is read or heard."""
    step = FrameStep(spec, encoder=ENCODER, own=_DECODER)
    return Composite({ENCODER: FrameEncoder(spec, prenet, spec.left), _DECODER: step, "postnet": Mending(spec)})


def _renamed(names: dict[str, str]) -> tuple[Rule, ...]:
    return tuple(Rename(f"{old}.*", f"{new}.*") for old, new in names.items())


_MLP = {
    "feed_forward.intermediate_dense": "mlp.up_proj", "feed_forward.output_dense": "mlp.down_proj",
    "final_layer_norm": "mlp_norm",
}  # fmt: skip
_ENCODER_LAYER = {
    "attention.out_proj": "self_attn.o_proj", "attention": "self_attn", "layer_norm": "attention_norm", **_MLP,
}  # fmt: skip
_DECODER_LAYER = {
    "self_attn.out_proj": "self_attn.o_proj", "self_attn_layer_norm": "attention_norm",
    "encoder_attn.out_proj": "cross_attn.o_proj", "encoder_attn": "cross_attn", "encoder_attn_layer_norm": "cross_norm",
    **_MLP,
}  # fmt: skip
_HEARD = {
    "feature_encoder.conv_layers": "frames.layers", "feature_projection.layer_norm": "norm",
    "feature_projection.projection": "projection", "pos_conv_embed": "positions",
}  # fmt: skip
_NAMES = {
    "speecht5.encoder.wrapped_encoder.layer_norm": "encoder.stack.norm",
    "speecht5.encoder.prenet.embed_tokens": "encoder.prenet.words",
    "speecht5.encoder.prenet.encode_positions": "encoder.prenet.positions",
    "speecht5.decoder.prenet.embed_tokens": "decoder.embeddings.words",
    "speecht5.decoder.prenet.layers": "decoder.prenet",
    "speecht5.decoder.prenet.final_layer": "decoder.final_layer",
    "speecht5.decoder.prenet.encode_positions": "decoder.positions",
    "speecht5.decoder.prenet.speaker_embeds_layer": "decoder.voice",
    "speech_decoder_postnet.feat_out": "decoder.feat_out",
    "speech_decoder_postnet.prob_out": "decoder.prob_out",
    "text_decoder_postnet.lm_head": "lm_head",
}
# Computed anew, of training alone, or without effect behind a norm of all frames.
_UNUSED = ("*.encode_positions.pe", "*.prenet.embed_positions.*", "*.pos_sinusoidal_embed.*", "*.masked_spec_embed")


def _weights(spec: Spec) -> tuple[Rule, ...]:
    cross = [f"decoder.layers.{n}.cross_attn.{kind}_proj" for n in range(spec.decoder_layers) for kind in "kv"]
    prenet, grouped = "speecht5.encoder.prenet.", spec.feat_extract_norm == "group"
    return (
        Prefixed("speecht5", beside=("speech_decoder_postnet.*", "text_decoder_postnet.*")),
        COUNTERS,
        *map(Ignore, _UNUSED),
        *((Ignore(f"{prenet}feature_encoder.conv_layers.0.conv.bias"),) if grouped else ()),
        WeightNorm(f"{prenet}pos_conv_embed.conv", axis=2),
        *_renamed({f"{prenet}{old}": f"encoder.prenet.{new}" for old, new in _HEARD.items()}),
        Rename("encoder.prenet.frames.layers.{}.layer_norm.*", "encoder.prenet.frames.layers.{}.norm.*"),
        Rename("speecht5.encoder.wrapped_encoder.embed_positions.pe_k.weight", "encoder.stack.bias.rows"),
        Within("speecht5.encoder.wrapped_encoder.layers.{}.", _renamed(_ENCODER_LAYER), to="encoder.stack.layers.{}."),
        Within("speecht5.decoder.wrapped_decoder.layers.{}.", _renamed(_DECODER_LAYER), to="decoder.layers.{}."),
        *_renamed(_NAMES),
        Rename("speech_decoder_postnet.layers.{}.conv.*", "postnet.postnet.convs.{}.*"),
        Rename("speech_decoder_postnet.layers.{}.batch_norm.*", "postnet.postnet.norms.{}.*"),
        *((Tie("lm_head.weight", WORDS),) if spec.tied else ()),
        # A decoder of frames is told the keys and values of all its layers at once; one of tokens, of each.
        *(
            Unless(WORDS, Merge(tuple(f"{name}.{part}" for name in cross), f"encoder.cross.{part}"))
            for part in ("weight", "bias")
        ),
    )


FAMILY = Family(
    spec=Spec,
    heads={
        **seq2seq(
            encoder=lambda spec, absent: Encoder(spec, Sounds(spec)), decoder=_writer, head=heads.SPEECH_SEQ2SEQ
        ),
        heads.TEXT_TO_SPECTROGRAM: lambda spec, absent: _speaker(spec, Words(spec)),
        heads.VOICE_CONVERSION: lambda spec, absent: _speaker(spec, Sounds(spec)),
    },
    weights=_weights,
    refused={"Model": "a transformer without what reads, hears, writes or speaks"},
    inert=frozenset(
        """encoder_layerdrop decoder_layerdrop positional_dropout hidden_dropout activation_dropout feat_proj_dropout
        num_feat_extract_layers apply_spec_augment mask_time_prob mask_time_length mask_time_min_masks
        mask_feature_prob mask_feature_length mask_feature_min_masks speech_decoder_postnet_dropout
        use_guided_attention_loss guided_attention_loss_num_heads guided_attention_loss_sigma
        guided_attention_loss_scale use_cache num_hidden_layers num_attention_heads max_length""".split()
    ),
    generation=generation_keys(pad=1, bos=0, eos=2, decoder_start=2),
    tiny={
        "vocab_size": 31, "hidden_size": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 20,
        "encoder_max_relative_position": 4, "decoder_layers": 1, "decoder_attention_heads": 4, "decoder_ffn_dim": 22,
        "num_mel_bins": 9, "speech_decoder_prenet_units": 11, "speaker_embedding_dim": 7, "max_speech_positions": 60,
        "speech_decoder_postnet_layers": 2, "speech_decoder_postnet_units": 13, "max_text_positions": 64,
        "conv_dim": [8, 10], "conv_stride": [10, 16], "conv_kernel": [14, 18], "num_conv_pos_embeddings": 6,
        "num_conv_pos_embedding_groups": 4,
    },
    variations=(
        {
            "hidden_size": 18, "encoder_layers": 1, "encoder_attention_heads": 3, "decoder_layers": 2,
            "hidden_act": "relu", "decoder_attention_heads": 1, "speech_decoder_prenet_layers": 1,
            "speech_decoder_prenet_dropout": 0.25, "reduction_factor": 3, "speech_decoder_postnet_layers": 1,
            "speech_decoder_postnet_kernel": 3, "layer_norm_eps": 1e-4, "max_text_positions": 33,
            "feat_extract_norm": "layer", "feat_extract_activation": "gelu_new", "conv_bias": True,
            "conv_dim": [9, 13], "conv_stride": [11, 15], "conv_kernel": [13, 17], "num_conv_pos_embeddings": 7,
            "num_conv_pos_embedding_groups": 3, "scale_embedding": True, "tie_word_embeddings": False,
        },
    ),
)  # fmt: skip
