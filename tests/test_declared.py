"""Declared abilities: a declared one is mandatory, an undeclared one is inferred and reported."""

import sys
from dataclasses import replace
from textwrap import dedent

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import lossspec
from lossspec import all_but
from lossspec.cases.case import published
from lossspec.clauses import clauses
from lossspec.clauses.trial import Deviation, Trial, Unsupported
from lossspec.errors import (
    ArgumentError,
    ArgumentTypeError,
    ImplementationError,
    LossspecError,
    UnknownName,
)
from lossspec.excuse import Excuse
from lossspec.execution.declaration import Ability
from lossspec.execution.implementation import Implementation, LossUnderTest
from lossspec.execution.loading import load
from lossspec.execution.support import leaves_torch
from lossspec.implementations import torch_nn
from lossspec.implementations.counterpart import torch_counterpart
from lossspec.judging.campaign import Campaign
from lossspec.judging.profiles import Profile
from lossspec.oracle.solver import SolvedCase
from lossspec.report.verdict import Verdict
from lossspec.spec.catalogue import catalogue, find
from tests.defects.catalogue import right_implementations


def verdict(loss, target, clause, **more):
    (cell,) = lossspec.check(loss, target, clauses=[clause], profile="quick", **more)
    return cell


# === losses that lack one ability =========================================================


def squared(input, target, reduction="mean"):
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(reduction)
    losses = (input - target) ** 2
    return losses if reduction == "none" else getattr(losses, reduction)()


def failing(wrong):
    """Wrap a correct loss so that it raises where `wrong` holds for one of its tensors."""

    def loss(input, target, reduction="mean"):
        if wrong(input) or wrong(target):
            raise RuntimeError("not this way")
        return squared(input, target, reduction)

    return loss


class _Once(torch.autograd.Function):
    """A square whose gradient cannot be differentiated."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream):
        (x,) = ctx.saved_tensors
        return 2 * x * upstream


def once(input, target, reduction="mean"):
    losses = _Once.apply(input - target)
    return losses if reduction == "none" else getattr(losses, reduction)()


def one_dtype(input, target, reduction="mean"):
    if input.dtype != target.dtype:
        raise TypeError("two dtypes")
    return squared(input, target, reduction)


def is_wrapped(tensor):
    return torch._C._functorch.is_functorch_wrapped_tensor(tensor)


#: By ability: the clause that checks it, and a loss that lacks only this ability.
LACKING = {
    "autocast": ("autocast", failing(lambda x: torch.is_autocast_enabled("cpu"))),
    "compile": ("compiled", failing(lambda x: torch.compiler.is_compiling())),
    "export": ("exported", failing(lambda x: torch.compiler.is_exporting())),
    "fake-tensors": ("fake-tensors", failing(lambda x: type(x).__name__ == "FakeTensor")),
    "forward-mode": (
        "forward-mode",
        failing(lambda x: torch.autograd.forward_ad.unpack_dual(x).tangent is not None),
    ),
    "functional-gradient": ("functional-gradient", failing(is_wrapped)),
    "mixed-dtypes": ("mixed-dtypes", one_dtype),
    "second-derivatives": ("second-order", once),
    "tensor-subclasses": ("tensor-subclass", failing(lambda x: type(x).__name__ == "Passing")),
    "vmap": ("vmap", failing(is_wrapped)),
}


@pytest.mark.parametrize("ability", LACKING)
def test_a_loss_that_lacks_a_declared_ability_deviates(ability):
    clause, loss = LACKING[ability]
    cell = verdict("mse_loss", loss, clause, supports={ability})
    assert cell.verdict is Verdict.DEVIATES
    if ability == "autocast":
        assert cell.reason == "call under autocast raised"
    else:
        assert cell.want == f"it works: {ability} is declared"


@pytest.mark.parametrize("ability", sorted(set(LACKING) - {"autocast"}))
def test_a_loss_that_lacks_an_undeclared_ability_is_unsupported_with_a_reason(ability):
    clause, loss = LACKING[ability]
    cell = verdict("mse_loss", loss, clause)
    assert cell.verdict is Verdict.UNSUPPORTED
    assert cell.reason.startswith("inferred: it")
    assert cell.extra["not_supported"] == cell.reason
    if ability not in ("mixed-dtypes", "second-derivatives"):
        assert cell.reason.endswith("(RuntimeError: “not this way”)")
    excluded = verdict("mse_loss", loss, clause, supports={ability: all_but("mse_loss")})
    assert excluded.verdict is Verdict.UNSUPPORTED
    assert excluded.reason == cell.reason.replace("inferred", "declared", 1)


def test_unsupported_cases_are_counted_beside_conforming_cases():
    def narrow(input, target, reduction="mean"):
        if input.ndim > 1 and is_wrapped(input):
            raise RuntimeError("not this way")
        return squared(input, target, reduction)

    under_test = LossUnderTest("mine", find("mse_loss"), "function", narrow)
    clause = clauses()["vmap"]
    clause_record = Campaign(under_test, [clause], Profile("few", 40, 1)).run()["vmap"]
    assert (clause_record.found, clause_record.examples > 0) == (None, True)
    assert clause_record.excused[Excuse.NOT_SUPPORTED] > 0
    assert clause_record.lacks == (
        "inferred: it does not work with torch.vmap (RuntimeError: “not this way”)"
    )


@pytest.mark.parametrize(
    ("ability", "clause"),
    [(ability, clause) for ability, (clause, _) in LACKING.items()],
)
def test_a_correct_loss_that_declares_every_ability_conforms(ability, clause):
    cell = verdict("mse_loss", squared, clause, supports=set(Ability) - {Ability.COMPLEX})
    assert cell.verdict is Verdict.CONFORMS


def test_refusing_autocast_is_unsupported_unless_autocast_is_declared():
    def unsafe(input, target, reduction="mean"):
        if torch.is_autocast_enabled("cpu"):
            raise RuntimeError("this loss is unsafe to autocast")
        return squared(input, target, reduction)

    cell = verdict("mse_loss", unsafe, "autocast")
    assert cell.verdict is Verdict.UNSUPPORTED
    assert cell.reason.startswith("inferred: it does not work with torch.autocast (")
    cell = verdict("mse_loss", unsafe, "autocast", supports={"autocast"})
    assert cell.verdict is Verdict.DEVIATES


def test_declared_complex_inputs_are_mandatory():
    def real(input, target, reduction="mean"):
        if input.is_complex():
            raise TypeError("real numbers only")
        return F.l1_loss(input, target, reduction=reduction)

    cell = verdict("l1_loss", real, "complex-inputs")
    assert cell.verdict is Verdict.UNSUPPORTED
    assert cell.reason == "inferred: it takes no complex numbers (TypeError: “real numbers only”)"
    cell = verdict("l1_loss", real, "complex-inputs", supports={"complex"})
    assert (cell.verdict, cell.got) == (Verdict.DEVIATES, "TypeError: real numbers only")


@pytest.mark.parametrize("error", [TypeError, NotImplementedError])
def test_a_declared_dtype_is_mandatory(error):
    def single(input, target, reduction="mean"):
        if input.dtype is torch.float16:
            raise error("no float16")
        return squared(input, target, reduction)

    assert verdict("mse_loss", single, "accepts").verdict is Verdict.CONFORMS
    cell = verdict("mse_loss", single, "accepts", supports={"float16", "float64"})
    assert (cell.verdict, "dtype=float16" in cell.call) == (Verdict.DEVIATES, True)
    assert cell.got.startswith(error.__name__)


# === preconditions ========================================================================


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch imports its compiler here
def test_forward_mode_is_judged_where_elements_share_memory():
    loss = find("mse_loss")
    same = {name: np.full(3, number, np.float32) for name, number in (("input", 2), ("target", 5))}
    case = published(loss, loss.examples[0]).with_(
        tensors=same,
        cotangent=np.ones(3, np.float32),
        requires_grad=("input",),
        layouts={"input": "expanded", "target": "expanded"},
    )
    trial = Trial(torch_counterpart(loss, "function"), SolvedCase(loss, case))
    clause = clauses()["forward-mode"]
    assert clause.unmet(trial) is None
    assert clause.judge(trial) is True


def judged(name, surface, themes):
    """Return what the clauses of some themes find for torch, and the failed preconditions."""
    under_test = torch_counterpart(find(name), surface)
    returned = {}

    def noted(clause):
        def judge(trial):
            got = clause.judge(trial)
            returned.setdefault(clause.name, []).append(got)
            return got

        return replace(clause, judge=judge)

    asked = [
        noted(clause)
        for clause in clauses().values()
        if clause.theme in themes
        and not clause.slow
        and clause.only_on is None
        and clause.applies(find(name), surface)
    ]
    clause_records = Campaign(under_test, asked, Profile("few", 24, 1), shrinks=False).run()
    return returned, {name: record.blocked for name, record in clause_records.items()}


@pytest.mark.parametrize("surface", ["function", "class"])
def test_a_case_that_a_clause_cannot_judge_is_skipped_by_a_precondition(surface):
    returned, blocked = judged("nll_loss", surface, {"mode", "dtype", "gradient", "module"})
    assert {type(got) for each in returned.values() for got in each} == {bool}
    assert blocked["mixed-dtypes"]["has-a-wider-dtype"] > 0
    assert blocked["autocast"]["in-float32"] > 0
    assert blocked["gradient"]["wants-gradients"] > 0
    if surface == "class":
        assert blocked["moved-to-dtype"]["has-another-dtype"] > 0


# === gradients ============================================================================


def of_arrays(input, target, reduction="mean"):
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(reduction)
    x, y = (t.detach().double().numpy() for t in (input, target))
    losses = (x - y) ** 2
    losses = losses if reduction == "none" else getattr(losses, reduction)()
    return torch.from_numpy(np.asarray(losses)).to(input.dtype)


def test_a_declared_gradient_is_mandatory():
    cell = verdict("mse_loss", of_arrays, "gradient")
    assert cell.verdict is Verdict.UNSUPPORTED
    assert cell.reason == "inferred: its results have no gradient"
    cell = verdict("mse_loss", of_arrays, "gradient", differentiable=False)
    assert cell.verdict is Verdict.UNSUPPORTED
    assert cell.reason == "declared: its results have no gradient"
    cell = verdict("mse_loss", of_arrays, "gradient", differentiable=True)
    assert (cell.verdict, cell.got) == (Verdict.DEVIATES, "None")


def test_a_wrong_gradient_deviates_if_none_is_declared():
    def other(input, target, reduction="mean"):
        losses = squared(input, target, "none") + (input - input.detach())
        return losses if reduction == "none" else getattr(losses, reduction)()

    cell = verdict("mse_loss", other, "gradient", differentiable=False)
    assert cell.verdict is Verdict.DEVIATES


def by_list(input, target, reduction="mean"):
    pairs = zip(input.flatten().tolist(), target.flatten().tolist(), strict=True)
    return torch.tensor([(a - b) ** 2 for a, b in pairs])


def in_place_of_an_array(input, target, reduction="mean"):
    made = input.detach().double()
    array = made.numpy()
    array -= target.detach().numpy()
    return made.to(input.dtype)


def into_new_memory(input, target, reduction="mean"):
    out = torch.empty_like(input)
    out.numpy()[...] = (input.detach().numpy() - target.detach().numpy()) ** 2
    return out


def detached(input, target, reduction="mean"):
    return squared(input, target).detach()


def by_data(input, target, reduction="mean"):
    return squared(input.data, target.data)


def without_grad(input, target, reduction="mean"):
    with torch.no_grad():
        return squared(input, target)


def after_a_look(input, target, reduction="mean"):
    if input.max().item() > 1e9:
        return input.sum()
    return squared(input, target).detach()


def filled(input, target, reduction="mean"):
    out = torch.zeros_like(input.detach())
    out[...] = squared(input.detach(), target.detach(), "none")
    return out.sqrt_()


@pytest.mark.parametrize(
    ("loss", "leaves"),
    [
        *((loss, True) for loss in (of_arrays, by_list, in_place_of_an_array, into_new_memory)),
        *((loss, False) for loss in (detached, by_data, without_grad, after_a_look, filled)),
        (squared, False),
    ],
)
def test_leaving_torch_is_distinguished_from_detaching_the_graph(loss, leaves):
    spec = find("mse_loss")
    case = published(spec, spec.examples[0]).with_(requires_grad=("input", "target"))
    assert leaves_torch(LossUnderTest("mine", spec, "function", loss), case) is leaves


def test_reading_one_number_does_not_excuse_a_detached_result():
    def looks(input, target, reduction="mean"):
        if input.numel() and input.detach().abs().max().item() > 1e30:
            return squared(input, target, reduction)
        return squared(input, target, reduction).detach()

    assert verdict("mse_loss", looks, "gradient").verdict is Verdict.DEVIATES


@pytest.mark.filterwarnings("ignore")  # of the compiler of torch
@pytest.mark.parametrize(
    ("abilities", "error"), [({}, Unsupported), ({Ability.SECOND_DERIVATIVES: True}, Deviation)]
)
def test_a_compiled_gradient_without_a_derivative_is_unsupported_and_not_zero(abilities, error):
    loss = find("cross_entropy")
    right = right_implementations()["cross_entropy/compiled"]
    under_test = LossUnderTest("mine", loss, "function", right.make(), abilities=abilities)
    case = published(loss, loss.examples[0]).with_(requires_grad=("input",))
    with pytest.raises(error) as caught:
        clauses()["second-order"].judge(Trial(under_test, SolvedCase(loss, case)))
    assert "its gradients are compiled, and cannot be differentiated" in str(caught.value)


# === declarations =========================================================================


@pytest.mark.parametrize(
    ("declared", "error", "says"),
    [
        ({"supports": {"vmpa"}}, UnknownName, "unknown ability 'vmpa'; did you mean vmap?"),
        ({"supports": 3}, ArgumentTypeError, "supports takes words, or a mapping"),
        ({"supports": {"vmap": 3}}, ArgumentTypeError, "supports['vmap'] takes True, False"),
        ({"differentiable": "thrice"}, ArgumentError, 'takes True, False, "twice" or None'),
        ({"compiles": "yes"}, ArgumentError, "compiles takes True, False or None, got 'yes'"),
        (
            {"supports": {"compile": False}, "compiles": True},
            ArgumentError,
            "compiles=True contradicts supports for 'compile'; declare it once",
        ),
        ({"conventions": {"l1_loss": 3}}, ArgumentTypeError, "conventions takes values by loss"),
        ({"supports": {"vmap": all_but("ctc_los")}}, UnknownName, "did you mean ctc_loss"),
        ({"supports": {"vmap": ["CTCLos"]}}, UnknownName, "did you mean CTCLoss"),
        ({"conventions": {"ctc_los": {}}}, UnknownName, "did you mean ctc_loss"),
        (
            {"conventions": {"triplet_margin_loss": {"epss": 0.0}}},
            UnknownName,
            "unknown parameter of triplet_margin_loss 'epss'; did you mean eps?",
        ),
        (
            {"conventions": {"smooth_l1_loss": {"beta": -1.0}}},
            ArgumentError,
            "smooth_l1_loss must refuse beta=-1.0",
        ),
    ],
)
def test_an_invalid_declaration_raises_a_clear_error(declared, error, says):
    with pytest.raises(error) as caught:
        Implementation("mine", {"mse_loss": squared}, **declared)
    assert says in str(caught.value)
    assert isinstance(caught.value, LossspecError)


def abilities(implementation, loss):
    (under_test,) = implementation.losses_under_test(find(loss))
    return {ability.value: holds for ability, holds in under_test.abilities.items()}


def test_an_ability_is_declared_for_all_losses_or_for_some():
    functions = {"mse_loss": F.mse_loss, "ctc_loss": F.ctc_loss}
    implementation = Implementation(
        "mine",
        functions,
        supports={"vmap": all_but("CTCLoss"), "export": ["mse_loss"], "autocast": True},
        compiles=False,
        differentiable="twice",
    )
    both = {"autocast": True, "compile": False, "gradient": True, "second-derivatives": True}
    assert abilities(implementation, "mse_loss") == {"vmap": True, "export": True, **both}
    assert abilities(implementation, "ctc_loss") == {"vmap": False, "export": False, **both}
    assert abilities(Implementation("mine", functions), "mse_loss") == {}


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Yield a function that writes a module with a declaration and returns its name."""
    monkeypatch.syspath_prepend(tmp_path)

    def written(declaration):
        tmp_path.joinpath("declares.py").write_text(
            dedent(
                f"""
                import types
                import lossspec
                from torch.nn.functional import l1_loss

                __lossspec__ = {declaration}
                space = types.SimpleNamespace(l1_loss=l1_loss)
                other = types.SimpleNamespace(l1_loss=l1_loss)
                other.__lossspec__ = lossspec.Declaration(supports="export")
                """
            )
        )
        return "declares"

    yield written
    sys.modules.pop("declares", None)


@pytest.mark.parametrize(
    ("rest", "word"),
    [("", "vmap"), (":space", "vmap"), (":l1_loss", "vmap"), (":other", "export")],
)
def test_a_declaration_is_read_from_its_module(module, rest, word):
    name = module('lossspec.Declaration(supports="vmap")')
    assert abilities(load(name + rest), "l1_loss") == {word: True}


@pytest.mark.parametrize(
    ("declaration", "says"),
    [
        ('{"vmap"}', "declares: __lossspec__ must be a lossspec.Declaration, got {'vmap'}"),
        ('lossspec.Declaration(supports="vmpa")', "did you mean vmap"),
        ('lossspec.Declaration(supports={"vmap": ["l1_los"]})', "did you mean l1_loss"),
    ],
)
def test_a_module_with_an_invalid_declaration_raises_a_clear_error(module, declaration, says):
    with pytest.raises(ImplementationError) as caught:
        load(module(declaration))
    assert says in str(caught.value)


# === conventions ==========================================================================


def triplet(eps):
    """Return a triplet loss that has no parameter `eps` and uses this value."""

    def loss(anchor, positive, negative, margin=1.0, p=2.0, swap=False, reduction="mean"):
        return F.triplet_margin_loss(
            anchor, positive, negative, margin, p, eps, swap, reduction=reduction
        )

    return loss


def test_a_declared_convention_is_the_value_of_a_missing_parameter():
    def judged(eps, **more):
        return verdict("triplet_margin_loss", triplet(eps), "value", dtypes=["float64"], **more)

    assert judged(0.25, conventions={"eps": 0.25}).verdict is Verdict.CONFORMS
    assert judged(0.25).verdict is Verdict.DEVIATES
    assert judged(0.0).verdict is Verdict.CONFORMS  # both values are documented
    assert judged(0.0, conventions={"eps": 1e-6}).verdict is Verdict.DEVIATES


# === torch ================================================================================


def test_torch_declares_every_ability_but_scripting():
    for implementation in (torch_nn.functions, torch_nn.classes):
        for loss in catalogue().values():
            for under_test in implementation.losses_under_test(loss):
                assert set(under_test.abilities) == set(Ability)
    mse = torch_counterpart(find("mse_loss"), "function")
    assert [name for name, holds in mse.abilities.items() if not holds] == [Ability.SCRIPT]


def test_torch_lacks_only_abilities_that_it_does_not_document():
    lacks = {
        (loss.name, ability.value)
        for loss in catalogue().values()
        for ability, holds in torch_counterpart(loss, "class").abilities.items()
        if not holds
    }
    once = {"ctc_loss", "multi_margin_loss", "multilabel_margin_loss"}
    assert {name for name, ability in lacks if ability == "forward-mode"} == once
    assert {name for name, ability in lacks if ability == "second-derivatives"} == once
    assert {name for name, ability in lacks if ability == "autocast"} == {"binary_cross_entropy"}
    kinds = {
        "forward-mode",
        "second-derivatives",
        "autocast",
        "mixed-dtypes",
        "float16",
        "bfloat16",
        "script",
    }
    assert {ability for _, ability in lacks} == kinds


@pytest.mark.parametrize("name", ["ctc_loss", "multi_margin_loss", "multilabel_margin_loss"])
def test_second_derivatives_that_torch_does_not_declare_raise(name):
    under_test = torch_counterpart(find(name), "function")
    clause = clauses()["second-order"]
    clause_record = Campaign(under_test, [clause], Profile("few", 40, 1)).run()["second-order"]
    assert (clause_record.found, clause_record.examples) == (None, 0)
    assert clause_record.lacks.startswith("declared: its gradients cannot be differentiated (")
