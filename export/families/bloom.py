"""BLOOM: a pre-norm decoder with linear biases in place of positions and a norm over its embeddings.
https://arxiv.org/abs/2211.05100"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.activations import activation
from precast.export.blocks.alibi import Alibi
from precast.export.blocks.attention import CachedSelfAttention
from precast.export.blocks.cache import Step
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm
from precast.export.families import Family, TextSpec
from precast.export.generative import CausalLM
from precast.export.skeletons.decoder import Decoder, DecoderLayer, TokenEmbeddings
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, SplitGroups, Tie
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY", "BloomSpec"]


@dataclass(frozen=True, kw_only=True)
class BloomSpec(TextSpec):
    """Upstream's keys and defaults; older files say ``n_embed`` and ``num_attention_heads``."""

    vocab_size: int = hf(default=250880)
    hidden_size: int = hf(("n_embed", "hidden_size"), default=64)
    num_hidden_layers: int = hf(("n_layer", "num_hidden_layers"), default=2)
    num_attention_heads: int = hf(("n_head", "num_attention_heads"), default=8)
    layer_norm_epsilon: float = hf(default=1e-5)
    apply_residual_connection_post_layernorm: bool = hf(default=False)
    tie_word_embeddings: bool = hf(default=True)
    n_inner: int | None = hf(default=None, only=(None,))
    slow_but_exact: bool = hf(default=False)
    pretraining_tp: int = hf(default=1)

    def __post_init__(self) -> None:
        if self.slow_but_exact and self.pretraining_tp > 1:
            raise ConfigError(
                f"'slow_but_exact' with 'pretraining_tp' {self.pretraining_tp} is not computed here: upstream leaves "
                "the biases of two products out then, and answers as another model. Set 'slow_but_exact' to false"
            )
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"'hidden_size' {self.hidden_size} must be a multiple of 'n_head' {self.num_attention_heads}"
            )


class _NormedResidualLayer(DecoderLayer):
    """x = norm(x) + attention(norm(x)), and likewise the MLP: residuals start behind the norms."""

    def forward(
        self, x: Tensor, update: Tensor | None, step: Step, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `DecoderLayer`."""
        x = self.attention_norm(x) if update is None else self.attention_norm.add(update, x)[0]
        x = self.mlp_norm.add(self.self_attn(x, step, bias), x)[0]
        return x, self.mlp(x)


def _layer(spec: BloomSpec) -> DecoderLayer:
    kind = _NormedResidualLayer if spec.apply_residual_connection_post_layernorm else DecoderLayer
    return kind(
        attention=CachedSelfAttention(spec.hidden_size, heads=spec.num_attention_heads, bias=True),
        attention_norm=LayerNorm(spec.hidden_size, spec.layer_norm_epsilon),
        mlp=MLP(spec.hidden_size, 4 * spec.hidden_size, activation("gelu_pytorch_tanh")),
        mlp_norm=LayerNorm(spec.hidden_size, spec.layer_norm_epsilon),
    )


def _causal_lm(spec: BloomSpec, absent: frozenset[str]) -> nn.Module:
    decoder = Decoder(
        embeddings=TokenEmbeddings(
            spec.vocab_size, spec.hidden_size, norm=LayerNorm(spec.hidden_size, spec.layer_norm_epsilon)
        ),
        layers=[_layer(spec) for _ in range(spec.num_hidden_layers)],
        norm=LayerNorm(spec.hidden_size, spec.layer_norm_epsilon),
        bias=Alibi(spec.num_attention_heads),
    )
    return CausalLM(decoder, nn.Linear(spec.hidden_size, spec.vocab_size, bias=False), positions=False)


def _weights(spec: BloomSpec) -> tuple[Rule, ...]:
    tie = (Tie("lm_head.weight", "model.embeddings.words.weight"),) if spec.tie_word_embeddings else ()
    layers, attention = "model.layers.{}.", "model.layers.{}.self_attn."
    return (
        # Upstream's own checkpoints are those of the model without a head.
        Rename("word_embeddings*", "transformer.word_embeddings*"),
        Rename("h.*", "transformer.h.*"),
        Rename("ln_f.*", "transformer.ln_f.*"),
        Ignore("transformer.h.{}.self_attention.masked_bias"),
        Rename("transformer.word_embeddings.*", "model.embeddings.words.*"),
        Rename("transformer.word_embeddings_layernorm.*", "model.embeddings.norm.*"),
        Rename("transformer.ln_f.*", "model.norm.*"),
        Rename("transformer.h.*", "model.layers.*"),
        SplitGroups(
            layers + "self_attention.query_key_value.*",
            tuple(f"{attention}{part}_proj.*" for part in "qkv"),
            groups=spec.num_attention_heads,
            shares=(1, 1, 1),
        ),
        Rename(layers + "self_attention.dense.*", attention + "o_proj.*"),
        Rename(layers + "input_layernorm.*", layers + "attention_norm.*"),
        Rename(layers + "post_attention_layernorm.*", layers + "mlp_norm.*"),
        Rename(layers + "mlp.dense_h_to_4h.*", layers + "mlp.up_proj.*"),
        Rename(layers + "mlp.dense_4h_to_h.*", layers + "mlp.down_proj.*"),
        *tie,
    )


FAMILY = Family(
    spec=BloomSpec,
    heads={heads.CAUSAL_LM: _causal_lm},
    weights=_weights,
    final_norm=True,
    inert=frozenset({"attention_softmax_in_fp32", "hidden_dropout"}),
    tiny={"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 99, "pad_token_id": 0},
    variations=(
        # Heads that are no power of two, the other residuals, an untied head. Few heads, so that slopes are small: at
        # 1024 tokens steep ones make upstream round scores by more than the gate allows.
        {
            "hidden_size": 36,
            "n_layer": 2,
            "n_head": 3,
            "apply_residual_connection_post_layernorm": True,
            "tie_word_embeddings": False,
        },
    ),
)
