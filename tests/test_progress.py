"""The progress line of a run."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest
import torch

from lossspec.clauses import clauses
from lossspec.execution.implementation import LossUnderTest
from lossspec.judging.campaign import Campaign
from lossspec.judging.profiles import PROFILES
from lossspec.judging.progress import LOOK, Line, Notes, Share, Tally, duration, notes, watched
from lossspec.spec.catalogue import find


def half(input, target, reduction="mean"):
    return torch.nn.functional.mse_loss(input, target, reduction=reduction) / 2


def half_in_float32(*arguments, **keywords):
    if arguments[0].dtype in (torch.float16, torch.bfloat16):
        raise NotImplementedError("half precision")
    return half(*arguments, **keywords)


def told_by(target, *names, profile="quick"):
    told = []
    campaign = Campaign(
        LossUnderTest("mine", find("mse_loss"), "function", target),
        [clauses()[name] for name in names],
        PROFILES[profile],
        on_progress=lambda *numbers: told.append(numbers),
    )
    return told, campaign, campaign.run()


def test_a_campaign_calls_back_after_every_case():
    told, campaign, _ = told_by(half, "accepts", "sum-of-none")
    cases = PROFILES["quick"].cases(campaign.under_test.loss)
    assert told[0] == (0, cases, 0)
    assert [done for done, _, _ in told[1:-1]] == list(range(1, cases + 1))
    assert told[-1] == (cases, cases, 0)


def test_a_campaign_counts_the_clauses_that_deviate():
    told, _, clause_records = told_by(half, "value", "accepts")
    counts = [found for _, _, found in told]
    assert clause_records["value"].found is not None
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (0, 1)


def test_a_campaign_that_ends_early_reports_all_cases_as_done():
    told, campaign, _ = told_by(half, "published-examples")
    cases = PROFILES["quick"].cases(campaign.under_test.loss)
    assert told[-3][0] < cases
    assert told[-1] == (cases, cases, 1)


def test_a_campaign_counts_the_cases_that_replace_those_in_refused_dtypes():
    told, campaign, _ = told_by(half_in_float32, "accepts", "sum-of-none")
    cases = PROFILES["quick"].cases(campaign.under_test.loss)
    done, total, _ = told[-1]
    assert done == total > cases
    assert all(done <= total for done, total, _ in told)


# === the text ==============================================================================


def tally(**campaigns) -> Tally:
    made = Tally()
    made.expect({name: Share(name.rstrip("_"), *numbers) for name, numbers in campaigns.items()})
    return made


def test_the_text_counts_losses_cells_and_deviations():
    run = tally(l1_loss=(2, 80.0), mse_loss=(3, 120.0))
    run.advance("l1_loss", 10, 40, 1)
    assert run.text(1.0) == "0 of 2 losses, 0 of 5 cells, 1 deviation: l1_loss 25%"
    run.judged("l1_loss", False)
    run.judged("l1_loss", True)
    run.advance("mse_loss", 20, 40, 1)
    text = "1 of 2 losses, 2 of 5 cells, 2 deviations, about 45 s left: mse_loss 50%"
    assert run.text(105.0) == text


def test_the_remaining_time_is_shown_only_once_it_can_be_estimated():
    run = tally(l1_loss=(2, 1.0), mse_loss=(2, 99.0))
    run.advance("l1_loss", 1, 2, 0)
    assert "left" not in run.text(100.0)
    run.judged("l1_loss", False)
    run.advance("mse_loss", 9, 99, 0)
    assert "left" not in run.text(1.0)
    assert "about 15 min left" in run.text(100.0)


def test_an_absent_loss_does_not_count_towards_the_remaining_time():
    run = tally(l1_loss=(2, 0.0), mse_loss=(2, 10.0))
    run.judged("l1_loss", False)
    run.judged("l1_loss", False)
    run.advance("mse_loss", 1, 4, 0)
    assert run.text(20.0).startswith("1 of 2 losses, 2 of 4 cells, 0 deviations, about 60 s left")


def test_progress_of_a_finished_campaign_is_ignored():
    run = tally(l1_loss=(1, 1.0))
    run.judged("l1_loss", True)
    run.advance("l1_loss", 3, 40, 1)
    assert run.text(1.0) == "1 of 1 loss, 1 of 1 cells, 1 deviation"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.1, "5 s"), (44, "45 s"), (91, "2 min"), (37 * 60, "37 min"), (2.5 * 3600, "2.5 h")],
)
def test_a_duration_has_a_readable_unit(seconds, text):
    assert duration(seconds) == text


def test_workers_report_progress_through_files(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("lossspec.judging.progress.time.monotonic", lambda: now[0])
    first, second = (Notes(tmp_path, worker) for worker in ("gw0", "gw1"))
    first.advance("a", 1, 40, 0)
    first.advance("a", 2, 40, 0)  # too soon to have been read
    second.advance("b", 1, 30, 1)
    assert sorted(notes(tmp_path)) == [("a", 1, 40, 0), ("b", 1, 30, 1)]
    now[0] += LOOK
    first.advance("a", 9, 40, 2)
    assert list(notes(tmp_path))[-1] == ("a", 9, 40, 2)


def test_the_line_is_cut_to_the_terminal_without_control_characters():
    reader, writer = os.pipe()
    line = Line(writer)
    line.show("\x1b[31mred" + "long " * 40)
    line.show("")
    line.clear()
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        written = stream.read().decode()
    first, second = written.split("\r")[1:3]
    assert first == " [31mred" + ("long " * 40)[:70] + "…\x1b[K"
    assert second == "\x1b[K"


@pytest.mark.parametrize(
    ("environment", "shown"),
    [({}, True), ({"CI": "true"}, False), ({"CI": "false"}, True), ({"TERM": "dumb"}, False)],
)
def test_the_line_is_shown_only_in_an_interactive_terminal(environment, shown):
    main, terminal = pty.openpty()
    reader, writer = os.pipe()
    try:
        assert watched(terminal, environment) is shown
        assert not watched(writer, environment)
    finally:
        for descriptor in (main, terminal, reader, writer):
            os.close(descriptor)


# === on a terminal =========================================================================

WRONG = """
    import time
    from torch.nn import functional as F
    from torch.nn.functional import mse_loss

    def l1_loss(input, target, reduction="mean"):
        time.sleep(0.05)
        return F.l1_loss(input, target, reduction=reduction) * 1.5
"""
APART = ("-m", "pytest", "--pyargs", "lossspec.suites", "-p", "no:cacheprovider", "--impl=wrong")
WORDS = ("--loss=l1_loss,mse_loss", "--profile=quick", "--clause=accepts,value,threads")
LINE = re.compile(r"\r(\d) of 2 losses, (\d+) of 6 cells, (\d) deviations?[^\r]*\x1b\[K")


def on_terminal(workplace, *words, **environment) -> str:
    """Return everything that a run writes to a terminal."""
    workplace.write(wrong=WRONG)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_") and k != "CI"}
    main, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, *APART, *WORDS, *words],
        cwd=workplace.path,
        env=inherited | {"TERM": "xterm"} | environment,
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    written = b""
    try:
        while block := os.read(main, 1 << 16):
            written += block
    except OSError:  # the process has closed the terminal
        pass
    finally:
        os.close(main)
    assert process.wait() == 1, written.decode()
    return written.decode()


@pytest.mark.parametrize("more", [(), ("-n2",)])
def test_progress_is_shown_before_the_first_loss_ends(workplace, more):
    written = on_terminal(workplace, *more)
    shown = [tuple(map(int, numbers)) for numbers in LINE.findall(written)]
    assert shown == sorted(shown)
    # With workers the other loss may end before the first note of this one is read.
    begun = "0 of 2 losses, 0 of 6 cells" if not more else "[01] of 2 losses, [0-3] of 6 cells"
    assert re.search(rf"\r{begun}, [01] deviations?[^\r]*: l1_loss \d+%", written)
    assert max(found for _, _, found in shown) == 1
    assert len(shown) > 2
    # The line is removed, and no dots are printed beside it.
    *_, after = LINE.split(written)
    assert after.startswith("\r\x1b[K")
    assert re.search(r"1 failed.*5 passed", written)
    assert "test_conformance.py ." not in written


@pytest.mark.parametrize(
    ("more", "environment"), [(("-q",), {}), (("-s",), {}), ((), {"CI": "true"})]
)
def test_a_run_without_an_interactive_terminal_shows_no_line(workplace, more, environment):
    written = on_terminal(workplace, *more, **environment)
    assert not LINE.search(written)
    assert "of 2 losses" not in written
