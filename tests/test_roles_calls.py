"""Vector and word parameters, results that hold the loss, and `settle`: right and wrong losses."""

from typing import NamedTuple

import numpy as np
import pytest
import torch

import lossspec
from lossspec.cases.case import Case
from lossspec.errors import SpecError
from lossspec.judging.profiles import PROFILES
from lossspec.judging.stream import stream
from lossspec.maths import absolute, log_softmax, pick, total
from lossspec.spec import (
    ClassIndex,
    Form,
    Key,
    Logit,
    Loss,
    NonNegative,
    Real,
    Sorted,
    choice,
    vector,
)

FINE = {"conforms", "inconclusive", "unsupported"}


def reduced(losses, reduction):
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"no reduction {reduction!r}")
    return losses if reduction == "none" else getattr(losses, reduction)()


def spec_of(define, contract, tensors, *, of_form=None, **more):
    return Loss(
        name="a_loss",
        module=None,
        summary="A loss.",
        formula="x",
        source="worked by hand",
        define=define,
        forms=(Form(shapes=(contract,), tensors=tensors, **(of_form or {})),),
        **more,
    )


def weighted(input, target, class_weights):
    return -pick(class_weights, target) * pick(log_softmax(input), target)


WEIGHTED = spec_of(
    weighted,
    "(N, C), (N) -> (N)",
    {"input": Logit(), "target": ClassIndex(checked=False, tolerated=())},
    parameters={
        "class_weights": vector(
            (1.0, 1.0), (0.3, 2.0), (0.1, 0.0, 4.0), along="C", refused=((-1.0, 1.0),)
        )
    },
)


def torch_weighted(input, target, class_weights=(1.0, 1.0), reduction="mean"):
    if input.shape[:-1] != target.shape or min(class_weights) < 0:
        raise ValueError("the shapes or the weights are wrong")
    weights = torch.tensor(class_weights, dtype=input.dtype)[target]
    losses = -torch.log_softmax(input, -1).gather(-1, target[:, None])[:, 0]
    return reduced(weights * losses, reduction)


def torch_weighted_in_half(input, target, class_weights=(1.0, 1.0), reduction="mean"):
    rounded = torch.tensor(class_weights).bfloat16().tolist()
    return torch_weighted(input, target, rounded, reduction)


def apart(x, y, distance):
    return absolute(x - y) if distance == "absolute" else (x - y) ** 2


APART = spec_of(
    apart,
    "(*), (*) -> (*)",
    {"x": Real(), "y": Real()},
    parameters={"distance": choice("absolute", "squared", refused=("cubed",), doc="Which one.")},
)


def torch_apart(x, y, distance="absolute", reduction="mean"):
    if x.shape != y.shape or distance not in ("absolute", "squared"):
        raise ValueError("the shapes or the distance are wrong")
    return reduced((x - y).abs() if distance == "absolute" else (x - y) ** 2, reduction)


def torch_always_absolute(x, y, distance="absolute", reduction="mean"):
    return torch_apart(x, y, "absolute", reduction)


def torch_any_word(x, y, distance="absolute", reduction="mean"):
    return torch_apart(x, y, "absolute" if distance == "absolute" else "squared", reduction)


def verdicts(spec, function, **given):
    cells = lossspec.check(spec, function, profile="quick", **given)
    return {cell.clause: str(cell.verdict) for cell in cells}


@pytest.mark.parametrize(
    ("spec", "right", "judged"),
    [
        (WEIGHTED, torch_weighted, {"value", "gradient", "refuses-parameters"}),
        (APART, torch_apart, {"value", "gradient", "refuses-parameters"}),
    ],
    ids=["vector", "word"],
)
def test_a_right_loss_with_such_a_parameter_conforms(spec, right, judged):
    found = verdicts(spec, right)
    assert {c: v for c, v in found.items() if v not in FINE} == {}
    assert {found[clause] for clause in judged} == {"conforms"}


@pytest.mark.parametrize(
    ("spec", "wrong", "clause"),
    [
        (WEIGHTED, torch_weighted_in_half, "value"),
        (APART, torch_always_absolute, "value"),
        (APART, torch_any_word, "refuses-parameters"),
    ],
    ids=["vector", "word", "unknown word"],
)
def test_a_wrong_loss_with_such_a_parameter_is_found(spec, wrong, clause):
    assert verdicts(spec, wrong, clauses=[clause]) == {clause: "deviates"}


def test_a_training_run_has_no_more_classes_than_the_vector():
    (cell,) = lossspec.check(WEIGHTED, torch_weighted, profile="standard", clauses=["trained"])
    assert cell.verdict == "conforms"


def test_a_vector_is_drawn_in_each_length_and_stored_as_a_tuple():
    cases = [solved.case for solved in stream(WEIGHTED, PROFILES["quick"], 0)]
    assert {len(case.parameters["class_weights"]) for case in cases} == {2, 3}
    for case in cases:
        again = Case.from_json(case.to_json())
        assert again.parameters == case.parameters
        assert case.tensors["input"].shape[1] == len(case.parameters["class_weights"])


def test_the_right_answer_of_a_call_takes_a_list_for_a_vector():
    input, target = torch.zeros(2, 2), torch.tensor([0, 1])
    expected = lossspec.expect(WEIGHTED, input, target, class_weights=[3.0, 1.0])
    assert float(expected.value) == pytest.approx(2 * np.log(2))
    with pytest.raises(lossspec.ArgumentError, match="no shape contract"):
        lossspec.expect(WEIGHTED, input, target, class_weights=[1.0, 1.0, 1.0])
    with pytest.raises(lossspec.ArgumentError, match="out of range"):
        lossspec.expect(WEIGHTED, input, target, class_weights=[-1.0, 1.0])


class Result(NamedTuple):
    loss: torch.Tensor
    error: torch.Tensor


def returning(make):
    """A function with `reduction` whose result holds the loss and another number."""

    def function(x, y, reduction="mean"):
        if x.shape != y.shape:
            raise ValueError("the shapes differ")
        return make(reduced((x - y).abs(), reduction), (x - y).detach().abs().sum())

    return function


def every_reduction(x, y):
    """A function that returns all reductions at once."""
    if x.shape != y.shape:
        raise ValueError("the shapes differ")
    losses = (x - y).abs()
    return losses.mean(), losses.sum(), losses


RESULTS = {
    "tuple": (0, returning(lambda loss, error: (loss, error))),
    "dict": (Key("loss"), returning(lambda loss, error: {"loss": loss, "error": error})),
    "attribute": ("loss", returning(Result)),
}


def with_results(results):
    return spec_of(
        lambda x, y: absolute(x - y),
        "(*), (*) -> (*)",
        {"x": Real(), "y": Real()},
        results=results,
        results_on=("function",),
    )


@pytest.mark.parametrize("kind", RESULTS)
def test_the_loss_is_taken_from_the_result_of_a_function(kind):
    place, function = RESULTS[kind]
    spec = with_results(dict.fromkeys(("mean", "sum", "none"), place))
    found = verdicts(spec, function)
    assert {c: v for c, v in found.items() if v not in FINE} == {}
    assert found["value"] == found["gradient"] == found["refuses-reductions"] == "conforms"
    swapped = {0: 1, "loss": "error", Key("loss"): Key("error")}[place]
    wrong = with_results(dict.fromkeys(("mean", "sum", "none"), swapped))
    assert verdicts(wrong, function, clauses=["value"]) == {"value": "deviates"}


def test_a_result_with_every_reduction_takes_no_reduction():
    spec = with_results({"mean": 0, "sum": 1, "none": 2})
    found = verdicts(spec, every_reduction)
    assert {c: v for c, v in found.items() if v not in FINE} == {}
    assert found["value"] == found["sum-of-none"] == "conforms"
    assert "refuses-reductions" not in found or found["refuses-reductions"] != "deviates"
    swapped = with_results({"mean": 1, "sum": 0, "none": 2})
    assert verdicts(swapped, every_reduction, clauses=["value"]) == {"value": "deviates"}


def test_a_tensor_in_place_of_a_result_is_found():
    spec = with_results(dict.fromkeys(("mean", "sum", "none"), 0))
    plain = returning(lambda loss, error: loss)
    (cell,) = lossspec.check(spec, plain, profile="quick", clauses=["accepts"])
    assert cell.verdict == "deviates"
    assert "the call returned a tensor, not a result with [0]" in str(cell.got)


def test_a_spec_whose_results_lack_a_reduction_is_refused():
    with pytest.raises(SpecError, match="results lacks the reductions sum, none"):
        with_results({"mean": 0})


def shrinking_settle(rng, tensors, parameters):
    tensors["y"] = tensors["y"][:1]


def negative_settle(rng, tensors, parameters):
    tensors["y"][...] = -1


def unsorting_settle(rng, tensors, parameters):
    tensors["x"][...] = np.arange(tensors["x"].shape[-1])[::-1]


def new_parameter_settle(rng, tensors, parameters):
    parameters["margin"] = 1.0


@pytest.mark.parametrize(
    ("settle", "says"),
    [
        (
            shrinking_settle,
            r"settle changed y from the shape \[2, 2\] to \[1, 2\]; .* keep the size of N",
        ),
        (negative_settle, "settle set y to numbers that NonNegative does not allow"),
        (unsorting_settle, "settle set x to numbers that Sorted does not allow"),
        (new_parameter_settle, "settle set the parameter 'margin'"),
    ],
    ids=["sizes", "domain", "structure", "parameter"],
)
def test_what_settle_breaks_is_one_error_of_the_spec(settle, says):
    spec = spec_of(
        lambda x, y: total(absolute(x - y)),
        "(N, 2), (N, 2) -> (N)",
        {"x": Sorted(), "y": NonNegative()},
        of_form={"settle": settle},
    )
    with pytest.raises(SpecError, match=says) as raised:
        lossspec.check(spec, lambda x, y: (x - y).abs().sum(-1).mean(), profile="quick")
    assert str(raised.value).startswith("spec 'a_loss': ")
