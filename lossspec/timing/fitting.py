"""The sizes of timing cells that fit the machine, and the arms that are too costly for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from lossspec.cases.workloads import axes, batch_axis
from lossspec.execution.implementation import LossUnderTest
from lossspec.thresholds import BEYOND_MACHINE, TEXTBOOK_PATIENCE
from lossspec.timing.clocks import Clock
from lossspec.timing.memory import Need, TooLarge, excess, fitted, need, too_large
from lossspec.timing.plan import TimingCell


@dataclass
class Fitting:
    """The sizes and arms that fit the machine, determined once for all modes of a size.

    Attributes:
        clock: A function that returns the clock of a device.
    """

    clock: Callable[[str], Clock]
    _sizes: dict[tuple[str, str, str], dict[str, int] | TooLarge] = field(default_factory=dict)
    _costly: dict[tuple[str, str, str], str | None] = field(default_factory=dict)

    def axes(
        self, timing_cell: TimingCell, losses_under_test: Iterable[LossUnderTest]
    ) -> dict[str, int]:
        """Return the sizes of all axes, with a batch that every loss can process.

        Args:
            timing_cell: The cell.
            losses_under_test: The losses that the cell times.

        Raises:
            TooLarge: If a batch of one sample is too large.
        """
        timed_loss, loss = timing_cell.timed_loss, timing_cell.timed_loss.under_test.loss
        key = _key(timing_cell)
        if key not in self._sizes:
            wanted = axes(loss, timing_cell.size)
            self._sizes[key] = wanted
            if timing_cell.size.elements >= BEYOND_MACHINE:
                device, dtype = timed_loss.device, timed_loss.dtype
                each = list(dict.fromkeys(losses_under_test))
                clock, batch = self.clock(device), batch_axis(loss)
                try:
                    self._sizes[key] = fitted(each, wanted, batch, dtype, device, clock)
                except TooLarge as error:
                    self._sizes[key] = error
        found = self._sizes[key]
        if isinstance(found, TooLarge):
            raise found
        return found

    def too_costly(
        self, timing_cell: TimingCell, known: Mapping[str, int], under_test: LossUnderTest
    ) -> str | None:
        """Return why a textbook composition is left out at a size; None if it fits.

        Args:
            timing_cell: The cell.
            known: The sizes of all axes by name.
            under_test: The textbook composition.
        """
        timed_loss, key = timing_cell.timed_loss, _key(timing_cell)
        if key not in self._costly:  # decided once, so that all modes have the same arms
            self._costly[key] = None
            if timing_cell.size.elements >= BEYOND_MACHINE:
                clock = self.clock(timed_loss.device)
                needed = need(under_test, known, timed_loss.dtype, timed_loss.device, clock)
                shorter = Need(needed.bytes, needed.seconds / TEXTBOOK_PATIENCE)
                if excess(shorter, timed_loss.device) > 1:
                    self._costly[key] = str(too_large(needed))
        return self._costly[key]


def _key(timing_cell: TimingCell) -> tuple[str, str, str]:
    timed_loss = timing_cell.timed_loss
    return timed_loss.implementation.name, timed_loss.name, timing_cell.size.name
