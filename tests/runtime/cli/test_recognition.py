"""``precast run automatic-speech-recognition``: texts, JSON and subtitles, of one recording and of several."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import tiny_artifacts, tiny_sounds
from support.command_line import good, misused, refused
from support.recordings import encoded, recording

import precast
from precast.runtime.recognition.subtitles import srt, vtt

TASK = "automatic-speech-recognition"


@pytest.fixture
def talks(tmp_path: Path) -> list[Path]:
    made = []
    for number in range(2):
        made.append(tmp_path / f"talk{number}.wav")
        made[-1].write_bytes(encoded(recording(20_000, number)))
    return made


def test_texts(talks: list[Path]) -> None:
    artifact = tiny_sounds.speller()
    expected = [precast.pipeline(TASK, artifact)(talk)["text"] for talk in talks]
    assert good("run", TASK, artifact, talks[0]) == f"{expected[0]}\n"
    both = good("run", TASK, artifact, *talks)
    assert both == "".join(f"{talk}: {text}\n" for talk, text in zip(talks, expected, strict=True))
    lines = good("run", TASK, artifact, *talks, "--json", "--param", "return_timestamps=word").splitlines()
    found = [json.loads(line) for line in lines]
    assert [one["text"] for one in found] == expected
    assert [one["file"] for one in found] == [str(talk) for talk in talks] and all(one["chunks"] for one in found)


def test_a_writer_takes_options_of_generation(talks: list[Path]) -> None:
    artifact = tiny_sounds.writer()
    options = ("--greedy", "--max-new-tokens", "9", "--param", "language=de")
    arguments = {"num_beams": 1, "max_new_tokens": 9, "do_sample": False, "language": "de"}
    expected = precast.pipeline(TASK, artifact)(talks[0], generate_kwargs=arguments)["text"]
    assert good("run", TASK, artifact, talks[0], *options) == f"{expected.strip()}\n"


def test_subtitles(talks: list[Path], tmp_path: Path) -> None:
    artifact = tiny_sounds.speller()
    chunks = precast.pipeline(TASK, artifact)(talks[0], return_timestamps="word")["chunks"]
    assert good("run", TASK, artifact, talks[0], "--srt").rstrip("\n") == srt(chunks).rstrip("\n")
    assert good("run", TASK, artifact, talks[0], "--vtt", "--save", tmp_path / "one.vtt") == ""
    assert (tmp_path / "one.vtt").read_text() == vtt(chunks)
    assert good("run", TASK, artifact, *talks, "--srt", "--save", tmp_path / "all") == ""
    assert (tmp_path / "all" / "talk0.srt").read_text() == srt(chunks)
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == ["talk0.srt", "talk1.srt"]


def test_one_that_cannot_be_read_is_named_and_the_others_are_answered(talks: list[Path], tmp_path: Path) -> None:
    artifact = tiny_sounds.speller()
    (tmp_path / "notes.wav").write_text("Once upon a time")
    said = refused(
        "run", TASK, artifact, talks[0], tmp_path / "notes.wav", talks[1], "--srt", "--save", tmp_path / "all"
    )
    assert "1 of 3 recordings were not read" in said and "notes.wav is no recording" in said.replace("'", "")
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == ["talk0.srt", "talk1.srt"]
    assert "There is no recording" in refused("run", TASK, artifact, tmp_path / "none.wav")


def test_options_that_contradict_each_other(talks: list[Path], tmp_path: Path) -> None:
    artifact = tiny_sounds.speller()
    assert "give --srt or --vtt, too" in refused("run", TASK, artifact, talks[0], "--save", tmp_path / "a.srt")
    assert "two ways to print" in refused("run", TASK, artifact, talks[0], "--srt", "--json")
    assert "need a folder: --save FOLDER" in refused("run", TASK, artifact, *talks, "--srt")


def test_times_are_written_as_players_read_them() -> None:
    chunks = [
        {"text": " Hello,\n world ", "timestamp": (0.0, 1.25)},
        {"text": "a < b & c", "timestamp": (3661.5, None)},
        {"text": "  ", "timestamp": (3662.0, 3663.0)},
        {"text": "last", "timestamp": (3664.0, None)},
    ]
    assert srt(chunks) == (
        "1\n00:00:00,000 --> 00:00:01,250\nHello, world\n\n"
        "2\n01:01:01,500 --> 01:01:02,000\na < b & c\n\n"
        "3\n01:01:04,000 --> 01:01:05,000\nlast\n"
    )
    assert vtt(chunks).splitlines()[:4] == ["WEBVTT", "", "00:00:00.000 --> 00:00:01.250", "Hello, world"]
    assert "a &lt; b &amp; c" in vtt(chunks)


def test_subtitles_are_of_recordings_alone() -> None:
    said = misused("run", "fill-mask", tiny_artifacts.artifact("fill-mask"), "a [MASK]", "--srt")
    assert "--srt is for automatic-speech-recognition" in said
