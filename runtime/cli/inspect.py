"""``precast inspect``: what is in an artifact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from precast.runtime.cli.console import guarded, size_text, table, write, write_json
from precast.runtime.errors import listing

__all__ = ["inspect", "register"]


@guarded
def inspect(
    artifact: Annotated[str, typer.Argument(metavar="ARTIFACT", help="The artifact's folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show what is in an artifact: tasks, variants, operators, errors, sizes. Its digests are checked first."""
    from precast.runtime.artifact import Artifact
    from precast.runtime.artifact.manifest import calibrated
    from precast.runtime.inspection import summary
    from precast.runtime.metrics import METRICS, judgements
    from precast.runtime.report import LOSSES

    opened = Artifact.open(artifact)
    found = summary(opened)
    if as_json:
        write_json(found)
        return
    source, size, cost = found["source"], found["size"], found["cost"]
    producer = ", ".join(f"{name} {version}" for name, version in found["producer"].items())
    at = f" at {source['revision']}" if source["revision"] else ""
    facts = {
        "artifact": found["path"],
        "digest": found["digest"],
        "model": f"{found['model_type']}, from {source['id']}{at}",
        "tasks": ", ".join(found["tasks"]),
        "made by": producer,
        "size": f"{size_text(size['total'])} in {size['files']} files, weights {size_text(size['weights'])}",
    }
    if "seconds" in cost:
        facts["export took"] = f"{cost['seconds']:.1f} s, peak memory {size_text(cost.get('peak_memory_bytes', 0))}"
    for kind, said in found["reads"].items():
        facts[f"reads {kind}"] = f"into {said['port']}, {_reading(said)}"
    if isinstance(found["cross_encoder"], Mapping):
        facts["scores"] = f"of a CrossEncoder are {found['cross_encoder'].get('activation_fn')} of the logits"
    unread = {
        "of config.json, as no transformers model reads it": found["ignored_config"],
        "of generation_config.json, as upstream": found["ignored_generation_config"],
        "of the weights, which this model does not have": found["ignored_weights"],
    }
    if any(unread.values()):
        facts["not read"] = "; ".join(f"{where}: {listing(names, 12)}" for where, names in unread.items() if names)
    for name, value in facts.items():
        write(f"{name + ':':<13}{value}")
    for name, component in found["components"].items():
        write()
        for direction in ("inputs", "outputs"):
            shown = ", ".join(_tensor(spec) for spec in component[direction])
            write(f"{f'{name} {direction}:':<17} {shown}")
        limits = ", ".join(_dim(key, value) for key, value in component["dims"].items())
        write(f"{f'{name} limits:':<17} {limits or 'none'}")
        feeds = ", ".join(f"{port} from {source}" for port, source in component["feeds"].items())
        if feeds:
            write(f"{f'{name} is fed:':<17} {feeds}")
        table(
            ("variant", "provider", "graph", "weights", "worst max abs", "worst cosine"),
            [_variant(variant, entry) for variant, entry in component["variants"].items()],
            numbers=(2, 3, 4, 5),
        )
        for variant, entry in component["variants"].items():
            operators = ", ".join(f"{count} {operator}" for operator, count in entry["operators"].items())
            write(f"{variant} operators: {operators}")
            for metric, found in judgements(entry).items():
                write(f"{variant} beside the reference: {METRICS[metric].in_words(found)}")
            for output, found in entry.get("conditioning", {}).items():
                write(f"{variant} conditioning: {output} {_strained(found)}")
            if "work" in entry:
                write(f"{variant} work: {_work(entry['work'])}")
    for variant, made in calibrated(opened.manifest).items():
        source = f"{made.samples} samples of {made.data}" if made.sha256 else "inputs that were made up"
        lost = LOSSES.get(made.metric, made.metric)
        write(f"{variant} was quantised on {source}: {lost} {made.loss:.4%}, by the way {made.method!r}")


def _reading(said: Mapping[str, Any]) -> str:
    """By what inputs of a kind are read."""
    if "missing" in said:
        return f"which a caller fills: {said['missing']}"
    if "files" in said:
        return f"with {listing(said['files'])}"
    return "; ".join(
        " ".join((step["op"], *(f"{name} {value}" for name, value in step.items() if name != "op")))
        for step in said["steps"]
    )


def _tensor(spec: Mapping[str, Any]) -> str:
    shape = ", ".join(map(str, spec["shape"]))
    facts = [spec["kind"]] if spec.get("kind") else []
    facts += [f"below {spec['below']}"] if "below" in spec else []
    said = f" ({', '.join(facts)})" if facts else ""
    return f"{spec['name']}{'?' if spec.get('optional') else ''} {spec['dtype']}[{shape}]{said}"


def _dim(name: str, dim: Mapping[str, Any]) -> str:
    least, most, multiple = dim["least"], dim["most"], dim["multiple"]
    steps = f" in steps of {multiple}" if multiple > 1 else ""
    return f"{name} {least} to {most}{steps}" if most is not None else f"{name} from {least} on{steps}"


def _strained(found: Mapping[str, float]) -> str:
    return (
        f"in eager float32 is up to {found['eager_error']:.1e} from float64 itself: the distance from it was held to "
        f"{found['bound']:.1e}"
    )


def _work(work: Mapping[str, Any]) -> str:
    at = ", ".join(f"{name} {size}" for name, size in work["at"].items())
    least = " or more" if work["uncounted"] else ""
    return f"{work['flops'] / 1e9:.3g} GFLOP{least} a call of {at}; {size_text(work['bytes'])} to be read and written"


def _variant(name: str, entry: Mapping[str, Any]) -> tuple[str, ...]:
    errors, size = entry["errors"], entry["size"]
    worst = f"{errors['max_abs']:.1e}" if "max_abs" in errors else ""
    cosine = f"{errors['cosine']:.9f}" if "cosine" in errors else ""
    return name, entry["provider"], size_text(size["graph"]), size_text(size["weights"]), worst, cosine


def register(app: typer.Typer) -> None:
    app.command(
        short_help="Show what is in an artifact.",
        epilog="\b\nExample:\n  precast inspect minilm\n  precast inspect minilm --json | jq .components",
    )(inspect)
