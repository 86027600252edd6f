"""Rotary position embedding as a part of attention. https://arxiv.org/abs/2104.09864"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from precast.export.blocks.cache import Step
from precast.export.blocks.tables import Table
from precast.export.operators import rotary, rotary_angles
from precast.runtime.ports import Dim

__all__ = ["Frequencies", "RotaryPositions", "SteppedRotary", "llama3", "plain", "yarn", "yarn_scale"]

Frequencies = Callable[[], Tensor]
"""Computes the angle a pair of channels turns by from one position to the next, [R/2] float32."""


def plain(size: int, base: float, factor: float = 1.0) -> Frequencies:
    """base ** (-2i / size) for each of size / 2 pairs of channels; positions divided by ``factor`` (linear scaling)."""

    def compute() -> Tensor:
        return 1.0 / (base ** (torch.arange(0, size, 2, dtype=torch.float32) / size)) / factor

    return compute


def llama3(
    size: int,
    base: float,
    *,
    factor: float,
    low_freq_factor: float,
    high_freq_factor: float,
    original_max_position_embeddings: int,
) -> Frequencies:
    """Llama 3's scaling: waves longer than the original context by ``factor``, short ones not, those between smoothly.
    https://arxiv.org/abs/2407.21783, section 3"""

    def compute() -> Tensor:
        frequencies = plain(size, base)()
        wavelength = 2 * math.pi / frequencies
        old = original_max_position_embeddings
        low, high = old / low_freq_factor, old / high_freq_factor
        slow = torch.where(wavelength > low, frequencies / factor, frequencies)
        smooth = (old / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor)
        between = (1 - smooth) * slow / factor + smooth * slow
        return torch.where((wavelength >= high) & (wavelength <= low), between, slow)

    return compute


def yarn(
    size: int,
    base: float,
    *,
    factor: float,
    original_max_position_embeddings: int,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    truncate: bool = True,
) -> Frequencies:
    """YaRN's scaling: pairs that turn more than ``beta_fast`` times in the original context stay, those that turn less
    than ``beta_slow`` times are slowed by ``factor``, and those between by a share linear in their index.
    https://arxiv.org/abs/2309.00071, section 3.2

    Args:
        truncate: the indexes between which the share grows are rounded outwards.
    """

    def index(turns: float) -> float:
        """The pair, counted in fractions, that turns so often in the original context."""
        return size * math.log(original_max_position_embeddings / (turns * 2 * math.pi)) / (2 * math.log(base))

    def compute() -> Tensor:
        low, high = index(beta_fast), index(beta_slow)
        if truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, size - 1)
        width = high - low or 0.001
        slowed = ((torch.arange(size // 2, dtype=torch.float32) - low) / width).clamp(0, 1)
        frequencies = plain(size, base)()
        return frequencies / factor * slowed + frequencies * (1 - slowed)

    return compute


def yarn_scale(factor: float, mscale: float | None = None, mscale_all_dim: float | None = None) -> float:
    """What YaRN multiplies queries and keys by, 0.1 ln(factor) + 1; the two weights are DeepSeek's.
    https://arxiv.org/abs/2309.00071, section 3.4"""

    def grown(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    return grown(mscale) / grown(mscale_all_dim) if mscale and mscale_all_dim else grown(1.0)


class RotaryPositions(nn.Module):
    """Turns queries and keys [B, S, N*D] at positions 0, 1, 2 ... One module may serve all layers of one base.

    The angles are products of float32 numbers, as models were trained with them: at position 8191 the rounding of a
    frequency moves an angle by up to 5e-4, so angles of higher precision would be another model's. Their cosines and
    sines are taken in float64.

    Args:
        count: positions there are.
        size: channels of a head, all of which are turned.
        base: of the frequencies base ** (-2i / size).
        factor: positions are divided by it (linear scaling).
    """

    def __init__(self, count: int, size: int, base: float, factor: float = 1.0) -> None:
        super().__init__()
        self.count, self.size = count, size
        self.frequencies = plain(size, base, factor)
        shape = (count, size // 2)
        self.cos = Table(shape, lambda: torch.cos(self._angles()))
        self.sin = Table(shape, lambda: torch.sin(self._angles()))

    def bounds(self) -> dict[str, Dim]:
        return {"sequence": Dim(most=self.count)}

    def _angles(self) -> Tensor:
        positions = torch.arange(self.count, dtype=torch.float32)
        return (positions[:, None] * self.frequencies()).to(torch.float64)

    def forward(self, states: Tensor, heads: int) -> Tensor:
        batch, length, _ = states.shape
        positions = torch.arange(length, device=states.device)[None].expand(batch, length)
        return rotary(states, positions, self.cos(), self.sin(), heads=heads)


class SteppedRotary(nn.Module):
    """Turns queries and keys [B, S, N*D] at the positions of a call; sines are computed for these positions alone.

    A table of 131,072 positions would be tens of megabytes of an artifact, and reading it no faster.

    Args:
        size: channels of a head that are turned, the first ones.
        frequencies: see `Frequencies`.
        scale: factor of cosines and sines (YaRN's attention factor).
        interleaved: pairs are neighbouring channels instead of halves.
        longest: positions the model was made for, or None: they could go on for ever.
    """

    def __init__(
        self,
        size: int,
        frequencies: Frequencies,
        scale: float = 1.0,
        interleaved: bool = False,
        longest: int | None = None,
    ) -> None:
        super().__init__()
        self.scale, self.interleaved, self.longest = scale, interleaved, longest
        self.frequencies = Table((size // 2,), frequencies)

    def bounds(self) -> dict[str, Dim]:
        return {} if self.longest is None else {"sequence": Dim(most=self.longest)}

    def forward(self, states: Tensor, heads: int, step: Step) -> Tensor:
        if step.positions is None:
            raise ValueError("rotary positions need position_ids")
        positions = step.positions
        cos, sin, rows = step.once(self, lambda: self._angles(positions))
        return rotary(states, rows, cos, sin, heads=heads, interleaved=self.interleaved)

    def _angles(self, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        cos, sin = rotary_angles(positions, self.frequencies(), self.scale)
        batch, length = positions.shape
        return cos, sin, torch.arange(batch * length, device=positions.device).view(batch, length)
