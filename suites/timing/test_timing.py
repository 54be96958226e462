"""One item for each loss, size and mode, and one for each axis that a loss grows along."""

LOSSSPEC_SUITE = "timing"  # the plugin makes items of this file's tests, and of no other's


def test_timing(timing_cell, timed, benchmark):
    """The time of a call against torch's, in pairs."""
    timed.time(timing_cell, benchmark)


def test_growth(timed_loss, axis, timed):
    """The time and the memory of a full step against the size of one axis."""
    timed.grow(timed_loss, axis)
