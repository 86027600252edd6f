"""Text to ids and back: tokenizer.json through the tokenizers library, called as transformers' tokenizers are.

The library keeps truncation and padding inside the tokenizer object, so two threads that want different ones disturb
each other. Here every truncation has a backend of its own, made once and never changed, that shares vocabulary and
model with the first; padding is done on the result."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import AddedToken, Encoding, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from precast.runtime import arguments
from precast.runtime.errors import CheckpointError, InputError
from precast.runtime.processors import TOKENIZER_FILES
from precast.runtime.processors.encoding import BatchEncoding
from precast.runtime.processors.languages import Languages, find_languages
from precast.runtime.processors.text_arguments import (
    choice,
    count,
    explain,
    extended,
    padded_length,
    refuse_ragged,
    rows_of,
)
from precast.runtime.processors.tokenizer_settings import (
    FORMAT_KEY,
    Settings,
    add_special_tokens,
    declared,
    end_with_bos_eos,
    merge,
    read_chat_templates,
    read_json,
    side,
)
from precast.runtime.processors.vocabulary import Vocabulary, as_lists, is_refusal, serialised

if TYPE_CHECKING:
    from precast.runtime.processors.page_words import SpecialBoxes

__all__ = ["PageTokenizer", "Tokenizer", "parse_backend"]

_TRUNCATIONS = ("longest_first", "only_first", "only_second")
_PADDINGS = ("longest", "max_length")
_VARIANTS = 32  # backends kept, one a truncation setting; each costs its added tokens, the vocabulary is shared
_LARGE = int(1e20)  # upstream: a model_max_length above this means "none stated"


def parse_backend(data: bytes, name: str = "tokenizer.json") -> Backend:
    """A backend from the bytes of tokenizer.json.

    :raises CheckpointError: the library cannot read them."""
    try:
        return Backend.from_buffer(data)
    except BaseException as error:
        if not is_refusal(error):
            raise
        raise CheckpointError(
            f"{name} must be a complete file of the tokenizers library; it cannot be read: {error!s:.300}. "
            "Fetch it again, or upgrade tokenizers if a newer version wrote it"
        ) from error


class Tokenizer(Vocabulary):
    """A tokenizer with the call, the results and the defaults of transformers 5's fast ones.

    Safe to call from many threads. Nothing is printed and nothing is warned of: a text longer than
    ``model_max_length`` is encoded in full unless ``truncation`` says otherwise, and the model refuses it."""

    def __init__(self, backend: Backend, settings: Settings) -> None:
        """:param backend: must not be changed from outside any more."""
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = settings.split_special_tokens
        super().__init__(backend, settings)
        self._variants: dict[tuple[Any, ...], Backend] = {}
        self._lock = threading.Lock()
        self._plain_types: bool | None = None
        self._sources: dict[str, Tokenizer] = {}

    @cached_property
    def languages(self) -> Languages | None:
        """The languages a multilingual tokenizer marks texts with; None where it marks none."""
        return find_languages(self._backend, set(self.special_tokens_map.values()))

    def for_source(self, language: str) -> Tokenizer:
        """This tokenizer for texts in ``language``, a code of `languages`.

        :raises InputError: it marks no languages, or does not know this one."""
        if self.languages is None:
            raise InputError("this tokenizer marks no languages: texts need none named.")
        token = self.languages.token(language)
        if token not in self._sources:
            backend = _sharing(self._backend)
            backend.post_processor = self.languages.post_processor(language)
            made = Tokenizer(backend, self._settings)
            made.__dict__ |= {name: getattr(self, name) for name in ("model_input_names", "model_max_length")}
            self._sources[token] = made
        return self._sources[token]

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids of the tokens that are no text."""
        return frozenset(number for number, token in self._backend.get_added_tokens_decoder().items() if token.special)

    @property
    def src_lang(self) -> str | None:
        """The language texts are taken to be in, by its code; set it before a call, as upstream. For calls from several
        threads use `for_source`."""
        return None if self.languages is None else self.languages.source

    @src_lang.setter
    def src_lang(self, language: str) -> None:
        backend = self.for_source(language)._backend
        with self._lock:
            self._backend = backend
            self._variants.clear()
        self.__dict__.pop("languages", None)

    @classmethod
    def from_folder(cls, path: str | Path) -> Tokenizer:
        """From an artifact, or from any folder with a tokenizer.json.

        An artifact's files are taken as they are. Those of a checkpoint are merged as upstream's
        ``PreTrainedTokenizerFast`` does, plus the keys with which BERT-like and byte-level tokenizers adjust
        tokenizer.json; what is particular to a tokenizer class is settled at export.

        :raises CheckpointError: no tokenizer.json, or a file is malformed.
        :raises FormatVersionError: a newer precast wrote the artifact."""
        folder = Path(path)
        files = {name: (folder / name).read_bytes() for name in TOKENIZER_FILES if (folder / name).is_file()}
        if "tokenizer.json" not in files:
            raise CheckpointError(
                f"{folder} holds no tokenizer.json; export the checkpoint first, which makes one, or point to the "
                "folder that has it"
            )
        config = read_json(files.get("tokenizer_config.json"), "tokenizer_config.json")
        if FORMAT_KEY not in config and (templates := read_chat_templates(folder)) is not None:
            files["tokenizer_config.json"] = json.dumps({**config, "chat_template": templates}).encode()
        return cls.from_files(files)

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Tokenizer:
        """As ``from_folder``, from file contents by name."""
        backend = parse_backend(files["tokenizer.json"])
        config = read_json(files.get("tokenizer_config.json"), "tokenizer_config.json")
        if FORMAT_KEY in config:
            return _made(cls, backend, Settings.from_normalised(config))
        kwargs, by_id = merge(
            config,
            read_json(files.get("special_tokens_map.json"), "special_tokens_map.json"),
            read_json(files.get("added_tokens.json"), "added_tokens.json"),
            backend.get_added_tokens_decoder(),
        )
        if declared(config.get("tokenizer_class")) is not None:
            _adjust(backend, kwargs)
        return cls.assemble(backend, kwargs, by_id)

    @classmethod
    def assemble(
        cls,
        backend: Backend,
        kwargs: Mapping[str, Any],
        by_id: Mapping[int, AddedToken],
        finish: Callable[[Backend, Settings], None] | None = None,
    ) -> Tokenizer:
        """Upstream's constructor: settings, then the tokens the backend lacks, then the post-processor.

        :param finish: sets the post-processor that belongs to a tokenizer class, once all tokens have ids."""
        kwargs = dict(kwargs)
        if backend.truncation is not None:
            kwargs.setdefault("truncation_side", backend.truncation["direction"])
        if backend.padding is not None:
            kwargs.setdefault("pad_token", backend.padding["pad_token"])
            kwargs.setdefault("padding_side", backend.padding["direction"])
        settings = Settings.from_kwargs(kwargs)
        add_special_tokens(backend, settings, by_id)
        if backend.post_processor is None or "add_bos_token" in kwargs or "add_eos_token" in kwargs:
            bos, eos = bool(kwargs.get("add_bos_token")), bool(kwargs.get("add_eos_token"))
            end_with_bos_eos(backend, settings, bos=bos, eos=eos)
        if finish is not None:
            finish(backend, settings)
        if "model_input_names" not in kwargs and _tells_pairs_apart(backend):
            settings.model_input_names = ("input_ids", "token_type_ids", "attention_mask")
        return _made(cls, backend, settings)

    def files(self) -> dict[str, bytes]:
        """tokenizer.json and tokenizer_config.json of an artifact: the same bytes for the same tokenizer."""
        content = json.loads(serialised(self._backend))
        # The library writes the tables of a post-processor in hash order.
        if content.get("post_processor") is not None:
            content["post_processor"] = _sorted(content["post_processor"])
        settings = replace(
            self._settings,
            model_max_length=self.model_max_length,
            model_input_names=tuple(self.model_input_names),
            clean_up_tokenization_spaces=self.clean_up_tokenization_spaces,
            chat_template=self.chat_template,
        )
        config = json.dumps(settings.normalised(), ensure_ascii=False, indent=2, sort_keys=True)
        return {
            "tokenizer.json": json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode(),
            "tokenizer_config.json": (config + "\n").encode(),
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return Tokenizer.from_files, (self.files(),)

    def save_pretrained(self, save_directory: str | Path) -> tuple[str, ...]:
        """Write ``files()`` into a folder, made if need be; the paths written."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        for name, data in self.files().items():
            (folder / name).write_bytes(data)
            written.append(str(folder / name))
        return tuple(written)

    def __call__(
        self,
        text: str | Sequence[Any],
        text_pair: str | Sequence[Any] | None = None,
        *,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        split_special_tokens: bool | None = None,
        verbose: bool = True,
    ) -> BatchEncoding:
        """Encode one text, or a list of them, as transformers' ``tokenizer(...)`` does.

        :param text: a text or a list of texts; with ``is_split_into_words`` a list of words or a list of such lists.
        :param text_pair: the second text of each pair.
        :param padding: True or "longest", "max_length", False.
        :param truncation: True or "longest_first", "only_first", "only_second", False; None truncates where
            ``max_length`` is given and nothing is padded.
        :param return_tensors: "np" for int64 arrays ``[B, S]``; None for lists.
        :param verbose: accepted for upstream's sake; nothing is ever printed.
        :raises InputError: an argument is outside what is said here, or the rows differ in length and arrays were
            asked for."""
        for name, flag in (
            ("add_special_tokens", add_special_tokens),
            ("is_split_into_words", is_split_into_words),
            ("return_token_type_ids", return_token_type_ids),
            ("return_attention_mask", return_attention_mask),
            ("return_overflowing_tokens", return_overflowing_tokens),
            ("return_special_tokens_mask", return_special_tokens_mask),
            ("return_offsets_mapping", return_offsets_mapping),
            ("return_length", return_length),
            ("split_special_tokens", split_special_tokens),
        ):
            if flag is not None:
                arguments.flag(name, flag)
        if not (return_tensors is None or (isinstance(return_tensors, str) and return_tensors == "np")):
            raise InputError(f"return_tensors is 'np' or None: this runtime works in NumPy; got {return_tensors!r}")
        batch, batched, plain = rows_of(text, text_pair, is_split_into_words)
        pad, strategy, max_length = self._strategies(padding, truncation, max_length, pad_to_multiple_of)
        direction = self.padding_side if padding_side is None else side("padding_side", padding_side)
        backend = self._variant(
            strategy, max_length, stride, split_special_tokens, add_special_tokens, pair=text_pair is not None
        )

        def encode(with_offsets: bool) -> tuple[list[Encoding], list[int]]:
            run = backend.encode_batch if with_offsets else backend.encode_batch_fast
            try:
                rows = run(batch, is_pretokenized=is_split_into_words, add_special_tokens=add_special_tokens)
            except BaseException as error:
                if not is_refusal(error):
                    raise
                explain(error, batch, is_split_into_words)
            if not return_overflowing_tokens:
                return rows, []
            parts = [[row, *row.overflowing] for row in rows]
            return [row for part in parts for row in part], [i for i, part in enumerate(parts) for _ in part]

        # The library's path without offsets loses the types of overflowing pairs.
        complete = return_offsets_mapping or return_overflowing_tokens
        rows, samples = encode(complete)
        ids = [row.ids for row in rows]
        lengths = [len(row) for row in ids]
        # As in the library, the longest row is sought among the first windows: overflow of a pair may exceed it.
        firsts = [n for i, n in enumerate(lengths) if not samples or i == 0 or samples[i] != samples[i - 1]]
        target = padded_length(pad, firsts, max_length, pad_to_multiple_of)
        arrays = return_tensors is not None

        names = self.model_input_names
        want_types = "token_type_ids" in names if return_token_type_ids is None else return_token_type_ids
        want_mask = "attention_mask" in names if return_attention_mask is None else return_attention_mask
        short = target > min(lengths)
        pad_id = self.pad_token_id if short else 0

        def fill(values: list[list[Any]], filler: Any) -> Any:
            if short:
                values = [extended(row, [filler] * (target - len(row)), direction) for row in values]
            if not arrays:
                return values
            refuse_ragged([len(row) for row in values])
            return np.array(values, np.int64)

        data: dict[str, Any] = {"input_ids": fill(ids, pad_id)}
        if want_types:
            if plain and self._types_areas_lists():
                data["token_type_ids"] = (
                    np.zeros_like(data["input_ids"]) if arrays else [[0] * max(target, n) for n in lengths]
                )
            else:
                data["token_type_ids"] = fill([row.type_ids for row in rows], self.pad_token_type_id)
        if want_mask:
            if arrays and not short:
                data["attention_mask"] = np.ones_like(data["input_ids"])
            else:
                data["attention_mask"] = fill([[1] * n for n in lengths], 0)
        if return_special_tokens_mask:
            data["special_tokens_mask"] = fill([row.special_tokens_mask for row in rows], 1)
        if return_offsets_mapping:
            data["offset_mapping"] = fill([row.offsets for row in rows], (0, 0))
        if return_length:
            data["length"] = [max(n, target) for n in lengths]
        if return_overflowing_tokens:
            data["overflow_to_sample_mapping"] = samples
        if arrays:
            for name in ("length", "overflow_to_sample_mapping"):
                if name in data:
                    data[name] = np.array(data[name], np.int64)
        elif not batched and not return_overflowing_tokens:
            data = {name: value[0] if isinstance(value[0], list) else value for name, value in data.items()}

        pad_token = self.pad_token

        def encodings() -> list[Encoding]:
            all_rows = rows if complete else encode(True)[0]
            if short:
                for row in all_rows:
                    row.pad(target, direction=direction, pad_id=pad_id, pad_type_id=0, pad_token=pad_token)
            return all_rows

        return BatchEncoding(data, encodings)

    def encode(self, text: str | Sequence[Any], text_pair: str | Sequence[Any] | None = None, **options: Any) -> Any:
        """The ``input_ids`` alone; options as in a call."""
        return self(text, text_pair, **options)["input_ids"]

    def tokenize(
        self, text: str, pair: str | None = None, add_special_tokens: bool = False, **options: Any
    ) -> list[str]:
        """The tokens of a text; options as in a call."""
        return self(text, pair, add_special_tokens=add_special_tokens, **options).tokens()

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        """The prompt of a conversation, encoded or as a text; see `precast.runtime.processors.chat`."""
        from precast.runtime.processors.chat import apply_chat_template

        return apply_chat_template(self, conversation, **options)

    def get_chat_template(self, chat_template: str | None = None, tools: Sequence[Any] | None = None) -> str:
        """The text of the template `apply_chat_template` would use.

        :raises ChatTemplateError: there is none, or none of that name."""
        from precast.runtime.processors.chat import choose_template

        return choose_template(self.chat_template, chat_template, with_tools=tools is not None)

    def pad(
        self,
        encoded_inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
    ) -> BatchEncoding:
        """Pad rows that are encoded already: a dict of rows, or one dict a row. Names it does not know stay as is.

        :raises InputError: as for a call, or ``input_ids`` are missing."""
        if return_tensors not in (None, "np"):
            raise InputError(f"return_tensors is 'np' or None: this runtime works in NumPy; got {return_tensors!r}")
        if not isinstance(encoded_inputs, Mapping):
            rows = list(encoded_inputs)
            encoded_inputs = {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}
        main = self.model_input_names[0]
        if main not in encoded_inputs:
            raise InputError(f"pad() needs {main}; got {', '.join(encoded_inputs) or 'nothing'}")
        if isinstance(encoded_inputs[main], np.ndarray):
            return_tensors = "np"
        data = {name: as_lists(value) for name, value in encoded_inputs.items()}
        single = not data[main] or not isinstance(data[main][0], (list, tuple))
        if single:
            data = {name: [value] for name, value in data.items()}
        pad, _, max_length = self._strategies(padding, False, max_length, None)
        direction = self.padding_side if padding_side is None else side("padding_side", padding_side)
        lengths = [len(row) for row in data[main]]
        target = padded_length(pad, lengths, max_length, pad_to_multiple_of)
        if return_attention_mask or (return_attention_mask is None and "attention_mask" in self.model_input_names):
            data.setdefault("attention_mask", [[1] * n for n in lengths])
        fillers = {main: self.pad_token_id, "attention_mask": 0, "token_type_ids": 0, "special_tokens_mask": 1}
        for name in fillers.keys() & data.keys():
            data[name] = [extended(list(row), [fillers[name]] * (target - len(row)), direction) for row in data[name]]
        if return_tensors is not None:
            refuse_ragged([len(row) for row in data[main]])
            data = {name: np.array(value) for name, value in data.items()}
        return BatchEncoding({name: value[0] for name, value in data.items()} if single else data)

    def _strategies(
        self, padding: bool | str, truncation: bool | str | None, max_length: int | None, multiple: int | None
    ) -> tuple[str | None, str | None, int | None]:
        """Padding and truncation by name, None for neither, and the length they refer to. As upstream resolves them."""
        max_length = None if max_length is None else count("max_length", max_length, 0)
        if max_length is not None and padding is False and truncation is None:
            truncation = "longest_first"
        pad = choice("padding", padding, _PADDINGS, "do_not_pad")
        strategy = choice("truncation", truncation, _TRUNCATIONS, "do_not_truncate")
        if max_length is None and (pad == "max_length" or strategy is not None):
            if self.model_max_length > _LARGE:
                pad = None if pad == "max_length" else pad
                strategy = None
            else:
                max_length = self.model_max_length
        if pad is not None and self.pad_token_id is None:
            raise InputError(
                "padding needs a padding token, and this tokenizer has none; set one of its tokens: "
                "tokenizer.pad_token = tokenizer.eos_token"
            )
        if multiple is not None:
            multiple = count("pad_to_multiple_of", multiple, 1)
            if strategy is not None and pad is not None and max_length is not None and max_length % multiple:
                raise InputError(
                    f"with padding and truncation, max_length must be a multiple of pad_to_multiple_of; got "
                    f"{max_length} and {multiple}"
                )
        return pad, strategy, max_length

    def _variant(
        self,
        strategy: str | None,
        max_length: int | None,
        stride: int,
        split_special_tokens: bool | None,
        add_special_tokens: bool,
        pair: bool,
    ) -> Backend:
        """The backend with this truncation. Made once: the library's own setters are not safe while another thread
        encodes, and the model behind all of them is one."""
        split = self._settings.split_special_tokens if split_special_tokens is None else bool(split_special_tokens)
        if strategy is None or max_length is None:
            if split == self._settings.split_special_tokens:
                return self._backend
            key: tuple[Any, ...] = (split,)
        else:
            stride = count("stride", stride, 0)
            special = self.num_special_tokens_to_add(pair) if add_special_tokens else 0
            if max_length < special:
                raise InputError(
                    f"max_length must hold the {special} special tokens of this tokenizer; got {max_length}"
                )
            if stride and stride >= max_length - special:
                raise InputError(
                    f"stride must be smaller than the room for text, which is {max_length - special} "
                    f"(max_length {max_length} less {special} special tokens); got {stride}"
                )
            key = (split, max_length, stride, strategy, self._settings.truncation_side)
        variant = self._variants.get(key)
        if variant is None:
            with self._lock:
                variant = self._variants.get(key) or self._make_variant(key)
        return variant

    def _make_variant(self, key: tuple[Any, ...]) -> Backend:
        variant = _sharing(self._backend)
        variant.encode_special_tokens = key[0]
        if len(key) > 1:
            _, max_length, stride, strategy, direction = key
            try:
                variant.enable_truncation(max_length, stride=stride, strategy=strategy, direction=direction)
            except (ValueError, OverflowError) as error:
                raise InputError(f"truncation to {max_length} tokens with a stride of {stride}: {error}") from error
        while len(self._variants) >= _VARIANTS:
            del self._variants[next(iter(self._variants))]
        self._variants[key] = variant
        return variant

    def _types_areas_lists(self) -> bool:
        """Whether every token of a single text has type 0; asked of the post-processor once."""
        if self._plain_types is None:
            try:
                self._plain_types = not any(self._backend.encode("a").type_ids)
            except BaseException as error:
                if not is_refusal(error):
                    raise
                self._plain_types = False
        return self._plain_types


class PageTokenizer(Tokenizer):
    """A tokenizer of words that stand on pages: it takes lists of words, never texts, and ``boxes`` for them. Calls and
    results are those of transformers' ``LayoutLMv3Tokenizer``."""

    def __call__(
        self,
        text: str | Sequence[Any],
        text_pair: Sequence[Any] | None = None,
        boxes: Sequence[Any] | None = None,
        word_labels: Sequence[Any] | None = None,
        *,
        return_overflowing_tokens: bool = False,
        return_offsets_mapping: bool = False,
        return_tensors: str | None = None,
        is_split_into_words: bool = True,
        **options: Any,
    ) -> BatchEncoding:
        """Encode the words of a page, or of several; other options as any tokenizer's.

        :param text: a list of words, or of such lists; with ``text_pair``, a question, or a list of them.
        :param text_pair: the words, where ``text`` asks of them.
        :param boxes: x0, y0, x1, y1 of each word, in parts of its page, which is 1000 wide and high.
        :param word_labels: a number for each word; tokens get them as ``labels``.
        :raises InputError: words without boxes, not as many boxes as words, a box outside the page."""
        from precast.runtime.processors.page_words import encode_words

        special = self.special_boxes
        by_id = {self.pad_token_id: special.pad, self.sep_token_id: special.sep, self.cls_token_id: special.cls}
        return encode_words(
            super().__call__,
            special,
            by_id,
            text,
            text_pair,
            boxes,
            word_labels,
            return_overflowing_tokens=return_overflowing_tokens,
            return_offsets_mapping=return_offsets_mapping,
            return_tensors=return_tensors,
            **options,
        )

    @cached_property
    def special_boxes(self) -> SpecialBoxes:
        """Boxes of tokens that are no word's."""
        from precast.runtime.processors.page_words import SpecialBoxes

        return SpecialBoxes.from_json(self._settings.boxes)


def _made(kind: type[Tokenizer], backend: Backend, settings: Settings) -> Tokenizer:
    """Of that class, or of the one that knows of boxes."""
    if settings.boxes is None:
        return kind(backend, settings)
    made = PageTokenizer(backend, settings)
    settings.boxes = made.special_boxes.to_json()
    return made


def _adjust(backend: Backend, kwargs: Mapping[str, Any]) -> None:
    """The keys of tokenizer_config.json that override what tokenizer.json says."""
    normalizer = backend.normalizer
    if isinstance(normalizer, normalizers.BertNormalizer):
        normalizer.lowercase = kwargs.get("do_lower_case", normalizer.lowercase)
        normalizer.handle_chinese_chars = kwargs.get("tokenize_chinese_chars", normalizer.handle_chinese_chars)
        normalizer.strip_accents = kwargs.get("strip_accents", normalizer.strip_accents)
        backend.normalizer = normalizer
    prefix = kwargs.get("add_prefix_space")
    if prefix is not None and isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel):
        pre_tokenizer = backend.pre_tokenizer
        pre_tokenizer.add_prefix_space = bool(prefix)
        backend.pre_tokenizer = pre_tokenizer
        if isinstance(backend.post_processor, processors.RobertaProcessing):
            processor = backend.post_processor
            processor.add_prefix_space = bool(prefix)
            backend.post_processor = processor


def _tells_pairs_apart(backend: Backend) -> bool:
    """Whether the post-processor adds special tokens and gives the second text another type than the first."""
    try:
        return bool(backend.num_special_tokens_to_add(True)) and any(backend.encode("a", "a").type_ids)
    except BaseException as error:
        if not is_refusal(error):
            raise
        return False


def _sharing(backend: Backend) -> Backend:
    """A second tokenizer over the same model, free to have another truncation."""
    copy = Backend(backend.model)
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        if getattr(backend, part) is not None:
            setattr(copy, part, getattr(backend, part))
    tokens = backend.get_added_tokens_decoder()
    copy.add_tokens([tokens[index] for index in sorted(tokens)])
    if copy.get_added_tokens_decoder() != tokens:  # ids that adding in order does not reproduce
        copy = Backend.from_str(serialised(backend))
        copy.no_truncation()
    return copy


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value
