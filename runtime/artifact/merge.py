"""Adding variants to an artifact: what two manifests of one source become together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from precast.runtime.artifact.component import Component, Variant
from precast.runtime.artifact.manifest import FEATURES, FORMAT_VERSION, Manifest, Source
from precast.runtime.errors import ArtifactError, FormatVersionError, OutputExistsError, listing
from precast.runtime.ports import Out, Port

__all__ = ["admit", "merge"]

_RESORT = "Export to another folder, or replace this one whole with --overwrite."


def admit(base: Manifest, source: Source, model_type: str, variants: Iterable[tuple[str, str]]) -> None:
    """Raise unless ``variants`` (component, variant) of ``source`` may join ``base``."""
    if base.version > FORMAT_VERSION or set(base.features) - FEATURES:
        raise FormatVersionError(
            f"The artifact has format {base.version[0]}.{base.version[1]}, newer than this precast writes, "
            "which would lose what it does not know. Upgrade it: pip install --upgrade precast."
        )
    if base.model_type != model_type:
        raise ArtifactError(f"The artifact holds a {base.model_type} model, not {model_type}. {_RESORT}")
    if dict(base.source.files) != dict(source.files):
        old, new = base.source.files, source.files
        changed = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
        raise ArtifactError(
            f"A variant must come from the same checkpoint as the artifact ({base.source.id}); "
            f"{source.id} differs in {listing(changed, 5)}. {_RESORT}"
        )
    held = [
        f"{component}/{variant}"
        for component, variant in variants
        if component in base.components and variant in base.components[component].variants
    ]
    if held:
        raise OutputExistsError(f"The artifact already holds {listing(held)}. Replace it whole with --overwrite.")


def merge(base: Manifest, new: Manifest) -> Manifest:
    """``base`` with the components, variants and tasks of ``new``. What both state must be equal.

    Variants of ``base`` keep the producer they were made by, if it is not that of ``new``.
    """
    admit(
        base,
        new.source,
        new.model_type,
        [(component.name, variant) for component in new.components.values() for variant in component.variants],
    )
    stamp = base.producer if dict(base.producer) != dict(new.producer) else {}
    components = {name: _stamped(component, stamp) for name, component in base.components.items()}
    for name, component in new.components.items():
        components[name] = _joined(components[name], component) if name in components else component
    return new._replace(
        source=base.source,
        tasks=_same(base.tasks, new.tasks, "tasks"),
        default_task=base.default_task,
        components=components,
        processing=_same(
            _unsaid(base.processing, new.processing), _unsaid(new.processing, base.processing), "processing"
        ),
        parity=_same(base.parity, new.parity, "parity"),
        calibration=(
            base.calibration
            if new.calibration is None
            else _same(base.calibration or {}, new.calibration, "calibration")
        ),
        cost={**base.cost, **new.cost},
    )


def _stamped(component: Component, producer: Mapping[str, str]) -> Component:
    if not producer:
        return component
    variants: dict[str, Variant] = {
        name: variant if variant.producer else variant._replace(producer=producer)
        for name, variant in component.variants.items()
    }
    return component._replace(variants=variants)


def _joined(old: Component, new: Component) -> Component:
    for what in ("inputs", "outputs"):
        one, other = getattr(old, what), getattr(new, what)
        if [_form(record) for record in one] != [_form(record) for record in other]:
            raise ArtifactError(
                f"All variants of {old.name!r} must have the same {what}; the artifact's are "
                f"{listing(record.name for record in one)}, the new variant's "
                f"{listing(record.name for record in other)} (names, types, shapes, limits). {_RESORT}"
            )
    if dict(old.dims) != dict(new.dims):
        raise ArtifactError(
            f"All variants of {old.name!r} must have the same limits; the artifact's are {_described(old)}, the new "
            f"variant's {_described(new)}. {_RESORT}"
        )
    # Of an artifact of an earlier format less is known than of what is made now.
    return old._replace(inputs=new.inputs, outputs=new.outputs, variants={**old.variants, **new.variants})


def _form(record: Port | Out) -> tuple[Any, ...]:
    return record.name, record.dtype, record.shape, record.below if isinstance(record, Port) else None


def _described(component: Component) -> str:
    return listing(f"{name} {dim.least} to {dim.most}" for name, dim in component.dims.items())


def _same(old: Mapping[str, Any], new: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Both together; where both have a value it must be one value."""
    joined = dict(old)
    for key, value in new.items():
        if key not in joined:
            joined[key] = value
        elif isinstance(joined[key], Mapping) and isinstance(value, Mapping):
            joined[key] = _same(joined[key], value, f"{where}.{key}")
        elif _plain(joined[key]) != _plain(value):
            raise ArtifactError(
                f"{where}.{key} is {joined[key]!r} in the artifact and {value!r} in the new variant; "
                f"one artifact has one. {_RESORT}"
            )
    return joined


def _unsaid(said: Mapping[str, Any], beside: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of reading inputs, without what is missing in it and known in the other."""
    known = {
        kind
        for kind in ("text", "image")
        if kind in beside and "missing" in said.get(kind, {}) and "missing" not in beside[kind]
    }
    if "text" in known:
        known.add("tokenizer")
    return {key: value for key, value in said.items() if key not in known}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
