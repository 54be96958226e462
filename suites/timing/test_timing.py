"""The timing suite: one pytest item for each timing cell, and one for each axis of a loss."""

LOSSSPEC_SUITE = "timing"  # tells the plugin to parametrize the tests of this file


def test_timing(timing_cell, timed, benchmark):
    """Time a call in pairs with that of the torch counterpart."""
    timed.time(timing_cell, benchmark)


def test_growth(timed_loss, axis, timed):
    """Measure the time and memory of a full step for increasing sizes of one axis."""
    timed.grow(timed_loss, axis)
