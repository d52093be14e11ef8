"""How fast batches are made: every drawn task, and those with a published generator beside a loop that makes a row as it does.

    python benchmarks/tasks.py                        beside loops of ours
    python benchmarks/tasks.py --originals FOLDER     and beside the originals: clones of mad-lab, zoology, transformers_ssm_copy,
                                                      unlocking_state_tracking, word-problem, abstract_algebra (of jopetty), RULER

The loops are ours, written after the description of the originals (one Python loop a row, numpy's or Python's generator for each draw),
and make rows of the same distribution. Nothing is timed but the making of batches, one thread, freed memory kept as in training; of
several stretches of time the fastest counts, so that what else runs on the machine matters less.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import logging
import random
import sys
import time
import types
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import lru_cache, partial
from itertools import permutations
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, patch

import numpy as np
from tokenizers import Tokenizer

from miras_search.choice import variants
from miras_search.tasks import (
    Copying,
    MadCompression,
    MadCopying,
    MadFuzzyRecall,
    MadMemorization,
    MadNoisyRecall,
    MadRecall,
    ModularArithmetic,
    MqarZoology,
    Niah,
    Parity,
    Synthetic,
    Task,
    WordProblem,
)
from miras_search.tasks.niah import ADJECTIVES, KEY, NOISE, NOUNS, VALUE, template
from miras_search.tasks.state import elements
from miras_search.tasks.tokenizer import byte_tokenizer
from miras_search.trial import keep_freed_memory

STRETCHES, SECONDS = 12, 0.05
Make = Callable[[int], int]
"""Makes some rows, given the number of the call, and returns how many."""


def rate(make: Make) -> float:
    """Rows a second in the fastest stretch."""
    make(0)
    step, best = 0, 0.0
    for _ in range(STRETCHES):
        start, rows = time.perf_counter(), 0
        while time.perf_counter() - start < SECONDS:
            step += 1
            rows += make(step)
        best = max(best, rows / (time.perf_counter() - start))
    return best


def batches(task: Task) -> Make:
    """Training batches as a trial gets them, fresh ones: of a small finite set a stream keeps what it has made."""
    if isinstance(task, Synthetic):
        task = task.model_copy(update={"train": 0})
    stream = task.prepare().train(0)
    return lambda step: len(next(stream).inputs)


def recall_loop(step: int, *, noise: float = 0.0) -> int:
    """A row of MAD's (noisy) in-context recall: 16 ids for keys and values, 64 pairs."""
    rng = np.random.default_rng(step)
    keys, values, noisy = np.arange(8), np.arange(8, 16), np.arange(16, 32)
    memory: dict[int, int] = {}
    row: list[int] = []
    spared = int(rng.choice(64))
    for i in range(63):
        if noise and i != spared and rng.random() < noise:
            row += list(rng.choice(noisy, size=2))
            continue
        key = int(rng.choice(keys))
        if key not in memory:
            memory[key] = int(rng.choice(values))
        row += [key, memory[key]]
    key = int(rng.choice(list(memory)))
    np.array([*row, key, memory[key]])
    return 1


def fuzzy_loop(step: int) -> int:
    """A row of MAD's fuzzy recall: 16 ids, length 128, motifs listed anew a row."""
    rng = np.random.default_rng(step)
    keys = {n: list(permutations(range(7), n)) for n in (1, 2, 3)}
    values = {n: list(permutations(range(7, 15), n)) for n in (1, 2, 3)}
    for table in (*keys.values(), *values.values()):
        rng.shuffle(table)
    memory: dict[tuple[int, ...], tuple[int, ...]] = {}
    row: list[int] = []
    while len(row) < 116:
        key = tuple(int(i) for i in rng.choice(keys[int(rng.choice([1, 2, 3]))]))
        if key not in memory:
            memory[key] = tuple(int(i) for i in rng.choice(values[int(rng.choice([1, 2, 3]))]))
        row += [*key, *memory[key]]
    np.array(row)
    return 1


def selective_loop(step: int) -> int:
    """A row of MAD's selective copying: 16 tokens in 256."""
    rng = np.random.default_rng(step)
    tokens = rng.choice(np.arange(14), size=16)
    places = rng.integers(0, 16, 223)
    row = np.insert(tokens, places, [14] * 223).tolist()
    np.array([*row, 15, *[14] * 16])
    return 1


def compression_loop(step: int) -> int:
    """A row of MAD's compression: 31 of 15 tokens and the sign."""
    tokens = np.random.default_rng(step).choice(np.arange(15), size=31)
    row = np.concatenate([tokens, [15]])
    np.array(row)
    return 1


MAP = dict(zip(range(127), np.random.default_rng(0).permutation(np.arange(127, 255)).tolist(), strict=False))


def memorization_loop(step: int) -> int:
    """A row of MAD's memorization: 16 keys, each with an insert token."""
    rng = np.random.default_rng(step)
    row, targets = [], []
    for _ in range(16):
        key = int(rng.choice(list(MAP)))
        row += [key, 255]
        targets += [-100, MAP[key]]
    np.array(row), np.array(targets)
    return 1


def zoology_loop(step: int, *, length: int, pairs: int) -> int:
    """A row of Zoology's MQAR, 8192 ids: numpy's legacy choice without replacement, which orders all of them."""
    rng = np.random.RandomState(step % 2**32)
    keys = rng.choice(np.arange(1, 4096), size=pairs, replace=False)
    values = rng.choice(np.arange(4096, 8192), size=pairs, replace=False)
    places = (length - 2 * pairs) // 2
    weights = 0.01 * np.arange(1, places + 1) ** -0.99
    gaps = rng.choice(places, size=pairs, replace=False, p=weights / weights.sum())
    row, labels = np.zeros(length, dtype=np.int64), np.full(length, -100)
    row[0 : 2 * pairs : 2], row[1 : 2 * pairs : 2] = keys, values
    row[2 * pairs + 2 * gaps], labels[2 * pairs + 2 * gaps] = keys, values
    return 1


def copying_loop(step: int, *, form: str = "string") -> int:
    """A row of 220 tokens of copying: strings of letters, packed, each as text first."""
    letters, row, mask = list("abcdefghijklmnopqrstuvwxyz"), "", []
    while len(row) < 220:
        size = np.random.randint(5 if form == "string" else 8, 21)
        string, gram = "".join(np.random.choice(letters, size=size)), ""
        answer = string
        if form != "string":
            grams = [string[i : i + 3] for i in range(size - 4)]
            any(grams.count(g) == 1 for g in grams)
            gram = grams[np.random.randint(len(grams))]
            answer = string[string.index(gram) + 3 :]
        example = f"${gram}|{string}|{answer}." if gram else f"${string}|{answer}."
        mask += [0] * (len(example) - len(answer) - 1) + [1] * (len(answer) + 1)
        row += example
    np.array([ord(c) for c in row[:220]]), np.array(mask[:220])
    return 1


S5 = elements("s5")
INDEX = {p: i for i, p in enumerate(S5)}


def group_loop(step: int) -> int:
    """A row of 20 elements of S5 and their running product, element by element."""
    row = random.choices(range(120), k=20)
    state, states = S5[0], []
    for symbol in row:
        state = tuple(state[i] for i in S5[symbol])
        states.append(INDEX[state])
    " ".join(map(str, row)), " ".join(map(str, states))
    return 1


def modular_loop(step: int) -> int:
    """A row of up to 40 symbols of an expression modulo 5, and its value, term by term."""
    rng = np.random.default_rng(step)
    digits = int(rng.integers(2, 21))
    row = [int(x) for x in rng.integers(0, 5, digits)]
    signs = [int(x) for x in rng.integers(0, 3, digits - 1)]
    total, term = 0, row[0]
    for sign, digit in zip(signs, row[1:], strict=True):
        if sign == 2:
            term *= digit
        else:
            total, term = total + term, digit if sign == 0 else -digit
    np.array([x for pair in zip(row, [*signs, 3], strict=True) for x in pair]), (total + term) % 5
    return 1


def parity_loop(step: int) -> int:
    """A row of up to 40 bits and their parities, bit by bit."""
    state, states, row = 0, [], []
    for _ in range(random.randint(3, 40)):
        row.append(random.randint(0, 1))
        state ^= row[-1]
        states.append(state)
    np.array(row), np.array(states)
    return 1


def niah_loop(step: int) -> int:
    """A row of 2,048 bytes: the noise's lines, one line with the needle among them, the question; as text, then as bytes."""
    rng = random.Random(step)
    key = f"{rng.choice(ADJECTIVES)}-{rng.choice(NOUNS)}"
    (said, asked), value = template("passkey"), str(rng.randint(10**6, 10**7 - 1))
    needle, question = ("".join({KEY: key, VALUE: value}.get(p, p) for p in pieces) for pieces in (said, asked))
    lines = [NOISE] * ((2049 - len(needle) - len(question)) // len(NOISE))
    lines.insert(rng.randrange(len(lines)), needle)
    row = np.frombuffer(("".join(lines) + question).encode(), dtype=np.uint8).astype(np.int64)
    targets = np.full(len(row) - 1, -100)
    targets[-len(value) :] = row[-len(value) :]
    return 1


def pairs() -> list[tuple[str, Task, Make]]:
    """Tasks beside their loops."""
    big = MqarZoology(length=256, pairs=64)
    prefix = Copying(form="prefix", shortest=8)
    found: list[tuple[str, Task, Make]] = [
        ("mad_recall", MadRecall(), recall_loop),
        ("mad_noisy_recall", MadNoisyRecall(), partial(recall_loop, noise=0.2)),
        ("mad_fuzzy_recall", MadFuzzyRecall(), fuzzy_loop),
        ("mad_selective_copying", MadCopying(), selective_loop),
        ("mad_compression", MadCompression(), compression_loop),
        ("mad_memorization", MadMemorization(), memorization_loop),
        ("mqar_zoology 64, 4", MqarZoology(), partial(zoology_loop, length=64, pairs=4)),
        ("mqar_zoology 256, 64", big, partial(zoology_loop, length=256, pairs=64)),
        ("copying string", Copying(), copying_loop),
        ("copying prefix", prefix, partial(copying_loop, form="prefix")),
        ("parity", Parity(), parity_loop),
        ("modular_arithmetic", ModularArithmetic(), modular_loop),
        ("word_problem", WordProblem(), group_loop),
        ("niah passkey, 2048", Niah(needle="passkey", context=2048), niah_loop),
    ]
    return found


def originals(folder: Path) -> dict[str, Make]:
    """The published generators, of clones in `folder`; each with the settings of the task beside it."""

    def module(path: str) -> Any:
        spec = importlib.util.spec_from_file_location(Path(path).stem, folder / path)
        if spec is None or spec.loader is None or not (folder / path).exists():
            raise SystemExit(f"{folder / path} is not there: clone {path.split('/')[0]} into {folder}")
        found = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(found)
        return found

    rng = np.random.default_rng(0)
    mad = module("mad-lab/mad/data/instances.py")
    known = mad.generate_kv_map(255)
    each = {
        "mad_recall": partial(mad.generate_in_context_recall_instance, multi_query=True, noise_vocab_size=0, rng=rng),
        "mad_noisy_recall": partial(mad.generate_noisy_in_context_recall_instance, multi_query=True, rng=rng),
        "mad_fuzzy_recall": partial(mad.generate_fuzzy_in_context_recall_instance, multi_query=True, rng=rng),
        "mad_selective_copying": partial(mad.generate_selective_copying_instance, rng=rng),
        "mad_compression": partial(mad.generate_compression_instance, rng=rng),
        "mad_memorization": partial(mad.generate_memorization_instance, rng=rng, kv_map=known),
    }
    makes: dict[str, Make] = {name: partial(lambda draw, step: (draw(), 1)[1], draw) for name, draw in each.items()}

    sys.modules.setdefault("wandb", types.ModuleType("wandb"))  # which its logging imports
    sys.path.insert(0, str(folder / "zoology"))
    mqar = importlib.import_module("zoology.data.multiquery_ar").multiquery_ar
    for length, n in ((64, 4), (256, 64)):
        sizes = {"vocab_size": 8192, "num_examples": 256, "input_seq_len": length, "num_kv_pairs": n}
        draw = partial(mqar, **sizes, random_non_queries=False)
        makes[f"mqar_zoology {length}, {n}"] = partial(lambda draw, step: (draw(seed=step), 256)[1], draw)

    copy = module("transformers_ssm_copy/synthetic_exps/data_utils.py")
    tokenizer = copy.get_tokenizer(argparse.Namespace(vocab_size=26))[0]
    for form, kind, shortest in (("string", "copy", 5), ("prefix", "prefix_ngram", 8)):
        data = copy.CopyDataset(tokenizer, n_gram=3, train_task=kind, min_length=shortest, max_length=20)
        makes[f"copying {form}"] = partial(lambda data, step: len(data[step]["input"]), data)

    for name, ids in (("parity", 3), ("modular_arithmetic", 10)):  # a row a call, as its data set makes them
        of = getattr(module(f"unlocking_state_tracking/xlstm/experiments/data/formal_language/tasks/{name}.py"), name)
        row = partial(of, vocab_size=ids, min_sequence_length=3, max_sequence_length=40, context_length=41)
        makes[name] = partial(lambda row, step: (row(seed=step), 1)[1], row)

    # its command, but for the writing of the file and the making of the group, which is kept
    sys.path.insert(0, str(folder / "abstract_algebra/src"))
    for unused in ("fire", "polars"):
        sys.modules.setdefault(unused, MagicMock())
    sys.modules.setdefault("pyrootutils", MagicMock(find_root=lambda **_: folder))
    words = module("word-problem/src/generate_data.py")
    words.generate_group = lru_cache(words.generate_group)

    def word_problem(step: int) -> int:
        with redirect_stdout(io.StringIO()):
            words.main("S5", k=20, samples=256, data_dir=folder, seed=step, overwrite=True)
        return 256

    makes["word_problem"] = word_problem
    makes["niah passkey, 2048"] = ruler(folder, module)
    return makes


def ruler(folder: Path, module: Callable[[str], Any]) -> Make:
    """RULER's first needle, texts of 2,048 bytes; counted, as it does, in tokens of a Hugging Face tokenizer, here one of bytes."""
    tokenizer = Tokenizer.from_str(byte_tokenizer().json)
    words = {"nounlist.txt": NOUNS, "adjectivelist.txt": ADJECTIVES}
    stubs = {
        "wonderwords": MagicMock(random_word=MagicMock(_get_words_from_text_file=words.__getitem__)),
        "tokenizer": MagicMock(
            select_tokenizer=lambda *_: MagicMock(text_to_tokens=lambda text: tokenizer.encode(text).tokens)
        ),
        "tqdm": MagicMock(tqdm=iter),
        "manifest_utils": MagicMock(),
        "nltk": MagicMock(),
        "nltk.tokenize": MagicMock(),
    }
    sys.path.insert(0, str(folder / "RULER/scripts/data/synthetic"))
    task = importlib.import_module("constants").TASKS["niah"]
    given = {
        "save_dir": str(folder),
        "save_name": "none",
        "tokenizer_path": "none",
        "max_seq_length": str(2048 + task["tokens_to_generate"]),
        "tokens_to_generate": str(task["tokens_to_generate"]),
        "num_samples": "200",
        "template": task["template"] + task["answer_prefix"],
        "type_haystack": "noise",
    }
    arguments = [word for name, value in given.items() for word in (f"--{name}", value)]
    with patch.dict(sys.modules, stubs), patch.object(sys, "argv", ["niah.py", *arguments]):
        niah = module("RULER/scripts/data/synthetic/niah.py")
    logging.disable(logging.INFO)
    return lambda step: len(niah.generate_samples(200, niah.args.max_seq_length, folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--originals", type=Path, help="folder of clones")
    given = parser.parse_args()
    keep_freed_memory()
    print(f"{'task':24s} {'rows/s':>10s} {'tokens/s':>12s}")
    for kind, cls in variants("task").items():
        if issubclass(cls, Synthetic):
            task = cls()
            rows = rate(batches(task))
            print(f"{kind:24s} {rows:10,.0f} {rows * task.context:12,.0f}")
    published = originals(given.originals) if given.originals else {}
    print(f"\n{'':24s} {'rows/s':>10s} {'our loop':>10s} {'times':>6s} {'original':>10s} {'times':>6s}")
    for name, task, loop in pairs():
        rows, slow = rate(batches(task)), rate(loop)
        line = f"{name:24s} {rows:10,.0f} {slow:10,.0f} {rows / slow:6.0f}"
        if name in published:
            original = rate(published[name])
            line += f" {original:10,.0f} {rows / original:6.0f}"
        print(line)


if __name__ == "__main__":
    main()
