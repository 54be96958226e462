"""Reach of the streams: each covers every form, option and kind of number that bugs need."""

from functools import cache
from itertools import combinations

import numpy as np
import pytest

from lossspec.cases.case import LAYOUTS, Case
from lossspec.cases.features import features
from lossspec.judging.profiles import PROFILES
from lossspec.judging.stream import stream
from lossspec.spec.catalogue import catalogue, find
from lossspec.spec.loss import Loss
from lossspec.spec.roles import ClassIndex

LOSSES = list(catalogue())
named = pytest.mark.parametrize("name", LOSSES)


@cache
def drawn(name: str) -> list[Case]:
    return [solved.case for solved in stream(find(name), PROFILES["standard"], 0)]


def first(case: Case) -> np.ndarray:
    return next(iter(case.tensors.values()))


def numbers(case: Case) -> np.ndarray:
    """Return all floating-point numbers of a case in float64."""
    floating = [x for x in case.tensors.values() if x.dtype.kind not in "iub"]
    return np.concatenate([x.astype(np.float64).ravel() for x in floating])


def sizes(case: Case) -> dict[str, int]:
    return case.axis_sizes(find(case.loss))


def of_layers(case: Case) -> set[str]:
    """Return the axes of the tensors that a class keeps as its parameters."""
    tensors = find(case.loss).form(case.form).tensors.values()
    pairs = zip(tensors, case.shape.inputs, strict=True)
    return {axis for role, axes in pairs if role.state for axis in axes}


def missing(name: str, wanted: dict) -> list[str]:
    """Return the names of the features, each a predicate of a case, that no case has."""
    with np.errstate(all="ignore"):
        return [what for what, has in wanted.items() if not any(map(has, drawn(name)))]


@named
def test_streams_reach_every_form_contract_dtype_and_reduction(name):
    loss = find(name)
    wanted = {}
    for form in loss.forms:
        for contract in form.contracts:
            for spread in contract.spreads:
                wanted[f"{form.name} {contract.text} {spread}"] = (
                    lambda c, f=form.name, t=contract.text, s=spread: (
                        (c.form, c.contract, c.spread) == (f, t, s)
                    )
                )
    wanted |= {dtype: lambda c, d=dtype: c.dtype == d for dtype in loss.dtypes}
    wanted |= {r: lambda c, r=r: c.reduction == r for r in loss.reductions}
    assert missing(name, wanted) == []


@named
def test_streams_reach_square_uneven_long_single_and_empty_shapes(name):
    loss = find(name)
    axes = {a for c in drawn(name) for a in (*c.shape.result, *c.shape.core) if a != "1"}
    drawable = {a for a in axes if all(a not in form.sizes for form in loss.forms)}
    wanted = {"a scalar or one row": lambda c: first(c).size == 1 or 1 in first(c).shape}
    if not any(form.sizes for form in loss.forms):  # dependent sizes leave no axis free
        wanted["rows past a block"] = lambda c: max(first(c).shape, default=0) > 1024
    if any(first(c).ndim > 1 for c in drawn(name)):
        wanted["square"] = lambda c: "square" in features(c)
        wanted["uneven"] = lambda c: len({*first(c).shape} - {0}) >= min(first(c).ndim, 3) > 1
    for axis in sorted(drawable):
        in_loop = any(axis in c.shape.result for c in drawn(name))
        wanted[f"{axis} of 1"] = lambda c, a=axis: sizes(c).get(a) == 1
        if any(axis in of_layers(c) for c in drawn(name)):  # torch warns of a layer of no numbers
            assert all(sizes(c).get(axis, 1) for c in drawn(name))
        elif in_loop and any(axis in c.shape.result and axis != "1" for c in drawn(name)):
            wanted[f"{axis} of 0"] = lambda c, a=axis: (
                sizes(c).get(a) == 0 or (a not in c.shape.result and first(c).size == 0)
            )
        if not in_loop:
            wanted[f"{axis} of more than a byte"] = lambda c, a=axis: sizes(c).get(a, 0) > 127
    assert missing(name, wanted) == []


@named
def test_streams_reach_every_parameter_value_and_pair(name):
    loss = find(name)
    lists = {}
    for form in loss.forms:
        for parameter, declared in loss.parameters_of(form).items():
            for value in declared.values:
                lists[form.name, parameter, str(value)] = (
                    lambda c, f=form.name, p=parameter, v=(value): (
                        c.form == f and c.parameters.get(p) == v
                    )
                )
    assert missing(name, lists) == []
    pairs = {}
    for form in loss.forms:
        known = loss.parameters_of(form)
        for one, two in combinations(known, 2):
            for v in known[one].values:
                for w in known[two].values:
                    pairs[one, str(v), two, str(w)] = lambda c, a=one, v=v, b=two, w=w: (
                        (c.parameters.get(a), c.parameters.get(b)) == (v, w)
                    )
    assert missing(name, pairs) == []


@named
def test_streams_reach_options_alone_and_together(name):
    loss = find(name)
    wanted = {}
    for option in loss.options:
        wanted[f"with {option}"] = lambda c, o=option: o in c.tensors
        wanted[f"without {option}"] = lambda c, o=option: o not in c.tensors
        wanted[f"a zero in {option}"] = lambda c, o=option: (
            o in c.tensors and bool((c.tensors[o].astype(float) == 0).any())
        )
    for one, two in combinations(loss.options, 2):
        wanted[f"{one} and {two}"] = lambda c, a=one, b=two: {a, b} <= c.tensors.keys()
    assert missing(name, wanted) == []


@named
def test_streams_reach_extreme_numbers_and_ties(name):
    loss = find(name)
    wanted = {"zero": lambda c: (numbers(c) == 0).any()}
    styles = [role.style for form in loss.forms for role in form.tensors.values()]
    if {"real", "logit"} & set(styles):
        wanted["large"] = lambda c: (np.abs(numbers(c)) > 1e4).any()
        wanted["tiny"] = lambda c: ((np.abs(numbers(c)) < 1e-4) & (numbers(c) != 0)).any()
        wanted["negative zero or negative"] = lambda c: np.signbit(numbers(c)).any()
    if "probability" in styles or "distribution" in styles:
        wanted["certain"] = lambda c: (numbers(c) == 1).any()
    twins = [styles[i] == styles[i + 1] for i in range(len(styles) - 1)]
    if any(twins) and loss.symmetries:
        wanted["ties"] = lambda c: "ties" in features(c)
    assert missing(name, wanted) == []


@named
def test_streams_reach_every_layout_of_every_tensor(name):
    loss = find(name)
    wanted = {}
    for form in loss.forms:
        for tensor, role in loss.roles(form).items():
            if role.scalar:
                continue
            present = [c.tensors[tensor] for c in drawn(name) if tensor in c.tensors]
            for layout in LAYOUTS[1:]:
                most = max((x.ndim for x in present), default=0)
                if layout == "channels_last" and most < 4:
                    continue
                if layout == "expanded" and form.settle is not None:
                    continue
                wanted[f"{tensor} {layout}"] = lambda c, t=tensor, y=layout: c.layouts.get(t) == y
    assert missing(name, wanted) == []


@named
def test_streams_reach_every_kind_of_target(name):
    loss = find(name)
    wanted = {}
    for form in loss.forms:
        for tensor, role in form.tensors.items():
            if not isinstance(role, ClassIndex):
                continue
            for dtype in (*role.dtypes, *role.tolerated):
                wanted[f"{tensor} in {dtype}"] = lambda c, t=tensor, d=dtype: (
                    t in c.tensors and c.tensors[t].dtype == d
                )
            if role.ignored_by is None:
                continue
            for value in loss.parameters[role.ignored_by].values:
                wanted[f"ignores {value}"] = lambda c, t=tensor, v=value: (
                    c.parameters.get("ignore_index") == v and bool((c.tensors[t] == v).any())
                )
            for feature in ("some ignored", "all ignored", "leading ignored"):
                wanted[feature] = lambda c, f=feature: f in features(c)
            if not any(r.state for r in form.tensors.values()):
                wanted["an ignored row that is not finite"] = lambda c: (
                    {"some ignored", "non-finite"} <= features(c)
                )
    assert missing(name, wanted) == []


@named
def test_streams_reach_gradients_of_every_subset_and_a_leading_zero_cotangent(name):
    loss = find(name)
    wanted = {"no gradient": lambda c: not c.requires_grad}
    for tensor in {t for c in drawn(name) for t in c.requires_grad}:
        wanted[f"of {tensor}"] = lambda c, t=tensor: t in c.requires_grad
    if len(loss.reductions) > 1:
        wanted["a zero in front"] = lambda c: "zero cotangent in front" in features(c)
        wanted["of a plain sum"] = lambda c: c.upstream_layout("none") == "expanded"
        wanted["permuted"] = lambda c: c.upstream_layout("none") == "permuted"
    assert missing(name, wanted) == []


@named
def test_streams_reach_default_calls_of_many_rows(name):
    """Check for calls with one non-default option whose last block of rows is incomplete."""
    loss = find(name)

    def plain(case, besides):
        form = loss.form(case.form)
        other = {
            n for n, p in loss.parameters_of(form).items() if case.parameters[n] != p.values[0]
        }
        other |= case.tensors.keys() - form.tensors.keys()
        rows = case.cotangent.shape[0] if case.cotangent.ndim else 0
        # Dependent sizes may leave few rows.
        return other <= {besides} and rows > (1 if form.sizes else 8)

    besides = ("", *loss.parameters, *loss.options)
    assert missing(name, {f"but for {one}": lambda c, o=one: plain(c, o) for one in besides}) == []


def near(case: Case) -> bool:
    """Return whether another tensor differs from the first by at most 0.3 % in every element."""
    x = first(case).astype(np.float64)
    others = [y.astype(np.float64) for y in list(case.tensors.values())[1:] if y.shape == x.shape]
    apart = [np.abs(x - y) <= 2**-7 * np.abs(x) for y in others]
    return x.size > 1 and any(
        close.all() and (x != y).any() for close, y in zip(apart, others, strict=True)
    )


@pytest.mark.parametrize(
    "name", ["mse_loss", "l1_loss", "huber_loss", "triplet_margin_loss", "gaussian_nll_loss"]
)
def test_streams_reach_pairs_near_each_other_and_far_from_0(name):
    wanted = {"near": near, "far from 0": lambda c: near(c) and (np.abs(first(c)) > 1e4).all()}
    assert missing(name, wanted) == []


@pytest.mark.parametrize("name", ["mse_loss", "margin_ranking_loss", "hinge_embedding_loss"])
def test_streams_reach_numbers_near_the_largest(name):
    wanted = {"huge": lambda c: c.dtype == "float32" and (np.abs(numbers(c)) > 1e32).any()}
    assert missing(name, wanted) == []


def further(case: Case) -> list[int]:
    """Return the sizes of the further axes of a call with a class axis."""
    return [size for axis, size in sizes(case).items() if axis.startswith("d")]


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
def test_quick_streams_reach_square_and_uneven_calls_with_further_axes(name):
    quick = [solved.case for solved in stream(find(name), PROFILES["quick"], 0)]
    drawn_shapes = [
        (len(further(c)), first(c).shape) for c in quick if c.spread > 1 and min(first(c).shape) > 1
    ]
    for count in (2, 3):
        shapes = [shape for k, shape in drawn_shapes if k == count]
        assert any(len(set(shape)) == 1 for shape in shapes)
        assert any(len(set(shape[2:])) == 1 < len(set(shape)) for shape in shapes)
        assert any(set(shape[2:]) & set(shape[:2]) and len(set(shape)) > 1 for shape in shapes)


@named
def test_quick_streams_reach_every_option_on_a_square_call(name):
    loss = find(name)
    quick = [solved.case for solved in stream(loss, PROFILES["quick"], 0)]
    dependent = any(form.sizes for form in loss.forms)  # such sizes are seldom square
    for option in () if dependent else loss.options:
        square = [c for c in quick if option in c.tensors and "square" in features(c)]
        assert any(len(set(c.tensors[option].ravel().tolist())) > 1 for c in square), option


def wrapped(case):
    """Return whether a uint8 target has the class that a negative ignore_index is in uint8."""
    mark, target = case.parameters.get("ignore_index", 0), case.tensors["target"]
    return target.dtype == "uint8" and mark < 0 and (target == mark % 256).any()


def test_streams_reach_a_byte_of_classes_without_the_class_of_the_wrapped_mark():
    wanted = {"a byte": lambda c: c.tensors["target"].dtype == "uint8" and sizes(c)["C"] == 256}
    assert missing("nll_loss", wanted) == []
    assert missing("nll_loss", {"the wrapped mark": wrapped}) == ["the wrapped mark"]


def test_streams_reach_impossible_classes_that_no_target_holds():
    wanted = {"-inf": lambda c: np.isneginf(c.tensors["log_probs"].astype(float)).any()}
    assert missing("ctc_loss", wanted) == []


def test_a_missing_feature_is_named():
    assert missing("l1_loss", {"four thousand axes": lambda c: first(c).ndim > 4000}) == [
        "four thousand axes"
    ]


def test_every_loss_is_tested():
    assert all(isinstance(find(name), Loss) for name in LOSSES)
    assert len(LOSSES) >= 23
