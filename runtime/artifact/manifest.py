"""precast.json: the one definition of its fields, shared by the reader and the writer.

The bytes are canonical (UTF-8, sorted keys, one space of indent, a final newline), so that equal manifests are
equal files. ``digest`` is the artifact's identity: SHA-256 over everything but ``digest``, ``seal`` and ``cost``.
``seal`` is SHA-256 over everything but itself, so that no bit of the manifest can change unnoticed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from precast.runtime.artifact.file_names import check_file_names, check_label
from precast.runtime.artifact.free_fields import check_free, check_variant
from precast.runtime.errors import ArtifactError, FormatVersionError, IntegrityError, listing
from precast.runtime.fields import MOST_BYTES, Fields, is_count, is_text, refuse
from precast.runtime.strict_json import parse_value

__all__ = [
    "FEATURES",
    "FORMAT_VERSION",
    "MANIFEST_NAME",
    "Component",
    "FileRecord",
    "Manifest",
    "Source",
    "StateSpec",
    "TensorSpec",
    "Variant",
    "canonical",
    "parse",
    "sealed",
]

MANIFEST_NAME = "precast.json"
# A newer minor only adds fields that an older reader may ignore. What it may not ignore is a feature.
# 1.1: `work` of a variant. 1.2: `states` of a component, with the feature "states".
FORMAT_VERSION = (1, 2)
# "states": a component remembers something between calls, and cannot be run by who does not know.
FEATURES: frozenset[str] = frozenset(("states",))

_INTEGERS = ("int4", "int8", "int16", "int32", "int64", "uint4", "uint8", "uint16", "uint32", "uint64")
DTYPES = frozenset(("bool", *_INTEGERS, "float16", "bfloat16", "float32", "float64", "string"))
# Records are named tuples: six dataclasses would take 9 ms of every cold start, for the same use.
_EMPTY: Mapping[str, Any] = MappingProxyType({})
_LIMITS_COUNTED = ("vocab_size", "max_positions", "type_vocab_size")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_WEIGHT = re.compile(r"weights/([0-9a-f]{64})\.bin")
_VERSION = re.compile(r"(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})")


class FileRecord(NamedTuple):
    """What a file must be: its size in bytes and the SHA-256 of its content, in lower-case hex."""

    size: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        return {"size": self.size, "sha256": self.sha256}

    @classmethod
    def read(cls, _name: str, fields: Fields) -> FileRecord:
        record = cls(
            size=fields.count("size", most=MOST_BYTES),
            sha256=fields.take("sha256", "64 lower-case hex digits", _is_sha256),
        )
        fields.close()
        return record


class Source(NamedTuple):
    """The checkpoint an artifact was made from; ``files`` are the checkpoint's own."""

    id: str
    revision: str | None = None
    files: Mapping[str, FileRecord] = _EMPTY

    def to_json(self) -> dict[str, Any]:
        return {"id": self.id, "revision": self.revision, "files": _all_to_json(self.files)}

    @classmethod
    def read(cls, fields: Fields) -> Source:
        source = cls(
            id=fields.text("id"),
            revision=fields.optional_text("revision"),
            files=fields.each("files", FileRecord.read),
        )
        fields.close()
        return source


class TensorSpec(NamedTuple):
    """One input or output. A dimension is a size, or a name for a size known at run time: ``("batch", 384)``."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    optional: bool = False

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape), "optional": self.optional}

    @classmethod
    def read(cls, fields: Fields) -> TensorSpec:
        spec = cls(
            name=fields.text("name"),
            dtype=fields.take("dtype", f"one of {listing(sorted(DTYPES))}", lambda v: is_text(v) and v in DTYPES),
            shape=tuple(fields.take("shape", "a list of sizes and dimension names", _is_shape)),
            optional=fields.flag("optional", False),
        )
        fields.close()
        return spec


class StateSpec(NamedTuple):
    """What a component remembers between calls: the input that takes it, the output that gives its successor.

    A dimension ``capacity`` of the input's shape is the number of tokens there is room for. ``window``: how many of the
    last tokens are ever read again, or None; a variant whose ``state`` says ``ring`` needs no more slots than that, the
    slot of position p being p modulo their number. One whose ``state`` says ``int8`` holds what has slots in int8: in
    each slot the channels, and behind them a float32 for every 32 of them, which these are multiplied by.
    """

    input: str
    output: str
    window: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {"input": self.input, "output": self.output, "window": self.window}

    @classmethod
    def read(cls, fields: Fields) -> StateSpec:
        spec = cls(
            input=fields.text("input"),
            output=fields.text("output"),
            window=fields.optional_count("window"),
        )
        fields.close()
        return spec


class Variant(NamedTuple):
    """One precision for one target: a graph, the weights it reads, and how its session is made.

    ``session`` holds the options of the backend, ``operators`` counts the graph's nodes by type, ``fusions`` what the
    passes fused, ``recipe`` the passes in order, ``parity`` the measured errors. ``producer`` is set where the variant
    was made by other versions than the rest of the artifact. ``work`` is what one call costs in operations and bytes,
    which ``precast.runtime.bench.work`` evaluates; empty in artifacts of format 1.0. ``state`` says how its states may
    be laid out (see `StateSpec`). Everything here is part of the artifact's identity: timings belong into
    ``Manifest.cost``.
    """

    name: str
    graph: str
    target: str
    precision: str
    dialect: str
    provider: str
    opset: Mapping[str, int] = _EMPTY
    session: Mapping[str, Any] = _EMPTY
    isa: str | None = None
    weights: tuple[str, ...] = ()
    operators: Mapping[str, int] = _EMPTY
    fusions: Mapping[str, Any] = _EMPTY
    fingerprint: str = ""
    recipe: tuple[Any, ...] = ()
    parity: Mapping[str, Any] = _EMPTY
    producer: Mapping[str, str] = _EMPTY
    work: Mapping[str, Any] = _EMPTY
    state: Mapping[str, Any] = _EMPTY

    def to_json(self) -> dict[str, Any]:
        document: dict[str, Any] = {
            "graph": self.graph,
            "target": self.target,
            "precision": self.precision,
            "dialect": self.dialect,
            "provider": self.provider,
            "opset": dict(self.opset),
            "session": dict(self.session),
            "isa": self.isa,
            "weights": list(self.weights),
            "operators": dict(self.operators),
            "fusions": dict(self.fusions),
            "fingerprint": self.fingerprint,
            "recipe": list(self.recipe),
            "parity": dict(self.parity),
        }
        document.update({name: dict(value) for name in ("producer", "work", "state") if (value := getattr(self, name))})
        return document

    @classmethod
    def read(cls, name: str, fields: Fields) -> Variant:
        check_label(name, fields.where)
        variant = cls(
            name=name,
            graph=fields.text("graph"),
            target=fields.text("target"),
            precision=fields.text("precision"),
            dialect=fields.text("dialect"),
            provider=fields.text("provider"),
            opset=fields.counts("opset"),
            session=fields.data("session"),
            isa=fields.optional_text("isa"),
            weights=fields.texts("weights"),
            operators=fields.counts("operators"),
            fusions=fields.counts("fusions"),
            fingerprint=fields.take("fingerprint", "a string", is_text),
            recipe=tuple(fields.items("recipe")),
            parity=fields.data("parity"),
            producer=fields.mapping("producer", "a string", is_text, {}),
            work=fields.data("work", {}),
            state=fields.data("state", {}),
        )
        fields.close()
        check_variant(fields, variant.session, variant.parity, variant.work, variant.state)
        return variant


class Component(NamedTuple):
    """One graph's worth of model (``encoder``): what goes in and out in every variant, and what inputs may hold.

    ``limits``: ``vocab_size``, ``max_positions``, ``type_vocab_size`` are counts or absent; others are free.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    variants: Mapping[str, Variant]
    limits: Mapping[str, Any] = _EMPTY
    states: tuple[StateSpec, ...] = ()

    def to_json(self) -> dict[str, Any]:
        document: dict[str, Any] = {
            "inputs": [spec.to_json() for spec in self.inputs],
            "outputs": [spec.to_json() for spec in self.outputs],
            "limits": dict(self.limits),
            "variants": _all_to_json(self.variants),
        }
        if self.states:
            document["states"] = [spec.to_json() for spec in self.states]
        return document

    @classmethod
    def read(cls, name: str, fields: Fields) -> Component:
        check_label(name, fields.where)
        limits = fields.data("limits")
        counted = fields.inner("limits", limits)
        for key in _LIMITS_COUNTED:
            counted.optional_count(key, None)
        component = cls(
            name=name,
            inputs=_tensors(fields, "inputs"),
            outputs=_tensors(fields, "outputs"),
            variants=fields.each("variants", Variant.read),
            limits=limits,
            states=tuple(fields.all("states", StateSpec.read, [])),
        )
        fields.close()
        if not component.variants:
            fields.fail("variants", "one variant or more", {})
        return component


class Manifest(NamedTuple):
    """Everything precast.json says. Free-form fields are plain JSON values; treat them as read-only.

    Whoever makes an artifact fills the first group; ``ArtifactWriter.publish`` fills the second.
    """

    source: Source
    model_type: str
    tasks: Mapping[str, Mapping[str, Any]]
    default_task: str
    components: Mapping[str, Component]
    producer: Mapping[str, str] = _EMPTY
    processing: Mapping[str, Any] = _EMPTY
    parity: Mapping[str, Any] = _EMPTY
    calibration: Mapping[str, Any] | None = None
    cost: Mapping[str, Any] = _EMPTY

    version: tuple[int, int] = FORMAT_VERSION
    features: tuple[str, ...] = ()
    files: Mapping[str, FileRecord] = _EMPTY
    digest: str = ""
    seal: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "format": {"version": f"{self.version[0]}.{self.version[1]}", "features": list(self.features)},
            "producer": dict(self.producer),
            "source": self.source.to_json(),
            "model_type": self.model_type,
            "tasks": {name: dict(task) for name, task in self.tasks.items()},
            "default_task": self.default_task,
            "components": _all_to_json(self.components),
            "processing": dict(self.processing),
            "parity": dict(self.parity),
            "calibration": None if self.calibration is None else dict(self.calibration),
            "cost": dict(self.cost),
            "files": _all_to_json(self.files),
            "digest": self.digest,
            "seal": self.seal,
        }

    @classmethod
    def from_json(cls, document: Any) -> Manifest:
        """Read a decoded precast.json. Types and references are checked, digests are not (``parse`` does both).

        Raises ``FormatVersionError`` for a newer format, ``ArtifactError`` for a malformed field.
        """
        version, features = _format(document)
        fields = Fields(document, "", lenient=version > FORMAT_VERSION)
        fields.data("format")
        manifest = cls(
            source=Source.read(fields.inner("source", fields.data("source"))),
            model_type=fields.text("model_type"),
            tasks=fields.mapping("tasks", "an object", lambda v: isinstance(v, dict)),
            default_task=fields.text("default_task"),
            components=fields.each("components", Component.read),
            producer=fields.mapping("producer", "a string", is_text),
            processing=fields.data("processing"),
            parity=fields.data("parity"),
            calibration=fields.take("calibration", "an object or null", lambda v: v is None or isinstance(v, dict)),
            cost=fields.data("cost"),
            version=version,
            features=features,
            files=fields.each("files", FileRecord.read),
            digest=fields.take("digest", "64 lower-case hex digits", _is_sha256),
            seal=fields.take("seal", "64 lower-case hex digits", _is_sha256),
        )
        fields.close()
        _check_references(manifest)
        check_free(fields, manifest.processing, manifest.parity, manifest.cost, manifest.files)
        return manifest


def canonical(document: Mapping[str, Any]) -> bytes:
    """The one spelling of a manifest. Raises ``ArtifactError`` for what JSON cannot hold: NaN, tensors, other types."""
    try:
        text = json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
        return text.encode("utf-8") + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{MANIFEST_NAME} must hold finite JSON values and text keys only: {error}.") from error


def sealed(manifest: Manifest) -> tuple[Manifest, bytes]:
    """``manifest`` with its digest and seal, read back from the canonical bytes that are returned beside it."""
    document = manifest.to_json()
    document["digest"] = _digest(document)
    document["seal"] = _seal(document)
    raw = canonical(document)
    return parse(raw), raw


def parse(raw: bytes, where: str = MANIFEST_NAME) -> Manifest:
    """Read a manifest's bytes. ``where`` names the file in messages.

    Raises ``FormatVersionError`` for a newer format, ``IntegrityError`` when the bytes are not the sealed ones,
    ``ArtifactError`` for a malformed field.
    """
    try:
        document = parse_value(raw)
    except ValueError as error:
        raise IntegrityError(f"{where} is not valid JSON, so it is damaged or no manifest: {error}.") from error
    _format(document)  # first, so that a newer format is named as such and not taken for damage
    try:
        intact = canonical(document) == raw
    except ArtifactError:
        intact = False
    if not intact or document.get("seal") != _seal(document) or document.get("digest") != _digest(document):
        raise IntegrityError(
            f"{where} does not match its own seal: it was changed after the export. Export or download it again."
        )
    return Manifest.from_json(document)


def replace_all(manifest: Manifest, files: Mapping[str, FileRecord]) -> Manifest:
    """A maker's manifest as this version publishes it."""
    needed = ("states",) if any(component.states for component in manifest.components.values()) else ()
    return manifest._replace(version=FORMAT_VERSION, features=needed, files=dict(files))


def _digest(document: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in document.items() if key not in ("digest", "seal", "cost")}
    return hashlib.sha256(canonical(rest)).hexdigest()


def _seal(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical({key: value for key, value in document.items() if key != "seal"})).hexdigest()


def _format(document: Any) -> tuple[tuple[int, int], tuple[str, ...]]:
    fields = Fields(Fields(document, "", lenient=True).data("format"), "format", lenient=True)
    text = fields.take("version", "'major.minor'", lambda v: is_text(v) and _VERSION.fullmatch(v) is not None)
    features = fields.texts("features")
    major, minor = (int(part) for part in text.split("."))
    ours = f"{FORMAT_VERSION[0]}.{FORMAT_VERSION[1]}"
    if major > FORMAT_VERSION[0]:
        raise FormatVersionError(
            f"This artifact has format {text}; this precast reads formats up to {ours}. "
            "Upgrade it: pip install --upgrade precast."
        )
    if major < 1:
        raise FormatVersionError(f"This artifact has format {text}, which was never released. Export it again.")
    unknown = sorted(set(features) - FEATURES)
    if unknown:
        raise FormatVersionError(
            f"This artifact (format {text}) needs {listing(unknown)}, which this precast (format {ours}) does not "
            "have. Upgrade it: pip install --upgrade precast."
        )
    return (major, minor), features


def _check_references(manifest: Manifest) -> None:
    """What one field says of another must hold, so that no later stage meets a name that leads nowhere."""
    check_file_names(manifest.files, "files")
    if MANIFEST_NAME in (name.lower() for name in manifest.files):
        refuse("files", f"without {MANIFEST_NAME} itself", MANIFEST_NAME)
    if not manifest.components:
        refuse("components", "one component or more", {})
    if manifest.default_task not in manifest.tasks:
        refuse("default_task", f"one of the tasks ({listing(sorted(manifest.tasks))})", manifest.default_task)
    for name, task in manifest.tasks.items():
        if not (is_text(task.get("component")) and task["component"] in manifest.components):
            known = listing(sorted(manifest.components))
            refuse(f"tasks.{name}.component", f"one of the components ({known})", task.get("component"))
    for component in manifest.components.values():
        taken, given = ({spec.name for spec in specs} for specs in (component.inputs, component.outputs))
        for state in component.states:
            if state.input not in taken or state.output not in given:
                where = f"components.{component.name}.states"
                refuse(where, "an input and an output of the component", [state.input, state.output])
        _check_states(component)
        for variant in component.variants.values():
            where = f"components.{component.name}.variants.{variant.name}"
            if variant.graph not in manifest.files:
                refuse(f"{where}.graph", "a file listed in 'files'", variant.graph)
            for path in variant.weights:
                match = _WEIGHT.fullmatch(path) or refuse(
                    f"{where}.weights", "paths of the form weights/<sha256>.bin", path
                )
                if path not in manifest.files or manifest.files[path].sha256 != match[1]:
                    refuse(f"{where}.weights", "files listed in 'files' under their own SHA-256", path)


def _check_states(component: Component) -> None:
    """States are arrays that calls replace in place: [batch, ...], of fixed sizes but for slots on the third axis."""
    inputs, outputs = ({spec.name: spec for spec in specs} for specs in (component.inputs, component.outputs))
    for index, state in enumerate(component.states):
        where = f"components.{component.name}.states[{index}]"
        if [other.input for other in component.states].count(state.input) > 1:
            refuse(f"{where}.input", "the input of one state", state.input)
        first, *sizes = inputs[state.input].shape or ("",)
        named = [axis for axis, size in enumerate(sizes, 1) if isinstance(size, str)]
        slots = len(sizes) == 3 and named == [2] and str(sizes[1]).startswith("capacity")
        like = outputs[state.output]._replace(name=state.input, optional=inputs[state.input].optional)
        if first != "batch" or not (slots or not named) or like != inputs[state.input] or like.dtype != "float32":
            rule = "float32 [batch, sizes ...] or [batch, heads, capacity, width], of one form before and after a call"
            refuse(where, rule, [inputs[state.input].to_json(), outputs[state.output].to_json()])


def _tensors(fields: Fields, key: str) -> tuple[TensorSpec, ...]:
    specs = tuple(fields.all(key, TensorSpec.read))
    names = [spec.name for spec in specs]
    if len(set(names)) != len(names):
        fields.fail(key, "tensors of different names", names)
    return specs


def _all_to_json(entries: Mapping[str, Any]) -> dict[str, Any]:
    return {name: entry.to_json() for name, entry in entries.items()}


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and all(is_count(size) or (is_text(size) and size != "") for size in value)
