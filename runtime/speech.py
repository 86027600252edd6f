"""Speech of texts, by two components: one says how long each token is heard, the other makes a waveform of frames. How
many of these there are depends on the text, so that no graph can hold them."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from precast.runtime import arguments
from precast.runtime.artifact import Artifact
from precast.runtime.backends.base import Array
from precast.runtime.errors import ArtifactError, InputError, listing
from precast.runtime.fields import Fields, is_number
from precast.runtime.flow import Flow
from precast.runtime.model import Model, Outputs

__all__ = ["Alignment", "SpeechModel"]

_LONGEST = 1 << 20  # frames of a text: hours
_ROUNDS = ("nearest", "up")


class Alignment(NamedTuple):
    """How frames are made of what is said of tokens.

    Args:
        component: what says it. durations: its output of logarithms of how many frames each token has, [B, S].
        rounds: to whole frames: "up", or to the "nearest", of logarithms of one frame more.
        stretch: how many times as long a token is heard as the logarithm says.
        fills: the input [B, T, C] that its output ``frames`` [B, S, C] becomes, a token's row in each of its frames;
            with noise where ``log_variances`` is an output, too. mask: the input [B, T] that says which are real.
        noise: how large the noise of frames is. noise_scale_duration: that of durations.
        hop: samples that a frame becomes, of ``sampling_rate`` in a second.
    """

    component: str
    durations: str
    rounds: str
    stretch: float
    fills: str
    frames: str
    mask: str | None
    log_variances: str | None
    noise: float
    duration_noise: float
    hop: int
    sampling_rate: int | None

    @classmethod
    def read(cls, fields: Fields) -> Alignment:
        names = {name: fields.text(name) for name in ("component", "durations", "fills", "frames")}
        stretch = fields.take("stretch", "a number above 0", lambda value: is_number(value) and value > 0, 1.0)
        made = cls(
            **names,
            mask=fields.optional_text("mask", None),
            log_variances=fields.optional_text("log_variances", None),
            rounds=fields.choice("rounds", _ROUNDS),
            stretch=float(stretch),
            noise=float(fields.number("noise", 0.0)),
            duration_noise=float(fields.number("duration_noise", 0.0)),
            hop=fields.count("hop", 0),
            sampling_rate=fields.optional_count("sampling_rate", None, least=1),
        )
        fields.close()
        return made

    def counts(self, durations: Array, mask: Array, stretch: float | None = None) -> Array:
        """Frames of each token [B, S], of a row one at least.

        Raises:
            InputError: they are more than any text has.
        """
        number = durations.dtype.type
        by = self.stretch if stretch is None else stretch
        with np.errstate(over="ignore"):
            whole = np.exp(durations)
            if self.rounds == "up":
                found = np.ceil(whole * (mask != 0).astype(durations.dtype) * number(by))
            else:
                found = np.where(mask != 0, np.maximum(np.rint(whole - number(1)), number(0)), number(0))
                found = found if by == 1 else np.rint(found * number(by))
                found = found if found.any() else np.ones_like(found)  # all there are, where no text has any
        if not found.sum(axis=1).max() <= _LONGEST:
            raise InputError(f"this text would be heard for more than {_LONGEST} frames; give a shorter one.")
        counts: Array = found.astype(np.int64)
        return counts

    def spread(self, counts: Array, values: Array) -> list[Array]:
        """Of rows [B, S, C], those of each token in each of its frames: [T, C] a row."""
        return [row.repeat(count, axis=0) for row, count in zip(values, counts, strict=True)]

    def laid_out(
        self, made: Mapping[str, Array], counts: Array, noise: Sequence[Array] | None = None
    ) -> dict[str, Array]:
        """What the other component reads, rows filled up to the longest with zeros.

        Args:
            noise: of each row [T, C], as large as it is added.
        """
        rows = self.spread(counts, made[self.frames])
        if noise is not None and self.log_variances is not None:
            scales = self.spread(counts, made[self.log_variances])
            rows = [row + more * np.exp(scale) for row, more, scale in zip(rows, noise, scales, strict=True)]
        longest = max(1, *map(len, rows))
        filled = np.zeros((len(rows), longest, made[self.frames].shape[-1]), made[self.frames].dtype)
        mask = np.zeros((len(rows), longest), np.int64)
        for index, row in enumerate(rows):
            filled[index, : len(row)] = row
            mask[index, : max(1, len(row))] = 1
        return {self.fills: filled} | ({} if self.mask is None else {self.mask: mask})


class SpeechModel(Model):
    """A model of two components between which frames are set out; made by `precast.load`.

    Called with ``input_ids`` it says the text; ``seed`` decides the noise by which one saying differs from another."""

    def __init__(self, artifact: Artifact, flow: Flow) -> None:
        super().__init__(artifact, flow)
        own = self.alignment = Alignment.read(Fields(dict(artifact.reading("alignment")), "processing.alignment"))
        self.sampling_rate = own.sampling_rate
        makes = {out.name for out in flow.parts[own.component].component.outputs}
        takes = {port.name for port in self.component.inputs}
        lacking = {own.durations, own.frames, own.log_variances or own.frames} - makes | {
            own.fills,
            own.mask or own.fills,
        } - takes
        if lacking:
            raise ArtifactError(
                f"{artifact.path} names {listing(sorted(lacking))} in processing.alignment, which its components have "
                "not. Export it again."
            )

    def __call__(
        self,
        *positional: Any,
        speaking_rate: float | None = None,
        noise_scale: float | None = None,
        noise_scale_duration: float | None = None,
        seed: int | None = 0,
        **inputs: Any,
    ) -> Outputs:
        """``waveform [B, samples]`` and what else the second component makes, and ``sequence_lengths [B]``, how many
        samples of each row are the text's.

        Args:
            speaking_rate: 2 is twice as fast; None: as the model's config says.
            noise_scale, noise_scale_duration: how much sayings differ in sound, and in how long what is heard; None:
                as the model's config says.
            seed: row i has seed + i; None: from the system.

        Raises:
            InputError: as of any model, or one of these is no such number.
        """
        if positional:
            inputs = self._named(positional, inputs)
        own = self.alignment
        stretch = own.stretch if speaking_rate is None else 1 / _above("speaking_rate", speaking_rate)
        scale, duration_scale = (
            stated if asked is None else _number(name, asked)
            for name, asked, stated in (
                ("noise_scale", noise_scale, own.noise),
                ("noise_scale_duration", noise_scale_duration, own.duration_noise),
            )
        )
        seed = secrets.randbits(63) if seed is None else arguments.whole("seed", seed, 0)
        drawn = {name for name in ("duration_noise",) if inputs.get(name) is None}
        given = self._inputs.checked(self._each_row(inputs))
        if own.fills in given or "input_ids" not in given:
            return Outputs(self.flow.run(given))
        ids = given["input_ids"]
        mask = given["attention_mask"] if "attention_mask" in given else np.ones_like(ids)
        generators = [np.random.default_rng(seed + row) for row in range(len(ids))]
        if drawn & given.keys():
            given["duration_noise"] = _duration_noise(generators, mask, duration_scale)
        made = self.flow.run(self._read_by(own.component, given))
        counts = own.counts(made[own.durations], mask, stretch)
        totals = counts.sum(axis=1)
        noise = None
        if own.log_variances is not None and scale:
            width = made[own.frames].shape[-1]
            noise = [
                np.float32(scale) * generator.standard_normal((int(total), width), np.float32)
                for generator, total in zip(generators, totals, strict=True)
            ]
        read = given | own.laid_out(made, counts, noise)
        outputs = self.flow.run(self._read_by(self.flow.last, read))
        if own.hop:
            outputs["sequence_lengths"] = np.maximum(totals, 1) * own.hop
        return Outputs(outputs)

    def _each_row(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """One speaker stands for all rows."""
        speaker, ids = inputs.get("speaker_id"), inputs.get("input_ids", inputs.get(self.alignment.fills))
        if speaker is None or np.ndim(speaker) != 0 or ids is None:
            return inputs
        return {**inputs, "speaker_id": np.full(len(ids), arguments.whole("speaker_id", speaker, 0))}

    def _read_by(self, name: str, given: Mapping[str, Array]) -> dict[str, Array]:
        ports = self.flow.parts[name].component.inputs
        return {port.name: given[port.name] for port in ports if port.name in given}


def _duration_noise(generators: Sequence[np.random.Generator], mask: Array, scale: float) -> Array:
    """[B, 2, S], of each row as many numbers as it has tokens."""
    made = np.zeros((len(mask), 2, mask.shape[1]), np.float32)
    for row, generator in enumerate(generators):
        real = mask[row] != 0
        made[row][:, real] = generator.standard_normal((2, int(real.sum())), np.float32)
    return np.float32(scale) * made


def _number(name: str, value: Any) -> float:
    found: float = arguments.number(name, value)
    if not 0 <= found < float("inf"):
        raise InputError(f"{name} is 0 or more; received {value!r}.")
    return found


def _above(name: str, value: Any) -> float:
    found = _number(name, value)
    if not found:
        raise InputError(f"{name} is above 0; received {value!r}.")
    return found
