"""Chunks of a transcript as subtitles: SubRip (.srt), and WebVTT (.vtt, https://www.w3.org/TR/webvtt1/)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ["srt", "vtt"]


def srt(chunks: Sequence[Mapping[str, Any]]) -> str:
    """``[{"text", "timestamp": (start, end)}]`` numbered, each with its times."""
    cues = enumerate(_cues(chunks), start=1)
    return "\n".join(f"{n}\n{_time(a, ',')} --> {_time(b, ',')}\n{text}\n" for n, (a, b, text) in cues)


def vtt(chunks: Sequence[Mapping[str, Any]]) -> str:
    """The same behind a heading, and what markup would read as its own written so that it does not."""
    escaped = ((a, b, text.replace("&", "&amp;").replace("<", "&lt;")) for a, b, text in _cues(chunks))
    return "WEBVTT\n" + "".join(f"\n{_time(a, '.')} --> {_time(b, '.')}\n{text}\n" for a, b, text in escaped)


def _cues(chunks: Sequence[Mapping[str, Any]]) -> Iterator[tuple[float, float, str]]:
    """Start, end and text of each; a text that nothing ends lasts to the next one, or a second."""
    starts = [float(chunk["timestamp"][0] or 0.0) for chunk in chunks]
    for number, chunk in enumerate(chunks):
        text = " ".join(str(chunk["text"]).split())
        end = chunk["timestamp"][1]
        if end is None:
            end = starts[number + 1] if number + 1 < len(chunks) else starts[number] + 1.0
        if text:
            yield starts[number], max(starts[number], float(end)), text


def _time(seconds: float, point: str) -> str:
    whole = round(seconds * 1000)
    return f"{whole // 3600000:02}:{whole // 60000 % 60:02}:{whole // 1000 % 60:02}{point}{whole % 1000:03}"
