"""A tiny model that writes what a picture shows, with a tokenizer and an image processor, made once a run."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from precast.export.exporter import export_model
from precast.export.families import find_family
from precast.export.heads import IMAGE_TEXT
from support import oracle
from support.generation_tokenizers import tiny_tokenizer
from support.tokenizer_samples import write_json
from support.workers import once

__all__ = ["TASK", "captioner", "checkpoint"]

TASK = "<s_task>"


def captioner() -> Path:
    """The artifact of a tiny ViT with BERT behind it. Do not change it: copy it first."""
    return once("artifact-captioner", partial(export_model, checkpoint()))


def checkpoint() -> Path:
    """Its checkpoint."""
    return once("checkpoint-captioner", _make)


def _make(folder: Path) -> None:
    folder.mkdir()
    tokenizer = tiny_tokenizer("byte_level")
    tokenizer.add_special_tokens([TASK])
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"},
    )
    tiny = find_family("vision-encoder-decoder").tiny
    decoder = {**tiny["decoder"], "vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": 40}
    config, model = oracle.upstream("vision-encoder-decoder", IMAGE_TEXT, {"decoder": decoder})
    oracle.save_checkpoint(folder, config, model)
    settings = {"image_processor_type": "ViTImageProcessor", "size": {"height": 12, "width": 12}}
    write_json(folder / "preprocessor_config.json", settings)
    write_json(folder / "generation_config.json", {"decoder_start_token_id": 2, "eos_token_id": 0, "pad_token_id": 1})
