"""A tiny language model that reads pictures, with a tokenizer, a template and an image processor, made once a run."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import transformers
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from precast.export.exporter import export_model
from precast.export.families import find_family
from precast.export.heads import IMAGE_TEXT
from support import oracle
from support.generation_tokenizers import tiny_tokenizer
from support.tokenizer_samples import write_json
from support.workers import once

# As LLaVA's checkpoints have it: contents are lists of parts, pictures in front of texts.
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% endif %}{% endfor %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}</s>{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
# As SmolVLM's have it: parts in their order.
TILER_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}<end_of_utterance>"
    "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)
PLACES = 4  # features of a picture of 12 x 12, patches of 6


def seer() -> Path:
    """The artifact of a tiny LLaVA. Do not change it: copy it first."""
    return once("artifact-llava", partial(export_model, checkpoint()))


def checkpoint() -> Path:
    """Its checkpoint."""
    return once("checkpoint-llava", _make)


def processor() -> Any:
    """Upstream's, of the same files."""
    source = checkpoint()
    return transformers.LlavaProcessor(
        image_processor=CLIPImageProcessorPil.from_pretrained(source),
        tokenizer=transformers.AutoTokenizer.from_pretrained(source),
        patch_size=6,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )


def tiler() -> Path:
    """The artifact of a tiny SmolVLM, which cuts pictures into tiles. Do not change it: copy it first."""
    return once("artifact-smolvlm", partial(export_model, tiler_checkpoint()))


def tiler_checkpoint() -> Path:
    """Its checkpoint."""
    return once("checkpoint-smolvlm", _make_tiler)


def tiler_processor() -> Any:
    """Upstream's, of the same files."""
    source = tiler_checkpoint()
    return transformers.Idefics3Processor(
        Idefics3ImageProcessorPil.from_pretrained(source),
        transformers.AutoTokenizer.from_pretrained(source),
        image_seq_len=PLACES,
        chat_template=TILER_TEMPLATE,
    )


def _words(folder: Path, special: list[str], template: str) -> Any:
    folder.mkdir()
    tokenizer = tiny_tokenizer("byte_level")
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
        | {"padding_side": "left", "chat_template": template},
    )
    write_json(folder / "generation_config.json", {"eos_token_id": 0, "pad_token_id": 1})
    return tokenizer


def _written(folder: Path, model_type: str, tokenizer: Any) -> None:
    text = dict(find_family(model_type).tiny["text_config"])
    text |= {"vocab_size": tokenizer.get_vocab_size(), "pad_token_id": 1, "eos_token_id": 0}
    overrides = {"text_config": text, "image_token_id": tokenizer.token_to_id("<image>")}
    oracle.save_checkpoint(folder, *oracle.upstream(model_type, IMAGE_TEXT, overrides))


def _make(folder: Path) -> None:
    _written(folder, "llava", _words(folder, ["<image>"], TEMPLATE))
    settings = {"size": {"shortest_edge": 12}, "crop_size": {"height": 12, "width": 12}}
    write_json(folder / "preprocessor_config.json", {"image_processor_type": "CLIPImageProcessor", **settings})


def _make_tiler(folder: Path) -> None:
    rows = [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
    special = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *rows]
    _written(folder, "smolvlm", _words(folder, special, TILER_TEMPLATE))
    settings = {"size": {"longest_edge": 48}, "max_image_size": {"longest_edge": 24}}
    write_json(folder / "preprocessor_config.json", {"image_processor_type": "Idefics3ImageProcessor", **settings})
