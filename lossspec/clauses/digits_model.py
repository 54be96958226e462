"""A training run: a small model learns scikit-learn's digits with the loss under test."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from math import prod

import numpy as np
import torch

from lossspec.cases.case import Case
from lossspec.cases.workloads import Size, axes, batch_axis, workload
from lossspec.execution.call import arguments, constructed, handed
from lossspec.execution.implementation import LossUnderTest
from lossspec.execution.outcome import backward_from, differentiable
from lossspec.execution.tensors import to_numpy
from lossspec.spec.constrained import Constrained
from lossspec.spec.loss import Loss
from lossspec.spec.roles import ClassIndex, Role

#: The package that contains the digits.
PACKAGE = "sklearn"
STEPS = 30
#: Training steps between two calls on validation samples.
EVERY = 5
#: The number of training samples; the rest is for validation.
TRAINED = 1200
#: The learning rate.
RATE = 0.03
BATCH = 20
#: The rows of a batch of coupled rows, for each of which the oracle solves all of them.
COUPLED_BATCH = 8
#: The size of the scores: one for each digit, if the loss takes several scores for a sample.
SIZE = Size("digits", 10 * BATCH, 10, 10, "real images")


@cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Load the digits in a random but fixed order.

    Returns:
        The pixels of shape (1797, 64), from 0 to 1, and the labels of shape (1797,).
    """
    pixels, labels = importlib.import_module("sklearn.datasets").load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    return (pixels[order] / 16).astype(np.float32), labels[order]


@dataclass(frozen=True)
class Step:
    """One call of a training run.

    Attributes:
        number: The number of the step, from 0.
        case: The case of the call.
        value: The loss that the implementation returned.
        gradients: The gradients of the tensors that the model makes, by name; empty for a
            validation call, or if the loss has no graph.
    """

    number: int
    case: Case
    value: torch.Tensor
    gradients: Mapping[str, torch.Tensor | None]

    @property
    def learned(self) -> bool:
        """Whether the model was trained in this step."""
        return bool(self.gradients)


class Failed(Exception):
    """The error that an implementation raised in a step of a training run."""


def plain(loss: Loss) -> Case:
    """Return the call of step 0, whose shapes and parameters are those of every step."""
    return workload(loss, axes(loss, SIZE) | {batch_axis(loss): _rows(loss)}, "float32", 0)


def _rows(loss: Loss) -> int:
    """Return how many rows a batch has."""
    return BATCH if loss.rows == "independent" else COUPLED_BATCH


def trainable(loss: Loss) -> bool:
    """Return whether the spec allows a batch of the size that a training run needs."""
    return plain(loss).axis_sizes(loss)[batch_axis(loss)] == _rows(loss)


def steps(under_test: LossUnderTest, device: str) -> Iterator[Step]:
    """Train a model with one object of the implementation.

    Args:
        under_test: The implementation under test.
        device: The device to train on, such as "cpu".

    Yields:
        Each call on training samples, and a call on validation samples every `EVERY` steps.

    Raises:
        Failed: The implementation raised an error.
    """
    first = plain(under_test.loss)
    model = _Model(under_test.loss, first, device)
    optimiser = torch.optim.Adam([model.weight], RATE)
    with _failing():
        call = constructed(under_test, first, arguments(under_test, first, device), {})

    def called(number: int, rows: np.ndarray, learn: bool) -> Step:
        scores = model.scores(rows)
        case = model.case(rows, scores)
        inputs = arguments(under_test, case if learn else case.with_(requires_grad=()), device)
        with _failing():
            value = call(handed(under_test, case, inputs))
        if not learn or not differentiable(value):
            return Step(number, case, value, {})
        with _failing():
            backward_from(value, case)
        gradients = {name: inputs[name].grad for name in scores}
        optimiser.zero_grad()
        given = [name for name, gradient in gradients.items() if gradient is not None]
        torch.autograd.backward([scores[n] for n in given], [gradients[n] for n in given])
        optimiser.step()
        return Step(number, case, value, gradients)

    batch = np.arange(_rows(under_test.loss))
    for number in range(STEPS):
        rows = (batch + number * len(batch)) % TRAINED
        if number % EVERY == 0:
            yield called(number, TRAINED + batch, False)
        yield called(number, rows, True)


@contextmanager
def _failing() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise Failed(f"{type(error).__name__}: {str(error)[:200]}") from error


class _Model:
    """A linear model of the pixels, which gives scores in the shapes that a loss takes."""

    def __init__(self, loss: Loss, plain: Case, device: str) -> None:
        self.loss, self.plain, self.device = loss, plain, device
        self.form = loss.form(plain.form)
        self.axes = dict(zip(self.form.tensors, plain.shape.inputs, strict=True))
        self.along = batch_axis(loss)
        self.made = [
            name
            for name in plain.requires_grad
            if self.along in self.axes.get(name, ()) and not self.form.tensors[name].integer
        ]
        self.vectors = plain.tensors[self.made[0]].ndim > 1
        self.rows = _rows(loss)
        width = max(plain.tensors[name].size // self.rows for name in self.made)
        start = np.random.default_rng(1).standard_normal((64, width)) / 8
        self.weight = torch.tensor(start.astype(np.float32), device=device, requires_grad=True)

    def scores(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """Return the scores of some images, for each tensor that the model makes."""
        pixels, _ = digits()
        found = {}
        for name, images in zip(self.made, self._images(rows), strict=True):
            shape = self.plain.tensors[name].shape
            at = self.axes[name].index(self.along)
            width = prod(shape) // self.rows
            scores = torch.from_numpy(pixels[images]).to(self.device) @ self.weight[:, :width]
            sample = scores.reshape(self.rows, *shape[:at], *shape[at + 1 :])
            role = self.form.tensors[name]
            made = _within(role, sample.movedim(0, at))
            if isinstance(role, Constrained):
                made = _structured(role, made, role.axis(self.axes[name]))
            found[name] = made
        return found

    def case(self, rows: np.ndarray, scores: Mapping[str, torch.Tensor]) -> Case:
        """Return the case of these scores, with targets made of the labels."""
        tensors = dict(self.plain.tensors) | {n: to_numpy(x) for n, x in scores.items()}
        images = self._images(rows)
        for name, array in tensors.items():
            if name not in self.made and self.along in self.axes.get(name, ()):
                tensors[name] = self._told(self.form.tensors[name], array, images)
        case = self.plain.with_(tensors=tensors, requires_grad=tuple(self.made))
        return case.settled(self.loss)

    def _images(self, rows: np.ndarray) -> Sequence[np.ndarray]:
        """Return the images for each tensor, such as an anchor, the same digit and another."""
        if len(self.made) < 2 or len({self.form.tensors[n].style for n in self.made}) > 1:
            return [rows] * len(self.made)
        labels = digits()[1][rows]
        same = np.array([rows[np.flatnonzero(labels == label)[-1]] for label in labels])
        other = np.roll(rows, 1)
        if len(self.made) > 2:
            return [rows, same, other]
        return [rows, np.where(np.arange(len(rows)) % 2, same, other) if self.vectors else other]

    def _told(self, role: Role, like: np.ndarray, images: Sequence[np.ndarray]) -> np.ndarray:
        """Return targets for some images, in the shape and dtype that the loss takes."""
        _, labels = digits()
        label = labels[images[0]].reshape(-1, *(1,) * (like.ndim - 1))
        if isinstance(role, ClassIndex):
            classes = self.plain.axis_sizes(self.loss)[role.classes]  # may be less than 10
            listed = label % max(classes, 1) + np.zeros_like(like)
            if role.ends is not None:  # the list holds one label
                listed[..., 1:] = role.ends
            return np.asarray(listed.astype(like.dtype))
        if role.integer or isinstance(role, Constrained):
            return like
        width = like.shape[-1] if like.ndim > 1 else 1
        hot = (label == np.arange(width)) if width > 1 else (label % 2 == 0)
        if role.style == "sign" and len(images) > 1:
            other = labels[images[1]].reshape(label.shape)
            hot = label == other if self.vectors else label >= other
        hot = np.broadcast_to(hot, like.shape).astype(np.float64)
        match role.style:
            case "sign":
                hot = 2 * hot - 1
            case "distribution":
                hot = 0.9 * hot + 0.1 / width
        return np.asarray(np.clip(hot, role.low, role.high).astype(like.dtype))


def _structured(role: Constrained, scores: torch.Tensor, axis: int | None) -> torch.Tensor:
    """Map scores to numbers that a role restricts together."""
    if axis is None:
        return scores
    match role.style:
        case "unit_vector":
            return torch.nn.functional.normalize(scores, dim=axis)
        case "box":
            corner, size = scores.chunk(2, axis)
            return torch.cat([corner, corner + size.exp()], axis)
        case "sorted":
            return scores.sort(axis, descending=getattr(role, "descending", False)).values
        case _:
            return scores


def _within(role: Role, scores: torch.Tensor) -> torch.Tensor:
    """Map scores into the domain of a role."""
    match role.style:
        case "log_probability":
            return torch.log_softmax(scores, -1) if scores.ndim > 1 else -scores.exp()
        case "probability":
            return torch.sigmoid(scores)
        case "positive" | "non_negative":
            return scores.exp()
        case "temperature":
            return 1 + torch.nn.functional.softplus(scores)
        case _:
            return scores
