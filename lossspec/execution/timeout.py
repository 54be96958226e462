"""Timeouts: interrupt a call that takes too long, or end the process if that is impossible."""

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
#: Seconds between two starts of the watchdog, since each one starts a thread.
OFTEN = 1.0

#: Seconds after a Ctrl-C in which another one is ignored, so that the first can end the run.
AGAIN = 2.0
#: The arguments of the KeyboardInterrupt that a signal raises.
_WORDS: dict[int, tuple[str, ...]] = {signal.SIGINT: (), signal.SIGTERM: ("SIGTERM",)}

_asked: dict[str, Any] = {"told": None, "at": -AGAIN, "deaf": False}
#: How many contexts of `uninterrupted` the main thread is in.
_held: dict[str, int] = {"depth": 0}
_armed: dict[str, Any] = {"file": None, "at": 0.0, "watched": False}


class CallTimeout(BaseException):
    """An interruption of a call; not an Exception, so that an implementation does not catch it."""


#: Interruptions by the user and by us, which are not errors of the interrupted call.
STOPS = (KeyboardInterrupt, CallTimeout)


@contextmanager
def time_limit() -> Iterator[None]:
    """Raise CallTimeout in the context after LIMIT seconds, unless another timer is running.

    Code that sleeps or hardly gets a CPU may take `WAITS` times LIMIT. KeyboardInterrupt is raised
    before or after the context if the run was asked to end.
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
        if _held["depth"]:
            return  # the timer repeats
        # On a busy machine the call may have waited for a CPU.
        waited = time.monotonic() - start > WAITS * LIMIT
        if waited or time.process_time() - used >= BUSY * LIMIT:
            raise CallTimeout

    before = signal.signal(signal.SIGALRM, interrupt)
    # The timer repeats, since a destructor swallows the exception if it is interrupted.
    signal.setitimer(signal.ITIMER_REAL, LIMIT, min(1.0, LIMIT / 4))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        stop_if_asked()  # the loss may have caught the interruption and returned a wrong result


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Delay interruptions by a time limit and by the user until the context is left.

    Settings that are restored in it are all restored. Interruptions only affect the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _held["depth"] += 1
    try:
        yield
    finally:
        _held["depth"] -= 1


def _free() -> bool:
    main = threading.current_thread() is threading.main_thread()
    return main and signal.getitimer(signal.ITIMER_REAL)[0] == 0


def ends_process() -> None:
    """Enable the watchdog, which ends the process and writes every thread's traceback to stderr."""
    if _armed["file"] is None:
        _armed["file"] = os.dup(2)  # a copy, since pytest replaces file descriptor 2


def ends_orderly() -> Callable[[], None]:
    """Let SIGINT and SIGTERM raise KeyboardInterrupt, so that a run reports what it has judged.

    A signal that is ignored, or that has a handler already, is left alone.

    Returns:
        A function that restores the former handlers.
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
    """Raise KeyboardInterrupt if the run was asked to end.

    This repeats the first one, which an implementation or a destructor may have swallowed.
    """
    if _asked["told"] is not None and not _asked["deaf"] and not _held["depth"]:
        raise KeyboardInterrupt(*_asked["told"])


def reports_now() -> None:
    """Stop signals from interrupting, so that the reports are written; they are still recorded."""
    _asked["deaf"] = True


def told_to_end() -> bool:
    """Return whether the run was asked to end at any time."""
    return _asked["told"] is not None


@contextmanager
def watched() -> Iterator[None]:
    """Run the watchdog in this context; each `time_limit` in it restarts the wait."""
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
