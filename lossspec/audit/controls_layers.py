"""Right losses with a linear layer of their own: adaptive softmax and linear cross entropy."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lossspec.audit import control
from lossspec.audit.right import Classes, CrossEntropy, wide

#: Rows or classes in a chunk.
CHUNK = 4

# === adaptive softmax =====================================================================

#: Judged as a class, since torch has no function of it.
ADAPTIVE = "adaptive_log_softmax_with_loss"


class Result(NamedTuple):
    """What a call returns, as torch's does."""

    output: Tensor
    loss: Tensor


@control(ADAPTIVE, surface="class")
class EveryClass(nn.Module):
    """The log-probabilities of all classes, and then the target's."""

    def __init__(
        self,
        in_features: int,
        n_classes: int,
        cutoffs: Sequence[int],
        div_value: float = 4.0,
        head_bias: bool = False,
    ) -> None:
        super().__init__()
        self.check_cutoffs(list(cutoffs), n_classes)
        self.in_features, self.ends = in_features, [*cutoffs, n_classes]
        self.frequent = self.ends[0]
        self.head = nn.Linear(in_features, self.frequent + len(cutoffs), bias=head_bias)
        self.tail = nn.ModuleList(
            nn.Sequential(
                nn.Linear(in_features, int(in_features // div_value**i), bias=False),
                nn.Linear(int(in_features // div_value**i), end - start, bias=False),
            )
            for i, (start, end) in enumerate(pairwise(self.ends), 1)
        )

    def check_cutoffs(self, cutoffs: list[int], classes: int) -> None:
        """They rise from above 0 to below the number of classes."""
        ends = [0, *cutoffs, classes]
        if not cutoffs or any(a >= b for a, b in pairwise(ends)):
            raise ValueError(f"cutoffs rise between 0 and {classes}, got {cutoffs}")

    def check(self, input: Tensor, target: Tensor) -> None:
        """A row for each target, and only classes that there are."""
        if input.shape[:-1] != target.shape or target.ndim > 1:
            raise RuntimeError(f"sizes {list(input.shape)} and {list(target.shape)} do not fit")
        if input.shape[-1] != self.in_features:
            raise RuntimeError(f"want {self.in_features} features, got {input.shape[-1]}")
        if target.is_floating_point():
            raise RuntimeError(f"classes are numbered by integers, got {target.dtype}")
        if target.numel() and not 0 <= target.min() <= target.max() < self.ends[-1]:
            raise RuntimeError(f"targets are classes below {self.ends[-1]}")

    def forward(self, input: Tensor, target: Tensor) -> Result:
        """As torch's."""
        self.check(input, target)
        x = wide(input).reshape(-1, self.in_features)
        rows = self.chosen(x, target.reshape(-1).long()).to(input.dtype)
        return Result(rows.reshape(target.shape), -rows.mean())

    def layer(self, layer: nn.Module, x: Tensor) -> Tensor:
        """What a linear layer gives, in the precision of its input."""
        weight, bias = self.parts(layer)
        return F.linear(x, weight.to(x.dtype), bias if bias is None else bias.to(x.dtype))

    def parts(self, layer: nn.Module) -> tuple[Tensor, Tensor | None]:
        """The weight and, where it has one, the bias of a layer."""
        return layer.get_parameter("weight"), dict(layer.named_parameters()).get("bias")

    def head_log_p(self, x: Tensor) -> Tensor:
        """The log-probabilities of the frequent classes and, behind them, of the clusters."""
        return self.layer(self.head, x).log_softmax(-1)

    def tail_log_p(self, i: int, x: Tensor) -> Tensor:
        """The log-probabilities of a cluster's classes, given the cluster."""
        down, out = self.tail[i].children()
        return self.layer(out, self.layer(down, x)).log_softmax(-1)

    def column(self, i: int) -> int:
        """Where in the head a cluster is."""
        return self.frequent + i

    def all_log_p(self, x: Tensor) -> Tensor:
        """Of every class."""
        head = self.head_log_p(x)
        tails = [
            head[:, self.column(i), None] + self.tail_log_p(i, x) for i in range(len(self.tail))
        ]
        return torch.cat([head[:, : self.frequent], *tails], 1)

    def chosen(self, x: Tensor, target: Tensor) -> Tensor:
        """The targets' log-probabilities."""
        return self.all_log_p(x).gather(1, target[:, None])[:, 0]

    def log_prob(self, input: Tensor) -> Tensor:
        """As torch's."""
        return self.all_log_p(wide(input)).to(input.dtype)

    def predict(self, input: Tensor) -> Tensor:
        """As torch's."""
        return self.log_prob(input).argmax(1)


@control(ADAPTIVE, surface="class")
class ClusterByCluster(EveryClass):
    """Only the rows of a cluster go through its layers; their results are put in their places."""

    def chosen(self, x: Tensor, target: Tensor) -> Tensor:
        head = self.head_log_p(x)
        rows = head.gather(1, target.clamp(max=self.frequent - 1)[:, None])[:, 0]
        for i, (start, end) in enumerate(pairwise(self.ends)):
            (of,) = ((target >= start) & (target < end)).nonzero(as_tuple=True)
            inside = self.tail_log_p(i, x[of]).gather(1, target[of, None] - start)[:, 0]
            rows = rows.index_copy(0, of, (head[of, self.column(i)] + inside).to(rows.dtype))
        return rows


@control(ADAPTIVE, surface="class")
class MaskedClusters(EveryClass):
    """Every row goes through every cluster; a mask takes what counts."""

    def chosen(self, x: Tensor, target: Tensor) -> Tensor:
        head = self.head_log_p(x)
        rows = head.gather(1, target.clamp(max=self.frequent - 1)[:, None])[:, 0]
        for i, (start, end) in enumerate(pairwise(self.ends)):
            at = (target - start).clamp(0, end - start - 1)
            inside = head[:, self.column(i)] + self.tail_log_p(i, x).gather(1, at[:, None])[:, 0]
            rows = torch.where((target >= start) & (target < end), inside, rows)
        return rows


@control(ADAPTIVE, surface="class")
class TwoCrossEntropies(EveryClass):
    """A cross entropy in the head, plus one in the cluster."""

    def chosen(self, x: Tensor, target: Tensor) -> Tensor:
        at = target.clone()
        inside = x.new_zeros(len(x))
        for i, (start, end) in enumerate(pairwise(self.ends)):
            of = (target >= start) & (target < end)
            at[of] = self.column(i)
            down, out = self.tail[i].children()
            scores = self.layer(out, self.layer(down, x[of]))
            costs = F.cross_entropy(scores, target[of] - start, reduction="none")
            inside = inside.masked_scatter(of, costs)
        return -(F.cross_entropy(self.layer(self.head, x), at, reduction="none") + inside)


@control(ADAPTIVE, surface="class")
class LogOfSumOfExponentials(EveryClass):
    """Scores less the largest, less the logarithm of the sum of exponentials; layers by einsum."""

    def layer(self, layer: nn.Module, x: Tensor) -> Tensor:
        weight, bias = self.parts(layer)
        scores = torch.einsum("nh,ch->nc", x, weight.to(x.dtype))
        return scores if bias is None else scores + bias.to(x.dtype)

    def head_log_p(self, x: Tensor) -> Tensor:
        scores = self.layer(self.head, x)
        scores = scores - scores.detach().amax(-1, keepdim=True)
        return scores - scores.exp().sum(-1, keepdim=True).log()


@control(ADAPTIVE, surface="class")
class PartsInFloat64(EveryClass):
    """All in float64, cast back."""

    def forward(self, input: Tensor, target: Tensor) -> Result:
        self.check(input, target)
        x = input.double().reshape(-1, self.in_features)
        rows = self.chosen(x, target.reshape(-1).long())
        return Result(rows.reshape(target.shape).to(input.dtype), -rows.mean().to(input.dtype))


# === linear cross entropy =================================================================


@control("linear_cross_entropy")
class LinearCrossEntropy(CrossEntropy):
    """A product of matrices, then a cross entropy made of plain torch operations."""

    loss = "linear_cross_entropy"

    def __call__(  # type: ignore[override]  # a loss of its own, with other tensors
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
        """As `torch.nn.functional.linear_cross_entropy`."""
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
        """The same numbers in the dtype to compute in."""
        return wide(x)

    def scores(self, x: Tensor, linear_weight: Tensor) -> Tensor:
        """The classes behind the batch, further axes last."""
        scores: Tensor = torch.tensordot(x, linear_weight, ([-1], [-1]))
        return scores


@control("linear_cross_entropy")
class LayerInFloat64(LinearCrossEntropy):
    """All in float64, cast back."""

    def work(self, x: Tensor) -> Tensor:
        return x.double()


@control("linear_cross_entropy")
class RowsInChunks(LinearCrossEntropy):
    """A few rows of the batch at a time."""

    def scores(self, x: Tensor, linear_weight: Tensor) -> Tensor:
        if x.ndim == 1 or not len(x):
            return super().scores(x, linear_weight)
        return torch.cat(
            [super(RowsInChunks, self).scores(c, linear_weight) for c in torch.split(x, CHUNK)]
        )


@control("linear_cross_entropy")
class ChunksOfTheOptions(LinearCrossEntropy):
    """The chunks that the options ask for, whose sums are added up one after the other."""

    def __call__(  # type: ignore[override]  # as the loss that it is made of
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
        """As `torch.nn.functional.linear_cross_entropy`."""

        def of(x: Tensor, y: Tensor, reduction: str) -> Tensor:
            more = linear_bias, weight, reduction, ignore_index, label_smoothing
            return super(ChunksOfTheOptions, self).__call__(x, linear_weight, y, *more)

        rows = getattr(options, "batch_chunk_size", None)
        if rows is None or input.ndim == 1 or reduction not in ("sum", "mean"):
            return of(input, target, reduction)
        with torch.no_grad():
            of(input, target, "none")  # what is refused is refused as a whole
        count = self.count(target, weight, ignore_index) if reduction == "mean" else 1
        total = input.new_zeros(())
        for x, y in zip(torch.split(input, rows), torch.split(target, rows), strict=True):
            share = of(x, y, "sum").double() / count  # lest the sum be too large for the dtype
            total = total + share.to(input.dtype)
        return total

    def count(self, target: Tensor, weight: Tensor | None, ignore_index: int | None) -> Tensor:
        """What the mean divides by."""
        if target.is_floating_point():
            return torch.tensor(float(target.numel() // target.shape[1]))
        kept = target != (-100 if ignore_index is None else ignore_index)
        if weight is None:
            return kept.sum()
        return torch.where(kept, weight[torch.where(kept, target, 0).long()].double(), 0).sum()


@control("linear_cross_entropy")
class ClassesInChunks(LinearCrossEntropy):
    """A few classes at a time: their largest score and their sum of exponentials go on."""

    def log_probabilities(self, c: Classes) -> Tensor:
        largest = torch.full_like(c.x[..., :1], -torch.inf)
        total = torch.zeros_like(largest)
        for scores in torch.split(c.x, CHUNK, -1):
            new = torch.maximum(largest, scores.detach().amax(-1, keepdim=True))
            total = total * (largest - new).exp() + (scores - new).exp().sum(-1, keepdim=True)
            largest = new
        return (c.x - largest) - total.log()


@control("linear_cross_entropy")
class OneProductForAllAxes(LinearCrossEntropy):
    """The layer's further axes in one with its classes, taken apart behind the product."""

    def scores(self, x: Tensor, linear_weight: Tensor) -> Tensor:
        flat = torch.nn.functional.linear(x, linear_weight.reshape(-1, linear_weight.shape[-1]))
        return flat.reshape(*x.shape[:-1], *linear_weight.shape[:-1])


class _Product(torch.autograd.Function):
    """A matrix times a transposed one, with its gradients by hand."""

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


@control("linear_cross_entropy")
class AnalyticLayer(OneProductForAllAxes):
    """The product's gradients are written by hand."""

    def scores(self, x: Tensor, linear_weight: Tensor) -> Tensor:
        rows = torch.atleast_2d(x)  # type: ignore[no-untyped-call]
        flat: Tensor = _Product.apply(  # type: ignore[no-untyped-call]
            rows, linear_weight.reshape(-1, linear_weight.shape[-1])
        )
        return flat.reshape(*x.shape[:-1], *linear_weight.shape[:-1])
