"""Steps from a recording to what a model hears, as an artifact lists them: a closed list, each step a record that is
checked as it is read.

A recording is float32 ``[samples]`` until a spectrum is made of it: ``[bins, frames]`` of `LogMel`, ``[frames, bins]``
of `FilterBank` and `MelDecibels`, of which `Channels` makes ``[channels, frames, bins]``. Spectra are computed in
float64: what is 80 dB below the loudest has few digits in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from precast.runtime.errors import InputError
from precast.runtime.fields import Fields, is_number

__all__ = [
    "MOST_BINS",
    "MOST_FFT",
    "MOST_FRAMES",
    "MOST_SAMPLES",
    "STEPS",
    "WINDOWS",
    "Centre",
    "Channels",
    "Fill",
    "FilterBank",
    "Frames",
    "Length",
    "LogBands",
    "LogMel",
    "MelDecibels",
    "Normalise",
    "Standardise",
    "Step",
    "are_norms",
    "heard",
    "read_steps",
]

Array: TypeAlias = "np.ndarray[Any, Any]"

MOST_SAMPLES = 1 << 26  # of what a model hears at once
MOST_FRAMES = 1 << 20
MOST_BINS = 1 << 10
MOST_FFT = 1 << 14
_LEAST_POWER = 1e-10
_LEAST_BAND = 1e-5  # of a mel band
_EPSILON = 1e-7

# Kaldi's frames at any rate: https://kaldi-asr.org/doc/structkaldi_1_1FrameExtractionOptions.html
_KALDI_FRAME, _KALDI_STEP, _KALDI_FFT = 400, 160, 512
_PREEMPHASIS = 0.97
_KALDI_LEAST = float(np.finfo(np.float32).eps)
_FILLS = ("repeatpad", "repeat", "pad")
_BLOCK = 4096  # frames whose spectra are computed at once


class Length(NamedTuple):
    """So many samples: longer recordings are cut, shorter ones end in silence."""

    samples: int

    @classmethod
    def read(cls, fields: Fields) -> Length:
        return cls(_whole(fields, "samples", MOST_SAMPLES))

    def to_json(self) -> dict[str, Any]:
        return {"op": "length", "samples": self.samples}

    def __call__(self, sound: Array) -> Array:
        return _as_long(sound, self.samples)


class Fill(NamedTuple):
    """At least so many samples: shorter recordings are repeated as often as they fit and end in silence
    (``repeatpad``), or are repeated and cut (``repeat``), or end in silence (``pad``).

    ``middle``: at most as many, too: of longer ones what is in the middle.
    """

    samples: int
    how: str
    middle: bool

    @classmethod
    def read(cls, fields: Fields) -> Fill:
        return cls(_whole(fields, "samples", MOST_SAMPLES), fields.choice("how", _FILLS), fields.flag("middle"))

    def to_json(self) -> dict[str, Any]:
        return {"op": "fill", **self._asdict()}

    def __call__(self, sound: Array) -> Array:
        beyond = len(sound) - self.samples
        if beyond >= 0:
            return sound[beyond // 2 :][: self.samples] if self.middle else sound
        if self.how != "pad":
            times = self.samples // len(sound) + (self.how == "repeat")
            sound = np.tile(sound, times)
        return _as_long(sound, self.samples)


class Standardise(NamedTuple):
    """Mean 0 and variance 1."""

    @classmethod
    def read(cls, fields: Fields) -> Standardise:
        return cls()

    def to_json(self) -> dict[str, Any]:
        return {"op": "standardise"}

    def __call__(self, sound: Array) -> Array:
        made: Array = (sound - sound.mean()) / np.sqrt(sound.var() + _EPSILON)
        return made


class LogMel(NamedTuple):
    """Whisper's spectrogram ``[bins, frames]``: log10 of the power in ``bins`` mel bands up to ``highest`` Hz, of
    windows of ``window`` samples every ``step``; what is 80 dB below the loudest counts as that.
    https://arxiv.org/abs/2212.04356

    ``rate``: of the recording.
    """

    bins: int
    window: int
    step: int
    rate: int
    highest: float

    @classmethod
    def read(cls, fields: Fields) -> LogMel:
        window = _whole(fields, "window", MOST_FFT)
        return cls(
            _whole(fields, "bins", MOST_BINS),
            window,
            _whole(fields, "step", MOST_FFT),
            _whole(fields, "rate", MOST_SAMPLES),
            _above_0(fields, "highest"),
        )

    def to_json(self) -> dict[str, Any]:
        return {"op": "log_mel", **self._asdict()}

    def __call__(self, sound: Array) -> Array:
        levels = list(self.levels([sound]))
        loudest = max(float(block.max()) for block in levels)
        return np.concatenate([self.clear(block, loudest) for block in levels], axis=1)

    @staticmethod
    def clear(levels: Array, loudest: float) -> Array:
        """What is 80 dB below the loudest of a recording as that, and all of it near 0."""
        made: Array = ((np.maximum(levels, loudest - 8.0) + 4.0) / 4.0).astype(np.float32)
        return made

    def levels(self, blocks: Iterable[Array]) -> Iterator[Array]:
        """log10 of the power in each band, [bins, N] float64 at a time, of a recording that comes in blocks, in memory
        that does not grow with it."""
        side, step = self.window // 2, self.step
        held = np.zeros(0)  # reflected at both ends, from the first sample of the next frame on
        received = done = 0  # samples that came, frames that were made
        first: list[Array] = []  # until there is enough of it to be reflected
        for block in blocks:
            received += len(block)
            if not len(held):
                first.append(block.astype(np.float64))
                if received <= side:
                    continue
                sound = np.concatenate(first) if len(first) > 1 else first[0]
                held = np.concatenate((sound[1 : side + 1][::-1], sound))
                first = []
            else:
                held = np.concatenate((held, block.astype(np.float64)))
            count = 0
            while received >= (done + count + _BLOCK) * step + side:  # all of these are, whatever comes
                yield self._levels(held[count * step :], _BLOCK)
                count += _BLOCK
            if count:
                held, done = held[count * step :], done + count
        if received <= side:
            raise InputError(
                f"A recording has more than {side} samples here, half of what one frame is made of; received "
                f"{received}. Give a longer one."
            )
        frames = (received // step) or 1  # the last one is left out
        held = np.concatenate((held, held[-2 : -side - 2 : -1]))
        for start in range(done, frames, _BLOCK):
            yield self._levels(held[(start - done) * step :], min(_BLOCK, frames - start))

    def _levels(self, samples: Array, frames: int) -> Array:
        window = np.hanning(self.window + 1)[:-1]
        bank = _slaney_bank(self.bins, self.window // 2 + 1, self.rate, self.highest)
        every = np.lib.stride_tricks.sliding_window_view(samples, self.window)[:: self.step][:frames]
        power = np.abs(np.fft.rfft(every * window)) ** 2
        made: Array = np.log10(np.maximum(power @ bank, _LEAST_POWER)).T
        return made


class MelDecibels(NamedTuple):
    """A spectrogram ``[frames, bins]`` in decibels: the power in ``bins`` mel bands of ``lowest`` to ``highest`` Hz, of
    windows of ``window`` samples every ``step``. https://arxiv.org/abs/2211.06687

    ``rate``: of the recording; ``scale``: one of `SCALES`.
    """

    bins: int
    window: int
    step: int
    rate: int
    lowest: float
    highest: float
    scale: str

    @classmethod
    def read(cls, fields: Fields) -> MelDecibels:
        lowest = float(fields.take("lowest", "a number from 0 on", lambda v: is_number(v) and v >= 0))
        highest = _above_0(fields, "highest")
        if highest <= lowest:
            fields.fail("highest", f"more than the lowest frequency, {lowest}", highest)
        return cls(
            _whole(fields, "bins", MOST_BINS),
            _whole(fields, "window", MOST_FFT),
            _whole(fields, "step", MOST_FFT),
            _whole(fields, "rate", MOST_SAMPLES),
            lowest,
            highest,
            fields.choice("scale", SCALES),
        )

    def to_json(self) -> dict[str, Any]:
        return {"op": "mel_decibels", **self._asdict()}

    def __call__(self, sound: Array) -> Array:
        side = self.window // 2
        if len(sound) <= side:
            raise InputError(
                f"A recording has more than {side} samples here, half of what one frame is made of; received "
                f"{len(sound)}. Give a longer one."
            )
        window = np.hanning(self.window + 1)[:-1]
        padded = np.pad(sound.astype(np.float64), side, mode="reflect")
        bank = SCALES[self.scale](self.bins, side + 1, self.rate, self.highest, self.lowest)
        frames = 1 + (len(padded) - self.window) // self.step
        made = np.empty((frames, self.bins), np.float32)
        for start, block in _blocks(padded, self.window, self.step, frames):
            power = np.abs(np.fft.rfft(block * window)) ** 2
            made[start : start + len(block)] = 10 * np.log10(np.maximum(power @ bank, _LEAST_POWER))
        return made


class LogBands(NamedTuple):
    """A spectrogram ``[bins, frames]``: the natural log of the power in ``bins`` mel bands up to ``highest`` Hz, of
    windows of ``window`` samples every ``step``, over the ``norms`` of the bands. https://arxiv.org/abs/2305.07243

    ``rate``: of the recording; ``norms``: a number a band, or none.
    """

    bins: int
    window: int
    step: int
    rate: int
    highest: float
    norms: tuple[float, ...] = ()

    @classmethod
    def read(cls, fields: Fields) -> LogBands:
        bins = _whole(fields, "bins", MOST_BINS)
        rule = f"a list of {bins} numbers other than 0, or of none"
        norms = fields.take("norms", rule, lambda v: are_norms(v, bins), [])
        return cls(
            bins,
            _whole(fields, "window", MOST_FFT),
            _whole(fields, "step", MOST_FFT),
            _whole(fields, "rate", MOST_SAMPLES),
            _above_0(fields, "highest"),
            tuple(map(float, norms)),
        )

    def to_json(self) -> dict[str, Any]:
        return {"op": "log_bands", **self._asdict(), "norms": list(self.norms)}

    def __call__(self, sound: Array) -> Array:
        side = self.window // 2
        if len(sound) <= side:
            raise InputError(
                f"A recording has more than {side} samples here, half of what one frame is made of; received "
                f"{len(sound)}. Give a longer one."
            )
        window = np.hanning(self.window + 1)[:-1]
        padded = np.pad(sound.astype(np.float64), side, mode="reflect")
        bank = _even_htk_bank(self.bins, side + 1, self.rate, self.highest)
        frames = 1 + (len(padded) - self.window) // self.step
        norms = np.array(self.norms) if self.norms else np.ones(self.bins)
        made = np.empty((self.bins, frames), np.float32)
        for start, block in _blocks(padded, self.window, self.step, frames):
            power = np.abs(np.fft.rfft(block * window)) ** 2
            made[:, start : start + len(block)] = (np.log(np.maximum(power @ bank, _LEAST_BAND)) / norms).T
        return made


def are_norms(value: Any, bins: int) -> bool:
    """Whether these are what bands are divided by, or nothing."""
    return isinstance(value, list) and len(value) in (0, bins) and all(is_number(one) and one for one in value)


class FilterBank(NamedTuple):
    """Kaldi's filter banks ``[frames, bins]``: the log of the power in ``bins`` mel bands from 20 Hz on, of frames of
    400 samples every 160, each without its mean and with its high frequencies raised.

    ``window``: one of `WINDOWS`; ``scale``: of the samples; ``rate``: of the recording.
    """

    bins: int
    window: str
    scale: float
    rate: int

    @classmethod
    def read(cls, fields: Fields) -> FilterBank:
        return cls(
            _whole(fields, "bins", MOST_BINS),
            fields.choice("window", WINDOWS),
            _above_0(fields, "scale"),
            _whole(fields, "rate", MOST_SAMPLES),
        )

    def to_json(self) -> dict[str, Any]:
        return {"op": "filter_bank", **self._asdict()}

    def __call__(self, sound: Array) -> Array:
        if len(sound) < _KALDI_FRAME:
            raise InputError(
                f"A recording has {_KALDI_FRAME} samples at least here, which one frame is made of; received "
                f"{len(sound)}. Give a longer one."
            )
        window, bank = WINDOWS[self.window](_KALDI_FRAME), _kaldi_bank(self.bins, self.rate)
        frames = 1 + (len(sound) - _KALDI_FRAME) // _KALDI_STEP
        made = np.empty((frames, self.bins), np.float32)
        samples = sound.astype(np.float64) * self.scale
        for start, block in _blocks(samples, _KALDI_FRAME, _KALDI_STEP, frames):
            centred = block - block.mean(axis=1, keepdims=True)
            raised = np.empty_like(centred)
            raised[:, 0] = centred[:, 0] * (1 - _PREEMPHASIS)
            raised[:, 1:] = centred[:, 1:] - _PREEMPHASIS * centred[:, :-1]
            power = np.abs(np.fft.rfft(raised * window, _KALDI_FFT)) ** 2
            made[start : start + len(block)] = np.log(np.maximum(power @ bank, _KALDI_LEAST))
        return made


class Centre(NamedTuple):
    """Of ``[frames, bins]``: each bin less its mean over the recording, and divided by its standard deviation."""

    means: bool
    deviations: bool

    @classmethod
    def read(cls, fields: Fields) -> Centre:
        return cls(fields.flag("means"), fields.flag("deviations"))

    def to_json(self) -> dict[str, Any]:
        return {"op": "centre", **self._asdict()}

    def __call__(self, features: Array) -> Array:
        if self.means:
            features = features - features.mean(axis=0)
        if self.deviations:
            spread = features.std(axis=0)
            if not spread.all():
                raise InputError(
                    f"The {len(features)} frames of a recording are divided by how much they differ, and these do not: "
                    "it is too short, or silent. Give one with sound in it."
                )
            features = features / spread
        return features.astype(np.float32)


class Frames(NamedTuple):
    """Of ``[frames, bins]`` so many frames: longer ones are cut, shorter ones end in zeros."""

    number: int

    @classmethod
    def read(cls, fields: Fields) -> Frames:
        return cls(_whole(fields, "number", MOST_FRAMES))

    def to_json(self) -> dict[str, Any]:
        return {"op": "frames", "number": self.number}

    def __call__(self, features: Array) -> Array:
        return _as_long(features, self.number)


class Channels(NamedTuple):
    """Of ``[frames, bins]`` channels ``[C, frames, bins]`` of so many frames: one, or where they are ``fused`` four,
    the whole recording and three parts of it. https://arxiv.org/abs/2211.06687

    What is as long is all four; of longer ones the whole is shrunk in time, and a part begins in the middle of each
    third of where it may.
    """

    frames: int
    fused: bool

    @classmethod
    def read(cls, fields: Fields) -> Channels:
        return cls(_whole(fields, "frames", MOST_FRAMES), fields.flag("fused"))

    def to_json(self) -> dict[str, Any]:
        return {"op": "channels", **self._asdict()}

    def __call__(self, features: Array) -> Array:
        if not self.fused:
            return features[None]
        beyond = len(features) - self.frames
        if beyond <= 0:
            return np.repeat(features[None], 4, axis=0)
        thirds = np.array_split(np.arange(beyond + 1), 3)
        starts = [int(third[len(third) // 2]) if len(third) else 0 for third in thirds]
        # Of the two nearest frames, as much as each is near.
        place = (np.arange(self.frames, dtype=np.float32) + np.float32(0.5)) * np.float32(len(features) / self.frames)
        place = np.maximum(place - np.float32(0.5), 0)
        first = place.astype(np.int64)
        share = (place - first)[:, None]
        behind = features[np.minimum(first + 1, len(features) - 1)]
        shrunk = features[first] * (1 - share) + behind * share
        return np.stack([shrunk, *(features[start : start + self.frames] for start in starts)])


class Normalise(NamedTuple):
    """Less a mean, divided by a deviation."""

    mean: float
    deviation: float

    @classmethod
    def read(cls, fields: Fields) -> Normalise:
        return cls(float(fields.take("mean", "a number", is_number)), _above_0(fields, "deviation"))

    def to_json(self) -> dict[str, Any]:
        return {"op": "normalise", **self._asdict()}

    def __call__(self, features: Array) -> Array:
        made: Array = (features - np.float32(self.mean)) / np.float32(self.deviation)
        return made


Step: TypeAlias = (
    "Length | Fill | Standardise | LogMel | MelDecibels | LogBands | FilterBank | Centre | Frames | Channels "
    "| Normalise"
)

STEPS: Mapping[str, type[Any]] = {
    "length": Length,
    "fill": Fill,
    "standardise": Standardise,
    "log_mel": LogMel,
    "mel_decibels": MelDecibels,
    "log_bands": LogBands,
    "filter_bank": FilterBank,
    "centre": Centre,
    "frames": Frames,
    "channels": Channels,
    "normalise": Normalise,
}
_ORDER = tuple(STEPS)


def read_steps(fields: Fields) -> tuple[Step, ...]:
    """The list ``steps`` of an artifact's processing of sound.

    Raises:
        what the fields' document raises: a step is unknown, out of order, or holds what it must not.
    """
    steps = tuple(fields.all("steps", _step))
    names = [step.to_json()["op"] for step in steps]
    if any(_ORDER.index(one) >= _ORDER.index(other) for one, other in pairwise(names)):
        fields.fail("steps", f"in the order {', '.join(_ORDER)}, each once", names)
    spectra = [name for name in names if name in ("log_mel", "mel_decibels", "log_bands", "filter_bank")]
    needs = {"centre", "frames"}.intersection(names)
    if len(spectra) > 1 or (needs and spectra != ["filter_bank"]):
        fields.fail("steps", "one spectrum at most, and filter_bank where frames are counted or centred", names)
    if "channels" in names and spectra != ["mel_decibels"]:
        fields.fail("steps", "mel_decibels where channels are made", names)
    return steps


def heard(sound: Array, steps: Sequence[Step]) -> Array:
    """What a model hears of a recording float32 [S].

    Raises:
        InputError: it is shorter than a frame.
    """
    for step in steps:
        sound = step(sound)
    return np.ascontiguousarray(sound, np.float32)


def _povey(size: int) -> Array:
    made: Array = np.hanning(size) ** 0.85
    return made


WINDOWS: Mapping[str, Callable[[int], Array]] = {"hann": np.hanning, "povey": _povey}


def _blocks(samples: Array, frame: int, step: int, frames: int) -> Iterator[tuple[int, Array]]:
    """Frames [N, frame] in blocks, and the number of the first of each."""
    every = np.lib.stride_tricks.sliding_window_view(samples, frame)[::step][:frames]
    for start in range(0, frames, _BLOCK):
        yield start, every[start : start + _BLOCK]


def _as_long(values: Array, count: int) -> Array:
    """So many of the first axis: cut, or with zeros behind."""
    if len(values) >= count:
        return values[:count]
    made = np.zeros((count, *values.shape[1:]), values.dtype)
    made[: len(values)] = values
    return made


@lru_cache(maxsize=8)
def _slaney_bank(bins: int, bands: int, rate: int, highest: float, lowest: float = 0.0) -> Array:
    """[bands, bins] of Slaney's mel scale, straight up to 1 kHz and logarithmic beyond; each filter of area 1
    (https://engineering.purdue.edu/~malcolm/interval/1998-010)."""
    straight, step = 200 / 3, np.log(6.4) / 27

    def to_mel(hertz: float) -> float:
        return hertz / straight if hertz < 1000 else 15 + float(np.log(hertz / 1000)) / step

    mels = np.linspace(to_mel(lowest), to_mel(highest), bins + 2)
    edges = np.where(mels < 15, mels * straight, 1000 * np.exp(step * (mels - 15)))
    filters = _triangles(np.linspace(0, rate // 2, bands), edges)
    made: Array = filters * (2 / (edges[2:] - edges[:-2]))
    return made


@lru_cache(maxsize=8)
def _htk_bank(bins: int, bands: int, rate: int, highest: float, lowest: float = 0.0) -> Array:
    """[bands, bins] of the mel scale 2595 log10(1 + f / 700); each filter of height 1."""
    first, last = (2595 * np.log10(1 + hertz / 700) for hertz in (lowest, highest))
    edges = 700 * (10 ** (np.linspace(first, last, bins + 2) / 2595) - 1)
    return _triangles(np.linspace(0, rate // 2, bands), edges)


@lru_cache(maxsize=8)
def _even_htk_bank(bins: int, bands: int, rate: int, highest: float) -> Array:
    """The same from 0 on, each filter of area 1."""
    edges = 700 * (10 ** (np.linspace(0.0, 2595 * np.log10(1 + highest / 700), bins + 2) / 2595) - 1)
    made: Array = _htk_bank(bins, bands, rate, highest) * (2 / (edges[2:] - edges[:-2]))
    return made


SCALES: Mapping[str, Callable[[int, int, int, float, float], Array]] = {"slaney": _slaney_bank, "htk": _htk_bank}


@lru_cache(maxsize=8)
def _kaldi_bank(bins: int, rate: int) -> Array:
    """[bands, bins] of the mel scale 1127 ln(1 + f / 700), triangular on it."""
    bands = _KALDI_FFT // 2 + 1
    lowest, highest = (float(1127 * np.log(1 + hertz / 700)) for hertz in (20, rate // 2))
    places = 1127 * np.log(1 + rate / _KALDI_FFT * np.arange(bands) / 700)
    return _triangles(places, np.linspace(lowest, highest, bins + 2))


def _triangles(places: Array, edges: Array) -> Array:
    """[P, E - 2]: filters that rise from one edge to the next and fall to the one behind."""
    rising = (places[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - places[:, None]) / (edges[2:] - edges[1:-1])
    made: Array = np.maximum(0, np.minimum(rising, falling))
    return made


def _step(fields: Fields) -> Step:
    step: Step = STEPS[fields.choice("op", STEPS)].read(fields)
    fields.close()
    return step


def _whole(fields: Fields, name: str, most: int) -> int:
    value: int = fields.take(name, f"an integer from 1 to {most}", lambda v: type(v) is int and 1 <= v <= most)
    return value


def _above_0(fields: Fields, name: str) -> float:
    return float(fields.take(name, "a number above 0", lambda v: is_number(v) and v > 0))
