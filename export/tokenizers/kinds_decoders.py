"""How tokenizers of decoders and of byte-level encoder-decoders are built: Llama, Gemma, GPT-2 (OPT, GPT-Neo, GPT-J,
CodeGen), OpenAI GPT, BART and LED, Blenderbot, ByT5.

A tokenizer.json is taken as it is, but for BART's, which transformers builds anew like RoBERTa's. Llama's and Gemma's
sentencepiece models are followed to the letter, as transformers 4 did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from precast.export.tokenizers.kinds import (
    KINDS,
    Arguments,
    Kind,
    Vocabulary,
    byte_level,
    existing,
    library,
    number_of,
    read_bpe,
)
from precast.export.tokenizers.sentencepiece import SPACE, read_sentencepiece
from precast.runtime.errors import CheckpointError
from precast.runtime.processors.tokenizer_settings import Settings

__all__ = ["DECODER_KINDS"]

_ANGLES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
_END = "<|endoftext|>"


# -- sentencepiece -----------------------------------------------------------------------------------------------------


def _read_model(folder: Path, stated: Arguments) -> Vocabulary:
    (path,) = existing(folder, "tokenizer.model")
    source = read_sentencepiece(Path(path))
    return Vocabulary(entries=source.scored(), source=source)


def _llama(vocabulary: Vocabulary, arguments: Arguments) -> Backend:
    """A space goes before every stretch between special tokens (``legacy``, or unstated), or before a text alone."""
    source = vocabulary.source
    if source is None:
        raise CheckpointError("this tokenizer needs its sentencepiece model")
    ids = {piece: index for index, (piece, _) in enumerate(vocabulary.entries)}
    unknown = str(arguments["unk_token"])
    backend = Backend(source.model(vocabulary.entries, ids, unknown if unknown in ids else _unknown(source)))
    stated = arguments.get("add_prefix_space")
    prefix = source.dummy_prefix if stated is None else bool(stated)
    steps = source.normalizers()
    if prefix and arguments.get("legacy") is False:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="first", split=False)
    else:
        steps += [normalizers.Prepend(SPACE)] if prefix else []
        steps.append(normalizers.Replace(" ", SPACE))
    if steps:
        backend.normalizer = normalizers.Sequence(steps)
    parts: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)] if prefix else parts)
    backend.add_tokens([AddedToken(piece, normalized=False, special=True) for piece in source.control])
    if not source.unigram:
        source.add_user_defined(backend, ids)
    return backend


def _unknown(source: Any) -> str:
    return str(source.pieces[source.unk_id][0])


# -- byte-level and others ---------------------------------------------------------------------------------------------


def _openai_gpt(vocabulary: Vocabulary, arguments: Arguments) -> Backend:
    """Lower-cased, without accents, cut as BERT does: upstream's way where spaCy and ftfy are not installed."""
    model = library(
        models.BPE,
        vocab=vocabulary.entries,
        merges=vocabulary.merges,
        unk_token=str(arguments["unk_token"]),
        continuing_subword_prefix="",
        end_of_word_suffix="</w>",
        fuse_unk=False,
    )
    backend = Backend(model)
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.BPEDecoder(suffix="</w>")
    return backend


_BYT5_FIRST = ("pad_token", "eos_token", "unk_token")


def _read_byt5(folder: Path, stated: Arguments) -> Vocabulary:
    """Three tokens and every byte, by the character that stands for it in the library's byte-level parts."""
    first = [str(stated.get(name) or _BYT5.arguments[name]) for name in _BYT5_FIRST]
    return Vocabulary(entries={token: index for index, token in enumerate([*first, *_byte_characters()])})


def _byte_characters() -> list[str]:
    """GPT-2's characters for the bytes 0 to 255: themselves where they are visible, else those from U+0100 on."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in visible else next(others)) for byte in range(256)]


def _byt5(vocabulary: Vocabulary, arguments: Arguments) -> Backend:
    backend = Backend(library(models.BPE, vocab=vocabulary.entries, merges=[], unk_token=str(arguments["unk_token"])))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    # Upstream leaves out bytes that make no character.
    backend.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace("\ufffd", "")])
    backend.add_tokens([_spacious(str(arguments[name])) for name in _BYT5_FIRST])
    return backend


def _spacious(token: str) -> AddedToken:
    """With the space on both sides of it, as upstream has ByT5's own three."""
    return AddedToken(token, lstrip=True, rstrip=True, normalized=False, special=True)


def _prepare_byt5(arguments: dict[str, Any]) -> None:
    for name in _BYT5_FIRST:
        if isinstance(arguments[name], str):
            arguments[name] = _spacious(arguments[name])
    number = number_of(arguments, "extra_ids", 125)
    stated = arguments.pop("additional_special_tokens", None) or arguments.get("extra_special_tokens")
    known = list(stated) if isinstance(stated, (list, tuple)) else []
    sentinels = [] if any("extra_id" in str(token) for token in known) else range(number)
    arguments["extra_special_tokens"] = [*known, *(f"<extra_id_{i}>" for i in sentinels)]


def _prepare_blenderbot(arguments: dict[str, Any]) -> None:
    if isinstance(arguments["mask_token"], str):
        arguments["mask_token"] = AddedToken(arguments["mask_token"], lstrip=True, normalized=False, special=True)


# -- special tokens around the text ------------------------------------------------------------------------------------


def _finish_nothing(backend: Backend, settings: Settings, arguments: Arguments) -> None:
    """add_bos_token and add_eos_token say it all."""


def _finish_eos(backend: Backend, settings: Settings, arguments: Arguments) -> None:
    eos = str(settings.named["eos_token"])
    pair = ["$A", eos, "$B", eos] if arguments.get("eos_between") else ["$A", "$B", eos]
    backend.post_processor = processors.TemplateProcessing(
        single=["$A", eos], pair=pair, special_tokens=[(eos, backend.token_to_id(eos))]
    )


_GPT2 = Kind(
    model="BPE",
    read=read_bpe,
    construct=byte_level,
    finish=_finish_nothing,
    arguments={"bos_token": _END, "eos_token": _END, "unk_token": _END, "add_prefix_space": False},
    keep=True,
)
_BYT5 = Kind(
    model="BPE",
    read=_read_byt5,
    construct=_byt5,
    finish=_finish_eos,
    arguments={"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", "eos_between": True},
    prepare=_prepare_byt5,
    keep=True,
    bare=True,
)
_SIDED = {"add_bos_token": True, "add_eos_token": False, "padding_side": "left"}

DECODER_KINDS: dict[str, Kind] = {
    "BartTokenizer": KINDS["RobertaTokenizer"],
    "LEDTokenizer": KINDS["RobertaTokenizer"],
    "LlamaTokenizer": Kind(
        model="BPE",
        read=_read_model,
        construct=_llama,
        finish=_finish_nothing,
        arguments=_ANGLES | _SIDED,
        keep=True,
    ),
    "GemmaTokenizer": Kind(
        model="BPE",
        read=_read_model,
        construct=_llama,
        finish=_finish_nothing,
        arguments={"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"} | _SIDED,
        keep=True,
    ),
    "GPT2Tokenizer": _GPT2,
    "CodeGenTokenizer": _GPT2,
    "OpenAIGPTTokenizer": Kind(
        model="BPE",
        read=read_bpe,
        construct=_openai_gpt,
        finish=_finish_nothing,
        arguments={"unk_token": "<unk>"},
        keep=True,
    ),
    "BlenderbotTokenizer": Kind(
        model="BPE",
        read=read_bpe,
        construct=byte_level,
        finish=_finish_eos,
        arguments=_ANGLES
        | {"sep_token": "</s>", "cls_token": "<s>", "pad_token": "<pad>", "mask_token": "<mask>"}
        | {"add_prefix_space": True},
        prepare=_prepare_blenderbot,
        keep=True,
    ),
    "ByT5Tokenizer": _BYT5,
}
