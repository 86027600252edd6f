"""Recordings as what a model hears: an artifact's feature extractor, and what counts as a recording."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from itertools import chain
from typing import Any, Final

import numpy as np

from precast.runtime.errors import DependencyError, InputError
from precast.runtime.fetching import fetched, is_address
from precast.runtime.fields import Fields
from precast.runtime.processors.audio_resampling import resampled_blocks
from precast.runtime.processors.audio_steps import Channels, Length, LogMel, Step, heard, read_steps
from precast.runtime.processors.model_inputs import ModelInputs

__all__ = [
    "LONGEST",
    "MASK",
    "RATES",
    "FeatureExtractor",
    "at_hand",
    "beginning",
    "begun",
    "is_array",
    "is_recording",
    "open_recording",
    "recording_blocks",
]

MASK = "attention_mask"
RATES: Final = (1000, 768_000)  # Hz: of less nobody understands a word, more nobody records
LONGEST: Final = 4 * 3600  # seconds that are held at once
_CHANNELS = 2
_BLOCK = 1 << 18  # samples of each channel that are read at once


class FeatureExtractor:
    """Recordings to model inputs, by the steps an artifact lists; upstream's call and result. Safe to call from many
    threads.

    Args:
        rate: samples a second.
        port: the input it fills.
        masked: a mask says what of a batch is padding; otherwise rows of one length share a batch.
    """

    def __init__(self, steps: Sequence[Step], rate: int, port: str, masked: bool = False) -> None:
        self.steps = tuple(steps)
        self.sampling_rate = rate
        self.port = port
        self.masked = masked
        self.model_input_names = [self.port, MASK] if masked else [self.port]

    @classmethod
    def from_data(cls, said: Mapping[str, Any]) -> FeatureExtractor:
        """From ``processing["audio"]`` of a manifest, or what a checkpoint says."""
        fields = Fields(dict(said), "processing.audio")
        rate = int(fields.take("rate", f"an integer from {RATES[0]} to {RATES[1]}", _is_rate))
        return cls(read_steps(fields), rate, fields.text("port"), fields.flag("masked", False))

    def __repr__(self) -> str:
        return f"FeatureExtractor({self.sampling_rate} Hz, {', '.join(step.to_json()['op'] for step in self.steps)})"

    def __call__(
        self,
        raw_speech: Any,
        sampling_rate: int | None = None,
        *,
        padding: bool | str = True,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
        **unknown: Any,
    ) -> ModelInputs:
        """``input_values [N, S]`` or ``input_features`` of one recording or a list of them: files, or arrays at this
        sampling rate, or dictionaries of both; shorter ones are padded with zeros, and ``attention_mask`` says where.

        Args:
            sampling_rate: of arrays; another one than the model's is an error, as upstream's.
            padding: False: recordings of a call have one length. return_attention_mask: in place of the model's own.

        Raises:
            InputError: something is no recording, or too short; or an argument is unknown.
        """
        for name in unknown:
            raise InputError(f"Steps are the artifact's own and take no arguments; received {name}. Leave it out.")
        if return_tensors not in (None, "np"):
            raise InputError(f"return_tensors can be 'np' here, there is no torch; received {return_tensors!r}.")
        if sampling_rate is not None and sampling_rate != self.sampling_rate:
            raise InputError(
                f"The model hears {self.sampling_rate} samples a second; received sampling_rate={sampling_rate!r:.40}. "
                'Give {"array": ..., "sampling_rate": ...}, which is resampled.'
            )
        given = list(raw_speech) if isinstance(raw_speech, (list, tuple)) else [raw_speech]
        if not given:
            raise InputError("A feature extractor needs at least one recording.")
        if all(isinstance(one, float) for one in given):
            given = [np.asarray(given, np.float32)]
        sounds = [open_recording(one, self.sampling_rate) for one in given]
        rows = [self.heard(sound) for sound in sounds]
        if padding is False and len({len(row) for row in rows}) > 1:
            raise InputError("Recordings of one call have one length where padding=False; these differ.")
        made = ModelInputs(self.batch(rows, masked=return_attention_mask))
        if MASK in made and self.longest is not None:
            # Rows are of one length already, in part silence that was put behind.
            frames = made[MASK].shape[1]
            real = [-(-min(len(sound), self.longest) * frames // self.longest) for sound in sounds]
            made[MASK] = (np.arange(frames) < np.reshape(real, (-1, 1))).astype(np.int64)
        return made

    def heard(self, sound: np.ndarray, *, whole: bool = False) -> np.ndarray:
        """What the model hears of a recording [S] at its own rate; ``whole``: however long it is."""
        return heard(sound, [step for step in self.steps if not (whole and isinstance(step, Length))])

    @property
    def passing(self) -> bool:
        """Whether what is heard of a recording, however long, can be made as it comes (`levels`)."""
        return [type(step) for step in self.steps if not isinstance(step, Length)] == [LogMel]

    def levels(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """As `LogMel.levels`, of a recording at its own rate."""
        (step,) = (step for step in self.steps if isinstance(step, LogMel))
        return step.levels(blocks)

    @property
    def longest(self) -> int | None:
        """Samples that are heard of a recording, what is behind them is cut; None: all of it."""
        return next((step.samples for step in self.steps if isinstance(step, Length)), None)

    @property
    def rising(self) -> int:
        """The axis of a row that grows with the recording."""
        return 1 if any(isinstance(step, (LogMel, Channels)) for step in self.steps) else 0

    def batch(self, rows: Sequence[np.ndarray], *, masked: bool | None = None) -> dict[str, np.ndarray]:
        """Rows as one batch, shorter ones with zeros behind."""
        axis = self.rising
        lengths = [row.shape[axis] for row in rows]
        longest = max(lengths)
        shape = [longest if at == axis else size for at, size in enumerate(rows[0].shape)]
        made = np.zeros((len(rows), *shape), np.float32)
        for place, row in zip(made, rows, strict=True):
            place[tuple(slice(size) for size in row.shape)] = row
        batch = {self.port: made}
        if self.masked if masked is None else masked:
            batch[MASK] = (np.arange(longest) < np.reshape(lengths, (-1, 1))).astype(np.int64)
        return batch


def _is_rate(value: Any) -> bool:
    return type(value) is int and RATES[0] <= value <= RATES[1]


def is_recording(value: Any) -> bool:
    """Whether a value is one recording, as far as can be told without opening it."""
    return isinstance(value, (str, bytes, os.PathLike, np.ndarray, Mapping))


def open_recording(value: Any, rate: int) -> np.ndarray:
    """A recording as float32 [S] of one channel, ``rate`` samples a second.

    Args:
        value: a file's name, an http address, a file's content, an array [S] or [channels, S] at that rate, or
            ``{"array" or "raw": ..., "sampling_rate": ...}``; of a file's or an array's two channels the mean.

    Raises:
        InputError: there is no such file, or it is no recording, is empty, longer than `LONGEST` seconds, has more than
            two channels, NaN, or a sampling rate outside `RATES`; or what `fetched` raises.
        DependencyError: a file is to be read, and soundfile is not installed.
    """
    blocks, held = [], 0
    for block in recording_blocks(value, rate):
        held += len(block)
        if held > LONGEST * rate:
            raise InputError(f"A recording has {LONGEST // 3600} hours at most here; this one is longer. Cut it.")
        blocks.append(block)
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def recording_blocks(value: Any, rate: int) -> Iterator[np.ndarray]:
    """The same in blocks, in memory that does not grow with the recording."""
    if isinstance(value, Mapping):
        value, own = _of_mapping(value, rate)
    else:
        own = rate
    if isinstance(value, (str, bytes, os.PathLike)):
        source, own, blocks = _opened(value)
    elif isinstance(value, np.ndarray):
        source, blocks = "the array", iter([_mono(value)])
    else:
        raise InputError(
            "A recording is a file's name, an http address, an array [S] of floats, or "
            f'{{"array": ..., "sampling_rate": ...}}; received {type(value).__name__}: {value!r:.80}.'
        )
    if not _is_rate(own):
        raise InputError(
            f"A sampling rate is an integer from {RATES[0]} to {RATES[1]} samples a second; received {own!r:.40} of "
            f"{source}."
        )
    empty = True
    for block in resampled_blocks(_finite(blocks, source), own, rate):
        if len(block):
            empty = False
            yield block
    if empty:
        raise InputError(f"{source} is empty; a recording has one sample at least.")


def beginning(value: Any, rate: int, samples: int) -> np.ndarray:
    """The same, but no more of it than so many samples."""
    blocks, held = [], 0
    for block in recording_blocks(value, rate):
        blocks.append(block[: samples - held])
        held += len(blocks[-1])
        if held >= samples:
            break
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def begun(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """The same blocks, the first of which is there: what is no recording is refused now."""
    return chain([next(blocks)], blocks)


def is_array(value: Any) -> bool:
    """Whether a recording is held whole by whoever gives it."""
    return isinstance(value, np.ndarray) or (
        isinstance(value, Mapping) and any(value.get(name) is not None for name in ("raw", "array"))
    )


class _Fetched(bytes):
    """A file's content, and the address it is of."""

    address: str


def at_hand(value: Any) -> Any:
    """A recording that is read more than once: what an address holds is fetched now, and once."""
    if isinstance(value, Mapping) and not is_array(value):
        value, _ = _of_mapping(value, RATES[0])
    if not is_address(value):
        return value
    made = _Fetched(fetched(str(value), noun="recording"))
    made.address = str(value)
    return made


def _of_mapping(value: Mapping[str, Any], rate: int) -> tuple[Any, Any]:
    """What a dictionary of upstream's forms holds: samples and their rate, or a file."""
    for name in ("raw", "array"):
        if value.get(name) is not None:
            if "sampling_rate" not in value:
                raise InputError(f'A dictionary with {name!r} has "sampling_rate" too: how many samples are a second.')
            array = value[name]
            found = value["sampling_rate"]
            own = int(found) if isinstance(found, (int, np.integer)) and not isinstance(found, bool) else found
            return (array if isinstance(array, np.ndarray) else np.asarray(array, np.float32)), own
    for name in ("bytes", "path"):  # as datasets have a file that is not decoded
        if value.get(name) is not None:
            return value[name], rate
    raise InputError(
        'A dictionary of a recording holds "array" (or "raw") and "sampling_rate"; received '
        f"{', '.join(map(str, value)) or 'an empty one'}."
    )


def _mono(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind != "f":
        raise InputError(
            f"An array of a recording holds floats from -1 to 1; received {array.dtype}. Divide samples of 16 bits by "
            "32768."
        )
    if array.ndim == 1:
        return array
    if array.ndim == 2 and array.shape[0] <= _CHANNELS:
        made: np.ndarray = array.mean(axis=0)
        return made
    raise InputError(
        f"An array of a recording is [S], or [channels, S] of {_CHANNELS} channels at most; received "
        f"{list(array.shape)}. Turn [S, channels] around, and mix more channels down: array.mean(axis=0)."
    )


def _finite(blocks: Iterator[np.ndarray], source: str) -> Iterator[np.ndarray]:
    for block in blocks:
        if not np.isfinite(block).all():
            raise InputError(f"{source} holds NaN or infinity; every sample is a finite number.")
        yield block


def _opened(value: str | bytes | os.PathLike[str]) -> tuple[str, int, Iterator[np.ndarray]]:
    """A file's name in messages, its sampling rate, and its samples in blocks."""
    if isinstance(value, _Fetched):
        name = repr(value.address)
    else:
        name = f"{len(value)} bytes" if isinstance(value, bytes) else repr(os.fspath(value))
    try:
        import soundfile
    except (ImportError, OSError) as error:  # the latter where its library is missing
        raise DependencyError(
            'Recordings are read by soundfile, which is not installed. Install it (pip install "precast[audio]"), or '
            'give {"array": ..., "sampling_rate": ...}.'
        ) from error
    if is_address(value):
        value = fetched(str(value), noun="recording")
    try:
        file = soundfile.SoundFile(BytesIO(value) if isinstance(value, bytes) else os.fspath(value))
    except (soundfile.SoundFileError, OSError, RuntimeError, TypeError) as error:
        if not isinstance(value, bytes) and not os.path.exists(value):
            raise InputError(f"There is no recording {name}: no such file.") from error
        raise InputError(
            f"{name} is no recording that soundfile reads ({error!s:.200}). It reads WAV, FLAC, OGG and MP3; of a "
            "video take the sound first: ffmpeg -i VIDEO sound.wav."
        ) from error
    if file.channels > _CHANNELS:
        channels = file.channels
        file.close()
        raise InputError(f"{name} has {channels} channels, and {_CHANNELS} are the most. Mix them down to one.")
    return name, int(file.samplerate), _read(file, name, soundfile.SoundFileError)


def _read(file: Any, name: str, error_type: type[Exception]) -> Iterator[np.ndarray]:
    with file:
        while True:
            try:
                block = file.read(_BLOCK, dtype="float32", always_2d=True)
            except (error_type, RuntimeError) as error:
                raise InputError(f"The recording {name} cannot be read: {error!s:.200}.") from error
            if not len(block):
                return
            yield block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)
