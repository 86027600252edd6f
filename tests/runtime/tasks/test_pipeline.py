"""`pipeline()` and what every task shares: names, kinds of input, order, laziness, lightness."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
import transformers
from support import doubles

from precast.runtime.errors import InputError, PrecastError, UnsupportedTaskError
from precast.runtime.tasks import TASKS, pipeline

TEXT_TASKS = {
    "feature-extraction",
    "fill-mask",
    "question-answering",
    "text-classification",
    "token-classification",
    "zero-shot-classification",
}


@pytest.fixture(scope="module")
def double():
    upstream = doubles.tiny_bert("BertForSequenceClassification", 3, scale=4.0, num_labels=3)
    return doubles.UpstreamModel(upstream, ("text-classification",), doubles.tokenizer())


@pytest.fixture
def classify(double):
    double.shapes.clear()
    return pipeline("text-classification", double)


def test_tasks_are_found_by_file_name():
    assert set(TASKS) >= TEXT_TASKS
    for name in TASKS:
        assert TASKS[name].name == name
        assert TASKS.resolve(name) == name
    assert TASKS.resolve("ner") == "token-classification"
    assert TASKS.resolve("sentiment-analysis") == "text-classification"


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("text-clasification", "'text-clasification' is not supported. Closest: text-classification"),
        ("sentiment", "Closest: sentiment-analysis"),
        ("base", "'base' is not supported"),
        ("_text", "'_text' is not supported"),
        (None, "A task is named by a string; received None"),
    ],
)
def test_unknown_tasks_are_refused_with_near_ones(double, task, message):
    with pytest.raises(UnsupportedTaskError, match=message):
        pipeline(task, double)


def test_a_task_the_artifact_cannot_serve_is_refused(double):
    with pytest.raises(
        UnsupportedTaskError, match="'fill-mask' needs an artifact exported for fill-mask; this one serves: text"
    ):
        pipeline("fill-mask", double)


def test_a_model_without_a_tokenizer_is_refused(double):
    bare = doubles.UpstreamModel(double.upstream, double.tasks)
    with pytest.raises(InputError, match=r"needs a tokenizer.*pipeline\(..., tokenizer=...\)"):
        pipeline("text-classification", bare)
    given = pipeline("text-classification", bare, tokenizer=doubles.minilm())
    assert given("x") == pipeline("text-classification", double)("x")


def test_wrong_defaults_are_refused_at_once(double):
    with pytest.raises(InputError, match="top_k"):
        pipeline("text-classification", double, top_k=-3)
    with pytest.raises(InputError, match="batch_size"):
        pipeline("text-classification", double, batch_size=0)
    with pytest.raises(PrecastError, match="Precision is chosen at export"):
        pipeline("zero-shot-classification", double, dtype="float16")


def test_kinds_of_input_give_upstreams_kinds_of_result(double, classify):
    theirs = transformers.pipeline(
        "text-classification", double.upstream, tokenizer=doubles.upstream_tokenizer(), device="cpu"
    )
    texts = doubles.texts()[:5]
    for make in (list, tuple):
        # Upstream hands a tuple to its tokenizer as it is; here it is a list like any other.
        doubles.assert_same(classify(make(texts)), theirs(list(texts)))
    found = classify(text for text in texts)
    assert iter(found) is found
    doubles.assert_same(list(found), list(theirs(text for text in texts)))
    assert classify([]) == []
    assert list(classify(iter(()))) == []


def test_the_order_is_that_of_the_inputs(classify):
    texts = [text for text in doubles.texts(60, seed=5) if text.strip()]
    alone = [classify(text)[0] for text in texts]
    doubles.assert_same(classify(texts), alone, tolerance=2e-6)
    doubles.assert_same(list(classify(iter(texts), token_budget=200)), alone, tolerance=2e-6)


def test_batches_are_sorted_and_within_the_budget(double, classify):
    texts = doubles.texts(200, seed=5)
    classify(texts, token_budget=512)
    assert all(rows == 1 or rows * length <= 512 for rows, length in double.shapes)
    lengths = [length for _, length in double.shapes]
    assert lengths == sorted(lengths, reverse=True)
    real = sum(len(ids) for ids in doubles.tokenizer()(texts)["input_ids"])
    assert 1 - real / sum(rows * length for rows, length in double.shapes) <= 0.10


def test_batch_size_is_honoured(double, classify):
    classify(doubles.texts(), batch_size=4, token_budget=10**6)
    assert max(rows for rows, _ in double.shapes) == 4
    double.shapes.clear()
    pipeline("text-classification", double, batch_size=1)(doubles.texts()[:6])
    assert [rows for rows, _ in double.shapes] == [1] * 6


def test_streams_are_read_lazily(classify):
    pulled = []

    def source():
        for number in itertools.count():
            pulled.append(number)
            yield f"text {number}"

    stream = classify(source())
    assert pulled == []
    next(stream)
    assert pulled == [0]
    next(stream)
    assert pulled == [0, 1, 2]
    list(itertools.islice(stream, 20))
    assert len(pulled) < 64
    pulled.clear()
    list(itertools.islice(classify(source(), batch_size=1), 5))
    assert len(pulled) == 5


def test_an_error_in_the_parameters_comes_before_the_first_result(classify):
    with pytest.raises(InputError, match="top_k"):
        classify(iter(["a"]), top_k=-1)


def test_progress_is_reported(classify):
    seen = []
    classify(["a", "b", "c"], progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    seen.clear()
    list(classify(iter("abc"), progress=lambda done, total: seen.append((done, total))))
    assert seen == [(1, None), (2, None), (3, None)]


def test_pipelines_need_no_torch_and_import_in_no_time():
    code = """
import sys, time
import numpy, tokenizers
start = time.process_time()
from precast.runtime.tasks import TASKS, pipeline
light = time.process_time() - start
TASKS.resolve("sentiment-analysis")
for name in TASKS: TASKS[name]
import precast.runtime.embedding, precast.runtime.similarity
banned = {"torch", "onnx", "onnx_ir", "onnxscript", "transformers", "rich", "huggingface_hub"} & set(sys.modules)
assert not banned, banned
print(light)
"""
    runs = [
        float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
        for _ in range(3)
    ]
    assert min(runs) < 0.020
