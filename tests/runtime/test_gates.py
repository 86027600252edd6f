"""The float32 gate: right models pass whatever their luck and strain, wrong ones do not; a refusal says which rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from precast.runtime.errors import ParityError
from precast.runtime.gates import CALM, LEAST, STRAINED, Measured, conditioning, gate, measure, populations

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(3)
EXACT = RNG.standard_normal((64, 64))


def measured(ours: Array, eager: Array, exact: Array = EXACT, output: str = "logits") -> list[Measured]:
    """Figures of two cases, halves of the arrays."""
    halves = (slice(0, 32), slice(32, None))
    return [
        measure(output, str(index), ours[half].astype(np.float32), eager[half].astype(np.float32), exact[half])
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
    assert bool(conditioning(found)) == (3 * size > 1e-5 / 4)


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
    assert conditioning(within) == {
        "logits": {
            "eager_error": pytest.approx(largest, rel=1e-2),
            "bound": pytest.approx(STRAINED.answer * largest, rel=1e-2),
        }
    }
    with pytest.raises(
        ParityError, match=rf"eager's own largest error .*, of which it may be {STRAINED.answer:g} times"
    ):
        gate("fp32", past, "v")


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
    ours = measure("last_hidden_state", "a", rounded(1e-3, 1), rounded(1e-3, 2), EXACT, "encoder")
    other = measure("last_hidden_state", "b", rounded(4e-6, 1), rounded(1e-6, 2), EXACT, "decoder")
    with pytest.raises(ParityError, match="root mean square"):
        gate("fp32", [ours, other], "v")


def test_few_numbers_are_judged_by_their_largest() -> None:
    """Records of before hold fewer numbers of small outputs: too few for a mean, enough for what is broken."""
    assert EXACT.size == LEAST
    few = slice(0, 4)
    got = measure("logits", "a", rounded(2e-6, 1)[few], rounded(1e-6, 2)[few], EXACT[few])
    assert set(populations([got])[0].shares) == {"largest", "answer"}
    gate("fp32", [got], "v")


def test_figures_are_evidence_in_json() -> None:
    [first, _] = measured(rounded(1e-6, 1), rounded(1e-6, 2))
    written = first.to_json()
    assert written["size"] == 2048 and isinstance(written["size"], int)
    assert {"max_abs", "error", "reference_error", "excess", "rms", "reference_rms", "beyond", "strain"} <= set(written)
