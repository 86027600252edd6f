"""SEW: wav2vec 2.0's encoder over fewer frames, of which several are one inside. https://arxiv.org/abs/2109.06870"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export.blocks.frames import ConvolvedPositions
from precast.export.blocks.norms import LayerNorm
from precast.export.families import Family
from precast.export.head_sets.sound import speech_heads
from precast.export.skeletons.speech_encoder import (
    ENCODER_NAMES,
    INERT,
    ODD,
    TINY,
    PostNormFrames,
    SpeechEncoder,
    SpeechSpec,
    frames,
    layer,
    names,
    norm,
)
from precast.export.spec import hf
from precast.export.weights import Rename, Rule
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY", "Spec", "Squeezed", "squeezed", "squeezed_names"]


@dataclass(frozen=True, kw_only=True)
class Spec(SpeechSpec):
    """Defaults are SEW-tiny's; layers are post-norm, whatever config.json says."""

    conv_dim: tuple[int, ...] = hf(default=(64, *(128,) * 4, *(256,) * 4, *(512,) * 4), read=tuple)
    conv_stride: tuple[int, ...] = hf(default=(5, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1), read=tuple)
    conv_kernel: tuple[int, ...] = hf(default=(10, 3, 1, 3, 1, 3, 1, 3, 1, 2, 1, 2, 1), read=tuple)
    do_stable_layer_norm: bool = hf(default=False, read=lambda value: False)
    squeeze_factor: int = hf(default=2)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_conv_pos_embeddings < 2 * self.squeeze_factor - 1:
            raise ConfigError(
                f"'num_conv_pos_embeddings' {self.num_conv_pos_embeddings} must be twice 'squeeze_factor' "
                f"{self.squeeze_factor} less 1, or more"
            )


class Squeezed(nn.Module):
    """Frames [B, F, H], mask [B, F] of real ones -> states [B, F, H]: each ``factor`` of them are one, their mean and
    where that stands, go through layers, and are as many again; what is left over of them is zero.

    ``stack``: of layers."""

    def __init__(self, spec: Spec, stack: nn.Module) -> None:
        super().__init__()
        self.factor, self.act, self.stack = spec.squeeze_factor, spec.feat_extract_activation, stack
        self.positions = ConvolvedPositions(
            spec.hidden_size,
            spec.num_conv_pos_embeddings,
            spec.num_conv_pos_embedding_groups,
            spec.feat_extract_activation,
            every=spec.squeeze_factor,
        )
        self.upsample = nn.Linear(spec.hidden_size, spec.hidden_size * spec.squeeze_factor)

    def states(self, x: Tensor, mask: Tensor) -> list[Tensor]:
        """Of the fewer frames, as many as layers, and one."""
        mean = F.avg_pool2d(x.unsqueeze(1), (self.factor, 1)).squeeze(1)
        starts = self.factor * torch.arange(mean.shape[1], device=x.device)
        real = (starts < mask.sum(-1, keepdim=True)).to(mask.dtype)
        made: list[Tensor] = self.stack.states(mean + self.positions(x), real)  # type: ignore[operator]
        return made

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        batch, length, size = x.shape
        made = self.act(self.upsample(self.states(x, mask)[-1]))
        made = F.pad(made, (0, 0, 0, 1))
        # Not a slice, of which a trace would have to know that there are so many.
        return made.view(batch, made.shape[1] * self.factor, size).index_select(
            1, torch.arange(length, device=x.device)
        )


def squeezed(spec: Spec, stack: nn.Module, eps: float) -> SpeechEncoder:
    """An encoder of a ``stack`` of layers; frames have a norm of ``eps``, and are projected where they have not the
    channels of the layers."""
    size, hidden = spec.conv_dim[-1], spec.hidden_size
    projection = nn.Identity() if size == hidden else nn.Linear(size, hidden)
    made = Squeezed(spec, stack)
    return SpeechEncoder(frames(spec), LayerNorm(size, eps), projection, made, least=spec.squeeze_factor)


def _body(spec: Spec) -> SpeechEncoder:
    layers = (layer(spec) for _ in range(spec.num_hidden_layers))
    return squeezed(spec, PostNormFrames(layers, norm(spec)), spec.layer_norm_eps)


def squeezed_names(spec: Spec, prefix: str) -> tuple[Rule, ...]:
    return (
        *names(spec, prefix, encoder=(*ENCODER_NAMES, Rename("upsample.projection.*", "upsample.*"))),
        Rename("layer_norm.*", "model.norm.*"),
        Rename("feature_projection.*", "model.projection.*"),
        *(Rename(f"model.encoder.{part}.*", f"model.encoder.stack.{part}.*") for part in ("norm", "layers")),
    )


FAMILY = Family(
    spec=Spec,
    heads=speech_heads(_body, features=False, every=False),
    weights=lambda spec: squeezed_names(spec, "sew"),
    inert=INERT,
    tiny=TINY,
    variations=({**ODD, "squeeze_factor": 3}, {"squeeze_factor": 1, "hidden_size": 20, "conv_bias": True}),
)
