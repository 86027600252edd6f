"""InstructBLIP: BLIP-2 whose queries read what is asked of the picture too. https://arxiv.org/abs/2305.06500"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from precast.export import heads
from precast.export.families import blip_2
from precast.export.skeletons import querying
from precast.export.skeletons.joined import Seen, joined
from precast.export.skeletons.querying import Querying
from precast.runtime.generation.among import FEATURES
from precast.runtime.ports import Dim, Port

__all__ = ["FAMILY"]

_TEXT = ("images", "instruction")


class _Seen(Seen):
    """Pixels [I, C, H, W], a text beside each and its mask [I, T] -> features."""

    def __init__(self, model: nn.Module, project: Querying, width: int, words: int, longest: int) -> None:
        super().__init__(model, project, width)
        self.words, self.longest = words, longest

    def ports(self) -> tuple[Port, ...]:
        ids = Port("qformer_input_ids", "int64", _TEXT, "ids", below=self.words)
        return (*super().ports(), ids, Port("qformer_attention_mask", "int64", _TEXT, "mask", default=1))

    def dims(self) -> dict[str, Dim]:
        return {"instruction": Dim(most=self.longest)}

    def of_picture(self) -> int:
        queries: Tensor = self.project.queries  # type: ignore[assignment]
        return queries.shape[1]

    def forward(  # type: ignore[override]
        self, pixel_values: Tensor, qformer_input_ids: Tensor, qformer_attention_mask: Tensor
    ) -> dict[str, Tensor]:
        found = self.project(self.model(pixel_values), qformer_input_ids, qformer_attention_mask)
        return {FEATURES: found.flatten(0, 1)}


def _compose(spec: blip_2.Spec, absent: frozenset[str]) -> nn.Module:
    width, own = spec.text.spec.hidden_size, spec.qformer_config
    found = Querying(own, spec.vision_config.hidden_size, width, spec.num_query_tokens, text=True)
    vision: Any = querying.vision(spec.vision_config)
    seen = _Seen(vision, found, width, own.vocab_size, own.max_position_embeddings)
    return joined(seen, spec.text, spec.image_token_id)


FAMILY = replace(blip_2.FAMILY, model_type=None, heads={heads.IMAGE_TEXT: _compose})
