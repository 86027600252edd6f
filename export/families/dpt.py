"""DPT: a decoder that fuses what some layers make of a picture; depth, or labels of every place.
https://arxiv.org/abs/2103.13413

The layers are a ViT's, over patches or over what a BiT makes of the picture ("hybrid"), or those of a backbone of its
own, over pictures of any size. https://arxiv.org/abs/2307.14460
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export import heads
from precast.export.backbones import FeatureMaps, Inner, read_inner
from precast.export.blocks.activations import Activation
from precast.export.blocks.convolution import COUNTERS, BatchNorm
from precast.export.blocks.patches import rows_of
from precast.export.families import vit
from precast.export.head_sets.dense import DepthEstimation, SemanticSegmentation
from precast.export.head_sets.fusion import FusionNeck, PatchMaps, neck_names
from precast.export.image_heads import ImageFeatures, ImageModel
from precast.export.operators import resized
from precast.export.signatures import Component
from precast.export.skeletons.stack import stack
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Split
from precast.runtime.errors import ConfigError
from precast.runtime.ports import Dim, Port

__all__ = ["FAMILY"]

_NARROW = 32  # channels of the depth's last map but one
_EARLY = 2  # maps of a hybrid's backbone that are fused with what layers make
# What a hybrid stands on that says nothing of its backbone.
_BIT: dict[str, object] = {"model_type": "bit", "global_padding": "same", "layer_type": "bottleneck"}
_BIT |= {"depths": [3, 4, 9], "out_features": ["stage1", "stage2", "stage3"], "embedding_dynamic_padding": True}
_READOUTS = "neck.reassemble_stage.readout_projects.{}.0"
_STAGES, _PATCHES = ("swinv2",), ("beit", "dinov2")  # kinds of backbones that are not a hybrid's


@dataclass(frozen=True, kw_only=True)
class Spec(vit.Spec):
    image_size: int = hf(default=384)
    is_hybrid: bool = hf(default=False)
    backbone: str | None = hf(default=None, only=(None,))
    backbone_config: dict[str, object] | None = hf(default=None)
    neck_ignore_stages: tuple[int, ...] = hf(default=(0, 1), read=tuple)
    backbone_out_indices: tuple[int, ...] = hf(default=(2, 5, 8, 11), read=tuple)
    readout_type: str = hf(default="project", only=("project", "add", "ignore"))
    reassemble_factors: tuple[float, ...] = hf(default=(4, 2, 1, 0.5), read=tuple)
    neck_hidden_sizes: tuple[int, ...] = hf(default=(96, 192, 384, 768), read=tuple)
    fusion_hidden_size: int = hf(default=256)
    head_in_index: int = hf(default=-1, only=(-1,))
    use_batch_norm_in_fusion_residual: bool | None = hf(default=False)
    use_bias_in_fusion_residual: bool | None = hf(default=None)
    add_projection: bool = hf(default=False)

    def __post_init__(self) -> None:
        inner, kinds = self.inner, ("bit",) if self.is_hybrid else (*_STAGES, *_PATCHES)
        if self.is_hybrid and self.readout_type != "project":
            raise ConfigError(f"'readout_type' is {self.readout_type!r}, and of a hybrid only 'project' is honoured")
        if self.is_hybrid and self.neck_ignore_stages != (0, 1):
            raise ConfigError(f"'neck_ignore_stages' are {self.neck_ignore_stages}, and of a hybrid always (0, 1)")
        if inner is None:
            return
        if inner.kind not in kinds:
            raise ConfigError(
                f"a backbone of model_type {inner.kind!r} is not honoured here; known: {', '.join(kinds)}"
            )
        if inner.kind in _PATCHES and inner.said.get("reshape_hidden_states", True):
            raise ConfigError("'reshape_hidden_states' of 'backbone_config' is true, which leaves out the first token")
        if inner.said.get("add_fpn"):
            raise ConfigError("'add_fpn' of 'backbone_config' is true, which is not honoured here")
        if len(inner.taken) != (wanted := 3 if self.is_hybrid else len(self.neck_hidden_sizes)):
            raise ConfigError(f"'backbone_config' names {len(inner.taken)} states, and {wanted} are wanted")

    @cached_property
    def inner(self) -> Inner | None:
        """What stands in front of the layers, or in their place."""
        said = self.backbone_config
        if self.is_hybrid:
            return read_inner({"model_type": "bit", **said} if said else _BIT)
        return read_inner(said) if said else None

    @property
    def ready(self) -> int:
        """The first so many maps have their sizes already."""
        if self.is_hybrid:
            return _EARLY
        return len(self.neck_hidden_sizes) if self.inner is not None and self.inner.kind in _STAGES else 0

    @property
    def size(self) -> int:
        """Channels of the states that maps are made of."""
        return self.hidden_size if self.inner is None or self.is_hybrid else self.inner.channels[-1]

    @property
    def norm(self) -> bool:
        """Batch norms follow convolutions of residual units."""
        return bool(self.use_batch_norm_in_fusion_residual)

    @property
    def taps(self) -> tuple[int, ...]:
        """Layers whose states are fused, counted from 1."""
        named = self.backbone_out_indices[self.ready :]
        found = sorted({index + 1 for index in named if 0 <= index < self.num_hidden_layers})
        if len(found) + self.ready != len(self.neck_hidden_sizes):
            raise ConfigError(
                f"'backbone_out_indices' {self.backbone_out_indices} name {len(found) + self.ready} maps, and "
                f"'neck_hidden_sizes' are {len(self.neck_hidden_sizes)}: each has one of either"
            )
        return tuple(found)


class _Added(nn.Module):
    """States [B, S, H] -> those behind the first, which is added to each, [B, S - 1, H]."""

    def forward(self, states: Tensor) -> Tensor:
        return states[:, 1:] + states[:, :1]


class _Projected(nn.Module):
    """States [B, S, H] -> act(a projection of each behind the first beside that), [B, S - 1, H]."""

    def __init__(self, size: int, act: Activation) -> None:
        super().__init__()
        self.act, self.patch, self.token = act, nn.Linear(size, size), nn.Linear(size, size, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        return self.act(self.patch(states[:, 1:]) + self.token(states[:, :1]))


def _norms(inner: Inner) -> bool:
    """The norm behind the last layer follows each state that is read."""
    return inner.kind == "dinov2" and bool(inner.said.get("apply_layernorm", True))


def _readouts(spec: Spec, count: int) -> list[nn.Module] | None:
    if spec.readout_type == "ignore":
        return None
    size, added = spec.size, spec.readout_type == "add"
    return [_Added() if added else _Projected(size, spec.hidden_act) for _ in range(count)]


class _Convolved(nn.Module):
    """Pixels -> a row for each place of a backbone's last map, behind a learned token, with positions, [B, S, H]."""

    def __init__(self, spec: Spec, inner: Inner) -> None:
        super().__init__()
        self.image, self.channels, places = (
            spec.image_size,
            spec.num_channels,
            (spec.image_size // spec.patch_size) ** 2,
        )
        if inner.strides[-1] != spec.patch_size or spec.image_size % spec.patch_size:
            raise ConfigError(
                f"a place of the backbone's last map is {inner.strides[-1]} pixels wide; 'patch_size' "
                f"{spec.patch_size} must be that, and divide 'image_size' {spec.image_size}"
            )
        self.backbone = inner.build()
        self.projection = nn.Conv2d(inner.channels[-1], spec.hidden_size, 1)
        self.cls_token = nn.Parameter(torch.empty(1, 1, spec.hidden_size))
        self.positions = nn.Parameter(torch.empty(1, 1 + places, spec.hidden_size))

    def ports(self) -> tuple[Port, ...]:
        return (Port("pixel_values", "float32", ("batch", self.channels, self.image, self.image), "pixels"),)

    def with_maps(self, pixel_values: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Rows, and the maps before the last."""
        *early, last = self.backbone.maps(pixel_values)
        rows = rows_of(self.projection(last))
        return torch.cat((self.cls_token.expand(rows.shape[0], -1, -1), rows), dim=1) + self.positions, early

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.with_maps(pixel_values)[0]


class _HybridMaps(PatchMaps):
    """And the maps of the backbone before its last one in front."""

    def maps(self, pixel_values: Tensor) -> list[Tensor]:
        x, early = self.embeddings.with_maps(pixel_values)  # type: ignore[operator]
        states = self.stack.states(x, layers=self.layers)  # type: ignore[operator]
        return [*early, *self.as_maps(states, pixel_values)]


def _hybrid(spec: Spec, inner: Inner, *, normed: bool) -> ImageModel:
    return ImageModel(_Convolved(spec, inner), stack(spec, bias=spec.qkv_bias, normed=normed))


def _body(spec: Spec) -> PatchMaps | FeatureMaps:
    inner = spec.inner
    if inner is None or spec.is_hybrid:
        kind = PatchMaps if inner is None else _HybridMaps
        made = vit.body(spec, normed=False) if inner is None else _hybrid(spec, inner, normed=False)
        return kind(made, patch=spec.patch_size, layers=spec.taps, readouts=_readouts(spec, len(spec.taps)))
    if inner.kind in _STAGES:
        return inner.build(least=2)
    normed, readouts = _norms(inner), _readouts(spec, len(inner.taken))
    made = inner.body(normed=normed)
    return PatchMaps(made, patch=inner.spec.patch_size, layers=inner.taken, normed=normed, readouts=readouts)


class _Decoder(nn.Module):
    def __init__(self, spec: Spec, parts: dict[str, nn.Module]) -> None:
        super().__init__()
        bias, inner = spec.use_bias_in_fusion_residual, spec.inner
        self.least = None
        if inner is not None and inner.kind in _PATCHES:
            self.least = inner.spec.patch_size * (1 + int(1 / min(1, *spec.reassemble_factors)))
        self.neck = FusionNeck(
            spec.size,
            spec.neck_hidden_sizes,
            spec.reassemble_factors,
            spec.fusion_hidden_size,
            norm=spec.norm,
            bias=not spec.norm if bias is None else bias,
            ready=spec.ready,
        )
        self.head = nn.ModuleDict(parts)  # under upstream's numbers

    def bounds(self) -> dict[str, Dim]:
        """Of a picture of any size: the smallest map has two places a side. Of one, torch would trace another
        product."""
        return {} if self.least is None else {"height": Dim(self.least), "width": Dim(self.least)}


class _Labels(_Decoder):
    """Maps -> logits [B, L, H, W]."""

    def __init__(self, spec: Spec) -> None:
        size = spec.fusion_hidden_size
        first = nn.Conv2d(size, size, 3, padding=1, bias=False)
        super().__init__(spec, {"0": first, "1": BatchNorm(size), "4": nn.Conv2d(size, spec.labels, 1)})

    def forward(self, maps: list[Tensor]) -> Tensor:
        x = F.relu(self.head["1"](self.head["0"](self.neck(maps))))
        return resized(self.head["4"](x), factor=2, aligned=True)


class _Depth(_Decoder):
    """Maps -> depth [B, H, W]."""

    def __init__(self, spec: Spec) -> None:
        size = spec.fusion_hidden_size
        first, second = nn.Conv2d(size, size // 2, 3, padding=1), nn.Conv2d(size // 2, _NARROW, 3, padding=1)
        super().__init__(spec, {"0": first, "2": second, "4": nn.Conv2d(_NARROW, 1, 1)})
        self.projection = nn.Conv2d(size, size, 3, padding=1) if spec.add_projection else None

    def forward(self, maps: list[Tensor]) -> Tensor:
        x = self.neck(maps)
        x = x if self.projection is None else F.relu(self.projection(x))
        x = F.relu(self.head["2"](resized(self.head["0"](x), factor=2, aligned=True)))
        return F.relu(self.head["4"](x))[:, 0]


class _DepthAlone(Component):
    """What is no model upstream: its other heads read no backbone that is not a hybrid's."""

    def ports(self) -> tuple[Port, ...]:
        raise ConfigError("over a 'backbone_config' that is not a hybrid's there is depth-estimation alone")


def _base(spec: Spec, absent: frozenset[str]) -> nn.Module:
    if spec.inner is None:
        return vit.FAMILY.heads[heads.BASE](spec, absent)
    if not spec.is_hybrid:
        return _DepthAlone()
    return ImageFeatures(_hybrid(spec, spec.inner, normed=True), None if "pooler" in absent else vit.Pooler(spec))


def _segmentation(spec: Spec, absent: frozenset[str]) -> nn.Module:
    return SemanticSegmentation(_body(spec), _Labels(spec)) if spec.inner is None or spec.is_hybrid else _DepthAlone()


def _depth(spec: Spec, absent: frozenset[str]) -> nn.Module:
    return DepthEstimation(_body(spec), _Depth(spec))


def _body_names(spec: Spec) -> tuple[Rule, ...]:
    inner = spec.inner
    if inner is None:
        return vit.model_names("dpt")
    if spec.is_hybrid:
        return (
            *vit.model_names("dpt"),
            Rename("embeddings.projection.*", "model.embeddings.projection.*"),
            inner.names("embeddings.backbone.", "model.embeddings.backbone."),
            *(
                Rename(f"{_READOUTS.format(_EARLY + number)}.*", f"{_READOUTS.format(number)}.*")
                for number in range(len(spec.taps))
            ),
        )
    if inner.kind in _STAGES:
        return (inner.names("backbone.", "model."),)
    return (inner.names("backbone.", ""), *(() if _norms(inner) else (Ignore("model.stack.norm.*"),)))


def _weights(spec: Spec) -> tuple[Rule, ...]:
    return (
        COUNTERS,
        *_body_names(spec),
        Ignore("auxiliary_head.*"),
        Split(f"{_READOUTS}.weight", ("model.readouts.{}.patch.weight", "model.readouts.{}.token.weight"), axis=1),
        Rename(f"{_READOUTS}.bias", "model.readouts.{}.patch.bias"),
        *neck_names(spec.neck_hidden_sizes, spec.reassemble_factors, spec.norm, spec.ready),
        # What no step of this decoder reads: the smallest map has none beside it.
        Ignore("decoder.neck.layers.0.beside.*"),
        Rename("head.head.*", "decoder.head.*"),
        Rename("head.projection.*", "decoder.projection.*"),
    )


FAMILY = replace(
    vit.FAMILY,
    spec=Spec,
    heads={
        heads.BASE: _base,
        heads.SEMANTIC_SEGMENTATION: _segmentation,
        heads.DEPTH_ESTIMATION: _depth,
    },
    weights=_weights,
    inert=frozenset(
        """auxiliary_loss_weight backbone_featmap_shape backbone_kwargs semantic_classifier_dropout
        semantic_loss_ignore_index use_auxiliary_head""".split()
    ),
    tiny={key: value for key, value in vit.FAMILY.tiny.items() if key != "pooler_output_size"}
    | {"backbone_out_indices": [0, 1], "neck_hidden_sizes": [6, 8], "reassemble_factors": [2, 0.5], "num_labels": 5}
    | {"fusion_hidden_size": 10, "pooler_output_size": 32},
    variations=(
        {"image_size": 24, "backbone_out_indices": [0, 1, 2], "num_hidden_layers": 3, "readout_type": "add"}
        | {"neck_hidden_sizes": [5, 6, 7], "reassemble_factors": [4, 1, 0.5], "use_batch_norm_in_fusion_residual": True}
        | {"qkv_bias": False, "num_channels": 1, "num_labels": 1, "fusion_hidden_size": 7},
    ),
)
