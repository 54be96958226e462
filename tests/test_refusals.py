"""Refusals by a rule of the spec: a valid call follows it, and a call that breaks it must raise."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import lossspec
from lossspec.cases.breaking import broken
from lossspec.clauses import clauses
from lossspec.errors import ArgumentError, SpecError
from lossspec.implementations.oracle import function
from lossspec.judging.profiles import PROFILES
from lossspec.judging.stream import stream
from lossspec.maths import log, positive_part, total
from lossspec.spec import AnySize, Example, Form, Loss, Positive, Real, Refusal, number
from lossspec.spec.catalogue import find
from lossspec.spec_pages.pages import text


def outside(input, low, high):
    """Return how far a number is outside an interval."""
    return positive_part(low - input) + positive_part(input - high)


def in_order(low, high):
    return (low <= high).all()


def ordered(rng, tensors, parameters):
    low, high = tensors["low"], tensors["high"]
    tensors["low"], tensors["high"] = np.minimum(low, high), np.maximum(low, high)


SAYS = "an interval ends before it starts"


def interval(settle=ordered, examples=(), define=outside, **refusal):
    refusal = {"says": SAYS, "rule": in_order, "raises": ValueError} | refusal
    return Loss(
        name="interval_loss",
        module=None,
        summary="How far a number is outside an interval.",
        formula="x",
        source="by hand",
        define=define,
        forms=(
            Form(
                shapes=("(*), (*), (*) -> (*)",),
                tensors={"input": Real(), "low": Real(), "high": Real()},
                settle=settle,
            ),
        ),
        refusals=(Refusal(**refusal),),
        examples=examples,
    )


def reduced(losses, reduction):
    return losses if reduction == "none" else getattr(losses, reduction)()


def lenient(input, low, high, reduction="mean"):
    return reduced((low - input).relu() + (input - high).relu(), reduction)


def refusing(error):
    def checked(input, low, high, reduction="mean"):
        if (low > high).any():
            raise error
        return lenient(input, low, high, reduction)

    return checked


def check(loss, target, clauses=("refuses-calls",)):
    return lossspec.check(loss, target, profile="quick", clauses=clauses and list(clauses))


def failing(loss, target, clauses=None):
    return {cell.clause: cell for cell in check(loss, target, clauses) if cell.verdict.fails}


# === one rule of two tensors ==============================================================


def test_an_implementation_that_refuses_by_the_rule_conforms():
    def right(input, low, high, reduction="mean"):
        if not input.shape == low.shape == high.shape:
            raise ValueError("the shapes differ")
        return refusing(ValueError("low exceeds high"))(input, low, high, reduction)

    cells = check(interval(), right, None)
    assert {cell.clause: cell.reason for cell in cells if cell.verdict.fails} == {}
    (refuses,) = [cell for cell in cells if cell.clause == "refuses-calls"]
    assert refuses.informative == refuses.examples > 0


@pytest.mark.parametrize("error", [ValueError("x"), UnicodeError("a subclass of ValueError")])
def test_an_allowed_error_type_conforms(error):
    assert failing(interval(), refusing(error), ["refuses-calls"]) == {}


def test_a_call_that_breaks_the_rule_without_an_error_deviates():
    (cell,) = check(interval(), lenient)
    assert (cell.verdict, cell.want) == ("deviates", "ValueError")
    assert cell.reason == f"{SAYS}, yet nothing was raised"


@pytest.mark.parametrize("error", [TypeError("no"), KeyError("no"), NotImplementedError("no")])
def test_an_error_of_another_type_deviates(error):
    (cell,) = check(interval(), refusing(error))
    assert (cell.verdict, cell.want) == ("deviates", "ValueError")
    assert cell.reason == f"{SAYS}: the type of the error"
    assert cell.got == f"{type(error).__name__}: {error}"


def test_several_types_may_be_allowed_and_without_types_any_is():
    either = interval(raises=(TypeError, IndexError))
    assert failing(either, refusing(IndexError("no")), ["refuses-calls"]) == {}
    assert failing(either, refusing(ValueError("no")))["refuses-calls"].want == (
        "TypeError or IndexError"
    )
    assert failing(interval(raises=()), refusing(KeyError("no")), ["refuses-calls"]) == {}


def test_a_bare_assert_deviates_even_if_the_type_is_allowed():
    (cell,) = check(interval(raises=AssertionError), refusing(AssertionError()))
    assert cell.reason == f"{SAYS}: an assert without a message"


WRONG = """
def interval_loss(input, low, high, reduction="mean"):
    if (low > high).any():
        raise {error}("low exceeds high")
    losses = (low - input).relu() + (input - high).relu()
    return losses if reduction == "none" else getattr(losses, reduction)()
"""


def test_the_reproduction_script_fails_for_an_error_of_another_type_only(tmp_path):
    mine = lossspec.Implementation(
        "mine",
        {"interval_loss": refusing(TypeError("no"))},
        own=(interval(),),
        found={"interval_loss": "mine:interval_loss"},
    )
    mark = lossspec.parametrize(mine, losses=["interval_loss"], clauses=["refuses-calls"]).mark
    (judge,) = mark.args[1][0].values
    record, script = judge.run.judge(judge.cell, judge.beside)
    assert record.verdict == "deviates"
    (tmp_path / "script.py").write_text(script)
    for error, status in (("TypeError", 1), ("ValueError", 0), ("UnicodeError", 0)):
        (tmp_path / "mine.py").write_text(WRONG.format(error=error))
        done = subprocess.run(
            [sys.executable, "-B", "script.py"], cwd=tmp_path, capture_output=True, check=False
        )
        assert done.returncode == status, done.stdout + done.stderr


# === other rules ==========================================================================


def ruled(define, shape, tensors, rule, parameters=None, form=None, **refusal):
    return Loss(
        name="ruled_loss",
        module=None,
        summary="A loss with a rule.",
        formula="x",
        source="by hand",
        define=define,
        forms=(Form(shapes=(shape,), tensors=tensors, **(form or {})),),
        parameters=parameters or {},
        refusals=(Refusal(says="the call breaks the rule", rule=rule, **refusal),),
    )


PAIRS = ruled(
    lambda input: total(input**2),
    "(N, X) -> (N)",
    {"input": Real()},
    lambda input: input.shape[-1] % 2 == 0,
    form={"sizes": {"X": AnySize((2, 4, 6))}},
    raises=ValueError,
)


def of_pairs(input, reduction="mean"):
    if input.shape[-1] % 2:
        raise ValueError("an odd number of columns")
    return reduced((input**2).sum(-1), reduction)


def test_a_rule_about_a_shape_is_broken_by_another_size():
    assert failing(PAIRS, of_pairs) == {}

    def odd(input, reduction="mean"):
        return reduced((input**2).sum(-1), reduction)

    cell = failing(PAIRS, odd)["refuses-calls"]
    assert "yet nothing was raised" in cell.reason


def between(input, lower, upper):
    return positive_part(lower - input) + positive_part(input - upper)


def bounds(rng, tensors, parameters):
    parameters["lower"], parameters["upper"] = sorted((parameters["lower"], parameters["upper"]))


BETWEEN = ruled(
    between,
    "(N) -> (N)",
    {"input": Real()},
    lambda lower, upper: lower <= upper,
    parameters={"lower": number(0.0, -1.0, 0.5), "upper": number(1.0, 0.25, -2.0)},
    form={"settle": bounds},
)


def of_bounds(input, lower=0.0, upper=1.0, reduction="mean"):
    if lower > upper:
        raise ValueError("lower exceeds upper")
    return reduced((lower - input).relu() + (input - upper).relu(), reduction)


def test_a_rule_about_two_parameters_is_broken_by_their_values():
    assert failing(BETWEEN, of_bounds) == {}

    def any_order(input, lower=0.0, upper=1.0, reduction="mean"):
        return reduced((lower - input).relu() + (input - upper).relu(), reduction)

    assert "refuses-calls" in failing(BETWEEN, any_order)


def in_time(rng, tensors, parameters):
    tensors["time"] = np.sort(tensors["time"])


IN_TIME = ruled(
    lambda input, time: (input - time) ** 2,
    "(N), (N) -> (N)",
    {"input": Real(), "time": Real()},
    lambda time: not (np.diff(time) < 0).any(),
    form={"settle": in_time},
    raises=ValueError,
)


def of_times(input, time, reduction="mean"):
    if input.shape != time.shape:
        raise ValueError("the shapes differ")
    if (time.diff() < 0).any():
        raise ValueError("the times are not in order")
    return reduced((input - time) ** 2, reduction)


def test_related_calls_that_break_the_rule_are_not_judged():
    # A permutation of the batch is out of order, so a right implementation refuses it.
    cells = {cell.clause: cell for cell in check(IN_TIME, of_times, None)}
    assert [cell.reason for cell in cells.values() if cell.verdict.fails] == []
    permuted = cells["batch-permutation"]
    assert (permuted.verdict, permuted.examples) == ("inconclusive", 0)
    assert min(cells[name].examples for name in ("value", "batch-split", "refuses-calls")) > 0


def test_the_broken_call_is_valid_but_for_the_rule():
    loss = interval()
    found = 0
    for solved in stream(loss, PROFILES["quick"], 0):
        invalid = broken(loss, solved.case, loss.refusals[0])
        if not solved.case.cotangent.size:
            assert invalid is None
            continue
        assert invalid is not None
        assert solved.case.broken_rule(loss) is None
        assert invalid.broken_rule(loss) is loss.refusals[0]
        changed = [n for n, x in invalid.tensors.items() if x is not solved.case.tensors[n]]
        assert len(changed) == 1
        found += 1
    assert found


def test_a_rule_about_the_domain_is_broken_outside_of_it():
    loss = ruled(
        lambda input: log(input) ** 2,
        "(N) -> (N)",
        {"input": Positive()},
        lambda input: (input > 0).all(),
        raises=ValueError,
    )

    def strict(input, reduction="mean"):
        if (input <= 0).any():
            raise ValueError("not above 0")
        return reduced(input.log() ** 2, reduction)

    assert failing(loss, strict, ["refuses-calls"]) == {}
    wrong = failing(loss, lambda input, reduction="mean": reduced(input.log() ** 2, reduction))
    assert "refuses-calls" in wrong


def test_an_error_that_rounding_hides_is_not_drawn():
    distinct = ruled(
        lambda input: input,
        "(N) -> (N)",
        {"input": Real()},
        lambda input: (input != 100.0).all(),
    )
    cells = check(distinct, lambda input, reduction="mean": reduced(input, reduction))
    assert {(cell.verdict, cell.examples) for cell in cells} == {("inconclusive", 0)}


# === the oracle, the answer and the page ==================================================


def test_the_oracle_refuses_by_the_rule():
    assert failing(interval(), function(interval())) == {}
    with pytest.raises(ValueError, match=SAYS):
        function(interval())(torch.zeros(2), torch.ones(2), torch.zeros(2))


def test_expect_refuses_a_call_that_breaks_the_rule():
    answer = lossspec.expect(interval(), torch.zeros(2), torch.zeros(2), torch.ones(2))
    assert answer.value == 0
    with pytest.raises(ArgumentError, match=f"{SAYS}: a right interval_loss refuses this call"):
        lossspec.expect(interval(), torch.zeros(2), torch.ones(2), torch.zeros(2))


def test_the_page_prints_the_sentence_the_types_and_the_rule():
    page = text(interval(raises=(TypeError, ValueError)))
    flat = " ".join(page.replace("`", "").split())
    assert "A call raises an error if an interval ends before it starts. The error is a" in flat
    assert "The error is a TypeError or ValueError." in flat
    assert "def in_order(low, high):\n        return (low <= high).all()" in page


# === mistakes =============================================================================


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        ({"rule": None}, "needs a rule that valid calls follow, or a function `breaks`; give one"),
        ({"rule": lambda lows: True}, "unknown 'lows'; known: 'input', 'low', 'high'"),
        ({"rule": "low < high"}, "rule of .* takes a function, got 'low < high'"),
        ({"raises": "ValueError"}, "takes an exception type or a tuple .* got 'ValueError'"),
        ({"raises": (ValueError, int)}, "takes an exception type or a tuple .* got <class 'int'>"),
    ],
)
def test_a_wrong_refusal_is_a_spec_error(refusal, message):
    with pytest.raises(SpecError, match=f"^spec 'interval_loss': .*{message}"):
        interval(**refusal)


def test_a_drawn_call_that_breaks_the_rule_is_a_spec_error():
    message = (
        rf"^spec 'interval_loss': the rule of the refusal '{SAYS}' is broken by a call that the "
        r"spec draws, with input of shape \[.*\], .*; a drawn call must follow it, so restrict the "
        "roles, sizes or parameters, or make settle change the call$"
    )
    with pytest.raises(SpecError, match=message) as caught:
        check(interval(settle=None), lenient)
    assert not hasattr(caught.value, "__notes__")


def test_an_example_that_breaks_the_rule_is_a_spec_error():
    given = {"input": [0.0], "low": [1.0], "high": [0.0]}
    example = Example(arguments=given, value=1.0, source="by hand")
    with pytest.raises(SpecError, match=r"its example \(by hand\): the rule of the refusal"):
        check(interval(examples=(example,)), lenient)


def test_a_rule_that_raises_is_a_spec_error():
    with pytest.raises(SpecError, match=f"the rule of '{SAYS}' raised IndexError, called with low"):
        check(interval(rule=lambda low: low[99, 99]), lenient)


def test_breaks_that_follows_the_rule_is_a_spec_error():
    def unchanged(tensors, parameters):
        tensors["low"] = tensors["low"] - 1

    message = "breaks of the refusal .* made a call that follows the rule, from input of shape"
    with pytest.raises(SpecError, match=message):
        check(interval(breaks=unchanged), lenient)


def test_breaks_is_used_where_a_rule_has_one():
    def swapped(tensors, parameters):
        tensors["low"], tensors["high"] = tensors["high"] + 1, tensors["low"] - 1

    loss = interval(breaks=swapped)
    assert failing(loss, refusing(ValueError("no")), ["refuses-calls"]) == {}
    assert "refuses-calls" in failing(loss, lenient, ["refuses-calls"])


def test_an_unknown_reduction_is_not_asked_of_a_loss_with_one_reduction():
    clause = clauses()["refuses-reductions"]
    loss = find("l1_loss")
    assert clause.applies(loss, "function")
    assert not clause.applies(replace(loss, reductions=("sum",), examples=()), "function")


def test_a_check_of_the_mean_misses_one_negative_variance():
    def loss(input, target, var, **options):
        if torch.is_tensor(var) and var.numel():
            if var.mean() < 0:
                raise ValueError("var has negative entries")
            var = var.abs()
        return torch.nn.functional.gaussian_nll_loss(input, target, var, **options)

    cells = lossspec.check("gaussian_nll_loss", loss, profile="quick", clauses=["refuses-calls"])
    assert [cell.reason[:22] for cell in cells if cell.verdict.fails] == ["a variance is negative"]
