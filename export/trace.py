"""torch.export -> onnx_ir, in one place. No other file knows how a torch graph becomes an ONNX graph."""

from __future__ import annotations

import ast
import contextlib
import functools
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from operator import add, floordiv, getitem, mul, sub
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnxscript import opset23
from torch import nn
from torch.fx import config as fx_config
from torch.fx.experimental import _config as symbols_config

from precast.export.operators import NODES
from precast.graphs import schema
from precast.graphs.outputs import name_outputs
from precast.runtime.errors import ExportError
from precast.runtime.ports import FREE, Dim

__all__ = ["OPSET", "SCOPE", "trace"]

OPSET = 23
# Where a node's metadata names the module that computed it, if it is asked for.
SCOPE = "precast.module"
_SCOPES = "pkg.torch.onnx.name_scopes"


@functools.cache
def _emitter() -> Any:
    """The ``precast`` opset for translations; registers its schemas with onnx on first use."""
    from onnxscript.values import Opset

    kinds = onnx.defs.OpSchema.AttrType
    attribute_type = {int: kinds.INT, float: kinds.FLOAT, str: kinds.STRING}
    formal = onnx.defs.OpSchema.FormalParameter
    option = onnx.defs.OpSchema.FormalParameterOption
    floats = ["tensor(float)", "tensor(double)", "tensor(float16)", "tensor(bfloat16)", "tensor(int64)", "tensor(bool)"]
    for operator in schema.OPERATORS.values():
        # One type variable an input: ids and masks are integers beside float states.
        onnx.defs.register_schema(
            onnx.defs.OpSchema(
                operator.name,
                schema.DOMAIN,
                schema.VERSION,
                doc=operator.doc,
                inputs=[
                    formal(
                        name.removesuffix("?"),
                        f"T{index}",
                        param_option=option.Optional if name.endswith("?") else option.Single,
                    )
                    for index, name in enumerate(operator.inputs)
                ],
                outputs=[formal(name, "T0") for name in operator.outputs],
                type_constraints=[(f"T{index}", floats, "") for index in range(len(operator.inputs))],
                attributes=[
                    onnx.defs.OpSchema.Attribute(name, attribute_type[type(default)], required=False)
                    for name, default in operator.attributes.items()
                ],
            )
        )
    return Opset(schema.DOMAIN, schema.VERSION)


def _translations() -> dict[Any, Any]:
    emit = _emitter()

    def bound(node: Any) -> Any:
        # The exporter inspects a translation's signature, so a partial object will not do.
        def translate(*args: Any, **kwargs: Any) -> Any:
            return node(emit, *args, **kwargs)

        return translate

    made = {target: bound(node.emit) for target, node in NODES.items()}
    plain = {
        _ATEN.batch_norm.default: _batch_norm,
        _ATEN.conv1d.default: _plain_convolution,
        _ATEN.conv2d.default: _plain_convolution,
        _ATEN.conv_transpose2d.input: _transposed_convolution,
        _ATEN.conv_transpose1d.default: _transposed_convolution,
        _ATEN.group_norm.default: _group_norm,
        torch.ops.precast.convolution.default: _convolution,
        torch.ops.precast.halved.default: _halved,
        torch.ops.precast.lstm.default: _lstm,
        torch.ops.precast.means_of_four.default: _means_of_four,
        torch.ops.precast.nearest.default: _nearest,
        torch.ops.precast.reflected.default: _reflected,
        torch.ops.precast.resized.default: _resized,
    }
    return made | plain


_ATEN = torch.ops.aten
_ONNX: Any = opset23


def _batch_norm(*given: Any) -> Any:
    """The norm of what was seen in training; torch.onnx knows none."""
    *tensors, _training, _momentum, epsilon, _cudnn = given
    return _ONNX.BatchNormalization(*tensors, epsilon=epsilon)


def _group_norm(x: Any, groups: int, weight: Any, bias: Any, epsilon: float = 1e-5, _cudnn: bool = True) -> Any:
    """Step by step: ONNX Runtime's own norms of pictures lose digits where a mean is large beside its variance."""
    channels = weight.shape[0]
    rows = _ONNX.Reshape(x, _ONNX.Constant(value_ints=[0, groups, -1]))
    last = _ONNX.Constant(value_ints=[-1])
    apart = _ONNX.Sub(rows, _ONNX.ReduceMean(rows, last))
    variance = _ONNX.ReduceMean(_ONNX.Mul(apart, apart), last)
    small = _ONNX.CastLike(_ONNX.Constant(value_float=epsilon), x)
    by = _ONNX.Reciprocal(_ONNX.Sqrt(_ONNX.Add(variance, small)))
    # One factor a channel, so that a picture is multiplied once.
    by = _ONNX.Mul(by, _ONNX.Reshape(weight, _ONNX.Constant(value_ints=[groups, channels // groups])))
    axes = range(1, len(x.shape) - 1)  # of a picture two, of rows one
    by = _ONNX.Reshape(by, _ONNX.Constant(value_ints=[0, channels, *(1 for _ in axes)]))
    whole = _ONNX.Mul(_ONNX.Reshape(apart, _ONNX.Shape(x)), by)
    return _ONNX.Add(whole, _ONNX.Unsqueeze(bias, _ONNX.Constant(value_ints=[*axes])))


def _halved(x: Any) -> Any:
    """At the bottom and right one row, at the top and left one where the side is odd."""
    sides, two = _ONNX.Shape(x, start=2), _ONNX.Constant(value_ints=[2])
    one = _ONNX.Constant(value_ints=[1, 1])
    even = _ONNX.Mul(_ONNX.Div(_ONNX.Add(sides, one), two), two)
    pads = _ONNX.Concat(_ONNX.Sub(even, sides), one, axis=0)
    zero = _ONNX.CastLike(_ONNX.Constant(value_float=0.0), x)
    padded = _ONNX.Pad(x, pads, zero, _ONNX.Constant(value_ints=[2, 3]))
    largest, _places = _ONNX.MaxPool(padded, kernel_shape=[3, 3], strides=[2, 2])
    return largest


def _means_of_four(x: Any) -> Any:
    """Of what is left of a side too: padding is no place."""
    return _ONNX.AveragePool(x, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)


def _lstm(x: Any, weight: Any, recurrent: Any, bias: Any) -> Any:
    """Of all steps; nothing is read of the last one alone."""
    states, _last, _cell = _ONNX.LSTM(x, weight, recurrent, bias, hidden_size=recurrent.shape[2])
    return _ONNX.Squeeze(states, _ONNX.Constant(value_ints=[1]))


def _nearest(x: Any, table: Any) -> Any:
    """By the square of the distance, less that of the vector's own length."""
    axis = _ONNX.Constant(value_ints=[1])
    rows = _ONNX.Reshape(x, _ONNX.Constant(value_ints=[-1, table.shape[1]]))
    lengths = _ONNX.ReduceSum(_ONNX.Mul(table, table), axis, keepdims=0)
    codes = _ONNX.ArgMin(_ONNX.Gemm(rows, table, lengths, alpha=-2.0, transB=1), axis=1, keepdims=0)
    rest = _ONNX.Sub(x, _ONNX.Reshape(_ONNX.Gather(table, codes), _ONNX.Shape(x)))
    return _ONNX.Reshape(codes, _ONNX.Shape(x, end=-1)), rest


def _reflected(x: Any, before: int, after: int, multiple: int) -> Any:
    length, step = _ONNX.Shape(x, start=2), _ONNX.Constant(value_ints=[multiple])
    beyond = _ONNX.Constant(value_ints=[after])
    if multiple > 1:
        whole = _ONNX.Mul(_ONNX.Div(_ONNX.Add(length, _ONNX.Constant(value_ints=[multiple - 1])), step), step)
        beyond = _ONNX.Add(_ONNX.Sub(whole, length), beyond)
    pads = _ONNX.Concat(_ONNX.Constant(value_ints=[before]), beyond, axis=0)
    return _ONNX.Pad(x, pads, None, _ONNX.Constant(value_ints=[2]), mode="reflect")


def _resized(x: Any, like: Any, factor: int, multiple: int, aligned: bool) -> Any:
    """To the size of another map, to so many times its own, or to the next multiple of a number."""
    where = {"mode": "linear", "coordinate_transformation_mode": "align_corners" if aligned else "half_pixel"}
    if like is None and multiple == 1:
        return _ONNX.Resize(x, None, _ONNX.Constant(value_floats=[1.0, 1.0, float(factor), float(factor)]), **where)
    sides = _ONNX.Shape(x if like is None else like, start=2)
    if like is None:
        times, beyond = (_ONNX.Constant(value_ints=[value]) for value in (factor, multiple - 1))
        step = _ONNX.Constant(value_ints=[multiple])
        sides = _ONNX.Mul(_ONNX.Div(_ONNX.Add(_ONNX.Mul(sides, times), beyond), step), step)
    return _ONNX.Resize(x, None, None, _ONNX.Concat(_ONNX.Shape(x, end=2), sides, axis=0), **where)


def _plain_convolution(*given: Any) -> Any:
    """A convolution; where it has no bias torch.onnx would make one of zeros, in every call."""
    axes = len(given[1].shape) - 2
    usual: tuple[Any, ...] = (None, (1,) * axes, (0,) * axes, (1,) * axes, 1)
    x, weight, bias, strides, pads, dilations, groups = (*given, *usual[len(given) - 2 :])
    return _convolution(x, weight, bias, strides, (*pads, *pads), dilations, groups)


def _convolution(x: Any, weight: Any, bias: Any, strides: Any, pads: Any, dilations: Any, groups: int) -> Any:
    """A convolution whose pads are two numbers an axis, or none: as many as leave all of the picture."""
    around = {"auto_pad": "NOTSET", "pads": pads} if pads else {"auto_pad": "SAME_UPPER"}
    return _ONNX.Conv(
        *(x, weight, *(() if bias is None else (bias,))),
        dilations=dilations,
        group=groups,
        kernel_shape=weight.shape[2:],
        strides=strides,
        **around,
    )


def _transposed_convolution(*given: Any) -> Any:
    """Each place of a map, or of rows, becomes several."""
    axes = len(given[1].shape) - 2
    usual: tuple[Any, ...] = (None, (1,) * axes, (0,) * axes, (0,) * axes, 1, (1,) * axes)
    x, weight, bias, strides, pads, beside, groups, dilations = (*given, *usual[len(given) - 2 :])
    return _ONNX.ConvTranspose(
        *(x, weight, *(() if bias is None else (bias,))),
        dilations=dilations,
        group=groups,
        kernel_shape=weight.shape[2:],
        output_padding=beside,
        pads=(*pads, *pads),
        strides=strides,
    )


# Composites of torch that torch.onnx translates as they are. What else is one, decompositions may take apart.
_WHOLE = frozenset(
    {
        *(_ATEN.conv1d.default, _ATEN.conv2d.default, _ATEN.layer_norm.default),
        *(_ATEN.conv_transpose1d.default, _ATEN.conv_transpose2d.input, _ATEN.linear.default, _ATEN.matmul.default),
        *(
            _ATEN.batch_norm.default,
            _ATEN.grid_sampler.default,
            _ATEN.group_norm.default,
            _ATEN.max_pool2d.default,
            _ATEN.softmax.int,
            _ATEN.sym_size.int,
            _ATEN.where.ScalarOther,
            _ATEN.where.ScalarSelf,
        ),
    }
)
# Arithmetic of dimensions; and what takes one of several outputs.
_PYTHONS = frozenset({add, floordiv, getitem, mul, sub, torch.sym_min})


def _spare_second_trace(program: Any) -> None:
    """Let ``program`` skip its decomposition where that changes nothing.

    torch.onnx decomposes what it does not translate by tracing the whole program again, which takes as long as the rest
    together. A reference model is made of what it does translate, and would come back as it is, but for casts.
    """
    again = program.run_decompositions

    def decomposed(table: Any = None, **named: Any) -> Any:
        nodes = list(program.graph.nodes)
        if not table or named or not all(_stays(node, table) for node in nodes):
            return again(table, **named)
        for node in nodes:
            if node.target is _ATEN.to.dtype:
                _cast(node)
        program.graph.eliminate_dead_code()
        return program

    program.run_decompositions = decomposed


def _stays(node: torch.fx.Node, table: Any) -> bool:
    """Whether a decomposition by ``table`` leaves the node as it is, or `_cast` knows what it makes of it."""
    target: Any = node.target
    if node.op == "placeholder":
        return True
    if node.op == "output":
        return all(given.op != "placeholder" for given in node.all_input_nodes)
    if node.op != "call_function":
        return False
    if not isinstance(target, torch._ops.OpOverload):
        return target in _PYTHONS
    if target is _ATEN.to.dtype:
        return len(node.args) == 2 and not node.kwargs
    if target in table or target._schema.is_mutable:
        return False
    return target in _WHOLE or not torch._C._dispatch_has_kernel_for_dispatch_key(
        target.name(), "CompositeImplicitAutograd"
    )


def _cast(node: torch.fx.Node) -> None:
    """A cast as a decomposition leaves it: none to the type there is."""
    given, dtype = node.args
    assert isinstance(given, torch.fx.Node)
    if given.meta["val"].dtype == dtype:
        node.replace_all_uses_with(given)
    else:
        node.target, node.args, node.kwargs = _ATEN._to_copy.default, (given,), {"dtype": dtype}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter reports its progress and absent optional packages; none of it concerns our user."""
    logger = logging.getLogger("torch.onnx")
    level, printed = logger.level, io.StringIO()
    logger.setLevel(logging.ERROR)
    # Nobody reads where in the source each node came from, and to find out takes longer than tracing does.
    places: Any = fx_config
    emitted = getattr(places, "do_not_emit_stack_traces", False)
    places.do_not_emit_stack_traces = True
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(printed):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        places.do_not_emit_stack_traces = emitted


# Dimensions of recordings.
_HEARD = frozenset(("samples", "frames"))


def _any_size(dynamic: Mapping[str, Mapping[int, str]]) -> contextlib.AbstractContextManager[Any]:
    """Where pictures are of any size, or recordings of any length, what strides leave of it may be 1: torch would take
    it for larger, and refuse sizes of which that is not true. Some models of texts it traces only as it usually does.
    """
    patched: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
    if any({2, 3} <= set(axes) or _HEARD & set(axes.values()) for axes in dynamic.values()):
        patched = symbols_config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
    return patched


def trace(
    model: nn.Module,
    inputs: Mapping[str, torch.Tensor | dict[str, torch.Tensor]],
    dynamic: Mapping[str, Mapping[int, str]],
    outputs: tuple[str, ...],
    name: str,
    limits: Mapping[str, Dim] | None = None,
    *,
    scopes: bool = False,
) -> ir.Model:
    """Trace ``model`` into a graph over standard ONNX and the ``precast`` domain.

    Args:
        inputs: example tensors by input name; every dynamic dimension must be at least 2 and differ from the others.
            A dict of tensors is one argument of the model, and an input of the graph for each tensor.
        dynamic: per input, which axes vary and their names (``{"input_ids": {0: "batch", 1: "sequence"}}``).
        outputs: names of the model's outputs, in the order of its returned dict.
        limits: how large named dimensions may be, where they are bounded.
        scopes: nodes say under `SCOPE` which module computed them, by its path.

    Raises:
        ExportError: torch cannot trace the model, or the model returns other outputs than ``outputs``.
    """
    names = {dim for axes in dynamic.values() for dim in axes.values()}
    dims = {}
    for dim in names:
        bound = (limits or {}).get(dim, FREE)
        dims[dim] = torch.export.Dim(dim, min=max(1, bound.least), max=bound.most)

    def varying(key: str) -> dict[int, Any]:
        return {axis: dims[dim] for axis, dim in dynamic.get(key, {}).items()}

    shapes = {
        key: {leaf: varying(leaf) for leaf in value} if isinstance(value, dict) else varying(key)
        for key, value in inputs.items()
    }
    leaves = [leaf for key, value in inputs.items() for leaf in (value if isinstance(value, dict) else (key,))]
    with _quiet(), torch.no_grad():
        try:
            with _any_size(dynamic):
                program = torch.export.export(model, (), dict(inputs), dynamic_shapes=shapes, strict=False)
            _spare_second_trace(program)
            translated = torch.onnx.export(
                program,
                dynamo=True,
                custom_translation_table=_translations(),
                opset_version=OPSET,
                optimize=False,
                verbose=False,
            )
        except Exception as error:
            raise ExportError(f"torch could not trace {type(model).__name__}: {error}") from error
    if translated is None:
        raise ExportError(f"torch.onnx returned no graph for {type(model).__name__}")
    traced: ir.Model = translated.model
    if len(traced.graph.outputs) != len(outputs):
        raise ExportError(
            f"{type(model).__name__} traced to {len(traced.graph.outputs)} outputs, its signature names {outputs}"
        )
    traced.graph.name = name
    for value, leaf in zip(traced.graph.inputs, leaves, strict=True):
        value.name = leaf
    name_outputs(traced.graph, outputs)
    _name_dimensions(traced, dynamic)
    traced.opset_imports[schema.DOMAIN] = schema.VERSION
    # Trace metadata (source lines, module paths) differs between machines and says nothing at run time.
    traced.metadata_props.clear()
    for value in [*traced.graph.inputs, *traced.graph.outputs, *traced.graph.initializers.values()]:
        value.metadata_props.clear()
    for node in traced.graph.all_nodes():
        path = _module_path(node) if scopes else None
        node.metadata_props.clear()
        if path is not None:
            node.metadata_props[SCOPE] = path
        for value in node.outputs:
            value.metadata_props.clear()
    return traced


def _module_path(node: ir.Node) -> str | None:
    """The innermost module a node stands in: of torch's list the last but the node's own name."""
    scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
    return str(scopes[-2]) if len(scopes) > 1 else None


def _name_dimensions(model: ir.Model, dynamic: Mapping[str, Mapping[int, str]]) -> None:
    """Give symbolic dimensions the signature's names instead of torch's (s43, s53 ...)."""
    names: dict[str, str] = {}
    for value in model.graph.inputs:
        for axis, name in dynamic.get(value.name or "", {}).items():
            assert value.shape is not None
            dim = value.shape[axis]
            if isinstance(dim, ir.SymbolicDim) and dim.value is not None:
                names[dim.value] = name

    def rename(value: ir.Value) -> None:
        if value.shape is not None:
            value.shape = ir.Shape(
                [
                    ir.SymbolicDim(names.get(dim.value, dim.value))
                    if isinstance(dim, ir.SymbolicDim) and dim.value
                    else dim
                    for dim in value.shape
                ]
            )

    for value in [*model.graph.inputs, *model.graph.outputs]:
        rename(value)
    for node in model.graph.all_nodes():
        for value in node.outputs:
            rename(value)
