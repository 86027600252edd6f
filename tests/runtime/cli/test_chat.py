"""``precast chat``, and ``precast run`` of generating tasks: through pipes, with commands, interruptions and errors."""

from __future__ import annotations

import builtins
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import transformers
from support import doubles, torch_engine
from support import record_seq2seq_goldens as seq2seq
from support.chat_templates import CHATML, MISTRAL
from support.command_line import good, interruptible, misused, refused
from support.generative_doubles import ALL_TASKS, GOLDENS, model_of, set_tokens

import precast
from precast.runtime import loading
from precast.runtime.cli import chat as chat_module
from precast.runtime.cli.chat import Talk, _Terminal
from precast.runtime.errors import InputError, UnsupportedTaskError
from precast.runtime.processors.text import Tokenizer
from precast.runtime.tasks import pipeline


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    made = Tokenizer.from_folder(doubles.train_bpe(tmp_path_factory.mktemp("bpe")))
    made.chat_template = CHATML
    return made


@pytest.fixture
def model(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> Any:
    upstream = set_tokens(torch_engine.tiny_llama(vocab=len(tokenizer)))
    made = model_of(upstream, tokenizer, ("text-generation",))
    monkeypatch.setattr(loading, "load", lambda *_, **__: made)
    return made


@pytest.fixture
def translator(monkeypatch: pytest.MonkeyPatch) -> Any:
    files = GOLDENS["tokenizers"]["mbart"]
    own = Tokenizer.from_files({key: json.dumps(value).encode() for key, value in files.items()})
    made = model_of(seq2seq.model("mbart", files["size"]), own, ALL_TASKS)
    monkeypatch.setattr(loading, "load", lambda *_, **__: made)
    return made


SHORT = ("--max-new-tokens", "8", "--greedy")


def answers(model: Any, *messages: str, system: str | None = None) -> list[str]:
    """What the pipeline says to each message of one conversation."""
    pipe = pipeline("text-generation", model, max_new_tokens=8, do_sample=False)
    chat: list[Any] = [{"role": "system", "content": system}] if system else []
    found = []
    for message in messages:
        chat = pipe([*chat, {"role": "user", "content": message}])[0]["generated_text"]
        found.append(chat[-1]["content"])
    return found


# -- run --------------------------------------------------------------------------------------------------------------


def test_run_writes_texts(model: Any) -> None:
    expected = pipeline("text-generation", model)(["Hello", "Well"], max_new_tokens=8, do_sample=False)
    assert json.loads(good("run", "text-generation", "a", "Hello", *SHORT, "--json")) == expected[0]
    shown = good("run", "text-generation", "a", "Hello", "Well", *SHORT)
    assert shown == "".join(result[0]["generated_text"] + "\n" for result in expected)
    assert good("run", "text-generation", "a", "Hello", "Well", *SHORT, "--stream") == shown
    new = good("run", "text-generation", "a", "Hello", *SHORT, "--stream", "--param", "return_full_text=false")
    assert "Hello" + new == expected[0][0]["generated_text"] + "\n"


def test_run_streams_documents(model: Any) -> None:
    lines = [
        json.loads(line)
        for line in good("run", "text-generation", "a", "Hi", *SHORT, "--stream", "--json").splitlines()
    ]
    last = lines.pop()
    assert last["generated_text"] == "Hi" + "".join(line["text"] for line in lines)
    assert last["finish_reason"] == "length"
    assert last["new_tokens"] == 8
    assert len(lines) > 3


def test_run_answers_chats(model: Any) -> None:
    chat = json.dumps([{"role": "user", "content": "Hello"}])
    (expected,) = answers(model, "Hello")
    assert good("run", "text-generation", "a", chat, "--input-json", *SHORT) == expected + "\n"
    assert good("run", "text-generation", "a", chat, "--input-json", *SHORT, "--stream") == expected + "\n"


def test_run_draws_by_seed(model: Any) -> None:
    options = ("--max-new-tokens", "6", "--temperature", "3", "--top-k", "40", "--top-p", "0.9", "--seed", "7")
    shown = good("run", "text-generation", "a", "One", "Two", *options)
    assert good("run", "text-generation", "a", "One", "Two", *options) == shown
    assert good("run", "text-generation", "a", "One", "Two", *options, "--stream") == shown
    assert good("run", "text-generation", "a", "One", "Two", *options[:-1], "8") != shown


def test_run_translates(translator: Any) -> None:
    languages = ("--param", "src_lang=en_XX", "--param", "tgt_lang=ro_RO", "--max-new-tokens", "10")
    expected = pipeline("translation", translator, src_lang="en_XX", tgt_lang="ro_RO", max_new_tokens=10)
    for beams in (1, 3):
        shown = good("run", "translation", "a", *seq2seq.TEXTS, *languages, "--num-beams", str(beams))
        found = expected(seq2seq.TEXTS, num_beams=beams)
        assert shown == "".join(result["translation_text"] + "\n" for result in found)
    named = good("run", "translation_en_XX_to_ro_RO", "a", seq2seq.TEXTS[0], "--greedy", "--max-new-tokens", "10")
    assert named == good("run", "translation", "a", seq2seq.TEXTS[0], *languages, "--greedy", "--stream")
    assert "src_lang is missing" in refused("run", "translation", "a", "text")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "fill-mask", "a", "x", "--stream"), "--stream is for tasks that generate text, not for fill-mask"),
        (("run", "ner", "a", "x", "--max-new-tokens", "3"), "--max-new-tokens is for tasks that generate text"),
        (("run", "sentence-embedding", "a", "x", "--seed", "3"), "--seed is for tasks that generate text"),
        (("run", "text-generation", "a", "x", "--greedy", "--top-p", "0.5"), "--top-p say how to draw one"),
        (("run", "text-generation", "a", "x", "--max-new-tokens", "0"), "Invalid value for '--max-new-tokens'"),
        (("chat", "a", "--greedy", "--temperature", "0.5"), "--temperature say how to draw one"),
        (("chat", "a", "--param", "seed"), "--param takes KEY=VALUE"),
    ],
)
def test_misuse(model: Any, arguments: tuple[str, ...], message: str) -> None:
    assert message in misused(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--num-beams", "2", "--stream"), "A stream is one row, decoded without beams"),
        (("--top-p", "2"), "top_p"),
        (("--param", "max_new_token=3"), "Closest: max_new_tokens"),
        (("--param", "num_return_sequences=3", "--greedy"), "num_return_sequences"),
    ],
)
def test_run_refuses_in_one_line(model: Any, options: tuple[str, ...], message: str) -> None:
    assert message in refused("run", "text-generation", "a", "text", *options)


# -- chat, through pipes ----------------------------------------------------------------------------------------------


def test_one_message(model: Any) -> None:
    (expected,) = answers(model, "Hello", system="Be kind.")
    assert good("chat", "a", "--message", "Hello", "--system", "Be kind.", *SHORT) == expected + "\n"
    found = json.loads(good("chat", "a", "--message", "Hello", "--system", "Be kind.", *SHORT, "--json"))
    assert found.pop("seconds") > 0
    assert found == {
        "role": "assistant",
        "content": expected,
        "finish_reason": "length",
        "prompt_tokens": found["prompt_tokens"],
        "new_tokens": 8,
    }


def test_a_line_is_a_message_and_gets_a_line(model: Any) -> None:
    messages = ["Hello", "/help me", "Grüße aus Köln"]
    expected = answers(model, *messages)
    shown = good("chat", "a", *SHORT, stdin="\n".join([messages[0], "", *messages[1:]]) + "\n")
    assert shown.splitlines() == [" ".join(answer.split("\n")) for answer in expected]
    lines = good("chat", "a", *SHORT, "--json", stdin="\r\n".join(messages)).splitlines()
    assert [json.loads(line)["content"] for line in lines] == expected
    assert good("chat", "a", *SHORT, stdin="") == ""


def test_a_stop_text_is_cut_off(model: Any, person: Callable[..., Any]) -> None:
    """From what is shown, and from the history that the next answer is given for."""
    (whole,) = answers(model, "Hello")
    stop = whole[len(whole) // 2 :][:3]
    kept = whole[: whole.index(stop)]
    assert kept
    pipe = pipeline("text-generation", model, max_new_tokens=8, do_sample=False)
    messages = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": kept},
        {"role": "user", "content": "And you?"},
    ]
    second = pipe(messages, stop_sequence=stop)[0]["generated_text"][-1]["content"].partition(stop)[0]
    lines = [" ".join(answer.split("\n")) for answer in (kept, second)]
    asked = ("chat", "a", *SHORT, "--stop", stop, "--stop", "another")
    assert good(*asked, stdin="Hello\nAnd you?\n").splitlines() == lines
    found = [json.loads(line) for line in good(*asked, "--json", stdin="Hello\nAnd you?\n").splitlines()]
    assert [one["content"] for one in found] == [kept, second]
    assert found[0]["finish_reason"] == "stop"
    assert good("chat", "a", "--message", "Hello", *SHORT, "--stop", stop) == kept + "\n"
    talk, shown = person("Hello", "And you?", stop_sequence=stop)
    assert [turn["content"] for turn in talk.turns[1::2]] == [kept, second]
    assert shown.splitlines()[1] == kept.splitlines()[0]
    # What is remembered beyond the cut is taken back.
    assert talk._past.reused > 0


def test_a_checkpoints_own_stop_text_is_cut_off_too(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (whole,) = answers(model, "Hello")
    stop = whole[len(whole) // 2 :][:3]
    monkeypatch.setattr(model, "generation_config", {**(model.generation_config or {}), "stop_strings": [stop]})
    assert good("chat", "a", "--message", "Hello", *SHORT) == whole[: whole.index(stop)] + "\n"


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (("--message", " "), None, "a message is a text that says something"),
        ((), b"caf\xe9\n", "line 1 of stdin is not"),
        (("--message", "x", "--top-p", "3"), None, "top_p"),
        (("--message", "x", "--param", "return_dict_in_generate=true"), None, "returns texts or ids"),
    ],
)
def test_chat_refuses_in_one_line(model: Any, arguments: tuple[str, ...], stdin: Any, message: str) -> None:
    assert message in refused("chat", "a", *arguments, stdin=stdin)


def test_models_that_do_not_chat(model: Any, translator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "needs an artifact exported for text-generation" in refused("chat", "a", "--message", "x")
    monkeypatch.setattr(loading, "load", lambda *_, **__: model)
    monkeypatch.setattr(model.tokenizer, "chat_template", MISTRAL)
    assert "refuses this conversation: Conversation roles must" in refused(
        "chat", "a", "--message", "x", "--system", "y"
    )
    monkeypatch.setattr(model.tokenizer, "chat_template", None)
    found = refused("chat", "my-model", "--message", "x")
    assert "my-model has no chat template" in found
    assert 'precast run text-generation my-model "Once upon a time" --stream' in found


def test_a_template_of_one_s_own(model: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (expected,) = answers(model, "Hello")
    path = tmp_path / "own.jinja"
    path.write_text(CHATML, encoding="utf-8")
    given = ("chat", "a", "--message", "Hello", *SHORT, "--chat-template")
    monkeypatch.setattr(model.tokenizer, "chat_template", None)
    assert good(*given, path) == expected + "\n"
    monkeypatch.setattr(model.tokenizer, "chat_template", {"default": MISTRAL, "own": CHATML})
    assert good(*given, "own") == expected + "\n"
    monkeypatch.setattr(model.tokenizer, "chat_template", {"default": MISTRAL, "own": CHATML})
    assert "no chat template and no file 'on'; the model's own are default, own" in refused(*given, "on")
    path.write_text("{% for %}")
    assert "the chat template is malformed, line 1" in refused(*given, path)
    path.write_bytes(b"caf\xe9")
    assert "takes UTF-8 text" in refused(*given, path)


# -- chat, with a person ----------------------------------------------------------------------------------------------


@pytest.fixture
def person(model: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Types lines (or raises what is no text) at a terminal; returns the talk and what was shown."""

    def types(*typed: Any, **options: Any) -> tuple[Talk, str]:
        lines = iter(typed)

        def read(prompt: str) -> str:
            line = next(lines, EOFError())
            if isinstance(line, BaseException):
                raise line
            return str(line)

        monkeypatch.setattr(builtins, "input", read)
        talk = Talk(pipeline("text-generation", model, **{"max_new_tokens": 8, "do_sample": False, **options}))
        _Terminal(talk, 4096).run("Hello.")
        assert next(lines, None) is None, "the conversation ended early"
        return talk, capsys.readouterr().out

    return types


def test_a_conversation(model: Any, person: Callable[..., Any]) -> None:
    talk, shown = person("Hello", " ", "Who are you?", "/exit")
    expected = answers(model, "Hello", "Who are you?")
    assert [turn["content"] for turn in talk.turns] == ["Hello", expected[0], "Who are you?", expected[1]]
    lines = shown.splitlines()
    assert lines[0] == "Hello."
    for answer in expected:
        assert answer in shown
    assert sum("8 tokens, " in line and " of 4,096 held, cut at --max-new-tokens" in line for line in lines) == 2
    # What was said before is not computed again.
    assert talk._past.reused > 10


def test_several_lines(person: Callable[..., Any]) -> None:
    talk, _ = person('"""one', "two", 'three"""', "four\\", "five", '"""six"""', "//seven")
    assert [turn["content"] for turn in talk.turns[::2]] == ["one\ntwo\nthree", "four\nfive", "six", "/seven"]


def test_commands(model: Any, person: Callable[..., Any], tmp_path: Path) -> None:
    text, table = tmp_path / "talk.txt", tmp_path / "talk.json"
    talk, shown = person(
        "/help", "/system Be kind.", "Hello", f"/save {text}", f"/save {table}", f"/save {text}", "/save",
        f"/save {tmp_path}/no/where", "/clear", "Again", "/system", "/nonsense", "/hepl", "/quit",
    )  # fmt: skip
    (kind,), (again,) = answers(model, "Hello", system="Be kind."), answers(model, "Again", system="Be kind.")
    assert talk.turns == [{"role": "user", "content": "Again"}, {"role": "assistant", "content": again}]
    assert talk.system is None
    assert text.read_text(encoding="utf-8") == f"system: Be kind.\n\nuser: Hello\n\nassistant: {kind}\n\n"
    assert [message["role"] for message in json.loads(table.read_text())] == ["system", "user", "assistant"]
    said = " ".join(shown.split())
    for part in (
        "/save FILE write the conversation",
        "The system message is set.",
        "The conversation is forgotten.",
        "There is no system message now.",
        "there is no command /nonsense.",
        "there is no command /hepl. Closest: /help.",
        "Give another name.",
        "/save takes the name of a file.",
        "No such file or directory",
    ):
        assert part in said, part


def test_ctrl_c_at_the_prompt_and_ctrl_d(person: Callable[..., Any]) -> None:
    talk, shown = person("Hello", KeyboardInterrupt(), "Again", EOFError())
    assert len(talk.turns) == 4
    assert "Ctrl-D or /exit leaves." in shown


def test_ctrl_c_stops_the_answer_alone(model: Any, person: Callable[..., Any]) -> None:
    engine = model.engine()
    begun = len(engine.feeds)

    def interrupt() -> None:
        if len(engine.feeds) - begun == 6:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)  # a signal is answered by the thread that writes, which is not this one

    engine.on_feed = interrupt
    try:
        with interruptible():
            talk, shown = person("Hello", "Again", max_new_tokens=20, eos_token_id=3)
    finally:
        engine.on_feed = None
    assert [turn["role"] for turn in talk.turns] == ["user", "assistant"] * 2
    assert "stopped" in shown
    assert len(talk.turns[1]["content"]) < 400


def test_an_error_leaves_the_conversation_as_it_was(
    model: Any, person: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.tokenizer, "chat_template", MISTRAL)
    talk, shown = person("/system Be kind.", "Hello", "/system", "Hello")
    assert "the chat template refuses this conversation" in shown
    assert [turn["role"] for turn in talk.turns] == ["user", "assistant"]


def test_a_terminal_is_not_steered_by_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    from precast.runtime.cli import generation as shared

    text = "a\x1b[31mb\x07\n\tc\x9b1mé🙂"
    assert shared.shown(text) == text
    monkeypatch.setattr(shared.sys, "stdout", SimpleNamespace(isatty=lambda: True))
    assert shared.shown(text) == "a[31mb\n\tc1mé🙂"


def test_a_file_is_not_written_over(model: Any, tmp_path: Path) -> None:
    talk = chat_module.Talk(pipeline("text-generation", model))
    (tmp_path / "x").write_text("mine")
    with pytest.raises(InputError, match=r"there is a file .* already\. Give another name"):
        talk.save(str(tmp_path / "x"))
    assert (tmp_path / "x").read_text() == "mine"


# -- a real artifact --------------------------------------------------------------------------------------------------


def test_from_a_checkpoint_to_a_chat(tmp_path: Path) -> None:
    source = doubles.train_bpe(tmp_path / "checkpoint")
    theirs = transformers.AutoTokenizer.from_pretrained(source)
    theirs.chat_template = CHATML
    theirs.save_pretrained(source)
    upstream = doubles.randomise(set_tokens(torch_engine.tiny_llama(vocab=len(theirs))), 3)
    upstream.save_pretrained(source)
    folder = tmp_path / "artifact"
    assert good("export", source, folder).splitlines()[-1] == f"Try it: precast chat {folder}"

    chat = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}]
    expected = transformers.pipeline("text-generation", upstream, tokenizer=theirs, device="cpu")
    options = {"max_new_tokens": 12, "do_sample": False}
    found = precast.pipeline("text-generation", folder, **options)
    for prompt in (chat, "Once upon a time", ["one", "two words", "three whole words"]):
        doubles.assert_same(found(prompt), expected(prompt, **options))
    answer = found(chat)[0]["generated_text"][-1]["content"]
    given = ("--system", "Be kind.", "--max-new-tokens", "12", "--greedy")
    assert good("chat", folder, "--message", "Hello", *given) == answer + "\n"
    assert good("chat", folder, *given, stdin="Hello\n") == " ".join(answer.split("\n")) + "\n"
    assert "a text may have 256 tokens here" in refused("chat", folder, "--message", "word " * 300).lower()

    model = precast.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = precast.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="np")["input_ids"]
    ours = model.generate(input_ids=ids, max_new_tokens=12)
    assert tokenizer.decode(ours[0, ids.shape[1] :], skip_special_tokens=True) == answer
    with pytest.raises(UnsupportedTaskError, match=r"AutoModelForSeq2SeqLM needs .* Use AutoModelForCausalLM"):
        precast.AutoModelForSeq2SeqLM.from_pretrained(folder)
