"""LXMERT: words, and regions that a detector found in a picture, each through layers of their own, then through layers
in which each looks at the others. https://arxiv.org/abs/1908.07490"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.embeddings import mask_port
from precast.export.blocks.norms import LayerNorm
from precast.export.families import Family
from precast.export.signatures import Component
from precast.export.skeletons.detector import PlacedAttention
from precast.export.skeletons.post_norm import EMBEDDING_NAMES, EncoderSpec, embeddings, layer, layer_names
from precast.export.spec import Spec as Base
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Within
from precast.runtime.catalogue import CATALOGUE
from precast.runtime.errors import ConfigError
from precast.runtime.ports import Out, Port

__all__ = ["FAMILY", "Spec", "regions_ports"]

_NORM = 1e-12
_INERT = """num_hidden_layers num_object_labels num_attr_labels visual_loss_normalizer task_matched task_mask_lm
task_obj_predict task_qa visual_obj_loss visual_attr_loss visual_feat_loss tie_word_embeddings""".split()


@dataclass(frozen=True, kw_only=True)
class Spec(Base):
    vocab_size: int = hf(default=30522)
    hidden_size: int = hf(default=768)
    num_attention_heads: int = hf(default=12)
    intermediate_size: int = hf(default=3072)
    hidden_act: Activation = hf(default=activation("gelu"), read=activation)
    max_position_embeddings: int = hf(default=512)
    type_vocab_size: int = hf(default=2)
    num_qa_labels: int = hf(default=9500)
    l_layers: int = hf(default=9)
    x_layers: int = hf(default=5)
    r_layers: int = hf(default=5)
    visual_feat_dim: int = hf(default=2048)
    visual_pos_dim: int = hf(default=4)

    def __post_init__(self) -> None:
        if self.x_layers < 1:
            raise ConfigError(f"'x_layers' is {self.x_layers}, and one is the least")

    @property
    def encoder(self) -> EncoderSpec:
        """The sizes of words and layers, which are BERT's."""
        names = ["vocab_size", "hidden_size", "num_attention_heads", "intermediate_size", "hidden_act"]
        names += ["max_position_embeddings", "type_vocab_size"]
        return EncoderSpec(**{name: getattr(self, name) for name in names}, layer_norm_eps=_NORM)


def regions_ports(features: Port) -> tuple[Port, Port]:
    """Features of regions, and the mask beside them, which shows all of them where it is left out."""
    return features, Port("visual_attention_mask", "int64", features.shape[:2], "mask", default=1)


class Regions(nn.Module):
    """(norm(features) + norm(boxes)) / 2, [B, R, F] and [B, R, P] -> [B, R, H]."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.features, self.boxes = spec.visual_feat_dim, spec.visual_pos_dim
        size = spec.hidden_size
        self.visn_fc, self.visn_layer_norm = nn.Linear(self.features, size), LayerNorm(size, _NORM)
        self.box_fc, self.box_layer_norm = nn.Linear(self.boxes, size), LayerNorm(size, _NORM)

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        return (self.visn_layer_norm(self.visn_fc(features)) + self.box_layer_norm(self.box_fc(boxes))) / 2


class CrossLayer(nn.Module):
    """Words look at regions and regions at words, by the same weights; then each goes through a layer of its own."""

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        self.cross = PlacedAttention(spec.hidden_size, spec.num_attention_heads)
        self.norm = LayerNorm(spec.hidden_size, _NORM)
        self.words, self.regions = layer(spec), layer(spec)

    def forward(self, words: Tensor, mask: Tensor, regions: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
        read, _ = self.norm.add(self.cross(regions, words, words, mask), regions)
        return self.of_words(words, mask, regions, shown), self.regions(read, shown)

    def of_words(self, words: Tensor, mask: Tensor, regions: Tensor, shown: Tensor) -> Tensor:
        """The words alone."""
        seen, _ = self.norm.add(self.cross(words, regions, regions, shown), words)
        made: Tensor = self.words(seen, mask)
        return made


class Body(nn.Module):
    """ids, mask, token types [B, S], features [B, R, F], boxes [B, R, P] and mask of regions -> states of words and of
    regions; of words ``alone``, what goes into the last layer of the latter."""

    def __init__(self, spec: Spec, *, alone: bool) -> None:
        super().__init__()
        own, self.alone = spec.encoder, alone
        self.embeddings, self.regions = embeddings(own), Regions(spec)
        self.layers = nn.ModuleList(layer(own) for _ in range(spec.l_layers))
        self.r_layers = nn.ModuleList(layer(own) for _ in range(spec.r_layers))
        self.x_layers = nn.ModuleList(CrossLayer(own) for _ in range(spec.x_layers))

    def forward(
        self, ids: Tensor, mask: Tensor, types: Tensor | None, features: Tensor, boxes: Tensor, shown: Tensor
    ) -> tuple[Tensor, Tensor]:
        words, regions = self.embeddings(ids, types), self.regions(features, boxes)
        for each in self.layers:
            words = each(words, mask)
        for each in self.r_layers:
            regions = each(regions, shown)
        *before, last = self.x_layers
        for each in before:
            words, regions = each(words, mask, regions, shown)
        if self.alone:
            return last.of_words(words, mask, regions, shown), regions  # type: ignore[operator]
        made: tuple[Tensor, Tensor] = last(words, mask, regions, shown)
        return made


class _Model(Component):
    """{"language_output": [B, S, H], "vision_output": [B, R, H], "pooled_output": [B, H]}; with a classifier
    {"question_answering_score": [B, L]}."""

    def __init__(self, spec: Spec, classifier: nn.Module | None = None) -> None:
        super().__init__()
        self.model = Body(spec, alone=classifier is not None)
        self.pooler, self.classifier = heads.TanhPooler(spec.hidden_size), classifier

    def ports(self) -> tuple[Port, ...]:
        words, *types = self.model.embeddings.ports()
        shape, regions = ("batch", "regions"), self.model.regions
        features, shown = regions_ports(Port("visual_feats", "float32", (*shape, regions.features), "features"))
        boxes = Port("visual_pos", "float32", (*shape, regions.boxes), "features")
        return words, mask_port(words), *types, features, boxes, shown

    def outs(self) -> tuple[Out, ...]:
        if self.classifier is not None:
            [scores] = CATALOGUE["visual-question-answering"].outs
            return (scores._replace(name="question_answering_score"),)
        return (
            Out("language_output", ("batch", "sequence", "size"), "states"),
            Out("vision_output", ("batch", "regions", "size"), "states"),
            Out("pooled_output", ("batch", "size"), "embedding"),
        )

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        visual_feats: Tensor,
        visual_pos: Tensor,
        visual_attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
    ) -> dict[str, Tensor]:
        regions = (visual_feats, visual_pos, visual_attention_mask)
        words, seen = self.model(input_ids, attention_mask, token_type_ids, *regions)
        pooled = self.pooler(words, attention_mask)
        if self.classifier is not None:
            return {"question_answering_score": self.classifier(pooled)}
        return {"language_output": words, "vision_output": seen, "pooled_output": pooled}


def _answers(spec: Spec) -> nn.Module:
    size = 2 * spec.hidden_size
    return nn.Sequential(
        nn.Linear(spec.hidden_size, size), nn.GELU(), LayerNorm(size, _NORM), nn.Linear(size, spec.num_qa_labels)
    )


def _weights(spec: Spec) -> tuple[Rule, ...]:
    return (
        Rename("lxmert.*", "*"),
        Ignore("cls.*"),
        Ignore("obj_predict_head.*"),
        Within("embeddings.", EMBEDDING_NAMES, to="model.embeddings."),
        Rename("encoder.visn_fc.*", "model.regions.*"),
        Within("encoder.layer.{}.", layer_names(), to="model.layers.{}."),
        Within("encoder.r_layers.{}.", layer_names(), to="model.r_layers.{}."),
        Within("encoder.x_layers.{}.", _cross_names(), to="model.x_layers.{}."),
        Rename("answer_head.logit_fc.*", "classifier.*"),
    )


def _cross_names() -> tuple[Rule, ...]:
    """Of a layer in which words and regions look at each other."""
    parts = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}
    own = []
    for old, new in (("lang", "words"), ("visn", "regions")):
        own += [Rename(f"{old}_self_att.self.{name}.*", f"{new}.self_attn.{part}.*") for name, part in parts.items()]
        own += [
            Rename(f"{old}_self_att.output.dense.*", f"{new}.self_attn.o_proj.*"),
            Rename(f"{old}_self_att.output.LayerNorm.*", f"{new}.attention_norm.*"),
            Rename(f"{old}_inter.dense.*", f"{new}.mlp.up_proj.*"),
            Rename(f"{old}_output.dense.*", f"{new}.mlp.down_proj.*"),
            Rename(f"{old}_output.LayerNorm.*", f"{new}.mlp_norm.*"),
        ]
    return (
        *(Rename(f"visual_attention.att.{name}.*", f"cross.{part}.*") for name, part in parts.items()),
        Rename("visual_attention.output.dense.*", "cross.o_proj.*"),
        Rename("visual_attention.output.LayerNorm.*", "norm.*"),
        *own,
    )


FAMILY = Family(
    spec=Spec,
    heads={
        heads.BASE: lambda spec, absent: _Model(spec),
        heads.VISUAL_QUESTIONS: lambda spec, absent: _Model(spec, _answers(spec)),
    },
    weights=_weights,
    inert=frozenset(_INERT),
    tiny={"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48, "l_layers": 1, "r_layers": 1}
    | {"x_layers": 2, "vocab_size": 99, "max_position_embeddings": 130, "visual_feat_dim": 13, "num_qa_labels": 7},
    variations=(
        # 3 heads of 7 channels, other numbers of layers, one kind of token.
        {"hidden_size": 21, "num_attention_heads": 3, "intermediate_size": 37, "l_layers": 2, "x_layers": 1}
        | {"vocab_size": 131, "type_vocab_size": 1, "hidden_act": "relu", "visual_pos_dim": 5, "num_qa_labels": 5},
    ),
)
