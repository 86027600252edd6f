"""llama.cpp: its server in this process, asked over its own loopback port, the one call that takes and gives ids."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["PACKAGES", "Adapter"]

PACKAGES = ("xllamacpp", "gguf")
_FILE = "model.gguf"
_CONTEXT = 2048


class Adapter:
    STREAMS = True

    def __init__(self, *, threads: int, device: str, precision: str, workload: dict[str, Any]) -> None:
        self._threads, self._precision, self._workload = threads, precision, workload

    def prepare(self, checkpoint: Path, out: Path) -> None:
        if not (checkpoint / _FILE).exists():
            from gguf_file import write

            write(checkpoint, out / _FILE, self._precision)
        elif self._precision != "int4":
            raise ValueError(f"{_FILE} of this checkpoint is 4-bit: a user runs it as it is; found {self._precision}.")

    def load(self, checkpoint: Path, prepared: Path) -> None:
        import xllamacpp

        file = checkpoint / _FILE
        options = xllamacpp.CommonParams()
        options.model.path = str(file if file.exists() else prepared / _FILE)
        for pool in (options.cpuparams, options.cpuparams_batch):
            pool.n_threads = self._threads
        points = [entry for entries in self._workload["points"].values() for entry in entries]
        self._slots = max(int(point.split("x")[0]) for point in points)
        options.n_parallel = self._slots
        options.n_ctx = _CONTEXT * self._slots
        options.cache_ram_mib = 0  # prompts come again here, and must be read again
        if self._workload["generate"].get("exact"):  # for comparing texts, not for speed
            options.cache_type_k = options.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
            options.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self._server = xllamacpp.Server(options)
        self._address = self._server.listening_address.split("//")[1]
        self._pool = ThreadPoolExecutor(self._slots)

    def run(self, feed: Mapping[str, np.ndarray], mark: Callable[[], None]) -> dict[str, np.ndarray]:
        prompts = [ids[mask != 0].tolist() for ids, mask in zip(feed["input_ids"], feed["attention_mask"], strict=True)]
        marks = [mark] + [_nothing] * (len(prompts) - 1)
        rows = self._pool.map(self._complete, prompts, marks)
        return {"tokens": np.array(list(rows), dtype=np.int64)}

    def _complete(self, prompt: list[int], mark: Callable[[], None]) -> list[int]:
        request = {
            "prompt": prompt,
            "n_predict": self._workload["generate"]["new_tokens"],
            "ignore_eos": True,
            "samplers": ["top_k"],
            "top_k": 1,
            "cache_prompt": False,
            "return_tokens": True,
            "stream": True,
        }
        connection = http.client.HTTPConnection(self._address)  # the server closes one after each stream
        connection.request("POST", "/completion", json.dumps(request), {"Content-Type": "application/json"})
        tokens = list[int]()
        with connection.getresponse() as response:
            for line in response:
                if line.startswith(b"data: "):
                    new = json.loads(line[6:]).get("tokens", [])
                    tokens += new
                    for _ in new:
                        mark()
        return tokens


def _nothing() -> None:
    return
