"""A tiny classifier that was taught to tell of a passage in NumPy's documentation which part of NumPy it is about."""

from __future__ import annotations

import importlib
import inspect
import json
from pathlib import Path
from random import Random

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from support.tokenizer_samples import write_json
from support.workers import once

__all__ = ["PARTS", "classifier"]

PARTS = ("numpy.ma", "numpy.polynomial", "numpy.random")
_LONGEST = 40  # tokens
_WORDS = 16  # of a passage
_STEPS, _BATCH = 120, 32


def classifier() -> tuple[Path, Path]:
    """A checkpoint (BERT) and a file of JSON lines, ``text`` and ``part``, of passages it has not seen. Do not change
    them."""
    folder = once("numpy-classifier", _make)
    return folder, folder / "unseen.jsonl"


def passages() -> list[tuple[str, str]]:
    """(words, part) of the documentation, each passage once."""
    found: dict[str, str] = {}
    for part in PARTS:
        module = importlib.import_module(part)
        held = [value for name, value in sorted(vars(module).items()) if not name.startswith("_")]
        held += [
            value
            for one in held
            if inspect.isclass(one)
            for name, value in sorted(vars(one).items())
            if not name.startswith("_")
        ]
        for value in held:
            words = (inspect.getdoc(value) or "").split()
            for start in range(0, len(words) - _WORDS + 1, _WORDS):
                found.setdefault(" ".join(words[start : start + _WORDS]), part)
    pairs = sorted(found.items())
    Random(0).shuffle(pairs)
    # No part has more than another.
    least = min(sum(part == one for _, part in pairs) for one in PARTS)
    taken = [pair for one in PARTS for pair in [pair for pair in pairs if pair[1] == one][:least]]
    Random(1).shuffle(taken)
    return taken


def _make(folder: Path) -> None:
    pairs = passages()
    seen, unseen = pairs[: 3 * len(pairs) // 4], pairs[3 * len(pairs) // 4 :]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=800, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([text for text, _ in seen], trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.enable_truncation(_LONGEST)
    tokenizer.enable_padding()
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=128,
        id2label=dict(enumerate(PARTS)),
        label2id={part: index for index, part in enumerate(PARTS)},
        initializer_range=0.05,
    )
    model = transformers.BertForSequenceClassification(config)
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    random = Random(2)
    for step in range(_STEPS):
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 20) * (1 - 0.9 * step / _STEPS)
        some = random.sample(seen, _BATCH)
        encodings = tokenizer.encode_batch([text for text, _ in some])
        given = {
            "input_ids": torch.tensor([one.ids for one in encodings]),
            "attention_mask": torch.tensor([one.attention_mask for one in encodings]),
        }
        labels = torch.tensor([PARTS.index(part) for _, part in some])
        optimiser.zero_grad()
        model(**given, labels=labels).loss.backward()
        optimiser.step()
    model.eval().save_pretrained(folder)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    write_json(
        folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizerFast", "model_max_length": 128, **names}
    )
    lines = (json.dumps({"text": text, "part": part}) for text, part in unseen)
    (folder / "unseen.jsonl").write_text("\n".join(lines), encoding="utf-8")
