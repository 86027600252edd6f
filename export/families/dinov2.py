"""DINOv2: ViT with scaled layers, over pictures of any size. https://arxiv.org/abs/2304.07193"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.mlp import GatedMLP
from precast.export.blocks.patches import Patches
from precast.export.blocks.resample import Bicubic
from precast.export.families import Family, LabelSpec, vit
from precast.export.image_heads import FirstState, ImageClassification, ImageFeatures, ImageModel, MeanState
from precast.export.skeletons.stack import stack
from precast.export.spec import hf
from precast.export.weights import FoldScale, Rename, Rule, Split, Within

__all__ = ["FAMILY", "Spec", "body", "names"]


@dataclass(frozen=True, kw_only=True)
class Spec(LabelSpec):
    """Defaults are DINOv2-base's."""

    hidden_size: int = hf(default=768)
    num_hidden_layers: int = hf(default=12)
    num_attention_heads: int = hf(default=12)
    mlp_ratio: int = hf(default=4)
    hidden_act: Activation = hf(default=activation("gelu"), read=activation)
    layer_norm_eps: float = hf(default=1e-6)
    image_size: int = hf(default=224)
    patch_size: int = hf(default=14)
    num_channels: int = hf(default=3)
    qkv_bias: bool = hf(default=True)
    use_swiglu_ffn: bool = hf(default=False)

    @property
    def intermediate_size(self) -> int:
        return self.hidden_size * self.mlp_ratio

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of what goes into the layers and each of them."""
        return (self.hidden_size,) * (self.num_hidden_layers + 1)

    @property
    def registers(self) -> int:
        """Tokens behind the class token that stand for no patch."""
        return 0

    @property
    def antialias(self) -> bool:
        """Positions are smoothed where a picture has fewer patches than were trained."""
        return False


class _FirstAndMean(nn.Module):
    """States [B, S, H] -> the first one and the mean of the patches, [B, 2 * H]."""

    def __init__(self, registers: int) -> None:
        super().__init__()
        self.mean = MeanState(1 + registers)

    def forward(self, states: Tensor) -> Tensor:
        return torch.cat((states[:, 0], self.mean(states)), dim=1)


def body(spec: Spec, normed: bool = True) -> ImageModel:
    """Layers over patches of a picture of any size; ``normed``: a norm follows the last one."""
    side = spec.image_size // max(spec.patch_size, 1)
    patches = Patches(
        spec.hidden_size,
        image=spec.image_size,
        patch=spec.patch_size,
        channels=spec.num_channels,
        registers=spec.registers,
        resize=Bicubic(side, antialias=spec.antialias),
    )

    def gated() -> nn.Module:
        # As many weights as without the gate, in whole eights.
        return GatedMLP(spec.hidden_size, -(-(spec.intermediate_size * 2 // 3) // 8) * 8, F.silu, bias=True)

    mlp = gated if spec.use_swiglu_ffn else None
    return ImageModel(patches, stack(spec, bias=spec.qkv_bias, mlp=mlp, normed=normed))


def _base(spec: Spec, absent: frozenset[str]) -> nn.Module:
    return ImageFeatures(body(spec), FirstState())


def _classifier(spec: Spec, absent: frozenset[str]) -> nn.Module:
    classifier = nn.Linear(2 * spec.hidden_size, spec.labels)
    return ImageClassification(body(spec), classifier, _FirstAndMean(spec.registers))


def names(prefix: str) -> tuple[Rule, ...]:
    """Names of a model that upstream's heads hold as ``prefix``, as transformers 5 and 4 write them."""
    layer = (
        *(Split(f"mlp.weights_in.{kind}", (f"mlp.gate_proj.{kind}", f"mlp.up_proj.{kind}")) for kind in _KINDS),
        Rename("mlp.weights_out.*", "mlp.down_proj.*"),
        Rename("norm1.*", "attention_norm.*"),
        Rename("norm2.*", "mlp_norm.*"),
        FoldScale("layer_scale1.lambda1", into="self_attn.o_proj"),
        FoldScale("layer_scale2.lambda1", into="mlp.down_proj"),
    )
    return (*vit.model_names(prefix), Within("model.stack.layers.{}.", layer))


_KINDS = ("weight", "bias")

FAMILY = Family(
    spec=Spec,
    heads={heads.BASE: _base, heads.IMAGE_CLASSIFICATION: _classifier},
    weights=lambda spec: names("dinov2"),
    body=body,
    final_norm=True,
    inert=frozenset(
        """_out_features _out_indices apply_layernorm drop_path_rate layerscale_value out_features out_indices
        reshape_hidden_states stage_names use_mask_token""".split()
    ),
    tiny={"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "mlp_ratio": 2}
    | {"image_size": 60, "patch_size": 12},
    variations=(
        # Odd sizes: 3 heads of 7 channels, a picture that is no multiple of its patches, no biases, one channel.
        {"hidden_size": 21, "num_hidden_layers": 1, "num_attention_heads": 3, "mlp_ratio": 1, "use_swiglu_ffn": True}
        | {"image_size": 47, "patch_size": 9, "num_channels": 1, "qkv_bias": False, "num_labels": 5}
        | {"layer_norm_eps": 1e-5, "use_mask_token": False},
    ),
)
