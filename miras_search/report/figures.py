"""The figures of a report as static SVG: no script, text as text, unique ids, the same bytes for the same data.

Colours are Okabe and Ito's (2008), which colour-blind readers tell apart; shape repeats what colour says.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from miras_search.report.controls import changes
from miras_search.report.numbers import bytes_text, count_text
from miras_search.report.verdicts import Verdict

INK, FAINT, GRID, ACCENT = "#1b1f24", "#6a737d", "#e4e7eb", "#0b5cad"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKS = ("o", "s", "^", "D", "v", "P", "X")
CURVES, POINTS, SHADOWS = 6, 80, 60
_STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "svg.hashsalt": "miras-search",
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.edgecolor": "#9aa3ad",
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 10,
}


class Drawn(NamedTuple):
    """A figure and what it shows in words."""

    figure: Any
    alt: str


def effects(verdict: Verdict) -> Drawn | None:
    """A forest plot: the mean of every value of every choice against the mean of all, and what controls change.

    None if no choice was varied and there is no control.
    """
    table, controls = verdict.effects, changes(verdict.twins)
    if table.empty and not controls:
        return None
    groups: list[tuple[str, list[tuple[str, float, float, float, int]]]] = []
    for choice, part in table.groupby("choice", sort=False):
        middle = float((part["mean"] * part["candidates"]).sum() / part["candidates"].sum())
        ordered = part.sort_values("mean", ascending=verdict.objective.goal == "min")
        rows = [
            (str(value), mean - middle, low - middle, high - middle, int(count))
            for value, mean, low, high, count in zip(
                *(ordered[c] for c in ("value", "mean", "low", "high", "candidates")), strict=True
            )
        ]
        groups.append((str(choice), rows))
    sign = 1.0 if verdict.objective.goal == "max" else -1.0
    if controls:
        counts = {control: sum(t.control == control for t in verdict.twins) for control in controls}
        rows = [
            (c, sign * i.estimate, min(sign * i.low, sign * i.high), max(sign * i.low, sign * i.high), counts[c])
            for c, i in sorted(controls.items(), key=lambda item: -item[1].estimate)
        ]
        groups.append(("controls", rows))
    height = 0.36 * sum(len(rows) for _, rows in groups) + 0.42 * len(groups) + 0.75
    with _figure(height) as (figure, axes):
        axes.axvline(0, color="#9aa3ad", lw=1, zorder=1)
        y, ticks, labels = 0.0, [], []
        for group, rows in groups:
            axes.text(-0.01, y, group, transform=axes.get_yaxis_transform(), ha="right", va="center", weight="bold")
            colour, mark = (COLOURS[1], "s") if group == "controls" else (ACCENT, "o")
            y += 1.0
            for name, mean, low, high, count in rows:
                if low == low:
                    axes.plot([low, high], [y, y], color=colour, lw=2, solid_capstyle="butt")
                axes.plot(mean, y, mark, color=colour, ms=6)
                axes.text(1.01, y, f"n={count}", transform=axes.get_yaxis_transform(), va="center", size=9, color=FAINT)
                ticks.append(y)
                labels.append(name)
                y += 0.9
            y += 0.3
        axes.set_yticks(ticks, labels)
        axes.set_ylim(y - 0.3, -0.7)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(f"{_title(verdict)}: difference from the mean; of controls, from their twins")
        return Drawn(
            figure, f"Effect of each choice, and of controls, on {verdict.objective.name}; the numbers are in a table."
        )


def against_state(verdict: Verdict) -> Drawn | None:
    """Metric against recurrent state by memory, the front as a line; None without states."""
    entries = [e for e in verdict.ranked if e.state_bytes > 0]
    if len(entries) < 2:
        return None
    groups = sorted({e.memory for e in entries})
    with _figure(4.2) as (figure, axes):
        front = sorted((e for e in entries if e.front), key=lambda e: e.state_bytes)
        axes.plot(
            [e.state_bytes for e in front], [e.interval.estimate for e in front], color="#9aa3ad", lw=1.2, zorder=1
        )
        for i, group in enumerate(groups):
            part = [e for e in entries if e.memory == group]
            look = {"color": COLOURS[i % 7], "marker": MARKS[i % 7], "edgecolors": "white", "linewidths": 0.6}
            x, y = [e.state_bytes for e in part], [e.interval.estimate for e in part]
            axes.scatter(x, y, s=42, label=group, alpha=0.85, zorder=3, **look)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda v, _: bytes_text(v))
        axes.xaxis.set_minor_formatter(lambda v, _: "")
        _annotate(axes, entries, verdict)
        axes.set_xlabel("recurrent state of a sequence")
        axes.set_ylabel(_title(verdict))
        if len(groups) > 1:
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.14), ncols=min(4, len(groups)), handletextpad=0.2)
        return Drawn(
            figure, f"{verdict.objective.name} against state; {len(entries)} candidates, the line is the front."
        )


def curves(verdict: Verdict, results: pd.DataFrame, steps: pd.DataFrame) -> Drawn | None:
    """Training loss against tokens: the best and the best published in colour, others behind; None without steps."""
    rows = results[(results["task"] == verdict.objective.task)][["run", "key", "fingerprint"]]
    joined = steps.merge(rows, on=["run", "key"])
    joined = joined[joined["loss"].notna() & (joined["tokens"] > 0)]
    if joined.empty:
        return None
    shown = verdict.ranked[: CURVES - 1]
    if verdict.published and verdict.published not in shown:
        shown = [*shown, verdict.published]
    from matplotlib.ticker import LogLocator, NullLocator

    with _figure(4.2) as (figure, axes):
        chosen = {e.fingerprint for e in shown}
        others = [part for (_, _), part in joined[~joined["fingerprint"].isin(chosen)].groupby(["run", "key"])]
        for part in others[:: max(1, len(others) // SHADOWS)]:
            thin = _thin(part.groupby("tokens")["loss"].mean())
            axes.plot(thin.index, thin, color="#c9ced6", lw=0.8, alpha=0.6, zorder=1)
        names = [e.name for e in shown]
        for i, entry in enumerate(shown):
            told = f" ({entry.settings})" if entry.settings and names.count(entry.name) > 1 else ""
            mine = joined[joined["fingerprint"] == entry.fingerprint]
            thin = _thin(mine.groupby("tokens")["loss"].mean())
            style = "--" if entry is verdict.published else "-"
            axes.plot(
                thin.index,
                thin,
                style,
                color=COLOURS[i % 7],
                lw=1.7,
                label=f"{entry.rank}. {entry.name}{told}",
                zorder=3,
            )
        low, high = axes.get_ylim()
        if low > 0 and high / low > 3:
            axes.set_yscale("log")
            axes.set_ylim(low, high)
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(lambda v, _: f"{v:g}")
        axes.xaxis.set_major_formatter(lambda v, _: count_text(v))
        axes.set_xlabel("tokens")
        axes.set_ylabel("training loss (nats)")
        axes.legend(loc="upper left", bbox_to_anchor=(-0.02, -0.16), ncols=1, handlelength=1.6)
        return Drawn(figure, f"Training loss of the best candidates on {verdict.objective.task} against tokens.")


def _title(verdict: Verdict) -> str:
    better = "more" if verdict.objective.goal == "max" else "less"
    return f"{verdict.objective.metric.replace('_', ' ')} ({better} is better)"


def _annotate(axes: Any, entries: list[Any], verdict: Verdict) -> None:
    """Names of the winner and of the best candidate of each named design, where they do not cover one another."""
    left, right = axes.get_xlim()
    low, high = axes.get_ylim()
    taken: list[tuple[float, float]] = []
    seen: set[str] = set()
    for entry in entries:
        if entry.name in seen or (" · " in entry.name and entry is not verdict.best):
            continue
        seen.add(entry.name)
        x = np.log(entry.state_bytes / left) / np.log(right / left)
        y = (entry.interval.estimate - low) / (high - low)
        if any(abs(x - a) < 0.3 and abs(y - b) < 0.055 for a, b in taken):
            continue
        taken.append((x, y))
        side = "left" if x < 0.6 else "right"
        axes.annotate(
            entry.name,
            (entry.state_bytes, entry.interval.estimate),
            (7 if side == "left" else -7, 4),
            textcoords="offset points",
            ha=side,
            size=9,
            color=INK,
            zorder=4,
        )


def _thin(curve: pd.Series[Any]) -> pd.Series[Any]:
    """At most POINTS values of a curve, each the mean of its neighbours, so that noise does not hide the order."""
    if len(curve) <= POINTS:
        return curve
    bins = np.arange(len(curve)) * POINTS // len(curve)
    return pd.Series(
        curve.groupby(bins).mean().to_numpy(), index=curve.index.to_series().groupby(bins).mean().to_numpy()
    )


class _figure:
    """A figure of one column's width in our style, without pyplot's global state."""

    def __init__(self, height: float) -> None:
        self.height = height

    def __enter__(self) -> tuple[Any, Any]:
        import matplotlib as mpl
        from matplotlib.figure import Figure

        self.context = mpl.rc_context(_STYLE)
        self.context.__enter__()
        figure = Figure(figsize=(7.0, self.height))
        return figure, figure.add_subplot()

    def __exit__(self, *error: Any) -> None:
        self.context.__exit__(*error)


def svg(drawn: Drawn, name: str) -> str:
    """The figure's SVG element, ready to stand in a page: alternative text, own id space, fluid width."""
    import matplotlib as mpl

    out = io.StringIO()
    with mpl.rc_context(_STYLE):
        drawn.figure.savefig(
            out, format="svg", bbox_inches="tight", pad_inches=0.04, metadata={"Date": None, "Creator": None}
        )
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\s(id="|xlink:href="#)', lambda m: f" {m[1]}{name}-", text)
    text = text.replace("url(#", f"url(#{name}-")
    text = re.sub(r'font: (\d+px|[^;"]*?px) [^;"]*', lambda m: f"font: {m[1]} system-ui, sans-serif", text)
    head, rest = text.split(">", 1)
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    alt = drawn.alt.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return f'{head} role="img" aria-label="{alt}"><title>{alt}</title>{rest.strip()}'


def save(drawn: Drawn, file: Path) -> Path:
    """Write the figure as its suffix says: svg, pdf or png; the same bytes for the same data.

    Raises:
        OSError: if it cannot be written.
    """
    import matplotlib as mpl

    kind = file.suffix.lower().removeprefix(".")
    nothing = {"svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None, "Producer": None, "Creator": None}}
    file.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(_STYLE | {"pdf.fonttype": 42}):
        drawn.figure.savefig(
            file, format=kind, bbox_inches="tight", dpi=200, metadata=nothing.get(kind, {"Software": None})
        )
    return file
