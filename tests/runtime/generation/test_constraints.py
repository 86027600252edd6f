"""Grammars: whatever the logits, what is generated matches; rows keep their place; bad grammars are refused."""

from __future__ import annotations

import json
import re
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel, Field
from support.generation_tokenizers import KINDS, tiny_tokenizer
from tokenizers import AddedToken, Tokenizer, decoders

from precast.runtime.errors import DependencyError, InputError
from precast.runtime.generation.api import generate
from precast.runtime.generation.config import GenerationConfig
from precast.runtime.generation.constraints import GrammarConstraint, build_constraint
from precast.runtime.generation.history import History
from precast.runtime.generation.processors import build_processors
from precast.runtime.generation.sampling import RandomSampler, generators
from precast.runtime.generation.token_bytes import TokenBytes
from precast.runtime.processors.text import Tokenizer as Ours
from precast.runtime.processors.tokenizer_settings import Settings

EOS = 0
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 4}, "age": {"type": "integer"}, "ok": {"type": "boolean"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def _constraint(backend: Any, size: int, **asked: Any) -> GrammarConstraint:
    made = build_constraint(backend, size, [EOS], **asked)
    assert made is not None
    return made


def _generate(backend: Tokenizer, seed: int, rows: int = 3, spare: int = 5, **asked: Any) -> list[list[int]]:
    """Tokens drawn from random logits under a constraint, through all that sampling does, until every row has ended."""
    size = backend.get_vocab_size() + spare
    rng = np.random.default_rng(seed)
    config = GenerationConfig().merged({"do_sample": True, "top_k": 20, "eos_token_id": EOS})
    processors = build_processors(config, size, (EOS,), constraint=_constraint(backend, size, **asked))
    sampler = RandomSampler(generators([seed + row for row in range(rows)]))
    history = History([[3, 4]] * rows)
    texts: list[list[int]] = [[] for _ in range(rows)]
    alive = list(range(rows))
    for _ in range(400):
        logits = rng.normal(scale=2, size=(len(alive), size)).astype(np.float32)
        for processor in processors:
            processor(logits, history)
        history.append(sampler.choose(logits))
        staying = [index for index in range(len(alive)) if history.row(index)[-1] != EOS]
        for index, row in enumerate(alive):
            texts[row] = history.generated(index).tolist()
        alive = [alive[index] for index in staying]
        if not alive:
            return texts
        history.select(staying)
        sampler.select(staying)
    raise AssertionError("no end was reached")


def _spelt(backend: Tokenizer, tokens: list[int]) -> str:
    assert tokens[-1] == EOS and EOS not in tokens[:-1]
    if isinstance(backend.decoder, decoders.BPEDecoder):
        return str(backend.decode(tokens))
    spelt = TokenBytes(backend)
    return b"".join(spelt[token] for token in tokens[:-1]).decode()


@pytest.mark.parametrize("kind", KINDS)
def test_a_regex_holds_whatever_the_tokenizer(kind: str) -> None:
    backend = tiny_tokenizer(kind)
    # Words begin with a space in the middle of a text, for tokenizers that have no token without one.
    pattern = " ?[a-d]{1,3}( ?(stop|[a-d]+)){1,2}"
    seen = set()
    for seed in range(4):
        for tokens in _generate(backend, seed, regex=pattern):
            text = _spelt(backend, tokens)
            assert re.fullmatch(pattern, text), text
            seen.add(text)
    assert len(seen) > 4


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
def test_json_is_valid_and_follows_its_schema(kind: str) -> None:
    backend = tiny_tokenizer(kind)
    for seed in range(4):
        schema: Any = SCHEMA if seed % 2 else json.dumps(SCHEMA)
        for tokens in _generate(backend, seed, json_schema=schema):
            value = json.loads(_spelt(backend, tokens))
            assert set(value) in ({"name", "age"}, {"name", "age", "ok"}), value
            assert isinstance(value["name"], str) and len(value["name"]) <= 4 and isinstance(value["age"], int)
            assert isinstance(value.get("ok", True), bool)


PAIR = {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}
WRITTEN = ["[1,2]", "[1, 2]", "[ 1 , 2 ]", "[1,\n\n\n2]", "[1; 2]"]


@pytest.mark.parametrize(
    ("options", "matching"),
    [
        (None, WRITTEN[:4]),
        ({}, WRITTEN[:4]),
        ({"coerce_one_of": True}, WRITTEN[:4]),
        ({"whitespace_flexible": False}, WRITTEN[:1]),
        ({"whitespace_flexible": True}, WRITTEN[:4]),
        ({"whitespace_pattern": " ?"}, WRITTEN[:3]),
        ({"whitespace_flexible": False, "item_separator": "; "}, WRITTEN[4:]),
    ],
)
def test_a_schemas_own_options_count(options: Any, matching: list[str]) -> None:
    backend = tiny_tokenizer("byte_level")
    size = backend.get_vocab_size()
    schema = PAIR if options is None else {**PAIR, "x-guidance": options}

    def follows(text: str) -> bool:
        constraint = _constraint(backend, size, json_schema=schema)
        history = History([[3]])
        for token in [*backend.encode(text).ids, EOS]:
            logits = np.zeros((1, size), dtype=np.float32)
            constraint(logits, history)
            if logits[0, token] == -np.inf:
                return False
            history.append(np.array([token]))
        return True

    assert [text for text in WRITTEN if follows(text)] == matching


class Untold:
    @staticmethod
    def model_json_schema() -> dict[str, Any]:
        raise RuntimeError("no schema for this")


def test_a_class_that_tells_its_schema() -> None:
    class Person(BaseModel, extra="forbid"):
        name: str = Field(max_length=4)
        age: int

    backend = tiny_tokenizer("byte_level")
    for seed in range(3):
        for tokens in _generate(backend, seed, json_schema=Person):
            found = Person.model_validate_json(backend.decode(tokens))
            assert len(found.name) <= 4


@pytest.mark.parametrize(
    "grammar",
    ['start: "<" inner ">"\ninner: /[ab]/ | "(" inner ")"', 'root ::= "<" inner ">"\ninner ::= [ab] | "(" inner ")"'],
    ids=["lark", "gbnf"],
)
def test_a_grammar_of_either_notation(grammar: str) -> None:
    backend = tiny_tokenizer("byte_level")
    for tokens in _generate(backend, 1, rows=4, grammar=grammar):
        text = _spelt(backend, tokens)
        depth = text.count("(")
        assert text in ("<" + "(" * depth + letter + ")" * depth + ">" for letter in "ab")


def _next(constraint: GrammarConstraint, history: History, size: int) -> list[list[int]]:
    """The tokens each row may take."""
    logits = np.zeros((history.rows, size), dtype=np.float32)
    constraint(logits, history)
    assert set(np.unique(logits)) <= {0.0, -np.inf}
    return [np.flatnonzero(row == 0).tolist() for row in logits]


def test_the_end_is_allowed_when_complete_and_forced_when_over() -> None:
    backend = tiny_tokenizer("byte_level")
    size = backend.get_vocab_size()
    a, b = backend.token_to_id("a"), backend.token_to_id("b")
    constraint = build_constraint(backend, size, [EOS, 1], regex="ab?")
    assert constraint is not None
    history = History([[5], [5, 6]])
    assert _next(constraint, history, size) == [[a], [a]]
    history.append([a, a])
    assert _next(constraint, history, size) == [[EOS, 1, b], [EOS, 1, b]]
    history.append([b, EOS])
    assert _next(constraint, history, size) == [[EOS, 1], [EOS, 1]]
    # Rows that are over may be kept and filled with padding, and taken back again.
    history.append([EOS, 1])
    history.append([1, 1])
    assert _next(constraint, history, size) == [[EOS, 1], [EOS, 1]]
    history.truncate([2, 3])
    assert _next(constraint, history, size) == [[EOS, 1, b], [EOS, 1, b]]


def test_rows_keep_their_place_through_picking_repeating_and_cutting_back() -> None:
    """After every step, each row is allowed what a constraint that never saw the other rows would allow it."""
    backend = tiny_tokenizer("byte_level")
    size = backend.get_vocab_size()
    rng = np.random.default_rng(11)
    constraint = _constraint(backend, size, json_schema=SCHEMA)
    history = History([[7], [8, 9], [4]])
    for step in range(30):
        allowed = _next(constraint, history, size)
        for index in range(history.rows):
            fresh = History([history.prompt(index)])
            fresh.extend(0, history.generated(index))
            assert _next(_constraint(backend, size, json_schema=SCHEMA), fresh, size) == [allowed[index]], step
        history.append([int(rng.choice(tokens)) for tokens in allowed])
        if step % 3 == 1:
            history.select(rng.integers(0, history.rows, size=3).tolist())
        if step % 4 == 2:
            floor = history.prompts
            history.truncate(np.maximum(history.lengths - rng.integers(0, 4, size=history.rows), floor))


def test_another_history_starts_from_its_prompts() -> None:
    backend = tiny_tokenizer("byte_level")
    size = backend.get_vocab_size()
    a, b = backend.token_to_id("a"), backend.token_to_id("b")
    constraint = _constraint(backend, size, regex="ab")
    history = History([[3]])
    history.append([a])
    assert _next(constraint, history, size) == [[b]]
    assert _next(constraint, History([[3, a], [3]]), size) == [[a], [a]]


def test_a_hopeless_beam_is_let_be_and_can_be_taken_back() -> None:
    """A beam search keeps beams of score -inf while it has no better ones: they hold banned tokens."""
    backend = tiny_tokenizer("byte_level")
    size = backend.get_vocab_size()
    a, b = backend.token_to_id("a"), backend.token_to_id("b")
    constraint = _constraint(backend, size, regex="ab+")
    history = History([[3], [3]])
    _next(constraint, history, size)
    history.append([a, b])
    assert _next(constraint, history, size) == [[b], [EOS]]
    history.append([b, b])
    assert _next(constraint, history, size)[1] == [EOS]
    history.truncate([2, 1])
    assert _next(constraint, history, size) == [[b], [a]]
    history.select([0, 0])
    assert _next(constraint, history, size) == [[b], [b]]


def test_where_all_that_is_allowed_was_banned_the_grammar_wins() -> None:
    backend = tiny_tokenizer("byte_level")
    size = backend.get_vocab_size()
    a = backend.token_to_id("a")
    config = GenerationConfig().merged({"suppress_tokens": [a], "forced_bos_token_id": 5})
    logits = np.ones((1, size), dtype=np.float32)
    for processor in build_processors(config, size, (EOS,), constraint=_constraint(backend, size, regex="a+")):
        processor(logits, History([[3]]))
    assert np.flatnonzero(np.isfinite(logits[0])).tolist() == [a]


def test_logits_beyond_the_tokenizer_and_tokens_beyond_the_logits() -> None:
    backend = tiny_tokenizer("byte_level")
    known = backend.get_vocab_size()
    open_ended = _next(_constraint(backend, known + 40, regex="(.|\n)*"), History([[3]]), known + 40)[0]
    assert max(open_ended) < known and len(open_ended) > 200
    # Gemma's tokenizer has an image token beyond what the text model scores.
    backend.add_special_tokens([AddedToken("<image>", special=True)])
    assert _next(_constraint(backend, known, regex="(.|\n)*"), History([[3]]), known)[0] == open_ended


def test_our_tokenizer_is_learnt_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import llguidance

    learnt = []
    real = llguidance.LLTokenizer
    monkeypatch.setattr(llguidance, "LLTokenizer", lambda *args, **kwargs: learnt.append(1) or real(*args, **kwargs))
    tokenizer = Ours(tiny_tokenizer("byte_level"), Settings.from_kwargs({}))
    size = len(tokenizer)
    for _ in range(3):
        assert _next(_constraint(tokenizer, size, regex="a"), History([[3]]), size) != [[]]
    _constraint(tokenizer, size + 1, regex="a")
    assert len(learnt) == 2


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"regex": "[ab"}, r"regex cannot be used: .*unclosed character class.* Got \[ab"),
        ({"regex": r"[^\s\S]"}, "regex cannot be satisfied: no token of this vocabulary may begin a text"),
        ({"regex": ""}, "regex must be a text, not empty; got ''"),
        ({"regex": 5}, "regex must be a text, not empty; got 5"),
        ({"grammar": "start: nowhere"}, 'grammar cannot be used: .*unknown name: "nowhere"'),
        ({"grammar": 'root ::= ("a"'}, r"grammar cannot be read as Lark or GBNF: Expected '\)'"),
        ({"grammar": "no grammar at all"}, "grammar cannot be read as Lark or GBNF"),
        ({"json_schema": "{"}, "json_schema must be JSON: Expecting property name"),
        ({"json_schema": {"x-guidance": 3}}, "json_schema cannot be used: invalid type: integer `3`"),
        ({"json_schema": {"x-guidance": {"nope": 1}}}, "json_schema cannot be used: unknown field `nope`"),
        ({"json_schema": Untold}, "json_schema must be JSON: no schema for this.*Got .*Untold"),
        ({"json_schema": {"type": {1, 2}}}, "json_schema must be JSON: Object of type set is not JSON"),
        ({"json_schema": "[1]"}, r"json_schema must be a schema as a dict, its JSON text, or a class .*; got \[1\]"),
        ({"json_schema": 7}, "json_schema must be a schema as a dict, its JSON text, or a class .*; got 7"),
        (
            {"json_schema": {"type": "string", "minLength": 5, "maxLength": 2}},
            r"json_schema cannot be used: Unsatisfiable schema: minLength \(5\) is greater than maxLength \(2\)",
        ),
        ({"json_schema": {"type": "nonsense"}}, "json_schema cannot be used: Invalid type: nonsense"),
        ({"json_schema": {"not": {}}}, r'json_schema cannot be used: Unimplemented keys: \["not"\]'),
        ({"json_schema": {"$ref": "#/nowhere"}}, "json_schema cannot be used: Pointer '/nowhere' does not exist"),
        ({"regex": "a", "grammar": "b"}, "one of json_schema, regex and grammar; got regex and grammar"),
    ],
    ids=str,
)
def test_grammars_that_cannot_be_used(asked: dict[str, Any], message: str) -> None:
    backend = tiny_tokenizer("byte_level")
    with pytest.raises(InputError, match=message):
        build_constraint(backend, backend.get_vocab_size(), [EOS], **asked)


def test_a_text_that_no_token_continues() -> None:
    """Known only when it comes to it: this vocabulary has no way to say x."""
    backend = tiny_tokenizer("metaspace")
    assert not any("x" in token for token in backend.get_vocab())
    size = backend.get_vocab_size()
    constraint = _constraint(backend, size, regex="ax|ayx")
    history = History([[3]])
    assert _next(constraint, history, size) == [[backend.token_to_id("a")]]
    history.append([backend.token_to_id("a")])
    with pytest.raises(
        InputError, match=r"regex cannot be satisfied: no token of this vocabulary continues .* \[\d+\]"
    ):
        _next(constraint, history, size)


def test_tokenizers_and_ends_that_do_not_fit() -> None:
    backend = tiny_tokenizer("byte_level")
    size = backend.get_vocab_size()
    with pytest.raises(InputError, match=f"tokenizer has ids up to {size - 1}, the model's vocabulary ends at 99"):
        build_constraint(backend, 100, [EOS], regex="a")
    with pytest.raises(InputError, match="regex ends a text with an end token, and there is no eos_token_id; give one"):
        build_constraint(backend, size, [], regex="a")
    with pytest.raises(InputError, match=r"an end token must be in the model's vocabulary, 0 to \d+; got \[9999\]"):
        build_constraint(backend, size, [9999], regex="a")
    with pytest.raises(
        InputError, match="json_schema describes text, which needs a tokenizer, and this model has none"
    ):
        build_constraint(None, size, [EOS], json_schema={})


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    backend = tiny_tokenizer("byte_level")
    assert build_constraint(backend, 400, [EOS]) is None
    with pytest.raises(DependencyError, match=r'not installed: pip install "precast\[grammar\]"'):
        build_constraint(backend, 400, [EOS], regex="a")


class _Guesser:
    """An engine whose logits are random, and the same after the same tokens."""

    max_length = source = among = prompt_start = None

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def open(self, rows: int, capacity: int, context: Any = None) -> _Rows:
        return _Rows(self.vocab_size, rows, capacity)


class _Rows:
    def __init__(self, vocab_size: int, rows: int, capacity: int) -> None:
        self.vocab_size, self.capacity, self.rollback = vocab_size, capacity, capacity
        self.texts: list[list[int]] = [[] for _ in range(rows)]

    @property
    def rows(self) -> int:
        return len(self.texts)

    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(text) for text in self.texts], dtype=np.int64)

    def feed(self, tokens: Any, keep: int = 1) -> np.ndarray:
        logits = np.zeros((self.rows, keep, self.vocab_size), dtype=np.float32)
        for row, new in enumerate(tokens):
            self.texts[row] += new
            for back in range(min(keep, len(new))):
                rng = np.random.default_rng(self.texts[row][: len(self.texts[row]) - back])
                logits[row, -1 - back] = rng.normal(scale=3, size=self.vocab_size)
        return logits

    def select(self, rows: Any) -> None:
        self.texts = [list(self.texts[row]) for row in rows]

    def truncate(self, lengths: Any) -> None:
        self.texts = [text[:length] for text, length in zip(self.texts, lengths, strict=True)]


def _model(kind: str) -> Any:
    tokenizer = Ours(tiny_tokenizer(kind), Settings.from_kwargs({}))
    engine = _Guesser(len(tokenizer) + 3)
    return SimpleNamespace(
        config={},
        generation_config={"eos_token_id": EOS, "pad_token_id": 1},
        tokenizer=tokenizer,
        engine=lambda: engine,
    )


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"do_sample": True, "num_return_sequences": 3, "seed": 4, "top_p": 0.9},
        {"num_beams": 4, "num_return_sequences": 4},
        {"num_beams": 4, "num_return_sequences": 2, "do_sample": True, "seed": 1},
        {"num_beams": 4, "num_return_sequences": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
        {"prompt_lookup_num_tokens": 4},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
def test_every_way_of_searching_follows_a_schema(how: dict[str, Any], kind: str) -> None:
    model = _model(kind)
    prompts = [[5, 6, 7], [8]] if "prompt_lookup_num_tokens" not in how else [[5, 6, 7]]
    output = generate(model, prompts, json_schema=SCHEMA, max_new_tokens=160, return_dict_in_generate=True, **how)
    texts = []
    for row, reason in zip(output.sequences, output.finish_reasons, strict=True):
        new = row[max(map(len, prompts)) :].tolist()
        assert reason == "eos"
        texts.append(_spelt(model.tokenizer.backend_tokenizer, new[: new.index(EOS) + 1]))
        assert {"name", "age"} <= set(json.loads(texts[-1]))
    if how == {"prompt_lookup_num_tokens": 4}:
        plain = generate(model, prompts, json_schema=SCHEMA, max_new_tokens=160)
        assert plain.tolist() == output.sequences.tolist()


@pytest.mark.parametrize("how", [{}, {"num_beams": 3}, {"do_sample": True, "seed": 3}], ids=str)
def test_a_stop_string_ends_a_text_where_the_grammar_would_go_on(how: dict[str, Any]) -> None:
    model = _model("byte_level")
    output = generate(
        model, [[5, 6], [9]], regex="(ab|cd|e)*", stop_strings=["cde", "bcd"], return_dict_in_generate=True,
        max_new_tokens=300, bad_words_ids=[[EOS, 1], [1]], min_new_tokens=299, **how,
    )  # fmt: skip
    for row, new, reason in zip(output.sequences, output.new_tokens, output.finish_reasons, strict=True):
        pieces = [model.tokenizer.backend_tokenizer.id_to_token(token) for token in row[2 : 2 + new].tolist()]
        assert reason == "stop" and re.search("cde|bcd", "".join(pieces)), pieces
        assert not re.search("cde|bcd", "".join(pieces[:-1])), pieces
