"""Sines and cosines of positions, added to embeddings. https://arxiv.org/abs/1706.03762, section 3.5"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export.blocks.cache import Step
from precast.export.blocks.embeddings import PaddedPositionTable, SinusoidTable
from precast.export.blocks.rotary import Frequencies
from precast.export.blocks.tables import Table
from precast.export.operators import rotary_angles
from precast.runtime.ports import Dim

__all__ = ["PlacedFromPadding", "SteppedSines", "inclusive_frequencies", "inclusive_sine_table", "sine_table"]


def sine_table(rows: int, size: int) -> SinusoidTable:
    """Positions over 10000 ** (2i / size): sines in the first half of the channels, cosines in the second."""

    def angles() -> Tensor:
        half = torch.arange(0, size, 2, dtype=torch.float64)
        return torch.arange(rows, dtype=torch.float64)[:, None] / 10000 ** (half / size)

    return SinusoidTable(rows, size, angles)


def inclusive_frequencies(count: int) -> Tensor:
    """From 1 down to 1 / 10000 inclusive, in float32."""
    return torch.exp(torch.arange(count, dtype=torch.float32) * -(math.log(10000) / (count - 1)))


def inclusive_sine_table(rows: int, size: int, zero: int) -> SinusoidTable:
    """The same of `inclusive_frequencies`; the row ``zero`` (the padding's) is all zeros.

    Frequencies and angles are rounded to float32, as models were trained with them.
    """

    def angles() -> Tensor:
        return torch.arange(rows, dtype=torch.float32)[:, None] * inclusive_frequencies(size // 2)[None]

    return SinusoidTable(rows, size, angles, zero=zero)


class SteppedSines(nn.Module):
    """Sines of the positions of a decoder's call in the first half of the channels, cosines in the second: [B, S, E].
    They are computed for these positions alone: tables of published models are larger than many a layer.

    Args:
        frequencies: of the sines, one for each two channels; a last channel is 0 where E is odd.
        offset: is added to positions.
        zero: a position, counted with the offset, where all is 0, or None.
        longest: positions the model was made for.
    """

    def __init__(
        self, size: int, frequencies: Frequencies, *, longest: int, offset: int = 0, zero: int | None = None
    ) -> None:
        super().__init__()
        self.longest = longest
        self.size, self.offset, self.zero = size, offset, zero
        self.frequencies = Table((size // 2,), frequencies)

    def bounds(self) -> dict[str, Dim]:
        return {"sequence": Dim(most=self.longest)}

    def forward(self, input_ids: Tensor, step: Step) -> Tensor:
        if step.positions is None:
            raise ValueError("sines of positions need position_ids")
        positions = step.positions + self.offset if self.offset else step.positions
        cos, sin = rotary_angles(positions, self.frequencies())
        both = torch.cat((sin, cos), dim=-1)
        if self.size % 2:
            both = F.pad(both, (0, 1))
        rows = both.view(*positions.shape, self.size)
        if self.zero is not None and self.zero >= self.offset:
            rows = rows * (positions != self.zero)[..., None].to(rows.dtype)
        return rows


class PlacedFromPadding(PaddedPositionTable):
    """Positions of a decoder's call, counted from ``padding_id + 1`` on, [B, S, E] from a table of them.

    A padding token it made itself has none, and counts.
    """

    def forward(self, input_ids: Tensor, step: Step) -> Tensor:
        if step.positions is None:
            raise ValueError("a table of positions needs position_ids")
        first = self.padding_id + 1
        return self.table(torch.where(input_ids != self.padding_id, step.positions + first, self.padding_id))
