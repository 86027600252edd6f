"""``precast export``: a checkpoint to a verified artifact."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import Annotated, Any

import typer

from precast.runtime.cli.console import Stages, guarded, size_text, table, write, write_json
from precast.runtime.errors import PrecastError

__all__ = ["export", "register"]


@guarded
def export(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A checkpoint's folder, a .gguf file, or a Hub id.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="The artifact's folder, which does not exist yet.")],
    task: Annotated[str | None, typer.Option(help="What to export it for. Default: what config.json says.")] = None,
    precision: Annotated[str, typer.Option(help="fp32; of a language model's weights also int8 or int4.")] = "fp32",
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
    from precast.runtime.divergence import told

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
        if variant in summary["divergence"]:  # of low precision: a logit's largest error says little
            continue
        for name, worst in outputs.items():
            errors = (f"{worst['error']:.1e}", f"{worst['reference_error']:.1e}")
            rows.append((variant, name, f"{worst['max_abs']:.1e}", f"{worst['cosine']:.9f}", *errors))
    columns = ("variant", "output", "max abs error", "cosine", "error to float64", "eager's own")
    if rows:
        table(columns, rows, title="Verified against eager PyTorch", numbers=(2, 3, 4, 5))
    for variant, found in summary["divergence"].items():
        write(f"{variant}, beside eager PyTorch: {told(found)}")
        for note, count in summary["declined"][variant].items():
            write(f"  {count} x {note}")
    write(f"Took {cost['seconds']:.1f} s, peak memory {size_text(cost['peak_memory_bytes'])}.")
    write(f"Try it: {_first_use(path, summary['tasks'][0])}")


def _first_use(path: Any, task: str) -> str:
    """A command to begin with."""
    if task != "text-generation":
        return f'precast run {task} {path} "Some text."'
    from precast.runtime.auto import AutoTokenizer

    try:
        chats = AutoTokenizer.from_pretrained(path).chat_template is not None
    except PrecastError:
        chats = False
    return f"precast chat {path}" if chats else f'precast run {task} {path} "Once upon a time" --stream'


def summarise(path: Any, target: str, precision: str) -> dict[str, Any]:
    """What an export reports: what is in the artifact now, and what the variants just made have to show."""
    from precast.runtime.artifact import Artifact

    artifact = Artifact.open(path, check="size")
    variants = artifact.variants(artifact.component_for(None).name)
    made = [variant for variant in variants if (variant.target, variant.precision) == (target, precision)]
    return {
        "artifact": str(path),
        "digest": artifact.digest,
        "model_type": artifact.manifest.model_type,
        "tasks": list(artifact.tasks),
        "variants": [variant.name for variant in variants],
        "bytes": sum(record.size for record in artifact.manifest.files.values()),
        "parity": {variant.name: dict(variant.parity.get("worst", {})) for variant in made},
        "divergence": {
            variant.name: dict(variant.parity["divergence"]) for variant in made if "divergence" in variant.parity
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
