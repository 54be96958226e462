"""Symptoms and conditions of known deviations: each covers exactly its own results."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from listed_deviations import HALF, PLAIN, WEIGHTED, WRONG, known, listed

from lossspec.cases.case import Case
from lossspec.cases.features import features
from lossspec.clauses.trial import Deviation, failed
from lossspec.judging.conditions import describes, meets
from lossspec.judging.profiles import PROFILES
from lossspec.judging.stream import stream
from lossspec.judging.symptoms import shown, symptom_of
from lossspec.spec.catalogue import find


def number(got, want, gradient_of=None) -> Deviation:
    return Deviation("the value", got, want, check=None, gradient_of=gradient_of)


def accepted(**replaced) -> Deviation:
    return Deviation("it is wrong", 1, "an error", check=None, replaced=replaced, accepted=True)


INF, NAN = np.inf, np.nan
SHAPE = Deviation("its shape", (1,), (), check=None, shapes=((1,), ()))
ALONG = Deviation("the value along axes -1 of x, 0 of y", 2.0, 1.0, check=None)
RAISED = failed("the call", RuntimeError("Found dtype Float"))
MISSING = Deviation("no gradient", "None", "one", check=None, gradient_of="input", missing=True)
INPUT = torch.from_numpy(np.zeros(PLAIN.tensors["input"].shape, np.float32))
LONGER = torch.zeros([size + 1 for size in INPUT.shape] or [2])


@pytest.mark.parametrize(
    ("shows", "deviation", "covers"),
    [
        ({"is": "infinite"}, number(INF, 1.0), True),
        ({"is": "infinite"}, number(-INF, 1.0), True),
        ({"is": "infinite"}, number(NAN, 1.0), False),
        ({"is": "infinite"}, number(1.5, 1.0), False),
        ({"is": "nan"}, number(NAN, 1.0), True),
        ({"is": "nan"}, number(INF, 1.0), False),
        ({"is": "zero"}, number(0.0, 1.0), True),
        ({"is": "zero"}, number(1e-9, 1.0), False),
        ({"is": "zero"}, number(-0.0, 1.0), True),
        ({"is": "finite"}, number(0.0, 1.0), True),
        ({"is": "finite"}, number(3.0, NAN), True),
        ({"is": "finite"}, number(INF, 1.0), False),
        ({"is": ["nan", "infinite"]}, number(INF, 1.0), True),
        ({"is": ["nan", "infinite"]}, number(2.0, 1.0), False),
        ({"is": "missing"}, MISSING, True),
        ({"is": "finite"}, MISSING, False),
        ({"is": "finite"}, SHAPE, False),
        ({"is": "finite"}, RAISED, False),
        ({"is": "finite", "of": "value"}, number(2.0, 1.0), True),
        ({"is": "finite", "of": "value"}, number(2.0, 1.0, "input"), False),
        ({"is": "finite", "of": "gradient of input"}, number(2.0, 1.0, "input"), True),
        ({"is": "finite", "of": "gradient of input"}, number(2.0, 1.0, "target"), False),
        ({"is": "finite", "of": ["value", "gradient of target"]}, number(2, 1, "target"), True),
        ({"is": "finite", "what": "-1 of x"}, ALONG, True),
        ({"is": "finite", "what": "-1 of y"}, ALONG, False),
        ({"is": "nan", "what": "-1 of x"}, ALONG, False),
        # An absolute error up to 1, and a relative one beyond.
        ({"off": 1e-9}, number(1e-9, 0.0), True),
        ({"off": 1e-9}, number(2e-9, 0.0), False),
        ({"off": 0.125}, number(112.5, 100.0), True),
        ({"off": 0.125}, number(113.0, 100.0), False),
        ({"off": 1e9}, number(INF, 1.0), False),
        ({"off": 1e9}, number(1.0, NAN), False),
        ({"off": 1e9}, SHAPE, False),
        ({"factor": 2.0}, number(2.0, 1.0), True),
        ({"factor": 2.0}, number(0.5, 1.0), True),
        ({"factor": 2.0}, number(2.5, 1.0), False),
        ({"factor": 2.0}, number(0.4, 1.0), False),
        ({"factor": 2.0}, number(-1.0, 1.0), False),
        ({"factor": 2.0}, number(1.0, 0.0), False),
        ({"factor": 2.0}, number(INF, 1.0), False),
        ({"shape": "(1)"}, SHAPE, True),
        ({"shape": "wrong"}, SHAPE, True),
        ({"shape": "(2)"}, SHAPE, False),
        ({"shape": "wrong"}, number(2.0, 1.0), False),
        ({"raises": "RuntimeError"}, RAISED, True),
        ({"raises": "RuntimeError", "says": "Found dtype"}, RAISED, True),
        ({"raises": "RuntimeError", "says": "found"}, RAISED, False),
        ({"raises": "TypeError"}, RAISED, False),
        ({"raises": "RuntimeError"}, number(2.0, 1.0), False),
        ({"accepts": "reduction"}, accepted(reduction="avg"), True),
        ({"accepts": "reduction", "given": "avg"}, accepted(reduction="avg"), True),
        ({"accepts": "reduction", "given": "avg"}, accepted(reduction="Mean"), False),
        ({"accepts": "weight"}, accepted(reduction="avg"), False),
        ({"accepts": "weight", "given": "<0"}, accepted(weight=-0.5), True),
        ({"accepts": "weight", "given": "<0"}, accepted(weight=1.5), False),
        ({"accepts": "input", "given": "more axes"}, accepted(input=INPUT[None]), True),
        ({"accepts": "input", "given": "longer"}, accepted(input=INPUT[None]), False),
        ({"accepts": "input", "given": "another dtype"}, accepted(input=INPUT.long()), True),
        ({"accepts": "input", "given": "other numbers"}, accepted(input=INPUT), True),
        ({"accepts": "input"}, number(2.0, 1.0), False),
        ({"accepts": ["input", "target"]}, accepted(input=INPUT, target=INPUT), True),
        ({"accepts": "input"}, accepted(input=INPUT, target=INPUT), False),
        ({"breach": "the value"}, number(2.0, 1.0), True),
        ({"breach": "the mean"}, number(2.0, 1.0), False),
    ],
)
def test_a_symptom_covers_only_its_results(shows, deviation, covers):
    assert shown(shows, PLAIN, deviation) is covers
    assert known(PLAIN, shows=shows).covers(PLAIN, deviation) is covers


def test_a_known_deviation_covers_nothing_outside_its_condition():
    entry = known(HALF, when={"dtype": "float16"}, shows={"is": "finite"})
    assert entry.covers(HALF, number(2.0, 1.0))
    assert not entry.covers(PLAIN, number(2.0, 1.0))


@pytest.mark.parametrize(
    ("deviation", "shows"),
    [
        (number(INF, 1.0), {"is": "infinite", "of": "value"}),
        (number(NAN, 1.0, "input"), {"is": "nan", "of": "gradient of input"}),
        (number(0.0, 1.0), {"is": "finite", "of": "value"}),
        (number(1 + 2e-7, 1.0), {"off": 1e-5, "of": "value"}),
        (number(1.5, 1.0), {"is": "finite", "of": "value"}),
        (MISSING, {"is": "missing", "of": "gradient of input"}),
        (SHAPE, {"shape": "wrong", "of": "value"}),
        (RAISED, {"raises": "RuntimeError"}),
        (accepted(reduction="avg"), {"accepts": "reduction", "given": "avg"}),
        (accepted(input=INPUT[None]), {"accepts": "input", "given": "more axes"}),
        (accepted(input=INPUT, target=INPUT), {"accepts": ["input", "target"]}),
        (
            Deviation("input was written to at [3]", "1", "2", check=None),
            {"breach": "input was written to"},
        ),
    ],
)
def test_a_new_entry_has_the_observed_symptom(deviation, shows):
    assert symptom_of(PLAIN, deviation) == shows
    assert shown(shows, PLAIN, deviation)


def test_the_numbers_of_two_arrays_that_differ_most_are_kept():
    deviation = Deviation("x", np.array([1.0, 5.0]), np.array([1.5, 3.0]), check=None)
    assert deviation.numbers == (5.0, 3.0)
    deviation = Deviation("x", np.array([NAN, 5.0]), np.array([1.5, 3.0]), check=None)
    assert np.isnan(deviation.numbers[0])
    assert Deviation("x", np.zeros(2), np.zeros(3), check=None).numbers is None
    assert Deviation("x", "None", "a tensor", check=None).numbers is None
    assert Deviation("x", True, 1.0, check=None).numbers is None


# === conditions ===========================================================================


@pytest.mark.parametrize(
    ("value", "wanted", "met"),
    [
        (0.1, ">0", True),
        (0.0, ">0", False),
        (0.0, ">=0", True),
        (-1, "<0", True),
        (2, "<=1.5", False),
        (2, "==2", True),
        (2.0, "!=2", False),
        (2, 2, True),
        (2, [1, 2], True),
        (3, [1, ">=3"], True),
        (2, [0, 1], False),
        (True, True, True),
        (1, True, False),
        (True, 1, False),
        (True, ">0", False),
        (None, ">0", False),
        (None, "==None", True),
        ("auto", "!=None", True),
        (None, "!=None", False),
        ("auto", "auto", True),
        ("auto", ">0", False),
    ],
)
def test_a_parameter_is_compared_with_a_condition(value, wanted, met):
    assert meets(value, wanted) is met


def drawn(loss: str, condition) -> Case:
    for solved in stream(find(loss), PROFILES["standard"], 0):
        if condition(solved.case):
            return solved.case
    raise LookupError(loss)


def test_a_condition_may_name_parameters_gradients_and_absent_tensors():
    case = drawn("cross_entropy", lambda case: case.parameters["label_smoothing"] == 0.1)
    assert describes({"parameters": {"label_smoothing": ">0"}}, case)
    assert not describes({"parameters": {"label_smoothing": 0.0}}, case)
    case = replace(WEIGHTED, requires_grad=("input",))
    assert describes({"gradients": ["input"]}, case)
    assert not describes({"gradients": ["input", "target"]}, case)
    assert not describes({"absent": "weight"}, WEIGHTED)
    assert describes({"absent": "weight"}, PLAIN)


def of_input(*numbers, dtype="float32", layout="contiguous") -> frozenset[str]:
    array = np.asarray(numbers, PLAIN.tensors["input"].dtype if dtype == "float32" else dtype)
    case = replace(
        PLAIN,
        contract="(*), (*) -> (*)",
        spread=1,
        dtype=dtype,
        tensors={"input": array, "target": np.full_like(array, 0.5)},
        layouts={} if layout == "contiguous" else {"input": layout},
    )
    return features(case)


@pytest.mark.parametrize(
    ("word", "has", "lacks"),
    [
        ("input holds 0", of_input(0, 2), of_input(1, 2)),
        ("input holds -1", of_input(-1, 2), of_input(1, 2)),
        ("input near 0", of_input(1e-20, 1), of_input(0, 1)),
        ("exponentials overflow", of_input(-89), of_input(88)),
        ("exponentials overflow", of_input(12, dtype="float16"), of_input(11, dtype="float16")),
        ("small norms", of_input(0.05, 0.05), of_input(0.05, 0.1)),
        ("small norms", of_input(0.01), of_input(0, 0)),
        ("norms of 0", of_input(0, 0), of_input(0, 1)),
        ("large norms", of_input(12, 12, dtype="float16"), of_input(11, 11, dtype="float16")),
        ("input not contiguous", of_input(1, 2, layout="sliced"), of_input(1, 2)),
    ],
)
def test_a_feature_describes_the_numbers_of_a_case(word, has, lacks):
    assert word in has
    assert word not in lacks


def test_a_feature_depends_on_roles_and_parameters():
    ends = drawn("multilabel_margin_loss", lambda c: (c.tensors["target"] == -1).any())
    assert "target ends early" in features(ends)
    full = drawn(
        "multilabel_margin_loss",
        lambda c: c.tensors["target"].size and (c.tensors["target"] >= 0).all(),
    )
    assert "target ends early" not in features(full)
    edge = drawn("binary_cross_entropy", lambda c: (c.tensors["input"] == 1).any())
    assert "input at an end of its domain" in features(edge)
    inside = drawn(
        "binary_cross_entropy",
        lambda c: (
            c.tensors["input"].size
            and c.tensors["input"].min() > 0
            and c.tensors["input"].max() < 1
        ),
    )
    assert "input at an end of its domain" not in features(inside)
    low = drawn(
        "gaussian_nll_loss", lambda c: (c.tensors["var"] < np.float64(c.parameters["eps"])).any()
    )
    assert "var below eps" in features(low)


# === runs =================================================================================


def test_a_symptom_other_than_the_known_one_deviates(workplace):
    """Check a loss that is 1 too large with a weight, where the entry says NaN."""
    workplace.write(wrong=WRONG)
    words = ("--impl=wrong", "--profile=quick", "--loss=l1_loss", "--clause=value")
    entries = [
        known(HALF, when={"dtype": ["float16", "bfloat16"]}),
        known(WEIGHTED, when={"options": ["weight"]}, shows={"is": "nan"}),
    ]
    assert workplace.run(*words, listed(workplace, *entries)).status == 1
    cell = workplace.cells("wrong")["l1_loss/value[function-cpu]"]
    assert cell["verdict"] == "deviates"
    assert "its stored case fails in another way (the value with " in cell["reason"]
    assert "correct its `shows`, or remove it" in cell["reason"]
    entries[1] = replace(entries[1], shows={"off": 1.0, "of": "value"})
    # The error is added to the result, so a sum is off by 1 as well.
    assert workplace.run(*words, listed(workplace, *entries)).status == 0


def test_a_clause_continues_after_a_known_deviation(workplace):
    """Check a loss that is infinite in float16, which is known, and 1 too large with a weight."""
    workplace.write(
        wrong="""
            from torch.nn import functional as F

            def l1_loss(input, target, weight=None, reduction="mean"):
                wrong = 1 if weight is not None else 0
                if input.dtype.itemsize == 2:
                    wrong = float("inf")
                return F.l1_loss(input, target, weight=weight, reduction=reduction) + wrong
        """
    )
    words = ("--impl=wrong", "--profile=quick", "--loss=l1_loss", "--clause=value")
    infinite = known(HALF, shows={"is": "infinite"})
    assert workplace.run(*words, listed(workplace, infinite)).status == 1
    cell = workplace.cells("wrong")["l1_loss/value[function-cpu]"]
    assert cell["verdict"] == "deviates"
    assert "weight" in cell["case"]["tensors"]
    both = [infinite, known(WEIGHTED, shows={"off": 1.0})]
    assert workplace.run(*words, listed(workplace, *both)).status == 0
