"""The words of `lossspec.maths`: values, derivatives, edges, ties and rounding."""

import math
import re
from itertools import permutations

import autograd.numpy as anp
import mpmath
import numpy as np
import pytest
import torch
from autograd import make_vjp

import lossspec
from lossspec import maths
from lossspec.dtypes import REAL_DTYPES, Extended, as_extended, precision
from lossspec.maths import words
from lossspec.maths.ensemble import ROUNDING_MEMBERS, SIDES, Ensemble, ensemble
from lossspec.maths.number import Number, array_of
from lossspec.spec.loss import Form, Loss
from lossspec.spec.roles import Real

F = torch.nn.functional
NAN, INF = np.nan, np.inf
#: Unit roundoff of float32.
UNIT = 2.0**-24
MEMBERS = Ensemble(2 + ROUNDING_MEMBERS + SIDES, UNIT, 2.0**-149, 8.0)
#: Ulps of longdouble that a word may lose; the perturbations of a budget are far larger.
LOST = 8 * float(np.finfo(Extended).eps)


def row(*numbers):
    """Return numbers as one member in extended precision."""
    return np.array([numbers], Extended)


def members(*numbers):
    """Return the same numbers in every member of an ensemble."""
    values = np.array(numbers, Extended)
    return np.broadcast_to(values, (MEMBERS.size, *values.shape)).copy()


def back(word, x, cotangent=None):
    """Return the derivative of a word at an array, for a cotangent of ones or a given one."""
    vjp, value = make_vjp(word)(x)
    if cotangent is None:
        cotangent = np.ones(np.shape(value), Extended)
    return np.asarray(vjp(np.broadcast_to(np.asarray(cotangent, Extended), np.shape(value))))


def sided(word, x, cotangent=None):
    """Return the derivatives in the members that choose sides."""
    with ensemble(MEMBERS.fresh()):
        return back(word, x, cotangent)[-SIDES:]


def rounding(word, x):
    """Return how far rounding moves the results of a word, in unit roundoffs of each."""
    with ensemble(MEMBERS.fresh()):
        result = word(x)
    moved = np.abs(result - result[:1])[MEMBERS.rounding].max(0)
    return np.asarray(moved / np.abs(result[0]) / MEMBERS.step, float)


def close(got, want, scale=None):
    """Return whether a longdouble equals a number of mpmath, but for a few ulps."""
    size = abs(want) if scale is None else scale
    return bool(abs(mpmath.mpf(str(got)) - want) <= LOST * size)


# === smooth words, compared with mpmath ====================================================

SMOOTH = {
    "log1p": (words.log1p, mpmath.log1p, (1e-30, -1e-9, 0.3, -0.9, 1e5), ()),
    "expm1": (words.expm1, mpmath.expm1, (1e-30, -1e-9, 0.3, -45.0, 11.0), ()),
    "tanh": (words.tanh, mpmath.tanh, (1e-30, -1e-9, 0.3, -2.0, 20.0), ()),
    "erf": (words.erf, mpmath.erf, (1e-30, -1e-9, 0.3, -0.9, 2.1, -3.3, 5.9, 6.5, 8.0), ()),
    "acos": (words.acos, mpmath.acos, (1e-9, -0.3, 0.9999, -0.5), ()),
    "logaddexp": (
        lambda x: words.logaddexp(x, x * 0 + 0.75),
        lambda x: mpmath.log(mpmath.exp(x) + mpmath.exp(mpmath.mpf(0.75))),
        (-30.0, 0.75, 1.3, 800.0),
        (),
    ),
}


@pytest.mark.parametrize(
    ("name", "point"),
    [(name, point) for name, (_, _, points, _) in SMOOTH.items() for point in points],
)
def test_a_smooth_word_has_the_value_and_the_derivative_of_mpmath(name, point):
    word, exact, _, _ = SMOOTH[name]
    x = row(point)
    with mpmath.workdps(60):
        want, slope = exact(mpmath.mpf(point)), mpmath.diff(exact, mpmath.mpf(point))
        with np.errstate(all="ignore"):
            assert close(word(x)[0, 0], want)
            with ensemble(MEMBERS.fresh()):
                got = back(word, members(point))[0, 0]
        assert close(got, slope)


@pytest.mark.parametrize("numbers", [(0.5, -1.25, 3.0), (-800.0, 800.0), (2.0, 2.0, 2.0, -9.0)])
def test_softmax_has_the_values_and_derivatives_of_mpmath(numbers):
    x, g = row(*numbers), row(*np.linspace(-1, 2, len(numbers)))
    with mpmath.workdps(60):
        powers = [mpmath.exp(mpmath.mpf(number)) for number in numbers]
        p = [power / mpmath.fsum(powers) for power in powers]
        g_mp = [mpmath.mpf(str(number)) for number in g[0]]
        inner = mpmath.fsum(a * b for a, b in zip(g_mp, p, strict=True))
        for got, want in zip(words.softmax(x)[0], p, strict=True):
            assert close(got, want)
        for got, one, share in zip(back(words.softmax, x, g)[0], g_mp, p, strict=True):
            assert close(got, share * (one - inner), scale=share * 4)


def test_acos_is_nan_outside_its_domain_and_log1p_below_minus_one():
    with np.errstate(all="ignore"):
        assert np.isnan(words.acos(row(1.5, -1.001))).all()
        assert np.isnan(words.log1p(row(-1.5))).all()


# === sums and products =====================================================================


@pytest.mark.parametrize(
    ("word", "reference"),
    [(maths.total, np.sum), (maths.mean, np.mean), (maths.product, np.prod)],
)
@pytest.mark.parametrize("axis", [-1, -2, (-1,), (-1, -2), (-3, -1), [-3, -2, -1]])
def test_a_reduction_reduces_the_given_axes(word, reference, axis):
    x = np.random.default_rng(1).normal(size=(1, 2, 3, 4, 5)).astype(Extended)
    axes = axis if isinstance(axis, int) else tuple(axis)
    got = word(Number(x), axis)
    assert got.shape == reference(x, axis=axes).shape
    np.testing.assert_allclose(got.raw, reference(x, axis=axes), rtol=1e-17)
    if axis == -1:
        assert np.array_equal(word(Number(x)).raw, got.raw)
    slope = back(lambda t: array_of(word(Number(t), axis)), x)
    step = Extended(2.0**-20)
    moved = np.zeros_like(x)
    moved[0, 1, 2, 3, 4] = step
    difference = reference(x + moved, axis=axes) - reference(x - moved, axis=axes)
    np.testing.assert_allclose(slope[0, 1, 2, 3, 4], difference.sum() / (2 * step), rtol=1e-8)


@pytest.mark.parametrize("word", [maths.total, maths.mean, maths.product])
@pytest.mark.parametrize("axis", [0, 1, -3, (-1, -1), (), (-1, 2)])
def test_an_axis_that_a_definition_does_not_own_is_refused(word, axis):
    with pytest.raises(ValueError, match=r"give negative axes, from -2 to -1, each once"):
        word(Number(np.ones((1, 2, 3))), axis)
    with pytest.raises(ValueError, match="this array has none"):
        word(Number(np.ones(4)))


def test_reductions_of_no_elements():
    empty = np.zeros((2, 3, 0), Extended)
    assert maths.total(empty).tolist() == [[0] * 3] * 2
    assert maths.product(empty).tolist() == [[1] * 3] * 2
    with np.errstate(all="ignore"):
        assert np.isnan(maths.mean(empty)).all()


@pytest.mark.parametrize(
    "numbers", [(2.0,), (0.0, 3.0, 5.0), (0.0, 0.0, 5.0), (-2.0, 3.0, 0.5, 4.0)]
)
def test_the_derivative_of_a_product_is_the_product_of_the_others(numbers):
    x = members(*numbers)
    want = [math.prod(numbers[:i] + numbers[i + 1 :]) for i in range(len(numbers))]
    assert back(words.product, x[:1])[0].tolist() == want
    with ensemble(MEMBERS.fresh()):
        assert back(words.product, x)[0].tolist() == want


def test_a_product_overflows_in_a_dtype_if_some_order_of_its_factors_does():
    x = np.array([[1e30, 1e-30, 1e30, 1e-30]], np.float32)
    with np.errstate(all="ignore"):
        assert not np.isfinite(words.product(x)).any()
    assert np.isclose(float(words.product(x.astype(Extended))[0]), 1)


def test_a_cumulative_sum_passes_each_cotangent_to_the_terms_of_its_sum():
    x, g = row(1.5, -2.0, 4.0), row(1.0, 10.0, 100.0)
    assert words.cumulative_sum(x)[0].tolist() == [1.5, -0.5, 3.5]
    assert back(words.cumulative_sum, x, g)[0].tolist() == [111, 110, 100]


def test_a_cumulative_sum_shows_the_error_of_large_partial_sums():
    small = rounding(words.cumulative_sum, members(1.0, 1.0, 1.0, 1.0))
    large = rounding(words.cumulative_sum, members(1.0, 1e6, -1e6, 1.0))
    assert small[0] == 0  # the first partial sum is exact
    assert large[-1] > 1e5 * small[-1]


def test_a_matrix_product_is_that_of_numpy_with_its_derivatives():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(1, 3, 2, 4)).astype(Extended), rng.normal(size=(1, 1, 4, 5))
    b = b.astype(Extended)
    want = a @ b
    for got in (maths.matmul(Number(a), Number(b)), Number(a) @ Number(b), Number(a) @ b):
        assert np.array_equal(got.raw, want)
    assert np.array_equal((a @ Number(b)).raw, want)
    g = rng.normal(size=want.shape)
    by_a = back(lambda t: words.matmul(t, b), a, g)
    by_b = back(lambda t: words.matmul(a, t), b, g)
    np.testing.assert_allclose(by_a, g @ b.swapaxes(-1, -2), rtol=1e-15)
    np.testing.assert_allclose(
        by_b, (a.swapaxes(-1, -2) @ g).sum(axis=1, keepdims=True), rtol=1e-15
    )


def test_a_matrix_product_that_cancels_shows_the_error_of_its_terms():
    y = members(1.0, 1.0)[..., None]
    plain = rounding(lambda x: words.matmul(x[..., None, :], y), members(1.0, 2.0))
    cancelling = rounding(lambda x: words.matmul(x[..., None, :], y), members(1e6, 1 - 1e6))
    assert plain == pytest.approx(1)
    assert cancelling > 1e6


def test_transposed_swaps_the_last_two_axes():
    x = np.arange(6.0).reshape(1, 2, 3)
    assert np.array_equal(maths.transposed(Number(x)).raw, x.swapaxes(-1, -2))


@pytest.mark.parametrize("p", [1, 2.0, 3.0, INF])
def test_pairwise_distances_are_norms_of_differences(p):
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(1, 3, 2)).astype(Extended), rng.normal(size=(1, 4, 2)).astype(Extended)
    got = words.pairwise_distances(x, y, p)
    want = np.linalg.norm((x[:, :, None] - y[:, None]).astype(float), ord=p, axis=-1)
    np.testing.assert_allclose(got.astype(float), want, rtol=1e-14)
    own = words.pairwise_distances(x, p=p)
    np.testing.assert_allclose(own, words.pairwise_distances(x, x.copy(), p), rtol=1e-17)
    g = rng.normal(size=own.shape)
    both = back(lambda t: words.pairwise_distances(t, x.copy(), p), x, g)
    both = both + back(lambda t: words.pairwise_distances(x.copy(), t, p), x, g)
    np.testing.assert_allclose(
        back(lambda t: words.pairwise_distances(t, p=p), x, g), both, rtol=1e-12, atol=1e-15
    )


def test_a_row_has_no_kink_against_itself_and_one_against_an_equal_row():
    x = members([1.0, 2.0], [4.0, 6.0])
    with ensemble(here := MEMBERS.fresh()):
        apart = words.pairwise_distances(x)
    assert apart[0].tolist() == [[0, 5], [5, 0]]
    assert not any(mask.any() for mask in here.meetings)
    equal = members([1.0], [1.0])
    slopes = sided(lambda t: words.pairwise_distances(t)[..., 0, 1], equal)
    assert (slopes[:, 0].min(), slopes[:, 0].max()) == (-1, 1)


# === order =================================================================================


def test_sorting_and_ranks():
    x = row(3.0, -1.0, 2.0, 7.0)
    assert words.sort(x)[0].tolist() == [-1, 2, 3, 7]
    assert words.sort(x, descending=True)[0].tolist() == [7, 3, 2, -1]
    assert words.argsort(x)[0].tolist() == [1, 2, 0, 3]
    assert words.argsort(x, descending=True)[0].tolist() == [3, 0, 2, 1]
    assert words.rank(x)[0].tolist() == [2, 0, 1, 3]
    assert words.rank(x, descending=True)[0].tolist() == [1, 3, 2, 0]
    assert back(words.sort, x, row(1, 10, 100, 1000))[0].tolist() == [100, 1, 10, 1000]
    assert words.sort(row(1.0, NAN, -INF))[0].tolist()[:2] == [-INF, 1]


@pytest.mark.parametrize("word", [maths.argsort, maths.rank])
def test_orders_are_plain_integers(word):
    got = word(Number(row(3.0, 1.0)))
    assert isinstance(got, np.ndarray)
    assert got.dtype.kind == "i"


def test_order_of_no_elements_and_of_one():
    for size in (0, 1):
        x = np.zeros((MEMBERS.size, 2, size), Extended)
        with ensemble(MEMBERS.fresh()):
            assert words.sort(x).shape == x.shape
            assert words.argsort(x).shape == x.shape
            assert back(words.sort, x).shape == x.shape


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("tied", [2, 3, 4])
def test_equal_elements_may_have_the_derivative_of_any_of_their_places(tied, descending):
    x = members(*[1.0] * tied, 5.0)
    g = np.array([3.0, -2.0, 7.0, 0.5][:tied])
    cotangent = np.array([100.0, *g] if descending else [*g, 100.0])
    slopes = sided(lambda t: words.sort(t, descending), x, cotangent)
    for element in range(tied):
        assert (slopes[:, element].min(), slopes[:, element].max()) == (g.min(), g.max())
    assert (slopes[:, tied] == 100).all()


def test_elements_that_rounding_may_swap_are_tied_and_others_are_not():
    near, far = members(1.0, 1 + UNIT), members(1.0, 1 + 2.0**-10)
    for x in (near, far):
        x[-SIDES - 1, 0] *= 1 + MEMBERS.step  # the first element is the result of a word
    g = np.array([0.0, 1.0])
    assert np.ptp(sided(words.sort, near, g), axis=0).tolist() == [1, 1]
    assert np.ptp(sided(words.sort, far, g), axis=0).tolist() == [0, 0]


def test_the_orders_of_ties_are_permutations_and_include_both_directions():
    x = members(2.0, 1.0, 1.0, 1.0)
    with ensemble(MEMBERS.fresh()):
        orders = words.argsort(x)
    with ensemble(MEMBERS.fresh()):
        ranks = words.rank(x)
    assert orders[0].tolist() == [1, 2, 3, 0]
    assert {tuple(order) for order in orders[-SIDES:]} <= {(*p, 0) for p in permutations((1, 2, 3))}
    assert {(1, 2, 3, 0), (3, 2, 1, 0)} <= {tuple(order) for order in orders[-SIDES:]}
    assert (orders[2:-SIDES] == orders[-1]).all()
    assert (np.take_along_axis(ranks, orders, -1) == np.arange(4)).all()


def test_the_second_derivative_of_a_sum_of_sorted_squares():
    x, direction = row(3.0, -1.0, 2.0), row(1.0, 10.0, 100.0)

    def along(t):
        gradient = make_vjp(lambda s: anp.sum(words.sort(s) ** 3 * np.array([1, 2, 3])))(t)[0](1.0)
        return anp.sum(gradient * direction)

    want = 6 * x * np.array([3, 1, 2]) * direction
    assert np.allclose(make_vjp(along)(x)[0](Extended(1)), want)


# === masks =================================================================================


def test_masks_combine_count_and_choose():
    x, y = Number(row(-1.0, 2.0, 3.0)), Number(row(0.0, 5.0, 1.0))
    mask = (x > 0) & ~(y < 2) | (x == -1.0)
    assert mask.tolist() == [[True, True, False]]
    assert maths.total(mask).tolist() == [2]
    assert (mask * x).raw.tolist() == [[-1, 2, 0]]
    assert (x * mask).raw.tolist() == [[-1, 2, 0]]
    assert (maths.total(x * mask) / maths.total(mask)).raw.tolist() == [0.5]
    assert maths.where(mask, x, 0.0).raw.tolist() == [[-1, 2, 0]]
    assert (x * maths.where(mask, 0.25, 0.75)).raw.tolist() == [[-0.25, 0.5, 2.25]]
    assert maths.mean(mask).raw.tolist() == [pytest.approx(2 / 3)]


def test_a_mask_keeps_its_branch_in_the_perturbed_members():
    x = members(1.0)
    x[3] += MEMBERS.step
    with ensemble(MEMBERS.fresh()):
        assert not (Number(x) > 1.0).any()
        assert (Number(x) >= 1.0).all()


@pytest.mark.parametrize("dtype", REAL_DTYPES)
def test_masks_and_labels_take_the_dtype_of_the_number(dtype):
    x = Number(np.array([[1.5, -2.0]], precision(dtype).numpy))
    for plain in (x > 0, np.array([[1, -1]]), np.array([[0.5, 1.0]])):
        assert (x * plain).raw.dtype == x.raw.dtype
        assert (plain / x).raw.dtype == x.raw.dtype


# === powers ================================================================================


@pytest.mark.parametrize(
    ("x", "y", "value", "by_x", "by_y"),
    [
        (2.0, 3.0, 8, 12, 8 * math.log(2)),
        (0.0, 0.0, 1, 0, 0),
        (0.0, 2.0, 0, 0, 0),
        (0.0, 0.5, 0, INF, 0),
        (-2.0, 3.0, -8, 12, NAN),
        (INF, 0.0, 1, 0, INF),
        (INF, 2.0, INF, INF, INF),
        (0.0, -1.0, INF, -INF, -INF),
    ],
)
def test_a_power_of_two_numbers_is_right_at_its_edges(x, y, value, by_x, by_y):
    x, y = row(x), row(y)
    with np.errstate(all="ignore"):
        assert (Number(x) ** Number(y)).raw[0, 0] == value
        got_x = back(lambda t: array_of(Number(t) ** Number(y)), x)
        got_y = back(lambda t: array_of(Number(x) ** Number(t)), y)
    np.testing.assert_allclose(got_x[0, 0], by_x, rtol=1e-15)
    np.testing.assert_allclose(got_y[0, 0], by_y, rtol=1e-15)


@pytest.mark.parametrize("base", [2, 0.3, np.float64(0.7)])
def test_a_constant_to_the_power_of_a_number(base):
    x = row(1.5, -2.0)
    np.testing.assert_allclose((base ** Number(x)).raw, Extended(base) ** x, rtol=1e-18)
    slope = back(lambda t: array_of(base ** Number(t)), x)
    np.testing.assert_allclose(slope, np.log(Extended(base)) * Extended(base) ** x, rtol=1e-18)
    np.testing.assert_allclose((Number(x + 3) ** base).raw, (x + 3) ** Extended(base), rtol=1e-18)


# === every word ============================================================================

#: A call of each word that computes new numbers, at ordinary ones of shape (..., 4).
ROUNDS = {
    **{name: getattr(words, name) for name in ("acos", "cumulative_sum", "erf", "exp", "expm1")},
    **{name: getattr(words, name) for name in ("log", "log1p", "log_softmax", "log_sum_exp")},
    **{name: getattr(words, name) for name in ("mean", "product", "sigmoid", "softmax")},
    **{name: getattr(words, name) for name in ("softplus", "sqrt", "tanh", "total", "x_log_x")},
    "constant": lambda x: x * 0 + words.constant(0.3, x),
    "clamped_log": lambda x: words.clamped_log(x, -100.0, np.zeros(x.shape, bool)),
    "logaddexp": lambda x: words.logaddexp(x, x[..., ::-1]),
    "matmul": lambda x: words.matmul(x[..., None, :], x[..., None]),
    "matvec": lambda x: words.matvec(x[..., None, :], x),
    "minus_log_sigmoid": lambda x: words.joined(*words.minus_log_sigmoid(x)),
    "norm": lambda x: words.norm(x, 2),
    "pairwise_distances": lambda x: words.pairwise_distances(x[..., None], x[..., None] + 4),
}
EXACT = {
    **{name: getattr(words, name) for name in ("absolute", "accumulated", "largest")},
    **{name: getattr(words, name) for name in ("positive_part", "sort")},
    "argsort": lambda x: words.pick(x[..., None, :], words.argsort(x)),
    "by_convention": lambda x: words.by_convention(x, 0.0, np.zeros(x.shape, bool)),
    "clamped": lambda x: words.clamped(x, 0.25),
    "joined": lambda x: words.joined(x, x),
    "maximum": lambda x: words.maximum(x, 0.125),
    "minimum": lambda x: words.minimum(x, 0.125),
    "one_hot": lambda x: words.one_hot(np.zeros(len(x), int), 3, x) + 1,
    "pick": lambda x: words.pick(x, np.array([1])),
    "rank": lambda x: words.where(words.rank(x) < 2, x, 1.0),
    "repeated": lambda x: words.repeated(x, 2),
    "times": lambda x: words.times(x, x),
    "transposed": lambda x: words.transposed(x[..., None]),
    "where": lambda x: words.where(x > 0.3, x, 1.0),
}
NUMBERS = (0.1, 0.45, 0.7, 0.9)


@pytest.mark.parametrize("name", ROUNDS)
def test_a_word_that_computes_rounds_its_result(name):
    assert (rounding(ROUNDS[name], members(*NUMBERS)).max(initial=0)) > 0.3


@pytest.mark.parametrize("name", EXACT)
def test_a_word_that_chooses_rounds_nothing(name):
    assert not rounding(EXACT[name], members(*NUMBERS)).any()


def test_every_word_is_known_to_round_or_to_choose():
    assert sorted([*ROUNDS, *EXACT, "PI"]) == maths.__all__


@pytest.mark.parametrize("dtype", REAL_DTYPES)
@pytest.mark.parametrize("name", [*ROUNDS, *EXACT])
def test_a_word_keeps_the_dtype_and_is_near_its_exact_value(name, dtype):
    word, info = {**ROUNDS, **EXACT}[name], precision(dtype)
    x = np.array([NUMBERS], info.numpy)
    got, want = word(x), word(as_extended(x))
    assert got.dtype == x.dtype
    np.testing.assert_allclose(
        as_extended(got).astype(float), want.astype(float), rtol=16 * info.unit, atol=info.unit
    )
    if name == "one_hot":  # the only word whose result does not depend on its numbers
        return
    slope, exact = back_in(word, x), back(word, as_extended(x))
    np.testing.assert_allclose(
        as_extended(slope).astype(float),
        exact.astype(float),
        rtol=32 * info.unit,
        atol=16 * info.unit,
    )


def back_in(word, x):
    vjp, value = make_vjp(word)(x)
    return np.asarray(vjp(np.ones(np.shape(value), x.dtype)))


# === foreign functions =====================================================================


FOREIGN = {
    "np.exp(x)": (lambda x: np.exp(x), "numpy.exp does not take .*; use lossspec.maths.exp$"),
    "np.sum(x, axis=-1)": (lambda x: np.sum(x, axis=-1), "numpy.sum does not take .*; use total"),
    "np.where(x > 0, x, 0.0)": (
        lambda x: np.where(x > 0, x, 0.0),
        "numpy.where does not take .*; use lossspec.maths.where",
    ),
    "np.maximum(x, 0)": (
        lambda x: np.maximum(x, 0),
        "numpy.maximum .*; use lossspec.maths.maximum$",
    ),
    "np.square(x)": (lambda x: np.square(x), r"numpy.square .*; use x \*\* 2"),
    "np.concatenate([x, x])": (
        lambda x: np.concatenate([x, x]),
        "numpy.concatenate .*; use joined",
    ),
    "np.linalg.norm(x)": (lambda x: np.linalg.norm(x), "numpy.norm .*; use lossspec.maths.norm"),
    "np.sin(x)": (
        lambda x: np.sin(x),
        "numpy.sin .*; the words of lossspec.maths are PI, absolute,",
    ),
    "np.add.reduce(x)": (lambda x: np.add.reduce(x), "numpy.add does not take"),
    "(x > 0) & x": (lambda x: (x > 0) & x, "numpy.bitwise_and .* on masks"),
    "np.asarray(x)": (
        lambda x: np.asarray(x),
        "numpy cannot convert the numbers of define to an array",
    ),
    "anp.exp(x)": (lambda x: anp.exp(x), "numpy.exp does not take .*; use lossspec.maths.exp$"),
    "torch.exp(x)": (
        lambda x: torch.exp(x),
        "torch's exp does not take .*; use lossspec.maths.exp$",
    ),
    "torch.sum(x)": (lambda x: torch.sum(x), "torch's sum .*; use total"),
    "F.relu(x)": (lambda x: F.relu(x), "torch's relu .*; use positive_part"),
    "torch.clamp(x, min=0)": (
        lambda x: torch.clamp(x, min=0),
        "torch's clamp .*; use minimum and maximum",
    ),
    "math.exp(x)": (lambda x: math.exp(x), "functions of math do not take"),
    "abs(x)": (lambda x: abs(x), r"abs\(\) does not take .*; use absolute"),
    "sum(x)": (lambda x: sum(x), "the words total and largest"),
    "x or 0": (lambda x: x or 0, "choose with lossspec.maths.where"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_function_names_the_word_to_use(name):
    call, advice = FOREIGN[name]
    with pytest.raises(TypeError, match=advice):
        call(Number(row(1.0, 2.0)))


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("sum", "use total"),
        ("mean", "use lossspec.maths.mean"),
        ("T", "use transposed"),
        ("clamp", "use minimum and maximum"),
        ("item", "the words of lossspec.maths are"),
    ],
)
def test_an_unknown_attribute_names_the_word_to_use(name, advice):
    x = Number(row(1.0))
    assert not hasattr(x, name)
    with pytest.raises(AttributeError, match=f"have no attribute '{name}'; {advice}"):
        getattr(x, name)


def test_the_advice_names_words_that_exist():
    from lossspec.maths.foreign import INSTEAD

    for name, advice in INSTEAD.items():
        assert name not in words.__all__
        called = set(re.findall(r"[a-z_]+", advice)) & {*words.__all__}
        assert called or re.search(r"(-|\*\* |1 / |\*\* )[xy2]|x \*\*|[&|~]", advice), advice


def test_a_definition_that_calls_numpy_is_one_error_of_the_spec():
    spec = loss("numpy_loss", lambda input, target: np.abs(input - target), ELEMENTS)
    with pytest.raises(lossspec.SpecError, match=r"numpy_loss.*use lossspec.maths.absolute"):
        lossspec.check(spec, reduced(lambda x, t: (x - t).abs()), profile="quick")


# === losses ================================================================================

ELEMENTS, ROWS, MATRICES = (
    "(*), (*) -> (*)",
    "(N, D), (N, D) -> (N)",
    "(N, D, E), (N, D, E) -> (N)",
)


def loss(name, define, shapes):
    tensors = {"input": Real(), "target": Real()}
    return Loss(
        name=name,
        module=None,
        summary="A loss of a test.",
        formula=name,
        source="https://example.org",
        define=define,
        forms=(Form(shapes=(shapes,), tensors=tensors),),
    )


def reduced(function):
    """Return a loss with a reduction, from one without."""

    def call(input, target, reduction="mean"):
        value = function(input, target)
        return value if reduction == "none" else getattr(value, reduction)()

    return call


def in_order(x):
    return maths.pick(x[..., None, :], maths.argsort(x))


def counted(input, target):
    mask = (input > 0) & ~(target > 1)
    return maths.total(mask * (input - target) ** 2) / (1 + maths.total(mask))


def counted_in_torch(x, t, mask):
    return (mask * (x - t) ** 2).sum(-1) / (1 + mask.sum(-1))


def apart(x, y):
    return torch.linalg.vector_norm(x[..., :, None, :] - y[..., None, :, :], dim=-1)


#: A definition with its contract, a right implementation and a wrong one.
LOSSES = {
    "product": (
        lambda input, target: maths.product(input * target),
        ROWS,
        lambda x, t: (x * t).prod(-1),
        lambda x, t: 1.01 * (x * t).prod(-1),
    ),
    "mean": (
        lambda input, target: maths.mean((input - target) ** 2, (-1, -2)),
        MATRICES,
        lambda x, t: ((x - t) ** 2).mean((-1, -2)),
        lambda x, t: ((x - t) ** 2).mean(-1).sum(-1),
    ),
    "cumulative sum": (
        lambda input, target: maths.total(
            (maths.cumulative_sum(input) - maths.cumulative_sum(target)) ** 2
        ),
        ROWS,
        lambda x, t: ((x.cumsum(-1) - t.cumsum(-1)) ** 2).sum(-1),
        lambda x, t: ((x - t).cumsum(-1)[..., :-1] ** 2).sum(-1),
    ),
    "sort": (
        lambda input, target: maths.total(maths.absolute(maths.sort(input) - maths.sort(target))),
        ROWS,
        lambda x, t: (x.sort(-1, True).values - t.sort(-1, True).values).abs().sum(-1),
        lambda x, t: (x.sort(-1).values - t).abs().sum(-1),
    ),
    "argsort": (
        lambda input, target: maths.total(in_order(input) * maths.cumulative_sum(in_order(target))),
        ROWS,
        lambda x, t: (
            x.gather(-1, torch.argsort(x, dim=-1, stable=True))
            * t.gather(-1, torch.argsort(t, dim=-1, stable=True)).cumsum(-1)
        ).sum(-1),
        lambda x, t: (x.sort(-1).values * t.cumsum(-1)).sum(-1),
    ),
    "softmax": (
        lambda input, target: maths.total((maths.softmax(input) - maths.softmax(target)) ** 2),
        ROWS,
        lambda x, t: ((x.log_softmax(-1).exp() - t.log_softmax(-1).exp()) ** 2).sum(-1),
        lambda x, t: 1.01 * ((x.softmax(-1) - t.softmax(-1)) ** 2).sum(-1),
    ),
    "matmul": (
        lambda input, target: maths.total((input @ maths.transposed(target)) ** 2, (-1, -2)),
        MATRICES,
        lambda x, t: (torch.einsum("nik,njk->nij", x, t) ** 2).sum((-1, -2)),
        lambda x, t: 1.01 * ((x @ t.mT) ** 2).sum((-1, -2)),
    ),
    "pairwise distances": (
        lambda input, target: maths.total(
            maths.pairwise_distances(input, target) * maths.pairwise_distances(input), (-1, -2)
        ),
        MATRICES,
        lambda x, t: (apart(x, t) * apart(x, x)).sum((-1, -2)),
        lambda x, t: (apart(x, t) * apart(t, t)).sum((-1, -2)),
    ),
    "mask": (
        counted,
        ROWS,
        lambda x, t: counted_in_torch(x, t, (x > 0) & ~(t > 1)),
        lambda x, t: counted_in_torch(x, t, (x >= 0) | ~(t > 1)),
    ),
    "power": (
        lambda input, target: (1 + input**2) ** target - 0.3**target,
        ELEMENTS,
        lambda x, t: (1 + x**2) ** t - 0.3**t,
        lambda x, t: (1 + x**2) ** t - 0.301**t,
    ),
    "elementwise": (
        lambda input, target: (
            maths.erf(input) * maths.tanh(target) + maths.log1p(maths.expm1(input) ** 2)
        ),
        ELEMENTS,
        lambda x, t: torch.erf(x) * torch.tanh(t) + torch.log1p(torch.expm1(x) ** 2),
        lambda x, t: torch.erf(x) * torch.tanh(t) + torch.log(1 + torch.expm1(x) ** 2),
    ),
    "angle": (
        lambda input, target: maths.acos(maths.tanh(input)) * maths.logaddexp(input, target),
        ELEMENTS,
        lambda x, t: torch.acos(torch.tanh(x)) * torch.logaddexp(x, t),
        lambda x, t: torch.acos(torch.tanh(x)) * torch.logaddexp(x, 1.01 * t),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_in_these_words_finds_a_wrong_implementation_and_no_right_one(name):
    define, shapes, right, wrong = LOSSES[name]
    spec = loss(name.replace(" ", "_"), define, shapes)
    clauses = ["value", "gradient"]
    cells = lossspec.check(spec, reduced(right), profile="quick", clauses=clauses)
    assert {cell.clause: cell.verdict for cell in cells} == dict.fromkeys(clauses, "conforms")
    cells = lossspec.check(spec, reduced(wrong), profile="quick", clauses=clauses)
    assert "deviates" in {cell.verdict for cell in cells}
