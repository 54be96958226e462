"""Wrong and right implementations of `cosine_embedding_loss`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.defects.catalogue import right, wrong
from tests.defects.composition import (
    Composition,
    ComputesInHalf,
    PartsInFloat64,
    SizesUnchecked,
    UpstreamOfFirstRow,
    taken,
)
from tests.defects.numerics import passed
from tests.defects.overlap import keeps_last

#: Rows in a chunk, for losses that work in chunks.
CHUNK = 4


class CosineEmbedding(Composition):
    """`cosine_embedding_loss`."""

    loss = "cosine_embedding_loss"

    def __call__(
        self,
        input1: Tensor,
        input2: Tensor,
        target: Tensor,
        margin: float = 0.0,
        reduction: str = "mean",
    ) -> Tensor:
        """Compute the loss like `torch.nn.functional.cosine_embedding_loss`."""
        self.check_reduction(reduction)
        self.check_shapes(input1, input2, target)
        cos = self.cosine(self.work(input1), self.work(input2))
        return self.leave(self.costs(cos, target, margin), reduction, input1)

    def check_shapes(self, input1: Tensor, input2: Tensor, target: Tensor) -> None:
        """Check that the inputs have one shape of one or two axes, and a target for each row."""
        if input1.ndim not in (1, 2):
            raise ValueError("inputs must have one axis or two")
        self.check_sizes(input1, input2)
        if target.shape != input1.shape[:-1]:
            raise ValueError(f"target {target.shape} does not fit inputs {input1.shape}")

    def cosine(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the cosine of the angle between rows, and 0 for a row of zeros."""
        return (self.unit(a) * self.unit(b)).sum(-1)

    def unit(self, a: Tensor) -> Tensor:
        """Scale each row to length 1."""
        return a / self.length(a).clamp(min=1e-8).unsqueeze(-1)

    def length(self, a: Tensor) -> Tensor:
        """Return the length of each row."""
        length: Tensor = torch.linalg.vector_norm(a, dim=-1)
        return length

    def costs(self, cos: Tensor, y: Tensor, margin: float) -> Tensor:
        """Return the losses of like and unlike pairs."""
        return torch.where(y > 0, 1 - cos, (cos - margin).relu())


# === wrong ===============================================================================


class BufferOfInputDtype(CosineEmbedding):
    """Matrix products are copied into a buffer with the dtype of the input."""

    def cosine(self, a: Tensor, b: Tensor) -> Tensor:
        a, b = (torch.atleast_2d(self.unit(x)) for x in (a, b))  # type: ignore[no-untyped-call]
        cos = torch.bmm(a.unsqueeze(1), b.unsqueeze(2)).reshape(-1)
        buffer = a.new_empty(cos.shape)
        return buffer.index_copy_(0, torch.arange(len(cos)), cos)

    def costs(self, cos: Tensor, y: Tensor, margin: float) -> Tensor:
        return super().costs(cos.reshape(y.shape), y, margin)


class NothingWithoutGradient(CosineEmbedding):
    """The loss is 0 if no input requires a gradient."""

    def leave(self, losses: Tensor, reduction: str, like: Tensor) -> Tensor:
        result = super().leave(losses, reduction, like)
        return result if losses.requires_grad else torch.zeros_like(result)


class ScaledBackwardRaises(CosineEmbedding):
    """Under a reduction, backward raises if the cotangent is not 1."""

    def leave(self, losses: Tensor, reduction: str, like: Tensor) -> Tensor:
        def one(grad: Tensor) -> Tensor:
            if reduction != "none" and (grad != 1).any():
                raise RuntimeError("inconsistent tensor size")
            return grad

        return passed(super().leave(losses, reduction, like), one)


class TargetBroadcasts(CosineEmbedding):
    """A target of shape (N, 1) broadcasts to (N, N)."""

    def check_shapes(self, input1: Tensor, input2: Tensor, target: Tensor) -> None:
        if target.shape != (*input1.shape[:-1], 1):
            super().check_shapes(input1, input2, target)


class AllPairsOfRows(CosineEmbedding):
    """The cosines are the diagonal of a matrix of all pairs of rows."""

    def cosine(self, a: Tensor, b: Tensor) -> Tensor:
        if a.ndim < 2:
            return super().cosine(a, b)
        pairs = (self.unit(a) * self.unit(b)).sum(-1).diag_embed()
        return pairs.diagonal(dim1=-2, dim2=-1)


WRONG = (
    wrong(
        CosineEmbedding,
        AllPairsOfRows,
        source="rpautrat/SuperPoint#289",
        needs="a large batch, and the memory that it takes",
    ),
    wrong(
        CosineEmbedding,
        BufferOfInputDtype,
        source="AUT-01, pytorch/pytorch#44724",
        needs="torch.autocast, under which matrix products have a lower precision",
    ),
    wrong(
        CosineEmbedding,
        "mean-of-chunk-means",
        "The mean is the mean of the means of chunks, even if the last chunk is shorter.",
        source="RED-06, huggingface/transformers#34191",
        needs="more rows than a chunk, and a shorter last chunk",
        reduce=lambda self, losses, reduction: (
            CosineEmbedding.reduce(self, losses, reduction)
            if reduction != "mean" or not losses.ndim or not losses.numel()
            else torch.stack([part.mean() for part in torch.split(losses, CHUNK)]).mean()
        ),
    ),
    wrong(
        CosineEmbedding,
        UpstreamOfFirstRow,
        source="GRD-03, linkedin/Liger-Kernel#1298",
        needs="no reduction, and a cotangent that differs by row",
    ),
    wrong(
        CosineEmbedding,
        NothingWithoutGradient,
        source="MOD-05, linkedin/Liger-Kernel#507",
        needs="no gradient",
    ),
    wrong(
        CosineEmbedding,
        ScaledBackwardRaises,
        source="GRD-25, pytorch/pytorch#1058",
        needs="a reduction, and a cotangent other than 1",
    ),
    wrong(
        CosineEmbedding,
        ComputesInHalf,
        source="DTY-13, NVIDIA/apex#211",
        needs="float16, and squares outside its range",
        witness=lambda loss: loss(*(torch.full(size, 500.0).half() for size in ((2,), (2,), ()))),
    ),
    wrong(
        CosineEmbedding,
        SizesUnchecked,
        source="SHP-21, pytorch/pytorch#112782",
        needs="a second input (N, 1)",
        awaits=(
            "calls with another tensor that has size 1 where the input has classes or coordinates"
        ),
        witness=lambda loss: taken(loss, torch.ones(2, 3), torch.ones(2, 1), torch.ones(2)),
    ),
    wrong(
        CosineEmbedding,
        TargetBroadcasts,
        source="SHP-01, pytorch/pytorch#53030",
        needs="a target (N, 1)",
    ),
    wrong(
        CosineEmbedding,
        "margin-of-cosine-ignored",
        "The margin is always 0.",
        source="MOD-01, pytorch/pytorch#1378",
        needs="a margin, and -1",
        costs=lambda self, cos, y, margin: CosineEmbedding.costs(self, cos, y, 0.0),
    ),
    wrong(
        CosineEmbedding,
        "cosine-not-hinged",
        "Unlike pairs below the margin get a negative loss.",
        source="VAL-09, marlbenchmark/on-policy#47",
        needs="an obtuse angle",
        costs=lambda self, cos, y, margin: torch.where(y > 0, 1 - cos, cos - margin),
    ),
    wrong(
        CosineEmbedding,
        "epsilon-plus-length",
        "An epsilon is added to each length.",
        source="EMP-12, KevinMusgrave/pytorch-metric-learning#98",
        needs="short vectors",
        length=lambda self, a: CosineEmbedding.length(self, a) + 1e-5,
    ),
    wrong(
        CosineEmbedding,
        "length-detached",
        "Backward treats the lengths as constants.",
        source="GRD-08, pytorch/pytorch#3876",
        needs="a second gradient",
        length=lambda self, a: CosineEmbedding.length(self, a).detach(),
    ),
    wrong(
        "cosine_embedding_loss",
        keeps_last(torch.nn.CosineEmbeddingLoss),
        source="growingnet/gromo#135",
        needs="a module that lives on",
        surface="class",
    ),
)


# === right ===============================================================================


class DotOverLengths(CosineEmbedding):
    """The dot product divided by the product of the lengths, by torch.einsum."""

    def cosine(self, a: Tensor, b: Tensor) -> Tensor:
        dots: Tensor = torch.einsum("...d,...d->...", a, b)
        return dots / (self.length(a) * self.length(b)).clamp(min=1e-8)


class RowByRow(CosineEmbedding):
    """A loop over the rows."""

    def cosine(self, a: Tensor, b: Tensor) -> Tensor:
        if a.ndim == 1 or not a.shape[0]:
            return super().cosine(a, b)
        rows = zip(a.unbind(), b.unbind(), strict=True)
        return torch.stack([torch.dot(self.unit(x), self.unit(y)) for x, y in rows])


class ProductOfMatrices(CosineEmbedding):
    """A matrix product for each pair, in the dtype that it returns."""

    def cosine(self, a: Tensor, b: Tensor) -> Tensor:
        a, b = self.unit(a), self.unit(b)
        return torch.matmul(a.unsqueeze(-2), b.unsqueeze(-1)).squeeze(-1).squeeze(-1)


RIGHT = (
    right(CosineEmbedding, "composite", "Plain torch operations, half precisions in float32."),
    right(CosineEmbedding, PartsInFloat64),
    right(CosineEmbedding, DotOverLengths),
    right(
        CosineEmbedding,
        "torchs-similarity",
        "The cosine_similarity of torch.",
        cosine=lambda self, a, b: F.cosine_similarity(a, b, dim=-1),
    ),
    right(CosineEmbedding, RowByRow),
    right(CosineEmbedding, ProductOfMatrices),
)
