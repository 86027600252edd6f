"""A loaded artifact: NumPy in, a dict of NumPy out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from precast.runtime import arguments
from precast.runtime.artifact import Artifact, Component, Variant
from precast.runtime.backends.agreement import check_graph
from precast.runtime.backends.base import Array, Runner, backend_for
from precast.runtime.errors import InputError, closest, listing

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from precast.runtime.processors.text import Tokenizer

__all__ = ["Model", "Outputs", "load"]

# Inputs that may be left out, and the value that fills them, in the shape of input_ids.
_DEFAULTS = {"attention_mask": 1, "token_type_ids": 0}
# Inputs whose values index a table, and the limit that says how long it is.
_INDEXES = {"input_ids": "vocab_size", "token_type_ids": "type_vocab_size"}
_INT64 = np.dtype(np.int64)
_SMALL = 1024  # numbers up to which a list is cheaper to check than an array
_KEPT = 64
_TARGETS = ("cpu", "cuda", "tensorrt")


class Outputs(dict[str, Array]):
    """Outputs by name, in the order of the signature; also as attributes: ``outputs.logits``."""

    def __getattr__(self, name: str) -> Array:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no output {name!r}; there are: {listing(self)}") from None


class Model:
    """A model ready to be called; safe to call from many threads at once.

    Made by `load`. ``config`` is the checkpoint's config.json, ``tokenizer`` its tokenizer (None where it has none).
    """

    def __init__(self, artifact: Artifact, component: Component, variant: Variant, runner: Runner) -> None:
        self.artifact = artifact
        self.variant = variant
        self.component = component
        self._runner = runner
        self._run = runner.run
        self.input_names: tuple[str, ...] = tuple(spec.name for spec in component.inputs)
        self.output_names: tuple[str, ...] = runner.output_names
        self._rank = {spec.name: len(spec.shape) for spec in component.inputs}
        self._bounds = {
            name: int(component.limits[limit])
            for name, limit in _INDEXES.items()
            if name in self.input_names and component.limits.get(limit) is not None
        }
        self._constants: dict[tuple[str, tuple[int, ...]], Array] = {}
        longest = component.limits.get("max_positions")
        self.max_length: int | None = None if longest is None else int(longest)

    def __repr__(self) -> str:
        return f"Model({os.fspath(self.artifact.path)!r}, variant={self.variant.name!r}, tasks={self.tasks})"

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks this artifact serves, the one it was exported for first."""
        return self.artifact.tasks

    @property
    def path(self) -> Path:
        """The artifact's folder."""
        return self.artifact.path

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.json of the checkpoint."""
        return self.artifact.read_object("config.json")

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer, or None where the checkpoint came without one."""
        if not self.artifact.has("tokenizer.json"):
            return None
        from precast.runtime.processors.text import TOKENIZER_FILES, Tokenizer

        names = filter(self.artifact.has, TOKENIZER_FILES)
        return Tokenizer.from_files({name: self.artifact.read_bytes(name) for name in names})

    @property
    def why_no_tokenizer(self) -> str:
        """The reason the export recorded for an artifact without a tokenizer."""
        described = self.artifact.manifest.processing.get("tokenizer")
        return str(described.get("reason", "")) if isinstance(described, Mapping) else ""

    @property
    def embedding(self) -> dict[str, Any] | None:
        """How sentence embeddings are made of the hidden states (precast.runtime.embedding), where that is defined."""
        described: dict[str, Any] | None = self.artifact.manifest.processing.get("embedding")
        return described

    def __call__(self, *positional: Any, **inputs: Any) -> Outputs:
        """Run the model on NumPy arrays (or nested lists), [B, S] each; missing masks are ones, token types zeros.

        What is given by place, one array, is ``input_ids``, or the artifact's first input.

        Raises:
            InputError: a name, dtype, rank, shape, id, length or mask is outside what the model takes.
        """
        if positional:
            inputs = self._named(positional, inputs)
        return Outputs(zip(self.output_names, self._run(self._checked(inputs))))  # noqa: B905 - one run, one list

    def encode(self, texts: Any = None, *positional: Any, **options: Any) -> Any:
        """Sentence embeddings [N, H] ([H] for one text), with the arguments of ``SentenceTransformer.encode``; see
        `precast.runtime.embedding.encode`."""
        from precast.runtime.embedding import encode

        return encode(self, texts, *positional, **options)

    def encode_query(self, texts: Any = None, *positional: Any, **options: Any) -> Any:
        """`encode`, with the prompt the model brings for queries."""
        from precast.runtime.embedding import encode_query

        return encode_query(self, texts, *positional, **options)

    def encode_document(self, texts: Any = None, *positional: Any, **options: Any) -> Any:
        """`encode`, with the prompt the model brings for what is searched."""
        from precast.runtime.embedding import encode_document

        return encode_document(self, texts, *positional, **options)

    @property
    def similarity_fn_name(self) -> str:
        """How sentence embeddings are compared: cosine, dot, euclidean or manhattan."""
        from precast.runtime.embedding import similarity_name

        return similarity_name(self)

    def similarity(self, embeddings1: ArrayLike, embeddings2: ArrayLike) -> Array:
        """Similarity [N, M] of every row of [N, H] with every row of [M, H]; distances are negated."""
        from precast.runtime.similarity import SIMILARITIES

        return SIMILARITIES[self.similarity_fn_name](embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: ArrayLike, embeddings2: ArrayLike) -> Array:
        """Similarity [N] of row i of [N, H] with row i of [N, H]; distances are negated."""
        from precast.runtime.similarity import PAIRWISE

        return PAIRWISE[self.similarity_fn_name](embeddings1, embeddings2)

    def _named(self, positional: tuple[Any, ...], inputs: Mapping[str, Any]) -> dict[str, Any]:
        """All inputs by name."""
        name = "input_ids" if "input_ids" in self.input_names else self.input_names[0]
        if len(positional) > 1:
            raise InputError(f"one input is given by place, {name}; name the others: {listing(self.input_names)}.")
        if isinstance(positional[0], Mapping):
            raise InputError("What a tokenizer gives is passed as keywords: model(**inputs), not model(inputs).")
        if name in inputs:
            raise InputError(f"{name} is given twice, by place and by name; give it once.")
        return {name: positional[0], **inputs}

    def _checked(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """All inputs the graph wants, each checked before a kernel sees it.

        A call finds its caches full of weights: a NumPy reduction costs it tens of microseconds, a list of a few
        hundred numbers a tenth of that. So small inputs are looked at as lists.
        """
        checked: dict[str, Array] = {}
        shape: tuple[int, ...] | None = None
        for name, value in inputs.items():
            plain = type(value) is np.ndarray and value.dtype is _INT64 and value.ndim == self._rank.get(name)
            array = value if plain else self._converted(name, value)
            if array is None:
                continue
            if shape is None:
                shape = array.shape
            elif array.shape != shape:
                received = {key: tuple(np.shape(entry)) for key, entry in inputs.items() if entry is not None}
                raise InputError(f"all inputs have one shape; received {received}.")
            checked[name] = array
        ids = checked.get("input_ids")
        if ids is None or shape is None:
            raise InputError(f"input 'input_ids' is needed; received: {listing(inputs)}.")
        if 0 in shape:
            raise InputError(f"inputs must hold at least one token of one text; received shape {shape}.")
        if self.max_length is not None and shape[-1] > self.max_length:
            raise InputError(
                f"a text may have {self.max_length} tokens; received {shape[-1]}. "
                "Cut it (tokenizer(..., truncation=True)), or split it into windows (stride=...)."
            )
        small = len(shape) == 2 and ids.size <= _SMALL
        for name, bound in self._bounds.items():
            array = checked.get(name)
            if array is not None and not _within(array, bound, small):
                worst = int(array.min()) if array.min() < 0 else int(array.max())
                raise InputError(
                    f"{name} must be 0 to {bound - 1}; received {worst}. "
                    "Is this the tokenizer the model was trained with?"
                )
        mask = checked.get("attention_mask")
        if mask is not None and not (all(map(any, mask.tolist())) if small else mask.any(axis=-1).all()):
            rows = np.argwhere(~mask.any(axis=-1))
            row = int(rows[0][0]) if rows.shape[1] == 1 else tuple(map(int, rows[0]))
            raise InputError(f"every text needs one real token at least; the attention_mask of row {row} is all zero.")
        if len(checked) < len(self.input_names):
            for name in self.input_names:
                if name not in checked:
                    if name not in _DEFAULTS:
                        raise InputError(f"input {name!r} is needed; received: {listing(inputs)}.")
                    checked[name] = self._default(name, shape)
        return checked

    def _converted(self, name: str, value: Any) -> Array | None:
        """What is no int64 array of the right rank yet, made one; None for an input that counts as left out."""
        rank = self._rank.get(name)
        if value is None and (rank is None or name in _DEFAULTS):
            return None
        if rank is None and name in _DEFAULTS:
            # Many tokenizers give token types to models that have none; upstream's models ignore them too.
            return None
        if rank is None:
            raise InputError(
                f"input {name!r} is not one of this model's: {listing(self.input_names)}. "
                f"{closest(name, self.input_names)}".rstrip()
            )
        array = value if type(value) is np.ndarray else _array(name, value)
        if array.dtype.kind not in "iub":
            raise InputError(f"input {name!r} holds integers; received dtype {array.dtype}.")
        if array.ndim != rank:
            raise InputError(f"input {name!r} has {rank} dimensions; received shape {array.shape}.")
        return array.astype(np.int64)

    def _default(self, name: str, shape: tuple[int, ...]) -> Array:
        """The constant that stands for an input left out; a few are kept, since making one costs as much as a check."""
        array = self._constants.get((name, shape))
        if array is None:
            array = np.full(shape, _DEFAULTS[name], dtype=np.int64)
            array.flags.writeable = False
            if len(self._constants) < _KEPT:
                self._constants[name, shape] = array
        return array


def _within(array: Array, bound: int, small: bool) -> bool:
    """Whether all ids are 0 to ``bound - 1``."""
    if small:
        return all(max(row) < bound and min(row) >= 0 for row in array.tolist())
    # Read as unsigned, a negative id is larger than any bound.
    return bool(array.view(np.uint64).max() < bound)


def _specialised(artifact: Artifact, component: Component, general: Variant) -> Variant:
    """The sibling of a variant that runs anywhere which was made for what this machine has, or the variant itself.

    Of several the first by name: one with a cache of float32 is called as one with a cache of int8 begins.
    """
    for sibling in artifact.variants(component.name):
        same = (sibling.target, sibling.precision) == (general.target, general.precision)
        if same and sibling.isa is not None and backend_for(sibling.provider).supports(sibling.isa):
            return sibling
    return general


def _array(name: str, value: Any) -> Array:
    try:
        return np.asarray(value)
    except ValueError as error:
        raise InputError(f"input {name!r} is no rectangular array: {error}. Pad the texts to one length.") from error


def load(
    path: str | os.PathLike[str],
    device: str = "cpu",
    threads: int | None = None,
    variant: str | None = None,
    *,
    check: str = "digest",
) -> Model:
    """Open the artifact in the folder ``path``.

    Args:
        device: ``cpu``, ``cuda`` or ``tensorrt``, with an index after a colon where there are several.
        threads: CPU threads of one call; None: as many as this process may use.
        variant: the name of one of the artifact's variants; None: the most exact one for the device.
        check: ``digest`` compares every file with its SHA-256 first; ``size`` trusts the folder.

    Raises:
        ArtifactError: the folder is no artifact, or has no variant for the device.
        IntegrityError: a file differs from what was exported.
        ProviderError, DependencyError: the device's library is missing.
    """
    target, _, index = device.partition(":") if isinstance(device, str) else ("", "", "")
    if target not in _TARGETS or (index and not index.isdigit()):
        raise InputError(f"device is cpu, cuda or tensorrt (cuda:1 for a second GPU); received {device!r:.80}.")
    threads = arguments.threads(threads)
    return Artifact.use(
        path, lambda artifact: _loaded(artifact, target, index, threads=threads, variant=variant), check=check
    )


def _loaded(artifact: Artifact, target: str, index: str, *, threads: int | None, variant: str | None) -> Model:
    component = artifact.component_for(None)
    chosen = artifact.choose_variant(component.name, target=target, variant=variant)
    if variant is None:
        chosen = _specialised(artifact, component, chosen)

    def opened(part: Component, one: Variant) -> Runner:
        session = dict(one.session)
        if len(artifact.components) > 1:
            # Threads that still wait for this component's next call would take the processor from the other's.
            session["entries"] = {"session.force_spinning_stop": "1", **session.get("entries", {})}
        if index:
            session["provider_options"] = {**session.get("provider_options", {}), "device_id": index}
        runner = backend_for(one.provider).load(artifact.file(one.graph), session=session, threads=threads, isa=one.isa)
        check_graph(part, one, runner)
        return runner

    # What is read later is what is here now, whatever is published in the folder meanwhile.
    artifact.hold(artifact.processing_files)
    runner = opened(component, chosen)
    if not component.states:
        return Model(artifact, component, chosen, runner)
    from precast.runtime.generation.language_model import LanguageModel

    encoder = artifact.components.get("encoder")
    beside = None if encoder is None else opened(encoder, artifact.choose_variant("encoder", variant=chosen.name))
    return LanguageModel(artifact, component, chosen, runner, beside)
