"""Speech tokens of a text in the voice of a recording: a model that says candidates, and ranks them by how well they go
with the text."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from precast.runtime import arguments
from precast.runtime.artifact import Artifact
from precast.runtime.backends.base import Array
from precast.runtime.errors import ArtifactError, InputError, listing
from precast.runtime.fields import Fields, is_count
from precast.runtime.flow import Flow
from precast.runtime.generation.call import Call
from precast.runtime.generation.config import GenerationConfig
from precast.runtime.generation.graph_engine import GraphEngine
from precast.runtime.generation.prompts import Prompts
from precast.runtime.inputs import Inputs
from precast.runtime.model import Model, Outputs

__all__ = ["Ranked", "SpeechCandidates"]

_PADDING = 0  # of texts, whatever their tokenizer says
_ENDING = 3  # tokens at the end of what is said that are always those of silence


class Ranked(NamedTuple):
    """How candidates are said.

    Args:
        components: what makes what is begun with, and what says speech tokens.
        text: tokens around a text. begin, end: around what is said. last: what stands in place of the end and behind
            it, and at the very end.
        longest: tokens of a text. most: tokens that are said.
    """

    components: tuple[str, ...]
    text: tuple[int, ...]
    begin: int
    end: int
    last: tuple[int, ...]
    longest: int
    most: int

    @classmethod
    def read(cls, fields: Fields) -> Ranked:
        def counts(key: str, least: int) -> tuple[int, ...]:
            rule = f"a list of {least} counts or more"
            found = fields.take(key, rule, lambda v: isinstance(v, list) and len(v) >= least and all(map(is_count, v)))
            return tuple(found)

        made = cls(
            fields.texts("components"), counts("text", 2), fields.count("begin"), fields.count("end"),
            counts("last", 1), fields.count("longest"), fields.count("most"),
        )  # fmt: skip
        fields.close()
        return made

    def ended(self, ids: Array, mask: Array | None, *, begun: bool = False) -> tuple[Array, Array | None]:
        """Texts [B, S] with their end behind the last token that is no padding, and where ``begun`` with their
        beginning; one token of the mask more for each."""
        first, last = self.text[0], self.text[1]
        if begun:
            ids = np.concatenate((np.full((len(ids), 1), first), ids), axis=1)
            mask = _longer(mask)
        padded = ids == _PADDING
        place = np.where(padded.any(axis=1), padded.argmax(axis=1), ids.shape[1])[:, None]
        columns = np.arange(ids.shape[1] + 1)
        sources = np.where(columns < place, columns, np.maximum(columns - 1, 0))
        made = np.take_along_axis(ids, sources, axis=1)
        return np.where(columns == place, last, made), _longer(mask)

    def finished(self, said: Array) -> Array:
        """Speech tokens [N, L] whose end is silence: of rows that have none everything as it is."""
        over = said == self.end
        length = said.shape[1]
        filler = np.full(length, self.last[0])
        count = min(len(self.last) - 1, length)
        if count:
            filler[-count:] = self.last[len(self.last) - count :]
        begin = np.minimum(over.argmax(axis=1), max(0, length - _ENDING))[:, None]
        made: Array = np.where(over.any(axis=1, keepdims=True) & (np.arange(length) >= begin), filler, said)
        return np.where(made == self.end, self.last[0], made)


def _longer(mask: Array | None) -> Array | None:
    return None if mask is None else np.pad(mask, ((0, 0), (1, 0)), constant_values=1)


class SpeechCandidates(Model):
    """Made by `precast.load`. Called with ``input_ids`` it embeds texts, with ``speech_ids`` besides it also says how
    well each of these goes with each text; `generate` says candidates first."""

    def __init__(self, artifact: Artifact, flow: Flow) -> None:
        super().__init__(artifact, flow.to(flow.last))
        own = self._ranked = Ranked.read(Fields(dict(artifact.reading("ranked")), "processing.ranked"))
        lacking = {*own.components} - flow.parts.keys()
        if lacking or len(own.components) != 2:
            raise ArtifactError(
                f"{artifact.path} names {listing(own.components)} in processing.ranked, which are two of its "
                f"components; it has {listing(flow.parts)}. Export it again."
            )
        conditioning, decoder = (flow.to(name) for name in own.components)
        self._conditioning, self._engine = conditioning, GraphEngine(decoder)
        component = conditioning.parts[conditioning.last].component
        # A text gets more tokens than it has, which the component has room for.
        self._begun = Inputs(component.inputs, {})

    @cached_property
    def generation_config(self) -> dict[str, Any] | None:
        """generation_config.json of the checkpoint, or None where it has none."""
        if not self.artifact.has("generation_config.json"):
            return None
        return self.artifact.read_object("generation_config.json")

    @cached_property
    def _base(self) -> GenerationConfig:
        """What the checkpoint says of it."""
        return GenerationConfig.from_checkpoint(self.generation_config, self.config)

    def generate(
        self,
        input_ids: Any = None,
        input_features: Any = None,
        attention_mask: Any = None,
        *,
        pad_to_max_mel_tokens: int | None = None,
        seed: int | None = 0,
        **options: Any,
    ) -> Outputs:
        """``speech_ids [N, L]`` of texts, ``logits_per_text [B, N]`` and ``logits_per_speech``, how well each goes with
        each text, ``text_embeds`` and ``speech_embeds``.

        Args:
            input_ids, attention_mask: tokens of texts [B, S], padding at the right. input_features: of a recording of
                who is to speak, [1, C, T] for all texts, or one each.
            pad_to_max_mel_tokens: candidates are filled up to so many tokens, the first one of which is not said,
                before they are ranked.
            seed: row i has seed + i; None: from the system.
            options: those of a `GenerationConfig`; with ``num_return_sequences`` each text has so many candidates.

        Raises:
            InputError: one of these is none of the model's; a text is too long.
        """
        own = self._ranked
        ids, mask, features = self._taken(input_ids, input_features, attention_mask)
        if ids.shape[1] > own.longest:
            raise InputError(f"a text may have {own.longest} tokens here; received one of {ids.shape[1]}. Shorten it.")
        ids, mask = own.ended(ids, mask)
        said = self._said(self._begin(ids, mask, features)["conditioning_embeds"], seed, options)
        if pad_to_max_mel_tokens is not None:
            least = arguments.whole("pad_to_max_mel_tokens", pad_to_max_mel_tokens) - 1  # behind the first
            fill = self._base.eos[0] if self._base.eos else own.end
            said = np.pad(said, ((0, 0), (0, max(0, least - said.shape[1]))), constant_values=fill)
        return self._compared(ids, mask, own.finished(said), len(input_ids))

    def __call__(self, *positional: Any, **inputs: Any) -> Outputs:
        """Embeddings of texts, and how well speech tokens go with them: of ``speech_ids``, or where ``input_features``
        are given instead of what the decoder finds likeliest behind each token of the text, as upstream's forward.

        Raises:
            InputError: as of any model.
        """
        if positional:
            inputs = self._named(positional, inputs)
        if inputs.get("input_features") is None:
            return super().__call__(**inputs)
        strange = inputs.keys() - {"input_ids", "input_features", "attention_mask"}
        if strange:
            raise InputError(f"input_features stand in place of {listing(sorted(strange))}; pass one of them.")
        ids, mask, features = self._taken(**inputs)
        before = self._begin(ids, mask, features)["placed_embeds"]
        rows, length = before.shape[:2]
        session = self._engine.open(rows, length, {"conditioning_embeds": before})
        logits = session.feed([[self._ranked.begin] * length for _ in range(rows)], keep=length)
        said = self._ranked.finished(logits.argmax(axis=-1)[:, 1:])
        return self._compared(ids, mask, said, len(inputs["input_ids"]))

    def _taken(
        self, input_ids: Any = None, input_features: Any = None, attention_mask: Any = None
    ) -> tuple[Array, Array | None, Array]:
        given = {"input_ids": input_ids, "input_features": input_features, "attention_mask": attention_mask}
        read = self._begun.checked({name: value for name, value in self._alike(given).items() if value is not None})
        return read["input_ids"], None if attention_mask is None else read["attention_mask"], read["input_features"]

    def _begin(self, ids: Array, mask: Array | None, features: Array) -> dict[str, Array]:
        """What a text and who is to speak become for the decoder."""
        begun, shown = self._ranked.ended(ids, np.ones_like(ids) if mask is None else mask, begun=True)
        assert shown is not None
        return self._conditioning.run({"input_features": features, "input_ids": begun, "attention_mask": shown})

    def _compared(self, ids: Array, mask: Array | None, speech: Array, rows: int) -> Outputs:
        """Of as many texts as were given, one of which stands for all recordings."""
        texts = {"input_ids": ids[:rows]} | ({} if mask is None else {"attention_mask": mask[:rows]})
        return Outputs(speech_ids=speech, **super().__call__(**texts, speech_ids=speech))

    def _said(self, before: Array, seed: int | None, options: Mapping[str, Any]) -> Array:
        """Speech tokens [N, L] behind what is begun with [B, P, H], the end among them."""
        own, rows = self._ranked, len(before)
        config = self._base.merged(
            {name: value for name, value in options.items() if name != "return_dict_in_generate"}
        )
        budget = config.total_length(1) - 1
        if config.max_new_tokens is None and config.max_length is not None:
            budget -= before.shape[1]  # what is begun with counts among the length, as upstream counts
        budget = min(budget, own.most)
        if budget < 1:
            raise InputError(
                f"max_length is above {before.shape[1] + 1}, what is begun with among it; received "
                f"{config.max_length}. Raise it, or give max_new_tokens, which does not count that."
            )
        prompts = [[own.begin] for _ in range(rows)]
        given = np.array(prompts, np.int64)
        begin = None if seed is None else arguments.whole("seed", seed, 0)
        call = Call(
            engine=self._engine,
            config=config,
            prompts=Prompts(given, prompts, np.ones_like(given)),
            context={"conditioning_embeds": before},
            sources=None,
            seeds=[None if begin is None else begin + row for row in range(rows)],
            budget=budget,
            fed=[[own.begin] * before.shape[1] for _ in range(rows)],
        )
        said: Array = call.execute().sequences[:, 1:]
        return said

    @staticmethod
    def _alike(given: Mapping[str, Any]) -> dict[str, Any]:
        """One recording stands for all texts, and one text for all recordings."""
        counts = {name: np.shape(value)[0] for name, value in given.items() if np.ndim(value)}
        most = max(counts.values(), default=1)
        return {
            name: np.repeat(value, most, axis=0) if counts.get(name) == 1 and most > 1 else value
            for name, value in given.items()
        }
