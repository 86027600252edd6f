"""Pre-norm layers that do not know of words, patches or frames: what stands in front of them makes their states."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from precast.export.blocks.attention import SelfAttention
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm, Norm, normed_sum
from precast.export.skeletons.encoder import PreNormLayer

__all__ = ["Stack", "stack"]


class Stack(nn.Module):
    """States [B, S, H], mask [B, S] of visible ones or None -> states [B, S, H], through `PreNormLayer`s.

    Args:
        norm: after the last layer, or None.
    """

    def __init__(self, layers: Iterable[nn.Module], norm: Norm | None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm

    def forward(self, x: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        update = None
        for layer in self.layers:
            x, update = layer(x, update, mask, bias)
        return normed_sum(self.norm, x, update)[0]

    def states(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        *,
        layers: Sequence[int],
        normed: bool = False,
    ) -> list[Tensor]:
        """What some layers make, in rising order, each counted from 1; 0 is what goes into the first. Those behind the
        last of them are not computed.

        Args:
            normed: the norm behind the last layer follows each of them.
        """
        made, update = [], None
        for number, layer in enumerate([None, *self.layers][: max(layers) + 1]):
            if layer is not None:
                x, update = layer(x, update, mask, bias)
            if number in layers:
                state, x = normed_sum(self.norm if normed else None, x, update)
                update = None
                made.append(state)
        return made


def stack(
    spec: Any,
    *,
    bias: bool = True,
    causal: bool = False,
    normed: bool = True,
    mlp: Callable[[], nn.Module] | None = None,
    key_bias: bool | None = None,
    relative: Callable[[], nn.Module] | None = None,
    attention: type[SelfAttention] = SelfAttention,
) -> Stack:
    """Layers of a spec that names its sizes as everybody does.

    Args:
        bias: of queries, keys and values. key_bias: of keys, where that differs. causal: what follows is not seen.
        normed: a norm follows the last layer.
        mlp: makes the feed-forward part of a layer; None: up, activation, down.
        relative: makes what a layer adds to its scores; None: nothing. attention: the class of a layer's.
    """
    hidden, epsilon = spec.hidden_size, spec.layer_norm_eps
    layers = [
        PreNormLayer(
            attention=attention(
                hidden,
                heads=spec.num_attention_heads,
                bias=bias,
                key_bias=key_bias,
                out_bias=True,
                window=(-1, 0) if causal else (-1, -1),
                relative=None if relative is None else relative(),
            ),
            attention_norm=LayerNorm(hidden, epsilon),
            mlp=MLP(hidden, spec.intermediate_size, spec.hidden_act) if mlp is None else mlp(),
            mlp_norm=LayerNorm(hidden, epsilon),
        )
        for _ in range(spec.num_hidden_layers)
    ]
    return Stack(layers, LayerNorm(hidden, epsilon) if normed else None)
