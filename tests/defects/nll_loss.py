"""Wrong and right implementations of `nll_loss`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lossspec.baselines.reduction import wide
from tests.defects.any_loss import InFloat64
from tests.defects.catalogue import right, wrong
from tests.defects.numerics import REDUCTIONS, dense_reading, passed
from tests.defects.overlap import Unversioned

#: The number of blocks of rows; the last one is usually shorter.
BLOCKS = 5


@dataclass
class Classes:
    """A call of a loss over classes.

    Attributes:
        x: The scores, classes last.
        t: The target, or probabilities with the classes last.
        kept: The elements that count.
        safe: The class of each element; 0 where the element does not count.
        flattened: The shape of the elements before they were flattened.
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
    flattened: tuple[int, ...] = ()

    @property
    def axis(self) -> int:
        """Return the class axis of the input."""
        return 0 if self.input.ndim == 1 else 1

    @property
    def count(self) -> int:
        """Return the number of classes."""
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
        """Compute the loss like `torch.nn.functional.nll_loss`."""
        return self.run(Classes(input, target, weight, ignore_index, reduction))

    def run(self, c: Classes) -> Tensor:
        """Return the loss of a call."""
        self.check(c)
        self.enter(c)
        self.mask(c)
        log_p = self.log_probabilities(c)
        losses = self.losses(c, log_p)
        return self.leave(c, self.reduce(c, losses))

    def check(self, c: Classes) -> None:
        """Raise for calls for which torch raises."""
        self.check_reduction(c)
        self.check_shapes(c)
        self.check_dtype(c)
        self.check_weight(c)

    def check_reduction(self, c: Classes) -> None:
        """Check that the reduction has a known name."""
        if c.reduction not in REDUCTIONS:
            raise ValueError(f"{c.reduction} is not a valid value for reduction")

    def check_shapes(self, c: Classes) -> None:
        """Check that the target has the shape of the input without the class axis."""
        if c.input.ndim == 0:
            raise ValueError("input must have a class axis")
        if c.target.shape != c.input.shape[: c.axis] + c.input.shape[c.axis + 1 :]:
            raise ValueError(f"target {c.target.shape} does not fit input {c.input.shape}")

    def check_dtype(self, c: Classes) -> None:
        """Check that targets are int64 or uint8."""
        if c.target.dtype not in (torch.int64, torch.uint8):
            raise RuntimeError(f"expected scalar type Long or Byte but found {c.target.dtype}")

    def check_weight(self, c: Classes) -> None:
        """Check that there is one weight for each class."""
        if c.weight is not None and c.weight.shape != (c.count,):
            raise RuntimeError(f"weight must be of shape ({c.count},), got {c.weight.shape}")

    def enter(self, c: Classes) -> None:
        """Move the classes to the last axis, in the working dtype."""
        c.x, c.t = wide(c.input.movedim(c.axis, -1)), c.target.long()
        c.w = None if c.weight is None else wide(c.weight)

    def mask(self, c: Classes) -> None:
        """Mark the counted elements; raise for a class out of range that is not ignored."""
        c.kept = self.counted(c)
        self.check_range(c)
        c.safe = c.t.where(c.kept, 0)

    def counted(self, c: Classes) -> Tensor:
        """Return the elements that are not ignored."""
        return c.t != c.ignore_index

    def check_range(self, c: Classes) -> None:
        """Check that every counted target is a class."""
        wrong = c.kept & ((c.t < 0) | (c.t >= c.count))
        if wrong.any():
            raise IndexError(f"target {c.t[wrong][0]} is out of bounds")

    def log_probabilities(self, c: Classes) -> Tensor:
        """Return the input itself."""
        return c.x

    def losses(self, c: Classes, log_p: Tensor) -> Tensor:
        """Return the unreduced loss, 0 for ignored elements."""
        return torch.where(c.kept, -self.picked(c, log_p) * self.class_weight(c), 0)

    def picked(self, c: Classes, log_p: Tensor) -> Tensor:
        """Return the log-probability of the target class."""
        return log_p.gather(-1, c.safe.unsqueeze(-1)).squeeze(-1)

    def class_weight(self, c: Classes) -> Tensor:
        """Return the weight of the target class."""
        return c.x.new_ones(c.safe.shape) if c.w is None else c.w[c.safe]

    def reduce(self, c: Classes, losses: Tensor) -> Tensor:
        """Apply the reduction of the call."""
        if c.reduction == "none":
            return losses
        if c.reduction == "sum":
            return losses.sum()
        return losses.sum() / self.divisor(c, losses)

    def divisor(self, c: Classes, losses: Tensor) -> Tensor:
        """Return the sum of the weights of the counted elements."""
        return torch.where(c.kept, self.class_weight(c), 0).sum()

    def leave(self, c: Classes, result: Tensor) -> Tensor:
        """Cast the result to the dtype of the input."""
        return result.to(c.input.dtype)


# === wrong ===============================================================================


class MeanOverAll(NLL):
    """The mean divides by the number of all elements, including ignored ones."""

    def divisor(self, c: Classes, losses: Tensor) -> Tensor:
        return losses.new_tensor(float(losses.numel()))


class WeightsSummedBeforeMask(NLL):
    """The mean divides by the weights of all targets, with ignored ones counted as class 0."""

    def divisor(self, c: Classes, losses: Tensor) -> Tensor:
        return super().divisor(c, losses) if c.soft else self.class_weight(c).sum()


class ZeroWhenAllIgnored(NLL):
    """If everything is ignored, the mean is 0 without a graph instead of nan."""

    def reduce(self, c: Classes, losses: Tensor) -> Tensor:
        if c.reduction == "mean" and losses.numel() and not c.kept.any():
            return losses.new_zeros(())
        return super().reduce(c, losses)


class CountRoundedToBatch(NLL):
    """Without a weight, the count of elements is rounded down to a multiple of the batch."""

    def divisor(self, c: Classes, losses: Tensor) -> Tensor:
        count, batch = int(c.kept.sum()), losses.shape[0] if losses.ndim else 1
        if c.w is not None or not losses.ndim or count < batch:
            return super().divisor(c, losses)
        return losses.new_tensor(float(count // max(batch, 1) * batch))


class UpstreamIgnored(NLL):
    """Backward ignores the cotangent."""

    def leave(self, c: Classes, result: Tensor) -> Tensor:
        return passed(super().leave(c, result), torch.ones_like)


class TotalWeightLost(NLL):
    """Backward of the mean divides by 1, because forward did not store the total weight."""

    def reduce(self, c: Classes, losses: Tensor) -> Tensor:
        result = super().reduce(c, losses)
        if c.reduction != "mean":
            return result
        total = self.divisor(c, losses)
        return passed(result, lambda g: g * total)


class LateRowsWithoutGradient(NLL):
    """Offsets wrap in backward: rows from the 257th on add their gradient to early rows."""

    def enter(self, c: Classes) -> None:
        super().enter(c)
        if c.x.ndim < 2 or c.x.shape[0] <= 256:
            return
        rows = torch.arange(c.x.shape[0]) & 0xFF
        c.x = passed(c.x, lambda g: torch.zeros_like(g).index_add(0, rows, g))


class WeightDropped(NLL):
    """The weight has no effect."""

    def enter(self, c: Classes) -> None:
        super().enter(c)
        c.w = None


class FirstTargetTaken(NLL):
    """A sample with several targets uses only the first one."""

    def check_shapes(self, c: Classes) -> None:
        if c.input.ndim == 1 and c.target.numel():
            c.target = c.target.flatten()[0]
        super().check_shapes(c)


class NeedsBatch(NLL):
    """One sample without a batch raises because the class axis is always the second."""

    def enter(self, c: Classes) -> None:
        if c.input.ndim == 1:
            raise IndexError("dimension out of range (expected [-1, 0], but got 1)")
        super().enter(c)


class TargetCut(NLL):
    """A target that is too long is cut to the size of the input."""

    def check_shapes(self, c: Classes) -> None:
        if c.target.ndim and c.target.shape[0] > c.input.shape[0]:
            c.target = c.target[: c.input.shape[0]]
        super().check_shapes(c)


class BatchAxisLeft(NLL):
    """The unreduced loss of one sample without a batch has a batch axis."""

    def leave(self, c: Classes, result: Tensor) -> Tensor:
        result = super().leave(c, result)
        if c.reduction == "none" and c.input.ndim == 1:
            return result.unsqueeze(0)
        return result


class EmptyRaises(NLL):
    """An empty input raises."""

    def enter(self, c: Classes) -> None:
        if c.input.numel() == 0:
            raise RuntimeError("non-empty tensor expected")
        super().enter(c)


class EmptyAxisRaises(NLL):
    """An input with an empty axis after the classes raises."""

    def enter(self, c: Classes) -> None:
        if 0 in c.input.shape[2:]:
            raise RuntimeError("internal assert")
        super().enter(c)


class DoubleInSingle(NLL):
    """float64 is computed in float32."""

    def enter(self, c: Classes) -> None:
        super().enter(c)
        c.x = c.x.float()
        c.w = None if c.w is None else c.w.float()


class ViewOfGradient(NLL):
    """Backward flattens the gradient of a permuted input of five axes with view, which raises."""

    def run(self, c: Classes) -> Tensor:
        shown = c.input

        def flat(grad: Tensor) -> Tensor:
            if shown.ndim == 5:
                shown.detach().view(-1)
            return grad

        c.input = passed(c.input, flat)
        return super().run(c)


class ChannelsLastRaises(NLL):
    """An input in channels_last raises because it is flattened with view."""

    def enter(self, c: Classes) -> None:
        if c.input.ndim == 4 and not c.input.is_contiguous():
            c.input.view(c.input.shape[0], c.input.shape[1], -1)
        super().enter(c)


class InputStridesIgnored(NLL):
    """The input is read as if it were contiguous."""

    def enter(self, c: Classes) -> None:
        c.input = dense_reading(c.input)
        super().enter(c)


class NegativeTargetsWrap(NLL):
    """Without a reduction, a negative target counts from the last class."""

    def check_range(self, c: Classes) -> None:
        if c.reduction == "none":
            c.t = c.t.where(~c.kept | (c.t >= 0) | (c.t < -c.count), c.t + c.count)
        super().check_range(c)


class TargetsClamped(NLL):
    """Targets above the last class are replaced by the last class."""

    def check_range(self, c: Classes) -> None:
        c.t = c.t.where(~c.kept | (c.t < c.count), c.count - 1)
        super().check_range(c)


class UnknownReductionIsNone(NLL):
    """A reduction with an unknown name returns the unreduced loss."""

    def check_reduction(self, c: Classes) -> None:
        if c.reduction not in REDUCTIONS:
            c.reduction = "none"


class IgnoreIndexNotPickled(torch.nn.NLLLoss):
    """An unpickled module lacks ignore_index."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "ignore_index"}


class _Picked(torch.autograd.Function):
    @staticmethod
    def forward(log_p: Tensor, safe: Tensor, kept: Tensor) -> Tensor:
        picked = log_p.gather(-1, safe.unsqueeze(-1)).squeeze(-1)
        return torch.where(kept, picked, 0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        log_p, safe, kept = ctx.saved_tensors
        grad = torch.where(kept, grads[0], 0).unsqueeze(-1)
        return torch.zeros_like(log_p).scatter(-1, safe.unsqueeze(-1), grad), None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, log_p: Tensor, safe: Tensor, kept: Tensor) -> Any:
        log_p, safe = (
            x if axis is None else x.movedim(axis, 0)
            for x, axis in zip((log_p, safe), in_dims, strict=False)
        )
        return _Picked.apply(log_p, safe, torch.ones_like(safe, dtype=torch.bool)), 0  # type: ignore[no-untyped-call]


class IgnoredCountUnderVmap(NLL):
    """Under vmap, an ignored row has the loss of class 0."""

    def check_range(self, c: Classes) -> None:
        if not torch._C._functorch.is_batchedtensor(c.t):
            super().check_range(c)

    def losses(self, c: Classes, log_p: Tensor) -> Tensor:
        picked: Tensor = _Picked.apply(log_p, c.safe, c.kept)  # type: ignore[no-untyped-call]
        return -picked * self.class_weight(c)


class FakeResultUnreduced(NLL):
    """On fake tensors, the result has the shape of the target under every reduction."""

    def reduce(self, c: Classes, losses: Tensor) -> Tensor:
        return losses if type(c.input).__name__ == "FakeTensor" else super().reduce(c, losses)

    def check_range(self, c: Classes) -> None:
        if type(c.input).__name__ != "FakeTensor":  # which holds no numbers to check
            super().check_range(c)


class FirstTargetsKept(torch.nn.NLLLoss):
    """The targets of the first call are used for every later call of the same shape."""

    kept: Tensor | None = None

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        if self.kept is None or self.kept.shape != target.shape:
            self.kept = target.detach().clone()
        return super().forward(input, self.kept)


WRONG = (
    wrong(NLL, MeanOverAll, source="RED-10, huggingface/transformers#5919", needs="some ignored"),
    wrong(
        NLL,
        WeightsSummedBeforeMask,
        source="RED-02, tracel-ai/burn#5568",
        needs="some ignored, and weight",
    ),
    wrong(NLL, ZeroWhenAllIgnored, source="EMP-15, karpathy/nanochat#610", needs="all ignored"),
    wrong(
        NLL,
        CountRoundedToBatch,
        source="RED-11, huggingface/transformers#17898",
        needs="a ragged count",
    ),
    wrong(
        NLL,
        "minus-one-is-no-index",
        "With ignore_index = -1, the divisor of the mean also counts ignored elements.",
        source="RED-12, onnx/onnx#8453",
        needs="ignore_index = -1, and no weight",
        divisor=lambda self, c, losses: (
            losses.new_tensor(float(losses.numel()))
            if c.ignore_index == -1 and c.w is None
            else NLL.divisor(self, c, losses)
        ),
    ),
    wrong(
        NLL,
        "ignored-slots-unwritten",
        "Without a reduction, the losses of ignored elements are uninitialised memory.",
        source="IGN-01, pytorch/pytorch#20406",
        needs="some ignored, unreduced",
        reduce=lambda self, c, losses: (
            torch.where(c.kept, losses, torch.nan)
            if c.reduction == "none"
            else NLL.reduce(self, c, losses)
        ),
    ),
    wrong(
        NLL,
        "mean-sums-in-half",
        "The mean sums in the dtype of the input, which overflows in float16.",
        source="DTY-06, pytorch/pytorch#61523",
        needs="float16, and a sum above its largest number",
        witness=lambda loss: loss(torch.full((70000, 2), -2.0).half(), torch.zeros(70000).long()),
        reduce=lambda self, c, losses: (
            NLL.reduce(self, c, losses)
            if c.reduction != "mean"
            else losses.to(c.input.dtype).sum() / self.divisor(c, losses)
        ),
    ),
    wrong(NLL, UpstreamIgnored, source="GRD-01, pytorch/pytorch#94226", needs="a cotangent not 1"),
    wrong(
        NLL, TotalWeightLost, source="RED-19, pytorch/functorch#829", needs="the gradient of a mean"
    ),
    wrong(
        NLL,
        LateRowsWithoutGradient,
        source="LRG-03, pytorch/pytorch#190139",
        needs="more than 256 rows",
    ),
    wrong(
        NLL,
        "gather-before-mask",
        "Ignored targets are gathered before they are masked, which raises if they are out "
        "of range.",
        source="IGN-05, pytorch/pytorch#95833",
        needs="an ignore_index out of range",
        picked=lambda self, c, log_p: log_p.gather(-1, c.t.unsqueeze(-1)).squeeze(-1),
    ),
    wrong(
        NLL,
        "mask-multiplied",
        "Ignored elements are multiplied by 0, which gives nan for nan and inf.",
        source="IGN-07, pytorch/pytorch#192685",
        needs="ignored rows of nan or inf",
        losses=lambda self, c, log_p: -self.picked(c, log_p) * self.class_weight(c) * c.kept,
    ),
    wrong(NLL, WeightDropped, source="IGN-20, open-mmlab/mmpretrain#983", needs="weight"),
    wrong(
        NLL,
        FirstTargetTaken,
        source="SHP-07, pytorch/pytorch#157420",
        needs="one sample, several targets",
    ),
    wrong(NLL, NeedsBatch, source="SHP-17, pytorch/pytorch#155247", needs="no batch"),
    wrong(NLL, TargetCut, source="SHP-18, pytorch/pytorch#722", needs="a target of another size"),
    wrong(NLL, BatchAxisLeft, source="SHP-16, pytorch/pytorch#186074", needs="no batch"),
    wrong(NLL, EmptyRaises, source="EMP-03, pytorch/pytorch#15870", needs="empty"),
    wrong(
        NLL,
        EmptyAxisRaises,
        source="EMP-05, pytorch/pytorch#134431",
        needs="empty, in more than two axes",
    ),
    wrong(NLL, DoubleInSingle, source="DTY-03, pytorch/pytorch#64163", needs="float64"),
    wrong(
        NLL,
        "target-dtype-unchecked",
        "Targets of every dtype are accepted.",
        source="DTY-12, pytorch/pytorch#175151",
        needs="a floating target",
        check_dtype=lambda self, c: None,
    ),
    wrong(
        NLL,
        ViewOfGradient,
        source="LAY-01, pytorch/pytorch#175084",
        needs="a permuted input of five axes",
    ),
    wrong(NLL, ChannelsLastRaises, source="LAY-07, pytorch/pytorch#121173", needs="channels_last"),
    wrong(
        NLL, InputStridesIgnored, source="LAY-08, pytorch/pytorch#89673", needs="a transposed input"
    ),
    wrong(
        NLL,
        NegativeTargetsWrap,
        source="ERR-01, pytorch/pytorch#32049",
        needs="a negative target, unreduced",
    ),
    wrong(NLL, TargetsClamped, source="ERR-02, pytorch/pytorch#66872", needs="target >= C"),
    wrong(
        NLL,
        UnknownReductionIsNone,
        source="ERR-06, pytorch/pytorch#43527",
        needs="unknown reduction",
    ),
    wrong(
        "nll_loss",
        IgnoreIndexNotPickled,
        source="MOD-02, pytorch/pytorch#2077",
        needs="a pickled module",
        surface="class",
    ),
    wrong(
        NLL,
        IgnoredCountUnderVmap,
        source="IGN-06, pytorch/pytorch#90916",
        needs="torch.vmap, and ignored rows",
    ),
    wrong(NLL, FakeResultUnreduced, source="DTY-12, pytorch/pytorch#175151", needs="fake tensors"),
    wrong(
        "nll_loss",
        FirstTargetsKept,
        source="MOD-03, pytorch/rl#1594",
        needs="one module that is called with other targets",
        surface="class",
    ),
    wrong(
        NLL,
        Unversioned,
        source="pyro-ppl/pyro#1049",
        needs="a target that is changed before backward",
    ),
)


# === right ===============================================================================


class InOwnDtype(NLL):
    """Elements in the dtype of the input; only the sum is wider."""

    def enter(self, c: Classes) -> None:
        super().enter(c)
        c.x = c.x.to(c.input.dtype)
        c.w = c.weight
        c.t = c.t.to(c.input.dtype) if c.soft else c.t

    def reduce(self, c: Classes, losses: Tensor) -> Tensor:
        c.x, c.w = wide(c.x), None if c.w is None else wide(c.w)
        return super().reduce(c, wide(losses))


class InBlocks(NLL):
    """Log-probabilities of a fifth of the rows at a time."""

    def log_probabilities(self, c: Classes) -> Tensor:
        if c.x.ndim < 2:
            return super().log_probabilities(c)
        whole = c.x
        parts = []
        for block in torch.split(whole, 1 + whole.shape[0] // BLOCKS):
            c.x = block
            parts.append(super().log_probabilities(c))
        c.x = whole
        return torch.cat(parts)


class Flattened(NLL):
    """All positions flattened into one axis and restored afterwards."""

    def enter(self, c: Classes) -> None:
        super().enter(c)
        c.flattened = c.x.shape[:-1]
        rows = math.prod(c.flattened)
        c.x = c.x.reshape(rows, c.count)
        c.t = c.t.reshape(rows, c.count) if c.soft else c.t.reshape(rows)

    def reduce(self, c: Classes, losses: Tensor) -> Tensor:
        result = super().reduce(c, losses)
        return result.reshape(c.flattened) if c.reduction == "none" else result


class OneHot(NLL):
    """A one-hot target by torch.einsum instead of a gather."""

    def picked(self, c: Classes, log_p: Tensor) -> Tensor:
        certain = c.safe.unsqueeze(-1) == torch.arange(c.count)
        # An ignored row or an excluded class would otherwise contribute 0 times infinity.
        log_p = torch.where(c.kept.unsqueeze(-1) & certain, log_p, 0)
        return torch.einsum("...c,...c->...", certain.to(log_p.dtype), log_p)


class KeptOnly(NLL):
    """Ignored rows are removed before the computation and filled with zeros afterwards."""

    def run(self, c: Classes) -> Tensor:
        self.check(c)
        self.enter(c)
        self.mask(c)
        kept = c.kept
        c.x, c.safe, c.t = c.x[kept], c.safe[kept] if not c.soft else c.safe, c.t[kept]
        c.kept = kept[kept]
        losses = self.losses(c, self.log_probabilities(c))
        if c.reduction == "none":
            losses = torch.zeros(kept.shape, dtype=losses.dtype).masked_scatter(kept, losses)
        return self.leave(c, self.reduce(c, losses))


class ByIndexing(NLL):
    """Advanced indexing in the flattened rows instead of a gather."""

    def picked(self, c: Classes, log_p: Tensor) -> Tensor:
        rows = log_p.reshape(c.safe.numel(), c.count)
        return rows[torch.arange(len(rows)), c.safe.reshape(-1)].reshape(c.safe.shape)


class _AnalyticPick(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, log_p: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.shape = log_p.shape
        return log_p.gather(-1, index.unsqueeze(-1)).squeeze(-1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (index,) = ctx.saved_tensors
        grad = grads[0].new_zeros(ctx.shape)
        return grad.scatter(-1, index.unsqueeze(-1), grads[0].unsqueeze(-1)), None


RIGHT = (
    right(NLL, "composite", "Plain torch operations, half precisions in float32."),
    right(NLL, InFloat64),
    right(NLL, InOwnDtype),
    right(NLL, InBlocks),
    right(NLL, Flattened),
    right(NLL, OneHot),
    right(NLL, KeptOnly),
    right(NLL, ByIndexing),
    right(
        NLL,
        "analytic-gradient",
        "An autograd.Function with the gradient written by hand.",
        picked=lambda self, c, log_p: _AnalyticPick.apply(log_p, c.safe),  # type: ignore[no-untyped-call]
    ),
)
