"""Printed output of an implementation, kept in part, and the time of each clause."""

from __future__ import annotations

import re
import time
import xml.etree.ElementTree as ElementTree

import pytest

from lossspec.pytest_plugin.printed import KEPT, Printed

LOUD = """
    import logging
    import os
    import sys
    from torch.nn import functional as F

    TEXT = "printed " * 2_000
    early = sys.stdout
    stream = logging.StreamHandler(sys.stderr)
    own = logging.getLogger("own")
    own.addHandler(stream)
    own.propagate = False

    def l1_loss(input, target, reduction="mean"):
        {prints}
        return F.l1_loss(input, target, reduction=reduction) * {factor}
"""
WORDS = ("--impl=loud", "--loss=l1_loss", "--profile=quick")
APART = ("-m", "pytest", "--pyargs", "lossspec.suites", "-p", "no:cacheprovider")


def shown(result) -> dict[str, tuple[int, int]]:
    """Return the number of shown and of omitted characters by section title."""
    assert result.status == 1, result.out
    left_out = r"\[([\d,]+) more characters were left out\]"
    parts = re.split(r"-+ (Captured \w+ call) -+", "\n".join(result.out))
    assert len(set(parts[1::2])) == len(parts[1::2])
    return {
        title: (
            text.count("printed ") * len("printed "),
            int(re.findall(left_out, text)[0].replace(",", "")),
        )
        for title, text in zip(parts[1::2], parts[2::2], strict=True)
    }


@pytest.mark.parametrize(
    ("prints", "stream"),
    [
        ("print(TEXT)", "stdout"),
        ("print(TEXT, file=sys.stderr)", "stderr"),
        ("logging.warning(TEXT)", "log"),
    ],
)
def test_the_beginning_of_the_printed_output_is_shown_once(workplace, prints, stream):
    workplace.write(loud=LOUD.format(prints=prints, factor=2))
    result = workplace.run(*WORDS, "--clause=value,gradient", "--capture=sys")
    ((title, (characters, left_out)),) = shown(result).items()
    assert title == f"Captured {stream} call"
    assert KEPT - 200 < characters <= KEPT
    assert left_out > 5 * 16_000


def test_output_written_to_file_descriptors_is_kept_in_part(workplace):
    ways = ["os.write(1, TEXT.encode())", "early.write(TEXT)"]
    ways += ["os.write(2, TEXT.encode())", "own.error(TEXT)"]
    workplace.write(loud=LOUD.format(prints="; ".join(ways), factor=2))
    result = workplace.apart(*APART, *WORDS, "--clause=value,gradient")
    found = shown(result)
    found.pop("Captured log call", None)  # some versions of pytest add their handler to `own`
    assert found.keys() == {"Captured stdout call", "Captured stderr call"}
    for characters, left_out in found.values():
        assert KEPT - 200 < characters <= KEPT
        assert left_out > 2 * 5 * 16_000


def test_output_of_a_passing_test_is_not_shown(workplace):
    workplace.write(loud=LOUD.format(prints="print('quiet')", factor=1))
    result = workplace.run(*WORDS, "--clause=result-shape")
    assert result.status == 0
    assert not [line for line in result.out if "quiet" in line or "left out" in line]


def test_output_captured_by_a_worker_is_shown(workplace):
    workplace.write(loud=LOUD.format(prints="print('printed ' * 2_000)", factor=2))
    result = workplace.apart(*APART, *WORDS, "--clause=value", "-n1")
    assert result.status == 1
    assert any("more characters were left out" in line for line in result.out)
    assert sum(map(len, result.out)) < 3 * KEPT


def test_an_unformattable_log_message_does_not_fail_the_call(workplace):
    workplace.write(loud=LOUD.format(prints="logging.warning('%d', 'one')", factor=1))
    assert workplace.run(*WORDS, "--clause=accepts,value").status == 0


def test_short_output_is_kept_completely():
    printed = Printed()
    printed.add("stdout", "one ")
    printed.add("stderr", "")
    printed.add("stdout", "two")
    assert printed.sections() == [("stdout", "one two")]


SLOW = """
    import time
    from torch.nn import functional as F

    def mse_loss(input, target, reduction="mean"):
        time.sleep(0.004)
        return F.mse_loss(input, target, reduction=reduction)
"""


@pytest.mark.parametrize("more", [(), ("-n1",)])
def test_each_test_has_the_time_of_its_clause(workplace, more):
    workplace.write(slow=SLOW)
    start = time.perf_counter()
    result = workplace.apart(
        *(*APART, *more, "--impl=slow", "--loss=mse_loss", "--profile=quick"),
        *("--junitxml=junit.xml", "--durations=0"),
        "--clause=accepts,result-shape,threads,sum-of-none,inputs-untouched",
    )
    wall = time.perf_counter() - start
    assert result.status == 0, result.out
    cells = {cell["clause"]: cell["seconds"] for cell in workplace.artifact("slow")["cells"]}
    cases = ElementTree.parse(workplace.path / "junit.xml").iter("testcase")
    times = {case.attrib["name"].split("/")[1][:-15]: float(case.attrib["time"]) for case in cases}
    assert times.keys() == cells.keys()
    # pytest adds its own time for an item.
    assert all(times[name] > cells[name] - 0.001 for name in cells), (times, cells)
    assert 0.3 < sum(cells.values()) <= sum(times.values()) < wall
    assert times["accepts"] < sum(times.values()) / 2
    # A clause that makes further calls takes longer than one that only compares a result.
    assert cells["sum-of-none"] > 1.5 * cells["result-shape"]
    slowest = next(line for line in result.out if " call " in line)
    assert max(cells, key=cells.__getitem__) in slowest


OWN_SUITE = """
    import lossspec

    @lossspec.parametrize("loud", losses=["l1_loss"], clauses=["accepts", "threads", "value"])
    def test_loss(judge):
        judge()
"""


def test_a_custom_suite_shortens_output_and_times_each_clause(workplace):
    workplace.write(
        loud=LOUD.format(prints="print(TEXT); __import__('time').sleep(0.002)", factor=2),
        test_own=OWN_SUITE,
    )
    words = ("-m", "pytest", "-p", "no:cacheprovider", "test_own.py", "--junitxml=junit.xml")
    result = workplace.apart(*words)
    found = shown(result)
    assert found.keys() == {"Captured stdout call"}
    assert found["Captured stdout call"][1] > 5 * 16_000
    cases = ElementTree.parse(workplace.path / "junit.xml").iter("testcase")
    times = {case.attrib["name"].split("/")[1]: float(case.attrib["time"]) for case in cases}
    assert len(times) == 3
    # The first test runs the campaign of all three.
    assert times["accepts[function-cpu]]"] < sum(times.values()) / 2
