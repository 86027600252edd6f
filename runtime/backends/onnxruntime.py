"""ONNX Runtime: providers named explicitly, no silent fallback, a fixed number of threads, no prints."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

from precast.runtime import kernels
from precast.runtime.artifact import StateSpec
from precast.runtime.backends.base import Array, names
from precast.runtime.errors import BackendError, DependencyError, ProviderError, listing
from precast.runtime.ports import Port
from precast.runtime.states import Memory

__all__ = ["OnnxRuntime", "backend", "default_threads", "engine"]

_LEVELS = {
    "disabled": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
_ENTRIES = {"session.intra_op.allow_spinning", "session.disable_prepacking", "session.force_spinning_stop"}
_PROVIDER_OPTIONS = {"device_id", "use_tf32"}
_INSTALL = {
    "CPUExecutionProvider": 'pip install "precast[cpu]"',
    "CUDAExecutionProvider": 'pip install "precast[gpu]" (it takes the place of onnxruntime: uninstall that first)',
    "TensorrtExecutionProvider": 'pip install "precast[gpu]" and TensorRT 10 (https://onnxruntime.ai/docs/execution-providers)',
}


def engine(provider: str = "CPUExecutionProvider") -> Any:
    """The ``onnxruntime`` module; raises DependencyError where it is not installed.

    Every import of it goes through here: from 1.31 on it writes a device id into the home and collects telemetry,
    unless it is told not to before it is loaded. Who wants that sets ORT_DISABLE_TELEMETRY=0.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise DependencyError(
            f"ONNX Runtime is needed to run an artifact and is not installed: {_INSTALL[provider]}"
        ) from error
    return onnxruntime


def default_threads() -> int:
    """The CPUs this process may use: the affinity mask counts, not the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Session:
    """A loaded graph. ``run`` holds no state of its own, so that threads may share it."""

    def __init__(self, session: Any, kept: Any = None) -> None:
        # The engine's own call where it is within reach: `InferenceSession.run` first compares input names, which were
        # compared when the model was loaded, and offers a fallback to other providers, which is off.
        engine_run = getattr(getattr(session, "_sess", None), "run", None)
        self._run = session.run if engine_run is None else lambda names, feed: engine_run(names, feed, None)
        self.session = session
        self._kept = kept  # arrays of ours that the session reads
        self.input_names = names(session.get_inputs())
        self.output_names = names(session.get_outputs())
        self.input_specs: Mapping[str, Port] = _specs(session.get_inputs())
        self.output_specs: Mapping[str, Port] = _specs(session.get_outputs())
        self._outputs = list(self.output_names)

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        try:
            result: list[Array] = self._run(self._outputs, inputs)
        except Exception as error:
            raise BackendError(f"ONNX Runtime could not run the graph: {error}") from error
        return result

    def memory(
        self,
        specs: Sequence[Port],
        states: Sequence[StateSpec],
        *,
        rows: int,
        capacity: int,
        layout: Mapping[str, Any],
    ) -> Memory:
        """See `Runner.memory`: arrays of NumPy, which the CPU's sessions read and write where they are."""
        return Memory(self, specs, states, rows=rows, capacity=capacity, layout=layout)

    def prepare(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> Callable[[], None]:
        """See `Runner.prepare`."""
        value_of = engine().OrtValue.ortvalue_from_numpy
        binding = self.session.io_binding()
        values: dict[int, Any] = {}
        try:
            for arrays, bind in ((inputs, binding.bind_ortvalue_input), (outputs, binding.bind_ortvalue_output)):
                for name, array in arrays.items():
                    # On a CPU a value is another view of the array's memory; one array is one value.
                    value = values.setdefault(id(array), value_of(array) if id(array) not in values else None)
                    bind(name, value)
        except Exception as error:
            raise BackendError(f"ONNX Runtime could not take the graph's arrays: {error}") from error
        run, options, kept = self.session._sess.run_with_iobinding, None, (inputs, outputs, values)

        def call() -> None:
            try:
                run(binding._iobinding, options)
            except Exception as error:
                raise BackendError(f"ONNX Runtime could not run the graph: {error}") from error

        call.__dict__["kept"] = kept  # the arrays live as long as the call
        return call


def _specs(values: Sequence[Any]) -> dict[str, Port]:
    """What a session takes or gives, in the words of a manifest."""
    return {
        value.name: Port(
            value.name, _dtype(value.type), tuple(size if isinstance(size, int) else str(size) for size in value.shape)
        )
        for value in values
    }


def _dtype(kind: str) -> str:
    name = kind.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(name, name)


def _check_session(session: Mapping[str, Any], graph: str) -> None:
    """A manifest may come from anybody, and some options of ONNX Runtime name files: only known ones pass."""
    unknown = {
        *(set(session) - {"graph_optimization_level", "entries", "provider_options", "initializers"}),
        *(set(session.get("entries", {})) - _ENTRIES),
        *(set(session.get("provider_options", {})) - _PROVIDER_OPTIONS),
    }
    if unknown:
        raise BackendError(f"{graph} asks for session options that are not known here: {listing(sorted(unknown))}.")
    level = session.get("graph_optimization_level", "basic")
    if level not in _LEVELS:
        raise BackendError(f"{graph} asks for graph_optimization_level {level!r}; known: {listing(_LEVELS)}.")


def _register_kernels(options: Any, isa: str, graph: str) -> None:
    """Make the operators that ``isa`` names known to a session.

    Raises:
        ProviderError: they are not installed, or not the ones the graph was cast for.
    """
    if isa not in kernels.KNOWN:
        raise ProviderError(
            f"{graph} was cast for {isa!r}, and this precast has {kernels.ISA!r}. "
            "Install the precast that exported it, or export it again; a variant without an isa runs anywhere."
        )
    reason = kernels.why_not()
    if reason:
        raise ProviderError(f"{graph} needs {isa}: {reason} A variant without an isa runs anywhere.")
    options.register_custom_ops_library(os.fspath(kernels.library_path() or ""))


class OnnxRuntime:
    """One execution provider of ONNX Runtime."""

    def __init__(self, provider: str) -> None:
        self.provider = provider

    def supports(self, isa: str | None) -> bool:
        """See `Backend.supports`."""
        return isa is None or (isa in kernels.KNOWN and kernels.available())

    def load(
        self,
        graph: Path,
        *,
        session: Mapping[str, Any],
        threads: int | None,
        isa: str | None = None,
        arrays: Mapping[str, Array] = MappingProxyType({}),
    ) -> _Session:
        """See `Backend.load`. ``session`` holds ``graph_optimization_level``, ``entries`` (config keys by name),
        ``provider_options`` and ``initializers`` (see there); ``arrays`` are initializers that lie beside the graph and
        are not read from there."""
        onnxruntime = engine(self.provider)
        available = onnxruntime.get_available_providers()
        if self.provider not in available:
            raise ProviderError(
                f"this artifact's variant runs on {self.provider}, which the installed onnxruntime "
                f"{onnxruntime.__version__} does not have (it has: {listing(available)}). "
                f"Install it: {_INSTALL.get(self.provider, 'an onnxruntime build with that provider')}."
            )
        # Errors only: a warning printed by a library is nothing a user of ours can act on.
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = default_threads() if threads is None else threads
        options.inter_op_num_threads = 1
        _check_session(session, graph.name)
        level = str(session.get("graph_optimization_level", "basic"))
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, _LEVELS[level])
        for key, value in dict(session.get("entries", {})).items():
            options.add_session_config_entry(key, str(value))
        if self.provider != "CPUExecutionProvider":
            # A node that the accelerator does not take is an error here, never a slow surprise.
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        provider_options = dict(session.get("provider_options", {}))
        if isa is not None:
            _register_kernels(options, isa, graph.name)
        kept = _give_initializers(options, graph, session.get("initializers", {}), arrays)
        try:
            loaded = onnxruntime.InferenceSession(
                os.fspath(graph), options, providers=[(self.provider, provider_options)], enable_fallback=0
            )
        except Exception as error:
            kind = ProviderError if self.provider != "CPUExecutionProvider" else BackendError
            raise kind(f"{self.provider} could not load {graph.name}: {error}") from error
        if loaded.get_providers()[0] != self.provider:
            raise ProviderError(
                f"{self.provider} was asked for, and ONNX Runtime opened the graph on "
                f"{listing(loaded.get_providers())}. "
                f"Its libraries are incomplete: {_INSTALL.get(self.provider, '')}"
            )
        return _Session(loaded, kept)


def _give_initializers(
    options: Any, graph: Path, rules: Mapping[str, Mapping[str, Any]], arrays: Mapping[str, Array]
) -> Any:
    """Arrays that are given, or made of weights in another layout (`precast.runtime.initializers`); they live as long
    as what is returned, and the session reads them where they are."""
    if not rules and not arrays:
        return None
    from precast.runtime.initializers import made

    names, values = [], []
    for name, array in chain(arrays.items(), made(graph.parent, rules, graph.name)):
        names.append(name)
        values.append(engine().OrtValue.ortvalue_from_numpy(array))
    options.add_external_initializers(names, values)
    return values


def backend(provider: str) -> OnnxRuntime:
    """See `precast.runtime.backends.engines`."""
    return OnnxRuntime(provider)
