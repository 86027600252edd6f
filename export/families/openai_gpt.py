"""GPT: a decoder with learned positions and a norm behind each part.
https://cdn.openai.com/research-covers/language-unsupervised/language_understanding_paper.pdf"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.attention import CachedSelfAttention, head_size
from precast.export.blocks.embeddings import PlacedPositions
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm
from precast.export.families import Family, TextSpec
from precast.export.generative import CausalLM
from precast.export.skeletons.decoder import Decoder, PostNormDecoderLayer, TokenEmbeddings
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Split, Tie, Transpose
from precast.runtime.errors import closest

__all__ = ["FAMILY", "OpenAIGPTSpec"]

# What the model's own code calls them: its "gelu" is the tanh approximation.
_NAMES = {"relu": "relu", "silu": "silu", "swish": "silu", "gelu": "gelu_new"}


def _named(name: str) -> Activation:
    if name not in _NAMES:
        raise ValueError(f"unknown activation. {closest(str(name), _NAMES)} Known: {', '.join(_NAMES)}")
    return activation(_NAMES[name])


@dataclass(frozen=True, kw_only=True)
class OpenAIGPTSpec(TextSpec):
    """Upstream's defaults are GPT's."""

    vocab_size: int = hf(default=40478)
    hidden_size: int = hf(("n_embd", "hidden_size"), default=768)
    layers: int = hf(("n_layer", "num_hidden_layers"), default=12)
    heads: int = hf(("n_head", "num_attention_heads"), default=12)
    positions: int = hf(("n_positions", "max_position_embeddings"), default=512)
    afn: Activation = hf(default=_named("gelu"), read=_named)
    layer_norm_epsilon: float = hf(default=1e-5)

    def __post_init__(self) -> None:
        head_size(self.hidden_size, self.heads)


def _layer(spec: OpenAIGPTSpec) -> PostNormDecoderLayer:
    return PostNormDecoderLayer(
        attention=CachedSelfAttention(spec.hidden_size, heads=spec.heads, bias=True),
        attention_norm=LayerNorm(spec.hidden_size, spec.layer_norm_epsilon),
        mlp=MLP(spec.hidden_size, 4 * spec.hidden_size, spec.afn),
        mlp_norm=LayerNorm(spec.hidden_size, spec.layer_norm_epsilon),
    )


def _causal_lm(spec: OpenAIGPTSpec, absent: frozenset[str]) -> nn.Module:
    return CausalLM(
        Decoder(
            embeddings=TokenEmbeddings(
                spec.vocab_size, spec.hidden_size, positions=PlacedPositions(spec.positions, spec.hidden_size)
            ),
            layers=[_layer(spec) for _ in range(spec.layers)],
            norm=None,
        ),
        nn.Linear(spec.hidden_size, spec.vocab_size, bias=False),
    )


def _weights(spec: OpenAIGPTSpec) -> tuple[Rule, ...]:
    old, new = "h.{}", "model.layers.{}"
    return (
        Rename("transformer.*", "*"),
        # Buffers that were saved with the weights: a causal mask, the positions 0, 1, 2 ...
        Ignore(f"{old}.attn.bias"),
        Ignore("position_ids"),
        # Upstream's Conv1D keeps [in, out].
        *(Transpose(f"{old}.{name}.weight") for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")),
        Split(f"{old}.attn.c_attn.*", tuple(f"{new}.self_attn.{part}_proj.*" for part in "qkv")),
        Rename(f"{old}.attn.c_proj.*", f"{new}.self_attn.o_proj.*"),
        Rename(f"{old}.ln_1.*", f"{new}.attention_norm.*"),
        Rename(f"{old}.ln_2.*", f"{new}.mlp_norm.*"),
        Rename(f"{old}.mlp.c_fc.*", f"{new}.mlp.up_proj.*"),
        Rename(f"{old}.mlp.c_proj.*", f"{new}.mlp.down_proj.*"),
        Rename("tokens_embed.*", "model.embeddings.words.*"),
        Rename("positions_embed.*", "model.embeddings.positions.table.*"),
        *((Tie("lm_head.weight", "model.embeddings.words.weight"),) if spec.tie_word_embeddings else ()),
    )


FAMILY = Family(
    model_type="openai-gpt",
    spec=OpenAIGPTSpec,
    heads={heads.CAUSAL_LM: _causal_lm},
    weights=_weights,
    limits=lambda spec: spec.positions,
    inert=frozenset(
        """n_ctx attn_pdrop embd_pdrop resid_pdrop summary_activation
        summary_first_dropout summary_proj_to_labels summary_type summary_use_proj""".split()
    ),
    tiny={"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 160, "vocab_size": 99},
    variations=(
        # Odd sizes: 3 heads of 7 channels, a head apart.
        {
            "n_embd": 21,
            "n_head": 3,
            "n_layer": 3,
            "afn": "swish",
            "tie_word_embeddings": False,
            "vocab_size": 131,
            "layer_norm_epsilon": 1e-3,
        },
        {"afn": "relu", "n_layer": 1},
    ),
)
