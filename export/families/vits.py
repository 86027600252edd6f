"""VITS: speech from text, by a flow that turns what a text is like in each frame into what a vocoder reads, and how
long each token is heard into noise. https://arxiv.org/abs/2106.06103

Two components: ``text`` says of each token how long it is heard and what its frames are like, ``speech`` makes a
waveform of frames. How many frames there are depends on what the first says, so that the runtime sets out the second's
inputs (`precast.runtime.speech`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.attention import head_size
from precast.export.blocks.embeddings import mask_port, words_port
from precast.export.blocks.frames import ChannelNorm
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.vocoder import GENERATOR_NAMES, Generator, GeneratorSpec, same
from precast.export.components import Composite
from precast.export.families import Family
from precast.export.signatures import Component
from precast.export.skeletons.encoder import PostNormLayer
from precast.export.spec import hf
from precast.export.weights import Compute, Fold, Ignore, Rename, Rule, Split, Tie, WeightNorm, Within
from precast.runtime.catalogue import CATALOGUE
from precast.runtime.errors import ConfigError
from precast.runtime.ports import Out, Port

__all__ = ["FAMILY", "Spec"]

_LEAST = 1e-3  # width, height and slope of a spline's pieces
_EPSILON = 1e-5  # of norms beside the layers', whatever configs say of these


@dataclass(frozen=True, kw_only=True)
class Spec(GeneratorSpec):
    """Defaults are the checkpoints' of Massively Multilingual Speech, as upstream's."""

    vocab_size: int = hf(default=38)
    hidden_size: int = hf(default=192)
    num_hidden_layers: int = hf(default=6)
    num_attention_heads: int = hf(default=2)
    window_size: int = hf(default=4)
    use_bias: bool = hf(default=True)
    ffn_dim: int = hf(default=768)
    ffn_kernel_size: int = hf(default=3)
    flow_size: int = hf(default=192)
    hidden_act: Activation = hf(default=activation("relu"), read=activation)
    layer_norm_eps: float = hf(default=1e-5)
    use_stochastic_duration_prediction: bool = hf(default=True)
    num_speakers: int = hf(default=1)
    speaker_embedding_size: int = hf(default=0)
    depth_separable_channels: int = hf(default=2, only=(2,))
    depth_separable_num_layers: int = hf(default=3)
    duration_predictor_flow_bins: int = hf(default=10)
    duration_predictor_tail_bound: float = hf(default=5.0)
    duration_predictor_kernel_size: int = hf(default=3)
    duration_predictor_num_flows: int = hf(default=4)
    duration_predictor_filter_channels: int = hf(default=256)
    prior_encoder_num_flows: int = hf(default=4)
    prior_encoder_num_wavenet_layers: int = hf(default=4)
    wavenet_kernel_size: int = hf(default=5)
    wavenet_dilation_rate: int = hf(default=1)
    speaking_rate: float = hf(default=1.0)
    noise_scale: float = hf(default=0.667)
    noise_scale_duration: float = hf(default=0.8)

    def __post_init__(self) -> None:
        super().__post_init__()
        odd = self.duration_predictor_kernel_size, self.wavenet_kernel_size
        if any(kernel % 2 == 0 for kernel in odd) or self.flow_size % 2:
            raise ConfigError(
                "'duration_predictor_kernel_size' and 'wavenet_kernel_size' are odd, 'flow_size' is even; received "
                f"{odd[0]}, {odd[1]} and {self.flow_size}"
            )
        if min(self.window_size, self.ffn_kernel_size, self.prior_encoder_num_wavenet_layers) < 1:
            raise ConfigError(
                "'window_size', 'ffn_kernel_size' and 'prior_encoder_num_wavenet_layers' are 1 or more; received "
                f"{self.window_size}, {self.ffn_kernel_size} and {self.prior_encoder_num_wavenet_layers}"
            )
        if self.num_speakers > 1 and not self.speaker_embedding_size:
            raise ConfigError(f"{self.num_speakers} speakers need a 'speaker_embedding_size' of 1 or more; received 0")
        if not self.speaking_rate > 0:
            raise ConfigError(f"'speaking_rate' is above 0; received {self.speaking_rate}")

    @property
    def speakers(self) -> int:
        """How many there are to choose from."""
        return self.num_speakers if self.num_speakers > 1 else 0

    @property
    def flows(self) -> tuple[int, ...]:
        """The flows of durations that are used, the last one first; upstream leaves out the first of them."""
        return tuple(range(self.duration_predictor_num_flows, 1, -1))


class _Voice(nn.Module):
    """What a speaker [B] adds to channels, [B, C, 1]: a row each, the first that of none."""

    def __init__(self, spec: Spec, channels: int) -> None:
        super().__init__()
        self.table = nn.Embedding(spec.speakers + 1, channels)

    def forward(self, speaker: Tensor) -> Tensor:
        return self.table(speaker + 1)[..., None]


def _voice(spec: Spec, channels: int) -> _Voice | None:
    return _Voice(spec, channels) if spec.speakers else None


def _speaker_ports(spec: Spec) -> tuple[Port, ...]:
    speaker = Port("speaker_id", "int64", ("batch",), "labels", default=-1, below=spec.speakers)
    return (speaker,) if spec.speakers else ()


class _Attention(nn.Module):
    """Self-attention where keys and values within a window have a part that says how far they are, [B, S, H] ->
    [B, S, H]. https://arxiv.org/abs/1803.02155"""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        size, self.heads, self.window = spec.hidden_size, spec.num_attention_heads, spec.window_size
        width = head_size(size, self.heads)
        self.scale = width**-0.5
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            nn.Linear(size, size, bias=spec.use_bias) for _ in range(4)
        )
        self.key_places, self.value_places = (nn.Parameter(torch.empty(2 * self.window + 1, width)) for _ in range(2))

    def forward(self, x: Tensor, mask: Tensor, bias: Tensor | None = None) -> Tensor:
        batch, length, size = x.shape
        query, key, value = (
            each(x).view(batch, length, self.heads, size // self.heads).transpose(1, 2)
            for each in (self.q_proj, self.k_proj, self.v_proj)
        )
        query = query * self.scale
        place = torch.arange(length, device=x.device)
        apart = place[None] - place[:, None] + self.window  # [S, S], which row of the tables
        near = torch.logical_and(apart >= 0, apart <= 2 * self.window)
        row = apart.clamp(0, 2 * self.window).expand(batch, self.heads, length, length)
        added = torch.matmul(query, self.key_places.t()).gather(-1, row)
        scores = torch.matmul(query, key.transpose(2, 3)) + torch.where(near, added, 0.0)
        seen = (mask != 0)[:, None, None]
        shares = torch.where(seen, scores, -1e30).softmax(dim=-1)
        step = torch.arange(-self.window, self.window + 1, device=x.device)
        other = place[:, None] + step  # [S, 2 * W + 1], which key
        inside = torch.logical_and(other >= 0, other < length)
        column = torch.minimum(other.clamp_min(0), place[-1:]).expand(batch, self.heads, length, 2 * self.window + 1)
        windowed = torch.where(inside, shares.gather(-1, column), 0.0)
        context = torch.matmul(shares, value) + torch.matmul(windowed, self.value_places)
        context = context.transpose(1, 2).clone(memory_format=torch.contiguous_format)
        return self.o_proj(context.view(batch, length, size))


class _FeedForward(nn.Module):
    """Two convolutions over the tokens that are real, [B, S, H] -> [B, S, H]."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        size, inner, kernel, self.act = spec.hidden_size, spec.ffn_dim, spec.ffn_kernel_size, spec.hidden_act
        self.pads = (kernel - 1) // 2, kernel // 2
        self.conv_1, self.conv_2 = nn.Conv1d(size, inner, kernel), nn.Conv1d(inner, size, kernel)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        x = self.act(self.conv_1(torch.constant_pad_nd(x.transpose(1, 2) * real, self.pads)))
        return (self.conv_2(torch.constant_pad_nd(x * real, self.pads)) * real).transpose(1, 2)


class _Layer(PostNormLayer):
    """One whose feed-forward part looks around, and is told what is real, [B, 1, S]."""

    def forward(self, x: Tensor, mask: Tensor, bias: Tensor | None = None) -> Tensor:
        x, _ = self.attention_norm.add(self.self_attn(x, mask), x)
        x, _ = self.mlp_norm.add(self.mlp(x, bias), x)
        return x


class _Separable(nn.Module):
    """Convolutions of each channel along the tokens, ever wider, and of all channels of each, [B, C, S]."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        size, kernel, every = spec.hidden_size, spec.duration_predictor_kernel_size, spec.depth_separable_num_layers
        self.convs_dilated = nn.ModuleList(
            same(size, size, kernel, dilation=kernel**number, groups=size) for number in range(every)
        )
        self.convs_pointwise = nn.ModuleList(nn.Conv1d(size, size, 1) for _ in range(every))
        self.norms_1, self.norms_2 = (
            nn.ModuleList(ChannelNorm(size, _EPSILON) for _ in range(every)) for _ in range(2)
        )

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        for dilated, norm, pointwise, other in zip(
            self.convs_dilated, self.norms_1, self.convs_pointwise, self.norms_2, strict=True
        ):
            x = x + F.gelu(other(pointwise(F.gelu(norm(dilated(x * real))))))
        return x * real


def _root(y: Tensor, widths: Tensor, heights: Tensor, slopes: Tensor, bound: float) -> Tensor:
    """Where a rising spline of rational pieces is y [B, S], within -bound to bound; elsewhere it is y itself.
    https://arxiv.org/abs/1906.04032

    Args:
        widths, heights: of its pieces, [B, S, P], before their softmax. slopes: between these, [B, S, P - 1].
    """

    def pieces(shares: Tensor) -> tuple[Tensor, Tensor]:
        """How large they are, and where they begin."""
        shares = 2 * bound * (_LEAST + (1 - _LEAST * shares.shape[-1]) * shares.softmax(dim=-1))
        return shares, shares.cumsum(dim=-1) - shares - bound

    (widths, lefts), (heights, bottoms) = pieces(widths), pieces(heights)
    slopes = F.softplus(slopes) + _LEAST
    one = torch.ones_like(slopes[..., :1])
    slopes = torch.cat((one, slopes, one), dim=-1)
    inside = y.clamp(-bound, bound)[..., None]
    piece = (inside >= bottoms).to(torch.int64).sum(dim=-1, keepdim=True) - 1
    width, height, left, bottom = (values.gather(-1, piece) for values in (widths, heights, lefts, bottoms))
    before, after = slopes.gather(-1, piece), slopes.gather(-1, piece + 1)
    rise, above = height / width, inside - bottom
    bend = above * (before + after - 2 * rise)
    a, b, c = height * (rise - before) + bend, height * before - bend, -rise * above
    x = 2 * c / (-b - torch.sqrt(b * b - 4 * a * c)) * width + left
    return torch.where(torch.logical_and(y >= -bound, y <= bound), x[..., 0], y)


class _Flow(nn.Module):
    """The inverse of a flow: ``bent`` [B, 1, S] made straight, as ``by`` [B, 1, S] and states [B, H, S] say."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        size, bins = spec.hidden_size, spec.duration_predictor_flow_bins
        self.scale, self.bound = math.sqrt(size), spec.duration_predictor_tail_bound
        self.conv_pre, self.conv_dds = nn.Conv1d(1, size, 1), _Separable(spec)
        self.widths, self.heights, self.slopes = (nn.Conv1d(size, count, 1) for count in (bins, bins, bins - 1))

    def forward(self, bent: Tensor, by: Tensor, given: Tensor, real: Tensor) -> Tensor:
        x = self.conv_dds(self.conv_pre(by) + given, real)
        widths, heights, slopes = (
            (each(x) * real).transpose(1, 2) for each in (self.widths, self.heights, self.slopes)
        )
        made = _root(bent[:, 0], widths / self.scale, heights / self.scale, slopes, self.bound)
        return made[:, None] * real


class _Durations(nn.Module):
    """States [B, H, S] -> logarithms of how long each token is heard, [B, 1, S], as noise [B, 2, S] has it."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        size = spec.hidden_size
        self.conv_pre, self.conv_proj, self.conv_dds = (
            nn.Conv1d(size, size, 1),
            nn.Conv1d(size, size, 1),
            _Separable(spec),
        )
        self.voice = _voice(spec, size)
        self.flows = nn.ModuleList(_Flow(spec) for _ in spec.flows)
        self.translate, self.log_scale = (nn.Parameter(torch.empty(2, 1)) for _ in range(2))

    def forward(self, x: Tensor, real: Tensor, speaker: Tensor | None, noise: Tensor) -> Tensor:
        x = self.conv_pre(x)
        if self.voice is not None:
            x = x + self.voice(speaker)
        given = self.conv_proj(self.conv_dds(x, real)) * real
        first, second = noise[:, :1], noise[:, 1:]
        for flow in self.flows:  # the two change places in front of each
            first, second = second * real, flow(first, second, given, real)
        return (second - self.translate[0]) * torch.exp(-self.log_scale[0]) * real


class _PlainDurations(nn.Module):
    """The same without noise."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        size, inner, kernel = (
            spec.hidden_size,
            spec.duration_predictor_filter_channels,
            spec.duration_predictor_kernel_size,
        )
        self.conv_1, self.conv_2, self.proj = (
            same(size, inner, kernel),
            same(inner, inner, kernel),
            nn.Conv1d(inner, 1, 1),
        )
        self.norm_1, self.norm_2 = (ChannelNorm(inner, spec.layer_norm_eps) for _ in range(2))
        self.voice = _voice(spec, size)

    def forward(self, x: Tensor, real: Tensor, speaker: Tensor | None, noise: Tensor | None) -> Tensor:
        if self.voice is not None:
            x = x + self.voice(speaker)
        x = self.norm_1(F.relu(self.conv_1(x * real)))
        x = self.norm_2(F.relu(self.conv_2(x * real)))
        return self.proj(x * real) * real


class _Text(Component):
    """ids, mask [B, S] -> {"log_duration": [B, S], "prior_means" and "prior_log_variances": [B, S, F]}."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        size, self.spec = spec.hidden_size, spec
        self.words = nn.Embedding(spec.vocab_size, size)
        self.layers = nn.ModuleList(
            _Layer(
                attention=_Attention(spec),
                attention_norm=LayerNorm(size, spec.layer_norm_eps),
                mlp=_FeedForward(spec),
                mlp_norm=LayerNorm(size, spec.layer_norm_eps),
            )
            for _ in range(spec.num_hidden_layers)
        )
        self.project = nn.Conv1d(size, 2 * spec.flow_size, 1)
        self.durations = (_Durations if spec.use_stochastic_duration_prediction else _PlainDurations)(spec)

    def ports(self) -> tuple[Port, ...]:
        words = words_port(self.words)
        noise = Port("duration_noise", "float32", ("batch", 2, "sequence"), "features", default=0.0)
        drawn = (noise,) if self.spec.use_stochastic_duration_prediction else ()
        return (words, mask_port(words), *_speaker_ports(self.spec), *drawn)

    def outs(self) -> tuple[Out, ...]:
        shape = ("batch", "sequence", self.spec.flow_size)
        priors = (Out(name, shape, "scores") for name in ("prior_means", "prior_log_variances"))
        return (Out("log_duration", shape[:2], "scores"), *priors)

    def processing(self) -> Mapping[str, Any]:
        spec = self.spec
        said = {"component": "text", "durations": "log_duration", "rounds": "up", "stretch": 1 / spec.speaking_rate}
        said |= {"fills": "latents", "frames": "prior_means", "log_variances": "prior_log_variances"}
        said |= {"mask": "frame_mask", "noise": spec.noise_scale, "duration_noise": spec.noise_scale_duration}
        return {"alignment": {**said, "hop": spec.hop, "sampling_rate": spec.sampling_rate}}

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        speaker_id: Tensor | None = None,
        duration_noise: Tensor | None = None,
    ) -> dict[str, Tensor]:
        x = self.words(input_ids)
        real = attention_mask.to(x.dtype)[:, None]
        x = x * real.transpose(1, 2)
        for layer in self.layers:
            x = layer(x, attention_mask, real)
        x = x.transpose(1, 2) * real
        made, size = (self.project(x) * real).transpose(1, 2), self.spec.flow_size
        durations = self.durations(x, real, speaker_id, duration_noise)[:, 0]
        return {
            "log_duration": durations,
            "prior_means": made[..., :size],
            "prior_log_variances": made[..., size:],
        }


class _WaveNet(nn.Module):
    """Gated convolutions, ever wider, what each makes added up, [B, H, T] -> [B, H, T].
    https://arxiv.org/abs/1609.03499"""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        size, every = spec.hidden_size, spec.prior_encoder_num_wavenet_layers
        self.size, kernel, rate = size, spec.wavenet_kernel_size, spec.wavenet_dilation_rate
        self.in_layers = nn.ModuleList(same(size, 2 * size, kernel, dilation=rate**number) for number in range(every))
        self.res_skip_layers = nn.ModuleList(
            nn.Conv1d(size, size if number == every - 1 else 2 * size, 1) for number in range(every)
        )
        self.voice = _voice(spec, 2 * size * every)

    def forward(self, x: Tensor, real: Tensor, speaker: Tensor | None) -> Tensor:
        voice = None if self.voice is None else self.voice(speaker)
        size, total = self.size, None
        for number, (inner, outer) in enumerate(zip(self.in_layers, self.res_skip_layers, strict=True)):
            made = inner(x)
            if voice is not None:
                made = made + voice[:, 2 * size * number : 2 * size * (number + 1)]
            made = outer(torch.tanh(made[:, :size]) * torch.sigmoid(made[:, size:]))
            kept = made
            if number < len(self.in_layers) - 1:
                x, kept = (x + made[:, :size]) * real, made[:, size:]
            total = kept if total is None else total + kept
        assert total is not None, "there is a layer at least"
        return total * real


class _Coupling(nn.Module):
    """The inverse of a flow: what one half of the channels says of the other, taken from it."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        half, size = spec.flow_size // 2, spec.hidden_size
        self.conv_pre, self.wavenet, self.conv_post = nn.Conv1d(half, size, 1), _WaveNet(spec), nn.Conv1d(size, half, 1)

    def forward(self, x: Tensor, by: Tensor, real: Tensor, speaker: Tensor | None) -> Tensor:
        made = self.wavenet(self.conv_pre(by) * real, real, speaker)
        return (x - self.conv_post(made) * real) * real


class _Speech(Component):
    """Latents [B, T, F] of frames, which of them are real -> {"waveform": [B, T * hop], "spectrogram": [B, F, T]}."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        self.flows = nn.ModuleList(_Coupling(spec) for _ in range(spec.prior_encoder_num_flows))
        voice = _voice(spec, spec.upsample_initial_channel)
        self.generator = Generator(spec, spec.flow_size, bias=False, voice=voice)

    def ports(self) -> tuple[Port, ...]:
        frames = ("batch", "spoken")
        latents = Port("latents", "float32", (*frames, self.spec.flow_size), "features")
        return (latents, Port("frame_mask", "int64", frames, "sample_mask", default=1), *_speaker_ports(self.spec))

    def outs(self) -> tuple[Out, ...]:
        spectrogram = Out("spectrogram", ("batch", self.spec.flow_size, "spoken"), "scores")
        return (*CATALOGUE["text-to-waveform"].outs, spectrogram)

    def largest(self) -> int:
        return 128  # a second or two

    def forward(self, latents: Tensor, frame_mask: Tensor, speaker_id: Tensor | None = None) -> dict[str, Tensor]:
        x, real = latents.transpose(1, 2), frame_mask.to(latents.dtype)[:, None]
        half = self.spec.flow_size // 2
        first, second = x[:, :half], x[:, half:]
        for flow in reversed(self.flows):  # in front of each the order of all channels is the other way round
            first, second = second.flip(1), first.flip(1)
            second = flow(second, first, real, speaker_id)
        x = torch.cat((first, second), dim=1) * real
        return {"waveform": self.generator(x, speaker_id), "spectrogram": x}


def _compose(spec: Spec, absent: frozenset[str]) -> nn.Module:
    return Composite({"text": _Text(spec), "speech": _Speech(spec)})


def _voices(spec: Spec) -> tuple[Rule, ...]:
    """Tables of what each speaker adds, of the embeddings and what reads them."""
    size, flows = spec.hidden_size, spec.prior_encoder_num_flows
    wide = 2 * size * spec.prior_encoder_num_wavenet_layers
    read = {"duration_predictor.cond": ("text.durations", size)}
    read["decoder.cond"] = "speech.generator", spec.upsample_initial_channel
    read |= {f"flow.flows.{n}.wavenet.cond_layer": (f"speech.flows.{n}.wavenet", wide) for n in range(flows)}
    if not spec.speakers:
        return tuple(Ignore(f"{name}.*") for name in read)

    def rows(weight: Tensor, bias: Tensor, speakers: Tensor) -> Tensor:
        return torch.cat((torch.zeros_like(bias)[None], speakers @ weight[..., 0].t() + bias))

    rules: list[Rule] = []
    for name, (to, channels) in read.items():
        own = f"{name}.speakers"
        rules.append(Tie(own, "embed_speaker.weight"))
        table = f"{to}.voice.table.weight"
        rules.append(Compute((f"{name}.weight", f"{name}.bias", own), table, (spec.speakers + 1, channels), rows))
    return (*rules, Ignore("embed_speaker.weight"))


def _weights(spec: Spec) -> tuple[Rule, ...]:
    width = spec.hidden_size // spec.num_attention_heads
    places = [
        Compute(
            (f"text_encoder.encoder.layers.{{}}.attention.emb_rel_{old}",),
            f"text.layers.{{}}.self_attn.{new}_places",
            (2 * spec.window_size + 1, width),
            lambda table: table[0],
        )
        for old, new in (("k", "key"), ("v", "value"))
    ]
    bins, flows = spec.duration_predictor_flow_bins, list[Rule]()
    for new, old in enumerate(spec.flows if spec.use_stochastic_duration_prediction else ()):
        own, to = f"duration_predictor.flows.{old}", f"text.durations.flows.{new}"
        flows += [
            Split(
                f"{own}.conv_proj.{kind}",
                tuple(f"{to}.{part}.{kind}" for part in ("widths", "heights", "slopes")),
                shares=(bins, bins, bins - 1),
            )
            for kind in ("weight", "bias")
        ]
        flows.append(Rename(f"{own}.*", f"{to}.*"))
    return (
        Ignore("posterior_encoder.*"),
        Ignore("duration_predictor.post_*"),
        WeightNorm("*"),
        *_voices(spec),
        *places,
        Rename("text_encoder.embed_tokens.*", "text.words.*"),
        Fold("text.words.weight", scale=math.sqrt(spec.hidden_size)),
        Rename("text_encoder.project.*", "text.project.*"),
        Rename("text_encoder.encoder.layers.{}.attention.out_proj.*", "text.layers.{}.self_attn.o_proj.*"),
        Rename("text_encoder.encoder.layers.{}.attention.*", "text.layers.{}.self_attn.*"),
        Rename("text_encoder.encoder.layers.{}.layer_norm.*", "text.layers.{}.attention_norm.*"),
        Rename("text_encoder.encoder.layers.{}.final_layer_norm.*", "text.layers.{}.mlp_norm.*"),
        Rename("text_encoder.encoder.layers.{}.feed_forward.*", "text.layers.{}.mlp.*"),
        *flows,
        Rename("duration_predictor.flows.0.*", "text.durations.*"),
        Ignore("duration_predictor.flows.*"),
        Rename("duration_predictor.*", "text.durations.*"),
        Rename("flow.*", "speech.*"),
        Within("decoder.", GENERATOR_NAMES, to="speech.generator."),
    )


FAMILY = Family(
    spec=Spec,
    heads={heads.TEXT_TO_WAVEFORM: _compose},
    weights=_weights,
    inert=frozenset(
        """pad_token_id layerdrop hidden_dropout activation_dropout duration_predictor_dropout wavenet_dropout
        spectrogram_bins posterior_encoder_num_wavenet_layers tie_word_embeddings""".split()
    ),
    tiny={"vocab_size": 31, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "window_size": 3}
    | {"ffn_dim": 20, "flow_size": 12, "spectrogram_bins": 9, "depth_separable_num_layers": 2}
    | {"upsample_initial_channel": 16, "upsample_rates": [3, 2], "upsample_kernel_sizes": [7, 4]}
    | {"resblock_kernel_sizes": [3, 5], "resblock_dilation_sizes": [[2], [1, 3]], "duration_predictor_flow_bins": 4}
    | {"duration_predictor_num_flows": 2, "duration_predictor_filter_channels": 10, "prior_encoder_num_flows": 2}
    | {"prior_encoder_num_wavenet_layers": 1, "posterior_encoder_num_wavenet_layers": 1},
    variations=(
        # Durations without noise, of one speaker of several.
        {"hidden_size": 21, "num_attention_heads": 3, "num_hidden_layers": 2, "window_size": 1, "use_bias": False}
        | {"ffn_kernel_size": 4, "flow_size": 10, "hidden_act": "gelu", "layer_norm_eps": 1e-4, "num_speakers": 3}
        | {"use_stochastic_duration_prediction": False, "speaker_embedding_size": 7, "upsample_rates": [5]}
        | {"duration_predictor_kernel_size": 5, "prior_encoder_num_flows": 1, "wavenet_kernel_size": 3}
        | {"prior_encoder_num_wavenet_layers": 2, "wavenet_dilation_rate": 2, "upsample_kernel_sizes": [5]}
        | {"resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1]], "leaky_relu_slope": 0.2}
        | {"speaking_rate": 1.3, "noise_scale": 0.4},
        {"num_speakers": 4, "speaker_embedding_size": 5, "duration_predictor_num_flows": 3, "speaking_rate": 0.5}
        | {"depth_separable_num_layers": 1, "duration_predictor_tail_bound": 2.0, "noise_scale_duration": 0.5}
        | {"duration_predictor_kernel_size": 5, "prior_encoder_num_flows": 1, "ffn_kernel_size": 1},
    ),
)
