"""Token ids of a corpus on disk: made once, in constant memory, and memory-mapped after that."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miras_search.errors import TaskError
from miras_search.tasks.files import Piece
from miras_search.tasks.sources import SPLITS, Corpus
from miras_search.tasks.tokenizer import Tokenizer, byte_tokenizer, read_tokenizer, train_bpe

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT = 1
"""Part of the cache key; raised when the same corpus would give other tokens."""


@dataclass(frozen=True)
class Store:
    """A tokenised corpus: ids by split (uint16 or uint32), the tokenizer, and sha256[:16] of each split's text."""

    ids: dict[str, NDArray[np.unsignedinteger[Any]]]
    tokenizer: Tokenizer
    hashes: dict[str, str]


def load(corpus: Corpus, how: int | str | None, cache: Path | None, name: str) -> Store:
    """The tokens of a corpus, from the cache if they are there.

    Args:
        corpus: what to read.
        how: size of a BPE trained on the training part; None for bytes; or the folder of a tokenizer.
        cache: folder to keep them in and map them from; None reads into memory and leaves nothing behind.
        name: of the source, for messages.

    Raises:
        TaskError: if the text cannot be read, two parts are equal, or the cache cannot be written.
    """
    given = read_tokenizer(how) if isinstance(how, str) else None
    if cache is None:
        with tempfile.TemporaryDirectory(prefix="miras-") as folder:
            _build(Path(folder), corpus, given, how, name)
            return _open(Path(folder), mapped=False)
    key = json.dumps([FORMAT, dict(corpus.identity), given.json if given else how], sort_keys=True)
    target = cache / f"text-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    try:
        if not _complete(target):
            cache.mkdir(parents=True, exist_ok=True)
            folder = tempfile.mkdtemp(prefix=".text-", dir=cache)
            try:
                _build(Path(folder), corpus, given, how, name)
                _publish(Path(folder), target)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        return _open(target, mapped=True)
    except OSError as error:
        raise TaskError(
            f"the cache cannot be written: {error.strerror or error}",
            where=str(cache),
            hint="free space, or check rights",
        ) from error


def _build(folder: Path, corpus: Corpus, given: Tokenizer | None, how: int | str | None, name: str) -> None:
    parts = corpus.open()
    tokenizer = given or byte_tokenizer()
    if isinstance(how, int):
        tokenizer = train_bpe((p.text for p in parts["train"]()), how)
    hashes, counts = {}, {}
    for split in SPLITS:
        hashes[split], counts[split] = _write(folder / f"{split}.bin", parts[split](), tokenizer)
    for one, other in combinations(SPLITS, 2):
        if hashes[one] == hashes[other] and counts[one]:
            raise TaskError(f"{one} and {other} are the same text", where=name, hint="give each part a text of its own")
    (folder / "tokenizer.json").write_text(tokenizer.json, encoding="utf-8")
    (folder / "manifest.json").write_text(json.dumps({"hashes": hashes, "tokens": counts}), encoding="utf-8")


def _write(path: Path, pieces: Iterable[Piece], tokenizer: Tokenizer) -> tuple[str, int]:
    import numpy as np

    kind = _dtype(tokenizer.vocab)
    digest, count = hashlib.sha256(), 0
    with path.open("wb") as file:
        for text, start in pieces:
            if start:
                digest.update(b"\xff")  # no byte of UTF-8
                file.write(np.array([tokenizer.end], dtype=kind).tobytes())
                count += 1
            digest.update(text)
            ids = tokenizer.encode(text)
            tokenizer.check(text, ids)
            file.write(ids.astype(kind).tobytes())
            count += len(ids)
    return digest.hexdigest()[:16], count


def _open(folder: Path, *, mapped: bool) -> Store:
    import numpy as np

    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer((folder / "tokenizer.json").read_text(encoding="utf-8"))
    kind = _dtype(tokenizer.vocab)
    ids: dict[str, NDArray[np.unsignedinteger[Any]]] = {}
    for split in SPLITS:
        path = folder / f"{split}.bin"
        # an empty file cannot be mapped
        ids[split] = np.memmap(path, kind, "r") if mapped and path.stat().st_size else np.fromfile(path, kind)
    return Store(ids, tokenizer, dict(manifest["hashes"]))


def _complete(folder: Path) -> bool:
    """All files are there in full; another process may be making them, but then they are not here yet."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        width = _dtype(Tokenizer((folder / "tokenizer.json").read_text(encoding="utf-8")).vocab).itemsize
        return all((folder / f"{s}.bin").stat().st_size == width * manifest["tokens"][s] for s in SPLITS)
    except Exception:  # not there, or damaged in whatever way: make it again
        return False


def _publish(folder: Path, target: Path) -> None:
    """Move into place in one step; if another process was faster, its files are the same."""
    try:
        folder.rename(target)
    except OSError:
        if not _complete(target):
            shutil.rmtree(target)
            folder.rename(target)


def _dtype(vocab: int) -> np.dtype[Any]:
    import numpy as np

    return np.dtype("<u2" if vocab <= 1 << 16 else "<u4")
