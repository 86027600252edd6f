"""What a checkpoint that writes down speech says of it: languages, tasks and times, as tokens that its answers begin
with. https://arxiv.org/abs/2212.04356, section 2.3"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from precast.runtime.arguments import listed
from precast.runtime.backends.base import Array
from precast.runtime.errors import InputError, closest, listing

__all__ = ["ASKED", "LANGUAGES", "SPEECH_KEYS", "Speech"]

_USUAL = "transcribe"  # the task where a language is asked for and no task

# English names of languages with the code in their tokens, and other names of some.
_NAMES = """
    afrikaans:af albanian:sq amharic:am arabic:ar armenian:hy assamese:as azerbaijani:az bashkir:ba basque:eu
    belarusian:be bengali:bn bosnian:bs breton:br bulgarian:bg cantonese:yue catalan:ca chinese:zh croatian:hr
    czech:cs danish:da dutch:nl english:en estonian:et faroese:fo finnish:fi french:fr galician:gl georgian:ka
    german:de greek:el gujarati:gu haitian_creole:ht hausa:ha hawaiian:haw hebrew:he hindi:hi hungarian:hu
    icelandic:is indonesian:id italian:it japanese:ja javanese:jw kannada:kn kazakh:kk khmer:km korean:ko lao:lo
    latin:la latvian:lv lingala:ln lithuanian:lt luxembourgish:lb macedonian:mk malagasy:mg malay:ms malayalam:ml
    maltese:mt maori:mi marathi:mr mongolian:mn myanmar:my nepali:ne norwegian:no nynorsk:nn occitan:oc pashto:ps
    persian:fa polish:pl portuguese:pt punjabi:pa romanian:ro russian:ru sanskrit:sa serbian:sr shona:sn sindhi:sd
    sinhala:si slovak:sk slovenian:sl somali:so spanish:es sundanese:su swahili:sw swedish:sv tagalog:tl tajik:tg
    tamil:ta tatar:tt telugu:te thai:th tibetan:bo turkish:tr turkmen:tk ukrainian:uk urdu:ur uzbek:uz vietnamese:vi
    welsh:cy yiddish:yi yoruba:yo
"""
_OTHERS = """
    burmese:my castilian:es flemish:nl haitian:ht letzeburgesch:lb mandarin:zh moldavian:ro moldovan:ro panjabi:pa
    pushto:ps sinhalese:si valencian:ca
"""


def _table(text: str) -> dict[str, str]:
    """Codes by name."""
    pairs = (item.replace("_", " ").split(":") for item in text.split())
    return dict(pairs)


LANGUAGES: Mapping[str, str] = {code: name for name, code in _table(_NAMES).items()}
"""English names by the code in a language's token."""
_CODES: Mapping[str, str] = _table(_NAMES) | _table(_OTHERS)


def _fail(name: str, rule: str, value: Any) -> InputError:
    return InputError(f"{name} must be {rule}; got {value!r:.200}")


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and int(value) >= 0


def _id(name: str, value: Any) -> int:
    if not _is_id(value):
        raise _fail(name, "a whole number of at least 0", value)
    return int(value)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _fail(name, "True or False", value)
    return value


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)) or value != value:
        raise _fail(name, "a number", value)
    return float(value)


def _ids(name: str, value: Any) -> dict[str, int]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) and _is_id(each) for key, each in value.items()):
        raise _fail(name, "an object of token ids by name", value)
    return {key: int(each) for key, each in value.items()}


def _are_pairs(value: Any) -> bool:
    listed_ = isinstance(value, (list, tuple))
    return listed_ and all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in value)


def _heads(name: str, value: Any) -> tuple[tuple[int, int], ...]:
    if not _are_pairs(value) or not all(map(_is_id, (each for pair in value for each in pair))):
        raise _fail(name, "a list of pairs [layer, head]", value)
    return tuple((int(layer), int(head)) for layer, head in value)


def _forced(name: str, value: Any) -> tuple[int | None, ...]:
    """Tokens behind the first; None: one that is found out."""
    rule = "a list of pairs [place, token id or null], of the places 1, 2, ..."
    if not _are_pairs(value) or [place for place, _ in value] != list(range(1, len(value) + 1)):
        raise _fail(name, rule, value)
    if not all(token is None or _is_id(token) for _, token in value):
        raise _fail(name, rule, value)
    return tuple(None if token is None else int(token) for _, token in value)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise _fail(name, "a name", value)
    return value


def _language(name: str, value: Any) -> str | tuple[str, ...]:
    if isinstance(value, str):
        return _text(name, value)
    if not isinstance(value, (list, tuple)) or not value:
        raise _fail(name, "a language, or a list of them, one a recording", value)
    return tuple(_text(name, each) for each in value)


_RULES: dict[str, Callable[[str, Any], Any]] = {
    "alignment_heads": _heads,
    "compression_ratio_threshold": _number,
    "condition_on_prev_tokens": _flag,
    "forced_decoder_ids": _forced,
    "is_multilingual": _flag,
    "lang_to_id": _ids,
    "language": _language,
    "logprob_threshold": _number,
    "max_initial_timestamp_index": _id,
    "median_filter_width": _id,
    "no_speech_threshold": _number,
    "no_timestamps_token_id": _id,
    "prev_sot_token_id": _id,
    "return_timestamps": _flag,
    "task": _text,
    "task_to_id": _ids,
}
SPEECH_KEYS = frozenset(_RULES)
"""Keys of Whisper's generation_config.json."""

ASKED = frozenset(("language", "task", "return_timestamps"))
"""Those that a call may give."""


@dataclass(frozen=True, kw_only=True)
class Speech:
    """What generation_config.json says of speech, by its keys; None: nothing."""

    alignment_heads: tuple[tuple[int, int], ...] | None = None
    """(layer, head) whose attention to the recording follows the words."""
    compression_ratio_threshold: float | None = None
    condition_on_prev_tokens: bool | None = None
    forced_decoder_ids: tuple[int | None, ...] | None = None
    """Tokens behind the first; None among them: the language, which is found out."""
    is_multilingual: bool | None = None
    lang_to_id: Mapping[str, int] = field(default_factory=dict)
    language: str | tuple[str, ...] | None = None
    logprob_threshold: float | None = None
    max_initial_timestamp_index: int | None = None
    median_filter_width: int | None = None
    no_speech_threshold: float | None = None
    no_timestamps_token_id: int | None = None
    prev_sot_token_id: int | None = None
    return_timestamps: bool | None = None
    task: str | None = None
    task_to_id: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, stated: Mapping[str, Any]) -> Speech:
        """What is stated by the keys there are; null says nothing.

        :raises InputError: a value is outside what its key accepts."""
        given = {name: value for name, value in stated.items() if name in _RULES and value is not None}
        return cls(**{name: _RULES[name](name, value) for name, value in given.items()})

    @property
    def timestamp_begin(self) -> int | None:
        """The token of second 0; those behind it are 0.02 s later each."""
        return None if self.no_timestamps_token_id is None else self.no_timestamps_token_id + 1

    @property
    def no_speech_token_id(self) -> int | None:
        """The token that says that nobody speaks."""
        return None if self.no_timestamps_token_id is None else self.no_timestamps_token_id - 1

    @property
    def said(self) -> bool:
        """Whether answers begin with more than the first token."""
        return bool(self.lang_to_id or self.forced_decoder_ids or self.no_timestamps_token_id is not None)

    def merged(self, arguments: Mapping[str, Any]) -> Speech:
        """This, with arguments of a call on top; None asks for what the checkpoint would do by itself.

        :raises InputError: the checkpoint has no such language, task or timestamps."""
        called: dict[str, Any] = {
            name: None if value is None else _RULES[name](name, listed(value)) for name, value in arguments.items()
        }
        asked = replace(self, **called)
        if called.get("language") is not None or called.get("task") is not None:
            if self.is_multilingual is False:
                raise InputError(
                    "this model knows one language, and writes down what is said: language and task cannot be chosen; "
                    "leave them out."
                )
            for name, table in (("language", self.lang_to_id), ("task", self.task_to_id)):
                if called.get(name) is not None and not table:
                    raise InputError(f"this checkpoint names no {name}s; leave {name} out.")
            if called.get("task") is not None:
                self._task_id(called["task"])
        if called.get("return_timestamps") and self.no_timestamps_token_id is None:
            raise InputError(
                "return_timestamps needs tokens that are times, and this checkpoint's generation_config.json has no "
                "no_timestamps_token_id; leave it out."
            )
        return asked

    def begin(self, start: int, rows: int) -> list[list[int | None]]:
        """What each of so many answers begins with; None: the token of its language, which is found out
        (`detected`).

        :raises InputError: there is another number of languages, or one that the checkpoint does not know."""
        given = self.language
        languages = [given] * rows if given is None or isinstance(given, str) else list(given)
        if len(languages) != rows:
            raise InputError(f"language is one, or one a recording ({rows}); received {len(languages)}.")
        return [self._begin(start, language) for language in languages]

    def _begin(self, start: int, language: str | None) -> list[int | None]:
        tokens: list[int | None] = [start]
        if self.task is None and language is None and self.forced_decoder_ids is not None:
            tokens += self.forced_decoder_ids
        unknown = len(tokens) == 1 or tokens[1] is None
        found = False  # its language is to be
        if language is not None:
            tokens[1:2] = [self._language_id(language)]
        elif self.lang_to_id and unknown:
            tokens[1:2], found = [None], True
        tasks = set(self.task_to_id.values())
        if self.task is not None or (language is not None and tasks and not tasks & set(tokens)):
            tokens = [token for token in tokens if token not in tasks]
            tokens.append(self._task_id(self.task or _USUAL))
        if self.no_timestamps_token_id is not None:
            if not self.return_timestamps and tokens[-1] != self.no_timestamps_token_id:
                tokens.append(self.no_timestamps_token_id)
            elif self.return_timestamps and tokens[-1] == self.no_timestamps_token_id:
                tokens.pop()
        return [token for place, token in enumerate(tokens) if token is not None or (found and place == 1)]

    def _task_id(self, task: str) -> int:
        if task not in self.task_to_id:
            raise InputError(f"this checkpoint has no task {task!r}; it has: {listing(self.task_to_id)}.")
        return self.task_to_id[task]

    def _language_id(self, language: str) -> int:
        """Of ``en``, ``English`` or ``<|en|>``."""
        name = language.lower()
        token = name if name in self.lang_to_id else f"<|{_CODES.get(name, name)}|>"
        if token not in self.lang_to_id:
            known = [each.strip("<|>") for each in self.lang_to_id]
            near = closest(name, [*known, *(word for word, code in _CODES.items() if code in known)])
            raise InputError(f"language {language!r} is not one that this model knows. {near}".rstrip())
        return self.lang_to_id[token]

    def detected(self, logits: Array) -> list[int]:
        """The token of each row's language, of logits [N, V] behind the first token."""
        ids = np.array(sorted(self.lang_to_id.values()), dtype=np.int64)
        found: list[int] = ids[logits[:, ids].argmax(axis=-1)].tolist()
        return found
