"""NotImplementedError is unsupported in every clause; any other error deviates."""

from collections import Counter

import pytest
import torch
from torch.nn import functional as F

import lossspec
from lossspec.clauses import clauses
from lossspec.report.verdict import Verdict
from lossspec.spec.catalogue import find

#: A value that is not the default.
BETA = find("smooth_l1_loss").parameters["beta"].values[1]
#: By the unimplemented feature, the condition under which a call raises.
LACKS = {
    "one reduction": lambda x, target, beta, reduction: reduction == "none",
    "one dtype": lambda x, target, beta, reduction: x.dtype is torch.float32,
    "one parameter value": lambda x, target, beta, reduction: beta == BETA,
    "empty inputs": lambda x, target, beta, reduction: x.numel() == 0,
    "many rows": lambda x, target, beta, reduction: x.ndim > 0 and len(x) > 4096,
}
#: Further calls that clauses make, and a clause that makes each.
BACKWARD = {
    "a backward that is differentiated": (True, None),
    "a second backward": (False, "second-backward"),
}


def smooth(lacks, error):
    def smooth_l1_loss(input, target, reduction="mean", beta=1.0):
        if lacks(input, target, beta, reduction):
            raise error("no such call")
        return F.smooth_l1_loss(input, target, reduction=reduction, beta=beta)

    return smooth_l1_loss


class _Once(torch.autograd.Function):
    """Identity that raises if its backward runs twice, or if its gradient is differentiated."""

    @staticmethod
    def forward(ctx, x, error, differentiated):
        ctx.error, ctx.differentiated, ctx.used = error, differentiated, False
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        if torch.is_grad_enabled() if ctx.differentiated else ctx.used:
            raise ctx.error("no second derivative")
        ctx.used = True
        return grad, None, None


def squared(error, differentiated):
    def mse_loss(input, target, reduction="mean"):
        loss = F.mse_loss(input, target, reduction=reduction)
        return _Once.apply(loss, error, differentiated)

    return mse_loss


def judged(loss, target, profile, names=None):
    """Judge every clause; in the standard profile leave out those that compile, by default."""
    if names is None:
        known = (clause for clause in clauses().values() if clause.needs is None)
        names = [c.name for c in known if profile == "quick" or not c.slow or c.once]
    return lossspec.check(loss, target, clauses=names, profile=profile)


def failing(cells):
    return {cell.clause: cell.got or cell.reason for cell in cells if cell.verdict.fails}


@pytest.mark.parametrize("profile", ["quick", "standard"])
@pytest.mark.parametrize("lacks", LACKS)
def test_an_unimplemented_feature_deviates_from_no_clause(lacks, profile):
    cells = judged("smooth_l1_loss", smooth(LACKS[lacks], NotImplementedError), profile)
    assert failing(cells) == {}
    assert Counter(cell.verdict for cell in cells)[Verdict.CONFORMS] > 5


@pytest.mark.parametrize("lacks", LACKS)
def test_another_error_in_the_same_call_deviates(lacks):
    names = ["accepts", "large-batch"]
    cells = judged("smooth_l1_loss", smooth(LACKS[lacks], RuntimeError), "standard", names)
    assert "RuntimeError: no such call" in failing(cells).values()


def by_form(error):
    def cross_entropy(
        input, target, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0
    ):
        if not target.is_floating_point():
            raise error("no class indices")
        return F.cross_entropy(
            input, target, weight, reduction=reduction, label_smoothing=label_smoothing
        )

    return cross_entropy


def test_an_unimplemented_form_deviates_from_no_clause():
    assert failing(judged("cross_entropy", by_form(NotImplementedError), "quick")) == {}


def test_another_error_in_a_mandatory_form_deviates():
    cells = judged("cross_entropy", by_form(RuntimeError), "quick", ["accepts"])
    assert failing(cells) == {"accepts": "RuntimeError: no class indices"}


@pytest.mark.parametrize("profile", ["quick", "standard"])
@pytest.mark.parametrize(("differentiated", "clause"), BACKWARD.values(), ids=BACKWARD)
def test_an_unimplemented_backward_deviates_from_no_clause(differentiated, clause, profile):
    cells = judged("mse_loss", squared(NotImplementedError, differentiated), profile)
    assert failing(cells) == {}
    if clause is not None:
        (cell,) = (cell for cell in cells if cell.clause == clause)
        assert cell.verdict is Verdict.UNSUPPORTED
        assert cell.reason == 'a second backward raised NotImplementedError: "no second derivative"'
        wrong = judged("mse_loss", squared(RuntimeError, differentiated), profile, [clause])
        assert failing(wrong) == {clause: "RuntimeError: no second derivative"}


class _Elsewhere(torch.nn.MSELoss):
    """A loss that raises if the count of calls, the mode or the dtype is not the first one's."""

    error = NotImplementedError
    when = ""
    seen = None

    def __init__(self, reduction="mean"):
        super().__init__(reduction=reduction)
        if self.when == "copied":
            self.seen = (id(self),)

    def forward(self, input, target):
        now = {
            "copied": id(self),
            "evaluated": self.training,
            "moved": input.dtype,
            "again": self.seen is not None,
        }.get(self.when)
        first, self.seen = self.seen, (now,)
        if first not in (None, (now,)) or (now is True and self.when == "again"):
            raise self.error("no such call")
        return super().forward(input, target)


@pytest.mark.parametrize(
    ("when", "clause"),
    [
        ("copied", "pickled"),
        ("evaluated", "evaluation-mode"),
        ("moved", "moved-to-dtype"),
        ("again", "second-call"),
    ],
)
def test_a_module_without_a_mode_or_dtype_deviates_from_no_clause(when, clause):
    lacking, wrong = (
        type("Module", (_Elsewhere,), {"when": when, "error": error})
        for error in (NotImplementedError, RuntimeError)
    )
    assert failing(judged("mse_loss", lacking, "quick")) == {}
    assert clause in failing(judged("mse_loss", wrong, "quick", [clause]))
