"""The timing suite under pytest: collection, output and errors."""

import json
import re
from pathlib import Path

import jsonschema
import pytest

from lossspec.timing import measure
from lossspec.timing.results import SCHEMA

SUITES = Path(__file__).parents[1] / "suites"
MINE = """
    from torch.nn import functional as F

    TICKS = [0]

    def mse_loss(input, target, reduction="mean", weight=None):
        TICKS[0] += 1
        return F.mse_loss(input, target, reduction=reduction, weight=weight)

    def l1_loss(input, target, reduction="mean"):
        return F.l1_loss(input, target, reduction=reduction) * 1.01
"""
ONE = ("-k", "small and infer")


class Ticks:
    """A clock by which a call takes one million ns, and one more for each tick of `mine`."""

    own = "cpu"

    def measure(self, steps):
        import mine

        before = mine.TICKS[0]
        results = [step() for step in steps]
        passed = 10**6 * (len(steps) + mine.TICKS[0] - before)
        return passed, passed, results

    def rate(self):
        return None


@pytest.fixture
def run(workplace, monkeypatch):
    """Return a function that runs the suite in this process on a simulated clock."""
    workplace.write(mine=MINE)
    monkeypatch.setattr(measure, "clock_of", lambda device: Ticks())
    # pytest-benchmark measures nothing on a worker, where these tests may run.
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    quiet = ("-p", "no:cacheprovider", "-p", "no:faulthandler", "-q")

    def run(*words, at=SUITES / "timing"):
        return workplace.within(lambda: pytest.main([str(at), *quiet, *words]))

    return run


def collected(result) -> set[str]:
    assert result.status == 0, result.out
    return {line.partition("::")[2].partition("[")[0] for line in result.out if "::test_" in line}


@pytest.mark.parametrize(
    ("at", "words", "want"),
    [
        (SUITES, (), {"test_conformance"}),
        (SUITES, ("--timing",), {"test_conformance", "test_timing", "test_growth"}),
        (SUITES / "timing", (), {"test_timing", "test_growth"}),
        (SUITES / "timing" / "test_timing.py", (), {"test_timing", "test_growth"}),
    ],
    ids=["not-asked", "option", "folder", "file"],
)
def test_timing_is_collected_only_if_named(run, at, words, want):
    words = ("--impl=mine", "--loss=mse_loss", "--collect-only", *words)
    assert collected(run(*words, at=at)) == want


def test_a_loss_has_a_test_for_each_size_mode_and_axis(run):
    result = run("--impl=torch.nn", "--loss=nll_loss", "--collect-only")
    ids = [line.partition("::")[2] for line in result.out if "::" in line]
    assert len(ids) == 4 * 3 + 2
    assert "test_timing[torch.nn:nll_loss/vocabulary/full[class-cpu-float32]]" in ids
    assert "test_growth[torch.nn:nll_loss[class-cpu-float32]-C]" in ids


def test_a_timing_run_writes_only_its_artifact_and_page(run, workplace):
    result = run("--impl=mine", "--loss=mse_loss,l1_loss", "--seed=3", *ONE)
    assert result.status == 0
    folder = workplace.path / "reports" / "mine"
    assert {path.name for path in folder.iterdir()} == {"timing.json", "timing.html"}
    data = json.loads((folder / "timing.json").read_text("utf-8"))
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text("utf-8"))).validate(data)
    cells = {cell["loss"]: cell for cell in data["cells"]}
    assert (cells["mse_loss"]["verdict"], data["seed"]) == ("slower", 3)
    assert cells["mse_loss"]["comparisons"][0]["own"]["low"] == pytest.approx(2)
    assert (cells["l1_loss"]["verdict"], cells["l1_loss"]["arms"]) == ("not-timed", [])
    text = "\n".join(result.out)
    assert "2 cells against torch: 1 slower, 1 not-timed." in text
    (row,) = [line for line in result.out if line.startswith(" small ")]
    assert re.fullmatch(r" small +infer +2 ms +2\.00 +2\.00 to 2\.00 +slower", row)
    (why,) = [line for line in result.out if line.startswith("    not timed: ")]
    assert cells["l1_loss"]["reason"].startswith(why.removeprefix("    not timed: ")[:40])


def test_a_common_reason_for_not_timing_is_printed_once(run):
    result = run("--impl=mine", "--loss=l1_loss", "-k", "small")
    assert len([line for line in result.out if "not timed: " in line]) == 1


def widest(result) -> int:
    """Return the width of the longest line after the header of pytest."""
    start = next(i for i, line in enumerate(result.out) if "lossspec timing: mine" in line)
    return max(map(len, result.out[start:]))


def test_the_table_of_pytest_benchmark_is_not_printed(run):
    result = run("--impl=mine", "--loss=mse_loss", *ONE)
    assert "Legend:" not in "\n".join(result.out)
    assert widest(result) <= 80


@pytest.mark.parametrize("option", ["columns=min,max", "sort=name", "histogram=drawn", "verbose"])
def test_the_table_of_pytest_benchmark_is_printed_on_request(run, option, monkeypatch):
    if option.startswith("histogram"):
        pytest.importorskip("pygal")
    text = "\n".join(run("--impl=mine", "--loss=mse_loss", f"--benchmark-{option}", *ONE).out)
    assert "Legend:" in text
    assert "test_timing[mine:mse_loss/small/infer" in text
    monkeypatch.setenv("PYTEST_ADDOPTS", f"--benchmark-{option}")
    assert "Legend:" in "\n".join(run("--impl=mine", "--loss=mse_loss", *ONE).out)


def test_the_table_of_pytest_benchmark_keeps_other_tests(run, workplace):
    workplace.write(test_other="def test_other(benchmark):\n    benchmark(int)\n")
    result = run(
        "--impl=mine", "--loss=mse_loss", "test_other.py", "-k", "other or small and infer"
    )
    names = [
        line.split()[0] for line in result.out if line.startswith(("test_other", "test_timing["))
    ]
    assert names == ["test_other"]


def test_the_saved_data_of_pytest_benchmark_is_complete(run, workplace):
    assert run("--impl=mine", "--loss=mse_loss", "--benchmark-json=saved.json", *ONE).status == 0
    (saved,) = json.loads((workplace.path / "saved.json").read_text("utf-8"))["benchmarks"]
    assert saved["fullname"].endswith(
        "test_timing[mine:mse_loss/small/infer[function-cpu-float32]]"
    )
    assert saved["extra_info"]["verdict"] == "slower"


@pytest.mark.parametrize(("ratio", "status"), [("1.9", 1), ("2.1", 0)])
def test_a_timing_limit_fails_a_cell_that_certainly_exceeds_it(run, ratio, status):
    result = run("--impl=mine", "--loss=mse_loss", f"--timing-fail=slower:{ratio}", *ONE)
    assert result.status == status
    failed = (
        "takes 2.00 times torch's time (at least 2.00), on the cpu clock; "
        f"--timing-fail allows {ratio}"
    )
    assert (failed in "\n".join(result.out)) is bool(status)


def test_growth_is_in_the_artifact(run, workplace):
    assert run("--impl=mine", "--loss=mse_loss", "-k", "growth").status == 0
    data = json.loads((workplace.path / "reports/mine/timing.json").read_text("utf-8"))
    assert [curve["arm"] for curve in data["growth"]] == ["implementation", "torch"]
    # by this clock every call takes the same time
    assert {curve["time_power"] for curve in data["growth"]} == {0.0}


def test_an_unwritable_timing_report_is_a_one_line_error(run, workplace):
    (workplace.path / "reports" / "mine" / "timing.json").mkdir(parents=True)
    result = run("--impl=mine", "--loss=mse_loss", *ONE)
    assert result.status == pytest.ExitCode.USAGE_ERROR
    assert (
        "--reports: cannot write into reports/mine (Is a directory); choose another directory"
        in result.out
    )
    assert "Traceback" not in "\n".join(result.out + result.err)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("", "the timing suite needs --impl NAME, such as --impl=torch.nn"),
        ("--impl=mine -n2", "the timing suite runs in one process, because workers of pytest-xdi"),
        (
            "--impl=mine -p no:benchmark",
            "the timing suite needs pytest-benchmark: pip install lossspec[timing]",
        ),
        (
            "--impl=mine --benchmark-disable",
            "the timing suite cannot run with --benchmark-disable; leave it out",
        ),
        ("--impl=mine --shard=1/2", "the timing suite has no shards; leave out --shard"),
        ("--impl=mine --timing-fail=2", "takes slower:RATIO with a ratio of 1 or more, such as sl"),
        ("--impl=mine --loss=nll_loss", "nothing to time: mine has none of the losses nll_loss"),
        ("--impl=mine --loss=l3_loss", "unknown loss 'l3_loss'; did you mean l1_loss, "),
    ],
)
def test_invalid_options_give_one_clear_message(run, workplace, words, wanted):
    result = run(*words.split())
    assert result.status == pytest.ExitCode.USAGE_ERROR
    (said,) = [line for line in (*result.out, *result.err) if line.startswith("ERROR: ")]
    assert wanted in said
    assert not (workplace.path / "reports").exists()


def test_conformance_runs_without_pytest_benchmark(run, workplace):
    words = ("--impl=mine", "--loss=mse_loss", "--clause=result-shape", "--profile=quick")
    assert run(*words, "-p", "no:benchmark", at=SUITES).status == 0
    assert set(workplace.verdicts("mine").values()) == {"conforms"}
