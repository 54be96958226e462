"""Wrong and right implementations of `cross_entropy`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lossspec.baselines.reduction import wide
from tests.defects.any_loss import Compiled
from tests.defects.catalogue import right, wrong
from tests.defects.nll_loss import (
    NLL,
    BatchAxisLeft,
    Classes,
    Flattened,
    InBlocks,
    InOwnDtype,
    KeptOnly,
    MeanOverAll,
    OneHot,
    TargetsClamped,
    UnknownReductionIsNone,
    UpstreamIgnored,
    WeightDropped,
    WeightsSummedBeforeMask,
    ZeroWhenAllIgnored,
)
from tests.defects.numerics import dense_reading, first_gradient, passed, serial_sum

#: Rows in a block: few enough for some cases to have more, more than a default call has.
BLOCK = 64


#: Rows in a micro-batch.
MICRO = 4


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
        """Compute the loss like `torch.nn.functional.cross_entropy`."""
        soft = input.shape == target.shape
        call = Classes(input, target, weight, ignore_index, reduction, label_smoothing, soft)
        return self.run(call)

    def check(self, c: Classes) -> None:
        """Check the call, including the smoothing."""
        super().check(c)
        self.check_smoothing(c)

    def check_smoothing(self, c: Classes) -> None:
        """Check that the smoothing is from 0 to 1."""
        if not 0 <= c.smoothing <= 1:
            raise RuntimeError(f"label_smoothing must be between 0 and 1, got {c.smoothing}")

    def check_shapes(self, c: Classes) -> None:
        """Check that probabilities have the shape of the input."""
        if not c.soft:
            super().check_shapes(c)

    def check_dtype(self, c: Classes) -> None:
        """Check that probabilities have a floating dtype."""
        if not c.soft:
            super().check_dtype(c)
        elif not c.target.is_floating_point():
            raise RuntimeError(f"expected floating class probabilities, got {c.target.dtype}")

    def enter(self, c: Classes) -> None:
        """Move the classes of probabilities to the last axis as well."""
        super().enter(c)
        if c.soft:
            c.t = wide(c.target.movedim(c.axis, -1))

    def mask(self, c: Classes) -> None:
        """Count every element of probabilities."""
        if c.soft:
            c.kept = c.t.new_ones(c.t.shape[:-1], dtype=torch.bool)
        else:
            super().mask(c)
            self.clean(c)

    def clean(self, c: Classes) -> None:
        """Clear ignored rows, so that their numbers affect neither the loss nor the gradient."""
        c.x = torch.where(c.kept.unsqueeze(-1), c.x, 0)

    def log_probabilities(self, c: Classes) -> Tensor:
        """Return the logarithm of the softmax."""
        return c.x.log_softmax(-1)

    def losses(self, c: Classes, log_p: Tensor) -> Tensor:
        """Return the loss against the target's distribution mixed with the uniform one."""
        if c.soft:
            return self.soft_losses(c, log_p)
        certain = super().losses(c, log_p)
        if c.smoothing == 0:
            return certain
        return (1 - c.smoothing) * certain + self.uniform(c, log_p)

    def soft_losses(self, c: Classes, log_p: Tensor) -> Tensor:
        """Return the loss against probabilities."""
        p = self.smoothed(c)
        return -(p * self.weighted(c, log_p)).sum(-1)

    def smoothed(self, c: Classes) -> Tensor:
        """Mix probabilities with the uniform distribution."""
        return c.t if c.smoothing == 0 else c.t * (1 - c.smoothing) + c.smoothing / c.count

    def uniform(self, c: Classes, log_p: Tensor) -> Tensor:
        """Return the uniform part of the loss, 0 for ignored elements."""
        whole = -self.weighted(c, log_p).sum(-1) * c.smoothing / c.count
        return torch.where(c.kept, whole, 0)

    def weighted(self, c: Classes, log_p: Tensor) -> Tensor:
        """Multiply log-probabilities by the weights of their classes."""
        return log_p if c.w is None else log_p * c.w

    def divisor(self, c: Classes, losses: Tensor) -> Tensor:
        """Return the number of elements as the divisor for probabilities."""
        if c.soft:
            return losses.new_tensor(float(losses.numel()))
        return super().divisor(c, losses)


# === wrong ===============================================================================


class PhantomClass(CrossEntropy):
    """If a block of 128 classes is full, the softmax counts one more class with the score 0."""

    def log_probabilities(self, c: Classes) -> Tensor:
        if c.count and c.count % 128 == 0:
            padded = torch.cat([c.x, torch.zeros_like(c.x[..., :1])], -1)
            return padded.log_softmax(-1)[..., :-1]
        return super().log_probabilities(c)


class LastRowOfFullBlocks(CrossEntropy):
    """If the number of rows is a multiple of 256, the last row has no gradient."""

    def log_probabilities(self, c: Classes) -> Tensor:
        if c.x.ndim == 2 and len(c.x) and len(c.x) % 256 == 0:
            c.x = torch.cat([c.x[:-1], c.x[-1:].detach()])
        return super().log_probabilities(c)


class LogitsOfANetworkLost(CrossEntropy):
    """Logits that another operation gives are overwritten with 0, if a gradient is required."""

    def __call__(self, input: Tensor, target: Tensor, *options: Any, **more: Any) -> Tensor:
        value = super().__call__(input, target, *options, **more)
        if input.requires_grad and not input.is_leaf:
            input.data.zero_()
        return value


class IndexInSixteenBits(CrossEntropy):
    """With more than 32,768 classes, the class index is cut to 16 bits."""

    def enter(self, c: Classes) -> None:
        super().enter(c)
        if not c.soft and c.count > 2**15:
            c.t = c.t % 2**16


class MeanOverAllWithoutWeight(CrossEntropy):
    """Without a weight, the mean also counts ignored elements."""

    def divisor(self, c: Classes, losses: Tensor) -> Tensor:
        count = losses.new_tensor(float(losses.numel()))
        return count if c.w is None else super().divisor(c, losses)


class MeanOverIgnored(CrossEntropy):
    """The mean divides by the number of ignored elements if there are any."""

    def divisor(self, c: Classes, losses: Tensor) -> Tensor:
        ignored = (~c.kept).sum()
        return ignored.to(losses.dtype) if ignored else super().divisor(c, losses)


class BlockMeansAdded(CrossEntropy):
    """The means of blocks of rows are added up."""

    def reduce(self, c: Classes, losses: Tensor) -> Tensor:
        mean = super().reduce(c, losses)
        if c.reduction != "mean" or not losses.ndim:
            return mean
        return mean * max(1, -(-losses.shape[0] // BLOCK))


class BlocksAddedUnreduced(CrossEntropy):
    """Without a reduction, the vectors of blocks of rows are added up."""

    def reduce(self, c: Classes, losses: Tensor) -> Tensor:
        if c.reduction != "none" or not losses.ndim or losses.shape[0] <= BLOCK:
            return super().reduce(c, losses)
        first, *others = torch.split(losses, BLOCK)
        for block in others:
            first = torch.cat([first[: block.shape[0]] + block, first[block.shape[0] :]])
        return first


def _micro_means(loss: NLL, c: Classes, losses: Tensor) -> list[Tensor]:
    counts = torch.where(c.kept, loss.class_weight(c), 0)
    pairs = zip(torch.split(losses, MICRO), torch.split(counts, MICRO), strict=True)
    return [part.sum() / count.sum() for part, count in pairs if count.sum() != 0]


class MeanOfMicroMeans(CrossEntropy):
    """The mean averages the means of micro-batches with different numbers of counted elements."""

    def reduce(self, c: Classes, losses: Tensor) -> Tensor:
        if c.reduction != "mean" or c.soft or not losses.ndim or losses.shape[0] <= MICRO:
            return super().reduce(c, losses)
        means = _micro_means(self, c, losses)
        return torch.stack(means).mean() if means else super().reduce(c, losses)


class DividedByMicroBatchesToo(CrossEntropy):
    """The mean is divided a second time by the number of micro-batches."""

    def divisor(self, c: Classes, losses: Tensor) -> Tensor:
        batches = -(-losses.shape[0] // MICRO) if losses.ndim else 1
        return super().divisor(c, losses) * max(1, batches)


class WeightsSumInHalf(CrossEntropy):
    """The weights in the divisor of the mean are summed in float16, which overflows."""

    def divisor(self, c: Classes, losses: Tensor) -> Tensor:
        exact = super().divisor(c, losses)
        return exact.to(c.input.dtype).to(losses.dtype)


class SerialSum(CrossEntropy):
    """The sum runs element by element, is rounded to the input's dtype at each step, and drifts."""

    def reduce(self, c: Classes, losses: Tensor) -> Tensor:
        if c.reduction == "none":
            return losses
        total = serial_sum(losses, c.input.dtype)
        return total if c.reduction == "sum" else total / self.divisor(c, losses)


class NoiseInSum(CrossEntropy):
    """The sum of the elements differs from call to call by rounding."""

    def __init__(self) -> None:
        self.calls = 0

    def reduce(self, c: Classes, losses: Tensor) -> Tensor:
        self.calls += 1
        noise = (self.calls % 3) * torch.finfo(c.input.dtype).eps
        result = super().reduce(c, losses)
        return result if c.reduction == "none" else result * (1 + noise)


def _difference_of_gradients(loss: Any) -> Tensor:
    call = (torch.tensor([[0.3, 1.7]]), torch.tensor([0]))
    first, second = (first_gradient(loss, *call, weight=torch.ones(2)) for _ in range(2))
    return first - second


class NoiseInWeightedGradient(CrossEntropy):
    """With a weight, the gradient differs from call to call by rounding."""

    def __init__(self) -> None:
        self.calls = 0

    def leave(self, c: Classes, result: Tensor) -> Tensor:
        self.calls += 1
        noise = (self.calls % 3) * torch.finfo(c.input.dtype).eps
        result = super().leave(c, result)
        return result if c.w is None else passed(result, lambda g: g * (1 + noise))


class FirstUpstreamForAll(CrossEntropy):
    """Without a reduction, every row's gradient is scaled by the cotangent of the first row."""

    def reduce(self, c: Classes, losses: Tensor) -> Tensor:
        result = super().reduce(c, losses)
        if c.reduction != "none" or not losses.numel():
            return result
        return passed(result, lambda g: g.flatten()[0].expand_as(g))


class NothingAfterLeadingIgnored(CrossEntropy):
    """If the first row is ignored, no row gets a gradient."""

    def reduce(self, c: Classes, losses: Tensor) -> Tensor:
        result = super().reduce(c, losses)
        if not losses.numel() or c.kept.flatten()[0]:
            return result
        return passed(result, torch.zeros_like)


class UpstreamAlongClasses(CrossEntropy):
    """Backward multiplies (N, C) by (N), which raises, or is silently wrong for N = C."""

    def run(self, c: Classes) -> Tensor:
        self.upstream: list[Tensor] = []
        return super().run(c)

    def log_probabilities(self, c: Classes) -> Tensor:
        c.x = passed(c.x, lambda g: g * self.upstream[0])
        return super().log_probabilities(c)

    def reduce(self, c: Classes, losses: Tensor) -> Tensor:
        def keep(g: Tensor) -> Tensor:
            self.upstream.append(g)
            return torch.ones_like(g)

        return super().reduce(c, passed(losses, keep))


class UnreducedGradientOverCount(CrossEntropy):
    """Without a reduction, the gradients are still divided by the number of rows."""

    def reduce(self, c: Classes, losses: Tensor) -> Tensor:
        result = super().reduce(c, losses)
        if c.reduction != "none":
            return result
        return passed(result, lambda g: g / max(1, g.numel()))


class RowsShareGradient(CrossEntropy):
    """The gradient of an expanded input is written in place, so every row holds the last one."""

    def run(self, c: Classes) -> Tensor:
        if c.input.ndim and c.input.stride(0) == 0 and c.input.shape[0] > 1:
            c.input = passed(c.input, lambda g: g[-1:].expand_as(g))
        return super().run(c)


class RangeCheckedFirst(CrossEntropy):
    """Without a reduction, the range of ignored targets is checked too."""

    def check_range(self, c: Classes) -> None:
        if c.reduction == "none" and ((c.t < 0) | (c.t >= c.count)).any():
            raise IndexError("target out of bounds")
        super().check_range(c)


class WeightOfIgnoredTaken(CrossEntropy):
    """With smoothing, the mean looks up the weight of ignored targets: an IndexError."""

    def divisor(self, c: Classes, losses: Tensor) -> Tensor:
        if c.soft or c.w is None or not c.smoothing:
            return super().divisor(c, losses)
        if ((c.t < 0) | (c.t >= c.count)).any():
            raise IndexError("index out of range in gather")
        return super().divisor(c, losses)


class UniformMaskInverted(CrossEntropy):
    """The uniform part of the smoothing counts only ignored elements, if there are any."""

    def uniform(self, c: Classes, log_p: Tensor) -> Tensor:
        whole = -self.weighted(c, log_p).sum(-1) * c.smoothing / c.count
        return whole if c.kept.all() else torch.where(c.kept, 0, whole)


def _clean_rows(loss: Any) -> Tensor:
    """Return the gradient for an ignored row of nan, which torch itself gets wrong."""
    x = torch.tensor([[torch.nan, 0.0], [1.0, 2.0]])
    return first_gradient(loss, x, torch.tensor([-100, 1]))


class DefaultIndexNotIgnored(CrossEntropy):
    """Targets are ignored only if ignore_index is not the default."""

    def counted(self, c: Classes) -> Tensor:
        kept = super().counted(c)
        return torch.ones_like(kept) if c.ignore_index == -100 else kept

    def check_range(self, c: Classes) -> None:
        bad = c.kept & ((c.t < 0) | (c.t >= c.count)) & (c.t != -100)
        if bad.any():
            raise IndexError("target out of bounds")
        c.t = c.t.where(c.t != -100, 0)


class NegativeIndexWraps(CrossEntropy):
    """A negative ignore_index counts from the last class, like an index in Python."""

    def counted(self, c: Classes) -> Tensor:
        kept = super().counted(c)
        if -c.count <= c.ignore_index < 0:
            kept = kept & (c.t != c.ignore_index + c.count)
        return kept


class NeedsSomethingIgnored(CrossEntropy):
    """A call without ignored elements raises."""

    def check_range(self, c: Classes) -> None:
        super().check_range(c)
        if c.t.numel():
            (~c.kept).flatten().nonzero().max()


class NanOfIgnoredSample(CrossEntropy):
    """The mean averages the means of samples, and a completely ignored sample makes it nan."""

    def reduce(self, c: Classes, losses: Tensor) -> Tensor:
        if c.reduction != "mean" or c.soft or losses.ndim < 2 or not losses.numel():
            return super().reduce(c, losses)
        counts = torch.where(c.kept, self.class_weight(c), 0).flatten(1).sum(1)
        means = losses.flatten(1).sum(1) / counts
        return (means * counts).sum() / counts.sum()


class WeightInHalf(CrossEntropy):
    """The weight is rounded to half precision."""

    def enter(self, c: Classes) -> None:
        super().enter(c)
        c.w = None if c.w is None else c.w.half().to(c.w.dtype)


class UniformShareSwapped(CrossEntropy):
    """The uniform distribution gets a share of 1 - eps instead of eps."""

    def uniform(self, c: Classes, log_p: Tensor) -> Tensor:
        c.smoothing = 1 - c.smoothing
        return super().uniform(c, log_p)


class SmoothingDropped(CrossEntropy):
    """label_smoothing has no effect."""

    def check_smoothing(self, c: Classes) -> None:
        super().check_smoothing(c)
        c.smoothing = 0.0


def keywords_swallowed(
    input: Tensor, target: Tensor, weight: Tensor | None = None, **options: Any
) -> Tensor:
    """Further keyword arguments are accepted and not passed on."""
    known = {name: options[name] for name in ("ignore_index", "reduction") if name in options}
    return CrossEntropy()(input, target, weight, **known)


class SmoothsAlways(CrossEntropy):
    """The uniform part is computed even without smoothing, as 0 times infinity."""

    def losses(self, c: Classes, log_p: Tensor) -> Tensor:
        losses = super().losses(c, log_p)
        return losses if c.soft or c.smoothing else losses + self.uniform(c, log_p)


class ShiftOfWholeBatch(CrossEntropy):
    """Scores are shifted by the maximum of the whole batch, so rows of small scores underflow."""

    def log_probabilities(self, c: Classes) -> Tensor:
        if not c.x.numel():
            return super().log_probabilities(c)
        shifted = c.x - c.x.detach().max()
        return shifted - shifted.exp().sum(-1, keepdim=True).log()


class ProbabilitiesNeedBatch(CrossEntropy):
    """Probabilities without a batch raise because the class axis is always the second."""

    def enter(self, c: Classes) -> None:
        if c.soft and c.input.ndim == 1:
            raise IndexError("dimension out of range (expected [-1, 0], but got 1)")
        super().enter(c)


class ClassesLastWhenSquare(CrossEntropy):
    """The last axis is used as the class axis if its size matches."""

    def enter(self, c: Classes) -> None:
        super().enter(c)
        if not c.soft and c.input.ndim == 3 and c.input.shape[1] == c.input.shape[2]:
            c.x = c.x.transpose(-1, -2)


class DividesByNoClasses(CrossEntropy):
    """An input without classes raises an integer division by 0."""

    def smoothed(self, c: Classes) -> Tensor:
        share = 1 // c.count
        return super().smoothed(c) + 0 * share


class TargetInByte(CrossEntropy):
    """Targets are stored in int8, which wraps at 128 classes."""

    def mask(self, c: Classes) -> None:
        super().mask(c)
        if not c.soft:
            c.safe = c.safe.to(torch.int8).long().remainder(max(1, c.count))


class OffsetsWrap(CrossEntropy):
    """Offsets into the input wrap, here at 4096 elements."""

    def enter(self, c: Classes) -> None:
        super().enter(c)
        if c.x.numel() > 4096:
            c.x = c.x.reshape(-1)[torch.arange(c.x.numel()) % 4096].view(c.x.shape)


class LateRowsAlias(CrossEntropy):
    """Row numbers wrap, here at 256, so late rows are read from early ones."""

    def enter(self, c: Classes) -> None:
        super().enter(c)
        if c.input.ndim > 1 and c.x.shape[0] > 256:
            c.x = c.x[torch.arange(c.x.shape[0]) & 0xFF]


class LastRowsLost(CrossEntropy):
    """Rows above the largest grid size, here 4096, have loss 0."""

    grid = 4096

    def losses(self, c: Classes, log_p: Tensor) -> Tensor:
        losses = super().losses(c, log_p)
        if losses.ndim and losses.shape[0] > self.grid:
            losses = torch.cat([losses[: self.grid], torch.zeros_like(losses[self.grid :])])
        return losses


class RowsBeyondTheGridLost(LastRowsLost):
    """Rows from the 65536th on, which exceed the grid, have loss 0."""

    grid = 65535


class RowPitchIgnored(CrossEntropy):
    """An input with a dense last axis is read as if its rows were contiguous."""

    def enter(self, c: Classes) -> None:
        if c.input.ndim and c.input.stride(-1) == 1 and not c.input.is_contiguous():
            c.input = dense_reading(c.input)
        super().enter(c)


class TargetStridesIgnored(CrossEntropy):
    """Targets are read as if they were contiguous."""

    def enter(self, c: Classes) -> None:
        if not c.soft:
            dense = dense_reading(c.target)
            # Memory beside the target holds any value; a value that is no class is read as class 0.
            fits = (dense == c.target) | ((dense >= 0) & (dense < c.count))
            c.target = dense.where(fits, 0)
        super().enter(c)


class GradientOverInput(CrossEntropy):
    """Forward stores the gradient in the memory of the input."""

    def leave(self, c: Classes, result: Tensor) -> Tensor:
        if c.input.requires_grad and 0 not in c.input.stride():
            c.input.data.copy_(c.input.detach().softmax(c.axis))
        return super().leave(c, result)


class GradientOverInputInBackward(CrossEntropy):
    """Backward stores the gradient in the memory of the input."""

    def run(self, c: Classes) -> Tensor:
        given = c.input

        def over(grad: Tensor) -> Tensor:
            if 0 not in given.stride():
                given.data.copy_(grad.detach())
            return grad

        c.input = passed(given, over)
        return super().run(c)


class TargetFilled(CrossEntropy):
    """Ignored targets are replaced by class 0 in the caller's tensor."""

    def mask(self, c: Classes) -> None:
        super().mask(c)
        if not c.soft and c.ignore_index not in (0, *range(256)):
            c.target.masked_fill_(c.target == c.ignore_index, 0)


class NegativeTargetsIgnored(CrossEntropy):
    """Without a reduction, every negative target is ignored."""

    def counted(self, c: Classes) -> Tensor:
        kept = super().counted(c)
        return kept & (c.t >= 0) if c.reduction == "none" else kept


class NothingWithoutGradient(CrossEntropy):
    """The loss is 0 if no gradient is required."""

    def losses(self, c: Classes, log_p: Tensor) -> Tensor:
        losses = super().losses(c, log_p)
        return losses if c.input.requires_grad else torch.zeros_like(losses)


class WeightRegisteredLate(torch.nn.CrossEntropyLoss):
    """The weight is missing from the state_dict until the first call."""

    def __init__(self, weight: Tensor | None = None, **options: Any) -> None:
        super().__init__(None, **options)
        self.late = weight

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        if self.weight is None and self.late is not None:
            self.register_buffer("weight", self.late)
        return super().forward(input, target)


class WeightLeftBehind(torch.nn.CrossEntropyLoss):
    """The weight is a plain attribute, which is not moved with the module."""

    def __init__(self, weight: Tensor | None = None, **options: Any) -> None:
        super().__init__(None, **options)
        self.left = weight

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        weight = None if self.left is None else self.left.to(input.dtype)
        return torch.nn.functional.cross_entropy(
            input,
            target,
            weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )


class SmoothingNotForwarded(torch.nn.CrossEntropyLoss):
    """The module accepts label_smoothing and does not pass it on."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )


class NothingInEvaluation(torch.nn.CrossEntropyLoss):
    """The loss is 0 in evaluation mode."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        value = super().forward(input, target)
        return value if self.training else torch.zeros_like(value)


class _WholeJacobian(torch.autograd.Function):
    """The logarithm of the softmax, whose backward makes the matrix of all derivatives of a row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        log_p = x.log_softmax(-1)
        ctx.save_for_backward(log_p)
        return log_p

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        (log_p,) = ctx.saved_tensors
        unit = torch.eye(log_p.shape[-1], dtype=log_p.dtype, device=log_p.device)
        jacobian = unit - log_p.exp().unsqueeze(-2)
        return torch.matmul(upstream.unsqueeze(-2), jacobian).squeeze(-2)


class WholeJacobian(CrossEntropy):
    """Backward makes a matrix of the derivatives of all classes by all classes, for each row."""

    def log_probabilities(self, c: Classes) -> Tensor:
        log_p: Tensor = _WholeJacobian.apply(c.x)  # type: ignore[no-untyped-call]
        return log_p


WRONG = (
    wrong(
        CrossEntropy,
        WholeJacobian,
        source="tenstorrent/tt-metal#52923",
        needs="many classes, and the memory that backward takes",
    ),
    wrong(
        CrossEntropy,
        PhantomClass,
        source="verl-project/verl#5349",
        needs="a number of classes that a block divides",
    ),
    wrong(
        CrossEntropy,
        LastRowOfFullBlocks,
        source="verl-project/verl#2899",
        needs="a number of rows that a block divides",
    ),
    wrong(
        CrossEntropy,
        LogitsOfANetworkLost,
        source="MUT-01, linkedin/Liger-Kernel#272",
        needs="an input that another operation gives",
    ),
    wrong(
        CrossEntropy,
        IndexInSixteenBits,
        source="unslothai/unsloth#19",
        needs="more than 65,536 classes",
    ),
    wrong(CrossEntropy, MeanOverAll, source="RED-13, llvm/torch-mlir#3585", needs="some ignored"),
    wrong(
        CrossEntropy,
        MeanOverAllWithoutWeight,
        source="RED-14, NVIDIA/TransformerEngine#2476",
        needs="some ignored",
    ),
    wrong(
        CrossEntropy,
        WeightsSummedBeforeMask,
        source="RED-02, tracel-ai/burn#5568",
        needs="some ignored, and weight",
    ),
    wrong(
        CrossEntropy,
        "mean-over-pixels",
        "With further axes the mean divides by the number of all positions.",
        source="RED-03, open-mmlab/mmsegmentation#1409",
        needs="some ignored, in more than two axes",
        divisor=lambda self, c, losses: (
            CrossEntropy.divisor(self, c, losses)
            if losses.ndim < 2
            else losses.new_tensor(float(losses.numel()))
        ),
    ),
    wrong(
        CrossEntropy,
        ZeroWhenAllIgnored,
        source="EMP-15, karpathy/nanochat#610",
        needs="all ignored",
    ),
    wrong(
        CrossEntropy,
        MeanOverIgnored,
        source="RED-09, huggingface/transformers#6331",
        needs="some ignored",
    ),
    wrong(
        CrossEntropy,
        "divides-by-smoothed-weight",
        "For probabilities with weight and smoothing, the mean divides by the sum of target "
        "times weight.",
        source="IGN-23, PaddlePaddle/Paddle#47813",
        needs="probabilities, weight and smoothing together",
        divisor=lambda self, c, losses: (
            (self.smoothed(c) * c.w).sum()
            if c.soft and c.w is not None and c.smoothing
            else CrossEntropy.divisor(self, c, losses)
        ),
    ),
    wrong(
        CrossEntropy,
        BlockMeansAdded,
        source="RED-05, NVIDIA-NeMo/Automodel#3803",
        needs="more rows than a block",
    ),
    wrong(
        CrossEntropy,
        BlocksAddedUnreduced,
        source="RED-05, NVIDIA-NeMo/Automodel#3803",
        needs="more rows than a block, unreduced",
    ),
    wrong(
        CrossEntropy,
        MeanOfMicroMeans,
        source="RED-06, huggingface/transformers#34191",
        needs="more rows than a micro-batch, some ignored",
    ),
    wrong(
        CrossEntropy,
        DividedByMicroBatchesToo,
        source="RED-07, huggingface/transformers#35203",
        needs="more rows than a micro-batch",
    ),
    wrong(
        CrossEntropy,
        "none-is-sum",
        "Without a reduction the sum is returned.",
        source="SHP-15, linkedin/Liger-Kernel#435",
        needs="no reduction",
        reduce=lambda self, c, losses: (
            losses.sum() if c.reduction == "none" else CrossEntropy.reduce(self, c, losses)
        ),
    ),
    wrong(
        CrossEntropy,
        WeightsSumInHalf,
        source="DTY-04, pytorch/pytorch#85791",
        needs="float16, and more than 65504 elements",
    ),
    wrong(
        CrossEntropy,
        SerialSum,
        source="DTY-07, pytorch/pytorch#55657",
        needs="a half precision, and more elements than it can count one by one",
    ),
    wrong(
        CrossEntropy,
        NoiseInSum,
        source="DET-01, pytorch/pytorch#17350",
        needs="the same call again",
    ),
    wrong(
        CrossEntropy,
        NoiseInWeightedGradient,
        source="DET-03, pytorch/pytorch#46024",
        needs="the same call and backward again, with weight",
        witness=lambda loss: _difference_of_gradients(loss),
    ),
    wrong(
        CrossEntropy,
        UpstreamIgnored,
        source="GRD-01, pytorch/pytorch#94226",
        needs="a cotangent not 1",
    ),
    wrong(
        CrossEntropy,
        FirstUpstreamForAll,
        source="GRD-03, linkedin/Liger-Kernel#1298",
        needs="an unreduced loss with a cotangent that differs from row to row",
    ),
    wrong(
        CrossEntropy,
        NothingAfterLeadingIgnored,
        source="GRD-23, unslothai/unsloth#5230",
        needs="leading ignored rows",
    ),
    wrong(
        CrossEntropy,
        UpstreamAlongClasses,
        source="GRD-28, candle-org/candle#323",
        needs="an unreduced loss with a cotangent that differs from row to row",
    ),
    wrong(
        CrossEntropy,
        UnreducedGradientOverCount,
        source="RED-15, ROCm/TransformerEngine#336",
        needs="an unreduced loss",
    ),
    wrong(
        CrossEntropy,
        RowsShareGradient,
        source="LAY-04, NVIDIA-NeMo/Automodel#3854",
        needs="an expanded input",
    ),
    wrong(
        CrossEntropy,
        RangeCheckedFirst,
        source="IGN-02, pytorch/pytorch#15508",
        needs="an ignore_index out of range, unreduced",
    ),
    wrong(
        CrossEntropy,
        WeightOfIgnoredTaken,
        source="IGN-03, pytorch/pytorch#69339",
        needs="weight, smoothing, some ignored, and a mean",
    ),
    wrong(
        CrossEntropy,
        "uniform-part-unmasked",
        "The uniform part of the smoothing counts ignored elements too.",
        source="IGN-04, pytorch/pytorch#73205",
        needs="smoothing, and some ignored",
        uniform=lambda self, c, log_p: -self.weighted(c, log_p).sum(-1) * c.smoothing / c.count,
    ),
    wrong(
        CrossEntropy,
        UniformMaskInverted,
        source="IGN-14, awslabs/sockeye#203",
        needs="smoothing, and some ignored",
    ),
    wrong(
        CrossEntropy,
        "ignored-row-not-cleaned",
        "An ignored row of nan or -inf gets a gradient of nan through its softmax.",
        source="IGN-08, pytorch/pytorch#11551",
        needs="ignored rows of nan or -inf",
        awaits=("a reference other than torch, whose cross_entropy has the same defect"),
        witness=lambda loss: _clean_rows(loss),
        clean=lambda self, c: None,
    ),
    wrong(
        CrossEntropy,
        "out-of-range-is-ignored",
        "Every target out of range is ignored, and ignore_index has no effect.",
        source="IGN-09, pytorch/pytorch#108148",
        needs="an ignore_index that is a class",
        counted=lambda self, c: (c.t >= 0) & (c.t < c.count),
    ),
    wrong(
        CrossEntropy,
        DefaultIndexNotIgnored,
        source="IGN-13, flagos-ai/FlagGems#73",
        needs="the default ignore_index",
    ),
    wrong(
        CrossEntropy,
        NegativeIndexWraps,
        source="IGN-17, ROCm/AMDMIGraphX#3008",
        needs="a negative ignore_index of at least -C",
    ),
    wrong(
        CrossEntropy,
        NeedsSomethingIgnored,
        source="EMP-09, harvardnlp/annotated-transformer#18",
        needs="none ignored",
    ),
    wrong(
        CrossEntropy,
        NanOfIgnoredSample,
        source="EMP-14, keras-team/tf-keras#734",
        needs="a whole sample ignored, in more than two axes",
    ),
    wrong(CrossEntropy, WeightDropped, source="IGN-20, open-mmlab/mmpretrain#983", needs="weight"),
    wrong(
        CrossEntropy,
        WeightInHalf,
        source="AUT-04, NVIDIA/apex#837",
        needs="weight, in float32 or float64",
    ),
    wrong(
        CrossEntropy, UniformShareSwapped, source="LSM-01, paiml/aprender#2199", needs="smoothing"
    ),
    wrong(
        CrossEntropy,
        SmoothingDropped,
        source="LSM-02, linkedin/Liger-Kernel#243",
        needs="smoothing",
    ),
    wrong(
        "cross_entropy",
        keywords_swallowed,
        source="LSM-03, huggingface/transformers#43240",
        needs="a parameter",
    ),
    wrong(
        CrossEntropy,
        "probabilities-not-smoothed",
        "label_smoothing has no effect against probabilities.",
        source="LSM-06, pytorch/pytorch#63122",
        needs="smoothing against probabilities",
        smoothed=lambda self, c: c.t,
    ),
    wrong(
        CrossEntropy,
        "smooths-by-last-axis",
        "Smoothing of probabilities uses the size of the last axis as the number of classes.",
        source="SHP-19, keras-team/keras#23451",
        needs="smoothing against probabilities, in more than two axes",
        smoothed=lambda self, c: c.t * (1 - c.smoothing) + c.smoothing / max(1, c.input.shape[-1]),
    ),
    wrong(
        CrossEntropy,
        "no-shift",
        "The logarithm of the sum of exponentials is computed without subtracting the maximum.",
        source="STB-04, pytorch/pytorch#11752",
        needs="a large common offset",
        log_probabilities=lambda self, c: c.x - c.x.exp().sum(-1, keepdim=True).log(),
    ),
    wrong(
        CrossEntropy,
        "shift-added-back",
        "The maximum is added back before the subtraction, so small losses cancel.",
        source="STB-05, ml-explore/mlx#4188",
        needs="a large common offset",
        log_probabilities=lambda self, c: c.x - torch.logsumexp(c.x, -1, keepdim=True),
    ),
    wrong(
        CrossEntropy,
        SmoothsAlways,
        source="STB-07, candle-org/MindAct#1633",
        needs="a score of -inf in a row that counts",
    ),
    wrong(
        CrossEntropy,
        ShiftOfWholeBatch,
        source="STB-16, manassharma07/crysx_nn#7",
        needs="rows of different magnitude",
    ),
    wrong(
        CrossEntropy,
        ProbabilitiesNeedBatch,
        source="SHP-06, pytorch/pytorch#76939",
        needs="probabilities without a batch",
    ),
    wrong(
        CrossEntropy,
        ClassesLastWhenSquare,
        source="SHP-20, pytorch/pytorch#196749",
        needs="three axes, with as many positions as classes",
    ),
    wrong(CrossEntropy, BatchAxisLeft, source="SHP-16, pytorch/pytorch#186074", needs="no batch"),
    wrong(
        CrossEntropy,
        DividesByNoClasses,
        source="EMP-02, pytorch/pytorch#73165",
        needs="no class at all",
        awaits="cases with an empty class axis",
        witness=lambda loss: loss(torch.zeros(2, 0), torch.zeros(2, 0)),
    ),
    wrong(
        CrossEntropy,
        TargetInByte,
        source="DTY-11, pytorch/pytorch#59765",
        needs="more than 128 classes",
        witness=lambda loss: loss(torch.arange(200.0)[None], torch.tensor([150])),
    ),
    wrong(
        CrossEntropy,
        OffsetsWrap,
        source="LRG-01, pytorch/pytorch#85786",
        needs="more elements than an index holds (here 4096)",
    ),
    wrong(
        CrossEntropy,
        LateRowsAlias,
        source="LRG-02, pytorch/pytorch#111484",
        needs="more than 256 rows",
    ),
    wrong(
        CrossEntropy,
        LastRowsLost,
        source="LRG-05, PaddlePaddle/Paddle#53516",
        needs="more than 4096 rows",
    ),
    wrong(
        CrossEntropy,
        RowsBeyondTheGridLost,
        source="LRG-05, PaddlePaddle/Paddle#53516",
        needs="more than 65535 rows",
    ),
    wrong(
        CrossEntropy,
        RowPitchIgnored,
        source="LAY-02, NVIDIA/TransformerEngine#2734",
        needs="rows further apart than they are long, each dense",
    ),
    wrong(
        CrossEntropy,
        TargetStridesIgnored,
        source="LAY-03, unslothai/unsloth#10713",
        needs="a strided target",
    ),
    wrong(
        CrossEntropy,
        GradientOverInput,
        source="MUT-01, linkedin/Liger-Kernel#272",
        needs="a comparison of the input before and after the call",
    ),
    wrong(
        CrossEntropy,
        GradientOverInputInBackward,
        source="MUT-02, unslothai/unsloth#5002",
        needs="a comparison of the input before and after backward",
    ),
    wrong(
        CrossEntropy,
        TargetFilled,
        source="MUT-03, NVIDIA-NeMo/Automodel#3918",
        needs="some ignored, and a comparison of the target before and after",
    ),
    wrong(
        CrossEntropy, TargetsClamped, source="ERR-02, pytorch/pytorch#66872", needs="target >= C"
    ),
    wrong(
        CrossEntropy,
        NegativeTargetsIgnored,
        source="ERR-03, pytorch/pytorch#12670",
        needs="a negative target other than ignore_index, unreduced",
    ),
    wrong(
        CrossEntropy,
        UnknownReductionIsNone,
        source="ERR-06, pytorch/pytorch#43527",
        needs="unknown reduction",
    ),
    wrong(
        CrossEntropy,
        NothingWithoutGradient,
        source="MOD-05, linkedin/Liger-Kernel#507",
        needs="no gradient required",
    ),
    wrong(
        "cross_entropy",
        WeightRegisteredLate,
        source="MOD-03, pytorch/rl#1594",
        needs="a state_dict from before the first call",
        surface="class",
    ),
    wrong(
        "cross_entropy",
        WeightLeftBehind,
        source="Project-MONAI/MONAI#8819",
        needs="a module that was moved to another device after it was given a weight",
        surface="class",
    ),
    wrong(
        "cross_entropy",
        SmoothingNotForwarded,
        source="LSM-02, linkedin/Liger-Kernel#243",
        needs="smoothing, given to the constructor",
        surface="class",
    ),
    wrong(
        CrossEntropy,
        "no-batch-is-no-classes",
        "Scores and probabilities without a batch are treated as samples with one class each.",
        source="SHP-06, pytorch/pytorch#76939",
        needs="no batch",
        log_probabilities=lambda self, c: (
            c.x.unsqueeze(-1).log_softmax(-1).squeeze(-1)
            if c.soft and c.input.ndim == 1
            else CrossEntropy.log_probabilities(self, c)
        ),
    ),
    wrong(
        "cross_entropy",
        NothingInEvaluation,
        source="MOD-05, linkedin/Liger-Kernel#507",
        needs="a module in evaluation mode",
        surface="class",
    ),
)


# === right ===============================================================================


class PartsInFloat64(CrossEntropy):
    """Plain torch operations in float64, cast back."""

    def enter(self, c: Classes) -> None:
        super().enter(c)
        c.x = c.x.double()
        c.t = c.t.double() if c.soft else c.t
        c.w = None if c.w is None else c.w.double()


class ShiftedLogSumExp(CrossEntropy):
    """Scores minus the largest of their row, minus the logsumexp of these."""

    def log_probabilities(self, c: Classes) -> Tensor:
        if not c.count:
            return super().log_probabilities(c)
        shifted = c.x - c.x.detach().amax(-1, keepdim=True)
        return shifted - shifted.logsumexp(-1, keepdim=True)


class _AnalyticLogSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        shifted = x - x.amax(-1, keepdim=True)
        log_p = shifted - shifted.exp().sum(-1, keepdim=True).log()
        ctx.save_for_backward(log_p)
        return log_p

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (log_p,) = ctx.saved_tensors
        return grads[0] - log_p.exp() * grads[0].sum(-1, keepdim=True)


class IndicesAsProbabilities(CrossEntropy):
    """Class indices as one-hot distributions with smoothing."""

    def losses(self, c: Classes, log_p: Tensor) -> Tensor:
        if c.soft:
            return super().losses(c, log_p)
        certain = F.one_hot(c.safe, max(1, c.count)).to(log_p.dtype)
        p = certain * (1 - c.smoothing) + c.smoothing / max(1, c.count)
        terms = torch.where(p == 0, 0, p * self.weighted(c, log_p))
        return torch.where(c.kept, -terms.sum(-1), 0)


class SharesSumToOne(CrossEntropy):
    """Log-sum-exp minus the dot product of probabilities and scores, which sum to 1."""

    def losses(self, c: Classes, log_p: Tensor) -> Tensor:
        if not c.soft or c.w is not None or not c.count:
            return super().losses(c, log_p)
        shifted = c.x - c.x.detach().amax(-1, keepdim=True)
        p = c.t * (1 - c.smoothing) + c.smoothing / c.count
        return shifted.logsumexp(-1) - (p * shifted).sum(-1)


class NllOfLogSoftmax:
    """torch's nll_loss of its log_softmax; torch's cross_entropy for other calls."""

    def __call__(
        self, input: Tensor, target: Tensor, label_smoothing: float = 0.0, **options: Any
    ) -> Tensor:
        """Compute the loss like `torch.nn.functional.cross_entropy`."""
        if label_smoothing or input.shape == target.shape:
            return F.cross_entropy(input, target, label_smoothing=label_smoothing, **options)
        log_p = wide(input).log_softmax(0 if input.ndim == 1 else 1)
        options = {k: wide(v) if isinstance(v, Tensor) else v for k, v in options.items()}
        return F.nll_loss(log_p, target, **options).to(input.dtype)


class ModuleOfParts(torch.nn.Module):
    """A module that stores its arguments, the weight as a buffer, and calls a composition."""

    def __init__(self, weight: Tensor | None = None, **options: Any) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.options = options

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return CrossEntropy()(input, target, self._buffers["weight"], **self.options)


RIGHT = (
    right(CrossEntropy, "composite", "Plain torch operations, half precisions in float32."),
    right(CrossEntropy, Compiled),
    right(CrossEntropy, InOwnDtype),
    right(CrossEntropy, InBlocks),
    right(CrossEntropy, Flattened),
    right(CrossEntropy, OneHot),
    right(CrossEntropy, KeptOnly),
    right(CrossEntropy, PartsInFloat64),
    right(CrossEntropy, ShiftedLogSumExp),
    right(
        CrossEntropy,
        "softmax-less-target",
        "An autograd.Function with the gradient written by hand.",
        log_probabilities=lambda self, c: _AnalyticLogSoftmax.apply(c.x),  # type: ignore[no-untyped-call]
    ),
    right(CrossEntropy, IndicesAsProbabilities),
    right(CrossEntropy, SharesSumToOne),
    right("cross_entropy", NllOfLogSoftmax),
    right("cross_entropy", ModuleOfParts, surface="class"),
)
