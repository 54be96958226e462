"""Every number that decides a verdict, and where it comes from."""

#: The one constant of every budget, measured once for all losses and dtypes: docs/budget.md holds
#: the worst that torch needs of it, and by how much one that works in a narrower dtype exceeds it.
SLACK = 8.0

#: Ratios this near to 1, either way, are the same for practical purposes.
BAND = 1.05
#: There is one look at the pairs of a cell, after a number of rounds fixed beforehand.
CONFIDENCE = 0.99
#: So much faster than torch is seldom true.
INCREDIBLE = 10.0
#: Two clocks whose ratios differ by this factor do not tell of the same work.
DISAGREE = 2.0
#: A share of a device's best clock rate; below it a reading tells of timing cell, not of a loss.
THROTTLED = 0.75
