"""Pictures as rows of patches. https://arxiv.org/abs/2010.11929"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from precast.runtime.errors import ConfigError
from precast.runtime.ports import Port

__all__ = ["Patches"]


class Patches(nn.Module):
    """Pixels [B, C, I, I] -> a class token and a row for each patch, with positions, [B, 1 + (I / P)^2, H].

    Args:
        image, patch: their sides in pixels. bias: of the patches' projection.
    """

    def __init__(self, size: int, *, image: int, patch: int, channels: int = 3, bias: bool = True) -> None:
        super().__init__()
        if not 0 < patch <= image:
            raise ConfigError(f"'patch_size' {patch} must be 1 to 'image_size' {image}: a picture is made of patches")
        self.image, self.channels = image, channels
        self.projection = nn.Conv2d(channels, size, kernel_size=patch, stride=patch, bias=bias)
        self.cls_token = nn.Parameter(torch.empty(1, 1, size))
        self.positions = nn.Parameter(torch.empty(1, 1 + (image // patch) ** 2, size))

    def ports(self) -> tuple[Port, ...]:
        """A picture of the one size whose positions were learned."""
        return (Port("pixel_values", "float32", ("batch", self.channels, self.image, self.image), "pixels"),)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.projection(pixels).flatten(2).transpose(1, 2)
        return torch.cat((self.cls_token.expand(pixels.shape[0], -1, -1), patches), dim=1) + self.positions
