"""What a model writes of windows of recordings, how sure of it it is, and when each token is said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from precast.runtime.generation.alignment import token_frames
from precast.runtime.recognition.windows import Answer, Rules, Window

__all__ = ["Answers"]

_WIDTH = 7  # frames of the median that smooths attention, where the checkpoint says no other
_PRECISION = 0.02  # seconds of a frame of the encoder


class Answers:
    """Of one call of a pipeline: the encoder runs once for each window, whatever is asked of it.

    Args:
        port: what the model hears. config: what `generate` is asked for; objects: its arguments that no configuration
            holds. timed: tokens have times.
    """

    def __init__(
        self, model: Any, port: str, config: Any, objects: Mapping[str, Any], rules: Rules, *, timed: bool
    ) -> None:
        self._model, self._port = model, port
        self._config, self._objects = config, objects
        self._rules, self._timed = rules, timed
        self._kept: tuple[np.ndarray, Any] | None = None

    def languages(self, windows: Sequence[np.ndarray]) -> list[int]:
        """The token of the language that is spoken in each."""
        logits = self._logits(windows, [[self._config.first_token]] * len(windows))[:, -1]
        found: list[int] = self._config.speech.detected(logits)
        return found

    def silence(self, windows: Sequence[Window], begin: int) -> list[float]:
        """How likely the token that nobody speaks is behind the first one of a transcript, which ``begin`` tokens of
        each prompt are."""
        none = self._config.speech.no_speech_token_id
        found = []
        for window in windows:
            scores = self._logits([window.features], [window.prompt])[0, len(window.prompt) - begin].astype(np.float64)
            found.append(float(np.exp(scores[none] - scores.max()) / np.exp(scores - scores.max()).sum()))
        return found

    def write(self, windows: Sequence[Window], temperature: float | None) -> list[Answer]:
        """An answer for each."""
        config = self._config
        if temperature is not None:
            drawn = temperature > 0
            config = replace(
                config,
                do_sample=drawn,
                temperature=temperature if drawn else 1.0,
                num_beams=1 if drawn else config.num_beams,
            )
        beams, sure = config.num_beams or 1, self._rules.sure is not None
        longest = max(len(window.prompt) for window in windows)
        changes: dict[str, Any] = {
            "return_dict_in_generate": True,
            "output_logprobs": sure and beams == 1,
            "output_scores": sure and beams > 1,
            "decoder_start_token_id": tuple(window.prompt[0] for window in windows),
        }
        most = self._model.engine().max_length
        if config.max_new_tokens is not None and most is not None:
            changes["max_new_tokens"] = min(config.max_new_tokens, most - longest)
        elif config.max_length is not None and most is not None:
            # Upstream counts what an answer begins with beside it, up to half of all positions.
            changes["max_length"] = min(config.max_length + min(self._rules.longest, longest), most)
        ids = np.zeros((len(windows), longest), np.int64)
        mask = np.zeros_like(ids)
        for row, window in enumerate(windows):
            ids[row, longest - len(window.prompt) :] = window.prompt
            mask[row, longest - len(window.prompt) :] = 1
        encoded = self._encoded([window.features for window in windows])
        output = self._model.generate(
            encoder_outputs=encoded,
            decoder_input_ids=ids,
            decoder_attention_mask=mask,
            **{**self._objects, "generation_config": replace(config, **changes)},
        )
        answers = []
        for row, size in enumerate(output.new_tokens):
            tokens = output.sequences[row, longest : longest + size].tolist()
            ended = bool(tokens) and tokens[-1] in config.eos
            answers.append(Answer(tokens, ended, _sureness(output, row, tokens) if sure else 0.0))
        return self._with_times(windows, answers, encoded) if self._timed else answers

    def _with_times(self, windows: Sequence[Window], answers: Sequence[Answer], encoded: Any) -> list[Answer]:
        """The last token of an answer, which is its end, has the time of the one in front of it."""
        rows = [[*window.prompt, *answer.tokens] for window, answer in zip(windows, answers, strict=True)]
        longest = max(map(len, rows))
        sequences = np.asarray([[*row, *[0] * (longest - len(row))] for row in rows], np.int64)
        weights = self._model.alignments(sequences, encoded)
        width = self._config.speech.median_filter_width or _WIDTH
        made = []
        for window, answer, found in zip(windows, answers, weights, strict=True):
            begin, count = len(window.prompt), len(answer.tokens) - 1
            # What is behind the recording is looked at by nothing that was said in it.
            own = found[:, begin : begin + count, : window.left // 2]
            times = (token_frames(own, width) * _PRECISION).tolist() if own.size else [0.0] * count
            made.append(answer._replace(times=[*times, times[-1] if times else 0.0]))
        return made

    def _logits(self, windows: Sequence[np.ndarray], prompts: Sequence[list[int]]) -> np.ndarray:
        found: np.ndarray = self._model(encoder_outputs=self._encoded(windows), decoder_input_ids=prompts)["logits"]
        return found

    def _encoded(self, windows: Sequence[np.ndarray]) -> Any:
        stacked = np.stack(windows)
        if self._kept is None or not np.array_equal(self._kept[0], stacked):
            self._kept = stacked, self._model.encoder_outputs(**{self._port: stacked})
        return self._kept[1]


def _sureness(output: Any, row: int, tokens: list[int]) -> float:
    """The mean log-probability of an answer's tokens, the end included."""
    if output.logprobs is not None:
        return float(output.logprobs[row, : len(tokens)].astype(np.float64).mean())
    total = 0.0
    for step, token in enumerate(tokens):
        scores = output.scores[step][output.beam_indices[row, step]].astype(np.float64)
        total += scores[token] - scores.max() - np.log(np.exp(scores - scores.max()).sum())
    return total / max(1, len(tokens))
