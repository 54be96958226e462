"""Validation of a spec at construction: an invalid one raises a clear error."""

import re
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from lossspec.spec.catalogue import catalogue
from lossspec.spec.loss import Example, Form, Loss
from lossspec.spec.parameters import number
from lossspec.spec.roles import Real, Weight

ROLES = MappingProxyType({"input": Real(), "target": Real()})


def form(*shapes: str, tensors: Mapping[str, Any] = ROLES, **more: Any) -> Form:
    return Form(shapes=shapes or ("(*), (*) -> (*)",), tensors=tensors, **more)


def example(**changed: Any) -> tuple[Example]:
    published = {"arguments": {"input": 1.0, "target": 2.0}, "value": 1.0, "source": "by hand"}
    return (Example(**published | changed),)


RIGHT: dict[str, Any] = {
    "name": "distance",
    "module": "Distance",
    "summary": "The distance.",
    "formula": "|x - y|",
    "source": "by hand",
    "define": lambda input, target, scale: (input - target) * scale,
    "forms": (form(),),
    "options": {"weight": Weight(shape="like input")},
    "parameters": {"scale": number(1.0, 2.0)},
    "examples": example(parameters={"scale": 2.0}),
}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": ""}, "spec '': the names of a loss are Python identifiers, got ''"),
        ({"name": "log cosh!"}, "the names of a loss are Python identifiers, got 'log cosh!'"),
        (
            {"module": "a.B"},
            "spec 'distance': the names of a loss are Python identifiers, got 'a.B'",
        ),
        ({"forms": ()}, "spec 'distance': forms is empty; give at least one Form"),
        ({"forms": (form(), form())}, "each form needs a name of its own, got '', ''"),
        ({"forms": (form("(N, (N) -> ()"),)}, "a shape contract reads like '(N, C), (N) -> (N)', "),
        ({"forms": (form("(*), (*)"),)}, "a shape contract reads like '(N, C), (N) -> (N)', got "),
        (
            {"forms": (form("(*) -> (*)"),)},
            "the shape contract '(*) -> (*)' needs one group of axes for each tensor; the tensors "
            "are: input, target",
        ),
        (
            {"forms": (Form(shapes="(*)", tensors=ROLES),)},
            "shapes takes a tuple of shape contracts, got '(*",
        ),
        (
            {"forms": (Form(shapes=(), tensors=ROLES),)},
            "shapes takes a tuple of shape contracts, got ()",
        ),
        (
            {"forms": (form(tensors={"input": Real, "target": Real()}),)},
            "tensors takes a Role for 'input', got <class 'lossspec.spec.roles.Real'>",
        ),
        ({"parameters": {"scale": 1.0}}, "parameters takes a Parameter for 'scale', got 1.0"),
        ({"parameters": {"scale": number(1.0, forms=("x",))}}, "forms of 'scale': unknown 'x'; "),
        (
            {"define": lambda a, b: a - b},
            "arguments of define: unknown 'a'; known: 'input', 'target', 'weight', 'scale'",
        ),
        ({"parameters": {}}, "arguments of define: unknown 'scale'; known: 'input', 'target', "),
        ({"forms": (form(divisor=lambda n: n),)}, "arguments of divisor: unknown 'n'; known: "),
        ({"forms": (form(fixed={"p": 1}),)}, "fixed: unknown 'p'; known: 'scale'"),
        (
            {"shift_invariant": ("bias",)},
            "shift_invariant: unknown 'bias'; known: 'input', 'target'",
        ),
        (
            {"shift_invariant": "input"},
            "shift_invariant takes a tuple of names of tensors, got 'in",
        ),
        ({"shift_invariant": True}, "shift_invariant takes a tuple of names of tensors, got True"),
        ({"dtypes": ("float31",)}, "dtypes: unknown 'float31'; known: 'float32', 'float64', "),
        (
            {"examples": example(arguments={"inptu": 1.0, "target": 1.0})},
            "arguments of an example: unknown 'inptu'; known: 'input', 'target', 'weight'",
        ),
        ({"examples": example(arguments={"input": 1.0})}, "an example lacks values for target"),
        ({"examples": example(parameters={"p": 1})}, "parameters of an example: unknown 'p'; "),
        ({"examples": example(reduction="max")}, "reduction of an example: unknown 'max'; known: "),
        ({"examples": example(form="other")}, "form of an example: unknown 'other'; known: ''"),
    ],
)
def test_an_invalid_spec_raises_a_clear_error(changed, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Loss(**RIGHT | changed)


def test_a_valid_spec_is_accepted():
    assert Loss(**RIGHT).roles(RIGHT["forms"][0]).keys() == {"input", "target", "weight"}


@pytest.mark.parametrize("name", catalogue())
def test_the_shipped_specs_can_be_constructed_again(name):
    assert replace(catalogue()[name]).name == name
