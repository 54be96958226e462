"""`torch.jit.script`: values and gradients of the first and of later calls."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lossspec
from lossspec.errors import EmptyPlan
from lossspec.report.verdict import Verdict
from lossspec.spec.catalogue import find


def judged(loss, target, **more):
    (cell,) = lossspec.check(loss, target, clauses=["scripted"], profile="quick", **more)
    return cell


class Scripted(nn.MSELoss):
    """A base whose subclasses differ where they are scripted."""

    def __init__(self, reduction: str = "mean"):
        super().__init__(reduction=reduction)
        self.calls = 0


class Right(Scripted):
    """Counts its calls and is right in all of them."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        self.calls += 1
        return F.mse_loss(input, target, reduction=self.reduction)


class WrongValue(Scripted):
    """Scripted, the loss is doubled."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        loss = F.mse_loss(input, target, reduction=self.reduction)
        return 2 * loss if torch.jit.is_scripting() else loss


class WrongThirdCall(Scripted):
    """Scripted, the third loss is doubled."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        self.calls += 1
        loss = F.mse_loss(input, target, reduction=self.reduction)
        return 2 * loss if torch.jit.is_scripting() and self.calls == 3 else loss


class WrongGradient(Scripted):
    """Scripted, half of the gradient is lost."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        part = 0.5 * input
        input = part + part.detach() if torch.jit.is_scripting() else input
        return F.mse_loss(input, target, reduction=self.reduction)


class NoGradient(Scripted):
    """Scripted, the target gets no gradient."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        target = target.detach() if torch.jit.is_scripting() else target
        return F.mse_loss(input, target, reduction=self.reduction)


class NoGraph(Scripted):
    """Scripted, the loss has no graph."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        loss = F.mse_loss(input, target, reduction=self.reduction)
        return loss.detach() if torch.jit.is_scripting() else loss


class Unscriptable(Scripted):
    """TorchScript has no generators."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        given = tuple(x for x in (input, target))
        return F.mse_loss(given[0], given[1], reduction=self.reduction)


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (WrongValue, "the value of call 1 of the scripted module"),
        (WrongThirdCall, "the value of call 3 of the scripted module"),
        (WrongGradient, "the gradient of input in call 1 of the scripted module"),
        (NoGradient, "no gradient of target in call 1 of the scripted module"),
        (NoGraph, "no gradient of input in call 1 of the scripted module"),
    ],
)
def test_a_module_that_is_wrong_when_scripted_deviates(module, reason):
    cell = judged("mse_loss", module)
    assert (cell.verdict, cell.reason) == (Verdict.DEVIATES, reason)


def test_a_module_that_is_right_when_scripted_conforms():
    cell = judged("mse_loss", Right)
    assert cell.verdict is Verdict.CONFORMS
    assert cell.informative > 3


def test_a_module_that_cannot_be_scripted_is_unsupported_with_the_first_error():
    cell = judged("mse_loss", Unscriptable)
    assert cell.verdict is Verdict.UNSUPPORTED
    # Once torch has failed, it raises another error, which does not name the cause.
    assert cell.reason.startswith(
        "inferred: it does not work with torch.jit.script (RuntimeError: “cannot statically infer"
    )
    cell = judged("mse_loss", Unscriptable, supports={"script"})
    assert (cell.verdict, cell.want) == (Verdict.DEVIATES, "it works: script is declared")


def test_a_function_is_not_judged_scripted():
    with pytest.raises(EmptyPlan, match=r"\(scripted\) applies to mse_loss"):
        judged("mse_loss", F.mse_loss)


#: Losses of torch.nn that torch.jit.script does not take.
UNSCRIPTABLE = {"gaussian_nll_loss", "triplet_margin_with_distance_loss"}


@pytest.mark.parametrize("name", ["ctc_loss", "kl_div", *sorted(UNSCRIPTABLE)])
def test_the_losses_of_torch_are_right_where_torch_scripts_them(name):
    cell = judged(name, getattr(nn, find(name).module))
    want = Verdict.UNSUPPORTED if name in UNSCRIPTABLE else Verdict.CONFORMS
    assert cell.verdict is want
