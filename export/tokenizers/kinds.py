"""How each tokenizer class of transformers 5.23 builds itself from a vocabulary: an entry a class, a function a part.

A new kind is a ``Kind`` in ``KINDS`` and, where its parts are new, a ``construct`` and a ``finish``."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from precast.export.tokenizers.sentencepiece import SentencePiece
from precast.runtime.errors import CheckpointError, DependencyError, listing
from precast.runtime.processors.tokenizer_settings import NAMED_TOKENS, Settings

__all__ = ["KINDS", "Arguments", "Kind", "Vocabulary", "byte_level", "existing", "library", "number_of", "read_bpe"]

Arguments = Mapping[str, Any]
_SPM_UNIGRAM, _SPM_CONTROL, _SPM_USER_DEFINED = 1, 3, 4  # sentencepiece_model.proto


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """What a tokenizer learned. ``entries``: ids by token, or for Unigram ``(piece, score)`` in order of id."""

    entries: Any
    merges: list[tuple[str, ...]] = field(default_factory=list)
    charsmap: bytes | None = None  # a sentencepiece model's own normalisation
    unk_id: int | None = None
    control: list[AddedToken] | None = None  # a sentencepiece model's control and user-defined pieces
    source: SentencePiece | None = None

    @classmethod
    def from_json(cls, content: Mapping[str, Any], kind: Kind) -> Vocabulary:
        """Out of tokenizer.json, which the library has read already."""
        model = content["model"]
        entries = model["vocab"]
        if kind.model == "Unigram":
            entries = [(piece, score) for piece, score in entries]
        elif isinstance(entries, list):
            entries = {entry[0] if isinstance(entry, list) else entry: i for i, entry in enumerate(entries)}
        merges = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in model.get("merges", ())]
        normalizer = content.get("normalizer") or {}
        steps = normalizer.get("normalizers", ()) if normalizer.get("type") == "Sequence" else (normalizer,)
        charsmap = next((step["precompiled_charsmap"] for step in steps if step.get("type") == "Precompiled"), None)
        return cls(entries=entries, merges=merges, charsmap=base64.b64decode(charsmap) if charsmap else None)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One tokenizer class. ``arguments`` are its constructor's defaults, overridden by what a checkpoint states.

    ``keep``: a tokenizer.json is taken as it is, as transformers 4 did, instead of built anew; ``refinish``: but for
    the tokens around a text, which follow from settings. ``bare``: there is no vocabulary file."""

    model: str
    read: Callable[[Path, Arguments], Vocabulary]
    construct: Callable[[Vocabulary, Arguments], Backend]
    finish: Callable[[Backend, Settings, Arguments], None]
    arguments: Arguments
    prepare: Callable[[dict[str, Any]], None] | None = None
    input_names: tuple[str, ...] = ("input_ids", "attention_mask")
    keep: bool = False
    refinish: bool = False
    bare: bool = False

    def defaults(self, stated: Arguments) -> dict[str, Any]:
        """All constructor arguments."""
        arguments = {**self.arguments, **stated}
        arguments.setdefault("model_input_names", list(self.input_names))
        if self.prepare is not None:
            self.prepare(arguments)
        return arguments


_MOST = 1 << 16  # tokens that a tokenizer class makes up by a number


def number_of(stated: Arguments, name: str, default: int) -> int:
    """How many tokens a tokenizer class makes up, as its config states.

    :raises CheckpointError: it is no number, or more than any tokenizer has."""
    value = stated.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST:
        raise CheckpointError(f"{name} is a whole number of 0 to {_MOST}; tokenizer_config.json has {value!r:.40}")
    return value


# -- vocabulary files ------------------------------------------------------------------------------------------------


def existing(folder: Path, *names: str) -> list[str]:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"this tokenizer is made of {listing(names)}, or of a tokenizer.json; {folder} lacks {listing(missing)}"
        )
    return [str(folder / name) for name in names]


def _read_wordpiece(folder: Path, stated: Arguments) -> Vocabulary:
    (vocab,) = existing(folder, "vocab.txt")
    return Vocabulary(entries=library(models.WordPiece.read_file, vocab))


def read_bpe(folder: Path, stated: Arguments) -> Vocabulary:
    files = existing(folder, "vocab.json", "merges.txt")
    entries, merges = library(models.BPE.read_file, *files)
    return Vocabulary(entries=entries, merges=merges)


def _read_sentencepiece(
    name: str, arrange: Callable[[list[tuple[str, float]], Arguments], list[tuple[str, float]]] | None = None
) -> Callable[[Path, Arguments], Vocabulary]:
    """:param arrange: puts the pieces where the checkpoint's embedding has them."""

    def read(folder: Path, stated: Arguments) -> Vocabulary:
        (path,) = existing(folder, name)
        try:
            from sentencepiece import sentencepiece_model_pb2
        except ImportError as error:
            raise DependencyError(
                f'reading {name} needs sentencepiece and protobuf: pip install "precast[export]" ({error})'
            ) from error
        model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]  # made at import
        try:
            model.ParseFromString(Path(path).read_bytes())
        except Exception as error:  # DecodeError; its class lives in a package that is optional here
            raise CheckpointError(f"{name} is not a sentencepiece model, or is cut short: {error}") from error
        if model.trainer_spec.model_type != _SPM_UNIGRAM:
            raise CheckpointError(
                f"{name} must be a unigram model, as this tokenizer class expects; its model_type is "
                f"{model.trainer_spec.model_type}. A tokenizer.json can hold the other ones"
            )
        pieces = [(piece.piece, piece.score) for piece in model.pieces]
        return Vocabulary(
            entries=arrange(pieces, stated) if arrange else pieces,
            charsmap=model.normalizer_spec.precompiled_charsmap or None,
            unk_id=model.trainer_spec.unk_id,
            control=[
                AddedToken(piece.piece, normalized=False, special=piece.type == _SPM_CONTROL)
                for piece in model.pieces
                if piece.type in (_SPM_CONTROL, _SPM_USER_DEFINED)
            ],
        )

    return read


def _arrange_xlm_roberta(pieces: list[tuple[str, float]], stated: Arguments) -> list[tuple[str, float]]:
    """fairseq's order: its own four tokens first, then the pieces after sentencepiece's three, the mask last."""
    first = [(str(stated.get(f"{name}_token", f"<{text}>")), 0.0) for name, text in _FAIRSEQ]
    return [*first, *pieces[3:], (str(stated.get("mask_token", "<mask>")), 0.0)]


def _arrange_camembert(pieces: list[tuple[str, float]], stated: Arguments) -> list[tuple[str, float]]:
    """As fairseq's dictionary, in which the places of bos, eos and a second unk are taken but not used."""
    pad, unk, mask = (str(stated.get(f"{name}_token", f"<{name}>")) for name in ("pad", "unk", "mask"))
    first = [("<s>NOTUSED", 0.0), (pad, 0.0), ("</s>NOTUSED", 0.0), (unk, 0.0), ("<unk>NOTUSED", -100.0)]
    return [*first, *pieces[1:], (mask, 0.0)]


_FAIRSEQ = (("bos", "s"), ("pad", "pad"), ("eos", "/s"), ("unk", "unk"))


def library(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    try:
        return call(*arguments, **options)
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise CheckpointError(f"the vocabulary of this tokenizer cannot be used: {error}") from error


# -- tokenizers ------------------------------------------------------------------------------------------------------


def _wordpiece(vocabulary: Vocabulary, arguments: Arguments) -> Backend:
    backend = Backend(library(models.WordPiece, vocabulary.entries, unk_token=str(arguments["unk_token"])))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=bool(arguments["tokenize_chinese_chars"]),
        strip_accents=arguments["strip_accents"],
        lowercase=bool(arguments["do_lower_case"]),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    return backend


def byte_level(vocabulary: Vocabulary, arguments: Arguments) -> Backend:
    model = library(
        models.BPE,
        vocab=vocabulary.entries,
        merges=vocabulary.merges,
        continuing_subword_prefix="",
        end_of_word_suffix="",
        fuse_unk=False,
    )
    backend = Backend(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(arguments["add_prefix_space"]))
    backend.decoder = decoders.ByteLevel()
    return backend


def _herbert(vocabulary: Vocabulary, arguments: Arguments) -> Backend:
    model = library(
        models.BPE,
        vocab=vocabulary.entries,
        merges=vocabulary.merges,
        unk_token=str(arguments["unk_token"]),
        end_of_word_suffix="</w>",
    )
    backend = Backend(model)
    backend.normalizer = normalizers.BertNormalizer(
        lowercase=False, strip_accents=False, clean_text=True, handle_chinese_chars=True
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.BPEDecoder(suffix="</w>")
    return backend


def _unigram(entries: Any, unk_id: int) -> Backend:
    return Backend(library(models.Unigram, entries, unk_id=unk_id, byte_fallback=False))


def _metaspace(backend: Backend, before: list[Any], scheme: str) -> None:
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [*before, pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme)]
    )
    backend.decoder = decoders.Metaspace(replacement="▁", prepend_scheme=scheme)


def _fairseq_unigram(vocabulary: Vocabulary, arguments: Arguments, unk_id: int | None = None) -> Backend:
    if unk_id is None:
        unknown = str(arguments["unk_token"])
        unk_id = next((i for i, (piece, _) in enumerate(vocabulary.entries) if piece == unknown), 0)
    backend = _unigram(vocabulary.entries, unk_id)
    if vocabulary.charsmap is not None:
        backend.normalizer = normalizers.Precompiled(vocabulary.charsmap)
    _metaspace(backend, [pre_tokenizers.WhitespaceSplit()], "always" if arguments["add_prefix_space"] else "never")
    return backend


def _albert(vocabulary: Vocabulary, arguments: Arguments) -> Backend:
    backend = _unigram(vocabulary.entries, 1)
    steps: list[Any] = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    if not arguments["keep_accents"]:
        steps += [normalizers.NFKD(), normalizers.StripAccents()]
    if arguments["do_lower_case"]:
        steps.append(normalizers.Lowercase())
    if vocabulary.charsmap is not None:
        steps.append(normalizers.Precompiled(vocabulary.charsmap))
    backend.normalizer = normalizers.Sequence(steps)
    _metaspace(backend, [pre_tokenizers.WhitespaceSplit()], "always" if arguments["add_prefix_space"] else "never")
    first, last = (backend.token_to_id(str(arguments[name])) for name in ("cls_token", "sep_token"))
    if first is None or last is None:
        raise CheckpointError(
            f"the vocabulary must hold {arguments['cls_token']} and {arguments['sep_token']}; spiece.model lacks one"
        )
    # Upstream writes these two names whatever the tokens are called; only the ids count.
    _bert_template(backend, "[CLS]", first, "[SEP]", last)
    return backend


def _deberta_v2(vocabulary: Vocabulary, arguments: Arguments) -> Backend:
    unknown = (str(arguments["unk_token"]), 0.0)
    fallback = vocabulary.unk_id if vocabulary.unk_id is not None else int(arguments["unk_id"])
    backend = _unigram(
        vocabulary.entries, vocabulary.entries.index(unknown) if unknown in vocabulary.entries else fallback
    )
    steps: list[Any] = [normalizers.Lowercase()] if arguments["do_lower_case"] else []
    backend.normalizer = normalizers.Sequence(
        [
            *steps,
            normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " "),
            normalizers.NFC(),
            normalizers.Strip(left=False, right=True),
        ]
    )
    before = [pre_tokenizers.Punctuation(behavior="isolated")] if arguments["split_by_punct"] else []
    _metaspace(backend, before, "always" if arguments["add_prefix_space"] else "first")
    return backend


# -- special tokens around the text ----------------------------------------------------------------------------------


def _with_id(backend: Backend, settings: Settings, name: str) -> tuple[str, int]:
    token = settings.named.get(name)
    if token is None or (index := backend.token_to_id(str(token))) is None:
        raise CheckpointError(f"this tokenizer puts its {name} around every text, and the checkpoint states none")
    return str(token), index


def _bert_template(backend: Backend, first: str, first_id: int, last: str, last_id: int) -> None:
    backend.post_processor = processors.TemplateProcessing(
        single=f"{first}:0 $A:0 {last}:0",
        pair=f"{first}:0 $A:0 {last}:0 $B:1 {last}:1",
        special_tokens=[(first, first_id), (last, last_id)],
    )


def _finish_bert(backend: Backend, settings: Settings, arguments: Arguments) -> None:
    _bert_template(backend, *_with_id(backend, settings, "cls_token"), *_with_id(backend, settings, "sep_token"))


def _finish_roberta(backend: Backend, settings: Settings, arguments: Arguments) -> None:
    backend.post_processor = processors.RobertaProcessing(
        _with_id(backend, settings, "sep_token"),
        _with_id(backend, settings, "cls_token"),
        bool(arguments["trim_offsets"]),
        bool(arguments["add_prefix_space"]),
    )


def _finish_mpnet(backend: Backend, settings: Settings, arguments: Arguments) -> None:
    backend.post_processor = processors.RobertaProcessing(
        _with_id(backend, settings, "sep_token"), _with_id(backend, settings, "cls_token"), True, False
    )


def _finish_herbert(backend: Backend, settings: Settings, arguments: Arguments) -> None:
    (last, _), (first, _) = (_with_id(backend, settings, name) for name in ("sep_token", "cls_token"))
    backend.post_processor = processors.BertProcessing((last, 2), (first, 0))  # upstream fixes these ids


def _finish_fairseq(backend: Backend, settings: Settings, arguments: Arguments) -> None:
    first, last = (_with_id(backend, settings, name) for name in ("bos_token", "eos_token"))
    backend.post_processor = processors.TemplateProcessing(
        single=[first[0], "$A", last[0]],
        pair=[first[0], "$A", last[0], last[0], "$B", last[0]],
        special_tokens=list(dict.fromkeys([first, last])),
    )


def _finish_nothing(backend: Backend, settings: Settings, arguments: Arguments) -> None:
    """Albert's template is in place before tokens are added, so that the one of a tokenizer.json wins."""


# -- what a class does to its arguments ------------------------------------------------------------------------------


def _prepare_mpnet(arguments: dict[str, Any]) -> None:
    for name in NAMED_TOKENS:
        if isinstance(arguments[name], str):
            arguments[name] = AddedToken(arguments[name], lstrip=name == "mask_token", rstrip=False)


def _prepare_camembert(arguments: dict[str, Any]) -> None:
    if isinstance(arguments["mask_token"], str):
        arguments["mask_token"] = AddedToken(arguments["mask_token"], lstrip=True, special=True)
    if arguments.get("additional_special_tokens") is None:
        arguments["additional_special_tokens"] = ["<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"]


_BRACKETS = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
_ANGLES = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "mask_token": "<mask>",
}
_BERT = {"do_lower_case": True, "tokenize_chinese_chars": True, "strip_accents": None}

_BERT_KIND = Kind(
    model="WordPiece",
    read=_read_wordpiece,
    construct=_wordpiece,
    finish=_finish_bert,
    arguments=_BRACKETS | _BERT,
    input_names=("input_ids", "token_type_ids", "attention_mask"),
)

KINDS: dict[str, Kind] = {
    "BertTokenizer": _BERT_KIND,
    "ElectraTokenizer": _BERT_KIND,
    "DistilBertTokenizer": Kind(
        model="WordPiece",
        read=_read_wordpiece,
        construct=_wordpiece,
        finish=_finish_bert,
        arguments=_BRACKETS | _BERT,
    ),
    "MPNetTokenizer": Kind(
        model="WordPiece",
        read=_read_wordpiece,
        construct=_wordpiece,
        finish=_finish_mpnet,
        arguments=_ANGLES | _BERT | {"unk_token": "[UNK]"},
        prepare=_prepare_mpnet,
    ),
    "RobertaTokenizer": Kind(
        model="BPE",
        read=read_bpe,
        construct=byte_level,
        finish=_finish_roberta,
        arguments=_ANGLES | {"add_prefix_space": False, "trim_offsets": True},
    ),
    "HerbertTokenizer": Kind(
        model="BPE",
        read=read_bpe,
        construct=_herbert,
        finish=_finish_herbert,
        arguments={name: token for name, token in _ANGLES.items() if name not in ("bos_token", "eos_token")},
    ),
    "XLMRobertaTokenizer": Kind(
        model="Unigram",
        read=_read_sentencepiece("sentencepiece.bpe.model", _arrange_xlm_roberta),
        construct=partial(_fairseq_unigram, unk_id=3),
        finish=_finish_fairseq,
        arguments=_ANGLES | {"add_prefix_space": True},
    ),
    "CamembertTokenizer": Kind(
        model="Unigram",
        read=_read_sentencepiece("sentencepiece.bpe.model", _arrange_camembert),
        construct=_fairseq_unigram,
        finish=_finish_fairseq,
        arguments=_ANGLES | {"add_prefix_space": True},
        prepare=_prepare_camembert,
    ),
    "AlbertTokenizer": Kind(
        model="Unigram",
        read=_read_sentencepiece("spiece.model"),
        construct=_albert,
        finish=_finish_nothing,
        arguments=_BRACKETS
        | {"bos_token": "[CLS]", "eos_token": "[SEP]", "unk_token": "<unk>", "pad_token": "<pad>"}
        | {"do_lower_case": True, "keep_accents": False, "add_prefix_space": True},
    ),
    "DebertaV2Tokenizer": Kind(
        model="Unigram",
        read=_read_sentencepiece("spm.model"),
        construct=_deberta_v2,
        finish=_finish_bert,
        arguments=_BRACKETS
        | {"bos_token": "[CLS]", "eos_token": "[SEP]", "unk_id": 1}
        | {"do_lower_case": False, "split_by_punct": False, "add_prefix_space": True},
        input_names=("input_ids", "attention_mask", "token_type_ids"),
    ),
}
