"""``precast chat``: a conversation with an artifact on the terminal, or through pipes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from precast.runtime.cli.console import guarded, note, write, write_json
from precast.runtime.cli.generation import StreamedText, figures, generation_arguments, parameters_of
from precast.runtime.errors import ChatTemplateError, InputError, PrecastError, closest, listing

__all__ = ["Talk", "chat", "register"]

_HELP = """\
/help          this
/clear         forget the conversation; the system message stays
/system TEXT   what the model is told first; without TEXT, nothing
/image FILE    a picture that the next message is about; may be given again
/save FILE     write the conversation: as JSON where FILE ends so, else as text
/exit          leave; so does Ctrl-D

Ctrl-C stops an answer. A line that ends with \\ goes on; \"\"\" begins and ends several lines. //x sends /x."""
_COMMANDS = ("/help", "/clear", "/system", "/image", "/save", "/exit", "/quit")
_SEES = "image-text-to-text"
_MOST = 1024


class Leave(Exception):
    """The user has said goodbye."""


class Talk:
    """A conversation: the messages so far, and what the model remembers of them between answers.

    Of a model that reads pictures contents are lists of parts, as its template takes them.
    """

    def __init__(self, pipe: Any, system: str | None = None) -> None:
        from precast.runtime.generation.conversation import Conversation

        self._pipe = pipe
        self._past = Conversation()
        self.sees = pipe.name == _SEES
        self.system = system
        self.turns: list[dict[str, Any]] = []
        self.pictures: list[str] = []
        """Files that the next message is about."""

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation, with the system message where there is one."""
        return [*([self._message("system", self.system)] if self.system else []), *self.turns]

    def _message(self, role: str, text: str, pictures: Sequence[str] = ()) -> dict[str, Any]:
        if not self.sees:
            return {"role": role, "content": text}
        seen = [{"type": "image", "path": picture} for picture in pictures]
        return {"role": role, "content": [*seen, {"type": "text", "text": text}]}

    def show(self, picture: str) -> None:
        """A picture that the next message is about.

        :raises InputError: the model reads none, or the file is none."""
        from precast.runtime.processors.image import open_picture

        if not self.sees:
            raise InputError("this model reads texts alone; a picture is for one exported for image-text-to-text.")
        path = str(Path(picture).expanduser())
        open_picture(path).close()
        self.pictures.append(path)

    def answer(self, text: str, write_pieces: Callable[[Any], Any] | None = None) -> tuple[str, Any]:
        """The answer to ``text`` and its `GenerateOutput`; an interruption ends the answer, not the conversation.

        :raises PrecastError: the message cannot be answered; it is not part of the conversation then."""
        self.turns.append(self._message("user", text, self.pictures))
        pieces: list[str] = []
        stream = None
        try:
            stream = self._pipe.stream(self.messages, past=self._past)
            watched = _Watched(stream, pieces, self._pipe.stop_strings)
            if write_pieces is not None:
                write_pieces(watched)
            else:
                for _ in watched:
                    pass
        except KeyboardInterrupt:
            if stream is None:
                del self.turns[-1]
                raise
            stream.close()
        except BaseException:
            del self.turns[-1]
            raise
        found = "".join(pieces)
        self.turns.append(self._message("assistant", found))
        self.pictures = []
        return found, stream.output

    def clear(self) -> None:
        """Forget what was said."""
        self.turns, self.pictures = [], []
        self._past.forget()

    def save(self, path: str) -> None:
        """Write the conversation into a new file.

        :raises InputError: there is a file of that name."""
        if path.endswith(".json"):
            text = json.dumps(self.messages, ensure_ascii=False, indent=2) + "\n"
        else:
            text = "".join(f"{message['role']}: {_said(message['content'])}\n\n" for message in self.messages)
        try:
            with Path(path).expanduser().open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            raise InputError(f"there is a file {path} already. Give another name.") from None

    def command(self, line: str) -> str:
        """Do what a line that begins with a slash says; what to tell the user.

        :raises Leave: it says so.
        :raises InputError: there is no such command."""
        name, _, rest = line.strip().partition(" ")
        rest = rest.strip()
        if name in ("/exit", "/quit"):
            raise Leave
        if name == "/help":
            return _HELP
        if name == "/clear":
            self.clear()
            return "The conversation is forgotten."
        if name == "/system":
            self.system = rest or None
            return "The system message is set." if rest else "There is no system message now."
        if name == "/image":
            if not rest:
                raise InputError("/image takes the name of a file.")
            self.show(rest)
            return f"The next message is about {rest}."
        if name == "/save":
            if not rest:
                raise InputError("/save takes the name of a file.")
            self.save(rest)
            return f"Written to {rest}."
        raise InputError(f"there is no command {name}. {closest(name, _COMMANDS)} /help lists all.".replace("  ", " "))


def _said(content: Any) -> str:
    """A message's content to read."""
    if isinstance(content, str):
        return content
    return " ".join(part["text"] if part["type"] == "text" else f"[{part['path']}]" for part in content)


class _Watched:
    """A stream whose pieces are also kept, up to the stop string that ends it."""

    def __init__(self, stream: Any, pieces: list[str], stops: Sequence[str]) -> None:
        from precast.runtime.generation.stopping import UntilStop

        self._stream, self._pieces = stream, pieces
        self._until = UntilStop(stops)

    def __iter__(self) -> Iterator[str]:
        for piece in self._stream:
            yield from self._kept(self._until.push(piece))
        output = self.output
        stopped = output is not None and output.finish_reasons[0] == "stop"
        yield from self._kept(self._until.finish(stopped=stopped))

    def _kept(self, piece: str) -> Iterator[str]:
        if piece:
            self._pieces.append(piece)
            yield piece

    def __enter__(self) -> _Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    @property
    def output(self) -> Any:
        return self._stream.output


@guarded
def chat(
    artifact: Annotated[str, typer.Argument(metavar="ARTIFACT", help="The artifact's folder.")],
    message: Annotated[str | None, typer.Option(metavar="TEXT", help="Answer this and leave.")] = None,
    image: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="A picture that the first message is about; may be given again."),
    ] = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="What the model is told first.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = _MOST,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="How freely tokens are drawn; 0: the most likely one.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Draw from this many tokens.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw from the likeliest tokens that sum to this.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Draw the same tokens every time.")] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always the most likely token.")] = False,
    stop: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="End an answer before this text; may be given again.")
    ] = None,
    chat_template: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="One of the model's templates, or a Jinja file.")
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Any parameter of text-generation; the value is JSON or a text."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or tensorrt.")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: all there are.")] = None,
    variant: Annotated[str | None, typer.Option(help="One of the artifact's. Default: the most exact.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document a line for each answer.")] = False,
) -> None:
    """Talk to an artifact. From a pipe, each line is a message of one conversation and gets one line as its answer."""
    parameters = generation_arguments(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        greedy=greedy,
        stop=stop,
    ) | parameters_of(param or [])
    from precast.runtime.loading import load
    from precast.runtime.tasks import pipeline

    model = load(artifact, device=device, threads=threads, variant=variant)
    pipe = pipeline(_SEES if _SEES in model.tasks else "text-generation", model, **parameters)
    if chat_template is not None:
        pipe.tokenizer.chat_template = _template(pipe.tokenizer.chat_template, chat_template)
    if pipe.tokenizer.chat_template is None:
        raise ChatTemplateError(
            f"{artifact} has no chat template: it was not trained to chat, or its checkpoint came without one. "
            f'Continue texts with it: precast run text-generation {artifact} "Once upon a time" --stream; '
            "or give the template it was trained with: --chat-template FILE."
        )
    pipe.too_long = "Begin a new conversation (/clear), or shorten the message."
    talk = Talk(pipe, system)
    for picture in image or ():
        talk.show(picture)
    if message is not None:
        _answer_once(talk, message, as_json=as_json, one_line=False)
    elif sys.stdin.isatty() and sys.stdout.isatty() and not as_json:
        _Terminal(talk, model.max_length).run(f"{Path(artifact).name or artifact}. /help says what you can do.")
    else:
        if sys.stdin.isatty():
            note("Reading messages from the terminal, one a line; Ctrl-D ends.")
        for line in _stdin():
            if line.strip():
                _answer_once(talk, line, as_json=as_json, one_line=True)


def _template(own: Any, wanted: str) -> str:
    """The template of that name, or in the file of that name."""
    if isinstance(own, dict) and wanted in own:
        return str(own[wanted])
    try:
        return Path(wanted).expanduser().read_text(encoding="utf-8")
    except FileNotFoundError:
        names = f"; the model's own are {listing(sorted(own))}" if isinstance(own, dict) else ""
        raise InputError(f"there is no chat template and no file {wanted!r}{names}.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"--chat-template takes UTF-8 text; {wanted} is not: {error.reason}.") from error


def _answer_once(talk: Talk, message: str, *, as_json: bool, one_line: bool) -> None:
    if not message.strip():
        raise InputError("a message is a text that says something; received an empty one.")
    if sys.stdout.isatty() and not as_json:
        _, output = talk.answer(message, StreamedText())
        _raise_if_stopped(output)
        return
    text, output = talk.answer(message)
    _raise_if_stopped(output)
    if as_json:
        write_json({"role": "assistant", "content": text, **figures(output)}, compact=True)
    else:
        write(" ".join(text.split("\n")) if one_line else text)
    sys.stdout.flush()


def _raise_if_stopped(output: Any) -> None:
    """Where nobody sits at a terminal, an interruption ends the program."""
    if output is None or output.finish_reasons[0] == "cancelled":
        raise KeyboardInterrupt


class _Terminal:
    """Reads from a person and writes to one."""

    def __init__(self, talk: Talk, context: int | None) -> None:
        from rich.console import Console

        self._talk = talk
        self._context = context
        self._console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)

    def run(self, greeting: str) -> None:
        """Until the person leaves."""
        with suppress(ImportError):
            import readline  # noqa: F401 - arrow keys and history, for input()
        self._dim(greeting)
        while True:
            try:
                text = self._read()
                if not text.strip():
                    continue
                if text.startswith("/") and not text.startswith("//"):
                    self._dim(self._talk.command(text))
                    continue
                self._answer(text[1:] if text.startswith("//") else text)
            except KeyboardInterrupt:
                write()
                self._dim("Ctrl-D or /exit leaves.")
            except (EOFError, Leave):
                write()
                return
            except (PrecastError, OSError) as error:
                self._console.print(" ".join(str(error).split()), style="red", soft_wrap=True)

    def _read(self) -> str:
        """A message: one line, or several between triple quotes or joined by a backslash at the end."""
        line = input("> ")
        if line.lstrip().startswith('"""'):
            text = line.lstrip()[3:]
            while not text.rstrip().endswith('"""'):
                text += "\n" + input(". ")
            return text.rstrip()[:-3].strip("\n")
        while line.endswith("\\"):
            line = line[:-1] + "\n" + input(". ")
        return line

    def _answer(self, text: str) -> None:
        streamed = StreamedText()
        _, output = self._talk.answer(text, streamed)
        if output is None:
            return
        if output.finish_reasons[0] == "cancelled":
            write()
        self._dim(self._figures(output))

    def _figures(self, output: Any) -> str:
        new, timings = output.new_tokens[0], output.timings
        shown = [f"{new} tokens"]
        if timings.per_step:
            shown.append(f"{1 / timings.per_step:.1f} a second")
        shown.append(f"the first after {timings.first_token:.2f} s")
        held = output.prompt_tokens[0] + new
        shown.append(f"{held:,} of {self._context:,} held" if self._context else f"{held:,} held")
        end = {"length": "cut at --max-new-tokens", "model_length": "the model is full: /clear", "cancelled": "stopped"}
        if (why := end.get(output.finish_reasons[0])) is not None:
            shown.append(why)
        return ", ".join(shown)

    def _dim(self, text: str) -> None:
        self._console.print(text, style="dim", soft_wrap=True)


def _stdin() -> Iterator[str]:
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            yield line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise InputError(f"Messages are UTF-8 text; line {number} of stdin is not: {error.reason}.") from error


def register(app: typer.Typer) -> None:
    app.command(
        short_help="Talk to an artifact.",
        epilog="\b\nExample:\n  precast chat my-gemma\n"
        '  precast chat my-gemma --system "Answer in one sentence." --temperature 0.3\n'
        '  precast chat my-gemma --message "Why is the sky blue?" --json\n'
        '  precast chat my-llava --image cat.jpg --message "What is it doing?"\n'
        "  cat questions.txt | precast chat my-gemma --greedy > answers.txt",
    )(chat)
