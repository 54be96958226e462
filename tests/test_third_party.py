"""Third-party losses: each defect is told once, and an unsupported call is no crash."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lossspec
from lossspec.errors import UnknownName
from lossspec.execution.call_text import call_text
from lossspec.execution.implementation import LossUnderTest
from lossspec.judging.profiles import PROFILES
from lossspec.judging.stream import stream
from lossspec.judging.whose_error import of_implementation
from lossspec.report.verdict import Verdict
from lossspec.spec.catalogue import find


def verdicts(loss, target, *clauses, **more):
    cells = lossspec.check(loss, target, clauses=clauses, profile="quick", **more)
    return {cell.clause: cell.verdict for cell in cells}


# === errors of an implementation are no crash of lossspec =================================


class ReducedOnly(nn.Module):
    """The constructor refuses `none`."""

    def __init__(self, reduction="mean"):
        super().__init__()
        if reduction == "none":
            raise NotImplementedError("reduction='none'")
        self.reduction = reduction

    def forward(self, input, target):
        return F.mse_loss(input, target, reduction=self.reduction)


class NeverSwapped(nn.TripletMarginLoss):
    """The constructor refuses a parameter."""

    def __init__(self, margin=1.0, p=2.0, eps=1e-6, swap=False, reduction="mean"):
        if swap:
            raise NotImplementedError("swap")
        super().__init__(margin, p, eps, swap, reduction=reduction)


def of_few_rows(input, target, reduction="mean", weight=None):
    if input.ndim and len(input) > 8:
        raise SystemExit("too many rows")
    return F.mse_loss(input, target, reduction=reduction, weight=weight)


@pytest.mark.parametrize(
    ("loss", "target", "clauses"),
    [
        ("mse_loss", ReducedOnly, ["live-results", "plain-live-results"]),
        ("triplet_margin_loss", NeverSwapped, ["threads", "live-results", "other-calls"]),
        ("mse_loss", of_few_rows, ["random-state", "memory-in-proportion", "vmap", "threads"]),
    ],
    ids=["reduced only", "never swapped", "few rows"],
)
def test_a_call_that_an_implementation_does_not_support_is_no_crash(loss, target, clauses):
    found = verdicts(loss, target, *clauses)
    assert {*found.values()} <= {Verdict.CONFORMS, Verdict.UNSUPPORTED, Verdict.INCONCLUSIVE}


def test_an_error_belongs_to_the_code_that_raised_it():
    def own(*tensors):
        raise ValueError("mine")

    under_test = LossUnderTest("own", find("mse_loss"), "function", own)
    with pytest.raises(ValueError, match="mine") as caught:
        under_test.construct({})(torch.ones(3), torch.ones(3))
    assert of_implementation(caught.value)
    with pytest.raises(UnknownName) as missing:
        find("no_loss")
    assert not of_implementation(missing.value)


# === a defect is told once, by the clause that is about it ================================


def test_right_gradients_of_a_result_in_a_wrong_shape_are_not_reported():
    def kept(input, target, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0):
        value = F.cross_entropy(
            input,
            target,
            weight=weight,
            ignore_index=ignore_index,
            reduction=reduction,
            label_smoothing=label_smoothing,
        )
        return value.unsqueeze(-1) if reduction == "none" else value

    found = verdicts("cross_entropy", kept, "gradient", "expanded-cotangent", "result-shape")
    assert [name for name, verdict in found.items() if verdict.fails] == ["result-shape"]


def test_a_wrong_divisor_is_not_reported_as_lost_invariance():
    def divided(input, target, weight=None, ignore_index=-100, reduction="mean"):
        losses = F.cross_entropy(
            input, target, weight=weight, ignore_index=ignore_index, reduction="none"
        )
        return losses if reduction == "none" else getattr(losses, reduction)()

    found = verdicts("cross_entropy", divided, "shift-invariance", "value")
    assert found == {"shift-invariance": Verdict.CONFORMS, "value": Verdict.DEVIATES}


def test_a_margin_that_is_added_to_one_score_is_found():
    def absorbed(input1, input2, target, margin=0.0, reduction="mean"):
        losses = ((margin - target * input1) + target * input2).clamp_min(0)
        return losses if reduction == "none" else getattr(losses, reduction)()

    def subtracted(input1, input2, target, margin=0.0, reduction="mean"):
        losses = (target * (input2 - input1) + margin).clamp_min(0)
        return losses if reduction == "none" else getattr(losses, reduction)()

    for loss, want in ((absorbed, Verdict.DEVIATES), (subtracted, Verdict.CONFORMS)):
        assert verdicts("margin_ranking_loss", loss, "shift-invariance") == {
            "shift-invariance": want
        }


# === what the documentation leaves open ===================================================


def test_batchmean_of_a_single_number_may_be_refused():
    def batched(input, target, reduction="mean", log_target=False):
        if reduction == "batchmean" and not input.ndim:
            raise ValueError("no batch")
        return F.kl_div(input, target, reduction=reduction, log_target=log_target)

    found = verdicts("kl_div", batched, "accepts", "batchmean-divisor", "value")
    assert {*found.values()} == {Verdict.CONFORMS}


# === evidence =============================================================================


def test_quick_judges_each_precise_dtype_on_several_informative_cases():
    def seldom_wrong(input, target, reduction="mean", weight=None):
        value = F.mse_loss(input, target, reduction=reduction, weight=weight)
        return value * 1.5 if value.dtype == torch.float16 and not value.ndim else value

    assert verdicts("mse_loss", seldom_wrong, "value") == {"value": Verdict.DEVIATES}


def test_the_shape_of_an_empty_tensor_is_written():
    under_test = LossUnderTest("torch", find("mse_loss"), "function", F.mse_loss)
    drawn = stream(find("mse_loss"), PROFILES["standard"], 0)
    for solved in drawn:
        shape = solved.case.tensors["input"].shape
        if 0 in shape[:-1]:
            written = call_text(under_test, solved.case)
            assert f"input = empty({', '.join(map(str, shape))}, dtype=" in written
            break
    else:
        pytest.fail("no case has a shape such as [0, 3]")
