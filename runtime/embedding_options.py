"""The arguments of ``encode``: those of ``SentenceTransformer.encode``, in its order, and shorter names of some.

Source of names, order and meaning: sentence-transformers 6.2, sentence_transformer/model.py. Whatever cannot be as
there (tensors, processes) is refused with what to do instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from precast.runtime import arguments, batching
from precast.runtime.errors import InputError, closest, listing

__all__ = ["PRECISIONS", "EncodeOptions", "quantize", "read_options"]

OUTPUTS = ("sentence_embedding", "token_embeddings")
PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")
POSITIONAL = (
    "prompt_name", "prompt", "batch_size", "show_progress_bar", "output_value", "precision", "convert_to_numpy",
    "convert_to_tensor", "device", "normalize_embeddings", "truncate_dim", "pool", "chunk_size",
)  # fmt: skip
_SHORT = {"normalize": "normalize_embeddings", "output": "output_value", "progress": "show_progress_bar"}
_NAMES = (*POSITIONAL, *_SHORT, "token_budget", "task", "processing_kwargs")


@dataclass(frozen=True)
class EncodeOptions:
    """What a call of ``encode`` asks for, checked."""

    prompt_name: str | None = None
    prompt: str | None = None
    batch_size: int | None = None
    token_budget: int | None = None
    progress: batching.Progress = False
    tokens: bool = False
    """Embeddings of tokens, before pooling, in place of those of sentences."""
    precision: str = "float32"
    stacked: bool = True
    """One array of all embeddings, not a list of one each."""
    normalize: bool = False
    truncate_dim: int | None = None


def read_options(positional: tuple[Any, ...], named: Mapping[str, Any], *, device: str) -> EncodeOptions:
    """Options from what a call gave behind its texts; ``device`` is where the model runs: cpu, cuda ...

    Raises:
        InputError: an argument is unknown, given twice, of the wrong kind, or asks for what only torch has.
    """
    if len(positional) > len(POSITIONAL):
        raise InputError(f"encode takes the texts and {len(POSITIONAL)} arguments behind them: {listing(POSITIONAL)}.")
    given = dict(zip(POSITIONAL, positional, strict=False))
    for name, value in named.items():
        if name not in _NAMES:
            raise InputError(f"encode has no argument {name!r}; it has {listing(_NAMES)}. {closest(name, _NAMES)}")
        if _SHORT.get(name, name) in given:
            raise InputError(f"encode received {_SHORT.get(name, name)} twice; give it once.")
        given[_SHORT.get(name, name)] = value
    given = {name: arguments.listed(value) for name, value in given.items()}
    _refuse_torch(given, device)
    # None is "not said", as upstream has it.
    given = {name: value for name, value in given.items() if value is not None or name == "output_value"}
    if isinstance(given.get("prompt_name"), int):
        raise InputError(
            f"prompt_name must be a text; received {given['prompt_name']!r}. For the size of a batch, write "
            f"batch_size={given['prompt_name']}."
        )
    progress = given.get("show_progress_bar", False)
    truncate_dim = given.get("truncate_dim")
    numpy = arguments.flag("convert_to_numpy", given.get("convert_to_numpy", True))
    batching.check_limits(given.get("batch_size"), given.get("token_budget"))
    return EncodeOptions(
        prompt_name=arguments.text("prompt_name", given["prompt_name"]) if "prompt_name" in given else None,
        prompt=arguments.text("prompt", given["prompt"]) if "prompt" in given else None,
        batch_size=given.get("batch_size"),
        token_budget=given.get("token_budget"),
        progress=batching.check_progress(progress),
        tokens=arguments.choice("output_value", given.get("output_value", OUTPUTS[0]), OUTPUTS) == OUTPUTS[1],
        precision=arguments.choice("precision", given.get("precision", "float32"), PRECISIONS),
        stacked=numpy,
        normalize=arguments.flag("normalize_embeddings", given.get("normalize_embeddings", False)),
        truncate_dim=None if truncate_dim is None else arguments.whole("truncate_dim", truncate_dim),
    )


def quantize(vectors: np.ndarray, precision: str) -> np.ndarray:
    """Embeddings ``[N, H]`` in fewer bits, as ``sentence_transformers.quantize_embeddings`` makes them.

    int8 and uint8 cut each of the H ranges from its smallest to its largest value into 255 steps; binary and ubinary
    keep the signs, eight a byte: ``[N, ceil(H / 8)]``.

    Raises:
        InputError: one vector alone has no range.
    """
    if precision == "float32":
        return vectors
    if precision in ("binary", "ubinary"):
        bits: np.ndarray = np.packbits(vectors > 0, axis=-1)
        return bits if precision == "ubinary" else (bits.astype(np.int16) - 128).astype(np.int8)
    if len(vectors) < 2:
        raise InputError(
            f"precision={precision!r} takes its ranges from the embeddings of the call, and one alone has none. Encode "
            "many texts together, or take precision='binary', which needs no range."
        )
    low, high = vectors.min(axis=0), vectors.max(axis=0)
    steps = (high - low) / 255
    steps = np.where(steps == 0, np.float32(1), steps)
    levels: np.ndarray = np.clip(np.floor((vectors - low) / steps), 0, 255)
    whole: np.ndarray = levels.astype(np.uint8) if precision == "uint8" else (levels - 128).astype(np.int8)
    return whole


def _refuse_torch(given: dict[str, Any], device: str) -> None:
    """Take out the arguments that say where torch computes and into what; one that matters is refused."""
    if arguments.flag("convert_to_tensor", given.pop("convert_to_tensor", None) or False):
        raise InputError(
            "convert_to_tensor=True asks for torch, which is not here: results are NumPy arrays. Leave it out; where "
            "torch is, torch.from_numpy(model.encode(...)) is the tensor."
        )
    asked = given.pop("device", None)
    if asked is not None and (isinstance(asked, (list, tuple)) or str(asked).partition(":")[0] != device):
        raise InputError(
            f"A device is chosen when an artifact is opened, and this one runs on {device}; received device={asked!r}. "
            "Leave it out, or open it there: precast.load(path, device='cuda')."
        )
    pool = given.pop("pool", None)
    if pool is not None:
        raise InputError(
            "pool is of processes, and here one process uses all cores: leave it out, and give "
            "precast.load(path, threads=...) their number."
        )
    chunk = given.pop("chunk_size", None)  # of a pool, without which upstream does not look at it
    if chunk is not None:
        arguments.whole("chunk_size", chunk)
    task = given.pop("task", None)  # of a Router, which no artifact has
    if task is not None:
        arguments.text("task", task)
    if given.pop("processing_kwargs", None):
        raise InputError(
            "processing_kwargs is not taken: texts are tokenized as the artifact says, and cut at the length it says. "
            "For other settings, call the model with model.tokenizer(texts, ...)."
        )
    if "output_value" in given and given["output_value"] is None:
        raise InputError(
            f"output_value must be one of {listing(OUTPUTS)}; received None. For all outputs, call the model: "
            "model(**model.tokenizer(texts, padding=True, return_tensors='np'))."
        )
