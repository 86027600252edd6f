"""BridgeTower: a tower of words and one of patches, whose upper layers are bridges to layers in which each looks at the
other. https://arxiv.org/abs/2206.08657"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.attention import SelfAttention
from precast.export.blocks.embeddings import CountedPositions, mask_port
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.patches import Patches
from precast.export.families import Family, roberta
from precast.export.families.clip_vision_model import patch_names
from precast.export.signatures import Component
from precast.export.skeletons.detector import PlacedAttention
from precast.export.skeletons.encoder import PreNormLayer
from precast.export.skeletons.post_norm import EMBEDDING_NAMES, ODD, TINY, EncoderSpec, embeddings, layer, layer_names
from precast.export.spec import Spec as Base
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Split, Tie, Unsqueeze, Within
from precast.runtime.catalogue import CATALOGUE
from precast.runtime.errors import ConfigError
from precast.runtime.ports import Out, Port

__all__ = ["FAMILY", "Spec"]

_HEAD = 64  # channels of a head of the tower of patches
_INERT = frozenset({"initializer_factor", "use_cache", "stop_gradient", "tie_word_embeddings", "share_layernorm"})


@dataclass(frozen=True, kw_only=True)
class TextSpec(roberta.Spec):
    vocab_size: int = hf(default=50265)
    max_position_embeddings: int = hf(default=514)
    type_vocab_size: int = hf(default=1)
    layer_norm_eps: float = hf(default=1e-5)
    pad_token_id: int | None = hf(default=1)


@dataclass(frozen=True, kw_only=True)
class VisionSpec(Base):
    hidden_size: int = hf(default=768)
    num_hidden_layers: int = hf(default=12)
    num_channels: int = hf(default=3)
    patch_size: int = hf(default=16)
    image_size: int = hf(default=288)
    layer_norm_eps: float = hf(default=1e-5)
    remove_last_layer: bool = hf(default=False)

    @property
    def layers(self) -> int:
        return self.num_hidden_layers - self.remove_last_layer


@dataclass(frozen=True, kw_only=True)
class Spec(Base):
    text: TextSpec = hf("text_config", default={}, spec=TextSpec, inert=_INERT)
    vision: VisionSpec = hf("vision_config", default={}, spec=VisionSpec, inert=_INERT)
    hidden_size: int = hf(default=768)
    hidden_act: Activation = hf(default=activation("gelu"), read=activation)
    layer_norm_eps: float = hf(default=1e-5)
    num_hidden_layers: int = hf(default=6)
    share_cross_modal_transformer_layers: bool = hf(default=True)
    share_link_tower_layers: bool = hf(default=False, only=(False,))  # with which upstream's own forward fails
    link_tower_type: str = hf(default="add", only=("add", "scaled_add", "interpolate"))

    def __post_init__(self) -> None:
        towers = self.text.num_hidden_layers, self.vision.layers
        if self.hidden_size != self.text.hidden_size:
            raise ConfigError(
                f"'hidden_size' is {self.hidden_size} and 'text_config.hidden_size' {self.text.hidden_size}: they must "
                "be one number"
            )
        if not 1 <= self.num_hidden_layers <= towers[0] <= towers[1]:
            raise ConfigError(
                f"'num_hidden_layers' is {self.num_hidden_layers}, of towers of {towers[0]} layers of words and "
                f"{towers[1]} of patches: at least 1, and not more than either, which has as many patches as words"
            )
        if self.vision.hidden_size % _HEAD:
            raise ConfigError(f"'vision_config.hidden_size' is {self.vision.hidden_size}, no multiple of {_HEAD}")


def _quick_gelu(spec: VisionSpec) -> MLP:
    return MLP(spec.hidden_size, 4 * spec.hidden_size, activation("quick_gelu"))


class CrossLayer(nn.Module):
    """A post-norm layer that looks at others behind itself: x = norm(x + attention(x)); x = norm(x + cross(x, others));
    x = norm(x + mlp(x))."""

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        self.layer = layer(spec)
        self.cross = PlacedAttention(spec.hidden_size, spec.num_attention_heads)
        self.norm = LayerNorm(spec.hidden_size, spec.layer_norm_eps)

    def forward(self, x: Tensor, mask: Tensor | None, others: Tensor, shown: Tensor | None) -> Tensor:
        own = self.layer
        x, _ = own.attention_norm.add(own.self_attn(x, mask), x)
        x, _ = self.norm.add(self.cross(x, others, others, shown), x)
        return own.mlp_norm.add(own.mlp(x), x)[0]


class Bridge(nn.Module):
    """norm(tower + cross), either weighed as ``kind`` says, [B, S, H] both."""

    def __init__(self, size: int, epsilon: float, kind: str) -> None:
        super().__init__()
        self.norm = LayerNorm(size, epsilon)
        self.scaled_factor = nn.Parameter(torch.empty(())) if kind == "scaled_add" else None
        self.beta = nn.Parameter(torch.empty(())) if kind == "interpolate" else None

    def forward(self, tower: Tensor, cross: Tensor) -> Tensor:
        if self.beta is not None:
            tower, cross = tower * (1 - self.beta), cross * self.beta
        elif self.scaled_factor is not None:
            tower = tower * self.scaled_factor
        return self.norm.add(tower, cross)[0]


class Side(nn.Module):
    """What words and patches have alike: what is made of a tower's states for the layers that look at the other side,
    these layers, and bridges to all but the first."""

    def __init__(self, spec: Spec, size: int) -> None:
        super().__init__()
        hidden, count, epsilon = spec.hidden_size, spec.num_hidden_layers, spec.layer_norm_eps
        shared = spec.share_cross_modal_transformer_layers
        self.transforms = nn.ModuleList(nn.Linear(size, hidden) for _ in range(1 if shared else count))
        self.norm = LayerNorm(hidden, epsilon)
        self.bridges = nn.ModuleList(Bridge(hidden, epsilon, spec.link_tower_type) for _ in range(count - 1))
        self.layers = nn.ModuleList(CrossLayer(spec.text) for _ in range(count))

    def entered(self, tower: Tensor, kind: Tensor, cross: Tensor | None, number: int) -> Tensor:
        """What goes into a layer: of the tower, of a ``kind`` [H], and what the layer before made."""
        made = self.transforms[min(number, len(self.transforms) - 1)](tower) + kind
        entered: Tensor = self.norm(made) if cross is None else self.bridges[number - 1](made, cross)
        return entered


class Body(nn.Module):
    """ids, mask [B, S], pixels [B, C, I, I] -> states of words [B, S, H] and of patches [B, 1 + P, H]; of words
    ``alone``, what the last layer of the latter is given."""

    def __init__(self, spec: Spec, *, alone: bool) -> None:
        super().__init__()
        text, vision = spec.text, spec.vision
        assert text.pad_token_id is not None
        size, epsilon, self.alone = vision.hidden_size, vision.layer_norm_eps, alone
        positions = CountedPositions(text.max_position_embeddings, text.hidden_size, text.pad_token_id)
        self.embeddings = embeddings(text, positions)
        self.words = nn.ModuleList(layer(text) for _ in range(text.num_hidden_layers))
        self.patches = Patches(
            size, image=vision.image_size, patch=vision.patch_size, channels=vision.num_channels, bias=False
        )
        self.before, self.behind = LayerNorm(size, epsilon), LayerNorm(size, epsilon)
        self.seen = nn.ModuleList(
            PreNormLayer(
                attention=SelfAttention(size, heads=size // _HEAD),
                attention_norm=LayerNorm(size, epsilon),
                mlp=_quick_gelu(vision),
                mlp_norm=LayerNorm(size, epsilon),
            )
            for _ in range(vision.layers)
        )
        self.kinds = nn.Embedding(2, spec.hidden_size)
        self.text, self.vision = Side(spec, text.hidden_size), Side(spec, size)

    def ports(self) -> tuple[Port, ...]:
        """A text and a picture; all tokens are of one type."""
        words = self.embeddings.ports()[0]
        return words, mask_port(words), *self.patches.ports()

    def forward(self, ids: Tensor, mask: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        words, x, update = self.embeddings(ids), self.before(self.patches(pixels)), None
        text, vision, count = self.text, self.vision, len(self.text.layers)
        start = len(self.words) - count
        read: Tensor | None = None
        looked: Tensor | None = None
        for number, (of_words, of_patches) in enumerate(zip(self.words, self.seen, strict=False)):
            words = of_words(words, mask)
            x, update = of_patches(x, update, None)
            if number < start:
                continue
            patches, x = self.behind.add(update, x)
            update, at = None, number - start
            own = text.entered(words, self.kinds.weight[0], read, at)
            other = vision.entered(patches, self.kinds.weight[1], looked, at)
            read = text.layers[at](own, mask, other, None)
            looked = other if self.alone and at == count - 1 else vision.layers[at](other, None, own, mask)
        assert read is not None and looked is not None
        return read, looked


class _Model(Component):
    """Words and patches -> {"text_features", "image_features", "pooler_output"}; under a head {"logits"}, of each word,
    or of the first of both."""

    def __init__(self, spec: Spec, head: heads.Head, classifier: nn.Module | None = None) -> None:
        super().__init__()
        self.task, words = head.task, head is heads.MASKED_LM
        self.model, self.classifier = Body(spec, alone=words), classifier
        poolers = (None if words else heads.TanhPooler(spec.hidden_size) for _ in range(2))
        self.text_pooler, self.image_pooler = poolers

    def ports(self) -> tuple[Port, ...]:
        return self.model.ports()

    def outs(self) -> tuple[Out, ...]:
        states, pooled = CATALOGUE["feature-extraction"].outs
        if self.classifier is not None:
            return CATALOGUE[self.task].outs
        words = states._replace(name="text_features")
        return words, states._replace(name="image_features", shape=("batch", "patches", "size")), pooled

    def forward(self, input_ids: Tensor, attention_mask: Tensor, pixel_values: Tensor) -> dict[str, Tensor]:
        words, patches = self.model(input_ids, attention_mask, pixel_values)
        if self.text_pooler is None or self.image_pooler is None:
            assert self.classifier is not None
            return {"logits": self.classifier(words)}
        first = self.text_pooler(words, attention_mask), self.image_pooler(patches, attention_mask)
        pooled = torch.cat(first, dim=-1)
        if self.classifier is not None:
            return {"logits": self.classifier(pooled)}
        return {"text_features": words, "image_features": patches, "pooler_output": pooled}


def _words(spec: Spec) -> nn.Module:
    size = spec.hidden_size
    transform = heads.LMTransform(size, size, spec.hidden_act, LayerNorm(size, spec.layer_norm_eps))
    return nn.Sequential(transform, nn.Linear(size, spec.text.vocab_size))


def _side_names(old: str, new: str) -> tuple[Rule, ...]:
    """Of what is behind the tower ``new``, which upstream calls ``old``."""
    cross = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}
    return (
        Rename(f"cross_modal_{old}_transform.weight", f"cross_modal_{old}_transform.0.weight"),
        Rename(f"cross_modal_{old}_transform.bias", f"cross_modal_{old}_transform.0.bias"),
        Rename(f"cross_modal_{old}_transform.*", f"model.{new}.transforms.*"),
        Rename(f"cross_modal_{old}_layernorm.*", f"model.{new}.norm.*"),
        Rename(f"cross_modal_{old}_link_tower.{{}}.LayerNorm.*", f"model.{new}.bridges.{{}}.norm.*"),
        Rename(f"cross_modal_{old}_link_tower.*", f"model.{new}.bridges.*"),
        Rename(f"cross_modal_{old}_pooler.*", f"{old}_pooler.*"),
        Within(
            f"cross_modal_{old}_layers.{{}}.",
            (
                *(Rename(f"crossattention.self.{part}.*", f"cross.{name}.*") for part, name in cross.items()),
                Rename("crossattention.output.dense.*", "cross.o_proj.*"),
                Rename("crossattention.output.LayerNorm.*", "norm.*"),
                *(Rename(rule.old, f"layer.{rule.new}") for rule in layer_names() if isinstance(rule, Rename)),
            ),
            to=f"model.{new}.layers.{{}}.",
        ),
    )


def _weights(spec: Spec) -> tuple[Rule, ...]:
    packed = tuple(f"self_attn.{part}_proj" for part in "qkv")
    return (
        Rename("bridgetower.*", "*"),
        Rename("vision_model.visual.*", "visual.*"),
        Ignore("visual.ln_separate.*"),
        Ignore("text_model.pooler.*"),
        Within("text_model.embeddings.", EMBEDDING_NAMES, to="model.embeddings."),
        Within("text_model.encoder.layer.{}.", layer_names(), to="model.words.{}."),
        Within(
            "visual.transformer.resblocks.{}.",
            (
                *(
                    Split(f"attn.in_proj_{kind}", tuple(f"{name}.{kind}" for name in packed))
                    for kind in ("weight", "bias")
                ),
                Rename("attn.out_proj.*", "self_attn.o_proj.*"),
                Rename("ln_1.*", "attention_norm.*"),
                Rename("ln_2.*", "mlp_norm.*"),
                Rename("mlp.c_fc.*", "mlp.up_proj.*"),
                Rename("mlp.c_proj.*", "mlp.down_proj.*"),
            ),
            to="model.seen.{}.",
        ),
        Rename("visual.ln_pre.*", "model.before.*"),
        Rename("visual.ln_post.*", "model.behind.*"),
        Within("visual.", patch_names(), to=""),
        Unsqueeze("embeddings.class_embedding", 2),
        Rename("embeddings.class_embedding", "model.embeddings.cls_token"),
        *(
            Rename(f"model.embeddings.{name}", f"model.patches.{name}")
            for name in ("projection.*", "positions", "cls_token")
        ),
        *_side_names("text", "text"),
        *_side_names("image", "vision"),
        Rename("token_type_embeddings.*", "model.kinds.*"),
        Rename("itm_score.fc.*", "classifier.*"),
        Rename("mlm_score.transform.dense.*", "classifier.0.dense.*"),
        Rename("mlm_score.transform.LayerNorm.*", "classifier.0.norm.*"),
        Rename("mlm_score.decoder.*", "classifier.1.*"),
        Rename("mlm_score.bias", "classifier.1.bias"),
        Tie("classifier.1.weight", "model.embeddings.words.weight"),
    )


_TEXT = {**TINY, "pad_token_id": 1, "max_position_embeddings": 130}
_VISION = {"hidden_size": 128, "num_hidden_layers": 2, "image_size": 18, "patch_size": 6}
_CUT = {"remove_last_layer": True, "share_layernorm": False}
_SMALL = {key: value for key, value in ODD.items() if key not in ("tie_word_embeddings", "num_labels")}

FAMILY = Family(
    spec=Spec,
    heads={
        heads.BASE: lambda spec, absent: _Model(spec, heads.BASE),
        heads.MASKED_LM: lambda spec, absent: _Model(spec, heads.MASKED_LM, _words(spec)),
        heads.IMAGE_TEXT_RETRIEVAL: lambda spec, absent: _Model(
            spec, heads.IMAGE_TEXT_RETRIEVAL, nn.Linear(2 * spec.hidden_size, 2)
        ),
    },
    weights=_weights,
    inert=_INERT
    | {"num_attention_heads", "init_layernorm_from_vision_encoder", "text_config_dict", "vision_config_dict"},
    tiny={"text_config": _TEXT, "vision_config": _VISION, "hidden_size": 32, "num_hidden_layers": 2}
    | {"link_tower_type": "scaled_add"},
    variations=(
        # Towers of which a layer is beneath all bridges, and one of patches above; 3 heads of 7 channels.
        {"text_config": {**_SMALL, "pad_token_id": 1, "max_position_embeddings": 130, "num_hidden_layers": 3}}
        | {"vision_config": {**_VISION, "hidden_size": 64, "num_hidden_layers": 5, "num_channels": 1, **_CUT}}
        | {"hidden_size": 21, "num_hidden_layers": 2, "layer_norm_eps": 1e-3, "hidden_act": "relu"}
        | {"share_cross_modal_transformer_layers": False, "link_tower_type": "interpolate"},
    ),
)
