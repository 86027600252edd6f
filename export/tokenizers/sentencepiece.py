"""What a sentencepiece ``.model`` file states, and as which parts of the tokenizers library that can be had.

Facts: sentencepiece's sentencepiece_model.proto, unigram_model.cc, bpe_model.cc and normalizer.cc."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from precast.runtime.errors import CheckpointError, DependencyError
from precast.runtime.processors.vocabulary import is_refusal

__all__ = ["SPACE", "SentencePiece", "read_sentencepiece"]

SPACE = "▁"  # sentencepiece's own sign for it
_UNIGRAM, _BPE, _CHARACTERS = 1, 2, 4
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5
_MOST_CUTTING = 1 << 29  # characters looked at to cut every piece everywhere; Gemma's 256,000 pieces take 2^24


@dataclass(frozen=True, kw_only=True)
class SentencePiece:
    """A model: ``pieces`` with scores and ``kinds``, both by sentencepiece's own ids."""

    name: str
    pieces: list[tuple[str, float]]
    kinds: list[int]
    unigram: bool
    unk_id: int
    byte_fallback: bool
    charsmap: bytes | None
    dummy_prefix: bool
    """Whether a text gets a space before it."""
    collapses: bool
    """Whether spaces at the ends are dropped, and of several in a row all but one."""

    def of_kind(self, *kinds: int) -> list[str]:
        """The pieces of these kinds, in order of id."""
        return [piece for (piece, _), kind in zip(self.pieces, self.kinds, strict=True) if kind in kinds]

    @property
    def control(self) -> list[str]:
        """Pieces that no text leads to."""
        return self.of_kind(_CONTROL)

    @property
    def user_defined(self) -> list[str]:
        """Pieces that are found in a text before anything else."""
        return self.of_kind(_USER_DEFINED)

    def scored(self) -> list[tuple[str, float]]:
        """The pieces with the scores a unigram search has to use: those a user defined win against every other way to
        cut the same bytes (unigram_model.cc), and those without a score of their own do not count for the lowest."""
        normal = [score for (_, score), kind in zip(self.pieces, self.kinds, strict=True) if kind == _NORMAL]
        low, high = min(normal, default=0.0), max(normal, default=0.0)
        scores = {_NORMAL: None, _UNUSED: None}
        made = []
        for (piece, score), kind in zip(self.pieces, self.kinds, strict=True):
            if kind == _USER_DEFINED:
                score = float(f"{max(len(piece.encode()) * high - 0.1, low):.9g}")
            elif kind not in scores:
                score = 0.0
            made.append((piece, score))
        return made

    def merges(self, ids: Collection[str]) -> list[tuple[str, str]]:
        """Merges that join as sentencepiece's BPE does, which knows none: of all neighbours whose union is a piece the
        best-scored are joined first. That is every cut of every piece, in order of score."""
        if sum(len(piece) ** 2 for piece, _ in self.pieces) > _MOST_CUTTING:
            raise CheckpointError(f"{self.name} holds pieces too long for pieces of words; fetch the file again")
        ranked = sorted(
            (
                (score, piece)
                for (piece, score), kind in zip(self.pieces, self.kinds, strict=True)
                if kind in (_NORMAL, _UNUSED) and piece in ids
            ),
            key=lambda entry: -entry[0],
        )
        known = {piece for _, piece in ranked}
        return [
            (piece[:cut], piece[cut:])
            for _, piece in ranked
            for cut in range(len(piece) - 1, 0, -1)
            if piece[:cut] in known and piece[cut:] in known
        ]

    def normalizers(self) -> list[Any]:
        """The charsmap, then what becomes of several spaces."""
        steps: list[Any] = [] if self.charsmap is None else [normalizers.Precompiled(self.charsmap)]
        if self.collapses:
            steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(r" {2,}"), " ")]
        return steps

    def backend(
        self, entries: Sequence[tuple[str, float]], unknown: str, marks: Sequence[Any] = (), unmarks: Sequence[Any] = ()
    ) -> Backend:
        """A tokenizer whose ids are the places in ``entries``.

        :param unknown: the entry that stands for what no piece covers.
        :param marks: normalisation after the model's own.
        :param unmarks: decoders ahead of the one that restores spaces."""
        ids = {piece: index for index, (piece, _) in enumerate(entries)}
        if unknown not in ids:
            raise CheckpointError(f"the vocabulary of this tokenizer lacks its unk_token {unknown!r}; {self.name}")
        backend = Backend(self.model(entries, ids, unknown))
        steps = [*self.normalizers(), *marks]
        if steps:
            backend.normalizer = normalizers.Sequence(steps)
        scheme = "always" if self.dummy_prefix else "never"
        whole = any(SPACE in piece[1:] for piece, _ in self.pieces)
        backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme, split=not whole)
        spaces = decoders.Metaspace(replacement=SPACE, prepend_scheme=scheme)
        first = [decoders.ByteFallback()] if self.byte_fallback else []
        backend.decoder = decoders.Sequence([*first, *unmarks, spaces]) if first or unmarks else spaces
        if not self.unigram:
            self.add_user_defined(backend, ids)
        return backend

    def model(self, entries: Sequence[tuple[str, float]], ids: Mapping[str, int], unknown: str) -> Any:
        """The model alone."""
        try:
            if self.unigram:
                return models.Unigram(list(entries), unk_id=ids[unknown], byte_fallback=self.byte_fallback)
            return models.BPE(
                vocab=dict(ids),
                merges=self.merges(ids),
                unk_token=unknown,
                fuse_unk=True,
                byte_fallback=self.byte_fallback,
            )
        except BaseException as error:
            if not is_refusal(error):
                raise
            raise CheckpointError(f"the pieces of {self.name} cannot be used: {error}; fetch the file again") from error

    def add_user_defined(self, backend: Backend, ids: Collection[str]) -> None:
        """For BPE, which has no scores: runs of spaces are found after normalisation, where spaces have their sign."""
        backend.add_tokens(
            [AddedToken(piece, normalized=SPACE in piece, special=False) for piece in self.user_defined if piece in ids]
        )


def read_sentencepiece(path: Path) -> SentencePiece:
    """:raises CheckpointError: not such a file, or of a model type that is none of unigrams, BPE and characters.
    :raises DependencyError: the package that knows the format is not installed."""
    try:
        from sentencepiece import sentencepiece_model_pb2
    except ImportError as error:
        raise DependencyError(
            f'reading {path.name} needs sentencepiece and protobuf: pip install "precast[export]" ({error})'
        ) from error
    content = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]  # made at import
    try:
        content.ParseFromString(path.read_bytes())
    except Exception as error:  # DecodeError; its class lives in a package that is optional here
        raise CheckpointError(f"{path.name} is not a sentencepiece model, or is cut short: {error}") from error
    # One of characters cuts texts as a unigram model of nothing longer does.
    alone = content.trainer_spec.model_type == _CHARACTERS and all(
        len(piece.piece) == 1 for piece in content.pieces if piece.type in (_NORMAL, _USER_DEFINED)
    )
    if not (alone or content.trainer_spec.model_type in (_UNIGRAM, _BPE)) or not content.pieces:
        raise CheckpointError(
            f"{path.name} must be a model of unigrams, BPE or characters with pieces; its model_type is "
            f"{content.trainer_spec.model_type}, and it has {len(content.pieces)} pieces. A tokenizer.json can hold "
            "other ones"
        )
    return SentencePiece(
        name=path.name,
        # Scores are 32 bits wide: nine digits tell them apart, and more would not survive the library's JSON.
        pieces=[(piece.piece, float(f"{piece.score:.9g}")) for piece in content.pieces],
        kinds=[piece.type for piece in content.pieces],
        unigram=alone or content.trainer_spec.model_type == _UNIGRAM,
        unk_id=next((i for i, piece in enumerate(content.pieces) if piece.type == 2), content.trainer_spec.unk_id),
        byte_fallback=content.trainer_spec.byte_fallback,
        charsmap=content.normalizer_spec.precompiled_charsmap or None,
        dummy_prefix=content.normalizer_spec.add_dummy_prefix,
        collapses=content.normalizer_spec.remove_extra_whitespaces,
    )
