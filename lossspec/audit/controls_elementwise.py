"""Controls for the elementwise losses: right ones in other formulations."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lossspec.audit import control
from lossspec.audit.right import (
    L1,
    MSE,
    NLL,
    BCEWithLogits,
    CrossEntropy,
    Elements,
    Elementwise,
    Huber,
    KLDiv,
    SmoothL1,
    together,
    wide,
)

ELEMENTWISE = (L1, MSE, SmoothL1, Huber, KLDiv, BCEWithLogits)
#: Into how many blocks rows are cut; the last is mostly shorter.
BLOCKS = 5

# === any loss =============================================================================


@control(*ELEMENTWISE, NLL, CrossEntropy)
class Composite:
    """Plain torch operations, half precisions in float32."""


# Torch's kl_div and cross_entropy take calls that the contract rules out.
@control(L1, MSE, SmoothL1, Huber, BCEWithLogits, NLL)
class InFloat64:
    """Torch's own function in float64, cast back; gradients through the casts."""

    loss: str

    def __call__(self, input: Tensor, target: Tensor, **options: Any) -> Tensor:
        """As the function of that name in `torch.nn.functional`."""
        options = {k: v.double() if isinstance(v, Tensor) else v for k, v in options.items()}
        target = target.double() if target.is_floating_point() else target
        result: Tensor = getattr(F, self.loss)(input.double(), target, **options)
        return result.to(input.dtype)


# Not smooth_l1_loss, whose backward of an empty mean divides by zero while it is traced.
@control(Huber, CrossEntropy)
class Compiled:
    """Torch's own function through torch.compile, traced and differentiated ahead of time."""

    loss: str

    def __init__(self) -> None:
        torch._dynamo.reset()
        # With donated buffers what is compiled refuses to go backward twice.
        torch._functorch.config.donated_buffer = False
        self.compiled = torch.compile(getattr(F, self.loss), backend="aot_eager", dynamic=True)

    def __call__(self, input: Tensor, target: Tensor, **options: Any) -> Tensor:
        """As the function of that name in `torch.nn.functional`."""
        result: Tensor = self.compiled(  # type: ignore[no-untyped-call]
            input, target, **options
        )
        return result


# === any elementwise loss =================================================================


@control(*ELEMENTWISE)
class InOwnDtype(Elementwise):
    """Elements in the dtype of the inputs, as written in the textbook; only the sum is wider."""

    def run(self, c: Elements) -> Tensor:
        c.x, c.y, c.w = c.input, c.target, c.weight
        return super().run(c)

    def reduce(self, c: Elements, losses: Tensor) -> Tensor:
        if c.w is not None:
            c.w = wide(c.w)
        return super().reduce(c, wide(losses))


@control(*ELEMENTWISE)
class InBlocks(Elementwise):
    """Rows in five blocks, put together again."""

    def element(self, c: Elements) -> Tensor:
        x, y = together(c.x, c.y)
        if not x.ndim:
            return super().element(c)
        factor = None if c.pos_weight is None else c.pos_weight.expand(x.shape)
        parts = []
        rows = 1 + x.shape[0] // BLOCKS
        for i in range(0, max(1, x.shape[0]), rows):
            part = copy.copy(c)
            part.x, part.y = x[i : i + rows], y[i : i + rows]
            part.pos_weight = None if factor is None else factor[i : i + rows]
            parts.append(super().element(part))
        return torch.cat(parts)


@control(*ELEMENTWISE)
class Flattened(Elementwise):
    """All axes flattened into one, and put back."""

    def element(self, c: Elements) -> Tensor:
        x, y = together(c.x, c.y)
        flat = copy.copy(c)
        flat.x, flat.y = x.reshape(-1), y.reshape(-1)
        if c.pos_weight is not None:
            flat.pos_weight = c.pos_weight.expand(x.shape).reshape(-1)
        return super().element(flat).reshape(x.shape)


class _WithSlopes(torch.autograd.Function):
    """The value of some elements, with slopes that can be differentiated themselves."""

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, slopes: Callable[..., tuple[Tensor, Tensor]], *xy: Tensor
    ) -> Tensor:
        ctx.slopes = slopes
        ctx.save_for_backward(*xy)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        by_x, by_y = ctx.slopes(*ctx.saved_tensors)
        return None, None, grads[0] * by_x, grads[0] * by_y


@control(*ELEMENTWISE)
class AnalyticGradient(Elementwise):
    """An autograd.Function with the gradient written by hand."""

    def element(self, c: Elements) -> Tensor:
        x, y = together(c.x, c.y)

        def at(x: Tensor, y: Tensor) -> Elements:
            part = copy.copy(c)
            part.x, part.y = x, y
            return part

        value = super().element(at(x.detach(), y.detach()))
        result: Tensor = _WithSlopes.apply(  # type: ignore[no-untyped-call]
            value, lambda x, y: self.slopes(at(x, y)), x, y
        )
        return result

    def slopes(self, c: Elements) -> tuple[Tensor, Tensor]:
        """By x and by y."""
        if self.loss == "kl_div":
            if c.parameter:
                return -c.y.exp(), c.y.exp() * (c.y - c.x + 1)
            return -c.y, c.y.log() + 1 - c.x
        if self.loss == "binary_cross_entropy_with_logits":
            p = 1 if c.pos_weight is None else wide(c.pos_weight)
            by_x = (1 - c.y) * c.x.sigmoid() - p * c.y * (-c.x).sigmoid()
            return by_x, (1 - p) * F.logsigmoid(c.x) - c.x
        by_x = self.slope(c, c.residual)
        return by_x, -by_x

    def slope(self, c: Elements, r: Tensor) -> Tensor:
        """By the residual."""
        match self.loss:
            case "l1_loss":
                return r.sign()
            case "mse_loss":
                return 2 * r
            case "huber_loss":
                return r.clamp(-c.parameter, c.parameter)
        return r.sign() if c.parameter == 0 else (r / c.parameter).clamp(-1, 1)


@control(*ELEMENTWISE)
class EachByVmap(Elementwise):
    """torch.func.vmap over the rows."""

    def element(self, c: Elements) -> Tensor:
        x, y = together(c.x, c.y)
        if not x.ndim or not x.shape[0]:
            return super().element(c)
        factor = torch.ones_like(x) if c.pos_weight is None else c.pos_weight.expand(x.shape)

        def row(x: Tensor, y: Tensor, factor: Tensor) -> Tensor:
            part = copy.copy(c)
            part.x, part.y, part.pos_weight = x, y, factor
            return super(EachByVmap, self).element(part)

        result: Tensor = torch.func.vmap(row)(x, y, factor)
        return result


# === one loss =============================================================================


@control(L1)
class LargerOfBothSigns(L1):
    """The larger of x - y and y - x."""

    def element(self, c: Elements) -> Tensor:
        return torch.maximum(c.residual, -c.residual)


@control(L1)
class SmoothWithoutBeta(L1):
    """Torch's smooth_l1_loss with beta = 0."""

    def element(self, c: Elements) -> Tensor:
        x, y = together(c.x, c.y)
        losses: Tensor = F.smooth_l1_loss(x, y, beta=0.0, reduction="none")
        return losses


@control(MSE)
class ByEinsum(MSE):
    """The residual with itself in torch.einsum."""

    def element(self, c: Elements) -> Tensor:
        return torch.einsum("...,...->...", c.residual, c.residual)


@control(Huber)
class Clamped(Huber):
    """The clamped residual s times (|r| - s/2), without a branch."""

    def element(self, c: Elements) -> Tensor:
        r = c.residual.abs()
        small = r.clamp(max=c.parameter)
        return small * (r - small / 2)


@control(Huber)
class ScaledSmoothL1(Huber):
    """delta times torch's smooth_l1_loss with beta = delta."""

    def element(self, c: Elements) -> Tensor:
        x, y = together(c.x, c.y)
        losses: Tensor = F.smooth_l1_loss(x, y, beta=c.parameter, reduction="none")
        return losses * float(c.parameter)


@control(SmoothL1)
class ScaledHuber(SmoothL1):
    """Torch's huber_loss with delta = beta, over beta."""

    def element(self, c: Elements) -> Tensor:
        if c.parameter == 0:
            return c.residual.abs()
        x, y = together(c.x, c.y)
        losses: Tensor = F.huber_loss(x, y, delta=c.parameter, reduction="none")
        return losses / float(c.parameter)


@control(KLDiv)
class PartsInFloat64(KLDiv):
    """Plain torch operations in float64, cast back."""

    def element(self, c: Elements) -> Tensor:
        c.x, c.y = c.x.double(), c.y.double()
        return super().element(c)


@control(KLDiv)
class FactoredOut(KLDiv):
    """y·(log y - x), with the logarithm of 1 in place of that of 0."""

    def element(self, c: Elements) -> Tensor:
        if c.parameter:
            return super().element(c)
        safe = torch.where(c.y == 0, 1, c.y)
        return c.y * (safe.log() - c.x)


@control(KLDiv)
class MultipliedOut(KLDiv):
    """Entropy and cross entropy apart, also for a target in logarithms."""

    def element(self, c: Elements) -> Tensor:
        if not c.parameter:
            entropy: Tensor = torch.special.entr(c.y)
            return -entropy - c.y * c.x
        p = c.y.exp()
        return p * c.y - p * c.x


@control(BCEWithLogits)
class TwoClassSoftmax(BCEWithLogits):
    """The log-softmax of the logit beside a 0."""

    def element(self, c: Elements) -> Tensor:
        log = torch.stack([torch.zeros_like(c.x), c.x], -1).log_softmax(-1)
        return -(self.positive(c) * log[..., 1] + (1 - c.y) * log[..., 0])


@control(BCEWithLogits)
class BySoftplus(BCEWithLogits):
    """softplus(x) and softplus(-x) as logaddexp with 0."""

    def element(self, c: Elements) -> Tensor:
        zero = torch.zeros_like(c.x)
        positive, negative = torch.logaddexp(zero, -c.x), torch.logaddexp(zero, c.x)
        return self.positive(c) * positive + (1 - c.y) * negative


@control(BCEWithLogits)
class TwoSoftplus(BCEWithLogits):
    """Torch's softplus of the logit and of its negative, each linear beyond 20."""

    def element(self, c: Elements) -> Tensor:
        positive, negative = F.softplus(-c.x), F.softplus(c.x)
        return self.positive(c) * positive + (1 - c.y) * negative
