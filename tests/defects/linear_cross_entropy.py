"""Wrong and right implementations of `linear_cross_entropy`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lossspec.baselines.reduction import wide
from tests.defects.catalogue import right, wrong
from tests.defects.cross_entropy import CrossEntropy
from tests.defects.nll_loss import Classes
from tests.defects.numerics import passed

#: Rows or classes in a chunk.
CHUNK = 4


class LinearCrossEntropy(CrossEntropy):
    """A matrix product, then a cross entropy of plain torch operations."""

    loss = "linear_cross_entropy"

    def __call__(  # type: ignore[override]  # a separate loss, with other tensors
        self,
        input: Tensor,
        linear_weight: Tensor,
        target: Tensor,
        linear_bias: Tensor | None = None,
        weight: Tensor | None = None,
        reduction: str = "mean",
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        options: Any = None,
    ) -> Tensor:
        """Compute the loss like `torch.nn.functional.linear_cross_entropy`."""
        if input.shape[-1] != linear_weight.shape[-1]:
            raise ValueError(f"{list(input.shape)} and {list(linear_weight.shape)} do not fit")
        if input.ndim == 1 < linear_weight.ndim - 1:
            raise ValueError("a layer with further axes takes a batch")
        scores = self.scores(self.work(input), self.work(linear_weight))
        if linear_bias is not None:
            scores = scores + self.work(linear_bias)
        soft = scores.shape == target.shape and target.is_floating_point()
        ignored = -100 if ignore_index is None else ignore_index
        call = Classes(scores, target, weight, ignored, reduction, label_smoothing, soft)
        return self.run(call).to(input.dtype)

    def work(self, x: Tensor) -> Tensor:
        """Return the tensor in the dtype of the computation."""
        return wide(x)

    def scores(self, x: Tensor, linear_weight: Tensor) -> Tensor:
        """Return the scores with the classes after the batch axis and further axes last."""
        scores: Tensor = torch.tensordot(x, linear_weight, ([-1], [-1]))
        return scores


# === wrong ===============================================================================


class RowsScaledByTheFirst(LinearCrossEntropy):
    """Without a reduction, backward multiplies each row by the first element of the cotangent."""

    def run(self, c: Classes) -> Tensor:
        losses = super().run(c)
        if c.reduction != "none" or losses.ndim != 1:
            return losses
        return passed(losses, lambda upstream: upstream[:1].expand_as(upstream))


class SmoothingForgotten(LinearCrossEntropy):
    """label_smoothing has no effect."""

    def run(self, c: Classes) -> Tensor:
        self.check_smoothing(c)
        c.smoothing = 0.0
        return super().run(c)


class ClassesTakenForAnAxis(LinearCrossEntropy):
    """For a layer with further axes, the last axis is used as the class axis."""

    def scores(self, x: Tensor, linear_weight: Tensor) -> Tensor:
        scores = super().scores(x, linear_weight)
        if scores.ndim > 2 and scores.shape[1] == scores.shape[-1]:
            return scores.transpose(1, -1)
        return scores


WRONG = (
    wrong(
        LinearCrossEntropy,
        RowsScaledByTheFirst,
        source="GRD-03, linkedin/Liger-Kernel#1298",
        needs="no reduction, and a cotangent that differs between rows",
    ),
    wrong(
        LinearCrossEntropy,
        SmoothingForgotten,
        source="LSM-02, linkedin/Liger-Kernel#243",
        needs="smoothing",
    ),
    wrong(
        LinearCrossEntropy,
        ClassesTakenForAnAxis,
        source="SHP-20, pytorch/pytorch#196749",
        needs="a layer with further axes",
    ),
    wrong(
        LinearCrossEntropy,
        "loss-from-log-sum-exp",
        "The loss is the log-sum-exp minus the score, both without subtracting the maximum.",
        source="STB-20, pytorch/pytorch#195829",
        needs="a common offset of the scores",
        log_probabilities=lambda self, c: c.x - c.x.logsumexp(-1, keepdim=True),
    ),
)


# === right ===============================================================================


class LayerInFloat64(LinearCrossEntropy):
    """Everything computed in float64 and cast back."""

    def work(self, x: Tensor) -> Tensor:
        return x.double()


class RowsInChunks(LinearCrossEntropy):
    """A few rows of the batch at a time."""

    def scores(self, x: Tensor, linear_weight: Tensor) -> Tensor:
        if x.ndim == 1 or not len(x):
            return super().scores(x, linear_weight)
        return torch.cat(
            [super(RowsInChunks, self).scores(c, linear_weight) for c in torch.split(x, CHUNK)]
        )


class ChunksOfTheOptions(LinearCrossEntropy):
    """The chunks given by the options, whose sums are added serially."""

    def __call__(  # type: ignore[override]  # as for the base class
        self,
        input: Tensor,
        linear_weight: Tensor,
        target: Tensor,
        linear_bias: Tensor | None = None,
        weight: Tensor | None = None,
        reduction: str = "mean",
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        options: Any = None,
    ) -> Tensor:
        """Compute the loss like `torch.nn.functional.linear_cross_entropy`."""

        def of(x: Tensor, y: Tensor, reduction: str) -> Tensor:
            more = linear_bias, weight, reduction, ignore_index, label_smoothing
            return super(ChunksOfTheOptions, self).__call__(x, linear_weight, y, *more)

        rows = getattr(options, "batch_chunk_size", None)
        if rows is None or input.ndim == 1 or reduction not in ("sum", "mean"):
            return of(input, target, reduction)
        with torch.no_grad():
            of(input, target, "none")  # refuses invalid input as a whole
        count = self.count(target, weight, ignore_index) if reduction == "mean" else 1
        total = input.new_zeros(())
        for x, y in zip(torch.split(input, rows), torch.split(target, rows), strict=True):
            share = of(x, y, "sum").double() / count  # keeps the sum within the range of the dtype
            total = total + share.to(input.dtype)
        return total

    def count(self, target: Tensor, weight: Tensor | None, ignore_index: int | None) -> Tensor:
        """Return the divisor of the mean."""
        if target.is_floating_point():
            return torch.tensor(float(target.numel() // target.shape[1]))
        kept = target != (-100 if ignore_index is None else ignore_index)
        if weight is None:
            return kept.sum()
        return torch.where(kept, weight[torch.where(kept, target, 0).long()].double(), 0).sum()


class ClassesInChunks(LinearCrossEntropy):
    """A few classes at a time, with a running maximum and sum of exponentials."""

    def log_probabilities(self, c: Classes) -> Tensor:
        largest = torch.full_like(c.x[..., :1], -torch.inf)
        total = torch.zeros_like(largest)
        for scores in torch.split(c.x, CHUNK, -1):
            new = torch.maximum(largest, scores.detach().amax(-1, keepdim=True))
            total = total * (largest - new).exp() + (scores - new).exp().sum(-1, keepdim=True)
            largest = new
        return (c.x - largest) - total.log()


class OneProductForAllAxes(LinearCrossEntropy):
    """The further axes of the layer merged with its classes, and separated after the product."""

    def scores(self, x: Tensor, linear_weight: Tensor) -> Tensor:
        flat = torch.nn.functional.linear(x, linear_weight.reshape(-1, linear_weight.shape[-1]))
        return flat.reshape(*x.shape[:-1], *linear_weight.shape[:-1])


class _Product(torch.autograd.Function):
    """A matrix product with gradients written by hand."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        return x @ weight.mT

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        return grads[0] @ weight, grads[0].mT @ x

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        x, weight = ctx.saved_tensors
        slope: Tensor = tangents[0] @ weight.mT + x @ tangents[1].mT
        return slope


class AnalyticLayer(OneProductForAllAxes):
    """The gradients of the product, written by hand."""

    def scores(self, x: Tensor, linear_weight: Tensor) -> Tensor:
        rows = torch.atleast_2d(x)  # type: ignore[no-untyped-call]
        flat: Tensor = _Product.apply(  # type: ignore[no-untyped-call]
            rows, linear_weight.reshape(-1, linear_weight.shape[-1])
        )
        return flat.reshape(*x.shape[:-1], *linear_weight.shape[:-1])


RIGHT = (
    right("linear_cross_entropy", LinearCrossEntropy),
    right("linear_cross_entropy", LayerInFloat64),
    right("linear_cross_entropy", RowsInChunks),
    right("linear_cross_entropy", ChunksOfTheOptions),
    right("linear_cross_entropy", ClassesInChunks),
    right("linear_cross_entropy", OneProductForAllAxes),
    right("linear_cross_entropy", AnalyticLayer),
)
