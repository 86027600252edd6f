"""A loaded model that speaks in stages (`precast.runtime.stages`): texts to waveforms, all tokens by the one loop."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from precast.runtime import arguments
from precast.runtime.artifact import Artifact
from precast.runtime.backends.base import Array
from precast.runtime.errors import ArtifactError, InputError, listing
from precast.runtime.fields import Fields
from precast.runtime.flow import Flow
from precast.runtime.generation.call import Call
from precast.runtime.generation.graph_engine import GraphEngine
from precast.runtime.generation.prompts import Prompts
from precast.runtime.inputs import Inputs
from precast.runtime.model import Model, Outputs
from precast.runtime.ports import Port
from precast.runtime.processors.voices import found, voices
from precast.runtime.stages import VOICE, Rules, Sizes, Voice

__all__ = ["StagedSpeechModel"]

_STAGES = ("semantic", "coarse", "fine")
# What a stage decides itself, or gives in one form alone.
_DECIDED = frozenset(
    "num_return_sequences prompt_lookup_num_tokens return_dict_in_generate seed stop_strings streamer".split()
)


@dataclass(frozen=True)
class _Asked:
    """What a call asks of each stage, and the seed of each of its rows."""

    options: Mapping[str, Mapping[str, Any]]
    seeds: list[int]
    least: float | None

    def drawn(self, stage: int, window: int = 0) -> list[int | None]:
        """A seed a row for one run of a stage: no two draw the same numbers."""
        return [int(np.random.SeedSequence([seed, stage, window]).generate_state(1)[0]) for seed in self.seeds]


class StagedSpeechModel(Model):
    """Made by `precast.load`. Called with ``input_ids`` it says the text, in the voice of ``history_prompt``; what is
    drawn ``seed`` decides."""

    text_options: Mapping[str, Any] = {"add_special_tokens": False}
    """How its tokenizer is called."""

    def __init__(self, artifact: Artifact, flow: Flow) -> None:
        super().__init__(artifact, flow.to(flow.last))
        own = Fields(dict(artifact.reading("stages")), "processing.stages")
        names = own.texts("components")
        lacking = {*names} - flow.parts.keys()
        if lacking or len(names) != len(_STAGES):
            raise ArtifactError(
                f"{artifact.path} names {listing(names)} in processing.stages, which are three of its components; it "
                f"has {listing(flow.parts)}. Export it again."
            )
        self.sampling_rate, self._hop = own.count("sampling_rate"), own.count("hop")
        self._causal = own.flag("causal")
        sizes = Sizes.read(own.inner("sizes", own.data("sizes")))
        self._voices = own.optional_text("voices", None)
        own.close()
        semantic, coarse, fine = (flow.to(name) for name in names)
        self._semantic, self._coarse, self._fine = GraphEngine(semantic), GraphEngine(coarse), fine
        self.rules = Rules.read(artifact.read_object("generation_config.json"), sizes)
        below = sizes.semantic[0] - self.rules.semantic.text_offset
        ids = Port("input_ids", "int64", ("batch", "sequence"), "ids", below=below)
        mask = Port("attention_mask", "int64", ids.shape, "mask", default=1)
        self._inputs = Inputs([ids, mask], {}, hidden=True)
        self.input_names, self._leading = self._inputs.names, ids.name
        self.output_names = ("waveform", "sequence_lengths")
        self.max_length = None  # what is beyond the first tokens nobody hears, as upstream

    @property
    def voices(self) -> tuple[str, ...]:
        """Names of the voices that the checkpoint brought."""
        return tuple(self._brought)

    @cached_property
    def _brought(self) -> dict[str, dict[str, Array]]:
        return {} if self._voices is None else voices(self.artifact.read_bytes(self._voices), self._voices)

    def __call__(self, *positional: Any, **options: Any) -> Outputs:
        """``waveform [B, samples]``, as long as the longest of its texts, and ``sequence_lengths [B]``, how many of the
        samples of each row are the text's.

        Args:
            options: those of `generate`.
        """
        if positional:
            options = self._named(positional, options)
        waveform, lengths = self._spoken(**options)
        return Outputs(waveform=waveform(None), sequence_lengths=lengths * self._hop)

    def generate(
        self, input_ids: Any = None, *, return_output_lengths: bool | None = None, **options: Any
    ) -> Array | tuple[Array, list[int]]:
        """The waveforms [B, samples] of texts.

        Args:
            input_ids, attention_mask: tokens of texts [B, S], without special ones.
            history_prompt: the voice to speak in, ``{"semantic_prompt": [S], "coarse_prompt": [2, T], "fine_prompt":
                [C, T]}``; or, here as ``voice_preset``, the name of one of ``voices``.
            min_eos_p: how likely the end is where it is the end.
            return_output_lengths: each row is said for itself, and what is longer than it is 0: a pair with how many
                samples each has.
            seed: row i has seed + i; None: from the system.
            options: those of a `GenerationConfig`, for all stages, or for one as ``semantic_...``, ``coarse_...``,
                ``fine_...``, which goes before.

        Raises:
            InputError: one of these is none of the model's, or the model says nothing.
        """
        waveform, lengths = self._spoken(input_ids=input_ids, **options)
        if not arguments.flag("return_output_lengths", bool(return_output_lengths)):
            return waveform(None)
        made = [waveform(row, count)[0] for row, count in enumerate(lengths.tolist())]
        counts = [len(row) for row in made]
        filled = np.zeros((len(made), max(counts)), np.float32)
        for row, samples in zip(filled, made, strict=True):
            row[: len(samples)] = samples
        return filled, counts

    def _spoken(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        history_prompt: Any = None,
        voice_preset: Any = None,
        min_eos_p: float | None = None,
        seed: int | None = 0,
        **options: Any,
    ) -> tuple[Callable[..., Array], Array]:
        """What makes the waveform of all rows, or of so many frames of one; and frames of each row."""
        read = {"input_ids": input_ids, "attention_mask": attention_mask}
        given = self._inputs.checked({name: value for name, value in read.items() if value is not None})
        ids, mask = given["input_ids"], given["attention_mask"]
        if history_prompt is not None and voice_preset is not None:
            raise InputError("history_prompt and voice_preset are two names of one argument; pass one of them.")
        voice = self._voice(voice_preset if history_prompt is None else history_prompt)
        asked = _asked(len(ids), min_eos_p, seed, options)
        meant = self._meant(self.rules.semantic.fed(ids, mask), voice, asked)
        lengths = self.rules.lengths(meant)
        if not lengths.any():
            raise InputError("the model says nothing of this text: it ends at once. Give another text, or a seed.")
        first = self._first(meant, voice, asked, int(lengths.max()))
        codes = self._completed(first, voice, asked)
        frames = lengths // self.rules.coarse.books
        least = self.component.dim("frames").least

        def waveform(row: int | None, count: int = codes.shape[-1]) -> Array:
            if not count or (count < least and not self._causal):
                raise InputError(
                    f"a waveform is made of {least if count else 1} frames at least, and the model says {count} of "
                    "this text. Give a longer text, or a seed."
                )
            part = codes if row is None else codes[row : row + 1, :, :count]
            # Behind what is too short to be mirrored there is nothing.
            part = np.pad(part, ((0, 0), (0, 0), (0, max(0, least - count))))
            mask = np.ones((len(part), part.shape[2]), np.int64)
            mask[:, count:] = 0
            made: Array = self.flow.run({"audio_codes": part, "frame_mask": mask})["waveform"]
            return made[:, : count * self._hop]

        return waveform, frames

    def _meant(self, fed: Array, voice: Voice | None, asked: _Asked) -> Array:
        """Tokens of what is meant [B, S], the end among them."""
        rules = self.rules.semantic
        return _said(
            self._semantic,
            self.rules.said["semantic"].merged(asked.options["semantic"]),
            # Upstream's loop sees ones in place of a text whose vectors it is given.
            np.ones_like(fed),
            fed.tolist(),
            {"history_ids": rules.before(voice, len(fed))},
            asked.drawn(0),
            None,
            rules.processor(asked.least),
        )

    def _first(self, meant: Array, voice: Voice | None, asked: _Asked, count: int) -> Array:
        """Tokens of the codes of the first codebooks [B, count], a window at a time."""
        rules = self.rules
        meant = np.where(meant == rules.semantic.end, rules.coarse.pad, meant)
        before, codes = rules.before(voice, len(meant))
        start, held = before.shape[1], codes.shape[1]
        meant = np.concatenate((before, meant), axis=1)
        config = rules.said["coarse"].merged(asked.options["coarse"])
        for window in range(math.ceil(count / rules.coarse.window)):
            said = codes.shape[1] - held
            seen = rules.seen(meant, start, said, codes)
            budget = min(rules.coarse.window, count - said)
            turns = rules.alternating(seen.shape[1])
            new = _said(self._coarse, config, seen, None, None, asked.drawn(1, window), budget, turns)
            codes = np.concatenate((codes, new), axis=1)
        return codes[:, held:]

    def _completed(self, first: Array, voice: Voice | None, asked: _Asked) -> Array:
        options = asked.options["fine"]
        temperature = options.get("temperature", self.rules.fine.temperature)
        if temperature is not None and not arguments.number("temperature", temperature) > 0:
            raise InputError(f"temperature is above 0, or None, for the codebooks behind; received {temperature!r}.")
        generators = [np.random.default_rng(seed) for seed in asked.drawn(2)]
        given = self.rules.given

        def predict(codes: Array, book: int) -> Array:
            read = {"input_ids": np.ascontiguousarray(codes), "codebook": np.full(len(codes), book - given, np.int64)}
            return self._fine.run(read)["logits"]

        def draw(shape: tuple[int, ...]) -> Array:
            return np.stack([generator.random(shape[1:]) for generator in generators])

        return self.rules.completed(first, voice, predict, temperature=temperature, draw=draw)

    def _voice(self, given: Any) -> Voice | None:
        """The voice of that name, or of these arrays."""
        if given is None:
            return None
        parts = found(given, self._brought if isinstance(given, str) else {})
        lacking = [name for name in VOICE if name not in parts]
        if lacking:
            raise InputError(f"a voice consists of {listing(VOICE)}; received one without {listing(lacking)}.")
        return self.rules.voice(*(np.asarray(parts[name]) for name in VOICE))


def _said(
    engine: GraphEngine,
    config: Any,
    given: Array,
    fed: list[list[int]] | None,
    context: Mapping[str, Array] | None,
    seeds: list[int | None],
    budget: int | None,
    processor: Callable[[Array, Array], Array],
) -> Array:
    """The tokens [B, L] that a decoder says behind prompts [B, S], rows that end early filled up.

    Args:
        fed: what it reads in place of these. budget: tokens; None: as ``config`` says.
    """
    width, room = given.shape[1], engine.max_length
    if budget is None:
        budget = config.total_length(width) - width
    if room is not None:
        budget = min(budget, room - width + 1)  # the last token is not read again
    if budget < 1:
        raise InputError(f"max_new_tokens is 1 or more behind {width} tokens; received {budget}.")
    call = Call(
        engine=engine,
        config=config,
        prompts=Prompts(given, given.tolist(), np.ones_like(given)),
        context=context,
        sources=None,
        seeds=seeds,
        budget=budget,
        logits_callbacks=[processor],
        fed=fed,
    )
    said: Array = call.execute().sequences[:, width:]
    return said


def _asked(rows: int, least: float | None, seed: int | None, options: Mapping[str, Any]) -> _Asked:
    """Options by stage: those of one go before those of all."""
    every: dict[str, Any] = {}
    own: dict[str, dict[str, Any]] = {stage: {} for stage in _STAGES}
    for name, value in options.items():
        stage, _, rest = name.partition("_")
        place = own[stage] if stage in own and rest else every
        key = rest if place is not every else name
        if key in _DECIDED or (key == "max_new_tokens" and place is not own["semantic"]):
            instead = "Give semantic_max_new_tokens" if key == "max_new_tokens" else "Leave it out"
            raise InputError(f"{name} is decided by what comes of the stage before, or by this model. {instead}.")
        place[key] = value
    strange = [name for name in own["fine"] if name != "temperature"]
    if strange:
        raise InputError(f"the fine stage takes fine_temperature alone; received {listing(strange)}.")
    if "min_eos_p" in own["semantic"]:
        least = own["semantic"].pop("min_eos_p")
    if least is not None and not arguments.number("min_eos_p", least) > 0:
        raise InputError(f"min_eos_p is a probability above 0; received {least!r}.")
    begin = secrets.randbits(63) if seed is None else arguments.whole("seed", seed, 0)
    return _Asked({stage: {**every, **own[stage]} for stage in _STAGES}, [begin + row for row in range(rows)], least)
