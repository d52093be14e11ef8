"""Text tasks: tokenizers, sources, splits without overlap, exact bits per byte, and every way a file can be wrong."""

import itertools
import json
import math
import sys
import tracemalloc
import types

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from miras_search.errors import MissingExtra, TaskError
from miras_search.tasks import IGNORE, Text, sources, store
from miras_search.tasks import files as files_module
from miras_search.tasks.base import batches_hash
from miras_search.tasks.files import Piece, read
from miras_search.tasks.sources import SPLITS, complete
from miras_search.tasks.tokenizer import END, END_TEXT, byte_tokenizer, train_bpe

WORDS = ["river", "stone", "café", "naïve", "Ω", "the", "of", "12", "🙂", "memory,", "learns.\n", "\tx = y\n\n"]


def prose(seed, words):
    rng = np.random.default_rng(seed)
    return " ".join(f"{WORDS[i]}{rng.integers(1000)}" for i in rng.integers(0, len(WORDS), words))


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(prose(0, 4000).encode())
    return path


def tokens_of(path):
    return Text(source=str(path), context=16).prepare()


def refusal(**fields):
    with pytest.raises(TaskError) as error:
        Text(**fields).prepare()
    assert error.value.hint
    return error.value


# tokenizers


@given(text=st.text(max_size=200))
@settings(max_examples=200)
def test_bytes_are_a_token_each_and_round_trip(text):
    tokenizer = BYTES
    data = text.encode()
    ids = tokenizer.encode(data)
    assert len(ids) == len(data)
    assert tokenizer.decode(ids.tolist()) == text
    assert END not in ids
    assert tokenizer._fast.encode(text).ids == ids.tolist()  # what the export's file says


@given(text=st.text(max_size=200) | st.lists(st.sampled_from([*WORDS, END_TEXT, " "]), max_size=20).map("".join))
@settings(max_examples=200)
def test_bpe_round_trips_and_counts_bytes(text):
    ids = BPE.encode(text.encode())
    assert BPE.decode(ids.tolist()) == text
    assert BPE.lengths[ids].sum() == len(text.encode())
    assert END not in ids


BYTES = byte_tokenizer()
BPE = train_bpe([prose(1, 3000).encode()], 400)


def test_the_tokenizer_file_stands_alone():
    from tokenizers import Tokenizer

    for ours in (BYTES, BPE):
        theirs = Tokenizer.from_str(ours.json)
        assert theirs.get_vocab_size() == ours.vocab == len(ours.table)
        assert theirs.token_to_id(END_TEXT) == END
        text = "naïve memory 🙂\n"
        assert theirs.encode(text).ids == ours.encode(text.encode()).tolist()
        assert theirs.decode(theirs.encode(text + END_TEXT).ids) == text
    assert BYTES.vocab == Text().vocab == 257
    assert sorted(BYTES.table[1:]) == [bytes([b]) for b in range(256)]
    assert BYTES.decode(BYTES.encode("é".encode())[:1].tolist()) == "\ufffd"


def test_bpe_is_reproducible_and_refuses_too_little_text():
    assert train_bpe([prose(1, 3000).encode()], 400).json == BPE.json
    with pytest.raises(TaskError, match="too short for a BPE of 400") as error:
        train_bpe([b"ab ab ab"], 400)
    assert "bpe_vocab: 2" in error.value.hint


def test_bpe_sees_the_training_part_only(tmp_path):
    (tmp_path / "train.txt").write_text(prose(1, 3000))
    (tmp_path / "test.txt").write_text("zyzzyva " * 500)
    task = Text(source=str(tmp_path / "train.txt"), test=str(tmp_path / "test.txt"), tokenizer="bpe", bpe_vocab=400)
    data = task.prepare()
    assert data.vocab == task.vocab == 400
    parts = sources.files(task.source, None, task.test, "text", 0.1).open()
    assert data.tokenizer_json == train_bpe([p.text for p in parts["train"]()], 400).json
    assert "zyzzyva" not in data.tokenizer_json


def of_others(folder, end="</s>", normalizer=None):
    """A byte-level tokenizer as others make them: its end is not id 0, and its post-processor adds tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    fast = Tokenizer(models.BPE())
    fast.pre_tokenizer, fast.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    fast.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<pad>", "<s>", end],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    fast.train_from_iterator([prose(2, 2000)], trainer)
    fast.post_processor = processors.TemplateProcessing(single=f"<s> $A {end}", special_tokens=[("<s>", 1), (end, 2)])
    folder.mkdir()
    fast.save(str(folder / "tokenizer.json"))
    return folder


def test_any_hugging_face_tokenizer_that_keeps_the_text(text_file, tmp_path):
    from tokenizers import normalizers

    folder = of_others(tmp_path / "theirs")
    task = Text(source=str(text_file), tokenizer=str(folder), context=16)
    data = task.prepare(tmp_path / "cache")
    assert data.vocab == task.vocab == 330
    assert data.end == 2
    assert data.tokenizer_json == (folder / "tokenizer.json").read_text()
    ids = data.part("train")
    assert ids[0] == 2
    assert 1 not in ids
    assert (ids == 2).sum() == 1
    text = text_file.read_text()
    assert text.startswith(data.decode(ids.tolist()))
    assert data.totals().lengths[ids.astype(np.int64)].sum() == len(data.decode(ids.tolist()).encode())
    for bad, message in (
        (of_others(tmp_path / "lossy", normalizer=normalizers.Lowercase()), "changes the text"),
        (of_others(tmp_path / "endless", end="<over>"), "no token that ends a document"),
        (tmp_path / "missing", "cannot be read"),
        (text_file, "is no tokenizer"),
    ):
        error = refusal(source=str(text_file), tokenizer=str(bad), context=16)
        assert message in str(error)


def test_context_gain_is_early_less_late(text_file):
    task = Text(source=str(text_file), context=32, batch=4)
    data = task.prepare()
    totals = data.totals()
    for batch in data.validation():
        nll = torch.full(batch.targets.shape, 2.0)
        nll[:, :4], nll[:, 16:] = 3.0, 1.0
        totals.add(nll, batch.targets, batch.targets)
    assert task.metrics_from(totals)["context_gain"] == pytest.approx(2.0 / math.log(2), rel=0.01)


# the parts


def windows(text):
    """A 64-bit hash of every window of 64 bytes, by doubling its length six times."""
    total = np.frombuffer(text, dtype=np.uint8).astype(np.uint64)
    for n in range(6):
        total = total[: -(2**n)] * np.uint64(0x9E3779B97F4A7C15 + 2 * n) + (
            total[2**n :] ^ (total[2**n :] >> np.uint64(29))
        )
    return total


def overlap(parts, split, step=1):
    """Fraction of every step-th 64-byte window of a part's documents that occurs in a training document."""
    texts = {s: [p.text for p in parts[s]()] for s in ("train", split)}
    seen, asked = (np.concatenate([windows(t) for t in texts[s] if len(t) >= 64]) for s in ("train", split))
    seen, asked = np.sort(seen), asked[::step]  # np.isin takes seconds for 8 million
    return (seen[np.searchsorted(seen, asked).clip(max=len(seen) - 1)] == asked).mean()


def test_windows_are_found_exactly():
    rng = np.random.default_rng(0)
    text = bytes(rng.integers(97, 99, 3000))
    parts = {"train": lambda: [Piece(text, True)], "test": lambda: [Piece(text[1000:1500] + b"c" + text[:200], True)]}
    # of 638 windows, the 64 that contain the c are new
    assert overlap(parts, "test") == (701 - 63 - 64) / (701 - 63)
    strings = {text[i : i + 64] for i in range(len(text) - 63)}
    assert len(set(windows(text).tolist())) == len(strings)


def test_python_docs_parts_share_next_to_nothing():
    """Measured with Python 3.11.7: .0001 and .0028; without deduplication by paragraph .11 to .55."""
    parts = sources.python_docs(0.1).open()
    assert overlap(parts, "validation") < 0.02
    assert overlap(parts, "test") < 0.02
    sizes = {split: sum(len(p.text) for p in parts[split]()) for split in SPLITS}
    assert 200_000 < sizes["train"] < 1_000_000
    for split in ("validation", "test"):
        assert sizes[split] == pytest.approx(0.1 * sum(sizes.values()), rel=0.06)


def test_python_source_parts_share_next_to_nothing():
    """Measured with Python 3.11.7: .010 and .010; with the generated tables left in, .04 and .12."""
    corpus = sources.python_source(0.1)
    parts = corpus.open()
    assert overlap(parts, "validation", 16) < 0.03
    assert overlap(parts, "test", 16) < 0.03
    assert sum(len(p.text) for p in parts["train"]()) > 5_000_000


def test_python_docs_is_the_same_every_time():
    data = Text().prepare()
    assert data.hashes == Text(context=64, batch=8).prepare().hashes
    assert data.hashes["python"] == ".".join(map(str, sys.version_info[:3]))
    assert len({data.hashes[s] for s in SPLITS}) == 3
    assert all(len(data.hashes[s]) == 16 for s in (*SPLITS, "tokenizer"))
    assert data.hashes["tokenizer"] == "f32f210307ba6c1d"


@given(
    texts=st.lists(st.text(st.sampled_from("aé€🙂\n"), min_size=1, max_size=400), min_size=1, max_size=6),
    holdout=st.floats(0.05, 0.45),
    own=st.sampled_from([(), ("test",), ("validation",)]),
)
@settings(max_examples=200)
def test_contiguous_parts_are_disjoint_and_in_order(texts, holdout, own):
    pieces = [Piece(text.encode(), n % 2 == 0) for n, text in enumerate(texts)]
    whole = b"".join(p.text for p in pieces)
    given_parts = {split: lambda: [Piece(b"own", True)] for split in own} | {"train": lambda: pieces}
    parts = complete(given_parts, holdout)
    assert set(parts) == set(SPLITS)
    position = 0
    cut = [split for split in SPLITS if split not in own]
    for split in cut:
        text = b"".join(p.text for p in parts[split]())
        text.decode()  # no character is torn
        if split != "train":
            assert len(text) == pytest.approx(holdout * len(whole), abs=8 + len(whole) / 50)
        at = whole.find(text, position)
        assert at >= position
        position = at + len(text)
    assert list(parts[cut[-1]]()) == list(parts[cut[-1]]())  # readable again
    for split in own:
        assert [p.text for p in parts[split]()] == [b"own"]


def test_a_margin_lies_between_contiguous_parts():
    text = bytes(range(1, 127)) * 1600
    parts = complete({"train": lambda: [Piece(text, True)]}, 0.1)
    sizes = [sum(len(p.text) for p in parts[s]()) for s in SPLITS]
    assert sizes == [161280 - 1024, 20160 - 1024, 20160]


def test_rows_are_stretches_of_their_own_part(text_file):
    task = Text(source=str(text_file), context=24, batch=5, eval_tokens=240)
    data = task.prepare()
    parts = {
        s: b"".join(p.text for p in complete({"train": lambda: read([text_file], "text")}, 0.1)[s]()) for s in SPLITS
    }
    starts = set()
    for batch in itertools.islice(data.train(3), 40):
        assert batch.inputs.shape == batch.targets.shape == (5, 24)
        assert batch.inputs.dtype == batch.targets.dtype == torch.int64
        assert batch.reset is None
        assert batch.inputs[:, 1:].equal(batch.targets[:, :-1])
        for row in batch.inputs:
            text = BYTES.decode(row.tolist()).strip("\ufffd")
            assert text.encode() in parts["train"]
            starts.add(row.numpy().tobytes())
    assert len(starts) > 190
    for split in ("validation", "test"):
        batches = getattr(data, split)()
        rows = torch.cat([b.inputs for b in batches])
        assert rows.shape == (10, 24)
        # 10 rows, spread: the last one begins in the last tenth
        ids = BYTES.encode(parts[split]).tolist()
        found = [next(i for i in range(0, len(ids), 24) if ids[i : i + 24] == row.tolist()) for row in rows]
        assert found == sorted(set(found))
        assert found[-1] > 0.85 * len(ids)
        assert batches_hash(batches) == batches_hash(getattr(data, split)())


def test_evaluation_takes_all_rows_of_a_short_part(text_file):
    data = Text(source=str(text_file), context=32, batch=7).prepare()
    rows = torch.cat([b.inputs for b in data.test()])
    assert len(rows) == (data.tokens("test") - 1) // 32
    ids = data.encode(text_file.read_text())
    assert rows.flatten().tolist() == ids[-data.tokens("test") :][: rows.numel()]


def test_text_batches_are_pinned(tmp_path):
    path = tmp_path / "t.txt"
    path.write_bytes(bytes(32 + (i * i + i // 7) % 90 for i in range(40000)))
    data = Text(source=str(path), context=64, batch=4).prepare()
    assert data.hashes == PINNED["hashes"]
    assert batches_hash(itertools.islice(data.train(0), 2)) == PINNED["train 0"]
    assert batches_hash(itertools.islice(data.train(1), 2)) == PINNED["train 1"]
    assert batches_hash(data.validation()) == PINNED["validation"]
    assert batches_hash(data.test()) == PINNED["test"]


def test_a_text_stream_resumes_exactly(text_file):
    data = tokens_of(text_file)
    stream = data.train(11)
    for _ in range(7):
        next(stream)
    state = json.loads(json.dumps(stream.state()))
    other = tokens_of(text_file).train(11)
    other.seek(state)
    assert next(stream).inputs.equal(next(other).inputs)
    assert not next(data.train(12)).inputs.equal(next(data.train(11)).inputs)


def test_documents_are_separated_reset_and_not_scored(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps({"body": f"document {n}. " * 3}) + "\n" for n in range(400)))
    data = Text(source=str(path), text_field="body", context=64, reset=True).prepare()
    batch = next(data.train(0))
    assert batch.reset is not None
    assert batch.reset.dtype == torch.bool
    assert batch.reset.equal(batch.inputs == data.end)
    assert 1 < batch.reset.float().sum() / 32 < 3  # a document has 44 to 47 tokens with its mark
    assert (batch.targets == data.end).any()
    for fixed in data.test():
        inside = fixed.targets[:, :-1]
        assert (inside == IGNORE).equal(fixed.inputs[:, 1:] == data.end)
    assert data.decode(batch.inputs[0].tolist()).count("document") >= 3
    assert END_TEXT not in data.decode(batch.inputs[0].tolist())


# metrics


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe"])
def test_bits_per_byte_count_the_bytes_of_the_predicted_text(text_file, tokenizer):
    task = Text(source=str(text_file), context=32, batch=3, tokenizer=tokenizer, bpe_vocab=500)
    data = task.prepare()
    totals = data.totals()
    rng = np.random.default_rng(0)
    nats = late_nats = 0.0
    size = late_size = 0
    for batch in data.validation():
        nll = rng.random(batch.targets.shape)
        totals.add(torch.from_numpy(nll), torch.zeros_like(batch.targets), batch.targets)
        for row, losses in zip(batch.targets.tolist(), nll, strict=True):
            length = [len(data._store.tokenizer.table[t]) for t in row]
            nats, size = nats + losses.sum(), size + sum(length)
            late_nats, late_size = late_nats + losses[16:].sum(), late_size + sum(length[16:])
    metrics = task.metrics_from(totals)
    assert list(metrics) == [m.name for m in task.metrics]
    assert metrics["bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-12)
    assert metrics["late_bits_per_byte"] == pytest.approx(late_nats / math.log(2) / late_size, rel=1e-12)
    assert metrics["perplexity"] == pytest.approx(math.exp(nats / totals.count), rel=1e-12)
    if tokenizer == "bytes":
        assert totals.bytes == totals.count


def test_metrics_of_a_diverged_model_are_no_error():
    task = Text()
    for nll in (math.nan, math.inf, 1e9):
        metrics = task.metrics_from(type(Text().prepare().totals())(count=1, nll=nll, bytes=1))
        assert not metrics["perplexity"] < 1e300
    assert math.isnan(task.metrics_from(Text().prepare().totals())["bits_per_byte"])


# the cache


def test_the_cache_changes_nothing_and_is_used(text_file, tmp_path, monkeypatch):
    task = Text(source=str(text_file), context=16)
    cache = tmp_path / "deep" / "cache"
    plain, cached = task.prepare(), task.prepare(cache)
    assert plain.hashes == cached.hashes
    assert next(plain.train(0)).inputs.equal(next(cached.train(0)).inputs)
    assert isinstance(cached._store.ids["train"], np.memmap)
    assert len(list(cache.iterdir())) == 1

    def never(*_):
        raise AssertionError("read again")

    monkeypatch.setattr(store, "_build", never)
    longer = Text(source=str(text_file), context=64, batch=2).prepare(cache)  # neither context nor batch matter
    assert longer.hashes == plain.hashes
    with pytest.raises(AssertionError, match="read again"):
        Text(source=str(text_file), holdout=0.2).prepare(cache)


def test_the_cache_follows_the_file_and_survives_damage(text_file, tmp_path):
    cache = tmp_path / "cache"
    task = Text(source=str(text_file), context=16)
    before = task.prepare(cache).hashes
    text_file.write_bytes(prose(5, 4100).encode())
    after = task.prepare(cache)
    assert after.hashes != before
    for damage in ("train.bin", "manifest.json", "tokenizer.json"):
        for folder in cache.iterdir():
            (folder / damage).write_bytes(b"{")
        again = task.prepare(cache)
        assert again.hashes == after.hashes
        assert batches_hash(again.test()) == batches_hash(after.test())


def test_two_processes_may_fill_the_cache_at_once(text_file, tmp_path, monkeypatch):
    task, cache, build = Text(source=str(text_file), context=16), tmp_path / "cache", store._build

    def slow(*args):
        monkeypatch.setattr(store, "_build", build)
        task.prepare(cache)  # the other process finishes while this one is at work
        build(*args)

    monkeypatch.setattr(store, "_build", slow)
    assert task.prepare(cache).hashes == task.prepare(cache).hashes
    assert [p.name[:5] for p in cache.iterdir()] == ["text-"]


def test_a_cache_that_cannot_be_written_is_refused(text_file, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TaskError, match="cache cannot be written") as error:
        Text(source=str(text_file), context=16).prepare(tmp_path / "file")
    assert error.value.where == str(tmp_path / "file")


def test_a_large_file_is_read_in_constant_memory(tmp_path, monkeypatch):
    path = tmp_path / "large.txt"
    path.write_bytes(prose(2, 500).encode() * 1500)
    assert path.stat().st_size > 6e6
    monkeypatch.setattr(files_module, "BLOCK", 1 << 15)
    tracemalloc.start()
    try:
        data = Text(source=str(path)).prepare(tmp_path / "cache")
        next(data.train(0))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3e6


# formats


def test_formats_hold_the_same_documents(tmp_path):
    texts = [prose(n, 60) for n in range(20)]
    (tmp_path / "many").mkdir()
    for n, text in enumerate(texts):
        (tmp_path / "many" / f"{n:02}.txt").write_bytes(text.encode())
    (tmp_path / "many" / "empty.txt").touch()
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": t, "n": 1}) for t in texts) + "\n\n")
    pq.write_table(pa.table({"text": [*texts, None, ""]}), tmp_path / "a.parquet")
    hashes = [
        Text(source=str(tmp_path / name), context=16).prepare().hashes
        for name in ("many/*.txt", "a.jsonl", "a.parquet")
    ]
    assert hashes[0] == hashes[1] == hashes[2]


@pytest.mark.parametrize("block", [1, 2, 3, 7])
def test_blocks_do_not_tear_characters(tmp_path, monkeypatch, block):
    monkeypatch.setattr(files_module, "BLOCK", block)
    path = tmp_path / "t.txt"
    path.write_bytes("aé€🙂\n".encode() * 3)
    pieces = list(read([path], "text"))
    assert b"".join(p.text for p in pieces) == path.read_bytes()
    assert [p.start for p in pieces] == [True] + [False] * (len(pieces) - 1)
    for piece in pieces:
        piece.text.decode()


def test_own_validation_and_test_files(tmp_path):
    for name, seed in (("a", 0), ("b", 1), ("c", 2)):
        (tmp_path / f"{name}.txt").write_bytes(prose(seed, 500).encode())
    data = Text(
        source=str(tmp_path / "a.txt"), validation=str(tmp_path / "b.txt"), test=str(tmp_path / "c.txt"), context=16
    ).prepare()
    for split, name in zip(SPLITS, "abc", strict=True):
        assert data.tokens(split) == 1 + (tmp_path / f"{name}.txt").stat().st_size


# what can be wrong


def test_missing_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = refusal(source="nowhere.txt")
    assert "no such file: 'nowhere.txt'" in str(error)
    assert str(tmp_path) in error.hint
    assert "no file matches" in str(refusal(source=f"{tmp_path}/*.txt"))
    assert f"{tmp_path}/**/*.txt" in refusal(source=str(tmp_path)).hint
    (tmp_path / "a.txt").write_text(prose(0, 500))
    assert "test: no such file" in str(refusal(source="a.txt", test="b.txt"))


def test_empty_short_and_equal_files(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("")
    assert "is empty" in str(refusal(source=str(path)))
    path.write_text("one line\n")
    error = refusal(source=str(path))
    assert "train part has 8 tokens" in str(error)
    assert "context: 7 or less" in error.hint
    assert error.where == str(path)
    path.write_text(prose(0, 500))
    (tmp_path / "short.txt").write_text("short")
    error = refusal(source=str(path), test=str(tmp_path / "short.txt"))
    assert "test part has 6 tokens; a row of context 256 needs 257" in str(error)
    assert error.where == str(tmp_path / "short.txt")
    assert "is in train and in test" in str(refusal(source=str(path), test=f"{tmp_path}/*.txt"))
    (tmp_path / "copy.txt").write_text(prose(1, 500))
    (tmp_path / "again.txt").write_text(prose(1, 500))
    error = refusal(source=str(path), validation=str(tmp_path / "copy.txt"), test=str(tmp_path / "again.txt"))
    assert "validation and test are the same text" in str(error)


@pytest.mark.parametrize("lead", [0, 10, 70])
def test_binary_and_badly_encoded_files(tmp_path, monkeypatch, lead):
    monkeypatch.setattr(files_module, "BLOCK", 16)
    path = tmp_path / "t.txt"
    path.write_bytes(b"x" * lead + "é".encode("latin-1") + b" more text")
    error = refusal(source=str(path))
    assert error.where == str(path)
    assert f"byte 0xe9 at offset {lead}" in str(error)
    assert "iconv" in error.hint
    path.write_bytes(b"x" * lead + "€".encode()[:2])
    assert f"byte 0xe2 at offset {lead}" in str(refusal(source=str(path)))
    path.write_bytes(b"x" * lead + b"\x00\x01\x02")
    assert "binary file" in str(refusal(source=str(path)))


def test_bad_json_lines(tmp_path):
    path = tmp_path / "t.jsonl"
    cases = {
        '{"text": "a"}\n{"text": \n': (":2", "is not JSON"),
        '\n{"body": "a", "id": 1}\n': (":2", "no text in field 'text'"),
        '["a"]\n': (":1", "no text in field 'text'"),
        '{"text": 3}\n': (":1", "no text in field 'text'"),
        '{"text": "\\ud83d"}\n': (":1", "lone surrogate"),
    }
    for content, (line, message) in cases.items():
        path.write_text(content)
        error = refusal(source=str(path))
        assert error.where == f"{path}{line}"
        assert message in str(error)
    path.write_text('{"body": "a", "id": 1}\n')
    assert "body, id" in refusal(source=str(path)).hint
    path.write_bytes(b'{"text": "\xe9"}\n')
    assert "is not JSON" in str(refusal(source=str(path)))


def test_bad_parquet(tmp_path):
    path = tmp_path / "t.parquet"
    path.write_bytes(b"PAR1 is not enough")
    assert "is not a Parquet file" in str(refusal(source=str(path)))
    pq.write_table(pa.table({"body": ["a"], "id": [1]}), path)
    assert "body, id" in refusal(source=str(path)).hint
    assert "holds int64" in str(refusal(source=str(path), text_field="id"))


def test_fields_that_do_not_apply_are_refused():
    for fields in ({"subset": "x"}, {"revision": "x"}, {"test": "a.txt"}, {"validation": "a.txt"}):
        with pytest.raises(ValidationError, match="leave it out"):
            Text(**fields)
    with pytest.raises(ValidationError, match="brings its own split"):
        Text(source="hf:x", test="a.txt")
    for fields in ({"context": 1}, {"holdout": 0.5}, {"bpe_vocab": 257}, {"source": ""}):
        with pytest.raises(ValidationError):
            Text(**fields)


# Hugging Face


def stub(monkeypatch, load):
    module = types.ModuleType("datasets")
    module.load_dataset = load
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_hub_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match="datasets is not installed") as error:
        Text(source="hf:some/text").prepare()
    assert "miras-search[hf]" in error.value.hint


def test_hub_out_of_reach_or_unknown(monkeypatch):
    def offline(*_, **__):
        raise ConnectionError("Couldn't reach 'some/text' on the Hub (OfflineModeIsEnabled)\nmore")

    stub(monkeypatch, offline)
    error = refusal(source="hf:some/text")
    assert error.where == "hf:some/text"
    assert "OfflineModeIsEnabled)\n  go online once" in str(error)

    def unknown(*_, **__):
        raise FileNotFoundError("Dataset 'some/text' doesn't exist")

    stub(monkeypatch, unknown)
    assert "FileNotFoundError: Dataset 'some/text'" in str(refusal(source="hf:some/text"))
    stub(monkeypatch, lambda *_, **__: {"dev": None})
    assert "found: dev" in refusal(source="hf:some/text").hint


def test_hub_data_sets_from_a_local_folder(tmp_path, monkeypatch):
    """The real library, offline: a folder of files is loaded as one of the hub would be."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "home")
    folder = tmp_path / "data"
    folder.mkdir()
    texts = {"train": [prose(n, 60) for n in range(20)], "test": [prose(100 + n, 60) for n in range(4)]}
    for split, rows in texts.items():
        pq.write_table(pa.table({"text": rows}), folder / f"{split}.parquet")
    data = Text(source=f"hf:{folder}", context=16).prepare()
    own = Text(source=str(folder / "train.parquet"), test=str(folder / "test.parquet"), context=16).prepare()
    assert data.hashes == own.hashes
    assert "found: ['text']" in refusal(source=f"hf:{folder}", text_field="body").hint


PINNED = {
    "hashes": {
        "train": "b06c4e235229fc3b",
        "validation": "d74c0196af3de174",
        "test": "1bc1fba6a55241e0",
        "tokenizer": "f32f210307ba6c1d",
    },
    "train 0": "52492dcfe037a8dd",
    "train 1": "9ec23cc92d310453",
    "validation": "46ad2f0d7d987741",
    "test": "9ef9dc668c28a1bd",
}
