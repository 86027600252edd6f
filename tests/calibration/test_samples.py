"""A user's data, read from every kind of file, and every kind of mistake in it named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from precast.calibration.samples import Sample, read_samples
from precast.runtime.errors import DependencyError, InputError

TEXTS = [f"text {number}, “quoted”" for number in range(9)]


def txt(path: Path) -> None:
    path.write_text("\ufeff" + "\n\n".join(TEXTS) + "\n", encoding="utf-8")


def jsonl(path: Path) -> None:
    path.write_text("\n".join(json.dumps({"text": text, "right": text[:6]}) for text in TEXTS), encoding="utf-8")


def delimited(delimiter: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        rows = [["right", "text"], *([text[:6], '"' + text.replace('"', '""') + '"'] for text in TEXTS)]
        path.write_text("\n".join(delimiter.join(row) for row in rows), encoding="utf-8")

    return write


@pytest.mark.parametrize(
    ("name", "write", "labels"),
    [
        ("a.txt", txt, False),
        ("a.jsonl", jsonl, True),
        ("a.csv", delimited(","), True),
        ("a.tsv", delimited("\t"), True),
    ],
)
def test_files_of_texts(name: str, write: Callable[[Path], None], labels: bool, tmp_path: Path) -> None:
    write(tmp_path / name)
    found = read_samples(str(tmp_path / name), label="right" if labels else None)
    assert [sample.input for sample in found.samples] == TEXTS
    assert [sample.label for sample in found.samples] == [text[:6] if labels else None for text in TEXTS]
    assert (found.name, found.found, len(found.digest)) == (name, 9, 64)
    assert read_samples(tmp_path / name).digest == found.digest


def test_pairs_questions_and_a_column_of_ones_own(tmp_path: Path) -> None:
    rows = [{"sentence1": "a", "sentence2": "b", "text_b": "c"}] * 8
    assert read_samples(rows).samples[0].input == {"text": "a", "text_pair": "b"}
    assert read_samples(rows, column="text_b").samples[0].input == "c"
    rows = [{"question": "who?", "context": "she", "id": "1"}] * 8
    assert read_samples(rows).samples[0].input == {"question": "who?", "context": "she"}


def test_arrays_and_a_folder_of_pictures(tmp_path: Path) -> None:
    ids = np.arange(40).reshape(10, 4)
    np.savez(tmp_path / "a.npz", input_ids=ids, attention_mask=np.ones_like(ids))
    found = read_samples(tmp_path / "a.npz", most=8)
    assert found.found == 10 and len(found.samples) == 8
    np.testing.assert_array_equal(found.samples[0].input["input_ids"], ids[0])
    np.testing.assert_array_equal(found.samples[-1].input["input_ids"], ids[-1])
    for number in range(8):
        place = tmp_path / "photos" / ("cat" if number % 2 else "dog")
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 5)).save(place / f"{number}.png")
    (tmp_path / "photos" / "notes.md").write_text("no picture")
    labels = [sample.label for sample in read_samples(tmp_path / "photos", label="folder").samples]
    assert sorted(labels) == ["cat"] * 4 + ["dog"] * 4


def test_parquet_wants_its_package(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        with pytest.raises(DependencyError, match="pip install pyarrow"):
            read_samples(tmp_path / "a.parquet")
    else:
        with pytest.raises(InputError, match=r"a\.parquet is no Parquet file"):
            read_samples(tmp_path / "a.parquet")


@settings(max_examples=60, deadline=None)
@given(st.integers(8, 400), st.integers(8, 64))
def test_of_many_samples_evenly_spaced_ones_are_taken(count: int, most: int) -> None:
    taken = [sample.input for sample in read_samples(list(range(count)), most=most).samples]
    assert len(taken) == min(count, most) and len(set(taken)) == len(taken)
    assert taken[0] == 0 and taken[-1] == count - 1
    steps = np.diff(taken)
    assert steps.max() - steps.min() <= 1


def test_a_list_may_hold_samples() -> None:
    given_ones = [Sample("a", 1)] * 8
    assert list(read_samples(given_ones).samples) == given_ones


def _written(name: str, content: bytes) -> Callable[[Path], Any]:
    def write(folder: Path) -> Any:
        (folder / name).write_bytes(content)
        return folder / name

    return write


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda folder: folder / "none.txt", {}, r"none\.txt cannot be read: No such file"),
        (lambda folder: folder, {}, r"holds no pictures"),
        (_written("a.docx", b"x"), {}, r"a file of one of the kinds .*received a\.docx"),
        (_written("a.txt", b""), {}, r"data must hold 8 samples or more.*a\.txt has 0"),
        (_written("a.txt", b"one\n"), {}, r"data must hold 8 samples or more.*a\.txt has 1"),
        (_written("a.txt", b"\xff\xfe\xff"), {}, r"a\.txt is not UTF-8 text \(invalid start byte at byte 0\)"),
        (_written("a.jsonl", b'{"text": "a"}\n{"text'), {}, r"line 2 of a\.jsonl is no JSON"),
        (_written("a.csv", b"text,right\na,b,c\n"), {}, r"row 2 of a\.csv has another number of fields"),
        (_written("a.csv", b"name,right\n" + b"a,b\n" * 9), {}, r"none of the columns name, right has a usual name"),
        (_written("a.csv", b"text\n" + b"a\n" * 9), {"column": "txt"}, r"nothing in a column 'txt'; its columns"),
        (_written("a.csv", b"text\n" + b"a\n" * 9), {"label": "y"}, r"nothing in a column 'y'"),
        (_written("a.txt", b"a\n" * 9), {"label": "y"}, r"sample 1 has no columns, and 'y' was named as one"),
        (_written("a.npz", b"PK\x03\x04"), {}, r"a\.npz is no \.npz file of arrays"),
        (lambda _: None, {}, r"data must be the path of a file or folder, or a list of inputs; received None"),
        (lambda _: [{}] * 8, {}, r"sample 1 must have names for its columns"),
        (lambda _: [{1: 2}] * 8, {}, r"sample 1 must have names for its columns"),
    ],
)  # fmt: skip
def test_mistakes(make: Callable[[Path], Any], options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read_samples(make(tmp_path), **options)


def test_arrays_of_other_lengths(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", input_ids=np.ones((9, 4)), mask=np.ones((8, 4)))
    with pytest.raises(InputError, match=r"all arrays of a\.npz must have one row a sample"):
        read_samples(tmp_path / "a.npz")
