"""Where text comes from, and how it falls into train, validation and test without overlap."""

from __future__ import annotations

import hashlib
import platform
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

from miras_search.errors import MissingExtra, TaskError
from miras_search.tasks.files import Piece, expand, read

Pieces = Callable[[], Iterable[Piece]]
"""Reads the text from its beginning at every call."""

SPLITS = ("train", "validation", "test")
MARGIN = 1024
"""Bytes left out between contiguous parts, or 1 % of the text where that is less."""

_SALT = "0"  # the seed of the split by document; another one is another data set
_NO_SOURCE = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
_TABLES = {"encodings", "pydoc_data"}  # generated, and near copies of one another; the second is python-docs itself


@dataclass(frozen=True)
class Corpus:
    """A text and its three parts.

    `identity`: what the parts depend on, as JSON, known without reading; `open()` gives the parts; `facts` go into the
    record beside the hashes.
    """

    identity: Mapping[str, Any]
    open: Callable[[], dict[str, Pieces]]
    facts: Mapping[str, str] = field(default_factory=dict)


def python_docs(holdout: float) -> Corpus:
    """The help texts of the running Python, 79 topics, 374 KB in 3.11 once paragraphs that occur twice are left out.

    Topics quote each other at length: left as they are, 11 to 55 % of the 64-byte windows of held-out topics occur in
    training topics; as done here, 0.01 % (validation) and 0.28 % (test), with Python 3.11 and `holdout: 0.1`.
    """

    def documents() -> dict[str, str]:
        try:
            from pydoc_data.topics import topics
        except ImportError as error:
            raise TaskError(
                "this Python has no pydoc_data.topics", where="python-docs", hint="use source: python-source, or a file"
            ) from error
        return dict(topics)

    return _standard_library("python-docs", documents, holdout)


def python_source(holdout: float) -> Corpus:
    """The standard library's own .py files, without tests and generated tables: 605 files, 9.8 MB in 3.11.

    Paragraphs that occur twice are left out; about 1 % of the 64-byte windows of held-out files occur in training ones.
    """

    def documents() -> dict[str, str]:
        root = Path(sysconfig.get_paths()["stdlib"])
        found = {}
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root).parts
            if _NO_SOURCE.isdisjoint(parts) and parts[0] not in _TABLES:
                try:
                    found["/".join(parts)] = path.read_bytes().decode()
                except (UnicodeDecodeError, OSError):  # a few files declare another encoding
                    continue
        if not found:
            raise TaskError(f"no .py files in {root}", where="python-source", hint="use source: python-docs, or a file")
        return found

    return _standard_library("python-source", documents, holdout)


def files(source: str, validation: str | None, test: str | None, text_field: str, holdout: float) -> Corpus:
    """Files by path or glob. What has no files of its own is cut from the end of the training text.

    Raises:
        TaskError: if a path names nothing, or two parts share a file.
    """
    named = {"train": expand(source, "source")}
    if validation is not None:
        named["validation"] = expand(validation, "validation")
    if test is not None:
        named["test"] = expand(test, "test")
    for one, other in combinations(named, 2):
        shared = {path.resolve() for path in named[one]} & {path.resolve() for path in named[other]}
        if shared:
            raise TaskError(
                f"is in {one} and in {other}", where=str(min(shared)), hint="give each part files of its own"
            )

    def opened() -> dict[str, Pieces]:
        own: dict[str, Pieces] = {split: partial(read, paths, text_field) for split, paths in named.items()}
        return complete(own, holdout)

    stats = {
        split: [(str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for p in named[split]] for split in named
    }
    return Corpus({"files": stats, "text_field": text_field, "holdout": holdout}, opened)


def hugging_face(name: str, subset: str | None, revision: str | None, text_field: str, holdout: float) -> Corpus:
    """A data set of the Hugging Face hub, with its own splits where it has them."""

    def opened() -> dict[str, Pieces]:
        where = f"hf:{name}"
        try:
            import datasets
        except ImportError as error:
            raise MissingExtra("datasets", "hf") from error
        try:
            loaded = datasets.load_dataset(name, subset, revision=revision)
        except ConnectionError as error:
            raise TaskError(
                f"cannot be reached: {_first_line(error)}",
                where=where,
                hint="go online once to fill the cache under HF_HOME, or use python-docs or a file",
            ) from error
        except Exception as error:
            raise TaskError(
                f"cannot be loaded: {type(error).__name__}: {_first_line(error)}",
                where=where,
                hint="check the name, subset and revision",
            ) from error
        if "train" not in loaded:
            raise TaskError("has no split `train`", where=where, hint=f"found: {', '.join(map(str, loaded))}")

        def rows(split: str) -> Iterator[Piece]:
            table = loaded[split]
            if text_field not in table.column_names:
                raise TaskError(
                    f"has no column {text_field!r}", where=where, hint=f"set text_field; found: {table.column_names}"
                )
            for text in table.select_columns([text_field]):
                if text[text_field]:
                    yield Piece(str(text[text_field]).encode(errors="replace"), True)

        own: dict[str, Pieces] = {s: partial(rows, s) for s in SPLITS if s in loaded}
        return complete(own, holdout)

    identity = {"hf": name, "subset": subset, "revision": revision, "text_field": text_field, "holdout": holdout}
    return Corpus(identity, opened)


def complete(own: Mapping[str, Pieces], holdout: float) -> dict[str, Pieces]:
    """All three parts: missing ones are cut contiguously from the end of `own["train"]`, `holdout` of its bytes each.

    Between two parts `MARGIN` bytes belong to neither.
    """
    missing = [split for split in SPLITS if split not in own]
    if not missing:
        return dict(own)
    whole = own["train"]
    total = sum(len(piece.text) for piece in whole())
    margin = min(MARGIN, total // 100)
    # e.g. train, validation, test begin at 0, .8 and .9 of the bytes
    starts = [0, *(round(total * (1 - holdout * n)) for n in range(len(missing), 0, -1))]
    ends = [start - margin for start in starts[1:]] + [total]
    parts = dict(own)
    for split, start, end in zip(["train", *missing], starts, ends, strict=True):
        parts[split] = partial(_between, whole, start, end)
    return parts


def by_document(documents: Mapping[str, str], holdout: float) -> dict[str, Pieces]:
    """Whole documents fall to test, validation or train in an order given by their names, `holdout` of the bytes each.

    A paragraph that occurs in several documents, up to white space, stays in the first one by name.
    """
    seen: set[str] = set()
    kept: dict[str, bytes] = {}
    for name in sorted(documents):
        paragraphs = []
        for paragraph in documents[name].split("\n\n"):
            words = " ".join(paragraph.split())
            if words and words not in seen:
                seen.add(words)
                paragraphs.append(paragraph)
        if paragraphs:
            kept[name] = "\n\n".join(paragraphs).encode()
    size = holdout * sum(map(len, kept.values()))
    room = {"test": size, "validation": size}
    chosen: dict[str, list[bytes]] = {split: [] for split in SPLITS}
    for name in sorted(kept, key=lambda name: hashlib.sha256(f"{_SALT}:{name}".encode()).digest()):
        length = len(kept[name])
        split = next((split for split in room if length <= 1.05 * room[split]), "train")
        if split in room:
            room[split] -= length
        chosen[split].append(kept[name])
    return {split: partial(_whole, texts) for split, texts in chosen.items()}


def _standard_library(name: str, documents: Callable[[], dict[str, str]], holdout: float) -> Corpus:
    version = platform.python_version()
    identity = {"source": name, "python": version, "stdlib": sysconfig.get_paths()["stdlib"], "holdout": holdout}
    return Corpus(identity, lambda: by_document(documents(), holdout), {"python": version})


def _whole(texts: Iterable[bytes]) -> Iterator[Piece]:
    return (Piece(text, True) for text in texts)


def _between(pieces: Pieces, start: int, end: int) -> Iterator[Piece]:
    """The bytes [start, end) of a text, both ends moved on to the next character."""
    position = 0
    for text, begins in pieces():
        low, high = max(start - position, 0), min(end - position, len(text))
        position += len(text)
        if low < high:
            low, high = _character(text, low), _character(text, high)
            if low < high:
                yield Piece(text[low:high], begins and low == 0)


def _character(text: bytes, at: int) -> int:
    while at < len(text) and text[at] & 0xC0 == 0x80:
        at += 1
    return at


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
