"""ViT-MAE: ViT over the patches of a picture that are not masked. https://arxiv.org/abs/2111.06377

Which ones these are chance decides upstream; here, and there if it is given, ``noise`` does: patches are seen in its
order, the smallest first, as many as ``mask_ratio`` leaves. Where that is 0 all are seen, in the picture's order. A
decoder draws all patches of what those are that are seen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from precast.export import heads
from precast.export.families import vit, vit_msn
from precast.export.signatures import Component
from precast.export.skeletons.stack import stack
from precast.export.spec import hf
from precast.export.weights import Rename, Rule
from precast.runtime.catalogue import CATALOGUE
from precast.runtime.ports import Out, Port

__all__ = ["FAMILY", "Spec"]


def _share(value: Any) -> float:
    if not 0 <= value <= 1:
        raise ValueError("it is a share of the patches, 0 to 1")
    return float(value)


@dataclass(frozen=True, kw_only=True)
class Spec(vit.Spec):
    mask_ratio: float = hf(default=0.75, read=_share)
    decoder_hidden_size: int = hf(default=512)
    decoder_num_hidden_layers: int = hf(default=8)
    decoder_num_attention_heads: int = hf(default=16)
    decoder_intermediate_size: int = hf(default=2048)

    @property
    def patches(self) -> int:
        """Of a picture."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def seen(self) -> int:
        """Patches that are not masked."""
        return int(self.patches * (1 - self.mask_ratio))


class _Masked(Component):
    """Pixels, noise [B, P] -> {"last_hidden_state": [B, 1 + K, H], "mask": [B, P], 1 for what is masked}.

    Where each patch comes, upstream's ``ids_restore``, is the order of the noise, which the caller has."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.model, self.patches, self.seen = vit.body(spec), spec.patches, spec.seen

    def ports(self) -> tuple[Port, ...]:
        return (*self.model.ports(), Port("noise", "float32", ("batch", self.patches), "features"))

    def outs(self) -> tuple[Out, ...]:
        return CATALOGUE["feature-extraction"].outs[0], Out("mask", ("batch", self.patches), "number")

    def encoded(self, pixel_values: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """States of what is seen, and which one each patch is in the order of the noise, [B, P]."""
        x, places = self.model.embeddings(pixel_values), torch.arange(self.patches, device=noise.device)
        # How many come before each one; of equal ones the first does.
        one, other = noise[:, :, None], noise[:, None, :]
        before = torch.logical_or(other < one, torch.logical_and(other == one, places < places[:, None]))
        order = before.to(torch.int64).sum(dim=-1)
        seen = order.topk(self.seen, largest=False).indices[:, :, None].expand(-1, -1, x.shape[-1])
        return self.model.stack(torch.cat((x[:, :1], x[:, 1:].gather(1, seen)), dim=1)), order

    def forward(self, pixel_values: Tensor, noise: Tensor) -> dict[str, Tensor]:
        states, order = self.encoded(pixel_values, noise)
        return {"last_hidden_state": states, "mask": (order >= self.seen).to(states.dtype)}


class _Decoder(nn.Module):
    """States of the first token and of patches that are seen [B, 1 + K, H], and the order of all patches [B, P] -> what
    pixels each patch has, [B, P, side^2 * C]: one token stands for those that are masked."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        size, self.seen = spec.decoder_hidden_size, spec.seen
        self.embed = nn.Linear(spec.hidden_size, size)
        self.mask_token = nn.Parameter(torch.empty(1, 1, size))
        self.positions = nn.Parameter(torch.empty(1, 1 + spec.patches, size))
        own = replace(
            spec,
            hidden_size=size,
            num_hidden_layers=spec.decoder_num_hidden_layers,
            num_attention_heads=spec.decoder_num_attention_heads,
            intermediate_size=spec.decoder_intermediate_size,
        )
        self.stack = stack(own, bias=spec.qkv_bias)
        self.pixels = nn.Linear(size, spec.patch_size**2 * spec.num_channels)

    def forward(self, states: Tensor, order: Tensor) -> Tensor:
        x = self.embed(states)
        every = torch.cat((x[:, 1:], self.mask_token.expand(x.shape[0], -1, -1)), dim=1)
        patches = every.gather(1, order.clamp(max=self.seen)[:, :, None].expand(-1, -1, x.shape[-1]))
        return self.pixels(self.stack(torch.cat((x[:, :1], patches), dim=1) + self.positions))[:, 1:]


class _Drawn(_Masked):
    """And {"logits": [B, P, side^2 * C], the pixels of every patch, "mask", "ids_restore": [B, P]}."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.drawing = _Decoder(spec)

    def outs(self) -> tuple[Out, ...]:
        return CATALOGUE["pretraining"].outs

    def forward(self, pixel_values: Tensor, noise: Tensor) -> dict[str, Tensor]:
        states, order = self.encoded(pixel_values, noise)
        mask = (order >= self.seen).to(states.dtype)
        return {"logits": self.drawing(states, order), "mask": mask, "ids_restore": order}


def _base(spec: Spec, absent: frozenset[str]) -> nn.Module:
    return _Masked(spec) if spec.mask_ratio else vit_msn.base(spec, absent)


def _weights(spec: Spec) -> tuple[Rule, ...]:
    new = {"embed": "embed", "pos_embed": "positions", "norm": "stack.norm", "pred": "pixels"}
    return (
        *(Rename(f"decoder.decoder_{old}*", f"drawing.{name}*") for old, name in new.items()),
        vit.layer_names("decoder.decoder_layers.{}.", "drawing.stack.layers.{}."),
        Rename("decoder.mask_token", "drawing.mask_token"),
        *vit.model_names("vit"),
    )


FAMILY = replace(
    vit.FAMILY,
    spec=Spec,
    heads={heads.BASE: _base, heads.PRETRAINING: lambda spec, absent: _Drawn(spec)},
    weights=_weights,
    optional=(),
    inert=frozenset({"norm_pix_loss"}),
    tiny={**vit.FAMILY.tiny, "decoder_hidden_size": 20, "decoder_num_hidden_layers": 1}
    | {"decoder_num_attention_heads": 2, "decoder_intermediate_size": 24},
    variations=({**vit.FAMILY.variations[0], "mask_ratio": 0.3}, {"mask_ratio": 0.99, "num_hidden_layers": 1}),
)
