"""Preconditions of clauses, and the counting of skipped cases by excuse."""

import ast
from pathlib import Path

import numpy as np
import pytest
from torch.nn import functional as F

from lossspec.cases.case import Case
from lossspec.clauses import clause, clauses, precondition
from lossspec.clauses.precondition import Precondition, first_axis, takes_reduction
from lossspec.clauses.trial import NotJudged, Trial, Unsupported, any_judged, failed, required
from lossspec.excuse import Excuse
from lossspec.execution.implementation import LossUnderTest
from lossspec.judging.campaign import Campaign
from lossspec.judging.profiles import PROFILES
from lossspec.judging.stream import stream
from lossspec.oracle.solver import SolvedCase
from lossspec.spec.catalogue import find

CLAUSES = Path(precondition.__file__).parent
SHARED = {each.name: each for each in vars(precondition).values() if isinstance(each, Precondition)}


def mse(input, target, **parameters):
    return F.mse_loss(input, target, **parameters)


def without_reduction(input, target):
    return F.mse_loss(input, target)


def wrong(input, target, **parameters):
    return F.mse_loss(input, target, **parameters) + 1


def broken(input, target, **parameters):
    raise RuntimeError("broken")


def wide(input, target, **parameters):
    return F.mse_loss(input, target, **parameters).double()


def trial(loss, target, tensors, contract, form="", **changes):
    """Return a trial of a call of given tensors, or of float32 tensors of given shapes."""
    spec = find(loss)
    form = form or spec.forms[0].name
    given = {
        "spread": 0,
        "dtype": "float32",
        "reduction": "none",
        "parameters": {n: p.default for n, p in spec.parameters_of(spec.form(form)).items()},
        "requires_grad": (),
        **changes,
    }
    arrays = {
        name: np.asarray(x, np.int64 if np.asarray(x).dtype.kind == "i" else "float32")
        for name, x in tensors.items()
    }
    case = Case(spec.name, form, contract, tensors=arrays, cotangent=np.ones(()), **given)
    shape = SolvedCase(spec, case).expected.losses.shape
    case = case.with_(cotangent=np.ones(shape, np.float32))
    return Trial(LossUnderTest("mine", spec, "function", target), SolvedCase(spec, case))


def of_mse(target=mse, rows=3, **changes):
    contract = "(*), (*) -> (*)"
    x = np.linspace(1, 2, rows)
    return trial("mse_loss", target, {"input": x, "target": 0 * x}, contract, spread=1, **changes)


def of_classes(target, **parameters):
    spec = find("cross_entropy")
    defaults = {n: p.default for n, p in spec.parameters_of(spec.forms[0]).items()}
    return trial(
        "cross_entropy",
        F.cross_entropy,
        {"input": np.zeros((len(target), 3)), "target": np.array(target)},
        "(N, C), (N) -> (N)",
        parameters=defaults | parameters,
    )


def of_scalars():
    x = np.float32(1)
    tensors = {"input": x, "target": 0 * x}
    return trial("mse_loss", mse, tensors, "(*), (*) -> (*)", spread=0)


MET_AND_NOT = {
    "works": (of_mse, lambda: of_mse(broken)),
    "conforms": (of_mse, lambda: of_mse(wrong)),
    "has-its-dtype": (of_mse, lambda: of_mse(wide)),
    "raises-nothing": (of_mse, lambda: of_mse(broken)),
    "small": (lambda: of_mse(rows=100), lambda: of_mse(rows=101)),
    "has-axes": (of_mse, of_scalars),
    "several-along-first-axis": (of_mse, lambda: of_mse(rows=1)),
    "some-counted": (lambda: of_classes([-100, 1]), lambda: of_classes([-100, -100])),
    "all-counted": (lambda: of_classes([0, 1]), lambda: of_classes([-100, 1])),
    "wants-gradients": (lambda: of_mse(requires_grad=("input",)), of_mse),
}


@pytest.mark.parametrize("name", MET_AND_NOT)
def test_a_shared_precondition_distinguishes_cases(name):
    met, unmet = MET_AND_NOT[name]
    assert [SHARED[name].holds(met()), SHARED[name].holds(unmet())] == [True, False]


def drawn(loss, suits=lambda case: True):
    """Return the first suitable case in the stream of a loss."""
    return next(s.case for s in stream(find(loss), PROFILES["quick"], 0) if suits(s.case))


def of_case(case):
    spec = find(case.loss)
    return Trial(LossUnderTest("mine", spec, "function", print), SolvedCase(spec, case))


def test_a_batch_is_not_separable_if_a_tensor_has_no_batch_axis():
    spec = find("ctc_loss")

    def separable(case):
        return all(spec.batch in axes for axes in case.shape.inputs)

    got = [
        SHARED["separable"].holds(of_case(drawn("ctc_loss", suits)))
        for suits in (separable, lambda case: not separable(case))
    ]
    assert got == [True, False]


def test_a_parameter_that_limits_derivatives_blocks_second_derivatives():
    spec = find("linear_cross_entropy")
    name, parameter = next((n, p) for n, p in spec.parameters.items() if p.limited)
    case = drawn("linear_cross_entropy")
    values = (parameter.default, next(iter(parameter.limited)))
    defaults = {n: p.default for n, p in spec.parameters_of(spec.form(case.form)).items()}
    cases = (case.with_(parameters=defaults | {name: value}) for value in values)
    assert [SHARED["differentiable-twice"].holds(of_case(each)) for each in cases] == [True, False]


def test_a_tolerated_dtype_of_indices_is_not_documented():
    case = drawn("nll_loss", lambda case: case.tensors["target"].size)
    target = case.tensors["target"]
    cases = (
        case.with_(tensors={**case.tensors, "target": np.abs(target).astype(dtype)})
        for dtype in ("int64", "uint8")
    )
    assert [SHARED["documented-dtypes"].holds(of_case(each)) for each in cases] == [True, False]


def test_takes_reduction_depends_on_the_signature():
    sums = takes_reduction("sum")
    assert (sums.name, sums.excuse) == ("takes-sum", Excuse.NOT_SUPPORTED)
    got = [sums.holds(of_mse(f, reduction="mean")) for f in (mse, without_reduction)]
    assert got == [True, False]


def test_the_first_axis_is_the_batch_axis_if_there_is_one():
    got = [first_axis(of_classes([0, 1])), first_axis(of_scalars())]
    assert got == ["N", None]


def test_every_precondition_has_a_sentence_and_a_unique_name():
    assert sum(bool(each.requires) for each in clauses().values()) > 25
    for each in clauses().values():
        names = [one.name for one in each.requires]
        assert len(set(names)) == len(names), each.name
        assert all(one.says.endswith(".") for one in each.requires), each.name


# === counting =============================================================================


@precondition.precondition(Excuse.TOO_EXPENSIVE)
def _never(trial):
    """It never holds."""
    return False


@clause(empty=True, requires=[_never])
def always_blocked(trial):
    """Judge no case, because of a precondition."""
    raise AssertionError("a blocked case is not judged")


@clause(empty=True)
def not_about_anything(trial):
    """Skip every case."""


@clause(empty=True)
def gives_up(trial):
    """Use a call that fails."""
    raise NotJudged(Excuse.CALL_FAILS)


@clause(empty=True)
def does_not_implement(trial):
    """Make a call that is not implemented."""
    raise failed("a call", NotImplementedError("not here"))


def campaign(*judges, target=mse):
    under_test = LossUnderTest("mine", find("mse_loss"), "function", target)
    made = Campaign(under_test, [judge.clause for judge in judges], PROFILES["quick"])
    made.run()
    return made


@pytest.mark.parametrize(
    ("judge", "blocked", "excuse"),
    [
        (always_blocked, "never", Excuse.TOO_EXPENSIVE),
        (not_about_anything, None, Excuse.NOT_ABOUT),
        (gives_up, None, Excuse.CALL_FAILS),
        (does_not_implement, None, Excuse.NOT_IMPLEMENTED),
    ],
)
def test_a_custom_clause_counts_the_cases_that_it_does_not_judge(judge, blocked, excuse):
    made = campaign(judge)
    record = made.clause_records[judge.clause.name]
    assert record.examples == 0
    assert set(record.excused) == {excuse}
    assert record.excused[excuse] >= 8
    assert dict(record.blocked) == ({blocked: record.excused[excuse]} if blocked else {})


def test_a_case_is_judged_if_any_part_is_and_skipped_parts_are_counted():
    given = of_mse()

    def judge(part):
        if part < 2:
            raise NotJudged((Excuse.OVERFLOW, Excuse.IGNORED)[part])
        return part > 2

    assert [any_judged(given, judge, parts) for parts in ((0, 2), (2, 1, 3))] == [False, True]
    assert given.skipped == {Excuse.OVERFLOW: 1, Excuse.IGNORED: 1}


@pytest.mark.parametrize(
    ("parts", "excuse"), [((Excuse.IGNORED, Excuse.KINK), Excuse.IGNORED), ((), Excuse.NOT_ABOUT)]
)
def test_a_case_without_a_judged_part_is_not_judged(parts, excuse):
    def judge(part):
        raise NotJudged(part)

    with pytest.raises(NotJudged) as raised:
        any_judged(of_mse(), judge, parts)
    assert raised.value.excuse is excuse


def test_a_call_without_a_result_is_not_judged():
    with pytest.raises(NotJudged) as raised:
        required(of_mse(broken).under("none"))
    assert raised.value.excuse is Excuse.CALL_FAILS
    assert required(np.ones(1)) == 1


def test_failing_empty_calls_are_not_counted_as_informative():
    def fails_when_empty(input, target, reduction="mean"):
        if not input.numel():
            raise RuntimeError("nothing")
        return F.mse_loss(input, target, reduction=reduction)

    under_test = LossUnderTest("mine", find("mse_loss"), "function", fails_when_empty)
    made = Campaign(under_test, [clauses()["nothing-left"]], PROFILES["quick"])
    made.run()
    record = made.clause_records["nothing-left"]
    assert (record.examples, record.informative) == (0, 0)
    assert record.excused[Excuse.CALL_FAILS] > 0


def test_a_deviation_that_torch_shares_is_counted_as_same_as_torch():
    under_test = LossUnderTest("mine", find("mse_loss"), "function", wrong)
    for reference, shared in ((wrong, True), (mse, False)):
        torchs = LossUnderTest("torch", find("mse_loss"), "function", reference)
        made = Campaign(under_test, [clauses()["value"]], PROFILES["quick"], reference=torchs)
        made.run()
        excused = made.clause_records["value"].excused
        assert (excused[Excuse.SAME_AS_TORCH] > 0) == shared


# === the closed list of excuses ===========================================================


def _used(path: Path) -> set[str]:
    """Return the members of Excuse that a module names."""
    nodes = ast.walk(ast.parse(path.read_text("utf-8")))
    return {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "Excuse"
    }


def test_every_excuse_has_a_sentence_and_is_used():
    package = CLAUSES.parent
    used = set().union(*(_used(p) for p in package.rglob("*.py") if p.name != "excuse.py"))
    assert {excuse.name for excuse in Excuse} - used == set()
    says = [excuse.says for excuse in Excuse]
    assert len(set(says)) == len(says)
    assert all(says)


def _marked(tree: ast.Module) -> list[ast.FunctionDef]:
    return [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and any("clause" in ast.unparse(mark).partition("(")[0] for mark in node.decorator_list)
    ]


def _silent(function: ast.FunctionDef) -> list[int]:
    """Return the lines on which a clause skips a case, or a part of it, without an excuse."""
    nothing = (
        node
        for node in ast.walk(function)
        if isinstance(node, ast.Continue)
        or (
            isinstance(node, ast.Return)
            and (node.value is None or ast.unparse(node.value) == "None")
        )
    )
    return sorted(node.lineno for node in nothing)


@pytest.mark.parametrize("path", sorted(CLAUSES.glob("*.py")), ids=lambda path: path.stem)
def test_no_clause_skips_a_case_without_an_excuse(path):
    marked = _marked(ast.parse(path.read_text("utf-8")))
    found = {function.name: lines for function in marked if (lines := _silent(function))}
    assert found == {}


def test_a_clause_that_skips_a_case_silently_is_found():
    text = "@clause()\ndef one(trial):\n    for x in y:\n        continue\n    return None\n"
    (function,) = _marked(ast.parse(text))
    assert _silent(function) == [4, 5]


def test_unsupported_and_failed_have_an_excuse():
    assert Unsupported("no such thing").excuse is Excuse.NOT_SUPPORTED
    assert failed("it", NotImplementedError("no")).excuse is Excuse.NOT_IMPLEMENTED
