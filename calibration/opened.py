"""The graph of an artifact's variant, its weights read where they lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from precast.graphs.tensors import lazy, sizes
from precast.runtime.artifact import Artifact, Variant
from precast.runtime.backends.base import Array
from precast.runtime.errors import ArtifactError
from precast.runtime.fields import Fields
from precast.runtime.initializers import made_of
from precast.runtime.layouts import Rule

__all__ = ["opened"]


def opened(artifact: Artifact, variant: Variant) -> ir.Model:
    """A variant's graph; what a session is given, made of weights in another layout, is made when it is read.

    Raises:
        ArtifactError: the graph cannot be read, or reads a file that is no weight of the artifact's.
    """
    path = Path(artifact.file(variant.graph))
    try:
        model = ir.load(path)
    except Exception as error:
        raise ArtifactError(f"{variant.graph} is no graph that can be read: {error}. Export it again.") from error
    derived = variant.session.get("initializers", {})
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if not isinstance(tensor, ir.ExternalTensor):
            continue
        # A graph may come from anybody: it reads the artifact's weights and nothing else.
        place = str(tensor.location)
        if place not in variant.weights or tensor.offset not in (None, 0):
            raise ArtifactError(f"{variant.graph} reads {place!r}, which is no weight of it. Export it again.")
        file = Path(artifact.file(place))
        if name in derived:
            value.const_value = _derived(name, tensor, Rule.read(Fields(derived[name])), file)
        else:
            expected = tensor.dtype.itemsize * int(np.prod(sizes(tensor.shape)))
            if file.stat().st_size != expected:
                raise ArtifactError(
                    f"{variant.graph} reads {expected} bytes of {place}, which has {file.stat().st_size}. "
                    "Export it again."
                )
    return model


def _derived(name: str, tensor: ir.ExternalTensor, rule: Rule, file: Path) -> ir.LazyTensor:
    shape = sizes(tensor.shape)

    def compute() -> Array:
        weight = np.memmap(file, np.uint8, "r")
        if weight.nbytes != rule.nbytes:
            raise ArtifactError(
                f"{name!r} is made of {rule.nbytes} bytes, and {file.name} has {weight.nbytes}. Export it again."
            )
        return made_of(rule, weight).reshape(shape)

    return lazy(compute, shape, tensor.dtype, name)
