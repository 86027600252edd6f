"""DINOv2 with registers: tokens that stand for no patch, and positions that are smoothed where there are fewer of them.
https://arxiv.org/abs/2309.16588"""

from __future__ import annotations

from dataclasses import dataclass, replace

from precast.export.families import dinov2
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule

__all__ = ["FAMILY", "Spec"]


@dataclass(frozen=True, kw_only=True)
class Spec(dinov2.Spec):
    patch_size: int = hf(default=16)
    num_register_tokens: int = hf(default=4)

    @property
    def registers(self) -> int:
        return self.num_register_tokens

    @property
    def antialias(self) -> bool:
        return True


def _weights(spec: Spec) -> tuple[Rule, ...]:
    tokens = "embeddings.register_tokens"
    rule = Rename(tokens, "model.embeddings.registers") if spec.registers else Ignore(tokens)
    return (*dinov2.names("dinov2_with_registers"), rule)


FAMILY = replace(
    dinov2.FAMILY,
    spec=Spec,
    weights=_weights,
    variations=({**dinov2.FAMILY.variations[0], "num_register_tokens": 3},),
)
