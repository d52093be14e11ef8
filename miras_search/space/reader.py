"""From the text of a space to a `Space`: keys, overrides, and the checks that need more than one field."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from pydantic.fields import FieldInfo

from miras_search.candidate import Backbone, Optimiser
from miras_search.choice import Choice, variants
from miras_search.design import Design
from miras_search.match import Constraints, Match
from miras_search.named import MODELS
from miras_search.space.counting import PARTS
from miras_search.space.domain import Alternatives, Domain, Fixed, Struct
from miras_search.space.fields import Spec, validate
from miras_search.space.grammar import parse_field, parse_fields
from miras_search.space.marks import Mark, Node, Problems, Source, Step, fail, nearest, override, parse_override, read
from miras_search.space.settings import (
    COSTS,
    Budget,
    Checkpoints,
    Finalists,
    Halving,
    Loggers,
    LrSearch,
    Objective,
    Search,
)
from miras_search.tasks import Task

KEYS = (
    "name", "description", "design", "start_with", "backbone", "optimiser", "match", "constraints", "tasks", "budget",
    "seeds", "objectives", "search", "lr_search", "halving", "finalists",
    "timeout_s", "checkpoints", "loggers",
)  # fmt: skip
IN_DESIGN = (*PARTS, "block")


class Reading(NamedTuple):
    """A space as read: the fields of `miras_search.space.Space`, and the nodes of its keys, for errors found later."""

    fields: dict[str, Any]
    keys: dict[str, Node]


def read_space(source: Source, overrides: Sequence[str] = ()) -> Reading:
    """Parse, apply overrides, check every key.

    Raises:
        SpaceError: with every problem found, up to ten.
    """
    root = read(source)
    if not isinstance(root.value, dict):
        what = "a list" if isinstance(root.value, list) else json.dumps(root.value)
        raise fail(root.mark, f"a space is a mapping, this is {what}", "it has at least design:, tasks: and budget:")
    _one_task(root.value)
    for text in overrides:
        steps, value = parse_override(text)
        override(root, _full(root.value, steps, value), value)
    return _Reader(root, source).read()


def _one_task(keys: dict[str, Node]) -> None:
    """`task: X` is short for `tasks: [X]`."""
    if "task" not in keys:
        return
    node = keys.pop("task")
    if "tasks" in keys:
        raise fail(node.name_mark, "both task: and tasks: are given", "keep tasks:")
    keys["tasks"] = Node(node.mark, node.value if isinstance(node.value, list) else [node], node.key)


def _full(keys: dict[str, Node], steps: list[Step], value: Node) -> list[Step]:
    """Short paths of `--set` in full: `task.path` where there is one task, `bias[1].lp.p` for `design.bias[1].lp.p`."""
    if steps[0] in IN_DESIGN:
        return ["design", *steps]
    if steps[0] != "task":
        return steps
    tasks = keys.get("tasks")
    count = len(tasks.value) if tasks is not None and isinstance(tasks.value, list) else 0
    if len(steps) == 1:
        keys.pop("tasks", None)
        keys["tasks"] = Node(value.mark, [Node(value.mark, None)], value.key)
        return ["tasks", 0]
    if count != 1:
        raise fail(value.name_mark, f"there are {count} tasks", "write tasks[0], tasks[1], ...")
    return ["tasks", 0, *steps[1:]]


class _Reader:
    def __init__(self, root: Node, source: Source) -> None:
        assert isinstance(root.value, dict)
        self.root, self.keys, self.source = root, root.value, source
        self.problems = Problems()

    def read(self) -> Reading:
        for name, node in self.keys.items():
            if name not in KEYS:
                hint = f"{name}: stands under design:" if name in IN_DESIGN else nearest(name, KEYS)
                self.problems.add(node.name_mark, f"unknown key {name}", hint)
        start_with, tasks = self.names(), self.tasks()
        fields: dict[str, Any] = {
            "name": self.word("name", PurePath(self.source.name).stem),
            "description": self.word("description", ""),
            "design": self.design(start_with),
            "backbone": self.part("backbone", Backbone),
            "optimiser": self.part("optimiser", Optimiser),
            "start_with": tuple(start_with),
            "match": tuple(self.match()),
            "constraints": self.settings("constraints", Constraints),
            "tasks": tuple(tasks),
            "budget": self.budget(tasks),
            "seeds": int(self.number("seeds", 1, whole=True) or 1),
            "objectives": tuple(self.objectives(tasks)),
            "search": self.settings("search", Search) or Search(),
            "lr_search": self.settings("lr_search", LrSearch),
            "halving": self.settings("halving", Halving),
            "finalists": self.finalists(),
            "timeout_s": self.number("timeout_s", None, whole=False),
            "checkpoints": self.settings("checkpoints", Checkpoints) or Checkpoints(),
            "loggers": self.loggers(),
        }
        self.problems.check()
        return Reading(fields, self.keys)

    def design(self, start_with: list[str]) -> Domain | None:
        node = self.keys.get("design")
        if node is None or node.value is None:
            if start_with:
                return self.by_name(start_with, self.keys["start_with"].mark)
            if "start_with" not in self.keys:
                hint = f"design: {{{', '.join(f'{p}: ...' for p in PARTS)}}}"
                self.problems.add(self.root.mark if node is None else node.name_mark, "the space has no design:", hint)
            return None
        if isinstance(node.value, dict):
            return parse_fields(Design, node, "design", self.problems)
        items = node.value if isinstance(node.value, list) else [node]
        names = self.known_names(items)
        if not items:
            self.problems.add(node.mark, "design has no alternatives", "name at least one design")
        return self.by_name(names, node.mark) if names and len(names) == len(items) else None

    def by_name(self, names: list[str], mark: Mark) -> Domain:
        options = tuple(Fixed(name, mark) for name in names)
        return options[0] if len(options) == 1 else Alternatives(options, False, mark)

    def names(self) -> list[str]:
        node = self.keys.get("start_with")
        if node is None or node.value is None:
            return []
        if isinstance(node.value, dict):
            hint = "write [gated-deltanet, yaad]"
            self.problems.add(node.mark, "start_with is a mapping, not a list of designs", hint)
            return []
        return self.known_names(node.value if isinstance(node.value, list) else [node])

    def known_names(self, items: list[Node]) -> list[str]:
        names: list[str] = []
        for item in items:
            if not isinstance(item.value, str):
                what = f"{json.dumps(item.plain())} is no name of a design"
                self.problems.add(item.mark, what, "see `miras-search designs`")
            elif item.value not in MODELS:
                self.problems.add(item.mark, f"no design is named {item.value}", nearest(item.value, MODELS))
            elif item.value in names:
                self.problems.add(item.mark, f"{item.value} stands twice", "keep one")
            else:
                names.append(item.value)
        return names

    def part(self, name: str, model: type[Backbone | Optimiser]) -> Domain | None:
        node = self.keys.get(name)
        if node is None:
            return Struct(model, {}, self.root.mark)
        return parse_field(Spec(name, "", FieldInfo(annotation=model)), node, self.problems)

    def settings(self, name: str, model: Any) -> Any:
        node = self.keys.get(name)
        return None if node is None or node.value is None else validate(model, node, name, self.problems)

    def match(self) -> list[Match]:
        node = self.keys.get("match")
        if node is None or node.value is None:
            return []
        found: list[Match] = []
        for item in node.value if isinstance(node.value, list) else [node]:
            target = validate(Match, item, "match", self.problems)
            if target is None:
                continue
            for other in found:
                twice = "by" if other.by == target.by else "cost" if other.cost == target.cost else ""
                if twice:
                    what = f"{getattr(target, twice)} is {'solved' if twice == 'by' else 'matched'} twice"
                    self.problems.add(item.mark, what, "match each cost once, each by another field")
            found.append(target)
        return found

    def finalists(self) -> Finalists | None:
        node = self.keys.get("finalists")
        if node is not None and isinstance(node.value, int) and not isinstance(node.value, bool):
            node = Node(node.mark, {"count": Node(node.mark, node.value)}, node.key)  # a number is short for it
            return validate(Finalists, node, "finalists", self.problems)
        return self.settings("finalists", Finalists)  # type: ignore[no-any-return]

    def loggers(self) -> Loggers:
        node = self.keys.get("loggers")
        if node is None or node.value is None:
            return Loggers()
        items = node if isinstance(node.value, list) else Node(node.mark, [Node(node.mark, node.value)])
        whole = Node(node.mark, {"to": items}, node.key)  # a list is short for it
        return validate(Loggers, whole, "loggers", self.problems) or Loggers()

    def word(self, name: str, default: str) -> str:
        node = self.keys.get(name)
        if node is None or node.value is None:
            return default
        if not isinstance(node.value, str):
            self.problems.add(node.mark, f"{name} is not text", f'write {name}: "..."')
        return str(node.value)

    def number(self, name: str, default: float | None, whole: bool) -> float | None:
        node = self.keys.get(name)
        if node is None or node.value is None:
            return default
        value = node.value
        if isinstance(value, bool) or not isinstance(value, int | float) or (whole and value != int(value)):
            wanted = "a whole number" if whole else "a number of seconds"
            hint = "it is how many seeds each candidate is trained with" if name == "seeds" else None
            self.problems.add(node.mark, f"{name} is {json.dumps(node.plain())}, not {wanted}", hint)
        elif value <= 0:
            self.problems.add(node.mark, f"{name} is {value}, must be > 0", None)
        else:
            return value
        return default

    def tasks(self) -> list[Task]:
        node = self.keys.get("tasks")
        known = variants("task")
        if node is None or not node.value:
            mark = self.root.mark if node is None else node.name_mark
            self.problems.add(mark, "the space has no tasks:", f"write tasks: [NAME, ...]; one of {', '.join(known)}")
            return []
        tasks: list[Task] = []
        for item in node.value if isinstance(node.value, list) else [node]:
            task = self.task(item, known)
            if task is None:
                continue
            if any(other.name == task.name for other in tasks):
                self.problems.add(item.mark, f"two tasks are named {task.name}", "give one of them another name:")
            tasks.append(task)
        return tasks

    def task(self, node: Node, known: dict[str, type[Choice]]) -> Task | None:
        kind = Node(node.mark, node.value) if isinstance(node.value, str) else None
        if isinstance(node.value, dict):
            kind = node.value.get("kind")
        if kind is None or not isinstance(kind.value, str):
            mark = node.mark if kind is None else kind.mark
            self.problems.add(mark, "a task needs a kind", f"write {{kind: NAME, ...}}; one of {', '.join(known)}")
            return None
        if kind.value not in known:
            self.problems.add(kind.mark, f"unknown task {kind.value}", nearest(kind.value, known))
            return None
        mapping = node if isinstance(node.value, dict) else Node(node.mark, {"kind": kind}, node.key)
        found = validate(known[kind.value], mapping, f"task {kind.value}", self.problems)
        return found if isinstance(found, Task) else None

    def budget(self, tasks: list[Task]) -> Budget | None:
        node = self.keys.get("budget")
        if node is None or node.value is None:
            mark = self.root.mark if node is None else node.name_mark
            self.problems.add(mark, "the space has no budget:", "write budget: {tokens: 1e6}")
            return None
        before = len(self.problems.found)
        tokens = node.value.get("tokens") if isinstance(node.value, dict) else None
        if tokens is not None and isinstance(tokens.value, dict):
            known = [task.name for task in tasks]
            for name, child in tokens.value.items():
                if name not in known and tasks:
                    self.problems.add(child.name_mark, f"budget names {name}, which is no task", nearest(name, known))
            for name in known:
                if name not in tokens.value:
                    hint = f"add {name}: 1e6, or give one number for all"
                    self.problems.add(tokens.mark, f"budget lacks task {name}", hint)
            for name, child in tokens.value.items():
                self.tokens(child, f"budget of {name}")
        elif tokens is not None:
            self.tokens(tokens, "budget")
        return validate(Budget, node, "budget", self.problems) if len(self.problems.found) == before else None

    def tokens(self, node: Node, what: str) -> None:
        value = node.value
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or value != int(value) or value < 1:  # type: ignore[arg-type]
            shown = json.dumps(node.plain())
            self.problems.add(node.mark, f"{what} is {shown} tokens, not a whole number >= 1", "for example 1e6")

    def objectives(self, tasks: list[Task]) -> list[Objective]:
        node = self.keys.get("objectives")
        if node is None or node.value is None:
            first = tasks[0] if tasks else None
            if first is None:
                return []
            metric = first.primary
            return [Objective(metric=f"{first.name}.{metric.name}", goal=metric.goal)]
        found: list[Objective] = []
        items = node.value if isinstance(node.value, list) else [node]
        if not items:
            self.problems.add(node.mark, "objectives is empty", "name at least one, or leave the key out")
        goals = {f"{task.name}.{metric.name}": metric.goal for task in tasks for metric in task.metrics}
        for item in items:
            objective = self.objective(item, goals | COSTS)
            if objective is not None and any(objective.metric == other.metric for other in found):
                self.problems.add(item.mark, f"{objective.metric} stands twice", "keep one")
            elif objective is not None:
                found.append(objective)
        return found

    def objective(self, node: Node, goals: dict[str, Any]) -> Objective | None:
        value = node.value
        metric = node if isinstance(value, str) else value.get("metric") if isinstance(value, dict) else None
        if metric is None or not isinstance(metric.value, str):
            hint = "write TASK.METRIC, or {metric: TASK.METRIC, goal: max}"
            self.problems.add(node.mark, "an objective needs a metric", hint)
            return None
        if metric.value not in goals:
            task, _, name = metric.value.rpartition(".")
            inside = [m for m in goals if m.startswith(f"{task}.")] if task else []
            ends = [m for m in goals if m.endswith(f".{name}")]
            hint = f"did you mean {ends[0]}?" if not task and ends else nearest(metric.value, inside or list(goals))
            self.problems.add(metric.mark, f"unknown metric {metric.value}", hint)
            return None
        goal = goals[metric.value]
        fields = {"metric": metric, "goal": Node(metric.mark, goal)}
        if isinstance(value, dict):
            fields |= value
        return validate(Objective, Node(node.mark, fields, node.key), "objective", self.problems)
