"""A conversation reuses what its calls have in common, and answers as if it did not."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.torch_engine import served, tiny_bart, tiny_llama

from precast.runtime.errors import InputError
from precast.runtime.generation.api import generate
from precast.runtime.generation.conversation import Conversation
from precast.runtime.generation.streaming import stream_tokens


@cache
def upstream_model() -> Any:
    return tiny_llama()


def test_a_conversation_that_goes_on_processes_only_what_is_new() -> None:
    ours = served(upstream_model())
    engine = ours.engine()
    past = Conversation()
    prompt = [5, 6, 7, 8]
    for turn in range(4):
        fresh = generate(served(upstream_model()), [prompt], max_new_tokens=5, min_new_tokens=5)
        engine.feeds.clear()
        assert np.array_equal(generate(ours, [prompt], max_new_tokens=5, min_new_tokens=5, past=past), fresh)
        # The last token of an answer has never been fed.
        assert engine.feeds[0] == [4] if turn == 0 else [3]
        assert past.reused == (0 if turn == 0 else len(prompt) - 3)
        prompt = [*fresh[0].tolist(), 9, 10 + turn]
    assert engine.opened == 1


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(st.lists(st.integers(3, 5), min_size=1, max_size=12), st.integers(1, 6), st.booleans()),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from([None, 0, 1, 4]),
    st.sampled_from([None, 12]),
)
def test_answers_are_those_of_fresh_calls(calls: Any, rollback: int | None, capacity: int | None) -> None:
    """Whatever the prompts have in common, however far the state goes back, with and without room."""
    ours = served(upstream_model(), rollback=rollback)
    past = Conversation(capacity)
    answer: list[int] = []
    for prompt, budget, goes_on in calls:
        ids = [*answer, *prompt] if goes_on else prompt
        asked = {"max_new_tokens": budget, "eos_token_id": [2, 33]}
        found = generate(ours, [ids], past=past, **asked)
        assert np.array_equal(found, generate(served(upstream_model()), [ids], **asked))
        answer = found[0].tolist()


def test_a_prompt_said_again_feeds_its_last_token() -> None:
    ours = served(upstream_model())
    past = Conversation()
    first = generate(ours, [[5, 6, 7]], max_new_tokens=4, past=past)
    ours.engine().feeds.clear()
    assert np.array_equal(generate(ours, [[5, 6, 7]], max_new_tokens=4, past=past), first)
    assert ours.engine().feeds[0] == [1] and past.reused == 2


def test_room_grows_by_doubling_within_what_the_model_holds() -> None:
    ours = served(upstream_model(), max_length=200)
    past = Conversation(capacity=20)
    generate(ours, [[5] * 10], max_new_tokens=5, past=past)
    assert past._session is not None and past._session.capacity == 200
    unbounded = served(upstream_model())
    past = Conversation(capacity=300)
    generate(unbounded, [[5] * 10], max_new_tokens=5, past=past)
    assert past._session is not None and past._session.capacity == 300
    generate(unbounded, [[5] * 10], max_new_tokens=295, eos_token_id=[2, 33], past=past)
    assert past._session.capacity == 600 and unbounded.engine().opened == 2


def test_another_model_or_another_source_starts_afresh() -> None:
    past = Conversation()
    one, two = served(upstream_model()), served(tiny_llama(3))
    for ours in (one, two, one):
        found = generate(ours, [[5, 6, 7]], max_new_tokens=5, past=past)
        assert past.reused == 0
        assert np.array_equal(found, generate(ours, [[5, 6, 7]], max_new_tokens=5))
    bart = served(tiny_bart())
    for source, begun, reused in (([5, 6], [2, 9], 0), ([5, 6], [2, 9, 10], 2), ([7, 6], [2, 9, 10], 0)):
        asked = {"decoder_input_ids": [begun], "max_new_tokens": 4}
        found = generate(bart, [source], past=past, **asked)
        assert past.reused == reused and np.array_equal(found, generate(bart, [source], **asked))


def test_a_call_that_failed_leaves_nothing_behind() -> None:
    ours = served(upstream_model())
    engine, past = ours.engine(), Conversation()
    generate(ours, [[5, 6, 7]], max_new_tokens=4, past=past)

    def fail() -> None:
        raise MemoryError("no more")

    engine.on_feed = fail
    with pytest.raises(MemoryError):
        generate(ours, [[5, 6, 7, 8]], max_new_tokens=4, past=past)
    engine.on_feed = None
    assert past.tokens == []
    found = generate(ours, [[5, 6, 7, 8]], max_new_tokens=4, past=past)
    assert past.reused == 0 and np.array_equal(found, generate(ours, [[5, 6, 7, 8]], max_new_tokens=4))


def test_a_stream_that_was_closed_leaves_what_it_said() -> None:
    ours = served(upstream_model())
    past = Conversation()
    said = []
    with stream_tokens(ours, [[5, 6, 7]], max_new_tokens=50, eos_token_id=None, past=past) as stream:
        for token in stream:
            said.append(token)
            if len(said) == 3:
                break
    prompt = [5, 6, 7, *said, 8]
    found = generate(ours, [prompt], max_new_tokens=4, past=past)
    assert past.reused >= 5 and np.array_equal(found, generate(ours, [prompt], max_new_tokens=4))


def test_forgetting_gives_the_memory_back() -> None:
    ours = served(upstream_model())
    past = Conversation()
    generate(ours, [[5, 6, 7]], max_new_tokens=4, past=past)
    assert past.tokens[:3] == [5, 6, 7]
    past.forget()
    assert past.tokens == [] and past._session is None
    generate(ours, [[5, 6, 7]], max_new_tokens=4, past=past)
    assert past.reused == 0


def test_conversations_that_cannot_be() -> None:
    ours = served(upstream_model())
    past = Conversation()
    with pytest.raises(InputError, match="A conversation is one row, decoded without beams; received 2 prompts"):
        generate(ours, [[5], [6]], past=past)
    with pytest.raises(InputError, match="num_beams=2"):
        generate(ours, [[5]], num_beams=2, past=past)
    with pytest.raises(InputError, match="capacity is at least 1 token; received 0"):
        Conversation(0)
    with past.claimed(), pytest.raises(InputError, match="serves one call at a time; this one is in use"):
        generate(ours, [[5]], past=past)
