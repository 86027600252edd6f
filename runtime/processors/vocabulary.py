"""The half of a tokenizer that knows tokens: the vocabulary, the special tokens, and ids back to text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, overload

import numpy as np
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from precast.runtime import arguments
from precast.runtime.errors import CheckpointError, InputError, closest
from precast.runtime.processors.tokenizer_settings import NAMED_TOKENS, UNLIMITED, Settings, side

__all__ = ["Vocabulary", "as_lists", "is_refusal", "serialised"]

_HOLES = 1 << 20  # ids without a token; real vocabularies have a few hundred


def is_refusal(error: BaseException) -> bool:
    """The library's errors, and the panics of its Rust code, which are no ``Exception``."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def serialised(backend: Backend) -> str:
    """The backend as tokenizer.json.

    :raises CheckpointError: an id lies so far beyond the others that the library, which counts up to it, would not
        come back."""
    vocab: dict[str, int] = backend.get_vocab(with_added_tokens=False)
    last = max(vocab, key=vocab.__getitem__, default=None)
    if last is not None and vocab[last] >= len(vocab) + _HOLES:
        raise CheckpointError(
            f"a vocabulary of {len(vocab)} tokens has ids up to {len(vocab) + _HOLES - 1} at most, and tokenizer.json "
            f"gives {last!r:.40} the id {vocab[last]}. No model has a row for it: correct the file, or fetch it again"
        )
    text: str = backend.to_str()
    return text


class _Named:
    """``tokenizer.mask_token``: the text of a special token, or None. Set to any token of the vocabulary."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, tokenizer: Vocabulary, owner: type) -> str | None:
        token = tokenizer._settings.named.get(self.name)
        return None if token is None else str(token)

    def __set__(self, tokenizer: Vocabulary, value: str | None) -> None:
        if value is None:
            tokenizer._settings.named.pop(self.name, None)
            return
        if not isinstance(value, str) or tokenizer._backend.token_to_id(value) is None:
            raise InputError(f"{self.name} must be a token of the vocabulary; got {value!r}")
        tokenizer._settings.named[self.name] = value


class _NamedId:
    """``tokenizer.mask_token_id``."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name.removesuffix("_id")

    def __get__(self, tokenizer: Vocabulary, owner: type) -> int | None:
        token = tokenizer._settings.named.get(self.name)
        return None if token is None else tokenizer._token_to_id(str(token))


class Vocabulary:
    """Tokens, their ids and their meaning. Names and results are those of transformers' tokenizers."""

    bos_token = _Named()
    eos_token = _Named()
    unk_token = _Named()
    sep_token = _Named()
    pad_token = _Named()
    cls_token = _Named()
    mask_token = _Named()
    bos_token_id = _NamedId()
    eos_token_id = _NamedId()
    unk_token_id = _NamedId()
    sep_token_id = _NamedId()
    pad_token_id = _NamedId()
    cls_token_id = _NamedId()
    mask_token_id = _NamedId()

    pad_token_type_id = 0
    is_fast = True

    def __init__(self, backend: Backend, settings: Settings) -> None:
        self._backend = backend
        self._settings = settings
        self.model_input_names = list(settings.model_input_names)
        self.model_max_length = settings.model_max_length
        self.clean_up_tokenization_spaces = settings.clean_up_tokenization_spaces
        self.chat_template = settings.chat_template

    @property
    def backend_tokenizer(self) -> Backend:
        """The library's tokenizer, to be read only."""
        return self._backend

    @property
    def vocab_size(self) -> int:
        """Size of the model's vocabulary, without added tokens; ``len()`` counts those too."""
        size: int = self._backend.get_vocab_size(with_added_tokens=False)
        return size

    @property
    def vocab(self) -> dict[str, int]:
        return self.get_vocab()

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        tokens: dict[int, AddedToken] = self._backend.get_added_tokens_decoder()
        return tokens

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        return {str(token): index for index, token in sorted(self.added_tokens_decoder.items())}

    @property
    def special_tokens_map(self) -> dict[str, str]:
        order = (*NAMED_TOKENS, *(name for name in self._settings.named if name not in NAMED_TOKENS))
        return {name: str(self._settings.named[name]) for name in order if name in self._settings.named}

    @property
    def extra_special_tokens(self) -> list[str]:
        return [str(token) for token in self._settings.extra]

    @property
    def all_special_tokens(self) -> list[str]:
        return list(dict.fromkeys((*self.special_tokens_map.values(), *self.extra_special_tokens)))

    @property
    def all_special_ids(self) -> list[int]:
        return [index for index in map(self._token_to_id, self.all_special_tokens) if index is not None]

    @property
    def padding_side(self) -> str:
        return self._settings.padding_side

    @padding_side.setter
    def padding_side(self, value: str) -> None:
        self._settings.padding_side = side("padding_side", value)

    @property
    def truncation_side(self) -> str:
        return self._settings.truncation_side

    @truncation_side.setter
    def truncation_side(self, value: str) -> None:
        self._settings.truncation_side = side("truncation_side", value)

    @property
    def max_len_single_sentence(self) -> int:
        return self.model_max_length - self.num_special_tokens_to_add(False)

    @property
    def max_len_sentences_pair(self) -> int:
        return self.model_max_length - self.num_special_tokens_to_add(True)

    def get_vocab(self) -> dict[str, int]:
        vocab: dict[str, int] = self._backend.get_vocab(with_added_tokens=True)
        return vocab

    def __len__(self) -> int:
        size: int = self._backend.get_vocab_size(with_added_tokens=True)
        return size

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        limit = "none" if self.model_max_length >= UNLIMITED else self.model_max_length
        return f"Tokenizer({len(self)} tokens, model_max_length={limit}, special={self.special_tokens_map})"

    def __getattr__(self, name: str) -> Any:
        """Special tokens of one checkpoint's own naming: ``image_token``, ``image_token_id``."""
        named = self.__dict__["_settings"].named if "_settings" in self.__dict__ else {}
        if name in named:
            return str(named[name])
        if name.removesuffix("_id") in named:
            return self._token_to_id(str(named[name.removesuffix("_id")]))
        raise AttributeError(f"this tokenizer has no {name!r}. {closest(name, dir(type(self)))}".rstrip())

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        count: int = self._backend.num_special_tokens_to_add(bool(pair))
        return count

    @overload
    def convert_tokens_to_ids(self, tokens: str) -> int | None: ...
    @overload
    def convert_tokens_to_ids(self, tokens: list[str] | tuple[str, ...]) -> list[int | None]: ...
    def convert_tokens_to_ids(self, tokens: str | list[str] | tuple[str, ...]) -> int | list[int | None] | None:
        """The id of each token; of one that is not in the vocabulary, ``unk_token_id``."""
        return self._token_to_id(tokens) if isinstance(tokens, str) else [self._token_to_id(token) for token in tokens]

    @overload
    def convert_ids_to_tokens(self, ids: int, skip_special_tokens: bool = ...) -> str | None: ...
    @overload
    def convert_ids_to_tokens(self, ids: Iterable[int], skip_special_tokens: bool = ...) -> list[str | None]: ...
    def convert_ids_to_tokens(
        self, ids: int | Iterable[int], skip_special_tokens: bool = False
    ) -> str | list[str | None] | None:
        """The token of each id; None where the vocabulary has no such id.

        :raises InputError: a negative id."""
        if isinstance(ids, (int, np.integer)):
            return self._id_to_token(int(ids))
        skip = set(self.all_special_ids) if skip_special_tokens else set()
        return [self._id_to_token(index) for index in map(int, ids) if index not in skip]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        text: str = " ".join(tokens) if self._backend.decoder is None else self._backend.decoder.decode(tokens)
        return text

    def get_special_tokens_mask(self, token_ids: Iterable[int]) -> list[int]:
        """1 for each id of a special token."""
        special = set(self.all_special_ids)
        return [int(int(index) in special) for index in token_ids]

    def _token_to_id(self, token: str) -> int | None:
        index: int | None = self._backend.token_to_id(token)
        if index is None and (unknown := self._settings.named.get("unk_token")) is not None:
            index = self._backend.token_to_id(str(unknown))
        return index

    def _id_to_token(self, index: int) -> str | None:
        try:
            token: str | None = self._backend.id_to_token(index)
        except OverflowError as error:
            raise InputError(f"a token id lies in 0..{len(self) - 1}; got {index}") from error
        return token

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> Any:
        """The text of a row of ids; of a list of rows, a list of texts. Ids past the vocabulary are left out.

        :raises InputError: not ids, or a negative one."""
        if isinstance(token_ids, Mapping):
            if "input_ids" not in token_ids:
                raise InputError(f"decode takes token ids, or what holds input_ids; got {token_ids!r:.80}")
            token_ids = token_ids["input_ids"]
        token_ids = as_lists(token_ids)
        if isinstance(token_ids, (list, tuple)) and token_ids and isinstance(token_ids[0], (list, tuple, np.ndarray)):
            return [self.decode(row, skip_special_tokens, clean_up_tokenization_spaces) for row in token_ids]
        row = [token_ids] if isinstance(token_ids, int) else token_ids
        try:
            text: str = self._backend.decode(row, skip_special_tokens=skip_special_tokens)
        except BaseException as error:
            if not is_refusal(error):
                raise
            raise InputError(f"decode takes token ids in 0..{len(self) - 1}; got {row!r:.80}: {error}") from error
        clean = self.clean_up_tokenization_spaces
        asked = clean_up_tokenization_spaces
        wanted = clean if asked is None else arguments.flag("clean_up_tokenization_spaces", asked)
        # Meant for WordPiece; on BPE it would remove spaces that belong to the text.
        sensible = self._settings.clean_up_for_bpe or type(self._backend.model).__name__ != "BPE"
        return _clean_up(text) if wanted and sensible else text

    def batch_decode(self, sequences: Any, skip_special_tokens: bool = False, **options: Any) -> list[str]:
        """As ``decode``; always a list."""
        texts = self.decode(sequences, skip_special_tokens, **options)
        return [texts] if isinstance(texts, str) else texts


def as_lists(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.ndarray, np.integer)) else value


def _clean_up(text: str) -> str:
    for spaced in (" .", " ?", " !", " ,"):
        text = text.replace(spaced, spaced[1:])
    text = text.replace(" ' ", "'")
    for spaced in (" n't", " 'm", " 's", " 've", " 're"):
        text = text.replace(spaced, spaced[1:])
    return text
