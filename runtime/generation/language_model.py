"""A loaded language model: logits of whole texts, and generation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from precast.runtime.artifact import Artifact
from precast.runtime.backends.base import Array
from precast.runtime.errors import InputError
from precast.runtime.flow import Flow, Part
from precast.runtime.generation.alignment import attention
from precast.runtime.generation.config import GenerationConfig
from precast.runtime.generation.graph_engine import GraphEngine
from precast.runtime.generation.sources import Encoded
from precast.runtime.inputs import Inputs
from precast.runtime.model import Model, Outputs
from precast.runtime.ports import Port, merged

if TYPE_CHECKING:
    from precast.runtime.generation.results import GenerateOutput

__all__ = ["LanguageModel"]


class LanguageModel(Model):
    """A `Model` whose component remembers tokens; made by `precast.load`. Safe to call from many threads at once."""

    def __init__(self, artifact: Artifact, flow: Flow, later: Callable[[str], Part] | None = None) -> None:
        """:param later: opens another component of the artifact, which few calls need."""
        super().__init__(artifact, flow)
        self._later, self._lock = later, Lock()
        self._alignment: Part | None = None
        self._engine = GraphEngine(flow, artifact.reading("join"), artifact.reading("prompt"))
        self._reads, self._answers = self._taken()
        self.input_names = self._reads.names
        self._leading = "input_ids" if self._engine.among is not None else self.input_names[0]
        self.output_names = ("logits", "encoder_last_hidden_state") if self.is_encoder_decoder else ("logits",)

    def _taken(self) -> tuple[Inputs, Inputs]:
        """What whole texts are given as: the counts that calls of the graphs need are made of masks. And of these what
        a decoder takes behind its encoder."""
        wanted: list[Port] = []
        among = self._engine.among
        for name in self.flow.before if among is None else ():
            wanted += [port for port in self.flow.parts[name].component.inputs if port.source is None]
        wanted += () if among is None else among.ports
        prefix = "" if self._engine.source is None else "decoder_"
        dims = merged(self.flow.parts[name].component.dims for name in self.flow.before)
        names = {"sequence": f"{prefix}sequence", "batch": "batch"}
        decoder = self.component
        for port in decoder.inputs:
            if port.kind in ("ids", "positions") and port.shape == ("batch", "sequence"):
                shape = tuple(names[str(dim)] for dim in port.shape)
                wanted.append(port._replace(name=prefix + port.name, shape=shape))
                if port.kind == "ids":
                    mask = Port(f"{prefix}attention_mask", "int64", shape, "mask", default=1)
                    wanted.append(mask)
        dims[names["sequence"]] = decoder.dim("sequence")
        if prefix:
            wanted = [port for port in wanted if port.kind != "positions"]
        optional = frozenset(port.name for port in wanted if port.kind == "positions")
        if among is not None:
            optional |= set(among.names)
        own = [port for port in wanted if prefix and port.name.startswith(prefix)]
        return Inputs(wanted, dims, hidden=True, optional=optional), Inputs(own, dims, hidden=True)

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether an encoder reads, hears or sees what the decoder answers."""
        return self._engine.source is not None

    @cached_property
    def generation_config(self) -> dict[str, Any] | None:
        """generation_config.json of the checkpoint, or None where it has none."""
        if not self.artifact.has("generation_config.json"):
            return None
        return self.artifact.read_object("generation_config.json")

    def engine(self) -> GraphEngine:
        """What generation loops run on."""
        return self._engine

    def encoder_outputs(self, *positional: Any, **inputs: Any) -> Encoded:
        """What the encoder makes of its inputs, once: `generate` and calls take it as ``encoder_outputs`` in place of
        these, any number of times.

        Raises:
            InputError: there is no encoder; or as calls do.
        """
        source = self._engine.source
        if source is None:
            raise InputError("encoder_outputs are an encoder-decoder's; this model has a decoder only.")
        if positional:
            inputs = self._named(positional, inputs)
        return self._engine.encoded(source.checked(inputs))

    def alignments(self, sequences: Any, encoder_outputs: Any, heads: Sequence[tuple[int, int]] | None = None) -> Array:
        """Which frames of what was heard each token looks at, [N, A, S, F] float32, adding up to 1 over the frames.

        Args:
            sequences: [N, S] tokens from the first on, as `generate` gives them, rows that end early filled up with
                any token; what the encoder heard of each row is row n of ``encoder_outputs``.
            heads: A pairs (layer, head); None: the checkpoint's ``alignment_heads``.

        Raises:
            InputError: the artifact cannot say, or knows no heads; or as calls do.
        """
        encoded = Encoded.of(self._engine, encoder_outputs)
        if heads is None:
            heads = GenerationConfig.from_checkpoint(self.generation_config, self.config).speech.alignment_heads
        if heads is None:
            raise InputError("generation_config.json names no alignment_heads; pass heads, pairs (layer, head).")
        tokens = self._answers.checked({"decoder_input_ids": sequences})["decoder_input_ids"]
        if len(tokens) != encoded.rows:
            raise InputError(f"sequences has {len(tokens)} rows, encoder_outputs {encoded.rows}.")
        size = next(port.shape[-1] for port in self.component.inputs if port.kind == "state")
        assert isinstance(size, int)
        return attention(self._aligning(), encoded, tokens, [(int(layer), int(head)) for layer, head in heads], size)

    def _aligning(self) -> Part:
        """The component that says it, opened by the first call."""
        with self._lock:
            if self._alignment is None:
                if self._later is None or "alignment" not in self.artifact.components:
                    raise InputError(
                        "this artifact does not say where a token was heard: it has no component 'alignment'."
                    )
                self._alignment = self._later("alignment")
            return self._alignment

    def generate(self, inputs: Any = None, generation_config: Any = None, **arguments: Any) -> Array | GenerateOutput:
        """Token ids [N * num_return_sequences, L]; see `precast.runtime.generation.api.generate`."""
        from precast.runtime.generation.api import generate

        return generate(self, inputs, generation_config, **arguments)

    def __call__(self, *positional: Any, **inputs: Any) -> Outputs:
        """Logits [B, S, V] of every position, without a cache; those of padded positions are zero.

        ``input_ids`` [B, S], by place or by name, with padding on either side, ``attention_mask``, and of
        encoder-decoders ``decoder_input_ids`` and ``decoder_attention_mask``; those that hear or see take that in
        place of ``input_ids``, decoders that do beside them. Positions count real tokens unless ``position_ids`` say
        otherwise.

        Raises:
            InputError: a name, dtype, rank, shape, id, length or mask is outside what the model takes.
        """
        if positional:
            inputs = self._named(positional, inputs)
        if self.is_encoder_decoder and inputs.get("decoder_input_ids") is None:
            raise InputError(
                f"an encoder-decoder needs decoder_input_ids beside {self._leading}; generate() starts them by itself."
            )
        if inputs.get("encoder_outputs") is not None:
            return self._answered(**inputs)
        among = self._engine.among
        given = self._reads.checked(inputs if among is None else among.each(inputs))
        if not self.is_encoder_decoder:
            target = given["input_ids"], given["attention_mask"]
            return self._logits(target, given.get("position_ids"), self._beside(given))
        target = given.pop("decoder_input_ids"), given.pop("decoder_attention_mask")
        return self._logits(target, None, given)

    def _beside(self, given: Mapping[str, Array]) -> dict[str, Array] | None:
        """What stands among the tokens of texts."""
        among = self._engine.among
        if among is None:
            return None
        rows = [row[real != 0].tolist() for row, real in zip(given["input_ids"], given["attention_mask"], strict=True)]
        return among.read(rows, {name: given[name] for name in among.names if name in given})

    def _answered(self, encoder_outputs: Any, **inputs: Any) -> Outputs:
        """Logits behind what the encoder made in another call."""
        encoded = Encoded.of(self._engine, encoder_outputs)
        target = tuple(self._answers.checked(inputs).values())
        if len(target[0]) != encoded.rows:
            raise InputError(f"decoder_input_ids has {len(target[0])} rows, encoder_outputs {encoded.rows}.")
        return self._logits(target, None, encoded)  # type: ignore[arg-type] # ids and mask

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
        made, source = session.encoder_states, self._engine.source
        if context is not None and made is not None:
            if source is not None and source.is_text and source.main in context:
                # Where the caller's tokens stand; padding has no state.
                shown = context["attention_mask"] != 0
                states = np.zeros((*shown.shape, made.shape[-1]), np.float32)
                states[shown] = made[np.arange(made.shape[1])[None] < shown.sum(axis=-1)[:, None]]
                made = states
            outputs["encoder_last_hidden_state"] = made
        return Outputs(outputs)
