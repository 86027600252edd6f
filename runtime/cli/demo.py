"""``precast demo``: the main job on real input, from weights to answers."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import Annotated

import typer

from precast.runtime.cli.console import Stages, guarded, size_text, table, write, write_json

__all__ = ["demo", "register"]

_SIDES = ("precast", "eager")


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
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Export the real all-MiniLM-L6-v2, verify it, search a small library with it, and time it beside PyTorch.

    The weights come from the Hub, or without it from the package that precast[demo] brings.
    """
    from precast.runtime.auto import load_exporter

    if chat is not None:
        _chat(chat, out, threads, as_json=as_json)
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


def _cut(text: str, width: int = 60) -> str:
    return text if len(text) <= width else f"{text[: width - 3].rstrip()}..."


def register(app: typer.Typer) -> None:
    app.command(
        short_help="The whole way on real weights.",
        epilog="\b\nExample:\n  precast demo\n  precast demo --out minilm --json\n"
        "  precast demo --chat 'What is the capital of France?'",
    )(demo)
