"""Two tiny language models that were taught something, so that what they say can be checked to be right: an
encoder-decoder that turns digits around, and a decoder that repeats them. Trained once a run, in seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from support.tokenizer_samples import write_json
from support.workers import once

__all__ = ["COPIER", "END", "LONGEST", "PADDING", "REVERSER", "SEPARATOR", "copier", "digits", "reverser"]

PADDING, END, SEPARATOR = 0, 1, 2
LONGEST = 5  # digits of a text
REVERSER, COPIER = "3 2 1 for 1 2 3", "1 2 3 for 1 2 3 ="
_FIRST_DIGIT = 3
# More than there are words, and more positions than a text has: the largest of an export's rounding errors, eager's and
# ours, are then those of a population and not of a few numbers.
_VOCABULARY, _POSITIONS = 64, 160
_BATCH = 64
_UNSEEN = -100  # a label that is not learnt


def digits(text: str) -> list[int]:
    """Ids of the digits of ``text``, without the end's."""
    return [_FIRST_DIGIT + int(digit) for digit in text]


def reverser() -> Path:
    """A checkpoint (BART) whose answer to "123" is "321"; texts end with </s>. Do not change it."""
    return once("reverser", _make_reverser)


def copier() -> Path:
    """A checkpoint (Llama) that continues "123=" with "123". Do not change it."""
    return once("copier", _make_copier)


def _make_reverser(folder: Path) -> None:
    torch.manual_seed(0)
    model = transformers.BartForConditionalGeneration(
        transformers.BartConfig(
            vocab_size=_VOCABULARY,
            d_model=48,
            encoder_layers=1,
            decoder_layers=1,
            encoder_ffn_dim=96,
            decoder_ffn_dim=96,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            max_position_embeddings=_POSITIONS,
            dropout=0.0,
            pad_token_id=PADDING,
            bos_token_id=SEPARATOR,
            eos_token_id=END,
            decoder_start_token_id=PADDING,
            forced_eos_token_id=None,
            init_std=0.05,
        )
    )

    def loss(texts: list[list[int]]) -> torch.Tensor:
        source = _rectangle([[*text, END] for text in texts], PADDING)
        labels = _rectangle([[*text[::-1], END] for text in texts], _UNSEEN)
        found: torch.Tensor = model(input_ids=source, attention_mask=(source != PADDING).long(), labels=labels).loss
        return found

    _taught(model, loss, 300, folder, f"$A {_WORDS[END]}")


def _make_copier(folder: Path) -> None:
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=_VOCABULARY,
            hidden_size=64,
            num_hidden_layers=2,
            intermediate_size=128,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=_POSITIONS,
            pad_token_id=PADDING,
            bos_token_id=None,
            eos_token_id=END,
            initializer_range=0.08,
        )
    )

    def loss(texts: list[list[int]]) -> torch.Tensor:
        whole = _rectangle([[*text, SEPARATOR, *text, END] for text in texts], PADDING)
        labels = _rectangle([[_UNSEEN] * (len(text) + 1) + [*text, END] for text in texts], _UNSEEN)
        found: torch.Tensor = model(input_ids=whole, labels=labels).loss
        return found

    _taught(model, loss, 550, folder, "$A")


_WORDS = ["<pad>", "</s>", "=", *"0123456789"]


def _rectangle(rows: list[list[int]], fill: int) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [fill] * (width - len(row)) for row in rows])


def _taught(
    model: torch.nn.Module, loss: Callable[[list[list[int]]], torch.Tensor], steps: int, folder: Path, template: str
) -> None:
    """Adam on texts of one to five random digits; saved as a checkpoint with a tokenizer."""
    random = Random(0)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * min(1.0, (step + 1) / 30) * (1 - 0.9 * step / steps)
        texts = [
            [_FIRST_DIGIT + random.randrange(10) for _ in range(random.randint(1, LONGEST))] for _ in range(_BATCH)
        ]
        optimiser.zero_grad()
        loss(texts).backward()
        optimiser.step()
    model.eval().save_pretrained(folder)  # type: ignore[operator]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(_WORDS)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, pair=f"{template} $B", special_tokens=[(_WORDS[END], END)]
    )
    tokenizer.add_special_tokens(_WORDS[:2])
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": _WORDS[PADDING], "eos_token": _WORDS[END]},
    )
