"""What ``precast run`` and ``precast chat`` share: options of a generation as its arguments, and streams on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from precast.runtime.cli.console import write_json

__all__ = ["StreamedText", "figures", "generation_arguments", "parameters_of", "shown"]

_KEPT = frozenset("\n\t")


def generation_arguments(
    *,
    max_new_tokens: int | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    num_beams: int | None = None,
    greedy: bool = False,
    stop: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Arguments of a generating pipeline. Who names how to draw wants to draw, and who names beams does not.

    :raises typer.BadParameter: options that exclude each other."""
    if temperature == 0:
        temperature, greedy = None, True
    drawing = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    drawing = {name: value for name, value in drawing.items() if value is not None}
    if greedy and drawing:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in drawing)
        raise typer.BadParameter(f"--greedy takes the most likely token, and {options} say how to draw one.")
    arguments: dict[str, Any] = dict(drawing)
    if drawing:
        arguments["do_sample"] = True
    elif greedy or (num_beams or 1) > 1:
        arguments["do_sample"] = False
    if greedy and num_beams is None:
        arguments["num_beams"] = 1
    given = {"max_new_tokens": max_new_tokens, "seed": seed, "num_beams": num_beams, "stop_sequence": stop or None}
    return arguments | {name: value for name, value in given.items() if value is not None}


def parameters_of(pairs: list[str]) -> dict[str, Any]:
    """``--param KEY=VALUE``, given any number of times; a value ``@FILE`` is the JSON in a file."""
    parameters: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise typer.BadParameter(f"--param takes KEY=VALUE, such as top_k=3; received {pair!r}.")
        try:
            parameters[name] = json.loads(_content(value) if value.startswith("@") else value)
        except ValueError:
            parameters[name] = value
    return parameters


def _content(value: str) -> str:
    """What is in the file of that name; where there is none, the value is a text."""
    path = Path(value[1:])
    return path.read_text(encoding="utf-8") if path.is_file() else value


def shown(text: str) -> str:
    """Text fit for a terminal: without what would steer it."""
    if not sys.stdout.isatty():
        return text
    return "".join(char for char in text if char in _KEPT or not (char < " " or "\x7f" <= char <= "\x9f"))


class StreamedText:
    """Writes the pieces of a stream as they come, flushed; with ``as_json`` a document each, and one for the whole."""

    def __init__(self, *, as_json: bool = False) -> None:
        self._as_json = as_json
        self.text = ""

    def __call__(self, pieces: Any, before: str = "") -> Any:
        """Write ``before`` and all pieces, then end the line; the stream's `GenerateOutput`."""
        with pieces:
            if before and not self._as_json:
                self._write(before)
            for piece in pieces:
                self.text += piece
                if self._as_json:
                    write_json({"text": piece}, compact=True)
                    sys.stdout.flush()
                else:
                    self._write(piece)
        output = pieces.output
        if self._as_json:
            write_json({"generated_text": before + self.text, **figures(output)}, compact=True)
        else:
            self._write("\n")
        return output

    @staticmethod
    def _write(text: str) -> None:
        sys.stdout.write(shown(text))
        sys.stdout.flush()


def figures(output: Any) -> dict[str, Any]:
    """How a generation of one row went."""
    return {
        "finish_reason": output.finish_reasons[0],
        "prompt_tokens": output.prompt_tokens[0],
        "new_tokens": output.new_tokens[0],
        "seconds": round(output.timings.total, 4),
    }
