"""The functions of `lossspec.maths` at ±inf: value and derivative are the mathematical limits."""

import re

import numpy as np
import pytest
from autograd import make_vjp

from lossspec.dtypes import Extended, precision
from lossspec.maths import words as maths
from lossspec.maths.ensemble import ROUNDING_MEMBERS, SIDES, Ensemble, ensemble, step_of
from lossspec.thresholds import SLACK

INF = np.inf
NAN = np.nan

#: Function, numbers along the last axis, value, and its derivative by each number; NaN where the
#: limit depends on the direction. Several values have a row of derivatives each.
LIMITS = {
    "absolute(inf)": (maths.absolute, [INF], [INF], [[1]]),
    "absolute(-inf)": (maths.absolute, [-INF], [INF], [[-1]]),
    "accumulated(inf)": (maths.accumulated, [INF], [INF], [[1]]),
    "positive_part(inf)": (maths.positive_part, [INF], [INF], [[1]]),
    "positive_part(-inf)": (maths.positive_part, [-INF], [0], [[0]]),
    "where": (lambda x: maths.where(x > 0, x, 0 * np.ones(1)), [INF], [INF], [[1]]),
    "where, not taken": (lambda x: maths.where(x > 0, x, np.ones(1)), [-INF], [1], [[0]]),
    "minimum(inf, 1)": (lambda x: maths.minimum(x[..., :1], x[..., 1:]), [INF, 1], [1], [[0, 1]]),
    "minimum(-inf, 1)": (
        lambda x: maths.minimum(x[..., :1], x[..., 1:]),
        [-INF, 1],
        [-INF],
        [[1, 0]],
    ),
    "maximum(inf, 1)": (lambda x: maths.maximum(x[..., :1], x[..., 1:]), [INF, 1], [INF], [[1, 0]]),
    "maximum(-inf, 1)": (lambda x: maths.maximum(x[..., :1], x[..., 1:]), [-INF, 1], [1], [[0, 1]]),
    "maximum(inf, -inf)": (
        lambda x: maths.maximum(x[..., :1], x[..., 1:]),
        [INF, -INF],
        [INF],
        [[1, 0]],
    ),
    "largest, inf": (maths.largest, [1, INF, 2], INF, [0, 1, 0]),
    "largest, -inf": (maths.largest, [-INF, 1, 2], 2, [0, 0, 1]),
    "largest, both": (maths.largest, [-INF, INF], INF, [0, 1]),
    "largest of -inf": (maths.largest, [-INF], -INF, [1]),
    "clamped(inf)": (lambda x: maths.clamped(x, np.ones(1)), [INF], [INF], [[1]]),
    "clamped(-inf)": (lambda x: maths.clamped(x, np.ones(1)), [-INF], [1], [[1]]),
    "by_convention(inf)": (
        lambda x: maths.by_convention(x, 0.0, np.zeros((1, 1), bool)),
        [-INF],
        [-INF],
        [[1]],
    ),
    "pick": (lambda x: maths.pick(x, np.array([1])), [INF, 3], 3, [0, 1]),
    "pick an infinity": (lambda x: maths.pick(x, np.array([0])), [-INF, 3], -INF, [1, 0]),
    "joined": (lambda x: maths.joined(x, x), [INF], [INF, INF], [[1], [1]]),
    "total": (maths.total, [INF, 1], INF, [1, 1]),
    "total, -inf": (maths.total, [-INF, 1], -INF, [1, 1]),
    "matvec": (lambda x: maths.matvec(2 * np.ones((1, 1)), x), [INF], [INF], [[2]]),
    "repeated": (lambda x: maths.repeated(x, 2)[..., 0, :], [INF], [INF, INF], [[1], [1]]),
    "log_softmax, inf": (maths.log_softmax, [0, INF], [-INF, 0], [[1, -1], [0, 0]]),
    "log_softmax, -inf": (
        maths.log_softmax,
        [0, 0, -INF],
        [-np.log(2), -np.log(2), -INF],
        [[0.5, -0.5, 0], [-0.5, 0.5, 0], [-0.5, -0.5, 1]],
    ),
    "log_softmax, -inf and inf": (maths.log_softmax, [-INF, INF], [-INF, 0], [[1, -1], [0, 0]]),
    "log_sum_exp, inf": (maths.log_sum_exp, [0, INF], INF, [0, 1]),
    "log_sum_exp, -inf": (maths.log_sum_exp, [0, -INF], 0, [1, 0]),
    "log_sum_exp, -inf and inf": (maths.log_sum_exp, [-INF, INF], INF, [0, 1]),
    "log_sum_exp of -inf": (maths.log_sum_exp, [-INF, -INF], -INF, [0, 0]),
    "norm 1": (lambda x: maths.norm(x, 1), [INF, 1], INF, [1, 1]),
    "norm 2": (lambda x: maths.norm(x, 2), [INF, 1], INF, [1, 0]),
    "norm 2, -inf": (lambda x: maths.norm(x, 2), [1, -INF], INF, [0, -1]),
    "norm 3": (lambda x: maths.norm(x, 3.0), [2, -INF], INF, [0, -1]),
    "norm inf": (lambda x: maths.norm(x, INF), [2, -INF], INF, [0, -1]),
    "times(inf, 2)": (lambda x: maths.times(x, 2 * np.ones(1)), [INF], [INF], [[2]]),
    "times(inf, 0)": (lambda x: maths.times(x, np.zeros(1)), [INF], [0], [[0]]),
    "x_log_x(inf)": (maths.x_log_x, [INF], [INF], [[INF]]),
    "exp(inf)": (maths.exp, [INF], [INF], [[INF]]),
    "exp(-inf)": (maths.exp, [-INF], [0], [[0]]),
    "log(inf)": (maths.log, [INF], [INF], [[0]]),
    "clamped_log(inf)": (
        lambda x: maths.clamped_log(x, -100.0, np.zeros(1, bool)),
        [INF],
        [INF],
        [[0]],
    ),
    "sqrt(inf)": (maths.sqrt, [INF], [INF], [[0]]),
    "softplus(inf)": (maths.softplus, [INF], [INF], [[1]]),
    "softplus(-inf)": (maths.softplus, [-INF], [0], [[0]]),
    "minus_log_sigmoid(inf)": (
        lambda x: maths.joined(*maths.minus_log_sigmoid(x)),
        [INF],
        [0, INF],
        [[0], [1]],
    ),
    "minus_log_sigmoid(-inf)": (
        lambda x: maths.joined(*maths.minus_log_sigmoid(x)),
        [-INF],
        [INF, 0],
        [[-1], [0]],
    ),
    "sigmoid(inf)": (maths.sigmoid, [INF], [1], [[0]]),
    "sigmoid(-inf)": (maths.sigmoid, [-INF], [0], [[0]]),
    "mean": (maths.mean, [INF, 1], INF, [0.5, 0.5]),
    "product": (maths.product, [INF, 2], INF, [2, INF]),
    "product, -inf": (maths.product, [-INF, 2, -1], INF, [-2, INF, -INF]),
    "cumulative_sum": (
        maths.cumulative_sum,
        [1, -INF, 2],
        [1, -INF, -INF],
        [[1, 0, 0], [1, 1, 0], [1, 1, 1]],
    ),
    "matmul": (
        lambda x: maths.matmul(x[..., None, :], 2 * np.ones((1, 2, 1)))[..., 0, 0],
        [INF, 1],
        INF,
        [2, 2],
    ),
    "transposed": (
        lambda x: maths.transposed(x[..., None])[..., 0, :],
        [INF, 1],
        [INF, 1],
        [[1, 0], [0, 1]],
    ),
    "pairwise_distances": (
        lambda x: maths.pairwise_distances(x[..., :1, None], x[..., 1:, None])[..., 0, 0],
        [INF, 1],
        INF,
        [1, -1],
    ),
    "sort": (
        maths.sort,
        [INF, 1, -INF],
        [-INF, 1, INF],
        [[0, 0, 1], [0, 1, 0], [1, 0, 0]],
    ),
    "argsort": (lambda x: maths.pick(x, maths.argsort(x)[..., -1]), [INF, 1], INF, [1, 0]),
    "rank": (
        lambda x: maths.where(maths.rank(x) == 0, x, np.zeros(2)),
        [-INF, 1],
        [-INF, 0],
        [[1, 0], [0, 0]],
    ),
    "log1p(inf)": (maths.log1p, [INF], [INF], [[0]]),
    "log1p(-1)": (maths.log1p, [-1], [-INF], [[INF]]),
    "expm1(inf)": (maths.expm1, [INF], [INF], [[INF]]),
    "expm1(-inf)": (maths.expm1, [-INF], [-1], [[0]]),
    "tanh(inf)": (maths.tanh, [INF], [1], [[0]]),
    "tanh(-inf)": (maths.tanh, [-INF], [-1], [[0]]),
    "erf(inf)": (maths.erf, [INF], [1], [[0]]),
    "erf(-inf)": (maths.erf, [-INF], [-1], [[0]]),
    "acos(1)": (maths.acos, [1], [0], [[-INF]]),
    "acos(-1)": (maths.acos, [-1], [np.pi], [[-INF]]),
    "softmax, inf": (maths.softmax, [0, INF], [0, 1], [[0, 0], [0, 0]]),
    "softmax, -inf": (maths.softmax, [0, -INF], [1, 0], [[0, 0], [0, 0]]),
    "logaddexp, inf": (
        lambda x: maths.logaddexp(x[..., :1], x[..., 1:]),
        [INF, 0],
        [INF],
        [[1, 0]],
    ),
    "logaddexp, -inf": (
        lambda x: maths.logaddexp(x[..., :1], x[..., 1:]),
        [-INF, 2],
        [2],
        [[0, 1]],
    ),
    "logaddexp of -inf": (
        lambda x: maths.logaddexp(x[..., :1], x[..., 1:]),
        [-INF, -INF],
        [-INF],
        [[0, 0]],
    ),
    "constant(-inf)": (lambda x: 0 * x + maths.constant(-INF, like=x), [1], [-INF], [[0]]),
    "one_hot": (lambda x: x * maths.one_hot(np.array(0), 1, like=x), [INF], [INF], [[1]]),
}
#: Functions that accept no infinity, or only pass it on.
WITHOUT = {"PI"}


def derivatives(word, x, value):
    """Return the derivative of each value by each number, one cotangent at a time."""
    found = []
    for place in np.ndindex(np.shape(value)):
        back, got = make_vjp(word)(x)
        cotangent = np.zeros_like(got)
        cotangent[(0, *place)] = 1
        found.append(np.asarray(back(cotangent))[0])
    return np.array(found).reshape(*np.shape(value), x.shape[-1])


#: Arithmetic in a dtype has no limit here, as for inf - inf.
LOST = {
    *("log_softmax, inf", "log_softmax, -inf and inf", "log_sum_exp, inf"),
    *("log_sum_exp, -inf and inf", "norm 2", "norm 2, -inf", "norm 3", "minus_log_sigmoid(-inf)"),
    *("softmax, inf", "logaddexp, inf", "logaddexp of -inf", "pairwise_distances"),
    *("product", "product, -inf"),
}


@pytest.mark.parametrize(
    ("name", "members"),
    [
        pytest.param(name, members, id=f"{name}-{members or 'textbook'}")
        for name in LIMITS
        for members in (None, "float32", "float16")
        if members or name not in LOST
    ],
)
def test_a_maths_function_has_its_limit_at_infinity(name, members):
    word, numbers, value, slopes = LIMITS[name]
    x = np.array([numbers], Extended)
    with np.errstate(all="ignore"):
        if members is None:
            got, slope = np.asarray(word(x)), derivatives(word, x, value)
        else:
            info, size = precision(members), 4 + ROUNDING_MEMBERS + SIDES
            x = np.repeat(x, size, axis=0)
            step = step_of(info.unit)

            def made() -> Ensemble:
                return Ensemble(size, info.unit, info.smallest, SLACK, step=step)

            with ensemble(made()):
                got = np.asarray(word(x))
            with ensemble(made()):
                slope = derivatives(word, x, value)
    assert got.shape[1:] == np.shape(value)
    assert not np.isnan(got).any()
    np.testing.assert_allclose(got[0].astype(float), value, rtol=1e-15)
    np.testing.assert_allclose(slope.astype(float), slopes, rtol=1e-15, atol=1e-30)


def test_every_maths_function_is_tested_at_infinity():
    tried = set(re.findall(r"\w+", " ".join(LIMITS)))
    assert set(maths.__all__) - tried == WITHOUT


@pytest.mark.parametrize("word", [maths.largest, maths.log_sum_exp])
def test_maximum_and_log_sum_exp_of_no_numbers_are_minus_infinity(word):
    assert word(np.zeros((2, 0))).tolist() == [-INF, -INF]


def test_the_softmax_of_several_infinities_has_no_checked_derivative():
    for word in (maths.log_softmax, maths.log_sum_exp):
        with np.errstate(all="ignore"):
            slope = derivatives(word, np.array([[INF, INF]]), word(np.zeros(2)))
        assert np.isnan(slope).all()
