"""Where spaces are found: a path, or the name of one that comes with the package."""

from __future__ import annotations

from pathlib import Path

from miras_search.errors import SpaceError
from miras_search.space.marks import nearest


def shipped() -> dict[str, Path]:
    """The spaces that come with the package, by name: from the wheel, or from the checkout."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "spaces", package.parent / "spaces"):
        found = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
        if found:
            return found
    return {}


def find(path: str | Path) -> Path:
    """The file that a path or the name of a shipped space means.

    Raises:
        SpaceError: if there is none.
    """
    given = Path(path).expanduser()
    try:
        if given.is_dir():
            files = sorted(p.name for p in given.glob("*.y*ml"))
            hint = f"name a file in it: {', '.join(files[:5])}" if files else "it holds no YAML file"
            raise SpaceError("is a folder, not a space", where=str(path), hint=hint)
        if given.exists():
            return given
    except OSError as error:
        raise SpaceError(f"cannot be read: {error.strerror}", where=str(path)) from None
    known = shipped()
    if str(path) in known:
        return known[str(path)]
    if given.suffix in (".yaml", ".yml") or len(given.parts) > 1:
        siblings = [p.name for p in given.parent.glob("*.y*ml")] if given.parent.is_dir() else []
        near = nearest(given.name, siblings)
        hint = near if near.startswith("did you mean") else f"shipped spaces: {', '.join(known)}"
        raise SpaceError("no such file", where=str(path), hint=hint)
    raise SpaceError(f"no space is named {str(path)!r}", hint=f"{nearest(path, known)}, or give a path to a YAML file")


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        SpaceError: if it cannot be read, is too large for a space, or is not UTF-8 text.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SpaceError(f"cannot be read: {error.strerror}", where=str(path)) from None
    if b"\0" in data:
        what = f"is a binary file (byte 0 at offset {data.index(0)})"
        raise SpaceError(what, where=str(path), hint="a space is YAML text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        what = f"is not UTF-8 text (byte {data[error.start]:#04x} at offset {error.start})"
        raise SpaceError(what, where=str(path), hint="save it as UTF-8") from None
