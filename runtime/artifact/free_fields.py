"""The manifest's free-form objects: other keys may come and go, but what the runtime reads of them has its type.

Whoever uses such an object may index it as its documentation says, without a look at types of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from precast.runtime.fields import MOST_BYTES, Fields, is_number, is_text
from precast.runtime.layouts import Rule

__all__ = ["check_free", "check_variant"]

_WORK = ("flops", "bytes", "activations")
_LAYOUT = ("ring", "chunks_by_row", "int8")


def check_variant(
    variant: Fields,
    weights: Sequence[str],
    session: Mapping[str, Any],
    parity: Mapping[str, Any],
    work: Mapping[str, Any],
    state: Mapping[str, Any],
) -> None:
    """``session``, ``parity``, ``work`` and ``state`` of a variant that reads ``weights``.

    Raises:
        ArtifactError: naming the field, its rule and its value.
    """
    options = variant.inner("session", session)
    options.text("graph_optimization_level", "basic")
    for key in ("entries", "provider_options"):
        options.mapping(key, "a string of at most 256 characters", lambda v: is_text(v) and len(v) <= 256, {})

    derived = options.data("initializers", {})
    for name, said in derived.items():
        made = options.inner("initializers", derived).inner(name, said)
        Rule.read(made)
        made.take("weight", "one of the variant's weights", lambda path: isinstance(path, str) and path in weights)

    evidence = variant.inner("parity", parity)
    worst = evidence.data("worst", {})
    for output in worst:
        evidence.inner("worst", worst).mapping(output, "a number", is_number)
    evidence.all("measured", _measured, [])
    strained = evidence.data("conditioning", {})
    for output, figures in strained.items():
        for key in ("eager_error", "bound"):
            evidence.inner("conditioning", strained).inner(output, figures).number(key)
    for metric, (numbers, counted) in _JUDGED.items():
        if metric in evidence:
            _judged(evidence.inner(metric, evidence.data(metric)), numbers, counted)

    cost = variant.inner("work", work)
    for kind in _WORK:
        cost.all(kind, _term, [])
    cost.texts("uncounted", [])

    layout = variant.inner("state", state)
    for key in _LAYOUT:
        layout.flag(key, False)


def check_free(
    manifest: Fields,
    processing: Mapping[str, Any],
    parity: Mapping[str, Any],
    cost: Mapping[str, Any],
    files: Mapping[str, Any],
) -> None:
    """``processing``, ``parity`` and ``cost`` of a manifest that lists ``files``.

    Raises:
        ArtifactError: naming the field, its rule and its value.
    """
    made = manifest.inner("processing", processing)
    if "tokenizer" in made:
        tokenizer = made.inner("tokenizer", made.data("tokenizer"))
        tokenizer.flag("included", True)
        tokenizer.text("reason", "")
    if "text" in made:
        _text(made.inner("text", made.data("text")), files)
    if "image" in made:
        _image(made.inner("image", made.data("image")))
    if "join" in made:
        # What has no pictures need not know how they stand in texts.
        from precast.runtime.generation.grids import Grids
        from precast.runtime.generation.tiles import Tiles
        from precast.runtime.processors.joint import Places

        join = made.inner("join", made.data("join"))
        Places.read(join)
        if "tiles" in join:
            Tiles.read(join.inner("tiles", join.data("tiles")))
        if "grid" in join:
            Grids.read(join.inner("grid", join.data("grid")))
    if "candidates" in made:
        candidates = made.inner("candidates", made.data("candidates"))
        if "scores" in candidates:
            candidates.choice("scores", ("softmax", "sigmoid"))
        candidates.optional_count("tokens", None, least=1)
    if "embedding" in made:
        _embedding(made.inner("embedding", made.data("embedding")), files)

    for key in ("ignored_config", "ignored_generation_config", "ignored_weights"):
        made.texts(key, [])
    made.data("cross_encoder", {})

    records = manifest.inner("parity", parity)
    for component in parity:
        record = records.inner(component, records.data(component))
        if "file" in record:
            _listed(record, "file", files)
        record.texts("cases", [])

    spent = manifest.inner("cost", cost)
    spent.number("seconds", 0.0)
    spent.count("peak_memory_bytes", 0, most=MOST_BYTES)


def _text(reader: Fields, files: Mapping[str, Any]) -> None:
    reader.text("port")
    if not _is_missing(reader, "files"):
        names = reader.texts("files")
        if not set(names) <= set(files) or "tokenizer.json" not in names:
            reader.fail("files", "names of files listed in 'files', tokenizer.json among them", list(names))


def _image(reader: Fields) -> None:
    reader.text("port")
    if not _is_missing(reader, "steps"):
        # What is not about pictures need not know how they are read.
        from precast.runtime.processors.image_steps import read_steps

        read_steps(reader)


def _is_missing(reader: Fields, by: str) -> bool:
    """Whether a kind of input is said to be read by nothing, and why."""
    why = reader.optional_text("missing", None)
    if why is not None and by in reader:
        reader.fail("missing", f"left out where there are {by}", why)
    return why is not None


def _measured(figures: Fields) -> None:
    figures.text("output")
    figures.text("case")
    for key in ("kl", "reference_error", "reference_rms", "orders"):  # what a replay is held to
        figures.take(key, "a number or null", lambda v: v is None or is_number(v), None)


# What is recorded of each metric of `precast.runtime.metrics`: numbers, and how many answers they are over.
_JUDGED: Mapping[str, tuple[tuple[str, ...], str]] = {
    "divergence": (("kl_mean", "same_top"), "positions"),
    "cosine": (("mean", "worst"), "vectors"),
}


def _judged(figures: Fields, numbers: Sequence[str], counted: str) -> None:
    figures.flag("text")
    figures.count(counted, most=MOST_BYTES)
    for key in numbers:
        figures.number(key)


def _term(term: Fields) -> None:
    term.take("coefficient", "a number", is_number)
    term.counts("dimensions")


def _embedding(settings: Fields, files: Mapping[str, Any]) -> None:
    modes = settings.texts("pooling")
    towers = settings.mapping("towers", "the name of an output", is_text, {})
    if not set(towers) <= {"text", "image"}:
        settings.fail("towers", "outputs by what they are of, text or image", dict(towers))
    if not modes and not towers:
        settings.fail("pooling", "a list of one way of pooling or more", list(modes))
    settings.all("dense", lambda layer: _dense(layer, files), [])
    for key in ("include_prompt", "normalize", "do_lower_case"):
        settings.flag(key, key == "include_prompt")
    for key in ("max_seq_length", "max_active_dims"):
        settings.optional_count(key, None, least=1)
    settings.mapping("prompts", "a string", is_text, {})
    for key in ("default_prompt_name", "similarity"):
        settings.take(key, "a string or null", lambda v: v is None or is_text(v), None)


def _dense(layer: Fields, files: Mapping[str, Any]) -> None:
    _listed(layer, "weight", files)
    layer.take("bias", "a file listed in 'files', or null", lambda v: v is None or (is_text(v) and v in files), None)
    layer.text("activation")


def _listed(fields: Fields, key: str, files: Mapping[str, Any]) -> None:
    fields.take(key, "a file listed in 'files'", lambda v: is_text(v) and v in files)
