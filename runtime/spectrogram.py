"""Spectrograms said frame by frame, of a text or of a recording: a model of components of which one says what comes
next, until it is likely enough that nothing does."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from precast.runtime import arguments
from precast.runtime.artifact import Artifact
from precast.runtime.backends.base import Array
from precast.runtime.errors import ArtifactError, InputError, listing
from precast.runtime.fields import Fields, is_count
from precast.runtime.flow import Flow
from precast.runtime.model import Model, Outputs

__all__ = ["Frames", "Limits", "SpectrogramModel"]

Step = Callable[[Mapping[str, Array]], Mapping[str, Array]]


class Limits(NamedTuple):
    """When to stop: where ``stop`` says ``threshold``, no earlier than after ``least`` steps, at ``most`` at last."""

    threshold: float
    least: int
    most: int


class Frames(NamedTuple):
    """How frames are said.

    Args:
        components: what reads or hears, and what says the next frames.
        bins: numbers of a frame. reduction: frames of a step, of which the last is read by the next one.
        kept: layers and units of them, which ``dropout`` leaves out by chance.
        width: what a step leaves for those behind it. most: steps at most.
    """

    components: tuple[str, ...]
    bins: int
    reduction: int
    kept: tuple[int, int]
    dropout: float
    width: int
    most: int

    @classmethod
    def read(cls, fields: Fields) -> Frames:
        counts = fields.take(
            "kept",
            "two counts",
            lambda value: isinstance(value, list) and len(value) == 2 and all(map(is_count, value)),
        )
        made = cls(
            components=fields.texts("components"),
            bins=fields.count("bins"),
            reduction=fields.count("reduction"),
            kept=(counts[0], counts[1]),
            dropout=float(fields.take("dropout", "a number from 0 to below 1", _is_share)),
            width=fields.count("width"),
            most=fields.count("most"),
        )
        fields.close()
        return made

    def said(self, step: Step, given: Mapping[str, Array], limits: Limits, draw: Callable[[], Array]) -> list[Array]:
        """Frames [T, bins] of each row, T its own.

        Args:
            step: computes one step of what it is given by name. given: what is the same in all steps.
            draw: numbers of 0 to 1, ``kept``, anew for each step: units are kept where they are below ``dropout``, as
                upstream has it.
        """
        rows, number = len(given["cross"]), given["cross"].dtype
        frame = np.zeros((rows, self.bins), number)
        most = max(1, min(limits.most, self.most))
        # One place in front that is never seen, so that there is one.
        room = min(most, 64) + 1
        past, mask = np.zeros((rows, room, self.width), number), np.zeros((rows, room), np.int64)
        found: list[Array] = []
        ended: dict[int, int] = {}
        for count in range(1, most + 1):
            if count == past.shape[1]:
                past = np.concatenate((past, np.zeros_like(past)), axis=1)
                mask = np.concatenate((mask, np.zeros_like(mask)), axis=1)
            kept = (draw() < self.dropout).astype(number) / number.type(1 - self.dropout) if self.dropout else None
            made = step(
                {
                    **given,
                    "frame": frame,
                    "position": np.full(rows, count - 1, np.int64),
                    "kept": np.ones((rows, *self.kept), number)
                    if kept is None
                    else np.repeat(kept[None], rows, axis=0),
                    "past": past[:, :count],
                    "past_mask": mask[:, :count],
                }
            )
            past[:, count], mask[:, count] = made["present"], 1
            found.append(made["spectrum"])
            frame = np.ascontiguousarray(made["spectrum"][:, -1])
            if count >= limits.least:
                for row in range(rows):
                    if row not in ended and (count >= limits.most or made["stop"][row] >= limits.threshold):
                        ended[row] = count
            if len(ended) == rows:
                break
        whole = np.stack(found, axis=1).reshape(rows, -1, self.bins)
        return [whole[row, : ended.get(row, most) * self.reduction] for row in range(rows)]


def _is_share(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < 1


def _rank(value: Any) -> int:
    """Dimensions of what may be an array; 0 of lists that are none."""
    try:
        return np.ndim(value)
    except ValueError:
        return 0


class SpectrogramModel(Model):
    """A model that says a spectrogram frame by frame; made by `precast.load`. ``seed`` decides which units of its first
    layers are left out, which they are whenever it speaks."""

    def __init__(self, artifact: Artifact, flow: Flow) -> None:
        super().__init__(artifact, flow)
        self.frames = Frames.read(Fields(dict(artifact.reading("frames")), "processing.frames"))
        lacking = {*self.frames.components} - flow.parts.keys()
        if lacking or len(self.frames.components) != 2:
            raise ArtifactError(
                f"{artifact.path} names {listing(self.frames.components)} in processing.frames, which are two of its "
                f"components; it has {listing(flow.parts)}. Export it again."
            )
        _, self._step = self.frames.components
        read, stepped = (flow.parts[name].component.inputs for name in self.frames.components)
        self._read = tuple(port.name for port in read)
        self._hears = read[0].kind == "waveform"
        [self._voice] = (int(port.shape[1]) for port in stepped if port.name == "speaker_embeddings")
        # What of the encoder's states is real: of a text what the caller says, of a recording what the encoder does.
        [self._mask] = (port.name for port in stepped if port.kind == "mask" and port.name != "past_mask")

    def __call__(
        self,
        *positional: Any,
        threshold: float = 0.5,
        minlenratio: float = 0.0,
        maxlenratio: float = 20.0,
        seed: int | None = 0,
        **inputs: Any,
    ) -> Outputs:
        """``spectrogram [B, T, bins]`` of ``input_ids``, or of the recordings ``input_values``, in the voice of
        ``speaker_embeddings``, [B, E] or one for all, and ``spectrogram_lengths [B]``: rows are filled up with zeros.

        Args:
            threshold: how likely the end is where it is the end.
            minlenratio, maxlenratio: steps for each token or frame that is heard, times frames of a step, at least and
                at most.
            seed: None: from the system.

        Raises:
            InputError: as of any model, or one of these is no such number.
        """
        if positional:
            inputs = self._named(positional, inputs)
        numbers = {"threshold": threshold, "minlenratio": minlenratio, "maxlenratio": maxlenratio}
        threshold, low, high = (arguments.number(name, value) for name, value in numbers.items())
        seed = secrets.randbits(63) if seed is None else arguments.whole("seed", seed, 0)
        given = self._inputs.checked(self._voiced(inputs))
        if self._leading not in given:
            raise InputError(f"input {self._leading!r} is needed; received: {listing(given)}.")
        made = self.flow.run({name: given[name] for name in self._read if name in given})
        length, own = made["cross"].shape[1], self.frames
        least, most = (int(min(max(0.0, length * ratio / own.reduction), own.most)) for ratio in (low, high))
        limits = Limits(threshold, least, most)
        generator = np.random.default_rng(seed)
        mask = made[self._mask] if self._mask in made else given["attention_mask"]
        read = {"cross": made["cross"], self._mask: mask, "speaker_embeddings": given["speaker_embeddings"]}
        rows = own.said(self._next, read, limits, lambda: generator.random(own.kept))
        mended = [self.flow.run({"frames": row[None]})["spectrogram"][0] for row in rows]
        lengths = np.array([len(row) for row in mended], np.int64)
        filled = np.zeros((len(mended), lengths.max(), own.bins), np.float32)
        for row, spectrogram in zip(filled, mended, strict=True):
            row[: len(spectrogram)] = spectrogram
        return Outputs(spectrogram=filled, spectrogram_lengths=lengths)

    def _voiced(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """With a voice for each row: one stands for all; of a recording in nobody's, as upstream, it is zeros."""
        voice: Any = inputs.get("speaker_embeddings")
        said: Any = inputs.get(self._leading)
        if voice is None and not self._hears:
            raise InputError(
                "input 'speaker_embeddings' is needed: the voice to speak in, as a speaker verification model makes it "
                f"of a recording; received: {listing(inputs)}."
            )
        if voice is None:
            voice = np.zeros((1, self._voice), np.float32)
        if _rank(voice) == 2 and len(voice) == 1 and _rank(said) == 2:
            voice = np.repeat(voice, len(said), axis=0)
        return {**inputs, "speaker_embeddings": voice}

    def generate(
        self,
        inputs: Any = None,
        speaker_embeddings: Any = None,
        attention_mask: Any = None,
        vocoder: Any = None,
        **options: Any,
    ) -> Array:
        """The spectrogram [T, bins] of one text or recording, [B, T, bins] of several; or the waveform [samples],
        [B, samples], that ``vocoder``, a loaded model, makes of it.

        Args:
            inputs: ids or samples, which may be given by their name, too. options: those of a call.
        """
        if vocoder is not None and "waveform" not in getattr(vocoder, "output_names", ()):
            raise InputError(f"vocoder is a loaded model that makes waveforms; received {vocoder!r:.80}.")
        given = {} if inputs is None else {self._leading: inputs}
        given |= {"speaker_embeddings": speaker_embeddings, "attention_mask": attention_mask}
        made: Array = self(**given, **options)["spectrogram"]
        if vocoder is not None:
            made = vocoder(spectrogram=made)["waveform"]
        alone: Array = made[0]
        return alone if len(made) == 1 else made

    generate_speech = generate

    def _next(self, given: Mapping[str, Array]) -> Mapping[str, Array]:
        runner = self.flow.parts[self._step].runner
        return dict(zip(runner.output_names, runner.run(given), strict=True))
