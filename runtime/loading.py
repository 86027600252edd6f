"""From an artifact's folder to a model: every component its task needs, opened with one variant."""

from __future__ import annotations

import os

from precast.runtime import arguments
from precast.runtime.artifact import Artifact, Component, Variant
from precast.runtime.backends.agreement import check_graph
from precast.runtime.backends.engines import backend_for
from precast.runtime.errors import ArtifactError, InputError
from precast.runtime.flow import Flow, Part, needed
from precast.runtime.model import Model

__all__ = ["load"]

_TARGETS = ("cpu", "cuda", "tensorrt")


def _specialised(artifact: Artifact, component: Component, general: Variant) -> Variant:
    """The sibling of a variant that runs anywhere which was made for what this machine has, or the variant itself.

    Of several the first by name: one with a cache of float32 is called as one with a cache of int8 begins.
    """
    for sibling in artifact.variants(component.name):
        same = (sibling.target, sibling.precision) == (general.target, general.precision)
        if same and sibling.isa is not None and backend_for(sibling.engine, sibling.provider).supports(sibling.isa):
            return sibling
    return general


def load(
    path: str | os.PathLike[str],
    device: str = "cpu",
    threads: int | None = None,
    variant: str | None = None,
    *,
    check: str = "digest",
) -> Model:
    """Open the artifact in the folder ``path``.

    Args:
        device: ``cpu``, ``cuda`` or ``tensorrt``, with an index after a colon where there are several.
        threads: CPU threads of one call; None: as many as this process may use.
        variant: the name of one of the artifact's variants; None: the most exact one for the device.
        check: ``digest`` compares every file with its SHA-256 first; ``size`` trusts the folder.

    Raises:
        ArtifactError: the folder is no artifact, or has no variant for the device.
        IntegrityError: a file differs from what was exported.
        ProviderError, DependencyError: the device's library is missing.
    """
    target, _, index = device.partition(":") if isinstance(device, str) else ("", "", "")
    if target not in _TARGETS or (index and not index.isdigit()):
        raise InputError(f"device is cpu, cuda or tensorrt (cuda:1 for a second GPU); received {device!r:.80}.")
    threads = arguments.threads(threads)
    return Artifact.use(
        path, lambda artifact: _loaded(artifact, target, index, threads=threads, variant=variant), check=check
    )


def _loaded(artifact: Artifact, target: str, index: str, *, threads: int | None, variant: str | None) -> Model:
    component = artifact.component_for(None)
    chosen = artifact.choose_variant(component.name, target=target, variant=variant)
    if variant is None:
        chosen = _specialised(artifact, component, chosen)
    names = needed(artifact, component.name)

    def opened(name: str) -> Part:
        return _opened(artifact, name, chosen.name, index, threads, alone=len(names) == 1)

    # What is read later is what is here now, whatever is published in the folder meanwhile.
    artifact.hold(artifact.processing_files)
    flow = Flow({name: opened(name) for name in names})
    if artifact.reading("keypoints"):
        from precast.runtime.keypoints import KeypointModel

        return KeypointModel(artifact, flow)
    if artifact.reading("masked_patches"):
        from precast.runtime.masked_patches import MaskedPatchesModel

        return MaskedPatchesModel(artifact, flow)
    if artifact.reading("prompts"):
        from precast.runtime.prompted import PromptedModel

        return PromptedModel(artifact, flow)
    if artifact.reading("alignment"):
        from precast.runtime.speech import SpeechModel

        return SpeechModel(artifact, flow)
    if artifact.reading("stages"):
        from precast.runtime.staged_speech import StagedSpeechModel

        return StagedSpeechModel(artifact, flow)
    if artifact.reading("ranked"):
        from precast.runtime.speech_candidates import SpeechCandidates

        return SpeechCandidates(artifact, flow)
    if artifact.reading("frames"):
        from precast.runtime.spectrogram import SpectrogramModel

        return SpectrogramModel(artifact, flow)
    if not component.states:
        return Model(artifact, flow)
    from precast.runtime.generation.language_model import LanguageModel

    def later(name: str) -> Part:
        return Artifact.use(artifact.path, lambda again: _later(again, artifact, name, chosen.name, index, threads))

    return LanguageModel(artifact, flow, later)


def _opened(
    artifact: Artifact, name: str, variant: str, index: str, threads: int | None, *, alone: bool = False
) -> Part:
    """One component, with one variant; ``alone``: there is no other."""
    part, one = artifact.components[name], artifact.choose_variant(name, variant=variant)
    session = dict(one.session)
    if not alone:
        # Threads that still wait for this component's next call would take the processor from the other's.
        session["entries"] = {"session.force_spinning_stop": "1", **session.get("entries", {})}
    if index:
        session["provider_options"] = {**session.get("provider_options", {}), "device_id": index}
    runner = backend_for(one.engine, one.provider).load(
        artifact.file(one.graph), session=session, threads=threads, isa=one.isa
    )
    check_graph(part, one, runner)
    return Part(part, one, runner)


def _later(again: Artifact, artifact: Artifact, name: str, variant: str, index: str, threads: int | None) -> Part:
    """A component that few calls need, of the artifact that a model was loaded from."""
    if again.digest != artifact.digest:
        raise ArtifactError(f"{artifact.path} was exported anew since this model was loaded. Load it again.")
    return _opened(again, name, variant, index, threads)
