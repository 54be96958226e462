"""`torch.vmap`: any axis, shared tensors, gradients."""

import pytest
import torch
from torch.nn import functional as F

import lossspec
from lossspec.report.verdict import Verdict


def judged(loss, target, **more):
    (cell,) = lossspec.check(loss, target, clauses=["vmap"], profile="quick", **more)
    return cell


class Squares(torch.autograd.Function):
    """The squares of residuals, with a rule for `torch.vmap` that a subclass writes."""

    @staticmethod
    def forward(x, y):
        return (x - y) ** 2

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, gradient):
        x, y = ctx.saved_tensors
        return 2 * gradient * (x - y), 2 * gradient * (y - x)


def in_front(axis, x, size):
    return x.expand(size, *x.shape) if axis is None else x.movedim(axis, 0)


class FirstAxisOnly(Squares):
    """The rule takes every batch for the first axis, and shared tensors for batched ones."""

    @staticmethod
    def vmap(info, in_dims, x, y):
        return FirstAxisOnly.apply(x, y), 0


class TargetDetached(Squares):
    """The rule has no gradient of the target."""

    @staticmethod
    def vmap(info, in_dims, x, y):
        x, y = (in_front(*each, info.batch_size) for each in zip(in_dims, (x, y), strict=True))
        return Squares.apply(x, y.detach()), 0


class FirstTarget(Squares):
    """The rule uses the target of the first call in every call."""

    @staticmethod
    def vmap(info, in_dims, x, y):
        x, y = (in_front(*each, info.batch_size) for each in zip(in_dims, (x, y), strict=True))
        return Squares.apply(x, y[:1].expand(y.shape)), 0


class Sound(Squares):
    """The rule is right."""

    @staticmethod
    def vmap(info, in_dims, x, y):
        x, y = (in_front(*each, info.batch_size) for each in zip(in_dims, (x, y), strict=True))
        return Squares.apply(x, y), 0


def with_rule(rule):
    def mse(input, target, reduction="mean"):
        losses = rule.apply(*torch.broadcast_tensors(input, target))
        return losses if reduction == "none" else getattr(losses, reduction)()

    return mse


@pytest.mark.parametrize(
    ("rule", "what"),
    [
        (FirstAxisOnly, "under torch.vmap along axes"),
        (TargetDetached, "gradient of target under torch.vmap"),
        (FirstTarget, "under torch.vmap"),
    ],
)
def test_a_wrong_rule_for_vmap_is_found(rule, what):
    cell = judged("mse_loss", with_rule(rule))
    assert cell.verdict is Verdict.DEVIATES
    assert what in cell.reason


def test_a_right_rule_for_vmap_conforms():
    assert judged("mse_loss", with_rule(Sound)).verdict is Verdict.CONFORMS


def test_a_batched_weight_belongs_to_its_own_call():
    def first_weight(input, target, weight=None, ignore_index=-100, reduction="mean"):
        if weight is not None and torch._C._functorch.is_batchedtensor(weight):
            weight = torch._C._functorch.get_unwrapped(weight)[0]
        return F.nll_loss(input, target, weight, ignore_index=ignore_index, reduction=reduction)

    cell = judged("nll_loss", first_weight)
    assert cell.verdict is Verdict.DEVIATES
    assert judged("nll_loss", F.nll_loss).verdict is Verdict.CONFORMS


def test_an_error_with_a_shared_tensor_is_no_deviation():
    # Smoothing is subtracted in place, which torch.vmap refuses for a shared input.
    cell = judged("cross_entropy", F.cross_entropy, supports={"vmap"})
    assert cell.verdict is Verdict.CONFORMS
