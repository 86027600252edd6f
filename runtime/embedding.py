"""Sentence embeddings: token embeddings pooled, projected and normalised as the artifact's data says.

The steps are those of sentence-transformers (Reimers and Gurevych 2019, arXiv:1908.10084), in NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np

from precast.runtime import arguments, batching
from precast.runtime.arrays import read_npy
from precast.runtime.embedding_options import EncodeOptions, quantize, read_options
from precast.runtime.embedding_towers import is_single, read_item
from precast.runtime.errors import ArtifactError, InputError, UnsupportedTaskError, closest, listing
from precast.runtime.readers.image import ImageReader
from precast.runtime.readers.text import TextReader

__all__ = [
    "ACTIVATIONS",
    "POOLING",
    "SPLADE",
    "encode",
    "encode_document",
    "encode_query",
    "normalize",
    "pool",
    "similarity_name",
]

SPLADE = ("splade_max", "splade_sum", "splade_max_log1p", "splade_sum_log1p")
POOLING = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
_SPARSE_BUDGET = 512  # tokens of a call with a number for each token of the vocabulary
_TINY = np.float32(1e-12)


def encode(model: Any, texts: Any = None, *positional: Any, **options: Any) -> Any:
    """Embeddings ``[N, H]`` of N texts, float32; ``[H]`` for a single text. Equal to ``SentenceTransformer.encode``.

    Texts longer than the model takes are cut.

    Args:
        texts: one, or any iterable of them; upstream's names ``inputs`` and ``sentences`` do as well. Of a model of two
            towers texts and pictures, in any order: a Pillow image, a picture's file or http address, a uint8 array
            ``[H, W, 3]``, ``{"image": ...}``, ``{"text": ...}``.
        positional, options: upstream's arguments, in its order: ``prompt_name`` (one that the model brings), ``prompt``
            (put before every text), ``batch_size`` (None: as many as ``token_budget`` padded tokens hold),
            ``show_progress_bar``, or ``progress`` (also a function of how many are done, and of how many),
            ``output_value``, or ``output`` ("token_embeddings": a list of ``[S_i, H]``, before pooling), ``precision``
            (`quantize`), ``convert_to_numpy`` (False: a list of vectors), ``normalize_embeddings``, or ``normalize``
            (each vector's length is made 1, after ``truncate_dim``), ``truncate_dim`` (keep the first so many numbers).

    Raises:
        UnsupportedTaskError: the artifact holds no sentence embedding.
        InputError: an argument is unknown or of the wrong kind, asks for torch, or there are no texts.
    """
    head = _head(model)
    for name in ("inputs", "sentences"):
        if name in options:
            if texts is not None:
                raise InputError(f"encode received its texts twice, by place and as {name}; give them once.")
            texts = options.pop(name)
    asked = read_options(positional, options, device=batching.device(model))
    texts = texts if head.towers else arguments.listed(texts)
    single = is_single(texts) if head.towers else isinstance(texts, str)
    items = ([texts] if single else _listed(texts)) if head.towers else _texts(texts)
    start = _prompt(head.settings, asked.prompt, asked.prompt_name)
    if asked.tokens and head.towers:
        raise InputError("This model makes one vector of each input, and none of tokens. Leave output_value out.")
    if not items and not asked.tokens and asked.stacked:
        return np.zeros((0, asked.truncate_dim or head.width), dtype=np.float32)
    found = (_placed if head.towers else _embedded)(model, head, items, start, asked)
    if asked.precision != "float32" and found:
        # Ranges are those of all tokens, or of all texts.
        sizes = [len(one) for one in found] if asked.tokens else [1] * len(found)
        rows = np.concatenate(found) if asked.tokens else np.stack(found)
        parts = np.split(quantize(rows, asked.precision), np.cumsum(sizes)[:-1])
        found = parts if asked.tokens else [part[0] for part in parts]
    if single:
        return found[0]
    return np.stack(found) if asked.stacked and not asked.tokens else found


def encode_query(
    model: Any, texts: Any = None, prompt_name: str | None = None, prompt: str | None = None, *rest: Any, **options: Any
) -> Any:
    """`encode` with the prompt the model brings for queries, where the call gives none."""
    if prompt_name is None and prompt is None:
        prompt_name = _task_prompt(model, "query")
    return encode(model, texts, prompt_name, prompt, *rest, **options)


def encode_document(
    model: Any, texts: Any = None, prompt_name: str | None = None, prompt: str | None = None, *rest: Any, **options: Any
) -> Any:
    """`encode` with the prompt the model brings for what is searched, where the call gives none."""
    if prompt_name is None and prompt is None:
        prompt_name = _task_prompt(model, "document", "passage", "corpus")
    return encode(model, texts, prompt_name, prompt, *rest, **options)


def similarity_name(model: Any) -> str:
    """How the model's embeddings are compared: cosine, unless it says otherwise."""
    return str(_settings(model).get("similarity") or "cosine")


def _settings(model: Any) -> Mapping[str, Any]:
    settings: Mapping[str, Any] | None = model.embedding
    if settings is None:
        raise UnsupportedTaskError(
            f"This artifact has no sentence embedding. It serves: {listing(model.tasks)}. The checkpoint of one is a "
            "sentence-transformers folder (with a modules.json), exported without --task."
        )
    return settings


def _head(model: Any) -> _Head:
    settings = _settings(model)
    head = _HEADS.get(model)
    if head is None:
        head = _HEADS[model] = _Head(model, settings)
    return head


def _texts(texts: Any) -> list[str]:
    if not isinstance(texts, str) and (isinstance(texts, (bytes, Mapping)) or not isinstance(texts, Iterable)):
        raise InputError(f"encode takes a text or a list of texts; received {type(texts).__name__}: {texts!r:.80}.")
    items: list[str] = [texts] if isinstance(texts, str) else list(texts)
    for item in items:
        if not isinstance(item, str):
            raise InputError(f"encode takes a text or a list of texts; received {type(item).__name__}: {item!r:.80}.")
    return items


def _listed(items: Any) -> list[Any]:
    """Texts and pictures of any iterable of them."""
    if isinstance(items, (bytes, Mapping)) or not isinstance(items, Iterable):
        read_item(items)
    return list(items)


def _placed(model: Any, head: _Head, items: list[Any], start: str, asked: EncodeOptions) -> list[Any]:
    """One array ``[H]`` a text or a picture, in order, each by its own tower."""
    read = [read_item(item) for item in items]
    found: list[Any] = [None] * len(read)
    done = 0
    with batching.reporter(asked.progress, len(items), "encode") as report:
        for kind in head.towers:
            places = [place for place, (own, _) in enumerate(read) if own == kind]
            if not places:
                continue
            texts = kind == "text"
            reader: Any = head.reader if texts else head.seeing(model)
            for window in batching.windows(places, limit=reader.window):
                given = [read[place][1] for place in window]
                rows = head.tokenize([start + one for one in given]) if texts else [reader.row(one) for one in given]
                costs = [reader.cost(row) for row in rows]
                limits = batching.limits(model, asked.token_budget)
                for batch in batching.plan(costs, batch_size=asked.batch_size, **limits):
                    outputs = model(**reader.collate([rows[index] for index in batch]))[head.towers[kind]]
                    for index, vector in zip(batch, head.finished(outputs, asked), strict=True):
                        found[window[index]] = vector
                    done += len(batch)
                    report(done)
    return found


def _embedded(model: Any, head: _Head, items: list[str], start: str, asked: EncodeOptions) -> list[Any]:
    """One array a text, in order: ``[H]``, or of its tokens ``[S_i, H]``."""
    skipped = head.prompt_length(start) if start and not head.settings.get("include_prompt", True) else 0
    found: list[Any] = []

    sparse = {"cpu_budget": _SPARSE_BUDGET} if head.sparse else {}
    limits = batching.limits(model, asked.token_budget, **sparse)
    with batching.reporter(asked.progress, len(items), "encode") as report:
        for window in batching.windows(items, limit=batching.LIST_WINDOW):
            rows = head.tokenize([start + text for text in window] if start else window)
            results: list[Any] = [None] * len(rows)
            lengths = [len(row["input_ids"]) for row in rows]
            some = [index for index, length in enumerate(lengths) if length]
            for index in set(range(len(rows))).difference(some):
                nothing = np.zeros((0 if asked.tokens else 1, head.pooled_width), np.float32)
                results[index] = nothing if asked.tokens else head.finished(nothing, asked)[0]
            done = len(rows) - len(some)
            for places in batching.plan([lengths[index] for index in some], batch_size=asked.batch_size, **limits):
                batch = [some[place] for place in places]
                inputs = head.reader.collate([rows[index] for index in batch])
                tokens, mask = head.forward(model, inputs)
                if asked.tokens:
                    values: Sequence[np.ndarray] = [
                        tokens[place][: int(np.flatnonzero(mask[place])[-1]) + 1].copy() for place in range(len(batch))
                    ]
                else:
                    values = list(head.finished(pool(tokens, mask, head.settings["pooling"], skip=skipped), asked))
                for index, value in zip(batch, values, strict=True):
                    results[index] = value
                done += len(batch)
                report(len(found) + done)
            found.extend(results)
    return found


def pool(tokens: np.ndarray, mask: np.ndarray, modes: Sequence[str], *, skip: int = 0) -> np.ndarray:
    """Token embeddings ``[B, S, H]`` under a mask ``[B, S]`` -> ``[B, len(modes) * H]``, modes side by side.

    ``skip`` leaves that many first tokens (a prompt) out. ``weightedmean`` weighs tokens by their position in the
    text, 1 for the first, counted with the prompt.
    """
    full, mask = mask, mask != 0
    first = full.astype(bool).argmax(axis=1)[:, None]
    positions = np.arange(mask.shape[1])[None, :] - first
    if skip:
        mask = mask & (positions >= skip)
    weights = mask[..., None].astype(tokens.dtype)
    batch = np.arange(len(tokens))
    parts = []
    for mode in modes:
        if mode == "cls":
            parts.append(tokens[batch, mask.argmax(axis=1)])
        elif mode == "lasttoken":
            last = mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1)
            last = np.where(mask.any(axis=1), last, 0)
            parts.append(tokens[batch, last] * weights[batch, last])
        elif mode == "max":
            parts.append(np.where(mask[..., None], tokens, -np.inf).max(axis=1).astype(tokens.dtype))
        elif mode in ("mean", "mean_sqrt_len_tokens"):
            count = np.maximum(weights.sum(axis=1), np.float32(1e-9))
            total = (tokens * weights).sum(axis=1)
            parts.append(total / (count if mode == "mean" else np.sqrt(count)))
        elif mode in SPLADE:
            parts.append(_splade(tokens, mask, mode))
        elif mode == "weightedmean":
            weighted = weights * (positions + 1)[..., None].astype(tokens.dtype)
            parts.append((tokens * weighted).sum(axis=1) / np.maximum(weighted.sum(axis=1), np.float32(1e-9)))
        else:
            raise ArtifactError(f"pooling must be of {listing((*POOLING, *SPLADE))}; the artifact says {mode!r}.")
    return np.concatenate(parts, axis=-1)


def _splade(logits: np.ndarray, mask: np.ndarray, mode: str) -> np.ndarray:
    """Logits over the vocabulary ``[B, S, V]`` -> how much a text is about each token, ``[B, V]``: the largest or the
    sum of log(1 + relu(x)), or of log(1 + log(1 + relu(x))). https://arxiv.org/abs/2109.10086"""
    summed = "sum" in mode
    # The largest of a growing function is the function of the largest, which is one row in place of S.
    found = logits if summed else np.where(mask[..., None], logits, 0).max(axis=1)
    found = np.log1p(np.maximum(found, 0))
    if mode.endswith("log1p"):
        found = np.log1p(found)
    weight: np.ndarray = np.where(mask[..., None], found, 0).sum(axis=1) if summed else found
    return weight.astype(logits.dtype, copy=False)


def normalize(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length 1 along the last axis; a zero vector stays zero."""
    return _unit(vectors)


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.sqrt((vectors * vectors).sum(axis=-1, keepdims=True))
    unit: np.ndarray = vectors / np.maximum(length, _TINY)
    return unit


def _sigmoid(x: np.ndarray) -> np.ndarray:
    tail = np.exp(-np.abs(x))
    value: np.ndarray = np.where(x >= 0, np.float32(1.0), tail) / (1 + tail)
    return value


_erf = np.vectorize(math.erf, otypes=[np.float32])

Activation: TypeAlias = Callable[[np.ndarray], np.ndarray]
ACTIVATIONS: dict[str, Activation] = {
    "identity": lambda x: x,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": _sigmoid,
    "silu": lambda x: x * _sigmoid(x),
    "gelu": lambda x: x * np.float32(0.5) * (1 + _erf(x / np.float32(math.sqrt(2)))),
}


class _Head:
    """What surrounds the encoder of one artifact: tokenizer settings before it, dense layers and norm after it.

    It holds no reference to the model, whose lifetime its own is tied to.
    """

    def __init__(self, model: Any, settings: Mapping[str, Any]) -> None:
        self.settings = settings
        self.sparse = settings.get("output") == "logits"
        self.output, self.names = settings.get("output") or "last_hidden_state", model.input_names
        # Outputs that are embeddings of texts and of pictures; none: these are made of one of tokens.
        self.towers: Mapping[str, str] = settings.get("towers") or {}
        self._seeing: ImageReader | None = None
        parts = [part.component for part in model.flow.parts.values()] if self.towers else [model.component]
        given = [out for part in parts for out in part.outputs]
        for name in self.towers.values() or (self.output,):
            made = next((out for out in given if out.name == name), None)
            if made is None or not isinstance(made.shape[-1], int):
                has = listing(out.name for out in given)
                raise ArtifactError(f"embeddings are made of {name}; this artifact gives {has}.")
            self.token_width = made.shape[-1]
        if model.tokenizer is None:
            why = getattr(model, "why_no_tokenizer", "")
            raise InputError(f"encode needs a tokenizer, and the artifact has none{f' ({why})' if why else ''}.")
        self.reader = TextReader(model, task="encode")
        self.tokenizer = self.reader.tokenizer
        limits = [settings.get("max_seq_length") or self.tokenizer.model_max_length, model.max_length]
        self.limit = min((limit for limit in limits if limit is not None and limit < 10**9), default=None)
        self.dense = [_dense(model, layer) for layer in settings.get("dense") or ()]

    @property
    def width(self) -> int:
        """Numbers in an embedding."""
        return int(self.dense[-1][0].shape[0]) if self.dense else self.pooled_width

    @property
    def pooled_width(self) -> int:
        """Numbers in what pooling makes of the tokens."""
        return self.token_width * len(self.settings["pooling"] or ("none",))

    def tokenize(self, texts: Sequence[str]) -> list[dict[str, np.ndarray]]:
        if self.settings.get("do_lower_case"):
            # Character by character, as tokenizers lowercases: str.lower looks at a word's end for a final sigma.
            texts = ["".join(map(str.lower, text)) for text in texts]
        options = {} if self.limit is None else {"truncation": True, "max_length": self.limit}
        special = self.settings.get("add_special_tokens", True)
        encoding = self.tokenizer(list(texts), add_special_tokens=special, **options)
        rows = []
        for index, ids in enumerate(encoding["input_ids"]):
            row = self.reader.named(encoding, index)
            row.setdefault("attention_mask", np.ones(len(ids), np.int64))
            if not len(ids) and self.settings.get("empty") != "zeros":
                raise InputError(f"A text needs at least one token; received one that makes none: {texts[index]!r}.")
            rows.append(row)
        return rows

    def seeing(self, model: Any) -> ImageReader:
        """What reads pictures, which a model that embeds texts alone need not have."""
        if self._seeing is None:
            self._seeing = ImageReader(model, task="encode")
        return self._seeing

    def prompt_length(self, prompt: str) -> int:
        """Tokens a prompt takes at the start of a text, without a closing special token."""
        ids = self.tokenize([prompt])[0]["input_ids"]
        return len(ids) - (int(ids[-1]) in set(self.tokenizer.all_special_ids))

    def forward(self, model: Any, inputs: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        mask = inputs["attention_mask"]
        if "attention_mask" not in self.names:
            inputs = {name: value for name, value in inputs.items() if name != "attention_mask"}
        tokens: np.ndarray = model(**inputs)[self.output]
        return tokens.astype(np.float32, copy=False), mask

    def finished(self, pooled: np.ndarray, asked: EncodeOptions) -> np.ndarray:
        """Embeddings of what was pooled, as a call asks for them."""
        # Cut first, then normalise, so that a shortened vector has length 1 as well.
        made = self.project(pooled)[:, : asked.truncate_dim]
        return _unit(made) if asked.normalize else made

    def project(self, pooled: np.ndarray) -> np.ndarray:
        for weight, bias, activation in self.dense:
            if weight.shape[1] != pooled.shape[1]:
                raise ArtifactError(
                    f"a dense layer must take the {pooled.shape[1]} numbers it is given, got weights "
                    f"{list(weight.shape)}. Export it again."
                )
            pooled = pooled @ weight.T
            pooled = activation(pooled if bias is None else pooled + bias)
        most = self.settings.get("max_active_dims")
        if most is not None and most < pooled.shape[1]:
            kept = np.argpartition(-np.abs(pooled), most - 1, axis=1)[:, :most]
            whole, pooled = pooled, np.zeros_like(pooled)
            np.put_along_axis(pooled, kept, np.take_along_axis(whole, kept, axis=1), axis=1)
        return _unit(pooled) if self.settings.get("normalize") else pooled


# One a loaded model, made at its first use: dense layers are read from their files once.
_HEADS: WeakKeyDictionary[Any, _Head] = WeakKeyDictionary()


def _array(model: Any, source: Any) -> Any:
    """An array that the settings name: itself, or an ``.npy`` file of the artifact."""
    if source is None or isinstance(source, np.ndarray):
        return source
    return read_npy(model.artifact.read_bytes(source), source)


def _dense(model: Any, layer: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray | None, Activation]:
    """Weight [O, I], bias [O] or None, and what follows them."""
    weight, bias = _array(model, layer["weight"]), _array(model, layer.get("bias"))
    if layer["activation"] not in ACTIVATIONS:
        raise ArtifactError(f"an activation must be of {listing(ACTIVATIONS)}, got {layer['activation']!r}.")
    if weight.ndim != 2 or not (bias is None or bias.shape == weight.shape[:1]):
        shapes = [list(array.shape) for array in (weight, bias) if array is not None]
        raise ArtifactError(f"a dense layer must have weights [O, I] and a bias [O], got {shapes}. Export it again.")
    return weight, bias, ACTIVATIONS[layer["activation"]]


def _prompt(settings: Mapping[str, Any], prompt: str | None, name: str | None) -> str:
    if prompt is not None:
        return prompt
    prompts: Mapping[str, str | None] = settings.get("prompts") or {}
    if name is None:
        return prompts.get(settings.get("default_prompt_name") or "") or ""
    if name not in prompts:
        raise InputError(
            f"Prompt name {name!r} not found in the configured prompts, which are: {listing(prompts)}. "
            f"{closest(name, prompts)}".rstrip()
        )
    return prompts[name] or ""


def _task_prompt(model: Any, *names: str) -> str | None:
    """The first of these names that the model brings a prompt for, if only an empty one."""
    prompts: Mapping[str, str | None] = _settings(model).get("prompts") or {}
    return next((name for name in names if name in prompts), None)
