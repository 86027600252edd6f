"""Sentence embeddings against SentenceTransformer, from folders written by it and from older ones."""

from __future__ import annotations

import inspect
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer, util
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.util.quantization import quantize_embeddings
from support import doubles
from transformers import BertModel

from precast.export.checkpoints.open import open_checkpoint
from precast.export.embedding import read_arrays, read_modules
from precast.runtime import embedding, embedding_options, similarity
from precast.runtime.errors import ConfigError, InputError, UnsupportedTaskError, WeightsError
from precast.runtime.gates import gate, measure
from precast.runtime.outs import Out

TEXTS = [*doubles.texts(), "long " * 400, "İstanbul ΟΔΟΣ Straße"]


def double(folder, encoder) -> doubles.UpstreamModel:
    """The model behind a sentence-transformers folder, with its embedding data as an artifact would hold them."""
    checkpoint = open_checkpoint(folder)
    data = read_modules(checkpoint)
    arrays = read_arrays(checkpoint, data)
    for layer in data["dense"]:
        layer |= {key: arrays[layer[key]] for key in ("weight", "bias") if layer[key]}
    return doubles.UpstreamModel(encoder, ("feature-extraction",), doubles.tokenizer(), data)


@pytest.fixture(scope="module")
def minilm():
    theirs = SentenceTransformer(str(doubles.minilm()), device="cpu")
    return double(doubles.minilm(), theirs[0].auto_model), theirs


def test_minilm_is_read(minilm):
    data = minilm[0].embedding
    assert json.loads(json.dumps(data)) == data
    assert data == {
        "pooling": ["mean"],
        "include_prompt": True,
        "dense": [],
        "normalize": True,
        "max_seq_length": 256,
        "do_lower_case": False,
        "prompts": {"query": "", "document": ""},
        "default_prompt_name": None,
        "similarity": None,
    }


def held(ours, eager, exact):
    """The float32 gate: batches round in other orders, here and upstream, and neither is the truth."""
    assert np.asarray(exact).dtype == np.float64
    arrays = [np.asarray(array) for array in (ours, eager, exact)]
    gate("fp32", [measure(Out("sentence_embedding", ("texts", "size"), "states"), "texts", *arrays)], "ours")


def test_minilm_embeds_as_upstream(minilm):
    ours, theirs = minilm
    exactly = SentenceTransformer(str(doubles.minilm()), device="cpu").double()
    expected, exact = theirs.encode(TEXTS), exactly.encode(TEXTS)
    found = embedding.encode(ours, TEXTS)
    assert found.dtype == np.float32
    held(found, expected, exact)
    assert similarity.pairwise_cos_sim(found, expected).min() >= 0.999999
    held(embedding.encode(ours, TEXTS[3]), theirs.encode(TEXTS[3]), exactly.encode(TEXTS[3]))
    few = TEXTS[:9]
    for options in ({"batch_size": 2}, {"token_budget": 1}, {}):
        held(embedding.encode(ours, iter(few), **options), expected[:9], exact[:9])
    cut = {"truncate_dim": 17, "normalize_embeddings": True}
    held(embedding.encode(ours, few, **cut), theirs.encode(few, **cut), exactly.encode(few, **cut))
    prompted = {"prompt": "query: "}
    held(embedding.encode(ours, few, **prompted), theirs.encode(few, **prompted), exactly.encode(few, **prompted))
    rows = [embedding.encode(ours, few, output="token_embeddings")]
    rows += [model.encode(few, output_value="token_embeddings") for model in (theirs, exactly)]
    assert [len(row) for row in rows[0]] == [len(row) for row in rows[1]]
    held(*(np.concatenate([np.asarray(row) for row in part]) for part in rows))
    assert embedding.encode(ours, []).shape == (0, 384)


def encoder() -> BertModel:
    return doubles.tiny_bert("BertModel", 5)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with a tiny BERT and the MiniLM tokenizer."""
    folder = tmp_path_factory.mktemp("base")
    encoder().save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(doubles.minilm() / name, folder / name)
    return folder


def pair(base, folder, *modules, **options):
    """A SentenceTransformer saved by itself, and ours from what it saved."""
    theirs = SentenceTransformer(modules=[Transformer(str(base)), *modules], device="cpu", **options)
    theirs.save(str(folder))
    return double(folder, encoder()), theirs


@pytest.mark.parametrize("modes", [*embedding.POOLING, ("mean", "cls"), embedding.POOLING])
@pytest.mark.parametrize("include_prompt", [True, False])
def test_every_pooling_with_prompts(base, tmp_path, modes, include_prompt):
    ours, theirs = pair(
        base,
        tmp_path,
        Pooling(32, modes, include_prompt=include_prompt),
        prompts={"query": "search for this: ", "plain": ""},
        default_prompt_name="query",
    )
    texts = doubles.texts()[:10]
    for options in ({}, {"prompt_name": "plain"}, {"prompt": "other one "}, {"prompt": ""}):
        np.testing.assert_allclose(
            embedding.encode(ours, texts, **options), theirs.encode(texts, **options), atol=2e-6, rtol=2e-6
        )


@pytest.mark.parametrize("activation", sorted(["Tanh", "Identity", "ReLU", "Sigmoid", "SiLU", "GELU"]))
def test_dense_layers_and_norm(base, tmp_path, activation):
    layers = [
        doubles.randomise(Dense(64, 48, activation_function=getattr(torch.nn, activation)()), 1),
        doubles.randomise(Dense(48, 8, bias=False, activation_function=getattr(torch.nn, activation)()), 2),
    ]
    ours, theirs = pair(base, tmp_path, Pooling(32, ("mean", "max")), *layers, Normalize())
    texts = doubles.texts()[:10]
    np.testing.assert_allclose(embedding.encode(ours, texts), theirs.encode(texts), atol=2e-6)
    assert embedding.encode(ours, []).shape == (0, 8)


def test_dense_weights_are_read_from_the_artifacts_files(base, tmp_path):
    ours, theirs = pair(base, tmp_path, Pooling(32), doubles.randomise(Dense(32, 4), 1))
    for key in ("weight", "bias"):
        np.save(tmp_path / f"d.{key}.npy", ours.embedding["dense"][0][key])
        ours.embedding["dense"][0][key] = f"d.{key}.npy"
    ours.artifact = SimpleNamespace(read_bytes=lambda name: (tmp_path / name).read_bytes())
    np.testing.assert_allclose(embedding.encode(ours, TEXTS[:4]), theirs.encode(TEXTS[:4]), atol=2e-6)


@pytest.mark.parametrize("lower", [True, False])
def test_an_old_folder(base, tmp_path, lower):
    """As sentence-transformers 1 and 2 wrote them: boolean pooling keys, the encoder in a folder of its own."""
    shutil.copytree(base, tmp_path / "0_Transformer")
    tokenizer = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["normalizer"]["lowercase"] = False
    (tmp_path / "0_Transformer" / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    config = json.loads((base / "tokenizer_config.json").read_text(encoding="utf-8")) | {"do_lower_case": False}
    (tmp_path / "0_Transformer" / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    write(tmp_path / "0_Transformer" / "sentence_bert_config.json", {"max_seq_length": 12, "do_lower_case": lower})
    write(
        tmp_path / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": 32,
            "pooling_mode_cls_token": True,
            "pooling_mode_mean_tokens": True,
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
        },
    )
    kinds = [("0_Transformer", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    write(
        tmp_path / "modules.json",
        [
            {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for index, (path, kind) in enumerate(kinds)
        ],
    )
    theirs = SentenceTransformer(str(tmp_path), device="cpu")
    ours = double(tmp_path, encoder())
    from precast.runtime.processors.text import Tokenizer

    ours.tokenizer = Tokenizer.from_folder(tmp_path / "0_Transformer")
    assert ours.embedding["pooling"] == ["cls", "mean"]
    assert ours.embedding["max_seq_length"] == 12
    np.testing.assert_allclose(embedding.encode(ours, TEXTS), theirs.encode(TEXTS), atol=2e-6)


def write(path, value):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("modules.json", lambda m: m[1].update(type="my_code.Pooling"), "code of the checkpoint's own"),
        ("modules.json", lambda m: m[1].update(type="sentence_transformers.models.CNN"), "'CNN' of modules.json"),
        ("modules.json", lambda m: m.pop(1), "not honoured in this order"),
        ("modules.json", lambda m: m.append({**m[2], "idx": 9}), "after Normalize"),
        ("modules.json", lambda m: m.pop(0), "must start with its one Transformer"),
        ("1_Pooling/config.json", lambda c: c.update(pooling_mode="mena"), "found 'mena'. Closest: mean"),
        ("1_Pooling/config.json", lambda c: c.update(embedding_dimension=7), "hidden_size is 32"),
        ("1_Pooling/config.json", lambda c: c.update(extra=7), "sets 'extra', which is not honoured"),
        ("2_Dense/config.json", lambda c: c.update(use_residual=True), "use_residual"),
        ("2_Dense/config.json", lambda c: c.update(activation_function="os.system"), "the activation 'os.system'"),
        (
            "2_Dense/config.json",
            lambda c: c.update(module_input_name="token_embeddings"),
            "works on 'token_embeddings'",
        ),
        ("2_Dense/config.json", lambda c: c.pop("in_features"), "in_features is missing"),
        ("sentence_bert_config.json", lambda c: c.update(query_expansion={"length": 3}), "sets query_expansion to"),
        ("sentence_bert_config.json", lambda c: c.update(max_seq_length="long"), "max_seq_length as a number"),
        ("sentence_bert_config.json", lambda c: c.update(max_seq_lenght=3), "Closest: max_seq_length"),
        ("config_sentence_transformers.json", lambda c: c.update(default_prompt_name="qery"), "Closest: query"),
        (
            "config_sentence_transformers.json",
            lambda c: c.update(prompts={"a": 3}),
            "prompts must be an object of texts by name",
        ),
        ("config_sentence_transformers.json", lambda c: c.update(similarity_fn_name="cos"), "Closest: cosine"),
    ],
)
def test_what_is_not_honoured_is_refused(base, tmp_path, file, change, message):
    SentenceTransformer(modules=[Transformer(str(base)), Pooling(32), Dense(32, 4), Normalize()], device="cpu").save(
        str(tmp_path)
    )
    content = json.loads((tmp_path / file).read_text(encoding="utf-8"))
    change(content)
    write(tmp_path / file, content)
    with pytest.raises(ConfigError, match=message):
        read_modules(open_checkpoint(tmp_path))


def test_dense_weights_that_do_not_fit_are_refused(base, tmp_path):
    theirs = SentenceTransformer(modules=[Transformer(str(base)), Pooling(32), Dense(32, 4)], device="cpu")
    theirs.save(str(tmp_path))
    write(tmp_path / "2_Dense" / "config.json", {"in_features": 32, "out_features": 5})
    checkpoint = open_checkpoint(tmp_path)
    with pytest.raises(WeightsError, match=r"linear.weight \[5, 32\].*found .*linear.weight \[4, 32\]"):
        read_arrays(checkpoint, read_modules(checkpoint))


def test_a_plain_folder_has_no_modules(base):
    assert read_modules(open_checkpoint(base)) is None


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([3], {}, "received int: 3"),
        (["a"], {"prompt_name": "qury"}, "'qury' not found.*Closest: query"),
        (["a"], {"output": "token_embedding"}, "Closest: token_embeddings"),
        (["a"], {"batch_size": 0}, "batch_size must be"),
        (["a"], {"truncate_dim": 0}, "truncate_dim must be"),
        (["a"], {"normalise": True}, "no argument 'normalise'.*Closest: normalize"),
        (["a"], {"normalize": 1}, "normalize_embeddings must be True or False; received 1"),
        (["a"], {"normalize": True, "normalize_embeddings": True}, "normalize_embeddings twice"),
        (["a"], {"sentences": ["b"]}, "texts twice"),
        (["a"], {"convert_to_tensor": True}, r"torch.from_numpy\(model.encode"),
        (["a"], {"device": "cuda"}, r"runs on cpu; received device='cuda'.*precast.load\(path, device="),
        (["a"], {"device": ["cpu", "cpu"]}, "precast.load"),
        (["a"], {"pool": {}}, r"precast.load\(path, threads="),
        (["a"], {"chunk_size": 0}, "chunk_size must be an integer of at least 1"),
        (["a"], {"output_value": None}, r"call the model: model\("),
        (["a"], {"precision": "int4"}, "precision must be one of float32, int8, uint8, binary, ubinary"),
        (["a"], {"precision": "int8"}, "one alone has none.*precision='binary'"),
        (["a"], {"processing_kwargs": {"text": {"max_length": 3}}}, "cut at the length it says"),
        (["a"], {"prompt_name": 32}, "write batch_size=32"),
        (5, {}, "received int: 5"),
        (None, {}, "received NoneType"),
        (b"a", {}, "received bytes"),
        ({"text": "a"}, {}, "received dict"),
    ],
)
def test_bad_arguments_are_refused(minilm, texts, options, message):
    with pytest.raises(InputError, match=message):
        embedding.encode(minilm[0], texts, **options)


def test_a_model_without_embeddings_says_so():
    plain = SimpleNamespace(embedding=None, tasks=("fill-mask",))
    for call in (embedding.encode, embedding.encode_query, embedding.encode_document):
        with pytest.raises(UnsupportedTaskError, match=r"no sentence embedding.*It serves: fill-mask"):
            call(plain, "x")
    with pytest.raises(UnsupportedTaskError, match=r"no sentence embedding"):
        embedding.similarity_name(plain)


PROMPTS = {"query": "search for: ", "passage": "this is a passage: ", "plain": ""}


@pytest.fixture(scope="module")
def prompted(base, tmp_path_factory):
    """A model with prompts, and a width that fills no whole byte."""
    folder = tmp_path_factory.mktemp("prompted")
    dense = doubles.randomise(Dense(32, 20), 3)
    return pair(base, folder, Pooling(32), dense, prompts=PROMPTS, default_prompt_name="query")


# Every parameter of upstream's encode, with values it takes. A test holds the list against its signature.
HONOURED = {
    "prompt_name": ["plain", "passage", None],
    "prompt": ["another: ", "", None],
    "batch_size": [1, 3, 32],
    "show_progress_bar": [True, False, None],
    "output_value": ["sentence_embedding", "token_embeddings"],
    "precision": ["float32", "int8", "uint8", "binary", "ubinary"],
    "convert_to_numpy": [True, False],
    "convert_to_tensor": [False],
    "device": ["cpu", torch.device("cpu"), None],
    "normalize_embeddings": [True, False],
    "truncate_dim": [5, 1000, None],
    "pool": [None],
    "chunk_size": [2, None],
    "task": ["query", None],
    "processing_kwargs": [None],
}


TOLERANCE = 1e-5


def at_a_border(vectors):
    """Which numbers [N, H] are so near the border of two of their 255 levels that rounding decides between these."""
    low = vectors.min(axis=0).astype(np.float64)
    steps = (vectors.max(axis=0) - low) / 255
    places = (vectors - low) / steps
    # The number and the range's ends each may be off by the tolerance, and what divides them by float32's.
    margin = 3 * TOLERANCE / steps + 255 * 2.0**-22
    return np.abs(places - np.round(places)) <= margin


def assert_embedded(ours, theirs, exact=None):
    """``exact``: the numbers of which quantised ones were made; without, none may be another."""
    if isinstance(theirs, list):
        assert isinstance(ours, list) and len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_embedded(one, other.numpy())
    else:
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        if theirs.dtype == np.float32:
            np.testing.assert_allclose(ours, theirs, atol=TOLERANCE, rtol=TOLERANCE)
        elif exact is None:
            np.testing.assert_array_equal(ours, theirs)
        else:
            apart = np.abs(ours.astype(int) - theirs.astype(int))
            assert apart.max() <= 1
            assert at_a_border(exact)[apart != 0].all()


def test_no_argument_of_upstreams_encode_is_forgotten():
    known = list(inspect.signature(SentenceTransformer.encode).parameters)
    assert known == ["self", "inputs", *embedding_options.POSITIONAL, "kwargs"]
    assert set(HONOURED) == {*embedding_options.POSITIONAL, "task", "processing_kwargs"}


@pytest.mark.filterwarnings("ignore:.*quantization")
@pytest.mark.parametrize(("name", "value"), [(name, value) for name in HONOURED for value in HONOURED[name]])
def test_encode_takes_upstreams_arguments(prompted, name, value, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    ours, theirs = prompted
    texts = TEXTS[:8]
    exact = theirs.encode(texts) if value in ("int8", "uint8") else None
    assert_embedded(embedding.encode(ours, texts, **{name: value}), theirs.encode(texts, **{name: value}), exact)
    if exact is not None:
        assert at_a_border(exact).mean() < 0.5  # of most numbers there is no doubt
    if name not in ("precision", "convert_to_numpy"):
        one = theirs.encode(texts[3], **{name: value})
        assert_embedded(embedding.encode(ours, texts[3], **{name: value}), np.asarray(one))


def test_encode_takes_upstreams_arguments_together_and_in_its_order(prompted):
    ours, theirs = prompted
    texts = TEXTS[:8]
    places = ("passage", None, 2, False, "sentence_embedding", "float32", False, False, "cpu", True, 7)
    assert_embedded(embedding.encode(ours, texts, *places), theirs.encode(texts, *places))
    assert_embedded(embedding.encode(ours, inputs=texts), theirs.encode(inputs=texts))
    assert_embedded(embedding.encode(ours, sentences=texts), theirs.encode(texts))
    assert_embedded(embedding.encode(ours, np.array(texts)), theirs.encode(np.array(texts)))
    assert_embedded(embedding.encode(ours, tuple(texts)), theirs.encode(tuple(texts)))
    tokens = {"output_value": "token_embeddings", "precision": "ubinary"}
    for one, other in zip(embedding.encode(ours, texts, **tokens), theirs.encode(texts, **tokens), strict=True):
        assert_embedded(one, np.asarray(other))


@pytest.mark.parametrize("kind", ["query", "document"])
def test_queries_and_documents_have_their_prompts(base, prompted, tmp_path, kind):
    texts = TEXTS[:4]
    unprompted = pair(base, tmp_path / "plain", Pooling(32))
    passages = pair(base, tmp_path / "passages", Pooling(32), prompts={"document": "read: ", "corpus": "of: "})
    for ours, theirs in (prompted, unprompted, passages):
        mine, upstream = getattr(embedding, f"encode_{kind}"), getattr(theirs, f"encode_{kind}")
        assert_embedded(mine(ours, texts), upstream(texts))
        assert_embedded(mine(ours, texts[3], prompt="mine: "), upstream(texts[3], prompt="mine: "))
        assert_embedded(
            mine(ours, texts, None, None, 2, truncate_dim=3), upstream(texts, None, None, 2, truncate_dim=3)
        )
    ours, theirs = prompted
    assert_embedded(mine(ours, sentences=texts, prompt_name="plain"), getattr(theirs, f"encode_{kind}")(texts, "plain"))
    assert not np.allclose(embedding.encode_query(ours, texts), embedding.encode(ours, texts, prompt=""))


@pytest.mark.parametrize("precision", embedding_options.PRECISIONS)
def test_embeddings_in_fewer_bits_are_upstreams(precision):
    for count, width in ((2, 8), (50, 13), (300, 64)):
        vectors = np.random.default_rng(count).standard_normal((count, width)).astype(np.float32)
        vectors[:, 1] = 0.25  # a range of nothing
        found = embedding_options.quantize(vectors, precision)
        expected = quantize_embeddings(vectors, precision)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", [None, "cosine", "dot", "euclidean", "manhattan"])
def test_a_model_compares_embeddings_as_upstreams(base, tmp_path, name):
    ours, theirs = pair(base, tmp_path, Pooling(32), similarity_fn_name=name)
    assert embedding.similarity_name(ours) == theirs.similarity_fn_name == (name or "cosine")
    left, right = QUERIES, CORPUS
    found = similarity.SIMILARITIES[embedding.similarity_name(ours)](left, right)
    # torch's cdist multiplies where there are many rows, which costs it digits.
    np.testing.assert_allclose(found, theirs.similarity(left, right), atol=1e-4)
    np.testing.assert_allclose(
        similarity.PAIRWISE[embedding.similarity_name(ours)](left, right[:7]),
        theirs.similarity_pairwise(left, right[:7]),
        atol=1e-5,
    )


RANDOM = np.random.default_rng(0)
QUERIES, CORPUS = (RANDOM.standard_normal((n, 24)).astype(np.float32) for n in (7, 103))


def test_similarities_are_upstreams():
    for name in ("cos_sim", "dot_score"):
        np.testing.assert_allclose(
            getattr(similarity, name)(QUERIES, CORPUS), getattr(util, name)(QUERIES, CORPUS), atol=1e-5
        )
    for name in ("pairwise_cos_sim", "pairwise_dot_score"):
        found = getattr(similarity, name)(QUERIES, CORPUS[:7])
        np.testing.assert_allclose(
            found, getattr(util, name)(torch.tensor(QUERIES), torch.tensor(CORPUS[:7])), atol=1e-5
        )
    np.testing.assert_allclose(similarity.cos_sim([1.0, 0.0], [[0.0, 2.0], [3.0, 0.0]]), [[0.0, 1.0]])
    assert similarity.cos_sim(np.zeros(4), np.ones(4)) == 0.0


@pytest.mark.parametrize("top_k", [1, 5, 103, 500])
@pytest.mark.parametrize("chunks", [{}, {"query_chunk_size": 3, "corpus_chunk_size": 10}])
def test_search_is_upstreams(top_k, chunks):
    found = similarity.semantic_search(QUERIES, CORPUS, top_k, **chunks)
    doubles.assert_same(found, util.semantic_search(torch.tensor(QUERIES), torch.tensor(CORPUS), top_k=top_k))
    by_dot = similarity.semantic_search(QUERIES[0], CORPUS, top_k, score_function=similarity.dot_score, **chunks)
    expected = util.semantic_search(
        torch.tensor(QUERIES[0]), torch.tensor(CORPUS), top_k=top_k, score_function=util.dot_score
    )
    doubles.assert_same(by_dot, expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: similarity.cos_sim(np.ones((2, 3)), np.ones((2, 4))), "one width; received 3 and 4"),
        (lambda: similarity.cos_sim(np.ones((2, 3, 1)), np.ones((2, 4))), r"received \[2, 3, 1\]"),
        (lambda: similarity.pairwise_cos_sim(np.ones((2, 3)), np.ones((4, 3))), "as many rows"),
        (lambda: similarity.semantic_search(QUERIES, CORPUS, 0), "top_k must be an integer of at least 1"),
    ],
)
def test_bad_embeddings_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
