"""Upstream's model of a checkpoint, ready for inference in torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["open_model", "set_threads"]


def set_threads(threads: int) -> None:
    """Threads of one call; torch's other pool (between operators) has nothing to do in one call."""
    import torch

    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)


def open_model(checkpoint: Path, workload: dict[str, Any], *, precision: str = "fp32", device: str = "cpu") -> Any:
    """``workload["model_class"]`` of upstream with the checkpoint's weights, in evaluation mode."""
    import torch
    import transformers

    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    return getattr(transformers, workload["model_class"]).from_pretrained(checkpoint, dtype=dtype).to(device).eval()
