"""Speech of texts in stages: one decoder says what is meant, another the codes of the first codebooks, one by one; a
model that remembers nothing those of the other codebooks, and a codec makes a waveform of all. What goes from one to
the next is laid out here, in windows, for no stage sees all of a long text."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from precast.runtime.backends.base import Array
from precast.runtime.errors import ConfigError, InputError
from precast.runtime.fields import Document, Fields, is_count, is_number
from precast.runtime.generation.config import GenerationConfig

__all__ = ["VOICE", "Coarse", "Fine", "Rules", "Semantic", "Sizes", "Voice"]

VOICE = ("semantic_prompt", "coarse_prompt", "fine_prompt")
"""What a voice consists of, by upstream's names."""

_FILE = Document("generation_config.json", ConfigError, "Correct the file.")
Predict = Callable[[Array, int], Array]
"""Codes of all codebooks [B, S, C], and the codebook that is asked for -> its logits [B, S, V]."""


@dataclass(frozen=True)
class Voice:
    """What somebody is known to have said before: tokens of what was meant [S], codes of the first codebooks [2, T] and
    of all of them [C, T]."""

    semantic: Array
    coarse: Array
    fine: Array


@dataclass(frozen=True)
class Sizes:
    """What the models of the stages take.

    Args:
        semantic, coarse: ids that are read, ids that are said, and positions, of the two decoders.
        fine: ids that are read, ids that are said, positions and codebooks. given: codebooks that it cannot predict.
        codes: codes of a codebook that the codec knows.
    """

    semantic: tuple[int, int, int]
    coarse: tuple[int, int, int]
    fine: tuple[int, int, int, int]
    given: int
    codes: int

    @classmethod
    def read(cls, fields: Fields) -> Sizes:
        def counts(key: str, count: int) -> Any:
            rule = f"a list of {count} counts"
            return tuple(
                fields.take(key, rule, lambda v: isinstance(v, list) and len(v) == count and all(map(is_count, v)))
            )

        made = cls(counts("semantic", 3), counts("coarse", 3), counts("fine", 4), fields.count("given"),
                   fields.count("codes"))  # fmt: skip
        fields.close()
        return made


@dataclass(frozen=True)
class Semantic:
    """From a text to what is meant; keys and defaults are upstream's.

    Args:
        text_offset: of a token of the text. text_pad: what stands for its padding.
        begin: what is said begins behind this token. vocabulary: tokens of what is meant are below it.
        end: the token that ends it, and fills up what is shorter. longest: tokens of a text. rate: tokens a second.
    """

    text_offset: int
    text_pad: int
    begin: int
    vocabulary: int
    end: int
    longest: int
    rate: float

    @classmethod
    def read(cls, fields: Fields) -> Semantic:
        return cls(
            text_offset=fields.count("text_encoding_offset", 10_048),
            text_pad=fields.count("text_pad_token", 129_595),
            begin=fields.count("semantic_infer_token", 129_599),
            vocabulary=fields.count("semantic_vocab_size", 10_000),
            end=fields.count("eos_token_id", 10_000),
            longest=_count(fields, "max_input_semantic_length", 256),
            rate=_above(fields, "semantic_rate_hz", 49.9),
        )

    def fed(self, ids: Array, mask: Array | None) -> Array:
        """Tokens of texts [B, S] as the model reads them, [B, longest + 1]: padded, and where it begins to answer."""
        text = ids + self.text_offset if mask is None else np.where(mask != 0, ids + self.text_offset, self.text_pad)
        made = np.full((len(ids), self.longest + 1), self.text_pad, np.int64)
        width = min(self.longest, text.shape[1])
        made[:, :width], made[:, -1] = text[:, :width], self.begin
        return made

    def before(self, voice: Voice | None, rows: int) -> Array:
        """What was meant before, [B, longest]."""
        made = np.full((rows, self.longest), self.end, np.int64)
        said = np.zeros(0, np.int64) if voice is None else voice.semantic[-self.longest :]
        made[:, : len(said)] = said
        return made

    def processor(self, least: float | None) -> Callable[[Array, Array], Array]:
        """Bans what is no token of what is meant; and ends it where the end is likelier than ``least``."""

        def process(ids: Array, scores: Array) -> Array:
            banned = np.ones(scores.shape[1], bool)
            banned[: self.vocabulary] = banned[self.end] = False
            scores = np.where(banned, -np.inf, scores).astype(scores.dtype)
            if least is not None:
                weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
                over = weights[:, self.end] / weights.sum(axis=-1) > least
                only = np.arange(scores.shape[1]) == self.end
                scores[over] = np.where(only, scores[over], -np.inf)
            return scores

        return process


@dataclass(frozen=True)
class Coarse:
    """From what is meant to codes of the first two codebooks, in turns.

    Args:
        pad: what stands for padding of what is meant. begin: codes begin behind this token.
        rate: frames a second. books: codebooks. longest: tokens of what is meant that are seen at once, ``history``:
            tokens of codes besides; ``window`` more are said each time.
    """

    pad: int
    begin: int
    rate: float
    books: int
    longest: int
    history: int
    window: int

    @classmethod
    def read(cls, fields: Fields) -> Coarse:
        two = fields.take("n_coarse_codebooks", "2", lambda value: value == 2 and type(value) is int, 2)
        return cls(
            pad=fields.count("coarse_semantic_pad_token", 12_048),
            begin=fields.count("coarse_infer_token", 12_050),
            rate=_above(fields, "coarse_rate_hz", 75),
            books=two,
            longest=_count(fields, "max_coarse_input_length", 256),
            history=_count(fields, "max_coarse_history", 630),
            window=_count(fields, "sliding_window_len", 60),
        )


@dataclass(frozen=True)
class Fine:
    """From codes of the first codebooks to those of all.

    Args:
        temperature: codes are drawn with it; None, 1: the likeliest are taken.
        history: frames that are kept from one window of ``longest`` frames to the next. books: codebooks.
    """

    temperature: float | None
    history: int
    longest: int
    books: int

    @classmethod
    def read(cls, fields: Fields) -> Fine:
        return cls(
            temperature=fields.take(
                "temperature",
                "a number above 0, or null",
                lambda value: value is None or (is_number(value) and value > 0),
                1.0,
            ),
            history=_count(fields, "max_fine_history_length", 512),
            longest=_count(fields, "max_fine_input_length", 1024),
            books=_count(fields, "n_fine_codebooks", 8),
        )


@dataclass(frozen=True)
class Rules:
    """How one stage follows another, as generation_config.json says; ``said`` is how each decoder generates.

    Args:
        codes: codes of a codebook. given: codebooks that the fine stage cannot predict.
    """

    semantic: Semantic
    coarse: Coarse
    fine: Fine
    codes: int
    said: Mapping[str, GenerationConfig]
    given: int

    @classmethod
    def read(cls, stated: Any, sizes: Sizes) -> Rules:
        """
        Raises:
            ConfigError: it says nothing of the stages, or what these models cannot do.
        """
        if stated is None:
            raise ConfigError(
                "generation_config.json is needed beside this model: it says how one of its stages follows another "
                "('semantic_config', 'coarse_acoustics_config', 'fine_acoustics_config'). Download the checkpoint anew."
            )
        whole = Fields(stated, document=_FILE)
        parts = {kind: whole.data(f"{kind}_config") for kind in ("semantic", "coarse_acoustics", "fine_acoustics")}
        semantic, coarse, fine = (
            kind.read(Fields(part, f"{name}_config", document=_FILE))  # type: ignore[attr-defined]
            for kind, (name, part) in zip((Semantic, Coarse, Fine), parts.items(), strict=True)
        )
        # As upstream's classes of these stages have them where nothing is said.
        usual: dict[str, Any] = {"renormalize_logits": True}
        spoken = {"max_new_tokens": 768, "eos_token_id": semantic.end}
        said = {
            "semantic": GenerationConfig.from_checkpoint({**usual, **spoken, **parts["semantic"]}),
            "coarse": GenerationConfig.from_checkpoint({**usual, **parts["coarse_acoustics"]}),
        }
        made = cls(semantic, coarse, fine, _count(whole, "codebook_size", 1024), said, sizes.given)
        made._check(sizes)
        return made

    def _check(self, sizes: Sizes) -> None:
        semantic, coarse, fine = self.semantic, self.coarse, self.fine
        for name, value, least, most in (
            ("semantic_config.text_encoding_offset", semantic.text_offset, 0, sizes.semantic[0] - 1),
            ("semantic_config.text_pad_token", semantic.text_pad, 0, sizes.semantic[0] - 1),
            ("semantic_config.semantic_infer_token", semantic.begin, 0, sizes.semantic[0] - 1),
            ("semantic_config.semantic_vocab_size", semantic.vocabulary, 1, min(sizes.semantic[1], sizes.coarse[0])),
            ("semantic_config.eos_token_id", semantic.end, semantic.vocabulary, sizes.semantic[1] - 1),
            ("semantic_config.max_input_semantic_length", semantic.longest, 1, sizes.semantic[2] - 1),
            ("coarse_acoustics_config.coarse_semantic_pad_token", coarse.pad, 0, sizes.coarse[0] - 1),
            ("coarse_acoustics_config.coarse_infer_token", coarse.begin, 0, sizes.coarse[0] - 1),
            ("codebook_size", self.codes, 1, min(sizes.codes, sizes.fine[1], sizes.fine[0] - 1)),
            ("fine_acoustics_config.n_fine_codebooks", fine.books, sizes.fine[3], sizes.fine[3]),
            ("fine_acoustics_config.max_fine_input_length", fine.longest, 1, sizes.fine[2]),
            ("fine_acoustics_config.max_fine_history_length", fine.history, 1, fine.longest),
            ("coarse_acoustics_config.n_coarse_codebooks", coarse.books, sizes.given, fine.books),
        ):
            if not least <= value <= most:
                raise _FILE.error(
                    f"generation_config.json: {name} must be {least} to {most} for the sizes of config.json, got "
                    f"{value}. {_FILE.advice}"
                )
        seen = coarse.longest + coarse.history + coarse.window
        spoken = semantic.vocabulary + coarse.books * self.codes
        if seen > sizes.coarse[2] or spoken > min(sizes.coarse[:2]):
            raise _FILE.error(
                f"generation_config.json: max_coarse_input_length, max_coarse_history and sliding_window_len add up to "
                f"{seen} of {sizes.coarse[2]} positions, tokens of what is meant and codes of two codebooks to "
                f"{spoken} of {min(sizes.coarse[:2])} that there are: more than the model has. {_FILE.advice}"
            )

    def voice(self, semantic: Array, coarse: Array, fine: Array) -> Voice:
        """
        Raises:
            InputError: these are no voice's.
        """
        for name, array, rows, most in (
            ("semantic_prompt", semantic, None, self.semantic.vocabulary),
            ("coarse_prompt", coarse, self.coarse.books, self.codes),
            ("fine_prompt", fine, self.fine.books, self.codes),
        ):
            shape = "[S]" if rows is None else f"[{rows}, T]"
            fits = array.ndim == 1 if rows is None else array.ndim == 2 and len(array) == rows
            if not fits or array.dtype.kind not in "iu":
                raise InputError(f"{name} is an array of integers {shape}; received {array.dtype} {list(array.shape)}.")
            if array.size and not (array.min() >= 0 and array.max() < most):
                raise InputError(f"{name} must be 0 to {most - 1}; received {array.min()} to {array.max()}.")
        return Voice(*(array.astype(np.int64) for array in (semantic, coarse, fine)))

    # -- the first codebooks -----------------------------------------------------------------------------------

    @property
    def ratio(self) -> float:
        """Codes of the first codebooks for each token of what is meant."""
        return self.coarse.rate / self.semantic.rate * self.coarse.books

    def lengths(self, meant: Array) -> Array:
        """How many codes each row of what is meant [B, S] becomes, [B]."""
        counts = (meant != self.semantic.end).sum(axis=1)
        # In float32, as upstream's tensors are.
        frames = np.floor((counts * np.float32(self.ratio)).astype(np.float32) / np.float32(self.coarse.books))
        lengths: Array = np.rint(frames * self.coarse.books).astype(np.int64)
        return lengths

    def before(self, voice: Voice | None, rows: int) -> tuple[Array, Array]:
        """What was meant before and the codes of it, [B, H] and [B, 2 * T], as long as they are seen and belong
        together."""
        if voice is None:
            return np.zeros((rows, 0), np.int64), np.zeros((rows, 0), np.int64)
        offsets = np.arange(self.coarse.books)[:, None] * self.codes + self.semantic.vocabulary
        codes, meant = (voice.coarse + offsets).T.reshape(-1), voice.semantic
        shown = min(self._shown, len(meant) - len(meant) % 2, math.floor(len(codes) / self.ratio))
        heard = round(shown * self.ratio)
        # Where nothing is to be shown upstream's slices show all there is; two codes less sound better aligned.
        meant, codes = meant[len(meant) - shown if shown else 0 :], codes[len(codes) - heard if heard else 0 :][:-2]
        return np.repeat(meant[None], rows, axis=0), np.repeat(codes[None], rows, axis=0)

    @property
    def _shown(self) -> int:
        return math.floor(self.coarse.history / self.ratio)

    def seen(self, meant: Array, start: int, said: int, codes: Array) -> Array:
        """What is seen when ``said`` codes have been said, [B, longest + 1 + as many codes as are seen]: of what is
        meant [B, S], which begins at ``start``, what belongs there; and of ``codes`` [B, T] the last."""
        coarse = self.coarse
        place = start + round(said / self.ratio)
        part = meant[:, max(0, place - self._shown) :][:, : coarse.longest]
        made = np.full((len(meant), coarse.longest + 1), coarse.pad, np.int64)
        made[:, : part.shape[1]], made[:, -1] = part, coarse.begin
        return np.concatenate((made, codes[:, -coarse.history :]), axis=1)

    def alternating(self, start: int) -> Callable[[Array, Array], Array]:
        """Bans codes of the codebook whose turn it is not, behind ``start`` tokens."""

        def process(ids: Array, scores: Array) -> Array:
            first = self.semantic.vocabulary
            second = first + self.codes
            begin, end = (second, scores.shape[1]) if (ids.shape[1] - start) % 2 else (first, second)
            turn = np.full_like(scores, -np.inf)
            turn[:, begin:end] = scores[:, begin:end]
            return turn

        return process

    # -- all codebooks -----------------------------------------------------------------------------------------

    def completed(
        self,
        codes: Array,
        voice: Voice | None,
        predict: Predict,
        *,
        temperature: float | None,
        draw: Callable[[tuple[int, ...]], Array],
    ) -> Array:
        """Codes of all codebooks [B, C, T], of tokens of those of the first ones [B, 2 * T].

        Args:
            draw: numbers of 0 to 1 of a shape, by which codes are drawn.
        """
        fine, rows = self.fine, len(codes)
        first = np.remainder(codes.reshape(rows, -1, self.coarse.books) - self.semantic.vocabulary, self.codes)
        frames = first.shape[1]
        before = np.zeros((0, fine.books), np.int64) if voice is None else voice.fine.T[-fine.history :]
        start = len(before)
        width = max(start + frames, fine.longest)
        whole = np.full((rows, width, fine.books), self.codes, np.int64)
        whole[:, :start], whole[:, start : start + frames, : self.coarse.books] = before, first
        windows = 1 + max(0, math.ceil((frames - (fine.longest - start)) / fine.history))
        for number in range(windows):
            begin = min(number * fine.history, width - fine.longest)
            fill = min(start + number * fine.history, width - fine.history) - begin
            window = whole[:, begin : begin + fine.longest]  # a view: what is predicted is seen by what follows
            for book in range(self.coarse.books, fine.books):
                logits = predict(window, book)[:, fill:, : self.codes]
                if temperature is None or temperature == 1:
                    window[:, fill:, book] = logits.argmax(axis=-1)
                else:
                    window[:, fill:, book] = _drawn(logits / np.float32(temperature), draw)
        return np.ascontiguousarray(whole[:, start : start + frames].transpose(0, 2, 1))


def _drawn(logits: Array, draw: Callable[[tuple[int, ...]], Array]) -> Array:
    """A code [B, S] of each place's probabilities, [B, S, V]."""
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True), dtype=np.float64)
    mass = weights.cumsum(axis=-1)
    below = mass < draw(logits.shape[:2])[..., None] * mass[..., -1:]
    chosen: Array = below.sum(axis=-1).clip(max=logits.shape[-1] - 1)
    return chosen


def _count(fields: Fields, key: str, default: int) -> int:
    found: int = fields.take(key, "an integer of at least 1", lambda value: is_count(value, least=1), default)
    return found


def _above(fields: Fields, key: str, default: float) -> float:
    return float(fields.take(key, "a number above 0", lambda value: is_number(value) and value > 0, default))
