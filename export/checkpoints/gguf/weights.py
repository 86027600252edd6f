"""A GGUF file's tensors under Hugging Face's names, in its shapes and values.

llama.cpp renames on conversion, permutes llama's queries and keys for its rotary embedding, adds one to gemma's norms
and turns gpt2's Conv1D round; here all of that is taken back (llama.cpp: convert_hf_to_gguf.py, gguf-py's
tensor_mapping.py). A family's own weight rules apply afterwards, as to any checkpoint."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from precast.export.checkpoints.gguf.ggml_types import dequantize
from precast.export.checkpoints.gguf.reader import GGUF, TensorInfo
from precast.export.checkpoints.gguf.repack import Packed, block_weight
from precast.graphs.block_weight import Blocks, BlockWeight
from precast.runtime.errors import UnsupportedModelError, WeightsError, listing

__all__ = ["GGUFTensor", "is_tied", "model_tensors"]


@dataclass(frozen=True)
class GGUFTensor:
    """One tensor, not yet read, with what has to be taken back of llama.cpp's conversion.

    ``heads``: its rows are permuted in that many heads. ``add``: to every value. ``transposed``: axes are swapped."""

    name: str
    stored: TensorInfo
    heads: int | None = None
    add: float = 0.0
    transposed: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored.shape[::-1] if self.transposed else self.stored.shape

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    @property
    def nbytes(self) -> int:
        """Bytes of what ``load`` returns."""
        return 4 * math.prod(self.shape)

    @property
    def file_name(self) -> str:
        """The file it lies in."""
        return self.stored.file.name

    @property
    def packed(self) -> Packed | None:
        """The quantised blocks, rows in this tensor's order; None where there are none, or they do not say it all."""
        return self._pack() if self._is_packed else None

    @property
    def blocks(self) -> Blocks | None:
        """As of `precast.export.weight_table.Lazy`."""
        return self._blocks if self._is_packed else None

    def _pack(self) -> Packed:
        return Packed(self.stored.kind.name, self._ordered(self.stored.rows()), self.transposed)

    def _blocks(self) -> BlockWeight:
        return block_weight(self.stored.kind.name, self.transposed, self._pack)

    @property
    def _is_packed(self) -> bool:
        return self.stored.kind.values > 1 and len(self.stored.shape) == 2 and not self.add

    def load(self) -> torch.Tensor:
        """``shape`` in float32. It aliases the file where that holds just this: treat it as read-only."""
        stored = self.stored
        if stored.kind.name == "F32" and self.heads is None and stored.offset % 4 == 0:
            count = stored.nbytes // 4
            values = torch.frombuffer(stored.file.map, dtype=torch.float32, count=count, offset=stored.offset)
            values = values.reshape(stored.shape)
        elif len(stored.shape) == 1:
            flat = dequantize(stored.rows(), stored.kind)[0]
            values = torch.from_numpy(self._ordered(flat[:, None])[:, 0].copy())
        else:
            values = torch.from_numpy(dequantize(self._ordered(stored.rows()), stored.kind)).reshape(stored.shape)
        if self.add:
            values = values + self.add
        return values.t() if self.transposed else values

    def _ordered(self, rows: np.ndarray) -> np.ndarray:
        """Rows as Hugging Face has them: a head's two halves one after the other, where llama.cpp interleaves them."""
        if self.heads is None:
            return rows
        return np.swapaxes(rows.reshape(self.heads, -1, 2, rows.shape[-1]), 1, 2).reshape(rows.shape)


_LLAMA: Final = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
    "blk.{}.attn_norm.weight": "model.layers.{}.input_layernorm.weight",
    **{
        f"blk.{{}}.{ours}.{leaf}": f"model.layers.{{}}.{theirs}.{leaf}"
        for ours, theirs in (
            ("attn_q", "self_attn.q_proj"),
            ("attn_k", "self_attn.k_proj"),
            ("attn_v", "self_attn.v_proj"),
            ("attn_output", "self_attn.o_proj"),
            ("ffn_gate", "mlp.gate_proj"),
            ("ffn_up", "mlp.up_proj"),
            ("ffn_down", "mlp.down_proj"),
        )
        for leaf in ("weight", "bias")
    },
    "blk.{}.ffn_norm.weight": "model.layers.{}.post_attention_layernorm.weight",
}
_GEMMA3: Final = {
    **{ours: theirs for ours, theirs in _LLAMA.items() if not ours.endswith(".bias")},
    "blk.{}.attn_q_norm.weight": "model.layers.{}.self_attn.q_norm.weight",
    "blk.{}.attn_k_norm.weight": "model.layers.{}.self_attn.k_norm.weight",
    "blk.{}.post_attention_norm.weight": "model.layers.{}.post_attention_layernorm.weight",
    "blk.{}.ffn_norm.weight": "model.layers.{}.pre_feedforward_layernorm.weight",
    "blk.{}.post_ffw_norm.weight": "model.layers.{}.post_feedforward_layernorm.weight",
}
_GPT2: Final = {
    "token_embd.weight": "transformer.wte.weight",
    "position_embd.weight": "transformer.wpe.weight",
    "output.weight": "lm_head.weight",
    **{
        f"{ours}.{leaf}": f"transformer.{theirs}.{leaf}"
        for ours, theirs in (
            ("output_norm", "ln_f"),
            ("blk.{}.attn_norm", "h.{}.ln_1"),
            ("blk.{}.attn_qkv", "h.{}.attn.c_attn"),
            ("blk.{}.attn_output", "h.{}.attn.c_proj"),
            ("blk.{}.ffn_norm", "h.{}.ln_2"),
            ("blk.{}.ffn_up", "h.{}.mlp.c_fc"),
            ("blk.{}.ffn_down", "h.{}.mlp.c_proj"),
        )
        for leaf in ("weight", "bias")
    },
}
# What Hugging Face's models compute from the config: read there (config.py), not here.
_COMPUTED: Final = frozenset({"rope_freqs.weight"})
_CONV1D: Final = ("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight")
_NAMES: Final[Mapping[str, Mapping[str, str]]] = {
    "llama": _LLAMA,
    "qwen2": _LLAMA,
    "gemma3": _GEMMA3,
    "gpt2": _GPT2,
}


def is_tied(model: GGUF) -> bool:
    """The output projection is the embedding: it is left out, or stored as the same bytes again."""
    output, embedding = model.tensors.get("output.weight"), model.tensors.get("token_embd.weight")
    if output is None or embedding is None:
        return True
    same = output.kind == embedding.kind and output.shape == embedding.shape
    return same and bool(np.array_equal(output.rows(), embedding.rows()))


def model_tensors(model: GGUF) -> dict[str, GGUFTensor]:
    """Every tensor by Hugging Face's name. Raises ``WeightsError`` naming those the architecture does not have."""
    architecture = model.metadata.architecture
    names = _NAMES.get(architecture)
    if names is None:
        raise UnsupportedModelError(
            f"{model.metadata.file} is of the architecture {architecture!r:.60}; of GGUF files, these are read: "
            f"{listing(_NAMES)}. Export the model's checkpoint instead."
        )
    tied = is_tied(model)
    tensors: dict[str, GGUFTensor] = {}
    unknown: list[str] = []
    for name, stored in model.tensors.items():
        general = re.sub(r"^blk\.(?:0|[1-9]\d{0,5})\.", "blk.{}.", name)
        if name in _COMPUTED or (tied and name == "output.weight"):
            continue
        if general not in names:
            unknown.append(f"{name} {list(stored.shape)}")
            continue
        theirs = names[general].replace("{}", name.split(".")[1])
        tensors[theirs] = _restored(model, general, theirs, stored)
    if unknown:
        raise WeightsError(
            f"{model.metadata.file} holds tensors that {architecture} models do not have, so it would be computed "
            f"wrongly without them: {listing(unknown, 5)}. Export the model's checkpoint instead."
        )
    return tensors


def _restored(model: GGUF, general: str, name: str, stored: TensorInfo) -> GGUFTensor:
    architecture, part = model.metadata.architecture, general.removeprefix("blk.{}.")
    if architecture == "llama" and part.startswith(("attn_q.", "attn_k.")):
        heads = model.metadata.whole("{arch}.attention.head_count")
        if part.startswith("attn_k."):
            heads = model.metadata.whole("{arch}.attention.head_count_kv", heads)
        size = stored.shape[-1] if part.endswith("bias") else stored.shape[0]
        if heads < 1 or size % (2 * heads):
            raise WeightsError(
                f"{stored.file.name}: {stored.name} has {size} outputs, which {heads} heads do not share."
            )
        return GGUFTensor(name, stored, heads=heads)
    if architecture == "gemma3" and part.endswith("norm.weight"):
        return GGUFTensor(name, stored, add=-1.0)
    if architecture == "gpt2" and part in _CONV1D:
        if len(stored.shape) != 2:
            raise WeightsError(
                f"{stored.file.name}: {stored.name} must be a matrix; its shape is {list(stored.shape)}."
            )
        return GGUFTensor(name, stored, transposed=True)
    return GGUFTensor(name, stored)
