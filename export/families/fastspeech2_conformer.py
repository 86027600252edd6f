"""FastSpeech 2 with conformers: a spectrogram of a text, each token as long, as high and as loud as predicted.
https://arxiv.org/abs/2006.04558

Two components, between which the runtime lays out frames (`precast.runtime.speech`): ``text`` and ``speech``."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.convolution import COUNTERS
from precast.export.blocks.embeddings import mask_port, words_port
from precast.export.blocks.frames import ChannelNorm
from precast.export.blocks.vocoder import same
from precast.export.components import Composite
from precast.export.families import Family
from precast.export.signatures import Component
from precast.export.skeletons.conformer import (
    EPSILON,
    Conformer,
    ConformerLayer,
    ConvolvedMLP,
    Near,
    PostNet,
    RelativeAttention,
    RelativeSines,
)
from precast.export.spec import Spec as Base
from precast.export.spec import hf
from precast.export.weights import Flatten, Rename, Rule, Within
from precast.runtime.catalogue import CATALOGUE
from precast.runtime.errors import ConfigError
from precast.runtime.ports import Out, Port

__all__ = ["FAMILY", "INERT", "NAMES", "Spec", "Speech", "Text"]

_POSITIONS = 5000  # whatever configs say
_ABSENT = -1e30  # no number of an embedding is as small


@dataclass(frozen=True, kw_only=True)
class Spec(Base):
    """Defaults are the released checkpoint's, as upstream's."""

    is_encoder_decoder: bool = hf(default=True)
    vocab_size: int = hf(default=78)
    hidden_size: int = hf(default=384)
    num_mel_bins: int = hf(default=80)
    encoder_layers: int = hf(default=4)
    encoder_num_attention_heads: int = hf(default=2)
    encoder_linear_units: int = hf(default=1536)
    encoder_kernel_size: int = hf(default=7)
    encoder_normalize_before: bool = hf(default=False)
    encoder_concat_after: bool = hf(default=False)
    decoder_layers: int = hf(default=4)
    decoder_num_attention_heads: int = hf(default=2)
    decoder_linear_units: int = hf(default=1536)
    decoder_kernel_size: int = hf(default=31)
    decoder_normalize_before: bool = hf(default=False)
    decoder_concat_after: bool = hf(default=False)
    positionwise_conv_kernel_size: int = hf(default=3)
    use_macaron_style_in_conformer: bool = hf(default=True)
    use_cnn_in_conformer: bool = hf(default=True, only=(True,))  # upstream knows no other
    convolution_bias: bool = hf(default=True)
    duration_predictor_layers: int = hf(default=2)
    duration_predictor_channels: int = hf(default=256)
    duration_predictor_kernel_size: int = hf(default=3)
    energy_predictor_layers: int = hf(default=2)
    energy_predictor_channels: int = hf(default=256)
    energy_predictor_kernel_size: int = hf(default=3)
    energy_embed_kernel_size: int = hf(default=1)
    pitch_predictor_layers: int = hf(default=5)
    pitch_predictor_channels: int = hf(default=256)
    pitch_predictor_kernel_size: int = hf(default=5)
    pitch_embed_kernel_size: int = hf(default=1)
    speech_decoder_postnet_layers: int = hf(default=5)
    speech_decoder_postnet_units: int = hf(default=256)
    speech_decoder_postnet_kernel: int = hf(default=5)
    reduction_factor: int = hf(default=1)
    speaking_speed: float = hf(default=1.0)
    num_speakers: int | None = hf(default=None)
    num_languages: int | None = hf(default=None)
    speaker_embed_dim: int | None = hf(default=None)

    def __post_init__(self) -> None:
        kernels = {name: value for name, value in vars(self).items() if name.endswith(("kernel_size", "kernel"))}
        even = {name: value for name, value in kernels.items() if value % 2 == 0}
        if even:
            raise ConfigError(f"kernels are odd; received {even}")
        if self.speaking_speed <= 0 or self.speech_decoder_postnet_layers < 1 or self.hidden_size % 2:
            raise ConfigError(
                "'speaking_speed' is above 0, 'speech_decoder_postnet_layers' is 1 or more and 'hidden_size' even; "
                f"received {self.speaking_speed}, {self.speech_decoder_postnet_layers} and {self.hidden_size}"
            )


def _conformer(spec: Spec, kind: str, dim: str) -> Conformer:
    size = spec.hidden_size
    heads_, inner, kernel, before, joined, count = (
        getattr(spec, f"{kind}_{name}")
        for name in (
            *("num_attention_heads", "linear_units", "kernel_size", "normalize_before", "concat_after", "layers"),
        )
    )
    halves = spec.use_macaron_style_in_conformer

    def mlp() -> nn.Module:
        return ConvolvedMLP(size, inner, spec.positionwise_conv_kernel_size)

    layers = [
        ConformerLayer(
            size,
            attention=RelativeAttention(size, heads_),
            near=Near(size, kernel, spec.convolution_bias),
            mlp=mlp(),
            first=mlp() if halves else None,
            before=before,
            joined=nn.Linear(2 * size, size) if joined else None,
        )
        for _ in range(count)
    ]
    return Conformer(RelativeSines(_POSITIONS, size, dim), layers)


class _Predictor(nn.Module):
    """A number for each token, [B, S, H] -> [B, S, 1]."""

    def __init__(self, spec: Spec, kind: str) -> None:
        super().__init__()
        layers, channels, kernel = (
            getattr(spec, f"{kind}_predictor_{name}") for name in ("layers", "channels", "kernel_size")
        )
        sizes = [spec.hidden_size, *(channels for _ in range(layers))]
        self.convs = nn.ModuleList(same(*pair, kernel) for pair in itertools.pairwise(sizes))
        self.norms = nn.ModuleList(ChannelNorm(channels, EPSILON) for _ in range(layers))
        self.linear = nn.Linear(channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(F.relu(conv(x)))
        return self.linear(x.transpose(1, 2))


class Text(Component):
    """ids, mask [B, S] -> {"log_duration": [B, S], "token_states": [B, S, H], "pitch_outputs" and "energy_outputs":
    [B, S, 1]}; who speaks, and which language, may be said."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        size, self.spec = spec.hidden_size, spec
        self.words, self.encoder = nn.Embedding(spec.vocab_size, size), _conformer(spec, "encoder", "sequence")
        self.voices, self.languages = (
            nn.Embedding(count, size) if count is not None and count > 1 else None
            for count in (spec.num_speakers, spec.num_languages)
        )
        wide = spec.speaker_embed_dim
        self.projection = nn.Linear(size + wide, size) if wide else None
        self.duration, self.pitch, self.energy = (_Predictor(spec, kind) for kind in ("duration", "pitch", "energy"))
        self.pitch_embed = same(1, size, spec.pitch_embed_kernel_size)
        self.energy_embed = same(1, size, spec.energy_embed_kernel_size)

    def ports(self) -> tuple[Port, ...]:
        words = words_port(self.words)
        made = [words, mask_port(words)]
        for name, table in (("speaker_ids", self.voices), ("lang_ids", self.languages)):
            if table is not None:
                made.append(Port(name, "int64", ("batch", 1), "labels", default=-1, below=table.num_embeddings))
        if self.projection is not None:
            shape = ("batch", self.projection.in_features - self.spec.hidden_size)
            made.append(Port("speaker_embedding", "float32", shape, "features", default=_ABSENT))
        return tuple(made)

    def outs(self) -> tuple[Out, ...]:
        tokens = ("batch", "sequence")
        states = Out("token_states", (*tokens, self.spec.hidden_size), "scores")
        said = (Out(f"{kind}_outputs", (*tokens, 1), "scores") for kind in ("pitch", "energy"))
        return (Out("log_duration", tokens, "scores"), states, *said)

    def processing(self) -> Mapping[str, Any]:
        said = {"component": "text", "durations": "log_duration", "rounds": "nearest"}
        said |= {"fills": "hidden_states", "frames": "token_states"}
        return {"alignment": {**said, "stretch": self.spec.speaking_speed}}

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        speaker_ids: Tensor | None = None,
        lang_ids: Tensor | None = None,
        speaker_embedding: Tensor | None = None,
    ) -> dict[str, Tensor]:
        x = self.encoder(self.words(input_ids), attention_mask)
        for table, row in ((self.voices, speaker_ids), (self.languages, lang_ids)):
            if table is not None and row is not None:
                x = x + torch.where((row >= 0)[..., None], table(row.clamp_min(0)), 0.0)
        if self.projection is not None and speaker_embedding is not None:
            given = (speaker_embedding[:, :1] > _ABSENT / 2)[..., None]
            voice = torch.where(given[:, 0], speaker_embedding, 0.0)
            voice = voice / torch.sqrt((voice * voice).sum(dim=1, keepdim=True)).clamp_min(1e-12)
            wide = voice[:, None].expand(-1, x.shape[1], -1)
            x = torch.where(given, self.projection(torch.cat((x, wide), dim=-1)), x)
        real = (attention_mask != 0)[..., None]
        pitch, energy = (torch.where(real, each(x), 0.0) for each in (self.pitch, self.energy))
        durations = torch.where(real, self.duration(x), 0.0)[..., 0]
        for curve, embed in ((energy, self.energy_embed), (pitch, self.pitch_embed)):
            x = x + embed(curve.transpose(1, 2)).transpose(1, 2)
        return {"log_duration": durations, "token_states": x, "pitch_outputs": pitch, "energy_outputs": energy}


class Speech(Component):
    """Frames [B, T, H], which see each other -> {"spectrogram": [B, T * R, C]}, and what ``vocoder`` makes of it,
    {"waveform": [B, samples]}, where there is one."""

    def __init__(self, spec: Spec, vocoder: nn.Module | None = None) -> None:
        super().__init__()
        self.bins, self.hidden = spec.num_mel_bins, spec.hidden_size
        self.decoder = _conformer(spec, "decoder", "spoken")
        self.feat_out = nn.Linear(spec.hidden_size, spec.num_mel_bins * spec.reduction_factor)
        self.postnet, self.vocoder = (
            PostNet(
                spec.num_mel_bins,
                units=spec.speech_decoder_postnet_units,
                layers=spec.speech_decoder_postnet_layers,
                kernel=spec.speech_decoder_postnet_kernel,
            ),
            vocoder,
        )

    def ports(self) -> tuple[Port, ...]:
        return (Port("hidden_states", "float32", ("batch", "spoken", self.hidden), "features"),)

    def outs(self) -> tuple[Out, ...]:
        spectrogram = CATALOGUE["text-to-spectrogram"].outs
        return spectrogram if self.vocoder is None else (*CATALOGUE["text-to-waveform"].outs, *spectrogram)

    def largest(self) -> int:
        return 128  # a second or two

    def forward(self, hidden_states: Tensor) -> dict[str, Tensor]:
        x = self.feat_out(self.decoder(hidden_states))
        x = x.view(x.shape[0], -1, self.bins).transpose(1, 2)
        made = (x + self.postnet(x)).transpose(1, 2)
        sound = {} if self.vocoder is None else {"waveform": self.vocoder(made)}
        return {**sound, "spectrogram": made}


def _compose(spec: Spec, absent: frozenset[str]) -> nn.Module:
    return Composite({"text": Text(spec), "speech": Speech(spec)})


_LAYER = (
    *(Rename(f"self_attn.linear_{old}.*", f"self_attn.{old}_proj.*") for old in "qkv"),
    Rename("self_attn.linear_out.*", "self_attn.o_proj.*"),
    Rename("self_attn.linear_pos.*", "self_attn.places_proj.*"),
    Flatten("self_attn.pos_bias_*"),
    Rename("self_attn.pos_bias_u", "self_attn.content_bias"),
    Rename("self_attn.pos_bias_v", "self_attn.place_bias"),
    Rename("feed_forward_macaron.*", "first.*"),
    Rename("feed_forward.*", "mlp.*"),
    Rename("conv_module.*", "near.*"),
    Rename("concat_linear.*", "joined.*"),
    Rename("ff_macaron_layer_norm.*", "first_norm.*"),
    Rename("self_attn_layer_norm.*", "attention_norm.*"),
    Rename("conv_layer_norm.*", "near_norm.*"),
    Rename("ff_layer_norm.*", "mlp_norm.*"),
    Rename("final_layer_norm.*", "norm.*"),
)
NAMES: tuple[Rule, ...] = (
    COUNTERS,
    *(
        Within(f"{old}.conformer_layers.{{}}.", _LAYER, to=f"{new}.layers.{{}}.")
        for old, new in (("encoder", "text.encoder"), ("decoder", "speech.decoder"))
    ),
    Rename("encoder.embed.*", "text.words.*"),
    Rename("speaker_id_embedding.*", "text.voices.*"),
    Rename("language_id_embedding.*", "text.languages.*"),
    Rename("projection.*", "text.projection.*"),
    *(
        Within(
            f"{kind}_predictor.",
            (Rename("conv_layers.{}.conv.*", "convs.{}.*"), Rename("conv_layers.{}.layer_norm.*", "norms.{}.*")),
            to=f"text.{kind}.",
        )
        for kind in ("duration", "pitch", "energy")
    ),
    *(Rename(f"{kind}_embed.conv.*", f"text.{kind}_embed.*") for kind in ("pitch", "energy")),
    Rename("speech_decoder_postnet.feat_out.*", "speech.feat_out.*"),
    Rename("speech_decoder_postnet.layers.{}.conv.*", "speech.postnet.convs.{}.*"),
    Rename("speech_decoder_postnet.layers.{}.batch_norm.*", "speech.postnet.norms.{}.*"),
)
INERT = frozenset(
    """max_source_positions use_masking use_weighted_masking encoder_config decoder_config tie_word_embeddings
    num_hidden_layers num_attention_heads energy_predictor_dropout energy_embed_dropout pitch_predictor_dropout
    pitch_embed_dropout encoder_dropout_rate encoder_positional_dropout_rate encoder_attention_dropout_rate
    decoder_dropout_rate decoder_positional_dropout_rate decoder_attention_dropout_rate duration_predictor_dropout_rate
    speech_decoder_postnet_dropout stop_gradient_from_energy_predictor stop_gradient_from_pitch_predictor
    input_dim pad_token_id init_std""".split()
)

FAMILY = Family(
    spec=Spec,
    heads={heads.TEXT_TO_SPECTROGRAM: _compose},
    weights=lambda spec: NAMES,
    inert=INERT,
    tiny={"vocab_size": 31, "hidden_size": 16, "num_mel_bins": 9, "encoder_layers": 1, "decoder_layers": 1}
    | {"encoder_linear_units": 20, "decoder_linear_units": 22, "encoder_kernel_size": 3, "decoder_kernel_size": 5}
    | {"duration_predictor_layers": 1, "duration_predictor_channels": 12, "energy_predictor_layers": 1}
    | {"energy_predictor_channels": 10, "pitch_predictor_layers": 2, "pitch_predictor_channels": 11}
    | {"speech_decoder_postnet_layers": 2, "speech_decoder_postnet_units": 13},
    variations=(
        {"hidden_size": 18, "encoder_num_attention_heads": 3, "decoder_num_attention_heads": 1, "reduction_factor": 2}
        | {"encoder_normalize_before": True, "decoder_concat_after": True, "use_macaron_style_in_conformer": False}
        | {"positionwise_conv_kernel_size": 1, "convolution_bias": False, "energy_embed_kernel_size": 3}
        | {"num_speakers": 3, "num_languages": 4, "speaker_embed_dim": 5, "speaking_speed": 1.7}
        | {"pitch_embed_kernel_size": 5, "speech_decoder_postnet_layers": 1, "encoder_layers": 2},
    ),
)
