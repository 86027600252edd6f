"""ConvNeXt V2: ConvNeXt whose channels compete by how strong they are over the picture. https://arxiv.org/abs/2301.00808"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from precast.export.blocks.activations import Activation
from precast.export.families import convnext
from precast.export.weights import Rename

__all__ = ["FAMILY"]


class _MLP(nn.Module):
    """down(respond(act(up(x)))), [B, H, W, C] -> [B, H, W, C], where respond(x) = w * (x * share) + b + x, and a
    channel's share is its norm over the picture by the mean of all."""

    def __init__(self, hidden: int, intermediate: int, act: Activation) -> None:
        super().__init__()
        self.act = act
        self.up_proj = nn.Linear(hidden, intermediate)
        self.down_proj = nn.Linear(intermediate, hidden)
        self.weight = nn.Parameter(torch.empty(1, 1, 1, intermediate))
        self.bias = nn.Parameter(torch.empty(1, 1, 1, intermediate))

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.up_proj(x))
        strength = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)
        share = strength / (strength.mean(-1, keepdim=True) + 1e-6)
        return self.down_proj(x * (self.weight * share + 1) + self.bias)


def _layer(spec: convnext.StageSpec, size: int) -> convnext.Layer:
    return convnext.Layer(size, _MLP(size, 4 * size, spec.hidden_act))


FAMILY = replace(
    convnext.FAMILY,
    spec=convnext.StageSpec,
    heads=convnext.stage_heads(_layer),
    weights=lambda spec: convnext.weights("convnextv2", Rename("grn.*", "mlp.*")),
    body=lambda spec: convnext.stage_body(spec, _layer),
    tiny={"num_stages": 2, "hidden_sizes": [8, 12], "depths": [1, 2]},
    variations=(
        {"num_stages": 3, "hidden_sizes": [7, 9, 10], "depths": [1, 1, 1], "patch_size": 3, "num_channels": 1}
        | {"hidden_act": "gelu_new", "layer_norm_eps": 1e-5, "num_labels": 5},
    ),
)
