"""Every mistake in a space has one message: file:line:column, the line with a caret, and the way out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from miras_search.errors import SpaceError
from miras_search.space import Space

GOOD = """\
design:
  memory: [matrix, mlp]
  bias: [l2, lp, huber]
  retention: [none, l2]
  algorithm: gradient_descent
backbone: {width: 64, heads: 2}
optimiser: {lr: 1e-2}
tasks: [mqar]
budget: {tokens: 1e6}
"""

BIAS, LR, TASKS, TOKENS = "[l2, lp, huber]", "lr: 1e-2", "[mqar]", "{tokens: 1e6}"
NEXT = "budget:"


def told(text: str, *overrides: str) -> str:
    with pytest.raises(SpaceError) as caught:
        Space.from_text(text, "s.yaml", overrides)
    return str(caught.value)


def swap(old: str, new: str) -> str:
    assert old in GOOD
    return told(GOOD.replace(old, new))


def test_a_message_in_full() -> None:
    assert swap("huber", "hubre") == (
        "s.yaml:3:18: unknown bias hubre\n"
        "    3 |   bias: [l2, lp, hubre]\n"
        "      |                  ^\n"
        "  did you mean huber?"
    )


@pytest.mark.parametrize(
    ("old", "new", "where", "message", "hint"),
    [
        # names
        ("[matrix, mlp]", "[matrx, mlp]", "2:12", "unknown memory matrx", "did you mean matrix?"),
        (BIAS, "{kind: huber, detla: 2}", "3:23", "unknown field detla of bias huber", "did you mean delta?"),
        (BIAS, "zzz", "3:9", "unknown bias zzz", "one of dot, l2, lp"),
        (BIAS, "{kind: [l2, lp]}", "3:16", "kind of bias takes one word", "bias: [a, b]"),
        (BIAS, "{p: 3}", "3:9", "bias lacks kind", "write bias: NAME or {kind: NAME, ...}"),
        (BIAS, "3", "3:9", "bias is 3, not a variant", "write bias: NAME"),
        ("  bias: [l2, lp, huber]\n", "", "1:1", "design lacks bias", ""),
        ("optimiser:", "optimizer:", "7:1", "unknown key optimizer", "did you mean optimiser?"),
        ("width: 64", "widht: 64", "6:12", "unknown field widht of backbone", "did you mean width?"),
        (NEXT, "block: {conv: 2}\nbudget:", "9:1", "unknown key block", "block: stands under design:"),
        ("tasks:", "start_with: [yad]\ntasks:", "8:14", "no design is named yad", "did you mean yaad?"),
        ("tasks:", "start_with: [3]\ntasks:", "8:14", "3 is no name of a design", "miras-search designs"),
        ("tasks:", "start_with: [yaad, yaad]\ntasks:", "8:20", "yaad stands twice", "keep one"),
        (BIAS, "{kind: huber, form: nrom}", "3:29", "unknown form of huber nrom", "did you mean norm?"),
        # values
        (LR, "lr: 0", "7:17", "lr of optimiser is 0, must be > 0.0", "0.0 < lr"),
        (LR, "lr: fast", "7:17", 'lr of optimiser is "fast", not a number', ""),
        (LR, 'lr: "1e-2"', "7:17", 'lr of optimiser is "1e-2", not a number', ""),
        (LR, "lr: true", "7:17", "lr of optimiser is true, not a number", ""),
        (LR, "lr: .inf", "7:17", ".inf is not a finite number", ""),
        ("width: 64", "width: 64.5", "6:19", "width of backbone is 64.5, not a whole number", ""),
        (BIAS, "{kind: lp, p: 0.5}", "3:23", "p of lp is 0.5, must be >= 1.0", "1.0 <= p <= 8.0"),
        ("{width: 64, heads: 2}", "3", "6:11", "backbone is 3, not a mapping", "its fields: width, layers"),
        ("heads: 2", "heads: 3", "6:30", "heads 3 does not divide width 64", "use heads that divide the width"),
        ("heads: 2", "heads: [3, 5]", "6:30", "heads [3, 5] does not divide width 64", ""),
        # ranges and alternatives
        (LR, "lr: {float: [2, 1]}", "7:26", "bounds of lr of optimiser are reversed: 2 > 1", "write [1, 2]"),
        (LR, "lr: {log_float: [0, 1]}", "7:30", "starts at 0, must be > 0", "use float:"),
        (LR, "lr: {float: [1, 2, 3]}", "7:25", "float of lr of optimiser takes two bounds", "[low, high]"),
        (LR, "lr: {float: [a, 2]}", "7:26", '"a" is not a number', ""),
        (LR, "lr: {float: [0.1, 1], step: 0}", "7:41", "must be > 0", ""),
        (LR, "lr: {float: [0.1, 1], step: 0.4}", "7:41", "steps of 0.4 from 0.1 miss 1", "end at 0.9"),
        (LR, "lr: {log_float: [1, 10], step: 1}", "7:44", "step 1 of log_float must be > 1", "factor"),
        (LR, "lr: {log_float: [1, 10], step: 3}", "7:44", "steps of 3 from 1 miss 10", "end at 9"),
        (LR, "lr: {float: [1, 2], int: [1, 2]}", "7:33", "lr of optimiser is both float and int", "two"),
        (LR, "lr: {float: [1, 2], stpe: 1}", "7:33", "unknown key stpe beside float", "did you mean step?"),
        (LR, "lr: {choice: [1], step: 1}", "7:31", "unknown key step beside choice", "leave it out"),
        (LR, "lr: {choice: 1}", "7:26", "choice of lr of optimiser is not a list", "write {choice: [a, b]}"),
        (LR, "lr: {flaot: [1, 2]}", "7:17", "lr of optimiser is a mapping", "did you mean float?"),
        (LR, "lr: []", "7:17", "lr of optimiser has no alternatives", "name at least one"),
        (LR, "lr: [[1, 2]]", "7:18", "alternatives inside the alternatives", "write one list"),
        (LR, "lr: [1, 1.0]", "7:21", "1.0 stands twice among the alternatives", "keep one"),
        (BIAS, "[]", "3:9", "bias of design has no alternatives", ""),
        (BIAS, "{int: [1, 2]}", "3:15", "bias is no number and has no range", "a list means alternatives"),
        (BIAS, "{kind: lp, p: {float: [0.5, 4]}}", "3:32", "p of lp is 0.5, must be >= 1.0", "1.0 <= p <= 8.0"),
        (BIAS, "{kind: lp, p: {float: [2, 9]}}", "3:35", "p of lp is 9.0, must be <= 8.0", "1.0 <= p <= 8.0"),
        (BIAS, "{kind: lp, form: {int: [1, 2]}}", "3:32", "form of lp is no number and has no range", "a list means"),
        ("width: 64", "width: {float: [32, 64]}", "6:27", "width of backbone is a whole number", "{int: [32, 64]}"),
        ("width: 64", "width: {int: [32, 64.5]}", "6:30", "64.5 is not a whole number", "use float:"),
        # the rest
        (TASKS, "[]", "8:1", "the space has no tasks:", "one of "),
        (TASKS, "[mqra]", "8:9", "unknown task mqra", "did you mean mqar?"),
        (TASKS, "[{pairs: 3}]", "8:9", "a task needs a kind", "{kind: NAME, ...}"),
        (TASKS, "[{kind: mqar, pars: 3}]", "8:22", "unknown field pars of task mqar", "did you mean pairs?"),
        (TASKS, "[{kind: mqar, pairs: 0}]", "8:29", "pairs of task mqar is 0, must be >= 1", "1 <= pairs"),
        (TASKS, "[{kind: mqar, pairs: 99}]", "8:9", "99 distinct keys cannot be drawn", ""),
        (TASKS, "[{kind: mqar, pairs: {int: [1, 2]}}]", "8:29", "takes one value", "only design, backbone"),
        (TASKS, "[mqar, mqar]", "8:15", "two tasks are named mqar", "give one of them another name:"),
        (TASKS, "[mqar]\ntask: mqar", "9:1", "both task: and tasks: are given", "keep tasks:"),
        (TOKENS, "{tokens: 0}", "9:18", "budget is 0 tokens, not a whole number >= 1", "for example 1e6"),
        (TOKENS, "{tokens: 1.5}", "9:18", "budget is 1.5 tokens, not a whole number >= 1", ""),
        (TOKENS, "{token: 1e6}", "9:10", "unknown field token of budget", "did you mean tokens?"),
        (TOKENS, "{tokens: {mqra: 1e6, mqar: 1}}", "9:19", "budget names mqra, which is no task", "mean mqar?"),
        (TOKENS, "{tokens: {}}", "9:18", "budget lacks task mqar", "one number for all"),
        ("budget: {tokens: 1e6}\n", "", "1:1", "the space has no budget:", "write budget: {tokens: 1e6}"),
        (NEXT, "objectives: [mqar.acuracy]\nbudget:", "9:14", "unknown metric mqar.acuracy", "mean mqar.accuracy?"),
        (NEXT, "objectives: [accuracy]\nbudget:", "9:14", "unknown metric accuracy", "mean mqar.accuracy?"),
        (NEXT, "objectives: [text.bits]\nbudget:", "9:14", "unknown metric text.bits", "one of mqar.accuracy"),
        (NEXT, "objectives: [seconds, seconds]\nbudget:", "9:23", "seconds stands twice", "keep one"),
        (NEXT, "objectives: [{goal: max}]\nbudget:", "9:14", "an objective needs a metric", "TASK.METRIC"),
        (NEXT, "objectives: [{metric: mqar.nll, goal: mn}]\nbudget:", "9:39", "not one of max, min", "mean min?"),
        (NEXT, "search: {sampler: tpee}\nbudget:", "9:19", "not one of random, grid, survey, tpe", "did you mean tpe?"),
        (NEXT, "search: {trials: 0}\nbudget:", "9:18", "trials of search is 0, must be >= 1", ""),
        (NEXT, "halving: {rungs: [0.5, 0.25]}\nbudget:", "9:10", "rungs [0.5, 0.25] do not rise", ""),
        (NEXT, "halving: {rungs: [1.5]}\nbudget:", "9:19", "rungs[0] of halving is 1.5, must be < 1.0", ""),
        (NEXT, "match: {parameters: 1e5}\nbudget:", "6:19", "width is solved by match:", "leave width out"),
        (NEXT, "seeds: 0\nbudget:", "9:8", "seeds is 0, must be > 0", ""),
        (NEXT, "seeds: [0, 1]\nbudget:", "9:8", "seeds is [0, 1], not a whole number", "how many seeds"),
        (NEXT, "timeout_s: soon\nbudget:", "9:12", 'timeout_s is "soon", not a number of seconds', ""),
        (NEXT, "name: 3\nbudget:", "9:7", "name is not text", ""),
        # YAML
        (NEXT, "tasks: [mqar]\nbudget:", "9:1", "key tasks stands twice, first in line 8", "keep one of them"),
        ("width: 64, heads: 2}", "width: 64, width: 2}", "6:23", "key width stands twice, first in line 6", ""),
        ("heads: 2}", "heads: 2", "7:10", "not YAML: while parsing a flow mapping", ""),
        (LR, "lr: !!python/none 3", "7:17", "is not used in a space", "leave the tag out"),
        ("backbone:", "<<: {a: 1}\nbackbone:", "6:1", "<< (merge) is not part of YAML 1.2", "write the keys out"),
        ("backbone:", "[a]: 3\nbackbone:", "6:1", "a key must be a word", ""),
        (BIAS, "&a [l2, *a]", "3:9", "an alias that contains itself", ""),
    ],
)  # fmt: skip
def test_messages(old: str, new: str, where: str, message: str, hint: str) -> None:
    text = swap(old, new)
    head, line, caret = text.split("\n")[:3]
    assert head.startswith(f"s.yaml:{where}: ")
    assert message in head
    row, column = map(int, where.split(":"))
    assert line == f"{row:>5} | {GOOD.replace(old, new).splitlines()[row - 1]}"
    assert caret == " " * 6 + "| " + " " * (column - 1) + "^"
    assert hint in text


def test_several_problems_are_told_at_once_in_the_order_of_the_file() -> None:
    text = told(GOOD.replace("huber", "hubre").replace("lr: 1e-2", "lr: 0").replace("mqar", "mqra"))
    heads = [line for line in text.splitlines() if line.startswith("s.yaml:")]
    assert [head.split(": ")[0] for head in heads] == ["s.yaml:3:18", "s.yaml:7:17", "s.yaml:8:9"]


def test_more_than_ten_problems_are_counted() -> None:
    text = told(GOOD.replace("lp, huber", ", ".join(f"x{i}" for i in range(14))))
    assert text.count("s.yaml:3:") == 10
    assert text.endswith("and 4 more")
    assert len(text.splitlines()) <= 50


def test_a_long_line_is_cut_around_the_place() -> None:
    many = [f"{{kind: lp, p: {2 + i / 8}}}" for i in range(30)]
    head, line, caret, _ = told(GOOD.replace(BIAS, f"[{', '.join([*many, 'hubre', *many])}]")).splitlines()[:4]
    assert head.endswith("unknown bias hubre")
    assert len(line) <= 110
    assert line[caret.index("^") :].startswith("hubre")


def test_alternatives_of_a_variant_are_checked_each() -> None:
    text = told(GOOD.replace("[l2, lp, huber]", "[{kind: lp, p: 0}, {kind: lp, eps: 0}]"))
    assert "p of lp is 0, must be >= 1.0" in text
    assert "eps of lp is 0, must be > 0.0" in text


def test_a_space_that_excludes_everything_is_an_error_with_the_reasons() -> None:
    text = told(GOOD.replace("[matrix, mlp]", "cache"))
    assert text.startswith("s.yaml:1:1: no design is left, all 6 are refused: cache-algorithm 6")
    assert "use algorithm: nonparametric" in text


def test_a_grid_needs_discrete_axes() -> None:
    text = told(GOOD.replace("lr: 1e-2", "lr: {log_float: [1e-3, 1e-2]}") + "search: {sampler: grid}\n")
    assert text.startswith("s.yaml:10:19: sampler: grid, but optimiser.lr is continuous")
    Space.from_text(GOOD.replace("lr: 1e-2", "lr: {log_float: [1e-3, 1e-2], step: 10}") + "search: {sampler: grid}\n")


@pytest.mark.parametrize(
    ("override", "message", "hint"),
    [
        ("budget.tokens", "'budget.tokens' sets nothing", "write --set PATH=VALUE"),
        ("bud get=1", "'bud get' is no path", "a path looks like"),
        ("=1", "'' is no path", ""),
        ("budget.tokens=0", "budget is 0 tokens", "for example 1e6"),
        ("tasks[3].pairs=4", "tasks has 1 entries, counted from 0: there is no [3]", ""),
        ("tasks.pairs=4", "tasks is a list", "write tasks[0].pairs"),
        ("budget[0]=4", "budget is no list", "write budget without [0]"),
        ("optimiser.lr.x=4", "optimiser.lr is 0.01 and has no x", ""),
        ("optimiser.rl=4", "unknown field rl of optimiser", "did you mean lr?"),
        ("budgte.tokens=4", "unknown key budgte", "did you mean budget?"),
        ("bias[1].lp.p=0", "p of lp is 0, must be >= 1.0", "1.0 <= p <= 8.0"),
        ("bias[1].p={float: [4, 2]}", "bounds of p of lp are reversed", "write [2, 4]"),
        ("optimiser.lr=[1", "not YAML", ""),
        ("optimiser.lr=", "lr of optimiser is null, not a number", ""),
    ],
)
def test_messages_of_overrides_point_into_the_option(override: str, message: str, hint: str) -> None:
    text = told(GOOD, override)
    assert text.startswith("--set:1:")
    assert message in text
    assert f"    1 | {override}" in text
    assert hint in text


def test_the_place_of_an_override_is_its_column() -> None:
    assert told(GOOD, "bias=[l2, hubre]").startswith("--set:1:11: unknown bias hubre")


def test_task_of_an_override_needs_one_task() -> None:
    assert "there are 2 tasks" in told(GOOD.replace("[mqar]", "[mqar, text]"), "task.pairs=3")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"# only a comment\n", "the file is empty"),
        (b"- a\n- b\n", "a space is a mapping, this is a list"),
        (b"quickstart\n", 'a space is a mapping, this is "quickstart"'),
        (b"\x00\x01\x02", "is a binary file (byte 0 at offset 0)"),
        (b"\x89PNG\r\n", "is not UTF-8 text (byte 0x89 at offset 0)"),
        (b"a: \x07\n", "not text: control character 0x07"),
        (b"a: 1\n---\nb: 2\n", "expected a single document"),
        (b"\ta: 1\n", "indent with spaces"),
        (b"a: " + b"[" * 1100, "nested too deeply"),
    ],
)
def test_files_that_are_no_space(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    with pytest.raises(SpaceError) as caught:
        Space.load(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


def test_paths_that_are_no_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(GOOD)
    with pytest.raises(SpaceError, match=r"no such file\n.*did you mean mine\.yaml\?"):
        Space.load(tmp_path / "mein.yaml")
    with pytest.raises(SpaceError, match=r"is a folder, not a space\n.*name a file in it: mine\.yaml"):
        Space.load(tmp_path)
    with pytest.raises(SpaceError, match=r"no space is named 'quikstart'\n.*did you mean quickstart\?"):
        Space.load("quikstart")
    with pytest.raises(SpaceError, match=r"no such file\n.*shipped spaces: .*paper, quickstart"):
        Space.load(tmp_path / "nowhere" / "x.yaml")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_must_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(GOOD)
    path.chmod(0)
    with pytest.raises(SpaceError, match="cannot be read: Permission denied"):
        Space.load(path)


def test_aliases_that_grow_are_refused() -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 8)]
    assert "more than 100000 values" in told("\n".join(lines))
