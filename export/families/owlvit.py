"""OWL-ViT: CLIP's towers, of which every patch of a picture is an object that texts may name, and has a box.
https://arxiv.org/abs/2205.06230

Three components: ``text`` makes embeddings of texts, ``vision`` of patches, ``detector`` compares those it is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.tables import Table
from precast.export.components import Composite
from precast.export.families import Family, clip, clip_text_model, clip_vision_model
from precast.export.signatures import Component
from precast.export.skeletons.two_towers import EndOfText, TextEmbeds
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Within
from precast.runtime.catalogue import CATALOGUE
from precast.runtime.errors import ConfigError
from precast.runtime.ports import Out, Port

__all__ = ["FAMILY", "Detector", "Spec", "TextSpec", "VisionSpec", "compose", "weights"]

_NORM = 1e-6  # beside the length of what is compared
_EDGE = 1e-4  # what keeps the logits of a box at the picture's edge finite
_LARGEST = 2  # that of configs which mean the largest id of a text, as these models do whatever their own says
_INERT = clip_vision_model.INERT


@dataclass(frozen=True, kw_only=True)
class TextSpec(clip_text_model.Spec):
    max_position_embeddings: int = hf(default=16)


@dataclass(frozen=True, kw_only=True)
class VisionSpec(clip_vision_model.Spec):
    image_size: int = hf(default=768)

    @property
    def grid(self) -> int:
        """Patches of a side."""
        return self.image_size // self.patch_size


@dataclass(frozen=True, kw_only=True)
class Spec(clip.Spec):
    text: TextSpec = hf("text_config", default={}, spec=TextSpec, inert=_INERT)
    vision: VisionSpec = hf("vision_config", default={}, spec=VisionSpec, inert=_INERT)

    def __post_init__(self) -> None:
        if self.projection_dim != self.text.hidden_size:
            raise ConfigError(
                f"'projection_dim' is {self.projection_dim}, and patches are compared with texts in "
                f"'text_config.hidden_size' channels, {self.text.hidden_size}: they must be one number"
            )


class _Patches(Component):
    """Pixels [I, C, H, W] -> {"image_embeds": [I, R, R, H]}: each patch times the class token, normalised."""

    def __init__(self, spec: VisionSpec) -> None:
        super().__init__()
        self.grid, self.size, epsilon = spec.grid, spec.hidden_size, spec.layer_norm_eps
        self.model = clip_vision_model.body(spec)
        self.model.stack.norm = LayerNorm(self.size, epsilon)
        self.norm = LayerNorm(self.size, epsilon)

    def ports(self) -> tuple[Port, ...]:
        return tuple(port._replace(shape=("images", *port.shape[1:])) for port in self.model.ports())

    def outs(self) -> tuple[Out, ...]:
        return (Out("image_embeds", ("images", self.grid, self.grid, self.size), "embedding"),)

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        states = self.model(pixel_values)
        patches = self.norm(states[:, 1:] * states[:, :1])
        return {"image_embeds": patches.view(patches.shape[0], self.grid, self.grid, self.size)}


class _Head(nn.Module):
    """Linear layers with GELU between them, [..., H] -> [..., out]."""

    def __init__(self, size: int, out: int) -> None:
        super().__init__()
        self.dense0, self.dense1, self.dense2 = nn.Linear(size, size), nn.Linear(size, size), nn.Linear(size, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense2(F.gelu(self.dense1(F.gelu(self.dense0(x)))))


class _Classes(nn.Module):
    """Patches [I, N, H], texts [T, P] -> how much each is what a text says [I, N, T], and what of the patches is
    compared, [I, N, P]."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.dense0 = nn.Linear(size, width)
        self.logit_shift, self.logit_scale = nn.Linear(size, 1), nn.Linear(size, 1)

    def forward(self, patches: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        own, texts = (x / (x.norm(dim=-1, keepdim=True) + _NORM) for x in (self.dense0(patches), texts))
        return (own @ texts.t() + self.logit_shift(patches)) * (F.elu(self.logit_scale(patches)) + 1), own


class Detector(Component):
    """[I, R, R, H], [T, P] -> {"logits": [I, N, T], "pred_boxes": [I, N, 4], "class_embeds": [I, N, P]} of each patch,
    N = R * R of a picture, for every text.

    Args:
        objectness: and ``objectness_logits`` [I, N], whether a patch is any object at all.
    """

    def __init__(self, spec: Spec, objectness: bool = False) -> None:
        super().__init__()
        self.grid, self.size, self.width = spec.vision.grid, spec.vision.hidden_size, spec.projection_dim
        self.classes, self.boxes = _Classes(self.size, self.width), _Head(self.size, 4)
        self.objectness = _Head(self.size, 1) if objectness else None
        self.places = Table((self.grid**2, 4), self._places)

    def ports(self) -> tuple[Port, ...]:
        shape = ("images", self.grid, self.grid, self.size)
        return (
            Port("image_embeds", "float32", shape, "features", source="vision"),
            Port("text_embeds", "float32", ("texts", self.width), "features", source="text"),
        )

    def outs(self) -> tuple[Out, ...]:
        embeds = Out("class_embeds", ("images", "queries", self.width), "embedding")
        likely = () if self.objectness is None else (Out("objectness_logits", ("images", "queries"), "scores"),)
        return (*CATALOGUE["zero-shot-object-detection"].outs, embeds, *likely)

    def forward(self, image_embeds: Tensor, text_embeds: Tensor) -> dict[str, Tensor]:
        patches = image_embeds.view(image_embeds.shape[0], self.grid**2, self.size)
        logits, embeds = self.classes(patches, text_embeds)
        boxes = torch.sigmoid(self.boxes(patches) + self.places())
        found = {"logits": logits, "pred_boxes": boxes, "class_embeds": embeds}
        return found if self.objectness is None else {**found, "objectness_logits": self.objectness(patches)[..., 0]}

    def _places(self) -> Tensor:
        """Logits of the box that each patch begins with: its lower right corner, and one patch wide and high. In
        float32, as models were trained with them."""
        place = torch.arange(1, self.grid + 1, dtype=torch.float32) / self.grid
        side = torch.ones(self.grid**2) / self.grid
        shares = torch.stack((place.repeat(self.grid), place.repeat_interleave(self.grid), side, side), dim=-1)
        return torch.log(shares + _EDGE) - torch.log1p(-shares + _EDGE)


def compose(objectness: bool) -> Callable[[Any, frozenset[str]], nn.Module]:
    """``objectness``: patches have a score of their own."""

    def made(spec: Spec, absent: frozenset[str]) -> nn.Module:
        text, width = spec.text, spec.projection_dim
        projection = nn.Linear(text.hidden_size, width, bias=False)
        embeds = TextEmbeds(clip_text_model.body(text), EndOfText(_LARGEST), projection, width, features=False)
        return Composite({"text": embeds, "vision": _Patches(spec.vision), "detector": Detector(spec, objectness)})

    return made


def weights(prefix: str) -> Callable[[Any], tuple[Rule, ...]]:
    """Names of a model that upstream's head holds as ``prefix``."""
    return lambda spec: (
        Rename(f"{prefix}.*", "*"),
        *(Ignore(name) for name in ("visual_projection.*", "logit_scale", "box_bias")),
        Within("text_model.", clip_text_model.names(), to="text."),
        Rename("text_projection.*", "text.projection.*"),
        Rename("vision_model.pre_layernorm.*", "vision_model.pre_layrnorm.*"),
        Within("vision_model.", clip_vision_model.names(), to="vision."),
        Rename("vision.pooler.norm.*", "vision.model.stack.norm.*"),
        Rename("layer_norm.*", "vision.norm.*"),
        *(
            Rename(f"{old}_head.*", f"detector.{new}.*")
            for old, new in (("class", "classes"), ("box", "boxes"), ("objectness", "objectness"))
        ),
    )


FAMILY = Family(
    spec=Spec,
    heads={heads.ZERO_SHOT_OBJECTS: compose(objectness=False)},
    weights=weights("owlvit"),
    inert=clip.FAMILY.inert,
    tiny={"text_config": clip_text_model.TINY, "vision_config": clip_vision_model.TINY, "projection_dim": 32},
    variations=({"text_config": clip_text_model.ODD, "vision_config": clip_vision_model.ODD, "projection_dim": 21},),
)
