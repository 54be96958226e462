"""Clauses on sizes of blocks, many classes and many elements."""

import numpy as np
import pytest
import torch

import lossspec
from lossspec.audit import audit
from lossspec.audit.command import chosen
from lossspec.clauses import clauses
from lossspec.clauses.size import (
    BESIDE_BLOCKS,
    UNEVEN_ROWS,
    _of_classes,
    _plain_rows,
    _sorted_rows,
)
from lossspec.clauses.trial import Deviation, Trial
from lossspec.execution.implementation import LossUnderTest
from lossspec.judging.profiles import Profile
from lossspec.judging.stream import stream
from lossspec.maths import absolute, mean, total
from lossspec.oracle.solver import SolvedCase
from lossspec.spec import Form, Loss, Real
from lossspec.spec.catalogue import find
from tests.defects.blind_set import blind_right
from tests.defects.catalogue import defects

F = torch.nn.functional
SIZES = (
    *("block-of-rows", "block-of-classes", "many-classes", "long-rows"),
    *("sum-of-many", "uneven-rows"),
)


def verdicts(loss, target, *names, profile="quick"):
    cells = lossspec.check(loss, target, profile=profile, clauses=list(names))
    return {cell.clause: str(cell.verdict) for cell in cells}


@pytest.mark.parametrize(
    ("defect", "clause"),
    [
        ("mse_loss/last-row-of-full-blocks", "block-of-rows"),
        ("mse_loss/sum-saturates", "sum-of-many"),
        ("mse_loss/expanded-square", "value"),
        ("cross_entropy/phantom-class", "block-of-classes"),
        ("cross_entropy/last-row-of-full-blocks", "block-of-rows"),
        ("multilabel_soft_margin_loss/classes-added-serially", "long-rows"),
    ],
)
def test_a_defect_of_large_sizes_is_found_in_profile_quick(defect, clause):
    found = verdicts(defects()[defect].loss, defects()[defect].make(), clause)
    assert found == {clause: "deviates"}


def test_class_indices_of_sixteen_bits_are_found_among_many_classes():
    wrong = defects()["cross_entropy/index-in-sixteen-bits"]
    (result,) = audit([wrong], only={"many-classes"})
    assert [one.clause for one in result.found] == ["many-classes"]


@pytest.mark.parametrize("loss", ["nll_loss", "multi_margin_loss", "soft_margin_loss", "l1_loss"])
def test_torch_conforms_at_large_sizes(loss):
    applicable = [n for n in SIZES if clauses()[n].applies(find(loss), "function")]
    found = verdicts(loss, getattr(F, loss), *applicable)
    assert found
    assert set(found.values()) == {"conforms"}


def first_64_labels(input, target, reduction="mean"):
    if target.ndim == 2 and target.shape[1] > 64:
        target = F.pad(target[:, :64], (0, target.shape[1] - 64), value=-1)
    return F.multilabel_margin_loss(input, target, reduction=reduction)


@pytest.mark.parametrize("loss", ["cosine_embedding_loss", "triplet_margin_loss"])
def test_features_beyond_a_block_that_are_lost_are_found(loss):
    def wrong(*inputs, **options):
        return getattr(F, loss)(*(x[..., :1024] if x.ndim else x for x in inputs), **options)

    assert verdicts(loss, wrong, "long-rows") == {"long-rows": "deviates"}
    assert verdicts(loss, wrong, "value")["value"] in {"conforms", "known"}


def test_a_long_sum_of_squares_in_16_bits_is_found():
    def wrong(input1, input2, target, margin=0.0, reduction="mean"):
        def length(x):
            return sum(x.square().unbind(-1), start=x[..., 0] * 0).sqrt()

        cosine = (input1 * input2).sum(-1) / (length(input1) * length(input2))
        losses = torch.where(target > 0, 1 - cosine, (cosine - margin).clamp(min=0))
        return losses if reduction == "none" else getattr(losses, reduction)()

    assert verdicts("cosine_embedding_loss", wrong, "long-rows") == {"long-rows": "deviates"}


def pairs(input):
    """Return the mean distance of all pairs of numbers in a row."""
    return mean(absolute(input[..., :, None] - input[..., None, :]), axis=(-2, -1))


def test_a_loss_that_compares_all_numbers_of_a_row_is_not_judged_with_long_rows():
    spec = Loss(
        name="spread_loss",
        module=None,
        summary="The mean distance of all pairs of numbers in a row.",
        formula="x",
        source="by hand",
        define=pairs,
        forms=(Form(shapes=("(N, D) -> (N)",), tensors={"input": Real()}),),
    )

    assert not clauses()["long-rows"].applies(spec, "function")
    assert clauses()["long-rows"].applies(find("triplet_margin_loss"), "function")


def of_row(x):
    return total(x)


@pytest.mark.parametrize("shape", ["(N, 4) -> (N)", "(N, *) -> (N)", "(N, N) -> (N)", "(*) -> ()"])
def test_rows_of_a_given_size_are_not_judged_with_long_rows(shape):
    spec = Loss(
        name="row_loss",
        module=None,
        summary="The sum of a row.",
        formula="x",
        source="by hand",
        define=of_row,
        forms=(Form(shapes=(shape,), tensors={"x": Real()}),),
    )
    assert not clauses()["long-rows"].applies(spec, "function")


def test_only_the_dtypes_that_are_asked_for_are_judged_with_long_rows():
    wrong = defects()["multilabel_soft_margin_loss/classes-added-serially"]
    for dtype, verdict in (("float32", "conforms"), ("bfloat16", "deviates")):
        (cell,) = lossspec.check(
            wrong.loss, wrong.make(), profile="quick", clauses=["long-rows"], dtypes=[dtype]
        )
        assert (dtype, str(cell.verdict)) == (dtype, verdict)


def test_a_loss_that_lists_classes_is_judged_with_129_at_most():
    loss = find("multilabel_margin_loss")
    assert not clauses()["many-classes"].applies(loss, "function")
    (cell,) = lossspec.check(
        "multilabel_margin_loss", first_64_labels, profile="quick", clauses=["block-of-classes"]
    )
    assert (cell.verdict, cell.reason) == ("deviates", "the loss with 129 classes at [0]")


def writes_to_large_inputs(input, target, reduction="mean"):
    value = F.soft_margin_loss(input, target, reduction=reduction)
    if input.numel() > 2000:
        with torch.no_grad():
            target.mul_(-1)
    return value


def test_a_large_input_that_is_written_to_is_found():
    found = verdicts("soft_margin_loss", writes_to_large_inputs, "block-of-rows")
    assert found == {"block-of-rows": "deviates"}


def mean_of_means(input, target, margin=1.0, reduction="mean"):
    """Return the loss; from 1000 rows on, `mean` averages the means of blocks of 1000 rows."""

    def own(x, y, reduction=reduction):
        return F.hinge_embedding_loss(x, y, margin=margin, reduction=reduction)

    if reduction != "mean" or input.shape != target.shape or input.shape[:1].numel() < 1000:
        return own(input, target)
    blocks = zip(input.split(1000), target.split(1000), strict=True)
    return torch.stack([own(*block) for block in blocks]).mean()


def weighted_by_rows(input, target, weight=None, ignore_index=-100, reduction="mean"):
    """Return the loss; above 512 rows, blocks count by their rows, ignored ones included."""

    def own(x, t, reduction):
        return F.nll_loss(x, t, weight, ignore_index=ignore_index, reduction=reduction)

    if reduction != "mean" or input.ndim != 2 or len(input) <= 512:
        return own(input, target, reduction)
    total = 0.0
    for x, t in zip(input.split(512), target.split(512), strict=True):
        given = torch.ones_like(x[0]) if weight is None else weight
        count = torch.where(t == ignore_index, 0, given[t.clamp(0, x.shape[1] - 1).long()]).sum()
        total = total + own(x, t, "sum") / count.clamp_min(1e-30) * (len(x) / len(input))
    return total


@pytest.mark.parametrize(
    ("loss", "wrong"),
    [("hinge_embedding_loss", mean_of_means), ("nll_loss", weighted_by_rows)],
)
def test_an_average_of_means_of_blocks_is_found(loss, wrong):
    found = verdicts(loss, wrong, "uneven-rows", "block-of-rows")
    assert found == {"uneven-rows": "deviates", "block-of-rows": "conforms"}


def test_the_last_rows_of_a_long_batch_count_most():
    solved = _plain_rows(find("nll_loss"))
    trial = Trial(LossUnderTest("torch", find("nll_loss"), "function", F.nll_loss), solved)
    counted = solved.expected.counted[_sorted_rows(trial)]
    assert counted.size == UNEVEN_ROWS
    assert not counted[: UNEVEN_ROWS // 2].any()
    assert counted[-UNEVEN_ROWS // 3 :].all()


def shared_gradient_low(input, target, var, full=False, eps=1e-6, reduction="mean"):
    """Return the loss; the gradient of a shared target over many elements is too small."""
    if target.requires_grad and target.numel() * 1000 < input.numel():
        target = target.detach() + 0.9 * (target - target.detach())
    return F.gaussian_nll_loss(input, target, var, full=full, eps=eps, reduction=reduction)


def test_the_gradient_of_a_broadcast_tensor_over_many_elements_is_judged():
    loss, clause = find("gaussian_nll_loss"), clauses()["sum-of-many"]
    contract = "(N, *), (1, *), (N, *) -> (N, *)"
    drawn = (one.case for one in stream(loss, Profile("many", 200, 1), 0))
    case = next(case for case in drawn if (case.contract, case.spread) == (contract, 1))
    rng = np.random.default_rng(0)
    shapes = {"input": (4, 3), "target": (1, 3), "var": (4, 3)}
    case = case.with_(
        dtype="float32",
        tensors={
            name: rng.uniform(1, 2, shape).astype("float32") for name, shape in shapes.items()
        },
        parameters={"full": False, "eps": 1e-6},
        cotangent=np.ones((4, 3), "float32"),
        requires_grad=("input", "target", "var"),
        layouts={},
    )
    solved = SolvedCase(loss, case)
    right = Trial(LossUnderTest("torch", loss, "function", F.gaussian_nll_loss), solved)
    assert clause.unmet(right) is None
    assert clause.judge(right)
    wrong = LossUnderTest("wrong", loss, "function", shared_gradient_low)
    with pytest.raises(Deviation, match="the gradient of target"):
        clause.judge(Trial(wrong, solved))


def test_the_sizes_are_those_of_blocks_and_their_neighbours():
    assert {31, 32, 33, 255, 256, 257, 4095, 4096, 4097} <= set(BESIDE_BLOCKS)
    case = _of_classes(find("cross_entropy"), 1024).case
    assert case.tensors["input"].shape == (1, 1024)
    assert case.tensors["target"].tolist() == [1023]


def test_a_float16_gradient_whose_terms_round_to_0_conforms():
    (right,) = (
        each
        for each in blind_right("gaussian_nll_loss")
        if each.id == "gaussian_nll_loss/right_by_standard_score-2"
    )
    (result,) = audit([right], chosen("quick", 285), 801, only=["sum-of-many"])
    assert not result.found
    assert "sum-of-many" in result.judged
