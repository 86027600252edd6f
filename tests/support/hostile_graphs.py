"""Graphs nobody would write, of every native operator: each attribute and input wrong in turn, and some at once.

`python -m support.hostile_graphs LIBRARY` runs them all, which is for a library built with sanitizers. Each ends in a
result or in a refusal. A line is written before each, and in the end one of JSON that says what became of them all.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper

__all__ = ["BASES", "Graph", "Operator", "cases", "operators", "run_all"]

Array = np.ndarray[Any, Any]
DOMAIN = "precast.cpu"
TYPES = {"f": np.float32, "i": np.int64, "b": np.uint8, "c": np.int8, "h": np.uint16}


@dataclass(frozen=True)
class Operator:
    """What the library says of one."""

    name: str
    inputs: str
    required: int
    outputs: str
    attributes: tuple[str, ...]


def operators(library: Path) -> dict[str, Operator]:
    function = ctypes.CDLL(str(library)).precast_kernels_operator
    function.argtypes, function.restype = [ctypes.c_int], ctypes.c_char_p
    found: dict[str, Operator] = {}
    while (line := function(len(found))) is not None:
        name, inputs, required, outputs, *attributes = line.decode().split()
        found[name] = Operator(name, inputs, int(required), outputs, tuple(attributes))
    return found


@dataclass(frozen=True)
class Graph:
    """One node and what it is fed: None is an input or output that is left out."""

    inputs: tuple[Array | None, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    outputs: tuple[bool, ...] = (True,)
    # ONNX Runtime's checks come before ours.
    checked_before: bool = False

    def feeding(self, index: int, array: Array | None) -> Graph:
        inputs = [*self.inputs, *(None,) * (index + 1 - len(self.inputs))]
        inputs[index] = array
        return replace(self, inputs=tuple(inputs))

    def saying(self, name: str, value: Any) -> Graph:
        kept = {key: held for key, held in self.attributes.items() if key != name}
        return replace(self, attributes=kept if value is None else {**kept, name: value})


def _floats(*shape: int) -> Array:
    return (np.random.default_rng(sum(shape)).standard_normal(shape)).astype(np.float32)


def _bytes(kind: type, *shape: int) -> Array:
    return np.random.default_rng(0).integers(np.iinfo(kind).min, np.iinfo(kind).max, shape, kind, endpoint=True)


def _counts(*values: int) -> Array:
    return np.array(values, np.int64)


def _cached(tokens: int, slots: int, size: int, integers: bool, past: tuple[int, int], **attributes: Any) -> Graph:
    """Two rows, four heads over two."""
    held = (2, 2, slots, size + -(-size // 32) * 4 if integers else size)
    caches = (_bytes(np.int8, *held), _bytes(np.int8, *held)) if integers else (_floats(*held), _floats(*held))
    new = _floats(2, tokens, 4 * size), _floats(2, tokens, 2 * size), _floats(2, tokens, 2 * size)
    counts = _counts(*past), _counts(tokens, tokens - 1)
    attributes = {"heads": 4, "kv_heads": 2, "scale": 0.3, "softcap": 5.0, "window": -1, "bfloat16": 1} | attributes
    return Graph((*new, *caches, *counts, _floats(1, 4, 1, slots)), attributes, (True,) * 3)


def _block(x: Array, bits: int, block: int, zeros: int, depth: int, columns: int, *bias: Array) -> Graph:
    of_block = block * 16 * bits // 8 + 32 + (0, 2 * bits, 32)[zeros]
    weight = _bytes(np.uint8, -(-columns // 16), -(-depth // block) * of_block)
    attributes = {
        "bits": bits,
        "block": block,
        "zeros": zeros,
        "in": depth,
        "out": columns,
        "bfloat16": 1,
        "row_bits": 8,
    }
    return Graph((x, weight, *bias), attributes)


def _feed_forward(
    x: Array, bits: int, block: int, zeros: int, depth: int, hidden: int, columns: int, *biases: Array
) -> Graph:
    up = _block(x, bits, block, zeros, depth, hidden)
    down = _block(x, bits, block, zeros, hidden, columns)
    attributes = {**up.attributes, "hidden": hidden, "out": columns, "tanh": 1}
    return Graph((*up.inputs, down.inputs[1], *biases), attributes)


def _half(x: Array, float16: int, depth: int, columns: int, *bias: Array) -> Graph:
    weight = _bytes(np.uint16, -(-columns // 16), depth, 16)
    return Graph((x, weight, *bias), {"float16": float16, "in": depth, "out": columns})


_PARTS = (_floats(2, 5, 12), _floats(2, 7, 6), _floats(2, 7, 6))
_ATTENTION = {"heads": 4, "kv_heads": 2, "scale": 0.5, "softcap": 3.0, "window_left": 4, "window_right": 4}
_SEEN = (np.arange(14).reshape(2, 7) % 3).astype(np.int64)

# Right graphs, which the wrong ones are made of: every operator has some, small ones with odd sizes, and the ways its
# arithmetic can take.
BASES: dict[str, tuple[Graph, ...]] = {
    "AddLayerNorm": (
        Graph((_floats(2, 3, 37), _floats(3, 37), *(_floats(37),) * 3), {"epsilon": 1e-5}, (True, True)),
        Graph((_floats(1, 3, 70), _floats(2, 3, 70), _floats(70)), {"epsilon": 1e-5}),
        Graph((_floats(1, 0, 7), _floats(3, 0, 7), _floats(7)), {"epsilon": 1e-5}, (True, True)),
    ),
    "LayerNorm": (Graph((_floats(2, 3, 37), _floats(37), _floats(37)), {"epsilon": 1e-5}),),
    "AddRMSNorm": (Graph((_floats(2, 3, 37), _floats(1, 3, 37), _floats(37)), {"epsilon": 1e-5}, (True, True)),),
    "RMSNorm": (Graph((_floats(2, 3, 37), _floats(37)), {"epsilon": 1e-5}),),
    "BiasGelu": (
        Graph((_floats(2, 3, 37), _floats(37)), {"tanh": 0}),
        Graph((_floats(3, 4100),), {"tanh": 1}),
    ),
    "GatedActivation": tuple(
        Graph((_floats(*shape), _floats(*shape)), {"activation": kind})
        for kind, shape in (("silu", (2, 3, 37)), ("gelu", (8300,)), ("gelu_tanh", (1, 1)), ("relu", (33,)))
    ),
    "Attention": (
        Graph((*_PARTS, _floats(24), _SEEN, _floats(1, 4, 5, 7)), _ATTENTION),
        Graph(
            (_floats(2, 40, 24), None, None, _floats(24), np.tile(_SEEN, 6)[:, :40], _floats(2, 1, 40, 40)), _ATTENTION
        ),
        Graph((_floats(1, 30, 72), None, None, _floats(72)), {"heads": 1, "scale": 0.2, "bfloat16": 1}),
        Graph((_floats(1, 3, 33), _floats(1, 700, 33), _floats(1, 700, 33)), {"heads": 1, "scale": 0.2}),
    ),
    "CachedAttention": (
        _cached(3, 9, 5, False, (2, 6)),
        _cached(17, 20, 33, False, (3, 0)),
        _cached(2, 7, 4, False, (30, 4), window=6),
        _cached(1, 600, 64, False, (590, 599)),
    ),
    "CachedAttentionInt8": (
        _cached(3, 9, 5, True, (2, 6)),
        _cached(17, 20, 33, True, (3, 0)),
        _cached(2, 7, 40, True, (30, 4), window=6),
    ),
    "BlockLinear": (
        _block(_floats(3, 13, 45), 4, 32, 0, 45, 9, _floats(9)),
        _block(_floats(5, 45), 8, 16, 1, 45, 37),
        _block(_floats(9, 600), 8, 96, 0, 600, 37, _floats(37)),
        _block(_floats(1, 100), 4, 64, 2, 100, 33, _floats(33)),
        _block(_floats(7, 70), 8, 32, 2, 70, 16),
    ),
    "BlockFeedForward": (
        _feed_forward(_floats(2, 3, 45), 8, 32, 0, 45, 70, 9),
        _feed_forward(_floats(33, 45), 4, 32, 1, 45, 40, 37, _floats(40), _floats(37)),
        _feed_forward(_floats(9, 600), 8, 16, 2, 600, 33, 17, _floats(33)),
    ),
    "BlockEmbedding": (
        _block(_counts(0, 8, 3), 4, 32, 1, 45, 9),
        _block(_counts(36, 0).reshape(2, 1), 8, 16, 2, 45, 37),
    ),
    "HalfLinear": (
        _half(_floats(2, 3, 45), 0, 45, 9, _floats(9)),
        _half(_floats(1, 300), 1, 300, 70),
        _half(_floats(29, 260), 0, 260, 37, _floats(37)),
    ),
    "HalfEmbedding": (
        _half(_counts(0, 8, 3), 0, 45, 9),
        _half(_counts(36, 0).reshape(2, 1), 1, 7, 37),
    ),
}

_INTEGERS = (None, 0, 1, -1, 3, 7, 1000, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1, -(2**63))
_REALS = (None, 0.0, -1.0, float("nan"), float("inf"), -float("inf"), 3e38, 1e-45)
_KINDS = (0.5, 1, "text", [1, 2], [0.5])  # of attributes
_TEXTS = (None, "", "silu", "gelu_tanh", "silu\0", "s" * 15, "s" * 16, "s" * 1000)
_NUMBERS = {
    "f": (np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, 5e-36, 2e-36),
    "i": (-1, 1, 2**31 - 1, 2**31, 2**62, 2**63 - 1, -(2**63)),
    "b": (0, 255),
    "c": (-128, 127),
    "h": (0, 1, 0x7C00, 0x7F80, 0x7FFF, 0xFFFF),
}
_DTYPES = (np.float64, np.float16, np.int8, np.uint8, np.int32, np.int64, np.bool_, np.float32)


def _said(graph: Graph, operator: Operator) -> Iterator[tuple[str, Graph]]:
    for name in operator.attributes:
        held = graph.attributes.get(name, 0)
        values = _TEXTS if isinstance(held, str) else _REALS if isinstance(held, float) else _INTEGERS
        for value in values:
            yield f"{name}={str(value)[:20]!r}", graph.saying(name, value)
        for value in _KINDS:
            if type(value) is not type(held):
                yield f"{name}:{type(value).__name__}", graph.saying(name, value)
    yield "unknown=1", graph.saying("unknown", 1)


def _shapes(shape: tuple[int, ...], ranks: Iterable[int]) -> Iterator[tuple[int, ...]]:
    for rank in ranks:
        yield (1,) * rank
        yield (0,) * rank
        yield (*shape, *(1,) * rank)[:rank]
        yield (*(1,) * rank, *shape)[-rank:] if rank else ()
    for axis, size in enumerate(shape):
        for other in (0, 1, size - 1, size + 1, 2 * size):
            yield (*shape[:axis], other, *shape[axis + 1 :])
        # Nothing is held, whatever the other dimensions are.
        for vast in (2**31, 2**59):
            for empty in range(len(shape)):
                if empty != axis:
                    yield tuple(vast if i == axis else 0 if i == empty else n for i, n in enumerate(shape))


def _fed(graph: Graph, operator: Operator, ranks: Iterable[int]) -> Iterator[tuple[str, Graph]]:
    for index, kind in enumerate(operator.inputs):
        array = graph.inputs[index] if index < len(graph.inputs) else None
        where = f"input {index}"
        yield f"{where} missing", replace(graph.feeding(index, None), checked_before=index < operator.required)
        base = (_floats(2, 3) if array is None else array).astype(TYPES[kind])
        filled = np.resize(base, max(base.size, 1))
        for shape in dict.fromkeys(_shapes(base.shape, ranks)):
            try:
                other = np.resize(filled, shape)
            except ValueError:  # more than NumPy holds, with or without elements
                continue
            yield f"{where} {list(shape)}", graph.feeding(index, other)
        for value in _NUMBERS[kind]:
            one = base.copy()
            one.reshape(-1)[-1:] = value
            yield f"{where} last {value}", graph.feeding(index, one)
            yield f"{where} all {value}", graph.feeding(index, np.full_like(base, value))
        yield f"{where} without strides", graph.feeding(index, np.broadcast_to(filled[:1], base.shape))
        yield f"{where} reversed", graph.feeding(index, base[::-1])
        for dtype in _DTYPES:
            if dtype is not TYPES[kind]:
                yield (
                    f"{where} {dtype.__name__}",
                    replace(graph.feeding(index, base.astype(dtype)), checked_before=True),
                )
    more = replace(graph, inputs=(*graph.inputs, *(None,) * (len(operator.inputs) - len(graph.inputs)), _floats(1)))
    yield "an input more", replace(more, checked_before=True)


def _asked(graph: Graph, operator: Operator) -> Iterator[tuple[str, Graph]]:
    for count in range(1, len(operator.outputs) + 1):
        for bits in range(2**count):
            asked = tuple(bool(bits >> i & 1) for i in range(count))
            if any(asked):
                yield f"outputs {asked}", replace(graph, outputs=asked, checked_before=not asked[0])
    yield "an output more", replace(graph, outputs=(True,) * (len(operator.outputs) + 1), checked_before=True)


def cases(operator: Operator, at_once: int) -> Iterator[tuple[str, Graph]]:
    """Right graphs, those with one thing wrong, and for each right one ``at_once`` with two or three."""
    rng = np.random.default_rng(0)
    for number, base in enumerate(BASES[operator.name]):
        yield f"{number}: right", base
        ranks = range(11) if number == 0 else (1, 3)
        wrong = [*_said(base, operator), *_fed(base, operator, ranks), *_asked(base, operator)]
        for name, graph in wrong:
            yield f"{number}: {name}", graph
        for _ in range(at_once):
            names, mixed = [], base
            for chosen in rng.choice(len(wrong), rng.integers(2, 4), replace=False):
                name, graph = wrong[chosen]
                names.append(name)
                mixed = replace(
                    _merged(base, mixed, graph), checked_before=mixed.checked_before or graph.checked_before
                )
            yield f"{number}: {', '.join(names)}", mixed


def _merged(base: Graph, mixed: Graph, graph: Graph) -> Graph:
    """What ``graph`` changes of ``base``, changed in ``mixed`` too."""
    attributes = dict(mixed.attributes)
    for name in {*base.attributes, *graph.attributes}:
        if graph.attributes.get(name) is not base.attributes.get(name):
            attributes.pop(name, None)
            if name in graph.attributes:
                attributes[name] = graph.attributes[name]
    inputs = list(mixed.inputs)
    for index, array in enumerate(graph.inputs):
        if index >= len(base.inputs) or array is not base.inputs[index]:
            inputs.extend([None] * (index + 1 - len(inputs)))
            inputs[index] = array
    outputs = graph.outputs if graph.outputs != base.outputs else mixed.outputs
    return Graph(tuple(inputs), attributes, outputs)


@cache
def _session(library: str, operator: Operator, model: bytes, isa: str) -> ort.InferenceSession:
    os.environ["PRECAST_KERNELS_ISA"] = isa
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = False  # every output has memory of its own, with a fence around it
    options.register_custom_ops_library(library)
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _refusal(library: str, operator: Operator, model: bytes, isa: str, feeds: dict[str, Array]) -> str:
    """Empty where there is a result."""
    try:
        _session(library, operator, model, isa).run(None, feeds)
    except Exception as error:
        return str(error)
    return ""


def _model(operator: Operator, graph: Graph) -> bytes:
    kinds = [None if array is None else helper.np_dtype_to_tensor_dtype(array.dtype) for array in graph.inputs]
    types = [helper.np_dtype_to_tensor_dtype(np.dtype(TYPES[letter])) for letter in operator.outputs]
    made = [f"out{i}" if asked else "" for i, asked in enumerate(graph.outputs)]
    node = helper.make_node(
        operator.name, ["" if kind is None else f"in{i}" for i, kind in enumerate(kinds)], made, domain=DOMAIN
    )
    for name, value in graph.attributes.items():
        node.attribute.append(helper.make_attribute(name, value))
    fed = [helper.make_tensor_value_info(f"in{i}", kind, None) for i, kind in enumerate(kinds) if kind is not None]
    given = [
        helper.make_tensor_value_info(name, types[i] if i < len(types) else TensorProto.FLOAT, None)
        for i, name in enumerate(made)
        if name
    ]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(helper.make_graph([node], "one", fed, given), opset_imports=opsets, ir_version=9)
    return bytes(model.SerializeToString())


def run_all(library: Path, at_once: int) -> None:
    """Raises: AssertionError: a right graph is refused, or a wrong one in words that are not ours."""
    found = operators(library)
    assert set(found) == set(BASES), "a new operator has a row here"
    isas = ctypes.CDLL(str(library)).precast_kernels_isa
    isas.argtypes, isas.restype = [ctypes.c_int], ctypes.c_char_p
    names = [isas(i).decode() for i in range(64) if isas(i) is not None]
    outcomes: Counter[str] = Counter()
    for operator in found.values():
        for case, graph in cases(operator, at_once):
            model = _model(operator, graph)
            feeds = {f"in{i}": array for i, array in enumerate(graph.inputs) if array is not None}
            for isa in names:
                said = f"{operator.name} on {isa}: {case}"
                print(said, flush=True)
                refusal = _refusal(str(library), operator, model, isa, feeds)
                outcomes[f"{operator.name} {'refused' if refusal else 'computed'}"] += 1
                if refusal:
                    ours = f"precast.cpu::{operator.name}: " in refusal
                    assert ours or graph.checked_before, f"{said}: {refusal}"
                    assert not case.endswith(": right"), f"{said}: {refusal}"
                    break  # before the arithmetic: that of one instruction set says it for all
    print(json.dumps({"isas": names, "outcomes": outcomes}))


if __name__ == "__main__":
    run_all(Path(sys.argv[1]), at_once=10)
