"""Findings as tables, for HTML and Markdown alike; the same markup as `wording`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from miras_search.report.controls import Twin
from miras_search.report.findings import Findings
from miras_search.report.numbers import bounds, bytes_text, estimate, percent, words
from miras_search.report.verdicts import Verdict
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


def best_table(verdict: Verdict) -> Table:
    """The best candidates of an objective; the best published one stands in it whatever its rank."""
    shown = verdict.ranked[:BEST]
    if verdict.published and verdict.published not in shown:
        shown = [*shown, verdict.published]
    metric = words(verdict.objective.metric)
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
    return Table(f"Mean {words(verdict.objective.metric)} on {verdict.objective.task} by choice.", heads, rows)


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


def shares_table(verdict: Verdict) -> Table | None:
    """What the differences between candidates come from; None if that cannot be said."""
    if verdict.shares is not None:
        found = verdict.shares
        rows = [_share_row(str(r["group"]), r, "with its parameters") for r in found.groups.to_dict("records")]
        inner = found.inputs[
            (found.inputs["input"] != found.inputs["group"]) | found.inputs["group"].duplicated(keep=False)
        ]
        rows += [
            _share_row(str(r["input"]), r, f"by itself, in {r['exists']:.0%} of the candidates")
            for r in inner.to_dict("records")
        ]
        rows += [
            [
                Cell(f"{r['a']} and {r['b']}"),
                Cell("together, beyond either"),
                *_share(r["share"], r["low"], r["high"]),
                Cell("–"),
                Cell("–"),
            ]
            for r in found.pairs.to_dict("records")
        ]
        rows.append(
            [
                Cell("the rest"),
                Cell("interactions of three and more, finer shapes"),
                *_share(*found.beyond[:3]),
                Cell("–"),
                Cell("–"),
            ]
        )
        noise = (
            ""
            if found.noise != found.noise
            else f" Seeds add {percent(found.noise)} of it to a mean; they are taken off."
        )
        heads = ["input", "what", ">by itself", ">interval", ">in all", ">interval"]
        return Table(
            f"Shares of the variance between {found.candidates} candidates in {words(verdict.objective.metric)}.{noise}",
            heads,
            rows,
        )
    if verdict.shapley is not None:
        rows = [
            [Cell(str(r["choice"])), *_share(r["share"], r["low"], r["high"])]
            for r in verdict.shapley.to_dict("records")
        ]
        caption = "Shares of the variance between candidates by choice (Shapley: what choices explain together is divided evenly)."
        return Table(caption, ["choice", ">share", ">interval"], rows)
    return None


def _share_row(name: str, row: Mapping[Any, Any], what: str) -> list[Cell]:
    both = [
        *_share(row["first"], row["first_low"], row["first_high"]),
        *_share(row["total"], row["total_low"], row["total_high"]),
    ]
    return [Cell(name), Cell(what), *both]


def _share(share: float, low: float, high: float) -> list[Cell]:
    return [Cell(percent(share), share), Cell(f"{percent(low)} to {percent(high)}")]


def twins_table(twins: list[Twin], verdict: Verdict) -> Table:
    """Controls beside the designs they break."""
    rows = [
        [
            Cell(t.control), Cell(t.name), Cell(f"{t.value:.3g}", t.value), Cell(estimate(t.change), t.change.estimate),
            Cell(bounds(t.change)), Cell(str(t.change.n), t.change.n), Cell(f"`{t.fingerprint}`"),
        ]
        for t in twins
    ]  # fmt: skip
    heads = ["control", "of", f">{words(verdict.objective.metric)}", ">change", ">interval", ">seeds", "candidate"]
    return Table("Controls: what breaking a design does to it, paired over seeds; negative is worse.", heads, rows)
