"""Every Python example of the documentation runs, on tiny artifacts under the names that the pages use."""

from __future__ import annotations

import inspect
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import DATA, ROOT, tiny_artifacts, tiny_captioner, tiny_pages, tiny_seers, tiny_sounds
from support.docs.pages import PAGES, examples
from support.recordings import encoded, recording

import precast
from precast.calibration.corpus import PASSAGES
from precast.export.exporter import export_model
from precast.export.heads import (
    AUDIO_FRAMES,
    AUDIO_TOKENIZATION,
    AUDIO_XVECTOR,
    IMAGE_TEXT_RETRIEVAL,
    MASKED_IMAGE,
    PRETRAINING,
    PROMPTED_SEGMENTATION,
    SPEECH_CANDIDATES,
    TEXT_TO_SPECTROGRAM,
    VISUAL_REASONING,
    VOCODER,
    ZERO_SHOT_VIDEO,
)

# What a page calls an artifact -> where a tiny one is. Made on first use; those of earlier formats are there already.
SHELF: dict[str, Callable[[], Path]] = {
    "minilm": lambda: DATA / "artifacts" / "1.0" / "embedder",
    "reviews": lambda: DATA / "artifacts" / "1.1" / "classifier",
    "nli": lambda: DATA / "artifacts" / "1.1" / "classifier",
    "bert": lambda: tiny_artifacts.artifact("fill-mask"),
    "ner": lambda: tiny_artifacts.artifact("token-classification"),
    "qa": lambda: tiny_artifacts.artifact("question-answering"),
    "choices": lambda: tiny_artifacts.artifact("multiple-choice"),
    "next": lambda: tiny_artifacts.artifact("next-sentence-prediction"),
    "layoutlm": lambda: tiny_pages.artifact("layoutlm"),
    "layoutlmv3": lambda: tiny_pages.artifact("layoutlmv3"),
    "llm": tiny_artifacts.language_model,
    "vit": lambda: tiny_artifacts.pictures("vit"),
    "vit-base": tiny_artifacts.picture_features,
    "detr": lambda: tiny_artifacts.detector("detr"),
    "clip": lambda: tiny_artifacts.pictures("clip"),
    "clip-embeddings": tiny_artifacts.towers,
    "clipseg": lambda: tiny_artifacts.plain("clipseg", PROMPTED_SEGMENTATION),
    "xclip": lambda: tiny_artifacts.plain("xclip", ZERO_SHOT_VIDEO),
    "owlvit": lambda: tiny_artifacts.pictures("owlvit"),
    "vilt-itr": lambda: tiny_artifacts.plain("vilt", IMAGE_TEXT_RETRIEVAL),
    "visualbert-nlvr2": lambda: tiny_artifacts.plain("visual_bert", VISUAL_REASONING),
    "vilt": tiny_artifacts.visual_answerer,
    "llava": tiny_seers.seer,
    "captions": tiny_captioner.captioner,
    "simmim": lambda: tiny_artifacts.plain("swin", MASKED_IMAGE, encoder_stride=8),
    "swin2sr": lambda: tiny_artifacts.pictures("swin2sr"),
    "videomae": lambda: tiny_artifacts.pictures("videomae"),
    "sam": lambda: tiny_artifacts.pictures("sam"),
    "segformer": lambda: tiny_artifacts.pictures("segformer"),
    "mae": lambda: tiny_artifacts.plain("vit_mae", PRETRAINING),
    "videomae-base": lambda: tiny_artifacts.plain("videomae", PRETRAINING),
    "maskformer": lambda: tiny_artifacts.segmenter("maskformer"),
    "superpoint": lambda: tiny_artifacts.pictures("superpoint"),
    "superglue": lambda: tiny_artifacts.pictures("superglue"),
    "glpn": lambda: tiny_artifacts.pictures("glpn"),
    "bark": tiny_artifacts.storyteller,
    "clvp": lambda: tiny_artifacts.plain("clvp", SPEECH_CANDIDATES),
    "mms": tiny_artifacts.speaker,
    "whisper": tiny_sounds.writer,
    "wav2vec2": tiny_sounds.speller,
    "clap": lambda: tiny_sounds.compared(fused=False),
    "keywords": lambda: tiny_sounds.classifier("wav2vec2"),
    "diarisation": lambda: tiny_sounds.plain(AUDIO_FRAMES),
    "encodec": lambda: tiny_artifacts.plain("encodec", AUDIO_TOKENIZATION),
    "speakers": lambda: tiny_sounds.plain(AUDIO_XVECTOR),
    "fastspeech2": lambda: tiny_artifacts.plain("fastspeech2_conformer", TEXT_TO_SPECTROGRAM),
    "speecht5": tiny_artifacts.reciter,
    "speecht5-vc": tiny_sounds.converter,
    "hifigan": lambda: tiny_artifacts.plain("speecht5_hifigan", VOCODER),
    "t5": tiny_artifacts.encoder_decoder,
    "en-fr": tiny_artifacts.encoder_decoder,
}
_OPENED = re.compile(r"""(?:load|verify|from_pretrained|pipeline|quantize)\((?:"[\w-]+", )?"([\w-]+)"[,)]""")


@pytest.mark.parametrize("path", [path for path in PAGES if examples(path)], ids=lambda path: path.stem)
def test_the_examples_of_a_page_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = examples(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(precast, "export_model", _shelved, raising=False)
    if "cat.jpg" in code:
        noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "cat.jpg")
    if "page.png" in code:
        tiny_pages.page()[0].save(tmp_path / "page.png")
    if "talk.wav" in code:
        (tmp_path / "talk.wav").write_bytes(encoded(recording(30_000)))
    if "sentences.txt" in code:
        passages = "\n".join(passage for passage, _ in PASSAGES)
        (tmp_path / "sentences.txt").write_text(passages, encoding="utf-8")
    for name in _OPENED.findall(code):
        # An artifact that an earlier line exports is not there before it.
        if name in SHELF and not re.search(rf'export_model\([^)]*"{name}"', code):
            shutil.copytree(SHELF[name](), tmp_path / name, dirs_exist_ok=True)
    exec(compile(code, str(path.relative_to(ROOT)), "exec"), {"__name__": "__example__"})


def _shelved(*arguments: Any, **options: Any) -> Path:
    """An export by its signature alone: what it makes is on the shelf. That exports work is tested elsewhere."""
    given = inspect.signature(export_model).bind(*arguments, **options).arguments
    name = str(given["out"])
    return Path(shutil.copytree(SHELF[name](), name))


def test_a_broken_example_is_told_by_its_line(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n```python\na = 1\n```\n\nMore.\n\n```python\nb = a + unknown\n```\n")
    with pytest.raises(NameError, match="unknown"):
        exec(compile(examples(page), "page.md", "exec"), {})
    page.write_text("# Title\n\n```python\na = (\n```\n")
    with pytest.raises(SyntaxError) as found:
        compile(examples(page), "page.md", "exec")
    assert found.value.lineno == 4
