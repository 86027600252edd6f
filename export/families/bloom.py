"""BLOOM: a pre-norm decoder with linear biases in place of positions and a norm over its embeddings.
https://arxiv.org/abs/2211.05100"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from precast.export.blocks.activations import activation
from precast.export.blocks.alibi import Alibi
from precast.export.blocks.cache import Step
from precast.export.blocks.mlp import MLP
from precast.export.families import Family
from precast.export.head_sets.decoders import QKV, DecoderSpec, causal_heads, layer, layer_norm, names, tied, words
from precast.export.skeletons.decoder import DecoderLayer
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Split
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY", "NAMES", "BloomSpec"]


@dataclass(frozen=True, kw_only=True)
class BloomSpec(DecoderSpec):
    """Upstream's keys and defaults; older files say ``n_embed`` and ``num_attention_heads``."""

    vocab_size: int = hf(default=250880)
    hidden_size: int = hf(("n_embed", "hidden_size"), default=64)
    num_hidden_layers: int = hf(("n_layer", "num_hidden_layers"), default=2)
    num_attention_heads: int = hf(("n_head", "num_attention_heads"), default=8)
    layer_norm_eps: float = hf("layer_norm_epsilon", default=1e-5)
    apply_residual_connection_post_layernorm: bool = hf(default=False)
    tie_word_embeddings: bool = hf(default=True)
    n_inner: int | None = hf(default=None, only=(None,))
    slow_but_exact: bool = hf(default=False)
    pretraining_tp: int = hf(default=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.slow_but_exact and self.pretraining_tp > 1:
            raise ConfigError(
                f"'slow_but_exact' with 'pretraining_tp' {self.pretraining_tp} is not computed here: upstream leaves "
                "the biases of two products out then, and answers as another model. Set 'slow_but_exact' to false"
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


def _mlp(spec: BloomSpec) -> MLP:
    return MLP(spec.hidden_size, 4 * spec.hidden_size, activation("gelu_pytorch_tanh"))


def _layers(spec: BloomSpec) -> list[nn.Module]:
    kind = _NormedResidualLayer if spec.apply_residual_connection_post_layernorm else DecoderLayer
    return [layer(spec, norm=layer_norm, mlp=_mlp, kind=kind, bias=True) for _ in range(spec.num_hidden_layers)]


# Megatron's names, which Falcon has too.
NAMES = names(
    "h.{}",
    output="self_attention.dense",
    attention_norm="input_layernorm",
    mlp_norm="post_attention_layernorm",
    up="mlp.dense_h_to_4h",
    down="mlp.dense_4h_to_h",
    embeddings="word_embeddings",
    norm="ln_f",
)


def _weights(spec: BloomSpec) -> tuple[Rule, ...]:
    return (
        Rename("transformer.*", "*"),
        Ignore("h.{}.self_attention.masked_bias"),
        Rename("word_embeddings_layernorm.*", "model.embeddings.norm.*"),
        Split("h.{}.self_attention.query_key_value.*", QKV, groups=spec.num_attention_heads),
        *NAMES,
        *tied(spec),
    )


FAMILY = Family(
    spec=BloomSpec,
    heads=causal_heads(
        _layers,
        embeddings=lambda spec: words(spec, norm=layer_norm(spec)),
        norm=layer_norm,
        bias=lambda spec: Alibi(spec.num_attention_heads),
        positions=lambda spec: False,
    ),
    weights=_weights,
    final_norm=True,
    inert=frozenset({"attention_softmax_in_fp32", "hidden_dropout"}),
    tiny={"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 99, "pad_token_id": 0},
    variations=(
        # Heads that are no power of two, the other residuals, an untied head. Few heads, so that slopes are small: at
        # 1024 tokens steep ones make upstream round scores by more than the gate allows.
        {"hidden_size": 36, "n_layer": 2, "n_head": 3, "tie_word_embeddings": False}
        | {"apply_residual_connection_post_layernorm": True},
    ),
)
