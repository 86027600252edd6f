"""Records of benchmarks for tests: a full one with every section (seeded), and the smallest one there is."""

from __future__ import annotations

import math
import random
from collections.abc import Collection
from typing import Any

__all__ = ["NASTY", "alone", "full", "minimal"]

NASTY = '</script><img src=x onerror="alert(1)">%{x} & <b>"bold"</b> `code` | $\\alpha$'

_LAUNCHES, _TURNS = 4, 9
_ENGINES: dict[str, tuple[str, str, str, str, float, float, float]] = {
    # name: title, package, version, precision, times as slow as ours, largest error, MB of memory
    "precast": ("Precast", "precast", "0.1.0", "fp32", 1.0, 2.1e-6, 182),
    "precast-int8": ("Precast", "precast", "0.1.0", "int8", 0.55, 3.1e-2, 121),
    "torch-eager": ("PyTorch eager", "torch", "2.13.0", "fp32", 1.9, 8.3e-7, 611),
    "torch-compile": ("torch.compile", "torch", "2.13.0", "fp32", 1.45, 9.8e-7, 820),
    "optimum-onnx": ("Optimum ONNX Runtime", "optimum", "2.1.0", "fp32", 1.31, 2.4e-6, 402),
    "sentence-transformers": ("Sentence Transformers", "sentence-transformers", "6.2.0", "fp32", 2.15, 8.3e-7, 655),
    "ctranslate2": ("CTranslate2", "ctranslate2", "4.7.1", "fp32", 1.12, 4.4e-6, 240),
    "openvino": ("OpenVINO", "openvino", "2026.2.0", "fp32", 0.95, 3.9e-6, 350),
    "openvino-int8": ("OpenVINO", "openvino", "2026.2.0", "int8", 0.61, 5.2e-2, 290),
    "llama-cpp": ("llama.cpp", "xllamacpp", "0.2.12", "int8", 0.7, 8.8e-2, 175),
}
_WORKLOADS: dict[str, dict[str, Any]] = {
    "minilm": {
        "title": "all-MiniLM-L6-v2",
        "kind": "encoder",
        "parameters": 22_713_216,
        "description": "Sentence embeddings, real weights",
    },
    "bert-base": {
        "title": "BERT-base",
        "kind": "encoder",
        "parameters": 109_482_240,
        "description": "The classic encoder, random weights",
    },
    "llama-134m": {
        "title": "Llama, 134 M",
        "kind": "decoder",
        "parameters": 134_515_008,
        "description": "A small decoder, 64 greedy tokens",
    },
}
_POINTS: dict[str, list[tuple[str, int, str, int]]] = {
    "minilm": [
        *(("single", 1, length, 2) for length in ("16", "128", "natural")),
        ("single", 1, "128", 1),
        *(("offline", batch, "128", 2) for batch in (8, 32)),
        ("server", 1, "natural", 2),
        ("cold", 1, "16", 2),
    ],
    "bert-base": [
        *(("single", 1, length, 2) for length in ("16", "128")),
        ("offline", 8, "128", 2),
        ("cold", 1, "16", 2),
    ],
    "llama-134m": [("generate", 1, "128", 2), ("generate", 4, "128", 2), ("cold", 1, "128", 2)],
}
_TAKES_PART = {
    "minilm": [name for name in _ENGINES if name != "llama-cpp"],
    "bert-base": [name for name in _ENGINES if name not in ("llama-cpp", "sentence-transformers")],
    "llama-134m": ["precast", "precast-int8", "torch-eager", "torch-compile", "llama-cpp", "ctranslate2"],
}


def full(*, seed: int = 0, workloads: Collection[str] = tuple(_WORKLOADS)) -> dict[str, Any]:
    """Three workloads, two variants of ours and eight peers: ahead, level, behind, and of another precision."""
    rng = random.Random(seed)
    rows = [
        _row(rng, workload, engine, *point)
        for workload, points in _POINTS.items()
        if workload in workloads
        for point in points
        for engine in _TAKES_PART[workload]
    ]
    return {
        "format": "precast-bench/1",
        "created": "2026-11-20T18:04:11Z",
        "command": "python -m benchmarks run --workload minilm,bert-base,llama-134m --threads 2 --launches 4 "
        "--seconds 2 --json benchmarks/results/full.json --html benchmarks/results/full.html",
        "machine": {
            "cpu": "AMD EPYC 7763 64-Core Processor",
            "cores": 2,
            "features": ["avx2", "fma", "f16c"],
            "memory_bytes": 16_700_000_000,
            "system": "Linux 6.8, glibc 2.36",
            "device": None,
        },
        "settings": {"threads": 2, "launches": _LAUNCHES, "seconds": 2.0, "device": "cpu"},
        "calibration": {
            "threads": 2,
            "device": "cpu",
            "gemm": {"fp32": _estimate(1.1e12), "int8": _estimate(2.6e12)},
            "read": _estimate(120e9),
        },
        "engines": {
            name: {
                "title": title,
                "package": package,
                "version": version,
                "precision": precision,
                "python": "3.11.13",
                "versions": {package: version, "numpy": "2.4.6"},
            }
            for name, (title, package, version, precision, *_) in _ENGINES.items()
        },
        "workloads": {name: dict(_WORKLOADS[name]) for name in workloads},
        "rows": rows,
        "absent": [
            {"engine": "onnxruntime-genai", "workload": None, "reason": "no wheel for this Python (3.11, musl)"},
            {"engine": "llama-cpp", "workload": "bert-base", "reason": "its converter does not know BertModel"},
        ],
        "exports": [
            {
                "workload": workload,
                "engine": engine,
                "seconds": rng.uniform(3, 40),
                "peak_bytes": rng.uniform(0.4e9, 2e9),
                "size_bytes": _WORKLOADS[workload]["parameters"] * (4 if _ENGINES[engine][3] == "fp32" else 1.1),
            }
            for workload in workloads
            for engine in ("precast", "precast-int8", "optimum-onnx", "openvino", "ctranslate2")
            if engine in _TAKES_PART[workload]
        ],
        "installs": [
            {
                "engine": engine,
                "size_bytes": megabytes * 1e6,
                "packages": 12,
                "import_seconds": _estimate(seconds),
            }
            for engine, megabytes, seconds in (
                ("precast", 98, 0.09),
                ("torch-eager", 1310, 2.9),
                ("openvino", 240, 0.61),
                ("ctranslate2", 190, 0.34),
            )
        ],
    }


def alone() -> dict[str, Any]:
    """What a plain ``precast bench ARTIFACT`` writes: our variants and nobody else."""
    names = {"precast": "cpu-fp32", "precast-int8": "cpu-int8"}
    record = full(seed=1, workloads=("minilm",))
    return {
        **record,
        "command": "precast bench minilm --length 16,128,natural --html minilm.html",
        "settings": {**record["settings"], "threads": [1, 2]},
        "engines": {name: {**record["engines"][old], "title": name} for old, name in names.items()},
        "rows": [{**row, "engine": names[row["engine"]]} for row in record["rows"] if row["engine"] in names],
        "absent": [],
        "exports": [{**one, "engine": names[one["engine"]]} for one in record["exports"] if one["engine"] in names],
        "installs": [],
    }


def minimal() -> dict[str, Any]:
    """One row and nothing that could be left out."""
    return {
        "format": "precast-bench/1",
        "rows": [{"workload": "w", "engine": "precast", "scenario": "single", "time": {"value": 0.004}}],
    }


def _row(
    rng: random.Random, workload: str, engine: str, scenario: str, batch: int, length: str, threads: int
) -> dict[str, Any]:
    _, _, _, precision, slow, error, megabytes = _ENGINES[engine]
    size = _WORKLOADS[workload]["parameters"] / 22.7e6
    tokens = batch * (24 if length == "natural" else int(length))
    fixed = 0.35e-3 * (4 if engine == "sentence-transformers" else 1)
    base = fixed + 0.055e-3 * tokens * size * 2 / threads * (0.72 if batch > 1 else 1)
    own = slow * rng.uniform(0.93, 1.08)
    seconds = base * own * (40 if scenario == "generate" else 1)
    if scenario == "cold":
        seconds = 0.16 * math.sqrt(size) + slow**3 * 0.4
    rounds = [
        [seconds * launch * rng.gauss(1, 0.012) for _ in range(_TURNS)]
        for launch in (rng.gauss(1, 0.008) for _ in range(_LAUNCHES))
    ]
    row: dict[str, Any] = {
        "workload": workload,
        "engine": engine,
        "precision": precision,
        "device": "cpu",
        "threads": threads,
        "scenario": scenario,
        "batch": batch,
        "length": length,
        "time": _estimate(seconds),
        "floor": _estimate(seconds * 0.97),
        "rounds": rounds,
        "floors": [seconds * 0.97] * _LAUNCHES,
        "memory": {"peak_bytes": megabytes * 1e6 * size**0.7, "resident_bytes": megabytes * 0.8e6},
        "error": {"against": "PyTorch float32", "max_abs": error * size**0.3, "cosine": 1 - error**2},
    }
    if scenario in ("single", "server"):
        tail = sorted(seconds * math.exp(abs(rng.gauss(0, 0.08))) for _ in range(120))
        row["latencies"] = tail
        row["quantiles"] = {name: _estimate(tail[at]) for name, at in (("p50", 60), ("p90", 108), ("p99", 118))}
    if scenario in ("single", "offline"):
        row["throughput"] = {
            "texts_per_second": _estimate(batch / seconds),
            "tokens_per_second": _estimate(tokens / seconds),
        }
        flops = 2.0 * tokens * _WORKLOADS[workload]["parameters"] * 0.5
        row["work"] = {"flops": flops, "bytes": _WORKLOADS[workload]["parameters"] * 2.0 + tokens * 4e5}
    if scenario == "generate":
        row["throughput"] = {"tokens_per_second": _estimate(batch * 64 / seconds)}
        row["first_token"] = _estimate(seconds * 0.11)
        row["per_token"] = _estimate(seconds * 0.89 / 63)
    if scenario == "server":
        row["server"] = {
            "bound_seconds": 0.05,
            "held_per_second": _estimate(0.7 / seconds),
            "failed_per_second": 0.8 / seconds,
            "utilisation": 0.7,
        }
    return row


def _estimate(value: float, share: float = 0.03) -> dict[str, Any]:
    return {"value": value, "low": value * (1 - share), "high": value * (1 + share), "runs": _LAUNCHES}


def nasty(record: dict[str, Any]) -> dict[str, Any]:
    for about in record["engines"].values():
        about["title"] = f"{about['title']} {NASTY}"
        about["version"] = NASTY
    for about in record["workloads"].values():
        about["title"] = about["description"] = NASTY
    for entry in record["absent"]:
        entry["reason"] = NASTY
    record["command"] = NASTY
    record["machine"]["cpu"] = NASTY
    return record
