"""sentence-transformers: a text encoder with its pooling, from token ids on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shared.torch_encoder import EncoderAdapter
from shared.torch_model import set_threads

__all__ = ["PACKAGES", "Adapter"]

PACKAGES = ("sentence-transformers", "torch", "transformers")


class Adapter(EncoderAdapter):
    """The model as `SentenceTransformer` opens it; its ``token_embeddings`` are upstream's last hidden state."""

    def load(self, checkpoint: Path, prepared: Path) -> None:
        if not (checkpoint / "modules.json").exists():
            raise NotImplementedError("this checkpoint is no sentence-transformers model: it has no modules.json")
        from sentence_transformers import SentenceTransformer

        set_threads(self._threads)
        self._model = SentenceTransformer(str(checkpoint), device=self._device).eval()

    def _forward(self, given: dict[str, Any]) -> Any:
        return self._model(given)["token_embeddings"]
