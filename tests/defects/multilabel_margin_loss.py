"""Wrong and right implementations of `multilabel_margin_loss`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.jit import is_scripting  # type: ignore[attr-defined]  # torch documents it
from torch.nn import functional as F

from lossspec.baselines.reduction import wide
from tests.defects.catalogue import right, wrong
from tests.defects.composition import Composition, InOwnDtype, PartsInFloat64, RaisesWhenEmpty


class MultiLabelMargin(Composition):
    """`multilabel_margin_loss`."""

    loss = "multilabel_margin_loss"

    def __call__(self, input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
        """Compute the loss like `torch.nn.functional.multilabel_margin_loss`."""
        self.check_reduction(reduction)
        if input.ndim not in (1, 2):
            raise ValueError("input must have one axis or two")
        self.check_sizes(input, target)
        self.check_classes(target)
        listed = self.listed(target)
        losses = self.row(self.work(input), torch.where(listed, target, 0), listed)
        return self.leave(losses, reduction, input)

    def check_classes(self, target: Tensor) -> None:
        """Check that classes are integers below C; a negative number ends the list."""
        if target.dtype != torch.int64:
            raise RuntimeError(f"expected scalar type Long but found {target.dtype}")
        if (self.listed(target) & (target >= target.shape[-1])).any():
            raise IndexError("target out of range")

    def listed(self, target: Tensor) -> Tensor:
        """Return which entries are before the first -1."""
        return (target < 0).cumsum(-1) == 0

    def row(self, x: Tensor, t: Tensor, listed: Tensor) -> Tensor:
        """Return the loss of each row."""
        # Axis -2 is that of the list, axis -1 that of the classes.
        gap = (1 - x.gather(-1, t).unsqueeze(-1) + x.unsqueeze(-2)).relu()
        pair = listed.unsqueeze(-1) & ~self.labels(t, listed).unsqueeze(-2)
        return wide(torch.where(pair, gap, 0)).sum((-2, -1)) / self.classes(x)

    def labels(self, t: Tensor, listed: Tensor) -> Tensor:
        """Return which classes are in the list."""
        same = t.unsqueeze(-1) == torch.arange(t.shape[-1])
        return (same & listed.unsqueeze(-1)).any(-2)

    def classes(self, x: Tensor) -> int:
        """Return the divisor of the sum over the classes."""
        return x.shape[-1]


# === wrong ===============================================================================


class PaddingIsClassZero(MultiLabelMargin):
    """Entries after the end of the list count as class 0 among the terms."""

    def labels(self, t: Tensor, listed: Tensor) -> Tensor:
        self.padding = ~listed
        return super().labels(t, listed)

    def row(self, x: Tensor, t: Tensor, listed: Tensor) -> Tensor:
        right = super().row(x, t, listed)
        rest = ~self.labels(t, listed)
        gap = torch.where(rest, (1 - x[..., :1] + x).relu(), 0).sum(-1) / self.classes(x)
        return right + gap * self.padding.sum(-1)


class EndIsNoOther(MultiLabelMargin):
    """The classes after the end of the list do not count as others."""

    def __call__(self, input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
        self.behind = target.clamp(min=0)
        return super().__call__(input, target, reduction)

    def labels(self, t: Tensor, listed: Tensor) -> Tensor:
        return super().labels(self.behind, torch.ones_like(listed))


class ListedClassClamped(MultiLabelMargin):
    """A class above the last one counts as the last."""

    def check_classes(self, target: Tensor) -> None:
        super().check_classes(target.clamp(max=target.shape[-1] - 1))

    def row(self, x: Tensor, t: Tensor, listed: Tensor) -> Tensor:
        return super().row(x, t.clamp(max=x.shape[-1] - 1), listed)


class ClassTruncated(MultiLabelMargin):
    """A class is truncated to 32 bits before it is checked."""

    def __call__(self, input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
        return super().__call__(input, target.int().long(), reduction)


class OneSampleKeepsAxis(MultiLabelMargin):
    """Without a batch, the unreduced loss has shape (1)."""

    def leave(self, losses: Tensor, reduction: str, like: Tensor) -> Tensor:
        result = super().leave(losses, reduction, like)
        return result.reshape(1) if reduction == "none" and not losses.ndim else result


class WrongAfterFirstScriptedCall(torch.nn.MultiLabelMarginLoss):
    """Once scripted, every call but the first is wrong."""

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.calls = 0

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        losses = F.multilabel_margin_loss(input, target, reduction=self.reduction)
        if is_scripting():
            self.calls += 1
            return losses if self.calls == 1 else 2 * losses
        return losses


WRONG = (
    wrong(
        "multilabel_margin_loss",
        WrongAfterFirstScriptedCall,
        source="pytorch/pytorch#86551",
        needs="a scripted module that is called twice",
        surface="class",
    ),
    wrong(
        MultiLabelMargin,
        RaisesWhenEmpty,
        source="EMP-07, pytorch/pytorch#46975",
        needs="no samples",
    ),
    wrong(
        MultiLabelMargin,
        PaddingIsClassZero,
        source="IGN-16, pytorch/pytorch#185464",
        needs="padding",
    ),
    wrong(
        MultiLabelMargin,
        "list-goes-on",
        "A -1 is skipped but does not end the list.",
        source="IGN-16, pytorch/pytorch#185464",
        needs="classes behind a -1",
        listed=lambda self, target: target >= 0,
    ),
    wrong(
        MultiLabelMargin,
        EndIsNoOther,
        source="ERR-03, pytorch/pytorch#12670",
        needs="an end before C",
    ),
    wrong(
        MultiLabelMargin,
        ListedClassClamped,
        source="ERR-11, pytorch/pytorch#99410",
        needs="a class out of range",
    ),
    wrong(
        MultiLabelMargin,
        ClassTruncated,
        source="ERR-11, pytorch/pytorch#99410",
        needs="a class above 2³¹",
    ),
    wrong(
        MultiLabelMargin,
        OneSampleKeepsAxis,
        source="SHP-16, pytorch/pytorch#186074",
        needs="no batch",
    ),
    wrong(
        MultiLabelMargin,
        "divides-by-pairs",
        "The sum is divided by the square of the number of classes.",
        source="VAL-13, umbertogriffo/focal-loss-keras#12",
        needs="any row",
        classes=lambda self, x: x.shape[-1] ** 2,
    ),
)


# === right ===============================================================================


class EntryByEntry(MultiLabelMargin):
    """A loop over the entries of the lists, which adds to the losses."""

    def row(self, x: Tensor, t: Tensor, listed: Tensor) -> Tensor:
        rest = ~self.labels(t, listed)
        losses = torch.zeros_like(x)
        for j in range(x.shape[-1]):
            gap = (1 + x - x.gather(-1, t[..., j : j + 1])).clamp(min=0)
            losses = losses + torch.where(rest & listed[..., j : j + 1], gap, 0)
        return losses.mean(-1)


class CountedLabels(MultiLabelMargin):
    """Pairs of classes, each multiplied by the number of times that the first is listed."""

    def row(self, x: Tensor, t: Tensor, listed: Tensor) -> Tensor:
        times = torch.zeros_like(x).scatter_add(-1, t, listed.to(x.dtype))
        gap = (1 - (x.unsqueeze(-1) - x.unsqueeze(-2))).relu()
        factor = times.unsqueeze(-1) * (times == 0).to(x.dtype).unsqueeze(-2)
        return (gap * factor).sum((-2, -1)) / x.shape[-1]


RIGHT = (
    right(MultiLabelMargin, "composite", "Plain torch operations, half precisions in float32."),
    right(MultiLabelMargin, PartsInFloat64),
    right(MultiLabelMargin, InOwnDtype),
    right(MultiLabelMargin, EntryByEntry),
    right(MultiLabelMargin, CountedLabels),
)
