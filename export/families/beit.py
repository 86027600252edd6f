"""BEiT: ViT with scaled layers and scores that know how far apart two patches are. https://arxiv.org/abs/2106.08254"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.patches import Patches
from precast.export.blocks.relative import TableBias, grid_offsets
from precast.export.blocks.tables import Table
from precast.export.families import vit
from precast.export.image_heads import FirstState, ImageClassification, ImageFeatures, ImageModel, MeanState
from precast.export.skeletons.stack import stack
from precast.export.spec import hf
from precast.export.weight_table import Lazy
from precast.export.weights import FoldScale, Ignore, Rename, Rule, Within

__all__ = ["FAMILY", "Spec"]


@dataclass(frozen=True, kw_only=True)
class Spec(vit.Sizes):
    use_absolute_position_embeddings: bool = hf(default=False)
    use_relative_position_bias: bool = hf(default=False)
    use_shared_relative_position_bias: bool = hf(default=False)
    use_mean_pooling: bool = hf(default=True)
    layer_scale_init_value: float = hf(default=0.1)


class _NormedMean(nn.Module):
    """States [B, S, H] -> norm(mean of the patches), [B, H]."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.mean = MeanState(start=1)
        self.norm = LayerNorm(spec.hidden_size, spec.layer_norm_eps)

    def forward(self, states: Tensor) -> Tensor:
        return self.norm(self.mean(states))


def _offsets(side: int) -> Tensor:
    """Numbers of the offsets of patches, and three behind them: from the class token, to it, and its own."""
    patches = grid_offsets(side, side)
    count = (2 * side - 1) ** 2
    index = F.pad(patches, (1, 0), value=count + 1)
    index = F.pad(index, (0, 0, 1, 0), value=count)
    index[0, 0] = count + 2
    return index


def _body(spec: Spec) -> ImageModel:
    side = spec.image_size // max(spec.patch_size, 1)
    index = Table((side**2 + 1, side**2 + 1), lambda: _offsets(side), torch.int64)

    def relative() -> nn.Module:
        return TableBias(index, (2 * side - 1) ** 2 + 3, spec.num_attention_heads)

    patches = Patches(
        spec.hidden_size,
        image=spec.image_size,
        patch=spec.patch_size,
        channels=spec.num_channels,
        placed=spec.use_absolute_position_embeddings,
    )
    layers = stack(
        spec,
        key_bias=False,
        normed=not spec.use_mean_pooling,
        relative=relative if spec.use_relative_position_bias else None,
    )
    return ImageModel(patches, layers, relative=relative() if spec.use_shared_relative_position_bias else None)


def _pooler(spec: Spec) -> nn.Module:
    return _NormedMean(spec) if spec.use_mean_pooling else FirstState()


def _base(spec: Spec, absent: frozenset[str]) -> nn.Module:
    untrained = spec.use_mean_pooling and "pooler" in absent
    return ImageFeatures(_body(spec), None if untrained else _pooler(spec))


def _classifier(spec: Spec, absent: frozenset[str]) -> nn.Module:
    return ImageClassification(_body(spec), nn.Linear(spec.hidden_size, spec.labels), _pooler(spec))


class _WithoutMaskedHead(Rule):
    """What predicts masked patches, whose norm has the name that the model's has where its checkpoint has no prefix."""

    def apply(self, table: dict[str, Lazy]) -> dict[str, Lazy]:
        if "lm_head.weight" not in table:
            return table
        return {key: lazy for key, lazy in table.items() if not key.startswith(("lm_head.", "layernorm."))}


def _weights(spec: Spec) -> tuple[Rule, ...]:
    bias = "relative_position_bias.relative_position_bias_table"
    layer = (
        Rename(bias, "self_attn.relative.table.weight"),
        Rename(f"self_attn.attention.{bias}", "self_attn.relative.table.weight"),  # as transformers 4 names it
        *(
            FoldScale(f"lambda_{number}", into=projection)
            for number, projection in ((1, "self_attn.o_proj"), (2, "mlp.down_proj"))
            if spec.layer_scale_init_value > 0
        ),
    )
    return (
        _WithoutMaskedHead(),
        Ignore("*.relative_position_index"),
        *vit.model_names("beit"),
        Rename(f"encoder.{bias}", "model.relative.table.weight"),
        Rename("shared_position_bias.relative_position_bias_table", "model.relative.table.weight"),
        Rename("pooler.layernorm.*", "pooler.norm.*"),
        Within("model.stack.layers.{}.", layer),
    )


FAMILY = replace(
    vit.FAMILY,
    spec=Spec,
    heads={heads.BASE: _base, heads.IMAGE_CLASSIFICATION: _classifier},
    weights=_weights,
    final_norm=False,
    inert=frozenset(
        """_out_features _out_indices add_fpn auxiliary_channels auxiliary_concat_input auxiliary_loss_weight
        auxiliary_num_convs drop_path_rate out_features out_indices pool_scales reshape_hidden_states
        semantic_loss_ignore_index stage_names use_auxiliary_head use_mask_token vocab_size""".split()
    ),
    tiny={key: value for key, value in vit.FAMILY.tiny.items() if key != "pooler_output_size"}
    | {"use_relative_position_bias": True, "num_hidden_layers": 2},
    variations=(
        # Odd sizes: 3 heads of 7 channels, a picture that is no multiple of its patches, one channel.
        {"hidden_size": 21, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 37}
        | {"image_size": 23, "patch_size": 5, "num_channels": 1, "num_labels": 5, "use_mean_pooling": False}
        | {"hidden_act": "gelu_new", "layer_norm_eps": 1e-5, "use_shared_relative_position_bias": True},
        {"use_absolute_position_embeddings": True, "use_relative_position_bias": False, "use_mask_token": True}
        | {"layer_scale_init_value": 0.0, "num_hidden_layers": 1},
    ),
)
