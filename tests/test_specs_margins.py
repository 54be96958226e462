"""The margin losses: the oracle against mpmath, published examples, and the edges of each loss."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

from lossspec.cases.case import Case
from lossspec.cases.strategies import cases
from lossspec.execution.call import Expression
from lossspec.execution.call_text import call_text
from lossspec.execution.outcome import perform
from lossspec.implementations.counterpart import torch_counterpart
from lossspec.judging.profiles import Profile
from lossspec.judging.stream import stream
from lossspec.oracle.expected import Expected
from lossspec.oracle.solver import solve
from lossspec.spec.catalogue import find
from lossspec.spec.loss import Example, Loss
from lossspec.specs.cosine_embedding_loss import SHORTEST, settle
from lossspec.specs.triplet_margin_with_distance_loss import DISTANCES, SQUARED

mp = mpmath.mp.clone()
mp.dps = 50

NAMES = (
    "cosine_embedding_loss",
    "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
)
ROWS, COLUMNS = 20, 4

Textbook = Callable[..., Any]


def called(
    name: str, tensors: dict[str, Any], form: str = "", dtype: str = "float64", **parameters: Any
) -> Case:
    """Return a call that requires all gradients, of the first contract with matching axes."""
    loss = find(name)
    roles = loss.roles(loss.form(form))
    arrays = {
        key: np.asarray(value, np.int64 if roles[key].integer else dtype)
        for key, value in tensors.items()
    }
    first = next(iter(arrays.values()))
    contract, spread = next(
        (contract, spread)
        for contract in loss.form(form).contracts
        for spread in contract.spreads
        if len(contract.expand(spread).inputs[0]) == first.ndim
    )
    known = loss.parameters_of(loss.form(form))
    rows = first.shape[:1] if loss.batched(contract) else ()
    return Case(
        loss=name,
        form=form,
        contract=contract.text,
        spread=spread,
        dtype=dtype,
        tensors=arrays,
        parameters={key: parameter.default for key, parameter in known.items()} | parameters,
        reduction="none",
        cotangent=np.ones(rows, dtype),
        requires_grad=tuple(key for key in arrays if roles[key].differentiable),
    )


def answer(name: str, tensors: dict[str, Any], form: str = "", **parameters: Any) -> Expected:
    """Return the answer of the oracle to a float64 call."""
    return solve(find(name), called(name, tensors, form, **parameters))


# === the oracle against mpmath ============================================================


def exactly(number: Any) -> Any:
    """Return all 64 bits of a longdouble as an mpmath number."""
    head = float(number)
    return mp.mpf(head) + mp.mpf(float(number - np.longdouble(head)))


def near(got: Any, want: Any) -> bool:
    """Return whether two numbers agree to 15 digits or both are negligible."""
    return bool(abs(exactly(got) - want) <= mp.mpf("1e-15") * abs(want) + mp.mpf("1e-18"))


def agrees(name: str, tensors: dict[str, Any], textbook: Textbook, **parameters: Any) -> None:
    """Compare value and derivatives, row by row, with a textbook formula for one row."""
    form = parameters.pop("form", "")
    roles = find(name).roles(find(name).form(form))
    got = answer(name, tensors, form, **parameters)
    for i in range(ROWS):
        row: dict[str, Any] = {}
        for key, value in tensors.items():
            mine = value if key == "weight" else value[i]
            plain = np.asarray(mine).tolist()
            if not roles[key].integer:
                plain = [mp.mpf(x) for x in plain] if isinstance(plain, list) else mp.mpf(plain)
            row[key] = plain
        want = textbook(**row, **parameters)
        assert near(got.losses[i], want), (i, got.losses[i], want)
        for key, (slopes, _) in got.derivatives.items():
            for j in range(len(row[key])):
                want = slope(lambda **r: textbook(**r, **parameters), row, key, j)
                assert near(slopes[0, i, j], want), (key, i, j, slopes[0, i, j], want)


def slope(f: Textbook, row: dict[str, Any], key: str, j: int) -> Any:
    """Return the derivative by one number, from a central difference at 50 digits."""
    step = mp.mpf(10) ** -17 * max(abs(row[key][j]), mp.mpf("1e-3"))
    ends = [[*row[key][:j], row[key][j] + by, *row[key][j + 1 :]] for by in (step, -step)]
    up, down = (f(**{**row, key: end}) for end in ends)
    return (up - down) / (2 * step)


def drawn(number: int, columns: int = COLUMNS, scale: float = 2.0) -> np.ndarray:
    """Return rows of numbers of many sizes."""
    rng = np.random.default_rng(number)
    return rng.standard_normal((ROWS, columns)) * 10 ** rng.uniform(-2, 1, (ROWS, 1)) * scale


def length(x: list[Any], p: Any = 2) -> Any:
    if p == np.inf:
        return max(map(abs, x))
    return mp.fsum(abs(entry) ** p for entry in x) ** (1 / mp.mpf(p))


def apart(x: list[Any], y: list[Any], p: Any = 2, eps: float = 0.0) -> Any:
    return length([a - b + mp.mpf(eps) for a, b in zip(x, y, strict=True)], p)


def hinge(x: Any) -> Any:
    return max(x, mp.mpf(0))


@pytest.mark.parametrize("margin", [0.0, 0.5, -0.5])
def test_cosine_embedding_matches_mpmath_for_both_signs(margin: float) -> None:
    def textbook(input1: Any, input2: Any, target: Any, margin: float) -> Any:
        cos = mp.fdot(input1, input2) / length(input1) / length(input2)
        return 1 - cos if target == 1 else hinge(cos - margin)

    signs = np.resize([1.0, -1.0, -1.0], ROWS)
    tensors = {"input1": drawn(1), "input2": drawn(2), "target": signs}
    agrees("cosine_embedding_loss", tensors, textbook, margin=margin)


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize(("p", "eps"), [(2.0, 1e-6), (1.0, 0.25), (3.0, 0.0)])
def test_triplet_margin_matches_mpmath_for_every_norm(p: float, eps: float, swap: bool) -> None:
    def textbook(
        anchor: Any, positive: Any, negative: Any, p: float, eps: float, swap: bool
    ) -> Any:
        away = apart(anchor, negative, p, eps)
        if swap:
            away = min(away, apart(positive, negative, p, eps))
        return hinge(apart(anchor, positive, p, eps) - away + 1)

    tensors = {"anchor": drawn(3), "positive": drawn(4), "negative": drawn(5)}
    agrees("triplet_margin_loss", tensors, textbook, p=p, eps=eps, swap=swap)


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("code", DISTANCES, ids=["default", "taxicab", "largest", "squared"])
def test_triplet_margin_matches_mpmath_for_every_distance(code: str | None, swap: bool) -> None:
    distances: list[Callable[[Any, Any], Any]] = [
        lambda x, y: apart(x, y, 2, 1e-6),
        lambda x, y: apart(x, y, 1, 0.25),
        lambda x, y: apart(x, y, np.inf),
        lambda x, y: apart(x, y) ** 2,
    ]
    d = distances[list(DISTANCES).index(code)]

    def textbook(
        anchor: Any, positive: Any, negative: Any, distance_function: Any, margin: float, swap: bool
    ) -> Any:
        away = min(d(anchor, negative), d(positive, negative)) if swap else d(anchor, negative)
        return hinge(d(anchor, positive) - away + margin)

    tensors = {"anchor": drawn(3), "positive": drawn(4), "negative": drawn(5)}
    agrees(
        "triplet_margin_with_distance_loss",
        tensors,
        textbook,
        form="vectors",
        distance_function=code,
        margin=3.0,
        swap=swap,
    )


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("margin", [1.0, -0.5])
def test_multi_margin_leaves_out_the_target_class(p: int, margin: float) -> None:
    def textbook(input: Any, target: int, weight: Any, p: int, margin: float) -> Any:
        gaps = [hinge(margin - input[target] + x) for i, x in enumerate(input) if i != target]
        return weight[target] * mp.fsum(gap**p for gap in gaps) / len(input)

    target = np.random.default_rng(6).integers(0, COLUMNS, ROWS)
    tensors = {"input": drawn(7), "target": target, "weight": np.array([0.5, 2.0, 0.0, 3.0])}
    agrees("multi_margin_loss", tensors, textbook, p=p, margin=margin)


#: Lists that end at once, early, late and never, with repeated classes and classes after the end.
LISTS = ([-1, 2, 0, 1], [3, -1, -1, -1], [3, 0, -1, 1], [1, 1, -1, 2], [0, 1, 2, 3], [2, 2, 2, -1])


def test_multilabel_margin_reads_each_list_up_to_its_end() -> None:
    def textbook(input: Any, target: list[int]) -> Any:
        listed = target[: target.index(-1)] if -1 in target else target
        return mp.fsum(
            hinge(1 - (input[j] - x))
            for j in listed
            for i, x in enumerate(input)
            if i not in listed
        ) / len(input)

    tensors = {"input": drawn(8), "target": np.resize(LISTS, (ROWS, COLUMNS))}
    agrees("multilabel_margin_loss", tensors, textbook)


def test_multilabel_soft_margin_averages_over_classes() -> None:
    def textbook(input: Any, target: Any, weight: Any) -> Any:
        p = [1 / (1 + mp.exp(-x)) for x in input]
        losses = [-mp.log(q if y else 1 - q) for q, y in zip(p, target, strict=True)]
        return mp.fdot(weight, losses) / len(input)

    labels = np.random.default_rng(9).integers(0, 2, (ROWS, COLUMNS)).astype(float)
    tensors = {"input": drawn(10), "target": labels, "weight": np.array([0.5, 2.0, 0.0, 3.0])}
    agrees("multilabel_soft_margin_loss", tensors, textbook)


# === published examples ===================================================================


@pytest.mark.parametrize(
    ("loss", "example"),
    [
        pytest.param(find(name), example, id=f"{name}-{i}")
        for name in NAMES
        for i, example in enumerate(find(name).examples)
    ],
)
def test_torch_and_the_oracle_reproduce_the_examples(loss: Loss, example: Example) -> None:
    case = called(loss.name, dict(example.arguments), example.form, **example.parameters)
    case = case.with_(reduction=example.reduction)
    under_test = torch_counterpart(loss, "function") or torch_counterpart(loss, "class")
    assert under_test is not None
    outcome = perform(under_test, case, backward=False)
    assert outcome.error is None
    for got in (outcome.value.detach().numpy(), solve(loss, case).value(example.reduction).exact):
        np.testing.assert_allclose(
            np.asarray(got, float), example.value, rtol=0, atol=0.5 * 10.0**-example.digits
        )


def test_every_margin_loss_has_examples() -> None:
    assert all(find(name).examples for name in NAMES)


# === edges ================================================================================


def test_a_zero_vector_has_cosine_0_and_an_unchecked_gradient() -> None:
    tensors = {"input1": [[0.0, 0.0], [3.0, 4.0]], "input2": [[1.0, 2.0], [4.0, 3.0]]}
    got = answer("cosine_embedding_loss", tensors | {"target": [1.0, 1.0]})
    value = got.value("none")
    assert value.exact[0] == 1
    assert near(value.exact[1], mp.mpf(1) / 25)
    assert (value.budget < 1e-6).all()
    assert value.budget[1] < 1e-14
    gradient = got.gradient("input1", "none", np.ones(2))
    assert gradient is not None
    assert np.isinf(gradient.budget[0]).all()
    assert (gradient.budget[1] < 1e-14).all()


def test_short_vectors_are_lengthened_and_zero_vectors_are_kept() -> None:
    tensors = {
        name: np.array([[0.0, 0.0], [1e-9, 0.0], [0.5, 0.0]]) for name in ("input1", "input2")
    }
    settle(np.random.default_rng(0), tensors, {})
    for array in tensors.values():
        lengths = np.linalg.norm(array, axis=-1)
        assert lengths[0] == 0
        assert (lengths[1:] > SHORTEST).all()


def test_no_drawn_vector_is_too_short_even_with_ties() -> None:
    loss, many = find("cosine_embedding_loss"), Profile("many", 1200, 1)
    for solved in stream(loss, many, 91):
        for name in ("input1", "input2"):
            vectors = solved.case.tensors[name].astype(np.float64)
            lengths = np.linalg.norm(vectors, axis=-1)
            assert ((lengths == 0) | (lengths > 0.99 * SHORTEST)).all()


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
def test_every_subgradient_of_the_norm_is_accepted_at_distance_zero(p: float) -> None:
    same = [[0.5, -0.25]]
    tensors = {"anchor": same, "positive": same, "negative": [[2.0, 2.0]]}
    got = answer("triplet_margin_loss", tensors, p=p, eps=0.0, margin=20.0)
    gradient = got.gradient("positive", "none", np.ones(1))
    assert gradient is not None
    np.testing.assert_allclose(gradient.low.astype(float), -1)
    np.testing.assert_allclose(gradient.high.astype(float), 1)


def test_the_gradient_at_distance_zero_is_zero_for_an_inactive_hinge() -> None:
    same = [[0.5, -0.25]]
    tensors = {"anchor": same, "positive": same, "negative": [[200.0, 2.0]]}
    got = answer("triplet_margin_loss", tensors, eps=0.0)
    gradient = got.gradient("anchor", "none", np.ones(1))
    assert gradient is not None
    assert not gradient.error(np.zeros((1, 2))).any()
    assert np.isinf(gradient.error(np.full((1, 2), np.nan))).all()


def test_any_share_of_the_gradient_is_accepted_for_a_tie_in_the_swap() -> None:
    same = [[0.5, -0.25]]
    tensors = {"anchor": same, "positive": same, "negative": [[2.0, 3.0]]}
    got = answer("triplet_margin_loss", tensors, p=1.0, swap=True, eps=0.25, margin=20.0)
    gradient = got.gradient("anchor", "none", np.ones(1))
    assert gradient is not None
    for slope_of_anchor in (1.0, 1.5, 2.0):
        assert not gradient.error(np.full((1, 2), slope_of_anchor)).any()
    assert np.isfinite(gradient.budget).all()
    assert gradient.error(np.full((1, 2), 2.5)).min() > 1


def test_the_budget_covers_rounding_across_the_hinge() -> None:
    tensors = {"anchor": [[1e4]], "positive": [[1.0]], "negative": [[0.0]]}
    case = called("triplet_margin_loss", tensors, dtype="float32", margin=0.9990234375, eps=0.0)
    got = solve(find("triplet_margin_loss"), case).value("none")
    assert got.exact == 0
    assert got.budget > 1e-4


def test_scores_of_the_listed_classes_do_not_compete() -> None:
    got = answer(
        "multilabel_margin_loss", {"input": [[0.1, 0.2, 0.4, 0.8]], "target": [[0, 1, 2, 3]]}
    )
    assert got.losses.tolist() == [0]
    assert not got.derivatives["input"][0].any()


def test_target_lists_are_drawn_with_every_kind_of_end() -> None:
    seen: set[str] = set()

    @seed(0)
    @settings(
        max_examples=100,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(cases(find("multilabel_margin_loss")))
    def look(case: Case) -> None:
        target = case.tensors["target"]
        assert target.min(initial=0) >= -1
        assert target.max(initial=0) < target.shape[-1]
        for row in np.atleast_2d(target).tolist():
            listed = row[: row.index(-1)] if -1 in row else row
            seen.add("empty" if not listed else "full" if len(listed) == len(row) else "ends")
            seen.update(["twice"] if len(set(listed)) < len(listed) else [])
            seen.update(["behind"] if any(x >= 0 for x in row[len(listed) :]) else [])

    look()
    assert seen == {"empty", "full", "ends", "twice", "behind"}


# === parameters that are code =============================================================


def test_a_distance_is_text_in_the_case_and_a_function_in_the_call() -> None:
    name = "triplet_margin_with_distance_loss"
    tensors = {
        "anchor": [[[1.0], [2.0]]],
        "positive": [[[0.0], [0.0]]],
        "negative": [[[1.0], [0.0]]],
    }
    case = called(name, tensors, "any shape", distance_function=SQUARED)
    again = Case.from_json(json.loads(json.dumps(case.to_json())))
    assert again.parameters == case.parameters
    under_test = torch_counterpart(find(name), "function")
    assert under_test is not None
    assert f"distance_function={SQUARED}" in call_text(under_test, again)
    assert perform(under_test, again).value.tolist() == [2.0]


def test_an_expression_is_callable_and_equals_its_text() -> None:
    expression = Expression("torch.nn.PairwiseDistance(p=1.0, eps=0.0)")
    assert expression(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 5.0]])).tolist() == [5.0]
    assert repr(expression) == "torch.nn.PairwiseDistance(p=1.0, eps=0.0)"
    assert {expression.text: 1}[expression] == 1
    assert pickle.loads(pickle.dumps(expression)) == expression
