"""Tiny checkpoints with a tokenizer, and their artifacts, made once a test process."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from precast.export.exporter import export_model
from precast.export.families import find_family
from precast.export.heads import CAUSAL_LM, HEADS, SEQ2SEQ_LM
from support import oracle
from support.tokenizer_samples import byte_level, wordpiece, write_json

_LABELS = {
    "text-classification": ["contradiction", "neutral", "entailment"],
    "token-classification": ["O", "B-PER", "I-PER", "B-LOC"],
}


@cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="precast-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def checkpoint(task: str, seed: int = 0) -> Path:
    """A tiny BERT with the head of ``task``, every weight random, and a WordPiece vocabulary. Do not change it."""
    return _checkpoint(task, seed)


def language_model() -> Path:
    """The artifact of a tiny GPT-2 with a byte-level vocabulary. Do not change it: copy it first."""
    return _language_model()


def encoder_decoder() -> Path:
    """The artifact of a tiny BART with a byte-level vocabulary. Do not change it: copy it first."""
    return _encoder_decoder()


def artifact(task: str, seed: int = 0) -> Path:
    """The artifact of ``checkpoint(task)``. Do not change it: copy it first."""
    return _artifact(task, seed)


@cache
def pictures(model_type: str) -> Path:
    """The artifact of ``pictures_checkpoint``. Do not change it: copy it first."""
    return export_model(pictures_checkpoint(model_type)[0], _folder() / model_type)


@cache
def pictures_checkpoint(model_type: str) -> tuple[Path, Any]:
    """A tiny model of pictures of 30 x 30 under its last head, with what reads its inputs; and upstream's of it."""
    folder = _folder() / f"checkpoint-{model_type}"
    overrides: dict[str, Any] = {}
    if model_type == "clip":
        wordpiece(folder, ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))
        write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "model_max_length": 60})
        size = len((folder / "vocab.txt").read_text(encoding="utf-8").splitlines())
        text = find_family("clip").tiny["text_config"]
        # A text is read at its end, which is what this tokenizer puts there.
        overrides["text_config"] = {**text, "vocab_size": size, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    config, model = oracle.upstream(model_type, list(find_family(model_type).heads)[-1], overrides)
    oracle.save_checkpoint(folder, config, model)
    kind = {"vit": "ViTImageProcessor", "clip": "CLIPImageProcessor"}[model_type]
    size = {"shortest_edge": 33} if model_type == "clip" else {"height": 30, "width": 30}
    settings = {"image_processor_type": kind, "size": size, "crop_size": {"height": 30, "width": 30}}
    write_json(folder / "preprocessor_config.json", settings)
    return folder, model


@cache
def _checkpoint(task: str, seed: int) -> Path:
    head = next(head for head in HEADS if head.task == task)
    labels = _LABELS.get(task)
    named = (
        {}
        if labels is None
        else {"id2label": dict(enumerate(labels)), "label2id": {n: i for i, n in enumerate(labels)}}
    )
    folder = wordpiece(_folder() / f"checkpoint-{task}-{seed}", ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))
    size = len((folder / "vocab.txt").read_text(encoding="utf-8").splitlines())
    config, model = oracle.upstream("bert", head, {"vocab_size": size, **named}, seed)
    if task == "feature-extraction":
        write_json(
            folder / "modules.json",
            [
                {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
                {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
            ],
        )
        (folder / "1_Pooling").mkdir()
        pooling = {"word_embedding_dimension": config["hidden_size"], "pooling_mode_mean_tokens": True}
        write_json(folder / "1_Pooling" / "config.json", pooling)
    return oracle.save_checkpoint(folder, config, model)


@cache
def _artifact(task: str, seed: int) -> Path:
    return export_model(_checkpoint(task, seed), _folder() / f"artifact-{task}-{seed}")


@cache
def _language_model() -> Path:
    folder = byte_level(_folder() / "checkpoint-gpt2", ("<|endoftext|>",))
    size = len(json.loads((folder / "vocab.json").read_text(encoding="utf-8")))
    tokens = {"vocab_size": size, "bos_token_id": 0, "eos_token_id": 0}
    config, model = oracle.upstream("gpt2", CAUSAL_LM, tokens)
    return export_model(oracle.save_checkpoint(folder, config, model), _folder() / "artifact-gpt2")


@cache
def _encoder_decoder() -> Path:
    folder = byte_level(_folder() / "checkpoint-bart", ("<s>", "<pad>", "</s>", "<unk>", "<mask>"))
    size = len(json.loads((folder / "vocab.json").read_text(encoding="utf-8")))
    tokens = {"vocab_size": size, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    config, model = oracle.upstream("bart", SEQ2SEQ_LM, tokens)
    return export_model(oracle.save_checkpoint(folder, config, model), _folder() / "artifact-bart")
