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
from precast.runtime.processors.audio import open_recording
from precast.runtime.readers.audio import AudioReader
from precast.runtime.recognition.base import Recogniser, SoundRow, Windows, read_windows
from precast.runtime.recognition.transcript import Heard, Markup, transcript
from precast.runtime.recognition.windows import Answer, Rules, transcribed
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
            special=frozenset(tokenizer.all_special_ids),
            start=_first(config),
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
        if stamps == "word":
            raise InputError(
                "Times of words need the attention of the decoder, which this artifact does not give. Ask for "
                "return_timestamps=True: times of segments."
            )
        return True

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
        sound = open_recording(item, rate)
        windows: Windows | None = parameters.get("windows")
        if windows is None:
            whole = extractor.longest is not None and len(sound) > extractor.longest
            if whole and parameters.get("stamps") is False:
                raise InputError(
                    f"A recording of more than {extractor.longest / rate:g} s is heard window by window, for which the "
                    "model tells the time: leave return_timestamps=False out, or give chunk_length_s."
                )
            return Request([SoundRow({extractor.port: extractor.heard(sound, whole=whole)})])
        rows: list[Row] = []
        for start, part in windows.parts(len(sound), rate, 1):
            row = SoundRow({extractor.port: extractor.heard(sound[start : start + part.samples])})
            row.part = part
            rows.append(row)
        return Request(rows)

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
            return {
                "tokens": [
                    row[start : start + size] for row, size in zip(output.sequences, output.new_tokens, strict=True)
                ]
            }
        features = batch[self.reader.feature_extractor.port]
        if features.shape[-1] > self.window and not config.speech.return_timestamps:
            config = replace(config, speech=replace(config.speech, return_timestamps=True))
        begins = self._begins(features, config)
        rules = self._following(config, parameters)
        objects = self.asking.objects(parameters)

        def write(windows: np.ndarray, prompts: Sequence[list[int]], temperature: float | None) -> list[Answer]:
            return self._written(windows, prompts, temperature, config, objects, rules)

        def silence(windows: np.ndarray, prompts: Sequence[list[int]]) -> list[float]:
            return self._silence(windows, prompts, begins[0])

        tokens = transcribed(list(features), begins, rules, write, silence, self._told)
        spoken = set(self.markup.languages)
        if parameters.get("language"):
            tokens = [
                [*(token for token in begin if token in spoken), *row]
                for begin, row in zip(begins, tokens, strict=True)
            ]
        return {"tokens": tokens}

    def _told(self, done: int, total: int, tokens: list[int]) -> None:
        if self.heard is not None and self.markup is not None:
            text = transcript([Heard(tokens)], self.markup)["text"]
            self.heard(done * _FRAME, total * _FRAME, text)

    def _begins(self, features: np.ndarray, config: Any) -> list[list[int]]:
        """What the answer to each recording begins with; the language of its first window is found out."""
        start = _first(config)
        begins = config.speech.begin(start, len(features))
        missing = [place for place, begin in enumerate(begins) if None in begin]
        if missing:
            port = self.reader.feature_extractor.port
            first = features[missing][..., : self.window]
            logits = self.model(**{port: first}, decoder_input_ids=[[start]] * len(missing))["logits"][:, -1]
            for place, language in zip(missing, config.speech.detected(logits), strict=True):
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

    def _written(
        self,
        windows: np.ndarray,
        prompts: Sequence[list[int]],
        temperature: float | None,
        config: Any,
        objects: Mapping[str, Any],
        rules: Rules,
    ) -> list[Answer]:
        """What the model writes of windows behind prompts."""
        if temperature is not None:
            drawn = temperature > 0
            config = replace(
                config,
                do_sample=drawn,
                temperature=temperature if drawn else 1.0,
                num_beams=1 if drawn else config.num_beams,
            )
        beams = config.num_beams or 1
        longest = max(map(len, prompts))
        changes: dict[str, Any] = {
            "return_dict_in_generate": True,
            "output_logprobs": rules.sure is not None and beams == 1,
            "output_scores": rules.sure is not None and beams > 1,
            "decoder_start_token_id": tuple(prompt[0] for prompt in prompts),
        }
        most = self.model.engine().max_length
        if config.max_new_tokens is not None and most is not None:
            changes["max_new_tokens"] = min(config.max_new_tokens, most - longest)
        elif config.max_length is not None and most is not None:
            # Upstream counts what an answer begins with beside it, up to half of all positions.
            changes["max_length"] = min(config.max_length + min(rules.longest, longest), most)
        ids = np.zeros((len(prompts), longest), np.int64)
        mask = np.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :], mask[row, longest - len(prompt) :] = prompt, 1
        output = self.model.generate(
            **{self.reader.feature_extractor.port: windows},
            decoder_input_ids=ids,
            decoder_attention_mask=mask,
            **{**objects, "generation_config": replace(config, **changes)},
        )
        answers = []
        for row, size in enumerate(output.new_tokens):
            tokens = output.sequences[row, longest : longest + size].tolist()
            sure = 0.0 if rules.sure is None else _sure(output, row, tokens)
            answers.append(Answer(tokens, bool(tokens) and tokens[-1] in config.eos, sure))
        return answers

    def _silence(self, windows: np.ndarray, prompts: Sequence[list[int]], begin: list[int]) -> list[float]:
        """How likely the token that nobody speaks is behind the first one of the transcript."""
        port, none = self.reader.feature_extractor.port, self.speech.no_speech_token_id
        found = []
        for window, prompt in zip(windows, prompts, strict=True):
            logits = self.model(**{port: window[None]}, decoder_input_ids=[prompt])["logits"][
                0, len(prompt) - len(begin)
            ]
            scores = logits.astype(np.float64)
            found.append(float(np.exp(scores[none] - scores.max()) / np.exp(scores - scores.max()).sum()))
        return found

    def keep(self, outputs: Mapping[str, Any], index: int, row: Row) -> Heard:
        tokens, part = outputs["tokens"][index], row.part if isinstance(row, SoundRow) else None
        rate = self.reader.feature_extractor.sampling_rate
        spans = None if part is None else (part.samples / rate, part.left / rate, part.right / rate)
        return Heard(tokens, None, spans)

    def finish(self, request: Request, kept: list[Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
        if self.markup is not None:
            asked = bool(parameters.get("stamps")), bool(parameters.get("language"))
            return transcript(kept, self.markup, stamps=asked[0], language=asked[1])
        if parameters.get("language"):
            raise InputError("return_language needs a model that tells languages apart, and this one does not.")
        special = set(self.model.tokenizer.all_special_ids)
        tokens: list[int] = []
        for heard in kept:
            tokens = _continued(tokens, [int(token) for token in heard.tokens if int(token) not in special])
        return {"text": self.model.tokenizer.decode(tokens, skip_special_tokens=True)}


def _first(config: Any) -> int:
    """The token that answers begin with."""
    start = config.bos_token_id if config.decoder_start_token_id is None else config.decoder_start_token_id
    if not isinstance(start, int):
        raise InputError(f"decoder_start_token_id is one id where recordings are written down; received {start!r}.")
    return start


def _sure(output: Any, row: int, tokens: list[int]) -> float:
    """The mean log-probability of an answer's tokens, the end included."""
    if output.logprobs is not None:
        return float(output.logprobs[row, : len(tokens)].astype(np.float64).mean())
    total = 0.0
    for step, token in enumerate(tokens):
        scores = output.scores[step][output.beam_indices[row, step]].astype(np.float64)
        total += scores[token] - scores.max() - np.log(np.exp(scores - scores.max()).sum())
    return total / max(1, len(tokens))


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
