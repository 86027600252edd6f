"""GPT-NeoX: attention and MLP beside each other or in turn, rotary positions on a part of each head, an untied head;
Pythia, Dolly, RedPajama and StableLM Alpha are its checkpoints. https://arxiv.org/abs/2204.06745"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import nn

from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.rope import Rope
from precast.export.families import Family
from precast.export.head_sets.decoders import QKV, TINY, RotarySpec, causal_heads, layer, layer_norm, mlp, names, tied
from precast.export.skeletons.decoder import DecoderLayer, ParallelLayer
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Split
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY", "PARTIAL", "GPTNeoXSpec", "NeoXSpec", "weights"]


@dataclass(frozen=True, kw_only=True)
class NeoXSpec(RotarySpec):
    """What GPT-NeoX and its Japanese relative share."""

    hidden_size: int = hf(default=6144)
    num_hidden_layers: int = hf(default=44)
    num_attention_heads: int = hf(default=64)
    hidden_act: Activation = hf(default=activation("gelu"), read=activation)
    max_position_embeddings: int = hf(default=2048)
    layer_norm_eps: float = hf(default=1e-5)
    # The part of a head that is turned, and the base; transformers 5 says both in `rope_parameters`.
    rotary_pct: float = hf(default=0.25)
    rotary_emb_base: float = hf(default=10000.0)
    # Late versions of transformers 4 wrote the two once more under these names, and read them under those above.
    partial_rotary_factor: float | None = hf(default=None)
    rope_theta: float | None = hf(default=None)

    def __post_init__(self) -> None:
        for name, copy in (("rotary_pct", "partial_rotary_factor"), ("rotary_emb_base", "rope_theta")):
            if getattr(self, copy) not in (None, getattr(self, name)):
                raise ConfigError(
                    f"{copy!r} {getattr(self, copy)} repeats {name!r}, which is {getattr(self, name)}: give that alone"
                )
        super().__post_init__()

    @property
    def rope(self) -> Rope:
        """How rotary angles are made."""
        return self._rope(theta=self.rotary_emb_base, part=self.rotary_pct, partial=True)


@dataclass(frozen=True, kw_only=True)
class GPTNeoXSpec(NeoXSpec):
    """Upstream's defaults are GPT-NeoX 20B's."""

    vocab_size: int = hf(default=50432)
    intermediate_size: int = hf(default=24576)
    use_parallel_residual: bool = hf(default=True)
    attention_bias: bool = hf(default=True)
    tie_word_embeddings: bool = hf(default=False)


def _layers(spec: GPTNeoXSpec) -> list[nn.Module]:
    kind = ParallelLayer if spec.use_parallel_residual else DecoderLayer
    made = partial(layer, spec, norm=layer_norm, mlp=mlp, kind=kind, bias=spec.attention_bias)
    positions = spec.rope.module()
    return [made(positions=positions) for _ in range(spec.num_hidden_layers)]


_NAMES = names(
    "layers.{}",
    output="attention.dense",
    attention_norm="input_layernorm",
    mlp_norm="post_attention_layernorm",
    up="mlp.dense_h_to_4h",
    down="mlp.dense_4h_to_h",
    embeddings="embed_in",
    norm="final_layer_norm",
    head="embed_out",  # its name before transformers 5
)


def weights(spec: NeoXSpec, prefix: str = "gpt_neox") -> tuple[Rule, ...]:
    """Rules from the names under ``prefix``; queries, keys and values are packed head by head."""
    # Causal masks and frequencies that were saved with the weights.
    saved = ("layers.{}.attention.bias", "layers.{}.attention.masked_bias", "layers.{}.attention.rotary_emb.*")
    packed = Split("layers.{}.attention.query_key_value.*", QKV, groups=spec.num_attention_heads)
    return (
        Rename(f"{prefix}.*", "*"),
        *map(Ignore, (*saved, "rotary_emb.inv_freq")),
        packed,
        *_NAMES,
        *tied(spec),
    )


# Heads of 10 channels of which 6 are turned.
PARTIAL = {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.6}}

FAMILY = Family(
    spec=GPTNeoXSpec,
    heads=causal_heads(_layers, norm=layer_norm, classes=True),
    weights=weights,
    final_norm=True,
    inert=frozenset({"hidden_dropout"}),
    tiny={**TINY, "intermediate_size": 48},
    variations=(
        # Odd sizes, in turn, no biases, a tied head.
        {"hidden_size": 30, "num_attention_heads": 3, "intermediate_size": 37, "vocab_size": 131, **PARTIAL}
        | {"use_parallel_residual": False, "attention_bias": False, "tie_word_embeddings": True}
        | {"hidden_act": "gelu_fast", "layer_norm_eps": 1e-3},
        # The keys of transformers 4, whole heads turned.
        {"num_hidden_layers": 1, "hidden_act": "relu"}
        | {"rotary_pct": 1.0, "rotary_emb_base": 700, "rope_scaling": {"type": "linear", "factor": 4.0}},
    ),
)
