"""The evaluation set of what reads and writes tokens, for the metric that judges low precision: the passages of
`demo_corpus`, in the model's own tokens; random tokens where a checkpoint has no tokenizer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from precast.export.demo_corpus import PASSAGES
from precast.export.evaluation_set import EvaluationSet
from precast.export.parity import ReferenceRunner
from precast.export.reference import Part
from precast.runtime.backends.base import Array
from precast.runtime.metrics import METRICS, Metric
from precast.runtime.parity import Case, Recorded
from precast.runtime.processors.text import Tokenizer

__all__ = ["evaluation_set", "judged_reference"]

_TEXTS = 24
_LONGEST = 96
# Logits of a wide vocabulary are a megabyte a position: so many bytes of them are held, at evenly spaced positions.
_HELD = 320 << 20
_MOST = 32


def judged_reference(evaluation: EvaluationSet, parts: Sequence[Part]) -> Metric:
    """How far the reference is from what it was, now that some of its weights are others."""
    runner = ReferenceRunner(parts)
    return evaluation.figures((item, runner.run(item.case)) for item in evaluation.recorded)


def evaluation_set(parts: Sequence[Part], tokenizer: Mapping[str, bytes], metric: str) -> EvaluationSet:
    """Texts for a model of these parts; ``tokenizer`` are its files, none where it has no tokenizer."""
    decoder = parts[-1]
    [answer] = [out for out in decoder.signature.outs if out.kind == METRICS[metric].kind]
    vocab = decoder.signature.vocab_size
    longest = min(_LONGEST, decoder.signature.longest or _LONGEST)
    rows = _tokens(tokenizer, vocab, longest)
    kept = max(1, min(_MOST, _HELD // (len(rows) * vocab * 4)))
    runner = ReferenceRunner(parts)
    recorded: list[Recorded] = []
    for number, row in enumerate(rows):
        for case in _cases(parts, number, row, kept):
            made = runner.run(case)
            # Rounding to low precision is orders above what float64 would tell apart.
            recorded.append(Recorded(case, made, made))
    digest = hashlib.sha256(b"".join(np.array(row, dtype="<i8").tobytes() for row in rows)).hexdigest()
    return EvaluationSet(metric, answer, recorded, bool(tokenizer), digest)


def _tokens(tokenizer: Mapping[str, bytes], vocab: int, longest: int) -> list[list[int]]:
    if not tokenizer:
        rng = np.random.default_rng(7)
        return [rng.integers(0, vocab, size=longest).tolist() for _ in range(_TEXTS)]
    encode = Tokenizer.from_files(dict(tokenizer))
    found = []
    for passage, _ in PASSAGES:
        row = [token for token in encode(passage)["input_ids"] if token < vocab]
        if len(row) >= min(16, longest):
            found.append(row[:longest])
    return found[:_TEXTS]


def _cases(parts: Sequence[Part], number: int, row: list[int], kept: int) -> list[Case]:
    ids = np.array([row], dtype=np.int64)
    count = len(row)
    wanted: Array = np.unique(np.linspace(min(4, count - 1), count - 1, kept).astype(np.int64))[None]
    inputs = {
        "input_ids": ids,
        "past_lengths": np.zeros(1, np.int64),
        "lengths": np.full(1, count, np.int64),
        "logit_positions": wanted,
    }
    if parts[-1].signature.port("position_ids") is not None:
        inputs["position_ids"] = np.arange(count)[None]
    name = f"text-{number}"
    if len(parts) == 1:
        return [Case(name, inputs, parts[-1].name, capacity=count)]
    reader, decoder = parts
    source = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    read = {f"{reader.name}.{key}": array for key, array in source.items()}
    inputs |= {port.name: read[port.source] for port in decoder.signature.ports if port.source in read}
    before = Case(f"{name}-source", source, reader.name)
    return [before, Case(name, inputs, decoder.name, (before.name,), capacity=count)]
