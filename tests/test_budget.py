"""What counts as within rounding, and what is left open."""

from itertools import product

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import lossspec
from lossspec.budget import Bounded
from lossspec.implementations.oracle import bind
from lossspec.maths import ROUNDING_MEMBERS, SIDES, Ensemble, ensemble, matvec, rounded
from lossspec.oracle import solve
from lossspec.spec import find
from lossspec.tensors import to_extended


def known(exact, free_axis=None):
    exact = np.asarray(exact, np.longdouble)
    return Bounded.around(exact, np.full_like(exact, 0.1), "float64", free_axis)


def test_an_error_is_counted_in_budgets():
    assert known([1.0, 2.0]).error(np.array([1.05, 2.2])) == pytest.approx([0.5, 2.0])


def test_infinity_is_right_where_a_right_slope_rounds_to_it():
    exact, high = np.zeros(2, np.longdouble), np.array([np.longdouble(1e30), 10.0])
    either = Bounded(exact, exact + 1e-3, exact, high, "float16")
    assert (either.error(np.array([np.inf, np.inf])) == [0, np.inf]).all()
    assert (either.error(np.array([-np.inf, 5.0])) == [np.inf, 0]).all()


def test_along_an_open_axis_a_constant_costs_nothing():
    want = known([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], free_axis=1)
    assert (want.error(want.exact + np.array([[10.0], [-20.0]])) == 0).all()
    assert (want.error(want.exact + np.array([0.0, 0.0, 0.5])) > 1).any()
    assert (want.error(want.exact[::-1]) == 0).all()
    assert (want.error(want.exact[:, ::-1]) > 1).any()


def test_where_one_number_of_an_open_axis_is_unknown_nothing_is_asked_of_its_row():
    want = known([[1.0, np.inf], [4.0, 5.0]], free_axis=1)
    error = want.error(np.array([[7.0, -7.0], [4.0, 6.0]]))
    assert (error[0] == 0).all()
    assert (error[1] > 1).all()


@pytest.mark.parametrize("before", [0, 8, 24])
def test_roundings_never_cancel_in_every_member(before):
    members = Ensemble(size=20, unit=2.0**-53, smallest=0.0, slack=8.0)
    with ensemble(members):
        for _ in range(before):
            rounded(np.ones((20, 1)))
        words = [rounded(np.ones((20, 1)))[members.rounding, 0] - 1 for _ in range(8)]
    for signs in product((-1, 1), repeat=8):
        combined = sum(sign * word for sign, word in zip(signs, words, strict=True))
        assert np.abs(combined).max() >= 0.99 * np.sqrt(8) * members.step


def test_roundings_apart_never_cancel_each_other_nor_those_of_a_word():
    members = Ensemble(size=20, unit=2.0**-53, smallest=0.0, slack=8.0)
    with ensemble(members):
        apart, word, later = (
            (rounded(np.ones((20, 2, 24)), apart=apart) - 1)[members.rounding, 0] / members.step
            for apart in (True, False, True)
        )
    assert (np.abs(apart) == 1).all()
    for i, j in product(range(24), repeat=2):
        assert i == j or abs(apart[:, i] @ apart[:, j]) <= ROUNDING_MEMBERS / 2
        assert abs(apart[:, i] @ word[:, 0]) <= ROUNDING_MEMBERS / 2
        assert i != j or abs(apart[:, i] @ later[:, i]) <= ROUNDING_MEMBERS / 2


@pytest.mark.parametrize("rows", [2, 3, 131])
def test_equal_scores_of_a_layer_may_differ_by_their_roundings(rows):
    members = Ensemble(size=20, unit=2.0**-53, smallest=0.0, slack=8.0)
    with ensemble(members):
        scores = matvec(np.ones((20, rows, 4)), np.full((20, 4), 25.0))
    apart = np.abs(scores[members.rounding] - scores[members.rounding, :1]).max(0)[1:]
    assert apart[:20] == pytest.approx(2 * 100 * members.step)


def gradient_ratio(name, parameters, slope, **tensors):
    """The largest error ÷ budget of a gradient of the sum, by the first tensor."""
    case = bind(find(name), tensors, parameters, "sum")
    want = solve(find(name), case).gradient(next(iter(tensors)), "sum", np.ones(()))
    return float(want.error(to_extended(slope)).max())


def test_a_sigmoid_may_be_taken_from_the_logarithm():
    x = torch.linspace(2, 40, 2000, dtype=torch.float64)
    slope = torch.exp(x - torch.logaddexp(x, torch.zeros_like(x)))
    zeros = torch.zeros_like(x)
    name = "binary_cross_entropy_with_logits"
    assert gradient_ratio(name, {}, slope, input=x, target=zeros) < 0.2
    assert gradient_ratio(name, {}, slope.float().double(), input=x, target=zeros) > 10


def test_what_a_kernel_takes_for_0_is_0_also_where_it_was_scaled_down():
    x = torch.tensor([-80.0, -60.0])
    target = torch.tensor([2.0**-126 * 3, 0.5])
    slope = -target * 0.25
    flushed = torch.where(slope.abs() < torch.finfo(torch.float32).tiny, 0.0, slope)
    case = bind(find("kl_div"), {"input": x, "target": target}, {"log_target": False}, "sum")
    want = solve(find("kl_div"), case).gradient("input", "sum", np.asarray(0.25, np.float32))
    assert flushed[0] == 0 != slope[0]
    assert (want.error(to_extended(flushed)) <= 1).all()
    assert (want.error(to_extended(2 * slope)) > 1)[1]


@pytest.mark.parametrize("offset", [1e3, 1e9, 1e12, 1e17])
def test_probabilities_of_enormous_logits_are_known_as_well_as_these_are(offset):
    x = torch.full((1, 2), offset, dtype=torch.float64, requires_grad=True)
    target, parameters = torch.tensor([0]), {"ignore_index": -100, "label_smoothing": 0.0}
    (torch.logsumexp(x, 1) - x[0, 0]).sum().backward()
    ratio = gradient_ratio("cross_entropy", parameters, x.grad, input=x.detach(), target=target)
    assert ratio <= 1
    case = bind(find("cross_entropy"), {"input": x.detach(), "target": target}, parameters, "sum")
    budget = solve(find("cross_entropy"), case).gradient("input", "sum", np.ones(())).budget.max()
    assert budget < 1e-14 * offset * 16


def relies_on_their_sum(input, target, label_smoothing=0.0, reduction="mean", scores=1.0):
    if input.shape != target.shape:
        return F.cross_entropy(input, target, label_smoothing=label_smoothing, reduction=reduction)
    classes = int(input.ndim > 1)
    p = target * (1 - label_smoothing) + label_smoothing / input.shape[classes]
    shifted = input - input.detach().amax(classes, keepdim=True)
    held = p + (scores - 1) * (p - p.detach())
    losses = shifted.logsumexp(classes) - (held * shifted).sum(classes)
    losses = losses.to(input.dtype)
    if reduction == "mean":
        return losses.sum() / max(1, losses.numel())
    return losses if reduction == "none" else losses.sum()


@pytest.mark.parametrize(("scores", "verdict"), [(1.0, "conforms"), (0.9, "deviates")])
def test_a_gradient_of_probabilities_is_judged_as_long_as_they_sum_to_1(scores, verdict):
    def loss(input, target, label_smoothing=0.0, reduction="mean"):
        return relies_on_their_sum(input, target, label_smoothing, reduction, scores)

    (cell,) = lossspec.check("cross_entropy", loss, profile="quick", clauses=["gradient"])
    assert cell.verdict == verdict, (cell.what, cell.case)


@pytest.mark.parametrize(
    ("kinks", "listed"), [((0, 1), True), ((1, 3), True), ((0, 1, 2), False), ((4, 5), False)]
)
def test_where_kinks_meet_whose_sides_are_not_all_tried_no_gradient_is_asked(kinks, listed):
    members = Ensemble(2 + ROUNDING_MEMBERS + SIDES, 2.0**-53, 5e-324, 4.0)
    tried = []
    for kink in range(6):
        at = np.zeros(members.size) if kink in kinks else np.ones(members.size)
        slope = members.sided(at, np.ones(members.size), 0.0, 1.0)
        if kink in kinks:
            tried.append(slope[-SIDES:])
    sides = set(zip(*tried, strict=True))
    assert (len(sides) == 2 ** len(kinks)) == listed
    assert members.crowded(()) != listed
