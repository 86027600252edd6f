"""What each token adds to a text, as bytes: pieces of characters included, whatever the tokenizer's decoder."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Tokenizer as Backend

from precast.runtime.processors.vocabulary import is_refusal

__all__ = ["TokenBytes"]

_PREFIX = "abcdef"  # a decoder treats the first token of a text differently, so none is decoded as the first
_UNKNOWN = b"\xff"  # in no UTF-8 text, so nothing ever matches across it


class TokenBytes:
    """The bytes of a token in the middle of a text, by its id; worked out when first asked for.

    The bytes of byte-level and byte-fallback tokens are read off their names. Others are decoded after a fixed word,
    as upstream's ``StopStringCriteria`` does."""

    def __init__(self, backend: Backend) -> None:
        """:param backend: must not be changed any more."""
        self._backend = backend
        self._kind = _decoder_kind(backend)
        self._known: dict[int, bytes] = {}
        ids = backend.encode(_PREFIX, add_special_tokens=False).ids
        self._before = [str(backend.id_to_token(index)) for index in ids]

    def __getitem__(self, token: int) -> bytes:
        found = self._known.get(token)
        if found is None:
            found = self._known[token] = self._bytes(token)
        return found

    def _bytes(self, token: int) -> bytes:
        name = self._backend.id_to_token(token) if token >= 0 else None
        if name is None:
            return _UNKNOWN
        if self._kind == "ByteLevel" and all(character in _BYTES for character in name):
            return bytes(_BYTES[character] for character in name)
        if self._kind == "ByteFallback" and _is_byte(name):
            return bytes([int(name[3:5], 16)])
        text = self._decoded([*self._before, name])
        start = text.find(_PREFIX)
        if start < 0:  # the vocabulary cannot spell the word
            return self._decoded([name]).encode()
        return text[start + len(_PREFIX) :].encode()

    def _decoded(self, names: list[str]) -> str:
        decoder = self._backend.decoder
        if decoder is None:
            return " ".join(names)
        try:
            return str(decoder.decode(names))
        except BaseException as error:
            if not is_refusal(error):
                raise
            return names[-1]


def _decoder_kind(backend: Backend) -> str | None:
    """ "ByteFallback", "ByteLevel" or None; a decoder with both reads bytes from names like <0x0A>."""
    if backend.decoder is None:
        return None
    kinds = _types(json.loads(backend.decoder.__getstate__()))
    return next((kind for kind in ("ByteFallback", "ByteLevel") if kind in kinds), None)


def _types(state: Any) -> set[str]:
    if isinstance(state, dict):
        own = {state["type"]} if isinstance(state.get("type"), str) else set()
        return own.union(*(_types(value) for value in state.values()))
    return set().union(*(_types(value) for value in state)) if isinstance(state, list) else set()


def _is_byte(name: str) -> bool:
    digits = name[3:5]
    return (
        len(name) == 6 and name[:3] == "<0x" and name[5] == ">" and all(c in "0123456789abcdefABCDEF" for c in digits)
    )


def _byte_level() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes stand for themselves, the others for characters from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(others)}


_BYTES = _byte_level()
