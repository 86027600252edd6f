"""A loaded language model: logits of whole texts, and generation."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from precast.runtime.artifact import Artifact, Component, Variant
from precast.runtime.backends.base import Array, Runner
from precast.runtime.errors import InputError, listing
from precast.runtime.generation.graph_engine import GraphEngine
from precast.runtime.model import Model, Outputs

if TYPE_CHECKING:
    from precast.runtime.generation.results import GenerateOutput

__all__ = ["LanguageModel"]


class LanguageModel(Model):
    """A `Model` whose component remembers tokens; made by `precast.load`. Safe to call from many threads at once."""

    def __init__(
        self, artifact: Artifact, component: Component, variant: Variant, runner: Runner, encoder: Runner | None
    ) -> None:
        super().__init__(artifact, component, variant, runner)
        source = artifact.components.get("encoder") if encoder is not None else None
        self._engine = GraphEngine(runner, component, variant.state, encoder, source)
        taken = ["input_ids", "attention_mask"]
        if encoder is not None:
            taken += ["decoder_input_ids", "decoder_attention_mask"]
        elif self._engine.with_positions:
            taken.append("position_ids")
        self.input_names = tuple(taken)
        self.output_names = ("logits",) if encoder is None else ("logits", "encoder_last_hidden_state")

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether an encoder reads the text that the decoder answers."""
        return self._engine.encoder is not None

    @cached_property
    def generation_config(self) -> dict[str, Any] | None:
        """generation_config.json of the checkpoint, or None where it has none."""
        if not self.artifact.has("generation_config.json"):
            return None
        return self.artifact.read_object("generation_config.json")

    def engine(self) -> GraphEngine:
        """What generation loops run on."""
        return self._engine

    def generate(self, inputs: Any = None, generation_config: Any = None, **arguments: Any) -> Array | GenerateOutput:
        """Token ids [N * num_return_sequences, L]; see `precast.runtime.generation.api.generate`."""
        from precast.runtime.generation.api import generate

        return generate(self, inputs, generation_config, **arguments)

    def __call__(self, *positional: Any, **inputs: Any) -> Outputs:
        """Logits [B, S, V] of every position, without a cache; those of padded positions are zero.

        ``input_ids`` [B, S], by place or by name, with padding on either side, ``attention_mask``, and of
        encoder-decoders ``decoder_input_ids`` and ``decoder_attention_mask``. Positions count real tokens unless
        ``position_ids`` say otherwise.

        Raises:
            InputError: a name, dtype, rank, shape, id, length or mask is outside what the model takes.
        """
        if positional:
            inputs = self._named(positional, inputs)
        unknown = sorted(set(inputs) - set(self.input_names) - {"token_type_ids"})
        if unknown:
            raise InputError(f"this model takes {listing(self.input_names)}; received {listing(unknown)}.")
        source = self._rows(
            inputs, "input_ids", "attention_mask", self._engine.source_vocab_size, self._engine.source_max_length
        )
        if not self.is_encoder_decoder:
            positions = inputs.get("position_ids")
            return self._logits(source, None if positions is None else self._positions(positions, source), None)
        if inputs.get("decoder_input_ids") is None:
            raise InputError(
                "an encoder-decoder needs decoder_input_ids beside input_ids; generate() starts them by itself."
            )
        target = self._rows(
            inputs, "decoder_input_ids", "decoder_attention_mask", self._engine.vocab_size, self.max_length
        )
        if len(target[0]) != len(source[0]):
            raise InputError(
                f"input_ids and decoder_input_ids have one row for each text; received {len(source[0])} and "
                f"{len(target[0])}."
            )
        return self._logits(target, None, {"input_ids": source[0], "attention_mask": source[1]})

    def _rows(
        self, inputs: Mapping[str, Any], ids_name: str, mask_name: str, vocab: int, longest: int | None
    ) -> tuple[Array, Array]:
        """Ids and mask [B, S], checked: ids below ``vocab``, ``longest`` tokens a text at most."""
        if inputs.get(ids_name) is None:
            raise InputError(f"input {ids_name!r} is needed; received: {listing(inputs)}.")
        given = {"input_ids": inputs[ids_name]}
        if inputs.get(mask_name) is not None:
            given["attention_mask"] = inputs[mask_name]
        ids = self._integers(ids_name, given["input_ids"])
        mask = self._integers(mask_name, given["attention_mask"]) if "attention_mask" in given else np.ones_like(ids)
        if mask.shape != ids.shape:
            raise InputError(f"{ids_name} and {mask_name} have one shape; received {ids.shape} and {mask.shape}.")
        if 0 in ids.shape:
            raise InputError(f"inputs must hold at least one token of one text; received shape {ids.shape}.")
        if not mask.any(axis=-1).all():
            row = int(np.argwhere(~mask.any(axis=-1))[0][0])
            raise InputError(f"every text needs one real token at least; the {mask_name} of row {row} is all zero.")
        real = ids[mask != 0]
        if real.min() < 0 or real.max() >= vocab:
            worst = int(real.min()) if real.min() < 0 else int(real.max())
            raise InputError(
                f"{ids_name} must be 0 to {vocab - 1}; received {worst}. "
                "Is this the tokenizer the model was trained with?"
            )
        most = int(mask.astype(bool).sum(axis=-1).max())
        if longest is not None and most > longest:
            raise InputError(
                f"a text may have {longest} tokens; received {most}. Cut it (tokenizer(..., "
                "truncation=True)), or split it."
            )
        # Padding of an encoder may hold anything, -1 too: it must be an id to be looked up.
        return np.where(mask != 0, ids, 0), (mask != 0).astype(np.int64)

    @staticmethod
    def _integers(name: str, value: Any) -> Array:
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise InputError(
                f"input {name!r} is no rectangular array: {error}. Pad the texts to one length."
            ) from error
        if array.dtype.kind not in "iub":
            raise InputError(f"input {name!r} holds integers; received dtype {array.dtype}.")
        if array.ndim != 2:
            raise InputError(f"input {name!r} has 2 dimensions; received shape {array.shape}.")
        return array.astype(np.int64)

    def _positions(self, value: Any, source: tuple[Array, Array]) -> Array:
        positions = self._integers("position_ids", value)
        if positions.shape != source[0].shape:
            raise InputError(
                f"position_ids and input_ids have one shape; received {positions.shape} and {source[0].shape}."
            )
        if positions.min() < 0 or (self.max_length is not None and positions.max() >= self.max_length):
            worst = int(positions.min()) if positions.min() < 0 else int(positions.max())
            bound = "" if self.max_length is None else f" to {self.max_length - 1}"
            raise InputError(f"position_ids start at 0{bound}; received {worst}.")
        return positions

    def _logits(
        self, target: tuple[Array, Array], positions: Array | None, context: Mapping[str, Array] | None
    ) -> Outputs:
        ids, mask = target
        seen = mask.astype(bool)
        counts = seen.sum(axis=-1)
        rows = [row[real].tolist() for row, real in zip(ids, seen, strict=True)]
        longest = int(counts.max())
        where = None
        if positions is not None:
            where = np.zeros((len(rows), longest), np.int64)
            for row, real in enumerate(seen):
                where[row, : counts[row]] = positions[row, real]
        session = self._engine.open(len(rows), longest, context)
        found = session.feed(rows, keep=longest, positions=where)
        logits = np.zeros((*ids.shape, self._engine.vocab_size), np.float32)
        for row, real in enumerate(seen):
            logits[row, real] = found[row, longest - counts[row] :]
        outputs = {"logits": logits}
        if context is not None:
            # Where the caller's tokens stand; padding has no state.
            made, shown = session.encoder_states, context["attention_mask"] != 0
            assert made is not None
            states = np.zeros((*shown.shape, made.shape[-1]), np.float32)
            states[shown] = made[np.arange(made.shape[1])[None] < shown.sum(axis=-1)[:, None]]
            outputs["encoder_last_hidden_state"] = states
        return Outputs(outputs)
