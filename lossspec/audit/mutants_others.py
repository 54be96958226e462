"""Wrong losses of the other kinds, re-created from bugs that libraries had."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lossspec.audit import mutant
from lossspec.audit.controls_others import (
    BCE,
    CTC,
    LOWEST,
    AnalyticBCE,
    CosineEmbedding,
    Distance,
    Gaussian,
    HingeEmbedding,
    Lengths,
    MarginRanking,
    MultiLabelMargin,
    MultiLabelSoftMargin,
    MultiMargin,
    Plain,
    Poisson,
    SoftMargin,
    Triplet,
    TripletWithDistance,
)
from lossspec.audit.right import (
    REDUCTIONS,
    dense_reading,
    first_gradient,
    passed,
    shares_memory,
    wide,
)

#: Rows in a chunk, where a mutant works in chunks.
CHUNK = 4


def with_slope_of(value: Tensor, other: Tensor) -> Tensor:
    """The one's value with the other's gradient."""
    return value.detach() + (other - other.detach())


# === reductions ===========================================================================


@mutant(
    BCE,
    Poisson,
    HingeEmbedding,
    row="AUT-03",
    issue="huggingface/transformers#25938",
    needs="float16, and a sum past its largest number",
)
class MeanSumsInHalf(Plain):
    """The mean sums in the dtype of the inputs, which overflows in float16."""

    def leave(self, losses: Tensor, reduction: str, like: Tensor) -> Tensor:
        if reduction != "mean":
            return super().leave(losses, reduction, like)
        return (losses.to(like.dtype).sum() / self.divisor(losses)).to(like.dtype)


@mutant(
    Poisson,
    HingeEmbedding,
    MarginRanking,
    SoftMargin,
    row="ERR-06",
    issue="pytorch/pytorch#43527",
    needs="an unknown reduction",
)
class UnknownReductionIsNone(Plain):
    """A reduction of an unknown name returns the unreduced loss."""

    def check_reduction(self, reduction: str) -> None:
        pass

    def reduce(self, losses: Tensor, reduction: str) -> Tensor:
        return super().reduce(losses, reduction if reduction in REDUCTIONS else "none")


@mutant(SoftMargin, Gaussian, row="EMP-04", issue="pytorch/pytorch#144104", needs="no elements")
class ZeroWhenEmpty(Plain):
    """The mean of nothing is 0, not nan."""

    def divisor(self, losses: Tensor) -> Tensor:
        return super().divisor(losses).clamp(min=1)


@mutant(BCE, row="EMP-06", issue="pytorch/pytorch#196204", needs="no elements")
@mutant(MultiLabelMargin, row="EMP-07", issue="pytorch/pytorch#46975", needs="no samples")
class RaisesWhenEmpty(Plain):
    """Nothing to sum is an error."""

    def check_sizes(self, *tensors: Tensor) -> None:
        super().check_sizes(*tensors)
        if not tensors[0].numel():
            raise RuntimeError("expected a non-empty tensor")


@mutant(Triplet, row="SHP-15", issue="linkedin/Liger-Kernel#435", needs="no reduction")
class NoneSums(Plain):
    """Without a reduction the result is the sum."""

    def reduce(self, losses: Tensor, reduction: str) -> Tensor:
        return super().reduce(losses, "sum" if reduction == "none" else reduction)


@mutant(
    CosineEmbedding,
    row="RED-06",
    issue="huggingface/transformers#34191",
    needs="more rows than a chunk, and a ragged last one",
)
class MeanOfChunkMeans(Plain):
    """The mean is the mean of the means of chunks, also when the last is shorter."""

    def reduce(self, losses: Tensor, reduction: str) -> Tensor:
        if reduction != "mean" or not losses.ndim or not losses.numel():
            return super().reduce(losses, reduction)
        return torch.stack([part.mean() for part in torch.split(losses, CHUNK)]).mean()


@mutant(
    MultiMargin,
    row="RED-05",
    issue="NVIDIA-NeMo/Automodel#3803",
    needs="more rows than a chunk",
)
class SumOfChunkMeans(Plain):
    """The mean is the sum of the means of chunks."""

    def reduce(self, losses: Tensor, reduction: str) -> Tensor:
        if reduction != "mean" or not losses.ndim or not losses.numel():
            return super().reduce(losses, reduction)
        return torch.stack([part.mean() for part in torch.split(losses, CHUNK)]).sum()


@mutant(Triplet, row="RED-01", issue="qubvel-org/segmentation_models.pytorch#852", needs="a 0")
class MeanOfActive(Plain):
    """The mean counts only what costs something."""

    def divisor(self, losses: Tensor) -> Tensor:
        active = (losses > 0).sum()
        return active.to(wide(losses).dtype) if active else super().divisor(losses)


@mutant(
    Poisson,
    row="RED-15",
    issue="ROCm/TransformerEngine#336",
    needs="no reduction, and more than one element",
)
class NoneScalesGradient(Plain):
    """Without a reduction the gradient is divided by the number of elements."""

    def reduce(self, losses: Tensor, reduction: str) -> Tensor:
        if reduction == "none":
            return passed(losses, lambda grad: grad / max(1, grad.numel()))
        return super().reduce(losses, reduction)


# === gradients ============================================================================


@mutant(
    SoftMargin,
    MultiMargin,
    row="GRD-01",
    issue="pytorch/pytorch#94226",
    needs="an upstream gradient other than 1",
)
class UpstreamIgnored(Plain):
    """Backward takes the upstream gradient for 1."""

    def leave(self, losses: Tensor, reduction: str, like: Tensor) -> Tensor:
        return passed(super().leave(losses, reduction, like), torch.ones_like)


@mutant(
    Triplet,
    CosineEmbedding,
    row="GRD-03",
    issue="linkedin/Liger-Kernel#1298",
    needs="no reduction, and an upstream gradient that differs by row",
)
class UpstreamOfFirstRow(Plain):
    """Without a reduction backward multiplies each row by the first upstream gradient."""

    def leave(self, losses: Tensor, reduction: str, like: Tensor) -> Tensor:
        def first(grad: Tensor) -> Tensor:
            return grad.flatten()[0].expand_as(grad) if grad.numel() else grad

        return passed(super().leave(losses, reduction, like), first)


@mutant(MarginRanking, row="GRD-17", issue="paiml/aprender#2188", needs="a gradient")
class GraphCut(Plain):
    """Nothing gets a gradient."""

    def leave(self, losses: Tensor, reduction: str, like: Tensor) -> Tensor:
        return super().leave(losses, reduction, like).detach()


@mutant(CosineEmbedding, row="MOD-05", issue="linkedin/Liger-Kernel#507", needs="no gradient")
class NothingWithoutGradient(Plain):
    """When nothing requires a gradient the loss is 0."""

    def leave(self, losses: Tensor, reduction: str, like: Tensor) -> Tensor:
        result = super().leave(losses, reduction, like)
        return result if losses.requires_grad else torch.zeros_like(result)


@mutant(
    CosineEmbedding,
    row="GRD-25",
    issue="pytorch/pytorch#1058",
    needs="a reduction, and an upstream gradient other than 1",
)
class ScaledBackwardRaises(Plain):
    """Under a reduction backward raises when the upstream gradient is not 1."""

    def leave(self, losses: Tensor, reduction: str, like: Tensor) -> Tensor:
        def one(grad: Tensor) -> Tensor:
            if reduction != "none" and (grad != 1).any():
                raise RuntimeError("inconsistent tensor size")
            return grad

        return passed(super().leave(losses, reduction, like), one)


# === dtypes, memory =======================================================================


@mutant(SoftMargin, Gaussian, row="DTY-08", issue="pytorch/pytorch#176844", needs="not float32")
class FloatResult(Plain):
    """The result is float32, whatever the inputs are."""

    def leave(self, losses: Tensor, reduction: str, like: Tensor) -> Tensor:
        return super().leave(losses, reduction, like).float()


@mutant(Gaussian, Triplet, row="DTY-03", issue="pytorch/pytorch#64163", needs="float64")
class ComputesInFloat32(Plain):
    """Everything is computed in float32, float64 too."""

    def work(self, x: Tensor) -> Tensor:
        return x.float()


@mutant(Triplet, row="DTY-13", issue="NVIDIA/apex#211", needs="float16, and squares past its ends")
@mutant(
    CosineEmbedding,
    row="DTY-13",
    issue="NVIDIA/apex#211",
    needs="float16, and squares past its ends",
    awaits="a budget that does not forgive what overflows on the way to a cosine in float16",
    witness=lambda loss: loss(*(torch.full(size, 500.0).half() for size in ((2,), (2,), ()))),
)
class ComputesInHalf(Plain):
    """Half precisions are computed in themselves, step by step."""

    def work(self, x: Tensor) -> Tensor:
        return x

    def norm(self, z: Tensor, p: float) -> Tensor:
        power: Tensor = (z.abs() ** p).sum(-1)
        return torch.where(power > 0, torch.where(power > 0, power, 1) ** (1 / p), 0)

    def length(self, a: Tensor) -> Tensor:
        return self.norm(a, 2)


@mutant(SoftMargin, row="DET-01", issue="pytorch/pytorch#17350", needs="a second call")
@mutant(CTC, row="DET-02", issue="pytorch/pytorch#17798", needs="a second call")
class Noisy(Plain):
    """Each call adds another rounding error."""

    def reduce(self, losses: Tensor, reduction: str) -> Tensor:
        result = super().reduce(losses, reduction)
        return result * (1 + 1e-7 * torch.rand_like(result))


@mutant(
    HingeEmbedding,
    row="MUT-05",
    issue="sollynoay/MMP-RNN#4",
    needs="a look at the inputs afterwards",
)
class InPlace(Plain):
    """The unreduced loss is computed in the memory of the input."""

    def leave(self, losses: Tensor, reduction: str, like: Tensor) -> Tensor:
        if not shares_memory(like):
            like.data.copy_(losses.detach())
        return super().leave(losses, reduction, like)


@mutant(
    MultiLabelSoftMargin,
    row="MUT-01",
    issue="linkedin/Liger-Kernel#272",
    needs="a look at the inputs after backward",
)
class BackwardWritesInput(MultiLabelSoftMargin):
    """Backward puts the gradient into the memory of the input."""

    def element(self, x: Tensor, y: Tensor) -> Tensor:
        memory = x.data

        def kept(grad: Tensor) -> Tensor:
            if not shares_memory(memory):
                memory.copy_(grad)
            return grad

        return super().element(passed(x, kept), y)


@mutant(HingeEmbedding, row="LAY-03", issue="unslothai/unsloth#10713", needs="a strided target")
class TargetStridesIgnored(HingeEmbedding):
    """The target is read as if it lay densely in memory."""

    def element(self, x: Tensor, y: Tensor, margin: float) -> Tensor:
        return super().element(x, dense_reading(y), margin)


# === refusals =============================================================================


def taken(loss: Any, *tensors: Tensor) -> Tensor:
    """Whether a call is accepted."""
    try:
        loss(*tensors)
    except ValueError:
        return torch.tensor(False)
    return torch.tensor(True)


@mutant(SoftMargin, row="SHP-03", issue="pytorch/pytorch#16045", needs="(N, 1) and (N)")
@mutant(BCE, row="SHP-02", issue="pytorch/pytorch#1939", needs="(N, 1) and (N)")
@mutant(
    MultiLabelSoftMargin,
    row="SHP-02",
    issue="pytorch/pytorch#1939",
    needs="a target (N, 1)",
    awaits="calls with another tensor that has size 1 where the input has classes or coordinates",
    witness=lambda loss: taken(loss, torch.ones(2, 3), torch.ones(2, 1)),
)
@mutant(
    CosineEmbedding,
    row="SHP-21",
    issue="pytorch/pytorch#112782",
    needs="a second input (N, 1)",
    awaits="calls with another tensor that has size 1 where the input has classes or coordinates",
    witness=lambda loss: taken(loss, torch.ones(2, 3), torch.ones(2, 1), torch.ones(2)),
)
class SizesUnchecked(Plain):
    """Inputs of different sizes broadcast without a warning."""

    def check_sizes(self, *tensors: Tensor) -> None:
        pass


# === binary_cross_entropy =================================================================


@mutant(BCE, row="STB-02", issue="pytorch/pytorch#13773", needs="an input of 0 or 1")
class NoFloor(BCE):
    """Logarithms have no floor, so 0 times -inf is nan."""

    def log(self, p: Tensor) -> Tensor:
        return p.log()


@mutant(BCE, row="GRD-12", issue="google-deepmind/optax#1786", needs="an input of 0 or 1")
class FloorBehindLogarithm(BCE):
    """The floor is put behind the logarithm, whose gradient at 0 then is nan."""

    def log(self, p: Tensor) -> Tensor:
        return p.log().clamp(min=LOWEST)


@mutant(BCE, row="STB-17", issue="fizyr/keras-retinanet#706", needs="an input near 0 or 1")
class ProbabilityClamped(BCE):
    """Probabilities are kept 1e-7 away from 0."""

    def log(self, p: Tensor) -> Tensor:
        return p.clamp(min=1e-7).log()


@mutant(BCE, row="EMP-12", issue="KevinMusgrave/pytorch-metric-learning#98", needs="a small input")
class EpsilonAdded(BCE):
    """An epsilon is added to each probability instead of a floor."""

    def log(self, p: Tensor) -> Tensor:
        return (p + 1e-12).log()


@mutant(BCE, row="ERR-09", issue="pytorch/pytorch#51866", needs="an input outside [0, 1]")
class InputUnchecked(BCE):
    """An input beyond 0 or 1 gives a number."""

    def check_range(self, *tensors: Tensor) -> None:
        super().check_range(*tensors[1:])


@mutant(BCE, row="CMP-01", issue="pytorch/pytorch#193757", needs="a target outside [0, 1]")
class TargetUnchecked(BCE):
    """A target beyond 0 or 1 gives a number."""

    def check_range(self, *tensors: Tensor) -> None:
        super().check_range(*tensors[:1])


@mutant(BCE, row="GRD-10", issue="pytorch/pytorch#56683", needs="a target with a gradient")
class TargetGradientRaises(BCE):
    """A target that requires a gradient is an error."""

    def check_range(self, *tensors: Tensor) -> None:
        super().check_range(*tensors)
        if tensors[1].requires_grad:
            raise RuntimeError("the derivative for 'target' is not implemented")


@mutant(BCE, row="GRD-09", issue="linkedin/Liger-Kernel#1021", needs="a target with a gradient")
class TargetDetached(BCE):
    """The target gets no gradient."""

    def element(self, x: Tensor, y: Tensor) -> Tensor:
        return super().element(x, y.detach())


@mutant(BCE, row="MUT-04", issue="eladhoffer/utils.pytorch#13", needs="a second call")
class TargetSmoothedInPlace(BCE):
    """The target is drawn towards 1/2 where it lies in memory."""

    def check_range(self, *tensors: Tensor) -> None:
        super().check_range(*tensors)
        if not shares_memory(tensors[1]):
            tensors[1].data.mul_(0.75).add_(0.125)


@mutant(BCE, row="RED-04", issue="tensorflow/tensorflow#34491", needs="weight")
class DividesByWeight(BCE):
    """The mean divides by the sum of the weights, not by the number of elements."""

    def weighted(self, losses: Tensor, weight: Tensor | None) -> Tensor:
        self.weight = None if weight is None else self.work(weight).expand(losses.shape)
        return super().weighted(losses, weight)

    def divisor(self, losses: Tensor) -> Tensor:
        return super().divisor(losses) if self.weight is None else self.weight.sum()


@mutant(BCE, row="LSM-03", issue="huggingface/transformers#43240", needs="weight")
class WeightIgnored(BCE):
    """The weight is taken and not used."""

    def weighted(self, losses: Tensor, weight: Tensor | None) -> Tensor:
        return losses


@mutant(BCE, row="VAL-07", issue="qubvel/segmentation_models#187", needs="weight, and a target")
class WeightOfPositive(BCE):
    """The weight counts for the positive part only."""

    def weighted(self, losses: Tensor, weight: Tensor | None) -> Tensor:
        return losses * self.positive + super().weighted(losses, weight) * (1 - self.positive)

    def element(self, x: Tensor, y: Tensor) -> Tensor:
        self.positive = 1 - y.detach()
        return super().element(x, y)


class _SummedSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, slope: Tensor, grad: Tensor) -> Tensor:
        ctx.save_for_backward(slope, grad)
        return slope * grad

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        slope, grad = ctx.saved_tensors
        return (grads[0] * grad).sum().expand(slope.shape), grads[0] * slope


class _SummedBCE(AnalyticBCE):
    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        by_x, by_y = AnalyticBCE.backward(ctx, torch.ones_like(grads[0]))
        summed = _SummedSlope.apply(by_x, grads[0])  # type: ignore[no-untyped-call]
        return summed, grads[0] * by_y


@mutant(BCE, row="DBL-01", issue="pytorch/pytorch#59477", needs="the second derivative")
class SecondDerivativeSummed(BCE):
    """The second derivative of each element is that of all of them."""

    def element(self, x: Tensor, y: Tensor) -> Tensor:
        result: Tensor = _SummedBCE.apply(x, y)  # type: ignore[no-untyped-call]
        return result


# === poisson_nll_loss =====================================================================


@mutant(Poisson, row="VAL-01", issue="pytorch/pytorch#28575", needs="full, and a target above 1")
class StirlingDropped(Poisson):
    """Stirling's approximation is never added."""

    def log_factorial(self, y: Tensor) -> Tensor:
        return torch.zeros_like(y)


@mutant(Poisson, row="VAL-02", issue="PaddlePaddle/Paddle#56733", needs="full, a target around 1")
class StirlingMaskedByItself(Poisson):
    """Stirling's approximation is added where it is above 1, not where the target is."""

    def log_factorial(self, y: Tensor) -> Tensor:
        right = self.stirling(torch.where(y > 0, y, 1))
        return torch.where((y > 0) & (right > 1), right, 0)


@mutant(Poisson, row="VAL-02", issue="PaddlePaddle/Paddle#56733", needs="full, a target below 1")
class StirlingUnmasked(Poisson):
    """Stirling's approximation is added to targets up to 1 as well, but for 0."""

    def log_factorial(self, y: Tensor) -> Tensor:
        return torch.where(y > 0, self.stirling(torch.where(y > 0, y, 1)), 0)


@mutant(Poisson, row="IGN-07", issue="pytorch/pytorch#192685", needs="full, a target of 0")
class StirlingMaskedByFactor(Poisson):
    """Stirling's approximation is multiplied by the mask, which leaves 0 times nan at 0."""

    def log_factorial(self, y: Tensor) -> Tensor:
        return self.stirling(y) * (y > 1)


@mutant(Poisson, row="CMP-05", issue="pytorch/pytorch#170745", needs="full, and float64")
class StirlingInFloat32(Poisson):
    """Stirling's approximation is computed in float32."""

    def stirling(self, y: Tensor) -> Tensor:
        return super().stirling(y.float()).to(y.dtype)


@mutant(Poisson, row="STB-11", issue="pytorch/pytorch#3336", needs="a rate of 0")
class EpsilonForgotten(Poisson):
    """The logarithm of the rate is taken without epsilon."""

    def of_rate(self, x: Tensor, y: Tensor, eps: float) -> Tensor:
        return x - y * x.log()


@mutant(Poisson, row="LSM-02", issue="linkedin/Liger-Kernel#243", needs="another epsilon")
class EpsilonFixed(Poisson):
    """Epsilon is always 1e-8."""

    def of_rate(self, x: Tensor, y: Tensor, eps: float) -> Tensor:
        return super().of_rate(x, y, 1e-8)


@mutant(Poisson, row="LSM-03", issue="huggingface/transformers#43240", needs="log_input=False")
class AlwaysLogarithm(Poisson):
    """The input is always taken for a logarithm."""

    def of_rate(self, x: Tensor, y: Tensor, eps: float) -> Tensor:
        return self.of_log_rate(x, y)


@mutant(Poisson, row="GRD-08", issue="pytorch/pytorch#3876", needs="a target with a gradient")
class TargetOfRateDetached(Poisson):
    """With a rate the target's gradient is that of Stirling's approximation alone."""

    def of_rate(self, x: Tensor, y: Tensor, eps: float) -> Tensor:
        return super().of_rate(x, y.detach(), eps)


# === gaussian_nll_loss ====================================================================


@mutant(Gaussian, row="SHP-08", issue="pytorch/pytorch#56469", needs="no reduction, two axes")
class SummedOverLast(Gaussian):
    """Without a reduction the last axis is summed."""

    def reduce(self, losses: Tensor, reduction: str) -> Tensor:
        if reduction == "none" and losses.ndim > 1:
            return losses.sum(-1)
        return super().reduce(losses, reduction)


@mutant(Gaussian, row="SHP-09", issue="pytorch/pytorch#147521", needs="a variance for all channels")
class OnlyLastAxisBroadcasts(Gaussian):
    """A variance with an axis of size 1 other than the last is refused."""

    def fitted(self, var: Tensor, input: Tensor) -> Tensor:
        right = super().fitted(var, input)
        if right.shape[:-1] != input.shape[:-1]:
            raise ValueError("var is of incorrect size")
        return right


@mutant(
    Gaussian,
    row="SHP-11",
    issue="pytorch/pytorch#53392",
    needs="as many samples as features, and a variance for each sample",
)
class VarianceTransposed(Gaussian):
    """A variance for each sample is taken for one for each feature when their numbers agree."""

    def fitted(self, var: Tensor, input: Tensor) -> Tensor:
        if var.ndim == 1 and input.ndim == 2 and var.shape[0] == input.shape[1]:
            return var
        return super().fitted(var, input)


@mutant(Gaussian, row="ERR-16", issue="pytorch/pytorch#149131", needs="a number for the variance")
class VarianceMustBeTensor(Gaussian):
    """A variance that is a number raises."""

    def __call__(
        self,
        input: Tensor,
        target: Tensor,
        var: Tensor | float,
        full: bool = False,
        eps: float = 1e-6,
        reduction: str = "mean",
    ) -> Tensor:
        assert isinstance(var, Tensor)
        return super().__call__(input, target, var, full, eps, reduction)


@mutant(Gaussian, row="GRD-17", issue="paiml/aprender#2188", needs="a variance below epsilon")
class ClampSeenByAutograd(Gaussian):
    """A variance below epsilon gets no gradient."""

    def bounded(self, v: Tensor, eps: float) -> Tensor:
        return torch.where(v < eps, eps, v)


@mutant(Gaussian, row="STB-11", issue="pytorch/pytorch#3336", needs="a variance below epsilon")
class VarianceNotBounded(Gaussian):
    """Epsilon is not used."""

    def bounded(self, v: Tensor, eps: float) -> Tensor:
        return v


@mutant(
    Gaussian, row="EMP-12", issue="KevinMusgrave/pytorch-metric-learning#98", needs="an epsilon"
)
class EpsilonPlusVariance(Gaussian):
    """Epsilon is added to the variance."""

    def bounded(self, v: Tensor, eps: float) -> Tensor:
        return v + eps


@mutant(Gaussian, row="VAL-01", issue="pytorch/pytorch#28575", needs="full")
class ConstantDropped(Gaussian):
    """The constant is never added."""

    def constant(self) -> float:
        return 0.0


@mutant(Gaussian, row="VAL-01", issue="pytorch/pytorch#28575", needs="full")
class ConstantTwice(Gaussian):
    """The constant is log 2π, not half of it."""

    def constant(self) -> float:
        return math.log(2 * math.pi)


@mutant(Gaussian, row="CMP-02", issue="pytorch/pytorch#194501", needs="a variance below 0")
class VarianceUnchecked(Gaussian):
    """A negative variance counts as epsilon."""

    def check_variance(self, var: Tensor) -> None:
        pass


# === hinge_embedding_loss =================================================================


@mutant(HingeEmbedding, row="MOD-01", issue="pytorch/pytorch#1378", needs="another margin")
class MarginAlwaysOne(HingeEmbedding):
    """The margin is always 1."""

    def element(self, x: Tensor, y: Tensor, margin: float) -> Tensor:
        return super().element(x, y, 1.0)


@mutant(HingeEmbedding, row="GRD-24", issue="pytorch/pytorch#3773", needs="two axes")
class MaskOfFirstColumn(HingeEmbedding):
    """Backward takes the first target of each row for the whole row."""

    def element(self, x: Tensor, y: Tensor, margin: float) -> Tensor:
        right = super().element(x, y, margin)
        if y.ndim < 2 or not y.numel():
            return right
        return with_slope_of(right, super().element(x, y[..., :1].expand_as(y), margin))


@mutant(HingeEmbedding, row="VAL-09", issue="marlbenchmark/on-policy#47", needs="a large distance")
class UnlikeNotHinged(HingeEmbedding):
    """Distances beyond the margin get a negative loss."""

    def element(self, x: Tensor, y: Tensor, margin: float) -> Tensor:
        return torch.where(y == 1, x, margin - x)


@mutant(HingeEmbedding, row="VAL-07", issue="qubvel/segmentation_models#187", needs="any pair")
class BranchesSwapped(HingeEmbedding):
    """Like pairs are treated as unlike ones."""

    def element(self, x: Tensor, y: Tensor, margin: float) -> Tensor:
        return super().element(x, -y, margin)


@mutant(HingeEmbedding, row="VAL-10", issue="mlpack/mlpack#2444", needs="a negative input")
class LikeHinged(HingeEmbedding):
    """Like pairs at a negative distance cost nothing."""

    def element(self, x: Tensor, y: Tensor, margin: float) -> Tensor:
        return super().element(x, y, margin).relu()


# === margin_ranking_loss ==================================================================


@mutant(MarginRanking, row="MOD-01", issue="pytorch/pytorch#1378", needs="a margin")
class MarginAlwaysZero(MarginRanking):
    """The margin is always 0."""

    def element(self, a: Tensor, b: Tensor, y: Tensor, margin: float) -> Tensor:
        return super().element(a, b, y, 0.0)


@mutant(MarginRanking, row="VAL-07", issue="qubvel/segmentation_models#187", needs="a margin, -1")
class MarginSigned(MarginRanking):
    """The margin is multiplied by the target."""

    def element(self, a: Tensor, b: Tensor, y: Tensor, margin: float) -> Tensor:
        return (y * (margin - (a - b))).relu()


@mutant(MarginRanking, row="VAL-10", issue="mlpack/mlpack#2444", needs="a target of -1")
class SignIgnored(MarginRanking):
    """The first score is always to lead."""

    def element(self, a: Tensor, b: Tensor, y: Tensor, margin: float) -> Tensor:
        return super().element(a, b, y.abs(), margin)


@mutant(MarginRanking, row="GRD-08", issue="pytorch/pytorch#3876", needs="a second gradient")
class SecondInputDetached(MarginRanking):
    """The second score gets no gradient."""

    def element(self, a: Tensor, b: Tensor, y: Tensor, margin: float) -> Tensor:
        return super().element(a, b.detach(), y, margin)


@mutant(MarginRanking, row="SHP-04", issue="pytorch/pytorch#4938", needs="unequal shapes")
class SizesBroadcast(MarginRanking):
    """Tensors of different sizes broadcast."""

    def check_sizes(self, *tensors: Tensor) -> None:
        torch.broadcast_tensors(*tensors)  # type: ignore[no-untyped-call]


# === soft_margin_loss =====================================================================


@mutant(SoftMargin, row="STB-09", issue="pytorch/pytorch#77529", needs="a large or a small score")
class LogOfOnePlusExp(SoftMargin):
    """The logarithm of 1 plus an exponential, which overflows, and rounds to 0."""

    def element(self, x: Tensor, y: Tensor) -> Tensor:
        return (1 + (-y * x).exp()).log()


@mutant(
    SoftMargin, row="STB-10", issue="huggingface/sentence-transformers#4019", needs="a large score"
)
class LogOnePlusOverflows(SoftMargin):
    """Torch's log1p of an exponential that overflows."""

    def element(self, x: Tensor, y: Tensor) -> Tensor:
        return (-y * x).exp().log1p()


@mutant(SoftMargin, row="STB-21", issue="pytorch/pytorch#51906", needs="a large score")
class LogOfSigmoid(SoftMargin):
    """The logarithm of the sigmoid, which rounds to 0 and to 1."""

    def element(self, x: Tensor, y: Tensor) -> Tensor:
        return -(y * x).sigmoid().log()


@mutant(SoftMargin, row="STB-01", issue="pytorch/pytorch#2221", needs="a large score")
class ShiftedByWrongMaximum(SoftMargin):
    """The exponentials are shifted by the maximum of the wrong sign."""

    def element(self, x: Tensor, y: Tensor) -> Tensor:
        z = -y * x
        top = (-z).clamp(min=0).detach()
        return top + ((-top).exp() + (z - top).exp()).log()


@mutant(SoftMargin, row="GRD-05", issue="pytorch/pytorch#2298", needs="a score of exactly 0")
class WrongSlopeAtZero(SoftMargin):
    """A score of 0 gets the slope of torch.clamp, not of the logarithm."""

    def element(self, x: Tensor, y: Tensor) -> Tensor:
        z = -y * x
        return z.clamp(min=0) + (-z.abs()).exp().log1p()


class _Cancelling(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return F.softplus(z)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (z,) = ctx.saved_tensors
        return grads[0] * (1 - torch.sigmoid(-z))


@mutant(
    SoftMargin,
    row="GRD-26",
    issue="pytorch/pytorch#195677",
    needs="a large right score",
    awaits="a definition whose own gradient does not cancel (its budget allows what that loses)",
    witness=lambda loss: first_gradient(loss, torch.tensor([20.0]), torch.tensor([1.0])),
)
class CancellingSlope(SoftMargin):
    """The slope is 1 less a sigmoid, which cancels where the score is right."""

    def element(self, x: Tensor, y: Tensor) -> Tensor:
        result: Tensor = _Cancelling.apply(-y * x)  # type: ignore[no-untyped-call]
        return result


# === cosine_embedding_loss ================================================================


@mutant(CosineEmbedding, row="SHP-01", issue="pytorch/pytorch#53030", needs="a target (N, 1)")
class TargetBroadcasts(CosineEmbedding):
    """A target of shape (N, 1) broadcasts to (N, N)."""

    def check_shapes(self, input1: Tensor, input2: Tensor, target: Tensor) -> None:
        if target.shape != (*input1.shape[:-1], 1):
            super().check_shapes(input1, input2, target)


@mutant(CosineEmbedding, row="MOD-01", issue="pytorch/pytorch#1378", needs="a margin, and -1")
class MarginOfCosineIgnored(CosineEmbedding):
    """The margin is always 0."""

    def costs(self, cos: Tensor, y: Tensor, margin: float) -> Tensor:
        return super().costs(cos, y, 0.0)


@mutant(CosineEmbedding, row="VAL-09", issue="marlbenchmark/on-policy#47", needs="an obtuse angle")
class CosineNotHinged(CosineEmbedding):
    """Unlike pairs below the margin get a negative loss."""

    def costs(self, cos: Tensor, y: Tensor, margin: float) -> Tensor:
        return torch.where(y > 0, 1 - cos, cos - margin)


@mutant(
    CosineEmbedding,
    row="EMP-12",
    issue="KevinMusgrave/pytorch-metric-learning#98",
    needs="short vectors",
)
class EpsilonPlusLength(CosineEmbedding):
    """An epsilon is added to each length."""

    def length(self, a: Tensor) -> Tensor:
        return super().length(a) + 1e-5


@mutant(CosineEmbedding, row="GRD-08", issue="pytorch/pytorch#3876", needs="a second gradient")
class LengthDetached(CosineEmbedding):
    """Backward takes the lengths for constants."""

    def length(self, a: Tensor) -> Tensor:
        return super().length(a).detach()


# === triplet losses =======================================================================


@mutant(Triplet, row="ERR-07", issue="pytorch/pytorch#83241", needs="a margin of 0 or below")
class MarginUnchecked(Triplet):
    """Any margin is taken."""

    def check_parameters(self, margin: float, p: float) -> None:
        super().check_parameters(1.0, p)


@mutant(
    Triplet,
    row="GRD-16",
    issue="huggingface/sentence-transformers#4033",
    needs="anchor equal to positive, and eps=0",
)
class RootOfSquares(Triplet):
    """The gradient of the root of a sum of 0 is nan."""

    def norm(self, z: Tensor, p: float) -> Tensor:
        power: Tensor = (z.abs() ** p).sum(-1)
        return power ** (1 / p)


@mutant(Triplet, TripletWithDistance, row="LSM-03", issue="huggingface/transformers#43240")
class SwapIgnored(TripletWithDistance):
    """The distance of the negative is always that from the anchor."""

    def far(self, distance: Distance, a: Tensor, x: Tensor, y: Tensor, swap: bool) -> Tensor:
        return super().far(distance, a, x, y, False)


@mutant(
    Triplet, TripletWithDistance, row="VAL-07", issue="qubvel/segmentation_models#187", needs="swap"
)
class SwapTakesFarther(TripletWithDistance):
    """With swap the negative's distance is the larger one."""

    def far(self, distance: Distance, a: Tensor, x: Tensor, y: Tensor, swap: bool) -> Tensor:
        far = distance(a, y)
        return torch.maximum(far, distance(x, y)) if swap else far


@mutant(Triplet, TripletWithDistance, row="GRD-08", issue="pytorch/pytorch#3876", needs="swap")
class SwappedDetached(TripletWithDistance):
    """With swap the distance from the positive to the negative gives no gradient."""

    def far(self, distance: Distance, a: Tensor, x: Tensor, y: Tensor, swap: bool) -> Tensor:
        far = distance(a, y)
        return torch.minimum(far, distance(x, y).detach()) if swap else far


@mutant(Triplet, TripletWithDistance, row="VAL-09", issue="marlbenchmark/on-policy#47")
class TripletNotHinged(TripletWithDistance):
    """A lead beyond the margin is a negative loss."""

    def costs(self, near: Tensor, far: Tensor, margin: float) -> Tensor:
        return near - far + margin


@mutant(
    TripletWithDistance,
    row="STB-10",
    issue="huggingface/sentence-transformers#4019",
    needs="any triplet near its margin",
)
class TripletSoftened(TripletWithDistance):
    """A softplus stands for the hinge."""

    def costs(self, near: Tensor, far: Tensor, margin: float) -> Tensor:
        return F.softplus(near - far + margin)


@mutant(Triplet, row="LSM-02", issue="linkedin/Liger-Kernel#243", needs="p other than 2")
class DegreeIgnored(Triplet):
    """The norm is always the Euclidean one."""

    def distance(self, x: Tensor, y: Tensor, p: float, eps: float) -> Tensor:
        return super().distance(x, y, 2, eps)


@mutant(Triplet, row="LSM-02", issue="linkedin/Liger-Kernel#243", needs="another eps")
class EpsOfTripletIgnored(Triplet):
    """Epsilon is always 1e-6."""

    def distance(self, x: Tensor, y: Tensor, p: float, eps: float) -> Tensor:
        return super().distance(x, y, p, 1e-6)


@mutant(Triplet, row="EMP-12", issue="KevinMusgrave/pytorch-metric-learning#98", needs="an eps")
class EpsOutsideNorm(Triplet):
    """Epsilon is added to the norm, not to the differences."""

    def distance(self, x: Tensor, y: Tensor, p: float, eps: float) -> Tensor:
        return self.norm(x - y, p) + eps


@mutant(Triplet, row="VAL-10", issue="mlpack/mlpack#2444", needs="an eps, and a negative residual")
class EpsOnAbsoluteDifference(Triplet):
    """Epsilon is added to the absolute differences."""

    def distance(self, x: Tensor, y: Tensor, p: float, eps: float) -> Tensor:
        return self.norm((x - y).abs() + eps, p)


@mutant(
    TripletWithDistance,
    row="LSM-03",
    issue="huggingface/transformers#43240",
    needs="a distance function",
)
class DistanceIgnored(TripletWithDistance):
    """The distance is always the Euclidean one."""

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
        if anchor.ndim == 2:
            distance = self.euclidean
        return super().run(anchor, positive, negative, distance, margin, swap, reduction)


@mutant(
    TripletWithDistance, row="STB-19", issue="meituan/YOLOv6#582", needs="anchor equal to positive"
)
class DistanceWithoutEpsilon(TripletWithDistance):
    """The distance that is taken when none is given adds no epsilon."""

    def euclidean(self, x: Tensor, y: Tensor) -> Tensor:
        return self.norm(x - y, 2.0)


# === multi_margin_loss ====================================================================


class _Included(MultiMargin):
    def row(self, x: Tensor, t: Tensor, p: int, margin: float) -> Tensor:
        gap = (margin - self.score(x, t) + x).relu()
        return (gap if p == 1 else gap * gap).sum(-1) / x.shape[-1]


@mutant(MultiMargin, row="IGN-16", issue="pytorch/pytorch#185464", needs="a margin above 0")
class RightClassIncluded(_Included):
    """The right class counts as one of the others."""


@mutant(MultiMargin, row="VAL-13", issue="umbertogriffo/focal-loss-keras#12", needs="any row")
class DividesByOthers(MultiMargin):
    """The sum is divided by the number of the other classes."""

    def row(self, x: Tensor, t: Tensor, p: int, margin: float) -> Tensor:
        return super().row(x, t, p, margin) * x.shape[-1] / max(1, x.shape[-1] - 1)


@mutant(MultiMargin, row="LSM-02", issue="linkedin/Liger-Kernel#243", needs="p=2")
class PowerIgnored(MultiMargin):
    """The power is always 1."""

    def row(self, x: Tensor, t: Tensor, p: int, margin: float) -> Tensor:
        return super().row(x, t, 1, margin)


@mutant(MultiMargin, row="MOD-01", issue="pytorch/pytorch#1378", needs="p=2, and another margin")
class MarginOfSquaresIgnored(MultiMargin):
    """With p=2 the margin is always 1."""

    def row(self, x: Tensor, t: Tensor, p: int, margin: float) -> Tensor:
        return super().row(x, t, p, margin if p == 1 else 1.0)


class _Weighted(MultiMargin):
    """Its rows are weighted by another method than the right one's."""

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
        self.check_shapes(input, target, weight)
        self.weight = None if weight is None else self.seen(weight)
        return super().__call__(input, target, p, margin, None, reduction)

    def seen(self, weight: Tensor) -> Tensor:
        """The weight as it is read."""
        return self.work(weight)

    def row(self, x: Tensor, t: Tensor, p: int, margin: float) -> Tensor:
        losses = super().row(x, t, p, margin)
        return losses if self.weight is None else self.times(losses, self.weight[t], p)

    def times(self, losses: Tensor, weight: Tensor, p: int) -> Tensor:
        """The weighted losses."""
        return losses * weight


@mutant(MultiMargin, row="IGN-21", issue="pytorch/pytorch#104578", needs="weight, and a gradient")
class WeightNotInGradient(_Weighted):
    """Backward ignores the weight."""

    def times(self, losses: Tensor, weight: Tensor, p: int) -> Tensor:
        return with_slope_of(losses * weight, losses)


@mutant(
    MultiMargin,
    row="VAL-08",
    issue="gokulprasadthekkel/pytorch-multi-class-focal-loss#1",
    needs="weight, and p=2",
)
class WeightRaised(_Weighted):
    """The weight is raised to the power too."""

    def times(self, losses: Tensor, weight: Tensor, p: int) -> Tensor:
        return losses * weight**p


@mutant(MultiMargin, row="LAY-05", issue="pytorch/pytorch#104852", needs="a strided weight")
class WeightStridesIgnored(_Weighted):
    """The weight is read as if it lay densely in memory."""

    def seen(self, weight: Tensor) -> Tensor:
        return super().seen(dense_reading(weight))


@mutant(MultiMargin, row="RED-04", issue="tensorflow/tensorflow#34491", needs="weight")
class DividesByClassWeight(_Weighted):
    """The mean divides by the sum of the weights, not by the batch size."""

    def times(self, losses: Tensor, weight: Tensor, p: int) -> Tensor:
        self.total = weight.sum()
        return losses * weight

    def divisor(self, losses: Tensor) -> Tensor:
        return super().divisor(losses) if self.weight is None else self.total


@mutant(MultiMargin, row="LAY-05", issue="pytorch/pytorch#104852", needs="a weight of wrong length")
class WeightLengthUnchecked(MultiMargin):
    """A weight may have more entries than there are classes."""

    def check_shapes(self, input: Tensor, target: Tensor, weight: Tensor | None) -> None:
        if weight is not None and weight.ndim == 1:
            weight = weight[: input.shape[-1]]
        super().check_shapes(input, target, weight)


@mutant(MultiMargin, row="ERR-17", issue="pytorch/pytorch#106020", needs="a weight of two axes")
class BareAssertion(MultiMargin):
    """A weight of two axes fails an assertion that says nothing."""

    def check_shapes(self, input: Tensor, target: Tensor, weight: Tensor | None) -> None:
        if weight is not None and weight.ndim != 1:
            raise AssertionError  # not by `assert`, to which pytest may add a message
        super().check_shapes(input, target, weight)


@mutant(MultiMargin, row="ERR-10", issue="pytorch/pytorch#88648", needs="a class out of range")
class ClassClamped(MultiMargin):
    """A class out of range counts as the nearest one."""

    def check_classes(self, target: Tensor, classes: int) -> None:
        super().check_classes(target.clamp(0, max(0, classes - 1)), classes)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        return super().score(x, t.clamp(0, x.shape[-1] - 1))


@mutant(MultiMargin, row="ERR-01", issue="pytorch/pytorch#32049", needs="a negative class")
class ClassFromTheEnd(MultiMargin):
    """A negative class counts from the end."""

    def check_classes(self, target: Tensor, classes: int) -> None:
        wraps = (target < 0) & (target >= -classes)
        super().check_classes(torch.where(wraps, target + classes, target), classes)

    def row(self, x: Tensor, t: Tensor, p: int, margin: float) -> Tensor:
        return super().row(x, t.remainder(x.shape[-1]), p, margin)


@mutant(MultiMargin, row="DTY-12", issue="pytorch/pytorch#175151", needs="a floating target")
class ClassDtypeUnchecked(MultiMargin):
    """A target in a floating dtype is cast."""

    def check_classes(self, target: Tensor, classes: int) -> None:
        super().check_classes(target.long(), classes)

    def row(self, x: Tensor, t: Tensor, p: int, margin: float) -> Tensor:
        return super().row(x, t.long(), p, margin)


# === multilabel_margin_loss ===============================================================


@mutant(MultiLabelMargin, row="IGN-16", issue="pytorch/pytorch#185464", needs="padding")
class PaddingIsClassZero(MultiLabelMargin):
    """What is behind the list's end counts as class 0 among the terms."""

    def labels(self, t: Tensor, listed: Tensor) -> Tensor:
        self.padding = ~listed
        return super().labels(t, listed)

    def row(self, x: Tensor, t: Tensor, listed: Tensor) -> Tensor:
        right = super().row(x, t, listed)
        rest = ~self.labels(t, listed)
        gap = torch.where(rest, (1 - x[..., :1] + x).relu(), 0).sum(-1) / self.classes(x)
        return right + gap * self.padding.sum(-1)


@mutant(MultiLabelMargin, row="IGN-16", issue="pytorch/pytorch#185464", needs="classes behind a -1")
class ListGoesOn(MultiLabelMargin):
    """A -1 is left out, but does not end the list."""

    def listed(self, target: Tensor) -> Tensor:
        return target >= 0


@mutant(MultiLabelMargin, row="ERR-03", issue="pytorch/pytorch#12670", needs="an end before C")
class EndIsNoOther(MultiLabelMargin):
    """The classes behind the list's end do not count as others."""

    def __call__(self, input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
        self.behind = target.clamp(min=0)
        return super().__call__(input, target, reduction)

    def labels(self, t: Tensor, listed: Tensor) -> Tensor:
        return super().labels(self.behind, torch.ones_like(listed))


@mutant(MultiLabelMargin, row="ERR-11", issue="pytorch/pytorch#99410", needs="a class out of range")
class ListedClassClamped(MultiLabelMargin):
    """A class beyond the last counts as the last."""

    def check_classes(self, target: Tensor) -> None:
        super().check_classes(target.clamp(max=target.shape[-1] - 1))

    def row(self, x: Tensor, t: Tensor, listed: Tensor) -> Tensor:
        return super().row(x, t.clamp(max=x.shape[-1] - 1), listed)


@mutant(MultiLabelMargin, row="ERR-11", issue="pytorch/pytorch#99410", needs="a class above 2³¹")
class ClassTruncated(MultiLabelMargin):
    """A class is cut to 32 bits before it is checked."""

    def __call__(self, input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
        return super().__call__(input, target.int().long(), reduction)


@mutant(MultiLabelMargin, row="SHP-16", issue="pytorch/pytorch#186074", needs="no batch")
class OneSampleKeepsAxis(MultiLabelMargin):
    """Without a batch the unreduced loss has shape (1)."""

    def leave(self, losses: Tensor, reduction: str, like: Tensor) -> Tensor:
        result = super().leave(losses, reduction, like)
        return result.reshape(1) if reduction == "none" and not losses.ndim else result


@mutant(MultiLabelMargin, row="VAL-13", issue="umbertogriffo/focal-loss-keras#12", needs="any row")
class DividesByPairs(MultiLabelMargin):
    """The sum is divided by the square of the number of classes."""

    def classes(self, x: Tensor) -> int:
        return x.shape[-1] ** 2


# === multilabel_soft_margin_loss ==========================================================


@mutant(MultiLabelSoftMargin, row="RED-17", issue="pytorch/pytorch#9301", needs="no reduction")
class ClassesKept(MultiLabelSoftMargin):
    """Without a reduction each class has its own loss."""

    def average(self, losses: Tensor) -> Tensor:
        self.each = losses
        return super().average(losses)

    def reduce(self, losses: Tensor, reduction: str) -> Tensor:
        return self.each if reduction == "none" else super().reduce(losses, reduction)


@mutant(MultiLabelSoftMargin, row="STB-08", issue="pytorch/pytorch#1516", needs="a large score")
class LogarithmsOfSigmoids(MultiLabelSoftMargin):
    """The logarithms of sigmoids that round to 0 and 1."""

    def element(self, x: Tensor, y: Tensor) -> Tensor:
        p = x.sigmoid()
        return -(y * p.log() + (1 - y) * (1 - p).log())


@mutant(MultiLabelSoftMargin, row="RED-18", issue="apache/mxnet#18506", needs="more than one class")
class ClassesSummed(MultiLabelSoftMargin):
    """The loss is the sum over the classes."""

    def average(self, losses: Tensor) -> Tensor:
        return losses.sum(-1)


class _WithFactors(MultiLabelSoftMargin):
    def __call__(
        self,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        reduction: str = "mean",
    ) -> Tensor:
        """As `torch.nn.functional.multilabel_soft_margin_loss`."""
        self.weight = None if weight is None else self.work(weight)
        return super().__call__(input, target, weight, reduction)


@mutant(MultiLabelSoftMargin, row="RED-04", issue="tensorflow/tensorflow#34491", needs="weight")
class AveragedByWeight(_WithFactors):
    """The average over the classes divides by the sum of their weights."""

    def average(self, losses: Tensor) -> Tensor:
        if self.weight is None:
            return super().average(losses)
        return losses.sum(-1) / self.weight.sum()


@mutant(MultiLabelSoftMargin, row="VAL-03", issue="paiml/aprender#2204", needs="weight, a label 1")
class WeightOfLabels(_WithFactors):
    """The weight counts for labels of 1 only, as a pos_weight does."""

    def element(self, x: Tensor, y: Tensor) -> Tensor:
        if self.weight is None:
            return super().element(x, y)
        positive = -y * F.logsigmoid(x)
        return positive - (1 - y) * F.logsigmoid(-x) / torch.where(self.weight > 0, self.weight, 1)


# === ctc_loss =============================================================================


@mutant(CTC, row="GRD-20", issue="pytorch/pytorch#14401", needs="a shorter sequence")
class BackwardRunsToTheEnd(CTC):
    """Backward runs through all frames, also behind a shorter sequence's end."""

    def rows(
        self, lp: Tensor, targets: Tensor, frames: Tensor, lengths: Tensor, blank: int
    ) -> Tensor:
        right = super().rows(lp, targets, frames, lengths, blank)
        whole = super().rows(lp, targets, torch.full_like(frames, lp.shape[0]), lengths, blank)
        return with_slope_of(right, whole)


@mutant(CTC, row="GRD-20", issue="pytorch/pytorch#14401", needs="a shorter sequence")
class LengthsIgnored(CTC):
    """All sequences have all frames."""

    def runs(self, t: int, frames: Tensor) -> Tensor:
        return torch.ones_like(frames, dtype=torch.bool).unsqueeze(1)


@mutant(CTC, row="GRD-21", issue="pytorch/pytorch#18215", needs="an empty target")
class EmptyTargetHasNoGradient(CTC):
    """A sample with an empty target gets no gradient."""

    def rows(
        self, lp: Tensor, targets: Tensor, frames: Tensor, lengths: Tensor, blank: int
    ) -> Tensor:
        right = super().rows(lp, targets, frames, lengths, blank)
        return torch.where(lengths == 0, right.detach(), right)


@mutant(CTC, row="GRD-22", issue="pytorch/pytorch#27442", needs="a target longer than a block")
class BackwardOfFirstBlock(CTC):
    """Backward sees no more than the first two labels of a target."""

    def rows(
        self, lp: Tensor, targets: Tensor, frames: Tensor, lengths: Tensor, blank: int
    ) -> Tensor:
        right = super().rows(lp, targets, frames, lengths, blank)
        return with_slope_of(
            right, super().rows(lp, targets[:, :2], frames, lengths.clamp(max=2), blank)
        )


@mutant(CTC, row="EMP-13", issue="pytorch/pytorch#123193", needs="a sequence without frames")
class NoFramesReadsFirst(CTC):
    """A sequence without frames has its first one."""

    def runs(self, t: int, frames: Tensor) -> Tensor:
        return super().runs(t, frames.clamp(min=1))


@mutant(CTC, row="STB-18", issue="pytorch/pytorch#14335", needs="zero_infinity, a target too long")
class GradientOfInfinity(CTC):
    """With zero_infinity what no path spells costs nothing, but has a gradient."""

    def finish(self, losses: Tensor, zero_infinity: bool) -> Tensor:
        right = super().finish(losses, zero_infinity)
        return with_slope_of(right, losses) if zero_infinity else right


@mutant(CTC, row="LSM-03", issue="huggingface/transformers#43240", needs="zero_infinity")
class ZeroInfinityIgnored(CTC):
    """What no path spells always costs infinity."""

    def finish(self, losses: Tensor, zero_infinity: bool) -> Tensor:
        return super().finish(losses, False)


@mutant(CTC, row="CRS-01", issue="pytorch/pytorch#51732", needs="a negative length")
class NegativeLengthIsZero(CTC):
    """A negative input length counts as 0."""

    def check_lengths(self, lp: Tensor, targets: Tensor, frames: Tensor, lengths: Tensor) -> None:
        super().check_lengths(lp, targets, frames.clamp(min=0), lengths)


@mutant(CTC, row="CRS-03", issue="pytorch/pytorch#15946", needs="lengths that do not add up")
class LengthsMayAddUpToLess(CTC):
    """Of concatenated targets some may be left over."""

    def check_lengths(self, lp: Tensor, targets: Tensor, frames: Tensor, lengths: Tensor) -> None:
        if targets.ndim == 1 and not (lengths < 0).any():
            targets = targets[: int(lengths.sum())]
        super().check_lengths(lp, targets, frames, lengths)

    def padded(self, targets: Tensor, lengths: Tensor) -> Tensor:
        return super().padded(
            targets[: int(lengths.sum())] if targets.ndim == 1 else targets, lengths
        )


@mutant(CTC, row="RED-18", issue="apache/mxnet#18506", needs="the mean, a longer target")
class MeanOfLosses(CTC):
    """The mean does not divide by the lengths of the targets."""

    def share(self, lengths: Tensor) -> Tensor:
        return torch.ones_like(lengths)


@mutant(CTC, row="EMP-10", issue="HobbitLong/SupContrast#141", needs="the mean, an empty target")
class DividesByZeroLength(CTC):
    """The mean divides the loss of an empty target by 0."""

    def share(self, lengths: Tensor) -> Tensor:
        return lengths


@mutant(CTC, row="LSM-02", issue="linkedin/Liger-Kernel#243", needs="another blank")
class BlankIsZero(CTC):
    """The blank is always class 0."""

    def rows(
        self, lp: Tensor, targets: Tensor, frames: Tensor, lengths: Tensor, blank: int
    ) -> Tensor:
        return super().rows(lp, targets, frames, lengths, 0)


@mutant(CTC, row="GRD-19", issue="pytorch/pytorch#52241", needs="a label twice in a row")
class EqualLabelsTouch(CTC):
    """No blank is needed between two equal labels."""

    def skips(self, states: Tensor) -> Tensor:
        labels = torch.arange(states.shape[1]) % 2 == 1
        return labels[2:].expand_as(states[:, 2:])


@mutant(CTC, row="GRD-28", issue="candle-org/candle#323", needs="no batch")
class WantsBatch(CTC):
    """Frames without a batch raise."""

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
        if log_probs.ndim != 3:
            raise RuntimeError("log_probs must have three axes")
        return super().__call__(
            log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity
        )
