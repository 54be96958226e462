"""Other orders of axes in memory, under the options that choose another path."""

import pytest
import torch
from torch.nn import functional as F

import lossspec
from lossspec.execution.layouts import laid_out
from lossspec.report.verdict import Verdict


def judged(loss, target):
    (cell,) = lossspec.check(loss, target, clauses=["transposed"], profile="quick")
    return cell


def memory_order(x):
    """Return a transposed matrix as a kernel reads it that takes it for contiguous."""
    if x.ndim != 2 or x.is_contiguous() or not x.t().is_contiguous():
        return x
    return x.as_strided(x.shape, (x.shape[1], 1))


def smoothed(input, target, weight=None, label_smoothing=0.0, **options):
    if label_smoothing:
        input = memory_order(input)
    return F.cross_entropy(input, target, weight, label_smoothing=label_smoothing, **options)


def swapped(anchor, positive, negative, swap=False, **options):
    if swap:
        negative = memory_order(negative)
    return F.triplet_margin_loss(anchor, positive, negative, swap=swap, **options)


@pytest.mark.parametrize(
    ("loss", "target"),
    [
        ("cross_entropy", smoothed),
        ("triplet_margin_loss", swapped),
    ],
)
def test_a_path_that_takes_a_matrix_for_contiguous_is_found(loss, target):
    cell = judged(loss, target)
    assert cell.verdict is Verdict.DEVIATES
    assert "with another order of axes in memory" in cell.reason
    assert judged(loss, getattr(F, loss)).verdict is Verdict.CONFORMS


def test_an_error_of_another_order_is_found():
    def views(input, target, reduction="mean"):
        return F.mse_loss(input.view(-1), target.reshape(-1), reduction=reduction).view(
            input.shape if reduction == "none" else ()
        )

    cell = judged("mse_loss", views)
    assert cell.verdict is Verdict.DEVIATES
    assert cell.reason == "call with another order of axes in memory raised"


def test_a_swapped_tensor_keeps_its_numbers():
    plain = torch.arange(24.0).view(2, 3, 4)
    moved = laid_out(plain, "swapped")
    assert torch.equal(moved, plain)
    assert moved.stride() == (4, 8, 1)
    assert laid_out(plain[0, 0], "swapped").is_contiguous()


def test_a_gapped_tensor_is_a_slice_of_the_channels():
    plain = torch.arange(24.0).view(2, 3, 4)
    moved = laid_out(plain, "gapped")
    assert torch.equal(moved, plain)
    assert moved.stride() == (20, 1, 5)
    assert laid_out(plain[0], "gapped").is_contiguous()


def slices_of_channels(input, target, weight=None, reduction="mean", **options):
    if input.ndim == 4 and input.stride(1) == 1 < input.shape[1]:
        n, c, h, w = input.shape
        input = input.as_strided((n, h, w, c), (h * w * c, w * c, c, 1)).movedim(-1, 1)
    return F.nll_loss(input, target, weight, reduction=reduction, **options)


def test_a_path_that_takes_a_slice_of_channels_for_dense_is_found():
    cell = judged("nll_loss", slices_of_channels)
    assert cell.verdict is Verdict.DEVIATES
    assert "with another order of axes in memory" in cell.reason


class OneNumberForEven(torch.autograd.Function):
    """Pass a gradient on; one whose stride along an axis is 0 is taken for one number."""

    @staticmethod
    def forward(ctx, value, axis):
        ctx.axis = axis
        return value.clone()

    @staticmethod
    def backward(ctx, grad):
        if grad.ndim and grad.numel() and grad.stride(ctx.axis) == 0:
            grad = grad.flatten()[0].expand(grad.shape)
        return grad, None


@pytest.mark.parametrize(("axis", "where"), [(-1, "last"), (0, "first")])
def test_a_cotangent_taken_for_one_number_is_found(axis, where):
    def loss(input, target, weight=None, label_smoothing=0.0, **options):
        value = F.cross_entropy(input, target, weight, label_smoothing=label_smoothing, **options)
        plain = weight is None and not label_smoothing
        return OneNumberForEven.apply(value, axis) if plain else value

    names = ["gradient", "expanded-cotangent"]
    cells = lossspec.check("cross_entropy", loss, clauses=names, profile="quick")
    found = {cell.clause: cell.reason for cell in cells if cell.verdict.fails}
    assert [*found] == ["expanded-cotangent"]
    assert f"for a cotangent expanded along the {where} axis" in found["expanded-cotangent"]


@pytest.mark.parametrize("loss", ["cross_entropy", "kl_div", "gaussian_nll_loss"])
def test_torch_conforms_for_an_expanded_cotangent(loss):
    cells = lossspec.check(loss, getattr(F, loss), clauses=["expanded-cotangent"], profile="quick")
    assert [cell.verdict for cell in cells] == [Verdict.CONFORMS]


def test_even_numbers_are_expanded_along_their_axis():
    numbers = torch.tensor([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]])
    assert laid_out(numbers, "even").stride() == (3, 0)
    assert laid_out(numbers.t().contiguous(), "even").stride() == (0, 1)
    assert torch.equal(laid_out(numbers, "even"), numbers)
