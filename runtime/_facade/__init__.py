"""Precast: Hugging Face checkpoints, cast ahead of time into verified, torch-free artifacts.

Importing this module costs next to nothing: every public name is loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from precast.runtime.catalogue import AUTO

if TYPE_CHECKING:
    from precast.calibration.quantize import quantize as quantize
    from precast.export.exporter import export_model as export_model
    from precast.runtime.auto import AutoFeatureExtractor as AutoFeatureExtractor
    from precast.runtime.auto import AutoImageProcessor as AutoImageProcessor
    from precast.runtime.auto import AutoModel as AutoModel
    from precast.runtime.auto import AutoProcessor as AutoProcessor
    from precast.runtime.auto import AutoTokenizer as AutoTokenizer
    from precast.runtime.errors import PrecastError as PrecastError
    from precast.runtime.loading import load as load
    from precast.runtime.similarity import cos_sim as cos_sim
    from precast.runtime.tasks import pipeline as pipeline
    from precast.runtime.verify import verify as verify

    # generated: auto
    AutoModelForAudioClassification = AutoModel
    AutoModelForAudioFrameClassification = AutoModel
    AutoModelForAudioTokenization = AutoModel
    AutoModelForAudioXVector = AutoModel
    AutoModelForCTC = AutoModel
    AutoModelForCausalLM = AutoModel
    AutoModelForDepthEstimation = AutoModel
    AutoModelForDocumentQuestionAnswering = AutoModel
    AutoModelForImageClassification = AutoModel
    AutoModelForImageTextToText = AutoModel
    AutoModelForImageToImage = AutoModel
    AutoModelForKeypointDetection = AutoModel
    AutoModelForKeypointMatching = AutoModel
    AutoModelForMaskGeneration = AutoModel
    AutoModelForMaskedImageModeling = AutoModel
    AutoModelForMaskedLM = AutoModel
    AutoModelForMultipleChoice = AutoModel
    AutoModelForNextSentencePrediction = AutoModel
    AutoModelForObjectDetection = AutoModel
    AutoModelForPreTraining = AutoModel
    AutoModelForQuestionAnswering = AutoModel
    AutoModelForSemanticSegmentation = AutoModel
    AutoModelForSeq2SeqLM = AutoModel
    AutoModelForSequenceClassification = AutoModel
    AutoModelForSpeechSeq2Seq = AutoModel
    AutoModelForTextToSpectrogram = AutoModel
    AutoModelForTextToWaveform = AutoModel
    AutoModelForTokenClassification = AutoModel
    AutoModelForUniversalSegmentation = AutoModel
    AutoModelForVideoClassification = AutoModel
    AutoModelForVisualQuestionAnswering = AutoModel
    AutoModelForZeroShotImageClassification = AutoModel
    AutoModelForZeroShotObjectDetection = AutoModel
    # end

_HOME = {
    **dict.fromkeys(AUTO, "precast.runtime.auto"),
    "AutoFeatureExtractor": "precast.runtime.auto",
    "AutoImageProcessor": "precast.runtime.auto",
    "AutoProcessor": "precast.runtime.auto",
    "AutoTokenizer": "precast.runtime.auto",
    "PrecastError": "precast.runtime.errors",
    "load": "precast.runtime.loading",
    "cos_sim": "precast.runtime.similarity",
    "pipeline": "precast.runtime.tasks",
    "verify": "precast.runtime.verify",
}

# Where an extra is missing, the error says how to get it.
_LOADERS = {
    "export_model": ("precast.runtime.auto", "load_exporter"),
    "quantize": ("precast.runtime.quantizer", "load_quantizer"),
}

__all__ = ["__version__", *_LOADERS, *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        # importlib.metadata takes about 25 ms cold, so the version is looked up only when asked for.
        from importlib.metadata import version

        value: Any = version("precast")
    elif name in _LOADERS:
        module, loader = _LOADERS[name]
        value = getattr(importlib.import_module(module), loader)()
    elif name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
