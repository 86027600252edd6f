"""ModernBERT: a pre-norm encoder with rotary positions, gated MLPs and local attention on most layers.
https://arxiv.org/abs/2412.13663"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.attention import SelfAttention
from precast.export.blocks.embeddings import TextEmbeddings
from precast.export.blocks.layer_types import FULL, SLIDING
from precast.export.blocks.mlp import GatedMLP
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.rope import Rope, rope
from precast.export.blocks.rotary import RotaryPositions
from precast.export.families import Family, TextSpec
from precast.export.head_sets.encoders import encoder_heads
from precast.export.skeletons.encoder import PreNormEncoder, PreNormLayer
from precast.export.skeletons.post_norm import TINY, tied
from precast.export.spec import hf
from precast.export.weights import Rename, Rule, Split, Tie, Within
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY"]

_SCALINGS = ("default", "linear")


def _rope_parameters(value: Any) -> dict[str, dict[str, Any]] | None:
    """Rotary parameters by kind of layer."""
    if value is None:
        return None
    if not isinstance(value, dict) or set(value) - {FULL, SLIDING}:
        raise ValueError(f"expected an object with {FULL!r} and {SLIDING!r}")
    if not all(isinstance(parameters, (dict, type(None))) for parameters in value.values()):
        raise ValueError(f"{FULL!r} and {SLIDING!r} are objects")
    return {kind: dict(parameters or {}) for kind, parameters in value.items()}


def _layer_types(value: Any) -> list[str] | None:
    if value is not None and (not isinstance(value, list) or set(value) - {FULL, SLIDING}):
        raise ValueError(f"expected a list of {FULL!r} and {SLIDING!r}")
    return value


@dataclass(frozen=True, kw_only=True)
class Spec(TextSpec):
    """Keys of transformers 5 and, where they are absent, those of transformers 4. Defaults are ModernBERT-base's."""

    vocab_size: int = hf(default=50368)
    hidden_size: int = hf(default=768)
    intermediate_size: int = hf(default=1152)
    num_hidden_layers: int = hf(default=22)
    num_attention_heads: int = hf(default=12)
    hidden_activation: Activation = hf(default=activation("gelu"), read=activation)
    max_position_embeddings: int = hf(default=8192)
    norm_eps: float = hf(default=1e-5)
    norm_bias: bool = hf(default=False)
    attention_bias: bool = hf(default=False)
    mlp_bias: bool = hf(default=False)
    decoder_bias: bool = hf(default=True)
    classifier_bias: bool = hf(default=False)
    classifier_activation: Activation = hf(default=activation("gelu"), read=activation)
    classifier_pooling: str = hf(default="cls", only=("cls", "mean"))
    local_attention: int = hf(default=128)
    layer_types: list[str] | None = hf(default=None, read=_layer_types)
    global_attn_every_n_layers: int = hf(default=3)
    rope_parameters: dict[str, Any] | None = hf(default=None, read=_rope_parameters)
    rope_scaling: dict[str, Any] | None = hf(default=None, only=(None,))
    global_rope_theta: float = hf(default=160_000.0)
    local_rope_theta: float | None = hf(default=10_000.0)

    def __post_init__(self) -> None:
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ConfigError(
                f"'hidden_size' {self.hidden_size} must be a multiple of twice 'num_attention_heads' "
                f"{self.num_attention_heads}: heads of equal size, whose channels are turned in pairs"
            )
        if len(self.kinds) != self.num_hidden_layers:
            raise ConfigError(
                f"'layer_types' has {len(self.kinds)} entries for 'num_hidden_layers' {self.num_hidden_layers}"
            )
        for kind in (FULL, SLIDING):
            positions = self.rope(kind)
            if positions.kind not in _SCALINGS:
                raise ConfigError(
                    f"'rope_type' of {kind!r} is {positions.kind!r}; {' or '.join(_SCALINGS)} is honoured here"
                )
            positions.check()

    @property
    def kinds(self) -> list[str]:
        """The kind of each layer."""
        if self.layer_types is not None:
            return self.layer_types
        every = self.global_attn_every_n_layers
        return [SLIDING if layer % every else FULL for layer in range(self.num_hidden_layers)]

    def rope(self, kind: str) -> Rope:
        """How rotary angles are made in a kind of layer."""
        local = self.global_rope_theta if self.local_rope_theta is None else self.local_rope_theta
        return rope(
            self.hidden_size // self.num_attention_heads,
            parameters=(self.rope_parameters or {}).get(kind, {}),
            theta=self.global_rope_theta if kind == FULL else local,
            longest=self.max_position_embeddings,
            name=f"rope_parameters.{kind}",
        )

    def ignored(self) -> tuple[str, ...]:
        """As `Spec`."""
        return tuple(key for kind in (FULL, SLIDING) for key in self.rope(kind).ignored)


def _norm(spec: Spec) -> LayerNorm:
    return LayerNorm(spec.hidden_size, spec.norm_eps, bias=spec.norm_bias)


def _layer(spec: Spec, index: int, kind: str, positions: RotaryPositions) -> PreNormLayer:
    reach = -1 if kind == FULL else spec.local_attention // 2
    return PreNormLayer(
        attention=SelfAttention(
            spec.hidden_size,
            heads=spec.num_attention_heads,
            bias=spec.attention_bias,
            positions=positions,
            window=(reach, reach),
        ),
        attention_norm=_norm(spec) if index else None,  # the embeddings end in one
        mlp=GatedMLP(spec.hidden_size, spec.intermediate_size, spec.hidden_activation, bias=spec.mlp_bias),
        mlp_norm=_norm(spec),
    )


def _model(spec: Spec) -> PreNormEncoder:
    size = spec.hidden_size // spec.num_attention_heads
    ropes = {kind: spec.rope(kind) for kind in spec.kinds}
    positions = {
        kind: RotaryPositions(spec.max_position_embeddings, size, made.theta, made.values.get("factor", 1.0))
        for kind, made in ropes.items()
    }
    return PreNormEncoder(
        embeddings=TextEmbeddings(spec.vocab_size, spec.hidden_size, positions=None, token_types=0, norm=_norm(spec)),
        layers=[_layer(spec, index, kind, positions[kind]) for index, kind in enumerate(spec.kinds)],
        norm=_norm(spec),
    )


def _transform(spec: Spec) -> heads.LMTransform:
    size = spec.hidden_size
    return heads.LMTransform(size, size, spec.classifier_activation, _norm(spec), bias=spec.classifier_bias)


def _decoder(spec: Spec, size: int) -> nn.Linear:
    return nn.Linear(size, spec.vocab_size, bias=spec.decoder_bias)


def _text(spec: Spec, labels: int, first: type[nn.Module] = heads.FirstToken) -> tuple[nn.Module, nn.Module]:
    pooler = heads.MeanPooler() if spec.classifier_pooling == "mean" else first()
    return pooler, nn.Linear(spec.hidden_size, labels)


_LAYER_NAMES = (
    Split("attn.Wqkv.*", tuple(f"self_attn.{part}_proj.*" for part in "qkv")),
    Rename("attn.Wo.*", "self_attn.o_proj.*"),
    Rename("attn_norm.*", "attention_norm.*"),
    Split("mlp.Wi.*", ("mlp.gate_proj.*", "mlp.up_proj.*")),
    Rename("mlp.Wo.*", "mlp.down_proj.*"),
)


def _weights(spec: Spec) -> tuple[Rule, ...]:
    return (
        Rename("model.*", "*"),
        Rename("embeddings.tok_embeddings.*", "model.embeddings.words.*"),
        Rename("embeddings.norm.*", "model.embeddings.norm.*"),
        Within("layers.{}.", _LAYER_NAMES, to="model.layers.{}."),
        Rename("final_norm.*", "model.norm.*"),
        Rename("head.dense.*", "transform.dense.*"),
        Rename("head.norm.*", "transform.norm.*"),
        Tie("qa_outputs.weight", "classifier.weight"),  # upstream has one name for the outputs of all heads
        Tie("qa_outputs.bias", "classifier.bias"),
        *tied(spec),
    )


_VARIATIONS: tuple[dict[str, Any], ...] = (
    # Heads of 6 channels, every bias, mean pooling, another window (an odd one) and other bases.
    {"hidden_size": 18, "num_attention_heads": 3, "intermediate_size": 37, "num_hidden_layers": 3,
     "hidden_activation": "silu", "classifier_activation": "relu", "classifier_pooling": "mean",
     "norm_bias": True, "attention_bias": True, "mlp_bias": True, "classifier_bias": True, "decoder_bias": False,
     "tie_word_embeddings": False, "local_attention": 7, "num_labels": 5, "norm_eps": 1e-3,
     "layer_types": [SLIDING, FULL, SLIDING],
     "rope_parameters": {FULL: {"rope_type": "linear", "rope_theta": 3000.0, "factor": 4.0},
                         SLIDING: {"rope_type": "default", "rope_theta": 700.0}}},
    {"global_attn_every_n_layers": 2, "num_labels": 1, "num_hidden_layers": 3},
)  # fmt: skip

FAMILY = Family(
    spec=Spec,
    heads=encoder_heads(
        _model,
        transform=_transform,
        decoder=_decoder,
        pooler=None,
        text=_text,
        # Unlike the text classifier, upstream looks for the first token behind padding on the left.
        choice=partial(_text, first=heads.FirstRealToken),
        before=_transform,
    ),
    weights=_weights,
    final_norm=True,
    padded_rows_defined=False,
    inert=frozenset({"layer_norm_eps", "position_embedding_type"}),  # in published files, read by nobody
    tiny={**TINY, "num_hidden_layers": 4, "local_attention": 16, "pad_token_id": 0},
    variations=_VARIATIONS,
)
