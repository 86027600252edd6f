"""The artifact: a folder of graphs, weights, data and proof. This package is the only reader and writer of the format.

Reading costs nothing that running does not need anyway; the writer is loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from precast.runtime.artifact.component import Component, StateSpec, Variant
from precast.runtime.artifact.manifest import MANIFEST_NAME, FileRecord, Manifest, Source
from precast.runtime.artifact.reader import Artifact

if TYPE_CHECKING:
    from precast.runtime.artifact.writer import ArtifactWriter as ArtifactWriter

__all__ = [
    "MANIFEST_NAME",
    "Artifact",
    "ArtifactWriter",
    "Component",
    "FileRecord",
    "Manifest",
    "Source",
    "StateSpec",
    "Variant",
]


def __getattr__(name: str) -> Any:
    if name == "ArtifactWriter":
        from precast.runtime.artifact.writer import ArtifactWriter

        return ArtifactWriter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
