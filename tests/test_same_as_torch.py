"""The excuse `same-as-torch`, which covers only deviations that torch has in the same case."""

import numpy as np
import pytest
import torch

import lossspec
from lossspec.clauses.trial import Deviation
from lossspec.judging.excuses import _off_by_the_same
from lossspec.oracle.bounds import Bounded

F = torch.nn.functional


def deviation(got, want=(1.0, 1.0, 1.0)):
    numbers = np.array(got, np.longdouble)
    right = Bounded.around(np.array(want, np.longdouble), np.full(3, 1e-6), "float32")
    return Deviation("the value", numbers[0], right.exact[0], check=None, compared=(numbers, right))


@pytest.mark.parametrize(
    ("mine", "torchs", "same"),
    [
        ((1.5, 1, 1), (1.5, 1, 1), True),
        ((1.52, 1, 1), (1.5, 1, 1), True),
        ((1.6, 1, 1), (1.5, 1, 1), False),
        ((1, 1.5, 1), (1.5, 1, 1), False),  # off by as much, in another element
        ((1.5, 7, 1), (1.5, 1, 1), False),  # a separate error beside the shared one
        ((1.5, 1, 1), (1.5, 9, 1), True),  # correct where torch is wrong
        ((np.nan, 1, 1), (np.nan, 1, 1), True),
        ((np.inf, 1, 1), (np.inf, 1, 1), True),
        ((5, 1, 1), (np.inf, 1, 1), False),  # a number where torch has infinity
        ((-np.inf, 1, 1), (np.inf, 1, 1), False),
        ((np.nan, 1, 1), (np.inf, 1, 1), False),
        ((0.5, 1, 1), (1.5, 1, 1), False),
    ],
)
def test_only_elements_with_the_same_error_as_torch_are_excused(mine, torchs, same):
    assert _off_by_the_same(deviation(torchs), deviation(mine)) is same


def test_the_same_error_in_a_different_number_is_excused():
    mine, torchs = deviation((3.5, 1, 1), (3, 1, 1)), deviation((1.5, 1, 1))
    assert _off_by_the_same(torchs, mine)


def shared_and_own(input, target, **options):
    """Return torch's mean, which overflows in float16 for many elements, or a wrong value."""
    value = F.mse_loss(input, target, **options)
    return value * 1.5 if input.dtype == torch.float16 and value.isfinite().all() else value


def test_a_deviation_that_torch_shares_excuses_no_other_case():
    cells = lossspec.check(
        "mse_loss", shared_and_own, clauses=["mean-of-many", "value"], profile="quick"
    )
    verdicts = {cell.clause: cell for cell in cells}
    assert verdicts["value"].verdict == "deviates"
    assert verdicts["mean-of-many"].verdict == "known"
    assert verdicts["mean-of-many"].excused["same-as-torch"] >= 1
