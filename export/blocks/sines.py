"""Sines and cosines of positions, added to embeddings. https://arxiv.org/abs/1706.03762, section 3.5"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export.blocks.cache import Step
from precast.export.blocks.rotary import Frequencies
from precast.export.blocks.tables import Table
from precast.export.operators import rotary_angles

__all__ = ["SteppedSines"]


class SteppedSines(nn.Module):
    """Sines of the positions of a decoder's call in the first half of the channels, cosines in the second: [B, S, E].
    They are computed for these positions alone: tables of published models are larger than many a layer.

    Args:
        frequencies: of the sines, one for each two channels; a last channel is 0 where E is odd.
        offset: is added to positions.
        zero: a position, counted with the offset, where all is 0, or None.
    """

    def __init__(self, size: int, frequencies: Frequencies, *, offset: int = 0, zero: int | None = None) -> None:
        super().__init__()
        self.size, self.offset, self.zero = size, offset, zero
        self.frequencies = Table((size // 2,), frequencies)

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
