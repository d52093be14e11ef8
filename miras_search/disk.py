"""Files that survive a kill: replaced in one rename, or logs of JSON lines whose torn end readers ignore and the next writer ends."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from miras_search.errors import RunError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to: renamed over it when the block ends, removed when it raises."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


def replace(path: Path, content: bytes | str) -> None:
    """Replace a file: the old content or the new, never half of it; text as UTF-8.

    Raises:
        OSError: if it cannot be written; the old content is then untouched.
    """
    with replacing(path) as beside:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)


def write(path: Path, content: bytes | str, hint: str) -> Path:
    """`replace` for a file that a person asked for; its folder is made.

    Raises:
        RunError: if it cannot be written, with `hint` as the remedy.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, content)
    except OSError as error:
        raise unwritable(path, error, hint) from None
    return path


def unwritable(path: Path, error: OSError, hint: str) -> RunError:
    """The message for a file that cannot be written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    blocked = error.errno in (errno.EEXIST, errno.ENOTDIR)
    return RunError(
        f"cannot be written: {'a part of its path is a file' if blocked else error.strerror}",
        where=str(path),
        hint="free some space" if full else hint,
    )


def append(path: Path, line: dict[str, Any], *, sync: bool = False) -> None:
    """Add a line of JSON; `sync` waits for the disk."""
    with path.open("ab+") as file:
        torn = b""
        if file.tell():
            file.seek(-1, os.SEEK_END)
            torn = b"" if file.read(1) == b"\n" else b"\n"
        file.write(torn + json.dumps(line).encode() + b"\n")
        if sync:
            file.flush()
            os.fsync(file.fileno())


def lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a log; empty if there is no file."""
    if not path.exists():
        return []
    found = []
    for line in path.read_bytes().split(b"\n"):
        try:
            found.append(json.loads(line))
        except ValueError:  # torn
            continue
    return found


def keep(path: Path, wanted: Callable[[dict[str, Any]], bool]) -> None:
    """Drop the lines of a log that are not wanted, and a torn last one."""
    if path.exists():
        replace(path, b"".join(json.dumps(line).encode() + b"\n" for line in lines(path) if wanted(line)))
