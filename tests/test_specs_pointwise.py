"""The pointwise losses and those over classes: the oracle against mpmath, examples, identities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from autograd import elementwise_grad

from lossspec.cases.case import Case
from lossspec.maths import log_softmax, one_hot, sigmoid
from lossspec.oracle.expected import Expected
from lossspec.oracle.solver import solve
from lossspec.spec.catalogue import find
from lossspec.spec.loss import Example, Form, Loss

mp = mpmath.mp.clone()
mp.dps = 50

ONES = np.longdouble(1)
SPECIFIED = (
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "gaussian_nll_loss",
    "hinge_embedding_loss",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "margin_ranking_loss",
    "mse_loss",
    "nll_loss",
    "poisson_nll_loss",
    "smooth_l1_loss",
    "soft_margin_loss",
)


# === calls and the answers of the oracle ==================================================


def call(
    loss: Loss, form: Form, tensors: dict[str, Any], parameters: dict[str, Any], reduction: str
) -> Case:
    """Return a float64 case of the first shape contract that the tensors fit."""
    roles = loss.roles(form)
    arrays = {
        name: np.asarray(value, np.int64 if roles[name].integer else np.float64)
        for name, value in tensors.items()
    }
    for contract in form.contracts:
        for spread in contract.spreads:
            axes = contract.expand(spread).inputs
            if [len(group) for group in axes] == [arrays[name].ndim for name in form.tensors]:
                break
        else:
            continue
        break
    known = {name: parameter.default for name, parameter in loss.parameters_of(form).items()}
    return Case(
        loss=loss.name,
        form=form.name,
        contract=contract.text,
        spread=spread,
        dtype="float64",
        tensors=arrays,
        parameters=known | dict(form.fixed) | parameters,
        reduction=reduction,
        cotangent=np.ones(()),
    )


def answer(
    name: str, tensors: dict[str, Any], form: str = "", reduction: str = "none", **parameters: Any
) -> Expected:
    loss = find(name)
    return solve(loss, call(loss, loss.form(form), tensors, parameters, reduction))


# === mpmath ===============================================================================

Definition = Callable[..., Any]


def exactly(number: np.longdouble) -> Any:
    """Return all 64 bits of a longdouble as an mpmath number."""
    head = float(number)
    return mp.mpf(head) + mp.mpf(float(number - np.longdouble(head)))


def near(got: np.longdouble, want: Any, absolute: float = 0.0) -> bool:
    return bool(abs(exactly(got) - want) <= mp.mpf(1e-15) * abs(want) + absolute)


def slope(f: Definition, row: dict[str, Any], name: str, index: tuple[int, ...]) -> Any:
    """Return the derivative of one loss element by one number, from a central difference."""
    x = row[name][index]
    step = mp.mpf(10) ** -17 * (abs(x) if x else 1)
    ends = []
    for end in (x + step, x - step):
        moved = row[name].copy()
        moved[index] = end
        ends.append(f(**{**row, name: moved}))
    return (ends[0] - ends[1]) / (2 * step)


def agrees(
    name: str,
    tensors: dict[str, Any],
    textbook: Definition,
    form: str = "",
    *,
    absolute: float = 0.0,
    flat: Callable[[dict[str, Any]], bool] = lambda row: False,
    **parameters: Any,
) -> None:
    """Compare each element's value, and each derivative except in rows where `flat` holds.

    Args:
        name: The loss.
        tensors: The arguments of the call by name.
        textbook: One element of the loss, from its row of each tensor and the parameters.
        form: The form of the loss; empty for the first one.
        absolute: The absolute error that is allowed.
        flat: Whether the derivatives in a row are left out.
        **parameters: The parameters of the call.
    """
    loss = find(name)
    roles = loss.roles(loss.form(form))
    got = answer(name, tensors, form, **parameters)
    size = got.losses.shape[0]
    assert size >= 1

    def f(**row: Any) -> Any:
        return textbook(**{name: array[()] for name, array in row.items()}, **parameters)

    exact = np.vectorize(mp.mpf, otypes=[object])
    for i in range(size):
        row = {}
        for tensor, value in tensors.items():
            array = np.asarray(value)
            mine = array[i] if array.ndim and len(array) == size else array
            row[tensor] = mine if roles[tensor].integer else np.asarray(exact(mine), object)
        assert near(got.losses[i], f(**row), absolute), (name, i, got.losses[i], f(**row))
        if flat(row):
            continue
        for tensor, (slopes, _) in got.derivatives.items():
            for index in np.ndindex(slopes.shape[2:]):
                want = slope(f, row, tensor, index)
                found = slopes[0, i][index] if index else slopes[0, i]
                assert near(found, want, absolute + 1e-28), (name, tensor, i, index, found, want)


def reals(count: int = 20, seed: int = 1, scale: float = 2.0) -> list[float]:
    """Return ordinary numbers of many sizes and both signs."""
    rng = np.random.default_rng(seed)
    sizes = 10 ** rng.uniform(-4, 1, count)
    return list(rng.standard_normal(count) * sizes * scale)


def rates(count: int = 20, seed: int = 2) -> list[float]:
    return list(10 ** np.random.default_rng(seed).uniform(-4, 2, count))


def chances(count: int = 20, seed: int = 3) -> list[float]:
    return list(np.random.default_rng(seed).uniform(0, 1, count))


def signs(count: int = 20, seed: int = 4) -> list[float]:
    return list(np.random.default_rng(seed).choice([-1.0, 1.0], count))


def positive(x: Any) -> Any:
    return x if x > 0 else mp.mpf(0)


# === losses of a difference ===============================================================


def test_l1_is_the_absolute_difference() -> None:
    tensors = {"input": reals(), "target": reals(seed=9), "weight": rates()}
    agrees("l1_loss", tensors, lambda input, target, weight: weight * abs(input - target))


def test_mse_is_the_squared_difference() -> None:
    tensors = {"input": reals(), "target": reals(seed=9), "weight": rates()}
    agrees(
        "mse_loss",
        tensors,
        lambda input, target, weight: weight * (input**2 - 2 * input * target + target**2),
    )


@pytest.mark.parametrize("beta", [1.0, 0.25, 3.0, 0.0])
def test_smooth_l1_joins_its_branches_at_beta(beta: float) -> None:
    def textbook(input: Any, target: Any, beta: float) -> Any:
        r = abs(input - target)
        return r - mp.mpf(beta) / 2 if r >= beta else r * r / beta / 2

    agrees("smooth_l1_loss", {"input": reals(), "target": reals(seed=9)}, textbook, beta=beta)


@pytest.mark.parametrize("delta", [1.0, 0.25, 3.0])
def test_huber_joins_its_branches_at_delta(delta: float) -> None:
    def textbook(input: Any, target: Any, weight: Any, delta: float) -> Any:
        r = abs(input - target)
        inner = min(r, mp.mpf(delta))
        return weight * (inner * inner / 2 + delta * (r - inner))

    tensors = {"input": reals(), "target": reals(seed=9), "weight": rates()}
    agrees("huber_loss", tensors, textbook, delta=delta)


# === losses over classes ==================================================================


def scores(rows: int = 8, classes: int = 5, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, classes)) * 3


def shares(rows: int = 8, classes: int = 5, seed: int = 6) -> np.ndarray:
    drawn = np.random.default_rng(seed).uniform(0, 1, (rows, classes))
    return drawn / drawn.sum(1, keepdims=True)


CLASSES = np.array([0, 1, 4, 2, 2, 3, 0, 4])
WEIGHT = np.array([0.5, 2.0, 1.0, 0.0, 3.0])


def log_softmax_exactly(x: Any) -> Any:
    return x - mp.log(sum(mp.exp(entry) for entry in x))


@pytest.mark.parametrize("smoothing", [0.0, 0.125, 1.0])
def test_cross_entropy_of_classes_matches_mpmath(smoothing: float) -> None:
    def textbook(input: Any, target: Any, weight: Any, label_smoothing: float) -> Any:
        z = log_softmax_exactly(input)
        even = mp.fdot(weight, z) / len(z)
        return -(1 - label_smoothing) * weight[target] * z[target] - label_smoothing * even

    agrees(
        "cross_entropy",
        {"input": scores(), "target": CLASSES, "weight": WEIGHT},
        textbook,
        "class indices",
        absolute=1e-18,
        label_smoothing=smoothing,
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.125, 1.0])
def test_cross_entropy_of_probabilities_matches_mpmath(smoothing: float) -> None:
    def textbook(input: Any, target: Any, weight: Any, label_smoothing: float) -> Any:
        even = mp.mpf(1) / len(target)
        p = [(1 - label_smoothing) * entry + label_smoothing * even for entry in target]
        return -mp.fdot(p, weight * log_softmax_exactly(input))

    agrees(
        "cross_entropy",
        {"input": scores(), "target": shares(), "weight": WEIGHT},
        textbook,
        "class probabilities",
        absolute=1e-18,
        label_smoothing=smoothing,
    )


def test_nll_is_the_weighted_entry_of_the_class() -> None:
    agrees(
        "nll_loss",
        {"input": np.log(shares()), "target": CLASSES, "weight": WEIGHT},
        lambda input, target, weight: -weight[target] * input[target],
    )


# === losses of probabilities ==============================================================


def test_kl_div_of_probabilities_matches_mpmath() -> None:
    tensors = {"input": [-rate for rate in rates()], "target": chances()}
    agrees(
        "kl_div",
        tensors,
        lambda input, target, log_target: target * (mp.log(target) - input),
        "target",
        log_target=False,
    )


def test_kl_div_of_log_probabilities_matches_mpmath() -> None:
    tensors = {"input": [-rate for rate in rates()], "target": [-r for r in rates(seed=8)]}
    agrees(
        "kl_div",
        tensors,
        lambda input, target, log_target: mp.exp(target) * (target - input),
        "log target",
        log_target=True,
    )


def test_kl_div_of_an_impossible_event_is_zero() -> None:
    got = answer("kl_div", {"input": [-3.0, -np.inf], "target": [0.0, 0.0]}, "target")
    assert got.losses.tolist() == [0, 0]


def test_binary_cross_entropy_with_logits_matches_mpmath() -> None:
    def textbook(input: Any, target: Any, weight: Any, pos_weight: Any) -> Any:
        p = 1 / (1 + mp.exp(-input))
        return -weight * (pos_weight * target * mp.log(p) + (1 - target) * mp.log(1 - p))

    tensors = {"input": reals(), "target": chances(), "weight": rates(), "pos_weight": rates()}
    agrees("binary_cross_entropy_with_logits", tensors, textbook, absolute=1e-17)


def binary_cross_entropy(input: Any, target: Any, weight: Any) -> Any:
    def floored(p: Any) -> Any:
        return max(mp.log(p), mp.mpf(-100)) if p else mp.mpf(-100)

    return -weight * (target * floored(input) + (1 - target) * floored(1 - input))


def test_binary_cross_entropy_matches_mpmath_inside_its_domain() -> None:
    tensors = {"input": chances(), "target": chances(seed=7), "weight": rates()}
    agrees("binary_cross_entropy", tensors, binary_cross_entropy, absolute=1e-18)


def test_binary_cross_entropy_matches_mpmath_at_the_edges_of_its_domain() -> None:
    near_edges = [0.0, 1.0, 1e-30, 1e-43, 1e-44, 1e-300, 2.0**-20, 1 - 2.0**-53, 1 - 2.0**-20]
    targets = [0.0, 0.25, 1.0]
    tensors = {
        "input": np.repeat(near_edges, len(targets)),
        "target": np.tile(targets, len(near_edges)),
        "weight": np.full(len(targets) * len(near_edges), 2.0),
    }
    agrees(
        "binary_cross_entropy",
        tensors,
        binary_cross_entropy,
        absolute=1e-18,
        flat=lambda row: bool(row["input"][()] * (1 - row["input"][()]) < 1e-12),
    )


@pytest.mark.parametrize(
    ("gradient", "right"),
    [(0.0, True), (-1e12, True), (-1e30, True), (1e12, False), (-np.inf, False), (np.nan, False)],
)
def test_binary_cross_entropy_accepts_any_finite_descent_at_an_edge(
    gradient: float, right: bool
) -> None:
    got = answer("binary_cross_entropy", {"input": [0.0], "target": [1.0]})
    want = got.gradient("input", "none", np.ones(1))
    assert want is not None
    assert (want.error(np.array([gradient]))[0] <= 1) == right


def test_binary_cross_entropy_has_a_target_gradient_of_100_at_an_edge() -> None:
    got = answer("binary_cross_entropy", {"input": [0.0, 1.0], "target": [0.5, 0.5]})
    assert got.derivatives["target"][0][0].tolist() == [100, -100]


# === likelihoods ==========================================================================


def stirling(y: Any) -> Any:
    return y * mp.log(y) - y + mp.log(2 * mp.pi * y) / 2 if y > 1 else mp.mpf(0)


COUNTS = [0.5, 3.0, 1.5, 7.0, 0.25, 2.0, 60.0, 1.0078125, 12.0, 0.75] * 2


@pytest.mark.parametrize("full", [False, True])
def test_poisson_of_a_log_rate_matches_mpmath(full: bool) -> None:
    def textbook(input: Any, target: Any, full: bool) -> Any:
        return mp.exp(input) - target * input + (stirling(target) if full else 0)

    agrees(
        "poisson_nll_loss",
        {"input": reals(scale=0.5), "target": COUNTS},
        textbook,
        "log rate",
        full=full,
    )


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("eps", [1e-8, 0.5])
def test_poisson_of_a_rate_matches_mpmath(full: bool, eps: float) -> None:
    def textbook(input: Any, target: Any, full: bool, eps: float) -> Any:
        return input - target * mp.log(input + eps) + (stirling(target) if full else 0)

    agrees(
        "poisson_nll_loss",
        {"input": [*rates(19), 0.0], "target": COUNTS},
        textbook,
        "rate",
        full=full,
        eps=eps,
    )


@pytest.mark.parametrize("form", ["log rate", "rate"])
def test_poisson_adds_no_stirling_term_for_counts_up_to_one(form: str) -> None:
    tensors = {"input": [0.5, 0.5, 0.5], "target": [0.0, 0.5, 1.0]}
    part, full = (answer("poisson_nll_loss", tensors, form, full=f) for f in (False, True))
    assert np.array_equal(part.losses, full.losses)
    for name in tensors:
        assert np.array_equal(part.derivatives[name][0][0], full.derivatives[name][0][0])


def gaussian(input: Any, target: Any, var: Any, full: bool, eps: float) -> Any:
    v = max(var, mp.mpf(eps))
    constant = mp.log(2 * mp.pi) if full else 0
    return (mp.log(v) + (input - target) ** 2 / v + constant) / 2


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("eps", [1e-6, 2.0**-10])
def test_gaussian_of_variances_above_eps_matches_mpmath(full: bool, eps: float) -> None:
    tensors = {"input": reals(), "target": reals(seed=9), "var": [v + eps for v in rates()]}
    agrees("gaussian_nll_loss", tensors, gaussian, "variances", full=full, eps=eps)


def test_gaussian_of_one_variance_matches_mpmath() -> None:
    tensors = {"input": reals(), "target": reals(seed=9), "var": 2.5}
    agrees("gaussian_nll_loss", tensors, gaussian, "one variance", full=True, eps=1e-6)


def test_gaussian_hides_its_clamp_from_autograd() -> None:
    here = answer("gaussian_nll_loss", {"input": [1.0], "target": [3.0], "var": [0.0]}, "variances")
    there = answer(
        "gaussian_nll_loss", {"input": [1.0], "target": [3.0], "var": [1e-6]}, "variances"
    )
    assert near(here.losses[0], exactly(there.losses[0]))
    for name in ("input", "target", "var"):
        slopes = (x.derivatives[name][0][0, 0] for x in (here, there))
        assert near(next(slopes), exactly(next(slopes))), name
    assert here.derivatives["var"][0][0, 0] < -1e12


@pytest.mark.parametrize(
    "var", [[[1.0], [4.0]], [1.0, 4.0]], ids=["last axis of size 1", "last axis missing"]
)
def test_gaussian_takes_one_variance_for_each_row(var: Any) -> None:
    input, target = np.array([[1.0, 2.0], [3.0, 5.0]]), np.array([[0.5, 2.5], [1.0, 1.0]])
    loss = find("gaussian_nll_loss")
    form = loss.form("variances")
    shape = {
        2: "(*, D), (*, D), (*, 1) -> (*, D)",
        1: "(*, D), (*, D), (*) -> (*, D)",
    }[np.ndim(var)]
    assert shape in form.shapes
    case = call(loss, form, {"input": input, "target": target, "var": var}, {}, "none")
    got = solve(loss, case.with_(contract=shape, spread=1))
    whole = np.array([[1.0, 1.0], [4.0, 4.0]])
    want = answer(
        "gaussian_nll_loss", {"input": input, "target": target, "var": whole}, "variances"
    )
    assert np.array_equal(got.losses, want.losses)
    gradient = got.gradient("var", "none", np.ones((2, 2)))
    each = want.gradient("var", "none", np.ones((2, 2)))
    assert gradient is not None
    assert each is not None
    assert np.array_equal(gradient.exact.ravel(), each.exact.sum(1))


# === losses of signs ======================================================================


@pytest.mark.parametrize("margin", [1.0, 0.0, 3.0, -0.5])
def test_hinge_embedding_matches_mpmath_for_both_signs(margin: float) -> None:
    def textbook(input: Any, target: Any, margin: float) -> Any:
        return input if target > 0 else positive(margin - input)

    tensors = {"input": reals(), "target": signs()}
    agrees("hinge_embedding_loss", tensors, textbook, margin=margin)


@pytest.mark.parametrize("margin", [0.0, 1.0, 3.0, -0.5])
def test_margin_ranking_matches_mpmath_for_both_signs(margin: float) -> None:
    def textbook(input1: Any, input2: Any, target: Any, margin: float) -> Any:
        return positive(margin - (input1 - input2 if target > 0 else input2 - input1))

    tensors = {"input1": reals(), "input2": reals(seed=9), "target": signs()}
    agrees("margin_ranking_loss", tensors, textbook, margin=margin)


def test_soft_margin_matches_mpmath_without_overflow() -> None:
    tensors = {"input": [*reals(18), -800.0, 5000.0], "target": [*signs(18), 1.0, -1.0]}
    agrees(
        "soft_margin_loss",
        tensors,
        lambda input, target: mp.log(1 + mp.exp(-target * input)),
        absolute=1e-28,
    )


@pytest.mark.parametrize(
    ("name", "tensors", "slopes"),
    [
        ("hinge_embedding_loss", {"input": [1.0], "target": [-1.0]}, {-1.0, 0.0}),
        (
            "margin_ranking_loss",
            {"input1": [0.5], "input2": [-0.5], "target": [1.0]},
            {-1.0, 0.0},
        ),
        ("l1_loss", {"input": [0.5], "target": [0.5]}, {-1.0, 1.0}),
    ],
)
def test_any_subgradient_at_a_kink_is_accepted(name: str, tensors: Any, slopes: set[float]) -> None:
    parameters = {"margin": 1.0} if name.startswith(("hinge", "margin")) else {}
    got = answer(name, tensors, **parameters)
    want = got.gradient(next(iter(tensors)), "none", np.ones(1))
    assert want is not None
    assert (want.low[0], want.high[0]) == pytest.approx(tuple(sorted(slopes)), rel=1e-14)


# === identities ===========================================================================


def test_huber_of_delta_one_is_smooth_l1_of_beta_one() -> None:
    tensors = {"input": reals(), "target": reals(seed=9)}
    huber = answer("huber_loss", tensors, delta=1.0)
    smooth = answer("smooth_l1_loss", tensors, beta=1.0)
    assert np.array_equal(huber.losses, smooth.losses)
    for name in tensors:
        assert np.array_equal(huber.derivatives[name][0], smooth.derivatives[name][0])


def same_function(f: Definition, g: Definition, x: np.ndarray, absolute: float) -> None:
    """Check that the value and the derivative of two functions agree."""
    for one, two in ((f, g), (elementwise_grad(f), elementwise_grad(g))):
        got, want = one(x), two(x)
        assert (np.abs(got - want) <= 1e-16 * np.abs(want) + absolute).all()


def test_binary_cross_entropy_with_logits_is_that_of_the_sigmoid() -> None:
    direct, plain = find("binary_cross_entropy_with_logits").define, find("binary_cross_entropy")
    y = np.array(chances(), np.longdouble)
    same_function(
        lambda x: direct(x, y, ONES, ONES),
        lambda x: plain.define(sigmoid(x), y, ONES),
        np.linspace(-12, 12, 20, dtype=np.longdouble),
        1e-13,
    )


def test_cross_entropy_is_nll_of_the_log_softmax() -> None:
    entropy, nll = find("cross_entropy").define, find("nll_loss").define
    w = WEIGHT.astype(np.longdouble)
    same_function(
        lambda x: entropy(x, one_hot(CLASSES, 5, like=x), w, 0.0),
        lambda x: nll(log_softmax(x), CLASSES, w),
        scores().astype(np.longdouble),
        1e-17,
    )


# === published examples ===================================================================


EXAMPLES = [
    pytest.param(find(name), example, id=f"{name}-{i}")
    for name in SPECIFIED
    for i, example in enumerate(find(name).examples)
]


@pytest.mark.parametrize("name", SPECIFIED)
def test_each_loss_has_an_example(name: str) -> None:
    assert find(name).examples


@pytest.mark.parametrize(("loss", "example"), EXAMPLES)
def test_torch_gives_the_published_value(loss: Loss, example: Example) -> None:
    form = loss.form(example.form)
    roles = loss.roles(form)
    tensors = {
        name: value
        if roles[name].scalar
        else torch.tensor(value, dtype=torch.int64 if roles[name].integer else torch.float64)
        for name, value in example.arguments.items()
    }
    keywords = {**form.fixed, **example.parameters, "reduction": example.reduction}
    got = getattr(torch.nn.functional, loss.name)(**tensors, **keywords)
    assert got.tolist() == pytest.approx(example.value, rel=0, abs=0.51 * 10**-example.digits)


@pytest.mark.parametrize(("loss", "example"), EXAMPLES)
def test_the_oracle_gives_the_published_value(loss: Loss, example: Example) -> None:
    case = call(
        loss,
        loss.form(example.form),
        dict(example.arguments),
        dict(example.parameters),
        example.reduction,
    )
    got = solve(loss, case).value(example.reduction).exact.astype(float)
    assert got.tolist() == pytest.approx(example.value, rel=0, abs=0.51 * 10**-example.digits)


def test_the_gradient_of_a_mean_l1_over_15_elements_is_a_fifteenth() -> None:
    tensors = {"input": np.array(reals(15)).reshape(3, 5), "target": np.zeros((3, 5))}
    want = answer("l1_loss", tensors, reduction="mean").gradient("input", "mean", np.ones(()))
    assert want is not None
    x = torch.tensor(tensors["input"], requires_grad=True)
    torch.nn.functional.l1_loss(x, torch.zeros(3, 5, dtype=torch.float64)).backward()
    assert x.grad is not None
    for got in (want.exact.astype(float), x.grad.numpy()):
        assert np.abs(got) == pytest.approx(np.full((3, 5), 1 / 15))
        assert np.array_equal(np.sign(got), np.sign(tensors["input"]))
