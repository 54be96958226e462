"""Further deviations: after its first deviation a clause looks for one of another kind."""

import pytest
import torch

import lossspec

F = torch.nn.functional


def judged(loss, target, clause="value", profile="quick"):
    (cell,) = lossspec.check(loss, target, clauses=[clause], profile=profile)
    return cell


def calls(cell):
    return [cell.call, *(further["call"] for further in cell.extra.get("further", ()))]


@pytest.mark.parametrize(
    ("loss", "clause"),
    [
        *(("mse_loss", clause) for clause in ("value", "gradient", "mean-divisor")),
        *(("huber_loss", clause) for clause in ("value", "gradient", "mean-divisor")),
        *(("cross_entropy", clause) for clause in ("value", "mean-divisor")),
    ],
)
def test_a_uniform_defect_is_one_kind_of_deviation(loss, clause):
    right = getattr(F, loss)

    def wrong(*tensors, reduction="mean", **options):
        value = right(*tensors, reduction=reduction, **options)
        return value * (1.5 if clause != "mean-divisor" or reduction == "mean" else 1)

    cell = judged(loss, wrong, clause)
    assert cell.verdict == "deviates"
    # The gradients of two tensors are two kinds, and so are the two forms of cross entropy.
    assert len(calls(cell)) == (2 if clause == "gradient" or loss == "cross_entropy" else 1)


def test_a_documented_normalisation_does_not_hide_a_wrong_option():
    def normalised(input, target, reduction="mean", delta=1.0):
        losses = F.huber_loss(input, target, reduction="none", delta=delta)
        if reduction == "mean":
            return losses.sum() / (losses.numel() + 1)  # the design difference
        losses = losses if delta == 1 else losses * 2  # the bug
        return losses if reduction == "none" else losses.sum()

    shown = calls(judged("huber_loss", normalised))
    assert any("reduction='mean'" in call for call in shown)
    assert any("reduction='mean'" not in call and "delta=" in call for call in shown)


def test_another_symptom_in_a_clause_is_another_kind_of_deviation():
    def wrong(input, target, reduction="mean"):
        if input.dtype == torch.float16:
            return F.mse_loss(input, target, reduction=reduction) * 2
        if target.requires_grad and input.requires_grad:
            target = target.detach()  # one gradient is missing
        return F.mse_loss(input, target, reduction=reduction)

    cell = judged("mse_loss", wrong, "gradient")
    reasons = {cell.reason.partition(" at ")[0]}
    reasons |= {further["reason"].partition(" at ")[0] for further in cell.extra["further"]}
    assert {"the gradient of input", "no gradient of target"} <= reasons


def test_a_further_deviation_that_torch_shares_is_not_shown():
    def wrong(input, target, reduction="mean", **options):
        value = F.cross_entropy(input, target, reduction=reduction, **options)
        return value * 1.5 if reduction == "none" else value

    cell = judged("cross_entropy", wrong, "value", "standard")
    assert cell.verdict == "deviates"
    assert all("float16" not in call for call in calls(cell)[1:])


def test_clauses_whose_calls_must_raise_stop_at_their_first_deviation():
    asked = []

    def lenient(input, target, reduction="mean", delta=1.0):
        if delta <= 0:
            asked.append(delta)
            return F.mse_loss(input, target)
        return F.huber_loss(input, target, reduction=reduction, delta=delta)

    cell = judged("huber_loss", lenient, "refuses-parameters")
    assert cell.verdict == "deviates"
    assert len(calls(cell)) == 1


def test_findings_release_answers_and_arrays_during_a_campaign():
    from lossspec.clauses import clauses
    from lossspec.execution.implementation import LossUnderTest
    from lossspec.implementations.counterpart import torch_counterpart
    from lossspec.judging.campaign import Campaign
    from lossspec.judging.profiles import PROFILES
    from lossspec.spec.catalogue import find

    loss = find("cross_entropy")
    under_test = LossUnderTest("mine", loss, "function", F.cross_entropy)
    reference = torch_counterpart(loss, "function")
    wanted = [clauses()["value"], clauses()["ignored-gradient"], clauses()["mean-of-many"]]
    campaign = Campaign(under_test, wanted, PROFILES["standard"], reference=reference)
    records = campaign.run().values()
    findings = [finding for record in records for finding in record.findings]
    assert len(findings) > 5
    assert [f for f in findings if "expected" in vars(f.solved)] == []
    assert [f for f in findings if f.excuse and f.deviation.compared is not None] == []
