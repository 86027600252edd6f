"""Pictures as rows of patches. https://arxiv.org/abs/2010.11929"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from precast.runtime.errors import ConfigError
from precast.runtime.ports import Dim, Port

__all__ = ["Patches", "hidden", "rows_of"]


def rows_of(grid: Tensor) -> Tensor:
    """A map [B, H, R, C] as rows, [B, R * C, H]; by a view, which needs no decomposition where it is traced."""
    batch, width, rows, columns = grid.shape
    return grid.view(batch, width, rows * columns).transpose(1, 2)


def hidden(rows: Tensor, mask: Tensor | None, token: Tensor | None) -> Tensor:
    """Rows [B, P, H], those that a mask [B, P] of zeros and ones hides replaced by a token [1, 1, H]."""
    if mask is None:
        return rows
    assert token is not None, "there is no token for what is hidden"
    return torch.where(mask[..., None] == 1, token, rows)


class Patches(nn.Module):
    """Pixels [B, C, I, I] -> learned tokens and a row for each patch, with positions, [B, T + (I / P)^2, H].

    Args:
        image, patch: their sides in pixels. bias: of the patches' projection.
        tokens: names of the tokens in front of the patches, each a parameter with a position.
        placed: there are positions.
        resize: makes a map [H, R, C] of the patches' positions [1, P, H] for a grid of R x C patches, so that a picture
            may have any size from one patch on; None: it has the one whose positions were learned.
        masked: patches may be hidden, and one token stands for each of them.
        registers: of a picture of any size, tokens behind the others that have no positions.
            https://arxiv.org/abs/2309.16588
    """

    def __init__(
        self,
        size: int,
        *,
        image: int,
        patch: int,
        channels: int = 3,
        bias: bool = True,
        tokens: tuple[str, ...] = ("cls_token",),
        placed: bool = True,
        resize: nn.Module | None = None,
        registers: int = 0,
        masked: bool = False,
    ) -> None:
        super().__init__()
        if not 0 < patch <= image:
            raise ConfigError(f"'patch_size' {patch} must be 1 to 'image_size' {image}: a picture is made of patches")
        self.image, self.patch, self.channels, self.tokens, self.resize = image, patch, channels, tokens, resize
        self.projection = nn.Conv2d(channels, size, kernel_size=patch, stride=patch, bias=bias)
        for name in tokens:
            setattr(self, name, nn.Parameter(torch.empty(1, 1, size)))
        places = len(tokens) + (image // patch) ** 2
        self.positions = nn.Parameter(torch.empty(1, places, size)) if placed else None

        self.mask_token = nn.Parameter(torch.empty(1, 1, size)) if masked else None
        self.registers = nn.Parameter(torch.empty(1, registers, size)) if registers else None

    def ports(self) -> tuple[Port, ...]:
        """A picture."""
        sizes = (self.image, self.image) if self.resize is None else ("height", "width")
        return (Port("pixel_values", "float32", ("batch", self.channels, *sizes), "pixels"),)

    def bounds(self) -> dict[str, Dim]:
        """Where sizes are free: what is no whole patch at the right and at the bottom is left out."""
        return {} if self.resize is None else dict.fromkeys(("height", "width"), Dim(least=self.patch))

    def forward(self, pixels: Tensor, mask: Tensor | None = None) -> Tensor:
        grid, count = self.projection(pixels), len(self.tokens)
        if self.resize is None or self.positions is None:
            patches = hidden(rows_of(grid), mask, self.mask_token)
            x = torch.cat((*self._expanded(pixels), patches), dim=1)
            return x if self.positions is None else x + self.positions
        grid = grid + self.resize(self.positions[:, count:], grid.shape[2], grid.shape[3])
        first = torch.cat(self._expanded(pixels), dim=1) + self.positions[:, :count]
        behind = () if self.registers is None else (self.registers.expand(pixels.shape[0], -1, -1),)
        return torch.cat((first, *behind, rows_of(grid)), dim=1)

    def _expanded(self, pixels: Tensor) -> list[Tensor]:
        """The tokens of each picture."""
        return [getattr(self, name).expand(pixels.shape[0], -1, -1) for name in self.tokens]
