"""Results of a wrong shape with 10^12 elements, of which only the shape is compared."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import lossspec
from lossspec.clauses.trial import Deviation
from lossspec.execution.outcome import oversized
from lossspec.execution.tensors import first_numbers, to_extended
from lossspec.thresholds import RESULT_NUMBERS

SIDE = 10**6


def huge(input, target, weight=None, reduction="mean"):
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(reduction)
    return F.mse_loss(input, target, weight=weight).reshape(()).expand(SIDE, SIDE)


class Huge(torch.nn.Module):
    def __init__(self, reduction="mean"):
        super().__init__()
        self.reduction = reduction

    def forward(self, input, target):
        return huge(input, target, reduction=self.reduction)


def huge_without_gradients(input, target, weight=None, reduction="mean"):
    if torch.is_grad_enabled():
        return F.mse_loss(input, target, weight=weight, reduction=reduction)
    return torch.zeros((), dtype=input.dtype).expand(SIDE, SIDE)


@pytest.mark.parametrize("target", [huge, Huge])
def test_an_oversized_result_deviates_only_in_result_shape(target):
    cells = lossspec.check("mse_loss", target, profile="quick")
    assert [c.clause for c in cells if c.verdict == "crash"] == []
    (cell,) = [c for c in cells if c.verdict == "deviates" and c.clause != "refuses-reductions"]
    assert (cell.clause, cell.got, cell.want) == ("result-shape", f"[{SIDE}, {SIDE}]", "[]")


def test_an_oversized_result_in_one_mode_deviates_only_there():
    wanted = ["grad-mode", "value", "inputs-untouched"]
    cells = lossspec.check("mse_loss", huge_without_gradients, profile="quick", clauses=wanted)
    got = {cell.clause: (str(cell.verdict), cell.got) for cell in cells}
    assert got["grad-mode"] == ("deviates", f"({SIDE}, {SIDE})")
    assert got["value"][0] == "conforms"


def test_a_large_result_of_the_right_shape_is_read():
    case = next(iter(_cases("mse_loss")))
    many = np.zeros(RESULT_NUMBERS + 1, np.float32)
    case = case.with_(cotangent=many)
    assert not oversized(torch.zeros(RESULT_NUMBERS + 1), case)
    assert oversized(torch.zeros(RESULT_NUMBERS + 2), case)
    assert not oversized(None, case)


def _cases(name):
    from lossspec.judging.profiles import PROFILES
    from lossspec.judging.stream import stream
    from lossspec.spec.catalogue import find

    return (solved.case for solved in stream(find(name), PROFILES["quick"], 0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    "made",
    [
        lambda x: x,
        lambda x: x[:, :1].expand(4, 3),
        lambda x: x[0, 0].expand(2, 3),
        lambda x: x[:1].expand(4, 3),
        lambda x: x[:0],
        lambda x: x[0, 0],
        lambda x: x.T,
    ],
    ids=["plain", "columns", "number", "rows", "empty", "scalar", "transposed"],
)
def test_expanded_tensors_are_read_correctly(made, dtype):
    x = made(torch.arange(12.0).reshape(4, 3).to(dtype))
    got = to_extended(x)
    assert (got.dtype, got.shape) == (np.longdouble, tuple(x.shape))
    assert got.tolist() == x.tolist()
    assert first_numbers(x, 5) == x.flatten()[:5].tolist()


def test_reading_an_expanded_tensor_does_not_allocate_its_full_size():
    x = torch.tensor([1.5]).expand(SIDE, SIDE)
    assert to_extended(x).shape == (SIDE, SIDE)
    assert to_extended(x)[-1, -1] == 1.5
    assert first_numbers(x, 3) == [1.5, 1.5, 1.5]
    assert (
        Deviation("it", x, x, check=None).got
        == f"[1.5, 1.5, 1.5, 1.5] ... of shape [{SIDE}, {SIDE}]"
    )
