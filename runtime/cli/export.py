"""``precast export``: a checkpoint to a verified artifact."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from typing import Annotated, Any

import typer

from precast.runtime.cli.console import Stages, guarded, size_text, table, write, write_json
from precast.runtime.errors import listing

__all__ = ["export", "register"]


@guarded
def export(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A checkpoint's folder, a .gguf file, or a Hub id.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="The artifact's folder, which does not exist yet.")],
    task: Annotated[str | None, typer.Option(help="What to export it for. Default: what config.json says.")] = None,
    precision: Annotated[str, typer.Option(help="fp32, int8 or int4: what weights have.")] = "fp32",
    target: Annotated[str, typer.Option(help="cpu, cuda or tensorrt: what it runs on.")] = "cpu",
    cache: Annotated[
        str | None, typer.Option(help="int8: a language model's keys and values in 8 bits. Default: float32.")
    ] = None,
    add: Annotated[bool, typer.Option("--add", help="Put a further variant into the artifact at OUT.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the artifact at OUT.")] = False,
    revision: Annotated[str | None, typer.Option(help="A branch, tag or commit of the Hub id.")] = None,
    token: Annotated[str | None, typer.Option(help="For the Hub. Default: HF_TOKEN, or `hf auth login`.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Turn a checkpoint into a verified artifact. Nothing is published unless it computes what the checkpoint does."""
    if add and overwrite:
        raise typer.BadParameter("--add keeps what is there, --overwrite replaces it: give one of them.")
    from precast.runtime.auto import load_exporter
    from precast.runtime.metrics import METRICS

    with Stages() as stage, redirect_stdout(sys.stderr):
        stage("starting PyTorch")
        export_model = load_exporter(source)
        path = export_model(
            source,
            out,
            task=task,
            precision=precision,
            target=target,
            cache=cache,
            add=add,
            overwrite=overwrite,
            revision=revision,
            token=token,
            progress=stage,
        )
    # What was written has just been read back whole.
    summary = summarise(path, target, precision)
    if as_json:
        write_json(summary)
        return
    cost = summary["cost"]
    tasks = ", ".join(summary["tasks"])
    write(f"{summary['artifact']}: {summary['model_type']} for {tasks}, {size_text(summary['bytes'])}")
    rows = []
    for variant, outputs in summary["parity"].items():
        if any(variant in summary[metric] for metric in METRICS):  # of low precision: the largest error says little
            continue
        for name, worst in outputs.items():
            errors = (f"{worst['error']:.1e}", f"{worst['reference_error']:.1e}")
            rows.append((variant, name, f"{worst['max_abs']:.1e}", f"{worst['cosine']:.9f}", *errors))
    columns = ("variant", "output", "max abs error", "cosine", "error to float64", "eager's own")
    if rows:
        table(columns, rows, title="Verified against eager PyTorch", numbers=(2, 3, 4, 5))
    for metric, judged in METRICS.items():
        for variant, found in summary[metric].items():
            write(f"{variant}, beside eager PyTorch: {judged.in_words(found)}")
            for note, count in summary["declined"][variant].items():
                write(f"  {count} x {note}")
    for note in _notes(summary):
        write(note)
    write(f"Took {cost['seconds']:.1f} s, peak memory {size_text(cost['peak_memory_bytes'])}.")
    write(f"Try it: {_first_use(path, summary)}")


def _first_use(path: Any, summary: Mapping[str, Any]) -> str:
    """A command to begin with, which works with what is in the artifact."""
    task, without = summary["tasks"][0], f"precast verify {path}"
    if any("missing" in said for said in summary["reads"].values()):
        return without  # a task needs all its readers
    if "image" in summary["reads"]:
        from precast.runtime.artifact import Artifact
        from precast.runtime.tasks import TASKS

        if task == "image-text-to-text" and not Artifact.open(path, check="size").reading("join"):
            task = "image-to-text"  # what writes of a picture alone
        if task not in TASKS or task == "feature-extraction":
            return without
        more = ' --question "What is this?"' if "question" in TASKS[task].beside else ""
        more = ' --candidate-labels "cat,dog"' if task.startswith("zero-shot") else more
        return f"precast run {task} {path} cat.jpg{more}"
    if task in ("text-generation", "fill-mask"):
        from precast.runtime.auto import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(path)
        if task == "text-generation":
            chats = tokenizer.chat_template is not None
            return f"precast chat {path}" if chats else f'precast run {task} {path} "Once upon a time" --stream'
        return without if tokenizer.mask_token is None else f'precast run {task} {path} "Some {tokenizer.mask_token}."'
    if task == "question-answering":
        return f'precast run {task} {path} "Who wrote it?" --context "Ada wrote it."'
    from precast.runtime.tasks import TASKS

    if summary["embedding"]:
        task = "sentence-embedding"
    elif task not in TASKS:
        return without
    return f'precast run {task} {path} "Some text."'


def _notes(summary: Mapping[str, Any]) -> Iterator[str]:
    """What a user would otherwise find out later."""
    for kind, noun, given in (("text", "tokenizer", "token ids"), ("image", "image processor", "pixel values")):
        said = summary["reads"].get(kind, {})
        if "missing" in said:
            yield f"No {noun}: {said['missing'].rstrip('.')}."
            yield f"  The model takes {given}: precast.load(...)({said['port']}=...)."
    for file, names in summary["ignored"].items():
        yield f"Ignored in {file}, as upstream does: {listing(names, 8)}"


def summarise(path: Any, target: str, precision: str) -> dict[str, Any]:
    """What an export reports: what is in the artifact now, and what the variants just made have to show."""
    from precast.runtime.artifact import Artifact
    from precast.runtime.metrics import METRICS

    artifact = Artifact.open(path, check="size")
    processing = artifact.manifest.processing
    variants = artifact.variants(artifact.component_for(None).name)
    made = [variant for variant in variants if (variant.target, variant.precision) == (target, precision)]
    return {
        "artifact": str(path),
        "digest": artifact.digest,
        "model_type": artifact.manifest.model_type,
        "tasks": list(artifact.tasks),
        "tokenizer": dict(processing.get("tokenizer") or {}),
        "reads": artifact.reads,
        "embedding": processing.get("embedding") is not None,
        "ignored": {
            file: list(processing[key])
            for key, file in (
                ("ignored_config", "config.json"),
                ("ignored_generation_config", "generation_config.json"),
            )
            if processing.get(key)
        },
        "variants": [variant.name for variant in variants],
        "bytes": sum(record.size for record in artifact.manifest.files.values()),
        "parity": {variant.name: dict(variant.parity.get("worst", {})) for variant in made},
        **{
            metric: {variant.name: dict(variant.parity[metric]) for variant in made if metric in variant.parity}
            for metric in METRICS
        },
        "declined": {
            variant.name: {
                reason: count
                for step in variant.recipe
                if step["pass"].startswith("QuantizeWeights")
                for reason, count in step["declined"].items()
            }
            for variant in made
        },
        "cost": dict(artifact.manifest.cost),
    }


def register(app: typer.Typer) -> None:
    app.command(
        epilog="\b\nExample:\n  precast export sentence-transformers/all-MiniLM-L6-v2 minilm\n"
        "  precast export ./my-checkpoint classifier --task text-classification --json"
    )(export)
