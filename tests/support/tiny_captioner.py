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

__all__ = [
    "TASK",
    "captioner",
    "checkpoint",
    "page_checkpoint",
    "page_reader",
    "screen_checkpoint",
    "screen_reader",
]

TASK = "<s_task>"
# Donut's, of questions to pages.
ASKED = ("<s_docvqa>", "<s_question>", "</s_question>", "<s_answer>", "</s_answer>")


def captioner() -> Path:
    """The artifact of a tiny ViT with BERT behind it. Do not change it: copy it first."""
    return once("artifact-captioner", partial(export_model, checkpoint()))


def checkpoint() -> Path:
    """Its checkpoint."""
    return once("checkpoint-captioner", _make)


def screen_reader() -> Path:
    """The artifact of a tiny Pix2Struct. Do not change it: copy it first."""
    return once("artifact-screen-reader", partial(export_model, screen_checkpoint()))


def screen_checkpoint() -> Path:
    """Its checkpoint."""
    return once("checkpoint-screen-reader", _make_screen_reader)


def page_reader() -> Path:
    """The artifact of a tiny Donut. Do not change it: copy it first."""
    return once("artifact-page-reader", partial(export_model, page_checkpoint()))


def page_checkpoint() -> Path:
    """Its checkpoint."""
    return once("checkpoint-page-reader", _make_page_reader)


def _tokenizer(folder: Path, special: tuple[str, ...] = (TASK,)) -> int:
    """How many tokens there are."""
    folder.mkdir()
    tokenizer = tiny_tokenizer("byte_level")
    tokenizer.add_special_tokens(list(special))
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"},
    )
    write_json(folder / "generation_config.json", {"decoder_start_token_id": 2, "eos_token_id": 0, "pad_token_id": 1})
    size: int = tokenizer.get_vocab_size()
    return size


def _make(folder: Path) -> None:
    size, tiny = _tokenizer(folder), find_family("vision-encoder-decoder").tiny
    decoder = {**tiny["decoder"], "vocab_size": size, "max_position_embeddings": 40}
    config, model = oracle.upstream("vision-encoder-decoder", IMAGE_TEXT, {"decoder": decoder})
    oracle.save_checkpoint(folder, config, model)
    settings = {"image_processor_type": "ViTImageProcessor", "size": {"height": 12, "width": 12}}
    write_json(folder / "preprocessor_config.json", settings)


def _make_screen_reader(folder: Path) -> None:
    size, tiny = _tokenizer(folder), find_family("pix2struct").tiny
    text = {**tiny["text_config"], "vocab_size": size}
    config, model = oracle.upstream("pix2struct", IMAGE_TEXT, {"text_config": text})
    oracle.save_checkpoint(folder, config, model)
    settings = {"image_processor_type": "Pix2StructImageProcessor", "max_patches": 12, "patch_size": 2}
    write_json(folder / "preprocessor_config.json", settings)


def _make_page_reader(folder: Path) -> None:
    size, tiny = _tokenizer(folder, ASKED), find_family("vision-encoder-decoder").variations[0]
    decoder = {**tiny["decoder"], "vocab_size": size, "max_position_embeddings": 80}
    config, model = oracle.upstream("vision-encoder-decoder", IMAGE_TEXT, {**tiny, "decoder": decoder})
    oracle.save_checkpoint(folder, config, model)
    settings = {"image_processor_type": "DonutImageProcessor", "size": {"height": 40, "width": 28}}
    write_json(folder / "preprocessor_config.json", settings)
