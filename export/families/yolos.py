"""YOLOS: ViT with tokens for the objects of a picture, and positions for a picture of any size.
https://arxiv.org/abs/2106.00666"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.norms import normed_sum
from precast.export.blocks.patches import rows_of
from precast.export.blocks.resample import Bicubic
from precast.export.families import Family, vit
from precast.export.head_sets.boxes import DeepHead, ObjectDetection
from precast.export.heads import TanhPooler
from precast.export.image_heads import ImageFeatures
from precast.export.skeletons.stack import stack
from precast.export.spec import hf
from precast.export.weights import Rename, Rule
from precast.runtime.errors import ConfigError
from precast.runtime.ports import Dim, Port

__all__ = ["FAMILY", "Spec"]


@dataclass(frozen=True, kw_only=True)
class Spec(vit.Sizes):
    image_size: tuple[int, int] = hf(default=(512, 864), read=tuple)  # type: ignore[assignment]
    qkv_bias: bool = hf(default=True)
    num_detection_tokens: int = hf(default=100)
    use_mid_position_embeddings: bool = hf(default=True)

    def __post_init__(self) -> None:
        if len(self.image_size) != 2 or not 0 < self.patch_size <= min(self.image_size):
            raise ConfigError(
                f"'image_size' is a height and a width of 'patch_size' {self.patch_size} at least; received "
                f"{list(self.image_size)}"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size


class _Body(nn.Module):
    """Pixels [B, C, H, W] -> states [B, 1 + (H / P) * (W / P) + D, H]: of the class token, the patches and the D
    objects. Positions are resampled for the picture, those that layers add behind them, too."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        size, patch = spec.hidden_size, spec.patch_size
        self.patch, self.channels, self.objects = patch, spec.num_channels, spec.num_detection_tokens
        rows, columns = spec.grid
        places = 1 + rows * columns + self.objects
        self.projection = nn.Conv2d(spec.num_channels, size, kernel_size=patch, stride=patch)
        self.cls_token = nn.Parameter(torch.empty(1, 1, size))
        self.detection_tokens = nn.Parameter(torch.empty(1, self.objects, size))
        self.positions = nn.Parameter(torch.empty(1, places, size))
        between = spec.num_hidden_layers - 1 if spec.use_mid_position_embeddings else 0
        self.between = nn.Parameter(torch.empty(between, 1, places, size)) if between > 0 else None
        self.stack = stack(spec, bias=spec.qkv_bias)
        self.resize = Bicubic(spec.grid)

    def ports(self) -> tuple[Port, ...]:
        """A picture."""
        return (Port("pixel_values", "float32", ("batch", self.channels, "height", "width"), "pixels"),)

    def bounds(self) -> dict[str, Dim]:
        """What is no whole patch at the right and at the bottom is left out."""
        return dict.fromkeys(("height", "width"), Dim(least=self.patch))

    def _placed(self, tables: Iterable[Tensor], rows: int, columns: int) -> list[Tensor]:
        """Tables of positions [1, S, H] for a picture of so many patches."""
        weights = self.resize.weights(self.positions, rows, columns)

        def placed(table: Tensor) -> Tensor:
            first, patches, last = table[:, :1], table[:, 1 : -self.objects], table[:, -self.objects :]
            grid = (
                self.resize(patches, rows, columns, weights)
                .permute(1, 2, 0)
                .clone(memory_format=torch.contiguous_format)
            )
            return torch.cat((first, grid.view(1, rows * columns, -1), last), dim=1)

        return [placed(table) for table in tables]

    def forward(self, pixel_values: Tensor) -> Tensor:
        grid, batch = self.projection(pixel_values), pixel_values.shape[0]
        tables = () if self.between is None else self.between.unbind(0)
        first, *between = self._placed((self.positions, *tables), grid.shape[2], grid.shape[3])
        tokens = (self.cls_token.expand(batch, -1, -1), rows_of(grid), self.detection_tokens.expand(batch, -1, -1))
        x, update = torch.cat(tokens, dim=1) + first, None
        for number, layer in enumerate(self.stack.layers):
            x, update = layer(x, update, None)
            if number < len(between):
                x = x + between[number]
        return normed_sum(self.stack.norm, x, update)[0]


class _Objects(_Body):
    """The states of the objects alone, [B, D, H]."""

    def forward(self, pixel_values: Tensor) -> Tensor:
        return super().forward(pixel_values)[:, -self.objects :].clone(memory_format=torch.contiguous_format)


class _Pooler(TanhPooler):
    """act(dense(class token)), [B, S, H] -> [B, H]."""

    def forward(self, states: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(states, states)


def _base(spec: Spec, absent: frozenset[str]) -> nn.Module:
    return ImageFeatures(_Body(spec), None if "pooler" in absent else _Pooler(spec.hidden_size))  # type: ignore[arg-type]


def _detector(spec: Spec, absent: frozenset[str]) -> nn.Module:
    size = spec.hidden_size
    classifier, boxes = (DeepHead((size, size, size, out)) for out in (spec.labels + 1, 4))
    return ObjectDetection(_Objects(spec), classifier, boxes)


def _weights(spec: Spec) -> tuple[Rule, ...]:
    return (
        Rename("vit.*", "*"),
        Rename("embeddings.patch_embeddings.projection.*", "model.projection.*"),
        Rename("embeddings.position_embeddings", "model.positions"),
        Rename("embeddings.*", "model.*"),
        Rename("encoder.mid_position_embeddings", "model.between"),
        Rename("encoder.interpolation.mid_position_embeddings", "model.between"),
        vit.layer_names("encoder.layer.{}.", "model.stack.layers.{}."),
        Rename("layernorm.*", "model.stack.norm.*"),
        Rename("class_labels_classifier.*", "classifier.*"),
        Rename("bbox_predictor.*", "boxes.*"),
    )


FAMILY = Family(
    spec=Spec,
    heads={heads.BASE: _base, heads.OBJECT_DETECTION: _detector},
    weights=_weights,
    optional=("pooler",),
    final_norm=True,
    inert=frozenset({"auxiliary_loss", "class_cost", "bbox_cost", "giou_cost", "bbox_loss_coefficient"})
    | {"giou_loss_coefficient", "eos_coefficient"},
    tiny={"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    | {"image_size": [48, 80], "patch_size": 16, "num_detection_tokens": 7},
    variations=(
        # Odd sizes, and pictures that were no multiple of their patches.
        {"hidden_size": 21, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 37}
        | {"image_size": [45, 59], "patch_size": 13, "num_channels": 1, "qkv_bias": False, "num_labels": 5}
        | {"hidden_act": "relu", "layer_norm_eps": 1e-5, "num_detection_tokens": 3}
        | {"use_mid_position_embeddings": False},
    ),
)
