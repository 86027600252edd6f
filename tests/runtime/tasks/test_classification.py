"""Text and zero-shot classification against upstream's pipelines on the same weights."""

from __future__ import annotations

import pytest
import transformers
from support import doubles

from precast.runtime.errors import InputError
from precast.runtime.tasks import pipeline

PAIRS = [{"text": one, "text_pair": other} for one, other in zip(doubles.texts(), doubles.texts()[::-1], strict=True)]


def both(task: str, seed: int = 3, served: tuple[str, ...] | None = None, **config):
    upstream = doubles.tiny_bert("BertForSequenceClassification", seed, scale=4.0, **config)
    theirs = transformers.pipeline(task, model=upstream, tokenizer=doubles.upstream_tokenizer(), device="cpu")
    return pipeline(task, doubles.UpstreamModel(upstream, served or (task,), doubles.tokenizer())), theirs


@pytest.fixture(scope="module")
def classifiers():
    return both("text-classification", id2label={0: "bad", 1: "so-so", 2: "good", 3: "great"})


@pytest.mark.parametrize(
    "parameters",
    [{}, {"top_k": None}, {"top_k": 2}, {"top_k": 1}, {"top_k": 99}, {"top_k": 0}]
    + [{"function_to_apply": name} for name in ("none", "sigmoid", "softmax", "SIGMOID")]
    + [{"function_to_apply": "sigmoid", "top_k": None}],
)
def test_labels_and_scores_are_upstreams(classifiers, parameters):
    ours, theirs = classifiers
    doubles.assert_same(ours(doubles.texts(), **parameters), theirs(doubles.texts(), **parameters))
    doubles.assert_same(ours(PAIRS, **parameters), theirs(PAIRS, **parameters))
    for single in ("A single text.", {"text": "one", "text_pair": "two"}, [[["one", "two"]]], ["x"]):
        doubles.assert_same(ours(single, **parameters), theirs(single, **parameters))


def test_all_scores_by_their_old_name(classifiers):
    """As transformers 4.57 answers: every label, in the order of the labels; ``top_k`` goes before it."""
    ours, theirs = classifiers
    texts = ["A single text.", "and another"]
    sorted_ones = theirs(texts, top_k=None)
    order = list(theirs.model.config.id2label.values())
    expected = [sorted(row, key=lambda one: order.index(one["label"])) for row in sorted_ones]
    doubles.assert_same(ours(texts, return_all_scores=True), expected)
    doubles.assert_same(ours(texts[0], return_all_scores=True), expected[:1])
    doubles.assert_same(ours({"text": texts[0]}, return_all_scores=True), expected[0])
    doubles.assert_same(ours(texts, return_all_scores=True, top_k=2), theirs(texts, top_k=2))
    for inputs in (texts, texts[0]):
        doubles.assert_same(ours(inputs, return_all_scores=False), theirs(inputs))


def test_labels_are_as_the_config_has_them():
    ours, theirs = both("text-classification", id2label={0: 7, 1: None, 2: 1.5, 3: "x"})
    for parameters in ({}, {"top_k": None}):
        doubles.assert_same(ours(doubles.texts(), **parameters), theirs(doubles.texts(), **parameters))


def test_the_labels_differ(classifiers):
    assert len({result["label"] for result in classifiers[0](doubles.texts())}) > 1


@pytest.mark.parametrize(
    "config",
    [
        {"num_labels": 1},
        {"num_labels": 1, "problem_type": "regression"},
        {"num_labels": 3, "problem_type": "regression"},
        {"num_labels": 3, "problem_type": "multi_label_classification"},
        {"num_labels": 3, "problem_type": "single_label_classification"},
        # What CrossEncoder passes its scores through; the pipeline does not look.
        {"num_labels": 1, "sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}},
        {"num_labels": 1, "sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"},
    ],
)
def test_the_usual_function_follows_the_problem(config):
    ours, theirs = both("sentiment-analysis", served=("text-classification",), **config)
    doubles.assert_same(ours(doubles.texts(), top_k=None), theirs(doubles.texts(), top_k=None))


def test_defaults_of_the_pipeline_hold_until_a_call_says_otherwise():
    upstream = doubles.tiny_bert("BertForSequenceClassification", num_labels=3)
    double = doubles.UpstreamModel(upstream, ("text-classification",), doubles.tokenizer())
    ours = pipeline("text-classification", double, top_k=2, truncation=True, max_length=9)
    theirs = transformers.pipeline(
        "text-classification",
        upstream,
        tokenizer=doubles.upstream_tokenizer(),
        device="cpu",
        top_k=2,
        truncation=True,
        max_length=9,
    )
    long = "one two three " * 300
    doubles.assert_same(ours(long), theirs(long))
    doubles.assert_same(ours([long, "b"], top_k=1, max_length=5), theirs([long, "b"], top_k=1, max_length=5))


def test_scores_do_not_depend_on_the_batch(classifiers):
    ours, _ = classifiers
    expected = ours(doubles.texts(), top_k=None, batch_size=1)
    for limits in ({}, {"batch_size": 3}, {"token_budget": 50}, {"token_budget": 100000}):
        found = ours(doubles.texts(), top_k=None, **limits)
        for row, expected_row in zip(found, expected, strict=True):
            scores, expected_scores = ({one["label"]: one["score"] for one in each} for each in (row, expected_row))
            assert scores == pytest.approx(expected_scores, abs=1e-6)


@pytest.mark.parametrize(
    ("inputs", "parameters", "message"),
    [
        ([["text", "pair"]], {}, "if you are trying to send text pairs"),
        (3, {}, r"takes a text \(str\) or a list of texts; received int"),
        ({"texts": "x"}, {}, '"text": "...", "text_pair": "..."'),
        ("x", {"top_k": -1}, "top_k must be an integer of at least 0"),
        ("x", {"top_k": "2"}, "top_k must be an integer"),
        ("x", {"return_all_scores": 1}, "return_all_scores must be True or False; received 1"),
        ("x", {"function_to_apply": "softmx"}, "received 'softmx'. Closest: softmax"),
        ("x", {"truncatoin": True}, "'truncatoin'. Closest: truncation"),
        ("x", {"return_tensors": "pt"}, "there is no torch"),
        ("word " * 600, {}, "may have 512 tokens here, special tokens included; received one of 602. Pass trunc"),
    ],
)
def test_bad_arguments_are_refused(classifiers, inputs, parameters, message):
    with pytest.raises(InputError, match=message):
        classifiers[0](inputs, **parameters)


NLI = {"label2id": {"contradiction": 0, "neutral": 1, "ENTAILMENT": 2}}
NLI["id2label"] = {index: label for label, index in NLI["label2id"].items()}


@pytest.fixture(scope="module")
def zero_shot():
    return both("zero-shot-classification", served=("text-classification",), **NLI)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize(
    "labels", [["politics", "public health", "naïve café"], "sports, arts ,science,", "one", ["one"]]
)
def test_zero_shot_results_are_upstreams(zero_shot, labels, multi_label):
    ours, theirs = zero_shot
    texts = [text for text in doubles.texts() if text][:12]
    parameters = {"candidate_labels": labels, "multi_label": multi_label}
    doubles.assert_same(ours(texts, **parameters), theirs(texts, **parameters))
    doubles.assert_same(ours(texts[1], labels), theirs(texts[1], labels))
    parameters["hypothesis_template"] = "Dies handelt von {}!"
    doubles.assert_same(ours(texts[:3], **parameters), theirs(texts[:3], **parameters))


@pytest.mark.parametrize("entailment", [0, 1])
def test_zero_shot_finds_entailment_by_name(entailment):
    names = ["neutral", "contradiction"]
    names.insert(entailment, "entailment")
    ours, theirs = both(
        "zero-shot-classification", id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)}
    )
    for multi_label in (False, True):
        parameters = {"candidate_labels": "a,b,c", "multi_label": multi_label}
        doubles.assert_same(ours("hello there", **parameters), theirs("hello there", **parameters))


def test_zero_shot_without_a_named_entailment_warns(caplog):
    ours, theirs = both("zero-shot-classification")
    assert "No label of the model's label2id starts with 'entail'" in caplog.text
    doubles.assert_same(ours("hello", "a,b"), theirs("hello", "a,b"))


def test_zero_shot_cuts_the_text_and_not_the_hypothesis(zero_shot):
    ours, theirs = zero_shot
    text = "word " * 700
    doubles.assert_same(ours(text, "a, b, c"), theirs(text, "a, b, c"))


@pytest.mark.parametrize(
    ("arguments", "parameters", "message"),
    [
        (("x", []), {}, "You must include at least one label"),
        (("x", ","), {}, "You must include at least one label"),
        (("x",), {}, "pass candidate_labels"),
        (("", "a"), {}, "at least one sequence"),
        (([], "a"), {}, "at least one sequence"),
        (("x", "a", "b"), {}, "Unable to understand extra arguments"),
        (("x", [1]), {}, "candidate_labels must be texts"),
        (("x", "a"), {"hypothesis_template": "about"}, "was not able to be formatted"),
        (("x", "a"), {"hypothesis_template": "{wrong}"}, "was not able to be formatted"),
        (("x", "a"), {"multilabel": True}, "Closest: multi_label"),
        (([3], "a"), {}, "received int"),
    ],
)
def test_zero_shot_refuses_bad_arguments(zero_shot, arguments, parameters, message):
    with pytest.raises(InputError, match=message):
        zero_shot[0](*arguments, **parameters)
