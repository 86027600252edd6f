"""LLaVA: a decoder that reads what a ViT sees of pictures, through two linear layers. https://arxiv.org/abs/2304.08485,
https://arxiv.org/abs/2310.03744"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.families import Family, clip_vision_model, llama
from precast.export.skeletons.joined import JoinedSpec, Seen, joined, names
from precast.export.spec import hf
from precast.export.weights import Rename, Rule
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY", "Projector", "Spec", "compose", "seen", "weights"]

_STRATEGIES = {"default": 1, "full": 0}  # what each leaves out: the class token, nothing


@dataclass(frozen=True, kw_only=True)
class Spec(JoinedSpec):
    projector_hidden_act: Activation = hf(default=activation("gelu"), read=activation)
    vision_feature_select_strategy: str = hf(default="default", only=tuple(_STRATEGIES))
    vision_feature_layer: tuple[int, ...] = hf(
        default=(-2,), read=lambda said: (said,) if isinstance(said, int) else tuple(said)
    )
    multimodal_projector_bias: bool = hf(default=True)

    @property
    def layers(self) -> tuple[int, ...]:
        """Whose states the decoder reads, counted from 1; 0 is what goes into the first."""
        count = 1 + self.vision.spec.num_hidden_layers
        if not self.vision_feature_layer or any(not -count <= each < count for each in self.vision_feature_layer):
            raise ConfigError(
                f"'vision_feature_layer' {list(self.vision_feature_layer)} must number states of the {count} that "
                "vision_config's layers have, from the front or, below 0, from the end"
            )
        return tuple(each % count for each in self.vision_feature_layer)


class Projector(nn.Module):
    """linear_2(act(linear_1(x))), [I, P, V] -> [I, P, H]."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        size, read = spec.text.spec.hidden_size, spec.vision.spec.hidden_size * len(spec.layers)
        self.linear_1 = nn.Linear(read, size, bias=spec.multimodal_projector_bias)
        self.act = spec.projector_hidden_act
        self.linear_2 = nn.Linear(size, size, bias=spec.multimodal_projector_bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(self.act(self.linear_1(x)))


def seen(spec: Spec, projector: type[nn.Module] = Projector) -> Seen:
    """What sees, through a ``projector`` of the spec."""
    skip = _STRATEGIES[spec.vision_feature_select_strategy]
    return Seen(spec.vision.build(), projector(spec), spec.text.spec.hidden_size, layers=spec.layers, skip=skip)


def compose(spec: Spec, absent: frozenset[str], projector: type[nn.Module] = Projector) -> nn.Module:
    """The model."""
    return joined(seen(spec, projector), spec.text, spec.image_token_id)


def weights(spec: Spec) -> tuple[Rule, ...]:
    """Of these and of relatives."""
    projector = Rename("multi_modal_projector.*", "vision.project.*")
    return names(spec, Rename("model.multi_modal_projector.*", "multi_modal_projector.*"), projector)


def _tiny(model_type: str, config: Mapping[str, Any], **others: Any) -> dict[str, Any]:
    return {**config, "model_type": model_type, **others}


FAMILY = Family(
    spec=Spec,
    heads={heads.IMAGE_TEXT: compose},
    weights=weights,
    inert=frozenset({"image_seq_length"}),  # what its processor counts
    final_norm=True,
    tiny={
        "text_config": _tiny("llama", llama.FAMILY.tiny),
        "vision_config": _tiny("clip_vision_model", clip_vision_model.TINY, image_size=12),
        "image_token_id": 98,
    },
    variations=(
        {
            "text_config": _tiny("mistral", llama.FAMILY.tiny, hidden_size=24, num_hidden_layers=1),
            "vision_config": _tiny("clip_vision_model", clip_vision_model.ODD, image_size=11),
            "image_token_id": 3,
            "vision_feature_layer": [-1, 0],
            "vision_feature_select_strategy": "full",
            "projector_hidden_act": "relu",
            "multimodal_projector_bias": False,
        },
    ),
)
