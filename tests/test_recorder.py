"""The recorder: every planned cell has a verdict, also after a process has died."""

import json
import re
from textwrap import dedent

import execnet
import jsonschema
import numpy as np
import pytest

from lossspec.cli import main
from lossspec.pytest_plugin.xdist import cell_key
from lossspec.report.records import SCHEMA, Cell, Report

MINE = """
    from torch.nn import functional as F
    from torch.nn.functional import l1_loss

    def nll_loss(input, target, weight=None, ignore_index=-100, reduction="mean"):
        "The mean divides by the number of targets, not by the sum of their weights."
        given = dict(weight=weight, ignore_index=ignore_index)
        if reduction == "mean":
            return F.nll_loss(input, target, **given, reduction="sum") / target.numel()
        return F.nll_loss(input, target, **given, reduction=reduction)
"""
APART = ("-m", "pytest", "--pyargs", "lossspec.suites", "-p", "no:cacheprovider")


def told(cell: dict) -> dict:
    """Return the parts of a cell that must not depend on the distribution of the work."""
    return {name: value for name, value in cell.items() if name != "seconds"}


DIES = """
    import os
    import signal
    from torch.nn.functional import mse_loss

    def huber_loss(input, target, delta=1.0, reduction="mean"):
        os._exit(0)

    def smooth_l1_loss(input, target, beta=1.0, reduction="mean"):
        os.kill(os.getpid(), signal.SIGKILL)
"""
WORDS = ("--profile=quick", "--clause=l1_loss/value,accepts,mean-divisor,result-shape")


@pytest.fixture(scope="module")
def shared(outpost):
    """Run with two workers that both die in a loss of one of two implementations."""
    outpost.write(mine=MINE, dies=DIES)
    losses = "--loss=huber_loss,l1_loss,mse_loss,nll_loss,smooth_l1_loss"
    return outpost, outpost.apart(*APART, "--impl=mine,dies", losses, *WORDS, "-n2")


def test_workers_report_the_same_as_one_process(shared, workplace):
    workplace.write(mine=MINE)
    losses = "--loss=huber_loss,l1_loss,mse_loss,nll_loss,smooth_l1_loss"
    assert workplace.run("--impl=mine", losses, *WORDS).status == 1
    alone = workplace.artifact("mine")["cells"]
    assert {cell["verdict"] for cell in alone} >= {"conforms", "deviates", "unsupported"}
    assert [told(c) for c in shared[0].artifact("mine")["cells"]] == [told(c) for c in alone]
    scripts = [place.path / "reports" / "mine" / "repro" for place in (shared[0], workplace)]
    for folder in scripts:
        assert [path.name for path in folder.iterdir()] == ["nll_loss-mean-divisor-function-cpu.py"]
    got, want = (next(folder.iterdir()).read_text() for folder in scripts)
    assert got == want


def test_a_loss_that_kills_every_worker_affects_no_other_loss(shared):
    place, result = shared
    assert result.status == 1, result.out
    assert not [line for line in result.out if "INTERNALERROR" in line]
    cells = [c for c in place.artifact("dies")["cells"] if c["verdict"] != "unsupported"]
    # Torch's mean of squares in float16 may overflow, which is known.
    verdicts = {(c["loss"], c["clause"]): c["verdict"] for c in cells}
    assert verdicts.pop(("mse_loss", "mean-divisor")) in ("conforms", "known")
    assert verdicts | {("mse_loss", "mean-divisor"): "conforms"} == {
        (loss, clause): verdict
        for loss, verdict in (
            ("huber_loss", "crash"),
            ("mse_loss", "conforms"),
            ("smooth_l1_loss", "crash"),
        )
        for clause in ("accepts", "mean-divisor", "result-shape")
    }
    assert {cell["reason"] for cell in cells if cell["verdict"] == "crash"} == {
        "the test process ended 6 times, in call"
    }
    # The case in which the last process ended, from a stream that can be drawn again.
    for cell in (cell for cell in cells if cell["verdict"] == "crash"):
        assert f"{cell['loss']}(input, target" in cell["call"]
        assert cell["case"]["loss"] == cell["loss"]
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator(schema).validate(place.artifact("dies"))


def test_the_fatal_call_is_reported_and_other_cells_are_judged(workplace):
    workplace.write(
        frail="""
            import os
            import threading
            from torch.nn import functional as F

            def mse_loss(input, target, weight=None, reduction="mean"):
                "Ends the process where nothing is left."
                if not input.numel():
                    os._exit(70)
                return F.mse_loss(input, target, weight=weight, reduction=reduction)

            def l1_loss(input, target, weight=None, reduction="mean"):
                "Ends the process in any other thread, and is half of what it should be."
                if threading.current_thread() is not threading.main_thread():
                    os._exit(70)
                return F.l1_loss(input, target, weight=weight, reduction=reduction) / 2
        """
    )
    words = ("--profile=quick", "--clause=accepts,result-shape,threads,nothing-left,value")
    result = workplace.apart(*APART, "--impl=frail", "--loss=l1_loss,mse_loss", *words, "-n2")
    assert result.status == 1, result.out
    cells = {(c["loss"], c["clause"]): c for c in workplace.artifact("frail")["cells"]}
    assert {key: cell["verdict"] for key, cell in cells.items()} == {
        ("l1_loss", "accepts"): "conforms",
        ("l1_loss", "nothing-left"): "conforms",
        ("l1_loss", "result-shape"): "conforms",
        ("l1_loss", "threads"): "crash",
        ("l1_loss", "value"): "deviates",
        ("mse_loss", "accepts"): "crash",
        ("mse_loss", "nothing-left"): "inconclusive",
        ("mse_loss", "result-shape"): "conforms",
        ("mse_loss", "threads"): "conforms",
        ("mse_loss", "value"): "conforms",
    }
    killed = cells["mse_loss", "accepts"]
    assert killed["reason"] == "the process ended while this clause was judged"
    assert re.search(r"^input = (empty\(|tensor\(\[\])", killed["call"])  # no number
    assert "l1_loss(input, target" in cells["l1_loss", "threads"]["call"]


def test_a_crashed_process_leaves_no_earlier_report(workplace):
    workplace.write(dies="from torch.nn.functional import l1_loss")
    words = ("--impl=dies", "--loss=l1_loss", "--profile=quick", "--clause=result-shape,accepts")
    assert workplace.run(*words).status == 0
    assert set(workplace.verdicts("dies").values()) == {"conforms"}
    workplace.write(
        dies="""
            import os

            def l1_loss(input, target, reduction="mean"):
                os._exit(70)
        """
    )
    assert workplace.apart(*APART, *words).status == 70
    assert set(workplace.verdicts("dies").values()) == {"not-run"}
    assert Report.read(workplace.path / "reports" / "dies" / "conformance.json").exit_status == 1


ABORTS = """
    import os
    from torch.nn import functional as F
    from torch.nn.functional import huber_loss, soft_margin_loss

    def l1_loss(input, target, reduction="mean"):
        return F.l1_loss(input, target, reduction=reduction).unsqueeze(0)

    def mse_loss(input, target, reduction="mean"):
        {ends}
"""
LOSSES = ("huber_loss", "l1_loss", "mse_loss", "soft_margin_loss")


def aborted(workplace, ends, *more):
    """Return the verdicts by loss and clause of a run whose third loss ends the process."""
    workplace.write(aborts=ABORTS.format(ends=ends))
    words = ("--impl=aborts", f"--loss={','.join(LOSSES)}", "--profile=quick", *more)
    result = workplace.apart(*APART, *words, "--clause=accepts,result-shape")
    assert result.status != 0
    return {(c["loss"], c["clause"]): c for c in workplace.artifact("aborts")["cells"]}


@pytest.mark.parametrize("ends", ["os.abort()", "os.kill(os.getpid(), 9)"])
def test_a_crashed_process_keeps_the_verdicts_of_finished_losses(workplace, ends):
    cells = aborted(workplace, ends, "-pno:faulthandler")
    assert {key: cell["verdict"] for key, cell in cells.items()} == {
        ("huber_loss", "accepts"): "conforms",
        ("huber_loss", "result-shape"): "conforms",
        ("l1_loss", "accepts"): "conforms",
        ("l1_loss", "result-shape"): "deviates",
        ("mse_loss", "accepts"): "not-run",
        ("mse_loss", "result-shape"): "not-run",
        ("soft_margin_loss", "accepts"): "not-run",
        ("soft_margin_loss", "result-shape"): "not-run",
    }
    assert cells["mse_loss", "accepts"]["reason"] == (
        "the test process ended while it judged mse_loss; run again with `-n 1` to continue after "
        "a crash and to see the call"
    )
    reason = cells["soft_margin_loss", "accepts"]["reason"]
    assert reason == "planned, but no verdict arrived"
    script = workplace.path / "reports" / "aborts" / cells["l1_loss", "result-shape"]["script"]
    assert script.is_file()


def test_the_report_of_a_crashed_process_can_be_rendered(workplace):
    aborted(workplace, "os._exit(70)")
    folder = workplace.path / "reports" / "aborts"
    assert main(["render", str(folder / "conformance.json")]) == 0
    summary = (folder / "summary.md").read_text()
    assert "3 of 8 clauses conform, 1 deviates, 4 not run" in summary
    assert "the test process ended while it judged mse_loss" in summary


def test_a_crashed_controller_keeps_the_received_verdicts(workplace):
    workplace.write(aborts="from torch.nn.functional import *")
    (workplace.path / "kills.py").write_text(
        dedent("""
            import os

            losses = set()

            def pytest_runtest_logreport(report):
                losses.add(report.nodeid.partition("aborts:")[2].partition("/")[0])
                if len(losses) == 3 and not os.environ.get("PYTEST_XDIST_WORKER"):
                    os._exit(9)
        """)
    )
    words = ("--impl=aborts", f"--loss={','.join(LOSSES)}", "--profile=quick", "-n1")
    result = workplace.apart(*APART, *words, "--clause=accepts,result-shape", "-p", "kills")
    assert result.status == 9, result.out
    verdicts = list(workplace.verdicts("aborts").values())
    assert sorted(verdicts) == ["conforms"] * 4 + ["not-run"] * 4


def test_a_crashed_controller_leaves_no_earlier_report(workplace):
    workplace.write(mine=MINE)
    words = ("--impl=mine", "--loss=l1_loss", "--clause=result-shape,accepts", "--profile=quick")
    assert workplace.run(*words).status == 0
    (workplace.path / "kills.py").write_text(
        dedent("""
            import os

            def pytest_runtest_logstart():
                if not os.environ.get("PYTEST_XDIST_WORKER"):
                    os._exit(9)
        """)
    )
    assert workplace.apart(*APART, *words, "-n1", "-p", "kills").status == 9
    assert set(workplace.verdicts("mine").values()) == {"not-run"}


@pytest.mark.parametrize(("whom", "more"), [("getpid", ("-pno:xdist",)), ("getppid", ("-n1",))])
def test_a_terminated_run_writes_its_report(workplace, whom, more):
    workplace.write(
        ended=f"""
            import os
            import signal
            import time
            from torch.nn.functional import huber_loss

            def l1_loss(input, target, reduction="mean"):
                os.kill(os.{whom}(), signal.SIGTERM)
                time.sleep(2)
        """
    )
    words = ("--impl=ended", "--loss=huber_loss,l1_loss", "--profile=quick", "--clause=accepts")
    result = workplace.apart(*APART, *words, *more)
    assert result.status == 2, result.out
    assert any("KeyboardInterrupt: SIGTERM" in line for line in result.out)
    verdicts = workplace.verdicts("ended")
    assert verdicts["l1_loss/accepts[function-cpu]"] == "not-run"
    if whom == "getpid":
        assert verdicts["huber_loss/accepts[function-cpu]"] == "conforms"


@pytest.mark.parametrize(
    ("body", "more", "status", "verdicts"),
    [
        ("return 3.0", ["-x"], 1, ["deviates", "not-run", "not-run"]),
        ("raise KeyboardInterrupt", [], 2, ["not-run", "not-run", "not-run"]),
        ("raise SystemExit(0)", [], 1, ["deviates", "deviates", "deviates"]),
        ("import pytest; pytest.skip('no')", [], 1, ["deviates", "deviates", "deviates"]),
    ],
)
def test_a_lost_cell_never_conforms(workplace, body, more, status, verdicts):
    workplace.write(stops=f"def l1_loss(input, target, reduction='mean'):\n    {body}\n")
    words = ("--impl=stops", "--loss=l1_loss", "--profile=quick", *more)
    result = workplace.run(*words, "--clause=accepts,inputs-untouched,value")
    assert result.status == status
    assert sorted(workplace.verdicts("stops").values()) == verdicts


def test_deselected_cells_are_not_in_the_report(workplace):
    workplace.write(mine=MINE)
    words = ("--impl=mine", "--loss=l1_loss", "--clause=result-shape,accepts", "--profile=quick")
    assert workplace.run(*words, "-k", "accepts").status == 0
    assert workplace.verdicts("mine") == {"l1_loss/accepts[function-cpu]": "conforms"}


def test_a_second_run_removes_the_scripts_of_the_first(workplace):
    words = ("--impl=mine", "--loss=l1_loss", "--clause=result-shape", "--profile=quick")
    workplace.write(mine="def l1_loss(input, target, reduction='mean'): return input")
    assert workplace.run(*words).status == 1
    folder = workplace.path / "reports" / "mine" / "repro"
    assert [path.name for path in folder.iterdir()] == ["l1_loss-result-shape-function-cpu.py"]
    workplace.write(mine="from torch.nn.functional import l1_loss")
    assert workplace.run(*words).status == 0
    assert list(folder.iterdir()) == []


def test_a_record_with_numpy_scalars_arrives_from_a_worker(workplace):
    workplace.write(mine=MINE)
    words = ("--impl=mine", "--loss=l1_loss", "--clause=result-shape", "--profile=quick")
    assert workplace.run(*words).status == 0
    (plain,) = workplace.artifact("mine")["cells"]
    numpy = {
        "examples": np.int64(3),
        "worst": np.float32(0.5),
        "seconds": np.float64(0.25),
        "case": {"data": [np.float16(1.5), np.uint8(2), np.longdouble("inf")]},
    }
    sent = Cell.from_data({**plain, **numpy}).to_data()
    got = execnet.loads(execnet.dumps(sent))
    assert (got["examples"], got["worst"], got["case"]["data"]) == (3, 0.5, [1.5, 2, "inf"])


@pytest.mark.parametrize(
    ("nodeid", "want"),
    [
        (
            "suites/conformance/test_conformance.py::test_conformance"
            "[torch.nn:l1_loss/value[class-cuda:1]]",
            "torch.nn:l1_loss/value[class-cuda:1]",
        ),
        (
            "conformance/test_conformance.py::test_conformance[m:f:l1_loss/value[class-cpu]]@m:f",
            "m:f:l1_loss/value[class-cpu]",
        ),
        (
            r"test_conformance.py::test_conformance[m\xf3dulo:l1_loss/value[class-cpu]]",
            "módulo:l1_loss/value[class-cpu]",
        ),
        ("tests/test_own.py::test_conformance[m:l1_loss/value[class-cpu]]", None),
        ("test_conformance.py::test_conformance[NOTSET]", None),
    ],
)
def test_a_node_id_names_its_cell(nodeid, want):
    assert cell_key(nodeid) == want
