"""A decoder that has what another component perceives among its tokens: any family of decoders behind any of pictures.

Two components: ``vision`` makes features, and ``decoder`` is that of a language model, which reads them where its
prompt's tokens hold places for them. https://arxiv.org/abs/2304.08485"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from precast.export.components import Composite
from precast.export.families import Family, find_family
from precast.export.generative import DECODER, CausalLM, Joined
from precast.export.heads import CAUSAL_LM
from precast.export.signatures import Component
from precast.export.spec import Spec as Base
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Within
from precast.runtime.errors import ConfigError
from precast.runtime.generation.among import FEATURES
from precast.runtime.generation.tiles import Tiles
from precast.runtime.ports import Out, Port
from precast.runtime.processors.joint import Spelled

__all__ = [
    "VISION",
    "InnerDecoder",
    "InnerVision",
    "JoinedSpec",
    "Seen",
    "WritingSpec",
    "joined",
    "names",
    "text_names",
]

VISION = "vision"


@dataclass(frozen=True)
class InnerDecoder:
    """The language model inside: a family of decoders here, and its spec."""

    family: Family
    spec: Any

    @classmethod
    def read(cls, said: Mapping[str, Any], usual: str, tied: bool | None) -> InnerDecoder:
        """Of an object ``text_config``; ``tied``: what the whole model says of its words and its head, None: nothing.

        Raises:
            UnsupportedModelError, ConfigError: its family is not known here, or writes no texts.
        """
        kind = said.get("model_type", usual)
        family = find_family(kind)
        if CAUSAL_LM not in family.heads:
            raise ConfigError(f"text_config's model_type {kind!r} is no decoder that continues texts here")
        return cls(family, family.read({**said, **({} if tied is None else {"tie_word_embeddings": tied})}))

    def build(self) -> CausalLM:
        """Its model."""
        made = self.family.heads[CAUSAL_LM](self.spec, frozenset())
        assert isinstance(made, CausalLM)
        return made

    def names(self, prefix: str) -> Within:
        """Rules for its weights, which its own checkpoints hold without ``prefix``."""
        return Within(prefix, self.family.weights(self.spec), to=f"{DECODER}.")


@dataclass(frozen=True)
class InnerVision:
    """What sees: a family here whose body has states of patches, and its spec."""

    family: Family
    spec: Any

    @classmethod
    def read(cls, said: Mapping[str, Any], usual: str) -> InnerVision:
        """Of an object ``vision_config``; raises as `InnerDecoder.read`."""
        kind = said.get("model_type", usual)
        family = find_family(kind)
        if family.body is None:
            raise ConfigError(f"vision_config's model_type {kind!r} cannot stand inside another model here")
        return cls(family, family.read(said))

    def build(self) -> Any:
        """Its network, an `ImageModel`."""
        assert self.family.body is not None
        return self.family.body(self.spec)

    def names(self, prefix: str) -> Within:
        """Rules for its weights behind ``prefix``."""
        # One vector of a whole picture nobody reads here.
        own = (Rename("vision_model.*", "*"), *self.family.weights(self.spec), Ignore("pooler.*"), Ignore("head.*"))
        return Within(prefix, own, to=f"{VISION}.")


@dataclass(frozen=True, kw_only=True)
class WritingSpec(Base):
    """What models say of the decoder inside; a family names its kind where they say none."""

    text_config: dict[str, Any] | None = hf(default=None)
    image_token_id: int = hf(("image_token_id", "image_token_index"), default=32000)
    tie_word_embeddings: bool | None = hf(default=None)

    usual_text: ClassVar[str] = "llama"
    # What stands for a text_config that is not there; and what nobody reads of one that is.
    unsaid: ClassVar[Mapping[str, Any]] = {}
    unread: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        assert self.text

    @cached_property
    def text(self) -> InnerDecoder:
        said = self.unsaid if self.text_config is None else self.text_config
        read = {key: value for key, value in said.items() if key not in self.unread}
        return InnerDecoder.read(read, self.usual_text, self.tie_word_embeddings)


@dataclass(frozen=True, kw_only=True)
class JoinedSpec(WritingSpec):
    """And of what sees."""

    vision_config: dict[str, Any] | None = hf(default=None)

    usual_vision: ClassVar[str] = "clip_vision_model"

    def __post_init__(self) -> None:
        super().__post_init__()
        assert self.vision

    @cached_property
    def vision(self) -> InnerVision:
        return InnerVision.read(self.vision_config or {}, self.usual_vision)


class Seen(Component):
    """Pixels [I, C, H, W] -> {"features": [F, H]}: of each picture a row of ``project``'s after another.

    Args:
        model: makes states of pictures. layers: of which layers they are taken, counted from 1, beside each other;
            none: those behind the last one, as the model makes them. skip: states in front of those of patches.
        project: makes the decoder's features [I, P, H] of them. width: H.
    """

    def __init__(
        self, model: Any, project: nn.Module, width: int, *, layers: Sequence[int] = (), skip: int = 0
    ) -> None:
        super().__init__()
        self.model, self.project = model, project
        self.width, self.layers, self.skip = width, tuple(layers), skip

    def ports(self) -> tuple[Port, ...]:
        return tuple(port._replace(shape=("images", *port.shape[1:])) for port in self.model.ports())

    def outs(self) -> tuple[Out, ...]:
        return (Out(FEATURES, (FEATURES, self.width), "states"),)

    def of_picture(self) -> int:
        """How many features one picture has, of models of one size."""
        with torch.device("meta"), torch.no_grad():
            sizes: list[Any] = [port.shape[1:] for port in self.ports()]
            return int(self(*(torch.empty(1, *size) for size in sizes))[FEATURES].shape[0])

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        if self.layers:
            made = dict(zip(sorted(set(self.layers)), self.model.states(pixel_values, self.layers), strict=True))
            states = torch.cat([made[layer][:, self.skip :] for layer in self.layers], dim=-1)
        else:
            states = self.model(pixel_values)[:, self.skip :]
        return {FEATURES: self.project(states).flatten(0, 1)}


def joined(
    vision: Seen, text: InnerDecoder, token: int, tiles: Tiles | None = None, spelled: Spelled | None = None
) -> Composite:
    """The two, wired: features stand where tokens ``token`` are, those of ``tiles`` in their order; ``spelled``: what
    stands around them."""
    decoder = text.build()
    count = vision.of_picture() if tiles is None else len(tiles.order(tiles.tile, tiles.tile))
    decoder.joined = Joined(VISION, token, vision.width, count, tiles, spelled)
    return Composite({VISION: vision, DECODER: decoder})


def text_names(spec: WritingSpec) -> tuple[Rule, ...]:
    """From checkpoints of transformers 5 and 4 to the decoder."""
    return (
        Rename("model.language_model.*", "language_model.model.*"),
        Rename("lm_head.*", "language_model.lm_head.*"),
        spec.text.names("language_model."),
    )


def names(spec: JoinedSpec, *others: Rule, tower: str = "vision_tower") -> tuple[Rule, ...]:
    """And to the model; ``others`` are a family's own."""
    return (
        *text_names(spec),
        Rename(f"model.{tower}.*", f"{tower}.*"),
        *others,
        spec.vision.names(f"{tower}."),
    )
