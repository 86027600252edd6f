"""RT-DETR v2: RT-DETR whose config says how far objects look. https://arxiv.org/abs/2407.17140"""

from __future__ import annotations

from dataclasses import dataclass, replace

from precast.export.families import rt_detr
from precast.export.spec import hf
from precast.export.weights import Ignore, Rule
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY", "Spec"]


@dataclass(frozen=True, kw_only=True)
class Spec(rt_detr.Spec):
    decoder_n_levels: int = hf(default=3)
    decoder_offset_scale: float = hf(default=0.5)
    # The other one, "discrete", reads the nearest places.
    decoder_method: str = hf(default="default", only=("default",))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decoder_n_levels != self.num_feature_levels:
            raise ConfigError(
                f"'decoder_n_levels' are the maps that objects look at, 'num_feature_levels' "
                f"{self.num_feature_levels}; received {self.decoder_n_levels}"
            )

    @property
    def reach(self) -> float:
        return self.decoder_offset_scale / self.decoder_n_points


def _weights(spec: Spec) -> tuple[Rule, ...]:
    # One over the number of points, which config.json says.
    return (Ignore("*.n_points_scale"), *rt_detr.FAMILY.weights(spec))


FAMILY = replace(
    rt_detr.FAMILY,
    spec=Spec,
    weights=_weights,
    tiny=rt_detr.FAMILY.tiny | {"decoder_n_levels": 2, "decoder_offset_scale": 0.7},  # type: ignore[operator]
)
