"""ImageGPT: GPT-2 over the colours of a small picture, pixel by pixel.
https://cdn.openai.com/papers/Generative_Pretraining_from_Pixels_V2.pdf"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.attention import SelfAttention, head_size
from precast.export.blocks.embeddings import LearnedPositions, TextEmbeddings
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import RMSNorm
from precast.export.families import Family, LabelSpec
from precast.export.signatures import Component
from precast.export.skeletons.encoder import PreNormLayer
from precast.export.skeletons.stack import Stack
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Split, Transpose, Within
from precast.runtime.catalogue import CATALOGUE
from precast.runtime.ports import Out, Port

__all__ = ["FAMILY", "Spec"]


@dataclass(frozen=True, kw_only=True)
class Spec(LabelSpec):
    """Defaults are ImageGPT-small's: 512 colours, and what stands before the first pixel."""

    vocab_size: int = hf(default=513)
    n_positions: int = hf(("n_positions", "max_position_embeddings"), default=1024)
    hidden_size: int = hf(("n_embd", "hidden_size"), default=512)
    num_hidden_layers: int = hf(("n_layer", "num_hidden_layers"), default=24)
    num_attention_heads: int = hf(("n_head", "num_attention_heads"), default=8)
    n_inner: int | None = hf(default=None)
    activation_function: Activation = hf(default=activation("quick_gelu"), read=activation)
    layer_norm_epsilon: float = hf(default=1e-5)
    scale_attn_weights: bool = hf(default=True)
    scale_attn_by_inverse_layer_idx: bool = hf(default=False)

    def scale(self, layer: int) -> float:
        """The factor of a layer's scores."""
        scale = head_size(self.hidden_size, self.num_attention_heads) ** -0.5 if self.scale_attn_weights else 1.0
        return scale / (layer + 1) if self.scale_attn_by_inverse_layer_idx else scale


class _Model(nn.Module):
    """Colours [B, S] -> states [B, S, H], each of the pixels before it and its own."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        size, epsilon = spec.hidden_size, spec.layer_norm_epsilon
        positions = LearnedPositions(spec.n_positions, size)
        self.embeddings = TextEmbeddings(spec.vocab_size, size, positions=positions, token_types=0, norm=None)
        layers = [
            PreNormLayer(
                attention=SelfAttention(size, heads=spec.num_attention_heads, scale=spec.scale(number), window=(-1, 0)),
                attention_norm=RMSNorm(size, epsilon),
                mlp=MLP(size, 4 * size if spec.n_inner is None else spec.n_inner, spec.activation_function),
                mlp_norm=RMSNorm(size, epsilon),
            )
            for number in range(spec.num_hidden_layers)
        ]
        self.stack = Stack(layers, RMSNorm(size, epsilon))

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.stack(self.embeddings(input_ids))


class _Features(Component):
    """{"last_hidden_state": [B, S, H]}."""

    task = "feature-extraction"

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.model = _Model(spec)

    def ports(self) -> tuple[Port, ...]:
        return self.model.embeddings.ports()

    def outs(self) -> tuple[Out, ...]:
        return CATALOGUE[self.task].outs[:1]

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        return {"last_hidden_state": self.model(input_ids)}


class _Classification(_Features):
    """{"logits": [B, L]} of the mean of all pixels."""

    task = "image-classification"

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.score = nn.Linear(spec.hidden_size, spec.labels, bias=False)

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        return {"logits": self.score(self.model(input_ids).mean(dim=1))}


def _weights(spec: Spec) -> tuple[Rule, ...]:
    layer = (
        *(Transpose(f"{name}.weight") for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")),
        *(Split(f"attn.c_attn.{kind}", tuple(f"self_attn.{p}_proj.{kind}" for p in "qkv")) for kind in _PARTS),
        Rename("attn.c_proj.*", "self_attn.o_proj.*"),
        Rename("mlp.c_fc.*", "mlp.up_proj.*"),
        Rename("mlp.c_proj.*", "mlp.down_proj.*"),
        Rename("ln_1.*", "attention_norm.*"),
        Rename("ln_2.*", "mlp_norm.*"),
    )
    return (
        Rename("transformer.*", "*"),
        Ignore("lm_head.*"),
        # Causal masks that were saved with the weights.
        Ignore("h.{}.attn.bias"),
        Ignore("h.{}.attn.masked_bias"),
        Within("h.{}.", layer, to="model.stack.layers.{}."),
        Rename("wte.*", "model.embeddings.words.*"),
        Rename("wpe.*", "model.embeddings.positions.table.*"),
        Rename("ln_f.*", "model.stack.norm.*"),
    )


_PARTS = ("weight", "bias")

FAMILY = Family(
    spec=Spec,
    heads={
        heads.BASE: lambda spec, absent: _Features(spec),
        heads.IMAGE_CLASSIFICATION: lambda spec, absent: _Classification(spec),
    },
    weights=_weights,
    final_norm=True,
    inert=frozenset("""attn_pdrop embd_pdrop reorder_and_upcast_attn resid_pdrop tie_word_embeddings""".split()),
    refused={"ForCausalImageModeling": "a model that draws pixels: its body is task='feature-extraction'"},
    tiny={"vocab_size": 65, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4},
    variations=(
        {"vocab_size": 33, "n_positions": 130, "n_embd": 21, "n_head": 3, "n_inner": 37, "num_labels": 5}
        | {"activation_function": "gelu", "layer_norm_epsilon": 1e-3, "scale_attn_by_inverse_layer_idx": True},
        {"n_layer": 1, "scale_attn_weights": False},
    ),
)
