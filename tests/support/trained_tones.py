"""Upstream's wav2vec 2.0, small, which has learned in seconds to spell tones: each letter is one of eight."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import transformers

from support.oracle import save_checkpoint
from support.tokenizer_samples import write_json
from support.workers import once

__all__ = ["LETTERS", "checkpoint", "melody"]

LETTERS = "ABCDEFGH"
_RATE = 16_000
_TONE, _REST = 960, 480  # samples
_STEPS, _BATCH, _LENGTH = 220, 8, 6
_PITCHES = 300 * 1.35 ** np.arange(len(LETTERS))  # Hz


def melody(text: str, seed: int = 0) -> np.ndarray:
    """Float32 [samples] of letters and spaces: tones as loud as they come, rests between them, noise under all."""
    rng = np.random.default_rng(seed)
    parts = [np.zeros(_REST)]
    for letter in text:
        length = int(_TONE * rng.uniform(0.8, 1.2))
        if letter == " ":
            parts.append(np.zeros(length))
            continue
        time = np.arange(length) / _RATE
        pitch = _PITCHES[LETTERS.index(letter)] * rng.uniform(0.97, 1.03)
        fade = np.minimum(1, np.minimum(time, time[::-1]) * 200)
        parts += [rng.uniform(0.1, 0.9) * fade * np.sin(2 * np.pi * pitch * time + rng.uniform(0, 6)), np.zeros(_REST)]
    made = np.concatenate(parts)
    return (made + 0.01 * rng.standard_normal(len(made))).astype(np.float32)


def checkpoint() -> Path:
    """Its folder, with a vocabulary and a feature extractor. Do not change it: copy it first."""
    return once("checkpoint-trained-tones", _train)


def _train(folder: Path) -> None:
    torch.manual_seed(0)
    vocabulary = {token: number for number, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *LETTERS])}
    config = transformers.Wav2Vec2Config(
        vocab_size=len(vocabulary),
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        conv_dim=[32, 48, 48],
        conv_stride=[5, 8, 4],
        conv_kernel=[10, 16, 8],
        feat_extract_norm="layer",
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=4,
        do_stable_layer_norm=True,
        ctc_loss_reduction="mean",
        ctc_zero_infinity=True,
        pad_token_id=0,
        **dict.fromkeys(("hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout"), 0.0),
        **dict.fromkeys(("final_dropout", "layerdrop", "mask_time_prob"), 0.0),
    )
    model = transformers.Wav2Vec2ForCTC(config).train()
    extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True)
    rng = np.random.default_rng(0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=_STEPS)
    for step in range(_STEPS):
        texts = ["".join(rng.choice([*LETTERS, " "], rng.integers(3, _LENGTH))) for _ in range(_BATCH)]
        sounds = [melody(text, seed=step * _BATCH + number) for number, text in enumerate(texts)]
        given = extractor(sounds, sampling_rate=_RATE, padding=True, return_tensors="pt")
        ids = [[vocabulary[letter if letter != " " else "|"] for letter in text] for text in texts]
        labels = torch.tensor([row + [-100] * (_LENGTH - len(row)) for row in ids])
        loss = model(**given, labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    save_checkpoint(folder, {**config.to_dict(), "architectures": ["Wav2Vec2ForCTC"]}, model.eval())
    write_json(folder / "vocab.json", vocabulary)
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "Wav2Vec2CTCTokenizer"})
    extractor.save_pretrained(folder)
