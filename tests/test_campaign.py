"""Campaigns: extension by one spec or clause, support, excuses and global state."""

import itertools
import random
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import lossspec
import lossspec.clauses
import lossspec.specs
from lossspec.clauses import clauses
from lossspec.clauses.trial import Deviation, Unsupported
from lossspec.execution.global_state import settings
from lossspec.execution.implementation import LossUnderTest
from lossspec.implementations.counterpart import torch_counterpart
from lossspec.judging.campaign import Campaign
from lossspec.judging.known_update import updated
from lossspec.judging.plan import Plan
from lossspec.judging.profiles import PROFILES, Profile
from lossspec.judging.run import Run
from lossspec.spec.catalogue import catalogue, find
from lossspec.thresholds import FRUITLESS_CASES

SPEC = '''\
"""Half the squared error."""

from lossspec import Form, Loss, Real


def define(input, target):
    return (input - target) ** 2 / 2


spec = Loss(
    name="half_squared_error",
    module="HalfSquaredError",
    summary="Half the squared error between input x and target y.",
    formula=r"\\\\ell(x, y) = (x - y)^2 / 2",
    source="a test",
    define=define,
    forms=(Form(shapes=("(*), (*) -> (*)",), tensors={"input": Real(), "target": Real()}),),
)
'''
CLAUSE = '''\
"""Clauses that a test adds."""

from lossspec.clauses import clause
from lossspec.clauses.trial import Deviation


@clause()
def never_seven(trial):
    """No loss is seven."""
    if trial.outcome.value is None or trial.outcome.value.numel() != 1:
        return None
    if trial.outcome.value.item() == 7:
        raise Deviation("it is seven", 7, "anything else", check="value != 7")
    return True
'''
MINE = """
    from torch.nn import functional as F
    from torch.nn.functional import l1_loss

    def half_squared_error(input, target, reduction="mean"):
        halves = F.mse_loss(input, target, reduction="none") / 2
        if reduction not in ("none", "mean", "sum"):
            raise ValueError(reduction)
        return halves if reduction == "none" else getattr(halves, reduction)()

    def mse_loss(input, target, reduction="mean"):
        return 0 * F.mse_loss(input, target, reduction=reduction) + 7
"""
WORDS = ("--impl=mine", "--profile=quick")


@pytest.fixture
def known_anew():
    """Clear the cached catalogue and clauses before and after the test."""
    catalogue.cache_clear()
    clauses.cache_clear()
    yield
    catalogue.cache_clear()
    clauses.cache_clear()


@pytest.fixture(params=["a file", "an entry point"])
def new_loss(request, tmp_path_factory, monkeypatch, known_anew):
    folder = tmp_path_factory.mktemp("added")
    if request.param == "a file":
        folder.joinpath("half_squared_error.py").write_text(SPEC)
        monkeypatch.setattr(lossspec.specs, "__path__", [*lossspec.specs.__path__, str(folder)])
        monkeypatch.delitem(__import__("sys").modules, "lossspec.specs.half_squared_error", False)
    else:
        folder.joinpath("specs_of_mine.py").write_text(SPEC)
        info = folder / "specs_of_mine-1.dist-info"
        info.mkdir()
        info.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: specs-of-mine\n")
        entry = "half = specs_of_mine:spec"
        info.joinpath("entry_points.txt").write_text(f"[lossspec.specs]\n{entry}\n")
        monkeypatch.syspath_prepend(folder)


@pytest.mark.usefixtures("new_loss")
def test_a_spec_is_enough_to_add_a_loss(workplace):
    workplace.write(mine=MINE)
    assert "half_squared_error" in catalogue()
    result = workplace.run(*WORDS, "--loss=HalfSquaredError")
    assert result.status == 0, result.out
    cells = workplace.cells("mine").values()
    judged = {cell["clause"] for cell in cells if cell["verdict"] == "conforms"}
    assert {"accepts", "gradient", "mean-divisor", "result-dtype", "value"} <= judged
    assert {cell["loss"] for cell in cells} == {"half_squared_error"}
    page = (workplace.path / "reports" / "mine" / "index.html").read_text("utf-8")
    assert "half_squared_error" in page


def test_one_function_is_enough_to_add_a_clause(
    workplace, tmp_path_factory, monkeypatch, known_anew
):
    folder = tmp_path_factory.mktemp("added")
    folder.joinpath("numerology.py").write_text(CLAUSE)
    monkeypatch.setattr(lossspec.clauses, "__path__", [*lossspec.clauses.__path__, str(folder)])
    workplace.write(mine=MINE)
    result = workplace.run(*WORDS, "--loss=l1_loss,mse_loss", "--clause=never-seven,accepts")
    assert result.status == 1
    cells = workplace.cells("mine")
    right, wrong = (cells[f"{loss}/never-seven[function-cpu]"] for loss in ("l1_loss", "mse_loss"))
    assert (right["verdict"], right["theme"], right["says"]) == (
        "conforms",
        "numerology",
        "No loss is seven.",
    )
    assert (wrong["verdict"], wrong["got"], wrong["want"]) == ("deviates", "7", "anything else")
    assert wrong["script"] == "repro/mse_loss-never-seven-function-cpu.py"
    page = (workplace.path / "reports" / "mine" / "index.html").read_text("utf-8")
    assert "No loss is seven." in page


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("raise SystemExit('no licence')", "SystemExit: “no licence”"),
        ("import no_such_module", "ModuleNotFoundError: “No module named 'no_such_module'”"),
        ("spec = 7", "TypeError: “group 'lossspec.specs' must give a Loss, got 7”"),
        (
            "from lossspec.specs.l1_loss import spec",
            "ValueError: “another spec is named 'l1_loss'”",
        ),
    ],
)
def test_a_spec_that_fails_to_load_is_left_out_with_a_warning(
    tmp_path, monkeypatch, known_anew, spec, why
):
    tmp_path.joinpath("dead_specs.py").write_text(spec)
    info = tmp_path / "dead_specs-1.dist-info"
    info.mkdir()
    info.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: dead-specs\n")
    info.joinpath("entry_points.txt").write_text("[lossspec.specs]\ndead = dead_specs:spec\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "dead_specs", False)
    message = "left out the spec 'dead' of dead-specs, entry point 'dead_specs:spec': "
    with pytest.warns(UserWarning, match=message + why):
        assert "l1_loss" in catalogue()


def test_added_losses_and_clauses_are_removed_after_the_test():
    assert "half_squared_error" not in catalogue()
    assert "never-seven" not in clauses()


# === what a campaign learns about the implementation =======================================


def clause_records(target, loss="l1_loss", names=("accepts", "value"), profile=None, **more):
    campaign = Campaign(
        LossUnderTest("mine", find(loss), "function", target),
        [clauses()[name] for name in names],
        profile or PROFILES["quick"],
        **more,
    )
    return campaign, campaign.run()


def test_a_loss_with_more_parameters_is_judged_on_more_cases():
    simple, rich = find("soft_margin_loss"), find("cross_entropy")
    assert (simple.breadth, rich.breadth) == (1, 9)
    standard = PROFILES["standard"]
    assert standard.cases(simple) == standard.examples * 5 // 8 < standard.cases(rich)
    even = replace(standard, even=True)
    assert even.cases(simple) == even.cases(rich) == standard.examples


def test_unsupported_arguments_are_left_out_and_the_call_is_still_judged():
    def plain(input, target, reduction="mean"):
        return F.cross_entropy(input, target, reduction=reduction)

    # In float16 the mean of torch itself may overflow.
    given = {"names": ("value", "gradient"), "dtypes": ("float32", "float64", "bfloat16")}
    campaign, found = clause_records(plain, loss="cross_entropy", **given)
    assert campaign.support.unsupported == {"ignore_index", "label_smoothing", "weight"}
    assert found["value"].examples > PROFILES["quick"].cases(find("cross_entropy")) / 2
    assert (found["value"].found, found["gradient"].found) == (None, None)


def test_an_implementation_without_ignore_index_gets_no_ignored_targets():
    seen = set()

    def strict(input, target, weight=None, label_smoothing=0.0, reduction="mean"):
        if not target.is_floating_point():
            seen.update(target.flatten().tolist())
        more = {"weight": weight, "label_smoothing": label_smoothing}
        return F.cross_entropy(input, target, reduction=reduction, **more)

    given = {"profile": PROFILES["standard"], "dtypes": ("float32", "float64", "bfloat16")}
    _, found = clause_records(strict, loss="cross_entropy", **given)
    assert min(seen) == 0
    assert (found["accepts"].found, found["value"].found) == (None, None)


def test_a_campaign_ends_when_every_clause_has_enough_cases():
    calls = []

    def counted(input, target, reduction="mean"):
        calls.append(reduction)
        return F.l1_loss(input, target, reduction=reduction)

    _, found = clause_records(counted, names=("graph-freed",), profile=PROFILES["standard"])
    assert found["graph-freed"].informative == clauses()["graph-freed"].enough
    assert len(calls) < 100


def test_a_clause_counts_its_cases_and_the_informative_ones():
    _, found = clause_records(F.l1_loss, names=("value", "gradient"), dtypes=("float64",))
    value, gradient = found["value"], found["gradient"]
    assert 15 < value.examples <= PROFILES["quick"].cases(find("l1_loss"))
    assert 0 < value.informative <= value.examples
    # Cases that require no gradient are skipped by the clause about gradients.
    assert 0 < gradient.examples < value.examples
    assert (value.found, value.dtypes) == (None, {"float64"})
    assert 0 < value.worst < 1
    assert value.worst_case is not None


def test_a_dtype_that_never_works_is_unsupported():
    def narrow(input, target, weight=None, reduction="mean"):
        if input.dtype.itemsize == 2:
            raise TypeError("float32 or float64")
        return F.l1_loss(input, target, weight=weight, reduction=reduction)

    campaign, found = clause_records(narrow)
    assert found["accepts"].found is None
    assert campaign.support.refused == {
        "bfloat16": "TypeError: “float32 or float64”",
        "float16": "TypeError: “float32 or float64”",
    }


def test_a_dtype_that_works_only_sometimes_deviates():
    calls = itertools.count()

    def moody(input, target, weight=None, reduction="mean"):
        if input.dtype.itemsize == 2 and next(calls) % 3 == 2:
            raise TypeError("not today")
        return F.l1_loss(input, target, weight=weight, reduction=reduction)

    _, found = clause_records(moody)
    assert found["accepts"].found is not None


def test_a_form_that_never_works_is_unsupported():
    def of_indices(input, target, weight=None, ignore_index=-100, reduction="mean"):
        if target.is_floating_point():
            raise TypeError("class indices only")
        more = {"weight": weight, "ignore_index": ignore_index, "reduction": reduction}
        return F.cross_entropy(input, target, **more)

    loss = find("cross_entropy")
    quick = [
        name
        for name, clause in clauses().items()
        if clause.applies(loss, "function") and clause.speaks_on("cpu") and not clause.slow
    ]
    torchs = torch_counterpart(loss, "function")
    campaign, found = clause_records(of_indices, "cross_entropy", quick, reference=torchs)
    assert {name for name, clause_record in found.items() if clause_record.found} == set()
    assert "class probabilities" in campaign.support.unsupported


def test_a_form_that_works_only_sometimes_deviates():
    def moody(input, target, weight=None, ignore_index=-100, reduction="mean"):
        if target.is_floating_point() and input.ndim > 2:
            raise TypeError("two axes")
        more = {"weight": weight, "ignore_index": ignore_index, "reduction": reduction}
        return F.cross_entropy(input, target, **more)

    _, found = clause_records(moody, "cross_entropy")
    assert found["accepts"].found is not None


@pytest.mark.parametrize("error", [KeyError("avg"), ValueError(), AttributeError("no avg")])
def test_an_unknown_reduction_may_raise_any_error(error):
    def strict(input, target, weight=None, reduction="mean"):
        if reduction not in ("none", "sum", "mean"):
            raise error
        return F.l1_loss(input, target, weight=weight, reduction=reduction)

    _, found = clause_records(strict, names=("refuses-reductions",))
    assert found["refuses-reductions"].informative
    assert found["refuses-reductions"].found is None


def test_a_bare_assert_refuses_parameters_but_not_shapes():
    def terse(input, target, p=1, margin=1.0, weight=None, reduction="mean"):
        if p not in (1, 2) or (weight is not None and weight.ndim != 1):
            raise AssertionError
        return F.multi_margin_loss(input, target, p, margin, weight, reduction=reduction)

    names = ("refuses-parameters", "refuses-calls")
    _, found = clause_records(terse, "multi_margin_loss", names=names)
    assert found["refuses-parameters"].found is None
    assert found["refuses-parameters"].informative
    assert "an assert without a message" in found["refuses-calls"].found.deviation.what


def test_a_value_that_torch_also_accepts_does_not_hide_others():
    def lenient(
        input, target, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0
    ):
        smoothing = min(label_smoothing, 1.0)
        kinds = {"ignore_index": ignore_index, "reduction": reduction}
        return F.cross_entropy(input, target, weight, label_smoothing=smoothing, **kinds)

    torchs = torch_counterpart(find("cross_entropy"), "function")
    under_test = LossUnderTest("lenient", find("cross_entropy"), "function", lenient)
    judged = [clauses()["refuses-parameters"]]
    found = Campaign(under_test, judged, PROFILES["quick"], reference=torchs).run()
    assert "label_smoothing=1.5" in found["refuses-parameters"].found.deviation.what


def test_a_missing_gradient_does_not_hide_a_wrong_one():
    def half(input, target, weight=None, reduction="mean"):
        wrong = (input / 2 + input.detach() / 2) if input.numel() > 5 else input
        return F.mse_loss(wrong, target.detach(), weight=weight, reduction=reduction)

    _, found = clause_records(half, "mse_loss", names=("gradient",))
    shown = [finding.deviation.what for finding in found["gradient"].findings]
    assert any(what.startswith("the gradient of input") for what in shown)
    _, found = clause_records(
        lambda input, target, weight=None, reduction="mean": F.mse_loss(
            input, target.detach(), weight=weight, reduction=reduction
        ),
        "mse_loss",
        names=("gradient",),
    )
    assert found["gradient"].found.deviation.what == "no gradient of target"


def test_cases_in_unsupported_dtypes_are_replaced_by_cases_in_other_dtypes():
    seen = []

    def single(input, target, weight=None, reduction="mean"):
        if input.dtype != torch.float32:
            raise TypeError("float32 only")
        seen.append(input)
        return F.l1_loss(input, target, weight=weight, reduction=reduction)

    campaign, found = clause_records(single, names=("value", "accepts"))
    assert set(campaign.support.refused) == {"float16", "bfloat16", "float64"}
    assert found["value"].examples > 0.7 * PROFILES["quick"].cases(find("l1_loss"))
    assert found["accepts"].found is None


def test_a_result_of_the_wrong_shape_fails_only_result_shape():
    def column(input, target, weight=None, reduction="mean"):
        loss = F.l1_loss(input, target, weight=weight, reduction=reduction)
        return loss[None] if reduction == "none" else loss

    _, found = clause_records(column, names=("accepts", "result-shape"))
    assert found["accepts"].found is None
    assert found["result-shape"].found is not None


def test_an_empty_mean_has_no_checked_gradient_and_an_empty_sum_has_gradient_0():
    def masked(input, target, weight=None, ignore_index=-100, reduction="mean"):
        counts = target != ignore_index
        kept = torch.where(counts, target, 0)
        losses = F.nll_loss(input, kept, weight, reduction="none", ignore_index=-(10**9))
        share = counts.to(input.dtype) if weight is None else weight[kept] * counts
        losses = torch.where(counts, losses, 0 * losses.detach())
        if reduction == "mean":
            return losses.sum() / share.sum()
        return losses if reduction == "none" else losses.sum()

    _, found = clause_records(masked, "nll_loss", names=("ignored-gradient",))
    assert found["ignored-gradient"].found is None
    assert found["ignored-gradient"].informative

    def leaks(input, target, weight=None, ignore_index=-100, reduction="mean"):
        loss = masked(input, target, weight, ignore_index, reduction)
        return loss + 1e-3 * (input - input.detach()).nan_to_num().sum()

    _, found = clause_records(leaks, "nll_loss", names=("ignored-gradient",))
    assert found["ignored-gradient"].found is not None


def test_arrays_are_not_checked_in_a_dtype_that_numpy_lacks():
    def tensors_only(input, target, weight=None, reduction="mean"):
        if not isinstance(input, torch.Tensor):
            raise TypeError("tensors only")
        loss = F.l1_loss(input, target, weight=weight, reduction=reduction)
        return loss.float() if input.dtype == torch.bfloat16 else loss

    _, found = clause_records(tensors_only, names=("arrays",))
    assert found["arrays"].found is None
    assert found["arrays"].informative


def test_a_zero_may_have_either_sign_in_a_second_backward():
    class Signed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.calls = 0
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            ctx.calls += 1
            return torch.where(g == 0, -torch.zeros_like(g) if ctx.calls > 1 else 0 * g.abs(), g)

    def signed(input, target, weight=None, reduction="mean"):
        return F.l1_loss(Signed.apply(input), target, weight=weight, reduction=reduction)

    _, found = clause_records(signed, names=("second-backward",))
    assert found["second-backward"].found is None
    assert found["second-backward"].informative


def test_a_shrunk_case_still_exceeds_the_budget_by_far():
    def drifts(input, target, weight=None, reduction="mean"):
        loss = F.mse_loss(input, target, weight=weight, reduction=reduction)
        return loss * (1 + 1e-6 * input.abs().max()) if input.numel() else loss

    _, found = clause_records(drifts, "mse_loss", names=("value",))
    deviation = found["value"].found.deviation
    got, want, budget = (float(n) for n in (deviation.got, deviation.want, deviation.budget))
    assert abs(got - want) > 10 * budget


def test_float32_support_is_mandatory():
    def wide(input, target, weight=None, reduction="mean"):
        if input.dtype.itemsize < 8:
            raise TypeError("float64 only")
        return F.l1_loss(input, target, weight=weight, reduction=reduction)

    _, found = clause_records(wide)
    case, deviation = found["accepts"].found.case, found["accepts"].found.deviation
    assert (case.dtype, deviation.got) == ("float32", "TypeError: float64 only")


def never(*tensors, **options):
    raise RuntimeError("extension not built")


def no_tensor(input, target, reduction="mean"):
    return float(F.l1_loss(input, target, reduction="sum"))


def too_few(input, target, alpha, reduction="mean"):
    return F.l1_loss(input, target, reduction=reduction)


class NoLicence(torch.nn.L1Loss):
    def __init__(self, reduction="mean"):
        raise RuntimeError("no licence")


@pytest.mark.parametrize(
    ("loss", "got"),
    [
        (never, "RuntimeError: extension not built"),
        (no_tensor, "float"),
        (too_few, "TypeError: too_few() missing 1 required positional argument: 'alpha'"),
        (NoLicence, "RuntimeError: no licence"),
    ],
)
def test_every_clause_deviates_if_the_loss_never_works(loss, got):
    chosen = ["value", "gradient", "inputs-untouched", "published-examples", "refuses-shapes"]
    cells = lossspec.check("l1_loss", loss, profile="quick", clauses=chosen)
    assert len(cells) == 5
    assert {(cell.verdict, cell.got) for cell in cells} == {("deviates", got)}
    assert all("l1_loss" in cell.call.lower().replace("l1loss", "l1_loss") for cell in cells)


class Onward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, upstream):
        raise RuntimeError("no backward")


def test_the_gradient_deviates_if_backward_never_works():
    def loss(input, target, reduction="mean"):
        return Onward.apply(F.l1_loss(input, target, reduction=reduction))

    cells = lossspec.check("l1_loss", loss, profile="quick", clauses=["value", "gradient"])
    told = {cell.clause: (cell.verdict, cell.got) for cell in cells}
    assert told["value"][0] == "conforms"
    assert told["gradient"] == ("deviates", "RuntimeError: no backward")


class Panic(BaseException):
    """An error as extensions raise it that are not written in Python."""


class Unprintable(Exception):
    def __str__(self):
        raise ValueError("no text")


@pytest.mark.parametrize(
    ("error", "got"),
    [
        (SystemExit(3), "SystemExit: 3"),
        (GeneratorExit(), "GeneratorExit:"),
        (Panic("boo"), "Panic: boo"),
        (Unprintable(), "Unprintable: its message cannot be read: ValueError"),
    ],
)
def test_any_exception_of_a_call_is_a_deviation_of_that_call(error, got):
    def loss(input, target, reduction="mean"):
        if input.numel():
            raise error
        return F.l1_loss(input, target, reduction=reduction)

    cells = lossspec.check("l1_loss", loss, profile="quick", clauses=["accepts", "value"])
    accepts, value = cells
    assert (accepts.verdict, accepts.reason, accepts.got) == (
        "deviates",
        f"call raised {got.partition(':')[0]}",
        got + " " * got.endswith(":"),
    )
    assert value.verdict in ("deviates", "inconclusive", "unsupported")


def test_a_keyboard_interrupt_is_not_a_deviation():
    def loss(input, target, reduction="mean"):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lossspec.check("l1_loss", loss, profile="quick", clauses=["value"])


@pytest.mark.parametrize(
    ("made", "kind"),
    [
        (torch.Tensor.to_sparse, "sparse_coo"),
        (lambda value: value.to("meta"), "meta"),
        (lambda value: torch.nested.nested_tensor([value, value]), "nested"),
    ],
    ids=["sparse", "meta", "nested"],
)
def test_a_sparse_or_meta_tensor_is_not_a_result(made, kind):
    def loss(input, target, reduction="mean"):
        return made(F.l1_loss(input, target, reduction=reduction).detach())

    for cell in lossspec.check("l1_loss", loss, profile="quick"):
        assert cell.verdict in ("deviates", "unsupported"), cell.reason
        if cell.verdict == "deviates":
            assert cell.reason == "the call returned no tensor"
            assert cell.got == f"a {kind} tensor, without plain numbers"


def test_a_loss_that_never_works_gets_one_known_deviation_under_accepts():
    run = Run(PROFILES["quick"])
    broken = lossspec.Implementation("broken", functions={"l1_loss": never})
    plan = Plan([broken], losses=("l1_loss",), clauses=("accepts", "value"))
    added = updated(run, plan, []).added
    assert [entry.clause for entry in added] == ["accepts"]


def test_an_argument_that_is_not_implemented_is_unsupported():
    def partial(input, target, weight=None, reduction="mean"):
        if weight is not None:
            raise NotImplementedError("weight")
        return F.l1_loss(input, target, reduction=reduction)

    campaign, found = clause_records(partial)
    assert set(campaign.support.unimplemented) == {"NotImplementedError: “weight”"}
    (features,) = campaign.support.unimplemented.values()
    assert features - campaign.support.worked == {("argument", "weight")}
    assert (found["accepts"].found, found["value"].found) == (None, None)


def test_a_keyword_that_an_inner_function_refuses_is_unsupported():
    def plain(input, target, reduction="mean"):
        return F.l1_loss(input, target, reduction=reduction)

    def wrapped(input, target, **options):
        return plain(input, target, **options)

    campaign, found = clause_records(wrapped)
    assert campaign.support.unsupported == {"weight"}
    assert (found["accepts"].found, found["value"].found) == (None, None)
    assert found["value"].informative > 10


@pytest.mark.parametrize("epsilon", [0.0, 1e-6, 1e-3])
def test_a_signature_without_eps_may_use_zero_or_the_default(epsilon):
    def triplet(anchor, positive, negative, margin=1.0, reduction="mean"):
        near, far = (
            torch.linalg.vector_norm(anchor - x + epsilon, dim=-1) for x in (positive, negative)
        )
        losses = (near - far + margin).relu()
        return losses if reduction == "none" else getattr(losses, reduction)()

    cells = lossspec.check(
        "triplet_margin_loss", triplet, profile="quick", clauses=["value"], dtypes=["float64"]
    )
    assert [cell.verdict.fails for cell in cells] == [epsilon == 1e-3]


class Foreign:
    """A result of another library, whose flag is unset."""

    requires_grad = None


def test_a_foreign_result_is_a_deviation_and_no_crash():
    def foreign(input, target, reduction="mean"):
        return Foreign()

    cells = lossspec.check("l1_loss", foreign, profile="quick", clauses=["accepts", "value"])
    assert {cell.verdict for cell in cells} == {"deviates"}


def test_a_misspelt_parameter_is_named():
    def misspelt(input, target, reductoin="mean"):
        return F.l1_loss(input, target, reduction=reductoin)

    (cell,) = lossspec.check("l1_loss", misspelt, profile="quick", clauses=["sum-of-none"])
    assert cell.verdict == "unsupported"
    assert "it takes reductoin, which the loss does not have" in cell.reason


def to_script(input: torch.Tensor, target: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    return F.l1_loss(input, target, reduction=reduction)


def test_an_argument_that_a_scripted_function_lacks_is_unsupported():
    with pytest.deprecated_call():
        scripted = torch.jit.script(to_script)
    campaign, found = clause_records(scripted)
    assert campaign.support.unsupported == {"weight"}
    assert (found["accepts"].found, found["value"].found) == (None, None)


@pytest.mark.parametrize(
    ("got", "want", "texts"),
    [
        (1 / 3, 1 / 4, ("0.333333333", "0.25")),
        (0.1 + 0.2, 0.3, ("0.30000000000000004", "0.29999999999999999")),
        (np.longdouble(1) + 1e-12, 1.0, ("1.0000000000010001", "1")),
        (0.5, 0.5, ("0.5", "0.5")),
        (None, 0.5, (None, "0.5")),
    ],
)
def test_different_numbers_are_printed_with_different_digits(got, want, texts):
    deviation = Deviation("the value", got, want, check=None)
    assert (deviation.got, deviation.want) == texts


def test_an_error_about_a_foreign_keyword_is_no_excuse():
    def wrapped(input, target, **options):
        return F.l1_loss(input, target, axis=0)

    _, found = clause_records(wrapped)
    assert "unexpected keyword argument 'axis'" in found["accepts"].found.deviation.got


def test_a_dtype_that_always_raises_not_implemented_error_is_refused():
    def partial(input, target, weight=None, reduction="mean"):
        if input.dtype == torch.float16:
            raise NotImplementedError("not for Half")
        return F.l1_loss(input, target, weight=weight, reduction=reduction)

    campaign, found = clause_records(partial)
    assert (campaign.support.unsupported, campaign.support.refused) == (
        set(),
        {"float16": "NotImplementedError: “not for Half”"},
    )
    assert (found["accepts"].found, found["value"].found) == (None, None)


@pytest.mark.parametrize(("informative", "verdict"), [(1, "conforms"), (10_000, "inconclusive")])
def test_too_few_informative_cases_are_inconclusive(monkeypatch, informative, verdict):
    monkeypatch.setitem(PROFILES, "quick", Profile("quick", 60, informative))
    (cell,) = lossspec.check("l1_loss", F.l1_loss, profile="quick", clauses=["result-shape"])
    assert cell.verdict == verdict
    if verdict == "inconclusive":
        assert "profile quick asks for 10000" in cell.reason


def test_the_search_finds_larger_errors():
    def rough(input, target, reduction="mean"):
        # The error grows with the number of axes, so that the search has something to follow.
        value = F.mse_loss(input, target, reduction=reduction)
        return value * (1 + 2.0**-24 * input.ndim) if input.dtype == torch.float32 else value

    def worst(searched):
        under_test = LossUnderTest("rough", find("mse_loss"), "function", rough)
        profile = Profile("x", 4, 1, searched=searched)
        asked = [clauses()["value"], clauses()["accepts"]]
        clause_records = Campaign(under_test, asked, profile, seed=3).run()
        return clause_records["value"].examples, clause_records["value"].worst

    (few, before), (many, after) = worst(0), worst(60)
    assert few <= 4
    assert many > 40
    assert after > before


def test_a_missing_ability_is_recorded_if_no_case_was_judged():
    def lacks(trial):
        raise Unsupported("it has no wings")

    clause = replace(clauses()["value"], judge=lacks)
    under_test = LossUnderTest("mine", find("mse_loss"), "function", F.mse_loss)
    clause_record = Campaign(under_test, [clause], Profile("x", 4, 1)).run()["value"]
    assert (clause_record.lacks, clause_record.examples) == ("it has no wings", 0)


def test_patience_scales_the_informative_cases_of_a_clause():
    under_test = LossUnderTest("mine", find("mse_loss"), "function", F.mse_loss)
    informative = [
        Campaign(under_test, [clauses()["random-state"]], Profile("x", 60, 1, patience)).run()
        for patience in (0.3, 1.0)
    ]
    assert [run["random-state"].informative for run in informative] == [12, 40]


def test_a_loss_that_never_has_a_gradient_is_unsupported():
    def of_arrays(input, target, reduction="mean"):
        if reduction not in ("none", "mean", "sum"):
            raise ValueError(reduction)
        x, y = (t.detach().double().numpy() for t in (input, target))
        losses = torch.from_numpy(np.asarray((x - y) ** 2))
        losses = losses if reduction == "none" else getattr(losses, reduction)()
        return losses.to(input.dtype)

    cells = lossspec.check("mse_loss", of_arrays)
    assert [cell.clause for cell in cells if cell.verdict.fails] == ["refuses-shapes"]
    (cell,) = (cell for cell in cells if cell.clause == "gradient")
    assert (cell.verdict, cell.reason) == ("unsupported", "inferred: its results have no gradient")


def test_a_composition_of_torch_that_cuts_the_graph_deviates():
    def cut(input, target, reduction="mean"):
        return F.mse_loss(input.detach(), target.detach(), reduction=reduction)

    (cell,) = lossspec.check("mse_loss", cut, profile="quick", clauses=["gradient"])
    assert cell.verdict == "deviates"
    assert cell.reason in ("no gradient of input", "no gradient of target")


def test_a_gradient_that_is_only_sometimes_missing_deviates():
    def at_times(input, target, reduction="mean"):
        if input.numel() % 2:
            input, target = input.detach(), target.detach()
        return F.mse_loss(input, target, reduction=reduction)

    (cell,) = lossspec.check("mse_loss", at_times, profile="quick", clauses=["gradient"])
    assert cell.verdict == "deviates"
    assert cell.reason in ("no gradient of input", "no gradient of target")


def test_a_clause_that_is_always_unsupported_is_given_up():
    tried = []

    def lacks(trial):
        tried.append(trial)
        raise Unsupported("it has no wings")

    clause = replace(clauses()["value"], judge=lacks)
    under_test = LossUnderTest("mine", find("mse_loss"), "function", F.mse_loss)
    Campaign(under_test, [clause], Profile("x", 60, 1)).run()
    assert len(tried) == FRUITLESS_CASES


# === deviations that torch shares ==========================================================


def test_a_call_that_torch_refuses_may_be_refused_with_another_error():
    def triplet(anchor, positive, negative, *, margin=1.0, reduction="mean", **more):
        if margin <= 0:
            raise RuntimeError("there must be a margin")
        return F.triplet_margin_with_distance_loss(
            anchor, positive, negative, margin=margin, reduction=reduction, **more
        )

    name = "triplet_margin_with_distance_loss"
    (cell,) = lossspec.check(name, triplet, profile="quick", clauses=["accepts"])
    assert cell.verdict == "known", cell.reason
    assert "torch.nn.functional" in cell.reason


def test_an_unrelated_warning_is_not_a_warning_about_shapes():
    """Check that the warning of kl_div about its mean is not one about broadcast shapes."""

    def divergence(input, target, reduction="mean", log_target=False):
        losses = F.kl_div(input, target, reduction="none", log_target=log_target)
        if reduction == "batchmean":
            return losses.sum() / (len(losses) if losses.ndim else 1)
        return {"none": losses.clone, "sum": losses.sum, "mean": losses.mean}[reduction]()

    (cell,) = lossspec.check("kl_div", divergence, profile="quick", clauses=["refuses-shapes"])
    assert cell.verdict == "known", (cell.reason, cell.call)


# === related calls =========================================================================


class OfOneSize(torch.nn.MSELoss):
    """A loss that accepts only calls of the size of the first one."""

    size = None

    def forward(self, input, target):
        if self.size not in (None, input.shape):
            raise ValueError("another size")
        self.size = input.shape
        return super().forward(input, target)


def test_a_call_refused_because_of_an_earlier_call_deviates():
    (cell,) = lossspec.check("mse_loss", OfOneSize, profile="quick", clauses=["other-calls"])
    assert (cell.verdict, cell.reason) == ("deviates", "the call after other calls raised")
    assert "another size" in cell.got


# === global state ===========================================================================


def leaving(change):
    def loss(input, target, reduction="mean"):
        value = F.l1_loss(input, target, reduction=reduction)
        change()
        return value

    return loss


@pytest.mark.parametrize(
    ("change", "what", "got"),
    [
        (lambda: torch.set_grad_enabled(False), "grad mode", "False"),
        (lambda: torch.set_default_dtype(torch.float64), "the default dtype", "torch.float64"),
        (lambda: torch.set_num_threads(3), "the number of threads", "3"),
        (
            lambda: torch._C._set_deterministic_algorithms(True, warn_only=True),
            "the deterministic flag",
            "True",
        ),
        (lambda: torch.set_anomaly_enabled(True), "the anomaly flag", "True"),
        (lambda: torch.set_autocast_enabled("cpu", True), "autocast on cpu", "True"),
    ],
)
def test_a_changed_global_setting_deviates_and_is_restored(change, what, got):
    before = [switch.read() for switch in settings()]
    cells = lossspec.check("l1_loss", leaving(change), profile="quick")
    (wrong,) = (cell for cell in cells if cell.verdict.fails)
    assert (wrong.clause, wrong.reason, wrong.got) == ("random-state", f"{what} was changed", got)
    assert [switch.read() for switch in settings()] == before


@pytest.mark.parametrize(
    ("usual", "what", "got"),
    [
        (lambda: torch.set_grad_enabled(True), "grad mode", "True"),
        (lambda: torch.set_default_dtype(torch.float32), "the default dtype", "torch.float32"),
        (lambda: torch._C._set_deterministic_algorithms(False), "the deterministic flag", "False"),
    ],
)
def test_a_global_setting_reset_to_its_default_deviates(usual, what, got):
    before = [switch.read() for switch in settings()]
    given = {"profile": "quick", "clauses": ["random-state"]}
    (cell,) = lossspec.check("l1_loss", leaving(usual), **given)
    assert cell.reason == f"{what}, set to another value than its default, was changed"
    assert (cell.verdict, cell.got) == ("deviates", got)
    assert [switch.read() for switch in settings()] == before


@pytest.mark.parametrize("clause", ["gradient", "second-call", "other-calls"])
def test_a_changed_global_setting_does_not_affect_other_clauses(clause):
    loss = leaving(lambda: torch.set_grad_enabled(False))
    (cell,) = lossspec.check("l1_loss", loss, profile="quick", clauses=[clause])
    assert cell.verdict == "conforms", (cell.reason, cell.got)


def test_global_settings_that_a_call_restores_conform():
    def loss(input, target, reduction="mean"):
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            (input - target).sign()
        torch.set_default_dtype(before)
        return F.l1_loss(input, target, reduction=reduction)

    cells = lossspec.check("l1_loss", loss, profile="quick", clauses=["random-state", "value"])
    assert [cell.verdict for cell in cells] == ["conforms"] * 2


@pytest.mark.parametrize(
    ("whose", "change"),
    [
        ("torch's", lambda: torch.manual_seed(42)),
        ("numpy's", lambda: np.random.seed(42)),
        ("Python's", lambda: random.seed(42)),
        ("torch's", lambda: torch.rand(1)),
    ],
    ids=["seeds torch", "seeds numpy", "seeds Python", "draws"],
)
def test_a_loss_that_changes_a_random_generator_deviates(whose, change):
    given = {"profile": "quick", "clauses": ["random-state"]}
    (cell,) = lossspec.check("l1_loss", leaving(change), **given)
    assert (cell.verdict, cell.reason) == ("deviates", f"{whose} random generator was changed")


def test_a_loss_that_restores_the_random_generator_conforms():
    def loss(input, target, reduction="mean"):
        with torch.random.fork_rng(devices=[]):
            torch.rand(3)
        return F.l1_loss(input, target, reduction=reduction)

    (cell,) = lossspec.check("l1_loss", loss, profile="quick", clauses=["random-state"])
    assert cell.verdict == "conforms"


# === other deviations of a derived call ====================================================


def test_a_derived_call_of_another_shape_deviates():
    def squeezed(input1, input2, target, margin=0.0, reduction="mean"):
        losses = F.cosine_embedding_loss(input1, input2, target, margin, reduction=reduction)
        return losses.squeeze(0) if losses.ndim else losses

    name = "cosine_embedding_loss"
    (cell,) = lossspec.check(name, squeezed, profile="quick", clauses=["batch-split"])
    assert (cell.verdict, cell.reason) == (
        "deviates",
        "the shape of 'none' with the last rows alone",
    )


class Flattening(torch.autograd.Function):
    """Squares whose backward needs a contiguous cotangent."""

    @staticmethod
    def forward(ctx, residual):
        ctx.save_for_backward(residual)
        return residual**2

    @staticmethod
    def backward(ctx, upstream):
        (residual,) = ctx.saved_tensors
        return (2 * upstream.view(-1) * residual.reshape(-1)).reshape(residual.shape)


def test_a_cotangent_may_have_any_memory_layout():
    def squares(input, target, reduction="mean"):
        losses = Flattening.apply(input - target)
        return losses if reduction == "none" else getattr(losses, reduction)()

    (cell,) = lossspec.check("mse_loss", squares, profile="standard", clauses=["accepts"])
    assert (cell.verdict, cell.reason) == ("deviates", "backward raised RuntimeError")
    assert "view" in cell.got


def test_the_budget_covers_an_epsilon_that_torch_also_adds():
    def normalised(input1, input2, target, margin=0.0, reduction="mean", eps=1e-12):
        a, b = (
            x.double() * (x.double().square().sum(-1, keepdim=True) + eps).rsqrt()
            for x in (input1, input2)
        )
        cos = (a * b).sum(-1)
        losses = torch.where(target > 0, 1 - cos, (cos - margin).clamp(min=0)).to(input1.dtype)
        return losses if reduction == "none" else getattr(losses, reduction)()

    def verdict(eps):
        given = {"dtypes": ("float64",), "clauses": ["value"]}
        loss = partial(normalised, eps=eps)
        (cell,) = lossspec.check("cosine_embedding_loss", loss, profile="standard", **given)
        return cell.verdict

    assert (verdict(1e-12), verdict(1e-9)) == ("known", "deviates")


def test_a_mean_of_the_unreduced_torch_loss_inherits_its_rounding():
    def mean_behind(input, target, scale=1.0, weight=None, reduction="mean"):
        losses = F.binary_cross_entropy(input, target, weight, reduction="none")
        return losses if reduction == "none" else scale * getattr(losses, reduction)()

    def verdict(scale):  # torch's backward multiplies by the number that it then divides by
        given = {"dtypes": ("float16",), "clauses": ["gradient"]}
        loss = partial(mean_behind, scale=scale)
        (cell,) = lossspec.check("binary_cross_entropy", loss, profile="quick", **given)
        return cell.verdict

    assert (verdict(1.0), verdict(1.05)) == ("known", "deviates")


@pytest.mark.parametrize("says", ["unexpected arguments: {}", "Unknown option {}"])
def test_an_option_refused_as_an_unexpected_keyword_is_unsupported(says):
    def strict(input, target, reduction="mean", **more):
        if more:
            raise TypeError(says.format(", ".join(more)))
        return F.mse_loss(input, target, reduction=reduction)

    cells = lossspec.check("mse_loss", strict, profile="quick", clauses=["accepts", "value"])
    assert [cell.verdict for cell in cells] == ["conforms"] * 2


def test_an_option_refused_for_its_type_deviates():
    def strict(input, target, reduction="mean", **more):
        if more.get("weight") is not None:
            raise TypeError("unexpected dtype of weight")
        return F.mse_loss(input, target, reduction=reduction)

    (cell,) = lossspec.check("mse_loss", strict, profile="quick", clauses=["accepts"])
    assert cell.verdict == "deviates"


def rows_of(loss, slow=False, pairs=False):
    def by_rows(input, target, weight=None, ignore_index=-100, reduction="mean"):
        if input.numel() > 2**16:
            if pairs:
                raise MemoryError
            start = time.process_time()
            while slow and time.process_time() - start < 2.5:
                pass
        return loss(input, target, weight, ignore_index=ignore_index, reduction=reduction)

    return by_rows


@pytest.mark.parametrize(("slow", "pairs"), [(True, False), (False, True)])
def test_an_implementation_too_slow_or_large_for_a_large_batch_is_excused(slow, pairs):
    target = rows_of(F.nll_loss, slow, pairs)
    profile = PROFILES["standard"]
    _, found = clause_records(target, "nll_loss", names=("large-batch",), profile=profile)
    assert found["large-batch"].found is None
    assert found["large-batch"].lacks


def test_an_illegal_access_in_a_large_batch_is_not_excused_as_lack_of_memory():
    def wild(input, target, weight=None, ignore_index=-100, reduction="mean"):
        if input.numel() > 2**19:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return F.nll_loss(input, target, weight, ignore_index=ignore_index, reduction=reduction)

    _, found = clause_records(
        wild, "nll_loss", names=("large-batch",), profile=PROFILES["standard"]
    )
    assert "rows raised" in found["large-batch"].found.deviation.what


def test_a_loss_that_differs_in_a_large_batch_deviates():
    def far(input, target, weight=None, ignore_index=-100, reduction="mean"):
        loss = F.nll_loss(input, target, weight, ignore_index=ignore_index, reduction=reduction)
        return loss.clone() * 2 if input.numel() > 2**19 else loss

    profile = PROFILES["standard"]
    _, found = clause_records(far, "nll_loss", names=("large-batch",), profile=profile)
    assert "in a batch of" in found["large-batch"].found.deviation.what
    _, found = clause_records(F.nll_loss, "nll_loss", names=("large-batch",), profile=profile)
    assert found["large-batch"].found is None
    assert found["large-batch"].informative
