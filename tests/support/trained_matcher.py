"""Models of keypoints that find what they should, without training: descriptors that tell places of a photograph apart,
and layers that change little of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_sample_image

__all__ = ["SHIFT", "SIZE", "config", "pair", "planted"]

# Height and width of the pictures, and how far the second of a pair is moved: whole places of a detector's map, so that
# it sees the same.
SIZE, SHIFT = (136, 184), (8, 16)
_WIDTH = 16


def config(model_type: str) -> dict[str, Any]:
    """Of a tiny one, in a few more channels than those of other tests."""
    detector = {"model_type": "superpoint", "encoder_hidden_sizes": [6, 8, 10, 16], "decoder_hidden_size": 24}
    detector |= {"descriptor_decoder_dim": _WIDTH, "keypoint_threshold": 0.03, "max_keypoints": 60}
    if model_type == "superpoint":
        return {key: value for key, value in detector.items() if key != "model_type"}
    if model_type == "superglue":
        return {"keypoint_detector_config": detector, "sinkhorn_iterations": 8}
    return {"keypoint_detector_config": detector, "depth_confidence": 0.6, "width_confidence": 0.5}


def pair(name: str = "china.jpg", corner: tuple[int, int] = (60, 180)) -> list[np.ndarray]:
    """Two parts [H, W, 3] of a photograph, of which the second begins `SHIFT` further down and right."""
    picture = load_sample_image(name)
    starts = [corner, (corner[0] + SHIFT[0], corner[1] + SHIFT[1])]
    return [np.ascontiguousarray(picture[y : y + SIZE[0], x : x + SIZE[1]]) for y, x in starts]


def planted(model: Any, seed: int = 6) -> None:
    """Weights of upstream's model that was randomised before."""
    generator = torch.Generator().manual_seed(seed)
    detector = getattr(model, "keypoint_detector", model)
    pixels = torch.from_numpy(np.stack(pair())).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        for value in detector.parameters():
            drawn = torch.randn(value.shape, generator=generator)
            value.copy_(drawn * (1.5 / value[0].numel() ** 0.5 if value.ndim > 1 else 0.1))
        decoder = detector.descriptor_decoder
        seen = torch.relu(decoder.conv_descriptor_a(detector.encoder(pixels[:, :1], return_dict=True)[0]))
        rows = seen.permute(0, 2, 3, 1).reshape(-1, seen.shape[1]).double()
        values, vectors = torch.linalg.eigh(torch.cov(rows.T))
        made = (vectors[:, -_WIDTH:] / values[-_WIDTH:].sqrt()).T
        decoder.conv_descriptor_b.weight.copy_(made[:, :, None, None])
        decoder.conv_descriptor_b.bias.copy_(-made @ rows.mean(dim=0))
        for name, value in model.named_parameters():
            if "keypoint_detector" in name or name.startswith(("encoder", "keypoint_decoder", "descriptor_decoder")):
                continue
            if "fc2" in name or "mlp.1." in name or name.startswith("keypoint_encoder.encoder.2."):
                value.mul_(0.02)
            elif name.endswith(("final_projection.weight", "final_proj.weight")):
                value.copy_(10 * torch.eye(_WIDTH))
            elif name.endswith(("final_projection.bias", "final_proj.bias")):
                value.zero_()
            elif name.endswith("matchability.weight"):
                value.copy_(3 * torch.randn(value.shape, generator=generator))
            elif name.endswith("matchability.bias"):
                value.fill_(4.0)
            elif name.endswith("token.weight"):
                value.copy_(3 * torch.randn(value.shape, generator=generator))
            elif name.endswith("token.bias"):
                value.fill_(1.5)
            elif name == "bin_score":
                value.fill_(20.0)
