"""The float32 gate: right models pass whatever their luck and strain, wrong ones do not; a refusal says which rule. And
what outputs of each kind are held to, along the axis their classes are on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from precast.runtime.divergence import kl_divergence
from precast.runtime.errors import ParityError
from precast.runtime.gates import (
    CALM,
    EAGER,
    GATES,
    LEAST,
    STRAINED,
    Measured,
    broken,
    conditioning,
    gate,
    measure,
    populations,
    replayed,
    settled,
    share,
)
from precast.runtime.outs import Out
from precast.runtime.ports import KINDS

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(3)
EXACT = RNG.standard_normal((64, 64))
LOGITS = Out("logits", ("batch", "labels"), "logits")
STATES = Out("last_hidden_state", ("batch", "sequence", "size"), "states")


def measured(ours: Array, eager: Array, exact: Array = EXACT, out: Out = LOGITS) -> list[Measured]:
    """Figures of two cases, halves of the arrays."""
    halves = (slice(0, 32), slice(32, None))
    return [
        measure(out, str(index), ours[half].astype(np.float32), eager[half].astype(np.float32), exact[half])
        for index, half in enumerate(halves)
    ]


def rounded(size: float, seed: int) -> Array:
    """The truth with errors of a size, which are no larger than three times it."""
    return EXACT + size * np.clip(np.random.default_rng(seed).standard_normal(EXACT.shape), -3, 3)


@pytest.mark.parametrize("size", [1e-7, 1e-6, 1e-5, 1e-3])
def test_a_right_model_passes(size: float) -> None:
    """As far from the truth as eager is, by other errors: well conditioned or strained."""
    found = measured(rounded(size, 1), rounded(size, 2))
    gate("fp32", found, "v")
    assert bool(conditioning("fp32", found)) == (3 * size > 1e-5 / 4)


def test_one_short_case_is_no_population() -> None:
    """A handful of numbers whose eager error is small by luck: refused alone, and not among the others."""
    eager = rounded(4e-7, 2)
    eager[32:] = EXACT[32:]
    found = measured(rounded(4e-7, 1), eager)
    with pytest.raises(ParityError, match="root mean square"):
        gate("fp32", found[1:], "v")
    gate("fp32", found, "v")


@pytest.mark.parametrize(
    ("ours", "eager", "message"),
    [
        (rounded(1e-6, 1), rounded(4e-7, 2), r"the root mean square of its errors against float64, \d\.\d\de-0\d, is"),
        (rounded(1e-6, 1), rounded(4e-7, 2), rf"square .*and may be {CALM.rms:g} times that"),
        (rounded(4e-6, 1), rounded(1e-6, 2), rf"square .*and may be {STRAINED.rms:g} times that"),
        (rounded(4e-7, 1) + 5e-6 * (EXACT.max() == EXACT), rounded(4e-7, 2), rf"may be {CALM.largest:g} times that"),
        (EXACT + 2e-4 * (EXACT.max() == EXACT), EXACT, r"logits \d: abs diff 2\.0\de-04 from eager is .* times the al"),
    ],
)
def test_a_refusal_says_which_rule_and_by_how_much(ours: Array, eager: Array, message: str) -> None:
    with pytest.raises(ParityError, match=f"(?s)variant v does not compute what the reference model.*{message}"):
        gate("fp32", measured(ours, eager), "v")


def test_one_wrong_number_is_refused() -> None:
    """However many right ones stand beside it."""
    eager = rounded(4e-7, 2)
    for wrong in (5e-6, 1e-4, 1.0, np.nan, np.inf):
        ours = eager.copy()
        ours[40, 7] += wrong
        with pytest.raises(ParityError):
            gate("fp32", measured(ours, eager), "v")


def test_strain_is_bounded_by_eager_itself() -> None:
    """Past 1e-5, our answer may be so many times eager's own error away, and not more."""
    eager, unit = rounded(1e-4, 2), np.where(EXACT.max() == EXACT, 1.0, 0.0)
    [population] = populations(measured(eager, eager))
    largest = population.largest("reference_error")
    within, past = (
        measured(eager + factor * largest * unit, eager) for factor in (STRAINED.largest - 1.1, STRAINED.answer + 0.2)
    )
    gate("fp32", within, "v")
    assert conditioning("fp32", within) == {
        "logits": {
            "eager_error": pytest.approx(largest, rel=1e-2),
            "bound": pytest.approx(STRAINED.answer * largest, rel=1e-2),
        }
    }
    with pytest.raises(
        ParityError, match=rf"eager's own largest error .*, of which it may be {STRAINED.answer:g} times"
    ):
        gate("fp32", past, "v")


def _magnified(size: float, seed: int) -> Array:
    """Roundings of which one row is magnified."""
    made = rounded(4e-7, seed)
    made[5] += size * np.random.default_rng(seed + 100).standard_normal(64)
    return made


def _orders(size: float, asked: list[int]) -> Iterator[dict[tuple[str, str], dict[str, float]]]:
    for seed in range(4):
        asked.append(seed)
        found = measured(*[_magnified(size / 10 if seed == 0 else size, seed + 10)] * 2)
        yield {(item.output, item.case): {"orders": 1, **{key: getattr(item, key) for key in EAGER}} for item in found}


def test_where_eager_was_lucky_other_orders_of_its_sums_decide() -> None:
    """A row that magnifies every rounding, of which eager's first order shows a tenth: as many orders as it takes."""
    found = measured(_magnified(1e-4, 1), _magnified(1e-5, 2))
    assert broken("fp32", found)
    asked: list[int] = []
    kept = settled(found, _orders(1e-4, asked))
    gate("fp32", kept, "v")
    assert asked == [0, 1]
    assert conditioning("fp32", kept)["logits"]["eager_error"] > 1e-4, "the record says how far float32 goes there"
    # A replay of such an artifact knows what its export saw, and nothing else excuses it.
    replayed("fp32", found, {"measured": [item.to_json() for item in kept]}, "v")
    with pytest.raises(ParityError, match="root mean square"):
        replayed("fp32", found, {"measured": [item.to_json() for item in found]}, "v")


def test_no_order_of_sums_excuses_a_wrong_model() -> None:
    asked: list[int] = []
    kept = settled(measured(_magnified(1e-3, 1), _magnified(1e-5, 2)), _orders(1e-4, asked))
    assert asked == [0, 1, 2, 3]
    with pytest.raises(ParityError, match=f"may be {CALM.rms:g} times that"):  # which is not the bound of luck
        gate("fp32", kept, "v")


def test_exact_outputs_pass() -> None:
    """Zeros, and results that float32 holds: no error to compare with is no reason to refuse."""
    zeros = np.zeros_like(EXACT)
    gate("fp32", measured(zeros, zeros, zeros), "v")
    nearly = zeros.copy()
    nearly[0, 0] = 1e-4
    with pytest.raises(ParityError):
        gate("fp32", measured(nearly, zeros, zeros), "v")


def test_outputs_of_components_are_judged_apart() -> None:
    """An encoder's states do not excuse a decoder's of the same name."""
    ours = measure(STATES, "a", rounded(1e-3, 1), rounded(1e-3, 2), EXACT, "encoder")
    other = measure(STATES, "b", rounded(4e-6, 1), rounded(1e-6, 2), EXACT, "decoder")
    with pytest.raises(ParityError, match="root mean square"):
        gate("fp32", [ours, other], "v")


def test_few_numbers_are_judged_by_their_largest() -> None:
    """Records of before hold fewer numbers of small outputs: too few for a mean, enough for what is broken."""
    assert EXACT.size == LEAST
    few = slice(0, 4)
    got = measure(LOGITS, "a", rounded(2e-6, 1)[few], rounded(1e-6, 2)[few], EXACT[few])
    assert set(populations([got])[0].shares) == {"largest", "answer"}
    gate("fp32", [got], "v")


def test_figures_are_evidence_in_json() -> None:
    [first, _] = measured(rounded(1e-6, 1), rounded(1e-6, 2))
    written = first.to_json()
    assert written["size"] == 2048 and isinstance(written["size"], int)
    assert {"max_abs", "error", "reference_error", "excess", "rms", "reference_rms", "beyond", "strain"} <= set(written)


# --- by the kind of an output, along its axis --------------------------------------------------------------------


def test_classes_are_where_the_output_says() -> None:
    """[B, C, H, W] logits: the answer, the divergence and the angle of a pixel are along C, as if C stood last."""
    exact = RNG.standard_normal((2, 5, 6, 7))
    eager = exact.astype(np.float32)
    ours = eager.copy()
    ours[0, :, 1, 2] = np.roll(ours[0, :, 1, 2], 1)  # one pixel's classes in another order
    out = Out("logits", ("batch", 5, "height", "width"), "logits", axis=-3)
    found = measure(out, "a", ours, eager, exact)
    moved = [np.ascontiguousarray(np.moveaxis(array, 1, -1)) for array in (ours, eager, exact)]
    last = measure(out._replace(axis=-1), "a", *moved)
    for figure in ("argmax", "cosine", "kl", "max_abs", "error"):
        assert getattr(found, figure) == pytest.approx(getattr(last, figure), rel=1e-12), figure
    assert found.argmax == 1 - 1 / (2 * 6 * 7)
    assert found.kl == pytest.approx(kl_divergence(eager, ours, axis=1).mean(), rel=1e-12)
    assert found.argmax != measure(out._replace(axis=-1), "a", ours, eager, exact).argmax


def test_only_vectors_are_held_to_their_direction() -> None:
    """An error that eager has too, and that turns a short row: nothing to a number, too much for a vector."""
    exact = np.concatenate([EXACT, EXACT]) * 1e-3
    exact[0] = 0.0
    exact[0, 0] = 1e-6
    eager, ours = exact.copy(), exact.copy()
    eager[0, 1] += 4e-9
    ours[0, 1] += 8e-9
    for kind, judged in (("logits", 0), ("", 0), ("states", 1), ("embedding", 1)):
        found = broken("fp32", measured(ours, eager, exact, Out("x", ("batch", "size"), kind)))
        assert len(found) == judged, (kind, found)
        assert not judged or "x 0: cosine 0.99999200" in found[0]


FLAGS = Out("pred_masks", ("batch", "pixels"), "mask", dtype="bool")


def flags(ours: Array, eager: Array, exact: Array) -> Measured:
    return measure(FLAGS, "a", ours, eager, exact)


def test_true_and_false_are_compared_as_such() -> None:
    """One flipped value is refused, except where eager and float64 are of two minds: there the number is at its border,
    and either is right."""
    exact = EXACT > 0
    right = flags(exact.copy(), exact, exact)
    gate("fp32", [right], "v")
    assert (right.argmax, right.max_abs, right.kl, share("fp32", *populations([right]))) == (1.0, 0.0, None, None)
    other = exact.copy()
    other[3, 5] ^= True
    with pytest.raises(ParityError, match=r"pred_masks a: abs diff 1\.0e\+00 from eager .* at 99\.98% of 4096 values"):
        gate("fp32", [flags(other, exact, exact)], "v")
    gate("fp32", [flags(other, other, exact)], "v")
    gate("fp32", [flags(exact, other, exact)], "v")
    twice = other.copy()
    twice[0, 0] ^= True
    for ours in (twice, exact.astype(np.float32), exact[:1]):
        with pytest.raises(ParityError, match="pred_masks a: abs diff"):
            gate("fp32", [flags(ours, other, exact)], "v")
    assert conditioning("fp32", [flags(exact, other, exact)]) == {}


def test_a_mask_of_numbers_has_none_of_their_slack() -> None:
    eager = rounded(1e-3, 2).astype(np.float32)
    gate("fp32", measured(rounded(1e-3, 1), eager), "v")
    with pytest.raises(ParityError, match="where float32 can tell true from false"):
        gate("fp32", measured(rounded(1e-3, 1), eager, out=FLAGS), "v")


@pytest.mark.parametrize(("precision", "kind"), [("fp32", "ids"), ("fp32", "state"), ("int8", "mask")])
def test_a_kind_without_a_gate_is_refused_by_name(precision: str, kind: str) -> None:
    found = measured(EXACT, EXACT, out=Out("x", ("batch", "size"), kind))
    with pytest.raises(
        ParityError, match=rf"output 'x' is of kind '{kind}', which has no gate in precision {precision}.*logits"
    ):
        gate(precision, found, "v")


def test_gates_are_of_kinds_there_are() -> None:
    for precision, kinds in GATES.items():
        assert set(kinds) <= {"", *KINDS}, precision
        assert {"", "logits", "states", "embedding"} <= set(kinds), precision


def test_a_replay_in_low_precision_is_held_to_its_export() -> None:
    """By the divergence of logits, of whichever name; of other outputs only that they are numbers."""
    eager = EXACT.astype(np.float32)
    near, far = eager + 1e-3 * RNG.standard_normal(EXACT.shape), eager[:, ::-1].copy()
    for out in (LOGITS, LOGITS._replace(name="start_logits")):
        exported = {"measured": [item.to_json() for item in measured(near, eager, out=out)]}
        replayed("int8", measured(near, eager, out=out), exported, "v")
        with pytest.raises(
            ParityError, match=rf"what its export measured: {out.name} 0: KL divergence \d.*; {out.name} 1"
        ):
            replayed("int8", measured(far, eager, out=out), exported, "v")
    exported = {"measured": [item.to_json() for item in measured(near, eager, out=STATES)]}
    replayed("int8", measured(far, eager, out=STATES), exported, "v")
    with pytest.raises(ParityError, match="last_hidden_state 0: not finite"):
        replayed("int8", measured(np.full_like(far, np.nan), eager, out=STATES), exported, "v")


def test_what_is_infinite_alike_is_no_number_to_compare() -> None:
    """Logits of tokens that are none: others are compared, and infinity elsewhere or of another sign is an error."""
    out = Out("logits", ("batch", "tokens"), "logits")
    exact = np.array([[1.0, 2.0, -np.inf, -np.inf]])
    reference = exact.astype(np.float32)
    found = measure(out, "case", reference + np.float32([[1e-3, 0, 0, 0]]), reference, exact)
    assert found.max_abs == pytest.approx(1e-3, rel=1e-3) and found.scale == 2
    for wrong in ([[1, 2, -np.inf, np.inf]], [[1, 2, -np.inf, 3]], [[1, -np.inf, 2, -np.inf]]):
        assert measure(out, "case", np.float32(wrong), reference, exact).max_abs == float("inf")
    none = np.array([[1.0, 2.0, np.nan, -np.inf]])
    assert measure(out, "case", none.astype(np.float32), none.astype(np.float32), none).max_abs == float("inf")
