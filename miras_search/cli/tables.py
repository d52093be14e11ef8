"""What the command line prints, given what it prints: tables and sentences on stdout. Imports no torch."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from miras_search.report.numbers import bytes_text
from miras_search.sweep.progress import duration, number

if TYPE_CHECKING:
    import pandas as pd

    from miras_search.candidate import Candidate
    from miras_search.cli.overview import Overview
    from miras_search.search import Leader, Point
    from miras_search.space import Space
    from miras_search.space.near import Near
    from miras_search.sweep.driver import Summary
    from miras_search.sweep.estimate import Estimate
    from miras_search.sweep.single import Again

CHOICES = ("memory", "bias", "retention", "algorithm")
PIPED = 1000
"""Columns where stdout is no terminal: nothing is wrapped or cut."""
ROWS = 50
"""Rows of a table on a screen; the other formats have all."""
_BETTER = {"max": "higher is better", "min": "lower is better"}


def console() -> Console:
    """Standard output, without markup: paths hold brackets."""
    width = None if sys.stdout.isatty() else PIPED
    return Console(file=sys.stdout, markup=False, highlight=False, emoji=False, width=width)


def heading(out: Console, text: str) -> None:
    """A title with a blank line before it."""
    out.print()
    out.print(Text(text, style="bold"))


def grid(out: Console, rows: Iterable[Sequence[str]], heads: Sequence[str] = (), right: Sequence[int] = ()) -> None:
    """Columns without lines around them; trailing blanks are cut."""
    rows = [list(row) for row in rows]
    table = Table(box=None, pad_edge=False, show_header=bool(heads), header_style="dim", padding=(0, 2, 0, 0))
    for i in range(len(heads) or max(map(len, rows), default=0)):
        table.add_column(heads[i] if heads else "", justify="right" if i in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    if out.is_terminal:
        out.print(Padding(table, (0, 0, 0, 2)))
        return
    with out.capture() as capture:
        out.print(Padding(table, (0, 0, 0, 2)))
    out.print("\n".join(line.rstrip() for line in capture.get().splitlines()), soft_wrap=True)


def space(space: Space) -> None:
    """`validate`: axes, size, exclusions, tasks."""
    from miras_search.space.merging import merge

    out, size = console(), space.size()
    out.print(
        Text.assemble((space.name, "bold"), f": {space.description}" if space.description else ""), soft_wrap=True
    )
    axes = space.axes()
    heading(out, f"{len(axes)} open parameter{'' if len(axes) == 1 else 's'}")
    rows = []
    for axis in axes:
        shown, _, when = str(axis).partition("  if ")
        rows.append((axis.path, shown.removeprefix(f"{axis.path}: "), f"if {when}" if when else ""))
    grid(out, rows or [("none: the space is one candidate", "", "")])
    heading(out, "size")
    counted = "not counted" if size.valid is None else f"{size.valid:,}"
    designs = "not counted" if size.valid_designs is None else f"{size.valid_designs:,}"
    rows = [
        ("candidates", f"{size.total:,} combinations", f"{counted} valid"),
        ("designs", f"{size.designs:,} combinations", f"{designs} valid"),
    ]
    if (merged := merge(space)) is not None:
        rows.append(("", "", str(merged)))
    if size.partial:
        rows.append(("", "", f"{size.partial:,} of the valid designs at some values of a range only"))
    if size.continuous:
        rows.append(("times", f"{len(size.continuous)} continuous", ", ".join(size.continuous)))
    grid(out, rows)
    if size.exclusions:
        heading(out, "excluded, each under its first reason")
        some = [f"{e.designs:,}" + (f" (+{e.partial:,} in part)" if e.partial else "") for e in size.exclusions]
        grid(
            out,
            [(n, e.code, f"{e.message}; {e.remedy}") for n, e in zip(some, size.exclusions, strict=True)],
            ("designs", "reason", "for example"),
            right=(0,),
        )
    if size.unreachable:
        heading(out, "in no valid design")
        grid(out, [(path,) for path in size.unreachable])
    heading(out, "trials")
    grid(out, _plan(space))


def _plan(space: Space) -> list[tuple[str, str]]:
    tasks = [f"{t.name} ({t.kind}, {t.context} tokens a row, {space.budget.of(t.name):,} tokens)" for t in space.tasks]
    rows = [("start with", ", ".join(space.start_with))] if space.start_with else []
    rows += [("task" if len(tasks) == 1 else "tasks", ", ".join(tasks)), ("seeds", str(space.seeds))]
    rows.append(("objectives", ", ".join(f"{o.metric} ({_BETTER[o.goal]})" for o in space.objectives)))
    if space.match:
        rows.append(("match", "; ".join(map(str, space.match))))
    if space.halving is not None:
        shown = ", ".join(f"{rung:g}" for rung in space.halving.rungs)
        rows.append(("halving", f"the best {space.halving.keep:.0%} go on at {shown} of the budget"))
    if space.lr_search is not None:
        rates = ", ".join(f"{rate:g}" for rate in space.lr_search.grid)
        rows.append(
            ("learning rate", f"best of {rates} by {space.lr_search.by}, {space.lr_search.work:g} budgets a trial")
        )
    if space.constraints is not None:
        rows.append(("constraints", str(space.constraints)))
    if space.finalists is not None:
        final = space.finalists
        rows.append(("finalists", f"the best {final.count} again on {final.seeds} fresh seeds, then on the test split"))
    search = space.search
    rows.append(
        ("search", f"{search.sampler}, {search.trials} trials, {search.parallel} at a time, seed {search.seed}")
    )
    return rows


def space_json(space: Space) -> dict[str, Any]:
    """`validate --json`."""
    from miras_search.space.merging import merge

    size, merged = space.size(), merge(space)
    axes = [
        {
            "path": axis.path,
            "kind": axis.kind,
            "values": list(axis.values) or None,
            "low": axis.low,
            "high": axis.high,
            "step": axis.step,
            "count": axis.count,
            "condition": dict(axis.condition),
        }
        for axis in space.axes()
    ]
    fields = ("total", "valid", "designs", "valid_designs", "partial")
    return {
        "name": space.name,
        "axes": axes,
        "size": {name: getattr(size, name) for name in fields}
        | {"merged": None if merged is None else merged._asdict()}
        | {"continuous": list(size.continuous), "unreachable": list(size.unreachable)},
        "excluded": [exclusion._asdict() for exclusion in size.exclusions],
        "rows_per_candidate": space.rows,
        "digest": space.digest,
        "space": space.plain(),
    }


def designs(entries: Sequence[Mapping[str, Any]], hybrids: Sequence[Mapping[str, Any]]) -> None:
    """`designs`: choices and fingerprint, then recurrence, source, fidelity and what it was verified by."""
    out = console()
    grid(
        out,
        [[e["name"], *(e[c] for c in CHOICES), e["fingerprint"]] for e in entries],
        ("design", *CHOICES, "fingerprint"),
    )
    for entry in entries:
        heading(out, entry["name"])
        _lines(out, entry["recurrence"], entry["paper"], entry["fidelity"], f"Verified by {entry['verified']}.")
    for entry in hybrids:
        heading(out, f"{entry['name']}: layers of {' and '.join(entry['layers'])}")
        _lines(out, entry["paper"], entry["fidelity"])


def _lines(out: Console, *texts: str) -> None:
    for text in texts:
        out.print(Padding(Text(text), (0, 0, 0, 2)) if out.is_terminal else f"  {text}", soft_wrap=not out.is_terminal)


def design_json(name: str) -> dict[str, Any]:
    """An entry of `designs`."""
    from miras_search.codegen.emit import recurrence
    from miras_search.named import NAMED, verified

    design, paper, fidelity = NAMED[name]
    kinds = {part: getattr(design, part).kind for part in CHOICES}
    entry: dict[str, Any] = {"name": name, **kinds, "fingerprint": design.fingerprint, "recurrence": recurrence(design)}
    entry |= {"paper": paper, "fidelity": fidelity, "verified": str(verified()[name])}
    return entry | {"design": design.model_dump(mode="json")}


def hybrid_json(name: str) -> dict[str, Any]:
    """An entry of `designs` that is a model of two designs."""
    from miras_search.named import HYBRIDS, label

    entry = HYBRIDS[name]
    layers = [label(entry.design) if part == "design" else part for part in entry.pattern]
    return {"name": name, "layers": layers, "paper": entry.paper, "fidelity": entry.fidelity}


def near(found: Sequence[Near]) -> None:
    """`designs --near`: the nearest, and what differs from each."""
    out = console()
    for i, entry in enumerate(found):
        if i:
            out.print()
        kinds = sum(path.endswith(".kind") for path, _, _ in entry.differences)
        fields = len(entry.differences) - kinds
        told = [f"{n} {word}{'s' * (n > 1)}" for n, word in ((kinds, "choice"), (fields, "field")) if n]
        away = f"  {' and '.join(told)} away" if told else "  the same function"
        out.print(Text.assemble((entry.name, "bold"), away), soft_wrap=True)
        if entry.differences:
            grid(out, [(p, _value(a), _value(b)) for p, a, b in entry.differences], ("field", "here", entry.name))


def _value(value: Any) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def explain_json(candidate: Candidate, vocab: int, context: int) -> dict[str, Any]:
    """`explain --json`: of every memory its coordinates and equations; of the model its cost."""
    from miras_search.candidate import layer_parameters
    from miras_search.codegen.emit import equations
    from miras_search.named import MODELS, label, verified
    from miras_search.space.near import near as nearest

    size = candidate.backbone
    memories = []
    for design, layers in candidate.memories.items():
        name = label(design)
        known = MODELS.get(name)
        memories.append(
            {
                "name": name,
                "fingerprint": design.fingerprint,
                "structure": design.structure,
                "layers": layers,
                "design": design.model_dump(mode="json"),
                "meaning": {part: type(getattr(design, part)).summary() for part in CHOICES},
                "equations": equations(design).splitlines(),
                "paper": known.paper if known else None,
                "fidelity": known.fidelity if known else None,
                "verified": str(verified()[name]) if name in verified() else None,
                "near": None if known else nearest(design)[0]._asdict(),
                "parameters_per_layer": layer_parameters(design, size.width, size.heads),
            }
        )
    cost = {
        "parameters": candidate.parameters(vocab),
        "state_bytes": candidate.state_bytes(context),
        "buffer_bytes": candidate.buffer_bytes(),
        "flops_per_token": candidate.flops_per_token(context),
    }
    at = {**size.model_dump(mode="json", exclude={"pattern"}), "vocab": vocab, "context": context}
    return {"name": candidate.label, "memories": memories, "cost": cost, "at": at}


def explain(about: Mapping[str, Any]) -> None:
    """`explain`."""
    out = console()
    for i, entry in enumerate(about["memories"]):
        title = entry["name"] or entry["fingerprint"]
        if len(about["memories"]) > 1:
            title = f"{about['name'] or 'hybrid'}, {entry['layers']} of {about['at']['layers']} layers: {title}"
        heading(out, title) if i else out.print(Text(title, style="bold"))
        design = entry["design"]
        rows = [(part, design[part]["kind"], _fields(design[part]), entry["meaning"][part]) for part in CHOICES]
        grid(out, [*rows, ("block", "", _fields(design["block"]), "")])
        out.print()
        _lines(out, *entry["equations"])
        if entry["paper"]:
            out.print()
            _lines(out, entry["paper"], entry["fidelity"])
        if entry["verified"]:
            _lines(out, f"Verified by {entry['verified']}.")
        if entry["near"]:
            differs = ", ".join(f"{p} {_value(a)} for {_value(b)}" for p, a, b in entry["near"]["differences"])
            out.print()
            _lines(out, f"Nearest published design: {entry['near']['name']}; here {differs}.")
        out.print()
        _lines(out, f"fingerprint {entry['fingerprint']}, structure {entry['structure']}")
    cost, at = about["cost"], about["at"]
    heading(out, f"cost of a model: {', '.join(f'{name} {value:g}' for name, value in at.items())}")
    layers = ", ".join(f"{entry['parameters_per_layer']:,}" for entry in about["memories"])
    grid(
        out,
        [
            ("parameters", f"{cost['parameters']:,}", f"{layers} in a memory layer"),
            (
                "state",
                f"{cost['state_bytes']:,} bytes",
                f"a sequence, float32; and {cost['buffer_bytes']:,} of buffers",
            ),
            ("operations", f"{cost['flops_per_token']:,}", "a token, forward"),
        ],
    )
    for entry in about["memories"]:
        if "source" in entry:
            out.print()
            print(entry["source"], end="")


def _fields(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_value(value) or 'none'}" for name, value in values.items() if name != "kind")


def tasks(entries: Sequence[Mapping[str, Any]]) -> None:
    """`tasks`: kind, metrics, fields with defaults, source and published numbers."""
    out = console()
    for i, entry in enumerate(entries):
        if i:
            out.print()
        out.print(Text.assemble((entry["kind"], "bold"), f"  {entry['summary']}"), soft_wrap=True)
        metrics = [f"{m['name']} ({m['goal']}{', ' + m['unit'] if m['unit'] else ''})" for m in entry["metrics"]]
        fields = [f"{name}: {'' if value is None else value}".rstrip() for name, value in entry["fields"].items()]
        rows = [("metrics", ", ".join(metrics)), ("fields", ", ".join(fields))]
        if entry["published"]:
            rows.append(("source", entry["published"]["source"]))
            rows.append(("published", f"{entry['published']['metric']}: {entry['published']['numbers']}"))
        grid(out, rows)


def estimate(found: Estimate) -> None:
    """`sweep --dry-run`."""
    out = console()
    rest = f", {found.done} are done" if found.done else ""
    all_of_it = "; the space has no more" if found.exhausted else ""
    slow = f"a trial {duration(found.spread[0])} to {duration(found.spread[1])}, {found.workers} at a time"
    grid(
        out,
        [
            ("trials", f"{found.trials} of {found.candidates} candidates{rest}{all_of_it}"),
            ("time", f"about {duration(found.seconds)} ({slow})"),
            ("memory", f"about {bytes_text(found.memory_bytes)}"),
            ("disk", f"about {bytes_text(found.disk_bytes)}"),
        ],
    )
    heading(out, "measured")
    rows = [(p.design, p.task, f"{p.tokens_per_second:,.0f}", f"{p.flops_per_token:,}") for p in found.probes]
    grid(out, rows, ("design", "task", "tokens/s", "FLOP/token"), right=(2, 3))
    heading(out, "assumed")
    grid(out, [(text,) for text in found.assumptions])


def sweep(summary: Summary, resume: str) -> None:
    """The end of `sweep`: what came out, where it is, what to do next."""
    out = console()
    counts = ", ".join(f"{count} {status}" for status, count in summary.counts.items())
    new = "" if summary.new == summary.rows else f" ({summary.new} of them now)"
    done = Text.assemble(
        (summary.name, "bold"), f": {summary.rows} trials{new} in {duration(summary.seconds)}: {counts}"
    )
    out.print(done, soft_wrap=True)
    if summary.exhausted:
        out.print("  every point of the space has been tried")
    best(out, summary.best)
    pareto(out, summary.front, [leader.metric for leader in summary.best])
    failed(out, summary.causes)
    if summary.rungs:
        heading(out, "rungs")
        grid(out, [(str(found),) for found in summary.rungs])
    if summary.finals:
        heading(out, "finalists")
        grid(out, [(metric, str(finalist)) for metric, finalist in summary.finals])
    heading(out, "where")
    rows = [(str(summary.folder), "space, ledger (a line a trial), checkpoints, emitted source")]
    if summary.evicted:
        rows.append(("", f"weights of {summary.evicted} trials, the worst, were let go (checkpoints: in space.yaml)"))
    grid(out, rows)
    name = summary.name
    first = next((leader for leader in summary.best if "." in leader.metric), None)
    sort = f" --sort {'-' if first.goal == 'max' else ''}{first.metric.rpartition('.')[2]}" if first else ""
    heading(out, "next")
    rows = [
        (f"miras-search results {name}{sort}", "all trials as a table"),
        (f"miras-search report {name} -o {summary.folder}/report.html", "what won and how sure that is, as one page"),
        (f"miras-search export {name} -o exported/{name}", "the best model as a Hugging Face folder"),
    ]
    if not summary.exhausted:
        rows.append((f"{resume} --trials {2 * summary.rows}", "go on with more trials"))
    grid(out, rows)


def best(out: Console, leaders: Sequence[Leader]) -> None:
    """The best by each objective."""
    if not leaders:
        return
    heading(out, "best")
    rows = [(b.metric, number(b.value), f"({_BETTER[b.goal]})", b.design, f"trial {b.key}") for b in leaders]
    grid(out, rows, right=(1,))


def pareto(out: Console, front: Sequence[Point], objectives: Sequence[str]) -> None:
    """The candidates that none is better than, of several objectives."""
    if front:
        heading(out, f"Pareto front, {len(front)} of the candidates")
        rows = [(str(p.n), p.design, *map(number, p.values)) for p in front]
        grid(out, rows[:ROWS], ("n", "design", *objectives), right=(0, *range(2, 2 + len(objectives))))


def failed(out: Console, causes: Mapping[str, int]) -> None:
    """What failed and why, the most frequent first."""
    if causes:
        heading(out, "failed")
        grid(out, [(str(count), cause) for cause, count in list(causes.items())[:10]], right=(0,))


def status(found: Overview) -> None:
    """`status`."""
    out = console()
    counts = ", ".join(f"{count} {status}" for status, count in found.counts.items()) or "none yet"
    head = f"{found.state}, {found.rows} of {found.total} trials: {counts}"
    if found.left is not None and found.rows < found.total:
        head += f"; about {duration(found.left)} left"
    out.print(Text.assemble((found.name, "bold"), f" ({found.folder}): {head}"), soft_wrap=True)
    if found.driver is not None:
        out.print(
            "  driven by process {pid} on {host} since {since}".format(**{**_WHO, **found.driver}), soft_wrap=True
        )
    elif found.state == "stopped" and found.resume:
        out.print(f"  go on with: {found.resume}", soft_wrap=True)
    best(out, found.best)
    pareto(out, found.front, found.objectives)
    if found.at_work:
        heading(out, "at work" if found.driver else "left unfinished")
        rows = []
        for t in found.at_work:
            share = f"{t.tokens / t.budget:.0%}" if t.budget else ""
            loss = "" if t.loss is None else f"loss {t.loss:.3f}"
            rows.append((t.key, t.design, f"{t.task}, seed {t.seed}", f"{t.tokens:,} tokens", share, loss))
        grid(out, rows, right=(3, 4))
    failed(out, found.causes)
    if found.evicted:
        out.print(f"\nweights of {found.evicted} finished trials are gone (checkpoints: in space.yaml)", soft_wrap=True)


_WHO = {"pid": "?", "host": "?", "since": "?"}


def trial(record: Any) -> None:
    """The end of `train`: one trial."""
    out = console()
    said = f"{record.label or record.fingerprint} on {record.task}, seed {record.seed}: {record.status}"
    out.print(Text(said + (f", {record.cause}" if record.cause else ""), style="bold"), soft_wrap=True)
    ran = (record.path, record.path_reason)
    rows = [(name, number(value)) for name, value in record.metrics.items()]
    rows += [
        ("tokens", f"{record.tokens:,} in {record.steps:,} steps, {duration(record.seconds)}"),
        ("speed", f"{record.tokens_per_second:,.0f} tokens/s ({': '.join(filter(None, ran)) or 'nothing ran'})"),
        ("parameters", f"{record.parameters:,}"),
        ("state", f"{record.state_bytes:,} bytes a sequence"),
    ]
    grid(out, rows)


def again(found: Again) -> None:
    """The end of `train --from`: both sets of numbers, and whether they are equal."""
    out = console()
    what = "the same again" if found.equal else "NOT the same"
    out.print(Text(f"trial {found.then.key}: {what}", style="bold green" if found.equal else "bold red"))
    rows = [(r.name, _exact(r.then), _exact(r.now), "equal" if r.equal else "differs") for r in found.rows]
    if found.then.status != found.now.status or not rows:
        rows.append(("status", found.then.status, found.now.status, "differs"))
    grid(out, rows, ("", "then", "now", ""))
    if not found.equal and found.reasons:
        heading(out, "what may explain it")
        grid(out, [(reason,) for reason in found.reasons])


def again_json(found: Again) -> dict[str, Any]:
    """`train --from --json`."""
    rows = [{"name": r.name, "then": r.then, "now": r.now, "equal": r.equal} for r in found.rows]
    records = {"then": found.then.model_dump(mode="json"), "now": found.now.model_dump(mode="json")}
    return {"equal": found.equal, "numbers": rows, "reasons": list(found.reasons), **records}


def _exact(value: float | None) -> str:
    return "none" if value is None else repr(value)


def results(frame: pd.DataFrame) -> None:
    """`results` as a table, numbers rounded; at most `ROWS` rows."""
    out = console()
    numeric = [i for i, name in enumerate(map(str, frame)) if frame[name].dtype.kind in "iuf"]
    rows = [[_cell(value) for value in row] for row in frame.head(ROWS).itertuples(index=False)]
    grid(out, rows, [*map(str, frame)], right=numeric)
    if len(frame) > ROWS:
        out.print(f"  and {len(frame) - ROWS} more; all of them with --format csv, json, markdown or parquet")


def brief(frame: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """What fits on a screen of a table of trials: the choices in one column, and no constants."""
    choices = frame[["memory", "bias", "retention", "algorithm"]].agg("/".join, axis=1)
    view = frame.assign(design=frame["label"].where(frame["label"] != "", choices))
    runs = ["run"] if frame["run"].nunique() > 1 else []
    known = [name for name in metrics if frame[name].notna().any()]
    causes = ["cause"] if (frame["cause"] != "").any() else []
    return view[[*runs, "key", "design", "task", "seed", "status", *causes, *known, "parameters", "seconds"]]


def _cell(value: Any) -> str:
    if value is None or value != value or str(value) in ("<NA>", "NaT"):
        return ""
    if isinstance(value, float):
        return number(value)
    return str(value)


def text(frame: pd.DataFrame, kind: str) -> str:
    """A table as text: csv, json (a list of rows), markdown, or as on a screen."""
    if kind == "csv":
        return str(frame.to_csv(index=False))
    if kind == "json":
        return str(frame.to_json(orient="records", date_format="iso", indent=1)) + "\n"
    return markdown(frame) + "\n"


def markdown(frame: pd.DataFrame) -> str:
    """A table in Markdown."""
    rows = [[_cell(value).replace("|", "\\|") for value in row] for row in frame.itertuples(index=False)]
    heads = [*map(str, frame)]
    rule = ["---:" if frame[name].dtype.kind in "iuf" else "---" for name in heads]
    return "\n".join(f"| {' | '.join(row)} |" for row in [heads, rule, *rows])


def printable(text: str) -> str:
    """Text of a model, with what would steer a terminal made visible."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
