"""Every number that decides a verdict: its meaning, its unit and its provenance.

Each provenance is one of four:

- Derived: it follows from the arithmetic, or from another number here.
- Documented: torch says so, at the address given.
- Measured: the command given shows how far right implementations stay below it.
- Chosen: a convention; the comment says why a right implementation does not meet it.

How many cases a clause looks at, and which calls are small enough for it, stands with the clause.
The sizes that an algorithm is built on (the members of an ensemble) stand with the algorithm.
"""

import math

# === budgets ==============================================================================

#: The one constant of every budget, for all losses and dtypes; a factor of roundings.
#: Measured: `python benchmarks/worst_ratios.py docs/budget.md` writes the worst that torch needs of
#: it, and by how much a loss exceeds it that works in a narrower dtype.
SLACK = 8.0

#: Relative size of every move of an ensemble, at most.
#: Derived: curvature changes what a move does by about this share of it, which no budget notices.
STEP = 2.0**-30
#: Moves of an ensemble in float64, whose roundoff is far below `STEP`, in units of roundoff.
#: Chosen: little above 1, since what saturates does not grow with the move.
UNIT_STEP = 4
#: Moves of an ensemble, in units of longdouble, at least.
#: Derived: the rounding of the exact result is then at most 2⁻¹² of what the move does.
EXTENDED_STEP = 2.0**12
#: Moves of an ensemble for second derivatives, in units of roundoff.
#: Chosen: little above 1, so that a member meets the branches that rounding may meet.
FREE_STEP = 4
#: Core elements of a tensor that get a member of their own; more of them share sign patterns.
#: Chosen: only the time that a case takes depends on it, and how close a budget is.
OWN_MEMBERS = 12

#: Shares of the cotangent of a float16 mean with which the plain formula is taken back.
#: Chosen: three, since one of them may by chance be rounded well below the smallest numbers; more
#: of them can only widen the budget.
LUCK_FACTORS = (1.0, 0.8, 0.6)

#: Budget ÷ exact number, below which a number tells a right result from 0.
#: Chosen: it decides only whether a case counts as evidence, never whether a result conforms.
INFORMATIVE = 0.1

#: From here on the softplus of x may be x; in numbers of the input.
#: Documented: https://docs.pytorch.org/docs/stable/generated/torch.nn.Softplus.html (threshold).
SOFTPLUS_LINEAR = 20.0
#: Stands for every finite slope, where any is right.
#: Chosen: above every slope that a definition has, with room for a factor of 2²⁴ in a float64.
ANY_FINITE_SLOPE = 2.0**1000

# === second derivatives ===================================================================

#: Roundings of a term of a second derivative, besides those that the ensemble shows.
#: Chosen: a few, for the products of slopes, which no member of the ensemble rounds.
SECOND_ORDER_ROUNDINGS = 4
#: Budget ÷ the size of the terms, above which nothing is asked of a second derivative.
#: Chosen: as `INFORMATIVE`, of which it is the other side.
VAGUE = 0.1
#: Magnitude of an input, at most, for which a second derivative is asked.
#: Chosen: beyond it formulas saturate, and no documentation promises what is left of them.
SECOND_ORDER_LARGEST = 8.0
#: Magnitude of an input other than 0, at least, for which a second derivative is asked.
#: Chosen: kernels of torch carry epsilons of 1e-12 that are not documented, and show below it.
SECOND_ORDER_SMALLEST = 1e-8


def second_order_error(unit: float) -> float:
    """Return the relative error that a second derivative may have, for a unit roundoff.

    Chosen: half the digits of the dtype, since torch promises no accuracy of second derivatives.
    """
    return math.sqrt(unit)


# === single clauses =======================================================================

#: `symmetry`: unit roundoffs that two calls may differ by, besides what their budgets explain.
#: Derived: 2 x `SLACK`, since the result of each of the two calls is rounded once more.
LAST_PLACES = 16
#: `symmetry`: smallest numbers that two calls may differ by.
#: Derived: `SLACK` / 2, since a rounding among them is off by at most half of one.
SMALLEST_PLACES = 4
#: `symmetry` and its like: how far the sum of the losses stays below the dtype's largest number.
#: Chosen: twice the sum, of terms up to 32 times as large as the losses they make; calls with a
#: larger sum are not judged.
OVERFLOW_MARGIN = 64

#: `large-batch`: rows, at least. Derived: 16 bits do not count them.
LARGE_BATCH_ROWS = 2**16
#: `large-batch`: numbers of the first tensor, at least. Chosen: fast paths for large tensors start
#: well below it.
LARGE_BATCH_NUMBERS = 2**20
#: `large-batch`: numbers in all tensors, at most. Chosen: larger calls are not made.
LARGE_BATCH_ROOM = 2**22
#: `large-batch`: the parts of the rows that are tried one after the other, as divisors.
#: Chosen: a factor of four each, so that the last trial is the only long one.
LARGE_BATCH_PARTS = (64, 16, 4, 1)
#: `large-batch`: seconds of a processor that a part may take, before the rest is not made.
#: Chosen: beyond it the clause says that it is unsupported.
LARGE_BATCH_SECONDS = 2.0

#: `mean-of-many`: elements, at least. Derived: float16 counts to 65,504.
MEAN_OF_MANY_ELEMENTS = 70_000
#: `mean-of-many`: numbers in all tensors, at most. Chosen: larger calls are not made.
MEAN_OF_MANY_ROOM = 700_000
#: `mean-of-many`: times that a case is repeated, at least. Chosen: other cases are not judged.
MEAN_OF_MANY_COPIES = 64
#: `mean-of-many`: how far the mean stays below the largest number of float16, as a factor.
#: Chosen: other cases are not judged.
MEAN_OF_MANY_MARGIN = 8

#: `memory-in-proportion`: elements of the call that is weighed.
#: Derived: their square is 64 times as many as `MEMORY_TIMES` allows.
WEIGHED_ELEMENTS = 4096
#: `memory-in-proportion`: times that a case is repeated, at least. Chosen: others are not judged.
WEIGHED_COPIES = 8
#: `memory-in-proportion`: peak of memory ÷ memory of the inputs, at most.
#: Measured: `lossspec run torch.nn.functional --clause=memory-in-proportion --profile=quick` writes
#: `worst` into its report, as a share of this: 0.05 with torch 2.13.0. The room is for an
#: implementation that keeps some twenty copies in double where the input is single.
MEMORY_TIMES = 64

#: `no-host-copy`: numbers that one call may copy to the host.
#: Chosen: flags and counts, which torch reads too; a tensor that is computed elsewhere has more.
READ_ON_HOST = 8

# === the same deviation ===================================================================

#: Bars, as error ÷ budget, at which a clause judges torch's call beside a deviation.
#: Chosen: first the bar of every call, then half of it, since of two that do the same one may just
#: be within budget.
COUNTERPART_BARS = (1.0, 0.5)
#: Difference of two errors ÷ the second of them, up to which they are the same deviation.
#: Chosen: an epsilon that both add makes the same error but for rounding.
SAME_DEVIATION = 0.1
#: Error ÷ budget of what fails plainly; its simpler cases must fail so too.
#: Chosen: it decides which case is shown, not whether one deviates.
PLAIN_FAILURE = 10.0
#: Error ÷ budget of a case without an option, from which that option shows in it.
#: Chosen: as `PLAIN_FAILURE`; it decides which costly cases are taken.
OPTION_SHOWS = 10.0
#: Cases in which a clause never worked, such as one under torch.compile, before it is given up.
#: Chosen: its cell is then unsupported, which its report says.
FRUITLESS_CASES = 8
#: Costly cases in a row in which a clause did not work, before it is given up.
#: Chosen: as `FRUITLESS_CASES`.
FRUITLESS_COSTLY_CASES = 3

# === calls that end badly =================================================================

#: Elements of a result of another shape than the contract's, at most, that are looked at.
#: Chosen: what has more is told by its shape alone.
RESULT_NUMBERS = 2**20
#: Seconds that a clause may take for one case. Chosen: it makes a few calls on small tensors, each
#: of which takes milliseconds.
CALL_SECONDS = 60.0
#: Limits of `CALL_SECONDS` after which a process is ended that Python cannot interrupt.
#: Derived: above `WAITS`, so that a call that can be interrupted always is.
LAST = 3.0
#: Share of a processor, below which a call is taken to wait for one. Chosen: as `WAITS`.
BUSY = 0.5
#: Limits of `CALL_SECONDS` that a waiting call gets. Derived: 1 / `BUSY`.
WAITS = 2.0
#: Processes that one campaign may end before it is given up. Those that an earlier campaign may
#: have damaged do not count.
#: Chosen: each is a `crash` in the report in any case.
MOST_CRASHES = 5

# === timing ===============================================================================

#: Ratios of times that are this near to 1, either way, are the same for practical purposes.
#: Chosen: what nobody would change an implementation for.
BAND = 1.05
#: Probability that an interval holds the true ratio.
#: Chosen: there is one look at the pairs of a cell, after a number of rounds fixed beforehand.
CONFIDENCE = 0.99
#: Torch's time ÷ an implementation's, from which the report asks whether it does the work.
#: Chosen: it makes a verdict `suspicious`, for a person to look at.
INCREDIBLE = 10.0
#: Ratio on the wall ÷ ratio on the own clock, from which the two do not tell of the same work.
#: Chosen: as `INCREDIBLE`.
DISAGREE = 2.0
#: Share of a device's best clock rate, below which a round is left out.
#: Chosen: such a reading tells of the device's heat, not of a loss.
THROTTLED = 0.75
#: CPU seconds ÷ wall seconds, from which a call works in parallel and the wall decides.
#: Derived: one thread cannot exceed 1; the rest is for the resolution of the two clocks.
PARALLEL = 1.2
#: Rounds of a cell, at least. Derived: with 12 pairs a 99 % interval leaves out one pair at
#: either end, so that it bears an outlier there.
FEWEST_ROUNDS = 12
#: Rounds of a cell, at most. Chosen: a multiple of `ROUND_CYCLE`; more take time only.
MOST_ROUNDS = 126
#: Rounds in which up to three arms go through all their orders. Derived: 3! = 6.
ROUND_CYCLE = 6
#: Seconds of a block of calls, at least. Derived: reading a clock takes well below a microsecond,
#: a thousandth of it.
BLOCK_SECONDS = 1e-3
#: Seconds of the slowest arm's block, at most, unless a single call takes longer.
#: Chosen: longer blocks make fewer rounds.
LONGEST_BLOCK_SECONDS = 20e-3
#: Length of the difference of two results ÷ length of the second, at most, to be those of one loss.
#: Chosen: clauses judge the numbers; this one notices an arm that computes something else.
SAME_RESULT = 2.0**-4
#: Seconds of a step, beyond which it is not made. Chosen: the cell says that it was not run.
LONGEST_CALL = 0.1
#: Share of the free memory that a step may need. Chosen: the cell says that it was not run.
MEMORY_SHARE = 0.4
#: Elements of a call, from which it is asked beforehand what it would take.
#: Chosen: smaller ones fit any machine.
BEYOND_MACHINE = 2**20
#: Times that the textbook composition may take longer than `LONGEST_CALL`.
#: Chosen: it may well be slower, and is only compared with.
TEXTBOOK_PATIENCE = 2.0
#: Seconds of a step of a growth curve, at most. Chosen: the curve ends there, and says so.
GROWTH_POINT_SECONDS = 0.1
