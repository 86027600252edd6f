"""Generating tasks against upstream's pipelines on the same weights: text generation here, the others recorded from
transformers 4.57 (record_seq2seq_goldens.py)."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import transformers
from support import doubles, torch_engine
from support import record_seq2seq_goldens as seq2seq
from support.chat_templates import CHATML
from support.generative_doubles import ALL_TASKS, GOLDENS, PAD, model_of, set_tokens

from precast.runtime.errors import ChatTemplateError, InputError, UnsupportedTaskError
from precast.runtime.processors.text import Tokenizer
from precast.runtime.tasks import pipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return doubles.train_bpe(tmp_path_factory.mktemp("bpe"))


@pytest.fixture(scope="module")
def pair(folder: Path) -> tuple[Any, Any]:
    tokenizer, theirs = Tokenizer.from_folder(folder), transformers.AutoTokenizer.from_pretrained(folder)
    theirs.chat_template = tokenizer.chat_template = CHATML
    upstream = set_tokens(torch_engine.tiny_llama(vocab=len(tokenizer)))
    ours = pipeline("text-generation", model_of(upstream, tokenizer, ("text-generation",)))
    return ours, transformers.pipeline("text-generation", model=upstream, tokenizer=theirs, device="cpu")


GREEDY = {"do_sample": False, "max_new_tokens": 12}
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who are you?"}]


def same(ours: Any, theirs: Any, inputs: Any, **parameters: Any) -> Any:
    found = ours(inputs, **parameters)
    doubles.assert_same(found, theirs(inputs, **parameters))
    return found


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"return_full_text": False},
        {"return_full_text": True, "clean_up_tokenization_spaces": True},
        {"return_tensors": True},
        {"return_text": True},
        {"skip_special_tokens": False},
        {"add_special_tokens": False},
        {"prefix": "In a far country, "},
        {"prefix": ""},
        {"truncation": True, "max_length": 4},
        {"tokenizer_encode_kwargs": {"truncation": True, "max_length": 3}},
        {"num_beams": 3},
        {"num_beams": 3, "num_return_sequences": 2},
        {"num_beams": 3, "num_return_sequences": 2, "return_tensors": True},
        {"min_new_tokens": 8, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
        {"eos_token_id": list(range(1, 300))},
        {"num_beams": 2, "num_return_sequences": 2, "eos_token_id": list(range(1, 200)), "return_tensors": True},
        {"batch_size": 1},
    ],
)
def test_text_generation_is_upstreams(pair: tuple[Any, Any], parameters: dict[str, Any]) -> None:
    texts = [text for text in doubles.texts(8, seed=2) if text]
    same(*pair, texts[3], **GREEDY, **parameters)
    if "batch_size" not in parameters:
        ours, theirs = pair
        found = ours(texts, **GREEDY, **parameters)
        doubles.assert_same(found, [theirs(text, **GREEDY, **parameters) for text in texts])


@pytest.mark.parametrize(
    "parameters",
    [
        {"max_length": 40},
        {"max_length": 40, "prefix": "Once upon a time"},
        {"min_length": 60, "max_length": 70},
        {"max_length": 40, "num_beams": 2},
    ],
)
def test_lengths_count_from_each_prompt(pair: tuple[Any, Any], parameters: dict[str, Any]) -> None:
    ours, theirs = pair
    texts = ["Short", "A text that is somewhat longer than the other", "Two words", "And one more of a middle length"]
    parameters = {"do_sample": False, **parameters}
    found = ours(texts, **parameters)
    doubles.assert_same(found, [theirs(text, **parameters) for text in texts])


def test_chats_are_upstreams(pair: tuple[Any, Any]) -> None:
    prefilled = [*CHAT, {"role": "assistant", "content": "I am"}]
    for chat in (CHAT, prefilled):
        found = same(*pair, chat, **GREEDY)
        assert [message["role"] for message in found[0]["generated_text"]] == ["system", "user", "assistant"]
        same(*pair, chat, **GREEDY, return_full_text=False)
        same(*pair, chat, **GREEDY, return_tensors=True)
        same(*pair, chat, **GREEDY, num_beams=2, num_return_sequences=2)
    same(*pair, [CHAT, prefilled, CHAT], **GREEDY)
    same(*pair, prefilled, **GREEDY, continue_final_message=False)
    ours = pair[0]
    stream = ours(iter([CHAT, "a text"]), **GREEDY)
    assert [type(result[0]["generated_text"]) for result in stream] == [list, str]
    assert ours(tuple(CHAT), **GREEDY) == ours(CHAT, **GREEDY)


def test_empty_prompts_begin_with_the_beginning(pair: tuple[Any, Any]) -> None:
    for parameters in ({"add_special_tokens": False}, {}):
        for form in ({}, {"return_tensors": True}, {"skip_special_tokens": False}):
            same(*pair, "", **GREEDY, **parameters, **form)
    ours = pair[0]
    upstream = set_tokens(torch_engine.tiny_llama(vocab=len(ours.tokenizer)))
    upstream.config.bos_token_id = upstream.generation_config.bos_token_id = None
    bare = pipeline("text-generation", model_of(upstream, ours.tokenizer, ("text-generation",)))
    with pytest.raises(InputError, match=r"an empty text gives the model nothing to go on with, .*Give it a text"):
        bare("", add_special_tokens=False)


def test_stop_strings_and_holes_are_upstreams(pair: tuple[Any, Any]) -> None:
    ours, theirs = pair
    whole = ours("Hello there", **GREEDY, return_full_text=False)[0]["generated_text"]
    for stop in (whole[4:6], [whole[8:10], "never to be seen"]):
        found = same(ours, theirs, "Hello there", **GREEDY, stop_sequence=stop)
        assert len(found[0]["generated_text"]) < len("Hello there" + whole)
    long = " ".join(doubles.texts(60, seed=1))
    parameters = {"handle_long_generation": "hole", **GREEDY, "return_full_text": False}
    limit = ours.tokenizer.model_max_length
    ours.tokenizer.model_max_length = theirs.tokenizer.model_max_length = 60
    try:
        same(ours, theirs, long, **parameters)
        same(ours, theirs, "short", **parameters)
        with pytest.raises(InputError, match="the model holds 60 tokens, prompt and answer together, and 80 are to be"):
            ours(long, handle_long_generation="hole", max_new_tokens=80)
    finally:
        ours.tokenizer.model_max_length = theirs.tokenizer.model_max_length = limit


@pytest.mark.parametrize(
    ("checkpoint", "call", "expected"),
    [
        ({}, {}, {"max_new_tokens": 256, "do_sample": True, "temperature": 0.7}),
        ({}, {"do_sample": False}, {"max_new_tokens": 256, "do_sample": False, "temperature": 1.0}),
        ({"do_sample": False}, {}, {"do_sample": False, "temperature": 1.0}),
        ({"max_length": 40}, {}, {"max_new_tokens": None, "max_length": 40, "do_sample": True}),
        ({}, {"max_length": 40}, {"max_new_tokens": None, "max_length": 40}),
        ({"temperature": 0.3, "max_new_tokens": 9}, {}, {"max_new_tokens": 9, "temperature": 0.3}),
        ({"temperature": 0.3}, {"temperature": 0.9}, {"temperature": 0.9}),
        (
            {"temperature": 0.3},
            {"generation_config": {"temperature": 0.8, "top_k": 3}},
            {"temperature": 0.8, "top_k": 3},
        ),
        (
            {"temperature": 0.3, "top_p": 0.5},
            {
                "generation_config": transformers.GenerationConfig(temperature=0.8, max_new_tokens=5),
                "max_new_tokens": 7,
            },
            {"temperature": 0.8, "top_p": 0.5, "max_new_tokens": 7, "do_sample": True},
        ),
        (
            {},
            {"generation_config": transformers.GenerationConfig(do_sample=False, max_length=30)},
            {"temperature": 1.0, "max_length": 30, "max_new_tokens": None, "do_sample": False},
        ),
    ],
)
def test_whose_word_counts(pair: tuple[Any, Any], checkpoint: Any, call: Any, expected: dict[str, Any]) -> None:
    task = pair[0]
    model = SimpleNamespace(**{**vars(task.model), "generation_config": checkpoint})
    made = pipeline("text-generation", model, **call)
    config = made.config(made._defaults)
    assert {name: getattr(config, name) for name in expected} == expected
    assert config.pad_token_id == PAD
    upstream = transformers.GenerationConfig(**checkpoint)
    theirs = pair[1]
    before, theirs.model.generation_config = theirs.model.generation_config, upstream
    try:
        own = call.get("generation_config", {})
        given = {**(own if isinstance(own, dict) else own.to_diff_dict()), **call}
        given.pop("generation_config", None)
        params = theirs._get_set_generation_params(theirs._prepare_generate_kwargs(given))
    finally:
        theirs.model.generation_config = before
    for name, value in expected.items():
        if params.get(name) is not None:
            assert params[name] == value, name


def test_draws_depend_on_the_seed_and_the_place_alone(pair: tuple[Any, Any]) -> None:
    ours = pair[0]
    texts = ["One", "Two words", "Now three words", "One"]
    options = {"do_sample": True, "max_new_tokens": 6, "seed": 5, "return_full_text": False, "temperature": 5.0}
    together = ours(texts, **options)
    assert ours(texts, **options) == together
    assert ours(texts, **options, batch_size=1) == together
    assert ours(texts[0], **options) == together[0]
    assert ours(texts[2], **{**options, "seed": 7}) == together[2]
    assert together[0] != together[3]
    assert ours(texts, **{**options, "seed": [5, 6, 7, 5]})[3] == together[0]
    several = ours(texts[:2], **options, num_return_sequences=3)
    assert [result[0] for result in several] == [result[0] for result in together[:2]]
    assert len({result["generated_text"] for result in several[0]}) == 3
    with pytest.raises(InputError, match="seed is one number, or one an input"):
        ours(texts, **{**options, "seed": [5]})


def test_prompts_share_batches(pair: tuple[Any, Any]) -> None:
    ours = pair[0]
    ours.model.calls.clear()
    ours(["one", "two words", "three whole words"] * 4, **GREEDY)
    assert sum(shape[0] for shape in ours.model.calls) == 12
    assert len(ours.model.calls) < 5
    ours.model.calls.clear()
    ours(["one", "two words"], **GREEDY, batch_size=1)
    assert [shape[0] for shape in ours.model.calls] == [1, 1]


def test_the_end_of_the_model_ends_a_text_not_its_neighbours(pair: tuple[Any, Any]) -> None:
    tokenizer = pair[0].tokenizer
    upstream = set_tokens(torch_engine.tiny_gpt2(vocab=len(tokenizer)))
    ours = pipeline("text-generation", model_of(upstream, tokenizer, ("text-generation",), max_length=40))
    long, short = " ".join(["word"] * 15), "a"
    parameters = {"do_sample": False, "return_tensors": True, "eos_token_id": 3, "max_new_tokens": 30}
    alone = [ours(text, **parameters)[0]["generated_token_ids"] for text in (long, short)]
    assert len(alone[0]) == 40
    assert [result[0]["generated_token_ids"] for result in ours([long, short], **parameters)] == alone
    stream = ours.stream(long, do_sample=False, eos_token_id=3)
    assert list(stream) and stream.output.finish_reasons == ["model_length"]
    with pytest.raises(InputError, match=r"A text may have 40 tokens here.*Pass truncation=True"):
        ours(" ".join(["word"] * 60))


@pytest.mark.parametrize(
    ("inputs", "parameters", "message"),
    [
        (5, {}, "text-generation takes a text, a chat"),
        ({"role": "user"}, {}, "takes a text, a chat"),
        ([{"text": "x"}], {}, "a message has a role"),
        ([[]], {}, "a conversation has at least one message"),
        ([["x"]], {}, "a message is a dictionary"),
        ("x", {"max_new_tokens": 0}, "max_new_tokens"),
        ("x", {"max_new_token": 5}, r"no argument 'max_new_token'\. Closest: max_new_tokens"),
        ("x", {"num_beams": 2, "num_return_sequences": 3, "do_sample": False}, "num_return_sequences"),
        ("x", {"input_ids": [[1]]}, "makes input_ids itself"),
        ("x", {"return_dict_in_generate": True}, "returns texts or ids; for return_dict_in_generate"),
        ("x", {"return_text": True, "return_full_text": True}, "give one of them"),
        ("x", {"return_tensors": True, "return_full_text": True}, "return_full_text is about text"),
        ("x", {"handle_long_generation": "cut"}, "is 'hole' or None; received 'cut'"),
        ("x", {"prefix": 3}, "prefix is a text"),
        ("x", {"stop_sequence": ""}, "stop_sequence is a text, or a list of texts, none of them empty"),
        ("x", {"stop_sequence": [3]}, "stop_sequence is a text"),
        ("A longer text " * 5, {"max_length": 3, "truncation": False}, "max_length"),
    ],
)
def test_what_is_refused(pair: tuple[Any, Any], inputs: Any, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        pair[0](inputs, **parameters)


def test_wrong_defaults_are_refused_at_once(pair: tuple[Any, Any]) -> None:
    with pytest.raises(InputError, match="max_new_tokens"):
        pipeline("text-generation", pair[0].model, max_new_tokens=-1)
    with pytest.raises(
        UnsupportedTaskError, match="'translation' needs an artifact exported for translation or text2t"
    ):
        pipeline("translation_en_to_fr", pair[0].model)
    encoder = SimpleNamespace(**{**vars(pair[0].model), "generate": None})
    del encoder.generate
    with pytest.raises(InputError, match="needs a model that generates"):
        pipeline("text-generation", encoder)


def test_a_model_without_a_template_is_not_for_chats(pair: tuple[Any, Any]) -> None:
    tokenizer = pair[0].tokenizer
    before, tokenizer.chat_template = tokenizer.chat_template, None
    try:
        with pytest.raises(ChatTemplateError, match="this model has no chat template"):
            pair[0](CHAT)
    finally:
        tokenizer.chat_template = before


def test_streams_are_the_text_in_pieces(pair: tuple[Any, Any]) -> None:
    ours = pair[0]
    for item in ("Hello there", CHAT, [*CHAT, {"role": "assistant", "content": "I"}]):
        pieces = list(ours.stream(item, **GREEDY))
        assert len(pieces) > 3
        assert "".join(pieces) == ours(item, **GREEDY, return_full_text=False)[0]["generated_text"]
    options = {"max_new_tokens": 9, "seed": 3, "temperature": 3.0}
    assert "".join(ours.stream("Hi", **options)) == ours("Hi", **options, return_full_text=False)[0]["generated_text"]
    with pytest.raises(InputError, match="A stream is one row, decoded without beams"):
        ours.stream("x", num_beams=2, do_sample=False)
    with pytest.raises(InputError, match="max_new_tokens"):
        ours.stream("x", max_new_tokens=0)


# -- encoder-decoders -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    """The recorded models behind our interface, by name."""
    made = {}
    for name, files in GOLDENS["tokenizers"].items():
        tokenizer = Tokenizer.from_files({key: json.dumps(value).encode() for key, value in files.items()})
        assert len(tokenizer) == files["size"]
        made[name] = model_of(seq2seq.model(name, files["size"]), tokenizer, ALL_TASKS)
    return made


@pytest.mark.parametrize(("number", "expected"), GOLDENS["cases"], ids=lambda value: "")
def test_encoder_decoders_answer_as_recorded(recorded: dict[str, Any], number: int, expected: Any) -> None:
    name, task, parameters, inputs = seq2seq.CASES[number]
    found = seq2seq.plain(pipeline(task, recorded[name])(inputs, **parameters))
    assert found == expected


def test_every_case_is_recorded() -> None:
    assert sorted(number for number, _ in GOLDENS["cases"]) == list(range(len(seq2seq.CASES)))


def test_kinds_of_input_of_encoder_decoders(recorded: dict[str, Any]) -> None:
    ours = pipeline("text2text-generation", recorded["t5"], **seq2seq.GREEDY)
    answers = ours(seq2seq.TEXTS)
    assert ours(tuple(seq2seq.TEXTS)) == answers
    assert list(ours(iter(seq2seq.TEXTS))) == [[answer] for answer in answers]
    assert ours([]) == []
    assert "".join(ours.stream(seq2seq.TEXTS[0])) == answers[0]["generated_text"]
    assert pipeline("summarization", recorded["t5"], prefix="")(seq2seq.TEXTS[0], max_new_tokens=5) != pipeline(
        "summarization", recorded["t5"]
    )(seq2seq.TEXTS[0], max_new_tokens=5)


def test_languages_of_a_pipeline_and_of_a_call(recorded: dict[str, Any]) -> None:
    model = recorded["mbart50"]
    both = {"src_lang": "en_XX", "tgt_lang": "ro_RO"}
    expected = pipeline("translation", model, **both)("the cat", **seq2seq.GREEDY)
    assert pipeline("translation_en_XX_to_ro_RO", model)("the cat", **seq2seq.GREEDY) == expected
    assert pipeline("translation_de_DE_to_fr_XX", model)("the cat", **both, **seq2seq.GREEDY) == expected
    assert pipeline("translation_de_DE_to_fr_XX", model)("the cat", **seq2seq.GREEDY) != expected
    stop = pipeline("translation", model, **both)("the cat", stop_sequence="mat", **seq2seq.GREEDY)
    assert stop[0]["translation_text"].endswith("mat")


@pytest.mark.parametrize(
    ("task", "name", "inputs", "parameters", "message"),
    [
        (
            "translation",
            "mbart",
            "x",
            {},
            "say which, src_lang and tgt_lang; src_lang is missing. It knows ar_AR, cs_CZ",
        ),
        ("translation", "mbart", "x", {"src_lang": "en_XX"}, "tgt_lang is missing"),
        ("translation", "mbart", "x", {"src_lang": "en_XY"}, r"the language 'en_XY'\. Closest: en_XX"),
        (
            "translation",
            "mbart",
            "x",
            {"tgt_lang": "klingon"},
            r"the language 'klingon'\. It knows ar_AR.* and 13 more",
        ),
        ("translation", "mbart", "x", {"src_lang": 5}, "src_lang is the code of a language; received 5"),
        ("text2text-generation", "t5", 5, {}, "text2text-generation takes a text or a list of texts; received int"),
        ("summarization", "t5", [["x"]], {}, "summarization takes a text or a list of texts; received list"),
        ("summarization", "t5", "x", {"min_length": 9, "max_length": 5}, "min_length must be at most max_length"),
        ("summarization", "t5", "x", {"max_new_tokens": 0}, "max_new_tokens"),
        ("summarization", "t5", "x", {"return_text": True, "return_tensors": True}, "give one of them"),
        ("summarization", "t5", "x", {"prefix": 5}, "prefix is a text"),
        ("summarization", "t5", "x", {"min_lenght": 5}, r"no argument 'min_lenght'\. Closest: min_length"),
    ],
)
def test_what_encoder_decoders_refuse(
    recorded: dict[str, Any], task: str, name: str, inputs: Any, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        pipeline(task, recorded[name])(inputs, **parameters)


def test_a_decoder_translates_nothing(pair: tuple[Any, Any]) -> None:
    model = SimpleNamespace(**{**vars(pair[0].model), "tasks": ALL_TASKS})
    with pytest.raises(InputError, match="translation needs an encoder-decoder; this model only continues text"):
        pipeline("translation", model)


# -- languages of tokenizers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["{} $A </s>", "$A </s> {}"])
@pytest.mark.parametrize("form", ["__{}__", "{}_Latn"])
def test_languages_are_found_in_the_template(layout: str, form: str) -> None:
    from tokenizers import AddedToken, processors

    backend = seq2seq.backend()
    codes = {"en": "eng", "fr": "fra", "ceb": "ceb"} if "Latn" in form else {"en": "en", "fr": "fr", "ceb": "ceb"}
    tokens = [form.format(code) for code in codes.values()]
    backend.add_special_tokens([AddedToken(token, special=True) for token in tokens])
    backend.post_processor = processors.TemplateProcessing(
        single=layout.format(tokens[0]),
        special_tokens=[(tokens[0], backend.token_to_id(tokens[0])), ("</s>", 2)],
    )
    files = {"tokenizer.json": backend.to_str().encode(), "tokenizer_config.json": b'{"eos_token": "</s>"}'}
    tokenizer = Tokenizer.from_files(files)
    called = [token if "Latn" in form else code for code, token in zip(codes.values(), tokens, strict=True)]
    assert tokenizer.languages is not None
    assert tokenizer.languages.codes == sorted(called)
    assert tokenizer.src_lang == called[0]
    french = tokenizer.for_source(called[1])
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in tokens}
    plain = tokenizer("hello", add_special_tokens=False)["input_ids"]
    for made, token in ((tokenizer, tokens[0]), (french, tokens[1]), (tokenizer.for_source(tokens[2]), tokens[2])):
        marked = [ids[token], *plain, 2] if layout.startswith("{") else [*plain, 2, ids[token]]
        assert made("hello")["input_ids"] == marked
        assert (
            made("hello", truncation=True, max_length=3)["input_ids"][0 if layout.startswith("{") else -1] == ids[token]
        )
    tokenizer.src_lang = called[1]
    assert tokenizer.src_lang == called[1]
    assert tokenizer("hello")["input_ids"] == french("hello")["input_ids"]
    assert Tokenizer.from_files(tokenizer.files()).src_lang == called[1]


def test_tokenizers_without_languages(folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.languages is None and tokenizer.src_lang is None
    assert doubles.tokenizer().languages is None
    with pytest.raises(InputError, match="this tokenizer marks no languages"):
        tokenizer.for_source("en")
