"""Faults as a wrong lowering, a wrong loader or a wrong reference would make them, planted in a traced graph.

Each takes the graph of one part, in the vocabulary of ``precast.graphs.schema`` and with its weights, changes one place
of it and says whether it found one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

__all__ = ["FAULTS", "Fault"]

Array = np.ndarray[Any, Any]
Fault = Callable[[ir.Graph], bool]

_NORMS = ("LayerNorm", "AddLayerNorm")
_RMS = ("RMSNorm", "AddRMSNorm")
_ATTENTIONS = ("Attention", "CachedAttention")


def _nodes(graph: ir.Graph, kinds: Sequence[str], domain: str = "precast") -> list[ir.Node]:
    return [node for node in graph if node.domain == domain and node.op_type in kinds]


def _middle(found: Sequence[Any]) -> list[Any]:
    """One of several: neither what comes first, behind an embedding, nor what is last."""
    return [found[len(found) // 2]] if found else []


def _attribute(kinds: Sequence[str], name: str, change: Callable[[Any], Any], every: bool = False) -> Fault:
    """Change an attribute of one operator, or of every one; None leaves it."""

    def plant(graph: ir.Graph) -> bool:
        found = [
            (node, changed)
            for node in _nodes(graph, kinds)
            if name in node.attributes and (changed := change(node.attributes[name].value)) is not None
        ]
        for node, changed in found if every else _middle(found):
            kind = {int: ir.AttrInt64, float: ir.AttrFloat32, str: ir.AttrString}[type(changed)]
            node.attributes[name] = kind(name, changed)
        return bool(found)

    return plant


def _input(kinds: Sequence[str], place: int) -> Fault:
    """Leave an optional input out."""

    def plant(graph: ir.Graph) -> bool:
        found = [node for node in _nodes(graph, kinds) if len(node.inputs) > place and node.inputs[place] is not None]
        for node in _middle(found):
            node.replace_input_with(place, None)
        return bool(found)

    return plant


def _weight(pattern: str, change: Callable[[Array], Array | None]) -> Fault:
    """Change one weight whose name matches; None leaves it."""

    def plant(graph: ir.Graph) -> bool:
        found = []
        for name, value in graph.initializers.items():
            if re.search(pattern, name) and value.uses() and value.const_value is not None:
                array = value.const_value.numpy()
                changed = change(array) if np.issubdtype(array.dtype, np.floating) else None
                if changed is not None and not np.array_equal(changed, array):
                    found.append((value, changed))
        for value, changed in _middle(found):
            value.const_value = ir.tensor(np.ascontiguousarray(changed, np.float32), name=value.name)
        return bool(found)

    return plant


def _exchange(first: str, second: str) -> Fault:
    """Two weights of equal shape in each other's place."""

    def plant(graph: ir.Graph) -> bool:
        for name, value in graph.initializers.items():
            other = graph.initializers.get(re.sub(first, second, name)) if re.search(first, name) else None
            if other is None or other is value or other.const_value is None or value.const_value is None:
                continue
            if value.const_value.shape == other.const_value.shape:
                value.const_value, other.const_value = other.const_value, value.const_value
                return True
        return False

    return plant


def _bypass(kinds: Sequence[str], domain: str = "precast", place: int = 0) -> Fault:
    """What goes into an operator comes out of it."""

    def plant(graph: ir.Graph) -> bool:
        found = [node for node in _nodes(graph, kinds, domain) if not node.outputs[0].is_graph_output()]
        for node in _middle(found):
            node.outputs[0].replace_all_uses_with(node.inputs[place])
        return bool(found)

    return plant


def _behind(kinds: Sequence[str], place: int, made: Callable[[ir.Node, ir.Value], list[ir.Node]]) -> Fault:
    """Nodes between an operator and what it reads; the last one's output is read instead."""

    def plant(graph: ir.Graph) -> bool:
        found = _nodes(graph, kinds)
        for node in _middle(found):
            value = node.inputs[place]
            added = made(node, value)
            graph.insert_before(node, added)
            added[-1].outputs[0].dtype, added[-1].outputs[0].shape = value.dtype, value.shape
            node.replace_input_with(place, added[-1].outputs[0])
        return bool(found)

    return plant


def _rounded(array: Array, bits: int) -> Array:
    """float32 with so many bits of mantissa, rounded to nearest."""
    drop = 23 - bits
    whole = array.astype(np.float32).view(np.uint32).astype(np.uint64)
    whole = (whole + (1 << (drop - 1)) - 1 + ((whole >> drop) & 1)) >> drop << drop
    return whole.astype(np.uint32).view(np.float32)


def _half(node: ir.Node, value: ir.Value) -> list[ir.Node]:
    """Rounded to 10 bits of mantissa and back, as TF32 does with what it multiplies."""
    narrow = ir.node("Cast", [value], {"to": ir.DataType.FLOAT16})
    return [narrow, ir.node("Cast", [narrow.outputs[0]], {"to": ir.DataType.FLOAT})]


def _tf32_product(graph: ir.Graph) -> bool:
    return _behind(("Linear",), 0, _half)(graph) and _weight(_MATRIX, lambda w: _rounded(w, 10))(graph)


def _next_position(node: ir.Node, value: ir.Value) -> list[ir.Node]:
    one = ir.node("Constant", [], {"value": ir.tensor(np.array(1, np.int64))})
    at = ir.node("Add", [value, one.outputs[0]])
    zero = ir.node("Constant", [], {"value": ir.tensor(np.array(0, np.int64))})
    last = ir.node("Constant", [], {"value": ir.tensor(np.array(2**15, np.int64))})
    table = node.inputs[2] if node.op_type == "Rotary" else None
    if table is not None and table.is_initializer() and table.shape is not None:
        last = ir.node("Constant", [], {"value": ir.tensor(np.array(int(table.shape[0]) - 1, np.int64))})  # type: ignore[arg-type]
    bounded = ir.node("Clip", [at.outputs[0], zero.outputs[0], last.outputs[0]])
    return [one, at, zero, last, bounded]


def _double(node: ir.Node, value: ir.Value) -> list[ir.Node]:
    return [ir.node("Add", [value, value])]


def _without(node: ir.Node, value: ir.Value) -> list[ir.Node]:
    return [ir.node("Sub", [value, value])]


def _sum_carried_on(graph: ir.Graph) -> bool:
    """A post-norm layer's residual is the sum, or a pre-norm layer's the norm: before instead of after."""
    for node in _middle(_nodes(graph, ("AddLayerNorm", "AddRMSNorm"))):
        out, total = node.outputs[:2]
        total.dtype, total.shape = out.dtype, out.shape
        for given, taken in ((out, total), (total, out)):
            for use in list(given.uses()):
                if use.node.op_type in ("AddLayerNorm", "AddRMSNorm", "Add") and taken not in use.node.inputs:
                    use.node.replace_input_with(use.idx, taken)
                    return True
    return False


def _constant(kinds: Sequence[str], factor: float) -> Fault:
    """A number that states are multiplied with or divided by, off by a factor."""

    def plant(graph: ir.Graph) -> bool:
        for node in _nodes(graph, kinds, ""):
            for place, value in enumerate(node.inputs):
                array = _number(value)
                if array is None or array.dtype != np.float32 or not np.isfinite(array).all() or not array.any():
                    continue
                changed = ir.node("Constant", [], {"value": ir.tensor((array * factor).astype(np.float32))})
                graph.insert_before(node, [changed])
                node.replace_input_with(place, changed.outputs[0])
                return True
        return False

    return plant


def _number(value: ir.Value | None) -> Array | None:
    """The one number a constant is, through what gives it the type of a state."""
    while value is not None and (node := value.producer()) is not None and node.op_type in ("Cast", "CastLike"):
        value = node.inputs[0]
    node = value.producer() if value is not None else None
    if node is not None and node.op_type == "Constant" and "value" in node.attributes:
        tensor = node.attributes["value"].as_tensor()
    else:
        tensor = value.const_value if value is not None else None
    return tensor.numpy().astype(np.float32) if tensor is not None and tensor.size == 1 and _floats(tensor) else None


def _floats(tensor: ir.TensorProtocol) -> bool:
    return bool(np.issubdtype(tensor.numpy().dtype, np.floating))


def _rows(array: Array, first: int = 5, second: int = 6) -> Array | None:
    if array.ndim != 2 or len(array) <= max(first, second):
        return None
    changed = array.copy()
    changed[[first, second]] = changed[[second, first]]
    return changed


def _rolled(array: Array, by: int = 1, axis: int = 0) -> Array | None:
    return np.roll(array, by, axis) if array.ndim >= 1 and array.shape[axis] > abs(by) else None


def _one(array: Array, value: Callable[[Array], Array]) -> Array:
    """One row of a matrix, or one number of a vector, changed."""
    changed = array.copy()
    changed[len(array) // 2] = value(changed[len(array) // 2])
    return changed


def _usual(epsilon: float) -> float:
    """The other epsilon that configs have."""
    return 1e-5 if epsilon < 5e-6 else 1e-6


def _square(array: Array) -> Array | None:
    return array.T if array.ndim == 2 and array.shape[0] == array.shape[1] else None


def _int8(array: Array) -> Array:
    scale = np.abs(array).max(axis=-1, keepdims=True) / 127
    return np.round(array / np.maximum(scale, 1e-30)) * scale


def _base(array: Array) -> Array:
    """Angles per position of a rotary base of 1.001 times the size, where the table is of positions or frequencies."""
    power = 1 + np.log(1.001) / np.log(10000.0)
    return np.where((array > 0) & (array < 1), np.power(np.maximum(array, 1e-30), power), array)


def _turned(array: Array) -> Array | None:
    """The sine table, or the cosine table, of that base."""
    if array.ndim != 2 or len(array) < 3 or np.abs(array).max() > 2.1:
        return None
    cosine = np.allclose(array[0], array[0, 0]) and array[0, 0] != 0
    unit = array[0, 0] if cosine else 1.0
    angle = (np.arccos if cosine else np.arcsin)(np.clip(array[1].astype(np.float64) / unit, -1, 1))
    frequency = _base(np.where(angle >= 1, 1.0, angle))
    return np.asarray((np.cos if cosine else np.sin)(np.arange(len(array))[:, None] * frequency) * unit)


_MATRIX = r"layers\..*(proj|dense|experts|fc|linear).*weight$"
_WORDS = r"words\.weight$"
_BIAS = r"layers\..*(proj|dense|fc).*bias$"
_NORM = r"layers\..*norm.*\.weight$"
_PATCHES = r"embeddings\.projection\.weight$"
_TABLES = r"(cos|sin)\w*\.values$"


def _matrix(change: Callable[[Array], Array | None], pattern: str = _MATRIX) -> Fault:
    return _weight(pattern, lambda array: change(array) if array.ndim >= 2 else None)


FAULTS: dict[str, Fault] = {
    # Attributes of operators.
    "the other epsilon of a layer norm": _attribute(_NORMS, "epsilon", _usual),
    "the other epsilon of every layer norm": _attribute(_NORMS, "epsilon", _usual, every=True),
    "the other epsilon of an RMS norm": _attribute(_RMS, "epsilon", _usual),
    "the other epsilon of every RMS norm": _attribute(_RMS, "epsilon", _usual, every=True),
    "the other GELU": _attribute(("Gelu",), "approximate", lambda it: "none" if it == "tanh" else "tanh"),
    "the other GELU everywhere": _attribute(
        ("Gelu",), "approximate", lambda it: "none" if it == "tanh" else "tanh", every=True
    ),
    "the other GELU in a gate": _attribute(
        ("GatedActivation",), "activation", {"gelu": "gelu_tanh", "gelu_tanh": "gelu"}.get
    ),
    "another activation in a gate": _attribute(
        ("GatedActivation",), "activation", lambda it: "gelu" if it == "silu" else "silu"
    ),
    "a scale of scores of 1.001": _attribute(_ATTENTIONS, "scale", lambda it: it * 1.001),
    "a scale of another head size": _attribute(_ATTENTIONS, "scale", lambda it: (it**-2 + 1) ** -0.5),
    "a window one narrower": _attribute(("CachedAttention",), "window", lambda it: it - 1 if it > 1 else None),
    "a window one wider": _attribute(("CachedAttention",), "window", lambda it: it + 1 if it > 0 else None),
    "no window": _attribute(("CachedAttention",), "window", lambda it: -1 if it > 0 else None),
    "a window one narrower on the left": _attribute(
        ("Attention",), "window_left", lambda it: it - 1 if it > 0 else None
    ),
    "a window one wider on the right": _attribute(
        ("Attention",), "window_right", lambda it: it + 1 if it >= 0 else None
    ),
    "no window on the left": _attribute(("Attention",), "window_left", lambda it: -1 if it >= 0 else None),
    "the other interleaving of a rotary": _attribute(("Rotary",), "interleaved", lambda it: 1 - it),
    "a scale of angles of 1.001": _attribute(("RotaryAngles",), "scale", lambda it: it * 1.001),
    "one expert fewer": _attribute(("MoE",), "top_k", lambda it: it - 1 if it > 1 else None),
    # What operators read.
    "no mask": _input(("Attention",), 3),
    "no bias of scores": _input(("Attention",), 4),
    "no bias of cached scores": _input(("CachedAttention",), 7),
    "a residual left out": _behind(("AddLayerNorm", "AddRMSNorm"), 1, _without),
    "a residual twice": _behind(("AddLayerNorm", "AddRMSNorm"), 1, _double),
    "a residual from before instead of after": _sum_carried_on,
    "a rotary left out": _bypass(("Rotary",)),
    "rotary positions off by one": _behind(("Rotary", "RotaryAngles"), 1, _next_position),
    "a norm left out": _bypass((*_NORMS, *_RMS)),
    "an activation left out": _bypass(("Gelu",)),
    "a tanh left out": _bypass(("Tanh",), ""),
    "a ReLU left out": _bypass(("Relu",), ""),
    "one product's input in TF32": _behind(("Linear",), 0, _half),
    "one product in TF32": _tf32_product,
    "queries in half precision": _behind(_ATTENTIONS, 0, _half),
    "values in half precision": _behind(_ATTENTIONS, 2, _half),
    "a factor of 1.001": _constant(("Mul",), 1.001),
    "a divisor of 1.001": _constant(("Div",), 1.001),
    # Weights.
    "one bias left out": _weight(_BIAS, np.zeros_like),
    "one bias twice": _weight(_BIAS, lambda it: 2 * it),
    "one bias in another order": _weight(_BIAS, _rolled),
    "one norm's bias left out": _weight(r"layers\..*norm.*bias$", np.zeros_like),
    "one norm without its weight": _weight(_NORM, np.ones_like),
    "one norm's weight off by 1": _weight(_NORM, lambda it: it + 1),
    "one matrix times 1.001": _matrix(lambda it: it * np.float32(1.001)),
    "one row of a matrix times 1.001": _matrix(lambda it: _one(it, lambda row: row * np.float32(1.001))),
    "one row's sign": _matrix(lambda it: _one(it, np.negative)),
    "one number of a matrix left out": _matrix(
        lambda it: _one(it, lambda row: np.where(np.abs(row) == np.abs(row).max(), 0, row))
    ),
    "one matrix in bfloat16": _matrix(lambda it: _rounded(it, 7)),
    "one matrix in float16": _matrix(lambda it: it.astype(np.float16).astype(np.float32)),
    "one matrix in TF32": _matrix(lambda it: _rounded(it, 10)),
    "one matrix of 16 bits of mantissa": _matrix(lambda it: _rounded(it, 16)),
    "one matrix in int8": _matrix(_int8),
    "one matrix transposed": _matrix(_square),
    "queries and keys exchanged": _exchange(r"q_proj\.weight", "k_proj.weight"),
    "keys and values exchanged": _exchange(r"k_proj\.weight", "v_proj.weight"),
    "gate and up exchanged": _exchange(r"gate_proj\.weight", "up_proj.weight"),
    "two layers' weights exchanged": _exchange(r"layers\.0\.(.*proj\.weight)", r"layers.1.\1"),
    "heads in another order": _matrix(lambda it: _rolled(it, 4), r"q_proj\.weight$"),
    "key heads grouped wrongly": _matrix(lambda it: _rolled(it, len(it) // 2), r"k_proj\.weight$"),
    "value channels in another order": _matrix(_rolled, r"v_proj\.weight$"),
    "two table rows exchanged": _weight(_WORDS, _rows),
    "one table row left out": _matrix(lambda it: _one(it, np.zeros_like), _WORDS),
    "the word table in bfloat16": _weight(_WORDS, lambda it: _rounded(it, 7)),
    "positions off by one": _weight(
        r"positions(\..*(weight|values))?$", lambda it: _rolled(it, axis=max(it.ndim - 2, 0))
    ),
    "token types exchanged": _weight(r"token_types\.weight$", lambda it: _rows(it, 0, 1)),
    "a rotary base of 1.001": _weight(_TABLES, _turned),
    "a rotary base of 1.001 in frequencies": _weight(r"frequenc\w*(\.values)?$", _base),
    "relative positions off by one": _weight(r"(relative|bias)\..*(weight|values|table)$", _rolled),
    "slopes in another order": _weight(r"(slopes|alibi)\w*(\.values)?$", _rolled),
    "a convolution turned round": _weight(r"conv\w*(\.|_)weight$", lambda it: it[..., ::-1]),
    "a patch's rows and columns exchanged": _weight(_PATCHES, lambda it: it.swapaxes(-1, -2)),
    "colours in another order": _weight(_PATCHES, lambda it: _rolled(it, axis=1)),
    "the class token left out": _weight(r"cls_token$", np.zeros_like),
    "similarities times 1.001": _weight(r"similarity\.scale$|^scale$", lambda it: it + np.log(1.001)),
    "rates of decay times 1.001": _weight(r"\.A$", lambda it: it * np.float32(1.001)),
    "what passes a scan by left out": _weight(r"\.D$", np.zeros_like),
    "two experts exchanged": _weight(r"(gate_up|down)\w*$", lambda it: _rolled(it) if it.ndim == 3 else None),
    "the head's bias left out": _weight(r"^(lm_head|classifier|decoder|qa_outputs)\.bias$", np.zeros_like),
    "the head in bfloat16": _weight(r"^(lm_head|classifier|decoder|qa_outputs)\.weight$", lambda it: _rounded(it, 7)),
}
