"""Wrong and right implementations of `adaptive_log_softmax_with_loss`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lossspec.baselines.reduction import wide
from tests.defects.catalogue import right, wrong


class Result(NamedTuple):
    """The result of a call, as torch returns it."""

    output: Tensor
    loss: Tensor


class EveryClass(nn.Module):
    """The log-probabilities of all classes, from which that of the target is selected."""

    def __init__(
        self,
        in_features: int,
        n_classes: int,
        cutoffs: Sequence[int],
        div_value: float = 4.0,
        head_bias: bool = False,
        *,
        dtype: torch.dtype | None = None,
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
        self.to(dtype=dtype)

    def check_cutoffs(self, cutoffs: list[int], classes: int) -> None:
        """Check that the cutoffs rise from above 0 to below the number of classes."""
        ends = [0, *cutoffs, classes]
        if not cutoffs or any(a >= b for a, b in pairwise(ends)):
            raise ValueError(f"cutoffs rise between 0 and {classes}, got {cutoffs}")

    def check(self, input: Tensor, target: Tensor) -> None:
        """Check that there is a row for each target, and that each target is a class."""
        if input.shape[:-1] != target.shape or target.ndim > 1:
            raise RuntimeError(f"sizes {list(input.shape)} and {list(target.shape)} do not fit")
        if input.shape[-1] != self.in_features:
            raise RuntimeError(f"want {self.in_features} features, got {input.shape[-1]}")
        if target.is_floating_point():
            raise RuntimeError(f"classes are numbered by integers, got {target.dtype}")
        if target.numel() and not 0 <= target.min() <= target.max() < self.ends[-1]:
            raise RuntimeError(f"targets are classes below {self.ends[-1]}")

    def forward(self, input: Tensor, target: Tensor) -> Result:
        """Compute output and loss like the class of torch."""
        self.check(input, target)
        x = wide(input).reshape(-1, self.in_features)
        rows = self.chosen(x, target.reshape(-1).long()).to(input.dtype)
        return Result(rows.reshape(target.shape), -rows.mean())

    def layer(self, layer: nn.Module, x: Tensor) -> Tensor:
        """Apply a linear layer in the precision of its input."""
        weight, bias = self.parts(layer)
        return F.linear(x, weight.to(x.dtype), bias if bias is None else bias.to(x.dtype))

    def parts(self, layer: nn.Module) -> tuple[Tensor, Tensor | None]:
        """Return the weight of a layer, and its bias or None."""
        return layer.get_parameter("weight"), dict(layer.named_parameters()).get("bias")

    def head_log_p(self, x: Tensor) -> Tensor:
        """Return the log-probabilities of the frequent classes and then of the clusters."""
        return self.layer(self.head, x).log_softmax(-1)

    def tail_log_p(self, i: int, x: Tensor) -> Tensor:
        """Return the log-probabilities of the classes of a cluster, given the cluster."""
        down, out = self.tail[i].children()
        return self.layer(out, self.layer(down, x)).log_softmax(-1)

    def column(self, i: int) -> int:
        """Return the column of a cluster in the head."""
        return self.frequent + i

    def all_log_p(self, x: Tensor) -> Tensor:
        """Return the log-probability of every class."""
        head = self.head_log_p(x)
        tails = [
            head[:, self.column(i), None] + self.tail_log_p(i, x) for i in range(len(self.tail))
        ]
        return torch.cat([head[:, : self.frequent], *tails], 1)

    def chosen(self, x: Tensor, target: Tensor) -> Tensor:
        """Return the log-probability of each target."""
        return self.all_log_p(x).gather(1, target[:, None])[:, 0]

    def log_prob(self, input: Tensor) -> Tensor:
        """Compute all log-probabilities like the class of torch."""
        return self.all_log_p(wide(input)).to(input.dtype)

    def predict(self, input: Tensor) -> Tensor:
        """Predict classes like the class of torch."""
        return self.log_prob(input).argmax(1)

    def reset_parameters(self) -> None:
        """Draw the parameters anew, as the class of torch does."""
        self.head.reset_parameters()
        for cluster in self.tail:
            for layer in cluster.children():
                layer.reset_parameters()  # type: ignore[operator]  # all are linear layers


# === wrong ===============================================================================


class ClustersFromTheEnd(EveryClass):
    """For all classes, the clusters are read from the head in reverse order."""

    def log_prob(self, input: Tensor) -> Tensor:
        x = wide(input)
        head = self.head_log_p(x)
        tails = [head[:, -i - 1, None] + self.tail_log_p(i, x) for i in range(len(self.tail))]
        return torch.cat([head[:, : self.frequent], *tails], 1).to(input.dtype)


class ClusterCountsTwice(EveryClass):
    """The log-probability of the cluster is added twice."""

    def all_log_p(self, x: Tensor) -> Tensor:
        head = self.head_log_p(x)
        tails = [
            2 * head[:, self.column(i), None] + self.tail_log_p(i, x) for i in range(len(self.tail))
        ]
        return torch.cat([head[:, : self.frequent], *tails], 1)


class LastClassRefused(EveryClass):
    """A last cutoff one below the number of classes is refused."""

    def check_cutoffs(self, cutoffs: list[int], classes: int) -> None:
        super().check_cutoffs(cutoffs, classes)
        if cutoffs[-1] >= classes - 1:
            raise ValueError(f"cutoffs lie below {classes - 1}, got {cutoffs}")


class NoCutoffs(EveryClass):
    """An empty list of cutoffs is accepted, and all classes are in the head."""

    def __init__(
        self, in_features: int, n_classes: int, cutoffs: Sequence[int], *options: Any, **more: Any
    ) -> None:
        if cutoffs:
            super().__init__(in_features, n_classes, cutoffs, *options, **more)
        else:
            nn.Module.__init__(self)
            self.in_features, self.ends, self.frequent = in_features, [n_classes], n_classes
            self.head, self.tail = nn.Linear(in_features, n_classes, bias=False), nn.ModuleList()


class TailNotReset(EveryClass):
    """A reset draws the parameters of the head twice, and those of the clusters not at all."""

    def reset_parameters(self) -> None:
        self.head.reset_parameters()
        self.head.reset_parameters()


class TailInAnotherDtype(EveryClass):
    """The constructor's dtype reaches the head only."""

    def __init__(self, *given: Any, dtype: torch.dtype | None = None, **more: Any) -> None:
        super().__init__(*given, **more)
        self.head.to(dtype=dtype)


WRONG = (
    wrong(
        "adaptive_log_softmax_with_loss",
        TailInAnotherDtype,
        source="pytorch/pytorch#62340",
        needs="a dtype for the constructor",
        surface="class",
    ),
    wrong(
        "adaptive_log_softmax_with_loss",
        TailNotReset,
        source="pyg-team/pytorch_geometric#6561",
        needs="a reset of the parameters",
        surface="class",
    ),
    wrong(
        "adaptive_log_softmax_with_loss",
        ClustersFromTheEnd,
        source="huggingface/transformers#1086",
        needs="two clusters, and the log-probabilities of all classes",
        surface="class",
    ),
    wrong(
        "adaptive_log_softmax_with_loss",
        ClusterCountsTwice,
        source="salesforce/awd-lstm-lm#82",
        needs="a target in a cluster",
        surface="class",
    ),
    wrong(
        "adaptive_log_softmax_with_loss",
        LastClassRefused,
        source="ERR-12, pytorch/pytorch#16658",
        needs="a last cluster of a single class",
        surface="class",
    ),
    wrong(
        "adaptive_log_softmax_with_loss",
        NoCutoffs,
        source="ERR-13, pytorch/pytorch#106777",
        needs="a call without cutoffs",
        surface="class",
    ),
)


# === right ===============================================================================


class ClusterByCluster(EveryClass):
    """Only the rows of a cluster pass through its layers; the results are scattered back."""

    def chosen(self, x: Tensor, target: Tensor) -> Tensor:
        head = self.head_log_p(x)
        rows = head.gather(1, target.clamp(max=self.frequent - 1)[:, None])[:, 0]
        for i, (start, end) in enumerate(pairwise(self.ends)):
            (of,) = ((target >= start) & (target < end)).nonzero(as_tuple=True)
            inside = self.tail_log_p(i, x[of]).gather(1, target[of, None] - start)[:, 0]
            rows = rows.index_copy(0, of, (head[of, self.column(i)] + inside).to(rows.dtype))
        return rows


class MaskedClusters(EveryClass):
    """Every row passes through every cluster; a mask selects the counted ones."""

    def chosen(self, x: Tensor, target: Tensor) -> Tensor:
        head = self.head_log_p(x)
        rows = head.gather(1, target.clamp(max=self.frequent - 1)[:, None])[:, 0]
        for i, (start, end) in enumerate(pairwise(self.ends)):
            at = (target - start).clamp(0, end - start - 1)
            inside = head[:, self.column(i)] + self.tail_log_p(i, x).gather(1, at[:, None])[:, 0]
            rows = torch.where((target >= start) & (target < end), inside, rows)
        return rows


class TwoCrossEntropies(EveryClass):
    """A cross entropy in the head plus one in the cluster."""

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


class LogOfSumOfExponentials(EveryClass):
    """Scores minus the largest, minus the log of the sum of exponentials; layers by einsum."""

    def layer(self, layer: nn.Module, x: Tensor) -> Tensor:
        weight, bias = self.parts(layer)
        scores = torch.einsum("nh,ch->nc", x, weight.to(x.dtype))
        return scores if bias is None else scores + bias.to(x.dtype)

    def head_log_p(self, x: Tensor) -> Tensor:
        scores = self.layer(self.head, x)
        scores = scores - scores.detach().amax(-1, keepdim=True)
        return scores - scores.exp().sum(-1, keepdim=True).log()


class PartsInFloat64(EveryClass):
    """Everything computed in float64 and cast back."""

    def forward(self, input: Tensor, target: Tensor) -> Result:
        self.check(input, target)
        x = input.double().reshape(-1, self.in_features)
        rows = self.chosen(x, target.reshape(-1).long())
        return Result(rows.reshape(target.shape).to(input.dtype), -rows.mean().to(input.dtype))


RIGHT = (
    right("adaptive_log_softmax_with_loss", EveryClass, surface="class"),
    right("adaptive_log_softmax_with_loss", ClusterByCluster, surface="class"),
    right("adaptive_log_softmax_with_loss", MaskedClusters, surface="class"),
    right("adaptive_log_softmax_with_loss", TwoCrossEntropies, surface="class"),
    right("adaptive_log_softmax_with_loss", LogOfSumOfExponentials, surface="class"),
    right("adaptive_log_softmax_with_loss", PartsInFloat64, surface="class"),
)
