"""A Whisper checkpoint in CTranslate2's format."""

from __future__ import annotations

from pathlib import Path

__all__ = ["COMPUTE_TYPES", "convert"]

COMPUTE_TYPES = {"fp32": "float32", "fp16": "float16", "int8": "int8"}


def convert(checkpoint: Path, out: Path, *, precision: str) -> None:
    """With the two files beside it that faster-whisper reads."""
    import ctranslate2.converters

    converter = ctranslate2.converters.TransformersConverter(
        str(checkpoint), copy_files=["tokenizer.json", "preprocessor_config.json"]
    )
    converter.convert(str(out), quantization=COMPUTE_TYPES[precision], force=True)
