"""``precast run``: a pipeline task on the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from precast.runtime.cli.console import guarded, is_picture, note, write, write_json
from precast.runtime.cli.generation import StreamedText, generation_arguments, parameters_of, shown
from precast.runtime.errors import InputError, listing

__all__ = ["register", "run"]


def _tasks() -> list[str]:
    from precast.runtime.tasks import TASKS

    return list(TASKS)


@guarded
def run(
    task: Annotated[
        str,
        typer.Argument(
            metavar="TASK",
            help=f"One of {', '.join(_tasks())}.",
            autocompletion=_tasks,
        ),
    ],
    artifact: Annotated[str, typer.Argument(metavar="ARTIFACT", help="The artifact's folder.")],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT...", help="Texts, or files of pictures or of recordings; - or nothing: the lines of stdin."
        ),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(help="How many answers, best first; of a generation, tokens to draw from.")
    ] = None,
    candidate_labels: Annotated[str | None, typer.Option(help="Labels, separated by commas (zero-shot).")] = None,
    hypothesis_template: Annotated[str | None, typer.Option(help='Such as "It is about {}." (zero-shot).')] = None,
    multi_label: Annotated[bool | None, typer.Option("--multi-label", help="Labels exclude none (zero-shot).")] = None,
    context: Annotated[str | None, typer.Option(help="The text to find answers in (question answering).")] = None,
    question: Annotated[
        str | None, typer.Option(help="What is asked of each picture (tasks of pictures and texts).")
    ] = None,
    context_file: Annotated[str | None, typer.Option(help="The same, from a UTF-8 file.")] = None,
    aggregation_strategy: Annotated[
        str | None, typer.Option(help="none, simple, first, average or max (token classification).")
    ] = None,
    targets: Annotated[str | None, typer.Option(help="Words to choose from, separated by commas (fill-mask).")] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Write text while it is generated.")] = False,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens to generate.")] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="How freely tokens are drawn; 0: the most likely one (generation).")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Draw from the likeliest tokens that sum to this (generation).")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Draw the same tokens every time (generation).")] = None,
    num_beams: Annotated[
        int | None, typer.Option(min=1, help="Search with beams, not by drawing (generation).")
    ] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always the most likely token (generation).")] = False,
    stop: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="End after this text; may be given again (generation).")
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Any parameter of the task; the value is JSON or a text."),
    ] = None,
    input_json: Annotated[
        bool, typer.Option("--input-json", help="Each input is JSON, such as a pair of texts.")
    ] = False,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Most inputs at once. Default: chosen by length.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or tensorrt.")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: all there are.")] = None,
    variant: Annotated[str | None, typer.Option(help="One of the artifact's. Default: the most exact.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document a line for each input.")] = False,
    save: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Draw the result into the picture, write the sound or the subtitles: a file, or a folder for several.",
        ),
    ] = None,
    srt: Annotated[bool, typer.Option("--srt", help="Print subtitles as SubRip (speech recognition).")] = False,
    vtt: Annotated[bool, typer.Option("--vtt", help="Print subtitles as WebVTT (speech recognition).")] = False,
) -> None:
    """Answer a task with an artifact, without PyTorch: one result a line, in the order of the inputs."""
    from precast.runtime.cli.drawn import Drawn, pictures_in
    from precast.runtime.cli.recognition import Transcripts, recognises
    from precast.runtime.cli.sounds import SOUNDS, Sounds
    from precast.runtime.loading import load
    from precast.runtime.readers.image import ImageReader
    from precast.runtime.tasks import TASKS, pipeline

    parameters = parameters_of(param or [])
    given = {
        "candidate_labels": candidate_labels,
        "hypothesis_template": hypothesis_template,
        "multi_label": multi_label,
        "aggregation_strategy": aggregation_strategy,
        "targets": targets.split(",") if targets is not None else None,
    }
    parameters |= {name: value for name, value in given.items() if value is not None}
    generation: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "seed": seed,
        "num_beams": num_beams,
        "greedy": greedy or None,
        "stop": stop or None,
    }
    generation = {name: value for name, value in generation.items() if value is not None}
    if context is not None and context_file is not None:
        raise typer.BadParameter("--context and --context-file say the same: give one of them.")
    if context_file is not None:
        context = _read(context_file)
    inputs = inputs or ["-"]
    if "-" in inputs and sys.stdin.isatty():
        note("Reading lines from the terminal; Ctrl-D ends.")
        batch_size = 1  # each line is answered at once
    name = TASKS.resolve(task)
    together = 1
    reads = TASKS[name].reads
    if issubclass(getattr(reads, "perceived", reads), ImageReader):
        inputs, together = pictures_in(inputs), reads.together
    if together > 1 and "-" not in inputs and not input_json and len(inputs) % together:
        raise InputError(
            f"{name} takes pictures in pairs, one behind the other; received {len(inputs)}: {listing(inputs)}."
        )
    written: Transcripts | None = None
    if srt and vtt:
        raise typer.BadParameter("--srt and --vtt are two forms of subtitles: give one of them.")
    form = "srt" if srt else "vtt" if vtt else None
    if recognises(name):
        written = Transcripts(inputs, form, save, as_json=as_json)
    elif form is not None:
        raise typer.BadParameter(f"--{form} is for automatic-speech-recognition, not for {task}.")
    saved: Drawn | Sounds | None = None
    if save is not None and written is None:
        saved = Sounds(inputs, save) if name in SOUNDS else Drawn(name, inputs, save, together)
    items: Iterable[Any] = _items(inputs)
    if input_json:
        items = map(_decoded, items)
    elif together > 1:
        items = _groups(items, together)

    generates = hasattr(TASKS[name], "stream")
    if written is not None and not stream:
        parameters = generation_arguments(top_k=None, **generation) | parameters
    elif (generation or stream) and not generates:
        option = next(iter(generation), "stream").replace("_", "-")
        raise typer.BadParameter(f"--{option} is for tasks that generate text, not for {task}.")
    if generates:
        parameters = generation_arguments(top_k=top_k, **generation) | parameters
    elif top_k is not None:
        parameters["top_k"] = top_k
    beside = {name: value for name, value in {"context": context, "question": question}.items() if value is not None}
    for option in beside.keys() - set(TASKS[name].beside):
        takers = [other for other in TASKS if option in TASKS[other].beside]
        raise typer.BadParameter(f"--{option} is for {listing(takers)}, not for {task}.")
    model = load(artifact, device=device, threads=threads, variant=variant)
    if written is not None:
        parameters |= written.parameters(parameters, "ctc" in model.tasks)
    answer = pipeline(task, model, batch_size=batch_size, **parameters)
    items = map(partial(answer.line, **beside), items)
    if written is not None:
        written.run(answer, items, inputs)
        return
    if stream:
        _stream(answer, items, seed=parameters.get("seed"), as_json=as_json)
        return
    # An iterator in, an iterator out: answers come as soon as they are there, and one text is like many.
    results = answer(iter(items))
    for result in results:
        if saved is not None:
            saved.add(result)
        if as_json:
            write_json(result, compact=True)
        elif generates:
            for text in _texts(result):
                write(shown(text))
        else:
            for line in _lines(result):
                write(line)


def _items(inputs: list[str]) -> Iterator[str]:
    for item in inputs:
        if item == "-":
            yield from _stdin()
        else:
            yield item


def _groups(items: Iterable[str], count: int) -> Iterator[tuple[str, ...]]:
    """So many at a time that follow each other; what is left over is one that the task refuses."""
    rest = iter(items)
    while group := tuple(islice(rest, count)):
        yield group


def _stdin() -> Iterator[str]:
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            yield line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise InputError(f"Inputs are UTF-8 text; line {number} of stdin is not: {error.reason}.") from error


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"--context-file takes UTF-8 text; {path} is not: {error.reason}.") from error


def _decoded(item: str) -> Any:
    try:
        return json.loads(item)
    except ValueError as error:
        raise InputError(
            f"--input-json takes JSON, such as a text in quotes; received {item[:80]!r}: {error}."
        ) from error


def _stream(answer: Any, items: Iterable[Any], *, seed: Any, as_json: bool) -> None:
    """One input after the other, each answer written while it is made."""
    from precast.runtime.tasks.text_generation import TextGeneration

    whole = isinstance(answer, TextGeneration) and answer.returns_full_text
    for number, item in enumerate(items):
        own = {"seed": seed + number} if isinstance(seed, int) else {}
        before = item if whole and isinstance(item, str) else ""
        StreamedText(as_json=as_json)(answer.stream(item, **own), before=before)


def _texts(result: list[Mapping[str, Any]]) -> Iterator[str]:
    """What a generating task wrote: of a chat, the last message."""
    for entry in result:
        text = entry["generated_text"] if "generated_text" in entry else next(iter(entry.values()))
        if isinstance(text, list) and text and isinstance(text[-1], Mapping):
            text = text[-1]["content"]
        yield text if isinstance(text, str) else " ".join(map(str, text))


def _lines(result: Any) -> Iterator[str]:
    """A result to read: one line for every answer in it."""
    first = result[0] if isinstance(result, list) and result else None
    if isinstance(first, Mapping) or (isinstance(first, list) and first and isinstance(first[0], Mapping)):
        for item in result:
            yield from _lines(item)
    elif isinstance(result, Mapping) and isinstance(result.get("labels"), list):
        for label, score in zip(result["labels"], result["scores"], strict=True):
            yield f"{score:.4f}  {label}"
    elif isinstance(result, Mapping) and isinstance(result.get("masks"), list):
        for mask, score in zip(result["masks"], result["scores"], strict=True):
            yield f"{score:.4f}  {int(mask.sum())} of {mask.size} pixels"
    elif isinstance(result, Mapping):
        score = result.get("score")
        rest = "  ".join(f"{name}: {_shown(value)}" for name, value in result.items() if name != "score")
        yield rest if score is None else f"{score:.4f}  {rest}"
    elif is_picture(result):
        yield f"{result.mode} picture of {result.width} x {result.height}; --json prints its PNG"
    elif hasattr(result, "tolist") or (isinstance(result, list) and result):
        yield _array(result)
    else:
        yield str(result)


def _shown(value: Any) -> Any:
    """One value of an answer, to read: of an array or a picture, how large it is."""
    if is_picture(value):
        return "a picture of {} x {}".format(*value.size)
    return _array(value) if getattr(value, "shape", ()) else value


def _array(value: Any) -> str:
    import numpy as np

    array = np.asarray(value)
    shown = " ".join(f"{number:.4f}" for number in array.reshape(-1)[:6])
    return f"{'x'.join(map(str, array.shape))}: {shown}{' ...' if array.size > 6 else ''}"


def register(app: typer.Typer) -> None:
    app.command(
        short_help="Answer a task with an artifact.",
        epilog='\b\nExample:\n  precast run text-classification sst2 "We are very happy." --top-k 2\n'
        "  cat lines.txt | precast run ner my-ner --aggregation-strategy simple --json\n"
        "  precast run image-classification my-vit cat.jpg --top-k 1\n"
        "  precast run object-detection my-detr photos/ --save drawn/\n"
        '  precast run text-to-speech my-vits "Hello" --save hello.wav\n'
        "  precast run automatic-speech-recognition my-whisper talk.flac --srt --save talk.srt\n"
        '  precast run image-text-to-text my-llava cat.jpg --question "What is it doing?" --stream\n'
        '  precast run question-answering my-qa "Who wrote it?" --context-file book.txt\n'
        '  precast run text-generation my-llama "Once upon a time" --stream --max-new-tokens 60\n'
        '  precast run translation my-nllb "Hello" --param src_lang=eng_Latn --param tgt_lang=fra_Latn',
    )(run)
