"""Trials one after another in this process: for debugging, and where ray cannot be had. Needs no ray installed."""

from __future__ import annotations

from miras_search.sweep.attempt import Attempt
from miras_search.sweep.driver import Driver

SLICE = 0.25
"""Seconds between two looks at the clock, the display and Ctrl-C."""


def run(driver: Driver) -> None:
    """Run all trials of a sweep; returns early, with a checkpoint of the trial at work, when the user interrupts.

    A time limit is checked between steps, so a step that hangs is not stopped here.
    """
    while not driver.interrupted and (job := driver.next_job()) is not None:
        attempt = Attempt(job)
        try:
            while not driver.interrupted:
                event = attempt.step(SLICE)
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
