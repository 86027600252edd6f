"""Checkpoints of GPTQ and AWQ: the integers of their linear layers under the names and shapes of plain weights.

GPTQ (https://arxiv.org/abs/2210.17323) in the layout of AutoGPTQ and GPTQModel: qweight int32 [K * bits / 32, N], of
eight (or four) neighbouring inputs the first in the lowest bits; qzeros int32 [G, N * bits / 32] alike along N, in the
format "gptq" less one; scales [G, N]; g_idx [K], the group of each input. AWQ (https://arxiv.org/abs/2306.00978) in
AutoAWQ's version "gemm": qweight int32 [K, N / 8] and qzeros [G, N / 8] along N in the order 0 2 4 6 1 3 5 7.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from precast.export.weight_table import StoredTensor
from precast.graphs.block_weight import BLOCKS, Blocks, BlockWeight, Parts, canonical, scales_fit
from precast.graphs.dialects.blocks import unpack_bits
from precast.runtime.errors import ConfigError, WeightsError, closest, listing

__all__ = ["QuantizedLinear", "Scheme", "dequantized", "read_scheme"]

Array = np.ndarray[Any, Any]

# Column 8 i + c of an AWQ matrix stands at this place of its word i.
_AWQ_PLACES: Final = (0, 4, 1, 5, 2, 6, 3, 7)
_SCALES: Final = (torch.float16, torch.bfloat16, torch.float32)
_INDEXES: Final = (torch.int32, torch.int64)
_STEP: Final = 1 << 22  # weights dequantised at a time


@dataclass(frozen=True)
class Scheme:
    """What a quantization_config says of the tensors: ``group`` inputs share a scale, None: all of them do;
    ``lessened``: zero points are stored less one."""

    method: str
    bits: int
    group: int | None
    lessened: bool = False


# Keys that say how the integers were found, or which kernel is to run them.
_INERT: Final = frozenset(
    """
    act_group_aware backend batch_size block_name_to_quantize cache_block_outputs damp_auto_increment damp_percent
    dataset desc_act disable_exllama do_fuse exllama_config fuse_max_seq_len hyb_act lm_head max_input_length meta
    model_file_base_name model_name_or_path model_seqlen module_name_preceding_first_block
    modules_in_block_to_quantize modules_to_fuse modules_to_not_convert mse pad_token_id static_groups sym tokenizer
    true_sequential use_cuda_fp16 use_exllama
    """.split()
)
_HONOURED: Final[Mapping[str, Mapping[str, tuple[Any, ...]]]] = {
    "gptq": {
        "bits": (4, 8),
        "checkpoint_format": ("gptq", "gptq_v2"),
        "format": ("gptq", "gptq_v2"),
        "pack_dtype": ("int32", None),
        "is_marlin_format": (False, None),
        "dynamic": (None, {}),
        "adapter": (None,),
        "rotation": (None,),
    },
    "awq": {
        "bits": (4,),
        "version": ("gemm",),
        "format": ("gemm",),
        "zero_point": (True,),
        "pack_dtype": ("int32", None),
    },
}
_KNOWN: Final = ("quant_method", "group_size")


def read_scheme(config: Any) -> Scheme:
    """The scheme of a config.json's quantization_config.

    Raises:
        ConfigError: another method, or a key that is not known, or not with this value; all are named.
    """
    what = "config.json's 'quantization_config'"
    if not isinstance(config, Mapping):
        raise ConfigError(f"{what} must be an object; it is {config!r:.80}. Is this a checkpoint's own config.json?")
    method = config.get("quant_method")
    honoured = _HONOURED.get(method) if isinstance(method, str) else None
    if honoured is None or not isinstance(method, str):
        raise ConfigError(
            f"{what} has the quant_method {method!r:.60}, and only 'gptq' (4 or 8 bits) and 'awq' (4 bits, version "
            "'gemm') are read here. Export the checkpoint that this one was quantised from."
        )
    problems: list[str] = []
    values: dict[str, Any] = {}
    for key, value in config.items():
        if key in honoured:
            values[key] = value.lower() if isinstance(value, str) else value
            if not any(values[key] == known and type(values[key]) is type(known) for known in honoured[key]):
                problems.append(f"{key!r} is {value!r:.60}, and only {listing(map(repr, honoured[key]))} is honoured")
        elif key not in _KNOWN and key not in _INERT:
            near = closest(key, [*honoured, *_KNOWN, *_INERT])
            problems.append(f"{key!r} = {value!r:.60} is not understood and might change the weights. {near}".rstrip())
    if "bits" not in config and method == "gptq":
        problems.append("'bits' is missing")
    group = config.get("group_size", 128)
    if type(group) is not int or (group != -1 and group <= 0):
        problems.append(f"'group_size' is {group!r:.60}; it must be a positive number of inputs, or -1 for all of them")
    if problems:
        raise ConfigError(
            f"{'; '.join(problems)}: {what} of the method {method!r} cannot be honoured. "
            f"Honoured keys: {listing(sorted([*honoured, *_KNOWN]))}."
        )
    lessened = method == "gptq" and values.get("checkpoint_format", values.get("format", "gptq")) == "gptq"
    return Scheme(method, values.get("bits", 4), None if group == -1 else group, lessened)


@dataclass(frozen=True)
class QuantizedLinear:
    """The weight [N, K] of a linear layer, of its integers; ``g_idx`` is None where inputs are grouped in order."""

    name: str
    scheme: Scheme
    qweight: StoredTensor
    qzeros: StoredTensor
    scales: StoredTensor
    g_idx: StoredTensor | None = None
    upright: bool = True  # Conv1D's, too, are stored like those of a linear layer

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.qweight.shape
        per_word = 32 // self.scheme.bits
        return (columns, rows * per_word) if self.scheme.method == "gptq" else (columns * per_word, rows)

    @property
    def group(self) -> int:
        """Inputs that share a scale."""
        return min(self.scheme.group or self.shape[1], self.shape[1])

    def check(self) -> str:
        """What is wrong with the shapes and types, or nothing."""
        types = {part: getattr(self, part) for part in ("qweight", "qzeros", "scales", "g_idx")}
        for part, source in types.items():
            kind = getattr(source, "dtype", None)
            whole = part in ("qweight", "qzeros")
            if source is not None and kind is not None and (kind != torch.int32 if whole else _unlike(part, kind)):
                return f"{part} is {str(kind).removeprefix('torch.')}"
        if len(self.qweight.shape) != 2 or not all(self.qweight.shape):
            return f"qweight has the shape {list(self.qweight.shape)}"
        outputs, inputs = self.shape
        groups = -(-inputs // self.group)
        expected: dict[str, tuple[int, ...]] = {
            "qzeros": (groups, outputs * self.scheme.bits // 32),
            "scales": (groups, outputs),
            "g_idx": (inputs,),
        }
        for part, shape in expected.items():
            source = types[part]
            if source is not None and tuple(source.shape) != shape:
                return f"{part} has the shape {list(source.shape)}, where {list(shape)} is expected"
        return ""

    def load(self) -> torch.Tensor:
        """[N, K] float32: (q - z) * s, without any rounding for scales of 16 bits."""
        codes, zeros, scales = self._codes(), self._zeros(), self._scales()
        groups = self._groups()
        values = np.empty(self.shape, np.float32)
        step = max(1, _STEP // self.shape[1])
        for start in range(0, len(values), step):
            rows = slice(start, start + step)
            values[rows] = codes[rows]
            values[rows] -= zeros[rows][:, groups]
            values[rows] *= scales[rows][:, groups]
        return torch.from_numpy(values)

    @property
    def blocks(self) -> Blocks:
        """As of `precast.export.weight_table.Lazy`."""
        return self._blocks

    def _blocks(self) -> BlockWeight:
        bits, (outputs, inputs) = self.scheme.bits, self.shape
        if not np.array_equal(self._groups(), np.arange(inputs) // self.group):
            return BlockWeight.none("its groups are not of neighbouring inputs (desc_act)")
        zeros, scales = self._zeros(), self._scales()
        if not scales_fit(scales):
            return BlockWeight.none("its scales are not finite, or out of range")
        block = _block(self.group, inputs)
        if block is None:
            return BlockWeight.none(f"its groups have {self.group} inputs, no multiple of {BLOCKS[0]}")
        count = -(-inputs // block)
        groups = np.arange(count) * block // self.group
        middle = 2 ** (bits - 1)
        plain = bool((zeros == middle).all()) and not (scales < 0).any()

        def load() -> Parts:
            # Read again: what is kept here would be kept of every layer.
            offsets, scales = self._zeros()[:, groups], self._scales()[:, groups]
            codes = np.repeat(offsets, block, axis=1)  # inputs beyond the last count as zero
            codes[:, :inputs] = self._codes()
            codes = codes.reshape(outputs, count, block)
            return canonical(codes, scales, None if plain else offsets, bits)

        return BlockWeight(bits, block, "none" if plain else "integers", load)

    def _codes(self) -> Array:
        """uint8 [N, K]"""
        if self.scheme.method == "gptq":
            return self._unpacked(np.ascontiguousarray(self.qweight.load().numpy().T))
        return np.ascontiguousarray(self._unpacked(self.qweight.load().numpy()).T)

    def _zeros(self) -> Array:
        """uint8 [N, G]"""
        zeros = self._unpacked(self.qzeros.load().numpy()).T
        # 0 is stored as the highest code: what follows that is 0 again.
        return (zeros + np.uint8(self.scheme.lessened)) & np.uint8(2**self.scheme.bits - 1)

    def _scales(self) -> Array:
        """float32 [N, G]"""
        return np.ascontiguousarray(self.scales.load().float().numpy().T)

    def _groups(self) -> Array:
        """int64 [K]: the group of each input."""
        inputs, count = self.shape[1], self.scales.shape[0]
        in_order = np.arange(inputs) // self.group
        if self.g_idx is None:
            return in_order
        groups = self.g_idx.load().numpy().astype(np.int64)
        if groups.min() < 0 or groups.max() >= count:
            raise WeightsError(
                f"{self.name.removesuffix('weight')}g_idx must name groups from 0 to {count - 1}; it goes from "
                f"{groups.min()} to {groups.max()}. The checkpoint is damaged; download it again."
            )
        # Packers that do not reorder inputs leave zeros there, which kernels take as this.
        return groups if groups.any() else in_order

    def _unpacked(self, words: Array) -> Array:
        """int32 [A, B] -> uint8 [A, B * 32 / bits], in the order of the outputs or inputs that they hold."""
        words = np.ascontiguousarray(words, "<i4")
        codes = unpack_bits(words.view(np.uint8), self.scheme.bits, words.shape[1] * 32 // self.scheme.bits)
        if self.scheme.method == "gptq":
            return codes
        return codes.reshape(len(codes), -1, 8)[..., list(_AWQ_PLACES)].reshape(len(codes), -1)


def _unlike(part: str, kind: torch.dtype) -> bool:
    """Whether scales or g_idx cannot be of this type."""
    return kind not in (_SCALES if part == "scales" else _INDEXES)


def _block(group: int, inputs: int) -> int | None:
    """The largest block of the layout that groups consist of."""
    if group == inputs:
        # One group: a last block may reach beyond it.
        return next((block for block in reversed(BLOCKS) if inputs % block == 0), BLOCKS[0])
    return next((block for block in reversed(BLOCKS) if group % block == 0), None)


def dequantized(
    config: Mapping[str, Any], tensors: Mapping[str, StoredTensor]
) -> tuple[Mapping[str, Any], Mapping[str, StoredTensor], frozenset[str]]:
    """Config and tensors as of a checkpoint that is not quantised.

    The third value names biases of quantised layers that hold nothing but zeros: AutoGPTQ wrote one for every layer,
    whether the model has it or not.

    Raises:
        ConfigError: the quantisation is none of those read here. WeightsError: its tensors do not fit together.
    """
    layers = [key.removesuffix("qweight") for key in tensors if key.endswith(".qweight")]
    if config.get("quantization_config") is None:
        if layers:
            raise ConfigError(
                f"the weights are quantised ({layers[0]}qweight and {len(layers) - 1} more), and config.json has no "
                "'quantization_config' to say how. Put the content of quantize_config.json there, with the "
                "'quant_method' gptq or awq."
            )
        return config, tensors, frozenset()
    scheme = read_scheme(config["quantization_config"])
    plain = {key: value for key, value in config.items() if key != "quantization_config"}
    if not layers:
        raise WeightsError(
            f"config.json says the weights are quantised by {scheme.method}, and no tensor is named '*.qweight'. "
            "Are these the weights that belong to it?"
        )
    found: dict[str, StoredTensor] = dict(tensors)
    problems: list[str] = []
    for layer in layers:
        names = ["qweight", "qzeros", "scales", *(["g_idx"] if scheme.method == "gptq" else [])]
        parts = {name: found.pop(layer + name) for name in names if layer + name in found}
        missing = [name for name in names[:3] if name not in parts]
        name = f"{layer}weight"
        if missing or name in found:
            problems.append(f"{layer}qweight " + (f"without {listing(missing)}" if missing else f"beside {name}"))
            continue
        linear = QuantizedLinear(name, scheme, *(parts.get(part) for part in names))  # type: ignore[arg-type]
        problem = linear.check()
        if problem:
            problems.append(f"{layer}{problem}")
        else:
            found[name] = linear
    if problems:
        group = "one group" if scheme.group is None else f"groups of {scheme.group}"
        raise WeightsError(
            f"tensors of {scheme.method} in {scheme.bits} bits and {group} do not fit together: "
            f"{listing(problems, 5)}. Is quantization_config the one these weights were saved with?"
        )
    biases = [f"{layer}bias" for layer in layers if f"{layer}bias" in tensors]
    return plain, found, frozenset(name for name in biases if not tensors[name].load().any())
