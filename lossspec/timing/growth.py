"""The growth of the time and memory of a loss along an axis."""

from __future__ import annotations

from lossspec.cases.workloads import workload
from lossspec.execution.implementation import LossUnderTest
from lossspec.execution.memory import weighed
from lossspec.safe_text import foreign_error
from lossspec.thresholds import GROWTH_POINT_SECONDS
from lossspec.timing.clocks import Clock
from lossspec.timing.memory import Need, clocked, excess, too_large
from lossspec.timing.plan import TimedLoss, points
from lossspec.timing.results import Growth
from lossspec.timing.statistics import exponent, foreseen


def growth_of(
    timed_loss: TimedLoss, axis: str, name: str, under_test: LossUnderTest, clock: Clock, seed: int
) -> Growth:
    """Measure full steps of one arm at growing sizes of an axis, until a size is too large.

    Args:
        timed_loss: The loss.
        axis: The name of the axis.
        name: The name of the arm.
        under_test: The implementation that the arm calls.
        clock: The clock of the device.
        seed: The seed of the inputs.
    """
    done: list[int] = []
    seconds: list[float] = []
    bytes_: list[int] = []
    reason = None
    for size, known in points(timed_loss, axis):
        if done:
            wanted = Need(
                foreseen(done, bytes_, size),
                foreseen(done, [1e9 * s for s in seconds], size) / 1e9,
            )
            if excess(wanted, timed_loss.device, GROWTH_POINT_SECONDS) > 1:
                reason = f"from size {size} on, {too_large(wanted)}"
                break
        try:
            case = workload(under_test.loss, known, timed_loss.dtype, seed)
            top = weighed(under_test, case, timed_loss.device)[0]
            taken = clocked(under_test, case, timed_loss.device, clock, times=5)
        except Exception as error:  # raised by the implementation; ends its curve
            reason = f"at size {size}: {foreign_error(error)}"
            break
        done.append(size)
        bytes_.append(top)
        seconds.append(taken)
    return curve(timed_loss, axis, name, done, seconds, bytes_, reason)


def curve(
    timed_loss: TimedLoss,
    axis: str,
    arm: str,
    done: list[int],
    seconds: list[float],
    bytes_: list[int],
    reason: str | None,
) -> Growth:
    """Return the record of a curve.

    Args:
        timed_loss: The loss.
        axis: The name of the axis.
        arm: The name of the arm.
        done: The sizes that were measured.
        seconds: The time of a step at each size, in seconds.
        bytes_: The peak memory of a step at each size, in bytes.
        reason: The reason why larger sizes were not measured; None if all were.
    """
    return Growth(
        loss=timed_loss.under_test.loss.name,
        surface=timed_loss.under_test.surface,
        device=timed_loss.device,
        dtype=timed_loss.dtype,
        axis=axis,
        arm=arm,
        sizes=done,  # type: ignore[arg-type]  # the record makes tuples
        seconds=seconds,  # type: ignore[arg-type]
        bytes=bytes_,  # type: ignore[arg-type]
        time_power=exponent(done, seconds),
        memory_power=exponent(done, bytes_),
        reason=reason,
    )
