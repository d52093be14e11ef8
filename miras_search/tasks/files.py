"""Text in files: plain text, JSON Lines, Parquet. Read in blocks; every fault names the file and the way out."""

from __future__ import annotations

import codecs
import glob
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from miras_search.errors import TaskError

BLOCK = 1 << 20
"""Bytes of a plain text read at once."""


class Piece(NamedTuple):
    """A stretch of one document: UTF-8, cut between characters; `start`: the document begins here."""

    text: bytes
    start: bool


def expand(pattern: str, field: str) -> list[Path]:
    """The files that a path or a glob names, sorted.

    Raises:
        TaskError: if there are none, or it is a folder.
    """
    path = Path(pattern).expanduser()
    try:
        if path.is_file():
            return [path]
        if path.is_dir():
            raise TaskError(
                f"{field}: {pattern} is a folder", where=str(path), hint=f"name its files, such as {path}/**/*.txt"
            )
        # Path.glob takes no absolute pattern
        found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207
        found = [name for name in found if name.is_file()]
    except OSError as error:
        raise TaskError(f"{field}: cannot be read: {error.strerror}", where=str(path)) from error
    if not found:
        what = "no file matches" if glob.has_magic(pattern) else "no such file"
        raise TaskError(
            f"{field}: {what}: {pattern!r}",
            where=str(path),
            hint=f"paths are relative to the current folder, {Path.cwd()}; "
            "texts that need no file: python-docs, python-source, hf:NAME",
        )
    return found


def read(paths: Sequence[Path], text_field: str) -> Iterator[Piece]:
    """The documents of the files: a plain text file is one, as is every record of a JSON Lines or Parquet file.

    Raises:
        TaskError: naming file, and line or byte, if one cannot be read or all are empty.
    """
    some = False
    for path in paths:
        reader = {".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _jsonl, ".parquet": _parquet}.get(path.suffix.lower())
        try:
            for piece in reader(path, text_field) if reader else _plain(path):
                if piece.text:
                    some = True
                    yield piece
        except OSError as error:
            raise TaskError(
                f"cannot be read: {error.strerror or error}", where=str(path), hint="check the path and its permissions"
            ) from error
    if not some:
        raise TaskError(
            "is empty" if len(paths) == 1 else f"all {len(paths)} files are empty",
            where=str(paths[0]),
            hint="name a file with text in it",
        )


def _plain(path: Path) -> Iterator[Piece]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    position, start = 0, True
    with path.open("rb") as file:
        while True:
            block = file.read(BLOCK)
            pending = len(decoder.getstate()[0])
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                byte = error.object[error.start]
                raise TaskError(
                    f"is not UTF-8 text: byte 0x{byte:02x} at offset {position - pending + error.start}",
                    where=str(path),
                    hint=f"if it is text, convert it, such as: iconv -f latin1 -t utf-8 {path} > text.txt",
                ) from error
            if (nul := text.find("\0")) >= 0:
                raise TaskError(
                    f"is a binary file: zero byte near offset {position + nul}",
                    where=str(path),
                    hint="name a text file (UTF-8), .jsonl or .parquet",
                )
            if text:
                yield Piece(text.encode(), start)
                start = False
            if not block:
                return
            position += len(block)


def _jsonl(path: Path, field: str) -> Iterator[Piece]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                record = json.loads(line)
            except ValueError as error:  # bad JSON and bad UTF-8 alike
                raise TaskError(
                    f"is not JSON: {error}", where=where, hint="a JSON Lines file has one JSON object a line, in UTF-8"
                ) from error
            if not isinstance(record, dict) or not isinstance(record.get(field), str):
                fields = ", ".join(map(str, record)) if isinstance(record, dict) else type(record).__name__
                raise TaskError(f"has no text in field {field!r}", where=where, hint=f"set text_field; found: {fields}")
            yield Piece(_utf8(record[field], where), True)


def _parquet(path: Path, field: str) -> Iterator[Piece]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if field not in names:
                raise TaskError(
                    f"has no column {field!r}", where=str(path), hint=f"set text_field; found: {', '.join(names)}"
                )
            kind = file.schema_arrow.field(field).type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                raise TaskError(
                    f"column {field!r} holds {kind}, not text",
                    where=str(path),
                    hint="set text_field to a string column",
                )
            row = 0
            for batch in file.iter_batches(batch_size=1024, columns=[field]):
                for text in batch.column(0).to_pylist():
                    row += 1
                    if text:
                        yield Piece(_utf8(text, f"{path}: row {row}"), True)
    except pa.ArrowInvalid as error:
        raise TaskError(
            f"is not a Parquet file: {str(error).splitlines()[0]}", where=str(path), hint="check or convert the file"
        ) from error


def _utf8(text: str, where: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:  # JSON may spell half a surrogate pair
        raise TaskError(
            f"holds the lone surrogate {text[error.start]!r}, which is no character",
            where=where,
            hint="repair the record",
        ) from error
