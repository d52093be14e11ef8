"""Trials one after another in this process: for debugging, and where ray cannot be had. Needs no ray installed."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator

from miras_search.sweep.attempt import Attempt, TimedOut
from miras_search.sweep.driver import Driver
from miras_search.sweep.job import GRACE, STARTUP, Job

SLICE = 0.25
"""Seconds between two looks at the clock, the display and Ctrl-C."""


def run(driver: Driver) -> None:
    """Run all trials of a sweep; returns early, with a checkpoint of the trial at work, when the user interrupts.

    A time limit is checked between steps. A step that hangs is ended by an alarm if it hangs in Python; a call into torch
    or the system that never returns is not stopped here.
    """
    while not driver.interrupted and (job := driver.next_job()) is not None:
        attempt = Attempt(job)
        more = STARTUP  # the first slice builds the model
        begun = time.monotonic()
        try:
            while not driver.interrupted:
                with _alarm(job, begun + more):
                    event = attempt.step(SLICE)
                if more:
                    begun, more = time.monotonic(), 0.0
                driver.on_tick()
                if event.kind == "progress":
                    driver.on_progress(job.key, event.progress)
                elif event.kind == "end":
                    driver.on_end(job.key, event)
                    break
                elif not driver.on_rung(job.key, event):
                    break
        finally:
            attempt.close()


@contextlib.contextmanager
def _alarm(job: Job, begun: float) -> Iterator[None]:
    """Raise `TimedOut` wherever Python is once the limit of a trial is over by `GRACE`. In the main thread alone."""
    if job.timeout is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: object) -> None:
        raise TimedOut(f"hung: stopped, not done after {job.timeout:g} s")

    old = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(1e-3, begun + job.timeout + GRACE - time.monotonic()))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, old)
