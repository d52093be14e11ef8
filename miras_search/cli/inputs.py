"""What a user names on the command line: a design, a run, a file to write. Imports no torch."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from miras_search import named
from miras_search.candidate import Backbone, Candidate, Part
from miras_search.choice import variants
from miras_search.design import Design
from miras_search.errors import DesignError, RunError, SpaceError
from miras_search.ledger import Record
from miras_search.runs import RunFolder
from miras_search.space import Space
from miras_search.space.domain import Middle, Struct
from miras_search.space.grammar import parse_fields
from miras_search.space.marks import Problems, Source, nearest, read
from miras_search.space.near import Near, near_space
from miras_search.space.near import near as near_design
from miras_search.space.shipped import read_text, shipped

RUNS = Path("runs")
"""Where runs are, under the current folder."""


def run_folder(run: str) -> RunFolder:
    """A run by its path, or by its name under `runs/`.

    Raises:
        RunError: if there is none; says which is nearest.
    """
    given = Path(run)
    return RunFolder.open(given if given.exists() or len(given.parts) > 1 else RUNS / run)


def new_run(name: str) -> Path:
    """The folder of a run to be made.

    Raises:
        RunError: if the name is no plain word.
    """
    if Path(name).name != name or name.startswith("."):
        raise RunError(
            f"{name!r} cannot be the name of a run", hint="use a plain word; it becomes a folder under runs/"
        )
    return RUNS / name


def space_of(run: RunFolder) -> Space:
    """The space that a run was made from.

    Raises:
        SpaceError: if it cannot be read, such as for a variant of a plug-in that is not loaded.
    """
    return Space.from_text(run.space_yaml, str(run.path / "space.yaml"))


def data_cache() -> Path:
    """Where prepared data are kept."""
    from miras_search import op

    return op.cache_folder() / "data"


FORMATS = {".csv": "csv", ".json": "json", ".parquet": "parquet", ".md": "markdown", ".txt": "table", ".db": "optuna"}


def table_format(given: str | None, out: Path | None) -> str:
    """How to write a table: as asked, else by the file's name, else as a table for the eye.

    Raises:
        RunError: if the file's name says nothing, or what is no text is to go to a screen.
    """
    if given is None and out is not None and out.suffix.lower() not in FORMATS:
        hint = f"end it in {', '.join(FORMATS)}, or say --format"
        raise RunError("the name does not say which format", where=str(out), hint=hint)
    kind = str(given) if given is not None else FORMATS[out.suffix.lower()] if out is not None else "table"
    if kind in ("parquet", "optuna") and out is None:
        raise RunError(
            f"{'Parquet' if kind == 'parquet' else 'a study of Optuna'} is no text", hint="name a file with -o"
        )
    return kind


def trial(run: RunFolder, key: str) -> Record:
    """The last row of a trial.

    Args:
        run: where to look.
        key: the trial's key, or the first digits of it.

    Raises:
        RunError: if no trial, or more than one, has it.
    """
    rows = {record.key: record for record in run.ledger.rows()}
    found = [record for record in rows.values() if key and record.key.startswith(key)]
    if len(found) == 1:
        return found[0]
    if not rows:
        raise RunError("no trial has ended yet", where=str(run.path), hint="wait for the first")
    some = ", ".join(record.key for record in (found or list(rows.values()))[:4])
    what = f"{len(found)} trials have a key that starts with" if found else "no trial has the key"
    raise RunError(f"{what} {key!r}", where=str(run.path), hint=f"keys of this run: {some}" + ", ..." * (len(rows) > 4))


def design(given: str) -> Design:
    """A design by its published name, from a YAML file, or as `RUN:KEY` that of a trial.

    Args:
        given: `yaad`, `my.yaml`, or `quickstart:3f2a` with a trial's key, a candidate's or a design's fingerprint.

    Raises:
        DesignError: if no design has that name, or it is a hybrid's.
        SpaceError: if the file is no design; with file:line:column.
        RunError: if there is no such run, or nothing in it of that key.
    """
    return named.get(given) if given in named.MODELS else composition(given)[0]


def composition(given: str) -> tuple[Design, tuple[Part, ...]]:
    """A design as above, and the pattern of the layers: that of a hybrid's name, or of a trial.

    Raises:
        DesignError, SpaceError, RunError: likewise.
    """
    if given in named.MODELS:
        return named.composition(given)
    path = Path(given).expanduser()
    if path.suffix in (".yaml", ".yml") or path.exists():
        return _from_file(path, given), ("design",)
    run, colon, key = given.rpartition(":")
    if colon:
        return _of_trial(run_folder(run), key)
    hint = nearest(given, named.MODELS)
    if not hint.startswith("did you mean"):
        hint = "see `miras-search designs`, or give a YAML file, or RUN:KEY"
    raise DesignError(f"no design is named {given!r}", hint=hint)


def candidate(given: str, overrides: Sequence[str]) -> Candidate:
    """A design, or a hybrid, in a model of a size.

    Args:
        given: as for `design`.
        overrides: `PATH=VALUE` as in a space, `backbone.width=512`.

    Raises:
        DesignError, SpaceError, RunError: likewise; also for a path that is neither of the design nor of the backbone.
    """
    what, pattern = composition(given)
    backbone = Backbone(layers=max(Backbone.model_fields["layers"].default, len(pattern)), pattern=pattern)
    text = {
        "design": what.model_dump(mode="json"),
        "backbone": backbone.model_dump(mode="json"),
        "task": "mqar",
        "budget": {"tokens": 1},
    }
    space = Space.from_text(json.dumps(text), "explain", overrides)
    axis = next(iter(space.axes()), None)
    if axis is not None:
        raise SpaceError(f"{axis.path} is open: {axis}", where="--set", hint="give it one value")
    return space.candidate(space.draw(Middle()))


def near(given: str) -> list[Near]:
    """The published designs by their distance from a design, or from a space.

    Args:
        given: as for `design`; or a space, in YAML or shipped, whose open fields agree with whatever they allow.

    Raises:
        DesignError, SpaceError, RunError: likewise.
    """
    path = Path(given).expanduser()
    if given in shipped():
        return near_space(Space.load(given))
    if path.is_file() and path.suffix in (".yaml", ".yml"):
        root = read(Source(given, read_text(path)))
        if isinstance(root.value, dict) and {"tasks", "task"} & set(root.value):
            return near_space(Space.load(path))
    return near_design(design(given))


def _of_trial(run: RunFolder, key: str) -> tuple[Design, tuple[Part, ...]]:
    found: dict[Any, tuple[Design, tuple[Part, ...]]] = {}
    for record in run.ledger.rows():
        candidate = Candidate.model_validate(record.candidate)
        design, pattern = candidate.design, candidate.canonical().backbone.pattern
        if key and any(name.startswith(key) for name in (record.key, record.fingerprint, design.fingerprint)):
            found[design.fingerprint, pattern] = design, pattern
    if len(found) != 1:
        what = "no trial or design" if not found else f"{len(found)} designs:"
        hint = "see column `key` of `miras-search results`" if not found else "give more digits"
        raise RunError(f"{what} of key {key!r}", where=str(run.path), hint=hint)
    return next(iter(found.values()))


def _from_file(path: Path, shown: str) -> Design:
    """A design as `Design.to_yaml` writes it, or one that stands under `design:`."""
    if path.is_dir():
        raise SpaceError("is a folder, not a design", where=shown, hint="name a YAML file; of a run, RUN:KEY")
    text = read_text(path)
    wanted = "a design has memory:, bias:, retention: and algorithm:"
    if not text.strip():
        raise SpaceError("the file is empty", where=shown, hint=wanted)
    root, problems = read(Source(shown, text)), Problems()
    node = root.value["design"] if isinstance(root.value, dict) and "design" in root.value else root
    if isinstance(node.value, str) and node.value in named.NAMED:
        return named.get(node.value)
    if not isinstance(node.value, dict):
        problems.add(node.mark, "a design is a mapping, this is not", wanted)
        problems.check()
    domain = parse_fields(Design, node, "design", problems)
    problems.check()
    assert isinstance(domain, Struct)
    axis = next(domain.axes(""), None)
    if axis is not None:
        problems.add(
            node.name_mark, f"{axis.path} is open: {axis}", "give it one value, or search it: miras-search sweep"
        )
        problems.check()
    try:
        return Design.model_validate(domain.walk("", Middle(), {}))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        problems.add(node.name_mark, str(first.get("ctx", {}).get("error", first["msg"])))
        problems.check()
        raise AssertionError from error


def tasks() -> list[dict[str, Any]]:
    """Every task there is: kind, definition, metrics, what was published, and its fields with their defaults."""
    import miras_search.tasks  # noqa: F401  (registers the tasks)

    found = []
    for kind, cls in variants("task").items():
        entry: dict[str, Any] = {"kind": kind, "summary": cls.summary(), "definition": inspect.getdoc(cls) or ""}
        entry["metrics"] = [metric._asdict() for metric in getattr(cls, "metrics", ())]
        published = getattr(cls, "published", None)
        entry["published"] = None if published is None else published._asdict()
        entry["fields"] = {
            name: None if info.is_required() else info.default
            for name, info in cls.model_fields.items()
            if name not in ("kind", "name")
        }
        found.append(entry)
    return found
