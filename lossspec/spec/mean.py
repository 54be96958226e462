"""The mean of a form: its divisor, and its value where there is nothing to divide by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isfinite, isinf, nan
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Mean:
    """How the mean of a form is made from the unreduced losses.

    The mean is the sum of the losses, each times its share, over the sum of the divisors of the
    elements that are not ignored.

    Attributes:
        divisor: The summand of each element in the divisor: a function of the same arguments as
            `define`. The default is 1 for each element.
        share: The factor of each loss in the sum, likewise.
        floor: The smallest divisor. If the sum of the divisors is below it, the mean divides by it
            instead. The default is no floor.
        of_nothing: The mean if no element counts, since the call is empty or all elements are
            ignored: NaN, another number, or None if the documentation leaves it open. With a floor
            it is 0.
        of_zero_weights: The mean if elements count but their divisors sum to 0, likewise.
    """

    divisor: Callable[..., Any] | None = None
    share: Callable[..., Any] | None = None
    floor: float | None = None
    of_nothing: float | None = nan
    of_zero_weights: float | None = None

    def undivided(self, counted: bool) -> float | None:
        """Return the value of a mean whose divisor is 0; None if it is open.

        Args:
            counted: Whether some element counts.
        """
        return self.of_zero_weights if counted else self.of_nothing

    @property
    def of_empty(self) -> float | None:
        """The mean if no element counts; None if it is open."""
        floored = self.floor is not None and self.of_nothing is not None
        return 0.0 if floored else self.of_nothing

    def problems(self) -> Iterator[str]:
        """Yield the errors in the declaration, for the message of a SpecError."""
        floor = self.floor
        if floor is not None and not (_is_number(floor) and isfinite(floor) and floor > 0):
            yield f"floor of a Mean takes a finite number above 0 or None, got {floor!r}"
            return
        for name in ("of_nothing", "of_zero_weights"):
            value = getattr(self, name)
            if value is not None and (not _is_number(value) or isinf(value)):
                yield f"{name} of a Mean takes nan, a finite number or None, got {value!r}"
            elif floor is not None and value not in (None, 0) and isfinite(value):
                yield (
                    f"{name} of a Mean is {value!r}, but with a floor of {floor!r} the mean of "
                    "nothing is 0; leave out one of the two"
                )
        if floor is not None and self.of_zero_weights is not None:
            yield (
                f"of_zero_weights of a Mean is {self.of_zero_weights!r}, but with a floor of "
                f"{floor!r} the divisor is never 0; leave out one of the two"
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
