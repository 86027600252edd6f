"""The heads of encoders of speech."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export.blocks.convolution import GroupNorm
from precast.export.blocks.frames import PaddedConvolution
from precast.export.heads import AUDIO_CLASSIFICATION, AUDIO_FRAMES, AUDIO_XVECTOR, BASE, CTC, Head
from precast.export.signatures import Component
from precast.export.skeletons.speech_encoder import SpeechEncoder
from precast.export.weights import Compute, Rename, Rule
from precast.runtime.catalogue import CATALOGUE
from precast.runtime.ports import Dim, Out, Port

__all__ = ["speech_heads", "weighted", "xvector_names"]


class SpeechHead(Component):
    """A recording and its mask -> named outputs, made of the states [B, F, H] and of which frames are real, [B, F].

    Args:
        weighed: how many states there are, of which a sum with weights is read instead of the last; None: that.
    """

    task: str

    def __init__(self, model: SpeechEncoder, weighed: int | None = None) -> None:
        super().__init__()
        self.model = model
        self.layer_weights = None if weighed is None else nn.Parameter(torch.empty(weighed))

    def ports(self) -> tuple[Port, ...]:
        return self.model.ports()

    def outs(self) -> tuple[Out, ...]:
        return CATALOGUE[self.task].outs

    def processing(self) -> Mapping[str, Any]:
        """Where a norm is one of all frames, padding changes it, mask or no mask."""
        alone = any(isinstance(module, GroupNorm) for module in self.model.frames.modules())
        return {"batches": {"one_length": True}} if alone else {}

    def forward(self, input_values: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        if self.layer_weights is None:
            states, real, _ = self.model(input_values, attention_mask)
            return self.outputs(states, real)
        every, real = self.model.states(input_values, attention_mask)
        return self.outputs(weighted(every, self.layer_weights), real)

    def outputs(self, states: Tensor, real: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError


def weighted(states: Sequence[Tensor], weights: Tensor) -> Tensor:
    """The sum of states, each times its share of the weights."""
    shares = torch.softmax(weights, dim=0)
    total = states[0] * shares[0]
    for index, state in enumerate(states[1:], start=1):
        total = total + state * shares[index]
    return total


class SpeechFeatures(SpeechHead):
    """{"last_hidden_state": [B, F, H], "extract_features": [B, F, C]}; the latter, the frames that are projected, where
    ``features`` says so."""

    task = "feature-extraction"

    def __init__(self, model: SpeechEncoder, features: bool) -> None:
        super().__init__(model)
        self.features = features

    def outs(self) -> tuple[Out, ...]:
        last = super().outs()[0]._replace(shape=("batch", "frames", "size"))
        heard = Out("extract_features", ("batch", "heard", "channels"), last.kind)
        return (last, heard) if self.features else (last,)

    def forward(self, input_values: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        states, _, heard = self.model(input_values, attention_mask)
        return self.named(states, heard)

    def named(self, states: Tensor, heard: Tensor) -> dict[str, Tensor]:
        """What comes out, of what the model gives."""
        return {"last_hidden_state": states, **({"extract_features": heard} if self.features else {})}


class ConnectionistTemporal(SpeechHead):
    """{"logits": [B, F, V]}. https://www.cs.toronto.edu/~graves/icml_2006.pdf"""

    task = "ctc"

    def __init__(self, model: SpeechEncoder, size: int, words: int) -> None:
        super().__init__(model)
        self.lm_head = nn.Linear(size, words)

    def processing(self) -> Mapping[str, Any]:
        """How many samples a frame is made of, and how many further on the next one begins."""
        frames = self.model.frames
        reach = {} if self.model.adapter is not None else {"reach": frames.reach}
        return {**super().processing(), "spelled": {"step": frames.stride, **reach}}

    def outputs(self, states: Tensor, real: Tensor) -> dict[str, Tensor]:
        return {"logits": self.lm_head(states)}


class SpeechClassification(SpeechHead):
    """{"logits": [B, L]} of the mean of what is projected of real frames."""

    task = "audio-classification"

    def __init__(self, model: SpeechEncoder, weighed: int | None, size: int, projected: int, labels: int) -> None:
        super().__init__(model, weighed)
        self.projector = nn.Linear(size, projected)
        self.classifier = nn.Linear(projected, labels)

    def outputs(self, states: Tensor, real: Tensor) -> dict[str, Tensor]:
        return {"logits": self.classifier(_mean(self.projector(states), real))}


class FrameClassification(SpeechHead):
    """{"logits": [B, F, L]}."""

    task = "audio-frame-classification"

    def __init__(self, model: SpeechEncoder, weighed: int | None, size: int, labels: int) -> None:
        super().__init__(model, weighed)
        self.classifier = nn.Linear(size, labels)

    def outputs(self, states: Tensor, real: Tensor) -> dict[str, Tensor]:
        return {"logits": self.classifier(states)}


class SpeakerVector(SpeechHead):
    """{"logits": [B, E], "embeddings": [B, E]} of the mean and the deviation of what dilated convolutions make of the
    frames. https://www.danielpovey.com/files/2018_icassp_xvectors.pdf

    Args:
        channels, kernels, dilations: of the convolutions. out: E.
    """

    task = "audio-xvector"

    def __init__(
        self,
        model: SpeechEncoder,
        weighed: int | None,
        size: int,
        *,
        channels: Sequence[int],
        kernels: Sequence[int],
        dilations: Sequence[int],
        out: int,
    ) -> None:
        super().__init__(model, weighed)
        self.projector = nn.Linear(size, channels[0])
        shapes = zip((channels[0], *channels), channels, kernels, dilations, strict=False)
        self.tdnn = nn.ModuleList(PaddedConvolution(*shape[:3], dilation=shape[3], pads=(0, 0)) for shape in shapes)
        self.feature_extractor = nn.Linear(2 * channels[-1], out)
        self.classifier = nn.Linear(out, out)
        self.lost = sum(gap * (kernel - 1) for kernel, gap in zip(kernels, dilations, strict=True))
        # Upstream counts what is left of a padded recording's frames as if no kernel had gaps.
        self.counted = sum(kernel - 1 for kernel in kernels)

    def bounds(self) -> Mapping[str, Dim]:
        """One number has no deviation: two frames are left."""
        return {"samples": Dim(self.model.samples(2 + self.lost))}

    def outputs(self, states: Tensor, real: Tensor) -> dict[str, Tensor]:
        x = self.projector(states).transpose(1, 2)
        for convolution in self.tdnn:
            x = F.relu(convolution(x))
        x = x.transpose(1, 2)
        ends = self.counted + 1 + torch.arange(x.shape[1], device=x.device)
        left = (ends <= real.sum(-1, keepdim=True)).to(x.dtype)
        mean = _mean(x, left)
        apart = (x - mean[:, None]) * left[..., None]
        deviation = torch.sqrt((apart * apart).sum(1) / (left.sum(1, keepdim=True) - 1))
        embeddings = self.feature_extractor(torch.cat((mean, deviation), dim=-1))
        return {"logits": self.classifier(embeddings), "embeddings": embeddings}


def _mean(states: Tensor, real: Tensor) -> Tensor:
    """Of real frames, [B, F, H] -> [B, H]."""
    real = real.to(states.dtype)
    return (states * real[..., None]).sum(1) / real.sum(1, keepdim=True)


def xvector_names(spec: Any) -> tuple[Rule, ...]:
    """Of convolutions that upstream keeps as matrices of all that a kernel sees."""
    shapes = zip((spec.tdnn_dim[0], *spec.tdnn_dim), spec.tdnn_dim, spec.tdnn_kernel, strict=False)
    rules: list[Rule] = []
    for index, (channels, out, kernel) in enumerate(shapes):

        def kernels(weight: Tensor, channels: int = channels, kernel: int = kernel) -> Tensor:
            return weight.view(-1, kernel, channels).transpose(1, 2)

        rules.append(
            Compute((f"tdnn.{index}.kernel.weight",), f"tdnn.{index}.weight", (out, channels, kernel), kernels)
        )
    return (*rules, Rename("tdnn.{}.kernel.bias", "tdnn.{}.bias"))


def speech_heads(
    body: Callable[[Any], SpeechEncoder], *, features: bool = True, every: bool = True
) -> dict[Head, Callable[[Any, frozenset[str]], nn.Module]]:
    """The heads of `Family.heads` for a ``body`` that hears.

    Args:
        features: the base model gives the frames beside its states. every: there are heads for frames and speakers.
    """

    def weighed(spec: Any) -> int | None:
        return spec.num_hidden_layers + 1 if spec.use_weighted_layer_sum else None

    def classification(spec: Any, absent: frozenset[str]) -> nn.Module:
        return SpeechClassification(body(spec), weighed(spec), spec.states_size, spec.classifier_proj_size, spec.labels)

    def speaker(spec: Any, absent: frozenset[str]) -> nn.Module:
        return SpeakerVector(
            body(spec),
            weighed(spec),
            spec.states_size,
            channels=spec.tdnn_dim,
            kernels=spec.tdnn_kernel,
            dilations=spec.tdnn_dilation,
            out=spec.xvector_output_dim,
        )

    found: dict[Head, Callable[[Any, frozenset[str]], nn.Module]] = {
        BASE: lambda spec, absent: SpeechFeatures(body(spec), features),
        CTC: lambda spec, absent: ConnectionistTemporal(body(spec), spec.states_size, spec.vocab_size),
        AUDIO_CLASSIFICATION: classification,
    }
    if every:
        found[AUDIO_FRAMES] = lambda spec, absent: FrameClassification(
            body(spec), weighed(spec), spec.states_size, spec.labels
        )
        found[AUDIO_XVECTOR] = speaker
    return found
