"""The public strategies: draws, shrinking and invalid arguments."""

import subprocess
import sys
from textwrap import dedent

import numpy as np
import pytest
import torch
from hypothesis import find, given, settings
from hypothesis import strategies as st
from torch.nn import functional

import lossspec
from lossspec import Example, Form, Logit, Loss, Probability
from lossspec.cases.case import Case
from lossspec.cases.values import STYLES
from lossspec.errors import (
    ArgumentError,
    ArgumentTypeError,
    DeviceError,
    LossspecError,
    UnknownName,
)
from lossspec.spec.catalogue import catalogue
from lossspec.strategies import DrawnCall, calls, cases, tensors

several = settings(max_examples=30, deadline=None, derandomize=True, database=None)
quiet = settings(max_examples=300, deadline=None, derandomize=True, database=None)

#: A loss outside the catalogue.
OWN = Loss(
    name="distance_of_mine",
    module=None,
    summary="The squared difference.",
    formula="(x - y)^2",
    source="this file",
    define=lambda input, target: (input - target) ** 2,
    forms=(Form(shapes=("(*), (*) -> (*)",), tensors={"input": Logit(), "target": Probability()}),),
    examples=(Example(arguments={"input": [3.0], "target": [1.0]}, value=4.0, source="by hand"),),
)


# === calls ================================================================================


@given(calls("cross_entropy"))
def test_a_property_passes_with_the_default_settings_of_hypothesis(call):
    result = functional.cross_entropy(*call.args, **call.kwargs)
    assert isinstance(result, torch.Tensor)


@pytest.mark.parametrize("name", sorted(catalogue()))
def test_drawing_calls_passes_every_health_check(name):
    drawn = []

    @settings(max_examples=40, deadline=None, derandomize=True, database=None)
    @given(calls(name))
    def draws(call):
        drawn.append(call)

    draws()
    assert len(drawn) >= 40
    assert max(sum(x.size for x in call.case.tensors.values()) for call in drawn) <= 512


def test_a_correct_loss_agrees_and_a_wrong_one_does_not():
    @several
    @given(calls("huber_loss", dtypes=["float32", torch.float64]))
    def right(call):
        result = functional.huber_loss(*call.args, **call.kwargs)
        assert call.expected.agrees(result)
        assert call.expected.agrees(result, gradients=call.backward(result))

    @several
    @given(calls("huber_loss", dtypes="float64"))
    def wrong(call):
        assert call.expected.agrees(1.01 * functional.huber_loss(*call.args, **call.kwargs))

    right()
    with pytest.raises(AssertionError, match="wrong: value"):
        wrong()


def test_a_wrong_gradient_does_not_agree():
    @several
    @given(calls("l1_loss", dtypes="float64"))
    def wrong(call):
        result = functional.l1_loss(*call.args, **call.kwargs)
        gradients = call.backward(result)
        turned = {name: None if g is None else -g for name, g in gradients.items()}
        assert call.expected.agrees(result, gradients=turned)

    with pytest.raises(AssertionError, match=r"wrong: gradient of (input|target|weight)"):
        wrong()


def test_pytest_shows_where_a_result_is_wrong(tmp_path):
    tmp_path.joinpath("test_mine.py").write_text(
        dedent(
            """
            from hypothesis import given, settings
            from torch.nn.functional import mse_loss
            from lossspec.strategies import calls

            @settings(database=None, derandomize=True, deadline=None)
            @given(calls("mse_loss", dtypes="float64"))
            def test_mine(call):
                assert call.expected.agrees(1.01 * mse_loss(*call.args, **call.kwargs))
            """
        ),
        "utf-8",
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_mine.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "assert <wrong: value" in done.stdout
    assert "budgets" in done.stdout
    assert "ulps off" in done.stdout
    assert "value = mse_loss(input, target" in done.stdout  # the call text


def test_the_arguments_of_a_call_are_those_of_its_case():
    @quiet
    @given(calls("cross_entropy"))
    def same(call):
        assert isinstance(call, DrawnCall)
        assert len(call.args) == 2
        wanted = {n for n, x in call.tensors.items() if x.requires_grad}
        assert wanted == {*call.case.requires_grad}
        assert call.kwargs["reduction"] == call.case.reduction
        assert ("weight" in call.kwargs) == ("weight" in call.case.tensors)
        assert str(call.args[0].dtype) == f"torch.{call.case.dtype}"
        assert call.cotangent.dtype == call.args[0].dtype
        assert call.args[0].device.type == "cpu"

    same()


def test_class_indices_have_a_documented_dtype():
    @quiet
    @given(calls("cross_entropy"))
    def documented(call):
        target = call.args[1]
        assert target.is_floating_point() or target.dtype == torch.int64

    documented()


def test_writing_to_the_tensors_does_not_change_the_expected_result():
    @several
    @given(calls("l1_loss", dtypes="float64"))
    def untouched(call):
        result = functional.l1_loss(*call.args, **call.kwargs).detach()
        if "expanded" not in call.case.layouts.values():  # torch refuses to write to it
            with torch.no_grad():
                call.args[0].fill_(7.0)
        assert call.expected.agrees(result)

    untouched()


def test_parameters_of_the_class_only_are_not_passed_to_a_function():
    @quiet
    @given(calls("huber_loss"))
    def right(call):
        assert set(call.kwargs) <= {"reduction", "delta", "weight"}

    right()


def test_an_optional_tensor_of_the_class_only_is_left_out():
    option = lossspec.Weight(shape="like input", surfaces=("class",))
    loss = Loss(
        name="with_option",
        module="WithOption",
        summary="s",
        formula="x",
        source="s",
        define=lambda input, target, weight: weight * (input - target) ** 2,
        forms=OWN.forms,
        options={"weight": option},
    )

    @several
    @given(calls(loss))
    def left_out(call):
        assert set(call.kwargs) <= {"reduction"}
        assert "weight" not in call.case.tensors

    left_out()


def test_a_custom_spec_needs_no_catalogue():
    @several
    @given(calls(OWN))
    def right(call):
        losses = (call.args[0] - call.args[1]) ** 2
        reduction = call.kwargs.get("reduction", "mean")
        result = losses if reduction == "none" else getattr(losses, reduction)()
        assert call.expected.agrees(result, gradients=call.backward(result))

    right()
    x = torch.tensor([3.0, 1.0])
    assert lossspec.expect(OWN, x, torch.ones(2)).check(torch.tensor(2.0))


@pytest.mark.parametrize("missing", ["requires_grad", "graph"])
def test_backward_without_a_graph_leaves_no_gradient(missing):
    wanted = missing == "graph"
    call = find(
        calls("l1_loss", dtypes="float32"),
        lambda call: bool(call.case.requires_grad) == wanted and not call.case.layouts,
        settings=settings(database=None, deadline=None, derandomize=True),
    )
    result = functional.l1_loss(*call.args, **call.kwargs).detach()
    gradients = call.backward(result)
    assert set(gradients.values()) <= {None}
    assert bool(call.expected.agrees(result, gradients=gradients)) == (not wanted)


def test_calls_shrink_to_a_small_call():
    call = find(
        calls("cross_entropy", dtypes="float32"),
        lambda call: call.args[0].numel() > 0,
        settings=settings(database=None, deadline=None, max_examples=300, derandomize=True),
    )
    assert sum(x.size for x in call.case.tensors.values()) <= 24
    assert call.case.layouts == {}


# === cases ================================================================================


def test_cases_are_drawn_by_function_name_class_name_or_spec():
    for loss in ("cross_entropy", "CrossEntropyLoss", catalogue()["cross_entropy"]):

        @settings(max_examples=5, deadline=None, database=None)
        @given(cases(loss, dtypes="bfloat16"))
        def drawn(case):
            assert isinstance(case, Case)
            assert (case.loss, case.dtype) == ("cross_entropy", "bfloat16")

        drawn()


# === tensors ==============================================================================

ROLES = [
    *(lossspec.Real(), lossspec.Logit(), lossspec.LogProbability(), lossspec.Probability()),
    *(lossspec.Positive(), lossspec.NonNegative(), lossspec.Count(), lossspec.Sign()),
    *(lossspec.Binary(), lossspec.Weight(), lossspec.Factor(), lossspec.Distribution()),
]


@pytest.mark.parametrize("role", ROLES, ids=lambda role: type(role).__name__)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", torch.float16])
def test_a_drawn_tensor_lies_in_the_domain_of_its_role(role, dtype):
    @several
    @given(tensors(role, (3, 4), dtype))
    def inside(x):
        assert x.shape == (3, 4)
        assert str(x.dtype) == f"torch.{str(dtype).removeprefix('torch.')}"
        assert role.contains(x.double().numpy()).all()
        if isinstance(role, lossspec.Distribution):
            assert torch.allclose(x.double().sum(1), torch.ones(3, dtype=torch.double), atol=0.03)

    inside()


def test_class_indices_and_lengths_are_integers_in_range():
    @several
    @given(
        tensors(lossspec.ClassIndex(), (5,), classes=3),
        tensors(lossspec.Length(of="T"), 4, classes=2),
    )
    def inside(index, lengths):
        assert (index.dtype, lengths.shape) == (torch.int64, (4,))
        assert ((index >= 0) & (index < 3)).all()
        assert ((lengths >= 0) & (lengths <= 2)).all()

    inside()


def test_every_style_of_a_role_is_drawn():
    seen = []

    @quiet
    @given(tensors(lossspec.Logit(), (100,), "float64"))
    def note(x):
        seen.append(float(x.abs().max()))

    note()
    assert len(STYLES["logit"]) > 4
    assert min(seen) < 1e-2  # small
    assert max(seen) > 9e3  # with an offset


def test_tensors_shrink_each_number():
    x = find(
        tensors(lossspec.Logit(), (2, 3), "float64"),
        lambda x: x[1, 1] > 1,
        settings=settings(database=None, max_examples=500, derandomize=True),
    )
    assert x[1, 1] <= 2
    assert np.count_nonzero(x) == 1


def test_the_shape_may_be_a_strategy():
    shapes = set()

    @several
    @given(tensors(lossspec.Real(), st.tuples(st.integers(0, 3), st.integers(1, 2))))
    def note(x):
        shapes.add(tuple(x.shape))

    note()
    assert len(shapes) > 3


# === invalid arguments ====================================================================


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: calls("cros_entropy"), UnknownName, "did you mean cross_entropy"),
        (lambda: cases("hubber_loss"), UnknownName, "did you mean huber_loss"),
        (lambda: calls(3), ArgumentTypeError, "must be a name or a lossspec.Loss, got 3"),
        (lambda: calls("l1_loss", dtypes="float23"), UnknownName, "dtype of l1_loss 'float23'"),
        (lambda: calls("l1_loss", device="gpu"), DeviceError, "device gpu: not a torch device"),
        (lambda: calls("l1_loss", numbers=0), ArgumentError, "1 or more, got 0"),
        (lambda: tensors("logit", (2,)), ArgumentTypeError, "lossspec.Logit"),
        (lambda: tensors(Logit, (2,)), ArgumentTypeError, r"pass Logit\(\)"),
        (lambda: tensors(Logit(), (2,), "int64"), UnknownName, "dtype of a Logit 'int64'"),
        (lambda: tensors(Logit(), (-2,)), ArgumentError, "0 or more"),
        (lambda: tensors(lossspec.ClassIndex(), (2,)), ArgumentError, "classes takes a whole"),
    ],
)
def test_a_strategy_refuses_invalid_arguments_at_construction(make, error, said):
    with pytest.raises(error, match=said) as caught:
        make()
    assert isinstance(caught.value, LossspecError)


def test_the_strategies_are_public():
    assert lossspec.strategies.calls is calls
    assert {"calls", "cases", "tensors"} <= {*lossspec.strategies.__all__}
    assert "expect" in lossspec.__all__
