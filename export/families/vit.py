"""ViT: pre-norm layers over patches of a picture and a class token. https://arxiv.org/abs/2010.11929"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.patches import Patches
from precast.export.families import Family, LabelSpec
from precast.export.image_heads import ImageClassification, ImageFeatures, ImageModel, MaskedImage
from precast.export.skeletons.stack import stack
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Within

__all__ = [
    "FAMILY",
    "MaskedSpec",
    "Pooler",
    "Sizes",
    "Spec",
    "body",
    "layer_names",
    "mask_names",
    "masked",
    "model_names",
]


@dataclass(frozen=True, kw_only=True)
class Sizes(LabelSpec):
    """Defaults are ViT-base's."""

    hidden_size: int = hf(default=768)
    num_hidden_layers: int = hf(default=12)
    num_attention_heads: int = hf(default=12)
    intermediate_size: int = hf(default=3072)
    hidden_act: Activation = hf(default=activation("gelu"), read=activation)
    layer_norm_eps: float = hf(default=1e-12)
    image_size: int = hf(default=224)
    patch_size: int = hf(default=16)
    num_channels: int = hf(default=3)


@dataclass(frozen=True, kw_only=True)
class Spec(Sizes):
    qkv_bias: bool = hf(default=True)
    pooler_output_size: int | None = hf(default=None)
    pooler_act: Activation = hf(default=activation("tanh"), read=activation)


@dataclass(frozen=True, kw_only=True)
class MaskedSpec(Spec):
    """And what draws masked pictures."""

    encoder_stride: int = hf(default=16)


class Pooler(nn.Module):
    """act(dense(first token)), [B, S, H] -> [B, P]."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.act = spec.pooler_act
        self.dense = nn.Linear(spec.hidden_size, spec.pooler_output_size or spec.hidden_size)

    def forward(self, states: Tensor) -> Tensor:
        return self.act(self.dense(states[:, 0]))


def body(
    spec: Spec, tokens: tuple[str, ...] = ("cls_token",), masked: bool = False, *, normed: bool = True
) -> ImageModel:
    """Layers over patches, which may be ``masked``, and ``tokens`` in front; ``normed``: a norm ends them."""
    patches = Patches(
        spec.hidden_size,
        image=spec.image_size,
        patch=spec.patch_size,
        channels=spec.num_channels,
        tokens=tokens,
        masked=masked,
    )
    return ImageModel(patches, stack(spec, bias=spec.qkv_bias, normed=normed))


def _base(spec: Spec, absent: frozenset[str]) -> nn.Module:
    return ImageFeatures(body(spec), None if "pooler" in absent else Pooler(spec))


def _classifier(spec: Spec, absent: frozenset[str]) -> nn.Module:
    return ImageClassification(body(spec), nn.Linear(spec.hidden_size, spec.labels))


def masked(spec: MaskedSpec, tokens: tuple[str, ...] = ("cls_token",)) -> nn.Module:
    """What draws the patches of a picture of which some are hidden."""
    return MaskedImage(
        body(spec, tokens, masked=True),
        spec.hidden_size,
        stride=spec.encoder_stride,
        channels=spec.num_channels,
        patches=(spec.image_size // spec.patch_size) ** 2,
        skip=len(tokens),
    )


def layer_names(old: str, new: str) -> Within:
    """Names of a layer, as transformers 5 and 4 write them."""
    parts = {"query": "q", "key": "k", "value": "v"}
    return Within(
        old,
        (
            Rename("intermediate.dense.*", "mlp.up_proj.*"),
            Rename("output.dense.*", "mlp.down_proj.*"),
            Rename("mlp.fc1.*", "mlp.up_proj.*"),
            Rename("mlp.fc2.*", "mlp.down_proj.*"),
            *(Rename(f"attention.attention.{part}.*", f"attention.{key}_proj.*") for part, key in parts.items()),
            Rename("attention.output.dense.*", "attention.o_proj.*"),
            Rename("attention.*", "self_attn.*"),
            Rename("layernorm_before.*", "attention_norm.*"),
            Rename("layernorm_after.*", "mlp_norm.*"),
        ),
        to=new,
    )


def mask_names(masked: bool) -> tuple[Rule, ...]:
    """Of what only masked pictures need, which is dropped where there is no head for these."""
    if not masked:
        return Ignore("embeddings.mask_token"), Ignore("decoder.*")
    return Rename("embeddings.mask_token", "model.embeddings.mask_token"), Rename("decoder.0.*", "decoder.*")


def model_names(prefix: str, masked: bool = False) -> tuple[Rule, ...]:
    """Names of a model that upstream's heads hold as ``prefix``; ``masked``: there is a head for masked pictures."""
    return (
        Rename(f"{prefix}.*", "*"),
        *mask_names(masked),
        Rename("embeddings.patch_embeddings.projection.*", "model.embeddings.projection.*"),
        Rename("embeddings.cls_token", "model.embeddings.cls_token"),
        Rename("embeddings.position_embeddings", "model.embeddings.positions"),
        Rename("encoder.layer.*", "layers.*"),
        layer_names("layers.{}.", "model.stack.layers.{}."),
        Rename("layernorm.*", "model.stack.norm.*"),
    )


FAMILY = Family(
    spec=MaskedSpec,
    heads={
        heads.BASE: _base,
        heads.MASKED_IMAGE: lambda spec, absent: masked(spec),
        heads.IMAGE_CLASSIFICATION: _classifier,
    },
    weights=lambda spec: model_names("vit", masked=True),
    optional=("pooler",),
    final_norm=True,
    tiny={"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    | {"image_size": 30, "patch_size": 6, "pooler_output_size": 32},
    variations=(
        # Odd sizes: 3 heads of 7 channels, a picture that is no multiple of its patches, no biases, one channel.
        {"hidden_size": 21, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 37}
        | {"image_size": 23, "patch_size": 5, "num_channels": 1, "qkv_bias": False, "num_labels": 5}
        | {"hidden_act": "gelu_new", "layer_norm_eps": 1e-5, "pooler_output_size": 13, "pooler_act": "relu"},
    ),
)
