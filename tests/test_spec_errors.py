"""Faulty specs: an error or NaN of a spec's functions is one clear error and hides no finding."""

import re
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest

import lossspec
from lossspec.errors import SpecError
from lossspec.execution import call_text
from lossspec.judging import campaign, excuses, reproduction, shrinking
from lossspec.judging.profiles import PROFILES
from lossspec.judging.stream import stream
from lossspec.maths import (
    absolute,
    by_convention,
    constant,
    exp,
    largest,
    log,
    total,
    where,
)
from lossspec.oracle.examples import check_examples
from lossspec.oracle.solver import SolvedCase
from lossspec.report.text import failure_text
from lossspec.report.verdict import Verdict
from lossspec.spec.catalogue import catalogue, find
from lossspec.spec.loss import AnySize, Example, Form, Loss
from lossspec.spec.roles import Real

ROWS = ("(N, X), (N, X) -> (N)",)


def difference(input, target):
    return absolute(total(input) - total(target))


def spec(define=difference, *, shapes=ROWS, examples=(), tensors=None, **more):
    return Loss(
        name="of_rows",
        module=None,
        summary="The absolute difference of the sums of two rows.",
        formula="x",
        source="by hand",
        define=define,
        examples=examples,
        forms=(
            Form(shapes=shapes, tensors=tensors or {"input": Real(), "target": Real()}, **more),
        ),
    )


def right(input, target, reduction="mean"):
    losses = (input.sum(-1) - target.sum(-1)).abs()
    return losses if reduction == "none" else getattr(losses, reduction)()


def doubled(input, target, reduction="mean"):
    return 2 * right(input, target, reduction)


def check(loss, target=right, clauses=("value",)):
    return lossspec.check(loss, target, profile="quick", clauses=list(clauses))


# === errors of the functions of a spec ====================================================


def raises(*_, **__):
    raise KeyError("the reason\nin two lines")


def lasts(sizes, parameters):
    return {}["K"]


def reads_the_fourth(input, target):
    return input[..., 3] - target[..., 3]


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (
            spec(settle=raises),
            r"^spec 'of_rows': settle raised KeyError, called with input of shape \[\d+, \d+\], "
            r"target of shape \[\d+, \d+\]; it said .*the reason.*in two lines",
        ),
        (
            spec(reads_the_fourth),
            r"^spec 'of_rows': define raised IndexError, called with input of shape \[\d+, \d\], "
            r"target of shape \[\d+, \d\]; it said 'index 3 is out of bounds",
        ),
        (spec(divisor=lambda input: raises()), "^spec 'of_rows': divisor raised KeyError"),
        (spec(share=lambda input: raises()), "^spec 'of_rows': share raised KeyError"),
        (spec(sizes={"X": lasts}), r"^spec 'of_rows': sizes\['X'\] raised KeyError, called with"),
        (spec(lambda input, target: input - target), "^spec 'of_rows': define raised ValueError"),
        (
            spec(settle=lambda rng, tensors, parameters: tensors.update(input=np.zeros(2))),
            r"^spec 'of_rows': settle set input to ndarray of shape \[2\]; it must be an array "
            r"with the axes \(N, X\)",
        ),
        (
            spec(
                settle=lambda rng, tensors, parameters: tensors.update(
                    input=tensors["input"].astype(np.longdouble)
                )
            ),
            "^spec 'of_rows': settle set input to the dtype longdouble|float128; it must keep ",
        ),
    ],
    ids=["settle", "define", "divisor", "share", "sizes", "shape", "settled shape", "dtype"],
)
def test_an_error_in_a_spec_names_spec_function_and_shapes(loss, message):
    with pytest.raises(SpecError, match=message):
        check(loss, clauses=("value", "mean-divisor"))


@pytest.mark.parametrize("sizes", ["2", (), (2, -1), 4, ("4",)])
def test_sizes_must_be_integers_or_a_function(sizes):
    with pytest.raises(SpecError, match="sizes of 'X' takes"):
        spec(sizes={"X": sizes})


def test_the_only_allowed_size_may_be_large():
    (cell,) = check(spec(sizes={"X": (16,)}))
    assert cell.verdict == "conforms"


def test_an_error_in_a_spec_is_reported_once_and_the_spec_is_not_run_again(monkeypatch):
    loss = spec(reads_the_fourth)
    implementation = lossspec.Implementation("mine", {"of_rows": right}, own=(loss,))
    calls = []
    monkeypatch.setattr(
        campaign.Campaign, "_walk", lambda self: calls.append(self) or raise_spec_error()
    )

    def raise_spec_error():
        raise SpecError("spec 'of_rows': define raised IndexError")

    mark = lossspec.parametrize(implementation, losses=["of_rows"]).mark
    for parameters in mark.args[1][:3]:
        with pytest.raises(SpecError, match="define raised IndexError"):
            parameters.values[0]()
    assert len(calls) == 1


# === nan ==================================================================================


def largest_but_first(input, target):
    first = np.broadcast_to(np.arange(input.shape[-1]) == 0, input.shape)
    others = largest(where(first, constant(-np.inf, like=input), input))
    return absolute(others - total(target))


def test_the_maximum_over_excluded_elements_is_judged():
    # NaN would accept every number.
    loss = spec(largest_but_first, sizes={"X": (2, 4)})

    def target(input, target, reduction="mean"):
        losses = (input[:, 1:].amax(-1) - target.sum(-1)).abs()
        return losses if reduction == "none" else getattr(losses, reduction)()

    wanted = ("value", "gradient")
    assert {c.verdict for c in check(loss, target, wanted)} == {Verdict.CONFORMS}
    assert {c.verdict for c in check(loss, right, wanted)} == {Verdict.DEVIATES}


def overflows(input, target):
    large = exp(1e5 * absolute(total(input)))
    return large / large - 1


def of_a_root(input, target):
    return absolute(total(input)) ** 0.5 + 0 * log(total(target))


@pytest.mark.parametrize("define", [of_a_root, overflows])
def test_nan_for_finite_inputs_in_the_domain_is_a_spec_error(define):
    message = r"^spec 'of_rows': define is nan at \[\d+\] for finite numbers that its roles allow: "
    with pytest.raises(SpecError, match=message):
        check(spec(define))


def test_a_definition_may_declare_nan():
    def define(input, target):
        negative = total(target) < 0
        return by_convention(absolute(total(input)), np.nan, negative)

    (cell,) = check(spec(define), lambda input, target, reduction="mean": input.sum())
    assert cell.verdict == "deviates"
    solved = [s for s in stream(spec(define), PROFILES["quick"], 0) if s.expected.losses.size]
    lost = [np.isnan(s.expected.losses.astype(float)).any() for s in solved]
    assert any(lost)
    assert not all(lost)


def test_nan_outside_the_domain_is_allowed():
    case = next(s.case for s in stream(find("kl_div"), PROFILES["quick"], 0) if not s.case.spread)
    outside = {n: np.full_like(x, np.nan) for n, x in case.tensors.items()}
    assert np.isnan(SolvedCase(find("kl_div"), case.with_(tensors=outside)).expected.losses).all()


@pytest.mark.parametrize("name", catalogue())
def test_no_shipped_definition_is_nan_in_its_domain(name):
    for solved in stream(find(name), PROFILES["standard"], 11):
        assert solved.expected.losses.shape == solved.case.cotangent.shape
        if solved.case.cotangent.size > 4000:
            break


@pytest.mark.parametrize("name", catalogue())
def test_every_shipped_example_agrees_with_its_definition(name):
    check_examples(find(name))


def example(value, **more):
    given = {"arguments": {"input": [[1.0, 2.0]], "target": [[0.5, 1.0]]}, "source": "by hand"}
    return (Example(**given | {"value": value} | more),)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (spec(examples=example(1.6)), r"its example \(by hand\) states 1.6; define gives 1.5"),
        (spec(examples=example([1.5])), r"has a value of shape \[1\]; define gives shape \[\]"),
        (
            spec(examples=example(0.0, arguments={"input": [1.0], "target": [[1.0]]})),
            r"cannot be computed: ValueError: .*no shape contract of of_rows fits",
        ),
        (spec(reads_the_fourth, examples=example(1.5)), "its example .*: define raised IndexError"),
        (
            spec(lambda input, target: log(-absolute(total(input))), examples=example(1.5)),
            "its example .*: define is nan",
        ),
    ],
)
def test_an_example_that_contradicts_the_definition_is_a_spec_error(loss, message):
    with pytest.raises(SpecError, match=message) as caught:
        check(loss, clauses=("accepts",))
    assert str(caught.value).startswith("spec 'of_rows': its example (by hand)")
    assert str(caught.value).count("spec 'of_rows'") == 1


def test_an_installed_spec_with_a_wrong_example_is_left_out_with_a_warning(monkeypatch):
    from importlib.metadata import EntryPoint

    module = import_module("lossspec.spec.catalogue")

    wrong = spec(examples=example(7.0))
    monkeypatch.setattr(EntryPoint, "load", lambda self: wrong)
    entry = EntryPoint("of_rows", "somewhere:spec", "lossspec.specs")
    monkeypatch.setattr(module, "entry_points", lambda group: [entry])
    module.catalogue.cache_clear()
    try:
        with pytest.warns(UserWarning, match="left out the spec 'of_rows'.*states 7.0"):
            assert "of_rows" not in module.catalogue()
    finally:
        module.catalogue.cache_clear()


def test_an_example_that_rounds_to_its_stated_value_is_accepted():
    check_examples(spec(examples=example(1.50004)))


# === internal errors after a finding ======================================================

LOSS = spec(sizes={"X": AnySize((3, 2))})


def broken(*_, **__):
    raise ZeroDivisionError("ours")


def test_a_case_that_cannot_be_shrunk_is_shown_unshrunk(monkeypatch):
    monkeypatch.setattr(shrinking, "shrink", broken)
    (cell,) = check(LOSS, doubled)
    assert (cell.verdict, cell.reason[:9]) == ("deviates", "the value")
    assert cell.case is not None
    wanted = "shrinking stopped early with an error.*ZeroDivisionError"
    assert re.search(wanted, failure_text(cell), re.S)


def test_the_simplest_case_before_an_internal_error_is_kept(monkeypatch):
    whole = shrinking.shrink

    def fails_late(*given, **more):
        whole(*given, **more)
        raise ZeroDivisionError("ours")

    want = check(LOSS, doubled)[0]
    monkeypatch.setattr(shrinking, "shrink", fails_late)
    (cell,) = check(LOSS, doubled)
    assert (cell.case, cell.got, cell.want) == (want.case, want.got, want.want)
    assert cell.extra["mishaps"]
    assert "mishaps" not in want.extra


def test_a_spec_error_during_shrinking_does_not_hide_the_finding():
    def define(input, target):
        if input.shape[-1] == 1:
            raise IndexError("one")
        return difference(input, target)

    drawn = {"X": AnySize((3, 2))}
    (cell,) = check(spec(define, sizes=drawn), doubled)
    assert cell.verdict == "deviates"
    assert "define raised IndexError" in cell.extra["mishaps"][0]


def test_a_call_that_never_works_is_reported_if_shrinking_fails(monkeypatch):
    def never(input, target, reduction="mean"):
        raise RuntimeError("no")

    monkeypatch.setattr(shrinking, "shrink", broken)
    cells = check(LOSS, never, ("accepts", "value"))
    assert {(c.verdict, c.got) for c in cells} == {("deviates", "RuntimeError: no")}
    assert all(c.extra["mishaps"] for c in cells)


def test_a_call_without_call_text_is_described_by_its_shapes(monkeypatch):
    monkeypatch.setattr(call_text, "_short", broken)
    (cell,) = check(LOSS, doubled)
    assert cell.verdict == "deviates"
    assert re.match(r"# of_rows of input: \w+ \[.*the call could not be written \(Zero", cell.call)


def test_an_unwritable_script_does_not_hide_the_finding(monkeypatch):
    from lossspec.judging.run import Run

    monkeypatch.setattr(reproduction, "script", broken)
    implementation = lossspec.Implementation(
        "mine", {"of_rows": doubled}, own=(LOSS,), found={"of_rows": "mine:doubled"}
    )
    mark = lossspec.parametrize(implementation, losses=["of_rows"], clauses=["value"]).mark
    (judge,) = mark.args[1][0].values
    assert isinstance(judge.run, Run)
    record, script = judge.run.judge(judge.cell, judge.beside)
    assert (record.verdict, script) == ("deviates", "")
    want = "lossspec could not write the reproduction script: ZeroDivisionError: ours"
    assert record.extra["mishaps"] == [want]


def test_an_internal_error_in_the_excuses_does_not_hide_the_finding(monkeypatch):
    monkeypatch.setattr(excuses.Excuses, "inherited", broken)
    (cell,) = check(LOSS, doubled)
    assert cell.verdict == "deviates"
    assert cell.extra["mishaps"][0].startswith("the search for an excuse failed in lossspec: ")


def test_an_internal_error_between_cases_keeps_earlier_findings(monkeypatch):
    whole, calls = campaign.Campaign._look, []

    def fails_later(self, solved, clause_records):
        calls.append(solved)
        if len(calls) > 15:
            raise ZeroDivisionError("ours")
        return whole(self, solved, clause_records)

    monkeypatch.setattr(campaign.Campaign, "_look", fails_later)
    cells = {c.clause: c for c in check(LOSS, doubled, ("value", "result-dtype"))}
    assert cells["value"].verdict == "deviates"
    assert cells["result-dtype"].verdict == "crash"
    assert "lossspec itself failed" in cells["result-dtype"].reason


def test_an_internal_error_in_one_clause_does_not_affect_the_others(monkeypatch):
    from lossspec.clauses import clauses

    wrong = {**clauses(), "accepts": replace(clauses()["accepts"], judge=broken)}
    monkeypatch.setattr("lossspec.judging.plan.clauses", lambda: wrong)
    cells = {c.clause: c.verdict for c in check(LOSS, doubled, ("value", "accepts"))}
    assert cells == {"value": "deviates", "accepts": "crash"}


# === sizes that a spec fixes ==============================================================


def of_fixed_sizes(input, target, reduction="mean"):
    assert input.shape[0] in (4, 8), f"a batch of {input.shape[0]}"
    assert input.shape[1] == 4, f"rows of {input.shape[1]}"
    return right(input, target, reduction)


def test_no_clause_makes_a_call_of_a_size_that_the_spec_excludes():
    fixed = spec(sizes={"N": (4, 8), "X": (4,)})
    wanted = ["value", "batch-split", "batch-permutation", "other-calls", "large-batch", "trained"]
    wanted += ["mean-of-many", "accepts"]
    cells = lossspec.check(fixed, of_fixed_sizes, profile="standard", clauses=wanted)
    assert {c.clause: c.reason for c in cells if c.verdict.fails} == {}
    judged = {c.clause: c.examples for c in cells}
    assert min(judged[name] for name in ("value", "batch-split", "batch-permutation")) > 0
    assert judged["large-batch"] == judged["trained"] == 0


def test_every_cell_of_a_faulty_spec_reports_it_under_pytest(workplace):
    workplace.write(
        mine="""
            import lossspec
            from lossspec.spec import Form, Loss, Real

            own = Loss(
                name="of_rows", module=None, summary="x", formula="x", source="x",
                define=lambda input, target: input[..., 3] - target[..., 3],
                forms=(Form(shapes=("(N, X), (N, X) -> (N)",),
                            tensors={"input": Real(), "target": Real()}),),
            )

            def of_rows(input, target, reduction="mean"):
                return (input - target).sum()

            losses = lossspec.Implementation("mine", {"of_rows": of_rows}, own=(own,))
        """
    )
    words = ("--impl=mine:losses", "--loss=of_rows", "--clause=value,accepts", "--profile=quick")
    result = workplace.run(*words, "-p", "no:xdist")
    assert result.status == 1, result.out
    text = "\n".join(result.out)
    assert "spec 'of_rows': define raised IndexError, called with input of shape" in text
    assert "Traceback" not in text
    assert set(workplace.verdicts("mine.losses").values()) == {"crash"}
