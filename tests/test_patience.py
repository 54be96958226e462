"""Timeouts: a hanging call is interrupted, or the process ends if it cannot be interrupted."""

import signal
import time
from contextlib import suppress

import pytest

from lossspec.clauses import clauses
from lossspec.execution import timeout
from lossspec.execution.implementation import LossUnderTest
from lossspec.execution.timeout import CallTimeout, time_limit
from lossspec.judging.campaign import Campaign
from lossspec.judging.profiles import PROFILES
from lossspec.spec.catalogue import find

ENDLESS = """
    import time
    from itertools import repeat

    from lossspec.execution import timeout
    from torch.nn import functional as F

    timeout.LIMIT = 1.0

    def mse_loss(input, target, weight=None, reduction="mean"):
        while input.ndim == 3:
            try:
                time.sleep(0.01)
            except Exception:
                pass
        return F.mse_loss(input, target, weight=weight, reduction=reduction)

    def l1_loss(input, target, weight=None, reduction="mean"):
        if input.ndim == 3:
            sum(repeat(0))  # Python has no say in it
        return F.l1_loss(input, target, weight=weight, reduction=reduction)

    huber_loss = F.huber_loss
"""


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(timeout, "LIMIT", 0.05)


def test_a_hanging_call_is_a_crash_with_its_call_text(workplace, monkeypatch):
    monkeypatch.setattr(timeout, "LIMIT", timeout.LIMIT)  # restores what the module sets
    workplace.write(endless=ENDLESS)
    # Within a second torch.compile would be interrupted, too.
    words = ("--loss=mse_loss,huber_loss", "--profile=quick", "--clause=accepts,value,gradient")
    result = workplace.run("--impl=endless", *words)
    assert result.status == 1
    cells = workplace.cells("endless")
    cell = cells["mse_loss/gradient[function-cpu]"]
    assert (cell["verdict"], cell["reason"]) == ("crash", "a call did not end within 1 s")
    assert len(cell["case"]["tensors"]["input"]["shape"]) == 3
    assert "mse_loss(input, target" in cell["call"]
    assert cells["huber_loss/gradient[function-cpu]"]["verdict"] == "conforms"


def test_an_uninterruptible_worker_ends_and_only_its_cell_is_a_crash(workplace):
    workplace.write(endless=ENDLESS)
    words = ("--impl=endless", "--loss=l1_loss,huber_loss", "--profile=quick", "-n1")
    result = workplace.apart("-m", "pytest", "--pyargs", "lossspec.suites", *words)
    assert result.status == 1
    assert any("in l1_loss" in line and "endless.py" in line for line in result.err), result.err
    verdicts = workplace.verdicts("endless")
    assert verdicts["l1_loss/accepts[function-cpu]"] == "crash"
    assert verdicts["l1_loss/value[function-cpu]"] == "conforms"
    assert verdicts["huber_loss/value[function-cpu]"] == "conforms"


def test_a_clause_left_open_by_a_hanging_call_does_not_conform(monkeypatch):
    calls = []

    def late(input, target, weight=None, reduction="mean"):
        calls.append(input.shape)
        while len(calls) > 200:
            time.sleep(0.01)
        return (input.detach() - target.detach()).square().mean()

    monkeypatch.setattr(timeout, "LIMIT", 0.3)
    names = ("accepts", "gradient", "value")
    mse = find("mse_loss")
    judged = [clauses()[name] for name in names]
    under_test = LossUnderTest("late", mse, "function", late)
    campaign = Campaign(under_test, judged, PROFILES["standard"])
    found = campaign.run()
    assert campaign.timed_out is not None
    # Every gradient so far was missing, and it is unknown whether one was required.
    assert found["gradient"].examples > 0
    assert campaign.learns(found["gradient"])


def test_a_call_that_ends_in_time_leaves_no_timer(impatient):
    with time_limit():
        pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_call_that_waits_for_a_cpu_gets_more_time(monkeypatch):
    monkeypatch.setattr(timeout, "LIMIT", 0.2)
    monkeypatch.setattr(timeout, "WAITS", 1e6)
    with time_limit():
        time.sleep(0.4)
    monkeypatch.setattr(timeout, "WAITS", 1.5)
    with pytest.raises(CallTimeout), time_limit():
        time.sleep(60)


def test_an_error_of_the_call_is_not_a_timeout(impatient):
    with pytest.raises(KeyError), time_limit():
        raise KeyError


def test_a_hanging_call_cannot_suppress_the_timeout(impatient):
    def stubborn():
        while True:
            with suppress(Exception):
                signal.pause()

    with pytest.raises(CallTimeout), time_limit():
        stubborn()


def test_a_running_timer_is_kept(impatient):
    signal.setitimer(signal.ITIMER_REAL, 100)
    try:
        with time_limit():
            assert signal.getitimer(signal.ITIMER_REAL)[0] > 90
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 90
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
