"""Right losses in other formulations, for which every clause must conform."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from lossspec.audit import audit
from lossspec.baselines import textbook
from lossspec.cases.case import Case
from lossspec.clauses import clauses
from lossspec.clauses.trial import Trial
from lossspec.execution.implementation import LossUnderTest
from lossspec.judging.deviation import deviation_of
from lossspec.oracle.solver import SolvedCase, solve
from lossspec.spec.catalogue import catalogue, find
from tests.defects.catalogue import right_implementations
from tests.defects.record import OF_MANY_ROWS, judges_of

RIGHT = right_implementations()


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    # torch.compile logs at length when a traced call raises, as calls that must be refused do.
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)
    torch.set_num_threads(before)


@pytest.mark.parametrize("right", [pytest.param(r, id=r.id) for r in RIGHT.values()])
def test_no_clause_deviates_for_a_right_loss(right):
    only = [name for name in judges_of(right) if not clauses()[name].slow]
    if right.loss == "ctc_loss":
        only = [name for name in only if name not in OF_MANY_ROWS]
    (result,) = audit([right], "quick", only=only, cases=8)  # `soak` judges far more
    assert [(each.clause, each.what, each.got, each.want) for each in result.found] == []
    assert result.crashed == {}


def test_every_loss_without_own_weights_has_four_right_losses():
    counts = dict.fromkeys(catalogue(), 0)
    for right in RIGHT.values():
        counts[right.loss] += 1
    # These two own their weights, so a rewrite would repeat the code of torch.
    rewritten = counts.keys() - {"adaptive_log_softmax_with_loss", "linear_cross_entropy"}
    assert {name: counts[name] for name in rewritten if counts[name] < 4} == {}


def test_a_textbook_composition_stays_on_the_device_of_its_inputs():
    x, t = torch.ones(3, 4, device="meta"), torch.ones(3, device="meta", dtype=torch.int64)
    lengths = torch.full((3,), 2, device="meta")
    calls = {
        "multi_margin_loss": (x, t),
        "multilabel_margin_loss": (x, t.unsqueeze(-1).expand(3, 4)),
        "cross_entropy": (x, t, x[0], -100, "mean", 0.1),
        "nll_loss": (x, t),
        "ctc_loss": (torch.ones(5, 3, 4, device="meta"), t.expand(3, 3), lengths, lengths),
        "gaussian_nll_loss": (x, x, 1.0),
        "binary_cross_entropy": (x, x),
        "poisson_nll_loss": (x, x, True, True),
    }
    assert {
        name: str(textbook(name)(*call).device) for name, call in calls.items()
    } == dict.fromkeys(calls, "meta")


def test_a_ctc_posterior_near_1_is_rounded_independently_of_its_share():
    # The gradient is 1 minus a share of 1 - 7e-12. Each of four sign patterns of the roundings
    # moved share and posterior alike.
    stored = Path(__file__).parent / "data" / "ctc-softmax-share-near-1.json"
    case = Case.from_json(json.loads(stored.read_text("utf-8")))
    loss = find("ctc_loss")
    for right in (r for r in RIGHT.values() if r.loss == "ctc_loss"):
        under_test = LossUnderTest(right.id, loss, right.surface, right.make())
        trial = Trial(under_test, SolvedCase(loss, case))
        assert deviation_of(clauses()["gradient"], trial) is None, right.id


def of_target(tiny, dtype, reduction, count=2):
    """Return the gradient of kl_div by a target whose first number is tiny."""
    loss, target = find("kl_div"), np.full(count, 0.5, dtype)
    target[0] = tiny
    case = Case(
        loss="kl_div",
        form="target",
        contract="(*), (*) -> (*)",
        spread=1,
        dtype=dtype,
        tensors={"input": np.full(count, -3.0, dtype), "target": target},
        parameters={"log_target": False},
        reduction=reduction,
        cotangent=np.ones(count, dtype),
        scale=1.0,
        omitted=frozenset(),
        layouts={},
        requires_grad=("target",),
    )
    return solve(loss, case).gradient("target", reduction, case.upstream(reduction))


def test_a_gradient_at_a_subnormal_number_is_checked_only_in_float16():
    for dtype, tiny, asked in (("float32", 2.0**-139, False), ("float16", 2.0**-20, True)):
        assert list(np.isfinite(of_target(tiny, dtype, "sum").budget)) == [asked, True]


def test_a_gradient_is_not_checked_where_the_share_of_the_mean_is_subnormal():
    # The gradient of y (log y - x) contains (g y) / y. With 4,000 numbers g y keeps 11 of 24 bits.
    for reduction, asked in (("sum", True), ("mean", False), ("batchmean", False)):
        budget = of_target(2.0**-126, "float32", reduction, 4_000).budget
        assert list(np.isfinite(budget[:2])) == [asked, True]
