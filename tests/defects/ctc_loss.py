"""Wrong and right implementations of `ctc_loss`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.defects.catalogue import right, wrong
from tests.defects.composition import Composition, Noisy, PartsInFloat64
from tests.defects.numerics import with_gradient_of

Lengths: TypeAlias = Tensor | Sequence[int] | int


#: A finite stand-in for the logarithm of 0, which has a gradient.
NEVER = -1e30


class CTC(Composition):
    """`ctc_loss`."""

    loss = "ctc_loss"

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
        """Compute the loss like `torch.nn.functional.ctc_loss`."""
        self.check_reduction(reduction)
        single = log_probs.ndim == 2
        lp = self.work(log_probs.unsqueeze(1) if single else log_probs)
        frames, lengths = (
            torch.as_tensor(given).reshape(1) if single else torch.as_tensor(given)
            for given in (input_lengths, target_lengths)
        )
        self.check_lengths(lp, targets, frames, lengths)
        self.check_blank(lp, blank)
        rows = self.padded(targets.long(), lengths)
        losses = self.rows(lp, rows, frames, lengths.long(), blank)
        losses = self.finish(losses, zero_infinity)
        if reduction == "mean":
            losses = losses / self.share(lengths)
        losses = losses.squeeze(0) if single and reduction == "none" else losses
        return self.leave(losses, reduction, log_probs)

    def check_lengths(self, lp: Tensor, targets: Tensor, frames: Tensor, lengths: Tensor) -> None:
        """Check that the lengths fit the frames and the targets."""
        batch = lp.shape[1]
        if frames.shape != (batch,) or lengths.shape != (batch,):
            raise ValueError("lengths must have the size of the batch")
        if (frames < 0).any() or (frames > lp.shape[0]).any():
            raise ValueError("input lengths must be from 0 to the number of frames")
        if (lengths < 0).any():
            raise ValueError("target lengths must not be negative")
        if targets.ndim == 1:
            if int(lengths.sum()) != targets.shape[0]:
                raise ValueError("target lengths must add up to the number of targets")
        elif targets.ndim != 2 or targets.shape[0] != batch:
            raise ValueError("targets must have a row for each sample")
        elif (lengths > targets.shape[1]).any():
            raise ValueError("target lengths must be at most the length of a row")

    def check_blank(self, lp: Tensor, blank: int) -> None:
        """Check that the blank is a class."""
        if not 0 <= blank < lp.shape[-1]:
            raise ValueError("blank must be in label range")

    def padded(self, targets: Tensor, lengths: Tensor) -> Tensor:
        """Return the targets with a row for each sample."""
        if targets.ndim == 2:
            return targets
        rows = torch.split(targets, lengths.tolist())
        return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)

    def rows(
        self, lp: Tensor, targets: Tensor, frames: Tensor, lengths: Tensor, blank: int
    ) -> Tensor:
        """Return the loss of each sample, a huge one for an impossible target."""
        states = torch.full((targets.shape[0], 2 * targets.shape[1] + 1), blank)
        # The padding after the last label may hold any number.
        states[:, 1::2] = targets.clamp(0, lp.shape[-1] - 1)
        skips = torch.zeros_like(states, dtype=torch.bool)
        skips[:, 2:] = self.skips(states)
        paths = lp.new_full(states.shape, NEVER).index_fill(1, torch.tensor([0]), 0.0)
        paths = paths + lp[:0].sum()  # a gradient even without frames
        for t in range(lp.shape[0]):
            one = F.pad(paths, (1, 0), value=NEVER)[:, :-1]
            two = F.pad(paths, (2, 0), value=NEVER)[:, : paths.shape[1]].where(skips, NEVER)
            sums = torch.stack([paths, one, two]).logsumexp(0)
            moved = (sums + lp[t].gather(1, states)).clamp(min=NEVER)
            paths = torch.where(self.runs(t, frames), moved, paths)
        end = 2 * lengths.unsqueeze(1)
        last = paths.gather(1, end)
        before = paths.gather(1, (end - 1).clamp(min=0)).where(end > 0, NEVER)
        return -torch.cat([last, before], 1).logsumexp(1)

    def skips(self, states: Tensor) -> Tensor:
        """Return whether a path may skip the previous state."""
        return states[:, 2:] != states[:, :-2]

    def runs(self, t: int, frames: Tensor) -> Tensor:
        """Return which samples have this frame."""
        return (t < frames).unsqueeze(1)

    def finish(self, losses: Tensor, zero_infinity: bool) -> Tensor:
        """Set the loss of impossible targets to infinity, or to 0 with zero_infinity."""
        return torch.where(losses > -NEVER / 2, 0.0 if zero_infinity else math.inf, losses)

    def share(self, lengths: Tensor) -> Tensor:
        """Return the divisor of each sample's loss in the mean."""
        return lengths.clamp(min=1)


# === wrong ===============================================================================


class BackwardRunsToTheEnd(CTC):
    """Backward runs through all frames, even after the end of a shorter sequence."""

    def rows(
        self, lp: Tensor, targets: Tensor, frames: Tensor, lengths: Tensor, blank: int
    ) -> Tensor:
        right = super().rows(lp, targets, frames, lengths, blank)
        whole = super().rows(lp, targets, torch.full_like(frames, lp.shape[0]), lengths, blank)
        return with_gradient_of(right, whole)


class EmptyTargetHasNoGradient(CTC):
    """A sample with an empty target gets no gradient."""

    def rows(
        self, lp: Tensor, targets: Tensor, frames: Tensor, lengths: Tensor, blank: int
    ) -> Tensor:
        right = super().rows(lp, targets, frames, lengths, blank)
        return torch.where(lengths == 0, right.detach(), right)


class BackwardOfFirstBlock(CTC):
    """Backward uses only the first two labels of a target."""

    def rows(
        self, lp: Tensor, targets: Tensor, frames: Tensor, lengths: Tensor, blank: int
    ) -> Tensor:
        right = super().rows(lp, targets, frames, lengths, blank)
        return with_gradient_of(
            right, super().rows(lp, targets[:, :2], frames, lengths.clamp(max=2), blank)
        )


class GradientOfInfinity(CTC):
    """With zero_infinity, an impossible target has loss 0 but a nonzero gradient."""

    def finish(self, losses: Tensor, zero_infinity: bool) -> Tensor:
        right = super().finish(losses, zero_infinity)
        return with_gradient_of(right, losses) if zero_infinity else right


class NegativeLengthIsZero(CTC):
    """A negative input length counts as 0."""

    def check_lengths(self, lp: Tensor, targets: Tensor, frames: Tensor, lengths: Tensor) -> None:
        super().check_lengths(lp, targets, frames.clamp(min=0), lengths)


class EqualLabelsTouch(CTC):
    """No blank is required between two equal labels."""

    def skips(self, states: Tensor) -> Tensor:
        labels = torch.arange(states.shape[1]) % 2 == 1
        return labels[2:].expand_as(states[:, 2:])


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


WRONG = (
    wrong(CTC, Noisy, source="DET-02, pytorch/pytorch#17798", needs="a second call"),
    wrong(
        CTC,
        BackwardRunsToTheEnd,
        source="GRD-20, pytorch/pytorch#14401",
        needs="a shorter sequence",
    ),
    wrong(
        CTC,
        "lengths-ignored",
        "The input lengths are ignored: every sequence has all frames.",
        source="GRD-20, pytorch/pytorch#14401",
        needs="a shorter sequence",
        runs=lambda self, t, frames: torch.ones_like(frames, dtype=torch.bool).unsqueeze(1),
    ),
    wrong(
        CTC,
        EmptyTargetHasNoGradient,
        source="GRD-21, pytorch/pytorch#18215",
        needs="an empty target",
    ),
    wrong(
        CTC,
        BackwardOfFirstBlock,
        source="GRD-22, pytorch/pytorch#27442",
        needs="a target longer than a block",
    ),
    wrong(
        CTC,
        "no-frames-reads-first",
        "A sequence without frames is given its first frame.",
        source="EMP-13, pytorch/pytorch#123193",
        needs="a sequence without frames",
        runs=lambda self, t, frames: CTC.runs(self, t, frames.clamp(min=1)),
    ),
    wrong(
        CTC,
        GradientOfInfinity,
        source="STB-18, pytorch/pytorch#14335",
        needs="zero_infinity, a target too long",
    ),
    wrong(
        CTC,
        "zero-infinity-ignored",
        "zero_infinity has no effect.",
        source="LSM-03, huggingface/transformers#43240",
        needs="zero_infinity",
        finish=lambda self, losses, zero_infinity: CTC.finish(self, losses, False),
    ),
    wrong(
        CTC, NegativeLengthIsZero, source="CRS-01, pytorch/pytorch#51732", needs="a negative length"
    ),
    wrong(
        CTC,
        "mean-of-losses",
        "The mean does not divide by the lengths of the targets.",
        source="RED-18, apache/mxnet#18506",
        needs="the mean, a longer target",
        share=lambda self, lengths: torch.ones_like(lengths),
    ),
    wrong(
        CTC,
        "divides-by-zero-length",
        "The mean divides the loss of an empty target by 0.",
        source="EMP-10, HobbitLong/SupContrast#141",
        needs="the mean, an empty target",
        share=lambda self, lengths: lengths,
    ),
    wrong(
        CTC,
        "blank-is-zero",
        "The blank is always class 0.",
        source="LSM-02, linkedin/Liger-Kernel#243",
        needs="another blank",
        rows=lambda self, lp, targets, frames, lengths, blank: CTC.rows(
            self, lp, targets, frames, lengths, 0
        ),
    ),
    wrong(
        CTC,
        EqualLabelsTouch,
        source="GRD-19, pytorch/pytorch#52241",
        needs="a label twice in a row",
    ),
    wrong(CTC, WantsBatch, source="GRD-28, candle-org/candle#323", needs="no batch"),
)


# === right ===============================================================================


class FromTheEnd(CTC):
    """Frames and targets in reverse order, sample by sample."""

    def rows(
        self, lp: Tensor, targets: Tensor, frames: Tensor, lengths: Tensor, blank: int
    ) -> Tensor:
        found = []
        for i in range(lp.shape[1]):
            last, size = int(frames[i]), int(lengths[i])
            found.append(
                super().rows(
                    lp[:last, i : i + 1].flip(0),
                    targets[i : i + 1, :size].flip(1),
                    frames[i : i + 1],
                    lengths[i : i + 1],
                    blank,
                )
            )
        return torch.cat(found)


class BetweenLabels(CTC):
    """A transition matrix for each sample; matrix products in logarithms by torch.logsumexp."""

    def rows(
        self, lp: Tensor, targets: Tensor, frames: Tensor, lengths: Tensor, blank: int
    ) -> Tensor:
        return torch.stack(
            [
                self.single(lp[: int(frames[i]), i], targets[i, : int(lengths[i])].tolist(), blank)
                for i in range(lp.shape[1])
            ]
        )

    def single(self, lp: Tensor, labels: list[int], blank: int) -> Tensor:
        """Return the loss of a sample."""
        states = [blank]
        for label in labels:
            states += [label, blank]
        index = torch.tensor(states)
        place = torch.arange(len(states))
        step = place - place.unsqueeze(1)
        may = (step == 0) | (step == 1) | ((step == 2) & (index != index.unsqueeze(1)))
        onward = lp.new_zeros(may.shape).masked_fill(~may, NEVER)
        paths = lp.new_zeros(may.shape[:1]).masked_fill(place > 0, NEVER) + lp[:0].sum()
        for frame in lp.unbind():
            paths = (paths.unsqueeze(1) + onward).logsumexp(0).clamp(min=NEVER) + frame[index]
        return -paths[-2:].logsumexp(0)


RIGHT = (
    right(CTC, "composite", "Plain torch operations, half precisions in float32."),
    right(CTC, PartsInFloat64),
    right(CTC, FromTheEnd),
    right(CTC, BetweenLabels),
)
