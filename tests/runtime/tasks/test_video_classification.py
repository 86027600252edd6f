"""Video classification against upstream's pipeline over the same checkpoint; and what is no video."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from PIL import Image
from sklearn.datasets import load_sample_image
from support import oracle, tiny_artifacts
from support.command_line import good, refused
from support.tokenizer_samples import write_json
from transformers.models.videomae.image_processing_pil_videomae import VideoMAEImageProcessorPil

import precast
from precast.export.exporter import export_model
from precast.export.heads import VIDEO_CLASSIFICATION
from precast.runtime.errors import DependencyError, InputError


def frames(count: int, name: str = "china.jpg") -> list[np.ndarray]:
    """A camera that moves over a photograph."""
    photograph = load_sample_image(name)
    return [np.ascontiguousarray(photograph[10 * n : 10 * n + 96, 20 * n : 20 * n + 128]) for n in range(count)]


def write_video(path: Path, pictures: list[np.ndarray]) -> str:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.height, stream.width, stream.pix_fmt = *pictures[0].shape[:2], "yuv420p"
        for picture in pictures:
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return str(path)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("videos")
    return [write_video(folder / f"{name}.mp4", frames(20, name)) for name in ("china.jpg", "flower.jpg")]


@pytest.fixture(scope="module")
def classify() -> Any:
    return precast.pipeline("video-classification", tiny_artifacts.pictures("videomae"))


def upstreams(name: str) -> Any:
    source, model = tiny_artifacts.pictures_checkpoint(name)
    processor: Any = VideoMAEImageProcessorPil.from_pretrained(source)
    return transformers.pipeline("video-classification", model=model, image_processor=processor)


def assert_alike(ours: Any, theirs: Any) -> None:
    assert len(ours) == len(theirs)
    known = {entry["label"]: entry["score"] for entry in theirs}
    np.testing.assert_allclose([e["score"] for e in ours], [e["score"] for e in theirs], rtol=0, atol=1e-5)
    assert all(
        set(entry) == {"label", "score"} and abs(known[entry["label"]] - entry["score"]) < 1e-5 for entry in ours
    )


@pytest.mark.parametrize("model_type", ["videomae", "timesformer"])
def test_labels_are_upstreams(model_type: str, videos: list[str]) -> None:
    classify = precast.pipeline("video-classification", tiny_artifacts.pictures(model_type))
    theirs = upstreams(model_type)
    assert_alike(classify(videos[0]), theirs(videos[0]))
    for one, other in zip(classify(videos), theirs(videos), strict=True):
        assert_alike(one, other)
    for options in (
        {"frame_sampling_rate": 3},
        {"frame_sampling_rate": 2, "top_k": 1},
        {"function_to_apply": "sigmoid"},
        {"function_to_apply": "none", "top_k": 9},
    ):
        assert_alike(classify(videos[1], **options), theirs(videos[1], **options))
    count = 4 if model_type == "videomae" else 3
    assert classify(videos[0], num_frames=count) == classify(videos[0])


def test_a_model_of_lone_frames_is_asked_of_the_first_as_upstreams(videos: list[str], tmp_path: Path) -> None:
    config, model = oracle.upstream("timesformer", VIDEO_CLASSIFICATION, {"attention_type": "space_only"})
    source = oracle.save_checkpoint(tmp_path / "checkpoint", config, model)
    settings = {"size": {"shortest_edge": 15}, "crop_size": {"height": 12, "width": 12}}
    write_json(source / "preprocessor_config.json", {"image_processor_type": "VideoMAEImageProcessor", **settings})
    export_model(source, tmp_path / "artifact")
    processor: Any = VideoMAEImageProcessorPil.from_pretrained(source)
    theirs = transformers.pipeline("video-classification", model=model, image_processor=processor)
    for one, other in zip(
        precast.pipeline("video-classification", tmp_path / "artifact")(videos), theirs(videos), strict=True
    ):
        assert_alike(one, other)


def test_one_input_is_one_video_whatever_holds_it(classify: Any, videos: list[str]) -> None:
    one = classify(videos[0])
    assert classify(Path(videos[0])) == one and classify(Path(videos[0]).read_bytes()) == one
    assert list(classify(video for video in videos)) == classify(videos)
    pictures = frames(4)
    made = classify(pictures)
    assert classify(np.stack(pictures)) == made
    assert classify([Image.fromarray(picture) for picture in pictures]) == made
    assert classify([pictures, np.stack(pictures)]) == [made, made]
    assert classify(np.stack([pictures, pictures])) == [made, made]
    # The model sees frames as its processor makes pixels of them.
    model = precast.load(tiny_artifacts.pictures("videomae"))
    logits = model(**model.image_processor(pictures)).logits[0]
    assert [entry["label"] for entry in made] == [model.config["id2label"][str(i)] for i in np.argsort(-logits)]
    # Every other frame.
    longer = [frame for frame in frames(8) for _ in range(1)]
    assert classify(longer, frame_sampling_rate=2) == classify([longer[number] for number in (0, 2, 4, 7)])


def test_what_is_no_video_is_refused(classify: Any, videos: list[str], tmp_path: Path, monkeypatch: Any) -> None:
    with pytest.raises(InputError, match=r"There is no video 'no\.mp4': no such file"):
        classify("no.mp4")
    (tmp_path / "text.mp4").write_text("no video at all")
    with pytest.raises(InputError, match=r"The video '.*text\.mp4' cannot be read"):
        classify(tmp_path / "text.mp4")
    with pytest.raises(InputError, match=r"https://a\.b/c\.mp4' is an address. Fetch it first"):
        classify("https://a.b/c.mp4")
    with pytest.raises(
        InputError, match="4 frames are taken of a video, the last of them its number 40; this one ends"
    ):
        classify(videos[0], frame_sampling_rate=10)
    with pytest.raises(InputError, match=r"A video is a file's name, a list of frames.*received ndarray: \[3, 4\]"):
        classify(np.zeros((3, 4), np.uint8))
    with pytest.raises(InputError, match=r"A video is a file's name.*received int: 3"):
        classify(3)
    with pytest.raises(InputError, match="needs a video, or a list of them"):
        classify()
    with pytest.raises(InputError, match="num_frames must be an integer of at least 1; received 0"):
        classify(videos[0], num_frames=0)
    with pytest.raises(InputError, match=r"is \[batch, 4, 3, 12, 12\]; received shape \(1, 5, 3, 12, 12\)"):
        classify(videos[0], num_frames=5)
    with pytest.raises(InputError, match=r"frame_sampling_rate must be an integer of at least 1; received 1\.5"):
        classify(videos[0], frame_sampling_rate=1.5)
    imported = builtins.__import__

    def without(name: str, *given: Any, **named: Any) -> Any:
        if name == "av":
            raise ImportError("no av")
        return imported(name, *given, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DependencyError, match=r"read by PyAV, which is not installed.*precast\[video\]"):
        classify(videos[0])


def test_on_the_command_line(classify: Any, videos: list[str]) -> None:
    artifact = tiny_artifacts.pictures("videomae")
    shown = good("run", "video-classification", artifact, *videos, "--top-k", "1", "--json")
    assert [json.loads(line) for line in shown.splitlines()] == classify(videos, top_k=1)
    assert "There is no video 'no.mp4'" in refused("run", "video-classification", artifact, "no.mp4")
