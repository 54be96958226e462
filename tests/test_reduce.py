"""Shrinking: from a failing case to a simple, valid one that still fails."""

import numpy as np
import pytest

from lossspec.cases.axes import part_along
from lossspec.cases.case import Case
from lossspec.cases.features import features
from lossspec.cases.shrink import fits, simpler_numbers
from lossspec.judging.profiles import Profile
from lossspec.judging.shrinking import NUMBERS, STRUCTURES
from lossspec.judging.shrinking import shrink as shrink_solved
from lossspec.judging.stream import stream
from lossspec.maths import absolute, total
from lossspec.oracle.solver import SolvedCase, solve
from lossspec.spec.catalogue import catalogue, find
from lossspec.spec.loss import AnySize, Form, Loss
from lossspec.spec.roles import ClassIndex, Real

IGNORED = {"some ignored", "all ignored"}
#: The draw by the identity of its case. It is kept, so that no other case gets that identity.
DRAWN: dict[int, SolvedCase] = {}


def drawn(name: str, count: int = 40, seed: int = 0) -> list[Case]:
    solved = stream(find(name), Profile("quick", count, 1), seed)
    DRAWN.update((id(each.case), each) for each in solved)
    return [each.case for each in solved]


def shrink(loss: Loss, case: Case, fails) -> Case:
    """Return the simplest case, shrunk from a drawn one, that still fails."""
    return shrink_solved(DRAWN[id(case)], lambda solved: fails(solved.case)).case


def first(name: str, wanted) -> Case:
    return next(case for case in drawn(name, 200) if wanted(case))


def numbers(case: Case) -> int:
    return sum(array.size for array in case.tensors.values())


def is_valid(case: Case) -> bool:
    """Return whether the oracle solves a case and its numbers fit their roles."""
    loss = find(case.loss)
    form = loss.form(case.form)
    roles, sizes = loss.roles(form), case.axis_sizes(loss)
    expected = solve(loss, case)
    for name, array in case.tensors.items():
        role = roles[name]
        if isinstance(role, ClassIndex):
            fine = role.allows(array, sizes[role.classes], case.parameters)
            fine |= (array < 0) & (form.settle is not None)
        else:
            x = array.astype(np.float64)
            fine = ~np.isfinite(x) | ((x >= role.low) & (x <= role.high))
            fine |= expected.ignored(name, x.shape)  # an ignored row may hold anything
        if role.style in ("positive", "sign"):
            fine = fine & (array != 0)
        if not np.all(fine):
            return False
    return expected.losses.shape == case.cotangent.shape


def test_shrinking_keeps_nan_in_ignored_rows():
    loss = find("nll_loss")
    wild = [
        case
        for case in drawn("nll_loss", 200)
        if np.isnan(case.tensors["input"].astype(np.float64)).any()
    ]

    def fails(case: Case) -> bool:
        return bool(np.isnan(case.tensors["input"].astype(np.float64)).any())

    for case in wild[:5]:
        got = shrink(loss, case, fails)
        assert solve(loss, got).counted.sum() < got.tensors["target"].size


@pytest.mark.parametrize("name", catalogue())
def test_a_failing_case_is_shrunk_to_a_small_valid_case(name):
    loss = find(name)
    for case in [c for c in drawn(name) if numbers(c) > 20 and not features(c) & IGNORED][:2]:
        got = shrink(loss, case, lambda candidate: True)
        assert is_valid(got)
        assert numbers(got) <= numbers(case)
        assert got.layouts == {}
        assert got.scale == 1
        assert not set(got.tensors) & set(loss.options)


FAILURES = {
    "two elements": ("l1_loss", lambda case: case.axis_sizes(find("l1_loss")).get("d1", 0) > 1),
    "a weight": ("l1_loss", lambda case: "weight" in case.tensors),
    "a layout": ("l1_loss", lambda case: case.layouts.get("target") == "sliced"),
    "two gradients": ("l1_loss", lambda case: len(case.requires_grad) > 1),
    "a number": ("mse_loss", lambda case: (case.tensors["input"].astype(float) < -1).any()),
    "a parameter": ("huber_loss", lambda case: case.parameters["delta"] != 1),
    "three classes": ("nll_loss", lambda case: case.axis_sizes(find("nll_loss"))["C"] > 2),
    "ignored rows": ("nll_loss", lambda case: features(case) & IGNORED != set()),
    "two further axes": ("nll_loss", lambda case: case.spread > 1),
    "a form": ("cross_entropy", lambda case: case.form == "class probabilities"),
    "a value": ("cross_entropy", lambda case: case.parameters["label_smoothing"] == 0.5),
    "nothing": ("kl_div", lambda case: "empty" in features(case)),
}


@pytest.mark.parametrize("what", FAILURES)
def test_a_shrunk_case_still_fails_and_is_no_larger(what):
    name, fails = FAILURES[what]
    case = first(name, lambda case: fails(case) and (numbers(case) > 10 or what == "nothing"))
    asked = []

    def failing(candidate: Case) -> bool:
        asked.append(candidate)
        return bool(fails(candidate))

    got = shrink(find(name), case, failing)
    assert fails(got)
    assert numbers(got) <= numbers(case)
    assert all(map(is_valid, asked))
    assert len(asked) <= STRUCTURES + NUMBERS + 20


def test_a_case_without_a_simpler_failure_is_unchanged():
    case = drawn("cross_entropy")[7]
    assert shrink(find("cross_entropy"), case, lambda candidate: False) is case


def test_shrinking_has_a_limited_number_of_attempts():
    asked = []
    case = drawn("l1_loss")[3]
    simpler_numbers(find("l1_loss"), case, lambda c: bool(asked.append(c)), attempts=5)
    assert len(asked) <= 5


def test_a_wrong_divisor_is_shrunk_to_two_rows_of_one_class():
    def fails(case: Case) -> bool:
        target = case.tensors["target"]
        counted = target != case.parameters["ignore_index"]
        losses = solve(find("nll_loss"), case).losses
        return bool(counted.any() and not counted.all() and losses.sum() != 0)

    def wanted(case: Case) -> bool:
        return case.spread == 1 and numbers(case) > 10 and fails(case)

    got = shrink(find("nll_loss"), first("nll_loss", wanted), fails)
    assert got.contract == "(N, C), (N) -> (N)"
    assert got.parameters == {"ignore_index": -100}
    assert got.omitted == {"ignore_index"}
    assert sorted(got.tensors["target"].tolist()) == [-100, 0]
    assert sorted(got.tensors["input"].astype(float).ravel().tolist()) == [-1, 0]


def test_part_of_an_axis_is_selected_in_every_tensor_with_it():
    loss = find("nll_loss")
    case = first("nll_loss", lambda c: "weight" in c.tensors and c.axis_sizes(loss)["C"] == 3)
    got = part_along(loss, case, "C", np.array([2, 0]))
    assert np.array_equal(got.tensors["weight"], case.tensors["weight"][[2, 0]], equal_nan=True)
    axis = case.shape.inputs[0].index("C")
    want = np.take(case.tensors["input"], [2, 0], axis)
    assert np.array_equal(got.tensors["input"], want, equal_nan=True)
    assert got.tensors["target"].tolist() == case.tensors["target"].tolist()


@pytest.mark.parametrize("name", ["linear_cross_entropy", "cross_entropy", "nll_loss"])
def test_ignored_rows_of_further_axes_can_be_shrunk(name):
    loss = find(name)

    def ignored(case: Case) -> bool:
        several = case.axis_sizes(loss).get("d1", 1) > 1  # to which the batch may not be turned
        return several and bool(features(case) & IGNORED)

    cases = [c for c in drawn(name, 300) if ignored(c) and numbers(c) < 200]
    assert len(cases) > 10
    for case in cases[:12]:
        asked: list[Case] = []

        def failing(candidate: Case, asked: list[Case] = asked) -> bool:
            asked.append(candidate)
            return ignored(candidate)

        got = shrink(loss, case, failing)
        assert ignored(got)
        assert [c.to_json() for c in asked if not fits(loss, c)] == []


def of_sizes(settle=None, **sizes):
    """Return a loss of matrix rows whose length the spec fixes."""
    return Loss(
        name="of_rows",
        module=None,
        summary="The absolute difference of the sums of two rows.",
        formula="x",
        source="by hand",
        define=lambda input, target: absolute(total(input) - total(target)),
        forms=(
            Form(
                shapes=("(N, X), (N, X) -> (N)",),
                tensors={"input": Real(), "target": Real()},
                sizes=sizes,
                settle=settle,
            ),
        ),
    )


@pytest.mark.parametrize(
    ("sizes", "allowed", "ends"),
    [
        ({"X": (4,)}, {4}, 4),
        ({"X": (4, 6, 9)}, {4, 6, 9}, 4),
        ({"X": lambda sizes, parameters: 4}, {4}, 4),
        ({"X": AnySize((4, 9))}, set(range(1, 10)), 1),
        ({"N": (3, 5), "X": (8, 2)}, {8, 2}, 2),
    ],
    ids=["one", "several", "rule", "any", "batch"],
)
def test_shrinking_keeps_the_sizes_that_the_spec_allows(sizes, allowed, ends):
    settled = []

    def settle(rng, tensors, parameters):
        settled.append(tensors["input"].shape)
        assert tensors["input"].shape == tensors["target"].shape

    loss = of_sizes(settle, **sizes)
    for solved in stream(loss, Profile("quick", 12, 1), 0):
        asked: list[Case] = [solved.case]
        got = shrink_solved(solved, lambda c, asked=asked: asked.append(c.case) is None).case
        if solved.case.tensors["input"].shape[0]:
            assert got.tensors["input"].shape[1] == ends
        for shape in (*(c.tensors["input"].shape for c in asked), *settled):
            assert shape[1] in allowed
            assert "N" not in sizes or shape[0] in (3, 5)
