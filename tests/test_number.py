"""Numbers of a definition: their operators compute, round and compare."""

import operator

import numpy as np
import pytest
import torch
from autograd import make_vjp

import lossspec
from lossspec.judging.profiles import Profile
from lossspec.judging.stream import stream
from lossspec.maths import (
    absolute,
    accumulated,
    log,
    mean,
    norm,
    positive_part,
    softplus,
    sqrt,
    total,
    where,
)
from lossspec.maths.ensemble import ROUNDING_MEMBERS, SIDES, Ensemble, ensemble
from lossspec.maths.number import Number, array_of
from lossspec.spec.catalogue import find
from lossspec.spec.loss import Form, Loss
from lossspec.spec.roles import Real

F = torch.nn.functional
EXTENDED = np.longdouble
BINARY = [operator.add, operator.sub, operator.mul, operator.truediv, operator.pow]
#: Unit roundoff of float32.
UNIT = 2.0**-24


def made(*numbers):
    """Return a number for the same values in every member of an ensemble without perturbations."""
    values = np.array(numbers, EXTENDED)
    return np.broadcast_to(values, (MEMBERS.size, *values.shape)).copy()


MEMBERS = Ensemble(2 + ROUNDING_MEMBERS + SIDES, UNIT, 2.0**-149, 8.0)


def roundings(compute, *tensors):
    """Return how far the rounding members move a result, in unit roundoffs of the result."""
    with ensemble(MEMBERS.fresh()):
        result = array_of(compute(*map(Number, tensors)))
    moved = np.abs(result - result[:1])[MEMBERS.rounding].max(0)
    return np.asarray(moved / np.abs(result[0]) / MEMBERS.step, float)


@pytest.mark.parametrize("operation", BINARY)
def test_an_operator_computes_what_it_computes_for_arrays(operation):
    x, y = np.array([[3.0, 0.7]], EXTENDED), np.array([[1.3, 2.0]], EXTENDED)
    want = operation(x, y)
    for got in (operation(Number(x), Number(y)), operation(Number(x), y)):
        assert isinstance(got, Number)
        assert np.array_equal(got.raw, want)
    got = operation(x, Number(y))
    assert isinstance(got, Number)
    assert np.array_equal(got.raw, want)
    for scalar in (2, 2.0, np.longdouble(2), np.float32(2)):
        assert np.array_equal(operation(Number(x), scalar).raw, operation(x, 2))
        assert np.array_equal(operation(scalar, Number(x)).raw, operation(np.longdouble(2), x))


@pytest.mark.parametrize("operation", BINARY)
def test_an_operator_rounds_its_result(operation):
    x, y = made(3.1, 0.7), made(1.3, 2.3)
    assert roundings(operation, x, y) == pytest.approx(1.0)


def test_the_elements_of_a_row_are_rounded_apart():
    x, y = made(1.0, 1.0), made(1.3, 1.3)
    difference = roundings(lambda x, y: total(x * y * np.array([1.0, -1.0])) + 1.3, x, y)
    assert difference > 1.5  # the roundings of the products do not cancel


@pytest.mark.parametrize(
    "exact",
    [
        lambda x: 2 * x,
        lambda x: x / 4.0,
        lambda x: -x,
        lambda x: x + 0,
        lambda x: 0.0 - x,
        lambda x: x**1,
        lambda x: x * np.array([[1.0, 0.5]]),
    ],
    ids=["2x", "x / 4", "-x", "x + 0", "0 - x", "x ** 1", "powers of 2"],
)
def test_an_exact_operation_is_not_rounded(exact):
    assert not roundings(exact, made(3.1, 0.7)).any()


def test_a_float_that_no_dtype_holds_is_rounded():
    x = made(3.1, 0.7)
    assert (roundings(lambda x: 0.1 * x, x) > roundings(lambda x: 0.125 * x, x)).all()
    assert (roundings(lambda x: 0.3 + x, x) > roundings(lambda x: 0.5 + x, x)).any()


def test_a_product_of_zero_and_a_sum_of_subnormal_numbers_are_exact():
    with ensemble(MEMBERS.fresh()):
        product = array_of(Number(made(0.0)) * Number(made(3.1)))
        tiny = array_of(Number(made(2.0**-140)) + Number(made(2.0**-145)))
    assert not product.any()
    assert (np.abs(tiny - tiny[:1]) <= 2 * UNIT * tiny[0]).all()


def twice(x):
    return x * 2**-10 + x


def test_the_backward_pass_of_a_product_is_rounded_and_that_of_a_sum_is_not():
    def gradient(compute):
        with ensemble(MEMBERS.fresh()):
            back, _ = make_vjp(lambda t: array_of(compute(Number(t))))(made(3.1))
            slope = back(np.ones((MEMBERS.size, 1), EXTENDED))
        return np.abs(slope - slope[:1])[MEMBERS.rounding].max()

    assert gradient(lambda x: x * 1.1) > 0
    assert gradient(lambda x: x + 1.1) == 0
    # The two derivatives nearly cancel; an implementation adds them up with a rounding of each.
    assert gradient(lambda x: twice(accumulated(x))) > 100 * gradient(twice)


@pytest.mark.parametrize("compare", [operator.lt, operator.le, operator.gt, operator.ge])
def test_comparisons_give_masks(compare):
    x = np.array([[1.0, 2.0, 3.0]], EXTENDED)
    assert np.array_equal(compare(Number(x), 2.0), compare(x, 2.0))
    assert np.array_equal(compare(Number(x), Number(x[:, ::-1])), compare(x, x[:, ::-1]))
    assert np.array_equal(Number(x) == 2.0, x == 2.0)
    assert np.array_equal(Number(x) != 2.0, x != 2.0)


def test_indexing_keeps_a_number_a_number():
    x = np.arange(6.0).reshape(1, 2, 3).astype(EXTENDED)
    first = Number(x)[..., 0]
    assert isinstance(first, Number)
    assert (first.shape, first.ndim) == ((1, 2), 2)
    assert np.array_equal(first.raw, x[..., 0])


def test_two_parameters_chosen_by_a_mask_are_numbers_that_round():
    mask = np.array([[True, False]])
    chosen = where(mask, 0.3, 0.7)
    assert isinstance(chosen, Number)
    assert np.array_equal(chosen.raw, [[0.3, 0.7]])

    def quotient(x):
        return where(x > 1, 0.5, 0.25) / where(x > 1, 1.5, 3.0)

    assert roundings(quotient, made(3.1, 0.7)) == pytest.approx(1.0)


def test_the_mean_of_a_mask_is_a_number_and_its_count_is_none():
    mask = np.array([[True, False, False]])
    assert isinstance(mean(mask), Number)
    assert array_of(mean(mask))[0] == pytest.approx(1 / 3)
    assert not isinstance(total(mask), Number)


# === budgets of textbook formulas ==========================================================


def pointwise(name, define, **more):
    tensors = {"input": Real(), "target": Real()}
    form = Form(shapes=("(*), (*) -> (*)",), tensors=tensors)
    return Loss(
        name=name,
        module=None,
        summary="A loss of a test.",
        formula=name,
        source="https://example.org",
        define=define,
        forms=(form,),
        **more,
    )


def reduced(function):
    """Return a loss with a reduction, from one without."""

    def call(input, target, reduction="mean"):
        value = function(input, target)
        return value if reduction == "none" else getattr(value, reduction)()

    return call


def verdicts(spec, function):
    cells = lossspec.check(spec, reduced(function), profile="quick", clauses=["value", "gradient"])
    return {cell.clause: cell.verdict for cell in cells}


RIGHT = {"value": "conforms", "gradient": "conforms"}


def test_a_cancelling_difference_in_plain_operators_has_the_right_budget():
    spec = pointwise("soft_difference", lambda input, target: softplus(input) - target * input)
    assert verdicts(spec, lambda x, t: F.softplus(x) - t * x) == RIGHT
    assert verdicts(spec, lambda x, t: F.softplus(x) - 1.01 * t * x)["value"] == "deviates"


def test_products_and_quotients_in_plain_operators_have_the_right_budget():
    spec = pointwise(
        "ratio",
        lambda input, target: (input * input - target * target) / (1 + input * input),
    )
    assert verdicts(spec, lambda x, t: (x * x - t * t) / (1 + x * x)) == RIGHT
    assert verdicts(spec, lambda x, t: (x * x - t * t) / (1.01 + x * x))["value"] == "deviates"


def test_the_absolute_value_of_a_rounded_zero_has_a_budget():
    def define(input, target):
        return target + absolute(input * 0.1 - 0.1 * input)

    spec = pointwise("rounded_zero", define)
    assert verdicts(spec, lambda x, t: t + (x * 0.1 - x / 10).abs())["value"] == "conforms"
    assert verdicts(spec, lambda x, t: t + 0.01 * x.abs())["value"] == "deviates"


# === equivalent forms ======================================================================


def squared_difference(input, target):
    return input * input - 2 * input * target + target * target


def test_an_equivalent_form_widens_the_budget_and_no_other_form_does():
    def expanded(x, t):
        return x * x - 2 * x * t + t * t

    def define(input, target):
        return (input - target) ** 2

    narrow = pointwise("square", define)
    wide = pointwise("square", define, equivalents=(squared_difference,))
    assert verdicts(narrow, expanded)["value"] == "deviates"
    assert verdicts(wide, expanded) == RIGHT
    assert verdicts(wide, lambda x, t: (x - t) ** 2) == RIGHT
    assert verdicts(wide, lambda x, t: 1.01 * (x - t) ** 2)["value"] == "deviates"


def test_a_form_whose_derivatives_cancel_conforms_if_it_adds_them_up_as_declared():
    def clamped(x, t):
        d = (x - t).abs()
        q = d.clamp(max=1)
        return q * (q / 2) + (d - q)

    smooth = find("smooth_l1_loss")
    cells = lossspec.check(smooth, reduced(clamped), profile="standard", clauses=["gradient"])
    assert [cell.verdict for cell in cells] == ["conforms"]


def test_an_overflow_of_an_equivalent_form_is_the_reason_for_an_open_budget():
    def rooted(input, target):
        return sqrt((input - target) ** 2)

    spec = pointwise("size", lambda input, target: absolute(input - target), equivalents=(rooted,))
    profile = Profile("few", 200, 1)
    expected = [each.expected for each in stream(spec, profile, 0, ("float16",))]
    open_budgets = [(e.why[np.isinf(e.budget)] != 0).all() for e in expected]
    assert any(np.isinf(e.budget).any() for e in expected)
    assert all(open_budgets)


def test_the_subgradient_of_an_equivalent_form_is_correct_too():
    def define(input, target):
        return positive_part(input - target)

    def other(input, target):
        return positive_part(input - target) + 0 * log(norm(input[..., None], 2) + 1)

    spec = pointwise("hinge", define, equivalents=(other,))
    assert verdicts(spec, lambda x, t: F.relu(x - t)) == RIGHT
    assert verdicts(spec, lambda x, t: 1.01 * F.relu(x - t))["gradient"] == "deviates"


def test_an_equivalent_form_with_unknown_arguments_is_refused():
    with pytest.raises(lossspec.SpecError, match="arguments of an equivalent form: unknown 'x'"):
        pointwise("square", lambda input, target: input - target, equivalents=(lambda x: x,))
