"""Every number that decides a verdict: its meaning, its unit and its provenance.

Each provenance is one of four:

- Derived: the number follows from the arithmetic, or from another number in this file.
- Documented: the documentation of torch states the number, at the given address.
- Measured: the given command shows how far right implementations stay below the number.
- Chosen: the number is a convention; the comment says why it does not affect a right loss.

The number of cases that a clause judges, and the size of its calls, are defined with the clause.
The sizes of an algorithm, such as the members of an ensemble, are defined with the algorithm.
"""

import math

# === budgets ==============================================================================

#: The factor on the rounding error in every budget, the same for all losses and dtypes.
#: Measured: `python benchmarks/worst_ratios.py docs/budget.md` writes the largest share of it that
#: torch needs, and how far losses computed in a narrower dtype exceed it.
SLACK = 8.0
#: How many numbers a right loss may add one after the other in float32 and float64, both within the
#: definition, such as over the classes, and in a reduction.
#: `torch.linalg.vector_norm` with `ord=1` and a product of a row and a column by `torch.mm` add
#: all numbers so; `torch.dot` and `torch.mv` of contiguous tensors hold 16 partial sums or more.
#: Chosen: a 16th of `SUM_OF_MANY_ELEMENTS`, so that `sum-of-many` finds longer serial sums.
SERIAL_TERMS = 2**13

#: Largest relative size of a perturbation.
#: Derived: curvature changes the effect of a perturbation by about this share, far below a budget.
STEP = 2.0**-30
#: Relative size of a perturbation in unit roundoffs, for float64, whose roundoff is far below
#: `STEP`.
#: Chosen: near 1, since saturated results do not grow in proportion to a perturbation.
UNIT_STEP = 4
#: Smallest relative size of a perturbation, in unit roundoffs of longdouble.
#: Derived: the rounding of the exact result is then at most 2⁻¹² of the effect.
EXTENDED_STEP = 2.0**12
#: Relative size of a perturbation for second derivatives, in unit roundoffs.
#: Chosen: near 1, so that the perturbed members take the same branches as rounded results.
FREE_STEP = 4
#: Most core elements of a tensor that are each perturbed in a member of their own. With more
#: elements, members perturb several at once, with patterns of signs.
#: Chosen: it affects the time of a case and the tightness of a budget only.
OWN_MEMBERS = 12

#: Factors on the cotangent of a mean, with which the textbook formula is differentiated; outside
#: float16 the first two.
#: Chosen: three near 1, since one product may by chance be exact near the smallest numbers; more
#: could only widen the budget. Two small ones leave room for implementations that multiply the
#: factors of a derivative in another order, so that a product underflows earlier.
LUCK_FACTORS = (1.0, 0.8, 0.6, 0.0625, 0.05)

#: Largest ratio of budget to exact number at which a number tells a right result from 0.
#: Chosen: it decides only whether a case counts as evidence, never whether a result conforms.
INFORMATIVE = 0.1

#: Smallest input x for which x is accepted as softplus(x).
#: Documented: https://docs.pytorch.org/docs/stable/generated/torch.nn.Softplus.html (threshold).
SOFTPLUS_LINEAR = 20.0
#: The end of the accepted interval where any finite derivative is right.
#: Chosen: larger than every derivative of a definition; 2²⁴ times it is still finite in float64.
ANY_FINITE_SLOPE = 2.0**1000

# === second derivatives ===================================================================

#: Roundings of each term of a second derivative, in addition to those that the ensemble shows.
#: Chosen: a few, for the products of derivatives, which no member of the ensemble rounds.
SECOND_ORDER_ROUNDINGS = 4
#: Ratio of budget to the size of the terms, above which a second derivative is not compared.
#: Chosen: as `INFORMATIVE`, whose counterpart it is.
VAGUE = 0.1
#: Largest magnitude of an input for which second derivatives are compared.
#: Chosen: beyond it formulas saturate, and no documentation promises their accuracy.
SECOND_ORDER_LARGEST = 8.0
#: Smallest magnitude of an input, other than 0, for which second derivatives are compared.
#: Chosen: kernels of torch add undocumented epsilons of 1e-12, which affect smaller inputs.
SECOND_ORDER_SMALLEST = 1e-8
#: Largest magnitudes of the copies of an input for which second derivatives are compared, if they
#: are all 0 for the input itself.
#: Chosen: a few sizes, so that differences fall below a threshold of 3, of 1 and of 0.1.
SECOND_ORDER_SIZES = (2.0, 0.25, 2.0**-5)


def second_order_error(unit: float) -> float:
    """Return the accepted relative error of a second derivative, for a unit roundoff.

    Chosen: half the digits of the dtype, since torch promises no accuracy of second derivatives.
    """
    return math.sqrt(unit)


# === single clauses =======================================================================

#: `symmetry`: accepted difference of two calls in unit roundoffs, beyond their budgets.
#: Derived: 2 x `SLACK`, since the result of each of the two calls is rounded once more.
LAST_PLACES = 16
#: `symmetry`: accepted difference of two calls, in smallest numbers of the dtype.
#: Derived: `SLACK` / 2, since a rounding near 0 has an error of at most half the smallest number.
SMALLEST_PLACES = 4
#: `symmetry` and similar clauses: ratio of the dtype's largest number to the sum of the losses, at
#: least.
#: Chosen: it allows for twice the sum, and for terms 32 times as large as the loss; cases with a
#: larger sum are not judged.
OVERFLOW_MARGIN = 64

#: `large-batch`: fewest rows. Derived: they cannot be counted in 16 bits.
LARGE_BATCH_ROWS = 2**16
#: `large-batch`: fewest numbers of the first tensor. Chosen: fast paths for large tensors start
#: well below it.
LARGE_BATCH_NUMBERS = 2**20
#: `large-batch`: most numbers in all tensors. Chosen: larger calls are not made; seven tensors of
#: `LARGE_BATCH_NUMBERS` are.
LARGE_BATCH_ROOM = 2**23
#: `large-batch`: divisors of the number of rows, for the trials that are made one after another.
#: Chosen: each trial has about four times the rows of the one before, so only the last is long.
LARGE_BATCH_PARTS = (64, 16, 4, 1)
#: `large-batch`: CPU seconds of a trial, above which no larger one is made.
#: Chosen: the clause is then reported as unsupported.
LARGE_BATCH_SECONDS = 2.0
#: `large-batch`: the bytes of all tensors that the call may make, as a small batch foretells.
#: Chosen: a hundred float64 tensors of the size of the batch, five times over.
LARGE_BATCH_BYTES = 2**32

#: `block-of-rows` and similar clauses: how many rows or classes a kernel takes at once.
#: Chosen: the powers of two that GPU and vector kernels use; a right loss has no such limit.
BLOCKS = (32, 64, 128, 256, 512, 1024, 2048, 4096)
#: `many-classes`: the number of classes that 16 bits cannot count.
#: Derived: 2¹⁶.
WIDEST_OF_16_BITS = 2**16
#: `sum-of-many`: fewest elements. Derived: 2¹⁷ equal terms, added one after the other, exceed the
#: budget in both dtypes of 16 bits; in float32, if their roundings have a common sign.
SUM_OF_MANY_ELEMENTS = 2**17

#: `block-of-rows` and similar clauses: CPU seconds of a call, after which no more are made.
#: Chosen: a loop over rows in Python takes about 0.1 ms for each.
MANY_ROWS_SECONDS = 0.5
#: The same: the number of rows of a call whose memory is measured first. Chosen: all pairs of so
#: few rows take little memory.
PROBED_ROWS = 128
#: The same: the bytes of all tensors that a longer call may make.
#: Chosen: a loss in proportion to its inputs makes a hundredth of them.
MANY_ROWS_BYTES = 2**30

#: `mean-of-many`: fewest elements. Derived: float16 cannot count beyond 65,504.
MEAN_OF_MANY_ELEMENTS = 70_000
#: `mean-of-many`: most numbers in all tensors. Chosen: larger calls are not made.
MEAN_OF_MANY_ROOM = 700_000
#: `mean-of-many`: fewest repetitions of a case. Chosen: other cases are not judged.
MEAN_OF_MANY_COPIES = 64
#: `mean-of-many`: smallest ratio of the largest number of float16 to the mean.
#: Chosen: other cases are not judged.
MEAN_OF_MANY_MARGIN = 8

#: `memory-in-proportion`: elements of the measured call.
#: Derived: a matrix of their square exceeds the memory that `MEMORY_TIMES` allows 64 times.
WEIGHED_ELEMENTS = 4096
#: `memory-in-proportion`: most operations of torch in the measured call.
#: Chosen: torch's losses run fewer than 50, and the profiler takes about 0.2 ms for each.
MEASURED_OPERATIONS = 20_000
#: `memory-in-proportion`: fewest repetitions of a case. Chosen: other cases are not judged.
WEIGHED_COPIES = 8
#: `memory-in-proportion`: most numbers in the inputs for each element of the unreduced loss.
#: Derived: a matrix of the square of `WEIGHED_ELEMENTS` is then twice what `MEMORY_TIMES` allows.
WEIGHED_NUMBERS = 32
#: `memory-in-proportion`: size of the axes within a sample of the default call. Chosen: as
#: `WEIGHED_NUMBERS`, it keeps the inputs small.
SHORT = 4
#: `memory-in-proportion` and `memory-within-samples`: largest ratio of peak memory to the memory of
#: the inputs.
#: Measured: `lossspec run torch.nn.functional --clause=memory-in-proportion --profile=quick` writes
#: the share of it that torch needs as `worst`: 0.17 with torch 2.13.0. An implementation may keep
#: some twenty copies in float64 of float32 inputs.
MEMORY_TIMES = 64
#: `memory-within-samples`: size of the axes within a sample.
#: Derived: a matrix of its square exceeds the memory that `MEMORY_TIMES` allows 4 times. A longer
#: axis would take a right loss that loops over it in Python too long.
WIDE = 256
#: `memory-within-samples`: rows of the measured call. Chosen: more rows only take time.
WIDE_ROWS = 4
#: `memory-within-samples`: two sizes, the second double the first, for which the numbers that the
#: definition makes are counted. Chosen: small, since their ratio shows how the numbers grow.
WIDE_PROBES = (16, 32)
#: `memory-within-samples`: ratio of the growth of the definition's numbers to that of its inputs,
#: above which the definition itself needs more memory.
#: Derived: the ratio is 1 in proportion, and 2 for all pairs.
FASTER = 1.5

#: `no-host-copy`: most numbers that one call may copy to the host.
#: Chosen: it allows flags and counts, which torch reads too, but not a tensor for a computation on
#: the host.
READ_ON_HOST = 8

# === comparison of deviations =============================================================

#: Ratios of error to budget above which the torch counterpart counts as deviating too.
#: Chosen: first the limit of every call, then half of it, since one of two equal deviations may
#: lie just within its budget.
COUNTERPART_BARS = (1.0, 0.5)
#: Largest relative difference of two errors that count as the same deviation.
#: Chosen: two losses that add the same epsilon have the same error except for rounding.
SAME_DEVIATION = 0.1
#: Ratio of error to budget of a clear failure; the cases that it shrinks to must exceed it too.
#: Chosen: it decides which case is shown, not whether one deviates.
PLAIN_FAILURE = 10.0
#: Ratio of error to budget above which the result without an option proves that the option matters.
#: Chosen: as `PLAIN_FAILURE`; it decides which costly cases are judged.
OPTION_SHOWS = 10.0
#: Cases without success after which a clause, such as one under torch.compile, is given up.
#: Chosen: its cell is then reported as unsupported.
FRUITLESS_CASES = 8
#: Costly cases without success, in a row, after which a clause is given up.
#: Chosen: as `FRUITLESS_CASES`.
FRUITLESS_COSTLY_CASES = 3

# === timeouts, crashes and large results =================================================

#: Most elements of a result with a wrong shape whose numbers are read.
#: Chosen: a larger result is reported by its shape alone.
RESULT_NUMBERS = 2**20
#: Seconds that a clause may take for one case. Chosen: a clause makes a few calls on small
#: tensors, each of which takes milliseconds.
CALL_SECONDS = 60.0
#: Multiple of `CALL_SECONDS` after which a process that Python cannot interrupt is ended.
#: Derived: above `WAITS`, so that a call is interrupted if that is possible.
LAST = 3.0
#: Share of a CPU below which a call counts as waiting for one. Chosen: as `WAITS`.
BUSY = 0.5
#: Multiple of `CALL_SECONDS` that a waiting call may take. Derived: 1 / `BUSY`.
WAITS = 2.0
#: Processes that one campaign may end before it is given up. Processes that an earlier campaign may
#: have damaged do not count.
#: Chosen: the report lists each as a `crash` in any case.
MOST_CRASHES = 5

# === timing ===============================================================================

#: Ratio of times, or its inverse, below which two times count as equal.
#: Chosen: nobody would change an implementation for a smaller difference.
BAND = 1.05
#: Probability that an interval contains the true ratio.
#: Chosen: the pairs of a cell are analysed once, after a number of rounds fixed beforehand.
CONFIDENCE = 0.99
#: Ratio of torch's time to an implementation's, above which its speed is doubted.
#: Chosen: the verdict is then `suspicious`, for a person to examine.
INCREDIBLE = 10.0
#: Ratio of the time ratios by wall clock and by the arm's own clock, above which they contradict
#: each other.
#: Chosen: as `INCREDIBLE`.
DISAGREE = 2.0
#: Share of a device's best clock rate below which a round is left out.
#: Chosen: such a reading measures the temperature of the device, not the loss.
THROTTLED = 0.75
#: Ratio of CPU seconds to wall seconds above which a call runs in parallel and the wall clock
#: decides.
#: Derived: one thread cannot exceed 1; the rest allows for the resolution of the two clocks.
PARALLEL = 1.2
#: Fewest rounds of a timing cell. Derived: with 12 pairs a 99 % interval excludes one pair at
#: each end, so that one outlier there has no effect.
FEWEST_ROUNDS = 12
#: Most rounds of a timing cell. Chosen: a multiple of `ROUND_CYCLE`; more rounds only take time.
MOST_ROUNDS = 126
#: Rounds in which up to three arms run in all their orders. Derived: 3! = 6.
ROUND_CYCLE = 6
#: Fewest seconds of a block of calls. Derived: reading a clock takes well below a microsecond, a
#: thousandth of it.
BLOCK_SECONDS = 1e-3
#: Most seconds of the slowest arm's block, unless a single call takes longer.
#: Chosen: longer blocks leave time for fewer rounds.
LONGEST_BLOCK_SECONDS = 20e-3
#: Largest relative difference, in the Euclidean norm, of two results of the same loss.
#: Chosen: clauses judge the numbers; this only detects an arm that computes something else.
SAME_RESULT = 2.0**-4
#: Most seconds of a step. Chosen: the cell of a longer step is reported as not run.
LONGEST_CALL = 0.1
#: Largest share of the free memory that a step may need. Chosen: the cell of a larger step is
#: reported as not run.
MEMORY_SHARE = 0.4
#: Elements of a call above which its time and memory are estimated before it is made.
#: Chosen: smaller calls fit any machine.
BEYOND_MACHINE = 2**20
#: Multiple of `LONGEST_CALL` that the textbook composition may take.
#: Chosen: it is often slower, and serves for comparison only.
TEXTBOOK_PATIENCE = 2.0
#: Most seconds of a step of a growth curve. Chosen: the curve ends there, and the report says so.
GROWTH_POINT_SECONDS = 0.1
