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
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

from precast.runtime.artifact.calibrated import Calibrated
from precast.runtime.artifact.component import Component
from precast.runtime.artifact.free_fields import check_free
from precast.runtime.artifact.references import check_references
from precast.runtime.errors import ArtifactError, FormatVersionError, IntegrityError, listing
from precast.runtime.fields import MOST_BYTES, Fields, is_text
from precast.runtime.ports import beyond_text
from precast.runtime.strict_json import parse_value

__all__ = [
    "FEATURES",
    "FORMAT_VERSION",
    "MANIFEST_NAME",
    "FileRecord",
    "Manifest",
    "Source",
    "calibrated",
    "canonical",
    "parse",
    "sealed",
]

MANIFEST_NAME = "precast.json"
# A newer minor only adds fields that an older reader may ignore. What it may not ignore is a feature.
# 1.1: `work` of a variant. 1.2: `states` of a component, with the feature "states". 1.3: `kind`, `default`, `below`,
# `source` and `axis` of inputs and outputs, `dims` of a component in place of `limits`, and the feature "ports".
FORMAT_VERSION = (1, 3)
_PORTS = (1, 3)
# "states": a component remembers something between calls, and cannot be run by who does not know.
# "ports": it takes what is no text (pixels, another component's embeddings), which older readers cannot check.
FEATURES: frozenset[str] = frozenset(("ports", "states"))

# Records are named tuples: six dataclasses would take 9 ms of every cold start, for the same use.
_EMPTY: Mapping[str, Any] = MappingProxyType({})
_SHA256 = re.compile(r"[0-9a-f]{64}")
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
            components=fields.each("components", partial(Component.read, described=version >= _PORTS)),
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
        check_references(manifest, MANIFEST_NAME)
        check_free(fields, manifest.processing, manifest.parity, manifest.cost, manifest.files)
        calibrated(manifest)
        return manifest


def calibrated(manifest: Manifest) -> dict[str, Calibrated]:
    """How variants of few bits were made of the artifact, by variant. Raises ArtifactError, naming the field."""
    whole = Fields({"calibration": manifest.calibration or {}}, "")
    return whole.each("calibration", Calibrated.read)


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
    components = manifest.components.values()
    needed = [
        feature
        for feature, wanted in (
            ("ports", any(beyond_text((*component.inputs, *component.outputs)) for component in components)),
            ("states", any(component.states for component in components)),
        )
        if wanted
    ]
    return manifest._replace(version=FORMAT_VERSION, features=tuple(needed), files=dict(files))


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


def _all_to_json(entries: Mapping[str, Any]) -> dict[str, Any]:
    return {name: entry.to_json() for name, entry in entries.items()}


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None
