"""What a tokenizer needs beside tokenizer.json: special tokens, limits, sides, and where checkpoints write them down.

Checkpoints spread this over tokenizer_config.json, special_tokens_map.json, added_tokens.json and tokenizer.json;
transformers 5 merges them in a fixed order, which ``merge`` follows. An artifact holds the merged result only, marked
by ``FORMAT_KEY``, and ``Settings.from_normalised`` reads it back without any of that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, processors
from tokenizers import Tokenizer as Backend

from precast.runtime.errors import CheckpointError, FormatVersionError, InputError
from precast.runtime.fields import shown
from precast.runtime.strict_json import parse_value

__all__ = [
    "BOXES_KEY",
    "FORMAT_KEY",
    "NAMED_TOKENS",
    "UNLIMITED",
    "Settings",
    "add_special_tokens",
    "declared",
    "end_with_bos_eos",
    "merge",
    "read_chat_templates",
    "read_json",
    "side",
]

FORMAT_KEY = "precast_tokenizer"
BOXES_KEY = "precast_boxes"
_FORMAT = 1
NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
UNLIMITED = int(1e30)  # upstream's model_max_length of a tokenizer that states none
_SIDES = ("right", "left")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")

Token = str | AddedToken


@dataclass(kw_only=True)
class Settings:
    """The merged result. ``named`` keeps upstream's order: it decides the ids of tokens that have to be added."""

    named: dict[str, Token] = field(default_factory=dict)
    extra: list[Token] = field(default_factory=list)
    model_max_length: int = UNLIMITED
    padding_side: str = "right"
    truncation_side: str = "right"
    model_input_names: tuple[str, ...] = ("input_ids", "attention_mask")
    clean_up_tokenization_spaces: bool = False
    clean_up_for_bpe: bool = False
    split_special_tokens: bool = False
    chat_template: str | dict[str, str] | None = None
    boxes: Any = None  # of special tokens, where words stand on pages (page_words.py)

    @classmethod
    def from_kwargs(cls, kwargs: Mapping[str, Any]) -> Settings:
        """From upstream's constructor arguments, as ``merge`` gives them.

        :raises CheckpointError: a value has the wrong type."""
        named = {name: kwargs.get(name) for name in NAMED_TOKENS}
        extra = kwargs.get("extra_special_tokens", kwargs.get("additional_special_tokens"))
        own = {key: kwargs[key] for key in kwargs if key.endswith("_token") and key not in NAMED_TOKENS}
        named.update({key: value for key, value in own.items() if isinstance(value, (str, AddedToken))})
        if isinstance(extra, Mapping):
            named.update(extra)
            extra = None
        specific = kwargs.get("model_specific_special_tokens") or {}
        if not isinstance(specific, Mapping):
            raise CheckpointError(
                f"model_specific_special_tokens is a table of named tokens; tokenizer_config.json has {specific!r:.80}"
            )
        named.update(specific)
        for key, value in named.items():
            if value is not None and not isinstance(value, (str, AddedToken)):
                raise CheckpointError(
                    "a special token is a text or an AddedToken entry; tokenizer_config.json has "
                    f"{key} = {shown(value)}"
                )
        if extra is not None and not isinstance(extra, (list, tuple)):
            raise CheckpointError(
                "extra_special_tokens is a list of tokens or a table of named ones; "
                f"tokenizer_config.json has {shown(extra)}"
            )
        names = kwargs.get("model_input_names") or cls.model_input_names
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
            raise CheckpointError(f"model_input_names is a list of texts; tokenizer_config.json has {names!r:.80}")
        limit = kwargs.get("model_max_length", kwargs.get("max_len"))
        return cls(
            named={key: value for key, value in named.items() if value is not None},
            extra=list(extra or ()),
            model_max_length=UNLIMITED if limit is None else _whole_number("model_max_length", limit),
            padding_side=side("padding_side", kwargs.get("padding_side", "right")),
            truncation_side=side("truncation_side", kwargs.get("truncation_side", "right")),
            model_input_names=tuple(names),
            clean_up_tokenization_spaces=bool(kwargs.get("clean_up_tokenization_spaces", False)),
            clean_up_for_bpe=bool(
                kwargs.get("clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output", False)
            ),
            split_special_tokens=bool(kwargs.get("split_special_tokens", False)),
            chat_template=_chat_templates(kwargs.get("chat_template")),
            boxes=kwargs.get(BOXES_KEY),
        )

    @classmethod
    def from_normalised(cls, data: Mapping[str, Any]) -> Settings:
        """From an artifact's tokenizer_config.json.

        :raises FormatVersionError: a newer precast wrote it."""
        version = data[FORMAT_KEY]
        if not isinstance(version, int) or version > _FORMAT:
            raise FormatVersionError(
                f"tokenizer_config.json has format {shown(version)}, this runtime reads up to {_FORMAT}; "
                "upgrade precast"
            )
        return cls.from_kwargs(data)

    def normalised(self) -> dict[str, Any]:
        """The artifact's tokenizer_config.json. Upstream reads it as well, and takes tokenizer.json as it is."""
        data: dict[str, Any] = {name: str(token) for name, token in self.named.items() if name in NAMED_TOKENS}
        own = {name: str(token) for name, token in self.named.items() if name not in NAMED_TOKENS}
        if own:
            data["model_specific_special_tokens"] = own
        if self.extra:
            data["extra_special_tokens"] = [str(token) for token in self.extra]
        if self.model_max_length != UNLIMITED:
            data["model_max_length"] = self.model_max_length
        if self.clean_up_for_bpe:
            data["clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"] = True
        if self.chat_template is not None:
            data["chat_template"] = self.chat_template
        if self.boxes is not None:
            data[BOXES_KEY] = self.boxes
        return data | {
            FORMAT_KEY: _FORMAT,
            "clean_up_tokenization_spaces": self.clean_up_tokenization_spaces,
            "model_input_names": list(self.model_input_names),
            "padding_side": self.padding_side,
            "split_special_tokens": self.split_special_tokens,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "truncation_side": self.truncation_side,
        }


def side(name: str, value: Any) -> str:
    """:raises InputError: neither "right" nor "left"."""
    if not isinstance(value, str) or value not in _SIDES:
        raise InputError(f"{name} is 'right' or 'left'; got {shown(value)}")
    return str(value)


def _whole_number(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value or value < 0:
        raise CheckpointError(f"{name} is a whole number; tokenizer_config.json has {shown(value)}")
    return UNLIMITED if value >= UNLIMITED else int(value)


def read_chat_templates(folder: Path) -> str | dict[str, str] | None:
    """The chat templates that are files of their own, which win over the one in tokenizer_config.json; None where
    there are none.

    :raises CheckpointError: a file is not UTF-8, or malformed."""
    found: dict[str, str] = {}
    if (path := folder / "chat_template.jinja").is_file():
        found["default"] = _read_text(path)
    for path in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        found[path.stem] = _read_text(path)
    return found["default"] if list(found) == ["default"] else found or None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path.name} must be UTF-8 text: {error.reason}; fetch the file again") from error


def _chat_templates(stated: Any) -> str | dict[str, str] | None:
    """One template, or several by name, which older checkpoints list as ``{"name", "template"}``."""
    if stated is None or isinstance(stated, str):
        return stated
    named: Any = None
    if isinstance(stated, Mapping):
        named = dict(stated)
    elif isinstance(stated, (list, tuple)) and all(isinstance(entry, Mapping) for entry in stated):
        named = {entry.get("name"): entry.get("template") for entry in stated}
    if named is None or not all(isinstance(part, str) for entry in named.items() for part in entry):
        raise CheckpointError(
            "chat_template is a text, or a list of entries with 'name' and 'template'; tokenizer_config.json has "
            f"{stated!r:.80}"
        )
    return named or None


def read_json(data: bytes | None, name: str) -> dict[str, Any]:
    """A JSON object out of a file's bytes; of an absent file, an empty one.

    :raises CheckpointError: it is not JSON, or not an object."""
    if data is None:
        return {}
    try:
        value = parse_value(data)
    except ValueError as error:
        raise CheckpointError(f"{name} must hold JSON in UTF-8: {error!s:.200}; fetch the file again") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{name} must hold a JSON object; it holds a {type(value).__name__}")
    return value


def merge(
    config: Mapping[str, Any],
    special_tokens_map: Mapping[str, Any],
    added_tokens: Mapping[str, Any],
    file_tokens: Mapping[int, AddedToken] | None,
) -> tuple[dict[str, Any], dict[int, AddedToken]]:
    """Constructor arguments and added tokens by id, from the files of a checkpoint, in transformers 5.23's order.

    ``file_tokens`` are tokenizer.json's own added tokens, None where there is no such file."""
    kwargs = {key: value for key, value in config.items() if key not in ("tokenizer_class", "init_inputs", "auto_map")}
    if file_tokens is not None:  # its post-processor already says whether they are added
        kwargs.pop("add_bos_token", None)
        kwargs.pop("add_eos_token", None)
    if "additional_special_tokens" in kwargs and not kwargs.get("extra_special_tokens"):
        kwargs["extra_special_tokens"] = kwargs.pop("additional_special_tokens")
    own = {
        key: kwargs.pop(key)
        for key in list(kwargs)
        if key.endswith("_token") and key not in NAMED_TOKENS and isinstance(kwargs[key], str)
    }
    if isinstance(kwargs.get("extra_special_tokens"), dict):
        own.update(kwargs.pop("extra_special_tokens"))
    if own:
        kwargs["model_specific_special_tokens"] = own

    by_id: dict[int, AddedToken] = {}
    if "added_tokens_decoder" in kwargs:  # then the two older files count for nothing
        by_id = _added_tokens_decoder(kwargs.pop("added_tokens_decoder"))
    else:
        _merge_special_tokens_map(kwargs, special_tokens_map)
        known = {str(kwargs[name]) for name in NAMED_TOKENS if kwargs.get(name)}
        extra = kwargs.get("extra_special_tokens")
        known.update(map(str, extra if isinstance(extra, (list, tuple)) else ()))
        for text, index in added_tokens.items():
            if isinstance(index, bool) or not isinstance(index, int):
                raise CheckpointError(
                    f"added_tokens.json gives each token its id, a whole number; {shown(text)} has {shown(index)}"
                )
            by_id[index] = AddedToken(text, normalized=text not in known, special=text in known)
        by_id.update(file_tokens or {})

    kwargs = {key: _to_added_tokens(value) for key, value in kwargs.items()}
    by_text = {str(token): token for token in by_id.values()}
    for name in NAMED_TOKENS:
        if kwargs.get(name) is not None:
            kwargs[name] = by_text.get(str(kwargs[name]), kwargs[name])
    return kwargs, by_id


def declared(tokenizer_class: str | None) -> str | None:
    """The declared class without the ``Fast`` that older versions wrote; None where it names no particular class."""
    name = (tokenizer_class or "").removesuffix("Fast")
    return None if name in ("", "PreTrainedTokenizer", "TokenizersBackend", "PythonBackend") else name


def add_special_tokens(backend: Backend, settings: Settings, by_id: Mapping[int, AddedToken]) -> None:
    """Give the backend every added and special token it lacks, in upstream's order, so that ids come out alike."""
    present = {repr(token) for token in backend.get_added_tokens_decoder().values()}
    missing: list[Token] = [by_id[index] for index in sorted(by_id) if repr(by_id[index]) not in present]
    known = {str(token) for token in backend.get_added_tokens_decoder().values()} | {str(token) for token in missing}
    for token in (*settings.named.values(), *settings.extra):
        if str(token) not in known and token not in missing:
            missing.append(token)
    names = {str(token) for token in settings.named.values()}
    ready = []
    for token in missing:
        if isinstance(token, str):
            token = AddedToken(token, special=True)
        elif str(token) in names:
            token.special = True
        ready.append(token)
    if ready:
        backend.add_tokens(ready)


def end_with_bos_eos(backend: Backend, settings: Settings, *, bos: bool, eos: bool) -> None:
    """Upstream's template for a tokenizer that has none: the text, between bos and eos where asked for."""
    first, last = settings.named.get("bos_token"), settings.named.get("eos_token")
    before = [str(first)] if bos and first is not None else []
    after = [str(last)] if eos and last is not None else []
    backend.post_processor = processors.TemplateProcessing(
        single=" ".join([f"{token}:0" for token in before] + ["$A:0"] + [f"{token}:0" for token in after]),
        pair=" ".join(
            [f"{token}:0" for token in before]
            + ["$A:0"]
            + [f"{token}:0" for token in after]
            + [f"{token}:1" for token in before]
            + ["$B:1"]
            + [f"{token}:1" for token in after]
        ),
        special_tokens=[(token, backend.token_to_id(token)) for token in dict.fromkeys(before + after)],
    )


def _added_tokens_decoder(entries: Any) -> dict[int, AddedToken]:
    if not isinstance(entries, dict):
        raise CheckpointError(f"added_tokens_decoder is a table of tokens by id; got {type(entries).__name__}")
    by_id = {}
    for index, entry in entries.items():
        token = _to_added_tokens({"__type": "AddedToken", **entry} if isinstance(entry, dict) else entry)
        if not isinstance(token, AddedToken) or not str(index).isdigit():
            raise CheckpointError(
                f"added_tokens_decoder gives each id an entry with 'content'; {shown(index)} has {shown(entry)}"
            )
        by_id[int(index)] = token
    return by_id


def _merge_special_tokens_map(kwargs: dict[str, Any], special_tokens_map: Mapping[str, Any]) -> None:
    for key, value in special_tokens_map.items():
        if key == "extra_special_tokens" and isinstance(value, list):
            before = kwargs.get("extra_special_tokens")
            tokens = list(before) if isinstance(before, (list, tuple)) else []
            for entry in value:
                token = _special(entry)
                if token not in tokens:
                    tokens.append(token)
            value = tokens
        elif isinstance(value, dict) and key != "extra_special_tokens":
            value = _special(value)
        elif key == "additional_special_tokens" and isinstance(value, list):
            value = [_special(entry) for entry in value]
        kwargs[key] = value
    if isinstance(kwargs.get("extra_special_tokens"), dict):
        kwargs.setdefault("model_specific_special_tokens", {}).update(kwargs.pop("extra_special_tokens"))


def _special(entry: Any) -> Any:
    return _to_added_tokens({**entry, "__type": "AddedToken", "special": True}) if isinstance(entry, dict) else entry


def _to_added_tokens(value: Any) -> Any:
    """Serialised tokens, at any depth, as ``AddedToken``."""
    if isinstance(value, list):
        return [_to_added_tokens(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("__type") != "AddedToken":
        return {key: _to_added_tokens(item) for key, item in value.items()}
    if not isinstance(value.get("content"), str):
        raise CheckpointError(f"an added token has its text in 'content'; got {shown(value)}")
    flags = {key: value[key] for key in _FLAGS if isinstance(value.get(key), bool)}
    return AddedToken(value["content"], **flags)  # the library prints a line for every key it does not know
