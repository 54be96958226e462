"""The count of checked numbers, and the excuses for the unchecked ones."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import lossspec
from lossspec.cases.case import Case
from lossspec.clauses import clauses
from lossspec.clauses.trial import Deviation, Trial
from lossspec.excuse import Excuse
from lossspec.execution.implementation import LossUnderTest
from lossspec.oracle.bounds import ASKED, REASONS, Bounded, why_open
from lossspec.oracle.solver import SolvedCase
from lossspec.render.asked import asked, asked_by_loss, share
from lossspec.render.html import page
from lossspec.render.markdown import summary
from lossspec.spec.catalogue import find
from tests.test_render import Page, cell, report

INF = np.inf


def solved(loss, contract, tensors, *, dtype="float32", reduction="none", wants=(), **parameters):
    """Return a call with its right answer."""
    spec = find(loss)
    form = spec.forms[0]
    arrays = {
        name: np.asarray(x, np.int64 if np.asarray(x).dtype.kind == "i" else dtype)
        for name, x in tensors.items()
    }
    known = {name: p.default for name, p in spec.parameters_of(form).items()} | parameters
    case = Case(
        loss, form.name, contract, 1, dtype, arrays, known, reduction, np.ones(()),
        requires_grad=wants,
    )  # fmt: skip
    shape = SolvedCase(spec, case).expected.losses.shape
    return SolvedCase(spec, case.with_(cotangent=np.ones(shape, dtype)))


def pointwise(loss, input, target=None, **changes):
    tensors = {
        "input": np.array(input),
        "target": np.zeros(len(input)) if target is None else target,
    }
    return solved(loss, "(*), (*) -> (*)", tensors, **changes)


def values(one):
    return dict(one.expected.value(one.case.reduction).asked())


def gradients(one, name="input"):
    return dict(one.expected.gradients()[name].asked())


# === reasons ==============================================================================


def test_known_numbers_and_an_exact_0_are_checked():
    one = pointwise("mse_loss", [1.0, 2.0, 0.0])
    assert values(one) == {ASKED: 3}


@pytest.mark.parametrize(
    ("reduction", "want"),
    [("none", {ASKED: 1, Excuse.OVERFLOW: 1}), ("sum", {Excuse.OVERFLOW: 1})],
)
def test_no_number_is_checked_where_the_textbook_formula_overflows(reduction, want):
    one = pointwise("mse_loss", [1.0, 1e30], reduction=reduction, wants=("input",))
    assert values(one) == want
    assert gradients(one) == {ASKED: 1, Excuse.OVERFLOW: 1}


def test_a_sum_of_finite_losses_may_overflow():
    one = pointwise("l1_loss", [3e38, 3e38], reduction="sum")
    assert values(one) == {Excuse.OVERFLOW: 1}


def test_a_subgradient_interval_at_a_kink_is_counted_separately():
    one = pointwise("l1_loss", [1.0, 0.0], wants=("input",))
    assert gradients(one) == {ASKED: 1, Excuse.KINK: 1}


def test_subnormal_and_cancelling_numbers_are_excused():
    one = pointwise("l1_loss", [1e-39, 1.0])
    assert values(one) == {ASKED: 1, Excuse.SUBNORMAL: 1}
    one = pointwise(
        "l1_loss", np.float32([1.0, 1.0]), np.float32([0.0, np.nextafter(np.float32(1), 2)])
    )
    assert values(one) == {ASKED: 1, Excuse.TOO_UNCERTAIN: 1}


def of_classes(input, target, **changes):
    return solved(
        "cross_entropy",
        "(N, C), (N) -> (N)",
        {"input": np.array(input), "target": target},
        **changes,
    )


def test_the_gradient_of_an_ignored_row_is_not_checked():
    one = of_classes([[1.0, 2.0], [1.0, 3.0]], np.array([0, -100]), wants=("input",))
    assert gradients(one) == {ASKED: 2, Excuse.IGNORED: 2}


def test_the_gradient_of_an_infinite_loss_is_not_checked():
    one = of_classes([[-INF, 2.0], [1.0, 3.0]], np.array([0, 1]), wants=("input",))
    assert gradients(one)[Excuse.UNDEFINED] == 2


def test_a_mean_that_divides_by_0_is_undefined():
    with_weight = of_classes([[1.0, 2.0]], np.array([0]), reduction="mean")
    case = with_weight.case
    case = case.with_(tensors={**case.tensors, "weight": np.float32([0, 1])})
    one = SolvedCase(with_weight.loss, case)
    assert values(one) == {Excuse.UNDEFINED: 1}


def test_one_unknown_number_in_a_row_with_a_free_constant_leaves_the_row_unchecked():
    exact = np.array([[1.0, 2.0], [3.0, 4.0]], np.longdouble)
    budget = np.array([[1e-9, INF], [1e-9, 1e-9]])
    want = Bounded.around(exact, budget, "float64", 1, why_open(Excuse.KINK, np.isinf(budget)))
    _, settled = want.settled(exact)
    assert dict(settled.asked()) == {ASKED: 2, Excuse.KINK: 2}


def test_an_infinite_budget_without_a_reason_counts_as_undefined():
    want = Bounded.around(np.ones(2), np.array([INF, 1e-9]), "float64")
    assert dict(want.asked()) == {ASKED: 1, Excuse.UNDEFINED: 1}
    assert REASONS[0] is Excuse.UNDEFINED


# === infinite losses ======================================================================


def impossible(reduction):
    """Return two sequences of two frames; no path gives the second target of three labels."""
    tensors = {
        "log_probs": np.log(np.full((2, 2, 4), 0.25)),
        "targets": np.array([[1, 2, 0], [1, 2, 3]]),
        "input_lengths": np.array([2, 2]),
        "target_lengths": np.array([1, 3]),
    }
    contract = next(c.text for c in find("ctc_loss").forms[0].contracts if c.core)
    return solved("ctc_loss", contract, tensors, reduction=reduction)


def judged(one, target):
    trial = Trial(LossUnderTest("mine", one.loss, "function", target), one)
    return clauses()["value"].judge(trial)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_a_loss_that_is_infinite_by_definition_is_checked(reduction):
    one = impossible(reduction)
    assert np.isinf(one.expected.value(reduction).exact).any()
    assert values(one) == {ASKED: one.expected.value(reduction).exact.size}
    assert judged(one, F.ctc_loss) is (reduction == "none")


@pytest.mark.parametrize("wrong", [0.0, 1e30, torch.nan, -torch.inf])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_a_finite_number_in_place_of_an_infinite_loss_deviates(reduction, wrong):
    def finite(*arguments, **options):
        loss = F.ctc_loss(*arguments, **options)
        return torch.where(loss.isinf(), wrong, loss)

    with pytest.raises(Deviation, match="the value"):
        judged(impossible(reduction), finite)


def test_a_target_logit_of_minus_infinity_makes_cross_entropy_infinite():
    one = of_classes([[-INF, 2.0], [1.0, 3.0]], np.array([0, 1]))
    assert list(one.expected.value("none").exact) == [INF, pytest.approx(np.log1p(np.exp(-2)))]
    assert judged(one, F.cross_entropy)
    with pytest.raises(Deviation, match="the value"):
        judged(one, lambda *a, **k: F.cross_entropy(*a, **k).nan_to_num(posinf=100.0))


def test_no_number_is_checked_where_extended_precision_overflows():
    one = pointwise("poisson_nll_loss", [1e5, 1.0], wants=("input",))
    assert np.isinf(one.expected.losses).tolist() == [True, False]
    assert values(one) == gradients(one) == {ASKED: 1, Excuse.OVERFLOW: 1}


def of_spec(define, input, target):
    """Return a call of a loss that the test defines."""
    spec = replace(find("mse_loss"), name="mine", define=define, symmetries=(), examples=())
    tensors = {"input": np.float32(input), "target": np.float32(target)}
    drawn = pointwise("mse_loss", np.zeros(len(input))).case
    return SolvedCase(spec, drawn.with_(loss="mine", tensors=tensors))


def test_an_infinity_caused_by_rounding_is_not_checked():
    one = of_spec(lambda input, target: 1 / (1 - input) + 0 * target, [1.0, 0.5], [0.0, 0.0])
    assert np.isinf(one.expected.losses).tolist() == [True, False]
    assert values(one) == {ASKED: 1, Excuse.TOO_UNCERTAIN: 1}


def test_an_infinity_that_the_textbook_formula_turns_into_nan_is_not_checked():
    # The square of 1e30 overflows in float32, and two infinities cancel to nan.
    def define(input, target):
        return input + (target * target - target * target)

    one = of_spec(define, [INF, INF], [1.0, 1e30])
    assert np.isinf(one.expected.losses).all()
    assert values(one) == {ASKED: 1, Excuse.TOO_UNCERTAIN: 1}


def test_a_sum_of_an_infinite_and_an_unknown_loss_is_not_checked():
    one = impossible("sum")
    known = one.expected
    unknown = replace(known, budget=np.where(np.isinf(known.losses), 0, INF), _known={})
    assert np.isinf(known.value("sum").exact)
    assert known.value("sum").budget == 0
    assert unknown.value("sum").budget == INF


# === reports ==============================================================================


def with_asked(counts, clause="value", **changes):
    return cell("mse_loss", clause, verdict="conforms", extra={"asked": counts}, **changes)


def test_a_cell_counts_the_checked_numbers_by_dtype():
    (value,) = lossspec.check("mse_loss", F.mse_loss, profile="quick", clauses=["value"])
    assert set(value.extra["asked"]) == set(value.dtypes)
    assert all(counts[ASKED] > 0 for counts in value.extra["asked"].values())
    assert Excuse.OVERFLOW in value.extra["asked"]["float16"]


def test_a_report_shows_the_share_of_checked_numbers_by_loss():
    counts = {"float32": {"asked": 97, "overflow": 2}, "float64": {"asked": 5}}
    more = {"float32": {"too-uncertain": 1}}
    made = report(with_asked(counts), with_asked(more, "gradient"))
    line = "float32 97 % (overflow 2 %, too uncertain 1 %); float64 100 %"
    assert asked_by_loss(made) == {"mse_loss": line}
    assert f"- mse_loss: {line}" in summary(made).replace("\\", "")
    text = Page(page(made)).text
    assert line in text
    for reason in (Excuse.OVERFLOW, Excuse.TOO_UNCERTAIN):
        assert reason.says in text
        assert reason.says in summary(made)
    assert Excuse.KINK.says not in text


def test_a_report_without_counts_has_no_section_on_checked_numbers():
    made = report(cell("mse_loss", "value", verdict="conforms"))
    assert "Numbers compared" not in summary(made) + page(made)


@pytest.mark.parametrize(
    ("part", "total", "want"),
    [(0, 9, "0 %"), (1, 1000, "<1 %"), (999, 1000, "99 %"), (7, 7, "100 %"), (1, 3, "33 %")],
)
def test_only_complete_shares_round_to_0_or_100_per_cent(part, total, want):
    assert share(part, total) == want


@pytest.mark.parametrize(
    "bad",
    [7, [1], {"float32": 1}, {"float32": {"asked": "1"}}, {"float32": {"asked": True, "<b>": 3}}],
)
def test_malformed_counts_are_left_out(bad):
    assert asked([with_asked(bad)]) == {}
