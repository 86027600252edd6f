"""onnxruntime-genai: its model builder's graph, its generator, one token a call."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["PACKAGES", "Adapter"]

PACKAGES = ("onnxruntime-genai", "onnxruntime", "torch", "transformers")


class Adapter:
    STREAMS = True

    def __init__(self, *, threads: int, device: str, precision: str, workload: dict[str, Any]) -> None:
        self._threads, self._precision, self._workload = threads, precision, workload

    def prepare(self, checkpoint: Path, out: Path) -> None:
        from onnxruntime_genai.models.builder import create_model, parse_extra_options

        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "source"
            shutil.copytree(checkpoint, source, ignore=shutil.ignore_patterns("*.gguf"))
            if not (source / "tokenizer.json").exists():
                _numbers(source)
            arguments = ("", str(source), str(out), self._precision, "cpu", str(Path(folder) / "cache"))
            create_model(*arguments, **parse_extra_options(*arguments, []))
        path = out / "genai_config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        options = config["model"]["decoder"]["session_options"]
        options["intra_op_num_threads"] = self._threads
        path.write_text(json.dumps(config, indent=2), encoding="utf-8")

    def load(self, checkpoint: Path, prepared: Path) -> None:
        import onnxruntime_genai

        self._library = onnxruntime_genai
        config = onnxruntime_genai.Config(str(prepared))
        threads = {"intra_op_num_threads": self._threads, "inter_op_num_threads": 1}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": threads}}}))
        self._model = onnxruntime_genai.Model(config)

    def run(self, feed: Mapping[str, np.ndarray], mark: Callable[[], None]) -> dict[str, np.ndarray]:
        ids, new = feed["input_ids"], self._workload["generate"]["new_tokens"]
        if not feed["attention_mask"].all():
            raise ValueError(
                "onnxruntime-genai takes padding by its own token, not by a mask: give prompts of one length."
            )
        batch, length = ids.shape
        params = self._library.GeneratorParams(self._model)
        # The end of the text is suppressed until min_length; the cache is as long as max_length.
        params.set_search_options(do_sample=False, batch_size=batch, min_length=length + new, max_length=length + new)
        generator = self._library.Generator(self._model, params)
        generator.append_tokens(ids.astype(np.int32))
        for _ in range(new):
            generator.generate_next_token()
            mark()
        return {"tokens": np.array([generator.get_sequence(row)[length:] for row in range(batch)], dtype=np.int64)}


def _numbers(folder: Path) -> None:
    """The builder copies a tokenizer: one for checkpoints that come without; the model is given ids, never text."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    vocabulary = {str(number): number for number in range(config["vocab_size"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="0"))
    names = {"unk_token": "0", "bos_token": str(config["bos_token_id"]), "eos_token": str(config["eos_token_id"])}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
