"""Tokenizers of encoder-decoders from their sentencepiece models: against transformers' own class where that runs
sentencepiece (Marian, M2M100), and against sentencepiece itself where transformers 5 drops normalisation on its way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from support.tokenizer_samples import (
    CORPUS,
    ORDINARY,
    PAIRS,
    TEXTS,
    copied,
    sentencepiece_model,
    tokenizer,
    write_json,
)
from transformers import AutoTokenizer, M2M100Tokenizer, MarianTokenizer, SiglipTokenizer

from precast.export.tokenizers.files import runtime_files
from precast.export.tokenizers.languages import M2M100, MBART, MBART50, NLLB, WMT21
from precast.runtime.errors import CheckpointError, InputError, UnsupportedModelError
from precast.runtime.processors.text import Tokenizer


def processor(folder: Path, name: str) -> Any:
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / name))


def assert_as_sentencepiece(
    mine: Tokenizer, spm: Any, texts: list[str], place: Callable[[int], int], before: list[int], after: list[int]
) -> None:
    """:param place: where a piece of sentencepiece's id stands in the embedding."""
    for text in texts:
        wanted = spm.encode(text)
        assert mine(text)["input_ids"] == [*before, *map(place, wanted), *after], text
        if spm.unk_id() not in wanted:
            assert mine.decode(mine(text)["input_ids"], skip_special_tokens=True) == spm.decode(wanted), text


T5_OPTIONS = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sentencepiece_model(tmp_path_factory.mktemp("t5"), "spiece.model", **T5_OPTIONS)


@pytest.fixture(scope="module")
def fairseq(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sentencepiece_model(tmp_path_factory.mktemp("fairseq"), "sentencepiece.bpe.model")


@pytest.fixture(scope="module")
def fairseq_bpe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sentencepiece_model(
        tmp_path_factory.mktemp("bpe"), "sentencepiece.bpe.model", model_type="bpe", vocab_size=500
    )


def test_t5(t5: Path, tmp_path: Path) -> None:
    folder = copied(t5, tmp_path)
    spm = processor(folder, "spiece.model")
    mine = tokenizer(folder, "t5")
    assert_as_sentencepiece(mine, spm, ORDINARY, lambda index: index, [], [1])
    size = spm.get_piece_size()
    assert len(mine) == size + 100
    assert mine.convert_tokens_to_ids(["<extra_id_99>", "<extra_id_0>"]) == [size, size + 99]
    pieces = [*spm.encode("Hello"), size + 99, *spm.encode("world"), 1]
    assert mine("Hello <extra_id_0> world")["input_ids"] == pieces
    assert mine("Hello", "world")["input_ids"] == [*spm.encode("Hello"), 1, *spm.encode("world"), 1]
    assert mine.decode(pieces, skip_special_tokens=True) == "Hello world"
    assert len(tokenizer(folder, "mt5", extra_ids=0)) == size
    assert len(tokenizer(folder, "umt5", extra_ids=7, tokenizer_class="T5Tokenizer")) == size + 7
    with pytest.raises(CheckpointError, match=r"extra_ids is a whole number of 0 to 65536; .* has -1"):
        tokenizer(folder, "t5", extra_ids=-1)


def test_byte_fallback(tmp_path: Path) -> None:
    """mT5's model knows every byte."""
    folder = sentencepiece_model(tmp_path, "spiece.model", byte_fallback=True, vocab_size=560, **T5_OPTIONS)
    spm = processor(folder, "spiece.model")
    mine = tokenizer(folder, "mt5", extra_ids=0)
    assert_as_sentencepiece(mine, spm, ORDINARY, lambda index: index, [], [1])
    assert spm.unk_id() not in spm.encode("\U00020000")
    assert mine.decode(mine("a \U00020000 b")["input_ids"], skip_special_tokens=True) == "a \U00020000 b"


def test_user_defined_symbols(tmp_path: Path) -> None:
    """They win against every other way to cut a text, and no space comes after them."""
    symbols = ["<sep>", "quick", "xyz"]
    folder = sentencepiece_model(tmp_path, "spiece.model", user_defined_symbols=symbols, **T5_OPTIONS)
    mine = tokenizer(folder, "t5")
    texts = [*ORDINARY, "a<sep>b", "quickly xyzzy <sep> quick", "xxyz<sep><sep>"]
    assert_as_sentencepiece(mine, processor(folder, "spiece.model"), texts, lambda index: index, [], [1])


def test_pegasus(t5: Path, tmp_path: Path) -> None:
    """Two masks and a hundred spare tokens stand before the pieces from unk on."""
    folder = copied(t5, tmp_path)
    mine = tokenizer(folder, "pegasus")
    spm = processor(folder, "spiece.model")
    assert_as_sentencepiece(mine, spm, ORDINARY, lambda index: index + 103, [], [1])
    names = ["<pad>", "</s>", "<mask_1>", "<mask_2>", "<unk_2>", "<unk_102>", "<unk>"]
    assert mine.convert_tokens_to_ids(names) == [0, 1, 2, 3, 4, 104, 105]
    assert mine.mask_token_id == 3
    hello, world = ([index + 103 for index in spm.encode(text)] for text in ("Hello", "world"))
    assert mine("Hello <mask_1> world")["input_ids"] == [*hello, 2, *world, 1]
    whole = tokenizer(folder, "pegasus", offset=0, mask_token=None, mask_token_sent=None)
    assert_as_sentencepiece(whole, spm, ORDINARY, lambda index: index, [], [1])
    with pytest.raises(CheckpointError, match=r"a Pegasus tokenizer with offset 103 has both masks"):
        tokenizer(folder, "pegasus", mask_token_sent=None)


MULTILINGUAL = {
    "MBartTokenizer": (MBART, "en_XX", "fr_XX", False),
    "MBart50Tokenizer": (MBART50, "en_XX", "sl_SI", True),
    "NllbTokenizer": (NLLB, "eng_Latn", "zho_Hans", True),
}


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
@pytest.mark.parametrize("name", MULTILINGUAL)
def test_languages(name: str, kind: str, fairseq: Path, fairseq_bpe: Path, tmp_path: Path) -> None:
    languages, default, other, before = MULTILINGUAL[name]
    folder = copied(fairseq if kind == "unigram" else fairseq_bpe, tmp_path)
    spm = processor(folder, "sentencepiece.bpe.model")
    mine = tokenizer(folder, "mbart", tokenizer_class=name)
    size = spm.get_piece_size() + 1
    ids = {code: size + index for index, code in enumerate(languages)}
    assert mine.convert_tokens_to_ids(list(languages)) == list(ids.values())
    assert mine.mask_token_id == size + len(languages)

    def around(code: str) -> tuple[list[int], list[int]]:
        return ([ids[code]], [2]) if before else ([], [2, ids[code]])

    def place(index: int) -> int:
        return 3 if index == 0 else index + 1

    assert_as_sentencepiece(mine, spm, ORDINARY, place, *around(default))
    assert mine.src_lang == default
    assert mine.languages is not None
    assert mine.languages.codes == sorted(languages)
    assert mine.languages.id(other) == ids[other]
    assert_as_sentencepiece(mine.for_source(other), spm, ORDINARY[:3], place, *around(other))
    stated = tokenizer(folder, "mbart", tokenizer_class=name, src_lang=other)
    assert stated.src_lang == other
    assert_as_sentencepiece(stated, spm, ORDINARY[:3], place, *around(other))
    with pytest.raises(CheckpointError, match=r"src_lang must be a language of the tokenizer; got 'xx_YY'"):
        tokenizer(folder, "mbart", tokenizer_class=name, src_lang="xx_YY")
    with pytest.raises(InputError, match=r"does not know the language 'xx'"):
        mine.for_source("xx")


def test_places_in_published_embeddings() -> None:
    """Pieces end at 250,000 (mBART), 256,000 (NLLB) and 128,003 (M2M100); their model cards name these ids."""
    assert 250_001 + MBART.index("en_XX") == 250_001 + MBART50.index("en_XX") == 250_004
    assert 256_001 + NLLB.index("eng_Latn") == 256_047
    assert 256_001 + NLLB.index("fra_Latn") == 256_057
    assert 128_004 + M2M100.index("en") == 128_022
    assert [len(set(codes)) for codes in (MBART, MBART50, NLLB, M2M100, WMT21)] == [25, 52, 202, 100, 8]


def test_nllb_of_old(fairseq_bpe: Path, tmp_path: Path) -> None:
    folder = copied(fairseq_bpe, tmp_path)
    mine = tokenizer(folder, "m2m_100", tokenizer_class="NllbTokenizer", legacy_behaviour=True)
    assert mine("Hello")["input_ids"][-2:] == mine.convert_tokens_to_ids(["</s>", "eng_Latn"])
    # A tokenizer.json is kept; where the language stands follows from the settings nevertheless.
    mine.save_pretrained(tmp_path / "saved")
    new = tokenizer(tmp_path / "saved", "m2m_100", tokenizer_class="NllbTokenizer", src_lang="fra_Latn")
    assert new("Hello")["input_ids"][0] == new.convert_tokens_to_ids("fra_Latn")
    assert new("Hello")["input_ids"][1:] == [*mine("Hello")["input_ids"][:-2], 2]


def m2m100(source: Path, folder: Path) -> Path:
    copied(source, folder)
    spm = processor(folder, "sentencepiece.bpe.model")
    pieces = [spm.id_to_piece(index) for index in range(3, spm.get_piece_size())]
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *reversed(pieces), "never-a-piece"]
    write_json(folder / "vocab.json", {token: index for index, token in enumerate(tokens)})
    return folder


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_m2m100(kind: str, fairseq: Path, fairseq_bpe: Path, tmp_path: Path) -> None:
    folder = m2m100(fairseq if kind == "unigram" else fairseq_bpe, tmp_path)
    mine = tokenizer(folder, "m2m_100")
    theirs = M2M100Tokenizer(
        str(folder / "vocab.json"),
        str(folder / "sentencepiece.bpe.model"),
        additional_special_tokens=[f"__{code}__" for code in M2M100],  # as the checkpoints on the Hub state
    )
    assert sorted(mine.get_vocab().items()) == sorted(theirs.get_vocab().items())
    assert len(mine.languages.codes) == len(M2M100) == 100  # type: ignore[union-attr]
    for text in [*TEXTS, "Hello __fr__ world"]:
        wanted = theirs(text)["input_ids"]
        assert mine(text)["input_ids"] == wanted, text
        if theirs.unk_token_id not in wanted:
            assert mine.decode(wanted, skip_special_tokens=True) == theirs.decode(wanted, skip_special_tokens=True)
    theirs.src_lang = "zu"
    assert mine.for_source("zu")("Hello")["input_ids"] == theirs("Hello")["input_ids"]
    assert mine.languages.id("ceb") == theirs.get_lang_id("ceb")  # type: ignore[union-attr]
    wmt = tokenizer(folder, "m2m_100", language_codes="wmt21", src_lang="de")
    assert wmt.languages.codes == sorted(WMT21)  # type: ignore[union-attr]
    assert wmt("Hello")["input_ids"][0] == wmt.convert_tokens_to_ids("__de__")
    with pytest.raises(CheckpointError, match=r"language_codes is one of m2m100, wmt21"):
        tokenizer(folder, "m2m_100", language_codes="other")


def test_m2m100_with_pieces_that_have_no_id(fairseq_bpe: Path, tmp_path: Path) -> None:
    folder = m2m100(fairseq_bpe, tmp_path)
    ids = json.loads((folder / "vocab.json").read_text())
    write_json(folder / "vocab.json", {token: index for index, token in enumerate(list(ids)[:100])})
    with pytest.raises(UnsupportedModelError, match=r"vocab.json lacks pieces that sentencepiece.bpe.model cuts texts"):
        tokenizer(folder, "m2m_100")
    write_json(folder / "vocab.json", {"<s>": 0, "a": 7})
    with pytest.raises(CheckpointError, match=r"each token an id of its own, 0 and up without gaps"):
        tokenizer(folder, "m2m_100")


@pytest.fixture(scope="module")
def marian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models of other pieces, one vocabulary in an order of its own."""
    folder = tmp_path_factory.mktemp("marian")
    sentencepiece_model(folder, "source.spm", CORPUS[:7])
    sentencepiece_model(folder, "target.spm", CORPUS[2:], normalization_rule_name="nmt_nfkc_cf")
    both = [processor(folder, name) for name in ("source.spm", "target.spm")]
    pieces = {spm.id_to_piece(index) for spm in both for index in range(3, spm.get_piece_size())}
    alone = pieces - {both[0].id_to_piece(index) for index in range(both[0].get_piece_size())}
    assert len(alone) > 20
    tokens = [
        "</s>",
        "<unk>",
        *sorted(pieces, key=lambda piece: (len(piece), piece)),
        "Ω",
        ">>fra<<",
        ">>deu<<",
        "<pad>",
    ]
    write_json(folder / "vocab.json", {token: index for index, token in enumerate(tokens)})
    return folder


@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")  # whose rules upstream never applies
def test_marian(marian: Path, tmp_path: Path) -> None:
    folder = copied(marian, tmp_path)
    mine = tokenizer(folder, "marian", source_lang="en", target_lang="fr")
    theirs = MarianTokenizer.from_pretrained(folder)
    assert mine.model_max_length == 512
    assert len(mine) == theirs.vocab_size
    assert mine.pad_token_id == theirs.pad_token_id
    texts = [
        ">>fra<< Hello world",
        ">>deu<<Hello",
        "Ω is only in the vocabulary, aΩb ΩΩ жш шж",
        "\U0010ffff",
        "longest first",
    ]
    for text in [*TEXTS, *texts]:
        wanted = theirs(text)["input_ids"]
        assert mine(text)["input_ids"] == wanted, text
        if theirs.unk_token_id not in wanted:
            assert mine.decode(wanted, skip_special_tokens=True) == theirs.decode(wanted, skip_special_tokens=True)
    assert mine("Hello", "world")["input_ids"] == theirs("Hello", "world")["input_ids"]
    for text in ORDINARY:  # what a model writes: pieces of the target
        ids = theirs(text_target=text)["input_ids"]
        if theirs.unk_token_id not in ids:
            assert mine.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True), text


def test_marian_that_cannot_be_expressed(marian: Path, fairseq_bpe: Path, tmp_path: Path) -> None:
    folder = copied(marian, tmp_path)
    with pytest.raises(UnsupportedModelError, match=r"separate vocabularies .* gives one id two meanings"):
        tokenizer(folder, "marian", separate_vocabs=True)
    (folder / "source.spm").write_bytes((fairseq_bpe / "sentencepiece.bpe.model").read_bytes())
    with pytest.raises(UnsupportedModelError, match=r"source.spm must be a unigram model"):
        tokenizer(folder, "marian")
    (folder / "source.spm").write_bytes(b"\x00not")
    with pytest.raises(CheckpointError, match=r"source.spm is not a sentencepiece model"):
        tokenizer(folder, "marian")
    (folder / "target.spm").unlink()
    with pytest.raises(CheckpointError, match=r"made of vocab.json, source.spm, target.spm.*lacks target.spm"):
        tokenizer(folder, "marian")


def test_barthez_and_xglm(fairseq: Path, tmp_path: Path) -> None:
    folder = copied(fairseq, tmp_path)
    spm = processor(folder, "sentencepiece.bpe.model")
    xglm = tokenizer(folder, "xglm")
    assert_as_sentencepiece(xglm, spm, ORDINARY, lambda index: 3 if index == 0 else index + 1, [2], [])
    assert xglm.convert_tokens_to_ids("<madeupword6>") == spm.get_piece_size() + 7
    options = {"bos_id": 0, "pad_id": 1, "eos_id": 2, "unk_id": 3}
    own = sentencepiece_model(tmp_path / "own", "sentencepiece.bpe.model", **options)
    barthez = tokenizer(own, "mbart", tokenizer_class="BarthezTokenizer")
    spm = processor(own, "sentencepiece.bpe.model")
    assert_as_sentencepiece(barthez, spm, ORDINARY, lambda index: index, [0], [2])


@pytest.mark.parametrize("name", ["T5Tokenizer", "PegasusTokenizer", "XGLMTokenizer"])
def test_a_tokenizer_json_is_kept(name: str, t5: Path, fairseq: Path, tmp_path: Path) -> None:
    folder = copied(fairseq if name == "XGLMTokenizer" else t5, tmp_path)
    mine = tokenizer(folder, "t5", tokenizer_class=name)
    mine.save_pretrained(tmp_path / "saved")
    again = tokenizer(tmp_path / "saved", "t5", tokenizer_class=name)
    assert again.files()["tokenizer.json"] == mine.files()["tokenizer.json"]
    assert again.special_tokens_map == mine.special_tokens_map


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("T5Tokenizer", {}),
        ("PegasusTokenizer", {}),
        ("MBartTokenizer", {"src_lang": "ro_RO"}),
        ("MBart50Tokenizer", {"src_lang": "sl_SI"}),
        ("XGLMTokenizer", {}),
    ],
)
def test_what_transformers_saves(name: str, settings: dict[str, Any], t5: Path, fairseq: Path, tmp_path: Path) -> None:
    """With the tokenizer.json that transformers 5 makes, everything is as transformers 5 has it."""
    folder = copied(t5 if name[0] in "TP" else fairseq, tmp_path)
    write_json(folder / "config.json", {"model_type": "t5"})
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": name, **settings})
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    theirs = AutoTokenizer.from_pretrained(folder)
    mine = Tokenizer.from_files(runtime_files(folder, "t5", {"model_type": "t5"}))
    assert type(theirs).__name__ == name
    assert mine.special_tokens_map == theirs.special_tokens_map
    assert mine.get_vocab() == theirs.get_vocab()
    for text in [*TEXTS, *PAIRS]:
        first, second = (text, None) if isinstance(text, str) else text
        wanted = theirs(first, second)["input_ids"]
        assert mine(first, second)["input_ids"] == wanted, text
        assert mine.decode(wanted) == theirs.decode(wanted), text


def test_a_file_of_other_languages(fairseq: Path, tmp_path: Path) -> None:
    """Cut down to the languages of one's own, a tokenizer.json says itself which one it marks."""
    folder = copied(fairseq, tmp_path)
    mine = tokenizer(folder, "mbart", tokenizer_class="MBartTokenizer", src_lang="ro_RO")
    mine.save_pretrained(tmp_path / "saved")
    path = tmp_path / "saved" / "tokenizer.json"
    path.write_text(path.read_text().replace("en_XX", "en_YY"))
    again = tokenizer(tmp_path / "saved", "mbart", tokenizer_class="MBartTokenizer")
    assert again.src_lang == "ro_RO"
    with pytest.raises(CheckpointError, match=r"src_lang must be a language of the tokenizer; got 'en_XX'"):
        tokenizer(tmp_path / "saved", "mbart", tokenizer_class="MBartTokenizer", src_lang="en_XX")


@pytest.mark.filterwarnings("ignore:Token indices sequence length")
def test_siglip(t5: Path, tmp_path: Path) -> None:
    """Small letters without punctuation; upstream's own class runs sentencepiece."""
    folder = copied(t5, tmp_path)
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "SiglipTokenizer"})
    mine, theirs = tokenizer(folder, "siglip"), SiglipTokenizer.from_pretrained(folder)
    for text in [*ORDINARY, "This is a photo of a CAT, isn't it?", "...", "a.b  c", " . leading"]:
        assert mine(text)["input_ids"] == theirs(text)["input_ids"], text
    options = {"padding": "max_length", "max_length": 9, "truncation": True}
    for text in ("a cat", "a cat " * 9):
        assert dict(mine(text, **options)) == dict(theirs(text, **options))
    assert mine.model_max_length == theirs.model_max_length == 64
