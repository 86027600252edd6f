"""A loaded artifact: NumPy in, a dict of NumPy out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precast.runtime.artifact import Artifact
from precast.runtime.backends.base import Array
from precast.runtime.errors import InputError, UnsupportedTaskError, listing
from precast.runtime.flow import Flow
from precast.runtime.inputs import Inputs
from precast.runtime.ports import FREE, merged

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from precast.runtime.processors.audio import FeatureExtractor
    from precast.runtime.processors.image import ImageProcessor
    from precast.runtime.processors.spelling import Spelling
    from precast.runtime.processors.text import Tokenizer

__all__ = ["Model", "Outputs"]


class Outputs(dict[str, Array]):
    """Outputs by name, in the order of the signature; also as attributes: ``outputs.logits``."""

    def __getattr__(self, name: str) -> Array:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no output {name!r}; there are: {listing(self)}") from None


class Model:
    """A model ready to be called; safe to call from many threads at once.

    Made by `load`. ``config`` is the checkpoint's config.json, ``tokenizer``, ``image_processor`` and
    ``feature_extractor`` make inputs of texts, of pictures and of recordings (None where it has none).
    """

    def __init__(self, artifact: Artifact, flow: Flow) -> None:
        self.artifact = artifact
        self.flow = flow
        self.component, self.variant, runner = flow.parts[flow.last]
        self._alone = None if flow.before else runner.run
        given = flow.given()
        dims = merged(part.component.dims for part in flow.parts.values())
        self._inputs = Inputs(given, dims, partial=bool(flow.before))
        self.input_names: tuple[str, ...] = self._inputs.names
        self._leading = self._inputs.leading
        outputs = [part.runner.output_names for part in reversed(flow.parts.values())]
        self.output_names: tuple[str, ...] = tuple(dict.fromkeys(name for names in outputs for name in names))
        # Of the last component, or where that reads no text, of those before it.
        self.max_length: int | None = self.component.longest or dims.get("sequence", FREE).most

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
        names = self.artifact.reading("text").get("files")
        if names is None:
            return None
        from precast.runtime.processors.text import Tokenizer

        return Tokenizer.from_files({name: self.artifact.read_bytes(name) for name in names})

    @property
    def why_no_tokenizer(self) -> str:
        """The reason the export recorded for an artifact without a tokenizer."""
        return str(self.artifact.reading("text").get("missing", ""))

    @cached_property
    def image_processor(self) -> ImageProcessor | None:
        """The image processor, or None where the checkpoint came without one that is known."""
        described = self.artifact.reading("image")
        if "steps" not in described:
            return None
        from precast.runtime.processors.image import ImageProcessor

        return ImageProcessor.from_data(described)

    @property
    def why_no_image_processor(self) -> str:
        """The reason the export recorded for an artifact without an image processor."""
        return str(self.artifact.reading("image").get("missing", ""))

    @cached_property
    def feature_extractor(self) -> FeatureExtractor | None:
        """What makes inputs of recordings, or None where the checkpoint came without one that is known."""
        described = self.artifact.reading("audio")
        if "steps" not in described:
            return None
        from precast.runtime.processors.audio import FeatureExtractor

        return FeatureExtractor.from_data(described)

    @property
    def why_no_feature_extractor(self) -> str:
        """The reason the export recorded for an artifact without a feature extractor."""
        return str(self.artifact.reading("audio").get("missing", ""))

    @cached_property
    def spelling(self) -> Spelling | None:
        """What makes texts of the tokens of frames, or None where the model names none, or has no vocabulary."""
        described = self.artifact.reading("spelling")
        if "tokens" not in described:
            return None
        from precast.runtime.processors.spelling import Spelling

        return Spelling.from_data(described)

    @property
    def why_no_spelling(self) -> str:
        """The reason the export recorded for an artifact that spells, and has no vocabulary."""
        return str(self.artifact.reading("spelling").get("missing", ""))

    @property
    def embedding(self) -> dict[str, Any] | None:
        """How sentence embeddings are made of the hidden states (precast.runtime.embedding), where that is defined."""
        described: dict[str, Any] | None = self.artifact.manifest.processing.get("embedding")
        return described

    def __call__(self, *positional: Any, **inputs: Any) -> Outputs:
        """Run the model on NumPy arrays (or nested lists); masks that are left out are ones, token types zeros.

        What is given by place, one array, is ``input_ids``, or the artifact's first input. Of several components those
        run that what is given is enough for; what one makes of its inputs may be given instead of these.

        Raises:
            InputError: a name, dtype, rank, shape, id, length or mask is outside what the model takes.
        """
        if positional:
            inputs = self._named(positional, inputs)
        checked = self._inputs.checked(inputs)
        if self._alone is None:
            return Outputs(self.flow.run(checked))
        return Outputs(zip(self.output_names, self._alone(checked)))  # noqa: B905 - one run, one list

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

    def get_text_features(self, *positional: Any, **inputs: Any) -> Outputs:
        """``pooler_output`` [T, P]: texts in the space of two towers, as upstream's method of that name, of what a
        tokenizer gives.

        Raises:
            UnsupportedTaskError: there is no such tower.
        """
        return self._features("text", positional, inputs)

    def get_image_features(self, *positional: Any, **inputs: Any) -> Outputs:
        """The same of pictures [I, P], of what an image processor gives."""
        return self._features("image", positional, inputs)

    def get_audio_features(self, *positional: Any, **inputs: Any) -> Outputs:
        """The same of recordings [A, P], of what a feature extractor gives."""
        return self._features("audio", positional, inputs)

    def get_video_features(self, *positional: Any, **inputs: Any) -> Outputs:
        """The same of videos [V, P], of what an image processor gives."""
        return self._features("video", positional, inputs)

    def _features(self, kind: str, positional: tuple[Any, ...], inputs: Mapping[str, Any]) -> Outputs:
        """What a tower makes of its inputs: of any length, or, where nothing else is asked of it, 1 long."""
        for name in (f"{kind}_features", f"{kind}_embeds"):
            for part in self.flow.parts.values():
                if part.component.output(name) is not None:
                    if len(positional) == 1 and part.component.inputs[0].name not in inputs:
                        inputs, positional = {part.component.inputs[0].name: positional[0], **inputs}, ()
                    outputs = self(*positional, **inputs)
                    if name not in outputs:
                        needed = listing(port.name for port in part.component.inputs if port.default is None)
                        raise InputError(f"get_{kind}_features needs {needed}; received {listing(inputs)}.")
                    return Outputs(pooler_output=outputs[name])
        raise UnsupportedTaskError(
            f"get_{kind}_features needs a model with a tower for it beside another one; this one gives "
            f"{listing(self.output_names)}."
        )

    def _named(self, positional: tuple[Any, ...], inputs: Mapping[str, Any]) -> dict[str, Any]:
        """All inputs by name."""
        name = self._leading
        if len(positional) > 1:
            raise InputError(f"one input is given by place, {name}; name the others: {listing(self.input_names)}.")
        if isinstance(positional[0], Mapping):
            raise InputError("What a tokenizer gives is passed as keywords: model(**inputs), not model(inputs).")
        if name in inputs:
            raise InputError(f"{name} is given twice, by place and by name; give it once.")
        return {name: positional[0], **inputs}
