"""The oracle of CTC, adaptive softmax and linear cross entropy, against other computations."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import mpmath
import numpy as np
import pytest
import torch

from lossspec.cases.case import Case
from lossspec.execution.outcome import perform
from lossspec.implementations import torch_nn
from lossspec.implementations.counterpart import torch_counterpart
from lossspec.implementations.oracle import bind
from lossspec.oracle.expected import Expected
from lossspec.oracle.solver import solve
from lossspec.spec.catalogue import catalogue, find

LOSSES = ("adaptive_log_softmax_with_loss", "ctc_loss", "linear_cross_entropy")
DIGITS = 50
#: The accuracy of longdouble, which has 19 digits, after sums and differences of a few units.
CLOSE = 1e-16


def case(name: str, tensors: Mapping[str, Any], form: str = "", **parameters: Any) -> Case:
    """Return a float64 case of a loss; parameters that are not given have their default."""
    loss = find(name)
    defaults = {key: parameter.default for key, parameter in loss.parameters.items()}
    bound = bind(
        loss,
        {key: torch.tensor(value) for key, value in tensors.items()},
        {**defaults, **parameters},
        loss.reductions[0],
    )
    assert form in ("", bound.form)
    return bound


def agree(got: Any, want: Any) -> bool:
    """Return whether a longdouble equals an mpmath number to nearly all its digits."""
    if mpmath.isinf(want):
        return bool(got == float(want))
    return bool(abs(mpmath.mpf(str(got)) - want) <= CLOSE * max(1, abs(want)))


def derivatives(
    of: Callable[[Mapping[str, np.ndarray]], Any], tensors: Mapping[str, np.ndarray], name: str
) -> Iterator[tuple[tuple[int, ...], Any]]:
    """Yield the derivative of a function by each element of a tensor, from a central difference."""
    step = mpmath.mpf(10) ** (-DIGITS // 3)
    exact = {key: np.vectorize(number, otypes=[object])(x) for key, x in tensors.items() if x.size}
    for at in np.ndindex(tensors[name].shape):
        ends = []
        for side in (step, -step):
            moved = exact[name].copy()
            moved[at] += side
            ends.append(of({**tensors, **exact, name: moved}))
        yield at, (ends[0] - ends[1]) / (2 * step)


def number(x: Any) -> Any:
    """Return a number in mpmath; leave an index unchanged."""
    if isinstance(x, np.integer | int):
        return int(x)
    return x if isinstance(x, mpmath.mpf) else mpmath.mpf(float(x))


def gradient(expected: Expected, name: str, reduction: str) -> np.ndarray:
    """Return the oracle's gradient by a tensor."""
    bounded = expected.gradient(name, reduction, np.ones((), np.float64))
    assert bounded is not None
    return bounded.exact


@pytest.fixture(autouse=True)
def _precise() -> Iterator[None]:
    with mpmath.workdps(DIGITS):
        yield


# === CTC: a sum over alignments ===========================================================


def softmax(x: Any) -> list[Any]:
    powers = [mpmath.exp(number(v)) for v in x]
    return [power / mpmath.fsum(powers) for power in powers]


def spelled(path: tuple[int, ...], blank: int) -> tuple[int, ...]:
    """Return the labels of a path: repeated labels once, without the blanks."""
    return tuple(label for label, _ in itertools.groupby(path) if label != blank)


def alignments(logits: np.ndarray, target: tuple[int, ...], blank: int) -> tuple[Any, np.ndarray]:
    """Return the probability of a target, and that of it with each class in each frame."""
    p = [softmax(frame) for frame in logits]
    whole = mpmath.mpf(0)
    parts = np.full(logits.shape, mpmath.mpf(0), object)
    for path in itertools.product(range(logits.shape[1]), repeat=len(logits)):
        if spelled(path, blank) == target:
            chance = mpmath.fprod(p[t][k] for t, k in enumerate(path))
            whole += chance
            for t, k in enumerate(path):
                parts[t, k] += chance
    return whole, parts


#: Frames, classes, blank, and the targets of a batch with the lengths of the inputs.
BATCHES = [
    (4, 3, 0, [(1, 2), (1, 1), ()], [4, 4, 4]),
    (5, 3, 2, [(0, 0), (0, 1), (1, 0)], [5, 3, 4]),
    (5, 3, 1, [(2, 2), (0, 2, 0), (0, 0)], [2, 5, 3]),
    (3, 4, 3, [(0, 1, 2), (0,), ()], [3, 1, 0]),
    (1, 2, 0, [(1,), ()], [1, 0]),
    (2, 5, 4, [(3, 3), (1,), (2, 0)], [2, 0, 1]),
]
BATCH_IDS = [f"{batch[0]} frames, blank {batch[2]} of {batch[1]}" for batch in BATCHES]


def batch(
    concatenated: bool, zero_infinity: bool, drawn: tuple[Any, ...], scale: float
) -> tuple[Case, list[tuple[int, ...]]]:
    """Return a batch with random scores, and its targets."""
    frames, classes, blank, targets, lengths = drawn
    rng = np.random.default_rng(frames * classes + blank)
    logits = rng.standard_normal((frames, len(targets), classes)) * scale
    longest = max(map(len, targets))
    rows: Any = [label for target in targets for label in target]
    if not concatenated:
        rows = [[*target, *[-1] * (longest - len(target))] for target in targets]
    tensors = {
        "log_probs": logits,
        "targets": np.array(rows, np.int64).reshape((-1,) if concatenated else (-1, longest)),
        "input_lengths": np.array(lengths),
        "target_lengths": np.array(list(map(len, targets))),
    }
    return case("ctc_loss", tensors, blank=blank, zero_infinity=zero_infinity), targets


@pytest.mark.parametrize("drawn", BATCHES, ids=BATCH_IDS)
@pytest.mark.parametrize("concatenated", [False, True], ids=["padded", "concatenated"])
@pytest.mark.parametrize("scale", [1.0, 12.0])
def test_ctc_is_minus_the_logarithm_of_the_sum_over_all_alignments(drawn, concatenated, scale):
    ctc, targets = batch(concatenated, False, drawn, scale)
    expected = solve(find("ctc_loss"), ctc)
    slopes = expected.derivatives["log_probs"][0][0]  # (sequence, frame, class)
    for n, target in enumerate(targets):
        length = int(ctc.tensors["input_lengths"][n])
        logits = ctc.tensors["log_probs"][:length, n]
        whole, parts = alignments(logits, target, drawn[2])
        if whole == 0:
            assert expected.losses[n] == np.inf
            continue
        assert agree(expected.losses[n], -mpmath.log(whole))
        for t, k in np.ndindex(logits.shape):
            assert agree(slopes[n, t, k], softmax(logits[t])[k] - parts[t, k] / whole)
        assert not slopes[n, length:].any()


@pytest.mark.parametrize("drawn", BATCHES, ids=BATCH_IDS)
def test_ctc_without_a_path_is_0_with_gradient_0_under_zero_infinity(drawn):
    ctc, _ = batch(False, True, drawn, 1.0)
    plain, _ = batch(False, False, drawn, 1.0)
    with_zeros, without = (solve(find("ctc_loss"), c) for c in (ctc, plain))
    hopeless = np.isinf(without.losses)
    assert np.array_equal(with_zeros.losses[~hopeless], without.losses[~hopeless])
    assert not with_zeros.losses[hopeless].any()
    assert not with_zeros.derivatives["log_probs"][0][0][hopeless].any()


def test_the_mean_of_ctc_divides_each_loss_by_its_target_length():
    ctc, targets = batch(False, True, BATCHES[0], 1.0)
    expected = solve(find("ctc_loss"), ctc)
    shares = [loss / max(len(t), 1) for loss, t in zip(expected.losses, targets, strict=True)]
    assert abs(expected.value("mean").exact - np.mean(shares)) < CLOSE


def test_ctc_of_one_sequence_equals_that_of_a_batch_of_one():
    rng = np.random.default_rng(7)
    logits = rng.standard_normal((4, 3))
    lengths = {"input_lengths": np.array(3), "target_lengths": np.array(2)}
    alone = case("ctc_loss", {"log_probs": logits, "targets": np.array([1, 1]), **lengths})
    whole, _ = alignments(logits[:3], (1, 1), 0)
    assert alone.form == "concatenated"
    assert agree(solve(find("ctc_loss"), alone).losses[()], -mpmath.log(whole))


# === layers ===============================================================================


def scores(weight: np.ndarray, x: np.ndarray, bias: Any = None) -> list[Any]:
    """Compute a linear layer, one output at a time."""
    products = [mpmath.fdot(map(number, row), map(number, x)) for row in weight]
    if bias is None:
        return products
    return [product + number(b) for product, b in zip(products, bias, strict=True)]


def log_softmax(z: list[Any]) -> list[Any]:
    whole = mpmath.log(mpmath.fsum(map(mpmath.exp, z)))
    return [one - whole for one in z]


def cross_entropy(z: list[Any], p: list[Any], weight: list[Any], smoothing: float) -> Any:
    smooth = [(1 - smoothing) * one + mpmath.mpf(smoothing) / len(z) for one in p]
    return -mpmath.fsum(w * q * x for w, q, x in zip(weight, smooth, log_softmax(z), strict=True))


def certain(index: int, classes: int) -> list[Any]:
    return [mpmath.mpf(c == index) for c in range(classes)]


LINEAR = [
    ("indices", 0.0, -100),
    ("indices", 0.125, 1),
    ("indices", 1.0, 0),
    ("probabilities", 0.0, -100),
    ("probabilities", 0.5, -100),
]


def linear(kind: str, smoothing: float, ignored: int, shape: tuple[int, ...]) -> Case:
    rng = np.random.default_rng(len(shape) + (kind == "indices"))
    rows, features, classes = 3, 2, 4
    target = rng.dirichlet(np.ones(classes), (rows, *shape)).astype(float)
    tensors = {
        "input": rng.standard_normal((rows, features)) * 2,
        "linear_weight": rng.standard_normal((classes, *shape, features)) * 2,
        "target": np.moveaxis(target, -1, 1)
        if kind == "probabilities"
        else rng.integers(0, classes, (rows, *shape)),
        "linear_bias": rng.standard_normal((classes, *shape)),
        "weight": np.array([1.0, 0.5, 2.0, 0.0]),
    }
    mark = {"ignore_index": ignored} if kind == "indices" else {}
    return case("linear_cross_entropy", tensors, label_smoothing=smoothing, **mark)


@pytest.mark.parametrize("shape", [(), (2,), (1, 2)], ids=str)
@pytest.mark.parametrize(("kind", "smoothing", "ignored"), LINEAR, ids=str)
def test_linear_cross_entropy_is_the_cross_entropy_of_each_row(kind, smoothing, ignored, shape):
    drawn = linear(kind, smoothing, ignored, shape)
    spec = find("linear_cross_entropy")
    expected = solve(spec, drawn)
    weight = [number(w) for w in drawn.tensors["weight"]]

    def loss(tensors: Mapping[str, Any], place: tuple[int, ...]) -> Any:
        n, *at = place
        here = (slice(None), *at)
        bias = tensors["linear_bias"][here]
        z = scores(tensors["linear_weight"][here], tensors["input"][n], bias)
        if kind == "probabilities":
            p = list(map(number, tensors["target"][n][here]))
            return cross_entropy(z, p, weight, smoothing)
        index = int(tensors["target"][place])
        if index == ignored:
            return mpmath.mpf(0)
        return cross_entropy(z, certain(index, len(z)), weight, smoothing)

    places = list(np.ndindex(expected.losses.shape))
    for place in places:
        assert agree(expected.losses[place], loss(drawn.tensors, place))

    def total(tensors: Mapping[str, Any]) -> Any:
        return mpmath.fsum(loss(tensors, place) for place in places)

    for name in ("input", "linear_bias", "linear_weight"):
        got = gradient(expected, name, "sum")
        for at, slope in itertools.islice(derivatives(total, drawn.tensors, name), 4):
            assert agree(got[at], slope)


def adaptive(clusters: int, div_value: float, biased: bool, batched: bool) -> Case:
    rng = np.random.default_rng(clusters + int(2 * div_value) + biased)
    features, rows, frequent = 4, 4, 2
    tensors: dict[str, Any] = {"input": rng.standard_normal((rows, features)) * 2}
    sizes = [2, 3][:clusters]
    tensors["target"] = rng.permutation(frequent + sum(sizes))[:rows]
    tensors["head"] = rng.standard_normal((frequent + clusters, features))
    for i, size in enumerate(sizes, 1):
        inner = int(features // div_value**i)
        tensors[f"down_{i}"] = rng.standard_normal((inner, features))
        tensors[f"out_{i}"] = rng.standard_normal((size, inner))
    if biased:
        tensors["bias"] = rng.standard_normal(frequent + clusters)
    if not batched:
        tensors |= {"input": tensors["input"][0], "target": tensors["target"][0]}
    return case("adaptive_log_softmax_with_loss", tensors, div_value=div_value)


ADAPTIVE = [
    (1, 2.0, False, True),
    (1, 4.0, True, True),
    (2, 2.0, True, True),
    (2, 4.0, False, True),  # the second cluster has no features left, so its classes are all alike
    (2, 1.5, True, False),
    (1, 1.0, False, False),
]


@pytest.mark.parametrize(("clusters", "div_value", "biased", "batched"), ADAPTIVE, ids=str)
def test_adaptive_softmax_multiplies_cluster_and_class(clusters, div_value, biased, batched):
    drawn = adaptive(clusters, div_value, biased, batched)
    expected = solve(find(drawn.loss), drawn)
    target = drawn.tensors["target"]
    places = list(np.ndindex(target.shape))

    def log_p(tensors: Mapping[str, Any], place: tuple[int, ...]) -> Any:
        x, t = tensors["input"][place], int(target[place])
        head = log_softmax(scores(tensors["head"], x, tensors.get("bias")))
        frequent = len(head) - clusters
        if t < frequent:
            return head[t]
        low = frequent
        for i in range(1, clusters + 1):
            out = tensors[f"out_{i}"]
            if t < low + len(out):
                inner = scores(tensors[f"down_{i}"], x)
                return head[frequent + i - 1] + log_softmax(scores(out, inner))[t - low]
            low += len(out)
        raise AssertionError(f"class {t} has no place")

    for place in places:
        assert agree(expected.losses[place], log_p(drawn.tensors, place))

    def mean(tensors: Mapping[str, Any]) -> Any:
        return -mpmath.fsum(log_p(tensors, place) for place in places) / len(places)

    assert agree(expected.value("mean").exact, mean(drawn.tensors))
    for name in expected.derivatives:
        got = gradient(expected, name, "mean")
        for at, slope in itertools.islice(derivatives(mean, drawn.tensors, name), 6):
            assert agree(got[at], slope)


# === the same through torch ===============================================================


@pytest.mark.parametrize(
    ("name", "example"),
    [(name, example) for name in LOSSES for example in catalogue()[name].examples],
    ids=lambda x: x if isinstance(x, str) else x.source[:30],
)
def test_torch_gives_the_published_value(name, example):
    loss = find(name)
    tensors = {
        key: np.array(value, np.int64 if loss.roles(loss.form(example.form))[key].integer else None)
        for key, value in example.arguments.items()
    }
    call = case(name, tensors, example.form, **example.parameters)
    call = call.with_(reduction=example.reduction)
    under_test = torch_counterpart(loss, "function") or torch_counterpart(loss, "class")
    assert under_test is not None
    outcome = perform(under_test, call, backward=False)
    assert outcome.error is None
    assert float(outcome.value) == pytest.approx(example.value, abs=0.5 * 10**-example.digits)


def test_tensors_owned_by_a_class_are_set_and_their_gradients_read():
    loss = find("linear_cross_entropy")
    losses_under_test = [
        under_test
        for implementation in (torch_nn.functions, torch_nn.classes)
        for under_test in implementation.losses_under_test(loss)
    ]
    assert [under_test.surface for under_test in losses_under_test] == ["function", "class"]
    drawn = linear("indices", 0.0, -100, (2,))
    call = drawn.with_(reduction="sum", requires_grad=("input", "linear_weight", "linear_bias"))
    call = call.with_(cotangent=np.ones((3, 2)))
    want, got = (perform(under_test, call) for under_test in losses_under_test)
    assert (got.error, want.error) == (None, None)
    assert torch.equal(got.value, want.value)
    for name in call.requires_grad:
        assert torch.equal(got.gradients[name], want.gradients[name])
