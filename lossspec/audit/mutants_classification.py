"""Wrong class losses (`nll_loss`, `cross_entropy`), re-created from bugs that libraries had."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lossspec.audit import mutant
from lossspec.audit.right import (
    NLL,
    REDUCTIONS,
    Classes,
    CrossEntropy,
    dense_reading,
    first_gradient,
    passed,
    serial_sum,
)

#: Rows in a block, where a mutant works in blocks: small enough for cases, larger than a plain one.
BLOCK = 64
#: Rows in a micro-batch.
MICRO = 4

# === the divisor of the mean ==============================================================


@mutant(CrossEntropy, row="RED-13", issue="llvm/torch-mlir#3585", needs="some ignored")
@mutant(NLL, row="RED-10", issue="huggingface/transformers#5919", needs="some ignored")
class MeanOverAll(NLL):
    """The mean divides by the number of elements, ignored ones too."""

    def divisor(self, c: Classes, losses: Tensor) -> Tensor:
        return losses.new_tensor(float(losses.numel()))


@mutant(CrossEntropy, row="RED-14", issue="NVIDIA/TransformerEngine#2476", needs="some ignored")
class MeanOverAllWithoutWeight(CrossEntropy):
    """Without a weight the mean counts ignored elements too."""

    def divisor(self, c: Classes, losses: Tensor) -> Tensor:
        count = losses.new_tensor(float(losses.numel()))
        return count if c.w is None else super().divisor(c, losses)


@mutant(
    CrossEntropy,
    NLL,
    row="RED-02",
    issue="tracel-ai/burn#5568",
    needs="some ignored, and weight",
)
class WeightsSummedBeforeMask(NLL):
    """The mean divides by the weights of all targets, ignored ones counting as class 0."""

    def divisor(self, c: Classes, losses: Tensor) -> Tensor:
        return super().divisor(c, losses) if c.soft else self.class_weight(c).sum()


@mutant(
    CrossEntropy,
    row="RED-03",
    issue="open-mmlab/mmsegmentation#1409",
    needs="some ignored, in more than two axes",
)
class MeanOverPixels(CrossEntropy):
    """With further axes the mean divides by all positions, ignored ones too."""

    def divisor(self, c: Classes, losses: Tensor) -> Tensor:
        if losses.ndim < 2:
            return super().divisor(c, losses)
        return losses.new_tensor(float(losses.numel()))


@mutant(
    CrossEntropy,
    NLL,
    row="EMP-15",
    issue="karpathy/nanochat#610",
    needs="all ignored",
)
class ZeroWhenAllIgnored(NLL):
    """When everything is ignored the mean is a 0 without a graph, not nan."""

    def reduce(self, c: Classes, losses: Tensor) -> Tensor:
        if c.reduction == "mean" and losses.numel() and not c.kept.any():
            return losses.new_zeros(())
        return super().reduce(c, losses)


@mutant(
    CrossEntropy,
    row="RED-09",
    issue="huggingface/transformers#6331",
    needs="some ignored",
)
class MeanOverIgnored(CrossEntropy):
    """The mean divides by the number of ignored elements when there are any."""

    def divisor(self, c: Classes, losses: Tensor) -> Tensor:
        ignored = (~c.kept).sum()
        return ignored.to(losses.dtype) if ignored else super().divisor(c, losses)


@mutant(NLL, row="RED-11", issue="huggingface/transformers#17898", needs="a ragged count")
class CountRoundedToBatch(NLL):
    """Without a weight the count of what is kept is rounded down to a multiple of the batch."""

    def divisor(self, c: Classes, losses: Tensor) -> Tensor:
        count, batch = int(c.kept.sum()), losses.shape[0] if losses.ndim else 1
        if c.w is not None or not losses.ndim or count < batch:
            return super().divisor(c, losses)
        return losses.new_tensor(float(count // max(batch, 1) * batch))


@mutant(NLL, row="RED-12", issue="onnx/onnx#8453", needs="ignore_index = -1, and no weight")
class MinusOneIsNoIndex(NLL):
    """ignore_index = -1 is taken for none when the mean counts, so ignored elements count too."""

    def divisor(self, c: Classes, losses: Tensor) -> Tensor:
        if c.ignore_index == -1 and c.w is None:
            return losses.new_tensor(float(losses.numel()))
        return super().divisor(c, losses)


@mutant(
    CrossEntropy,
    row="IGN-23",
    issue="PaddlePaddle/Paddle#47813",
    needs="probabilities, weight and smoothing together",
)
class DividesBySmoothedWeight(CrossEntropy):
    """With weight and smoothing the mean against probabilities divides by their product's sum."""

    def divisor(self, c: Classes, losses: Tensor) -> Tensor:
        if c.soft and c.w is not None and c.smoothing:
            return (self.smoothed(c) * c.w).sum()
        return super().divisor(c, losses)


# === reductions ===========================================================================


@mutant(
    CrossEntropy,
    row="RED-05",
    issue="NVIDIA-NeMo/Automodel#3803",
    needs="more rows than a block",
)
class BlockMeansAdded(CrossEntropy):
    """The means of blocks of rows are added up."""

    def reduce(self, c: Classes, losses: Tensor) -> Tensor:
        mean = super().reduce(c, losses)
        if c.reduction != "mean" or not losses.ndim:
            return mean
        return mean * max(1, -(-losses.shape[0] // BLOCK))


@mutant(
    CrossEntropy,
    row="RED-05",
    issue="NVIDIA-NeMo/Automodel#3803",
    needs="more rows than a block, unreduced",
)
class BlocksAddedUnreduced(CrossEntropy):
    """Without a reduction the vectors of blocks of rows are added up."""

    def reduce(self, c: Classes, losses: Tensor) -> Tensor:
        if c.reduction != "none" or not losses.ndim or losses.shape[0] <= BLOCK:
            return super().reduce(c, losses)
        first, *others = torch.split(losses, BLOCK)
        for block in others:
            first = torch.cat([first[: block.shape[0]] + block, first[block.shape[0] :]])
        return first


def _micro_means(mutated: NLL, c: Classes, losses: Tensor) -> list[Tensor]:
    counts = torch.where(c.kept, mutated.class_weight(c), 0)
    pairs = zip(torch.split(losses, MICRO), torch.split(counts, MICRO), strict=True)
    return [part.sum() / count.sum() for part, count in pairs if count.sum() != 0]


@mutant(
    CrossEntropy,
    row="RED-06",
    issue="huggingface/transformers#34191",
    needs="more rows than a micro-batch, some ignored",
)
class MeanOfMicroMeans(CrossEntropy):
    """The mean is the mean of micro-batches' means, though they count unequally many elements."""

    def reduce(self, c: Classes, losses: Tensor) -> Tensor:
        if c.reduction != "mean" or c.soft or not losses.ndim or losses.shape[0] <= MICRO:
            return super().reduce(c, losses)
        means = _micro_means(self, c, losses)
        return torch.stack(means).mean() if means else super().reduce(c, losses)


@mutant(
    CrossEntropy,
    row="RED-07",
    issue="huggingface/transformers#35203",
    needs="more rows than a micro-batch",
)
class DividedByMicroBatchesToo(CrossEntropy):
    """The mean is divided once more by the number of micro-batches."""

    def divisor(self, c: Classes, losses: Tensor) -> Tensor:
        batches = -(-losses.shape[0] // MICRO) if losses.ndim else 1
        return super().divisor(c, losses) * max(1, batches)


@mutant(
    CrossEntropy,
    row="SHP-15",
    issue="linkedin/Liger-Kernel#435",
    needs="no reduction",
)
class NoneIsSum(CrossEntropy):
    """Without a reduction the sum comes back."""

    def reduce(self, c: Classes, losses: Tensor) -> Tensor:
        return losses.sum() if c.reduction == "none" else super().reduce(c, losses)


@mutant(NLL, row="IGN-01", issue="pytorch/pytorch#20406", needs="some ignored, unreduced")
class IgnoredSlotsUnwritten(NLL):
    """Without a reduction the slots of ignored elements hold whatever memory held."""

    def reduce(self, c: Classes, losses: Tensor) -> Tensor:
        if c.reduction == "none":
            return torch.where(c.kept, losses, torch.nan)
        return super().reduce(c, losses)


@mutant(
    NLL,
    row="DTY-06",
    issue="pytorch/pytorch#61523",
    needs="float16, and a sum past its largest number",
    witness=lambda loss: loss(torch.full((70000, 2), -2.0).half(), torch.zeros(70000).long()),
)
class MeanSumsInHalf(NLL):
    """The mean sums in the dtype of the input, which overflows in float16."""

    def reduce(self, c: Classes, losses: Tensor) -> Tensor:
        if c.reduction != "mean":
            return super().reduce(c, losses)
        return losses.to(c.input.dtype).sum() / self.divisor(c, losses)


@mutant(
    CrossEntropy,
    row="DTY-04",
    issue="pytorch/pytorch#85791",
    needs="float16, and more than 65504 elements",
)
class WeightsSumInHalf(CrossEntropy):
    """The weights that divide the mean are summed in float16, which overflows."""

    def divisor(self, c: Classes, losses: Tensor) -> Tensor:
        exact = super().divisor(c, losses)
        return exact.to(c.input.dtype).to(losses.dtype)


@mutant(
    CrossEntropy,
    row="DTY-07",
    issue="pytorch/pytorch#55657",
    needs="a half precision, and more elements than it can count one by one",
)
class SerialSum(CrossEntropy):
    """The sum runs element by element, rounded to the dtype of the input at each, and drifts."""

    def reduce(self, c: Classes, losses: Tensor) -> Tensor:
        if c.reduction == "none":
            return losses
        total = serial_sum(losses, c.input.dtype)
        return total if c.reduction == "sum" else total / self.divisor(c, losses)


@mutant(
    CrossEntropy,
    row="DET-01",
    issue="pytorch/pytorch#17350",
    needs="the same call again",
)
class NoiseInSum(CrossEntropy):
    """The sum of the elements differs from call to call by rounding."""

    def __init__(self) -> None:
        self.calls = 0

    def reduce(self, c: Classes, losses: Tensor) -> Tensor:
        self.calls += 1
        noise = (self.calls % 3) * torch.finfo(c.input.dtype).eps
        result = super().reduce(c, losses)
        return result if c.reduction == "none" else result * (1 + noise)


@mutant(
    CrossEntropy,
    row="DET-03",
    issue="pytorch/pytorch#46024",
    needs="the same call and backward again, with weight",
    witness=lambda loss: _difference_of_gradients(loss),
)
class NoiseInWeightedGradient(CrossEntropy):
    """With a weight the gradient differs from call to call by rounding."""

    def __init__(self) -> None:
        self.calls = 0

    def leave(self, c: Classes, result: Tensor) -> Tensor:
        self.calls += 1
        noise = (self.calls % 3) * torch.finfo(c.input.dtype).eps
        result = super().leave(c, result)
        return result if c.w is None else passed(result, lambda g: g * (1 + noise))


def _difference_of_gradients(loss: Any) -> Tensor:
    call = (torch.tensor([[0.3, 1.7]]), torch.tensor([0]))
    first, second = (first_gradient(loss, *call, weight=torch.ones(2)) for _ in range(2))
    return first - second


# === gradients ============================================================================


@mutant(CrossEntropy, NLL, row="GRD-01", issue="pytorch/pytorch#94226", needs="a cotangent not 1")
class UpstreamIgnored(NLL):
    """Backward ignores the gradient that comes from above."""

    def leave(self, c: Classes, result: Tensor) -> Tensor:
        return passed(super().leave(c, result), torch.ones_like)


@mutant(
    CrossEntropy,
    row="GRD-03",
    issue="linkedin/Liger-Kernel#1298",
    needs="an unreduced loss with a cotangent that differs from row to row",
)
class FirstUpstreamForAll(CrossEntropy):
    """Without a reduction every row's gradient is scaled by the first row's cotangent."""

    def reduce(self, c: Classes, losses: Tensor) -> Tensor:
        result = super().reduce(c, losses)
        if c.reduction != "none" or not losses.numel():
            return result
        return passed(result, lambda g: g.flatten()[0].expand_as(g))


@mutant(
    CrossEntropy,
    row="GRD-23",
    issue="unslothai/unsloth#5230",
    needs="leading ignored rows",
)
class NothingAfterLeadingIgnored(CrossEntropy):
    """When the first row is ignored no row gets a gradient."""

    def reduce(self, c: Classes, losses: Tensor) -> Tensor:
        result = super().reduce(c, losses)
        if not losses.numel() or c.kept.flatten()[0]:
            return result
        return passed(result, torch.zeros_like)


@mutant(
    CrossEntropy,
    row="GRD-28",
    issue="candle-org/candle#323",
    needs="an unreduced loss with a cotangent that differs from row to row",
)
class UpstreamAlongClasses(CrossEntropy):
    """Backward multiplies (N, C) by (N) as they are: an error, or silently wrong for N = C."""

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


@mutant(
    CrossEntropy,
    row="RED-15",
    issue="ROCm/TransformerEngine#336",
    needs="an unreduced loss",
)
class UnreducedGradientOverCount(CrossEntropy):
    """Without a reduction the gradients are divided by the number of rows all the same."""

    def reduce(self, c: Classes, losses: Tensor) -> Tensor:
        result = super().reduce(c, losses)
        if c.reduction != "none":
            return result
        return passed(result, lambda g: g / max(1, g.numel()))


@mutant(NLL, row="RED-19", issue="pytorch/functorch#829", needs="the gradient of a mean")
class TotalWeightLost(NLL):
    """Backward of the mean divides by 1, since forward kept no total weight."""

    def reduce(self, c: Classes, losses: Tensor) -> Tensor:
        result = super().reduce(c, losses)
        if c.reduction != "mean":
            return result
        total = self.divisor(c, losses)
        return passed(result, lambda g: g * total)


@mutant(
    CrossEntropy,
    row="LAY-04",
    issue="NVIDIA-NeMo/Automodel#3854",
    needs="an expanded input",
)
class RowsShareGradient(CrossEntropy):
    """The gradient of an expanded input is written in place, so its rows all hold the last."""

    def run(self, c: Classes) -> Tensor:
        if c.input.ndim and c.input.stride(0) == 0 and c.input.shape[0] > 1:
            c.input = passed(c.input, lambda g: g[-1:].expand_as(g))
        return super().run(c)


@mutant(NLL, row="LRG-03", issue="pytorch/pytorch#190139", needs="more than 256 rows")
class LateRowsWithoutGradient(NLL):
    """Offsets wrap in backward: rows from the 257th on add their gradient to early ones."""

    def enter(self, c: Classes) -> None:
        super().enter(c)
        if c.x.ndim < 2 or c.x.shape[0] <= 256:
            return
        rows = torch.arange(c.x.shape[0]) & 0xFF
        c.x = passed(c.x, lambda g: torch.zeros_like(g).index_add(0, rows, g))


# === ignored elements =====================================================================


@mutant(
    CrossEntropy,
    row="IGN-02",
    issue="pytorch/pytorch#15508",
    needs="an ignore_index out of range, unreduced",
)
class RangeCheckedFirst(CrossEntropy):
    """Without a reduction the range is checked before what is ignored."""

    def check_range(self, c: Classes) -> None:
        if c.reduction == "none" and ((c.t < 0) | (c.t >= c.count)).any():
            raise IndexError("target out of bounds")
        super().check_range(c)


@mutant(
    CrossEntropy,
    row="IGN-03",
    issue="pytorch/pytorch#69339",
    needs="weight, smoothing, some ignored, and a mean",
)
class WeightOfIgnoredTaken(CrossEntropy):
    """With smoothing the mean looks up the weight of ignored targets too: an IndexError."""

    def divisor(self, c: Classes, losses: Tensor) -> Tensor:
        if c.soft or c.w is None or not c.smoothing:
            return super().divisor(c, losses)
        if ((c.t < 0) | (c.t >= c.count)).any():
            raise IndexError("index out of range in gather")
        return super().divisor(c, losses)


@mutant(
    CrossEntropy,
    row="IGN-04",
    issue="pytorch/pytorch#73205",
    needs="smoothing, and some ignored",
)
class UniformPartUnmasked(CrossEntropy):
    """The uniform part of the smoothing counts ignored elements too."""

    def uniform(self, c: Classes, log_p: Tensor) -> Tensor:
        return -self.weighted(c, log_p).sum(-1) * c.smoothing / c.count


@mutant(
    CrossEntropy,
    row="IGN-14",
    issue="awslabs/sockeye#203",
    needs="smoothing, and some ignored",
)
class UniformMaskInverted(CrossEntropy):
    """The uniform part of the smoothing counts ignored elements only, when there are any."""

    def uniform(self, c: Classes, log_p: Tensor) -> Tensor:
        whole = -self.weighted(c, log_p).sum(-1) * c.smoothing / c.count
        return whole if c.kept.all() else torch.where(c.kept, 0, whole)


@mutant(NLL, row="IGN-05", issue="pytorch/pytorch#95833", needs="an ignore_index out of range")
class GatherBeforeMask(NLL):
    """Ignored targets are gathered like others before they are masked: an error out of range."""

    def picked(self, c: Classes, log_p: Tensor) -> Tensor:
        return log_p.gather(-1, c.t.unsqueeze(-1)).squeeze(-1)


@mutant(NLL, row="IGN-07", issue="pytorch/pytorch#192685", needs="ignored rows of nan or inf")
class MaskMultiplied(NLL):
    """Ignored elements are multiplied by 0, which leaves the nan of nan and inf."""

    def losses(self, c: Classes, log_p: Tensor) -> Tensor:
        return -self.picked(c, log_p) * self.class_weight(c) * c.kept


@mutant(
    CrossEntropy,
    row="IGN-08",
    issue="pytorch/pytorch#11551",
    needs="ignored rows of nan or -inf",
    awaits="a reference other than torch, whose own cross_entropy does the same: it is inherited",
    witness=lambda loss: _clean_rows(loss),
)
class IgnoredRowNotCleaned(CrossEntropy):
    """An ignored row of nan or -inf gets a gradient of nan through its softmax."""

    def clean(self, c: Classes) -> None:
        pass


def _clean_rows(loss: Any) -> Tensor:
    """The gradient with an ignored row of nan; torch itself fails this one."""
    x = torch.tensor([[torch.nan, 0.0], [1.0, 2.0]])
    return first_gradient(loss, x, torch.tensor([-100, 1]))


@mutant(
    CrossEntropy,
    row="IGN-09",
    issue="pytorch/pytorch#108148",
    needs="an ignore_index that is a class",
)
class OutOfRangeIsIgnored(CrossEntropy):
    """Every target out of range is ignored, and the given ignore_index never."""

    def counted(self, c: Classes) -> Tensor:
        return (c.t >= 0) & (c.t < c.count)


@mutant(CrossEntropy, row="IGN-13", issue="flagos-ai/FlagGems#73", needs="the default ignore_index")
class DefaultIndexNotIgnored(CrossEntropy):
    """Targets are ignored only under an ignore_index other than the default."""

    def counted(self, c: Classes) -> Tensor:
        kept = super().counted(c)
        return torch.ones_like(kept) if c.ignore_index == -100 else kept

    def check_range(self, c: Classes) -> None:
        bad = c.kept & ((c.t < 0) | (c.t >= c.count)) & (c.t != -100)
        if bad.any():
            raise IndexError("target out of bounds")
        c.t = c.t.where(c.t != -100, 0)


@mutant(
    CrossEntropy,
    row="IGN-17",
    issue="ROCm/AMDMIGraphX#3008",
    needs="a negative ignore_index of at least -C",
)
class NegativeIndexWraps(CrossEntropy):
    """A negative ignore_index counts from the last class, as indices do in Python."""

    def counted(self, c: Classes) -> Tensor:
        kept = super().counted(c)
        if -c.count <= c.ignore_index < 0:
            kept = kept & (c.t != c.ignore_index + c.count)
        return kept


@mutant(
    CrossEntropy,
    row="EMP-09",
    issue="harvardnlp/annotated-transformer#18",
    needs="none ignored",
)
class NeedsSomethingIgnored(CrossEntropy):
    """It fails when no element is ignored."""

    def check_range(self, c: Classes) -> None:
        super().check_range(c)
        if c.t.numel():
            (~c.kept).flatten().nonzero().max()


@mutant(
    CrossEntropy,
    row="EMP-14",
    issue="keras-team/tf-keras#734",
    needs="a whole sample ignored, in more than two axes",
)
class NanOfIgnoredSample(CrossEntropy):
    """The mean is made of samples' means, and one that is wholly ignored makes it nan."""

    def reduce(self, c: Classes, losses: Tensor) -> Tensor:
        if c.reduction != "mean" or c.soft or losses.ndim < 2 or not losses.numel():
            return super().reduce(c, losses)
        counts = torch.where(c.kept, self.class_weight(c), 0).flatten(1).sum(1)
        means = losses.flatten(1).sum(1) / counts
        return (means * counts).sum() / counts.sum()


# === weight and smoothing =================================================================


@mutant(CrossEntropy, NLL, row="IGN-20", issue="open-mmlab/mmpretrain#983", needs="weight")
class WeightDropped(NLL):
    """The weight has no effect."""

    def enter(self, c: Classes) -> None:
        super().enter(c)
        c.w = None


@mutant(CrossEntropy, row="AUT-04", issue="NVIDIA/apex#837", needs="weight, in float32 or float64")
class WeightInHalf(CrossEntropy):
    """The weight is rounded to half precision."""

    def enter(self, c: Classes) -> None:
        super().enter(c)
        c.w = None if c.w is None else c.w.half().to(c.w.dtype)


@mutant(CrossEntropy, row="LSM-01", issue="paiml/aprender#2199", needs="smoothing")
class UniformShareSwapped(CrossEntropy):
    """The uniform distribution gets a share of 1 - eps instead of eps."""

    def uniform(self, c: Classes, log_p: Tensor) -> Tensor:
        c.smoothing = 1 - c.smoothing
        return super().uniform(c, log_p)


@mutant(CrossEntropy, row="LSM-02", issue="linkedin/Liger-Kernel#243", needs="smoothing")
class SmoothingDropped(CrossEntropy):
    """label_smoothing has no effect."""

    def check_smoothing(self, c: Classes) -> None:
        super().check_smoothing(c)
        c.smoothing = 0.0


@mutant("cross_entropy", row="LSM-03", issue="huggingface/transformers#43240", needs="a parameter")
def keywords_swallowed(
    input: Tensor, target: Tensor, weight: Tensor | None = None, **options: Any
) -> Tensor:
    """Further keywords are taken and not handed on."""
    known = {name: options[name] for name in ("ignore_index", "reduction") if name in options}
    return CrossEntropy()(input, target, weight, **known)


@mutant(
    CrossEntropy,
    row="LSM-06",
    issue="pytorch/pytorch#63122",
    needs="smoothing against probabilities",
)
class ProbabilitiesNotSmoothed(CrossEntropy):
    """label_smoothing has no effect against probabilities."""

    def smoothed(self, c: Classes) -> Tensor:
        return c.t


@mutant(
    CrossEntropy,
    row="SHP-19",
    issue="keras-team/keras#23451",
    needs="smoothing against probabilities, in more than two axes",
)
class SmoothsByLastAxis(CrossEntropy):
    """Smoothing of probabilities takes the size of the last axis for the number of classes."""

    def smoothed(self, c: Classes) -> Tensor:
        return c.t * (1 - c.smoothing) + c.smoothing / max(1, c.input.shape[-1])


# === extreme values =======================================================================


@mutant(CrossEntropy, row="STB-04", issue="pytorch/pytorch#11752", needs="a large common offset")
class NoShift(CrossEntropy):
    """The logarithm of the sum of exponentials is taken without shifting by the largest."""

    def log_probabilities(self, c: Classes) -> Tensor:
        return c.x - c.x.exp().sum(-1, keepdim=True).log()


@mutant(
    CrossEntropy, row="STB-05", issue="ml-explore/mlx#4188", needs="a sure prediction, or an offset"
)
class ShiftAddedBack(CrossEntropy):
    """The shift is added back before the difference is taken, which loses what is small."""

    def log_probabilities(self, c: Classes) -> Tensor:
        return c.x - torch.logsumexp(c.x, -1, keepdim=True)


@mutant(
    CrossEntropy,
    row="STB-07",
    issue="candle-org/MindAct#1633",
    needs="a score of -inf in a row that counts",
)
class SmoothsAlways(CrossEntropy):
    """The uniform part is computed also without smoothing: 0 times infinity."""

    def losses(self, c: Classes, log_p: Tensor) -> Tensor:
        losses = super().losses(c, log_p)
        return losses if c.soft or c.smoothing else losses + self.uniform(c, log_p)


@mutant(
    CrossEntropy,
    row="STB-16",
    issue="manassharma07/crysx_nn#7",
    needs="rows of very different size",
)
class ShiftOfWholeBatch(CrossEntropy):
    """Scores are shifted by the largest of the whole batch, so small rows underflow."""

    def log_probabilities(self, c: Classes) -> Tensor:
        if not c.x.numel():
            return super().log_probabilities(c)
        shifted = c.x - c.x.detach().max()
        return shifted - shifted.exp().sum(-1, keepdim=True).log()


# === shapes ===============================================================================


@mutant(
    CrossEntropy,
    row="SHP-06",
    issue="pytorch/pytorch#76939",
    needs="probabilities without a batch",
)
class ProbabilitiesNeedBatch(CrossEntropy):
    """Probabilities without a batch raise: the class axis is always the second."""

    def enter(self, c: Classes) -> None:
        if c.soft and c.input.ndim == 1:
            raise IndexError("dimension out of range (expected [-1, 0], but got 1)")
        super().enter(c)


@mutant(NLL, row="SHP-07", issue="pytorch/pytorch#157420", needs="one sample, several targets")
class FirstTargetTaken(NLL):
    """Of several targets for one sample the first is taken."""

    def check_shapes(self, c: Classes) -> None:
        if c.input.ndim == 1 and c.target.numel():
            c.target = c.target.flatten()[0]
        super().check_shapes(c)


@mutant(NLL, row="SHP-17", issue="pytorch/pytorch#155247", needs="no batch")
class NeedsBatch(NLL):
    """One sample without a batch raises: the class axis is always the second."""

    def enter(self, c: Classes) -> None:
        if c.input.ndim == 1:
            raise IndexError("dimension out of range (expected [-1, 0], but got 1)")
        super().enter(c)


@mutant(NLL, row="SHP-18", issue="pytorch/pytorch#722", needs="a target of another size")
class TargetCut(NLL):
    """A target that is too long is cut to the input's size."""

    def check_shapes(self, c: Classes) -> None:
        if c.target.ndim and c.target.shape[0] > c.input.shape[0]:
            c.target = c.target[: c.input.shape[0]]
        super().check_shapes(c)


@mutant(
    CrossEntropy,
    row="SHP-20",
    issue="pytorch/pytorch#196749",
    needs="three axes, with as many positions as classes",
)
class ClassesLastWhenSquare(CrossEntropy):
    """The last axis is taken for the classes where its size allows it."""

    def enter(self, c: Classes) -> None:
        super().enter(c)
        if not c.soft and c.input.ndim == 3 and c.input.shape[1] == c.input.shape[2]:
            c.x = c.x.transpose(-1, -2)


@mutant(CrossEntropy, NLL, row="SHP-16", issue="pytorch/pytorch#186074", needs="no batch")
class BatchAxisLeft(NLL):
    """One sample without a batch, unreduced, comes back with a batch axis."""

    def leave(self, c: Classes, result: Tensor) -> Tensor:
        result = super().leave(c, result)
        if c.reduction == "none" and c.input.ndim == 1:
            return result.unsqueeze(0)
        return result


# === empty ================================================================================


@mutant(
    CrossEntropy,
    row="EMP-02",
    issue="pytorch/pytorch#73165",
    needs="no class at all",
    awaits="cases with an empty class axis",
    witness=lambda loss: loss(torch.zeros(2, 0), torch.zeros(2, 0)),
)
class DividesByNoClasses(CrossEntropy):
    """Without a class an integer division by 0 fails."""

    def smoothed(self, c: Classes) -> Tensor:
        share = 1 // c.count
        return super().smoothed(c) + 0 * share


@mutant(NLL, row="EMP-03", issue="pytorch/pytorch#15870", needs="empty")
class EmptyRaises(NLL):
    """An empty input raises."""

    def enter(self, c: Classes) -> None:
        if c.input.numel() == 0:
            raise RuntimeError("non-empty tensor expected")
        super().enter(c)


@mutant(NLL, row="EMP-05", issue="pytorch/pytorch#134431", needs="empty, in more than two axes")
class EmptyAxisRaises(NLL):
    """An input without positions raises."""

    def enter(self, c: Classes) -> None:
        if 0 in c.input.shape[2:]:
            raise RuntimeError("internal assert")
        super().enter(c)


# === dtypes ===============================================================================


@mutant(NLL, row="DTY-03", issue="pytorch/pytorch#64163", needs="float64")
class DoubleInSingle(NLL):
    """float64 is computed in float32."""

    def enter(self, c: Classes) -> None:
        super().enter(c)
        c.x = c.x.float()
        c.w = None if c.w is None else c.w.float()


@mutant(
    CrossEntropy,
    row="DTY-11",
    issue="pytorch/pytorch#59765",
    needs="more than 128 classes",
    witness=lambda loss: loss(torch.arange(200.0)[None], torch.tensor([150])),
)
class TargetInByte(CrossEntropy):
    """Targets are kept in int8, which wraps at 128 classes."""

    def mask(self, c: Classes) -> None:
        super().mask(c)
        if not c.soft:
            c.safe = c.safe.to(torch.int8).long().remainder(max(1, c.count))


@mutant(NLL, row="DTY-12", issue="pytorch/pytorch#175151", needs="a floating target")
class TargetDtypeUnchecked(NLL):
    """Targets of any dtype are taken."""

    def check_dtype(self, c: Classes) -> None:
        pass


# === many rows ============================================================================


@mutant(
    CrossEntropy,
    row="LRG-01",
    issue="pytorch/pytorch#85786",
    needs="more elements than an index holds (here 4096)",
)
class OffsetsWrap(CrossEntropy):
    """Offsets into the input wrap, here at 4096 elements."""

    def enter(self, c: Classes) -> None:
        super().enter(c)
        if c.x.numel() > 4096:
            c.x = c.x.reshape(-1)[torch.arange(c.x.numel()) % 4096].view(c.x.shape)


@mutant(
    CrossEntropy,
    row="LRG-02",
    issue="pytorch/pytorch#111484",
    needs="more than 256 rows",
)
class LateRowsAlias(CrossEntropy):
    """Row numbers wrap, here at 256, so late rows are read from early ones."""

    def enter(self, c: Classes) -> None:
        super().enter(c)
        if c.input.ndim > 1 and c.x.shape[0] > 256:
            c.x = c.x[torch.arange(c.x.shape[0]) & 0xFF]


@mutant(
    CrossEntropy,
    row="LRG-05",
    issue="PaddlePaddle/Paddle#53516",
    needs="more than 4096 rows",
)
class LastRowsLost(CrossEntropy):
    """Rows beyond the largest grid, here 4096, give 0."""

    grid = 4096

    def losses(self, c: Classes, log_p: Tensor) -> Tensor:
        losses = super().losses(c, log_p)
        if losses.ndim and losses.shape[0] > self.grid:
            losses = torch.cat([losses[: self.grid], torch.zeros_like(losses[self.grid :])])
        return losses


@mutant(
    CrossEntropy,
    row="LRG-05",
    issue="PaddlePaddle/Paddle#53516",
    needs="more than 65535 rows",
)
class RowsBeyondTheGridLost(LastRowsLost):
    """Rows from the 65536th on, for which a grid has no room, give 0."""

    grid = 65535


# === memory ===============================================================================


@mutant(
    NLL,
    row="LAY-01",
    issue="pytorch/pytorch#175084",
    needs="a permuted input of five axes",
)
class ViewOfGradient(NLL):
    """Backward flattens the gradient of a permuted input of five axes with view: an error."""

    def run(self, c: Classes) -> Tensor:
        shown = c.input

        def flat(grad: Tensor) -> Tensor:
            if shown.ndim == 5:
                shown.detach().view(-1)
            return grad

        c.input = passed(c.input, flat)
        return super().run(c)


@mutant(
    CrossEntropy,
    row="LAY-02",
    issue="NVIDIA/TransformerEngine#2734",
    needs="rows further apart than they are long, each dense",
)
class RowPitchIgnored(CrossEntropy):
    """An input whose last axis is dense is read as if its rows followed one another."""

    def enter(self, c: Classes) -> None:
        if c.input.ndim and c.input.stride(-1) == 1 and not c.input.is_contiguous():
            c.input = dense_reading(c.input)
        super().enter(c)


@mutant(CrossEntropy, row="LAY-03", issue="unslothai/unsloth#10713", needs="a strided target")
class TargetStridesIgnored(CrossEntropy):
    """Targets are read as if they lay densely in memory."""

    def enter(self, c: Classes) -> None:
        if not c.soft:
            dense = dense_reading(c.target)
            # Memory beside the target holds anything; what is no class is read as class 0.
            fits = (dense == c.target) | ((dense >= 0) & (dense < c.count))
            c.target = dense.where(fits, 0)
        super().enter(c)


@mutant(NLL, row="LAY-07", issue="pytorch/pytorch#121173", needs="channels_last")
class ChannelsLastRaises(NLL):
    """An input in channels_last raises, since it is flattened with view."""

    def enter(self, c: Classes) -> None:
        if c.input.ndim == 4 and not c.input.is_contiguous():
            c.input.view(c.input.shape[0], c.input.shape[1], -1)
        super().enter(c)


@mutant(NLL, row="LAY-08", issue="pytorch/pytorch#89673", needs="a transposed input")
class InputStridesIgnored(NLL):
    """The input is read as if it lay densely in memory."""

    def enter(self, c: Classes) -> None:
        c.input = dense_reading(c.input)
        super().enter(c)


@mutant(
    CrossEntropy,
    row="MUT-01",
    issue="linkedin/Liger-Kernel#272",
    needs="a look at the input after the call",
)
class GradientOverInput(CrossEntropy):
    """Forward keeps the gradient where the input was."""

    def leave(self, c: Classes, result: Tensor) -> Tensor:
        if c.input.requires_grad and 0 not in c.input.stride():
            c.input.data.copy_(c.input.detach().softmax(c.axis))
        return super().leave(c, result)


@mutant(
    CrossEntropy,
    row="MUT-02",
    issue="unslothai/unsloth#5002",
    needs="a look at the input after backward",
)
class GradientOverInputInBackward(CrossEntropy):
    """Backward writes the gradient where the input was."""

    def run(self, c: Classes) -> Tensor:
        given = c.input

        def over(grad: Tensor) -> Tensor:
            if 0 not in given.stride():
                given.data.copy_(grad.detach())
            return grad

        c.input = passed(given, over)
        return super().run(c)


@mutant(
    CrossEntropy,
    row="MUT-03",
    issue="NVIDIA-NeMo/Automodel#3918",
    needs="some ignored, and a look at the target afterwards",
)
class TargetFilled(CrossEntropy):
    """Ignored targets are replaced by class 0 in the caller's tensor."""

    def mask(self, c: Classes) -> None:
        super().mask(c)
        if not c.soft and c.ignore_index not in (0, *range(256)):
            c.target.masked_fill_(c.target == c.ignore_index, 0)


# === refusals =============================================================================


@mutant(NLL, row="ERR-01", issue="pytorch/pytorch#32049", needs="a negative target, unreduced")
class NegativeTargetsWrap(NLL):
    """Without a reduction a negative target counts from the last class."""

    def check_range(self, c: Classes) -> None:
        if c.reduction == "none":
            c.t = c.t.where(~c.kept | (c.t >= 0) | (c.t < -c.count), c.t + c.count)
        super().check_range(c)


@mutant(CrossEntropy, NLL, row="ERR-02", issue="pytorch/pytorch#66872", needs="target >= C")
class TargetsClamped(NLL):
    """Targets beyond the last class are taken for the last."""

    def check_range(self, c: Classes) -> None:
        c.t = c.t.where(~c.kept | (c.t < c.count), c.count - 1)
        super().check_range(c)


@mutant(
    CrossEntropy,
    row="ERR-03",
    issue="pytorch/pytorch#12670",
    needs="a negative target other than ignore_index, unreduced",
)
class NegativeTargetsIgnored(CrossEntropy):
    """Without a reduction every negative target is ignored."""

    def counted(self, c: Classes) -> Tensor:
        kept = super().counted(c)
        return kept & (c.t >= 0) if c.reduction == "none" else kept


@mutant(CrossEntropy, NLL, row="ERR-06", issue="pytorch/pytorch#43527", needs="unknown reduction")
class UnknownReductionIsNone(NLL):
    """A reduction of an unknown name returns the unreduced loss."""

    def check_reduction(self, c: Classes) -> None:
        if c.reduction not in REDUCTIONS:
            c.reduction = "none"


# === modes and modules ====================================================================


@mutant(
    CrossEntropy,
    row="MOD-05",
    issue="linkedin/Liger-Kernel#507",
    needs="no gradient wanted",
)
class NothingWithoutGradient(CrossEntropy):
    """Where no gradient is wanted the loss is 0."""

    def losses(self, c: Classes, log_p: Tensor) -> Tensor:
        losses = super().losses(c, log_p)
        return losses if c.input.requires_grad else torch.zeros_like(losses)


@mutant(
    "nll_loss",
    row="MOD-02",
    issue="pytorch/pytorch#2077",
    needs="a pickled module",
    surface="class",
)
class IgnoreIndexNotPickled(torch.nn.NLLLoss):
    """A module that comes out of a pickle lacks ignore_index."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "ignore_index"}


@mutant(
    "cross_entropy",
    row="MOD-03",
    issue="pytorch/rl#1594",
    needs="a state_dict from before the first call",
    surface="class",
)
class WeightRegisteredLate(torch.nn.CrossEntropyLoss):
    """The weight enters the state_dict only with the first call."""

    def __init__(self, weight: Tensor | None = None, **options: Any) -> None:
        super().__init__(None, **options)
        self.late = weight

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        if self.weight is None and self.late is not None:
            self.register_buffer("weight", self.late)
        return super().forward(input, target)


@mutant(
    "cross_entropy",
    issue="Project-MONAI/MONAI#8819",
    needs="a module that was moved to another device after it was given a weight",
    surface="class",
)
class WeightLeftBehind(torch.nn.CrossEntropyLoss):
    """The weight is a plain attribute, which stays where it was when the module is moved."""

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


@mutant(
    "cross_entropy",
    row="LSM-02",
    issue="linkedin/Liger-Kernel#243",
    needs="smoothing, given to the constructor",
    surface="class",
)
class SmoothingNotForwarded(torch.nn.CrossEntropyLoss):
    """The module takes label_smoothing and does not hand it on."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )
