"""Names on the Hub: what an id, a revision and the files of a checkpoint look like. Nothing is asked for it."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from typing import Final

from precast.runtime.errors import InputError

__all__ = ["CHAT_TEMPLATE_FOLDER", "VOICES", "check_id", "check_revision", "looks_like_hub_id", "wanted_files"]

_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)

# What an export reads besides weights; the same names count in a module's folder (0_Transformer, 1_Pooling ...).
_DATA: Final = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "bpe.codes",
    "dict.txt",
    "entity_vocab.json",
    "normalizer.json",
    "*.model",
    "*.spm",
    "*.tiktoken",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "chat_template.json",
    "*.jinja",
    "modules.json",
    "config_sentence_transformers.json",
    "adapter_config.json",
    "sentence_*_config.json",
    "speaker_embeddings_path.json",
)
CHAT_TEMPLATE_FOLDER: Final = "additional_chat_templates"
VOICES: Final = "speaker_embeddings"
_MODULE = re.compile(r"\d+_\w+", re.ASCII)
_WEIGHTS: Final = (
    ("model.safetensors",),
    ("model.safetensors.index.json", "model-*-of-*.safetensors"),
    ("pytorch_model.bin",),
    ("pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"),
)


def looks_like_hub_id(source: str) -> bool:
    """Whether ``source`` is spelled like ``name`` or ``org/name``, and not like a path."""
    plain = bool(_ID.fullmatch(source)) and len(source) <= 96
    return plain and ".." not in source and "--" not in source and not source.endswith((".", "-", ".git", "/"))


def check_id(repo_id: str) -> None:
    """``InputError`` for what cannot be a repository's name."""
    if not looks_like_hub_id(repo_id):
        raise InputError(f"A Hub id is 'name' or 'org/name'; {repo_id!r} is not.")


def check_revision(revision: str | None) -> None:
    """Refuse what git would not take for a branch, a tag or a commit (git-check-ref-format)."""
    if revision is None:
        return
    parts = revision.split("/")
    bad = any(not part or part.startswith(".") or part.endswith((".", ".lock")) or ".." in part for part in parts)
    if bad or len(revision) > 200 or not re.fullmatch(r"[^\x00-\x20\x7f\\:?*\[~^]+", revision):
        raise InputError(f"A revision is a branch, a tag or a commit; {revision!r:.100} cannot be one.")


def wanted_files(names: Iterable[str]) -> list[str]:
    """Of a repository's files, those an export reads: data, and one form of the weights a folder, safetensors first."""
    folders: dict[str, set[str]] = {}
    names = list(names)
    for name in names:
        folder, _, file = name.rpartition("/")
        if not folder or folder == CHAT_TEMPLATE_FOLDER or _MODULE.fullmatch(folder):
            folders.setdefault(folder, set()).add(file)
    chosen: list[str] = [name for name in names if name.startswith(f"{VOICES}/") and name.endswith(".npy")]
    for folder, files in folders.items():
        kept = {file for file in files if any(fnmatch.fnmatchcase(file, pattern) for pattern in _DATA)}
        for head, *shards in _WEIGHTS:
            if head in files:
                kept |= {head, *(file for pattern in shards for file in fnmatch.filter(files, pattern))}
                break
        chosen += [f"{folder}/{file}" if folder else file for file in kept]
    return sorted(chosen)
