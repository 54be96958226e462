"""Right losses of the other kinds, made of parts, and controls in other formulations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from lossspec.audit import control
from lossspec.audit.right import REDUCTIONS, wide

Distance: TypeAlias = Callable[[Tensor, Tensor], Tensor]
Lengths: TypeAlias = Tensor | Sequence[int] | int

#: The logarithms of binary_cross_entropy end here.
LOWEST = -100.0
#: A logarithm of a probability that is none: finite, so that it has a gradient.
NEVER = -1e30


class Plain:
    """Check, compute the losses, reduce, cast: each a method of its own."""

    loss = ""

    def work(self, x: Tensor) -> Tensor:
        """The same numbers in the dtype to compute in."""
        return wide(x)

    def check_reduction(self, reduction: str) -> None:
        """Only known names."""
        if reduction not in REDUCTIONS:
            raise ValueError(f"{reduction} is not a valid value for reduction")

    def check_sizes(self, *tensors: Tensor) -> None:
        """All the same."""
        if any(tensor.shape != tensors[0].shape for tensor in tensors):
            raise ValueError(f"sizes differ: {[list(tensor.shape) for tensor in tensors]}")

    def leave(self, losses: Tensor, reduction: str, like: Tensor) -> Tensor:
        """Reduced, in the dtype of the input."""
        return self.reduce(losses, reduction).to(like.dtype)

    def reduce(self, losses: Tensor, reduction: str) -> Tensor:
        """Under the reduction."""
        if reduction == "none":
            return losses
        total = wide(losses).sum()
        return total / self.divisor(losses) if reduction == "mean" else total

    def divisor(self, losses: Tensor) -> Tensor:
        """What the mean divides by; a tensor, since nothing by nothing is nan."""
        return wide(losses).new_tensor(float(losses.numel()))


# === one number against another ===========================================================


class BCE(Plain):
    """`binary_cross_entropy`."""

    loss = "binary_cross_entropy"

    def __call__(
        self,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        reduction: str = "mean",
    ) -> Tensor:
        """As `torch.nn.functional.binary_cross_entropy`."""
        self.check_reduction(reduction)
        self.check_sizes(input, target)
        self.check_range(input, target)
        losses = self.element(self.work(input), self.work(target))
        return self.leave(self.weighted(losses, weight), reduction, input)

    def check_range(self, *tensors: Tensor) -> None:
        """All elements are from 0 to 1."""
        for tensor in tensors:
            if ((tensor < 0) | (tensor > 1)).any():
                raise RuntimeError("all elements should be between 0 and 1")

    def weighted(self, losses: Tensor, weight: Tensor | None) -> Tensor:
        """Times the weight of each element."""
        return losses if weight is None else losses * self.work(weight).expand(losses.shape)

    def element(self, x: Tensor, y: Tensor) -> Tensor:
        """The unreduced, unweighted loss."""
        return -(y * self.log(x) + (1 - y) * self.log(1 - x))

    def log(self, p: Tensor) -> Tensor:
        """The logarithm, at least -100, with a gradient of 0 below."""
        # A half precision rounds the bound to 0.
        tiny = p <= math.exp(LOWEST)
        return torch.where(tiny, LOWEST, torch.where(tiny, 1, p).log())


class Poisson(Plain):
    """`poisson_nll_loss`."""

    loss = "poisson_nll_loss"

    def __call__(
        self,
        input: Tensor,
        target: Tensor,
        log_input: bool = True,
        full: bool = False,
        eps: float = 1e-8,
        reduction: str = "mean",
    ) -> Tensor:
        """As `torch.nn.functional.poisson_nll_loss`."""
        self.check_reduction(reduction)
        self.check_sizes(input, target)
        x, y = self.work(input), self.work(target)
        losses = self.of_log_rate(x, y) if log_input else self.of_rate(x, y, eps)
        if full:
            losses = losses + self.log_factorial(y)
        return self.leave(losses, reduction, input)

    def of_log_rate(self, x: Tensor, y: Tensor) -> Tensor:
        """When the input is the logarithm of the rate."""
        return x.exp() - y * x

    def of_rate(self, x: Tensor, y: Tensor, eps: float) -> Tensor:
        """When the input is the rate."""
        return x - y * (x + eps).log()

    def log_factorial(self, y: Tensor) -> Tensor:
        """Stirling's approximation above 1."""
        many = torch.where(y > 1, y, 2)
        return torch.where(y > 1, self.stirling(many), 0)

    def stirling(self, y: Tensor) -> Tensor:
        """Of the logarithm of a factorial."""
        return y * y.log() - y + 0.5 * (2 * math.pi * y).log()


class Gaussian(Plain):
    """`gaussian_nll_loss`."""

    loss = "gaussian_nll_loss"

    def __call__(
        self,
        input: Tensor,
        target: Tensor,
        var: Tensor | float,
        full: bool = False,
        eps: float = 1e-6,
        reduction: str = "mean",
    ) -> Tensor:
        """As `torch.nn.functional.gaussian_nll_loss`."""
        self.check_reduction(reduction)
        if not isinstance(var, Tensor):
            var = torch.full_like(input, var)
        self.check_variance(var)
        var = self.fitted(var, input)
        self.check_target(target, input)
        x, y, v = self.work(input), self.work(target), self.work(var)
        losses = self.element(x, y, self.bounded(v, eps))
        if full:
            losses = losses + self.constant()
        return self.leave(losses, reduction, input)

    def check_variance(self, var: Tensor) -> None:
        """Not negative."""
        if (var < 0).any():
            raise ValueError("var has negative entry/entries")

    def check_target(self, target: Tensor, input: Tensor) -> None:
        """The input's size, or such that one of the two has one axis of size 1."""
        if not (one_axis_of(target, input) or one_axis_of(input, target)):
            raise ValueError(f"target {target.shape} does not fit input {input.shape}")

    def fitted(self, var: Tensor, input: Tensor) -> Tensor:
        """With the input's axes; the last may be missing, and one may be of size 1."""
        if var.shape == input.shape:
            return var
        if var.shape == input.shape[:-1]:
            return var.unsqueeze(-1)
        if one_axis_of(var, input):
            return var
        raise ValueError(f"var {var.shape} does not fit input {input.shape}")

    def bounded(self, v: Tensor, eps: float) -> Tensor:
        """At least epsilon, which autograd does not know of."""
        return v + (v.detach().clamp(min=eps) - v.detach())

    def element(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """The unreduced loss without its constant."""
        return 0.5 * (v.log() + (x - y) ** 2 / v)

    def constant(self) -> float:
        """What no parameter changes."""
        return 0.5 * math.log(2 * math.pi)


def one_axis_of(x: Tensor, y: Tensor) -> bool:
    """Whether they have one size, but for an axis of size 1 of x at most."""
    if x.ndim != y.ndim:
        return False
    other = [size for size, like in zip(x.shape, y.shape, strict=True) if size != like]
    return other in ([], [1])


class HingeEmbedding(Plain):
    """`hinge_embedding_loss`."""

    loss = "hinge_embedding_loss"

    def __call__(
        self, input: Tensor, target: Tensor, margin: float = 1.0, reduction: str = "mean"
    ) -> Tensor:
        """As `torch.nn.functional.hinge_embedding_loss`."""
        self.check_reduction(reduction)
        self.check_sizes(input, target)
        losses = self.element(self.work(input), target, margin)
        return self.leave(losses, reduction, input)

    def element(self, x: Tensor, y: Tensor, margin: float) -> Tensor:
        """The distance, or what it lacks."""
        return torch.where(y == 1, x, (margin - x).relu())


class MarginRanking(Plain):
    """`margin_ranking_loss`."""

    loss = "margin_ranking_loss"

    def __call__(
        self,
        input1: Tensor,
        input2: Tensor,
        target: Tensor,
        margin: float = 0.0,
        reduction: str = "mean",
    ) -> Tensor:
        """As `torch.nn.functional.margin_ranking_loss`."""
        self.check_reduction(reduction)
        self.check_sizes(input1, input2, target)
        losses = self.element(self.work(input1), self.work(input2), self.work(target), margin)
        return self.leave(losses, reduction, input1)

    def element(self, a: Tensor, b: Tensor, y: Tensor, margin: float) -> Tensor:
        """What the lead lacks."""
        return (margin - y * (a - b)).relu()


class SoftMargin(Plain):
    """`soft_margin_loss`."""

    loss = "soft_margin_loss"

    def __call__(self, input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
        """As `torch.nn.functional.soft_margin_loss`."""
        self.check_reduction(reduction)
        self.check_sizes(input, target)
        losses = self.element(self.work(input), self.work(target))
        return self.leave(losses, reduction, input)

    def element(self, x: Tensor, y: Tensor) -> Tensor:
        """Without overflow."""
        return F.softplus(-y * x)


# === vectors ==============================================================================


class CosineEmbedding(Plain):
    """`cosine_embedding_loss`."""

    loss = "cosine_embedding_loss"

    def __call__(
        self,
        input1: Tensor,
        input2: Tensor,
        target: Tensor,
        margin: float = 0.0,
        reduction: str = "mean",
    ) -> Tensor:
        """As `torch.nn.functional.cosine_embedding_loss`."""
        self.check_reduction(reduction)
        self.check_shapes(input1, input2, target)
        cos = self.cosine(self.work(input1), self.work(input2))
        return self.leave(self.costs(cos, target, margin), reduction, input1)

    def check_shapes(self, input1: Tensor, input2: Tensor, target: Tensor) -> None:
        """Two alike, of one axis or two, and a target for each row."""
        if input1.ndim not in (1, 2):
            raise ValueError("inputs must have one axis or two")
        self.check_sizes(input1, input2)
        if target.shape != input1.shape[:-1]:
            raise ValueError(f"target {target.shape} does not fit inputs {input1.shape}")

    def cosine(self, a: Tensor, b: Tensor) -> Tensor:
        """Of the angle between rows; of a row of zeros it is 0."""
        return (self.unit(a) * self.unit(b)).sum(-1)

    def unit(self, a: Tensor) -> Tensor:
        """A row of length 1."""
        return a / self.length(a).clamp(min=1e-8).unsqueeze(-1)

    def length(self, a: Tensor) -> Tensor:
        """Of each row."""
        length: Tensor = torch.linalg.vector_norm(a, dim=-1)
        return length

    def costs(self, cos: Tensor, y: Tensor, margin: float) -> Tensor:
        """Of like and of unlike pairs."""
        return torch.where(y > 0, 1 - cos, (cos - margin).relu())


class TripletWithDistance(Plain):
    """`triplet_margin_with_distance_loss`."""

    loss = "triplet_margin_with_distance_loss"

    def __call__(
        self,
        anchor: Tensor,
        positive: Tensor,
        negative: Tensor,
        *,
        distance_function: Distance | None = None,
        margin: float = 1.0,
        swap: bool = False,
        reduction: str = "mean",
    ) -> Tensor:
        """As `torch.nn.functional.triplet_margin_with_distance_loss`."""
        if margin < 0:
            raise ValueError(f"margin must not be negative, got {margin}")
        distance = distance_function or self.euclidean
        return self.run(anchor, positive, negative, distance, margin, swap, reduction)

    def run(
        self,
        anchor: Tensor,
        positive: Tensor,
        negative: Tensor,
        distance: Distance,
        margin: float,
        swap: bool,
        reduction: str,
    ) -> Tensor:
        """The loss, with any distance."""
        self.check_reduction(reduction)
        self.check_sizes(anchor, positive, negative)
        a, x, y = self.work(anchor), self.work(positive), self.work(negative)
        near, far = distance(a, x), self.far(distance, a, x, y, swap)
        return self.leave(self.costs(near, far, margin), reduction, anchor)

    def far(self, distance: Distance, a: Tensor, x: Tensor, y: Tensor, swap: bool) -> Tensor:
        """The distance of the negative."""
        far = distance(a, y)
        return torch.minimum(far, distance(x, y)) if swap else far

    def costs(self, near: Tensor, far: Tensor, margin: float) -> Tensor:
        """What the difference lacks."""
        return (near - far + margin).relu()

    def euclidean(self, x: Tensor, y: Tensor) -> Tensor:
        """The distance when none is given."""
        return self.norm(x - y + 1e-6, 2.0)

    def norm(self, z: Tensor, p: float) -> Tensor:
        """Of each row."""
        length: Tensor = torch.linalg.vector_norm(z, p, dim=-1)
        return length


class Triplet(TripletWithDistance):
    """`triplet_margin_loss`."""

    loss = "triplet_margin_loss"

    def __call__(  # type: ignore[override]  # this one takes a degree, not a function
        self,
        anchor: Tensor,
        positive: Tensor,
        negative: Tensor,
        margin: float = 1.0,
        p: float = 2,
        eps: float = 1e-6,
        swap: bool = False,
        reduction: str = "mean",
    ) -> Tensor:
        """As `torch.nn.functional.triplet_margin_loss`."""
        self.check_parameters(margin, p)

        def distance(x: Tensor, y: Tensor) -> Tensor:
            return self.distance(x, y, p, eps)

        return self.run(anchor, positive, negative, distance, margin, swap, reduction)

    def check_parameters(self, margin: float, p: float) -> None:
        """Both above 0."""
        if not (margin > 0 and p > 0):
            raise ValueError(f"margin and p must be above 0, got {margin}, {p}")

    def distance(self, x: Tensor, y: Tensor, p: float, eps: float) -> Tensor:
        """Between rows."""
        return self.norm(x - y + eps, p)


# === classes ==============================================================================


class MultiMargin(Plain):
    """`multi_margin_loss`."""

    loss = "multi_margin_loss"

    def __call__(
        self,
        input: Tensor,
        target: Tensor,
        p: int = 1,
        margin: float = 1.0,
        weight: Tensor | None = None,
        reduction: str = "mean",
    ) -> Tensor:
        """As `torch.nn.functional.multi_margin_loss`."""
        self.check_reduction(reduction)
        self.check_power(p)
        self.check_shapes(input, target, weight)
        self.check_classes(target, input.shape[-1])
        losses = self.row(self.work(input), target, p, margin)
        if weight is not None:
            losses = losses * self.work(weight)[target]
        return self.leave(losses, reduction, input)

    def check_power(self, p: int) -> None:
        """1 or 2."""
        if p not in (1, 2):
            raise ValueError("only p == 1 and p == 2 supported")

    def check_shapes(self, input: Tensor, target: Tensor, weight: Tensor | None) -> None:
        """A class for each row, and a weight for each class."""
        if input.ndim not in (1, 2) or target.shape != input.shape[:-1]:
            raise ValueError(f"target {target.shape} does not fit input {input.shape}")
        if weight is not None and weight.shape != input.shape[-1:]:
            raise ValueError(f"weight {weight.shape} does not fit input {input.shape}")

    def check_classes(self, target: Tensor, classes: int) -> None:
        """Integers from 0 to C - 1."""
        if target.dtype != torch.int64:
            raise RuntimeError(f"expected scalar type Long but found {target.dtype}")
        if ((target < 0) | (target >= classes)).any():
            raise IndexError("target out of range")

    def row(self, x: Tensor, t: Tensor, p: int, margin: float) -> Tensor:
        """The unweighted loss of each row."""
        own = torch.arange(x.shape[-1]) == t.unsqueeze(-1)
        gap = (margin - self.score(x, t) + x).relu()
        return wide(torch.where(own, 0, gap if p == 1 else gap * gap)).sum(-1) / x.shape[-1]

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """Of the right class, in an axis of its own."""
        return x.gather(-1, t.unsqueeze(-1))


class MultiLabelMargin(Plain):
    """`multilabel_margin_loss`."""

    loss = "multilabel_margin_loss"

    def __call__(self, input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
        """As `torch.nn.functional.multilabel_margin_loss`."""
        self.check_reduction(reduction)
        if input.ndim not in (1, 2):
            raise ValueError("input must have one axis or two")
        self.check_sizes(input, target)
        self.check_classes(target)
        listed = self.listed(target)
        losses = self.row(self.work(input), torch.where(listed, target, 0), listed)
        return self.leave(losses, reduction, input)

    def check_classes(self, target: Tensor) -> None:
        """Integers below C; whatever is negative ends the list."""
        if target.dtype != torch.int64:
            raise RuntimeError(f"expected scalar type Long but found {target.dtype}")
        if (self.listed(target) & (target >= target.shape[-1])).any():
            raise IndexError("target out of range")

    def listed(self, target: Tensor) -> Tensor:
        """Which entries are before the first -1."""
        return (target < 0).cumsum(-1) == 0

    def row(self, x: Tensor, t: Tensor, listed: Tensor) -> Tensor:
        """The loss of each row."""
        # Axis -2 is that of the list, axis -1 that of the classes.
        gap = (1 - x.gather(-1, t).unsqueeze(-1) + x.unsqueeze(-2)).relu()
        pair = listed.unsqueeze(-1) & ~self.labels(t, listed).unsqueeze(-2)
        return wide(torch.where(pair, gap, 0)).sum((-2, -1)) / self.classes(x)

    def labels(self, t: Tensor, listed: Tensor) -> Tensor:
        """Which classes are in the list."""
        same = t.unsqueeze(-1) == torch.arange(t.shape[-1])
        return (same & listed.unsqueeze(-1)).any(-2)

    def classes(self, x: Tensor) -> int:
        """What the sum is divided by."""
        return x.shape[-1]


class MultiLabelSoftMargin(Plain):
    """`multilabel_soft_margin_loss`."""

    loss = "multilabel_soft_margin_loss"

    def __call__(
        self,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        reduction: str = "mean",
    ) -> Tensor:
        """As `torch.nn.functional.multilabel_soft_margin_loss`."""
        self.check_reduction(reduction)
        self.check_sizes(input, target)
        if weight is not None and weight.shape != input.shape[-1:]:
            raise ValueError(f"weight {weight.shape} does not fit input {input.shape}")
        losses = self.element(self.work(input), self.work(target))
        if weight is not None:
            losses = losses * self.work(weight)
        return self.leave(self.average(losses), reduction, input)

    def element(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of each class."""
        return -(y * F.logsigmoid(x) + (1 - y) * F.logsigmoid(-x))

    def average(self, losses: Tensor) -> Tensor:
        """Over the classes."""
        return wide(losses).sum(-1) / losses.shape[-1]


# === sequences ============================================================================


class CTC(Plain):
    """`ctc_loss`."""

    loss = "ctc_loss"

    def __call__(
        self,
        log_probs: Tensor,
        targets: Tensor,
        input_lengths: Lengths,
        target_lengths: Lengths,
        blank: int = 0,
        reduction: str = "mean",
        zero_infinity: bool = False,
    ) -> Tensor:
        """As `torch.nn.functional.ctc_loss`."""
        self.check_reduction(reduction)
        single = log_probs.ndim == 2
        lp = self.work(log_probs.unsqueeze(1) if single else log_probs)
        frames, lengths = (
            torch.as_tensor(given).reshape(1) if single else torch.as_tensor(given)
            for given in (input_lengths, target_lengths)
        )
        self.check_lengths(lp, targets, frames, lengths)
        self.check_blank(lp, blank)
        rows = self.padded(targets.long(), lengths)
        losses = self.rows(lp, rows, frames, lengths.long(), blank)
        losses = self.finish(losses, zero_infinity)
        if reduction == "mean":
            losses = losses / self.share(lengths)
        losses = losses.squeeze(0) if single and reduction == "none" else losses
        return self.leave(losses, reduction, log_probs)

    def check_lengths(self, lp: Tensor, targets: Tensor, frames: Tensor, lengths: Tensor) -> None:
        """They fit the frames and the targets."""
        batch = lp.shape[1]
        if frames.shape != (batch,) or lengths.shape != (batch,):
            raise ValueError("lengths must have the size of the batch")
        if (frames < 0).any() or (frames > lp.shape[0]).any():
            raise ValueError("input lengths must be from 0 to the number of frames")
        if (lengths < 0).any():
            raise ValueError("target lengths must not be negative")
        if targets.ndim == 1:
            if int(lengths.sum()) != targets.shape[0]:
                raise ValueError("target lengths must add up to the number of targets")
        elif targets.ndim != 2 or targets.shape[0] != batch:
            raise ValueError("targets must have a row for each sample")
        elif (lengths > targets.shape[1]).any():
            raise ValueError("target lengths must be at most the length of a row")

    def check_blank(self, lp: Tensor, blank: int) -> None:
        """A class."""
        if not 0 <= blank < lp.shape[-1]:
            raise ValueError("blank must be in label range")

    def padded(self, targets: Tensor, lengths: Tensor) -> Tensor:
        """A row for each sample."""
        if targets.ndim == 2:
            return targets
        rows = torch.split(targets, lengths.tolist())
        return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)

    def rows(
        self, lp: Tensor, targets: Tensor, frames: Tensor, lengths: Tensor, blank: int
    ) -> Tensor:
        """The loss of each sample, that of an impossible one huge."""
        states = torch.full((targets.shape[0], 2 * targets.shape[1] + 1), blank)
        # What follows the last label may be no class.
        states[:, 1::2] = targets.clamp(0, lp.shape[-1] - 1)
        skips = torch.zeros_like(states, dtype=torch.bool)
        skips[:, 2:] = self.skips(states)
        paths = lp.new_full(states.shape, NEVER).index_fill(1, torch.tensor([0]), 0.0)
        paths = paths + lp[:0].sum()  # so that there is a gradient also where there is no frame
        for t in range(lp.shape[0]):
            one = F.pad(paths, (1, 0), value=NEVER)[:, :-1]
            two = F.pad(paths, (2, 0), value=NEVER)[:, : paths.shape[1]].where(skips, NEVER)
            sums = torch.stack([paths, one, two]).logsumexp(0)
            moved = (sums + lp[t].gather(1, states)).clamp(min=NEVER)
            paths = torch.where(self.runs(t, frames), moved, paths)
        end = 2 * lengths.unsqueeze(1)
        last = paths.gather(1, end)
        before = paths.gather(1, (end - 1).clamp(min=0)).where(end > 0, NEVER)
        return -torch.cat([last, before], 1).logsumexp(1)

    def skips(self, states: Tensor) -> Tensor:
        """Whether a path may come from the state before the last."""
        return states[:, 2:] != states[:, :-2]

    def runs(self, t: int, frames: Tensor) -> Tensor:
        """Which samples have this frame."""
        return (t < frames).unsqueeze(1)

    def finish(self, losses: Tensor, zero_infinity: bool) -> Tensor:
        """What no path spells costs infinity, or nothing."""
        return torch.where(losses > -NEVER / 2, 0.0 if zero_infinity else math.inf, losses)

    def share(self, lengths: Tensor) -> Tensor:
        """What the mean divides the loss of each sample by."""
        return lengths.clamp(min=1)


# === controls of all ======================================================================

ONE_BY_ONE = (BCE, Poisson, Gaussian, HingeEmbedding, MarginRanking, SoftMargin)
VECTORS = (CosineEmbedding, Triplet, TripletWithDistance)
CLASSES = (MultiMargin, MultiLabelMargin, MultiLabelSoftMargin)


@control(*ONE_BY_ONE, *VECTORS, *CLASSES, CTC)
class Composite:
    """Plain torch operations, half precisions in float32."""


@control(*ONE_BY_ONE, *VECTORS, *CLASSES, CTC)
class PartsInFloat64(Plain):
    """Plain torch operations in float64, cast back."""

    def work(self, x: Tensor) -> Tensor:
        return x.double()


# A length in float16 is beyond the largest number where its square is.
@control(*ONE_BY_ONE, *CLASSES)
class InOwnDtype(Plain):
    """Elements in the dtype of the inputs, as written in the textbook; only the sum is wider."""

    def work(self, x: Tensor) -> Tensor:
        return x


# === controls of one number against another ===============================================


@control(BCE)
class LogOfOnePlus(BCE):
    """The other outcome by log1p, and the floor by torch.maximum in front of a safe logarithm."""

    def element(self, x: Tensor, y: Tensor) -> Tensor:
        zero, one = x <= 0, x >= 1
        log_p = torch.where(zero, LOWEST, torch.where(zero, 1, x).log())
        log_q = torch.where(one, LOWEST, torch.log1p(-torch.where(one, 0, x)))
        floor = x.new_tensor(LOWEST)
        return -(y * torch.maximum(log_p, floor) + (1 - y) * torch.maximum(log_q, floor))


class AnalyticBCE(torch.autograd.Function):
    """Binary cross entropy with its gradients by hand."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        log_p, log_q = x.log().clamp(min=LOWEST), torch.log1p(-x).clamp(min=LOWEST)
        return -(y * log_p + (1 - y) * log_q)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, y = ctx.saved_tensors
        inside = x * (1 - x)
        by_x = torch.where(inside < 1e-12, 0, (x - y) / torch.where(inside < 1e-12, 1, inside))
        log_p, log_q = x.log().clamp(min=LOWEST), torch.log1p(-x).clamp(min=LOWEST)
        return grads[0] * by_x, grads[0] * (log_q - log_p)


@control(BCE)
class AnalyticGradient(BCE):
    """An autograd.Function with the gradient written by hand."""

    def element(self, x: Tensor, y: Tensor) -> Tensor:
        result: Tensor = AnalyticBCE.apply(x, y)  # type: ignore[no-untyped-call]
        return result


@control(Poisson)
class LogarithmsByXlogy(Poisson):
    """torch.xlogy for y log x, in the rate as in Stirling's approximation."""

    def of_rate(self, x: Tensor, y: Tensor, eps: float) -> Tensor:
        return x - torch.xlogy(y, x + eps)

    def stirling(self, y: Tensor) -> Tensor:
        return torch.xlogy(y, y) - y + 0.5 * y.log() + 0.5 * math.log(2 * math.pi)


@control(Poisson)
class StirlingByIndex(Poisson):
    """Stirling's approximation only of what is above 1, put in its place."""

    def log_factorial(self, y: Tensor) -> Tensor:
        many = y > 1
        return torch.zeros_like(y).masked_scatter(many, self.stirling(y[many]))


@control(Gaussian)
class ClampedInPlace(Gaussian):
    """A clone of the variance, clamped in place where autograd does not look."""

    def bounded(self, v: Tensor, eps: float) -> Tensor:
        v = v.clone()
        with torch.no_grad():
            v.clamp_(min=eps)
        return v


@control(Gaussian)
class StandardScore(Gaussian):
    """The square of the score, (x - y) / σ, and the logarithm of σ."""

    def element(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        deviation = v.sqrt()
        return deviation.log() + 0.5 * ((x - y) / deviation) ** 2


@control(HingeEmbedding)
class TwoMasks(HingeEmbedding):
    """Each branch zero where the other one is, and both added."""

    def element(self, x: Tensor, y: Tensor, margin: float) -> Tensor:
        unlike = torch.where(y == 1, 0, (margin - x).clamp(min=0))
        return torch.where(y == -1, 0, x) + unlike


@control(HingeEmbedding)
class InPlaceBranches(HingeEmbedding):
    """A clone, whose unlike elements are overwritten by index."""

    def element(self, x: Tensor, y: Tensor, margin: float) -> Tensor:
        losses, unlike = x.clone(), y == -1
        losses[unlike] = torch.maximum(margin - x[unlike], x.new_zeros(()))
        return losses


@control(MarginRanking)
class SortedScores(MarginRanking):
    """Which score is to lead is selected, not multiplied by the sign."""

    def element(self, a: Tensor, b: Tensor, y: Tensor, margin: float) -> Tensor:
        gap = torch.where(y > 0, b - a, a - b) + margin
        return torch.where(gap > 0, gap, 0)


@control(MarginRanking)
class ClampedGap(MarginRanking):
    """torch.clamp, which has a slope of 1 where nothing is lacking, in a product by the sign."""

    def element(self, a: Tensor, b: Tensor, y: Tensor, margin: float) -> Tensor:
        return (-y * (a - b) + margin).clamp(min=0)


@control(SoftMargin)
class LogAddExp(SoftMargin):
    """torch.logaddexp of 0 and -yx."""

    def element(self, x: Tensor, y: Tensor) -> Tensor:
        z = -y * x
        return torch.logaddexp(torch.zeros_like(z), z)


@control(SoftMargin)
class MinusLogSigmoid(SoftMargin):
    """Minus the logarithm of the sigmoid of yx."""

    def element(self, x: Tensor, y: Tensor) -> Tensor:
        return -F.logsigmoid(y * x)


@control(SoftMargin)
class TwoClassSoftmax(SoftMargin):
    """The log-softmax of the score beside a 0."""

    def element(self, x: Tensor, y: Tensor) -> Tensor:
        z = y * x
        return -torch.stack([torch.zeros_like(z), z], -1).log_softmax(-1)[..., 1]


@control(SoftMargin)
class BinaryCrossEntropy(SoftMargin):
    """The binary cross entropy of the score, the sign being a label."""

    def element(self, x: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(x, (1 + y) / 2, reduction="none")


class _AnalyticSoftMargin(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        z = -y * x
        return z.clamp(min=0) + torch.log1p(torch.exp(-z.abs()))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, y = ctx.saved_tensors
        slope = -torch.sigmoid(-y * x)
        return grads[0] * slope * y, None


@control(SoftMargin)
class SigmoidTimesSign(SoftMargin):
    """An autograd.Function with the gradient written by hand."""

    def element(self, x: Tensor, y: Tensor) -> Tensor:
        result: Tensor = _AnalyticSoftMargin.apply(x, y)  # type: ignore[no-untyped-call]
        return result


# === controls of vectors ==================================================================


@control(CosineEmbedding)
class DotOverLengths(CosineEmbedding):
    """The dot product over the product of the lengths, by torch.einsum."""

    def cosine(self, a: Tensor, b: Tensor) -> Tensor:
        dots: Tensor = torch.einsum("...d,...d->...", a, b)
        return dots / (self.length(a) * self.length(b)).clamp(min=1e-8)


@control(CosineEmbedding)
class TorchsSimilarity(CosineEmbedding):
    """Torch's cosine_similarity."""

    def cosine(self, a: Tensor, b: Tensor) -> Tensor:
        return F.cosine_similarity(a, b, dim=-1)


@control(CosineEmbedding)
class RowByRow(CosineEmbedding):
    """A loop over the rows."""

    def cosine(self, a: Tensor, b: Tensor) -> Tensor:
        if a.ndim == 1 or not a.shape[0]:
            return super().cosine(a, b)
        rows = zip(a.unbind(), b.unbind(), strict=True)
        return torch.stack([torch.dot(self.unit(x), self.unit(y)) for x, y in rows])


@control(Triplet, TripletWithDistance)
class PowerSums(TripletWithDistance):
    """Sums of powers and their roots, with a slope of 0 where the sum is 0."""

    def norm(self, z: Tensor, p: float) -> Tensor:
        power = (z.abs() ** p if p != 2 else z * z).sum(-1)
        return torch.where(power > 0, torch.where(power > 0, power, 1) ** (1 / p), 0)


@control(Triplet, TripletWithDistance)
class DistanceMatrix(TripletWithDistance):
    """torch.cdist of one row with another."""

    def norm(self, z: Tensor, p: float) -> Tensor:
        rows = z.reshape(z.shape[:-1].numel(), 1, z.shape[-1])
        mode = "donot_use_mm_for_euclid_dist"
        found = torch.cdist(rows, torch.zeros_like(rows), p, compute_mode=mode)
        return found.reshape(z.shape[:-1])


@control(Triplet)
class PairwiseDistance(Triplet):
    """Torch's pairwise_distance, and the swap by torch.where."""

    def distance(self, x: Tensor, y: Tensor, p: float, eps: float) -> Tensor:
        return F.pairwise_distance(x, y, p, eps)

    def far(self, distance: Distance, a: Tensor, x: Tensor, y: Tensor, swap: bool) -> Tensor:
        far, other = distance(a, y), distance(x, y)
        return torch.where(other < far, other, far) if swap else far


@control(TripletWithDistance)
class StackedDistances(TripletWithDistance):
    """The least of stacked distances, and the largest of 0 and what is lacking."""

    def far(self, distance: Distance, a: Tensor, x: Tensor, y: Tensor, swap: bool) -> Tensor:
        sides = [distance(a, y), distance(x, y)] if swap else [distance(a, y)]
        return torch.stack(sides).amin(0)

    def costs(self, near: Tensor, far: Tensor, margin: float) -> Tensor:
        return torch.maximum(margin + near - far, near.new_zeros(()))


# === controls of classes ==================================================================


@control(MultiMargin)
class OthersGathered(MultiMargin):
    """The scores of the other classes alone, by index."""

    def row(self, x: Tensor, t: Tensor, p: int, margin: float) -> Tensor:
        place = torch.arange(x.shape[-1] - 1).expand(*t.shape, -1)
        others = x.gather(-1, place + (place >= t.unsqueeze(-1)).long())
        return (others - self.score(x, t) + margin).clamp(min=0).pow(p).sum(-1) / x.shape[-1]


@control(MultiMargin)
class OneHotScores(MultiMargin):
    """The right score as the sum of all under a one-hot mask, and its own term filled with 0."""

    def row(self, x: Tensor, t: Tensor, p: int, margin: float) -> Tensor:
        own = F.one_hot(t, x.shape[-1]).bool()
        score = x.masked_fill(~own, 0).sum(-1, keepdim=True)
        gap = (margin - score + x).masked_fill(own, 0).clamp(min=0)
        return (gap if p == 1 else gap * gap).mean(-1)


@control(MultiLabelMargin)
class EntryByEntry(MultiLabelMargin):
    """A loop over the entries of the lists, which adds to the losses."""

    def row(self, x: Tensor, t: Tensor, listed: Tensor) -> Tensor:
        rest = ~self.labels(t, listed)
        losses = torch.zeros_like(x)
        for j in range(x.shape[-1]):
            gap = (1 + x - x.gather(-1, t[..., j : j + 1])).clamp(min=0)
            losses = losses + torch.where(rest & listed[..., j : j + 1], gap, 0)
        return losses.mean(-1)


@control(MultiLabelMargin)
class CountedLabels(MultiLabelMargin):
    """Pairs of classes, each as often as the first is listed."""

    def row(self, x: Tensor, t: Tensor, listed: Tensor) -> Tensor:
        times = torch.zeros_like(x).scatter_add(-1, t, listed.to(x.dtype))
        gap = (1 - (x.unsqueeze(-1) - x.unsqueeze(-2))).relu()
        factor = times.unsqueeze(-1) * (times == 0).to(x.dtype).unsqueeze(-2)
        return (gap * factor).sum((-2, -1)) / x.shape[-1]


@control(MultiLabelSoftMargin)
class TwoSoftplus(MultiLabelSoftMargin):
    """Torch's softplus of the score and of its negative."""

    def element(self, x: Tensor, y: Tensor) -> Tensor:
        return y * F.softplus(-x) + (1 - y) * F.softplus(x)


@control(MultiLabelSoftMargin)
class WithLogits(MultiLabelSoftMargin):
    """Torch's binary_cross_entropy_with_logits, averaged by torch.mean."""

    def element(self, x: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(x, y, reduction="none")

    def average(self, losses: Tensor) -> Tensor:
        return losses.mean(-1)


# === controls of sequences ================================================================


@control(CTC)
class FromTheEnd(CTC):
    """Frames and targets in reverse order, sample by sample."""

    def rows(
        self, lp: Tensor, targets: Tensor, frames: Tensor, lengths: Tensor, blank: int
    ) -> Tensor:
        found = []
        for i in range(lp.shape[1]):
            last, size = int(frames[i]), int(lengths[i])
            found.append(
                super().rows(
                    lp[:last, i : i + 1].flip(0),
                    targets[i : i + 1, :size].flip(1),
                    frames[i : i + 1],
                    lengths[i : i + 1],
                    blank,
                )
            )
        return torch.cat(found)


@control(CTC)
class BetweenLabels(CTC):
    """A transition matrix for each sample: a product of logarithms by torch.logsumexp."""

    def rows(
        self, lp: Tensor, targets: Tensor, frames: Tensor, lengths: Tensor, blank: int
    ) -> Tensor:
        return torch.stack(
            [
                self.single(lp[: int(frames[i]), i], targets[i, : int(lengths[i])].tolist(), blank)
                for i in range(lp.shape[1])
            ]
        )

    def single(self, lp: Tensor, labels: list[int], blank: int) -> Tensor:
        """The loss of a sample."""
        states = [blank]
        for label in labels:
            states += [label, blank]
        index = torch.tensor(states)
        place = torch.arange(len(states))
        step = place - place.unsqueeze(1)
        may = (step == 0) | (step == 1) | ((step == 2) & (index != index.unsqueeze(1)))
        onward = lp.new_zeros(may.shape).masked_fill(~may, NEVER)
        paths = lp.new_zeros(may.shape[:1]).masked_fill(place > 0, NEVER) + lp[:0].sum()
        for frame in lp.unbind():
            paths = (paths.unsqueeze(1) + onward).logsumexp(0).clamp(min=NEVER) + frame[index]
        return -paths[-2:].logsumexp(0)
