"""Video classification: some frames of a video to labels with scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from precast.runtime import arguments
from precast.runtime.errors import InputError
from precast.runtime.readers.video import VideoReader
from precast.runtime.tasks._scores import UNSET, labelled, read_scoring
from precast.runtime.tasks.base import Request, Row, Task

__all__ = ["PIPELINE", "VideoClassification"]

_MOST_FRAMES = 1 << 16


class VideoClassification(Task[VideoReader]):
    """A video -> ``[{"label", "score"}]``, the ``top_k`` (5) best, the best first.

    ``num_frames`` of it are seen (as many as the model takes), of every ``frame_sampling_rate`` (1) about one, from the
    first on. Without ``function_to_apply``, scores are the logits for regression, a sigmoid for multi-label problems, a
    softmax otherwise.
    """

    name = "video-classification"
    reads = VideoReader

    def __call__(self, inputs: Any = None, **parameters: Any) -> Any:
        if inputs is None:
            raise InputError(f"{self.name} needs a video, or a list of them.")
        return super().__call__(inputs, **parameters)

    def check(
        self,
        *,
        top_k: int | None = UNSET,
        num_frames: int | None = None,
        frame_sampling_rate: int | None = None,
        function_to_apply: str | None = None,
    ) -> dict[str, Any]:
        checked = read_scoring(top_k, function_to_apply)
        for name, value in (("num_frames", num_frames), ("frame_sampling_rate", frame_sampling_rate)):
            if value is not None:
                checked[name] = arguments.whole(name, value, most=_MOST_FRAMES)
        return checked

    def prepare(self, items: Sequence[Any], parameters: Mapping[str, Any]) -> list[Request]:
        frames = parameters.get("num_frames") or self._frames()
        rate = parameters.get("frame_sampling_rate", 1)
        return [Request([self.reader.row(item, frames=frames, rate=rate)]) for item in items]

    def _frames(self) -> int:
        """So many does the model take."""
        shape = next(port.shape for port in self.model.component.inputs if port.kind == "pixels")
        return int(shape[1])

    def compute(
        self, batch: Mapping[str, Any], rows: Sequence[Row], parameters: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Of models that see each frame alone the first one's, as upstream has it."""
        logits = np.asarray(self.model(**batch)["logits"])
        return {"logits": logits.reshape(len(rows), -1, logits.shape[-1])[:, 0]}

    def keep(self, outputs: Mapping[str, np.ndarray], index: int, span: slice, row: Row) -> np.ndarray:
        return np.asarray(outputs["logits"][index], np.float32)

    def finish(self, request: Request, kept: list[Any], parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        return labelled(kept[0], parameters, self.model.config, exclusive=True)


PIPELINE = VideoClassification
