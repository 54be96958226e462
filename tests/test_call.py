"""Calls: execution, call text and reproduction script agree."""

from __future__ import annotations

import ast
import inspect
import math
import re

import numpy as np
import pytest
import torch

from lossspec.cases.case import LAYOUTS
from lossspec.clauses.trial import Deviation
from lossspec.execution import layouts
from lossspec.execution.call import Call, Positional, unsupported_argument
from lossspec.execution.call_text import call_text
from lossspec.execution.implementation import LossUnderTest
from lossspec.execution.outcome import perform
from lossspec.execution.tensors import to_torch
from lossspec.implementations import load
from lossspec.judging import reproduction
from lossspec.judging.profiles import Profile
from lossspec.judging.stream import stream
from lossspec.spec.catalogue import catalogue, find


def calls(loss, name):
    """Yield calls of a loss on the surface of a torch module."""
    for under_test in load(name).losses_under_test(find(loss)):
        for solved in stream(under_test.loss, Profile("quick", 16, 1), 0):
            if unsupported_argument(under_test, solved.case) is None:
                yield Call.of(under_test, solved.case)


@pytest.mark.parametrize("name", ["torch.nn", "torch.nn.functional"])
@pytest.mark.parametrize("loss", list(catalogue()))
def test_a_call_passes_each_tensor_once(loss, name):
    for call in calls(loss, name):
        places = [*(one.name for one in call.positional), *call.tensor_keywords, *call.owned]
        assert sorted(places) == sorted(call.case.tensors)
        assert not set(call.keywords) & set(places)


def test_a_tensor_passes_through_a_torch_function_along_its_class_axis():
    through = {one for call in calls("ctc_loss", "torch.nn") for one in call.positional}
    assert {one.through for one in through} == {"log_softmax", None}
    logits = torch.tensor([[0.0, 1.0], [2.0, 4.0]])
    got = Positional("input", "log_softmax", 0).passed(logits)
    assert torch.equal(got, logits.log_softmax(0))
    assert Positional("input", "log_softmax", 0).passed("no tensor") == "no tensor"
    assert Positional("input").passed(logits) is logits


def test_tensors_owned_by_a_class_are_not_passed_as_arguments():
    call = next(calls("linear_cross_entropy", "torch.nn"))
    assert call.owned["linear_weight"] == "linear.weight"
    function = next(calls("linear_cross_entropy", "torch.nn.functional"))
    assert function.owned == {}
    assert "linear_weight" not in [one.name for one in call.positional]
    assert "linear_weight" in [one.name for one in function.positional]


def test_a_replaced_tensor_is_not_differentiated():
    (under_test,) = load("torch.nn.functional").losses_under_test(find("mse_loss"))
    case = next(
        solved.case
        for solved in stream(under_test.loss, Profile("quick", 16, 1), 0)
        if "input" in solved.case.requires_grad
    )
    call = Call.of(under_test, case, {"input": torch.zeros(2), "reduction": "avg", "odd": 1})
    assert "input" in Call.of(under_test, case).differentiated
    assert "input" not in call.differentiated
    assert call.keywords["reduction"] == "avg"
    assert call.keywords["odd"] == 1
    assert "input" not in call.keywords


@pytest.mark.parametrize("surface", ["function", "class"])
def test_a_replaced_keyword_is_in_call_text_and_script(surface):
    seen = []

    class Recorder(torch.nn.Module):
        def __init__(self, **keywords):
            super().__init__()
            seen.append(keywords)

        def forward(self, input, target):
            return (input - target).sum()

    def recorder(input, target, **keywords):
        seen.append(keywords)
        return (input - target).sum()

    target = Recorder if surface == "class" else recorder
    under_test = LossUnderTest("mine", find("huber_loss"), surface, target, "mine:loss")
    case = stream(under_test.loss, Profile("quick", 1, 1), 0)[0].case
    replaced = {"delta": -1.0, "reduction": "avg"}
    perform(under_test, case, replaced=replaced)
    assert {name: seen[-1][name] for name in replaced} == replaced
    text = call_text(under_test, case, replaced)
    assert "delta=-1.0" in text
    assert "reduction='avg'" in text
    deviation = Deviation("nothing", check="error is not None", replaced=replaced)
    script = reproduction.script(under_test, case, deviation, "A sentence.", "cpu")
    assert "delta=-1.0" in script
    assert "reduction='avg'" in script


def test_call_text_and_script_read_the_result_of_a_class():
    (under_test,) = load("torch.nn").losses_under_test(find("adaptive_log_softmax_with_loss"))
    case = stream(under_test.loss, Profile("quick", 1, 1), 0)[0].case
    call = Call.of(under_test, case)
    assert call.result is not None
    deviation = Deviation("nothing", check="error is None")
    script = reproduction.script(under_test, case, deviation, "A sentence.", "cpu")
    assert f").{call.result}\n" in script
    assert f").{call.result}\n" in call_text(under_test, case) + "\n"


# === code of lossspec in a script ===========================================================


def script_of(layout):
    """Return a script whose input is stored in the given layout."""
    (under_test,) = load("torch.nn.functional").losses_under_test(find("mse_loss"))
    case = stream(under_test.loss, Profile("quick", 1, 1), 0)[0].case
    case = case.with_(layouts={"target": layout})
    deviation = Deviation("nothing", check="error is None")
    return reproduction.script(under_test, case, deviation, "A sentence.", "cpu")


def functions(script):
    """Return the names that a script defines before it makes its tensors."""
    names: dict = {}
    exec(compile(script.partition("\ninputs = {")[0], "script.py", "exec"), names)
    return names


def test_a_script_contains_the_layout_code_and_does_not_import_lossspec():
    script = script_of("sliced")
    for function in layouts.SCRIPTED:
        assert inspect.getsource(function).rstrip() in script
    imported = {
        name.name
        for node in ast.walk(ast.parse(script))
        if isinstance(node, ast.Import)
        for name in node.names
    }
    assert imported == {"math", "sys", "torch"}
    assert re.findall(r"import_module\((.*?)\)", script) == ["'torch.nn.functional'"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (2, 3), (2, 3, 4, 5), (1, 2, 2, 3, 2)])
def test_a_script_stores_a_tensor_in_the_same_layout_as_the_run(shape, layout):
    array = np.broadcast_to(np.arange(math.prod(shape[1:])).reshape(1, *shape[1:])[0], shape)
    array = array.astype(np.float32)  # rows that are equal, as an expanded tensor has them
    made = functions(script_of(layout))["tensor"]
    got = made(torch.float32, shape, array.ravel().tolist(), layout)
    want = to_torch(array, layout)
    assert torch.equal(got, want)
    if array.size:
        assert (got.stride(), got.storage_offset()) == (want.stride(), want.storage_offset())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.complex128, torch.bool])
def test_a_script_compares_the_bits_of_a_strided_tensor(dtype):
    same = functions(script_of("sliced"))["same_bits"]
    x = torch.ones(10, dtype=dtype)[::2]
    assert x.stride() == (2,)
    assert same(x, x.clone())
    other = x.clone()
    other[-1] = 0
    assert not same(x, other)


@pytest.mark.parametrize(
    ("dtype", "whole"),
    [
        (torch.bfloat16, torch.int16),
        (torch.float16, torch.int16),
        (torch.float32, torch.int32),
        (torch.float64, torch.int64),
    ],
)
def test_all_nans_count_as_the_same_bits(dtype, whole):
    same = functions(script_of("sliced"))["same_bits"]
    one = torch.tensor([1.0, torch.nan], dtype=dtype)
    other = one.clone()
    other.view(whole)[1] = -1  # every bit set is a NaN too
    assert other.isnan().tolist() == [False, True]
    assert not torch.equal(one.view(whole), other.view(whole))
    assert same(one, other)
    assert same(torch.complex(one.float(), one.float()), torch.complex(other.float(), one.float()))
    assert not same(one, one.nan_to_num(7))
    assert not same(one, other.flip(0))
    assert not same(one[0], other[1])


def test_a_script_names_the_kind_of_a_tensor_without_data():
    kind = functions(script_of("sliced"))["without_numbers"]
    assert kind(torch.eye(2).to_sparse()) == "sparse_coo"
    assert kind(torch.empty(2, device="meta")) == "meta"
    assert kind(torch.ones(2)) is None
    assert kind("text") is None
