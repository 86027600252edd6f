"""Tiny checkpoints of GPTQ and AWQ, packed as the formats define it, and what an artifact holds of such ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
import transformers
from safetensors.torch import save_file

import precast
from precast.export.checkpoints.quantized import dequantized
from precast.graphs.block_weight import BlockWeight
from precast.graphs.dialects import blocks
from precast.runtime.artifact import Artifact
from precast.runtime.initializers import made

Array = np.ndarray[Any, Any]
HIDDEN, INNER, VOCAB = 64, 96, 104


@dataclass
class Integers:
    """A linear layer [N, K] as integers: codes [N, K], zeros and scales [N, G], the group of each input [K]."""

    codes: Array
    zeros: Array
    scales: Array
    groups: Array

    @property
    def weight(self) -> Array:
        steps = self.codes.astype(np.float64) - self.zeros[:, self.groups]
        exact = steps * self.scales.astype(np.float64)[:, self.groups]
        assert (exact == exact.astype(np.float32)).all()
        return exact.astype(np.float32)


def integers(
    outputs: int, inputs: int, *, bits: int = 4, group: int = 32, sym: bool = False, order: bool = False, seed: int = 0
) -> Integers:
    rng = np.random.default_rng(seed)
    group = inputs if group == -1 else min(group, inputs)
    count = -(-inputs // group)
    middle = 2 ** (bits - 1)
    zeros = np.full((outputs, count), middle) if sym else rng.integers(0, 2**bits, (outputs, count))
    scales = (rng.lognormal(-1.5, 0.5, (outputs, count)) / 2**bits).astype(np.float16)
    groups = np.arange(inputs) // group
    return Integers(
        rng.integers(0, 2**bits, (outputs, inputs)), zeros, scales, rng.permutation(groups) if order else groups
    )


def words(codes: Array, bits: int, places: tuple[int, ...] | None = None) -> torch.Tensor:
    """[A, B] -> int32 [A, B * bits / 32]: value ``places[i]`` of each word in bits i * bits and up."""
    count = 32 // bits
    packed = np.zeros((codes.shape[0], codes.shape[1] // count), np.uint64)
    for word in range(packed.shape[1]):
        for i, place in enumerate(places or range(count)):
            packed[:, word] |= codes[:, word * count + place].astype(np.uint64) << np.uint64(i * bits)
    return torch.from_numpy(packed.astype(np.uint32).view(np.int32).copy())


def gptq(made: Integers, bits: int = 4, v1: bool = True) -> dict[str, torch.Tensor]:
    zeros = (made.zeros - 1) % 2**bits if v1 else made.zeros
    return {
        "qweight": words(made.codes, bits).T.contiguous(),
        "qzeros": words(zeros.T, bits),
        "scales": torch.from_numpy(made.scales.T.copy()),
        "g_idx": torch.from_numpy(made.groups.astype(np.int32)),
    }


def awq(made: Integers) -> dict[str, torch.Tensor]:
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    return {
        "qweight": words(made.codes.T, 4, order),
        "qzeros": words(made.zeros.T, 4, order),
        "scales": torch.from_numpy(made.scales.T.copy()),
    }


@dataclass
class Held:
    """A tensor in memory, as a checkpoint's."""

    value: torch.Tensor
    dtype: torch.dtype = field(init=False)

    def __post_init__(self) -> None:
        self.dtype = self.value.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape)

    def load(self) -> torch.Tensor:
        return self.value


def linear(parts: Mapping[str, torch.Tensor], **config: Any) -> Any:
    """The weight that a checkpoint of one layer holds."""
    tensors = {f"a.{name}": Held(value) for name, value in parts.items()}
    plain, found, _ = dequantized({"model_type": "x", "quantization_config": config}, tensors)
    assert plain == {"model_type": "x"} and list(found) == ["a.weight"]
    return found["a.weight"]


def kind_of(zeros: Array | None) -> blocks.Zeros:
    return "none" if zeros is None else "floats" if zeros.dtype == np.float32 else "integers"


def values(stored: BlockWeight, depth: int) -> Array:
    weight, scales, zeros = stored.load()
    assert weight.dtype == np.uint8 and scales.dtype == np.float32 and kind_of(zeros) == stored.zeros
    assert not np.signbit(scales).any()
    return blocks.dequantized(weight, scales, zeros, stored.bits, depth)


LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "vocab_size": VOCAB,
    "tie_word_embeddings": False,
}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False, "desc_act": False, "damp_percent": 0.01,
        "true_sequential": True, "checkpoint_format": "gptq", "meta": {"quantizer": ["gptqmodel:2.0"]}}  # fmt: skip
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm",
       "modules_to_not_convert": None}  # fmt: skip


@dataclass
class Made:
    folder: Path
    model: Any
    layers: dict[str, Integers]


def checkpoint(
    folder: Path,
    config: Mapping[str, Any],
    *,
    change: Callable[[dict[str, torch.Tensor]], None] = lambda tensors: None,
    order: bool = False,
) -> Made:
    """A tiny Llama whose linear layers are integers, and transformers' model with the floats those stand for."""
    torch.manual_seed(0)
    plain = {key: value for key, value in LLAMA.items() if key not in ("model_type", "architectures")}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**plain)).float().eval()
    bits, group = config.get("bits", 4), config["group_size"]
    layers: dict[str, Integers] = {}
    tensors: dict[str, torch.Tensor] = {}
    for seed, (name, parameter) in enumerate(model.named_parameters()):
        if "_proj" not in name:
            torch.nn.init.normal_(parameter, 0, 0.3)
            tensors[name] = parameter.detach().clone()
            continue
        stem = name.removesuffix("weight")
        outputs, inputs = parameter.shape
        layer = integers(outputs, inputs, bits=bits, group=group, sym=config.get("sym", False), order=order, seed=seed)
        layers[name] = layer
        parts = awq(layer) if config["quant_method"] == "awq" else gptq(layer, bits)
        tensors |= {stem + part: value for part, value in parts.items()}
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(layer.weight))
    change(tensors)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**LLAMA, "quantization_config": dict(config)}))
    save_file(tensors, folder / "model.safetensors")
    return Made(folder, model, layers)


def logits(model: Any, ids: Array) -> Array:
    with torch.no_grad():
        found: Array = model(torch.from_numpy(ids)).logits.numpy()
    return found


def error(artifact: Path, variant: str, model: Any) -> float:
    """Relative distance of the variant's logits to upstream's."""
    ids = np.random.default_rng(3).integers(3, VOCAB, (2, 24))
    expected = logits(model, ids)
    found = np.asarray(precast.load(artifact, variant=variant, threads=1)(input_ids=ids).logits)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@dataclass
class Product:
    """A product or a look-up in blocks, in the layout of the operators' vocabulary."""

    attributes: dict[str, Any]
    weight: Array
    scales: Array
    zeros: Array | None

    @property
    def depth(self) -> int:
        return int(self.attributes.get("K", self.weight.shape[1] * self.attributes["block_size"]))

    @property
    def exact(self) -> Array:
        """float32 [N, K]"""
        return blocks.dequantized(self.weight, self.scales, self.zeros, self.attributes["bits"], self.depth)


def graph_of(artifact: Path, variant: str) -> ir.Graph:
    """The decoder's graph, with the arrays in it that its sessions are given."""
    opened = Artifact.open(artifact)
    held = opened.manifest.components["decoder"].variants[variant]
    graph = ir.load(opened.file(held.graph)).graph
    for name, array in made(artifact, held.session.get("initializers", {}), held.graph):
        graph.initializers[name].const_value = ir.tensor(array, name=name)
    return graph


def products(artifact: Path, variant: str) -> dict[str, Product]:
    """By weight; a second reader of the same weight by its operator."""
    found: dict[str, Product] = {}
    for node in graph_of(artifact, variant):
        if node.op_type not in ("MatMulNBits", "GatherBlockQuantized"):
            continue
        held = node.inputs[1:] if node.op_type == "MatMulNBits" else (node.inputs[0], *node.inputs[2:])
        weight, scales, zeros = (
            None if value is None else value.const_value.numpy()  # type: ignore[union-attr]
            for value in (*held, None)[:3]
        )
        assert weight is not None and scales is not None
        scales = scales.reshape(len(weight), -1)
        weight = weight.reshape(*scales.shape, -1)
        name = str(held[0].name).rsplit(".int", 1)[0]  # type: ignore[union-attr]
        at = {name: attribute.value for name, attribute in node.attributes.items()}
        rest = held[2] if len(held) > 2 else None
        if rest is not None and str(rest.name).endswith(".zeros.whole"):
            zeros = _float_zeros(node, scales, zeros, at["bits"])
        found[node.op_type if name in found else name] = Product(at, weight, scales, zeros)
    return found


def _float_zeros(node: ir.Node, scales: Array, whole: Array, bits: int) -> Array:
    """The zero points that integers and the sum over blocks, or what is added to them, stand for."""
    held = node.graph.initializers  # type: ignore[union-attr]
    order = "columns" if node.op_type == "MatMulNBits" else "left"
    name = str(node.inputs[3].name)  # type: ignore[union-attr]
    left = held[name.replace(".whole", f".{order}")].const_value.numpy()  # type: ignore[union-attr]
    left = left.T if order == "columns" else left
    rounded = blocks.offsets_of(whole, bits, scales.shape[1])
    return np.asarray(rounded - np.divide(left, scales, out=np.zeros_like(left), where=scales > 0), np.float32)


def panels(artifact: Path, variant: str) -> dict[str, Array]:
    """By weight: the panels of a native variant's products."""
    return {
        str(node.inputs[1].name).rsplit(".int", 1)[0]: node.inputs[1].const_value.numpy()  # type: ignore[union-attr]
        for node in graph_of(artifact, variant)
        if node.op_type == "BlockLinear"
    }


def report(artifact: Path, variant: str) -> dict[str, int]:
    steps = Artifact.open(artifact).manifest.components["decoder"].variants[variant].recipe
    found: dict[str, int] = next(step for step in steps if step["pass"].startswith("QuantizeWeights"))["declined"]
    return found
