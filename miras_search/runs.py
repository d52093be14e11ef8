"""The folder of a run: what is in it, who may write to it, what it was made with.

    space.yaml         the space, as resolved; `--resume` reads this one
    environment.json   versions and machine, of the first session; `resumed` lists those of later ones
    ledger.jsonl       the truth (`miras_search.ledger`)
    lock               held (flock) by the driver while it lives; its content says who that is or was
    trials/KEY/        status.jsonl, steps.jsonl, checkpoint of a trial
    designs/           emitted source, by fingerprint
    results.parquet    the ledger as a table (`miras_search.results`), written when a sweep comes to its end

A folder is a run when it holds space.yaml. A run appears whole, by one rename, or not at all.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import fcntl
import importlib.metadata
import json
import os
import platform
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from miras_search import disk
from miras_search.errors import RunError
from miras_search.ledger import Ledger, now

SPACE, ENVIRONMENT, LOCK = "space.yaml", "environment.json", "lock"
PACKAGES = ("miras-search", "torch", "triton", "optuna", "pydantic", "ray", "numpy", "pandas", "pyarrow", "tokenizers")
_ELSEWHERE = "make the folder writable, or start in another one"
_PATIENCE = 0.5  # seconds; `driver` below holds the lock for microseconds


class RunFolder:
    """An existing run. Made by `create` or `open`; holds no lock until `lock` is entered.

    >>> run = RunFolder.create("runs/first", space.to_yaml())
    >>> with run.lock():
    ...     run.ledger.append(record)
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.ledger = Ledger(self.path)

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], space_yaml: str, *, about: Mapping[str, Any] | None = None
    ) -> RunFolder:
        """Make a new run; its parents too.

        Args:
            path: must not exist, or be an empty folder.
            space_yaml: content of space.yaml.
            about: more for environment.json (executor, command line).

        Raises:
            RunError: if something is there already, or the place cannot be written.
        """
        path = Path(path)
        beside = path.parent / f".{path.name}.{os.getpid()}.new"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside.mkdir()
        except OSError as error:
            raise disk.unwritable(path, error, _ELSEWHERE) from None
        try:
            disk.replace(beside / SPACE, space_yaml)
            disk.replace(beside / ENVIRONMENT, _json(environment() | dict(about or {})))
            (beside / "trials").mkdir()
            beside.rename(path)  # onto an empty folder too, but never onto one with content
        except OSError as error:
            shutil.rmtree(beside, ignore_errors=True)
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR) and path.exists():
                if (path / SPACE).exists():
                    hint = "continue it with --resume, or give the new run another --name"
                else:
                    hint = "it is no run and is left alone: give the run another --name"
                raise RunError("exists already", where=str(path), hint=hint) from None
            raise disk.unwritable(path, error, _ELSEWHERE) from None
        return cls(path)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunFolder:
        """An existing run, for reading or to be resumed.

        Raises:
            RunError: if there is none at `path`; says which is nearest.
        """
        path = Path(path)
        if (path / SPACE).is_file():
            return cls(path)
        if path.exists():
            raise RunError(f"is no run: it has no {SPACE}", where=str(path), hint=_near(path))
        raise RunError("there is no such run", where=str(path), hint=_near(path))

    @property
    def space_yaml(self) -> str:
        """Text of space.yaml."""
        return (self.path / SPACE).read_text(encoding="utf-8")

    @property
    def environment(self) -> dict[str, Any]:
        """What the run was made with, and under `resumed` the same for each later session; empty if unreadable."""
        try:
            found = json.loads((self.path / ENVIRONMENT).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def resumed(self, about: Mapping[str, Any] | None = None) -> None:
        """Note another session in environment.json. For the holder of the lock."""
        found = self.environment
        later = [*found.get("resumed", ()), environment() | dict(about or {})]
        self.write(ENVIRONMENT, _json(found | {"resumed": later}))

    def trial(self, key: str) -> Path:
        """Folder of a trial; not made here, since most readers only look."""
        return self.path / "trials" / key

    def write(self, name: str, text: str) -> Path:
        """Replace a file of the run: the old content or the new, never half of it.

        Raises:
            RunError: if it cannot be written.
        """
        return disk.write(self.path / name, text, _ELSEWHERE)

    def source(self, fingerprint: str) -> Path:
        """The emitted module of a design that was trained in this run."""
        return self.path / "designs" / f"{fingerprint}.py"

    def keep_source(self, fingerprint: str, text: str) -> None:
        """Write it, unless it is there."""
        if not self.source(fingerprint).exists():
            self.write(f"designs/{fingerprint}.py", text)

    @contextlib.contextmanager
    def lock(self) -> Iterator[RunFolder]:
        """Be the one driver of this run. The kernel frees the lock when the process ends, however it ends.

        A child made by fork without exec shares the lock and keeps it while it lives; children started by exec do not.

        Raises:
            RunError: if another driver has it, or the file system has no locks.
        """
        path = self.path / LOCK
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise disk.unwritable(path, error, _ELSEWHERE) from None
        try:
            _acquire(fd, path)
            who = {"pid": os.getpid(), "host": socket.gethostname(), "since": now()}
            with contextlib.suppress(OSError):  # only a message for others: a full disk must not stop a resume
                os.ftruncate(fd, 0)
                os.pwrite(fd, json.dumps(who).encode(), 0)
            yield self
        finally:
            self.ledger.close()
            os.close(fd)

    def driver(self) -> dict[str, Any] | None:
        """Who drives this run now (`pid`, `host`, `since`), or None; asks the kernel, not the clock."""
        path = self.path / LOCK
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _holder(path)
        except OSError:
            return None
        finally:
            os.close(fd)
        return None


def environment() -> dict[str, Any]:
    """This session: time (UTC), Python, platform, CPUs this process may use, versions of the packages that matter."""
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "time": now(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "packages": versions,
    }


def _acquire(fd: int, path: Path) -> None:
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > until:
                who = _holder(path)
                by = "process {pid} on {host} since {since}".format(**who) if who else "another process"
                raise RunError(
                    f"is being driven by {by}",
                    where=str(path.parent),
                    hint="wait until it ends, stop it, or give a new run another --name",
                ) from None
            time.sleep(0.05)
        except OSError as error:
            raise RunError(
                f"cannot be locked: {error.strerror}",
                where=str(path),
                hint="the file system has no flock: keep runs on a local disk",
            ) from None


def _holder(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # it has the lock and has not written its name yet
        return {}
    return found if isinstance(found, dict) and {"pid", "host", "since"} <= found.keys() else {}


def _near(path: Path) -> str:
    try:
        known = sorted(p.parent.name for p in path.parent.glob(f"*/{SPACE}"))
    except OSError:
        known = []
    near = difflib.get_close_matches(path.name, known, n=1)
    if near:
        return f"did you mean {path.parent / near[0]}?"
    if known:
        return f"runs in {path.parent}: {', '.join(known[:8])}" + (", ..." if len(known) > 8 else "")
    return f"{path.parent} holds no run: start one with miras-search sweep"


def _json(value: Any) -> str:
    return json.dumps(value, indent=1) + "\n"
