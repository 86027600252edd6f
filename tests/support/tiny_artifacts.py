"""Tiny checkpoints with a tokenizer, and their artifacts, made once a run of the tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from precast.export.exporter import export_model
from precast.export.families import find_family
from precast.export.heads import (
    BASE,
    CAUSAL_LM,
    HEADS,
    OBJECT_DETECTION,
    SEQ2SEQ_LM,
    SPEECH_SEQ2SEQ,
    TEXT_TO_SPECTROGRAM,
    TEXT_TO_WAVEFORM,
    UNIVERSAL_SEGMENTATION,
    VISUAL_QUESTIONS,
    Head,
)
from support import oracle, trained_matcher
from support.tokenizer_samples import byte_level, sentencepiece_model, wordpiece, write_json
from support.workers import once

_LABELS = {
    "text-classification": ["contradiction", "neutral", "entailment"],
    "token-classification": ["O", "B-PER", "I-PER", "B-LOC"],
}


def checkpoint(task: str, seed: int = 0) -> Path:
    """A tiny BERT with the head of ``task``, every weight random, and a WordPiece vocabulary. Do not change it."""
    return once(f"checkpoint-{task}-{seed}", partial(_make_checkpoint, task, seed))


def language_model() -> Path:
    """The artifact of a tiny GPT-2 with a byte-level vocabulary. Do not change it: copy it first."""
    return _exported("gpt2", _make_decoder)


def encoder_decoder() -> Path:
    """The artifact of a tiny BART with a byte-level vocabulary. Do not change it: copy it first."""
    return _exported("bart", _make_encoder_decoder)


# Of a tiny Whisper: words are below the end, and times are the last tokens.
SPEECH: dict[str, Any] = {
    "eos_token_id": 69, "pad_token_id": 69, "bos_token_id": 69, "decoder_start_token_id": 70,
    "lang_to_id": {"<|en|>": 71, "<|de|>": 72, "<|fr|>": 73}, "task_to_id": {"translate": 74, "transcribe": 75},
    "prev_sot_token_id": 76, "no_timestamps_token_id": 78, "max_initial_timestamp_index": 6, "is_multilingual": True,
    "suppress_tokens": [1, 5, 70, 71, 72, 73, 74, 75, 76, 77], "begin_suppress_tokens": [9, 69],
    "alignment_heads": [[0, 1], [1, 0], [1, 3]], "return_timestamps": False, "max_length": 60,
    "forced_decoder_ids": [[1, None], [2, 75]],
}  # fmt: skip


def recogniser() -> Path:
    """The artifact of a tiny Whisper of three languages, without a tokenizer. Do not change it: copy it first."""
    return _exported("recogniser", _make_recogniser)


def recogniser_checkpoint() -> tuple[Path, Any]:
    """What it is made of; and upstream's of it."""
    folder = once("checkpoint-recogniser", _make_recogniser)
    return folder, transformers.AutoModelForSpeechSeq2Seq.from_pretrained(folder, attn_implementation="eager").eval()


def artifact(task: str, seed: int = 0) -> Path:
    """The artifact of ``checkpoint(task)``. Do not change it: copy it first."""
    return _exported(f"{task}-{seed}", partial(_make_checkpoint, task, seed))


def pictures(model_type: str) -> Path:
    """The artifact of ``pictures_checkpoint``. Do not change it: copy it first."""
    return _exported(model_type, partial(_make_pictures, model_type))


def towers() -> Path:
    """The artifact of `towers_checkpoint`. Do not change it: copy it first."""
    return _exported("towers", _make_towers)


def towers_checkpoint() -> Path:
    """A tiny CLIP as sentence-transformers' older folders on the Hub have it: in a folder of its own. Do not change
    it."""
    return once("checkpoint-towers", _make_towers)


def picture_features() -> Path:
    """The artifact of a tiny ViT without a head. Do not change it: copy it first."""
    return _exported("vit-base", _make_picture_features)


def picture_features_checkpoint() -> tuple[Path, Any]:
    """What it is made of; and upstream's of it."""
    folder = once("checkpoint-vit-base", _make_picture_features)
    return folder, transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()


def pictures_checkpoint(model_type: str) -> tuple[Path, Any]:
    """A tiny model of pictures of 30 x 30 under its last head, with what reads its inputs; and upstream's of it."""
    folder = once(f"checkpoint-{model_type}", partial(_make_pictures, model_type))
    kind = getattr(transformers, str(_last_head(model_type).facts.auto))
    return folder, kind.from_pretrained(folder, attn_implementation="eager").eval()


def visual_answerer() -> Path:
    """The artifact of `visual_answerer_checkpoint`. Do not change it: copy it first."""
    return _exported("visual-answerer", _make_visual_answerer)


def visual_answerer_checkpoint() -> Path:
    """A tiny ViLT that knows seven answers, with what reads its inputs, every weight random. Do not change it."""
    return once("checkpoint-visual-answerer", _make_visual_answerer)


def segmenter(model_type: str) -> Path:
    """The artifact of `segmenter_checkpoint`. Do not change it: copy it first."""
    return _exported(f"segmenter-{model_type}", partial(_make_segmenter, model_type))


def segmenter_checkpoint(model_type: str) -> tuple[Path, Any]:
    """A tiny model of 12 segments and 70 labels, which it is sure of; and upstream's of it. Do not change it."""
    folder = once(f"checkpoint-segmenter-{model_type}", partial(_make_segmenter, model_type))
    kind = transformers.AutoModelForUniversalSegmentation
    return folder, kind.from_pretrained(folder, attn_implementation="eager").eval()


def detector(model_type: str) -> Path:
    """The artifact of `detector_checkpoint`. Do not change it: copy it first."""
    return _exported(f"detector-{model_type}", partial(_make_detector, model_type))


def detector_checkpoint(model_type: str) -> Path:
    """A tiny detector of three labels with its image processor, every weight random. Do not change it."""
    return once(f"checkpoint-detector-{model_type}", partial(_make_detector, model_type))


def speaker() -> Path:
    """The artifact of `speaker_checkpoint`. Do not change it: copy it first."""
    return _exported("speaker", _make_speaker)


def storyteller() -> Path:
    """The artifact of `storyteller_checkpoint`. Do not change it: copy it first."""
    return _exported("storyteller", _make_storyteller)


def storyteller_checkpoint() -> Path:
    """A tiny Bark with a WordPiece vocabulary and two voices. Do not change it."""
    return once("checkpoint-storyteller", _make_storyteller)


def speaker_checkpoint() -> Path:
    """A tiny VITS of three voices that reads letters, every weight random. Do not change it."""
    return once("checkpoint-speaker", _make_speaker)


def reciter() -> Path:
    """The artifact of `reciter_checkpoint`. Do not change it: copy it first."""
    return _exported("reciter", _make_reciter)


def reciter_checkpoint() -> Path:
    """A tiny SpeechT5 that reads characters, every weight random. Do not change it."""
    return once("checkpoint-reciter", _make_reciter)


def plain(model_type: str, head: Head, **overrides: int) -> Path:
    """The artifact of a tiny model without a tokenizer, every weight random. Do not change it: copy it first."""

    def make(folder: Path) -> None:
        oracle.save_checkpoint(folder, *oracle.upstream(model_type, head, overrides))

    return _exported("-".join([model_type, head.task, *(f"{key}-{value}" for key, value in overrides.items())]), make)


def _exported(name: str, make: Callable[[Path], object]) -> Path:
    """The artifact of the checkpoint that ``make`` writes."""
    return once(f"artifact-{name}", partial(export_model, once(f"checkpoint-{name}", make)))


def _last_head(model_type: str) -> Head:
    return list(find_family(model_type).heads)[-1]


def _make_pictures(model_type: str, folder: Path) -> None:
    overrides: dict[str, Any] = {}
    if model_type in ("clip", "siglip", "chinese_clip", "owlvit", "owlv2", "grounding-dino"):
        wordpiece(folder, ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))
        longest = 64 if model_type == "siglip" else 60
        write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "model_max_length": longest})
        words = len((folder / "vocab.txt").read_text(encoding="utf-8").splitlines())
        text = find_family(model_type).tiny["text_config"]
        # A text is read at its end, which is what this tokenizer puts there.
        tokens = {"vocab_size": words, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
        overrides["text_config"] = {**text, **tokens}
    matches = model_type in ("superpoint", "lightglue", "superglue")
    if matches:
        overrides = trained_matcher.config(model_type)
    config, model = oracle.upstream(model_type, _last_head(model_type), overrides)
    if matches:
        trained_matcher.planted(model)
    if model_type == "grounding-dino":
        oracle.calm(model)
    oracle.save_checkpoint(folder, config, model)
    kinds = {"vit": "ViTImageProcessor", "clip": "CLIPImageProcessor", "resnet": "ConvNextImageProcessor"}
    kinds |= {"siglip": "SiglipImageProcessor", "chinese_clip": "ChineseCLIPImageProcessor"}
    kinds |= {"swin2sr": "Swin2SRImageProcessor", "videomae": "VideoMAEImageProcessor"}
    kinds |= {"timesformer": "VideoMAEImageProcessor", "sam": "SamImageProcessor"}
    kinds |= {"imagegpt": "ImageGPTImageProcessor", "owlvit": "OwlViTImageProcessor", "owlv2": "Owlv2ImageProcessor"}
    kinds["grounding-dino"] = "GroundingDinoImageProcessor"
    kinds |= {f"super{name.lower()}": f"Super{name}ImageProcessor" for name in ("Point", "Glue")}
    kinds["lightglue"] = "LightGlueImageProcessor"
    kinds |= {"segformer": "SegformerImageProcessor", "glpn": "GLPNImageProcessor"}
    sizes = {name: {"shortest_edge": 33} for name in ("clip", "chinese_clip")}
    sizes["grounding-dino"] = {"shortest_edge": 40, "longest_edge": 60}
    sizes |= {"resnet": {"shortest_edge": 30}, "segformer": {"height": 70, "width": 90}}
    size = sizes.get(model_type, {"height": 30, "width": 30})
    if matches:
        size = dict(zip(("height", "width"), trained_matcher.SIZE, strict=True))
    crop = {"height": 30, "width": 30}
    if model_type in ("videomae", "timesformer"):
        size, crop = {"shortest_edge": 15}, {"height": 12, "width": 12}
    settings = {"image_processor_type": kinds[model_type], "size": size, "crop_size": crop}
    if model_type == "imagegpt":
        colours = [[x / 2, y / 2, z / 2] for x in (-2, -1, 1, 2) for y in (-2, -1, 1, 2) for z in (-2, -1, 1, 2)]
        settings |= {"clusters": colours, "size": {"height": 8, "width": 8}}
    if model_type == "sam":
        settings |= {"size": {"longest_edge": 24}, "pad_size": {"height": 24, "width": 24}}
    write_json(folder / "preprocessor_config.json", settings)


def _make_visual_answerer(folder: Path) -> None:
    wordpiece(folder, ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "model_max_length": 40})
    words = len((folder / "vocab.txt").read_text(encoding="utf-8").splitlines())
    answers = dict(enumerate(("yes", "no", "two", "red", "a cat", "outside", "left")))
    own = {"vocab_size": words, "max_position_embeddings": 40, "id2label": answers}
    oracle.save_checkpoint(folder, *oracle.upstream("vilt", VISUAL_QUESTIONS, own))
    settings = {"image_processor_type": "ViltImageProcessor", "size": {"shortest_edge": 30}, "size_divisor": 6}
    write_json(folder / "preprocessor_config.json", settings)


def _make_segmenter(model_type: str, folder: Path) -> None:
    family = find_family(model_type)
    # So many labels that upstream sorts the likeliest of them.
    overrides: dict[str, Any] = {"num_labels": 70}
    if model_type == "maskformer":
        small = family.variations[0]
        backbone = {**small["backbone_config"], "num_channels": 3}
        overrides |= {"backbone_config": backbone, "decoder_config": {**small["decoder_config"], "num_queries": 12}}
    else:
        overrides["num_queries"] = 12
    config, model = oracle.upstream(model_type, UNIVERSAL_SEGMENTATION, overrides)
    made: Any = model
    with torch.no_grad():  # queries that differ, sure of their labels, of which none has all of a picture
        made.class_predictor.weight.mul_(6)
        made.model.transformer_module.queries_embedder.weight.mul_(6)
        pixels = torch.randn(1, 3, 64, 80, generator=torch.Generator().manual_seed(0))
        mean = made.model(pixel_values=pixels).pixel_decoder_last_hidden_state.mean((0, 2, 3))
        made.model.pixel_level_module.decoder.mask_projection.bias.sub_(mean)
        mean, seed = made(pixel_values=pixels).class_queries_logits.mean((0, 1)), torch.Generator().manual_seed(3)
        made.class_predictor.bias.sub_(mean - 5 * torch.randn(71, generator=seed))  # some labels are of several
        for value in made.class_predictor.parameters():
            value.mul_(2)
    oracle.save_checkpoint(folder, config, model)
    names = {"maskformer": "MaskFormer", "mask2former": "Mask2Former"}
    settings = {"image_processor_type": f"{names[model_type]}ImageProcessor", "size_divisor": 16}
    size = {"shortest_edge": 70, "longest_edge": 110}
    write_json(folder / "preprocessor_config.json", {**settings, "size": size})


def _make_detector(model_type: str, folder: Path) -> None:
    labels = {"id2label": {0: "cat", 1: "dog", 2: "sea"}, "label2id": {"cat": 0, "dog": 1, "sea": 2}}
    own: dict[str, Any] = {"num_labels": 3, **labels}
    if model_type == "deformable_detr":  # what its family's own tests leave out, where upstream's base model fails
        own |= {"two_stage": True, "two_stage_num_proposals": 7}
    oracle.save_checkpoint(folder, *oracle.upstream(model_type, OBJECT_DETECTION, own))
    kinds = {"yolos": "Yolos", "detr": "Detr", "conditional_detr": "ConditionalDetr", "rt_detr": "RTDetr"}
    kinds["deformable_detr"] = "DeformableDetr"
    size = {"height": 64, "width": 96} if model_type == "rt_detr" else {"shortest_edge": 100, "longest_edge": 140}
    settings = {"image_processor_type": f"{kinds[model_type]}ImageProcessor", "size": size}
    write_json(folder / "preprocessor_config.json", settings)


def _make_speaker(folder: Path) -> None:
    letters = "k abcdefghijlmnopqrstuvwxyz'"
    own = {"vocab_size": len(letters), "num_speakers": 3, "speaker_embedding_size": 5, "speaking_rate": 0.5}
    oracle.save_checkpoint(folder, *oracle.upstream("vits", TEXT_TO_WAVEFORM, own))
    write_json(folder / "vocab.json", {letter: index for index, letter in enumerate(letters)})
    settings = {"tokenizer_class": "VitsTokenizer", "pad_token": "k", "phonemize": False, "language": "eng"}
    write_json(folder / "tokenizer_config.json", settings)


# Of a tiny Bark: of what its decoders say, tokens of what is meant come first, then the codes of two codebooks.
STAGES: dict[str, Any] = {
    "semantic_config": {
        "semantic_vocab_size": 20, "eos_token_id": 20, "semantic_pad_token": 20, "semantic_rate_hz": 49.9,
        "text_encoding_offset": 24, "text_pad_token": 1030, "semantic_infer_token": 1031, "max_new_tokens": 40,
        "max_input_semantic_length": 24, "do_sample": True, "temperature": 0.7, "top_k": 50, "renormalize_logits": True,
    },
    "coarse_acoustics_config": {
        "coarse_semantic_pad_token": 53, "coarse_infer_token": 54, "coarse_rate_hz": 75, "n_coarse_codebooks": 2,
        "max_coarse_input_length": 16, "max_coarse_history": 30, "sliding_window_len": 8, "do_sample": True,
        "temperature": 0.7, "max_length": 20,
    },
    "fine_acoustics_config": {
        "max_fine_history_length": 16, "max_fine_input_length": 32, "n_fine_codebooks": 4, "temperature": 0.5
    },
    "codebook_size": 16, "sample_rate": 600, "model_type": "bark",
}  # fmt: skip


def _make_storyteller(folder: Path) -> None:
    wordpiece(folder, ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer"})
    assert len((folder / "vocab.txt").read_text("utf-8").splitlines()) <= 1000
    tiny: Any = find_family("bark").tiny
    own = {"semantic_config": {**tiny["semantic_config"], "input_vocab_size": 1032, "output_vocab_size": 24}}
    own["coarse_acoustics_config"] = {
        **tiny["coarse_acoustics_config"],
        "input_vocab_size": 56,
        "output_vocab_size": 56,
    }
    config, model = oracle.upstream("bark", TEXT_TO_WAVEFORM, own)
    with torch.no_grad():  # so that what comes next depends on what came before
        for name, value in model.named_parameters():
            if "acoustics" in name or "semantic" in name:
                value.mul_(1.5)
        model.semantic.lm_head.weight[20].mul_(0.6)  # type: ignore[union-attr, index, operator] # it ends later
    oracle.save_checkpoint(folder, config, model)
    write_json(folder / "generation_config.json", STAGES)
    rng = np.random.default_rng(1)
    shapes = {"semantic_prompt": ((37,), 20), "coarse_prompt": ((2, 55), 16), "fine_prompt": ((4, 55), 16)}
    listed: dict[str, Any] = {"repo_or_path": "somewhere/else"}
    for name in ("v2/en_speaker_0", "de_speaker_3"):
        listed[name] = {}
        for part, (shape, most) in shapes.items():
            path = folder / "speaker_embeddings" / f"{name}_{part}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, rng.integers(0, most, shape))
            listed[name][part] = path.relative_to(folder).as_posix()
    listed["missing"] = {part: f"speaker_embeddings/missing_{part}.npy" for part in shapes}
    write_json(folder / "speaker_embeddings_path.json", listed)


def _make_reciter(folder: Path) -> None:
    ids = {"bos_id": 0, "pad_id": 1, "eos_id": 2, "unk_id": 3}
    sentencepiece_model(folder, "spm_char.model", model_type="char", **ids)
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "SpeechT5Tokenizer"})
    own = {"vocab_size": 200, "max_text_positions": 100, "max_speech_positions": 300, "decoder_layers": 2}
    config, model = oracle.upstream("speecht5", TEXT_TO_SPECTROGRAM, own)
    made: Any = model
    with torch.no_grad():  # texts that are longer are said for longer
        made.speech_decoder_postnet.prob_out.weight.mul_(2)
        made.speech_decoder_postnet.prob_out.bias.sub_(2)
    oracle.save_checkpoint(folder, config, model)
    transformers.SpeechT5FeatureExtractor().save_pretrained(folder)  # with which it hears nothing


def _make_towers(folder: Path) -> None:
    _make_pictures("clip", folder / "0_CLIPModel")
    module = {"idx": 0, "name": "0", "path": "0_CLIPModel", "type": "sentence_transformers.models.CLIPModel"}
    write_json(folder / "modules.json", [module])


def _make_picture_features(folder: Path) -> None:
    oracle.save_checkpoint(folder, *oracle.upstream("vit", BASE, {}))
    size = {"height": 30, "width": 30}
    write_json(folder / "preprocessor_config.json", {"image_processor_type": "ViTImageProcessor", "size": size})


def _make_checkpoint(task: str, seed: int, folder: Path) -> None:
    head = next(head for head in HEADS if head.task == task)
    labels = _LABELS.get(task)
    named = (
        {}
        if labels is None
        else {"id2label": dict(enumerate(labels)), "label2id": {n: i for i, n in enumerate(labels)}}
    )
    wordpiece(folder, ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))
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
    oracle.save_checkpoint(folder, config, model)


def _make_decoder(folder: Path) -> None:
    byte_level(folder, ("<|endoftext|>",))
    tokens = {"vocab_size": _words(folder), "bos_token_id": 0, "eos_token_id": 0}
    oracle.save_checkpoint(folder, *oracle.upstream("gpt2", CAUSAL_LM, tokens))


def _make_encoder_decoder(folder: Path) -> None:
    byte_level(folder, ("<s>", "<pad>", "</s>", "<unk>", "<mask>"))
    tokens = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    oracle.save_checkpoint(folder, *oracle.upstream("bart", SEQ2SEQ_LM, {"vocab_size": _words(folder), **tokens}))


def _make_recogniser(folder: Path) -> None:
    tokens = {name: SPEECH[f"{name}_token_id"] for name in ("eos", "pad", "bos", "decoder_start")}
    own = {f"{name}_token_id": token for name, token in tokens.items()}
    config, model = oracle.upstream("whisper", SPEECH_SEQ2SEQ, own)
    with torch.no_grad():  # so that what comes next depends on what came before
        for name, value in model.named_parameters():
            if "decoder" in name and value.ndim == 2:
                value.mul_(1.5)
    oracle.save_checkpoint(folder, config, model)
    write_json(folder / "generation_config.json", SPEECH)


def _words(folder: Path) -> int:
    return len(json.loads((folder / "vocab.json").read_text(encoding="utf-8")))
