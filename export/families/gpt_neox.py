"""GPT-NeoX: attention and MLP beside each other or in turn, rotary positions on a part of each head, an untied head;
Pythia, Dolly, RedPajama and StableLM Alpha are its checkpoints. https://arxiv.org/abs/2204.06745"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.attention import CachedSelfAttention, head_size
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.rope import Rope, rope
from precast.export.blocks.rotary import SteppedRotary
from precast.export.families import Family, TextSpec
from precast.export.generative import CausalLM
from precast.export.skeletons.decoder import Decoder, DecoderLayer, ParallelLayer, TokenEmbeddings
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Split, Tie
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY", "GPTNeoXSpec", "NeoXSpec", "causal_lm", "weights"]


@dataclass(frozen=True, kw_only=True)
class NeoXSpec(TextSpec):
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
    rope_scaling: dict[str, Any] | None = hf(default=None)
    rope_parameters: dict[str, Any] | None = hf(default=None)

    def __post_init__(self) -> None:
        for name, copy in (("rotary_pct", "partial_rotary_factor"), ("rotary_emb_base", "rope_theta")):
            if getattr(self, copy) not in (None, getattr(self, name)):
                raise ConfigError(
                    f"{copy!r} {getattr(self, copy)} repeats {name!r}, which is {getattr(self, name)}: give that alone"
                )
        self.rope.check()

    @property
    def rope(self) -> Rope:
        """How rotary angles are made."""
        return rope(
            head_size(self.hidden_size, self.num_attention_heads),
            parameters=self.rope_parameters,
            scaling=self.rope_scaling,
            theta=self.rotary_emb_base,
            longest=self.max_position_embeddings,
            part=self.rotary_pct,
            partial=True,
        )

    def ignored(self) -> tuple[str, ...]:
        """As `Spec`."""
        return self.rope.ignored


@dataclass(frozen=True, kw_only=True)
class GPTNeoXSpec(NeoXSpec):
    """Upstream's defaults are GPT-NeoX 20B's."""

    vocab_size: int = hf(default=50432)
    intermediate_size: int = hf(default=24576)
    use_parallel_residual: bool = hf(default=True)
    attention_bias: bool = hf(default=True)
    tie_word_embeddings: bool = hf(default=False)


def _layer(spec: GPTNeoXSpec, positions: SteppedRotary) -> nn.Module:
    attention = CachedSelfAttention(
        spec.hidden_size, heads=spec.num_attention_heads, bias=spec.attention_bias, positions=positions
    )
    mlp = MLP(spec.hidden_size, spec.intermediate_size, spec.hidden_act)
    first, second = (LayerNorm(spec.hidden_size, spec.layer_norm_eps) for _ in range(2))
    if spec.use_parallel_residual:
        return ParallelLayer(attention=attention, attention_norm=first, mlp=mlp, mlp_norm=second)
    return DecoderLayer(attention=attention, attention_norm=first, mlp=mlp, mlp_norm=second)


def causal_lm(spec: NeoXSpec, layers: list[nn.Module]) -> CausalLM:
    """The layers between embeddings and head."""
    return CausalLM(
        Decoder(
            embeddings=TokenEmbeddings(spec.vocab_size, spec.hidden_size),
            layers=layers,
            norm=LayerNorm(spec.hidden_size, spec.layer_norm_eps),
        ),
        nn.Linear(spec.hidden_size, spec.vocab_size, bias=False),
    )


def _causal_lm(spec: GPTNeoXSpec, absent: frozenset[str]) -> nn.Module:
    positions = spec.rope.module()
    return causal_lm(spec, [_layer(spec, positions) for _ in range(spec.num_hidden_layers)])


def weights(spec: NeoXSpec, prefix: str = "gpt_neox") -> tuple[Rule, ...]:
    """Rules from the names under ``prefix``; queries, keys and values are packed head by head."""
    old, new = "layers.{}", "model.layers.{}"
    return (
        Rename(f"{prefix}.*", "*"),
        # Causal masks and frequencies that were saved with the weights.
        Ignore(f"{old}.attention.bias"),
        Ignore(f"{old}.attention.masked_bias"),
        Ignore(f"{old}.attention.rotary_emb.*"),
        Ignore("rotary_emb.inv_freq"),
        Split(
            f"{old}.attention.query_key_value.*",
            tuple(f"{new}.self_attn.{part}_proj.*" for part in "qkv"),
            groups=spec.num_attention_heads,
        ),
        Rename(f"{old}.attention.dense.*", f"{new}.self_attn.o_proj.*"),
        Rename(f"{old}.input_layernorm.*", f"{new}.attention_norm.*"),
        Rename(f"{old}.post_attention_layernorm.*", f"{new}.mlp_norm.*"),
        Rename(f"{old}.mlp.dense_h_to_4h.*", f"{new}.mlp.up_proj.*"),
        Rename(f"{old}.mlp.dense_4h_to_h.*", f"{new}.mlp.down_proj.*"),
        Rename("embed_in.*", "model.embeddings.words.*"),
        Rename("final_layer_norm.*", "model.norm.*"),
        # Its name before transformers 5.
        Rename("embed_out.*", "lm_head.*"),
        *((Tie("lm_head.weight", "model.embeddings.words.weight"),) if spec.tie_word_embeddings else ()),
    )


FAMILY = Family(
    spec=GPTNeoXSpec,
    heads={heads.CAUSAL_LM: _causal_lm},
    weights=weights,
    limits=lambda spec: spec.max_position_embeddings,
    final_norm=True,
    inert=frozenset({"hidden_dropout"}),
    tiny={
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 160,
        "vocab_size": 99,
    },
    variations=(
        # Odd sizes: 3 heads of 10 channels of which 6 are turned, in turn, no biases, a tied head.
        {
            "hidden_size": 30,
            "num_attention_heads": 3,
            "intermediate_size": 37,
            "use_parallel_residual": False,
            "attention_bias": False,
            "tie_word_embeddings": True,
            "hidden_act": "gelu_fast",
            "layer_norm_eps": 1e-3,
            "vocab_size": 131,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.6},
        },
        # The keys of transformers 4, whole heads turned.
        {
            "num_hidden_layers": 1,
            "hidden_act": "relu",
            "rotary_pct": 1.0,
            "rotary_emb_base": 700,
            "rope_scaling": {"type": "linear", "factor": 4.0},
        },
    ),
)
