"""Runs as tidy tables: a row a trial, a row a logged step. Reads only; a sweep may go on writing meanwhile.

    frame = load_results("quickstart")          # runs/quickstart, a folder, or a Parquet file; or several
    query(frame, "bias == 'huber' and accuracy > 0.9", sort="-accuracy", columns=["label", "bias", "accuracy"])
    design_of(frame, "3f2a")

The four choices are columns of kinds (`memory`, `bias`, `retention`, `algorithm`), their parameters columns named by
path (`bias.p`, `backbone.width`, `optimiser.lr`), empty where a variant has no such field. Every metric is one column;
`task` says of which task. `DATA_DICTIONARY` gives meaning and unit. `frame.attrs["runs"]` holds per run what the report
tells of it: the space (YAML text), the environment, and the paths that were searched.

The ledger is parsed by Arrow; what Arrow cannot type is parsed line by line. A run that has come to its end keeps the table
beside its ledger as Parquet, which is read instead while it is of this very ledger (`benchmarks/results.py` has the times).
"""

from __future__ import annotations

import contextlib
import difflib
import io
import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.json as pa_json

from miras_search import disk
from miras_search.choice import variants
from miras_search.design import Design
from miras_search.errors import DesignError, RunError
from miras_search.ledger import LEDGER, SCHEMA_VERSION, parse
from miras_search.results.columns import CHOICES, FLOATS, GROUPS, INTEGERS, STRINGS, columns_of, order
from miras_search.runs import SPACE, RunFolder

RunLike = str | os.PathLike[str]

RESULTS = "results.parquet"
"""The trials of a run in its folder, as they stood when a sweep last came to its end; the ledger stays the truth."""
_STEPS = {"run": "str", "key": "str", "step": "int64", "tokens": "int64", "loss": "float64"}
_TYPES = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
_SPARE = ("schema_version", "rungs", "assignment", "candidate")


def load_results(*runs: RunLike) -> pd.DataFrame:
    """One row a trial (the last written of a key), typed, over any number of runs.

    Args:
        runs: a run's name under `runs/`, its folder, or a Parquet file of `write_parquet`; or a URL of a folder whose sweep
            has come to its end, or of such a file (`https://`; `s3://` and the like with fsspec's package for it).

    Raises:
        RunError: if a run is missing, has no trial yet, or is no ledger.
    """
    if not runs:
        raise RunError("no run is named", hint="name a run under runs/, its folder, or a Parquet file")
    frames = [_read_url(str(run)) if "://" in str(run) else _read(_locate(run)) for run in runs]
    about: dict[str, Any] = {}
    for frame in frames:
        about |= frame.attrs["runs"]
        frame.attrs = {}
    frame = frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)
    frame = frame[order(frame)]
    frame.attrs["runs"] = about
    return frame


def load_steps(*runs: RunLike) -> pd.DataFrame:
    """One row a logged step: `run`, `key` (joins with `load_results`), `step`, `tokens`, `loss` and the like.

    Of a Parquet file the steps are those of `NAME.steps.parquet` beside it; without one, and of a URL, there are none. Trials
    that are still running are included.

    Raises:
        RunError: if a run is missing.
    """
    frames = []
    for where in (_locate(run) for run in runs if "://" not in str(run)):
        if where.is_dir():
            frames.append(_steps_of(where))
        elif (beside := where.with_suffix(".steps.parquet")).is_file():
            frames.append(pd.read_parquet(beside))
    empty = pd.DataFrame({name: pd.Series(dtype=dtype) for name, dtype in _STEPS.items()})
    frames = [frame for frame in frames if not frame.empty]
    return pd.concat(frames, ignore_index=True) if frames else empty


def write_parquet(frame: pd.DataFrame, file: RunLike) -> Path:
    """Write a table of `load_results` or `load_steps`; what is in `attrs` travels with it.

    Written beside and renamed, so that a reader never meets half a file.

    Raises:
        RunError: if the file cannot be written.
    """
    path = Path(file)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with disk.replacing(path) as beside:
            frame.to_parquet(beside, index=False)
    except OSError as error:
        raise disk.unwritable(path, error, "choose a folder you may write to") from None
    return path


def keep_results(folder: Path) -> None:
    """Write `RESULTS` into the folder of a run; nothing, if it has no trial.

    Raises:
        RunError: if it cannot be written.
    """
    if not (frame := _read_folder(folder, kept=False)).empty:
        write_parquet(frame[order(frame)], folder / RESULTS)


def design_of(source: pd.DataFrame | RunLike, fingerprint: str) -> Design:
    """The design of a fingerprint, of which the first digits are enough.

    Raises:
        DesignError: if no trial or more than one candidate has it.
    """
    frame = source if isinstance(source, pd.DataFrame) else load_results(source)
    rows = frame[frame["fingerprint"].str.startswith(fingerprint, na=False)]
    found = rows["fingerprint"].unique()
    if len(found) != 1 or not fingerprint:
        near = difflib.get_close_matches(fingerprint, frame["fingerprint"].dropna().unique(), n=1)
        hint = f"did you mean {near[0]}?" if near else "see column `fingerprint`"
        raise DesignError(
            f"{len(found)} candidates have a fingerprint that starts with {fingerprint!r}",
            hint="give more digits" if len(found) > 1 else hint,
        )
    row = rows.iloc[0]
    block = {c.removeprefix("block."): _plain(row[c]) for c in columns_of(frame, "block") if pd.notna(row[c])}
    parts: dict[str, Any] = {"block": block}
    for role in CHOICES:
        cls = variants(role).get(str(row[role]))
        if cls is None:
            raise DesignError(f"{role} {row[role]!r} is not known here", hint="load the plug-in file that defines it")
        fields = {name: row[f"{role}.{name}"] for name in cls.model_fields if f"{role}.{name}" in frame}
        parts[role] = {"kind": row[role]} | {name: _plain(value) for name, value in fields.items() if pd.notna(value)}
    return Design.model_validate(parts)


def _locate(run: RunLike) -> Path:
    """The folder or Parquet file of a run.

    Raises:
        RunError: if there is none; says which is nearest.
    """
    given = Path(run)
    for path in (given, Path("runs") / given):
        if any((path / name).is_file() for name in (LEDGER, SPACE)) or (path.is_file() and path.suffix == ".parquet"):
            return path
    if given.is_dir() or (Path("runs") / given).is_dir():
        raise RunError(
            "holds no ledger.jsonl", where=str(run), hint="name the folder of a run, such as runs/quickstart"
        )
    known = sorted(p.parent.name for p in Path("runs").glob(f"*/{LEDGER}"))
    near = difflib.get_close_matches(given.name, known, n=1)
    hint = f"known runs: {', '.join(known)}" if known else "start one: miras-search sweep quickstart"
    hint = f"did you mean {near[0]!r}?" if near else hint
    raise RunError(f"there is no run {str(run)!r}", hint=hint)


def _read(where: Path) -> pd.DataFrame:
    frame = _read_parquet(where) if where.is_file() else _read_folder(where)
    if frame.empty:
        raise RunError("has no finished trial yet", where=str(where), hint="wait for the first, or start a sweep")
    return frame


def _read_url(url: str) -> pd.DataFrame:
    url = url if url.endswith(".parquet") else f"{url.rstrip('/')}/{RESULTS}"
    try:
        frame = pd.read_parquet(url)
    except (OSError, ImportError, ValueError, pa.ArrowException) as error:  # ValueError: of a protocol nobody knows
        hint = "name a Parquet file, or the folder of a run that has come to its end"
        if isinstance(error, ImportError):
            hint = f"pip install what reads {url.split('://')[0]}://, such as s3fs or gcsfs"
        raise RunError(f"cannot be read: {error}", where=url, hint=hint) from None
    return _checked(frame, url)


def _read_parquet(file: Path) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(file)
    except (OSError, pa.ArrowException) as error:
        raise RunError(
            f"is no Parquet file: {error}", where=str(file), hint="write one: miras-search results RUN"
        ) from None
    return _checked(frame, str(file))


def _checked(frame: pd.DataFrame, where: str) -> pd.DataFrame:
    if missing := [name for name in ("key", "status", "task") if name not in frame]:
        raise RunError(
            f"is no table of trials: no column {missing[0]!r}", where=where, hint="name one of write_parquet"
        )
    for name, usual in {"run": Path(where).stem, "how": "", "stage": "search", "reused": ""}.items():
        if name not in frame:  # written by an earlier version
            frame[name] = usual
    frame.attrs.setdefault("runs", {name: {} for name in frame["run"].unique()})
    return frame


def _kept(folder: Path, stamp: list[int]) -> pd.DataFrame | None:
    """The table that stands beside a ledger of this size and time; None if there is none of it."""
    with contextlib.suppress(RunError):
        if (folder / RESULTS).is_file():
            frame = _read_parquet(folder / RESULTS)
            about = frame.attrs["runs"].get(folder.resolve().name, {})
            if about.get("ledger") == stamp:
                frame.attrs["runs"] = {folder.resolve().name: _about(folder, about.get("axes", ()), stamp)}
                return frame
    return None


def _read_folder(folder: Path, *, kept: bool = True) -> pd.DataFrame:
    file = folder / LEDGER
    data, stamp = b"", [0, 0]  # a sweep that has only just begun
    if file.exists():
        at = file.stat()
        stamp = [at.st_size, at.st_mtime_ns]
        if kept and (frame := _kept(folder, stamp)) is not None:
            return frame
        data = file.read_bytes()
    data = data[: data.rfind(b"\n") + 1]  # a line without its end is still being written
    table = _arrow(data)
    raw: pd.DataFrame = _by_line(data, file) if table is None else table.to_pandas(types_mapper=_TYPES.get)
    axes = [c.removeprefix("assignment.") for c in map(str, raw) if c.startswith("assignment.")]
    frame = _typed(raw)
    frame = frame.drop_duplicates("key", keep="last", ignore_index=True)
    name = folder.resolve().name
    frame.insert(0, "run", pd.Series(name, index=frame.index, dtype="str"))
    frame.attrs["runs"] = {name: _about(folder, axes, stamp)}
    return frame


def _arrow(data: bytes) -> Any:
    """The ledger as a flat Arrow table; None if a column has no one type or a line is no record."""
    if not data:
        return pa.table({})
    try:
        source = io.BytesIO(data.replace(b':"NaN"', b":null"))  # as pydantic writes it
        table = pa_json.read_json(source, read_options=pa_json.ReadOptions(block_size=8 << 20))
    except pa.ArrowInvalid:
        return None
    needed = [table.column(name) for name in ("key", "status", "schema_version") if name in table.column_names]
    if len(needed) < 3 or any(c.null_count for c in needed) or set(needed[2].unique().to_pylist()) != {SCHEMA_VERSION}:
        return None
    table = table.drop_columns([name for name in ("rungs", "schema_version") if name in table.column_names])
    while any(pa.types.is_struct(field.type) for field in table.schema):
        table = table.flatten()
    return table.drop_columns([field.name for field in table.schema if pa.types.is_null(field.type)])


def _by_line(data: bytes, file: Path) -> pd.DataFrame:
    """The slow way: any value in any column, and an error that names the line."""
    lines = enumerate(data.splitlines(), 1)
    rows = [dict(_flat("", parse(line, f"{file}:{number}").model_dump(mode="json"))) for number, line in lines]
    return pd.DataFrame(rows, dtype=object).dropna(axis="columns", how="all")


def _flat(prefix: str, value: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, item in value.items():
        if isinstance(item, dict):
            yield from _flat(f"{prefix}{name}.", item)
        else:
            yield prefix + name, item


def _typed(raw: pd.DataFrame) -> pd.DataFrame:
    """Ledger paths -> column names, every column of one type, the fixed columns present."""
    renamed: dict[str, pd.Series[Any]] = {}
    fixed = {*INTEGERS, *FLOATS, *STRINGS, "time"}
    for path in map(str, raw):
        name = path.removeprefix("candidate.").removeprefix("design.").removesuffix(".kind")
        if path.startswith("metrics."):
            name = path.removeprefix("metrics.")
            name = path if name in fixed or name.split(".")[0] in GROUPS else name
        elif path.split(".")[0] in _SPARE and name == path:
            continue
        if name in FLOATS or path.startswith("metrics."):
            renamed[name] = pd.to_numeric(raw[path], errors="coerce").astype("float64")
        elif name == "time":
            renamed[name] = pd.to_datetime(raw[path], utc=True, format="ISO8601").astype("datetime64[us, UTC]")
        elif name in INTEGERS:
            renamed[name] = raw[path].astype("Int64")
        else:
            renamed[name] = _settle(raw[path], text=name in STRINGS)
    rows = raw.index
    for names, dtype in ((INTEGERS, "Int64"), (FLOATS, "float64"), (STRINGS, "str")):
        for name in names:
            if name not in renamed:
                renamed[name] = pd.Series(index=rows, dtype=dtype)
    renamed.setdefault("time", pd.Series(index=rows, dtype="datetime64[us, UTC]"))
    for name in ("label", "cause", "path_reason", "how", "reused"):
        renamed[name] = renamed[name].fillna("")
    renamed["stage"] = renamed["stage"].fillna("search")
    return pd.DataFrame(renamed)


def _settle(column: pd.Series[Any], *, text: bool) -> pd.Series[Any]:
    """An object column as booleans, integers, numbers or text; lists as JSON text."""
    if column.dtype != object:
        return column.astype("str") if text else column
    cells = [v.tolist() if isinstance(v, np.ndarray) else v for v in column]
    values = [json.dumps(v, default=list) if isinstance(v, list) else v for v in cells]
    values = [None if isinstance(v, float) and math.isnan(v) else v for v in values]
    kinds = {type(v) for v in values if v is not None}
    if kinds and not text:
        if kinds == {bool}:
            return pd.Series(values, index=column.index, dtype="boolean")
        if kinds == {int}:
            return pd.Series(values, index=column.index, dtype="Int64")
        if kinds & {int, float} and all(v.strip("-") in ("NaN", "Infinity") for v in values if isinstance(v, str)):
            numbers = [None if v is None else float(v) for v in values]
            return pd.Series(numbers, index=column.index, dtype="float64")
    texts = [v if v is None or isinstance(v, str) else str(v) for v in values]
    return pd.Series(texts, index=column.index, dtype="str")


def _about(folder: Path, axes: Iterable[str], stamp: list[int]) -> dict[str, Any]:
    about: dict[str, Any] = {"axes": sorted(axes), "ledger": stamp}
    run = RunFolder(folder)
    with contextlib.suppress(OSError):
        about["space"] = run.space_yaml
    return about | {"environment": run.environment}


def _steps_of(folder: Path) -> pd.DataFrame:
    """The logged steps of a run folder; of a file that is being written to, the whole lines."""
    parts = [(file.parent.name, file.read_bytes()) for file in sorted(folder.glob("trials/*/steps.jsonl"))]
    parts = [(key, data[: data.rfind(b"\n") + 1]) for key, data in parts]
    keys = [key for key, data in parts for _ in range(data.count(b"\n"))]
    frame: pd.DataFrame | None = None
    with contextlib.suppress(pa.ArrowInvalid):
        frame = pa_json.read_json(io.BytesIO(b"".join(data for _, data in parts))).to_pandas()
    if frame is None or len(frame) != len(keys):  # a torn line that a restart has appended to
        rows = [(key, row) for key, data in parts for line in data.splitlines() if (row := _row(line)) is not None]
        keys, frame = [key for key, _ in rows], pd.DataFrame([row for _, row in rows])
    frame.insert(0, "run", pd.Series(folder.resolve().name, index=frame.index, dtype="str"))
    frame.insert(1, "key", pd.Series(keys, index=frame.index, dtype="str"))
    return frame


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _plain(value: Any) -> Any:
    """A cell as a plain value; lists were kept as JSON."""
    value = value.item() if hasattr(value, "item") else value
    return json.loads(value) if isinstance(value, str) and value[:1] in ("[", "{") else value
