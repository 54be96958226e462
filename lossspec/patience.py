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

#: A clause asks for a few calls on small tensors; in seconds.
LIMIT = 60.0
#: So many limits later a call sits where Python cannot interrupt it, and never will.
LAST = 3.0
#: What got less than this share of a processor waits, and may be so many limits late.
BUSY, WAITS = 0.5, 2.0
#: Arming the last resort starts a thread, so it is not done for every clause.
OFTEN = 1.0

_armed: dict[str, Any] = {"file": None, "at": 0.0, "watched": False}


class Endless(BaseException):
    """Interrupts a call. No Exception, lest the implementation take it for one of its own."""


#: What is no error of the call that it ends: the user's interruption, and ours.
STOPS = (KeyboardInterrupt, Endless)


@contextmanager
def limited() -> Iterator[None]:
    """Raise Endless in what takes longer than LIMIT, unless another timer is running.

    What hardly gets a processor, or sleeps, is given a second LIMIT.
    """
    if _armed["watched"]:
        _arm()
    if not hasattr(signal, "setitimer") or not _free():
        yield
        return

    start, used = time.monotonic(), time.process_time()

    def interrupt(signum: int, frame: object) -> None:
        # Beside others on a busy machine it may only have had to wait.
        waited = time.monotonic() - start > WAITS * LIMIT
        if waited or time.process_time() - used >= BUSY * LIMIT:
            raise Endless

    before = signal.signal(signal.SIGALRM, interrupt)
    # Again and again: what is interrupted may be a destructor, which loses the exception.
    signal.setitimer(signal.ITIMER_REAL, LIMIT, min(1.0, LIMIT / 4))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _free() -> bool:
    main = threading.current_thread() is threading.main_thread()
    return main and signal.getitimer(signal.ITIMER_REAL)[0] == 0


def ends_process() -> None:
    """From now on end the process as the last resort, with every thread's traceback on stderr."""
    if _armed["file"] is None:
        _armed["file"] = os.dup(2)  # of its own: pytest puts a file in 2's place


def ends_orderly() -> Callable[[], None]:
    """From now on SIGTERM is taken for Ctrl-C: a run out of time reports too. What undoes that."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return lambda: None

    def interrupt(signum: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # another one must not end the reporting
        raise KeyboardInterrupt("SIGTERM")

    def undo() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, interrupt)
    return undo


@contextmanager
def watched() -> Iterator[None]:
    """Where the last resort may be needed: each `limited` in it begins anew to wait for it."""
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
