"""ViT-MAE: ViT over the patches of a picture that are not masked. https://arxiv.org/abs/2111.06377

Which ones these are chance decides upstream; here, and there if it is given, ``noise`` does: patches are seen in its
order, the smallest first, as many as ``mask_ratio`` leaves. Where that is 0 all are seen, in the picture's order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from precast.export import heads
from precast.export.families import vit, vit_msn
from precast.export.signatures import Component
from precast.export.spec import hf
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


class _Masked(Component):
    """Pixels, noise [B, P] -> {"last_hidden_state": [B, 1 + K, H], "mask": [B, P], 1 for what is masked}.

    Where each patch comes, upstream's ``ids_restore``, is the order of the noise, which the caller has."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.model = vit.body(spec)
        self.patches = (spec.image_size // spec.patch_size) ** 2
        self.seen = int(self.patches * (1 - spec.mask_ratio))

    def ports(self) -> tuple[Port, ...]:
        return (*self.model.ports(), Port("noise", "float32", ("batch", self.patches), "features"))

    def outs(self) -> tuple[Out, ...]:
        return CATALOGUE["feature-extraction"].outs[0], Out("mask", ("batch", self.patches), "number")

    def forward(self, pixel_values: Tensor, noise: Tensor) -> dict[str, Tensor]:
        x, places = self.model.embeddings(pixel_values), torch.arange(self.patches, device=noise.device)
        # How many come before each one; of equal ones the first does.
        one, other = noise[:, :, None], noise[:, None, :]
        before = (other < one) | ((other == one) & (places < places[:, None]))
        order = before.to(torch.int64).sum(dim=-1)
        seen = order.topk(self.seen, largest=False).indices[:, :, None].expand(-1, -1, x.shape[-1])
        states = self.model.stack(torch.cat((x[:, :1], x[:, 1:].gather(1, seen)), dim=1))
        return {"last_hidden_state": states, "mask": (order >= self.seen).to(x.dtype)}


def _base(spec: Spec, absent: frozenset[str]) -> nn.Module:
    return _Masked(spec) if spec.mask_ratio else vit_msn.base(spec, absent)


FAMILY = replace(
    vit.FAMILY,
    spec=Spec,
    heads={heads.BASE: _base},
    weights=lambda spec: vit.model_names("vit"),
    optional=(),
    inert=frozenset(
        """decoder_hidden_size decoder_intermediate_size decoder_num_attention_heads decoder_num_hidden_layers
        norm_pix_loss""".split()
    ),
    refused={"ForPreTraining": "an encoder with what training alone needs: the encoder is task='feature-extraction'"},
    variations=({**vit.FAMILY.variations[0], "mask_ratio": 0.3}, {"mask_ratio": 0.99, "num_hidden_layers": 1}),
)
