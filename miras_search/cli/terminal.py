"""Between the verbs and the terminal: shared options, messages, and every way in which a command can end.

0; 1: an error inside miras-search, a trial that failed, or one that is not the same again; 2: input that is wrong;
130: Ctrl-C. Wrong input is one message without a traceback; that of an error inside goes to a file.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from miras_search import __version__, disk
from miras_search.errors import MirasError

PROGRAM = "miras-search"
INTERRUPTED = 130
# click's bases of errors in a command line, wherever typer keeps them
Misused: type[typer.BadParameter] = typer.BadParameter.__mro__[1]
_Refusal: type[typer.BadParameter] = typer.BadParameter.__mro__[2]


@dataclass
class State:
    """What the verbs share: the command line as typed, and the plug-ins loaded so far."""

    command: str = PROGRAM
    plugins: list[Path] = field(default_factory=list)


class Format(StrEnum):
    """How `results` writes a table."""

    table = "table"
    csv = "csv"
    json = "json"
    parquet = "parquet"
    markdown = "markdown"
    optuna = "optuna"


class Executor(StrEnum):
    """Where the trials of a sweep run."""

    ray = "ray"
    inline = "inline"


def _load_plugins(ctx: typer.Context, files: list[Path]) -> list[Path]:
    """Load them as soon as they are read, before a verb asks what variants there are."""
    if files and not ctx.resilient_parsing:
        from miras_search import plugin

        for file in files:
            plugin.load(file)
        ctx.find_object(State).plugins.extend(files)  # type: ignore[union-attr]
    return files


def show_version(wanted: bool) -> None:
    """Print the version and end."""
    if wanted:
        print(__version__)
        raise typer.Exit


Json = Annotated[bool, typer.Option("--json", help="Print data instead of a table.")]
Set = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        default_factory=list,
        show_default=False,
        help="Override a field; may be repeated.",
    ),
]
Plugins = Annotated[
    list[Path],
    typer.Option(
        "--plugin",
        metavar="FILE.py",
        callback=_load_plugins,
        default_factory=list,
        show_default=False,
        help="Your variants or tasks; may be repeated.",
    ),
]
SpaceName = Annotated[str, typer.Argument(metavar="SPACE", help="A YAML file, or the name of a shipped space.")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's name under ./runs, or its folder.")]
Runs = Annotated[list[str], typer.Argument(metavar="RUN...", help="Names under ./runs, folders, or Parquet files.")]


def print_json(value: Any) -> None:
    """Data on standard output."""
    print(json.dumps(value, indent=1, ensure_ascii=False, default=str))


def write(text: str, out: Path | None) -> None:
    """To a file, or to standard output."""
    if out is None:
        print(text, end="")
        return

    disk.write(out, text, "choose another with -o")
    say(f"written to {out}")


def stderr() -> Console:
    """Where messages and progress go."""
    return Console(stderr=True, markup=False, highlight=False, emoji=False)


def say(text: str) -> None:
    """A message on standard error."""
    stderr().print(text, soft_wrap=True)


def interrupted(what: str = "") -> int:
    """Say so; returns the exit code."""
    say(f"interrupted: {what}" if what else "interrupted")
    return INTERRUPTED


def _refuse(text: str) -> int:
    """What is wrong with the input; returns the exit code."""
    stderr().print(Text.assemble(("error: ", "bold red"), text), soft_wrap=True)
    return 2


def _internal(error: BaseException, debug: bool) -> int:
    """An error of ours: short, with the traceback in a file."""
    text = "".join(traceback.format_exception(error))
    short = f"{type(error).__name__}: {error}".splitlines()[0]
    if debug:
        where = text.rstrip()
    else:
        try:
            handle, file = tempfile.mkstemp(prefix="miras-search-", suffix=".txt")
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(f"{PROGRAM} {__version__}\n{text}")
            where = f"  the traceback is in {file}; --debug shows it here"
        except OSError:
            where = "  --debug shows the traceback"
    _refuse(f"inside miras-search: {short}\n{where}")
    return 1


def run(app: typer.Typer, args: Sequence[str]) -> int:
    """Carry out a command line; returns the exit code.

    Args:
        app: the verbs.
        args: without the program's name.
    """
    debug = "--debug" in args
    words = [arg for arg in args if arg != "--debug"]
    state = State(command=shlex.join([PROGRAM, *words]))
    command = typer.main.get_command(app)
    try:
        with command.make_context(PROGRAM, words or ["--help"], obj=state) as ctx:
            command.invoke(ctx)
        sys.stdout.flush()
    except typer.Exit as stop:
        return stop.exit_code
    except _Refusal as error:
        verb = getattr(getattr(error, "ctx", None), "command_path", PROGRAM)
        return _refuse(f"{error.format_message().rstrip('.')}\n  see {verb} --help")
    except MirasError as error:
        if debug:
            say(traceback.format_exc())
        return _refuse(str(error)) and error.exit_code
    except KeyboardInterrupt:
        return interrupted()
    except BrokenPipeError:  # the reader has enough: `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        return _internal(error, debug)
    return 0
