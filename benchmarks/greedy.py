"""Greedy texts of an artifact beside llama.cpp's from the same GGUF file: where they part, and how near a tie it was.

llama.cpp rounds what is multiplied with quantised weights to 8 bits, and keeps keys and values as float16. Beside the
file as it is stands therefore the same file with its weights as the floats they mean, behind a cache of floats: there
both compute one thing, and only near ties may part.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import precast
from benchmarks.catalogue import peers
from benchmarks.venvs import Environment
from precast.calibration.corpus import PASSAGES
from precast.runtime.bench.contender import Contender, Process
from precast.runtime.errors import BenchmarkError

__all__ = ["compare", "floats"]

_FILE = "model.gguf"  # what the adapter of llama.cpp looks for
_PROMPT = 20  # tokens


def compare(
    artifact: str, gguf: Path, *, prompts: int, new_tokens: int, threads: int, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """One entry for the file as it is, and one for its weights as floats.

    Returns: ``weights``, ``prompts``, ``same`` (how many texts are equal) and ``parted``: for every other one its
    ``prompt`` and ``step``, by how much our logit of our token is above that of theirs (``margin``), and how many
    tokens we hold more likely than theirs (``rank``).
    """
    model = precast.load(artifact, threads=threads)
    tokenized = (model.tokenizer(passage)["input_ids"] for passage, _ in PASSAGES)
    starts = [ids[:_PROMPT] for ids in tokenized if len(ids) >= _PROMPT][:prompts]
    if len(starts) < prompts:
        raise BenchmarkError(f"there are {len(starts)} prompts of {_PROMPT} tokens; {prompts} were asked for.")
    length = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens}
    say(f"{len(starts)} texts by Precast")
    ours = [model.generate([start], do_sample=False, **length)[0][len(start) :].tolist() for start in starts]
    found = []
    with tempfile.TemporaryDirectory(prefix="precast-bench-") as scratch:
        for weights in ("as in the file", "as floats"):
            folder = Path(scratch) / weights.replace(" ", "-")
            folder.mkdir()
            plain = weights == "as floats"
            if plain:
                say("writing the weights as floats")
                floats(gguf, folder / _FILE)
            else:
                (folder / _FILE).symlink_to(gguf.resolve())
            say(f"{len(starts)} texts by llama.cpp, weights {weights}")
            theirs = _texts(folder, starts, new_tokens, threads, plain)
            parted = [entry for entry in map(_parting, range(len(starts)), starts, ours, theirs) if entry is not None]
            for entry in parted:
                start, step = starts[entry["prompt"]], entry["step"]
                logits = model(input_ids=np.array([start + ours[entry["prompt"]][:step]]))["logits"][0, -1]
                mine, other = (float(logits[texts[entry["prompt"]][step]]) for texts in (ours, theirs))
                entry |= {"margin": round(mine - other, 4), "rank": int((logits > other).sum())}
            same = len(starts) - len(parted)
            found.append({"weights": weights, "prompts": len(starts), "same": same, "parted": parted})
    return found


def _parting(prompt: int, start: Sequence[int], ours: Sequence[int], theirs: Sequence[int]) -> dict[str, Any] | None:
    """The first step at which two continuations of a prompt differ."""
    if len(theirs) != len(ours):
        raise BenchmarkError(f"llama.cpp made {len(theirs)} tokens behind {len(start)} and not {len(ours)}.")
    step = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b), None)
    return None if step is None else {"prompt": prompt, "step": step}


def _texts(
    folder: Path, starts: Sequence[Sequence[int]], new_tokens: int, threads: int, exact: bool
) -> list[list[int]]:
    """What llama.cpp makes of each prompt alone."""
    [peer] = peers(["llamacpp"])
    environment = Environment(peer.environment)
    if environment.why_not():
        raise BenchmarkError(str(environment.why_not()))
    workload = {"points": {"single": [f"1x{_PROMPT}"]}, "generate": {"new_tokens": new_tokens, "exact": exact}}
    options = {"threads": threads, "device": "cpu", "precision": "int4", "workload": workload}
    process = Process(Contender(peer.name, str(environment.python), peer.adapter("decoder"), folder, folder, options))
    try:
        process.load()
        texts = []
        for number, start in enumerate(starts):
            feed, made = folder / f"{number}.npz", folder / f"{number}-made.npz"
            ids = np.array([start], np.int64)
            np.savez(feed, input_ids=ids, attention_mask=np.ones_like(ids))
            process.ask("run", feed=str(feed), save=str(made))
            with np.load(made) as arrays:
                texts.append(arrays["tokens"][0].tolist())
        return texts
    finally:
        process.close()


def floats(source: Path, out: Path) -> None:
    """A GGUF file with every tensor as float32, and all else as in ``source``."""
    import gguf

    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(out, architecture)
    for name, field in reader.fields.items():
        if name == "general.architecture" or name.startswith("GGUF."):  # the writer's own
            continue
        value = int(gguf.LlamaFileType.ALL_F32) if name == "general.file_type" else field.contents()
        of = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, value, field.types[0], of)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
