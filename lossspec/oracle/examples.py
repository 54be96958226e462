"""Check the examples of a spec against its definition."""

from __future__ import annotations

import numpy as np

from lossspec.cases.case import published
from lossspec.dtypes import Extended
from lossspec.errors import SpecError
from lossspec.oracle.bounds import Bounded
from lossspec.oracle.solver import SolvedCase
from lossspec.spec.loss import Loss


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
