"""Which inputs the differences between candidates come from: shares of variance on a conditional space.

The four choices are independent inputs of a survey; each holds a kind and, under some kinds only, parameters. On such a
tree the variance of a score splits into parts of single inputs and of pairs (functional ANOVA: Sobol 1993), with the
part of a parameter weighted by how often it exists:

    first(a) = V(E[y | a]) / V            kind:  over all candidates
                                          parameter under kinds k:  P(k) V(E[y | k, a] | k) / V
    pair(a, b) = what a and b explain together and neither alone
    total(a) = first(a) + sum_b pair(a, b)

Every input gets functions that are orthonormal where it exists: contrasts of kinds, polynomials of the rank of a
parameter (so a logarithmic range needs no care); products of them span the pairs (a polynomial chaos, Sudret 2008, on
a tree). A squared coefficient is estimated without bias by leaving out a candidate's product with itself (a U-statistic,
Hoeffding 1948), so an input that does nothing gets zero on average, not a little for every function it has.
What the pairs leave is reported as `beyond`: interactions of three and more, and finer shapes than the polynomials.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from miras_search.errors import RunError
from miras_search.results import CHOICES, columns_of
from miras_search.statistics.intervals import LEVEL, Interval

Floats = NDArray[np.float64]
RESAMPLES = 400
LEVELS = 5
"""A number with at most so many values is taken as kinds, not as a range."""


class Input(NamedTuple):
    """A kind of a choice (`bias`), or a parameter (`bias.p`) and where it exists.

    `codes`: of a category, its value's number. `ranks`: of a range, in (0, 1). Both `[n]`, of which only `exists` counts.
    """

    name: str
    group: str
    exists: NDArray[np.bool_]
    codes: NDArray[np.int64] | None
    ranks: Floats | None


@dataclass(frozen=True)
class Shares:
    """Shares of the variance between candidates.

    `inputs`: a row an input: `input`, `group`, `first`, `total`, each with `_low`, `_high`, and `exists`, the share of
    candidates that have it. `groups`: the same for a choice with all its parameters. `pairs`: a row a pair of groups:
    `a`, `b`, `share`, `low`, `high`. `beyond`: what single inputs and pairs leave. `noise`: variance of a candidate's mean
    by its seeds over the variance between candidates; NaN where no candidate has two seeds, and then the
    shares are of both together. `candidates`: how many there were.
    """

    inputs: pd.DataFrame
    groups: pd.DataFrame
    pairs: pd.DataFrame
    beyond: Interval
    noise: float
    candidates: int


def shares(
    frame: pd.DataFrame,
    metric: str,
    parameters: Sequence[str] | None = None,
    choices: Sequence[str] = CHOICES,
    unit: str = "fingerprint",
    degree: int = 3,
    pair_degree: int = 2,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Shares:
    """First-order and total shares of the four choices and their parameters, with bootstrap intervals over candidates.

    Assumes that the inputs were drawn independently of one another and of results: a survey, chance, or a grid. An
    optimiser's table breaks both.

    Args:
        frame: a row a trial; trials without the metric are left out, so look at `failure_rates` beside it.
        metric: column.
        parameters: columns; None: those of the four choices and the optimiser that vary within a kind.
        choices: columns of kinds.
        unit: what is independent evidence; its trials (seeds) are averaged first.
        degree: of the polynomials of a range in its own share.
        pair_degree: of those in pairs.
        level: of confidence.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        RunError: if two kinds that should have met never did (then shares of variance are not defined by the table), if
            there are too few candidates, or if they do not differ.
    """
    units, noise = _units(frame, metric, unit)
    y = units[metric].to_numpy(dtype=np.float64)
    n = len(y)
    inputs = _inputs(units, choices, parameters)
    _crossed(inputs)
    blocks = [_block(a, a.exists, degree) for a in inputs]
    columns = sum(block.shape[1] for block in blocks)
    if n < 2 * columns + 10:
        raise RunError(
            f"{n} candidates are too few for {len(inputs)} inputs with {columns} functions",
            hint=f"at least {2 * columns + 10} are needed; name fewer parameters, or go on with the survey",
        )
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), resamples).astype(np.float64)
    weights = np.vstack([np.ones(n), weights])
    variance = _variance(y, weights) - (0.0 if math.isnan(noise) else noise)
    if not variance[0] > 0:
        raise RunError(
            f"the {n} candidates do not differ in {metric} beyond their seeds", hint="there is nothing to split"
        )
    # a resample may be unlucky; its shares are then those of a very small variance, not of a negative one
    variance = np.maximum(variance, 1e-3 * variance[0])

    ends = np.cumsum([1, *(block.shape[1] for block in blocks)])
    under = np.zeros((ends[-1], ends[-1]))  # from the parameters of a choice to its kinds
    for i, j in combinations(range(len(inputs)), 2):
        if inputs[j].group == inputs[i].name:
            under[ends[i] : ends[i + 1], ends[j] : ends[j + 1]] = 1.0
    squared, rest = _regression(np.hstack([np.ones((n, 1)), *blocks]), y, weights, under)
    firsts = [squared[:, a:b].sum(1) / variance for a, b in pairwise(ends)]
    pairs: dict[tuple[int, int], Floats] = {}
    for i, j in combinations(range(len(inputs)), 2):
        both = inputs[i].exists & inputs[j].exists
        left, right = _block(inputs[i], both, pair_degree), _block(inputs[j], both, pair_degree)
        if left.shape[1] and right.shape[1]:
            # each is scaled by 1 / sqrt(P(both)); their product needs it once
            product = (left[:, :, None] * right[:, None, :]).reshape(n, -1) * math.sqrt(both.mean())
            pairs[i, j] = _squares(product * rest[:, None], weights) / variance
    return _tables(inputs, firsts, pairs, noise / float(variance[0]), n, level)


def _units(frame: pd.DataFrame, metric: str, unit: str) -> tuple[pd.DataFrame, float]:
    """A row a candidate with the mean of the metric over its trials; and the variance of such a mean by its trials."""
    rows = frame[frame[metric].notna()]
    grouped = rows.groupby(unit, sort=True)[metric]
    count, spread = grouped.size(), grouped.var(ddof=1)
    noise = float((spread / count)[count > 1].mean()) if (count > 1).any() else math.nan
    first = rows.drop_duplicates(unit).set_index(unit).loc[count.index]
    return first.assign(**{metric: grouped.mean()}).reset_index(), noise


def _inputs(units: pd.DataFrame, choices: Sequence[str], parameters: Sequence[str] | None) -> list[Input]:
    whole = np.ones(len(units), dtype=np.bool_)
    found = [
        Input(choice, choice, whole, pd.factorize(units[choice], sort=True)[0], None)
        for choice in choices
        if units[choice].nunique() > 1
    ]
    groups = [group for group in choices if group in CHOICES]
    names = parameters if parameters is not None else [c for g in (*groups, "optimiser") for c in columns_of(units, g)]
    for name in names:
        group = name.split(".")[0] if name.split(".")[0] in choices else name
        exists = units[name].notna().to_numpy()
        held = units.loc[exists, name]
        kinds = units.loc[exists, group] if group in choices else pd.Series(0, index=held.index)
        if held.groupby(kinds).nunique().le(1).all():
            if parameters is not None:
                raise RunError(f"{name} does not vary", hint="leave it out of the parameters")
            continue
        if held.nunique() <= LEVELS or not pd.api.types.is_numeric_dtype(held.dtype) or held.dtype == "boolean":
            codes = np.zeros(len(units), dtype=np.int64)
            codes[exists] = pd.factorize(held, sort=True)[0]
            found.append(Input(name, group, exists, codes, None))
        else:
            ranks = np.zeros(len(units))
            ranks[exists] = (held.astype("float64").rank() - 0.5) / len(held)
            found.append(Input(name, group, exists, None, ranks))
    if not found:
        raise RunError("no choice and no parameter varies", hint="there is nothing to split")
    return found


def _crossed(inputs: Sequence[Input]) -> None:
    """Every two kinds that ought to have met five times have met.

    Raises:
        RunError: if two have not.
    """
    kinds = [(a.name, a.codes) for a in inputs if a.codes is not None and a.exists.all()]
    for (a, left), (b, right) in combinations(kinds, 2):
        met = pd.crosstab(left, right).to_numpy()
        expected = np.outer(met.sum(1), met.sum(0)) / met.sum()
        if ((met == 0) & (expected >= 5)).any():
            raise RunError(
                f"some kinds of {a} and {b} never meet, so their effects cannot be told apart by shares",
                hint="take kinds that all meet, query(frame, \"bias != 'dot'\"); or use `shapley`, which may do without",
            )


def _block(a: Input, mask: NDArray[np.bool_], degree: int) -> Floats:
    """Functions of an input `[n, d]`, zero where it does not count, of mean 0 and variance 1 over all candidates."""
    n, held = len(mask), int(mask.sum())
    if held < 3:
        return np.zeros((n, 0))
    if a.codes is not None:
        raw = np.eye(int(a.codes.max()) + 1)[a.codes[mask]]
    else:
        assert a.ranks is not None
        raw = np.vander(2 * a.ranks[mask] - 1, degree + 1, increasing=True)[:, 1:]
    q, size, _ = np.linalg.svd(raw - raw.mean(0), full_matrices=False)
    q = q[:, size > 1e-9 * max(1.0, float(size.max(initial=0.0)))]
    out = np.zeros((n, q.shape[1]))
    out[mask] = q * math.sqrt(n)
    return out


def _regression(basis: Floats, y: Floats, weights: Floats, under: Floats) -> tuple[Floats, Floats]:
    """Squared coefficients of a regression on the functions, by resample `[r, d]`; and what is left of `y` `[n]`.

    A square is too large by the coefficient's variance (heteroscedastic: MacKinnon & White 1985, HC2), that of a resample
    by twice as much. The mean of a kind moves with the parameters that happened to be drawn under it (`under`, `[d, d]`).
    What is left of a candidate is held against the regression without it.
    """
    inverse = np.linalg.inv(basis.T @ basis)
    gram = np.einsum("rn,nd,ne->rde", weights, basis, basis, optimize=True)
    coefficients = np.linalg.solve(gram, ((weights * y) @ basis)[:, :, None])[:, :, 0]
    leverage = np.einsum("nd,de,ne->n", basis, inverse, basis)
    left = y - basis @ coefficients[0]
    drawn = np.einsum("rde,re->rd", gram * under, coefficients) / len(y)
    spread = ((basis @ inverse) ** 2 * (left**2 / (1 - leverage))[:, None]).sum(0) + (drawn[1:] ** 2).mean(0)
    often = np.where(np.arange(len(weights)) == 0, 1.0, 2.0)
    return (coefficients + drawn) ** 2 - often[:, None] * spread, left / (1 - leverage)


def _squares(products: Floats, weights: Floats) -> Floats:
    """Sum over functions of the squared coefficient, by resample: a candidate is never multiplied with itself.

    products: value times function `[n, d]`. weights: how often each candidate counts `[r, n]`.
    """
    total = (weights @ products) ** 2 - weights**2 @ products**2
    pairs = weights.sum(1) ** 2 - (weights**2).sum(1)
    return np.asarray(total.sum(1) / pairs)


def _variance(y: Floats, weights: Floats) -> Floats:
    """Unbiased variance by resample: half the mean squared distance of two different candidates."""
    y = y - y.mean()
    size = weights.sum(1)
    return np.asarray((size * (weights @ y**2) - (weights @ y) ** 2) / (size**2 - (weights**2).sum(1)))


def _tables(
    inputs: Sequence[Input],
    firsts: Sequence[Floats],
    pairs: dict[tuple[int, int], Floats],
    noise: float,
    n: int,
    level: float,
) -> Shares:
    zero = np.zeros_like(firsts[0])
    rows = []
    for i, a in enumerate(inputs):
        total = firsts[i] + sum((part for pair, part in pairs.items() if i in pair), zero)
        row = {"input": a.name, "group": a.group, "exists": float(a.exists.mean())}
        rows.append(row | _cells("first", firsts[i], level) | _cells("total", total, level))
    groups: dict[str, list[int]] = {}
    for i, a in enumerate(inputs):
        groups.setdefault(a.group, []).append(i)
    of_groups, of_pairs = [], []
    for name, mine in groups.items():
        first = sum((firsts[i] for i in mine), zero)
        first = first + sum((part for (i, j), part in pairs.items() if i in mine and j in mine), zero)
        total = first + sum((part for (i, j), part in pairs.items() if (i in mine) != (j in mine)), zero)
        of_groups.append({"group": name, **_cells("first", first, level), **_cells("total", total, level)})
    for (a_name, left), (b_name, right) in combinations(groups.items(), 2):
        parts = [part for (i, j), part in pairs.items() if (i in left and j in right) or (i in right and j in left)]
        if parts:
            cells = _cells("share", sum(parts, zero), level)
            names = {"share": "share", "share_low": "low", "share_high": "high"}
            of_pairs.append({"a": a_name, "b": b_name} | {names[k]: v for k, v in cells.items()})
    beyond = 1 - sum(firsts, zero) - sum(pairs.values(), zero)
    cells = _cells("x", beyond, level)
    return Shares(
        inputs=pd.DataFrame(rows),
        groups=pd.DataFrame(of_groups).sort_values("total", ascending=False, ignore_index=True),
        pairs=pd.DataFrame(of_pairs, columns=["a", "b", "share", "low", "high"]).sort_values(
            "share", ascending=False, ignore_index=True
        ),
        beyond=Interval(cells["x"], cells["x_low"], cells["x_high"], n, level, "bootstrap"),
        noise=noise,
        candidates=n,
    )


def _cells(name: str, draws: Floats, level: float) -> dict[str, Any]:
    """The estimate (the first) and the percentiles of the rest, cut to shares."""
    cut = np.clip(draws, 0.0, 1.0)
    low, high = np.quantile(cut[1:], [(1 - level) / 2, (1 + level) / 2])
    return {name: float(cut[0]), f"{name}_low": float(low), f"{name}_high": float(high)}
