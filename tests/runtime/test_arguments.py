"""Arguments of every wrong kind: each public callable answers them with a PrecastError, or takes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import tiny_artifacts, tiny_captioner, tiny_pages, tiny_seers, tiny_sounds
from support.recordings import recording

import precast
from precast.export.heads import VOCODER
from precast.runtime import similarity
from precast.runtime.errors import PrecastError
from precast.runtime.generation.config_values import RULES
from precast.runtime.processors.chat import apply_chat_template
from precast.runtime.tasks import TASKS

WRONG: list[Any] = [
    None, True, 5, -1, 2**70, 1.5, float("nan"), "", "x", "x\0", b"x", [], [None], ["x"], {}, {"x": 1}, {1, 2},
    object(), len, Path("x"), np.zeros(2), np.array(None), int, iter(()),
]  # fmt: skip
# What the caller's own functions raise is the caller's.
CALLBACKS = {"progress", "show_progress_bar", "logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn",
             "score_function"}  # fmt: skip


def trials(parameters: Any) -> Iterator[tuple[str, Any]]:
    for name in parameters:
        for value in WRONG:
            if not (name in CALLBACKS and callable(value)):
                yield name, value


def walk(call: Callable[..., Any], given: dict[str, Any], names: Any) -> None:
    """Call with each name's every wrong value in its turn, all else being right."""
    call(**given)
    escaped = []
    for name, value in trials(names):
        try:
            found = call(**{**given, name: value})
            if inspect.isgenerator(found):
                list(found)
        except PrecastError as error:
            escaped += [] if str(error).strip() else [f"{name}={value!r:.60}: no message"]
        except Exception as error:
            escaped.append(f"{name}={value!r:.60}: {type(error).__name__}: {error!s:.150}")
    assert not escaped, "\n".join(escaped)


def names_of(function: Callable[..., Any]) -> list[str]:
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    found = [each.name for each in inspect.signature(function).parameters.values() if each.kind not in kinds]
    return [name for name in found if name != "self"]


@pytest.fixture(scope="module")
def classifier() -> Path:
    return tiny_artifacts.artifact("text-classification")


@pytest.fixture(scope="module")
def embedder() -> Any:
    return precast.load(tiny_artifacts.artifact("feature-extraction"))


@pytest.fixture(scope="module")
def decoder() -> Any:
    return precast.load(tiny_artifacts.language_model())


def test_load(classifier: Path) -> None:
    walk(precast.load, {"path": classifier, "check": "size"}, names_of(precast.load))


def test_verify(classifier: Path) -> None:
    walk(precast.verify, {"path": classifier}, names_of(precast.verify))


def test_pipeline(classifier: Path) -> None:
    given = {"task": "text-classification", "model": classifier}
    walk(precast.pipeline, given, ["device", "threads", "variant"])
    given = {"task": "text-classification", "model": precast.load(classifier)}
    names = [
        "task",
        "model",
        "tokenizer",
        "image_processor",
        "feature_extractor",
        "batch_size",
        "token_budget",
        "progress",
        "top_k",
    ]
    names += ["num_workers", "nonsense"]
    walk(precast.pipeline, given, names)
    assert {*names_of(precast.pipeline)} <= {*names, "device", "threads", "variant"}


@pytest.mark.parametrize("name", names_of(precast.export_model))
def test_export(name: str, tmp_path: Path) -> None:
    """Before anything is read: the source is not there."""
    for value in (5, 1.5, b"x", [], {"x": 1}, object(), np.zeros(2)):
        if name == "token":
            continue  # the Hub client's
        with pytest.raises(PrecastError, match=f"^{name} must be "):
            precast.export_model(**{"source": tmp_path / "none", "out": tmp_path / "out", name: value})


def test_auto_classes(classifier: Path, tmp_path: Path) -> None:
    automatic = [name for name in precast.__all__ if name.startswith("Auto")]
    assert len(automatic) > 8
    given = {"source": classifier, "cache_dir": tmp_path}
    kind = precast.AutoModelForSequenceClassification.from_pretrained
    walk(kind, given, [*names_of(kind), "nonsense"])
    walk(precast.AutoTokenizer.from_pretrained, given, names_of(precast.AutoTokenizer.from_pretrained))


def test_similarities() -> None:
    for name in similarity.__all__:
        function = getattr(similarity, name)
        if callable(function):
            first, second = names_of(function)[:2]
            walk(function, {first: np.ones((2, 3)), second: np.ones((2, 3))}, names_of(function))


def test_calls_of_models(classifier: Path, decoder: Any) -> None:
    ids = np.array([[2, 5, 3]])
    for model in (precast.load(classifier), decoder):
        walk(model, {"input_ids": ids}, [*model.input_names, "position_ids", "nonsense"])

        def by_place(value: Any, model: Any = model) -> Any:
            return model(value)

        walk(by_place, {"value": ids}, ["value"])


def test_embeddings(embedder: Any) -> None:
    from precast.runtime.embedding_options import _NAMES

    for call in (embedder.encode, embedder.encode_query, embedder.encode_document):
        walk(call, {"texts": ["one", "two"]}, ["texts", "inputs", "sentences", *_NAMES, "nonsense"])
    walk(embedder.similarity, {"embeddings1": np.ones(3), "embeddings2": np.ones(3)}, ["embeddings1", "embeddings2"])


def test_generation(decoder: Any) -> None:
    from precast.runtime.generation.api import prepare

    names = [name for name in names_of(prepare) if name != "model"]
    given = {"input_ids": [[5, 6]], "max_new_tokens": 2}

    def with_inputs(inputs: Any = None, **arguments: Any) -> Any:
        return decoder.generate(inputs, **{**given, **({"input_ids": None} if inputs is not None else {}), **arguments})

    walk(with_inputs, {}, [*names, *RULES, "nonsense"])


# Those of encoder-decoders check as text-generation does.
ENCODED = sorted(set(TASKS) - {"summarization", "text2text-generation", "translation"})


@pytest.mark.parametrize("task", ENCODED)
def test_tasks(task: str, decoder: Any) -> None:
    others = {"zero-shot-classification": "text-classification", "sentence-embedding": "feature-extraction"}
    served = others.get(task, task)
    pictures = {"image-classification": "vit", "zero-shot-image-classification": "clip", "image-to-image": "swin2sr"}
    pictures |= {"image-segmentation": "segformer", "depth-estimation": "glpn", "mask-generation": "sam"}
    pictures |= {"zero-shot-object-detection": "owlvit"}
    made = {"image-text-to-text": tiny_seers.seer, "image-to-text": tiny_captioner.captioner}
    made |= {"visual-question-answering": tiny_artifacts.visual_answerer}
    pictures |= {"video-classification": "videomae", "keypoint-matching": "superglue"}
    if task == "image-feature-extraction":
        model: Any = precast.load(tiny_artifacts.picture_features())
    elif task == "object-detection":
        model = precast.load(tiny_artifacts.detector("yolos"))
    elif task == "document-question-answering":
        model = precast.load(tiny_pages.artifact("layoutlm"))
    elif task in made:
        model = precast.load(made[task]())
    elif task == "zero-shot-audio-classification":
        model = precast.load(tiny_sounds.compared(False))
    elif task == "text-to-audio":
        model = precast.load(tiny_artifacts.speaker())
    elif task == "voice-conversion":
        model = precast.load(tiny_sounds.converter())
    elif task in ("audio-classification", "automatic-speech-recognition"):
        model = precast.load(tiny_sounds.classifier("wav2vec2") if "class" in task else tiny_sounds.speller())
    elif task in pictures:
        model = precast.load(tiny_artifacts.pictures(pictures[task]))
    else:
        model = decoder if task == "text-generation" else precast.load(tiny_artifacts.artifact(served))
    extra: dict[str, Any] = {"candidate_labels": ["a", "b"]} if task.startswith("zero-shot") else {}
    text: Any = {"question": "Who?", "context": "He."} if task == "question-answering" else "one [MASK] two"
    if "image" in task or task in (*pictures, "object-detection"):
        text = np.zeros((64, 96, 3), np.uint8)
    if task == "image-text-to-text":
        text = {"images": [text], "text": "<image>a"}
    if task == "visual-question-answering":
        text = {"image": np.zeros((64, 96, 3), np.uint8), "question": "Who?"}
    if task in ("audio-classification", "automatic-speech-recognition", "zero-shot-audio-classification"):
        text = recording(9000)
    if task == "video-classification":
        text = [text] * 20
    if task == "keypoint-matching":
        text = [text] * 2
    if task == "document-question-answering":
        text = {"question": "Who?", "word_boxes": tiny_pages.word_boxes()}
    if task in ("text-generation", "image-text-to-text", "image-to-text"):
        extra = {"max_new_tokens": 2}
    if task == "mask-generation":
        extra = {"points_per_crop": 3}  # a thousand points a call are the default
    beside: dict[str, Any] = {}
    if task == "voice-conversion":
        text = recording(500)
        extra = {"speaker_embeddings": np.ones((1, 7), np.float32), "forward_params": {"maxlenratio": 1.0}}
        beside = {"vocoder": tiny_artifacts.plain("speecht5_hifigan", VOCODER)}
    answer = precast.pipeline(task, model, **beside)
    own = names_of(answer.check)

    def call(inputs: Any = text, **parameters: Any) -> Any:
        found = answer(inputs, **{**extra, **parameters})
        return list(found) if inspect.isgenerator(found) else found

    walk(call, {}, ["inputs", *own, "batch_size", "token_budget", "progress", "num_workers", "nonsense"])


def test_tokenizers(classifier: Path, decoder: Any) -> None:
    for tokenizer in (precast.load(classifier).tokenizer, decoder.tokenizer):
        walk(tokenizer, {"text": ["one", "two"]}, names_of(type(tokenizer).__call__))
        walk(tokenizer.decode, {"token_ids": [5, 6]}, names_of(tokenizer.decode))
        walk(tokenizer.batch_decode, {"sequences": [[5, 6]]}, names_of(tokenizer.batch_decode))
        given = {"conversation": [{"role": "user", "content": "x"}], "chat_template": "{{ messages }}"}
        walk(tokenizer.apply_chat_template, given, names_of(apply_chat_template)[1:])
