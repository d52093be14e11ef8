"""Findings in plain words, for HTML and Markdown alike: `**strong**` and backticks are all the markup."""

from __future__ import annotations

from typing import Any

from miras_search.report.controls import changes
from miras_search.report.findings import Findings
from miras_search.report.numbers import bounds, count_text, estimate, percent, plural, words
from miras_search.report.verdicts import Entry, Verdict
from miras_search.results import CHOICES
from miras_search.statistics import Interval

SURE = 0.02
"""A share that may be smaller than this is not called one that matters."""


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
        f"{words(objective.metric)} **{estimate(best.interval)}** ({sure(best.interval)})."
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
    if verdict.fresh is not None and len(verdict.ranked) > 1:
        expected = verdict.fresh.fresh
        fraction = verdict.best.interval.high <= 1.0
        low, high = (min(v, 1.0) if fraction else v for v in (expected.low, expected.high))
        told_ = expected._replace(
            low=low, high=high, estimate=min(expected.estimate, 1.0) if fraction else expected.estimate
        )
        lines.append(
            f"It was picked by these very seeds: on fresh ones expect about **{estimate(told_)}** ({bounds(told_)})."
        )
    if not any(e.published for e in verdict.ranked):
        lines.append("No published design finished on this task to compare with: name some under `start_with`.")
    return lines


def mattered(verdict: Verdict) -> str:
    """Which choices mattered, how sure that is, and which value of the first was best."""
    task = f"on {verdict.objective.task}"
    if verdict.shares is not None:
        table = verdict.shares.groups
        rows = [(str(r["group"]), r["total"], r["total_low"], r["total_high"]) for r in table.to_dict("records")]
        how = "with their parameters and interactions"
    elif verdict.shapley is not None:
        table = verdict.shapley[verdict.shapley["choice"] != "rest"].sort_values("share", ascending=False)
        rows = [(str(r["choice"]), r["share"], r["low"], r["high"]) for r in table.to_dict("records")]
        how = "what they explain together divided evenly"
    else:
        reason = verdict.unsplit or "nothing was varied"
        return f"Which choices mattered {task} cannot be said from these trials: {reason}."
    clear = [
        f"**{name}** {percent(s)} ({percent(low)} to {percent(high)})" for name, s, low, high in rows if low >= SURE
    ]
    small = [name for name, _, low, _ in rows if low < SURE]
    most = max((high for _, _, low, high in rows if low < SURE), default=0.0)
    if not clear:
        return f"No choice surely mattered {task}: each may be behind at most {percent(most)} of the differences between candidates."
    said = f"What mattered {task}, as shares of the differences between candidates ({how}): {_join(clear)}."
    said += f" Not told from nothing: {_join(small)} (at most {percent(most)})." if small else ""
    return said + _values(verdict, rows[0][0]) + _together(verdict)


def _values(verdict: Verdict, choice: str) -> str:
    """The best and the worst value of a choice, if their intervals part."""
    table = verdict.effects[verdict.effects["choice"] == choice].sort_values(
        "mean", ascending=verdict.objective.goal == "min"
    )
    if len(table) < 2:
        return ""
    best, worst = table.iloc[0], table.iloc[-1]
    apart = best["low"] > worst["high"] if verdict.objective.goal == "max" else best["high"] < worst["low"]
    if not apart:
        return ""
    means = [estimate(Interval(r["mean"], r["low"], r["high"], r["candidates"])) for r in (best, worst)]
    return f" On average {choice} `{best['value']}` did best ({means[0]}), `{worst['value']}` worst ({means[1]})."


def _together(verdict: Verdict) -> str:
    """The strongest interaction, if there surely is one."""
    if verdict.shares is None or verdict.shares.pairs.empty:
        return ""
    pair = verdict.shares.pairs.iloc[0]
    if pair["low"] < SURE:
        return ""
    return f" {pair['a'].capitalize()} and {pair['b']} depend on one another ({percent(pair['share'])})."


def controls(verdict: Verdict) -> str:
    """What breaking the designs did; empty without controls."""
    metric = words(verdict.objective.metric)
    said = []
    for control, change in changes(verdict.twins).items():
        size = (
            change
            if change.estimate > 0
            else change._replace(estimate=-change.estimate, low=-change.high, high=-change.low)
        )
        count = sum(t.control == control for t in verdict.twins)
        designs = f"{count} {plural(count, 'design')}"
        sure_ = f", 95\u00a0% interval {bounds(size)}" if change.known else ""
        unclear = "" if change.excludes_zero or not change.known else ", which may be nothing"
        does = "gains" if change.estimate > 0 else "costs"
        said.append(f"{control} {does} **{estimate(size)}** ({designs}{sure_}{unclear})")
    return f"Controls, {metric} on {verdict.objective.task}: {'; '.join(said)}." if said else ""


def sure(interval: Interval) -> str:
    """`95 % interval 0.91 to 0.98, 3 seeds`, or `one seed: no interval`."""
    if interval.n == 1:
        return "one seed: no interval"
    return f"{interval.level * 100:g}\u00a0% interval {bounds(interval)}, {interval.n} seeds"


def difference(interval: Interval) -> str:
    """How far ahead, and whether that could be chance."""
    rate = (
        " in seeds solved (they are solved or not, so that a mean says little)" if interval.method == "newcombe" else ""
    )
    by = f"ahead by **{estimate(interval)}**{rate}" if interval.estimate > 0 else "**level**"
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
    if any(v.fresh is None for v in several):
        most = max(len(v.ranked) for v in several)
        out.append(
            f"The winner was picked among {most} candidates by the very scores shown, so its score is somewhat too "
            "good; seeds that took no part in the choice would tell."
        )
    if len(found.seeds) == 1:
        out.append("Every candidate was trained with one seed: differences of the size of seed noise mean nothing.")
    if not found.balanced and any(v.shares is None for v in found.verdicts):
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


def _join(items: list[Any]) -> str:
    texts = [str(i) for i in items]
    return " and ".join([", ".join(texts[:-1]), texts[-1]]) if len(texts) > 1 else "".join(texts)


def _was(count: int) -> str:
    return "was" if count == 1 else "were"


def _hours(hours: float) -> str:
    if hours < 1 / 60:
        return f"{hours * 3600:.0f} s"
    return f"{hours * 60:.0f} min" if hours < 1.5 else f"{hours:,.1f} h"
