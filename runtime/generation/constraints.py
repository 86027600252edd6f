"""Text that must match a JSON schema, a regular expression or a grammar: tokens that cannot be next are banned.

The grammars are llguidance's: https://github.com/guidance-ai/llguidance (docs/syntax.md, docs/json_schema.md)."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from tokenizers import Tokenizer as Backend
from tokenizers import decoders

from precast.runtime.backends.base import Array
from precast.runtime.errors import DependencyError, InputError
from precast.runtime.generation.history import History
from precast.runtime.generation.token_bytes import TokenBytes
from precast.runtime.processors.vocabulary import serialised

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

__all__ = ["GrammarConstraint", "build_constraint"]

# Between the parts of a JSON text: enough to indent by, and an end to it, which small models do not find themselves.
_WHITESPACE = r"[ \t\n\r]{0,24}"


def build_constraint(
    tokenizer: Any,
    vocab_size: int,
    eos: Sequence[int],
    *,
    json_schema: Any = None,
    regex: str | None = None,
    grammar: str | None = None,
) -> GrammarConstraint | None:
    """A constraint for one call, or None if none is asked for.

    :param tokenizer: ours, or one of the tokenizers library. What was learnt of ours is kept for the next call.
    :param vocab_size: of the model's logits; ids the tokenizer does not have are banned.
    :param eos: the tokens that end a row, allowed where the text is complete.
    :param json_schema: a schema, its JSON text, or a class that tells its schema, as pydantic's do. Options under
        its "x-guidance" are the library's, and count.
    :param regex: in Rust's syntax, to match the whole text.
    :param grammar: in llguidance's variant of Lark, or in GBNF.
    :raises DependencyError: llguidance is not installed.
    :raises InputError: more than one is given; the grammar is malformed, or nothing can satisfy it; tokenizer and
        model do not fit together."""
    given = {"json_schema": json_schema, "regex": regex, "grammar": grammar}
    asked = [name for name, value in given.items() if value is not None]
    if not asked:
        return None
    if len(asked) > 1:
        raise InputError(f"a text is held to one of json_schema, regex and grammar; got {' and '.join(asked)}")
    (name,) = asked
    if tokenizer is None:
        raise InputError(f"{name} describes text, which needs a tokenizer, and this model has none; pass tokenizer=")
    if not eos:
        raise InputError(f"{name} ends a text with an end token, and there is no eos_token_id; give one")
    library = _library()
    source = _source(library, name, given[name])
    learnt = _tokenizer(library, tokenizer, vocab_size, tuple(sorted(set(eos))))
    start = library.LLMatcher(learnt, source, log_level=0)
    if start.is_error():
        raise InputError(f"{name} cannot be used: {_short(start.get_error())}. Got {_short(given[name])}")
    if _allowed(start.deep_copy(), learnt.vocab_size, vocab_size)[1]:
        raise InputError(
            f"{name} cannot be satisfied: no token of this vocabulary may begin a text. Got {_short(given[name])}"
        )
    return GrammarConstraint(name, start, learnt.vocab_size)


class GrammarConstraint:
    """A processor that bans every token with which a row's generated text could no longer match.

    Rows are followed through whatever the loop does with them: picked, repeated, cut back. When a text is complete,
    the end tokens are allowed; when it must not go on, they alone are. Where other processors have banned all that the
    grammar allows, the grammar wins."""

    def __init__(self, name: str, start: LLMatcher, known: int) -> None:
        """:param start: the state before any token.
        :param known: ids the library knows of; logits beyond belong to no token."""
        self._name = name
        self._start = start
        self._known = known
        self._states: _States | None = None

    def __call__(self, logits: Array, history: History) -> None:
        """:raises InputError: no token of the vocabulary continues a row's text."""
        if self._states is None or self._states.history is not history:
            self._states = _States(self._start, history)
            history.follow(self._states)
        for index, row in enumerate(logits):
            allowed, error = _allowed(self._states.caught_up(index), self._known, len(row))
            if error and not self._states.lost[index]:
                raise InputError(
                    f"{self._name} cannot be satisfied: no token of this vocabulary continues what was generated, "
                    f"{history.generated(index).tolist()}. {_short(error)}"
                )
            np.copyto(row, np.float32(-np.inf), where=~allowed)
            if row.max() == -np.inf:
                row[allowed] = 0


class _States:
    """Where each row of a history is in the grammar."""

    def __init__(self, start: LLMatcher, history: History) -> None:
        self.history = history
        self.start = start
        self.matchers = [start.deep_copy() for _ in range(history.rows)]
        self.seen = [0] * history.rows
        """[R] generated tokens of each row that its matcher knows of."""
        self.ended = [False] * history.rows
        """[R] whether a row's text had ended before the last of these, which are padding."""
        self.lost = [False] * history.rows
        """[R] whether a row took a token that was banned: a beam without hope does, when no better ones are left."""

    def caught_up(self, index: int) -> LLMatcher:
        matcher = self.matchers[index]
        for token in self.history.generated(index)[self.seen[index] :].tolist():
            if matcher.is_stopped():
                self.ended[index] = True
            elif not matcher.consume_token(token):
                self.lost[index] = True
            self.seen[index] += 1
        return matcher

    def select(self, rows: Sequence[int]) -> None:
        # A row that becomes several is copied for all but the last of them.
        last = {row: index for index, row in enumerate(rows)}
        old = self.matchers
        self.matchers = [old[row] if last[row] == index else old[row].deep_copy() for index, row in enumerate(rows)]
        self.seen = [self.seen[row] for row in rows]
        self.ended = [self.ended[row] for row in rows]
        self.lost = [self.lost[row] for row in rows]

    def truncate(self, lengths: Array) -> None:
        for index, kept in enumerate((lengths - self.history.prompts).tolist()):
            surplus = self.seen[index] - kept
            if surplus <= 0:
                continue
            self.seen[index] = kept
            # A matcher does not come back from an error, and does not count what follows an end.
            if self.ended[index] or self.lost[index] or not self.matchers[index].rollback(surplus):
                self.matchers[index] = self.start.deep_copy()
                self.seen[index], self.ended[index], self.lost[index] = 0, False, False


def _allowed(matcher: LLMatcher, known: int, size: int) -> tuple[Array, str]:
    """[size] bool, the tokens that may be next; and what is wrong, if anything is.

    :param known: ids the library knows of; no other is allowed.
    :param size: of the model's vocabulary."""
    from llguidance.numpy import fill_next_token_bitmask

    words: Array = np.zeros((1, (known + 31) // 32), dtype=np.int32)
    fill_next_token_bitmask(matcher, words)
    count = min(known, size)
    allowed: Array = np.zeros(size, dtype=bool)
    allowed[:count] = np.unpackbits(words.view(np.uint8)[0], bitorder="little", count=count)
    return allowed, matcher.get_error() if matcher.is_error() else ""


def _library() -> Any:
    try:
        import llguidance
    except ImportError as error:
        raise DependencyError(
            'json_schema, regex and grammar need llguidance, which is not installed: pip install "precast[grammar]"'
        ) from error
    return llguidance


def _source(library: Any, name: str, value: Any) -> str:
    """The grammar in the library's own form."""
    if name == "json_schema":
        schema = _schema(value)
        options = schema.get("x-guidance", {})
        # The library lets a pattern win over whitespace_flexible, so a schema that speaks of either gets no default.
        spoken = not isinstance(options, Mapping) or any(key.startswith("whitespace") for key in options)
        try:
            text = json.dumps(schema)
            return str(
                library.LLMatcher.grammar_from_json_schema(
                    text, defaults=None if spoken else {"whitespace_pattern": _WHITESPACE}
                )
            )
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(f"json_schema must be JSON: {error}. Got {_short(value)}") from error
    if not isinstance(value, str) or not value:
        raise InputError(f"{name} must be a text, not empty; got {value!r}")
    if name == "regex":
        return str(library.LLMatcher.grammar_from_regex(value))
    from llguidance.gbnf_to_lark import any_to_lark

    try:
        return str(library.LLMatcher.grammar_from_lark(any_to_lark(value)))
    except Exception as error:  # the converter raises plain ones
        raise InputError(
            f"grammar cannot be read as Lark or GBNF: {_short(str(error))}. Got {_short(value)}"
        ) from error


def _schema(value: Any) -> dict[str, Any]:
    """A schema as plain data, from itself, its JSON text, or what can tell its own, as pydantic's models can."""
    try:
        if callable(tell := getattr(value, "model_json_schema", None)):
            value = tell()
        schema = json.loads(value) if isinstance(value, str) else value
    except Exception as error:  # pydantic has errors of its own
        raise InputError(f"json_schema must be JSON: {error}. Got {_short(value)}") from error
    if not isinstance(schema, Mapping) or not all(isinstance(key, str) for key in schema):
        raise InputError(
            "json_schema must be a schema as a dict, its JSON text, or a class with model_json_schema(), such as "
            f"pydantic's; got {_short(value)}"
        )
    return dict(schema)


_learnt: WeakKeyDictionary[Any, dict[tuple[Any, ...], LLTokenizer]] = WeakKeyDictionary()
_lock = threading.Lock()


def _tokenizer(library: Any, tokenizer: Any, vocab_size: int, eos: tuple[int, ...]) -> LLTokenizer:
    """The library's view of a vocabulary; learning a large one takes a second."""
    outside = [token for token in eos if not 0 <= token < vocab_size]
    if outside:
        raise InputError(f"an end token must be in the model's vocabulary, 0 to {vocab_size - 1}; got {outside}")
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if isinstance(tokenizer, Backend):  # may change between calls, and cannot be a weak key
        return _learn(library, backend, vocab_size, eos)
    with _lock:
        kept = _learnt.setdefault(tokenizer, {})
        if (vocab_size, eos) not in kept:
            kept[vocab_size, eos] = _learn(library, backend, vocab_size, eos)
        return kept[vocab_size, eos]


def _learn(library: Any, backend: Backend, vocab_size: int, eos: tuple[int, ...]) -> LLTokenizer:
    # Tokens added for other uses of a tokenizer, such as Gemma's images, may lie beyond what a model scores.
    size = max(backend.get_vocab(with_added_tokens=False).values(), default=-1) + 1
    if size > vocab_size:
        raise InputError(
            f"every token must have a logit for a grammar to choose by; the tokenizer has ids up to {size - 1}, the "
            f"model's vocabulary ends at {vocab_size - 1}. Pass the tokenizer that belongs to the model"
        )
    special = [index for index, token in backend.get_added_tokens_decoder().items() if token.special]
    size = max(vocab_size, 1 + max(backend.get_vocab(with_added_tokens=True).values(), default=-1))
    try:
        made: LLTokenizer = library.LLTokenizer(serialised(backend), n_vocab=size, eos_token=list(eos))
    except ValueError:  # it knows byte-level and byte-fallback decoders alone; any other's tokens are told to it
        spelt = _word_ends(backend) or TokenBytes(backend)
        tokens = [b"" if index in special else spelt[index] for index in range(size)]
        wrapped = library.TokenizerWrapper(_Spelling(tokens, special, eos[0]))
        made = library.LLTokenizer(wrapped, n_vocab=size, eos_token=list(eos))
    return made


def _word_ends(backend: Backend) -> dict[int, bytes] | None:
    """The bytes of tokens whose names say that a word ends with them (GPT's ``</w>``), which then bring the space."""
    if not isinstance(backend.decoder, decoders.BPEDecoder):
        return None
    suffix = backend.decoder.suffix
    names = backend.get_vocab(with_added_tokens=True)
    return defaultdict(bytes, {index: name.replace(suffix, " ").encode() for name, index in names.items()})


class _Spelling:
    """What the library asks of a tokenizer whose format it does not know.

    It has bytes tokenized that a grammar leaves no choice about, in the middle of a text. Most tokenizers treat the
    beginning of a text differently, so the longest token that fits is taken here, again and again."""

    bos_token_id = None

    def __init__(self, tokens: list[bytes], special: list[int], eos: int) -> None:
        self.tokens = tokens
        self.special_token_ids = special
        self.eos_token_id = eos
        self._ids = {token: index for index, token in reversed(list(enumerate(tokens))) if token}
        self._longest = max(map(len, self._ids), default=0)

    def __call__(self, text: bytes) -> list[int]:
        """Up to the first byte that no token begins with."""
        ids: list[int] = []
        start = 0
        while start < len(text):
            sizes = range(min(self._longest, len(text) - start), 0, -1)
            size = next((size for size in sizes if text[start : start + size] in self._ids), 0)
            if not size:
                break
            ids.append(self._ids[text[start : start + size]])
            start += size
        return ids


def _short(value: Any) -> str:
    """On one line, without what the library says of its inner state, and not all of it."""
    text = value if isinstance(value, str) else repr(value)
    text = " ".join(text.split("<state>")[0].split())
    return text if len(text) <= 200 else text[:200] + "..."
