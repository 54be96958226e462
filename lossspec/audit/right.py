"""Right losses made of parts, so that a mutant is wrong in one of them and right in the rest."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

REDUCTIONS = ("none", "mean", "sum")


def wide(x: Tensor) -> Tensor:
    """The same numbers with room for a sum: half precisions in float32, as kernels do."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class _Passed(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.change = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return ctx.change(grads[0]), None


def passed(x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """The tensor itself, whose gradient goes through `change` on its way back."""
    result: Tensor = _Passed.apply(x, change)  # type: ignore[no-untyped-call]
    return result


# === what several mutants do ==============================================================


def dense_reading(x: Tensor) -> Tensor:
    """What a kernel reads that takes a tensor for contiguous, as far as the storage goes."""
    end = x.storage_offset() + x.numel()
    if x.untyped_storage().nbytes() // x.element_size() < end:
        return x
    return x.as_strided(x.shape, torch.empty(x.shape).stride())


def shares_memory(x: Tensor) -> bool:
    """Whether two elements lie in one place, so that writing is no option."""
    return any(step == 0 and size > 1 for step, size in zip(x.stride(), x.shape, strict=True))


def together(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the shape that they broadcast to."""
    x, y = torch.broadcast_tensors(x, y)  # type: ignore[no-untyped-call]
    return x, y


def serial_sum(x: Tensor, dtype: torch.dtype) -> Tensor:
    """A running sum that is rounded to a dtype at each step, with the gradient of a sum."""
    total = torch.zeros((), dtype=dtype)
    for value in x.detach().to(dtype).flatten():
        total = total + value
    exact = x.sum()
    return exact + (total - exact).detach()


def first_gradient(loss: Any, *tensors: Tensor, **parameters: Any) -> Tensor:
    """The gradient of the sum by the first tensor."""
    x = tensors[0].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(x, *tensors[1:], reduction="sum", **parameters), x)
    return gradient


def second_gradient(loss: Any, *tensors: Tensor) -> Tensor:
    """The gradient of that gradient's sum; RuntimeError where it cannot be differentiated."""
    x = tensors[0].clone().requires_grad_()
    (first,) = torch.autograd.grad(loss(x, *tensors[1:], reduction="sum"), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    return second


# === elementwise losses ===================================================================


@dataclass
class Elements:
    """A call of an elementwise loss: x and y in the working dtype, everything else as given."""

    input: Tensor
    target: Tensor
    weight: Tensor | None
    reduction: str
    parameter: Any = None
    pos_weight: Tensor | None = None

    def __post_init__(self) -> None:
        self.x, self.y = wide(self.input), wide(self.target)
        self.w = None if self.weight is None else wide(self.weight)

    @property
    def residual(self) -> Tensor:
        """The input less the target."""
        return self.x - self.y


class Elementwise:
    """Check, compute the elements, reduce, cast: each a method of its own."""

    loss = ""
    reductions: tuple[str, ...] = REDUCTIONS

    def run(self, c: Elements) -> Tensor:
        """The loss."""
        self.check(c)
        return self.leave(c, self.reduce(c, self.weighted(c, self.element(c))))

    def check(self, c: Elements) -> None:
        """Raise for what torch raises for, warn where it warns."""
        self.check_reduction(c)
        self.check_shapes(c)
        self.check_parameter(c)

    def check_reduction(self, c: Elements) -> None:
        """Only known names."""
        if c.reduction not in self.reductions:
            raise ValueError(f"{c.reduction} is not a valid value for reduction")

    def check_shapes(self, c: Elements) -> None:
        """Different sizes broadcast with a warning; a weight has the input's size."""
        if c.input.shape != c.target.shape:
            warnings.warn(f"sizes {c.input.shape}, {c.target.shape} broadcast", stacklevel=4)
        if c.weight is not None and c.weight.shape != c.input.shape:
            raise ValueError("weight and input must have the same size")

    def check_parameter(self, c: Elements) -> None:
        """Nothing to check."""

    def element(self, c: Elements) -> Tensor:
        """The unreduced, unweighted loss."""
        raise NotImplementedError

    def weighted(self, c: Elements, losses: Tensor) -> Tensor:
        """Times the weight of each element."""
        return losses if c.w is None else losses * c.w

    def reduce(self, c: Elements, losses: Tensor) -> Tensor:
        """Under the reduction of the call."""
        if c.reduction == "none":
            return losses
        if c.reduction == "sum":
            return losses.sum()
        return losses.sum() / self.divisor(c, losses)

    def divisor(self, c: Elements, losses: Tensor) -> Tensor:
        """What the mean divides by."""
        # A tensor, since nothing divided by nothing is nan in torch and an error in Python.
        return losses.new_tensor(float(losses.numel()))

    def leave(self, c: Elements, result: Tensor) -> Tensor:
        """In the dtype of the inputs."""
        return result.to(torch.result_type(c.input, c.target))


class L1(Elementwise):
    """`l1_loss`."""

    loss = "l1_loss"

    def __call__(
        self, input: Tensor, target: Tensor, reduction: str = "mean", weight: Tensor | None = None
    ) -> Tensor:
        """As `torch.nn.functional.l1_loss`."""
        return self.run(Elements(input, target, weight, reduction))

    def element(self, c: Elements) -> Tensor:
        """The absolute residual."""
        return c.residual.abs()

    def divisor(self, c: Elements, losses: Tensor) -> Tensor:
        """The sum of the weights."""
        return super().divisor(c, losses) if c.w is None else c.w.sum()


class MSE(L1):
    """`mse_loss`."""

    loss = "mse_loss"

    def element(self, c: Elements) -> Tensor:
        """The squared residual."""
        return c.residual**2


class SmoothL1(Elementwise):
    """`smooth_l1_loss`."""

    loss = "smooth_l1_loss"

    def __call__(
        self, input: Tensor, target: Tensor, reduction: str = "mean", beta: float = 1.0
    ) -> Tensor:
        """As `torch.nn.functional.smooth_l1_loss`."""
        return self.run(Elements(input, target, None, reduction, beta))

    def check_parameter(self, c: Elements) -> None:
        """Not negative."""
        if c.parameter < 0:
            raise RuntimeError("smooth_l1_loss does not support negative values for beta")

    def element(self, c: Elements) -> Tensor:
        """Squared up to beta, then straight."""
        r, beta = c.residual.abs(), c.parameter
        if beta == 0:
            return r
        return torch.where(r < beta, r * r / (2 * beta), r - beta / 2)


class Huber(Elementwise):
    """`huber_loss`."""

    loss = "huber_loss"

    def __call__(
        self,
        input: Tensor,
        target: Tensor,
        reduction: str = "mean",
        delta: float = 1.0,
        weight: Tensor | None = None,
    ) -> Tensor:
        """As `torch.nn.functional.huber_loss`."""
        return self.run(Elements(input, target, weight, reduction, delta))

    def check_parameter(self, c: Elements) -> None:
        """Above zero."""
        if not c.parameter > 0:
            raise RuntimeError("huber_loss does not support non-positive values for delta")

    def element(self, c: Elements) -> Tensor:
        """Squared up to delta, then straight."""
        r, delta = c.residual.abs(), c.parameter
        return torch.where(r < delta, r * r / 2, delta * (r - delta / 2))


class KLDiv(Elementwise):
    """`kl_div`."""

    loss = "kl_div"

    reductions = (*REDUCTIONS, "batchmean")

    def __call__(
        self, input: Tensor, target: Tensor, reduction: str = "mean", log_target: bool = False
    ) -> Tensor:
        """As `torch.nn.functional.kl_div`."""
        return self.run(Elements(input, target, None, reduction, log_target))

    def check_shapes(self, c: Elements) -> None:
        """The same size."""
        if c.input.shape != c.target.shape:
            raise ValueError(f"sizes differ: {c.input.shape}, {c.target.shape}")

    def element(self, c: Elements) -> Tensor:
        """The pointwise divergence."""
        if c.parameter:
            return c.y.exp() * (c.y - c.x)
        return torch.xlogy(c.y, c.y) - c.y * c.x

    def divisor(self, c: Elements, losses: Tensor) -> Tensor:
        """All elements, or the batch."""
        if c.reduction == "batchmean":
            return losses.new_tensor(float(losses.shape[0] if losses.ndim else 1))
        return super().divisor(c, losses)


class BCEWithLogits(Elementwise):
    """`binary_cross_entropy_with_logits`."""

    loss = "binary_cross_entropy_with_logits"

    def __call__(
        self,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        reduction: str = "mean",
        pos_weight: Tensor | None = None,
    ) -> Tensor:
        """As `torch.nn.functional.binary_cross_entropy_with_logits`."""
        return self.run(Elements(input, target, weight, reduction, pos_weight=pos_weight))

    def check_shapes(self, c: Elements) -> None:
        """The same size; weights that broadcast to it."""
        if c.input.shape != c.target.shape:
            raise ValueError(f"target size {c.target.shape} must be input size {c.input.shape}")
        for factor in (c.weight, c.pos_weight):
            if factor is not None:
                factor.expand(c.input.shape)

    def element(self, c: Elements) -> Tensor:
        """The part of the positive and of the negative, without cancellation."""
        log_p = torch.nn.functional.logsigmoid(c.x)
        log_q = torch.nn.functional.logsigmoid(-c.x)
        return -(self.positive(c) * log_p + (1 - c.y) * log_q)

    def positive(self, c: Elements) -> Tensor:
        """What the positive part counts for."""
        return c.y if c.pos_weight is None else c.y * wide(c.pos_weight)


# === class losses =========================================================================


@dataclass
class Classes:
    """A call of a class loss. x : scores, classes last. t : target, or probabilities, classes last.

    kept : which elements count; safe : their classes, 0 for the others. count : how many classes.
    """

    input: Tensor
    target: Tensor
    weight: Tensor | None
    ignore_index: int
    reduction: str
    smoothing: float = 0.0
    soft: bool = False

    x: Tensor = None  # type: ignore[assignment]  # set when the call is entered
    t: Tensor = None  # type: ignore[assignment]
    w: Tensor | None = None
    kept: Tensor = None  # type: ignore[assignment]
    safe: Tensor = None  # type: ignore[assignment]

    @property
    def axis(self) -> int:
        """The class axis of the input."""
        return 0 if self.input.ndim == 1 else 1

    @property
    def count(self) -> int:
        """How many classes there are."""
        return self.input.shape[self.axis]


class NLL:
    """`nll_loss`."""

    loss = "nll_loss"

    def __call__(
        self,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> Tensor:
        """As `torch.nn.functional.nll_loss`."""
        return self.run(Classes(input, target, weight, ignore_index, reduction))

    def run(self, c: Classes) -> Tensor:
        """The loss."""
        self.check(c)
        self.enter(c)
        self.mask(c)
        log_p = self.log_probabilities(c)
        losses = self.losses(c, log_p)
        return self.leave(c, self.reduce(c, losses))

    def check(self, c: Classes) -> None:
        """Raise for what torch raises for."""
        self.check_reduction(c)
        self.check_shapes(c)
        self.check_dtype(c)
        self.check_weight(c)

    def check_reduction(self, c: Classes) -> None:
        """Only known names."""
        if c.reduction not in REDUCTIONS:
            raise ValueError(f"{c.reduction} is not a valid value for reduction")

    def check_shapes(self, c: Classes) -> None:
        """The target has the input's shape without the class axis."""
        if c.input.ndim == 0:
            raise ValueError("input must have a class axis")
        if c.target.shape != c.input.shape[: c.axis] + c.input.shape[c.axis + 1 :]:
            raise ValueError(f"target {c.target.shape} does not fit input {c.input.shape}")

    def check_dtype(self, c: Classes) -> None:
        """Targets are int64 or uint8."""
        if c.target.dtype not in (torch.int64, torch.uint8):
            raise RuntimeError(f"expected scalar type Long or Byte but found {c.target.dtype}")

    def check_weight(self, c: Classes) -> None:
        """One weight for each class."""
        if c.weight is not None and c.weight.shape != (c.count,):
            raise RuntimeError(f"weight must be of shape ({c.count},), got {c.weight.shape}")

    def enter(self, c: Classes) -> None:
        """Classes last, in the working dtype."""
        c.x, c.t = wide(c.input.movedim(c.axis, -1)), c.target.long()
        c.w = None if c.weight is None else wide(c.weight)

    def mask(self, c: Classes) -> None:
        """What counts; a class outside the range that is not ignored is an error."""
        c.kept = self.counted(c)
        self.check_range(c)
        c.safe = c.t.where(c.kept, 0)

    def counted(self, c: Classes) -> Tensor:
        """What is not ignored."""
        return c.t != c.ignore_index

    def check_range(self, c: Classes) -> None:
        """Every class that counts is one of the classes."""
        wrong = c.kept & ((c.t < 0) | (c.t >= c.count))
        if wrong.any():
            raise IndexError(f"target {c.t[wrong][0]} is out of bounds")

    def log_probabilities(self, c: Classes) -> Tensor:
        """The input itself."""
        return c.x

    def losses(self, c: Classes, log_p: Tensor) -> Tensor:
        """The unreduced loss, 0 where ignored."""
        return torch.where(c.kept, -self.picked(c, log_p) * self.class_weight(c), 0)

    def picked(self, c: Classes, log_p: Tensor) -> Tensor:
        """The log-probability of the target's class."""
        return log_p.gather(-1, c.safe.unsqueeze(-1)).squeeze(-1)

    def class_weight(self, c: Classes) -> Tensor:
        """The weight of the target's class."""
        return c.x.new_ones(c.safe.shape) if c.w is None else c.w[c.safe]

    def reduce(self, c: Classes, losses: Tensor) -> Tensor:
        """Under the reduction of the call."""
        if c.reduction == "none":
            return losses
        if c.reduction == "sum":
            return losses.sum()
        return losses.sum() / self.divisor(c, losses)

    def divisor(self, c: Classes, losses: Tensor) -> Tensor:
        """The sum of the weights of what counts."""
        return torch.where(c.kept, self.class_weight(c), 0).sum()

    def leave(self, c: Classes, result: Tensor) -> Tensor:
        """In the dtype of the input."""
        return result.to(c.input.dtype)


class CrossEntropy(NLL):
    """`cross_entropy`."""

    loss = "cross_entropy"

    def __call__(
        self,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """As `torch.nn.functional.cross_entropy`."""
        soft = input.shape == target.shape
        call = Classes(input, target, weight, ignore_index, reduction, label_smoothing, soft)
        return self.run(call)

    def check(self, c: Classes) -> None:
        """Also the smoothing."""
        super().check(c)
        self.check_smoothing(c)

    def check_smoothing(self, c: Classes) -> None:
        """Between 0 and 1."""
        if not 0 <= c.smoothing <= 1:
            raise RuntimeError(f"label_smoothing must be between 0 and 1, got {c.smoothing}")

    def check_shapes(self, c: Classes) -> None:
        """Probabilities have the input's shape."""
        if not c.soft:
            super().check_shapes(c)

    def check_dtype(self, c: Classes) -> None:
        """Probabilities are floating."""
        if not c.soft:
            super().check_dtype(c)
        elif not c.target.is_floating_point():
            raise RuntimeError(f"expected floating class probabilities, got {c.target.dtype}")

    def enter(self, c: Classes) -> None:
        """Probabilities too have the classes last."""
        super().enter(c)
        if c.soft:
            c.t = wide(c.target.movedim(c.axis, -1))

    def mask(self, c: Classes) -> None:
        """With probabilities everything counts."""
        if c.soft:
            c.kept = c.t.new_ones(c.t.shape[:-1], dtype=torch.bool)
        else:
            super().mask(c)
            self.clean(c)

    def clean(self, c: Classes) -> None:
        """What an ignored row holds does not matter, in the gradient either."""
        c.x = torch.where(c.kept.unsqueeze(-1), c.x, 0)

    def log_probabilities(self, c: Classes) -> Tensor:
        """The logarithm of the softmax."""
        return c.x.log_softmax(-1)

    def losses(self, c: Classes, log_p: Tensor) -> Tensor:
        """A share of the target's distribution and one of the uniform distribution."""
        if c.soft:
            return self.soft_losses(c, log_p)
        certain = super().losses(c, log_p)
        if c.smoothing == 0:
            return certain
        return (1 - c.smoothing) * certain + self.uniform(c, log_p)

    def soft_losses(self, c: Classes, log_p: Tensor) -> Tensor:
        """Against probabilities."""
        p = self.smoothed(c)
        return -(p * self.weighted(c, log_p)).sum(-1)

    def smoothed(self, c: Classes) -> Tensor:
        """Probabilities with their share of the uniform distribution."""
        return c.t if c.smoothing == 0 else c.t * (1 - c.smoothing) + c.smoothing / c.count

    def uniform(self, c: Classes, log_p: Tensor) -> Tensor:
        """The uniform part of the loss, 0 where ignored."""
        whole = -self.weighted(c, log_p).sum(-1) * c.smoothing / c.count
        return torch.where(c.kept, whole, 0)

    def weighted(self, c: Classes, log_p: Tensor) -> Tensor:
        """Log-probabilities times the weights of their classes."""
        return log_p if c.w is None else log_p * c.w

    def divisor(self, c: Classes, losses: Tensor) -> Tensor:
        """With probabilities the number of elements."""
        if c.soft:
            return losses.new_tensor(float(losses.numel()))
        return super().divisor(c, losses)
