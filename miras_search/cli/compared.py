"""What `compare` and `diff` print."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from rich.text import Text

from miras_search.cli.tables import console, grid, heading

if TYPE_CHECKING:
    from rich.console import Console

    from miras_search.compare import DesignDifference, Difference, RunDifference

PAIRS = 20
"""Pairs shown of an objective; `--json` has all."""


def runs(found: RunDifference) -> None:
    """`compare`."""
    from miras_search.report.numbers import bounds, estimate

    out = console()
    out.print(Text(f"{found.a} (a) and {found.b} (b)", style="bold"), soft_wrap=True)
    for name, part in (("space", found.space), ("environment", found.environment), ("data", found.data)):
        _differences(out, name, part, f"no difference in {name}")
    if found.data:
        out.print("  equal seeds did not see equal data: the pairs below are paired by nothing", soft_wrap=True)
    for objective in dict.fromkeys(f"{p.task}.{p.metric}" for p in found.pairs):
        pairs = [p for p in found.pairs if f"{p.task}.{p.metric}" == objective]
        heading(out, f"{objective}, {len(pairs)} candidates of both (b - a; positive: b is better)")
        rows = []
        for p in pairs[:PAIRS]:
            gap = p.found.best
            what = "solve rate" if p.found.bimodal else "mean"
            said = f"beyond seed noise, {p.found.p_value:.2g} by signs" if gap.excludes_zero else "not separated"
            said = said if gap.known else "one seed: no interval"
            design = f"{p.name} ({p.settings})" if p.settings else p.name
            rows.append((design, _number(p.a), _number(p.b), estimate(gap), bounds(gap), str(gap.n), what, said))
        grid(out, rows, ("design", "a", "b", "difference", "95 % interval", "seeds", "of", ""), right=(1, 2, 3, 4, 5))
        if len(pairs) > PAIRS:
            out.print(f"  and {len(pairs) - PAIRS} more, all nearer; --json has them", soft_wrap=True)
    heading(out, "in all")
    chance = round(len(found.pairs) / 20)
    some = f", {chance} would by chance" if chance else ""
    total = [
        ("both", f"{len(found.pairs)} pairs, {found.separated} of which differ beyond seed noise{some}"),
        ("one alone", f"{found.only_a} candidates of a, {found.only_b} of b"),
    ]
    grid(out, total)


def designs(found: DesignDifference, a: str, b: str) -> None:
    """`diff`."""
    out = console()
    if found.same:
        said = "the same function"
    else:
        said = "different functions" + (" of the same code: only numbers differ" if found.same_code else "")
    out.print(Text(f"{a} ({found.a}) and {b} ({found.b}): {said}", style="bold"), soft_wrap=True)
    heads = ("", a, b)
    _differences(out, "fields", found.fields, "no field differs", heads)
    left = {d.name for d in found.canonical} ^ {d.name for d in found.fields}
    if left and not found.same:
        _differences(out, "in canonical form", found.canonical, "", heads)
    heading(out, "a model of each")
    rows = [(d.name.replace("_", " "), f"{d.a:,}", f"{d.b:,}", _ratio(d)) for d in found.costs]
    grid(out, rows, (*heads, "b / a"), right=(1, 2, 3))


def plain(found: RunDifference | DesignDifference) -> dict[str, Any]:
    """`--json`: named tuples as mappings, what is not known as null."""
    extra = {"separated": found.separated} if hasattr(found, "separated") else {"same": found.same}
    return {f.name: _plain(getattr(found, f.name)) for f in fields(found)} | extra


def _plain(value: Any) -> Any:
    if hasattr(value, "_asdict"):
        return {name: _plain(item) for name, item in value._asdict().items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _differences(
    out: Console, name: str, found: Sequence[Difference], none: str, heads: Sequence[str] = ("", "a", "b")
) -> None:
    heading(out, name)
    if not found:
        out.print(f"  {none}")
        return
    grid(out, [(d.name, _shown(d.a), _shown(d.b)) for d in found], heads)


def _shown(value: Any) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _ratio(d: Difference) -> str:
    return f"{d.b / d.a:.3g}" if d.a else ""


def _number(value: float) -> str:
    from miras_search.report.numbers import number

    return number(value)
