"""What is said in recordings, written down by a decoder behind an encoder of speech of another family: as upstream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import transformers
from support import oracle
from support.generation_tokenizers import tiny_tokenizer
from support.tokenizer_samples import write_json

import precast
from precast.export.families import find_family
from precast.export.heads import SPEECH_SEQ2SEQ


def test_transcripts_are_upstreams(tmp_path: Path) -> None:
    """Of one recording, and of several of different lengths in a batch."""
    source, size = tmp_path / "checkpoint", tiny_tokenizer("byte_level").get_vocab_size()
    tiny = find_family("speech-encoder-decoder").tiny
    overrides = {"decoder": {**tiny["decoder"], "vocab_size": size, "max_position_embeddings": 40}}
    config, model = oracle.upstream("speech-encoder-decoder", SPEECH_SEQ2SEQ, overrides)
    oracle.save_checkpoint(source, config, model)
    tiny_tokenizer("byte_level").save(str(source / "tokenizer.json"))
    write_json(
        source / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"},
    )
    write_json(source / "generation_config.json", {"decoder_start_token_id": 2, "eos_token_id": 0, "pad_token_id": 1})
    transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(source)
    made = precast.export_model(source, tmp_path / "artifact")
    rng = np.random.default_rng(0)
    sounds = [(0.1 * rng.normal(size=length)).astype(np.float32) for length in (16000, 9001, 4000)]
    arguments: Any = {"max_new_tokens": 8, "num_beams": 1}
    theirs = transformers.pipeline("automatic-speech-recognition", str(source))
    expected = [theirs(sound.copy(), generate_kwargs=dict(arguments)) for sound in sounds]
    ours = precast.pipeline("automatic-speech-recognition", made)
    assert [ours(sound, **arguments) for sound in sounds] == expected
    assert ours(sounds, batch_size=3, **arguments) == expected
    assert expected[0]["text"]
