"""Every error Precast raises on purpose. A message gives the rule, what was received, and the likely fix."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "ArtifactError",
    "BackendError",
    "BenchmarkError",
    "ChatTemplateError",
    "CheckpointError",
    "ConfigError",
    "ContractError",
    "DependencyError",
    "DiskSpaceError",
    "ExportError",
    "FormatVersionError",
    "HubError",
    "InputError",
    "IntegrityError",
    "OfflineError",
    "OutputExistsError",
    "ParityError",
    "PrecastError",
    "ProviderError",
    "UnsafeFileError",
    "UnsupportedModelError",
    "UnsupportedTaskError",
    "WeightsError",
    "closest",
    "listing",
]


class PrecastError(Exception):
    """Root of the hierarchy: whatever Precast refuses, it refuses with one of these."""


class InputError(PrecastError, ValueError):
    """An argument or a model input is outside what the model or the call accepts."""


class ChatTemplateError(PrecastError, ValueError):
    """A chat template is missing or malformed, refuses a conversation, or asks for what no template may do."""


class BenchmarkError(PrecastError, RuntimeError):
    """A contender of a benchmark died or failed, or two records cannot be compared."""


class UnsupportedModelError(PrecastError, ValueError):
    """The checkpoint's ``model_type`` (or an architecture in it) has no reference model here."""


class UnsupportedTaskError(PrecastError, ValueError):
    """The task does not exist, or this checkpoint or artifact cannot serve it."""


class CheckpointError(PrecastError):
    """A source checkpoint cannot be read: a file is missing, truncated or malformed."""


class ConfigError(CheckpointError):
    """config.json lacks a key, or holds one that changes the computation and is not honoured."""


class WeightsError(CheckpointError):
    """Weights and parameters do not match one to one, or a weight holds NaN or Inf."""


class UnsafeFileError(CheckpointError):
    """A file asks for something no checkpoint needs: code, a foreign global, a path outside its folder."""


class HubError(PrecastError):
    """The Hub answered with an error, or with bytes that are not the ones it promised."""


class OfflineError(HubError):
    """The Hub is needed, and offline mode or the network forbids it."""


class ExportError(PrecastError):
    """A stage of an export failed for a reason of its own."""


class ContractError(ExportError):
    """The optimised graph lacks fused nodes its family promises (graphs/contract.py)."""


class ParityError(ExportError):
    """The graph does not compute what the reference computes, within the gate of its precision."""


class OutputExistsError(ExportError, FileExistsError):
    """The place to publish to is taken, and neither ``add`` nor ``overwrite`` was asked for."""


class DiskSpaceError(ExportError, OSError):
    """The disk cannot hold what is to be written."""


class ArtifactError(PrecastError):
    """A folder is not an artifact, or the artifact lacks what was asked of it."""


class IntegrityError(ArtifactError):
    """A file of an artifact is missing, added through a link, or differs from its recorded digest."""


class FormatVersionError(ArtifactError):
    """The artifact's format is newer than this runtime, or needs a feature it does not have."""


class BackendError(PrecastError):
    """A backend refused to load or to run a graph."""


class ProviderError(BackendError):
    """The requested device's library is missing, or did not take the whole graph."""


class DependencyError(PrecastError, ImportError):
    """An optional package is needed; the message names the command that installs it."""


def closest(name: str, candidates: Iterable[str], limit: int = 3) -> str:
    """``"Closest: a, b."`` for a mistyped ``name``, or an empty string where nothing is near."""
    import difflib  # only an error needs it, and it costs a cold start milliseconds

    near = difflib.get_close_matches(name, list(candidates), n=limit, cutoff=0.5)
    return f"Closest: {', '.join(near)}." if near else ""


def listing(names: Iterable[str], limit: int | None = None) -> str:
    """Names as a comma-separated text; with ``limit``, the rest is counted instead of named."""
    names = list(names)
    if limit is not None and len(names) > limit:
        return f"{', '.join(names[:limit])} and {len(names) - limit} more"
    return ", ".join(names) if names else "none"
