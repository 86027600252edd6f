"""A checkpoint's tokenizer, whatever its files, as the two an artifact holds: tokenizer.json and tokenizer_config.json.

transformers 5 chooses a tokenizer class and, for most classes, builds the tokenizer anew from vocabulary and settings,
also where a tokenizer.json exists. ``KINDS`` (kinds.py) says for each class what it builds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, pre_tokenizers
from tokenizers import Tokenizer as Backend

from precast.export.tokenizers.kinds import KINDS, Kind, Vocabulary
from precast.export.tokenizers.kinds_decoders import DECODER_KINDS
from precast.export.tokenizers.kinds_pages import PAGE_KINDS
from precast.export.tokenizers.kinds_sequences import SEQUENCE_KINDS
from precast.export.tokenizers.kinds_speech import SPEECH_KINDS
from precast.runtime.errors import CheckpointError, UnsafeFileError, UnsupportedModelError, listing
from precast.runtime.processors import TOKENIZER_FILES
from precast.runtime.processors.text import Tokenizer, parse_backend
from precast.runtime.processors.tokenizer_settings import NAMED_TOKENS, declared, merge, read_chat_templates, read_json

__all__ = ["STATIC_TABLE", "runtime_files", "tokenizer_class"]

_KINDS = KINDS | SEQUENCE_KINDS | DECODER_KINDS | SPEECH_KINDS | PAGE_KINDS

# The class upstream registers for a model type; it yields to the class a checkpoint declares.
_REGISTERED = {
    "albert": "AlbertTokenizer",
    "align": "BertTokenizer",
    "bart": "RobertaTokenizer",
    "bert": "BertTokenizer",
    "biogpt": "BioGptTokenizer",
    "blenderbot": "BlenderbotTokenizer",
    "blenderbot-small": "BlenderbotSmallTokenizer",
    "bros": "BertTokenizer",
    "camembert": "CamembertTokenizer",
    "chinese_clip": "BertTokenizer",
    "clap": "RobertaTokenizer",
    "codegen": "GPT2Tokenizer",
    "ctrl": "CTRLTokenizer",
    "deberta-v2": "DebertaV2Tokenizer",
    "distilbert": "BertTokenizer",
    "electra": "BertTokenizer",
    "fastspeech2_conformer": "FastSpeech2ConformerTokenizer",
    "fastspeech2_conformer_with_hifigan": "FastSpeech2ConformerTokenizer",
    "gemma": "GemmaTokenizer",
    "gemma2": "GemmaTokenizer",
    "gemma3": "GemmaTokenizer",
    "gemma3_text": "GemmaTokenizer",
    "gpt2": "GPT2Tokenizer",
    "gpt_neo": "GPT2Tokenizer",
    "gpt_neox_japanese": "GPTNeoXJapaneseTokenizer",
    "gptj": "GPT2Tokenizer",
    "layoutlm": "BertTokenizer",
    "layoutlmv3": "LayoutLMv3Tokenizer",
    "lilt": "RobertaTokenizer",
    "llama": "LlamaTokenizer",
    "m2m_100": "M2M100Tokenizer",
    "marian": "MarianTokenizer",
    "mbart": "MBartTokenizer",
    "mistral": "LlamaTokenizer",
    "mixtral": "LlamaTokenizer",
    "mpnet": "MPNetTokenizer",
    "mt5": "T5Tokenizer",
    "openai-gpt": "OpenAIGPTTokenizer",
    "opt": "GPT2Tokenizer",
    "pegasus": "PegasusTokenizer",
    "roberta": "RobertaTokenizer",
    "siglip": "SiglipTokenizer",
    "speecht5": "SpeechT5Tokenizer",
    "t5": "T5Tokenizer",
    "umt5": "T5Tokenizer",
    "vits": "VitsTokenizer",
    "xglm": "XGLMTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
}
# What a folder of a StaticEmbedding is called here: it has no config.json to say.
STATIC_TABLE = "static-embedding"
# Model types whose declared class upstream does not believe: tokenizer.json is taken as it is.
_AS_WRITTEN = frozenset({"modernbert", "modernbert-decoder", STATIC_TABLE})
# Of which nothing but tokenizer.json is read.
_ALONE = frozenset({STATIC_TABLE})

# Classes that no tokenizer.json can express, and why.
_PYTHON_ONLY = {
    "BertJapaneseTokenizer": "it cuts words with MeCab, Sudachi or Juman++, programs with dictionaries of their own",
    "BartphoTokenizer": "pieces of its sentencepiece model that its dictionary lacks count as unknown",
    "BertweetTokenizer": "it rewrites tweets with Python code and its BPE merges lead through pieces that have no id",
    "BioGptTokenizer": "it cuts words with Moses's rules (sacremoses), which are Python code",
    "BlenderbotSmallTokenizer": "its pieces are marked where a word goes on (@@) and its cuts are Python code",
    "CTRLTokenizer": "its pieces are marked where a word goes on (@@), and the library's BPE has no such mark",
    "CpmTokenizer": "it cuts words with jieba, a program with a dictionary of its own",
    "FastSpeech2ConformerTokenizer": "it writes phonemes with g2p_en, a program with a dictionary of its own",
    "GPTNeoXJapaneseTokenizer": "it normalises addresses, numbers and emoji with Python code",
    "GPTSw3Tokenizer": "it normalises white space and drops unprintable characters with Python code",
    "PhobertTokenizer": "its BPE merges lead through pieces that have no id, and it wants words cut beforehand",
}
# Classes of which Hub checkpoints hold a tokenizer.json that says the same.
_OFTEN_CONVERTED = frozenset({"BlenderbotSmallTokenizer", "GPTSw3Tokenizer"})
_SLOW_FILES = (
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "bpe.codes",
    "sentencepiece.bpe.model",
    "source.spm",
    "spiece.model",
    "spm.model",
    "spm_char.model",
    "tokenizer.model",
)


def tokenizer_class(model_type: str, config: Mapping[str, Any], tokenizer_config: Mapping[str, Any]) -> str | None:
    """The class transformers 5.23 would use, without ``Fast``; None where it takes tokenizer.json as it is."""
    if model_type in _AS_WRITTEN:
        return None
    stated = tokenizer_config.get("tokenizer_class") or config.get("tokenizer_class")
    if stated is not None and not isinstance(stated, str):
        raise CheckpointError(f"tokenizer_class is a name; tokenizer_config.json has {stated!r}")
    if model_type == "encoder-decoder" and isinstance(config.get("encoder"), Mapping):
        model_type = config["encoder"].get("model_type", model_type)  # of what reads
    return declared(stated) if stated else _REGISTERED.get(model_type)


def runtime_files(folder: Path, model_type: str, config: dict[str, Any], *, strict: bool = True) -> dict[str, bytes]:
    """The tokenizer files of an artifact, by name; empty where the checkpoint has no tokenizer.

    ``auto_map`` is ignored where a class or tokenizer.json says the same without code, as upstream ignores it
    unless code is trusted. Nothing of a checkpoint is ever executed.

    :param config: config.json's content, asked for ``tokenizer_class`` only.
    :param strict: False: a tokenizer that cannot be expressed counts as none.
    :raises CheckpointError: a file is malformed, or one of several is missing.
    :raises UnsafeFileError: the tokenizer exists as code only.
    :raises UnsupportedModelError: the tokenizer cannot be expressed as tokenizer.json."""
    folder = Path(folder)
    wanted = ("tokenizer.json",) if model_type in _ALONE else TOKENIZER_FILES
    files = {name: (folder / name).read_bytes() for name in wanted if (folder / name).is_file()}
    slow = [name for name in _SLOW_FILES if (folder / name).is_file()]
    tokenizer_config = read_json(files.get("tokenizer_config.json"), "tokenizer_config.json")
    if "tokenizer.json" not in files and not slow:
        kind = _KINDS.get(tokenizer_class(model_type, config, tokenizer_config) or "")
        if kind is None or not kind.bare:
            return {}
    if (templates := read_chat_templates(folder)) is not None:
        tokenizer_config["chat_template"] = templates
    try:
        name = tokenizer_class(model_type, config, tokenizer_config)
        kind = _kind(name, "tokenizer.json" in files, slow, tokenizer_config)
    except (UnsupportedModelError, UnsafeFileError):
        if strict:
            raise
        return {}
    return _build(folder, files, tokenizer_config, name, kind).files()


def _kind(name: str | None, has_json: bool, slow: list[str], tokenizer_config: Mapping[str, Any]) -> Kind | None:
    """How to build this class; None: tokenizer.json is the tokenizer."""
    if name in _PYTHON_ONLY and not (has_json and name in _OFTEN_CONVERTED):
        raise UnsupportedModelError(
            f"{name} cannot be expressed as a tokenizer.json: {_PYTHON_ONLY[name]}. Export the model without its "
            "tokenizer and pass token ids, or put a tokenizer.json made for it, with 'tokenizer_class': "
            "'PreTrainedTokenizerFast' in tokenizer_config.json, into the folder"
        )
    versioned = [str(entry) for entry in tokenizer_config.get("fast_tokenizer_files") or ()]
    if any(re.fullmatch(r"tokenizer\..+\.json", entry) for entry in versioned):
        raise UnsupportedModelError(
            "a tokenizer.json for each library version (fast_tokenizer_files) is not supported; keep the newest as "
            f"tokenizer.json and remove the key; got {listing(versioned)}"
        )
    if name in _KINDS:
        return _KINDS[name]
    auto_map = tokenizer_config.get("auto_map")
    if name is not None and (
        isinstance(auto_map, list) or (isinstance(auto_map, dict) and "AutoTokenizer" in auto_map)
    ):
        raise UnsafeFileError(
            f"the tokenizer {name} is Python code of the checkpoint, which is never executed here. Save it as a "
            "tokenizer.json with 'tokenizer_class': 'PreTrainedTokenizerFast'"
        )
    if has_json:
        return None
    raise UnsupportedModelError(
        f"no conversion to tokenizer.json for {name or 'a tokenizer without a class'} from {listing(slow)}. Add the "
        f"checkpoint's tokenizer.json; without one, these can be converted: {listing(sorted(_KINDS))}"
    )


def _build(
    folder: Path, files: Mapping[str, bytes], tokenizer_config: dict[str, Any], name: str | None, kind: Kind | None
) -> Tokenizer:
    data = files.get("tokenizer.json")
    written = None if data is None else parse_backend(data)
    kwargs, by_id = merge(
        tokenizer_config,
        read_json(files.get("special_tokens_map.json"), "special_tokens_map.json"),
        read_json(files.get("added_tokens.json"), "added_tokens.json"),
        None if written is None else written.get_added_tokens_decoder(),
    )
    if kind is not None and kind.keep and written is not None:
        return _as_written(written, kwargs, by_id, kind)
    # A file whose model is not the class's own is the better witness of what the checkpoint was trained with.
    if kind is None or (written is not None and type(written.model).__name__ != kind.model):
        if written is None:
            raise CheckpointError(f"{folder} holds no tokenizer.json")
        kwargs.setdefault("model_input_names", list(kind.input_names) if kind else ["input_ids", "attention_mask"])
        return Tokenizer.assemble(written, kwargs, by_id)

    if data is not None and written is not None:
        vocabulary = Vocabulary.from_json(read_json(data, "tokenizer.json"), kind)
        if written.truncation is not None:
            kwargs.setdefault("truncation_side", written.truncation["direction"])
        if written.padding is not None:
            kwargs.setdefault("padding_side", written.padding["direction"])
    else:
        vocabulary = kind.read(folder, kwargs)
        if vocabulary.control is not None:
            kwargs["additional_special_tokens"] = vocabulary.control
    arguments = kind.defaults(kwargs)
    backend = kind.construct(vocabulary, arguments)
    if written is not None and written.post_processor is not None:
        backend.post_processor = written.post_processor
    finish = kind.finish
    return Tokenizer.assemble(backend, arguments, by_id, lambda ready, settings: finish(ready, settings, arguments))


def _as_written(written: Backend, kwargs: dict[str, Any], by_id: Mapping[int, AddedToken], kind: Kind) -> Tokenizer:
    """tokenizer.json with the settings that its class has where none are stated."""
    for name, value in kind.arguments.items():
        if name in NAMED_TOKENS and written.token_to_id(str(value)) is None:
            continue  # of another vocabulary than the class's usual one
        if name in NAMED_TOKENS or name == "padding_side":
            kwargs.setdefault(name, value)
    kwargs.setdefault("model_input_names", list(kind.input_names))
    prefix, cut = kwargs.get("add_prefix_space"), written.pre_tokenizer
    if prefix is not None and isinstance(cut, pre_tokenizers.ByteLevel):
        cut.add_prefix_space = bool(prefix)
        written.pre_tokenizer = cut
    if not kind.refinish:
        return Tokenizer.assemble(written, kwargs, by_id)
    return Tokenizer.assemble(written, kwargs, by_id, lambda ready, settings: kind.finish(ready, settings, kwargs))
