"""LLaVA-NeXT: LLaVA that sees a picture as a whole and in tiles, of which lines of features are made.
https://llava-vl.github.io/blog/2024-01-30-llava-next/"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from precast.export import heads
from precast.export.families import llava
from precast.export.skeletons.joined import Seen, joined
from precast.export.spec import hf
from precast.export.weights import Rename, Rule
from precast.runtime.errors import ConfigError
from precast.runtime.generation.among import FEATURES
from precast.runtime.generation.tiles import Tiles

__all__ = ["FAMILY", "Spec"]

_SIZES = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))


@dataclass(frozen=True, kw_only=True)
class Spec(llava.Spec):
    tie_word_embeddings: bool = hf(default=False)
    image_grid_pinpoints: tuple[tuple[int, int], ...] = hf(
        default=_SIZES, read=lambda said: tuple((height, width) for height, width in said)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.tiles

    @cached_property
    def tiles(self) -> Tiles:
        """How pictures are cut."""
        tile, sizes = self.vision.spec.image_size, self.image_grid_pinpoints
        if not Tiles.are_sizes(sizes, tile):
            raise ConfigError(
                f"'image_grid_pinpoints' {list(sizes)!r:.120} must be pairs of multiples of vision_config's "
                f"'image_size' {tile}: a picture is cut into tiles of that size"
            )
        return Tiles(tile, tile // self.vision.spec.patch_size, sizes)


class _Seen(Seen):
    """Tiles [I, C, H, W] -> {"features": [1 + I * P, H]}: what ends a line, and those of each tile."""

    def __init__(self, seen: Seen) -> None:
        super().__init__(seen.model, seen.project, seen.width, layers=seen.layers, skip=seen.skip)
        self.line = nn.Parameter(torch.empty(seen.width))

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        return {FEATURES: torch.cat((self.line[None], super().forward(pixel_values)[FEATURES]))}


def _compose(spec: Spec, absent: frozenset[str]) -> nn.Module:
    seen = llava.seen(spec)
    if seen.of_picture() != spec.tiles.features:
        raise ConfigError(
            f"'vision_feature_select_strategy' {spec.vision_feature_select_strategy!r} leaves {seen.of_picture()} "
            f"features of a tile, and lines are made of {spec.tiles.side} x {spec.tiles.side}"
        )
    return joined(_Seen(seen), spec.text, spec.image_token_id, spec.tiles)


def _weights(spec: Spec) -> tuple[Rule, ...]:
    line = Rename("image_newline", "vision.line")
    return (Rename("model.image_newline", "image_newline"), line, *llava.weights(spec))


_ODD = {key: value for key, value in llava.FAMILY.variations[0].items() if key != "vision_feature_select_strategy"}

FAMILY = replace(
    llava.FAMILY,
    spec=Spec,
    heads={heads.IMAGE_TEXT: _compose},
    weights=_weights,
    tiny={**llava.FAMILY.tiny, "image_grid_pinpoints": [[12, 12], [24, 12]]},
    variations=({**_ODD, "image_grid_pinpoints": [[11, 11]]},),
)
