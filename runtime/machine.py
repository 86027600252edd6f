"""What this machine and this environment have: CPU, packages, providers, and how to get what is missing."""

from __future__ import annotations

import os
import platform
import re
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from precast.runtime import kernels
from precast.runtime.errors import DependencyError

__all__ = ["cpu_features", "cpu_name", "extras", "memory_bytes", "own_peak", "report"]

# What kernels here and in ONNX Runtime ask for, by the names of Linux's /proc/cpuinfo (x86 flags, Arm features).
_FEATURES = (
    *("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni"),
    *("amx_tile", "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme"),
)
_FOR = {
    "cpu": "run artifacts on the CPU",
    "gpu": "run artifacts on an NVIDIA GPU",
    "export": "export checkpoints",
    "vision": "images",
    "video": "videos",
    "audio": "sound",
    "report": "pages with charts of a benchmark",
    "demo": "precast demo without the Hub",
}


def _cpuinfo() -> str:
    with suppress(OSError):
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    return ""


def cpu_name() -> str:
    """The processor's name, as far as the system tells."""
    match = re.search(r"^model name\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
    return match.group(1).strip() if match else platform.processor() or platform.machine()


def cpu_features() -> list[str]:
    """Instruction sets that make a difference to speed, as Linux names them; empty where it cannot be asked."""
    match = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
    found = set(match.group(1).split()) if match else set()
    return [name for name in _FEATURES if name in found]


def extras() -> dict[str, list[str]]:
    """The package's extras (without ``dev``) and the packages each one brings, as its own metadata says."""
    found: dict[str, list[str]] = {}
    for requirement in requires("precast") or ():
        name = re.match(r"[A-Za-z0-9._-]+", requirement)
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", requirement)
        if name and extra and extra.group(1) in _FOR and name.group() != "precast":
            found.setdefault(extra.group(1), []).append(name.group())
    return found


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _providers() -> tuple[str | None, list[str]]:
    """ONNX Runtime's version and providers; the wheel may be onnxruntime or one of its kin."""
    from precast.runtime.backends.onnxruntime import engine

    try:
        onnxruntime = engine()
    except DependencyError:
        return None, []
    return str(onnxruntime.__version__), list(onnxruntime.get_available_providers())


def own_peak() -> int:
    """Largest resident size of this process so far, in bytes."""
    import resource

    # Linux counts ru_maxrss in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def memory_bytes() -> int | None:
    """The main memory of this machine."""
    with suppress(ValueError, OSError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def _hub_limits() -> dict[str, float]:
    """Of every request to a Hub; a file may have the bytes that the Hub lists, and not one more."""
    from precast.runtime.hub import PUSH_ALLOWANCE
    from precast.runtime.hub_files import LISTING_LIMIT
    from precast.runtime.hub_transport import ALLOWANCE, REDIRECTS, SILENCE, SLOWEST

    return {
        "silence_seconds": SILENCE,
        "allowance_seconds": ALLOWANCE,
        "push_allowance_seconds": PUSH_ALLOWANCE,
        "least_bytes_per_second": SLOWEST,
        "listing_bytes": LISTING_LIMIT,
        "redirects": REDIRECTS,
    }


def report() -> dict[str, Any]:
    """Everything ``precast env`` shows."""
    from precast.runtime.backends.onnxruntime import default_threads
    from precast.runtime.cache import cache_folder

    engine, providers = _providers()
    base = {name: _version(name) for name in ("precast", "numpy", "tokenizers", "huggingface_hub", "typer", "rich")}
    document: dict[str, Any] = {
        "precast": base.pop("precast"),
        "python": platform.python_version(),
        "executable": sys.executable,
        "system": platform.platform(),
        "cpu": {"name": cpu_name(), "usable": default_threads(), "features": cpu_features()},
        "memory_bytes": memory_bytes(),
        "nvidia_driver": os.path.exists("/proc/driver/nvidia/version"),
        "onnxruntime": {"version": engine, "providers": providers},
        "kernels": {"isa": kernels.ISA, "builds": list(kernels.isas()), "why_not": kernels.why_not()},
        "packages": base,
        "extras": {},
        "cache": os.fspath(cache_folder()),
        "hub": {
            "endpoint": os.environ.get("HF_ENDPOINT", "https://huggingface.co"),
            "offline": os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"),
            "limits": _hub_limits(),
        },
        "missing": [],
    }
    for extra, names in extras().items():
        # onnxruntime and onnxruntime-gpu are the same module: what can be imported counts.
        found = {name: engine if name == "onnxruntime" else _version(name) for name in names}
        document["extras"][extra] = found
        absent = [name for name, installed in found.items() if installed is None]
        wanted = extra != "gpu" or document["nvidia_driver"]
        if absent and wanted:
            document["missing"].append(
                {"for": _FOR[extra], "packages": absent, "get": f'pip install "precast[{extra}]"'}
            )
    if document["nvidia_driver"] and engine and "CUDAExecutionProvider" not in providers and not any(
        "GPU" in entry["for"] for entry in document["missing"]
    ):  # fmt: skip
        get = 'pip uninstall onnxruntime && pip install --force-reinstall "precast[gpu]"'
        document["missing"].append({"for": _FOR["gpu"], "packages": ["CUDAExecutionProvider"], "get": get})
    return document
