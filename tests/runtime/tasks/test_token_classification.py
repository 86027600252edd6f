"""Token classification against upstream's pipeline on the same weights."""

from __future__ import annotations

import warnings

import pytest
import transformers
from support import doubles

from precast.runtime.errors import InputError
from precast.runtime.tasks import pipeline
from precast.runtime.tasks._entities import without_overlaps

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC"]
STRATEGIES = ["none", "simple", "first", "average", "max"]


def model(seed: int = 3, **config):
    named = {"id2label": dict(enumerate(LABELS)), "label2id": {name: i for i, name in enumerate(LABELS)}}
    return doubles.tiny_bert("BertForTokenClassification", seed, scale=2.0, **named, **config)


@pytest.fixture(scope="module")
def both():
    upstream = model()
    theirs = transformers.pipeline(
        "token-classification", model=upstream, tokenizer=doubles.upstream_tokenizer(), device="cpu"
    )
    return pipeline("ner", doubles.UpstreamModel(upstream, ("token-classification",), doubles.tokenizer())), theirs


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("ignored", [None, ["O", "LOC", "B-LOC"], []])
def test_entities_are_upstreams(both, strategy, ignored):
    ours, theirs = both
    parameters = {"aggregation_strategy": strategy, "ignore_labels": ignored}
    found = ours(doubles.texts(), **parameters)
    doubles.assert_same(found, theirs(doubles.texts(), **parameters))
    key = "entity" if strategy == "none" else "entity_group"
    assert len({entity[key] for entities in found for entity in entities}) >= (3 if ignored is None else 2)


def test_labels_that_are_no_texts():
    upstream = model()
    upstream.config.id2label = dict(enumerate([0, "B-PER", "I-PER", 3, None, "MISC"]))
    double = doubles.UpstreamModel(upstream, ("token-classification",), doubles.tokenizer())
    theirs = transformers.pipeline("ner", model=upstream, tokenizer=doubles.upstream_tokenizer(), device="cpu")
    doubles.assert_same(pipeline("ner", double)(doubles.texts()), theirs(doubles.texts()))
    # Upstream cannot group them.
    grouped = pipeline("ner", double, aggregation_strategy="simple")(doubles.texts())
    assert {0, 3, "PER"} <= {entity["entity_group"] for found in grouped for entity in found}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_words_given_apart(both, strategy):
    ours, theirs = both
    words = [text.split() for text in doubles.texts()[3:20]]
    parameters = {"aggregation_strategy": strategy, "is_split_into_words": True}
    doubles.assert_same(ours(words, **parameters), theirs(words, **parameters))
    doubles.assert_same(ours(words, delimiter="--", **parameters), theirs(words, delimiter="--", **parameters))
    # Upstream answers one list of words with a list of one.
    doubles.assert_same(ours(words[0], **parameters), theirs(words[0], **parameters))


@pytest.fixture(scope="module")
def narrow():
    """Both pipelines over 40 positions."""
    upstream = model(4, max_position_embeddings=40)
    tokenizer = transformers.AutoTokenizer.from_pretrained(doubles.minilm(), model_max_length=40)
    theirs = transformers.pipeline("token-classification", model=upstream, tokenizer=tokenizer, device="cpu")
    return pipeline("ner", doubles.UpstreamModel(upstream, ("token-classification",), doubles.tokenizer())), theirs


@pytest.mark.parametrize("strategy", STRATEGIES[1:])
@pytest.mark.parametrize("stride", [0, 5, 20])
def test_long_texts_are_read_in_windows(narrow, strategy, stride):
    ours, theirs = narrow
    long = [*[text for text in doubles.texts(60, seed=1) if len(text) > 200][:4], "short one"]
    assert len(long) == 5
    parameters = {"aggregation_strategy": strategy, "stride": stride}
    doubles.assert_same(ours(long, **parameters), theirs(long, **parameters))
    assert ours(long, **parameters)[0][-1]["end"] > len(long[0]) * 0.8


def test_without_stride_long_texts_are_cut(narrow):
    ours, theirs = narrow
    long = "word " * 100
    doubles.assert_same(ours(long), theirs(long))
    assert len(ours(long, ignore_labels=[])) == 38


def test_a_tokenizer_without_word_marks_guesses_words(tmp_path):
    upstream = model(5)
    folder = doubles.train_bpe(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    theirs = transformers.pipeline("token-classification", model=upstream, tokenizer=tokenizer, device="cpu")
    double = doubles.UpstreamModel(upstream, ("token-classification",))
    ours = pipeline("ner", double, tokenizer=str(folder))
    for strategy in STRATEGIES:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            expected = theirs(doubles.texts(), aggregation_strategy=strategy)
        doubles.assert_same(ours(doubles.texts(), aggregation_strategy=strategy), expected)


def test_given_offsets_are_used(both):
    ours, theirs = both
    text = "Ada lives here"
    offsets = [(0, 0), (0, 3), (4, 9), (10, 14), (0, 0)]
    doubles.assert_same(ours(text, offset_mapping=offsets), theirs(text, offset_mapping=offsets))
    shifted = [(0, 0), (5, 8), (9, 14), (15, 19), (0, 0)]
    found = ours([text, text], offset_mapping=[offsets, shifted], ignore_labels=[])
    assert [one["start"] for one in found[1]] == [5, 9, 15]


def test_of_overlapping_entities_the_longest_then_the_surest_stays():
    def entity(start, end, score):
        return {"start": start, "end": end, "score": score}

    entities = [entity(0, 4, 0.5), entity(2, 4, 0.9), entity(10, 12, 0.1), entity(10, 12, 0.2), entity(11, 15, 0.1)]
    assert without_overlaps(entities) == [entity(0, 4, 0.5), entity(11, 15, 0.1)]


@pytest.mark.parametrize(
    ("inputs", "parameters", "message"),
    [
        ([], {}, "At least one input is required"),
        (None, {}, "At least one input is required"),
        ("x", {"aggregation_strategy": "avg"}, "received 'avg'. Closest: average"),
        ("x", {"stride": 512, "aggregation_strategy": "simple"}, "`stride` must be less than"),
        ("x", {"stride": 2, "aggregation_strategy": "none"}, "please select another one"),
        ("x", {"stride": -1}, "stride must be an integer of at least 0"),
        ("x", {"ignore_labels": "O"}, "ignore_labels must be a list"),
        ("x", {"grouped_entities": True}, "Write aggregation_strategy='simple'"),
        ("x", {"is_split_into_words": True}, "must be a list of tokens"),
        ([["a", "b"]], {}, "must be an untokenized string"),
        (7, {}, "must be an untokenized string"),
        (["a", "b"], {"offset_mapping": [[(0, 1)]]}, "same batch size"),
    ],
)
def test_bad_arguments_are_refused(both, inputs, parameters, message):
    with pytest.raises(InputError, match=message):
        both[0](inputs, **parameters)
