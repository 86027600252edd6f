"""T0 to T3 for language models: prompts, chunks and cached steps against upstream, float64 and the gates of PARITY.md;
greedy and beam search against upstream's own `generate`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.lowering import engine_of, held, lower, lowerings, wide
from support.oracle import apart, float64, sources, upstream, widened
from support.prompts import ended, prompts
from transformers import GenerationMixin

from precast.export import parity
from precast.export.families import find_family, model_types
from precast.export.generative import ALIGNMENT
from precast.export.heads import CAUSAL_LM, IMAGE_TEXT, SEQ2SEQ_LM, SPEECH_SEQ2SEQ, Head
from precast.export.reference import Reference, build
from precast.runtime.backends.base import Array
from precast.runtime.gates import LEAST
from precast.runtime.generation.api import generate
from precast.runtime.generation.graph_engine import GraphEngine
from precast.runtime.generation.grids import Grids
from precast.runtime.parity import Case

GENERATING = (CAUSAL_LM, SEQ2SEQ_LM, SPEECH_SEQ2SEQ, IMAGE_TEXT)
EVERY = [(name, head) for name in model_types() for head in find_family(name).heads if head in GENERATING]
CONFIGS = [(name, head, index) for name, head in EVERY for index in range(1 + len(find_family(name).variations))]
# A prompt, steps, a prompt in chunks, rows of different length, 64 steps behind a prompt, and all positions there are.
CHAINS: tuple[tuple[int, tuple[int, ...], str], ...] = (
    (1, (8, 1, 1, 7, 1), "full"),
    (3, (7, 1, 1, 1, 2, 1), "ragged"),
    (1, (63, 64, 1), "full"),
    (2, (1,) * 4, "full"),
    (2, (5, *(1,) * 64), "ragged"),
    (2, (127, 2), "ragged"),
    (1, (0,), "full"),
)
# Upstream's hidden states begin behind the first layer, and the last is there before the final norm and after it.
WITHOUT_EMBEDDINGS = ("mamba",)
TEXT = ("input_ids", "attention_mask")
WIDE = {np.dtype(np.float32): np.float64}
# Upstream counts a padding token that the decoder itself is fed among its positions with a cache, and not without one.
NO_PADDING_FED = (
    "camembert",
    "m2m_100",
    "roberta",
    "speech_to_text",
    "speecht5",
    "vision-encoder-decoder",
    "xlm-roberta",
)
# Upstream takes pictures by the text they belong to, [B, N, C, H, W].
BY_TEXT = ("fuyu", "idefics2", "idefics3", "smolvlm")
# And as a whole with tiles, [I, T, C, H, W], with the sizes that pictures had: the whole one stands for its tile too.
BY_TILES = ("llava_next",)
# And as patches of pictures of any size, with how many each has, and with which tokens stand for them.
BY_PATCHES = ("qwen2_5_vl", "qwen2_vl")
# It looks at a picture whatever the text has, and has a loop of its own around its language model's.
QUERYING = ("blip-2", "instructblip")
# Upstream's beams lose what it sees: there is one picture for all of them.
NO_BEAMS = ("fuyu",)
# Its own loop knows itself what texts begin and end with.
CAPTIONS = ("blip",)


def ident(value: Any) -> str:
    return value.task if isinstance(value, Head) else str(value)


def reference(model_type: str, head: Head, index: int = 0) -> tuple[Reference, Any]:
    family = find_family(model_type)
    overrides = family.variations[index - 1] if index else {}
    config, model = upstream(model_type, head, overrides, seed=index)
    return build(config, sources(model)), model


def alone(given: Mapping[str, Array], row: int) -> dict[str, torch.Tensor]:
    """What upstream is given of one row: of a text its tokens without padding; of a recording all, for what is behind
    its end reaches into its last frames."""
    if "input_ids" not in given:
        return {name: torch.from_numpy(array[row : row + 1]) for name, array in given.items()}
    beside = {name: torch.from_numpy(given[name][row : row + 1]) for name in given if name not in TEXT}
    return {
        "input_ids": torch.tensor(given["input_ids"][row][given["attention_mask"][row].astype(bool)])[None],
        **beside,
    }


def called(model: Any, given: dict[str, torch.Tensor], **options: Any) -> Any:
    """What upstream makes of a whole text; of a caption what its decoder does, of which the whole model says little."""
    if model.config.model_type not in CAPTIONS:
        return model(**given, **options, use_cache=False)
    states = model.vision_model(given["pixel_values"]).last_hidden_state
    made = model.text_decoder(given["decoder_input_ids"], encoder_hidden_states=states, use_cache=False, **options)
    made.encoder_last_hidden_state = states
    return made


def side_of(pixels: Any) -> torch.Tensor:
    """Heights and widths of pictures, [I, 2]."""
    return torch.tensor([pixels.shape[-2:]] * len(pixels))


def shaped(model: Any, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """One text's inputs as upstream's model takes them."""
    if model.config.model_type in BY_TILES and "pixel_values" in inputs and inputs["pixel_values"].ndim == 4:
        pixels = inputs["pixel_values"]
        return {**inputs, "pixel_values": torch.stack((pixels, pixels), 1), "image_sizes": side_of(pixels)}
    if model.config.model_type in BY_PATCHES and "pixel_values" in inputs:
        own, config = model.config.vision_config, model.config
        grids = Grids(own.patch_size, own.spatial_merge_size, own.in_channels, own.temporal_patch_size)
        given = grids.patches(inputs["pixel_values"].numpy())
        kinds = (inputs["input_ids"] == config.image_token_id).long()
        return {
            **inputs,
            **{name: torch.from_numpy(array) for name, array in given.items()},
            "mm_token_type_ids": kinds,
        }
    if model.config.model_type not in BY_TEXT:
        return inputs
    return {name: value[None] if name.startswith("pixel") else value for name, value in inputs.items()}


def token_of(ours: Reference) -> int | None:
    """The token that holds the place of what is perceived among others, or None."""
    joined = ours.parts[-1].module.joined
    return None if joined is None else joined.token  # type: ignore[union-attr]


def with_places(ours: Reference, cases: list[Case]) -> list[Case]:
    """Where features stand is the token that says so, and nowhere else."""
    token, vocab = token_of(ours), ours.parts[-1].signature.vocab_size
    for case in cases:
        rows = case.inputs.get("feature_rows")
        if token is not None and rows is not None:
            ids = case.inputs["input_ids"]
            ids[(ids == token) & (rows < 0)] = (token + 1) % vocab
            ids[rows >= 0] = token
    return cases


def widened_inputs(inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}


def in_double(case: Case) -> Case:
    wide = {name: array.astype(WIDE.get(array.dtype, array.dtype)) for name, array in case.inputs.items()}
    return replace(case, inputs=wide)


@dataclass(frozen=True)
class Chain:
    """The calls of one chain with what was made of each, what its rows hold in the end, and what they answer."""

    calls: list[tuple[Case, Mapping[str, Array], list[torch.Tensor]]]
    rows: list[list[int]]
    source: Mapping[str, Array] | None

    def inputs(self, row: int, always: bool = False) -> dict[str, torch.Tensor]:
        """Upstream's for one row alone, without cache or padding; ``always``: with a picture that has no place too."""
        held = torch.tensor(self.rows[row])[None]
        if self.source is None:
            return {"input_ids": held}
        first = self.calls[1][0].inputs
        if "feature_rows" in first:
            seen = alone(self.source, row) if always or (first["feature_rows"][row] >= 0).any() else {}
            return {"input_ids": held, **widened_inputs(seen)}
        return {**widened_inputs(alone(self.source, row)), "decoder_input_ids": held}


def chains_of(made: Iterable[tuple[Case, Mapping[str, Array], list[torch.Tensor]]]) -> list[Chain]:
    """The calls put together again, an encoder's in front of its decoder's."""
    found: dict[str, Chain] = {}
    for call in made:
        case = call[0]
        if case.component == ALIGNMENT:
            continue  # test_hearing.py
        name = case.after[0] if case.after else ""
        before = found.get(name, Chain([], [], None))
        if before.rows:  # several chains may answer one source
            del found[name]
        rows, source = before.rows, before.source
        if "lengths" not in case.inputs:
            source = case.inputs
        else:
            ids, lengths = case.inputs["input_ids"], case.inputs["lengths"]
            rows = [
                [*held, *row[:count].tolist()]
                for held, row, count in zip(rows or [[]] * len(ids), ids, lengths, strict=True)
            ]
        found[case.name] = Chain([*before.calls, call], rows, source)
    return list(found.values())


def _whole(out: Any) -> torch.Tensor:
    """A layer's state, of which a pre-norm layer gives two parts, and a post-norm layer one and None."""
    parts = [part for part in out if part is not None] if isinstance(out, tuple) else [out]
    state: torch.Tensor = sum(parts[1:], parts[0])
    return state


@pytest.mark.parametrize(("model_type", "head", "index"), CONFIGS, ids=ident)
def test_reference_equals_upstream(model_type: str, head: Head, index: int) -> None:
    """T0 and T1: the strict loader takes the checkpoint; every call of every chain gives what upstream makes of the
    whole row, every hidden state included, in float64."""
    family = find_family(model_type)
    config, narrow = upstream(model_type, head, family.variations[index - 1] if index else {}, seed=index)
    model: Any = widened(narrow)
    ours = build(config, sources(model), dtype=torch.float64)
    kept: list[torch.Tensor] = []
    decoder = ours.parts[-1].module.body
    hooks = [
        layer.register_forward_hook(lambda _m, _i, out: kept.append(_whole(out)))
        for layer in decoder.layers  # type: ignore[union-attr]
    ]
    cases = with_places(ours, parity.generation_cases(ours.parts, chains=CHAINS, seed=1))
    if model_type in NO_PADDING_FED:
        for fed in (case.inputs["input_ids"] for case in cases if "lengths" in case.inputs):
            fed[fed == model.config.pad_token_id] += 1
    runner, made = parity.ReferenceRunner(ours.parts), []
    for case in map(in_double, cases):
        kept.clear()
        made.append((case, runner.run(case), list(kept)))
    for chain in chains_of(made):
        for row in range(len(chain.rows)):
            given = shaped(model, chain.inputs(row, model_type in QUERYING))
            with float64():
                expected = called(model, given, output_hidden_states=True)
            expected = getattr(expected, "language_model_outputs", expected)
            for case, outputs, states in chain.calls:
                for name, got, want in _pairs(model_type, case, outputs, states, expected, row):
                    excess = apart(got, want)
                    assert excess <= 1, f"{name} of {case.name}, row {row}: {excess:.2f} times the gate"
    for hook in hooks:
        hook.remove()


def _pairs(
    model_type: str, case: Case, outputs: Mapping[str, Array], states: list[torch.Tensor], expected: Any, row: int
) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """What one call made of a row, with upstream's of the whole row in these places."""
    if case.component == "vision":
        return  # what its features are is seen in the states of the decoder's tokens
    if case.component == "encoder":
        states = torch.from_numpy(outputs["last_hidden_state"])[row]
        if "input_ids" in case.inputs:
            states = states[torch.from_numpy(case.inputs["attention_mask"][row].astype(bool))]
        yield "encoder", states, expected.encoder_last_hidden_state[0]
        return
    past, new = (int(case.inputs[name][row]) for name in ("past_lengths", "lengths"))
    where = torch.from_numpy(past + case.inputs["logit_positions"][row])
    yield "logits", torch.from_numpy(outputs["logits"])[row], expected.logits[0, where]
    hidden = expected.decoder_hidden_states if "decoder_hidden_states" in expected else expected.hidden_states
    if model_type in WITHOUT_EMBEDDINGS:
        hidden = (None, *hidden[:-1])
    layers = [(f"layer {layer}", *pair) for layer, pair in enumerate(zip(states, hidden[1:], strict=True))]
    if find_family(model_type).final_norm:
        layers.pop()  # upstream gives the last state after the final norm, which the logits cover
    for name, got, want in layers:
        yield name, got[row, :new], want[0, past : past + new]


class Served:
    """What `generate` needs of a model, around graphs that are no artifact."""

    tokenizer = None
    generation_config = None

    def __init__(self, engine: GraphEngine, config: Mapping[str, Any]) -> None:
        self._engine, self.config = engine, config

    def engine(self) -> GraphEngine:
        return self._engine


def questions(ours: Reference, head: Head) -> Mapping[str, Array]:
    """What is answered: 20 texts, or recordings."""
    signature, token = ours.parts[0].signature, token_of(ours)
    beside = parity.cases(signature, shapes=((20, 12, "right"),), seed=3)[0].inputs
    if head is SPEECH_SEQ2SEQ or (head is IMAGE_TEXT and token is None):
        return beside
    ids, mask = prompts(ours.parts[-1 if token is not None else 0].signature.vocab_size)
    if token is None:
        return {"input_ids": ids, "attention_mask": mask}
    # What a picture's tokens stand for, in front of each text.
    ids[ids == token] += 1 if token < ids.max() else -1
    joined: Any = ours.parts[-1].module.joined
    joined = joined.of({f"{joined.source}.{name}": array for name, array in beside.items()})
    count = joined.places
    if joined.tiles is not None:
        pixels = beside["pixel_values"]
        beside = {"pixel_values": np.stack((pixels, pixels), 1), "image_sizes": side_of(pixels).numpy()}
    ids, mask = (np.insert(array, [0] * count, value, axis=1) for array, value in ((ids, token), (mask, 1)))
    return {"input_ids": ids, "attention_mask": mask, **beside}


def continues(head: Head, given: Mapping[str, Any]) -> bool:
    """Whether what is made stands behind a text that is given."""
    return head is CAUSAL_LM or (head is IMAGE_TEXT and "input_ids" in given)


# Upstream's `generate` counts positions from 0, whatever its model does where they are not given.
FROM_PADDING = ("camembert", "roberta", "xlm-roberta")


def upstream_tokens(model: Any, head: Head, given: Mapping[str, Array], **arguments: Any) -> list[list[int]]:
    """Upstream's new tokens of each question, one at a time and without padding."""
    if model.config.model_type in CAPTIONS:
        arguments = {
            name: value for name, value in arguments.items() if name not in (*SPECIAL, "decoder_start_token_id")
        }
    found = []
    for row in range(len(next(iter(given.values())))):
        inputs = alone(given, row)
        if "input_ids" in inputs:
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        if model.config.model_type in FROM_PADDING:
            places = torch.arange(inputs["input_ids"].shape[1])[None]
            inputs["position_ids"] = places + model.config.pad_token_id + 1
        with torch.no_grad():
            own = model.config.model_type in (*QUERYING, *CAPTIONS)
            loop = model.generate if own else partial(GenerationMixin.generate, model)
            out = loop(**shaped(model, inputs), **arguments)[0].tolist()
        found.append(out[inputs["input_ids"].shape[1] :] if continues(head, inputs) else out)
    return found


def ours_tokens(served: Served, head: Head, given: Mapping[str, Array], **arguments: Any) -> list[list[int]]:
    """The same of all questions in one batch."""
    out = np.asarray(generate(served, **given, **arguments))
    return [row[given["input_ids"].shape[1] :].tolist() if continues(head, given) else row.tolist() for row in out]


class Greedy:
    """Whether tokens are those upstream takes greedily: of each text, one call of upstream's model in float64 says what
    follows each of its tokens, which is what so many steps of its `generate` would find one by one."""

    def __init__(
        self, model_type: str, model: Any, head: Head, given: Mapping[str, Array], stop: int, never: Sequence[int] = ()
    ) -> None:
        self._never = list(never)
        self._model, self._head, self._given, self._stop = widened(model), head, given, stop
        self._padding = model.config.pad_token_id if model_type in NO_PADDING_FED else None
        self._margins: dict[tuple[int, ...], list[float]] = {}

    def behind(self, row: int, tokens: list[int]) -> list[float]:
        """How far the logit of each token of a row's answer is behind the largest one; that of a right token is not."""
        made = ended(tokens, self._stop)
        if self._padding in made:
            made = made[: made.index(self._padding) + 1]
        key = (row, *made)
        if key not in self._margins:
            inputs, fed = widened_inputs(alone(self._given, row)), torch.tensor(made[:-1], dtype=torch.int64)[None]
            if continues(self._head, inputs):
                inputs["input_ids"] = torch.cat((inputs["input_ids"], fed), dim=1)
            else:
                inputs["decoder_input_ids"] = fed
                made = made[1:]  # what it starts with is given
            with float64():
                logits = called(self._model, shaped(self._model, inputs)).logits[0, -len(made) :]
            logits[:, self._never] = -torch.inf
            chosen = logits.gather(1, torch.tensor(made)[:, None])[:, 0]
            self._margins[key] = (logits.max(dim=1).values - chosen).tolist()
        return self._margins[key]


SPECIAL = {"eos_token_id": 2, "pad_token_id": 0}
STEPS: dict[str, Any] = {"max_new_tokens": 64, "do_sample": False}
# By upstream's own loop: what it adds to the model, and the rows that beams take from one another.
LOOPS: tuple[dict[str, Any], ...] = (
    {"max_new_tokens": 8, "do_sample": False},
    {"max_new_tokens": 8, "do_sample": False, "num_beams": 3},
)
LOOPED = 5  # prompts
# Tokens of a row of a graph's longest call, where the model has no bound: beyond every window and bucket of the tiny
# configs. The reference itself is compared with upstream over more.
LONGEST = 320


@pytest.mark.parametrize(
    ("model_type", "head", "index"),
    [
        # Variations differ in what a graph holds; how a loop drives it they share with the first.
        pytest.param(name, head, index, marks=wide(name) if index else ())
        for name, head, index in CONFIGS
    ],
    ids=ident,
)
def test_graphs_equal_reference(model_type: str, head: Head, index: int, tmp_path: Path) -> None:
    """T2 and T3: each dialect unoptimised and each recipe within P0 and P1, states in place; and what ships generates
    upstream's tokens: greedily 64 for each of 20 prompts, and with 3 beams."""
    ours, model = reference(model_type, head, index)
    chains = [chain for chain in CHAINS if len(chain[1]) < 10] if index else CHAINS
    cases = with_places(ours, parity.generation_cases(ours.parts, chains=chains, longest=LONGEST, least=LEAST))
    recorded = parity.record(ours.parts, cases)
    given = questions(ours, head)
    first = model.config.text_config.bos_token_id if model_type in CAPTIONS else 0
    start = {} if continues(head, given) else {"decoder_start_token_id": first}
    token = token_of(ours)
    # A place of a picture that is made up has no picture, and upstream's call of a whole text would look for one.
    never = [] if token is None else [token]
    start |= {"suppress_tokens": never} if never else {}
    greedy = Greedy(model_type, model, head, given, SPECIAL["eos_token_id"], never)
    expected: list[list[list[int]]] = []
    loops = LOOPS[:1] if model_type in NO_BEAMS else LOOPS
    for lowered in lower(ours.parts, tmp_path, f"{model_type} {head.task} {index}", raw=not index):
        measured = held(ours.parts, recorded, lowered)
        if index or not lowered.ships:
            continue
        error = max(item.error for item in measured if item.output == "logits")
        served = Served(engine_of(ours.parts, lowered.parts), model.config.to_dict())
        got = ours_tokens(served, head, given, **STEPS, **SPECIAL, **start)
        for row, tokens in enumerate(got):
            behind = greedy.behind(row, tokens)
            assert max(behind) < 2 * error, f"{lowered.name}, prompt {row}, token {int(np.argmax(behind))}"
        few = {name: array[:LOOPED] for name, array in given.items()}
        expected = expected or [upstream_tokens(model, head, few, **loop, **SPECIAL, **start) for loop in loops]
        for loop, wanted in zip(loops, expected, strict=True):
            got = ours_tokens(served, head, few, **loop, **SPECIAL, **start)
            for row, (a, b) in enumerate(zip(got, wanted, strict=True)):
                assert ended(a, 2) == ended(b, 2), f"{lowered.name}, prompt {row}, {loop}"


@pytest.mark.parametrize(("model_type", "head"), EVERY, ids=ident)
def test_padding_does_not_matter(model_type: str, head: Head) -> None:
    """Garbage behind a row's real tokens leaves everything that follows as it is, to the bit."""
    ours, _ = reference(model_type, head)
    cases = parity.generation_cases(ours.parts, chains=((3, (9, 1, 4, 1), "ragged"),))
    rng = np.random.default_rng(5)
    vocab = ours.parts[-1].signature.vocab_size
    first, second = parity.ReferenceRunner(ours.parts), parity.ReferenceRunner(ours.parts)
    for case in cases:
        other = dict(case.inputs)
        if "lengths" in case.inputs:
            ids = case.inputs["input_ids"]
            padded = np.arange(ids.shape[1])[None] >= case.inputs["lengths"][:, None]
            other["input_ids"] = np.where(padded, rng.integers(0, vocab, size=ids.shape), ids)
        changed = Case(case.name, other, case.component, case.after, case.capacity)
        a, b = first.run(case), second.run(changed)
        for name in a:
            if name == "logits":
                np.testing.assert_array_equal(a[name], b[name], err_msg=case.name)


def test_every_recipe_is_tried() -> None:
    """The tests above try what ships, native kernels included unless they are off."""
    names = set(lowerings())
    assert {"cpu-fp32", "raw-portable"} <= names
    assert ("cpu-fp32-native" in names) == (os.environ.get("PRECAST_KERNELS") != "off")
