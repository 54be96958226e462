"""Ctrl-C at any moment: the run ends with status 2 and reports the judged cells."""

import os
import signal
import time

import pytest

from lossspec import cli
from lossspec.cli import main
from lossspec.execution import timeout


@pytest.fixture(autouse=True)
def _heeds_interruptions():
    """Restore the handling of SIGINT, which a shell lets background processes ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


APART = ("-m", "pytest", "--pyargs", "lossspec.suites", "-p", "no:cacheprovider")
WORDS = ("--impl=mine", "--loss=huber_loss,l1_loss", "--profile=quick", "--clause=accepts,value")
HEAD = """
    import os
    import signal
    import time
    import torch
    from torch.nn.functional import huber_loss, l1_loss as right

    def press(times=1):
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
"""
IN_CALL = """
    def l1_loss(input, target, reduction="mean"):
        press()
        return right(input, target, reduction=reduction)
"""
IN_BACKWARD = """
    class Pressed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, loss):
            return loss.clone()

        @staticmethod
        def backward(ctx, gradient):
            press()
            return gradient

    def l1_loss(input, target, reduction="mean"):
        return Pressed.apply(right(input, target, reduction=reduction))
"""
TWICE = """
    def l1_loss(input, target, reduction="mean"):
        try:
            press()
        finally:
            press(3)
"""
CAUGHT = """
    def l1_loss(input, target, reduction="mean"):
        try:
            press()
        except BaseException:
            return 2 * right(input, target, reduction=reduction)
"""
LOST = """
    class Lost:
        def __del__(self):
            press()

    def l1_loss(input, target, reduction="mean"):
        Lost()
        return right(input, target, reduction=reduction)
"""
# Python attributes instructions at the end of a `with` block to no line.
NO_LINE = """
    def stop():
        raise KeyboardInterrupt

    stop.__code__ = stop.__code__.replace(co_linetable=b"")

    def l1_loss(input, target, reduction="mean"):
        try:
            raise ValueError
        except ValueError:
            stop()
"""


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.05)


def clean(result) -> bool:
    """Return whether a run ended with status 2 and without a traceback."""
    text = "\n".join(result.out + result.err)
    assert result.status == pytest.ExitCode.INTERRUPTED, text
    assert "Traceback" not in text
    assert "INTERNALERROR" not in text
    return len(result.out) < 60


@pytest.mark.parametrize("body", [IN_CALL, IN_BACKWARD, TWICE, CAUGHT, LOST, NO_LINE])
def test_an_interrupted_run_reports_the_judged_cells(workplace, body):
    workplace.write(mine=HEAD + body)
    result = workplace.apart(*APART, *WORDS)
    if body is LOST:  # Python itself prints that it dropped the exception
        result = type(result)(result.status, result.out, [])
        result.out[:] = [line for line in result.out if "Traceback" not in line]
    assert clean(result)
    assert any("KeyboardInterrupt" in line for line in result.out)
    verdicts = {(c["loss"], c["clause"]): c["verdict"] for c in workplace.artifact("mine")["cells"]}
    assert verdicts == {
        ("huber_loss", "accepts"): "conforms",
        ("huber_loss", "value"): "conforms",
        ("l1_loss", "accepts"): "not-run",
        ("l1_loss", "value"): "not-run",
    }
    assert (workplace.path / "reports" / "mine" / "index.html").exists()


@pytest.mark.parametrize(
    ("start", "then"),
    [
        (APART, "except KeyboardInterrupt: raise ImportError('broken')"),
        (("-m", "lossspec", "run", "mine"), ""),
    ],
)
def test_an_interrupted_import_ends_the_run_with_one_line(workplace, start, then):
    workplace.write(mine=f"{HEAD}\n    try: press()\n    {then or 'finally: pass'}\n")
    words = WORDS if start is APART else WORDS[1:]
    result = workplace.apart(*start, *words)
    assert clean(result)
    assert [line for line in result.out + result.err if line] == [
        "KeyboardInterrupt: nothing was judged"
    ]
    assert not (workplace.path / "reports").exists()


@pytest.mark.parametrize(
    "hook",
    [
        "pytest_collection_modifyitems()",
        "pytest_sessionfinish()",
        "pytest_keyboard_interrupt(excinfo)",
    ],
)
def test_an_interruption_outside_of_a_call_ends_the_run_cleanly(workplace, hook):
    more = IN_CALL if "excinfo" in hook else "\n    l1_loss = right\n"
    workplace.write(
        mine=HEAD + more,
        conftest=f"""
            import pytest
            from mine import press

            @pytest.hookimpl(tryfirst=True)
            def {hook}:
                press(2)
        """,
    )
    (workplace.path / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    assert clean(workplace.apart(*APART, *WORDS))
    wanted = {"conforms", "not-run"} if more is IN_CALL else {"conforms"}
    wanted = {"not-run"} if "collection" in hook else wanted
    assert set(workplace.verdicts("mine").values()) == wanted


@pytest.mark.parametrize("who", ["os.getppid()", "0"])
def test_interrupted_workers_end_cleanly(workplace, who):
    """Send SIGINT to the controller alone, or to the whole group as Ctrl-C on a terminal does."""
    send = f"os.kill({who}, signal.SIGINT)" if who != "0" else "os.killpg(0, signal.SIGINT)"
    workplace.write(
        mine=f"""{HEAD}
    def l1_loss(input, target, reduction="mean"):
        {send}
        time.sleep(3)
        return right(input, target, reduction=reduction)
    """
    )
    code = "import os, runpy, sys; os.setpgrp(); sys.path.insert(0, ''); "
    code += f"sys.argv = {['pytest', *APART[2:], *WORDS, '-n1']}; "
    code += "runpy.run_module('pytest', run_name='__main__')"
    assert clean(workplace.apart("-c", code))
    assert workplace.verdicts("mine")["l1_loss/value[function-cpu]"] == "not-run"


def test_an_interrupted_command_prints_one_line(workplace, monkeypatch):
    def interrupted(options) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_list", interrupted)
    result = workplace.within(lambda: main(["list", "losses"]))
    assert (result.status, result.out, result.err) == (2, [], ["lossspec list: interrupted"])


def test_an_ignored_signal_stays_ignored_and_handlers_are_restored(monkeypatch):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    undo = timeout.ends_orderly()
    try:
        press()
        assert not timeout.told_to_end()
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    finally:
        undo()
        signal.signal(signal.SIGINT, before)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_second_interruption_interrupts_again(monkeypatch):
    monkeypatch.setattr(timeout, "AGAIN", 0.0)
    undo = timeout.ends_orderly()
    try:
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                press()
        timeout.reports_now()
        press()
    finally:
        undo()
    assert not timeout.told_to_end()
