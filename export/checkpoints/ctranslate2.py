"""A Whisper that CTranslate2 converted, as faster-whisper reads it, as a checkpoint: the same questions, answered from
model.bin, its config.json and tokenizer.json.

The binary format, version 6, is what CTranslate2 4 writes (``ctranslate2/specs/model_spec.py``): variables by name,
each with its shape, type and bytes; then aliases. Every count and length is held against the bytes there are."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch

from precast.export.checkpoints.checkpoint import Checkpoint
from precast.export.checkpoints.mapped_file import MappedFile
from precast.export.checkpoints.weight_files import TensorSource, weight_file_names
from precast.runtime.errors import CheckpointError, ConfigError, UnsupportedModelError, listing
from precast.runtime.fields import Document, Fields, is_count
from precast.runtime.strict_json import parse_object

__all__ = ["MODEL", "CTranslate2Checkpoint", "is_converted", "read_variables"]

MODEL = "model.bin"
_VERSION = 6
_SPEC = ("WhisperSpec", 3)
_TYPES: Final = (torch.float32, torch.int8, torch.int16, torch.int32, torch.float16, torch.bfloat16)
_FLOATS = frozenset((torch.float32, torch.float16, torch.bfloat16))
_MOST_DIMS = 8
_MULTILINGUAL = 51_865  # words of the smallest vocabulary with languages in it
_FIRST_STAMP = 50  # the latest that an answer begins with: 1 second, as upstream's checkpoints have it
_ADVICE = "Convert the model again, or export the checkpoint that it was made of."
# Switches and what Whisper has there; what is None depends on the others or is read by nobody.
_SWITCHES: Final[Mapping[str, int | None]] = {
    "decoder/activation": 3,  # GELU
    "decoder/alibi": 0,
    "decoder/alibi_use_positive_positions": None,
    "decoder/alignment_heads": None,
    "decoder/alignment_layer": None,
    "decoder/pre_norm": 1,
    "decoder/scale_alibi": None,
    "decoder/scale_embeddings": 0,
    "decoder/start_from_zero_embedding": 0,
}


def is_converted(folder: Path) -> bool:
    """Whether a folder holds a model of CTranslate2's, and no weights of transformers'."""
    try:
        names = set(os.listdir(folder))
    except OSError:
        return False
    return MODEL in names and weight_file_names(names) is None


@dataclass
class _Bytes:
    """A file read from its beginning on."""

    file: MappedFile
    at: int = 0

    def take(self, size: int, what: str) -> int:
        """Where so many bytes begin."""
        start, left = self.at, self.file.size - self.at
        if size > left:
            raise CheckpointError(
                f"{self.file.name} is no whole model of CTranslate2: {what} has {size} bytes, and {left} are left. "
                f"{_ADVICE}"
            )
        self.at += size
        return start

    def number(self, size: int, what: str) -> int:
        start = self.take(size, what)
        return int.from_bytes(self.file.map[start : start + size], "little")

    def text(self, what: str) -> str:
        """Behind its length, which counts the zero at its end."""
        start = self.take(self.number(2, what), what)
        data = self.file.map[start : self.at]
        try:
            text = data[:-1].decode("utf-8")
        except UnicodeDecodeError:
            text = ""
        if not text or data[-1] or "\0" in text:
            raise CheckpointError(f"{self.file.name} is no model of CTranslate2: {what} is no text. {_ADVICE}")
        return text


def read_variables(file: MappedFile) -> dict[str, TensorSource]:
    """The variables of a Whisper by CTranslate2's names, aliases among them.

    Raises:
        CheckpointError: the file is damaged, or none of CTranslate2's.
        UnsupportedModelError: of another version, or another model.
    """
    source = _Bytes(file)
    version = source.number(4, "its version")
    if version != _VERSION:
        raise UnsupportedModelError(
            f"{file.name} is read here as CTranslate2's binary format of version {_VERSION}; its version is {version}. "
            "Export the checkpoint that it was made of."
        )
    found = source.text("the model's kind"), source.number(4, "the model's revision")
    if found != _SPEC:
        raise UnsupportedModelError(
            f"Of CTranslate2's models {' '.join(map(str, _SPEC))} is read here; {file.name} is a {found[0]:.40} "
            f"{found[1]}. Export the checkpoint that it was made of."
        )
    variables: dict[str, TensorSource] = {}
    for _ in range(source.number(4, "the number of variables")):
        one = _variable(source)
        _new(one.name, variables, file)
        variables[one.name] = one
    for _ in range(source.number(4, "the number of aliases")):
        name, of = source.text("an alias"), source.text("what an alias stands for")
        _new(name, variables, file)
        if of not in variables:
            raise CheckpointError(f"{file.name}: {name} stands for {of}, which is not there. {_ADVICE}")
        variables[name] = replace(variables[of], name=name)
    if source.at != file.size:
        raise CheckpointError(f"{file.name}: {file.size - source.at} bytes are behind the model. {_ADVICE}")
    return variables


def _variable(source: _Bytes) -> TensorSource:
    name = source.text("a variable's name")
    dims = source.number(1, name)
    if dims > _MOST_DIMS:
        raise CheckpointError(f"{source.file.name}: {name} has {dims} dimensions, and {_MOST_DIMS} are the most.")
    shape = tuple(source.number(4, name) for _ in range(dims))
    kind, size = source.number(1, name), source.number(4, name)
    if kind >= len(_TYPES):
        raise CheckpointError(f"{source.file.name}: {name} is of the type {kind}, which is none. {_ADVICE}")
    dtype = _TYPES[kind]
    if size != math.prod(shape) * dtype.itemsize:
        raise CheckpointError(
            f"{source.file.name}: {name} has {size} bytes, and {list(shape)} of {_type(dtype)} take "
            f"{math.prod(shape) * dtype.itemsize}. {_ADVICE}"
        )
    return TensorSource(name, shape, dtype, source.file, source.take(size, name))


def _new(name: str, variables: Mapping[str, TensorSource], file: MappedFile) -> None:
    if name in variables:
        raise CheckpointError(f"{file.name} has {name} twice. {_ADVICE}")


def _type(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class CTranslate2Checkpoint(Checkpoint):
    """Opened with `precast.export.checkpoints.open`. config.json, generation_config.json and, where the folder has
    none, preprocessor_config.json are made of what the model says."""

    def __init__(self, folder: Path, name: str) -> None:
        self._prepare(folder, name)
        self.modules = None
        self.prefix = ""
        file = MappedFile(self.path(MODEL))
        self._maps.append(file)
        self._variables = _Variables(read_variables(file), self.id)
        self._tensors = _tensors(self._variables)
        self._made: dict[str, bytes] = {}
        stated, tokens = self._read("config.json"), _added(self._read("tokenizer.json"))
        self.config = _config(self._variables, tokens, self.id)
        self._variables.close()
        made = {"config.json": self.config, "generation_config.json": _generation(self.config, stated, tokens)}
        if not self.has("preprocessor_config.json"):
            bins = self.config["num_mel_bins"]
            extractor = {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": bins}
            made["preprocessor_config.json"] = extractor
        self._made = {name: json.dumps(content, indent=1).encode() for name, content in made.items()}

    def has(self, name: str) -> bool:
        return name in self._made or super().has(name)

    def note_used(self, name: str) -> None:
        if name not in self._made:
            super().note_used(name)

    def read_bytes(self, name: str) -> bytes:
        made = self._made.get(name)
        return super().read_bytes(name) if made is None else made

    def weights(self, folder: str = "") -> Mapping[str, TensorSource]:
        if folder:
            raise CheckpointError(f"{self.id} is a model of CTranslate2's, and has no folder {folder!r:.80}.")
        return MappingProxyType(self._tensors)

    @cached_property
    def tensors(self) -> Mapping[str, TensorSource]:
        return self.weights()

    def _read(self, name: str) -> dict[str, Any]:
        """The folder's own file."""
        try:
            return parse_object(self.read_bytes(name))
        except ValueError as error:
            raise ConfigError(f"{self.id}: {name} is not valid: {error!s:.200}. Download it again.") from None


class _Variables:
    """Variables, each of which is asked for once; ``close`` refuses what nobody asked for."""

    def __init__(self, found: Mapping[str, TensorSource], of: str) -> None:
        self._found, self._rest, self._of = found, set(found), of

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def take(self, name: str, dims: int) -> TensorSource:
        """A tensor of floats."""
        one = self._found.get(name)
        if one is None:
            raise CheckpointError(f"{self._of}: {MODEL} has no {name}. {_ADVICE}")
        self._rest.discard(name)
        if one.dtype not in _FLOATS:
            raise UnsupportedModelError(
                f"{self._of}: {name} is of {_type(one.dtype)}, and rounded weights say nothing of the model's own. "
                "Convert it with --quantization float16 or float32, or export the checkpoint that it was made of."
            )
        if len(one.shape) != dims or not one.numel:
            raise CheckpointError(f"{self._of}: {name} has {dims} dimensions; received {list(one.shape)}. {_ADVICE}")
        return one

    def switch(self, name: str) -> int | None:
        """A number that says how the model computes; None where it is not said."""
        one = self._found.get(name)
        if one is None:
            return None
        self._rest.discard(name)
        if one.shape or one.dtype in _FLOATS:
            raise CheckpointError(f"{self._of}: {name} is one integer; received {list(one.shape)}. {_ADVICE}")
        return int(one.load())

    def layers(self, part: str) -> int:
        count = 0
        while f"{part}/layer_{count}/ffn/linear_0/weight" in self:
            count += 1
        return count

    def close(self) -> None:
        if self._rest:
            raise UnsupportedModelError(
                f"{self._of}: {MODEL} holds what no Whisper has here: {listing(sorted(self._rest), 6)}. Export the "
                "checkpoint that it was made of."
            )


def _tensors(variables: _Variables) -> dict[str, TensorSource]:
    """Every parameter by upstream's name."""
    made: dict[str, TensorSource] = {}

    def put(name: str, variable: str, dims: int) -> None:
        made[name] = replace(variables.take(variable, dims), name=name)

    def norm(name: str, variable: str) -> None:
        put(f"{name}.weight", f"{variable}/gamma", 1)
        put(f"{name}.bias", f"{variable}/beta", 1)

    def linear(variable: str, *names: str) -> None:
        """One layer, or several whose rows are one behind the other; keys have no bias, which stands there as 0."""
        for kind, dims in (("weight", 2), ("bias", 1)):
            whole = variables.take(f"{variable}/{kind}", dims)
            for name, part in zip(names, _split(whole, len(names)), strict=True):
                if kind == "weight" or not name.endswith("k_proj"):
                    made[f"{name}.{kind}"] = replace(part, name=f"{name}.{kind}")
                elif part.load().any():
                    raise UnsupportedModelError(
                        f"{variable}/{kind} gives keys a bias, which Whisper has not. {_ADVICE}"
                    )

    for part in ("encoder", "decoder"):
        put(f"model.{part}.embed_positions.weight", f"{part}/position_encodings/encodings", 2)
        norm(f"model.{part}.layer_norm", f"{part}/layer_norm")
        for number in range(variables.layers(part)):
            ours, theirs = f"{part}/layer_{number}", f"model.{part}.layers.{number}"
            norm(f"{theirs}.final_layer_norm", f"{ours}/ffn/layer_norm")
            linear(f"{ours}/ffn/linear_0", f"{theirs}.fc1")
            linear(f"{ours}/ffn/linear_1", f"{theirs}.fc2")
            itself, cross = f"{theirs}.self_attn", f"{theirs}.encoder_attn"
            norm(f"{itself}_layer_norm", f"{ours}/self_attention/layer_norm")
            linear(f"{ours}/self_attention/linear_0", *(f"{itself}.{one}_proj" for one in "qkv"))
            linear(f"{ours}/self_attention/linear_1", f"{itself}.out_proj")
            if part == "decoder":
                norm(f"{cross}_layer_norm", f"{ours}/attention/layer_norm")
                linear(f"{ours}/attention/linear_0", f"{cross}.q_proj")
                linear(f"{ours}/attention/linear_1", *(f"{cross}.{one}_proj" for one in "kv"))
                linear(f"{ours}/attention/linear_2", f"{cross}.out_proj")
    for conv in ("conv1", "conv2"):
        put(f"model.encoder.{conv}.weight", f"encoder/{conv}/weight", 3)
        put(f"model.encoder.{conv}.bias", f"encoder/{conv}/bias", 1)
    put("model.decoder.embed_tokens.weight", "decoder/embeddings/weight", 2)
    put("proj_out.weight", "decoder/projection/weight", 2)
    return made


def _split(whole: TensorSource, count: int) -> list[TensorSource]:
    """Its rows in so many parts, which lie in the file one behind the other."""
    rows, *rest = whole.shape
    if rows % count:
        raise CheckpointError(f"{whole.name} has {rows} rows, which {count} layers share. {_ADVICE}")
    size = whole.nbytes // count
    return [replace(whole, shape=(rows // count, *rest), offset=whole.offset + part * size) for part in range(count)]


def _added(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """Ids of the tokens that are no text, by their names."""
    fields = Fields(dict(tokenizer), document=Document("tokenizer.json", ConfigError, _ADVICE), lenient=True)

    def token(one: Fields) -> tuple[str, int]:
        return one.text("content"), one.count("id")

    return dict(fields.all("added_tokens", token))


def _config(variables: _Variables, tokens: Mapping[str, int], of: str) -> dict[str, Any]:
    """config.json as transformers has it."""
    for name, expected in _SWITCHES.items():
        value = variables.switch(name)
        if value is not None and expected is not None and value != expected:
            raise UnsupportedModelError(f"{of}: {name} is {expected} of a Whisper; received {value}.")
    words = variables.take("decoder/embeddings/weight", 2)
    sizes: dict[str, int] = {}
    for part in ("encoder", "decoder"):
        heads, count = variables.switch(f"{part}/num_heads"), variables.layers(part)
        if not heads or heads < 0 or not count:
            raise CheckpointError(f"{of}: {MODEL} has {count} layers of {heads} heads in its {part}. {_ADVICE}")
        sizes[f"{part}_layers"], sizes[f"{part}_attention_heads"] = count, heads
        sizes[f"{part}_ffn_dim"] = variables.take(f"{part}/layer_0/ffn/linear_0/weight", 2).shape[0]
    projection = variables.take("decoder/projection/weight", 2)
    start, end = (_token(tokens, name, of) for name in ("startoftranscript", "endoftext"))
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "vocab_size": words.shape[0],
        "d_model": words.shape[1],
        "num_mel_bins": variables.take("encoder/conv1/weight", 3).shape[1],
        "max_source_positions": variables.take("encoder/position_encodings/encodings", 2).shape[0],
        "max_target_positions": variables.take("decoder/position_encodings/encodings", 2).shape[0],
        "tie_word_embeddings": (projection.shape, projection.offset) == (words.shape, words.offset),
        "decoder_start_token_id": start,
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        **sizes,
    }


def _generation(config: Mapping[str, Any], stated: dict[str, Any], tokens: Mapping[str, int]) -> dict[str, Any]:
    """generation_config.json as transformers has it, of what CTranslate2 keeps of it and the names of tokens."""
    fields = Fields(stated, document=Document("config.json", ConfigError, _ADVICE), lenient=True)

    def ids(name: str) -> list[int]:
        return fields.take(name, "a list of token ids, or null", _are_ids, None) or []

    heads = fields.take("alignment_heads", "a list of pairs [layer, head], or null", _are_heads, None)
    multilingual = config["vocab_size"] >= _MULTILINGUAL
    asked = {"<|translate|>", "<|transcribe|>"} & tokens.keys()
    made: dict[str, Any] = {
        **{name: config[name] for name in config if name.endswith("_token_id")},
        "max_length": config["max_target_positions"],
        "suppress_tokens": ids("suppress_ids"),
        "begin_suppress_tokens": ids("suppress_ids_begin"),
        "is_multilingual": multilingual,
        "return_timestamps": False,
    }
    if heads:
        made["alignment_heads"] = heads
    if "<|notimestamps|>" in tokens:
        made["no_timestamps_token_id"] = tokens["<|notimestamps|>"]
        made["max_initial_timestamp_index"] = _FIRST_STAMP
    if "<|startofprev|>" in tokens:
        made["prev_sot_token_id"] = tokens["<|startofprev|>"]
    if multilingual and asked:
        first = min(tokens[name] for name in asked)
        begun = config["decoder_start_token_id"]
        made["lang_to_id"] = {name: number for name, number in tokens.items() if begun < number < first}
        made["task_to_id"] = {name.strip("<|>"): tokens[name] for name in sorted(asked)}
    return made


def _are_ids(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(map(is_count, value)))


def _are_heads(value: Any) -> bool:
    if value is None:
        return True
    pairs = isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in value)
    return pairs and all(is_count(number) for pair in value for number in pair)


def _token(tokens: Mapping[str, int], name: str, of: str) -> int:
    found = tokens.get(f"<|{name}|>")
    if found is None:
        raise CheckpointError(f"{of}: tokenizer.json has no <|{name}|>, and every Whisper's has. Download it again.")
    return found
