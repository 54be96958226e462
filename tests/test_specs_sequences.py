"""The oracle of CTC, adaptive softmax and linear cross entropy, against other ways to compute them."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import mpmath
import numpy as np
import pytest
import torch

from lossspec.cases import Case
from lossspec.implementations import reference
from lossspec.implementations.oracle import bind
from lossspec.oracle import Expected, solve
from lossspec.outcome import perform
from lossspec.spec import catalogue, find

LOSSES = ("adaptive_log_softmax_with_loss", "ctc_loss", "linear_cross_entropy")
DIGITS = 50
#: What is left of longdouble's 19 digits after sums and differences of numbers of a few units.
CLOSE = 1e-16


def case(name: str, tensors: Mapping[str, Any], form: str = "", **parameters: Any) -> Case:
    """A float64 case of a loss with the named tensors; parameters not given have their default."""
    loss = find(name)
    defaults = {key: parameter.default for key, parameter in loss.parameters.items()}
    bound = bind(
        loss,
        {key: torch.tensor(value) for key, value in tensors.items()},
        {**defaults, **parameters},
        loss.reductions[0],
    )
    assert form in ("", bound.form)
    return bound


def agree(got: Any, want: Any) -> bool:
    """Whether a longdouble is an mpmath number to nearly all its digits."""
    if mpmath.isinf(want):
        return bool(got == float(want))
    return bool(abs(mpmath.mpf(str(got)) - want) <= CLOSE * max(1, abs(want)))


def derivatives(
    of: Callable[[Mapping[str, np.ndarray]], Any], tensors: Mapping[str, np.ndarray], name: str
) -> Iterator[tuple[tuple[int, ...], Any]]:
    """A function's derivative by each element of a tensor, from a central difference."""
    step = mpmath.mpf(10) ** (-DIGITS // 3)
    exact = {key: np.vectorize(number, otypes=[object])(x) for key, x in tensors.items() if x.size}
    for at in np.ndindex(tensors[name].shape):
        ends = []
        for side in (step, -step):
            moved = exact[name].copy()
            moved[at] += side
            ends.append(of({**tensors, **exact, name: moved}))
        yield at, (ends[0] - ends[1]) / (2 * step)


def number(x: Any) -> Any:
    """The same number in mpmath."""
    return int(x) if isinstance(x, np.integer) else mpmath.mpf(float(x))


def gradient(expected: Expected, name: str, reduction: str) -> np.ndarray:
    """The oracle's gradient of a tensor."""
    bounded = expected.gradient(name, reduction, np.ones((), np.float64))
    assert bounded is not None
    return bounded.exact


@pytest.fixture(autouse=True)
def _precise() -> Iterator[None]:
    with mpmath.workdps(DIGITS):
        yield


# === CTC: a sum over alignments ===========================================================


def softmax(x: Any) -> list[Any]:
    powers = [mpmath.exp(number(v)) for v in x]
    return [power / mpmath.fsum(powers) for power in powers]


def spelled(path: tuple[int, ...], blank: int) -> tuple[int, ...]:
    """What a path says: equal labels in a row once, without the blanks."""
    return tuple(label for label, _ in itertools.groupby(path) if label != blank)


def alignments(logits: np.ndarray, target: tuple[int, ...], blank: int) -> tuple[Any, np.ndarray]:
    """The probability of a target, and of it together with each class in each frame."""
    p = [softmax(frame) for frame in logits]
    whole = mpmath.mpf(0)
    parts = np.full(logits.shape, mpmath.mpf(0), object)
    for path in itertools.product(range(logits.shape[1]), repeat=len(logits)):
        if spelled(path, blank) == target:
            chance = mpmath.fprod(p[t][k] for t, k in enumerate(path))
            whole += chance
            for t, k in enumerate(path):
                parts[t, k] += chance
    return whole, parts


#: Frames, classes, blank, and the targets of a batch with the lengths of the inputs.
BATCHES = [
    (4, 3, 0, [(1, 2), (1, 1), ()], [4, 4, 4]),
    (5, 3, 2, [(0, 0), (0, 1), (1, 0)], [5, 3, 4]),
    (5, 3, 1, [(2, 2), (0, 2, 0), (0, 0)], [2, 5, 3]),
    (3, 4, 3, [(0, 1, 2), (0,), ()], [3, 1, 0]),
    (1, 2, 0, [(1,), ()], [1, 0]),
    (2, 5, 4, [(3, 3), (1,), (2, 0)], [2, 0, 1]),
]
BATCH_IDS = [f"{frames} frames {classes} classes" for frames, classes, *_ in BATCHES]


def batch(
    concatenated: bool, zero_infinity: bool, drawn: tuple[Any, ...], scale: float
) -> tuple[Case, list[tuple[int, ...]]]:
    """A batch with random scores, and its targets."""
    frames, classes, blank, targets, lengths = drawn
    rng = np.random.default_rng(frames * classes + blank)
    logits = rng.standard_normal((frames, len(targets), classes)) * scale
    longest = max(map(len, targets))
    rows: Any = [label for target in targets for label in target]
    if not concatenated:
        rows = [[*target, *[-1] * (longest - len(target))] for target in targets]
    tensors = {
        "log_probs": logits,
        "targets": np.array(rows, np.int64).reshape((-1,) if concatenated else (-1, longest)),
        "input_lengths": np.array(lengths),
        "target_lengths": np.array(list(map(len, targets))),
    }
    return case("ctc_loss", tensors, blank=blank, zero_infinity=zero_infinity), targets


@pytest.mark.parametrize("drawn", BATCHES, ids=BATCH_IDS)
@pytest.mark.parametrize("concatenated", [False, True], ids=["padded", "concatenated"])
@pytest.mark.parametrize("scale", [1.0, 12.0])
def test_ctc_is_minus_the_logarithm_of_the_sum_over_all_alignments(drawn, concatenated, scale):
    ctc, targets = batch(concatenated, False, drawn, scale)
    expected = solve(find("ctc_loss"), ctc)
    slopes = expected.derivatives["log_probs"][0][0]  # (sequence, frame, class)
    for n, target in enumerate(targets):
        length = int(ctc.tensors["input_lengths"][n])
        logits = ctc.tensors["log_probs"][:length, n]
        whole, parts = alignments(logits, target, drawn[2])
        if whole == 0:
            assert expected.losses[n] == np.inf
            continue
        assert agree(expected.losses[n], -mpmath.log(whole))
        for t, k in np.ndindex(logits.shape):
            assert agree(slopes[n, t, k], softmax(logits[t])[k] - parts[t, k] / whole)
        assert not slopes[n, length:].any()


@pytest.mark.parametrize("drawn", BATCHES, ids=BATCH_IDS)
def test_ctc_that_no_path_spells_is_0_and_flat_with_zero_infinity(drawn):
    ctc, _ = batch(False, True, drawn, 1.0)
    plain, _ = batch(False, False, drawn, 1.0)
    with_zeros, without = (solve(find("ctc_loss"), c) for c in (ctc, plain))
    hopeless = np.isinf(without.losses)
    assert np.array_equal(with_zeros.losses[~hopeless], without.losses[~hopeless])
    assert not with_zeros.losses[hopeless].any()
    assert not with_zeros.derivatives["log_probs"][0][0][hopeless].any()


def test_the_mean_of_ctc_divides_each_loss_by_its_target_length():
    ctc, targets = batch(False, True, BATCHES[0], 1.0)
    expected = solve(find("ctc_loss"), ctc)
    shares = [loss / max(len(t), 1) for loss, t in zip(expected.losses, targets, strict=True)]
    assert abs(expected.value("mean").exact - np.mean(shares)) < CLOSE


def test_ctc_of_one_sequence_is_that_of_a_batch_of_one():
    rng = np.random.default_rng(7)
    logits = rng.standard_normal((4, 3))
    lengths = {"input_lengths": np.array(3), "target_lengths": np.array(2)}
    alone = case("ctc_loss", {"log_probs": logits, "targets": np.array([1, 1]), **lengths})
    whole, _ = alignments(logits[:3], (1, 1), 0)
    assert alone.form == "concatenated"
    assert agree(solve(find("ctc_loss"), alone).losses[()], -mpmath.log(whole))
