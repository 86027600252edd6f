"""Segments of detectors that say where their objects are, against what upstream makes of the same outputs; and an
artifact of one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support import oracle
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil

import precast
from precast.export.exporter import export_model
from precast.export.heads import UNIVERSAL_SEGMENTATION
from precast.runtime.segmentation import Thresholds, segmenter
from precast.runtime.segmentation.objects import Objects

SIZE = (41, 57)


def outputs(seed: int) -> dict[str, Any]:
    """Of which some objects are sure, some are of one label, and one is none."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(1, 7, 4, generator=generator)
    logits[0, :2, 1] += 9
    coarse = 4 * torch.randn(1, 7, 4, 5, generator=generator)
    return {"logits": logits, "pred_masks": torch.nn.functional.interpolate(coarse, (20, 28), mode="bilinear")}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("fused", [frozenset[int](), frozenset({1})], ids=["apart", "fused"])
def test_segments_are_upstreams(seed: int, fused: frozenset[int]) -> None:
    made, processor = outputs(seed), DetrImageProcessorPil()
    ours: Any = segmenter(["logits", "pred_boxes", "pred_masks"])
    assert isinstance(ours, Objects) and ours.told({}) == ours
    kept = ours.keep({name: value[0].numpy() for name, value in made.items()}, SIZE)
    limits = {"threshold": 0.4, "mask_threshold": 0.5, "overlap_mask_area_threshold": 0.2}
    given, wanted = SimpleNamespace(**made), {"target_sizes": [SIZE], **limits}
    found = {
        "panoptic": processor.post_process_panoptic_segmentation(given, label_ids_to_fuse=set(fused), **wanted)[0],
        "instance": processor.post_process_instance_segmentation(given, **wanted)[0],
    }
    for subtask, expected in found.items():
        segments = ours.segments(kept, SIZE, subtask, Thresholds(0.4, 0.5, 0.2, fused))
        told = expected["segments_info"]
        assert [segment.label for segment in segments] == [one["label_id"] for one in told] and told
        for segment, one in zip(segments, told, strict=True):
            assert segment.score == pytest.approx(one["score"], abs=1e-5)
            where = np.asarray(expected["segmentation"]) == one["id"]
            assert (segment.mask != where).sum() <= 2, subtask  # pixels at which two are as likely
    labels = processor.post_process_semantic_segmentation(given, target_sizes=[SIZE])[0].numpy()
    semantic = ours.segments(kept, SIZE, "semantic", Thresholds())
    assert {segment.label for segment in semantic} == set(np.unique(labels))
    assert all((segment.mask == (labels == segment.label)).mean() > 0.999 for segment in semantic)


def test_a_picture_is_segmented(tmp_path: Path) -> None:
    maps = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1]}
    maps |= {"layer_type": "basic", "out_features": ["stem", "stage1", "stage2"]}
    sizes = {"d_model": 32, "encoder_attention_heads": 8, "decoder_attention_heads": 4, "backbone_config": maps}
    config, model = oracle.upstream("detr", UNIVERSAL_SEGMENTATION, sizes)
    source, path = oracle.save_checkpoint(tmp_path / "checkpoint", config, model), tmp_path / "out"
    export_model(source, path)
    pixels = np.random.default_rng(0).standard_normal((2, 3, 70, 90), dtype=np.float32)
    with torch.no_grad():
        expected: Any = model(pixel_values=torch.from_numpy(pixels))
    found = precast.load(path)(pixel_values=pixels)
    assert list(found) == ["logits", "pred_boxes", "pred_masks"]
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name].numpy(), rtol=0, atol=2e-4, err_msg=name)


def test_masks_have_older_names() -> None:
    """As transformers 4 wrote them."""
    from precast.export.head_sets.object_masks import mask_names
    from precast.export.weights import rename

    old = [f"{part}{number}" for part in ("lay", "gn") for number in range(1, 6)] + ["adapter1", "adapter3", "out_lay"]
    table = {f"mask_head.{name}.bias": oracle.TensorSource(torch.zeros(1)) for name in old}
    table |= {f"bbox_attention.{part}_linear.bias": oracle.TensorSource(torch.zeros(1)) for part in "qk"}
    table["mask_head.lay1.weight"] = oracle.TensorSource(torch.zeros(40, 40, 3, 3))
    found = rename(table, mask_names(32, 8))
    assert found["mask_head.conv1.conv.weight"].shape == (40, 32, 3, 3)
    assert found["mask_head.conv1.more.weight"].shape == (40, 8, 3, 3)
    stages = "mask_head.fpn_stages."
    assert {
        *("mask_head.conv2.norm.bias", f"{stages}0.refine.conv.bias", f"{stages}2.refine.norm.bias"),
        *(f"{stages}0.fpn_adapter.bias", f"{stages}2.fpn_adapter.bias", "mask_head.output_conv.bias"),
        *(f"bbox_attention.{part}_proj.bias" for part in "qk"),
    } <= set(found)
