"""The table of tasks: what is made of it is there, and what it names exists."""

from __future__ import annotations

import pytest
import transformers

import precast
from precast.export.families import find_family, model_types
from precast.export.heads import HEADS
from precast.runtime import auto, catalogue
from precast.runtime.catalogue import AUTO, CATALOGUE
from precast.runtime.errors import InputError, UnsupportedTaskError
from precast.runtime.metrics import METRICS, metric_for
from precast.runtime.ports import KINDS
from precast.runtime.tasks import TASKS

# Tasks that no metric is computed of so far: low precision is refused for them.
UNJUDGED = {
    "audio-tokenization",
    "image-text-retrieval",
    "keypoint-detection",
    "keypoint-matching",
    "speech-candidates",
    "text-to-spectrogram",
    "text-to-waveform",
    "vocoder",
    "voice-conversion",
}
# Heads of which upstream has no class that finds a model's own.
NAMELESS = {
    "image-text-retrieval",
    "prompted-segmentation",
    "speech-candidates",
    "vocoder",
    "visual-reasoning",
    "voice-conversion",
    "zero-shot-audio-classification",
    "zero-shot-video-classification",
}


def test_pipelines_have_a_row_and_rows_are_of_use() -> None:
    assert set(TASKS) <= set(CATALOGUE)
    for facts in CATALOGUE.values():
        assert facts.endings or facts.name in TASKS, f"{facts.name} has neither a head nor a pipeline"
        assert bool(facts.endings) == bool(facts.outs), facts.name
        assert not facts.endings or bool(facts.auto) or facts.name in NAMELESS, facts.name
        assert set(facts.served_by) <= set(CATALOGUE)
        assert facts.endings or any(CATALOGUE[other].endings for other in facts.served_by), facts.name
        if facts.name in TASKS:
            assert TASKS[facts.name].name == facts.name
    assert {head.task for head in HEADS} == {facts.name for facts in CATALOGUE.values() if facts.endings}


def test_metrics_are_computed_of_what_the_task_gives() -> None:
    named = {facts.metric for facts in CATALOGUE.values()} - {None}
    assert named == set(METRICS)
    for facts in CATALOGUE.values():
        kinds = [out.kind for out in facts.outs]
        assert set(kinds) <= set(KINDS), facts.name
        assert facts.metric is None or set(kinds) & set(METRICS[facts.metric].kinds), facts.name


def test_low_precision_is_judged_by_the_metric_of_its_task(monkeypatch: pytest.MonkeyPatch) -> None:
    assert metric_for("fp32", "text-generation", "a toy") is metric_for("fp32", "fill-mask", "a toy") is None
    for precision in ("int8", "int4"):
        assert metric_for(precision, "text2text-generation", "a toy") == "divergence"
        assert metric_for(precision, "feature-extraction", "a toy") == "cosine"
        heads = [facts for facts in CATALOGUE.values() if facts.endings]
        assert {facts.name for facts in heads if facts.metric is None} == UNJUDGED
        assert all(metric_for(precision, facts.name, "a toy") for facts in heads if facts.name not in UNJUDGED)
        for name in UNJUDGED:
            with pytest.raises(InputError, match=rf"'{precision}' is judged .* so far, and a toy is none"):
                metric_for(precision, name, "a toy")
        # A new task may come without one.
        monkeypatch.setitem(CATALOGUE, "fill-mask", CATALOGUE["fill-mask"]._replace(metric=None))
        with pytest.raises(InputError, match=rf"'{precision}' is judged .* text-generation, .* so far, .* toy is none"):
            metric_for(precision, "fill-mask", "a toy")
        monkeypatch.undo()


def test_no_two_tasks_share_a_name() -> None:
    assert len(set(catalogue.names())) == len(catalogue.names())
    for model_type in model_types():
        endings = [ending for head in find_family(model_type).heads for ending in head.architectures]
        assert len(set(endings)) == len(endings), model_type


@pytest.mark.parametrize("name", AUTO)
def test_auto_classes_are_upstreams(name: str) -> None:
    assert hasattr(transformers, name)
    kind = getattr(precast, name)
    assert issubclass(kind, auto.AutoModel) and kind.__name__ == name and kind.task == AUTO[name].name
    assert kind.__doc__ == AUTO[name].gives and name in dir(precast)


def test_other_names() -> None:
    for name, task in (
        ("ner", "token-classification"),
        ("translation_en_to_de", "translation"),
        ("summarization", "summarization"),
        ("sentence-similarity", "sentence-embedding"),
        ("text-to-speech", "text-to-audio"),
    ):
        assert catalogue.resolve(name).name == task
    with pytest.raises(UnsupportedTaskError, match=r"'nerr' is not supported\. Closest: ner"):
        catalogue.resolve("nerr")
    with pytest.raises(UnsupportedTaskError, match="named by a string; received 5"):
        catalogue.resolve(5)
    with pytest.raises(UnsupportedTaskError, match="'multiple-choice' has no pipeline: call the model itself"):
        TASKS.resolve("multiple-choice")
