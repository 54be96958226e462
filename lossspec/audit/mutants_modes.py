"""Wrong losses that show in another dtype, under a transformation, or off the numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lossspec.audit import control, mutant
from lossspec.audit.controls_others import CosineEmbedding
from lossspec.audit.right import (
    L1,
    MSE,
    NLL,
    BCEWithLogits,
    Classes,
    CrossEntropy,
    Elements,
    Huber,
    SmoothL1,
    shares_memory,
    together,
)


@mutant(
    CosineEmbedding,
    row="AUT-01",
    issue="pytorch/pytorch#44724",
    needs="torch.autocast, under which products of matrices come in a lower precision",
)
class BufferOfInputDtype(CosineEmbedding):
    """Products of matrices are copied into a buffer of the input's dtype."""

    def cosine(self, a: Tensor, b: Tensor) -> Tensor:
        a, b = (torch.atleast_2d(self.unit(x)) for x in (a, b))  # type: ignore[no-untyped-call]
        cos = torch.bmm(a.unsqueeze(1), b.unsqueeze(2)).reshape(-1)
        buffer = a.new_empty(cos.shape)
        return buffer.index_copy_(0, torch.arange(len(cos)), cos)

    def costs(self, cos: Tensor, y: Tensor, margin: float) -> Tensor:
        return super().costs(cos.reshape(y.shape), y, margin)


@control(CosineEmbedding)
class ProductOfMatrices(CosineEmbedding):
    """A product of matrices for each pair, in whatever dtype it comes."""

    def cosine(self, a: Tensor, b: Tensor) -> Tensor:
        a, b = self.unit(a), self.unit(b)
        return torch.matmul(a.unsqueeze(-2), b.unsqueeze(-1)).squeeze(-1).squeeze(-1)


@mutant(
    BCEWithLogits,
    row="STB-21",
    issue="pytorch/pytorch#51906",
    needs="a nan",
)
class NanIsZero(BCEWithLogits):
    """A nan is taken for 0 times infinity, and counts as 0."""

    def element(self, c: Elements) -> Tensor:
        return super().element(c).nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)


class _ConstantSigmoid(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.nn.functional.logsigmoid(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return grads[0] * (-x).sigmoid()

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return tangents[0] * (1 - (-x).sigmoid())


@mutant(
    BCEWithLogits,
    row="DBL-02",
    issue="pytorch/pytorch#79609",
    needs="forward-mode derivatives",
)
class WrongForwardRule(BCEWithLogits):
    """The rule of forward mode takes the sigmoid of the wrong sign."""

    def element(self, c: Elements) -> Tensor:
        log_p, log_q = (_ConstantSigmoid.apply(x) for x in (c.x, -c.x))  # type: ignore[no-untyped-call]
        result: Tensor = -(self.positive(c) * log_p + (1 - c.y) * log_q)
        return result


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


@mutant(
    NLL,
    row="IGN-06",
    issue="pytorch/pytorch#90916",
    needs="torch.vmap, and ignored rows",
)
class IgnoredCountUnderVmap(NLL):
    """Under vmap an ignored row costs what class 0 costs."""

    def check_range(self, c: Classes) -> None:
        if not torch._C._functorch.is_batchedtensor(c.t):
            super().check_range(c)

    def losses(self, c: Classes, log_p: Tensor) -> Tensor:
        picked: Tensor = _Picked.apply(log_p, c.safe, c.kept)  # type: ignore[no-untyped-call]
        return -picked * self.class_weight(c)


@mutant(
    L1,
    row="DTY-03",
    issue="pytorch/pytorch#64163",
    needs="NumPy arrays in float64",
)
class ArraysInSingle(L1):
    """NumPy arrays become float32 tensors, whatever they hold."""

    def __call__(self, input: Any, target: Any, *more: Any, **options: Any) -> Tensor:
        if isinstance(input, np.ndarray):
            input, target = (torch.tensor(x, dtype=torch.float32) for x in (input, target))
        return super().__call__(input, target, *more, **options)


@control(L1)
class ArraysTaken(L1):
    """NumPy arrays are taken for the tensors that share their memory."""

    def __call__(
        self, input: Any, target: Any, reduction: str = "mean", weight: Any = None
    ) -> Tensor:
        weight = None if weight is None else torch.as_tensor(weight)
        return super().__call__(torch.as_tensor(input), torch.as_tensor(target), reduction, weight)


class _RealSign(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(r: Tensor) -> Tensor:
        return r.abs()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (r,) = ctx.saved_tensors
        return grads[0] * r.sgn().real


@mutant(L1, row="DBL-05", issue="pytorch/pytorch#65683", needs="complex inputs")
class RealPartOfGradient(L1):
    """Backward returns the real part of the gradient only."""

    def element(self, c: Elements) -> Tensor:
        result: Tensor = _RealSign.apply(c.residual)  # type: ignore[no-untyped-call]
        return result

    def leave(self, c: Elements, result: Tensor) -> Tensor:
        return result if c.input.is_complex() else super().leave(c, result)


@mutant(L1, row="MUT-01", issue="linkedin/Liger-Kernel#272", needs="nothing that needs a gradient")
class InTheInputsMemory(L1):
    """Where nothing requires a gradient, the losses are computed in the memory of the input."""

    def element(self, c: Elements) -> Tensor:
        if torch.is_grad_enabled() and (c.input.requires_grad or c.target.requires_grad):
            return super().element(c)
        if shares_memory(c.x) or c.input.shape != c.target.shape:
            return super().element(c)
        return c.x.detach().sub_(c.y).abs_()


@mutant(NLL, row="DTY-12", issue="pytorch/pytorch#175151", needs="fake tensors")
class FakeResultUnreduced(NLL):
    """On fake tensors the result has the shape of the target under every reduction."""

    def reduce(self, c: Classes, losses: Tensor) -> Tensor:
        return losses if type(c.input).__name__ == "FakeTensor" else super().reduce(c, losses)

    def check_range(self, c: Classes) -> None:
        if type(c.input).__name__ != "FakeTensor":  # which holds no numbers to check
            super().check_range(c)


@mutant(Huber, row="CMP-04", issue="pytorch/pytorch#118090", needs="torch.compile, and delta")
class CompiledWithoutDelta(Huber):
    """Compiled, it takes delta for 1."""

    def element(self, c: Elements) -> Tensor:
        if torch.compiler.is_compiling():
            c.parameter = 1.0
        return super().element(c)


@mutant(SmoothL1, row="CMP-02", issue="pytorch/pytorch#194501", needs="torch.compile, and beta < 0")
class CompiledUnchecked(SmoothL1):
    """Compiled, it takes a negative beta as it comes."""

    def check_parameter(self, c: Elements) -> None:
        if not torch.compiler.is_compiling():
            super().check_parameter(c)


@mutant(MSE, row="CMP-04", issue="pytorch/pytorch#118090", needs="torch.export, and several axes")
class ExportedOverBatch(MSE):
    """Exported, the mean divides by the size of the first axis."""

    def divisor(self, c: Elements, losses: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            return losses.new_tensor(losses.shape[0] if losses.ndim else 1)
        return super().divisor(c, losses)


@mutant(MSE, row="SHP-01", issue="pytorch/pytorch#53030", needs="a look at the memory")
class AllPairs(MSE):
    """Up to 5000 elements, each is compared with all, of which only its own is taken."""

    def element(self, c: Elements) -> Tensor:
        x, y = together(c.x, c.y)
        if x.numel() > 5000:
            return super().element(c)
        pairs = (x.reshape(-1, 1) - y.reshape(1, -1)).square()
        return pairs.diagonal().reshape(x.shape)


@mutant(
    "nll_loss",
    row="MOD-03",
    issue="pytorch/rl#1594",
    needs="one module that is called with other targets",
    surface="class",
)
class FirstTargetsKept(torch.nn.NLLLoss):
    """The targets of the first call stay those of every later one of that shape."""

    kept: Tensor | None = None

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        if self.kept is None or self.kept.shape != target.shape:
            self.kept = target.detach().clone()
        return super().forward(input, self.kept)


@mutant(
    "kl_div",
    row="MOD-03",
    issue="pytorch/rl#1594",
    needs="one module that is called with batches of two sizes",
    surface="class",
)
class FirstBatchSizeKept(torch.nn.KLDivLoss):
    """The size of the first batch divides the batchmean of every later one."""

    size: int | None = None

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        if self.reduction != "batchmean" or not input.ndim:
            return super().forward(input, target)
        if self.size is None:
            self.size = len(input)
        return F.kl_div(input, target, reduction="sum", log_target=self.log_target) / self.size


@mutant(CrossEntropy, row="SHP-06", issue="pytorch/pytorch#76939", needs="no batch")
class NoBatchIsNoClasses(CrossEntropy):
    """Scores and probabilities without a batch are taken for samples of one class each."""

    def log_probabilities(self, c: Classes) -> Tensor:
        if c.soft and c.input.ndim == 1:
            return c.x.unsqueeze(-1).log_softmax(-1).squeeze(-1)
        return super().log_probabilities(c)


@mutant(
    "cross_entropy",
    row="MOD-05",
    issue="linkedin/Liger-Kernel#507",
    needs="a module in evaluation mode",
    surface="class",
)
class NothingInEvaluation(torch.nn.CrossEntropyLoss):
    """In evaluation mode the loss is 0."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        value = super().forward(input, target)
        return value if self.training else torch.zeros_like(value)


@control("cross_entropy", surface="class")
class ModuleOfParts(torch.nn.Module):
    """A module that keeps its arguments, the weight in a buffer, and calls a composition."""

    def __init__(self, weight: Tensor | None = None, **options: Any) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.options = options

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return CrossEntropy()(input, target, self._buffers["weight"], **self.options)
