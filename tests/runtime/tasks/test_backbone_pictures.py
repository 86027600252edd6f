"""Depth and segments of photographs by models around a backbone, against upstream's pipelines over the same weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from PIL import Image
from sklearn.datasets import load_sample_image
from support import oracle
from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

import precast
from precast.export.exporter import export_model
from precast.export.families import find_family
from precast.export.heads import DEPTH_ESTIMATION, SEMANTIC_SEGMENTATION, Head


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """A wide one, and a tall one of odd sides."""
    china, flower = (Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg"))
    return [china, flower.resize((197, 301))]


def both(folder: Path, model_type: str, head: Head, kind: Any, values: dict[str, Any], **settings: Any) -> Any:
    """(upstream's pipeline, ours) of one checkpoint."""
    config, model = oracle.upstream(model_type, head, values)
    source = oracle.save_checkpoint(folder / "checkpoint", config, model)
    name = kind.__name__.removesuffix("Pil")
    (source / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": name, **settings}))
    export_model(source, folder / "artifact")
    task = "image-segmentation" if head is SEMANTIC_SEGMENTATION else head.task
    theirs = transformers.pipeline(task, model=model, image_processor=kind.from_pretrained(source))
    return theirs, precast.pipeline(task, folder / "artifact")


def test_depths_over_beit_keep_the_shape_of_a_picture(tmp_path: Path, pictures: list[Image.Image]) -> None:
    backbone = {**find_family("beit").tiny, "model_type": "beit", "reshape_hidden_states": False}
    backbone |= {"num_hidden_layers": 2, "out_indices": [1, 2]}
    values = {"backbone_config": backbone, "neck_hidden_sizes": [6, 8], "reassemble_factors": [2, 0.5]}
    values |= {"fusion_hidden_size": 10, "readout_type": "project"}
    settings = {"size": {"height": 48, "width": 48}, "keep_aspect_ratio": True, "ensure_multiple_of": 12}
    theirs, ours = both(tmp_path, "dpt", DEPTH_ESTIMATION, DPTImageProcessorPil, values, **settings)
    for one, other in zip(ours(pictures), theirs(pictures), strict=True):
        wanted = other["predicted_depth"].numpy()
        np.testing.assert_allclose(one["predicted_depth"], wanted, rtol=0, atol=1e-4 * max(1, np.abs(wanted).max()))
        assert one["depth"].size == other["depth"].size
        levels = np.asarray(one["depth"]).astype(int) - np.asarray(other["depth"]).astype(int)
        assert np.abs(levels).max() <= 1


def test_segments_over_swin_are_upstreams(tmp_path: Path, pictures: list[Image.Image]) -> None:
    values = dict(find_family("upernet").variations[1])
    settings = {"size": {"height": 70, "width": 90}}
    theirs, ours = both(tmp_path, "upernet", SEMANTIC_SEGMENTATION, SegformerImageProcessorPil, values, **settings)
    every = 0
    for picture in pictures:
        expected, found = theirs(picture), ours(picture)
        every += len(expected)
        assert [entry["label"] for entry in found] == [entry["label"] for entry in expected]
        for one, other in zip(found, expected, strict=True):
            differing = np.asarray(one["mask"]) != np.asarray(other["mask"])
            assert differing.mean() < 1e-3  # where two labels are as likely within rounding
    assert every > len(pictures), "pictures of one segment compare nothing"
