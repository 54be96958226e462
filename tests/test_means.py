"""The declaration of a mean: its divisor, its floor, the mean of nothing, and ignored elements."""

from dataclasses import replace
from math import inf, nan

import numpy as np
import pytest
import torch

import lossspec
from lossspec.audit import audit
from lossspec.audit.command import chosen
from lossspec.errors import SpecError
from lossspec.maths import pick
from lossspec.spec import (
    Binary,
    ClassIndex,
    Form,
    LogProbability,
    Loss,
    Mean,
    Probability,
    Real,
    find,
    ignore_index,
)
from lossspec.spec_pages.pages import text
from tests.defects.catalogue import right_implementations


def masked_squares(input, target, mask):
    return mask * (input - target) ** 2


def of_mask(mask):
    return mask


def masked(mean, mask=None):
    mask = mask or Probability(differentiable=False)
    return Loss(
        name="masked",
        module=None,
        summary="The squares that a mask keeps.",
        formula="x",
        source="by hand",
        define=masked_squares,
        forms=(
            Form(
                shapes=("(*), (*), (*) -> (*)",),
                tensors={"input": Real(), "target": Real(), "mask": mask},
                mean=mean,
            ),
        ),
    )


def reducing(mean_of):
    """Return an implementation whose mean is a function of the sums of losses and mask."""

    def loss(input, target, mask, reduction="mean"):
        losses = mask * (input - target) ** 2
        if reduction == "mean":  # a sum in float16 overflows where its mean does not
            sums = losses.sum(dtype=torch.float64), mask.sum(dtype=torch.float64)
            return mean_of(*sums).to(losses.dtype)
        return losses if reduction == "none" else losses.sum()

    return loss


plain = reducing(lambda losses, mask: losses / mask)
floored = reducing(lambda losses, mask: losses / mask.clamp(min=1))
floored_at_2 = reducing(lambda losses, mask: losses / mask.clamp(min=2))
zero = reducing(lambda losses, mask: losses / torch.where(mask == 0, 1, mask))


def verdicts(loss, target, *names):
    cells = lossspec.check(loss, target, profile="quick", clauses=list(names))
    return {cell.clause: str(cell.verdict) for cell in cells}


# === the floor of the divisor =============================================================

FLOORED = masked(Mean(divisor=of_mask, floor=1.0))
JUDGED = ("value", "gradient", "mean-divisor", "nothing-left")


def test_a_divisor_with_its_floor_conforms():
    assert set(verdicts(FLOORED, floored, *JUDGED).values()) == {"conforms"}


@pytest.mark.parametrize("wrong", [plain, floored_at_2], ids=["no floor", "another floor"])
def test_a_wrong_floor_is_found(wrong):
    assert verdicts(FLOORED, wrong, "mean-divisor") == {"mean-divisor": "deviates"}


def test_without_a_floor_the_floor_is_found():
    bare = masked(Mean(divisor=of_mask))
    assert verdicts(bare, floored, "mean-divisor") == {"mean-divisor": "deviates"}
    assert set(verdicts(bare, plain, "value", "gradient", "mean-divisor").values()) == {"conforms"}


def expected(loss, input, mask, dtype=torch.float32):
    given = [torch.tensor(x, dtype=dtype) for x in (input, np.zeros_like(input), mask)]
    return lossspec.expect(loss, *given)


def test_the_mean_at_below_and_above_the_floor():
    for mask, mean in (([0.25, 0.25], 1.25), ([1.0, 0.0], 1.0), ([1.0, 1.0], 2.5), ([0, 0], 0)):
        assert float(expected(FLOORED, [1.0, 2.0], mask).value) == mean
    assert float(expected(FLOORED, [], []).value) == 0
    gradient = expected(FLOORED, [1.0, 2.0], [0.25, 0.25]).gradients["input"]
    assert gradient.tolist() == [0.5, 1.0]


def test_a_floor_that_a_dtype_flushes_to_0_is_open_there():
    small = masked(Mean(divisor=of_mask, floor=1e-9))
    for dtype, agrees in ((torch.float16, True), (torch.float32, False)):
        call = expected(small, [1.0], [0.0], dtype)
        assert bool(call.agrees(torch.tensor(nan, dtype=dtype))) is agrees


# === weights that sum to 0 ================================================================


@pytest.mark.parametrize(
    ("declared", "conforming", "deviating"),
    [(0.0, [zero], [plain]), (nan, [plain], [zero]), (None, [plain, zero], [])],
    ids=["0", "nan", "open"],
)
def test_the_mean_of_weights_that_sum_to_0(declared, conforming, deviating):
    loss = masked(Mean(divisor=of_mask, of_zero_weights=declared), mask=Binary())
    for target in conforming:
        found = verdicts(loss, target, "value", "mean-divisor")
        assert set(found.values()) == {"conforms"}
    for target in deviating:
        assert verdicts(loss, target, "mean-divisor") == {"mean-divisor": "deviates"}


# === no elements ==========================================================================


def squares(input, target):
    return (input - target) ** 2


def of_nothing(**mean):
    form = Form(
        shapes=("(*), (*) -> (*)",),
        tensors={"input": Real(), "target": Real()},
        mean=Mean(**mean),
    )
    return replace(FLOORED, name="squares", define=squares, forms=(form,))


def mean_or_nan(input, target, reduction="mean"):
    losses = (input - target) ** 2
    return losses if reduction == "none" else getattr(losses, reduction)()


def mean_or_0(input, target, reduction="mean"):
    losses = (input - target) ** 2
    if reduction == "mean":
        return losses.sum() / max(losses.numel(), 1)
    return losses if reduction == "none" else losses.sum()


@pytest.mark.parametrize(
    ("mean", "conforming", "deviating"),
    [
        ({}, [mean_or_nan], [mean_or_0]),
        ({"of_nothing": 0.0}, [mean_or_0], [mean_or_nan]),
        ({"of_nothing": None}, [mean_or_nan, mean_or_0], []),
        ({"floor": 1.0}, [mean_or_0], [mean_or_nan]),
    ],
    ids=["default", "0", "open", "floor"],
)
def test_the_mean_of_no_elements(mean, conforming, deviating):
    loss = of_nothing(**mean)
    for target in conforming:
        assert verdicts(loss, target, "nothing-left") == {"nothing-left": "conforms"}
    for target in deviating:
        assert verdicts(loss, target, "nothing-left") == {"nothing-left": "deviates"}


@pytest.mark.parametrize(("declared", "agree"), [(nan, [nan]), (0.0, [0.0]), (None, [nan, 0.0])])
def test_expect_knows_the_mean_of_no_elements(declared, agree):
    call = lossspec.expect(of_nothing(of_nothing=declared), torch.zeros(0), torch.zeros(0))
    assert [got for got in (nan, 0.0) if call.agrees(torch.tensor(got))] == agree


# === ignored elements =====================================================================


def minus_picked(input, target):
    return -pick(input, target)


def ignoring(**form):
    return Loss(
        name="ignoring",
        module=None,
        summary="Minus the log-probability of the target.",
        formula="x",
        source="by hand",
        define=minus_picked,
        forms=(
            Form(
                shapes=("(N, C), (N) -> (N)",),
                tensors={
                    "input": LogProbability(),
                    "target": ClassIndex(ignored_by="ignore_index", tolerated=()),
                },
                **form,
            ),
        ),
        parameters={"ignore_index": ignore_index()},
    )


def reduced(losses, kept, reduction):
    if reduction == "mean":
        return losses.sum() / kept.sum()
    return losses if reduction == "none" else losses.sum()


def by_product(input, target, ignore_index=-100, reduction="mean"):
    kept = target != ignore_index
    picked = -input.gather(1, torch.where(kept, target, 0)[:, None])[:, 0]
    return reduced(picked * kept, kept, reduction)


def by_selection(input, target, ignore_index=-100, reduction="mean"):
    kept = target != ignore_index
    picked = -input.gather(1, torch.where(kept, target, 0)[:, None])[:, 0]
    return reduced(torch.where(kept, picked, 0), kept, reduction)


def counting_ignored(input, target, ignore_index=-100, reduction="mean"):
    kept = target != ignore_index
    picked = -input.gather(1, torch.where(kept, target, 0)[:, None])[:, 0]
    return reduced(torch.where(kept, picked, 0), torch.ones_like(kept), reduction)


IGNORED = ("value", "gradient", "ignored-gradient", "ignored-is-deleted")


def test_what_an_infinity_in_an_ignored_row_gives_is_open_unless_declared():
    for target in (by_product, by_selection):
        assert set(verdicts(ignoring(), target, *IGNORED).values()) == {"conforms"}
    declared = ignoring(skips_ignored=True)
    assert set(verdicts(declared, by_selection, *IGNORED).values()) == {"conforms"}
    assert verdicts(declared, by_product, "value") == {"value": "deviates"}


def test_a_wrong_divisor_of_ignored_elements_is_found_in_either_case():
    for loss in (ignoring(), ignoring(skips_ignored=True)):
        assert verdicts(loss, counting_ignored, "value") == {"value": "deviates"}


# === the declaration ======================================================================


def test_divisor_and_share_of_a_form_are_those_of_its_mean():
    old = Form(shapes=("(*) -> (*)",), tensors={"input": Real()}, divisor=of_mask, share=of_mask)
    new = replace(old, divisor=None, share=None, mean=Mean(divisor=of_mask, share=of_mask))
    assert (new.divisor, new.share) == (old.divisor, old.share) == (of_mask, of_mask)
    assert replace(new, divisor=None).divisor is None
    with pytest.raises(SpecError, match="has divisor= of its own and another one in its Mean"):
        replace(old, mean=Mean(divisor=of_mask))


@pytest.mark.parametrize(
    ("mean", "message"),
    [
        ({"floor": 0}, "floor of a Mean takes a finite number above 0 or None, got 0"),
        ({"floor": inf}, "floor of a Mean takes a finite number above 0 or None, got inf"),
        ({"of_nothing": "nan"}, "of_nothing of a Mean takes nan, a finite number or None, got 'n"),
        ({"of_zero_weights": inf}, "of_zero_weights of a Mean takes nan, a finite number or None"),
        ({"floor": 1.0, "of_nothing": 2.0}, "of_nothing of a Mean is 2.0, but with a floor of 1.0"),
        ({"floor": 1.0, "of_zero_weights": nan}, "of_zero_weights of a Mean is nan, but with a"),
        ({"divisor": lambda other: other}, "arguments of divisor: unknown 'other'"),
    ],
)
def test_a_wrong_mean_is_one_clear_error(mean, message):
    with pytest.raises(SpecError, match=f"^spec 'squares': {message}"):
        of_nothing(**mean)


def words(loss):
    return " ".join(text(loss).split())


def test_the_declaration_is_printed():
    assert "divided by the sum of `of_mask(mask)` over the elements, or by 1 if that is more" in (
        words(FLOORED)
    )
    assert "The `mean` of no elements is 0." in words(FLOORED)
    assert "The `mean` of no elements is NaN." in words(find("mse_loss"))
    zeros = words(masked(Mean(divisor=of_mask, of_zero_weights=nan)))
    assert "The `mean` with a divisor of 0 is NaN." in zeros
    assert "also an infinity or NaN, but what these two give is open." in words(ignoring())
    assert "may hold any number, also an infinity or NaN." in words(find("nll_loss"))


def test_a_sum_that_overflows_with_doubled_weights_is_not_judged():
    right = right_implementations()["cross_entropy/in-own-dtype"]
    (result,) = audit([right], chosen("quick", 32), 703, only=["weight-scale"])
    assert not result.found
