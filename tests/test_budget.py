"""Budgets: which errors count as rounding, and which numbers are not checked."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import lossspec
from lossspec.cases.workloads import workload
from lossspec.clauses import clauses
from lossspec.clauses.trial import Trial
from lossspec.dtypes import precision
from lossspec.execution.implementation import LossUnderTest
from lossspec.execution.tensors import to_extended
from lossspec.implementations.oracle import bind
from lossspec.judging.deviation import deviation_of
from lossspec.maths import expm1, log1p, matvec, total
from lossspec.maths.ensemble import ROUNDING_MEMBERS, SIDES, Ensemble, ensemble, rounded
from lossspec.oracle.bounds import Bounded, roundings
from lossspec.oracle.solver import SolvedCase, solve
from lossspec.spec.catalogue import catalogue, find
from lossspec.specs.linear_cross_entropy import AUTO, BY_TWO
from lossspec.thresholds import SERIAL_TERMS, SLACK


def known(exact, free_axis=None):
    exact = np.asarray(exact, np.longdouble)
    return Bounded.around(exact, np.full_like(exact, 0.1), "float64", free_axis)


def test_an_error_is_measured_in_budgets():
    assert known([1.0, 2.0]).error(np.array([1.05, 2.2])) == pytest.approx([0.5, 2.0])


def test_infinity_is_accepted_where_a_valid_subgradient_rounds_to_it():
    exact, high = np.zeros(2, np.longdouble), np.array([np.longdouble(1e30), 10.0])
    either = Bounded(exact, exact + 1e-3, exact, high, "float16")
    assert (either.error(np.array([np.inf, np.inf])) == [0, np.inf]).all()
    assert (either.error(np.array([-np.inf, 5.0])) == [np.inf, 0]).all()


def test_a_constant_offset_along_a_free_axis_is_no_error():
    want = known([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], free_axis=1)
    assert (want.error(want.exact + np.array([[10.0], [-20.0]])) == 0).all()
    assert (want.error(want.exact + np.array([0.0, 0.0, 0.5])) > 1).any()
    assert (want.error(want.exact[::-1]) == 0).all()
    assert (want.error(want.exact[:, ::-1]) > 1).any()


def test_one_unknown_number_along_a_free_axis_leaves_its_row_unchecked():
    want = known([[1.0, np.inf], [4.0, 5.0]], free_axis=1)
    error = want.error(np.array([[7.0, -7.0], [4.0, 6.0]]))
    assert (error[0] == 0).all()
    assert (error[1] > 1).all()


@pytest.mark.parametrize("before", [0, 8, 24])
def test_roundings_never_cancel_in_every_perturbation(before):
    members = Ensemble(size=20, unit=2.0**-53, smallest=0.0, slack=8.0)
    with ensemble(members):
        for _ in range(before):
            rounded(np.ones((20, 1)))
        words = [rounded(np.ones((20, 1)))[members.rounding, 0] - 1 for _ in range(8)]
    for signs in product((-1, 1), repeat=8):
        combined = sum(sign * word for sign, word in zip(signs, words, strict=True))
        assert np.abs(combined).max() >= 0.99 * np.sqrt(8) * members.step


def test_separate_roundings_do_not_cancel_each_other_or_shared_ones():
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
def test_equal_scores_of_a_layer_may_differ_by_rounding(rows):
    members = Ensemble(size=20, unit=2.0**-53, smallest=0.0, slack=8.0)
    with ensemble(members):
        scores = matvec(np.ones((20, rows, 4)), np.full((20, 4), 25.0))
    apart = np.abs(scores[members.rounding] - scores[members.rounding, :1]).max(0)[1:]
    assert apart[:20] == pytest.approx(2 * 100 * members.step)


def gradient_ratio(name, parameters, slope, **tensors):
    """Return the largest error ÷ budget of the gradient of the sum by the first tensor."""
    case = bind(find(name), tensors, parameters, "sum")
    want = solve(find(name), case).gradient(next(iter(tensors)), "sum", np.ones(()))
    return float(want.error(to_extended(slope)).max())


def test_a_sigmoid_computed_from_its_logarithm_is_within_the_budget():
    x = torch.linspace(2, 40, 2000, dtype=torch.float64)
    slope = torch.exp(x - torch.logaddexp(x, torch.zeros_like(x)))
    zeros = torch.zeros_like(x)
    name = "binary_cross_entropy_with_logits"
    assert gradient_ratio(name, {}, slope, input=x, target=zeros) < 0.2
    assert gradient_ratio(name, {}, slope.float().double(), input=x, target=zeros) > 10


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(
    "numbers", [[43.1, 44.0, 3.0], [63.0, 88.2, 1.0]], ids=["subnormal", "overflow"]
)
def test_a_gradient_through_a_number_out_of_range_is_within_the_budget(numbers, reduction):
    spec = lossspec.spec.Loss(
        name="log_square",
        module=None,
        summary="The logarithm of one and a square.",
        formula=r"\log(1 + (e^x - 1)^2)",
        source="the test",
        define=lambda input: log1p(expm1(input) ** 2),
        forms=(
            lossspec.spec.Form(shapes=("(*) -> (*)",), tensors={"input": lossspec.spec.Real()}),
        ),
    )
    x = torch.tensor(numbers * 171, requires_grad=True)
    value = torch.log1p(torch.expm1(x) ** 2)
    getattr(value, reduction)().backward()
    case = bind(spec, {"input": x.detach()}, {}, reduction)
    want = solve(spec, case).gradient("input", reduction, np.ones(()))
    assert want.error(to_extended(x.grad)).max() <= 1
    assert want.error(1.01 * to_extended(x.grad))[2] > 1


def test_an_overflow_that_the_plain_formula_misses_by_one_ulp_is_within_the_budget():
    # (x - y)² / v is 65,539 exactly, and 65,504 if each step is rounded to float16.
    x, y, v = (torch.tensor([n], dtype=torch.float16) for n in (-0.54394531, 42.47, 0.02822876))
    standardised = torch.log(v.sqrt()) + 0.5 * ((x - y) / v.sqrt()) ** 2
    assert standardised == torch.inf
    answer = lossspec.expect("gaussian_nll_loss", x, y, v, reduction="none")
    assert answer.agrees(standardised)
    assert not lossspec.expect("gaussian_nll_loss", x, y, 2 * v, reduction="none").agrees(
        standardised
    )


def test_a_gradient_flushed_to_0_before_scaling_is_within_the_budget():
    x = torch.tensor([-80.0, -60.0])
    target = torch.tensor([2.0**-126 * 3, 0.5])
    slope = -target * 0.25
    flushed = torch.where(slope.abs() < torch.finfo(torch.float32).tiny, 0.0, slope)
    case = bind(find("kl_div"), {"input": x, "target": target}, {"log_target": False}, "sum")
    want = solve(find("kl_div"), case).gradient("input", "sum", np.asarray(0.25, np.float32))
    assert flushed[0] == 0 != slope[0]
    assert (want.error(to_extended(flushed)) <= 1).all()
    assert (want.error(to_extended(2 * slope)) > 1)[1]


@pytest.mark.parametrize(("rows", "wrong"), [(2, 1.05), (25, 1.05), (195, 1.05), (4099, 1.25)])
@pytest.mark.parametrize("reduction", ["mean", "batchmean"])
def test_a_float16_gradient_whose_first_product_underflows_is_within_the_budget(
    rows, wrong, reduction
):
    x = torch.linspace(-1, -700, rows, dtype=torch.float16)
    t = torch.linspace(-1, -16.5, rows, dtype=torch.float16)
    for upstream in (1.0, 2.0, -0.5):
        share = torch.tensor(upstream, dtype=torch.float16) / rows
        slope = share * t.exp() * (t - x + 1)
        spec, parameters = find("kl_div"), {"log_target": True}
        case = bind(spec, {"input": x, "target": t}, parameters, reduction).with_(scale=upstream)
        want = solve(spec, case).gradient("target", reduction, np.asarray(upstream))
        assert (want.error(to_extended(slope)) <= 1).all()
        assert (want.error(wrong * to_extended(slope))[t.numpy() > -2] > 1).all()
    assert slope[-1] == 0 != want.exact[-1]


@pytest.mark.parametrize("forms", ["all", "first"])
def test_a_gradient_by_the_standard_score_may_overflow_in_float16(forms):
    loss = find("gaussian_nll_loss")
    loss = loss if forms == "all" else replace(loss, equivalents=())

    def by_score(input, target, var, full=False, eps=1e-6, reduction="mean"):
        scale = var.clamp_min(eps).sqrt()
        return (scale.log() + 0.5 * ((input - target) / scale) ** 2).sum()

    numbers = {"input": np.full((1, 4), 50.66), "target": np.full((1, 4), 249.9), "var": [[2.6]]}
    tensors = {name: torch.tensor(x, dtype=torch.float16) for name, x in numbers.items()}
    case = bind(loss, tensors, {"full": False, "eps": 1e-6}, "sum")
    case = case.with_(requires_grad=("var",), cotangent=np.float16(np.full((1, 4), 2)), scale=2.0)
    trial = Trial(LossUnderTest("mine", loss, "function", by_score), SolvedCase(loss, case))
    assert (deviation_of(clauses()["gradient"], trial) is None) is (forms == "all")


@pytest.mark.parametrize("offset", [1e3, 1e9, 1e12, 1e17])
def test_the_budget_of_probabilities_grows_with_the_size_of_the_logits(offset):
    x = torch.full((1, 2), offset, dtype=torch.float64, requires_grad=True)
    target, parameters = torch.tensor([0]), {"ignore_index": -100, "label_smoothing": 0.0}
    (torch.logsumexp(x, 1) - x[0, 0]).sum().backward()
    ratio = gradient_ratio("cross_entropy", parameters, x.grad, input=x.detach(), target=target)
    assert ratio <= 1
    case = bind(find("cross_entropy"), {"input": x.detach(), "target": target}, parameters, "sum")
    # log Σ eˣ - x, an equivalent form, rounds a logit of 1e17 by 16, of which exp makes 9e6.
    spec = find("cross_entropy")
    judged = spec if offset < 1e17 else replace(spec, equivalents=())
    budget = solve(judged, case).gradient("input", "sum", np.ones(())).budget.max()
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
def test_a_gradient_that_assumes_probabilities_summing_to_1_is_judged(scores, verdict):
    def loss(input, target, label_smoothing=0.0, reduction="mean"):
        return relies_on_their_sum(input, target, label_smoothing, reduction, scores)

    (cell,) = lossspec.check("cross_entropy", loss, profile="quick", clauses=["gradient"])
    assert cell.verdict == verdict, (cell.what, cell.case)


@pytest.mark.parametrize(
    ("kinks", "listed"), [((0, 1), True), ((1, 3), True), ((0, 1, 2), False), ((4, 5), False)]
)
def test_a_gradient_is_not_checked_where_too_many_kinks_meet(kinks, listed):
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


# === sums that the options of the call divide into parts ===================================

LINEAR = find("linear_cross_entropy")


def layered(rows, options, dtype="float64", reduction="sum"):
    """Return the right answer of a call in which every row has the loss log 2."""
    tensors = {
        "input": torch.ones(rows, 1, dtype=getattr(torch, dtype)),
        "linear_weight": torch.zeros(2, 1, dtype=getattr(torch, dtype)),
        "target": torch.zeros(rows, dtype=torch.int64),
    }
    parameters = {"ignore_index": -100, "label_smoothing": 0.0, "options": options}
    return solve(LINEAR, bind(LINEAR, tensors, parameters, reduction))


def serial(numbers, dtype):
    """Return the sum of numbers, added serially in their dtype."""
    total = np.zeros(numbers.shape[1:], dtype)
    for number in numbers.astype(dtype):
        total = (total + number).astype(dtype)
    return total.astype(np.longdouble)


@pytest.mark.parametrize(("dtype", "without"), [("float32", True), ("bfloat16", False)])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_a_serial_sum_of_the_parts_is_within_the_budget(dtype, without, reduction):
    rows = 2048
    share = np.log(np.longdouble(2)) * 2 / (rows if reduction == "mean" else 1)
    got = serial(np.full(rows // 2, share), precision(dtype).numpy)
    for options, within in ((BY_TWO, True), (None, without)):
        want = layered(rows, options, dtype, reduction).value(reduction)
        assert bool(want.error(got).max() <= 1) is within, options


@pytest.mark.parametrize(
    ("dtype", "without"), [("float32", True), ("bfloat16", False), ("float16", False)]
)
def test_a_serial_gradient_of_the_parts_is_within_the_budget(dtype, without):
    rows, upstream = 4096, np.asarray(0.1, precision(dtype).numpy)
    terms = np.full((rows // 2, 2, 1), [[-1.0], [1.0]]) * float(upstream)
    got = serial(terms, precision(dtype).numpy)
    for options, within in ((BY_TWO, True), (None, without)):
        expected = layered(rows, options, dtype)
        want = expected.gradient("linear_weight", "sum", upstream)
        assert bool(want.error(got).max() <= 1) is within, options


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_a_defect_hidden_by_the_budget_of_many_parts_is_found_with_few(reduction):
    many = layered(2048, BY_TWO, "float64", reduction).value(reduction)
    relative = 3 * float(many.budget / many.exact)
    assert relative < 2e-12
    for rows, options in ((2, BY_TWO), (67, BY_TWO), (2048, None), (2048, AUTO)):
        few = layered(rows, options, "float64", reduction).value(reduction)
        assert few.error(few.exact * (1 + relative)).max() > 1, (rows, options)


def test_the_budget_is_wider_only_where_the_options_divide_the_sum():
    plain, by_two = (layered(2048, options) for options in (None, BY_TWO))
    assert (plain.parts, by_two.parts) == (1, 1024)
    assert (plain.value("none").budget == by_two.value("none").budget).all()
    size = np.log(np.longdouble(2)) * 2048
    wider = by_two.value("sum").budget - plain.value("sum").budget
    assert float(wider / size) == pytest.approx(1023 * precision("float64").unit)
    # A gradient with a row for each sample sums nothing over the parts.
    upstream = np.ones(())
    mine, other = (x.gradient("input", "sum", upstream).budget for x in (plain, by_two))
    assert (mine == other).all()
    for rows in (1, 2):
        plain, by_two = (layered(rows, options).value("sum") for options in (None, BY_TWO))
        assert plain.budget == by_two.budget
    assert [name for name, loss in catalogue().items() if loss.parts] == ["linear_cross_entropy"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_divided_sum_counts_one_rounding_per_further_part(dtype):
    dtype = precision(dtype)
    assert roundings(1024, dtype) == 10
    assert roundings(1024, dtype, 1) == 10
    assert roundings(1024, dtype, 9) == 10 + 8 / SLACK
    assert roundings(4, dtype, 1000) == 2 + 3 / SLACK
    assert roundings(0, dtype) == roundings(0, dtype, 5) == 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numbers_of_32_bits_and_more_may_be_added_one_after_the_other(dtype):
    dtype = precision(dtype)
    assert roundings(0, dtype) == 0
    assert roundings(16, dtype) == 4
    assert roundings(1024, dtype) == 1024 / SLACK
    assert roundings(1024, dtype, 9) == 1032 / SLACK
    assert roundings(2**17, dtype) == SERIAL_TERMS / SLACK


def test_a_cosine_by_the_difference_of_unit_vectors_is_within_the_budget():
    loss = find("cosine_embedding_loss")
    case = workload(loss, {"N": 64, "D": 7}, "float64", 3)
    zeros = np.zeros_like(case.tensors["input2"])
    case = case.with_(
        tensors={**case.tensors, "input2": zeros, "target": -np.ones(64)}, reduction="none"
    )
    a = case.tensors["input1"]
    u = a / np.linalg.norm(a, axis=-1, keepdims=True)
    backwards = sum((u * u).T[::-1])  # a loss may add in any order
    cosine = np.maximum(((u * u).sum(-1) - backwards) / 2, 0)
    want = SolvedCase(loss, case).expected.value("none")
    assert (cosine > want.exact).any()
    assert (want.error(cosine) <= 1).all()


@pytest.mark.parametrize("name", ["multilabel_soft_margin_loss", "multi_margin_loss"])
def test_a_long_sum_in_bfloat16_has_the_relative_budget_of_float16(name):
    loss = find(name)
    sizes = {"N": 1, "C": 2048}

    def relative(dtype):
        case = workload(loss, sizes, dtype, 1).with_(reduction="none")
        want = SolvedCase(loss, case).expected.value("none")
        return (want.budget / np.abs(want.exact) / precision(dtype).unit).item()

    assert relative("bfloat16") == pytest.approx(relative("float16"), rel=0.3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("classes", [257, 1027])
def test_the_classes_may_be_added_one_after_the_other(dtype, classes):
    loss, rng = find("cross_entropy"), np.random.default_rng(0)
    case = workload(loss, {"N": 4, "C": classes}, dtype, 2)
    # Multiples of 1/4 are rounded in the same direction, as their partial sums are alike.
    scores = (rng.integers(-4, 9, (4, classes)) / 4).astype(dtype)
    smoothed = {**case.parameters, "label_smoothing": 1.0}
    case = case.with_(
        tensors={**case.tensors, "input": scores}, parameters=smoothed, reduction="none"
    )
    want = SolvedCase(loss, case).expected.value("none")
    exact = scores.astype(np.longdouble)
    losses = (np.log(np.exp(exact).sum(-1, keepdims=True)) - exact).astype(dtype)
    serial = np.cumsum(losses, -1, dtype=dtype)[:, -1] / classes
    assert (want.error(serial) <= 1).all()
    assert (want.error(serial * (1 + 2.0**-10)) > 1).all()  # as of a sum in float16


@pytest.mark.parametrize(
    ("dtype", "times"), [("float32", 128), ("float64", 128), ("float16", 5), ("bfloat16", 5)]
)
def test_a_sum_of_a_definition_is_rounded_for_any_order_in_32_bits_and_more(dtype, times):
    dtype, ones = precision(dtype), np.ones((24, 1024))
    members = Ensemble(len(ones), dtype.unit, dtype.smallest, SLACK)
    with ensemble(members):
        moved = total(ones) / 1024 - 1
    assert np.abs(moved).max() == pytest.approx(times * members.step, rel=1e-3)


def test_the_documents_name_the_slack_and_the_length_of_a_serial_sum():
    page = (Path(__file__).parents[1] / "docs" / "budget.md").read_text("utf-8")
    assert f"It is {SLACK:g} for every loss" in page
    assert f"up to {SERIAL_TERMS:,} terms" in page
    assert f"min(n, {SERIAL_TERMS})" in page
    assert f"blocks of {SERIAL_TERMS:,}" in clauses()["sum-of-many"].says


def by_dot(d):
    return torch.dot(d, d)


def by_norms(d):
    return sum(torch.linalg.vector_norm(part, ord=1) for part in d.square().split(4096))


@pytest.mark.parametrize("clause", ["sum-of-many", "value"])
@pytest.mark.parametrize("total", [by_dot, by_norms])
def test_a_sum_by_products_or_norms_is_within_the_budget(total, clause):
    loss = find("mse_loss")

    def of(input, target, reduction="mean", weight=None):
        if reduction == "none" or weight is not None or input.shape != target.shape:
            return F.mse_loss(input, target, reduction=reduction, weight=weight)
        result = total((input - target).flatten())
        return result / input.numel() if reduction == "mean" else result

    # Equal terms of a serial sum are rounded in the same direction.
    numbers = np.tile(np.float32(14e3), (2050, 1))
    if clause == "sum-of-many":
        numbers = np.float32([[19.57181, -0.34654978], [-28.222675, -27.912657]])
    tensors = {"input": torch.tensor(numbers), "target": torch.zeros(numbers.shape)}
    case = bind(loss, tensors, {}, "sum").with_(cotangent=np.ones(numbers.shape))
    trial = Trial(LossUnderTest("mine", loss, "function", of), SolvedCase(loss, case))
    assert deviation_of(clauses()[clause], trial) is None


@pytest.mark.parametrize("options", [AUTO, BY_TWO])
def test_a_spec_allows_at_least_as_many_parts_as_torch_makes(options):
    made = eval(options, {"torch": torch})
    sizes = (1, 2, 3, 5, 67, 131, 4099)
    for rows, features, classes in product(sizes, (1, 2, 3, 7, 131), (1, 2, 3, 7, 131)):
        adjusted = made._adjust(rows, features, classes, torch.float64, torch.device("cpu"))
        chunks = -(-rows // adjusted.batch_chunk_size)
        size = {"N": rows, "H": features, "C": classes}
        assert chunks <= LINEAR.parts(size, {"options": options}), size


def by_turns(
    input,
    linear_weight,
    target,
    linear_bias=None,
    weight=None,
    reduction="mean",
    ignore_index=-100,
    label_smoothing=0.0,
    options=None,
):
    """Compute a correct loss that adds the chunks of a batch serially."""

    def of(x, y):
        return F.linear_cross_entropy(
            x,
            linear_weight,
            y,
            linear_bias=linear_bias,
            weight=weight,
            reduction=reduction,
            ignore_index=None if y.is_floating_point() else ignore_index,
            label_smoothing=label_smoothing,
        )

    rows = getattr(options, "batch_chunk_size", None)
    if rows is None or input.ndim == 1 or reduction != "sum" or linear_weight.ndim > 2:
        return of(input, target)
    total = input.new_zeros(())
    for x, y in zip(input.split(rows), target.split(rows), strict=True):
        total = total + of(x, y)
    return total


def test_a_serial_sum_conforms_and_a_wrong_one_deviates():
    def wrong(*tensors, options=None, **more):
        return by_turns(*tensors, options=options, **more) * (1 + 4e-13 * (options is not None))

    def verdicts(loss, *names):
        cells = lossspec.check(LINEAR, loss, clauses=names, profile="quick", dtypes=["float64"])
        return {str(cell.verdict) for cell in cells}

    assert verdicts(by_turns, "value", "sum-of-none") == {"conforms"}
    assert verdicts(wrong, "value") == {"deviates"}


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_losses_that_cancel_may_be_added_up_in_float32(reduction, dtype):
    def wide(input, target, margin=1.0, reduction="mean"):
        if reduction == "none":
            return F.hinge_embedding_loss(input, target, margin, reduction=reduction)
        x, y = input.float(), target.float()
        return F.hinge_embedding_loss(x, y, margin, reduction=reduction).to(input.dtype)

    def wrong(*tensors, reduction="mean", **more):
        return wide(*tensors, reduction=reduction, **more) * (1 if reduction == "none" else 1.25)

    def judged(loss, x, margin):
        tensors = {"input": torch.tensor(x, dtype=real), "target": torch.tensor(-1.0, dtype=real)}
        case = bind(spec, tensors, {"margin": margin}, reduction)
        trial = Trial(LossUnderTest("mine", spec, "function", loss), SolvedCase(spec, case))
        return deviation_of(clauses()[clause], trial)

    real, spec = getattr(torch, dtype), find("hinge_embedding_loss")
    clause = "sum-of-none" if reduction == "sum" else "mean-divisor"
    for x, margin in ((0.296875, 0.3), (0.3, 0.3001), (-1.0, 1.0)):  # bfloat16(0.3) = 0.30078125
        assert judged(wide, x, margin) is None
    assert judged(wrong, -1.0, 1.0) is not None


def test_related_calls_with_different_part_counts_have_separate_budgets():
    rows = 64
    target = torch.full((rows,), -100)
    target[:2] = 0  # all other rows are ignored: without them, a single part is left
    tensors = {
        "input": torch.ones(rows, 1, dtype=torch.float64),
        "linear_weight": torch.zeros(2, 1, dtype=torch.float64),
        "target": target,
    }
    parameters = {"ignore_index": -100, "label_smoothing": 0.0, "options": BY_TWO}
    case = bind(LINEAR, tensors, parameters, "sum").with_(cotangent=np.ones(rows))
    allowed = solve(LINEAR, case).value("sum")
    relative = 1.5 * float(allowed.budget / allowed.exact)
    for error, what in ((0.0, None), (relative, "'sum' without the ignored rows")):

        def loss(input, linear_weight, target, error=error, **given):
            scale = 1 + error * (len(input) == 2)
            return by_turns(input, linear_weight, target, **given) * scale

        trial = Trial(LossUnderTest("mine", LINEAR, "function", loss), SolvedCase(LINEAR, case))
        found = deviation_of(clauses()["ignored-is-deleted"], trial)
        assert (found and found.what) == what
