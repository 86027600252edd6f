"""OpenVINO: text encoders converted from torch; int8 by NNCF's calibrated quantisation, its scheme for transformers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from shared.natural_lengths import natural_lengths
from shared.openvino_call import OpenVINOAdapter
from shared.torch_model import open_model

__all__ = ["PACKAGES", "Adapter"]

PACKAGES = ("openvino", "nncf", "torch", "transformers")
_CALIBRATION = 64
_SEED = 20_261_121


class Adapter(OpenVINOAdapter):
    def prepare(self, checkpoint: Path, out: Path) -> None:
        import openvino
        import torch

        names = ("input_ids", "attention_mask")
        converted = openvino.convert_model(
            open_model(checkpoint, self._workload),
            example_input={name: torch.ones(2, 8, dtype=torch.int64) for name in names},
            input={name: ([-1, -1], openvino.Type.i64) for name in names},
        )
        if self._precision == "int8":
            import nncf

            dataset = nncf.Dataset(list(self._texts()))
            converted = nncf.quantize(
                converted, dataset, subset_size=_CALIBRATION, model_type=nncf.ModelType.TRANSFORMER
            )
        openvino.save_model(converted, out / "model.xml", compress_to_fp16=False)

    def run(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        states = self._request.infer(dict(feed), share_inputs=True, share_outputs=True)
        return {"last_hidden_state": states["last_hidden_state"]}

    def _texts(self) -> Iterator[dict[str, np.ndarray]]:
        """Like the feeds, but never they themselves: ids of the workload, half at its lengths, half at natural ones."""
        numbers = np.random.default_rng(_SEED)
        low, high = self._workload["inputs"]["vocab"]
        points = (point.split("x")[1] for listed in self._workload["points"].values() for point in listed)
        fixed = [int(length) for length in points if length.isdigit()] or natural_lengths()
        lengths = [numbers.choice(among, _CALIBRATION // 2) for among in (natural_lengths(), fixed)]
        for length in np.concatenate(lengths):
            ids = numbers.integers(low, high, (1, length), dtype=np.int64)
            yield {"input_ids": ids, "attention_mask": np.ones_like(ids)}
