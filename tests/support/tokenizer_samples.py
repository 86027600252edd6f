# ruff: noqa: RUF001 (look-alike letters are the point)
"""Texts that tokenizers get wrong, and small vocabularies trained on real sentences, shared by the tokenizer tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from precast.export.tokenizers.files import runtime_files
from precast.runtime.processors import text

CORPUS = [
    "The quick brown fox jumps over the lazy dog, doesn't it?",
    "It was the best of times, it was the worst of times; it was the age of wisdom.",
    "Précast concrete is cast in a factory and arrives on site finished. Déjà vu! Ça va?",
    "Les sanglots longs des violons de l'automne blessent mon cœur d'une langueur monotone.",
    "Zażółć gęślą jaźń. Größe, Straße, Übung und Äpfel.",
    "北京是中国的首都。東京は日本の首都です。 안녕하세요 세계",
    "Съешь ещё этих мягких французских булок, да выпей чаю.",
    "Numbers 1234567890, 3.14, 50% and $20; e-mail: someone@example.org, https://example.org/a?b=c#d",
    "Language models turn text into tokens and tokens into numbers, tokenization is the first step.",
    "Hello world! Hello again, my friend. 👍 🙂 😀 ☕",
]

TEXTS = [
    "Hello world",
    "",
    " ",
    " \t\n  ",
    "  leading and trailing  ",
    "two  spaces   three",
    "line\nbreak\r\nand\ttab",
    "Déjà vu, ÇA VA? Größe Straße",
    "e\u0301a\u0300 combining n\u0303",
    "ZALGO h\u0335\u0321e\u0334l\u0337l\u0338o",
    "北京是中国的首都。",
    "東京 mixed with English漢字",
    "안녕하세요",
    "👍🏽 👨‍👩‍👧‍👦 🇫🇷 ☕️",
    "control\x00\x01\x1f\x7f\u200b\u200d\ufeff chars",
    "soft\u00adhyphen no\u00a0break \u2028 sep \u3000wide",
    "ﬁ ligature ＦＵＬＬｗｉｄｔｈ ½ ① Ⅳ",
    "[CLS] [SEP] [MASK] [PAD] [UNK] in text",
    "<s> </s> <mask> <pad> <unk>in text <mask>.",
    "a [MASK] b<mask>c  <mask>  d",
    "don't ``quote'' it's 'x' 're n't",
    "https://example.org/a?b=c#d someone@example.org",
    "antidisestablishmentarianism" * 4,
    "x" * 150,
    "\U0001f9ff\U00020000\U000e0001",
    "שלום עולם مرحبا بالعالم",
    "İstanbul ǅ ß ſ Σ ς",
    "▁ metaspace ▁▁ itself Ġ Ċ ## ##ing",
    "3.14 1,000,000 50% $20 C++ #tag @user",
    "word " * 60,
]

SPECIAL = ("<s>", "</s>", "<pad>", "<unk>", "<mask>")
ORDINARY = [sample for sample in TEXTS if not any(token in sample for token in SPECIAL)]

PAIRS = [
    ("Hello world", "Bonjour le monde"),
    ("What is cast in a factory?", "Precast concrete is cast and tested in a factory. " * 3),
    ("", "second only"),
    ("first only", " "),
    ("a long first text " * 6, "short"),
    ("北京", "👍🏽 emoji"),
]


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def wordpiece(folder: Path, special: tuple[str, ...]) -> Path:
    """A vocab.txt of a few hundred pieces, cased and uncased."""
    tokenizer = Tokenizer(models.WordPiece(unk_token=special[1]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=700, special_tokens=list(special), show_progress=False)
    tokenizer.train_from_iterator([*CORPUS, *[text.lower() for text in CORPUS]], trainer)
    vocab = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token, _ in vocab), encoding="utf-8")
    return folder


def byte_level(folder: Path, special: tuple[str, ...]) -> Path:
    """vocab.json and merges.txt of a byte-level BPE."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=list(special),
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return _bpe_files(folder, tokenizer)


def suffix_bpe(folder: Path, special: tuple[str, ...]) -> Path:
    """vocab.json and merges.txt of a BPE with ``</w>`` at word ends."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=list(special), show_progress=False, end_of_word_suffix="</w>"
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return _bpe_files(folder, tokenizer)


def sentencepiece_model(folder: Path, name: str, sentences: Sequence[str] = CORPUS, **options: object) -> Path:
    """A unigram sentencepiece model under this file name."""
    folder.mkdir(parents=True, exist_ok=True)
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join([*sentences] * 3), encoding="utf-8")
    prefix = folder / "spm"
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(prefix),
        hard_vocab_limit=False,
        character_coverage=1.0,
        num_threads=1,
        minloglevel=2,
        **({"vocab_size": 300} | options),
    )
    corpus.unlink()
    (folder / "spm.vocab").unlink()
    if name != "spm.model":
        (folder / "spm.model").rename(folder / name)
    return folder


def _bpe_files(folder: Path, tokenizer: Tokenizer) -> Path:
    model = json.loads(tokenizer.to_str())["model"]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "vocab.json", model["vocab"])
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{merge}\n" for merge in merges), encoding="utf-8")
    return folder


def tokenizer(folder: Path, model_type: str, **settings: Any) -> text.Tokenizer:
    """The runtime's tokenizer of a folder's vocabulary files, as an export makes it."""
    write_json(folder / "tokenizer_config.json", settings)
    files = runtime_files(folder, model_type, {"model_type": model_type})
    made = text.Tokenizer.from_files(files)
    assert made.files() == files
    return made


def copied(source: Path, target: Path) -> Path:
    target.mkdir(exist_ok=True)
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target
