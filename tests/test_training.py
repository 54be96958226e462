"""Training runs: real digits, every loss, each step against the definition; and their curves."""

from statistics import mean

import pytest
import torch
from torch.nn import functional as F

import lossspec
from lossspec.clauses import clauses
from lossspec.clauses.digits_model import STEPS, TRAINED, digits, plain, steps
from lossspec.execution.implementation import LossUnderTest
from lossspec.implementations import torch_nn
from lossspec.judging.campaign import Campaign
from lossspec.judging.profiles import PROFILES
from lossspec.render.curves import chart, curves
from lossspec.report.verdict import Verdict
from lossspec.spec.catalogue import catalogue, find

LOSSES = list(catalogue())


def trained(loss, target, surface="function"):
    under_test = LossUnderTest("mine", find(loss), surface, target)
    return Campaign(under_test, [clauses()["trained"]], PROFILES["quick"]).run()["trained"]


def record(loss, target, **more):
    (cell,) = lossspec.check(loss, target, clauses=["trained"], profile="quick", **more)
    return cell


def test_the_digits_are_complete_and_reproducible():
    pixels, labels = digits()
    assert pixels.shape == (1797, 64)
    assert (pixels.min(), pixels.max()) == (0, 1)
    assert sorted(set(labels.tolist())) == list(range(10))
    assert labels[:5].tolist() == digits()[1][:5].tolist()


@pytest.mark.parametrize("name", LOSSES)
def test_every_training_step_with_a_torch_loss_conforms(name):
    (under_test, *_) = torch_nn.classes.losses_under_test(find(name))
    clause_record = trained(name, under_test.target, "class")
    assert clause_record.broken is None
    assert (clause_record.found, clause_record.informative) == (None, 1)
    assert 0 < clause_record.worst <= 1
    curves = clause_record.figures["curves"]
    assert [step for step, *_ in curves["training"]] == list(range(STEPS))
    got = [value for _, value, _ in curves["training"]]
    assert got == pytest.approx([want for *_, want in curves["training"]], rel=1e-3, abs=1e-4)
    # The loss falls little, which is visible only over many samples.
    assert mean(got[-10:]) < mean(got[:3])


def test_the_test_samples_are_not_used_for_training():
    (under_test,) = torch_nn.functions.losses_under_test(find("cross_entropy"))
    found = list(steps(under_test, "cpu"))
    tried = [step for step in found if not step.learned]
    assert {step.number for step in tried} == {0, 5, 10, 15, 20, 25}
    targets = digits()[1][TRAINED : TRAINED + len(tried[0].case.tensors["target"])]
    assert all((step.case.tensors["target"] == targets).all() for step in tried)


@pytest.mark.parametrize("name", LOSSES)
def test_a_training_run_begins_with_a_default_call(name):
    case = plain(find(name))
    assert case.dtype == "float32"
    assert not case.layouts


def test_state_kept_between_calls_is_found_and_not_shrunk():
    class Warm(torch.nn.Module):
        calls = 0

        def __init__(self, reduction="mean"):
            super().__init__()
            self.reduction = reduction

        def forward(self, input, target):
            self.calls += 1
            loss = F.mse_loss(input, target, reduction=self.reduction)
            return loss * 2 if self.calls > 20 else loss

    clause_record = trained("mse_loss", Warm, "class")
    deviation = clause_record.found.deviation
    assert deviation.what == "the loss in step 16 of a training run"  # 4 earlier calls
    assert float(deviation.got) == pytest.approx(2 * float(deviation.want))


def test_a_wrong_gradient_of_a_correct_loss_is_found():
    def steep(input, target, reduction="mean"):
        loss = F.l1_loss(input, target, reduction=reduction)
        return loss + (input - input.detach()).sum()

    deviation = trained("l1_loss", steep).found.deviation
    assert deviation.what.startswith("the gradient of input in step 0 of a training run")


def test_a_training_step_that_raises_deviates_with_its_error():
    def tired(input, target, reduction="mean"):
        tired.calls += 1
        if tired.calls > 3:
            raise RuntimeError("no more")
        return F.l1_loss(input, target, reduction=reduction)

    tired.calls = 0
    deviation = trained("l1_loss", tired).found.deviation
    assert (deviation.what, deviation.got) == ("a training run raised", "RuntimeError: no more")


def test_a_loss_without_gradients_is_not_trained():
    def without(input, target, reduction="mean"):
        with torch.no_grad():
            return F.l1_loss(input, target, reduction=reduction)

    clause_record = trained("l1_loss", without)
    assert (clause_record.found, clause_record.lacks) == (None, "its results have no gradient")


def test_trained_is_unsupported_without_sklearn(monkeypatch):
    monkeypatch.setattr(lossspec.clauses, "find_spec", lambda name: None)
    cell = record("l1_loss", F.l1_loss)
    assert cell.verdict is Verdict.UNSUPPORTED
    assert cell.reason == "trained needs the package sklearn, which is not installed"


@pytest.fixture(scope="module")
def cells():
    clauses = ["trained", "value"]
    return lossspec.check("mse_loss", F.mse_loss, clauses=clauses, profile="quick")


def test_the_page_contains_the_training_curves(cells):
    (cell,) = [cell for cell in cells if cell.clause == "trained"]
    drawn = chart(cell)
    assert {line.kind: len(line.points) for line in drawn.lines} == {
        "implementation": STEPS,
        "other": 6,
    }
    for line in drawn.lines:
        assert all(drawn.left <= x <= drawn.end and 0 < y <= drawn.floor for x, y in line.points)
    # The y axis of a page points down, so the curve ends lower on the page than it begins.
    (training, _) = drawn.lines
    assert training.points[0][1] < training.points[-1][1]
    assert training.titles[0].startswith("training, step 0: ")


def test_only_trained_cells_have_a_curve(cells):
    assert [drawn.title for drawn in curves(cells)] == ["mse_loss"]
