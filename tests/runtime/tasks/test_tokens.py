"""Fill-mask and feature extraction against upstream's pipelines on the same weights."""

from __future__ import annotations

import numpy as np
import pytest
import transformers
from support import doubles

from precast.runtime.errors import InputError
from precast.runtime.tasks import pipeline

MASKED = [text + " so [MASK] it is." for text in doubles.texts()[:14]]
SEVERAL = ["[MASK] and [MASK].", "a [MASK] b", "[MASK] [MASK] [MASK]"]


@pytest.fixture(scope="module")
def fillers():
    upstream = doubles.tiny_bert("BertForMaskedLM", 1, scale=1.5)
    theirs = transformers.pipeline("fill-mask", model=upstream, tokenizer=doubles.upstream_tokenizer(), device="cpu")
    return pipeline("fill-mask", doubles.UpstreamModel(upstream, ("fill-mask",), doubles.tokenizer())), theirs


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"top_k": 1},
        {"top_k": 40},
        {"top_k": 0},
        {"targets": ["dog", "cat", "unbelievably", "##ing"]},
        {"targets": "tree"},
        {"targets": ["dog", "cat"], "top_k": 1},
    ],
)
def test_fillings_are_upstreams(fillers, parameters):
    ours, theirs = fillers
    for inputs in (MASKED, SEVERAL, MASKED[3], SEVERAL[0], [MASKED[4]], [SEVERAL[2]]):
        doubles.assert_same(ours(inputs, **parameters), theirs(inputs, **parameters))


def test_fillings_with_a_byte_level_tokenizer(tmp_path):
    folder = doubles.train_bpe(tmp_path)
    upstream = doubles.tiny_bert(
        "BertForMaskedLM", 1, vocab_size=len(transformers.AutoTokenizer.from_pretrained(folder))
    )
    theirs = transformers.pipeline("fill-mask", model=upstream, tokenizer=str(folder), device="cpu")
    ours = pipeline("fill-mask", doubles.UpstreamModel(upstream, ("fill-mask",)), tokenizer=folder)
    texts = [text.replace("[MASK]", "<mask>") for text in MASKED + SEVERAL]
    doubles.assert_same(ours(texts), theirs(texts))
    doubles.assert_same(ours(texts, targets=[" the", "x"]), theirs(texts, targets=[" the", "x"]))


def test_long_texts_are_cut_when_asked_for(fillers):
    ours, theirs = fillers
    text, options = "The [MASK] " + "word " * 700, {"tokenizer_kwargs": {"truncation": True}}
    doubles.assert_same(ours(text, **options), theirs(text, **options))
    with pytest.raises(InputError, match="may have 512 tokens"):
        ours(text)


def test_unknown_targets_are_taken_by_their_first_token(fillers, caplog):
    found = fillers[0]("a [MASK] b", targets=["zzzqq"])
    assert [one["token_str"] for one in found] == ["z"]
    assert "is not in the vocabulary" in caplog.text


@pytest.mark.parametrize(
    ("inputs", "parameters", "message"),
    [
        ("no mask", {}, r"No mask_token \(\[MASK\]\) found on the input"),
        (["a [MASK]", "none"], {}, "found on the input; received 'none'"),
        ("a [MASK]", {"targets": []}, "At least one target must be provided"),
        ("a [MASK]", {"targets": [""]}, "At least one target must be provided"),
        ("a [MASK]", {"targets": [3]}, "targets must be texts"),
        ("a [MASK]", {"top_k": -1}, "top_k must be an integer of at least 0"),
        ("a [MASK]", {"top_k": 40000}, "at most the vocabulary's 30522"),
        ("a [MASK]", {"topk": 3}, "Write top_k"),
        (5, {}, "received int"),
    ],
)
def test_fill_mask_refuses_bad_arguments(fillers, inputs, parameters, message):
    with pytest.raises(InputError, match=message):
        fillers[0](inputs, **parameters)


def test_a_tokenizer_without_a_mask_is_refused(fillers):
    from precast.runtime.processors.text import Tokenizer

    tokenizer = Tokenizer.from_folder(doubles.minilm())
    tokenizer.mask_token = None
    with pytest.raises(InputError, match="does not define a `mask_token`"):
        pipeline("fill-mask", fillers[0].model, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def extractors():
    upstream = doubles.tiny_bert("BertModel", 1)
    theirs = transformers.pipeline(
        "feature-extraction", model=upstream, tokenizer=doubles.upstream_tokenizer(), device="cpu"
    )
    double = doubles.UpstreamModel(upstream, ("feature-extraction",), doubles.tokenizer())
    return pipeline("feature-extraction", double), theirs


def test_features_are_upstreams(extractors):
    ours, theirs = extractors
    for one, other in zip(ours(doubles.texts()), theirs(doubles.texts()), strict=True):
        assert np.array(one).shape == np.array(other).shape
        np.testing.assert_allclose(one, other, atol=1e-5, rtol=1e-5)
    single = ours("one text")
    np.testing.assert_allclose(single, theirs("one text"), atol=1e-5, rtol=1e-5)
    assert isinstance(single, list)


@pytest.mark.parametrize(
    "parameters",
    [
        {"truncation": True, "tokenize_kwargs": {"max_length": 7}},
        {"tokenize_kwargs": {"padding": "max_length", "max_length": 24}},
        {"tokenize_kwargs": {"add_special_tokens": False}},
    ],
)
def test_features_with_tokenizer_arguments(extractors, parameters):
    ours, theirs = extractors
    text = "The quick brown fox jumps over the lazy dog."
    np.testing.assert_allclose(ours(text, **parameters), theirs(text, **parameters), atol=1e-5, rtol=1e-5)


def test_features_as_arrays(extractors):
    found = extractors[0](["a", "b c"], return_tensors=True)
    assert [(one.shape, one.dtype) for one in found] == [((1, 3, 32), np.float32), ((1, 4, 32), np.float32)]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"return_tensors": "pt"}, "gives NumPy arrays here"),
        ({"truncation": True, "tokenize_kwargs": {"truncation": True}}, "truncation parameter defined twice"),
        ({"tokenize_kwargs": {"stride": 3}}, "does not know the argument 'stride'"),
        ({"tokenize_kwargs": {"add_special_tokens": False}}, "at least one token"),
    ],
)
def test_feature_extraction_refuses_bad_arguments(extractors, parameters, message):
    with pytest.raises(InputError, match=message):
        extractors[0]("", **parameters)
