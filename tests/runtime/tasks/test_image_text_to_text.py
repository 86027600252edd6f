"""Texts with pictures among their tokens: the processor and the pipeline against upstream's; and what they refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from PIL import Image
from support import tiny_artifacts, tiny_seers
from support.command_line import good, misused, refused

import precast
from precast.runtime.artifact import Artifact
from precast.runtime.cli.chat import Talk
from precast.runtime.errors import InputError
from precast.runtime.generation.conversation import Conversation
from precast.runtime.processors.joint import JointProcessor

QUESTION = "<image>\nstop the top"
TWICE = "<image> of <image> abc"
GREEDY = {"max_new_tokens": 9, "do_sample": False}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder, rng, found = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0), []
    for number, size in enumerate(((31, 20), (17, 40), (12, 12))):
        path = folder / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
        found.append(str(path))
    return found


@pytest.fixture(scope="module")
def pipe() -> Any:
    return precast.pipeline("image-text-to-text", tiny_seers.seer())


@pytest.fixture(scope="module")
def upstream() -> Any:
    return transformers.pipeline(
        "image-text-to-text", model=str(tiny_seers.checkpoint()), processor=tiny_seers.processor()
    )


@pytest.fixture(scope="module")
def processor() -> Any:
    made = precast.AutoProcessor.from_pretrained(tiny_seers.seer())
    assert isinstance(made, JointProcessor)
    return made


def chat(*pictures: str, text: str = "stop?") -> list[dict[str, Any]]:
    parts = [{"type": "image", "url": picture} for picture in pictures]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def test_the_processor(processor: Any, pictures: list[str]) -> None:
    """Ids and masks exactly upstream's, pixels within 1e-6: one text, several of different length, pictures of each."""
    theirs = tiny_seers.processor()
    opened = [Image.open(path).convert("RGB") for path in pictures]
    calls: tuple[tuple[Any, Any], ...] = (
        (opened[0], QUESTION),
        (opened[:2], TWICE),
        ([opened[:2], opened[2:]], [TWICE, QUESTION]),
        (None, "of abc"),
    )
    for images, text in calls:
        wanted = theirs(images=images, text=text, return_tensors="np", padding=True)
        got = processor(images=images, text=text)
        assert set(got) == set(wanted) - {"token_type_ids"} | set(got) & {"token_type_ids"}
        for name in ("input_ids", "attention_mask"):
            np.testing.assert_array_equal(got[name], wanted[name])
        if images is not None:
            np.testing.assert_allclose(got["pixel_values"], wanted["pixel_values"], rtol=0, atol=1e-6)
    wanted = theirs.apply_chat_template(
        chat(*pictures[:2]), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="np"
    )
    got = processor.apply_chat_template(chat(*pictures[:2]), add_generation_prompt=True, tokenize=True)
    np.testing.assert_array_equal(got["input_ids"], wanted["input_ids"])
    assert processor.apply_chat_template(chat(pictures[0])).count("<image>") == 1


def test_texts_and_pictures(pipe: Any, upstream: Any, pictures: list[str]) -> None:
    """Upstream's answers: of a text, of a list whose texts have several pictures and one, of dictionaries, of text
    alone; whole texts, new ones, and ids."""
    for options in ({}, {"return_full_text": False}):
        ours = pipe(pictures[0], text=QUESTION, **GREEDY, **options)
        theirs = upstream(pictures[0], text=QUESTION, generate_kwargs=dict(GREEDY), **options)
        assert ours == theirs
    both = pipe([pictures[:2], pictures[2]], text=[TWICE, QUESTION], **GREEDY)
    assert [len(one) for one in both] == [1, 1]
    for ours, images, text in zip(both, (pictures[:2], pictures[2]), (TWICE, QUESTION), strict=True):
        assert ours == upstream(images, text=text, generate_kwargs=dict(GREEDY))
        assert ours == pipe({"images": images, "text": text}, **GREEDY)
    assert pipe(text="of abc", **GREEDY) == upstream(text="of abc", generate_kwargs=dict(GREEDY))
    [ids] = pipe(pictures[0], text=QUESTION, return_tensors=True, **GREEDY)
    [wanted] = upstream(pictures[0], text=QUESTION, return_tensors=True, generate_kwargs=dict(GREEDY))
    assert ids["generated_token_ids"] == wanted["generated_token_ids"].tolist()


def test_chats(pipe: Any, upstream: Any, pictures: list[str]) -> None:
    """A chat about two pictures answered, one that ends with the assistant continued, several at once, streamed."""
    first = chat(*pictures[:2])
    open_ended = [*chat(pictures[2]), {"role": "assistant", "content": [{"type": "text", "text": "of a"}]}]
    for messages in (first, open_ended):
        ours = pipe(messages, **GREEDY)
        assert ours == upstream(text=messages, generate_kwargs=dict(GREEDY))
        assert pipe(text=messages, **GREEDY) == ours
    assert pipe([first, open_ended], **GREEDY) == [pipe(first, **GREEDY), pipe(open_ended, **GREEDY)]
    [whole] = pipe(first, return_full_text=False, **GREEDY)
    assert "".join(pipe.stream(first, **GREEDY)) == whole["generated_text"]


def test_a_conversation_goes_on(pipe: Any, pictures: list[str]) -> None:
    """What was said about a picture is remembered while no picture comes, and with another one the answer is that of a
    fresh conversation."""
    past = Conversation()
    messages = chat(pictures[0])
    first = "".join(pipe.stream(messages, past=past, **GREEDY))
    messages += [{"role": "assistant", "content": [{"type": "text", "text": first}]}, *chat(text="why")]
    second = "".join(pipe.stream(messages, past=past, **GREEDY))
    assert past.reused > tiny_seers.PLACES
    assert second == "".join(pipe.stream(messages, **GREEDY))
    messages += [{"role": "assistant", "content": [{"type": "text", "text": second}]}, *chat(pictures[1])]
    assert "".join(pipe.stream(messages, past=past, **GREEDY)) == "".join(pipe.stream(messages, **GREEDY))


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"do_sample": True, "seed": 3, "num_return_sequences": 2}])
def test_beams_and_samples_keep_their_pictures(pipe: Any, options: dict[str, Any], pictures: list[str]) -> None:
    """Rows that change places take the places of their pictures along: answers of a batch are those of each alone."""
    inputs = [{"images": pictures[:2], "text": TWICE}, {"images": pictures[2], "text": QUESTION}, {"text": "of abc"}]
    options = {"max_new_tokens": 8, **options}
    together = pipe(inputs, **options)
    seeds = [{"seed": 3 + index} if "seed" in options else {} for index in range(3)]
    assert together == [pipe(one, **{**options, **seed}) for one, seed in zip(inputs, seeds, strict=True)]


def test_whole_texts(pictures: list[str], processor: Any) -> None:
    """Logits of every position are upstream's, padded rows among them."""
    inputs = processor(images=[pictures[:2], pictures[2:]], text=[TWICE, QUESTION])
    got = precast.load(tiny_seers.seer())(**inputs).logits
    model = transformers.AutoModelForImageTextToText.from_pretrained(tiny_seers.checkpoint()).eval()
    wanted = model(**{name: _tensor(value) for name, value in inputs.items()}).logits.detach().numpy()
    shown = inputs["attention_mask"] != 0
    np.testing.assert_allclose(got[shown], wanted[shown], rtol=0, atol=2e-4)


def _tensor(value: Any) -> Any:
    import torch

    return torch.from_numpy(value)


def test_what_is_refused(pipe: Any, processor: Any, pictures: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"one '<image>' for each of its pictures; 1 <image> in it, and 2 pictures"):
        pipe(pictures[:2], text=QUESTION)
    with pytest.raises(InputError, match=r"the texts have \[2, 1\], and \[1, 2\] pictures came with them"):
        processor(images=[pictures[:1], pictures[1:]], text=[TWICE, QUESTION])
    with pytest.raises(InputError, match=r"needs a text beside the pictures"):
        pipe(pictures[0])
    with pytest.raises(InputError, match=r"needs a text, pictures, or both"):
        pipe()
    with pytest.raises(InputError, match=r"received 2 texts and 1 of pictures"):
        pipe(pictures[0], text=[QUESTION, QUESTION])
    with pytest.raises(InputError, match=r"a picture in a message is .*'url'"):
        pipe([{"role": "user", "content": [{"type": "image"}]}])
    (tmp_path / "talk.png").write_bytes(b"RIFF\x00\x00\x00\x00WAVEfmt ")
    with pytest.raises(InputError, match=r"talk\.png"):
        pipe(str(tmp_path / "talk.png"), text=QUESTION)
    model = precast.load(tiny_seers.seer())
    inputs = processor(images=pictures[0], text=QUESTION)
    with pytest.raises(InputError, match=r"prompts have places for 4 features .* makes 8"):
        model.generate(**{**inputs, "pixel_values": inputs["pixel_values"].repeat(2, axis=0)})
    with pytest.raises(InputError, match=r"no place for it: token \d+"):
        model.generate(input_ids=[[5, 6]], pixel_values=inputs["pixel_values"])
    with pytest.raises(InputError, match=r"this model takes input_ids, pixel_values; received input_features"):
        model.generate(input_ids=[[5, 6]], input_features=np.zeros((1, 2, 3), np.float32))
    with pytest.raises(InputError, match=r"counted at its export: export it"):
        precast.AutoProcessor.from_pretrained(tiny_seers.checkpoint())


def test_the_command_line(pictures: list[str], tmp_path: Path) -> None:
    """A question about a picture is a chat where the model has a template; the proof of an artifact is replayed."""
    artifact = str(tiny_seers.seer())
    asked = ["run", "image-text-to-text", artifact, pictures[0], "--question", "stop?", "--max-new-tokens", "5"]
    [shown] = good(*asked, "--json").splitlines()
    [answer] = json.loads(shown)
    assert answer["generated_text"][-1]["role"] == "assistant"
    assert answer["generated_text"][-1]["content"] == good(*asked, "--stream").rstrip("\n")
    assert "--question" in refused("run", "image-text-to-text", artifact, pictures[0])
    assert "--question is for" in misused("run", "fill-mask", artifact, "a", "--question", "b")
    good("verify", artifact)


def test_a_talk_about_pictures(pipe: Any, pictures: list[str], tmp_path: Path) -> None:
    """/image puts a picture in front of the next message; the answers are the pipeline's."""
    talk = Talk(precast.pipeline("image-text-to-text", tiny_seers.seer(), **GREEDY))
    assert talk.command(f"/image {pictures[0]}") == f"The next message is about {pictures[0]}."
    first, _ = talk.answer("stop?")
    second, _ = talk.answer("why")
    turns = chat(pictures[0])
    for said in (first, second):
        [answer] = pipe(turns, return_full_text=False, **GREEDY)
        assert answer["generated_text"] == said
        turns += [{"role": "assistant", "content": [{"type": "text", "text": said}]}, *chat(text="why")]
    talk.command(f"/save {tmp_path / 'talk.txt'}")
    assert (tmp_path / "talk.txt").read_text().startswith(f"user: [{pictures[0]}] stop?\n\nassistant: ")
    for line, why in (("/image", "takes the name of a file"), (f"/image {tmp_path}/none.png", "none.png")):
        with pytest.raises(InputError, match=why):
            talk.command(line)
    with pytest.raises(InputError, match="this model reads texts alone"):
        Talk(precast.pipeline("text-generation", tiny_artifacts.language_model())).show(pictures[0])
    artifact = str(tiny_seers.seer())
    said = good("chat", artifact, "--image", pictures[0], "--message", "stop?", "--greedy", "--max-new-tokens", "9")
    assert said == f"{first}\n"


def test_tiles_of_pictures(pictures: list[str]) -> None:
    """A model that cuts pictures into tiles: upstream's answers of a text with two pictures and of a chat, in a batch
    as alone."""
    ours = precast.pipeline("image-text-to-text", tiny_seers.tiler())
    source, processor = str(tiny_seers.tiler_checkpoint()), tiny_seers.tiler_processor()
    theirs = transformers.pipeline("image-text-to-text", model=source, processor=processor)
    text = {"images": pictures[:2], "text": TWICE}
    [wanted] = theirs(pictures[:2], text=TWICE, generate_kwargs=dict(GREEDY))
    assert ours(text, **GREEDY) == [wanted]
    messages = chat(pictures[1])
    answered = theirs(text=messages, generate_kwargs=dict(GREEDY))
    assert ours(messages, **GREEDY) == answered
    assert ours([text, {"images": pictures[2:], "text": QUESTION}], **GREEDY)[0] == [wanted]


def test_low_precision(pictures: list[str], tmp_path: Path) -> None:
    """The decoder's weights in 8 bits, by an export and by `quantize`: judged behind pictures that are made up, and
    still the same answers here."""
    made = precast.export_model(tiny_seers.checkpoint(), tmp_path / "exported", precision="int8")
    copied = shutil.copytree(tiny_seers.seer(), tmp_path / "copied")
    precast.quantize(copied, precision="int8")
    [wanted] = precast.pipeline("image-text-to-text", tiny_seers.seer())(pictures[0], text=QUESTION, **GREEDY)
    for path in (made, copied):
        [variant] = {
            name
            for name in Artifact.open(path).components["decoder"].variants
            if "int8" in name and "native" not in name
        }
        model = precast.load(path, variant=variant)
        judged = model.variant.parity["divergence"]
        assert judged["kl_mean"] < 0.02 and not judged["text"]
        assert precast.pipeline("image-text-to-text", model)(pictures[0], text=QUESTION, **GREEDY) == [wanted]
