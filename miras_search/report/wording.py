"""Findings in plain words and as tables, for HTML and Markdown alike: `**strong**` and backticks are all the markup."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from miras_search.report.findings import Findings
from miras_search.report.numbers import bounds, bytes_text, count_text, estimate, plural
from miras_search.report.verdicts import Entry, Verdict
from miras_search.results import CHOICES
from miras_search.statistics import Interval

BEST = 15
"""Rows of a table of best candidates."""


class Cell(NamedTuple):
    """What is shown, and the exact value behind it (None: text)."""

    text: str
    value: float | None = None


@dataclass(frozen=True)
class Table:
    """A caption, heads (a leading `>` sets the column to the right) and rows."""

    caption: str
    heads: list[str]
    rows: list[list[Cell]]


def title(found: Findings) -> str:
    """The one-line answer, no surer than the numbers are."""
    if not found.verdicts:
        return f"{found.title}: no trial has finished"
    said = []
    for verdict in found.verdicts:
        clear = verdict.ahead is None or verdict.ahead.excludes_zero
        said.append(f"{verdict.best.name} {'is best' if clear else 'leads'} on {verdict.objective.task}")
    if len(said) == 1 and verdict.ahead is not None and not clear:
        said[0] += ", on one seed" if verdict.ahead.n <= 1 else ", within seed noise"
    return "; ".join(dict.fromkeys(said))


def searched(found: Findings) -> str:
    """What was searched: space, tasks, trials, budget, seeds."""
    varied = [f"{len(values)} {_plural_choice(c, len(values))}" for c, values in found.searched.items() if values]
    budget = " or ".join(count_text(b) for b in found.budgets)
    seeds = "1 seed each" if len(found.seeds) == 1 else f"{len(found.seeds)} seeds"
    how = f" by {found.sampler} search" if found.sampler else ""
    candidates = f"**{found.candidates} {plural(found.candidates, 'candidate')}**"
    trials = f"**{found.trials} {plural(found.trials, 'trial')}**"
    return (
        f"Searched{how}: {', '.join(varied)}; {candidates} in {trials} on {_join(found.tasks)}, "
        f"{budget} training tokens each, {seeds}, {_hours(found.hours)} of training in all."
    )


def verdict_lines(verdict: Verdict) -> list[str]:
    """What won, by how much over the runner-up and over the best published design, and how sure that is."""
    best, objective = verdict.best, verdict.objective
    of = (
        f"the best of {len(verdict.ranked)} candidates"
        if len(verdict.ranked) > 1
        else "the only candidate that finished"
    )
    settings = f" ({best.settings})" if best.settings else ""
    kind = ", a published design," if best.published else ""
    lines = [
        f"On **{objective.task}**, **{best.name}**{settings}{kind} is {of}: "
        f"{_words(objective.metric)} **{estimate(best.interval)}** ({sure(best.interval)})."
    ]
    rivals = [
        ("the runner-up", verdict.runner_up, verdict.ahead),
        (
            "the next published design" if best.published else "the best published design",
            verdict.published,
            verdict.ahead_of_published,
        ),
        ("the best design that is not published", verdict.unpublished, verdict.ahead_of_unpublished),
    ]
    told: dict[str, str] = {}
    for what, entry, gap in rivals:
        if entry is None or gap is None:
            continue
        if entry.fingerprint in told:
            lines = [
                line.replace(told[entry.fingerprint], f"{told[entry.fingerprint]} and {what}", 1) for line in lines
            ]
        else:
            lines.append(f"Over {what}, {_full(entry, best)}: {difference(gap)}.")
            told[entry.fingerprint] = f"Over {what}"
    if not any(e.published for e in verdict.ranked):
        lines.append("No published design finished on this task to compare with: name some under `start_with`.")
    return lines


def sure(interval: Interval) -> str:
    """`95 % interval 0.91 to 0.98, 3 seeds`, or `one seed: no interval`."""
    if interval.n == 1:
        return "one seed: no interval"
    return f"{interval.level * 100:g}\u00a0% interval {bounds(interval)}, {interval.n} seeds"


def difference(interval: Interval) -> str:
    """How far ahead, and whether that could be chance."""
    by = f"ahead by **{estimate(interval)}**" if interval.estimate > 0 else "**level**"
    if interval.estimate < 0:
        by = f"behind by **{estimate(interval).lstrip('−')}** on the seeds they share"
    if interval.n == 0:
        return f"{by} (no common seed: no interval)"
    if interval.n == 1:
        return f"{by} (one seed: no interval, this may be chance)"
    if interval.low == interval.high:
        said = "all seeds agree"
    elif interval.excludes_zero:
        said = "beyond seed noise"
    else:
        said = "**not separated**, more seeds would be needed"
    return f"{by} ({interval.level * 100:g}\u00a0% interval {bounds(interval)}, {interval.n} paired seeds: {said})"


def failed(found: Findings) -> str:
    """What failed and why, in a sentence or two."""
    pruned = found.statuses.get("pruned", 0)
    early = f" {pruned} more {_was(pruned)} stopped early by the search, as intended." if pruned else ""
    refused = sum(found.rejected.values())
    draws = ""
    if refused:
        most = max(found.rejected, key=lambda c: found.rejected[c])
        draws = (
            f" {refused} {plural(refused, 'draw')} {_was(refused)} refused before training, most often for `{most}`."
        )
    if not found.failed:
        return f"No trial failed.{early}{draws}"
    count = f"**{found.failed} of {found.trials} {plural(found.trials, 'trial')}** failed"
    kinds: dict[str, int] = {}
    for failure in found.failures:
        kinds[failure.status] = kinds.get(failure.status, 0) + failure.trials
    reasons = _join([f"{n} {status.replace('_', ' ')}" for status, n in sorted(kinds.items(), key=lambda kv: -kv[1])])
    cause = found.failures[0].cause or "no cause recorded"
    often = "" if len(found.failures) == 1 else "most often "
    return f"{count}: {reasons} ({often}`{cause}`).{where_failed(found)}{early}{draws}"


def where_failed(found: Findings) -> str:
    """The value of a choice that failed most clearly more often than the rest, if one did."""
    rates = found.failure_rates
    overall = found.failed / found.trials
    rates = rates[(rates["low"] > overall) & (rates["failed"] > 1)]
    if rates.empty:
        return ""
    row = rates.sort_values("low", ascending=False).iloc[0]
    return f" {row['failed']} of the {row['trials']} trials with {row['choice']} `{row['value']}` failed."


def caveats(found: Findings) -> list[str]:
    """What a reader must know before believing the numbers."""
    out = list(found.notes)
    several = [v for v in found.verdicts if len(v.ranked) > 1]
    if several:
        most = max(len(v.ranked) for v in several)
        out.append(
            f"The winner was picked among {most} candidates by the very scores shown, so its score is somewhat too "
            "good; seeds that took no part in the choice would tell."
        )
    if len(found.seeds) == 1:
        out.append("Every candidate was trained with one seed: differences of the size of seed noise mean nothing.")
    if not found.balanced:
        out.append(
            "The candidates are not balanced over the four choices: the means by choice describe these trials and "
            "attribute nothing to a choice."
        )
    return out


def facts(found: Findings) -> list[tuple[str, str]]:
    """Names and values for the head of the page."""
    done = found.statuses.get("ok", 0)
    out = [
        ("trials", f"{done} of {found.trials} ok"),
        ("candidates", str(found.candidates)),
        ("tasks", ", ".join(found.tasks)),
        ("seeds", f"{len(found.seeds)} ({', '.join(map(str, found.seeds))})"),
        ("tokens a trial", " or ".join(count_text(b) for b in found.budgets)),
        ("training time", _hours(found.hours)),
    ]
    return [(name, value) for name, value in out if value]


def best_table(verdict: Verdict) -> Table:
    """The best candidates of an objective; the best published one stands in it whatever its rank."""
    shown = verdict.ranked[:BEST]
    if verdict.published and verdict.published not in shown:
        shown = [*shown, verdict.published]
    metric = _words(verdict.objective.metric)
    heads = [
        ">#",
        "design",
        "settings",
        f">{metric}",
        ">interval",
        ">seeds",
        ">state",
        ">parameters",
        ">tokens/s",
        "candidate",
    ]
    rows = [
        [
            Cell(str(e.rank), e.rank),
            Cell(f"**{e.name}**" if e.published else e.name),
            Cell(e.settings),
            Cell(estimate(e.interval), e.interval.estimate),
            Cell(bounds(e.interval)),
            Cell(str(e.interval.n), e.interval.n),
            Cell(bytes_text(e.state_bytes) if e.state_bytes else "–", e.state_bytes),
            Cell(f"{e.parameters:,}", e.parameters),
            Cell(
                f"{e.tokens_per_second:,.0f}" if e.tokens_per_second == e.tokens_per_second else "–",
                e.tokens_per_second,
            ),
            Cell(f"`{e.fingerprint}`"),
        ]
        for e in shown
    ]
    left = len(verdict.ranked) - BEST
    more = f" The {left} below are in the table of results." if left > 0 else ""
    marked = " Published designs in bold." if any(e.published for e in shown) else ""
    return Table(
        f"Best candidates on {verdict.objective.name}: mean over seeds on validation data.{marked}{more}", heads, rows
    )


def effects_table(verdict: Verdict) -> Table:
    """The numbers behind the figure of effects."""
    heads = ["choice", "value", ">mean", ">interval", ">candidates", ">trials"]
    rows = [
        [
            Cell(str(row["choice"])),
            Cell(str(row["value"])),
            Cell(estimate(mean := Interval(row["mean"], row["low"], row["high"], row["candidates"])), mean.estimate),
            Cell(bounds(mean)),
            Cell(str(row["candidates"]), float(row["candidates"])),
            Cell(str(row["trials"]), float(row["trials"])),
        ]
        for _, row in verdict.effects.iterrows()
    ]
    return Table(f"Mean {_words(verdict.objective.metric)} on {verdict.objective.task} by choice.", heads, rows)


def failure_table(found: Findings) -> Table:
    """Failed trials by status and cause."""
    rows = [
        [Cell(f.status), Cell(f.cause or "–"), Cell(str(f.trials), f.trials), Cell(f"`{f.key}`")]
        for f in found.failures
    ]
    return Table(
        "Failures by cause; causes that differ in numbers alone are counted together.",
        ["status", "cause", ">trials", "first"],
        rows,
    )


def rates_table(found: Findings) -> Table:
    """Failure rates by choice, values with failures only."""
    rates = found.failure_rates[found.failure_rates["failed"] > 0]
    rows = [
        [
            Cell(str(r["choice"])),
            Cell(str(r["value"])),
            Cell(f"{r['failed']} of {r['trials']}", float(r["failed"])),
            Cell(f"{r['rate']:.0%}".replace("%", "\u00a0%"), float(r["rate"])),
            Cell(f"{r['low']:.0%} to {r['high']:.0%}".replace("%", "\u00a0%")),
        ]
        for _, r in rates.iterrows()
    ]
    return Table("Where trials failed.", ["choice", "value", ">failed", ">rate", ">95\u00a0% interval"], rows)


def rejected_table(found: Findings) -> Table:
    """Draws refused before training, by code."""
    rows = [[Cell(f"`{code}`"), Cell(str(n), n)] for code, n in sorted(found.rejected.items(), key=lambda kv: -kv[1])]
    return Table("Draws refused before training; they cost nothing.", ["reason", ">draws"], rows)


METHOD = (
    "Scores are of validation data. Intervals of a score are Student's t over seeds (from ten seeds on, percentile "
    "bootstrap). Differences are paired over the seeds both have; positive means the winner is better, whichever way "
    "the metric points. Intervals of a choice are bootstrapped over candidates, with seeds averaged first. Failure "
    "rates have Wilson's interval. Only trials that ran the whole budget are ranked."
)


def _full(entry: Entry, best: Entry) -> str:
    """Name, and the settings where the name alone does not tell it from the winner."""
    return f"**{entry.name}**" + (f" ({entry.settings})" if entry.settings and entry.name == best.name else "")


def _plural_choice(choice: str, count: int) -> str:
    many = dict(zip(CHOICES, ("memories", "biases", "retentions", "algorithms"), strict=True))
    return many[choice] if count != 1 else choice


def _words(name: str) -> str:
    return name.replace("_", " ")


def _join(items: list[Any]) -> str:
    texts = [str(i) for i in items]
    return " and ".join([", ".join(texts[:-1]), texts[-1]]) if len(texts) > 1 else "".join(texts)


def _was(count: int) -> str:
    return "was" if count == 1 else "were"


def _hours(hours: float) -> str:
    if hours < 1 / 60:
        return f"{hours * 3600:.0f} s"
    return f"{hours * 60:.0f} min" if hours < 1.5 else f"{hours:,.1f} h"
