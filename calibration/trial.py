"""An artifact's float32 graphs with weights that can be exchanged, and values inside that can be looked at: what is
tried before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from precast.calibration.opened import opened
from precast.graphs.dialects.onnxruntime import ONNXRUNTIME
from precast.graphs.passes.base import run
from precast.graphs.passes.clean import Clean
from precast.graphs.passes.lower import Lower
from precast.graphs.passes.raise_weights import RaiseWeights
from precast.graphs.tensors import lazy, sizes
from precast.runtime.artifact import Artifact, Component, Variant
from precast.runtime.backends.base import Array
from precast.runtime.backends.onnxruntime import OnnxRuntime
from precast.runtime.parity import Loaded

__all__ = ["Trial"]

_INLINE = 1 << 10  # bytes of an initializer that stays in the graph
# Weights are read where they lie: packed copies of them would double what a trial holds.
_SESSION = {"graph_optimization_level": "basic", "entries": {"session.disable_prepacking": "1"}}


class Trial:
    """One component in float32, its weights [N, K] under the names they have in the reference.

    Args:
        folder: where graphs are written, which hold no weights.
    """

    def __init__(self, artifact: Artifact, component: Component, variant: Variant, folder: Path) -> None:
        self.component, self._folder = component, folder
        self.weights: dict[str, ir.TensorProtocol] = {}
        self.raised = opened(artifact, variant)
        run(self.raised, [RaiseWeights(self.weights)])

    def loaded(self, arrays: Mapping[str, Callable[[], Array]], watched: Iterable[str] = ()) -> Loaded:
        """The component with weights that are made in place of its own; ``watched`` values are outputs too."""
        model = self.raised.clone()
        graph = model.graph
        values = {value.name: value for node in graph for value in node.outputs}
        graph.outputs.extend(values[name] for name in watched)
        for name, make in arrays.items():
            held = graph.initializers[name]
            # Made when it is laid out, and gone then: one copy of what is exchanged is there at a time.
            held.const_value = lazy(make, sizes(held.shape), ir.DataType.FLOAT, name)
        run(model, [Lower(ONNXRUNTIME), Clean()])
        given: dict[str, Array] = {}
        for name, value in list(graph.initializers.items()):
            tensor = value.const_value
            assert tensor is not None
            if tensor.nbytes <= _INLINE:
                value.const_value = ir.tensor(tensor.numpy(), dtype=tensor.dtype, name=name)
                continue
            given[name] = np.ascontiguousarray(tensor.numpy())
            shape = ir.Shape(sizes(tensor.shape))
            value.const_value = ir.ExternalTensor("given", 0, tensor.nbytes, tensor.dtype, shape=shape, name=name)
        path = self._folder / f"{self.component.name}.onnx"
        path.write_bytes(ir.to_proto(model).SerializeToString())
        runner = OnnxRuntime("CPUExecutionProvider").load(path, session=_SESSION, threads=None, arrays=given)
        path.unlink()
        return Loaded(runner, self.component.inputs, self.component.outputs, self.component.states, ONNXRUNTIME.state)
