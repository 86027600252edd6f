"""What a model is exported for: heads as modules, and the task, architecture and outputs that go with each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from precast.export.blocks.activations import Activation
from precast.export.signatures import Component
from precast.runtime.catalogue import CATALOGUE, TaskFacts, head_tasks
from precast.runtime.ports import Out, Port

__all__ = [
    "AUDIO_CLASSIFICATION",
    "AUDIO_FRAMES",
    "AUDIO_TOKENIZATION",
    "AUDIO_XVECTOR",
    "BASE",
    "CAUSAL_LM",
    "CTC",
    "DEPTH_ESTIMATION",
    "HEADS",
    "IMAGE_CLASSIFICATION",
    "IMAGE_TEXT",
    "IMAGE_TEXT_RETRIEVAL",
    "IMAGE_TO_IMAGE",
    "KEYPOINT_DETECTION",
    "KEYPOINT_MATCHING",
    "MASKED_IMAGE",
    "MASKED_LM",
    "MASK_GENERATION",
    "MULTIPLE_CHOICE",
    "NEXT_SENTENCE",
    "OBJECT_DETECTION",
    "PRETRAINING",
    "PROMPTED_SEGMENTATION",
    "QUESTION_ANSWERING",
    "SEMANTIC_SEGMENTATION",
    "SEQ2SEQ_LM",
    "SEQUENCE_CLASSIFICATION",
    "SPEECH_CANDIDATES",
    "SPEECH_SEQ2SEQ",
    "TEXT_TO_SPECTROGRAM",
    "TEXT_TO_WAVEFORM",
    "TOKEN_CLASSIFICATION",
    "UNIVERSAL_SEGMENTATION",
    "VIDEO_CLASSIFICATION",
    "VISUAL_QUESTIONS",
    "VISUAL_REASONING",
    "VOCODER",
    "VOICE_CONVERSION",
    "ZERO_SHOT_AUDIO",
    "ZERO_SHOT_IMAGE",
    "ZERO_SHOT_OBJECTS",
    "ZERO_SHOT_VIDEO",
    "ClassifierHead",
    "EncoderWithHead",
    "FeatureExtraction",
    "FirstRealToken",
    "FirstToken",
    "Head",
    "LMTransform",
    "MaskedLM",
    "MeanPooler",
    "MultipleChoice",
    "NextSentence",
    "QuestionAnswering",
    "SequenceClassification",
    "TanhPooler",
    "TokenClassification",
]


@dataclass(frozen=True)
class Head:
    """What a model is exported for: a row of `precast.runtime.catalogue`."""

    facts: TaskFacts

    @property
    def task(self) -> str:
        return self.facts.name

    @property
    def architectures(self) -> tuple[str, ...]:
        """Endings of upstream's class names in config.json."""
        return self.facts.endings


HEADS = tuple(Head(CATALOGUE[name]) for name in head_tasks())
_BY_TASK = {head.task: head for head in HEADS}
BASE = _BY_TASK["feature-extraction"]
MASKED_LM = _BY_TASK["fill-mask"]
SEQUENCE_CLASSIFICATION = _BY_TASK["text-classification"]
TOKEN_CLASSIFICATION = _BY_TASK["token-classification"]
QUESTION_ANSWERING = _BY_TASK["question-answering"]
MULTIPLE_CHOICE = _BY_TASK["multiple-choice"]
NEXT_SENTENCE = _BY_TASK["next-sentence-prediction"]
CAUSAL_LM = _BY_TASK["text-generation"]
SEQ2SEQ_LM = _BY_TASK["text2text-generation"]
AUDIO_CLASSIFICATION = _BY_TASK["audio-classification"]
AUDIO_FRAMES = _BY_TASK["audio-frame-classification"]
AUDIO_TOKENIZATION = _BY_TASK["audio-tokenization"]
AUDIO_XVECTOR = _BY_TASK["audio-xvector"]
CTC = _BY_TASK["ctc"]
SPEECH_CANDIDATES = _BY_TASK["speech-candidates"]
SPEECH_SEQ2SEQ = _BY_TASK["speech-seq2seq"]
TEXT_TO_SPECTROGRAM = _BY_TASK["text-to-spectrogram"]
TEXT_TO_WAVEFORM = _BY_TASK["text-to-waveform"]
IMAGE_CLASSIFICATION = _BY_TASK["image-classification"]
OBJECT_DETECTION = _BY_TASK["object-detection"]
IMAGE_TEXT = _BY_TASK["image-text-to-text"]
IMAGE_TEXT_RETRIEVAL = _BY_TASK["image-text-retrieval"]
IMAGE_TO_IMAGE = _BY_TASK["image-to-image"]
MASKED_IMAGE = _BY_TASK["masked-image-modeling"]
PRETRAINING = _BY_TASK["pretraining"]
MASK_GENERATION = _BY_TASK["mask-generation"]
VIDEO_CLASSIFICATION = _BY_TASK["video-classification"]
SEMANTIC_SEGMENTATION = _BY_TASK["semantic-segmentation"]
PROMPTED_SEGMENTATION = _BY_TASK["prompted-segmentation"]
UNIVERSAL_SEGMENTATION = _BY_TASK["universal-segmentation"]
DEPTH_ESTIMATION = _BY_TASK["depth-estimation"]
KEYPOINT_DETECTION = _BY_TASK["keypoint-detection"]
KEYPOINT_MATCHING = _BY_TASK["keypoint-matching"]
VISUAL_QUESTIONS = _BY_TASK["visual-question-answering"]
VISUAL_REASONING = _BY_TASK["visual-reasoning"]
VOCODER = _BY_TASK["vocoder"]
VOICE_CONVERSION = _BY_TASK["voice-conversion"]
ZERO_SHOT_AUDIO = _BY_TASK["zero-shot-audio-classification"]
ZERO_SHOT_IMAGE = _BY_TASK["zero-shot-image-classification"]
ZERO_SHOT_VIDEO = _BY_TASK["zero-shot-video-classification"]
ZERO_SHOT_OBJECTS = _BY_TASK["zero-shot-object-detection"]


class FirstToken(nn.Module):
    """Hidden states [B, S, H] -> the first token's, [B, H]."""

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        return states[:, 0]


class FirstRealToken(nn.Module):
    """Hidden states [B, S, H] -> those of the first token that is not padding, [B, H]."""

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        first = mask.argmax(dim=-1)[:, None, None].expand(-1, 1, states.shape[-1])
        return states.gather(1, first)[:, 0]


class MeanPooler(nn.Module):
    """Hidden states [B, S, H] -> their mean over the tokens that are not padding, [B, H]."""

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        real = mask[..., None].to(states.dtype)
        return (states * real).sum(dim=1) / real.sum(dim=1)


class TanhPooler(nn.Module):
    """act(dense(first token)), [B, S, H] -> [B, H]; BERT's pooler with its default tanh."""

    def __init__(self, size: int, out: int | None = None, act: Activation = torch.tanh) -> None:
        super().__init__()
        self.act = act
        self.dense = nn.Linear(size, size if out is None else out)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        return self.act(self.dense(states[:, 0]))


class ClassifierHead(nn.Module):
    """out_proj(act(dense(x))), [B, H] -> [B, L]."""

    def __init__(self, size: int, labels: int, act: Activation) -> None:
        super().__init__()
        self.act = act
        self.dense = nn.Linear(size, size)
        self.out_proj = nn.Linear(size, labels)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_proj(self.act(self.dense(x)))


class LMTransform(nn.Module):
    """norm(act(dense(x))) before a masked-LM decoder, [B, S, H] -> [B, S, E]."""

    def __init__(self, size: int, out: int, act: Activation, norm: nn.Module, bias: bool = True) -> None:
        super().__init__()
        self.act = act
        self.dense = nn.Linear(size, out, bias=bias)
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.act(self.dense(x)))


class EncoderWithHead(Component):
    """A model with a task on top: ids, mask and token types [B, S], and what else its body takes -> named outputs.

    ``outputs`` makes them of the hidden states [B, S, H]; ``transform`` goes before the last projection, if given.
    """

    task: ClassVar[str]

    def __init__(self, model: nn.Module, transform: nn.Module | None = None) -> None:
        super().__init__()
        self.model = model
        self.transform = transform

    def ports(self) -> tuple[Port, ...]:
        """What its body takes."""
        made: tuple[Port, ...] = self.model.ports()  # type: ignore[operator]
        return made

    def outs(self) -> tuple[Out, ...]:
        """What its row of the catalogue says."""
        return CATALOGUE[self.task].outs

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        bbox: Tensor | None = None,
        pixel_values: Tensor | None = None,
    ) -> dict[str, Tensor]:
        page = {"bbox": bbox, "pixel_values": pixel_values}
        given = {name: value for name, value in page.items() if value is not None}
        return self.outputs(self.model(input_ids, attention_mask, token_type_ids, **given), attention_mask)

    def outputs(self, states: Tensor, mask: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError

    def transformed(self, states: Tensor) -> Tensor:
        return states if self.transform is None else self.transform(states)


class FeatureExtraction(EncoderWithHead):
    """{"last_hidden_state": [B, S, H], "pooler_output": [B, H]}; the latter where the checkpoint has a pooler."""

    task = "feature-extraction"

    def __init__(self, model: nn.Module, pooler: nn.Module | None = None) -> None:
        super().__init__(model)
        self.pooler = pooler

    def outs(self) -> tuple[Out, ...]:
        """Without the pooler's, where there is none."""
        return super().outs()[: 1 if self.pooler is None else 2]

    def outputs(self, states: Tensor, mask: Tensor) -> dict[str, Tensor]:
        outputs = {"last_hidden_state": states}
        if self.pooler is not None:
            outputs["pooler_output"] = self.pooler(states, mask)
        return outputs


class MaskedLM(EncoderWithHead):
    """{"logits": [B, S, V]}."""

    task = "fill-mask"

    def __init__(self, model: nn.Module, transform: nn.Module, decoder: nn.Linear) -> None:
        super().__init__(model, transform)
        self.decoder = decoder

    def outputs(self, states: Tensor, mask: Tensor) -> dict[str, Tensor]:
        return {"logits": self.decoder(self.transformed(states))}


class SequenceClassification(EncoderWithHead):
    """{"logits": [B, L]}; also regression (L = 1) and multi-label."""

    task = "text-classification"

    def __init__(
        self, model: nn.Module, pooler: nn.Module, classifier: nn.Module, transform: nn.Module | None = None
    ) -> None:
        super().__init__(model, transform)
        self.pooler = pooler
        self.classifier = classifier

    def outputs(self, states: Tensor, mask: Tensor) -> dict[str, Tensor]:
        return {"logits": self.classifier(self.transformed(self.pooler(states, mask)))}


class NextSentence(EncoderWithHead):
    """{"logits": [B, 2]}: whether the second sentence follows the first (label 0) or not (label 1)."""

    task = "next-sentence-prediction"

    def __init__(self, model: nn.Module, pooler: nn.Module, seq_relationship: nn.Module) -> None:
        super().__init__(model)
        self.pooler = pooler
        self.seq_relationship = seq_relationship

    def outputs(self, states: Tensor, mask: Tensor) -> dict[str, Tensor]:
        return {"logits": self.seq_relationship(self.pooler(states, mask))}


class TokenClassification(EncoderWithHead):
    """{"logits": [B, S, L]}."""

    task = "token-classification"

    def __init__(self, model: nn.Module, classifier: nn.Module, transform: nn.Module | None = None) -> None:
        super().__init__(model, transform)
        self.classifier = classifier

    def outputs(self, states: Tensor, mask: Tensor) -> dict[str, Tensor]:
        return {"logits": self.classifier(self.transformed(states))}


class QuestionAnswering(EncoderWithHead):
    """{"start_logits": [B, S], "end_logits": [B, S]}."""

    task = "question-answering"

    def __init__(self, model: nn.Module, qa_outputs: nn.Module, transform: nn.Module | None = None) -> None:
        super().__init__(model, transform)
        self.qa_outputs = qa_outputs

    def outputs(self, states: Tensor, mask: Tensor) -> dict[str, Tensor]:
        start, end = self.qa_outputs(self.transformed(states)).unbind(-1)
        return {"start_logits": start, "end_logits": end}


class MultipleChoice(SequenceClassification):
    """Inputs [B, C, S] -> {"logits": [B, C]}: each choice is scored as a text of its own."""

    task = "multiple-choice"

    def ports(self) -> tuple[Port, ...]:
        """Its body's, one for each choice."""
        return tuple(port._replace(shape=("batch", "choices", *port.shape[1:])) for port in super().ports())

    def forward(  # type: ignore[override] # of texts alone
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        batch, choices, _ = input_ids.shape
        types = None if token_type_ids is None else token_type_ids.flatten(0, 1)
        scores = super().forward(input_ids.flatten(0, 1), attention_mask.flatten(0, 1), types)
        return {"logits": scores["logits"].view(batch, choices)}
