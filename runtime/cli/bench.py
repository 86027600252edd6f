"""``precast bench``: one artifact's latency, throughput and memory, its parity error in the same row."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from precast.runtime.cli.console import Stages, guarded, peak_memory, size_text, table, write, write_json

if TYPE_CHECKING:
    from precast.runtime.model import Model

__all__ = ["bench", "make_inputs", "measure", "register"]


@guarded
def bench(
    artifact: Annotated[str, typer.Argument(metavar="ARTIFACT", help="The artifact's folder.")],
    batch: Annotated[str, typer.Option(help="Batch sizes, separated by commas.")] = "1,8",
    length: Annotated[str, typer.Option(help="Lengths in tokens, separated by commas.")] = "16,128",
    variant: Annotated[str | None, typer.Option(help="Only this one. Default: all that can run here.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or tensorrt.")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: all there are.")] = None,
    seconds: Annotated[float, typer.Option(min=0.01, help="Time for each point, after warming up.")] = 2.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Time an artifact: medians and spread for each batch size and length, throughput, memory, and its parity error.

    "call" is what calling the model costs beside the bare session.run: input checks and the dictionary of outputs.
    """
    batches, lengths = _numbers(batch, "--batch"), _numbers(length, "--length")
    from precast.runtime.artifact import Artifact

    opened = Artifact.open(artifact)
    component = opened.component_for(None)
    target = device.partition(":")[0]
    names = (
        [variant] if variant else [entry.name for entry in opened.variants(component.name) if entry.target == target]
    )
    if not names:
        names = [opened.choose_variant(component.name, target=target).name]  # says what there is instead
    from precast.runtime.errors import DependencyError, ProviderError

    document: dict[str, Any] = {"artifact": artifact, "digest": opened.digest, **_machine(threads)}
    rows: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}
    with Stages() as stage:
        for name in names:
            try:
                rows += measure(artifact, name, batches, lengths, device, threads, seconds, stage)
            except (DependencyError, ProviderError) as error:
                if len(names) == 1:
                    raise
                skipped[name] = str(error)
    if not rows:
        raise ProviderError("; ".join(skipped.values()))
    document |= {"rows": rows, "skipped": skipped}
    if as_json:
        write_json(document)
        return
    write(f"{artifact} on {document['cpu']}, {document['threads']} threads, onnxruntime {document['onnxruntime']}")
    columns = (
        "variant",
        "batch x length",
        "median ms",
        "p10 - p90",
        "texts/s",
        "tokens/s",
        "call us",
        "peak",
        "max abs error",
    )
    table(columns, [_shown(row) for row in document["rows"]], numbers=range(2, 9))
    for name, reason in skipped.items():
        write(f"{name} was left out: {reason}")


def measure(
    artifact: str,
    variant: str,
    batches: list[int],
    lengths: list[int],
    device: str,
    threads: int | None,
    seconds: float,
    stage: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    """One row a point; a length that the model does not take is an error."""
    from precast.runtime.errors import InputError
    from precast.runtime.inspection import worst_errors
    from precast.runtime.model import load
    from precast.runtime.timing import interleave

    stage(f"loading {variant}")
    model = load(artifact, device=device, threads=threads, variant=variant, check="size")
    if model.max_length is not None and max(lengths) > model.max_length:
        raise InputError(f"This model takes {model.max_length} tokens; --length has {max(lengths)}. Leave that out.")
    errors = worst_errors(model.variant.parity)
    for batch in batches:
        for length in lengths:
            stage(f"{variant}: {batch} x {length}")
            feed = make_inputs(model, batch, length)
            hollow = _without_kernels(model, feed)
            with _peak() as peak:
                timed = interleave({"call": partial(model, **feed)}, seconds=seconds)["call"]
            overhead = interleave({"call": partial(hollow, **feed)}, seconds=0.05)["call"]
            yield {
                "variant": variant,
                "batch": batch,
                "length": length,
                **timed.to_json(),
                "texts_per_second": batch / timed.median,
                "tokens_per_second": batch * length / timed.median,
                "call_overhead_us": overhead.median * 1e6,
                "peak_memory_bytes": peak(),
                "max_abs": errors.get("max_abs"),
                "cosine": errors.get("cosine"),
            }


def make_inputs(model: Model, batch: int, length: int) -> dict[str, Any]:
    """Random ids within the model's vocabulary and a full mask, int64 [B, S] ([B, 2, S] for multiple choice)."""
    import numpy as np

    rng = np.random.default_rng(0)
    inputs: dict[str, Any] = {}
    for spec in model.component.inputs:
        shape = tuple({"batch": batch, "choices": 2, "sequence": length}[str(dim)] for dim in spec.shape)
        if spec.name == "input_ids":
            inputs[spec.name] = rng.integers(0, int(model.component.limits["vocab_size"]), shape, dtype=np.int64)
        else:
            inputs[spec.name] = (np.ones if spec.name == "attention_mask" else np.zeros)(shape, np.int64)
    return inputs


def _without_kernels(model: Model, feed: Mapping[str, Any]) -> Callable[..., Any]:
    """The same call with a session whose run returns at once: everything but the bare ``session.run``.

    A difference of two measurements would drown in the kernels' own noise, a thousand times larger.
    """
    runner, hollow = copy.copy(model._runner), copy.copy(model)
    result = model._runner.run(model._checked(feed))
    runner._run = lambda outputs, inputs: result  # type: ignore[attr-defined]
    hollow._runner, hollow._run = runner, runner.run
    return hollow


@contextmanager
def _peak() -> Iterator[Callable[[], int]]:
    """The largest resident size while this lasts, where the system can count anew; else since the process began."""
    with suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # proc(5): reset the peak resident set size

    def read() -> int:
        with suppress(OSError, ValueError, StopIteration), open("/proc/self/status", encoding="ascii") as file:
            return int(next(line for line in file if line.startswith("VmHWM:")).split()[1]) * 1024
        return peak_memory()

    yield read


def _machine(threads: int | None) -> dict[str, Any]:
    from precast.runtime.backends.onnxruntime import default_threads, engine
    from precast.runtime.machine import cpu_name

    return {"cpu": cpu_name(), "threads": threads or default_threads(), "onnxruntime": engine().__version__}


def _numbers(text: str, option: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) for part in parts):
        raise typer.BadParameter(f"{option} takes whole numbers separated by commas, such as 1,8; received {text!r}.")
    return [int(part) for part in parts]


def _shown(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        row["variant"],
        f"{row['batch']} x {row['length']}",
        f"{row['median_ms']:.2f}",
        f"{row['p10_ms']:.2f} - {row['p90_ms']:.2f}",
        f"{row['texts_per_second']:.1f}",
        f"{row['tokens_per_second']:.0f}",
        f"{row['call_overhead_us']:.0f}",
        size_text(row["peak_memory_bytes"]),
        "" if row["max_abs"] is None else f"{row['max_abs']:.1e}",
    )


def register(app: typer.Typer) -> None:
    app.command(
        short_help="Time an artifact.",
        epilog="\b\nExample:\n  precast bench minilm --batch 1,8 --length 16,128,384 --threads 2",
    )(bench)
