"""What the constants of the float32 gate stand on: right models that pass it, planted faults that do not.

Every model is journalled as it is done, so that a run can be cut off and taken up again; the record holds counts and
distributions.
"""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.planted_faults import FAULTS
from benchmarks.right_models import STRAINS, Kind, Traced, graphs_of, kinds, recipes, redraw, run_graphs
from precast.export import parity
from precast.runtime.errors import PrecastError
from precast.runtime.gates import CALM, STRAINED, Measured, broken, populations, settled
from precast.runtime.parity import Recorded

__all__ = ["FAULTY", "faults_of", "models_of", "run", "summary"]

# Kinds that faults are planted in: between them they have all that a fault can be planted in.
FAULTY = (
    *("bert text-classification tiny", "deberta-v2 feature-extraction variation 1", "mpnet feature-extraction tiny"),
    *("modernbert feature-extraction tiny", "albert fill-mask tiny", "distilbert question-answering tiny"),
    *("llama text-generation tiny", "gemma3_text text-generation variation 1", "gpt2 text-generation tiny"),
    *("mistral text-generation tiny", "gptj text-generation tiny", "bloom text-generation tiny"),
    *("opt text-generation tiny", "mixtral text-generation tiny", "mamba text-generation tiny"),
    *("t5 text2text-generation tiny", "bart text2text-generation tiny", "qwen2 text-generation tiny"),
    *("vit image-classification tiny", "clip zero-shot-image-classification tiny"),
)
# In these also where wide norms strain float32: a fault of the same size is nearer to eager's error there.
_STRAINED = ("bert text-classification tiny", "llama text-generation tiny", "t5 text2text-generation tiny")
_DRAWS = 4  # of each strain, before the next kind's turn


def models_of(traced: Traced, seeds: Sequence[int], strains: Sequence[str] = STRAINS) -> Iterator[dict[str, Any]]:
    """Right models of one kind: each draw of weights with each recipe and instruction set.

    Yields: ``kind``, ``strain``, ``seed``, ``recipe``, ``isa``, ``doubted`` (eager had to be summed in other orders,
    too), ``broken`` (what the gate says), ``ratios`` of ours to
    eager's by output (``rms``, ``largest`` and ``answer``) and ``strained``: eager is a quarter of the allowed off.
    """
    cases = traced.cases()
    for seed in seeds:
        for strain in strains:
            redraw(traced.model, seed, strain)
            recorded = parity.record(traced.parts, cases)
            what = {"kind": str(traced.kind), "strain": strain, "seed": seed}
            if not all(np.isfinite(array).all() for item in recorded for array in item.exact.values()):
                yield {**what, "skipped": "its outputs are not finite in float64"}
                continue
            graphs, orders = traced.graphs(), _orders(traced, recorded)
            for recipe, isas in recipes():
                with graphs_of(graphs, recipe) as files:
                    for isa in isas:
                        measured = run_graphs(files, traced.parts, recipe, isa, recorded)
                        doubted = bool(broken("fp32", measured))
                        if doubted:  # as an export does
                            measured = settled(measured, orders())
                        yield {**what, "recipe": recipe.variant, "isa": isa, "doubted": doubted, **_judged(measured)}


def faults_of(
    traced: Traced, names: Sequence[str] = tuple(FAULTS), seed: int = 1, strain: str = STRAINS[0]
) -> Iterator[dict[str, Any]]:
    """Faults planted in one model of a kind, each alone.

    Yields: ``kind``, ``fault``, ``moved`` (by how many times eager's largest error it moves an output at most, as the
    same kernels compute it), ``refused`` and ``shares`` of the bounds. Faults that have no place there are left out.
    """
    redraw(traced.model, seed, strain)
    recorded = parity.record(traced.parts, traced.cases())
    recipe, (isa, *_) = recipes()[0]
    with graphs_of(traced.graphs(), recipe) as files:
        right = run_graphs(files, traced.parts, recipe, isa, recorded)
    orders = _orders(traced, recorded)
    for name in names:
        graphs = traced.graphs()
        planted = [FAULTS[name](graph.graph) for graph in graphs.values()]
        if not any(planted):
            continue
        what = {"kind": str(traced.kind), "strain": strain, "fault": name}
        try:
            with graphs_of(graphs, recipe) as files:
                wrong = run_graphs(files, traced.parts, recipe, isa, recorded)
        except (PrecastError, ValueError) as error:
            yield {**what, "built": False, "why": str(error)[:200]}
            continue
        if broken("fp32", wrong):  # as an export does
            wrong = settled(wrong, orders())
        moved = max(
            _moved(one.largest("error"), two.largest("error"), two.largest("reference_error"))
            for one, two in zip(populations(right), populations(wrong), strict=True)
        )
        shares = {
            key: max(item.shares.get(key, 0.0) for item in populations(wrong)) for key in ("rms", "largest", "answer")
        }
        rounded = {key: float(f"{value:.3g}") for key, value in shares.items()}
        yield {**what, "moved": float(f"{moved:.3g}"), "refused": bool(broken("fp32", wrong)), "shares": rounded}


def _orders(traced: Traced, recorded: Sequence[Recorded]) -> Callable[[], list[Any]]:
    """Eager in other orders of its sums, when first asked for."""
    return cache(lambda: list(parity.reordered(traced.parts, recorded)))


def _moved(right: float, wrong: float, eager: float) -> float:
    """A fault moves float64 at least by what its error is above the right model's, in eager's largest errors."""
    return (wrong - right) / eager if eager > 0 else float(wrong > right)


def _judged(measured: Sequence[Measured]) -> dict[str, Any]:
    found = populations(measured)
    eager = {item.name: item.largest("reference_error") for item in found}
    return {
        "broken": broken("fp32", measured),
        "strained": any(item.strained for item in found),
        "shares": {item.name: {key: float(f"{value:.4g}") for key, value in item.shares.items()} for item in found},
        "ratios": {
            item.name: {
                "rms": float(f"{item.rms('rms') / item.rms('reference_rms'):.4g}"),
                "largest": float(f"{item.largest('error') / eager[item.name]:.4g}"),
                "answer": float(f"{item.largest('max_abs') / eager[item.name]:.4g}"),
            }
            for item in found
            if eager[item.name] > 0
        },
    }


def run(
    journal: Path, *, models: int, seed: int, faults: bool, say: Callable[[str], None], chosen: Sequence[Kind] = ()
) -> list[dict[str, Any]]:
    """Go on from what ``journal`` holds until there are so many right models, and every fault was planted.

    The kinds take turns in an order that ``seed`` gives, each with a few draws of its weights.
    """
    done = [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
    known = list(chosen or kinds())
    random.Random(seed).shuffle(known)
    met: Counter[str] = Counter()
    turns = {kind: met.update([kind.model_type]) or met[kind.model_type] for kind in known}
    known.sort(key=turns.__getitem__)  # one of every family before another of any
    counted = sum("recipe" in entry for entry in done)
    with journal.open("a") as file:

        def keep(entry: Mapping[str, Any]) -> None:
            done.append(dict(entry))
            file.write(json.dumps(entry) + "\n")
            file.flush()

        for kind in known if faults else ():
            if str(kind) in FAULTY and not any(e["kind"] == str(kind) and "fault" in e for e in done):
                say(f"faults in {kind}")
                traced = Traced.of(kind)
                for strain in STRAINS[: 2 if str(kind) in _STRAINED else 1]:
                    for entry in list(faults_of(traced, strain=strain)):
                        keep(entry)
        for turn in range(models):
            for place, kind in enumerate(known):
                if counted >= models:
                    return done
                seeds = [seed + turn * _DRAWS + draw for draw in range(_DRAWS)]
                if any(e["kind"] == str(kind) and e.get("seed") == seeds[0] for e in done):
                    continue
                say(f"{counted} right models; now {kind}")
                # Two of the strains each time: plain weights always, and each way to be wide in its turn.
                for entry in list(models_of(Traced.of(kind), seeds, (STRAINS[0], STRAINS[1 + (place + turn) % 3]))):
                    keep(entry)
                    counted += "recipe" in entry
    return done


def summary(done: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts and distributions of what was done, for the record."""
    right = [entry for entry in done if "recipe" in entry]
    faults = [entry for entry in done if "fault" in entry]
    return {
        "constants": {"calm": asdict(CALM), "strained": asdict(STRAINED)},
        "right": {
            "models": len(right),
            "kinds": len({entry["kind"] for entry in right}),
            "families": len({entry["kind"].split()[0] for entry in right}),
            "instructions": sorted({str(entry["isa"] or entry["recipe"]) for entry in right}),
            "strained": sum(entry["strained"] for entry in right),
            "doubted": sum(entry.get("doubted", False) for entry in right),
            "not_finite": sum("skipped" in entry for entry in done),
            "ratios": {
                "plain": _distributions([entry for entry in right if not entry["strained"]], "ratios"),
                "strained": _distributions([entry for entry in right if entry["strained"]], "ratios"),
            },
            "shares": _distributions(right, "shares"),
            "refused": [
                {key: entry[key] for key in ("kind", "strain", "seed", "recipe", "isa", "broken")}
                for entry in right
                if entry["broken"]
            ],
        },
        "faults": {
            name: _planted([entry for entry in faults if entry["fault"] == name])
            for name in FAULTS
            if any(entry["fault"] == name for entry in faults)
        },
    }


def _distributions(entries: Sequence[Mapping[str, Any]], figure: str) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for key in ("rms", "largest", "answer"):
        values = [output[key] for entry in entries for output in entry[figure].values() if key in output]
        if values:
            marks = dict(zip(("median", "p90", "p99", "p999", "most"), (50, 90, 99, 99.9, 100), strict=True))
            found[key] = {name: float(f"{np.percentile(values, at):.3g}") for name, at in marks.items()}
    return found


def _planted(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    built = [entry for entry in entries if "moved" in entry]
    counted = [entry for entry in built if entry["moved"] > 3]
    missed = [
        {key: entry[key] for key in ("kind", "strain", "moved", "shares")} for entry in counted if not entry["refused"]
    ]
    # A fault that ends in Inf uses more of every bound than a number says.
    shares = [share for entry in counted if math.isfinite(share := max(entry["shares"].values()))]
    return {
        "planted": len(entries),
        "not_built": len(entries) - len(built),
        "moved": len(counted),
        "refused": sum(entry["refused"] for entry in counted),
        **({"least": min(shares)} if shares else {}),
        **({"missed": missed} if missed else {}),
    }
