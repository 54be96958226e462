"""What an implementation prints is kept in part, and each item has the time of its own clause."""

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
    """By title of a section, the characters shown and the number of those left out."""
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
def test_the_beginning_of_what_is_printed_is_shown_once(workplace, prints, stream):
    workplace.write(loud=LOUD.format(prints=prints, factor=2))
    result = workplace.run(*WORDS, "--clause=value,gradient", "--capture=sys")
    ((title, (characters, left_out)),) = shown(result).items()
    assert title == f"Captured {stream} call"
    assert KEPT - 200 < characters <= KEPT
    assert left_out > 5 * 16_000


def test_what_is_written_past_python_is_kept_in_part_too(workplace):
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


def test_what_is_printed_without_a_failure_is_not_shown(workplace):
    workplace.write(loud=LOUD.format(prints="print('quiet')", factor=1))
    result = workplace.run(*WORDS, "--clause=result-shape")
    assert result.status == 0
    assert not [line for line in result.out if "quiet" in line or "left out" in line]


def test_what_a_worker_has_captured_is_shown_too(workplace):
    workplace.write(loud=LOUD.format(prints="print('printed ' * 2_000)", factor=2))
    result = workplace.apart(*APART, *WORDS, "--clause=value", "-n1")
    assert result.status == 1
    assert any("more characters were left out" in line for line in result.out)
    assert sum(map(len, result.out)) < 3 * KEPT


def test_a_log_message_that_cannot_be_formatted_is_no_error_of_the_call(workplace):
    workplace.write(loud=LOUD.format(prints="logging.warning('%d', 'one')", factor=1))
    assert workplace.run(*WORDS, "--clause=accepts,value").status == 0


def test_short_output_is_kept_whole():
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
def test_each_item_has_the_time_of_its_own_clause(workplace, more):
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
    # What pytest itself does for an item comes on top.
    assert all(times[name] > cells[name] - 0.001 for name in cells), (times, cells)
    assert 0.3 < sum(cells.values()) <= sum(times.values()) < wall
    assert times["accepts"] < sum(times.values()) / 2
    # A clause that makes calls of its own takes longer than one that looks at a result.
    assert cells["sum-of-none"] > 1.5 * cells["result-shape"]
    slowest = next(line for line in result.out if " call " in line)
    assert max(cells, key=cells.__getitem__) in slowest


OWN_SUITE = """
    import lossspec

    @lossspec.parametrize("loud", losses=["l1_loss"], clauses=["accepts", "threads", "value"])
    def test_loss(judge):
        judge()
"""


def test_a_suite_of_ones_own_shows_little_and_books_each_clause(workplace):
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
