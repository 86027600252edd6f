"""How the graph of each variant is made. Data; the exporter and the tests read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from precast.graphs.dialects.base import Dialect
from precast.graphs.dialects.native import INT8_CACHE, NATIVE
from precast.graphs.dialects.onnxruntime import ONNXRUNTIME
from precast.graphs.dialects.portable import PORTABLE
from precast.graphs.passes.base import GraphPass
from precast.graphs.passes.canonical import Canonical
from precast.graphs.passes.clean import Clean
from precast.graphs.passes.fold_constants import FoldConstants
from precast.graphs.passes.fuse_bias import FuseBias
from precast.graphs.passes.fuse_native_bias import FuseNativeBias
from precast.graphs.passes.lower import Lower
from precast.graphs.passes.quantize_weights import QuantizeWeights
from precast.runtime.errors import InputError, closest, listing

__all__ = ["RECIPES", "Recipe", "recipes_for"]


# What the native dialect's graphs ask of a machine (precast.runtime.kernels.ISA): 2 brought attention over caches, RMS
# norms and weights in blocks.
_KERNELS = "precast-kernels-2"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the graph of one variant is made and run.

    Args:
        passes: makes the passes, fresh for every graph.
        provider: the engine's execution provider. engine: a file of precast.runtime.backends.
        session: session options the artifact prescribes (see precast.runtime.backends.onnxruntime).
        isa: what a machine must have beyond the provider, or None; such a variant is made beside a general one.
        language_models: only those are made so.
        cache: what keys and values are held in, where that was asked for.
    """

    target: str
    precision: str
    dialect: Dialect
    passes: Callable[[], tuple[GraphPass, ...]]
    provider: str
    session: Mapping[str, Any] = field(default_factory=dict)
    isa: str | None = None
    suffix: str = ""
    language_models: bool = False
    cache: str | None = None
    engine: str = "onnxruntime"

    @property
    def variant(self) -> str:
        return f"{self.target}-{self.precision}{self.suffix}"


def _onnxruntime(dialect: Dialect) -> tuple[GraphPass, ...]:
    return (FoldConstants(), Clean(), Lower(dialect), FuseBias(), FoldConstants(), Clean(), Canonical())


def _native(dialect: Dialect) -> tuple[GraphPass, ...]:
    return (FoldConstants(), Clean(), Lower(dialect), FuseNativeBias(), FoldConstants(), Clean(), Canonical())


def _portable(dialect: Dialect) -> tuple[GraphPass, ...]:
    return (FoldConstants(), Clean(), Lower(dialect), FoldConstants(), Clean(), Canonical())


def _blocks(dialect: Dialect, bits: int) -> tuple[GraphPass, ...]:
    """Weights in blocks of 32 channels, which is what GGUF's types have, and what keeps 4 bits near the reference."""
    fuse = FuseBias() if dialect is ONNXRUNTIME else FuseNativeBias()
    return (
        FoldConstants(),
        Clean(),
        QuantizeWeights(bits),
        Lower(dialect),
        fuse,
        FoldConstants(),
        Clean(),
        Canonical(),
    )


_ALL = (
    Recipe(
        target="cpu",
        precision="fp32",
        dialect=ONNXRUNTIME,
        passes=lambda: _onnxruntime(ONNXRUNTIME),
        provider="CPUExecutionProvider",
        # MultiHeadAttention rather than MatMul and Softmax: unfused took 1.03, 1.02, 1.01, 1.00 times as long at 1x16,
        # 1x128, 1x384, 8x128 of MiniLM-L6 (medians of 25, 16, 10, 10 paired rounds, quartiles within 0.03; 2 threads of
        # an AVX2 EPYC: 3.56/3.62, 22.8/23.1, 72.8/74.5, 172.4/172.3 ms). benchmarks/spellings.py repeats it.
        # The graph is fused already; what is left to the session is memory layout.
        session={"graph_optimization_level": "basic"},
    ),
    Recipe(
        target="cpu",
        precision="fp32",
        dialect=NATIVE,
        # Query, key and value keep products of their own: one packed product was as fast (1.01, 1.00, 1.01, 0.99 at
        # 1x16, 1x128, 1x384, 8x128 of MiniLM-L6, CPU time on one AVX2 core) and would store those weights twice.
        passes=lambda: _native(NATIVE),
        provider="CPUExecutionProvider",
        session={"graph_optimization_level": "basic"},
        isa=_KERNELS,
        suffix="-native",
    ),
    *(
        Recipe(
            target="cpu",
            precision=f"int{bits}",
            dialect=dialect,
            passes=lambda dialect=dialect, bits=bits: _blocks(dialect, bits),  # type: ignore[misc]
            provider="CPUExecutionProvider",
            session={"graph_optimization_level": "basic"},
            isa=_KERNELS if suffix else None,
            suffix=suffix,
            language_models=True,
            cache="int8" if dialect is INT8_CACHE else None,
        )
        for bits in (8, 4)
        for dialect, suffix in ((ONNXRUNTIME, ""), (NATIVE, "-native"), (INT8_CACHE, "-native-int8-cache"))
    ),
    Recipe(
        target="cuda",
        precision="fp32",
        dialect=ONNXRUNTIME,
        passes=lambda: _onnxruntime(ONNXRUNTIME),
        provider="CUDAExecutionProvider",
        # ONNX Runtime multiplies float32 in TF32 (10 bits of mantissa) unless it is told not to: no float32 gate holds.
        session={"graph_optimization_level": "basic", "provider_options": {"use_tf32": "0"}},
    ),
    Recipe(
        target="tensorrt",
        precision="fp32",
        dialect=PORTABLE,
        passes=lambda: _portable(PORTABLE),
        provider="TensorrtExecutionProvider",
        session={"graph_optimization_level": "basic"},
    ),
)

RECIPES: dict[str, Recipe] = {item.variant: item for item in _ALL}


def recipes_for(target: str, precision: str, cache: str | None = None) -> tuple[Recipe, ...]:
    """The recipes an export for a target and a precision makes, the one that runs anywhere first.

    Args:
        cache: what keys and values are held in; None: float32. Where it is int8, the variant for who has the kernels
            has it, and the one that runs anywhere has float32.

    Raises:
        InputError: there is none; names the ones there are.
    """
    fitting = tuple(item for item in _ALL if (item.target, item.precision) == (target, precision))
    found = tuple(item for item in fitting if item.cache == cache or (item.isa is None and item.cache is None))
    if cache is not None and not any(item.cache == cache for item in found):
        have = [item for item in _ALL if item.cache is not None]
        caches, places, numbers = (
            listing(dict.fromkeys(str(getattr(item, part)) for item in have))
            for part in ("cache", "target", "precision")
        )
        raise InputError(
            f"cache {cache!r} is not available for target {target!r} and precision {precision!r}. There is the cache "
            f"{caches} for {places} and {numbers}."
        )
    if found:
        return found
    targets = sorted({item.target for item in _ALL})
    if target not in targets:
        raise InputError(f"target {target!r} is unknown. {closest(target, targets)} Targets: {listing(targets)}.")
    precisions = dict.fromkeys(item.precision for item in _ALL if item.target == target)
    raise InputError(f"precision {precision!r} is not available for target {target!r} (there: {listing(precisions)}).")
