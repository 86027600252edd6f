"""A user's data: files of texts, tables, folders of pictures, arrays; each sample is what the artifact's task takes."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from precast.runtime import arguments
from precast.runtime.errors import DependencyError, InputError, closest, listing

__all__ = ["LEAST", "Sample", "Samples", "read_samples"]

LEAST = 8  # samples: one half of them is measured on, the other judges
# Columns that hold the input where none is named, the first that is there; and what may stand beside it.
_COLUMNS = ("text", "sentence", "sentence1", "image", "audio", "input", "prompt", "content", "question")
_BESIDE = {"text": "text_pair", "sentence1": "sentence2", "question": "context", "image": "text"}
_PICTURES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_RECORDINGS = (".flac", ".mp3", ".ogg", ".wav")
_KINDS = dict.fromkeys(_PICTURES, "image") | dict.fromkeys(_RECORDINGS, "audio")
_CHUNK = 1 << 20
_FOLDER = "folder"


class Sample(NamedTuple):
    """One input, and what is known to be right for it, or None."""

    input: Any
    label: Any = None


class Samples(NamedTuple):
    """Samples, in the order of their source.

    Args:
        name: of the file or folder, without its place. digest: SHA-256 of what was read.
        found: samples there were, of which evenly spaced ones may have been taken.
    """

    samples: Sequence[Sample]
    name: str
    digest: str
    found: int


def read_samples(source: Any, *, column: str | None = None, label: str | None = None, most: int = 512) -> Samples:
    """The samples of a file or folder, or of a list of what the task takes.

    Args:
        source: a ``.txt`` file with a text a line, ``.jsonl``, ``.csv``, ``.tsv`` or ``.parquet`` with a column each,
            ``.npz`` with the model's own inputs by name, a folder of pictures or of recordings; or a list.
        column: which holds the input; None: the first of the usual names that is there.
        label: the column of what is right; "folder": the folder that a picture lies in.
        most: samples that are taken, evenly spaced.

    Raises:
        InputError: there is nothing to read, too little, or not what was named.
        DependencyError: a package that reads such files is missing.
    """
    if isinstance(source, (str, os.PathLike)):
        path = arguments.path("data", source)
        name, digest, rows = path.name, *_rows(path)
    elif isinstance(source, Iterable):
        name, rows = "samples", iter(list(source))
        digest = ""
    else:
        raise InputError(f"data must be the path of a file or folder, or a list of inputs; received {source!r:.80}.")
    found = [_sample(row, number, column, label) for number, row in enumerate(rows, 1)]
    if len(found) < LEAST:
        raise InputError(
            f"data must hold {LEAST} samples or more, one half to measure on and one to judge by; {name} has "
            f"{len(found)}."
        )
    taken = [found[int(place)] for place in np.linspace(0, len(found) - 1, min(most, len(found)))]
    return Samples(taken, name, digest or _digest_of(taken), len(found))


def _rows(path: Path) -> tuple[str, Iterator[Any]]:
    """The digest of a file or folder, and its rows: inputs, or columns by name."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in _KINDS and file.is_file())
        if not files:
            raise InputError(f"data: the folder {path} holds no pictures and no recordings ({listing(_KINDS, 20)}).")
        kinds = sorted({_KINDS[file.suffix.lower()] for file in files})
        if len(kinds) > 1:
            raise InputError(f"data: the folder {path} holds pictures and recordings; keep one kind of them in it.")
        return _digest(files), ({kinds[0]: str(file), _FOLDER: file.parent.name} for file in files)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(
            f"data is a folder of pictures or recordings, or a file of one of the kinds {listing(_READERS, 10)}; "
            f"received {path.name}."
        )
    try:
        return _digest([path]), reader(path)
    except OSError as error:
        raise InputError(f"data: {path} cannot be read: {error.strerror or error}.") from None


def _digest(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            for chunk in iter(lambda: stream.read(_CHUNK), b""):
                digest.update(chunk)
    return digest.hexdigest()


def _digest_of(samples: Sequence[Sample]) -> str:
    digest = hashlib.sha256()
    for sample in samples:
        arrays = sample.input if isinstance(sample.input, Mapping) else {"": sample.input}
        for key in sorted(arrays):
            value = arrays[key]
            digest.update(str(key).encode())
            digest.update(value.tobytes() if hasattr(value, "tobytes") else repr(value).encode())
    return digest.hexdigest()


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that hold something, with their numbers."""
    try:
        for number, line in enumerate(path.read_text("utf-8-sig").splitlines(), 1):
            if line.strip():
                yield number, line
    except UnicodeDecodeError as error:
        raise InputError(f"data: {path.name} is not UTF-8 text ({error.reason} at byte {error.start}).") from None


def _texts(path: Path) -> Iterator[Any]:
    return (line for _, line in _lines(path))


def _json_lines(path: Path) -> Iterator[Any]:
    for number, line in _lines(path):
        try:
            yield json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"data: line {number} of {path.name} is no JSON: {error}.") from None


def _table(delimiter: str) -> Callable[[Path], Iterator[Any]]:
    def read(path: Path) -> Iterator[Any]:
        try:
            with path.open(encoding="utf-8-sig", newline="") as stream:
                for number, row in enumerate(csv.DictReader(stream, delimiter=delimiter, strict=True), 2):
                    if None in row or None in row.values():
                        raise InputError(
                            f"data: row {number} of {path.name} has another number of fields than the first row names."
                        )
                    yield row
        except (csv.Error, UnicodeDecodeError) as error:
            raise InputError(f"data: {path.name} is no table of UTF-8 text: {error}.") from None

    return read


def _parquet(path: Path) -> Iterator[Any]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise DependencyError("data: a .parquet file is read with pyarrow: pip install pyarrow.") from None
    try:
        rows: list[Any] = parquet.read_table(path).to_pylist()
    except Exception as error:
        raise InputError(f"data: {path.name} is no Parquet file that can be read: {error}.") from None
    for row in rows:
        image = row.get("image")
        # As Hugging Face's datasets store pictures.
        yield {**row, "image": image["bytes"]} if isinstance(image, dict) and image.get("bytes") else row


def _arrays(path: Path) -> Iterator[Any]:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:
        raise InputError(f"data: {path.name} is no .npz file of arrays: {error}.") from None
    sizes = {name: array.shape[0] if array.ndim else 0 for name, array in arrays.items()}
    if not arrays or len(set(sizes.values())) != 1:
        raise InputError(f"data: all arrays of {path.name} must have one row a sample; they have {sizes}.")
    for row in range(next(iter(sizes.values()))):
        yield {name: array[row] for name, array in arrays.items()}


_READERS: Mapping[str, Callable[[Path], Iterator[Any]]] = {
    ".txt": _texts,
    ".jsonl": _json_lines,
    ".csv": _table(","),
    ".tsv": _table("\t"),
    ".parquet": _parquet,
    ".npz": _arrays,
}


def _sample(row: Any, number: int, column: str | None, label: str | None) -> Sample:
    """What a row holds: a table's columns, the model's own arrays, or the input itself."""
    if isinstance(row, Sample):
        return row
    if not isinstance(row, Mapping):
        if column or label:
            raise InputError(f"data: sample {number} has no columns, and {column or label!r} was named as one.")
        return Sample(row)
    if not row or not all(isinstance(key, str) for key in row):
        raise InputError(f"data: sample {number} must have names for its columns; it has {listing(map(repr, row))}.")
    right = _named(row, label, number) if label else None
    arrays = {name: value for name, value in row.items() if isinstance(value, np.ndarray) and name != label}
    if column is None and arrays and len(arrays) == len(row) - bool(label):
        return Sample(arrays, right)
    name = column or next((known for known in _COLUMNS if known in row), None)
    if name is None:
        raise InputError(
            f"data: none of the columns {listing(row)} has a usual name ({listing(_COLUMNS, 10)}). Say which one holds "
            "the input: --column NAME."
        )
    value = _named(row, name, number)
    beside = _BESIDE.get(name, "")
    if column is None and row.get(beside) is not None and beside != label:
        second = row[beside]
        keys = ("text", "text_pair") if name in ("text", "sentence1") else (name, beside)
        return Sample(dict(zip(keys, (value, second), strict=True)), right)
    return Sample(value, right)


def _named(row: Mapping[str, Any], name: str, number: int) -> Any:
    value = row.get(name)
    if value is None:
        near = ""
        with suppress(TypeError):
            near = closest(name, list(row))
        raise InputError(
            f"data: sample {number} has nothing in a column {name!r}; its columns are {listing(row)}. {near}".rstrip()
        )
    return value
