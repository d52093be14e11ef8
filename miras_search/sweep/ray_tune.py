"""Trials on Ray Tune: on the cores of this machine, or on any cluster whose nodes share the run's folder.

Tune places trials on reused actors, moves them off lost ones and retries. What runs, stops and counts is ours:

    _Trainable   runs an `Attempt` in slices
    _Searcher    hands our jobs to Tune
    _Scheduler   asks our halving at rungs
    _Watchdog    times out, tells losses apart, keeps the display alive

A trial's own failures never reach Tune as errors, since Tune retries every error it sees. Tune's snapshots go to a
scratch folder that is thrown away: `Tuner.restore` is not used, the ledger and the trial folders are enough.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import tune
from ray.exceptions import ActorUnavailableError, OutOfMemoryError
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from miras_search.errors import RunError
from miras_search.ledger import Record, Status
from miras_search.sweep.job import GRACE, STARTUP, Event, Job
from miras_search.sweep.orphans import reaped

if TYPE_CHECKING:  # torch comes with these: see `_Trainable`
    from miras_search.sweep.attempt import Attempt
    from miras_search.sweep.driver import Driver

SLICE = 1.0
"""Seconds that a worker trains before it reports; Ctrl-C waits for the end of a slice."""
RETRIES = 2
"""Of a trial whose worker is lost."""


def run(driver: Driver, *, threads: int = 1, address: str | None = None) -> None:
    """Run all trials of a sweep on Ray Tune; returns early when the user interrupts.

    Args:
        driver: what to run.
        threads: cores of a trial.
        address: of a running cluster; None: Ray is started on this machine, and stopped afterwards.

    Raises:
        RunError: if the cluster cannot be reached, or is too small for one trial.
    """
    scratch = Path(tempfile.mkdtemp(prefix="miras-search-tune-"))
    watchdog = _Watchdog(driver)
    try:
        with _cluster(driver.parallel * threads, address):
            there = ray.cluster_resources()
            if there.get("CPU", 0.0) < threads:
                raise RunError(f"no node of the Ray cluster has {threads} cores", hint="give a trial fewer threads")
            tuner = tune.Tuner(
                tune.with_resources(_Trainable, resources(driver.parallel, threads, int(there.get("GPU", 0)))),
                tune_config=tune.TuneConfig(
                    num_samples=-1,
                    search_alg=_Searcher(driver, watchdog),
                    scheduler=_Scheduler(driver, watchdog),
                    reuse_actors=True,
                    trial_name_creator=lambda trial: trial.config["key"],
                    trial_dirname_creator=lambda trial: trial.config["key"],
                ),
                run_config=tune.RunConfig(
                    name="run",
                    storage_path=str(scratch),
                    stop=_Stop(driver),
                    failure_config=tune.FailureConfig(max_failures=RETRIES),
                    callbacks=[watchdog],
                    verbose=0,
                ),
            )
            tuner.fit()
        if watchdog.failure is not None:
            raise watchdog.failure
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def resources(parallel: int, threads: int, gpus: int) -> dict[str, float]:
    """What a trial asks for: its cores, and of a GPU the part that lets `parallel` trials run at a time.

    Every trial is on one GPU: three trials on two GPUs have half of one each.
    """
    return {"cpu": threads} | ({"gpu": 1 / math.ceil(parallel / gpus)} if gpus else {})


@contextlib.contextmanager
def _cluster(cpus: int, address: str | None) -> Iterator[None]:
    """A running Ray; one that was there before is left running. Ray's and Tune's own messages are kept quiet."""
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    with contextlib.ExitStack() as held:
        if not ray.is_initialized():
            # "local": without an address Ray would join any cluster that left its address in /tmp
            size = {} if address else {"num_cpus": cpus, "include_dashboard": False}
            told = held.enter_context(reaped()) if not address else None
            held.callback(ray.shutdown)
            try:
                ray.init(address or "local", log_to_driver=False, logging_level=logging.CRITICAL, **size)
            except (ConnectionError, ValueError, RuntimeError) as error:
                what = f"Ray cluster {address} cannot be reached" if address else "Ray cannot be started"
                raise RunError(f"{what}: {error}", hint="check the address, or use --executor inline") from error
            if told is not None:
                told(ray.get_runtime_context().get_session_name())
        yield


class _Trainable(tune.Trainable):  # type: ignore[misc]
    """An actor that runs one attempt after another.

    It imports torch in its first step, not on its way up: Tune gives the trial of an actor that is still starting to
    the first one that is free, and throws the new one away. With a slow start, short trials would all run on one
    worker.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self._job = Job.model_validate_json(config["job"])
        self._attempt: Attempt | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        from miras_search.sweep.attempt import Attempt

        if self._attempt is None:
            self._attempt = Attempt(self._job)
        event = self._attempt.step(SLICE)
        if event.kind == "end":
            self._attempt.close()
        record = event.record.model_dump_json() if event.record is not None else ""
        progress = json.dumps(event.progress)
        node = ray.get_runtime_context().get_node_id()
        return {"kind": event.kind, "progress": progress, "record": record, "done": event.kind == "end", "node": node}

    def cleanup(self) -> None:
        if self._attempt is not None:
            self._attempt.close()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the attempt writes its own."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: the attempt reads its own."""


def _event(result: dict[str, Any]) -> Event:
    from miras_search.trial import Progress

    record = Record.model_validate_json(result["record"]) if result["record"] else None
    return Event(result["kind"], Progress(*json.loads(result["progress"])), record)


class _Unsaved:
    """Tune saves its searcher now and then; ours holds a run's folder and has nothing to save."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Watchdog(_Unsaved, tune.Callback):  # type: ignore[misc]
    """Looks at the clock between Tune's events and at what its workers died of."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.jobs: dict[str, Job] = {}
        self.failure: BaseException | None = None
        self._until: dict[str, float] = {}
        self._nodes: dict[str, str] = {}

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Keeps what our side raises, to be raised from `run` as it is: Tune would make a text of it."""
        try:
            yield
        except BaseException as error:
            self.failure = self.failure or error
            raise

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        self._limit(trial, STARTUP)

    def on_trial_result(self, iteration: int, trials: list[Trial], trial: Trial, result: Any, **_: Any) -> None:
        self._nodes[trial.config["key"]] = result["node"]
        if result["training_iteration"] == 1:
            self._limit(trial, 0.0)

    def _limit(self, trial: Trial, more: float) -> None:
        job = self.jobs[trial.config["key"]]
        if job.timeout is not None:
            self._until[job.key] = time.monotonic() + job.timeout + GRACE + more

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        with self.guard():
            key = trial.config["key"]
            status, cause = _post_mortem(trial, self._nodes.get(key, ""))
            if status == "oom":
                self.driver.on_crash(key, status, cause)
            else:
                self.driver.on_lost(key, status, cause)
            self._until.pop(key, None)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        with self.guard():
            key = trial.config["key"]
            self.driver.on_crash(key, *_post_mortem(trial, self._nodes.get(key, "")))

    def on_step_end(self, iteration: int, trials: list[Trial], **_: Any) -> None:
        with self.guard():
            self.driver.on_tick()
            for trial in trials:
                job = self.jobs.get(trial.config["key"])
                if trial.status != Trial.RUNNING or job is None:
                    continue
                if time.monotonic() > self._until.get(job.key, math.inf):
                    # the row first: the retry that Tune will make finds it and ends at once
                    self._until.pop(job.key)
                    self.driver.on_crash(job.key, "timeout", f"hung: killed, not done after {job.timeout:g} s")
                    if trial.temporary_state.ray_actor is not None:
                        ray.kill(trial.temporary_state.ray_actor)


class _Searcher(_Unsaved, Searcher):  # type: ignore[misc]
    """Hands out jobs, as many at a time as the sweep allows."""

    def __init__(self, driver: Driver, watchdog: _Watchdog) -> None:
        super().__init__()
        self.driver, self.watchdog = driver, watchdog
        self._jobs: dict[str, Job] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        with self.watchdog.guard():
            if self.driver.interrupted or self.driver.finished:
                return str(Searcher.FINISHED)
            if len(self._jobs) >= self.driver.parallel:
                return None
            job = self.driver.next_job()
            if job is None:
                return str(Searcher.FINISHED) if self.driver.finished else None
            self._jobs[trial_id] = self.watchdog.jobs[job.key] = job
            return {"key": job.key, "job": job.model_dump_json()}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        job = self._jobs.pop(trial_id, None)
        if job is not None and result and result.get("kind") == "end":
            with self.watchdog.guard():
                self.driver.on_end(job.key, _event(result))

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        pass


class _Scheduler(_Unsaved, FIFOScheduler):  # type: ignore[misc]
    """First come, first served; stops at a rung what the driver stops."""

    def __init__(self, driver: Driver, watchdog: _Watchdog) -> None:
        super().__init__()
        self.driver, self.watchdog = driver, watchdog

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        with self.watchdog.guard():
            event, key = _event(result), trial.config["key"]
            if event.kind == "rung":
                return str(TrialScheduler.CONTINUE if self.driver.on_rung(key, event) else TrialScheduler.STOP)
            self.driver.on_progress(key, event.progress)
            return str(TrialScheduler.CONTINUE)


class _Stop(_Unsaved, Stopper):  # type: ignore[misc]
    """Ends the experiment when the user asks for it."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.driver.interrupted


def _post_mortem(trial: Trial, node: str) -> tuple[Status, str]:
    """What a worker on a node was lost to: `oom`, `node_lost` or `crashed`, and one line of Ray's account.

    The node is lost if Ray says so, or if neither it nor the worker answers: a worker's death is reported by its node.
    """
    text, error = "", None
    if trial.pickled_error_file and Path(trial.pickled_error_file).exists():
        error = ray.cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
        text = str(error)
    elif trial.error_file and Path(trial.error_file).exists():
        text = Path(trial.error_file).read_text(encoding="utf-8", errors="replace")
    cause = " ".join(text.split())[:300] or "the worker is gone"
    if isinstance(error, OutOfMemoryError) or "OutOfMemoryError" in text:
        return "oom", cause
    words = ("node died", "node has died", "NodeDiedError", "node was terminated")
    gone = isinstance(error, ActorUnavailableError) or any(word in text for word in words)
    gone = gone or any(known["NodeID"] == node and not known["Alive"] for known in ray.nodes())
    return ("node_lost" if gone else "crashed"), cause
