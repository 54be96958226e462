"""Wrong elementwise regression losses, re-created from bugs that libraries had."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lossspec.audit import mutant
from lossspec.audit.right import L1, MSE, REDUCTIONS, Elements, Huber, SmoothL1, passed

# === l1_loss ==============================================================================


@mutant(
    "l1_loss",
    "VAL-10",
    "mlpack/mlpack#2444",
    "the residual keeps its sign",
    needs="a negative residual",
)
class SignKept(L1):
    """No absolute value."""

    def element(self, c: Elements) -> Tensor:
        """The bare residual."""
        return c.residual


class _OneAtTies(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, r: Tensor) -> Tensor:
        ctx.save_for_backward(r)
        return r.abs()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (r,) = ctx.saved_tensors
        return torch.where(r >= 0, grads[0], -grads[0])


@mutant(
    "l1_loss",
    "GRD-07",
    "pytorch/pytorch#7172",
    "the gradient is 1 where input and target are equal",
    needs="ties",
    awaits="the spec lets a kink have any subgradient in [-1, 1], and 1 is one; only a clause that"
    " asks for torch's own (0, as abs) could tell",
    witness=lambda loss: _gradient(loss, torch.ones(3), torch.ones(3)),
)
class OneAtTies(L1):
    """sign(0) = 1."""

    def element(self, c: Elements) -> Tensor:
        """abs with a lopsided derivative."""
        result: Tensor = _OneAtTies.apply(c.residual)  # type: ignore[no-untyped-call]
        return result


@mutant(
    "l1_loss",
    "GRD-17",
    "paiml/aprender#2188",
    "the graph is cut at the absolute value, so no gradient comes back",
)
class GraphCut(L1):
    """Detached."""

    def element(self, c: Elements) -> Tensor:
        """Without a graph."""
        return c.residual.detach().abs()


@mutant(
    "l1_loss",
    "GRD-08",
    "pytorch/pytorch#3876",
    "the target gets zeros for a gradient",
    needs="a target that requires a gradient",
)
class TargetDetached(L1):
    """Zeros for the target."""

    def run(self, c: Elements) -> Tensor:
        """With a target whose gradient is dropped."""
        c.y = passed(c.y, torch.zeros_like)
        return super().run(c)


@mutant(
    "l1_loss",
    "ERR-06",
    "pytorch/pytorch#43527",
    "a reduction of an unknown name returns the unreduced loss",
    needs="an unknown reduction",
)
class UnknownReductionIsNone(L1):
    """No check of the name."""

    def check_reduction(self, c: Elements) -> None:
        """Taken as none."""
        if c.reduction not in REDUCTIONS:
            c.reduction = "none"


@mutant(
    "l1_loss",
    "RED-04",
    "tensorflow/tensorflow#34491",
    "the weighted mean divides by the number of elements, not by the sum of the weights",
    needs="weight",
)
class WeightedMeanOverCount(L1):
    """Divides by the count."""

    def divisor(self, c: Elements, losses: Tensor) -> Any:
        """All elements count 1."""
        return losses.new_tensor(float(losses.numel()))


@mutant(
    "l1_loss",
    "SHP-03",
    "pytorch/pytorch#16045",
    "an input of shape (N, 1) and a target of shape (N) broadcast to (N, N) without a warning",
    needs="shapes that broadcast",
)
class SilentBroadcast(L1):
    """No warning."""

    def check_shapes(self, c: Elements) -> None:
        """Whatever broadcasts."""


@mutant(
    "l1_loss",
    "AUT-03",
    "huggingface/transformers#25938",
    "the mean sums in half precision, which overflows",
    needs="float16 and a sum past its largest number",
)
class MeanSumsInHalf(L1):
    """The sum overflows."""

    def reduce(self, c: Elements, losses: Tensor) -> Tensor:
        """In the dtype of the inputs."""
        if c.reduction != "mean" or c.w is not None:
            return super().reduce(c, losses)
        total = losses.to(c.input.dtype).sum()
        return total / self.divisor(c, losses)


@mutant(
    "l1_loss",
    "MUT-05",
    "sollynoay/MMP-RNN#4",
    "the loss is computed in the memory of the input",
    needs="a look at the inputs afterwards",
)
class InPlace(L1):
    """Overwrites the input."""

    def leave(self, c: Elements, result: Tensor) -> Tensor:
        """With the input spoilt."""
        if result.shape == c.input.shape and not _repeats(c.input):
            c.input.data.copy_(result.detach())
        return super().leave(c, result)


def _repeats(x: Tensor) -> bool:
    """Whether elements share memory."""
    return any(step == 0 and size > 1 for step, size in zip(x.stride(), x.shape, strict=True))


def _gradient(loss: Any, *tensors: Tensor) -> Tensor:
    first = tensors[0].clone().requires_grad_()
    loss(first, *tensors[1:], reduction="sum").backward()
    assert first.grad is not None
    return first.grad


# === mse_loss =============================================================================


@mutant(
    "mse_loss",
    "SHP-03",
    "pytorch/pytorch#16045",
    "an input of shape (N, 1) and a target of shape (N) broadcast to (N, N) without a warning",
    needs="shapes that broadcast",
)
class MseSilentBroadcast(MSE):
    """No warning."""

    def check_shapes(self, c: Elements) -> None:
        """Whatever broadcasts."""


@mutant(
    "mse_loss",
    "SHP-04",
    "pytorch/pytorch#4938",
    "a target of another shape is read in the shape of the input, element by element in memory",
    needs="shapes of the same size",
)
class TargetReshaped(MSE):
    """Pairs by storage."""

    def run(self, c: Elements) -> Tensor:
        """With a target in the input's shape."""
        if c.input.numel() == c.target.numel():
            c.target = c.target.reshape(c.input.shape)
            c.y = c.y.reshape(c.x.shape)
        return super().run(c)


@mutant(
    "mse_loss",
    "SHP-05",
    "pytorch/pytorch#12129",
    "without a gradient a target of another shape raises, with one it silently broadcasts",
    needs="shapes that broadcast, with and without a gradient",
)
class ShapesCheckedWithoutGradient(MSE):
    """The check depends on requires_grad."""

    def check_shapes(self, c: Elements) -> None:
        """Strict only where no gradient is wanted."""
        if c.input.shape != c.target.shape and not c.input.requires_grad:
            raise ValueError("sizes differ")


@mutant(
    "mse_loss",
    "GRD-08",
    "pytorch/pytorch#3876",
    "the target gets zeros for a gradient",
    needs="a target that requires a gradient",
)
class MseTargetDetached(MSE):
    """Zeros for the target."""

    def run(self, c: Elements) -> Tensor:
        """With a target whose gradient is dropped."""
        c.y = passed(c.y, torch.zeros_like)
        return super().run(c)


@mutant(
    "mse_loss",
    "DTY-02",
    "pytorch/pytorch#175741",
    "backward raises when input and target differ in dtype",
    needs="mixed dtypes",
    awaits="cases with an input and a target of different floating dtypes",
    witness=lambda loss: _gradient(loss, torch.ones(2).double(), torch.zeros(2)),
)
class MixedDtypesFailBackward(MSE):
    """The gradient is made in the target's dtype."""

    def leave(self, c: Elements, result: Tensor) -> Tensor:
        """As it is, but for a gradient that fails."""

        def checked(grad: Tensor) -> Tensor:
            if c.input.dtype != c.target.dtype:
                raise RuntimeError(f"found dtype {c.target.dtype} but expected {c.input.dtype}")
            return grad

        return passed(super().leave(c, result), checked)


@mutant(
    "mse_loss",
    "ERR-06",
    "pytorch/pytorch#43527",
    "a reduction of an unknown name returns the unreduced loss",
    needs="an unknown reduction",
)
class MseUnknownReductionIsNone(MSE):
    """No check of the name."""

    def check_reduction(self, c: Elements) -> None:
        """Taken as none."""
        if c.reduction not in REDUCTIONS:
            c.reduction = "none"


@mutant(
    "mse_loss",
    "RED-04",
    "tensorflow/tensorflow#34491",
    "the weighted mean divides by the number of elements, not by the sum of the weights",
    needs="weight",
)
class MseWeightedMeanOverCount(MSE):
    """Divides by the count."""

    def divisor(self, c: Elements, losses: Tensor) -> Any:
        """All elements count 1."""
        return losses.new_tensor(float(losses.numel()))


@mutant(
    "mse_loss",
    "LAY-03",
    "unslothai/unsloth#10713",
    "the target is read as if it lay densely in memory",
    needs="a strided target",
)
class TargetStridesIgnored(MSE):
    """Unit stride assumed."""

    def run(self, c: Elements) -> Tensor:
        """With a target misread."""
        c.y = dense_reading(c.y)
        return super().run(c)


def dense_reading(x: Tensor) -> Tensor:
    """What a kernel reads that takes a tensor for contiguous; nothing beyond its storage."""
    steps = x.new_empty(x.shape).stride()
    needed = x.storage_offset() + x.numel()
    if x.untyped_storage().nbytes() // x.element_size() < needed:
        return x
    return x.as_strided(x.shape, steps)


@mutant(
    "mse_loss",
    "RED-06",
    "huggingface/transformers#34191",
    "the mean is the mean of the means of chunks, also when they are unequal",
    needs="more rows than a chunk, and a ragged last one",
)
class MeanOfChunkMeans(MSE):
    """Micro-batches of 64."""

    def reduce(self, c: Elements, losses: Tensor) -> Tensor:
        """Chunk by chunk."""
        if c.reduction != "mean" or not losses.ndim or not losses.numel() or c.w is not None:
            return super().reduce(c, losses)
        return torch.stack([part.mean() for part in losses.split(64)]).mean()


# === smooth_l1_loss =======================================================================


@mutant(
    "smooth_l1_loss",
    "GRD-01",
    "pytorch/pytorch#94226",
    "backward ignores the gradient that comes from above",
    needs="a cotangent other than 1",
)
class UpstreamIgnored(SmoothL1):
    """As if the loss were the last thing."""

    def leave(self, c: Elements, result: Tensor) -> Tensor:
        """With a gradient of ones from above."""
        return passed(super().leave(c, result), torch.ones_like)


@mutant(
    "smooth_l1_loss",
    "GRD-06",
    "pytorch/pytorch#96813",
    "with beta = 0 the gradient is nan where input and target are equal",
    needs="beta = 0 and ties",
)
class NanAtTiesWithoutBeta(SmoothL1):
    """0 / 0 in the branch that is not taken."""

    def element(self, c: Elements) -> Tensor:
        """Both branches, whatever beta."""
        r, beta = c.residual.abs(), c.parameter
        return torch.where(r < beta, r * r / (2 * r.new_tensor(beta)), r - beta / 2)


@mutant(
    "smooth_l1_loss",
    "VAL-12",
    "pytorch/pytorch#37599",
    "beta counts only when the target requires a gradient",
    needs="beta other than 1, and a target without a gradient",
)
class BetaNeedsTargetGradient(SmoothL1):
    """Else 1."""

    def element(self, c: Elements) -> Tensor:
        """With beta or 1."""
        c.parameter = c.parameter if c.target.requires_grad else 1.0
        return super().element(c)


@mutant(
    "smooth_l1_loss",
    "ERR-05",
    "pytorch/pytorch#45532",
    "a negative beta gives the L1 loss",
    needs="beta < 0",
)
class NegativeBetaIsL1(SmoothL1):
    """No error."""

    def check_parameter(self, c: Elements) -> None:
        """Taken as 0."""
        c.parameter = max(c.parameter, 0.0)


@mutant(
    "smooth_l1_loss",
    "CMP-02",
    "pytorch/pytorch#194501",
    "a negative beta is computed with",
    needs="beta < 0",
)
class NegativeBetaComputed(SmoothL1):
    """No error."""

    def check_parameter(self, c: Elements) -> None:
        """Anything goes."""


@mutant(
    "smooth_l1_loss",
    "ERR-06",
    "pytorch/pytorch#43527",
    "a reduction of an unknown name returns the unreduced loss",
    needs="an unknown reduction",
)
class SmoothUnknownReductionIsNone(SmoothL1):
    """No check of the name."""

    def check_reduction(self, c: Elements) -> None:
        """Taken as none."""
        if c.reduction not in REDUCTIONS:
            c.reduction = "none"


@mutant(
    "smooth_l1_loss",
    "SHP-03",
    "pytorch/pytorch#16045",
    "an input of shape (N, 1) and a target of shape (N) broadcast to (N, N) without a warning",
    needs="shapes that broadcast",
)
class SmoothSilentBroadcast(SmoothL1):
    """No warning."""

    def check_shapes(self, c: Elements) -> None:
        """Whatever broadcasts."""


@mutant(
    "smooth_l1_loss",
    "DTY-07",
    "pytorch/pytorch#55657",
    "the sum is accumulated one by one in the dtype of the inputs, and drifts",
    needs="bfloat16 or float16, and many elements",
)
class SerialSum(SmoothL1):
    """No pairwise or wide accumulation."""

    def reduce(self, c: Elements, losses: Tensor) -> Tensor:
        """One after the other."""
        if c.reduction == "none":
            return losses
        sums = serial_sum(losses.to(c.input.dtype))
        return sums if c.reduction == "sum" else sums / self.divisor(c, losses)


def serial_sum(x: Tensor) -> Tensor:
    """A running sum, rounded to the dtype at every step."""
    total = x.new_zeros(())
    for value in x.flatten():
        total = total + value
    return total


# === huber_loss ===========================================================================


@mutant(
    "huber_loss",
    "VAL-09",
    "marlbenchmark/on-policy#47",
    "the linear branch is taken for positive residuals only, so large negative ones cost nothing",
    needs="a residual below -delta",
)
class LinearWhenPositive(Huber):
    """e > d instead of |e| > d."""

    def element(self, c: Elements) -> Tensor:
        """Two masks that leave a gap."""
        e, d = c.residual, c.parameter
        small, large = (e.abs() < d).to(e.dtype), (e >= d).to(e.dtype)
        return small * e.clamp(-d, d) ** 2 / 2 + large * d * (e.clamp(min=0) - d / 2)


@mutant(
    "huber_loss",
    "VAL-12",
    "pytorch/pytorch#37599",
    "delta counts only when the target requires a gradient",
    needs="delta other than 1, and a target without a gradient",
)
class DeltaNeedsTargetGradient(Huber):
    """Else 1."""

    def element(self, c: Elements) -> Tensor:
        """With delta or 1."""
        c.parameter = c.parameter if c.target.requires_grad else 1.0
        return super().element(c)


@mutant(
    "huber_loss",
    "GRD-02",
    "chainer/chainer#1178",
    "backward ignores the gradient that comes from above",
    needs="a cotangent other than 1",
)
class HuberUpstreamIgnored(Huber):
    """As if the loss were the last thing."""

    def leave(self, c: Elements, result: Tensor) -> Tensor:
        """With a gradient of ones from above."""
        return passed(super().leave(c, result), torch.ones_like)


class _Frozen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, r: Tensor, delta: float) -> Tensor:
        ctx.slope = r.clamp(-delta, delta)
        size = r.abs()
        return torch.where(size < delta, r * r / 2, delta * (size - delta / 2))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0] * ctx.slope, None


@mutant(
    "huber_loss",
    "DBL-06",
    "chainer/chainer#3867",
    "backward takes the residual for a constant, so the second derivative is 0",
    needs="the second derivative",
    awaits="a clause on second derivatives",
    witness=lambda loss: _second(loss, torch.tensor([0.25]), torch.tensor([0.0])),
)
class FrozenSlope(Huber):
    """No graph of the gradient."""

    def element(self, c: Elements) -> Tensor:
        """Through a function with a constant slope."""
        result: Tensor = _Frozen.apply(c.residual, c.parameter)  # type: ignore[no-untyped-call]
        return result


def _second(loss: Any, x: Tensor, *rest: Tensor) -> Tensor:
    """The second derivative; nan where there is no graph for it."""
    x = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(loss(x, *rest, reduction="sum"), x, create_graph=True)
    if not first.requires_grad:
        return torch.full_like(x, torch.nan)
    (second,) = torch.autograd.grad(first.sum(), x, allow_unused=True)
    return torch.full_like(x, torch.nan) if second is None else second


@mutant(
    "huber_loss",
    "DTY-01",
    "pytorch/pytorch#76646",
    "backward raises when input and target differ in dtype",
    needs="mixed dtypes",
    awaits="cases with an input and a target of different floating dtypes",
    witness=lambda loss: _gradient(loss, torch.ones(2), torch.zeros(2).double()),
)
class HuberMixedDtypesFailBackward(Huber):
    """The gradient is made in the target's dtype."""

    def leave(self, c: Elements, result: Tensor) -> Tensor:
        """As it is, but for a gradient that fails."""

        def checked(grad: Tensor) -> Tensor:
            if c.input.dtype != c.target.dtype:
                raise RuntimeError(f"found dtype {c.input.dtype} but expected {c.target.dtype}")
            return grad

        return passed(super().leave(c, result), checked)


@mutant(
    "huber_loss",
    "DTY-09",
    "deeplearning4j/deeplearning4j#9375",
    "delta is a float64 tensor, so only float64 inputs work",
    needs="a dtype other than float64",
)
class DoubleOnly(Huber):
    """Raises for the others."""

    def check_parameter(self, c: Elements) -> None:
        """Delta and the inputs must have one dtype."""
        super().check_parameter(c)
        if c.input.dtype != torch.float64:
            raise RuntimeError(f"expected float64 but found {c.input.dtype}")


@mutant(
    "huber_loss",
    "DTY-09",
    "deeplearning4j/deeplearning4j#9375",
    "delta is a float64 tensor, so the result is one too",
    needs="a dtype other than float64",
)
class DoubleResult(Huber):
    """Promotes."""

    def leave(self, c: Elements, result: Tensor) -> Tensor:
        """In float64."""
        return result.double()


@mutant(
    "huber_loss",
    "ERR-08",
    "pytorch/pytorch#133796",
    "delta is not checked",
    needs="delta of 0 or less",
)
class DeltaUnchecked(Huber):
    """Anything goes."""

    def check_parameter(self, c: Elements) -> None:
        """Nothing."""


@mutant(
    "huber_loss",
    "SHP-22",
    "chainer/chainer#5493",
    "backward fails for more than two axes",
    needs="three axes",
)
class BackwardWantsTwoAxes(Huber):
    """Forward works."""

    def element(self, c: Elements) -> Tensor:
        """With a gradient that is squeezed through two axes."""

        def two(grad: Tensor) -> Tensor:
            if grad.ndim > 2:
                raise RuntimeError("the size of the gradient must match in all axes")
            return grad

        return passed(super().element(c), two)


@mutant(
    "huber_loss",
    "GRD-08",
    "pytorch/pytorch#3876",
    "the target gets zeros for a gradient",
    needs="a target that requires a gradient",
)
class HuberTargetDetached(Huber):
    """Zeros for the target."""

    def run(self, c: Elements) -> Tensor:
        """With a target whose gradient is dropped."""
        c.y = passed(c.y, torch.zeros_like)
        return super().run(c)
