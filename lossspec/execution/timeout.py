"""Patience: what never ends is interrupted; where nothing interrupts it, the process ends."""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lossspec.thresholds import BUSY, CALL_SECONDS, LAST, WAITS

#: The limit in force, in seconds.
LIMIT = CALL_SECONDS
#: Arming the last resort starts a thread, so it is not done for every clause.
OFTEN = 1.0

#: A second Ctrl-C within so many seconds does not interrupt what the first one has begun.
AGAIN = 2.0
#: What the KeyboardInterrupt of a signal is raised with.
_WORDS: dict[int, tuple[str, ...]] = {signal.SIGINT: (), signal.SIGTERM: ("SIGTERM",)}

_asked: dict[str, Any] = {"told": None, "at": -AGAIN, "deaf": False}
_armed: dict[str, Any] = {"file": None, "at": 0.0, "watched": False}


class CallTimeout(BaseException):
    """Interrupts a call. No Exception, lest the implementation take it for one of its own."""


#: What is no error of the call that it ends: the user's interruption, and ours.
STOPS = (KeyboardInterrupt, CallTimeout)


@contextmanager
def time_limit() -> Iterator[None]:
    """Raise CallTimeout in what takes longer than LIMIT, unless another timer is running.

    What hardly gets a processor, or sleeps, is given a second LIMIT. A run that was told to end
    does not get beyond it.
    """
    stop_if_asked()
    if _armed["watched"]:
        _arm()
    if not hasattr(signal, "setitimer") or not _free():
        yield
        stop_if_asked()
        return

    start, used = time.monotonic(), time.process_time()

    def interrupt(signum: int, frame: object) -> None:
        # Beside others on a busy machine it may only have had to wait.
        waited = time.monotonic() - start > WAITS * LIMIT
        if waited or time.process_time() - used >= BUSY * LIMIT:
            raise CallTimeout

    before = signal.signal(signal.SIGALRM, interrupt)
    # Again and again: what is interrupted may be a destructor, which loses the exception.
    signal.setitimer(signal.ITIMER_REAL, LIMIT, min(1.0, LIMIT / 4))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        stop_if_asked()  # what was found may come of an interruption that was caught


def _free() -> bool:
    main = threading.current_thread() is threading.main_thread()
    return main and signal.getitimer(signal.ITIMER_REAL)[0] == 0


def ends_process() -> None:
    """From now on end the process as the last resort, with every thread's traceback on stderr."""
    if _armed["file"] is None:
        _armed["file"] = os.dup(2)  # of its own: pytest puts a file in 2's place


def ends_orderly() -> Callable[[], None]:
    """Take SIGINT and SIGTERM for a wish to end, and return what undoes that.

    The signal raises KeyboardInterrupt, so that a run reports what it has judged. A signal that
    the process ignores, or that somebody else handles, is left alone.
    """
    _asked.update(told=None, at=-AGAIN, deaf=False)
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    before = {
        number: handler
        for number, handler in (
            (signal.SIGINT, signal.default_int_handler),
            (signal.SIGTERM, signal.SIG_DFL),
        )
        if signal.getsignal(number) is handler
    }

    def undo() -> None:
        _asked.update(told=None, deaf=False)
        for number, handler in before.items():
            if signal.getsignal(number) is _interrupt:
                signal.signal(number, handler)

    for number in before:
        signal.signal(number, _interrupt)
    return undo


def _interrupt(signum: int, frame: object) -> None:
    now = time.monotonic()
    again = now - _asked["at"] < AGAIN
    _asked["told"] = _asked["told"] or _WORDS[signum]
    if not _asked["deaf"] and not again:
        _asked["at"] = now
        stop_if_asked()


def stop_if_asked() -> None:
    """Raise KeyboardInterrupt if the run was told to end.

    An implementation that catches everything, or a destructor, loses the first one.
    """
    if _asked["told"] is not None and not _asked["deaf"]:
        raise KeyboardInterrupt(*_asked["told"])


def reports_now() -> None:
    """From now on a signal to end is noted and interrupts nothing: the reports are written."""
    _asked["deaf"] = True


def told_to_end() -> bool:
    """Whether the run was told to end, at any time."""
    return _asked["told"] is not None


@contextmanager
def watched() -> Iterator[None]:
    """Where the last resort may be needed: each `time_limit` in it begins anew to wait for it."""
    _armed["watched"] = _armed["file"] is not None
    try:
        yield
    finally:
        if _armed["watched"]:
            _armed["watched"], _armed["at"] = False, 0.0
            faulthandler.cancel_dump_traceback_later()


def _arm() -> None:
    now = time.monotonic()
    if now - _armed["at"] > min(OFTEN, LIMIT):
        _armed["at"] = now
        faulthandler.dump_traceback_later(LAST * LIMIT, exit=True, file=_armed["file"])
