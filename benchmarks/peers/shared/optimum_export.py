"""optimum-onnx's export, optimisation and quantisation of models that are one graph."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["export", "quantize"]


def export(checkpoint: Path, out: Path, *, task: str, optimise: bool = True) -> None:
    """``out/model.onnx``, with the fusions of level O2 where optimum has them for the architecture."""
    from optimum.exporters.onnx import main_export
    from optimum.onnxruntime import AutoOptimizationConfig, ORTOptimizer

    main_export(checkpoint, out, task=task, library_name="transformers", do_validation=False)
    if not optimise:
        return
    with contextlib.suppress(NotImplementedError, KeyError):  # architectures without fusions: resnet, wav2vec2
        optimizer = ORTOptimizer.from_pretrained(out)
        optimizer.optimize(save_dir=out, file_suffix="optimized", optimization_config=AutoOptimizationConfig.O2())
    _replace(out, "model_optimized.onnx")


def quantize(folder: Path, samples: Iterable[dict[str, np.ndarray]] | None) -> None:
    """``folder/model.onnx`` in int8: calibrated with ``samples``, or dynamic where there are none."""
    from onnxruntime.quantization import CalibrationMethod
    from optimum.onnxruntime import CalibrationConfig, ORTQuantizer

    quantizer = ORTQuantizer.from_pretrained(folder, file_name="model.onnx")
    config = _scheme()(is_static=samples is not None, per_channel=True)
    ranges = None
    if samples is not None:
        dataset = [{name: value[0] for name, value in sample.items()} for sample in samples]  # it adds the batch
        calibration = CalibrationConfig(
            dataset_name="noise",
            dataset_config_name="",
            dataset_split="",
            dataset_num_samples=len(dataset),
            method=CalibrationMethod.MinMax,
        )
        ranges = quantizer.fit(dataset, calibration, operators_to_quantize=config.operators_to_quantize)
    quantizer.quantize(save_dir=folder, quantization_config=config, calibration_tensors_range=ranges)
    _replace(folder, "model_quantized.onnx")


def _scheme() -> Callable[..., Any]:
    """optimum's configuration for this machine: signed weights overflow the 16-bit sums of AVX2 without VNNI."""
    from optimum.onnxruntime import AutoQuantizationConfig

    cpu = Path("/proc/cpuinfo")
    words = set(cpu.read_text(encoding="utf-8").split()) if cpu.is_file() else {"asimd"}
    if words & {"avx512_vnni", "avx_vnni"}:
        return AutoQuantizationConfig.avx512_vnni
    if "avx512f" in words:
        return AutoQuantizationConfig.avx512
    return AutoQuantizationConfig.arm64 if "asimd" in words else AutoQuantizationConfig.avx2


def _replace(folder: Path, name: str) -> None:
    if (folder / name).exists():
        os.replace(folder / name, folder / "model.onnx")
