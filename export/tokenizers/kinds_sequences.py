"""How tokenizers of encoder-decoders are built from their sentencepiece models: T5, Pegasus, mBART, mBART-50, NLLB,
M2M100, BARThez, Marian; and XGLM's, which is made in the same way.

Where transformers 5.23 drops what a model says of normalisation or of byte fallback, sentencepiece itself is followed,
as transformers 4 did: the checkpoints were trained with it. A tokenizer.json is taken as it is."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from precast.export.tokenizers.kinds import Arguments, Kind, Vocabulary, existing, number_of
from precast.export.tokenizers.languages import M2M100, MBART, MBART50, NLLB, WMT21
from precast.export.tokenizers.sentencepiece import SPACE, SentencePiece, read_sentencepiece
from precast.runtime.errors import CheckpointError, UnsupportedModelError, closest, listing
from precast.runtime.processors.tokenizer_settings import Settings
from precast.runtime.strict_json import parse_value

__all__ = ["SEQUENCE_KINDS"]

Pieces = list[tuple[str, float]]
Arrange = Callable[[SentencePiece, Arguments], Pieces]

# Noncharacters, which no text holds once it is normalised: around a run of characters that no piece of the source
# covers, and so around what such a run can be in vocab.json; before every other piece that only a target has.
_HIDDEN, _END = "\U0010ffff", "\U0010fffe"
_ENDS = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
_ANGLES = {"bos_token": "<s>", "sep_token": "</s>", "cls_token": "<s>", "mask_token": "<mask>"} | _ENDS
_NO_BOS = {name: token for name, token in _ANGLES.items() if name != "bos_token"}
_CODES = {"m2m100": M2M100, "wmt21": WMT21}


def _text(stated: Arguments, name: str, default: str) -> str:
    value = stated.get(name)
    return default if value is None else str(value)


def _with_extra(arguments: dict[str, Any], tokens: Sequence[str]) -> None:
    """Special tokens of the class beside those the checkpoint states."""
    for name in ("extra_special_tokens", "additional_special_tokens"):
        stated = arguments.pop(name, None)
        if isinstance(stated, (list, tuple)):
            known = {str(token) for token in stated}
            arguments["extra_special_tokens"] = [*stated, *(token for token in tokens if token not in known)]
            return
    arguments["extra_special_tokens"] = list(tokens)


def _mask(arguments: dict[str, Any]) -> None:
    if isinstance(arguments["mask_token"], str):
        arguments["mask_token"] = AddedToken(arguments["mask_token"], lstrip=True, rstrip=False, special=True)


# -- vocabularies ------------------------------------------------------------------------------------------------------


def _reads(name: str, arrange: Arrange) -> Callable[[Path, Arguments], Vocabulary]:
    """:param arrange: puts the pieces where the checkpoint's embedding has them."""

    def read(folder: Path, stated: Arguments) -> Vocabulary:
        (path,) = existing(folder, name)
        source = read_sentencepiece(Path(path))
        return Vocabulary(entries=arrange(source, stated), source=source)

    return read


def _construct(vocabulary: Vocabulary, arguments: Arguments) -> Backend:
    if vocabulary.source is None:
        raise CheckpointError("this tokenizer needs its sentencepiece model")
    return vocabulary.source.backend(vocabulary.entries, str(arguments["unk_token"]))


def _construct_spoken(vocabulary: Vocabulary, arguments: Arguments) -> Backend:
    if arguments["normalize"]:
        raise UnsupportedModelError(
            "SpeechT5Tokenizer cannot be expressed as a tokenizer.json where 'normalize' is true: it spells numbers "
            "out with Python code. Export the model without its tokenizer and pass token ids"
        )
    return _construct(vocabulary, arguments)


_PUNCTUATION = f"[{re.escape(string.punctuation)}]"


def _construct_siglip(vocabulary: Vocabulary, arguments: Arguments) -> Backend:
    """Texts without punctuation, in small letters. What stands behind a special token inside a text begins with a
    space, as the text itself does, and not as upstream has it."""
    backend = _construct(vocabulary, arguments)
    assert vocabulary.source is not None
    plain: list[Any] = [normalizers.Lowercase()] if arguments["do_lower_case"] else []
    plain += [
        normalizers.Replace(SPACE, " "),
        normalizers.Replace(Regex(_PUNCTUATION), ""),
        normalizers.Replace(Regex(r"\s+"), " "),
        normalizers.Strip(),
    ]
    backend.normalizer = normalizers.Sequence([*plain, *vocabulary.source.normalizers()])
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always", split=False)
    return backend


def _plain(source: SentencePiece, stated: Arguments) -> Pieces:
    return source.scored()


def _arrange_t5(source: SentencePiece, stated: Arguments) -> Pieces:
    """The sentinels last, counted down, unless the model has them."""
    pieces = source.scored()
    known = {piece for piece, _ in pieces}
    sentinels = (f"<extra_id_{i}>" for i in reversed(range(number_of(stated, "extra_ids", 100))))
    return [*pieces, *((token, 0.0) for token in sentinels if token not in known)]


def _arrange_pegasus(source: SentencePiece, stated: Arguments) -> Pieces:
    """pad and eos, the masks, tokens kept for pre-training up to ``offset`` + 1, then the pieces from unk on."""
    offset = number_of(stated, "offset", 103)
    first = [_text(stated, "pad_token", "<pad>"), _text(stated, "eos_token", "</s>")]
    if offset:
        first += [*_pegasus_masks(stated), *(f"<unk_{i}>" for i in range(2, offset))]
        if len(first) != offset + 2:
            raise CheckpointError(
                f"a Pegasus tokenizer with offset {offset} has both masks, mask_token and mask_token_sent; "
                f"tokenizer_config.json has {stated.get('mask_token')!r} and {stated.get('mask_token_sent')!r}"
            )
    return [*((token, 0.0) for token in first), *source.scored()[2:]]


def _pegasus_masks(stated: Arguments) -> list[str]:
    masks = (stated.get("mask_token_sent", "<mask_1>"), stated.get("mask_token", "<mask_2>"))
    return [str(token) for token in masks if token is not None]


def _fairseq(after: Callable[[Arguments], Sequence[str]]) -> Arrange:
    """fairseq's own four tokens, the pieces after sentencepiece's three, then ``after``."""

    def arrange(source: SentencePiece, stated: Arguments) -> Pieces:
        names = (("bos", "<s>"), ("pad", "<pad>"), ("eos", "</s>"), ("unk", "<unk>"))
        first = [(_text(stated, f"{name}_token", text), 0.0) for name, text in names]
        return [*first, *source.scored()[3:], *((token, 0.0) for token in after(stated))]

    return arrange


def _and_mask(languages: Sequence[str]) -> Arrange:
    return _fairseq(lambda stated: [*languages, _text(stated, "mask_token", "<mask>")])


def _json_vocabulary(folder: Path, *others: str) -> tuple[dict[str, int], list[SentencePiece]]:
    path, *models = existing(folder, "vocab.json", *others)
    try:
        ids = parse_value(Path(path).read_bytes())
    except ValueError as error:
        raise CheckpointError(f"vocab.json must hold JSON in UTF-8: {error}; fetch the file again") from error
    if not isinstance(ids, dict) or sorted(ids.values(), key=repr) != sorted(range(len(ids)), key=repr):
        raise CheckpointError("vocab.json gives each token an id of its own, 0 and up without gaps; fetch it again")
    return ids, [read_sentencepiece(Path(model)) for model in models]


def _read_m2m100(folder: Path, stated: Arguments) -> Vocabulary:
    """vocab.json, the languages, and words made up to fill the embedding, which have no tokens."""
    ids, (source,) = _json_vocabulary(folder, "sentencepiece.bpe.model")
    scores = dict(source.scored())
    lost = [piece for piece in scores if piece not in ids and piece not in source.control]
    if lost:
        raise UnsupportedModelError(
            f"vocab.json lacks pieces that sentencepiece.bpe.model cuts texts into, which no tokenizer.json can make "
            f"unknown: {listing(lost)}. Put a tokenizer.json made for it into the folder"
        )
    tokens = [*sorted(ids, key=ids.__getitem__), *_m2m100_languages(stated)]
    return Vocabulary(entries=[(token, scores.get(token, 0.0)) for token in tokens], source=source)


def _m2m100_languages(stated: Arguments) -> list[str]:
    name = stated.get("language_codes", "m2m100")
    if name not in _CODES:
        raise CheckpointError(f"language_codes is one of {listing(sorted(_CODES))}; tokenizer_config.json has {name!r}")
    return [f"__{code}__" for code in _CODES[name]]


def _read_marian(folder: Path, stated: Arguments) -> Vocabulary:
    """Ids of both sides' pieces in one vocab.json; a text is cut into the source's only.

    The pieces of the target alone are hidden from the search. But upstream looks up what is unknown in vocab.json by
    its text, a run of unknown characters as a whole, so that it may be one of them. Pieces of the source that
    vocab.json lacks are left out: upstream makes them unknown, here the text is cut into the next best pieces."""
    if stated.get("separate_vocabs"):
        raise UnsupportedModelError(
            "a Marian tokenizer with separate vocabularies (separate_vocabs) gives one id two meanings, which no "
            "tokenizer.json can express. Export the model without its tokenizer and pass token ids"
        )
    ids, (source, _) = _json_vocabulary(folder, "source.spm", "target.spm")
    if not source.unigram:
        raise UnsupportedModelError("source.spm must be a unigram model; of BPE pieces ids cannot be taken apart")
    scores = dict(source.scored())
    tokens = sorted(ids, key=ids.__getitem__)
    known = _characters(source)
    entries = [
        (token, scores[token])
        if token in scores
        else (f"{_HIDDEN}{token}{_END if known.isdisjoint(token) else ''}", 0.0)
        for token in tokens
    ]
    plain = [_text(stated, name, text) for name, text in _ENDS.items()]
    shown = {*plain, *_codes(tokens)}
    entries = [(token, 0.0) if token in shown else entry for token, entry in zip(tokens, entries, strict=True)]
    return Vocabulary(entries=entries, source=source)


def _codes(tokens: Sequence[str]) -> list[str]:
    """Marian's signs of a target language."""
    return [token for token in tokens if token.startswith(">>") and token.endswith("<<")]


def _characters(source: SentencePiece) -> set[str]:
    """The characters that pieces of the model cover."""
    return {" ", SPACE}.union(*source.of_kind(1, 4))


def _ranges(characters: set[str]) -> str:
    """Characters as the inside of a regular expression's brackets."""
    codes = set(map(ord, characters))
    starts = sorted(code for code in codes if code - 1 not in codes)
    ends = sorted(code for code in codes if code + 1 not in codes)
    return "".join(rf"\x{{{start:X}}}-\x{{{end:X}}}" for start, end in zip(starts, ends, strict=True))


def _construct_marian(vocabulary: Vocabulary, arguments: Arguments) -> Backend:
    if vocabulary.source is None:
        raise CheckpointError("this tokenizer needs its sentencepiece model")
    known = _characters(vocabulary.source)
    marks = [normalizers.Replace(mark, "\ufffd") for mark in (_HIDDEN, _END)]
    if not vocabulary.source.byte_fallback:
        unknown = f"[^{_ranges(known)}]"
        marks += [
            normalizers.Replace(Regex(f"(?<!{unknown})(?={unknown})"), _HIDDEN),
            normalizers.Replace(Regex(f"(?<={unknown})(?!{unknown})"), _END),
        ]
    backend = vocabulary.source.backend(
        vocabulary.entries,
        str(arguments["unk_token"]),
        marks=marks,
        unmarks=[decoders.Replace(_HIDDEN, ""), decoders.Replace(_END, "")],
    )
    codes = _codes([token for token, _ in vocabulary.entries])
    backend.add_tokens([AddedToken(code, normalized=False, special=False) for code in codes])
    return backend


# -- special tokens around the text ------------------------------------------------------------------------------------


def _id(backend: Backend, token: str) -> int:
    index: int | None = backend.token_to_id(token)
    if index is None:
        raise CheckpointError(f"this tokenizer puts {token!r} around every text, and its vocabulary lacks it")
    return index


def _around(backend: Backend, single: Sequence[str], pair: Sequence[str]) -> None:
    used = dict.fromkeys(token for token in (*single, *pair) if token not in ("$A", "$B"))
    backend.post_processor = processors.TemplateProcessing(
        single=list(single), pair=list(pair), special_tokens=[(token, _id(backend, token)) for token in used]
    )


def _eos(settings: Settings) -> str:
    token = settings.named.get("eos_token")
    if token is None:
        raise CheckpointError("this tokenizer puts its eos_token behind every text, and the checkpoint states none")
    return str(token)


def _finish_t5(backend: Backend, settings: Settings, arguments: Arguments) -> None:
    eos = _eos(settings)
    _around(backend, ["$A", eos], ["$A", eos, "$B", eos])


def _finish_eos(backend: Backend, settings: Settings, arguments: Arguments) -> None:
    eos = _eos(settings)
    _around(backend, ["$A", eos], ["$A", "$B", eos])


def _finish_barthez(backend: Backend, settings: Settings, arguments: Arguments) -> None:
    first, last = (str(settings.named.get(name, text)) for name, text in (("cls_token", "<s>"), ("sep_token", "</s>")))
    _around(backend, [first, "$A", last], [first, "$A", last, last, "$B", last])


def _finish_xglm(backend: Backend, settings: Settings, arguments: Arguments) -> None:
    eos = _eos(settings)
    _around(backend, [eos, "$A"], [eos, "$A", eos, eos, "$B"])


def _finish_language(default: str, *, before: bool, form: str = "{}") -> Callable[[Backend, Settings, Arguments], None]:
    """:param before: whether the token of the language stands before the text, or behind its end."""

    def finish(backend: Backend, settings: Settings, arguments: Arguments) -> None:
        code = _text(arguments, "src_lang", default)
        token, eos = form.format(code), _eos(settings)
        if backend.token_to_id(token) is None:
            if arguments.get("src_lang") is None and backend.post_processor is not None:
                return  # a tokenizer.json cut down to other languages knows how it marks them
            near = closest(token, backend.get_vocab())
            raise CheckpointError(f"src_lang must be a language of the tokenizer; got {code!r}. {near}".strip())
        if before and not arguments.get("legacy_behaviour"):
            _around(backend, [token, "$A", eos], [token, "$A", "$B", eos])
        else:
            _around(backend, ["$A", eos, token], ["$A", "$B", eos, token])

    return finish


# -- what a class does to its arguments --------------------------------------------------------------------------------


def _prepare_t5(arguments: dict[str, Any]) -> None:
    sentinels = [f"<extra_id_{i}>" for i in range(number_of(arguments, "extra_ids", 100))]
    stated = [arguments.get(name) or () for name in ("extra_special_tokens", "additional_special_tokens")]
    named = [str(token) for tokens in stated if isinstance(tokens, (list, tuple)) for token in tokens]
    _with_extra(arguments, [] if any("<extra_id_" in token for token in named) else sentinels)


def _prepare_pegasus(arguments: dict[str, Any]) -> None:
    offset = number_of(arguments, "offset", 103)
    sentence = arguments.pop("mask_token_sent", "<mask_1>")
    _with_extra(arguments, [*([] if sentence is None else [str(sentence)]), *(f"<unk_{i}>" for i in range(2, offset))])


def _prepare_languages(languages: Sequence[str]) -> Callable[[dict[str, Any]], None]:
    def prepare(arguments: dict[str, Any]) -> None:
        _mask(arguments)
        _with_extra(arguments, languages)

    return prepare


def _prepare_siglip(arguments: dict[str, Any]) -> None:
    for name in ("eos_token", "unk_token", "pad_token"):
        if isinstance(arguments[name], str):
            arguments[name] = AddedToken(arguments[name], lstrip=True, rstrip=True, normalized=False, special=True)


def _prepare_xglm(arguments: dict[str, Any]) -> None:
    _with_extra(arguments, [f"<madeupword{i}>" for i in range(7)])


_T5 = Kind(
    model="Unigram",
    read=_reads("spiece.model", _arrange_t5),
    construct=_construct,
    finish=_finish_t5,
    arguments=_ENDS,
    prepare=_prepare_t5,
    keep=True,
)


def _multilingual(
    languages: Sequence[str], default: str, *, before: bool, named: Arguments = MappingProxyType(_ANGLES)
) -> Kind:
    return Kind(
        model="Unigram",
        read=_reads("sentencepiece.bpe.model", _and_mask(languages)),
        construct=_construct,
        finish=_finish_language(default, before=before),
        arguments=named,
        prepare=_prepare_languages(languages),
        keep=True,
        refinish=True,
    )


SEQUENCE_KINDS: dict[str, Kind] = {
    "T5Tokenizer": _T5,
    "MT5Tokenizer": _T5,
    "MBartTokenizer": _multilingual(MBART, "en_XX", before=False),
    "MBart50Tokenizer": _multilingual(MBART50, "en_XX", before=True, named=_NO_BOS),
    "NllbTokenizer": _multilingual(NLLB, "eng_Latn", before=True),
    "M2M100Tokenizer": Kind(
        model="BPE",
        read=_read_m2m100,
        construct=_construct,
        finish=_finish_language("en", before=True, form="__{}__"),
        arguments={name: token for name, token in _ANGLES.items() if name not in ("cls_token", "mask_token")},
        prepare=lambda arguments: _with_extra(arguments, _m2m100_languages(arguments)),
        keep=True,
        refinish=True,
    ),
    "PegasusTokenizer": Kind(
        model="Unigram",
        read=_reads("spiece.model", _arrange_pegasus),
        construct=_construct,
        finish=_finish_eos,
        arguments=_ENDS | {"mask_token": "<mask_2>"},
        prepare=_prepare_pegasus,
        keep=True,
    ),
    "BarthezTokenizer": Kind(
        model="Unigram",
        read=_reads("sentencepiece.bpe.model", _plain),
        construct=_construct,
        finish=_finish_barthez,
        arguments=_ANGLES,
        prepare=_mask,
        keep=True,
    ),
    "XGLMTokenizer": Kind(
        model="Unigram",
        read=_reads("sentencepiece.bpe.model", _fairseq(lambda stated: [f"<madeupword{i}>" for i in range(7)])),
        construct=_construct,
        finish=_finish_xglm,
        arguments={name: token for name, token in _ANGLES.items() if name != "mask_token"},
        prepare=_prepare_xglm,
        keep=True,
    ),
    "SiglipTokenizer": Kind(
        model="Unigram",
        read=_reads("spiece.model", _plain),
        construct=_construct_siglip,
        finish=_finish_eos,
        arguments={"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
        | {"model_max_length": 64, "do_lower_case": True},
        prepare=_prepare_siglip,
        keep=True,
    ),
    "SpeechT5Tokenizer": Kind(
        model="Unigram",
        read=_reads("spm_char.model", _plain),
        construct=_construct_spoken,
        finish=_finish_eos,
        arguments={name: _ANGLES[name] for name in ("bos_token", "eos_token", "unk_token", "pad_token")}
        | {"normalize": False},
    ),
    "MarianTokenizer": Kind(
        model="Unigram",
        read=_read_marian,
        construct=_construct_marian,
        finish=_finish_eos,
        arguments=_ENDS | {"model_max_length": 512},
        keep=True,
    ),
}
