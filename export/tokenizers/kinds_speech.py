"""Tokenizers of models that speak: characters, one by one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from precast.export.tokenizers.kinds import Arguments, Kind, Vocabulary, existing, library
from precast.runtime.errors import CheckpointError, UnsupportedModelError
from precast.runtime.processors.tokenizer_settings import NAMED_TOKENS, Settings
from precast.runtime.strict_json import parse_value

__all__ = ["SPEECH_KINDS"]

_ANY = r"[\s\S]"
# What upstream needs other programs for, and reads the text without where they are missing.
_PROGRAMS = {
    "phonemize": "it writes phonemes with phonemizer and eSpeak, programs with dictionaries of their own",
    "is_uroman": "it writes other scripts in Latin letters with uroman, a program with tables of its own",
}
_ALIKE = {"ron": ("\u021b", "\u0163")}  # t with a comma, and with the cedilla that the vocabulary has


def _read_characters(folder: Path, stated: Arguments) -> Vocabulary:
    (path,) = existing(folder, "vocab.json")
    try:
        ids = parse_value(Path(path).read_bytes())
    except ValueError as error:
        raise CheckpointError(f"vocab.json must hold JSON in UTF-8: {error}; fetch the file again") from error
    whole = isinstance(ids, dict) and all(type(index) is int and index >= 0 for index in ids.values())
    if not whole or 0 not in ids.values():
        raise CheckpointError("vocab.json gives each character its id, a whole number, 0 among them; fetch it again")
    return Vocabulary(entries=ids)


def _refused(why: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"VitsTokenizer cannot be expressed as a tokenizer.json here: {why}. Export the model without its tokenizer "
        "and pass token ids"
    )


def _inside(characters: set[str]) -> str:
    """Characters as the inside of a regular expression's brackets."""
    return "".join(rf"\x{{{ord(character):X}}}" for character in sorted(characters))


def _vits(vocabulary: Vocabulary, arguments: Arguments) -> Backend:
    """Lower case, nothing that has no id, and the token of id 0 around each character, but for those that are special
    tokens: these stand as they are, and part the text."""
    for name, why in _PROGRAMS.items():
        if arguments[name]:
            raise _refused(why)
    if not arguments["normalize"]:
        raise _refused("it leaves texts as they are, special tokens in them too")
    ids: dict[str, int] = vocabulary.entries
    capital = sorted(token for token in ids if token != token.lower())
    if capital:
        raise _refused(f"its vocabulary has capital letters beside small ones, {capital[0]!r} the first")
    known = {token for token in ids if len(token) == 1}
    parting = _parting(arguments) & known
    steps: list[Any] = [normalizers.Lowercase()]
    if arguments.get("language") in _ALIKE:
        steps.append(normalizers.Replace(*_ALIKE[str(arguments["language"])]))
    steps += [normalizers.Replace(Regex(f"[^{_inside(known)}]"), ""), normalizers.Strip()]
    blank = next(token for token, index in ids.items() if index == 0)
    if arguments["add_blank"]:
        plain = f"[^{_inside(parting)}]" if parting else _ANY
        steps.append(normalizers.Replace(Regex(rf"(?={plain})|(?<={plain})(?!{plain})"), blank))
    backend = Backend(library(models.WordLevel, vocab=ids, unk_token=str(arguments["unk_token"])))
    backend.normalizer = normalizers.Sequence(steps)
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(f"{re.escape(blank)}|{_ANY}"), "isolated")
    backend.decoder = decoders.Fuse()
    return backend


def _parting(arguments: Arguments) -> set[str]:
    return {str(arguments[name]) for name in NAMED_TOKENS if arguments.get(name)}


def _finish_vits(backend: Backend, settings: Settings, arguments: Arguments) -> None:
    """Special tokens of one character are found once the text is in lower case."""
    parting = _parting(arguments)
    backend.add_tokens(
        [
            AddedToken(str(token), normalized=True, special=True)
            for token in backend.get_added_tokens_decoder().values()
            if str(token) in parting and len(str(token)) == 1
        ]
    )


SPEECH_KINDS: dict[str, Kind] = {
    "VitsTokenizer": Kind(
        model="WordLevel",
        read=_read_characters,
        construct=_vits,
        finish=_finish_vits,
        arguments={"pad_token": "<pad>", "unk_token": "<unk>", "language": None}
        | {"add_blank": True, "normalize": True, "phonemize": True, "is_uroman": False},
    ),
}
