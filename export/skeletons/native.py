"""Pictures in their own proportions: a ViT whose learned positions are those of a square, read at
the same share of a picture's height and width; what a mask says is padding is not seen.
https://arxiv.org/abs/2307.06304, https://arxiv.org/abs/2405.02246"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.patches import rows_of
from precast.export.blocks.tables import Table
from precast.export.families import clip_vision_model
from precast.export.skeletons.joined import VISION, Seen, WritingSpec, text_names
from precast.export.skeletons.stack import stack
from precast.export.spec import hf
from precast.export.weights import Rename, Rule, Within
from precast.runtime.errors import ConfigError
from precast.runtime.generation.among import FEATURES
from precast.runtime.ports import Dim, Port

__all__ = ["INERT", "ODD", "TINY", "TOP", "UNREAD", "NativeSeen", "NativeSpec", "NativeVision", "names"]

MASK = "pixel_attention_mask"
# Of the processor; of the whole model's freezing and first weights; and of a class the decoder once had.
INERT = clip_vision_model.INERT | {"max_image_size"}
TOP = frozenset({"freeze_text_layers", "freeze_lm_head", "freeze_vision_layers", "additional_vocab_size"})
UNREAD = frozenset({"perceiver_config", "pixel_shuffle_factor", "qk_layer_norms", "use_resampler"})


@dataclass(frozen=True, kw_only=True)
class NativeSpec(clip_vision_model.Spec):
    """What ``vision_config`` says; its ``image_size`` is the side of the square whose positions are learned."""

    hidden_act: Activation = hf(default=activation("gelu_pytorch_tanh"), read=activation)
    layer_norm_eps: float = hf(default=1e-6)
    patch_size: int = hf(default=32)

    def __post_init__(self) -> None:
        if not 0 < self.patch_size <= self.image_size:
            raise ConfigError(
                f"'vision_config.patch_size' {self.patch_size} must be 1 to 'image_size' {self.image_size}: a picture "
                "is made of patches"
            )

    @property
    def side(self) -> int:
        """Patches of a side of the square."""
        return self.image_size // self.patch_size


class _Patches(nn.Module):
    """Pixels [I, C, H, W] and which patches are real [I, R, C] -> a row for each patch [I, R * C, H], with the position
    that is as far from the edges of the square as the patch is from those of its picture."""

    def __init__(self, spec: NativeSpec) -> None:
        super().__init__()
        self.side, size = spec.side, spec.hidden_size
        self.projection = nn.Conv2d(spec.num_channels, size, kernel_size=spec.patch_size, stride=spec.patch_size)
        self.places = nn.Embedding(self.side**2, size)
        self.buckets = Table((self.side + 1, self.side), self._buckets, torch.int64)

    def _buckets(self) -> Tensor:
        """Of a picture of so many patches, the place of the square for each: as float32 has them, in which models were
        trained, and where a patch may fall one place short of its own."""
        counts = torch.arange(self.side + 1, dtype=torch.float32)[:, None]
        shares = (torch.arange(self.side, dtype=torch.float32) * (1.0 / counts)).clamp(max=1 - 1e-6)
        edges = torch.arange(1 / self.side, 1.0, 1 / self.side, dtype=torch.float32)
        made = torch.bucketize(shares, edges, right=True)
        made[0] = 0
        return made

    def forward(self, pixels: Tensor, real: Tensor) -> Tensor:
        grid = self.projection(pixels)
        rows = self.buckets()[real[:, :, 0].sum(dim=1)][:, : grid.shape[2]]
        columns = self.buckets()[real[:, 0].sum(dim=1)][:, : grid.shape[3]]
        places = (rows[:, :, None] * self.side + columns[:, None]) * real
        return rows_of(grid) + self.places(places).flatten(1, 2)


class NativeVision(nn.Module):
    """Pixels [I, C, H, W], mask [I, H, W] -> states [I, P, H], and which patches are real, [I, P].

    Args:
        whole: a patch is real where all of it is; otherwise where a pixel is.
        square: pictures have one size, that of the square.
    """

    def __init__(self, spec: NativeSpec, *, whole: bool, square: bool) -> None:
        super().__init__()
        self.embeddings, self.stack = _Patches(spec), stack(spec)
        self.whole, self.patch, self.channels = whole, spec.patch_size, spec.num_channels
        self.most = spec.side * spec.patch_size + spec.patch_size - 1
        self.sizes: tuple[int | str, ...] = (spec.image_size,) * 2 if square else ("height", "width")

    def ports(self) -> tuple[Port, ...]:
        """Pictures, and which of their pixels are no padding."""
        pixels = Port("pixel_values", "float32", ("images", self.channels, *self.sizes), "pixels")
        return pixels, Port(MASK, "int64", ("images", *self.sizes), "pixel_mask", default=1)

    def bounds(self) -> dict[str, Dim]:
        """Where sizes are free: a patch at the least, and no more of them than have positions."""
        sizes = [size for size in self.sizes if isinstance(size, str)]
        return dict.fromkeys(sizes, Dim(least=self.patch, most=self.most))

    def forward(self, pixels: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        shown = mask.to(pixels.dtype)[:, None]
        if self.whole:
            real = F.max_pool2d(1 - shown, self.patch) == 0
        else:
            real = F.max_pool2d(shown, self.patch) > 0
        patches = real[:, 0].to(torch.int64)
        seen = patches.flatten(1)
        return self.stack(self.embeddings(pixels, patches), seen), seen


class NativeSeen(Seen):
    """Pixels and mask -> features; ``project`` makes those of a picture, [I, P, H], of states and of which are real.

    Args:
        count: features of a picture.
    """

    def __init__(self, model: NativeVision, project: nn.Module, width: int, count: int) -> None:
        super().__init__(model, project, width)
        self.count = count

    def of_picture(self) -> int:
        return self.count

    def forward(self, pixel_values: Tensor, pixel_attention_mask: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        states, seen = self.model(pixel_values, pixel_attention_mask)
        return {FEATURES: self.project(states, seen).flatten(0, 1)}


def names(spec: WritingSpec) -> tuple[Rule, ...]:
    """Of the tower and of the decoder."""
    tower = (
        Rename("embeddings.patch_embedding.*", "embeddings.projection.*"),
        Rename("embeddings.position_embedding.*", "embeddings.places.*"),
        clip_vision_model.layer_names("encoder.layers", "stack.layers"),
        Rename("post_layernorm.*", "stack.norm.*"),
    )
    return (
        Rename("model.*", "*"),
        Rename("text_model.*", "language_model.model.*"),
        *text_names(spec),
        Within("vision_model.", tower, to=f"{VISION}.model."),
    )


TINY: Mapping[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "image_size": 24,
    "patch_size": 6,
}  # fmt: skip
ODD: Mapping[str, Any] = {
    "hidden_size": 21, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 37, "image_size": 23,
    "patch_size": 5, "num_channels": 1, "hidden_act": "gelu",
}  # fmt: skip
