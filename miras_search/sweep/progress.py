"""What a person sees of a sweep: a live table on a terminal, a line a finished trial in a log.

The table shows trials done of all, time left, the best so far of every objective, the running trials, and what failed
and why. In a log nothing is drawn over: every line stands by itself.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from miras_search.ledger import Record
from miras_search.search import Leader, Standing, describe, reason

if TYPE_CHECKING:
    from miras_search.trial import Progress

REFRESH = 0.2
"""Seconds between two drawings of the table."""
CAUSES = 4
"""Kinds of failure shown one by one."""
FRONT = 5
"""Suggestions of the Pareto front shown one by one."""
_STYLE = {"ok": "green", "pruned": "cyan", "cancelled": "yellow"}


class Monitor:
    """Shows the course of a sweep. All calls come from one thread; a context manager.

    Args:
        console: where to; a table if it is a terminal, else lines.
        name: of the run.
        total: rows that the run is to have.
        done: rows that it has already.
    """

    def __init__(self, console: Console, name: str, total: int, done: Sequence[Record] = ()) -> None:
        self.console, self.name, self.total = console, name, total
        self.done = len(done)
        self.standing: Standing | None = None
        self.failures = Counter(reason(record)[:110] for record in done if record.status not in ("ok", "pruned"))
        self.pruned = sum(record.status == "pruned" for record in done)
        self._before = self.done
        self._start = time.monotonic()
        self._running: dict[str, tuple[Record, Progress | None, float]] = {}
        self._drawn = 0.0
        self._note = ""
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def started(self, record: Record) -> None:
        """A trial begins; `record` is its row as far as it is known."""
        self._running[record.key] = (record, None, time.monotonic())

    def advanced(self, key: str, progress: Progress) -> None:
        """A running trial has come this far."""
        if key in self._running:
            record, _, since = self._running[key]
            self._running[key] = (record, progress, since)

    def ended(self, record: Record) -> None:
        """A trial is committed."""
        self._running.pop(record.key, None)
        self.done += 1
        if record.status == "pruned":
            self.pruned += 1
        elif record.status != "ok":
            self.failures[reason(record)[:110]] += 1
        if self._live is None:
            self.console.print(self._line(record), soft_wrap=True)
        self.tick(force=True)

    def note(self, text: str) -> None:
        """Say something that stays."""
        self.console.print(Text(text), soft_wrap=True)

    def tick(self, *, force: bool = False) -> None:
        """Draw again, if it is time."""
        moment = time.monotonic()
        if self._live is not None and (force or moment - self._drawn > REFRESH):
            self._drawn = moment
            self._live.update(self._table(), refresh=True)

    @property
    def seconds(self) -> float:
        """Of this session."""
        return time.monotonic() - self._start

    @property
    def left(self) -> float | None:
        """Seconds to go at the pace of this session, running trials counted by tokens; None before there is one."""
        parts = sum(p.tokens / p.budget for _, p, _ in self._running.values() if p is not None)
        paced = self.done - self._before + parts
        return (self.total - self.done - parts) * self.seconds / paced if paced > 0.02 else None

    def _line(self, record: Record) -> Text:
        width = len(str(self.total))
        values = "  ".join(f"{record.task}.{name} {number(value)}" for name, value in record.metrics.items())
        text = Text(f"[{self.done:>{width}}/{self.total}] ")
        text.append(f"{record.status:<8}", style=_STYLE.get(record.status, "red"))
        text.append(f" {record.key}  {describe(record)}  {record.task}, seed {record.seed}, {record.seconds:.1f} s")
        if values:
            text.append(f"  {values}")
        if record.cause:
            text.append(f"  {record.cause}")
        if self.left is not None and self.done < self.total:
            text.append(f"  (about {duration(self.left)} left)", style="dim")
        return text

    def _table(self) -> RenderableType:
        head = Text.assemble((self.name, "bold"), f"  {self.done} of {self.total} trials, {duration(self.seconds)}")
        if self.left is not None and self.done < self.total:
            head.append(f", about {duration(self.left)} left")
        parts: list[RenderableType] = [head, ProgressBar(total=max(1, self.total), completed=self.done, width=60)]
        if self.standing is not None:
            parts += [Text(leading(best), style="green") for best in self.standing.leaders]
            parts += [Text(line, style="green") for line in pareto(self.standing)]
        if self._running:
            table = Table(box=None, pad_edge=False, header_style="dim")
            for column in ("trial", "design", "task"):
                table.add_column(column)
            for column in ("seed", "done", "loss", "tokens/s", "time"):
                table.add_column(column, justify="right")
            for record, progress, since in self._running.values():
                numbers = ("", "", "")
                if progress is not None:
                    speed = progress.tokens / progress.seconds if progress.seconds else 0.0
                    loss = "" if progress.loss != progress.loss else f"{progress.loss:.3f}"
                    numbers = (f"{progress.tokens / progress.budget:.0%}", loss, f"{speed:,.0f}")
                spent = duration(time.monotonic() - since)
                table.add_row(record.key[:8], describe(record), record.task, str(record.seed), *numbers, spent)
            parts.append(table)
        parts += [Text(line, style="red") for line in self._failed()]
        return Group(*parts)

    def _failed(self) -> list[str]:
        lines = [f"{count} x {reason}" for reason, count in self.failures.most_common(CAUSES)]
        rest = sum(self.failures.values()) - sum(count for _, count in self.failures.most_common(CAUSES))
        if rest:
            lines.append(f"and {rest} more that failed")
        if self.pruned:
            lines.append(f"{self.pruned} stopped early")
        return lines


def leading(best: Leader) -> str:
    """One line."""
    return f"best {best.metric} {number(best.value)} ({best.goal}) by {best.design}"


def pareto(standing: Standing) -> list[str]:
    """The Pareto front, a line a suggestion, where there are several objectives; the first `FRONT` of it."""
    front = standing.front if len(standing.objectives) > 1 else []
    lines = [f"Pareto front of {len(front)}: {', '.join(o.metric for o in standing.objectives)}"] if front else []
    for point in front[:FRONT]:
        lines.append(f"  {'  '.join(map(number, point.values))}  {point.design} (suggestion {point.n})")
    return [*lines, f"  and {len(front) - FRONT} more"] if len(front) > FRONT else lines


def number(value: float) -> str:
    """Four significant digits; counts in full."""
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 10 else f"{value:.4g}"


def duration(seconds: float) -> str:
    """`8 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
