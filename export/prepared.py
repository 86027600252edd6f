"""What an export asks of torch and what it gets, in the runtime's types alone: so both may pass between processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from precast.calibration.evaluation_set import EvaluationSet
from precast.runtime.artifact import Component, Source, Variant
from precast.runtime.parity import Recorded

__all__ = ["Lowered", "Prepared", "Request"]


@dataclass(frozen=True)
class Request:
    """What `export_model` was asked for."""

    source: str | Path
    task: str | None
    precision: str
    target: str
    cache: str | None
    revision: str | None
    token: str | None


@dataclass(frozen=True)
class Lowered:
    """One recipe's graphs, staged: a variant of each component, of whose parity nothing is known yet.

    ``rounds_cache``: keys and values are held in fewer bits than were computed.
    """

    variants: Mapping[str, Variant]
    rounds_cache: bool


@dataclass(frozen=True)
class Prepared:
    """Graphs and what they are held to.

    Args:
        checkpoint: where the checkpoint lies, by which it is opened once more.
        components: without variants, in running order. record: the staged file of ``recorded``.
        text: what low precision is judged by, where it is.
    """

    checkpoint: Path
    source: Source
    model_type: str
    tasks: tuple[str, ...]
    processing: Mapping[str, Any]
    components: Mapping[str, Component]
    lowered: Sequence[Lowered]
    recorded: Sequence[Recorded]
    record: str
    text: EvaluationSet | None
