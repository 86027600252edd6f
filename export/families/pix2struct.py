"""Pix2Struct: reads screenshots as patches that know their row and column, and writes with T5's decoder; DePlot
(https://arxiv.org/abs/2212.10505) and MatCha (https://arxiv.org/abs/2212.09662) are its checkpoints.
https://arxiv.org/abs/2210.03347"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.attention import SelfAttention
from precast.export.blocks.mlp import GatedMLP
from precast.export.blocks.norms import RMSNorm
from precast.export.families import Family
from precast.export.head_sets.seq2seq import generation_keys, plain_head, seq2seq
from precast.export.heads import IMAGE_TEXT
from precast.export.skeletons.encoder import PreNormLayer
from precast.export.skeletons.relative import RelativeSpec, decoder
from precast.export.skeletons.stack import Stack
from precast.export.spec import Spec as Base
from precast.export.spec import hf
from precast.export.weights import Rename, Rule, Tie, Within
from precast.runtime.errors import ConfigError
from precast.runtime.ports import Port

__all__ = ["FAMILY"]


@dataclass(frozen=True, kw_only=True)
class TextSpec(RelativeSpec):
    """Defaults are pix2struct-base's."""

    is_decoder: bool = hf(default=True, only=(True,))
    is_encoder_decoder: bool = hf(default=True)  # the whole is one, whatever is said of this part
    vocab_size: int = hf(default=50244)
    hidden_size: int = hf(default=768)
    head_dim: int = hf("d_kv", default=64)
    intermediate_size: int = hf("d_ff", default=2048)
    num_hidden_layers: int = hf(("num_layers", "num_hidden_layers"), default=12)
    num_attention_heads: int = hf(("num_heads", "num_attention_heads"), default=12)
    dense_act_fn: str | None = hf(default="gelu_new")
    is_gated_act: bool | None = hf(default=True, only=(True,))
    tie_word_embeddings: bool = hf(default=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_attention_heads * self.head_dim != self.hidden_size:
            raise ConfigError(
                f"'num_heads' {self.num_attention_heads} times 'd_kv' {self.head_dim} must be 'hidden_size' "
                f"{self.hidden_size}"
            )


@dataclass(frozen=True, kw_only=True)
class VisionSpec(Base):
    hidden_size: int = hf(default=768)
    patch_embed_hidden_size: int = hf(default=768)
    intermediate_size: int = hf("d_ff", default=2048)
    head_dim: int = hf("d_kv", default=64)
    num_hidden_layers: int = hf(default=12)
    num_attention_heads: int = hf(default=12)
    act: Activation = hf("dense_act_fn", default=activation("gelu_new"), read=activation)
    layer_norm_eps: float = hf(default=1e-6)
    seq_len: int = hf(default=4096)


# Training; and what configs of the first releases have beside, and nothing reads.
_UNREAD = frozenset(
    """dropout_rate initializer_factor layer_norm_bias hidden_act image_size patch_size num_channels projection_dim
    relative_attention_num_buckets relative_attention_max_distance intermediate_size encoder_hidden_size""".split()
)


@dataclass(frozen=True, kw_only=True)
class Spec(Base):
    text: TextSpec = hf("text_config", default={}, spec=TextSpec, inert=_UNREAD)
    vision: VisionSpec = hf("vision_config", default={}, spec=VisionSpec, inert=_UNREAD)
    is_encoder_decoder: bool = hf(default=True, only=(True,))
    tie_word_embeddings: bool = hf(default=False)

    def __post_init__(self) -> None:
        if self.text.hidden_size != self.vision.hidden_size:
            raise ConfigError(
                f"'text_config.hidden_size' {self.text.hidden_size} must be 'vision_config.hidden_size' "
                f"{self.vision.hidden_size}: its layers attend to states of that many channels"
            )


class _Patches(nn.Module):
    """Patches [B, P, 2 + D], of which two numbers are their row and their column -> [B, P, H]."""

    def __init__(self, spec: VisionSpec) -> None:
        super().__init__()
        self.patch_projection = nn.Linear(spec.patch_embed_hidden_size, spec.hidden_size)
        self.row_embedder = nn.Embedding(spec.seq_len, spec.hidden_size)
        self.column_embedder = nn.Embedding(spec.seq_len, spec.hidden_size)

    def forward(self, patches: Tensor) -> Tensor:
        rows, columns = (patches[..., place].to(torch.int64) for place in (0, 1))
        return self.patch_projection(patches[..., 2:]) + self.row_embedder(rows) + self.column_embedder(columns)


class Seeing(Stack):
    """Patches [B, P, 2 + D], mask [B, P] -> states [B, P, H], and which of them are real."""

    def __init__(self, spec: VisionSpec) -> None:
        size, heads = spec.hidden_size, spec.num_attention_heads
        super().__init__(
            [
                PreNormLayer(
                    attention=SelfAttention(size, heads=heads, head_dim=spec.head_dim, bias=False, scale=1.0),
                    attention_norm=RMSNorm(size, spec.layer_norm_eps),
                    mlp=GatedMLP(size, spec.intermediate_size, spec.act, bias=False),
                    mlp_norm=RMSNorm(size, spec.layer_norm_eps),
                )
                for _ in range(spec.num_hidden_layers)
            ],
            RMSNorm(size, spec.layer_norm_eps),
        )
        self.embeddings = _Patches(spec)
        self.width, self.places = 2 + spec.patch_embed_hidden_size, spec.seq_len

    def ports(self) -> tuple[Port, ...]:
        row = ("batch", "patches")
        patches = Port("flattened_patches", "float32", (*row, self.width), "patches", below=self.places)
        return patches, Port("attention_mask", "int64", row, "sample_mask", default=1)

    def forward(self, flattened_patches: Tensor, attention_mask: Tensor) -> Any:  # type: ignore[override]
        # Rows are counted from 1: what has none fills up the others.
        real = attention_mask * (flattened_patches[..., 0] != 0).to(torch.int64)
        return super().forward(self.embeddings(flattened_patches), real), real


_ATTENTION = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj"}
_MLP = {"wi_0": "gate_proj", "wi_1": "up_proj", "wo": "down_proj"}


def _layer_names(*parts: tuple[str, str, str]) -> tuple[Rule, ...]:
    """Of a layer: each of its ``parts`` has a name, one here and that of its norm."""
    return tuple(
        rule
        for old, new, norm in parts
        for rule in (
            *(
                Rename(f"{old}.{name}.*", f"{new}.{proj}.*")
                for name, proj in (_MLP if new == "mlp" else _ATTENTION).items()
            ),
            Rename(f"{norm}.*", f"{new.removesuffix('_attn').replace('self', 'attention')}_norm.*"),
        )
    )


_SEEING = (
    Rename("layernorm.*", "norm.*"),
    Within(
        "encoder.layer.{}.",
        _layer_names(("attention", "self_attn", "pre_attention_layer_norm"), ("mlp", "mlp", "pre_mlp_layer_norm")),
        to="layers.{}.",
    ),
)
_WRITING = (
    Rename("embed_tokens.*", "embeddings.words.*"),
    Rename("final_layer_norm.*", "norm.*"),
    Rename("layer.0.self_attention.attention.relative_attention_bias.*", "bias.table.*"),
    Within(
        "layer.{}.",
        _layer_names(
            ("self_attention.attention", "self_attn", "self_attention.layer_norm"),
            ("encoder_decoder_attention.attention", "cross_attn", "encoder_decoder_attention.layer_norm"),
            ("mlp.DenseReluDense", "mlp", "mlp.layer_norm"),
        ),
        to="layers.{}.",
    ),
)


def _weights(spec: Spec) -> tuple[Rule, ...]:
    tied = (Tie("lm_head.weight", "decoder.embeddings.words.weight"),) if spec.tie_word_embeddings else ()
    return (
        Rename("decoder.lm_head.*", "lm_head.*"),
        Within("encoder.", _SEEING),
        Within("decoder.", _WRITING),
        *tied,
    )


_VISION = {"hidden_size": 32, "patch_embed_hidden_size": 12, "d_ff": 48, "d_kv": 8, "num_hidden_layers": 2}
_TEXT = {"hidden_size": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "vocab_size": 99}

FAMILY = Family(
    spec=Spec,
    heads=seq2seq(
        lambda spec, absent: Seeing(spec.vision),
        lambda spec, absent: decoder(spec.text),
        lm_head=lambda spec, absent: plain_head(spec.text, absent),
        positions=False,
        head=IMAGE_TEXT,
    ),
    weights=_weights,
    final_norm=True,
    inert=frozenset({"initializer_factor", "is_vqa"}),  # is_vqa: what the image processor's file says as well
    generation=generation_keys(pad=0, eos=1, decoder_start=0),
    tiny={
        "text_config": _TEXT,
        "vision_config": {**_VISION, "num_attention_heads": 4, "seq_len": 40},
    },
    variations=(
        {
            "text_config": {**_TEXT, "num_layers": 1, "hidden_size": 18, "d_kv": 6, "num_heads": 3, "d_ff": 37}
            | {"relative_attention_num_buckets": 12, "relative_attention_max_distance": 20, "dense_act_fn": "relu"}
            | {"layer_norm_epsilon": 1e-3, "vocab_size": 131},
            "vision_config": {**_VISION, "num_attention_heads": 3, "hidden_size": 18, "num_hidden_layers": 1, "d_kv": 5}
            | {"seq_len": 23, "dense_act_fn": "silu", "layer_norm_eps": 1e-3, "patch_embed_hidden_size": 7},
            "tie_word_embeddings": True,
        },
    ),
)
