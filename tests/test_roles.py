"""Roles with structure, fixed and tied axes: right losses conform, and wrong ones are found."""

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings

import lossspec
from lossspec.cases.axes import axes_of
from lossspec.cases.case import Case
from lossspec.cases.shrink import fits, simpler_numbers
from lossspec.dtypes import precision
from lossspec.execution.tensors import to_numpy
from lossspec.judging.profiles import PROFILES
from lossspec.judging.stream import stream
from lossspec.maths import (
    absolute,
    log_softmax,
    maximum,
    minimum,
    pick,
    positive_part,
    total,
    where,
)
from lossspec.spec import (
    Box,
    ClassIndex,
    Form,
    Label,
    Logit,
    Loss,
    Mask,
    Rank,
    Real,
    Sorted,
    Temperature,
    UnitVector,
)
from lossspec.spec.constrained import Constrained
from lossspec.spec_pages.pages import markdown as page_of


def spec_of(name, define, contract, tensors, options=None, **of_form):
    return Loss(
        name=name,
        module=None,
        summary="A loss of one role.",
        formula="x",
        source="worked by hand",
        define=define,
        forms=(Form(shapes=(contract,), tensors=tensors, **of_form),),
        options=options or {},
    )


def reduced(losses, reduction):
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"no reduction {reduction!r}")
    return losses if reduction == "none" else getattr(losses, reduction)()


def same_shapes(*tensors):
    if len({tensor.shape for tensor in tensors}) > 1:
        raise ValueError("the shapes differ")


@dataclass
class Judged:
    """A spec with a right and a wrong implementation, and a clause that finds the wrong one."""

    spec: Loss
    right: Any
    wrong: Any
    found_by: str


def overlap(boxes, target):
    width = positive_part(minimum(boxes[..., 2], target[..., 2]) - maximum(*left(boxes, target)))
    height = positive_part(
        minimum(boxes[..., 3], target[..., 3]) - maximum(boxes[..., 1], target[..., 1])
    )
    return width * height


def left(boxes, target):
    return boxes[..., 0], target[..., 0]


def area(box):
    return (box[..., 2] - box[..., 0]) * (box[..., 3] - box[..., 1])


def box_loss(boxes, target):
    common = overlap(boxes, target)
    return 1 - common / (area(boxes) + area(target) - common + 1.0)


def torch_boxes(boxes, target, reduction="mean", *, lowest=0.0):
    same_shapes(boxes, target)
    if (boxes[..., 2:] < boxes[..., :2]).any() or (target[..., 2:] < target[..., :2]).any():
        raise ValueError("a box has its sides swapped")
    corner = torch.maximum(boxes[:, :2], target[:, :2])
    size = torch.minimum(boxes[:, 2:], target[:, 2:]) - corner
    common = size.clamp(min=lowest).prod(-1)
    return reduced(1 - common / (area(boxes) + area(target) - common + 1), reduction)


def torch_unchecked_boxes(boxes, target, reduction="mean"):
    same_shapes(boxes, target)
    corner = torch.maximum(boxes[:, :2], target[:, :2])
    size = (torch.minimum(boxes[:, 2:], target[:, 2:]) - corner).clamp(min=0)
    common = size[:, 0] * size[:, 1]
    return reduced(1 - common / (area(boxes) + area(target) - common + 1), reduction)


def torch_overlapping_boxes(boxes, target, reduction="mean"):
    return torch_boxes(boxes, target, reduction, lowest=-1e4)


def masked(x, y, mask):
    return where(mask, (x - y) ** 2, 0.0 * x)


def torch_masked(x, y, mask, reduction="mean"):
    same_shapes(x, y, mask)
    losses = torch.where(mask, (x - y) ** 2, torch.zeros_like(x))
    if reduction == "mean":  # the sum of many losses overflows in float16
        return (losses.double().sum() / mask.sum()).to(losses.dtype)
    return reduced(losses, reduction)


def torch_masked_over_all(x, y, mask, reduction="mean"):
    same_shapes(x, y, mask)
    return reduced(torch.where(mask, (x - y) ** 2, torch.zeros_like(x)), reduction)


def torch_maybe_masked(x, y, *, mask=None, reduction="mean"):
    same_shapes(x, y)
    mask = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
    return torch_masked(x, y, mask, reduction)


def torch_first_masked(x, y, *, mask=None, reduction="mean"):
    same_shapes(x, y)
    mask = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
    return torch_masked(x, y, mask[:1].expand(mask.shape) if mask.ndim else mask, reduction)


def tempered(input, target, temperature):
    return -pick(log_softmax(input / temperature[..., None]), target)


def torch_tempered(input, target, temperature, reduction="mean"):
    if input.shape[:1] != target.shape:
        raise ValueError("the shapes differ")
    scores = torch.log_softmax(input / temperature, -1)
    return reduced(-scores.gather(-1, target[:, None])[:, 0], reduction)


def torch_still_temperature(input, target, temperature, reduction="mean"):
    return torch_tempered(input, target, temperature.detach(), reduction)


def labelled(x, label):
    return where(label == 3, x**2, absolute(x))


def torch_labelled(x, label, reduction="mean"):
    if ((label < 0) | (label > 5)).any():
        raise ValueError("labels go from 0 to 5")
    return torch_unchecked_labels(x, label, reduction)


def torch_unchecked_labels(x, label, reduction="mean"):
    same_shapes(x, label)
    return reduced(torch.where(label == 3, x**2, x.abs()), reduction)


def cosine(x, y):
    return 1 - total(x * y)


def torch_cosine(x, y, reduction="mean"):
    same_shapes(x, y)
    return reduced(1 - (x * y).sum(-1), reduction)


def torch_absolute_cosine(x, y, reduction="mean"):
    same_shapes(x, y)
    return reduced(1 - (x * y).sum(-1).abs(), reduction)


def distance(x, y):
    return total(absolute(x - y))


def torch_distance(x, y, reduction="mean"):
    same_shapes(x, y)
    return reduced((x - y).abs().sum(-1), reduction)


def torch_flipped_distance(x, y, reduction="mean"):
    same_shapes(x, y)
    return reduced((x - y.flip(-1)).abs().sum(-1), reduction)


def ranked(score, rank):
    return total(absolute(score - 1.0 * rank))


def torch_ranked(score, rank, reduction="mean"):
    same_shapes(score, rank)
    return reduced((score - rank.to(score.dtype)).abs().sum(-1), reduction)


def torch_ranked_from_0(score, rank, reduction="mean"):
    return torch_ranked(score, rank - 1, reduction)


def on_the_diagonal(scores):
    return -pick(log_softmax(scores), np.arange(scores.shape[-1])[None])


def torch_diagonal(scores, reduction="mean"):
    if scores.ndim != 2 or len(scores) != len(scores.T):
        raise ValueError("the scores of a batch are a square")
    return reduced(-torch.log_softmax(scores, -1).diagonal(), reduction)


def torch_any_diagonal(scores, reduction="mean"):
    return reduced(-torch.log_softmax(scores, -1).diagonal(), reduction)


def torch_diagonal_of_columns(scores, reduction="mean"):
    return torch_diagonal(scores.T, reduction)


JUDGED = {
    "boxes": Judged(
        spec_of("box_loss", box_loss, "(N, 4), (N, 4) -> (N)", {"boxes": Box(), "target": Box()}),
        torch_unchecked_boxes,
        torch_overlapping_boxes,
        "value",
    ),
    "checked boxes": Judged(
        spec_of(
            "box_loss",
            box_loss,
            "(N, 4), (N, 4) -> (N)",
            {"boxes": Box(checked=True), "target": Box(checked=True)},
        ),
        torch_boxes,
        torch_unchecked_boxes,
        "refuses-values",
    ),
    "mask": Judged(
        spec_of(
            "masked",
            masked,
            "(*), (*), (*) -> (*)",
            {"x": Real(), "y": Real(), "mask": Mask()},
            divisor=lambda mask: mask,
        ),
        torch_masked,
        torch_masked_over_all,
        "mean-divisor",
    ),
    "optional mask": Judged(
        spec_of(
            "maybe_masked",
            masked,
            "(*), (*) -> (*)",
            {"x": Real(), "y": Real()},
            options={"mask": Mask(default=1.0, shape="like x")},
            divisor=lambda mask: mask,
        ),
        torch_maybe_masked,
        torch_first_masked,
        "value",
    ),
    "temperature": Judged(
        spec_of(
            "tempered",
            tempered,
            "(N, C), (N), () -> (N)",
            {
                "input": Logit(),
                "target": ClassIndex(checked=False, tolerated=()),
                "temperature": Temperature(),
            },
        ),
        torch_tempered,
        torch_still_temperature,
        "gradient",
    ),
    "labels": Judged(
        spec_of(
            "labelled",
            labelled,
            "(N), (N) -> (N)",
            {"x": Real(), "label": Label(high=5, checked=True)},
        ),
        torch_labelled,
        torch_unchecked_labels,
        "refuses-values",
    ),
    "unit vectors": Judged(
        spec_of("cosine", cosine, "(N, D), (N, D) -> (N)", {"x": UnitVector(), "y": UnitVector()}),
        torch_cosine,
        torch_absolute_cosine,
        "value",
    ),
    "sorted values": Judged(
        spec_of("distance", distance, "(N, K), (N, K) -> (N)", {"x": Sorted(), "y": Sorted()}),
        torch_distance,
        torch_flipped_distance,
        "value",
    ),
    "ranks": Judged(
        spec_of(
            "ranked", ranked, "(N, K), (N, K) -> (N)", {"score": Real(), "rank": Rank(first=1)}
        ),
        torch_ranked,
        torch_ranked_from_0,
        "value",
    ),
    "tied axes": Judged(
        spec_of("diagonal", on_the_diagonal, "(N, N) -> (N)", {"scores": Logit()}),
        torch_diagonal,
        torch_diagonal_of_columns,
        "value",
    ),
}
each = pytest.mark.parametrize("name", JUDGED)
#: A clause is inconclusive if too few calls are about it.
FINE = {"conforms", "inconclusive", "unsupported"}


@each
def test_a_right_loss_conforms(name):
    cells = lossspec.check(JUDGED[name].spec, JUDGED[name].right, profile="quick")
    verdicts = {cell.clause: str(cell.verdict) for cell in cells}
    assert {c: v for c, v in verdicts.items() if v not in FINE} == {}
    assert verdicts["value"] == verdicts["gradient"] == "conforms"
    assert verdicts[JUDGED[name].found_by] == "conforms"


@each
def test_a_wrong_loss_is_found(name):
    judged = JUDGED[name]
    (cell,) = lossspec.check(judged.spec, judged.wrong, profile="quick", clauses=[judged.found_by])
    assert cell.verdict == "deviates"


@each
def test_the_numbers_have_the_structure_of_their_role(name):
    loss = JUDGED[name].spec
    cases = [solved.case for solved in stream(loss, PROFILES["quick"], 3)]
    assert len(cases) > 20
    for i, case in enumerate(cases):
        assert broken(loss, case) == []
        shrunk = simpler_numbers(loss, case, lambda c: True, attempts=20 if i < 6 else 0)
        assert broken(loss, shrunk) == []
        again = Case.from_json(json.loads(json.dumps(case.to_json())))
        assert all(np.array_equal(x, again.tensors[n]) for n, x in case.tensors.items())
        assert {n: x.dtype for n, x in again.tensors.items()} == {
            n: x.dtype for n, x in case.tensors.items()
        }


def test_axes_that_are_not_equal_must_raise_where_the_contract_ties_them():
    for function, verdict in ((torch_diagonal, "conforms"), (torch_any_diagonal, "deviates")):
        (cell,) = lossspec.check(
            JUDGED["tied axes"].spec, function, profile="quick", clauses=["refuses-shapes"]
        )
        assert cell.verdict == verdict


def broken(loss, case):
    """The tensors of a case with numbers that their roles or their contract do not allow."""
    assert fits(loss, case)
    form = loss.form(case.form)
    found = []
    for name, role in loss.roles(form).items():
        if name in case.tensors and isinstance(role, Constrained):
            array = case.tensors[name]
            axes = axes_of(loss, form, case.shape, name, array.ndim)
            if not role.holds(array, role.axis(axes)).all():
                found.append((name, array))
    return found


def test_masks_are_drawn_all_false_all_true_and_mixed():
    loss = JUDGED["mask"].spec
    masks = [solved.case.tensors["mask"] for solved in stream(loss, PROFILES["quick"], 0)]
    assert {mask.dtype for mask in masks} == {np.dtype(bool)}
    seen = Counter("all" if m.all() else "some" if m.any() else "none" for m in masks if m.size > 1)
    assert min(seen[kind] for kind in ("all", "some", "none")) >= 3


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize(
    "role", [UnitVector(), Box(), Sorted(), Sorted(descending=True), Rank(first=1)], ids=str
)
def test_a_restored_array_is_allowed_and_kept(role, dtype):
    rng = np.random.default_rng(0)
    numpy = np.int64 if role.integer else precision(dtype).numpy
    array = (rng.standard_normal((3, 4, 4)) * 8).astype(numpy)
    for axis in (0, 1, 2) if not isinstance(role, Box) else (1, 2):
        restored = role.restored(array, axis)
        assert restored.dtype == array.dtype
        assert role.holds(restored, axis).all()
        assert not role.holds(array, axis).all()
        assert role.restored(restored, axis).tobytes() == restored.tobytes()
        for _, wrong in role.breaches(restored, axis):
            assert not role.holds(wrong, axis).all()


@pytest.mark.parametrize(
    ("contract", "tensors", "says"),
    [
        ("(N, D), (N, D) -> (N)", {"x": Box(), "y": Box()}, "needs an axis of size 4"),
        (
            "(N, D), (N, D) -> (N)",
            {"x": UnitVector(along="K"), "y": Real()},
            "the UnitVector 'x' needs an axis 'K' to restrict its numbers along",
        ),
        ("(), () -> ()", {"x": Sorted(), "y": Real()}, "the Sorted 'x' needs an axis"),
        ("(N, 0), (N, 0) -> (N)", {"x": Real(), "y": Real()}, "got '0' in"),
        ("(N, n-1), (N) -> (N)", {"x": Real(), "y": Real()}, "got 'n-1' in"),
    ],
)
def test_a_contract_that_does_not_fit_its_roles_is_one_error(contract, tensors, says):
    with pytest.raises(lossspec.SpecError) as raised:
        spec_of("a_loss", cosine, contract, tensors)
    assert says in str(raised.value)


def test_the_page_of_a_loss_names_fixed_and_tied_axes_and_structures():
    boxes = page_of(JUDGED["checked boxes"].spec)
    assert "`4` for an axis of size 4" in boxes
    assert "along an axis of 4" in boxes
    assert "Other numbers must raise." in boxes
    assert "`N`, named twice, for two axes of one size" in page_of(JUDGED["tied axes"].spec)
    assert "An integer label from 0 to 5." in page_of(JUDGED["labels"].spec)
    assert "A rank: an integer from 1 on" in page_of(JUDGED["ranks"].spec)


def test_the_right_answer_of_a_call_takes_the_roles():
    mask = torch.tensor([True, False])
    x = torch.tensor([3.0, 5.0])
    expected = lossspec.expect(JUDGED["mask"].spec, x, torch.zeros(2), mask)
    assert float(expected.value) == 9.0
    with pytest.raises(lossspec.ArgumentTypeError, match="allowed: bool"):
        lossspec.expect(JUDGED["mask"].spec, x, torch.zeros(2), mask.float())
    swapped = torch.tensor([[2.0, 0.0, 1.0, 1.0]])
    with pytest.raises(lossspec.ArgumentError, match="x1 <= x2"):
        lossspec.expect(JUDGED["boxes"].spec, swapped, swapped)
    with pytest.raises(lossspec.ArgumentError, match="from 0 to 5"):
        lossspec.expect(JUDGED["labels"].spec, x, torch.tensor([1, 6]))


@pytest.mark.parametrize("role", [Mask(), Label(high=3), Rank(), UnitVector(), Box(), Sorted()])
def test_the_public_strategy_draws_the_role(role):
    @settings(max_examples=30, deadline=None, database=None)
    @given(lossspec.strategies.tensors(role, (3, 4)))
    def drawn(tensor):
        array = to_numpy(tensor)
        assert role.holds(array, role.axis(("N", "4"))).all()
        assert tensor.dtype == getattr(torch, role.dtypes[0] if role.integer else "float32")

    drawn()
