"""``precast demo``: the main job on real input, from weights to answers."""

from __future__ import annotations

import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from precast.runtime.cli.console import Stages, guarded, size_text, table, write, write_json

__all__ = ["demo", "register"]

_SIDES = ("precast", "eager")
_LISTENED_AGAIN = 60.0  # seconds of a recording, of which the time is taken more than once


@guarded
def demo(
    out: Annotated[str | None, typer.Option(help="Keep the artifact in this folder. Default: it is removed.")] = None,
    source: Annotated[
        str | None, typer.Option(help="Another sentence-transformers checkpoint. Default: all-MiniLM-L6-v2.")
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Answers for each query.")] = 2,
    seconds: Annotated[float, typer.Option(min=0.01, help="Time for each point of the timing.")] = 1.5,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: all there are.")] = None,
    chat: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Instead: export the real Gemma 3 270M from its GGUF file, and ask it this."),
    ] = None,
    speech: Annotated[
        bool,
        typer.Option("--speech", help="Instead: export the real Whisper tiny.en, and write down what a man reads."),
    ] = False,
    recording: Annotated[
        str | None, typer.Option(metavar="FILE", help="The same with this recording.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Export the real all-MiniLM-L6-v2, verify it, search a small library with it, and time it beside PyTorch.

    The weights come from the Hub, or without it from the package that precast[demo] brings.
    """
    from precast.runtime.auto import load_exporter

    if chat is not None:
        _chat(chat, out, threads, as_json=as_json)
        return
    if speech or recording is not None:
        _speech(recording, out, seconds, threads, as_json=as_json)
        return
    with Stages() as stage, redirect_stdout(sys.stderr):
        stage("starting PyTorch")
        load_exporter(source or "all-MiniLM-L6-v2")
        from precast.export.demo import demonstrate

        found = demonstrate(out, source=source, progress=stage, top_k=top_k, seconds=seconds, threads=threads)
    if as_json:
        write_json(found)
        return
    cost = found["export"]
    write(
        f"{found['source']}: exported in {cost['seconds']:.1f} s, peak memory "
        f"{size_text(cost['peak_memory_bytes'])}, {size_text(cost['bytes'])} on disk, verified."
    )
    write()
    rows: list[tuple[str, ...]] = []
    for answer in found["search"]:
        for place, hit in enumerate(answer["hits"]):
            rows.append(
                (answer["query"] if place == 0 else "", f"{hit['score']:.3f}", _cut(hit["text"]), hit["source"])
            )
    table(("query", "cosine", "found", "in"), rows, title="Semantic search", numbers=(1,))
    write()
    rows = []
    for variant, entry in found["verify"].items():
        for output, worst in entry.get("outputs", {}).items():
            figures = (f"{worst['max_abs']:.1e}", f"{worst['cosine']:.9f}", f"{worst['excess']:.0%}")
            rows.append((variant, f"{output}, {entry['cases']} recorded inputs", *figures))
    same = found["embeddings"]
    rows.append(
        ("", f"embeddings of these {same['texts']} passages", f"{same['max_abs']:.1e}", f"{same['min_cosine']:.9f}", "")
    )
    columns = ("variant", "beside eager PyTorch", "max abs error", "cosine", "of the gate")
    table(columns, rows, title="Parity", numbers=(2, 3, 4))
    write()
    rows = [
        (
            f"{row['batch']} x {row['length']}",
            *(f"{row[who]['median_ms']:.1f} ({row[who]['p10_ms']:.1f} - {row[who]['p90_ms']:.1f})" for who in _SIDES),
            f"{row['ratio']:.1f} x",
        )
        for row in found["speed"]
    ]
    title = f"Speed, ms of one call, in turns: median (p10 - p90), {found['threads']} threads"
    table(("texts x tokens", "precast", "eager PyTorch", "faster"), rows, title=title, numbers=(1, 2, 3))
    if found["cpu_share"] < 0.9:
        share = f"{found['cpu_share']:.0%} of a core"
        write(f"The machine is busy with something else (one thread got {share}), so these ratios are rough.")
    if found["artifact"]:
        write(f'\nThe artifact is in {found["artifact"]}: precast run sentence-embedding {found["artifact"]} "A text."')


def _chat(question: str, out: str | None, threads: int | None, *, as_json: bool) -> None:
    """From the file with the weights to an answer."""
    from precast.runtime.auto import load_exporter

    with Stages() as stage, redirect_stdout(sys.stderr):
        stage("starting PyTorch")
        load_exporter("Gemma 3 270M")
        from precast.export.demo_chat import STOP, TEMPLATE, cast

        artifact, cost = cast(out, progress=stage)
        stage("loading it")
        from precast.runtime.loading import load
        from precast.runtime.tasks import pipeline

        model = load(artifact, threads=threads, check="size")
        pipe = pipeline("text-generation", model, do_sample=False, max_new_tokens=64, stop_strings=list(STOP))
        pipe.tokenizer.chat_template = TEMPLATE
    from precast.runtime.cli.chat import Talk
    from precast.runtime.cli.generation import figures

    text, output = Talk(pipe, None).answer(question)
    for stop in STOP:
        text = text.partition(stop)[0]
    told = figures(output)
    if as_json:
        write_json({"artifact": str(artifact), "question": question, "answer": text.strip(), "export": cost, **told})
        return
    if cost is not None:
        peak = size_text(cost["peak_memory_bytes"])
        write(f"Gemma 3 270M: exported from GGUF in {cost['seconds']:.0f} s, peak memory {peak}, verified.")
    write(f"> {question}")
    write(text.strip())
    write(f"\nThe artifact is in {artifact}: precast run text-generation {artifact} 'Once upon a time' --stream")


def _speech(recording: str | None, out: str | None, seconds: float, threads: int | None, *, as_json: bool) -> None:
    """From the file with the weights to what is said, and how long that takes."""
    from precast.runtime.auto import load_exporter

    with Stages() as stage, redirect_stdout(sys.stderr):
        stage("starting PyTorch")
        load_exporter("Whisper tiny.en")
        from precast.export.demo_speech import cast, find_recording
        from precast.runtime.processors.audio import open_recording

        source = recording if recording is not None else str(find_recording())
        rate = 16_000
        sound = open_recording(source, rate)  # before minutes are spent on what hears it
        artifact, cost = cast(out, progress=stage)
        from precast.runtime.backends.onnxruntime import default_threads
        from precast.runtime.loading import load
        from precast.runtime.tasks import pipeline
        from precast.runtime.timing import Timing, interleave
        from precast.runtime.verify import verify

        report = verify(artifact, threads=threads, progress=lambda told: stage(f"verify: {told}"))
        stage("loading it")
        pipe = pipeline("automatic-speech-recognition", load(artifact, threads=threads, check="size"))
        stage("listening")
        began = time.perf_counter()
        said = pipe(sound, return_timestamps=True)
        once = time.perf_counter() - began
        length = len(sound) / rate
        short = length <= _LISTENED_AGAIN
        taken = interleave({"heard": lambda: pipe(sound)}, seconds=seconds)["heard"] if short else Timing.of([once])
    found = {
        "artifact": str(artifact),
        "recording": source,
        "seconds": round(length, 3),
        **said,
        "export": cost,
        "verify": report["variants"],
        "speed": {**taken.to_json(), "times_real_time": float(f"{length / taken.median:.4g}")},
        "threads": threads or default_threads(),
    }
    if as_json:
        write_json(found)
        return
    if cost is not None:
        peak = size_text(cost["peak_memory_bytes"])
        write(f"Whisper tiny.en: exported in {cost['seconds']:.0f} s, peak memory {peak}, verified.\n")
    rows = [(_span(chunk["timestamp"]), chunk["text"].strip()) for chunk in said["chunks"]]
    table(("seconds", "said"), rows, title=Path(source).name, numbers=(0,))
    spread = f"{taken.median:.2f} s ({taken.low:.2f} - {taken.high:.2f})" if short else f"{taken.median:.1f} s"
    write(
        f"\n{length:.1f} s of sound in {spread}: {length / taken.median:.1f} times as fast as it was said, from "
        f"samples to text, {found['threads']} threads."
    )
    write(f"\nThe artifact is in {artifact}: precast run automatic-speech-recognition {artifact} talk.wav --srt")


def _span(timestamp: tuple[float | None, float | None]) -> str:
    return " - ".join("" if time is None else f"{time:.2f}" for time in timestamp)


def _cut(text: str, width: int = 60) -> str:
    return text if len(text) <= width else f"{text[: width - 3].rstrip()}..."


def register(app: typer.Typer) -> None:
    app.command(
        short_help="The whole way on real weights.",
        epilog="\b\nExample:\n  precast demo\n  precast demo --out minilm --json\n"
        "  precast demo --chat 'What is the capital of France?'\n"
        "  precast demo --speech",
    )(demo)
