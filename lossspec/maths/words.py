"""The words that a definition may use: functions that are correct at their edges.

A word gives the right value and derivative where a formula has an edge: a kink, an infinity, a
division by 0. Beyond its formula a word does three things, which have no effect outside an ensemble
(`lossspec.maths.ensemble`):

- it perturbs its result in the rounding members (`Ensemble.rounded`);
- it keeps the branch of member 0 in the members whose inputs are perturbed (`Ensemble.kept`);
- at a kink, where any subgradient is correct, it takes the lowest one in some members and the
  highest in others (`Ensemble.sided`).

Arrays are numpy arrays or autograd's boxes around them. Their leading axes are those that the
result of `define` has, the batch for example; `...` stands for them in the shapes below. Arguments
of one word broadcast with each other unless it says otherwise.
"""

from math import pi

from lossspec.maths.arrays import (
    joined,
    one_hot,
    pick,
    repeated,
    transposed,
)
from lossspec.maths.choices import (
    absolute,
    argsort,
    by_convention,
    clamped,
    clamped_log,
    largest,
    maximum,
    minimum,
    positive_part,
    rank,
    sort,
    where,
)
from lossspec.maths.elementwise import (
    accumulated,
    acos,
    constant,
    erf,
    exp,
    expm1,
    log,
    log1p,
    sqrt,
    tanh,
    times,
    x_log_x,
)
from lossspec.maths.probabilities import (
    log_softmax,
    log_sum_exp,
    logaddexp,
    minus_log_sigmoid,
    sigmoid,
    softmax,
    softplus,
)
from lossspec.maths.sums import (
    cumulative_sum,
    matmul,
    matvec,
    mean,
    norm,
    pairwise_distances,
    product,
    total,
)

PI = pi

__all__ = [
    "PI",
    "absolute",
    "accumulated",
    "acos",
    "argsort",
    "by_convention",
    "clamped",
    "clamped_log",
    "constant",
    "cumulative_sum",
    "erf",
    "exp",
    "expm1",
    "joined",
    "largest",
    "log",
    "log1p",
    "log_softmax",
    "log_sum_exp",
    "logaddexp",
    "matmul",
    "matvec",
    "maximum",
    "mean",
    "minimum",
    "minus_log_sigmoid",
    "norm",
    "one_hot",
    "pairwise_distances",
    "pick",
    "positive_part",
    "product",
    "rank",
    "repeated",
    "sigmoid",
    "softmax",
    "softplus",
    "sort",
    "sqrt",
    "tanh",
    "times",
    "total",
    "transposed",
    "where",
    "x_log_x",
]
