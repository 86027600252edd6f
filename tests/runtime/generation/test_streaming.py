"""Streams: what comes is what generate gives, whole characters only; closing, failing and forgetting a stream."""

from __future__ import annotations

import asyncio
import gc
import threading
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.torch_engine import random_prompts, served, tiny_gpt2, tiny_llama, upstream
from tokenizers import Tokenizer, decoders, models

from precast.runtime.errors import InputError
from precast.runtime.generation.api import generate
from precast.runtime.generation.detokenizer import Detokenizer
from precast.runtime.generation.streaming import astream_text, astream_tokens, stream_text, stream_tokens

ASKED = {"max_new_tokens": 12, "min_new_tokens": 12}


@cache
def upstream_model() -> Any:
    return tiny_llama()


def spelled(ids: list[int]) -> str:
    """Tokens of the tiny model as pieces of text: letters, words, and the bytes of one character each a token."""
    euro, smile = "€".encode(), "😀".encode()
    pieces = [*euro, *smile]
    return b"".join(
        bytes([pieces[n]]) if n < len(pieces) else b" w%d" % n if n % 2 else bytes([60 + n]) for n in ids
    ).decode(errors="replace")


# The detokenizer


def pushed(decode: Any, ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(decode)
    return [*(detokenizer.push([token]) for token in ids), detokenizer.finish()]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(st.characters(exclude_characters="\ufffd", exclude_categories=["Cs"]), max_size=30), st.data())
def test_bytes_make_whole_characters_however_they_are_cut(text: str, data: Any) -> None:
    raw = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(raw) - 1)), max_size=len(raw))))
    pieces = [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    came = pushed(lambda ids: b"".join(pieces[n] for n in ids).decode(errors="replace"), list(range(len(pieces))))
    assert "".join(came) == text
    assert not any("\ufffd" in piece for piece in came)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 255), max_size=40))
def test_bytes_that_are_no_text_come_as_the_whole_would(ids: list[int]) -> None:
    def decode(part: list[int]) -> str:
        return bytes(part).decode(errors="replace")

    assert "".join(pushed(decode, ids)) == decode(ids)


def fallback_tokenizer() -> tuple[Tokenizer, dict[str, int]]:
    """Llama's kind: words begin with a mark, characters outside the vocabulary are bytes, the first space is none."""
    words = ["<unk>", "▁", "▁the", "▁cat", "s", ",", "▁é", "\n"]
    vocabulary = {word: n for n, word in enumerate(words)}
    vocabulary.update({f"<0x{byte:02X}>": len(words) + byte for byte in range(256)})
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer, vocabulary


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(["▁", "▁the", "▁cat", "s", ",", "▁é", "\n", "日", "é", "😀"]), max_size=25))
def test_spaces_and_byte_tokens_of_sentencepiece(parts: list[str]) -> None:
    tokenizer, vocabulary = fallback_tokenizer()
    ids = [
        token
        for part in parts
        for token in (
            [vocabulary[part]] if part in vocabulary else [vocabulary[f"<0x{byte:02X}>"] for byte in part.encode()]
        )
    ]
    came = pushed(tokenizer.decode, ids)
    assert "".join(came) == tokenizer.decode(ids)
    assert not any("\ufffd" in piece for piece in came)


def test_text_goes_out_as_soon_as_it_is_certain() -> None:
    assert pushed(lambda ids: bytes(ids).decode(errors="replace"), [*b"ab", *"€".encode(), *b"c"]) == [
        "a", "b", "", "", "€", "c", "",
    ]  # fmt: skip
    # A lone first byte is no longer waited for once something else follows it, or after sixteen tokens.
    assert pushed(lambda ids: bytes(ids).decode(errors="replace"), [0xE2, 0x61]) == ["", "\ufffda", ""]
    stuck = pushed(lambda ids: "\ufffd" * len(ids), [1] * 20)
    assert [len(piece) for piece in stuck] == [0] * 15 + [16] + [0] * 4 + [4]


def test_the_window_that_is_decoded_stays_small() -> None:
    longest = 0

    def decode(ids: list[int]) -> str:
        nonlocal longest
        longest = max(longest, len(ids))
        return bytes(ids).decode(errors="replace")

    pushed(decode, list("a longer text with €uros and 😀 in it".encode()) * 20)
    assert longest <= 9


# Streams


def test_streams_of_tokens_and_text_are_what_generate_gives() -> None:
    ours = served(upstream_model())
    whole = generate(ours, [[5, 6, 7]], **ASKED)[0, 3:].tolist()
    stream = stream_tokens(ours, [[5, 6, 7]], **ASKED)
    assert list(stream) == whole and list(stream) == []
    assert stream.output is not None and stream.output.finish_reasons == ["length"]
    texts = list(stream_text(ours, [[5, 6, 7]], decode=spelled, **ASKED))
    assert "".join(texts) == spelled(whole) and len(texts) > 1 and all(texts)
    ours.tokenizer = SimpleNamespace(decode=lambda ids, skip_special_tokens: spelled(ids))
    assert list(stream_text(ours, [[5, 6, 7]], **ASKED)) == texts


def test_async_streams_are_the_same() -> None:
    ours = served(upstream_model())
    tokens = generate(ours, [[5, 6, 7]], **ASKED)[0, 3:].tolist()

    async def read() -> None:
        stream = astream_tokens(ours, [[5, 6, 7]], **ASKED)
        assert [token async for token in stream] == tokens
        assert [token async for token in stream] == []
        assert stream.output is not None and stream.output.new_tokens == [12]
        texts = [piece async for piece in astream_text(ours, [[5, 6, 7]], decode=spelled, **ASKED)]
        assert "".join(texts) == spelled(tokens)
        # Two at once, neither waiting for the other.
        both = await asyncio.gather(*(collected(ours) for _ in range(2)))
        assert both == [tokens, tokens]

    async def collected(model: Any) -> list[int]:
        return [token async for token in astream_tokens(model, [[5, 6, 7]], **ASKED)]

    asyncio.run(read())


class Gate:
    """Lets the loop's feeds through one by one."""

    def __init__(self, engine: Any) -> None:
        self.passes = threading.Semaphore(0)
        self.feeds = 0
        engine.on_feed = self.wait

    def wait(self) -> None:
        assert self.passes.acquire(timeout=60)
        self.feeds += 1


def test_a_token_is_read_before_the_next_is_made() -> None:
    ours = served(upstream_model())
    gate = Gate(ours.engine())
    stream = stream_tokens(ours, [[5, 6, 7]], **ASKED)
    for count in range(1, 4):
        gate.passes.release()
        next(stream)
        assert gate.feeds == count
    # Closed while the loop waits for its fourth step: that step is the last.
    closing = threading.Thread(target=stream.close)
    closing.start()
    while not stream._worker.cancelled.is_set():
        pass
    gate.passes.release()
    closing.join(timeout=60)
    assert not closing.is_alive() and gate.feeds == 4
    assert stream.output is not None and stream.output.finish_reasons == ["cancelled"]
    assert stream.output.new_tokens == [4] and list(stream) == []


def test_leaving_the_block_or_forgetting_the_stream_ends_the_loop() -> None:
    ours = served(upstream_model())
    gate = Gate(ours.engine())
    gate.passes.release(1)
    with stream_tokens(ours, [[5, 6, 7]], **ASKED) as stream:
        next(stream)
        gate.passes.release(1)
    assert stream.output is not None and stream.output.finish_reasons == ["cancelled"]
    forgotten = stream_tokens(ours, [[5, 6, 7]], **ASKED)
    worker = forgotten._worker
    del forgotten
    gc.collect()
    assert worker.cancelled.is_set()
    gate.passes.release(1)
    worker.join()


def test_closing_an_async_stream_ends_the_loop() -> None:
    ours = served(upstream_model())
    gate = Gate(ours.engine())
    gate.passes.release(3)

    async def read() -> None:
        async with astream_tokens(ours, [[5, 6, 7]], **ASKED) as stream:
            async for _ in stream:
                if gate.feeds == 3:
                    break
            assert stream._worker is not None
            stream._worker.cancelled.set()
            gate.passes.release(1)
        assert stream.output is not None and stream.output.finish_reasons == ["cancelled"]
        assert gate.feeds <= 4
        unread = astream_tokens(ours, [[5, 6, 7]], **ASKED)
        await unread.aclose()
        assert [token async for token in unread] == []

    asyncio.run(read())


def test_a_cancelled_reader_ends_the_loop() -> None:
    ours = served(upstream_model())
    gate = Gate(ours.engine())

    async def read() -> None:
        stream = astream_tokens(ours, [[5, 6, 7]], **ASKED)
        task = asyncio.ensure_future(stream.__anext__())
        while stream._worker is None:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert stream._worker.cancelled.is_set()
        gate.passes.release(1)
        await stream.aclose()
        assert gate.feeds == 1

    asyncio.run(read())


def test_what_the_loop_raises_is_raised_in_the_reader() -> None:
    ours = served(upstream_model())
    engine = ours.engine()

    def fail() -> None:
        if len(engine.feeds) == 3:
            raise MemoryError("no more")

    engine.on_feed = fail
    stream = stream_tokens(ours, [[5, 6, 7]], **ASKED)
    read = [next(stream), next(stream)]
    with pytest.raises(MemoryError, match="no more"):
        next(stream)
    assert len(read) == 2 and list(stream) == [] and stream.output is None
    engine.feeds.clear()

    async def fails() -> None:
        with pytest.raises(MemoryError, match="no more"):
            async for _ in astream_tokens(ours, [[5, 6, 7]], **ASKED):
                pass

    asyncio.run(fails())
    # What decode raises, too.
    engine.on_feed = None
    with pytest.raises(ZeroDivisionError):
        list(stream_text(ours, [[5]], decode=lambda ids: str(1 // 0), **ASKED))


def test_max_time_ends_a_stream() -> None:
    stream = stream_tokens(served(upstream_model()), [[5, 6, 7]], max_time=1e-9, **ASKED)
    assert len(list(stream)) == 1 and stream.output is not None and stream.output.finish_reasons == ["time"]


def test_bad_calls_are_refused_before_anything_runs() -> None:
    ours = served(upstream_model())
    with pytest.raises(InputError, match="A stream is one row, decoded without beams; received 2 prompts"):
        stream_tokens(ours, [[5], [6]])
    with pytest.raises(InputError, match="num_beams=3"):
        astream_text(ours, [[5]], num_beams=3, decode=spelled)
    with pytest.raises(InputError, match="no argument 'max_new_token'"):
        stream_tokens(ours, [[5]], max_new_token=3)
    with pytest.raises(InputError, match="no tokenizer to make text with"):
        stream_text(ours, [[5]])
    assert ours.engine().opened == 0


# streamer=


class Collected:
    def __init__(self) -> None:
        self.values: list[Any] = []
        self.ends = 0

    def put(self, value: Any) -> None:
        self.values.append(np.asarray(value).tolist())

    def end(self) -> None:
        self.ends += 1


def test_streamers_are_told_what_upstream_tells_them() -> None:
    model = tiny_gpt2()
    ids, mask = random_prompts(41, rows=4)
    asked = {"max_new_tokens": 14, "eos_token_id": [2, 10, 27]}
    theirs, ours = Collected(), Collected()
    upstream(model, ids, mask, streamer=theirs, **asked)
    generate(served(model), ids, attention_mask=mask, streamer=ours, **asked)
    assert ours.values == theirs.values and ours.ends == theirs.ends == 1


def test_upstreams_text_streamer_works_on_our_arrays(capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import TextStreamer

    tokenizer = SimpleNamespace(decode=lambda ids, **_: " ".join(f"w{n}" for n in ids))
    prompt = [[5, 6, 7]]
    whole = generate(served(upstream_model()), prompt, streamer=TextStreamer(tokenizer, skip_prompt=True), **ASKED)
    assert capsys.readouterr().out.strip() == tokenizer.decode(whole[0, 3:].tolist())
