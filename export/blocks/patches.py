"""Pictures as rows of patches. https://arxiv.org/abs/2010.11929"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from precast.runtime.errors import ConfigError
from precast.runtime.ports import Port

__all__ = ["Patches"]


class Patches(nn.Module):
    """Pixels [B, C, I, I] -> learned tokens and a row for each patch, with positions, [B, T + (I / P)^2, H].

    Args:
        image, patch: their sides in pixels. bias: of the patches' projection.
        tokens: names of the tokens in front of the patches, each a parameter.
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
    ) -> None:
        super().__init__()
        if not 0 < patch <= image:
            raise ConfigError(f"'patch_size' {patch} must be 1 to 'image_size' {image}: a picture is made of patches")
        self.image, self.channels, self.tokens = image, channels, tokens
        self.projection = nn.Conv2d(channels, size, kernel_size=patch, stride=patch, bias=bias)
        for name in tokens:
            setattr(self, name, nn.Parameter(torch.empty(1, 1, size)))
        self.positions = nn.Parameter(torch.empty(1, len(tokens) + (image // patch) ** 2, size))

    def ports(self) -> tuple[Port, ...]:
        """A picture of the one size whose positions were learned."""
        return (Port("pixel_values", "float32", ("batch", self.channels, self.image, self.image), "pixels"),)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.projection(pixels).flatten(2).transpose(1, 2)
        tokens = [getattr(self, name).expand(pixels.shape[0], -1, -1) for name in self.tokens]
        return torch.cat((*tokens, patches), dim=1) + self.positions
