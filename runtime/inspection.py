"""What is in an artifact, and how two differ: plain dicts for the command line, in a fixed order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from precast.runtime.artifact import Artifact, Component, Variant
from precast.runtime.bench.work import work_of
from precast.runtime.metrics import judgements
from precast.runtime.ports import Out, Port

__all__ = ["diff", "summary", "worst_errors"]

# How the worst of several measurements is found, by the name PARITY.md's records give them.
_WORST = {"max_abs": max, "max_rel": max, "cosine": min, "argmax": min, "argmax_agreement": min}


def summary(artifact: Artifact) -> dict[str, Any]:
    """What ``precast inspect`` shows. Sizes in bytes."""
    manifest = artifact.manifest
    sizes = {name: record.size for name, record in manifest.files.items()}
    return {
        "path": str(artifact.path),
        "digest": manifest.digest,
        "format": f"{manifest.version[0]}.{manifest.version[1]}",
        "model_type": manifest.model_type,
        "source": {"id": manifest.source.id, "revision": manifest.source.revision},
        "producer": dict(sorted(manifest.producer.items())),
        "default_task": manifest.default_task,
        "tasks": {task: manifest.tasks[task]["component"] for task in artifact.tasks},
        "components": {
            name: {
                "inputs": [spec.to_json() for spec in component.inputs],
                "outputs": [spec.to_json() for spec in component.outputs],
                "dims": {dim: found.to_json() for dim, found in sorted(component.dims.items())},
                "feeds": {port.name: port.source for port in component.inputs if port.source is not None},
                "variants": {v.name: _variant(v, sizes) | _work(v, component) for v in artifact.variants(name)},
            }
            for name, component in sorted(manifest.components.items())
        },
        "size": {
            "total": sum(sizes.values()),
            "weights": sum(size for name, size in sizes.items() if name.startswith("weights/")),
            "files": len(sizes),
        },
        "reads": artifact.reads,
        "cross_encoder": manifest.processing.get("cross_encoder"),
        "ignored_config": list(manifest.processing.get("ignored_config", ())),
        "ignored_generation_config": list(manifest.processing.get("ignored_generation_config", ())),
        "ignored_weights": list(manifest.processing.get("ignored_weights", ())),
        "calibration": manifest.calibration,
        "cost": dict(manifest.cost),
    }


def diff(a: Artifact, b: Artifact) -> dict[str, Any]:
    """What ``precast diff`` shows. A section is there only if something differs; a change is ``[in a, in b]``.

    ``same`` is true for equal digests, and then only ``cost`` may follow.
    """
    old, new = a.manifest, b.manifest
    sections: dict[str, Any] = {
        "format": _values(_flat(old.to_json()["format"]), _flat(new.to_json()["format"])),
        "source": _values(_flat(old.source.to_json()), _flat(new.source.to_json())),
        "model_type": _values({"model_type": old.model_type}, {"model_type": new.model_type}).get("model_type"),
        "producer": _values(old.producer, new.producer),
        "tasks": _values(_flat(old.tasks), _flat(new.tasks)),
        "default_task": _values({"task": old.default_task}, {"task": new.default_task}).get("task"),
        "components": _named(old.components, new.components, lambda x, y: _component(a, b, x, y)),
        "processing": _values(_flat(old.processing), _flat(new.processing)),
        "parity": _values(_flat(old.parity), _flat(new.parity)),
        "calibration": _values(_flat(old.calibration or {}), _flat(new.calibration or {})),
        "files": _named(old.files, new.files, lambda x, y: _values(x.to_json(), y.to_json())),
        "size": _values({"total": _total(a)}, {"total": _total(b)}),
        "cost": _values(_flat(old.cost), _flat(new.cost)),
    }
    return {"same": old.digest == new.digest, **{name: found for name, found in sections.items() if found}}


def worst_errors(parity: Mapping[str, Any]) -> dict[str, float]:
    """The worst value of every measure anywhere in a parity record."""
    worst: dict[str, float] = {}
    for path, value in _leaves(parity):
        measure = path[-1] if path else ""
        if measure in _WORST and isinstance(value, (int, float)) and not isinstance(value, bool):
            worst[measure] = _WORST[measure](worst.get(measure, value), value)
    return dict(sorted(worst.items()))


def _variant(variant: Variant, sizes: Mapping[str, int]) -> dict[str, Any]:
    return {
        "target": variant.target,
        "precision": variant.precision,
        "dialect": variant.dialect,
        "provider": variant.provider,
        "isa": variant.isa,
        "opset": dict(sorted(variant.opset.items())),
        "session": dict(variant.session),
        "operators": dict(sorted(variant.operators.items(), key=lambda item: (-item[1], item[0]))),
        "fusions": dict(sorted(variant.fusions.items())),
        "fingerprint": variant.fingerprint,
        "recipe": list(variant.recipe),
        "errors": worst_errors(variant.parity),
        **judgements(variant.parity),
        **({"conditioning": dict(variant.parity["conditioning"])} if "conditioning" in variant.parity else {}),
        "size": {"graph": sizes[variant.graph], "weights": sum(sizes[path] for path in set(variant.weights))},
        **({"producer": dict(variant.producer)} if variant.producer else {}),
    }


def _work(variant: Variant, component: Component) -> dict[str, Any]:
    """What one call costs at an example point: one row, 128 of what measures it (tokens, frames, slots of a cache) or
    as many as there may be, pictures of 224 pixels a side.

    Of a language model that is the call of a prompt, with room in its cache for just that, and logits for its end."""
    dimensions: dict[str, int] = {}
    for spec in component.inputs:
        for place, name in enumerate(spec.shape):
            if not isinstance(name, str) or name in dimensions:
                continue
            counts = place == 0 or spec.name == "logit_positions" or name == "choices"
            dimensions[name] = 1 if counts else component.dim(name).at(224 if spec.kind == "pixels" else 128) or 1
            if spec.kind == "state":
                dimensions[name] = min(dimensions[name], component.longest or dimensions[name])
    found = work_of(variant, **dimensions)
    if found is None:
        return {}
    return {"work": {"at": dimensions, **found, "uncounted": list(variant.work.get("uncounted", []))}}


def _component(a: Artifact, b: Artifact, old: Component, new: Component) -> dict[str, Any]:
    sections = {
        "inputs": _named(_by_name(old.inputs), _by_name(new.inputs), _tensor),
        "outputs": _named(_by_name(old.outputs), _by_name(new.outputs), _tensor),
        "dims": _values(_flat(_dims(old)), _flat(_dims(new))),
        "variants": _named(old.variants, new.variants, lambda x, y: _variants(a, b, x, y)),
    }
    return {name: found for name, found in sections.items() if found}


def _variants(a: Artifact, b: Artifact, old: Variant, new: Variant) -> dict[str, Any]:
    x, y = (
        _variant(variant, {name: record.size for name, record in artifact.manifest.files.items()})
        for artifact, variant in ((a, old), (b, new))
    )
    # Passes are an ordered list: shown whole. Everything else is compared leaf by leaf.
    recipes = [x.pop("recipe"), y.pop("recipe")]
    changes: dict[str, Any] = {
        key: found
        for key in dict.fromkeys([*x, *y])
        if (found := _values(_flat({key: x.get(key)}), _flat({key: y.get(key)})))
    }
    changes = {
        key: found[key] if list(found) == [key] else {path.removeprefix(f"{key}."): v for path, v in found.items()}
        for key, found in changes.items()
    }
    if recipes[0] != recipes[1]:
        changes["recipe"] = recipes
    parity = _values(_flat(old.parity), _flat(new.parity))
    if parity:
        changes["parity"] = parity
    work = _values(_flat(old.work), _flat(new.work))
    if work:
        changes["work"] = work
    return changes


def _dims(component: Component) -> dict[str, Any]:
    return {name: dim.to_json() for name, dim in component.dims.items()}


def _by_name(records: Iterable[Port | Out]) -> dict[str, Port | Out]:
    return {record.name: record for record in records}


def _tensor(old: Port | Out, new: Port | Out) -> dict[str, Any]:
    return _values(old.to_json(), new.to_json())


def _total(artifact: Artifact) -> int:
    return sum(record.size for record in artifact.manifest.files.values())


def _named(old: Mapping[str, Any], new: Mapping[str, Any], compare: Any) -> dict[str, Any]:
    """Entries only one side has, and what ``compare`` says of those both have."""
    sections = {
        "removed": sorted(set(old) - set(new)),
        "added": sorted(set(new) - set(old)),
        "changed": {name: found for name in sorted(set(old) & set(new)) if (found := compare(old[name], new[name]))},
    }
    return {name: found for name, found in sections.items() if found}


def _values(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """``{key: [old, new]}`` where they differ; an absent value is null."""
    keys = sorted({*old, *new})
    return {key: [old.get(key), new.get(key)] for key in keys if old.get(key) != new.get(key)}


def _flat(value: Mapping[str, Any]) -> dict[str, Any]:
    return {".".join(path): leaf for path, leaf in _leaves(value)}


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value that is no object, with its way there. Lists are values."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, (*path, str(key)))
    else:
        yield path, value
