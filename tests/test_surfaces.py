"""Every loss on both surfaces, and losses of unusual shapes: no clause fails by itself."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from lossspec.clauses import Clause, clauses
from lossspec.execution.call import constructor
from lossspec.execution.implementation import LossUnderTest
from lossspec.implementations.counterpart import torch_counterpart
from lossspec.implementations.oracle import bind, function
from lossspec.judging.campaign import Campaign
from lossspec.judging.profiles import Profile
from lossspec.maths import absolute, largest, log_sum_exp, norm, total
from lossspec.spec.catalogue import catalogue, find
from lossspec.spec.loss import Form, Loss
from lossspec.spec.parameters import number
from lossspec.spec.roles import ClassIndex, Factor, Real, Surface, Weight

#: These clauses compile or train, which takes minutes for every loss.
COSTLY = {"compiled", "compiled-refusal", "exported", "trained"}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def function_of_class(loss: Loss, made: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function for a class that owns some of its tensors, which become arguments."""
    names = {len(form.tensors): list(form.tensors) for form in loss.forms}

    def call(*tensors, reduction=loss.reductions[0], bias=None, div_value=4.0):
        given = dict(zip(names[len(tensors)], tensors, strict=True))
        given |= {} if bias is None else {"bias": bias}
        case = bind(loss, given, {"div_value": div_value}, reduction)
        under_test = LossUnderTest("torch", loss, "class", made)
        module = made(**constructor(under_test, case), div_value=div_value).to(tensors[0].dtype)
        roles = loss.roles(loss.form(case.form))
        own = {roles[name].state: x for name, x in given.items() if roles[name].state}
        shaped = {n: own[n].reshape(p.shape) for n, p in module.named_parameters()}
        passed = tuple(x for name, x in given.items() if not roles[name].state)
        result = torch.func.functional_call(module, shaped, passed)
        return getattr(result, loss.results[reduction])

    return call


def class_of_function(loss: Loss, called: Callable[..., Any]) -> type[torch.nn.Module]:
    """Return a class for a function; its constructor stores all keyword arguments."""

    class Made(torch.nn.Module):
        def __init__(self, reduction=loss.reductions[0], **options):
            super().__init__()
            self.reduction, self.options = reduction, options
            for name, given in options.items():
                if isinstance(given, torch.Tensor):
                    self.register_buffer(name, given)

        def forward(self, *tensors):
            options = {**self.options, **dict(self.named_buffers())}
            return called(*tensors, reduction=self.reduction, **options)

    return Made


def judged(
    under_test: LossUnderTest, count: int, wanted: Callable[[Clause], bool]
) -> dict[str, Any]:
    """Run a campaign and return its records by clause."""
    each = clauses().values()
    chosen = [c for c in each if wanted(c) and c.applies(under_test.loss, under_test.surface)]
    return Campaign(under_test, chosen, Profile("few", count, 1)).run()


def cheap(clause: Clause) -> bool:
    return clause.name not in COSTLY and clause.only_on != "accelerator" and clause.lacks is None


def subject_of(name: str, surface: Surface) -> LossUnderTest:
    """Return the torch loss, or one made from its other surface if torch lacks this surface."""
    loss = find(name)
    torchs = torch_counterpart(loss, surface)
    if torchs is not None:
        return torchs
    other = torch_counterpart(loss, "class" if surface == "function" else "function")
    assert other is not None
    made = function_of_class if surface == "function" else class_of_function
    return LossUnderTest("made", loss, surface, made(loss, other.target))


@pytest.mark.parametrize("surface", ["function", "class"])
@pytest.mark.parametrize("name", catalogue())
def test_no_clause_fails_on_either_surface_of_a_loss(name, surface):
    clause_records = judged(subject_of(name, surface), 10, lambda c: cheap(c) and not c.slow)
    assert {
        name: clause_record.broken
        for name, clause_record in clause_records.items()
        if clause_record.broken
    } == {}


def test_a_function_made_from_a_torch_class_conforms():
    loss = find("adaptive_log_softmax_with_loss")
    assert torch_counterpart(loss, "function") is None
    under_test = LossUnderTest("oracle", loss, "function", function(loss))
    clause_records = judged(under_test, 60, lambda clause: cheap(clause) and not clause.slow)
    assert {
        n: clause_record.broken
        for n, clause_record in clause_records.items()
        if clause_record.broken
    } == {}
    found = {
        n: clause_record.found.deviation.what
        for n, clause_record in clause_records.items()
        if clause_record.found
    }
    assert found == {}
    assert clause_records["nan-spreads"].examples > 0


def odd(name: str, form: Form, define: Any, **more: Any) -> Loss:
    return Loss(
        name=name,
        module=None,
        summary="A loss of odd shapes.",
        formula="x",
        source="by hand",
        define=define,
        forms=(form,),
        **more,
    )


TWO = {"input": Real(), "target": Real()}
ODD = {
    "of an axis that may be empty": odd(
        "of_some",
        Form(shapes=("(N, M), (N) -> (N)", "(M), () -> ()"), tensors=TWO, sizes={"M": (0, 3)}),
        lambda input, target, weight: weight * absolute(total(input) - target),
        options={"weight": Weight(shape="like target")},
    ),
    "of an empty axis": odd(
        "of_none",
        Form(shapes=("(N, M), (N) -> (N)",), tensors=TWO, sizes={"M": (0,)}),
        lambda input, target: (norm(input, 2) - target) ** 2,
    ),
    "of no axis": odd(
        "of_numbers",
        Form(shapes=("(), () -> ()",), tensors=TWO),
        lambda input, target, scale: absolute(input - target) * scale,
        parameters={"scale": number(1.0, 2.0, refused=(-1.0,))},
    ),
    "of a whole matrix": odd(
        "of_all",
        Form(shapes=("(N, M), (M) -> ()",), tensors=TWO, sizes={"M": (1, 2)}),
        lambda input, target: absolute(total(total(input)) - total(target)),
    ),
    "of classes without a batch": odd(
        "of_classes",
        Form(
            shapes=("(C), () -> ()",),
            tensors={"input": Real(), "target": ClassIndex()},
            sizes={"C": (1, 2)},
        ),
        lambda input, target: log_sum_exp(input) - largest(input) + 0.0 * target,
    ),
    "of an empty factor": odd(
        "of_factors",
        Form(
            shapes=("(N, H), (K, H) -> (N)",),
            tensors={"input": Factor(), "factor": Factor()},
            sizes={"K": (0, 2), "H": (0, 1, 3)},
        ),
        lambda input, factor: total(total(input[..., None, :] * factor)),
    ),
}


@pytest.mark.parametrize("surface", ["function", "class"])
@pytest.mark.parametrize("loss", ODD.values(), ids=ODD)
def test_no_clause_fails_on_a_loss_of_unusual_shapes(loss, surface):
    target: Any = function(loss)
    if surface == "class":
        loss = Loss(**{**vars_of(loss), "module": "Made"})
        target = class_of_function(loss, target)
    clause_records = judged(LossUnderTest("oracle", loss, surface, target), 24, cheap)
    assert {
        n: clause_record.broken
        for n, clause_record in clause_records.items()
        if clause_record.broken
    } == {}
    found = {
        n: clause_record.found.deviation.what
        for n, clause_record in clause_records.items()
        if clause_record.found
    }
    assert found == {}


def vars_of(loss: Loss) -> dict[str, Any]:
    return {name: getattr(loss, name) for name in loss.__dataclass_fields__}


def test_nan_is_placed_only_in_nonempty_tensors():
    loss = ODD["of an axis that may be empty"]
    clause_records = judged(
        LossUnderTest("oracle", loss, "function", function(loss)),
        80,
        lambda c: c.name == "nan-spreads",
    )
    assert clause_records["nan-spreads"].broken is None
    assert clause_records["nan-spreads"].informative > 0
    assert np.isfinite(clause_records["nan-spreads"].worst)
