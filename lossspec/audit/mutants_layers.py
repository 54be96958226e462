"""Wrong losses with a linear layer of their own, re-created from bugs that libraries had."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lossspec.audit import mutant
from lossspec.audit.controls_layers import (
    ADAPTIVE,
    EveryClass,
    LinearCrossEntropy,
)
from lossspec.audit.right import Classes, passed, wide


@mutant(
    ADAPTIVE,
    issue="huggingface/transformers#1086",
    needs="two clusters, and a look at all classes",
    surface="class",
)
class ClustersFromTheEnd(EveryClass):
    """For all classes, the clusters are read from the head's end: the first has the last's."""

    def log_prob(self, input: Tensor) -> Tensor:
        x = wide(input)
        head = self.head_log_p(x)
        tails = [head[:, -i - 1, None] + self.tail_log_p(i, x) for i in range(len(self.tail))]
        return torch.cat([head[:, : self.frequent], *tails], 1).to(input.dtype)


@mutant(ADAPTIVE, issue="salesforce/awd-lstm-lm#82", needs="a target in a cluster", surface="class")
class ClusterCountsTwice(EveryClass):
    """The log-probability of the cluster is added twice."""

    def all_log_p(self, x: Tensor) -> Tensor:
        head = self.head_log_p(x)
        tails = [
            2 * head[:, self.column(i), None] + self.tail_log_p(i, x) for i in range(len(self.tail))
        ]
        return torch.cat([head[:, : self.frequent], *tails], 1)


@mutant(
    ADAPTIVE,
    row="ERR-12",
    issue="pytorch/pytorch#16658",
    needs="a last cluster of a single class",
    surface="class",
)
class LastClassRefused(EveryClass):
    """A last cutoff just below the number of classes is refused."""

    def check_cutoffs(self, cutoffs: list[int], classes: int) -> None:
        super().check_cutoffs(cutoffs, classes)
        if cutoffs[-1] >= classes - 1:
            raise ValueError(f"cutoffs lie below {classes - 1}, got {cutoffs}")


@mutant(
    ADAPTIVE,
    row="ERR-13",
    issue="pytorch/pytorch#106777",
    needs="a call without cutoffs",
    surface="class",
)
class NoCutoffs(EveryClass):
    """Without a cutoff all classes are in the head."""

    def __init__(
        self, in_features: int, n_classes: int, cutoffs: Sequence[int], *options: Any, **more: Any
    ) -> None:
        if cutoffs:
            super().__init__(in_features, n_classes, cutoffs, *options, **more)
        else:
            nn.Module.__init__(self)
            self.in_features, self.ends, self.frequent = in_features, [n_classes], n_classes
            self.head, self.tail = nn.Linear(in_features, n_classes, bias=False), nn.ModuleList()


@mutant(
    LinearCrossEntropy,
    row="GRD-03",
    issue="linkedin/Liger-Kernel#1298",
    needs="no reduction, and an upstream gradient that differs between rows",
)
class RowsScaledByTheFirst(LinearCrossEntropy):
    """Without a reduction backward multiplies each row by the first upstream gradient."""

    def run(self, c: Classes) -> Tensor:
        losses = super().run(c)
        if c.reduction != "none" or losses.ndim != 1:
            return losses
        return passed(losses, lambda upstream: upstream[:1].expand_as(upstream))


@mutant(LinearCrossEntropy, row="LSM-02", issue="linkedin/Liger-Kernel#243", needs="smoothing")
class SmoothingForgotten(LinearCrossEntropy):
    """Label smoothing is an argument, and nothing else."""

    def run(self, c: Classes) -> Tensor:
        self.check_smoothing(c)
        c.smoothing = 0.0
        return super().run(c)


@mutant(
    LinearCrossEntropy,
    row="SHP-20",
    issue="pytorch/pytorch#196749",
    needs="a layer with further axes",
)
class ClassesTakenForAnAxis(LinearCrossEntropy):
    """The classes of a layer with further axes are looked for on the last axis."""

    def scores(self, x: Tensor, linear_weight: Tensor) -> Tensor:
        scores = super().scores(x, linear_weight)
        if scores.ndim > 2 and scores.shape[1] == scores.shape[-1]:
            return scores.transpose(1, -1)
        return scores


@mutant(
    LinearCrossEntropy,
    row="STB-20",
    issue="pytorch/pytorch#195829",
    needs="a common offset of the scores",
)
class LossFromLogSumExp(LinearCrossEntropy):
    """The loss is the log-sum-exp less the score, neither with the largest score taken off."""

    def log_probabilities(self, c: Classes) -> Tensor:
        return c.x - c.x.logsumexp(-1, keepdim=True)
