"""ggml's element types: how many values a block holds, in how many bytes, and how they become float32.

Facts from ggml (ggml-common.h) and its Python package ``gguf``, which knows how every type is decoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from precast.runtime.errors import DependencyError

__all__ = ["READABLE", "UNREADABLE", "BlockType", "dequantize"]

_CHUNK = 1 << 20  # values decoded at a time; the decoders need several times their result


@dataclass(frozen=True)
class BlockType:
    """``values`` consecutive values of a row in ``nbytes`` bytes."""

    number: int
    name: str
    values: int
    nbytes: int


def _table(*rows: tuple[int, str, int, int]) -> Mapping[int, BlockType]:
    return {row[0]: BlockType(*row) for row in rows}


READABLE: Final = _table(
    (0, "F32", 1, 4),
    (1, "F16", 1, 2),
    (2, "Q4_0", 32, 18),
    (3, "Q4_1", 32, 20),
    (6, "Q5_0", 32, 22),
    (7, "Q5_1", 32, 24),
    (8, "Q8_0", 32, 34),
    (10, "Q2_K", 256, 84),
    (11, "Q3_K", 256, 110),
    (12, "Q4_K", 256, 144),
    (13, "Q5_K", 256, 176),
    (14, "Q6_K", 256, 210),
    (16, "IQ2_XXS", 256, 66),
    (17, "IQ2_XS", 256, 74),
    (18, "IQ3_XXS", 256, 98),
    (19, "IQ1_S", 256, 50),
    (20, "IQ4_NL", 32, 18),
    (21, "IQ3_S", 256, 110),
    (22, "IQ2_S", 256, 82),
    (23, "IQ4_XS", 256, 136),
    (29, "IQ1_M", 256, 56),
    (30, "BF16", 1, 2),
    (34, "TQ1_0", 256, 54),
    (35, "TQ2_0", 256, 66),
    (39, "MXFP4", 32, 17),
    (40, "NVFP4", 64, 36),
)
# Types that exist, and that no weight of the architectures read here has.
UNREADABLE: Final[Mapping[int, str]] = {
    4: "Q4_2", 5: "Q4_3", 9: "Q8_1", 15: "Q8_K", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64",
    31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8", 36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8", 41: "Q1_0",
}  # fmt: skip


def dequantize(rows: np.ndarray, kind: BlockType) -> np.ndarray:
    """[R, bytes of a row] uint8 -> [R, C] float32, as ggml decodes them."""
    columns = rows.shape[1] // kind.nbytes * kind.values
    values = np.empty((rows.shape[0], columns), np.float32)
    step = max(1, _CHUNK // max(1, columns))
    with np.errstate(all="ignore"):  # a damaged scale may be infinite; who binds the weights refuses it by name
        for start in range(0, rows.shape[0], step):
            values[start : start + step] = _decode(np.ascontiguousarray(rows[start : start + step]), kind)
    return values


def _decode(rows: np.ndarray, kind: BlockType) -> Any:
    if kind.name == "F32":
        return rows.view("<f4")
    if kind.name == "F16":
        return rows.view("<f2")
    if kind.name == "BF16":
        return (rows.view("<u2").astype(np.uint32) << 16).view(np.float32)
    try:
        import gguf
    except ImportError as error:
        raise DependencyError(
            f'Decoding weights of the ggml type {kind.name} needs gguf: pip install "precast[export]" ({error})'
        ) from error
    try:
        return gguf.dequantize(rows, gguf.GGMLQuantizationType(kind.number))
    except (ValueError, NotImplementedError) as error:
        raise DependencyError(
            f"The installed gguf does not decode the ggml type {kind.name}: pip install --upgrade gguf ({error})"
        ) from error
