"""The plan of a timing run: losses, sizes, modes, and the axes along which growth is measured."""

from __future__ import annotations

from dataclasses import dataclass

from lossspec.cases.workloads import Size, axes, batch_axis, has_classes, sizes
from lossspec.execution.implementation import Implementation, LossUnderTest
from lossspec.timing.results import Mode, timing_id


@dataclass(frozen=True)
class TimedLoss:
    """A loss of an implementation on a device, in one dtype."""

    implementation: Implementation
    under_test: LossUnderTest
    device: str
    dtype: str

    @property
    def name(self) -> str:
        """Return a name that is unique within the implementation's report."""
        loss, surface = self.under_test.loss.name, self.under_test.surface
        return f"{loss}[{surface}-{self.device}-{self.dtype}]"


@dataclass(frozen=True)
class TimingCell:
    """A timed loss at one size in one mode; one test times it."""

    timed_loss: TimedLoss
    size: Size
    mode: Mode

    @property
    def id(self) -> str:
        """Return an id that is unique within the implementation's report."""
        under_test = self.timed_loss.under_test
        return timing_id(
            under_test.loss.name,
            self.size.name,
            self.mode,
            under_test.surface,
            self.timed_loss.device,
            self.timed_loss.dtype,
        )


def timing_cells(timed_loss: TimedLoss, modes: tuple[Mode, ...]) -> list[TimingCell]:
    """Return the cells of a loss: every size in every mode."""
    return [
        TimingCell(timed_loss, size, mode)
        for size in sizes(timed_loss.under_test.loss, timed_loss.device)
        for mode in modes
    ]


def growing(timed_loss: TimedLoss) -> list[str]:
    """Return the axes along which growth is measured: the batch, and the classes if any."""
    loss = timed_loss.under_test.loss
    return [loss.batch, *([loss.classes] if has_classes(loss) else [])]


def points(timed_loss: TimedLoss, axis: str) -> list[tuple[int, dict[str, int]]]:
    """Return each size along an axis, with the sizes of all axes at that point."""
    loss = timed_loss.under_test.loss
    scale = 1 if timed_loss.device == "cpu" else 8
    if axis == loss.classes:
        most = Size("growth", 2**22 * scale, 16, 2**17, "the batch of the largest vocabulary")
        fixed = axes(loss, most)
        return [(2**k, fixed | {axis: 2**k}) for k in range(10, 18)]
    batch = batch_axis(loss)
    found = []
    for k in range(12, 22, 2):
        known = axes(loss, Size("growth", 2**k * scale, 32, None, "a batch"))
        found.append((known[batch], known))
    return found
