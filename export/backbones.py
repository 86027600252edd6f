"""The backbone inside a larger model, as its config.json names it: a family's body here, or one of timm's by its name.

A family with a ``body`` can stand inside: its own spec reads the object ``backbone_config``, and its own
rules name the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from precast.export.blocks.convolution import MapNorm
from precast.export.families import Family, LabelSpec, find_family
from precast.export.skeletons.backbone import Backbone
from precast.export.spec import hf
from precast.export.weights import Rename, Rule, Within
from precast.runtime.errors import ConfigError, closest, listing
from precast.runtime.ports import Dim, Port

__all__ = ["BackboneSpec", "FeatureMaps", "Inner", "read_inner"]

_TIMM = "timm_backbone"
# What MaskFormer calls a Swin, whose maps are read in front of what makes them smaller, as all backbones' are.
_SPELLED = {"maskformer-swin": "swin"}
# What loading, training and the way to a backbone's weights are told by.
_UNREAD = frozenset({"model_type", "backbone", "features_only", "use_pretrained_backbone", "freeze_batch_norm_2d"})
_UNREAD |= frozenset({"use_timm_backbone", "output_stride"})
# A backbone has no words, whatever is said of them.
_WORDS = "tie_word_embeddings"


def _residual(layer: str, *depths: int) -> Mapping[str, Any]:
    widths = [64, 128, 256, 512] if layer == "basic" else [256, 512, 1024, 2048]
    return {"model_type": "resnet", "layer_type": layer, "depths": list(depths), "hidden_sizes": widths}


# timm's names of networks, as configs of families here.
TIMM: Mapping[str, Mapping[str, Any]] = {
    "resnet18": _residual("basic", 2, 2, 2, 2),
    "resnet34": _residual("basic", 3, 4, 6, 3),
    "resnet50": _residual("bottleneck", 3, 4, 6, 3),
    "resnet101": _residual("bottleneck", 3, 4, 23, 3),
    "resnet152": _residual("bottleneck", 3, 8, 36, 3),
}


class FeatureMaps(nn.Module):
    """Pixels [B, C, H, W] -> those of a backbone's maps that ``taken`` numbers, what its stem makes being number 0.

    Args:
        norms: behind each of them; none: they are taken as they are. least: the smallest side of a picture.
    """

    def __init__(self, model: Backbone, taken: Sequence[int], norms: Sequence[nn.Module] = (), least: int = 1) -> None:
        super().__init__()
        self.model, self.taken, self.least = model, tuple(taken), least
        self.norms = nn.ModuleList(norms)

    def ports(self) -> tuple[Port, ...]:
        """A picture."""
        return self.model.ports()

    def bounds(self) -> dict[str, Dim]:
        """Of the picture's sides, where they are free."""
        return {} if self.model.image is not None else dict.fromkeys(("height", "width"), Dim(self.least))

    def maps(self, pixel_values: Tensor) -> list[Tensor]:
        """Those maps."""
        maps = self.model.maps(pixel_values, 1 + max(self.taken))
        made = [maps[number] for number in self.taken]
        return [norm(each) for norm, each in zip(self.norms, made, strict=True)] if self.norms else made

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        return self.maps(pixel_values)


@dataclass(frozen=True)
class Inner:
    """A backbone that is part of a model.

    Args:
        said: what config.json says of it.
        widths: channels of all its states, of the stem's too. taken: the numbers of those that the model reads.
        timm: weights have timm's names.
    """

    family: Family
    spec: Any
    said: Mapping[str, Any]
    widths: tuple[int, ...]
    taken: tuple[int, ...]
    timm: bool

    @property
    def kind(self) -> str:
        """Its ``model_type``."""
        return str(self.said["model_type"])

    @property
    def channels(self) -> tuple[int, ...]:
        """Of the maps that the model reads."""
        return tuple(self.widths[number] for number in self.taken)

    @property
    def strides(self) -> tuple[int, ...]:
        """Of the maps that the model reads: how many pixels of a side a place stands for."""
        side = 1 << 10
        with torch.device("meta"), torch.no_grad():
            maps = self.build()(torch.empty(1, self.spec.num_channels, side, side))
        return tuple(side // each.shape[-1] for each in maps)

    def body(self, **options: Any) -> Any:
        """Its network, a `Backbone` or patches in an `ImageModel`."""
        assert self.family.body is not None
        return self.family.body(self.spec, **options)

    def build(self, least: int = 1) -> FeatureMaps:
        """What the model reads of stages.

        Args:
            least: places a side of the last map, at the least.

        Raises:
            ConfigError: it has no stages.
        """
        made = self.body()
        if not isinstance(made, Backbone):
            raise ConfigError(f"a backbone of model_type {self.kind!r} has patches of one size, and stages are wanted")
        made.last = None  # which is behind the maps
        norms = () if made.norm is None else [MapNorm(width, made.norm) for width in self.channels]
        return FeatureMaps(made, self.taken, norms, least * made.least)

    def names(self, prefix: str, to: str) -> Within:
        """Rules for its weights behind ``prefix``; ``to``: where the `FeatureMaps`, or what holds its model, are."""
        norms = (
            Rename(f"hidden_states_norms.{name}.*", f"norms.{number}.*")
            for number, place in enumerate(self.taken)
            for name in (_stage(place), place - 1)  # transformers', and those of MaskFormer's own Swin
        )
        own = (Rename("model.*", "*"), *norms, *self.family.weights(self.spec), *self.family.body_names(self.spec))
        return Within(prefix, (*_timm_names(len(self.widths) - 1), *own) if self.timm else own, to=to)


@dataclass(frozen=True, kw_only=True)
class BackboneSpec(LabelSpec):
    """What models around a backbone say of it."""

    num_channels: int = hf(default=3)
    backbone_config: dict[str, Any] | None = hf(default=None)
    backbone: str | None = hf(default=None)
    backbone_kwargs: dict[str, Any] | None = hf(default=None)
    use_timm_backbone: bool = hf(default=True)
    dilation: bool = hf(default=False, only=(False,))

    def __post_init__(self) -> None:
        assert self.inner

    @property
    def usual(self) -> Mapping[str, Any]:
        """The ``backbone_config`` of checkpoints that say nothing of theirs."""
        if not self.use_timm_backbone:
            return {"model_type": "resnet", "out_features": ["stage4"]}
        options = self.backbone_kwargs or {}
        return {
            "model_type": _TIMM,
            "backbone": self.backbone or "resnet50",
            "num_channels": options.get("num_channels", self.num_channels),
            "out_indices": options.get("out_indices", [1, 2, 3, 4]),
            **{key: value for key, value in options.items() if key not in ("num_channels", "out_indices")},
        }

    @cached_property
    def inner(self) -> Inner:
        """The backbone.

        Raises:
            ConfigError: it is none that is known here, or asks for what is not honoured.
        """
        return read_inner(self.backbone_config or self.usual)


def read_inner(said: Mapping[str, Any]) -> Inner:
    """The backbone that an object ``backbone_config`` says; raises ConfigError."""
    kind = said.get("model_type")
    if kind == _TIMM:
        name = said.get("backbone")
        if name not in TIMM:
            raise ConfigError(
                f"the backbone {name!r} of timm is not known here. {closest(str(name), TIMM)} Known: {listing(TIMM)}."
            )
        if said.get("output_stride") not in (None, 32):
            raise ConfigError("a backbone whose output_stride is not 32 (dilation) is not honoured here")
        own = {**TIMM[str(name)], **{key: value for key, value in said.items() if key not in _UNREAD}}
    else:
        own = {key: value for key, value in said.items() if key != _WORDS}
        own |= {"model_type": _SPELLED.get(str(kind), kind)}
    family = find_family(own["model_type"] if isinstance(own.get("model_type"), str) else kind)
    if family.body is None:
        raise ConfigError(f"a backbone of model_type {kind!r} cannot stand inside another model here")
    spec: Any = family.read(own)
    widths = spec.widths
    return Inner(family, spec, said, widths, _taken(said, len(widths)), kind == _TIMM)


def _stage(number: int) -> str:
    """Upstream's name of what makes a state."""
    return f"stage{number}" if number else "stem"


def _taken(said: Mapping[str, Any], count: int) -> tuple[int, ...]:
    """Numbers of the maps that are asked for by name or by number; of none, the last."""
    names = [_stage(number) for number in range(count)]
    asked, numbers = (said.get(key, said.get(f"_{key}")) for key in ("out_features", "out_indices"))
    found = [count - 1]
    if asked is not None or numbers is not None:
        every = asked if asked is not None else numbers
        if not isinstance(every, (list, tuple)) or not every:
            raise ConfigError(f"a backbone's out_features and out_indices are lists; received {every!r:.80}")
        known: Sequence[Any] = names if asked is not None else range(-count, count)
        if any(each not in known for each in every):
            raise ConfigError(f"a backbone's maps are {listing(names)}; asked for are {every!r:.80}")
        found = [names.index(each) if asked is not None else each % count for each in every]
    return tuple(sorted(found))


def _timm_names(stages: int) -> tuple[Rule, ...]:
    """timm's names of a residual network, as transformers' are."""
    parts = (("conv{}", "convolution"), ("bn{}", "normalization"))
    return (
        *(Rename(f"{old.format(1)}.*", f"embedder.embedder.{new}.*") for old, new in parts),
        *(
            Rename(
                f"layer{stage + 1}.{{}}.{old.format(layer + 1)}.*",
                f"encoder.stages.{stage}.layers.{{}}.layer.{layer}.{new}.*",
            )
            for stage in range(stages)
            for layer in range(3)
            for old, new in parts
        ),
        *(
            Rename(
                f"layer{stage + 1}.{{}}.downsample.{place}.*", f"encoder.stages.{stage}.layers.{{}}.shortcut.{new}.*"
            )
            for stage in range(stages)
            for place, (_, new) in enumerate(parts)
        ),
    )
