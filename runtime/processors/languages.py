"""The languages of a multilingual tokenizer, and how it marks the language of a source text.

Nothing is recorded for that: the post-processor of mBART, mBART-50, NLLB and M2M100 puts the token of one language at a
text's end or beginning, and that token's form tells the others among the special tokens: ``en_XX``, ``eng_Latn``,
``__en__``.
"""

from __future__ import annotations

import json
import re
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers import processors

from precast.runtime.errors import InputError, closest, listing

__all__ = ["Languages", "find_languages"]

_FORMS = (re.compile(r"__([a-z]{2,3})__"), re.compile(r"([a-z]{2,3}_[A-Z][A-Za-z]{1,3})"))


class Languages:
    """Codes by which languages are called, with their tokens."""

    def __init__(self, source: str, tokens: dict[str, tuple[str, int]], template: Any) -> None:
        self.source = source
        """The code of the language a text is taken to be in."""
        self._tokens = tokens
        self._template = template

    @property
    def codes(self) -> list[str]:
        """Every language."""
        return sorted(self._tokens)

    def __str__(self) -> str:
        return listing(self.codes, 12)

    def token(self, code: str) -> str:
        """The token of a language, by its code or the token itself.

        :raises InputError: there is no such language."""
        return self._found(code)[0]

    def id(self, code: str) -> int:
        """The id of a language's token."""
        return self._found(code)[1]

    def _found(self, code: str) -> tuple[str, int]:
        found = self._tokens.get(code) or next((entry for entry in self._tokens.values() if entry[0] == code), None)
        if found is None:
            near = closest(str(code), self._tokens)
            raise InputError(
                f"this model does not know the language {code!r}. {near}{' ' if near else ''}It knows {self}."
            )
        return found

    def post_processor(self, code: str) -> Any:
        """The post-processor for texts in a language."""
        token, index = self._found(code)
        old = self._tokens[self.source][0]
        specials = [
            (token, index) if name == old else (name, entry["ids"][0])
            for name, entry in self._template["special_tokens"].items()
        ]
        return processors.TemplateProcessing(
            single=_pieces(self._template["single"], old, token),
            pair=_pieces(self._template["pair"], old, token),
            special_tokens=specials,
        )


def find_languages(backend: Backend, named: set[str]) -> Languages | None:
    """The languages of a tokenizer; None where its template has no language in it.

    :param named: its special tokens that have a name, such as eos: they are no languages."""
    if not isinstance(backend.post_processor, processors.TemplateProcessing):
        return None
    template = json.loads(backend.post_processor.__getstate__())
    used = [piece["SpecialToken"]["id"] for piece in template["single"] if "SpecialToken" in piece]
    for token in used:
        form = next((form for form in _FORMS if form.fullmatch(token)), None)
        if token in named or form is None:
            continue
        known = {str(entry): index for index, entry in backend.get_added_tokens_decoder().items() if entry.special}
        tokens = {found[1]: (text, index) for text, index in known.items() if (found := form.fullmatch(text))}
        if len(tokens) > 1:
            return Languages(form.fullmatch(token)[1], tokens, template)  # type: ignore[index]
    return None


def _pieces(pieces: list[dict[str, Any]], old: str, new: str) -> list[str]:
    made = []
    for piece in pieces:
        if "Sequence" in piece:
            made.append(f"${piece['Sequence']['id']}:{piece['Sequence']['type_id']}")
        else:
            name = piece["SpecialToken"]["id"]
            made.append(f"{new if name == old else name}:{piece['SpecialToken']['type_id']}")
    return made
