"""``precast run automatic-speech-recognition``: text as it grows, with a bar over the recording, and subtitles."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from precast.runtime.cli.console import write, write_json
from precast.runtime.cli.drawn import check_writable, unwritable
from precast.runtime.errors import InputError

__all__ = ["SUBTITLES", "Transcripts", "recognises"]

SUBTITLES = ("srt", "vtt")
_TASK = "automatic-speech-recognition"
_SHOWN = 60  # characters of the text so far, beside the bar


def recognises(task: str) -> bool:
    """Whether the task writes down what is said."""
    return task == _TASK


class Transcripts:
    """Recordings written down, one after the other.

    Args:
        form: one of `SUBTITLES`; None: texts.
        place: where subtitles go: a file of one recording, or a folder, which is made; None: they are printed.

    Raises:
        InputError: there is no place for subtitles of several recordings, or it cannot be written.
    """

    def __init__(self, inputs: Sequence[str], form: str | None, place: Path | None, *, as_json: bool) -> None:
        if place is not None and form is None:
            raise InputError("--save writes subtitles here: give --srt or --vtt, too.")
        if form is not None and as_json:
            raise InputError(f"--json and --{form} are two ways to print a transcript: give one of them.")
        if form is not None and place is None and len(inputs) > 1:
            raise InputError(f"Subtitles of {len(inputs)} recordings need a folder: --save FOLDER.")
        self._form, self._as_json = form, as_json
        self._folder = place if place is not None and (len(inputs) > 1 or not place.suffix) else None
        self._file = place if self._folder is None else None
        if self._folder is not None:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise unwritable(self._folder, error) from error
        if place is not None:
            check_writable(self._folder or place.parent, place)

    def parameters(self, answer_of: Mapping[str, Any], spells: bool) -> dict[str, Any]:
        """What is asked of the task: subtitles need timestamps. ``spells``: of every frame, so that words have them."""
        if self._form is None or "return_timestamps" in answer_of:
            return {}
        return {"return_timestamps": "word" if spells else True}

    def run(self, answer: Any, items: Iterable[Any], names: Sequence[str]) -> None:
        """Write down each; one that cannot be read is named, and the others are answered all the same.

        Raises:
            InputError: one could not be.
        """
        failed: list[tuple[str, InputError]] = []
        for number, item in enumerate(items):
            name = names[number] if number < len(names) else str(item)
            try:
                result = self._heard(answer, item)
            except InputError as error:
                if len(names) == 1:
                    raise
                failed.append((name, error))
                continue
            self._put(result, name if len(names) > 1 else "")
        if failed:
            said = "; ".join(f"{name}: {error}" for name, error in failed)
            raise InputError(f"{len(failed)} of {len(names)} recordings were not read: {said}")

    def _heard(self, answer: Any, item: Any) -> Mapping[str, Any]:
        if not sys.stderr.isatty():
            found: Mapping[str, Any] = answer(item)
            return found
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (BarColumn(30), TextColumn("{task.completed:.0f} of {task.total:.0f} s"), TimeRemainingColumn())
        with Progress(*columns, TextColumn("{task.fields[text]}"), console=Console(stderr=True), transient=True) as bar:
            shown = bar.add_task("", total=None, text="")

            def heard(done: float, total: float, text: str) -> None:
                bar.update(shown, completed=done, total=total, text=text[-_SHOWN:])

            answer.recogniser.heard = heard
            try:
                found = answer(item)
            finally:
                answer.recogniser.heard = None
        return found

    def _put(self, result: Mapping[str, Any], name: str) -> None:
        if self._as_json:
            write_json({"file": name, **result} if name else result, compact=True)
            return
        if self._form is None:
            write(f"{name}: {result['text'].strip()}" if name else result["text"].strip())
            return
        from precast.runtime.recognition.subtitles import srt, vtt

        text = (srt if self._form == "srt" else vtt)(result["chunks"])
        target = self._file if self._folder is None else self._folder / f"{Path(name or 'recording').stem}.{self._form}"
        if target is None:
            write(text.rstrip("\n"))
            return
        try:
            target.write_text(text, encoding="utf-8")
        except OSError as error:
            raise unwritable(target, error) from error
