"""Encoders of speech: frames made of samples, where each one stands, and layers over them. Their sizes, the names of
their weights, configs of tests. https://arxiv.org/abs/2006.11477"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.attention import SelfAttention, head_size
from precast.export.blocks.convolution import GroupNorm
from precast.export.blocks.frames import ChannelNorm, ConvolvedPositions, FrameLayer, Frames, Shorten
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm, normed_sum
from precast.export.families import LabelSpec
from precast.export.skeletons.encoder import PostNormLayer, PreNormLayer
from precast.export.spec import Spec, hf
from precast.export.weights import Ignore, Rename, Rule, WeightNorm, Within
from precast.runtime.errors import ConfigError
from precast.runtime.ports import Dim, Port

__all__ = [
    "ENCODER_NAMES",
    "INERT",
    "LAYER_NAMES",
    "ODD",
    "SPEAKERS",
    "TINY",
    "AdapterSpec",
    "FramesSpec",
    "PostNormFrames",
    "PreNormFrames",
    "SpeechEncoder",
    "SpeechSpec",
    "XVectorSpec",
    "adapter",
    "body",
    "encoder",
    "frames",
    "layer",
    "names",
    "norm",
    "positions",
    "speech",
]

_EPSILON = 1e-5  # of norms whose epsilon config.json does not say

# What training reads: dropout, which parts of a recording are hidden, codebooks and losses. How many convolutions there
# are is said by the lists of their sizes.
INERT = frozenset(
    """
    activation_dropout apply_spec_augment codevector_dim contrastive_logits_temperature ctc_loss_reduction
    ctc_zero_infinity diversity_loss_weight feat_proj_dropout feat_quantizer_dropout final_dropout hidden_dropout
    layerdrop mask_feature_length mask_feature_min_masks mask_feature_prob mask_time_length mask_time_min_masks
    mask_time_prob num_codevector_groups num_codevectors_per_group num_feat_extract_layers num_negatives
    proj_codevector_dim tie_word_embeddings
    """.split()
)


@dataclass(frozen=True, kw_only=True)
class FramesSpec(Spec):
    """How samples become frames, and what tells where these stand. Defaults are wav2vec 2.0 base's."""

    hidden_size: int = hf(default=768)
    layer_norm_eps: float = hf(default=_EPSILON)
    feat_extract_norm: str = hf(default="group", only=("group", "layer"))
    feat_extract_activation: Activation = hf(default=activation("gelu"), read=activation)
    conv_dim: tuple[int, ...] = hf(default=(512,) * 7, read=tuple)
    conv_stride: tuple[int, ...] = hf(default=(5, 2, 2, 2, 2, 2, 2), read=tuple)
    conv_kernel: tuple[int, ...] = hf(default=(10, 3, 3, 3, 3, 2, 2), read=tuple)
    conv_bias: bool = hf(default=False)
    num_conv_pos_embeddings: int = hf(default=128)
    num_conv_pos_embedding_groups: int = hf(default=16)

    def __post_init__(self) -> None:
        if not 0 < len(self.conv_dim) == len(self.conv_stride) == len(self.conv_kernel):
            raise ConfigError(
                f"'conv_dim' {self.conv_dim}, 'conv_stride' {self.conv_stride} and 'conv_kernel' {self.conv_kernel} "
                "must be as many"
            )


@dataclass(frozen=True, kw_only=True)
class SpeechSpec(FramesSpec, LabelSpec):
    """And layers over them."""

    vocab_size: int = hf(default=32)
    num_hidden_layers: int = hf(default=12)
    num_attention_heads: int = hf(default=12)
    intermediate_size: int = hf(default=3072)
    hidden_act: Activation = hf(default=activation("gelu"), read=activation)
    do_stable_layer_norm: bool = hf(default=False)
    use_weighted_layer_sum: bool = hf(default=False)
    classifier_proj_size: int = hf(default=256)

    def __post_init__(self) -> None:
        head_size(self.hidden_size, self.num_attention_heads)
        super().__post_init__()

    @property
    def states_size(self) -> int:
        """Channels of the states that heads read."""
        return self.hidden_size


@dataclass(frozen=True, kw_only=True)
class XVectorSpec(SpeechSpec):
    """And what tells speakers apart."""

    tdnn_dim: tuple[int, ...] = hf(default=(512, 512, 512, 512, 1500), read=tuple)
    tdnn_kernel: tuple[int, ...] = hf(default=(5, 3, 3, 1, 1), read=tuple)
    tdnn_dilation: tuple[int, ...] = hf(default=(1, 2, 3, 1, 1), read=tuple)
    xvector_output_dim: int = hf(default=512)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < len(self.tdnn_dim) == len(self.tdnn_kernel) == len(self.tdnn_dilation):
            raise ConfigError(
                f"'tdnn_dim' {self.tdnn_dim}, 'tdnn_kernel' {self.tdnn_kernel} and 'tdnn_dilation' "
                f"{self.tdnn_dilation} must be as many"
            )


@dataclass(frozen=True, kw_only=True)
class AdapterSpec(XVectorSpec):
    """And convolutions behind the layers, which leave fewer frames."""

    add_adapter: bool = hf(default=False)
    adapter_kernel_size: int = hf(default=3)
    adapter_stride: int = hf(default=2)
    num_adapter_layers: int = hf(default=3)
    output_hidden_size: int | None = hf(default=None)

    @property
    def states_size(self) -> int:
        return (self.output_hidden_size or self.hidden_size) if self.add_adapter else self.hidden_size


class PostNormFrames(nn.Module):
    """Frames [B, F, H], mask [B, F] of real ones -> the states [B, F, H] that go into each of `PostNormLayer`s and come
    out of the last.

    Args:
        norm: in front of the first layer, or None. positions: what is added to the frames, or None.
        bias: makes of the frames what all layers share of the positions, or None.
    """

    def __init__(
        self,
        layers: Iterable[nn.Module],
        norm: LayerNorm | None,
        positions: nn.Module | None = None,
        bias: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.positions, self.norm, self.bias = positions, norm, bias
        self.layers = nn.ModuleList(layers)

    def states(self, x: Tensor, mask: Tensor) -> list[Tensor]:
        """As many as layers, and one."""
        bias = None if self.bias is None else self.bias(x)
        made = [normed_sum(self.norm, x, None if self.positions is None else self.positions(x))[0]]
        for layer in self.layers:
            made.append(layer(made[-1], mask, bias))
        return made

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.states(x, mask)[-1]


class PreNormFrames(PostNormFrames):
    """The same through `PreNormLayer`s, behind the last of which the norm stands."""

    def _through(self, x: Tensor, mask: Tensor) -> list[tuple[Tensor, Tensor | None]]:
        """States as the two parts in which they travel."""
        bias = None if self.bias is None else self.bias(x)
        made = [(x, None if self.positions is None else self.positions(x))]
        for layer in self.layers:
            made.append(layer(*made[-1], mask, bias))
        return made

    def states(self, x: Tensor, mask: Tensor) -> list[Tensor]:
        """As many as layers, and one, none of them normalised."""
        return [normed_sum(None, *parts)[0] for parts in self._through(x, mask)]

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return normed_sum(self.norm, *self._through(x, mask)[-1])[0]


class AdaptedLayer(PreNormLayer):
    """A layer with an adapter behind it: x = x + adapter(norm(x)). https://arxiv.org/abs/2305.13516"""

    def __init__(self, size: int, adapter: int, **parts: Any) -> None:
        super().__init__(**parts)
        self.adapter_norm = LayerNorm(size, _EPSILON)
        self.adapter = MLP(size, adapter, F.relu)

    def forward(
        self, x: Tensor, update: Tensor | None, mask: Tensor, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        normed, x = normed_sum(self.adapter_norm, *super().forward(x, update, mask, bias))
        return x, self.adapter(normed)


class SpeechEncoder(nn.Module):
    """Samples [B, S], mask of real ones [B, S] -> what `heard` says, through ``encoder``.

    Args:
        norm: of the frames in front of their projection, or None. encoder: `PostNormFrames` or `PreNormFrames`, or what
            is called as they are. adapter: behind it, or None. least: frames that the encoder needs.
    """

    def __init__(
        self,
        frames: Frames,
        norm: LayerNorm | None,
        projection: nn.Module,
        encoder: nn.Module,
        adapter: Shorten | None = None,
        least: int = 1,
    ) -> None:
        super().__init__()
        self.frames, self.norm, self.projection = frames, norm, projection
        self.encoder, self.adapter, self.least = encoder, adapter, least

    def ports(self) -> tuple[Port, ...]:
        """A recording and its mask."""
        return self.frames.ports()

    def bounds(self) -> Mapping[str, Dim]:
        return {"samples": Dim(self.samples(1))}

    def samples(self, states: int) -> int:
        """How many of them make so many states."""
        return self.frames.samples(max(self.least, states if self.adapter is None else self.adapter.frames(states)))

    def _framed(self, samples: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Frames before and after their projection, those of padding zero; and which are real."""
        found = self.frames(samples)
        real = self.frames.real(mask, found.shape[1])
        if self.norm is not None:
            found = self.norm(found)
        x = self.projection(found)
        return found, x * real[..., None].to(x.dtype), real

    def forward(self, samples: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(states [B, F, H], which of them are real [B, F], frames as they are projected [B, F, C])."""
        found, x, real = self._framed(samples, mask)
        x = self.encoder(x, real)
        return (x, real, found) if self.adapter is None else (self.adapter(x), self.adapter.real(real), found)

    def states(self, samples: Tensor, mask: Tensor) -> tuple[list[Tensor], Tensor]:
        """What goes into each layer and comes out of the last, each [B, F, H], and which frames are real; as many of
        these as there are states, where layers see fewer."""
        _, x, real = self._framed(samples, mask)
        made: list[Tensor] = self.encoder.states(x, real)  # type: ignore[operator]
        return made, self.frames.real(mask, made[0].shape[1])


def norm(spec: FramesSpec, size: int | None = None) -> LayerNorm:
    """Of ``size`` channels; None: the layers'."""
    return LayerNorm(size or spec.hidden_size, spec.layer_norm_eps)


def frames(spec: FramesSpec) -> Frames:
    """With a norm of all frames behind the first convolution, or one of each frame behind every one."""
    grouped, channels = spec.feat_extract_norm == "group", (1, *spec.conv_dim)

    def normalised(index: int, size: int) -> nn.Module | None:
        if not grouped:
            return ChannelNorm(size, _EPSILON)
        return None if index else GroupNorm(size, size)

    def biased(index: int) -> bool:
        return spec.conv_bias and not (grouped and index == 0)  # where that norm takes it away again

    sizes = enumerate(zip(channels[:-1], spec.conv_dim, spec.conv_kernel, spec.conv_stride, strict=True))
    return Frames(
        FrameLayer(*size, bias=biased(index), norm=normalised(index, size[1]), act=spec.feat_extract_activation)
        for index, size in sizes
    )


def positions(spec: FramesSpec, norm: nn.Module | None = None) -> ConvolvedPositions:
    return ConvolvedPositions(
        spec.hidden_size,
        spec.num_conv_pos_embeddings,
        spec.num_conv_pos_embedding_groups,
        spec.feat_extract_activation,
        norm,
    )


def layer(spec: SpeechSpec, attention: nn.Module | None = None, adapter: int | None = None) -> nn.Module:
    """Pre-norm where config.json calls it stable; ``adapter``: channels of one, which only those have."""
    parts: dict[str, Any] = {
        "attention": attention or SelfAttention(spec.hidden_size, heads=spec.num_attention_heads),
        "attention_norm": norm(spec),
        "mlp": MLP(spec.hidden_size, spec.intermediate_size, spec.hidden_act),
        "mlp_norm": norm(spec),
    }
    if not spec.do_stable_layer_norm:
        return PostNormLayer(**parts)
    return PreNormLayer(**parts) if adapter is None else AdaptedLayer(spec.hidden_size, adapter, **parts)


def encoder(
    spec: SpeechSpec, layers: Iterable[nn.Module], positions: nn.Module | None, bias: nn.Module | None = None
) -> PostNormFrames:
    kind = PreNormFrames if spec.do_stable_layer_norm else PostNormFrames
    return kind(layers, norm(spec), positions, bias)


def adapter(spec: AdapterSpec) -> Shorten | None:
    """Of a spec that asks for one."""
    if not spec.add_adapter:
        return None
    return Shorten(
        spec.hidden_size,
        spec.states_size,
        kernel=spec.adapter_kernel_size,
        stride=spec.adapter_stride,
        layers=spec.num_adapter_layers,
    )


def speech(
    spec: SpeechSpec, encoder: nn.Module, *, normed: bool = True, adapter: Shorten | None = None
) -> SpeechEncoder:
    """An encoder behind frames and their projection; ``normed``: frames are normalised in front of that."""
    size = spec.conv_dim[-1]
    projection = nn.Linear(size, spec.hidden_size)
    return SpeechEncoder(frames(spec), norm(spec, size) if normed else None, projection, encoder, adapter)


def body(spec: SpeechSpec) -> SpeechEncoder:
    """Of a family that has all parts as they are here."""
    return speech(spec, encoder(spec, (layer(spec) for _ in range(spec.num_hidden_layers)), positions(spec)))


# Behind a layer's own prefix.
LAYER_NAMES: tuple[Rule, ...] = (
    Rename("attention.out_proj.*", "attention.o_proj.*"),
    Rename("attention.*", "self_attn.*"),
    Rename("layer_norm.*", "attention_norm.*"),
    Rename("feed_forward.intermediate_dense.*", "mlp.up_proj.*"),
    Rename("feed_forward.output_dense.*", "mlp.down_proj.*"),
    Rename("final_layer_norm.*", "mlp_norm.*"),
)
# Behind the encoder's.
ENCODER_NAMES: tuple[Rule, ...] = (
    WeightNorm("pos_conv_embed.conv", axis=2),
    Rename("pos_conv_embed.*", "positions.*"),
    Rename("layer_norm.*", "norm.*"),
)


def names(
    spec: SpeechSpec, prefix: str, encoder: tuple[Rule, ...] = ENCODER_NAMES, layer: tuple[Rule, ...] = LAYER_NAMES
) -> tuple[Rule, ...]:
    """Of a model that upstream's heads hold as ``prefix``; ``encoder``, ``layer``: behind their own prefixes."""
    return (
        Rename(f"{prefix}.*", "*"),
        # Of training alone: what hides frames, codebooks, targets and the loss of speakers.
        *map(Ignore, ("masked_spec_embed", "quantizer.*", "project_q.*", "project_hid.*", "objective.*")),
        *((Ignore("feature_extractor.conv_layers.0.conv.bias"),) if spec.feat_extract_norm == "group" else ()),
        Rename("feature_extractor.conv_layers.*", "model.frames.layers.*"),
        Rename("model.frames.layers.{}.layer_norm.*", "model.frames.layers.{}.norm.*"),
        Rename("feature_projection.layer_norm.*", "model.norm.*"),
        Rename("feature_projection.projection.*", "model.projection.*"),
        Within("encoder.layers.{}.", layer, to="model.encoder.layers.{}."),
        Within("encoder.", encoder, to="model.encoder."),
        Rename("adapter.*", "model.adapter.*"),
        Rename("model.adapter.proj_layer_norm.*", "model.adapter.norm.*"),
        Rename("model.adapter.layers.{}.conv.*", "model.adapter.layers.{}.*"),
    )


# config.json of a tiny encoder: a frame for each 160 samples; and over it odd sizes (3 heads of 7 channels, one layer,
# a kernel of odd width), biases, a norm of each frame, pre-norm layers, 5 labels. And what tells speakers apart.
TINY: Mapping[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 29,
    "conv_dim": [12, 16, 20], "conv_stride": [5, 8, 4], "conv_kernel": [10, 9, 4],
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "classifier_proj_size": 18,
}  # fmt: skip
SPEAKERS: Mapping[str, Any] = {
    "tdnn_dim": [18, 14, 22], "tdnn_kernel": [3, 2, 1], "tdnn_dilation": [1, 2, 1], "xvector_output_dim": 26,
}  # fmt: skip
ODD: Mapping[str, Any] = {
    "hidden_size": 21, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 37, "vocab_size": 31,
    "conv_dim": [9, 13], "conv_stride": [11, 15], "conv_kernel": [13, 17], "num_conv_pos_embeddings": 7,
    "num_conv_pos_embedding_groups": 3, "feat_extract_norm": "layer", "feat_extract_activation": "gelu_new",
    "conv_bias": True, "do_stable_layer_norm": True, "hidden_act": "relu", "layer_norm_eps": 1e-4, "num_labels": 5,
    "use_weighted_layer_sum": True,
}  # fmt: skip
