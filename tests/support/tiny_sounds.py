"""Tiny checkpoints of models that hear, with what reads their inputs and makes texts of their outputs; and their
artifacts, made once a run of the tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from precast.export.exporter import export_model
from precast.export.families import find_family
from precast.export.heads import (
    AUDIO_CLASSIFICATION,
    CTC,
    SPEECH_SEQ2SEQ,
    VOICE_CONVERSION,
    ZERO_SHOT_AUDIO,
    Head,
)
from support import oracle
from support.tokenizer_samples import byte_level, sentencepiece_model, write_json
from support.workers import once

__all__ = [
    "LETTERS",
    "classifier",
    "classifier_checkpoint",
    "compared",
    "compared_checkpoint",
    "converter",
    "converter_checkpoint",
    "listener",
    "listener_checkpoint",
    "plain",
    "speller",
    "speller_checkpoint",
    "writer",
    "writer_checkpoint",
]

# A vocabulary of letters; of a CTC model, whose blank is the pad.
LETTERS = ("<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVKXJQZ", "'", "AB")


def speller(masked: bool = False) -> Path:
    """The artifact of a tiny wav2vec 2.0 that spells letters. ``masked``: batches have a mask. Do not change it."""
    return _exported(f"speller-{masked}", partial(_make_speller, masked))


def speller_checkpoint(masked: bool = False) -> Path:
    """What it is made of. Do not change it."""
    return once(f"checkpoint-speller-{masked}", partial(_make_speller, masked))


def classifier(model_type: str) -> Path:
    """The artifact of a tiny model of three sounds. Do not change it."""
    return _exported(f"sounds-{model_type}", partial(_make_classifier, model_type))


def classifier_checkpoint(model_type: str) -> Path:
    """What it is made of. Do not change it."""
    return once(f"checkpoint-sounds-{model_type}", partial(_make_classifier, model_type))


def plain(head: Head) -> Path:
    """The artifact of a tiny wav2vec 2.0 for something else. Do not change it."""
    return _exported(f"sounds-{head.task}", partial(_make_plain, head))


def compared(fused: bool) -> Path:
    """The artifact of a tiny CLAP of a second of sound; ``fused``: of parts of longer ones. Do not change it."""
    return _exported(f"compared-{fused}", partial(_make_compared, fused))


def compared_checkpoint(fused: bool) -> Path:
    """What it is made of. Do not change it."""
    return once(f"checkpoint-compared-{fused}", partial(_make_compared, fused))


def writer() -> Path:
    """The artifact of a tiny Whisper of windows of 30 seconds, two languages and bytes for words. Do not change it."""
    return _exported("writer", _make_writer)


def writer_checkpoint() -> Path:
    """What it is made of. Do not change it."""
    return once("checkpoint-writer", _make_writer)


def listener() -> Path:
    """The artifact of a tiny SpeechT5 that writes characters of what it hears. Do not change it."""
    return _exported("listener", _make_listener)


def listener_checkpoint() -> Path:
    """What it is made of. Do not change it."""
    return once("checkpoint-listener", _make_listener)


def converter() -> Path:
    """The artifact of a tiny SpeechT5 that says what it hears. Do not change it."""
    return _exported("converter", _make_converter)


def converter_checkpoint() -> Path:
    """What it is made of. Do not change it."""
    return once("checkpoint-converter", _make_converter)


def _exported(name: str, make: Callable[[Path], object]) -> Path:
    return once(f"artifact-{name}", partial(export_model, once(f"checkpoint-{name}", make)))


def _make_compared(fused: bool, folder: Path) -> None:
    byte_level(folder, ("<s>", "<pad>", "</s>", "<unk>", "<mask>"))
    words = len(json.loads((folder / "vocab.json").read_text(encoding="utf-8")))
    tiny = find_family("clap").tiny
    bins = 64 if fused else 16  # upstream's extractor shrinks no other spectrograms
    sound = {**tiny["audio_config"], "enable_fusion": fused, "num_mel_bins": bins, "spec_size": 64}
    own = {"text_config": {**tiny["text_config"], "vocab_size": words}, "audio_config": sound}
    oracle.save_checkpoint(folder, *oracle.upstream("clap", ZERO_SHOT_AUDIO, own))
    settings = {"feature_extractor_type": "ClapFeatureExtractor", "sampling_rate": 8000, "max_length_s": 1}
    settings |= {"hop_length": 160, "fft_window_size": 512, "frequency_max": 3900, "feature_size": bins}
    write_json(folder / "preprocessor_config.json", settings | {"truncation": "fusion" if fused else "rand_trunc"})
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "RobertaTokenizer", "model_max_length": 60})


def _make_speller(masked: bool, folder: Path) -> None:
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config, model = oracle.upstream("wav2vec2", CTC, {"vocab_size": len(LETTERS), **special})
    with torch.no_grad():  # so that not all frames are one letter
        model.lm_head.weight.mul_(4)
    oracle.save_checkpoint(folder, config, model)
    write_json(folder / "vocab.json", {letter: number for number, letter in enumerate(LETTERS)})
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "Wav2Vec2CTCTokenizer", "do_lower_case": masked})
    transformers.Wav2Vec2FeatureExtractor(return_attention_mask=masked).save_pretrained(folder)


def _make_plain(head: Head, folder: Path) -> None:
    oracle.save_checkpoint(folder, *oracle.upstream("wav2vec2", head))
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)


def _make_classifier(model_type: str, folder: Path) -> None:
    labels = dict(enumerate(["yes", "no", "up"]))
    named = {"id2label": labels, "label2id": {name: number for number, name in labels.items()}}
    config, model = oracle.upstream(model_type, AUDIO_CLASSIFICATION, named)
    oracle.save_checkpoint(folder, config, model)
    if model_type == "audio-spectrogram-transformer":
        sizes = {"num_mel_bins": config["num_mel_bins"], "max_length": config["max_length"]}
        transformers.ASTFeatureExtractor(**sizes).save_pretrained(folder)
    else:
        transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)


# Behind 256 bytes; timestamps follow.
_SPECIAL = (
    *("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>", "<|transcribe|>"),
    *("<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"),
)


def _make_writer(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in _SPECIAL])
    stamps = [f"<|{number * 0.02:.2f}|>" for number in range(1501)]
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in stamps])
    tokenizer.save(str(folder / "tokenizer.json"))
    ids = {token: tokenizer.token_to_id(token) for token in _SPECIAL}
    end, start = ids["<|endoftext|>"], ids["<|startoftranscript|>"]
    tokens = {"eos_token_id": end, "pad_token_id": end, "bos_token_id": end, "decoder_start_token_id": start}
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "WhisperTokenizer",
            "additional_special_tokens": list(_SPECIAL[1:]),
            **dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), "<|endoftext|>"),
        },
    )
    sizes = {"vocab_size": tokenizer.get_vocab_size(), "max_source_positions": 1500, "max_target_positions": 100}
    config, model = oracle.upstream("whisper", SPEECH_SEQ2SEQ, {**sizes, **tokens})
    with torch.no_grad():  # so that what comes next depends on what came before
        for name, value in model.named_parameters():
            if "decoder" in name and value.ndim == 2:
                value.mul_(1.5)
    oracle.save_checkpoint(folder, config, model)
    transformers.WhisperFeatureExtractor(feature_size=config["num_mel_bins"]).save_pretrained(folder)
    said: dict[str, Any] = {
        **tokens,
        "lang_to_id": {name: ids[name] for name in ("<|en|>", "<|de|>")},
        "task_to_id": {name: ids[f"<|{name}|>"] for name in ("translate", "transcribe")},
        "prev_sot_token_id": ids["<|startofprev|>"],
        "no_timestamps_token_id": ids["<|notimestamps|>"],
        "max_initial_timestamp_index": 50,
        "is_multilingual": True,
        "suppress_tokens": [ids[name] for name in _SPECIAL[1:-1]],
        "begin_suppress_tokens": [end],
        "return_timestamps": False,
        "alignment_heads": [[0, 1], [1, 0], [1, 3]],
        "max_length": 100,
    }
    write_json(folder / "generation_config.json", said)


def _make_listener(folder: Path) -> None:
    ids = {"bos_id": 0, "pad_id": 1, "eos_id": 2, "unk_id": 3}
    sentencepiece_model(folder, "spm_char.model", model_type="char", **ids)
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "SpeechT5Tokenizer"})
    pieces = len(transformers.SpeechT5Tokenizer.from_pretrained(folder))
    own = {"vocab_size": pieces, "max_text_positions": 300, "decoder_layers": 2}
    config, model = oracle.upstream("speecht5", SPEECH_SEQ2SEQ, own)
    with torch.no_grad():  # so that what comes next depends on what came before
        for name, value in model.named_parameters():
            if "decoder" in name and value.ndim == 2:
                value.mul_(1.5)
    oracle.save_checkpoint(folder, config, model)
    transformers.SpeechT5FeatureExtractor(do_normalize=True).save_pretrained(folder)


def _make_converter(folder: Path) -> None:
    config, model = oracle.upstream("speecht5", VOICE_CONVERSION, {"max_speech_positions": 300, "decoder_layers": 2})
    oracle.save_checkpoint(folder, config, model)
    transformers.SpeechT5FeatureExtractor().save_pretrained(folder)
