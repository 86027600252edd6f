"""DeiT: ViT with a distillation token beside the class token; checkpoints of two classifiers answer with the mean of
both. https://arxiv.org/abs/2012.12877"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from precast.export import heads
from precast.export.families import vit
from precast.export.image_heads import ImageClassification, ImageFeatures, ImageModel, both, both_outs
from precast.export.weights import Rename, Rule
from precast.runtime.ports import Out

__all__ = ["FAMILY"]

_TOKENS = "cls_token", "distillation_token"
_TEACHER = "distillation_classifier"


class _WithTeacher(ImageClassification):
    """The mean of a classifier of the first token and of one of the second."""

    def __init__(self, model: ImageModel, classifier: nn.Module, distillation_classifier: nn.Module) -> None:
        super().__init__(model, classifier)
        self.distillation_classifier = distillation_classifier

    def outs(self) -> tuple[Out, ...]:
        [logits] = super().outs()
        return both_outs(logits)

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        states = self.model(pixel_values)
        return both(self.classifier(states[:, 0]), self.distillation_classifier(states[:, 1]))


def _body(spec: vit.Spec) -> ImageModel:
    return vit.body(spec, _TOKENS)


def _base(spec: vit.Spec, absent: frozenset[str]) -> nn.Module:
    return ImageFeatures(_body(spec), None if "pooler" in absent else vit.Pooler(spec))


def _classifier(spec: vit.Spec, absent: frozenset[str]) -> nn.Module:
    classifiers = [nn.Linear(spec.hidden_size, spec.labels) for _ in range(1 if _TEACHER in absent else 2)]
    return (ImageClassification if _TEACHER in absent else _WithTeacher)(_body(spec), *classifiers)


def _weights(spec: vit.Spec) -> tuple[Rule, ...]:
    return (
        *vit.model_names("deit", masked=True),
        Rename("embeddings.distillation_token", "model.embeddings.distillation_token"),
        Rename("cls_classifier.*", "classifier.*"),
    )


FAMILY = replace(
    vit.FAMILY,
    heads={
        heads.BASE: _base,
        heads.MASKED_IMAGE: lambda spec, absent: vit.masked(spec, _TOKENS),
        heads.IMAGE_CLASSIFICATION: _classifier,
    },
    weights=_weights,
    optional=("pooler", _TEACHER),
    tiny={**vit.FAMILY.tiny, "architectures": ["DeiTForImageClassification"]},
    variations=(
        *vit.FAMILY.variations,
        {"architectures": ["DeiTForImageClassificationWithTeacher"], "num_labels": 3, "num_hidden_layers": 1},
    ),
)
