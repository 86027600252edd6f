"""The operator vocabulary in torch: what each operator of ``precast.graphs.schema`` computes.

Each is a `torch.library` custom operator: eagerly it is the plain maths below in any float type (so the same model
in float64 is the judge of errors), in a traced graph it is ONE node. Dimension names as in ``graphs/schema.py``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

__all__ = [
    "NODES",
    "Node",
    "add_layer_norm",
    "add_rms_norm",
    "attention",
    "cached_attention",
    "convolution",
    "counted",
    "gated_activation",
    "halved",
    "lstm",
    "means_of_four",
    "mixture_of_experts",
    "nearest",
    "reflected",
    "resized",
    "resized_by_inverse",
    "rms_norm",
    "rotary",
    "rotary_angles",
    "selective_scan",
]


def _visible(
    mask: Tensor | None, query: int, key: int, causal: bool, left: int, right: int, device: torch.device
) -> Tensor | None:
    """Which keys each query may see, [B or 1, 1, S, T] bool, or None when all are seen."""
    visible = None if mask is None else mask.to(torch.bool)[:, None, None, :]
    if causal or left >= 0 or right >= 0:
        # Queries are the last S of the T positions, as with a cache.
        distance = (torch.arange(query, device=device) + key - query)[:, None] - torch.arange(key, device=device)
        band = torch.ones(query, key, dtype=torch.bool, device=device)
        if causal:
            band &= distance >= 0
        if left >= 0:
            band &= distance <= left
        if right >= 0:
            band &= distance >= -right
        visible = band[None, None] if visible is None else visible & band
    return visible


@torch.library.custom_op("precast::attention", mutates_args=())
def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    heads: int,
    kv_heads: int,
    scale: float,
    causal: bool,
    window_left: int,
    window_right: int,
    softcap: float,
) -> Tensor:
    batch, length, _ = query.shape
    q = query.view(batch, length, heads, -1).transpose(1, 2)
    k = key.view(batch, key.shape[1], kv_heads, -1).transpose(1, 2)
    v = value.view(batch, value.shape[1], kv_heads, -1).transpose(1, 2)
    if heads != kv_heads:
        k = k.repeat_interleave(heads // kv_heads, dim=1)
        v = v.repeat_interleave(heads // kv_heads, dim=1)
    visible = _visible(mask, length, k.shape[2], causal, window_left, window_right, query.device)
    added = bias
    if visible is not None:
        hidden = torch.zeros(visible.shape, dtype=q.dtype, device=q.device).masked_fill_(~visible, -torch.inf)
        added = hidden if bias is None else bias + hidden
    if softcap:
        scores = torch.matmul(q * scale, k.transpose(2, 3))
        scores = softcap * torch.tanh(scores / softcap)
        scores = scores if added is None else scores + added
        context = torch.matmul(torch.softmax(scores, dim=-1), v)
    else:
        context = F.scaled_dot_product_attention(q, k, v, attn_mask=added, scale=scale)
    if visible is not None:
        context = context.masked_fill(~visible.any(dim=-1, keepdim=True), 0.0)
    return context.transpose(1, 2).reshape(batch, length, -1)


@_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> Tensor:
    return query.new_empty(query.shape)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    heads: int,
    kv_heads: int | None = None,
    scale: float,
    causal: bool = False,
    window: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
) -> Tensor:
    """Scaled dot-product attention, [B, S, N*D] x [B, T, G*D] -> [B, S, N*D]; see ``schema.OPERATORS['Attention']``."""
    kv = heads if kv_heads is None else kv_heads
    return _attention(query, key, value, mask, bias, heads, kv, scale, causal, window[0], window[1], softcap)


@torch.library.custom_op("precast::cached_attention", mutates_args=())
def _cached_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    past_key: Tensor,
    past_value: Tensor,
    past_lengths: Tensor,
    lengths: Tensor,
    bias: Tensor | None,
    heads: int,
    kv_heads: int,
    scale: float,
    window: int,
    softcap: float,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, new, _ = query.shape
    slots = past_key.shape[2]
    q = query.view(batch, new, heads, -1).transpose(1, 2)
    fresh_k = key.view(batch, new, kv_heads, -1).transpose(1, 2)
    fresh_v = value.view(batch, new, kv_heads, -1).transpose(1, 2)
    # Keys are the past's slots, each holding the last position before `past` that falls into it, and then the new ones.
    past = past_lengths[:, None]
    slot, step = torch.arange(slots)[None], torch.arange(new)[None]
    held = past - 1 - (past - 1 - slot) % slots  # below zero: the slot is empty
    position = torch.cat((held, past + step), dim=1)  # [B, R + S]
    known = torch.cat((held >= 0, step < lengths[:, None]), dim=1)
    asked = past + step  # [B, S]
    seen = known[:, None] & (position[:, None] <= asked[:, :, None])
    if window >= 0:
        seen &= asked[:, :, None] - position[:, None] < window
    k = torch.cat((past_key.to(key.dtype), fresh_k), dim=2)
    v = torch.cat((past_value.to(value.dtype), fresh_v), dim=2)
    if heads != kv_heads:
        k = k.repeat_interleave(heads // kv_heads, dim=1)
        v = v.repeat_interleave(heads // kv_heads, dim=1)
    added = torch.zeros(seen.shape, dtype=q.dtype).masked_fill_(~seen, -torch.inf)[:, None]
    if bias is not None:
        # A new token's bias is that of the slot it goes to.
        at = ((past + step) % slots)[:, None, None].expand(batch, heads, new, new)
        whole = bias.expand(batch, heads, new, slots)
        added = added + torch.cat((whole, whole.gather(3, at)), dim=3)
    if softcap:
        scores = softcap * torch.tanh(torch.matmul(q * scale, k.transpose(2, 3)) / softcap) + added
        context = torch.matmul(torch.softmax(scores, dim=-1), v)
    else:
        context = F.scaled_dot_product_attention(q, k, v, attn_mask=added, scale=scale)
    context = context.masked_fill(~seen.any(dim=-1)[:, None, :, None], 0.0)
    # Real tokens that no later one of this call overwrites.
    last = past + lengths[:, None]
    row, token = torch.nonzero((step < lengths[:, None]) & (past + step >= last - slots), as_tuple=True)
    to = ((past + step) % slots)[row, token]
    present_key, present_value = past_key.to(key.dtype).clone(), past_value.to(value.dtype).clone()
    present_key[row, :, to] = fresh_k[row, :, token]
    present_value[row, :, to] = fresh_v[row, :, token]
    return context.transpose(1, 2).reshape(batch, new, -1), present_key, present_value


@_cached_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, past_key: Tensor, past_value: Tensor, *_: Any) -> Any:
    return query.new_empty(query.shape), past_key.new_empty(past_key.shape), past_value.new_empty(past_value.shape)


def cached_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    past_key: Tensor,
    past_value: Tensor,
    past_lengths: Tensor,
    lengths: Tensor,
    *,
    bias: Tensor | None = None,
    heads: int,
    kv_heads: int,
    scale: float,
    window: int = -1,
    softcap: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Causal attention over a cache: (output, present_key, present_value); see ``schema.OPERATORS``."""
    return _cached_attention(
        query,
        key,
        value,
        past_key,
        past_value,
        past_lengths,
        lengths,
        bias,
        heads,
        kv_heads,
        scale,
        window,
        softcap,
    )


@torch.library.custom_op("precast::rotary", mutates_args=())
def _rotary(x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, heads: int, interleaved: bool) -> Tensor:
    batch, length, _ = x.shape
    states = x.view(batch, length, heads, -1)
    turned, rest = states[..., : 2 * cos.shape[1]], states[..., 2 * cos.shape[1] :]
    c, s = cos[positions][:, :, None, :], sin[positions][:, :, None, :]
    if interleaved:
        first, second = turned[..., 0::2], turned[..., 1::2]
        turned = torch.stack((first * c - second * s, second * c + first * s), dim=-1).flatten(-2)
    else:
        first, second = turned.chunk(2, dim=-1)
        turned = torch.cat((first * c - second * s, second * c + first * s), dim=-1)
    return torch.cat((turned, rest), dim=-1).reshape(x.shape)


@_rotary.register_fake
def _(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


def rotary(x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, *, heads: int, interleaved: bool = False) -> Tensor:
    """Rotary position embedding (https://arxiv.org/abs/2104.09864) of x [B, S, N*D] at positions [B, S]."""
    return _rotary(x, positions, cos, sin, heads, interleaved)


@torch.library.custom_op("precast::rotary_angles", mutates_args=())
def _rotary_angles(frequencies: Tensor, positions: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    angles = positions.flatten()[:, None].to(torch.float32) * frequencies.to(torch.float32)
    angles = angles.to(frequencies.dtype)
    return torch.cos(angles) * scale, torch.sin(angles) * scale


@_rotary_angles.register_fake
def _(frequencies: Tensor, positions: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    shape = (positions.shape[0] * positions.shape[1], frequencies.shape[0])
    return frequencies.new_empty(shape), frequencies.new_empty(shape)


def rotary_angles(positions: Tensor, frequencies: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """(cos, sin) [B*S, R/2] of positions [B, S] times frequencies [R/2]; see ``schema.OPERATORS['RotaryAngles']``."""
    return _rotary_angles(frequencies, positions, scale)


@torch.library.custom_op("precast::add_layer_norm", mutates_args=())
def _add_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor | None, epsilon: float
) -> tuple[Tensor, Tensor]:
    total = x + residual
    return F.layer_norm(total, (total.shape[-1],), weight, bias, epsilon), total


@_add_layer_norm.register_fake
def _(x: Tensor, residual: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    shape = torch.broadcast_shapes(x.shape, residual.shape)
    return x.new_empty(shape), x.new_empty(shape)


def add_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor | None, epsilon: float
) -> tuple[Tensor, Tensor]:
    """(LayerNorm(x + residual), x + residual), both [B, S, H]."""
    return _add_layer_norm(x, residual, weight, bias, epsilon)


def _normalised(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon))


@torch.library.custom_op("precast::rms_norm", mutates_args=())
def _rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return _normalised(x, weight, epsilon)


@_rms_norm.register_fake
def _(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Root-mean-square normalisation of x [..., H]. https://arxiv.org/abs/1910.07467"""
    return _rms_norm(x, weight, epsilon)


@torch.library.custom_op("precast::add_rms_norm", mutates_args=())
def _add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    total = x + residual
    return _normalised(total, weight, epsilon), total


@_add_rms_norm.register_fake
def _(x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """(RMSNorm(x + residual), x + residual), both [B, S, H]."""
    return _add_rms_norm(x, residual, weight, epsilon)


_GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}


@torch.library.custom_op("precast::gated_activation", mutates_args=())
def _gated_activation(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    return _GATES[activation](gate) * up


@_gated_activation.register_fake
def _(gate: Tensor, *_: Any) -> Tensor:
    return gate.new_empty(gate.shape)


def gated_activation(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    """act(gate) * up, [..., I] each; the activation is one of the schema's."""
    return _gated_activation(gate, up, activation)


@torch.library.custom_op("precast::mixture_of_experts", mutates_args=())
def _mixture_of_experts(x: Tensor, router: Tensor, gate_up: Tensor, down: Tensor, top_k: int) -> Tensor:
    tokens = x.reshape(-1, x.shape[-1])
    scores, chosen = router.reshape(-1, router.shape[-1]).topk(top_k)
    weights = torch.softmax(scores, dim=-1)
    total = torch.zeros_like(tokens)
    for expert in range(gate_up.shape[0]):
        token, place = torch.nonzero(chosen == expert, as_tuple=True)
        made = F.linear(tokens[token], gate_up[expert])
        made = F.linear(F.silu(made[:, 0::2]) * made[:, 1::2], down[expert])
        total.index_add_(0, token, made * weights[token, place, None])
    return total.view(x.shape)


@_mixture_of_experts.register_fake
def _(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


def mixture_of_experts(x: Tensor, router: Tensor, gate_up: Tensor, down: Tensor, *, top_k: int) -> Tensor:
    """Tokens [B, S, H] through the top_k of E gated MLPs each; see ``schema.OPERATORS['MoE']``."""
    return _mixture_of_experts(x, router, gate_up, down, top_k)


@torch.library.custom_op("precast::selective_scan", mutates_args=())
def _selective_scan(x: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    state = state.to(x.dtype)
    made = []
    for step in range(x.shape[1]):
        decay = torch.exp(delta[:, step, None] * a)
        state = decay * state + (delta[:, step] * x[:, step])[:, None] * b[:, step, :, None]
        made.append((state * c[:, step, :, None]).sum(1))
    return torch.stack(made, dim=1), state.clone()


@_selective_scan.register_fake
def _(x: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), state.new_empty(state.shape)


def selective_scan(x: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """(output [B, S, I], present_state [B, N, I]); see ``schema.OPERATORS['SelectiveScan']``."""
    return _selective_scan(x, delta, a, b, c, state)


def _layer_norm_node(
    emit: Any, x: Any, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> Any:
    if weight is None:
        raise NotImplementedError("a LayerNorm without weight is not in the vocabulary: give it a weight of ones")
    return emit.LayerNorm(x, weight, bias, epsilon=eps)


def _attention_node(emit: Any, *arguments: Any) -> Any:
    *tensors, heads, kv_heads, scale, causal, left, right, softcap = arguments
    return emit.Attention(
        *tensors,
        heads=heads,
        kv_heads=kv_heads,
        scale=scale,
        causal=int(causal),
        window_left=left,
        window_right=right,
        softcap=softcap,
    )


def _cached_attention_node(emit: Any, *arguments: Any) -> Any:
    *tensors, heads, kv_heads, scale, window, softcap = arguments
    return emit.CachedAttention(*tensors, heads=heads, kv_heads=kv_heads, scale=scale, window=window, softcap=softcap)


@torch.library.custom_op("precast::convolution", mutates_args=())
def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    strides: list[int],
    pads: list[int],
    dilations: list[int],
    groups: int,
) -> Tensor:
    if not pads:
        sides = list(zip(x.shape[2:], weight.shape[2:], strides, dilations, strict=True))
        around = [
            max((-(-size // step) - 1) * step + gap * (side - 1) + 1 - size, 0) for size, side, step, gap in sides
        ]
        pads = [*(total // 2 for total in around), *(total - total // 2 for total in around)]
    axes = len(strides)
    around = [pad for axis in reversed(range(axes)) for pad in (pads[axis], pads[axis + axes])]
    made = F.conv1d if axes == 1 else F.conv2d
    return made(F.pad(x, around), weight, bias, strides, 0, dilations, groups)


@_convolution.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    strides: list[int],
    pads: list[int],
    dilations: list[int],
    groups: int,
) -> Tensor:
    sides: list[Any] = []
    for axis, (step, gap) in enumerate(zip(strides, dilations, strict=True)):
        size = x.shape[axis + 2]
        if pads:
            around = pads[axis] + pads[axis + len(strides)]
            sides.append((size + around - gap * (weight.shape[axis + 2] - 1) - 1) // step + 1)
        else:
            sides.append((size - 1) // step + 1)
    return x.new_empty((x.shape[0], weight.shape[0], *sides))


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    strides: tuple[int, ...],
    pads: tuple[int, ...],
    dilations: tuple[int, ...],
    groups: int,
) -> Tensor:
    """A convolution over a picture, or along rows, whose edges may be padded unequally: what torch's cannot, and ONNX's
    can.

    Args:
        pads: zeros at the top, left, bottom, right, or at both ends of rows; none given: so many that a side becomes
            ceil(side / stride), the odd one at the bottom and right, as TensorFlow's SAME has them.
    """
    made: Tensor = torch.ops.precast.convolution(x, weight, bias, list(strides), list(pads), list(dilations), groups)
    return made


@torch.library.custom_op("precast::halved", mutates_args=())
def _halved(x: Tensor) -> Tensor:
    return F.max_pool2d(F.pad(x, (x.shape[3] % 2, 1, x.shape[2] % 2, 1)), 3, 2)


@_halved.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:2], *((side - 1) // 2 + 1 for side in x.shape[2:])))


def halved(x: Tensor) -> Tensor:
    """The largest in windows of 3 at every second place, [B, C, H, W] -> [B, C, ceil(H / 2), ceil(W / 2)], zeros around
    the picture, as many as TensorFlow's SAME has: pools pad with what is never the largest."""
    made: Tensor = torch.ops.precast.halved(x)
    return made


@torch.library.custom_op("precast::means_of_four", mutates_args=())
def _means_of_four(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2, ceil_mode=True)


@_means_of_four.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:2], *((side - 1) // 2 + 1 for side in x.shape[2:])))


def means_of_four(x: Tensor) -> Tensor:
    """Means of 2 x 2 places, of fewer at the bottom and right of odd sides, [B, C, H, W] -> [B, C, ceil(H / 2),
    ceil(W / 2)]."""
    made: Tensor = torch.ops.precast.means_of_four(x)
    return made


@torch.library.custom_op("precast::resized", mutates_args=())
def _resized(x: Tensor, like: Tensor | None, factor: int, multiple: int, aligned: bool) -> Tensor:
    return F.interpolate(x, size=_sides(x, like, factor, multiple), mode="bilinear", align_corners=aligned).clone()


def _sides(x: Tensor, like: Tensor | None, factor: int, multiple: int) -> list[int]:
    if like is not None:
        return list(like.shape[2:])
    return [-(-side * factor // multiple) * multiple for side in x.shape[2:]]


def resized_by_inverse(x: Tensor, like: Tensor | None, factor: int, multiple: int, aligned: bool) -> Tensor:
    """`resized` in float32, as an engine rounds it that has the new side over the old one, and divides by it: torch has
    the old over the new, and multiplies. Where one of them is no number of float32, the other may be."""
    sides = _sides(x, like, factor, multiple)
    scales = [float(np.float32(new) / np.float32(old)) for new, old in zip(sides, x.shape[2:], strict=True)]
    made: Tensor = torch.ops.aten.upsample_bilinear2d.default(x, sides, aligned, *([None, None] if aligned else scales))
    return made


@_resized.register_fake
def _(x: Tensor, like: Tensor | None, factor: int, multiple: int, aligned: bool) -> Tensor:
    if like is not None:
        return x.new_empty((*x.shape[:2], *like.shape[2:]))
    return x.new_empty((*x.shape[:2], *((side * factor + multiple - 1) // multiple * multiple for side in x.shape[2:])))


def resized(
    x: Tensor, like: Tensor | None = None, *, factor: int = 1, multiple: int = 1, aligned: bool = False
) -> Tensor:
    """A map at another size, bilinearly, [B, C, H, W] -> [B, C, H', W'].

    Args:
        like: the map [B, D, H', W'] whose size it gets; None: it becomes ``factor`` times as large, rounded up to a
            ``multiple``.
        aligned: the middles of the corner places stay where they are, not their outer edges.
    """
    made: Tensor = torch.ops.precast.resized(x, like, factor, multiple, aligned)
    return made


@torch.library.custom_op("precast::lstm", mutates_args=())
def _lstm(x: Tensor, weight: Tensor, recurrent: Tensor, bias: Tensor) -> Tensor:
    def gates(of: Tensor) -> Tensor:
        return of.unflatten(0, (4, -1))[[0, 2, 3, 1]].flatten(0, 1)  # torch has the output's last

    start = x.new_zeros(1, x.shape[1], recurrent.shape[2])
    half = bias.shape[1] // 2
    weights = [gates(of) for of in (weight[0], recurrent[0], bias[0, :half], bias[0, half:])]
    states: Tensor = torch.lstm(x, (start, start), weights, True, 1, 0.0, False, False, False)[0]
    return states.clone()


@_lstm.register_fake
def _(x: Tensor, weight: Tensor, recurrent: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:2], recurrent.shape[2]))


def lstm(x: Tensor, weight: Tensor, recurrent: Tensor, bias: Tensor) -> Tensor:
    """Long short-term memory along the first axis, [T, B, I] -> [T, B, H], of nothing before the first; weights as ONNX
    has them. https://doi.org/10.1162/neco.1997.9.8.1735

    Args:
        weight, recurrent: [1, 4H, I] and [1, 4H, H]: of the gates for input, output and forgetting, and of the cell.
        bias: [1, 8H], of both.
    """
    made: Tensor = torch.ops.precast.lstm(x, weight, recurrent, bias)
    return made


@torch.library.custom_op("precast::reflected", mutates_args=())
def _reflected(x: Tensor, before: int, after: int, multiple: int) -> Tensor:
    return F.pad(x, (before, after + -x.shape[2] % multiple), mode="reflect").clone()


@_reflected.register_fake
def _(x: Tensor, before: int, after: int, multiple: int) -> Tensor:
    whole = (x.shape[2] + multiple - 1) // multiple * multiple
    return x.new_empty((*x.shape[:2], before + whole + after))


def reflected(x: Tensor, before: int, after: int, multiple: int = 1) -> Tensor:
    """Rows [B, C, T] that go on as in a mirror at both ends: by ``before``, and by ``after`` and what T lacks to the
    next multiple of a number."""
    made: Tensor = torch.ops.precast.reflected(x, before, after, multiple)
    return made


# What float32 may be off in each number of a vector, beside the largest: the gate allows as much (PARITY.md).
_DOUBT = 1e-5


@torch.library.custom_op("precast::nearest", mutates_args=())
def _nearest(x: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    rows = x.reshape(-1, x.shape[-1])
    far = (table * table).sum(dim=1) - 2 * rows @ table.T
    codes = far.argmin(dim=1)
    rest = rows - table[codes]
    if x.dtype == torch.float64 and len(table) > 1:
        two, places = far.topk(2, dim=1, largest=False)
        apart = torch.linalg.vector_norm(table[places[:, 0]] - table[places[:, 1]], dim=1)
        scale = torch.linalg.vector_norm(rows, float("inf"), dim=1).clamp_min(1)
        sure = two[:, 1] - two[:, 0] > 2 * _DOUBT * scale * apart  # and never where nothing is a number
        codes = torch.where(sure, codes, -1)
        rest = torch.where(sure[:, None], rest, torch.nan)
    return codes.view(x.shape[:-1]), rest.view(x.shape)


@_nearest.register_fake
def _(x: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[:-1], dtype=torch.int64), torch.empty_like(x)


def nearest(x: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """Of vectors [B, S, D] the row of a table [K, D] that is nearest to each, [B, S], and what is left, [B, S, D].

    In float64, which judges, it is -1 where float32 may as well find another one, and nothing is left to go on with.
    """
    made: tuple[Tensor, Tensor] = torch.ops.precast.nearest(x, table)
    return made


class Node(NamedTuple):
    """How an operator of torch is written in a graph: the vocabulary's name for it, and what emits that node."""

    name: str
    emit: Callable[..., Any]


# torch operator -> its node. `emit.Name(*inputs, **attributes)` makes a node of the precast domain.
# The plain aten operators listed here are captured whole, so that models use nn.Linear and F.gelu as they are.
NODES: dict[Any, Node] = {
    torch.ops.precast.attention.default: Node("Attention", _attention_node),
    torch.ops.precast.rotary.default: Node(
        "Rotary",
        lambda emit, x, positions, cos, sin, heads, interleaved: emit.Rotary(
            x, positions, cos, sin, heads=heads, interleaved=int(interleaved)
        ),
    ),
    torch.ops.precast.rotary_angles.default: Node(
        "RotaryAngles",
        lambda emit, frequencies, positions, scale: emit.RotaryAngles(frequencies, positions, scale=scale),
    ),
    torch.ops.precast.add_layer_norm.default: Node(
        "AddLayerNorm",
        lambda emit, x, residual, weight, bias, epsilon: emit.AddLayerNorm(x, residual, weight, bias, epsilon=epsilon),
    ),
    torch.ops.precast.cached_attention.default: Node("CachedAttention", _cached_attention_node),
    torch.ops.precast.rms_norm.default: Node(
        "RMSNorm", lambda emit, x, weight, epsilon: emit.RMSNorm(x, weight, epsilon=epsilon)
    ),
    torch.ops.precast.add_rms_norm.default: Node(
        "AddRMSNorm",
        lambda emit, x, residual, weight, epsilon: emit.AddRMSNorm(x, residual, weight, epsilon=epsilon),
    ),
    torch.ops.precast.gated_activation.default: Node(
        "GatedActivation", lambda emit, gate, up, activation: emit.GatedActivation(gate, up, activation=activation)
    ),
    torch.ops.precast.mixture_of_experts.default: Node(
        "MoE", lambda emit, x, router, gate_up, down, top_k: emit.MoE(x, router, gate_up, down, top_k=top_k)
    ),
    torch.ops.precast.selective_scan.default: Node("SelectiveScan", lambda emit, *inputs: emit.SelectiveScan(*inputs)),
    torch.ops.aten.layer_norm.default: Node("LayerNorm", _layer_norm_node),
    torch.ops.aten.linear.default: Node("Linear", lambda emit, x, weight, bias=None: emit.Linear(x, weight, bias)),
    torch.ops.aten.gelu.default: Node(
        "Gelu", lambda emit, x, approximate="none": emit.Gelu(x, approximate=approximate)
    ),
}
# The names under which models call those of aten.
_CALLED = {F.layer_norm: "LayerNorm", torch.layer_norm: "LayerNorm", F.linear: "Linear", F.gelu: "Gelu"}
_NAMES = {**{target: node.name for target, node in NODES.items()}, **_CALLED}


class _Counter(TorchFunctionMode):
    """Counts the calls of what `NODES` lists, by the vocabulary's names."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _NAMES:
            self.counts[_NAMES[func]] += 1
        return func(*args, **(kwargs or {}))


def counted(module: nn.Module, inputs: Mapping[str, Any]) -> dict[str, int]:
    """How often one call of a module says each operator of the vocabulary. Nothing is computed: shapes are enough."""
    with _Counter() as counter, FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        module(**inputs)
    return dict(sorted(counter.counts.items()))
