"""Recordings to labels and to what is said: the same as upstream's pipelines on the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from support import tiny_artifacts, tiny_sounds
from support.recordings import encoded, recording
from support.tokenizer_samples import write_json

import precast
from precast.export.spelling import spelling
from precast.runtime.errors import ArtifactError, ConfigError, InputError, UnsupportedModelError, UnsupportedTaskError
from precast.runtime.processors.spelling import Spelling

RATE = 16000
LETTERS = tiny_sounds.LETTERS


def theirs(task: str, folder: Path, **arguments: Any) -> Any:
    return transformers.pipeline(task, str(folder), **arguments)


# Labels


@pytest.mark.filterwarnings("ignore:At least one mel filter has all zero values")
@pytest.mark.parametrize("model_type", ["wav2vec2", "audio-spectrogram-transformer"])
def test_labels_are_upstreams(model_type: str) -> None:
    ours = precast.pipeline("audio-classification", tiny_sounds.classifier(model_type))
    expected = theirs("audio-classification", tiny_sounds.classifier_checkpoint(model_type))
    sounds = [recording(samples, samples) for samples in (5000, 16000, 9001)]
    for found, sound in zip(ours(sounds), sounds, strict=True):
        for mine, yours in zip(found, expected(sound.copy()), strict=True):
            assert mine["label"] == yours["label"] and mine["score"] == pytest.approx(yours["score"], abs=1e-5)
    assert ours(sounds[0], top_k=1) == ours(sounds[0])[:1] and len(ours(sounds[0], top_k=None)) == 3
    assert ours(sounds[0], function_to_apply="none")[0]["score"] != ours(sounds[0])[0]["score"]


def test_a_file_is_what_is_in_it(tmp_path: Path) -> None:
    ours = precast.pipeline("audio-classification", tiny_sounds.classifier("wav2vec2"))
    sound = recording(9000)
    (tmp_path / "a.wav").write_bytes(encoded(sound, subtype="FLOAT"))
    same = [tmp_path / "a.wav", str(tmp_path / "a.wav"), (tmp_path / "a.wav").read_bytes(), sound]
    same += [{"array": sound, "sampling_rate": RATE}, {"raw": sound, "sampling_rate": RATE}]
    first, *others = ours(same)
    assert all(one == first for one in others)
    with pytest.raises(InputError, match="needs a recording, or a list of them"):
        ours()
    with pytest.raises(InputError, match=r"There is no recording 'b.wav'"):
        ours("b.wav")
    with pytest.raises(InputError, match=r"input_values|400 at least|samples is \d+ at least"):
        ours(sound[:10])


def test_a_feature_extractor_may_be_given(tmp_path: Path) -> None:
    path = tiny_sounds.classifier("wav2vec2")
    extractor = precast.AutoFeatureExtractor.from_pretrained(path)
    sound = recording(9000)
    usual = precast.pipeline("audio-classification", path)
    for given in (extractor, str(path), tiny_sounds.classifier_checkpoint("wav2vec2")):
        assert precast.pipeline("audio-classification", path, feature_extractor=given)(sound) == usual(sound)
    with pytest.raises(InputError, match="feature_extractor is a feature extractor of Precast, or the path of"):
        precast.pipeline("audio-classification", path, feature_extractor=3)
    np.testing.assert_array_equal(
        precast.AutoProcessor.from_pretrained(path)(sound).input_values, extractor(sound).input_values
    )
    with pytest.raises(InputError, match="has no feature extractor: its model reads no recordings"):
        precast.AutoFeatureExtractor.from_pretrained(tiny_artifacts.artifact("fill-mask"))


# Frames that are spelled

CALLS: list[dict[str, Any]] = [
    {},
    {"return_timestamps": "char"},
    {"return_timestamps": "word"},
    {"chunk_length_s": 0.4},
    {"chunk_length_s": 0.5, "stride_length_s": 0.1, "return_timestamps": "word"},
    {"chunk_length_s": 0.5, "stride_length_s": [0.05, 0.15], "return_timestamps": "char"},
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("masked", [False, True])
def test_what_is_spelled_is_upstreams(masked: bool, call: dict[str, Any]) -> None:
    ours = precast.pipeline("automatic-speech-recognition", tiny_sounds.speller(masked))
    expected = theirs("automatic-speech-recognition", tiny_sounds.speller_checkpoint(masked))
    sounds = [recording(samples, samples) for samples in (3000, 32000, 17001)]
    for found, sound in zip(ours(sounds, **call), sounds, strict=True):
        yours = expected(sound.copy(), **call)
        assert found["text"] == yours["text"]
        assert ("chunks" in found) == ("chunks" in yours)
        for one, other in zip(found.get("chunks", ()), yours.get("chunks", ()), strict=True):
            assert one["text"] == other["text"]
            np.testing.assert_allclose(one["timestamp"], other["timestamp"], atol=1e-9)
    assert len({one["text"] for one in ours(sounds)}) == 3


def test_context_in_a_dictionary_is_upstreams() -> None:
    ours = precast.pipeline("automatic-speech-recognition", tiny_sounds.speller())
    expected = theirs("automatic-speech-recognition", tiny_sounds.speller_checkpoint())
    sound = recording(20000)
    given = {"raw": sound, "sampling_rate": RATE, "stride": (3200, 1600)}
    assert ours(given) == {"text": expected({**given, "raw": sound.copy()})["text"]}
    for stride in ((1,), (-1, 0), ("a", 2), 3):
        with pytest.raises(InputError, match='"stride" is how many samples at either end lend context'):
            ours({**given, "stride": stride})
    with pytest.raises(InputError, match=r'"stride" is \(20000, 1\), and the recording has 20000 samples'):
        ours({**given, "stride": (20000, 1)})


def test_the_model_itself_spells() -> None:
    path = tiny_sounds.speller()
    model = precast.AutoModelForCTC.from_pretrained(path)
    sound = recording(16000)
    heard = precast.AutoFeatureExtractor.from_pretrained(path)(sound, sampling_rate=RATE)
    tokens = model(**heard).logits.argmax(-1)
    text = precast.pipeline("automatic-speech-recognition", path)(sound)["text"]
    assert model.spelling.batch_decode(tokens) == [text] and text


@pytest.mark.parametrize("kind", ["speller", "writer"])
def test_the_processor_of_speech_hears_and_writes(kind: str) -> None:
    """Of an artifact and of its checkpoint, as upstream's does."""
    sound = recording(9000)
    places = [getattr(tiny_sounds, kind)(), getattr(tiny_sounds, f"{kind}_checkpoint")()]
    expected = transformers.AutoProcessor.from_pretrained(places[1])
    ids = [[7, 7, 9, 0, 9], [8, 5, 5, 5, 6]]
    for place in places:
        found = precast.AutoProcessor.from_pretrained(place)
        for name, values in found(sound, sampling_rate=RATE).items():
            theirs_ = expected(sound, sampling_rate=RATE, return_tensors="np")[name]
            np.testing.assert_allclose(values, theirs_, rtol=0, atol=1e-4)
        assert found.batch_decode(ids) == expected.batch_decode(ids)
        assert found.decode(ids[0]) == expected.decode(ids[0])
        with pytest.raises(InputError, match=r"This processor hears recordings.* received neither"):
            found()
        with pytest.raises(InputError, match="received both"):
            found(sound, text="a")
        if kind == "writer":
            assert found(text="hello")["input_ids"] == found.tokenizer("hello")["input_ids"]
        else:
            with pytest.raises(InputError, match="This processor reads no texts: its vocabulary spells"):
                found(text="hello")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"return_timestamps": True}, "return_timestamps is 'char' or 'word' .*received True"),
        ({"return_timestamps": "segment"}, "received 'segment'"),
        ({"chunk_length_s": -1}, "chunk_length_s is a number of seconds from 0 to 3600; received -1"),
        ({"chunk_length_s": "30"}, "chunk_length_s is a number of seconds"),
        ({"chunk_length_s": 1, "stride_length_s": [1, 2, 3]}, "stride_length_s is a number of seconds"),
        ({"chunk_length_s": 1, "stride_length_s": 0.5}, "longer than both strides together"),
        ({"return_language": True}, "return_language is for models that write"),
        ({"num_beams": 3}, "num_beams is for models that write"),
        ({"decoder_kwargs": {"beam_width": 9}}, "decoder_kwargs is for beams with a language model .* logits"),
    ],
)
def test_what_a_speller_cannot_do_is_refused(call: dict[str, Any], message: str) -> None:
    ours = precast.pipeline("automatic-speech-recognition", tiny_sounds.speller())
    with pytest.raises(InputError, match=message):
        ours(recording(9000), **call)


def test_an_artifact_for_something_else_is_refused() -> None:
    with pytest.raises(UnsupportedTaskError, match=r"needs an artifact exported for .*speech-seq2seq or ctc"):
        precast.pipeline("automatic-speech-recognition", tiny_sounds.classifier("wav2vec2"))


# Vocabularies


def spelled(**files: Any) -> Spelling:
    return Spelling.from_data(spelling({name.replace("_json", ".json"): value for name, value in files.items()}.get))


def test_vocabularies_are_read_as_upstream_reads_them(tmp_path: Path) -> None:
    write_json(tmp_path / "vocab.json", {letter: number for number, letter in enumerate(LETTERS)})
    rng = np.random.default_rng(0)
    for said in ({}, {"do_lower_case": True}, {"replace_word_delimiter_char": "_"}):
        write_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": "Wav2Vec2CTCTokenizer", **said})
        expected = transformers.Wav2Vec2CTCTokenizer.from_pretrained(tmp_path)
        found = spelled(vocab_json={one: n for n, one in enumerate(LETTERS)}, tokenizer_config_json=said)
        for _ in range(20):
            ids = rng.integers(0, len(LETTERS), 30).repeat(rng.integers(1, 4, 30))
            assert found.decode(ids) == expected.decode(ids)
            assert found.decode(ids, skip_special_tokens=True) == expected.decode(ids, skip_special_tokens=True)


def test_vocabularies_of_several_languages() -> None:
    several = {"eng": {"<pad>": 0, "a": 1}, "deu": {"<pad>": 0, "b": 1}}
    assert spelled(vocab_json=several, tokenizer_config_json={"target_lang": "deu"}).decode([1, 0, 1]) == "bb"
    with pytest.raises(UnsupportedModelError, match=r"has several languages, and tokenizer_config.json chooses none"):
        spelled(vocab_json=several)


@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        ({}, UnsupportedModelError, "came without vocab.json"),
        ({"vocab_json": {"a": "b"}}, ConfigError, "vocab.json: a must be an integer"),
        ({"vocab_json": {"a": 1 << 40}}, ConfigError, "vocab.json: a must be an integer"),
        ({"vocab_json": {"a": 0}, "tokenizer_config_json": {"pad_token": 3}}, ConfigError, "pad_token must be a token"),
        ({"vocab_json": {"a": 0}, "tokenizer_config_json": {"pad_token": None}}, UnsupportedModelError, "no pad_token"),
        (
            {"vocab_json": {"a": 0}, "tokenizer_config_json": {"do_lower_case": "x"}},
            ConfigError,
            "do_lower_case must be true",
        ),
    ],
)
def test_vocabularies_that_are_none(files: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        spelled(**files)


def test_what_an_artifact_says_of_a_vocabulary_is_held_to_rules() -> None:
    good: dict[str, Any] = {"tokens": ["<pad>", "a"], "blank": "<pad>", "unknown": "<unk>"}
    assert Spelling.from_data(good).decode([1, 1, 0, 1, 7]) == "aa<unk>"
    for change in ({"tokens": "ab"}, {"tokens": [1]}, {"blank": ""}, {"lower": 1}, {"more": 2}):
        with pytest.raises(ArtifactError):
            Spelling.from_data({**good, **change})
    with pytest.raises(InputError, match="integers"):
        Spelling.from_data(good).decode([[1, 2]])


# Models that write

GREEDY: dict[str, Any] = {"num_beams": 1, "max_new_tokens": 24}
WRITES: list[tuple[int, dict[str, Any]]] = [
    (16000 * 4, {"generate_kwargs": {"max_new_tokens": 12}}),
    (16000 * 4, {"generate_kwargs": GREEDY}),
    (16000 * 4, {"return_timestamps": True, "generate_kwargs": GREEDY}),
    (16000 * 4, {"return_language": True, "generate_kwargs": GREEDY}),
    (16000 * 4, {"generate_kwargs": {**GREEDY, "language": "german", "task": "translate"}}),
    (16000 * 70, {"return_timestamps": True, "generate_kwargs": GREEDY}),
    (16000 * 70, {"return_timestamps": True, "return_language": True, "generate_kwargs": {**GREEDY, "num_beams": 2}}),
    (16000 * 50, {"chunk_length_s": 20, "generate_kwargs": GREEDY}),
    (16000 * 50, {"chunk_length_s": 20, "stride_length_s": 3, "return_timestamps": True, "generate_kwargs": GREEDY}),
    (
        16000 * 70,
        {
            "return_timestamps": True,
            "generate_kwargs": {**GREEDY, "condition_on_prev_tokens": True, "temperature": 0.0},
        },
    ),
    (
        16000 * 70,
        {
            "return_timestamps": True,
            "generate_kwargs": {
                **GREEDY,
                "temperature": 0.0,
                "logprob_threshold": -1.0,
                "no_speech_threshold": 1e-4,
                "compression_ratio_threshold": 1.3,
            },
        },
    ),
    (
        16000 * 40,
        {"return_timestamps": True, "generate_kwargs": {**GREEDY, "prompt_ids": np.asarray([263, 65, 66, 67])}},
    ),
]


@pytest.mark.parametrize(("samples", "call"), WRITES)
def test_what_is_written_is_upstreams(samples: int, call: dict[str, Any]) -> None:
    ours = precast.pipeline("automatic-speech-recognition", tiny_sounds.writer())
    expected = theirs("automatic-speech-recognition", tiny_sounds.writer_checkpoint())
    sound = recording(samples, samples)
    nested = dict(call["generate_kwargs"])
    if "prompt_ids" in nested:
        import torch

        nested["prompt_ids"] = torch.from_numpy(nested["prompt_ids"])
    assert ours(sound, **call) == expected(sound.copy(), **{**call, "generate_kwargs": nested})


@pytest.mark.filterwarnings("ignore:std.*degrees of freedom")  # of an answer of one token
@pytest.mark.parametrize(
    ("samples", "call"),
    [
        (16000 * 4, {"generate_kwargs": GREEDY}),
        (16000 * 64, {"return_language": True, "generate_kwargs": {**GREEDY, "num_beams": 3}}),
        (16000 * 50, {"chunk_length_s": 20, "generate_kwargs": GREEDY}),
    ],
)
def test_words_are_upstreams(samples: int, call: dict[str, Any]) -> None:
    """When they are said is not compared here: a model that has learned nothing looks everywhere alike, and what is
    rounded would say it. Tests of generation hold times to upstream's on one attention."""
    ours = precast.pipeline("automatic-speech-recognition", tiny_sounds.writer())
    expected = theirs("automatic-speech-recognition", tiny_sounds.writer_checkpoint())
    sound = recording(samples, samples)
    found = ours(sound, return_timestamps="word", **call)
    yours = expected(sound.copy(), return_timestamps="word", **call)
    assert found["text"] == yours["text"]
    assert [word["text"] for word in found["chunks"]] == [word["text"] for word in yours["chunks"]]
    assert [word.get("language") for word in found["chunks"]] == [word.get("language") for word in yours["chunks"]]


def test_recordings_of_a_batch_are_written_as_each_alone() -> None:
    ours = precast.pipeline("automatic-speech-recognition", tiny_sounds.writer(), generate_kwargs=GREEDY)
    sounds = [recording(samples, samples) for samples in (16000, 40000, 90000)]
    together = ours(sounds, batch_size=3, token_budget=10**6, return_timestamps=True)
    assert together == [ours(sound, return_timestamps=True) for sound in sounds]
    assert list(ours(iter(sounds))) == [ours(sound) for sound in sounds]


def test_times_are_told_where_a_recording_is_longer_than_a_window() -> None:
    """Without them nobody knew where the next window begins; upstream asks for them."""
    ours = precast.pipeline("automatic-speech-recognition", tiny_sounds.writer(), generate_kwargs=GREEDY)
    sound = recording(16000 * 35)
    assert ours(sound)["text"] == ours(sound, return_timestamps=True)["text"]
    with pytest.raises(InputError, match="of more than 30 s is heard window by window"):
        ours(sound, return_timestamps=False)


def test_what_has_been_heard_is_told() -> None:
    ours = precast.pipeline("automatic-speech-recognition", tiny_sounds.writer(), generate_kwargs=GREEDY)
    told: list[tuple[float, float, str]] = []
    ours.recogniser.heard = lambda *said: told.append(said)
    text = ours(recording(16000 * 65))["text"]
    assert [round(total) for _, total, _ in told] == [65] * len(told) and len(told) > 2
    assert told[0][0] == 0 and all(text.startswith(said) for _, _, said in told)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"return_timestamps": "char"}, r"return_timestamps is True \(of segments\) or 'word' .*received 'char'"),
        ({"return_language": 3}, "return_language must be True or False"),
        ({"generate_kwargs": {"language": "klingon"}}, "language 'klingon' is not one that this model knows"),
        ({"generate_kwargs": {"task": "sing"}}, "task"),
        ({"generate_kwargs": [1]}, "generate_kwargs"),
        ({"generate_kwargs": {"no_speech_threshold": 0.5}}, "give logprob_threshold, too"),
        ({"generate_kwargs": {"prompt_condition_type": "all-segments"}}, "needs condition_on_prev_tokens=True"),
        ({"generate_kwargs": {"temperature": [0.0, "x"]}}, "temperature is a number of at least 0, or several"),
        ({"generate_kwargs": {"prompt_ids": [1.5]}}, "prompt_ids is a list of token ids"),
        ({"generate_kwargs": {"num_beans": 3}}, "no argument 'num_beans'"),
        ({"generate_kwargs": {"decoder_input_ids": [1]}}, "makes decoder_input_ids itself"),
    ],
)
def test_what_a_writer_cannot_do_is_refused(call: dict[str, Any], message: str) -> None:
    ours = precast.pipeline("automatic-speech-recognition", tiny_sounds.writer())
    with pytest.raises(InputError, match=message):
        ours(recording(9000), **call)
