"""Models that write what they hear, token by token: plain texts, or texts with languages and timestamps among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from precast.runtime import arguments
from precast.runtime.errors import InputError
from precast.runtime.fields import is_number
from precast.runtime.processors.audio import (
    at_hand,
    beginning,
    begun,
    is_array,
    open_recording,
    recording_blocks,
)
from precast.runtime.readers.audio import AudioReader
from precast.runtime.recognition.answers import Answers
from precast.runtime.recognition.base import Part, Recogniser, SoundRow, Windows, read_windows
from precast.runtime.recognition.passing import PassingFeatures
from precast.runtime.recognition.transcript import Heard, Markup, transcript
from precast.runtime.recognition.windows import Features, Rules, transcribed
from precast.runtime.tasks._generation import GenerationArguments
from precast.runtime.tasks.base import Request, Row

__all__ = ["RECOGNISER", "WritingRecogniser"]

_USUAL = {"max_new_tokens": 256, "num_beams": 5}
_THRESHOLDS = ("compression_ratio_threshold", "logprob_threshold", "no_speech_threshold")
_SPEECH = "speech."
_SECONDS, _FRAME = 0.02, 0.01  # of a timestamp, and of a frame


class WritingRecogniser(Recogniser):
    """By `generate`; long recordings window by window, where a model tells the time."""

    def __init__(self, model: Any, reader: AudioReader) -> None:
        super().__init__(model, reader)
        if model.tokenizer is None:
            why = model.why_no_tokenizer
            raise InputError(f"The artifact has no tokenizer to make text with{f' ({why})' if why else ''}.")
        self.asking = GenerationArguments("automatic-speech-recognition", model, model.tokenizer, _USUAL)
        port = next(one for one in model.engine().source.ports if one.name == reader.feature_extractor.port)
        # Features of windows of one length; or recordings as long as they are.
        self.window: int | None = port.shape[-1] if len(port.shape) == 3 and isinstance(port.shape[-1], int) else None

    @classmethod
    def fits(cls, model: Any) -> bool:
        return "speech-seq2seq" in model.tasks

    @cached_property
    def speech(self) -> Any:
        """What the checkpoint says of speech."""
        return self.asking.config({}).speech

    @cached_property
    def markup(self) -> Markup | None:
        """What is no text; None: the model does not tell the time."""
        from precast.runtime.generation.speech import LANGUAGES

        speech, tokenizer = self.speech, self.model.tokenizer
        if speech.no_timestamps_token_id is None or self.window is None:
            return None
        config = self.asking.config({})
        return Markup(
            stamp=speech.timestamp_begin,
            special=tokenizer.special_ids,
            start=config.first_token,
            previous=-1 if speech.prev_sot_token_id is None else speech.prev_sot_token_id,
            end=config.eos[0],
            languages={
                token: LANGUAGES[name.strip("<|>")]
                for name, token in speech.lang_to_id.items()
                if name.strip("<|>") in LANGUAGES
            },
            decode=tokenizer.decode,
            precision=_SECONDS,
            window=self.window // 2,
        )

    # Arguments.

    def check(self, given: Mapping[str, Any]) -> dict[str, Any]:
        given = dict(given)
        checked: dict[str, Any] = {}
        windows = read_windows(given.pop("chunk_length_s", None), given.pop("stride_length_s", None))
        if windows is not None:
            checked["windows"] = windows
        stamps, language = given.pop("return_timestamps", None), given.pop("return_language", None)
        nested = given.pop("generate_kwargs", None)
        if nested is not None:
            given = {**arguments.mapping("generate_kwargs", nested), **given}
        stamps = given.pop("return_timestamps", stamps)
        if stamps is not None:
            checked["stamps"] = self._stamps(stamps)
            given["return_timestamps"] = bool(stamps)
        if language is not None:
            checked["language"] = arguments.flag("return_language", language)
        checked |= {f"{_SPEECH}{name}": value for name, value in self._rules(given).items()}
        return checked | self.asking.checked({name: value for name, value in given.items() if value is not None})

    def _stamps(self, stamps: Any) -> bool | str:
        if stamps is False:
            return False
        if stamps not in (True, "word"):
            raise InputError(
                f"return_timestamps is True (of segments) or 'word' of a model that writes; received {stamps!r:.80}."
            )
        if self.markup is None:
            raise InputError(
                "return_timestamps needs a model that tells the time, and this one does not. Leave it out."
            )
        if stamps != "word":
            return True
        if self.speech.alignment_heads is None or "alignment" not in self.model.artifact.components:
            raise InputError(
                "Times of words need what a decoder's heads look at, and this artifact does not say it: its "
                "generation_config.json names no alignment_heads, or it was exported by an earlier Precast. Ask for "
                "return_timestamps=True: times of segments."
            )
        return "word"

    def _rules(self, given: dict[str, Any]) -> dict[str, Any]:
        """What only long recordings know, taken out of the arguments."""
        found: dict[str, Any] = {}
        temperature = given.get("temperature")
        if isinstance(temperature, (list, tuple)):
            del given["temperature"]
            good = [one for one in temperature if is_number(one) and one >= 0]
            if not temperature or len(good) != len(temperature):
                raise InputError(
                    f"temperature is a number of at least 0, or several, tried in order; received {temperature!r:.80}."
                )
            found["temperatures"] = tuple(map(float, temperature))
        elif temperature is not None and is_number(temperature) and temperature >= 0:
            del given["temperature"]
            found["temperatures"] = (float(temperature),)
        for name in _THRESHOLDS:
            value = given.pop(name, None)
            if value is not None:
                found[name] = arguments.number(name, value)
        condition = given.pop("condition_on_prev_tokens", None)
        if condition is not None:
            found["condition_on_prev_tokens"] = arguments.flag("condition_on_prev_tokens", condition)
        kind = given.pop("prompt_condition_type", None)
        if kind is not None:
            found["prompt_condition_type"] = arguments.choice(
                "prompt_condition_type", kind, ("first-segment", "all-segments")
            )
        prompt = given.pop("prompt_ids", None)
        if prompt is not None:
            ids = np.asarray(prompt)
            if ids.ndim != 1 or ids.dtype.kind not in "iu" or not ids.size:
                raise InputError(f"prompt_ids is a list of token ids; received {prompt!r:.80}.")
            found["prompt_ids"] = tuple(ids.tolist())
        return found

    # Rows.

    def prepare(self, item: Any, parameters: Mapping[str, Any]) -> Request:
        extractor = self.reader.feature_extractor
        rate = extractor.sampling_rate
        windows: Windows | None = parameters.get("windows")
        if windows is not None:
            parts = windows.parts(begun(recording_blocks(item, rate)), rate, 1)
            return Request([], coming=(self._row(sound, part) for part, sound in parts))
        if extractor.longest is None:
            return Request([self._row(open_recording(item, rate), None)])
        item = at_hand(item)
        sound = beginning(item, rate, extractor.longest + 1)
        whole = len(sound) > extractor.longest
        if whole and parameters.get("stamps") is False:
            raise InputError(
                f"A recording of more than {extractor.longest / rate:g} s is heard window by window, for which the "
                "model tells the time: leave return_timestamps=False out, or give chunk_length_s."
            )
        if not whole:
            return Request([self._row(sound, None)])
        if is_array(item) or self.window is None or not extractor.passing:
            return Request([self._row(open_recording(item, rate), None, whole=True)])
        features = PassingFeatures(lambda: extractor.levels(recording_blocks(item, rate)))
        return Request([SoundRow({extractor.port: features})])

    def _row(self, sound: np.ndarray, part: Part | None, *, whole: bool = False) -> SoundRow:
        extractor = self.reader.feature_extractor
        row = SoundRow({extractor.port: extractor.heard(sound, whole=whole)})
        row.part = part
        if extractor.longest is not None and self.window is not None and not whole:
            row.real = -(-len(sound) * self.window // extractor.longest)
        return row

    def collate(self, rows: Sequence[Row]) -> Mapping[str, Any]:
        """Features that are made as they are asked for stay apart."""
        port = self.reader.feature_extractor.port
        if any(isinstance(row[port], PassingFeatures) for row in rows):
            return {port: [row[port] for row in rows]}
        return self.reader.collate(rows)

    def compute(
        self, batch: Mapping[str, Any], rows: Sequence[Row], parameters: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        config = self.asking.config(parameters)
        if self.markup is None or self.window is None:
            output = self.model.generate(
                **batch,
                **{
                    **self.asking.objects(parameters),
                    "generation_config": replace(config, return_dict_in_generate=True),
                },
            )
            width = output.sequences.shape[1]
            start = width - max(output.new_tokens)
            pairs = zip(output.sequences, output.new_tokens, strict=True)
            return {"heard": [Heard(row[start : start + size].tolist()) for row, size in pairs]}
        features = list(batch[self.reader.feature_extractor.port])
        frames = features[0].shape[-1]
        if frames > self.window and not config.speech.return_timestamps:
            config = replace(config, speech=replace(config.speech, return_timestamps=True))
        rules = self._following(config, parameters)
        objects = self.asking.objects(parameters)
        port, timed = self.reader.feature_extractor.port, parameters.get("stamps") == "word"
        answers = Answers(self.model, port, config, objects, rules, timed=timed)
        begins = self._begins(features, config, answers)
        found = transcribed(
            features,
            begins,
            rules,
            answers.write,
            lambda windows: answers.silence(windows, len(begins[0])),
            self._told,
            [row.real if isinstance(row, SoundRow) and row.real else frames for row in rows],
        )
        heard = []
        for begin, (tokens, times) in zip(begins, found, strict=True):
            spoken = [token for token in begin if token in self.markup.languages] if parameters.get("language") else []
            heard.append(Heard([*spoken, *tokens], [*[0.0] * len(spoken), *times] if timed else None))
        return {"heard": heard}

    def _told(self, done: int, total: int, tokens: list[int]) -> None:
        if self.heard is not None and self.markup is not None:
            text = transcript([Heard(tokens)], self.markup)["text"]
            self.heard(done * _FRAME, total * _FRAME, text)

    def _begins(self, features: Sequence[Features], config: Any, answers: Answers) -> list[list[int]]:
        """What the answer to each recording begins with; the language of its first window is found out."""
        begins = config.speech.begin(config.first_token, len(features))
        missing = [place for place, begin in enumerate(begins) if None in begin]
        if missing:
            first = [features[place][:, 0 : int(self.window or 0)] for place in missing]
            for place, language in zip(missing, answers.languages(first), strict=True):
                begins[place] = [language if token is None else token for token in begins[place]]
        return [[int(token) for token in begin] for begin in begins]

    def _following(self, config: Any, parameters: Mapping[str, Any]) -> Rules:
        speech = config.speech
        told = {name[len(_SPEECH) :]: value for name, value in parameters.items() if name.startswith(_SPEECH)}

        def value(name: str) -> Any:
            return told.get(name, getattr(speech, name))

        prompt, every = told.get("prompt_ids"), told.get("prompt_condition_type") == "all-segments"
        continued = bool(value("condition_on_prev_tokens"))
        if every and not continued:
            raise InputError("prompt_condition_type='all-segments' needs condition_on_prev_tokens=True.")
        if value("no_speech_threshold") is not None and value("logprob_threshold") is None:
            raise InputError("no_speech_threshold is for answers that are not sure: give logprob_threshold, too.")
        if prompt and prompt[0] == speech.prev_sot_token_id:
            prompt = prompt[1:]
        return Rules(
            stamp=speech.timestamp_begin,
            window=int(self.window or 0),
            vocabulary=self.model.engine().vocab_size,
            temperatures=told.get("temperatures", (None,)),
            compression=value("compression_ratio_threshold"),
            sure=value("logprob_threshold"),
            silent=value("no_speech_threshold"),
            continued=continued,
            previous=speech.prev_sot_token_id,
            longest=(self.model.engine().max_length or 448) // 2 - 1,
            prompt=prompt,
            prompted=every,
        )

    def keep(self, outputs: Mapping[str, Any], index: int, row: Row) -> Heard:
        heard: Heard = outputs["heard"][index]
        part = row.part if isinstance(row, SoundRow) else None
        if part is None:
            return heard
        rate = self.reader.feature_extractor.sampling_rate
        return heard._replace(part=(part.samples / rate, part.left / rate, part.right / rate))

    def finish(self, request: Request, kept: list[Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
        if self.markup is not None:
            language = bool(parameters.get("language"))
            return transcript(kept, self.markup, stamps=parameters.get("stamps") or False, language=language)
        if parameters.get("language"):
            raise InputError("return_language needs a model that tells languages apart, and this one does not.")
        special = self.model.tokenizer.special_ids
        tokens: list[int] = []
        for heard in kept:
            tokens = _continued(tokens, [int(token) for token in heard.tokens if int(token) not in special])
        return {"text": self.model.tokenizer.decode(tokens, skip_special_tokens=True)}


def _continued(tokens: list[int], more: list[int]) -> list[int]:
    """Tokens of a window behind those in front of it: where its beginning is their end, as far as most of it agrees."""
    best, found = 0.0, 0
    for size in range(1, len(more) + 1):
        front = tokens[-size:]
        if len(front) != size:
            break
        matches = sum(one == other for one, other in zip(front, more[:size], strict=True))
        share = matches / size + size / 10000.0
        if matches > 1 and share > best:
            best, found = share, size
    return tokens + more[found:]


RECOGNISER = WritingRecogniser
