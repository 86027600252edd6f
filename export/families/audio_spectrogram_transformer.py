"""AST: ViT with a distillation token over overlapping patches of a spectrogram. https://arxiv.org/abs/2104.01778"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.patches import rows_of
from precast.export.families import Family, LabelSpec, vit
from precast.export.image_heads import ImageClassification, ImageFeatures, ImageModel
from precast.export.skeletons.stack import stack
from precast.export.spec import hf
from precast.export.weights import Rename, Rule
from precast.runtime.ports import Port

__all__ = ["FAMILY", "Spec"]


@dataclass(frozen=True, kw_only=True)
class Spec(LabelSpec):
    """Defaults are those of AST over AudioSet."""

    hidden_size: int = hf(default=768)
    num_hidden_layers: int = hf(default=12)
    num_attention_heads: int = hf(default=12)
    intermediate_size: int = hf(default=3072)
    hidden_act: Activation = hf(default=activation("gelu"), read=activation)
    layer_norm_eps: float = hf(default=1e-12)
    qkv_bias: bool = hf(default=True)
    patch_size: int = hf(default=16)
    frequency_stride: int = hf(default=10)
    time_stride: int = hf(default=10)
    max_length: int = hf(default=1024)
    num_mel_bins: int = hf(default=128)


class _Patches(nn.Module):
    """Frames of a spectrogram [B, T, M] -> two tokens and a row for each patch, with positions, [B, 2 + P, H]."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        size, self.sizes = spec.hidden_size, (spec.max_length, spec.num_mel_bins)
        assert spec.patch_size <= min(self.sizes), "a spectrogram is smaller than a patch"
        times = (spec.max_length - spec.patch_size) // spec.time_stride + 1
        bins = (spec.num_mel_bins - spec.patch_size) // spec.frequency_stride + 1
        self.projection = nn.Conv2d(1, size, spec.patch_size, stride=(spec.frequency_stride, spec.time_stride))
        self.cls_token, self.distillation_token = (nn.Parameter(torch.empty(1, 1, size)) for _ in range(2))
        self.positions = nn.Parameter(torch.empty(1, 2 + bins * times, size))

    def ports(self) -> tuple[Port, ...]:
        """A spectrogram."""
        return (Port("input_values", "float32", ("batch", *self.sizes), "features"),)

    def forward(self, frames: Tensor) -> Tensor:
        rows = rows_of(self.projection(frames[:, None].transpose(2, 3)))  # frequencies are a picture's rows
        tokens = (token.expand(rows.shape[0], -1, -1) for token in (self.cls_token, self.distillation_token))
        return torch.cat((*tokens, rows), dim=1) + self.positions


class _BothTokens(nn.Module):
    """States [B, S, H] -> the mean of the first two, [B, H]."""

    def forward(self, states: Tensor) -> Tensor:
        return (states[:, 0] + states[:, 1]) / 2


class _Features(ImageFeatures):
    def forward(self, input_values: Tensor) -> dict[str, Tensor]:
        return super().forward(input_values)


class _Classification(ImageClassification):
    task = "audio-classification"

    def forward(self, input_values: Tensor) -> dict[str, Tensor]:
        return super().forward(input_values)


def _body(spec: Spec) -> ImageModel:
    return ImageModel(_Patches(spec), stack(spec, bias=spec.qkv_bias))


def _base(spec: Spec, absent: frozenset[str]) -> nn.Module:
    return _Features(_body(spec), _BothTokens())


def _classifier(spec: Spec, absent: frozenset[str]) -> nn.Module:
    norm, dense = LayerNorm(spec.hidden_size, spec.layer_norm_eps), nn.Linear(spec.hidden_size, spec.labels)
    return _Classification(_body(spec), nn.Sequential(norm, dense), _BothTokens())


def _weights(spec: Spec) -> tuple[Rule, ...]:
    return (
        *vit.model_names("audio_spectrogram_transformer"),
        Rename("embeddings.distillation_token", "model.embeddings.distillation_token"),
        Rename("classifier.layernorm.*", "classifier.0.*"),
        Rename("classifier.dense.*", "classifier.1.*"),
    )


FAMILY = Family(
    model_type="audio-spectrogram-transformer",
    spec=Spec,
    heads={heads.BASE: _base, heads.AUDIO_CLASSIFICATION: _classifier},
    weights=_weights,
    final_norm=True,
    tiny={"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    | {"patch_size": 6, "frequency_stride": 4, "time_stride": 5, "max_length": 37, "num_mel_bins": 18},
    variations=(
        # Strides that leave something of both sides, or patches apart from each other.
        {"hidden_size": 21, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 37, "num_labels": 5}
        | {"patch_size": 3, "frequency_stride": 2, "time_stride": 4, "max_length": 29, "num_mel_bins": 12}
        | {"hidden_act": "gelu_new", "layer_norm_eps": 1e-5, "qkv_bias": False},
    ),
)
