"""The one table of tasks: what each is called, which of upstream's classes make it, what comes out, who serves it.

Heads, ``AutoModel`` classes, pipelines, the command line, the tables of the documentation and the tests' oracle read
it. A new task is a row here and a file of `precast.runtime.tasks`; a new head is a row and a module.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import NamedTuple

from precast.runtime.errors import UnsupportedTaskError, closest, listing
from precast.runtime.outs import Out

__all__ = ["AUTO", "CATALOGUE", "TaskFacts", "find", "head_tasks", "names", "resolve"]


class TaskFacts(NamedTuple):
    """A task.

    Args:
        endings: of upstream's class names in config.json's ``architectures``; none: no head is made for this task.
        auto: upstream's ``AutoModel`` class for it, or for what it is ``served_by`` where no head is its own. gives:
            what its models return, for that class's documentation.
        outs: outputs of the head; a checkpoint may lack the last ones.
        aliases: other names of the task; ``*`` matches anything.
        served_by: tasks whose artifacts do this one as well as its own, the best first.
        metric: what low precision of its models is judged by (`precast.runtime.metrics`); None: there are none so far.
    """

    name: str
    endings: tuple[str, ...] = ()
    auto: str | None = None
    gives: str = ""
    outs: tuple[Out, ...] = ()
    aliases: tuple[str, ...] = ()
    served_by: tuple[str, ...] = ()
    metric: str | None = None


_TEXT = ("batch", "sequence")

_ROWS = (
    TaskFacts(
        "feature-extraction",
        endings=("Model", "ForSceneTextRecognition", "GenerationEncoder"),  # what upstream's AutoModel makes
        auto="AutoModel",
        gives="The encoder itself: ``last_hidden_state`` and, where there is one, ``pooler_output``.",
        outs=(
            Out("last_hidden_state", (*_TEXT, "size"), "states"),
            Out("pooler_output", ("batch", "size"), "embedding"),
        ),
        metric="cosine",
    ),
    TaskFacts("sentence-embedding", aliases=("sentence-similarity",), served_by=("feature-extraction",)),
    TaskFacts("image-feature-extraction", served_by=("feature-extraction",)),
    TaskFacts(
        "fill-mask",
        endings=("ForMaskedLM", "ForPreTraining"),
        auto="AutoModelForMaskedLM",
        gives="``logits`` over the vocabulary at every position.",
        outs=(Out("logits", (*_TEXT, "vocabulary"), "logits"),),
        metric="divergence",
    ),
    TaskFacts(
        "text-classification",
        endings=("ForSequenceClassification",),
        auto="AutoModelForSequenceClassification",
        gives="``logits`` over the labels of a text.",
        outs=(Out("logits", ("batch", "labels"), "logits"),),
        aliases=("sentiment-analysis",),
        metric="divergence",
    ),
    TaskFacts("zero-shot-classification", served_by=("text-classification",)),
    TaskFacts(
        "token-classification",
        endings=("ForTokenClassification",),
        auto="AutoModelForTokenClassification",
        gives="``logits`` over the labels of every token.",
        outs=(Out("logits", (*_TEXT, "labels"), "logits"),),
        aliases=("ner",),
        metric="divergence",
    ),
    TaskFacts(
        "question-answering",
        endings=("ForQuestionAnswering",),
        auto="AutoModelForQuestionAnswering",
        gives="``start_logits`` and ``end_logits`` of the answer.",
        outs=(Out("start_logits", _TEXT, "logits"), Out("end_logits", _TEXT, "logits")),
        metric="divergence",
    ),
    TaskFacts(
        "visual-question-answering",
        endings=("ForQuestionAnswering",),
        auto="AutoModelForVisualQuestionAnswering",
        gives="``logits`` over the answers that the model knows to a question about a picture.",
        outs=(Out("logits", ("batch", "labels"), "logits"),),
        aliases=("vqa",),
        metric="divergence",
    ),
    TaskFacts(
        "visual-reasoning",  # for which upstream has no class that finds a model's own
        endings=("ForVisualReasoning", "ForImagesAndTextClassification"),
        gives="``logits``: whether what a text says of pictures is so.",
        outs=(Out("logits", ("batch", "labels"), "logits"),),
        metric="divergence",
    ),
    TaskFacts(
        "image-text-retrieval",  # for which upstream has no class that finds a model's own
        endings=("ForImageAndTextRetrieval", "ForImageTextRetrieval"),
        gives="``logits``: how well a text says what is in a picture.",
        outs=(Out("logits", ("batch", "labels"), "logits"),),
    ),
    TaskFacts(
        "multiple-choice",
        endings=("ForMultipleChoice",),
        auto="AutoModelForMultipleChoice",
        gives="``logits`` over the choices; inputs are [B, C, S].",
        outs=(Out("logits", ("batch", "choices"), "logits"),),
        metric="divergence",
    ),
    TaskFacts(
        "next-sentence-prediction",
        endings=("ForNextSentencePrediction",),
        auto="AutoModelForNextSentencePrediction",
        gives="``logits``: the second text follows the first, or does not.",
        outs=(Out("logits", ("batch", "labels"), "logits"),),
        metric="divergence",
    ),
    TaskFacts(
        "text-generation",
        endings=("ForCausalLM", "LMHeadModel", "GenerationDecoder"),
        auto="AutoModelForCausalLM",
        gives="A decoder: ``generate(...)``, and ``logits`` over the vocabulary at every position.",
        outs=(Out("logits", ("batch", "kept", "vocabulary"), "logits"),),
        metric="divergence",
    ),
    TaskFacts(
        "text2text-generation",
        endings=("ForConditionalGeneration", "MTModel", "EncoderDecoderModel"),
        auto="AutoModelForSeq2SeqLM",
        gives="An encoder-decoder: ``generate(...)``, and ``logits`` at every position of ``decoder_input_ids``.",
        outs=(Out("logits", ("batch", "kept", "vocabulary"), "logits"),),
        served_by=("summarization", "translation"),
        metric="divergence",
    ),
    TaskFacts(
        "image-classification",
        endings=("ForImageClassification", "ForImageClassificationWithTeacher"),
        auto="AutoModelForImageClassification",
        gives="``logits`` over the labels of a picture.",
        outs=(Out("logits", ("batch", "labels"), "logits"),),
        metric="divergence",
    ),
    TaskFacts(
        "object-detection",
        endings=("ForObjectDetection",),
        auto="AutoModelForObjectDetection",
        gives="``logits`` over the labels of each object a picture may hold, and ``pred_boxes``.",
        outs=(
            Out("logits", ("batch", "queries", "labels"), "logits"),
            Out("pred_boxes", ("batch", "queries", 4), "boxes"),
        ),
        metric="objects",
    ),
    TaskFacts(
        "zero-shot-object-detection",
        endings=("ForObjectDetection",),
        auto="AutoModelForZeroShotObjectDetection",
        gives="``logits`` of each object a picture may hold for every text, and ``pred_boxes``.",
        outs=(
            Out("logits", ("images", "queries", "texts"), "logits"),
            Out("pred_boxes", ("images", "queries", 4), "boxes"),
        ),
        metric="objects",
    ),
    TaskFacts(
        "zero-shot-image-classification",
        endings=("Model",),
        auto="AutoModelForZeroShotImageClassification",
        gives="``logits_per_image`` and ``logits_per_text`` of pictures and texts, and the embeddings of both.",
        outs=(
            Out("logits_per_image", ("images", "texts"), "logits"),
            Out("logits_per_text", ("texts", "images"), "logits"),
        ),
        metric="divergence",
    ),
    TaskFacts(
        "prompted-segmentation",  # for which upstream has no class that finds a model's own
        endings=("ForImageSegmentation",),
        gives="``logits`` of every pixel of a picture, how much it is what a text beside it says.",
        outs=(Out("logits", ("images", "rows", "columns"), "scores"),),
        metric="maps",
    ),
    TaskFacts(
        "zero-shot-audio-classification",  # whose models upstream's AutoModel makes, and no other class
        endings=("Model",),
        gives="``logits_per_audio`` and ``logits_per_text`` of recordings and texts, and the embeddings of both.",
        outs=(
            Out("logits_per_audio", ("audios", "texts"), "logits"),
            Out("logits_per_text", ("texts", "audios"), "logits"),
        ),
        metric="divergence",
    ),
    TaskFacts(
        "zero-shot-video-classification",  # whose models upstream's AutoModel makes, and no other class
        endings=("Model",),
        gives="``logits_per_video`` and ``logits_per_text`` of videos and texts, and the embeddings of both.",
        outs=(
            Out("logits_per_video", ("videos", "texts"), "logits"),
            Out("logits_per_text", ("texts", "videos"), "logits"),
        ),
        metric="divergence",
    ),
    TaskFacts(
        "mask-generation",
        endings=("Model",),
        auto="AutoModelForMaskGeneration",
        gives="``pred_masks`` for each prompt of points or boxes, and ``iou_scores``, how good the model holds them.",
        outs=(
            Out("iou_scores", ("batch", "prompts", "masks"), "scores"),
            Out("pred_masks", ("batch", "prompts", "masks", "rows", "columns"), "scores", axis=-3),
        ),
        metric="maps",
    ),
    TaskFacts(
        "video-classification",
        endings=("ForVideoClassification",),
        auto="AutoModelForVideoClassification",
        gives="``logits`` over the labels of a video.",
        outs=(Out("logits", ("batch", "labels"), "logits"),),
        metric="divergence",
    ),
    TaskFacts(
        "masked-image-modeling",
        endings=("ForMaskedImageModeling",),
        auto="AutoModelForMaskedImageModeling",
        gives="``reconstruction`` of a picture of which ``bool_masked_pos`` hides some patches.",
        outs=(Out("reconstruction", ("batch", "channels", "rows", "columns"), "scores", axis=-3),),
        metric="maps",
    ),
    TaskFacts(
        "pretraining",
        endings=("ForPreTraining",),
        auto="AutoModelForPreTraining",
        gives="``logits``, the pixels of every patch of a picture of which ``noise`` hides most, ``mask`` and "
        "``ids_restore``; of a video, the pixels of the patches that ``bool_masked_pos`` hides.",
        outs=(
            Out("logits", ("batch", "patches", "pixels"), "scores"),
            Out("mask", ("batch", "patches"), "number"),
            Out("ids_restore", ("batch", "patches"), "number", dtype="int64"),
        ),
        metric="maps",
    ),
    TaskFacts(
        "image-to-image",
        endings=("ForImageSuperResolution",),
        auto="AutoModelForImageToImage",
        gives="``reconstruction``: the picture itself, enlarged or restored.",
        outs=(Out("reconstruction", ("batch", "channels", "rows", "columns"), "scores", axis=-3),),
        metric="maps",
    ),
    TaskFacts(
        "semantic-segmentation",
        endings=("ForSemanticSegmentation",),
        auto="AutoModelForSemanticSegmentation",
        gives="``logits`` over the labels of every place of a picture, of which there are fewer than pixels.",
        outs=(Out("logits", ("batch", "labels", "rows", "columns"), "logits", axis=-3),),
        metric="divergence",
    ),
    TaskFacts(
        "universal-segmentation",
        endings=("ForUniversalSegmentation", "ForInstanceSegmentation", "ForSegmentation"),
        auto="AutoModelForUniversalSegmentation",
        gives="``class_queries_logits``: labels of each segment a picture may hold, and ``masks_queries_logits``, "
        "where it is.",
        outs=(
            Out("class_queries_logits", ("batch", "queries", "labels"), "logits"),
            Out("masks_queries_logits", ("batch", "queries", "rows", "columns"), "scores", axis=-3),
        ),
        metric="segments",
    ),
    TaskFacts("image-segmentation", served_by=("semantic-segmentation", "universal-segmentation")),
    TaskFacts(
        "depth-estimation",
        endings=("ForDepthEstimation",),
        auto="AutoModelForDepthEstimation",
        gives="``predicted_depth`` of every place of a picture.",
        outs=(Out("predicted_depth", ("batch", "rows", "columns"), "scores"),),
        metric="maps",
    ),
    TaskFacts(
        "keypoint-detection",
        endings=("ForKeypointDetection",),
        auto="AutoModelForKeypointDetection",
        gives="``keypoints`` of a picture with their ``scores`` and ``descriptors``, and a ``mask`` of them.",
        outs=(Out("descriptors", ("batch", "keypoints", "size"), "embedding"),),
    ),
    TaskFacts(
        "keypoint-matching",
        endings=("ForKeypointMatching",),
        auto="AutoModelForKeypointMatching",
        gives="``matches`` of the ``keypoints`` of two pictures, and ``matching_scores``.",
        outs=(Out("assignment", ("batch", "keypoints", "others"), "scores"),),
    ),
    TaskFacts(
        "audio-classification",
        endings=("ForAudioClassification", "ForSequenceClassification"),
        auto="AutoModelForAudioClassification",
        gives="``logits`` over the labels of a recording.",
        outs=(Out("logits", ("batch", "labels"), "logits"),),
        metric="divergence",
    ),
    TaskFacts(
        "audio-frame-classification",
        endings=("ForAudioFrameClassification",),
        auto="AutoModelForAudioFrameClassification",
        gives="``logits`` over the labels of every frame of a recording.",
        outs=(Out("logits", ("batch", "frames", "labels"), "logits"),),
        metric="divergence",
    ),
    TaskFacts(
        "audio-xvector",
        endings=("ForXVector",),
        auto="AutoModelForAudioXVector",
        gives="``embeddings`` of who speaks, and ``logits`` over the speakers that it was trained with.",
        outs=(Out("logits", ("batch", "labels"), "logits"), Out("embeddings", ("batch", "size"), "embedding")),
        metric="divergence",
    ),
    TaskFacts(
        "ctc",
        endings=("ForCTC",),
        auto="AutoModelForCTC",
        gives="``logits`` over the vocabulary at every frame of a recording, of which blanks and repetitions are no "
        "letters.",
        outs=(Out("logits", ("batch", "frames", "vocabulary"), "logits"),),
        metric="divergence",
    ),
    TaskFacts(
        "audio-tokenization",
        endings=("Model",),
        auto="AutoModelForAudioTokenization",
        gives="``audio_codes`` of a recording, of every codebook, and ``audio_values``, a recording again, of codes "
        "of the first codebooks.",
        outs=(Out("audio_values", ("batch", "channels", "samples"), "waveform"),),
    ),
    TaskFacts(
        "speech-seq2seq",
        endings=("ForConditionalGeneration", "ForSpeechToText", "EncoderDecoderModel"),
        auto="AutoModelForSpeechSeq2Seq",
        gives="An encoder-decoder that hears: ``generate(...)``, and ``logits`` at every position of "
        "``decoder_input_ids``.",
        outs=(Out("logits", ("batch", "kept", "vocabulary"), "logits"),),
        metric="divergence",
    ),
    TaskFacts(
        "image-text-to-text",
        endings=("ForConditionalGeneration", "Model", "ForCausalLM", "ForVisionText2Text", "EncoderDecoderModel"),
        auto="AutoModelForImageTextToText",
        gives="A model that writes of pictures: ``generate(...)``, and ``logits`` at every position of a text.",
        outs=(Out("logits", ("batch", "kept", "vocabulary"), "logits"),),
        metric="divergence",
    ),
    TaskFacts("image-to-text", served_by=("image-text-to-text",)),
    TaskFacts("automatic-speech-recognition", served_by=("speech-seq2seq", "ctc")),
    TaskFacts(
        "text-to-waveform",
        endings=("Model", "WithHifiGan"),
        auto="AutoModelForTextToWaveform",
        gives="``waveform`` of a text that is read aloud, and ``sequence_lengths``, how many of its samples are.",
        outs=(Out("waveform", ("batch", "samples"), "waveform"),),
    ),
    TaskFacts(
        "text-to-spectrogram",
        endings=("Model", "ForTextToSpeech"),
        auto="AutoModelForTextToSpectrogram",
        gives="``spectrogram`` of a text that is read aloud, of which a vocoder makes a waveform.",
        outs=(Out("spectrogram", ("batch", "spoken", "bins"), "scores"),),
    ),
    TaskFacts(
        "speech-candidates",  # for which upstream has no class but the model's own
        endings=("ModelForConditionalGeneration",),
        gives="``generate(...)``: speech tokens of a text in the voice of a recording; and how well candidates of them "
        "go with texts.",
        outs=(
            Out("logits_per_speech", ("candidates", "texts"), "logits"),
            Out("logits_per_text", ("texts", "candidates"), "logits"),
        ),
    ),
    TaskFacts(
        "vocoder",  # for which upstream has no class that finds a model's own
        endings=("HifiGan",),
        gives="``waveform`` of a ``spectrogram``.",
        outs=(Out("waveform", ("batch", "samples"), "waveform"),),
    ),
    TaskFacts(
        "text-to-audio",
        aliases=("text-to-speech",),
        served_by=("text-to-waveform", "text-to-spectrogram"),
    ),
    TaskFacts(
        "voice-conversion",  # for which upstream has neither a pipeline nor a class that finds a model's own
        endings=("ForSpeechToSpeech",),
        gives="``spectrogram`` of what is said in a recording, in another voice, of which a vocoder makes a waveform.",
        outs=(Out("spectrogram", ("batch", "spoken", "bins"), "scores"),),
        aliases=("speech-to-speech",),
    ),
    TaskFacts(
        "document-question-answering",
        auto="AutoModelForDocumentQuestionAnswering",
        gives="What answers questions to pages: ``start_logits`` and ``end_logits`` of the answer among the words of "
        "one, or ``generate(...)`` where answers are written.",
        served_by=("question-answering", "image-text-to-text"),
    ),
    TaskFacts("summarization", served_by=("text2text-generation",)),
    TaskFacts("translation", aliases=("translation_*_to_*",), served_by=("text2text-generation",)),
)

CATALOGUE: dict[str, TaskFacts] = {facts.name: facts for facts in _ROWS}
AUTO: dict[str, TaskFacts] = {facts.auto: facts for facts in _ROWS if facts.auto is not None}


def head_tasks() -> tuple[str, ...]:
    """The tasks that a model can be exported for, in the table's order."""
    return tuple(facts.name for facts in _ROWS if facts.endings)


def names() -> tuple[str, ...]:
    """Every task, and every other name that stands for one alone."""
    return (*CATALOGUE, *(alias for facts in _ROWS for alias in facts.aliases if "*" not in alias))


def find(name: str) -> TaskFacts | None:
    """The task of that name or alias, or None."""
    if name in CATALOGUE:
        return CATALOGUE[name]
    return next((facts for facts in _ROWS if any(fnmatchcase(name, alias) for alias in facts.aliases)), None)


def resolve(name: object) -> TaskFacts:
    """The task ``name`` means.

    Raises:
        UnsupportedTaskError: there is none; names the closest.
    """
    if not isinstance(name, str):
        raise UnsupportedTaskError(f"A task is named by a string; received {name!r}. Tasks: {listing(CATALOGUE)}.")
    facts = find(name)
    if facts is None:
        near = f"{closest(name, names())} ".lstrip()
        raise UnsupportedTaskError(f"Task {name!r} is not supported. {near}Tasks: {listing(names())}.")
    return facts
