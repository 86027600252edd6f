"""Whispers in CTranslate2's binary format, made of tiny checkpoints of upstream's, as its converter would make them."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

__all__ = ["variables", "whisper", "written"]

TYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)
_SWITCHES = {
    **dict.fromkeys(("alibi", "scale_embeddings", "start_from_zero_embedding"), np.int8(0)),
    "activation": np.int8(3),
    "pre_norm": np.int8(1),
    "alignment_heads": np.int16(1),
    "alignment_layer": np.int16(-1),
}


def whisper(folder: Path, checkpoint: Path) -> Path:
    """``folder``, with what faster-whisper reads of a model."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(checkpoint / "tokenizer.json", folder)
    stated = json.loads((checkpoint / "generation_config.json").read_text())
    kept = {"suppress_tokens": "suppress_ids", "begin_suppress_tokens": "suppress_ids_begin", "alignment_heads": ""}
    (folder / "config.json").write_text(json.dumps({ours or name: stated[name] for name, ours in kept.items()}))
    (folder / "model.bin").write_bytes(written(variables(checkpoint)))
    return folder


def variables(checkpoint: Path) -> dict[str, Any]:
    """Float32 arrays and switches by CTranslate2's names; a text is an alias."""
    config = json.loads((checkpoint / "config.json").read_text())
    weights = load_file(checkpoint / "model.safetensors")
    made: dict[str, Any] = {}

    def norm(ours: str, theirs: str) -> None:
        made[f"{ours}/gamma"], made[f"{ours}/beta"] = weights[f"{theirs}.weight"], weights[f"{theirs}.bias"]

    def linear(ours: str, *theirs: str) -> None:
        made[f"{ours}/weight"] = np.concatenate([weights[f"{name}.weight"] for name in theirs])
        none = np.zeros(config["d_model"], np.float32)  # of keys
        made[f"{ours}/bias"] = np.concatenate([weights.get(f"{name}.bias", none) for name in theirs])

    for part in ("encoder", "decoder"):
        made[f"{part}/num_heads"] = np.int16(config[f"{part}_attention_heads"])
        made[f"{part}/position_encodings/encodings"] = weights[f"model.{part}.embed_positions.weight"]
        norm(f"{part}/layer_norm", f"model.{part}.layer_norm")
        for number in range(config[f"{part}_layers"]):
            ours, theirs = f"{part}/layer_{number}", f"model.{part}.layers.{number}"
            norm(f"{ours}/ffn/layer_norm", f"{theirs}.final_layer_norm")
            linear(f"{ours}/ffn/linear_0", f"{theirs}.fc1")
            linear(f"{ours}/ffn/linear_1", f"{theirs}.fc2")
            for kind, inside in (("self_attention", "self_attn"), ("attention", "encoder_attn")):
                one = f"{theirs}.{inside}"
                if f"{one}.q_proj.weight" not in weights:
                    continue
                norm(f"{ours}/{kind}/layer_norm", f"{one}_layer_norm")
                together = ["qkv"] if kind == "self_attention" else ["q", "kv"]
                for place, names in enumerate(together):
                    linear(f"{ours}/{kind}/linear_{place}", *(f"{one}.{name}_proj" for name in names))
                linear(f"{ours}/{kind}/linear_{len(together)}", f"{one}.out_proj")
    for conv in ("conv1", "conv2"):
        for kind in ("weight", "bias"):
            made[f"encoder/{conv}/{kind}"] = weights[f"model.encoder.{conv}.{kind}"]
    made["decoder/embeddings/weight"] = weights["model.decoder.embed_tokens.weight"]
    made |= {f"decoder/{name}": value for name, value in _SWITCHES.items()}
    made["decoder/projection/weight"] = "decoder/embeddings/weight"
    return made


def written(values: Mapping[str, Any], *, version: int = 6, kind: str = "WhisperSpec", revision: int = 3) -> bytes:
    """The file."""

    def text(value: str) -> bytes:
        data = value.encode()
        return struct.pack("<H", len(data) + 1) + data + b"\0"

    aliases = {name: value for name, value in values.items() if isinstance(value, str)}
    parts = [struct.pack("<I", version), text(kind), struct.pack("<II", revision, len(values) - len(aliases))]
    for name, value in values.items():
        if name in aliases:
            continue
        value = np.asarray(value)
        shape = struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
        parts += [text(name), shape, struct.pack("<BI", TYPES.index(value.dtype.type), value.nbytes), value.tobytes()]
    parts.append(struct.pack("<I", len(aliases)))
    parts += [text(name) + text(of) for name, of in aliases.items()]
    return b"".join(parts)
