"""The tokenizer in a GGUF file's metadata, as the two files an artifact holds.

A file states vocabulary and flags; how text becomes tokens is code in llama.cpp (llama-vocab.cpp). Its "llama" model
is sentencepiece's BPE: of all neighbours whose union is a token, the best-scored are joined first. As merges of the
tokenizers library that is every cut of every token, in order of score. "gpt2" is byte-level BPE with its merges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from precast.export.checkpoints.gguf.metadata import Metadata
from precast.export.checkpoints.gguf.reader import read_gguf
from precast.export.checkpoints.gguf.splits import SPLITS
from precast.export.checkpoints.gguf.vocabulary import (
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Vocabulary,
    read_vocabulary,
)
from precast.runtime.errors import CheckpointError, UnsupportedModelError, listing
from precast.runtime.processors.text import Tokenizer
from precast.runtime.processors.vocabulary import is_refusal

__all__ = ["read_tokenizer_files", "tokenizer_files"]

_WORD = "▁"  # sentencepiece's space
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_MOST_CUTTING = 1 << 29  # characters looked at to cut every token everywhere; Gemma's 262,144 tokens take 2^24
_NAMED = {
    "bos_token": "bos",
    "eos_token": "eos",
    "unk_token": "unknown",
    "pad_token": "pad",
    "mask_token": "mask",
    "sep_token": "sep",
}


def read_tokenizer_files(path: Path) -> dict[str, bytes]:
    """``tokenizer_files`` of the model in a ``.gguf`` file."""
    metadata = read_gguf(path).metadata
    return tokenizer_files(metadata, read_vocabulary(metadata))


def tokenizer_files(metadata: Metadata, vocabulary: Vocabulary) -> dict[str, bytes]:
    """tokenizer.json and tokenizer_config.json; empty where the file has no tokenizer.

    Raises ``UnsupportedModelError`` for a kind not known here, ``CheckpointError`` where its data contradict."""
    model = metadata.text("tokenizer.ggml.model", "none")
    if model in ("none", "no_vocab") or not vocabulary.tokens:
        return {}
    if model == "llama":
        backend, add_bos = _sentencepiece(metadata, vocabulary), True
    elif model == "gpt2":
        backend, add_bos = _byte_level(metadata, vocabulary)
    else:
        raise UnsupportedModelError(
            f"{metadata.file}: the tokenizer model {model!r:.40} is not read from GGUF files; llama and gpt2 are. "
            "Put the tokenizer.json of the model's checkpoint into the artifact's place instead"
        )
    if vocabulary.mark is not None:
        # Where several ids have one text, all are read as that text.
        unmark = decoders.Replace(Regex(f"{vocabulary.mark}[0-9]+{vocabulary.mark}"), "")
        backend.decoder = decoders.Sequence([unmark, backend.decoder])
    backend.add_tokens(_added(vocabulary))
    kwargs: dict[str, Any] = {
        name: AddedToken(vocabulary.names[index], normalized=False, special=True)
        for name, attribute in _NAMED.items()
        if (index := getattr(vocabulary, attribute)) is not None
    }
    for flag, default, name in (("add_bos_token", add_bos, "bos"), ("add_eos_token", False, "eos")):
        kwargs[flag] = metadata.flag(f"tokenizer.ggml.{flag}", default) and getattr(vocabulary, name) is not None
    kwargs["chat_template"] = _chat_templates(metadata)
    kwargs["model_input_names"] = ["input_ids", "attention_mask"]
    kwargs["padding_side"] = "left"  # the text to be continued ends the row
    return Tokenizer.assemble(backend, kwargs, {}).files()


def _added(vocabulary: Vocabulary) -> list[AddedToken]:
    """Tokens found in the text as it stands, before anything else: those of control, and those a user defined."""
    ends = set(vocabulary.ends)
    return [
        AddedToken(vocabulary.names[index], normalized=False, special=kind != USER_DEFINED or index in ends)
        for index, kind in enumerate(vocabulary.kinds.tolist())
        if kind in (CONTROL, UNKNOWN, USER_DEFINED) or index in ends
    ]


def _chat_templates(metadata: Metadata) -> str | dict[str, str] | None:
    main = metadata.text("tokenizer.chat_template", None)
    named = {
        name: metadata.text(f"tokenizer.chat_template.{name}")
        for name in metadata.texts("tokenizer.chat_templates", [])
    }
    if not named:
        return main
    return named if main is None else {"default": main, **named}


def _library(metadata: Metadata, **parts: Any) -> Backend:
    try:
        return Backend(models.BPE(**parts))
    except BaseException as error:
        if not is_refusal(error):
            raise
        raise UnsupportedModelError(
            f"{metadata.file}: its merges lead through pieces that have no id, which no tokenizer.json can express: "
            f"{error!s:.160}"
        ) from None


# -- sentencepiece -----------------------------------------------------------------------------------------------------


def _sentencepiece(metadata: Metadata, vocabulary: Vocabulary) -> Backend:
    ids = {name: index for index, name in enumerate(vocabulary.names)}
    unknown = None if vocabulary.unknown is None else vocabulary.names[vocabulary.unknown]
    backend = _library(
        metadata,
        vocab=ids,
        merges=_merges(metadata, vocabulary),
        unk_token=unknown,
        fuse_unk=True,
        byte_fallback=all(byte in ids for byte in _BYTES),
    )
    spaces = normalizers.Replace(" ", _WORD)
    steps: list[Any] = [decoders.Replace(_WORD, " "), decoders.ByteFallback(), decoders.Fuse()]
    if metadata.flag("tokenizer.ggml.add_space_prefix", True):
        backend.normalizer = normalizers.Sequence([normalizers.Prepend(_WORD), spaces])
        steps.append(decoders.Strip(" ", 1, 0))
    else:
        backend.normalizer = spaces
    backend.decoder = decoders.Sequence(steps)
    return backend


def _merges(metadata: Metadata, vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Every cut of every token into two tokens, best score first, then the longest left part."""
    scores = metadata.array("tokenizer.ggml.scores", None)
    if scores is None or len(scores) != len(vocabulary.tokens):
        raise CheckpointError(
            f"{metadata.file}: a llama tokenizer needs one score for each of {len(vocabulary.tokens)} tokens "
            f"(tokenizer.ggml.scores); there are {0 if scores is None else len(scores)}. Convert the model anew."
        )
    if not np.isfinite(scores).all():
        raise CheckpointError(f"{metadata.file}: tokenizer.ggml.scores holds NaN or Inf. Convert the model anew.")
    if sum(len(token) ** 2 for token in vocabulary.tokens) > _MOST_CUTTING:
        longest = max(vocabulary.tokens, key=len)
        raise CheckpointError(
            f"{metadata.file}: tokens are pieces of words, and some are too long for that; the longest has "
            f"{len(longest)} characters: {longest!r:.40}... Download it again."
        )
    plain = np.isin(vocabulary.kinds, (NORMAL, UNUSED)).tolist()
    if vocabulary.mark is not None:
        plain = [
            kind and name == token for kind, name, token in zip(plain, vocabulary.names, vocabulary.tokens, strict=True)
        ]
    pieces = {token: index for index, token in enumerate(vocabulary.tokens) if plain[index]}
    merges: list[tuple[str, str]] = []
    for index in np.argsort(-scores.astype(np.float64), kind="stable").tolist():
        token = vocabulary.tokens[index]
        if plain[index] and len(token) > 1:
            for cut in range(len(token) - 1, 0, -1):
                if token[:cut] in pieces and token[cut:] in pieces:
                    merges.append((token[:cut], token[cut:]))
    return merges


# -- byte-level --------------------------------------------------------------------------------------------------------


def _byte_level(metadata: Metadata, vocabulary: Vocabulary) -> tuple[Backend, bool]:
    """The backend, and whether it adds the bos token where the file does not say."""
    name = metadata.text("tokenizer.ggml.pre", "default")
    split = SPLITS.get(name)
    if split is None:
        raise UnsupportedModelError(
            f"{metadata.file} cuts text in the way {name!r:.40} (tokenizer.ggml.pre), which is not known here; known "
            f"are {listing(SPLITS)}"
        )
    merges = []
    for merge in metadata.texts("tokenizer.ggml.merges"):
        middle = merge.find(" ", 1)
        if middle < 0 or middle == len(merge) - 1:
            raise CheckpointError(
                f"{metadata.file}: tokenizer.ggml.merges holds pairs with a space between; found {merge!r:.80}. "
                "Download it again."
            )
        merges.append((merge[:middle], merge[middle + 1 :]))
    backend = _library(
        metadata,
        vocab={name: index for index, name in enumerate(vocabulary.names)},
        merges=merges,
        ignore_merges=split.ignore_merges,
    )
    if split.nfc:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in split.patterns),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    return backend, split.add_bos
