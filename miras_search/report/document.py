"""A run as one page that leads with the answer: static HTML (inline SVG, no script, nothing fetched), or Markdown.

    render(["quickstart"], Path("report.html"))

The page holds: what won and how sure that is, which choices mattered, what failed, what to try next; then tables and figures; then command,
environment, data and spaces, so that it can be done again. Every number comes from `miras_search.report.findings`; table cells
carry the exact value in `data-value`.
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from miras_search import disk
from miras_search.errors import RunError
from miras_search.report import figures, tables, wording
from miras_search.report.findings import Findings, findings
from miras_search.report.tables import Cell, Table
from miras_search.report.verdicts import Verdict
from miras_search.results import RunLike, load_results, load_steps

CSS = """
:root{color-scheme:light;--ink:#1b1f24;--faint:#57606a;--line:#d8dee4;--wash:#f6f8fa;--accent:#0b5cad}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:#fff;color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
font-variant-numeric:tabular-nums}
main{max-width:58rem;margin:0 auto;padding:2.5rem 1.25rem 4rem}
.kicker{margin:0 0 .35rem;color:var(--faint);font-size:.875rem}
h1{font-size:clamp(1.55rem,1.2rem + 1.8vw,2.15rem);line-height:1.2;letter-spacing:-.015em;margin:0 0 1rem;
text-wrap:balance}
h2{font-size:1.3rem;line-height:1.3;margin:3rem 0 .75rem;padding-top:1.25rem;border-top:1px solid var(--line)}
h3{font-size:1.02rem;margin:1.75rem 0 .5rem}
p{margin:0 0 .75rem;max-width:44rem}
.answer{border-left:3px solid var(--accent);padding:.1rem 0 .1rem 1.1rem;margin:1.25rem 0}
.answer p{font-size:1.0625rem;margin:0 0 .5rem}
.answer p:first-child{font-size:1.1875rem;line-height:1.45}
.next{margin:1.25rem 0}
.next h3{margin-top:0}
.note{color:var(--faint);font-size:.9375rem}
ul{padding-left:1.15rem;margin:0 0 .75rem}
li{margin:0 0 .35rem;max-width:44rem}
dl{display:grid;grid-template-columns:repeat(auto-fit,minmax(7.5rem,1fr));gap:.9rem 1.25rem;
margin:1.5rem 0;padding:1rem 1.1rem;background:var(--wash);border-radius:6px}
dt{color:var(--faint);font-size:.8125rem}
dd{margin:0;font-weight:600;overflow-wrap:anywhere}
figure{margin:1rem 0 1.5rem}
figure svg{display:block;width:100%;max-width:44rem;height:auto}
figcaption,.caption{color:var(--faint);font-size:.9rem;text-align:left;max-width:44rem}
figcaption{margin-top:.5rem}
.caption{margin:1rem 0 .4rem}
.scroll{overflow-x:auto;margin:0 0 1.25rem;-webkit-overflow-scrolling:touch}
.scroll:focus-visible,summary:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
table{border-collapse:collapse;font-size:.875rem;line-height:1.4;min-width:100%}
th{font-weight:600;text-align:left;vertical-align:bottom;border-bottom:1.5px solid var(--ink);white-space:nowrap}
td{vertical-align:top;border-bottom:1px solid var(--line)}
th,td{padding:.4rem .8rem .4rem 0}
th:last-child,td:last-child{padding-right:0}
.r{text-align:right;white-space:nowrap}
.t{min-width:9rem}
code,pre{font:.875em/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
pre{background:var(--wash);border-radius:6px;padding:.8rem 1rem;overflow-x:auto;margin:.5rem 0 1rem}
summary{cursor:pointer;color:var(--accent);margin:.5rem 0}
@media (max-width:34rem){main{padding:1.5rem 1rem 3rem}}
@media print{main{max-width:none;padding:0}h2{break-after:avoid}figure,tr{break-inside:avoid}}
"""


def render(runs: Iterable[RunLike] | RunLike, out: Path | str) -> Path:
    """Write the report of one run or several as one HTML file.

    Args:
        runs: as `load_results` takes them.
        out: the file to write; replaced whole if it is there.

    Raises:
        RunError: if a run is missing or empty, or the file cannot be written.
    """
    frame, steps, path = *_load(runs), Path(out)
    return disk.write(path, page(frame, steps), "choose another file with -o")


def render_markdown(runs: Iterable[RunLike] | RunLike, out: Path | str) -> Path:
    """Write the report as Markdown, tables without the figures: for an appendix or a pull request.

    Args:
        runs: as `load_results` takes them.
        out: the file to write; replaced whole if it is there.

    Raises:
        RunError: if a run is missing or empty, or the file cannot be written.
    """
    frame, _, path = *_load(runs), Path(out)
    return disk.write(path, markdown(frame), "choose another file with -o")


def page(frame: pd.DataFrame, steps: pd.DataFrame) -> str:
    """The report as HTML text.

    Args:
        frame: of `load_results`.
        steps: of `load_steps`; may be empty.
    """
    found = findings(frame)
    heading = wording.title(found)
    body = [*_first_screen(found), *_body(found, frame, steps), *_provenance(found)]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(heading)} – miras-search</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def markdown(frame: pd.DataFrame) -> str:
    """The report as Markdown text.

    Args:
        frame: of `load_results`.
    """
    found = findings(frame)
    parts = [f"# {wording.title(found)}", wording.searched(found)]
    parts += ["\n\n".join(wording.verdict_lines(verdict)) for verdict in found.verdicts]
    parts += [text for v in found.verdicts for text in (wording.mattered(v), wording.controls(v)) if text]
    parts.append(wording.failed(found))
    parts += ["What to try next:\n\n" + "\n".join(f"- {line}" for line in found.next)] if found.next else []
    parts += ["\n".join(f"- {line}" for line in wording.caveats(found))] if wording.caveats(found) else []
    for verdict in found.verdicts:
        parts += [f"## {verdict.objective.name}", _markdown_table(tables.best_table(verdict))]
        parts += [_markdown_table(table) for table in _effects(verdict)]
    for table in _failures(found):
        parts.append(_markdown_table(table))
    parts += ["## How it was run", wording.METHOD]
    parts += ["\n".join(["```sh", *found.commands, "```"])] if found.commands else []
    listed = [*found.environment, *((f"data {name}", f"`{value}`") for name, value in found.hashes.items())]
    parts += ["\n".join(f"- {name}: {value}" for name, value in listed)] if listed else []
    return "\n\n".join(parts) + "\n"


def save_figures(runs: Iterable[RunLike] | RunLike, folder: Path | str, kinds: Iterable[str] = ("svg",)) -> list[Path]:
    """Write the figures of the report as files, `TASK-METRIC-effects.svg` and the like.

    Args:
        runs: as `load_results` takes them.
        folder: where to; made if it is not there.
        kinds: of `svg`, `pdf`, `png`.

    Raises:
        RunError: if a run is missing or empty, a kind is none of these, or a file cannot be written.
    """
    if unknown := set(kinds) - {"svg", "pdf", "png"}:
        raise RunError(f"figures cannot be written as {', '.join(sorted(unknown))}", hint="take svg, pdf or png")
    frame, steps = _load(runs)
    written = []
    for verdict in findings(frame).verdicts:
        drawn = {"effects": figures.effects(verdict), "state": figures.against_state(verdict)}
        drawn["curves"] = figures.curves(verdict, frame, steps)
        for name, figure in drawn.items():
            for kind in kinds if figure else ():
                file = Path(folder) / f"{verdict.objective.task}-{verdict.objective.metric}-{name}.{kind}"
                try:
                    written.append(figures.save(figure, file))  # type: ignore[arg-type]
                except OSError as error:
                    raise disk.unwritable(file, error, "choose another folder") from None
    return written


def _load(runs: Iterable[RunLike] | RunLike) -> tuple[pd.DataFrame, pd.DataFrame]:
    given: list[RunLike] = [runs] if isinstance(runs, (str, os.PathLike)) else list(runs)
    return load_results(*given), load_steps(*given)


def _first_screen(found: Findings) -> list[str]:
    out = [f'<p class="kicker">miras-search report · {html.escape(", ".join(found.runs))}</p>']
    out.append(f"<h1>{_inline(wording.title(found))}</h1>")
    for verdict in found.verdicts:
        lines = "".join(f"<p>{_inline(line)}</p>" for line in wording.verdict_lines(verdict))
        out.append(f'<section class="answer" aria-label="{html.escape(verdict.objective.name)}">{lines}</section>')
    if not found.verdicts:
        out.append("<p>No trial ran its whole budget and gave a score, so there is nothing to rank.</p>")
    told = [text for v in found.verdicts for text in (wording.mattered(v), wording.controls(v)) if text]
    told += [wording.searched(found), wording.failed(found)]
    out += [f"<p>{_inline(text)}</p>" for text in told]
    if found.next:
        deeds = "".join(f"<li>{_inline(line)}</li>" for line in found.next)
        out.append(
            f'<section class="next" aria-label="What to try next"><h3>What to try next</h3><ul>{deeds}</ul></section>'
        )
    notes = "".join(f"<li>{_inline(line)}</li>" for line in wording.caveats(found))
    return [*out, f'<ul class="note">{notes}</ul>'] if notes else out


def _body(found: Findings, frame: pd.DataFrame, steps: pd.DataFrame) -> list[str]:
    out: list[str] = []
    drawn: set[str] = set()
    for i, verdict in enumerate(found.verdicts):
        out += [f"<h2>{html.escape(verdict.objective.name)}</h2>", _table(tables.best_table(verdict))]
        effects = figures.effects(verdict)
        if effects:
            even = (
                "The candidates are balanced over the choices." if found.balanced else "Not balanced: read with care."
            )
            caption = (
                f"{even} A dot is the mean over n candidates with that value, against the mean of all; the bar its "
                "95\u00a0% interval. A square is what a control changes in its twin, over n designs."
            )
            heading = "What each choice did" if len(verdict.effects) else "What the controls did"
            out += [f"<h3>{heading}</h3>", _figure(figures.svg(effects, f"e{i}"), caption)]
            numbers = "".join(_table(table) for table in _effects(verdict))
            out.append(f"<details><summary>Numbers</summary>{numbers}</details>")
        state = figures.against_state(verdict)
        if state:
            caption = (
                "State of one sequence over all layers (of a cache: at the task's length). "
                "The line joins the candidates that no other beats with as little state."
            )
            out += [f"<h3>{html.escape(verdict.objective.metric.replace('_', ' ').capitalize())} against state</h3>"]
            out.append(_figure(figures.svg(state, f"s{i}"), caption))
        task = verdict.objective.task
        curves = None if task in drawn else figures.curves(verdict, frame, steps)
        if curves:
            drawn.add(task)
            caption = "Training loss, mean over seeds. Grey: the other trials. Dashed: the best published design."
            out += ["<h3>Learning curves</h3>", _figure(figures.svg(curves, f"c{i}"), caption)]
    failed = _failures(found)
    if failed:
        out += ["<h2>What failed and why</h2>", *(_table(table) for table in failed)]
    return out


def _effects(verdict: Verdict) -> list[Table]:
    """Shares, means by choice, controls: those that there are."""
    found = [tables.shares_table(verdict)]
    found += [tables.effects_table(verdict)] if len(verdict.effects) else []
    found += [tables.twins_table(verdict.twins, verdict)] if verdict.twins else []
    return [table for table in found if table is not None]


def _failures(found: Findings) -> list[Table]:
    those = [tables.failure_table(found), tables.rates_table(found), tables.rejected_table(found)]
    return [table for table in those if table.rows]


def _provenance(found: Findings) -> list[str]:
    out = ["<h2>How it was run</h2>"]
    facts = "".join(f"<div><dt>{html.escape(n)}</dt><dd>{html.escape(v)}</dd></div>" for n, v in wording.facts(found))
    out += [f"<dl>{facts}</dl>", f"<p>{_inline(wording.METHOD)}</p>"]
    if found.commands:
        out.append(f"<pre>{html.escape(chr(10).join(found.commands))}</pre>")
    ran = ", ".join(f"{count} on {path}" for path, count in found.paths.items())
    listed = [("trials by path", ran)] if ran else []
    listed += [*found.environment]
    if listed:
        rows = [[Cell(name), Cell(value)] for name, value in listed]
        out.append(_table(Table("Environment.", ["what", "value"], rows)))
    if found.hashes:
        rows = [[Cell(name), Cell(f"`{value}`")] for name, value in found.hashes.items()]
        out.append(_table(Table("Data: digests of what the trials read.", ["data", "digest"], rows)))
    for run, text in found.spaces.items():
        out.append(
            f"<details><summary>The space of {html.escape(run)}</summary><pre>{html.escape(text)}</pre></details>"
        )
    return out


def _figure(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{_inline(caption)}</figcaption></figure>"


def _table(table: Table) -> str:
    right = [head.startswith(">") for head in table.heads]
    wide = [not r and any(len(row[i].text) > 24 for row in table.rows) for i, r in enumerate(right)]
    heads = "".join(
        f'<th scope="col"{" class=r" if r else ""}>{html.escape(h.lstrip(">"))}</th>'
        for h, r in zip(table.heads, right, strict=True)
    )
    rows = "".join(
        "<tr>" + "".join(_cell(c, r, w) for c, r, w in zip(row, right, wide, strict=True)) + "</tr>"
        for row in table.rows
    )
    # Outside the table, so that it stays in sight when a narrow screen scrolls the table.
    caption = f'<p class="caption">{_inline(table.caption)}</p>'
    name = html.escape(re.sub(r"[*`]", "", table.caption))
    body = f'<table aria-label="{name}"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'
    return f'{caption}<div class="scroll" tabindex="0" role="region" aria-label="{name}">{body}</div>'


def _cell(cell: Cell, right: bool, wide: bool) -> str:
    kind = " class=r" if right else " class=t" if wide else ""
    value = "" if cell.value is None or cell.value != cell.value else f' data-value="{float(cell.value)!r}"'
    return f"<td{kind}{value}>{_inline(cell.text)}</td>"


def _inline(text: str) -> str:
    """Escape, then `**strong**` and backticks."""
    safe = html.escape(text).replace(" · ", "\u00a0· ")  # a line does not begin with the dot
    safe = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", safe)
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", safe)


def _markdown_table(table: Table) -> str:
    heads = [head.lstrip(">") for head in table.heads]
    rule = ["---:" if head.startswith(">") else "---" for head in table.heads]
    rows = [[cell.text.replace("|", "\\|").replace("\n", " ") for cell in row] for row in table.rows]
    lines = [f"| {' | '.join(row)} |" for row in (heads, rule, *rows)]
    return f"{table.caption}\n\n" + "\n".join(lines)
