"""Ray's processes do not outlive a driver that was killed: a child of the driver waits for its end and kills what is left.

Of a Ray that this process starts. SIGKILL of the driver ends the raylet within seconds, but agents of Ray have been seen a
minute later, and a worker that hangs in its training ends with nobody. They are known by a variable of the environment
that all of them inherit and, since some write their title over it, by the files of Ray's session that they hold open. A
cluster that was there before is left alone.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator

TOKEN = "MIRAS_SEARCH_SESSION"

_REAPER = """
import os, signal, sys, time

token, driver = sys.argv[1].encode(), int(sys.argv[2])  # the driver holds files of the session open as well
session = sys.stdin.readline().strip()
sys.stdin.read()  # until the driver ends, however it ends

def link(path):
    try:
        return os.readlink(path)
    except OSError:  # closed in the meantime
        return ""

def mine(pid):
    with open(f"/proc/{pid}/environ", "rb") as file:
        if token in file.read().split(b"\\0"):
            return True
    files = f"/proc/{pid}/fd"
    return bool(session) and any(f"/{session}/" in link(f"{files}/{fd}") for fd in os.listdir(files))

until = time.monotonic() + 10
left = True
while left and time.monotonic() < until:
    left = False
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        try:
            if pid not in (driver, os.getpid()) and mine(pid):
                os.kill(pid, signal.SIGKILL)
                left = True
        except OSError:
            pass
    time.sleep(0.1)
"""


@contextlib.contextmanager
def reaped() -> Iterator[Callable[[str], None]]:
    """Processes that Ray starts inside are gone soon after the block, or this process, has ended. Linux alone.

    Gives a function that must be told the name of the session once Ray is up.
    """
    if sys.platform != "linux":
        yield lambda session: None
        return
    before = os.environ.get(TOKEN)
    os.environ[TOKEN] = token = secrets.token_hex(8)
    reaper = subprocess.Popen(
        [sys.executable, "-ISc", _REAPER, f"{TOKEN}={token}", str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is not for it
        env={},
        text=True,
    )
    assert reaper.stdin is not None

    def told(session: str) -> None:
        assert reaper.stdin is not None
        print(session, file=reaper.stdin, flush=True)

    try:
        yield told
    finally:
        if before is None:
            del os.environ[TOKEN]
        else:
            os.environ[TOKEN] = before
        reaper.stdin.close()
        reaper.wait()
