"""BLIP-2: a decoder that reads what a few learned queries have found in a picture. https://arxiv.org/abs/2301.12597"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from torch import nn

from precast.export import heads
from precast.export.families import Family, llama, opt
from precast.export.skeletons import querying
from precast.export.skeletons.joined import InnerDecoder, Seen, WritingSpec, joined
from precast.export.skeletons.querying import Querying, QuerySpec, VisionSpec
from precast.export.spec import hf
from precast.export.weights import Rule
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY", "Spec", "weights"]


@dataclass(frozen=True, kw_only=True)
class Spec(WritingSpec):
    vision_config: VisionSpec = hf(default={}, spec=VisionSpec, inert=querying.INERT)
    qformer_config: QuerySpec = hf(default={}, spec=QuerySpec, inert=querying.INERT)
    num_query_tokens: int = hf(default=32)
    image_token_id: int = hf(("image_token_id", "image_token_index"))
    # What text_config's model says itself: one with an encoder is refused by its name.
    is_encoder_decoder: bool = hf(default=False)

    usual_text: ClassVar[str] = "opt"

    def __post_init__(self) -> None:
        super().__post_init__()
        size = self.text.spec.hidden_size
        if getattr(self.text.spec, "words", size) != size:
            raise ConfigError(
                f"'text_config.word_embed_proj_dim' {self.text.spec.words} must be 'hidden_size' {size}: what is found "
                "in a picture stands among words"
            )

    @cached_property
    def text(self) -> InnerDecoder:
        return InnerDecoder.read(self.text_config or {}, self.usual_text, None)


def _compose(spec: Spec, absent: frozenset[str]) -> nn.Module:
    width, source = spec.text.spec.hidden_size, spec.vision_config.hidden_size
    found = Querying(spec.qformer_config, source, width, spec.num_query_tokens)
    return joined(Seen(querying.vision(spec.vision_config), found, width), spec.text, spec.image_token_id)


def weights(spec: Spec) -> tuple[Rule, ...]:
    """Of it and of InstructBLIP."""
    return (
        *querying.vision_names("vision.model."),
        *querying.query_names("vision.project."),
        spec.text.names("language_model."),
    )


FAMILY = Family(
    model_type="blip-2",
    spec=Spec,
    heads={heads.IMAGE_TEXT: _compose},
    weights=weights,
    # Heads that find texts of pictures; what text_config says anyhow; first weights.
    inert=frozenset({"image_text_hidden_size", "use_decoder_only_language_model", "initializer_factor"}),
    final_norm=True,
    tiny={
        "text_config": {**opt.FAMILY.tiny, "model_type": "opt"},
        "vision_config": querying.VISION_TINY,
        "qformer_config": querying.QUERY_TINY,
        "num_query_tokens": 3,
        "image_token_index": 98,
    },
    variations=(
        {
            "text_config": {**llama.FAMILY.tiny, "model_type": "llama", "num_hidden_layers": 1, "hidden_size": 24},
            "vision_config": querying.VISION_ODD,
            "qformer_config": querying.QUERY_ODD,
            "num_query_tokens": 2,
            "image_token_index": 3,
        },
    ),
)
