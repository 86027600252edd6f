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

# Frames are told apart one by one, since it is known which tone each of them is in: to learn by CTC's own loss where
# letters are would take minutes.

LETTERS = "ABCDEFGH"
_RATE = 16_000
_TONE, _REST = 960, 480  # samples
_STEPS, _BATCH, _LENGTH, _LEARNING = 70, 6, 5, 8e-3
_STRIDE, _REACH = 160, 10 + 15 * 5 + 7 * 40  # samples of a frame, and from its first to its last
_PITCHES = 300 * 1.35 ** np.arange(len(LETTERS))  # Hz


def melody(text: str, seed: int = 0) -> np.ndarray:
    """Float32 [samples] of letters and spaces: tones as loud as they come, rests between them, noise under all."""
    return _played(text, seed)[0]


def _played(text: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The samples, and which letter each is of, int64; -1: none."""
    rng = np.random.default_rng(seed)
    parts, marks = [np.zeros(_REST)], [np.full(_REST, -1)]
    for letter in text:
        length = int(_TONE * rng.uniform(0.8, 1.2))
        time = np.arange(length) / _RATE
        if letter == " ":
            made = rng.standard_normal(length)  # a space is heard, too: as a hiss
        else:
            pitch = _PITCHES[LETTERS.index(letter)] * rng.uniform(0.97, 1.03)
            made = np.sin(2 * np.pi * pitch * time + rng.uniform(0, 6))
        fade = np.minimum(1, np.minimum(time, time[::-1]) * 200)
        parts += [rng.uniform(0.2, 0.9) * fade * made, np.zeros(_REST)]
        marks += [np.full(length, f"{LETTERS} ".index(letter)), np.full(_REST, -1)]
    sound = np.concatenate(parts)
    return (sound + 0.01 * rng.standard_normal(len(sound))).astype(np.float32), np.concatenate(marks)


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
        conv_dim=[16, 24, 48],
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
    optimiser = torch.optim.AdamW(model.parameters(), lr=_LEARNING)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _LEARNING, total_steps=_STEPS)
    ids = np.asarray([*(vocabulary[letter] for letter in LETTERS), vocabulary["|"], 0])  # the last one: of -1
    for step in range(_STEPS):
        texts = ["".join(rng.choice([*LETTERS, " "], _LENGTH)) for _ in range(_BATCH)]
        played = [_played(text, seed=step * _BATCH + number) for number, text in enumerate(texts)]
        shortest = min(len(sound) for sound, _ in played)
        given = extractor([sound[:shortest] for sound, _ in played], sampling_rate=_RATE, return_tensors="pt")
        logits = model(**given).logits
        centres = _REACH // 2 + _STRIDE * np.arange(logits.shape[1])
        labels = torch.from_numpy(np.stack([ids[marks[centres]] for _, marks in played]))
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    save_checkpoint(folder, {**config.to_dict(), "architectures": ["Wav2Vec2ForCTC"]}, model.eval())
    write_json(folder / "vocab.json", vocabulary)
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "Wav2Vec2CTCTokenizer"})
    extractor.save_pretrained(folder)
