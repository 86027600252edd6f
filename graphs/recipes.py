"""How the graphs of each variant are made, component by component. Data; the exporter and the tests read it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from precast.graphs.dialects.base import Dialect
from precast.graphs.dialects.native import INT8_CACHE, NATIVE
from precast.graphs.dialects.onnxruntime import ONNXRUNTIME, UNPACKED
from precast.graphs.dialects.portable import PORTABLE
from precast.graphs.passes.allow_rounding import AllowRounding
from precast.graphs.passes.base import GraphPass
from precast.graphs.passes.canonical import Canonical
from precast.graphs.passes.clean import Clean
from precast.graphs.passes.fold_batch_norms import FoldBatchNorms
from precast.graphs.passes.fold_constants import FoldConstants
from precast.graphs.passes.fuse_bias import FuseBias
from precast.graphs.passes.fuse_feed_forward import FuseFeedForward
from precast.graphs.passes.fuse_native_bias import FuseNativeBias
from precast.graphs.passes.lower import Lower
from precast.graphs.passes.narrow_weights import NarrowWeights
from precast.graphs.passes.quantize_weights import QuantizeWeights, Rounder
from precast.graphs.passes.smooth_channels import SmoothChannels
from precast.runtime.errors import InputError, closest, listing

__all__ = ["RECIPES", "Evidence", "Recipe", "Role", "assigned", "recipes_for"]

# How a component is used: a "step" remembers something from call to call, a "call" does not.
Role = Literal["call", "step"]
_USED: Mapping[Role, str] = {
    "step": "components that remember something between calls",
    "call": "components that remember nothing between calls",
}


# What the native dialect's graphs ask of a machine at least (precast.runtime.kernels.KNOWN).
_KERNELS = "precast-kernels-2"
# Operators that ask for more.
_LATER = {
    "precast.cpu::HalfLinear": "precast-kernels-3",
    "precast.cpu::HalfEmbedding": "precast-kernels-3",
    "precast.cpu::BlockFeedForward": "precast-kernels-4",
}


# Maps of features are laid out for the machine's vectors, and activations join the convolutions in front of them:
# ResNet-50 takes 0.85 of the time (90.6/106.4 ms of CPU at 1x3x224x224, least of 7, 1 thread of an AVX2 EPYC).
_CONVOLUTIONS: Mapping[str, Any] = {"graph_optimization_level": "all"}


@dataclass(frozen=True)
class Evidence:
    """What was measured of a component before its passes run.

    Args:
        sensitive: names of the weights that need more bits than its precision has.
        smoothing: what the channels of weights that read a norm are multiplied by, by name.
        rounders: what rounds weights whose inputs were seen, by name.
    """

    sensitive: Sequence[str] = ()
    smoothing: Mapping[str, Any] = field(default_factory=dict)
    rounders: Mapping[str, Rounder] = field(default_factory=dict)


_NONE = Evidence()


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the graphs of one variant are made and run; where each role has its own, several recipes share a variant.

    Args:
        made_by: makes the passes of what was measured, fresh for every graph.
        provider: the engine's execution provider. engine: a file of precast.runtime.backends.
        session: session options the artifact prescribes (see precast.runtime.backends.onnxruntime).
        isa: what a machine must have beyond the provider, or None; such a variant is made beside a general one.
        role: what components it is for; None: any.
        evidence: what its passes need to have been measured: which "weights" are sensitive, or nothing.
        cache: what keys and values are held in, where that was asked for.
    """

    target: str
    precision: str
    dialect: Dialect
    made_by: Callable[[Evidence], tuple[GraphPass, ...]]
    provider: str
    session: Mapping[str, Any] = field(default_factory=dict)
    isa: str | None = None
    suffix: str = ""
    role: Role | None = None
    evidence: Literal["weights"] | None = None
    cache: str | None = None
    engine: str = "onnxruntime"

    @property
    def variant(self) -> str:
        return f"{self.target}-{self.precision}{self.suffix}"

    def passes(self, evidence: Evidence = _NONE) -> tuple[GraphPass, ...]:
        """The passes over one graph, of which that was measured."""
        return self.made_by(evidence)

    def needs(self, operators: Iterable[str]) -> str | None:
        """What a machine must have for a graph of these operators, ``isa`` at least."""
        return self.isa and max((self.isa, *(_LATER[name] for name in operators if name in _LATER)))

    def options(self, operators: Iterable[str]) -> Mapping[str, Any]:
        """The session options for a graph of these operators."""
        if self.provider != "CPUExecutionProvider" or "Conv" not in operators:
            return self.session
        return {**self.session, **_CONVOLUTIONS}

    def serves(self, role: Role) -> bool:
        """Whether it is for components of a role."""
        return self.role in (None, role)


def _read() -> tuple[GraphPass, ...]:
    """What every recipe begins with: shape arithmetic and norms of constants are no work for a session."""
    return (FoldConstants(), Clean(), FoldBatchNorms())


def _written() -> tuple[GraphPass, ...]:
    return (FoldConstants(), Clean(), Canonical())


def _onnxruntime(dialect: Dialect, *before: GraphPass) -> tuple[GraphPass, ...]:
    return (*_read(), *before, Lower(dialect), FuseBias(), *_written())


def _native(dialect: Dialect, *before: GraphPass) -> tuple[GraphPass, ...]:
    return (*_read(), *before, Lower(dialect), FuseNativeBias(), *_written())


def _portable(dialect: Dialect) -> tuple[GraphPass, ...]:
    return (*_read(), Lower(dialect), *_written())


def _blocks(dialect: Dialect, bits: int, row_bits: int, evidence: Evidence) -> tuple[GraphPass, ...]:
    """Weights in blocks of 32 channels, which is what GGUF's types have, and what keeps 4 bits near the reference."""
    native = (FuseNativeBias(), FuseFeedForward(), AllowRounding(row_bits=row_bits))
    spelled = (FuseBias(),) if dialect.name == ONNXRUNTIME.name else native
    return (
        *_read(),
        *((SmoothChannels(evidence.smoothing),) if evidence.smoothing else ()),
        QuantizeWeights(bits, sensitive=evidence.sensitive, rounders=evidence.rounders),
        Lower(dialect),
        *spelled,
        *_written(),
    )


_BLOCK_DIALECTS: tuple[tuple[Dialect, str, Role | None], ...] = (
    (ONNXRUNTIME, "", "step"),
    (UNPACKED, "", "call"),
    (NATIVE, "-native", "step"),
    (NATIVE, "-native", "call"),
    (INT8_CACHE, "-native-int8-cache", "step"),
)

RECIPES: tuple[Recipe, ...] = (
    Recipe(
        target="cpu",
        precision="fp32",
        dialect=ONNXRUNTIME,
        made_by=lambda _: _onnxruntime(ONNXRUNTIME, NarrowWeights()),
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
        made_by=lambda _: _native(NATIVE, NarrowWeights()),
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
            made_by=partial(_blocks, dialect, bits, 8 if role == "call" else 12),
            provider="CPUExecutionProvider",
            session={"graph_optimization_level": "basic"},
            isa=_KERNELS if suffix else None,
            suffix=suffix,
            role=role,
            evidence="weights",
            cache="int8" if dialect is INT8_CACHE else None,
        )
        for bits in (8, 4)
        for dialect, suffix, role in _BLOCK_DIALECTS
    ),
    Recipe(
        target="cuda",
        precision="fp32",
        dialect=ONNXRUNTIME,
        made_by=lambda _: _onnxruntime(ONNXRUNTIME),
        provider="CUDAExecutionProvider",
        # ONNX Runtime multiplies float32 in TF32 (10 bits of mantissa) unless it is told not to: no float32 gate holds.
        session={"graph_optimization_level": "basic", "provider_options": {"use_tf32": "0"}},
    ),
    Recipe(
        target="tensorrt",
        precision="fp32",
        dialect=PORTABLE,
        made_by=lambda _: _portable(PORTABLE),
        provider="TensorrtExecutionProvider",
        session={"graph_optimization_level": "basic"},
    ),
)


def recipes_for(target: str, precision: str, cache: str | None = None) -> tuple[Recipe, ...]:
    """The recipes an export for a target and a precision makes, the one that runs anywhere first.

    Args:
        cache: what keys and values are held in; None: float32. Where it is int8, the variant for who has the kernels
            has it, and the one that runs anywhere has float32.

    Raises:
        InputError: there is none; names the ones there are.
    """
    fitting = tuple(item for item in RECIPES if (item.target, item.precision) == (target, precision))
    found = tuple(item for item in fitting if item.cache == cache or (item.isa is None and item.cache is None))
    if cache is not None and not any(item.cache == cache for item in found):
        have = [item for item in RECIPES if item.cache is not None]
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
    targets = sorted({item.target for item in RECIPES})
    if target not in targets:
        raise InputError(f"target {target!r} is unknown. {closest(target, targets)} Targets: {listing(targets)}.")
    precisions = dict.fromkeys(item.precision for item in RECIPES if item.target == target)
    raise InputError(f"precision {precision!r} is not available for target {target!r} (there: {listing(precisions)}).")


def assigned(recipes: Sequence[Recipe], roles: Mapping[str, Role], what: str) -> list[dict[str, Recipe]]:
    """The recipe of each component, by its name, in each variant that these recipes make of a model.

    A component whose role its variant has no recipe for is made as in the variant of the same precision for the same
    machines that has one: the encoder in front of a cache of int8 has no cache. Variants that are for none of the
    components are left out.

    Args:
        recipes: of one target and precision (`recipes_for`). roles: of the model's components, in order.
        what: the model in words, for errors: "a bert for fill-mask".

    Raises:
        InputError: nothing is made of a component, or the cache that was asked for is nobody's.
    """
    found: list[dict[str, Recipe]] = []
    for variant in dict.fromkeys(item.variant for item in recipes):
        own = [item for item in recipes if item.variant == variant]
        if not any(item.serves(role) for item in own for role in roles.values()):
            continue
        made = {}
        for name, role in roles.items():
            alike = [item for item in RECIPES if item.cache is None and _alike(item, own[0])]
            fitting = next((item for item in (*own, *alike) if item.serves(role)), None)
            if fitting is None:
                raise InputError(
                    f"precision {own[0].precision!r} for target {own[0].target!r} is made of {_USED[own[0].role]} only "  # type: ignore[index]
                    f"so far, and component {name!r} of {what} is none. Export it with precision fp32."
                )
            made[name] = replace(fitting, suffix=own[0].suffix)
        found.append(made)
    served = {one.cache for made in found for one in made.values()}
    for item in recipes:
        if item.role is not None and (not found or item.cache not in served):
            asked = f"precision {item.precision!r}" if item.cache is None else f"cache {item.cache!r}"
            instead = "Export it with precision fp32" if item.cache is None else "Export it without"
            raise InputError(f"{asked} is made of {_USED[item.role]} only, and {what} has none. {instead}.")
    return found


def _alike(one: Recipe, other: Recipe) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in ("target", "precision", "isa"))
