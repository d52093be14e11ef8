"""Zoology's MQAR, needles, the procedural language and suites: labels by an independent reading, mixes and bytes as said."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from miras_search.candidate import Backbone, Candidate
from miras_search.errors import TaskError
from miras_search.named import get
from miras_search.space import Space
from miras_search.tasks import IGNORE, Copying, Mqar, MqarZoology, Niah, Parity, Procedural, Suite, Text, Totals
from miras_search.tasks.base import TRAIN, batches_hash
from miras_search.tasks.draws import Draws
from miras_search.tasks.niah import ADJECTIVES, NOUNS
from miras_search.trial import train

FEW = settings(max_examples=25, deadline=None)


# MQAR of Zoology


@FEW
@given(pairs=st.integers(1, 12), more=st.integers(0, 40), filler=st.booleans(), seed=st.integers(0, 99))
def test_rows_of_zoology(pairs, more, filler, seed):
    task = MqarZoology(length=max(8, 4 * pairs + 2 * more), pairs=pairs, vocabulary=64, filler=filler, train=0, batch=4)
    inputs, targets = task.draw(Draws(seed, TRAIN, 0), 4)
    assert inputs.shape == (4, task.context)
    for row, target in zip(inputs.tolist(), targets.tolist(), strict=True):
        memory = dict(zip(row[: 2 * pairs : 2], row[1 : 2 * pairs : 2], strict=True))
        assert len(memory) == len(set(memory.values())) == pairs
        assert all(1 <= k < 32 <= v < 64 for k, v in memory.items())
        asked = [t for t, label in enumerate(target) if label != IGNORE]
        assert sorted(row[t] for t in asked) == sorted(memory)
        assert all(t >= 2 * pairs and t % 2 == 0 and target[t] == memory[row[t]] for t in asked)
        rest = [token for t, token in enumerate(row) if t >= 2 * pairs and t not in asked]
        assert filler or set(rest) <= {0}


def test_gaps_follow_the_power_law():
    """The first query of a one-pair row: P(slot i) proportional to i^(a - 1)."""
    _, targets = MqarZoology(length=42, pairs=1, power=0.3, vocabulary=64).draw(Draws(0, TRAIN, 0), 20000)
    slots = (targets != IGNORE).argmax(1) // 2 - 1
    weights = np.arange(1, 21) ** -0.7
    assert np.abs(np.bincount(slots, minlength=20) / 20000 - weights / weights.sum()).max() < 0.012


def test_the_original_mix():
    task = MqarZoology(mix="original", batch=8)
    data = task.prepare()
    stream, lengths = data.train(0), Counter()
    for batch in itertools.islice(stream, 300):
        pairs = {int(n) for n in (batch.targets != IGNORE).sum(1)}
        assert len(pairs) == 1
        assert batch.inputs.shape == (8, 255)
        lengths[pairs.pop()] += 1
    assert lengths[4] / 300 == pytest.approx(100 / 180, abs=0.1)
    assert set(lengths) == {4, 8, 16, 32, 64}
    test = Counter()
    for batch in data.validation():
        for n in (batch.targets != IGNORE).sum(1).tolist():
            test[batch.inputs.shape[1] + 1, n] += 1
    assert test == dict.fromkeys(((64, 4), (64, 8), (64, 16), (128, 32), (256, 64), (512, 128), (1024, 256)), 1000)
    assert batches_hash([next(data.train(1))]) == PINNED["original"]
    paper = MqarZoology(mix="original", protocol="paper")
    assert (paper.primary.name, paper.compared_on, len(paper.grid())) == ("row_accuracy", "test", 4)
    with pytest.raises(ValidationError, match="even length of 80"):
        MqarZoology(pairs=20)


# the procedural language


@FEW
@given(
    names=st.integers(2, 9),
    hops=st.integers(2, 4),
    nesting=st.integers(1, 5),
    kinds=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_sentences_of_the_procedural_language(names, hops, nesting, kinds, seed):
    task = Procedural(names=names, questions=5, hops=hops, nesting=nesting, brackets=kinds, batch=3)
    inputs, targets = task.draw(Draws(seed, TRAIN, 0), 3)
    assert inputs.shape == (3, task.context)
    assert max(inputs.max(), targets.max()) < task.vocab
    for row, target in zip(inputs.tolist(), targets.tolist(), strict=True):
        assert row[1:] == target[:-1]
        text = " ".join(task.spell(token) for token in [*row, target[-1]])
        facts = dict(re.findall(r"n(\d+) > n(\d+)", text))
        assert len(facts) == names
        asked = re.findall(r"\? (\d+) n(\d+) n(\d+)", text)
        assert len(asked) == 5
        for n, (hop, start, answer) in enumerate(asked):
            assert int(hop) == 1 + n % hops
            for _ in range(int(hop)):
                start = facts[start]
            assert start == answer
        words = [w.split() for w in re.findall(r"n\d+ ((?:\(\d+ |\d+\) ?)+)", text + " ")]
        assert len(words) == names + 5
        for word in words:
            assert len(word) == 2 * nesting
            stack = []
            for sign in word:
                if sign[0] == "(":
                    stack.append(sign[1:])
                else:
                    assert stack.pop() == sign[:-1]
            assert not stack


def test_the_entropy_is_what_the_draws_have():
    """Balanced words of 3 pairs: 5 shapes, uniform; then the mean of -log p over a row is `entropy`."""
    task = Procedural(names=3, questions=2, hops=2, nesting=3, brackets=2)
    inputs, targets = task.draw(Draws(0, TRAIN, 0), 4000)
    words = Counter(map(tuple, inputs[:, 3:9].tolist()))
    assert len(words) == 5 * 2**3
    assert max(words.values()) / min(words.values()) < 1.9
    # 3 facts: 3! orders x 3^3 images, of which the first token is given; 2 questions; 5 clauses
    nats = math.log(6 * 27 / 3) + 2 * math.log(3) + 5 * math.log(5 * 8)
    assert task.entropy == pytest.approx(nats / task.context)
    # scores are read at the right places: a model that is right in answers alone
    totals = Totals()
    tokens = torch.from_numpy(targets[:50])
    start = 3 * 9
    answers = [start + 2, start + 10 + 2]
    predicted = torch.full_like(tokens, 0)
    predicted[:, answers[0]] = tokens[:, answers[0]]
    totals.add(torch.full(tokens.shape, 2.0), predicted, tokens)
    found = task.metrics_from(totals)
    assert (found["lookup"], found["multihop"], found["closing"]) == (1.0, 0.0, 0.0)
    assert found["excess"] == pytest.approx(2.0 - task.entropy)
    assert set(found) == {metric.name for metric in task.metrics}


# needles


@pytest.fixture(scope="module")
def essay(tmp_path_factory):
    path = tmp_path_factory.mktemp("essay") / "essay.txt"
    path.write_text("".join(f"Line {i} of an essay, with naïve words.\n" for i in range(600)))
    return path


PATTERNS = {"passkey": r"[1-9]\d{6}", "number": r"[1-9]\d{6}", "word": r"[a-z]{5}-[a-z]{5}"}
PATTERNS["uuid"] = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


@pytest.mark.parametrize("needle", PATTERNS)
def test_needles(needle, essay):
    assert len(set(ADJECTIVES)) == len(set(NOUNS)) == 64
    task = Niah(needle=needle, source=str(essay), context=420, batch=50, validation=130, test=40)
    data = task.prepare()
    text = essay.read_text()
    depths = []
    for n, batch in enumerate([next(data.train(0)), *data.validation()]):
        assert batch.inputs.shape[1] == task.context == 420
        for row, target in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
            whole = data.decode([*row, target[-1]])
            found = re.search(
                rf"^(.*?) One of the special magic \w+ for (\S+) is: ({PATTERNS[needle]})\. (.*)\nWhat is", whole, re.S
            )
            assert found
            before, key, value, after = found.groups()
            assert re.fullmatch("[a-z]{5}-[a-z]{5}", key)
            assert whole.endswith(f"for {key} mentioned in the provided text is: {value}")
            assert whole.count(value) == 2
            scored = [token for token in target if token != IGNORE]
            assert data.decode(scored) == value
            assert target[-len(scored) :] == scored
            if needle == "passkey":
                assert (before + after).startswith("The grass is green.")
            else:  # a character may be torn at the cuts
                assert before.strip("\ufffd") in text
                assert after.strip("\ufffd") in text
            if n:
                depths.append(len(before.encode().replace(b"\xef\xbf\xbd", b"?")))
    assert len(depths) == 130
    # depths of the fixed sets go evenly from the beginning to the end
    assert depths[0] == 0
    assert abs(depths[39] - task.hay) <= 2
    assert depths[5] == pytest.approx(5 * task.hay / 39, abs=3)
    learned = next(Niah(needle=needle, source=str(essay), context=420, loss="all").prepare().train(0))
    assert (learned.targets != IGNORE).all()
    assert len(data.hashes) >= 3


def test_haystacks_that_are_too_small(essay, tmp_path):
    with pytest.raises(ValidationError, match="has no room for the needle; use 2"):
        Niah(context=64)
    short = tmp_path / "short.txt"
    short.write_text(essay.read_text()[:2000])
    with pytest.raises(TaskError, match="tokens"):
        Niah(source=str(short), context=600).prepare()
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(TaskError, match="is empty"):
        Niah(source=str(tmp_path / "empty.txt")).prepare()


# suites


def test_a_suite_is_its_tasks_in_their_shares():
    suite = Suite(tasks=(Mqar(), Parity(), Copying(name="copy")), weights=(1, 2, 1), batch=16)
    data = suite.prepare()
    assert suite.vocab == 65 + 3 + 30
    assert suite.context == 219
    steps = list(itertools.islice(data.train(0), 400))
    parity = [b for b in steps if 65 <= b.targets.max() < 68]
    assert len(parity) / 400 == pytest.approx(0.5, abs=0.08)
    assert all(b.inputs.shape == (16, 219) for b in steps)
    own = Parity(batch=16).prepare().train(0)
    n = next(i for i, b in enumerate(steps) if 65 <= b.targets.max() < 68)
    own.seek({"step": n})
    assert (steps[n].inputs[:, :40] - 65).equal(next(own).inputs)
    again = data.train(0)
    again.seek({"step": n})
    assert next(again).inputs.equal(steps[n].inputs)
    assert data.decode([0, 1, 65, 66]) == "| k0 0 1"
    # a perfect answer in each task but parity, where half is wrong and some of it of another task
    totals = data.totals()
    for batch in data.test():
        said = batch.targets.clone()
        if 65 <= batch.targets.max() < 68:
            said[::2] = 90
        totals.add(torch.zeros(said.shape), said, batch.targets)
    found = suite.metrics_from(totals)
    assert found["mqar_accuracy"] == found["copy_accuracy"] == 1.0
    assert found["parity_accuracy"] == found["worst"] == pytest.approx(0.5, abs=0.05)
    assert found["score"] == pytest.approx(0.5 + 0.5 * found["parity_accuracy"])


def test_what_a_suite_refuses():
    with pytest.raises(ValidationError, match="judged by bits_per_byte"):
        Suite(tasks=(Text(),))
    with pytest.raises(ValidationError, match="2 for 1 tasks"):
        Suite(tasks=(Mqar(),), weights=(1, 2))
    with pytest.raises((ValidationError, TaskError), match="two tasks are called"):
        Suite(tasks=(Mqar(), Mqar()))


def test_a_suite_and_a_protocol_in_a_space(tmp_path):
    space = Space.from_text(
        "design: {memory: matrix, bias: l2, retention: none, algorithm: gradient_descent}\n"
        "tasks:\n"
        "- {kind: suite, tasks: [{kind: mqar, pairs: 2, rewrites: 0}, parity], weights: [3, 1], batch: 4}\n"
        "- {kind: mad_recall, protocol: paper, length: 32}\n"
        "budget: {tokens: 1000}\n"
    )
    suite, mad = space.tasks
    assert [task.kind for task in suite.tasks] == ["mqar", "parity"]
    assert Space.from_text(space.to_yaml()).tasks == space.tasks
    assert (mad.primary.name, mad.compared_on) == ("macro_accuracy", "test")
    assert mad.grid()[:2] == [{"lr": 1e-4, "weight_decay": 0.0}, {"lr": 1e-4, "weight_decay": 0.1}]
    assert len(mad.grid()) == 6
    assert Mqar().grid() == [{}]
    candidate = Candidate(design=get("linear-attention"), backbone=Backbone(width=8, layers=1, heads=1))
    record = train(candidate, suite, 2 * suite.tokens_per_step, 0, folder=tmp_path)
    assert record.status == "ok"
    assert set(record.metrics) == {"score", "worst", "mqar_accuracy", "parity_accuracy"}


PINNED = {"original": "1682cdf3759adaf5"}
