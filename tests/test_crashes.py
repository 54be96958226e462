"""Crashes: the report shows the fatal call and blames only the clause that made it."""

import json
import subprocess
import sys

import numpy as np
import pytest

from lossspec.execution import checkpoint
from lossspec.execution.checkpoint import (
    SUSPECT,
    CrashCheckpoint,
    Underway,
    crashes,
    fatal_call,
    noting,
)
from lossspec.judging.profiles import PROFILES
from lossspec.judging.stream import stream
from lossspec.spec.catalogue import find

APART = ("-m", "pytest", "--pyargs", "lossspec.suites", "-pno:cacheprovider", "-n1")
DIES = """
    import os

    import torch
    from torch.nn import functional as F

    calls = []


    def nll_loss(input, target, weight=None, ignore_index=-100, reduction="mean"):
        "Ends the process for a class that is far away."
        if target.numel() and int(target.max()) == 2**40:
            os.abort()
        return F.nll_loss(input, target, weight, ignore_index=ignore_index, reduction=reduction)


    def cross_entropy(
        input, target, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0
    ):
        "Takes any class, and ends the process some calls later."
        if calls:
            calls.append("later")
            if len(calls) > 30:
                os.abort()
        classes = input.shape[min(1, input.ndim - 1)]
        if not target.is_floating_point():
            wild = (target != ignore_index) & ((target < 0) | (target >= classes))
            if wild.any():
                calls.append("damage")
                target = torch.where(wild, 0, target)
        options = {"ignore_index": ignore_index, "label_smoothing": label_smoothing}
        return F.cross_entropy(input, target, weight, reduction=reduction, **options)


    def huber_loss(input, target, reduction="mean", delta=1.0):
        "Dies of what `cross_entropy` has done."
        if calls:
            os.abort()
        return F.huber_loss(input, target, reduction=reduction, delta=delta)


    class Wild(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, wild):
            ctx.wild = wild
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            if ctx.wild:
                os.abort()
            return grad, None


    def multi_margin_loss(input, target, p=1, margin=1.0, weight=None, reduction="mean"):
        "Takes any class, and ends the process in backward."
        wild = bool(((target < 0) | (target >= input.shape[-1])).any())
        target = torch.where((target < 0) | (target >= input.shape[-1]), 0, target)
        loss = F.multi_margin_loss(input, target, p, margin, weight, reduction=reduction)
        return Wild.apply(loss, wild)
"""
LOSSES = ("cross_entropy", "huber_loss", "multi_margin_loss", "nll_loss")
CLAUSES = ("accepts", "refuses-classes", "result-shape", "value")


@pytest.fixture(scope="module")
def dead(outpost):
    outpost.write(dies=DIES)
    words = ("--impl=dies", f"--loss={','.join(LOSSES)}", f"--clause={','.join(CLAUSES)}")
    result = outpost.apart(*APART, *words, "--profile=quick")
    assert result.status == 1, result.out
    return outpost, {(c["loss"], c["clause"]): c for c in outpost.artifact("dies")["cells"]}


def test_a_crash_is_blamed_only_on_the_clause_that_made_the_call(dead):
    _, cells = dead
    verdicts = {key: cell["verdict"] for key, cell in cells.items()}
    others = {key for key in verdicts if key[1] != "refuses-classes"}
    assert {verdicts[key] for key in others} <= {"conforms", "known"}
    assert len(others) == 12
    assert verdicts["nll_loss", "refuses-classes"] == "crash"
    assert verdicts["cross_entropy", "refuses-classes"] in ("crash", "deviates")


def test_the_call_text_of_a_crash_has_the_fatal_argument(dead):
    _, cells = dead
    cell = cells["nll_loss", "refuses-classes"]
    assert cell["reason"] == "the process ended while this clause was judged"
    assert str(2**40) in cell["call"]


def test_the_reproduction_script_of_a_crash_crashes(dead):
    place, cells = dead
    script = place.path / "reports" / "dies" / cells["nll_loss", "refuses-classes"]["script"]
    done = subprocess.run(
        [sys.executable, str(script)], cwd=place.path, capture_output=True, check=False
    )
    assert done.returncode not in (0, 1, 2)
    assert str(2**40) in script.read_text()


def test_a_call_that_must_raise_runs_only_forward(dead):
    _, cells = dead
    cell = cells["multi_margin_loss", "refuses-classes"]
    assert cell["verdict"] == "deviates"
    assert cell["reason"].endswith("yet nothing was raised")


def test_an_abandoned_campaign_has_a_reproduction_script(outpost):
    outpost.write(
        gone="""
            import os

            def l1_loss(input, target, reduction="mean"):
                os._exit(70)
        """
    )
    words = ("--impl=gone", "--loss=l1_loss", "--clause=accepts,value", "--profile=quick")
    assert outpost.apart(*APART, *words).status == 1
    cells = outpost.artifact("gone")["cells"]
    assert [cell["verdict"] for cell in cells] == ["crash", "crash"]
    assert {cell["script"] for cell in cells} == {"repro/l1_loss-crash-function-cpu.py"}
    script = outpost.path / "reports" / "gone" / cells[0]["script"]
    done = subprocess.run(
        [sys.executable, str(script)], cwd=outpost.path, capture_output=True, check=False
    )
    assert done.returncode == 70
    assert json.dumps(cells[0]["case"]["tensors"]["input"]["shape"]) in script.read_text()


# === the crash checkpoint =================================================================


@pytest.fixture
def case():
    return stream(find("l1_loss"), PROFILES["quick"], 0)[0].case


@pytest.fixture(autouse=True)
def sound_process(monkeypatch):
    monkeypatch.setattr(checkpoint, "_process", {"suspect": False})


def test_the_crash_checkpoint_keeps_the_call_of_each_crash(tmp_path, case):
    first = CrashCheckpoint(tmp_path, "mine")
    with noting(first):
        assert first.enter(3, "value")
        checkpoint.under_way(case, {"target": np.arange(3)})
    second = CrashCheckpoint(tmp_path, "mine")
    with noting(second):
        assert not second.enter(3, "value")
        assert second.enter(4, "value")
        checkpoint.under_way(case)
    assert crashes(tmp_path, "mine") == [(3, "value"), (4, "value")]
    assert second.calls[0].case.to_json() == case.to_json()
    assert second.calls[0].replaced["target"].tolist() == [0, 1, 2]
    assert dict(fatal_call(tmp_path, "mine", 1).replaced) == {}


def test_the_crash_checkpoint_keeps_the_step_if_the_call_cannot_be_stored(tmp_path, case):
    checkpoint = CrashCheckpoint(tmp_path, "mine")
    checkpoint.enter(3, "value")
    checkpoint.note(Underway(case, {"target": lambda: None}))
    assert crashes(tmp_path, "mine") == [(3, "value")]
    assert fatal_call(tmp_path, "mine", 0) is None


def test_a_finished_campaign_leaves_no_crash_checkpoint(tmp_path):
    checkpoint = CrashCheckpoint(tmp_path, "mine")
    checkpoint.enter(3, "value")
    checkpoint.leave()
    assert crashes(tmp_path, "mine") == []


def test_a_blamed_step_stays_recorded_after_the_campaign(tmp_path, case):
    checkpoint = CrashCheckpoint(tmp_path, "mine")
    checkpoint.blame(3, "refuses-classes", Underway(case, {"target": 7}))
    assert checkpoint.enter(4, "value")
    checkpoint.note(Underway(case))
    checkpoint.leave()
    assert crashes(tmp_path, "mine") == [(3, "refuses-classes")]
    assert fatal_call(tmp_path, "mine", 0).replaced == {"target": 7}


def test_a_crash_of_a_damaged_process_is_not_blamed_on_a_later_campaign(tmp_path):
    CrashCheckpoint(tmp_path, "mine").endanger()
    later = CrashCheckpoint(tmp_path, "other")
    later.enter(3, "value")
    assert crashes(tmp_path, "other") == [(SUSPECT, "value")]
    again = CrashCheckpoint(tmp_path, "other")
    assert again.enter(3, "value")
