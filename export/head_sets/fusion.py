"""A decoder of dense predictions over a transformer: states of some of its layers become maps of several sizes, which
are fused from the smallest to the largest. https://arxiv.org/abs/2103.13413"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from precast.export.blocks.convolution import ConvNorm, Enlarge, enlarging
from precast.export.image_heads import ImageModel
from precast.export.operators import resized
from precast.export.weights import Rename, Rule
from precast.runtime.errors import ConfigError

__all__ = ["FusionNeck", "PatchMaps", "neck_names"]


class PatchMaps(ImageModel):
    """Pixels [B, C, I, J] -> what some layers make of the patches, as maps [B, H, I / P, J / P].

    Args:
        model: whose parts it takes over. patch: P. layers: which, counted from 1; 0 is what goes into the first.
        normed: the norm behind the last layer follows each of them.
        readouts: makes patches [B, S - 1, H] of the states of a layer, the first of which is no patch; None: as they
            are.
    """

    def __init__(
        self,
        model: ImageModel,
        *,
        patch: int,
        layers: Sequence[int],
        normed: bool = False,
        readouts: Iterable[nn.Module] | None = None,
    ) -> None:
        super().__init__(model.embeddings, model.stack, model.before, model.relative)
        self.patch, self.layers, self.normed = patch, tuple(layers), normed
        self.readouts = None if readouts is None else nn.ModuleList(readouts)

    def maps(self, pixel_values: Tensor) -> list[Tensor]:
        """Those of ``layers``."""
        return self.as_maps(self.states(pixel_values, self.layers, normed=self.normed), pixel_values)

    def as_maps(self, states_of_layers: Sequence[Tensor], pixel_values: Tensor) -> list[Tensor]:
        """States of layers, [B, S, H] each, as maps of a picture."""
        batch, _, height, width = pixel_values.shape
        made = []
        for number, states in enumerate(states_of_layers):
            rows = states[:, 1:] if self.readouts is None else self.readouts[number](states)
            made.append(rows.transpose(1, 2).view(batch, states.shape[2], height // self.patch, width // self.patch))
        return made


def _scaled(channels: int, factor: float) -> nn.Module:
    if factor == 1:
        return nn.Identity()
    if factor > 1:
        return Enlarge(channels, int(factor))
    return nn.Conv2d(channels, channels, 3, stride=int(1 / factor), padding=1)


class _Residual(nn.Module):
    """x + second(relu(first(relu(x))))."""

    def __init__(self, size: int, norm: bool, bias: bool) -> None:
        super().__init__()
        self.first, self.second = (
            ConvNorm(size, size, 3, bias=bias) if norm else nn.Conv2d(size, size, 3, padding=1, bias=bias)
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(F.relu(x))))


class _Fuse(nn.Module):
    """What was fused so far, and a map beside it -> twice as large, or as large as ``like``."""

    def __init__(self, size: int, beside: bool, norm: bool, bias: bool) -> None:
        super().__init__()
        self.beside = _Residual(size, norm, bias) if beside else None
        self.residual = _Residual(size, norm, bias)
        self.projection = nn.Conv2d(size, size, 1)

    def forward(self, x: Tensor, other: Tensor | None, like: Tensor | None) -> Tensor:
        if self.beside is not None and other is not None:
            x = x + self.beside(_fitted(other, x))
        x = self.residual(x)
        return self.projection(resized(x, factor=2, aligned=True) if like is None else resized(x, like, aligned=True))


def _fitted(x: Tensor, like: Tensor) -> Tensor:
    """A map in the size of another one; where a call's picture says either, they are taken to differ."""
    known = all(isinstance(side, int) for side in (*x.shape[2:], *like.shape[2:]))
    return x if known and x.shape[2:] == like.shape[2:] else resized(x, like)


class FusionNeck(nn.Module):
    """Maps [B, C, H, W] of one size -> what was fused of them, [B, F, H', W'].

    Args:
        channels: of the maps. sizes: channels of each map once it is ``factors`` times as large. fused: F.
        norm, bias: batch norms follow convolutions of residual units, and these have biases.
        exact: a map is fused at the size of the next one, not at twice its own.
        ready: the first so many maps have their size and channels already.
    """

    def __init__(
        self,
        channels: int,
        sizes: Sequence[int],
        factors: Sequence[float],
        fused: int,
        *,
        norm: bool = False,
        bias: bool = True,
        exact: bool = False,
        ready: int = 0,
    ) -> None:
        super().__init__()
        if (len(sizes) != len(factors) and ready < len(sizes)) or not sizes:
            raise ConfigError(f"'reassemble_factors' {factors} must be as many as 'neck_hidden_sizes' {sizes}")
        self.exact = exact
        behind = [(nn.Conv2d(channels, size, 1), _scaled(size, by)) for size, by in _changed(sizes, factors, ready)]
        self.projections = nn.ModuleList([*(nn.Identity() for _ in range(ready)), *(first for first, _ in behind)])
        self.scales = nn.ModuleList([*(nn.Identity() for _ in range(ready)), *(second for _, second in behind)])
        self.convs = nn.ModuleList(nn.Conv2d(size, fused, 3, padding=1, bias=False) for size in sizes)
        self.layers = nn.ModuleList(_Fuse(fused, bool(number), norm, bias) for number in range(len(sizes)))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        stages = zip(self.projections, self.scales, self.convs, maps, strict=True)
        x, *others = [convolve(scale(project(each))) for project, scale, convolve, each in stages][::-1]
        for number, layer in enumerate(self.layers):
            like = others[number] if self.exact and number < len(others) else None
            x = layer(x, others[number - 1] if number else None, like)
        return x


def _changed(sizes: Sequence[int], factors: Sequence[float], ready: int) -> list[tuple[int, float]]:
    """Channels and factors of the maps that are not ``ready``."""
    return [] if ready == len(sizes) else [*zip(sizes, factors, strict=True)][ready:]


def neck_names(sizes: Sequence[int], factors: Sequence[float], norm: bool, ready: int = 0) -> tuple[Rule, ...]:
    """Names of a neck, as those of `FusionNeck` behind ``decoder.neck``."""
    new = "decoder.neck"
    stages = enumerate(_changed(sizes, factors, ready), ready)
    kernels = [
        rule for number, (size, by) in stages if by > 1 for rule in enlarging(f"{new}.scales.{number}", size, int(by))
    ]
    parts = ("convolution", "norm") if norm else ("convolution",)
    theirs = {"convolution": "convolution", "norm": "batch_norm"}
    return (
        Rename("neck.reassemble_stage.layers.{}.projection.*", f"{new}.projections.{{}}.*"),
        Rename("neck.reassemble_stage.layers.{}.resize.*", f"{new}.scales.{{}}.*"),
        Rename("neck.convs.*", f"{new}.convs.*"),
        Rename("neck.fusion_stage.layers.{}.residual_layer1.*", f"{new}.layers.{{}}.beside.*"),
        Rename("neck.fusion_stage.layers.{}.residual_layer2.*", f"{new}.layers.{{}}.residual.*"),
        Rename("neck.fusion_stage.layers.{}.projection.*", f"{new}.layers.{{}}.projection.*"),
        *(
            Rename(
                f"{new}.layers.{{}}.{unit}.{theirs[part]}{place}.*",
                f"{new}.layers.{{}}.{unit}.{name}{f'.{part}' if norm else ''}.*",
            )
            for unit in ("beside", "residual")
            for place, name in ((1, "first"), (2, "second"))
            for part in parts
        ),
        *kernels,
    )
