"""Cases: the same call, bit for bit, from JSON, from a seed and in any memory layout."""

import json
import re

import ml_dtypes
import numpy as np
import pytest
import torch

from lossspec.cases.axes import axes_of
from lossspec.cases.case import LAYOUTS, Case
from lossspec.cases.features import features
from lossspec.cases.shrink import simpler_numbers
from lossspec.dtypes import REAL_DTYPES
from lossspec.errors import CaseError
from lossspec.execution.tensors import to_extended, to_torch
from lossspec.judging.profiles import PROFILES, Profile
from lossspec.judging.stream import stream
from lossspec.maths.number import Number, array_of
from lossspec.oracle.solver import _arguments, _pose, solve
from lossspec.spec.catalogue import catalogue, find

FEW = Profile("quick", 30, 1)
NUMPY = {name: np.dtype(name) for name in ("float16", "float32", "float64")}
NUMPY["bfloat16"] = np.dtype(ml_dtypes.bfloat16)


def drawn(name: str, seed: int = 0, dtypes: tuple[str, ...] | None = None) -> list[Case]:
    return [solved.case for solved in stream(find(name), FEW, seed, dtypes)]


def bits(array: np.ndarray) -> tuple:
    return array.dtype, array.shape, array.tobytes()


def as_bits(case: Case) -> dict:
    """Return a case with its numbers as bytes, so that NaN equals itself and -0 is not 0."""
    return {
        **vars(case),
        "tensors": {name: bits(array) for name, array in case.tensors.items()},
        "cotangent": bits(case.cotangent),
        "shape": case.shape,
    }


def l1_case(input, **more) -> Case:
    array = np.asarray(input)
    given = {
        "loss": "l1_loss",
        "form": "",
        "contract": "(*), (*) -> (*)",
        "spread": array.ndim,
        "dtype": str(array.dtype),
        "tensors": {"input": array, "target": np.zeros_like(array)},
        "parameters": {},
        "reduction": "none",
        "cotangent": np.ones_like(array),
    }
    return Case(**{**given, **more})


def nll_case(input, target, **more) -> Case:
    input, target = np.asarray(input, np.float32), np.asarray(target)
    given = {
        "loss": "nll_loss",
        "contract": "(N, C), (N) -> (N)",
        "spread": 0,
        "tensors": {"input": input, "target": target},
        "parameters": {"ignore_index": -100},
        "cotangent": np.ones(target.shape, np.float32),
    }
    return l1_case(input, **{**given, **more})


# === JSON ==================================================================================


@pytest.mark.parametrize("name", catalogue())
def test_a_drawn_case_survives_json_bit_for_bit(name):
    for case in drawn(name):
        text = json.dumps(case.to_json(), allow_nan=False)
        assert as_bits(Case.from_json(json.loads(text))) == as_bits(case)


@pytest.mark.parametrize("dtype", REAL_DTYPES)
def test_special_numbers_survive_json_bit_for_bit(dtype):
    info = ml_dtypes.finfo(NUMPY[dtype])
    odd = [
        *(np.nan, np.inf, -np.inf, 0.0, -0.0),
        *(info.smallest_subnormal, -info.tiny, info.max, info.min, 1 + float(info.eps)),
        *(0.1, 1 / 3, 2 / 3),
    ]
    array = np.array(odd, np.float64).astype(NUMPY[dtype])
    case = l1_case(array, cotangent=array[::-1].copy(), requires_grad=("input",), scale=-0.5)
    again = Case.from_json(json.loads(json.dumps(case.to_json(), allow_nan=False)))
    assert as_bits(again) == as_bits(case)
    assert np.signbit(again.tensors["input"].astype(np.float64)[4])


@pytest.mark.parametrize("shape", [(), (0,), (2, 0), (0, 3), (1, 2, 3)])
def test_every_shape_survives_json(shape):
    case = l1_case(np.zeros(shape, np.float32), layouts={"target": "sliced"})
    again = Case.from_json(json.loads(json.dumps(case.to_json())))
    assert as_bits(again) == as_bits(case)


def nested(levels):
    data = 1.0
    for _ in range(levels):
        data = [data]
    return data


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([], "got [], want an object"),
        ({"spread": None}, "spread: got None, want an integer"),
        ({"spread": 10**9}, "spread: got 1000000000, want 0 to 8"),
        ({"dtype": "object"}, "dtype: got 'object', want one of float32, float64, "),
        ({"cotangent": nested(900)}, "tensor cotangent: got data that do not fit, want arrays"),
        ({"cotangent": [1.0]}, "tensor cotangent: got data that do not fit, want arrays of"),
        ({"cotangent": ["x", "y"]}, "tensor cotangent: got data that do not fit, want arrays"),
        ({"parameters": {"p": {"x": 1}}}, "parameter p: got {'x': 1}, want a number, a string, "),
        ({"data": nested(900)}, "tensor input: got data that do not fit, want arrays of "),
        ({"data": [1.0, None]}, "tensor input: got data that do not fit, want arrays of "),
        ({"shape": [10**9]}, "tensor input: got shape [1000000000], want at most 8 axes and 4,194"),
        ({"shape": [10**9, 0], "data": []}, "tensor input: got shape [1000000000, 0], want at mos"),
        ({"shape": [-1]}, "tensor input: got shape [-1], want at most 8 axes"),
        ({"shape": [True, 2]}, "tensor input: got shape [True, 2], want at most 8 axes"),
        ({"shape": [1] * 9}, "tensor input: got shape [1, 1, 1, 1, 1, 1, ...], want at most 8 axe"),
        ({"shape": [1, 2]}, "tensor input: got 2 axes, want the axes (d1)"),
        (
            {"dtype of input": "S99999999999"},
            "tensor input: got dtype 'S99999999999', want one of ",
        ),
        ({"layout": "tiled"}, "tensor input: got layout 'tiled', want one of "),
    ],
)
def test_malformed_stored_cases_raise_a_clear_error(changes, message):
    data = l1_case(np.ones(2, np.float32)).to_json()
    if changes == []:
        data = []
    for key, value in dict(changes).items():
        if key in ("data", "shape", "layout"):
            data["tensors"]["input"][key] = value
        elif key == "dtype of input":
            data["tensors"]["input"]["dtype"] = value
        else:
            data[key] = value
    with pytest.raises(CaseError) as caught:
        Case.from_json(data)
    assert str(caught.value).startswith(message)
    assert len(str(caught.value)) < 300


# === streams ================================================================================


@pytest.mark.parametrize("name", ["l1_loss", "cross_entropy"])
def test_a_stream_depends_only_on_spec_profile_and_seed(name):
    first = list(map(as_bits, drawn(name)))
    stream(find("mse_loss"), FEW, 0)  # drops the cached solutions
    np.random.seed(99)  # the global state must not matter
    torch.manual_seed(99)
    assert list(map(as_bits, drawn(name))) == first
    assert list(map(as_bits, drawn(name, seed=1))) != first
    assert len(first) == FEW.examples


def test_a_stream_contains_only_the_given_dtypes():
    assert {case.dtype for case in drawn("l1_loss", 0, ("float64",))} == {"float64"}
    assert {case.dtype for case in drawn("l1_loss")} == set(REAL_DTYPES)


@pytest.mark.parametrize("name", ["mse_loss", "nll_loss", "cross_entropy", "kl_div"])
def test_drawn_cases_are_valid(name):
    loss = find(name)
    for case in drawn(name, seed=3):
        form = loss.form(case.form)
        assert list(form.tensors) == list(case.tensors)[: len(form.tensors)]
        assert solve(loss, case).losses.shape == case.cotangent.shape
        if {"some ignored", "all ignored"} & features(case):
            continue  # an ignored row may hold any number
        for tensor, role in loss.roles(form).items():
            if tensor in case.tensors and not role.integer:
                numbers = case.tensors[tensor].astype(np.float64)
                finite = numbers[np.isfinite(numbers)]
                assert ((finite >= role.low) & (finite <= role.high)).all()


# === memory layouts =========================================================================


@pytest.mark.parametrize("dtype", [*REAL_DTYPES, "int64", "uint8"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (5,), (2, 3), (2, 3, 4, 5), (1, 2, 2, 3, 2)])
def test_a_layout_holds_the_same_numbers(shape, layout, dtype):
    numpy = NUMPY.get(dtype) or np.dtype(dtype)
    array = (np.arange(np.prod(shape, dtype=int)) % 7).reshape(shape).astype(numpy)
    if layout == "expanded" and shape:
        array = np.broadcast_to(array[:1], shape).copy()
    tensor = to_torch(array, layout)
    assert str(tensor.dtype) == f"torch.{dtype}"
    assert tuple(tensor.shape) == shape
    assert np.array_equal(to_extended(tensor), array.astype(np.longdouble))


def test_a_layout_has_the_strides_that_its_name_says():
    array = np.arange(120, dtype=np.float32).reshape(2, 3, 4, 5)
    plain, permuted, sliced, pitched, offset, expanded, last = (
        to_torch(array, name) for name in LAYOUTS
    )
    assert plain.stride() == (60, 20, 5, 1)
    assert permuted.stride() == (1, 2, 6, 24)
    assert sliced.stride() == (132, 44, 11, 2)
    assert pitched.stride() == (84, 28, 7, 1)
    assert (offset.stride(), offset.storage_offset()) == ((60, 20, 5, 1), 3)
    assert expanded.stride() == (0, 20, 5, 1)
    assert last.is_contiguous(memory_format=torch.channels_last)
    volume = to_torch(array.reshape(1, 2, 3, 4, 5), "channels_last")
    assert volume.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_that_the_shape_does_not_allow_is_contiguous(layout):
    assert to_torch(np.float32(1.5).reshape(()), layout).stride() == ()
    assert to_torch(np.zeros((2, 0), np.float32), layout).is_contiguous()
    if layout == "channels_last":
        assert to_torch(np.zeros((2, 3), np.float32), layout).is_contiguous()


@pytest.mark.parametrize("dtype", REAL_DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_special_numbers_reach_torch_bit_for_bit(layout, dtype):
    info = ml_dtypes.finfo(NUMPY[dtype])
    odd = [np.nan, -np.inf, -0.0, float(info.smallest_subnormal), float(info.max)]
    array = np.array([odd], np.float64).astype(NUMPY[dtype])
    tensor = to_torch(array, layout).contiguous()
    width = array.dtype.itemsize
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[width]
    want = array.view(f"int{8 * width}")
    assert tensor.view(kind).tolist() == want.tolist()


# === features of a case ====================================================================


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (l1_case(np.float32(1).reshape(())), {"0-d"}),
        (l1_case(np.ones((0, 2), np.float32)), {"2-d", "empty"}),
        (l1_case(np.ones((3, 3), np.float32)), {"2-d", "square"}),
        (l1_case(np.ones(65, np.float32)), {"1-d", "many rows"}),
        (l1_case(np.float32([0, 1])), {"1-d", "ties"}),
        (l1_case(np.float32([np.inf, 1])), {"1-d", "non-finite"}),
        (l1_case(np.float32([np.nan, 1])), {"1-d", "non-finite"}),
        (
            l1_case(np.float32([1, 2]), cotangent=np.float32([0, 1])),
            {"1-d", "zero cotangent in front"},
        ),
        (
            l1_case(np.float32([1, 2]), layouts={"target": "sliced"}),
            {"1-d", "target sliced"},
        ),
        (
            l1_case(
                np.float32([1]),
                tensors={n: np.float32([i]) for i, n in enumerate(("input", "target", "weight"))},
            ),
            {"1-d", "with weight"},
        ),
        (nll_case([[0, -1, -2]], [1]), {"2-d"}),
        (nll_case([[0, -1, -2]], [-100]), {"2-d", "all ignored", "leading ignored"}),
        (
            nll_case([[0, -1], [-2, 0]], [-100, 1]),
            {"2-d", "square", "some ignored", "leading ignored"},
        ),
        (nll_case([[0, -1], [-2, 0]], [1, -100]), {"2-d", "square", "some ignored"}),
        (nll_case([0, -1], 1, contract="(C), () -> ()"), {"1-d", "no batch"}),
        (
            nll_case(
                [[[0.0, -1, -2]]],
                [[0, 0, 0]],
                contract="(N, C, d1, ..., dk), (N, d1, ..., dk) -> (N, d1, ..., dk)",
                spread=1,
            ),
            {"3-d", "k-d"},
        ),
    ],
)
def test_the_features_of_a_case_are_named(case, words):
    # Features of the numbers are left out: the tests of deviations check them.
    numbers = re.compile("holds|near 0|at an end|below|ends early|norms|exponentials|contiguous")
    assert {word for word in features(case) if not numbers.search(word)} == words


@pytest.mark.parametrize("name", ["cross_entropy", "linear_cross_entropy"])
def test_class_probabilities_sum_to_1_also_in_shrunk_cases(name):
    loss = find(name)

    def off(case):
        target = case.tensors["target"].astype(np.float64)
        form, shape = loss.form(case.form), case.shape
        axis = axes_of(loss, form, shape, "target", target.ndim).index("C")
        return np.abs(target.sum(axis) - 1).max(initial=0) if target.shape[axis] else 0

    cases = [solved.case for solved in stream(loss, PROFILES["standard"], 0)]
    cases = [case for case in cases if case.form == "class probabilities"]
    assert len(cases) > 50
    assert max(map(off, cases)) < 0.02
    simple = [
        simpler_numbers(loss, case, lambda c: c.form == "class probabilities") for case in cases[:9]
    ]
    assert max(map(off, simple)) < 0.02


@pytest.mark.parametrize("name", catalogue())
def test_a_definition_computes_in_the_dtype_of_its_inputs(name):
    loss = find(name)
    # The budget covers what the definition loses when it is computed in the case's dtype.
    for solved in stream(loss, FEW, 0):
        posed = _pose(loss, solved.case)
        given = {
            **posed.rest(posed.precision.numpy),
            **{n: Number(x[None]) for n, x in posed.exact.items()},
        }
        with np.errstate(all="ignore"):
            result = posed.define(**{name: given[name] for name in _arguments(posed.define)})
        assert np.asarray(array_of(result)).dtype == NUMPY[solved.case.dtype], solved.case.form
