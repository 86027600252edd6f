"""optimum-onnx: Whisper by ORTModelForSpeechSeq2Seq, its two decoders merged into one graph with a cache."""

from __future__ import annotations

from pathlib import Path

from shared.session import session_options
from shared.speech import GeneratedSpeech
from shared.torch_model import set_threads

__all__ = ["PACKAGES", "Adapter"]

PACKAGES = ("optimum", "optimum-onnx", "onnxruntime", "transformers", "torch")


class Adapter(GeneratedSpeech):
    def prepare(self, checkpoint: Path, out: Path) -> None:
        from optimum.exporters.onnx import main_export

        task = "automatic-speech-recognition-with-past"
        main_export(checkpoint, out, task=task, library_name="transformers", do_validation=False)

    def load(self, checkpoint: Path, prepared: Path) -> None:
        from optimum.onnxruntime import ORTModelForSpeechSeq2Seq

        set_threads(self._threads)  # the features
        self._load_extractor(checkpoint)
        self._model = ORTModelForSpeechSeq2Seq.from_pretrained(
            prepared, use_cache=True, session_options=session_options(self._threads)
        )
