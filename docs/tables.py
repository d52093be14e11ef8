"""Writes the tables of the docs from the code and from the committed measurements, between their markers.

    python docs/tables.py            write them anew
    python docs/tables.py --check    say which are out of date; exit code 1 if any is

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; NAME is a key of `TABLES`.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

import miras_search.tasks  # noqa: F401  (registers the tasks)
from miras_search import algorithm, bias, memory, retention, rules
from miras_search.choice import Choice
from miras_search.choice import variants as known
from miras_search.codegen.compiled import table as compiled
from miras_search.codegen.dialect import TORCH
from miras_search.named import NAMED, verified

ROOT = Path(__file__).resolve().parent.parent
FILES = ("README.md", "CONTRIBUTING.md", "docs/design-space.md", "docs/fidelity.md", "docs/kernels.md", "docs/tasks.md")
CHOICES = ("memory", "bias", "retention", "algorithm")
MARKED = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)])


def number(value: Any) -> str:
    """As one writes it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


def field(name: str, schema: dict[str, Any]) -> str:
    """`name` = default (what else it may be)."""
    schema = {**schema, **next((s for s in schema.get("anyOf", []) if s.get("type") != "null"), {})}
    default = schema.get("default")
    low, high = (
        schema.get("minimum", schema.get("exclusiveMinimum")),
        schema.get("maximum", schema.get("exclusiveMaximum")),
    )
    span = ""
    if "enum" in schema:
        span = " or ".join(number(v) for v in schema["enum"] if v != default)
    elif low is not None and high is not None:
        span = f"{number(low)} to {number(high)}"
    elif low is not None:
        span = f"{'>' if 'exclusiveMinimum' in schema else '>='} {number(low)}"
    return f"`{name}` = {number(default)}" + (f" ({span})" if span else "")


def variants(classes: Sequence[type[Choice]], base: type[Choice] = Choice) -> str:
    """A row a variant: kind, first line of its docstring, fields; those of `base` have a row of their own."""
    rows = []
    if base is not Choice:
        shared = {n: s for n, s in base.model_json_schema()["properties"].items() if n != "kind"}
        rows.append(("(all)", "", "; ".join(field(n, s) for n, s in shared.items())))
    for cls in classes:
        schema = cls.model_json_schema()["properties"]
        properties = {n: s for n, s in schema.items() if n not in base.model_fields and n != "kind"}
        rows.append((f"`{cls.variant()}`", cls.summary(), "; ".join(field(n, s) for n, s in properties.items())))
    return table(("kind", "what it is", "fields: default (else)"), rows)


def tasks() -> str:
    """A row a task: kind, first line of its docstring, metrics, fields."""
    rows = []
    for kind, cls in known("task").items():
        own = {n: s for n, s in cls.model_json_schema()["properties"].items() if n not in ("kind", "name", "protocol")}
        metrics = ", ".join(f"{metric.name} ({metric.goal})" for metric in cls.metrics)
        rows.append((f"`{kind}`", cls.summary(), metrics, "; ".join(field(n, s) for n, s in own.items())))
    return table(("kind", "what it is", "metrics", "fields: default (else)"), rows)


def published() -> str:
    """A row a task with a publication: where its definition stands, what is counted, numbers as printed."""
    entries = ((kind, cls.published) for kind, cls in known("task").items())
    rows = ((f"`{kind}`", e.source, e.metric, e.numbers) for kind, e in entries if e is not None)
    return table(("task", "source", "counts", "published"), rows)


def short(choice: Choice) -> str:
    """The kind, and the fields that are not at their defaults."""
    fields = type(choice).model_fields
    other = {n: v for n, v in choice.model_dump().items() if n != "kind" and v != fields[n].default}
    return f"`{choice.kind}`" + (f" ({', '.join(f'{n} {number(v)}' for n, v in other.items())})" if other else "")


def choices() -> str:
    """The four questions, and the kinds that answer each."""
    questions = {
        "memory": ("memory", "What function is learned online?", memory.VARIANTS),
        "bias": ("attentional bias", "What inner loss says that it remembers?", bias.VARIANTS),
        "retention": ("retention gate", "How does it keep what it has?", retention.VARIANTS),
        "algorithm": ("algorithm", "How does a gradient become a write?", algorithm.VARIANTS),
    }
    rows = ((name, asked, ", ".join(f"`{c.variant()}`" for c in found)) for name, asked, found in questions.values())
    return table(("choice", "question", "here"), rows)


def named() -> str:
    """A row a published design: its four choices, how far it is from independent code, and its cost beside attention."""
    cost = pd.read_parquet(ROOT / "runs" / "reference" / "speed.parquet").set_index("design")["ratio"]
    known = verified()
    rows = []
    for name, entry in NAMED.items():
        deviation = f"{known[name].outputs:.0e}" if name in known else "not compared"
        time = f"{cost[name]:.1f}" if name in cost.index else "not measured"
        rows.append((f"`{name}`", *(short(getattr(entry.design, part)) for part in CHOICES), deviation, time))
    return table(("design", *CHOICES, "deviation", "time"), rows)


def fidelity() -> str:
    """A row a published design: source, and how far it is followed."""
    return table(
        ("design", "source", "how far it is followed"), ((f"`{n}`", e.paper, e.fidelity) for n, e in NAMED.items())
    )


def verification() -> str:
    """A row a published design: what it was compared with, and the largest deviations; from miras_search/verified.json."""
    rows = (
        (
            f"`{name}`",
            entry.source,
            f"{entry.outputs:.0e}",
            f"{entry.gradients:.0e}" + ("" if entry.exact else " (differences)"),
        )
        for name, entry in verified().items()
    )
    return table(("design", "compared with", "outputs", "gradients"), rows)


def refused() -> str:
    """A row a reason why four choices are no model, with the way out; read from the source."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(rules)))
    calls = [
        n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == "Refusal"
    ]
    calls.sort(key=lambda call: call.lineno)
    return table(
        ("code", "way out"), ((f"`{ast.literal_eval(c.args[0])}`", ast.literal_eval(c.args[2])) for c in calls)
    )


def dialect() -> str:
    """The functions that a formula may call."""
    return textwrap.fill(", ".join(f"`{word}`" for word in TORCH), 118)


def anchors(task: str, metric: str, sign: float) -> Callable[[], str]:
    """A row a design beside its zeroed twin, from runs/reference/anchors-TASK.parquet."""

    def arm(frame: pd.DataFrame) -> str:
        bad = frame[frame["status"] != "ok"]
        if len(bad):
            return f"{len(bad)} of {len(frame)}: {bad['status'].iloc[0]}"
        values = frame[metric]
        return f"{values.mean():.3f}" + (f" ({values.min():.3f} to {values.max():.3f})" if len(frame) > 1 else "")

    def text() -> str:
        path = ROOT / "runs" / "reference" / f"anchors-{task}.parquet"
        if not path.exists():
            return f"Not measured yet: `{path.relative_to(ROOT)}` is missing."
        frame, rows = pd.read_parquet(path), []
        for name in [n for n in NAMED if n in set(frame["design"])]:
            memory, zeroed = (
                frame[(frame["design"] == name) & (frame["arm"] == a)].set_index("seed") for a in ("memory", "zeroed")
            )
            gain = (sign * (memory[metric] - zeroed[metric])).dropna()
            seeds = len(gain)
            rows.append((f"`{name}`", arm(memory), arm(zeroed), f"{gain.mean():+.3f}" if seeds else "", str(seeds)))
        return table(("design", f"{metric.replace('_', ' ')}", "memory zeroed", "gain", "seeds"), rows)

    return text


def spills() -> str:
    """Kernels that spill: the largest stack among their designs, by Triton's version."""
    entries = compiled().values()
    versions = sorted({version for entry in entries for version in entry["found"]})
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for entry in entries:
        groups.setdefault((entry["kernel"].split()[0], entry["arch"]), []).append(entry)
    rows = []
    for (kernel, arch), found in sorted(groups.items()):
        spilling = sorted({e["design"] for e in found if any(usage["stack"] for usage in e["found"].values())})
        if spilling:
            largest = [max((e["found"][v]["stack"] for e in found if v in e["found"]), default=None) for v in versions]
            rows.append((f"`{kernel}`", f"sm_{arch}", "; ".join(spilling), *map(number, largest)))
    return table(("kernel", "for", "designs", *(f"bytes a thread, triton {v}" for v in versions)), rows)


TABLES: dict[str, Callable[[], str]] = {
    "memory": lambda: variants(memory.VARIANTS),
    "bias": lambda: variants(bias.VARIANTS, bias.Bias),
    "retention": lambda: variants(retention.VARIANTS),
    "algorithm": lambda: variants(algorithm.VARIANTS),
    "tasks": tasks,
    "published": published,
    "choices": choices,
    "named": named,
    "fidelity": fidelity,
    "verified": verification,
    "refusals": refused,
    "dialect": dialect,
    "spills": spills,
    "anchors-recall": anchors("recall", "accuracy", 1.0),
    "anchors-text": anchors("text", "bits_per_byte", -1.0),
}


def render(text: str) -> str:
    """The text with its tables as they should be."""
    return MARKED.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}\n{found[3]}", text)


def main() -> None:
    """Write or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    stale = []
    for name in FILES:
        path = ROOT / name
        old = path.read_text(encoding="utf-8")
        new = render(old)
        if new != old:
            stale.append(name)
            if not given.check:
                path.write_text(new, encoding="utf-8")
    if stale:
        print(("out of date: " if given.check else "written: ") + ", ".join(stale))
    raise SystemExit(1 if stale and given.check else 0)


if __name__ == "__main__":
    main()
