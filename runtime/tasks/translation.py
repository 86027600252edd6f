"""Translation: a text in another language. Upstream's version 4.57 was the last with this task."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from precast.runtime.errors import InputError
from precast.runtime.tasks.text2text_generation import Text2TextGeneration

__all__ = ["PIPELINE", "Translation"]

_log = logging.getLogger(__name__)


class Translation(Text2TextGeneration):
    """A text -> ``[{"translation_text": ...}]``, as text2text-generation.

    ``src_lang`` and ``tgt_lang`` (or the name ``translation_en_to_fr``) are codes of the model: ``en_XX`` of mBART,
    ``eng_Latn`` of NLLB, ``en`` of M2M100. A model with one pair of languages needs none; T5 has a prefix a pair.
    """

    name = "translation"
    result = "translation"

    @classmethod
    def implied(cls, asked: str) -> dict[str, Any]:
        found = re.fullmatch(r"translation_(.+)_to_(.+)", asked)
        return {"src_lang": found[1], "tgt_lang": found[2]} if found else {}

    def check(self, *, src_lang: str | None = None, tgt_lang: str | None = None, **rest: Any) -> dict[str, Any]:
        languages = {"src_lang": src_lang, "tgt_lang": tgt_lang}
        known = self.tokenizer.languages
        for name, code in languages.items():
            if code is not None and (not isinstance(code, str) or not code):
                raise InputError(f"{name} is the code of a language; received {code!r}.")
            if code is not None and known is not None:
                known.token(code)
        return super().check(**rest) | {name: code for name, code in languages.items() if code is not None}

    def specific(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        pair = parameters.get("src_lang"), parameters.get("tgt_lang")
        found = self.task_specific("translation_{}_to_{}".format(*pair)) if all(pair) else {}
        return found or self.task_specific(self.name)

    def encode(self, texts: Sequence[str], parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        if self.tokenizer.languages is None:
            return super().encode(texts, parameters)
        for name in ("src_lang", "tgt_lang"):
            if name not in parameters:
                raise InputError(
                    f"this model translates between many languages: say which, src_lang and tgt_lang; {name} is "
                    f"missing. It knows {self.tokenizer.languages}."
                )
        tokenizer = self.tokenizer.for_source(parameters["src_lang"])
        encoding: Mapping[str, Any] = tokenizer(list(texts), truncation=parameters.get("truncation", False))
        return encoding

    def call_arguments(self, rows: Any, parameters: Mapping[str, Any]) -> dict[str, Any]:
        arguments = super().call_arguments(rows, parameters)
        if self.tokenizer.languages is not None:
            first = self.tokenizer.languages.id(parameters["tgt_lang"])
            arguments["generation_config"] = arguments["generation_config"].merged({"forced_bos_token_id": first})
        return arguments

    def look_at(self, length: int, parameters: Mapping[str, Any]) -> None:
        most = self.config(parameters).max_length
        if most is not None and length > 0.9 * most:
            _log.warning(
                "The text has %d tokens and max_length is %d: its translation may be cut. Raise max_length.",
                length,
                most,
            )


PIPELINE = Translation
