"""Wrong elementwise regression losses, re-created from bugs that libraries had."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lossspec.audit import control, mutant
from lossspec.audit.right import (
    L1,
    MSE,
    REDUCTIONS,
    BCEWithLogits,
    Elements,
    Elementwise,
    Huber,
    KLDiv,
    SmoothL1,
    dense_reading,
    passed,
    second_gradient,
    serial_sum,
    shares_memory,
)

# === values ===============================================================================


@mutant(L1, row="VAL-10", issue="mlpack/mlpack#2444", needs="a negative residual")
class SignKept(L1):
    """The residual keeps its sign."""

    def element(self, c: Elements) -> Tensor:
        return c.residual


@mutant(Huber, row="VAL-09", issue="marlbenchmark/on-policy#47", needs="a residual below -delta")
class LinearWhenPositive(Huber):
    """The linear branch asks for e > d, not |e| > d, so large negative residuals cost nothing."""

    def element(self, c: Elements) -> Tensor:
        e, d = c.residual, c.parameter
        size = e.abs()
        right = torch.where(size < d, e * e / 2, d * (size - d / 2))
        return torch.where(e <= -d, 0, right)


@mutant(
    SmoothL1,
    Huber,
    row="VAL-12",
    issue="pytorch/pytorch#37599",
    needs="a threshold other than 1, and a target without a gradient",
)
class ThresholdNeedsTargetGradient(Elementwise):
    """The threshold counts only when the target requires a gradient; else it is 1."""

    def element(self, c: Elements) -> Tensor:
        c.parameter = c.parameter if c.target.requires_grad else 1.0
        return super().element(c)


# === reductions ===========================================================================


@mutant(L1, MSE, row="RED-04", issue="tensorflow/tensorflow#34491", needs="weight")
class WeightedMeanOverCount(Elementwise):
    """The weighted mean divides by the number of elements, not by the sum of the weights."""

    def divisor(self, c: Elements, losses: Tensor) -> Tensor:
        return losses.new_tensor(float(losses.numel()))


@mutant(
    MSE,
    row="RED-06",
    issue="huggingface/transformers#34191",
    needs="more rows than a chunk, and a ragged last one",
)
class MeanOfChunkMeans(MSE):
    """The mean is the mean of the means of chunks of 64 rows, also when the last is shorter."""

    def reduce(self, c: Elements, losses: Tensor) -> Tensor:
        if c.reduction != "mean" or not losses.ndim or not losses.numel() or c.w is not None:
            return super().reduce(c, losses)
        return torch.stack([part.mean() for part in torch.split(losses, 64)]).mean()


@mutant(
    SmoothL1,
    BCEWithLogits,
    row="AUT-03",
    issue="huggingface/transformers#25938",
    needs="float16, and a sum past its largest number",
)
class MeanSumsInHalf(Elementwise):
    """The mean sums in the dtype of the inputs, which overflows in float16."""

    def reduce(self, c: Elements, losses: Tensor) -> Tensor:
        if c.reduction != "mean":
            return super().reduce(c, losses)
        return losses.to(c.input.dtype).sum() / self.divisor(c, losses)


@mutant(
    SmoothL1,
    row="DTY-07",
    issue="pytorch/pytorch#55657",
    needs="a half precision, and more elements than it can count one by one",
)
class SerialSum(SmoothL1):
    """The sum runs element by element, rounded to the dtype of the inputs at each, and drifts."""

    def reduce(self, c: Elements, losses: Tensor) -> Tensor:
        if c.reduction == "none":
            return losses
        total = serial_sum(losses, c.input.dtype)
        return total if c.reduction == "sum" else total / self.divisor(c, losses)


# === gradients ============================================================================


@mutant(
    SmoothL1,
    row="GRD-01",
    issue="pytorch/pytorch#94226",
    needs="a cotangent other than 1",
)
@mutant(Huber, row="GRD-02", issue="chainer/chainer#1178", needs="a cotangent other than 1")
class UpstreamIgnored(Elementwise):
    """Backward ignores the gradient that comes from above."""

    def leave(self, c: Elements, result: Tensor) -> Tensor:
        return passed(super().leave(c, result), torch.ones_like)


@mutant(SmoothL1, row="GRD-06", issue="pytorch/pytorch#96813", needs="beta = 0, and ties")
class NanAtTiesWithoutBeta(SmoothL1):
    """With beta = 0 the gradient is nan where input and target are equal: 0 / 0, not taken."""

    def element(self, c: Elements) -> Tensor:
        r, beta = c.residual.abs(), c.parameter
        return torch.where(r < beta, r * r / (2 * r.new_tensor(beta)), r - beta / 2)


class _OneAtZero(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, r: Tensor) -> Tensor:
        ctx.save_for_backward(r)
        return r.abs()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (r,) = ctx.saved_tensors
        return torch.where(r >= 0, grads[0], -grads[0])


@mutant(
    L1,
    row="GRD-07",
    issue="pytorch/pytorch#7172",
    needs="ties",
)
class OneAtTies(L1):
    """The gradient is 1, not 0, where input and target are equal."""

    def element(self, c: Elements) -> Tensor:
        result: Tensor = _OneAtZero.apply(c.residual)  # type: ignore[no-untyped-call]
        return result


@mutant(
    L1,
    MSE,
    row="GRD-08",
    issue="pytorch/pytorch#3876",
    needs="a target that requires a gradient",
)
@mutant(
    KLDiv,
    row="GRD-09",
    issue="linkedin/Liger-Kernel#1021",
    needs="a target that requires a gradient",
)
class ZerosForTarget(Elementwise):
    """The target gets zeros for a gradient."""

    def run(self, c: Elements) -> Tensor:
        c.y = passed(c.y, torch.zeros_like)
        return super().run(c)


@mutant(L1, row="GRD-17", issue="paiml/aprender#2188")
class GraphCut(L1):
    """The graph is cut at the absolute value, so no gradient comes back."""

    def element(self, c: Elements) -> Tensor:
        return c.residual.detach().abs()


@mutant(Huber, row="SHP-22", issue="chainer/chainer#5493", needs="three axes")
class BackwardWantsTwoAxes(Huber):
    """Backward raises when there are more than two axes."""

    def element(self, c: Elements) -> Tensor:
        def two(grad: Tensor) -> Tensor:
            if grad.ndim > 2:
                raise RuntimeError("the size of the gradient must match in all axes")
            return grad

        return passed(super().element(c), two)


class _FrozenHuber(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, r: Tensor, delta: float) -> Tensor:
        ctx.slope = r.clamp(-delta, delta)
        size = r.abs()
        return torch.where(size < delta, r * r / 2, delta * (size - delta / 2))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0] * ctx.slope, None


@mutant(
    Huber,
    row="DBL-06",
    issue="chainer/chainer#3867",
    needs="the second derivative",
    witness=lambda loss: second_gradient(loss, torch.ones(2), torch.zeros(2)),
)
class FrozenSlope(Huber):
    """Backward takes the residual for a constant, so the second derivative is lost."""

    def element(self, c: Elements) -> Tensor:
        result: Tensor = _FrozenHuber.apply(  # type: ignore[no-untyped-call]
            c.residual, c.parameter
        )
        return result


# === dtypes ===============================================================================


@mutant(
    Huber,
    row="DTY-01",
    issue="pytorch/pytorch#76646",
    needs="mixed dtypes",
)
@mutant(
    MSE,
    row="DTY-02",
    issue="pytorch/pytorch#175741",
    needs="mixed dtypes",
)
class MixedDtypesFailBackward(Elementwise):
    """Backward raises when input and target differ in dtype."""

    def leave(self, c: Elements, result: Tensor) -> Tensor:
        def checked(grad: Tensor) -> Tensor:
            if c.input.dtype != c.target.dtype:
                raise RuntimeError(f"found dtype {c.target.dtype} but expected {c.input.dtype}")
            return grad

        return passed(super().leave(c, result), checked)


@mutant(Huber, row="DTY-09", issue="deeplearning4j/deeplearning4j#9375", needs="not only float64")
class DoubleOnly(Huber):
    """Delta is a float64 tensor, and every other dtype raises."""

    def check_parameter(self, c: Elements) -> None:
        super().check_parameter(c)
        if c.input.dtype != torch.float64:
            raise RuntimeError(f"expected float64 but found {c.input.dtype}")


@mutant(Huber, row="DTY-09", issue="deeplearning4j/deeplearning4j#9375", needs="not only float64")
class DoubleResult(Huber):
    """Delta is a float64 tensor, and the result becomes one."""

    def leave(self, c: Elements, result: Tensor) -> Tensor:
        return result.double()


# === refusals =============================================================================


@mutant(
    L1,
    MSE,
    SmoothL1,
    row="ERR-06",
    issue="pytorch/pytorch#43527",
    needs="an unknown reduction",
)
class UnknownReductionIsNone(Elementwise):
    """A reduction of an unknown name returns the unreduced loss."""

    def check_reduction(self, c: Elements) -> None:
        if c.reduction not in REDUCTIONS:
            c.reduction = "none"


@mutant(SmoothL1, row="ERR-05", issue="pytorch/pytorch#45532", needs="beta < 0")
class NegativeBetaIsL1(SmoothL1):
    """A negative beta gives the L1 loss."""

    def check_parameter(self, c: Elements) -> None:
        c.parameter = max(c.parameter, 0.0)


@mutant(SmoothL1, row="CMP-02", issue="pytorch/pytorch#194501", needs="beta < 0")
@mutant(Huber, row="ERR-08", issue="pytorch/pytorch#133796", needs="delta <= 0")
class ThresholdUnchecked(Elementwise):
    """The formula is computed for a threshold out of range."""

    def check_parameter(self, c: Elements) -> None:
        pass


@mutant(L1, MSE, SmoothL1, row="SHP-03", issue="pytorch/pytorch#16045", needs="(N, 1) and (N)")
class SilentBroadcast(Elementwise):
    """An input of shape (N, 1) and a target of shape (N) broadcast without a warning."""

    def check_shapes(self, c: Elements) -> None:
        pass


@mutant(MSE, row="SHP-04", issue="pytorch/pytorch#4938", needs="unequal shapes of one size")
class TargetReshaped(MSE):
    """A target of another shape is paired with the input element by element in memory."""

    def run(self, c: Elements) -> Tensor:
        if c.input.numel() == c.target.numel():
            c.target = c.target.reshape(c.input.shape)
            c.y = c.y.reshape(c.x.shape)
        return super().run(c)


@mutant(MSE, row="SHP-05", issue="pytorch/pytorch#12129", needs="(N, 1) and (N), with a gradient")
class ShapesCheckedWithoutGradient(MSE):
    """A target of another shape raises, but with a gradient it silently broadcasts."""

    def check_shapes(self, c: Elements) -> None:
        if c.input.shape != c.target.shape and not c.input.requires_grad:
            raise ValueError("sizes differ")


@control(MSE)
class DeprecatedArguments(MSE):
    """Takes size_average and reduce, which override the reduction."""

    loss = "mse_loss"

    def __call__(  # type: ignore[override]  # as torch's, which has them in front
        self,
        input: Tensor,
        target: Tensor,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        weight: Tensor | None = None,
    ) -> Tensor:
        if size_average is not None or reduce is not None:
            reduction = self.amounting(size_average, reduce)
        return super().__call__(input, target, weight=weight, reduction=reduction)

    def amounting(self, size_average: bool | None, reduce: bool | None) -> str:
        """To which reduction they do."""
        if reduce is False:
            return "none"
        return "sum" if size_average is False else "mean"


@mutant(DeprecatedArguments, issue="pytorch/pytorch#10697", needs="a deprecated argument")
class ReduceIsTakenForSum(DeprecatedArguments):
    """With the deprecated reduce=True the sum comes back."""

    def amounting(self, size_average: bool | None, reduce: bool | None) -> str:
        return "none" if reduce is False else "sum"


# === memory ===============================================================================


@mutant(MSE, row="LAY-03", issue="unslothai/unsloth#10713", needs="a strided target")
class TargetStridesIgnored(MSE):
    """The target is read as if it lay densely in memory."""

    def run(self, c: Elements) -> Tensor:
        c.y = dense_reading(c.y)
        return super().run(c)


@mutant(L1, row="MUT-05", issue="sollynoay/MMP-RNN#4", needs="a look at the inputs afterwards")
class InPlace(L1):
    """The unreduced loss is computed in the memory of the input."""

    def leave(self, c: Elements, result: Tensor) -> Tensor:
        if result.shape == c.input.shape and not shares_memory(c.input):
            c.input.data.copy_(result.detach())
        return super().leave(c, result)
