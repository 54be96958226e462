"""Clauses on the memory that a call uses."""

from __future__ import annotations

import numpy as np

from lossspec.cases.axes import part_along
from lossspec.cases.case import Case
from lossspec.cases.workloads import Size, axes, batch_axis, workload
from lossspec.clauses import Judgement, clause, independent, of_elements, stateless
from lossspec.clauses.precondition import has_graph, in_float32, precondition, separable, works
from lossspec.clauses.trial import Deviation, NotJudged, Trial, Unsupported, any_judged
from lossspec.excuse import Excuse
from lossspec.execution.call import unsupported_argument
from lossspec.oracle.solver import numbers_made
from lossspec.safe_text import foreign_error
from lossspec.spec.loss import Loss
from lossspec.spec.roles import Length, Surface
from lossspec.thresholds import (
    FASTER,
    MEASURED_OPERATIONS,
    MEMORY_TIMES,
    SHORT,
    WEIGHED_COPIES,
    WEIGHED_ELEMENTS,
    WEIGHED_NUMBERS,
    WIDE,
    WIDE_PROBES,
    WIDE_ROWS,
)


@precondition()
def _several_along_an_axis(trial: Trial) -> bool:
    """The first axis of the unreduced result has at least two elements."""
    names = trial.case.shape.result
    return bool(names) and trial.case.axis_sizes(trial.loss)[names[0]] > 1


@precondition(Excuse.TOO_EXPENSIVE)
def _small_beside_weighed(trial: Trial) -> bool:
    """The unreduced loss is not empty, and small enough to be repeated at least 8 times."""
    return 0 < trial.expected.losses.size <= WEIGHED_ELEMENTS // WEIGHED_COPIES


@precondition(Excuse.TOO_EXPENSIVE)
def _few_numbers_for_each(trial: Trial) -> bool:
    """The inputs hold at most 32 numbers for each element of the unreduced loss."""
    numbers = sum(array.size for array in trial.case.tensors.values())
    return numbers <= WEIGHED_NUMBERS * trial.expected.losses.size


# It is judged once, since each shrunk case would take as much memory.
@clause(
    lambda loss, surface: independent(loss, surface) and of_elements(loss, surface),
    enough=1,
    once=True,
    requires=[
        in_float32,
        separable,
        has_graph,
        _several_along_an_axis,
        _small_beside_weighed,
        _few_numbers_for_each,
    ],
)
def memory_in_proportion(trial: Trial) -> Judgement:
    """If each row has a loss of its own, the peak memory of forward and backward on 4,096 of them
    is at most 64 times that of the inputs."""
    case, loss = trial.case, trial.loss
    axis = case.shape.result[0]
    size = case.axis_sizes(loss)[axis]
    copies = WEIGHED_ELEMENTS // trial.expected.losses.size + 1
    many = part_along(loss, case, axis, np.arange(size * copies) % size).with_(layouts={})
    # A case may leave out a tensor, or broadcast it; the default call has all of them in full.
    sizes = axes(loss, Size("long", WEIGHED_ELEMENTS, SHORT, None, "many short samples"))
    long = workload(loss, {**sizes, batch_axis(loss): WEIGHED_ELEMENTS}, "float32", 0)
    what = f"a call on {WEIGHED_ELEMENTS} elements"

    def judged(call: Case) -> bool:
        if not trial.allows(call) or unsupported_argument(trial.under_test, call) is not None:
            raise NotJudged(Excuse.NOT_ABOUT)
        return _weigh(trial, call, what)

    return any_judged(trial, judged, (many, long))


def _has_wide_axes(loss: Loss, surface: Surface) -> bool:
    # A loss of sequences may loop over them in Python, which takes long.
    if any(isinstance(role, Length) for form in loss.forms for role in form.tensors.values()):
        return False
    short, long = wide_axes(loss, 1), wide_axes(loss, WIDE)
    within = long.keys() - {batch_axis(loss)}
    return stateless(loss, surface) and any(long[axis] > short[axis] for axis in within)


# The case of the trial shows only that the implementation works.
@clause(_has_wide_axes, enough=1, once=True, requires=[works, has_graph])
def memory_within_samples(trial: Trial) -> Judgement:
    """With axes of 256 within a sample, the peak memory of forward and backward is at most 64
    times that of the inputs, and of the definition's own numbers if those grow faster."""
    loss = trial.loss
    wide = workload(loss, wide_axes(loss, WIDE), "float32", 0)
    if unsupported_argument(trial.under_test, wide) is not None:
        raise NotJudged(Excuse.NOT_SUPPORTED)
    sizes = ", ".join(f"{axis} = {size}" for axis, size in wide.axis_sizes(loss).items())
    return _weigh(trial, wide, f"a call with {sizes}", _intermediate(loss))


def wide_axes(loss: Loss, length: int) -> dict[str, int]:
    """Return the sizes of the axes of a default call with a few long samples.

    Args:
        loss: The spec.
        length: The size of the axes within a sample that have no fixed size.
    """
    return axes(loss, Size("wide", WIDE_ROWS * length, length, None, "memory within a sample"))


def _intermediate(loss: Loss) -> float:
    """Return the bytes that the definition computes for long axes; 0 if they are in proportion.

    Two short calls show how they grow. All pairs of classes are an example of faster growth.
    """
    numbers, inputs = [], []
    for length in WIDE_PROBES:
        case = workload(loss, wide_axes(loss, length), "float32", 0)
        numbers.append(numbers_made(loss, case))
        inputs.append(sum(array.size for array in case.tensors.values()))
    growth, proportion = numbers[1] / numbers[0], inputs[1] / inputs[0]
    if growth <= FASTER * proportion:
        return 0.0
    doublings = np.log2(WIDE / WIDE_PROBES[1])
    return float(numbers[1] * growth**doublings * np.dtype(np.float32).itemsize)


def _weigh(trial: Trial, case: Case, what: str, documented: float = 0.0) -> bool:
    """Compare the memory of a large call with that of its inputs.

    Args:
        trial: The trial.
        case: The large call.
        what: The large call, for the report.
        documented: The bytes of further numbers that the definition asks for.

    Returns:
        Whether its memory could be measured.
    """
    from lossspec.execution.memory import TooManyOperations, weighed

    try:
        held, given = weighed(trial.under_test, case, trial.device, MEMORY_TIMES)
    except TooManyOperations:
        raise Unsupported(f"{what} runs more than {MEASURED_OPERATIONS:,} operations") from None
    except Exception as error:  # other clauses report the error
        raise Unsupported(f"its memory could not be measured ({foreign_error(error)})") from None
    if not given:
        raise NotJudged(Excuse.NOT_ABOUT)
    ratio = held / (MEMORY_TIMES * (given + documented))
    trial.worst = max(trial.worst, ratio)
    if ratio > 1:
        raise Deviation(
            f"the peak memory of {what}",
            f"{held / given:.0f} times the memory of its inputs",
            f"at most {MEMORY_TIMES * (1 + documented / given):.0f} times",
            check=None,
        )
    return held > 0  # other array libraries allocate outside torch
