"""Check a spec: its examples against its definition, and its definition on drawn calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from lossspec.cases.case import Case, published
from lossspec.cases.draw import drawn
from lossspec.dtypes import Extended
from lossspec.errors import SpecError
from lossspec.oracle.bounds import Bounded
from lossspec.oracle.solver import SolvedCase, check_defined, solve
from lossspec.spec.loss import Loss

T = TypeVar("T")

#: How many calls `check_drawn` draws, and the most numbers of those whose answer it computes. It
#: takes about two seconds.
CHECKED, SMALL = 120, 100


class _Random:
    """A source of random choices; Hypothesis warns about draws while pytest starts."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def __call__(self, what: str, options: Sequence[T]) -> T:
        return options[int(self._rng.integers(len(options)))]

    def seed(self) -> int:
        return int(self._rng.integers(2**32))


def check_drawn(loss: Loss) -> None:
    """Check that drawn calls are valid and that the definition gives a number for each.

    Raises:
        SpecError: A function of the spec raises, breaks another part of the spec, or is nan.
    """
    cases = [drawn(_Random(seed), loss) for seed in range(CHECKED)]
    for case in sorted(cases, key=_size):  # so that an error shows the smallest call
        if _size(case) <= SMALL:
            check_defined(loss, solve(loss, case))


def _size(case: Case) -> int:
    return sum(array.size for array in case.tensors.values())


def check_examples(loss: Loss) -> None:
    """Check that the definition gives the stated value of every example.

    Raises:
        SpecError: An example cannot be computed, or its value has another shape, or it differs from
            the value of the definition by more than half of its last stated digit.
    """
    for example in loss.examples:
        where = f"spec {loss.name!r}: its example ({example.source})"
        try:
            case = published(loss, example)
            if (refusal := case.broken_rule(loss)) is not None:
                raise SpecError(
                    f"the rule of the refusal {refusal.says!r} is broken by it; an example must "
                    "follow the rules, so correct one of them"
                )
            expected = SolvedCase(loss, case).expected.value(case.reduction)
        except SpecError as error:
            said = str(error).removeprefix(f"spec {loss.name!r}: ")
            raise SpecError(f"{where}: {said}") from error
        except Exception as error:
            said = repr(str(error)[:300])
            raise SpecError(
                f"{where} cannot be computed: {type(error).__name__}: {said}"
            ) from error
        want = np.asarray(example.value, Extended)
        if want.shape != expected.exact.shape:
            raise SpecError(
                f"{where} has a value of shape {list(want.shape)}; "
                f"define gives shape {list(expected.exact.shape)}; correct one of them"
            )
        # The arguments are rounded to the dtype, and the value to the digits that it states.
        room = np.where(np.isfinite(expected.budget), expected.budget, 0)
        near = Bounded.around(want, room + 0.5 * 10.0**-example.digits, case.dtype)
        if (near.error(expected.exact) > 1).any():
            got = expected.exact.astype(np.float64).tolist()
            raise SpecError(
                f"{where} states {example.value!r}; define gives {got!r}; correct one of them"
            )
