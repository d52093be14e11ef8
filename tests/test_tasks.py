"""Tasks: the base (streams, totals, names), and associative recall against an independent definition."""

import itertools
import math
import subprocess
import sys
from collections import Counter
from typing import Annotated

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from miras_search.choice import OneOf, variants
from miras_search.errors import TaskError
from miras_search.tasks import IGNORE, MadMemorization, Mqar, Task, Text, Totals, check_names
from miras_search.tasks.base import TEST, TRAIN, VALIDATION, batches_hash
from miras_search.tasks.draws import Draws


def take(stream, n):
    return list(itertools.islice(stream, n))


def rows_of(batches):
    return {row.numpy().tobytes() for batch in batches for row in batch.inputs}


specs = st.builds(
    lambda pairs, more, **fields: Mqar(pairs=pairs, keys=pairs + more, **fields),
    pairs=st.integers(1, 9),
    more=st.integers(0, 5),
    rewrites=st.integers(0, 9),
    values=st.integers(2, 12),
    gap=st.integers(0, 5),
    query=st.sampled_from(["filler", "answer", "dense"]),
    batch=st.integers(1, 6),
)


# the base


def test_specs_need_neither_torch_nor_numpy():
    code = (
        "import sys; from miras_search.tasks import Mqar, Text; Mqar().vocab; Text().model_json_schema();"
        "print([m for m in ('torch', 'numpy', 'tokenizers', 'datasets', 'pyarrow', 'ray') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_tasks_are_registered_with_docs():
    assert {"mqar", "text"} <= set(variants("task"))
    for cls in (Mqar, Text):
        assert issubclass(cls, Task)
        assert cls.summary()
        assert cls.model_json_schema()["additionalProperties"] is False
        assert len({m.name for m in cls.metrics}) == len(cls.metrics)


@pytest.mark.parametrize("cls", [Mqar, Text])
def test_name_is_the_kind_by_default(cls):
    kind = cls.variant()
    assert cls().name == kind
    assert cls(name="recall-2").name == "recall-2"
    assert cls.model_validate(cls(name="x").model_dump()) == cls(name="x")
    one_of = TypeAdapter(Annotated[Task, OneOf("task")])
    assert one_of.validate_python({"kind": kind}) == one_of.validate_python(kind) == cls()
    for bad in ("a.b", "2x", "a b"):  # a dot separates task and metric in an objective
        with pytest.raises(ValidationError):
            cls(name=bad)


def test_two_tasks_of_one_name_are_refused():
    check_names([Mqar(), Text(), Mqar(name="hard")])
    with pytest.raises(TaskError, match="'mqar'") as error:
        check_names([Mqar(), Mqar(pairs=4)])
    assert "name:" in (error.value.hint or "")


def test_specs_are_frozen_and_strict():
    with pytest.raises(ValidationError):
        Mqar().pairs = 3
    with pytest.raises(ValidationError):
        Mqar(piars=3)
    with pytest.raises(ValidationError, match="raise keys"):
        Mqar(pairs=33)
    with pytest.raises(ValidationError, match="lower batch"):
        Mqar(train=16)


@pytest.mark.parametrize(("task", "context"), [(Mqar(), 56), (Mqar(rewrites=0), 40), (Text(context=48), 48)])
def test_a_chunk_longer_than_a_row_is_refused(task, context):
    assert task.context == context
    assert task.tokens_per_step == 32 * context
    task.check_chunk(context)
    with pytest.raises(TaskError, match=f"{context} tokens, the design's chunk {context + 1}") as error:
        task.check_chunk(context + 1)
    assert f"chunk: {context}" in (error.value.hint or "")


def test_draws_are_pinned():
    assert [f"{w:016x}" for w in Draws(0, TRAIN, 0).raw(2)] == PINNED["words"][:2]
    assert [f"{w:016x}" for w in Draws(2**40, TEST, 123).raw(2)] == PINNED["words"][2:]


def test_streams_of_random_numbers_are_disjoint():
    words = [
        int(word)
        for seed in (0, 1, 2, 2**32, 2**32 + 1)
        for stream in (TRAIN, VALIDATION, TEST, 3)
        for step in (*range(20), 2**20)
        for word in Draws(seed, stream, step).raw(8)
    ]
    assert len(set(words)) == len(words)


@given(n=st.integers(1, 1000), rows=st.integers(1, 5))
def test_draws_are_in_range_and_orders_are_permutations(n, rows):
    draws = Draws(1, TRAIN, n)
    values = draws.below(n, rows, 20)
    assert values.min() >= 0
    assert values.max() < n
    assert (np.sort(draws.orders(rows, n), axis=1) == np.arange(n)).all()


@given(n=st.integers(1, 300), data=st.data(), rows=st.integers(1, 4), seed=st.integers(0, 99))
def test_draws_without_replacement_are_distinct_and_in_range(n, data, rows, seed):
    count = data.draw(st.integers(1, n))
    draws = Draws(seed, TRAIN, n)
    for found in (draws.distinct(n, count, rows), draws.weighted(np.arange(1.0, n + 1), count, rows)):
        assert found.shape == (rows, count)
        assert found.min() >= 0
        assert found.max() < n
        assert all(len(set(row)) == count for row in found.tolist())
    thrown = draws.thrown(n, count, rows)
    assert thrown.shape == (rows, count)
    assert (thrown.sum(1) == n).all()


def chi_square(rows, chances):
    """Of counts beside their expectation, by its standard deviation beyond its mean."""
    found = Counter(map(tuple, np.asarray(rows).tolist()))
    assert set(found) <= set(chances)
    assert sum(chances.values()) == pytest.approx(1)
    expected = {key: chance * len(rows) for key, chance in chances.items()}
    freedom = len(chances) - 1
    return (sum((found[key] - e) ** 2 / e for key, e in expected.items()) - freedom) / math.sqrt(2 * freedom)


def test_draws_have_the_distribution_they_name():
    draws, rows = Draws(7, TRAIN, 0), 40000
    assert chi_square(draws.few(5, rows, 2), dict.fromkeys(itertools.product(range(5), repeat=2), 1 / 25)) < 4
    assert (
        chi_square(draws.few(np.array([2, 3]), rows, 2), dict.fromkeys(itertools.product(range(2), range(3)), 1 / 6))
        < 4
    )
    triples = dict.fromkeys(itertools.permutations(range(13), 3), 1 / (13 * 12 * 11))
    assert chi_square(draws.distinct(13, 3, 4 * rows), triples) < 4
    weights = (4.0, 2.0, 1.0, 1.0)
    pairs = {(i, j): weights[i] / 8 * weights[j] / (8 - weights[i]) for i, j in itertools.permutations(range(4), 2)}
    assert chi_square(draws.weighted(np.array(weights), 2, rows), pairs) < 4
    for cells in (4, 3):
        of = Counter(tuple(ball.count(c) for c in range(cells)) for ball in itertools.product(range(cells), repeat=5))
        assert chi_square(draws.thrown(5, cells, rows), {key: n / cells**5 for key, n in of.items()}) < 4
    assert draws.thrown(200, 8, rows).var(axis=0) == pytest.approx(200 * 7 / 64, rel=0.05)


@given(data=st.data())
@settings(max_examples=50)
def test_totals_equal_sums_over_scored_positions(data):
    b, t, vocab = data.draw(st.integers(1, 4)), data.draw(st.integers(2, 7)), 5
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    lengths = rng.integers(0, 4, vocab)
    totals = Totals(lengths=torch.from_numpy(lengths))
    expected, shares, said = Counter(), [], [Counter() for _ in range(3)]
    for _ in range(2):
        targets = rng.integers(0, vocab, (b, t))
        targets[rng.random((b, t)) < 0.4] = IGNORE
        nll, predicted = rng.random((b, t)), rng.integers(0, vocab, (b, t))
        correct = predicted == targets
        for row, right in zip(targets, correct, strict=True):
            if (row != IGNORE).any():
                shares.append(right[row != IGNORE].mean())
        for i, j in itertools.product(range(b), range(t)):
            if targets[i, j] != IGNORE:
                size = lengths[targets[i, j]]
                expected.update(count=1, nll=nll[i, j], correct=int(correct[i, j]), bytes=size)
                for table, key in zip(said, (targets[i, j], predicted[i, j], targets[i, j]), strict=True):
                    table[int(key)] += 1 if table is not said[2] else int(correct[i, j])
                if j >= t // 2:
                    expected.update(late_count=1, late_nll=nll[i, j], late_bytes=size)
        nll[targets == IGNORE] = math.nan  # whatever a loss left there
        totals.add(torch.from_numpy(nll), torch.from_numpy(predicted), torch.from_numpy(targets))
    for name in ("count", "nll", "correct", "bytes", "late_count", "late_nll", "late_bytes"):
        assert getattr(totals, name) == pytest.approx(expected[name], abs=1e-12), name
    # per example, whole rows, and macro: a class that is only predicted counts 0
    asked, predicted_as, hits = said
    classes = [hits[c] / max(1, asked[c]) for c in range(vocab) if asked[c] or predicted_as[c]]
    for value, parts in (
        (totals.mean_row_accuracy, shares),
        (totals.exact_rows, [s == 1 for s in shares]),
        (totals.macro_accuracy, classes),
    ):
        assert value == pytest.approx(np.mean(parts), abs=1e-12) if parts else math.isnan(value)
    assert totals.at.sum(0).tolist() == pytest.approx([expected[n] for n in ("count", "nll", "correct", "bytes")])


def test_metrics_of_recall():
    task = Mqar()
    assert set(task.metrics_from(Totals(count=1))) == {m.name for m in task.metrics}
    found = task.metrics_from(Totals(count=100, nll=50.0, correct=95))
    assert (found["accuracy"], found["nll"], found["solved"]) == (0.95, 0.5, 1.0)
    assert task.metrics_from(Totals(count=100, nll=50.0, correct=94))["solved"] == 0.0
    empty = task.metrics_from(Totals())
    assert math.isnan(empty["accuracy"])
    assert empty["solved"] == 0.0
    assert task.metrics_from(Totals(count=2, nll=math.nan))["accuracy"] == 0.0


# recall


@given(task=specs, seed=st.integers(0, 2**40), step=st.integers(0, 10**6))
@settings(max_examples=150)
def test_labels_by_an_independent_reading_of_the_row(task, seed, step):
    """Reads the inputs alone, token by token, as a person would."""
    inputs, targets = task.draw(Draws(seed, TRAIN, step), task.batch)
    writes = task.pairs + task.rewrites
    assert inputs.shape == targets.shape == (task.batch, task.context)
    assert inputs.dtype == targets.dtype == np.int64

    def is_key(token):
        return 1 <= token <= task.keys

    def is_value(token):
        return task.keys < token < task.vocab

    for row, target in zip(inputs.tolist(), targets.tolist(), strict=True):
        memory, times = {}, Counter()
        for n in range(writes):
            key, value = row[2 * n], row[2 * n + 1]
            assert is_key(key)
            assert is_value(value)
            memory[key] = value
            times[key] += 1
        assert len(memory) == task.pairs
        assert times.total() == writes
        assert row[2 * writes : 2 * writes + task.gap] == [0] * task.gap
        expected = [IGNORE] * task.context
        asked, at = [], 2 * writes + task.gap
        while at < task.context:
            asked.append(row[at])
            expected[at] = memory[row[at]]
            if task.query != "dense":
                after = row[at + 1]
                assert is_value(after)
                assert task.query == "filler" or after == memory[row[at]]
                at += 1
            at += 1
        assert sorted(asked) == sorted(memory)
        assert target == expected


def test_no_shortcut_beats_chance():
    """Neither the commonest value, nor the first write, nor the filler, nor elimination gives the answer away."""
    task = Mqar(rewrites=0, values=16, pairs=8)
    inputs, targets = task.draw(Draws(5, TRAIN, 0), 20000)
    answers = targets[targets != IGNORE]
    values = answers - 1 - task.keys
    deviation = np.bincount(values, minlength=16) / len(values) - task.chance
    assert np.abs(deviation).max() < 5 * math.sqrt(task.chance / len(values))
    fillers = inputs[:, -2 * task.pairs + 1 :: 2]
    assert (fillers.ravel() == answers).mean() == pytest.approx(task.chance, abs=0.004)
    # with replacement: two answers of a row agree as often as chance says, so ruling out does not help
    pairwise = answers.reshape(-1, 8)
    assert (pairwise[:, 0] == pairwise[:, 1]).mean() == pytest.approx(task.chance, abs=0.01)


def test_rewrites_are_spread_and_matter():
    """A model blind to order is wrong whenever a key's last value is not its only one."""
    task = Mqar()
    inputs, targets = task.draw(Draws(0, TRAIN, 0), 5000)
    keys, values = inputs[:, 0:32:2], inputs[:, 1:32:2]
    queries, answers = inputs[:, 40::2], targets[:, 40::2]
    hits = keys[:, None, :] == queries[:, :, None]
    times = hits.sum(-1)
    # 1 + Binomial(8, 1/8) writes a key
    for n in range(4):
        expected = math.comb(8, n) * 0.125**n * 0.875 ** (8 - n)
        assert (times == n + 1).mean() == pytest.approx(expected, abs=0.01)
    first = np.take_along_axis(values, hits.argmax(-1), axis=1)
    assert (first == answers).mean() == pytest.approx(0.344 + 0.656 / 32, abs=0.01)


def test_batches_are_pinned():
    data = Mqar().prepare()
    assert data.hashes == PINNED["mqar"]
    assert batches_hash(take(data.train(7), 2)) == PINNED["mqar seed 7"]
    hard = Mqar(pairs=16, rewrites=4, keys=64, gap=0, query="dense", batch=8).prepare()
    assert batches_hash(take(hard.train(0), 2)) == PINNED["mqar dense"]


@given(task=specs, seed=st.integers(0, 1000), n=st.integers(0, 50))
@settings(max_examples=30)
def test_a_stream_resumes_exactly(task, seed, n):
    straight = task.prepare().train(seed)
    before = take(straight, n)
    state = straight.state()
    assert state == {"step": n}
    resumed = task.prepare().train(seed)
    resumed.seek(state)
    for one, other in zip(take(straight, 3), take(resumed, 3), strict=True):
        assert one.inputs.equal(other.inputs)
        assert one.targets.equal(other.targets)
    again = task.prepare().train(seed)
    assert batches_hash(before) == batches_hash(take(again, n))


def test_a_wrong_cursor_is_refused():
    stream = Mqar().prepare().train(0)
    for bad in ({}, {"step": -1}, {"step": "3"}):
        with pytest.raises(ValueError, match="not the state"):
            stream.seek(bad)


def test_train_validation_and_test_never_overlap():
    """4096 keys and values: two equal rows would be no coincidence."""
    data = Mqar(keys=4096, values=4096).prepare()
    validation, test = rows_of(data.validation()), rows_of(data.test())
    train = rows_of(batch for seed in range(4) for batch in take(data.train(seed), 50))
    assert len(validation) == 512
    assert len(test) == 1024
    assert len(train) == 4 * 50 * 32
    assert not validation & test
    assert not train & (validation | test)


def test_fixed_sets_depend_neither_on_batch_nor_on_training():
    reference = Mqar(validation=200, test=130).prepare()
    expected = torch.cat([b.inputs for b in reference.validation()])
    assert expected.shape == (200, 56)
    for fields in ({"batch": 7}, {"batch": 512}, {"train": 640}, {"validation": 300}):
        data = Mqar(**({"validation": 200, "test": 130} | fields)).prepare()
        batches = data.validation()
        assert all(len(b.inputs) <= data.batch for b in batches)
        assert torch.cat([b.inputs for b in batches])[:200].equal(expected)


def test_a_finite_training_set_is_revisited_in_new_orders():
    data = Mqar(train=5 * 32 + 7, keys=4096, values=4096).prepare()
    epochs = [[b.inputs.numpy().tobytes() for b in take_from(data, seed, 5 * e, 5)] for seed in (0, 1) for e in (0, 1)]
    assert all(len(set(epoch)) == 5 for epoch in epochs)
    assert len({frozenset(epoch) for epoch in epochs}) == 1
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_batches_drawn_together_are_those_of_any_other_order():
    """A finite set of two blocks and a bit: every row once an epoch, the same rows for every seed, whichever step comes first."""
    task = MadMemorization(train=0, batch=32, vocabulary=1024)
    assert task.together == 100
    task = task.model_copy(update={"train": 250 * 32})
    epochs = [rows_of(take_from(task.prepare(), seed, 250 * e, 250)) for seed in (0, 1) for e in (0, 2)]
    assert len(epochs[0]) == 250 * 32
    assert all(epoch == epochs[0] for epoch in epochs)
    straight = take(task.prepare().train(0), 250)
    stream = task.prepare().train(0)
    for step in (249, 0, 100, 99, 207):
        stream.seek({"step": step})
        assert next(stream).inputs.equal(straight[step].inputs)


def take_from(data, seed, start, n):
    stream = data.train(seed)
    stream.seek({"step": start})
    return take(stream, n)


def test_recall_is_shown_readably():
    data = Mqar(keys=4, values=4, pairs=2).prepare()
    assert data.decode([1, 5, 4, 8, 0, 4]) == "k0 v0 k3 v3 | k3"
    with pytest.raises(TaskError, match="no tokenizer"):
        data.encode("text")
    assert data.tokenizer_json is None


PINNED = {
    "words": ["90ac79b30468d47c", "ef788bcae8d45db2", "da1f52b73474a1d6", "3a01c9837a4b910b"],
    "mqar": {"train": "0736a98dde8c34d4", "validation": "96aa90d047f61777", "test": "9148f159c9a7f5b2"},
    "mqar seed 7": "278995263e7c59b8",
    "mqar dense": "040a59b57722f1d5",
}
